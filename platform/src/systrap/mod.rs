//! The systrap platform: guest code runs in stub processes that hand its traps over in shared
//! memory.
//!
//! ```text
//!  Sentry                                    stub process: one guest address space
//!  worker ── area of a thread ◀────────────▶ guest thread: traps by SIGSYS, SIGSEGV, ...
//!    │  ◀──── bell (eventfd) ──────────────     or through a patched call site
//!    └──── orders ────────────────────────▶ mapper: mmap, munmap, clone; runs no guest code
//!  keeper: makes processes ahead, ends those not needed any more
//!  reaper ◀─ wait4
//! ```
//!
//! A seccomp filter turns every system call of guest code into a signal; the stub's handler puts
//! the registers where the Sentry sees them, looks for the answer for a while, then sleeps until
//! it is woken. No ptrace(2) is involved.
//!
//! - [`layout`]: what lies where; [`shared`]: the words of the hand-over; [`code`]: the stub's code;
//! - [`filter`]: what stubs may ask the host for; [`memory`]: their memory and constants;
//! - [`process`], [`thread`], [`keeper`], [`reaper`]: their lives; [`space`], [`context`]: what the Sentry holds;
//! - [`worker`]: waiting; [`cores`]: who runs where, and when to spin; [`title`]: what the host shows; [`sites`], [`patch`]: call sites that become jumps;
//! - [`rules`]: the host calls a Sentry needs for this platform.
//!
//! The platform is made on a thread that lives as long as it does: with that thread all stubs die.

mod code;
mod context;
mod cores;
mod filter;
mod keeper;
mod layout;
mod memory;
#[cfg(test)]
mod model;
mod patch;
mod process;
mod reaper;
mod rules;
mod shared;
mod sites;
mod space;
mod thread;
mod title;
mod worker;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

pub use crate::InPlace;
pub use filter::describe as describe_stub_filter;
pub use rules::host_calls;

use crate::common::host_calls::count;
use crate::ticks::Ticks;
use crate::{
    AddressSpace, ContextId, Error, Platform, Result, VdsoRange, Worker, WorkerId, WorkerWaker,
    host,
};
use context::Run;
use cores::Cores;
use keeper::Keeper;
use memory::StubMemory;
use process::{Stub, Template};
use space::Space;
use worker::{Line, Ring, SystrapWorker};

/// How the platform is to work.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Workers that share the contexts: a trap of any may be reported by any of them.
    pub workers: usize,
    pub in_place: InPlace,
    pub patching: Patching,
}

/// Whether call sites that trap often become jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patching {
    HotSites,
    /// Guest code stays as it is.
    Never,
}

/// What workers, contexts and the reaper share.
struct Shared {
    memory: Arc<StubMemory>,
    template: Template,
    workers: Vec<Line>,
    cores: Cores,
    stubs: Mutex<Stubs>,
    keeper: Arc<Keeper>,
    next: AtomicU64,
    patching: Patching,
    /// The template died: nothing works any more.
    lost: AtomicBool,
}

/// Stubs by pid.
#[derive(Default)]
struct Stubs {
    alive: HashMap<i32, Arc<Stub>>,
    /// Reaped before they were entered.
    early: Vec<i32>,
}

/// The platform. Make it before the Sentry's seccomp filter is installed and while /proc can be
/// read.
pub struct SystrapPlatform {
    shared: Arc<Shared>,
    reaper: Option<JoinHandle<()>>,
    keeper: Option<keeper::Running>,
}

impl SystrapPlatform {
    /// Makes the template of all stubs.
    ///
    /// # Errors
    /// `Refused` if the host lacks something that this platform needs.
    pub fn new(options: Options) -> Result<SystrapPlatform> {
        if !host::has_fsgsbase() {
            return Err(Error::Refused {
                op: "systrap: user code may not set %fs (FSGSBASE)".to_owned(),
                source: io::Error::from_raw_os_error(libc::ENOTSUP),
            });
        }
        let host_error = |what| move |source| Error::Host { what, source };
        let count = options
            .workers
            .clamp(1, layout::global::MAX_WORKERS as usize);
        let (bells, fds) = worker::bells(count).map_err(host_error("eventfd"))?;
        let memory = Arc::new(StubMemory::new(bells, options.in_place)?);
        let workers = fds
            .into_iter()
            .enumerate()
            .map(|(n, fd)| Line::new(fd, memory.worker(n)))
            .collect();
        let template = Template::new(&memory)?;
        let shared = Arc::new(Shared {
            memory,
            template,
            workers,
            cores: Cores::new(count),
            stubs: Mutex::default(),
            keeper: Arc::default(),
            next: AtomicU64::new(1),
            // Trampolines are made of its instructions.
            patching: match host::has_bmi2() {
                true => options.patching,
                false => Patching::Never,
            },
            lost: AtomicBool::new(false),
        });
        let reaper = reaper::start(&shared).map_err(host_error("thread"))?;
        let keeper = keeper::start(&shared).map_err(host_error("thread"))?;
        Ok(SystrapPlatform {
            shared,
            reaper: Some(reaper),
            keeper: Some(keeper),
        })
    }
}

impl Drop for SystrapPlatform {
    /// Kills and reaps all stubs. Contexts that still exist are gone.
    fn drop(&mut self) {
        self.keeper = None;
        let pid = self.shared.template.stub().pid;
        // SAFETY: no memory is passed. The group has the template in it until the reaper ends.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
        if let Some(reaper) = self.reaper.take() {
            let _ = reaper.join();
        }
    }
}

