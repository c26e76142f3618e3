//! signal(7): stop and continue, SIGCHLD, faults, sigaltstack(2), what a handler returns to.
//!
//! `unsafe`: instructions that fault on purpose, in a child.

use crate::case::*;
use std::ptr::{null, null_mut};
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::{AtomicU32, Ordering};

fn set_of(signals: &[c_int]) -> Outcome<sigset_t> {
    let mut set = zeroed::<sigset_t>();
    ok!(sigemptyset(&mut set));
    for signal in signals {
        ok!(sigaddset(&mut set, *signal));
    }
    Ok(set)
}

fn block(signals: &[c_int]) -> Outcome<sigset_t> {
    let set = set_of(signals)?;
    ok!(sigprocmask(SIG_BLOCK, &set, null_mut()));
    Ok(set)
}

fn unblock(signals: &[c_int]) -> Outcome {
    let set = set_of(signals)?;
    ok!(sigprocmask(SIG_UNBLOCK, &set, null_mut()));
    Ok(())
}

fn getpid() -> pid_t {
    getpid_now()
}

/// Installs `handler` with these flags.
fn install(signal: c_int, handler: extern "C" fn(c_int), flags: c_int) -> Outcome {
    let mut action = zeroed::<sigaction>();
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags;
    ok!(sigaction(signal, &action, null_mut()));
    Ok(())
}

fn next(set: &sigset_t, ms: i64) -> Outcome<siginfo_t> {
    let mut info = zeroed::<siginfo_t>();
    ok!(sigtimedwait(set, &mut info, &millis(ms)));
    Ok(info)
}

static ORDER: std::sync::Mutex<Vec<i32>> = std::sync::Mutex::new(Vec::new());

extern "C" fn note(signal: c_int) {
    if let Ok(mut order) = ORDER.try_lock() {
        order.push(signal);
    }
}

fn noted() -> Vec<i32> {
    ORDER.lock().map(|order| order.clone()).unwrap_or_default()
}

/// Where the systrap platform keeps a table of jumps, behind what it patched, to code of its own.
#[cfg(target_arch = "x86_64")]
const JUMPS: *const usize = 0x6_0000 as *const usize;

#[cfg(target_arch = "x86_64")]
extern "C" fn pause_for_ever(_: c_int) {
    loop {
        raw!(pause());
    }
}

/// Stays in a loop of the sandbox's own code if it finds it, which is where being interrupted means
/// nothing; else sleeps. Sets `word` to 1 before.
#[cfg(target_arch = "x86_64")]
fn hide(word: *const AtomicU32) -> i32 {
    // A thread that waits for its answer and yields its core: mov eax, 24; syscall; xor r13d, r13d.
    const LOOP: &[u8] = b"\xb8\x18\0\0\0\x0f\x05\x45\x31\xed";
    /// The code begins this far before what the first jump leads to, and is this long.
    const BEFORE: usize = 0x2_0000;
    const LEN: usize = 0x3000;
    // SAFETY: mapped by the caller.
    let told = unsafe { &*word };
    if install(SIGSEGV, pause_for_ever, SA_NODEFER).is_err() {
        return 2;
    }
    for _ in 0..200 {
        raw!(syscall(SYS_getppid));
    }
    // The state of a thread that has stopped, in a page of its own choice.
    static AREA: AtomicU32 = AtomicU32::new(1);
    told.store(1, Ordering::SeqCst);
    // SAFETY: faults where there is no such table, which is caught.
    let code = unsafe { JUMPS.read_volatile() }.wrapping_sub(BEFORE);
    let place = (0..LEN).find(|at| {
        // SAFETY: as above.
        LOOP.iter()
            .zip(0..)
            .all(|(byte, n)| *byte == unsafe { *((code + at + n) as *const u8) })
    });
    if let Some(at) = place {
        // SAFETY: this child has nothing to lose.
        unsafe {
            std::arch::asm!(
                "mov rbx, {area}",
                "mov r12d, 0x7fffffff",
                "xor r13d, r13d",
                "jmp {place}",
                area = in(reg) &raw const AREA,
                place = in(reg) code + at,
                options(noreturn)
            );
        }
    }
    pause_for_ever(0);
    3
}

