//! The parts of the side-by-side runner (`src/bin/side-by-side.rs`).
//!
//! One static C program, [`micro`], is run natively and under each container
//! runtime of the machine; the runner collects what it prints, whole-command
//! times and memory, and sets the medians beside each other.
//!
//! - [`micro`]: builds the program and reads what it prints.
//! - [`runtime`]: how a job becomes a command line under each runtime.
//! - [`process`]: runs one command to its end, with a time limit, and looks at
//!   the memory of a process tree.
//! - [`options`]: the options runners have; the columns.
//! - [`report`]: samples, medians, ratios; the table as text, Markdown, JSON.
//! - [`machine`]: what a report says about the machine.
//!
//! What this crate does not do: it knows nothing about the Sentry and calls the
//! product only as a command.

pub mod machine;
pub mod micro;
pub mod options;
pub mod process;
pub mod report;
pub mod runtime;
