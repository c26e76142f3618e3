//! Telling the host that the guest has run out of memory.
//!
//! The Sentry ends a guest process that exhausts the container's memory before the host would have to
//! end the Sentry. So the host never sees it, and neither does anybody who watches the control group
//! for it: eventfds of v1 (`memory.oom_control`), v2's `memory.events`. That is how containerd and
//! Docker learn of it. [`Oom::declare`] makes it a fact of the host's: for a moment the group may have
//! hardly more than it uses, and a process that is there for nothing else takes more than that and is
//! killed. The Sentry keeps what the guest uses for so long, so that neither it nor the guest can
//! come to need more. All the files it takes are opened before, by [`Cgroup::oom`].
//!
//! Whom the host kills depends on what a process has mapped, and the Sentry has mapped much that the
//! group does not count: its program, files of the host, with kvm all of the guest's memory twice. So
//! those that are to be killed map as much as the Sentry has mapped, the same pages again and again.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use runsc_platform::process::{Devourer, Then, devour};

use super::{Cgroup, Group, Version};

/// What the group may take beyond what it uses, in bytes: others want some meanwhile, too.
const ROOM: u64 = 4 << 20;
/// What the process takes at first, in bytes. What others give back is room as well.
const BITE: u64 = 16 << 20;
/// How many processes are there to be killed instead of others should one not do.
const SPARE: usize = 2;
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// What mapping as much as the Sentry has may add to that, a second for a GiB.
const MOST_PATIENCE: Duration = Duration::from_secs(8);
/// The first to be killed.
const FIRST_TO_GO: &str = "1000";
/// What they map beyond what the Sentry has, in bytes.
const MORE_THAN_SENTRY: u64 = 4 << 20;

/// See the module documentation.
#[derive(Debug)]
pub struct Oom {
    /// In the order in which they may be lowered.
    limits: Vec<Limit>,
    /// Lines, one of them `oom_kill NUMBER`.
    events: File,
    /// This process's oom_score_adj, which its children inherit.
    adjustment: File,
    /// The Sentry's /proc/PID/statm.
    sentry: File,
    /// This program: pages that are there.
    program: File,
    declared: u64,
}

/// A limit and what is used of it.
#[derive(Debug)]
struct Limit {
    limit: File,
    usage: File,
    room: u64,
}

impl Limit {
    /// `None` if this machine has no such files.
    fn open(group: &Group, limit: &str, usage: &str, room: u64) -> Result<Option<Self>> {
        let (limit, usage) = (group.directory.join(limit), group.directory.join(usage));
        if !limit.exists() || !usage.exists() {
            return Ok(None);
        }
        Ok(Some(Self {
            limit: open(&limit, true)?,
            usage: open(&usage, false)?,
            room,
        }))
    }

    fn set(&self, value: &str) -> io::Result<()> {
        self.limit.write_all_at(value.as_bytes(), 0)
    }
}

fn open(path: &Path, writable: bool) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(writable).open(path);
    opened.with_context(|| path.display().to_string())
}

fn text(file: &File) -> io::Result<String> {
    let mut buffer = [0; 4096];
    let len = file.read_at(&mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..len]).trim().to_owned())
}

impl Cgroup {
    /// `None` if the group does not count memory. `sentry` is a process of the group that is not to be
    /// killed.
    pub fn oom(&self, sentry: i32) -> Result<Option<Oom>> {
        let Some(group) = self.with("memory") else {
            return Ok(None);
        };
        let (files, events) = match group.version {
            // Memory with swap may not be less than without.
            Version::V1 => (
                [
                    ("memory.limit_in_bytes", "memory.usage_in_bytes", ROOM),
                    (
                        "memory.memsw.limit_in_bytes",
                        "memory.memsw.usage_in_bytes",
                        ROOM,
                    ),
                ],
                "memory.oom_control",
            ),
            Version::V2 => (
                [
                    ("memory.max", "memory.current", ROOM),
                    ("memory.swap.max", "memory.swap.current", 0),
                ],
                "memory.events",
            ),
        };
        let mut limits = Vec::new();
        for (limit, usage, room) in files {
            limits.extend(Limit::open(group, limit, usage, room)?);
        }
        let sentry = Path::new("/proc").join(sentry.to_string());
        Ok(Some(Oom {
            limits,
            events: open(&group.directory.join(events), false)?,
            adjustment: open(Path::new("/proc/self/oom_score_adj"), true)?,
            sentry: open(&sentry.join("statm"), false)?,
            program: open(Path::new("/proc/self/exe"), false)?,
            declared: 0,
        }))
    }
}

/// Limits to be restored, with what they are and what they were.
struct Lowered<'a>(Vec<(&'a Limit, String, String)>);

impl Drop for Lowered<'_> {
    fn drop(&mut self) {
        for (limit, new, old) in self.0.iter().rev() {
            // Somebody may have set another one meanwhile.
            if text(&limit.limit).is_ok_and(|now| now != *new) {
                continue;
            }
            if let Err(error) = limit.set(old) {
                log::warn!("the cgroup's limit of memory stays at {new}, not {old}: {error}");
            }
        }
    }
}

