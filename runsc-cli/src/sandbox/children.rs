//! The hidden commands: the Gofer's and the Sentry's life until their crates take over.

use std::{os::fd::AsFd, sync::Arc};

use anyhow::{Context, Result, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::Signal,
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid},
};
use runsc_platform::process;
use runsc_sentry::{
    boot::{self, Start},
    control::{Event, ExitStatus, Request, Server},
};

use super::{
    empty_root::{self, Memory, NO_LIMIT},
    payload::{GoferPayload, Mode as SentryMode, NetworkPayload, SentryPayload},
};
use crate::{commands::surroundings, logging};

/// The Gofer process. Returns when the Sentry is gone.
pub fn gofer() -> Result<()> {
    process::set_name(c"runsc-gofer");
    let (payload, mut fds) = GoferPayload::receive()?;
    if let Some(log) = fds.log.take() {
        let level = payload.log_level.into();
        logging::init("gofer", level, payload.log_format, log);
    }
    let channels = std::mem::take(&mut fds.channels);
    let control = Server::new(fds.control.try_clone()?);
    if payload.is_mapped {
        become_root()?;
    }
    die_with_parent(&control)?;
    let life = || -> Result<()> {
        // Signals from a terminal are the guest's.
        setsid().context("setsid")?;
        umask(Mode::empty());
        log::debug!("serving {} trees", payload.server.mounts.len());
        runsc_gofer::server::run(&payload.server, channels)?;
        Ok(())
    };
    report(&control, life())
}

/// The network Gofer process. Returns when the Sentry is gone.
pub fn network_gofer() -> Result<()> {
    process::set_name(c"runsc-network");
    let (payload, mut fds) = NetworkPayload::receive()?;
    if let Some(log) = fds.log.take() {
        let level = payload.log_level.into();
        logging::init("network-gofer", level, payload.log_format, log);
    }
    let control = Server::new(fds.control.try_clone()?);
    die_with_parent(&control)?;
    let life = || -> Result<()> {
        setsid().context("setsid")?;
        runsc_gofer::network::server::run(&fds.channels)?;
        Ok(())
    };
    report(&control, life())
}

/// The Sentry process. Does not return unless it could not start.
pub fn sentry() -> Result<()> {
    process::set_name(c"runsc-sentry");
    let (payload, mut fds, _alive) = SentryPayload::receive()?;
    if let Some(log) = &fds.log {
        let level = payload.boot.log_level.into();
        logging::init("sentry", level, payload.log_format, log.try_clone()?);
    }
    let control = Arc::new(Server::new(fds.control.try_clone()?));
    die_with_parent(&control)?;
    report_panics(Arc::clone(&control));
    let life = || -> Result<()> {
        // What /proc tells is remembered: it is out of reach from the empty root on.
        runsc_platform::host::vdso_range();
        process::release_start_up_memory();
        let limit = payload.boot.limits.memory.map(|limit| limit.usable);
        // A container may get one later.
        let limit = limit.or((payload.mode == SentryMode::Prepare).then_some(NO_LIMIT));
        if let Some(Memory { file, root }) = empty_root::enter(limit)? {
            if payload.mode == SentryMode::Prepare {
                control.send_with(&Event::Memory, &[root.as_fd()])?;
            }
            fds.memory = Some(file);
        }
        match payload.mode {
            SentryMode::Boot => match boot::run(payload.boot, fds, Start::AtOnce)? {},
            SentryMode::Prepare => match boot::run(payload.boot, fds, Start::OnRequest)? {},
            mode => {
                let stdout = fds.stdio[1].take().context("no stdout")?;
                surroundings::report(&stdout)?;
                let mut status = ExitStatus::Code(0);
                while mode == SentryMode::ProbeAndHold && status == ExitStatus::Code(0) {
                    if let Request::Signal { signo, .. } = control.recv()? {
                        status = ExitStatus::Signal {
                            signo,
                            core_dumped: false,
                        };
                    }
                }
                Ok(control.send(&Event::Exited(status))?)
            }
        }
    };
    report(&control, life())
}

/// Takes the ids of the namespace's root, where the caller's own may not be mapped.
fn become_root() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).context("setresgid")?;
    // Without rights to, it has no groups that count.
    if setgroups(&[]).is_err() {
        log::debug!("supplementary groups are kept");
    }
    setresuid(uid, uid, uid).context("setresuid")
}

/// A panic is a broken invariant: the sandbox ends with a report that names it.
fn report_panics(control: Arc<Server>) {
    std::panic::set_hook(Box::new(move |info| {
        let report = info.to_string();
        // No backtrace: our filter forbids to open what it is made from.
        log::error!("{report}");
        // The command line notices our death in any case.
        let _ = control.send(&Event::Fatal { report });
        std::process::abort()
    }));
}

/// Tells the command line why this process cannot go on; it is the one that complains.
fn report(control: &Server, result: Result<()>) -> Result<()> {
    if let Err(error) = &result {
        let text = format!("{error:#}");
        // The reader knows whose control socket it is.
        let report = text.strip_prefix("gofer: ").unwrap_or(&text).to_owned();
        // If it is gone nobody is left to tell.
        let _ = control.send(&Event::Fatal { report });
        std::process::exit(1);
    }
    result
}

/// Dies when the command line does. PDEATHSIG was set before execve, but its process may have been
/// gone by then; its end of the control socket tells.
pub fn die_with_parent(control: &impl AsFd) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("PDEATHSIG")?;
    let mut fds = [PollFd::new(control.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).context("poll")?;
    if fds[0]
        .revents()
        .is_some_and(|events| events.contains(PollFlags::POLLHUP))
    {
        bail!("the process that started this one is gone");
    }
    Ok(())
}
