//! The host calls that a Sentry makes, or that its stubs make while they inherit its filter, for
//! this platform.

use super::sys::PTRACE_SYSEMU;

/// A check of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgRule {
    /// Argument `index` (from zero) is `value`.
    Equals { index: u8, value: u64 },
    /// Argument `index` has all bits of `mask` set as in `value`.
    Masked { index: u8, mask: u64, value: u64 },
}

/// One allowed host call. Several with the same number: any of them suffices.
#[derive(Clone, Copy, Debug)]
pub struct HostCall {
    pub syscall: i64,
    pub args: &'static [ArgRule],
    pub why: &'static str,
}

macro_rules! equals {
    ($index:expr, $value:expr) => {
        ArgRule::Equals {
            index: $index,
            value: $value as u64,
        }
    };
}

macro_rules! request {
    ($request:expr, $why:expr) => {
        HostCall {
            syscall: libc::SYS_ptrace,
            args: &[equals!(0, $request)],
            why: $why,
        }
    };
}

/// What is needed after all workers were made. A stub inherits the filters of the Sentry only if
/// the worker is made after they were installed, so make workers first.
pub fn host_calls() -> &'static [HostCall] {
    const CALLS: &[HostCall] = &[
        request!(
            PTRACE_SYSEMU,
            "lets guest code run until its next system call"
        ),
        request!(libc::PTRACE_CONT, "lets a stub carry out mapping changes"),
        request!(libc::PTRACE_GETREGS, "reads a guest thread's registers"),
        request!(libc::PTRACE_SETREGS, "sets a guest thread's registers"),
        request!(libc::PTRACE_POKEUSER, "sets only rax after a system call"),
        request!(
            libc::PTRACE_GETREGSET,
            "reads FP state for signal frames and clone"
        ),
        request!(libc::PTRACE_SETREGSET, "sets FP state"),
        request!(0x4202, "PTRACE_GETSIGINFO: what a fault was"),
        request!(
            0x420e,
            "PTRACE_GET_SYSCALL_INFO: tells int 0x80 from syscall"
        ),
        HostCall {
            syscall: libc::SYS_wait4,
            args: &[equals!(3, 0)],
            why: "waits for traps of guest threads",
        },
        HostCall {
            syscall: libc::SYS_tgkill,
            args: &[equals!(2, libc::SIGUSR1)],
            why: "interrupts guest code",
        },
        HostCall {
            syscall: libc::SYS_tgkill,
            args: &[equals!(2, libc::SIGUSR2)],
            why: "wakes a worker",
        },
        HostCall {
            syscall: libc::SYS_tgkill,
            args: &[equals!(2, libc::SIGKILL)],
            why: "ends a stub",
        },
        HostCall {
            syscall: libc::SYS_rt_sigreturn,
            args: &[],
            why: "returns from the wake signal's handler",
        },
        HostCall {
            syscall: libc::SYS_futex,
            args: &[equals!(1, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG)],
            why: "a worker without stubs sleeps",
        },
        HostCall {
            syscall: libc::SYS_futex,
            args: &[equals!(1, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG)],
            why: "wakes a worker without stubs",
        },
        HostCall {
            syscall: libc::SYS_sched_setaffinity,
            args: &[],
            why: "lets computing guest threads loose on other cores and takes them back",
        },
        HostCall {
            syscall: libc::SYS_timer_settime,
            args: &[equals!(1, 0)],
            why: "notices that guest threads compete for one core",
        },
        HostCall {
            syscall: libc::SYS_timer_gettime,
            args: &[],
            why: "tells the timer's signal from a wake",
        },
    ];
    CALLS
}
