//! /proc/PID/stat, statm and status (proc_pid_stat(5), proc_pid_status(5)).

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::subject::{Scope, Subject};
use crate::errno::Result;
use crate::kernel::cred::{CapSet, Credentials, Gid};
use crate::kernel::current;
use crate::kernel::group::{ExitStatus, ThreadGroup, Usage};
use crate::kernel::signal::{NSIG, SIG_DFL, SIG_IGN, SigSet, Signal};
use crate::kernel::task::Task;
use crate::kernel::time::{MonoTime, since_boot_ns};
use crate::mm::types::{Layout, PAGE_SIZE, Totals, page_up};

/// Nanoseconds of a clock tick (USER_HZ is 100).
const TICK_NS: u64 = 10_000_000;
/// Flags of a task in /proc/PID/stat.
const PF_FORKNOEXEC: u64 = 0x40;
const PF_RANDOMIZE: u64 = 0x40_0000;

/// Everything the three files show, gathered once.
struct View {
    group: Arc<ThreadGroup>,
    /// None: a zombie.
    task: Option<Arc<Task>>,
    comm: Vec<u8>,
    creds: Arc<Credentials>,
    parent: i32,
    pgid: i32,
    sid: i32,
    /// Device number of the terminal as stat(5) codes it, and its foreground group.
    tty: (u32, i32),
    status: Option<ExitStatus>,
    usage: Usage,
    children: Usage,
    threads: usize,
    memory: Option<(Totals, Layout)>,
    signals: Signals,
}

/// Signal sets.
#[derive(Default)]
struct Signals {
    own: SigSet,
    shared: SigSet,
    blocked: SigSet,
    ignored: SigSet,
    caught: SigSet,
    queued: usize,
}

impl View {
    fn of(subject: &Subject) -> Result<View> {
        let group = subject.group()?;
        let task = subject.task().ok();
        let (comm, creds) = subject.face()?;
        let (parent, pgid, sid, tty, status, children) = {
            let tree = subject.kernel.tree.lock();
            let node = tree.node(subject.pid).ok_or(crate::errno::Errno::ESRCH)?;
            let session = tree.sessions.get(&node.sid);
            let tty = session.and_then(|s| s.terminal.as_ref().map(|t| (t.device(), s.foreground)));
            let tty = tty.map_or((0, -1), |(dev, foreground)| {
                let code = dev.minor & 0xff | dev.major << 8 | (dev.minor & !0xff) << 12;
                (code, if foreground == 0 { -1 } else { foreground })
            });
            let status = node.zombie.map(|z| z.status);
            (
                node.parent,
                node.pgid,
                node.sid,
                tty,
                status,
                node.children_usage,
            )
        };
        let usage = match (&task, subject.scope) {
            (Some(task), Scope::Thread) => task.usage(),
            _ => group.usage(),
        };
        let mm = task.as_ref().and_then(|t| t.try_mm().ok());
        Ok(View {
            // A zombie counts as one.
            threads: group.task_count().max(1),
            comm: comm.iter().copied().take_while(|b| *b != 0).collect(),
            signals: Signals::of(&group, task.as_deref()),
            memory: mm.map(|mm| (mm.totals(), mm.layout())),
            group,
            task,
            creds,
            parent,
            pgid,
            sid,
            tty,
            status,
            usage,
            children,
        })
    }

    fn state(&self) -> char {
        let Some(task) = &self.task else {
            return if self.group.is_adopter() { 'S' } else { 'Z' };
        };
        let own = current::task().is_some_and(|me| Arc::ptr_eq(&me, task));
        if self.group.is_stopped() && !own {
            'T'
        } else if own || task.is_in_guest() {
            'R'
        } else {
            'S'
        }
    }
}

impl Signals {
    fn of(group: &ThreadGroup, task: Option<&Task>) -> Signals {
        let mut signals = Signals::default();
        {
            let shared = group.signals.lock();
            signals.shared = shared.pending.set();
            signals.queued = shared.pending.len();
        }
        if let Some(task) = task {
            let own = task.signals.lock();
            signals.own = own.pending.set();
            signals.blocked = own.blocked;
            signals.queued += own.pending.len();
            drop(own);
            let actions = group.actions();
            let actions = actions.lock();
            for signal in (1..=NSIG).filter_map(Signal::new) {
                match actions.get(signal).handler {
                    SIG_DFL => {}
                    SIG_IGN => signals.ignored = signals.ignored.with(signal),
                    _ => signals.caught = signals.caught.with(signal),
                }
            }
        }
        signals
    }
}

