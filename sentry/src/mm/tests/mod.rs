//! Tests of address spaces, over a platform that keeps host mappings as a table and lets the test
//! play the guest.

mod basic;
pub(crate) mod fake;
mod model;
mod stress;
