//! Sets of semaphores: semget(2), semop(2), semctl(2).
//!
//! Who cannot go on leaves his operations with the set. Whoever changes it carries out, in order,
//! what has become possible, before anybody else sees the set: a value handed to a sleeper cannot
//! be taken away by who came later.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::ids::{Entry, Perm, PermWords, READ, Table, WRITE};
use super::now;
use crate::errno::{Errno, Result};
use crate::kernel::cred::Credentials;
use crate::kernel::wait::WaitQueue;

/// Most sets (SEMMNI).
pub const MOST_SETS: i64 = 32000;
/// Most semaphores of all sets (SEMMNS): fewer than Linux's, as they take the Sentry's memory.
pub const MOST_SEMS: usize = 1_024_000;
/// Most semaphores of a set (SEMMSL).
pub const MOST_IN_SET: i32 = 32000;
/// Most operations of a call (SEMOPM).
pub const MOST_OPS: usize = 500;
/// Greatest value (SEMVMX), and greatest adjustment at exit (SEMAEM).
pub const GREATEST: i32 = 32767;
/// Most adjustments that wait for somebody's exit; one takes some 30 bytes.
const MOST_UNDOS: usize = 1 << 20;

/// struct sembuf.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub struct Op {
    pub num: u16,
    pub op: i16,
    pub flags: i16,
}

impl Op {
    fn has(self, flag: i32) -> bool {
        i32::from(self.flags) & flag != 0
    }
}

/// Who asks for operations.
#[derive(Clone, Copy)]
pub struct Caller {
    pub pid: i32,
    /// The list of adjustments, if an operation has SEM_UNDO.
    pub undo: Option<u64>,
}

#[derive(Clone, Copy, Default)]
struct Sem {
    value: i32,
    /// Who changed it last.
    pid: i32,
}

/// Somebody waits for operations to be carried out.
#[derive(Default)]
pub struct Sleeper {
    outcome: Mutex<Option<Result<()>>>,
    pub queue: WaitQueue,
}

impl Sleeper {
    /// EAGAIN while there is none.
    pub fn outcome(&self) -> Result<()> {
        self.outcome.lock().unwrap_or(Err(Errno::EAGAIN))
    }

    fn settle(&self, outcome: Result<()>) {
        *self.outcome.lock() = Some(outcome);
        self.queue.wake_all();
    }
}

struct Pending {
    sleeper: Arc<Sleeper>,
    ops: Vec<Op>,
    caller: Caller,
    /// The operation that has to wait.
    blocked: Op,
}

/// A set.
pub struct Set {
    sems: Vec<Sem>,
    otime: i64,
    ctime: i64,
    pending: VecDeque<Pending>,
    /// Adjustments by list and semaphore, none of them 0.
    undo: BTreeMap<(u64, u16), i32>,
}

enum Attempt {
    Done,
    Blocks(Op),
    Fails(Errno),
}

impl Set {
    /// All of the operations or none; `undos` counts the adjustments of all sets.
    fn attempt(&mut self, ops: &[Op], caller: Caller, undos: &mut usize) -> Attempt {
        let mut values = BTreeMap::new();
        let mut adjusted = BTreeMap::new();
        for op in ops {
            let Some(sem) = self.sems.get(usize::from(op.num)) else {
                return Attempt::Fails(Errno::EFBIG);
            };
            let change = i32::from(op.op);
            let value = values.entry(op.num).or_insert(sem.value);
            if change == 0 && *value != 0 || *value + change < 0 {
                return match op.has(libc::IPC_NOWAIT) {
                    true => Attempt::Fails(Errno::EAGAIN),
                    false => Attempt::Blocks(*op),
                };
            }
            *value += change;
            if *value > GREATEST {
                return Attempt::Fails(Errno::ERANGE);
            }
            if let (true, Some(list)) = (op.has(libc::SEM_UNDO), caller.undo) {
                let key = (list, op.num);
                let old = self.undo.get(&key).copied().unwrap_or(0);
                let new = adjusted.entry(key).or_insert(old);
                *new -= change;
                if !(-GREATEST - 1..=GREATEST).contains(new) {
                    return Attempt::Fails(Errno::ERANGE);
                }
            }
        }
        if *undos + adjusted.len() > MOST_UNDOS {
            return Attempt::Fails(Errno::ENOMEM);
        }
        for (num, value) in values {
            if let Some(sem) = self.sems.get_mut(usize::from(num)) {
                *sem = Sem {
                    value,
                    pid: caller.pid,
                };
            }
        }
        for (key, value) in adjusted {
            self.adjust(key, value, undos);
        }
        self.otime = now();
        Attempt::Done
    }

