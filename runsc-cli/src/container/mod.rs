//! What the commands do to containers: create, start, remove; and what they say of them.
//!
//! | module | |
//! |---|---|
//! | [`attend`] | waiting in the foreground |
//! | [`console`] | a terminal for a socket |
//! | [`hooks`] | programs that the configuration wants to be run |
//! | [`join`] | processes that join |

pub mod attend;
pub mod console;
pub mod hooks;
pub mod join;

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use oci_spec::runtime::LinuxNamespaceType;
use runsc_platform::process;
use runsc_sentry::{config::OverlayKind, control::ExitStatus};
use serde::Serialize;

use crate::{
    args::{self, GlobalArgs, Overlay, oci::CreateArgs},
    bundle::Bundle,
    cgroup::{Cgroup, Request},
    clock,
    environment::is_privileged,
    failure::{AtStage, Report, Stage},
    link::{self, Ask, Connection, Envelope, Tell},
    sandbox::{
        Holdings, Mappings, Network, Observation, Owner, Plan,
        monitor::{self, Keep},
        network, own_stdio, platform,
    },
    state::{Container, Locked, ProcessId, Record, StateRoot, Status, check_id},
};
use hooks::Kind;

/// How long what was killed may take to be gone.
const GRACE: Duration = Duration::from_secs(10);

/// What the specification calls the state, as runc prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateJson<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: &'a str,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    owner: String,
}

impl<'a> StateJson<'a> {
    pub fn of(container: &'a Container) -> Self {
        Self::at(container, container.status())
    }

    /// A line of `list`.
    pub fn row(&self) -> Vec<String> {
        vec![
            self.id.to_owned(),
            self.pid.to_string(),
            self.status.to_owned(),
            self.bundle.display().to_string(),
            self.created.to_owned(),
            self.owner.clone(),
        ]
    }

    fn at(container: &'a Container, status: Status) -> Self {
        let record = &container.record;
        Self {
            oci_version: &record.oci_version,
            id: &record.id,
            pid: container.pid(),
            status: status.name(),
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: &record.annotations,
            owner: owner_name(record.owner),
        }
    }
}

fn owner_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// What hooks read.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HookState<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    annotations: &'a BTreeMap<String, String>,
}

fn hook_state(container: &Container, status: Status) -> Result<Vec<u8>> {
    let record = &container.record;
    let state = HookState {
        oci_version: &record.oci_version,
        id: &record.id,
        status: status.name(),
        pid: Some(container.pid()).filter(|pid| *pid != 0),
        bundle: &record.bundle,
        annotations: &record.annotations,
    };
    Ok(serde_json::to_vec(&state)?)
}

/// Whether the command stays with what it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Attached,
    Detached,
}

/// A container that was created.
#[derive(Debug)]
pub struct Created {
    pub locked: Locked,
    pub bundle: Bundle,
    pub connection: Connection,
}

/// Creates a container, whose first program waits. Whatever fails leaves nothing behind.
pub fn create(
    global: &GlobalArgs,
    args: &CreateArgs,
    preserved: Vec<OwnedFd>,
    root: &StateRoot,
    presence: Presence,
) -> Result<Created> {
    check_id(&args.id)?;
    let mut observation = Observation::about(global, Some(&args.id))?;
    let bundle = Bundle::load(&args.bundle).at(Stage::Configuration)?;
    let mut plan = plan(global, args, &bundle, &observation, presence).at(Stage::Configuration)?;
    if presence == Presence::Detached {
        observation.detach(global);
        plan.boot.strace = observation.strace_config.clone();
        plan.boot.log_level = observation.log_level;
    }
    let mut record = Record {
        oci_version: bundle.oci_version().to_owned(),
        id: args.id.clone(),
        bundle: bundle.directory().to_path_buf(),
        rootfs: bundle.root()?.0,
        created: clock::rfc3339(SystemTime::now()),
        owner: Uid::effective().as_raw(),
        annotations: annotations(&bundle),
        reached: Status::Creating,
        creator: ProcessId::of(std::process::id() as i32)?,
        monitor: None,
        systemd_cgroup: global.systemd_cgroup,
        cgroup_begun: false,
        cgroup: None,
    };
    let locked = root.create(record.clone())?;
    let mut building = Building {
        may_fail: global.rootless == "true",
        locked: Some(locked),
        bundle: Some(bundle),
        monitor: None,
    };
    let connection = building.build(args, plan, preserved, &mut record, &observation, presence)?;
    let (locked, bundle) = building.finish()?;
    Ok(Created {
        locked,
        bundle,
        connection,
    })
}

/// What is undone unless it is finished.
struct Building {
    /// `--rootless=true`: without a cgroup if it has to be.
    may_fail: bool,
    locked: Option<Locked>,
    bundle: Option<Bundle>,
    monitor: Option<process::Child>,
}

