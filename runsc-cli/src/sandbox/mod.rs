//! Starting a sandbox: one Gofer, one Sentry and, where it reaches the outside, one network Gofer,
//! each with only the fds it needs.
//!
//! ```text
//! this process ──control──> Sentry ──channels──> Gofer
//!       ├────────control────────│───────^
//!       └────────control────────└──channels──> network Gofer
//! ```
//! All are this same program, executed again from /proc/self/exe with a hidden command; what they
//! are to do comes through a sealed memfd ([`payload`]). [`children`] is their life until the
//! crates they belong to take over, [`supervise`] what this process does meanwhile.
//!
//! All children die with this process: PDEATHSIG, and closed sockets should that come too late.

pub mod children;
pub mod empty_root;
pub mod filter;
mod id_maps;
pub mod monitor;
pub mod network;
pub mod payload;
pub mod platform;
pub mod supervise;
pub mod sweeper;

pub use supervise::{Outcome, Signals};

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::OpenOptionsExt},
    },
    path::Path,
};

use anyhow::{Context, Result};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        stat::{Mode as Permissions, SFlag, fstat},
        termios::{Termios, tcgetattr},
    },
};
use runsc_gofer::{network as wire, server::ServerConfig};
use runsc_platform::process::{self, Child, Inherited, Spawn};
use runsc_sentry::{
    config::{BootConfig, LogLevel, StraceConfig},
    control,
};

use crate::{args::GlobalArgs, cgroup::Cgroup, environment, logging::Format};
use id_maps::Ids;
pub use id_maps::{IdRange, Mappings, Owner};
pub use network::Network;
pub use payload::Mode;
use payload::{GoferPayload, NetworkPayload, SentryPayload};

/// Requests the Sentry can have at the Gofer at the same time.
const CHANNELS: usize = 4;

/// What both containers and `do` ask for.
#[derive(Debug)]
pub struct Plan {
    pub boot: BootConfig,
    pub gofer: ServerConfig,
    /// Whom an ordinary user's files belong to inside. Root's view needs no such change.
    pub owner: Owner,
    /// Which ids of the host the files inside have; without, the caller's ids as they are, or his own
    /// as `owner`.
    pub mappings: Option<Mappings>,
    pub stdio: [Option<OwnedFd>; 3],
    /// Where the Sentry tells what has changed.
    pub changes: Option<OwnedFd>,
    pub network: Network,
    /// Whether the guest reaches that namespace, through a network Gofer; else it has loopback only.
    pub outside: bool,
    /// What all processes are in before they run.
    pub cgroup: Option<Cgroup>,
    /// Whether who starts them is in it, as they are with him then; else they are put into it.
    pub in_cgroup: bool,
}

/// What only a container's sandbox holds.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Files of the guest's, from its fd 3 on.
    pub preserved: Vec<OwnedFd>,
    /// Kept open by both children (see `crate::state`).
    pub alive: Option<OwnedFd>,
}

/// Files and switches from the global options.
#[derive(Debug)]
pub struct Observation {
    pub log: Option<OwnedFd>,
    pub log_format: Format,
    pub strace: Option<OwnedFd>,
    /// Of the children.
    pub log_level: LogLevel,
    pub strace_config: StraceConfig,
}

impl Observation {
    /// Opens the files; also sets up this process's own log.
    pub fn new(global: &GlobalArgs) -> Result<Self> {
        Self::about(global, None)
    }

    /// The same for a container, which may have a log of its own.
    pub fn about(global: &GlobalArgs, id: Option<&str>) -> Result<Self> {
        let stderr = || std::io::stderr().as_fd().try_clone_to_owned();
        let own = match (&global.log_dir, id) {
            (Some(directory), Some(id)) => Some(directory.join(format!("{id}.log"))),
            _ => None,
        };
        // Where everything goes, and in which form.
        let (path, log_format) = match (&global.debug_log, &own, &global.log) {
            (Some(path), _, _) => (Some(path), Format::Plain),
            (None, Some(path), _) => (Some(path), Format::Plain),
            (None, None, Some(path)) => (Some(path), global.log_format.into()),
            (None, None, None) => (None, Format::Plain),
        };
        let log = match path {
            Some(path) => open_log(path)?,
            None => stderr()?,
        };
        let debug = global.debug || global.debug_log.is_some();
        // Without --debug the children's last words are the report that this process prints.
        let (level, log_level) = match (debug, &own) {
            (true, _) => (LogLevel::Debug, LogLevel::Debug),
            (false, Some(_)) => (LogLevel::Info, LogLevel::Info),
            (false, None) => (LogLevel::Warn, LogLevel::Off),
        };
        crate::logging::init("cli", level.into(), log_format, log.try_clone()?);
        let enabled = global.strace || global.strace_log.is_some();
        let strace = match &global.strace_log {
            Some(path) => Some(open_log(path)?),
            None if enabled => Some(stderr()?),
            None => None,
        };
        let strace_config = StraceConfig {
            enabled,
            only: Vec::new(),
        };
        Ok(Self {
            log: Some(log),
            log_format,
            strace,
            log_level,
            strace_config,
        })
    }