impl Platform for SystrapPlatform {
    fn name(&self) -> &'static str {
        "systrap"
    }

    fn user_range(&self) -> (u64, u64) {
        self.shared.memory.layout.user()
    }

    fn vdso(&self) -> Option<VdsoRange> {
        self.shared.memory.layout.vdso
    }

    fn new_address_space(&self) -> Arc<dyn AddressSpace> {
        Arc::new(Space::new())
    }

    fn fork_address_space(&self, parent: &dyn AddressSpace) -> Arc<dyn AddressSpace> {
        match parent.as_any().downcast_ref::<Space>() {
            Some(parent) => Arc::new(Space::fork(parent)),
            None => self.new_address_space(),
        }
    }

    fn new_worker(&self, id: WorkerId) -> Result<Box<dyn Worker>> {
        Ok(Box::new(SystrapWorker::new(id, &self.shared)?))
    }

    fn waker(&self, id: WorkerId) -> Arc<dyn WorkerWaker> {
        Arc::new(worker::Waker::new(id, &self.shared))
    }

    fn contexts_are_bound(&self) -> bool {
        false
    }
}

impl Shared {
    fn next_context(&self) -> ContextId {
        ContextId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn worker(&self, index: usize) -> &Line {
        &self.workers[index % self.workers.len()]
    }

    fn ring(&self, index: usize, what: Ring) {
        self.worker(index).ring(what);
    }

    /// Makes `wait` of this worker report a context that stopped without having run.
    fn report(&self, worker: usize, run: Arc<Run>) {
        self.worker(worker).report(run);
    }

    /// Nobody waits for this context any more.
    fn forget(&self, run: &Arc<Run>) {
        for line in &self.workers {
            line.forget(run);
        }
    }

    /// A context was dropped while it ran.
    fn left(&self, run: &Run) {
        let worker = run.worker.load(Ordering::Relaxed);
        if worker::current_if_any() != Some(worker) {
            self.ring(worker, Ring::Wake);
        }
    }

    /// An empty stub process with a thread: one made ahead, or a new one.
    fn take_stub(&self) -> Result<Arc<Stub>> {
        match self.keeper.take() {
            Some(stub) => Ok(stub),
            None => self.new_stub(),
        }
    }

    fn new_stub(&self) -> Result<Arc<Stub>> {
        let stub = self.template.clone_stub()?;
        let mut stubs = self.stubs.lock();
        if let Some(at) = stubs.early.iter().position(|pid| *pid == stub.pid) {
            stubs.early.swap_remove(at);
            drop(stubs);
            stub.reaped();
            return Err(Error::Gone);
        }
        stubs.alive.insert(stub.pid, stub.clone());
        drop(stubs);
        match stub.thread() {
            Ok(thread) => stub.threads.lock().idle.push(thread),
            Err(error) => {
                stub.dismiss();
                return Err(error);
            }
        }
        Ok(stub)
    }

    /// Whether this worker thread and the guest thread have the same core.
    fn shares_core(&self, thread: &thread::Thread) -> bool {
        self.cores.is_near(thread, worker::current())
    }

    /// Chooses the worker that serves the context from now on, and tells the stub.
    fn about_to_run(&self, me: usize, run: &Run) -> usize {
        let server = self.server(me, run);
        run.worker.store(server, Ordering::Relaxed);
        let looks = self.cores.resumed(run, server);
        let area = &run.area;
        area.u32(layout::area::BELL)
            .store(server as u32, Ordering::Relaxed);
        area.u32(layout::area::SPIN).store(looks, Ordering::Relaxed);
        server
    }

    /// Who should serve a context that worker `me` resumes.
    fn server(&self, me: usize, run: &Run) -> usize {
        let cores = &self.cores;
        if !cores.is_near(&run.thread, me) {
            // Served far, as long as that may be.
            let near = cores.near(&run.thread);
            let stay = cores.may_spin(me) || !self.worker(near).is_present();
            return if stay { me } else { near };
        }
        *run.resumed.lock() = Some(Ticks::now());
        if !cores.wants_far(run) {
            return me;
        }
        match cores.far_worker(&run.thread) {
            Some(far) if self.worker(far).is_present() => {
                run.short_runs.store(0, Ordering::Relaxed);
                far
            }
            _ => me,
        }
    }

    /// The `wait` of worker `server` is to report the context when it traps.
    fn watch(&self, me: usize, server: usize, run: &Arc<Run>) {
        if server == me {
            self.worker(me).resumed(run.clone());
            return;
        }
        let line = self.worker(server);
        line.watch(run.clone());
        line.ring(Ring::Look);
    }
}

/// What the reaper tells. The death of the template ends everything.
impl Shared {
    fn reaped(&self, pid: i32) {
        if pid == self.template.stub().pid {
            self.lost.store(true, Ordering::Release);
            self.template.stub().reaped();
            for line in &self.workers {
                line.ring(Ring::Look);
            }
            return;
        }
        let mut stubs = self.stubs.lock();
        match stubs.alive.remove(&pid) {
            Some(stub) => {
                drop(stubs);
                stub.reaped();
            }
            None => stubs.early.push(pid),
        }
    }
}

/// Sends a kick to a thread of a stub.
fn kick(tgid: i32, tid: i32) {
    count();
    // SAFETY: no memory is passed.
    unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            tgid,
            tid,
            crate::common::kick::KICK_SIGNAL,
        )
    };
}
