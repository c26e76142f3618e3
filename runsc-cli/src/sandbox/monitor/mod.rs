//! The monitor: the process that keeps a container's sandbox while commands come and go.
//!
//! It stands for the container on the host: its id is in the pid file, signals for it are the first
//! guest process's, and it ends with that one's status. Its children are the Gofer and the Sentry,
//! which die with it. Commands reach it over the container's socket (`crate::link`); until
//! [`Ask::Detach`] it dies with the command that creates the container.
//!
//! One thread and one poll(2) (`serve`): what a command asks is passed to the Sentry with a number, and the
//! Sentry's answer finds its way back by that number (`visitors`). A process that a command starts in the container
//! has the connection's number, and dies when that closes.

mod serve;
mod visitors;

use std::{
    fs::OpenOptions,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use caps::{CapSet, Capability};
use nix::{sys::prctl, unistd::setsid};
use runsc_gofer::server::ServerConfig;
use runsc_platform::process::{self, Child};
use runsc_sentry::config::{BootConfig, LogLevel, StraceConfig};
use serde::{Deserialize, Serialize};

use serve::Monitor;

use super::{
    Holdings, Mappings, Network, Observation, Owner, Plan, Signals,
    children::die_with_parent,
    network,
    payload::{self, Fds},
};
use crate::{
    failure::{AtStage, Report, Stage},
    link::{self, Connection, Tell, Visitor},
    logging::{self, printable},
    state::Record,
};

/// Exit status if the sandbox failed.
const BROKEN: u8 = 255;

/// What the monitor is told; its fds come in this order.
#[derive(Debug, Serialize, Deserialize)]
struct Payload {
    boot: BootConfig,
    gofer: ServerConfig,
    owner: (u32, u32),
    mappings: Option<Mappings>,
    record: Record,
    directory: PathBuf,
    network: Network,
    outside: bool,
    stdio: [bool; 3],
    preserved: usize,
    /// Stdio is a terminal that the monitor is to control.
    console: bool,
    log: bool,
    log_format: logging::Format,
    strace: bool,
    log_level: LogLevel,
    strace_config: StraceConfig,
}

/// What a monitor is to keep.
#[derive(Debug)]
pub struct Keep<'a> {
    pub plan: Plan,
    pub holdings: Holdings,
    pub record: Record,
    pub directory: PathBuf,
    pub console: bool,
    pub observation: &'a Observation,
    /// Whether our stderr is the monitor's as well.
    pub attached: bool,
}

/// A monitor that waits at its gate.
#[derive(Debug)]
pub struct Started {
    pub child: Child,
    pub connection: Connection,
}

/// Makes the process. It does nothing until [`Child::release`].
pub fn spawn(keep: Keep<'_>) -> Result<Started> {
    let Plan {
        boot,
        gofer,
        owner,
        stdio,
        mappings,
        changes: _,
        network,
        outside,
        cgroup: _,
        in_cgroup: _,
    } = keep.plan;
    let Holdings { preserved, alive } = keep.holdings;
    let observation = keep.observation;
    let payload = Payload {
        boot,
        gofer,
        owner: (owner.uid, owner.gid),
        mappings,
        record: keep.record,
        directory: keep.directory,
        network,
        outside,
        stdio: stdio.each_ref().map(Option::is_some),
        preserved: preserved.len(),
        console: keep.console,
        log: observation.log.is_some(),
        log_format: observation.log_format,
        strace: observation.strace.is_some(),
        log_level: observation.log_level,
        strace_config: observation.strace_config.clone(),
    };
    let memfd = payload::to_memfd(&payload)?;
    let (connection, theirs) = connection()?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.context("/dev/null")?;
    let stderr = std::io::stderr();
    let last_words = match keep.attached {
        true => stderr.as_fd(),
        false => null.as_fd(),
    };
    let alive = alive.context("no alive fd")?;
    let mut fds = vec![null.as_fd(), null.as_fd(), last_words, memfd.as_fd()];
    fds.extend([theirs.as_fd(), alive.as_fd()]);
    fds.extend(stdio.iter().flatten().map(AsFd::as_fd));
    fds.extend(preserved.iter().map(AsFd::as_fd));
    fds.extend(observation.log.iter().map(AsFd::as_fd));
    fds.extend(observation.strace.iter().map(AsFd::as_fd));
    let child = super::spawn_self("monitor", &fds)?;
    Ok(Started { child, connection })
}

