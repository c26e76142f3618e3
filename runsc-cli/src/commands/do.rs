//! `runsc-rs do`: a program from the host's own files, which it cannot change.
//!
//! The program finds what it would find outside: files, current directory, environment, user,
//! limits, terminal. The host's `/` comes through the Gofer, read-only, under a layer in memory;
//! kernel file systems and devices are the Sentry's own. No state is kept on disk.

use std::{
    ffi::OsString,
    io::IsTerminal,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{Gid, Uid, gethostname};
use runsc_gofer::server::{MountSource, ServerConfig, Writes};
use runsc_platform::process;
use runsc_sentry::config::{
    BootConfig, CapabilitySets, DevptsOptions, MountConfig, MountFlags, MountKind, OverlayKind,
    ProcessConfig, RootConfig, TmpfsOptions,
};

use super::{Failure, changes::Changes, conclude, limits::Limits, view::View};
use crate::{
    args::{self, DoArgs, GlobalArgs},
    cgroup::Held,
    environment,
    sandbox::{
        Mode, Network, Observation, Outcome, Owner, Plan, Sandbox, Signals, own_stdio, platform,
        sweeper::Sweeper,
    },
};

/// Exit status if the sandbox itself failed.
const BROKEN: u8 = 128;

pub fn run(global: &GlobalArgs, args: DoArgs) -> Result<ExitCode, Failure> {
    let signals = Signals::block()?;
    let observation = Observation::new(global)?;
    let (mut plan, limits, changes) = prepare(global, args, &observation, &signals)?;
    let cgroup = Held(limits.cgroup()?);
    plan.cgroup = cgroup.0.clone();
    // It goes when the group has gone.
    let _sweeper = cgroup.0.as_ref().map(Sweeper::start).transpose()?;
    let outcome = Sandbox::start(plan, &observation, Mode::Boot)
        .and_then(|sandbox| sandbox.supervise(&signals))
        .map_err(|error| Failure {
            error,
            exit_code: BROKEN,
        })?;
    let outcome = cgroup.explain(outcome);
    drop(cgroup);
    let ended = matches!(outcome, Outcome::Exited(_));
    let complete = changes.show()?;
    let code = conclude(outcome, BROKEN)?;
    Ok(if ended && !complete {
        ExitCode::from(BROKEN)
    } else {
        code
    })
}

/// What the sandbox is to be.
pub fn plan(
    global: &GlobalArgs,
    args: DoArgs,
    observation: &Observation,
    signals: &Signals,
) -> Result<Plan> {
    prepare(global, args, observation, signals).map(|(plan, _, _)| plan)
}

/// The same, with what remains to be done for it.
fn prepare(
    global: &GlobalArgs,
    args: DoArgs,
    observation: &Observation,
    signals: &Signals,
) -> Result<(Plan, Limits, Changes)> {
    let limits = Limits::parse(
        args.memory.as_deref(),
        args.cpus.as_deref(),
        args.pids,
        args.timeout.as_deref(),
    )?;
    let mut sources = vec![MountSource {
        source: "/".into(),
        writes: Default::default(),
        devices: Default::default(),
        kernel_file_systems: Default::default(),
    }];
    let view = View::new(&args.rw, &args.ro, &args.hide, &mut sources)?;
    ensure!(
        view.root.is_none() || args.keep.is_none() && !args.diff,
        "--keep, --diff: there is no layer of changes with --rw / or --ro /"
    );
    if let Some(writes) = view.root {
        sources[0].writes = writes;
    }
    let (changes, changes_config) =
        Changes::prepare(args.keep.as_deref(), args.diff, &mut sources)?;
    let inherited = process::inherited();
    let user = User::new(args.user.as_deref())?;
    let hostname = match args.hostname {
        Some(name) => name,
        None => gethostname().context("gethostname")?,
    };
    check_hostname(&hostname)?;
    let owner = Owner {
        uid: user.uid,
        gid: user.gid,
    };
    let process = ProcessConfig {
        args: args.command.into_iter().map(OsString::into_vec).collect(),
        env: environment(std::env::vars_os(), args.env)?,
        cwd: working_directory(args.cwd.as_deref())?,
        init: false,
        make_cwd: false,
        uid: user.uid,
        gid: user.gid,
        additional_gids: user.groups,
        umask: environment::current_umask(),
        capabilities: capabilities(user.uid),
        rlimits: environment::rlimits()?,
        // As for any command that a shell starts.
        terminal: std::io::stdin().is_terminal(),
        no_new_privileges: false,
        timeout_ms: limits.timeout_ms,
        seccomp: None,
        oom_score_adj: None,
        io_priority: 0,
        ignored_signals: inherited.ignored_signals,
        blocked_signals: signals.blocked_before,
    };
    ensure!(!process.args[0].is_empty(), "command: must not be empty");
    let boot = BootConfig {
        container_id: "do".into(),
        platform: platform::for_sandbox(global),
        patch_code: !global.no_patch,
        root: RootConfig {
            gofer_mount: 0,
            readonly: view.root == Some(Writes::Refuse),
            overlay: match view.root {
                None => OverlayKind::Memory,
                Some(_) => OverlayKind::None,
            },
        },
        mounts: mounts(limits.any())
            .into_iter()
            .chain(view.mounts)
            .collect(),
        nodes: Vec::new(),
        masked_paths: view.hidden,
        readonly_paths: Vec::new(),
        sysctls: Vec::new(),
        process,
        limits: limits.of_guest()?,
        host_sockets: global.host_uds.into(),
        changes: changes_config,
        hostname: hostname.into_vec(),
        domainname: b"(none)".to_vec(),
        strace: observation.strace_config.clone(),
        log_level: observation.log_level,
    };
    let stdio = own_stdio(&inherited)?;
    let gofer = ServerConfig {
        mounts: sources,
        sockets: boot.host_sockets,
        ..Default::default()
    };
    let plan = Plan {
        boot,
        gofer,
        owner,
        stdio,
        mappings: None,
        changes: changes.fd()?,
        // In one of its own there would be loopback only.
        network: Network::Inherited,
        outside: global.network == args::Network::Host,
        cgroup: None,
        in_cgroup: false,
    };
    Ok((plan, limits, changes))
}

/// The kernel's own file systems over the host's root. /tmp and /run show what the host has there.
/// `limited`: there is something to read in /sys/fs/cgroup.
fn mounts(limited: bool) -> Vec<MountConfig> {
    let plain = MountFlags {
        nosuid: true,
        nodev: true,
        noexec: true,
        ..Default::default()
    };
    let devices = MountFlags {
        nosuid: true,
        ..Default::default()
    };
    let terminals = MountFlags {
        nosuid: true,
        noexec: true,
        ..Default::default()
    };
    let shared = MountFlags {
        nosuid: true,
        nodev: true,
        ..Default::default()
    };
    let options = DevptsOptions {
        mode: Some(0o620),
        ptmx_mode: Some(0o666),
        gid: Some(5),
        ..Default::default()
    };
    let shm = TmpfsOptions {
        mode: Some(0o1777),
        ..Default::default()
    };
    let group = MountFlags {
        readonly: true,
        ..plain
    };
    let cgroup = ("/sys/fs/cgroup", "cgroup", MountKind::Cgroup, group);
    [
        ("/proc", "proc", MountKind::Proc, plain),
        ("/sys", "sysfs", MountKind::Sysfs, plain),
        ("/dev", "devtmpfs", MountKind::Devtmpfs, devices),
        ("/dev/pts", "devpts", MountKind::Devpts(options), terminals),
        ("/dev/shm", "tmpfs", MountKind::Tmpfs(shm), shared),
        ("/dev/mqueue", "mqueue", MountKind::Mqueue, plain),
    ]
    .into_iter()
    .chain(limited.then_some(cgroup))
    .map(|(destination, source, kind, flags)| MountConfig {
        destination: destination.into(),
        kind,
        flags,
        source: source.into(),
        make_mount_point: true,
    })
    .collect()
}

/// Who the program is.
#[derive(Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl User {
    /// From `UID[:GID]`, or the caller. Without a GID it is the UID's number.
    fn new(asked: Option<&str>) -> Result<Self> {
        let Some(asked) = asked else {
            return Ok(Self {
                uid: Uid::effective().as_raw(),
                gid: Gid::effective().as_raw(),
                groups: environment::groups()?,
            });
        };
        let id = |text: &str| match text.parse::<u32>() {
            // u32::MAX means "none" to the kernel.
            Ok(id) if id != u32::MAX && !text.starts_with('+') => Ok(id),
            _ => bail!("--user: {asked:?}: must be UID or UID:GID, in digits"),
        };
        let (uid, gid) = asked.split_once(':').unwrap_or((asked, asked));
        Ok(Self {
            uid: id(uid)?,
            gid: id(gid)?,
            groups: Vec::new(),
        })
    }
}

