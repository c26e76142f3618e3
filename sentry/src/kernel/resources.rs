//! What the container may use of the machine, and what happens when that is not enough.
//!
//! [`Resources`] holds the limits with the counters that control groups have beside them. The
//! number of tasks is checked when one is made. Memory is different: the host serves guests' page
//! faults without the Sentry, so the limit is the size of the file system that holds the
//! MemoryFile. A touch that would exceed it is a SIGBUS, for the guest or in one of the Sentry's
//! copies, and both lead to [`out_of_memory`], which ends the process that uses most.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use crate::config::{CpuQuota, GuestLimits};
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::kernel::group::{ExitStatus, ThreadGroup};
use crate::kernel::signal::Signal;
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::tree::Inner;
use crate::mm::{MemoryFile, Mm};

/// No limit of tasks.
const UNLIMITED: u64 = u64::MAX;

/// What the sandbox's own processes use of a limit, from the host's control group.
pub struct OwnUse {
    used: File,
    stat: File,
}

impl OwnUse {
    pub fn new([used, stat]: [OwnedFd; 2]) -> OwnUse {
        OwnUse {
            used: used.into(),
            stat: stat.into(),
        }
    }

    /// Bytes that are neither the guest's memory, `guest`, nor the host's to take back.
    fn bytes(&self, guest: u64) -> Option<u64> {
        let used: u64 = text(&self.used)?.trim().parse().ok()?;
        let stat = text(&self.stat)?;
        // v1 counts for the group with and without those below it, v2 only so.
        let find = |names: [&str; 2]| {
            names.iter().find_map(|name| {
                let line = stat.lines().find_map(|line| line.strip_prefix(name))?;
                line.strip_prefix(' ')?.parse::<u64>().ok()
            })
        };
        let cache = find(["total_cache", "file"])?;
        let shmem = find(["total_shmem", "shmem"])?;
        let slab = find(["slab_reclaimable", ""]).unwrap_or(0);
        let reclaimable = cache.saturating_sub(shmem).saturating_add(slab);
        Some(used.saturating_sub(reclaimable).saturating_sub(guest))
    }
}

fn text(file: &File) -> Option<String> {
    let mut buf = vec![0; 8192];
    let n = file.read_at(&mut buf, 0).ok()?;
    buf.truncate(n);
    String::from_utf8(buf).ok()
}

/// Room that is left to the sandbox for what it needs meanwhile, bytes.
const MARGIN: u64 = 1 << 20;

/// What there is without limits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// Processors to run on.
    pub cores: usize,
    /// All of their numbers are below this one.
    pub possible_cores: usize,
    /// In bytes.
    pub memory: u64,
}

/// Limits and counters of a container.
#[derive(Default)]
pub struct Resources {
    machine: Machine,
    limits: RwLock<Arc<GuestLimits>>,
    cpus: AtomicUsize,
    possible_cpus: AtomicUsize,
    memory_total: AtomicU64,
    own_use: Option<OwnUse>,
    tasks: AtomicU64,
    tasks_refused: AtomicU64,
    ooms: AtomicU64,
    oom_kills: AtomicU64,
    /// When the outside was told of one last, in ns of the monotonic clock.
    told: AtomicU64,
    /// Who was ended last for lack of memory: nobody else is until that is free.
    dying: Mutex<Option<Dying>>,
}

/// A process that ends for lack of memory.
struct Dying {
    mm: Weak<Mm>,
    /// What [`MemoryFile::released`](crate::mm::MemoryFile::released) will be at least when its
    /// memory is free: that outlives it, until its stub is gone.
    released: u64,
    /// It does not take longer.
    until: MonoTime,
}

/// How often the outside is told at once that a process was ended, and from then on how long it is
/// not told again.
const TOLD_AT_ONCE: u64 = 8;
const SILENCE_NS: u64 = 1_000_000_000;

/// How long a process that ends may keep its memory before another one has to end as well.
const PATIENCE_NS: u64 = 2_000_000_000;

