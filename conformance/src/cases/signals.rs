//! signal(7): kill(2), sigaction(2), sigprocmask(2), sigqueue(3), sigtimedwait(2), and what
//! interrupts what.

use crate::case::*;
use std::ptr::{null, null_mut};

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

fn is_pending(signal: c_int) -> Outcome<bool> {
    let mut set = zeroed::<sigset_t>();
    ok!(sigpending(&mut set));
    Ok(raw!(sigismember(&set, signal)) == 1)
}

fn is_blocked(signal: c_int) -> Outcome<bool> {
    let mut set = zeroed::<sigset_t>();
    ok!(sigprocmask(SIG_BLOCK, null(), &mut set));
    Ok(raw!(sigismember(&set, signal)) == 1)
}

fn no_place(signal: c_int) -> Outcome {
    eq("a signal too many", queue(signal, 0), -1)?;
    eq("errno", errno_name(errno()), "EAGAIN".to_string())
}

/// Runs as a user who has no other process, with this RLIMIT_SIGPENDING.
fn as_nobody_else(limit: rlim_t, body: impl FnOnce() -> Outcome) -> Outcome {
    in_child(|| {
        let id = 60_000 + raw!(getpid()) as uid_t % 5000;
        if raw!(setresgid(id, id, id)) != 0 || raw!(setresuid(id, id, id)) != 0 {
            skip!("cannot become another user here: {}", errno_name(errno()));
        }
        let limit = rlimit {
            rlim_cur: limit,
            rlim_max: limit,
        };
        ok!(setrlimit(RLIMIT_SIGPENDING, &limit));
        body()
    })
}

