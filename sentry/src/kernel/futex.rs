//! Futexes (futex(2)): waiters by key, robust lists.
//!
//! A waiter enters the table first and looks at the word after, so no guest memory is touched under
//! the table's lock and no wake is lost: one that comes in between is kept in the waiter.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::kernel::block::Stop;
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::wait::{Ready, Waiter};
use crate::mm::{FutexKey, Mm};

/// FUTEX_BITSET_MATCH_ANY.
pub const MATCH_ANY: u32 = u32::MAX;

struct Sleeper {
    bitset: u32,
    woken: AtomicBool,
    waiter: Mutex<Option<Arc<dyn Waiter>>>,
    /// Where it sleeps now; requeueing changes it.
    key: Mutex<FutexKey>,
    /// Index in the vector of futex_waitv(2).
    index: usize,
}

impl Sleeper {
    fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        if let Some(waiter) = &*self.waiter.lock() {
            waiter.notify(Ready::IN);
        }
    }
}

type Bucket = HashMap<FutexKey, Vec<Arc<Sleeper>>>;
const BUCKETS: usize = 64;

/// All sleepers of a sandbox.
pub struct FutexTable {
    buckets: [Mutex<Bucket>; BUCKETS],
}

impl Default for FutexTable {
    fn default() -> Self {
        FutexTable {
            buckets: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl FutexTable {
    fn index(key: &FutexKey) -> usize {
        key.spread() % BUCKETS
    }

    fn enter(&self, sleeper: &Arc<Sleeper>) {
        let key = sleeper.key.lock().clone();
        self.buckets[Self::index(&key)]
            .lock()
            .entry(key)
            .or_default()
            .push(sleeper.clone());
    }

    /// Takes a sleeper out wherever it is now.
    fn leave(&self, sleeper: &Arc<Sleeper>) {
        loop {
            let key = sleeper.key.lock().clone();
            let mut bucket = self.buckets[Self::index(&key)].lock();
            if let Some(list) = bucket.get_mut(&key) {
                let before = list.len();
                list.retain(|s| !Arc::ptr_eq(s, sleeper));
                let found = list.len() != before;
                if list.is_empty() {
                    bucket.remove(&key);
                }
                if found {
                    return;
                }
            }
            drop(bucket);
            // Not there: woken, or requeued between the two locks.
            if sleeper.woken.load(Ordering::SeqCst) || *sleeper.key.lock() == key {
                return;
            }
        }
    }

    /// Wakes up to `count` sleepers whose bitset meets `bitset`, oldest first.
    pub fn wake(&self, key: &FutexKey, bitset: u32, count: usize) -> usize {
        let mut bucket = self.buckets[Self::index(key)].lock();
        let Some(list) = bucket.get_mut(key) else {
            return 0;
        };
        let mut woken = 0;
        list.retain(|s| {
            if woken < count && s.bitset & bitset != 0 {
                woken += 1;
                s.wake();
                return false;
            }
            true
        });
        if list.is_empty() {
            bucket.remove(key);
        }
        woken
    }

    /// Moves up to `count` sleepers from one key to another.
    pub fn requeue(&self, from: &FutexKey, to: &FutexKey, count: usize) -> usize {
        if from == to {
            return 0;
        }
        let (a, b) = (Self::index(from), Self::index(to));
        // Both locks, lower index first, so that a wake on `to` after us finds them.
        let mut first = self.buckets[a.min(b)].lock();
        let mut second = (a != b).then(|| self.buckets[a.max(b)].lock());
        let (source, target) = match &mut second {
            None => (&mut *first, None),
            Some(second) if a < b => (&mut *first, Some(&mut **second)),
            Some(second) => (&mut **second, Some(&mut *first)),
        };
        let mut list = source.remove(from).unwrap_or_default();
        let rest = list.split_off(count.min(list.len()));
        if !rest.is_empty() {
            source.insert(from.clone(), rest);
        }
        for sleeper in &list {
            *sleeper.key.lock() = to.clone();
        }
        let moved = list.len();
        let target = match target {
            Some(t) => t,
            None => source,
        };
        if moved > 0 {
            target.entry(to.clone()).or_default().extend(list);
        }
        moved
    }
}

/// One word to wait for.
pub struct WaitFor {
    pub addr: u64,
    pub expected: u32,
    pub private: bool,
}

/// Waits until one of the words is woken; the index of the word that was.
///
/// # Errors
/// `Failed(EAGAIN)` if a word does not have its value, `Failed(EFAULT)`, a signal, the deadline.
pub async fn wait(
    task: &Task,
    words: &[WaitFor],
    bitset: u32,
    deadline: Option<MonoTime>,
) -> Result<usize, Stop> {
    let mm = task.mm();
    let table = &task.kernel().futexes;
    let mut sleepers = Vec::with_capacity(words.len());
    for (index, word) in words.iter().enumerate() {
        let key = mm
            .futex_key(word.addr, word.private)
            .map_err(Stop::Failed)?;
        sleepers.push(Arc::new(Sleeper {
            bitset,
            woken: AtomicBool::new(false),
            waiter: Mutex::new(None),
            key: Mutex::new(key),
            index,
        }));
    }
    for sleeper in &sleepers {
        table.enter(sleeper);
    }
    let woken = || {
        sleepers
            .iter()
            .find(|s| s.woken.load(Ordering::SeqCst))
            .map(|s| s.index)
    };
    let mut result = None;
    for word in words {
        match mm.load_u32(word.addr) {
            Ok(value) if value == word.expected => {}
            // Somebody woke us meanwhile: that wake is ours and must not be lost.
            Ok(_) => result = Some(woken().ok_or(Stop::Failed(Errno::EAGAIN))),
            Err(e) => result = Some(Err(Stop::Failed(e))),
        }
        if result.is_some() {
            break;
        }
    }
    let result = match result {
        Some(result) => result,
        None => {
            let enter = |waiter: Arc<dyn Waiter>| {
                for sleeper in &sleepers {
                    *sleeper.waiter.lock() = Some(waiter.clone());
                }
                Vec::new()
            };
            task.wait_with(deadline, enter, || woken().ok_or(Errno::EAGAIN))
                .await
        }
    };
    for sleeper in &sleepers {
        table.leave(sleeper);
    }
    // The same between the end of the wait and leaving the queue.
    match (result, woken()) {
        (Err(_), Some(index)) => Ok(index),
        (result, _) => result,
    }
}

/// Wakes up to `count` sleepers on a word that may be private or shared (exit, clear_child_tid).
pub fn wake_address(kernel: &Kernel, mm: &Mm, addr: u64, count: usize) -> usize {
    [true, false]
        .into_iter()
        .filter_map(|private| mm.futex_key(addr, private).ok())
        .map(|key| kernel.futexes.wake(&key, MATCH_ANY, count))
        .sum()
}

const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// ROBUST_LIST_LIMIT: a circular list must not hold us.
const ROBUST_LIMIT: usize = 2048;

/// Walks the robust list of a dying task (get_robust_list(2), linux/futex.h): every lock it still
/// holds is marked FUTEX_OWNER_DIED and one waiter is woken.
pub fn exit_robust_list(task: &Task, mm: &Mm, head: u64) {
    if head == 0 {
        return;
    }
    let Ok([first, offset, pending]) = mm.read_obj::<[u64; 3]>(head) else {
        return;
    };
    // Bit 0 marks a priority-inheritance futex.
    let untag = |entry: u64| entry & !1;
    let mut entry = first;
    for _ in 0..ROBUST_LIMIT {
        if untag(entry) == head || untag(entry) == 0 {
            break;
        }
        let next = mm.read_obj::<u64>(untag(entry));
        if entry != pending {
            owner_died(task, mm, untag(entry).wrapping_add(offset), false);
        }
        match next {
            Ok(next) => entry = next,
            Err(_) => break,
        }
    }
    if untag(pending) != 0 {
        owner_died(task, mm, untag(pending).wrapping_add(offset), true);
    }
}

fn owner_died(task: &Task, mm: &Mm, addr: u64, pending: bool) {
    if !addr.is_multiple_of(4) {
        return;
    }
    let Ok(mut value) = mm.load_u32(addr) else {
        return;
    };
    loop {
        if pending && value == 0 {
            // Unlocked, but its waiter may not have been woken yet.
            wake_address(task.kernel(), mm, addr, 1);
            return;
        }
        if value & FUTEX_TID_MASK != task.tid() as u32 {
            return;
        }
        let new = value & FUTEX_WAITERS | FUTEX_OWNER_DIED;
        match mm.compare_exchange_u32(addr, value, new) {
            Ok(Ok(_)) => break,
            Ok(Err(seen)) => value = seen,
            Err(_) => return,
        }
    }
    if value & FUTEX_WAITERS != 0 {
        wake_address(task.kernel(), mm, addr, 1);
    }
}