/// The program's text in bytes, whole pages.
fn text_size(layout: &Layout) -> u64 {
    let start = layout.start_code & !(PAGE_SIZE - 1);
    page_up(layout.end_code).unwrap_or(0).saturating_sub(start)
}

/// /proc/PID/stat.
pub fn stat(subject: &Subject) -> Result<Vec<u8>> {
    let view = View::of(subject)?;
    let shown = subject.may_look();
    let (totals, layout) = view.memory.clone().unwrap_or_default();
    let alive = view.memory.is_some();
    // Addresses are for those who may look into the process.
    let place = |address: u64| if shown { address } else { 0 };
    let code = |address: u64| match (alive, shown) {
        (false, _) => 0,
        (true, true) => address,
        (true, false) => 1,
    };
    let started = since_boot_ns(MonoTime::from_ns(view.group.start_ns));
    let (policy, priority) = view.task.as_ref().map_or((0, 0), |t| *t.sched.lock());
    let nice = view.group.nice.load(Ordering::Relaxed);
    let realtime = matches!(policy, libc::SCHED_FIFO | libc::SCHED_RR);
    let shown_priority = if realtime { -1 - priority } else { 20 + nice };
    let mut flags = PF_RANDOMIZE;
    if !view.group.did_exec.load(Ordering::Relaxed) {
        flags |= PF_FORKNOEXEC;
    }
    let exit_code = match view.status {
        Some(status) if shown => status.wait_word(),
        _ => 0,
    };
    let exit_signal = match subject.scope {
        Scope::Process => view.group.exit_signal.load(Ordering::Relaxed),
        Scope::Thread if subject.tid == subject.pid => {
            view.group.exit_signal.load(Ordering::Relaxed)
        }
        Scope::Thread => -1,
    };
    let processor =
        view.task.as_ref().map_or(0, |t| t.home.worker().0) % subject.kernel.cpus().max(1);
    let low = |set: SigSet| set.0 & 0x7fff_ffff;
    let ticks = |ns: u64| ns / TICK_NS;
    let limit = view.group.limits.lock().soft(libc::RLIMIT_RSS);

    let mut text = format!("{} (", subject.tid).into_bytes();
    text.extend_from_slice(&view.comm);
    let rest = [
        format!(") {}", view.state()),
        view.parent.to_string(),
        view.pgid.to_string(),
        view.sid.to_string(),
        view.tty.0.to_string(),
        view.tty.1.to_string(),
        flags.to_string(),
        view.usage.minor_faults.to_string(),
        view.children.minor_faults.to_string(),
        view.usage.major_faults.to_string(),
        view.children.major_faults.to_string(),
        ticks(view.usage.user_ns).to_string(),
        ticks(view.usage.system_ns).to_string(),
        ticks(view.children.user_ns).to_string(),
        ticks(view.children.system_ns).to_string(),
        shown_priority.to_string(),
        nice.to_string(),
        view.threads.to_string(),
        "0".to_owned(),
        ticks(started).to_string(),
        totals.vm.to_string(),
        (totals.rss / PAGE_SIZE).to_string(),
        limit.to_string(),
        code(layout.start_code).to_string(),
        code(layout.end_code).to_string(),
        place(layout.start_stack).to_string(),
        // esp and eip: only while it dumps core.
        "0 0".to_owned(),
        low(view.signals.own).to_string(),
        low(view.signals.blocked).to_string(),
        low(view.signals.ignored).to_string(),
        low(view.signals.caught).to_string(),
        // wchan, nswap, cnswap
        format!("{} 0 0", u8::from(shown && view.state() == 'S')),
        exit_signal.to_string(),
        processor.to_string(),
        (if realtime { priority } else { 0 }).to_string(),
        policy.to_string(),
        // delayacct_blkio_ticks, guest_time, cguest_time
        "0 0 0".to_owned(),
        place(layout.start_data).to_string(),
        place(layout.end_data).to_string(),
        place(layout.start_brk).to_string(),
        place(layout.arg_start).to_string(),
        place(layout.arg_end).to_string(),
        place(layout.env_start).to_string(),
        place(layout.env_end).to_string(),
        exit_code.to_string(),
    ];
    text.extend_from_slice(rest.join(" ").as_bytes());
    text.push(b'\n');
    Ok(text)
}

