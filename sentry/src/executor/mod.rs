//! The worker threads that run tasks.
//!
//! A guest thread is a future (see [`crate::kernel::run`]); a worker polls runnable futures and,
//! when there is none, waits in the platform for the next trap of its contexts. So the worker that
//! produced data completes the reader's system call itself, and a sandbox without runnable tasks
//! sleeps in the host kernel.
//!
//! Every task has a home worker: where contexts are bound to a thread (ptrace) it only changes when
//! the task has no context (execve(2)); elsewhere a worker that
//! makes a task runnable runs it itself, and the home is who is woken from outside. Deliberately absent: preemption of Sentry code (it never
//! runs long) and blocking work (host file operations may block a worker).

mod reactor;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Poll, Waker};

use async_task::Runnable;
use crossbeam::queue::SegQueue;
use parking_lot::Mutex;
use runsc_platform as platform;
use runsc_platform::{Context, ContextId, Event, Platform, Wait, Worker, WorkerId, WorkerWaker};

pub use reactor::{HostEvents, HostWatch, Reactor, TimerHandle};

struct WorkerShared {
    queue: SegQueue<Runnable>,
    waker: Arc<dyn WorkerWaker>,
    /// Contexts of this worker that run guest code now.
    in_guest: AtomicUsize,
    /// Contexts whose home this is.
    contexts: AtomicUsize,
}

/// Where a context's trap is on its way to its future.
enum Trapped {
    /// The future waits for it.
    Awaited(Waker),
    /// It came first.
    Arrived,
}

/// The pool of workers. One a sandbox.
pub struct Executor {
    platform: Arc<dyn Platform>,
    workers: Vec<WorkerShared>,
    traps: Mutex<HashMap<ContextId, Trapped>>,
    stop: AtomicBool,
}

/// Where a task's future is polled. Shared between the task and its schedule function.
#[derive(Debug)]
pub struct Home(AtomicUsize);

impl Home {
    pub fn new(worker: WorkerId) -> Arc<Home> {
        Arc::new(Home(AtomicUsize::new(worker.0)))
    }

    pub fn worker(&self) -> WorkerId {
        WorkerId(self.0.load(Ordering::Relaxed))
    }
}

/// What a worker thread holds while it runs.
struct Local {
    id: WorkerId,
    executor: Arc<Executor>,
    worker: Box<dyn Worker>,
}

thread_local! {
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
}

fn with_local<R>(f: impl FnOnce(&mut Local) -> R) -> R {
    LOCAL.with(|local| {
        let mut local = local.borrow_mut();
        #[expect(clippy::expect_used, reason = "only worker threads poll task futures")]
        let local = local.as_mut().expect("not on a worker thread");
        f(local)
    })
}

impl Executor {
    pub fn new(platform: Arc<dyn Platform>, workers: usize) -> Arc<Executor> {
        let workers = (0..workers.max(1))
            .map(|i| WorkerShared {
                queue: SegQueue::new(),
                waker: platform.waker(WorkerId(i)),
                in_guest: AtomicUsize::new(0),
                contexts: AtomicUsize::new(0),
            })
            .collect();
        Arc::new(Executor {
            platform,
            workers,
            traps: Mutex::default(),
            stop: AtomicBool::new(false),
        })
    }

    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// Starts a future on its home worker.
    pub fn spawn(
        self: &Arc<Self>,
        home: &Arc<Home>,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let executor = self.clone();
        let home = home.clone();
        let schedule = move |runnable: Runnable| executor.push(home.worker(), runnable);
        let (runnable, task) = async_task::spawn(future, schedule);
        task.detach();
        runnable.schedule();
    }

    fn push(&self, home: WorkerId, runnable: Runnable) {
        let here = LOCAL.with(|l| {
            // Borrowed means that a worker is inside `wait`: never while it polls a future.
            l.try_borrow().ok().and_then(|l| l.as_ref().map(|l| l.id))
        });
        let worker = match here {
            Some(here) if !self.platform.contexts_are_bound() => here,
            _ => home,
        };
        let shared = &self.workers[worker.0];
        shared.queue.push(runnable);
        if here != Some(worker) {
            shared.waker.wake();
        }
    }

    /// A worker was told that this context trapped.
    fn arrived(&self, context: ContextId) {
        let before = self.traps.lock().insert(context, Trapped::Arrived);
        if let Some(Trapped::Awaited(waker)) = before {
            waker.wake();
        }
    }

    /// Runs worker `id` on this thread until [`Executor::stop`]; `begin` is called when its part
    /// of the platform stands and before the first task runs.
    ///
    /// # Errors
    /// The platform broke: the sandbox cannot go on.
    pub fn run_worker(
        self: &Arc<Self>,
        id: WorkerId,
        begin: impl FnOnce(),
    ) -> platform::Result<()> {
        let worker = self.platform.new_worker(id)?;
        begin();
        let local = Local {
            id,
            executor: self.clone(),
            worker,
        };
        LOCAL.with(|l| *l.borrow_mut() = Some(local));
        let result = self.work(id);
        LOCAL.with(|l| l.borrow_mut().take());
        result
    }

