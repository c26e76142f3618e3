//! The monitor: the process that keeps a container's sandbox while commands come and go.
//!
//! It stands for the container on the host: its id is in the pid file, signals for it are the first
//! guest process's, and it ends with that one's status. Its children are the Gofer and the Sentry,
//! which die with it. Commands reach it over the container's socket (`crate::link`); until
//! [`Ask::Detach`] it dies with the command that creates the container.
//!
//! One thread and one poll(2): what a command asks is passed to the Sentry with a number, and the
//! Sentry's answer finds its way back by that number. A process that a command starts in the container
//! has the connection's number, and dies when that closes.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::PathBuf,
};

use anyhow::{Context, Result, bail, ensure};
use caps::{CapSet, Capability};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::prctl,
    unistd::setsid,
};
use runsc_gofer::server::ServerConfig;
use runsc_platform::process::{self, Child};
use runsc_sentry::{
    config::{BootConfig, LogLevel, StraceConfig},
    control::{self, Answer, Event, ExitStatus, Query, Request, SignalTarget},
};
use serde::{Deserialize, Serialize};

use super::{
    Holdings, Mappings, Mode, Network, Observation, Outcome, Owner, Plan, Sandbox, Signals,
    children::die_with_parent,
    filter,
    payload::{self, Fds},
    supervise::{self, Next},
};
use crate::{
    cgroup::{self, Cgroup, Oom},
    failure::{AtStage, Report, Stage},
    link::{self, Ask, Connection, Tell, Visitor},
    logging::{self, printable},
    state::{ProcessId, Reached, Record, Status},
};

