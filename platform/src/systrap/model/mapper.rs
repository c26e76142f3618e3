//! Orders to a mapper are carried out, once and whole, and their end is noticed.

use std::sync::{Arc, Mutex as Plain};

use loom::sync::Mutex;
use loom::thread;

use super::super::shared::state;
use super::machine::{Futex, Word, lock};
use super::{Break, check, fails};

/// The order that ends the mapper.
const END: u32 = 99;

/// `process::Stub`, the order page and the mapper's answers.
struct Stub {
    seq: Mutex<u32>,
    /// orders::SEQ, WAITER, and two words of a call.
    word: Futex,
    waiter: Word,
    call: [Word; 2],
    /// answers::DONE.
    done: Futex,
    /// orders::RELEASE, and the state of the thread it is about.
    release: Word,
    state: Futex,
    /// The guest thread was left to wake the mapper; under the lock of `seq`.
    unrung: Word,
    carried_out: Plain<Vec<u32>>,
    broken: Break,
}

impl Stub {
    /// `done`: what a guest has written there.
    fn new(done: u32, broken: Break) -> Arc<Stub> {
        Arc::new(Stub {
            seq: Mutex::default(),
            word: Futex::new(0),
            waiter: Word::default(),
            call: Default::default(),
            done: Futex::new(done),
            release: Word::default(),
            state: Futex::new(state::TRAPPED),
            unrung: Word::default(),
            carried_out: Plain::default(),
            broken,
        })
    }

    /// The mapper's code.
    fn mapper(&self) {
        let mut last = 0;
        loop {
            let seq = self.word.word.get();
            if seq == last {
                self.word.wait(last, None);
                continue;
            }
            last = seq;
            let [number, arg] = [self.call[0].get(), self.call[1].get()];
            assert_eq!(number, arg, "a call was changed while it was read");
            self.carried_out
                .lock()
                .expect("no thread panicked")
                .push(number);
            let early = self.waiter.get();
            self.done.word.swap(last);
            let waiter = match self.broken {
                Break::DoneAfterWaiter => early,
                _ => self.waiter.get(),
            };
            if self.release.get() != 0 {
                let old = self.state.word.swap(state::RESUME);
                if old != state::LOOKS_ON {
                    self.state.wake();
                }
            } else if waiter != 0 {
                self.done.wake();
            }
            if number == END {
                return;
            }
        }
    }

    fn order(&self, call: u32, spins: u32) {
        let mut seq = lock(&self.seq);
        if *seq != 0 && self.broken != Break::NoQuiet {
            self.quiet();
        }
        self.call[0].put(call);
        self.call[1].put(call);
        *seq += 1;
        self.waiter.put(0);
        self.release.put(0);
        self.word.word.swap(*seq);
        if self.broken != Break::OrderWithoutWake {
            self.word.wake();
        }
        self.await_done(*seq, spins);
    }

    fn await_done(&self, seq: u32, spins: u32) {
        for _ in 0..spins {
            if self.done.word.get() == seq {
                return;
            }
        }
        if self.broken != Break::NoWaiter {
            self.waiter.swap(1);
        }
        loop {
            let found = self.done.word.get();
            if found == seq {
                return;
            }
            self.done.wait(found, None);
        }
    }

    fn settle(&self) {
        let _seq = lock(&self.seq);
        self.quiet();
    }

    /// Leaves waking the mapper to the guest thread that waits for it.
    fn post(&self, call: u32) {
        let mut seq = lock(&self.seq);
        self.call[0].put(call);
        self.call[1].put(call);
        *seq += 1;
        self.release.put(1);
        self.state.word.swap(state::MAP);
        self.word.word.swap(*seq);
        self.unrung.put(1);
    }

    /// The code of a thread that looks for its answer: state MAP, until it may go on.
    fn waiting_thread(&self) {
        let word = &self.state.word;
        loop {
            match word.get() {
                state::RESUME => return,
                state::MAP => {
                    let _ = word.replace(state::MAP, state::LOOKS_ON);
                    self.word.wake();
                    if word.get() != state::LOOKS_ON {
                        continue;
                    }
                    let sleeps_in = match self.broken {
                        Break::SleepsLooking => state::LOOKS_ON,
                        _ => state::MAP,
                    };
                    if word.replace(state::LOOKS_ON, sleeps_in).is_ok() {
                        self.state.wait(sleeps_in, None);
                    }
                }
                _ => thread::yield_now(),
            }
        }
    }

    fn quiet(&self) {
        if self.unrung.get() != 0 && self.broken != Break::SleeperIsDone {
            self.unrung.put(0);
            self.word.wake();
        }
        while self.word.sleepers() == 0 {
            thread::yield_now();
        }
    }

    fn was_carried_out(&self, call: u32) -> bool {
        let carried_out = self.carried_out.lock().expect("no thread panicked");
        carried_out.contains(&call)
    }
}

/// Two orders in a row.
fn ordered(spins: u32, broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let stub = Stub::new(0, broken);
        let mapper = {
            let stub = stub.clone();
            thread::spawn(move || stub.mapper())
        };
        stub.order(1, spins);
        assert!(stub.was_carried_out(1));
        stub.settle();
        stub.order(2, spins);
        stub.order(END, spins);
        mapper.join().expect("no thread panicked");
        let carried_out = stub.carried_out.lock().expect("no thread panicked");
        assert_eq!(*carried_out, [1, 2, END]);
    }
}

/// Two threads' orders, the first of which the guest makes seem done.
fn forged(broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let stub = Stub::new(1, broken);
        let mapper = {
            let stub = stub.clone();
            thread::spawn(move || stub.mapper())
        };
        let change = |stub: Arc<Stub>, call| {
            move || {
                stub.order(call, 0);
                stub.settle();
                assert!(
                    stub.was_carried_out(call),
                    "what call {call} retires is still mapped"
                );
            }
        };
        let other = thread::spawn(change(stub.clone(), 1));
        change(stub.clone(), 2)();
        other.join().expect("no thread panicked");
        stub.order(END, 0);
        mapper.join().expect("no thread panicked");
    }
}

/// An order that a guest thread is to wake the mapper for, and does late or never, and another.
fn posted(rings: bool, broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let stub = Stub::new(0, broken);
        let mapper = {
            let stub = stub.clone();
            thread::spawn(move || stub.mapper())
        };
        stub.post(1);
        let guest = {
            let stub = stub.clone();
            thread::spawn(move || {
                if rings {
                    stub.waiting_thread();
                }
            })
        };
        stub.order(2, 0);
        assert!(stub.was_carried_out(1), "the order before was written over");
        stub.order(END, 0);
        guest.join().expect("no thread panicked");
        mapper.join().expect("no thread panicked");
    }
}

#[test]
fn an_order_left_to_a_guest_thread_is_carried_out() {
    check(2, posted(true, Break::Nothing));
    check(2, posted(false, Break::Nothing));
    for broken in [Break::SleeperIsDone, Break::SleepsLooking] {
        fails(broken, 2, posted(true, broken));
    }
}

#[test]
fn orders_are_carried_out_once() {
    check(2, ordered(0, Break::Nothing));
    check(2, ordered(1, Break::Nothing));
    for broken in [
        Break::NoWaiter,
        Break::DoneAfterWaiter,
        Break::OrderWithoutWake,
    ] {
        fails(broken, 2, ordered(0, broken));
    }
}

#[test]
fn a_guest_cannot_make_an_order_seem_done() {
    check(2, forged(Break::Nothing));
    fails(Break::NoQuiet, 2, forged(Break::NoQuiet));
}
