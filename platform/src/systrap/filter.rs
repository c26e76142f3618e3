//! The seccomp filters of stubs.
//!
//! A process's mapper is under the *mapper* filter, guest threads under the *guest* filter too.
//! Neither knows from which instruction of the stub a call comes: guest code can jump to any of
//! them with any registers. What passes there is therefore what a guest can do to the host:
//!
//! - guest threads: sleep on and wake futexes of memory they can reach anyway; ring the Sentry's
//!   bells, which costs it a look; return from a signal, which sets their own registers and signal
//!   mask; set that mask; yield.
//! - mappers run no guest code and take orders from a page that guests cannot write.
//!
//! A call from anywhere else is a system call of the guest. It raises SIGSYS by syscall user dispatch
//! before a filter sees it; what that does not cover, calls through the vsyscall page and those of
//! the first instructions of a thread, raises SIGSYS here.

use crate::common::bpf::*;

use super::code::{MAPPER_BITS, PR_SET_SYSCALL_USER_DISPATCH};
use super::layout::{AREA_COUNT, AREA_LEN, CODE, DATA, Layout, data};

/// clone(2) flags that make a stub process out of the template. They share the Sentry's table of
/// host fds so that a mapping can name one.
pub(super) const CLONE_STUB: u64 =
    (libc::CLONE_FILES | libc::CLONE_PARENT) as u64 | libc::SIGCHLD as u64;
/// clone(2) flags that make another thread in a stub.
pub(super) const CLONE_THREAD_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;

/// Host fds of the workers' bells: adjacent, so that a range check does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bells {
    pub first: i32,
    pub count: u32,
}

/// What passes, for people.
const GUEST: &[(&str, &str)] = &[
    (
        "futex(wait, wake)",
        "the thread sleeps until the Sentry answers",
    ),
    (
        "write(a worker's bell, the number 1)",
        "wakes a worker that sleeps",
    ),
    ("rt_sigreturn()", "a late kick found stub code"),
    ("sched_yield()", "sched_yield(2) of guests"),
    (
        "rt_sigprocmask()",
        "a new thread can be kicked, once it is confined; as by rt_sigreturn",
    ),
];
const MAPPER: &[(&str, &str)] = &[
    ("mmap, munmap, mprotect", "changes of guest mappings"),
    (
        "clone(a new stub or a new thread)",
        "fork(2) and clone(2) of guests",
    ),
    ("seccomp, sigaltstack", "a new guest thread is confined"),
    ("prctl(PR_SET_PDEATHSIG)", "a new stub dies with the Sentry"),
    (
        "prctl(PR_SET_SYSCALL_USER_DISPATCH)",
        "system calls of guest code become signals",
    ),
    (
        "prctl(PR_SET_NAME), prctl(PR_SET_MM, PR_SET_MM_MAP)",
        "what the host's listings of processes show of the stub",
    ),
    ("futex()", "the mapper sleeps until it has orders"),
];

/// The filters in the form of [`crate::seccomp::Filter::describe`].
pub fn describe() -> String {
    let mut text = String::new();
    for (who, calls) in [("guest thread", GUEST), ("mapper", MAPPER)] {
        text.push_str(&format!(
            "stub (systrap), {who}: {} calls, from the stub's code only; any other there kills the process\n",
            calls.len()
        ));
        for (call, why) in calls {
            text.push_str(&format!("  {call}  # {why}\n"));
        }
    }
    text
}

/// Goes on if the call comes from stub code on this architecture, else raises SIGSYS.
fn from_stub(layout: &Layout) -> Vec<Insn> {
    let first = layout.base + CODE;
    vec![
        load(ARCH),
        jump(EQ, AUDIT_ARCH_X86_64, 0, 5),
        load(IP + 4),
        jump(EQ, high(first), 0, 3),
        load(IP),
        jump(GE, low(first), 0, 1),
        jump(GE, low(first + DATA), 0, 1),
        ret(TRAP),
        load(NR),
    ]
}

