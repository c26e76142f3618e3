//! Which host core a worker and the guest threads it serves run on, and when to spin.
//!
//! Measured costs of a hand-over and back: 0.3 µs between two cores that both spin, 3 µs on one
//! core by two context switches, 6 µs if both sides sleep and are woken in between, 70 µs and more if
//! the other core sleeps and has to be woken. So a guest thread is bound to a core, and served in
//! one of two ways:
//!
//! - *near*: by the worker of that core. Each yields the core to the other one, which costs half of
//!   what sleeping and being woken does. Nothing spins.
//! - *far*: by the worker of another core, where no guest code runs; both sides look for each other
//!   for a while. A thread gets there when it has trapped several times after short runs, and back
//!   when it has not trapped for [`PATIENCE`].
//!
//! A worker that looks and finds that it was preempted stops looking, and nobody looks for a while:
//! the machine has other things to do. A worker that yields for longer than [`AWAY`] sleeps from then
//! on, for a while: guest code computes, or somebody else wants the core, and among those who never
//! sleep one who yields is last. Guest threads that run on one core at once for longer than
//! [`TOGETHER`] are parted if a core is free.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::context::Run;
use super::layout::area;
use super::process::Stub;
use super::shared::state;
use super::thread::{NO_CORE, Thread};
use crate::common::host_calls::count;
use crate::host;
use crate::ticks::Ticks;

/// How long a far worker looks for the next trap.
const PATIENCE: Duration = Duration::from_micros(60);
/// How long a guest thread may run before its trap counts as one of a row.
const SHORT_RUN: Duration = Duration::from_micros(40);
/// So many short runs in a row make a thread far.
const SHORT_RUNS: u32 = 4;
/// A gap this long between two looks means that another thread had the core.
const PREEMPTED: Duration = Duration::from_micros(150);
/// How long nobody looks after that, at first; doubled each time it happens again soon.
const BACK_OFF: Duration = Duration::from_millis(2);
const MAX_BACK_OFF: Duration = Duration::from_millis(64);
/// How long guest threads share a core before they are parted.
pub(super) const TOGETHER: Duration = Duration::from_micros(1000);
/// How often a guest thread that is served far looks for its answer before it begins to yield the
/// core in between, a few microseconds.
const LOOKS: u32 = 150;
/// How often it yields until it sleeps, about 0.2 ms on a core that nobody else wants. Its own
/// answer may take long, but something else often happens on the core soon: a mapper is told
/// something, another thread of the sandbox is answered.
const YIELDS: u32 = 400;
/// How often a guest thread that is served near yields until it sleeps: the first time goes to the
/// worker, which is about to answer; the others are for those that are answered before it.
const NEAR_YIELDS: u32 = 8;
/// How often a worker yields to the guest threads of its core in vain until it sleeps.
pub(super) const IN_VAIN: u32 = 8;
/// A worker that had to wait so long for its core, having yielded it, sleeps for a while instead.
const AWAY: Duration = Duration::from_micros(400);
/// How often a guest thread yields to its mapper before it sleeps until that is done.
pub(super) const MAP_YIELDS: u32 = 32;

#[derive(Default)]
struct Leaving {
    any: AtomicBool,
    thread: Mutex<Option<Arc<Thread>>>,
}

/// The times above that are looked at with every trap.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub patience: Ticks,
    pub preempted: Ticks,
    short_run: Ticks,
    away: Ticks,
    back_off: Ticks,
    max_back_off: Ticks,
}

/// Whether a worker yields its core to guest threads instead of sleeping until they trap.
#[derive(Default)]
pub(super) struct Yields {
    /// Not before this.
    from: Ticks,
    back_off: Ticks,
}

impl Yields {
    pub fn may(&self, now: Ticks) -> bool {
        now >= self.from
    }

    /// A worker that yielded its core has it back.
    pub fn back(&mut self, limits: &Limits, then: Ticks, now: Ticks) {
        if now.since(then) < limits.away {
            return;
        }
        let again = now.since(self.from) < Ticks(4 * self.back_off.0);
        self.back_off = match again {
            true => Ticks(2 * self.back_off.0).min(limits.max_back_off),
            false => limits.back_off,
        };
        self.from = Ticks(now.0 + self.back_off.0);
    }
}

/// The cores of the sandbox. Core `n` below is the `n`th of those.
pub(super) struct Cores {
    all: Vec<usize>,
    /// Guest threads that run, by core.
    running: Vec<AtomicUsize>,
    /// Guest threads that nobody will resume and that look for an answer, by core.
    leaving: Vec<Leaving>,
    workers: usize,
    begin: Instant,
    limits: OnceLock<Limits>,
    /// Nobody looks before this, ns since `begin`.
    quiet_until: AtomicU64,
    back_off: AtomicU64,
    /// Things done so far that take a core for a while without being anybody else's work.
    chores: AtomicU64,
}

