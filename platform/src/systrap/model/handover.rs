//! Traps reach a worker, and answers the thread, whoever sleeps or takes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::sync::Mutex;
use loom::thread;

use super::machine::{Word, lock};
use super::stub::{Area, KILLED, Stub, WorkerLine};
use super::{Break, check, fails};
use crate::systrap::shared::{kind, state};

/// A context as workers know it (`context::Run`).
struct Run {
    area: Arc<Area>,
    running: Word,
}

impl Run {
    fn claim(&self) -> bool {
        self.running.swap(0) != 0
    }
}

/// `worker::Line`. A context that was resumed last is in `watched` too.
#[derive(Default)]
struct Line {
    woken: Word,
    watched: Mutex<Vec<Arc<Run>>>,
}

/// Who serves contexts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    /// Worker 0, which hands them over to worker 1 before it sleeps.
    Far,
    /// Whoever resumes.
    Near,
}

struct World<const WORKERS: usize> {
    stubs: Arc<[WorkerLine; WORKERS]>,
    lines: [Line; WORKERS],
    service: Service,
    broken: Break,
    /// Traps to come.
    left: AtomicUsize,
}

enum Event {
    Trap(Arc<Run>),
    Woken,
}

impl<const WORKERS: usize> World<WORKERS> {
    fn new(service: Service, traps: usize, broken: Break) -> Arc<Self> {
        Arc::new(World {
            stubs: Arc::new(std::array::from_fn(|_| WorkerLine::default())),
            lines: std::array::from_fn(|_| Line::default()),
            service,
            broken,
            left: AtomicUsize::new(traps),
        })
    }

    /// `Line::ring`, for a look.
    fn ring(&self, worker: usize) {
        let line = &self.stubs[worker];
        if line.asleep.get() != 0 {
            line.bell.ring();
        }
    }

    fn wake(&self, worker: usize) {
        self.lines[worker].woken.swap(1);
        self.ring(worker);
    }

    /// `Line::stopped`, `SystrapWorker::look`.
    fn look(&self, me: usize) -> Option<Event> {
        let mut watched = lock(&self.lines[me].watched);
        while let Some(at) = watched.iter().position(|run| run.area.has_stopped()) {
            let run = watched.swap_remove(at);
            if run.claim() {
                return Some(Event::Trap(run));
            }
            if self.broken == Break::DroppedEndsLook {
                break;
            }
        }
        drop(watched);
        (self.lines[me].woken.swap(0) != 0).then_some(Event::Woken)
    }

    fn hand_over(&self) {
        let far = {
            let mut watched = lock(&self.lines[0].watched);
            if self.broken != Break::BellAfterWatch {
                for run in watched.iter() {
                    run.area.bell.swap(1);
                }
            }
            std::mem::take(&mut *watched)
        };
        for run in far {
            self.take_over(run);
        }
    }

    fn take_over(&self, run: Arc<Run>) {
        {
            let mut watched = lock(&self.lines[1].watched);
            if run.running.get() == 0 {
                return;
            }
            watched.push(run.clone());
        }
        if self.broken == Break::BellAfterWatch {
            run.area.bell.swap(1);
        }
        if self.broken != Break::NoLookAfterHandOver && run.area.has_stopped() {
            self.ring(1);
        }
    }

    /// `SystrapWorker::wait`.
    fn wait(&self, me: usize) -> Event {
        loop {
            if let Some(event) = self.look(me) {
                return event;
            }
            if self.service == Service::Far && me == 0 {
                self.hand_over();
            }
            if let Some(event) = self.sleep(me) {
                return event;
            }
        }
    }

    fn sleep(&self, me: usize) -> Option<Event> {
        let line = &self.stubs[me];
        line.asleep.swap(1);
        let event = match self.broken {
            Break::NoSecondLook => None,
            _ => self.look(me),
        };
        if event.is_none() {
            line.bell.read();
        }
        line.asleep.swap(0);
        event
    }

