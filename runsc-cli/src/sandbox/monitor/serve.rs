//! What the monitor does until the container ends: it waits for its children and its visitors, and
//! writes down how far the container has come.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runsc_platform::process;
use runsc_sentry::control::{self, Event, ExitStatus, Query, Request};

use super::{
    super::{
        Mode, Observation, Outcome, Sandbox, Signals, filter,
        supervise::{self, Next},
    },
    BROKEN, Start, give_up_rights,
    visitors::{CREATOR, MAX_VISITORS, Runs, Visit},
};
use crate::{
    cgroup::{self, Oom},
    failure::{AtStage, Report, Stage},
    link::{self, Tell, Visitor},
    logging::printable,
    state::{ProcessId, Reached, Record, Status},
};

/// Sandbox, record, visitors.
pub(super) struct Monitor {
    pub(super) sandbox: Sandbox,
    signals: Signals,
    pub(super) record: Record,
    note: Reached,
    /// Where there is a control group for memory.
    oom: Option<Oom>,
    listener: OwnedFd,
    pub(super) visitors: BTreeMap<u64, Visit>,
    pub(super) next: u64,
    /// Which visitor waits for the first program.
    pub(super) starting: Option<u64>,
    /// Questions to the Sentry by number, and who asked them.
    pub(super) asked: BTreeMap<u64, (u64, Query)>,
    /// What a pause has interrupted.
    pub(super) before_pause: Status,
    /// Dies with the command that created the container.
    pub(super) attached: bool,
}

impl Monitor {
    /// Starts the sandbox and waits until it is ready for its first program.
    pub(super) fn start(start: Start, signals: Signals, observation: &Observation) -> Result<Self> {
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
        let sentry = sandbox.sentry();
        let oom = record.cgroup.as_ref().map(|group| group.oom(sentry));
        let oom = oom.transpose().at(Stage::Cgroup)?.flatten();
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
    pub(super) fn keep(mut self, creator: Visitor) -> Result<u8> {
        let told = creator.send(&Tell::Ready {
            warning: self.sandbox.warning.take(),
        });
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

    /// Writes down what holds from now on.
    pub(super) fn reach(&mut self, status: Status) -> Result<()> {
        self.record.reached = status;
        self.note.set(status)
    }
}

impl Sandbox {
    /// Waits until the Sentry has prepared the first program; `Some`: it ended before.
    fn until_prepared(&mut self, signals: &Signals) -> Result<Option<Outcome>> {
        loop {
            match self.next(signals)? {
                Next::Event(Event::Prepared) => return Ok(None),
                Next::Event(Event::OtherPlatform { text }) => {
                    self.warning = Some(printable(&text));
                }
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
