//! Compiles the wire format with a compiler written in Rust: a machine without protoc builds it too.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "meridian/federation/v1/exchange.proto";
    println!("cargo:rerun-if-changed=proto/{file}");
    let descriptors = protox::compile([file], ["proto"])?;
    // Records and credentials are forwarded as they came: slices of the message that was received, not copies.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
