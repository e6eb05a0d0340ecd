output "binding" {
  description = "Where the binding stands in the API of the gateway."
  value       = "${var.gateway}/v1/namespaces/${var.namespace}/bindings/${var.service}"
  depends_on  = [terraform_data.binding]
}

output "stage" {
  description = "The stage that was applied."
  value       = var.stage
}
