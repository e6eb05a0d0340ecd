//! What a policy author needs: write a [`Policy`] in terms of services, callers and plans, test it natively with
//! [`testing`], and [`export!`] it as a component of the world in `wit/routing-policy.wit`.
//!
//! Plan numbers, tables, resources and the call that runs at every lookup are the business of this crate.

// The generated bindings lift and lower memory by hand and carry no docs; nothing here is edited.
#[allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
#[doc(hidden)]
pub mod bindings;
mod caller;
#[doc(hidden)]
pub mod carried;
#[doc(hidden)]
pub mod guest;
pub mod locality;
mod names;
mod order;
mod plan;
mod policy;
mod rollout;
mod selector;
mod service;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use caller::Caller;
pub use plan::{Answer, Plan, Tier};
pub use policy::Policy;
pub use selector::Selector;
pub use service::{Details, Endpoint, Freshness, Notes, Remote, Service, Status, Subset};

/// Makes the crate (a `cdylib` for `wasm32-unknown-unknown`) a policy component. On other targets it does nothing, so the
/// same crate is tested like any other.
///
/// Behind the policy may stand, in this order, what travels with it in custom sections:
///
/// ```
/// # use meridian_sdk_wasm::{Answer, Caller, Details, Plan, Policy, Service};
/// # struct Preview;
/// # impl Policy for Preview {
/// #     type Config = std::collections::BTreeMap<String, String>;
/// #     fn open(_: Self::Config, _: &Details<'_>) -> Result<Self, String> { Ok(Preview) }
/// #     fn answer(&self, _: &Service, _: &Caller) -> Result<Answer, String> { Ok(Plan::refuse().into()) }
/// # }
/// meridian_sdk_wasm::export!(
///     Preview,
///     description = "Curious callers get the preview version",
///     schema = br#"{"type": "object"}"#,
///     tests = br#"[{"name": "nobody", "expect": {"refused": true}}]"#,
/// );
/// ```
///
/// `description` is shown beside the policy; `schema`, a JSON schema, is held against a config when it is bound; `tests` are
/// cases that a gateway runs before it takes the policy. The latter two mostly are `include_bytes!("schema.json")`.
#[macro_export]
macro_rules! export {
    ($policy:ty $(, description = $description:expr)? $(, schema = $schema:expr)? $(, tests = $tests:expr)? $(,)?) => {
        // The exported functions of a component are unsafe by nature; they are generated.
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code)]
        const _: () = {
            type Exported = $crate::guest::Exported<$policy>;
            $crate::bindings::export_routing_policy!(Exported with_types_in $crate::bindings);
            $(
                const DESCRIPTION: &str = $description;
                const NAME: &str = env!("CARGO_PKG_NAME");
                #[used]
                #[unsafe(link_section = "meridian:policy")]
                static ABOUT: [u8; $crate::carried::about_len(NAME, DESCRIPTION)] =
                    $crate::carried::about(NAME, DESCRIPTION);
            )?
            $(
                const SCHEMA: &[u8] = $schema;
                #[used]
                #[unsafe(link_section = "meridian:config-schema")]
                static CARRIED_SCHEMA: [u8; SCHEMA.len()] = $crate::carried::copy(SCHEMA);
            )?
            $(
                const TESTS: &[u8] = $tests;
                #[used]
                #[unsafe(link_section = "meridian:test-cases")]
                static CARRIED_TESTS: [u8; TESTS.len()] = $crate::carried::copy(TESTS);
            )?
        };
    };
}
