//! Timers of a process: setitimer(2), alarm(2), timer_create(2).
//!
//! Wall-clock timers are armed in the reactor. Timers on CPU time are armed for the earliest moment
//! at which they could expire and look at the clock again then.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::executor::TimerHandle;
use crate::kernel::group::ThreadGroup;
use crate::kernel::signal::send::{send_to_group, send_to_task};
use crate::kernel::signal::{SigFields, SigInfo, Signal};
use crate::kernel::time::{MonoTime, clock_ns};
use crate::kernel::wait::{Ready, Waiter};

const NS: u64 = 1_000_000_000;

/// What a timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerClock {
    Monotonic,
    Realtime,
    /// User and system time of the process.
    ProcessCpu,
    /// User time of the process (ITIMER_VIRTUAL).
    ProcessUser,
    /// CPU time of one thread.
    ThreadCpu(i32),
}

impl TimerClock {
    /// The clock's value in nanoseconds, as the process sees it.
    pub fn now_ns(self, group: &ThreadGroup) -> u64 {
        match self {
            TimerClock::Monotonic => MonoTime::now().as_ns(),
            TimerClock::Realtime => clock_ns(nix::time::ClockId::CLOCK_REALTIME),
            TimerClock::ProcessCpu => {
                let u = group.usage();
                u.user_ns.saturating_add(u.system_ns)
            }
            TimerClock::ProcessUser => group.usage().user_ns,
            TimerClock::ThreadCpu(tid) => {
                group
                    .tasks()
                    .iter()
                    .find(|t| t.tid() == tid)
                    .map_or(0, |t| {
                        let u = t.usage();
                        u.user_ns.saturating_add(u.system_ns)
                    })
            }
        }
    }
}

/// What an expiry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// SIGEV_NONE.
    Nothing,
    /// SIGEV_SIGNAL, to the process.
    Process { signal: Signal, value: u64 },
    /// SIGEV_THREAD_ID, to one thread.
    Thread {
        tid: i32,
        signal: Signal,
        value: u64,
    },
    /// An interval timer's fixed signal.
    Interval(Signal),
    /// RLIMIT_CPU: SIGXCPU each second from the soft limit on, SIGKILL at the hard one.
    CpuLimit,
}

/// Remaining time and interval in nanoseconds; a value of 0 is disarmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    pub value_ns: u64,
    pub interval_ns: u64,
}

/// One timer.
struct Timer {
    clock: TimerClock,
    notify: Notify,
    /// On `clock`; None: disarmed.
    expires_ns: Option<u64>,
    interval_ns: u64,
    /// Of the last signal that was taken (timer_getoverrun(2)).
    overrun: i32,
    armed: Option<TimerHandle>,
}

/// Names a timer of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerId {
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
    Interval(i32),
    /// RLIMIT_CPU.
    CpuLimit,
    Posix(i32),
}

/// The timers of one thread group.
pub struct GroupTimers {
    group: Weak<ThreadGroup>,
    timers: Mutex<BTreeMap<TimerId, Timer>>,
}

struct Expiry {
    group: Weak<ThreadGroup>,
    id: TimerId,
}

impl Waiter for Expiry {
    fn notify(&self, _: Ready) {
        if let Some(group) = self.group.upgrade() {
            group.timers.look(self.id);
        }
    }
}

impl GroupTimers {
    pub fn new(group: Weak<ThreadGroup>) -> Self {
        GroupTimers {
            group,
            timers: Mutex::default(),
        }
    }

    /// timer_create(2): a new, disarmed timer. EAGAIN if there are too many.
    pub fn create(&self, clock: TimerClock, notify: impl FnOnce(i32) -> Notify) -> Result<i32> {
        const MAX: usize = 65536;
        let mut timers = self.timers.lock();
        if timers.len() >= MAX {
            return Err(Errno::EAGAIN);
        }
        let id = (0..i32::MAX)
            .find(|i| !timers.contains_key(&TimerId::Posix(*i)))
            .ok_or(Errno::EAGAIN)?;
        timers.insert(TimerId::Posix(id), Timer::new(clock, notify(id)));
        Ok(id)
    }

