//! timerfd_create(2): timers that read as a number of expiries.

use std::any::Any;
use std::sync::{Arc, Weak};

use nix::time::ClockId;
use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::executor::{Reactor, TimerHandle};
use crate::fs::anon::{Anon, anon_file};
use crate::fs::file::{File, FileOps, Positioned};
use crate::fs::inode::OpenFlags;
use crate::kernel::time::{MonoTime, clock_ns};
use crate::kernel::timers::{Absolute, Setting};
use crate::kernel::wait::{Ready, WaitQueue, Waiter};
use crate::mm::io::Sink;

#[derive(Default)]
struct State {
    /// On the timer's clock; None: disarmed.
    expires_ns: Option<u64>,
    interval_ns: u64,
    /// Expiries not yet read.
    ticks: u64,
    /// Flags of the last timerfd_settime(2), for fdinfo.
    flags: i32,
    armed: Option<TimerHandle>,
}

/// See the module documentation.
pub struct TimerFd {
    this: Weak<TimerFd>,
    clock: i32,
    reactor: Arc<Reactor>,
    state: Mutex<State>,
    queue: WaitQueue,
}

/// A new, disarmed timer on `clock`, one of those timerfd_create(2) knows. `flags`: O_NONBLOCK.
///
/// # Errors
/// EINVAL for another clock.
pub fn timerfd(reactor: &Arc<Reactor>, clock: i32, flags: OpenFlags) -> Result<Arc<File>> {
    host_clock(clock)?;
    let ops = Arc::new_cyclic(|this| TimerFd {
        this: this.clone(),
        clock,
        reactor: reactor.clone(),
        state: Mutex::default(),
        queue: WaitQueue::new(),
    });
    Ok(anon_file(
        Anon::Inode("[timerfd]"),
        ops,
        flags | OpenFlags::RDWR,
    ))
}

fn host_clock(clock: i32) -> Result<ClockId> {
    Ok(match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => ClockId::CLOCK_REALTIME,
        libc::CLOCK_MONOTONIC => ClockId::CLOCK_MONOTONIC,
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => ClockId::CLOCK_BOOTTIME,
        _ => return Err(Errno::EINVAL),
    })
}

impl Waiter for TimerFd {
    fn notify(&self, _: Ready) {
        let rang = self.look(&mut self.state.lock());
        if rang {
            self.queue.wake(Ready::IN | Ready::RDNORM);
        }
    }
}

impl TimerFd {
    fn now_ns(&self) -> u64 {
        host_clock(self.clock).map_or(0, clock_ns)
    }

    /// timerfd_settime(2): returns what was set before.
    pub fn set(&self, new: Setting, absolute: Absolute, flags: i32) -> Setting {
        let (old, rang) = {
            let mut state = self.state.lock();
            self.look(&mut state);
            let old = self.setting(&state);
            state.ticks = 0;
            state.flags = flags;
            state.interval_ns = new.interval_ns;
            state.armed = None;
            state.expires_ns = match (new.value_ns, absolute) {
                (0, _) => None,
                (value, Absolute::Yes) => Some(value),
                (value, Absolute::No) => Some(self.now_ns().saturating_add(value)),
            };
            let rang = self.look(&mut state);
            (old, rang)
        };
        if rang {
            self.queue.wake(Ready::IN | Ready::RDNORM);
        }
        old
    }

    /// timerfd_gettime(2).
    pub fn get(&self) -> Setting {
        let mut state = self.state.lock();
        self.look(&mut state);
        self.setting(&state)
    }

    fn setting(&self, state: &State) -> Setting {
        Setting {
            value_ns: state
                .expires_ns
                .map_or(0, |e| e.saturating_sub(self.now_ns()).max(1)),
            interval_ns: state.interval_ns,
        }
    }

