//! Workers: waiting for traps and wakes.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::queue::SegQueue;
use parking_lot::Mutex;

use super::Shared as Platform;
use super::context::{Run, SystrapContext};
use super::cores::{self, Cores, IN_VAIN, TOGETHER, Yields};
use super::filter::Bells;
use super::layout::{area, global};
use super::shared::Shared;
use super::space::{Home, Space};
use crate::common::host_calls::count;
use crate::ticks::Ticks;
use crate::{
    AddressSpace, Context, ContextId, Error, Event, Result, Wait, Worker, WorkerId, WorkerWaker,
};

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The worker this thread is; 0 on others.
pub(super) fn current() -> usize {
    CURRENT.get().unwrap_or(0)
}

pub(super) fn current_if_any() -> Option<usize> {
    CURRENT.get()
}

/// What a ring of the bell is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ring {
    /// `wait` is to return [`Event::Woken`].
    Wake,
    /// Something may have stopped.
    Look,
}

/// What others see of a worker.
pub(super) struct Line {
    bell: OwnedFd,
    /// Its line of the global page.
    page: Shared,
    woken: AtomicBool,
    /// Its thread exists.
    present: AtomicBool,
    /// Contexts whose traps it reports.
    watched: Mutex<Vec<Arc<Run>>>,
    /// The one it resumed last, not in `watched`.
    last: Mutex<Option<Arc<Run>>>,
    /// Core of the last context whose trap was reported: where its children begin.
    pub last_core: AtomicUsize,
    /// Contexts that stopped without having run.
    ready: SegQueue<Arc<Run>>,
}

impl Line {
    pub fn new(bell: OwnedFd, page: Shared) -> Line {
        page.u32(global::BELL_FD)
            .store(bell.as_raw_fd() as u32, Ordering::Relaxed);
        Line {
            bell,
            page,
            woken: AtomicBool::new(false),
            present: AtomicBool::new(false),
            watched: Mutex::default(),
            last: Mutex::default(),
            last_core: AtomicUsize::new(0),
            ready: SegQueue::new(),
        }
    }

    pub fn is_present(&self) -> bool {
        self.present.load(Ordering::Relaxed)
    }

