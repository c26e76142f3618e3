//! proc(5): what `/proc` tells about processes and the system.

use crate::case::*;
use std::ffi::CStr;

fn link_of(path: &str) -> Outcome<String> {
    let path = cstring(path);
    let mut buf = [0u8; 4096];
    let n = ok!(readlink(path.as_ptr(), buf.as_mut_ptr().cast(), 4096)) as usize;
    Ok(String::from_utf8_lossy(&buf[..n]).into_owned())
}

fn cwd() -> Outcome<String> {
    let mut buf = [0 as c_char; 4096];
    ensure!(
        !raw!(getcwd(buf.as_mut_ptr(), 4096)).is_null(),
        "getcwd: {}",
        errno_name(errno())
    );
    Ok(unsafe { CStr::from_ptr(buf.as_ptr()) }
        .to_string_lossy()
        .into_owned())
}

/// The fields of a stat file after the name in brackets; the first one is number 3.
fn stat_fields(path: &str) -> Outcome<Vec<String>> {
    let text = slurp(path)?;
    match text.rsplit_once(')') {
        Some((_, rest)) => Ok(rest.split_whitespace().map(str::to_string).collect()),
        None => fail!("{path} has no bracket: {text:?}"),
    }
}

fn number(text: &str) -> Outcome<i64> {
    match text.trim().parse() {
        Ok(n) => Ok(n),
        Err(_) => fail!("{text:?} is not a number"),
    }
}

