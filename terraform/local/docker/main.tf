# One docker object, made and removed by the docker command: no provider, hence no registry, is needed.
#
# To let the provider kreuzwerker/docker do it, replace this file: the variables say what a container is, and nothing
# outside of this folder knows how it is made.

terraform {
  required_version = ">= 1.9"
}

locals {
  container = var.container
  kind      = var.container == null ? "network" : "container"

  # Terraform's null has no attributes; a network is a container of nothing.
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
    KIND          = local.kind
    NAME          = var.name
    LABELS        = join("\n", [for name, value in var.labels : "${name}=${value}"])
    IMAGE         = try(local.container.image, "")
    IMAGE_ID      = local.image_id
    COMMAND       = try(join("\n", local.container.command), "")
    OPTIONS       = join("\n", local.options)
    VOLUMES       = try(join("\n", [for volume, path in local.container.volumes : "${volume}:${path}"]), "")
    NETWORKS      = try(join("\n", [for n in local.container.networks : n.alias == null ? n.name : "${n.name}=${n.alias}"]), "")
    CONFIG_FILE   = try(local.container.config.file, "")
    CONFIG        = try(local.container.config.text, "")
    WAIT_SECONDS  = tostring(try(local.container.wait_seconds, 0))
    GRACE_SECONDS = tostring(try(local.container.grace_seconds, 0))
  }
}

resource "terraform_data" "object" {
  triggers_replace = local.object

  provisioner "local-exec" {
    command     = "'${path.module}/driver' create"
    environment = self.triggers_replace
    quiet       = true
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "'${path.module}/driver' remove"
    environment = self.triggers_replace
    quiet       = true
  }
}
