# The whole way: three regions on docker, a workload in each, a policy, a region that is cut off and comes back. It is all
# destroyed at the end. Steps wait with bounds in tests/exercise. TF_VAR_project, TF_VAR_directory and
# TF_VAR_port_offset keep copies apart.

run "apply" {
  variables {
    regions = {
      ap-south-1 = { port = 28600, etcd_members = 1, gateways = 1, workloads = { orders-api = 1, probe-api = 0 } }
      eu-west-1  = { port = 28650, etcd_members = 1, gateways = 1, workloads = { orders-api = 1, probe-api = 0 } }
      us-east-1  = { port = 28700, etcd_members = 1, gateways = 1, workloads = { orders-api = 1, probe-api = 0 } }
    }
  }

  assert {
    condition     = output.containers == { etcd = 3, node = 3, gateway = 3, workload = 6 }
    error_message = "everything that was asked for is there"
  }
}

run "again" {
  command = plan
  variables {
    regions = {
      ap-south-1 = { port = 28600, etcd_members = 1, gateways = 1, workloads = { orders-api = 1, probe-api = 0 } }
      eu-west-1  = { port = 28650, etcd_members = 1, gateways = 1, workloads = { orders-api = 1, probe-api = 0 } }
      us-east-1  = { port = 28700, etcd_members = 1, gateways = 1, workloads = { orders-api = 1, probe-api = 0 } }
    }
  }

  # Ids are known only of what stays.
  assert {
    condition     = output.objects == run.apply.objects && length(output.objects) == 4 + 9 + 15
    error_message = "a second plan makes nothing anew"
  }
}

run "a_workload_in_each_region" {
  module {
    source = "./tests/exercise"
  }
  variables {
    step = "register"
    at   = run.apply
  }
}

run "build_a_policy" {
  module {
    source = "./tests/exercise"
  }
  variables {
    step = "build"
    at   = run.apply
  }
}

run "upload_and_bind_it" {
  module {
    source = "../policies"
  }
  variables {
    gateway     = run.apply.gateways["ap-south-1"][0]
    token_file  = run.apply.operator_token_file
    policy      = "zone-c"
    module_file = "${dirname(run.apply.operator_token_file)}/zone-c.wasm"
    service     = "orders-api"
    zones       = ["ap-south-1a", "ap-south-1b"]
    stage       = "active"
  }

  assert {
    condition     = output.stage == "active"
    error_message = "it is bound"
  }
}

run "it_answers" {
  module {
    source = "./tests/exercise"
  }
  variables {
    step = "policy"
    at   = run.apply
  }
}

run "before_the_cut" {
  module {
    source = "./tests/exercise"
  }
  variables {
    step = "remote"
    at   = run.apply
  }
}

run "cut_off" {
  module {
    source = "../faults"
  }
  variables {
    fault      = "cut"
    region     = "eu-west-1"
    project    = run.apply.project
    token_file = run.apply.operator_token_file
  }

  assert {
    condition     = startswith(output.fault, "cut of eu-west-1")
    error_message = "the region is cut off"
  }
}

run "another_region_answers" {
  module {
    source = "./tests/exercise"
  }
  variables {
    step = "failover"
    at   = run.apply
  }
}

run "no_more" {
  module {
    source = "../faults"
  }
  variables {
    fault      = "none"
    region     = "eu-west-1"
    project    = run.apply.project
    token_file = run.apply.operator_token_file
  }

  assert {
    condition     = output.fault == null
    error_message = "the region is whole again"
  }
}

run "it_returns" {
  module {
    source = "./tests/exercise"
  }
  variables {
    step = "return"
    at   = run.apply
  }
}