impl Resources {
    pub fn new(machine: Machine, limits: GuestLimits, own_use: Option<OwnUse>) -> Resources {
        let resources = Resources {
            machine,
            own_use,
            ..Resources::default()
        };
        resources.set_limits(limits);
        resources
    }

    pub fn limits(&self) -> Arc<GuestLimits> {
        self.limits.read().clone()
    }

    pub(in crate::kernel) fn set_limits(&self, limits: GuestLimits) {
        let cores = match limits.cpus.len() {
            0 => self.machine.cores,
            // The first may name some that do not exist; others are the host's to refuse.
            asked if self.limits().cpus.is_empty() => asked.min(self.machine.cores),
            asked => asked,
        };
        let by_quota = limits.cpu.map_or(u64::MAX, CpuQuota::processors);
        let cpus = cores.min(usize::try_from(by_quota).unwrap_or(usize::MAX));
        let cpus = cpus.max(1);
        self.cpus.store(cpus, Ordering::Relaxed);
        let last = limits.cpus.last().map_or(0, |last| *last as usize + 1);
        let possible = self.machine.possible_cores.max(last).max(cpus);
        self.possible_cpus.store(possible, Ordering::Relaxed);
        let memory = self.machine.memory;
        let total = limits.memory.map_or(memory, |limit| limit.told.min(memory));
        self.memory_total.store(total, Ordering::Relaxed);
        self.set_tasks(limits.tasks.map(u64::from));
        *self.limits.write() = Arc::new(limits);
    }

    /// See [`Kernel::cpus`].
    pub(in crate::kernel) fn cpus(&self) -> usize {
        self.cpus.load(Ordering::Relaxed)
    }

    /// See [`Kernel::possible_cpus`].
    pub(in crate::kernel) fn possible_cpus(&self) -> usize {
        self.possible_cpus.load(Ordering::Relaxed)
    }

    /// See [`Kernel::memory_total`].
    pub(in crate::kernel) fn memory_total(&self) -> u64 {
        self.memory_total.load(Ordering::Relaxed)
    }

    /// Most tasks at a time.
    pub fn tasks(&self) -> Option<u64> {
        Some(self.tasks.load(Ordering::Relaxed)).filter(|limit| *limit != UNLIMITED)
    }

    /// Changes that; what there is already stays.
    pub fn set_tasks(&self, limit: Option<u64>) {
        self.tasks
            .store(limit.unwrap_or(UNLIMITED), Ordering::Relaxed);
    }

    /// How often a task was refused (pids.events).
    pub fn tasks_refused(&self) -> u64 {
        self.tasks_refused.load(Ordering::Relaxed)
    }

    /// How often the limit of memory was reached, and how many processes were ended for it.
    pub fn ooms(&self) -> (u64, u64) {
        (
            self.ooms.load(Ordering::Relaxed),
            self.oom_kills.load(Ordering::Relaxed),
        )
    }

    /// Whether the outside is told of a process that was ended, after so many others.
    fn is_to_be_told(&self, before: u64) -> bool {
        let now = MonoTime::now().as_ns();
        let last = self.told.load(Ordering::Relaxed);
        let is_due = before < TOLD_AT_ONCE || now.saturating_sub(last) >= SILENCE_NS;
        if is_due {
            self.told.store(now, Ordering::Relaxed);
        }
        is_due
    }

