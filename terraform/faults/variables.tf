variable "fault" {
  description = "What to break: cut, cut-in, cut-out, slow, etcd-majority, pause-node, drain (`./fault` says what each is), or none."
  type        = string
  default     = "none"

  validation {
    condition     = contains(["none", "cut", "cut-in", "cut-out", "slow", "etcd-majority", "pause-node", "drain"], var.fault)
    error_message = "A fault is none, cut, cut-in, cut-out, slow, etcd-majority, pause-node or drain."
  }
}

variable "region" {
  description = "Region to break."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$", var.region))
    error_message = "A region has a name of lower-case letters, digits and dashes."
  }
}

variable "project" {
  description = "The project of terraform/local."
  type        = string
  default     = "meridian"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,19}$", var.project))
    error_message = "A project has a name of 1 to 20 lower-case letters, digits and dashes that begins with a letter."
  }
}

variable "faults_image" {
  description = "Image with iptables, ip and tc, as terraform/images/build makes it."
  type        = string
  default     = "meridian-faults:dev"
}

variable "delay" {
  description = "Of slow: how much longer everything takes, where the kernel has netem."
  type        = string
  default     = "150ms"

  validation {
    condition     = can(regex("^[1-9][0-9]*ms$", var.delay))
    error_message = "A delay is whole milliseconds, such as 150ms."
  }
}

variable "rate" {
  description = "Of slow, where the kernel has no netem: how wide the line is."
  type        = string
  default     = "128kbit"

  validation {
    condition     = can(regex("^[1-9][0-9]*[km]bit$", var.rate))
    error_message = "A rate is a whole number of kbit or mbit."
  }
}

variable "token_file" {
  description = "Of drain: file with a token of role operator. Default: that of terraform/local."
  type        = string
  default     = null
}
