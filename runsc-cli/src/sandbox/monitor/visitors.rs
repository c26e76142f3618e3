//! Those who are connected to the monitor: what they ask, and what they are told.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use nix::sys::prctl;
use runsc_sentry::control::{self, Answer, Query, Request, SignalTarget};

use super::serve::Monitor;
use crate::{
    link::{self, Ask, Tell, Visitor},
    state::Status,
};

/// Most connections at a time.
pub(super) const MAX_VISITORS: usize = 512;

/// The number of the connection to the creator.
pub(super) const CREATOR: u64 = 0;

/// A connection.
pub(super) struct Visit {
    pub(super) visitor: Visitor,
    /// It has started a process, or the container itself.
    pub(super) runs: Runs,
    /// It wants to know when memory runs out.
    pub(super) watches: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    Nothing,
    Container,
    Process,
}

impl Monitor {
    /// Hears what a visitor asks. False if the container is to end with it.
    pub(super) fn hear(&mut self, id: u64) -> Result<bool> {
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

    pub(super) fn tell(&mut self, id: u64, tell: &Tell) {
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
            Ask::HostProcesses => self.query(id, Query::HostProcesses)?,
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

    pub(super) fn runs(&self, id: u64) -> Runs {
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

    pub(super) fn answer(&mut self, id: u64, answer: Answer) -> Result<()> {
        let Some((asker, what)) = self.asked.remove(&id) else {
            return Ok(());
        };
        if let Answer::Processes { more: true, .. } | Answer::HostProcesses { more: true, .. } =
            answer
        {
            self.asked.insert(id, (asker, what.clone()));
        }
        let tell = match answer {
            Answer::Processes { list, more } => Tell::Processes { list, more },
            Answer::HostProcesses { list, more } => Tell::HostProcesses { list, more },
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
}

fn unknown_version() -> String {
    format!(
        "this container is kept by a runsc-rs that speaks version {} of the control protocol",
        link::VERSION
    )
}