impl Cores {
    pub fn new(workers: usize) -> Cores {
        Ticks::now();
        let all = host::affinity().unwrap_or_default();
        Cores {
            running: all.iter().map(|_| AtomicUsize::new(0)).collect(),
            leaving: all.iter().map(|_| Leaving::default()).collect(),
            all,
            workers,
            begin: Instant::now(),
            limits: OnceLock::new(),
            quiet_until: AtomicU64::new(0),
            back_off: AtomicU64::new(BACK_OFF.as_nanos() as u64),
            chores: AtomicU64::new(0),
        }
    }

    pub fn limits(&self) -> Limits {
        // Not at the start, when the rate is not known yet.
        *self.limits.get_or_init(|| Limits {
            patience: Ticks::of(PATIENCE),
            preempted: Ticks::of(PREEMPTED),
            short_run: Ticks::of(SHORT_RUN),
            away: Ticks::of(AWAY),
            back_off: Ticks::of(BACK_OFF),
            max_back_off: Ticks::of(MAX_BACK_OFF),
        })
    }

    fn of_worker(&self, worker: usize) -> usize {
        worker % self.all.len().max(1)
    }

    /// Binds the calling thread, a worker, to its core.
    pub fn bind(&self, worker: usize) {
        if self.all.len() > 1 {
            let core = self.all[self.of_worker(worker)];
            // Where the host does not allow that, it does without.
            let _ = host::set_affinity(0, &[core]);
        }
    }

    /// The worker of the thread's core.
    pub fn near(&self, thread: &Thread) -> usize {
        match thread.core.load(Ordering::Relaxed) {
            NO_CORE => 0,
            core => core % self.workers,
        }
    }

    /// Whether thread and worker have the same core.
    pub fn is_near(&self, thread: &Thread, worker: usize) -> bool {
        self.all.len() < 2 || thread.core.load(Ordering::Relaxed) == self.of_worker(worker)
    }

    /// Binds a guest thread to a core.
    pub fn place(&self, stub: &Stub, thread: &Thread, core: usize) {
        if self.all.len() < 2 || thread.core.swap(core, Ordering::Relaxed) == core {
            return;
        }
        count();
        let cores = match self.all.get(core) {
            Some(core) => std::slice::from_ref(core),
            None => &self.all[..],
        };
        let _ = host::set_affinity(thread.tid, cores);
        stub.place_mapper(core, cores);
    }

    /// Lets a process end where its threads are not in the way of the one that comes after it.
    pub fn release(&self, stub: &Stub) {
        if self.all.len() < 2 {
            return;
        }
        let threads = stub.threads.lock();
        let last = threads.idle.last().map(|thread| &thread.core);
        let core = last.map_or(NO_CORE, |core| core.load(Ordering::Relaxed));
        let others = self.all.iter().enumerate().filter(|&(n, _)| n != core);
        let others: Vec<usize> = others.map(|(_, &core)| core).collect();
        stub.place_mapper(NO_CORE, &others);
        for thread in &threads.idle {
            if thread.core.swap(NO_CORE, Ordering::Relaxed) != NO_CORE {
                count();
                let _ = host::set_affinity(thread.tid, &others);
            }
        }
    }

    /// A guest thread is about to run. Gives how often it may yield until its next answer.
    pub fn resumed(&self, run: &Run, worker: usize) -> u32 {
        if let Some(running) = self.running_on(&run.thread) {
            running.fetch_add(1, Ordering::Relaxed);
        }
        self.left(&run.thread);
        if self.is_near(&run.thread, worker) {
            NEAR_YIELDS
        } else {
            YIELDS | LOOKS << 16
        }
    }

    /// Nobody will resume this thread. It keeps its core awake until another one runs there.
    pub fn leaves(&self, thread: &Arc<Thread>) {
        if let Some(leaving) = self.leaving.get(thread.core.load(Ordering::Relaxed)) {
            let before = leaving.thread.lock().replace(thread.clone());
            leaving.any.store(true, Ordering::SeqCst);
            if let Some(before) = before {
                Self::park(&before);
            }
        }
    }

    /// Another thread runs on this one's core.
    fn left(&self, thread: &Thread) {
        let core = thread.core.load(Ordering::Relaxed);
        let Some(leaving) = self.leaving.get(core) else {
            return;
        };
        if leaving.any.load(Ordering::Relaxed) && leaving.any.swap(false, Ordering::SeqCst) {
            let before = leaving.thread.lock().take();
            if let Some(before) = before.filter(|before| !std::ptr::eq(&**before, thread)) {
                Self::park(&before);
            }
        }
    }

