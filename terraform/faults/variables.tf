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
  description = "Image of the tools that faults need, as terraform/images/build makes it."
  type        = string
  default     = "meridian-faults:dev"
}

variable "delay" {
  description = "Of slow: how much longer a round trip takes, half of it on each way."
  type        = string
  default     = "150ms"

  validation {
    condition     = can(regex("^[1-9][0-9]{0,4}ms$", var.delay))
    error_message = "A delay is whole milliseconds below 100 s, such as 150ms."
  }
}

variable "jitter" {
  description = "Of slow: by how much a round trip takes longer or shorter than the delay."
  type        = string
  default     = "10ms"

  validation {
    condition     = can(regex("^[0-9]{1,5}ms$", var.jitter))
    error_message = "A jitter is whole milliseconds, such as 10ms."
  }
}

variable "token_file" {
  description = "Of drain: file with a token of role operator. Default: that of terraform/local."
  type        = string
  default     = null
}
