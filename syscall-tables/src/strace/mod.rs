//! System calls as readable text, in the manner of strace(1).
//!
//! A line comes in two parts, because a call may block and another task's line come between:
//! [`Strace::enter`] prints the name and the arguments up to the first one that the kernel
//! writes, [`Strace::exit`] the rest and the result. Put together:
//!
//! ```text
//! openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3
//! read(3, "root:x:0:0:root:/root:/bin/bash\n"..., 4096) = 1234
//! ```
//!
//! The guest's registers and memory are hostile: nothing here panics on any value, each
//! location is read once, every length is bounded by [`Limits`], and guest bytes are only
//! ever printed escaped, so that a trace cannot send control sequences to a terminal.
//!
//! This module knows no more than the table: which descriptor is which file, or what a call
//! waits for, is not printed.

mod args;
mod flags;
mod memory;
mod printer;
mod sockets;
mod structs;

use crate::errno::{errno_message, errno_name};
use crate::lookup::by_number;
use crate::signal::signal_name;
use crate::types::{Arch, RetType, Syscall};
use printer::Printer;

/// The memory of the task whose call is printed.
pub trait Memory {
    /// Fills `buf` from `addr` on and returns how many bytes came before the first one that
    /// cannot be read.
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize;
}

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a string or buffer.
    pub string: usize,
    /// Bytes of a path: more, since a cut path says little.
    pub path: usize,
    /// Elements of an array.
    pub items: usize,
    /// Bytes of a line, give or take one element.
    pub line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            string: 64,
            path: 256,
            items: 32,
            line: 8192,
        }
    }
}

/// Prints calls of one architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strace {
    arch: Arch,
    limits: Limits,
}

impl Default for Strace {
    fn default() -> Self {
        Strace::new(Arch::HOST, Limits::default())
    }
}

impl Limits {
    /// More than this is allocated for nobody, whatever the options ask for.
    const MOST: Limits = Limits {
        string: 1 << 16,
        path: 1 << 12,
        items: 1 << 10,
        line: 1 << 20,
    };

    fn bounded(self) -> Self {
        Limits {
            string: self.string.min(Self::MOST.string),
            path: self.path.min(Self::MOST.path),
            items: self.items.min(Self::MOST.items),
            line: self.line.min(Self::MOST.line),
        }
    }
}

impl Strace {
    /// Limits beyond 64 KiB a string, 4 KiB a path, 1024 elements and 1 MiB a line are lowered
    /// to these.
    pub fn new(arch: Arch, limits: Limits) -> Self {
        Strace {
            arch,
            limits: limits.bounded(),
        }
    }

    /// The first part of the line: `read(3, `.
    pub fn enter(&self, nr: u64, args: &[u64; 6], mem: &dyn Memory) -> String {
        let Some(row) = by_number(self.arch, nr) else {
            return unknown(nr, args);
        };
        let mut printer = Printer::new(self.arch, self.limits, row, args, None, mem);
        printer.text(row.name);
        printer.text("(");
        let end = first_out(row, &printer);
        let printed = printer.args_in(0..end);
        // The rest begins with an argument, unless all that is left is not printed.
        if printed && end < row.args.len() {
            printer.text(", ");
        }
        printer.finish()
    }

    /// The second part of the line: `"root:x"..., 4096) = 1234`.
    ///
    /// `result` is what the program finds in its result register; `None` if it never will
    /// (`exit`, `rt_sigreturn`, a task killed within the call). Codes that restart a call are
    /// understood too.
    pub fn exit(&self, nr: u64, args: &[u64; 6], result: Option<i64>, mem: &dyn Memory) -> String {
        let Some(row) = by_number(self.arch, nr) else {
            return format!(") = {}", outcome(RetType::Int, result));
        };
        let mut printer = Printer::new(self.arch, self.limits, row, args, result, mem);
        let start = first_out(row, &printer);
        printer.args_in(start..row.args.len());
        printer.text(") = ");
        if !printer.special_result() {
            let text = outcome(row.ret, result);
            printer.text(&text);
        }
        printer.finish()
    }
}

/// [`Strace::enter`] for this machine's architecture with the default limits.
pub fn enter(nr: u64, args: &[u64; 6], mem: &dyn Memory) -> String {
    Strace::default().enter(nr, args, mem)
}

/// [`Strace::exit`] for this machine's architecture with the default limits.
pub fn exit(nr: u64, args: &[u64; 6], result: Option<i64>, mem: &dyn Memory) -> String {
    Strace::default().exit(nr, args, result, mem)
}

/// A signal that is delivered: `--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, ...} ---`,
/// from the `siginfo_t` that the handler would get.
pub fn signal_delivery(info: &[u8; 128]) -> String {
    let bytes = memory::Record::new(info);
    let signal = signal_text(bytes.i32(0));
    format!("--- {signal} {} ---", structs::siginfo_text(&bytes))
}

/// `+++ exited with 0 +++`, or `+++ killed by SIGSEGV (core dumped) +++`, from a wait status.
pub fn task_end(status: i32) -> String {
    let signal = status & 0x7f;
    if signal == 0 {
        return format!("+++ exited with {} +++", (status >> 8) & 0xff);
    }
    let core = if status & 0x80 != 0 {
        " (core dumped)"
    } else {
        ""
    };
    format!("+++ killed by {}{core} +++", signal_text(signal))
}

/// The index of the first argument that can only be printed after the call.
fn first_out(row: &Syscall, printer: &Printer<'_>) -> usize {
    let out = row
        .args
        .iter()
        .enumerate()
        .position(|(i, arg)| arg.ty.is_out() && !printer.omits(i));
    out.unwrap_or(row.args.len())
}

fn unknown(nr: u64, args: &[u64; 6]) -> String {
    let args = args.map(|arg| format!("{arg:#x}")).join(", ");
    format!("syscall_{nr:#x}({args}")
}

/// The name of a signal, or its number.
pub(crate) fn signal_text(signal: i32) -> String {
    signal_name(signal).map_or_else(|| signal.to_string(), str::to_owned)
}

/// What follows ` = `.
pub(crate) fn outcome(ret: RetType, result: Option<i64>) -> String {
    let Some(value) = result else {
        return "?".to_owned();
    };
    if let Some(errno) = error_of(value) {
        let name = errno_name(errno);
        let message = errno_message(errno).unwrap_or("Unknown error");
        return match name {
            Some(name) if errno >= 512 => format!("? {name} ({message})"),
            Some(name) => format!("-1 {name} ({message})"),
            None => format!("-1 errno {errno} ({message})"),
        };
    }
    match ret {
        RetType::Addr | RetType::Hex => format!("{value:#x}"),
        RetType::Octal => flags::octal(value.cast_unsigned()),
        RetType::Signal => match i32::try_from(value).ok().and_then(signal_name) {
            Some(name) => format!("{value} ({name})"),
            None => value.to_string(),
        },
        RetType::Never => "?".to_owned(),
        RetType::Zero
        | RetType::Int
        | RetType::Fd
        | RetType::Size
        | RetType::Pid
        | RetType::Uid
        | RetType::Gid => value.to_string(),
    }
}

/// The errno in a result register, if it holds one.
pub(crate) fn error_of(value: i64) -> Option<i32> {
    if (-4095..0).contains(&value) {
        i32::try_from(-value).ok()
    } else {
        None
    }
}
