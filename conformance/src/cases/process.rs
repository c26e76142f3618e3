//! fork(2), vfork(2), clone(2), clone3(2) and threads.

use crate::case::*;
use std::ptr::null_mut;

pub static CASES: &[Case] = &[
    Case::new(
        "fork.ids",
        "fork(2)",
        "the child has a new pid and the parent's as its ppid",
        || {
            let parent = getpid_now();
            let at = map_shared(4096)?.cast::<pid_t>();
            let pid = child(|| {
                unsafe { at.write_volatile(getpid_now()) };
                i32::from(raw!(getppid()) != parent)
            })?;
            expect_exit(pid, 0)?;
            eq("getpid in the child", unsafe { at.read_volatile() }, pid)?;
            ensure!(pid != parent, "child and parent share pid {pid}");
            Ok(())
        },
    ),
    Case::new(
        "fork.shares_offset",
        "fork(2)",
        "parent and child share file offsets",
        || {
            let fd = put(c"f", b"abcdef")?;
            let pid = child(|| raw!(lseek(fd, 4, SEEK_SET)) as i32)?;
            expect_exit(pid, 4)?;
            gives!(4, lseek(fd, 0, SEEK_CUR));
            Ok(())
        },
    ),
    Case::new(
        "fork.own_descriptors",
        "fork(2)",
        "a close in the child is the child's own",
        || {
            let fd = put(c"f", b"abc")?;
            let pid = child(|| raw!(close(fd)))?;
            expect_exit(pid, 0)?;
            eq("bytes", read_some(fd, 3)?.len(), 3)
        },
    ),
    Case::new(
        "fork.alarm_not_inherited",
        "fork(2)",
        "the child has no pending alarm",
        || {
            raw!(alarm(100));
            let pid = child(|| raw!(alarm(0)) as i32)?;
            expect_exit(pid, 0)?;
            ensure!(raw!(alarm(0)) > 0, "the parent's alarm is gone");
            Ok(())
        },
    ),
    Case::new(
        "fork.rlimit_nproc",
        "fork(2)",
        "beyond RLIMIT_NPROC gives EAGAIN",
        || {
            as_user(|| {
                let limit = rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                ok!(setrlimit(RLIMIT_NPROC, &limit));
                err!(EAGAIN, fork());
                Ok(())
            })
        },
    ),
    Case::new(
        "fork.orphan_reparented",
        "prctl(2)",
        "an orphan goes to the nearest subreaper",
        || {
            ok!(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
            let (r, w) = pipe_pair()?;
            let me = getpid_now();
            let (hold_r, hold_w) = pipe_pair()?;
            let middle = child(|| {
                let inner = raw!(fork());
                if inner == 0 {
                    raw!(close(hold_w));
                    let mut b = 0u8;
                    raw!(read(hold_r, (&raw mut b).cast(), 1));
                    let parent = raw!(getppid());
                    raw!(write(w, (&raw const parent).cast(), 4));
                    raw!(_exit(9));
                }
                0
            })?;
            expect_exit(middle, 0)?;
            ok!(close(hold_w));
            let mut parent: pid_t = 0;
            gives!(4, read(r, (&raw mut parent).cast(), 4));
            eq("getppid of the orphan", parent, me)?;
            let mut status = 0;
            ok!(waitpid(-1, &mut status, 0));
            eq("its exit status", WEXITSTATUS(status), 9)
        },
    ),
    Case::new(
        "vfork.parent_waits",
        "vfork(2)",
        "the parent runs after the child's exit, memory shared",
        || {
            // clone with the flags of vfork: a Rust function must not return from vfork twice.
            extern "C" fn body(at: *mut c_void) -> c_int {
                unsafe { at.cast::<c_int>().write_volatile(77) };
                0
            }
            let mut value: c_int = 0;
            let stack = map_anon(65536)?.wrapping_add(65536);
            let flags = CLONE_VM | CLONE_VFORK | SIGCHLD;
            let pid = ok!(clone(body, stack.cast(), flags, (&raw mut value).cast()));
            eq(
                "value on return",
                unsafe { (&raw const value).read_volatile() },
                77,
            )?;
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "clone.einval",
        "clone(2)",
        "contradicting flags give EINVAL",
        || {
            let stack = map_anon(4096)?;
            for flags in [
                CLONE_SIGHAND,
                CLONE_THREAD,
                CLONE_THREAD | CLONE_SIGHAND,
                CLONE_FS | CLONE_NEWNS,
                CLONE_PIDFD | CLONE_PARENT_SETTID,
            ] {
                let got = raw!(syscall(SYS_clone, flags, stack, 0, 0, 0));
                if got == 0 {
                    raw!(_exit(0));
                }
                failed_with(&format!("clone({flags:#x})"), got, &[EINVAL])?;
            }
            Ok(())
        },
    ),
    Case::new(
        "clone.clone3",
        "clone3(2)",
        "clone3 forks, reports tid and pidfd",
        || {
            let (mut tid, mut pidfd): (pid_t, c_int) = (0, -1);
            let args: [u64; 11] = [
                (CLONE_PIDFD | CLONE_PARENT_SETTID) as u64,
                (&raw mut pidfd) as u64,
                0,
                (&raw mut tid) as u64,
                SIGCHLD as u64,
                0,
                0,
                0,
                0,
                0,
                0,
            ];
            let pid = ok!(syscall(SYS_clone3, args.as_ptr(), 88usize)) as pid_t;
            if pid == 0 {
                raw!(_exit(6));
            }
            eq(
                "parent_tid",
                unsafe { (&raw const tid).read_volatile() },
                pid,
            )?;
            let pidfd = unsafe { (&raw const pidfd).read_volatile() };
            gives!(FD_CLOEXEC, fcntl(pidfd, F_GETFD));
            expect_exit(pid, 6)
        },
    ),
    Case::new(
        "clone.clone3_errors",
        "clone3(2)",
        "EINVAL for size, unknown flags and a bad exit signal",
        || {
            let mut args = [0u64; 11];
            err!(EINVAL, syscall(SYS_clone3, args.as_ptr(), 8usize));
            args[0] = 1 << 40;
            err!(EINVAL, syscall(SYS_clone3, args.as_ptr(), 88usize));
            args[0] = 0;
            args[4] = 0x200;
            err!(EINVAL, syscall(SYS_clone3, args.as_ptr(), 88usize));
            err!(EFAULT, syscall(SYS_clone3, bad_ptr::<u8>(), 88usize));
            Ok(())
        },
    ),
    Case::new(
        "clone.pidfd_errors",
        "clone3(2)",
        "without a place or a number for the pidfd there is no child",
        || {
            let mut pidfd: c_int = 7;
            let mut args = [0u64; 11];
            args[0] = CLONE_PIDFD as u64;
            args[1] = bad_ptr::<c_int>() as u64;
            args[4] = SIGCHLD as u64;
            err!(EFAULT, syscall(SYS_clone3, args.as_ptr(), 88usize));
            err!(ECHILD, waitpid(-1, std::ptr::null_mut(), 0));
            let limit = rlimit {
                rlim_cur: 0,
                rlim_max: 1024,
            };
            ok!(setrlimit(RLIMIT_NOFILE, &limit));
            args[1] = (&raw mut pidfd) as u64;
            err!(EMFILE, syscall(SYS_clone3, args.as_ptr(), 88usize));
            err!(ECHILD, waitpid(-1, std::ptr::null_mut(), 0));
            Ok(())
        },
    ),
    Case::new(
        "clone.files_shared",
        "clone(2)",
        "CLONE_FILES shares the descriptor table",
        || {
            let fd = put(c"f", b"")?;
            let got = ok!(syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0)) as pid_t;
            if got == 0 {
                raw!(close(fd));
                raw!(_exit(0));
            }
            expect_exit(got, 0)?;
            err!(EBADF, fcntl(fd, F_GETFD));
            Ok(())
        },
    ),
    Case::new(
        "clone.fs_shared",
        "clone(2)",
        "CLONE_FS shares working directory and umask",
        || {
            mkdir_at(c"d")?;
            put(c"d/f", b"")?;
            let got = ok!(syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0)) as pid_t;
            if got == 0 {
                raw!(chdir(p(c"d")));
                raw!(umask(0o031));
                raw!(_exit(0));
            }
            expect_exit(got, 0)?;
            ok!(access(p(c"f"), F_OK));
            eq_octal("umask", raw!(umask(0)), 0o031)
        },
    ),
    Case::new(
        "clone.parent",
        "clone(2)",
        "CLONE_PARENT makes a sibling",
        || {
            let grandparent = getpid_now();
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                let got = raw!(syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0));
                if got == 0 {
                    let parent = raw!(getppid());
                    raw!(write(w, (&raw const parent).cast(), 4));
                    raw!(_exit(3));
                }
                i32::from(got < 0)
            })?;
            let mut parent: pid_t = 0;
            ok!(close(w));
            expect_exit(pid, 0)?;
            gives!(4, read(r, (&raw mut parent).cast(), 4));
            eq("getppid of the clone", parent, grandparent)?;
            let mut status = 0;
            ok!(waitpid(-1, &mut status, 0));
            eq("its status", WEXITSTATUS(status), 3)
        },
    ),
    Case::new(
        "thread.ids",
        "gettid(2)",
        "threads share the pid and differ in tid",
        || {
            eq("main thread", raw!(gettid()), getpid_now())?;
            let ids = std::thread::spawn(|| (getpid_now(), raw!(gettid()))).join();
            let Ok((pid, tid)) = ids else {
                fail!("the thread panicked")
            };
            eq("pid", pid, getpid_now())?;
            ensure!(tid != pid, "the thread has the process's id as its tid");
            Ok(())
        },
    ),
    Case::new(
        "thread.proc_task",
        "proc_pid_task(5)",
        "/proc/self/task has an entry for each thread",
        || {
            let (r, w) = pipe_pair()?;
            let thread = std::thread::spawn(move || {
                let mut b = 0u8;
                raw!(read(r, (&raw mut b).cast(), 1))
            });
            let count = std::fs::read_dir("/proc/self/task")
                .map(|d| d.count())
                .unwrap_or(0);
            ok!(close(w));
            let _ = thread.join();
            eq("entries", count, 2)
        },
    ),
    Case::new(
        "thread.shared_umask_and_cwd",
        "pthreads(7)",
        "threads share working directory and umask",
        || {
            mkdir_at(c"d")?;
            put(c"d/f", b"")?;
            let _ = std::thread::spawn(|| {
                raw!(chdir(p(c"d")));
                raw!(umask(0o017))
            })
            .join();
            ok!(access(p(c"f"), F_OK));
            eq_octal("umask", raw!(umask(0)), 0o017)
        },
    ),
    Case::new(
        "thread.many",
        "clone(2)",
        "64 threads run and are joined",
        || {
            let threads: Vec<_> = (0..64u64)
                .map(|i| std::thread::spawn(move || i * i))
                .collect();
            let sum: u64 = threads.into_iter().map(|t| t.join().unwrap_or(0)).sum();
            eq("sum", sum, (0..64).map(|i| i * i).sum())
        },
    ),
    Case::new(
        "thread.set_tid_address",
        "set_tid_address(2)",
        "it returns the caller's tid",
        || {
            let mut word = 0u32;
            in_child(|| {
                gives!(
                    raw!(gettid()) as c_long,
                    syscall(SYS_set_tid_address, &raw mut word)
                );
                Ok(())
            })
        },
    ),
    Case::new(
        "thread.directed_signal",
        "tgkill(2)",
        "tgkill reaches that very thread",
        || {
            static SEEN: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);
            extern "C" fn look(_: c_int) {
                SEEN.store(raw!(gettid()), std::sync::atomic::Ordering::SeqCst);
            }
            let mut action = zeroed::<sigaction>();
            action.sa_sigaction = look as extern "C" fn(c_int) as usize;
            ok!(sigaction(SIGUSR1, &action, null_mut()));
            let (send, receive) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                let _ = send.send(raw!(gettid()));
                while SEEN.load(std::sync::atomic::Ordering::SeqCst) == 0 {
                    raw!(sched_yield());
                }
            });
            let Ok(tid) = receive.recv() else {
                fail!("the thread is gone")
            };
            ok!(syscall(SYS_tgkill, getpid_now(), tid, SIGUSR1));
            let _ = thread.join();
            eq(
                "thread of the handler",
                SEEN.load(std::sync::atomic::Ordering::SeqCst),
                tid,
            )
        },
    ),
];
