//! The parts of the runners, `src/bin/side-by-side.rs`, `src/bin/programs.rs` and
//! `src/bin/containers.rs`.
//!
//! The first two run the same things natively and under each container runtime of the
//! machine, in turns, and set the medians beside each other: the first the rows of
//! one static C program, [`micro`], and whole-command times and memory; the second
//! whole programs of the distribution, [`programs`]. The third compares the life of
//! containers under `runc` and under us.
//!
//! - [`micro`]: builds the program and reads what it prints.
//! - [`programs`]: the jobs of the second runner and what each needs.
//! - [`runtime`]: how a job becomes a command line under each runtime.
//! - [`bundle`]: what `runc` reads.
//! - [`docker`]: a Docker engine of the runner's own.
//! - [`netns`]: network namespaces of one's own; the product's tests use them too.
//! - [`process`]: runs one command to its end, with a time limit, and looks at
//!   the memory of a process tree.
//! - [`options`]: the options runners share; the columns.
//! - [`report`]: samples, medians, ratios; the table as text, Markdown, JSON.
//! - [`machine`]: what a report says about the machine.
//!
//! What this crate does not do: it knows nothing about the Sentry and calls the
//! product only as a command.

pub mod bundle;
pub mod docker;
pub mod machine;
pub mod micro;
pub mod netns;
pub mod options;
pub mod process;
pub mod programs;
pub mod report;
pub mod runtime;