    fn adjust(&mut self, key: (u64, u16), value: i32, undos: &mut usize) {
        *undos -= usize::from(self.undo.remove(&key).is_some());
        if value != 0 {
            self.undo.insert(key, value);
            *undos += 1;
        }
    }

    /// Carries out what has become possible.
    fn update(&mut self, undos: &mut usize) {
        let mut at = 0;
        while let Some(next) = self.pending.remove(at) {
            let outcome = match self.attempt(&next.ops, next.caller, undos) {
                Attempt::Blocks(blocked) => {
                    self.pending.insert(at, Pending { blocked, ..next });
                    at += 1;
                    continue;
                }
                Attempt::Done => Ok(()),
                Attempt::Fails(errno) => Err(errno),
            };
            next.sleeper.settle(outcome);
            if outcome.is_ok() && next.ops.iter().any(|op| op.op != 0) {
                at = 0;
            }
        }
    }

    /// How many wait for the semaphore to grow, or to become 0.
    fn waiting(&self, num: u16, what: fn(i16) -> bool) -> usize {
        let waits = |p: &&Pending| p.blocked.num == num && what(p.blocked.op);
        self.pending.iter().filter(waits).count()
    }
}

/// What semctl(2) tells of a set.
pub struct Stat {
    pub id: i32,
    pub perm: PermWords,
    pub otime: i64,
    pub ctime: i64,
    pub count: usize,
}

/// What semctl(2) tells of one semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    Value,
    Pid,
    WaitingForMore,
    WaitingForZero,
}

#[derive(Default)]
struct Inner {
    table: Table<Set>,
    sems: usize,
    undos: usize,
}

/// All sets.
pub struct Sets {
    this: Weak<Sets>,
    next_list: AtomicU64,
    inner: Mutex<Inner>,
}

/// What is to be undone when the last task that shares it ends (SEM_UNDO).
pub struct UndoList {
    sets: Arc<Sets>,
    pid: i32,
    pub id: u64,
}

impl Drop for UndoList {
    fn drop(&mut self) {
        self.sets.undo(self.id, self.pid);
    }
}

/// What a call comes to that cannot be answered at once.
pub enum Begun {
    Done,
    Sleeps(Asleep),
}

/// Operations left with a set; they are taken back when this is dropped.
pub struct Asleep {
    sets: Arc<Sets>,
    id: i32,
    pub sleeper: Arc<Sleeper>,
}

impl Asleep {
    /// Takes the operations back, unless they have been carried out or have failed.
    pub fn take_back(&self) {
        let mut inner = self.sets.inner.lock();
        if let Ok(entry) = inner.table.get_mut(self.id) {
            let others = |p: &Pending| !Arc::ptr_eq(&p.sleeper, &self.sleeper);
            entry.value.pending.retain(others);
        }
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        self.take_back();
    }
}

impl Sets {
    pub(super) fn new() -> Arc<Sets> {
        Arc::new_cyclic(|this| Sets {
            this: this.clone(),
            next_list: AtomicU64::new(0),
            inner: Mutex::default(),
        })
    }

    /// A list for the tasks of process `pid`.
    pub fn undo_list(&self, pid: i32) -> Option<Arc<UndoList>> {
        let id = self.next_list.fetch_add(1, Ordering::Relaxed);
        let sets = self.this.upgrade()?;
        Some(Arc::new(UndoList { sets, pid, id }))
    }

