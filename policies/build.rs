//! Builds the standard policies: cargo compiles them for wasm32-unknown-unknown, wit-component makes components of them.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use wit_component::{ComponentEncoder, DecodedWasm};

const POLICIES: [&str; 4] = ["zone-fallback", "canary", "spillover", "weighted"];
const TARGET: &str = "wasm32-unknown-unknown";

/// What the outer build sets for itself (flags of the host's target, clippy's or a cache's wrapper, another target
/// directory or target) and what would make the guests differ with it.
const OUTER: [&str; 10] = [
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_TARGET_DIR",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the standard policies: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let workspace = manifest_dir.parent().ok_or("this crate stands in no workspace")?;
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        "rust-toolchain.toml",
        "sdk-wasm/Cargo.toml",
        "sdk-wasm/src",
        "sdk-wasm/wit",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=standard");
    require_target()?;
    // A directory of its own: the outer cargo holds the lock of its own until this script has ended.
    let target_dir = out.join("guest");
    compile(workspace, &target_dir)?;
    for policy in POLICIES {
        let module = target_dir
            .join(TARGET)
            .join("guest")
            .join(format!("meridian_policy_{}.wasm", policy.replace('-', "_")));
        let component = component(&module).map_err(|error| format!("{policy}: {error}"))?;
        let path = out.join(format!("{policy}.wasm"));
        fs::write(&path, component).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

/// Without the target's library, rustc says E0463 ("can't find crate for `core`"), which helps nobody.
fn require_target() -> Result<(), String> {
    let rustc = variable("RUSTC")?;
    let output = Command::new(&rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| format!("{rustc}: {error}"))?;
    let directory = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && Path::new(directory.trim()).is_dir() {
        Ok(())
    } else {
        Err(format!("the compiler cannot build for {TARGET}; run: rustup target add {TARGET}"))
    }
}

fn compile(workspace: &Path, target_dir: &Path) -> Result<(), String> {
    let cargo = variable("CARGO")?;
    let mut command = Command::new(&cargo);
    command.current_dir(workspace).args(["build", "--locked", "--profile", "guest", "--target", TARGET]);
    for policy in POLICIES {
        command.args(["-p", &format!("meridian-policy-{policy}")]);
    }
    for name in OUTER {
        command.env_remove(name);
    }
    command.env("CARGO_TARGET_DIR", target_dir);
    let output = command.output().map_err(|error| format!("{cargo}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("cargo build: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// The component, validated, and checked to import nothing.
fn component(module: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::read(module).map_err(|error| format!("{}: {error}", module.display()))?;
    let encoder = ComponentEncoder::default().validate(true).module(&bytes);
    let component = encoder.and_then(|mut encoder| encoder.encode()).map_err(|error| format!("{error:#}"))?;
    match wit_component::decode(&component).map_err(|error| format!("{error:#}"))? {
        DecodedWasm::Component(resolve, world) => {
            let imports: Vec<_> =
                resolve.worlds[world].imports.keys().map(|key| resolve.name_world_key(key)).collect();
            if imports.is_empty() { Ok(component) } else { Err(format!("imports {}", imports.join(", "))) }
        }
        DecodedWasm::WitPackage(..) => Err("is no component".into()),
    }
}
