//! Workers: waiting for traps and wakes.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::SegQueue;
use parking_lot::Mutex;

use super::Shared as Platform;
use super::context::{Run, SystrapContext};
use super::filter::Bells;
use super::layout::global;
use super::shared::Shared;
use super::space::{Home, Space};
use crate::common::host_calls::count;
use crate::{AddressSpace, Context, Error, Event, Result, Wait, Worker, WorkerId, WorkerWaker};

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
    /// Contexts whose traps it reports.
    watched: Mutex<Vec<Arc<Run>>>,
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
            watched: Mutex::default(),
            ready: SegQueue::new(),
        }
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

    pub fn forget(&self, run: &Arc<Run>) {
        self.watched.lock().retain(|other| !Arc::ptr_eq(other, run));
    }

    /// A context that has stopped.
    fn stopped(&self) -> Option<Arc<Run>> {
        while let Some(run) = self.ready.pop() {
            if run.claim() {
                return Some(run);
            }
        }
        let mut watched = self.watched.lock();
        let at = watched.iter().position(|run| run.has_stopped())?;
        let run = watched.swap_remove(at);
        drop(watched);
        run.claim().then_some(run)
    }

    fn sleep(&self) {
        count();
        let mut value = 0u64;
        // SAFETY: eight bytes are valid for writing.
        unsafe { libc::read(self.bell.as_raw_fd(), (&raw mut value).cast(), 8) };
    }
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
}

impl SystrapWorker {
    pub fn new(id: WorkerId, platform: &Arc<Platform>) -> Result<SystrapWorker> {
        CURRENT.set(Some(id.0));
        Ok(SystrapWorker {
            index: id.0,
            platform: platform.clone(),
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
            return Ok(Some(Event::Trap(run.id)));
        }
        if line.woken.swap(false, Ordering::SeqCst) {
            return Ok(Some(Event::Woken));
        }
        Ok(None)
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
                *home = Home::Alive(self.platform.new_stub()?);
            }
            match &*home {
                Home::Alive(stub) if !stub.is_dead() => stub.clone(),
                _ => return Err(Error::Gone),
            }
        };
        let thread = stub.thread()?;
        stub.threads.lock().contexts += 1;
        let context = SystrapContext::new(&self.platform, space, stub, thread);
        Ok(Box::new(context))
    }

    fn wait(&mut self, mode: Wait) -> Result<Event> {
        loop {
            if let Some(event) = self.look()? {
                return Ok(event);
            }
            if mode == Wait::Poll {
                return Ok(Event::Nothing);
            }
            let line = self.line();
            let asleep = line.page.u32(global::ASLEEP);
            asleep.store(1, Ordering::SeqCst);
            // Whoever came before saw us awake; look once more.
            let event = self.look();
            if matches!(event, Ok(None)) {
                line.sleep();
            }
            asleep.store(0, Ordering::SeqCst);
            if let Some(event) = event? {
                return Ok(event);
            }
        }
    }
}