    fn work(&self, id: WorkerId) -> platform::Result<()> {
        let shared = &self.workers[id.0];
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(runnable) = shared.queue.pop() {
                runnable.run();
                continue;
            }
            let event = with_local(|l| l.worker.wait(Wait::Block))?;
            if let Event::Trap(context) = event {
                self.arrived(context);
            }
        }
        Ok(())
    }

    /// Ends all workers soon.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in &self.workers {
            worker.waker.wake();
        }
    }

    /// The worker with the fewest contexts in guest code, then the fewest contexts; the current one
    /// if it is as good.
    fn least_loaded(&self, current: WorkerId) -> WorkerId {
        let load = |w: &WorkerShared| {
            (
                w.in_guest.load(Ordering::Relaxed),
                w.contexts.load(Ordering::Relaxed),
            )
        };
        let mut best = (load(&self.workers[current.0]), current);
        for (i, worker) in self.workers.iter().enumerate() {
            let candidate = load(worker);
            if candidate.0 < best.0.0 {
                best = (candidate, WorkerId(i));
            }
        }
        best.1
    }
}

/// The worker this thread is.
pub fn current_worker() -> WorkerId {
    with_local(|l| l.id)
}

/// A context. Dropping it keeps the load figures right.
pub struct BoundContext {
    context: Box<dyn Context>,
    executor: Arc<Executor>,
    /// Where it was made.
    worker: WorkerId,
    /// Where it was resumed last.
    runs_for: WorkerId,
}

/// Makes a context in `space` on the current worker.
pub fn new_context(space: &Arc<dyn platform::AddressSpace>) -> platform::Result<BoundContext> {
    with_local(|l| {
        let context = l.worker.new_context(space)?;
        l.executor.workers[l.id.0]
            .contexts
            .fetch_add(1, Ordering::Relaxed);
        Ok(BoundContext {
            context,
            executor: l.executor.clone(),
            worker: l.id,
            runs_for: l.id,
        })
    })
}

impl BoundContext {
    pub fn get(&mut self) -> &mut dyn Context {
        &mut *self.context
    }

    /// Starts guest code; then [`BoundContext::trapped`] tells when it stopped.
    pub fn resume(&mut self, regs: &platform::arch::Registers) -> platform::Result<ContextId> {
        self.context.resume(regs)?;
        self.runs_for = current_worker();
        self.executor.workers[self.runs_for.0]
            .in_guest
            .fetch_add(1, Ordering::Relaxed);
        Ok(self.context.id())
    }

    /// To be called once after each trap.
    pub fn take_trap(
        &mut self,
        regs: &mut platform::arch::Registers,
    ) -> platform::Result<platform::Trap> {
        self.executor.workers[self.runs_for.0]
            .in_guest
            .fetch_sub(1, Ordering::Relaxed);
        self.context.trap(regs)
    }
}

impl Drop for BoundContext {
    fn drop(&mut self) {
        self.executor.workers[self.worker.0]
            .contexts
            .fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until the context, which was resumed on this worker, traps.
pub async fn trapped(context: ContextId) {
    let mut waiting = false;
    poll_fn(|cx| {
        let executor = with_local(|l| {
            let queue = &l.executor.workers[l.id.0].queue;
            if !waiting && l.worker.linger(context, &|| queue.is_empty()) {
                return None;
            }
            Some(l.executor.clone())
        });
        let Some(executor) = executor else {
            return Poll::Ready(());
        };
        waiting = true;
        let mut traps = executor.traps.lock();
        if let Some(Trapped::Arrived) = traps.remove(&context) {
            return Poll::Ready(());
        }
        traps.insert(context, Trapped::Awaited(cx.waker().clone()));
        Poll::Pending
    })
    .await;
}

impl Home {
    /// Where tasks are free to move: the task is best woken on this worker from outside.
    pub fn settle(&self, context: &dyn Context) {
        if let Some(worker) = context.near_worker() {
            self.0.store(worker.0, Ordering::Relaxed);
        }
    }
}

/// Lets other runnable tasks of this worker run first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Moves a task without a context to the least loaded worker; the future goes on there.
pub async fn rebalance(home: &Home) {
    if with_local(|l| !l.executor.platform.contexts_are_bound()) {
        return;
    }
    let target = with_local(|l| l.executor.least_loaded(l.id));
    if target != home.worker() {
        home.0.store(target.0, Ordering::Relaxed);
        yield_now().await;
    }
}
