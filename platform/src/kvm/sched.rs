//! Who runs which context.
//!
//! A worker that has nothing else to do runs the context that it resumed last itself: a trap then
//! needs no other thread. All others wait in a queue, from where *helpers*, threads with a vCPU and
//! nothing else to do, and idle workers take them.
//!
//! A worker may resume a context and not come to run it soon, and more may be ready than there are
//! threads. So that each runs all the same, a *watch* looks every [`TICK`], as long as something is
//! ready that does not run: what a worker has kept for a tick goes to the queue, and when nobody is
//! there to take from that, those that have run longest make room. In a sandbox where all that is
//! ready runs, or nothing is, the watch sleeps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Machine;
use super::context::{Outcome, Run};
use super::vcpu::Vcpu;
use crate::ContextId;

/// How often the watch looks.
const TICK: Duration = Duration::from_millis(1);
/// Ticks that a context runs before it makes room.
const SLICE: u64 = 4;
/// Ticks without anything to do after which the watch sleeps.
const IDLE_TICKS: u32 = 16;

/// What a ring of a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ring {
    /// `wait` is to return [`crate::Event::Woken`].
    Wake,
    /// Something stopped, or is ready.
    Look,
}

/// What others see of a worker.
#[derive(Default)]
pub(super) struct Line {
    pub woken: AtomicBool,
    /// Contexts that stopped on other threads.
    pub stopped: Mutex<VecDeque<Arc<Run>>>,
    /// The one it resumed last, and the tick since when.
    next: Mutex<Option<(Arc<Run>, u64)>>,
    seat: Seat,
    asleep: Mutex<bool>,
    bell: Condvar,
}

/// A thread with a vCPU, for the watch.
#[derive(Default)]
pub(super) struct Seat {
    vcpu: Mutex<Option<Arc<Vcpu>>>,
    /// Tick at which it began to run what it runs; 0: nothing.
    since: AtomicU64,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Arc<Run>>,
    idle_helpers: usize,
}

pub(super) struct Sched {
    pub machine: Arc<Machine>,
    lines: Vec<Line>,
    helpers: Vec<Seat>,
    queue: Mutex<Queue>,
    work: Condvar,
    watching: AtomicBool,
    watch_lock: Mutex<()>,
    watch: Condvar,
    tick: AtomicU64,
    next_context: AtomicU64,
    workers: AtomicUsize,
    ended: AtomicBool,
}

impl Sched {
    /// With room for so many workers, and threads of its own, to be joined after [`Sched::end`].
    pub fn start(
        machine: &Arc<Machine>,
        workers: usize,
        helpers: usize,
    ) -> std::io::Result<(Arc<Sched>, Vec<JoinHandle<()>>)> {
        let sched = Arc::new(Sched {
            machine: machine.clone(),
            lines: (0..workers).map(|_| Line::default()).collect(),
            helpers: (0..helpers).map(|_| Seat::default()).collect(),
            queue: Mutex::default(),
            work: Condvar::new(),
            watching: AtomicBool::new(false),
            watch_lock: Mutex::new(()),
            watch: Condvar::new(),
            tick: AtomicU64::new(1),
            next_context: AtomicU64::new(1),
            workers: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        match sched.begin(helpers, &mut threads) {
            Ok(()) => Ok((sched, threads)),
            Err(error) => {
                sched.end();
                // What comes instead may forbid what they do at their end.
                for thread in threads {
                    let _ = thread.join();
                }
                Err(error)
            }
        }
    }

    /// Begins the threads, and waits until each is at work: beginning takes host calls that the
    /// Sentry's filter forbids.
    fn begin(
        self: &Arc<Sched>,
        helpers: usize,
        threads: &mut Vec<JoinHandle<()>>,
    ) -> std::io::Result<()> {
        for index in 0..helpers {
            let (told, made) = std::sync::mpsc::channel();
            let theirs = self.clone();
            let thread = std::thread::Builder::new().name("vcpu".into());
            threads.push(thread.spawn(move || {
                let vcpu = Vcpu::new(&theirs.machine);
                let failed = vcpu.as_ref().err().map(ToString::to_string);
                if told.send(failed).is_ok()
                    && let Ok(vcpu) = vcpu
                {
                    theirs.help(index, &vcpu);
                }
            })?);
            let failed = made.recv().unwrap_or(Some("a thread ended".into()));
            if let Some(why) = failed {
                return Err(std::io::Error::other(why));
            }
        }
        let (told, begun) = std::sync::mpsc::channel();
        let theirs = self.clone();
        let thread = std::thread::Builder::new().name("vcpu-watch".into());
        threads.push(thread.spawn(move || {
            if told.send(()).is_ok() {
                theirs.keep_watch();
            }
        })?);
        begun
            .recv()
            .map_err(|_| std::io::Error::other("a thread ended"))
    }

    pub fn next_context(&self) -> ContextId {
        ContextId(self.next_context.fetch_add(1, Ordering::Relaxed))
    }

    pub fn line(&self, worker: usize) -> &Line {
        &self.lines[worker % self.lines.len()]
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub fn arrive(&self) {
        self.workers.fetch_add(1, Ordering::SeqCst);
    }

    /// A worker goes. With the last one, nobody would be told of traps.
    pub fn depart(&self) {
        if self.workers.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.end();
        }
    }

    /// No guest code runs any more, and none will.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(self.queue.lock());
        self.work.notify_all();
        drop(self.watch_lock.lock());
        self.watch.notify_all();
        for seat in self.seats() {
            if let Some(vcpu) = &*seat.vcpu.lock() {
                vcpu.interrupt();
            }
        }
        for worker in 0..self.lines.len() {
            self.ring(worker, Ring::Look);
        }
    }

    fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.helpers
            .iter()
            .chain(self.lines.iter().map(|l| &l.seat))
    }

