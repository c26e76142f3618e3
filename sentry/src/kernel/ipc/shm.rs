//! Segments of shared memory: shmget(2), shmat(2), shmdt(2), shmctl(2).
//!
//! A [`Segment`] is the object that address spaces map; each of them that does tells it
//! ([`Mappable::add_owner`]), which is how attachments are counted. One that was removed lives on
//! until nobody has it attached.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::ids::{Entry, Perm, PermWords, Table};
use super::{current_pid, now};
use crate::errno::{Errno, Result};
use crate::kernel::cred::{Cap, Credentials};
use crate::mm::mappable::{Backing, Mappable, MappingOwner, WriteIntent};
use crate::mm::shared::SharedAnon;
use crate::mm::{MemoryFile, PAGE_SIZE, VmaName};

/// What shmmax and shmall are at first.
const NO_LIMIT: u64 = u64::MAX - (1 << 24);
/// Mode bits beyond the permissions.
const DEST: u32 = 0o1000;
const LOCKED: u32 = 0o2000;

/// Settings below /proc/sys/kernel.
pub struct Settings {
    /// Bytes of the largest segment.
    pub shmmax: AtomicU64,
    /// Pages of all segments.
    pub shmall: AtomicU64,
    /// Segments.
    pub shmmni: AtomicI64,
}

/// The memory of a segment, as it is mapped.
pub struct Segment {
    all: Weak<Segments>,
    id: i32,
    key: i32,
    /// Bytes, as they were asked for.
    size: u64,
    memory: Arc<SharedAnon>,
}

/// What changes of a segment.
pub struct State {
    segment: Arc<Segment>,
    cpid: i32,
    lpid: i32,
    atime: i64,
    dtime: i64,
    ctime: i64,
    attached: u64,
    /// To go with the last attachment.
    removed: bool,
    locked: bool,
}

/// What shmctl(2) tells of a segment.
pub struct Stat {
    pub id: i32,
    pub perm: PermWords,
    pub size: u64,
    pub cpid: i32,
    pub lpid: i32,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub attached: u64,
}

/// What there is of all segments, in pages.
#[derive(Default)]
pub struct Sums {
    pub count: usize,
    pub highest: i32,
    pub pages: u64,
    pub resident: u64,
}

/// All segments.
pub struct Segments {
    this: Weak<Segments>,
    memory: Arc<MemoryFile>,
    pub settings: Settings,
    table: Mutex<Table<State>>,
}

/// Keeps a segment from going while it is being attached.
pub struct Pin {
    all: Arc<Segments>,
    segment: Arc<Segment>,
}

impl Pin {
    pub fn segment(&self) -> Arc<Segment> {
        self.segment.clone()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let gone = self.all.let_go(self.segment.id, |_| {});
        drop(gone);
    }
}

fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE)
}

impl Segments {
    pub(super) fn new(memory: &Arc<MemoryFile>) -> Arc<Segments> {
        Arc::new_cyclic(|this| Segments {
            this: this.clone(),
            memory: memory.clone(),
            settings: Settings {
                shmmax: AtomicU64::new(NO_LIMIT),
                shmall: AtomicU64::new(NO_LIMIT),
                shmmni: AtomicI64::new(4096),
            },
            table: Mutex::default(),
        })
    }

    /// shmget(2).
    pub fn get(
        &self,
        key: i32,
        size: u64,
        flags: u32,
        creds: &Credentials,
        pid: i32,
    ) -> Result<i32> {
        let mut table = self.table.lock();
        let found = table.find(key, flags, creds, |state| {
            if state.segment.size < size {
                return Err(Errno::EINVAL);
            }
            Ok(())
        })?;
        if let Some(id) = found {
            return Ok(id);
        }
        let settings = &self.settings;
        if size == 0 || size > settings.shmmax.load(Ordering::Relaxed) {
            return Err(Errno::EINVAL);
        }
        let used: u64 = table.iter().map(|e| pages(e.value.segment.size)).sum();
        let all = used.checked_add(pages(size)).ok_or(Errno::ENOSPC)?;
        if all > settings.shmall.load(Ordering::Relaxed) {
            return Err(Errno::ENOSPC);
        }
        if flags & libc::SHM_HUGETLB as u32 != 0 {
            // No huge page pool: as on a host whose pool is empty.
            return Err(match creds.has_cap(Cap::IpcLock) {
                true => Errno::ENOMEM,
                false => Errno::EPERM,
            });
        }
        if flags & libc::SHM_NORESERVE as u32 == 0 && size > self.memory.total_memory() {
            return Err(Errno::ENOMEM);
        }
        let memory = SharedAnon::new(&self.memory, size)?;
        let most = settings.shmmni.load(Ordering::Relaxed);
        table.add(most, Perm::new(key, flags, creds), |id| State {
            segment: Arc::new(Segment {
                all: self.this.clone(),
                id,
                key,
                size,
                memory,
            }),
            cpid: pid,
            lpid: 0,
            atime: 0,
            dtime: 0,
            ctime: now(),
            attached: 0,
            removed: false,
            locked: false,
        })
    }

    /// The segment that shmat(2) is about, for someone who wants `want` of it. EINVAL, EACCES.
    pub fn pin(&self, id: i32, creds: &Credentials, want: u32) -> Result<Pin> {
        let all = self.this.upgrade().ok_or(Errno::EINVAL)?;
        let mut table = self.table.lock();
        let entry = table.get_mut(id)?;
        entry.perm.check(creds, want)?;
        entry.value.attached += 1;
        let segment = entry.value.segment.clone();
        drop(table);
        Ok(Pin { all, segment })
    }

