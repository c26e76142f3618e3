//! The small files of /proc/PID: settings that may be written, limits, counters, mounts.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::subject::{Scope, Subject, reader_root};
use crate::errno::{Errno, Result};
use crate::kernel::cred::Cap;
use crate::kernel::current;
use crate::kernel::limits::RLIM_INFINITY;

/// Longest text of a number that is written.
const NUMBER_LEN: usize = 12;

fn line(value: impl std::fmt::Display) -> Result<Vec<u8>> {
    Ok(format!("{value}\n").into_bytes())
}

/// A number as Linux parses one that is written: decimal, octal or hexadecimal, spaces around it.
pub(super) fn parse_number(data: &[u8]) -> Result<i64> {
    let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(rest) => (16, rest),
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return Err(Errno::EINVAL);
    }
    let value = i64::from_str_radix(digits, radix).map_err(|_| Errno::EINVAL)?;
    Ok(if negative { -value } else { value })
}

/// A write that nobody may do.
pub fn refuse(_: &Subject, _: &[u8]) -> Result<usize> {
    Err(Errno::EPERM)
}

/// A write of a number without effect.
pub fn accept(_: &Subject, data: &[u8]) -> Result<usize> {
    parse_number(data)?;
    Ok(data.len())
}

pub fn comm(subject: &Subject) -> Result<Vec<u8>> {
    let (comm, _) = subject.face()?;
    let mut text: Vec<u8> = comm.iter().copied().take_while(|b| *b != 0).collect();
    text.push(b'\n');
    Ok(text)
}

/// Only threads of the process itself may.
pub fn set_comm(subject: &Subject, data: &[u8]) -> Result<usize> {
    let task = subject.task()?;
    if current::task().is_some() && !subject.is_own() {
        return Err(Errno::EINVAL);
    }
    // A NUL ends the name; a newline at the end belongs to it, as on Linux.
    let name = &data[..data.len().min(15)];
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    task.set_comm(&name[..end]);
    Ok(data.len())
}

pub fn limits(subject: &Subject) -> Result<Vec<u8>> {
    const ROWS: [(&str, &str, u32); 16] = [
        ("Max cpu time", "seconds", libc::RLIMIT_CPU),
        ("Max file size", "bytes", libc::RLIMIT_FSIZE),
        ("Max data size", "bytes", libc::RLIMIT_DATA),
        ("Max stack size", "bytes", libc::RLIMIT_STACK),
        ("Max core file size", "bytes", libc::RLIMIT_CORE),
        ("Max resident set", "bytes", libc::RLIMIT_RSS),
        ("Max processes", "processes", libc::RLIMIT_NPROC),
        ("Max open files", "files", libc::RLIMIT_NOFILE),
        ("Max locked memory", "bytes", libc::RLIMIT_MEMLOCK),
        ("Max address space", "bytes", libc::RLIMIT_AS),
        ("Max file locks", "locks", libc::RLIMIT_LOCKS),
        ("Max pending signals", "signals", libc::RLIMIT_SIGPENDING),
        ("Max msgqueue size", "bytes", libc::RLIMIT_MSGQUEUE),
        ("Max nice priority", "", libc::RLIMIT_NICE),
        ("Max realtime priority", "", libc::RLIMIT_RTPRIO),
        ("Max realtime timeout", "us", libc::RLIMIT_RTTIME),
    ];
    let limits = *subject.group()?.limits.lock();
    let value = |v: u64| match v {
        RLIM_INFINITY => "unlimited".to_owned(),
        v => v.to_string(),
    };
    let mut text = format!(
        "{:<25} {:<20} {:<20} {:<10}\n",
        "Limit", "Soft Limit", "Hard Limit", "Units"
    );
    for (name, unit, resource) in ROWS {
        let Some(limit) = limits.get(resource) else {
            continue;
        };
        let _ = write!(
            text,
            "{name:<25} {:<20} {:<20} ",
            value(limit.soft),
            value(limit.hard)
        );
        let _ = match unit {
            "" => writeln!(text),
            unit => writeln!(text, "{unit:<10}"),
        };
    }
    Ok(text.into_bytes())
}

