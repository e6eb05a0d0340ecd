//! `meridian policy build`: cargo, then wit-component.

use super::component::{self, MAX_MODULE_BYTES};
use crate::connection::Global;
use crate::failure::Failure;
use crate::output;
use anyhow::{Context, anyhow};
use meridian_model::names::PolicyVersion;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;
use tokio::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";

/// Build a policy's crate into a component, NAME.wasm
///
/// Runs cargo build --release --target wasm32-unknown-unknown in the crate's directory, makes a component of the module,
/// and checks that it imports nothing. NAME is the package's. The version is the SHA-256 of the file's bytes. With --core, it
/// only makes a component of what another language's compiler wrote.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meridian policy build\n  meridian policy build my-policy --output /tmp/my-policy.wasm\n  \
                  meridian policy build --core policy-c/policy.core.wasm --output zone-c.wasm"
)]
pub(crate) struct Arguments {
    /// The crate's directory
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Core module that another compiler made, in place of a crate
    #[arg(long, value_name = "FILE", conflicts_with = "directory", requires = "output")]
    core: Option<PathBuf>,
    /// File to write [default: NAME.wasm in the crate's directory]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A policy, ready for gateways.
pub(super) struct Component {
    /// The package's name, or the file's.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    core_bytes: usize,
}

/// A policy's crate, compiled.
#[derive(Debug, PartialEq, Eq)]
struct Built {
    package: String,
    module: PathBuf,
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let Arguments { directory, core, output } = arguments;
    let begun = Instant::now();
    let component = match &core {
        Some(file) => of_core(file)?,
        None => of_crate(&directory).await?,
    };
    let Component { name, bytes, core_bytes } = component;
    let size = bytes.len() as u64;
    let file = output.unwrap_or_else(|| directory.join(format!("{name}.wasm")));
    std::fs::write(&file, &bytes).with_context(|| format!("{} cannot be written", file.display()))?;
    let version = PolicyVersion::of(&bytes).to_string();
    if global.json {
        output::json(&json!({ "file": file, "name": name, "version": version, "sizeBytes": size }));
    } else {
        output::say(format_args!(
            "{}\n  size     {} (the core module {})\n  version  {version}\n  built in {:.1} s\n\
             next: meridian policy push {name} {}",
            file.display(),
            output::size(size),
            output::size(core_bytes as u64),
            begun.elapsed().as_secs_f64(),
            file.display(),
        ));
    }
    Ok(())
}

/// Builds the crate in a directory.
pub(super) async fn of_crate(directory: &Path) -> Result<Component, Failure> {
    if !directory.join("Cargo.toml").is_file() {
        let text =
            format!("{} holds no Cargo.toml: name the directory of the policy's crate", directory.display());
        return Err(Failure::Usage(text));
    }
    require_target(directory).await?;
    let built = compile(directory).await?;
    let module = built.module;
    let read = std::fs::read(&module).with_context(|| format!("{} cannot be read", module.display()))?;
    encode(built.package, &read)
}

fn of_core(file: &Path) -> Result<Component, Failure> {
    let name = file.file_stem().map_or_else(|| "policy".into(), |stem| stem.to_string_lossy().into_owned());
    encode(name, &std::fs::read(file).map_err(|error| Failure::unreadable(file, &error))?)
}

fn encode(name: String, module: &[u8]) -> Result<Component, Failure> {
    let bytes = component::encode(module).map_err(|text| anyhow!(text))?;
    component::require_no_imports(&bytes).map_err(|text| anyhow!("{name} cannot be a policy: {text}"))?;
    let size = bytes.len() as u64;
    if size > MAX_MODULE_BYTES {
        let text = "gateways take at most 8 MiB: opt-level = \"s\", lto = true and strip = true in [profile.release] help";
        return Err(Failure::Failed(anyhow!("{name} is {} large, and {text}", output::size(size))));
    }
    Ok(Component { name, bytes, core_bytes: module.len() })
}
/// The cargo that runs this process, else the one in PATH.
pub(super) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Without the target's library, rustc says E0463 ("can't find crate for `core`"), which helps nobody.
async fn require_target(directory: &Path) -> Result<(), Failure> {
    let asked = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(directory)
        .output()
        .await
        .context("rustc does not run\n  next: install Rust from https://rustup.rs")?;
    let library = String::from_utf8_lossy(&asked.stdout);
    if asked.status.success() && Path::new(library.trim()).is_dir() {
        return Ok(());
    }
    Err(Failure::Failed(anyhow!(
        "the compiler cannot build for {TARGET}\n  next: rustup target add {TARGET}"
    )))
}

async fn compile(directory: &Path) -> Result<Built, Failure> {
    // Cargo tells people what it does on standard error, and programs what came out of it on standard output.
    let run = Command::new(cargo())
        .args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"])
        .current_dir(directory)
        // What cargo sets for the program that it runs would name that program's package here.
        .env_remove("CARGO_MANIFEST_DIR")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("cargo does not run\n  next: install Rust from https://rustup.rs")?;
    if !run.status.success() {
        return Err(Failure::Failed(anyhow!("cargo build failed; what it said stands above")));
    }
    built(&String::from_utf8_lossy(&run.stdout)).map_err(|text| Failure::Failed(anyhow!(text)))
}

/// The one cdylib among cargo's messages.
fn built(messages: &str) -> Result<Built, String> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut found: Vec<Built> = artifacts.filter_map(|message| guest(&message)).collect();
    match (found.pop(), found.is_empty()) {
        (Some(built), true) => Ok(built),
        (None, _) => Err("the crate builds no WebAssembly module\n  next: add [lib] crate-type = [\"cdylib\"] to its Cargo.toml".into()),
        (Some(last), false) => {
            let names: Vec<&str> = found.iter().chain([&last]).map(|built| built.package.as_str()).collect();
            Err(format!("several modules came out ({}): name the directory of one policy's crate", names.join(", ")))
        }
    }
}

