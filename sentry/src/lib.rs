//! The application kernel.
//!
//! [`config`] is what the command line hands over at start-up, [`control`] is how the two talk
//! from then on.

pub mod config;
pub mod control;