    /// For a sandbox that outlives this command: it does not hold on to our stderr.
    pub fn detach(&mut self, global: &GlobalArgs) {
        if global.debug_log.is_none() && global.log_dir.is_none() && global.log.is_none() {
            self.log = None;
            self.log_level = LogLevel::Off;
        }
        if global.strace_log.is_none() {
            self.strace = None;
            self.strace_config.enabled = false;
        }
    }
}

/// Opens a log to append to it.
pub fn open_log(path: &Path) -> Result<OwnedFd> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path);
    Ok(file
        .with_context(|| format!("log file: {}", path.display()))?
        .into())
}

/// This process's stdio as the guest gets it: what was closed stays closed.
pub fn own_stdio(inherited: &Inherited) -> Result<[Option<OwnedFd>; 3]> {
    let open = |fd: BorrowedFd<'_>, closed: bool| -> Result<Option<OwnedFd>> {
        if closed {
            return Ok(None);
        }
        match reopen(fd) {
            Some(own) => Ok(Some(own)),
            None => Ok(Some(fd.try_clone_to_owned()?)),
        }
    };
    let [stdin, stdout, stderr] = inherited.closed_stdio;
    Ok([
        open(std::io::stdin().as_fd(), stdin)?,
        open(std::io::stdout().as_fd(), stdout)?,
        open(std::io::stderr().as_fd(), stderr)?,
    ])
}

/// A pipe or terminal once more, as an open file description of our own that does not block. The
/// Sentry must not block on them, and those we were given are shared with others, whom
/// O_NONBLOCK would surprise. `None` for anything else, and where the caller may not open it.
pub fn reopen(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let kind = SFlag::from_bits_truncate(fstat(fd).ok()?.st_mode) & SFlag::S_IFMT;
    let is_terminal = kind == SFlag::S_IFCHR && tcgetattr(fd).is_ok();
    if kind != SFlag::S_IFIFO && !is_terminal {
        return None;
    }
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).ok()?);
    let flags = (flags & OFlag::O_ACCMODE) | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    nix::fcntl::open(path.as_str(), flags, Permissions::empty()).ok()
}

/// A running sandbox.
#[derive(Debug)]
pub struct Sandbox {
    sentry: Process,
    gofer: Process,
    /// Until it dies, which ends nothing but new sockets to the outside.
    network: Option<Process>,
    /// The terminal's settings from before, should the guest leave it in a strange state.
    terminal: Option<Termios>,
    /// The root of the file system with the guest's memory.
    memory: Option<OwnedFd>,
    /// What the user should know about its start.
    warning: Option<String>,
}

/// A child and the connection to it.
#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
    control: control::Client,
    /// How it ended, once it has been reaped.
    ended: Option<supervise::Ended>,
}

impl Sandbox {
    /// Starts both processes. Signals must be blocked already (see [`Signals`]).
    pub fn start(plan: Plan, observation: &Observation, mode: Mode) -> Result<Self> {
        Self::start_holding(plan, &Holdings::default(), observation, mode)
    }

