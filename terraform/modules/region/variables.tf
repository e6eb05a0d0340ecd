variable "region" {
  description = "Name of the region, such as ap-south-1."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$", var.region))
    error_message = "A region has a name of 1 to 63 lower-case letters, digits, dashes and underscores, with a letter or digit at both ends."
  }
}

variable "zones" {
  description = "Zones of the region; an instance registers in one of them."
  type        = list(string)

  validation {
    condition     = length(var.zones) > 0 && length(distinct(var.zones)) == length(var.zones)
    error_message = "A region has at least one zone, and none twice."
  }

  validation {
    condition     = alltrue([for zone in var.zones : can(regex("^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$", zone))])
    error_message = "A zone has a name of 1 to 63 lower-case letters, digits, dashes and underscores, with a letter or digit at both ends."
  }
}

variable "registry" {
  description = "The region's etcd: client URLs, the prefix of all keys, its user (whose password processes take from MERIDIAN__REGISTRY__PASSWORD), how often memory is compared with it, and for https the files, as the processes see them, of who signed its certificate and of the own one."
  type = object({
    endpoints     = list(string)
    prefix        = optional(string, "/meridian")
    username      = optional(string)
    compare_every = optional(string)
    tls           = optional(object({ ca = string, certificate = optional(string), key = optional(string) }))
  })

  validation {
    condition = length(var.registry.endpoints) > 0 && (
      alltrue([for url in var.registry.endpoints : can(regex("^http://[^/]+$", url))]) ||
      alltrue([for url in var.registry.endpoints : can(regex("^https://[^/]+$", url))])
    )
    error_message = "etcd is reached at one or more URLs without a path, all http:// or all https://."
  }

  validation {
    condition     = startswith(var.registry.prefix, "/") && !endswith(var.registry.prefix, "/")
    error_message = "The prefix of keys begins with a slash and does not end with one."
  }
}

variable "gateways" {
  description = "Gateways of the region by name, each with the URL at which its callers reach it."
  type        = map(object({ url = string }))

  validation {
    condition     = length(var.gateways) > 0 && alltrue([for gateway in var.gateways : can(regex("^https?://[^/]+$", gateway.url))])
    error_message = "A region has at least one gateway, each with a URL such as https://gateway-1.example:8500."
  }
}

variable "nodes" {
  description = "Federation nodes of the region by name, each with the URL at which other regions' nodes and the own gateways reach it. Two are recommended; a region by itself has none."
  type        = map(object({ url = string }))
  default     = {}

  validation {
    condition     = alltrue([for node in var.nodes : can(regex("^https://[^/]+$", node.url))])
    error_message = "A federation node is reached by https:// only."
  }
}

variable "peers" {
  description = "Other regions, each with the URLs of all of its federation nodes."
  type        = map(list(string))
  default     = {}

  validation {
    condition     = alltrue(flatten([for urls in values(var.peers) : [length(urls) > 0, [for url in urls : can(regex("^https://[^/]+$", url))]]]))
    error_message = "A peer has at least one node, reached by https://."
  }

  validation {
    condition     = !contains(keys(var.peers), var.region)
    error_message = "A region is no peer of itself: its own nodes are in nodes."
  }

  validation {
    condition     = (length(var.peers) == 0) == (length(var.nodes) == 0)
    error_message = "A region that has peers needs federation nodes, and nodes need peers."
  }
}

variable "ingress" {
  description = "Where the region takes traffic for services of which other regions know only a sample of endpoints."
  type        = list(object({ host = string, port = number }))
  default     = []

  validation {
    condition     = length(var.ingress) <= 16 && alltrue([for i in var.ingress : i.port >= 1 && i.port <= 65535])
    error_message = "There are at most 16 ingress addresses, with ports from 1 to 65535."
  }
}

variable "http" {
  description = "What gateways listen on, who may look up (open, or token), their threads and most connections, and either the files of TLS, as the processes see them, or the word that there is none."
  type = object({
    listen          = optional(string, "0.0.0.0:8500")
    reads           = optional(string, "token")
    plaintext       = optional(bool, false)
    workers         = optional(number)
    max_connections = optional(number)
    tls             = optional(object({ certificate = string, key = string, client_ca = optional(string) }))
  })
  default = {}

  validation {
    condition     = contains(["open", "token"], var.http.reads)
    error_message = "Reads are open or need a token."
  }

  validation {
    condition     = var.http.plaintext != (var.http.tls != null) || startswith(var.http.listen, "127.")
    error_message = "Beyond loopback, a gateway has either tls or plaintext = true."
  }
}

