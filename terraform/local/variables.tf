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
        for service, count in region.workloads :
        can(regex("^[a-z0-9]([a-z0-9_-]{0,29}[a-z0-9])?$", service)) && count >= 0 && count <= 10 && floor(count) == count
      ]
    ]))
    error_message = "Workloads are a service's name of at most 31 characters, and 0 to 10 instances in each zone."
  }

  validation {
    condition = length(distinct(flatten([for name, region in var.regions : [for zone in region.zones : "${name}${zone}"]]))) == sum([
      for region in var.regions : length(region.zones)
    ])
    error_message = "A zone has one region: name and ending together come once."
  }

  validation {
    condition     = !contains(keys(var.regions), "between")
    error_message = "No region is called between: the network between regions has that name."
  }

  validation {
    condition = length(distinct(flatten([
      for name, region in var.regions : concat(
        ["${name}-node"],
        [for n in range(1, region.etcd_members + 1) : "${name}-etcd-${n}"],
        [for n in range(1, region.gateways + 1) : "${name}-gateway-${n}"],
        flatten([
          for zone in region.zones : [for service, count in region.workloads : [for n in range(1, count + 1) : "${name}${zone}-${service}-${n}"]]
        ]),
      )
      ]))) == sum([
      for region in var.regions : 1 + region.etcd_members + region.gateways + sum(concat([0], values(region.workloads))) * length(region.zones)
    ])
    error_message = "Two containers would have one name, such as the etcd of region east-1a and the workload etcd of zone a of region east-1."
  }
}

variable "port_offset" {
  description = "Added to the ports of all regions, so that a second copy can stand beside a first."
  type        = number
  default     = 0

  validation {
    condition = floor(var.port_offset) == var.port_offset && alltrue([
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
  description = "Folder of this machine for a folder of the project's name with keys, tokens and configurations; docker must be able to mount it. Default: .run beside this file."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^[^:\n\r]+$", var.directory == null ? abspath(path.root) : var.directory))
    error_message = "A folder has a name, without colons, which end a name for docker, and line breaks."
  }
}

variable "token_ttl" {
  description = "How long the tokens of workloads and of the operator are valid; a lease does not outlive its token."
  type        = string
  default     = "720h"

  validation {
    condition     = can(regex("^[1-9][0-9]{0,6}[smh]$", var.token_ttl))
    error_message = "A span is a whole number of at most seven digits and s, m or h."
  }
}

variable "lease" {
  description = "Lease of a workload without a heartbeat: how long a dead one is still given out at most."
  type        = string
  default     = "6s"

  validation {
    condition     = try(regex("^[1-9][0-9]{0,3}s$", var.lease) != "" && tonumber(trimsuffix(var.lease, "s")) >= 3 && tonumber(trimsuffix(var.lease, "s")) <= 3600, false)
    error_message = "A lease is whole seconds, 3s to 3600s."
  }
}

variable "settings" {
  description = "Further settings of all gateways and federation nodes: section to key to value, as in modules/region."
  type        = map(map(string))
  default     = {}
}

variable "wait_seconds" {
  description = "How long a container may take to get healthy before it is removed again and the apply fails; 0 waits for none."
  type        = number
  default     = 120

  validation {
    condition     = var.wait_seconds >= 0 && var.wait_seconds <= 3600 && floor(var.wait_seconds) == var.wait_seconds
    error_message = "A wait is 0 to 3600 whole seconds."
  }
}