impl Building {
    fn build(
        &mut self,
        args: &CreateArgs,
        mut plan: Plan,
        preserved: Vec<OwnedFd>,
        record: &mut Record,
        observation: &Observation,
        presence: Presence,
    ) -> Result<Connection> {
        let locked = self.locked.as_mut().context("no state")?;
        let bundle = self.bundle.as_ref().context("no bundle")?;
        let config = serde_json::to_vec(bundle.spec())?;
        crate::state::replace(&locked.directory.join("config.json"), &config, 0o600)?;
        let console = plan.boot.process.terminal && presence == Presence::Detached;
        if let (true, Some(socket)) = (console, &args.console_socket) {
            plan.stdio = console::make(socket, console_size(bundle)).at(Stage::Console)?;
        }
        let alive = Some(locked.alive()?);
        let sysctls = plan.boot.sysctls.clone();
        // Written down before, so that a creation that is cut short leaves no group behind.
        record.cgroup_begun = true;
        record.write(&locked.directory)?;
        let mut request = cgroup_request(record, bundle);
        request.privileged &= !self.may_fail;
        let made = Cgroup::create(&request).at(Stage::Cgroup);
        record.cgroup_begun = false;
        record.cgroup = made.as_ref().ok().cloned().flatten();
        record.write(&locked.directory)?;
        let cgroup = made?;
        let monitor::Started { child, connection } = monitor::spawn(Keep {
            plan,
            holdings: Holdings { preserved, alive },
            record: record.clone(),
            directory: locked.directory.clone(),
            console,
            observation,
            attached: presence == Presence::Attached,
        })
        .at(Stage::Monitor)?;
        let child = self.monitor.insert(child);
        if let Some(cgroup) = &cgroup {
            cgroup.enter(child.pid).at(Stage::Cgroup)?;
        }
        child.release().at(Stage::Monitor)?;
        match connection.recv() {
            Ok(Tell::Ready { warning }) => {
                if let Some(warning) = warning {
                    log::warn!("{warning}");
                }
            }
            Ok(Tell::Broken(report)) => return Err(in_runcs_words(report, bundle).into()),
            Ok(other) => bail!("monitor: unexpected {other:?}"),
            Err(error) => {
                let failure = child.failure().map(anyhow::Error::from);
                let error = failure.unwrap_or_else(|| anyhow!("it died: {error}"));
                return Err(error).at(Stage::Monitor);
            }
        }
        locked.refresh()?;
        log::debug!("container {} is kept by process {}", args.id, locked.pid());
        let hooks = bundle.spec().hooks().as_ref();
        let state = hook_state(locked, Status::Creating)?;
        for kind in [Kind::Prestart, Kind::CreateRuntime] {
            hooks::run(hooks, kind, &state).at(Stage::Hook)?;
        }
        hooks::run_in_network(hooks, Kind::CreateContainer, &state, locked.pid())
            .at(Stage::Hook)?;
        // As runc does, after hooks that set up the network.
        network::set_sysctls(&sysctls, locked.pid()).at(Stage::Namespaces)?;
        if let Some(path) = &args.pid_file {
            write_pid_file(path, locked.pid())?;
        }
        if presence == Presence::Detached {
            ask(&connection, Ask::Detach)?;
        }
        Ok(connection)
    }