    /// semget(2).
    pub fn get(&self, key: i32, count: i32, flags: u32, creds: &Credentials) -> Result<i32> {
        if !(0..=MOST_IN_SET).contains(&count) {
            return Err(Errno::EINVAL);
        }
        let count = count as usize;
        let mut inner = self.inner.lock();
        let found = inner
            .table
            .find(key, flags, creds, |set| match count > set.sems.len() {
                true => Err(Errno::EINVAL),
                false => Ok(()),
            })?;
        if let Some(id) = found {
            return Ok(id);
        }
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        if inner.sems + count > MOST_SEMS {
            return Err(Errno::ENOSPC);
        }
        let perm = Perm::new(key, flags, creds);
        let id = inner.table.add(MOST_SETS, perm, |_| Set {
            sems: vec![Sem::default(); count],
            otime: 0,
            ctime: now(),
            pending: VecDeque::new(),
            undo: BTreeMap::new(),
        })?;
        inner.sems += count;
        Ok(id)
    }

    /// semop(2), as far as it goes without waiting.
    ///
    /// # Errors
    /// EINVAL, EFBIG, EACCES, EAGAIN, ERANGE, ENOMEM.
    pub fn begin(
        &self,
        id: i32,
        ops: Vec<Op>,
        caller: Caller,
        creds: &Credentials,
    ) -> Result<Begun> {
        let sets = self.this.upgrade().ok_or(Errno::EINVAL)?;
        let mut inner = self.inner.lock();
        let Inner { table, undos, .. } = &mut *inner;
        let entry = table.get_mut(id)?;
        let set = &mut entry.value;
        if ops.iter().any(|op| usize::from(op.num) >= set.sems.len()) {
            return Err(Errno::EFBIG);
        }
        let alters = ops.iter().any(|op| op.op != 0);
        entry.perm.check(creds, if alters { WRITE } else { READ })?;
        match set.attempt(&ops, caller, undos) {
            Attempt::Done => {
                if alters {
                    set.update(undos);
                }
                Ok(Begun::Done)
            }
            Attempt::Fails(errno) => Err(errno),
            Attempt::Blocks(blocked) => {
                let sleeper = Arc::<Sleeper>::default();
                set.pending.push_back(Pending {
                    sleeper: sleeper.clone(),
                    ops,
                    caller,
                    blocked,
                });
                Ok(Begun::Sleeps(Asleep { sets, id, sleeper }))
            }
        }
    }

    /// The end of all tasks that share a list.
    fn undo(&self, list: u64, pid: i32) {
        let mut inner = self.inner.lock();
        let Inner { table, undos, .. } = &mut *inner;
        for entry in table.iter_mut() {
            let set = &mut entry.value;
            let own = set.undo.range((list, 0)..=(list, u16::MAX));
            let own: Vec<_> = own.map(|(key, value)| (*key, *value)).collect();
            if own.is_empty() {
                continue;
            }
            for (key, value) in own {
                set.adjust(key, 0, undos);
                if let Some(sem) = set.sems.get_mut(usize::from(key.1)) {
                    sem.value = (sem.value + value).clamp(0, GREATEST);
                    sem.pid = pid;
                }
            }
            set.otime = now();
            set.update(undos);
        }
    }

    fn stat_of(entry: &Entry<Set>) -> Stat {
        Stat {
            id: entry.id,
            perm: entry.perm_words(0),
            otime: entry.value.otime,
            ctime: entry.value.ctime,
            count: entry.value.sems.len(),
        }
    }

    /// IPC_STAT.
    pub fn stat(&self, id: i32, creds: &Credentials) -> Result<Stat> {
        let inner = self.inner.lock();
        let entry = inner.table.get(id)?;
        entry.perm.check(creds, READ)?;
        Ok(Self::stat_of(entry))
    }

    /// SEM_STAT, or SEM_STAT_ANY for which nobody's permission counts (`creds` is None).
    pub fn stat_at(&self, index: i32, creds: Option<&Credentials>) -> Result<Stat> {
        let inner = self.inner.lock();
        let entry = inner.table.at(index)?;
        if let Some(creds) = creds {
            entry.perm.check(creds, READ)?;
        }
        Ok(Self::stat_of(entry))
    }

