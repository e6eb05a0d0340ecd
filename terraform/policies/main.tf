# Policies as code: a version is uploaded (the gate compiles and tries it), tried on the live service, and bound in the stage that
# the variable says. What is refused fails the apply, and nothing was bound.

terraform {
  required_version = ">= 1.9"
}

locals {
  place = {
    GATEWAY   = var.gateway
    POLICY    = var.policy
    NAMESPACE = var.namespace
    SERVICE   = var.service
  }
  # By what it is reached: with another of these nothing is taken out of service.
  reach  = { MERIDIAN = var.meridian, TOKEN_FILE = abspath(var.token_file), SCRIPT = "${path.module}/policy" }
  module = var.module_file != null ? abspath(var.module_file) : var.source_directory != null ? abspath("${var.source_directory}/${var.policy}.wasm") : ""
  # Without Cargo.lock, which the first build may write.
  sources = var.source_directory == null ? [] : sort(setunion(fileset(var.source_directory, "{Cargo.toml,*.json}"), fileset(var.source_directory, "{src,vendor}/**")))
}

# The place of the policy. Its end is a roll-back; a change of what stands here is none.
resource "terraform_data" "place" {
  input            = local.reach
  triggers_replace = local.place

  provisioner "local-exec" {
    when        = destroy
    command     = "\"$SCRIPT\" give-up"
    environment = merge(self.triggers_replace, self.input)
  }
}

resource "terraform_data" "binding" {
  triggers_replace = {
    place   = terraform_data.place.id
    sources = [for file in local.sources : filesha256("${var.source_directory}/${file}")]
    module  = var.module_file == null ? null : filesha256(var.module_file)
    config  = var.config
    stage   = var.stage
    percent = var.percent
    regions = var.regions
  }

  provisioner "local-exec" {
    command = "\"$SCRIPT\" apply"
    environment = merge(local.place, local.reach, {
      SOURCE    = var.source_directory == null ? "" : abspath(var.source_directory)
      MODULE    = local.module
      SIGNATURE = var.signature_file == null ? "" : abspath(var.signature_file)
      ZONES     = join(" ", var.zones)
      CONFIG    = var.config
      STAGE     = var.stage
      PERCENT   = var.percent == null ? "" : tostring(var.percent)
      REGIONS   = var.regions == null ? "" : join(",", var.regions)
      FORCE     = tostring(var.force)
    })
  }
}
