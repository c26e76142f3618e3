//! Tasks: guest threads.
//!
//! A [`Task`] is what other threads may look at; its future ([`crate::kernel::run`]) alone changes
//! registers and runs guest code. Somebody who wants its attention calls [`Task::interrupt`].

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use runsc_platform::arch::{FpState, Registers};
use runsc_platform::ticks::Ticks;
use runsc_platform::{Answer, Answers, InPlace, Kicker, Mourner, OTHER_CALLS, Platform};

use crate::errno::{Errno, Result};
use crate::executor::{BoundContext, Home};
use crate::fs::context::FsContext;
use crate::fs::fdtable::FdTable;
use crate::fs::file::File;
use crate::kernel::Kernel;
use crate::kernel::cred::{Cap, Credentials};
use crate::kernel::group::{ExitStatus, ThreadGroup, Usage};
use crate::kernel::ipc::sem::UndoList;
use crate::kernel::seccomp::Seccomp;
use crate::kernel::signal::{Signal, TaskSignals};
use crate::kernel::time::MonoTime;
use crate::kernel::wait::WaitQueue;
use crate::mm::Mm;

/// How to go on with a call that a signal interrupted (restart_syscall(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartBlock {
    /// nanosleep(2), clock_nanosleep(2): until then; where to write what remains.
    Sleep {
        clock: i32,
        until_ns: u64,
        remaining: u64,
    },
    /// poll(2): the array, its length, and until when.
    Poll {
        fds: u64,
        count: u64,
        until: Option<MonoTime>,
    },
    /// futex(2) FUTEX_WAIT with a timeout.
    Futex {
        addr: u64,
        value: u32,
        bitset: u32,
        private: bool,
        until: Option<MonoTime>,
    },
}

/// What clone(2), set_tid_address(2), set_robust_list(2) and rseq(2) told about addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadAddresses {
    /// Cleared and woken at the end (CLONE_CHILD_CLEARTID).
    pub clear_child_tid: u64,
    pub robust_list: u64,
}

/// A guest thread.
pub struct Task {
    this: Weak<Task>,
    kernel: Arc<Kernel>,
    group: Arc<ThreadGroup>,
    tid: AtomicI32,
    pub home: Arc<Home>,
    /// General registers while not in guest code.
    pub regs: Mutex<Registers>,
    /// Its place in the platform. Touched by its own future only.
    context: Mutex<Option<BoundContext>>,
    /// FP state to begin with, in a child that has not run yet.
    pub start_fp: Mutex<Option<FpState>>,
    mm: RwLock<Option<Arc<Mm>>>,
    files: RwLock<Option<Arc<FdTable>>>,
    fs: RwLock<Arc<FsContext>>,
    creds: RwLock<Arc<Credentials>>,
    seccomp: RwLock<Option<Seccomp>>,
    /// There is something in `seccomp`.
    filtered: AtomicBool,
    comm: Mutex<[u8; 16]>,
    pub signals: Mutex<TaskSignals>,
    /// Woken for each signal sent to this task (signalfd(2)).
    pub signal_watchers: WaitQueue,
    pub addresses: Mutex<ThreadAddresses>,
    pub restart: Mutex<Option<RestartBlock>>,
    /// What its end undoes of its semaphore operations (SEM_UNDO); shared with CLONE_SYSVSEM.
    sem_undo: Mutex<Option<Arc<UndoList>>>,
    /// Set while a child made by vfork(2) still uses our memory.
    pub vfork_done: Arc<VforkLatch>,
    /// The latch of the parent that waits for us.
    pub vfork_parent: Mutex<Option<Arc<VforkLatch>>>,
    /// PR_SET_PDEATHSIG, 0: none.
    pub pdeathsig: AtomicI32,
    /// PR_SET_TIMERSLACK, ns.
    pub timer_slack_ns: AtomicU64,
    /// personality(2).
    pub personality: AtomicU32,
    /// sched_setaffinity(2) mask of virtual CPUs.
    pub affinity: AtomicU64,
    /// ioprio_set(2), kept but without effect.
    pub io_priority: AtomicU32,
    /// sched_setscheduler(2): policy and priority, kept but without effect.
    pub sched: Mutex<(i32, i32)>,
    /// exit(2) was called, or execve(2) passed the point of no return and failed.
    exit: Mutex<Option<ExitStatus>>,
    times: Times,
    attention: Attention,
}

