//! Part of runsc-rs.
