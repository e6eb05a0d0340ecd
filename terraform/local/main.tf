# Regions on the docker daemon of this machine: a network for each and one between them, etcd, gateways, a federation node
# and workloads that beat. Nothing here needs a provider that has to be downloaded.

terraform {
  required_version = ">= 1.9"
}

locals {
  directory = abspath("${var.directory == null ? "${path.root}/.run" : var.directory}/${var.project}")
  labels    = { "meridian.project" = var.project }
  zones     = { for name, region in var.regions : name => [for zone in region.zones : "${name}${zone}"] }

  # A region by itself has nobody to tell.
  nodes = { for name, region in var.regions : name => region if length(var.regions) > 1 }

  members = merge([
    for name, region in var.regions : {
      for n in range(1, region.etcd_members + 1) : "${name}-etcd-${n}" => { region = name, n = n }
    }
  ]...)
  gateways = merge([
    for name, region in var.regions : {
      for n in range(1, region.gateways + 1) : "${name}-gateway-${n}" => { region = name, port = region.port + var.port_offset + n - 1 }
    }
  ]...)
  # Each has the port that follows from its service's place among the region's, its zone and its number, and from no other's count.
  workloads = merge(flatten([
    for name, region in var.regions : [
      for service, count in region.workloads : [
        for z, zone in local.zones[name] : {
          for n in range(1, count + 1) : "${zone}-${service}-${n}" => {
            region  = name
            zone    = zone
            service = service
            port = (
              region.port + var.port_offset + 10 +
              (index(sort(keys(region.workloads)), service) * 10 + n - 1) * length(region.zones) + z
            )
          }
        }
      ]
    ]
  ])...)
  # What etcd knows of its cluster is in its volume, which outlives containers but not that cluster.
  clusters = {
    for name in keys(var.regions) : name => join(",", [
      for member, of in local.members : "${member}=http://${var.project}-${member}:2380" if of.region == name
    ])
  }
  volumes = merge(
    { for name, member in local.members : name => { region = member.region, follows = [local.clusters[member.region]] } },
    { for name in keys(local.nodes) : "${name}-node" => { region = name, follows = [] } },
    { for name, gateway in local.gateways : name => { region = gateway.region, follows = [] } },
  )
  services = toset(flatten([for region in var.regions : keys(region.workloads)]))

  issuer = "https://dev.meridian"
}

module "region" {
  source   = "../modules/region"
  for_each = var.regions

  region   = each.key
  zones    = local.zones[each.key]
  registry = { endpoints = [for n in range(1, each.value.etcd_members + 1) : "http://${var.project}-${each.key}-etcd-${n}:2379"] }
  gateways = {
    for name, gateway in local.gateways : name => { url = "http://127.0.0.1:${gateway.port}" } if gateway.region == each.key
  }
  nodes    = { for name in keys(local.nodes) : "${name}-node" => { url = "https://${var.project}-${name}-node:8510" } if name == each.key }
  peers    = { for name in keys(var.regions) : name => ["https://${var.project}-${name}-node:8510"] if name != each.key }
  http     = { reads = "open", plaintext = true, workers = 1 }
  settings = var.settings
  identity = {
    issuers = [{ issuer = local.issuer, audience = ["meridian"], jwks_file = "/etc/meridian/issuer.jwks", algorithms = ["ES256"] }]
    rules = [
      { issuer = local.issuer, role = "operator", claims = { groups = "operator" } },
      { issuer = local.issuer, role = "reader", claims = { groups = "reader" } },
      { issuer = local.issuer, role = "workload", subject = "spiffe://dev.meridian/ns/{namespace}/sa/{service}" },
    ]
  }
}

# ---- keys ----

# Where they are. It makes nothing itself, so that its end always comes.
resource "terraform_data" "folder" {
  triggers_replace = { DIRECTORY = local.directory }

  provisioner "local-exec" {
    when        = destroy
    command     = "\"$KEYS\" end"
    environment = merge(self.triggers_replace, { OWNER = self.id, KEYS = "${path.module}/keys" })
    quiet       = true
  }
}

resource "terraform_data" "keys" {
  triggers_replace = { DIRECTORY = local.directory, OWNER = terraform_data.folder.id }

  provisioner "local-exec" {
    command     = "\"$KEYS\" begin"
    environment = merge(self.triggers_replace, { IMAGE = var.image, KEYS = "${path.module}/keys" })
    quiet       = true
  }
}

resource "terraform_data" "certificate" {
  for_each = merge([for region in module.region : region.certificate_names]...)

  triggers_replace = { DIRECTORY = local.directory, NAME = each.key, URI = "spiffe://local.meridian${each.value}", AUTHORITY = terraform_data.keys.id }

  provisioner "local-exec" {
    command     = "\"$KEYS\" certificate"
    environment = merge(self.triggers_replace, { KEYS = "${path.module}/keys" })
    quiet       = true
  }
}

resource "terraform_data" "token" {
  for_each = setunion(local.services, ["operator"])

  triggers_replace = { DIRECTORY = local.directory, NAME = each.key, TTL = var.token_ttl, ISSUER = terraform_data.keys.id }

  provisioner "local-exec" {
    command     = "\"$KEYS\" token"
    environment = merge(self.triggers_replace, { IMAGE = var.image, KEYS = "${path.module}/keys" })
    quiet       = true
  }
}

# ---- networks and volumes ----

module "between" {
  source = "./docker"

