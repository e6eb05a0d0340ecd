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
#[macro_export]
macro_rules! export {
    ($policy:ty) => {
        // The exported functions of a component are unsafe by nature; they are generated.
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code)]
        const _: () = {
            type Exported = $crate::guest::Exported<$policy>;
    $crate::bindings::export_routing_policy!(Exported with_types_in $crate::bindings);
        };
    };
}