impl Oom {
    /// Has the host kill a process of ours in the group for lack of memory.
    pub fn declare(&mut self) -> Result<()> {
        self.declared += self.have_killed()?;
        Ok(())
    }

    /// How many of our processes the host has killed for it.
    fn have_killed(&self) -> Result<u64> {
        // The kernel may look for somebody else to kill while the memory of the first is on its way
        // back already.
        let mut spare = Vec::new();
        for _ in 0..SPARE {
            spare.push(self.start(0, Then::Stay)?);
        }
        let lowered = self.lower()?;
        let limit = match self.limits.first() {
            Some(first) => text(&first.limit)?.parse().context("memory limit")?,
            None => 0,
        };
        let mut bite = BITE;
        // They map something first.
        let mapped = Duration::from_secs(self.mapped_by_sentry()? >> 30);
        let deadline = Instant::now() + PATIENCE + mapped.min(MOST_PATIENCE);
        while !self.start(bite, Then::Exit)?.is_killed(deadline)? {
            ensure!(Instant::now() < deadline, "nobody was killed in time");
            ensure!(
                bite <= limit,
                "more than the limit of {limit} bytes is there"
            );
            bite = bite.saturating_mul(2);
        }
        drop(lowered);
        let mut killed = 1;
        for mut process in spare {
            killed += u64::from(process.is_killed(Instant::now())?);
        }
        Ok(killed)
    }

    /// How many processes the host has killed in the group by itself.
    pub fn kills(&self) -> u64 {
        let events = text(&self.events).unwrap_or_default();
        let count = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|count| count.parse::<u64>().ok());
        count.unwrap_or(0).saturating_sub(self.declared)
    }

    /// What the Sentry has mapped, in bytes.
    fn mapped_by_sentry(&self) -> Result<u64> {
        const PAGE: u64 = 4096;
        let sizes = text(&self.sentry).context("the Sentry's statm")?;
        let resident = sizes
            .split_whitespace()
            .nth(1)
            .context("the Sentry's statm")?;
        Ok(resident.parse::<u64>()?.saturating_mul(PAGE))
    }

    fn lower(&self) -> Result<Lowered<'_>> {
        let mut lowered = Lowered(Vec::new());
        for limit in &self.limits {
            let old = text(&limit.limit).context("memory limit")?;
            let usage: u64 = text(&limit.usage)?.parse().context("memory usage")?;
            let floor = lowered.0.last().and_then(|(_, new, _)| new.parse().ok());
            let new = usage.saturating_add(limit.room);
            let new = match limit.room {
                0 => new,
                _ => new.max(floor.unwrap_or(0)),
            };
            // v2 says "max".
            if old.parse().is_ok_and(|old: u64| old <= new) {
                continue;
            }
            limit.set(&new.to_string()).context("memory limit")?;
            // As the kernel has rounded it.
            lowered.0.push((limit, text(&limit.limit)?, old));
        }
        Ok(lowered)
    }

    /// Starts a process that is killed before others.
    fn start(&self, bytes: u64, then: Then) -> Result<Victim> {
        let bytes = usize::try_from(bytes)?;
        let mapped = self.mapped_by_sentry()?.saturating_add(MORE_THAN_SENTRY);
        let ballast = (self.program.as_fd(), usize::try_from(mapped)?);
        let own = text(&self.adjustment).context("oom_score_adj")?;
        let adjust = |value: &str| self.adjustment.write_all_at(value.as_bytes(), 0);
        adjust(FIRST_TO_GO).context("oom_score_adj")?;
        let started = devour(bytes, ballast, then);
        adjust(&own).context("oom_score_adj")?;
        let process = started.context("a process to be killed")?;
        Ok(Victim {
            process,
            ended: None,
        })
    }
}

/// A process to be killed. It is gone when this is.
struct Victim {
    process: Devourer,
    ended: Option<WaitStatus>,
}

impl Victim {
    /// Whether the host has killed it, if that is so by then.
    fn is_killed(&mut self, deadline: Instant) -> Result<bool> {
        let pidfd = self.process.pidfd.as_fd();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], timeout) {
                Err(nix::Error::EINTR) => {}
                // Where the group's OOM killer is switched off, it is held up instead.
                Ok(0) => return Ok(false),
                result => {
                    result?;
                    break;
                }
            }
        }
        let status = waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED)?;
        self.ended = Some(status);
        Ok(matches!(
            status,
            WaitStatus::Signaled(_, Signal::SIGKILL, _)
        ))
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // It is not reaped, so the number is its.
            let _ = kill(Pid::from_raw(self.process.pid), Signal::SIGKILL);
            let _ = waitid(Id::PIDFd(self.process.pidfd.as_fd()), WaitPidFlag::WEXITED);
        }
    }
}
