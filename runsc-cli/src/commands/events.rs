//! `runsc-rs events`: what a container uses, as runc prints it.

use std::{
    io::{StdoutLock, Write, stdout},
    os::fd::AsFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runsc_sentry::control::Stats;
use serde_json::{Value, json};

use super::{Failure, life};
use crate::{
    args::{GlobalArgs, oci::EventsArgs},
    cgroup::{self, BlockIo, Cgroup},
    container::{ask, reach},
    link::{Ask, Connection, Envelope, Tell},
};

pub fn run(global: &GlobalArgs, args: &EventsArgs) -> Result<ExitCode, Failure> {
    let container = life::find(global, &args.id)?;
    let mut events = Events {
        connection: reach(&container)?,
        id: &args.id,
        out: stdout().lock(),
    };
    if !args.stats {
        ask(&events.connection, Ask::Watch)?;
    }
    loop {
        let Some(stats) = events.stats()? else {
            return Ok(ExitCode::SUCCESS);
        };
        let host = container.record.cgroup.as_ref();
        let host = host.map(Cgroup::stats).transpose()?.unwrap_or_default();
        let data = data(&stats, &host);
        events.print(&json!({"type": "stats", "id": args.id, "data": data}))?;
        if args.stats || !events.wait(args.interval)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// What happens to a container.
struct Events<'a> {
    connection: Connection,
    id: &'a str,
    out: StdoutLock<'static>,
}

impl Events<'_> {
    fn print(&mut self, event: &Value) -> Result<()> {
        writeln!(self.out, "{event}")?;
        Ok(self.out.flush()?)
    }

    /// What the monitor says next; `None` at the container's end.
    fn hear(&mut self) -> Result<Option<Tell>> {
        match self.connection.recv() {
            Ok(Tell::OutOfMemory { pid }) => {
                self.print(&json!({"type": "oom", "id": self.id}))?;
                Ok(Some(Tell::OutOfMemory { pid }))
            }
            Ok(Tell::Refused(_)) | Err(_) => Ok(None),
            Ok(tell) => Ok(Some(tell)),
        }
    }

    /// `None` at the container's end.
    fn stats(&mut self) -> Result<Option<Stats>> {
        if self.connection.send(&Envelope::new(Ask::Stats)).is_err() {
            return Ok(None);
        }
        loop {
            match self.hear()? {
                Some(Tell::Stats(stats)) => return Ok(Some(stats)),
                Some(Tell::OutOfMemory { .. }) => {}
                Some(other) => bail!("the monitor answers {other:?}"),
                None => return Ok(None),
            }
        }
    }

    /// Waits; false at the container's end.
    fn wait(&mut self, interval: Duration) -> Result<bool> {
        let deadline = Instant::now() + interval;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout)? == 0 {
                return Ok(true);
            }
            if self.hear()?.is_none() {
                return Ok(false);
            }
        }
    }
}

/// What runc's callers look for: what the host counts, and the guest's tasks. Where there is no
/// cgroup, the Sentry's own account.
fn data(guest: &Stats, host: &cgroup::Stats) -> Value {
    let (cpu, memory) = (&host.cpu, &host.memory);
    let cpu_ns = guest.user_ns.saturating_add(guest.system_ns);
    let limit = memory.limit.unwrap_or(u64::MAX);
    let per_device = |read: fn(&BlockIo) -> u64, write: fn(&BlockIo) -> u64| -> Vec<Value> {
        let entry = |device: &BlockIo, op: &str, value: u64| json!({"major": device.major, "minor": device.minor, "op": op, "value": value});
        let of = |device| {
            [
                entry(device, "Read", read(device)),
                entry(device, "Write", write(device)),
            ]
        };
        host.block_io.iter().flat_map(of).collect()
    };
    let details = &memory.details;
    let mut data = json!({
        "cpu": {
            "usage": {
                "total": cpu.usage.unwrap_or(cpu_ns),
                "percpu": cpu.per_cpu,
                "user": cpu.user.unwrap_or(guest.user_ns),
                "kernel": cpu.system.unwrap_or(guest.system_ns),
            },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled,
            },
        },
        "cpuset": {},
        "memory": {
            "cache": details.get("cache").or(details.get("file")),
            "usage": {
                "limit": limit,
                "usage": memory.usage,
                "max": memory.max_usage,
                "failcnt": memory.failures.unwrap_or(0),
            },
            "swap": {
                "limit": memory.with_swap_limit.unwrap_or(u64::MAX),
                "usage": memory.with_swap,
                "failcnt": 0,
            },
            "kernel": {"limit": 0, "failcnt": 0},
            "kernelTCP": {"limit": 0, "failcnt": 0},
            "raw": details,
        },
        "pids": {"current": guest.threads, "limit": host.pids.limit},
        "blkio": {
            "ioServiceBytesRecursive": per_device(|d| d.read_bytes, |d| d.write_bytes),
            "ioServicedRecursive": per_device(|d| d.reads, |d| d.writes),
        },
        "hugetlb": {},
        "intel_rdt": {},
    });
    leave_out_nulls(&mut data);
    // That one runc always has.
    data["network_interfaces"] = Value::Null;
    data
}

/// What is not counted is not there, rather than null: some read numbers without looking.
fn leave_out_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(leave_out_nulls);
    }
}