fn guest(message: &Value) -> Option<Built> {
    let is = |pointer: &str, wanted: &str| message.pointer(pointer).and_then(Value::as_str) == Some(wanted);
    if !is("/reason", "compiler-artifact") {
        return None;
    }
    let kinds = message.pointer("/target/kind")?.as_array()?;
    if !kinds.iter().any(|kind| kind == "cdylib") {
        return None;
    }
    let files = message.get("filenames")?.as_array()?;
    let module = files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm"))?;
    Some(Built { package: package_of(message.get("package_id")?.as_str()?), module: PathBuf::from(module) })
}

/// The name in a package id: `path+file:///a/orders#0.1.0` (named after its directory) or `…/a#orders@0.1.0`.
fn package_of(id: &str) -> String {
    let (source, fragment) = id.rsplit_once('#').unwrap_or((id, id));
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => source.rsplit('/').next().unwrap_or(source).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(id: &str, kind: &str, file: &str) -> String {
        json!({ "reason": "compiler-artifact", "package_id": id, "target": { "kind": [kind, "rlib"] }, "filenames": [file] })
            .to_string()
    }

    #[test]
    fn the_policy_is_found_among_cargos_messages() {
        let messages = [
            "{\"reason\":\"build-script-executed\"}".to_owned(),
            "warning: no JSON".to_owned(),
            artifact("registry+https://x#serde@1.0.0", "lib", "/t/libserde.rlib"),
            artifact("path+file:///w/zone-east#0.1.0", "cdylib", "/t/zone_east.wasm"),
        ]
        .join("\n");
        let wanted = Built { package: "zone-east".into(), module: "/t/zone_east.wasm".into() };
        assert_eq!(built(&messages), Ok(wanted));
    }

    #[test]
    fn none_and_several_are_refused_with_what_to_do() {
        assert!(built("").unwrap_err().contains("cdylib"));
        let two =
            ["a", "b"].map(|name| artifact(&format!("path+file:///w#{name}@1.0.0"), "cdylib", "/t/x.wasm"));
        assert!(built(&two.join("\n")).unwrap_err().contains("a, b"));
    }

    #[test]
    fn package_ids_have_two_forms() {
        assert_eq!(package_of("path+file:///w/dir#name@0.1.0"), "name");
        assert_eq!(package_of("path+file:///w/name#0.1.0"), "name");
    }
}
