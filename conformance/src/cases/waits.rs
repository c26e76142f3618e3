//! wait(2), waitid(2), exit(2), process groups and sessions.

use crate::case::*;
use crate::helper::exec_helper;
use std::ptr::null_mut;

fn waitid_now(pid: pid_t, options: c_int) -> Outcome<siginfo_t> {
    let mut info = zeroed::<siginfo_t>();
    ok!(waitid(P_PID, pid as id_t, &mut info, options));
    Ok(info)
}

pub static CASES: &[Case] = &[
    Case::new(
        "wait.status",
        "wait(2)",
        "exit status and signal number are told apart",
        || {
            expect_exit(child(|| 0)?, 0)?;
            expect_exit(child(|| 255)?, 255)?;
            expect_exit(child(|| 256 + 7)?, 7)?;
            expect_signal(child(|| raw!(raise(SIGKILL)))?, SIGKILL)
        },
    ),
    Case::new(
        "wait.echild",
        "wait(2)",
        "no child, or not ours: ECHILD",
        || {
            err!(ECHILD, waitpid(-1, null_mut(), 0));
            err!(ECHILD, waitpid(1, null_mut(), WNOHANG));
            err!(ECHILD, waitpid(getpid_now(), null_mut(), 0));
            let pid = child(|| 0)?;
            expect_exit(pid, 0)?;
            err!(ECHILD, waitpid(pid, null_mut(), 0));
            Ok(())
        },
    ),
    Case::new(
        "wait.wnohang",
        "wait(2)",
        "WNOHANG returns 0 while the child runs",
        || {
            let pid = sleeper()?;
            gives!(0, waitpid(pid, null_mut(), WNOHANG));
            gives!(0, waitpid(-1, null_mut(), WNOHANG));
            finish(pid)
        },
    ),
    Case::new(
        "wait.errors",
        "wait(2)",
        "EINVAL for options and for id types, EFAULT",
        || {
            err!(EINVAL, waitpid(-1, null_mut(), 1 << 25));
            let mut info = zeroed::<siginfo_t>();
            err!(EINVAL, waitid(P_PID, 1, &mut info, 0));
            err!(EINVAL, waitid(99, 1, &mut info, WEXITED));
            err!(EINVAL, waitid(P_PID, 0, &mut info, WEXITED));
            err!(ECHILD, waitid(P_ALL, 0, &mut info, WEXITED | WNOHANG));
            err!(ESRCH, waitpid(i32::MIN, null_mut(), 0));
            Ok(())
        },
    ),
    Case::new(
        "wait.eintr",
        "wait(2)",
        "a handler interrupts wait with EINTR",
        || {
            catch(SIGALRM, 0)?;
            tick(10)?;
            let pid = sleeper()?;
            err!(EINTR, waitpid(pid, null_mut(), 0));
            Ok(())
        },
    ),
    Case::new(
        "wait.waitid_info",
        "waitid(2)",
        "waitid fills siginfo; WNOWAIT leaves the child",
        || {
            let pid = child(|| 9)?;
            for options in [WEXITED | WNOWAIT, WEXITED] {
                let info = waitid_now(pid, options)?;
                let seen =
                    unsafe { (info.si_signo, info.si_code, info.si_pid(), info.si_status()) };
                eq(
                    "signo, code, pid, status",
                    seen,
                    (SIGCHLD, CLD_EXITED, pid, 9),
                )?;
            }
            err!(ECHILD, waitpid(pid, null_mut(), 0));
            Ok(())
        },
    ),
    Case::new(
        "wait.waitid_nohang",
        "waitid(2)",
        "WNOHANG with nothing to report leaves si_pid 0",
        || {
            let pid = sleeper()?;
            let info = waitid_now(pid, WEXITED | WNOHANG)?;
            eq("si_pid", unsafe { info.si_pid() }, 0)?;
            finish(pid)
        },
    ),
    Case::new(
        "wait.waitid_stopped",
        "waitid(2)",
        "WSTOPPED and WCONTINUED with their codes",
        || {
            let pid = sleeper()?;
            ok!(kill(pid, SIGSTOP));
            let info = waitid_now(pid, WSTOPPED)?;
            eq(
                "code, status",
                (info.si_code, unsafe { info.si_status() }),
                (CLD_STOPPED, SIGSTOP),
            )?;
            ok!(kill(pid, SIGCONT));
            let info = waitid_now(pid, WCONTINUED)?;
            eq(
                "code, status",
                (info.si_code, unsafe { info.si_status() }),
                (CLD_CONTINUED, SIGCONT),
            )?;
            finish(pid)
        },
    ),
    Case::new(
        "wait.pidfd",
        "waitid(2)",
        "P_PIDFD waits for the process of a pidfd",
        || {
            let pid = child(|| 4)?;
            let fd = ok!(syscall(SYS_pidfd_open, pid, 0));
            let mut info = zeroed::<siginfo_t>();
            ok!(waitid(P_PIDFD, fd as id_t, &mut info, WEXITED));
            eq(
                "pid, status",
                unsafe { (info.si_pid(), info.si_status()) },
                (pid, 4),
            )?;
            err!(EBADF, waitid(P_PIDFD, 999, &mut info, WEXITED));
            Ok(())
        },
    ),
    Case::new(
        "wait.process_group",
        "wait(2)",
        "a negative pid waits for a process group",
        || {
            let other = sleeper()?;
            let pid = child(|| {
                raw!(setpgid(0, 0));
                6
            })?;
            waitid_now(pid, WEXITED | WNOWAIT)?;
            let mut status = 0;
            gives!(pid, waitpid(-pid, &mut status, 0));
            eq("status", WEXITSTATUS(status), 6)?;
            err!(ECHILD, waitpid(-pid, &mut status, 0));
            finish(other)
        },
    ),
    Case::new(
        "wait.rusage",
        "wait4(2)",
        "wait4 reports the child's use of resources",
        || {
            let pid = child(|| {
                let mut used = zeroed::<rusage>();
                while used.ru_utime.tv_sec == 0 && used.ru_utime.tv_usec < 20_000 {
                    for i in 0..10_000u64 {
                        std::hint::black_box(i * i);
                    }
                    raw!(getrusage(RUSAGE_SELF, &mut used));
                }
                0
            })?;
            let mut used = zeroed::<rusage>();
            gives!(pid, wait4(pid, null_mut(), 0, &mut used));
            let us = used.ru_utime.tv_sec * 1_000_000 + used.ru_utime.tv_usec;
            ensure!(us >= 20_000, "user time {us} µs, expected at least 20000");
            ok!(getrusage(RUSAGE_CHILDREN, &mut used));
            let us = used.ru_utime.tv_sec * 1_000_000 + used.ru_utime.tv_usec;
            ensure!(
                us >= 20_000,
                "RUSAGE_CHILDREN user time {us} µs, expected at least 20000"
            );
            err!(EINVAL, getrusage(99, &mut used));
            Ok(())
        },
    ),
    Case::new(
        "exit.group",
        "exit_group(2)",
        "exit_group ends all threads",
        || {
            let pid = child(|| {
                std::thread::spawn(|| raw!(syscall(SYS_exit_group, 8)));
                loop {
                    raw!(pause());
                }
            })?;
            expect_exit(pid, 8)
        },
    ),
    Case::new(
        "exit.main_thread_first",
        "exit(2)",
        "the process lives on while a thread does",
        || {
            let pid = child(|| {
                let leader = getpid_now();
                std::thread::spawn(move || {
                    // The leader is a zombie now, the process is not over.
                    let path = format!("/proc/{leader}/task/{leader}/stat");
                    loop {
                        let stat = std::fs::read_to_string(&path).unwrap_or_default();
                        if stat.contains(") Z ") {
                            raw!(_exit(21));
                        }
                        raw!(sched_yield());
                    }
                });
                raw!(syscall(SYS_exit, 1)) as i32
            })?;
            expect_exit(pid, 21)
        },
    ),
    Case::new(
        "exit.fatal_signal_threads",
        "signal(7)",
        "a fatal signal in one thread ends all",
        || {
            let pid = child(|| {
                std::thread::spawn(|| raw!(raise(SIGUSR1)));
                loop {
                    raw!(pause());
                }
            })?;
            expect_signal(pid, SIGUSR1)
        },
    ),
    Case::new(
        "exit.zombie_proc",
        "proc_pid_stat(5)",
        "a zombie is in state Z until it is waited for",
        || {
            let pid = child(|| 0)?;
            waitid_now(pid, WEXITED | WNOWAIT)?;
            let stat = slurp(&format!("/proc/{pid}/stat"))?;
            ensure!(stat.contains(") Z "), "state in {stat:?}");
            expect_exit(pid, 0)?;
            let gone = std::fs::metadata(format!("/proc/{pid}"));
            ensure!(gone.is_err(), "/proc/{pid} is still there after wait");
            Ok(())
        },
    ),
    Case::new(
        "exit.pdeathsig",
        "prctl(2)",
        "PR_SET_PDEATHSIG comes when the parent ends",
        || {
            ok!(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
            let (r, w) = pipe_pair()?;
            let middle = child(|| {
                let inner = raw!(fork());
                if inner == 0 {
                    raw!(prctl(PR_SET_PDEATHSIG, SIGUSR2));
                    raw!(write(w, c"x".as_ptr().cast(), 1));
                    loop {
                        raw!(pause());
                    }
                }
                let mut b = 0u8;
                raw!(read(r, (&raw mut b).cast(), 1));
                0
            })?;
            expect_exit(middle, 0)?;
            let mut status = 0;
            ok!(waitpid(-1, &mut status, 0));
            ensure!(
                WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR2,
                "{}",
                status_text(status)
            );
            Ok(())
        },
    ),
    Case::new(
        "session.setsid",
        "setsid(2)",
        "setsid makes a session and a group; EPERM for a leader",
        || {
            in_child(|| {
                let pid = getpid_now();
                gives!(pid, setsid());
                gives!(pid, getsid(0));
                gives!(pid, getpgid(0));
                err!(EPERM, setsid());
                Ok(())
            })
        },
    ),
    Case::new(
        "session.setpgid",
        "setpgid(2)",
        "setpgid moves a child between groups",
        || {
            let pid = sleeper()?;
            gives!(raw!(getpgrp()), getpgid(pid));
            ok!(setpgid(pid, 0));
            gives!(pid, getpgid(pid));
            ok!(setpgid(pid, raw!(getpgrp())));
            gives!(raw!(getpgrp()), getpgid(pid));
            finish(pid)
        },
    ),
    Case::new(
        "session.setpgid_errors",
        "setpgid(2)",
        "EINVAL, ESRCH, EPERM and EACCES after exec",
        || {
            err!(EINVAL, setpgid(0, -1));
            err!(ESRCH, setpgid(1, 0));
            err!(EPERM, setpgid(0, 1 << 22));
            err!(ESRCH, getpgid(1 << 22));
            err!(ESRCH, getsid(1 << 22));
            // A child of ours that has called execve already.
            let (r, w) = pipe_pair()?;
            let (hold_r, hold_w) = pipe_pair()?;
            let pid = child(|| {
                raw!(dup2(hold_r, 0));
                exec_helper(&["wait"])
            })?;
            ok!(close(w));
            eq("bytes before exec", read_some(r, 1)?.len(), 0)?;
            err!(EACCES, setpgid(pid, 0));
            ok!(close(hold_w));
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "session.leader_setpgid",
        "setpgid(2)",
        "a session leader cannot change its group: EPERM",
        || {
            in_child(|| {
                ok!(setsid());
                err!(EPERM, setpgid(0, 0));
                Ok(())
            })
        },
    ),
];
