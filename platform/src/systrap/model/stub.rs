//! The thread of a stub: publish, wait and exit of `code`, and what its handler makes of a kick.

use std::sync::Arc;

use super::Break;
use super::machine::{Bell, Futex, Signal, Word};
use crate::systrap::shared::{kind, state};

/// State that ends the thread, as SIGKILL does.
pub const KILLED: u32 = 99;

/// What both sides see of a thread.
#[derive(Default)]
pub struct Area {
    pub state: Futex,
    pub bell: Word,
    pub kind: Word,
    pub rip: Word,
    pub fp_at: Word,
    /// What the mapper sleeps on: 1 while it has an order that the thread waits for.
    pub order: Futex,
    pub spin: u32,
    pub signal: Option<Signal>,
}

impl Area {
    /// `signal`: it may be kicked.
    pub fn new(spin: u32, signal: Option<Signal>) -> Area {
        Area {
            state: Futex::new(state::TRAPPED),
            spin,
            signal,
            ..Area::default()
        }
    }

    /// The Sentry's `Thread::has_stopped`.
    pub fn has_stopped(&self) -> bool {
        matches!(self.state.word.get(), state::TRAPPED | state::PARKED)
    }

    /// The Sentry's way to let it go on once the mapper has done something.
    pub fn post(&self) {
        self.state.word.swap(state::MAP);
        self.order.word.swap(1);
        self.order.wake();
    }

    /// The mapper's code, for so many orders.
    pub fn map(&self, orders: usize) {
        for _ in 0..orders {
            while self.order.word.get() == 0 {
                self.order.wait(0, None);
            }
            self.order.word.put(0);
            if self.state.word.swap(state::RESUME) != state::LOOKS_ON {
                self.state.wake();
            }
        }
    }

    /// The Sentry's way to give an answer, at the end of `resume`.
    pub fn answer(&self, next: u32, broken: Break) {
        let old = self.state.word.swap(next);
        if old == state::PARKED && broken != Break::NoWake {
            self.state.wake();
        }
    }

    pub fn kick(&self) {
        if let Some(signal) = &self.signal {
            signal.send(&self.state);
        }
    }
}

/// A worker as stubs see it.
#[derive(Default)]
pub struct WorkerLine {
    pub asleep: Word,
    pub bell: Bell,
}

/// Where a kick finds the thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Wait,
    Exit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    Publish,
    End,
}

pub struct Stub<const WORKERS: usize> {
    pub area: Arc<Area>,
    pub workers: Arc<[WorkerLine; WORKERS]>,
    pub broken: Break,
    pub rip: u32,
    /// `area::KICKED`.
    kicked: bool,
}

impl<const WORKERS: usize> Stub<WORKERS> {
    pub fn new(
        area: &Arc<Area>,
        workers: &Arc<[WorkerLine; WORKERS]>,
        broken: Break,
    ) -> Stub<WORKERS> {
        Stub {
            area: area.clone(),
            workers: workers.clone(),
            broken,
            rip: 0,
            kicked: false,
        }
    }

    /// Guest code traps, by its own doing or by a kick. False if the thread ended.
    pub fn trap(&mut self, kind: u32) -> bool {
        self.area.rip.put(self.rip);
        self.area.kind.put(kind);
        self.publish()
    }

    /// Guest code does nothing but wait for a kick.
    pub fn pause(&mut self) -> bool {
        if let Some(signal) = &self.area.signal {
            signal.pause();
            assert!(signal.arrives(), "a signal came");
        }
        self.trap(kind::INTERRUPTED)
    }

    /// `.Lrs_publish`, until guest code runs again.
    fn publish(&mut self) -> bool {
        let early = match self.broken {
            Break::BellBeforeState => self.look_for_sleeper(),
            _ => None,
        };
        self.area.state.word.swap(state::TRAPPED);
        self.answered(early)
    }

    /// From `.Lrs_wait_begin` on.
    fn answered(&mut self, early: Option<usize>) -> bool {
        match self.wait(early) {
            Next::End => return false,
            Next::Publish => return self.publish(),
            Next::GoOn => {}
        }
        match self.exit() {
            Next::GoOn => true,
            _ => self.publish(),
        }
    }

