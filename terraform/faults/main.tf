# One fault of one region while this is applied: `terraform apply -var fault=cut -var region=eu-west-1`; destroy, or fault=none, ends it.

terraform {
  required_version = ">= 1.9"
}

resource "terraform_data" "fault" {
  count = var.fault == "none" ? 0 : 1

  triggers_replace = {
    fault      = var.fault
    region     = var.region
    project    = var.project
    image      = var.faults_image
    delay      = var.delay
    jitter     = var.jitter
    token_file = var.token_file == null ? abspath("${path.module}/../local/.run/${var.project}/tokens/operator") : abspath(var.token_file)
  }

  provisioner "local-exec" {
    command = join(" ", [
      "'${path.module}/fault' begin ${self.triggers_replace.fault} --project ${self.triggers_replace.project} --region ${self.triggers_replace.region}",
      "--image '${self.triggers_replace.image}' --delay ${self.triggers_replace.delay} --jitter ${self.triggers_replace.jitter}",
      "--token-file '${self.triggers_replace.token_file}'",
    ])
    quiet = true
  }

  provisioner "local-exec" {
    when = destroy
    command = join(" ", [
      "'${path.module}/fault' end ${self.triggers_replace.fault} --project ${self.triggers_replace.project} --region ${self.triggers_replace.region}",
      "--image '${self.triggers_replace.image}' --token-file '${self.triggers_replace.token_file}'",
    ])
    quiet = true
  }
}
