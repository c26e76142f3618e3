//! credentials(7), capabilities(7), prctl(2), getrlimit(2).

use crate::case::*;
use std::ptr::null_mut;

fn resuid() -> Outcome<(u32, u32, u32)> {
    let (mut r, mut e, mut s) = (0, 0, 0);
    ok!(getresuid(&mut r, &mut e, &mut s));
    Ok((r, e, s))
}

fn resgid() -> Outcome<(u32, u32, u32)> {
    let (mut r, mut e, mut s) = (0, 0, 0);
    ok!(getresgid(&mut r, &mut e, &mut s));
    Ok((r, e, s))
}

fn status_field(key: &str) -> Outcome<String> {
    field(&slurp("/proc/self/status")?, key)
}

fn effective() -> Outcome<u64> {
    let text = status_field("CapEff")?;
    u64::from_str_radix(&text, 16).map_err(|e| Failure::Fail(format!("CapEff {text:?}: {e}")))
}

const CAP_V3: u32 = 0x2008_0522;

/// The raw capability sets: effective, permitted, inheritable of the lower 32 and the upper.
fn capget(pid: c_int) -> (c_long, [u32; 6]) {
    let header = [CAP_V3, pid as u32];
    let mut data = [0u32; 6];
    (
        raw!(syscall(SYS_capget, header.as_ptr(), data.as_mut_ptr())),
        data,
    )
}

fn capset(data: [u32; 6]) -> c_long {
    let header = [CAP_V3, 0];
    raw!(syscall(SYS_capset, header.as_ptr(), data.as_ptr()))
}

fn limit_of(resource: __rlimit_resource_t) -> Outcome<rlimit> {
    let mut limit = zeroed::<rlimit>();
    ok!(getrlimit(resource, &mut limit));
    Ok(limit)
}

