# What is refused before anything is asked of a gateway.

variables {
  gateway    = "http://127.0.0.1:1"
  token_file = "operator"
  policy     = "canary"
  service    = "orders-api"
}

run "a_shadow_by_default" {
  command = plan

  assert {
    condition     = output.stage == "shadow"
    error_message = "a policy answers nobody unless a stage is named"
  }
}

run "a_gateway_has_no_path" {
  command = plan
  variables {
    gateway = "http://127.0.0.1:1/v1"
  }
  expect_failures = [var.gateway]
}

run "a_policy_has_a_name" {
  command = plan
  variables {
    policy = "Canary"
  }
  expect_failures = [var.policy]
}

run "a_source_is_a_crate" {
  command = plan
  variables {
    source_directory = "tests"
  }
  expect_failures = [var.source_directory]
}

run "a_module_is_a_file" {
  command = plan
  variables {
    module_file = "none.wasm"
  }
  expect_failures = [var.module_file]
}

run "a_config_is_an_object" {
  command = plan
  variables {
    config = "[]"
  }
  expect_failures = [var.config]
}

run "a_stage_is_one_of_three" {
  command = plan
  variables {
    stage = "live"
  }
  expect_failures = [var.stage]
}

run "a_canary_has_a_percentage" {
  command = plan
  variables {
    stage = "canary"
  }
  expect_failures = [var.percent]
}

run "only_a_canary_has_a_percentage" {
  command = plan
  variables {
    stage   = "active"
    percent = 5
  }
  expect_failures = [var.percent]
}

run "no_regions_are_not_an_empty_list" {
  command = plan
  variables {
    regions = []
  }
  expect_failures = [var.regions]
}
