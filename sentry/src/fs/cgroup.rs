//! The container's control group, to be read: limits and use, in the files where programs look for
//! them (cgroups(7)). Version 2 is one tree; version 1 has one for each few controllers, which are
//! mounted in directories of a tmpfs. The group is its own root, as in a cgroup namespace.
//!
//! Deliberately absent: groups of the guest's own, and writing.

use std::fmt::Write;
use std::sync::Arc;

use crate::config::CgroupLayout;
use crate::errno::{Errno, Result};
use crate::fs::inode::Inode;
use crate::fs::kernfs::{Head, StaticDir, Super, Text};
use crate::fs::mount::FileSystem;
use crate::fs::proc::{ranges, used};
use crate::kernel::Kernel;
use crate::kernel::resources::task_count;

/// CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC.
const MAGIC_V1: u64 = 0x27_e0eb;
const MAGIC_V2: u64 = 0x6367_7270;
/// "No limit" of v1's memory: the largest number of whole pages.
const UNLIMITED_V1: u64 = 0x7fff_ffff_ffff_f000;
/// Linux's default period of CPU quotas, µs.
const PERIOD_US: u64 = 100_000;
const TICK_NS: u64 = 10_000_000;

type Made = fn(&Kernel) -> String;
type File = (&'static str, Made);

/// A hierarchy of v1: its directory below /sys/fs/cgroup, which is also its mount option, its number
/// in /proc/PID/cgroup, and its files.
pub struct Hierarchy {
    pub name: &'static str,
    pub number: u32,
    files: &'static [&'static [File]],
}

/// What v1 has here.
pub const HIERARCHIES: &[Hierarchy] = &[
    Hierarchy {
        name: "cpu,cpuacct",
        number: 1,
        files: &[COMMON_V1, CPU_V1],
    },
    Hierarchy {
        name: "cpuset",
        number: 2,
        files: &[COMMON_V1, CPUSET_V1],
    },
    Hierarchy {
        name: "memory",
        number: 3,
        files: &[COMMON_V1, MEMORY_V1],
    },
    Hierarchy {
        name: "pids",
        number: 4,
        files: &[COMMON_V1, PIDS],
    },
];

/// Other names of v1's hierarchies, for symlinks.
pub const ALIASES: &[(&str, &str)] = &[("cpu", "cpu,cpuacct"), ("cpuacct", "cpu,cpuacct")];

/// A mount of version 2.
pub fn mount_v2(kernel: &Arc<Kernel>) -> Arc<FileSystem> {
    let files = &[CORE_V2, MEMORY_V2, CPU_V2, PIDS];
    tree(kernel, "cgroup2", MAGIC_V2, files, String::new())
}

/// A mount of one hierarchy of version 1.
pub fn mount_v1(kernel: &Arc<Kernel>, hierarchy: &Hierarchy) -> Arc<FileSystem> {
    let options = hierarchy.name.to_owned();
    tree(kernel, "cgroup", MAGIC_V1, hierarchy.files, options)
}

fn tree(
    kernel: &Arc<Kernel>,
    kind: &'static str,
    magic: u64,
    files: &'static [&'static [File]],
    options: String,
) -> Arc<FileSystem> {
    let sb = Super::new(magic, Errno::EROFS);
    let head = Head::new(&sb, 0o555);
    let mut dir = StaticDir::new();
    for (name, made) in files.iter().copied().flatten() {
        let kernel = kernel.clone();
        let text: Arc<dyn Inode> = Text::made(Head::new(&sb, 0o444), move || {
            let mut text = made(&kernel);
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            Ok(text.into_bytes())
        });
        dir.add(name, text);
    }
    FileSystem::new(kind, sb.dev, dir.build_with(head), options)
}

/// /proc/PID/cgroup.
pub fn membership(kernel: &Kernel) -> Vec<u8> {
    let mut text = String::new();
    match kernel.resources.limits().layout {
        CgroupLayout::V1 => {
            for hierarchy in HIERARCHIES.iter().rev() {
                let _ = writeln!(text, "{}:{}:/", hierarchy.number, hierarchy.name);
            }
        }
        CgroupLayout::V2 => text.push_str("0::/\n"),
    }
    text.into_bytes()
}

/// /proc/cgroups.
pub fn controllers(kernel: &Arc<Kernel>) -> Result<Vec<u8>> {
    let mut text = String::from("#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    for hierarchy in HIERARCHIES {
        let number = match kernel.resources.limits().layout {
            CgroupLayout::V1 => hierarchy.number,
            CgroupLayout::V2 => 0,
        };
        for controller in hierarchy.name.split(',') {
            let _ = writeln!(text, "{controller}\t{number}\t1\t1");
        }
    }
    Ok(text.into_bytes())
}

const COMMON_V1: &[File] = &[
    ("cgroup.clone_children", |_| "0".into()),
    ("cgroup.procs", processes),
    ("notify_on_release", |_| "0".into()),
    ("tasks", |k| lines(k.tree.lock().tasks.keys().copied())),
];

