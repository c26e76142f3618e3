//! What a control group has used, from either version's files.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use super::layout::Version;

/// Figures of a group. `None` is what this machine does not count; a limit of `None` is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    pub memory: Memory,
    pub cpu: Cpu,
    pub pids: Pids,
    /// Bytes and operations of block devices.
    pub block_io: Vec<BlockIo>,
}

/// In bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub usage: Option<u64>,
    pub max_usage: Option<u64>,
    pub limit: Option<u64>,
    /// Memory and swap together.
    pub with_swap: Option<u64>,
    pub with_swap_limit: Option<u64>,
    /// How often the limit was reached.
    pub failures: Option<u64>,
    /// How many processes the host killed for it.
    pub oom_kills: Option<u64>,
    /// memory.stat as it is.
    pub details: BTreeMap<String, u64>,
}

/// In nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cpu {
    pub usage: Option<u64>,
    pub user: Option<u64>,
    pub system: Option<u64>,
    pub per_cpu: Vec<u64>,
    pub periods: Option<u64>,
    pub throttled_periods: Option<u64>,
    pub throttled: Option<u64>,
}

/// Host tasks: more than the guest's, see [`super::host_tasks`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    pub current: Option<u64>,
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BlockIo {
    pub major: u64,
    pub minor: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// v1 says "no limit" with the largest page-aligned number.
const UNLIMITED: u64 = 1 << 62;
/// cpuacct.stat counts in USER_HZ.
const TICK_NS: u64 = 10_000_000;

impl Stats {
    /// `group` gives the version and the directory of the group with a controller.
    pub(super) fn read<'a>(group: impl Fn(&str) -> Option<(Version, &'a Path)>) -> Result<Self> {
        let mut stats = Self::default();
        if let Some((version, directory)) = group("memory") {
            stats.memory = memory(version, directory)?;
        }
        match group("cpuacct") {
            Some((_, directory)) => cpu_v1(directory, &mut stats.cpu)?,
            None => {
                if let Some((Version::V2, directory)) = group("cpu") {
                    cpu_v2(directory, &mut stats.cpu)?;
                }
            }
        }
        if let Some((Version::V1, directory)) = group("cpu") {
            let stat = table(directory, "cpu.stat")?;
            stats.cpu.periods = stat.get("nr_periods").copied();
            stats.cpu.throttled_periods = stat.get("nr_throttled").copied();
            stats.cpu.throttled = stat.get("throttled_time").copied();
        }
        if let Some((_, directory)) = group("pids") {
            stats.pids = Pids {
                current: number(directory, "pids.current")?,
                limit: number(directory, "pids.max")?,
            };
        }
        if let Some((_, directory)) = group("blkio") {
            stats.block_io = io_v1(directory)?;
        } else if let Some((_, directory)) = group("io") {
            let text = text(directory, "io.stat")?.unwrap_or_default();
            stats.block_io = text.lines().filter_map(io_line).collect();
        }
        Ok(stats)
    }
}

fn memory(version: Version, directory: &Path) -> Result<Memory> {
    let files = match version {
        Version::V1 => [
            "memory.usage_in_bytes",
            "memory.max_usage_in_bytes",
            "memory.limit_in_bytes",
        ],
        Version::V2 => ["memory.current", "memory.peak", "memory.max"],
    };
    let [usage, max_usage, limit] = files.map(|file| number(directory, file));
    let (usage, limit) = (usage?, limit?.filter(|limit| *limit < UNLIMITED));
    let (with_swap, with_swap_limit) = match version {
        Version::V1 => (
            number(directory, "memory.memsw.usage_in_bytes")?,
            number(directory, "memory.memsw.limit_in_bytes")?.filter(|limit| *limit < UNLIMITED),
        ),
        Version::V2 => {
            let add = |memory: Option<u64>, swap: Option<u64>| memory?.checked_add(swap?);
            (
                add(usage, number(directory, "memory.swap.current")?),
                add(limit, number(directory, "memory.swap.max")?),
            )
        }
    };
    let events = match version {
        Version::V1 => table(directory, "memory.oom_control")?,
        Version::V2 => table(directory, "memory.events")?,
    };
    let failures = match version {
        Version::V1 => number(directory, "memory.failcnt")?,
        Version::V2 => events.get("max").copied(),
    };
    Ok(Memory {
        usage,
        max_usage: max_usage?,
        limit,
        with_swap,
        with_swap_limit,
        failures,
        oom_kills: events.get("oom_kill").copied(),
        details: table(directory, "memory.stat")?,
    })
}

