//! What must not be lost between threads, run through its interleavings by `loom`.
//!
//! Mirrors, step by step: [`Vcpu`] and [`Context`] for `vcpu::interrupt`, `clear_interrupt` and the
//! loop of `context::go_on`; [`Line`] for `sched`: offer, ring, sleep and `worker::wait`; [`Watch`]
//! for `look_out` and `keep_watch`. A change of what is mirrored is a change here. The states of kicks
//! are the real ones. Nothing has a timeout, so what is lost is a deadlock, which loom reports; and
//! each rule has a test that it is found out when it is left out ([`Break`]).
//!
//! Not covered: FP state, which is behind locks alone, and making room, which only costs time.

use std::sync::Arc;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Release, SeqCst};

use loom::sync::atomic::{AtomicU32, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::common::kick::{States, Word as KickWord};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Nothing,
    /// Only a signal, which may be handled before KVM_RUN begins.
    NoImmediateExit,
    /// The word is cleared when the reasons to stop were looked at.
    ClearedLate,
    /// The signal goes out before the word is set.
    SignalFirst,
    /// The reasons are looked at before others see that guest code runs.
    NoLookBeforeRun,
    /// A worker sleeps without another look after saying so.
    NoSecondLook,
    /// Sleepers are looked for before there is something to do.
    RingBeforeReady,
    /// The watch sleeps without another look after saying so.
    NoLastLook,
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.max_branches = 10_000;
    builder.check(model);
}

fn fails(what: Break, model: impl Fn() + Sync + Send + 'static) {
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(model)));
    assert!(checked.is_err(), "{what:?} was not noticed");
}

/// A word of memory as x86-64 has it: what is locked, or a sequentially consistent store, is a full
/// fence too.
struct Word(AtomicU32);

impl Default for Word {
    fn default() -> Word {
        Word::new(false)
    }
}

impl Word {
    fn new(value: bool) -> Word {
        Word(AtomicU32::new(value.into()))
    }

    fn get(&self) -> bool {
        self.0.load(Acquire) != 0
    }

    fn swap(&self, value: bool) -> bool {
        let old = self.0.swap(value.into(), AcqRel);
        fence(SeqCst);
        old != 0
    }

    fn put(&self, value: bool) {
        self.swap(value);
    }
}

impl KickWord for Word {
    fn load(&self, _order: Ordering) -> u32 {
        self.0.load(Acquire)
    }

    fn store(&self, value: u32, _order: Ordering) {
        self.0.store(value, Release);
    }

    fn compare_exchange(
        &self,
        old: u32,
        new: u32,
        _success: Ordering,
        _failure: Ordering,
    ) -> Result<u32, u32> {
        let result = self.0.compare_exchange(old, new, AcqRel, Acquire);
        fence(SeqCst);
        result
    }
}

/// A vCPU whose guest never traps: KVM_RUN ends by a signal, or does not begin because of the word.
struct Vcpu {
    immediate_exit: Word,
    /// The signal is pending for its thread.
    signal: Mutex<bool>,
    came: Condvar,
    broken: Break,
}

impl Vcpu {
    fn new(broken: Break) -> Vcpu {
        Vcpu {
            immediate_exit: Word::new(false),
            signal: Mutex::new(false),
            came: Condvar::new(),
            broken,
        }
    }

    fn interrupt(&self) {
        let send = || {
            *self.signal.lock().unwrap() = true;
            self.came.notify_all();
        };
        if self.broken == Break::SignalFirst {
            send();
        }
        if self.broken != Break::NoImmediateExit {
            self.immediate_exit.put(true);
        }
        if self.broken != Break::SignalFirst {
            send();
        }
    }

    fn clear_interrupt(&self) {
        self.immediate_exit.put(false);
    }

    /// The handler runs, if the signal has come: before KVM_RUN, or after it.
    fn handle(&self) {
        *self.signal.lock().unwrap() = false;
    }

    fn run(&self) {
        self.handle();
        if self.immediate_exit.get() {
            return;
        }
        let mut signal = self.signal.lock().unwrap();
        while !*signal {
            signal = self.came.wait(signal).unwrap();
        }
        drop(signal);
        self.handle();
    }

