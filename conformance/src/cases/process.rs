//! fork(2), vfork(2), clone(2), execve(2), wait(2), exit(2), process groups and sessions.

use crate::case::*;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::ptr::{null, null_mut};

/// This program, for cases that execute it as a helper.
fn me() -> Outcome<CString> {
    match std::env::current_exe() {
        Ok(path) => Ok(cstring(path.as_os_str().as_bytes())),
        Err(e) => fail!("/proc/self/exe: {e}"),
    }
}

/// Replaces the calling process by a helper; only returns on failure.
fn exec_helper(words: &[&str]) -> i32 {
    let Ok(path) = me() else { return 90 };
    let words: Vec<CString> = ["cases", "helper"]
        .iter()
        .chain(words)
        .map(|word| cstring(*word))
        .collect();
    let mut argv: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(null());
    raw!(execv(path.as_ptr(), argv.as_ptr()));
    91
}

/// Runs `prepare` and then the helper in a child; the helper's answer is its exit status.
fn helper_says<T>(want: i32, words: &[&str], prepare: impl FnOnce() -> T) -> Outcome {
    let pid = child(|| {
        prepare();
        exec_helper(words)
    })?;
    let status = wait_for(pid)?;
    let seen = WIFEXITED(status) && WEXITSTATUS(status) == want;
    ensure!(
        seen,
        "helper {words:?}: expected exit {want}, got {}",
        status_text(status)
    );
    Ok(())
}

/// An executable file with this content.
fn script(path: &std::ffi::CStr, content: &[u8]) -> Outcome {
    let fd = put(path, content)?;
    ok!(close(fd));
    ok!(chmod(p(path), 0o755));
    Ok(())
}

fn exec_fails(path: &std::ffi::CStr, want: i32) -> Outcome {
    let argv = [p(path), null()];
    let call = format!("execv({path:?})");
    failed_with(&call, raw!(execv(p(path), argv.as_ptr())), &[want])
}

fn waitid_now(pid: pid_t, options: c_int) -> Outcome<siginfo_t> {
    let mut info = zeroed::<siginfo_t>();
    ok!(waitid(P_PID, pid as id_t, &mut info, options));
    Ok(info)
}

fn sleeper() -> Outcome<pid_t> {
    child(|| {
        loop {
            raw!(pause());
        }
    })
}