/// /proc/PID/statm.
pub fn statm(subject: &Subject) -> Result<Vec<u8>> {
    let (totals, layout) = match subject.mm() {
        Ok(mm) => (mm.totals(), mm.layout()),
        Err(_) => {
            subject.group()?;
            Default::default()
        }
    };
    let pages = |bytes: u64| bytes / PAGE_SIZE;
    let text = format!(
        "{} {} {} {} 0 {} 0\n",
        pages(totals.vm),
        pages(totals.rss),
        pages(totals.rss_file + totals.rss_shmem),
        pages(text_size(&layout)),
        pages(totals.data + totals.stack),
    );
    Ok(text.into_bytes())
}

/// A list of bits as ranges: `0-3,5`.
pub fn ranges(bits: impl IntoIterator<Item = usize>) -> String {
    let mut text = String::new();
    let mut run: Option<(usize, usize)> = None;
    let mut put = |run: Option<(usize, usize)>| {
        let Some((first, last)) = run else { return };
        if !text.is_empty() {
            text.push(',');
        }
        let _ = match first == last {
            true => write!(text, "{first}"),
            false => write!(text, "{first}-{last}"),
        };
    };
    for bit in bits {
        run = match run {
            Some((first, last)) if bit == last + 1 => Some((first, bit)),
            old => {
                put(old);
                Some((bit, bit))
            }
        };
    }
    put(run);
    text
}

/// A mask of `cpus` bits as Linux prints bitmaps: 32 bits a group, no wider than it needs to be.
pub fn mask(bits: u64, cpus: usize) -> String {
    let groups = cpus.div_ceil(32).max(1);
    let mut parts = Vec::new();
    for group in (0..groups).rev() {
        let shift = group * 32;
        let value = bits.checked_shr(shift as u32).unwrap_or(0) as u32;
        let width = (cpus - shift).min(32).div_ceil(4).max(1);
        parts.push(format!("{value:0width$x}"));
    }
    parts.join(",")
}

/// /proc/PID/status.
pub fn status(subject: &Subject) -> Result<Vec<u8>> {
    let view = View::of(subject)?;
    let mut text = b"Name:\t".to_vec();
    for &byte in &view.comm {
        match byte {
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\\' => text.extend_from_slice(b"\\\\"),
            byte => text.push(byte),
        }
    }
    let mut rest = String::from("\n");
    identity(&mut rest, subject, &view);
    memory(&mut rest, &view);
    rights(&mut rest, subject, &view);
    text.extend_from_slice(rest.as_bytes());
    Ok(text)
}

fn identity(text: &mut String, subject: &Subject, view: &View) {
    if let Some(task) = &view.task {
        let _ = writeln!(text, "Umask:\t{:04o}", task.fs().umask());
    }
    let state = match view.state() {
        'R' => "R (running)",
        'S' => "S (sleeping)",
        'T' => "T (stopped)",
        _ => "Z (zombie)",
    };
    let tid = subject.tid;
    let pid = subject.pid;
    let parent = view.parent;
    let creds = &view.creds;
    let files = view.task.as_ref().and_then(|t| t.try_files().ok());
    let size = files.map_or(0, |f| f.capacity());
    let groups: Vec<String> = creds.groups.iter().map(Gid::to_string).collect();
    let _ = write!(
        text,
        "State:\t{state}\nTgid:\t{pid}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{parent}\nTracerPid:\t0\n\
         Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{size}\nGroups:\t{} \n",
        creds.ruid,
        creds.euid,
        creds.suid,
        creds.fsuid,
        creds.rgid,
        creds.egid,
        creds.sgid,
        creds.fsgid,
        groups.join(" "),
    );
    let (pgid, sid) = (view.pgid, view.sid);
    let _ = write!(
        text,
        "NStgid:\t{pid}\nNSpid:\t{tid}\nNSpgid:\t{pgid}\nNSsid:\t{sid}\n"
    );
}

