//! Signals (signal(7)): sets, information, dispositions and what is pending.
//!
//! A signal is sent with one of the `send_*` functions of [`send`], waits in a [`Pending`] queue of a
//! task or of its thread group, and is taken out by the task itself on its way back to guest code.

pub mod deliver;
pub mod exception;
pub mod frame;
pub mod send;

use std::collections::VecDeque;

/// Highest signal number.
pub const NSIG: i32 = 64;
/// First real-time signal as the kernel counts.
pub const SIGRTMIN: i32 = 32;

/// A signal number from 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident)*) => { impl Signal { $(pub const $name: Signal = Signal(libc::$name as u8);)* } };
}

signals! {
    SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2
    SIGPIPE SIGALRM SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG
    SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO SIGPWR SIGSYS
}

impl Signal {
    /// None unless 1 ≤ `n` ≤ 64.
    pub fn new(n: i32) -> Option<Signal> {
        (1..=NSIG).contains(&n).then_some(Signal(n as u8))
    }

    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    pub fn is_realtime(self) -> bool {
        self.number() >= SIGRTMIN
    }

    /// What happens without a handler.
    pub fn default_action(self) -> DefaultAction {
        use DefaultAction::*;
        match self {
            Signal::SIGCHLD | Signal::SIGURG | Signal::SIGWINCH => Ignore,
            Signal::SIGCONT => Continue,
            Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU => Stop,
            Signal::SIGQUIT
            | Signal::SIGILL
            | Signal::SIGTRAP
            | Signal::SIGABRT
            | Signal::SIGBUS
            | Signal::SIGFPE
            | Signal::SIGSEGV
            | Signal::SIGXCPU
            | Signal::SIGXFSZ
            | Signal::SIGSYS => Core,
            _ => Terminate,
        }
    }
}

/// The default actions of signal(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    Terminate,
    Core,
    Ignore,
    Stop,
    Continue,
}

/// A signal set as the system calls carry it: bit n-1 for signal n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SigSet(pub u64);

impl SigSet {
    pub const EMPTY: SigSet = SigSet(0);
    /// SIGKILL and SIGSTOP can be neither blocked, caught nor ignored.
    pub const UNBLOCKABLE: SigSet = SigSet(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));
    /// Signals that a stop or a continue cancels.
    pub const STOPPING: SigSet = SigSet(
        1 << (libc::SIGSTOP - 1)
            | 1 << (libc::SIGTSTP - 1)
            | 1 << (libc::SIGTTIN - 1)
            | 1 << (libc::SIGTTOU - 1),
    );
    /// Raised by what the thread itself did; delivered first.
    pub const SYNCHRONOUS: SigSet = SigSet(
        1 << (libc::SIGSEGV - 1)
            | 1 << (libc::SIGBUS - 1)
            | 1 << (libc::SIGILL - 1)
            | 1 << (libc::SIGTRAP - 1)
            | 1 << (libc::SIGFPE - 1)
            | 1 << (libc::SIGSYS - 1),
    );

    pub fn of(signal: Signal) -> SigSet {
        SigSet(1 << (signal.0 - 1))
    }
    pub fn has(self, signal: Signal) -> bool {
        self.0 & Self::of(signal).0 != 0
    }
    #[must_use]
    pub fn with(self, signal: Signal) -> SigSet {
        SigSet(self.0 | Self::of(signal).0)
    }
    #[must_use]
    pub fn without(self, signal: Signal) -> SigSet {
        SigSet(self.0 & !Self::of(signal).0)
    }
    #[must_use]
    pub fn minus(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }
    #[must_use]
    pub fn union(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }
    #[must_use]
    pub fn intersect(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The lowest signal in the set.
    pub fn first(self) -> Option<Signal> {
        (self.0 != 0).then(|| Signal(self.0.trailing_zeros() as u8 + 1))
    }
}

/// siginfo_t, by its cases (sigaction(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigInfo {
    pub signal: Signal,
    /// si_code.
    pub code: i32,
    /// si_errno.
    pub errno: i32,
    pub fields: SigFields,
}

/// The union in siginfo_t.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigFields {
    /// kill(2), tgkill(2): sender.
    Kill { pid: i32, uid: u32 },
    /// sigqueue(3): sender and si_value.
    Queue { pid: i32, uid: u32, value: u64 },
    /// POSIX timer: si_timerid, si_overrun, si_value.
    Timer { id: i32, overrun: i32, value: u64 },
    /// SIGCHLD: child, its real uid, exit code or signal, times in clock ticks.
    Child {
        pid: i32,
        uid: u32,
        status: i32,
        utime: i64,
        stime: i64,
    },
    /// SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP: si_addr.
    Fault { addr: u64 },
    /// SIGIO: si_band, si_fd.
    Poll { band: i64, fd: i32 },
    /// SIGSYS: call address, number, architecture.
    Sys { addr: u64, nr: i32, arch: u32 },
}