const CPU_V1: &[File] = &[
    ("cpu.cfs_period_us", |k| period(k).to_string()),
    ("cpu.cfs_quota_us", |k| match k.resources.limits().cpu {
        Some(quota) => quota.quota_us.to_string(),
        None => "-1".into(),
    }),
    ("cpu.shares", |k| shares(k).to_string()),
    ("cpu.stat", |_| {
        "nr_periods 0\nnr_throttled 0\nthrottled_time 0".into()
    }),
    ("cpuacct.usage", |k| cpu_ns(k).to_string()),
    ("cpuacct.stat", |k| {
        let usage = used(k);
        let (user, system) = (usage.user_ns / TICK_NS, usage.system_ns / TICK_NS);
        format!("user {user}\nsystem {system}")
    }),
];

const CPUSET_V1: &[File] = &[
    ("cpuset.cpus", |k| ranges(0..k.cpus())),
    ("cpuset.effective_cpus", |k| ranges(0..k.cpus())),
    ("cpuset.mems", |_| "0".into()),
    ("cpuset.effective_mems", |_| "0".into()),
];

const MEMORY_V1: &[File] = &[
    ("memory.failcnt", |k| k.resources.ooms().0.to_string()),
    ("memory.limit_in_bytes", limit_v1),
    ("memory.memsw.limit_in_bytes", limit_v1),
    ("memory.memsw.usage_in_bytes", usage),
    ("memory.oom_control", |k| {
        let (_, kills) = k.resources.ooms();
        format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}")
    }),
    ("memory.soft_limit_in_bytes", |_| UNLIMITED_V1.to_string()),
    ("memory.stat", |k| {
        let (used, limit) = (k.memory.used(), limit_v1(k));
        format!(
            "cache 0\nrss {used}\nmapped_file 0\nswap 0\ninactive_anon 0\nactive_anon {used}\n\
             inactive_file 0\nactive_file 0\nunevictable 0\nhierarchical_memory_limit {limit}\n\
             hierarchical_memsw_limit {limit}\ntotal_cache 0\ntotal_rss {used}\n\
             total_inactive_file 0\ntotal_active_file 0"
        )
    }),
    ("memory.swappiness", |_| "60".into()),
    ("memory.usage_in_bytes", usage),
    ("memory.use_hierarchy", |_| "1".into()),
];

const PIDS: &[File] = &[
    ("pids.current", |k| task_count(&k.tree.lock()).to_string()),
    ("pids.events", |k| {
        format!("max {}", k.resources.tasks_refused())
    }),
    ("pids.max", |k| match k.resources.tasks() {
        Some(limit) => limit.to_string(),
        None => "max".into(),
    }),
];

const CORE_V2: &[File] = &[
    ("cgroup.controllers", |_| "cpuset cpu memory pids".into()),
    ("cgroup.events", |_| "populated 1\nfrozen 0".into()),
    ("cgroup.max.depth", |_| "max".into()),
    ("cgroup.max.descendants", |_| "max".into()),
    ("cgroup.procs", processes),
    ("cgroup.stat", |_| {
        "nr_descendants 0\nnr_dying_descendants 0".into()
    }),
    ("cgroup.subtree_control", |_| String::new()),
    ("cgroup.threads", |k| {
        lines(k.tree.lock().tasks.keys().copied())
    }),
    ("cgroup.type", |_| "domain".into()),
];

const CPU_V2: &[File] = &[
    ("cpu.max", |k| match k.resources.limits().cpu {
        Some(quota) => format!("{} {}", quota.quota_us, quota.period_us),
        None => format!("max {PERIOD_US}"),
    }),
    ("cpu.stat", |k| {
        let usage = used(k);
        let (user, system) = (usage.user_ns / 1000, usage.system_ns / 1000);
        format!(
            "usage_usec {}\nuser_usec {user}\nsystem_usec {system}\nnr_periods 0\n\
             nr_throttled 0\nthrottled_usec 0",
            user + system
        )
    }),
    ("cpu.weight", |k| {
        let shares = shares(k).clamp(2, 262_144);
        (1 + (shares - 2) * 9999 / 262_142).to_string()
    }),
    ("cpuset.cpus", |k| ranges(0..k.cpus())),
    ("cpuset.cpus.effective", |k| ranges(0..k.cpus())),
    ("cpuset.mems", |_| "0".into()),
    ("cpuset.mems.effective", |_| "0".into()),
];

