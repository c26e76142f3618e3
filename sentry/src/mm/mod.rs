//! Guest memory: address spaces, the MemoryFile, copy-on-write, access from the Sentry.

pub mod io;
pub mod mappable;
