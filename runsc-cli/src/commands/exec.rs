//! `runsc-rs exec`: one more process in a container.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::Process;
use runsc_platform::process;
use runsc_sentry::config::ProcessConfig;

use super::{Failure, life};
use crate::{
    args::{GlobalArgs, oci::ExecArgs},
    bundle::{self, Bundle},
    container::{
        self, Presence,
        attend::{End, Settings, attend},
        check_terminal, console,
        join::{self, Joining},
    },
    sandbox::{Observation, Signals, own_stdio},
    state::{Container, Status},
};

/// Exit status for everything that is not the process's own, as runc has it.
const FAILED: u8 = 255;
/// Longest file with a process that is read, in bytes.
const MAX_PROCESS: u64 = 16 << 20;

pub fn run(global: &GlobalArgs, args: &ExecArgs) -> Result<ExitCode, Failure> {
    exec(global, args).map_err(|error| Failure {
        error,
        exit_code: FAILED,
    })
}

fn exec(global: &GlobalArgs, args: &ExecArgs) -> Result<ExitCode> {
    let preserved = container::preserved_fds(args.preserve_fds)?;
    let _observation = Observation::about(global, Some(&args.id))?;
    let container = life::find(global, &args.id)?;
    match container.status() {
        Status::Running | Status::Created => {}
        Status::Paused if args.ignore_paused => {}
        Status::Paused => {
            bail!("cannot exec in a paused container (use --ignore-paused to override)")
        }
        Status::Stopped => bail!("cannot exec in a stopped container"),
        Status::Creating => bail!("container not running"),
    }
    for (option, given) in [
        ("--process-label", &args.process_label),
        ("--apparmor", &args.apparmor),
    ] {
        ensure!(given.is_none(), "{option}: not supported");
    }
    for group in &args.cgroup {
        let name = group
            .rsplit_once(':')
            .map_or(group.as_str(), |(_, name)| name);
        ensure!(
            matches!(name, "/" | "." | "./"),
            "--cgroup: {name:?}: all guest processes are in the container's own control group"
        );
    }
    let (mut process, size) = describe(args, &container)?;
    container::add_listen_fds(&mut process.env);
    let presence = match args.detach {
        true => Presence::Detached,
        false => Presence::Attached,
    };
    // A terminal may be passed on by socket in the foreground as well: then somebody else has it.
    let by_socket = args.console_socket.is_some() && process.terminal;
    let asked = match by_socket {
        true => Presence::Detached,
        false => presence,
    };
    check_terminal(process.terminal, args.console_socket.as_deref(), asked)?;
    let stdio = match &args.console_socket {
        Some(socket) => console::make(socket, size)?,
        None => own_stdio(&process::inherited()).context("stdio")?,
    };
    let stdio = (0..)
        .zip(stdio)
        .filter_map(|(number, fd)| Some((number, fd?)));
    let files = stdio.chain((3..).zip(preserved)).collect();
    let joining = Joining { process, files };
    if presence == Presence::Detached || by_socket {
        return detached(args, &container, &joining, presence);
    }
    let signals = Signals::block()?;
    let settings = Settings::note();
    let connection = container::reach(&container)?;
    join::join(&connection, &joining)?;
    drop(joining);
    if let Some(path) = &args.pid_file {
        container::write_pid_file(path, std::process::id() as i32)?;
    }
    match attend(&connection, &signals)? {
        End::Exited(status) => Ok(ExitCode::from(status.shell_code())),
        End::Broken(report) => {
            settings.put_back();
            Err(report.into())
        }
    }
}

fn detached(
    args: &ExecArgs,
    container: &Container,
    joining: &Joining,
    presence: Presence,
) -> Result<ExitCode> {
    let attended = join::detached(container, joining)?;
    let pid = attended.attendant.pid;
    if let Some(path) = &args.pid_file {
        container::write_pid_file(path, pid)?;
    }
    attended.let_go()?;
    if presence == Presence::Detached {
        return Ok(ExitCode::SUCCESS);
    }
    use nix::sys::wait::{WaitStatus, waitpid};
    match waitpid(nix::unistd::Pid::from_raw(pid), None)? {
        WaitStatus::Exited(_, code) => Ok(ExitCode::from(code as u8)),
        _ => Ok(ExitCode::from(FAILED)),
    }
}

/// The process that is asked for, and its terminal's size.
fn describe(args: &ExecArgs, container: &Container) -> Result<(ProcessConfig, Option<(u16, u16)>)> {
    let bundle = container::kept_bundle(container)?;
    let process = match &args.process {
        Some(path) => read(path)?,
        None => derived(args, &bundle)?,
    };
    let size = process.console_size().and_then(|size| {
        let rows = u16::try_from(size.height()).ok()?;
        Some((rows, u16::try_from(size.width()).ok()?))
    });
    let mut process = bundle::process::translate(&process, &container.record.rootfs)?;
    process.init = false;
    process.make_cwd = false;
    // Whoever joins is as confined as the others.
    process.seccomp = bundle.seccomp()?;
    Ok((process, size))
}

fn read(path: &Path) -> Result<Process> {
    let what = || format!("--process: {}", path.display());
    let len = fs::metadata(path).with_context(what)?.len();
    ensure!(
        len <= MAX_PROCESS,
        "{}: larger than {MAX_PROCESS} bytes",
        what()
    );
    bundle::decode_process(&fs::read(path).with_context(what)?).with_context(what)
}

/// The container's own process, with another program and what the options change.
fn derived(args: &ExecArgs, bundle: &Bundle) -> Result<Process> {
    let process = bundle.spec().process().as_ref();
    let mut process = process.context("config.json: process: missing")?.clone();
    process
        .set_args(Some(args.command.clone()))
        .set_terminal(Some(args.tty))
        .set_console_size(None);
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    let mut env = process.env().clone().unwrap_or_default();
    for entry in &args.env {
        let name = entry.split_inclusive('=').next().unwrap_or_default();
        ensure!(
            name.len() > 1 && name.ends_with('='),
            "--env: {entry:?}: must be NAME=VALUE"
        );
        env.retain(|old| !old.starts_with(name));
        env.push(entry.clone());
    }
    let mut user = process.user().clone();
    if let Some(asked) = &args.user {
        let id = |text: &str| {
            let id = text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
            id.with_context(|| format!("--user: {asked:?}: must be UID or UID:GID, in digits"))
        };
        let (uid, gid) = match asked.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (asked.as_str(), None),
        };
        user.set_uid(id(uid)?);
        if let Some(gid) = gid {
            user.set_gid(id(gid)?);
        }
        // HOME is that user's.
        env.retain(|old| !old.starts_with("HOME="));
    }
    if !args.additional_gids.is_empty() {
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        gids.extend(&args.additional_gids);
        user.set_additional_gids(Some(gids));
    }
    process.set_user(user).set_env(Some(env));
    add_capabilities(&mut process, &args.cap);
    Ok(process)
}

fn add_capabilities(process: &mut Process, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let mut sets = process.capabilities().clone().unwrap_or_default();
    for name in names {
        let Ok(capability) = serde_json::from_value(name.clone().into()) else {
            // As runc does.
            log::warn!("--cap: {name:?}: ignored, it is unknown");
            continue;
        };
        let add = |set: &Option<oci_spec::runtime::Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective) = (add(sets.bounding()), add(sets.effective()));
        let (permitted, ambient) = (add(sets.permitted()), add(sets.ambient()));
        sets.set_bounding(bounding).set_effective(effective);
        sets.set_permitted(permitted).set_ambient(ambient);
    }
    process.set_capabilities(Some(sets));
}
