variable "kind" {
  description = "What it is: a container, network or volume."
  type        = string

  validation {
    condition     = contains(["container", "network", "volume"], var.kind)
    error_message = "An object is a container, network or volume."
  }
}

variable "name" {
  description = "Name of the object, as docker knows it."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$", var.name))
    error_message = "A name has at most 63 letters, digits, dots, dashes and underscores."
  }
}

variable "labels" {
  description = "Labels of the object; fault scripts and clean-ups find it by these."
  type        = map(string)
}

variable "follows" {
  description = "What the object stands on, such as ids of others: when that is another, the object is made anew."
  type        = list(string)
  default     = []
}

variable "container" {
  description = <<-EOT
    Of a container: what to run, with the image's entry point unless another is named. `networks`: the first is where it
    starts, with the name that others there know it by. `volumes`: volume to path. `files`: file or folder of this machine to path, for
    reading. `config`: text that is kept in `file` on this machine and seen as /etc/meridian/config.toml. `wait_seconds`: how long it
    may take until it is healthy by its image's health check, 0 not to wait. `grace_seconds`: how long it may take to stop. Another of
    these two replaces nothing.
  EOT
  type = object({
    image         = string
    entrypoint    = optional(string)
    command       = list(string)
    environment   = optional(map(string), {})
    networks      = list(object({ name = string, alias = optional(string) }))
    ports         = optional(list(object({ address = string, host = number, container = number })), [])
    volumes       = optional(map(string), {})
    files         = optional(map(string), {})
    config        = optional(object({ file = string, text = string }))
    restart       = optional(string, "no")
    wait_seconds  = optional(number, 0)
    grace_seconds = optional(number, 0)
  })
  default = null

  validation {
    condition     = (var.kind == "container") == (var.container != null)
    error_message = "A container, and nothing else, says what to run."
  }

  validation {
    condition     = var.container == null || try(length(var.container.networks) > 0, false)
    error_message = "A container is in at least one network."
  }

  validation {
    condition     = var.container == null || !strcontains(try(join("", var.container.command), ""), "\n")
    error_message = "Arguments of a command hold no line breaks."
  }
}
