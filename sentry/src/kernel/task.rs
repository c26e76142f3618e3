//! Tasks: guest threads. A stub until the executor lands.

/// A guest thread.
pub struct Task {}