  kind   = "network"
  name   = "${var.project}-between"
  labels = merge(local.labels, { "meridian.role" = "between" })
}

module "network" {
  source   = "./docker"
  for_each = var.regions

  kind   = "network"
  name   = "${var.project}-${each.key}"
  labels = merge(local.labels, { "meridian.role" = "network", "meridian.region" = each.key })
}

module "volume" {
  source   = "./docker"
  for_each = local.volumes

  kind    = "volume"
  name    = "${var.project}-${each.key}"
  labels  = merge(local.labels, { "meridian.role" = "volume", "meridian.region" = each.value.region })
  follows = each.value.follows
}

# ---- processes ----

module "etcd" {
  source   = "./docker"
  for_each = local.members

  kind    = "container"
  name    = "${var.project}-${each.key}"
  labels  = merge(local.labels, { "meridian.role" = "etcd", "meridian.region" = each.value.region })
  follows = [module.network[each.value.region].id, module.volume[each.key].id]
  container = {
    image      = var.etcd_image
    entrypoint = var.etcd_entrypoint
    networks   = [{ name = module.network[each.value.region].name }]
    volumes    = { (module.volume[each.key].name) = "/var/lib/etcd" }
    command = [
      "--name=${each.key}", "--data-dir=/var/lib/etcd", "--log-level=warn",
      "--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=http://${var.project}-${each.key}:2379",
      "--listen-peer-urls=http://0.0.0.0:2380", "--initial-advertise-peer-urls=http://${var.project}-${each.key}:2380",
      "--initial-cluster=${local.clusters[each.value.region]}",
      "--initial-cluster-token=${var.project}-${each.value.region}",
      # Heartbeats are written twice a second by each gateway; revisions nobody asks for are dropped.
      "--auto-compaction-mode=periodic", "--auto-compaction-retention=10m",
    ]
  }
}

module "node" {
  source     = "./docker"
  for_each   = local.nodes
  depends_on = [module.etcd, terraform_data.certificate]

  kind    = "container"
  name    = "${var.project}-${each.key}-node"
  labels  = merge(local.labels, { "meridian.role" = "node", "meridian.region" = each.key })
  follows = [module.between.id, module.network[each.key].id, module.volume["${each.key}-node"].id, terraform_data.keys.id]
  container = {
    image         = var.image
    networks      = [{ name = module.between.name }, { name = module.network[each.key].name }]
    volumes       = { (module.volume["${each.key}-node"].name) = "/var/lib/meridian" }
    files         = { "${local.directory}/certificates/${each.key}-node" = "/etc/meridian/tls" }
    environment   = { MERIDIAN_GATEWAY = "http://127.0.0.1:8511" }
    command       = ["federation", "--config", "/etc/meridian/config.toml"]
    config        = { file = "${local.directory}/configs/${each.key}-node.toml", text = module.region[each.key].node_configs["${each.key}-node"] }
    wait_seconds  = var.wait_seconds
    grace_seconds = 5
  }
}

module "gateway" {
  source     = "./docker"
  for_each   = local.gateways
  depends_on = [module.etcd, terraform_data.certificate]

  kind    = "container"
  name    = "${var.project}-${each.key}"
  labels  = merge(local.labels, { "meridian.role" = "gateway", "meridian.region" = each.value.region })
  follows = [module.network[each.value.region].id, module.volume[each.key].id, terraform_data.keys.id]
  container = {
    image = var.image
    # Workloads ask for `gateway` and are given all of their region's.
    networks      = [{ name = module.network[each.value.region].name, alias = "gateway" }]
    ports         = [{ address = "127.0.0.1", host = each.value.port, container = 8500 }]
    volumes       = { (module.volume[each.key].name) = "/var/lib/meridian" }
    files         = { "${local.directory}/certificates/${each.key}" = "/etc/meridian/tls", "${local.directory}/issuer.jwks" = "/etc/meridian/issuer.jwks" }
    command       = ["gateway", "--config", "/etc/meridian/config.toml"]
    config        = { file = "${local.directory}/configs/${each.key}.toml", text = module.region[each.value.region].gateway_configs[each.key] }
    wait_seconds  = var.wait_seconds
    grace_seconds = 5
  }
}

module "workload" {
  source     = "./docker"
  for_each   = local.workloads
  depends_on = [module.gateway, terraform_data.token]

  kind    = "container"
  name    = "${var.project}-${each.key}"
  follows = [module.network[each.value.region].id, terraform_data.keys.id]
  labels  = merge(local.labels, { "meridian.role" = "workload", "meridian.region" = each.value.region, "meridian.service" = each.value.service })
  container = {
    image    = var.workload_image
    networks = [{ name = module.network[each.value.region].name }]
    ports    = [{ address = "127.0.0.1", host = each.value.port, container = 8080 }]
    files    = { "${local.directory}/tokens/${each.value.service}" = "/etc/meridian/token" }
    environment = {
      MERIDIAN_GATEWAY = "http://gateway:8500", SERVICE = each.value.service, INSTANCE = each.key, ZONE = each.value.zone,
      REGION           = each.value.region
    }
    # Registered under the address at which this machine reaches it, as callers of the gateways' ports are there.
    command       = ["--host", "127.0.0.1", "--port", tostring(each.value.port), "--ttl", var.lease, "--token-file", "/etc/meridian/token"]
    restart       = "on-failure:10"
    wait_seconds  = var.wait_seconds
    grace_seconds = 5
  }
}
