//! File locks: flock(2), POSIX record locks and open-file-description locks (fcntl(2)).
//!
//! flock locks belong to an open file description; POSIX locks to a descriptor table (a process);
//! OFD locks to an open file description but live among the POSIX locks. Nothing here blocks:
//! EAGAIN means that the caller may wait on [`FileLocks::queue`] and try again.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::kernel::wait::WaitQueue;

/// Whose a record lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A descriptor table ([`crate::fs::fdtable::FdTable::id`]).
    Process(u64),
    /// An open file description ([`crate::fs::file::File::id`]).
    Description(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Shared,
    Exclusive,
}

/// Bytes `start..=last`; `last` is `u64::MAX >> 1` for "to the end of the file".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub last: u64,
}

/// Highest offset there is.
pub const OFFSET_MAX: u64 = i64::MAX as u64;

impl Range {
    /// From l_start and l_len with `base` already added to the start (fcntl(2)).
    pub fn new(start: i64, len: i64) -> Result<Range> {
        let (first, last) = match len {
            0 => (start, i64::MAX),
            1.. => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
            _ => (
                start.checked_add(len).ok_or(Errno::EINVAL)?,
                start.checked_sub(1).ok_or(Errno::EINVAL)?,
            ),
        };
        Ok(Range {
            start: u64::try_from(first).map_err(|_| Errno::EINVAL)?,
            last: u64::try_from(last).map_err(|_| Errno::EINVAL)?,
        })
    }

    /// l_len of this range.
    pub fn len(&self) -> u64 {
        if self.last >= OFFSET_MAX {
            0
        } else {
            self.last - self.start + 1
        }
    }

    pub fn is_empty(&self) -> bool {
        false
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.start <= other.last && other.start <= self.last
    }
}

/// A record lock as F_GETLK and /proc/locks show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    pub owner: Owner,
    /// Process id at the time of locking; -1 for OFD locks.
    pub pid: i32,
    pub kind: Kind,
    pub range: Range,
}

/// Whether the caller would wait: then a circle of waiters is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    No,
    Yes,
}

#[derive(Default)]
struct State {
    flocks: Vec<(u64, Kind)>,
    /// Sorted by start within one owner.
    records: Vec<Lock>,
}

/// The locks of one file.
#[derive(Default)]
pub struct FileLocks {
    state: Mutex<State>,
    queue: WaitQueue,
}

/// Who waits for whom, all files together (deadlocks span files). Only processes: OFD locks are
/// not checked, as on Linux.
static BLOCKED: Mutex<Option<HashMap<Owner, Owner>>> = Mutex::new(None);

/// To be called when `owner` no longer waits.
pub fn stop_waiting(owner: Owner) {
    if let Some(map) = BLOCKED.lock().as_mut() {
        map.remove(&owner);
    }
}

/// Records that `owner` waits for `holder`. EDEADLK if that closes a circle.
fn start_waiting(owner: Owner, holder: Owner) -> Result<()> {
    if matches!(owner, Owner::Description(_)) {
        return Ok(());
    }
    let mut blocked = BLOCKED.lock();
    let map = blocked.get_or_insert_with(HashMap::new);
    let mut at = holder;
    for _ in 0..=map.len() {
        if at == owner {
            return Err(Errno::EDEADLK);
        }
        match map.get(&at) {
            Some(next) => at = *next,
            None => break,
        }
    }
    map.insert(owner, holder);
    Ok(())
}