/// A write of the number 1 to a bell. Another number could fill it, and whoever rings it then waits.
fn ring(layout: &Layout, bells: Bells) -> Vec<Insn> {
    let one = layout.data() + data::ONE;
    call(
        libc::SYS_write,
        &[
            load(arg(0)),
            jump(GE, bells.first as u32, 0, 7),
            jump(GE, bells.first as u32 + bells.count, 6, 0),
            load(arg(1)),
            jump(EQ, low(one), 0, 4),
            load(arg(1) + 4),
            jump(EQ, high(one), 0, 2),
            load(arg(2)),
            jump(EQ, 8, 1, 0),
            ret(KILL),
            ret(ALLOW),
        ],
    )
}

/// The filter of guest threads, on top of the mappers'.
pub(super) fn guest(layout: &Layout, bells: Bells) -> Vec<Insn> {
    let mut code = from_stub(layout);
    // Wake and wait, nothing private: the same word seen from two processes. Sleep only on words of
    // the areas: that somebody sleeps on an order page's word says that it is the mapper.
    let areas = layout.area(0);
    code.extend(call(
        libc::SYS_futex,
        &[
            load(arg(1)),
            jump(EQ, libc::FUTEX_WAKE as u32, 7, 0),
            jump(EQ, libc::FUTEX_WAIT as u32, 0, 5),
            load(arg(0) + 4),
            jump(EQ, high(areas), 0, 3),
            load(arg(0)),
            jump(GE, low(areas), 0, 1),
            jump(GE, low(areas + AREA_COUNT * AREA_LEN), 0, 1),
            ret(KILL),
            ret(ALLOW),
        ],
    ));
    code.extend(ring(layout, bells));
    code.extend(call(libc::SYS_rt_sigreturn, &[ret(ALLOW)]));
    code.extend(call(libc::SYS_sched_yield, &[ret(ALLOW)]));
    code.extend(call(libc::SYS_rt_sigprocmask, &[ret(ALLOW)]));
    code.push(ret(KILL));
    code
}

/// The filter of all threads of a stub.
pub(super) fn mapper(layout: &Layout, bells: Bells) -> Vec<Insn> {
    let mut code = from_stub(layout);
    // What guest threads may, with a wait that only mappers use.
    code.extend(call(
        libc::SYS_futex,
        &[
            load(arg(1)),
            jump(GT, libc::FUTEX_WAKE as u32, 0, 4),
            jump(EQ, libc::FUTEX_WAIT_BITSET as u32, 0, 2),
            load(arg(5)),
            jump(EQ, MAPPER_BITS, 1, 0),
            ret(KILL),
            ret(ALLOW),
        ],
    ));
    code.extend(ring(layout, bells));
    for number in [
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_yield,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigprocmask,
    ] {
        code.extend(call(number, &[ret(ALLOW)]));
    }
    code.extend(call(
        libc::SYS_clone,
        &[
            load(arg(0) + 4),
            jump(EQ, 0, 0, 3),
            load(arg(0)),
            jump(EQ, low(CLONE_STUB), 2, 0),
            jump(EQ, low(CLONE_THREAD_FLAGS), 1, 0),
            ret(KILL),
            ret(ALLOW),
        ],
    ));
    code.extend(call(
        libc::SYS_seccomp,
        &[
            load(arg(0)),
            jump(EQ, libc::SECCOMP_SET_MODE_FILTER, 1, 0),
            ret(KILL),
            ret(ALLOW),
        ],
    ));
    code.extend(call(
        libc::SYS_prctl,
        &[
            load(arg(0)),
            jump(EQ, libc::PR_SET_PDEATHSIG as u32, 6, 0),
            jump(EQ, PR_SET_SYSCALL_USER_DISPATCH as u32, 5, 0),
            jump(EQ, libc::PR_SET_NAME as u32, 4, 0),
            jump(EQ, libc::PR_SET_MM as u32, 0, 2),
            load(arg(1)),
            jump(EQ, libc::PR_SET_MM_MAP as u32, 1, 0),
            ret(KILL),
            ret(ALLOW),
        ],
    ));
    code.push(ret(KILL));
    code
}