    /// `Run::go_on`: until there is a reason to stop.
    fn go_on(&self, stop: impl Fn() -> bool) {
        loop {
            if self.broken != Break::ClearedLate {
                self.clear_interrupt();
            }
            if stop() {
                return;
            }
            if self.broken == Break::ClearedLate {
                self.clear_interrupt();
            }
            self.run();
        }
    }
}

struct Context {
    kick: States<Word>,
    vcpu: Mutex<Option<Arc<Vcpu>>>,
}

impl Context {
    fn new() -> Arc<Context> {
        Arc::new(Context {
            kick: States::default(),
            vcpu: Mutex::new(None),
        })
    }

    /// `Kick::kick`.
    fn kick(&self) {
        if self.kick.kick()
            && let Some(vcpu) = &*self.vcpu.lock().unwrap()
        {
            vcpu.interrupt();
        }
    }

    /// `KvmContext::resume` and `Run::execute`: to the trap that the kick is.
    fn resume_and_run(&self, vcpu: &Arc<Vcpu>) {
        if !self.kick.start() {
            return;
        }
        *self.vcpu.lock().unwrap() = Some(vcpu.clone());
        vcpu.go_on(|| self.kick.repeat());
        *self.vcpu.lock().unwrap() = None;
        self.kick.trapped();
    }
}

fn kick_ends_the_run(broken: Break) {
    let (context, vcpu) = (Context::new(), Arc::new(Vcpu::new(broken)));
    let theirs = context.clone();
    let kicker = thread::spawn(move || theirs.kick());
    context.resume_and_run(&vcpu);
    kicker.join().unwrap();
}

#[test]
fn kicks_are_not_lost() {
    check(|| kick_ends_the_run(Break::Nothing));
    for broken in [
        Break::NoImmediateExit,
        Break::ClearedLate,
        Break::SignalFirst,
    ] {
        fails(broken, move || kick_ends_the_run(broken));
    }
}

/// Two kicks, and two runs that each end with one at least.
#[test]
fn a_late_interrupt_disturbs_no_other() {
    check(|| {
        let (first, second) = (Context::new(), Context::new());
        let vcpu = Arc::new(Vcpu::new(Break::Nothing));
        let theirs = (first.clone(), second.clone());
        let kicker = thread::spawn(move || {
            theirs.0.kick();
            theirs.1.kick();
        });
        first.resume_and_run(&vcpu);
        second.resume_and_run(&vcpu);
        kicker.join().unwrap();
    });
}

/// A worker: what it runs never traps, so it has to be called from it.
struct Line {
    woken: Word,
    ready: Mutex<bool>,
    runs: Word,
    vcpu: Vcpu,
    asleep: Mutex<bool>,
    bell: Condvar,
    broken: Break,
}

impl Line {
    fn new(ready: bool, broken: Break) -> Arc<Line> {
        Arc::new(Line {
            woken: Word::new(false),
            ready: Mutex::new(ready),
            runs: Word::new(false),
            vcpu: Vcpu::new(broken),
            asleep: Mutex::new(false),
            bell: Condvar::new(),
            broken,
        })
    }

    fn ring_bell(&self) {
        let mut asleep = self.asleep.lock().unwrap();
        if std::mem::take(&mut *asleep) {
            self.bell.notify_one();
        }
    }

    /// `Sched::ring` with `Ring::Wake`.
    fn wake(&self) {
        self.woken.put(true);
        if self.runs.get() {
            self.vcpu.interrupt();
        } else {
            self.ring_bell();
        }
    }

    /// `Sched::offer`, with no helper idle.
    fn offer(&self) {
        let asleep = |line: &Line| *line.asleep.lock().unwrap();
        let early = asleep(self);
        *self.ready.lock().unwrap() = true;
        let asleep = match self.broken {
            Break::RingBeforeReady => early,
            _ => asleep(self),
        };
        if asleep {
            self.ring_bell();
        }
    }