impl SigInfo {
    /// Whether a timer of ours sent it; the code alone is what a guest may say.
    fn is_of_timer(&self) -> bool {
        matches!(self.fields, SigFields::Timer { .. })
    }

    /// As if the kernel sent it (SI_KERNEL).
    pub fn kernel(signal: Signal) -> SigInfo {
        SigInfo {
            signal,
            code: libc::SI_KERNEL,
            errno: 0,
            fields: SigFields::Kill { pid: 0, uid: 0 },
        }
    }
    /// As kill(2) sends it.
    pub fn user(signal: Signal, pid: i32, uid: u32) -> SigInfo {
        SigInfo {
            signal,
            code: libc::SI_USER,
            errno: 0,
            fields: SigFields::Kill { pid, uid },
        }
    }
    pub fn fault(signal: Signal, code: i32, addr: u64) -> SigInfo {
        SigInfo {
            signal,
            code,
            errno: 0,
            fields: SigFields::Fault { addr },
        }
    }
}

/// struct sigaction of the kernel ABI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SigAction {
    /// Address, or 0 SIG_DFL, 1 SIG_IGN.
    pub handler: u64,
    /// SA_*.
    pub flags: u64,
    pub restorer: u64,
    pub mask: SigSet,
}

pub const SIG_DFL: u64 = 0;
pub const SIG_IGN: u64 = 1;

/// The dispositions that CLONE_SIGHAND shares.
#[derive(Clone, Debug)]
pub struct SigActions {
    table: [SigAction; NSIG as usize],
}

impl Default for SigActions {
    fn default() -> Self {
        SigActions {
            table: [SigAction::default(); NSIG as usize],
        }
    }
}

impl SigActions {
    pub fn get(&self, signal: Signal) -> SigAction {
        self.table[usize::from(signal.0) - 1]
    }
    pub fn set(&mut self, signal: Signal, action: SigAction) {
        self.table[usize::from(signal.0) - 1] = action;
    }
    /// Would a delivery do nothing?
    pub fn ignores(&self, signal: Signal) -> bool {
        match self.get(signal).handler {
            SIG_IGN => true,
            SIG_DFL => signal.default_action() == DefaultAction::Ignore,
            _ => false,
        }
    }
    /// execve(2): handlers become default, ignored stays ignored.
    pub fn reset_for_exec(&mut self) {
        for action in &mut self.table {
            let handler = if action.handler == SIG_IGN {
                SIG_IGN
            } else {
                SIG_DFL
            };
            *action = SigAction {
                handler,
                ..Default::default()
            };
        }
    }
}

/// Signals sent and not yet taken.
#[derive(Default, Debug)]
pub struct Pending {
    set: SigSet,
    queue: VecDeque<SigInfo>,
    /// How many of them are of timers.
    timers: usize,
}

impl Pending {
    pub fn set(&self) -> SigSet {
        self.set
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many of them take a place of their own; a timer's signal has that of its timer.
    pub fn places(&self) -> usize {
        self.queue.len() - self.timers
    }

    /// Standard signals are kept once; real-time signals queue, up to a bound past which they are as
    /// standard ones. False if it was already there.
    pub fn push(&mut self, info: SigInfo) -> bool {
        /// Whoever sends with kill(2) is not held to RLIMIT_SIGPENDING.
        const MAX: usize = 1 << 16;
        let queues = info.signal.is_realtime() && self.queue.len() < MAX;
        if !queues && self.set.has(info.signal) {
            return false;
        }
        self.set = self.set.with(info.signal);
        self.timers += usize::from(info.is_of_timer());
        self.queue.push_back(info);
        true
    }

    /// A timer expired again while its signal still waits: counts it there. False if none waits.
    pub fn add_overrun(&mut self, timer: i32, more: i32) -> bool {
        for info in &mut self.queue {
            if let SigFields::Timer { id, overrun, .. } = &mut info.fields
                && *id == timer
                && info.code == libc::SI_TIMER
            {
                *overrun = overrun.saturating_add(more);
                return true;
            }
        }
        false
    }

    /// Takes the next signal of `wanted`: synchronous ones first, then the lowest number, in the
    /// order sent.
    pub fn take(&mut self, wanted: SigSet) -> Option<SigInfo> {
        let ready = self.set.intersect(wanted);
        let signal = ready
            .intersect(SigSet::SYNCHRONOUS)
            .first()
            .or(ready.first())?;
        let index = self.queue.iter().position(|i| i.signal == signal)?;
        let info = self.queue.remove(index)?;
        self.timers -= usize::from(info.is_of_timer());
        if !self.queue.iter().any(|i| i.signal == signal) {
            self.set = self.set.without(signal);
        }
        Some(info)
    }

    /// Forgets all signals of `set`.
    pub fn discard(&mut self, set: SigSet) {
        self.queue.retain(|i| !set.has(i.signal));
        self.timers = self.queue.iter().filter(|i| i.is_of_timer()).count();
        self.set = self.set.minus(set);
    }
}

/// sigaltstack(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AltStack {
    pub sp: u64,
    /// SS_DISABLE, SS_AUTODISARM.
    pub flags: i32,
    pub size: u64,
}

