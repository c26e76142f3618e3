//! The system-call layer: decode, look up, one call into a subsystem, write back.
//!
//! One file a family of the table in `runsc-syscall-tables`; a handler is
//! `pub async fn name(t: &Task, a: &Args) -> SysResult` and has no state of its own. Dispatch is
//! generated from the table: a row that is not `none` without a handler does not compile.

pub mod cred;
pub mod futex;
pub mod inotify;
pub mod io;
pub mod memory;
pub mod mqueue;
pub mod open;
pub mod path;
pub mod poll;
pub mod process;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod strace;
pub mod system;
pub mod sysv;
pub mod table;
#[cfg(test)]
mod tests;
pub mod time;

use crate::errno::{Errno, Error};
use crate::kernel::block::Stop;
use crate::kernel::task::Task;

/// What a handler gives back.
pub type SysResult = Result<u64, Error>;

/// The arguments of a system call, as the guest's registers hold them.
#[derive(Clone, Copy, Debug)]
pub struct Args(pub [u64; 6]);

impl Args {
    /// Argument `i` as a 64-bit value: an address, a length, a mask.
    pub fn u64(&self, i: usize) -> u64 {
        self.0[i]
    }

    /// Argument `i` as C's int: the upper half does not count.
    pub fn int(&self, i: usize) -> i32 {
        self.0[i] as i32
    }

    /// Argument `i` as C's unsigned int.
    pub fn uint(&self, i: usize) -> u32 {
        self.0[i] as u32
    }

    /// Argument `i` as a signed 64-bit value: an offset.
    pub fn i64(&self, i: usize) -> i64 {
        self.0[i] as i64
    }

    /// Argument `i` as a length in bytes.
    pub fn len(&self, i: usize) -> usize {
        self.0[i] as usize
    }
}

/// How handlers turn the end of a wait into their result.
impl Stop {
    /// read, write, wait4 and most others: restarted if the handler says SA_RESTART.
    pub fn restart(self) -> Error {
        self.with(crate::errno::Restart::Sys, Errno::EAGAIN)
    }

    /// poll, select, pause and calls with a timeout: EINTR after any handler.
    pub fn no_restart(self, timed_out: Errno) -> Error {
        self.with(crate::errno::Restart::NoHand, timed_out)
    }

    /// Any rule, and the errno for the end of the time.
    pub fn with(self, restart: crate::errno::Restart, timed_out: Errno) -> Error {
        match self {
            Stop::Interrupted => Error::Restart(restart),
            Stop::TimedOut => Error::Errno(timed_out),
            Stop::Failed(errno) => Error::Errno(errno),
        }
    }
}

/// Runs system call `number`.
pub async fn dispatch(t: &Task, number: u64, args: [u64; 6]) -> SysResult {
    if let Some(strace) = &t.kernel().strace {
        return strace::traced(t, strace, number, args).await;
    }
    table::call(t, number, &Args(args)).await
}
