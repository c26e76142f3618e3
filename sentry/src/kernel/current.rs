//! The task whose future this thread polls: Linux's `current`.
//!
//! Most code is handed its task. What an open file does may depend on who does it (job control of a
//! terminal, the signals a signalfd shows, the credentials a unix socket passes on), but
//! [`crate::fs::file::FileOps`] is called without one: such files ask here.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

use crate::fs::moment;
use crate::kernel::task::Task;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Task>>> = const { RefCell::new(None) };
}

/// Runs `future` as `task`'s. Each time it goes on is a moment of its own.
pub async fn scope<F: Future>(task: Arc<Task>, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut slot = Some(task);
    poll_fn(|cx| {
        CURRENT.with(|current| std::mem::swap(&mut *current.borrow_mut(), &mut slot));
        moment::begin();
        let result = future.as_mut().poll(cx);
        moment::end();
        CURRENT.with(|current| std::mem::swap(&mut *current.borrow_mut(), &mut slot));
        result
    })
    .await
}

/// Runs `f` on the current task, without counting a reference on it.
pub fn with<R>(f: impl FnOnce(Option<&Task>) -> R) -> R {
    CURRENT.with_borrow(|current| f(current.as_deref()))
}

/// The current task. None on threads that run none (the reactor's).
pub fn task() -> Option<Arc<Task>> {
    CURRENT.with(|current| current.borrow().clone())
}