#[derive(Default)]
struct Times {
    /// Ticks.
    user: AtomicU64,
    system: AtomicU64,
    switches: AtomicU64,
    faults: AtomicU64,
    /// When guest code was entered or left last; 0: the clock stands.
    since: AtomicU64,
}

/// What is needed to interrupt the task wherever it is.
#[derive(Default)]
struct Attention {
    /// Something to look at before guest code runs again.
    pending: AtomicBool,
    in_guest: AtomicBool,
    kicker: Mutex<Option<Arc<dyn Kicker>>>,
    /// Where the platform answers calls in place from.
    answers: Mutex<Option<Arc<dyn Answers>>>,
    waker: Mutex<Option<Waker>>,
}

/// Lets a vfork(2) parent wait until its child has called execve(2) or ended.
#[derive(Default)]
pub struct VforkLatch {
    pub busy: AtomicBool,
    pub queue: WaitQueue,
}

impl VforkLatch {
    pub fn release(&self) {
        self.busy.store(false, Ordering::SeqCst);
        self.queue.wake_all();
    }
}

/// What a new task starts with.
pub struct NewTask {
    pub tid: i32,
    pub group: Arc<ThreadGroup>,
    pub home: Arc<Home>,
    pub regs: Registers,
    pub fp: Option<FpState>,
    pub mm: Arc<Mm>,
    pub files: Arc<FdTable>,
    pub fs: Arc<FsContext>,
    pub creds: Arc<Credentials>,
    pub seccomp: Option<Seccomp>,
    pub comm: [u8; 16],
    pub signals: TaskSignals,
}

/// The process dies as its memory did.
impl Mourner for Task {
    fn died(&self) {
        log::warn!("process {} killed: its stub died", self.pid());
        self.group.begin_exit(ExitStatus::Signaled {
            signal: Signal::SIGKILL,
            core: false,
        });
    }
}

impl Task {
    pub fn new(n: NewTask) -> Arc<Task> {
        let kernel = n.group.kernel().clone();
        Arc::new_cyclic(|this| Task {
            this: this.clone(),
            kernel,
            group: n.group,
            tid: AtomicI32::new(n.tid),
            home: n.home,
            regs: Mutex::new(n.regs),
            context: Mutex::new(None),
            start_fp: Mutex::new(n.fp),
            mm: RwLock::new(Some(n.mm)),
            files: RwLock::new(Some(n.files)),
            fs: RwLock::new(n.fs),
            creds: RwLock::new(n.creds),
            filtered: AtomicBool::new(n.seccomp.is_some()),
            seccomp: RwLock::new(n.seccomp),
            comm: Mutex::new(n.comm),
            signals: Mutex::new(n.signals),
            signal_watchers: WaitQueue::new(),
            addresses: Mutex::default(),
            restart: Mutex::new(None),
            sem_undo: Mutex::new(None),
            vfork_done: Arc::default(),
            vfork_parent: Mutex::new(None),
            pdeathsig: AtomicI32::new(0),
            timer_slack_ns: AtomicU64::new(50_000),
            personality: AtomicU32::new(0),
            affinity: AtomicU64::new(u64::MAX),
            io_priority: AtomicU32::new(0),
            sched: Mutex::new((0, 0)),
            exit: Mutex::new(None),
            times: Times::default(),
            attention: Attention::default(),
        })
    }

    pub fn arc(&self) -> Arc<Task> {
        #[expect(clippy::expect_used, reason = "&self exists, so the Arc does")]
        self.this.upgrade().expect("task is alive")
    }

    pub fn weak(&self) -> Weak<Task> {
        self.this.clone()
    }

    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    pub fn platform(&self) -> &Arc<dyn Platform> {
        &self.kernel.platform
    }

    pub fn group(&self) -> &Arc<ThreadGroup> {
        &self.group
    }

    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// execve(2) by a thread that is not the leader: it takes the leader's id.
    pub fn set_tid(&self, tid: i32) {
        self.tid.store(tid, Ordering::Relaxed);
        self.publish(Answer::Gettid, tid as u32);
    }

