# One fault of one region while this is applied: `terraform apply -var fault=cut -var region=eu-west-1`; destroy, or fault=none, ends it.

terraform {
  required_version = ">= 1.9"
}

# The end of the fault. It begins nothing itself, so that this end always comes, also of a fault whose beginning failed or was killed.
resource "terraform_data" "end" {
  count = var.fault == "none" ? 0 : 1

  triggers_replace = {
    FAULT      = var.fault
    REGION     = var.region
    PROJECT    = var.project
    IMAGE      = var.faults_image
    DELAY      = var.delay
    JITTER     = var.jitter
    TOKEN_FILE = var.token_file == null ? abspath("${path.module}/../local/.run/${var.project}/tokens/operator") : abspath(var.token_file)
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "\"$SCRIPT\" end \"$FAULT\" --project \"$PROJECT\" --region \"$REGION\" --image \"$IMAGE\" --token-file \"$TOKEN_FILE\""
    environment = merge(self.triggers_replace, { SCRIPT = "${path.module}/fault" })
    quiet       = true
  }
}

resource "terraform_data" "fault" {
  count = var.fault == "none" ? 0 : 1

  triggers_replace = merge(terraform_data.end[0].triggers_replace, { END = terraform_data.end[0].id })

  provisioner "local-exec" {
    command = join(" ", [
      "\"$SCRIPT\" begin \"$FAULT\" --project \"$PROJECT\" --region \"$REGION\" --image \"$IMAGE\"",
      "--delay \"$DELAY\" --jitter \"$JITTER\" --token-file \"$TOKEN_FILE\"",
    ])
    environment = merge(self.triggers_replace, { SCRIPT = "${path.module}/fault" })
    quiet       = true
  }
}