    pub fn ring(&self, what: Ring) {
        if what == Ring::Wake {
            self.woken.store(true, Ordering::SeqCst);
        }
        if self.page.u32(global::ASLEEP).load(Ordering::SeqCst) != 0 {
            count();
            let one = 1u64;
            // SAFETY: eight bytes are passed.
            unsafe { libc::write(self.bell.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    pub fn report(&self, run: Arc<Run>) {
        self.ready.push(run);
        self.ring(Ring::Look);
    }

    pub fn watch(&self, run: Arc<Run>) {
        self.watched.lock().push(run);
    }

    /// This worker has resumed the context, and serves it.
    pub fn resumed(&self, run: Arc<Run>) {
        let before = self.last.lock().replace(run);
        if let Some(before) = before {
            self.watched.lock().push(before);
        }
    }

    pub fn forget(&self, run: &Arc<Run>) {
        self.last.lock().take_if(|last| Arc::ptr_eq(last, run));
        self.watched.lock().retain(|other| !Arc::ptr_eq(other, run));
    }

    /// Whether it waits for any context.
    fn serves(&self) -> bool {
        self.last.lock().is_some() || !self.watched.lock().is_empty()
    }

    /// A context that has stopped.
    fn stopped(&self) -> Option<Arc<Run>> {
        while let Some(run) = self.ready.pop() {
            if run.claim() {
                return Some(run);
            }
        }
        let last = self.last.lock().take();
        let mut watched = self.watched.lock();
        watched.extend(last);
        loop {
            let at = watched.iter().position(|run| run.has_stopped())?;
            let run = watched.swap_remove(at);
            // If it was dropped, another one may have stopped all the same.
            if run.claim() {
                return Some(run);
            }
        }
    }

    /// Takes a running context over from another worker, which has called [`direct`].
    fn take_over(&self, run: Arc<Run>, index: usize, cores: &Cores) {
        let crowded = cores.running(cores.core_of_worker(index)) > 1;
        {
            let mut watched = self.watched.lock();
            // Dropped meanwhile: its thread may already be another context's.
            if !run.running.load(Ordering::Acquire) {
                return;
            }
            watched.push(run.clone());
        }
        // It may have trapped before, and seen the other worker awake. And this one has to see if
        // it has too much on its core.
        if crowded || run.has_stopped() {
            self.ring(Ring::Look);
        }
    }

    /// Sleeps until the bell rings, or at most `limit`. False: it did not ring.
    fn sleep(&self, limit: Option<Duration>) -> bool {
        let fd = self.bell.as_raw_fd();
        if let Some(limit) = limit {
            let mut poll = libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            let limit = libc::timespec {
                tv_sec: 0,
                tv_nsec: limit.as_nanos() as i64,
            };
            count();
            // SAFETY: both structures are valid during the call.
            if unsafe { libc::ppoll(&mut poll, 1, &limit, std::ptr::null()) } == 0 {
                return false;
            }
        }
        count();
        let mut value = 0u64;
        // SAFETY: eight bytes are valid for writing.
        unsafe { libc::read(fd, (&raw mut value).cast(), 8) };
        true
    }
}

/// Makes the stub ring worker `index` for this context. Only while the context can be neither
/// resumed by others nor dropped, so with the lock held under which it was taken from `watched`:
/// its thread may next be told to ring somebody else.
fn direct(run: &Run, index: usize) {
    run.worker.store(index, Ordering::Relaxed);
    run.area
        .u32(area::BELL)
        .store(index as u32, Ordering::SeqCst);
}

/// Event descriptors with adjacent numbers, for the stubs' filter.
pub(super) fn bells(count: usize) -> io::Result<(Bells, Vec<OwnedFd>)> {
    /// Above what a Sentry is started with.
    const FROM: i32 = 256;
    let mut fds: Vec<OwnedFd> = Vec::new();
    while fds.len() < count {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let from = fds.last().map_or(FROM, |last| last.as_raw_fd() + 1);
        // SAFETY: no memory is passed.
        let high = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) };
        if high < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor.
        let high = unsafe { OwnedFd::from_raw_fd(high) };
        if !fds.is_empty() && high.as_raw_fd() != from {
            // Somebody else's is in between: begin behind it.
            fds.clear();
        }
        fds.push(high);
    }
    let bells = Bells {
        first: fds[0].as_raw_fd(),
        count: count as u32,
    };
    Ok((bells, fds))
}

/// Wakes a worker.
pub(super) struct Waker {
    worker: usize,
    platform: Arc<Platform>,
}

impl Waker {
    pub fn new(id: WorkerId, platform: &Arc<Platform>) -> Waker {
        Waker {
            worker: id.0,
            platform: platform.clone(),
        }
    }
}

impl WorkerWaker for Waker {
    fn wake(&self) {
        self.platform.ring(self.worker, Ring::Wake);
    }
}

pub(super) struct SystrapWorker {
    index: usize,
    platform: Arc<Platform>,
    /// Has looked for a while without finding anything.
    tired: bool,
    yields: Yields,
}

/// Notices that the thread that looks was preempted.
struct Watch {
    begin: Ticks,
    last: Ticks,
    chores: u64,
}

impl Watch {
    /// Looks between two glances at the clock.
    const LOOKS: u32 = 16;

    fn new(cores: &Cores) -> Watch {
        let now = Ticks::now();
        Watch {
            begin: now,
            last: now,
            chores: cores.chores(),
        }
    }

    /// False if it is time to stop looking.
    fn go_on(&mut self, cores: &Cores, worker: usize) -> bool {
        let now = Ticks::now();
        let limits = cores.limits();
        if now.since(self.last) > limits.preempted {
            let chores = cores.chores();
            if std::mem::replace(&mut self.chores, chores) == chores {
                cores.preempted();
                return false;
            }
            self.begin = now;
        }
        self.last = now;
        now.since(self.begin) < limits.patience && cores.may_spin(worker)
    }
}

impl SystrapWorker {
    pub fn new(id: WorkerId, platform: &Arc<Platform>) -> Result<SystrapWorker> {
        CURRENT.set(Some(id.0));
        platform.cores.bind(id.0);
        let core = platform.cores.core_of_worker(id.0);
        let line = platform.worker(id.0);
        line.last_core.store(core, Ordering::Relaxed);
        line.present.store(true, Ordering::Relaxed);
        Ok(SystrapWorker {
            index: id.0,
            platform: platform.clone(),
            tired: false,
            yields: Yields::default(),
        })
    }

    fn line(&self) -> &Line {
        self.platform.worker(self.index)
    }

    fn look(&self) -> Result<Option<Event>> {
        let line = self.line();
        if self.platform.lost.load(Ordering::Acquire) {
            return Err(Error::Lost("stub template".to_owned()));
        }
        if let Some(run) = line.stopped() {
            self.trapped(&run);
            return Ok(Some(Event::Trap(run.id)));
        }
        if line.woken.swap(false, Ordering::SeqCst) {
            return Ok(Some(Event::Woken));
        }
        Ok(None)
    }

    /// A trap is about to be reported.
    fn trapped(&self, run: &Run) {
        let core = run.thread.core.load(Ordering::Relaxed);
        self.line().last_core.store(core, Ordering::Relaxed);
        if self.platform.cores.is_near(&run.thread, self.index)
            && let Some(resumed) = run.resumed.lock().take()
        {
            self.platform.cores.ran(run, Ticks::now().since(resumed));
        }
    }

    /// Whether it serves guest threads on other cores.
    fn serves_far(&self) -> bool {
        let line = self.line();
        let far = |run: &Arc<Run>| !self.platform.cores.is_near(&run.thread, self.index);
        line.last.lock().as_ref().is_some_and(far) || line.watched.lock().iter().any(far)
    }

    /// Looks for traps of guest threads on other cores, for a while.
    fn spin(&mut self) -> Result<Option<Event>> {
        let mut watch = Watch::new(&self.platform.cores);
        while watch.go_on(&self.platform.cores, self.index) {
            for _ in 0..Watch::LOOKS {
                if let Some(event) = self.look()? {
                    return Ok(Some(event));
                }
                std::hint::spin_loop();
            }
        }
        Ok(None)
    }

    /// Gives the core to the guest threads there until one has trapped, while that is soon.
    fn yield_to_guests(&mut self) -> Result<Option<Event>> {
        let limits = self.platform.cores.limits();
        let mut then = Ticks::now();
        for _ in 0..IN_VAIN {
            if !self.yields.may(then) || !self.line().serves() {
                break;
            }
            count();
            std::thread::yield_now();
            let event = self.look()?;
            let now = Ticks::now();
            self.yields.back(&limits, then, now);
            if event.is_some() {
                return Ok(event);
            }
            then = now;
        }
        Ok(None)
    }

    /// Leaves the guest threads on other cores to the workers there.
    fn hand_over(&self) {
        let cores = &self.platform.cores;
        let mut far = Vec::new();
        {
            let line = self.line();
            let last = line.last.lock().take();
            let mut watched = line.watched.lock();
            watched.extend(last);
            watched.retain(|run| {
                let near = cores.near(&run.thread);
                let stays = near == self.index || !self.platform.worker(near).is_present();
                if !stays {
                    direct(run, near);
                    far.push((run.clone(), near));
                }
                stays
            });
        }
        for (run, near) in far {
            self.platform.worker(near).take_over(run, near, cores);
        }
    }

    /// Guest threads have shared this worker's core for a while: gives one another core.
    fn part(&self) {
        let cores = &self.platform.cores;
        let core = cores.core_of_worker(self.index);
        let mut watched = self.line().watched.lock();
        if let Some((run, target)) = cores::part(cores, &watched, core) {
            watched.retain(|other| !Arc::ptr_eq(other, &run));
            cores.stopped(&run);
            cores.place(&run.stub, &run.thread, target);
            cores.resumed(&run, self.index);
            let near = match cores.near(&run.thread) {
                near if self.platform.worker(near).is_present() => near,
                _ => self.index,
            };
            direct(&run, near);
            drop(watched);
            self.platform.worker(near).take_over(run, near, cores);
        }
    }

    /// Whether there is reason to see how guest threads get along on this worker's core.
    fn crowded(&self) -> bool {
        let cores = &self.platform.cores;
        let core = cores.core_of_worker(self.index);
        cores.running(core) > 1 && cores.free_core(core).is_some()
    }
}

impl Worker for SystrapWorker {
    fn new_context(&mut self, space: &Arc<dyn AddressSpace>) -> Result<Box<dyn Context>> {
        let space = space
            .as_any()
            .downcast_ref::<Space>()
            .ok_or_else(|| Error::Host {
                what: "new_context",
                source: io::Error::from_raw_os_error(libc::EINVAL),
            })?
            .core
            .clone();
        let stub = {
            let mut home = space.home.lock();
            if matches!(*home, Home::Unborn) {
                let stub = self.platform.take_stub()?;
                space.move_in(&stub);
                *home = Home::Alive(stub);
            }
            match &*home {
                Home::Alive(stub) if !stub.is_dead() => stub.clone(),
                _ => return Err(Error::Gone),
            }
        };
        let thread = stub.thread()?;
        let core = self.line().last_core.load(Ordering::Relaxed);
        self.platform.cores.place(&stub, &thread, core);
        stub.threads.lock().contexts += 1;
        let context = SystrapContext::new(&self.platform, space, stub, thread);
        Ok(Box::new(context))
    }

    fn wait(&mut self, mode: Wait) -> Result<Event> {
        loop {
            if let Some(event) = self.look()? {
                self.tired = false;
                return Ok(event);
            }
            if mode == Wait::Poll {
                return Ok(Event::Nothing);
            }
            if self.serves_far() {
                if !std::mem::take(&mut self.tired)
                    && let Some(event) = self.spin()?
                {
                    return Ok(event);
                }
                self.hand_over();
            }
            if let Some(event) = self.yield_to_guests()? {
                return Ok(event);
            }
            let line = self.line();
            let asleep = line.page.u32(global::ASLEEP);
            asleep.store(1, Ordering::SeqCst);
            // Whoever came before saw us awake; look once more.
            let event = self.look();
            let mut rang = true;
            if matches!(event, Ok(None)) {
                rang = line.sleep(self.crowded().then_some(TOGETHER));
            }
            asleep.store(0, Ordering::SeqCst);
            if let Some(event) = event? {
                return Ok(event);
            }
            if !rang {
                self.part();
            }
        }
    }

    fn linger(&mut self, context: ContextId, idle: &dyn Fn() -> bool) -> bool {
        let line = self.line();
        if !line.watched.lock().is_empty() {
            return false;
        }
        let Some(run) = line.last.lock().clone() else {
            return false;
        };
        let cores = &self.platform.cores;
        if run.id != context || cores.is_near(&run.thread, self.index) {
            return false;
        }
        let mut watch = Watch::new(cores);
        loop {
            for _ in 0..Watch::LOOKS {
                if run.has_stopped() {
                    *line.last.lock() = None;
                    if !run.claim() {
                        return false;
                    }
                    self.trapped(&run);
                    return true;
                }
                std::hint::spin_loop();
            }
            if !idle() || line.woken.load(Ordering::Relaxed) || !line.ready.is_empty() {
                return false;
            }
            if !watch.go_on(cores, self.index) {
                self.tired = true;
                return false;
            }
        }
    }
}
