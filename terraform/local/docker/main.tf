# One docker object, made and removed by the docker command: no provider, hence no registry, is needed.
#
# To let the provider kreuzwerker/docker do it, replace this file: the variables say what an object is, and nothing
# outside of this folder knows how it is made.

terraform {
  required_version = ">= 1.9"
}

locals {
  container = var.container

  # Terraform's null has no attributes.
  options = var.container == null ? [] : concat(
    ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=512", "--restart=${var.container.restart}",
    "--log-opt=max-size=10m", "--log-opt=max-file=2", "--tmpfs=/tmp"],
    var.container.entrypoint == null ? [] : ["--entrypoint=${var.container.entrypoint}"],
    [for name, value in var.container.environment : "--env=${name}=${value}"],
    [for port in var.container.ports : "--publish=${port.address}:${port.host}:${port.container}"],
    [for volume, path in var.container.volumes : "--volume=${volume}:${path}"],
    [for from, to in var.container.files : "--volume=${from}:${to}:ro"],
  )

  # What terraform/images/build says it built under this name: an image that was built again is another image. Others have no file.
  image_id = try(trimspace(file("${path.module}/../../images/.built/${replace(local.container.image, "/[^a-zA-Z0-9._-]/", "_")}")), "")

  # All that an object is; when any of it changes, this object is replaced and no other.
  object = {
    KIND        = var.kind
    NAME        = var.name
    LABELS      = join("\n", [for name, value in var.labels : "${name}=${value}"])
    IMAGE       = try(local.container.image, "")
    IMAGE_ID    = local.image_id
    COMMAND     = try(join("\n", local.container.command), "")
    OPTIONS     = join("\n", local.options)
    NETWORKS    = try(join("\n", [for n in local.container.networks : n.alias == null ? n.name : "${n.name}=${n.alias}"]), "")
    CONFIG_FILE = try(local.container.config.file, "")
    CONFIG      = try(local.container.config.text, "")
    FOLLOWS     = join("\n", var.follows)
  }
}

# The end of the object. Terraform ends nothing whose making failed or was killed; here nothing is made, so that this end always comes.
resource "terraform_data" "end" {
  input            = { GRACE_SECONDS = tostring(try(local.container.grace_seconds, 0)) }
  triggers_replace = local.object

  provisioner "local-exec" {
    when        = destroy
    command     = "\"$DRIVER\" remove"
    environment = merge(self.triggers_replace, self.input, { OWNER = self.id, DRIVER = "${path.module}/driver" })
    quiet       = true
  }
}

resource "terraform_data" "object" {
  triggers_replace = merge(local.object, { OWNER = terraform_data.end.id })

  provisioner "local-exec" {
    command = "\"$DRIVER\" create"
    environment = merge(self.triggers_replace, {
      WAIT_SECONDS = tostring(try(local.container.wait_seconds, 0))
      DRIVER       = "${path.module}/driver"
    })
    quiet = true
  }

  # Of a daemon that does not answer nothing is ended, and it stays in the state.
  provisioner "local-exec" {
    when    = destroy
    command = "docker version >/dev/null"
    quiet   = true
  }
}
