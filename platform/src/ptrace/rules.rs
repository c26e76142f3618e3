//! The host calls that a Sentry makes for this platform.

use super::sys::{PTRACE_GET_SYSCALL_INFO, PTRACE_GETSIGINFO, PTRACE_SYSEMU};
use super::waker::WAKE_SIGNAL;
use crate::arch::Registers;
use crate::common::kick::KICK_SIGNAL;
use crate::rule;
use crate::seccomp::{ArgCheck, Check, Rule, Width};

const fn request(request: u32) -> ArgCheck {
    ArgCheck::eq(0, request)
}

const fn signal(signal: i32) -> ArgCheck {
    ArgCheck::eq(2, signal as u32)
}

const fn null(index: u8) -> ArgCheck {
    ArgCheck::new(index, Width::U64, Check::Eq(0))
}

const RAX: u32 = std::mem::offset_of!(Registers, rax) as u32;
const FUTEX_WAIT: u32 = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u32;
const FUTEX_WAKE: u32 = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u32;

/// What is needed once all workers were made. Making one needs more (clone, sched_setaffinity on
/// itself, timer_create), and its stubs inherit the filter its thread is under.
pub fn host_calls() -> &'static [Rule] {
    const CALLS: &[Rule] = &[
        rule!(
            SYS_ptrace,
            [request(PTRACE_SYSEMU)],
            "guest code runs until its next system call"
        ),
        rule!(
            SYS_ptrace,
            [request(libc::PTRACE_CONT)],
            "a stub carries out mapping changes"
        ),
        rule!(
            SYS_ptrace,
            [request(libc::PTRACE_GETREGS)],
            "registers of a guest thread"
        ),
        rule!(
            SYS_ptrace,
            [request(libc::PTRACE_SETREGS)],
            "registers of a guest thread"
        ),
        rule!(
            SYS_ptrace,
            [request(libc::PTRACE_POKEUSER), ArgCheck::eq(2, RAX)],
            "only rax after a system call"
        ),
        rule!(
            SYS_ptrace,
            [request(libc::PTRACE_GETREGSET)],
            "FP state for signal frames and clone"
        ),
        rule!(
            SYS_ptrace,
            [request(libc::PTRACE_SETREGSET)],
            "FP state from signal frames and for new threads"
        ),
        rule!(
            SYS_ptrace,
            [request(PTRACE_GETSIGINFO)],
            "which exception a guest raised"
        ),
        rule!(
            SYS_ptrace,
            [request(PTRACE_GET_SYSCALL_INFO)],
            "tells int 0x80 from syscall"
        ),
        rule!(SYS_wait4, [null(3)], "traps of guest threads"),
        rule!(SYS_tgkill, [signal(KICK_SIGNAL)], "interrupts guest code"),
        rule!(SYS_tgkill, [signal(WAKE_SIGNAL)], "wakes a worker"),
        rule!(SYS_tgkill, [signal(libc::SIGKILL)], "ends a stub"),
        rule!(
            SYS_rt_sigreturn,
            "the handlers of the wake signal and of faults on guest memory return"
        ),
        rule!(
            SYS_futex,
            [ArgCheck::eq(1, FUTEX_WAIT)],
            "a worker without stubs sleeps"
        ),
        rule!(
            SYS_futex,
            [ArgCheck::eq(1, FUTEX_WAKE)],
            "wakes a worker without stubs"
        ),
        rule!(
            SYS_sched_setaffinity,
            "computing guest threads go to other cores and come back"
        ),
        rule!(
            SYS_timer_delete,
            "a worker that cannot go on takes down what it made"
        ),
        rule!(
            SYS_timer_settime,
            [ArgCheck::eq(1, 0), null(3)],
            "notices that guest threads compete for one core"
        ),
    ];
    CALLS
}