    /// A context is to run, resumed by worker `home`.
    pub fn resumed(&self, run: Arc<Run>, home: usize) {
        let tick = self.tick.load(Ordering::Relaxed);
        let before = self.line(home).next.lock().replace((run, tick));
        if let Some((before, _)) = before {
            self.offer(before);
        }
        self.look_out();
    }

    /// What worker `home` is to run: what it has resumed, or what nobody else takes.
    pub fn take(&self, home: usize) -> Option<Arc<Run>> {
        let own = self.line(home).next.lock().take();
        match own {
            Some((run, _)) => Some(run),
            None => self.queue.lock().ready.pop_front(),
        }
    }

    /// Whether `take` would give something.
    pub fn is_something_ready(&self, home: usize) -> bool {
        self.line(home).next.lock().is_some() || !self.queue.lock().ready.is_empty()
    }

    /// Anybody is to run it.
    pub fn offer(&self, run: Arc<Run>) {
        let idle = {
            let mut queue = self.queue.lock();
            queue.ready.push_back(run);
            queue.idle_helpers > 0
        };
        if idle {
            self.work.notify_one();
        } else if let Some(worker) = self.lines.iter().position(|line| *line.asleep.lock()) {
            self.ring(worker, Ring::Look);
        }
        self.look_out();
    }

    /// A context stopped, and its worker is to say so.
    pub fn report(&self, run: Arc<Run>) {
        let home = run.home.load(Ordering::Relaxed);
        self.line(home).stopped.lock().push_back(run);
        self.ring(home, Ring::Look);
    }

    /// A context was dropped.
    pub fn forget(&self, run: &Arc<Run>) {
        let other = |found: &Arc<Run>| !Arc::ptr_eq(found, run);
        self.queue.lock().ready.retain(other);
        for line in &self.lines {
            line.next.lock().take_if(|(found, _)| !other(found));
            line.stopped.lock().retain(other);
        }
    }

    pub fn ring(&self, worker: usize, what: Ring) {
        let line = self.line(worker);
        if what == Ring::Wake {
            line.woken.store(true, Ordering::SeqCst);
        }
        if line.seat.since.load(Ordering::SeqCst) != 0 {
            if let Some(vcpu) = &*line.seat.vcpu.lock() {
                vcpu.interrupt();
            }
            return;
        }
        let mut asleep = line.asleep.lock();
        if std::mem::take(&mut *asleep) {
            line.bell.notify_one();
        }
    }

