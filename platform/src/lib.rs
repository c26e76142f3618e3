//! Part of runsc-rs.
pub mod seccomp;
