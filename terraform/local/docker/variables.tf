variable "name" {
  description = "Name of the container or network, as docker knows it."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$", var.name))
    error_message = "A name has at most 63 letters, digits, dots, dashes and underscores."
  }
}

variable "labels" {
  description = "Labels of the object and of its volumes; fault scripts and clean-ups find them by these."
  type        = map(string)
}

variable "container" {
  description = <<-EOT
    What to run, with the image's entry point unless another is named; null makes a network. `networks`: the first is where it
    starts, with the name that others there know it by. `volumes`: volume to path, made empty and removed with the container. `files`: file
    or folder of this machine to path, for reading. `config`: text that is kept in `file` on this machine and seen as
    /etc/meridian/config.toml. `wait_seconds`: how long it may take until it is healthy by its image's health check, 0 not to wait.
    `grace_seconds`: how long it may take to stop.
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
    condition     = var.container == null || try(length(var.container.networks) > 0, false)
    error_message = "A container is in at least one network."
  }

  validation {
    condition     = var.container == null || !strcontains(try(join("", var.container.command), ""), "\n")
    error_message = "Arguments of a command hold no line breaks."
  }
}
