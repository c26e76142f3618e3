//! `--strace`: a line for each system call, made from the table.

use std::io::Write;

use parking_lot::Mutex;

use super::{Args, SysResult, table};
use crate::kernel::task::Task;

/// Where the lines go.
pub struct Strace {
    out: Mutex<Box<dyn Write + Send>>,
    /// Numbers to show; empty: all.
    only: Vec<u64>,
}

impl Strace {
    pub fn new(out: Box<dyn Write + Send>, only: Vec<u64>) -> Strace {
        Strace {
            out: Mutex::new(out),
            only,
        }
    }

    /// As `--strace` asked; without a file of its own it goes to the log.
    pub fn from_config(config: &StraceConfig, out: Option<OwnedFd>) -> Strace {
        let out: Box<dyn Write + Send> = match out {
            Some(fd) => Box::new(std::fs::File::from(fd)),
            None => Box::new(ToLog),
        };
        let number = |name: &String| SYSCALLS.iter().find(|s| s.name == name).map(|s| u64::from(s.number));
        Strace::new(out, config.only.iter().filter_map(number).collect())
    }

    fn line(&self, text: &str) {
        let mut out = self.out.lock();
        if let Err(e) = out.write_all(text.as_bytes()) {
            log::debug!("strace output: {e}");
        }
    }
}

/// Runs a call and writes what was asked and answered.
pub async fn traced(t: &Task, number: u64, args: [u64; 6]) -> SysResult {
    let result = table::call(t, number, &Args(args)).await;
    if let Some(strace) = &t.kernel().strace
        && (strace.only.is_empty() || strace.only.contains(&number))
    {
        strace.line(&format!("[{}] {number}({args:x?}) = {result:?}\n", t.tid()));
    }
    result
}
