//! The HTTP edge: one acceptor, a thread with its own runtime and policy instances per worker, and the envelope around
//! every request (request id, metrics, problems).

pub mod bindings;
mod bound;
mod envelope;
pub mod instances;
mod openapi;
pub mod policies;
pub mod recordings;
pub mod regions;
pub mod request;
pub mod resolve;
mod schema;
pub mod server;
pub mod services;
pub mod standing;
pub mod switches;
pub mod system;
pub mod trials;
mod unreadable;
mod watching;

pub use envelope::Envelope;
pub use openapi::{document, router};
