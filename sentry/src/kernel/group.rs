//! Thread groups: guest processes.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use crate::executor::TimerHandle;
use crate::kernel::Kernel;
use crate::kernel::cred::Credentials;
use crate::kernel::limits::Limits;
use crate::kernel::signal::{GroupSignals, SIG_IGN, SigAction, SigActions, Signal};
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::timers::GroupTimers;
use crate::kernel::wait::{Ready, WaitQueue, Waiter};

/// How a process ended, as wait(2) reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Exited(u8),
    Signaled { signal: Signal, core: bool },
}

impl ExitStatus {
    /// The status word of wait4(2).
    pub fn wait_word(self) -> i32 {
        match self {
            ExitStatus::Exited(code) => i32::from(code) << 8,
            ExitStatus::Signaled { signal, core } => signal.number() | if core { 0x80 } else { 0 },
        }
    }
}

/// Where a thread group stands in its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    /// exit_group(2), a fatal signal or execve(2) of `survivor`: all other tasks end.
    Ending {
        status: ExitStatus,
        survivor: Option<i32>,
    },
    Dead,
}

/// CPU time in nanoseconds, faults and switches (getrusage(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub user_ns: u64,
    pub system_ns: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub max_rss_kib: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
}

impl Usage {
    #[must_use]
    pub fn plus(self, o: Usage) -> Usage {
        Usage {
            user_ns: self.user_ns.saturating_add(o.user_ns),
            system_ns: self.system_ns.saturating_add(o.system_ns),
            minor_faults: self.minor_faults.saturating_add(o.minor_faults),
            major_faults: self.major_faults.saturating_add(o.major_faults),
            max_rss_kib: self.max_rss_kib.max(o.max_rss_kib),
            voluntary_switches: self.voluntary_switches.saturating_add(o.voluntary_switches),
            involuntary_switches: self
                .involuntary_switches
                .saturating_add(o.involuntary_switches),
        }
    }
}

/// What /proc tells of a main thread that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub comm: [u8; 16],
    pub creds: Arc<Credentials>,
}

/// A guest process. Its place among others (parent, group, session) is in [`crate::kernel::tree`].
pub struct ThreadGroup {
    kernel: Arc<Kernel>,
    pid: i32,
    tasks: Mutex<Vec<Arc<Task>>>,
    life: Mutex<Life>,
    /// Woken when a task of the group ends (execve(2) waits for that).
    pub task_exits: WaitQueue,
    /// Woken when a child changes state (wait4(2)).
    pub child_events: WaitQueue,
    /// Woken for each signal sent (signalfd(2)).
    pub signal_watchers: WaitQueue,
    /// Woken on SIGCONT and when the group ends (stopped tasks wait here).
    pub continued: WaitQueue,
    /// Woken once when the process has ended (pidfd).
    pub exited: WaitQueue,
    pub signals: Mutex<GroupSignals>,
    actions: RwLock<Arc<Mutex<SigActions>>>,
    pub limits: Mutex<Limits>,
    pub timers: GroupTimers,
    /// Usage of tasks that have ended.
    pub ended_usage: Mutex<Usage>,
    /// Signal for the parent at the end; 0: none.
    pub exit_signal: AtomicI32,
    /// PR_SET_CHILD_SUBREAPER.
    pub subreaper: AtomicBool,
    /// PR_SET_DUMPABLE.
    pub dumpable: AtomicI32,
    pub oom_score_adj: AtomicI32,
    /// nice(2) value.
    pub nice: AtomicI32,
    /// CLOCK_MONOTONIC at the start, ns.
    pub start_ns: u64,
    /// Has called execve(2) since its birth (setpgid(2) gives EACCES to the parent then).
    pub did_exec: AtomicBool,
    /// Held while the filters of system calls of one of its tasks change, or are given to a new one:
    /// those that another task gives to all are not lost.
    pub filters: Mutex<()>,
    /// MEMBARRIER_CMD_REGISTER_* bits.
    pub membarrier: AtomicI32,
    init: AtomicBool,
    /// What the main thread ended with; the process's status if nobody called exit_group(2).
    leader_status: Mutex<Option<ExitStatus>>,
    ended: Mutex<Option<Ended>>,
    last_resort: Mutex<Option<TimerHandle>>,
    time_limit: Mutex<Option<TimerHandle>>,
    /// Bytes for /proc/PID/io (rchar, wchar, syscr, syscw).
    pub io: IoCounters,
}

/// How long the tasks of a group that ends may stay in guest code.
const LAST_RESORT_NS: u64 = 2_000_000_000;

/// Ends guest code that does not react to being interrupted, with its memory.
struct LastResort(Weak<ThreadGroup>);

