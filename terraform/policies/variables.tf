variable "gateway" {
  description = "URL of a gateway of the region; a binding holds in one region, so apply this once for each."
  type        = string

  validation {
    condition     = can(regex("^https?://[^/]+$", var.gateway))
    error_message = "A gateway is reached by http:// or https://, without a path."
  }
}

variable "token_file" {
  description = "File with a token of role operator. A destroy uses the one that was applied last."
  type        = string
}

variable "meridian" {
  description = "The meridian command."
  type        = string
  default     = "meridian"
}

variable "policy" {
  description = "Name of the policy: a standard one, or the name that the module is uploaded under."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$", var.policy))
    error_message = "A policy has a name of 1 to 63 lower-case letters, digits, dashes and underscores."
  }
}

variable "source_directory" {
  description = "Crate of the policy (`meridian policy new` makes one); it is built when its files change. Null where there is a module, or the policy is a standard one."
  type        = string
  default     = null

  validation {
    condition     = try(fileexists("${var.source_directory}/Cargo.toml"), var.source_directory == null)
    error_message = "The folder of a policy's source holds a Cargo.toml."
  }

  validation {
    condition     = var.source_directory == null || var.module_file == null
    error_message = "Either the source or the module is given."
  }
}

variable "module_file" {
  description = "Component that is already built, in place of a source."
  type        = string
  default     = null

  validation {
    condition     = try(fileexists(var.module_file), var.module_file == null)
    error_message = "The module is a file that exists."
  }
}

variable "signature_file" {
  description = "Signature of the module, as `meridian policy sign` writes it; a region may ask for one."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Namespace of the service."
  type        = string
  default     = "default"
}

variable "service" {
  description = "Service that the policy answers for, or _default for those of the namespace that have no binding of their own."
  type        = string
}

variable "zones" {
  description = "Zones of callers that it is tried for before it is bound; none means a caller without a zone."
  type        = list(string)
  default     = []
}

variable "config" {
  description = "What the policy is opened with: a JSON object."
  type        = string
  default     = "{}"

  validation {
    condition     = can(keys(jsondecode(var.config)))
    error_message = "A config is a JSON object."
  }
}

variable "stage" {
  description = "shadow (asked, answers nobody), canary (answers percent of the lookups) or active. From canary or shadow to active is a promotion, which is refused while it is not proven, as is another version or config than the candidate's."
  type        = string
  default     = "shadow"

  validation {
    condition     = contains(["shadow", "canary", "active"], var.stage)
    error_message = "A stage is shadow, canary or active."
  }
}

variable "percent" {
  description = "Of a canary: the part of the lookups that it answers, 0 to 100."
  type        = number
  default     = null

  validation {
    condition     = (var.stage == "canary") == (var.percent != null) && coalesce(var.percent, 0) >= 0 && coalesce(var.percent, 0) <= 100
    error_message = "A canary, and nothing else, has a percentage from 0 to 100."
  }
}

variable "regions" {
  description = "Regions that lookups may be answered from besides their own; null leaves them as they are. They belong to the whole binding, the active version included."
  type        = list(string)
  default     = null

  validation {
    condition     = var.regions == null || length(coalesce(var.regions, [])) > 0
    error_message = "At least one region is named, or null."
  }
}

variable "force" {
  description = "Promote against the evidence."
  type        = bool
  default     = false
}