    fn finish(mut self) -> Result<(Locked, Bundle)> {
        self.monitor = None;
        let parts = self.locked.take().zip(self.bundle.take());
        parts.context("nothing was created")
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        let Some(mut locked) = self.locked.take() else {
            return;
        };
        if let Some(monitor) = self.monitor.take() {
            // It is our child and not reaped, so the number is its.
            let _ = kill(Pid::from_raw(monitor.pid), Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(Pid::from_raw(monitor.pid), None);
        }
        let _ = locked.refresh();
        if let Err(error) = destroy(locked, self.bundle.as_ref()) {
            log::warn!("{error:#}");
        }
    }
}

fn annotations(bundle: &Bundle) -> BTreeMap<String, String> {
    let given = bundle.spec().annotations().clone().unwrap_or_default();
    let mut all: BTreeMap<_, _> = given.into_iter().collect();
    // runc notes it here.
    all.remove("bundle");
    all
}

fn console_size(bundle: &Bundle) -> Option<(u16, u16)> {
    let process = bundle.spec().process().as_ref()?;
    let size = process.console_size()?;
    let rows = u16::try_from(size.height()).ok()?;
    Some((rows, u16::try_from(size.width()).ok()?))
}

/// Where the container's network namespace comes from, and whether the guest reaches it. Without one
/// in the configuration it is the host's, as with runc. An ordinary user has none to give: where one
/// is asked for, the guest has loopback only.
fn network(global: &GlobalArgs, bundle: &Bundle) -> (Network, bool) {
    let reaches = global.network != args::Network::None;
    if global.network == args::Network::Host {
        return (Network::Inherited, true);
    }
    let linux = bundle.spec().linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    let network = namespaces
        .into_iter()
        .flatten()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    let namespace = match network.map(|namespace| namespace.path()) {
        None => return (Network::Inherited, reaches),
        Some(_) if !is_privileged() => return (Network::Inherited, false),
        Some(None) => Network::Own,
        Some(Some(path)) if path.as_os_str().is_empty() => Network::Own,
        Some(Some(path)) => Network::At(path.clone()),
    };
    (namespace, reaches)
}

fn plan(
    global: &GlobalArgs,
    args: &CreateArgs,
    bundle: &Bundle,
    observation: &Observation,
    presence: Presence,
) -> Result<Plan> {
    let overlay = match global.overlay {
        Overlay::Memory => OverlayKind::Memory,
        Overlay::None => OverlayKind::None,
    };
    let (mut boot, mut gofer) = bundle.translate(&args.id, overlay)?;
    boot.host_sockets = global.host_uds.into();
    gofer.sockets = boot.host_sockets;
    check_terminal(
        boot.process.terminal,
        args.console_socket.as_deref(),
        presence,
    )
    .context("config.json: process.terminal")?;
    boot.platform = platform::for_sandbox(global);
    boot.patch_code = !global.no_patch;
    boot.strace = observation.strace_config.clone();
    boot.log_level = observation.log_level;
    add_listen_fds(&mut boot.process.env);
    let stdio = own_stdio(&process::inherited()).context("stdio")?;
    let (network, outside) = network(global, bundle);
    // As in any rootless container, the caller's files are the container's root's.
    let owner = Owner::ROOT;
    Ok(Plan {
        boot,
        gofer,
        owner,
        stdio,
        mappings: match bundle.mappings()? {
            None if !is_privileged() => Mappings::subordinate(),
            given => given,
        },
        changes: None,
        network,
        outside,
        // The monitor enters it first.
        cgroup: None,
        in_cgroup: true,
    })
}

/// Whether a terminal can be had.
pub fn check_terminal(wanted: bool, socket: Option<&Path>, presence: Presence) -> Result<()> {
    match (wanted, presence, socket) {
        (true, Presence::Detached, None) => {
            bail!("cannot allocate tty if runc will detach without setting console socket")
        }
        (false, _, Some(_)) | (true, Presence::Attached, Some(_)) => {
            bail!("cannot use console socket if runc will not detach or allocate tty")
        }
        (true, Presence::Attached, None) => {
            ensure!(std::io::stdin().is_terminal(), "stdin is not a terminal");
        }
        _ => {}
    }
    Ok(())
}

/// How many files systemd's protocol hands on.
fn listen_fds() -> usize {
    let given = std::env::var("LISTEN_FDS").ok();
    given.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Our fds from 3 on: those of systemd's protocol, then as many as asked for.
pub fn preserved_fds(count: usize) -> Result<Vec<OwnedFd>> {
    let count = count.saturating_add(listen_fds());
    ensure!(
        count <= runsc_sentry::control::MAX_FDS / 2,
        "--preserve-fds: {count}: too many"
    );
    (3..)
        .take(count)
        .map(|fd| {
            process::duplicate(fd).with_context(|| format!("--preserve-fds: file descriptor {fd}"))
        })
        .collect()
}

pub fn add_listen_fds(env: &mut Vec<Vec<u8>>) {
    let count = listen_fds();
    if count > 0 {
        env.push(format!("LISTEN_FDS={count}").into_bytes());
        env.push(b"LISTEN_PID=1".to_vec());
    }
}

/// Writes a process id for whoever asked for it, as a whole.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    crate::state::replace(path, pid.to_string().as_bytes(), 0o644)
        .context("--pid-file")
        .at(Stage::State)
}

/// A program that is not there, in the words that runc's callers look for.
fn in_runcs_words(report: Report, bundle: &Bundle) -> Report {
    if report.stage != Stage::Program {
        return report;
    }
    let process = bundle.spec().process().as_ref();
    let args = process.and_then(|process| process.args().as_ref());
    let name = args.and_then(|args| args.first()).map_or("", |name| name);
    Report {
        message: program_error(name, &report.message),
        ..report
    }
}

/// `NAME: why` of the Sentry's as Go's exec package has it.
pub fn program_error(name: &str, message: &str) -> String {
    let why = message.strip_prefix(&format!("{name}: "));
    let why = match why.unwrap_or(message) {
        "command not found" if name.contains('/') => {
            format!("stat {name}: no such file or directory")
        }
        "command not found" => "executable file not found in $PATH".into(),
        other => other.to_owned(),
    };
    format!("unable to start container process: exec: {name:?}: {why}")
}

/// Asks for something that is answered with "done".
pub fn ask(connection: &Connection, ask: Ask) -> Result<()> {
    connection.send(&Envelope::new(ask))?;
    match connection.recv()? {
        Tell::Done => Ok(()),
        Tell::Refused(why) => bail!(crate::logging::printable(&why)),
        Tell::Broken(report) => Err(report.into()),
        other => bail!("the monitor answers {other:?}"),
    }
}

/// A connection to a container's monitor.
pub fn reach(container: &Container) -> Result<Connection> {
    match container.status() {
        Status::Stopped | Status::Creating => bail!("container not running"),
        _ => link::reach(&container.directory)?.context("container not running"),
    }
}

/// The configuration that was kept.
pub fn kept_bundle(container: &Container) -> Result<Bundle> {
    let path = container.directory.join("config.json");
    Bundle::kept(&path, &container.record.bundle)
}

/// Starts the first program of a container that was created.
pub fn start(container: &mut Locked, bundle: &Bundle, connection: &Connection) -> Result<()> {
    match container.status() {
        Status::Created => {}
        Status::Stopped => bail!("cannot start a container that has stopped"),
        Status::Running => bail!("cannot start an already running container"),
        other => bail!("cannot start a container in the {} state", other.name()),
    }
    let hooks = bundle.spec().hooks().as_ref();
    let state = hook_state(container, Status::Created)?;
    for (index, hook) in Kind::StartContainer.of(hooks).iter().enumerate() {
        join::run_hook(container, bundle, hook, &state)
            .with_context(|| format!("startContainer[{index}] ({})", hook.path().display()))
            .at(Stage::Hook)?;
    }
    connection.send(&Envelope::new(Ask::Start))?;
    match connection.recv()? {
        Tell::Started { .. } => {}
        Tell::NotStarted { message, .. } => {
            let report = Report::new(Stage::Program, crate::logging::printable(&message));
            return Err(in_runcs_words(report, bundle).into());
        }
        Tell::Refused(why) => bail!(crate::logging::printable(&why)),
        Tell::Broken(report) => return Err(report.into()),
        other => bail!("the monitor answers {other:?}"),
    }
    // It may have ended by now.
    container.refresh()?;
    let state = hook_state(container, Status::Running)?;
    let run = hooks::run(hooks, Kind::Poststart, &state).at(Stage::Hook);
    if run.is_err() {
        kill_monitor(container);
    }
    run
}

/// Kills the monitor, and everything with it.
pub fn kill_monitor(container: &Container) {
    if let Some(monitor) = container.record.monitor {
        kill_process(monitor);
    }
}

/// Kills the command that creates a container, for instance one that waits for a hook.
pub fn kill_creator(container: &Container) {
    kill_process(container.record.creator);
}

fn kill_process(process: ProcessId) {
    let Some(pid) = rustix::process::Pid::from_raw(process.pid) else {
        return;
    };
    // The descriptor first: the process it stands for is then looked at, and stays that one.
    let flags = rustix::process::PidfdFlags::empty();
    let Ok(pidfd) = rustix::process::pidfd_open(pid, flags) else {
        return;
    };
    if process.is_alive() {
        // Fails only if it is dead already.
        let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
    }
}

/// The control group of a container, as it was asked for.
fn cgroup_request<'a>(record: &'a Record, bundle: &'a Bundle) -> Request<'a> {
    bundle.cgroup(&record.id, record.systemd_cgroup, is_privileged())
}

/// Kills what is left of a container and removes it whole.
pub fn destroy(container: Locked, bundle: Option<&Bundle>) -> Result<()> {
    kill_monitor(&container);
    ensure!(
        container.wait_until_dead(GRACE)?,
        "container {}: something of it does not die",
        container.record.id
    );
    let kept = match bundle {
        Some(_) => None,
        // A creation that was cut short has none.
        None => kept_bundle(&container).ok(),
    };
    let bundle = bundle.or(kept.as_ref());
    match (&container.record.cgroup, bundle) {
        (Some(cgroup), _) => cgroup.destroy().at(Stage::Cgroup)?,
        // Its creation may have been cut short before that was written down.
        (None, Some(bundle)) if container.record.cgroup_begun => {
            let creator = container.record.creator.pid;
            Cgroup::remove_traces(&cgroup_request(&container.record, bundle), creator);
        }
        _ => {}
    }
    let state = hook_state(&container, Status::Stopped)?;
    container.remove()?;
    let hooks = bundle.and_then(|bundle| bundle.spec().hooks().as_ref());
    hooks::run_all(hooks, Kind::Poststop, &state);
    Ok(())
}

/// The exit status for what a process ended with.
pub fn exit_code(status: ExitStatus) -> u8 {
    status.shell_code()
}
