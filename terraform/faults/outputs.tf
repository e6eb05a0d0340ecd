output "fault" {
  description = "What is broken now, and where; null where nothing is."
  value       = var.fault == "none" ? null : "${var.fault} of ${var.region} in ${var.project}"
}
