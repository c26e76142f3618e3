//! The thread that waits for the host: timers and host file descriptors.
//!
//! It sleeps in epoll_wait(2) on one timerfd, armed for the earliest deadline, and on the watched
//! descriptors (a terminal, a pipe to the outside), edge triggered; it never does more than notify.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use parking_lot::Mutex;

use crate::errno::Result;
use crate::kernel::time::MonoTime;
use crate::kernel::wait::{Ready, WaitQueue, Waiter};

const TIMER_TOKEN: u64 = 0;

#[derive(Default)]
struct Timers {
    next_id: u64,
    armed: BTreeMap<(MonoTime, u64), Arc<dyn Waiter>>,
    /// What the timerfd is set to.
    programmed: Option<MonoTime>,
}

#[derive(Default)]
struct Watches {
    next_token: u64,
    told: BTreeMap<u64, Weak<HostWatch>>,
}

/// See the module documentation. One a sandbox.
pub struct Reactor {
    epoll: Epoll,
    timer: TimerFd,
    timers: Mutex<Timers>,
    watches: Mutex<Watches>,
}

/// An armed timer; dropping it disarms.
pub struct TimerHandle {
    reactor: Arc<Reactor>,
    key: (MonoTime, u64),
}

/// Somebody is told of the readiness changes of a host descriptor, by the reactor's thread, which
/// holds no lock meanwhile. Dropping it ends that.
pub struct HostWatch {
    waiter: Arc<dyn Waiter>,
    fd: Arc<OwnedFd>,
    token: u64,
    reactor: Arc<Reactor>,
}

/// Readiness changes of a host descriptor arrive at this queue.
pub struct HostEvents {
    pub queue: Arc<WaitQueue>,
    watch: Arc<HostWatch>,
}

impl Reactor {
    /// # Errors
    /// The host refuses an epoll or timer descriptor.
    pub fn new() -> Result<Arc<Reactor>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )?;
        epoll.add(
            timer.as_fd(),
            EpollEvent::new(EpollFlags::EPOLLIN, TIMER_TOKEN),
        )?;
        Ok(Arc::new(Reactor {
            epoll,
            timer,
            timers: Mutex::new(Timers {
                next_id: 1,
                ..Default::default()
            }),
            watches: Mutex::new(Watches {
                next_token: 1,
                ..Default::default()
            }),
        }))
    }

    /// Notifies `waiter` once at `deadline` (soon, if that is past).
    pub fn arm(self: &Arc<Self>, deadline: MonoTime, waiter: Arc<dyn Waiter>) -> TimerHandle {
        let mut timers = self.timers.lock();
        let key = (deadline, timers.next_id);
        timers.next_id += 1;
        timers.armed.insert(key, waiter);
        self.program(&mut timers);
        TimerHandle {
            reactor: self.clone(),
            key,
        }
    }

    /// Sets the timerfd if the earliest deadline moved closer. One that moved away costs at most one
    /// empty wake-up, less than a host call a cancelled timer.
    fn program(&self, timers: &mut Timers) {
        let Some((&(first, _), _)) = timers.armed.first_key_value() else {
            return;
        };
        if timers.programmed.is_some_and(|p| p <= first) {
            return;
        }
        timers.programmed = Some(first);
        // Zero would disarm it.
        let ns = first.as_ns().max(1);
        let spec = TimeSpec::new((ns / 1_000_000_000) as i64, (ns % 1_000_000_000) as i64);
        if let Err(e) = self.timer.set(
            Expiration::OneShot(spec),
            TimerSetTimeFlags::TFD_TIMER_ABSTIME,
        ) {
            log::error!("timerfd_settime: {e}");
        }
    }

    /// Watches a host descriptor. Regular files cannot be watched: EPERM.
    pub fn watch(self: &Arc<Self>, fd: &Arc<OwnedFd>) -> Result<Arc<HostEvents>> {
        let queue = Arc::new(WaitQueue::new());
        let watch = self.watch_for(fd, queue.clone())?;
        Ok(Arc::new(HostEvents { queue, watch }))
    }

    /// The same for one who is told without a queue.
    pub fn watch_for(
        self: &Arc<Self>,
        fd: &Arc<OwnedFd>,
        waiter: Arc<dyn Waiter>,
    ) -> Result<Arc<HostWatch>> {
        let mut watches = self.watches.lock();
        let token = watches.next_token;
        watches.next_token += 1;
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLPRI
            | EpollFlags::EPOLLET;
        self.epoll.add(fd.as_fd(), EpollEvent::new(flags, token))?;
        let watch = Arc::new(HostWatch {
            waiter,
            fd: fd.clone(),
            token,
            reactor: self.clone(),
        });
        watches.told.insert(token, Arc::downgrade(&watch));
        Ok(watch)
    }

    /// Runs the reactor on this thread for the life of the sandbox.
    pub fn run(&self) {
        let mut events = [EpollEvent::empty(); 32];
        loop {
            let n = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(n) => n,
                Err(nix::Error::EINTR) => 0,
                Err(e) => {
                    log::error!("epoll_wait: {e}");
                    return;
                }
            };
            for event in &events[..n] {
                match event.data() {
                    TIMER_TOKEN => self.expire(),
                    token => self.notify(token, event.events()),
                }
            }
        }
    }

    fn expire(&self) {
        let mut buf = [0u8; 8];
        // Nothing to read only means that it was set anew meanwhile.
        let _ = nix::unistd::read(self.timer.as_fd(), &mut buf);
        let due = {
            let mut timers = self.timers.lock();
            let later = timers.armed.split_off(&(MonoTime::now().next(), 0));
            let due = std::mem::replace(&mut timers.armed, later);
            timers.programmed = None;
            self.program(&mut timers);
            due
        };
        for waiter in due.into_values() {
            waiter.notify(Ready::IN);
        }
    }

    fn notify(&self, token: u64, flags: EpollFlags) {
        let watch = self.watches.lock().told.get(&token).and_then(Weak::upgrade);
        if let Some(watch) = watch {
            let mut ready = Ready::from_bits_truncate(flags.bits() as u32);
            if ready.contains(Ready::IN) {
                ready |= Ready::RDNORM;
            }
            if ready.contains(Ready::OUT) {
                ready |= Ready::WRNORM;
            }
            watch.waiter.notify(ready);
        }
    }
}