pub static CASES: &[Case] = &[
    Case::new(
        "creds.agree",
        "credentials(7)",
        "getuid and friends agree with getresuid and /proc",
        || {
            let (r, e, s) = resuid()?;
            eq("getuid, geteuid", (raw!(getuid()), raw!(geteuid())), (r, e))?;
            let text = status_field("Uid")?;
            let seen: Vec<u32> = text
                .split_whitespace()
                .filter_map(|w| w.parse().ok())
                .collect();
            eq("Uid line", seen[..3].to_vec(), vec![r, e, s])?;
            let (r, e, _) = resgid()?;
            eq("getgid, getegid", (raw!(getgid()), raw!(getegid())), (r, e))
        },
    ),
    Case::new(
        "creds.setuid_root",
        "setuid(2)",
        "root's setuid sets all three ids for good",
        || {
            need_cap(7, "CAP_SETUID")?;
            in_child(|| {
                ok!(setuid(1234));
                eq("ids", resuid()?, (1234, 1234, 1234))?;
                err!(EPERM, setuid(0));
                Ok(())
            })
        },
    ),
    Case::new(
        "creds.setuid_user",
        "setuid(2)",
        "an ordinary user may only pick among its own ids",
        || {
            as_user(|| {
                let me = raw!(getuid());
                ok!(setuid(me));
                err!(EPERM, setuid(me + 1));
                err!(EPERM, setgid(raw!(getgid()) + 1));
                err!(EPERM, setresuid(me, me + 1, me));
                err!(EPERM, setreuid(me + 1, u32::MAX));
                ok!(setresuid(u32::MAX, u32::MAX, u32::MAX));
                Ok(())
            })
        },
    ),
    Case::new(
        "creds.seteuid_back",
        "seteuid(2)",
        "the saved id lets root come back",
        || {
            need_cap(7, "CAP_SETUID")?;
            in_child(|| {
                ok!(setresuid(1000, 2000, 0));
                eq("ids", resuid()?, (1000, 2000, 0))?;
                ok!(seteuid(1000));
                err!(EPERM, seteuid(3000));
                ok!(seteuid(0));
                eq("ids", resuid()?, (1000, 0, 0))
            })
        },
    ),
    Case::new(
        "creds.setreuid_saved",
        "setreuid(2)",
        "setreuid moves the saved id along",
        || {
            need_cap(7, "CAP_SETUID")?;
            in_child(|| {
                ok!(setreuid(1000, 2000));
                eq("ids", resuid()?, (1000, 2000, 2000))?;
                ok!(setreuid(2000, 1000));
                eq("ids", resuid()?, (2000, 1000, 1000))
            })
        },
    ),
    Case::new(
        "creds.setuid_einval",
        "setuid(2)",
        "the id -1 is not valid: EINVAL",
        || {
            err!(EINVAL, syscall(SYS_setuid, u32::MAX));
            err!(EINVAL, syscall(SYS_setgid, u32::MAX));
            Ok(())
        },
    ),
    Case::new(
        "creds.groups",
        "setgroups(2)",
        "supplementary groups are set and told",
        || {
            need_cap(6, "CAP_SETGID")?;
            in_child(|| {
                let groups = [11, 22, 33];
                if raw!(setgroups(3, groups.as_ptr())) == -1 && errno() == EPERM {
                    skip!("this user namespace denies setgroups");
                }
                let mut seen = [0; 3];
                gives!(3, getgroups(0, null_mut()));
                err!(EINVAL, getgroups(2, seen.as_mut_ptr()));
                gives!(3, getgroups(3, seen.as_mut_ptr()));
                eq("groups", seen, groups)?;
                err!(EINVAL, setgroups(65537, groups.as_ptr()));
                err!(EINVAL, getgroups(-1, null_mut()));
                Ok(())
            })
        },
    ),
    Case::new(
        "creds.setgroups_eperm",
        "setgroups(2)",
        "an ordinary user cannot set groups: EPERM",
        || {
            as_user(|| {
                err!(EPERM, setgroups(0, std::ptr::null()));
                Ok(())
            })
        },
    ),
    Case::new(
        "creds.group_access",
        "path_resolution(7)",
        "a supplementary group opens a file",
        || {
            need_cap(0, "CAP_CHOWN")?;
            put(c"f", b"x")?;
            ok!(chown(p(c"f"), 0, 4242));
            ok!(chmod(p(c"f"), 0o040));
            in_child(|| {
                let groups = [4242];
                if raw!(setgroups(1, groups.as_ptr())) == -1 {
                    skip!("groups cannot be set here");
                }
                ok!(setresgid(NOBODY, NOBODY, NOBODY));
                ok!(setresuid(NOBODY, NOBODY, NOBODY));
                ok!(open(p(c"f"), O_RDONLY));
                err!(EACCES, open(p(c"f"), O_WRONLY));
                Ok(())
            })
        },
    ),
    Case::new(
        "creds.fsuid",
        "setfsuid(2)",
        "setfsuid returns the old id and rules file access",
        || {
            need_cap(7, "CAP_SETUID")?;
            put(c"f", b"")?;
            ok!(chmod(p(c"f"), 0o600));
            in_child(|| {
                gives!(0, setfsuid(NOBODY));
                gives!(NOBODY, setfsuid(NOBODY));
                err!(EACCES, open(p(c"f"), O_RDONLY));
                Ok(())
            })
        },
    ),
    Case::new(
        "caps.dropped_with_uid",
        "capabilities(7)",
        "leaving uid 0 clears the capabilities",
        || {
            need_cap(7, "CAP_SETUID")?;
            in_child(|| {
                ok!(setresuid(0, 1234, 0));
                eq("effective", effective()?, 0)?;
                ok!(setresuid(u32::MAX, 0, u32::MAX));
                ensure!(
                    effective()? != 0,
                    "the effective set did not come back with euid 0"
                );
                ok!(setresuid(1234, 1234, 1234));
                eq("effective", effective()?, 0)
            })
        },
    ),
    Case::new(
        "caps.keepcaps",
        "prctl(2)",
        "PR_SET_KEEPCAPS keeps the permitted set",
        || {
            need_cap(7, "CAP_SETUID")?;
            in_child(|| {
                gives!(0, prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0));
                ok!(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
                ok!(setresuid(1234, 1234, 1234));
                eq("effective", effective()?, 0)?;
                ensure!(
                    status_field("CapPrm")?.contains(|c| c != '0'),
                    "the permitted set is empty"
                );
                err!(EINVAL, prctl(PR_SET_KEEPCAPS, 2, 0, 0, 0));
                Ok(())
            })
        },
    ),
    Case::new(
        "caps.capget_and_proc",
        "capget(2)",
        "capget agrees with /proc/self/status",
        || {
            let (got, data) = capget(0);
            succeeded("capget", got)?;
            let seen = u64::from(data[0]) | u64::from(data[3]) << 32;
            eq("effective", seen, effective()?)?;
            let (got, again) = capget(getpid_now());
            succeeded("capget(own pid)", got)?;
            eq("data", again, data)
        },
    ),
    Case::new(
        "caps.capget_errors",
        "capget(2)",
        "ESRCH, and EINVAL that tells the version",
        || {
            let (got, _) = capget(1 << 22);
            failed_with("capget(no process)", got, &[ESRCH])?;
            let (got, _) = capget(-1);
            failed_with("capget(-1)", got, &[EINVAL])?;
            let mut header = [0u32, 0];
            let mut data = [0u32; 6];
            err!(
                EINVAL,
                syscall(SYS_capget, header.as_mut_ptr(), data.as_mut_ptr())
            );
            eq("version told", header[0], CAP_V3)
        },
    ),
    Case::new(
        "caps.capset_drop",
        "capset(2)",
        "a capability is given up and not regained",
        || {
            need_root()?;
            in_child(|| {
                let (_, mut data) = capget(0);
                let kept = data;
                data[0] &= !(1 << 1); // CAP_DAC_OVERRIDE, effective only
                succeeded("capset(effective)", capset(data))?;
                eq("bit", has_cap(1), false)?;
                succeeded("capset(back)", capset(kept))?;
                data[1] &= !(1 << 1);
                succeeded("capset(permitted)", capset(data))?;
                failed_with("capset(regain)", capset(kept), &[EPERM])
            })
        },
    ),
    Case::new(
        "caps.override_is_what_root_has",
        "capabilities(7)",
        "without CAP_DAC_OVERRIDE modes bind root",
        || {
            need_cap(1, "CAP_DAC_OVERRIDE")?;
            put(c"f", b"")?;
            ok!(chmod(p(c"f"), 0o000));
            in_child(|| {
                ok!(open(p(c"f"), O_RDWR));
                let (_, mut data) = capget(0);
                data[0] &= !(1 << 1 | 1 << 2);
                succeeded("capset", capset(data))?;
                err!(EACCES, open(p(c"f"), O_RDONLY));
                Ok(())
            })
        },
    ),
    Case::new(
        "caps.bounding_set",
        "prctl(2)",
        "PR_CAPBSET_READ and PR_CAPBSET_DROP",
        || {
            err!(EINVAL, prctl(PR_CAPBSET_READ, 99, 0, 0, 0));
            as_user(|| {
                err!(EPERM, prctl(PR_CAPBSET_DROP, 0, 0, 0, 0));
                Ok(())
            })?;
            need_cap(8, "CAP_SETPCAP")?;
            ok!(prctl(PR_CAPBSET_DROP, 5, 0, 0, 0));
            gives!(0, prctl(PR_CAPBSET_READ, 5, 0, 0, 0));
            Ok(())
        },
    ),
    Case::new(
        "caps.ambient",
        "prctl(2)",
        "ambient needs permitted and inheritable: EPERM",
        || {
            as_user(|| {
                gives!(0, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 0, 0, 0));
                err!(EPERM, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 0, 0, 0));
                err!(
                    EINVAL,
                    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 99, 0, 0)
                );
                ok!(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
                Ok(())
            })
        },
    ),
    Case::new(
        "prctl.name",
        "prctl(2)",
        "PR_SET_NAME cuts at 15 bytes; /proc shows it",
        || {
            ok!(prctl(PR_SET_NAME, p(c"a-very-long-thread-name")));
            let mut name = [0u8; 16];
            ok!(prctl(PR_GET_NAME, name.as_mut_ptr()));
            eq("name", &name[..], &b"a-very-long-thr\0"[..])?;
            eq(
                "/proc/self/comm",
                slurp("/proc/self/comm")?,
                "a-very-long-thr\n".to_string(),
            )
        },
    ),
    Case::new(
        "prctl.comm_write",
        "proc_pid_comm(5)",
        "writing /proc/self/comm renames the thread",
        || {
            let fd = ok!(open(p(c"/proc/self/comm"), O_WRONLY));
            write_all(fd, b"renamed")?;
            let mut name = [0u8; 16];
            ok!(prctl(PR_GET_NAME, name.as_mut_ptr()));
            eq("name", &name[..8], &b"renamed\0"[..])
        },
    ),
    Case::new(
        "prctl.no_new_privs",
        "prctl(2)",
        "no_new_privs is set once and for all",
        || {
            ok!(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
            gives!(1, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
            err!(EINVAL, prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
            err!(EINVAL, prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0));
            let pid = child(|| raw!(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)))?;
            expect_exit(pid, 1)
        },
    ),
    Case::new(
        "prctl.pdeathsig",
        "prctl(2)",
        "the parent-death signal is told, not inherited",
        || {
            ok!(prctl(PR_SET_PDEATHSIG, SIGUSR1));
            let mut seen: c_int = 0;
            ok!(prctl(PR_GET_PDEATHSIG, &raw mut seen));
            eq("signal", seen, SIGUSR1)?;
            err!(EINVAL, prctl(PR_SET_PDEATHSIG, 99));
            in_child(|| {
                let mut seen: c_int = 9;
                ok!(prctl(PR_GET_PDEATHSIG, &raw mut seen));
                eq("in the child", seen, 0)
            })
        },
    ),
    Case::new(
        "prctl.dumpable",
        "prctl(2)",
        "PR_SET_DUMPABLE takes 0 and 1 only",
        || {
            ok!(prctl(PR_SET_DUMPABLE, 0));
            gives!(0, prctl(PR_GET_DUMPABLE));
            ok!(prctl(PR_SET_DUMPABLE, 1));
            gives!(1, prctl(PR_GET_DUMPABLE));
            err!(EINVAL, prctl(PR_SET_DUMPABLE, 2));
            Ok(())
        },
    ),
    Case::new(
        "prctl.subreaper",
        "prctl(2)",
        "PR_GET_CHILD_SUBREAPER tells the setting",
        || {
            let mut seen: c_int = 9;
            ok!(prctl(PR_SET_CHILD_SUBREAPER, 1));
            ok!(prctl(PR_GET_CHILD_SUBREAPER, &raw mut seen));
            eq("setting", seen, 1)
        },
    ),
    Case::new(
        "prctl.timerslack",
        "prctl(2)",
        "timer slack is set and told",
        || {
            ok!(prctl(PR_SET_TIMERSLACK, 12345));
            gives!(12345, prctl(PR_GET_TIMERSLACK));
            Ok(())
        },
    ),
    Case::new(
        "prctl.einval",
        "prctl(2)",
        "an unknown operation gives EINVAL",
        || {
            err!(EINVAL, prctl(999_999));
            Ok(())
        },
    ),
    Case::new(
        "rlimit.soft_above_hard",
        "setrlimit(2)",
        "soft above hard gives EINVAL",
        || {
            let limit = rlimit {
                rlim_cur: 100,
                rlim_max: 50,
            };
            err!(EINVAL, setrlimit(RLIMIT_NOFILE, &limit));
            err!(EINVAL, syscall(SYS_setrlimit, 99, &raw const limit));
            err!(EINVAL, syscall(SYS_getrlimit, 99, &raw const limit));
            err!(
                EFAULT,
                syscall(SYS_getrlimit, RLIMIT_NOFILE, bad_ptr::<u8>())
            );
            Ok(())
        },
    ),
    Case::new(
        "rlimit.hard_raise",
        "setrlimit(2)",
        "an ordinary user cannot raise a hard limit",
        || {
            as_user(|| {
                let was = limit_of(RLIMIT_NOFILE)?;
                let lower = rlimit {
                    rlim_cur: 30,
                    rlim_max: 60,
                };
                ok!(setrlimit(RLIMIT_NOFILE, &lower));
                let soft = rlimit {
                    rlim_cur: 60,
                    rlim_max: 60,
                };
                ok!(setrlimit(RLIMIT_NOFILE, &soft));
                err!(EPERM, setrlimit(RLIMIT_NOFILE, &was));
                Ok(())
            })
        },
    ),
    Case::new(
        "rlimit.inherited",
        "setrlimit(2)",
        "limits are inherited and shown in /proc",
        || {
            let limit = rlimit {
                rlim_cur: 33,
                rlim_max: 44,
            };
            ok!(setrlimit(RLIMIT_NOFILE, &limit));
            in_child(|| {
                let seen = limit_of(RLIMIT_NOFILE)?;
                eq("limits", (seen.rlim_cur, seen.rlim_max), (33, 44))?;
                let text = slurp("/proc/self/limits")?;
                let line = text
                    .lines()
                    .find(|l| l.starts_with("Max open files"))
                    .unwrap_or("");
                let words: Vec<&str> = line.split_whitespace().collect();
                ensure!(words.ends_with(&["33", "44", "files"]), "line {line:?}");
                Ok(())
            })
        },
    ),
    Case::new(
        "rlimit.prlimit",
        "prlimit(2)",
        "prlimit sets another process's limit",
        || {
            let pid = child(|| {
                raw!(pause());
                0
            })?;
            let limit = rlimit {
                rlim_cur: 21,
                rlim_max: 22,
            };
            let mut old = zeroed::<rlimit>();
            ok!(prlimit(pid, RLIMIT_NOFILE, &limit, null_mut()));
            ok!(prlimit(pid, RLIMIT_NOFILE, std::ptr::null(), &mut old));
            eq("limits", (old.rlim_cur, old.rlim_max), (21, 22))?;
            ok!(kill(pid, SIGKILL));
            expect_signal(pid, SIGKILL)?;
            err!(
                ESRCH,
                prlimit(pid, RLIMIT_NOFILE, std::ptr::null(), &mut old)
            );
            Ok(())
        },
    ),
    Case::new(
        "rlimit.cpu",
        "getrlimit(2)",
        "RLIMIT_CPU sends SIGXCPU",
        || {
            let pid = child(|| {
                let none = rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                raw!(setrlimit(RLIMIT_CORE, &none));
                let limit = rlimit {
                    rlim_cur: 1,
                    rlim_max: 2,
                };
                raw!(setrlimit(RLIMIT_CPU, &limit));
                let mut i = 0u64;
                loop {
                    i = std::hint::black_box(i + 1);
                }
            })?;
            expect_signal(pid, SIGXCPU)
        },
    ),
];
