//! Clocks and timers: clock_gettime(2), nanosleep(2), setitimer(2), timer_create(2), alarm(2).

use crate::case::*;
use std::ptr::{null, null_mut};

const ABSTIME: c_int = TIMER_ABSTIME;

fn block(signal: c_int) -> Outcome<sigset_t> {
    let mut set = zeroed::<sigset_t>();
    ok!(sigemptyset(&mut set));
    ok!(sigaddset(&mut set, signal));
    ok!(sigprocmask(SIG_BLOCK, &set, null_mut()));
    Ok(set)
}

/// A POSIX timer that queues this signal with a value.
fn timer(clock: clockid_t, signal: c_int, value: usize) -> Outcome<timer_t> {
    let mut event = zeroed::<sigevent>();
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = signal;
    event.sigev_value = sigval {
        sival_ptr: value as *mut c_void,
    };
    let mut id = zeroed::<timer_t>();
    ok!(timer_create(clock, &mut event, &mut id));
    Ok(id)
}

fn spec(first_ms: i64, interval_ms: i64) -> itimerspec {
    itimerspec {
        it_value: millis(first_ms),
        it_interval: millis(interval_ms),
    }
}

fn burn(until: impl Fn() -> bool) {
    while !until() {
        for i in 0..1000u64 {
            std::hint::black_box(i * i);
        }
    }
}