impl Waiter for LastResort {
    fn notify(&self, _: Ready) {
        let Some(group) = self.0.upgrade() else {
            return;
        };
        for task in group.tasks().iter().filter(|task| task.is_in_guest()) {
            if let Ok(mm) = task.try_mm() {
                log::warn!("process {} does not react: its stub is killed", group.pid());
                mm.space().kill();
            }
        }
    }
}

/// Ends a group whose time is over.
struct TimeLimit(Weak<ThreadGroup>, ExitStatus);

impl Waiter for TimeLimit {
    fn notify(&self, _: Ready) {
        if let Some(group) = self.0.upgrade() {
            group.begin_exit(self.1);
        }
    }
}

/// What /proc/PID/io counts.
#[derive(Default)]
pub struct IoCounters {
    pub rchar: AtomicU64,
    pub wchar: AtomicU64,
    pub syscr: AtomicU64,
    pub syscw: AtomicU64,
}

impl ThreadGroup {
    pub fn new(
        kernel: &Arc<Kernel>,
        pid: i32,
        actions: Arc<Mutex<SigActions>>,
        limits: Limits,
        exit_signal: i32,
    ) -> Arc<ThreadGroup> {
        Arc::new_cyclic(|this: &Weak<ThreadGroup>| ThreadGroup {
            kernel: kernel.clone(),
            pid,
            tasks: Mutex::default(),
            life: Mutex::new(Life::Alive),
            task_exits: WaitQueue::new(),
            child_events: WaitQueue::new(),
            signal_watchers: WaitQueue::new(),
            continued: WaitQueue::new(),
            exited: WaitQueue::new(),
            signals: Mutex::default(),
            actions: RwLock::new(actions),
            limits: Mutex::new(limits),
            timers: GroupTimers::new(this.clone()),
            ended_usage: Mutex::default(),
            exit_signal: AtomicI32::new(exit_signal),
            subreaper: AtomicBool::new(false),
            dumpable: AtomicI32::new(1),
            oom_score_adj: AtomicI32::new(0),
            nice: AtomicI32::new(0),
            start_ns: crate::kernel::time::MonoTime::now().as_ns(),
            did_exec: AtomicBool::new(false),
            filters: Mutex::default(),
            membarrier: AtomicI32::new(0),
            init: AtomicBool::new(false),
            leader_status: Mutex::new(None),
            ended: Mutex::new(None),
            last_resort: Mutex::new(None),
            time_limit: Mutex::new(None),
            io: IoCounters::default(),
        })
    }

    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The living tasks.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.tasks.lock().clone()
    }

    /// The main thread while it lives, else any other.
    pub fn any_task(&self) -> Option<Arc<Task>> {
        let tasks = self.tasks.lock();
        tasks
            .iter()
            .find(|t| t.tid() == self.pid)
            .or(tasks.first())
            .cloned()
    }

    pub fn task_count(&self) -> usize {
        self.tasks.lock().len()
    }

    /// Adds a task unless the group is ending.
    pub fn add_task(&self, task: Arc<Task>) -> bool {
        let life = self.life.lock();
        if *life != Life::Alive {
            return false;
        }
        self.tasks.lock().push(task);
        true
    }

    /// Removes a task; true if it was the last one.
    pub fn remove_task(&self, task: &Task) -> bool {
        if task.tid() == self.pid {
            *self.ended.lock() = Some(Ended {
                comm: task.comm(),
                creds: task.creds(),
            });
        }
        let last = {
            let mut tasks = self.tasks.lock();
            tasks.retain(|t| !std::ptr::eq(&**t, task));
            tasks.is_empty()
        };
        if last {
            let mut life = self.life.lock();
            if let Life::Ending {
                status,
                survivor: None,
            } = *life
            {
                *self.leader_status.lock() = Some(status);
            }
            *life = Life::Dead;
        }
        self.task_exits.wake_all();
        last
    }

    /// Name and credentials of the main thread at its end.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.lock().clone()
    }

    pub fn is_dead(&self) -> bool {
        *self.life.lock() == Life::Dead
    }

    /// Makes it the process that adopts who lost his parent, without a program of its own: nothing
    /// runs in it, so nothing can be sent to it. Children that end there are forgotten at once.
    pub fn set_adopter(&self, creds: Arc<Credentials>) {
        self.set_init();
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(b"init");
        *self.ended.lock() = Some(Ended { comm, creds });
        let forget = SigAction {
            handler: SIG_IGN,
            ..SigAction::default()
        };
        self.actions().lock().set(Signal::SIGCHLD, forget);
    }

    /// As [`ThreadGroup::set_adopter`] made it.
    pub fn is_adopter(&self) -> bool {
        self.is_init() && self.tasks.lock().is_empty() && !self.is_dead()
    }

    /// The first program of a container that asked to be pid 1: signals without a handler pass it.
    pub fn is_init(&self) -> bool {
        self.init.load(Ordering::Relaxed)
    }

    /// The first program of a sandbox that is no init: a job of the shell that started the sandbox.
    pub fn answers_outside(&self) -> bool {
        !self.is_init()
            && self
                .kernel
                .first()
                .is_some_and(|first| std::ptr::eq(&*first, self))
    }

    pub fn set_init(&self) {
        self.init.store(true, Ordering::Relaxed);
    }

    pub fn set_leader_status(&self, status: ExitStatus) {
        *self.leader_status.lock() = Some(status);
    }

    pub fn leader_status(&self) -> Option<ExitStatus> {
        match *self.life.lock() {
            Life::Ending {
                status,
                survivor: None,
            } => Some(status),
            _ => *self.leader_status.lock(),
        }
    }

    pub fn actions(&self) -> Arc<Mutex<SigActions>> {
        self.actions.read().clone()
    }

    /// execve(2): dispositions are no longer shared.
    pub fn set_actions(&self, actions: SigActions) {
        *self.actions.write() = Arc::new(Mutex::new(actions));
    }

    /// Ends every task with `status`; the first caller decides.
    pub fn begin_exit(&self, status: ExitStatus) {
        {
            let mut life = self.life.lock();
            match *life {
                Life::Alive
                | Life::Ending {
                    survivor: Some(_), ..
                } => {
                    *life = Life::Ending {
                        status,
                        survivor: None,
                    };
                }
                Life::Ending { survivor: None, .. } | Life::Dead => return,
            }
        }
        let tasks = self.tasks();
        for task in &tasks {
            task.interrupt();
        }
        self.continued.wake_all();
        if let Some(task) = tasks.iter().find(|task| task.is_in_guest()) {
            let deadline = MonoTime::now().after_ns(LAST_RESORT_NS);
            let waiter = Arc::new(LastResort(Arc::downgrade(task.group())));
            *self.last_resort.lock() = Some(self.kernel.reactor.arm(deadline, waiter));
        }
    }

    /// Ends every task with `status` at that time.
    pub fn end_at(self: &Arc<Self>, deadline: MonoTime, status: ExitStatus) {
        let waiter = Arc::new(TimeLimit(Arc::downgrade(self), status));
        *self.time_limit.lock() = Some(self.kernel.reactor.arm(deadline, waiter));
    }

    /// execve(2): ends every task but `survivor`. False if the group is ending anyhow.
    pub fn begin_exec(&self, survivor: i32) -> bool {
        {
            let mut life = self.life.lock();
            if *life != Life::Alive {
                return false;
            }
            if self.tasks.lock().len() == 1 {
                return true;
            }
            *life = Life::Ending {
                status: ExitStatus::Exited(0),
                survivor: Some(survivor),
            };
        }
        for task in self.tasks() {
            if task.tid() != survivor {
                task.interrupt();
            }
        }
        self.continued.wake_all();
        true
    }

    /// After `begin_exec`, when the survivor is alone (or gives up).
    pub fn end_exec(&self) {
        let mut life = self.life.lock();
        if let Life::Ending {
            survivor: Some(_), ..
        } = *life
        {
            *life = Life::Alive;
        }
    }

    /// The status that task `tid` has to end with, if it has to.
    pub fn must_exit(&self, tid: i32) -> Option<ExitStatus> {
        match *self.life.lock() {
            Life::Ending { status, survivor } if survivor != Some(tid) => Some(status),
            _ => None,
        }
    }

    /// Stops all tasks (they wait in the run loop). The signal to report, unless it was stopped.
    pub fn stop_all(&self, signal: Signal) -> Option<Signal> {
        if self.signals.lock().stopped.replace(signal).is_some() {
            return None;
        }
        for task in self.tasks() {
            task.interrupt();
        }
        Some(signal)
    }

    /// SIGCONT: lets stopped tasks go on. Tells the parent if it was stopped.
    pub fn continue_all(&self) {
        let was = self.signals.lock().stopped.take();
        if was.is_some() {
            self.continued.wake_all();
            self.kernel.tree.report_continued(self);
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.signals.lock().stopped.is_some()
    }

    /// Counts expirations of a timer whose signal is still pending. False if it is not.
    pub fn add_timer_overrun(&self, timer: i32, more: i32) -> bool {
        self.signals.lock().pending.add_overrun(timer, more)
            || self
                .tasks()
                .iter()
                .any(|t| t.signals.lock().pending.add_overrun(timer, more))
    }

    /// Usage of all tasks, living and ended.
    pub fn usage(&self) -> Usage {
        let ended = *self.ended_usage.lock();
        self.tasks()
            .iter()
            .fold(ended, |sum, t| sum.plus(t.usage()))
    }
}
