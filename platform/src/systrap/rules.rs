//! The host calls that a Sentry makes for this platform.

use crate::common::kick::KICK_SIGNAL;
use crate::rule;
use crate::seccomp::{ArgCheck, Rule};

/// What is needed once the platform was made. (Making it needs more: clone, wait4.)
pub fn host_calls() -> &'static [Rule] {
    const CALLS: &[Rule] = &[
        rule!(
            SYS_futex,
            "guest threads and mappers are woken and waited for"
        ),
        rule!(SYS_read, "a worker sleeps on its bell"),
        rule!(
            SYS_ppoll,
            "a worker sleeps on its bell for a while, guest threads sharing its core"
        ),
        rule!(SYS_write, "rings the bell of a worker that sleeps"),
        rule!(
            SYS_tgkill,
            [ArgCheck::eq(2, KICK_SIGNAL as u32)],
            "interrupts guest code"
        ),
        rule!(
            SYS_tgkill,
            [ArgCheck::eq(2, 0)],
            "a thread number that a stub told is one of its own"
        ),
        rule!(
            SYS_kill,
            [ArgCheck::eq(1, libc::SIGKILL as u32)],
            "ends a stub"
        ),
        rule!(
            SYS_kill,
            [ArgCheck::eq(1, libc::SIGCONT as u32)],
            "a stub that somebody stopped goes on"
        ),
        rule!(SYS_wait4, "deaths of stubs"),
        rule!(
            SYS_sched_setaffinity,
            "guest threads are placed beside their worker, or on another core"
        ),
        rule!(
            SYS_rt_sigreturn,
            "the handler of faults on guest memory returns"
        ),
    ];
    CALLS
}
