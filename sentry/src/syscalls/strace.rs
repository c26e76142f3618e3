//! `--strace`: a line for each system call, made from the table.

use std::io::Write;
use std::os::fd::OwnedFd;

use parking_lot::Mutex;
use runsc_syscall_tables::strace::{Limits, Memory, Strace as Format};
use runsc_syscall_tables::{Arch, by_name};

use super::{Args, SysResult, table};
use crate::config::StraceConfig;
use crate::errno::{Error, Restart};
use crate::kernel::task::Task;
use crate::mm::Mm;
use crate::mm::io::UserMemory;

/// What is traced and where the lines go.
pub struct Strace {
    format: Format,
    /// None: to the log.
    out: Option<Mutex<std::fs::File>>,
    /// Numbers to show; empty: all.
    only: Vec<u64>,
}

struct GuestMemory<'a>(&'a Mm);

impl Memory for GuestMemory<'_> {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        self.0.copy_in(addr, buf)
    }
}

impl Strace {
    /// As `--strace` asked; `out` gets the lines, or the log does.
    pub fn new(config: &StraceConfig, out: Option<OwnedFd>) -> Strace {
        let number = |name: &String| {
            by_name(name)
                .and_then(|s| s.number(Arch::HOST))
                .map(u64::from)
        };
        Strace {
            format: Format::new(Arch::HOST, Limits::default()),
            out: out.map(|fd| Mutex::new(std::fs::File::from(fd))),
            only: config.only.iter().filter_map(number).collect(),
        }
    }

    fn shows(&self, number: u64) -> bool {
        self.only.is_empty() || self.only.contains(&number)
    }

    /// Whole lines only, so that those of different threads do not mix.
    fn line(&self, tid: i32, text: &str) {
        match &self.out {
            None => log::info!("[{tid}] {text}"),
            Some(out) => {
                let line = format!("[{tid}] {text}\n");
                if let Err(e) = out.lock().write_all(line.as_bytes()) {
                    log::debug!("strace output: {e}");
                }
            }
        }
    }
}

/// The value that strace shows; restarts have Linux's internal numbers.
fn shown(result: &SysResult) -> i64 {
    match result {
        Ok(value) => *value as i64,
        Err(Error::Errno(e)) => -i64::from(e.raw()),
        Err(Error::Restart(Restart::Sys)) => -512,
        Err(Error::Restart(Restart::NoIntr)) => -513,
        Err(Error::Restart(Restart::NoHand)) => -514,
        Err(Error::Restart(Restart::Block)) => -516,
    }
}

/// Runs a call and writes what was asked and answered.
pub async fn traced(t: &Task, strace: &Strace, number: u64, args: [u64; 6]) -> SysResult {
    if !strace.shows(number) {
        return table::call(t, number, &Args(args)).await;
    }
    let entered = strace.format.enter(number, &args, &GuestMemory(&t.mm()));
    // These do not come back.
    if matches!(
        i64::try_from(number),
        Ok(libc::SYS_exit | libc::SYS_exit_group)
    ) {
        strace.line(t.tid(), &format!("{entered}) = ?"));
        return table::call(t, number, &Args(args)).await;
    }
    let result = table::call(t, number, &Args(args)).await;
    let left = strace
        .format
        .exit(number, &args, Some(shown(&result)), &GuestMemory(&t.mm()));
    strace.line(t.tid(), &format!("{entered}{left}"));
    result
}