    /// Timers of timer_create(2).
    pub fn posix(&self) -> usize {
        let timers = self.timers.lock();
        timers.range(TimerId::Posix(0)..).count()
    }

    /// timer_delete(2).
    pub fn delete(&self, id: i32) -> Result<()> {
        let old = self
            .timers
            .lock()
            .remove(&TimerId::Posix(id))
            .ok_or(Errno::EINVAL)?;
        drop(old);
        Ok(())
    }

    /// timer_getoverrun(2).
    pub fn overrun(&self, id: i32) -> Result<i32> {
        self.timers
            .lock()
            .get(&TimerId::Posix(id))
            .map(|t| t.overrun)
            .ok_or(Errno::EINVAL)
    }

    /// Time left and interval. EINVAL if there is no such POSIX timer.
    pub fn get(&self, id: TimerId) -> Result<Setting> {
        let group = self.group.upgrade().ok_or(Errno::ESRCH)?;
        let timers = self.timers.lock();
        match (timers.get(&id), id) {
            (Some(t), _) => Ok(t.setting(&group)),
            (None, TimerId::Interval(_) | TimerId::CpuLimit) => Ok(Setting::default()),
            (None, TimerId::Posix(_)) => Err(Errno::EINVAL),
        }
    }

    /// RLIMIT_CPU: watches the process's CPU time from now on. `soft` in seconds.
    pub fn set_cpu_limit(&self, soft: u64) {
        let value_ns = if soft == u64::MAX {
            0
        } else {
            soft.saturating_mul(NS).max(1)
        };
        let id = TimerId::CpuLimit;
        let timer = || Timer::new(TimerClock::ProcessCpu, Notify::CpuLimit);
        self.timers.lock().entry(id).or_insert_with(timer);
        // Only fails if the group is gone.
        let _ = self.set(
            id,
            Setting {
                value_ns,
                interval_ns: NS,
            },
            Absolute::Yes,
        );
    }

    /// Sets an interval timer; the old setting.
    pub fn set_interval(&self, which: i32, new: Setting) -> Result<Setting> {
        let (clock, signal) = match which {
            libc::ITIMER_REAL => (TimerClock::Monotonic, Signal::SIGALRM),
            libc::ITIMER_VIRTUAL => (TimerClock::ProcessUser, Signal::SIGVTALRM),
            libc::ITIMER_PROF => (TimerClock::ProcessCpu, Signal::SIGPROF),
            _ => return Err(Errno::EINVAL),
        };
        let id = TimerId::Interval(which);
        self.timers
            .lock()
            .entry(id)
            .or_insert_with(|| Timer::new(clock, Notify::Interval(signal)));
        self.set(id, new, Absolute::No)
    }

    /// timer_settime(2) and setitimer(2).
    pub fn set(&self, id: TimerId, new: Setting, absolute: Absolute) -> Result<Setting> {
        let group = self.group.upgrade().ok_or(Errno::ESRCH)?;
        let mut timers = self.timers.lock();
        let timer = timers.get_mut(&id).ok_or(Errno::EINVAL)?;
        let old = timer.setting(&group);
        timer.interval_ns = new.interval_ns;
        timer.overrun = 0;
        timer.armed = None;
        timer.expires_ns = match (new.value_ns, absolute) {
            (0, _) => None,
            (v, Absolute::Yes) => Some(v),
            (v, Absolute::No) => Some(timer.clock.now_ns(&group).saturating_add(v)),
        };
        self.arm(&group, id, timer);
        Ok(old)
    }

    /// execve(2): POSIX timers go, interval timers stay.
    pub fn exec(&self) {
        let gone = self.timers.lock().split_off(&TimerId::Posix(0));
        drop(gone);
    }

