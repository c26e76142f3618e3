//! The sweeper: a process that removes the control group of a `do` that was killed.
//!
//! The other processes of the sandbox die with that command, but nobody else knows of the group. The
//! sweeper waits for the command's end and leaves with it as soon as that has cleaned up itself.

use std::{
    fs::OpenOptions,
    io::{PipeReader, PipeWriter, Read, pipe},
    os::fd::AsFd,
};

use anyhow::{Context, Result};
use nix::{
    sys::{prctl, signal::Signal},
    unistd::{Pid, setsid},
};
use runsc_platform::process::{self, Child};

use super::payload::{self, Fds};
use crate::cgroup::Cgroup;

/// It sweeps when this process is gone, unless this is dropped before.
#[derive(Debug)]
pub struct Sweeper {
    child: Child,
    /// Its end is this process's.
    _life: PipeWriter,
}

impl Sweeper {
    pub fn start(cgroup: &Cgroup) -> Result<Self> {
        let payload = payload::to_memfd(cgroup)?;
        let (reader, life) = pipe().context("pipe")?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.context("/dev/null")?;
        let mut fds = [null.as_fd(); 3].to_vec();
        fds.extend([payload.as_fd(), reader.as_fd()]);
        let mut child = super::spawn_self("sweeper", &fds)?;
        child.release().context("sweeper")?;
        Ok(Self { child, _life: life })
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.pid);
        // It is our child and not reaped, so the number is its.
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(pid, None);
    }
}

/// The process.
pub fn run() -> Result<()> {
    // It is the one that does not die with the command.
    prctl::set_pdeathsig(None).context("PDEATHSIG")?;
    setsid().context("setsid")?;
    process::set_name(c"runsc-sweeper");
    let cgroup: Cgroup = payload::from_memfd()?;
    let mut life = PipeReader::from(Fds::take(0)?.next()?);
    process::release_start_up_memory();
    life.read_to_end(&mut Vec::new()).context("pipe")?;
    cgroup.destroy()
}
