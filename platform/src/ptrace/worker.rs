//! A worker: the Sentry thread that traces its stubs and waits for them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;

use parking_lot::Mutex;

use super::command::{Command, lost};
use super::context::PtraceContext;
use super::cores::Cores;
use super::space::{Home, Process, Space, SpaceCore};
use super::stub::{self, CLONE_THREAD_FLAGS, StubMemory, Template};
use super::sys::{self, PTRACE_SYSEMU, Status};
use super::thread::{Phase, Stop, Thread, exception};
use super::waker::{Slept, Waker};
use super::{Shared, command};
use crate::common::kick::{KICK_SIGNAL, Kick};
use crate::{AddressSpace, Context, ContextId, Error, Event, Result, Wait, Worker, WorkerId};

/// Emptied stubs kept for the next address space, per worker.
const MAX_POOL: usize = 8;
/// Idle threads kept in a stub for its next thread.
const MAX_PARKED: usize = 8;

/// What a worker and its contexts share. Its locks are only ever taken on the worker thread, except
/// that of `orphans`.
pub(super) struct WorkerCore {
    pub id: WorkerId,
    pub shared: Arc<Shared>,
    pub template: Template,
    pub cores: Cores,
    owner: ThreadId,
    waker: Arc<Waker>,
    threads: Mutex<HashMap<i32, Arc<Thread>>>,
    /// Stops not yet reported.
    ready: Mutex<VecDeque<ContextId>>,
    pool: Mutex<Vec<(Arc<Thread>, u64)>>,
    /// Contexts dropped on another thread.
    orphans: Mutex<Vec<(Arc<Thread>, Arc<SpaceCore>)>>,
    /// Threads that will stop or die without being told anything more.
    pub running: AtomicUsize,
}

pub(super) struct PtraceWorker {
    core: Arc<WorkerCore>,
}

impl PtraceWorker {
    pub fn new(id: WorkerId, shared: &Arc<Shared>, waker: Arc<Waker>) -> Result<PtraceWorker> {
        let host = |what| move |source| Error::Host { what, source };
        waker.bind().map_err(host("binding the wake signal"))?;
        let cores = Cores::bind(id, shared.first_core);
        let template = Template::new(&shared.memory)?;
        let core = WorkerCore {
            id,
            shared: shared.clone(),
            template,
            cores,
            owner: std::thread::current().id(),
            waker,
            threads: Mutex::default(),
            ready: Mutex::default(),
            pool: Mutex::default(),
            orphans: Mutex::default(),
            running: AtomicUsize::new(0),
        };
        Ok(PtraceWorker {
            core: Arc::new(core),
        })
    }
}

impl Worker for PtraceWorker {
    fn new_context(&mut self, space: &Arc<dyn AddressSpace>) -> Result<Box<dyn Context>> {
        let foreign = || Error::Host {
            what: "new_context",
            source: std::io::Error::from_raw_os_error(libc::EINVAL),
        };
        let space = space
            .as_any()
            .downcast_ref::<Space>()
            .ok_or_else(foreign)?
            .core
            .clone();
        let core = &self.core;
        let thread = core.thread_for(&space)?;
        let id = core.shared.next_context();
        let kick = Arc::new(Kick::new(thread.tgid, thread.tid));
        space.add_kick(&kick);
        {
            let mut local = thread.local.lock();
            if !local.fp_initial {
                core.template
                    .xstate
                    .set(thread.tid, &crate::arch::FpState::initial())
                    .map_err(|source| lost("PTRACE_SETREGSET", thread.tid, source))?;
            }
            local.fp_initial = false;
            local.phase = Phase::Rest;
            local.captured = false;
            local.untouched = false;
            local.home = Arc::downgrade(&space);
            local.context = Some((id, kick.clone()));
        }
        let slot = match &mut *space.home.lock() {
            Home::Alive(process) => {
                process.contexts += 1;
                process.slot
            }
            Home::Unborn | Home::Gone => return Err(Error::Gone),
        };
        Ok(Box::new(PtraceContext::new(
            id,
            core.clone(),
            space,
            thread,
            kick,
            slot,
        )))
    }

