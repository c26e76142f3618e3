//! Call sites of a process that were patched.

/// What is patched in one process.
#[derive(Default)]
pub(super) struct Patches {}