pub fn io(subject: &Subject) -> Result<Vec<u8>> {
    let group = subject.group()?;
    let io = &group.io;
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let text = format!(
        "rchar: {}\nwchar: {}\nsyscr: {}\nsyscw: {}\nread_bytes: 0\nwrite_bytes: 0\n\
         cancelled_write_bytes: 0\n",
        get(&io.rchar),
        get(&io.wchar),
        get(&io.syscr),
        get(&io.syscw),
    );
    Ok(text.into_bytes())
}

pub fn schedstat(subject: &Subject) -> Result<Vec<u8>> {
    let usage = match subject.task() {
        Ok(task) => task.usage(),
        Err(_) => subject.group()?.usage(),
    };
    let run = usage.user_ns.saturating_add(usage.system_ns);
    line(format_args!("{run} 0 {}", usage.voluntary_switches))
}

/// The system call a thread waits in, its arguments and where it stands.
pub fn syscall(subject: &Subject) -> Result<Vec<u8>> {
    let task = subject.task()?;
    let own = current::task().is_some_and(|me| std::sync::Arc::ptr_eq(&me, &task));
    if task.is_in_guest() {
        return line("running");
    }
    let regs = task.regs.lock();
    if own || subject.group()?.is_stopped() {
        let args = regs.syscall_args();
        return line(format_args!(
            "{} {:#x} {:#x} {:#x} {:#x} {:#x} {:#x} {:#x} {:#x}",
            regs.syscall_number() as i64,
            args[0],
            args[1],
            args[2],
            args[3],
            args[4],
            args[5],
            regs.stack_pointer(),
            regs.rip,
        ));
    }
    line(format_args!(
        "-1 {:#x} {:#x}",
        regs.stack_pointer(),
        regs.rip
    ))
}

/// Children that the thread made. They are kept by process here: the main thread has them all.
pub fn children(subject: &Subject) -> Result<Vec<u8>> {
    subject.group()?;
    if subject.tid != subject.pid {
        return Ok(Vec::new());
    }
    let tree = subject.kernel.tree.lock();
    let node = tree.node(subject.pid).ok_or(Errno::ESRCH)?;
    let ids = node.children.iter().map(|pid| format!("{pid} "));
    Ok(ids.collect::<String>().into_bytes())
}

pub fn mounts(subject: &Subject) -> Result<Vec<u8>> {
    let fs = subject.task()?.fs();
    Ok(fs.namespace().mounts(&fs.root()))
}

pub fn mountinfo(subject: &Subject) -> Result<Vec<u8>> {
    let fs = subject.task()?.fs();
    Ok(fs.namespace().mountinfo(&fs.root()))
}

pub fn mountstats(subject: &Subject) -> Result<Vec<u8>> {
    let root = reader_root(subject)?;
    let mut text = Vec::new();
    for mount in subject.task()?.fs().namespace().list() {
        let place = mount.root_path().text(&root);
        if !place.reachable {
            continue;
        }
        text.extend_from_slice(b"device ");
        let source: &[u8] = if mount.source.is_empty() {
            b"none"
        } else {
            &mount.source
        };
        text.extend_from_slice(source);
        text.extend_from_slice(b" mounted on ");
        text.extend_from_slice(&place.text);
        text.extend_from_slice(format!(" with fstype {}\n", mount.fs.kind).as_bytes());
    }
    Ok(text)
}

/// 1 to 5; there are no referenced bits to clear.
pub fn clear_refs(subject: &Subject, data: &[u8]) -> Result<usize> {
    subject.group()?;
    match parse_number(data)? {
        1..=5 => Ok(data.len()),
        _ => Err(Errno::EINVAL),
    }
}

/// How likely the process would be ended for lack of memory: its share in thousandths, moved by
/// oom_score_adj.
pub fn oom_score(subject: &Subject) -> Result<Vec<u8>> {
    let adj = i64::from(subject.group()?.oom_score_adj.load(Ordering::Relaxed));
    let rss = subject.mm().map_or(0, |mm| mm.totals().rss);
    let total = subject.kernel.memory_total().max(1);
    let share = i64::try_from(rss.saturating_mul(1000) / total).unwrap_or(1000);
    let score = if adj == -1000 {
        0
    } else {
        (1000 + share.min(1000) + adj).max(0) * 2 / 3
    };
    line(score)
}