pub static CASES: &[Case] = &[
    Case::new(
        "sigaltstack.used",
        "sigaltstack(2)",
        "SA_ONSTACK handlers run there, SS_ONSTACK is told",
        || {
            let size = 65536;
            let at = map_anon(size)?;
            let stack = stack_t {
                ss_sp: at.cast(),
                ss_flags: 0,
                ss_size: size,
            };
            ok!(sigaltstack(&stack, null_mut()));
            static WHERE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
            extern "C" fn look(_: c_int) {
                let here = 0u8;
                WHERE.store(
                    (&raw const here) as usize,
                    std::sync::atomic::Ordering::SeqCst,
                );
                let mut now = zeroed::<stack_t>();
                raw!(sigaltstack(null(), &mut now));
                note(now.ss_flags);
                note(if raw!(sigaltstack(&now, null_mut())) == -1 {
                    errno()
                } else {
                    0
                });
            }
            install(SIGUSR1, look, SA_ONSTACK)?;
            ok!(raise(SIGUSR1));
            let here = WHERE.load(std::sync::atomic::Ordering::SeqCst);
            ensure!(
                (at as usize..at as usize + size).contains(&here),
                "handler ran at {here:#x}"
            );
            eq(
                "flags inside, errno of a change",
                noted(),
                vec![SS_ONSTACK, EPERM],
            )
        },
    ),
    Case::new(
        "sigaltstack.errors",
        "sigaltstack(2)",
        "ENOMEM when too small, EINVAL for flags",
        || {
            let at = map_anon(65536)?;
            let small = stack_t {
                ss_sp: at.cast(),
                ss_flags: 0,
                ss_size: 100,
            };
            err!(ENOMEM, sigaltstack(&small, null_mut()));
            let odd = stack_t {
                ss_sp: at.cast(),
                ss_flags: 0x40,
                ss_size: 65536,
            };
            err!(EINVAL, sigaltstack(&odd, null_mut()));
            err!(EFAULT, sigaltstack(bad_ptr(), null_mut()));
            Ok(())
        },
    ),
    Case::new(
        "sigaltstack.stack_overflow",
        "sigaltstack(2)",
        "a stack overflow is handled on it",
        || {
            let pid = child(|| {
                extern "C" fn leave(_: c_int) {
                    raw!(_exit(44));
                }
                fn deep(n: u64) -> u64 {
                    let block = std::hint::black_box([n; 512]);
                    if block[1] == u64::MAX {
                        return 0;
                    }
                    deep(n + 1).wrapping_add(block[0])
                }
                let Ok(at) = map_anon(65536) else { return 1 };
                let limit = rlimit {
                    rlim_cur: 1 << 20,
                    rlim_max: 1 << 20,
                };
                raw!(setrlimit(RLIMIT_STACK, &limit));
                let stack = stack_t {
                    ss_sp: at.cast(),
                    ss_flags: 0,
                    ss_size: 65536,
                };
                raw!(sigaltstack(&stack, null_mut()));
                if install(SIGSEGV, leave, SA_ONSTACK).is_err() {
                    return 2;
                }
                deep(0) as i32
            })?;
            expect_exit(pid, 44)
        },
    ),
    Case::new(
        "stop.wuntraced",
        "waitpid(2)",
        "SIGSTOP is reported with WUNTRACED, SIGCONT with WCONTINUED",
        || {
            let pid = sleeper()?;
            let mut status = 0;
            ok!(kill(pid, SIGSTOP));
            gives!(pid, waitpid(pid, &mut status, WUNTRACED));
            ensure!(
                WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP,
                "{}",
                status_text(status)
            );
            gives!(0, waitpid(pid, &mut status, WUNTRACED | WNOHANG));
            ok!(kill(pid, SIGCONT));
            gives!(pid, waitpid(pid, &mut status, WCONTINUED));
            ensure!(WIFCONTINUED(status), "{}", status_text(status));
            ok!(kill(pid, SIGKILL));
            expect_signal(pid, SIGKILL)
        },
    ),
    Case::new(
        "stop.kill_stopped",
        "signal(7)",
        "SIGKILL ends a stopped process",
        || {
            let pid = sleeper()?;
            let mut status = 0;
            ok!(kill(pid, SIGSTOP));
            gives!(pid, waitpid(pid, &mut status, WUNTRACED));
            ok!(kill(pid, SIGKILL));
            expect_signal(pid, SIGKILL)
        },
    ),
    #[cfg(target_arch = "x86_64")]
    Case::new(
        "kill.in_code_of_a_sandbox",
        "signal(7)",
        "SIGKILL ends a program that hides in code it did not map",
        || {
            let word = map_shared(4096)?.cast::<AtomicU32>();
            let pid = child(|| hide(word))?;
            // SAFETY: mapped above, shared with the child.
            while unsafe { &*word }.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            ok!(kill(pid, SIGKILL));
            expect_signal(pid, SIGKILL)?;
            // And its siblings live.
            finish(sleeper()?)
        },
    ),
    Case::new(
        "stop.term_waits_for_cont",
        "signal(7)",
        "other signals act after SIGCONT",
        || {
            let pid = sleeper()?;
            let mut status = 0;
            ok!(kill(pid, SIGSTOP));
            gives!(pid, waitpid(pid, &mut status, WUNTRACED));
            ok!(kill(pid, SIGTERM));
            gives!(0, waitpid(pid, &mut status, WNOHANG));
            ok!(kill(pid, SIGCONT));
            expect_signal(pid, SIGTERM)
        },
    ),
    Case::new(
        "stop.proc_state",
        "proc_pid_stat(5)",
        "a stopped process is in state T",
        || {
            let pid = sleeper()?;
            let mut status = 0;
            ok!(kill(pid, SIGSTOP));
            gives!(pid, waitpid(pid, &mut status, WUNTRACED));
            let stat = slurp(&format!("/proc/{pid}/stat"))?;
            ensure!(stat.contains(") T "), "state in {stat:?}");
            ok!(kill(pid, SIGKILL));
            expect_signal(pid, SIGKILL)
        },
    ),
    Case::new(
        "sigchld.info",
        "sigaction(2)",
        "SIGCHLD tells pid, CLD_EXITED and the status",
        || {
            let set = block(&[SIGCHLD])?;
            let pid = child(|| 7)?;
            let info = next(&set, 10_000)?;
            let seen = unsafe { (info.si_code, info.si_pid(), info.si_status()) };
            eq("code, pid, status", seen, (CLD_EXITED, pid, 7))?;
            expect_exit(pid, 7)?;
            let pid = sleeper()?;
            ok!(kill(pid, SIGKILL));
            let info = next(&set, 10_000)?;
            let seen = unsafe { (info.si_code, info.si_pid(), info.si_status()) };
            eq("code, pid, signal", seen, (CLD_KILLED, pid, SIGKILL))?;
            expect_signal(pid, SIGKILL)
        },
    ),
    Case::new(
        "sigchld.nocldstop",
        "sigaction(2)",
        "SA_NOCLDSTOP: no SIGCHLD for stops",
        || {
            catch(SIGCHLD, SA_NOCLDSTOP)?;
            let pid = sleeper()?;
            let mut status = 0;
            ok!(kill(pid, SIGSTOP));
            gives!(pid, waitpid(pid, &mut status, WUNTRACED));
            eq("handler calls after a stop", caught(), 0)?;
            ok!(kill(pid, SIGKILL));
            expect_signal(pid, SIGKILL)?;
            eq("handler calls after the end", caught(), 1)
        },
    ),
    Case::new(
        "sigchld.ignored_reaps",
        "wait(2)",
        "SIG_IGN or SA_NOCLDWAIT: children leave no zombie",
        || {
            raw!(signal(SIGCHLD, SIG_IGN));
            let pid = child(|| 3)?;
            err!(ECHILD, waitpid(pid, null_mut(), 0));
            catch(SIGCHLD, SA_NOCLDWAIT)?;
            let pid = child(|| 3)?;
            loop {
                let got = raw!(waitpid(pid, null_mut(), 0));
                if got == -1 && errno() == EINTR {
                    continue;
                }
                return failed_with("waitpid(pid)", got, &[ECHILD]);
            }
        },
    ),
    Case::new(
        "fault.sigfpe",
        "signal(7)",
        "a division by zero gives SIGFPE",
        || {
            if !cfg!(target_arch = "x86_64") {
                skip!("other machines do not trap");
            }
            let pid = child(|| {
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    std::arch::asm!("xor ecx, ecx", "mov eax, 1", "cdq", "idiv ecx",
                    out("ecx") _, out("eax") _, out("edx") _)
                };
                0
            })?;
            expect_signal(pid, SIGFPE)
        },
    ),
    Case::new(
        "fault.sigill",
        "signal(7)",
        "an undefined instruction gives SIGILL",
        || {
            let pid = child(|| {
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    std::arch::asm!("ud2")
                };
                #[cfg(target_arch = "aarch64")]
                unsafe {
                    std::arch::asm!("udf #0")
                };
                0
            })?;
            expect_signal(pid, SIGILL)
        },
    ),
    Case::new(
        "fault.sigtrap",
        "signal(7)",
        "a breakpoint instruction gives SIGTRAP",
        || {
            let pid = child(|| {
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    std::arch::asm!("int3")
                };
                #[cfg(target_arch = "aarch64")]
                unsafe {
                    std::arch::asm!("brk #0")
                };
                0
            })?;
            expect_signal(pid, SIGTRAP)
        },
    ),
    Case::new(
        "fault.blocked_segv_kills",
        "sigaction(2)",
        "a fault whose signal is blocked kills",
        || {
            let pid = child(|| {
                let _ = block(&[SIGSEGV]);
                let _ = catch(SIGSEGV, 0);
                unsafe { (8 as *mut u8).write_volatile(1) };
                0
            })?;
            expect_signal(pid, SIGSEGV)
        },
    ),
    Case::new(
        "abort.default",
        "abort(3)",
        "abort ends by SIGABRT, core flag by RLIMIT_CORE",
        || {
            let pid = child(|| {
                let none = rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                raw!(setrlimit(RLIMIT_CORE, &none));
                raw!(abort())
            })?;
            let status = wait_for(pid)?;
            ensure!(
                WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT,
                "{}",
                status_text(status)
            );
            eq("core dumped", WCOREDUMP(status), false)
        },
    ),
    Case::new(
        "handler.registers",
        "sigreturn(2)",
        "a handler leaves the interrupted code's state alone",
        || {
            catch(SIGALRM, SA_RESTART)?;
            tick(1)?;
            let (mut sum, mut real) = (0u64, 0f64);
            let mut rounds = 0u64;
            while caught() < 20 {
                for i in 0..1000u64 {
                    sum = sum.wrapping_add(i * i);
                    real += (i as f64).sqrt();
                }
                rounds += 1;
            }
            let once: u64 = (0..1000).map(|i| i * i).sum();
            eq("integer sum", sum, once.wrapping_mul(rounds))?;
            let mut want = 0f64;
            for _ in 0..rounds {
                (0..1000u64).for_each(|i| want += (i as f64).sqrt());
            }
            eq("floating point sum", real.to_bits(), want.to_bits())
        },
    ),
    Case::new(
        "handler.errno_order",
        "signal(7)",
        "several pending signals all run on unblocking",
        || {
            for signal in [SIGUSR1, SIGUSR2, SIGHUP] {
                install(signal, note, 0)?;
            }
            block(&[SIGUSR1, SIGUSR2, SIGHUP])?;
            for signal in [SIGUSR2, SIGHUP, SIGUSR1] {
                ok!(kill(getpid(), signal));
            }
            unblock(&[SIGUSR1, SIGUSR2, SIGHUP])?;
            let mut seen = noted();
            seen.sort_unstable();
            eq("handlers that ran", seen, vec![SIGHUP, SIGUSR1, SIGUSR2])
        },
    ),
    Case::new(
        "tgkill.errors",
        "tgkill(2)",
        "EINVAL for ids and signals, ESRCH",
        || {
            let pid = getpid();
            err!(EINVAL, syscall(SYS_tgkill, -1, pid, 0));
            err!(EINVAL, syscall(SYS_tgkill, pid, -1, 0));
            err!(EINVAL, syscall(SYS_tgkill, pid, pid, 65));
            let gone = child(|| 0)?;
            expect_exit(gone, 0)?;
            err!(ESRCH, syscall(SYS_tgkill, pid, gone, 0));
            err!(EINVAL, syscall(SYS_tkill, -1, 0));
            Ok(())
        },
    ),
];