/// Most connections at a time.
const MAX_VISITORS: usize = 512;

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
    let plan = Plan {
        boot: payload.boot,
        gofer: payload.gofer,
        owner: Owner { uid, gid },
        stdio,
        mappings: payload.mappings,
        changes: None,
        network: payload.network,
        outside: payload.outside,
        cgroup: payload.record.cgroup.clone(),
    };
    let begin = || -> Result<Monitor> {
        setsid().context("setsid").at(Stage::Monitor)?;
        plan.network
            .join(&plan.boot.sysctls)
            .at(Stage::Namespaces)?;
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

/// See the module documentation.
struct Monitor {
    sandbox: Sandbox,
    signals: Signals,
    record: Record,
    note: Reached,
    /// Where there is a control group for memory.
    oom: Option<Oom>,
    listener: OwnedFd,
    visitors: BTreeMap<u64, Visit>,
    next: u64,
    /// Which visitor waits for the first program.
    starting: Option<u64>,
    /// Questions to the Sentry by number, and who asked them.
    asked: BTreeMap<u64, (u64, Query)>,
    /// What a pause has interrupted.
    before_pause: Status,
    /// Dies with the command that created the container.
    attached: bool,
}

/// A connection.
struct Visit {
    visitor: Visitor,
    /// It has started a process, or the container itself.
    runs: Runs,
    /// It wants to know when memory runs out.
    watches: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runs {
    Nothing,
    Container,
    Process,
}

/// The number of the connection to the creator.
const CREATOR: u64 = 0;

impl Monitor {
    /// Starts the sandbox and waits until it is ready for its first program.
    fn start(start: Start, signals: Signals, observation: &Observation) -> Result<Self> {
        let Start {
            plan,
            holdings,
            mut record,
            directory,
        } = start;
        record.monitor = Some(ProcessId::of(std::process::id() as i32)?);
        let note = Reached::begin(&directory).at(Stage::State)?;
        record.write(&directory).at(Stage::State)?;
        let mut sandbox = Sandbox::start_holding(plan, &holdings, observation, Mode::Prepare)
            .at(Stage::Sandbox)?;
        match sandbox.until_prepared(&signals).at(Stage::Sandbox)? {
            None => {}
            Some(Outcome::StartFailed { message, .. }) => {
                return Err(Report::new(Stage::Program, message).into());
            }
            Some(Outcome::Broken(report)) => {
                return Err(Report::new(Stage::Sandbox, report).into());
            }
            Some(Outcome::Exited(_)) => bail!(Report::new(Stage::Sandbox, "it ended at once")),
        }
        let listener = link::serve(&directory).at(Stage::State)?;
        let oom = record.cgroup.as_ref().map(Cgroup::oom).transpose();
        let oom = oom.at(Stage::Cgroup)?.flatten();
        give_up_rights().at(Stage::Monitor)?;
        record.reached = Status::Created;
        note.set(record.reached).at(Stage::State)?;
        // What /proc tells is remembered: it is out of reach from here on.
        process::release_start_up_memory();
        filter::monitor().install().at(Stage::Monitor)?;
        Ok(Self {
            sandbox,
            signals,
            record,
            note,
            oom,
            listener,
            visitors: BTreeMap::new(),
            next: CREATOR + 1,
            starting: None,
            asked: BTreeMap::new(),
            before_pause: Status::Running,
            attached: true,
        })
    }

    /// Serves until the container's end.
    fn keep(mut self, creator: Visitor) -> Result<u8> {
        let told = creator.send(&Tell::Ready);
        let visit = Visit {
            visitor: creator,
            runs: Runs::Container,
            watches: false,
        };
        self.visitors.insert(CREATOR, visit);
        if told.is_err() {
            return Ok(BROKEN);
        }
        let outcome = self
            .serve()
            .unwrap_or_else(|error| Some(Outcome::Broken(printable(&format!("{error:#}")))));
        let Some(outcome) = outcome else {
            return Ok(BROKEN);
        };
        let outcome = cgroup::explain(outcome, self.oom.as_ref().map(Oom::kills));
        Ok(self.conclude(&outcome))
    }

    /// Tells everybody how it ended.
    fn conclude(&mut self, outcome: &Outcome) -> u8 {
        let killed = ExitStatus::Signal {
            signo: libc::SIGKILL,
            core_dumped: false,
        };
        let (code, tell) = match outcome {
            Outcome::Exited(status) => (status.shell_code(), Tell::Exited(*status)),
            Outcome::StartFailed { exit_code, message } => (
                *exit_code,
                Tell::NotStarted {
                    exit_code: *exit_code,
                    message: message.clone(),
                },
            ),
            Outcome::Broken(report) => {
                log::error!("{report}");
                (BROKEN, Tell::Broken(Report::new(Stage::Sandbox, report)))
            }
        };
        log::debug!("the container has ended with status {code}");
        for (id, visit) in &self.visitors {
            let tell = match visit.runs {
                Runs::Container => tell.clone(),
                Runs::Process => Tell::Exited(killed),
                Runs::Nothing if self.starting == Some(*id) => tell.clone(),
                Runs::Nothing if self.asked.values().any(|(asker, _)| asker == id) => {
                    Tell::Refused("container not running".into())
                }
                Runs::Nothing => continue,
            };
            // Whoever is gone need not be told.
            let _ = visit.visitor.send(&tell);
        }
        code
    }

    /// Until the sandbox ends, or (`None`) the command that it is to die with.
    fn serve(&mut self) -> Result<Option<Outcome>> {
        loop {
            let ids: Vec<u64> = self.visitors.keys().copied().collect();
            // More have to wait outside.
            let welcome = match ids.len() < MAX_VISITORS {
                true => PollFlags::POLLIN,
                false => PollFlags::empty(),
            };
            let (control, signal, gofer, sentry, listener, network, visitors) = {
                let sandbox = &self.sandbox;
                let mut fds = vec![
                    PollFd::new(sandbox.sentry.control.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                    PollFd::new(sandbox.gofer.child.pidfd.as_fd(), PollFlags::POLLIN),
                    PollFd::new(sandbox.sentry.child.pidfd.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.listener.as_fd(), welcome),
                ];
                let network = sandbox.network.as_ref().unwrap_or(&sandbox.gofer);
                fds.push(PollFd::new(network.child.pidfd.as_fd(), PollFlags::POLLIN));
                for visit in self.visitors.values() {
                    fds.push(PollFd::new(visit.visitor.as_fd(), PollFlags::POLLIN));
                }
                match poll(&mut fds, PollTimeout::NONE) {
                    Err(nix::Error::EINTR) => continue,
                    result => result.context("poll")?,
                };
                let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
                let visitors = ready[6..].to_vec();
                (
                    ready[0], ready[1], ready[2], ready[3], ready[4], ready[5], visitors,
                )
            };
            if network {
                self.sandbox.network_ended()?;
            }
            if signal {
                self.sandbox.forward(&self.signals)?;
            }
            if control {
                match self.sandbox.sentry.control.recv() {
                    Ok(event) => {
                        if let Some(outcome) = self.on_event(event)? {
                            return Ok(Some(outcome));
                        }
                        continue;
                    }
                    Err(control::Error::Closed) => {}
                    Err(error) => return Ok(Some(Outcome::Broken(format!("sentry: {error}")))),
                }
            }
            if control || gofer || sentry {
                return self.sandbox.post_mortem().map(Some);
            }
            if listener && let Some(visitor) = link::accept(&self.listener)? {
                let visit = Visit {
                    visitor,
                    runs: Runs::Nothing,
                    watches: false,
                };
                self.visitors.insert(self.next, visit);
                self.next += 1;
            }
            for (id, ready) in ids.into_iter().zip(visitors) {
                if ready && !self.hear(id)? {
                    return Ok(None);
                }
            }
        }
    }

    /// Hears what a visitor asks. False if the container is to end with it.
    fn hear(&mut self, id: u64) -> Result<bool> {
        let Some(visit) = self.visitors.get(&id) else {
            return Ok(true);
        };
        let (envelope, fds) = match visit.visitor.recv_with() {
            Ok(received) => received,
            Err(control::Error::Malformed(_)) => {
                self.tell(id, &Tell::Refused(unknown_version()));
                return self.leave(id);
            }
            Err(_) => return self.leave(id),
        };
        let ask = match envelope.open() {
            Ok(ask) => ask,
            Err(error) => {
                self.tell(id, &Tell::Refused(error.to_string()));
                return self.leave(id);
            }
        };
        log::debug!("visitor {id} asks: {ask:?}");
        self.carry_out(id, ask, fds)?;
        Ok(true)
    }

    /// A visitor is gone, and what it ran.
    fn leave(&mut self, id: u64) -> Result<bool> {
        let Some(visit) = self.visitors.remove(&id) else {
            return Ok(true);
        };
        match visit.runs {
            Runs::Container => return Ok(!self.attached),
            Runs::Process => self.sandbox.tell(&Request::Signal {
                signo: libc::SIGKILL,
                target: SignalTarget::Joined(id),
            })?,
            Runs::Nothing => {}
        }
        Ok(true)
    }

    fn tell(&mut self, id: u64, tell: &Tell) {
        if let Some(visit) = self.visitors.get(&id)
            && visit.visitor.send(tell).is_err()
        {
            log::debug!("visitor {id} does not listen");
            // It holds us up once; the loop then finds it gone.
            let _ = rustix::net::shutdown(&visit.visitor, rustix::net::Shutdown::Both);
        }
    }

    fn carry_out(&mut self, id: u64, ask: Ask, fds: Vec<OwnedFd>) -> Result<()> {
        match ask {
            Ask::Detach => {
                if id == CREATOR {
                    prctl::set_pdeathsig(None).context("PDEATHSIG")?;
                    self.attached = false;
                }
                self.tell(id, &Tell::Done);
            }
            Ask::Start if self.record.reached == Status::Created && self.starting.is_none() => {
                self.starting = Some(id);
                self.sandbox.tell(&Request::Start)?;
            }
            Ask::Start => {
                let reached = self.record.reached.name();
                let why = format!("cannot start a container that is {reached}");
                self.tell(id, &Tell::Refused(why));
            }
            Ask::Signal { signo, all } => {
                let target = if all {
                    SignalTarget::All
                } else {
                    SignalTarget::Init
                };
                self.sandbox.tell(&Request::Signal { signo, target })?;
                self.tell(id, &Tell::Done);
            }
            Ask::Pause => self.query(id, Query::Pause)?,
            Ask::Resume => self.query(id, Query::Resume)?,
            Ask::Processes => self.query(id, Query::Processes)?,
            Ask::Stats => self.query(id, Query::Stats)?,
            Ask::Limits(limits) => self.query(id, Query::Limits(limits))?,
            Ask::Memory => self.show_memory(id),
            Ask::Watch => {
                if let Some(visit) = self.visitors.get_mut(&id) {
                    visit.watches = true;
                }
                self.tell(id, &Tell::Done);
            }
            Ask::Exec { files } => self.exec(id, files, &fds)?,
            Ask::Forward { signo, foreground } => self.forward(id, signo, foreground)?,
            Ask::Foreground(foreground) => {
                if self.runs(id) == Runs::Container {
                    self.sandbox.tell(&Request::Terminal { foreground })?;
                }
            }
        }
        Ok(())
    }

    fn runs(&self, id: u64) -> Runs {
        self.visitors
            .get(&id)
            .map_or(Runs::Nothing, |visit| visit.runs)
    }

    fn query(&mut self, asker: u64, what: Query) -> Result<()> {
        if self.asked.values().any(|(other, _)| *other == asker) {
            // Answers to two questions could not be told apart.
            self.tell(asker, &Tell::Refused("one question at a time".into()));
            return Ok(());
        }
        let id = self.next;
        self.next += 1;
        self.asked.insert(id, (asker, what.clone()));
        self.sandbox.tell(&Request::Query { id, what })
    }

    /// Hands out the file system that holds the guest's memory.
    fn show_memory(&mut self, id: u64) {
        let (Some(visit), Some(memory)) = (self.visitors.get(&id), &self.sandbox.memory) else {
            return;
        };
        if visit
            .visitor
            .send_with(&Tell::Done, &[memory.as_fd()])
            .is_err()
        {
            log::debug!("visitor {id} does not listen");
        }
    }

    fn exec(&mut self, id: u64, files: Vec<i32>, fds: &[OwnedFd]) -> Result<()> {
        let Some(visit) = self.visitors.get_mut(&id) else {
            return Ok(());
        };
        if visit.runs != Runs::Nothing {
            self.tell(id, &Tell::Refused("it runs a process already".into()));
            return Ok(());
        }
        visit.runs = Runs::Process;
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let request = Request::Join { id, files };
        match self.sandbox.sentry.control.send_with(&request, &fds) {
            // Its end is noticed by the loop.
            Ok(()) | Err(control::Error::Closed) => Ok(()),
            Err(error) => Err(error).context("telling the Sentry"),
        }
    }

    fn forward(&mut self, id: u64, signo: i32, foreground: bool) -> Result<()> {
        let target = match (self.runs(id), foreground) {
            (Runs::Nothing, _) => return Ok(()),
            (Runs::Container, true) => SignalTarget::Foreground,
            (Runs::Container, false) => SignalTarget::Init,
            (Runs::Process, true) => SignalTarget::JoinedForeground(id),
            (Runs::Process, false) => SignalTarget::Joined(id),
        };
        self.sandbox.tell(&Request::Signal { signo, target })
    }

    fn on_event(&mut self, event: Event) -> Result<Option<Outcome>> {
        match event {
            Event::Started => {
                self.reach(Status::Running)?;
                if let Some(id) = self.starting.take() {
                    self.tell(id, &Tell::Started { pid: 1 });
                }
                process::release_start_up_memory();
            }
            Event::Joined { id, pid } => {
                if self.runs(id) == Runs::Process {
                    self.tell(id, &Tell::Started { pid });
                }
            }
            Event::JoinFailed {
                id,
                exit_code,
                message,
            } => {
                if self.runs(id) == Runs::Process {
                    let message = printable(&message);
                    self.tell(id, &Tell::NotStarted { exit_code, message });
                    self.visitors.remove(&id);
                }
            }
            Event::JoinedExited { id, status } => {
                if self.runs(id) == Runs::Process {
                    self.tell(id, &Tell::Exited(status));
                    self.visitors.remove(&id);
                }
            }
            Event::Answer { id, answer } => self.answer(id, answer)?,
            Event::OutOfMemory { pid } => self.out_of_memory(pid)?,
            event => return self.sandbox.end_of(event),
        }
        Ok(None)
    }

    /// Says so, to the host as well.
    fn out_of_memory(&mut self, pid: i32) -> Result<()> {
        supervise::tell_out_of_memory(pid);
        if let Some(oom) = &mut self.oom
            && let Err(error) = oom.declare()
        {
            log::warn!("out of memory, but the host does not count it: {error:#}");
        }
        self.sandbox.tell(&Request::OutOfMemorySeen)?;
        let watching = self.visitors.iter().filter(|(_, visit)| visit.watches);
        let watching: Vec<u64> = watching.map(|(id, _)| *id).collect();
        for id in watching {
            self.tell(id, &Tell::OutOfMemory { pid });
        }
        Ok(())
    }

    fn answer(&mut self, id: u64, answer: Answer) -> Result<()> {
        let Some((asker, what)) = self.asked.remove(&id) else {
            return Ok(());
        };
        if matches!(answer, Answer::Processes { more: true, .. }) {
            self.asked.insert(id, (asker, what.clone()));
        }
        let tell = match answer {
            Answer::Processes { list, more } => Tell::Processes { list, more },
            Answer::Stats(stats) => Tell::Stats(stats),
            Answer::Done => {
                // True even if nobody waits for it any more.
                match what {
                    Query::Pause if self.record.reached != Status::Paused => {
                        self.before_pause = self.record.reached;
                        self.reach(Status::Paused)?;
                    }
                    Query::Resume if self.record.reached == Status::Paused => {
                        self.reach(self.before_pause)?;
                    }
                    _ => {}
                }
                Tell::Done
            }
        };
        self.tell(asker, &tell);
        Ok(())
    }

    /// Writes down what holds from now on.
    fn reach(&mut self, status: Status) -> Result<()> {
        self.record.reached = status;
        self.note.set(status)
    }
}

fn unknown_version() -> String {
    format!(
        "this container is kept by a runsc-rs that speaks version {} of the control protocol",
        link::VERSION
    )
}

impl Sandbox {
    /// Waits until the Sentry has prepared the first program; `Some`: it ended before.
    fn until_prepared(&mut self, signals: &Signals) -> Result<Option<Outcome>> {
        loop {
            match self.next(signals)? {
                Next::Event(Event::Prepared) => return Ok(None),
                Next::Event(event) => {
                    if let Some(outcome) = self.end_of(event)? {
                        return Ok(Some(outcome));
                    }
                }
                Next::End(outcome) => return Ok(Some(outcome)),
            }
        }
    }
}