    /// Makes a thread that has stopped sleep until it is told something.
    pub fn park(thread: &Thread) {
        let _ = thread.area.u32(area::STATE).compare_exchange(
            state::TRAPPED,
            state::PARKED,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
    }

    pub fn stopped(&self, run: &Run) {
        if let Some(running) = self.running_on(&run.thread) {
            let _ = running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                Some(n.saturating_sub(1))
            });
        }
    }

    fn running_on(&self, thread: &Thread) -> Option<&AtomicUsize> {
        self.running.get(thread.core.load(Ordering::Relaxed))
    }

    pub fn running(&self, core: usize) -> usize {
        self.running
            .get(core)
            .map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// Whether a worker may look for traps of threads on other cores.
    pub fn may_spin(&self, worker: usize) -> bool {
        self.all.len() > 1 && self.running(self.of_worker(worker)) == 0 && !self.is_quiet()
    }

    fn is_quiet(&self) -> bool {
        let until = self.quiet_until.load(Ordering::Relaxed);
        until != 0 && (self.begin.elapsed().as_nanos() as u64) < until
    }

    /// Processes are being made or ended: whoever is preempted now need not take that for a sign.
    pub fn chore(&self) {
        self.chores.fetch_add(1, Ordering::Relaxed);
    }

    pub fn chores(&self) -> u64 {
        self.chores.load(Ordering::Relaxed)
    }

    /// A worker was preempted while it looked.
    pub fn preempted(&self) {
        let now = self.begin.elapsed().as_nanos() as u64;
        let last = self.quiet_until.load(Ordering::Relaxed);
        let back_off = self.back_off.load(Ordering::Relaxed);
        let again = now.saturating_sub(last) < 4 * back_off;
        let next = match again {
            true => (2 * back_off).min(MAX_BACK_OFF.as_nanos() as u64),
            false => BACK_OFF.as_nanos() as u64,
        };
        self.back_off.store(next, Ordering::Relaxed);
        self.quiet_until.store(now + next, Ordering::Relaxed);
    }

    /// Notes how long a thread that is served near ran until its trap.
    pub fn ran(&self, run: &Run, time: Ticks) {
        if time > self.limits().short_run {
            run.short_runs.store(0, Ordering::Relaxed);
        } else {
            run.short_runs.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a thread that is served near would do better far.
    pub fn wants_far(&self, run: &Run) -> bool {
        run.short_runs.load(Ordering::Relaxed) >= SHORT_RUNS
    }

    /// A worker that could serve the thread far: the core has nothing to do.
    pub fn far_worker(&self, thread: &Thread) -> Option<usize> {
        let own = thread.core.load(Ordering::Relaxed);
        let worker = (0..self.workers).find(|&w| {
            let core = self.of_worker(w);
            core != own && self.running(core) == 0
        })?;
        (!self.is_quiet()).then_some(worker)
    }

    /// A core with nothing to do, for a guest thread that shares one; any core (`all.len()`) if
    /// there are more cores than workers.
    pub fn free_core(&self, own: usize) -> Option<usize> {
        let workers = self.workers.min(self.all.len());
        (0..workers)
            .find(|&core| core != own && self.running(core) == 0)
            .or_else(|| (self.all.len() > workers).then_some(self.all.len()))
    }

    pub fn core_of_worker(&self, worker: usize) -> usize {
        self.of_worker(worker)
    }
}

/// Parts guest threads that have run on core `core` together for a while: takes one away from the
/// contexts of a worker. Gives it and its new core.
pub(super) fn part(cores: &Cores, watched: &[Arc<Run>], core: usize) -> Option<(Arc<Run>, usize)> {
    if cores.running(core) < 2 {
        return None;
    }
    let target = cores.free_core(core)?;
    let run = watched
        .iter()
        .rev()
        .find(|run| run.thread.core.load(Ordering::Relaxed) == core)?;
    Some((run.clone(), target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_the_core_yields_less_and_less() {
        let limits = Limits {
            patience: Ticks(0),
            preempted: Ticks(0),
            short_run: Ticks(0),
            away: Ticks(100),
            back_off: Ticks(1000),
            max_back_off: Ticks(4000),
        };
        let mut yields = Yields::default();
        let mut now = 50_000;
        assert!(yields.may(Ticks(now)));
        yields.back(&limits, Ticks(now - 99), Ticks(now));
        assert!(yields.may(Ticks(now)), "nobody was in the way");
        for pause in [1000, 2000, 4000, 4000] {
            yields.back(&limits, Ticks(now - 100), Ticks(now));
            assert!(!yields.may(Ticks(now + pause - 1)));
            assert!(yields.may(Ticks(now + pause)));
            now += pause;
        }
        now += 16_000;
        yields.back(&limits, Ticks(now - 100), Ticks(now));
        assert!(yields.may(Ticks(now + 1000)), "that was long ago");
    }
}
