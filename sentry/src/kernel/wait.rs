//! Wait queues: how a task, an epoll instance or a poll call learns that an object changed.
//!
//! An object owns a [`WaitQueue`] and calls [`WaitQueue::wake`] after a change. Whoever waits
//! registers a [`Waiter`] and keeps the returned [`Registration`]; dropping it leaves the queue.
//! Callers register first, then test the condition, so no wake is lost. A wake runs the waiter's
//! callback while the queue's lock is held: callbacks must be short, take no lock that is held
//! while waking, and never wake a queue in turn (epoll's nested queues defer to its own list).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::task::Waker;

use parking_lot::Mutex;

bitflags::bitflags! {
    /// Readiness of an object, with the values of poll(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Ready: u32 {
        const IN = 0x001;
        const PRI = 0x002;
        const OUT = 0x004;
        const ERR = 0x008;
        const HUP = 0x010;
        const NVAL = 0x020;
        const RDNORM = 0x040;
        const RDBAND = 0x080;
        const WRNORM = 0x100;
        const WRBAND = 0x200;
        const MSG = 0x400;
        const RDHUP = 0x2000;
    }
}

/// Somebody to be told.
pub trait Waiter: Send + Sync {
    /// `ready`: what just became ready (a hint; the condition is always tested again).
    fn notify(&self, ready: Ready);

    /// As `notify`. False: nobody is woken by that, and a wake for one goes on to the next.
    fn rouse(&self, ready: Ready) -> bool {
        self.notify(ready);
        true
    }
}

/// Wakes a task's future.
impl Waiter for Waker {
    fn notify(&self, _: Ready) {
        self.wake_by_ref();
    }
}

/// Passes it on to all who wait there.
impl Waiter for WaitQueue {
    fn notify(&self, ready: Ready) {
        self.rouse(ready);
    }

    fn rouse(&self, ready: Ready) -> bool {
        let entries = self.shared.entries.lock();
        let interested = entries.list.values();
        let interested = interested.filter(|e| e.interest.intersects(ready));
        let mut roused = false;
        for entry in interested.clone().filter(|e| !e.exclusive) {
            roused |= entry.waiter.rouse(ready);
        }
        let mut exclusive = interested.filter(|e| e.exclusive);
        exclusive.any(|e| e.waiter.rouse(ready)) || roused
    }
}

#[derive(Default)]
struct Entries {
    next_id: u64,
    list: BTreeMap<u64, Entry>,
}

struct Entry {
    interest: Ready,
    exclusive: bool,
    waiter: Arc<dyn Waiter>,
}

#[derive(Default)]
struct Shared {
    entries: Mutex<Entries>,
}

/// See the module documentation.
#[derive(Default)]
pub struct WaitQueue {
    shared: Arc<Shared>,
}

/// Keeps a waiter in its queue.
pub struct Registration {
    queue: Weak<Shared>,
    id: u64,
}

impl WaitQueue {
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters the queue for the events of `interest` (ERR and HUP are always included).
    pub fn register(&self, interest: Ready, waiter: Arc<dyn Waiter>) -> Registration {
        self.enter(interest, waiter, false)
    }

    /// As `register`, but a wake stops after the first exclusive waiter that somebody is woken by
    /// (EPOLLEXCLUSIVE).
    pub fn register_exclusive(&self, interest: Ready, waiter: Arc<dyn Waiter>) -> Registration {
        self.enter(interest, waiter, true)
    }

    fn enter(&self, interest: Ready, waiter: Arc<dyn Waiter>, exclusive: bool) -> Registration {
        let mut entries = self.shared.entries.lock();
        let id = entries.next_id;
        entries.next_id += 1;
        let interest = interest | Ready::ERR | Ready::HUP | Ready::NVAL;
        entries.list.insert(
            id,
            Entry {
                interest,
                exclusive,
                waiter,
            },
        );
        Registration {
            queue: Arc::downgrade(&self.shared),
            id,
        }
    }

    /// Tells everybody interested in any of `ready`: first those who share, then of the exclusive
    /// ones as many as it takes to wake somebody. Oldest first.
    pub fn wake(&self, ready: Ready) {
        self.rouse(ready);
    }

    /// Tells everybody.
    pub fn wake_all(&self) {
        self.wake(Ready::all());
    }

    pub fn is_empty(&self) -> bool {
        self.shared.entries.lock().list.is_empty()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.upgrade() {
            let removed = queue.entries.lock().list.remove(&self.id);
            drop(removed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct Count(AtomicU32);
    impl Waiter for Count {
        fn notify(&self, _: Ready) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    impl Count {
        fn take(&self) -> u32 {
            self.0.swap(0, Ordering::Relaxed)
        }
    }
    /// Is told, and wakes nobody.
    #[derive(Default)]
    struct Busy(Count);
    impl Waiter for Busy {
        fn notify(&self, ready: Ready) {
            self.0.notify(ready);
        }
        fn rouse(&self, ready: Ready) -> bool {
            self.notify(ready);
            false
        }
    }

    #[test]
    fn only_the_interested_are_told_until_they_leave() {
        let queue = WaitQueue::new();
        let count = Arc::new(Count::default());
        let reg = queue.register(Ready::IN, count.clone());
        queue.wake(Ready::OUT);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        queue.wake(Ready::IN);
        queue.wake(Ready::HUP);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        drop(reg);
        queue.wake_all();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert!(queue.is_empty());
    }

    #[test]
    fn one_exclusive_waiter_a_wake() {
        let queue = WaitQueue::new();
        let busy = Arc::new(Busy::default());
        let counts: [Arc<Count>; 3] = Default::default();
        let [a, b, shared] = &counts;
        let _busy = queue.register_exclusive(Ready::IN, busy.clone());
        let ra = queue.register_exclusive(Ready::IN, a.clone());
        let _rb = queue.register_exclusive(Ready::IN, b.clone());
        let _shared = queue.register(Ready::IN, shared.clone());
        let told = || [&busy.0, a, b, shared].map(Count::take);
        assert!(queue.rouse(Ready::IN));
        assert_eq!(told(), [1, 1, 0, 1]);
        drop(ra);
        queue.wake(Ready::IN);
        assert_eq!(told(), [1, 0, 1, 1]);
        assert!(!queue.rouse(Ready::OUT));
    }
}
