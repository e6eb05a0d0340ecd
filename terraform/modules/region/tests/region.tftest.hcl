# What is refused before anything is planned, and what a region comes to as data.

variables {
  region   = "ap-south-1"
  zones    = ["ap-south-1a", "ap-south-1b"]
  registry = { endpoints = ["http://etcd-1:2379", "http://etcd-2:2379"], username = "meridian", compare_every = "1m" }
  gateways = { gateway-1 = { url = "https://gateway-1.example:8500" }, gateway-2 = { url = "https://gateway-2.example:8500" } }
  nodes    = { node-1 = { url = "https://node-1.example:8510" }, node-2 = { url = "https://node-2.example:8510" } }
  peers    = { eu-west-1 = ["https://node.eu.example:8510"] }
  ingress  = [{ host = "edge.example", port = 443 }]
  http     = { max_connections = 2000, tls = { certificate = "/etc/meridian/http.pem", key = "/etc/meridian/http.key" } }
  identity = {
    issuers = [{ issuer = "https://id.example", audience = ["meridian"], jwks_file = "/etc/meridian/id.jwks" }]
    rules = [
      { issuer = "https://id.example", role = "operator", claims = { groups = "plat\"form" } },
      { issuer = "https://id.example", role = "workload", subject = "spiffe://example/ns/{namespace}/sa/{service}" },
    ]
  }
  bindings = {
    "default/orders-api" = { policy = "canary", config = "{\"percent\": 20}", stage = "canary", percent = 5, regions = ["eu-west-1"] }
    "default/_default"   = { policy = "zone-fallback" }
  }
  settings = { lookups = { max_remote_age = "30m", router_cache_mib = "32" }, policies = { max_shift = "0.25" } }
}

run "a_region_is_data" {
  command = plan

  assert {
    condition     = length(output.gateway_configs) == 2 && length(output.node_configs) == 2
    error_message = "each process has a configuration"
  }
  assert {
    condition     = strcontains(output.gateway_configs["gateway-1"], "gateway_id = \"gateway-1\"\n")
    error_message = "a gateway has its own name"
  }
  assert {
    condition     = strcontains(output.gateway_configs["gateway-2"], "nodes = [\"https://node-1.example:8510\",\"https://node-2.example:8510\"]\n")
    error_message = "a gateway subscribes to its own region's nodes"
  }
  assert {
    condition     = strcontains(output.node_configs["node-1"], "{ region = \"eu-west-1\", urls = [\"https://node.eu.example:8510\"] },\n  { region = \"ap-south-1\", urls = [\"https://node-2.example:8510\"] },\n")
    error_message = "a node has the other regions, and the other nodes of its own, as peers"
  }
  assert {
    condition     = strcontains(output.gateway_configs["gateway-1"], "claims = { \"groups\" = \"plat\\\"form\" }")
    error_message = "text is quoted"
  }
  assert {
    condition     = strcontains(output.gateway_configs["gateway-1"], "[lookups]\nmax_remote_age = \"30m\"\nrouter_cache_mib = 32\n") && strcontains(output.node_configs["node-1"], "max_shift = 0.25\n")
    error_message = "settings are written as text or as numbers"
  }
  assert {
    condition = strcontains(output.gateway_configs["gateway-1"], "max_connections = 2000\n") && alltrue([
      for config in [output.gateway_configs["gateway-1"], output.node_configs["node-1"]] : strcontains(config, "username = \"meridian\"\ncompare_every = \"1m\"\n")
    ])
    error_message = "what a process may be told is told to it"
  }
  assert {
    condition     = !strcontains(output.node_configs["node-1"], "[http]") && !strcontains(output.gateway_configs["gateway-1"], "peers")
    error_message = "a node serves no lookups, a gateway has no peers"
  }
  assert {
    condition     = output.certificate_names["node-2"] == "/region/ap-south-1/node/node-2"
    error_message = "a certificate says who a process is"
  }
  assert {
    condition     = jsondecode(output.bindings["/v1/namespaces/default/bindings/orders-api"]).limits.regions[0] == "eu-west-1"
    error_message = "a binding carries its limits"
  }
  assert {
    condition     = jsondecode(output.bindings["/v1/namespaces/default/bindings/orders-api"]).percent == 5
    error_message = "a canary carries its percentage"
  }
  assert {
    condition     = jsondecode(output.bindings["/v1/namespaces/default/bindings/_default"]).limits.regions == "all"
    error_message = "without limits, all regions may answer"
  }
}

run "a_name_is_checked" {
  command = plan
  variables {
    region = "Ap"
  }
  expect_failures = [var.region]
}

run "no_zone_comes_twice" {
  command = plan
  variables {
    zones = ["ap-south-1a", "ap-south-1a"]
  }
  expect_failures = [var.zones]
}

run "etcd_is_reached_in_one_way" {
  command = plan
  variables {
    registry = { endpoints = ["http://etcd-1:2379", "https://etcd-2:2379"] }
  }
  expect_failures = [var.registry]
}

run "federation_is_encrypted" {
  command = plan
  variables {
    nodes = { node-1 = { url = "http://node-1.example:8510" } }
  }
  expect_failures = [var.nodes]
}

run "a_region_is_no_peer_of_itself" {
  command = plan
  variables {
    peers = { ap-south-1 = ["https://node.example:8510"] }
  }
  expect_failures = [var.peers]
}

run "nodes_need_peers" {
  command = plan
  variables {
    peers = {}
  }
  expect_failures = [var.peers]
}

run "plaintext_has_to_be_said" {
  command = plan
  variables {
    http = {}
  }
  expect_failures = [var.http]
}

run "a_workload_rule_binds_a_service" {
  command = plan
  variables {
    identity = {
      issuers = [{ issuer = "https://id.example", audience = ["meridian"], jwks_file = "/etc/meridian/id.jwks" }]
      rules   = [{ issuer = "https://id.example", role = "workload", subject = "spiffe://example/ns/{namespace}" }]
    }
  }
  expect_failures = [var.identity]
}

run "a_rule_names_an_issuer" {
  command = plan
  variables {
    identity = { issuers = [], rules = [{ issuer = "https://id.example", role = "reader", claims = { groups = "x" } }] }
  }
  expect_failures = [var.identity]
}

run "a_rule_takes_not_every_token" {
  command = plan
  variables {
    identity = {
      issuers = [{ issuer = "https://id.example", audience = ["meridian"], jwks_file = "/etc/meridian/id.jwks" }]
      rules   = [{ issuer = "https://id.example", role = "reader", claims = {} }]
    }
  }
  expect_failures = [var.identity]
}

run "a_canary_has_a_percentage" {
  command = plan
  variables {
    bindings = { "default/orders-api" = { policy = "canary", stage = "canary" } }
  }
  expect_failures = [var.bindings]
}

run "a_policy_is_a_file" {
  command = plan
  variables {
    policies = { mine = "none.wasm" }
  }
  expect_failures = [var.policies]
}

run "what_has_a_variable_is_no_setting" {
  command = plan
  variables {
    settings = { http = { listen = "0.0.0.0:1" } }
  }
  expect_failures = [var.settings]
}
