//! The files in /proc's root that speak of the whole machine: what the sandbox has of it.

use std::fmt::Write;
use std::sync::Arc;

use nix::time::ClockId;

use crate::errno::Result;
use crate::kernel::group::Usage;
use crate::kernel::time::{clock_ns, uptime_ns};
use crate::kernel::{Kernel, UTS_RELEASE, UTS_SYSNAME, UTS_VERSION, current};

const TICK_NS: u64 = 10_000_000;

type Made = Result<Vec<u8>>;

/// CPU time of all processes, ended ones included.
pub fn used(kernel: &Kernel) -> Usage {
    let (groups, ended) = {
        let tree = kernel.tree.lock();
        let groups: Vec<_> = tree.nodes.values().map(|n| n.group.clone()).collect();
        let ended = tree
            .nodes
            .values()
            .fold(Usage::default(), |sum, n| sum.plus(n.children_usage));
        (groups, ended)
    };
    groups.iter().fold(ended, |sum, g| sum.plus(g.usage()))
}

/// Tasks that run guest code now (with the one that asks), all, and the id given out last.
fn tasks(kernel: &Kernel) -> (usize, usize, i32) {
    let tree = kernel.tree.lock();
    let me = current::task().map(|t| t.tid());
    let running = tree
        .tasks
        .values()
        .filter(|t| t.is_in_guest() || Some(t.tid()) == me);
    (running.count(), tree.tasks.len(), tree.last_pid())
}

pub fn cpuinfo(kernel: &Arc<Kernel>) -> Made {
    Ok(super::cpuinfo::text(kernel.cpus()))
}

pub fn meminfo(kernel: &Arc<Kernel>) -> Made {
    let total = kernel.memory_total();
    let used = kernel.memory.used().min(total);
    let free = kernel.memory_free();
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("Active(anon)", used),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", total / 2),
        ("Committed_AS", used),
        ("VmallocTotal", 34_359_738_367 * 1024),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
        ("AnonHugePages", 0),
        ("ShmemHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FileHugePages", 0),
        ("FilePmdMapped", 0),
    ];
    let mut text = String::new();
    for (name, bytes) in rows {
        let label = format!("{name}:");
        let _ = writeln!(text, "{label:<16}{:>8} kB", bytes / 1024);
    }
    text.push_str(
        "HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\n\
         HugePages_Surp:        0\nHugepagesize:       2048 kB\nHugetlb:               0 kB\n",
    );
    Ok(text.into_bytes())
}

pub fn stat(kernel: &Arc<Kernel>) -> Made {
    let usage = used(kernel);
    let cpus = kernel.cpus().max(1) as u64;
    let ticks = |ns: u64| ns / TICK_NS;
    let up = ticks(uptime_ns());
    let (user, system) = (ticks(usage.user_ns), ticks(usage.system_ns));
    let idle = (up * cpus).saturating_sub(user + system);
    let mut text = format!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n");
    for cpu in 0..cpus {
        let _ = writeln!(
            text,
            "cpu{cpu} {} 0 {} {} 0 0 0 0 0 0",
            user / cpus,
            system / cpus,
            idle / cpus
        );
    }
    let boot = (clock_ns(ClockId::CLOCK_REALTIME) / 1_000_000_000)
        .saturating_sub(uptime_ns() / 1_000_000_000);
    let (running, _, last) = tasks(kernel);
    let _ = write!(
        text,
        "intr 0\nctxt {}\nbtime {boot}\nprocesses {last}\nprocs_running {running}\n\
         procs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        usage.voluntary_switches,
    );
    Ok(text.into_bytes())
}

pub fn uptime(kernel: &Arc<Kernel>) -> Made {
    let up = uptime_ns();
    let usage = used(kernel);
    let busy = usage.user_ns.saturating_add(usage.system_ns);
    let idle = up.saturating_mul(kernel.cpus() as u64).saturating_sub(busy);
    let hundredths = |ns: u64| format!("{}.{:02}", ns / 1_000_000_000, ns / TICK_NS % 100);
    Ok(format!("{} {}\n", hundredths(up), hundredths(idle)).into_bytes())
}

pub fn loadavg(kernel: &Arc<Kernel>) -> Made {
    let (running, all, last) = tasks(kernel);
    Ok(format!("0.00 0.00 0.00 {running}/{all} {last}\n").into_bytes())
}

pub fn version(_: &Arc<Kernel>) -> Made {
    Ok(format!("{UTS_SYSNAME} version {UTS_RELEASE} (runsc-rs) {UTS_VERSION}\n").into_bytes())
}

/// Types that mount(2) knows, for whoever asks.
pub fn filesystems(_: &Arc<Kernel>) -> Made {
    let types = match current::task() {
        Some(me) => me.fs().namespace().types(),
        None => Vec::new(),
    };
    let mut text = String::new();
    for name in types {
        let _ = writeln!(text, "nodev\t{name}");
    }
    Ok(text.into_bytes())
}

pub fn devices(_: &Arc<Kernel>) -> Made {
    let mut text = String::from("Character devices:\n");
    if let Some(me) = current::task() {
        for (major, name) in me.fs().namespace().devices().drivers() {
            let _ = writeln!(text, "{major:3} {name}");
        }
    }
    text.push_str("\nBlock devices:\n");
    Ok(text.into_bytes())
}

pub fn cmdline(_: &Arc<Kernel>) -> Made {
    Ok(b"\n".to_vec())
}

pub fn partitions(_: &Arc<Kernel>) -> Made {
    Ok(b"major minor  #blocks  name\n\n".to_vec())
}

pub fn swaps(_: &Arc<Kernel>) -> Made {
    Ok(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec())
}

pub fn vmstat(kernel: &Arc<Kernel>) -> Made {
    let pages = |bytes: u64| bytes / 4096;
    let used = kernel.memory.used().min(kernel.memory_total());
    let faults = self::used(kernel).minor_faults;
    let text = format!(
        "nr_free_pages {}\nnr_anon_pages {}\nnr_mapped 0\nnr_file_pages 0\nnr_dirty 0\n\
         nr_writeback 0\nnr_shmem 0\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgfault {faults}\n\
         pgmajfault 0\n",
        pages(kernel.memory_free()),
        pages(used),
    );
    Ok(text.into_bytes())
}

/// No interrupts reach the guest: the heading alone.
pub fn interrupts(kernel: &Arc<Kernel>) -> Made {
    let mut text = String::from("           ");
    for cpu in 0..kernel.cpus() {
        let _ = write!(text, "{:<11}", format!("CPU{cpu}"));
    }
    text.push('\n');
    Ok(text.into_bytes())
}

pub fn empty(_: &Arc<Kernel>) -> Made {
    Ok(Vec::new())
}