impl FileLocks {
    /// Woken when a lock goes away.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// flock(2). A conversion gives up the old lock first, even if the new one is refused.
    pub fn flock(&self, file: u64, kind: Kind) -> Result<()> {
        let mut state = self.state.lock();
        let mut gave_up = false;
        if let Some(i) = state.flocks.iter().position(|(f, _)| *f == file) {
            if state.flocks[i].1 == kind {
                return Ok(());
            }
            state.flocks.remove(i);
            gave_up = true;
        }
        let conflict = state
            .flocks
            .iter()
            .any(|(_, k)| *k == Kind::Exclusive || kind == Kind::Exclusive);
        if !conflict {
            state.flocks.push((file, kind));
        }
        drop(state);
        // A downgrade lets others in; so does what was given up. Nothing else does: whoever waits
        // here calls this again for each wake.
        if gave_up {
            self.queue.wake_all();
        }
        if conflict { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    /// LOCK_UN, or the description is gone.
    pub fn flock_release(&self, file: u64) {
        let mut state = self.state.lock();
        let before = state.flocks.len();
        state.flocks.retain(|(f, _)| *f != file);
        let changed = state.flocks.len() != before;
        drop(state);
        if changed {
            self.queue.wake_all();
        }
    }

    fn conflict(state: &State, owner: Owner, kind: Kind, range: &Range) -> Option<Lock> {
        state
            .records
            .iter()
            .filter(|l| l.owner != owner && l.range.overlaps(range))
            .find(|l| l.kind == Kind::Exclusive || kind == Kind::Exclusive)
            .copied()
    }

    /// F_GETLK, F_OFD_GETLK: what would be in the way.
    pub fn test(&self, owner: Owner, kind: Kind, range: Range) -> Option<Lock> {
        Self::conflict(&self.state.lock(), owner, kind, &range)
    }

    /// Locks a range for `owner`, replacing what it holds there.
    ///
    /// # Errors
    /// EAGAIN: somebody is in the way; EDEADLK: and waits for us (only with `Waiting::Yes`).
    pub fn lock(
        &self,
        owner: Owner,
        pid: i32,
        kind: Kind,
        range: Range,
        waiting: Waiting,
    ) -> Result<()> {
        let mut state = self.state.lock();
        if let Some(holder) = Self::conflict(&state, owner, kind, &range) {
            drop(state);
            if waiting == Waiting::Yes {
                start_waiting(owner, holder.owner)?;
            }
            return Err(Errno::EAGAIN);
        }
        let lock = Lock {
            owner,
            pid,
            kind,
            range,
        };
        Self::replace(&mut state, owner, range, Some(lock));
        drop(state);
        if waiting == Waiting::Yes {
            stop_waiting(owner);
        }
        self.queue.wake_all();
        Ok(())
    }

    /// Unlocks a range.
    pub fn unlock(&self, owner: Owner, range: Range) {
        let mut state = self.state.lock();
        if state.records.iter().all(|l| l.owner != owner) {
            return;
        }
        Self::replace(&mut state, owner, range, None);
        drop(state);
        self.queue.wake_all();
    }

    /// Forgets all of `owner`: the process closed the file, or the description is gone.
    pub fn release(&self, owner: Owner) {
        self.unlock(
            owner,
            Range {
                start: 0,
                last: OFFSET_MAX,
            },
        );
    }

    /// All record locks, for /proc/locks.
    pub fn records(&self) -> Vec<Lock> {
        self.state.lock().records.clone()
    }

    /// Cuts `range` out of what `owner` holds and puts `new` there, joined with like neighbours.
    fn replace(state: &mut State, owner: Owner, range: Range, new: Option<Lock>) {
        let mut kept = Vec::with_capacity(state.records.len() + 2);
        let mut merged = new;
        for lock in state.records.drain(..) {
            if lock.owner != owner {
                kept.push(lock);
                continue;
            }
            if let Some(new) = merged.as_mut()
                && lock.kind == new.kind
                && lock.range.start <= new.range.last.saturating_add(1)
                && new.range.start <= lock.range.last.saturating_add(1)
            {
                new.range.start = new.range.start.min(lock.range.start);
                new.range.last = new.range.last.max(lock.range.last);
                continue;
            }
            if !lock.range.overlaps(&range) {
                kept.push(lock);
                continue;
            }
            if lock.range.start < range.start {
                let mut left = lock;
                left.range.last = range.start - 1;
                kept.push(left);
            }
            if lock.range.last > range.last {
                let mut right = lock;
                right.range.start = range.last + 1;
                kept.push(right);
            }
        }
        kept.extend(merged);
        kept.sort_by_key(|l| l.range.start);
        state.records = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, last: u64) -> Range {
        Range { start, last }
    }

    #[test]
    fn ranges_split_join_and_convert() {
        let locks = FileLocks::default();
        let (a, b) = (Owner::Process(1001), Owner::Process(1002));
        let take = |o, k, s, l| locks.lock(o, 1, k, range(s, l), Waiting::No);
        take(a, Kind::Exclusive, 0, 99).unwrap();
        assert_eq!(take(b, Kind::Shared, 50, 50), Err(Errno::EAGAIN));
        locks.unlock(a, range(40, 59));
        take(b, Kind::Shared, 50, 50).unwrap();
        assert_eq!(locks.records().len(), 3);
        take(a, Kind::Shared, 0, 39).unwrap();
        take(a, Kind::Shared, 40, 80).unwrap();
        let of_a: Vec<_> = locks
            .records()
            .into_iter()
            .filter(|l| l.owner == a)
            .collect();
        assert_eq!(of_a.len(), 2);
        assert_eq!(of_a[0].range, range(0, 80));
        assert_eq!(of_a[1].range, range(81, 99));
        let found = locks.test(b, Kind::Exclusive, range(90, 200)).unwrap();
        assert_eq!(found.range, range(81, 99));
        locks.release(a);
        take(b, Kind::Exclusive, 0, OFFSET_MAX).unwrap();
    }

    #[test]
    fn a_circle_is_a_deadlock() {
        let (x, y) = (FileLocks::default(), FileLocks::default());
        let (a, b) = (Owner::Process(2001), Owner::Process(2002));
        let all = range(0, OFFSET_MAX);
        x.lock(a, 1, Kind::Exclusive, all, Waiting::No).unwrap();
        y.lock(b, 2, Kind::Exclusive, all, Waiting::No).unwrap();
        assert_eq!(
            y.lock(a, 1, Kind::Exclusive, all, Waiting::Yes),
            Err(Errno::EAGAIN)
        );
        assert_eq!(
            x.lock(b, 2, Kind::Exclusive, all, Waiting::Yes),
            Err(Errno::EDEADLK)
        );
        stop_waiting(a);
        assert_eq!(
            x.lock(b, 2, Kind::Exclusive, all, Waiting::Yes),
            Err(Errno::EAGAIN)
        );
        stop_waiting(b);
    }

    #[test]
    fn flock_conversion_gives_up_first() {
        let locks = FileLocks::default();
        locks.flock(1, Kind::Shared).unwrap();
        locks.flock(2, Kind::Shared).unwrap();
        assert_eq!(locks.flock(1, Kind::Exclusive), Err(Errno::EAGAIN));
        // 1 lost its shared lock in the attempt.
        locks.flock(2, Kind::Exclusive).unwrap();
        assert_eq!(locks.flock(1, Kind::Shared), Err(Errno::EAGAIN));
        locks.flock_release(2);
        locks.flock(1, Kind::Shared).unwrap();
    }

    #[test]
    fn lengths() {
        assert_eq!(Range::new(10, 5).unwrap(), range(10, 14));
        assert_eq!(Range::new(10, -5).unwrap(), range(5, 9));
        assert_eq!(Range::new(3, 0).unwrap().len(), 0);
        assert_eq!(Range::new(3, -4), Err(Errno::EINVAL));
        assert_eq!(Range::new(i64::MAX, 2), Err(Errno::EOVERFLOW));
    }
}
