//! What a TCP socket does when nothing has happened for a while.

use std::sync::{Arc, Weak};

use super::Tcp;
use crate::errno::Errno;
use crate::executor::TimerHandle;
use crate::kernel::time::MonoTime;
use crate::kernel::wait::{Ready, Waiter};

const MS: u64 = 1_000_000;
/// The first wait for an answer, and the longest of those that follow, each twice as long (RFC 6298).
const FIRST_S: u64 = 1;
const LONGEST_S: u64 = 120;
/// How long TCP_CORK and MSG_MORE hold bytes back (tcp(7)).
const CORK_MS: u64 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Connect,
    Accept,
    Uncork,
}

struct Bell(Weak<Tcp>, What);

impl Waiter for Bell {
    fn notify(&self, _: Ready) {
        let Some(socket) = self.0.upgrade() else {
            return;
        };
        match self.1 {
            What::Connect => socket.connect_timed_out(),
            What::Accept => socket.admit(),
            What::Uncork => socket.uncork(),
        }
    }
}

/// Seconds until somebody gives up who tries again so many times.
pub(super) fn patience(retries: u32) -> u64 {
    (0..=retries.min(255))
        .map(|n| FIRST_S.checked_shl(n).unwrap_or(LONGEST_S).min(LONGEST_S))
        .sum()
}

/// TCP_DEFER_ACCEPT: seconds as Linux keeps them, as a number of tries.
pub(in crate::net::inet) fn defer_seconds(asked: i32) -> i32 {
    let Ok(asked) = u64::try_from(asked) else {
        return 0;
    };
    if asked == 0 {
        return 0;
    }
    let told = (0..255).map(patience).find(|s| *s >= asked);
    told.and_then(|s| i32::try_from(s).ok()).unwrap_or(i32::MAX)
}

impl Tcp {
    fn arm(&self, after_ms: u64, what: What) -> Option<TimerHandle> {
        let reactor = self.common.stack.reactor.as_ref()?;
        let deadline = MonoTime::now().after_ns(after_ms.saturating_mul(MS));
        Some(reactor.arm(deadline, Arc::new(Bell(self.this.clone(), what))))
    }

    /// Nobody answers yet: as long as Linux repeats its SYN (TCP_SYNCNT, TCP_USER_TIMEOUT).
    pub(super) fn limit_connecting(&self) {
        let (retries, user_ms) = {
            let values = self.values.lock();
            let tcp = libc::IPPROTO_TCP;
            (
                values.get(tcp, libc::TCP_SYNCNT),
                values.get(tcp, libc::TCP_USER_TIMEOUT),
            )
        };
        let mut wait_ms = patience(retries.unsigned_abs()) * 1000;
        if let Ok(user_ms @ 1..) = u64::try_from(user_ms) {
            // Looked at when a SYN is repeated.
            wait_ms = wait_ms.min(user_ms.max(FIRST_S * 1000));
        }
        let timer = self.arm(wait_ms, What::Connect);
        *self.timer.lock() = timer;
    }

    fn connect_timed_out(&self) {
        self.fail(Errno::ETIMEDOUT);
    }

    /// The listener tells of this connection at the latest then (TCP_DEFER_ACCEPT).
    pub(super) fn limit_deferring(&self, seconds: i32) {
        let timer = self.arm(u64::from(seconds.unsigned_abs()) * 1000, What::Accept);
        *self.timer.lock() = timer;
    }

    /// Bytes are held back, for a moment.
    pub(super) fn limit_cork(&self) {
        let mut timer = self.cork_timer.lock();
        if timer.is_none() {
            *timer = self.arm(CORK_MS, What::Uncork);
        }
    }

    /// What was held back goes.
    pub(super) fn uncork(&self) {
        let timer = self.cork_timer.lock().take();
        drop(timer);
        if let Some(peer) = self.link().and_then(|l| l.peer.upgrade()) {
            peer.show_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_doubles_and_seconds_are_rounded_up_to_tries() {
        assert_eq!([0, 1, 6, 7, 8].map(patience), [1, 3, 127, 247, 367]);
        let told = [-1, 0, 1, 2, 3, 5, 127].map(defer_seconds);
        assert_eq!(told, [0, 0, 1, 3, 3, 7, 127]);
    }
}
