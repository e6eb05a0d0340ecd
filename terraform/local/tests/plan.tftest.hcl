# What is refused before anything is planned, and the shape of what is.

run "three_regions" {
  command = plan

  assert {
    condition     = output.containers == { etcd = 5, node = 3, gateway = 6, workload = 6 }
    error_message = "by default there are three regions with 3, 1 and 1 members of etcd, two gateways and two zones each"
  }
  assert {
    condition     = length(module.network) == 3 && length(terraform_data.certificate) == 9
    error_message = "a network for each region, a certificate for each gateway and node"
  }
  assert {
    condition     = output.gateways["eu-west-1"] == ["http://127.0.0.1:28600", "http://127.0.0.1:28601"]
    error_message = "gateways are published on loopback"
  }
}

run "more_instances_move_no_others" {
  command = plan
  variables {
    regions = { one = { port = 9000, workloads = { a = 3, b = 2 } } }
  }

  assert {
    condition = output.workload_urls == {
      onea-a-1 = "http://127.0.0.1:9010", oneb-a-1 = "http://127.0.0.1:9011", onea-a-2 = "http://127.0.0.1:9012"
      oneb-a-2 = "http://127.0.0.1:9013", onea-a-3 = "http://127.0.0.1:9014", oneb-a-3 = "http://127.0.0.1:9015"
      onea-b-1 = "http://127.0.0.1:9030", oneb-b-1 = "http://127.0.0.1:9031", onea-b-2 = "http://127.0.0.1:9032", oneb-b-2 = "http://127.0.0.1:9033"
    }
    error_message = "instances are published from ten ports above their region's, ten places for each service"
  }
}

run "a_port_has_one_workload" {
  command = plan
  variables {
    regions = { one = { port = 9000, workloads = { a = 1, b = 1 } }, two = { port = 9021, workloads = { a = 1 } } }
  }
  expect_failures = [var.regions]
}

run "other_regions" {
  command = plan
  variables {
    regions = {
      one = { port = 9000, zones = ["x"], etcd_members = 1, gateways = 3, workloads = { a = 2, b = 0 } }
      two = { port = 9030, zones = ["x", "y", "z"], gateways = 1, workloads = { a = 1 } }
    }
  }

  assert {
    condition     = output.containers == { etcd = 4, node = 2, gateway = 4, workload = 5 }
    error_message = "what is asked for is planned, and nothing else"
  }
  assert {
    condition     = output.instances.one == { a = ["onex-a-1", "onex-a-2"], b = [] } && keys(output.token_files) == ["a", "b"]
    error_message = "instances in each zone, and a token for each service"
  }
}

run "one_region" {
  command = plan
  variables {
    regions = { one = { port = 9000, workloads = {} } }
  }

  assert {
    condition     = output.containers == { etcd = 3, node = 0, gateway = 2, workload = 0 }
    error_message = "a region by itself has no federation"
  }
}

run "two_members_are_refused" {
  command = plan
  variables {
    regions = { one = { port = 9000, etcd_members = 2 } }
  }
  expect_failures = [var.regions]
}

run "a_port_has_one_gateway" {
  command = plan
  variables {
    regions = { one = { port = 9000 }, two = { port = 9001 } }
  }
  expect_failures = [var.regions]
}

run "a_second_copy_has_other_ports" {
  command = plan
  variables {
    port_offset = 1000
  }

  assert {
    condition     = output.gateways["eu-west-1"] == ["http://127.0.0.1:29600", "http://127.0.0.1:29601"]
    error_message = "the offset is added"
  }
}

run "a_port_stays_a_port" {
  command = plan
  variables {
    port_offset = 40000
  }
  expect_failures = [var.port_offset]
}

run "the_operator_is_no_service" {
  command = plan
  variables {
    regions = { one = { port = 9000, workloads = { operator = 1 } } }
  }
  expect_failures = [var.regions]
}

run "a_project_has_a_name" {
  command = plan
  variables {
    project = "a b"
  }
  expect_failures = [var.project]
}

run "a_lease_is_long_enough" {
  command = plan
  variables {
    lease = "2s"
  }
  expect_failures = [var.lease]
}

run "a_lease_is_not_too_long" {
  command = plan
  variables {
    lease = "3601s"
  }
  expect_failures = [var.lease]
}

run "a_zone_has_one_region" {
  command = plan
  variables {
    regions = { one = { port = 9000, zones = ["ab"] }, onea = { port = 9100, zones = ["b"], workloads = { other-api = 1 } } }
  }
  expect_failures = [var.regions]
}

run "a_container_has_its_own_name" {
  command = plan
  variables {
    regions = { one = { port = 9000, zones = ["a"], workloads = { etcd = 1 } }, onea = { port = 9100 } }
  }
  expect_failures = [var.regions]
}

run "a_region_is_not_between" {
  command = plan
  variables {
    regions = { between = { port = 9000 }, two = { port = 9100 } }
  }
  expect_failures = [var.regions]
}

run "no_half_instances" {
  command = plan
  variables {
    regions = { one = { port = 9000, workloads = { a = 1.5 } } }
  }
  expect_failures = [var.regions]
}

run "no_half_ports" {
  command = plan
  variables {
    port_offset = 0.5
  }
  expect_failures = [var.port_offset]
}

run "a_wait_ends" {
  command = plan
  variables {
    wait_seconds = -1
  }
  expect_failures = [var.wait_seconds]
}

run "a_folder_has_a_name" {
  command = plan
  variables {
    directory = ""
  }
  expect_failures = [var.directory]
}

run "a_folder_is_one_that_docker_can_name" {
  command = plan
  variables {
    directory = "/tmp/a:b"
  }
  expect_failures = [var.directory]
}