fn queue(signal: c_int, value: usize) -> c_int {
    raw!(sigqueue(
        getpid(),
        signal,
        sigval {
            sival_ptr: value as *mut c_void
        }
    ))
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

pub static CASES: &[Case] = &[
    Case::new(
        "kill.errors",
        "kill(2)",
        "EINVAL for a bad signal, ESRCH for no process",
        || {
            let pid = child(|| 0)?;
            expect_exit(pid, 0)?;
            err!(ESRCH, kill(pid, 0));
            err!(ESRCH, kill(pid, SIGTERM));
            err!(EINVAL, kill(getpid(), 65));
            err!(EINVAL, kill(getpid(), -1));
            err!(ESRCH, kill(-pid, SIGTERM));
            Ok(())
        },
    ),
    Case::new(
        "kill.zero_probes",
        "kill(2)",
        "signal 0 only asks; a zombie still exists",
        || {
            let pid = child(|| 0)?;
            let mut info = zeroed::<siginfo_t>();
            ok!(waitid(P_PID, pid as id_t, &mut info, WEXITED | WNOWAIT));
            ok!(kill(pid, 0));
            ok!(kill(pid, SIGKILL));
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "kill.eperm",
        "kill(2)",
        "another user's process gives EPERM",
        || {
            need_root()?;
            let pid = sleeper()?;
            as_user(|| {
                err!(EPERM, kill(pid, SIGTERM));
                err!(EPERM, kill(pid, 0));
                Ok(())
            })?;
            ok!(kill(pid, SIGKILL));
            expect_signal(pid, SIGKILL)
        },
    ),
    Case::new(
        "kill.process_group",
        "kill(2)",
        "a negative pid signals the process group",
        || {
            let (r, w) = pipe_pair()?;
            let leader = child(|| {
                raw!(setpgid(0, 0));
                let second = raw!(fork());
                if second == 0 {
                    raw!(write(w, c"x".as_ptr().cast(), 1));
                }
                loop {
                    raw!(pause());
                }
            })?;
            ok!(close(w));
            eq("second process", read_some(r, 1)?.len(), 1)?;
            ok!(kill(-leader, SIGTERM));
            expect_signal(leader, SIGTERM)?;
            // The pipe's end of file says that the second one is gone, too.
            eq("pipe after the second one", read_some(r, 1)?.len(), 0)
        },
    ),
    Case::new(
        "kill.default_terminate",
        "signal(7)",
        "default actions: terminate, and core",
        || {
            for signal in [
                SIGHUP,
                SIGINT,
                SIGTERM,
                SIGUSR1,
                SIGALRM,
                SIGPIPE,
                SIGRTMIN(),
            ] {
                let pid = child(|| {
                    raw!(raise(signal));
                    0
                })?;
                expect_signal(pid, signal)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "kill.default_ignore",
        "signal(7)",
        "SIGCHLD, SIGURG, SIGWINCH and SIGCONT do nothing",
        || {
            for signal in [SIGCHLD, SIGURG, SIGWINCH, SIGCONT] {
                ok!(kill(getpid(), signal));
            }
            Ok(())
        },
    ),
    Case::new(
        "kill.sigkill_uncatchable",
        "sigaction(2)",
        "SIGKILL and SIGSTOP cannot be caught: EINVAL",
        || {
            let mut action = zeroed::<sigaction>();
            action.sa_sigaction = SIG_IGN;
            err!(EINVAL, sigaction(SIGKILL, &action, null_mut()));
            err!(EINVAL, sigaction(SIGSTOP, &action, null_mut()));
            err!(EINVAL, sigaction(0, &action, null_mut()));
            err!(EINVAL, sigaction(65, &action, null_mut()));
            let mut seen = zeroed::<sigaction>();
            ok!(sigaction(SIGKILL, null(), &mut seen));
            Ok(())
        },
    ),
    Case::new(
        "kill.sigkill_blocked",
        "sigprocmask(2)",
        "SIGKILL cannot be blocked",
        || {
            let pid = child(|| {
                let all = [0xffu8; 128];
                raw!(sigprocmask(SIG_SETMASK, all.as_ptr().cast(), null_mut()));
                loop {
                    raw!(pause());
                }
            })?;
            until_asleep(pid)?;
            ok!(kill(pid, SIGKILL));
            expect_signal(pid, SIGKILL)
        },
    ),
    Case::new(
        "sigaction.old_action",
        "sigaction(2)",
        "the old action comes back as it was set",
        || {
            catch(SIGUSR1, SA_RESTART | SA_NODEFER)?;
            let mut old = zeroed::<sigaction>();
            ok!(sigaction(SIGUSR1, null(), &mut old));
            eq(
                "flags",
                old.sa_flags & (SA_RESTART | SA_NODEFER | SA_SIGINFO),
                SA_RESTART | SA_NODEFER | SA_SIGINFO,
            )?;
            ensure!(
                old.sa_sigaction != SIG_DFL,
                "the handler is not in the old action"
            );
            err!(
                EFAULT,
                syscall(
                    SYS_rt_sigaction,
                    SIGUSR1,
                    bad_ptr::<u8>(),
                    null::<u8>(),
                    8usize
                )
            );
            err!(
                EINVAL,
                syscall(
                    SYS_rt_sigaction,
                    SIGUSR1,
                    null::<u8>(),
                    null::<u8>(),
                    7usize
                )
            );
            Ok(())
        },
    ),
    Case::new(
        "sigaction.siginfo_kill",
        "sigaction(2)",
        "kill gives SI_USER and the sender",
        || {
            catch(SIGUSR1, 0)?;
            ok!(kill(getpid(), SIGUSR1));
            let seen = last_caught();
            eq(
                "signal, code, pid",
                (seen.signal, seen.code, seen.pid),
                (SIGUSR1, SI_USER, getpid()),
            )
        },
    ),
    Case::new(
        "sigaction.siginfo_tkill",
        "sigaction(2)",
        "tgkill gives SI_TKILL",
        || {
            catch(SIGUSR1, 0)?;
            ok!(syscall(SYS_tgkill, getpid(), raw!(gettid()), SIGUSR1));
            let seen = last_caught();
            eq("code, pid", (seen.code, seen.pid), (SI_TKILL, getpid()))
        },
    ),
    Case::new(
        "sigaction.mask_during_handler",
        "sigaction(2)",
        "sa_mask and the signal itself are blocked",
        || {
            extern "C" fn look(_: c_int) {
                note(i32::from(is_blocked(SIGUSR1).unwrap_or(false)));
                note(i32::from(is_blocked(SIGUSR2).unwrap_or(false)));
            }
            let mut action = zeroed::<sigaction>();
            action.sa_sigaction = look as extern "C" fn(c_int) as usize;
            action.sa_mask = set_of(&[SIGUSR2])?;
            ok!(sigaction(SIGUSR1, &action, null_mut()));
            ok!(raise(SIGUSR1));
            eq("blocked in the handler", noted(), vec![1, 1])?;
            eq(
                "blocked after it",
                (is_blocked(SIGUSR1)?, is_blocked(SIGUSR2)?),
                (false, false),
            )
        },
    ),
    Case::new(
        "sigaction.nodefer",
        "sigaction(2)",
        "SA_NODEFER leaves the signal unblocked",
        || {
            extern "C" fn look(_: c_int) {
                note(i32::from(is_blocked(SIGUSR1).unwrap_or(true)));
            }
            install(SIGUSR1, look, SA_NODEFER)?;
            ok!(raise(SIGUSR1));
            eq("blocked in the handler", noted(), vec![0])
        },
    ),
    Case::new(
        "sigaction.resethand",
        "sigaction(2)",
        "SA_RESETHAND restores the default first",
        || {
            catch(SIGUSR1, SA_RESETHAND)?;
            ok!(raise(SIGUSR1));
            eq("handler calls", caught(), 1)?;
            let mut old = zeroed::<sigaction>();
            ok!(sigaction(SIGUSR1, null(), &mut old));
            eq("action", old.sa_sigaction, SIG_DFL)
        },
    ),
    Case::new(
        "sigaction.ignored_is_dropped",
        "signal(7)",
        "ignoring discards what is pending",
        || {
            block(&[SIGUSR1])?;
            ok!(kill(getpid(), SIGUSR1));
            eq("pending", is_pending(SIGUSR1)?, true)?;
            raw!(signal(SIGUSR1, SIG_IGN));
            eq("pending once ignored", is_pending(SIGUSR1)?, false)?;
            unblock(&[SIGUSR1])
        },
    ),
    Case::new(
        "sigaction.eintr",
        "signal(7)",
        "without SA_RESTART a blocked read gives EINTR",
        || {
            catch(SIGALRM, 0)?;
            tick(10)?;
            let (r, _w) = pipe_pair()?;
            let mut b = 0u8;
            err!(EINTR, read(r, (&raw mut b).cast(), 1));
            Ok(())
        },
    ),
    Case::new(
        "sigaction.restart",
        "signal(7)",
        "with SA_RESTART a blocked read goes on",
        || {
            catch(SIGUSR1, SA_RESTART)?;
            let (r, w) = pipe_pair()?;
            let me = getpid();
            let pid = child(|| {
                for _ in 0..3 {
                    if until_asleep(me).is_err() {
                        return 1;
                    }
                    raw!(kill(me, SIGUSR1));
                }
                i32::from(raw!(write(w, c"x".as_ptr().cast(), 1)) != 1)
            })?;
            eq("data", read_some(r, 1)?, b"x".to_vec())?;
            expect_exit(pid, 0)?;
            ensure!(caught() >= 1, "the handler never ran");
            Ok(())
        },
    ),
    Case::new(
        "sigaction.restart_often",
        "signal(7)",
        "a read that is restarted time and again, then ends, goes on behind the call",
        || {
            catch(SIGUSR1, SA_RESTART)?;
            let (r, w) = pipe_pair()?;
            let me = getpid();
            let pid = child(|| {
                for n in 0..100u8 {
                    for _ in 0..n % 3 {
                        if until_asleep(me).is_err() {
                            return 1;
                        }
                        raw!(kill(me, SIGUSR1));
                    }
                    if raw!(write(w, (&raw const n).cast(), 1)) != 1 {
                        return 2;
                    }
                }
                0
            })?;
            for n in 0..100u8 {
                let mut byte = 0xffu8;
                gives!(1, read(r, (&raw mut byte).cast(), 1));
                eq("byte", byte, n)?;
            }
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "sigaction.pause",
        "pause(2)",
        "pause returns EINTR after a handler",
        || {
            catch(SIGALRM, SA_RESTART)?;
            tick(10)?;
            err!(EINTR, pause());
            Ok(())
        },
    ),
    Case::new(
        "sigaction.sigsuspend",
        "sigsuspend(2)",
        "the mask is swapped and restored: EINTR",
        || {
            block(&[SIGUSR1])?;
            catch(SIGUSR1, 0)?;
            ok!(kill(getpid(), SIGUSR1));
            let none = set_of(&[])?;
            err!(EINTR, sigsuspend(&none));
            eq("handler calls", caught(), 1)?;
            eq("blocked again", is_blocked(SIGUSR1)?, true)
        },
    ),
    Case::new(
        "sigprocmask.pending",
        "sigprocmask(2)",
        "a blocked signal waits, once, until unblocked",
        || {
            block(&[SIGUSR1])?;
            catch(SIGUSR1, 0)?;
            for _ in 0..3 {
                ok!(kill(getpid(), SIGUSR1));
            }
            eq("calls while blocked", caught(), 0)?;
            eq("pending", is_pending(SIGUSR1)?, true)?;
            unblock(&[SIGUSR1])?;
            eq("calls after unblocking", caught(), 1)
        },
    ),
    Case::new(
        "sigprocmask.errors",
        "sigprocmask(2)",
        "EINVAL for how and size, EFAULT",
        || {
            let set = set_of(&[SIGUSR1])?;
            err!(
                EINVAL,
                syscall(SYS_rt_sigprocmask, 99, &raw const set, null::<u8>(), 8usize)
            );
            err!(
                EINVAL,
                syscall(
                    SYS_rt_sigprocmask,
                    SIG_BLOCK,
                    &raw const set,
                    null::<u8>(),
                    4usize
                )
            );
            err!(
                EFAULT,
                syscall(
                    SYS_rt_sigprocmask,
                    SIG_BLOCK,
                    bad_ptr::<u8>(),
                    null::<u8>(),
                    8usize
                )
            );
            Ok(())
        },
    ),
    Case::new(
        "sigprocmask.fork",
        "fork(2)",
        "the mask is inherited, pending signals are not",
        || {
            block(&[SIGUSR1])?;
            ok!(kill(getpid(), SIGUSR1));
            in_child(|| {
                eq("blocked", is_blocked(SIGUSR1)?, true)?;
                eq("pending", is_pending(SIGUSR1)?, false)
            })
        },
    ),
    Case::new(
        "sigqueue.queues",
        "sigqueue(3)",
        "real-time signals queue in order with their values",
        || {
            let signal = SIGRTMIN() + 1;
            let set = block(&[signal])?;
            for value in 1..=3 {
                eq("sigqueue", queue(signal, value), 0)?;
            }
            for want in 1..=3usize {
                let info = next(&set, 0)?;
                let value = unsafe { info.si_value() }.sival_ptr as usize;
                eq(
                    "signal, code, value",
                    (info.si_signo, info.si_code, value),
                    (signal, SI_QUEUE, want),
                )?;
            }
            eq("pending", is_pending(signal)?, false)
        },
    ),
    Case::new(
        "sigqueue.lowest_first",
        "signal(7)",
        "the lowest real-time signal is delivered first",
        || {
            let (a, b) = (SIGRTMIN() + 1, SIGRTMIN() + 2);
            let set = block(&[a, b])?;
            eq("sigqueue", queue(b, 0), 0)?;
            eq("sigqueue", queue(a, 0), 0)?;
            eq("first", next(&set, 0)?.si_signo, a)?;
            eq("second", next(&set, 0)?.si_signo, b)
        },
    ),
    Case::new(
        "sigqueue.limit",
        "sigqueue(3)",
        "beyond RLIMIT_SIGPENDING gives EAGAIN",
        || {
            as_user(|| {
                let signal = SIGRTMIN() + 1;
                block(&[signal])?;
                let limit = rlimit {
                    rlim_cur: 2,
                    rlim_max: 2,
                };
                ok!(setrlimit(RLIMIT_SIGPENDING, &limit));
                for _ in 0..10 {
                    if queue(signal, 0) == -1 {
                        return eq("errno", errno_name(errno()), "EAGAIN".to_string());
                    }
                }
                fail!("10 signals were queued with a limit of 2")
            })
        },
    ),
    Case::new(
        "sigqueue.limit_of_user",
        "getrlimit(2)",
        "RLIMIT_SIGPENDING counts what is queued for all processes of a user",
        || {
            as_nobody_else(3, || {
                let signal = SIGRTMIN() + 1;
                block(&[signal])?;
                let other = sleeper()?;
                let value = sigval {
                    sival_ptr: null_mut(),
                };
                ok!(sigqueue(other, signal, value));
                ok!(sigqueue(other, signal, value));
                eq("own", queue(signal, 0), 0)?;
                no_place(signal)?;
                err!(EAGAIN, sigqueue(other, signal, value));
                err!(EAGAIN, syscall(SYS_tgkill, getpid(), gettid(), signal));
                ok!(kill(getpid(), signal));
                ok!(kill(other, SIGKILL));
                expect_signal(other, SIGKILL)?;
                eq("when the other has gone", queue(signal, 0), 0)
            })
        },
    ),
    Case::new(
        "timer.limit",
        "timer_create(2)",
        "a timer takes a place of RLIMIT_SIGPENDING while it exists",
        || {
            as_nobody_else(2, || {
                let signal = SIGRTMIN() + 1;
                block(&[signal])?;
                let mut ids = [zeroed::<timer_t>(); 3];
                ok!(timer_create(CLOCK_MONOTONIC, null_mut(), &mut ids[0]));
                ok!(timer_create(CLOCK_MONOTONIC, null_mut(), &mut ids[1]));
                err!(
                    EAGAIN,
                    timer_create(CLOCK_MONOTONIC, null_mut(), &mut ids[2])
                );
                no_place(signal)?;
                ok!(timer_delete(ids[0]));
                eq("room", queue(signal, 0), 0)?;
                no_place(signal)?;
                err!(
                    EAGAIN,
                    timer_create(CLOCK_MONOTONIC, null_mut(), &mut ids[2])
                );
                Ok(())
            })
        },
    ),
    Case::new(
        "sigqueue.foreign_code",
        "rt_sigqueueinfo(2)",
        "posing as the kernel gives EPERM",
        || {
            let pid = sleeper()?;
            let mut info = zeroed::<siginfo_t>();
            info.si_code = SI_USER;
            err!(
                EPERM,
                syscall(SYS_rt_sigqueueinfo, pid, SIGTERM, &raw const info)
            );
            info.si_code = SI_QUEUE;
            ok!(syscall(SYS_rt_sigqueueinfo, pid, SIGTERM, &raw const info));
            expect_signal(pid, SIGTERM)
        },
    ),
    Case::new(
        "sigtimedwait.timeout",
        "sigtimedwait(2)",
        "no signal in time gives EAGAIN",
        || {
            let set = block(&[SIGUSR1])?;
            let before = ns(now(CLOCK_MONOTONIC)?);
            err!(EAGAIN, sigtimedwait(&set, null_mut(), &millis(20)));
            let took = ns(now(CLOCK_MONOTONIC)?) - before;
            ensure!(
                took >= 20_000_000,
                "returned after {took} ns, expected at least 20 ms"
            );
            let bad = timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000_000,
            };
            err!(EINVAL, sigtimedwait(&set, null_mut(), &bad));
            Ok(())
        },
    ),
    Case::new(
        "sigtimedwait.takes",
        "sigtimedwait(2)",
        "the signal is taken, no handler runs",
        || {
            let set = block(&[SIGUSR1])?;
            catch(SIGUSR1, 0)?;
            ok!(kill(getpid(), SIGUSR1));
            eq("signal", next(&set, 0)?.si_signo, SIGUSR1)?;
            unblock(&[SIGUSR1])?;
            eq("handler calls", caught(), 0)
        },
    ),
    Case::new(
        "sigtimedwait.eintr",
        "sigtimedwait(2)",
        "a handler for another signal gives EINTR",
        || {
            let set = block(&[SIGUSR1])?;
            catch(SIGALRM, SA_RESTART)?;
            tick(10)?;
            err!(EINTR, sigtimedwait(&set, null_mut(), null()));
            Ok(())
        },
    ),
];