    /// Runs a context on the calling thread's vCPU.
    pub fn execute(
        &self,
        seat: &Seat,
        vcpu: &Arc<Vcpu>,
        run: &Arc<Run>,
        yields: &dyn Fn() -> bool,
    ) -> Outcome {
        let tick = self.tick.load(Ordering::Relaxed);
        seat.since.store(tick, Ordering::SeqCst);
        let outcome = run.execute(vcpu, &|| yields() || self.has_ended());
        seat.since.store(0, Ordering::SeqCst);
        outcome
    }

    fn help(&self, index: usize, vcpu: &Arc<Vcpu>) {
        let seat = &self.helpers[index];
        seat.sit(Some(vcpu));
        loop {
            let run = {
                let mut queue = self.queue.lock();
                loop {
                    if self.has_ended() {
                        drop(queue);
                        seat.sit(None);
                        return;
                    }
                    if let Some(run) = queue.ready.pop_front() {
                        break run;
                    }
                    queue.idle_helpers += 1;
                    self.work.wait(&mut queue);
                    queue.idle_helpers -= 1;
                }
            };
            match self.execute(seat, vcpu, &run, &|| false) {
                Outcome::Stopped => self.report(run),
                Outcome::MakesRoom => self.offer(run),
                Outcome::Dead => {}
            }
        }
    }

    /// Something is ready: the watch is to look, if it does not.
    fn look_out(&self) {
        if !self.watching.load(Ordering::SeqCst) && !self.watching.swap(true, Ordering::SeqCst) {
            drop(self.watch_lock.lock());
            self.watch.notify_one();
        }
    }

    fn keep_watch(&self) {
        let mut idle = 0;
        while !self.has_ended() {
            {
                let mut lock = self.watch_lock.lock();
                while !self.watching.load(Ordering::SeqCst) && !self.has_ended() {
                    self.watch.wait(&mut lock);
                }
                if !self.has_ended() {
                    self.watch.wait_for(&mut lock, TICK);
                }
            }
            idle = if self.look() { 0 } else { idle + 1 };
            if idle >= IDLE_TICKS {
                self.watching.store(false, Ordering::SeqCst);
                // Whoever came before that did not call.
                if self.look() {
                    self.watching.store(true, Ordering::SeqCst);
                }
                idle = 0;
            }
        }
    }

    /// Whether something is ready that does not run.
    fn look(&self) -> bool {
        let now = self.tick.fetch_add(1, Ordering::SeqCst) + 1;
        let mut found = false;
        for line in &self.lines {
            let old = {
                let mut next = line.next.lock();
                found |= next.is_some();
                next.take_if(|(_, since)| now > *since + 1)
            };
            if let Some((run, _)) = old {
                self.offer(run);
            }
        }
        let (waiting, idle) = {
            let queue = self.queue.lock();
            (queue.ready.len(), queue.idle_helpers)
        };
        found |= waiting > 0;
        if waiting > idle {
            let long = |seat: &&Seat| match seat.since.load(Ordering::SeqCst) {
                0 => false,
                since => now >= since + SLICE,
            };
            for seat in self.seats().filter(long).take(waiting - idle) {
                if let Some(vcpu) = &*seat.vcpu.lock() {
                    vcpu.preempt();
                }
            }
        }
        found
    }
}

impl Seat {
    fn sit(&self, vcpu: Option<&Arc<Vcpu>>) {
        *self.vcpu.lock() = vcpu.cloned();
    }
}

impl Line {
    /// A worker is there, or goes.
    pub fn sit(&self, vcpu: Option<&Arc<Vcpu>>) {
        self.seat.sit(vcpu);
    }

    pub fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Whether the worker has something else to do than to run guest code.
    pub fn is_called(&self) -> bool {
        self.woken.load(Ordering::SeqCst) || !self.stopped.lock().is_empty()
    }

    /// Sleeps until somebody rings, unless `why_not`.
    pub fn sleep(&self, why_not: impl Fn() -> bool) {
        let mut asleep = self.asleep.lock();
        *asleep = true;
        // Who rings after this look waits for the lock, and finds us asleep.
        if why_not() {
            *asleep = false;
            return;
        }
        while *asleep {
            self.bell.wait(&mut asleep);
        }
    }
}
