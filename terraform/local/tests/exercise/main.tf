# One step of the test of terraform/local; it fails where what has to be is not so in time.

terraform {
  required_version = ">= 1.9"
}

variable "step" {
  description = "Which step of the script."
  type        = string
}

variable "at" {
  description = "Outputs of terraform/local."
  type = object({
    project             = string
    gateways            = map(list(string))
    token_files         = map(string)
    operator_token_file = string
  })
}

resource "terraform_data" "step" {
  triggers_replace = var.step

  provisioner "local-exec" {
    command = "'${path.module}/exercise' ${var.step}"
    environment = {
      AP     = var.at.gateways["ap-south-1"][0]
      EU     = var.at.gateways["eu-west-1"][0]
      US     = var.at.gateways["us-east-1"][0]
      TOKEN  = var.at.token_files["probe-api"]
      OTHER  = var.at.token_files["orders-api"]
      TOKENS = dirname(var.at.operator_token_file)
    }
  }
}

output "step" {
  description = "The step that was taken."
  value       = terraform_data.step.triggers_replace
}
