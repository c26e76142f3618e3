//! execve(2), execveat(2), scripts, the auxiliary vector, and what survives.

use crate::case::*;
use crate::helper::{exec_helper, own_path};
use std::ptr::{null, null_mut};

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

pub static CASES: &[Case] = &[
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
            ok!(symlink(own_path()?.as_ptr(), p(c"renamed")));
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
            let path = own_path()?.to_string_lossy().into_owned();
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
            let path = own_path()?;
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
            let path = own_path()?;
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
            let path = own_path()?;
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
            let path = own_path()?.to_string_lossy().into_owned();
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
            let path = own_path()?;
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
        "exec.no_new_privs",
        "prctl(2)",
        "no_new_privs survives execve",
        || {
            let was = raw!(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
            helper_says(1 - was, &["no-new-privs"], || {})?;
            helper_says(0, &["no-new-privs"], || {
                raw!(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            })
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
];
