//! /proc/sys (proc_sys(5)).
//!
//! One table of paths. Settings that exist here take effect (host and domain name, ports); others that
//! Linux lets the superuser change keep what is written, within Linux's bounds, so that tools that
//! set them and look again are content; the rest is read only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::settings::parse_number;
use crate::errno::{Errno, Result};
use crate::fs::fdtable::NR_OPEN;
use crate::fs::inode::Inode;
use crate::fs::kernfs::{Head, StaticDir, Super, Text};
use crate::kernel::cred::CAP_LAST;
use crate::kernel::current;
use crate::kernel::tree::PID_MAX;
use crate::kernel::{Kernel, UTS_RELEASE, UTS_SYSNAME, UTS_VERSION};
use crate::net::inet::Settings;

/// Longest host or domain name, bytes.
const NAME_MAX: usize = 64;
/// Longest text that is kept.
const TEXT_MAX: usize = 127;

enum Kind {
    Fixed(&'static str),
    Live(fn(&Kernel) -> String),
    /// A number that is kept: what it is at first, least and greatest.
    Number(i64, i64, i64),
    /// One that has effects: where it is, least and greatest.
    Held(fn(&Kernel) -> &AtomicI64, i64, i64),
    /// As `Held`, without bounds.
    Wide(fn(&Kernel) -> &AtomicU64),
    /// A text that is kept.
    Kept(&'static str),
    /// What the network goes by: how it is told, and taken (EINVAL).
    Net(
        fn(&Settings) -> String,
        fn(&mut Settings, &[u8]) -> Result<()>,
    ),
    /// ipv6/conf/NAME/disable_ipv6: which of all, default, lo.
    Ipv6Off(usize),
    Hostname,
    Domainname,
}
use Kind::{Domainname, Fixed, Held, Hostname, Ipv6Off, Kept, Live, Net, Number, Wide};

/// A number that the network goes by: the field, least and greatest.
macro_rules! number {
    ($field:ident, $least:expr, $greatest:expr) => {
        Net(
            |s| s.$field.to_string(),
            |s, data| {
                let [new] = numbers(data)?;
                if !($least..=$greatest).contains(&new) {
                    return Err(Errno::EINVAL);
                }
                s.$field = new;
                Ok(())
            },
        )
    };
}

/// Three sizes that the network goes by. Fewer leave the others as they are.
macro_rules! three {
    ($field:ident) => {
        Net(
            |s| s.$field.map(|n| n.to_string()).join("\t"),
            |s, data| {
                let given = some_numbers(data)?;
                let good = |n: &i64| (1..=INT_MAX).contains(n);
                if given.is_empty() || given.len() > s.$field.len() || !given.iter().all(good) {
                    return Err(Errno::EINVAL);
                }
                for (at, new) in s.$field.iter_mut().zip(given) {
                    *at = new;
                }
                Ok(())
            },
        )
    };
}

const INT_MAX: i64 = i32::MAX as i64;

/// In the order of the paths, directories together.
const TABLE: &[(&str, Kind)] = &[
    ("fs/aio-max-nr", Number(65536, 0, i64::MAX)),
    ("fs/aio-nr", Fixed("0")),
    ("fs/dentry-state", Fixed("0\t0\t45\t0\t0\t0")),
    (
        "fs/epoll/max_user_watches",
        Live(|k| (k.memory_total() / 25 / 180).to_string()),
    ),
    ("fs/file-max", Fixed("9223372036854775807")),
    (
        "fs/file-nr",
        Live(|k| format!("{}\t0\t9223372036854775807", open_files(k))),
    ),
    ("fs/inode-nr", Fixed("0\t0")),
    ("fs/inode-state", Fixed("0\t0\t0\t0\t0\t0\t0")),
    ("fs/inotify/max_queued_events", Number(16384, 0, INT_MAX)),
    ("fs/inotify/max_user_instances", Number(128, 0, INT_MAX)),
    ("fs/inotify/max_user_watches", Number(65536, 0, INT_MAX)),
    ("fs/lease-break-time", Number(45, 0, INT_MAX)),
    ("fs/leases-enable", Number(1, 0, 1)),
    ("fs/mount-max", Number(100_000, 1, INT_MAX)),
    (
        "fs/mqueue/msg_default",
        Held(|k| &k.mqueues.queues.settings.msg_default, 1, 65536),
    ),
    (
        "fs/mqueue/msg_max",
        Held(|k| &k.mqueues.queues.settings.msg_max, 1, 65536),
    ),
    (
        "fs/mqueue/msgsize_default",
        Held(
            |k| &k.mqueues.queues.settings.msgsize_default,
            128,
            16 << 20,
        ),
    ),
    (
        "fs/mqueue/msgsize_max",
        Held(|k| &k.mqueues.queues.settings.msgsize_max, 128, 16 << 20),
    ),
    (
        "fs/mqueue/queues_max",
        Held(|k| &k.mqueues.queues.settings.queues_max, 0, INT_MAX),
    ),
    ("fs/nr_open", Live(|_| NR_OPEN.to_string())),
    ("fs/overflowgid", Number(65534, 0, 65535)),
    ("fs/overflowuid", Number(65534, 0, 65535)),
    ("fs/pipe-max-size", Number(1 << 20, 4096, INT_MAX)),
    ("fs/pipe-user-pages-hard", Number(0, 0, i64::MAX)),
    ("fs/pipe-user-pages-soft", Number(16384, 0, i64::MAX)),
    ("fs/protected_fifos", Fixed("1")),
    ("fs/protected_hardlinks", Fixed("1")),
    ("fs/protected_regular", Fixed("1")),
    ("fs/protected_symlinks", Fixed("1")),
    ("fs/suid_dumpable", Number(0, 0, 2)),
    ("kernel/arch", Fixed("x86_64")),
    ("kernel/cap_last_cap", Live(|_| CAP_LAST.to_string())),
    ("kernel/core_pattern", Kept("core")),
    ("kernel/core_pipe_limit", Number(0, 0, INT_MAX)),
    ("kernel/core_uses_pid", Number(0, 0, INT_MAX)),
    ("kernel/dmesg_restrict", Number(1, 0, 1)),
    ("kernel/domainname", Domainname),
    ("kernel/hostname", Hostname),
    ("kernel/io_uring_disabled", Fixed("2")),
    ("kernel/kptr_restrict", Number(1, 0, 2)),
    (
        "kernel/msgmax",
        Held(|k| &k.ipc.msg.settings.msgmax, 0, INT_MAX),
    ),
    (
        "kernel/msgmnb",
        Held(|k| &k.ipc.msg.settings.msgmnb, 0, INT_MAX),
    ),
    (
        "kernel/msgmni",
        Held(|k| &k.ipc.msg.settings.msgmni, 0, 32768),
    ),
    ("kernel/ngroups_max", Fixed("65536")),
    ("kernel/osrelease", Live(|_| UTS_RELEASE.to_owned())),
    ("kernel/ostype", Live(|_| UTS_SYSNAME.to_owned())),
    ("kernel/overflowgid", Number(65534, 0, 65535)),
    ("kernel/overflowuid", Number(65534, 0, 65535)),
    ("kernel/panic", Number(0, -INT_MAX, INT_MAX)),
    ("kernel/perf_event_max_sample_rate", Fixed("100000")),
    ("kernel/perf_event_mlock_kb", Fixed("516")),
    ("kernel/perf_event_paranoid", Fixed("3")),
    ("kernel/pid_max", Live(|_| PID_MAX.to_string())),
    ("kernel/printk", Fixed("4\t4\t1\t7")),
    ("kernel/pty/max", Number(4096, 0, INT_MAX)),
    ("kernel/pty/reserve", Number(1024, 0, INT_MAX)),
    ("kernel/random/boot_id", Live(|_| boot_id().to_owned())),
    ("kernel/random/entropy_avail", Fixed("256")),
    ("kernel/random/poolsize", Fixed("256")),
    ("kernel/random/urandom_min_reseed_secs", Fixed("60")),
    ("kernel/random/uuid", Live(|_| uuid())),
    ("kernel/random/write_wakeup_threshold", Fixed("256")),
    ("kernel/randomize_va_space", Number(2, 0, 2)),
    ("kernel/sched_rr_timeslice_ms", Fixed("100")),
    ("kernel/sem", Fixed("32000\t1024000\t500\t32000")),
    ("kernel/shm_rmid_forced", Fixed("0")),
    ("kernel/shmall", Wide(|k| &k.ipc.shm.settings.shmall)),
    ("kernel/shmmax", Wide(|k| &k.ipc.shm.settings.shmmax)),
    (
        "kernel/shmmni",
        Held(|k| &k.ipc.shm.settings.shmmni, 0, 32768),
    ),
    ("kernel/sysctl_writes_strict", Fixed("1")),
    ("kernel/tainted", Fixed("0")),
    (
        "kernel/threads-max",
        Live(|k| {
            (k.memory_total() / (8 * 16384))
                .clamp(20, 0x3fff_ffff)
                .to_string()
        }),
    ),
    ("kernel/unprivileged_bpf_disabled", Fixed("2")),
    ("kernel/version", Live(|_| UTS_VERSION.to_owned())),
    ("kernel/yama/ptrace_scope", Fixed("0")),
    ("net/core/busy_poll", Number(0, 0, INT_MAX)),
    ("net/core/busy_read", Number(0, 0, INT_MAX)),
    ("net/core/default_qdisc", Kept("pfifo_fast")),
    ("net/core/dev_weight", Number(64, 1, INT_MAX)),
    ("net/core/message_burst", Number(10, 0, INT_MAX)),
    ("net/core/netdev_budget", Number(300, 0, INT_MAX)),
    ("net/core/netdev_max_backlog", Number(1000, 0, INT_MAX)),
    ("net/core/optmem_max", Number(131_072, 0, INT_MAX)),
    ("net/core/rmem_default", Fixed("212992")),
    ("net/core/rmem_max", Fixed("212992")),
    ("net/core/somaxconn", number!(somaxconn, 0, INT_MAX)),
    ("net/core/wmem_default", Fixed("212992")),
    ("net/core/wmem_max", Fixed("212992")),
    ("net/ipv4/conf/all/accept_redirects", Number(0, 0, 1)),
    ("net/ipv4/conf/all/accept_source_route", Number(0, 0, 1)),
    ("net/ipv4/conf/all/arp_announce", Number(0, 0, 2)),
    ("net/ipv4/conf/all/arp_ignore", Number(0, 0, 8)),
    ("net/ipv4/conf/all/forwarding", Number(0, 0, 1)),
    ("net/ipv4/conf/all/log_martians", Number(0, 0, 1)),
    ("net/ipv4/conf/all/route_localnet", Number(0, 0, 1)),
    ("net/ipv4/conf/all/rp_filter", Number(0, 0, 2)),
    ("net/ipv4/conf/all/send_redirects", Number(1, 0, 1)),
    ("net/ipv4/conf/default/accept_redirects", Number(0, 0, 1)),
    ("net/ipv4/conf/default/accept_source_route", Number(0, 0, 1)),
    ("net/ipv4/conf/default/arp_announce", Number(0, 0, 2)),
    ("net/ipv4/conf/default/arp_ignore", Number(0, 0, 8)),
    ("net/ipv4/conf/default/forwarding", Number(0, 0, 1)),
    ("net/ipv4/conf/default/log_martians", Number(0, 0, 1)),
    ("net/ipv4/conf/default/route_localnet", Number(0, 0, 1)),
    ("net/ipv4/conf/default/rp_filter", Number(0, 0, 2)),
    ("net/ipv4/conf/default/send_redirects", Number(1, 0, 1)),
    ("net/ipv4/conf/lo/accept_redirects", Number(0, 0, 1)),
    ("net/ipv4/conf/lo/accept_source_route", Number(0, 0, 1)),
    ("net/ipv4/conf/lo/arp_announce", Number(0, 0, 2)),
    ("net/ipv4/conf/lo/arp_ignore", Number(0, 0, 8)),
    ("net/ipv4/conf/lo/forwarding", Number(0, 0, 1)),
    ("net/ipv4/conf/lo/log_martians", Number(0, 0, 1)),
    ("net/ipv4/conf/lo/route_localnet", Number(0, 0, 1)),
    ("net/ipv4/conf/lo/rp_filter", Number(0, 0, 2)),
    ("net/ipv4/conf/lo/send_redirects", Number(1, 0, 1)),
    (
        "net/ipv4/icmp_echo_ignore_all",
        number!(icmp_echo_ignore_all, 0, 1),
    ),
    ("net/ipv4/icmp_echo_ignore_broadcasts", Number(1, 0, 1)),
    ("net/ipv4/igmp_max_memberships", Number(20, 0, INT_MAX)),
    ("net/ipv4/ip_default_ttl", Number(64, 1, 255)),
    ("net/ipv4/ip_dynaddr", Number(0, 0, INT_MAX)),
    ("net/ipv4/ip_early_demux", Number(1, 0, 1)),
    ("net/ipv4/ip_forward", Number(0, 0, 1)),
    (
        "net/ipv4/ip_local_port_range",
        Net(
            |s| format!("{}\t{}", s.local_ports.0, s.local_ports.1),
            |s, data| {
                let [low, high] = numbers(data)?;
                match (u16::try_from(low), u16::try_from(high)) {
                    (Ok(low), Ok(high)) if (1..=high).contains(&low) => {
                        s.local_ports = (low, high);
                        Ok(())
                    }
                    _ => Err(Errno::EINVAL),
                }
            },
        ),
    ),
    (
        "net/ipv4/ip_local_reserved_ports",
        Net(reserved_ports, set_reserved_ports),
    ),
    ("net/ipv4/ip_no_pmtu_disc", Number(0, 0, 3)),
    ("net/ipv4/ip_nonlocal_bind", number!(ip_nonlocal_bind, 0, 1)),
    (
        "net/ipv4/ip_unprivileged_port_start",
        Net(
            |s| s.unprivileged_port.to_string(),
            |s, data| {
                let [port] = numbers(data)?;
                s.unprivileged_port = u16::try_from(port).map_err(|_| Errno::EINVAL)?;
                Ok(())
            },
        ),
    ),
    (
        "net/ipv4/ping_group_range",
        Net(
            |s| format!("{}\t{}", s.ping_groups.0, s.ping_groups.1),
            |s, data| {
                let [low, high] = numbers(data)?;
                let group = |n: i64| u32::try_from(n).ok().filter(|n| *n != u32::MAX);
                let range = group(low).zip(group(high)).ok_or(Errno::EINVAL)?;
                // Linux: no group at all.
                s.ping_groups = if range.0 > range.1 { (1, 0) } else { range };
                Ok(())
            },
        ),
    ),
    ("net/ipv4/tcp_abort_on_overflow", Number(0, 0, 1)),
    ("net/ipv4/tcp_adv_win_scale", Number(1, -31, 31)),
    (
        "net/ipv4/tcp_allowed_congestion_control",
        Kept("reno cubic"),
    ),
    (
        "net/ipv4/tcp_available_congestion_control",
        Fixed("reno cubic"),
    ),
    ("net/ipv4/tcp_congestion_control", Kept("cubic")),
    ("net/ipv4/tcp_dsack", Number(1, 0, 1)),
    ("net/ipv4/tcp_ecn", Number(2, 0, 5)),
    ("net/ipv4/tcp_fastopen", Number(1, 0, INT_MAX)),
    (
        "net/ipv4/tcp_fin_timeout",
        number!(tcp_fin_timeout, 0, INT_MAX),
    ),
    (
        "net/ipv4/tcp_keepalive_intvl",
        number!(tcp_keepalive_intvl, 0, 32767),
    ),
    (
        "net/ipv4/tcp_keepalive_probes",
        number!(tcp_keepalive_probes, 0, 32767),
    ),
    (
        "net/ipv4/tcp_keepalive_time",
        number!(tcp_keepalive_time, 0, 32767),
    ),
    ("net/ipv4/tcp_low_latency", Number(0, 0, 1)),
    ("net/ipv4/tcp_max_orphans", Number(131072, 0, INT_MAX)),
    ("net/ipv4/tcp_max_syn_backlog", Number(512, 0, INT_MAX)),
    ("net/ipv4/tcp_max_tw_buckets", Number(131072, 0, INT_MAX)),
    ("net/ipv4/tcp_mem", Kept("287901\t383868\t575802")),
    ("net/ipv4/tcp_moderate_rcvbuf", Number(1, 0, 1)),
    ("net/ipv4/tcp_mtu_probing", Number(0, 0, 2)),
    ("net/ipv4/tcp_no_metrics_save", Number(0, 0, 1)),
    (
        "net/ipv4/tcp_notsent_lowat",
        Number(4294967295, 0, 4294967295),
    ),
    ("net/ipv4/tcp_orphan_retries", Number(0, 0, 255)),
    ("net/ipv4/tcp_retries1", Number(3, 0, 255)),
    ("net/ipv4/tcp_retries2", Number(15, 0, 255)),
    ("net/ipv4/tcp_rfc1337", Number(0, 0, 1)),
    ("net/ipv4/tcp_rmem", three!(tcp_rmem)),
    ("net/ipv4/tcp_sack", Number(1, 0, 1)),
    ("net/ipv4/tcp_slow_start_after_idle", Number(1, 0, 1)),
    ("net/ipv4/tcp_syn_retries", Number(6, 1, 127)),
    ("net/ipv4/tcp_synack_retries", Number(5, 0, 255)),
    ("net/ipv4/tcp_syncookies", Number(1, 0, 2)),
    ("net/ipv4/tcp_timestamps", Number(1, 0, 2)),
    ("net/ipv4/tcp_tw_reuse", Number(2, 0, 2)),
    ("net/ipv4/tcp_window_scaling", Number(1, 0, 1)),
    ("net/ipv4/tcp_wmem", three!(tcp_wmem)),
    ("net/ipv4/udp_mem", Kept("575802\t767736\t1151604")),
    ("net/ipv4/udp_rmem_min", Number(4096, 1, INT_MAX)),
    ("net/ipv4/udp_wmem_min", Number(4096, 1, INT_MAX)),
    ("net/ipv6/bindv6only", number!(bindv6only, 0, 1)),
    ("net/ipv6/conf/all/accept_ra", Number(1, 0, 2)),
    ("net/ipv6/conf/all/accept_redirects", Number(1, 0, 1)),
    ("net/ipv6/conf/all/disable_ipv6", Ipv6Off(0)),
    ("net/ipv6/conf/all/forwarding", Number(0, 0, 1)),
    ("net/ipv6/conf/default/accept_ra", Number(1, 0, 2)),
    ("net/ipv6/conf/default/accept_redirects", Number(1, 0, 1)),
    ("net/ipv6/conf/default/disable_ipv6", Ipv6Off(1)),
    ("net/ipv6/conf/default/forwarding", Number(0, 0, 1)),
    ("net/ipv6/conf/lo/accept_ra", Number(1, 0, 2)),
    ("net/ipv6/conf/lo/accept_redirects", Number(1, 0, 1)),
    ("net/ipv6/conf/lo/disable_ipv6", Ipv6Off(2)),
    ("net/ipv6/conf/lo/forwarding", Number(0, 0, 1)),
    (
        "net/ipv6/ip_nonlocal_bind",
        number!(ip6_nonlocal_bind, 0, 1),
    ),
    ("net/unix/max_dgram_qlen", Number(10, 0, INT_MAX)),
    ("vm/admin_reserve_kbytes", Number(8192, 0, i64::MAX)),
    ("vm/dirty_background_ratio", Number(10, 0, 100)),
    ("vm/dirty_expire_centisecs", Number(3000, 0, INT_MAX)),
    ("vm/dirty_ratio", Number(20, 0, 100)),
    ("vm/dirty_writeback_centisecs", Number(500, 0, INT_MAX)),
    ("vm/hugetlb_shm_group", Number(0, 0, INT_MAX)),
    ("vm/max_map_count", Number(65530, 0, INT_MAX)),
    ("vm/memfd_noexec", Fixed("0")),
    ("vm/min_free_kbytes", Number(67584, 0, INT_MAX)),
    (
        "vm/mmap_min_addr",
        Live(|k| k.platform.user_range().0.to_string()),
    ),
    ("vm/nr_hugepages", Fixed("0")),
    ("vm/nr_overcommit_hugepages", Fixed("0")),
    ("vm/oom_kill_allocating_task", Number(0, 0, INT_MAX)),
    ("vm/overcommit_kbytes", Number(0, 0, i64::MAX)),
    ("vm/overcommit_memory", Number(0, 0, 2)),
    ("vm/overcommit_ratio", Number(50, 0, INT_MAX)),
    ("vm/page-cluster", Number(3, 0, 31)),
    ("vm/panic_on_oom", Number(0, 0, 2)),
    ("vm/swappiness", Number(60, 0, 200)),
    ("vm/unprivileged_userfaultfd", Number(0, 0, 1)),
    ("vm/user_reserve_kbytes", Number(131_072, 0, i64::MAX)),
    ("vm/vfs_cache_pressure", Number(100, 0, INT_MAX)),
];

/// Numbers with blanks between them.
fn some_numbers(data: &[u8]) -> Result<Vec<i64>> {
    let words = data.split(u8::is_ascii_whitespace);
    words.filter(|w| !w.is_empty()).map(parse_number).collect()
}

/// The same. EINVAL if there are fewer or more.
fn numbers<const N: usize>(data: &[u8]) -> Result<[i64; N]> {
    <[i64; N]>::try_from(some_numbers(data)?).map_err(|_| Errno::EINVAL)
}

/// Ranges of ports, "8080,9148-9150".
fn reserved_ports(settings: &Settings) -> String {
    let range = |(low, high): &(u16, u16)| match low == high {
        true => low.to_string(),
        false => format!("{low}-{high}"),
    };
    let all: Vec<String> = settings.reserved_ports.iter().map(range).collect();
    all.join(",")
}

fn set_reserved_ports(settings: &mut Settings, data: &[u8]) -> Result<()> {
    let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let words = text.split([',', '\n', ' ']).filter(|w| !w.is_empty());
    let mut ranges = Vec::new();
    for word in words {
        let (low, high) = word.split_once('-').unwrap_or((word, word));
        let port = |text: &str| text.parse::<u16>().map_err(|_| Errno::EINVAL);
        let (low, high) = (port(low)?, port(high)?);
        if high < low {
            return Err(Errno::EINVAL);
        }
        ranges.push((low, high));
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (low, high) in ranges {
        match merged.last_mut() {
            Some(last) if u32::from(low) <= u32::from(last.1) + 1 => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    settings.reserved_ports = merged.into();
    Ok(())
}

/// Open descriptors of the whole sandbox.
fn open_files(kernel: &Kernel) -> usize {
    let tasks: Vec<_> = kernel.tree.lock().tasks.values().cloned().collect();
    let mut tables = BTreeMap::new();
    for task in tasks {
        if let Ok(files) = task.try_files() {
            tables.insert(files.id(), files.numbers().len());
        }
    }
    tables.values().sum()
}

/// A random UUID (version 4).
fn uuid() -> String {
    let mut b = [0u8; 16];
    if let Err(e) = runsc_platform::host::random(&mut b) {
        log::error!("getrandom: {e}");
    }
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex = |part: &[u8]| part.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let parts = [&b[..4], &b[4..6], &b[6..8], &b[8..10], &b[10..]];
    parts.map(hex).join("-")
}

/// One a boot of the sandbox.
fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(uuid)
}

fn with_newline(mut text: Vec<u8>) -> Vec<u8> {
    text.push(b'\n');
    text
}

/// What is written up to the first newline or NUL, at most `max` bytes.
fn text_written(data: &[u8], max: usize) -> Vec<u8> {
    let end = data.iter().position(|b| matches!(b, b'\n' | 0));
    data[..end.unwrap_or(data.len()).min(max)].to_vec()
}

fn file(kernel: &Arc<Kernel>, sb: &Arc<Super>, kind: &'static Kind) -> Arc<dyn Inode> {
    let head = |perm| Head::new(sb, perm).sysctl();
    let kernel = kernel.clone();
    match kind {
        Fixed(text) => Text::fixed(head(0o444), format!("{text}\n")),
        Live(read) => Text::made(head(0o444), move || {
            Ok(with_newline(read(&kernel).into_bytes()))
        }),
        Number(start, least, greatest) => {
            let value = Arc::new(Mutex::new(*start));
            let set = value.clone();
            Text::writable(
                head(0o644),
                move || Ok(format!("{}\n", value.lock()).into_bytes()),
                move |data| {
                    let new = parse_number(data)?;
                    if !(*least..=*greatest).contains(&new) {
                        return Err(Errno::EINVAL);
                    }
                    *set.lock() = new;
                    Ok(data.len())
                },
            )
        }
        Held(at, least, greatest) => {
            let set = kernel.clone();
            Text::writable(
                head(0o644),
                move || Ok(format!("{}\n", at(&kernel).load(Ordering::Relaxed)).into_bytes()),
                move |data| {
                    let new = parse_number(data)?;
                    if !(*least..=*greatest).contains(&new) {
                        return Err(Errno::EINVAL);
                    }
                    at(&set).store(new, Ordering::Relaxed);
                    Ok(data.len())
                },
            )
        }
        Wide(at) => {
            let set = kernel.clone();
            Text::writable(
                head(0o644),
                move || Ok(format!("{}\n", at(&kernel).load(Ordering::Relaxed)).into_bytes()),
                move |data| {
                    let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
                    let new = text.trim().parse().map_err(|_| Errno::EINVAL)?;
                    at(&set).store(new, Ordering::Relaxed);
                    Ok(data.len())
                },
            )
        }
        Kept(start) => {
            let value = Arc::new(Mutex::new(start.as_bytes().to_vec()));
            let set = value.clone();
            Text::writable(
                head(0o644),
                move || Ok(with_newline(value.lock().clone())),
                move |data| {
                    *set.lock() = text_written(data, TEXT_MAX);
                    Ok(data.len())
                },
            )
        }
        Net(read, write) => {
            let set = kernel.clone();
            Text::writable(
                head(0o644),
                move || Ok(with_newline(read(&kernel.net.settings.read()).into_bytes())),
                move |data| {
                    write(&mut set.net.settings.write(), data)?;
                    Ok(data.len())
                },
            )
        }
        Ipv6Off(which) => {
            let set = kernel.clone();
            Text::writable(
                head(0o644),
                move || Ok(format!("{}\n", kernel.net.ipv6_off(*which)).into_bytes()),
                move |data| {
                    let [off] = numbers(data)?;
                    // One of the configuration's is set in the container's network as well.
                    match set.net.set_ipv6_off(*which, off) {
                        Err(Errno::EOPNOTSUPP) if current::task().is_none() => {}
                        other => other?,
                    }
                    Ok(data.len())
                },
            )
        }
        Hostname => {
            let set = kernel.clone();
            Text::writable(
                head(0o644),
                move || Ok(with_newline(kernel.uts.read().nodename.clone())),
                move |data| {
                    set.uts.write().nodename = text_written(data, NAME_MAX);
                    Ok(data.len())
                },
            )
        }
        Domainname => {
            let set = kernel.clone();
            Text::writable(
                head(0o644),
                move || Ok(with_newline(kernel.uts.read().domainname.clone())),
                move |data| {
                    set.uts.write().domainname = text_written(data, NAME_MAX);
                    Ok(data.len())
                },
            )
        }
    }
}

/// Builds the directory whose entries are those of `rows` below `prefix`.
fn build(
    kernel: &Arc<Kernel>,
    sb: &Arc<Super>,
    rows: &'static [(&'static str, Kind)],
    prefix: usize,
) -> Arc<dyn Inode> {
    let mut dir = StaticDir::new();
    let mut at = 0;
    while let Some((path, kind)) = rows.get(at) {
        let rest = &path[prefix..];
        let Some((name, _)) = rest.split_once('/') else {
            dir.add(rest, file(kernel, sb, kind));
            at += 1;
            continue;
        };
        let below =
            |(p, _): &&(&str, Kind)| p[prefix..].split_once('/').is_some_and(|(n, _)| n == name);
        let count = rows[at..].iter().take_while(below).count();
        let inner = prefix + name.len() + 1;
        dir.add(name, build(kernel, sb, &rows[at..at + count], inner));
        at += count;
    }
    dir.build_with(Head::new(sb, 0o555).sysctl())
}

/// What can be done to a setting, by its path below /proc/sys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    Unknown,
    /// It is as it is.
    Fixed,
    Settable,
}

/// Looks a setting up.
pub fn setting(path: &str) -> Setting {
    match TABLE.iter().find(|(known, _)| *known == path) {
        None => Setting::Unknown,
        Some((_, Fixed(_) | Live(_))) => Setting::Fixed,
        Some(_) => Setting::Settable,
    }
}

/// The directory /proc/sys.
pub fn dir(kernel: &Arc<Kernel>, sb: &Arc<Super>) -> Result<Arc<dyn Inode>> {
    Ok(build(kernel, sb, TABLE, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        let paths: Vec<&str> = TABLE.iter().map(|(p, _)| *p).collect();
        // Directories together is what matters; Linux sorts by name.
        let dirs: Vec<&str> = paths
            .iter()
            .map(|p| p.rsplit_once('/').unwrap().0)
            .collect();
        for (i, dir) in dirs.iter().enumerate() {
            let again = dirs[i..]
                .iter()
                .skip_while(|d| d.starts_with(dir))
                .any(|d| d == dir);
            assert!(!again, "{dir} comes twice");
        }
        for pair in paths.windows(2) {
            assert!(pair[0] != pair[1]);
        }
    }

    #[test]
    fn settings_of_the_network_are_checked() {
        let row = |path: &str| TABLE.iter().find(|(p, _)| *p == path).map(|r| &r.1);
        for (path, text, want) in [
            ("ip_local_port_range", "1024 65535\n", Some("1024\t65535")),
            ("ip_local_port_range", "9 8", None),
            ("ip_local_port_range", "0 8", None),
            ("ip_local_port_range", "8 65536", None),
            ("ip_local_port_range", "8", None),
            ("ip_local_port_range", "8 9 10", None),
            ("ip_unprivileged_port_start", "0\n", Some("0")),
            ("ip_unprivileged_port_start", "65536", None),
            ("ip_unprivileged_port_start", "-1", None),
            ("ping_group_range", "0 2147483647", Some("0\t2147483647")),
            ("ping_group_range", "5 4", Some("1\t0")),
            ("ping_group_range", "0 4294967295", None),
            ("ping_group_range", "x", None),
            (
                "ip_local_reserved_ports",
                "9148-9150,8080\n",
                Some("8080,9148-9150"),
            ),
            ("ip_local_reserved_ports", "5,1-3,4,7", Some("1-5,7")),
            ("ip_local_reserved_ports", "0-65535,9", Some("0-65535")),
            ("ip_local_reserved_ports", "\n", Some("")),
            ("ip_local_reserved_ports", "9-8", None),
            ("ip_local_reserved_ports", "65536", None),
            ("tcp_rmem", "1 2", Some("1\t2\t6291456")),
            ("tcp_rmem", "0 1 2", None),
            ("tcp_rmem", "1 2 3 4", None),
            ("tcp_keepalive_time", "100", Some("100")),
            ("tcp_keepalive_time", "1 2", None),
        ] {
            let Some(Net(read, write)) = row(&format!("net/ipv4/{path}")) else {
                panic!("{path} is no setting of the network");
            };
            let mut settings = Settings::default();
            let result = write(&mut settings, text.as_bytes());
            let want = want.map(str::to_owned).ok_or(Errno::EINVAL);
            assert_eq!(result.map(|()| read(&settings)), want, "{path}: {text}");
        }
    }

    #[test]
    fn uuids_are_random_and_well_formed() {
        let (a, b) = (uuid(), uuid());
        assert_ne!(a, b);
        assert_eq!(a.len(), 36);
        let parts: Vec<usize> = a.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(&a[14..15], "4");
    }

    #[test]
    fn kinds_of_rows_exist_on_the_host() {
        let mut missing = 0;
        for (path, kind) in TABLE {
            let host = std::path::Path::new("/proc/sys").join(path);
            missing += usize::from(!host.exists());
            if let (Fixed(text), Ok(theirs)) = (kind, std::fs::read_to_string(&host)) {
                let fields = |t: &str| t.split('\t').count();
                assert_eq!(fields(text), fields(theirs.trim_end()), "{path}");
            }
        }
        // Some depend on how the host's kernel was built.
        assert!(missing < 15, "{missing} of our paths are not Linux's");
    }
}