    /// The group is ending: disarm everything.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *self.timers.lock());
        drop(gone);
    }

    fn arm(&self, group: &Arc<ThreadGroup>, id: TimerId, timer: &mut Timer) {
        let Some(expires) = timer.expires_ns else {
            return;
        };
        let left = expires.saturating_sub(timer.clock.now_ns(group));
        // CPU time passes at most once a thread as fast as wall-clock time; look at least that often
        // and not too often.
        let wait = match timer.clock {
            TimerClock::Monotonic | TimerClock::Realtime => left,
            _ => (left / group.task_count().max(1) as u64).max(1_000_000),
        };
        let waiter = Arc::new(Expiry {
            group: self.group.clone(),
            id,
        });
        timer.armed = Some(
            group
                .kernel()
                .reactor
                .arm(MonoTime::now().after_ns(wait), waiter),
        );
    }

    /// Looks at all POSIX timers that are due before one of their signals is taken: it is then that
    /// missed expiries are counted (timer_getoverrun(2)), not when the reactor gets to run.
    pub fn catch_up(&self) {
        let Some(group) = self.group.upgrade() else {
            return;
        };
        let due: Vec<TimerId> = {
            let timers = self.timers.lock();
            let is_due = |(id, t): (&TimerId, &Timer)| {
                let expires = t.expires_ns?;
                let posix = matches!(id, TimerId::Posix(_));
                (posix && expires <= t.clock.now_ns(&group)).then_some(*id)
            };
            timers.iter().filter_map(is_due).collect()
        };
        for id in due {
            self.look(id);
        }
    }

    /// A signal was taken, perhaps a timer's.
    pub fn taken(&self, info: &SigInfo) {
        if let SigFields::Timer { id, overrun, .. } = info.fields
            && let Some(timer) = self.timers.lock().get_mut(&TimerId::Posix(id))
        {
            timer.overrun = overrun;
        }
    }

    /// The reactor says that a timer may have expired.
    fn look(&self, id: TimerId) {
        let Some(group) = self.group.upgrade() else {
            return;
        };
        let (notify, overrun) = {
            let mut timers = self.timers.lock();
            let Some(timer) = timers.get_mut(&id) else {
                return;
            };
            let Some(expires) = timer.expires_ns else {
                return;
            };
            let now = timer.clock.now_ns(&group);
            if now < expires {
                self.arm(&group, id, timer);
                return;
            }
            let missed = (now - expires).checked_div(timer.interval_ns);
            timer.expires_ns = missed.map(|missed| {
                expires.saturating_add(timer.interval_ns.saturating_mul(missed.saturating_add(1)))
            });
            self.arm(&group, id, timer);
            let missed = i32::try_from(missed.unwrap_or(0)).unwrap_or(i32::MAX);
            if let TimerId::Posix(posix) = id
                && group.add_timer_overrun(posix, missed.saturating_add(1))
            {
                return;
            }
            (timer.notify, missed)
        };
        let posix = |signal, value| {
            let TimerId::Posix(id) = id else {
                return SigInfo::kernel(signal);
            };
            let fields = SigFields::Timer { id, overrun, value };
            SigInfo {
                signal,
                code: libc::SI_TIMER,
                errno: 0,
                fields,
            }
        };
        match notify {
            Notify::Nothing => {}
            Notify::CpuLimit => {
                let hard = group
                    .limits
                    .lock()
                    .get(libc::RLIMIT_CPU)
                    .map_or(u64::MAX, |l| l.hard);
                let over = TimerClock::ProcessCpu.now_ns(&group) >= hard.saturating_mul(NS);
                let signal = if over {
                    Signal::SIGKILL
                } else {
                    Signal::SIGXCPU
                };
                send_to_group(&group, SigInfo::kernel(signal));
            }
            Notify::Interval(signal) => send_to_group(&group, SigInfo::kernel(signal)),
            Notify::Process { signal, value } => send_to_group(&group, posix(signal, value)),
            Notify::Thread { tid, signal, value } => {
                if let Some(task) = group.tasks().iter().find(|t| t.tid() == tid) {
                    send_to_task(task, posix(signal, value));
                }
            }
        }
    }
}

impl Timer {
    fn new(clock: TimerClock, notify: Notify) -> Timer {
        Timer {
            clock,
            notify,
            expires_ns: None,
            interval_ns: 0,
            overrun: 0,
            armed: None,
        }
    }

    fn setting(&self, group: &ThreadGroup) -> Setting {
        let value_ns = self
            .expires_ns
            .map_or(0, |e| e.saturating_sub(self.clock.now_ns(group)).max(1));
        Setting {
            value_ns,
            interval_ns: self.interval_ns,
        }
    }
}

/// TIMER_ABSTIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absolute {
    Yes,
    No,
}