pub static CASES: &[Case] = &[
    Case::new(
        "proc.self_links",
        "proc(5)",
        "/proc/self and /proc/thread-self name us",
        || {
            eq("self", link_of("/proc/self")?, getpid_now().to_string())?;
            let (pid, tid) = (getpid_now(), raw!(gettid()));
            eq(
                "thread-self",
                link_of("/proc/thread-self")?,
                format!("{pid}/task/{tid}"),
            )
        },
    ),
    Case::new(
        "proc.exe",
        "proc_pid_exe(5)",
        "exe is the program, also through /proc/PID",
        || {
            let path = link_of("/proc/self/exe")?;
            let (mut a, mut b) = (zeroed::<libc::stat>(), zeroed::<libc::stat>());
            ok!(stat(p(c"/proc/self/exe"), &mut a));
            ok!(stat(cstring(path.clone()).as_ptr(), &mut b));
            eq("inode", a.st_ino, b.st_ino)?;
            eq(
                "by pid",
                link_of(&format!("/proc/{}/exe", getpid_now()))?,
                path,
            )
        },
    ),
    Case::new(
        "proc.cwd_and_root",
        "proc_pid_cwd(5)",
        "cwd follows chdir, root is /",
        || {
            eq("cwd", link_of("/proc/self/cwd")?, cwd()?)?;
            mkdir_at(c"d")?;
            ok!(chdir(p(c"d")));
            eq("cwd after chdir", link_of("/proc/self/cwd")?, cwd()?)?;
            eq("root", link_of("/proc/self/root")?, "/".to_string())?;
            put(c"f", b"through")?;
            eq("content", slurp("/proc/self/cwd/f")?, "through".to_string())
        },
    ),
    Case::new(
        "proc.cmdline",
        "proc_pid_cmdline(5)",
        "arguments, NUL-terminated",
        || {
            let bytes = std::fs::read("/proc/self/cmdline").unwrap_or_default();
            ensure!(bytes.last() == Some(&0), "no NUL at the end");
            let words = bytes[..bytes.len() - 1].split(|b| *b == 0).count();
            eq("words", words, std::env::args_os().count())
        },
    ),
    Case::new(
        "proc.environ",
        "proc_pid_environ(5)",
        "the environment the program started with",
        || {
            let text = slurp("/proc/self/environ")?;
            for (name, value) in std::env::vars().take(3) {
                let want = format!("{name}={value}");
                ensure!(
                    text.split('\0').any(|word| word == want),
                    "{want:?} is missing"
                );
            }
            Ok(())
        },
    ),
    Case::new(
        "proc.stat_ids",
        "proc_pid_stat(5)",
        "state, ppid, pgrp, session and threads",
        || {
            let fields = stat_fields("/proc/self/stat")?;
            ensure!(
                fields.len() >= 49,
                "{} fields, expected at least 49",
                fields.len()
            );
            eq("state", fields[0].as_str(), "R")?;
            eq("ppid", number(&fields[1])?, i64::from(raw!(getppid())))?;
            eq("pgrp", number(&fields[2])?, i64::from(raw!(getpgrp())))?;
            eq("session", number(&fields[3])?, i64::from(raw!(getsid(0))))?;
            eq("num_threads", number(&fields[17])?, 1)?;
            let text = slurp("/proc/self/stat")?;
            ensure!(text.starts_with(&format!("{} (", getpid_now())), "{text:?}");
            Ok(())
        },
    ),
    Case::new(
        "proc.stat_vsize_rss",
        "proc_pid_stat(5)",
        "vsize and rss follow what is mapped",
        || {
            let before = stat_fields("/proc/self/stat")?;
            let at = map_anon(64 << 20)?;
            for i in 0..(8 << 20) / 4096 {
                unsafe { at.add(i * 4096).write_volatile(1) };
            }
            let after = stat_fields("/proc/self/stat")?;
            let grown = number(&after[20])? - number(&before[20])?;
            ensure!(
                grown >= 64 << 20,
                "vsize grew by {grown}, expected at least 64 MiB"
            );
            let grown = number(&after[21])? - number(&before[21])?;
            ensure!(
                grown >= 1900,
                "rss grew by {grown} pages, expected about 2048"
            );
            Ok(())
        },
    ),
    Case::new(
        "proc.statm",
        "proc_pid_statm(5)",
        "seven numbers, the first ones as in stat",
        || {
            let text = slurp("/proc/self/statm")?;
            let fields: Vec<&str> = text.split_whitespace().collect();
            eq("fields", fields.len(), 7)?;
            let vsize = number(&stat_fields("/proc/self/stat")?[20])?;
            let pages = number(fields[0])? * page_size() as i64;
            ensure!(
                (vsize - pages).abs() < 4 << 20,
                "statm {pages}, stat {vsize}"
            );
            Ok(())
        },
    ),
    Case::new(
        "proc.status_fields",
        "proc_pid_status(5)",
        "ids, name, signal masks, memory and threads",
        || {
            let text = slurp("/proc/self/status")?;
            eq(
                "Pid",
                number(&field(&text, "Pid")?)?,
                i64::from(getpid_now()),
            )?;
            eq(
                "Tgid",
                number(&field(&text, "Tgid")?)?,
                i64::from(getpid_now()),
            )?;
            eq(
                "PPid",
                number(&field(&text, "PPid")?)?,
                i64::from(raw!(getppid())),
            )?;
            eq("Threads", field(&text, "Threads")?, "1".to_string())?;
            ensure!(
                field(&text, "State")?.starts_with('R'),
                "State {:?}",
                field(&text, "State")
            );
            for key in ["VmSize", "VmRSS"] {
                ensure!(
                    field(&text, key)?.ends_with(" kB"),
                    "{key}: {:?}",
                    field(&text, key)
                );
            }
            eq("Umask", field(&text, "Umask")?, "0022".to_string())
        },
    ),
    Case::new(
        "proc.status_signals",
        "proc_pid_status(5)",
        "SigBlk, SigIgn, SigCgt and SigPnd are masks",
        || {
            let mut set = zeroed::<sigset_t>();
            ok!(sigemptyset(&mut set));
            ok!(sigaddset(&mut set, SIGUSR1));
            ok!(sigprocmask(SIG_BLOCK, &set, std::ptr::null_mut()));
            raw!(signal(SIGUSR2, SIG_IGN));
            catch(SIGHUP, 0)?;
            ok!(kill(getpid_now(), SIGUSR1));
            let text = slurp("/proc/self/status")?;
            for (key, signal) in [
                ("SigBlk", SIGUSR1),
                ("SigIgn", SIGUSR2),
                ("SigCgt", SIGHUP),
                ("ShdPnd", SIGUSR1),
            ] {
                let mask = u64::from_str_radix(&field(&text, key)?, 16).unwrap_or(0);
                ensure!(
                    mask >> (signal - 1) & 1 == 1,
                    "{key} {mask:#x} lacks signal {signal}"
                );
            }
            Ok(())
        },
    ),
    Case::new(
        "proc.fd_entries",
        "proc_pid_fd(5)",
        "fd lists the open descriptors",
        || {
            let (r, w) = pipe_pair()?;
            // Reading the directory takes the lowest free number.
            let r = ok!(fcntl(r, F_DUPFD, 100));
            let list = || -> Vec<String> {
                let entries = std::fs::read_dir("/proc/self/fd")
                    .into_iter()
                    .flatten()
                    .flatten();
                entries
                    .map(|e| e.file_name().to_string_lossy().into_owned())
                    .collect()
            };
            let seen = list();
            ensure!(
                seen.contains(&r.to_string()) && seen.contains(&w.to_string()),
                "{seen:?}"
            );
            ok!(close(r));
            ensure!(
                !list().contains(&r.to_string()),
                "a closed descriptor is still listed"
            );
            err!(
                ENOENT,
                readlink(
                    cstring(format!("/proc/self/fd/{r}")).as_ptr(),
                    [0; 8].as_mut_ptr(),
                    8
                )
            );
            Ok(())
        },
    ),
    Case::new(
        "proc.fd_reopen",
        "proc_pid_fd(5)",
        "opening fd/N makes a new open file description",
        || {
            let fd = put(c"f", b"abcdef")?;
            gives!(3, lseek(fd, 3, SEEK_SET));
            let path = cstring(format!("/proc/self/fd/{fd}"));
            let again = ok!(open(path.as_ptr(), O_RDONLY));
            gives!(0, lseek(again, 0, SEEK_CUR));
            ok!(unlink(p(c"f")));
            let third = ok!(open(path.as_ptr(), O_RDONLY));
            eq(
                "content of the deleted file",
                read_some(third, 3)?,
                b"abc".to_vec(),
            )
        },
    ),
    Case::new(
        "proc.fdinfo",
        "proc_pid_fdinfo(5)",
        "pos and flags of a descriptor",
        || {
            let fd = put(c"f", b"abcdef")?;
            gives!(4, lseek(fd, 4, SEEK_SET));
            let text = slurp(&format!("/proc/self/fdinfo/{fd}"))?;
            eq("pos", field(&text, "pos")?, "4".to_string())?;
            let flags = i32::from_str_radix(&field(&text, "flags")?, 8).unwrap_or(-1);
            ensure!(
                flags & O_ACCMODE == O_RDWR && flags & O_CLOEXEC != 0,
                "flags {flags:#o}"
            );
            Ok(())
        },
    ),
    Case::new(
        "proc.maps_regions",
        "proc_pid_maps(5)",
        "ordered, with [stack] and the program",
        || {
            let text = slurp("/proc/self/maps")?;
            let mut last = 0;
            for line in text.lines() {
                let range = line.split(' ').next().unwrap_or("");
                let Some((from, to)) = range.split_once('-') else {
                    fail!("line {line:?}")
                };
                let from = u64::from_str_radix(from, 16).unwrap_or(0);
                let to = u64::from_str_radix(to, 16).unwrap_or(0);
                ensure!(from >= last && to > from, "out of order: {line:?}");
                last = to;
            }
            ensure!(text.contains("[stack]"), "no [stack]");
            let exe = link_of("/proc/self/exe")?;
            ensure!(
                text.lines().any(|l| l.ends_with(&exe)),
                "{exe} is not mapped"
            );
            let here = (&raw const last) as u64;
            let stack = text.lines().find(|l| l.ends_with("[stack]")).unwrap_or("");
            let range = stack
                .split(' ')
                .next()
                .unwrap_or("")
                .split_once('-')
                .unwrap_or(("0", "0"));
            let (from, to) = (
                u64::from_str_radix(range.0, 16),
                u64::from_str_radix(range.1, 16),
            );
            ensure!(
                from.is_ok_and(|a| a <= here) && to.is_ok_and(|b| here < b),
                "{here:#x}: {stack:?}"
            );
            Ok(())
        },
    ),
    Case::new(
        "proc.smaps",
        "proc_pid_smaps(5)",
        "every mapping has Size, Rss and VmFlags",
        || {
            let text = slurp("/proc/self/smaps")?;
            let maps = slurp("/proc/self/maps")?.lines().count();
            for key in ["Size:", "Rss:", "Pss:", "Private_Dirty:", "VmFlags:"] {
                let count = text.lines().filter(|l| l.starts_with(key)).count();
                ensure!(
                    count + 3 >= maps && count > 3,
                    "{key} {count} times for {maps} mappings"
                );
            }
            Ok(())
        },
    ),
    Case::new(
        "proc.mem_shows_code_as_it_is",
        "proc(5)",
        "a call made often does not change the code that makes it, as a debugger sees it",
        || {
            const LEN: usize = 64;
            let code = syscall as *const () as i64;
            let fd = ok!(open(p(c"/proc/self/mem"), O_RDONLY));
            let mut before = [0u8; LEN];
            gives!(
                LEN,
                pread(fd, before.as_mut_ptr().cast(), LEN, code as off_t)
            );
            for _ in 0..200 {
                ok!(syscall(SYS_umask, 0o22));
            }
            let mut after = [0u8; LEN];
            gives!(
                LEN,
                pread(fd, after.as_mut_ptr().cast(), LEN, code as off_t)
            );
            ok!(close(fd));
            eq("code", after, before)?;
            Ok(())
        },
    ),
    Case::new(
        "proc.mem",
        "proc_pid_mem(5)",
        "mem reads and writes our memory at its address",
        || {
            let mut value = 0x1122_3344u32;
            let fd = ok!(open(p(c"/proc/self/mem"), O_RDWR));
            let at = &raw mut value;
            let mut seen = 0u32;
            gives!(4, pread(fd, (&raw mut seen).cast(), 4, at as off_t));
            eq("value", seen, 0x1122_3344)?;
            let new = 7u32;
            gives!(4, pwrite(fd, (&raw const new).cast(), 4, at as off_t));
            eq("value", unsafe { at.read_volatile() }, 7)?;
            err!(EIO, pread(fd, (&raw mut seen).cast(), 4, 0));
            Ok(())
        },
    ),
    Case::new(
        "proc.auxv",
        "proc_pid_auxv(5)",
        "the auxiliary vector, as getauxval tells it",
        || {
            let bytes = std::fs::read("/proc/self/auxv").unwrap_or_default();
            let words: Vec<u64> = bytes
                .chunks_exact(8)
                .map(|c| u64::from_ne_bytes(c.try_into().unwrap_or_default()))
                .collect();
            let find = |key: u64| {
                words
                    .chunks_exact(2)
                    .find(|pair| pair[0] == key)
                    .map(|pair| pair[1])
            };
            eq("AT_PAGESZ", find(AT_PAGESZ), Some(page_size() as u64))?;
            eq("AT_ENTRY", find(AT_ENTRY), Some(raw!(getauxval(AT_ENTRY))))?;
            eq("AT_NULL", find(AT_NULL), Some(0))
        },
    ),
    Case::new(
        "proc.oom_score_adj",
        "proc_pid_oom_score_adj(5)",
        "a value from -1000 to 1000, inherited",
        || {
            let fd = ok!(open(p(c"/proc/self/oom_score_adj"), O_RDWR));
            write_all(fd, b"500")?;
            eq("value", slurp("/proc/self/oom_score_adj")?.trim(), "500")?;
            err!(EINVAL, write(fd, c"1001".as_ptr().cast(), 4));
            in_child(|| {
                eq(
                    "in the child",
                    slurp("/proc/self/oom_score_adj")?.trim(),
                    "500",
                )
            })
        },
    ),
    Case::new(
        "proc.limits",
        "proc_pid_limits(5)",
        "each limit has a line",
        || {
            let text = slurp("/proc/self/limits")?;
            for name in [
                "Max cpu time",
                "Max stack size",
                "Max open files",
                "Max address space",
                "Max processes",
                "Max core file size",
                "Max realtime timeout",
            ] {
                ensure!(
                    text.lines().any(|l| l.starts_with(name)),
                    "no line {name:?}"
                );
            }
            Ok(())
        },
    ),
    Case::new(
        "proc.mounts",
        "proc_pid_mounts(5)",
        "mounts and mountinfo list / and /proc",
        || {
            let text = slurp("/proc/self/mounts")?;
            let points: Vec<&str> = text.lines().filter_map(|l| l.split(' ').nth(1)).collect();
            ensure!(
                points.contains(&"/") && points.contains(&"/proc"),
                "{points:?}"
            );
            eq("link", link_of("/proc/mounts")?, "self/mounts".to_string())?;
            let text = slurp("/proc/self/mountinfo")?;
            for line in text.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                ensure!(words.len() >= 10 && words.contains(&"-"), "line {line:?}");
            }
            let points: Vec<&str> = text.lines().filter_map(|l| l.split(' ').nth(4)).collect();
            ensure!(
                points.contains(&"/") && points.contains(&"/proc"),
                "{points:?}"
            );
            Ok(())
        },
    ),
    Case::new(
        "proc.pid_listing",
        "proc(5)",
        "a child appears in /proc and vanishes after wait",
        || {
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                raw!(close(w));
                let mut b = 0u8;
                raw!(read(r, (&raw mut b).cast(), 1)) as i32
            })?;
            let listed = |pid: pid_t| {
                let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
                entries
                    .into_iter()
                    .any(|e| e.file_name().to_string_lossy() == pid.to_string())
            };
            ensure!(listed(pid), "{pid} is not listed in /proc");
            ok!(close(w));
            expect_exit(pid, 0)?;
            ensure!(!listed(pid), "{pid} is listed after wait");
            err!(
                ENOENT,
                access(cstring(format!("/proc/{pid}/stat")).as_ptr(), F_OK)
            );
            Ok(())
        },
    ),
    Case::new(
        "proc.stale_open",
        "proc(5)",
        "an open file of a dead process gives ESRCH",
        || {
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                raw!(close(w));
                let mut b = 0u8;
                raw!(read(r, (&raw mut b).cast(), 1)) as i32
            })?;
            let fd = ok!(open(
                cstring(format!("/proc/{pid}/stat")).as_ptr(),
                O_RDONLY
            ));
            ok!(close(w));
            expect_exit(pid, 0)?;
            let mut b = [0u8; 8];
            err!(ESRCH, read(fd, b.as_mut_ptr().cast(), 8));
            Ok(())
        },
    ),
    Case::new(
        "proc.read_only",
        "proc(5)",
        "no file can be made, removed or renamed there",
        || {
            err_any!(
                [ENOENT, EACCES, EPERM],
                open(p(c"/proc/new"), O_RDWR | O_CREAT, 0o644)
            );
            err_any!([ENOENT, EPERM, EACCES], mkdir(p(c"/proc/new"), 0o755));
            err_any!([EPERM, EACCES], unlink(p(c"/proc/version")));
            Ok(())
        },
    ),
    Case::new(
        "proc.cpuinfo",
        "proc_cpuinfo(5)",
        "a processor line for each CPU",
        || {
            let text = slurp("/proc/cpuinfo")?;
            let count = text.lines().filter(|l| l.starts_with("processor")).count() as i64;
            eq("processors", count, raw!(sysconf(_SC_NPROCESSORS_ONLN)))
        },
    ),
    Case::new(
        "proc.meminfo",
        "proc_meminfo(5)",
        "MemTotal agrees with sysinfo",
        || {
            let text = slurp("/proc/meminfo")?;
            let total = field(&text, "MemTotal")?;
            let Some(kb) = total.strip_suffix(" kB") else {
                fail!("MemTotal {total:?}")
            };
            let mut info = zeroed::<sysinfo>();
            ok!(sysinfo(&mut info));
            let want = (info.totalram * u64::from(info.mem_unit) / 1024) as i64;
            ensure!(
                (number(kb)? - want).abs() <= want / 50,
                "MemTotal {kb} kB, sysinfo {want} kB"
            );
            for key in ["MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal"] {
                field(&text, key)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "proc.system_stat",
        "proc_stat(5)",
        "cpu, btime and processes; btime is in the past",
        || {
            let text = slurp("/proc/stat")?;
            ensure!(
                text.starts_with("cpu "),
                "first line {:?}",
                text.lines().next()
            );
            let Some(line) = text.lines().find(|l| l.starts_with("btime ")) else {
                fail!("no btime")
            };
            let boot = number(&line[6..])?;
            ensure!(
                boot > 0 && boot <= now(CLOCK_REALTIME)?.tv_sec,
                "btime {boot}"
            );
            ensure!(
                text.lines().any(|l| l.starts_with("processes ")),
                "no processes line"
            );
            Ok(())
        },
    ),
    Case::new(
        "proc.uptime_and_loadavg",
        "proc_uptime(5)",
        "two numbers; five words",
        || {
            let text = slurp("/proc/uptime")?;
            let words: Vec<f64> = text
                .split_whitespace()
                .filter_map(|w| w.parse().ok())
                .collect();
            ensure!(matches!(words[..], [up, _] if up > 0.0), "uptime {text:?}");
            let boot = ns(now(CLOCK_BOOTTIME)?) as f64 / 1e9;
            let near = (boot - words[0]).abs() < 60.0;
            ensure!(near, "uptime {} but CLOCK_BOOTTIME {boot}", words[0]);
            let text = slurp("/proc/loadavg")?;
            let words: Vec<&str> = text.split_whitespace().collect();
            ensure!(
                words.len() == 5 && words[3].contains('/'),
                "loadavg {text:?}"
            );
            Ok(())
        },
    ),
    Case::new(
        "proc.version_and_filesystems",
        "proc_version(5)",
        "Linux version; proc and tmpfs are known",
        || {
            ensure!(
                slurp("/proc/version")?.starts_with("Linux version "),
                "{:?}",
                slurp("/proc/version")
            );
            let text = slurp("/proc/filesystems")?;
            for name in ["proc", "tmpfs"] {
                ensure!(
                    text.lines().any(|l| l == format!("nodev\t{name}")),
                    "no {name} in {text:?}"
                );
            }
            Ok(())
        },
    ),
    Case::new(
        "proc.sys_kernel",
        "proc_sys_kernel(5)",
        "ostype, hostname, pid_max and random",
        || {
            eq("ostype", slurp("/proc/sys/kernel/ostype")?.trim(), "Linux")?;
            let mut name = [0 as c_char; 256];
            ok!(gethostname(name.as_mut_ptr(), 256));
            let name = unsafe { CStr::from_ptr(name.as_ptr()) }
                .to_string_lossy()
                .into_owned();
            eq(
                "hostname",
                slurp("/proc/sys/kernel/hostname")?.trim().to_string(),
                name,
            )?;
            ensure!(
                number(&slurp("/proc/sys/kernel/pid_max")?)? >= 301,
                "pid_max is too small"
            );
            let a = slurp("/proc/sys/kernel/random/uuid")?;
            ensure!(
                a.trim().len() == 36 && a != slurp("/proc/sys/kernel/random/uuid")?,
                "uuid {a:?}"
            );
            eq(
                "boot_id length",
                slurp("/proc/sys/kernel/random/boot_id")?.trim().len(),
                36,
            )
        },
    ),
    Case::new(
        "proc.sys_vm_fs",
        "proc_sys_vm(5)",
        "overcommit_memory, file-max, nr_open, pipe-max-size",
        || {
            ensure!(
                (0..=2).contains(&number(&slurp("/proc/sys/vm/overcommit_memory")?)?),
                "overcommit"
            );
            for name in [
                "vm/max_map_count",
                "fs/file-max",
                "fs/nr_open",
                "fs/pipe-max-size",
            ] {
                ensure!(
                    number(&slurp(&format!("/proc/sys/{name}"))?)? > 0,
                    "{name} is not positive"
                );
            }
            Ok(())
        },
    ),
    Case::new(
        "proc.small_reads",
        "proc(5)",
        "a file reads the same byte by byte",
        || {
            let fd = ok!(open(p(c"/proc/self/limits"), O_RDONLY));
            let mut seen = Vec::new();
            loop {
                let part = read_some(fd, 1)?;
                if part.is_empty() {
                    break;
                }
                seen.extend(part);
            }
            eq(
                "text",
                String::from_utf8_lossy(&seen).into_owned(),
                slurp("/proc/self/limits")?,
            )
        },
    ),
    Case::new(
        "proc.child_children",
        "proc_pid_status(5)",
        "a process's name and parent are seen by others",
        || {
            let (r, w) = pipe_pair()?;
            let (hold_r, hold_w) = pipe_pair()?;
            let pid = child(|| {
                raw!(close(hold_w));
                raw!(prctl(PR_SET_NAME, p(c"kid (1) x")));
                raw!(write(w, c"x".as_ptr().cast(), 1));
                let mut b = 0u8;
                raw!(read(hold_r, (&raw mut b).cast(), 1)) as i32
            })?;
            read_some(r, 1)?;
            let stat = slurp(&format!("/proc/{pid}/stat"))?;
            ensure!(stat.starts_with(&format!("{pid} (kid (1) x) ")), "{stat:?}");
            let status = slurp(&format!("/proc/{pid}/status"))?;
            eq("PPid", field(&status, "PPid")?, getpid_now().to_string())?;
            ok!(close(hold_w));
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "proc.foreign_protected",
        "proc(5)",
        "another user's fd and environ give EACCES",
        || {
            need_root()?;
            let parent = getpid_now();
            as_user(|| {
                let path = cstring(format!("/proc/{parent}/environ"));
                err!(EACCES, open(path.as_ptr(), O_RDONLY));
                let path = cstring(format!("/proc/{parent}/fd"));
                err!(EACCES, open(path.as_ptr(), O_RDONLY));
                slurp(&format!("/proc/{parent}/stat")).map(drop)
            })
        },
    ),
];