    /// A new thread, stopped; until guest code runs.
    pub fn start(&mut self) -> bool {
        self.answered(None)
    }

    /// A kick may arrive at each instruction. True: on with publish.
    fn kicked_at(&mut self, place: Place) -> bool {
        let Some(signal) = &self.area.signal else {
            return false;
        };
        if !signal.arrives() {
            return false;
        }
        let mapping = matches!(self.area.state.word.get(), state::MAP | state::LOOKS_ON);
        let to_publish = match place {
            Place::Wait if mapping => {
                self.kicked |= self.broken != Break::KickWhileMappingIgnored;
                return false;
            }
            Place::Exit => self.broken != Break::KickInExitIgnored,
            Place::Wait if self.area.state.word.get() == state::RESUME => {
                self.broken != Break::KickWithAnswerIgnored
            }
            Place::Wait => {
                // Nothing of the kind is to come yet, but the next may find this handler.
                let again = signal.arrives();
                self.kicked |= again && self.broken != Break::KickInHandlerIgnored;
                return false;
            }
        };
        if to_publish {
            self.area.kind.put(kind::INTERRUPTED);
        }
        to_publish
    }

    fn look_for_sleeper(&self) -> Option<usize> {
        let worker = self.area.bell.get() as usize;
        (self.workers[worker].asleep.get() != 0).then_some(worker)
    }

    /// `.Lrs_wait_begin` to `.Lrs_wait_end`.
    fn wait(&mut self, early: Option<usize>) -> Next {
        let sleeper = match self.broken {
            Break::BellBeforeState => early,
            _ => self.look_for_sleeper(),
        };
        if let Some(worker) = sleeper {
            self.workers[worker].bell.ring();
        }
        let area = self.area.clone();
        let word = &area.state.word;
        'wait: loop {
            let mut spin = area.spin;
            let mut found = loop {
                if self.kicked_at(Place::Wait) {
                    return Next::Publish;
                }
                let found = word.get();
                if found != state::TRAPPED {
                    break found;
                }
                if spin == 0 {
                    let _ = word.replace(state::TRAPPED, state::PARKED);
                    break word.get();
                }
                spin -= 1;
            };
            loop {
                match found {
                    state::RESUME => return Next::GoOn,
                    state::SAVE_FP => {
                        self.save_fp();
                        continue 'wait;
                    }
                    state::PARKED => {
                        area.state.wait(state::PARKED, area.signal.as_ref());
                        if self.kicked_at(Place::Wait) {
                            return Next::Publish;
                        }
                        found = word.get();
                    }
                    state::MAP => {
                        let _ = word.replace(state::MAP, state::LOOKS_ON);
                        if self.kicked_at(Place::Wait) {
                            return Next::Publish;
                        }
                        found = word.get();
                        if found != state::LOOKS_ON {
                            continue;
                        }
                        if word.replace(state::LOOKS_ON, state::MAP).is_ok() {
                            area.state.wait(state::MAP, area.signal.as_ref());
                            if self.kicked_at(Place::Wait) {
                                return Next::Publish;
                            }
                        }
                        found = word.get();
                    }
                    KILLED => return Next::End,
                    _ => continue 'wait,
                }
            }
        }
    }

    /// `.Lrs_save_fp`.
    fn save_fp(&mut self) {
        self.area.fp_at.put(1);
        self.area.state.word.swap(state::TRAPPED);
        if self.broken != Break::NoWakeAfterSave {
            self.area.state.wake();
        }
    }

    /// `.Lrs_exit` to `.Lrs_exit_end`.
    fn exit(&mut self) -> Next {
        // Found waiting with RESUME seen, just before the first instruction.
        if self.kicked_at(Place::Wait) {
            return Next::Publish;
        }
        if std::mem::take(&mut self.kicked) {
            self.area.kind.put(kind::INTERRUPTED);
            return Next::Publish;
        }
        if self.kicked_at(Place::Exit) {
            return Next::Publish;
        }
        self.area.state.word.put(state::GUEST);
        if self.kicked_at(Place::Exit) {
            return Next::Publish;
        }
        self.rip = self.area.rip.get();
        if self.kicked_at(Place::Exit) {
            return Next::Publish;
        }
        Next::GoOn
    }
}