/// All for root, none for anybody else, as after a login.
fn capabilities(uid: u32) -> CapabilitySets {
    let all = environment::all_capabilities();
    let mine = if uid == 0 { all } else { 0 };
    CapabilitySets {
        bounding: all,
        effective: mine,
        permitted: mine,
        inheritable: 0,
        ambient: 0,
    }
}

/// The caller's environment with changes on top.
fn environment(
    own: impl Iterator<Item = (OsString, OsString)>,
    changes: Vec<OsString>,
) -> Result<Vec<Vec<u8>>> {
    let name_of = |entry: &[u8]| entry.iter().position(|b| *b == b'=');
    let mut env: Vec<Vec<u8>> = own
        .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
        .collect();
    for change in changes {
        let change = change.into_vec();
        let end = match name_of(&change) {
            Some(end) if end > 0 => end,
            _ => bail!(
                "--env: {:?}: must be NAME=VALUE",
                String::from_utf8_lossy(&change)
            ),
        };
        match env
            .iter_mut()
            .find(|entry| entry.starts_with(&change[..=end]))
        {
            Some(entry) => *entry = change,
            None => env.push(change),
        }
    }
    Ok(env)
}

fn working_directory(asked: Option<&Path>) -> Result<Vec<u8>> {
    let path = match asked {
        Some(path) => std::path::absolute(path).context("--cwd")?,
        None => std::env::current_dir().context("current directory")?,
    };
    Ok(path.into_os_string().into_vec())
}

