output "name" {
  description = "Name of the object, known once it is there."
  value       = terraform_data.object.triggers_replace.NAME
}

output "id" {
  description = "Another whenever the object was made anew."
  value       = terraform_data.object.id
}