    /// One attachment fewer. What comes back is to be dropped without a lock.
    fn let_go(&self, id: i32, note: impl FnOnce(&mut State)) -> Option<Entry<State>> {
        let mut table = self.table.lock();
        let state = &mut table.get_mut(id).ok()?.value;
        state.attached = state.attached.saturating_sub(1);
        note(state);
        match state.removed && state.attached == 0 {
            true => table.remove(id),
            false => None,
        }
    }

    fn stat_of(entry: &Entry<State>) -> Stat {
        let state = &entry.value;
        let mut more = 0;
        if state.removed {
            more |= DEST;
        }
        if state.locked {
            more |= LOCKED;
        }
        Stat {
            id: entry.id,
            perm: entry.perm_words(more),
            size: state.segment.size,
            cpid: state.cpid,
            lpid: state.lpid,
            atime: state.atime,
            dtime: state.dtime,
            ctime: state.ctime,
            attached: state.attached,
        }
    }

    /// IPC_STAT; EACCES without permission to read.
    pub fn stat(&self, id: i32, creds: &Credentials) -> Result<Stat> {
        let table = self.table.lock();
        let entry = table.get(id)?;
        entry.perm.check(creds, super::ids::READ)?;
        Ok(Self::stat_of(entry))
    }

    /// SHM_STAT, or SHM_STAT_ANY for which nobody's permission counts (`creds` is None).
    pub fn stat_at(&self, index: i32, creds: Option<&Credentials>) -> Result<Stat> {
        let table = self.table.lock();
        let entry = table.at(index)?;
        if let Some(creds) = creds {
            entry.perm.check(creds, super::ids::READ)?;
        }
        Ok(Self::stat_of(entry))
    }

    /// IPC_SET.
    pub fn set(&self, id: i32, new: &PermWords, creds: &Credentials) -> Result<()> {
        let mut table = self.table.lock();
        let entry = table.get_mut(id)?;
        entry.perm.check_owner(creds)?;
        entry.perm.set(new)?;
        entry.value.ctime = now();
        Ok(())
    }

    /// IPC_RMID.
    pub fn remove(&self, id: i32, creds: &Credentials) -> Result<()> {
        let mut table = self.table.lock();
        let entry = table.get_mut(id)?;
        entry.perm.check_owner(creds)?;
        if entry.value.attached > 0 {
            entry.value.removed = true;
            table.forget_key(id);
            return Ok(());
        }
        let gone = table.remove(id);
        drop(table);
        drop(gone);
        Ok(())
    }

    /// SHM_LOCK and SHM_UNLOCK: nothing is ever swapped, so that only the mark is kept.
    /// `memlock` is the caller's limit in bytes.
    pub fn lock(&self, id: i32, on: bool, creds: &Credentials, memlock: u64) -> Result<()> {
        let mut table = self.table.lock();
        let locked = table.iter().filter(|e| e.value.locked);
        let locked: u64 = locked.map(|e| e.value.segment.size).sum();
        let entry = table.get_mut(id)?;
        if !creds.has_cap(Cap::IpcLock) {
            if creds.euid != entry.perm.uid && creds.euid != entry.perm.cuid {
                return Err(Errno::EPERM);
            }
            if on && memlock == 0 {
                return Err(Errno::EPERM);
            }
            let all = locked.saturating_add(entry.value.segment.size);
            if on && !entry.value.locked && all > memlock {
                return Err(Errno::ENOMEM);
            }
        }
        entry.value.locked = on;
        Ok(())
    }

    /// SHM_INFO.
    pub fn sums(&self) -> Sums {
        let table = self.table.lock();
        let mut sums = Sums {
            count: table.count(),
            highest: table.highest(),
            ..Sums::default()
        };
        for entry in table.iter() {
            sums.pages += pages(entry.value.segment.size);
            sums.resident += pages(entry.value.segment.memory.resident());
        }
        sums
    }

    /// /proc/sysvipc/shm, below its first line.
    pub fn list(&self) -> String {
        let table = self.table.lock();
        let line = |entry: &Entry<State>| {
            let (stat, perm) = (Self::stat_of(entry), entry.perm);
            let (key, id, mode) = (perm.key, stat.id, stat.perm.mode);
            let resident = entry.value.segment.memory.resident();
            format!(
                "{key:10} {id:10}  {mode:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} \
                 {:10} {resident:21} {:21}\n",
                stat.size,
                stat.cpid,
                stat.lpid,
                stat.attached,
                perm.uid.0,
                perm.gid.0,
                perm.cuid.0,
                perm.cgid.0,
                stat.atime,
                stat.dtime,
                stat.ctime,
                0,
            )
        };
        table.iter().map(line).collect()
    }
}

impl Mappable for Segment {
    fn backing(&self, offset: u64, len: u64, write: WriteIntent) -> Result<Backing> {
        self.memory.backing(offset, len, write)
    }

    fn add_owner(&self, _owner: Weak<dyn MappingOwner>) {
        let Some(all) = self.all.upgrade() else {
            return;
        };
        if let Ok(entry) = all.table.lock().get_mut(self.id) {
            let state = &mut entry.value;
            state.attached += 1;
            state.atime = now();
            state.lpid = current_pid();
        }
    }

    fn remove_owner(&self, _owner: &Weak<dyn MappingOwner>) {
        let gone = self.all.upgrade().and_then(|all| {
            all.let_go(self.id, |state| {
                state.dtime = now();
                state.lpid = current_pid();
            })
        });
        drop(gone);
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.memory.discard(offset, len)
    }

    fn shown_as(&self) -> Option<VmaName> {
        Some(VmaName::Segment {
            key: self.key,
            id: self.id,
        })
    }

    fn segment_len(&self) -> Option<u64> {
        Some(self.size)
    }
}