    /// Counts what has expired and arms the reactor for the next expiry. True if there was one.
    fn look(&self, state: &mut State) -> bool {
        let Some(expires) = state.expires_ns else {
            return false;
        };
        let now = self.now_ns();
        let mut next = expires;
        let mut rang = false;
        if now >= expires {
            rang = true;
            let more = (now - expires).checked_div(state.interval_ns).unwrap_or(0);
            state.ticks = state.ticks.saturating_add(1 + more);
            state.expires_ns = (state.interval_ns > 0).then(|| {
                let passed = state.interval_ns.saturating_mul(more.saturating_add(1));
                expires.saturating_add(passed)
            });
            state.armed = None;
            match state.expires_ns {
                Some(e) => next = e,
                None => return true,
            }
        } else if state.armed.is_some() && !rang {
            // Armed, but the clock may have been set: the moment is computed anew when it rings.
            return false;
        }
        if let Some(this) = self.this.upgrade() {
            let deadline = MonoTime::now().after_ns(next.saturating_sub(now));
            let waiter = Arc::new(Ring(Arc::downgrade(&this)));
            state.armed = Some(self.reactor.arm(deadline, waiter));
        }
        rang
    }
}

/// What the reactor holds: does not keep the timer alive.
struct Ring(Weak<TimerFd>);

impl Waiter for Ring {
    fn notify(&self, ready: Ready) {
        if let Some(timer) = self.0.upgrade() {
            timer.state.lock().armed = None;
            timer.notify(ready);
        }
    }
}

impl FileOps for TimerFd {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, _offset: u64) -> Result<usize> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let ticks = {
            let mut state = self.state.lock();
            self.look(&mut state);
            std::mem::take(&mut state.ticks)
        };
        if ticks == 0 {
            return Err(Errno::EAGAIN);
        }
        dst.put(&ticks.to_ne_bytes())
    }

    fn ready(&self, _file: &File) -> Ready {
        let mut state = self.state.lock();
        self.look(&mut state);
        if state.ticks > 0 {
            Ready::IN | Ready::RDNORM
        } else {
            Ready::empty()
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn fdinfo(&self, _file: &File) -> String {
        const NS: u64 = 1_000_000_000;
        let set = self.get();
        let state = self.state.lock();
        format!(
            "clockid: {}\nticks: {}\nsettime flags: 0{:o}\nit_value: ({}, {})\nit_interval: ({}, {})\n",
            self.clock,
            state.ticks,
            state.flags,
            set.value_ns / NS,
            set.value_ns % NS,
            set.interval_ns / NS,
            set.interval_ns % NS
        )
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Tell(std::sync::mpsc::SyncSender<()>);
    impl Waiter for Tell {
        fn notify(&self, _: Ready) {
            let _ = self.0.try_send(());
        }
    }

    fn read(file: &File) -> Result<u64> {
        let mut buf = [0u8; 8];
        file.read(&mut Sink::kernel(&mut buf))?;
        Ok(u64::from_ne_bytes(buf))
    }

    #[test]
    fn rings_once_or_again_and_wakes() {
        let reactor = Reactor::new().unwrap();
        let running = reactor.clone();
        std::thread::spawn(move || running.run());
        for clock in [
            libc::CLOCK_MONOTONIC,
            libc::CLOCK_REALTIME,
            libc::CLOCK_BOOTTIME,
        ] {
            let file = timerfd(&reactor, clock, OpenFlags::empty()).unwrap();
            assert_eq!(read(&file), Err(Errno::EAGAIN));
            let timer = file.downcast::<TimerFd>().unwrap();
            let (tx, rx) = std::sync::mpsc::sync_channel(8);
            let _reg = timer.queue.register(Ready::IN, Arc::new(Tell(tx)));
            let once = Setting {
                value_ns: 1_000_000,
                interval_ns: 0,
            };
            timer.set(once, Absolute::No, 0);
            rx.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!(read(&file), Ok(1));
            assert_eq!(timer.get(), Setting::default());

            let past = Setting {
                value_ns: 1,
                interval_ns: 1_000_000,
            };
            timer.set(past, Absolute::Yes, 1);
            assert!(file.ready().contains(Ready::IN));
            // All the missed expiries count.
            assert!(read(&file).unwrap() > 1000);
            rx.recv_timeout(Duration::from_secs(20)).unwrap();
            let old = timer.set(Setting::default(), Absolute::No, 0);
            assert_eq!(old.interval_ns, 1_000_000);
            assert!((1..=1_000_000).contains(&old.value_ns));
            assert_eq!(read(&file), Err(Errno::EAGAIN));
        }
        assert!(timerfd(&reactor, libc::CLOCK_TAI, OpenFlags::empty()).is_err());
    }
}
