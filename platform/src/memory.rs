//! Host mappings that the Sentry reads and writes guest memory through.
//!
//! A [`Window`] is a MAP_SHARED mapping of a range of a file (the MemoryFile, or a host file that a
//! guest has mapped). The file may shrink under it (another process truncates it), the host may be
//! out of memory: a touch can raise SIGBUS. Every access goes through routines whose faults are
//! caught and come back as [`AccessFault`]; no Rust reference to this memory ever exists.

/// A copy stopped at a bad page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host memory fault after {done} bytes")]
pub struct AccessFault {
    /// Bytes transferred before the fault.
    pub done: usize,
}