pub fn oom_score_adj(subject: &Subject) -> Result<Vec<u8>> {
    line(subject.group()?.oom_score_adj.load(Ordering::Relaxed))
}

pub fn set_oom_score_adj(subject: &Subject, data: &[u8]) -> Result<usize> {
    let data = &data[..data.len().min(NUMBER_LEN)];
    let value = parse_number(data)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    store_oom(subject, value as i32)?;
    Ok(data.len())
}

/// Going below what it is takes CAP_SYS_RESOURCE.
fn store_oom(subject: &Subject, value: i32) -> Result<()> {
    let group = subject.group()?;
    let old = group.oom_score_adj.load(Ordering::Relaxed);
    let may = current::task().is_none_or(|me| me.creds().has_cap(Cap::SysResource));
    if value < old && !may {
        return Err(Errno::EACCES);
    }
    group.oom_score_adj.store(value, Ordering::Relaxed);
    Ok(())
}

/// The older scale from -17 to 15.
pub fn oom_adj(subject: &Subject) -> Result<Vec<u8>> {
    let adj = subject.group()?.oom_score_adj.load(Ordering::Relaxed);
    line(match adj {
        1000 => 15,
        adj => adj * 17 / 1000,
    })
}

pub fn set_oom_adj(subject: &Subject, data: &[u8]) -> Result<usize> {
    let data = &data[..data.len().min(NUMBER_LEN)];
    let value = match parse_number(data)? {
        15 => 1000,
        value @ -17..=14 => value * 1000 / 17,
        _ => return Err(Errno::EINVAL),
    };
    store_oom(subject, value as i32)?;
    Ok(data.len())
}

/// An audit id that was never set; without a newline, as on Linux.
pub fn unset_id(subject: &Subject) -> Result<Vec<u8>> {
    subject.group()?;
    Ok(u32::MAX.to_string().into_bytes())
}

pub fn coredump_filter(subject: &Subject) -> Result<Vec<u8>> {
    subject.group()?;
    line("00000033")
}

/// Ids of the container are shown as they are.
pub fn id_map(subject: &Subject) -> Result<Vec<u8>> {
    subject.group()?;
    line(format_args!("{:>10} {:>10} {:>10}", 0, 0, u32::MAX))
}

pub fn setgroups(subject: &Subject) -> Result<Vec<u8>> {
    subject.group()?;
    line("allow")
}

pub fn timer_slack(subject: &Subject) -> Result<Vec<u8>> {
    let task = slack_of(subject)?;
    line(task.timer_slack_ns.load(Ordering::Relaxed))
}

/// Others need CAP_SYS_NICE.
fn slack_of(subject: &Subject) -> Result<std::sync::Arc<crate::kernel::task::Task>> {
    let task = subject.task()?;
    let may =
        current::task().is_none_or(|me| me.tid() == task.tid() || me.creds().has_cap(Cap::SysNice));
    if may { Ok(task) } else { Err(Errno::EPERM) }
}

pub fn set_timer_slack(subject: &Subject, data: &[u8]) -> Result<usize> {
    let value = u64::try_from(parse_number(data)?).map_err(|_| Errno::EINVAL)?;
    let task = slack_of(subject)?;
    let value = if value == 0 { 50_000 } else { value };
    task.timer_slack_ns.store(value, Ordering::Relaxed);
    debug_assert!(subject.scope == Scope::Process);
    Ok(data.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_linux_reads_them() {
        let cases: [(&[u8], Result<i64>); 10] = [
            (b"12\n", Ok(12)),
            (b" -5 ", Ok(-5)),
            (b"0x10", Ok(16)),
            (b"010", Ok(8)),
            (b"0", Ok(0)),
            (b"+3", Ok(3)),
            (b"", Err(Errno::EINVAL)),
            (b"--3", Err(Errno::EINVAL)),
            (b"12 13", Err(Errno::EINVAL)),
            (b"\xff", Err(Errno::EINVAL)),
        ];
        for (text, want) in cases {
            assert_eq!(parse_number(text), want, "{text:?}");
        }
    }
}
