//! `runsc-rs events`: what a container uses, as runc prints it.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runsc_sentry::control::Stats;
use serde_json::{Value, json};
use std::os::fd::AsFd;

use super::{Failure, life};
use crate::{
    args::{GlobalArgs, oci::EventsArgs},
    container::reach,
    link::{Ask, Connection, Envelope, Tell},
};

pub fn run(global: &GlobalArgs, args: &EventsArgs) -> Result<ExitCode, Failure> {
    let container = life::find(global, &args.id)?;
    let connection = reach(&container)?;
    let mut out = stdout().lock();
    loop {
        let Some(stats) = ask(&connection)? else {
            return Ok(ExitCode::SUCCESS);
        };
        let event = json!({"type": "stats", "id": args.id, "data": data(&stats)});
        writeln!(out, "{event}")?;
        if args.stats {
            return Ok(ExitCode::SUCCESS);
        }
        // The connection closes at the container's end.
        let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
        let interval = args.interval.as_millis();
        let timeout = PollTimeout::try_from(interval).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, timeout)? > 0 {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// `None` at the container's end.
fn ask(connection: &Connection) -> Result<Option<Stats>> {
    if connection.send(&Envelope::new(Ask::Stats)).is_err() {
        return Ok(None);
    }
    match connection.recv() {
        Ok(Tell::Stats(stats)) => Ok(Some(stats)),
        Ok(Tell::Refused(_)) | Err(_) => Ok(None),
        Ok(other) => bail!("the monitor answers {other:?}"),
    }
}

/// What runc's callers look for, by the Sentry's account.
fn data(stats: &Stats) -> Value {
    json!({
        "cpu": {
            "usage": {
                "total": stats.user_ns.saturating_add(stats.system_ns),
                "user": stats.user_ns,
                "kernel": stats.system_ns,
            },
            "throttling": {},
        },
        "cpuset": {},
        "memory": {"usage": {"limit": 0}, "swap": {"limit": 0}, "kernel": {"limit": 0},
                   "kernelTCP": {"limit": 0}},
        "pids": {"current": stats.threads},
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}
