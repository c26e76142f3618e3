//! epoll(7).
//!
//! An [`Epoll`] has an item for each watched (descriptor, open file) pair; an item is registered in
//! its file's wait queue and, when woken, enters the ready list and wakes the epoll's own queue
//! (which is how nested instances learn). Whether it is really ready is asked when events are
//! collected. Items hold their file weakly: closing the last descriptor of an open file removes it.
//!
//! Those who wait in epoll_wait(2) have a queue of their own, because an item with EPOLLEXCLUSIVE
//! has taken an event only if one of them was woken by it ([`Caller`]).
//!
//! Locks: `items` may be held while a queue is entered or left; the ready list is a leaf, taken
//! inside a wake. Waking goes from watched to watcher, and instances never watch in a circle.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::anon::{Anon, anon_file};
use crate::fs::file::{File, FileOps, Positioned};
use crate::fs::inode::OpenFlags;
use crate::kernel::wait::{Ready, Registration, WaitQueue, Waiter};

/// Most instances on a path of nested ones.
const MAX_NESTS: usize = 5;

bitflags::bitflags! {
    /// Events and modifiers with the values of epoll_ctl(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interest: u32 {
        const EXCLUSIVE = 1 << 28;
        const WAKEUP = 1 << 29;
        const ONESHOT = 1 << 30;
        const ET = 1 << 31;
        const _ = !0;
    }
}

impl Interest {
    const MODIFIERS: Interest = Interest::EXCLUSIVE
        .union(Interest::WAKEUP)
        .union(Interest::ONESHOT)
        .union(Interest::ET);

    /// The events asked for; errors and hang-ups always are.
    fn events(self) -> Ready {
        let asked = (self - Self::MODIFIERS).bits();
        Ready::from_bits_truncate(asked) | Ready::ERR | Ready::HUP
    }
}

/// struct epoll_event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub events: u32,
    pub data: u64,
}

/// What an item wants and whether ONESHOT has disabled it.
#[derive(Clone, Copy)]
struct Wants {
    interest: Interest,
    data: u64,
    disabled: bool,
}

struct Item {
    this: Weak<Item>,
    fd: i32,
    file: Weak<File>,
    epoll: Weak<Shared>,
    wants: Mutex<Wants>,
    /// In the ready list.
    queued: AtomicBool,
}

struct Entry {
    item: Arc<Item>,
    /// Leaves the file's queue when dropped.
    _registration: Registration,
}

#[derive(Default)]
struct Shared {
    /// Of poll(2) and other instances.
    queue: WaitQueue,
    callers: WaitQueue,
    ready: Mutex<VecDeque<Arc<Item>>>,
}

#[derive(Default)]
struct Items {
    /// By descriptor and description.
    map: BTreeMap<(i32, u64), Entry>,
    /// Closed files are looked for when the map has grown this big.
    purge_at: usize,
}

/// See the module documentation.
#[derive(Default)]
pub struct Epoll {
    shared: Arc<Shared>,
    items: Mutex<Items>,
    /// One collects at a time: nobody finds the list empty while another has it in hand.
    collecting: Mutex<()>,
    /// Instances that watch this one.
    parents: Mutex<Vec<Weak<File>>>,
}

/// Held while instances are connected, so that two connections cannot close a circle.
static NESTING: Mutex<()> = Mutex::new(());

/// A new instance.
pub fn epoll() -> Arc<File> {
    anon_file(
        Anon::Inode("[eventpoll]"),
        Arc::new(Epoll::default()),
        OpenFlags::RDWR,
    )
}

/// One who waits in epoll_wait(2).
pub struct Caller {
    waiter: Arc<dyn Waiter>,
    /// It was woken and has not looked yet, or has found something.
    awake: AtomicBool,
}

impl Waiter for Caller {
    fn notify(&self, ready: Ready) {
        self.rouse(ready);
    }

    fn rouse(&self, ready: Ready) -> bool {
        let roused = !self.awake.swap(true, Ordering::AcqRel);
        self.waiter.notify(ready);
        roused
    }
}

impl Waiter for Item {
    fn notify(&self, ready: Ready) {
        self.rouse(ready);
    }

    /// An exclusive item leaves the event to the next as well, unless somebody woke up for what it
    /// watches and for nothing else (ep_poll_callback of Linux).
    fn rouse(&self, ready: Ready) -> bool {
        let wants = *self.wants.lock();
        if wants.disabled {
            return false;
        }
        let Some(epoll) = self.epoll.upgrade() else {
            return false;
        };
        let woken = self.enqueue(&epoll);
        let sides = ready & (Ready::IN | Ready::OUT);
        let fits = sides.bits().count_ones() < 2 && wants.interest.events().contains(sides);
        woken && fits
    }
}

