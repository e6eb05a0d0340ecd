//! Components from core modules, and the one property that no gateway does without: no imports.

use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A module larger than this is refused by every gateway (DESIGN 7).
pub(super) const MAX_MODULE_BYTES: u64 = 8 << 20;

/// What the first eight bytes of a file say that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A component, as gateways take it.
    Component,
    /// A core module, as compilers write it.
    Core,
    /// Something else.
    Other,
}

/// Tells a component from a core module: the same magic number, then version 1 of layer 0, or of layer 1.
pub(super) fn kind_of(bytes: &[u8]) -> Kind {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => Kind::Core,
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => Kind::Component,
        _ => Kind::Other,
    }
}

const CONTRACT: &str = include_str!("../../../sdk-wasm/wit/routing-policy.wit");

/// Makes a component of a core module. Guests of the SDK carry their world; one that carries none is given that of policies.
pub(super) fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let module = match carries_world(module) {
        true => Ok(module.to_vec()),
        false => with_world(module),
    };
    module
        .and_then(|module| ComponentEncoder::default().validate(true).module(&module))
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| {
            format!(
                "the module cannot be made a component ({error:#})\n  next: does the crate call \
                 meridian_sdk_wasm::export! and is it a cdylib? Does another language's module export the functions of \
                 the contract, memory and cabi_realloc?"
            )
        })
}

/// Whether a custom section with a world is there; its name begins so in all languages.
fn carries_world(module: &[u8]) -> bool {
    module.windows(14).any(|bytes| bytes == b"component-type")
}

fn with_world(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("routing-policy.wit", CONTRACT)?;
    let world = resolve.select_world(&[package], Some("routing-policy"))?;
    let mut module = module.to_vec();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(module)
}

/// Fails if the component imports anything: a policy is a pure function, and no gateway would instantiate it.
pub(super) fn require_no_imports(component: &[u8]) -> Result<(), String> {
    // A core module decodes too: as a component of nothing, with no imports.
    if kind_of(component) != Kind::Component {
        return Err("it is no component".to_owned());
    }
    let decoded =
        wit_component::decode(component).map_err(|error| format!("it is no valid component: {error:#}"))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err("it holds interfaces and no component".to_owned());
    };
    let imports: Vec<String> = resolve
        .worlds
        .get(world)
        .map(|world| world.imports.keys().map(|key| resolve.name_world_key(key)).collect())
        .unwrap_or_default();
    if imports.is_empty() {
        return Ok(());
    }
    Err(format!(
        "it imports {}: a policy has no clock, randomness, files or network\n  next: build for \
         wasm32-unknown-unknown, and look for a dependency that wants them",
        imports.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: &[u8] = b"\0asm\x01\0\0\0";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn modules_and_components_are_told_apart() {
        assert_eq!(kind_of(CORE), Kind::Core);
        assert_eq!(kind_of(COMPONENT), Kind::Component);
        for other in [&b""[..], b"\0asm", b"#!/bin/sh", b"\0asm\x01\0\x02\0"] {
            assert_eq!(kind_of(other), Kind::Other, "{other:?}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert!(encode(b"\0asm\x01\0\0\0garbage").is_err());
        assert!(require_no_imports(b"\0asm\x0d\0\x01\0garbage").is_err());
        assert!(require_no_imports(CORE).is_err());
    }

    #[test]
    fn a_component_without_imports_passes() {
        // Magic number and layer, and no section at all.
        assert_eq!(require_no_imports(COMPONENT), Ok(()));
    }
}