impl Drop for TimerHandle {
    fn drop(&mut self) {
        let removed = self.reactor.timers.lock().armed.remove(&self.key);
        drop(removed);
    }
}

impl HostEvents {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.watch.fd.as_fd()
    }
}

impl Drop for HostWatch {
    fn drop(&mut self) {
        self.reactor.watches.lock().told.remove(&self.token);
        if let Err(e) = self.reactor.epoll.delete(self.fd.as_fd()) {
            log::debug!("epoll_ctl: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Tell(std::sync::mpsc::SyncSender<Ready>);
    impl Waiter for Tell {
        fn notify(&self, ready: Ready) {
            let _ = self.0.try_send(ready);
        }
    }

    #[test]
    fn timers_fire_in_order_and_descriptors_report() {
        let reactor = Reactor::new().unwrap();
        let running = reactor.clone();
        std::thread::spawn(move || running.run());

        let (tx, rx) = std::sync::mpsc::sync_channel(8);
        let now = MonoTime::now();
        let far = reactor.arm(now.after_ns(3_600_000_000_000), Arc::new(Tell(tx.clone())));
        let _near = reactor.arm(now.after_ns(1_000_000), Arc::new(Tell(tx.clone())));
        assert_eq!(rx.recv_timeout(Duration::from_secs(20)), Ok(Ready::IN));
        assert!(MonoTime::now() >= now.after_ns(1_000_000));
        drop(far);
        assert!(rx.try_recv().is_err());

        let (r, w) = nix::unistd::pipe().unwrap();
        let events = reactor.watch(&Arc::new(r)).unwrap();
        let _reg = events.queue.register(Ready::IN, Arc::new(Tell(tx)));
        nix::unistd::write(&w, b"x").unwrap();
        assert!(
            rx.recv_timeout(Duration::from_secs(20))
                .unwrap()
                .contains(Ready::IN)
        );
    }
}
