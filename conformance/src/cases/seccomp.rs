//! seccomp(2): filters of system calls.

use crate::case::*;
use std::ptr::null;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};

const NR: u32 = 0;
const ALLOW: u32 = SECCOMP_RET_ALLOW;

fn load(at: u32) -> sock_filter {
    stmt(BPF_LD | BPF_W | BPF_ABS, at)
}

fn stmt(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn ret(action: u32) -> sock_filter {
    stmt(BPF_RET | BPF_K, action)
}

fn unless(value: u32, skip: u8) -> sock_filter {
    sock_filter {
        code: (BPF_JMP | BPF_JEQ | BPF_K) as u16,
        jt: 0,
        jf: skip,
        k: value,
    }
}

/// Answers one call so, all others are allowed.
fn only(call: c_long, answer: u32) -> [sock_filter; 4] {
    [load(NR), unless(call as u32, 1), ret(answer), ret(ALLOW)]
}

fn set(flags: c_ulong, program: &[sock_filter]) -> c_long {
    let program = sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    raw!(syscall(
        SYS_seccomp,
        SECCOMP_SET_MODE_FILTER,
        flags,
        &program as *const sock_fprog
    ))
}

fn install(program: &[sock_filter]) -> Outcome {
    ok!(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    returned("seccomp(SECCOMP_SET_MODE_FILTER)", set(0, program), 0)
}

fn fails(errno: i32, program: &[sock_filter]) -> Outcome {
    failed_with(
        "seccomp(SECCOMP_SET_MODE_FILTER)",
        set(0, program),
        &[errno],
    )
}

fn status(key: &str) -> Outcome<String> {
    field(&slurp("/proc/self/status")?, key)
}

static TRAPPED: AtomicU32 = AtomicU32::new(0);
static TRAP_CALL: AtomicI32 = AtomicI32::new(0);
static TRAP_ERRNO: AtomicI32 = AtomicI32::new(0);
static TRAP_CODE: AtomicI32 = AtomicI32::new(0);
static TRAP_ARCH: AtomicU32 = AtomicU32::new(0);
static TRAP_RAX: AtomicI32 = AtomicI32::new(0);

/// Remembers siginfo_t's part for SIGSYS, and lets the call give 77.
extern "C" fn on_sigsys(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let word = |at: usize| unsafe { info.cast::<u32>().add(at).read() };
    TRAP_ERRNO.store(word(1) as i32, SeqCst);
    TRAP_CODE.store(word(2) as i32, SeqCst);
    TRAP_CALL.store(word(6) as i32, SeqCst);
    TRAP_ARCH.store(word(7), SeqCst);
    let rax = unsafe { &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs[REG_RAX as usize] };
    TRAP_RAX.store(*rax as i32, SeqCst);
    *rax = 77;
    TRAPPED.fetch_add(1, SeqCst);
}

extern "C" fn call_mkdir(_: *mut c_void) -> *mut c_void {
    raw!(mkdir(c"never".as_ptr(), 0o700));
    null::<c_void>().cast_mut()
}

pub static CASES: &[Case] = &[
    Case::new(
        "seccomp.errno",
        "seccomp(2)",
        "a filter lets one call fail and all others pass",
        || {
            in_child(|| {
                install(&only(SYS_mkdir, SECCOMP_RET_ERRNO | EXDEV as u32))?;
                err!(EXDEV, mkdir(c"never".as_ptr(), 0o700));
                ok!(mkdirat(AT_FDCWD, c"made".as_ptr(), 0o700));
                eq("mode", raw!(prctl(PR_GET_SECCOMP)), 2)?;
                eq("Seccomp", status("Seccomp")?, "2".to_owned())?;
                install(&only(SYS_mkdirat, SECCOMP_RET_ERRNO | 4096))?;
                eq("filters", status("Seccomp_filters")?, "2".to_owned())?;
                // Numbers above the greatest errno are it.
                err!(4095, mkdirat(AT_FDCWD, c"never".as_ptr(), 0o700));
                err!(EXDEV, mkdir(c"never".as_ptr(), 0o700));
                // No failure at all, and yet the call is not made.
                install(&only(SYS_rmdir, SECCOMP_RET_ERRNO))?;
                gives!(0, rmdir(c"made".as_ptr()));
                ok!(access(c"made".as_ptr(), F_OK));
                Ok(())
            })
        },
    ),
    Case::new(
        "seccomp.arguments",
        "seccomp(2)",
        "a filter sees both halves of all arguments",
        || {
            in_child(|| {
                const FD_HIGH: u32 = 16 + 4;
                const LEN_LOW: u32 = 16 + 2 * 8;
                install(&[
                    load(NR),
                    unless(SYS_write as u32, 4),
                    load(FD_HIGH),
                    unless(7, 2),
                    load(LEN_LOW),
                    stmt(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTTY as u32),
                    ret(ALLOW),
                ])?;
                let fd = 7u64 << 32 | 1;
                let bytes = c"";
                let call = |fd: u64| raw!(syscall(SYS_write, fd, bytes.as_ptr(), 0));
                failed_with("write(7 << 32 | 1)", call(fd), &[ENOTTY])?;
                returned("write(1)", call(1), 0)
            })
        },
    ),
    Case::new(
        "seccomp.trap",
        "seccomp(2)",
        "SECCOMP_RET_TRAP is SIGSYS with what was called",
        || {
            in_child(|| {
                let mut action = zeroed::<sigaction>();
                let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_sigsys;
                action.sa_sigaction = handler as usize;
                action.sa_flags = SA_SIGINFO;
                ok!(sigaction(SIGSYS, &action, std::ptr::null_mut()));
                install(&only(SYS_mkdir, SECCOMP_RET_TRAP | 9))?;
                gives!(77, mkdir(c"never".as_ptr(), 0o700));
                eq("signals", TRAPPED.load(SeqCst), 1)?;
                eq("si_code", TRAP_CODE.load(SeqCst), 1)?;
                eq("si_errno", TRAP_ERRNO.load(SeqCst), 9)?;
                eq(
                    "si_syscall",
                    c_long::from(TRAP_CALL.load(SeqCst)),
                    SYS_mkdir,
                )?;
                eq("si_arch", TRAP_ARCH.load(SeqCst), 0xc000_003e)?;
                eq("rax", c_long::from(TRAP_RAX.load(SeqCst)), SYS_mkdir)
            })
        },
    ),
    Case::new(
        "seccomp.trap_blocked",
        "seccomp(2)",
        "a SIGSYS that is blocked or ignored kills",
        || {
            let pid = child(|| {
                raw!(signal(SIGSYS, SIG_IGN));
                let _ = install(&only(SYS_mkdir, SECCOMP_RET_TRAP));
                raw!(mkdir(c"never".as_ptr(), 0o700));
                0
            })?;
            expect_signal(pid, SIGSYS)
        },
    ),
    Case::new(
        "seccomp.kill",
        "seccomp(2)",
        "a process with one thread dies of SIGSYS, whether it or its thread is to be killed",
        || {
            for action in [
                SECCOMP_RET_KILL_PROCESS,
                SECCOMP_RET_KILL_THREAD,
                0x1234_0000,
            ] {
                let pid = child(|| {
                    let _ = install(&only(SYS_mkdir, action));
                    raw!(mkdir(c"never".as_ptr(), 0o700));
                    0
                })?;
                expect_signal(pid, SIGSYS)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "seccomp.kill_thread",
        "seccomp(2)",
        "SECCOMP_RET_KILL_THREAD ends a thread and leaves the others alone",
        || {
            in_child(|| {
                install(&only(SYS_mkdir, SECCOMP_RET_KILL_THREAD))?;
                let mut thread = zeroed::<pthread_t>();
                returned(
                    "pthread_create",
                    raw!(pthread_create(
                        &mut thread,
                        null(),
                        call_mkdir,
                        null::<c_void>().cast_mut()
                    )),
                    0,
                )?;
                // The kernel clears the thread's id as for any that ends.
                returned(
                    "pthread_join",
                    raw!(pthread_join(thread, null::<*mut c_void>().cast_mut())),
                    0,
                )
            })
        },
    ),
    Case::new(
        "seccomp.strictest",
        "seccomp(2)",
        "of several filters the strictest answer counts, of two of a kind the newer one",
        || {
            in_child(|| {
                install(&only(SYS_mkdir, SECCOMP_RET_ERRNO | ENOTTY as u32))?;
                install(&only(SYS_mkdir, SECCOMP_RET_LOG))?;
                err!(ENOTTY, mkdir(c"never".as_ptr(), 0o700));
                install(&only(SYS_mkdir, SECCOMP_RET_ERRNO | EXDEV as u32))?;
                err!(EXDEV, mkdir(c"never".as_ptr(), 0o700));
                // Without a tracer a call to be traced does not exist.
                install(&only(SYS_rmdir, SECCOMP_RET_TRACE))?;
                err!(ENOSYS, rmdir(c"never".as_ptr()));
                install(&only(SYS_rmdir, SECCOMP_RET_LOG))?;
                err!(ENOSYS, rmdir(c"never".as_ptr()));
                Ok(())
            })
        },
    ),
    Case::new(
        "seccomp.inherited",
        "seccomp(2)",
        "filters are inherited by children and kept over execve",
        || {
            in_child(|| {
                install(&only(SYS_mkdir, SECCOMP_RET_ERRNO | EXDEV as u32))?;
                install(&only(SYS_mkdirat, SECCOMP_RET_ERRNO | EXDEV as u32))?;
                in_child(|| {
                    err!(EXDEV, mkdir(c"never".as_ptr(), 0o700));
                    Ok(())
                })?;
                let pid = child(|| {
                    let argv = [c"mkdir".as_ptr(), c"never".as_ptr(), null()];
                    raw!(close(2));
                    raw!(execv(c"/bin/mkdir".as_ptr(), argv.as_ptr()));
                    99
                })?;
                expect_exit(pid, 1)?;
                err!(ENOENT, access(c"never".as_ptr(), F_OK));
                Ok(())
            })
        },
    ),
    Case::new(
        "seccomp.privilege",
        "seccomp(2)",
        "without CAP_SYS_ADMIN a filter takes no_new_privs",
        || {
            as_user(|| {
                if raw!(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)) != 0 {
                    skip!("no_new_privs is set already");
                }
                fails(EACCES, &[ret(ALLOW)])?;
                install(&[ret(ALLOW)])
            })
        },
    ),
    Case::new(
        "seccomp.bad_programs",
        "seccomp(2)",
        "a program that could go wrong is refused",
        || {
            in_child(|| {
                install(&[ret(ALLOW)])?;
                fails(EINVAL, &[])?;
                fails(EINVAL, &[load(NR)])?;
                fails(EINVAL, &[load(64), ret(ALLOW)])?;
                fails(EINVAL, &[load(2), ret(ALLOW)])?;
                fails(EINVAL, &[unless(0, 1), ret(ALLOW)])?;
                fails(EINVAL, &[stmt(BPF_JMP | BPF_JA, 1), ret(ALLOW)])?;
                fails(EINVAL, &[stmt(BPF_LD | BPF_MEM, 0), ret(ALLOW)])?;
                fails(EINVAL, &[stmt(BPF_ALU | BPF_DIV | BPF_K, 0), ret(ALLOW)])?;
                fails(EINVAL, &[stmt(BPF_ALU | BPF_MOD | BPF_K, 3), ret(ALLOW)])?;
                fails(EINVAL, &[stmt(BPF_LD | BPF_B | BPF_ABS, 0), ret(ALLOW)])?;
                fails(EINVAL, &vec![ret(ALLOW); 4097])?;
                returned("4096 instructions", set(0, &vec![ret(ALLOW); 4096]), 0)?;
                let at = |program: *const sock_fprog| {
                    raw!(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program))
                };
                failed_with("program at a bad address", at(bad_ptr()), &[EFAULT])?;
                let lost = sock_fprog {
                    len: 1,
                    filter: bad_ptr(),
                };
                failed_with("instructions at a bad address", at(&lost), &[EFAULT])?;
                failed_with("unknown flag", set(1 << 20, &[ret(ALLOW)]), &[EINVAL])?;
                failed_with(
                    "unknown operation",
                    raw!(syscall(SYS_seccomp, 77, 0, 0)),
                    &[EINVAL],
                )
            })
        },
    ),
    Case::new(
        "seccomp.too_many",
        "seccomp(2)",
        "programs together may not exceed a length",
        || {
            in_child(|| {
                let long = vec![ret(ALLOW); 4000];
                install(&long)?;
                for _ in 0..64 {
                    let rc = set(0, &long);
                    if rc != 0 {
                        return failed_with("seccomp", rc, &[ENOMEM]);
                    }
                }
                fail!("65 programs of 4000 instructions fit")
            })
        },
    ),
    Case::new(
        "seccomp.strict",
        "seccomp(2)",
        "in strict mode anything but read, write, exit and rt_sigreturn kills",
        || {
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                raw!(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
                raw!(write(w, c"x".as_ptr().cast(), 1));
                raw!(getuid());
                0
            })?;
            expect_signal(pid, SIGKILL)?;
            eq("written", read_some(r, 1)?, b"x".to_vec())?;
            in_child(|| {
                install(&[ret(ALLOW)])?;
                err!(EINVAL, prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
                err!(EINVAL, prctl(PR_SET_SECCOMP, 7));
                Ok(())
            })
        },
    ),
    Case::new(
        "seccomp.tsync",
        "seccomp(2)",
        "SECCOMP_FILTER_FLAG_TSYNC gives the filter to all threads",
        || {
            in_child(|| {
                static RESULT: AtomicI32 = AtomicI32::new(0);
                static TURN: AtomicU32 = AtomicU32::new(0);
                extern "C" fn other(_: *mut c_void) -> *mut c_void {
                    TURN.store(1, SeqCst);
                    while TURN.load(SeqCst) != 2 {
                        std::thread::yield_now();
                    }
                    raw!(mkdir(c"never".as_ptr(), 0o700));
                    RESULT.store(errno(), SeqCst);
                    null::<c_void>().cast_mut()
                }
                let none = null::<c_void>().cast_mut();
                let mut thread = zeroed::<pthread_t>();
                let made = raw!(pthread_create(&mut thread, null(), other, none));
                returned("pthread_create", made, 0)?;
                while TURN.load(SeqCst) != 1 {
                    std::thread::yield_now();
                }
                ok!(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
                let program = only(SYS_mkdir, SECCOMP_RET_ERRNO | EXDEV as u32);
                returned(
                    "seccomp(TSYNC)",
                    set(SECCOMP_FILTER_FLAG_TSYNC, &program),
                    0,
                )?;
                TURN.store(2, SeqCst);
                returned(
                    "join",
                    raw!(pthread_join(thread, null::<*mut c_void>().cast_mut())),
                    0,
                )?;
                eq("errno there", RESULT.load(SeqCst), EXDEV)
            })
        },
    ),
    Case::new(
        "seccomp.cheap_calls",
        "seccomp(2)",
        "calls that were made often before are filtered as well",
        || {
            in_child(|| {
                let mut now = zeroed::<timespec>();
                let mut ask = |times: usize| {
                    let mut last = (0, 0);
                    for _ in 0..times {
                        last.0 = raw!(syscall(SYS_getpid));
                        let now: *mut timespec = &mut now;
                        last.1 = raw!(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, now));
                    }
                    last
                };
                let (pid, clock) = ask(2000);
                eq("before", (pid > 0, clock), (true, 0))?;
                install(&only(SYS_getpid, SECCOMP_RET_ERRNO | ENOTTY as u32))?;
                eq("getpid filtered", ask(2000), (-1, 0))?;
                install(&only(SYS_clock_gettime, SECCOMP_RET_ERRNO | ENOTTY as u32))?;
                eq("both filtered", ask(2000), (-1, -1))?;
                in_child(|| {
                    let pid = raw!(syscall(SYS_getpid));
                    eq("in a child", pid, -1)
                })
            })
        },
    ),
    Case::new(
        "seccomp.available",
        "seccomp(2)",
        "SECCOMP_GET_ACTION_AVAIL knows the actions",
        || {
            let ask = |action: u32| {
                let at: *const u32 = &action;
                raw!(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, at))
            };
            for action in [
                SECCOMP_RET_KILL_PROCESS,
                SECCOMP_RET_KILL_THREAD,
                SECCOMP_RET_TRAP,
                SECCOMP_RET_ERRNO,
                SECCOMP_RET_TRACE,
                SECCOMP_RET_LOG,
                SECCOMP_RET_ALLOW,
            ] {
                returned("seccomp(SECCOMP_GET_ACTION_AVAIL)", ask(action), 0)?;
            }
            failed_with(
                "an action Linux does not have",
                ask(0x1234_0000),
                &[EOPNOTSUPP],
            )
        },
    ),
];