const MEMORY_V2: &[File] = &[
    ("memory.current", usage),
    ("memory.events", |k| {
        let (ooms, kills) = k.resources.ooms();
        format!("low 0\nhigh 0\nmax {ooms}\noom {ooms}\noom_kill {kills}\noom_group_kill 0")
    }),
    ("memory.high", |_| "max".into()),
    ("memory.low", |_| "0".into()),
    ("memory.max", |k| match k.resources.limits().memory {
        Some(limit) => limit.told.to_string(),
        None => "max".into(),
    }),
    ("memory.min", |_| "0".into()),
    ("memory.stat", |k| {
        let used = k.memory.used();
        format!(
            "anon {used}\nfile 0\nkernel 0\nshmem 0\nfile_mapped 0\ninactive_anon 0\n\
             active_anon {used}\ninactive_file 0\nactive_file 0\nunevictable 0"
        )
    }),
    ("memory.swap.current", |_| "0".into()),
    ("memory.swap.max", |_| "0".into()),
];

fn usage(kernel: &Kernel) -> String {
    kernel.memory.used().to_string()
}

fn limit_v1(kernel: &Kernel) -> String {
    let limit = kernel.resources.limits().memory;
    limit.map_or(UNLIMITED_V1, |limit| limit.told).to_string()
}

fn period(kernel: &Kernel) -> u64 {
    let quota = kernel.resources.limits().cpu;
    quota.map_or(PERIOD_US, |quota| quota.period_us)
}

fn shares(kernel: &Kernel) -> u64 {
    kernel.resources.limits().cpu_shares.unwrap_or(1024)
}

fn cpu_ns(kernel: &Kernel) -> u64 {
    let usage = used(kernel);
    usage.user_ns.saturating_add(usage.system_ns)
}

fn processes(kernel: &Kernel) -> String {
    let tree = kernel.tree.lock();
    let living = tree.nodes.iter().filter(|(_, n)| n.zombie.is_none());
    lines(living.map(|(pid, _)| *pid))
}

fn lines(numbers: impl Iterator<Item = i32>) -> String {
    let mut numbers: Vec<i32> = numbers.collect();
    numbers.sort_unstable();
    let mut text = String::new();
    for number in numbers {
        let _ = writeln!(text, "{number}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CpuQuota, GuestLimits, MemoryLimit};
    use crate::fs::anon::internal_file;
    use crate::fs::inode::OpenFlags;
    use crate::mm::io::Sink;

    fn read(fs: &FileSystem, name: &str) -> String {
        let inode = fs.root.inode().lookup(name.as_bytes()).unwrap();
        let file = internal_file(inode, OpenFlags::empty()).unwrap();
        let mut buf = vec![0; 4096];
        let n = file.read(&mut Sink::kernel(&mut buf)).unwrap();
        String::from_utf8(buf[..n].to_vec()).unwrap()
    }

    fn limited(layout: CgroupLayout) -> Arc<Kernel> {
        crate::fs::proc::test_kernel_with(GuestLimits {
            memory: Some(MemoryLimit {
                told: 64 << 20,
                usable: 60 << 20,
                own: 4 << 20,
            }),
            cpu: Some(CpuQuota {
                quota_us: 150_000,
                period_us: 100_000,
            }),
            cpu_shares: Some(512),
            tasks: Some(7),
            layout,
            ..Default::default()
        })
    }

    #[test]
    fn limits_in_files_of_v2() {
        let fs = mount_v2(&limited(CgroupLayout::V2));
        assert_eq!(read(&fs, "memory.max"), "67108864\n");
        assert_eq!(read(&fs, "cpu.max"), "150000 100000\n");
        assert_eq!(read(&fs, "cpu.weight"), "20\n");
        assert_eq!(read(&fs, "pids.max"), "7\n");
        assert_eq!(read(&fs, "pids.current"), "0\n");
        assert_eq!(read(&fs, "cpuset.cpus.effective"), "0-1\n");
        let free = mount_v2(&crate::fs::proc::test_kernel());
        let all = ["memory.max", "cpu.max", "pids.max"].map(|name| read(&free, name));
        assert_eq!(all, ["max\n", "max 100000\n", "max\n"]);
    }

    #[test]
    fn limits_in_files_of_v1() {
        let kernel = limited(CgroupLayout::V1);
        let at = |number: usize| mount_v1(&kernel, &HIERARCHIES[number]);
        assert_eq!(read(&at(0), "cpu.cfs_quota_us"), "150000\n");
        assert_eq!(read(&at(0), "cpu.shares"), "512\n");
        assert_eq!(read(&at(2), "memory.limit_in_bytes"), "67108864\n");
        assert_eq!(read(&at(3), "pids.max"), "7\n");
        let text = membership(&kernel);
        assert!(text.starts_with(b"4:pids:/\n3:memory:/\n"));
        let text = String::from_utf8(controllers(&kernel).unwrap()).unwrap();
        assert!(text.contains("\ncpuacct\t1\t1\t1\n"), "{text}");
        let free = mount_v1(&crate::fs::proc::test_kernel(), &HIERARCHIES[2]);
        assert_eq!(
            read(&free, "memory.limit_in_bytes"),
            "9223372036854771712\n"
        );
    }
}