    pub fn start_holding(
        mut plan: Plan,
        holdings: &Holdings,
        observation: &Observation,
        mode: Mode,
    ) -> Result<Self> {
        let terminal = tcgetattr(std::io::stdin()).ok();
        let parts = Parts::new(plan.cgroup, plan.in_cgroup)?;
        let (client_ends, server_ends) = runsc_gofer::client::channel_pairs(CHANNELS)?;
        let owners = (plan.owner, plan.mappings);
        let gofer = parts.gofer(plan.gofer, owners, &server_ends, holdings, observation)?;
        drop(server_ends);
        let (network_ends, network) = match plan.outside {
            true => {
                let (ends, channels) = wire::client::pairs()?;
                (
                    Some(ends),
                    Some(parts.network(&channels, holdings, observation)?),
                )
            }
            false => (None, None),
        };
        let (kvm, warning) = platform::device_for(&mut plan.boot.platform)?;
        let ends = SentryEnds {
            kvm: kvm.as_ref(),
            channels: &client_ends,
            network: network_ends.as_ref(),
            stdio: &plan.stdio,
            changes: plan.changes.as_ref(),
        };
        let sentry = parts.sentry(plan.boot, ends, holdings, observation, mode)?;
        log::debug!(
            "gofer is process {}, sentry {}",
            gofer.child.pid,
            sentry.child.pid
        );
        Ok(Self {
            sentry,
            gofer,
            network,
            terminal,
            memory: None,
            warning,
        })
    }

    /// The Sentry's process id.
    pub fn sentry(&self) -> i32 {
        self.sentry.child.pid
    }
}

/// Starts this program again with a hidden command, which waits at its gate.
pub fn spawn_self(command: &str, fds: &[BorrowedFd<'_>]) -> Result<Child> {
    let parts = Parts::new(None, false)?;
    let args = [CString::new("runsc-rs")?, CString::new(command)?];
    process::spawn(&Spawn {
        program: parts.program.as_fd(),
        args: &args,
        env: &parts.env,
        namespaces: 0,
        fds,
        blocked_signals: 0,
    })
    .with_context(|| format!("{command}: cannot be started"))
}

/// What only the Sentry gets.
struct SentryEnds<'a> {
    /// The device of that platform.
    kvm: Option<&'a OwnedFd>,
    /// The Gofer's.
    channels: &'a [OwnedFd],
    network: Option<&'a wire::client::Ends>,
    /// The guest's.
    stdio: &'a [Option<OwnedFd>; 3],
    /// Where changes are told.
    changes: Option<&'a OwnedFd>,
}

/// What both children are started with.
struct Parts {
    program: File,
    null: File,
    env: Vec<CString>,
    privileged: bool,
    cgroup: Option<Cgroup>,
    in_cgroup: bool,
}

