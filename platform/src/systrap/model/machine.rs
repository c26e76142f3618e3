//! The host, as far as the protocols need it.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};

use loom::sync::atomic::{AtomicU32, fence};
use loom::sync::{Condvar, Mutex, MutexGuard};

use crate::common::kick;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panicked")
}

/// A word of memory as x86-64 has it: loads acquire, stores release, and what is locked or
/// sequentially consistent is a full fence too.
#[derive(Debug, Default)]
pub struct Word(AtomicU32);

impl Word {
    pub fn new(value: u32) -> Word {
        Word(AtomicU32::new(value))
    }

    pub fn get(&self) -> u32 {
        self.0.load(Acquire)
    }

    pub fn put(&self, value: u32) {
        self.0.store(value, Release);
    }

    /// `xchg`, and a sequentially consistent store.
    pub fn swap(&self, value: u32) -> u32 {
        let old = self.0.swap(value, AcqRel);
        fence(SeqCst);
        old
    }

    /// `lock cmpxchg`.
    pub fn replace(&self, old: u32, new: u32) -> Result<u32, u32> {
        let result = self.0.compare_exchange(old, new, AcqRel, Acquire);
        fence(SeqCst);
        result
    }

    /// What the last one wrote, for those who hold a lock of the host kernel's.
    pub fn latest(&self) -> u32 {
        self.0.fetch_add(0, AcqRel)
    }
}

impl kick::Word for Word {
    fn load(&self, _order: std::sync::atomic::Ordering) -> u32 {
        self.get()
    }

    fn store(&self, value: u32, _order: std::sync::atomic::Ordering) {
        self.put(value);
    }

    fn compare_exchange(
        &self,
        old: u32,
        new: u32,
        _success: std::sync::atomic::Ordering,
        _failure: std::sync::atomic::Ordering,
    ) -> Result<u32, u32> {
        self.replace(old, new)
    }
}

/// A word that can be slept on.
#[derive(Default)]
pub struct Futex {
    pub word: Word,
    sleepers: Mutex<usize>,
    woken: Condvar,
}

impl Futex {
    pub fn new(value: u32) -> Futex {
        Futex {
            word: Word::new(value),
            ..Futex::default()
        }
    }

    /// Sleeps if the word has this value and no signal has come.
    pub fn wait(&self, value: u32, signal: Option<&Signal>) {
        let mut sleepers = lock(&self.sleepers);
        if self.word.latest() != value || signal.is_some_and(Signal::is_pending) {
            return;
        }
        *sleepers += 1;
        drop(self.woken.wait(sleepers));
    }

    pub fn wake(&self) {
        let mut sleepers = lock(&self.sleepers);
        if *sleepers > 0 {
            *sleepers -= 1;
            self.woken.notify_one();
        }
    }

    /// As FUTEX_REQUEUE counts them.
    pub fn sleepers(&self) -> usize {
        *lock(&self.sleepers)
    }
}

/// An event descriptor.
#[derive(Default)]
pub struct Bell {
    count: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        *lock(&self.count) += 1;
        self.rung.notify_one();
    }

    pub fn read(&self) {
        let mut count = lock(&self.count);
        while *count == 0 {
            count = self.rung.wait(count).expect("no thread panicked");
        }
        *count = 0;
    }
}

/// The kick signal of one thread. Two at once are one.
#[derive(Default)]
pub struct Signal {
    pending: Word,
    paused: Mutex<()>,
    sent: Condvar,
}

impl Signal {
    /// tgkill(2) of a thread that may sleep on that futex.
    pub fn send(&self, futex: &Futex) {
        self.pending.swap(1);
        drop(lock(&self.paused));
        self.sent.notify_one();
        futex.wake();
    }

    fn is_pending(&self) -> bool {
        self.pending.latest() != 0
    }

    /// Between two instructions of the thread: whether it arrives here.
    pub fn arrives(&self) -> bool {
        self.pending.0.swap(0, AcqRel) != 0
    }

    /// Guest code that runs until it is interrupted.
    pub fn pause(&self) {
        let mut paused = lock(&self.paused);
        while !self.is_pending() {
            paused = self.sent.wait(paused).expect("no thread panicked");
        }
    }
}
