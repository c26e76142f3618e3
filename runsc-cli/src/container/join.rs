//! Processes that join a container: `exec`, and hooks that are programs of the container's.
//!
//! One that is detached has a process on the host that stands for it, the *attendant* (this same
//! program, executed again): its id is in the pid file, signals for it are the guest process's, and
//! they end together.

use std::{
    fs::{File, OpenOptions},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use nix::{sys::prctl, unistd::setsid};
use oci_spec::runtime::Hook;
use runsc_platform::process::{self, Child};
use runsc_sentry::{config::ProcessConfig, control::ExitStatus};
use serde::{Deserialize, Serialize};

use super::{attend, hooks, program_error};
use crate::{
    bundle::{self, Bundle},
    failure::{AtStage, Report, Stage},
    link::{self, Ask, Connection, Envelope, Tell},
    sandbox::{
        Signals,
        children::die_with_parent,
        monitor::{connection, take_terminal},
        payload::{self, Fds},
        spawn_self,
    },
    state::{Container, hold_alive},
};

/// A process that is to join, and the files it gets.
#[derive(Debug)]
pub struct Joining {
    pub process: ProcessConfig,
    pub files: Vec<(i32, OwnedFd)>,
}

/// Asks for it over a connection that is then the process's. Its id inside.
pub fn join(connection: &Connection, joining: &Joining) -> Result<i32> {
    let config = payload::sealed(&joining.process.to_bytes()?)?;
    let numbers: Vec<i32> = joining.files.iter().map(|(number, _)| *number).collect();
    let name = String::from_utf8_lossy(&joining.process.args[0]).into_owned();
    send(
        connection,
        &config,
        numbers,
        &joining.files.iter().map(|(_, fd)| fd).collect::<Vec<_>>(),
    )?;
    match answer(connection)? {
        Ok(pid) => Ok(pid),
        Err(message) => {
            let report = Report::new(Stage::Program, program_error(&name, &message));
            Err(report.into())
        }
    }
}

fn send(connection: &Connection, config: &File, files: Vec<i32>, fds: &[&OwnedFd]) -> Result<()> {
    let mut all = vec![config.as_fd()];
    all.extend(fds.iter().map(|fd| fd.as_fd()));
    let envelope = Envelope::new(Ask::Exec { files });
    Ok(connection.send_with(&envelope, &all)?)
}

/// The process's id, or why its program does not run.
fn answer(connection: &Connection) -> Result<Result<i32, String>> {
    match connection.recv()? {
        Tell::Started { pid } => Ok(Ok(pid)),
        Tell::NotStarted { message, .. } => Ok(Err(crate::logging::printable(&message))),
        Tell::Refused(why) => bail!(crate::logging::printable(&why)),
        Tell::Broken(report) => Err(report.into()),
        Tell::Exited(_) => bail!("the container ended"),
        other => bail!("the monitor answers {other:?}"),
    }
}

/// Runs a hook in the container and waits for its end.
pub fn run_hook(container: &Container, bundle: &Bundle, hook: &Hook, state: &[u8]) -> Result<()> {
    let process = bundle.spec().process().as_ref().context("process")?;
    let mut process = bundle::process::translate(process, &container.record.rootfs)?;
    let env = hook.env().clone().unwrap_or_default();
    process.args = hooks::words(hook)
        .into_iter()
        .map(String::into_bytes)
        .collect();
    process.env = env.into_iter().map(String::into_bytes).collect();
    process.terminal = false;
    process.init = false;
    process.seccomp = bundle.seccomp()?;
    let output = hooks::scratch(b"")?;
    let files = vec![
        (0, hooks::scratch(state)?.into()),
        (1, output.try_clone()?.into()),
        (2, output.try_clone()?.into()),
    ];
    let connection = super::reach(container)?;
    if let Some(limit) = hooks::timeout(hook)? {
        link::expect_within(&connection, limit)?;
    }
    join(&connection, &Joining { process, files })?;
    match connection.recv() {
        Ok(Tell::Exited(ExitStatus::Code(0))) => Ok(()),
        Ok(Tell::Exited(status)) => {
            let code = status.shell_code();
            bail!("exit status: {code}: {}", hooks::said(output))
        }
        Ok(other) => bail!("the monitor answers {other:?}"),
        // The connection closes with us, and the process dies with it.
        Err(error) => Err(error).context("did not end"),
    }
}

/// What an attendant is told. Its fds: the creator's connection, the configuration, the files.
#[derive(Debug, Serialize, Deserialize)]
struct Payload {
    directory: PathBuf,
    files: Vec<i32>,
    /// Stdin is a terminal that it is to control.
    console: bool,
}

/// A process that was started, and its attendant, which has not been let go.
#[derive(Debug)]
pub struct Attended {
    pub attendant: Child,
    connection: Connection,
}

/// Starts a process with an attendant.
pub fn detached(container: &Container, joining: &Joining) -> Result<Attended> {
    let payload = Payload {
        directory: container.directory.clone(),
        files: joining.files.iter().map(|(number, _)| *number).collect(),
        console: joining.process.terminal,
    };
    let memfd = payload::to_memfd(&payload)?;
    let config = payload::sealed(&joining.process.to_bytes()?)?;
    let (ours, theirs) = connection()?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.context("/dev/null")?;
    let mut fds = vec![null.as_fd(), null.as_fd(), null.as_fd(), memfd.as_fd()];
    fds.extend([theirs.as_fd(), config.as_fd()]);
    fds.extend(joining.files.iter().map(|(_, fd)| fd.as_fd()));
    let mut attendant = spawn_self("attendant", &fds).at(Stage::Monitor)?;
    if let Some(cgroup) = &container.record.cgroup {
        cgroup.enter(attendant.pid).at(Stage::Cgroup)?;
    }
    attendant.release().at(Stage::Monitor)?;
    // Or its end would go unnoticed.
    drop((theirs, config));
    let name = String::from_utf8_lossy(&joining.process.args[0]).into_owned();
    let started = answer(&ours).at(Stage::Monitor)?;
    started.map_err(|message| Report::new(Stage::Program, program_error(&name, &message)))?;
    Ok(Attended {
        attendant,
        connection: ours,
    })
}

impl Attended {
    /// Lets the attendant live on without us.
    pub fn let_go(self) -> Result<()> {
        super::ask(&self.connection, Ask::Detach)
    }
}

/// The attendant. Ends with its process's status.
pub fn attendant() -> Result<u8> {
    process::set_name(c"runsc-attend");
    let payload: Payload = payload::from_memfd()?;
    let mut fds = Fds::take(1 + payload.files.len())?;
    let creator = link::Visitor::new(fds.next()?);
    let config = File::from(fds.next()?);
    let files = fds.several(payload.files.len())?;
    die_with_parent(&creator)?;
    // Until the end of this process: `delete` waits for that.
    let _alive = hold_alive(&payload.directory);
    let begin = || -> Result<(Connection, Signals, i32)> {
        setsid().context("setsid")?;
        let signals = Signals::block()?;
        if payload.console {
            take_terminal(files.first())?;
        }
        let connection = link::reach(&payload.directory)?.context("container not running")?;
        send(
            &connection,
            &config,
            payload.files.clone(),
            &files.iter().collect::<Vec<_>>(),
        )?;
        match answer(&connection)? {
            Ok(pid) => Ok((connection, signals, pid)),
            Err(message) => {
                creator.send(&Tell::NotStarted {
                    exit_code: 1,
                    message,
                })?;
                std::process::exit(1);
            }
        }
    };
    let (connection, signals, pid) = match begin() {
        Ok(begun) => begun,
        Err(error) => {
            let message = crate::logging::printable(&format!("{error:#}"));
            let _ = creator.send(&Tell::Refused(message));
            return Ok(1);
        }
    };
    creator.send(&Tell::Started { pid })?;
    if creator.recv()?.open()? != Ask::Detach {
        return Ok(1);
    }
    prctl::set_pdeathsig(None).context("PDEATHSIG")?;
    creator.send(&Tell::Done)?;
    drop((creator, files, config));
    process::release_start_up_memory();
    match attend::attend(&connection, &signals)? {
        attend::End::Exited(status) => Ok(status.shell_code()),
        attend::End::Broken(_) => Ok(super::exit_code(ExitStatus::Signal {
            signo: libc::SIGKILL,
            core_dumped: false,
        })),
    }
}
