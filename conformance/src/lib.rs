//! Differences between the sandbox and Linux, as programs.
//!
//! Two halves that know nothing of each other but a line protocol:
//! - [`case`], [`supervise`] and [`cases`]: the `cases` program, small functions that
//!   check one promise of one man page each against whatever kernel runs them;
//! - [`runner`], [`expected`] and [`foreign`]: the `conformance` program, which runs the
//!   cases (or a folder of somebody else's test binaries) natively and under a runtime
//!   command, and reports every difference.
//!
//! A third part, [`hostile`], judges nothing: random calls that no kernel may die of.
//!
//! The product is only ever known here as a command to put in front of another one.

#[macro_use]
pub mod case;
pub mod cases;
pub mod control;
pub mod expected;
pub mod foreign;
pub mod glob;
pub mod helper;
pub mod hostile;
pub mod inet;
pub mod launch;
pub mod protocol;
pub mod report;
pub mod runner;
pub mod supervise;
