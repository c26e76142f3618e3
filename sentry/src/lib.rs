//! The Sentry: the application kernel that guest programs run on.

#![deny(unsafe_code)]

pub mod errno;
pub mod executor;
pub mod fs;
pub mod kernel;
pub mod mm;