pub static CASES: &[Case] = &[
    Case::new(
        "clock.monotonic",
        "clock_gettime(2)",
        "CLOCK_MONOTONIC never goes back",
        || {
            for clock in [
                CLOCK_MONOTONIC,
                CLOCK_MONOTONIC_RAW,
                CLOCK_BOOTTIME,
                CLOCK_MONOTONIC_COARSE,
            ] {
                let mut last = 0;
                for _ in 0..10_000 {
                    let this = ns(now(clock)?);
                    ensure!(this >= last, "clock {clock} went from {last} to {this}");
                    last = this;
                }
            }
            Ok(())
        },
    ),
    Case::new(
        "clock.raw_call_agrees",
        "vdso(7)",
        "the vDSO and the system call tell the same time",
        || {
            for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC] {
                let before = ns(now(clock)?);
                let mut ts = zeroed::<timespec>();
                ok!(syscall(SYS_clock_gettime, clock, &raw mut ts));
                let after = ns(now(clock)?);
                ensure!(
                    before <= ns(ts) && ns(ts) <= after,
                    "{before} <= {} <= {after}",
                    ns(ts)
                );
            }
            Ok(())
        },
    ),
    Case::new(
        "clock.time_and_gettimeofday",
        "gettimeofday(2)",
        "time, gettimeofday and CLOCK_REALTIME agree",
        || {
            let before = now(CLOCK_REALTIME)?.tv_sec;
            let mut tv = zeroed::<timeval>();
            ok!(gettimeofday(&mut tv, null_mut()));
            let after = now(CLOCK_REALTIME)?.tv_sec;
            ensure!(
                (before..=after).contains(&tv.tv_sec),
                "{} not in {before}..={after}",
                tv.tv_sec
            );
            let seconds = raw!(time(null_mut()));
            ensure!(
                seconds >= before - 1 && seconds <= after + 1,
                "time() is {seconds}"
            );
            Ok(())
        },
    ),
    Case::new(
        "clock.getres",
        "clock_getres(2)",
        "resolutions are positive and below a second",
        || {
            for clock in [
                CLOCK_REALTIME,
                CLOCK_MONOTONIC,
                CLOCK_REALTIME_COARSE,
                CLOCK_PROCESS_CPUTIME_ID,
            ] {
                let mut res = zeroed::<timespec>();
                ok!(clock_getres(clock, &mut res));
                ensure!(
                    ns(res) > 0 && ns(res) < 1_000_000_000,
                    "clock {clock}: {} ns",
                    ns(res)
                );
            }
            ok!(clock_getres(CLOCK_MONOTONIC, null_mut()));
            Ok(())
        },
    ),
    Case::new(
        "clock.errors",
        "clock_gettime(2)",
        "EINVAL for an unknown clock, EFAULT",
        || {
            let mut ts = zeroed::<timespec>();
            err!(EINVAL, clock_gettime(99, &mut ts));
            err!(EINVAL, clock_getres(99, &mut ts));
            err!(
                EFAULT,
                syscall(SYS_clock_gettime, CLOCK_MONOTONIC, bad_ptr::<u8>())
            );
            Ok(())
        },
    ),
    Case::new(
        "clock.settime_eperm",
        "clock_settime(2)",
        "setting the time needs CAP_SYS_TIME",
        || {
            as_user(|| {
                let ts = now(CLOCK_REALTIME)?;
                err!(EPERM, clock_settime(CLOCK_REALTIME, &ts));
                err!(EINVAL, clock_settime(CLOCK_MONOTONIC, &ts));
                Ok(())
            })
        },
    ),
    Case::new(
        "clock.cpu_time",
        "clock_gettime(2)",
        "CPU clocks advance with work",
        || {
            for clock in [CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID] {
                let before = ns(now(clock)?);
                burn(|| now(clock).map(ns).is_ok_and(|t| t > before + 5_000_000));
            }
            Ok(())
        },
    ),
    Case::new(
        "clock.cpu_of_process",
        "clock_getcpuclockid(3)",
        "another process's CPU clock is readable",
        || {
            let mut clock: clockid_t = 0;
            eq(
                "result",
                raw!(clock_getcpuclockid(getpid_now(), &mut clock)),
                0,
            )?;
            ensure!(ns(now(clock)?) >= 0, "negative CPU time");
            let pid = child(|| 0)?;
            expect_exit(pid, 0)?;
            eq(
                "dead process",
                raw!(clock_getcpuclockid(pid, &mut clock)),
                ESRCH,
            )
        },
    ),
    Case::new(
        "clock.times",
        "times(2)",
        "times counts ticks for us and our children",
        || {
            let pid = child(|| {
                burn(|| {
                    let mut t = zeroed::<tms>();
                    raw!(times(&mut t));
                    t.tms_utime >= 3
                });
                0
            })?;
            expect_exit(pid, 0)?;
            let mut t = zeroed::<tms>();
            ensure!(raw!(times(&mut t)) != -1, "times failed");
            ensure!(
                t.tms_cutime + t.tms_cstime >= 2,
                "children's ticks: {}",
                t.tms_cutime
            );
            Ok(())
        },
    ),
    Case::new(
        "nanosleep.sleeps",
        "nanosleep(2)",
        "it sleeps at least as long as asked",
        || {
            let before = ns(now(CLOCK_MONOTONIC)?);
            ok!(nanosleep(&millis(20), null_mut()));
            let took = ns(now(CLOCK_MONOTONIC)?) - before;
            ensure!(
                took >= 20_000_000,
                "slept {took} ns, expected at least 20 ms"
            );
            Ok(())
        },
    ),
    Case::new(
        "nanosleep.errors",
        "nanosleep(2)",
        "EINVAL for bad values, EFAULT",
        || {
            let bad = timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000_000,
            };
            err!(EINVAL, nanosleep(&bad, null_mut()));
            let bad = timespec {
                tv_sec: -1,
                tv_nsec: 0,
            };
            err!(EINVAL, nanosleep(&bad, null_mut()));
            err!(EFAULT, nanosleep(bad_ptr(), null_mut()));
            Ok(())
        },
    ),
    Case::new(
        "nanosleep.remaining",
        "nanosleep(2)",
        "EINTR with the remaining time",
        || {
            catch(SIGALRM, SA_RESTART)?;
            tick(10)?;
            let mut left = zeroed::<timespec>();
            err!(EINTR, nanosleep(&millis(100_000), &mut left));
            ensure!(
                ns(left) > 0 && ns(left) < 100_000_000_000,
                "remaining {} ns",
                ns(left)
            );
            Ok(())
        },
    ),
    Case::new(
        "nanosleep.ignored_signal",
        "nanosleep(2)",
        "an ignored signal does not end the sleep",
        || {
            raw!(signal(SIGALRM, SIG_IGN));
            tick(5)?;
            let before = ns(now(CLOCK_MONOTONIC)?);
            ok!(nanosleep(&millis(30), null_mut()));
            let took = ns(now(CLOCK_MONOTONIC)?) - before;
            ensure!(
                took >= 30_000_000,
                "slept {took} ns, expected at least 30 ms"
            );
            Ok(())
        },
    ),
    Case::new(
        "nanosleep.absolute",
        "clock_nanosleep(2)",
        "TIMER_ABSTIME waits for a time, past ones not",
        || {
            let target = ns(now(CLOCK_MONOTONIC)?) + 15_000_000;
            let until = timespec {
                tv_sec: target / 1_000_000_000,
                tv_nsec: target % 1_000_000_000,
            };
            eq(
                "result",
                raw!(clock_nanosleep(
                    CLOCK_MONOTONIC,
                    ABSTIME,
                    &until,
                    null_mut()
                )),
                0,
            )?;
            ensure!(
                ns(now(CLOCK_MONOTONIC)?) >= target,
                "woke before the absolute time"
            );
            eq(
                "past",
                raw!(clock_nanosleep(
                    CLOCK_REALTIME,
                    ABSTIME,
                    &millis(1),
                    null_mut()
                )),
                0,
            )
        },
    ),
    Case::new(
        "nanosleep.clock_errors",
        "clock_nanosleep(2)",
        "EINVAL for a clock; the thread clock is not supported",
        || {
            eq(
                "unknown",
                raw!(clock_nanosleep(99, 0, &millis(1), null_mut())),
                EINVAL,
            )?;
            let got = raw!(clock_nanosleep(
                CLOCK_THREAD_CPUTIME_ID,
                0,
                &millis(1),
                null_mut()
            ));
            ensure!(
                got == EINVAL || got == EOPNOTSUPP,
                "thread clock: got {}",
                errno_name(got)
            );
            Ok(())
        },
    ),
    Case::new(
        "itimer.real",
        "setitimer(2)",
        "ITIMER_REAL sends SIGALRM again and again",
        || {
            let set = block(SIGALRM)?;
            tick(5)?;
            for _ in 0..3 {
                let mut info = zeroed::<siginfo_t>();
                gives!(SIGALRM, sigtimedwait(&set, &mut info, &millis(10_000)));
                eq("code", info.si_code, SI_KERNEL)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "itimer.getitimer",
        "getitimer(2)",
        "the remaining time; setting returns the old one",
        || {
            let every = timeval {
                tv_sec: 50,
                tv_usec: 0,
            };
            let set = itimerval {
                it_interval: every,
                it_value: timeval {
                    tv_sec: 100,
                    tv_usec: 0,
                },
            };
            ok!(syscall(
                SYS_setitimer,
                ITIMER_REAL,
                &raw const set,
                null::<u8>()
            ));
            let mut seen = zeroed::<itimerval>();
            ok!(syscall(SYS_getitimer, ITIMER_REAL, &raw mut seen));
            ensure!(
                (99..=100).contains(&seen.it_value.tv_sec),
                "value {}",
                seen.it_value.tv_sec
            );
            eq("interval", seen.it_interval.tv_sec, 50)?;
            let off = zeroed::<itimerval>();
            let mut old = zeroed::<itimerval>();
            ok!(syscall(
                SYS_setitimer,
                ITIMER_REAL,
                &raw const off,
                &raw mut old
            ));
            eq("old interval", old.it_interval.tv_sec, 50)?;
            ok!(syscall(SYS_getitimer, ITIMER_REAL, &raw mut seen));
            eq(
                "disarmed",
                (seen.it_value.tv_sec, seen.it_value.tv_usec),
                (0, 0),
            )
        },
    ),
    Case::new(
        "itimer.errors",
        "setitimer(2)",
        "EINVAL for which and microseconds, EFAULT",
        || {
            let mut bad = zeroed::<itimerval>();
            err!(
                EINVAL,
                syscall(SYS_setitimer, 9, &raw const bad, null::<u8>())
            );
            bad.it_value.tv_usec = 1_000_000;
            err!(
                EINVAL,
                syscall(SYS_setitimer, ITIMER_REAL, &raw const bad, null::<u8>())
            );
            err!(
                EFAULT,
                syscall(SYS_setitimer, ITIMER_REAL, bad_ptr::<u8>(), null::<u8>())
            );
            err!(EINVAL, syscall(SYS_getitimer, 9, &raw mut bad));
            Ok(())
        },
    ),
    Case::new(
        "itimer.virtual",
        "setitimer(2)",
        "ITIMER_VIRTUAL and ITIMER_PROF count CPU time",
        || {
            for (which, signal) in [(ITIMER_VIRTUAL, SIGVTALRM), (ITIMER_PROF, SIGPROF)] {
                catch(signal, 0)?;
                let set = itimerval {
                    it_interval: zeroed(),
                    it_value: timeval {
                        tv_sec: 0,
                        tv_usec: 5000,
                    },
                };
                ok!(syscall(SYS_setitimer, which, &raw const set, null::<u8>()));
                let before = caught();
                burn(|| caught() > before);
                eq("signal", last_caught().signal, signal)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "alarm.seconds",
        "alarm(2)",
        "alarm returns the seconds that were left",
        || {
            gives_unsigned(raw!(alarm(100)), 0)?;
            let left = raw!(alarm(50));
            ensure!((99..=100).contains(&left), "left {left}");
            let left = raw!(alarm(0));
            ensure!((49..=50).contains(&left), "left {left}");
            gives_unsigned(raw!(alarm(0)), 0)
        },
    ),
    Case::new(
        "alarm.kills",
        "alarm(2)",
        "SIGALRM's default action ends the process",
        || {
            let pid = child(|| {
                let soon = timeval {
                    tv_sec: 0,
                    tv_usec: 1000,
                };
                let set = itimerval {
                    it_interval: zeroed(),
                    it_value: soon,
                };
                raw!(syscall(
                    SYS_setitimer,
                    ITIMER_REAL,
                    &raw const set,
                    null::<u8>()
                ));
                loop {
                    raw!(pause());
                }
            })?;
            expect_signal(pid, SIGALRM)
        },
    ),
    Case::new(
        "timer.signal",
        "timer_create(2)",
        "SI_TIMER with the value given",
        || {
            let signal = SIGRTMIN() + 3;
            let set = block(signal)?;
            let id = timer(CLOCK_MONOTONIC, signal, 77)?;
            ok!(timer_settime(id, 0, &spec(5, 0), null_mut()));
            let mut info = zeroed::<siginfo_t>();
            gives!(signal, sigtimedwait(&set, &mut info, &millis(10_000)));
            let value = unsafe { info.si_value() }.sival_ptr as usize;
            eq("code and value", (info.si_code, value), (SI_TIMER, 77))?;
            ok!(timer_delete(id));
            Ok(())
        },
    ),
    Case::new(
        "timer.overrun",
        "timer_getoverrun(2)",
        "missed expirations are counted, not queued",
        || {
            let set = block(SIGUSR1)?;
            let id = timer(CLOCK_MONOTONIC, SIGUSR1, 0)?;
            ok!(timer_settime(id, 0, &spec(1, 1), null_mut()));
            let start = ns(now(CLOCK_MONOTONIC)?);
            burn(|| {
                now(CLOCK_MONOTONIC)
                    .map(ns)
                    .is_ok_and(|t| t > start + 30_000_000)
            });
            let mut info = zeroed::<siginfo_t>();
            gives!(SIGUSR1, sigtimedwait(&set, &mut info, &millis(10_000)));
            let missed = ok!(timer_getoverrun(id));
            ensure!(
                missed >= 20,
                "30 ms at 1 ms: expected at least 20 overruns, got {missed}"
            );
            ok!(timer_delete(id));
            Ok(())
        },
    ),
    Case::new(
        "timer.gettime",
        "timer_gettime(2)",
        "the remaining time and the interval",
        || {
            let id = timer(CLOCK_MONOTONIC, SIGUSR1, 0)?;
            let mut seen = zeroed::<itimerspec>();
            ok!(timer_gettime(id, &mut seen));
            eq("disarmed", ns(seen.it_value), 0)?;
            ok!(timer_settime(id, 0, &spec(100_000, 5_000), null_mut()));
            ok!(timer_gettime(id, &mut seen));
            let left = ns(seen.it_value);
            ensure!(
                left > 90_000_000_000 && left <= 100_000_000_000,
                "remaining {left} ns"
            );
            eq("interval", ns(seen.it_interval), 5_000_000_000)
        },
    ),
    Case::new(
        "timer.none",
        "timer_create(2)",
        "SIGEV_NONE: no signal, but the time runs",
        || {
            let mut event = zeroed::<sigevent>();
            event.sigev_notify = SIGEV_NONE;
            let mut id = zeroed::<timer_t>();
            ok!(timer_create(CLOCK_MONOTONIC, &mut event, &mut id));
            ok!(timer_settime(id, 0, &spec(5, 0), null_mut()));
            let mut seen = spec(1, 0);
            while ns(seen.it_value) != 0 {
                ok!(timer_gettime(id, &mut seen));
            }
            Ok(())
        },
    ),
    Case::new(
        "timer.thread_id",
        "timer_create(2)",
        "SIGEV_THREAD_ID signals that thread",
        || {
            let set = block(SIGUSR1)?;
            let mut event = zeroed::<sigevent>();
            event.sigev_notify = SIGEV_THREAD_ID;
            event.sigev_signo = SIGUSR1;
            event.sigev_notify_thread_id = raw!(gettid());
            let mut id = zeroed::<timer_t>();
            ok!(timer_create(CLOCK_MONOTONIC, &mut event, &mut id));
            ok!(timer_settime(id, 0, &spec(1, 0), null_mut()));
            gives!(SIGUSR1, sigtimedwait(&set, null_mut(), &millis(10_000)));
            event.sigev_notify_thread_id = 1 << 22;
            err!(EINVAL, timer_create(CLOCK_MONOTONIC, &mut event, &mut id));
            Ok(())
        },
    ),
    Case::new(
        "timer.errors",
        "timer_create(2)",
        "EINVAL for clocks, signals, ids and values",
        || {
            let mut id = zeroed::<timer_t>();
            err!(EINVAL, timer_create(99, null_mut(), &mut id));
            let mut event = zeroed::<sigevent>();
            event.sigev_notify = SIGEV_SIGNAL;
            event.sigev_signo = 99;
            err!(EINVAL, timer_create(CLOCK_MONOTONIC, &mut event, &mut id));
            err!(EINVAL, syscall(SYS_timer_delete, 12345));
            err!(EINVAL, syscall(SYS_timer_getoverrun, 12345));
            let id = timer(CLOCK_MONOTONIC, SIGUSR1, 0)?;
            let mut bad = spec(1, 0);
            bad.it_value.tv_nsec = -1;
            err!(EINVAL, timer_settime(id, 0, &bad, null_mut()));
            Ok(())
        },
    ),
    Case::new(
        "timer.not_inherited",
        "fork(2)",
        "POSIX timers are not inherited",
        || {
            let mut id: c_int = 0;
            ok!(syscall(
                SYS_timer_create,
                CLOCK_MONOTONIC,
                null::<u8>(),
                &raw mut id
            ));
            in_child(|| {
                err!(EINVAL, syscall(SYS_timer_delete, id));
                Ok(())
            })?;
            ok!(syscall(SYS_timer_delete, id));
            Ok(())
        },
    ),
];

fn gives_unsigned(seen: u32, want: u32) -> Outcome {
    eq("seconds left", seen, want)
}
