//! The Gofer: the process that owns the container's files, and the protocol to ask it.
//!
//! [`client::Client`] is what the Sentry holds; [`server::run`] is the whole life of the Gofer
//! process; [`protocol`] is what both agree on; [`filter`] is what the Gofer may ask the host for.
//! The Sentry is taken to be hostile: see the invariants in `gofer/README.md`.

pub mod client;
pub mod filter;
pub mod listing;
pub mod network;
pub mod protocol;
pub mod server;
mod wire;

pub use client::{Client, Error};
pub use protocol::*;