impl Parts {
    fn new(cgroup: Option<Cgroup>, in_cgroup: bool) -> Result<Self> {
        let program = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open("/proc/self/exe")
            .context("/proc/self/exe")?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let mut env = Vec::new();
        // What helps to debug our own processes, and nothing else of the caller's.
        for name in ["RUST_BACKTRACE", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                env.push(CString::new(
                    [name.as_bytes(), b"=", &value.into_vec()].concat(),
                )?);
            }
        }
        Ok(Self {
            program,
            null: null.context("/dev/null")?,
            env,
            privileged: environment::is_privileged(),
            cgroup,
            in_cgroup,
        })
    }

    fn gofer(
        &self,
        mut server: ServerConfig,
        (owner, mappings): (Owner, Option<Mappings>),
        channels: &[OwnedFd],
        holdings: &Holdings,
        observation: &Observation,
    ) -> Result<Process> {
        let ids = match mappings {
            Some(mappings) => Some(Ids::Mapped(mappings)),
            None if self.privileged => None,
            None => {
                let (ids, disguise) = Ids::of_owner(owner);
                server.disguise = disguise;
                Some(ids)
            }
        };
        let payload = GoferPayload {
            server,
            is_mapped: matches!(ids, Some(Ids::Mapped(_))),
            channels: channels.len(),
            log: observation.log.is_some(),
            log_format: observation.log_format,
            alive: holdings.alive.is_some(),
            log_level: observation.log_level,
        };
        let fds = channels
            .iter()
            .chain(&observation.log)
            .chain(&holdings.alive)
            .map(AsFd::as_fd);
        self.process(Part {
            name: "gofer",
            payload: payload.to_memfd()?,
            fds: fds.collect(),
            ids,
            network: libc::CLONE_NEWNET,
        })
    }

    /// It stays in our network namespace. Root's keeps root's rights until it gives them up by itself:
    /// in a user namespace of its own it would have none over the network.
    fn network(
        &self,
        channels: &wire::server::Channels,
        holdings: &Holdings,
        observation: &Observation,
    ) -> Result<Process> {
        let payload = NetworkPayload {
            log: observation.log.is_some(),
            log_format: observation.log_format,
            alive: holdings.alive.is_some(),
            log_level: observation.log_level,
        };
        let fds = [&channels.requests, &channels.changes];
        let fds = fds
            .into_iter()
            .chain(&observation.log)
            .chain(&holdings.alive)
            .map(AsFd::as_fd);
        self.process(Part {
            name: "network-gofer",
            payload: payload.to_memfd()?,
            fds: fds.collect(),
            ids: (!self.privileged).then_some(Ids::CallerAs(Owner::ROOT)),
            network: 0,
        })
    }

    fn sentry(
        &self,
        boot: BootConfig,
        ends: SentryEnds<'_>,
        holdings: &Holdings,
        observation: &Observation,
        mode: Mode,
    ) -> Result<Process> {
        let SentryEnds {
            kvm,
            channels,
            network,
            stdio,
            changes,
        } = ends;
        let memory_use = match &self.cgroup {
            Some(cgroup) => cgroup.memory_use()?,
            None => None,
        };
        let payload = SentryPayload {
            boot,
            mode,
            channels: channels.len(),
            network: network.is_some(),
            stdio: stdio.each_ref().map(Option::is_some),
            preserved: holdings.preserved.len(),
            memory_use: memory_use.is_some(),
            kvm: kvm.is_some(),
            changes: changes.is_some(),
            log: observation.log.is_some(),
            log_format: observation.log_format,
            strace: observation.strace.is_some(),
            alive: holdings.alive.is_some(),
        };
        let fds = channels
            .iter()
            .chain(
                network
                    .into_iter()
                    .flat_map(|ends| [&ends.requests, &ends.changes]),
            )
            .chain(stdio.iter().flatten())
            .chain(&holdings.preserved)
            .chain(memory_use.iter().flatten())
            .chain(kvm)
            .chain(changes)
            .chain(&observation.log)
            .chain(&observation.strace)
            .chain(&holdings.alive)
            .map(AsFd::as_fd);
        let ids = if self.privileged {
            Ids::CallerAndNobody
        } else {
            Ids::CallerAs(Owner::caller())
        };
        self.process(Part {
            name: "sentry",
            payload: payload.to_memfd()?,
            fds: fds.collect(),
            ids: Some(ids),
            network: libc::CLONE_NEWNET,
        })
    }

    fn process(&self, part: Part<'_>) -> Result<Process> {
        let name = part.name;
        let (control, theirs) = control::pair().context("control socket")?;
        let stderr = std::io::stderr();
        let null = self.null.as_fd();
        let mut fds = vec![
            null,
            null,
            stderr.as_fd(),
            part.payload.as_fd(),
            theirs.as_fd(),
        ];
        fds.extend(part.fds);
        let args = [CString::new("runsc-rs")?, CString::new(name)?];
        let mut namespaces = libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | part.network
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS;
        if part.ids.is_some() {
            namespaces |= libc::CLONE_NEWUSER;
        }
        let child = process::spawn(&Spawn {
            program: self.program.as_fd(),
            args: &args,
            env: &self.env,
            namespaces,
            fds: &fds,
            blocked_signals: 0,
        })
        .with_context(|| {
            format!(
                "{name}: cannot make its namespaces{}",
                hint(part.ids.as_ref())
            )
        })?;
        // From here on it is killed and reaped, however this ends.
        let mut process = Process {
            name,
            child,
            control,
            ended: None,
        };
        if let Some(ids) = &part.ids {
            id_maps::write(process.child.pid, ids)
                .with_context(|| format!("{name}: cannot map its user and group ids"))?;
        }
        if let Some(cgroup) = self.cgroup.as_ref().filter(|_| !self.in_cgroup) {
            let entered = cgroup.enter(process.child.pid);
            entered.with_context(|| format!("{name}: cannot enter its cgroup"))?;
        }
        let released = process.child.release();
        released.with_context(|| format!("{name}: cannot be started"))?;
        Ok(process)
    }
}

/// What an ordinary user can do about namespaces that are refused.
fn hint(ids: Option<&Ids>) -> &'static str {
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
    match ids {
        Some(_) if limit.is_ok_and(|limit| limit.trim() == "0") => {
            " (user.max_user_namespaces is 0)"
        }
        _ => "",
    }
}

/// What a child is to be.
struct Part<'a> {
    name: &'static str,
    payload: File,
    /// In the payload's order.
    fds: Vec<BorrowedFd<'a>>,
    /// Ids of its user namespace; `None` leaves it in ours.
    ids: Option<Ids>,
    /// CLONE_NEWNET, or 0 to stay in our network namespace.
    network: i32,
}