variable "federation" {
  description = "What federation nodes listen on, where they show their status, and the files of their and of the gateways' certificates, as the processes see them."
  type = object({
    listen = optional(string, "0.0.0.0:8510")
    status = optional(string, "127.0.0.1:8511")
    # That status may be on an address that is not loopback: it has no TLS.
    status_plaintext = optional(bool, false)
    tls = optional(object({
      certificate = optional(string, "/etc/meridian/tls/certificate.pem")
      key         = optional(string, "/etc/meridian/tls/key.pem")
      ca          = optional(string, "/etc/meridian/tls/ca.pem")
    }), {})
  })
  default = {}
}

variable "data_dir" {
  description = "Where a process keeps what has to survive it."
  type        = string
  default     = "/var/lib/meridian"
}

variable "identity" {
  description = "Whose tokens are taken (issuers) and what they may do (rules; the first that matches gives the role)."
  type = object({
    issuers = list(object({
      issuer        = string
      audience      = list(string)
      jwks_file     = string
      algorithms    = optional(list(string), ["ES256", "RS256"])
      keep_keys_for = optional(string, "24h")
    }))
    rules = list(object({
      issuer    = string
      role      = string
      subject   = optional(string)
      claims    = optional(map(string))
      namespace = optional(string)
      service   = optional(string)
      zone      = optional(string)
      instance  = optional(string)
    }))
  })

  validation {
    condition     = alltrue([for rule in var.identity.rules : contains(["workload", "operator", "reader"], rule.role)])
    error_message = "A role is workload, operator or reader."
  }

  validation {
    condition = alltrue([
      for rule in var.identity.rules : contains([for issuer in var.identity.issuers : issuer.issuer], rule.issuer)
    ])
    error_message = "Every rule names one of the issuers."
  }

  validation {
    condition = alltrue([
      for rule in var.identity.rules : rule.role != "workload" || alltrue([
        for name in ["namespace", "service"] : rule[name] != null || strcontains(coalesce(rule.subject, "-"), "{${name}}")
      ])
    ])
    error_message = "A rule for workloads binds namespace and service: by {namespace} and {service} in subject, or by a literal, if need be \"*\"."
  }

  validation {
    condition     = alltrue([for rule in var.identity.rules : rule.subject != null || try(length(rule.claims), 0) > 0])
    error_message = "A rule without subject and claims would take every token of its issuer."
  }
}

variable "policies" {
  description = "Policies to upload: name to the file of the component, as `meridian policy build` writes it."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for file in values(var.policies) : fileexists(file)])
    error_message = "Every policy is a file that exists; `meridian policy build` makes it."
  }
}

variable "bindings" {
  description = "Which policy answers for which service, or for the whole namespace under _default: the key is `namespace/service`."
  type = map(object({
    policy           = string
    config           = optional(string, "{}")
    stage            = optional(string, "active")
    percent          = optional(number)
    regions          = optional(list(string))
    max_remote_share = optional(number, 1)
    caller_labels    = optional(list(string), [])
  }))
  default = {}

  validation {
    condition     = alltrue([for place in keys(var.bindings) : can(regex("^[a-z0-9][a-z0-9_-]*/[a-z0-9_][a-z0-9_-]*$", place))])
    error_message = "A binding stands under namespace/service, or namespace/_default."
  }

  validation {
    condition = alltrue([
      for binding in values(var.bindings) : can(jsondecode(binding.config)) && contains(["active", "shadow", "canary"], binding.stage) &&
      (binding.stage == "canary") == (binding.percent != null) && coalesce(binding.percent, 0) >= 0 && coalesce(binding.percent, 0) <= 100
    ])
    error_message = "A binding has a config that is JSON, a stage that is active, shadow or canary, and a percent from 0 to 100 exactly as a canary."
  }

  validation {
    condition     = alltrue([for binding in values(var.bindings) : binding.max_remote_share >= 0 && binding.max_remote_share <= 1])
    error_message = "max_remote_share is from 0 to 1."
  }
}

variable "settings" {
  description = "Further settings of all processes: section to key to value, such as { lookups = { max_remote_age = \"30m\" } }. true, false, numbers and lists are written as such, all else as text."
  type        = map(map(string))
  default     = {}

  validation {
    condition     = length(setintersection(keys(var.settings), ["registry", "http", "identity", "federation"])) == 0
    error_message = "registry, http, identity and federation have variables of their own."
  }
}