    /// Is there memory for the host's side of one more task? It does not lie with the guest's, and the
    /// host would end the sandbox for it. ENOMEM.
    pub fn check_own_memory(&self, memory: &MemoryFile) -> Result<()> {
        let (Some(own), Some(limit)) = (&self.own_use, self.limits().memory) else {
            return Ok(());
        };
        let guest = memory.used();
        let Some(bytes) = own.bytes(guest) else {
            return Ok(());
        };
        // More than their share is theirs as long as the guest leaves it: what it takes later may
        // then be the end of the sandbox, but refusing now surely is the end of a program.
        let all = limit.usable.saturating_add(limit.own);
        let fits = bytes.saturating_add(MARGIN) <= limit.own
            || bytes.saturating_add(guest) <= all - all / 8;
        if fits { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Is there room for one more task? EAGAIN.
    pub(in crate::kernel) fn charge_task(&self, tree: &Inner) -> Result<()> {
        let Some(limit) = self.tasks() else {
            return Ok(());
        };
        if task_count(tree) < limit {
            return Ok(());
        }
        self.tasks_refused.fetch_add(1, Ordering::Relaxed);
        Err(Errno::EAGAIN)
    }
}

/// Tasks as control groups count them: a process that nobody has waited for is one still.
pub fn task_count(tree: &Inner) -> u64 {
    let zombies = tree.nodes.values().filter(|n| n.zombie.is_some());
    (tree.tasks.len() + zombies.count()) as u64
}

/// The guest's memory is full: ends a process, unless memory is about to become free anyhow.
pub fn out_of_memory(task: &Task) {
    let kernel = task.kernel();
    kernel.memory.trim();
    if !kernel.memory.is_full() {
        return;
    }
    let mut dying = kernel.resources.dying.lock();
    if dying.as_ref().is_some_and(|d| {
        let holds = d.mm.strong_count() > 0 || kernel.memory.released() < d.released;
        holds && MonoTime::now() < d.until
    }) {
        return;
    }
    kernel.resources.ooms.fetch_add(1, Ordering::Relaxed);
    let (victim, rss) = match choose(kernel) {
        Some(victim) => victim,
        None => (task.group().clone(), 0),
    };
    let Some(mm) = victim.any_task().and_then(|t| t.try_mm().ok()) else {
        return;
    };
    *dying = Some(Dying {
        mm: Arc::downgrade(&mm),
        // Some of it may be shared with others.
        released: kernel.memory.released().saturating_add(rss / 2),
        until: MonoTime::now().after_ns(PATIENCE_NS),
    });
    // Whoever comes meanwhile finds that memory will be free.
    drop(dying);
    end(kernel, &mm);
    if let Some(dying) = kernel.resources.dying.lock().as_mut() {
        dying.until = MonoTime::now().after_ns(PATIENCE_NS);
    }
}

/// Ends the processes that share this memory.
fn end(kernel: &Kernel, mm: &Arc<Mm>) {
    for group in kernel.tree.groups() {
        let shares = group
            .any_task()
            .and_then(|t| t.try_mm().ok())
            .is_some_and(|other| Arc::ptr_eq(&other, mm));
        if shares {
            log::warn!("out of memory: process {} killed", group.pid());
            let before = kernel.resources.oom_kills.fetch_add(1, Ordering::Relaxed);
            // While it has its memory still.
            if kernel.resources.is_to_be_told(before) {
                kernel.supervisor().out_of_memory(group.pid());
            }
            group.begin_exit(ExitStatus::Signaled {
                signal: Signal::SIGKILL,
                core: false,
            });
        }
    }
}

/// The process that uses most, moved by its oom_score_adj as in Linux: a thousandth of all memory
/// each, and never at -1000. With it, how much memory is its own, bytes.
fn choose(kernel: &Kernel) -> Option<(Arc<ThreadGroup>, u64)> {
    let total = kernel.memory_total();
    let score = |group: &Arc<ThreadGroup>| {
        let adj = i64::from(group.oom_score_adj.load(Ordering::Relaxed));
        if adj == -1000 {
            return None;
        }
        let totals = group.any_task()?.try_mm().ok()?.totals();
        let rss = i64::try_from(totals.rss_anon + totals.rss_shmem).unwrap_or(i64::MAX);
        let thousandth = i64::try_from(total / 1000).unwrap_or(i64::MAX);
        let score = rss.saturating_add(adj.saturating_mul(thousandth));
        Some((score, totals.rss_anon))
    };
    let groups = kernel.tree.groups();
    let scored = groups.into_iter().filter_map(|g| Some((score(&g)?, g)));
    let chosen = scored.max_by_key(|((score, _), _)| *score);
    chosen.map(|((_, rss), group)| (group, rss))
}