    /// The second half of `SystrapContext::resume`.
    fn resume(&self, me: usize, run: &Arc<Run>) {
        let server = match self.service {
            Service::Far => 0,
            Service::Near => me,
        };
        run.area.bell.put(server as u32);
        run.running.swap(1);
        run.area.answer(state::RESUME, self.broken);
        lock(&self.lines[server].watched).push(run.clone());
        if server != me && self.broken != Break::NoRingAfterWatch {
            self.ring(server);
        }
    }

    /// A worker's life: it resumes what traps, until all have trapped as often as they will.
    fn work(&self, me: usize) {
        while let Event::Trap(run) = self.wait(me) {
            self.serve(me, &run);
        }
    }

    fn serve(&self, me: usize, run: &Arc<Run>) {
        if self.left.fetch_sub(1, Ordering::Relaxed) > 1 {
            self.resume(me, run);
            return;
        }
        run.area.answer(KILLED, self.broken);
        for worker in 0..WORKERS {
            self.wake(worker);
        }
    }

    /// A guest thread that has trapped and traps again whenever it may run.
    fn start(self: &Arc<Self>, spin: u32) -> Arc<Run> {
        let run = Arc::new(Run {
            area: Arc::new(Area::new(spin, None)),
            running: Word::new(0),
        });
        let mut stub = Stub::new(&run.area, &self.stubs, self.broken);
        thread::spawn(move || {
            let mut alive = stub.start();
            while alive {
                alive = stub.trap(kind::SYSCALL);
            }
        });
        run
    }
}

/// Worker 0 resumes a thread again and again; it traps until it is killed.
fn alone(spin: u32, broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let world = World::<1>::new(Service::Near, 2, broken);
        let run = world.start(spin);
        world.resume(0, &run);
        world.work(0);
    }
}

/// Worker 0 serves a thread far, worker 1 takes it over, and gives it back.
fn far(spin: u32, traps: usize, broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let world = World::<2>::new(Service::Far, traps, broken);
        let run = world.start(spin);
        let other = {
            let world = world.clone();
            thread::spawn(move || world.work(1))
        };
        world.resume(0, &run);
        world.work(0);
        other.join().expect("no thread panicked");
    }
}

/// Worker 0 hands a thread over that has just trapped.
fn taken_over(broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let world = World::<2>::new(Service::Far, 2, broken);
        let run = world.start(0);
        run.running.swap(1);
        lock(&world.lines[0].watched).push(run.clone());
        let other = {
            let world = world.clone();
            thread::spawn(move || world.work(1))
        };
        world.hand_over();
        match world.sleep(0) {
            Some(Event::Trap(run)) => world.serve(0, &run),
            Some(Event::Woken) => world.wake(0),
            None => {}
        }
        world.work(0);
        other.join().expect("no thread panicked");
    }
}

/// Worker 0 still knows contexts of the thread that were dropped.
fn dropped(broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let world = World::<1>::new(Service::Near, 1, broken);
        let run = world.start(0);
        for _ in 0..2 {
            let stale = Run {
                area: run.area.clone(),
                running: Word::new(0),
            };
            lock(&world.lines[0].watched).push(Arc::new(stale));
        }
        world.resume(0, &run);
        world.work(0);
    }
}

#[test]
fn a_worker_alone_loses_nothing() {
    check(2, alone(0, Break::Nothing));
    check(2, alone(1, Break::Nothing));
    for broken in [Break::NoSecondLook, Break::BellBeforeState, Break::NoWake] {
        fails(broken, 2, alone(0, broken));
    }
}

#[test]
fn a_context_that_is_handed_over_is_not_lost() {
    check(2, far(0, 1, Break::Nothing));
    check(1, far(0, 2, Break::Nothing));
    for broken in [
        Break::NoSecondLook,
        Break::BellBeforeState,
        Break::NoLookAfterHandOver,
        Break::NoRingAfterWatch,
    ] {
        fails(broken, 1, far(0, 2, broken));
    }
}

#[test]
fn who_takes_over_may_be_faster() {
    check(1, taken_over(Break::Nothing));
    fails(Break::BellAfterWatch, 1, taken_over(Break::BellAfterWatch));
}

#[test]
fn dropped_contexts_hide_no_other() {
    check(2, dropped(Break::Nothing));
    fails(Break::DroppedEndsLook, 2, dropped(Break::DroppedEndsLook));
}