fn cpu_v1(directory: &Path, cpu: &mut Cpu) -> Result<()> {
    cpu.usage = number(directory, "cpuacct.usage")?;
    let split = table(directory, "cpuacct.stat")?;
    let ns = |name| {
        let ticks: &u64 = split.get(name)?;
        Some(ticks.saturating_mul(TICK_NS))
    };
    cpu.user = ns("user");
    cpu.system = ns("system");
    let each = text(directory, "cpuacct.usage_percpu")?.unwrap_or_default();
    cpu.per_cpu = each.split_whitespace().flat_map(str::parse).collect();
    Ok(())
}

fn cpu_v2(directory: &Path, cpu: &mut Cpu) -> Result<()> {
    let stat = table(directory, "cpu.stat")?;
    let ns = |name: &str| stat.get(name).map(|us| us.saturating_mul(1000));
    cpu.usage = ns("usage_usec");
    cpu.user = ns("user_usec");
    cpu.system = ns("system_usec");
    cpu.periods = stat.get("nr_periods").copied();
    cpu.throttled_periods = stat.get("nr_throttled").copied();
    cpu.throttled = ns("throttled_usec");
    Ok(())
}

/// Lines `MAJOR:MINOR Operation VALUE`, in a file for bytes and one for operations.
fn io_v1(directory: &Path) -> Result<Vec<BlockIo>> {
    let mut devices: BTreeMap<(u64, u64), BlockIo> = BTreeMap::new();
    for kind in ["io_service_bytes", "io_serviced"] {
        let file = format!("blkio.throttle.{kind}_recursive");
        for line in text(directory, &file)?.unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let &[device, operation, value] = &words[..] else {
                continue;
            };
            let (Some((major, minor)), Ok(value)) = (device_number(device), value.parse::<u64>())
            else {
                continue;
            };
            let entry = devices.entry((major, minor)).or_insert(BlockIo {
                major,
                minor,
                ..Default::default()
            });
            match (kind, operation) {
                ("io_service_bytes", "Read") => entry.read_bytes = value,
                ("io_service_bytes", "Write") => entry.write_bytes = value,
                (_, "Read") => entry.reads = value,
                (_, "Write") => entry.writes = value,
                _ => {}
            }
        }
    }
    Ok(devices.into_values().collect())
}

/// `MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N ...`
fn io_line(line: &str) -> Option<BlockIo> {
    let mut words = line.split(' ');
    let (major, minor) = device_number(words.next()?)?;
    let mut io = BlockIo {
        major,
        minor,
        ..Default::default()
    };
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        let value = value.parse().ok()?;
        match name {
            "rbytes" => io.read_bytes = value,
            "wbytes" => io.write_bytes = value,
            "rios" => io.reads = value,
            "wios" => io.writes = value,
            _ => {}
        }
    }
    Some(io)
}

fn device_number(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A file's text; `None` if this machine has no such file.
fn text(directory: &Path, file: &str) -> Result<Option<String>> {
    let path = directory.join(file);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // Switched off at run time.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// A file with one number; `None` as well if it says `max`.
fn number(directory: &Path, file: &str) -> Result<Option<u64>> {
    Ok(text(directory, file)?.and_then(|text| text.trim().parse().ok()))
}

/// A file with lines `NAME NUMBER`.
fn table(directory: &Path, file: &str) -> Result<BTreeMap<String, u64>> {
    let text = text(directory, file)?.unwrap_or_default();
    let rows = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    });
    Ok(rows.collect())
}
