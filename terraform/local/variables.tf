variable "project" {
  description = "Name of this copy: the prefix of every container, network and volume, and the value of their label meridian.project."
  type        = string
  default     = "meridian"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,19}$", var.project))
    error_message = "A project has a name of 1 to 20 lower-case letters, digits and dashes that begins with a letter."
  }
}

variable "regions" {
  description = <<-EOT
    The regions by name. `port`: the first gateway is published on this port of loopback, the second on the next; instances of workloads from ten
    above, ten places for each service in the order of their names, and a port for each zone in a place. `zones`: the name of the region with these
    endings. `etcd_members`: 1 or 3. `gateways`: how many. `workloads`: service to the number of its instances in each zone.
  EOT
  type = map(object({
    port         = number
    zones        = optional(list(string), ["a", "b"])
    etcd_members = optional(number, 3)
    gateways     = optional(number, 2)
    workloads    = optional(map(number), { orders-api = 1 })
  }))
  default = {
    ap-south-1 = { port = 28500 }
    eu-west-1  = { port = 28600, etcd_members = 1 }
    us-east-1  = { port = 28700, etcd_members = 1 }
  }

  validation {
    condition     = length(var.regions) > 0 && alltrue([for name in keys(var.regions) : can(regex("^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$", name))])
    error_message = "There is at least one region; their names have 1 to 20 lower-case letters, digits and dashes."
  }

  validation {
    condition     = alltrue([for region in var.regions : contains([1, 3], region.etcd_members)])
    error_message = "A region has 1 or 3 members of etcd: two are no safer than one."
  }

  validation {
    condition     = alltrue([for region in var.regions : region.gateways >= 1 && region.gateways <= 5 && floor(region.gateways) == region.gateways])
    error_message = "A region has 1 to 5 gateways."
  }

  validation {
    condition = alltrue([
      for region in var.regions :
      region.port >= 1024 && region.port + 9 + 10 * length(region.workloads) * length(region.zones) <= 65535 && floor(region.port) == region.port
    ])
    error_message = "Ports are from 1024 to 65535, those of workloads included."
  }

  validation {
    condition = length(distinct(flatten([
      for region in var.regions : [
        range(region.port, region.port + region.gateways), [
          for place, service in sort(keys(region.workloads)) :
          range(region.port + 10 + 10 * place * length(region.zones), region.port + 10 + (10 * place + region.workloads[service]) * length(region.zones))
        ]
      ]
      ]))) == sum([
      for region in var.regions : region.gateways + sum(concat([0], values(region.workloads))) * length(region.zones)
    ])
    error_message = "Two gateways or workloads would share a port: set the regions' ports further apart."
  }

  validation {
    condition = alltrue([
      for region in var.regions : length(region.zones) > 0 && alltrue([for zone in region.zones : can(regex("^[a-z0-9]{1,4}$", zone))])
    ])
    error_message = "A region has at least one zone, each an ending of 1 to 4 letters and digits."
  }

  validation {
    condition     = alltrue([for region in var.regions : !contains(keys(region.workloads), "operator")])
    error_message = "No service is called operator here: the operator's token has that name."
  }

  validation {
    condition = alltrue(flatten([
      for region in var.regions : [
        for service, count in region.workloads : can(regex("^[a-z0-9]([a-z0-9_-]{0,29}[a-z0-9])?$", service)) && count >= 0 && count <= 10
      ]
    ]))
    error_message = "Workloads are a service's name of at most 31 characters, and 0 to 10 instances in each zone."
  }
}

variable "port_offset" {
  description = "Added to the ports of all regions, so that a second copy can stand beside a first."
  type        = number
  default     = 0

  validation {
    condition = alltrue([
      for region in var.regions :
      region.port + var.port_offset >= 1024 && region.port + var.port_offset + 9 + 10 * length(region.workloads) * length(region.zones) <= 65535
    ])
    error_message = "Ports are from 1024 to 65535 with the offset, too."
  }
}

variable "image" {
  description = "Image of meridian, as terraform/images/build makes it."
  type        = string
  default     = "meridian:dev"
}

variable "etcd_image" {
  description = "Image of etcd: the one that terraform/images/build makes, or a public one."
  type        = string
  default     = "meridian-etcd:dev"
}

variable "etcd_entrypoint" {
  description = "Program to start of etcd_image, where its own entry point is not etcd: of quay.io/coreos/etcd that is /usr/local/bin/etcd."
  type        = string
  default     = null
}

variable "workload_image" {
  description = "Image of the demo workloads, as terraform/images/build makes it."
  type        = string
  default     = "meridian-workload:dev"
}

variable "directory" {
  description = "Folder of this machine for keys, tokens and configurations; it must be one that docker can mount. Default: .run beside this file."
  type        = string
  default     = null
}

variable "token_ttl" {
  description = "How long the tokens of workloads and of the operator are valid; a lease does not outlive its token."
  type        = string
  default     = "720h"

  validation {
    condition     = can(regex("^[1-9][0-9]*[smh]$", var.token_ttl))
    error_message = "A span is a whole number and s, m or h."
  }
}

variable "lease" {
  description = "Lease of a workload without a heartbeat: how long a dead one is still given out at most."
  type        = string
  default     = "6s"

  validation {
    condition     = can(regex("^[1-9][0-9]*s$", var.lease)) && tonumber(trimsuffix(var.lease, "s")) >= 3
    error_message = "A lease is whole seconds, 3s or longer."
  }
}

variable "settings" {
  description = "Further settings of all gateways and federation nodes: section to key to value, as in modules/region."
  type        = map(map(string))
  default     = {}
}

variable "wait_seconds" {
  description = "How long a container may take to get healthy before it is removed again and the apply fails."
  type        = number
  default     = 120
}