    fn publish(&self, answer: Answer, value: u32) {
        if let Some(answers) = &*self.attention.answers.lock() {
            // What a filter does not simply allow is for it to see.
            let seen = self.seccomp.read();
            let seen = seen
                .as_ref()
                .is_some_and(|s| !s.allows(answer.call() as u64));
            answers.publish(answer, (!seen).then_some(value));
        }
    }

    /// What the task's calls have to pass.
    pub fn seccomp(&self) -> Option<Seccomp> {
        self.seccomp.read().clone()
    }

    /// As `seccomp`, for each call.
    pub(in crate::kernel) fn filters(&self) -> Option<RwLockReadGuard<'_, Option<Seccomp>>> {
        self.filtered
            .load(Ordering::Acquire)
            .then(|| self.seccomp.read())
    }

    /// Never less strict than before.
    pub fn set_seccomp(&self, seccomp: Option<Seccomp>) {
        *self.seccomp.write() = seccomp;
        self.filtered.store(true, Ordering::Release);
        self.publish_all();
    }

    fn publish_creds(&self, creds: &Credentials) {
        self.publish(Answer::Getuid, creds.ruid.0);
        self.publish(Answer::Geteuid, creds.euid.0);
        self.publish(Answer::Getgid, creds.rgid.0);
        self.publish(Answer::Getegid, creds.egid.0);
    }

    /// The process has another parent, or this task another context.
    pub(in crate::kernel) fn publish_parent(&self, pid: i32) {
        self.publish(Answer::Getppid, pid as u32);
    }

    /// From now on calls may be answered in place from there.
    pub(in crate::kernel) fn set_answers(&self, answers: Option<Arc<dyn Answers>>) {
        *self.attention.answers.lock() = answers;
        self.publish_all();
    }

    fn publish_all(&self) {
        if let Some(answers) = &*self.attention.answers.lock() {
            let seccomp = self.seccomp.read();
            let all = seccomp
                .as_ref()
                .is_none_or(|s| OTHER_CALLS.iter().all(|call| s.allows(*call as u64)));
            answers.answer_other_calls(if all { InPlace::Answer } else { InPlace::Never });
        }
        self.publish(Answer::Getpid, self.pid() as u32);
        self.publish(Answer::Gettid, self.tid() as u32);
        self.publish_creds(&self.creds());
        self.kernel.tree.publish_parent(self);
    }

    /// The list that its operations with SEM_UNDO are noted in, by number.
    pub fn sem_undo_list(&self) -> Option<u64> {
        self.shared_sem_undo().map(|list| list.id)
    }

    fn shared_sem_undo(&self) -> Option<Arc<UndoList>> {
        let mut list = self.sem_undo.lock();
        if list.is_none() {
            *list = self.kernel.ipc.sem.undo_list(self.pid());
        }
        list.clone()
    }

    /// CLONE_SYSVSEM.
    pub(in crate::kernel) fn share_sem_undo(&self, child: &Task) {
        *child.sem_undo.lock() = self.shared_sem_undo();
    }

    /// The task's share in what is to be undone ends.
    pub fn end_sem_undo(&self) {
        let list = self.sem_undo.lock().take();
        drop(list);
    }

    pub fn pid(&self) -> i32 {
        self.group.pid()
    }

    /// The address space.
    ///
    /// # Errors
    /// ESRCH after the task has ended; its own system calls never see that.
    pub fn try_mm(&self) -> Result<Arc<Mm>> {
        self.mm.read().clone().ok_or(Errno::ESRCH)
    }

    /// The address space of the running task itself.
    pub fn mm(&self) -> Arc<Mm> {
        #[expect(
            clippy::expect_used,
            reason = "only the task's own future calls this, before exit"
        )]
        self.mm
            .read()
            .clone()
            .expect("task has memory until it exits")
    }

    /// Runs `f` on the address space of the running task itself: what `mm` gives, without counting a
    /// reference. Only the task itself ever replaces it, so nobody waits for this lock.
    pub fn with_mm<R>(&self, f: impl FnOnce(&Mm) -> R) -> R {
        #[expect(
            clippy::expect_used,
            reason = "only the task's own future calls this, before exit"
        )]
        f(self
            .mm
            .read()
            .as_ref()
            .expect("task has memory until it exits"))
    }

    pub fn set_mm(&self, mm: Option<Arc<Mm>>) -> Option<Arc<Mm>> {
        std::mem::replace(&mut *self.mm.write(), mm)
    }

    /// The descriptor table of the running task itself.
    pub fn files(&self) -> Arc<FdTable> {
        #[expect(
            clippy::expect_used,
            reason = "only the task's own future calls this, before exit"
        )]
        self.files
            .read()
            .clone()
            .expect("task has files until it exits")
    }

    /// Runs `f` on the descriptor table of the running task itself: what `files` gives, without
    /// counting a reference.
    fn with_files<R>(&self, f: impl FnOnce(&FdTable) -> R) -> R {
        #[expect(
            clippy::expect_used,
            reason = "only the task's own future calls this, before exit"
        )]
        f(self
            .files
            .read()
            .as_ref()
            .expect("task has files until it exits"))
    }

    /// The descriptor table of any task; ESRCH after its end.
    pub fn try_files(&self) -> Result<Arc<FdTable>> {
        self.files.read().clone().ok_or(Errno::ESRCH)
    }

    pub fn set_files(&self, files: Option<Arc<FdTable>>) -> Option<Arc<FdTable>> {
        std::mem::replace(&mut *self.files.write(), files)
    }

    /// The open file behind a descriptor (not O_PATH: EBADF).
    pub fn file(&self, fd: i32) -> Result<Arc<File>> {
        self.with_files(|files| files.get(fd))
    }

    /// The open file behind a descriptor, O_PATH or not.
    pub fn any_file(&self, fd: i32) -> Result<Arc<File>> {
        self.with_files(|files| files.get_any(fd))
    }

    /// Gives a file the lowest free descriptor number. EMFILE.
    pub fn add_file(&self, file: Arc<File>, exec: crate::fs::fdtable::Exec) -> Result<i32> {
        let limit = self.group.limits.lock().soft(libc::RLIMIT_NOFILE);
        self.with_files(|files| files.add(file, exec, 0, limit))
    }

    pub fn fs(&self) -> Arc<FsContext> {
        self.fs.read().clone()
    }

    /// Runs `f` on what `fs` gives, without counting a reference.
    pub fn with_fs<R>(&self, f: impl FnOnce(&FsContext) -> R) -> R {
        f(&self.fs.read())
    }

    pub fn set_fs(&self, fs: Arc<FsContext>) {
        *self.fs.write() = fs;
    }

    pub fn creds(&self) -> Arc<Credentials> {
        self.creds.read().clone()
    }

    /// Runs `f` on what `creds` gives, without counting a reference.
    pub fn with_creds<R>(&self, f: impl FnOnce(&Credentials) -> R) -> R {
        f(&self.creds.read())
    }

    pub fn has_cap(&self, cap: Cap) -> bool {
        self.with_creds(|creds| creds.has_cap(cap))
    }

    pub fn set_creds(&self, creds: Credentials) {
        self.publish_creds(&creds);
        *self.creds.write() = Arc::new(creds);
    }

    /// The name, up to 15 bytes and NULs (PR_GET_NAME).
    pub fn comm(&self) -> [u8; 16] {
        *self.comm.lock()
    }

    /// The name without the NULs behind it.
    pub fn comm_text(&self) -> Vec<u8> {
        self.comm()
            .iter()
            .copied()
            .take_while(|b| *b != 0)
            .collect()
    }

    pub fn set_comm(&self, name: &[u8]) {
        let mut comm = [0u8; 16];
        let n = name.len().min(15);
        comm[..n].copy_from_slice(&name[..n]);
        *self.comm.lock() = comm;
    }

    pub fn pdeath_signal(&self) -> Option<Signal> {
        Signal::new(self.pdeathsig.load(Ordering::Relaxed))
    }

    /// Makes this task end when the running system call is over.
    pub fn request_exit(&self, status: ExitStatus) {
        *self.exit.lock() = Some(status);
    }

    pub(in crate::kernel) fn take_exit(&self) -> Option<ExitStatus> {
        self.exit.lock().take()
    }

    /// CPU time and counts of this task so far.
    pub fn usage(&self) -> Usage {
        let ns = |ticks: &AtomicU64, more: u64| {
            Ticks(ticks.load(Ordering::Relaxed).saturating_add(more)).as_ns()
        };
        // Time in guest code that is still running counts too.
        let running = match self.times.since.load(Ordering::Relaxed) {
            since if since != 0 && self.attention.in_guest.load(Ordering::Relaxed) => {
                Ticks::now().since(Ticks(since)).0
            }
            _ => 0,
        };
        Usage {
            user_ns: ns(&self.times.user, running),
            system_ns: ns(&self.times.system, 0),
            minor_faults: self.times.faults.load(Ordering::Relaxed),
            voluntary_switches: self.times.switches.load(Ordering::Relaxed),
            ..Usage::default()
        }
    }

    pub(in crate::kernel) fn count_fault(&self) {
        self.times.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Is there something to look at: a signal not blocked, a stop, the end of the group?
    /// May be true without need; the run loop finds out.
    pub fn interrupted(&self) -> bool {
        self.attention.pending.load(Ordering::SeqCst)
    }

    /// Clears the mark; whoever clears it looks at everything that may have set it.
    pub fn take_interrupt(&self) -> bool {
        self.attention.pending.swap(false, Ordering::SeqCst)
    }

    /// Does it sleep in a system call?
    #[cfg(test)]
    pub(crate) fn is_waiting(&self) -> bool {
        self.attention.waker.lock().is_some()
    }

    /// Makes the task look at its signals soon: wakes it where it waits, or stops its guest code.
    pub fn interrupt(&self) {
        self.attention.pending.store(true, Ordering::SeqCst);
        if self.attention.in_guest.load(Ordering::SeqCst) {
            if let Some(kicker) = &*self.attention.kicker.lock() {
                kicker.kick();
            }
        } else if let Some(waker) = &*self.attention.waker.lock() {
            waker.wake_by_ref();
        }
    }

    /// Remembers how to wake the future while it waits for something other than guest code.
    pub(crate) fn set_waker(&self, waker: Option<&Waker>) {
        let mut slot = self.attention.waker.lock();
        match (&mut *slot, waker) {
            (Some(old), Some(new)) if old.will_wake(new) => {}
            (slot, new) => *slot = new.cloned(),
        }
    }

    pub(in crate::kernel) fn set_kicker(&self, kicker: Option<Arc<dyn Kicker>>) {
        *self.attention.kicker.lock() = kicker;
    }

    /// Guest code runs right now.
    pub fn is_in_guest(&self) -> bool {
        self.attention.in_guest.load(Ordering::Relaxed)
    }

    /// Announces that guest code is about to run. False if there is something to look at first.
    pub(in crate::kernel) fn enter_guest(&self) -> bool {
        self.attention.in_guest.store(true, Ordering::SeqCst);
        if self.attention.pending.load(Ordering::SeqCst) || self.kernel.is_frozen() {
            self.attention.in_guest.store(false, Ordering::SeqCst);
            return false;
        }
        self.account(&self.times.system);
        true
    }

    pub(in crate::kernel) fn leave_guest(&self) {
        self.attention.in_guest.store(false, Ordering::SeqCst);
        self.account(&self.times.user);
        let switches = self.times.switches.load(Ordering::Relaxed);
        self.times
            .switches
            .store(switches.wrapping_add(1), Ordering::Relaxed);
    }

    fn account(&self, to: &AtomicU64) {
        let now = Ticks::now();
        let since = self.times.since.load(Ordering::Relaxed);
        self.times.since.store(now.0, Ordering::Relaxed);
        if since != 0 {
            let sum = to.load(Ordering::Relaxed);
            // Only the task itself adds.
            to.store(
                sum.saturating_add(now.since(Ticks(since)).0),
                Ordering::Relaxed,
            );
        }
    }

    /// Stops the clock while the task waits in the kernel.
    pub(crate) fn account_wait_start(&self) {
        self.account(&self.times.system);
        self.times.since.store(0, Ordering::Relaxed);
    }

    pub(crate) fn account_wait_end(&self) {
        self.times.since.store(Ticks::now().0, Ordering::Relaxed);
    }

    /// Runs `f` with the task's own context, on its own worker. None before the first run and in
    /// tests without a platform.
    pub fn with_context<R>(&self, f: impl FnOnce(&mut BoundContext) -> R) -> Option<R> {
        self.context.lock().as_mut().map(f)
    }

    pub(in crate::kernel) fn set_context(&self, context: Option<BoundContext>) {
        let old = std::mem::replace(&mut *self.context.lock(), context);
        drop(old);
    }
}