    fn sleep(&self, why_not: impl Fn() -> bool) {
        let again = self.broken == Break::NoSecondLook && why_not();
        let mut asleep = self.asleep.lock().unwrap();
        *asleep = true;
        if again || (self.broken != Break::NoSecondLook && why_not()) {
            *asleep = false;
            return;
        }
        while *asleep {
            asleep = self.bell.wait(asleep).unwrap();
        }
    }

    /// `KvmWorker::wait`, to its first event; true if something was run before.
    fn wait(&self) -> bool {
        let mut ran = false;
        let called = || self.woken.get();
        loop {
            if self.woken.swap(false) {
                return ran;
            }
            if std::mem::take(&mut *self.ready.lock().unwrap()) {
                ran = true;
                let early = self.broken == Break::NoLookBeforeRun && called();
                self.runs.put(true);
                if self.broken == Break::NoLookBeforeRun {
                    if !early {
                        self.vcpu.run();
                    }
                } else {
                    self.vcpu.go_on(called);
                }
                self.runs.put(false);
                continue;
            }
            self.sleep(|| called() || *self.ready.lock().unwrap());
        }
    }
}

fn wake_is_heard(ready: bool, broken: Break) {
    let line = Line::new(ready, broken);
    let theirs = line.clone();
    let waker = thread::spawn(move || theirs.wake());
    line.wait();
    waker.join().unwrap();
}

#[test]
fn wakes_are_heard_asleep_and_running() {
    for ready in [false, true] {
        check(move || wake_is_heard(ready, Break::Nothing));
    }
    fails(Break::NoSecondLook, || {
        wake_is_heard(false, Break::NoSecondLook);
    });
    fails(Break::NoLookBeforeRun, || {
        wake_is_heard(true, Break::NoLookBeforeRun);
    });
}

/// What is offered is run by a worker that has nothing else, before it is told to stop.
fn offer_is_taken(broken: Break) {
    let line = Line::new(false, broken);
    let taken = Arc::new((Mutex::new(false), Condvar::new()));
    let (theirs, told) = (line.clone(), taken.clone());
    let other = thread::spawn(move || {
        theirs.offer();
        // Only when it was taken.
        let mut taken = told.0.lock().unwrap();
        while !*taken {
            taken = told.1.wait(taken).unwrap();
        }
    });
    loop {
        if std::mem::take(&mut *line.ready.lock().unwrap()) {
            *taken.0.lock().unwrap() = true;
            taken.1.notify_one();
            break;
        }
        line.sleep(|| *line.ready.lock().unwrap());
    }
    other.join().unwrap();
}

#[test]
fn offers_are_taken() {
    check(|| offer_is_taken(Break::Nothing));
    for broken in [Break::NoSecondLook, Break::RingBeforeReady] {
        fails(broken, move || offer_is_taken(broken));
    }
}

/// `watching` and the sleep of the watch, which has found nothing to do for long.
struct Watch {
    waiting: Word,
    watching: Word,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Watch {
    fn look_out(&self) {
        if !self.watching.get() && !self.watching.swap(true) {
            drop(self.lock.lock().unwrap());
            self.bell.notify_one();
        }
    }

    /// To the moment at which it sees what waits.
    fn keep_watch(&self, broken: Break) {
        loop {
            {
                let mut lock = self.lock.lock().unwrap();
                while !self.watching.get() {
                    lock = self.bell.wait(lock).unwrap();
                }
            }
            if self.waiting.get() {
                return;
            }
            self.watching.put(false);
            if broken != Break::NoLastLook && self.waiting.get() {
                self.watching.put(true);
            }
        }
    }
}

fn what_waits_is_seen(broken: Break) {
    let watch = Arc::new(Watch {
        waiting: Word::new(false),
        watching: Word::new(true),
        lock: Mutex::new(()),
        bell: Condvar::new(),
    });
    let theirs = watch.clone();
    let other = thread::spawn(move || {
        theirs.waiting.put(true);
        theirs.look_out();
    });
    watch.keep_watch(broken);
    other.join().unwrap();
}

#[test]
fn the_watch_does_not_sleep_over_what_waits() {
    check(|| what_waits_is_seen(Break::Nothing));
    fails(Break::NoLastLook, || what_waits_is_seen(Break::NoLastLook));
}
