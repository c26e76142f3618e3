//! A queued change is in force before guest code runs on, and changes keep their order.

use std::sync::{Arc, Mutex as Plain};

use loom::sync::Mutex;
use loom::thread;

use super::kicks::Served;
use super::machine::{Word, lock};
use super::{Break, check, fails};
use crate::common::kick::States;
use crate::systrap::shared::kind;

/// `common::changes::Changes` and the host's mappings. A change is a number, ascending.
struct Changes {
    carrying: Mutex<()>,
    queue: Mutex<Vec<u32>>,
    pending: Word,
    /// Changes queued so far.
    last: Plain<u32>,
    /// The mapper carries out one order at a time.
    order: Mutex<()>,
    /// The last change in force.
    in_force: Word,
    broken: Break,
}

impl Changes {
    fn new(broken: Break) -> Changes {
        Changes {
            carrying: Mutex::default(),
            queue: Mutex::default(),
            pending: Word::default(),
            last: Plain::default(),
            order: Mutex::default(),
            in_force: Word::default(),
            broken,
        }
    }

    fn push(&self) -> u32 {
        let mut queue = lock(&self.queue);
        let mut last = self.last.lock().expect("no thread panicked");
        *last += 1;
        queue.push(*last);
        self.pending.swap(1);
        *last
    }

    fn flush(&self) {
        let carrying = match self.broken {
            Break::NoCarryingLock | Break::PendingClearedEarly => None,
            _ => Some(lock(&self.carrying)),
        };
        let taken = {
            let mut queue = lock(&self.queue);
            if self.broken == Break::PendingClearedEarly {
                self.pending.put(0);
            }
            std::mem::take(&mut *queue)
        };
        if !taken.is_empty() {
            let _order = lock(&self.order);
            for change in taken {
                let before = self.in_force.swap(change);
                assert!(before < change, "changes were carried out in another order");
            }
        }
        if self.broken != Break::PendingClearedEarly {
            let queue = lock(&self.queue);
            self.pending.put(u32::from(!queue.is_empty()));
        }
        drop(carrying);
    }

    /// The first half of `SystrapContext::resume`.
    fn start(&self, kick: &States<Word>) -> bool {
        loop {
            if self.pending.get() != 0 {
                self.flush();
            }
            if !kick.start() {
                return false;
            }
            if self.broken == Break::NoSecondPending || self.pending.get() == 0 {
                return true;
            }
            kick.not_started();
        }
    }
}

/// One thread queues a change and shoots down, while another resumes a context that runs for ever
/// unless the change is in force.
fn shot_down(broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let served = Served::new(0, broken);
        let changes = Arc::new(Changes::new(broken));
        let mut stub = served.stub();
        let thread = {
            let changes = changes.clone();
            thread::spawn(move || {
                let mut alive = stub.start();
                while alive {
                    alive = match changes.in_force.latest() {
                        0 => stub.pause(),
                        _ => stub.trap(kind::SYSCALL),
                    };
                }
            })
        };
        let other = {
            let (served, changes) = (served.clone(), changes.clone());
            thread::spawn(move || {
                if broken != Break::ShootDownFirst {
                    changes.push();
                }
                if served.kick.kick_if_running() {
                    served.area.kick();
                }
                if broken == Break::ShootDownFirst {
                    changes.push();
                }
            })
        };
        while served.run(1, || changes.start(&served.kick)) != kind::SYSCALL {}
        served.end();
        other.join().expect("no thread panicked");
        thread.join().expect("no thread panicked");
    }
}

/// Two threads each queue a change for a context of their own and resume that.
fn together(broken: Break) -> impl Fn() + Sync + Send + 'static {
    move || {
        let changes = Arc::new(Changes::new(broken));
        let resume = |changes: Arc<Changes>| {
            move || {
                let mine = changes.push();
                assert!(changes.start(&States::default()), "nobody kicks");
                assert!(
                    changes.in_force.latest() >= mine,
                    "guest code runs before its change is in force"
                );
            }
        };
        let other = thread::spawn(resume(changes.clone()));
        resume(changes)();
        other.join().expect("no thread panicked");
    }
}

#[test]
fn a_change_is_in_force_or_interrupts() {
    check(2, shot_down(Break::Nothing));
    for broken in [Break::NoSecondPending, Break::ShootDownFirst] {
        fails(broken, 2, shot_down(broken));
    }
}

#[test]
fn changes_of_several_threads_keep_their_order() {
    check(3, together(Break::Nothing));
    for broken in [Break::PendingClearedEarly, Break::NoCarryingLock] {
        fails(broken, 3, together(broken));
    }
}
