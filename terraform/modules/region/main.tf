# What a region is, as data: the configuration of each of its processes, and what to upload. It makes nothing.

terraform {
  required_version = ">= 1.9"
}

locals {
  # Text of JSON is text of TOML, but for the escapes that only JSON has; jsonencode writes none of those.
  section = {
    region     = var.region
    zones      = var.zones
    registry   = var.registry
    http       = var.http
    federation = var.federation
    identity   = var.identity
    peers      = var.peers
    ingress    = var.ingress
    data_dir   = var.data_dir
    node_urls  = [for name in sort(keys(var.nodes)) : var.nodes[name].url]
    settings = {
      for name, section in var.settings : name => {
        for key, value in section : key => can(regex("^(true|false|-?[0-9]+(\\.[0-9]+)?|\\[.*\\])$", value)) ? value : jsonencode(value)
      }
    }
  }

  gateway_configs = {
    for name in keys(var.gateways) : name => templatefile("${path.module}/templates/gateway.toml.tftpl", merge(local.section, { name = name }))
  }

  node_configs = {
    for name, node in var.nodes : name => templatefile("${path.module}/templates/federation.toml.tftpl", merge(local.section, {
      others = [for other in sort(keys(var.nodes)) : var.nodes[other].url if other != name]
    }))
  }
}
