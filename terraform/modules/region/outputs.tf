output "region" {
  description = "Name of the region."
  value       = var.region
}

output "zones" {
  description = "Zones of the region."
  value       = var.zones
}

output "gateway_configs" {
  description = "Configuration file of each gateway (TOML), by its name."
  value       = local.gateway_configs
}

output "node_configs" {
  description = "Configuration file of each federation node (TOML), by its name."
  value       = local.node_configs
}

output "gateway_urls" {
  description = "URLs at which callers reach the gateways, by name."
  value       = { for name, gateway in var.gateways : name => gateway.url }
}

output "node_urls" {
  description = "URLs of the federation nodes: what other regions give as peers."
  value       = local.section.node_urls
}

output "certificate_names" {
  description = "What the one URI name of each process's federation certificate has to end with after spiffe://DOMAIN, by name."
  value = merge(
    { for name in keys(var.gateways) : name => "/region/${var.region}/gateway/${name}" },
    { for name in keys(var.nodes) : name => "/region/${var.region}/node/${name}" },
  )
}

output "policies" {
  description = "Policies to upload: name to file and sha256 of the file, which is its version."
  value       = { for name, file in var.policies : name => { file = file, version = "sha256:${filesha256(file)}" } }
}

output "bindings" {
  description = "Bindings to upload: the path of the API to the body (JSON) that is PUT there by an operator."
  value = {
    for place, binding in var.bindings : format("/v1/namespaces/%s/bindings/%s", split("/", place)...) => jsonencode(merge(
      {
        policy       = binding.policy
        config       = jsondecode(binding.config)
        stage        = binding.stage
        callerLabels = binding.caller_labels
        limits = {
          regions        = jsondecode(binding.regions == null ? "\"all\"" : jsonencode(binding.regions))
          maxRemoteShare = binding.max_remote_share
        }
      },
      binding.percent == null ? {} : { percent = binding.percent },
      contains(keys(var.policies), binding.policy) ? { version = "sha256:${filesha256(var.policies[binding.policy])}" } : {},
    ))
  }
}