impl Default for AltStack {
    fn default() -> Self {
        AltStack {
            sp: 0,
            flags: libc::SS_DISABLE,
            size: 0,
        }
    }
}

/// Signal state of one task.
#[derive(Default, Debug)]
pub struct TaskSignals {
    pub pending: Pending,
    pub blocked: SigSet,
    /// The mask to go back to after the handler that interrupts sigsuspend, ppoll and the like.
    pub saved_mask: Option<SigSet>,
    pub altstack: AltStack,
    /// What sigtimedwait(2) waits for: such a signal wakes the task though it is blocked.
    pub waiting_for: SigSet,
    /// What handlers are told of the last fault.
    pub exception: exception::Exception,
}

/// Signal state of a thread group. The dispositions are apart, behind their own `Arc`, since
/// CLONE_SIGHAND shares them between groups too.
#[derive(Default, Debug)]
pub struct GroupSignals {
    pub pending: Pending,
    /// Stopped by this signal; tasks wait in the run loop until SIGCONT.
    pub stopped: Option<Signal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: i32) -> SigInfo {
        SigInfo::user(Signal::new(n).unwrap(), n, 0)
    }

    #[test]
    fn standard_signals_merge_and_real_time_ones_queue() {
        let mut p = Pending::default();
        assert!(p.push(user(10)) && !p.push(user(10)));
        for _ in 0..1 << 17 {
            p.push(user(41));
        }
        assert_eq!(p.len(), 1 << 16);
        p.discard(SigSet::of(Signal::new(41).unwrap()));
        assert!(p.push(user(40)) && p.push(user(40)));
        assert!(p.push(user(11)));
        let all = SigSet(u64::MAX);
        // SIGSEGV is synchronous, so it comes before SIGUSR1.
        let order: Vec<i32> = std::iter::from_fn(|| p.take(all))
            .map(|i| i.signal.number())
            .collect();
        assert_eq!(order, [11, 10, 40, 40]);
        assert!(p.set().is_empty());
    }

    #[test]
    fn a_timers_signal_has_its_timers_place() {
        let mut p = Pending::default();
        let timer = SigFields::Timer {
            id: 1,
            overrun: 0,
            value: 0,
        };
        let forged = SigFields::Queue {
            pid: 1,
            uid: 0,
            value: 0,
        };
        let code = libc::SI_TIMER;
        for (signal, fields) in [(40, timer), (41, forged), (42, timer)] {
            let signal = Signal::new(signal).unwrap();
            p.push(SigInfo {
                signal,
                fields,
                code,
                ..user(40)
            });
        }
        assert_eq!((p.len(), p.places()), (3, 1));
        p.discard(SigSet::of(Signal::new(42).unwrap()));
        assert_eq!((p.len(), p.places()), (2, 1));
        p.take(SigSet(u64::MAX));
        assert_eq!((p.len(), p.places()), (1, 1));
        p.take(SigSet(u64::MAX));
        assert_eq!((p.len(), p.places()), (0, 0));
    }

    #[test]
    fn only_wanted_signals_are_taken() {
        let mut p = Pending::default();
        p.push(user(2));
        assert_eq!(p.take(SigSet::of(Signal::SIGTERM)), None);
        p.discard(SigSet::of(Signal::SIGINT));
        assert!(p.is_empty() && p.set().is_empty());
    }

    #[test]
    fn exec_keeps_ignored_and_forgets_handlers() {
        let mut a = SigActions::default();
        a.set(
            Signal::SIGINT,
            SigAction {
                handler: SIG_IGN,
                ..Default::default()
            },
        );
        a.set(
            Signal::SIGTERM,
            SigAction {
                handler: 0x1000,
                flags: 4,
                ..Default::default()
            },
        );
        a.reset_for_exec();
        assert!(a.ignores(Signal::SIGINT));
        assert_eq!(a.get(Signal::SIGTERM), SigAction::default());
    }
}