    /// IPC_SET.
    pub fn set(&self, id: i32, new: &PermWords, creds: &Credentials) -> Result<()> {
        let mut inner = self.inner.lock();
        let entry = inner.table.get_mut(id)?;
        entry.perm.check_owner(creds)?;
        entry.perm.set(new)?;
        entry.value.ctime = now();
        Ok(())
    }

    /// IPC_RMID: who sleeps is told.
    pub fn remove(&self, id: i32, creds: &Credentials) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.table.get(id)?.perm.check_owner(creds)?;
        let Some(gone) = inner.table.remove(id) else {
            return Err(Errno::EINVAL);
        };
        inner.sems -= gone.value.sems.len();
        inner.undos -= gone.value.undo.len();
        drop(inner);
        for pending in gone.value.pending {
            pending.sleeper.settle(Err(Errno::EIDRM));
        }
        Ok(())
    }

    /// GETVAL, GETPID, GETNCNT and GETZCNT.
    pub fn query(&self, id: i32, num: i32, what: Query, creds: &Credentials) -> Result<i32> {
        let inner = self.inner.lock();
        let entry = inner.table.get(id)?;
        entry.perm.check(creds, READ)?;
        let num = u16::try_from(num).map_err(|_| Errno::EINVAL)?;
        let set = &entry.value;
        let sem = set.sems.get(usize::from(num)).ok_or(Errno::EINVAL)?;
        Ok(match what {
            Query::Value => sem.value,
            Query::Pid => sem.pid,
            Query::WaitingForMore => set.waiting(num, |op| op < 0) as i32,
            Query::WaitingForZero => set.waiting(num, |op| op == 0) as i32,
        })
    }

    /// GETALL.
    pub fn values(&self, id: i32, creds: &Credentials) -> Result<Vec<u16>> {
        let inner = self.inner.lock();
        let entry = inner.table.get(id)?;
        entry.perm.check(creds, READ)?;
        Ok(entry.value.sems.iter().map(|s| s.value as u16).collect())
    }

    /// How many semaphores SETALL is to set. EINVAL, EACCES.
    pub fn settable(&self, id: i32, creds: &Credentials) -> Result<usize> {
        let inner = self.inner.lock();
        let entry = inner.table.get(id)?;
        entry.perm.check(creds, WRITE)?;
        Ok(entry.value.sems.len())
    }

    /// SETALL (`first` is None), and SETVAL of one semaphore. Adjustments of what is set are over.
    pub fn set_values(
        &self,
        id: i32,
        first: Option<i32>,
        values: &[u16],
        pid: i32,
        creds: &Credentials,
    ) -> Result<()> {
        let mut inner = self.inner.lock();
        let Inner { table, undos, .. } = &mut *inner;
        let entry = table.get_mut(id)?;
        let set = &mut entry.value;
        let first = usize::try_from(first.unwrap_or(0)).map_err(|_| Errno::EINVAL)?;
        let sems = set.sems.get_mut(first..first.saturating_add(values.len()));
        let sems = sems.ok_or(Errno::EINVAL)?;
        entry.perm.check(creds, WRITE)?;
        for (sem, value) in sems.iter_mut().zip(values) {
            *sem = Sem {
                value: i32::from(*value),
                pid,
            };
        }
        let before = set.undo.len();
        let changed = first..first + values.len();
        set.undo
            .retain(|(_, num), _| !changed.contains(&usize::from(*num)));
        *undos -= before - set.undo.len();
        set.ctime = now();
        set.update(undos);
        Ok(())
    }

    /// Sets, semaphores, and the highest place in use.
    pub fn counts(&self) -> (usize, usize, i32) {
        let inner = self.inner.lock();
        (inner.table.count(), inner.sems, inner.table.highest())
    }

    /// /proc/sysvipc/sem, below its first line.
    pub fn list(&self) -> String {
        let inner = self.inner.lock();
        let line = |entry: &Entry<Set>| {
            let perm = entry.perm;
            format!(
                "{:10} {:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}\n",
                perm.key,
                entry.id,
                perm.mode,
                entry.value.sems.len(),
                perm.uid.0,
                perm.gid.0,
                perm.cuid.0,
                perm.cgid.0,
                entry.value.otime,
                entry.value.ctime,
            )
        };
        inner.table.iter().map(line).collect()
    }
}
