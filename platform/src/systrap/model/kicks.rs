//! A kick becomes a trap wherever it finds the thread; FP state is written down when asked for.

use std::sync::Arc;

use loom::thread;

use super::machine::{Signal, Word};
use super::stub::{Area, KILLED, Stub, WorkerLine};
use super::{Break, check, fails};
use crate::common::kick::States;
use crate::systrap::shared::{kind, state};

/// A context and the one worker that resumes it and reports its traps.
pub struct Served {
    pub area: Arc<Area>,
    pub worker: Arc<[WorkerLine; 1]>,
    pub kick: States<Word>,
    pub broken: Break,
}

impl Served {
    pub fn new(spin: u32, broken: Break) -> Arc<Served> {
        Arc::new(Served {
            area: Arc::new(Area::new(spin, Some(Signal::default()))),
            worker: Arc::default(),
            kick: States::default(),
            broken,
        })
    }

    pub fn stub(&self) -> Stub<1> {
        Stub::new(&self.area, &self.worker, self.broken)
    }

    /// `SystrapContext::resume`: false if it was kicked at rest. `start`: see there.
    pub fn resume(&self, rip: u32, start: impl Fn() -> bool) -> bool {
        if !start() {
            return false;
        }
        self.area.rip.put(rip);
        self.area.answer(state::RESUME, self.broken);
        if self.broken != Break::NoRepeat && self.kick.repeat() {
            self.area.kick();
        }
        true
    }

    /// `SystrapWorker::wait`, `Run::claim`. Gives the kind of trap.
    pub fn wait(&self) -> u32 {
        let line = &self.worker[0];
        while !self.area.has_stopped() {
            line.asleep.swap(1);
            if !self.area.has_stopped() {
                line.bell.read();
            }
            line.asleep.swap(0);
        }
        self.kick.trapped();
        self.area.kind.get()
    }

    /// Resumes it and waits for its trap.
    pub fn run(&self, rip: u32, start: impl Fn() -> bool) -> u32 {
        if self.resume(rip, start) {
            return self.wait();
        }
        self.kick.trapped();
        kind::INTERRUPTED
    }

    pub fn end(&self) {
        self.area.answer(KILLED, Break::Nothing);
    }

    /// `SystrapContext::fp_place`.
    fn save_fp(&self) {
        if self.area.fp_at.get() != 0 {
            return;
        }
        let word = &self.area.state.word;
        if word.swap(state::SAVE_FP) == state::PARKED && self.broken != Break::NoWake {
            self.area.state.wake();
        }
        while word.get() == state::SAVE_FP {
            self.area.state.wait(state::SAVE_FP, None);
        }
        assert_eq!(self.area.fp_at.get(), 1);
    }
}

/// Guest code: waits for a kick at 0, makes a call elsewhere.
fn guest(mut stub: Stub<1>) {
    let mut alive = stub.start();
    while alive {
        alive = match stub.rip {
            0 => stub.pause(),
            _ => stub.trap(kind::SYSCALL),
        };
    }
}

/// One kick at any time; the context runs until it is interrupted.
fn kicked(spin: u32, broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let served = Served::new(spin, broken);
        let stub = served.stub();
        let thread = thread::spawn(move || guest(stub));
        let kicker = {
            let served = served.clone();
            thread::spawn(move || {
                if served.kick.kick() {
                    served.area.kick();
                }
            })
        };
        let start = || served.kick.start() || served.broken == Break::RestKickForgotten;
        assert_eq!(served.run(0, start), kind::INTERRUPTED);
        // It may come late, or a second time; the call is reported all the same, and once.
        let mut spurious = 0;
        while served.run(1, start) != kind::SYSCALL {
            spurious += 1;
            assert!(spurious < 3, "one kick is not many");
        }
        assert_eq!(served.area.rip.get(), 1);
        served.end();
        kicker.join().expect("no thread panicked");
        thread.join().expect("no thread panicked");
    }
}

/// One kick at any time, while the thread's mapper may still be at work for it.
fn kicked_mapping(broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let served = Served::new(0, broken);
        let stub = served.stub();
        let thread = thread::spawn(move || guest(stub));
        assert!(served.kick.start(), "nobody kicks yet");
        served.area.rip.put(0);
        served.area.post();
        let mapper = {
            let area = served.area.clone();
            thread::spawn(move || area.map(1))
        };
        if served.kick.kick() {
            served.area.kick();
        }
        assert_eq!(served.wait(), kind::INTERRUPTED);
        mapper.join().expect("no thread panicked");
        served.end();
        thread.join().expect("no thread panicked");
    }
}

/// FP state is asked for while the thread looks, falls asleep or sleeps.
fn saved(spin: u32, broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let served = Served::new(spin, broken);
        let stub = served.stub();
        let thread = thread::spawn(move || guest(stub));
        if spin > 0 {
            // `park`.
            let word = &served.area.state.word;
            let _ = word.replace(state::TRAPPED, state::PARKED);
        }
        served.save_fp();
        assert_eq!(served.run(1, || served.kick.start()), kind::SYSCALL);
        served.end();
        thread.join().expect("no thread panicked");
    }
}

#[test]
fn no_kick_is_lost() {
    check(2, kicked(0, Break::Nothing));
    check(1, kicked(1, Break::Nothing));
    for broken in [
        Break::KickInHandlerIgnored,
        Break::NoRepeat,
        Break::KickInExitIgnored,
        Break::KickWithAnswerIgnored,
        Break::RestKickForgotten,
    ] {
        fails(broken, 2, kicked(0, broken));
    }
}

#[test]
fn no_kick_is_lost_while_a_mapper_works() {
    check(2, kicked_mapping(Break::Nothing));
    let broken = Break::KickWhileMappingIgnored;
    fails(broken, 2, kicked_mapping(broken));
}

#[test]
fn fp_state_is_written_down() {
    check(2, saved(0, Break::Nothing));
    check(2, saved(1, Break::Nothing));
    for broken in [Break::NoWake, Break::NoWakeAfterSave] {
        fails(broken, 2, saved(0, broken));
    }
}
