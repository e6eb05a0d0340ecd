# What is refused before anything is broken.

variables {
  region = "eu-west-1"
}

run "nothing_by_default" {
  command = plan

  assert {
    condition     = output.fault == null && length(terraform_data.fault) == 0
    error_message = "without a fault nothing is broken"
  }
}

run "a_fault_is_said" {
  command = plan
  variables {
    fault = "cut"
  }

  assert {
    condition     = output.fault == "cut of eu-west-1 in meridian"
    error_message = "what is broken, and where"
  }
}

run "a_fault_is_known" {
  command = plan
  variables {
    fault = "earthquake"
  }
  expect_failures = [var.fault]
}

run "a_region_has_a_name" {
  command = plan
  variables {
    region = "eu west"
  }
  expect_failures = [var.region]
}

run "a_project_has_a_name" {
  command = plan
  variables {
    project = "--help"
  }
  expect_failures = [var.project]
}

run "a_delay_is_milliseconds" {
  command = plan
  variables {
    delay = "1s"
  }
  expect_failures = [var.delay]
}

run "a_jitter_is_milliseconds" {
  command = plan
  variables {
    jitter = "10"
  }
  expect_failures = [var.jitter]
}
