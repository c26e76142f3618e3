//! Ways to run guest code and get control back.
//!
//! The Sentry knows a platform only through the traits of [`traits`]: a [`Platform`] makes
//! [`AddressSpace`]s; a [`Worker`] (one per Sentry worker thread) makes [`Context`]s, one per guest
//! thread, and waits for their [`Trap`]s. Nearly all `unsafe` code of the project lives in this
//! crate: entering guest code ([`ptrace`]), touching guest memory from the Sentry ([`memory`]).
//!
//! Deliberately absent: any knowledge of VMAs, copy-on-write or system-call semantics. A platform
//! maps what it is told to and reports why guest code stopped.

pub mod arch;
pub mod auxv;
mod common;
pub mod host;
pub mod kvm;
pub mod measure;
pub mod memory;
pub mod process;
pub mod ptrace;
pub mod seccomp;
pub mod systrap;
pub mod terminal;
pub mod ticks;
pub mod traits;

pub use traits::*;
