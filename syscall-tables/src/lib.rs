//! One declarative table of Linux system calls, and what follows from it.
//!
//! [`for_each_syscall!`] is the table as a macro, [`SYSCALLS`] the same as data. [`strace`]
//! prints calls from it, [`report`] the state of support. [`errno_name`] and [`signal_name`] name the
//! numbers that results are made of.
//!
//! The crate knows nothing of the kernel: the handlers are the Sentry's, which generates its
//! dispatch from the macro.

#![forbid(unsafe_code)]

pub mod errno;
mod lookup;
pub mod report;
mod signal;
pub mod strace;
mod table;
mod types;

pub use errno::{errno_message, errno_name};
pub use lookup::{SYSCALLS, by_name, by_number};
pub use signal::{signal_from_name, signal_name};
pub use types::{Arch, Arg, ArgType, Family, Level, RetType, Syscall};