    fn wait(&mut self, mode: Wait) -> Result<Event> {
        let core = &self.core;
        core.adopt_orphans();
        loop {
            if let Some(id) = core.ready.lock().pop_front() {
                return Ok(Event::Trap(id));
            }
            if core.waker.take() {
                // Perhaps because of an orphan.
                core.adopt_orphans();
                return Ok(Event::Woken);
            }
            let stopped = match mode {
                Wait::Poll if core.running.load(Ordering::Relaxed) == 0 => None,
                Wait::Poll => sys::poll_any().map_err(|source| Error::Host {
                    what: "wait4",
                    source,
                })?,
                Wait::Block => match core.sleep()? {
                    Slept::Child(tid, status) => Some((tid, status)),
                    Slept::Signal => continue,
                },
            };
            let Some((tid, status)) = stopped else {
                return Ok(Event::Nothing);
            };
            if let Some(id) = core.stopped(tid, status)? {
                return Ok(Event::Trap(id));
            }
        }
    }
}

impl Drop for PtraceWorker {
    /// Kills and reaps all stubs of this worker. Contexts that still exist report their loss.
    fn drop(&mut self) {
        let core = &self.core;
        let mut tgids: Vec<i32> = core.threads.lock().values().map(|t| t.tgid).collect();
        tgids.sort_unstable();
        tgids.dedup();
        for tgid in tgids {
            core.kill(tgid);
        }
        let pid = core.template.pid;
        let _ = sys::tgkill(pid, pid, libc::SIGKILL);
        while sys::wait_one(pid).is_ok_and(|status| status.stopped().is_some()) {}
    }
}

impl WorkerCore {
    pub fn memory(&self) -> &StubMemory {
        &self.shared.memory
    }

    pub fn is_owner(&self) -> bool {
        std::thread::current().id() == self.owner
    }

    /// Makes `wait` report this context.
    pub fn report(&self, id: ContextId) {
        self.ready.lock().push_back(id);
    }

    fn sleep(&self) -> Result<Slept> {
        // A signal comes back here by way of the caller's loop.
        self.cores.look(self);
        self.waker.sleep().map_err(|source| Error::Host {
            what: "wait4",
            source,
        })
    }

    /// Threads that run guest code now.
    pub fn running_threads(&self) -> Vec<Arc<Thread>> {
        let threads = self.threads.lock();
        let running = |thread: &&Arc<Thread>| thread.local.lock().phase == Phase::Running;
        threads.values().filter(running).cloned().collect()
    }

    /// Takes in a stop or a death. Gives the context to report, if it is to be reported.
    fn stopped(&self, tid: i32, status: Status) -> Result<Option<ContextId>> {
        let Some(thread) = self.threads.lock().get(&tid).cloned() else {
            if tid == self.template.pid {
                return Err(Error::Lost(format!("stub template {tid}")));
            }
            return Ok(None);
        };
        let Some(signal) = status.stopped() else {
            return self.died(&thread);
        };
        let mut local = thread.local.lock();
        match local.phase {
            Phase::Running => {}
            Phase::Leaving => {
                self.running.fetch_sub(1, Ordering::Relaxed);
                self.cores.ran(&mut local);
                local.phase = Phase::Rest;
                let home = local.home.upgrade();
                drop(local);
                if let Some(home) = home
                    && let Home::Alive(process) = &mut *home.home.lock()
                {
                    self.park(process, &thread)?;
                }
                return Ok(None);
            }
            Phase::Parked | Phase::Rest | Phase::Exiting => return Ok(None),
        }
        let Some((id, kick)) = local.context.clone() else {
            return Ok(None);
        };
        let stop = match signal {
            SYSCALL_STOP => Some(Stop::Syscall),
            libc::SIGTRAP
            | libc::SIGSEGV
            | libc::SIGBUS
            | libc::SIGFPE
            | libc::SIGILL
            | libc::SIGSYS => {
                let info = sys::signal_info(tid)
                    .map_err(|source| lost("PTRACE_GETSIGINFO", tid, source))?;
                exception(signal, &info).map_err(|why| Error::Lost(format!("stub {tid}: {why}")))?
            }
            KICK_SIGNAL => kick.arrived().then_some(Stop::Interrupted),
            // Ctrl-C reaches all processes of a terminal; the Sentry deals with it.
            _ => None,
        };
        let Some(stop) = stop else {
            drop(local);
            sys::restart(PTRACE_SYSEMU, tid)
                .map_err(|source| lost("PTRACE_SYSEMU", tid, source))?;
            return Ok(None);
        };
        self.running.fetch_sub(1, Ordering::Relaxed);
        kick.trapped();
        local.stopped(stop);
        self.cores.ran(&mut local);
        if local.spread {
            self.cores.trapped(&thread, &mut local);
        }
        Ok(Some(id))
    }

