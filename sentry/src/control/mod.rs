//! The control protocol between the command line and the Sentry.
//!
//! One SOCK_SEQPACKET pair, one postcard message a packet, at most [`MAX_MESSAGE`] bytes.
//! [`Request`]s flow to the Sentry, [`Event`]s to the command line; neither waits for an answer, so
//! there is no order to get wrong. [`Server`] is the Sentry's end, [`Client`] the other one.
//!
//! The Sentry is taken to be hostile by the command line: what it sends is decoded, bounded and
//! printed with control characters escaped, nothing else. When either end closes, the other side
//! ends the sandbox.
//!
//! Deliberately absent: exec, ps, pause and checkpoint. They are further variants.

mod socket;

pub use socket::{Client, Error, Server, pair};

use serde::{Deserialize, Serialize};

/// Longest message in either direction, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Command line → Sentry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Sends a signal as the host user (SI_USER, pid 0).
    Signal { signo: i32, target: SignalTarget },
    /// The terminal's size has changed; the Sentry reads it from its stdio (TIOCGWINSZ) and sends
    /// SIGWINCH to the foreground process group.
    Resize,
    /// Whether the command line's job is the one in the foreground of its terminal. True until said
    /// otherwise; told before the SIGCONT that comes with a change.
    Terminal { foreground: bool },
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalTarget {
    /// The container's first process. Delivered even where Linux protects a pid 1 that has no
    /// handler, because here it comes from outside of the pid namespace.
    Init,
    /// The foreground process group of the controlling terminal; without one, the first process's
    /// group.
    Foreground,
    /// Every process.
    All,
}

/// Sentry → command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The first program's execve has succeeded and guest code is about to run.
    Started,
    /// The first program could not be started. The sandbox is over; nothing follows.
    StartFailed {
        /// 127 not found, 126 found but not executable, else 1.
        exit_code: u8,
        /// `NAME: why`, one line, without the program's name in front.
        message: String,
    },
    /// The first process is dead and so is the container. Nothing follows.
    Exited(ExitStatus),
    /// The first process was stopped (SIGTSTP and the like): the command line stops itself and,
    /// once continued, sends SIGCONT to the foreground group.
    Stopped { signo: i32 },
    /// The Sentry cannot go on: a broken invariant, the platform or the Gofer lost. Nothing
    /// follows.
    Fatal {
        /// One line or more.
        report: String,
    },
}

/// How the first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    Code(u8),
    Signal { signo: i32, core_dumped: bool },
}

impl ExitStatus {
    /// As a shell reports it: the code, or 128 and the signal's number.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal { signo, .. } => 128u8.saturating_add(signo.clamp(0, 127) as u8),
        }
    }
}
