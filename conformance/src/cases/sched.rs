//! sched(7), setpriority(2), membarrier(2), getcpu(2), uname(2), sysinfo(2), getrandom(2),
//! rseq(2), personality(2) and the answer to system calls that do not exist.

use crate::case::*;
use std::ffi::CStr;
use std::ptr::{null, null_mut};

fn affinity() -> Outcome<cpu_set_t> {
    let mut set = zeroed::<cpu_set_t>();
    ok!(sched_getaffinity(0, size_of::<cpu_set_t>(), &mut set));
    Ok(set)
}

fn first_cpu(set: &cpu_set_t) -> Outcome<usize> {
    match (0..1024).find(|cpu| unsafe { CPU_ISSET(*cpu, set) }) {
        Some(cpu) => Ok(cpu),
        None => fail!("the affinity mask is empty"),
    }
}

pub static CASES: &[Case] = &[
    Case::new(
        "sched.yield",
        "sched_yield(2)",
        "sched_yield succeeds",
        || {
            ok!(sched_yield());
            Ok(())
        },
    ),
    Case::new(
        "sched.affinity_length",
        "sched_getaffinity(2)",
        "a length whose bits overflow is refused; its upper half does not count",
        || {
            let mut set = zeroed::<cpu_set_t>();
            for length in [u64::MAX, u64::MAX >> 2, 1 << 61, 1 << 32] {
                err!(EINVAL, syscall(SYS_sched_getaffinity, 0, length, &mut set));
            }
            let wrapped = ok!(syscall(
                SYS_sched_getaffinity,
                0,
                (1_u64 << 32) + 128,
                &mut set
            ));
            ensure!(wrapped > 0, "{wrapped} bytes");
            Ok(())
        },
    ),
    Case::new(
        "sched.affinity",
        "sched_setaffinity(2)",
        "a mask is set, told and inherited",
        || {
            let all = affinity()?;
            let cpu = first_cpu(&all)?;
            let mut one = zeroed::<cpu_set_t>();
            unsafe { CPU_SET(cpu, &mut one) };
            ok!(sched_setaffinity(0, size_of::<cpu_set_t>(), &one));
            in_child(|| {
                let seen = affinity()?;
                eq("CPUs", unsafe { CPU_COUNT(&seen) }, 1)?;
                eq("CPU", first_cpu(&seen)?, cpu)
            })
        },
    ),
    Case::new(
        "sched.affinity_errors",
        "sched_setaffinity(2)",
        "EINVAL for an empty mask or size, ESRCH",
        || {
            let none = zeroed::<cpu_set_t>();
            err!(EINVAL, sched_setaffinity(0, size_of::<cpu_set_t>(), &none));
            let mut set = zeroed::<cpu_set_t>();
            err!(
                EINVAL,
                syscall(SYS_sched_getaffinity, 0, 3usize, &raw mut set)
            );
            err!(
                ESRCH,
                sched_getaffinity(1 << 22, size_of::<cpu_set_t>(), &mut set)
            );
            err!(
                EFAULT,
                syscall(SYS_sched_getaffinity, 0, 128usize, bad_ptr::<u8>())
            );
            Ok(())
        },
    ),
    Case::new(
        "sched.getcpu",
        "getcpu(2)",
        "the current CPU is in the affinity mask",
        || {
            let all = affinity()?;
            let cpu = ok!(sched_getcpu()) as usize;
            ensure!(
                unsafe { CPU_ISSET(cpu, &all) },
                "CPU {cpu} is not in the mask"
            );
            let (mut raw_cpu, mut node) = (u32::MAX, u32::MAX);
            ok!(syscall(
                SYS_getcpu,
                &raw mut raw_cpu,
                &raw mut node,
                null::<u8>()
            ));
            ensure!(raw_cpu < 1024 && node < 1024, "cpu {raw_cpu}, node {node}");
            Ok(())
        },
    ),
    Case::new(
        "sched.scheduler",
        "sched_setscheduler(2)",
        "SCHED_OTHER to begin with; BATCH and IDLE may be set",
        || {
            gives!(SCHED_OTHER, sched_getscheduler(0));
            let param = sched_param { sched_priority: 0 };
            for policy in [SCHED_BATCH, SCHED_IDLE] {
                gives!(0, sched_setscheduler(0, policy, &param));
                gives!(policy, sched_getscheduler(0));
            }
            Ok(())
        },
    ),
    Case::new(
        "sched.scheduler_errors",
        "sched_setscheduler(2)",
        "EINVAL, ESRCH, EPERM for real time",
        || {
            let param = sched_param { sched_priority: 1 };
            err!(EINVAL, sched_setscheduler(0, SCHED_OTHER, &param));
            err!(EINVAL, sched_setscheduler(0, 99, &param));
            err!(ESRCH, sched_getscheduler(1 << 22));
            err!(EINVAL, sched_getscheduler(-1));
            as_user(|| {
                let none = rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                ok!(setrlimit(RLIMIT_RTPRIO, &none));
                let param = sched_param { sched_priority: 1 };
                err!(EPERM, sched_setscheduler(0, SCHED_FIFO, &param));
                Ok(())
            })
        },
    ),
    Case::new(
        "sched.priority_range",
        "sched_get_priority_max(2)",
        "1 to 99 for real time, 0 otherwise",
        || {
            gives!(99, sched_get_priority_max(SCHED_FIFO));
            gives!(1, sched_get_priority_min(SCHED_RR));
            gives!(0, sched_get_priority_max(SCHED_OTHER));
            err!(EINVAL, sched_get_priority_max(99));
            Ok(())
        },
    ),
    Case::new(
        "sched.getparam",
        "sched_getparam(2)",
        "the priority is told; EINVAL, ESRCH",
        || {
            let mut param = sched_param { sched_priority: 9 };
            ok!(sched_getparam(0, &mut param));
            eq("priority", param.sched_priority, 0)?;
            err!(ESRCH, sched_getparam(1 << 22, &mut param));
            err!(EINVAL, sched_getparam(-1, &mut param));
            Ok(())
        },
    ),
    Case::new(
        "sched.rr_interval",
        "sched_rr_get_interval(2)",
        "an interval is told; EINVAL, ESRCH",
        || {
            let mut ts = timespec {
                tv_sec: -1,
                tv_nsec: -1,
            };
            ok!(sched_rr_get_interval(0, &mut ts));
            ensure!(ns(ts) >= 0, "interval {} ns", ns(ts));
            err!(EINVAL, sched_rr_get_interval(-1, &mut ts));
            err!(ESRCH, sched_rr_get_interval(1 << 22, &mut ts));
            Ok(())
        },
    ),
    Case::new(
        "priority.nice",
        "setpriority(2)",
        "nice rises, is told and inherited",
        || {
            set_errno(0);
            let was = raw!(getpriority(PRIO_PROCESS, 0));
            eq("errno", errno(), 0)?;
            ok!(setpriority(PRIO_PROCESS, 0, (was + 3).min(19)));
            eq(
                "nice",
                raw!(getpriority(PRIO_PROCESS, 0)),
                (was + 3).min(19),
            )?;
            // The raw call answers 20 - nice, which is never negative.
            gives!(
                20 - i64::from((was + 3).min(19)),
                syscall(SYS_getpriority, PRIO_PROCESS, 0)
            );
            let pid = child(|| raw!(getpriority(PRIO_PROCESS, 0)))?;
            expect_exit(pid, (was + 3).min(19))
        },
    ),
    Case::new(
        "priority.errors",
        "setpriority(2)",
        "EINVAL, ESRCH, EACCES for a lower nice value",
        || {
            err!(EINVAL, setpriority(99, 0, 0));
            err!(ESRCH, setpriority(PRIO_PROCESS, 1 << 22, 0));
            as_user(|| {
                let none = rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                ok!(setrlimit(RLIMIT_NICE, &none));
                ok!(setpriority(PRIO_PROCESS, 0, 10));
                err!(EACCES, setpriority(PRIO_PROCESS, 0, 5));
                Ok(())
            })
        },
    ),
    Case::new(
        "membarrier.query",
        "membarrier(2)",
        "QUERY lists commands; unknown ones give EINVAL",
        || {
            let commands = ok!(syscall(SYS_membarrier, 0, 0, 0));
            for command in [1, 1 << 3, 1 << 4] {
                if commands & command == 0 {
                    skip!("MEMBARRIER command {command} is not in {commands:#x}");
                }
            }
            err!(EINVAL, syscall(SYS_membarrier, 1 << 30, 0, 0));
            err!(EINVAL, syscall(SYS_membarrier, 0, 1 << 20, 0));
            Ok(())
        },
    ),
    Case::new(
        "membarrier.private",
        "membarrier(2)",
        "PRIVATE_EXPEDITED needs a registration: EPERM",
        || {
            if ok!(syscall(SYS_membarrier, 0, 0, 0)) & 1 << 3 == 0 {
                skip!("no PRIVATE_EXPEDITED here");
            }
            err!(EPERM, syscall(SYS_membarrier, 1 << 3, 0, 0));
            ok!(syscall(SYS_membarrier, 1 << 4, 0, 0));
            ok!(syscall(SYS_membarrier, 1 << 3, 0, 0));
            Ok(())
        },
    ),
    Case::new(
        "uname.fields",
        "uname(2)",
        "Linux, and the machine this was built for",
        || {
            let mut name = zeroed::<utsname>();
            ok!(uname(&mut name));
            let text = |field: &[c_char]| -> String {
                unsafe { CStr::from_ptr(field.as_ptr()) }
                    .to_string_lossy()
                    .into_owned()
            };
            eq("sysname", text(&name.sysname), "Linux".to_string())?;
            eq(
                "machine",
                text(&name.machine),
                std::env::consts::ARCH.to_string(),
            )?;
            let release = text(&name.release);
            let major: u32 = release
                .split('.')
                .next()
                .and_then(|w| w.parse().ok())
                .unwrap_or(0);
            ensure!(major >= 4, "release {release:?}");
            eq(
                "/proc",
                slurp("/proc/sys/kernel/osrelease")?.trim().to_string(),
                release,
            )?;
            err!(EFAULT, syscall(SYS_uname, bad_ptr::<u8>()));
            Ok(())
        },
    ),
    Case::new(
        "uname.sethostname_eperm",
        "sethostname(2)",
        "an ordinary user cannot: EPERM; too long EINVAL",
        || {
            as_user(|| {
                err!(EPERM, sethostname(p(c"x"), 1));
                err!(EPERM, setdomainname(p(c"x"), 1));
                Ok(())
            })
        },
    ),
    Case::new(
        "sysinfo.fields",
        "sysinfo(2)",
        "memory, uptime and the number of processes",
        || {
            let mut info = zeroed::<sysinfo>();
            ok!(sysinfo(&mut info));
            ensure!(info.uptime >= 0, "uptime {}", info.uptime);
            ensure!(
                info.totalram > 0 && info.freeram <= info.totalram,
                "ram {}",
                info.totalram
            );
            ensure!(
                info.mem_unit > 0 && info.procs > 0,
                "unit {}, procs {}",
                info.mem_unit,
                info.procs
            );
            err!(EFAULT, syscall(SYS_sysinfo, bad_ptr::<u8>()));
            Ok(())
        },
    ),
    Case::new(
        "getrandom.bytes",
        "getrandom(2)",
        "fills the buffer with different bytes each time",
        || {
            let (mut a, mut b) = ([0u8; 256], [0u8; 256]);
            gives!(256, getrandom(a.as_mut_ptr().cast(), 256, 0));
            gives!(256, getrandom(b.as_mut_ptr().cast(), 256, GRND_NONBLOCK));
            ensure!(a != b && a != [0; 256], "the same bytes twice, or zeroes");
            gives!(0, getrandom(a.as_mut_ptr().cast(), 0, 0));
            Ok(())
        },
    ),
    Case::new(
        "getrandom.errors",
        "getrandom(2)",
        "EINVAL for flags, EFAULT",
        || {
            let mut a = [0u8; 8];
            err!(EINVAL, getrandom(a.as_mut_ptr().cast(), 8, 1 << 20));
            err!(
                EINVAL,
                getrandom(a.as_mut_ptr().cast(), 8, GRND_RANDOM | GRND_INSECURE)
            );
            err!(EFAULT, getrandom(bad_ptr(), 8, 0));
            Ok(())
        },
    ),
    Case::new(
        "syscall.enosys",
        "intro(2)",
        "a system call number nobody has gives ENOSYS",
        || {
            err!(ENOSYS, syscall(9999));
            err!(ENOSYS, syscall(-1));
            err!(ENOSYS, syscall(i64::MAX));
            Ok(())
        },
    ),
    Case::new(
        "personality.query",
        "personality(2)",
        "the query value changes nothing",
        || {
            let was = ok!(personality(0xffff_ffff));
            ok!(personality(0x0040_0000));
            gives!(0x0040_0000, personality(0xffff_ffff));
            ok!(personality(was as c_ulong));
            Ok(())
        },
    ),
    Case::new("rseq.errors", "rseq(2)", "EINVAL for flags or size", || {
        let mut area = [0u64; 8];
        let got = raw!(syscall(SYS_rseq, area.as_mut_ptr(), 32, 1 << 10, 0));
        if got == -1 && errno() == ENOSYS {
            skip!("no rseq in this kernel");
        }
        failed_with("rseq(flags)", got, &[EINVAL])?;
        err_any!(
            [EINVAL, EBUSY, EPERM],
            syscall(SYS_rseq, area.as_mut_ptr(), 31, 0, 0)
        );
        Ok(())
    }),
    Case::new(
        "acct.getrusage",
        "getrusage(2)",
        "page faults and peak memory are counted",
        || {
            let mut used = zeroed::<rusage>();
            ok!(getrusage(RUSAGE_SELF, &mut used));
            ensure!(used.ru_maxrss > 0, "ru_maxrss {}", used.ru_maxrss);
            ok!(getrusage(RUSAGE_THREAD, &mut used));
            err!(EINVAL, getrusage(7, &mut used));
            err!(EFAULT, syscall(SYS_getrusage, RUSAGE_SELF, bad_ptr::<u8>()));
            Ok(())
        },
    ),
    Case::new(
        "mount.eperm",
        "mount(2)",
        "an ordinary user cannot mount or unmount: EPERM",
        || {
            mkdir_at(c"d")?;
            as_user(|| {
                err!(EPERM, mount(p(c"none"), p(c"d"), p(c"tmpfs"), 0, null()));
                err!(EPERM, umount2(p(c"/proc"), 0));
                err!(EPERM, reboot(RB_AUTOBOOT));
                err!(EPERM, swapoff(p(c"d")));
                Ok(())
            })
        },
    ),
    Case::new(
        "unshare.errors",
        "unshare(2)",
        "EINVAL for flags, EPERM for namespaces",
        || {
            err!(EINVAL, unshare(1 << 30 | 1));
            as_user(|| {
                err!(EPERM, unshare(CLONE_NEWNET));
                err!(EPERM, unshare(CLONE_NEWNS));
                Ok(())
            })
        },
    ),
    Case::new(
        "unshare.files",
        "unshare(2)",
        "CLONE_FILES ends the sharing of descriptors",
        || {
            let fd = put(c"f", b"")?;
            let pid = ok!(syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0)) as pid_t;
            if pid == 0 {
                let done = raw!(unshare(CLONE_FILES)) == 0 && raw!(close(fd)) == 0;
                raw!(_exit(i32::from(!done)));
            }
            expect_exit(pid, 0)?;
            ok!(fcntl(fd, F_GETFD));
            Ok(())
        },
    ),
    Case::new(
        "ptrace.errors",
        "ptrace(2)",
        "ESRCH for one that is not traced, EPERM for oneself",
        || {
            err!(
                ESRCH,
                ptrace(PTRACE_CONT, 1 << 22, null_mut::<u8>(), null_mut::<u8>())
            );
            err!(
                EPERM,
                ptrace(
                    PTRACE_ATTACH,
                    getpid_now(),
                    null_mut::<u8>(),
                    null_mut::<u8>()
                )
            );
            Ok(())
        },
    ),
    Case::new(
        "ptrace.traceme",
        "ptrace(2)",
        "a traced child stops at a signal and goes on",
        || {
            let pid = child(|| {
                if raw!(ptrace(
                    PTRACE_TRACEME,
                    0,
                    null_mut::<u8>(),
                    null_mut::<u8>()
                )) != 0
                {
                    return 99;
                }
                raw!(raise(SIGUSR1));
                7
            })?;
            let status = wait_for(pid)?;
            if WIFEXITED(status) && WEXITSTATUS(status) == 99 {
                skip!("ptrace is not permitted here");
            }
            ensure!(
                WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR1,
                "{}",
                status_text(status)
            );
            ok!(ptrace(PTRACE_CONT, pid, null_mut::<u8>(), null_mut::<u8>()));
            expect_exit(pid, 7)
        },
    ),
    Case::new(
        "sched.ioprio",
        "ioprio_set(2)",
        "a thread's priority is kept and inherited; of several the best counts",
        || {
            const BE: c_int = 2 << 13;
            const IDLE: c_int = 3 << 13;
            let get = |which: c_int, who: c_int| unsafe { syscall(SYS_ioprio_get, which, who) };
            let set = |which: c_int, who: c_int, priority: c_int| unsafe {
                syscall(SYS_ioprio_set, which, who, priority)
            };
            in_child(|| {
                ok!(setpgid(0, 0));
                eq("at first", get(1, 0), 0)?;
                eq("of the group", get(2, 0), (BE | 4).into())?;
                returned("ioprio_set", set(1, 0, BE | 6), 0)?;
                eq("set", get(1, 0), (BE | 6).into())?;
                eq("by number", get(1, getpid_now()), (BE | 6).into())?;
                let other = in_child(|| {
                    eq("inherited", get(1, 0), (BE | 6).into())?;
                    returned("ioprio_set", set(1, 0, IDLE), 0)?;
                    eq("of the group", get(2, 0), (BE | 6).into())
                });
                other?;
                returned("ioprio_set", set(2, 0, BE | 1), 0)?;
                eq("by group", get(1, 0), (BE | 1).into())?;
                returned("ioprio_set", set(1, 0, 0), 0)?;
                eq("none", get(1, 0), 0)?;
                for bad in [1, 4 << 13, 7 << 13] {
                    failed_with("ioprio_set", set(1, 0, bad), &[EINVAL])?;
                }
                failed_with("ioprio_set", set(4, 0, BE), &[EINVAL])?;
                failed_with("ioprio_get", get(0, 0), &[EINVAL])?;
                failed_with("ioprio_get", get(1, -1), &[ESRCH])?;
                failed_with("ioprio_get", get(1, 0x3fff_fff0), &[ESRCH])
            })?;
            as_user(|| failed_with("ioprio_set", set(1, 0, 1 << 13), &[EPERM]))
        },
    ),
];
