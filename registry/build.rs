//! Trivial: a build script makes cargo unpack the build-dependency protoc-bin-vendored, whose protoc `build/protoc` runs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
