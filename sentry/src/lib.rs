//! The Sentry: the application kernel that guest programs run on.
//!
//! [`config`] is what the command line hands over at start-up, [`control`] is how the two talk
//! from then on. [`executor`] runs tasks, [`kernel`] holds the objects they share, [`mm`] their
//! memory, [`fs`] their files.

#![deny(unsafe_code)]

pub mod boot;
pub mod config;
pub mod control;
pub mod errno;
pub mod executor;
pub mod fs;
pub mod kernel;
pub mod loader;
pub mod mm;
pub mod net;
pub mod syscalls;