fn memory(text: &mut String, view: &View) {
    let Some((totals, layout)) = &view.memory else {
        return;
    };
    // What page tables for that much memory take.
    let tables = (totals.rss / (512 * PAGE_SIZE) + 4) * PAGE_SIZE;
    let exe = text_size(layout);
    let rows = [
        ("VmPeak", totals.vm_peak),
        ("VmSize", totals.vm),
        ("VmLck", totals.locked),
        ("VmPin", 0),
        ("VmHWM", totals.rss_peak),
        ("VmRSS", totals.rss),
        ("RssAnon", totals.rss_anon),
        ("RssFile", totals.rss_file),
        ("RssShmem", totals.rss_shmem),
        ("VmData", totals.data),
        ("VmStk", totals.stack),
        ("VmExe", exe),
        ("VmLib", totals.exec.saturating_sub(exe)),
        ("VmPTE", tables),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ];
    for (name, bytes) in rows {
        let _ = writeln!(text, "{name}:\t{:8} kB", bytes / 1024);
    }
    text.push_str("CoreDumping:\t0\nTHP_enabled:\t1\n");
}

fn rights(text: &mut String, subject: &Subject, view: &View) {
    let signals = &view.signals;
    let limit = view.group.limits.lock().soft(libc::RLIMIT_SIGPENDING);
    let _ = write!(
        text,
        "Threads:\t{}\nSigQ:\t{}/{limit}\n",
        view.threads, signals.queued
    );
    let sets = [
        ("SigPnd", signals.own),
        ("ShdPnd", signals.shared),
        ("SigBlk", signals.blocked),
        ("SigIgn", signals.ignored),
        ("SigCgt", signals.caught),
    ];
    for (name, set) in sets {
        let _ = writeln!(text, "{name}:\t{:016x}", set.0);
    }
    let creds = &view.creds;
    let sets = [
        ("CapInh", creds.inheritable),
        ("CapPrm", creds.permitted),
        ("CapEff", creds.effective),
        ("CapBnd", creds.bounding),
        ("CapAmb", creds.ambient),
    ];
    for (name, set) in sets {
        let CapSet(bits) = set;
        let _ = writeln!(text, "{name}:\t{bits:016x}");
    }
    let cpus = subject.kernel.cpus().clamp(1, 64);
    let affinity = view
        .task
        .as_ref()
        .map_or(u64::MAX, |t| t.affinity.load(Ordering::Relaxed))
        & (u64::MAX >> (64 - cpus));
    let seccomp = view.task.as_ref().and_then(|t| t.seccomp());
    let mode = seccomp.as_ref().map_or(0, |s| s.mode());
    let count = seccomp.as_ref().map_or(0, |s| s.count());
    let allowed = (0..cpus).filter(|cpu| affinity >> cpu & 1 != 0);
    let _ = write!(
        text,
        "NoNewPrivs:\t{}\nSeccomp:\t{mode}\nSeccomp_filters:\t{count}\n\
         Speculation_Store_Bypass:\tunknown\nSpeculationIndirectBranch:\tunknown\n\
         Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\nMems_allowed:\t{}00000001\n\
         Mems_allowed_list:\t0\nvoluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
        u8::from(creds.no_new_privs),
        mask(affinity, cpus),
        ranges(allowed),
        "00000000,".repeat(31),
        view.usage.voluntary_switches,
        view.usage.involuntary_switches,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_as_text() {
        assert_eq!(ranges([]), "");
        assert_eq!(ranges([0, 1, 2, 3, 5, 7, 8]), "0-3,5,7-8");
        assert_eq!(mask(3, 2), "3");
        assert_eq!(mask(0xff, 8), "ff");
        assert_eq!(mask(1, 9), "001");
        assert_eq!(mask(u64::MAX, 64), "ffffffff,ffffffff");
        assert_eq!(mask(1, 40), "00,00000001");
    }
}
