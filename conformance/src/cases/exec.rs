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

const CHOWN: u32 = 1;
const NET_RAW: u32 = 1 << 13;

/// A copy of cat(1), of root's, that everybody may run and that may have capabilities.
fn capable_cat() -> Outcome<std::ffi::CString> {
    need_root()?;
    need_cap(31, "CAP_SETFCAP")?;
    open_dir(c"capable")?;
    let mut at = zeroed::<libc::statvfs>();
    ok!(statvfs(c"capable".as_ptr(), &mut at));
    if at.f_flag & ST_NOSUID != 0 {
        skip!("the scratch directory is mounted nosuid");
    }
    let content = std::fs::read("/bin/cat");
    let content = content.map_err(|e| Failure::Fail(format!("/bin/cat: {e}")))?;
    script(c"capable/cat", &content)?;
    Ok(c"capable/cat".to_owned())
}

/// Sets security.capability, version 2.
fn set_file_caps(path: &std::ffi::CStr, permitted: u32, effective: bool) -> c_int {
    let words = [0x0200_0000 | u32::from(effective), permitted, 0, 0, 0];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let name = c"security.capability".as_ptr();
    raw!(setxattr(
        p(path),
        name,
        value.as_ptr().cast(),
        value.len(),
        0
    ))
}

fn give_caps(path: &std::ffi::CStr, permitted: u32, effective: bool) -> Outcome {
    succeeded("setxattr", set_file_caps(path, permitted, effective)).map(drop)
}

/// CapPrm and CapEff of that cat(1), run as nobody after `prepare`; None: EPERM.
fn caps_of_cat(
    path: &std::ffi::CStr,
    prepare: impl FnOnce() -> c_int,
) -> Outcome<Option<(u32, u32)>> {
    let (from, to) = pipe_pair()?;
    let pid = child(|| {
        prepare();
        raw!(dup2(to, 1));
        raw!(close(from));
        raw!(setgroups(0, null()));
        raw!(setresgid(NOBODY, NOBODY, NOBODY));
        raw!(setresuid(NOBODY, NOBODY, NOBODY));
        let words = [p(path), c"/proc/self/status".as_ptr(), null()];
        raw!(execv(p(path), words.as_ptr()));
        i32::from(errno() != EPERM) + 90
    })?;
    ok!(close(to));
    let mut text = Vec::new();
    loop {
        match read_some(from, 4096)? {
            some if some.is_empty() => break,
            some => text.extend(some),
        }
    }
    ok!(close(from));
    let status = wait_for(pid)?;
    if WIFEXITED(status) && WEXITSTATUS(status) == 90 {
        return Ok(None);
    }
    eq("cat's status", status_text(status), status_text(0))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let set = |name: &str| {
        let set = field(&text, name)?;
        u32::from_str_radix(&set, 16).map_err(|e| Failure::Fail(format!("{name} {set:?}: {e}")))
    };
    Ok(Some((set("CapPrm")?, set("CapEff")?)))
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
    Case::new(
        "exec.file_capabilities",
        "capabilities(7)",
        "an ordinary user gains what the file has and the bounding set allows",
        || {
            let file = capable_cat()?;
            give_caps(&file, CHOWN | NET_RAW, true)?;
            let got = caps_of_cat(&file, || 0)?;
            eq(
                "CapPrm, CapEff",
                got,
                Some((CHOWN | NET_RAW, CHOWN | NET_RAW)),
            )?;
            // One that looks for itself.
            give_caps(&file, CHOWN | NET_RAW, false)?;
            eq(
                "not effective",
                caps_of_cat(&file, || 0)?,
                Some((CHOWN | NET_RAW, 0)),
            )?;
            let bound = || raw!(prctl(PR_CAPBSET_DROP, 0, 0, 0, 0));
            eq("bounded", caps_of_cat(&file, bound)?, Some((NET_RAW, 0)))?;
            give_caps(&file, CHOWN | NET_RAW, true)?;
            eq("EPERM", caps_of_cat(&file, bound)?, None)?;
            let no_more = || raw!(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
            eq("no_new_privs", caps_of_cat(&file, no_more)?, Some((0, 0)))
        },
    ),
    Case::new(
        "exec.file_capabilities_go",
        "capabilities(7)",
        "a file that is written, cut or given away has none any more",
        || {
            let file = capable_cat()?;
            let has = || {
                let mut value = [0u8; 24];
                let name = c"security.capability".as_ptr();
                raw!(getxattr(
                    p(&file),
                    name,
                    value.as_mut_ptr().cast(),
                    value.len()
                )) == 20
            };
            let give = || give_caps(&file, CHOWN, true);
            give()?;
            eq("there", has(), true)?;
            let fd = ok!(open(p(&file), O_WRONLY));
            write_all(fd, b"x")?;
            eq("after write", has(), false)?;
            give()?;
            ok!(ftruncate(fd, 100));
            eq("after ftruncate", has(), false)?;
            give()?;
            let cut = ok!(open(p(&file), O_WRONLY | O_TRUNC));
            ok!(close(cut));
            eq("after O_TRUNC", has(), false)?;
            give()?;
            ok!(chown(p(&file), 0, 0));
            eq("after chown", has(), false)
        },
    ),
    Case::new(
        "exec.file_capabilities_values",
        "capabilities(7)",
        "what is no set of capabilities is not stored, nor by who may not",
        || {
            let file = capable_cat()?;
            let name = c"security.capability".as_ptr();
            let set = |value: &[u8]| {
                raw!(setxattr(
                    p(&file),
                    name,
                    value.as_ptr().cast(),
                    value.len(),
                    0
                ))
            };
            failed_with("short", set(&[1, 0, 0, 2]), &[EINVAL])?;
            failed_with("no version", set(&[0; 20]), &[EINVAL])?;
            failed_with(
                "old version",
                set(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
                &[EINVAL],
            )?;
            let path = file.clone();
            as_user(move || failed_with("as a user", set_file_caps(&path, CHOWN, true), &[EPERM]))
        },
    ),
];