    fn died(&self, thread: &Arc<Thread>) -> Result<Option<ContextId>> {
        self.threads.lock().remove(&thread.tid);
        let mut local = thread.local.lock();
        match std::mem::replace(&mut local.phase, Phase::Exiting) {
            Phase::Exiting => {
                self.running.fetch_sub(1, Ordering::Relaxed);
                Ok(None)
            }
            _ => Err(Error::Lost(format!(
                "stub {} (thread {})",
                thread.tgid, thread.tid
            ))),
        }
    }

    /// A stopped thread in `space` for a new context.
    fn thread_for(&self, space: &Arc<SpaceCore>) -> Result<Arc<Thread>> {
        let mut home = space.home.lock();
        if matches!(*home, Home::Unborn) {
            *home = Home::Alive(self.new_process()?);
        }
        let Home::Alive(process) = &mut *home else {
            return Err(Error::Gone);
        };
        if process.worker != self.id {
            return Err(Error::Host {
                what: "the address space belongs to another worker",
                source: std::io::Error::from_raw_os_error(libc::EXDEV),
            });
        }
        if let Some(thread) = process.parked.pop() {
            return Ok(thread);
        }
        let at_rest = |thread: &&Arc<Thread>| thread.local.lock().phase == Phase::Rest;
        if let Some(carrier) = process.threads.iter().find(at_rest).cloned() {
            return self.clone_thread(process, &carrier);
        }
        let carrier = process.threads.first().cloned().ok_or(Error::Gone)?;
        drop(home);
        // All of them run: stop one. What it stops with is reported later.
        let kick = carrier.local.lock().context.as_ref().map(|c| c.1.clone());
        if let Some(kick) = kick {
            kick.kick_if_running();
        }
        // One without a context was told to stop when that was dropped.
        let runs = |phase| matches!(phase, Phase::Running | Phase::Leaving);
        while runs(carrier.local.lock().phase) {
            let tid = carrier.tid;
            let status = sys::wait_one(tid).map_err(|source| lost("wait4", tid, source))?;
            if let Some(id) = self.stopped(tid, status)? {
                self.report(id);
            }
        }
        match &mut *space.home.lock() {
            Home::Alive(process) => match process.parked.pop() {
                Some(thread) => Ok(thread),
                None => self.clone_thread(process, &carrier),
            },
            Home::Unborn | Home::Gone => Err(Error::Gone),
        }
    }

    fn new_process(&self) -> Result<Process> {
        let (leader, slot) = match self.pool.lock().pop() {
            Some(pooled) => pooled,
            None => {
                let (pid, slot) = self.template.clone_stub(self.memory())?;
                let leader = Thread::new(pid, pid, true);
                self.threads.lock().insert(pid, leader.clone());
                (leader, slot)
            }
        };
        Ok(Process {
            worker: self.id,
            tgid: leader.tgid,
            slot,
            contexts: 0,
            threads: vec![leader.clone()],
            parked: vec![leader],
        })
    }

    fn clone_thread(&self, process: &mut Process, carrier: &Arc<Thread>) -> Result<Arc<Thread>> {
        self.borrow(carrier)?;
        let clone = Command {
            number: libc::SYS_clone,
            args: [CLONE_THREAD_FLAGS, 0, 0, 0, 0, 0],
        };
        let tid = stub::spawn(&self.memory().layout, carrier.tid, &clone)?;
        let thread = Thread::new(process.tgid, tid, false);
        thread.local.lock().spread = carrier.local.lock().spread;
        self.threads.lock().insert(tid, thread.clone());
        process.threads.push(thread.clone());
        Ok(thread)
    }

    /// Saves the guest registers of a stopped thread, which is going to run stub code.
    pub fn borrow(&self, thread: &Thread) -> Result<()> {
        let mut local = thread.local.lock();
        local
            .capture(thread.tid)
            .map_err(|source| lost("PTRACE_GETREGS", thread.tid, source))?;
        local.untouched = false;
        Ok(())
    }

    /// Takes back the thread of a dropped context.
    pub fn release(&self, thread: &Arc<Thread>, space: &Arc<SpaceCore>) {
        if !self.is_owner() {
            self.orphans.lock().push((thread.clone(), space.clone()));
            crate::WorkerWaker::wake(&*self.waker);
            return;
        }
        if let Err(error) = self.release_here(thread, space) {
            // The stub died; the next wait reports it.
            log::warn!("dropping a context: {error}");
        }
    }

