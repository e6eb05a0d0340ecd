//! What wit-bindgen makes of `wit/routing-policy.wit`. Public only because the `export!` macro, which expands in the author's
//! crate, has to name it.

wit_bindgen::generate!({
    path: "wit",
    world: "routing-policy",
    pub_export_macro: true,
    export_macro_name: "export_routing_policy",
    default_bindings_module: "meridian_sdk_wasm::bindings",
    additional_derives: [Clone, PartialEq],
});

pub use exports::meridian::policy::routing;
