//! Making a stub carry out host system calls.
//!
//! One call travels in registers. Several travel in the stub's command page, which the stub's loop
//! walks; either way it costs one round trip. The stub can only read the page, so guest code cannot
//! change what is carried out.

use std::io;

use super::stub::{self, Layout, PAGE, StubMemory};
use super::sys;
use crate::arch::Registers;
pub(super) use crate::common::changes::Command;
use crate::{Error, Result};

const ENTRY: usize = 56;
/// Calls that fit into a command page.
pub(super) const MAX_BATCH: usize = PAGE as usize / ENTRY;

/// Makes the stopped thread `tid` carry out one call. Its registers are those of the stub
/// afterwards.
pub(super) fn single(
    layout: &Layout,
    tid: i32,
    command: &Command,
) -> Result<std::result::Result<u64, io::Error>> {
    let mut regs = stub::entry_registers(layout.single_entry());
    regs.r12 = 1;
    regs.rax = command.number as u64;
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = command.args;
    run(layout, tid, &mut regs)?;
    Ok(match errno(regs.rax) {
        None => Ok(regs.rax),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
    })
}

/// Makes the stopped thread `tid` carry out the calls in order, up to the first that fails: gives
/// how many succeeded and that failure.
pub(super) fn batch(
    memory: &StubMemory,
    slot: u64,
    tid: i32,
    commands: &[Command],
) -> Result<(usize, Option<io::Error>)> {
    let layout = &memory.layout;
    let mut done = 0;
    for part in commands.chunks(MAX_BATCH) {
        if let [only] = part {
            match single(layout, tid, only)? {
                Ok(_) => done += 1,
                Err(error) => return Ok((done, Some(error))),
            }
            continue;
        }
        let mut bytes = Vec::with_capacity(part.len() * ENTRY);
        for command in part {
            bytes.extend(command.number.to_le_bytes());
            for arg in command.args {
                bytes.extend(arg.to_le_bytes());
            }
        }
        let page = (slot * PAGE) as usize;
        memory.window.write(page, &bytes).map_err(|_| Error::Host {
            what: "writing the command page",
            source: io::Error::from_raw_os_error(libc::ENOMEM),
        })?;
        let mut regs = stub::entry_registers(layout.batch_entry());
        regs.rbx = layout.command;
        regs.r12 = part.len() as u64;
        run(layout, tid, &mut regs)?;
        let left = usize::try_from(regs.r12).unwrap_or(usize::MAX);
        done += part.len().saturating_sub(left);
        if let Some(errno) = errno(regs.rax) {
            return Ok((done, Some(io::Error::from_raw_os_error(errno))));
        }
    }
    Ok((done, None))
}

fn errno(rax: u64) -> Option<i32> {
    let value = rax as i64;
    (-4095..0).contains(&value).then(|| -value as i32)
}

/// Runs stub code until its final int3.
fn run(layout: &Layout, tid: i32, regs: &mut Registers) -> Result<()> {
    sys::set_registers(tid, regs).map_err(|source| lost("PTRACE_SETREGS", tid, source))?;
    loop {
        sys::restart(libc::PTRACE_CONT, tid).map_err(|source| lost("PTRACE_CONT", tid, source))?;
        let status = sys::wait_one(tid).map_err(|source| lost("wait4", tid, source))?;
        match status.stopped() {
            None => return Err(Error::Lost(format!("stub {tid}"))),
            Some(libc::SIGTRAP) => {
                sys::get_registers(tid, regs)
                    .map_err(|source| lost("PTRACE_GETREGS", tid, source))?;
                if regs.rip == layout.done() {
                    return Ok(());
                }
            }
            Some(libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGSYS) => {
                let info = sys::signal_info(tid)
                    .map_err(|source| lost("PTRACE_GETSIGINFO", tid, source))?;
                // One sent by somebody is as meaningless as the others.
                if i32::from_ne_bytes([info[8], info[9], info[10], info[11]]) > 0 {
                    return Err(Error::Lost(format!("stub {tid} (fault in stub code)")));
                }
            }
            // A late kick or a stray signal. An interrupted call is restarted by the host.
            Some(_) => {}
        }
    }
}

/// An error of ptrace or wait4 on a tracee of ours: it died, or the host fails us.
pub(super) fn lost(what: &'static str, tid: i32, source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ESRCH | libc::ECHILD) => Error::Lost(format!("stub thread {tid}")),
        _ => Error::Host { what, source },
    }
}