/// As sethostname(2) has it.
fn check_hostname(name: &OsString) -> Result<()> {
    ensure!(
        name.len() <= 64,
        "--hostname: {name:?}: longer than 64 bytes"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let user = |uid, gid| User {
            uid,
            gid,
            groups: vec![],
        };
        assert_eq!(User::new(Some("7")).unwrap(), user(7, 7));
        assert_eq!(User::new(Some("7:8")).unwrap(), user(7, 8));
        for bad in [
            "",
            ":",
            "7:",
            ":7",
            "root",
            "-1",
            "+1",
            "4294967295",
            "1:2:3",
        ] {
            assert!(User::new(Some(bad)).is_err(), "{bad}");
        }
        let own = User::new(None).unwrap();
        assert_eq!(own.uid, Uid::effective().as_raw());
    }

    #[test]
    fn environment_is_the_callers_with_changes() {
        let own = [("A", "1"), ("AB", "2")].map(|(k, v)| (k.into(), v.into()));
        let env = environment(own.into_iter(), vec!["A=x=y".into(), "C=".into()]).unwrap();
        assert_eq!(env, [b"A=x=y".to_vec(), b"AB=2".to_vec(), b"C=".to_vec()]);
        for bad in ["", "A", "=x"] {
            assert!(
                environment([].into_iter(), vec![bad.into()]).is_err(),
                "{bad}"
            );
        }
    }
}
