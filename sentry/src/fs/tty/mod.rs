//! Terminals: job control for any of them ([`job`]), the line discipline and pseudo-terminals.

pub mod job;
pub mod line;