    fn adopt_orphans(&self) {
        let orphans = std::mem::take(&mut *self.orphans.lock());
        for (thread, space) in orphans {
            self.release(&thread, &space);
        }
    }

    fn release_here(&self, thread: &Arc<Thread>, space: &Arc<SpaceCore>) -> Result<()> {
        let mut home = space.home.lock();
        let Home::Alive(process) = &mut *home else {
            return Ok(());
        };
        process.contexts = process.contexts.saturating_sub(1);
        if process.contexts == 0 {
            if let Home::Alive(process) = std::mem::replace(&mut *home, Home::Gone) {
                drop(home);
                let result = self.tear_down(process, thread);
                drop(space.changes.clear(None));
                return result;
            }
            return Ok(());
        }
        let mut local = thread.local.lock();
        local.context = None;
        match local.phase {
            Phase::Running => {
                local.phase = Phase::Leaving;
                sys::tgkill(thread.tgid, thread.tid, KICK_SIGNAL)
                    .map_err(|source| lost("tgkill", thread.tid, source))
            }
            Phase::Rest => {
                drop(local);
                self.park(process, thread)
            }
            Phase::Parked | Phase::Leaving | Phase::Exiting => Ok(()),
        }
    }

    /// Keeps a stopped thread for later, or ends it.
    fn park(&self, process: &mut Process, thread: &Arc<Thread>) -> Result<()> {
        let is_leader = thread.tid == thread.tgid;
        let mut local = thread.local.lock();
        local.context = None;
        local.untouched = false;
        if is_leader || process.parked.len() < MAX_PARKED {
            local.phase = Phase::Parked;
            process.parked.push(thread.clone());
            return Ok(());
        }
        local.phase = Phase::Exiting;
        self.running.fetch_add(1, Ordering::Relaxed);
        process.threads.retain(|other| other.tid != thread.tid);
        let mut regs = stub::entry_registers(self.memory().layout.single_entry());
        regs.rax = libc::SYS_exit as u64;
        sys::set_registers(thread.tid, &regs)
            .and_then(|()| sys::restart(libc::PTRACE_CONT, thread.tid))
            .map_err(|source| lost("ending a stub thread", thread.tid, source))
    }

    /// The last context of an address space is gone: empties the stub for the next one, or kills
    /// it. The guest's memory is out of its reach when this returns.
    fn tear_down(&self, process: Process, thread: &Arc<Thread>) -> Result<()> {
        if let [leader] = &process.threads[..]
            && leader.tid == thread.tid
            && leader.local.lock().phase == Phase::Rest
            && self.pool.lock().len() < MAX_POOL
        {
            let layout = &self.memory().layout;
            let start = stub::Layout::USER_START;
            let unmap = Command {
                number: libc::SYS_munmap,
                args: [start, layout.user_end - start, 0, 0, 0, 0],
            };
            if command::single(layout, leader.tid, &unmap)?.is_ok() {
                let mut local = leader.local.lock();
                self.cores.take_back(leader, &mut local);
                local.phase = Phase::Parked;
                local.context = None;
                self.pool.lock().push((leader.clone(), process.slot));
                return Ok(());
            }
        }
        self.kill(process.tgid);
        self.memory().free_slot(process.slot);
        Ok(())
    }

    /// Kills a stub and reaps all its threads.
    fn kill(&self, tgid: i32) {
        let mut threads: Vec<Arc<Thread>> = {
            let mut all = self.threads.lock();
            all.extract_if(|_, thread| thread.tgid == tgid)
                .map(|(_, thread)| thread)
                .collect()
        };
        // Fails only if it is dead, which the waits find out.
        let _ = sys::tgkill(tgid, tgid, libc::SIGKILL);
        // The leader can only be reaped after the others.
        threads.sort_by_key(|thread| thread.tid == tgid);
        for thread in threads {
            let mut local = thread.local.lock();
            self.cores.ran(&mut local);
            if matches!(
                local.phase,
                Phase::Running | Phase::Leaving | Phase::Exiting
            ) {
                self.running.fetch_sub(1, Ordering::Relaxed);
            }
            local.phase = Phase::Exiting;
            local.context = None;
            while sys::wait_one(thread.tid).is_ok_and(|status| status.stopped().is_some()) {}
        }
    }
}

/// A system-call stop, marked by PTRACE_O_TRACESYSGOOD.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
