//! How a system call waits.
//!
//! The pattern everywhere: try the operation; on EAGAIN wait for the object's queue and try again,
//! until it gives something else, a signal interrupts, or the deadline passes.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use crate::errno::{Errno, Result};
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::wait::{Ready, Registration, WaitQueue, Waiter};

/// Why a wait ended without the operation being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal, or something else to look at: the handler picks its restart rule.
    Interrupted,
    TimedOut,
    /// The operation itself failed.
    Failed(Errno),
}

struct Alarm {
    rang: AtomicBool,
    waker: Waker,
}

impl Waiter for Alarm {
    fn notify(&self, _: Ready) {
        self.rang.store(true, Ordering::SeqCst);
        self.waker.wake_by_ref();
    }
}

impl Task {
    /// Repeats `operation` until it does not fail with EAGAIN, waiting for `queue` in between.
    pub async fn wait_on<T>(
        &self,
        queue: &WaitQueue,
        interest: Ready,
        deadline: Option<MonoTime>,
        mut operation: impl FnMut() -> Result<T>,
    ) -> Result<T, Stop> {
        match operation() {
            Err(Errno::EAGAIN) => {}
            done => return done.map_err(Stop::Failed),
        }
        self.wait_with(
            deadline,
            |waker| vec![queue.register(interest, waker)],
            operation,
        )
        .await
    }

    /// As `wait_on` for several queues: `register` enters whatever should wake the wait.
    pub async fn wait_with<T>(
        &self,
        deadline: Option<MonoTime>,
        register: impl FnOnce(Arc<dyn Waiter>) -> Vec<Registration>,
        mut operation: impl FnMut() -> Result<T>,
    ) -> Result<T, Stop> {
        let mut register = Some(register);
        let mut registrations = Vec::new();
        let mut alarm = None;
        let result = poll_fn(|cx| {
            if let Some(register) = register.take() {
                self.account_wait_start();
                self.with_context(|c| c.get().rest());
                self.set_waker(Some(cx.waker()));
                registrations = register(Arc::new(cx.waker().clone()));
                if let Some(deadline) = deadline {
                    let bell = Arc::new(Alarm {
                        rang: AtomicBool::new(false),
                        waker: cx.waker().clone(),
                    });
                    let handle = self.kernel().reactor.arm(deadline, bell.clone());
                    alarm = Some((bell, handle));
                }
            }
            match operation() {
                Err(Errno::EAGAIN) => {}
                done => return Poll::Ready(done.map_err(Stop::Failed)),
            }
            if self.interrupted() {
                return Poll::Ready(Err(Stop::Interrupted));
            }
            if alarm
                .as_ref()
                .is_some_and(|(bell, _)| bell.rang.load(Ordering::SeqCst))
            {
                return Poll::Ready(Err(Stop::TimedOut));
            }
            Poll::Pending
        })
        .await;
        drop(registrations);
        drop(alarm);
        self.set_waker(None);
        self.account_wait_end();
        result
    }

    /// Sleeps until `deadline` or a signal.
    pub async fn sleep_until(&self, deadline: MonoTime) -> Result<(), Stop> {
        match self
            .wait_with(
                Some(deadline),
                |_| Vec::new(),
                || Err::<(), _>(Errno::EAGAIN),
            )
            .await
        {
            Err(Stop::TimedOut) => Ok(()),
            other => other,
        }
    }
}
