//! The control protocol between the command line and the Sentry.
//!
//! One SOCK_SEQPACKET pair, one postcard message a packet, at most [`MAX_MESSAGE`] bytes.
//! [`Request`]s flow to the Sentry, [`Event`]s to the command line; neither waits for an answer, so
//! there is no order to get wrong: what is answered carries a number. [`Server`] is the Sentry's end,
//! [`Client`] the other one, held by the process that started the Sentry. Both are the same
//! executable; that process speaks with later commands, of other versions perhaps.
//!
//! The Sentry is taken to be hostile by the command line: what it sends is decoded, bounded and
//! printed with control characters escaped, nothing else. When either end closes, the other side
//! ends the sandbox.
//!
//! Deliberately absent: checkpoint. It would be a further variant.

mod socket;

pub use socket::{Client, End, Error, Server, pair};

use serde::{Deserialize, Serialize};

use crate::config::GuestLimits;

/// Longest message in either direction, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Most fds with one message.
pub const MAX_FDS: usize = 64;

/// Longest configuration of a process that joins, in bytes.
pub const MAX_PROCESS_CONFIG: u64 = 16 << 20;

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
    /// Lets the first program run, of a container that waits for that.
    Start,
    /// Starts another process in the container. The message's fds are a memfd that holds its
    /// [`crate::config::ProcessConfig`] as postcard, then one for each of `files`: the number that
    /// the process knows it by. Answered by [`Event::Joined`] or [`Event::JoinFailed`].
    Join { id: u64, files: Vec<i32> },
    /// The answer to [`Event::OutOfMemory`]: the process may go.
    OutOfMemorySeen,
    /// Answered by [`Event::Answer`] with the same number.
    Query { id: u64, what: Query },
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The processes of the container.
    Processes,
    /// The host processes that hold them, which show their names and arguments from then on.
    HostProcesses,
    /// What they use.
    Stats,
    /// Stops all guest code until further notice. Answered when none runs any more.
    Pause,
    Resume,
    /// Other limits from now on.
    Limits(Box<GuestLimits>),
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
    /// A process that joined.
    Joined(u64),
    /// The foreground process group of its controlling terminal; without one, its own group.
    JoinedForeground(u64),
}

/// Sentry → command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Before everything else, with an fd: the root of the file system that holds the guest's memory,
    /// for who is allowed to change its size.
    Memory,
    /// Once, before the first program is prepared: the platform is not the one that was preferred.
    OtherPlatform {
        /// Why, and which it is.
        text: String,
    },
    /// Everything is ready for [`Request::Start`].
    Prepared,
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
    Stopped {
        signo: i32,
    },
    /// The Sentry cannot go on: a broken invariant, the platform or the Gofer lost. Nothing
    /// follows.
    Fatal {
        /// One line or more.
        report: String,
    },
    /// A process is about to be ended because the limit of memory was reached; it waits a little
    /// for [`Request::OutOfMemorySeen`], so that whoever looks finds the memory in use. After the first few not more
    /// than once a second.
    OutOfMemory {
        /// Inside.
        pid: i32,
    },
    /// The program of a process that joined runs.
    Joined {
        id: u64,
        /// Inside.
        pid: i32,
    },
    /// As `StartFailed`, for a process that was to join. Nothing follows about it.
    JoinFailed {
        id: u64,
        exit_code: u8,
        message: String,
    },
    /// A process that joined is dead. Nothing follows about it.
    JoinedExited {
        id: u64,
        status: ExitStatus,
    },
    Answer {
        id: u64,
        answer: Answer,
    },
}

/// What [`Query`] is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    /// Some of the processes. `more` announces another answer to the same question.
    Processes {
        list: Vec<ProcessInfo>,
        more: bool,
    },
    /// Their ids in the Sentry's pid namespace. None of processes that no host process is for: the
    /// dead, and all on some platforms.
    HostProcesses {
        list: Vec<i32>,
        more: bool,
    },
    Stats(Stats),
}

/// A guest process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    pub pid: i32,
    pub parent: i32,
    pub uid: u32,
    /// As in /proc/PID/stat.
    pub state: char,
    /// It has a controlling terminal.
    pub terminal: bool,
    /// How long ago it was started.
    pub age_ns: u64,
    pub cpu_ns: u64,
    /// Its arguments with spaces between, or its name in brackets; cut off where too long.
    pub command: Vec<u8>,
}

/// What the guest uses by the Sentry's own account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub processes: u64,
    pub threads: u64,
    pub user_ns: u64,
    pub system_ns: u64,
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
