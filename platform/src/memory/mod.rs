//! Host mappings that the Sentry reads and writes guest memory through.
//!
//! A [`Window`] is a MAP_SHARED mapping of a range of a file (the MemoryFile, or a host file that a
//! guest has mapped). The file may shrink under it (another process truncates it), the host may be
//! out of memory: a touch can raise SIGBUS. Every access goes through routines whose faults are
//! caught and come back as [`AccessFault`]; no Rust reference to this memory ever exists.
//!
//! - [`window`]: the mapping and its bounds-checked accessors;
//! - `access`: the assembly routines and the table of instructions that may fault;
//! - `fault`: the SIGSEGV/SIGBUS handler that looks faults up there;
//! - [`memfd`]: the anonymous files that hold guest memory.
//!
//! Call [`install_fault_handler`] once before the first access. Deliberately absent: which guest
//! address is where in which file (the Sentry's `mm`).

mod access;
mod fault;
mod memfd;
mod window;

pub use fault::install_fault_handler;
pub use memfd::MemFd;
pub(crate) use memfd::{allocate, punch_hole};
pub use window::Window;

/// A copy stopped at a bad page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host memory fault after {done} bytes")]
pub struct AccessFault {
    /// Bytes transferred before the fault.
    pub done: usize,
}
