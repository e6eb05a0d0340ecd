output "project" {
  description = "Name of this copy, which terraform/faults asks for."
  value       = var.project
}

output "gateways" {
  description = "URLs of each region's gateways on this machine."
  value       = { for name, region in module.region : name => [for gateway in sort(keys(region.gateway_urls)) : region.gateway_urls[gateway]] }
}

output "operator_token_file" {
  description = "File with a token of role operator, for binding policies and draining."
  value       = "${local.directory}/tokens/operator"
}

output "token_files" {
  description = "Files with tokens of role workload, by service."
  value       = { for service in local.services : service => "${local.directory}/tokens/${service}" }
}

output "issuer_key" {
  description = "Key of the issuer that all regions trust; `meridian token mint --key` makes further tokens with it."
  value       = "${local.directory}/issuer/issuer.key"
}

output "instances" {
  description = "Instances that run, by region and service."
  value = {
    for name, region in var.regions : name => {
      for service in keys(region.workloads) : service => [for id, w in local.workloads : id if w.region == name && w.service == service]
    }
  }
}

output "workload_urls" {
  description = "URLs of the instances on this machine, by instance: what lookups give."
  value       = { for id, workload in local.workloads : id => "http://127.0.0.1:${workload.port}" }
}

output "containers" {
  description = "How many containers there are, by what they run."
  value = {
    etcd     = length(module.etcd)
    node     = length(module.node)
    gateway  = length(module.gateway)
    workload = length(module.workload)
  }
}

output "objects" {
  description = "Everything that was made of docker, by kind and name, with an id that is another once it is made anew."
  value = merge(
    { "network ${module.between.name}" = module.between.id },
    { for network in module.network : "network ${network.name}" => network.id },
    { for volume in module.volume : "volume ${volume.name}" => volume.id },
    { for container in concat(values(module.etcd), values(module.node), values(module.gateway), values(module.workload)) : "container ${container.name}" => container.id },
  )
}
