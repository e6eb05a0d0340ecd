output "name" {
  description = "Name of the object, known once it is there."
  value       = terraform_data.object.triggers_replace.NAME
}