/// A pair for a command and the process it starts.
pub fn connection() -> Result<(Connection, OwnedFd)> {
    let (ours, theirs) = nix::sys::socket::socketpair(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::SeqPacket,
        None,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
    )
    .context("socketpair")?;
    Ok((Connection::new(ours), theirs))
}

/// The monitor process. Ends with the container's status.
pub fn run() -> Result<u8> {
    process::set_name(c"runsc-monitor");
    let payload: Payload = payload::from_memfd()?;
    let stdio = payload.stdio.iter().filter(|open| **open).count();
    let more = [payload.log, payload.strace];
    let more = more.iter().filter(|there| **there).count();
    let mut fds = Fds::take(1 + stdio + payload.preserved + more)?;
    let creator = fds.next()?;
    link::limit_waiting(&creator)?;
    let creator = Visitor::new(creator);
    let alive = fds.next()?;
    let stdio = [
        fds.next_if(payload.stdio[0])?,
        fds.next_if(payload.stdio[1])?,
        fds.next_if(payload.stdio[2])?,
    ];
    let preserved = fds.several(payload.preserved)?;
    let log = fds.next_if(payload.log)?;
    let strace = fds.next_if(payload.strace)?;
    if let Some(log) = &log {
        let level = payload.log_level.into();
        logging::init("monitor", level, payload.log_format, log.try_clone()?);
    }
    die_with_parent(&creator)?;
    let observation = Observation {
        log,
        log_format: payload.log_format,
        strace,
        log_level: payload.log_level,
        strace_config: payload.strace_config,
    };
    let holdings = Holdings {
        preserved,
        alive: Some(alive),
    };
    let (uid, gid) = payload.owner;
    let mut plan = Plan {
        boot: payload.boot,
        gofer: payload.gofer,
        owner: Owner { uid, gid },
        stdio,
        mappings: payload.mappings,
        changes: None,
        network: payload.network,
        outside: payload.outside,
        cgroup: payload.record.cgroup.clone(),
        // This process was put into it before it ran.
        in_cgroup: true,
    };
    let begin = move || -> Result<Monitor> {
        setsid().context("setsid").at(Stage::Monitor)?;
        plan.network.join().at(Stage::Namespaces)?;
        if plan.outside && plan.network != Network::Own {
            network::add_shared(&mut plan.boot.sysctls);
        }
        let signals = Signals::block().at(Stage::Monitor)?;
        if payload.console {
            take_terminal(plan.stdio[0].as_ref()).at(Stage::Console)?;
        }
        Monitor::start(
            Start {
                plan,
                holdings,
                record: payload.record,
                directory: payload.directory,
            },
            signals,
            &observation,
        )
    };
    match begin() {
        Ok(monitor) => monitor.keep(creator),
        Err(error) => {
            let report = Report::of(&error)
                .unwrap_or_else(|| Report::new(Stage::Monitor, printable(&format!("{error:#}"))));
            // If it is gone nobody is left to tell.
            let _ = creator.send(&Tell::Broken(report));
            Ok(BROKEN)
        }
    }
}

/// From here on this process listens to the Sentry, and needs no right for that: it only writes its
/// own files and kills its own children.
fn give_up_rights() -> Result<()> {
    // While there still is CAP_SETPCAP; an ordinary user has none and need not.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding).context("dropping the bounding set")?;
    }
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set).with_context(|| format!("dropping capabilities: {set:?}"))?;
    }
    prctl::set_no_new_privs().context("no_new_privs")?;
    // Until it is let go.
    prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).context("PDEATHSIG")
}

/// Makes the terminal that is the guest's ours, so that its signals come to us. A session leader
/// without a terminal gets the one it opens.
pub fn take_terminal(terminal: Option<&OwnedFd>) -> Result<()> {
    use std::os::fd::AsRawFd;
    let terminal = terminal.context("no terminal")?;
    let path = format!("/proc/self/fd/{}", terminal.as_raw_fd());
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .context("terminal")?;
    ensure!(
        nix::unistd::tcgetpgrp(terminal).is_ok(),
        "the terminal already controls another session"
    );
    Ok(())
}

struct Start {
    plan: Plan,
    holdings: Holdings,
    record: Record,
    directory: PathBuf,
}