fn finish(pid: pid_t) -> Outcome {
    ok!(kill(pid, SIGKILL));
    expect_signal(pid, SIGKILL)
}

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
        "exec.arguments",
        "execve(2)",
        "arguments and environment arrive",
        || {
            helper_says(4, &["arguments", "", "b", "c c"], || {})?;
            helper_says(0, &["variable-is", "CONFORMANCE", "a=b"], || {
                raw!(clearenv());
                raw!(setenv(p(c"CONFORMANCE"), p(c"a=b"), 1));
            })?;
            helper_says(0, &["environment"], || raw!(clearenv()))
        },
    ),
    Case::new(
        "exec.keeps_pid",
        "execve(2)",
        "the process id stays",
        || {
            let pid = child(|| exec_helper(&["pid-is", &getpid_now().to_string()]))?;
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "exec.cloexec",
        "execve(2)",
        "close-on-exec descriptors close, others stay",
        || {
            let fd = put(c"f", b"")?;
            let number = fd.to_string();
            helper_says(1, &["fd-open", &number], || {})?;
            helper_says(0, &["fd-open", &number], || raw!(fcntl(fd, F_SETFD, 0)))
        },
    ),
    Case::new(
        "exec.signals",
        "execve(2)",
        "handlers are reset, ignored signals stay ignored",
        || {
            let usr1 = SIGUSR1.to_string();
            helper_says(0, &["signal-default", &usr1], || catch(SIGUSR1, 0))?;
            helper_says(0, &["signal-ignored", &usr1], || {
                raw!(signal(SIGUSR1, SIG_IGN))
            })
        },
    ),
    Case::new(
        "exec.mask_and_pending",
        "execve(2)",
        "signal mask and pending signals are kept",
        || {
            let usr1 = SIGUSR1.to_string();
            let block = || {
                let mut set = zeroed::<sigset_t>();
                raw!(sigemptyset(&mut set));
                raw!(sigaddset(&mut set, SIGUSR1));
                raw!(sigprocmask(SIG_BLOCK, &set, null_mut()));
                raw!(kill(getpid_now(), SIGUSR1));
            };
            helper_says(0, &["signal-blocked", &usr1], block)?;
            helper_says(0, &["signal-pending", &usr1], block)
        },
    ),
    Case::new(
        "exec.altstack_dropped",
        "execve(2)",
        "an alternate signal stack is not kept",
        || {
            helper_says(1, &["altstack-size-is", "81920"], || {
                if let Ok(at) = map_anon(81920) {
                    let stack = stack_t {
                        ss_sp: at.cast(),
                        ss_flags: 0,
                        ss_size: 81920,
                    };
                    raw!(sigaltstack(&stack, null_mut()));
                }
            })
        },
    ),
    Case::new(
        "exec.alarm_and_umask_kept",
        "execve(2)",
        "a pending alarm and the umask are kept",
        || {
            helper_says(0, &["alarm-pending"], || raw!(alarm(100)))?;
            helper_says(0, &["umask-is", &0o035.to_string()], || raw!(umask(0o035)))
        },
    ),
    Case::new(
        "exec.comm",
        "execve(2)",
        "the thread name becomes the file's base name",
        || {
            ok!(symlink(me()?.as_ptr(), p(c"renamed")));
            let pid = child(|| {
                let words = [
                    c"x".as_ptr(),
                    c"helper".as_ptr(),
                    c"comm-is".as_ptr(),
                    c"renamed".as_ptr(),
                    null(),
                ];
                raw!(execv(p(c"renamed"), words.as_ptr()));
                91
            })?;
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "exec.auxv",
        "getauxval(3)",
        "page size, program headers, random bytes, no AT_SECURE",
        || {
            helper_says(0, &["auxv-page-size"], || {})?;
            helper_says(0, &["auxv-random"], || {})?;
            helper_says(0, &["auxv-phdr"], || {})?;
            helper_says(0, &["auxv-secure"], || {})?;
            let path = me()?.to_string_lossy().into_owned();
            helper_says(0, &["auxv-execfn-is", &path], || {})
        },
    ),
    Case::new(
        "exec.errors",
        "execve(2)",
        "ENOENT, EACCES, ENOTDIR, EFAULT",
        || {
            exec_fails(c"missing", ENOENT)?;
            exec_fails(c"", ENOENT)?;
            ok!(close(put(c"plain", b"#!/bin/sh\n")?));
            exec_fails(c"plain", EACCES)?;
            mkdir_at(c"d")?;
            exec_fails(c"d", EACCES)?;
            exec_fails(c"plain/x", ENOTDIR)?;
            err!(
                EFAULT,
                execv(bad_ptr::<c_char>(), [null(), null()].as_ptr())
            );
            let path = me()?;
            err!(EFAULT, execv(path.as_ptr(), bad_ptr::<*const c_char>()));
            Ok(())
        },
    ),
    Case::new(
        "exec.enoexec",
        "execve(2)",
        "an unknown or empty format gives ENOEXEC",
        || {
            script(c"text", b"just text, no program\n")?;
            exec_fails(c"text", ENOEXEC)?;
            script(c"empty", b"")?;
            exec_fails(c"empty", ENOEXEC)?;
            script(c"short", b"\x7fELF")?;
            exec_fails(c"short", ENOEXEC)
        },
    ),
    Case::new(
        "exec.foreign_elf",
        "execve(2)",
        "an ELF file of another machine gives ENOEXEC",
        || {
            let mut header = vec![0u8; 64];
            header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
            header[16] = 2;
            header[18] = 0xf7; // EM_BPF: nobody runs that
            script(c"bpf", &header)?;
            exec_fails(c"bpf", ENOEXEC)
        },
    ),
    Case::new(
        "exec.e2big",
        "execve(2)",
        "one string above 128 KiB gives E2BIG",
        || {
            let path = me()?;
            let long = cstring(vec![b'x'; 131072]);
            let argv = [p(c"cases"), long.as_ptr(), null()];
            err!(E2BIG, execv(path.as_ptr(), argv.as_ptr()));
            let fits = "x".repeat(131071 - 8);
            helper_says(2, &["arguments", &fits], || {})
        },
    ),
    Case::new(
        "exec.e2big_total",
        "execve(2)",
        "more than a quarter of RLIMIT_STACK gives E2BIG",
        || {
            let limit = rlimit {
                rlim_cur: 1 << 20,
                rlim_max: RLIM_INFINITY,
            };
            raw!(setrlimit(RLIMIT_STACK, &limit));
            let path = me()?;
            let word = cstring(vec![b'x'; 10000]);
            let mut argv = vec![word.as_ptr(); 40];
            argv.push(null());
            err!(E2BIG, execv(path.as_ptr(), argv.as_ptr()));
            Ok(())
        },
    ),
    Case::new(
        "exec.script",
        "execve(2)",
        "#! runs the interpreter with its one argument",
        || {
            let path = me()?.to_string_lossy().into_owned();
            script(c"s", format!("#! {path}  helper  \n").as_bytes())?;
            // The interpreter sees: interpreter, "helper", "s" (our "arguments"), ...
            ok!(link(p(c"s"), p(c"arguments")));
            let pid = child(|| {
                let argv = [p(c"zero"), p(c"one"), p(c"two"), null()];
                raw!(execv(p(c"arguments"), argv.as_ptr()));
                91
            })?;
            expect_exit(pid, 3)
        },
    ),
    Case::new(
        "exec.script_errors",
        "execve(2)",
        "a missing interpreter gives ENOENT",
        || {
            script(c"s", b"#!/does/not/exist\n")?;
            exec_fails(c"s", ENOENT)?;
            script(c"empty", b"#!\n")?;
            exec_fails(c"empty", ENOEXEC)
        },
    ),
    Case::new(
        "exec.script_depth",
        "execve(2)",
        "scripts run scripts, but not for ever: ELOOP",
        || {
            let mut cwd = [0 as c_char; 4096];
            ensure!(
                !raw!(getcwd(cwd.as_mut_ptr(), 4096)).is_null(),
                "getcwd failed"
            );
            let cwd = unsafe { std::ffi::CStr::from_ptr(cwd.as_ptr()) }
                .to_string_lossy()
                .into_owned();
            script(c"s", format!("#!{cwd}/s\n").as_bytes())?;
            exec_fails(c"s", ELOOP)
        },
    ),
    Case::new(
        "exec.fexecve",
        "execveat(2)",
        "AT_EMPTY_PATH executes a descriptor",
        || {
            let path = me()?;
            let fd = ok!(open(path.as_ptr(), O_PATH | O_CLOEXEC));
            let pid = child(|| {
                let argv = [p(c"x"), p(c"helper"), p(c"exit"), p(c"12"), null()];
                let env = [null::<c_char>()];
                raw!(syscall(
                    SYS_execveat,
                    fd,
                    p(c""),
                    argv.as_ptr(),
                    env.as_ptr(),
                    AT_EMPTY_PATH
                ));
                91
            })?;
            expect_exit(pid, 12)
        },
    ),
    Case::new(
        "exec.setuid_cleared_by_nnp",
        "prctl(2)",
        "no_new_privs survives execve",
        || {
            helper_says(0, &["no-new-privs"], || {
                raw!(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            })?;
            helper_says(1, &["no-new-privs"], || {})
        },
    ),
    Case::new(
        "exec.set_user_id",
        "execve(2)",
        "a set-user-ID program runs as its owner, AT_SECURE",
        || {
            need_cap(7, "CAP_SETUID")?;
            let copied = std::fs::copy("/proc/self/exe", "suid");
            ensure!(copied.is_ok(), "copying this program: {copied:?}");
            ok!(chown(p(c"suid"), 1234, u32::MAX));
            ok!(chmod(p(c"suid"), 0o4755));
            let mut vfs = zeroed::<statvfs>();
            ok!(statvfs(p(c"."), &mut vfs));
            if vfs.f_flag & ST_NOSUID != 0 || raw!(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)) == 1 {
                skip!("set-user-ID has no effect here");
            }
            let pid = child(|| {
                let argv = [p(c"x"), p(c"helper"), p(c"auxv-secure"), null()];
                raw!(execv(p(c"suid"), argv.as_ptr()));
                91
            })?;
            expect_exit(pid, 1)
        },
    ),
    Case::new(
        "exec.threads_die",
        "execve(2)",
        "other threads are gone after execve",
        || {
            let pid = child(|| {
                for _ in 0..3 {
                    std::thread::spawn(|| {
                        loop {
                            raw!(pause());
                        }
                    });
                }
                exec_helper(&["exit", "5"])
            })?;
            expect_exit(pid, 5)
        },
    ),
    Case::new(
        "exec.from_thread",
        "execve(2)",
        "execve in a thread keeps the process's id",
        || {
            let pid = child(|| {
                let me = getpid_now().to_string();
                let thread = std::thread::spawn(move || exec_helper(&["pid-is", &me]));
                thread.join().unwrap_or(92)
            })?;
            expect_exit(pid, 0)
        },
    ),
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