impl Item {
    /// Whether somebody in epoll_wait(2) was woken.
    fn enqueue(&self, epoll: &Shared) -> bool {
        if !self.queued.swap(true, Ordering::AcqRel)
            && let Some(this) = self.this.upgrade()
        {
            epoll.ready.lock().push_back(this);
        }
        let woken = epoll.callers.rouse(Ready::IN);
        epoll.queue.wake(Ready::IN | Ready::RDNORM);
        woken
    }

    /// What is there now of what is wanted.
    fn poll(&self) -> (Ready, Wants) {
        let wants = *self.wants.lock();
        let ready = match self.file.upgrade() {
            Some(file) if !wants.disabled => file.ready() & wants.interest.events(),
            _ => Ready::empty(),
        };
        (ready, wants)
    }
}

/// Checks modifiers. EINVAL.
fn check_exclusive(interest: Interest, file: &File) -> Result<()> {
    let allowed = Interest::EXCLUSIVE
        | Interest::WAKEUP
        | Interest::ET
        | Interest::from_bits_retain((Ready::IN | Ready::OUT | Ready::ERR | Ready::HUP).bits());
    if interest.contains(Interest::EXCLUSIVE)
        && (!allowed.contains(interest) || file.downcast::<Epoll>().is_some())
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

impl Epoll {
    /// EPOLL_CTL_ADD. `own` is the instance's open file.
    ///
    /// # Errors
    /// EEXIST, EPERM for files that are always ready, EINVAL, ELOOP.
    pub fn add(&self, own: &Arc<File>, fd: i32, file: &Arc<File>, event: Event) -> Result<()> {
        let queue = file.ops().wait_queue().ok_or(Errno::EPERM)?;
        if Arc::ptr_eq(own, file) {
            return Err(Errno::EINVAL);
        }
        let interest = Interest::from_bits_retain(event.events);
        check_exclusive(interest, file)?;
        let _nesting = match file.downcast::<Epoll>() {
            Some(nested) => {
                let guard = NESTING.lock();
                let below = nested.depth_below(self, 1)?;
                if self.depth_above(1) + below > MAX_NESTS {
                    return Err(Errno::ELOOP);
                }
                let mut parents = nested.parents.lock();
                parents.retain(|p| p.strong_count() > 0);
                parents.push(Arc::downgrade(own));
                drop(parents);
                Some(guard)
            }
            None => None,
        };
        let item = Arc::new_cyclic(|this| Item {
            this: this.clone(),
            fd,
            file: Arc::downgrade(file),
            epoll: Arc::downgrade(&self.shared),
            wants: Mutex::new(Wants {
                interest,
                data: event.data,
                disabled: false,
            }),
            queued: AtomicBool::new(false),
        });
        {
            let mut items = self.items.lock();
            if items.map.len() >= items.purge_at {
                items.map.retain(|_, e| e.item.file.strong_count() > 0);
                items.purge_at = (items.map.len() * 2).max(64);
            }
            let key = (fd, file.id());
            if items.map.contains_key(&key) {
                return Err(Errno::EEXIST);
            }
            let entry = Entry {
                item: item.clone(),
                _registration: enter(queue, interest, &item),
            };
            items.map.insert(key, entry);
        }
        self.look(&item);
        Ok(())
    }

    /// EPOLL_CTL_MOD.
    ///
    /// # Errors
    /// ENOENT, EINVAL.
    pub fn modify(&self, fd: i32, file: &Arc<File>, event: Event) -> Result<()> {
        let queue = file.ops().wait_queue().ok_or(Errno::EPERM)?;
        let interest = Interest::from_bits_retain(event.events);
        if interest.contains(Interest::EXCLUSIVE) {
            return Err(Errno::EINVAL);
        }
        let item = {
            let mut items = self.items.lock();
            let entry = items.map.get_mut(&(fd, file.id())).ok_or(Errno::ENOENT)?;
            {
                let mut wants = entry.item.wants.lock();
                if wants.interest.contains(Interest::EXCLUSIVE) {
                    return Err(Errno::EINVAL);
                }
                *wants = Wants {
                    interest,
                    data: event.data,
                    disabled: false,
                };
            }
            entry._registration = enter(queue, interest, &entry.item);
            entry.item.clone()
        };
        self.look(&item);
        Ok(())
    }

    /// EPOLL_CTL_DEL. ENOENT.
    pub fn remove(&self, fd: i32, file: &Arc<File>) -> Result<()> {
        let entry = self.items.lock().map.remove(&(fd, file.id()));
        let entry = entry.ok_or(Errno::ENOENT)?;
        entry.item.wants.lock().disabled = true;
        Ok(())
    }

    /// Enters the ready list if something is there already.
    fn look(&self, item: &Item) {
        if !item.poll().0.is_empty() {
            item.enqueue(&self.shared);
        }
    }

    /// Up to `max` events; none if nothing is ready.
    pub fn collect(&self, max: usize) -> Vec<Event> {
        let _one = self.collecting.lock();
        let mut events = Vec::new();
        let mut again = Vec::new();
        let listed = self.shared.ready.lock().len();
        for _ in 0..listed {
            if events.len() == max {
                break;
            }
            let Some(item) = self.shared.ready.lock().pop_front() else {
                break;
            };
            // Before the question: a wake after it must enter the list anew.
            item.queued.store(false, Ordering::Release);
            let (ready, wants) = item.poll();
            if ready.is_empty() {
                continue;
            }
            events.push(Event {
                events: ready.bits(),
                data: wants.data,
            });
            if wants.interest.contains(Interest::ONESHOT) {
                item.wants.lock().disabled = true;
            } else if !wants.interest.contains(Interest::ET) {
                again.push(item);
            }
        }
        // Level-triggered items stay, behind the others.
        let mut list = self.shared.ready.lock();
        for item in again {
            if !item.queued.swap(true, Ordering::AcqRel) {
                list.push_back(item);
            }
        }
        drop(list);
        events
    }

    /// Puts back what could not be told to the guest (a bad address).
    pub fn give_back(&self, events: &[Event]) {
        let items = self.items.lock();
        for entry in items.map.values() {
            let data = entry.item.wants.lock().data;
            if events.iter().any(|e| e.data == data) {
                let mut wants = entry.item.wants.lock();
                if wants.interest.contains(Interest::ONESHOT) {
                    wants.disabled = false;
                }
                drop(wants);
                entry.item.enqueue(&self.shared);
            }
        }
    }

    /// Lets `waiter` be told when something may be ready; it then has to look with
    /// [`collect_for`](Self::collect_for).
    pub fn enter(&self, waiter: Arc<dyn Waiter>) -> (Arc<Caller>, Registration) {
        let caller = Arc::new(Caller {
            waiter,
            awake: AtomicBool::new(true),
        });
        let registration = self.shared.callers.register(Ready::IN, caller.clone());
        (caller, registration)
    }

    /// As [`collect`](Self::collect), for one who goes to sleep if there is nothing.
    pub fn collect_for(&self, caller: &Caller, max: usize) -> Vec<Event> {
        let events = self.collect(max);
        if !events.is_empty() {
            return events;
        }
        // From here on an event may be left to this caller: it looks once more.
        caller.awake.store(false, Ordering::Release);
        let events = self.collect(max);
        if !events.is_empty() {
            caller.awake.store(true, Ordering::Release);
        }
        events
    }

    fn nested(&self) -> Vec<Arc<File>> {
        let items = self.items.lock();
        let files = items.map.values().filter_map(|e| e.item.file.upgrade());
        files.filter(|f| f.downcast::<Epoll>().is_some()).collect()
    }

    /// Instances on the longest path down, this one included. ELOOP if `other` is on one.
    fn depth_below(&self, other: &Epoll, level: usize) -> Result<usize> {
        if std::ptr::eq(self, other) || level > MAX_NESTS {
            return Err(Errno::ELOOP);
        }
        let mut deepest = 0;
        for file in self.nested() {
            if let Some(nested) = file.downcast::<Epoll>() {
                deepest = deepest.max(nested.depth_below(other, level + 1)?);
            }
        }
        Ok(deepest + 1)
    }

    /// Instances on the longest path up, this one included.
    fn depth_above(&self, level: usize) -> usize {
        if level > MAX_NESTS {
            return level;
        }
        let parents: Vec<_> = self
            .parents
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let above = parents
            .iter()
            .filter_map(|f| f.downcast::<Epoll>())
            .map(|p| p.depth_above(level + 1))
            .max();
        above.unwrap_or(0) + 1
    }
}

fn enter(queue: &WaitQueue, interest: Interest, item: &Arc<Item>) -> Registration {
    if interest.contains(Interest::EXCLUSIVE) {
        queue.register_exclusive(interest.events(), item.clone())
    } else {
        queue.register(interest.events(), item.clone())
    }
}

impl FileOps for Epoll {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn ready(&self, _file: &File) -> Ready {
        let items: Vec<_> = self.shared.ready.lock().iter().cloned().collect();
        if items.iter().any(|i| !i.poll().0.is_empty()) {
            Ready::IN | Ready::RDNORM
        } else {
            Ready::empty()
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.shared.queue)
    }

    fn fdinfo(&self, _file: &File) -> String {
        let mut text = String::new();
        for entry in self.items.lock().map.values() {
            let wants = *entry.item.wants.lock();
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "tfd: {:8} events: {:8x} data: {:16x} ",
                entry.item.fd,
                wants.interest.bits(),
                wants.data
            );
        }
        text
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::eventfd::{Take, eventfd};
    use crate::mm::io::{Sink, Source};

    const IN: u32 = Ready::IN.bits();

    fn counter() -> Arc<File> {
        eventfd(0, Take::All, OpenFlags::empty())
    }

    fn add_one(file: &File) {
        file.write(&mut Source::kernel(&1u64.to_ne_bytes()))
            .unwrap();
    }

    fn drain(file: &File) {
        file.read(&mut Sink::kernel(&mut [0u8; 8])).unwrap();
    }

    fn watch(own: &Arc<File>, fd: i32, file: &Arc<File>, events: u32) -> Result<()> {
        let event = Event {
            events,
            data: fd as u64,
        };
        ops(own).add(own, fd, file, event)
    }

    fn ops(file: &File) -> &Epoll {
        file.downcast().unwrap()
    }

    fn ready(own: &File) -> Vec<u64> {
        ops(own).collect(10).iter().map(|e| e.data).collect()
    }

    #[test]
    fn level_edge_and_oneshot() {
        let own = epoll();
        let files = [counter(), counter(), counter()];
        let modes = [0, Interest::ET.bits(), Interest::ONESHOT.bits()];
        for (fd, (file, mode)) in files.iter().zip(modes).enumerate() {
            watch(&own, fd as i32, file, IN | mode).unwrap();
        }
        assert!(ready(&own).is_empty());
        files.iter().for_each(|f| add_one(f));
        assert_eq!(ready(&own), [0, 1, 2]);
        assert_eq!(ready(&own), [0]);
        files.iter().for_each(|f| add_one(f));
        assert_eq!(ready(&own), [0, 1]);
        let event = Event {
            events: IN | Interest::ONESHOT.bits(),
            data: 22,
        };
        ops(&own).modify(2, &files[2], event).unwrap();
        drain(&files[0]);
        assert_eq!(ready(&own), [22]);
    }

    #[test]
    fn few_events_at_a_time_come_in_turn() {
        let own = epoll();
        let files: Vec<_> = (0..3).map(|_| counter()).collect();
        for (fd, file) in files.iter().enumerate() {
            watch(&own, fd as i32, file, IN).unwrap();
            add_one(file);
        }
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(ops(&own).collect(1)[0].data);
        }
        assert_eq!(seen, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_closed_file_is_gone_and_its_number_free() {
        let own = epoll();
        let file = counter();
        watch(&own, 5, &file, IN).unwrap();
        assert_eq!(watch(&own, 5, &file, IN), Err(Errno::EEXIST));
        add_one(&file);
        drop(file);
        assert!(ready(&own).is_empty());
        let other = counter();
        watch(&own, 5, &other, IN).unwrap();
        ops(&own).remove(5, &other).unwrap();
        assert_eq!(ops(&own).remove(5, &other), Err(Errno::ENOENT));
        add_one(&other);
        assert!(ready(&own).is_empty());
    }

    #[test]
    fn instances_nest_five_deep_and_not_in_circles() {
        let chain: Vec<_> = (0..6).map(|_| epoll()).collect();
        for pair in chain[..5].windows(2) {
            watch(&pair[0], 1, &pair[1], IN).unwrap();
        }
        assert_eq!(watch(&chain[4], 1, &chain[5], IN), Err(Errno::ELOOP));
        assert_eq!(watch(&chain[5], 1, &chain[0], IN), Err(Errno::ELOOP));
        assert_eq!(watch(&chain[3], 1, &chain[1], IN), Err(Errno::ELOOP));
        assert_eq!(watch(&chain[3], 1, &chain[3], IN), Err(Errno::EINVAL));
        let file = counter();
        watch(&chain[4], 9, &file, IN).unwrap();
        assert!(ready(&chain[0]).is_empty());
        add_one(&file);
        assert_eq!(ready(&chain[0]), [1]);
        drain(&file);
        assert!(ready(&chain[0]).is_empty());
    }

    #[test]
    fn exclusive_has_rules() {
        let own = epoll();
        let exclusive = Interest::EXCLUSIVE.bits();
        let bad = watch(
            &own,
            1,
            &counter(),
            IN | exclusive | Interest::ONESHOT.bits(),
        );
        assert_eq!(bad, Err(Errno::EINVAL));
        assert_eq!(watch(&own, 1, &epoll(), IN | exclusive), Err(Errno::EINVAL));
        let file = counter();
        watch(&own, 1, &file, IN | exclusive).unwrap();
        let event = Event {
            events: IN,
            data: 0,
        };
        assert_eq!(ops(&own).modify(1, &file, event), Err(Errno::EINVAL));
    }
}
