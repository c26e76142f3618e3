//! inotify(7).
//!
//! A [`Watch`] is a [`Watcher`] of an inode and turns its events into records of its [`Inotify`]
//! instance. It holds the dentry, so the inode and with it the watch live on; the instance's end,
//! inotify_rm_watch(2), IN_ONESHOT or the end of the file remove it. IN_DELETE_SELF comes with
//! the last name, not with the last descriptor.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::anon::{Anon, anon_file};
use crate::fs::dentry::Dentry;
use crate::fs::file::{File, FileOps, Positioned};
use crate::fs::inode::OpenFlags;
use crate::fs::notify::{Event, Events, WatchCount, Watcher};
use crate::kernel::task::Task;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::mm::io::Sink;

/// /proc/sys/fs/inotify/max_queued_events.
pub const MAX_QUEUED: usize = 16384;
/// /proc/sys/fs/inotify/max_user_instances, here for the sandbox.
pub const MAX_INSTANCES: usize = 1024;
/// /proc/sys/fs/inotify/max_user_watches, here for the sandbox.
pub const MAX_WATCHES: usize = 65536;

/// Bytes of struct inotify_event without its name.
const HEADER: usize = 16;

static INSTANCES: AtomicUsize = AtomicUsize::new(0);
static WATCHES: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Option<Vec<u8>>,
}

impl Record {
    /// The name's room: with a NUL, rounded up to the header's size.
    fn name_len(&self) -> usize {
        self.name
            .as_ref()
            .map_or(0, |n| (n.len() + 1).next_multiple_of(HEADER))
    }

    fn len(&self) -> usize {
        HEADER + self.name_len()
    }

    fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(self.len());
        b.extend_from_slice(&self.wd.to_ne_bytes());
        b.extend_from_slice(&self.mask.to_ne_bytes());
        b.extend_from_slice(&self.cookie.to_ne_bytes());
        b.extend_from_slice(&(self.name_len() as u32).to_ne_bytes());
        b.extend_from_slice(self.name.as_deref().unwrap_or(&[]));
        b.resize(self.len(), 0);
        b
    }
}

struct Watch {
    this: Weak<Watch>,
    inotify: Weak<Inotify>,
    wd: i32,
    mask: AtomicU32,
    dentry: Arc<Dentry>,
    _count: WatchCount,
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHES.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct State {
    events: VecDeque<Record>,
    watches: BTreeMap<i32, Arc<Watch>>,
    last_wd: i32,
    overflowed: bool,
}

/// See the module documentation.
pub struct Inotify {
    this: Weak<Inotify>,
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Drop for Inotify {
    fn drop(&mut self) {
        INSTANCES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A new instance. `flags`: O_NONBLOCK. EMFILE if there are too many.
pub fn inotify(flags: OpenFlags) -> Result<Arc<File>> {
    if INSTANCES.fetch_add(1, Ordering::Relaxed) >= MAX_INSTANCES {
        INSTANCES.fetch_sub(1, Ordering::Relaxed);
        return Err(Errno::EMFILE);
    }
    let ops = Arc::new_cyclic(|this| Inotify {
        this: this.clone(),
        state: Mutex::default(),
        queue: WaitQueue::new(),
    });
    Ok(anon_file(Anon::Inode("inotify"), ops, flags))
}

impl Inotify {
    /// inotify_add_watch(2): the watch descriptor. `mask`: as the guest gave it, already checked.
    ///
    /// # Errors
    /// EEXIST with IN_MASK_CREATE, ENOSPC if there are too many watches.
    pub fn add(&self, dentry: &Arc<Dentry>, mask: u32) -> Result<i32> {
        let wanted = mask & (libc::IN_ALL_EVENTS | libc::IN_ONESHOT | libc::IN_EXCL_UNLINK);
        let (wd, watch) = {
            let mut state = self.state.lock();
            let inode = dentry.inode();
            let known = state
                .watches
                .values()
                .find(|w| std::ptr::addr_eq(Arc::as_ptr(w.dentry.inode()), Arc::as_ptr(inode)));
            if let Some(watch) = known {
                if mask & libc::IN_MASK_CREATE != 0 {
                    return Err(Errno::EEXIST);
                }
                let old = watch.mask.load(Ordering::Relaxed);
                let keep = if mask & libc::IN_MASK_ADD != 0 {
                    old
                } else {
                    0
                };
                watch.mask.store(keep | wanted, Ordering::Relaxed);
                return Ok(watch.wd);
            }
            if WATCHES.fetch_add(1, Ordering::Relaxed) >= MAX_WATCHES {
                WATCHES.fetch_sub(1, Ordering::Relaxed);
                return Err(Errno::ENOSPC);
            }
            // Numbers are not used again until they wrap.
            let mut wd = state.last_wd;
            loop {
                wd = wd.checked_add(1).unwrap_or(1);
                if !state.watches.contains_key(&wd) {
                    break;
                }
            }
            state.last_wd = wd;
            let watch = Arc::new_cyclic(|this| Watch {
                this: this.clone(),
                inotify: self.this.clone(),
                wd,
                mask: AtomicU32::new(wanted),
                dentry: dentry.clone(),
                _count: WatchCount::new(),
            });
            state.watches.insert(wd, watch.clone());
            (wd, watch)
        };
        dentry.inode().extra().add_watcher(watch);
        Ok(wd)
    }

    /// inotify_rm_watch(2). EINVAL.
    pub fn remove(&self, wd: i32) -> Result<()> {
        self.drop_watch(wd).ok_or(Errno::EINVAL)
    }

    /// Removes a watch; the reader is told (IN_IGNORED).
    fn drop_watch(&self, wd: i32) -> Option<()> {
        let watch = self.state.lock().watches.remove(&wd)?;
        watch.leave();
        self.push(Record {
            wd,
            mask: libc::IN_IGNORED,
            cookie: 0,
            name: None,
        });
        Some(())
    }

    fn push(&self, record: Record) {
        {
            let mut state = self.state.lock();
            // The same thing twice in a row is told once.
            if state.events.back() == Some(&record) {
                return;
            }
            if state.events.len() >= MAX_QUEUED {
                if state.overflowed {
                    return;
                }
                state.overflowed = true;
                state.events.push_back(Record {
                    wd: -1,
                    mask: libc::IN_Q_OVERFLOW,
                    cookie: 0,
                    name: None,
                });
            } else {
                state.events.push_back(record);
            }
        }
        self.queue.wake(Ready::IN | Ready::RDNORM);
    }
}

impl Watch {
    fn leave(&self) {
        if let Some(this) = self.this.upgrade() {
            let this: Arc<dyn Watcher> = this;
            self.dentry.inode().extra().remove_watcher(&this);
        }
    }
}

impl Watcher for Watch {
    fn notify(&self, event: &Event<'_>) {
        let Some(inotify) = self.inotify.upgrade() else {
            return;
        };
        let mask = self.mask.load(Ordering::Relaxed);
        if event.unlinked && mask & libc::IN_EXCL_UNLINK != 0 {
            return;
        }
        let gone =
            event.name.is_none() && event.mask.intersects(Events::DELETE_SELF | Events::UNMOUNT);
        let kinds = event.mask - Events::ISDIR;
        if kinds.bits() & mask != 0 || kinds.contains(Events::UNMOUNT) {
            inotify.push(Record {
                wd: self.wd,
                mask: event.mask.bits(),
                cookie: event.cookie,
                name: event.name.map(<[u8]>::to_vec),
            });
            if mask & libc::IN_ONESHOT != 0 {
                inotify.drop_watch(self.wd);
                return;
            }
        }
        if gone {
            inotify.drop_watch(self.wd);
        }
    }
}

impl FileOps for Inotify {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, _offset: u64) -> Result<usize> {
        let mut total = 0;
        loop {
            let record = {
                let mut state = self.state.lock();
                let Some(next) = state.events.front().map(Record::len) else {
                    return if total > 0 {
                        Ok(total)
                    } else {
                        Err(Errno::EAGAIN)
                    };
                };
                if next > dst.remaining() {
                    return if total > 0 {
                        Ok(total)
                    } else {
                        Err(Errno::EINVAL)
                    };
                }
                let record = state.events.pop_front();
                if record
                    .as_ref()
                    .is_some_and(|r| r.mask & libc::IN_Q_OVERFLOW != 0)
                {
                    state.overflowed = false;
                }
                record
            };
            let Some(record) = record else {
                return Ok(total);
            };
            match dst.put(&record.encode()) {
                Ok(n) => total += n,
                Err(_) if total > 0 => return Ok(total),
                Err(e) => return Err(e),
            }
        }
    }

    fn ready(&self, _file: &File) -> Ready {
        if self.state.lock().events.is_empty() {
            Ready::empty()
        } else {
            Ready::IN | Ready::RDNORM
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn ioctl(&self, task: &Task, _file: &File, cmd: u32, arg: u64) -> Result<u64> {
        const FIONREAD: u32 = 0x541B;
        if cmd != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes: usize = self.state.lock().events.iter().map(Record::len).sum();
        task.mm()
            .write_obj(arg, &i32::try_from(bytes).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn release(&self, _file: &File) {
        let watches = std::mem::take(&mut self.state.lock().watches);
        for watch in watches.values() {
            watch.leave();
        }
    }

    fn fdinfo(&self, _file: &File) -> String {
        let mut text = String::new();
        let watches = self.state.lock().watches.clone();
        for watch in watches.values() {
            let attr = watch.dentry.inode().attr();
            let (ino, dev) = attr.map_or((0, 0), |a| (a.ino, a.dev.encode()));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "inotify wd:{:x} ino:{ino:x} sdev:{dev:x} mask:{:x} ignored_mask:0 ",
                watch.wd,
                watch.mask.load(Ordering::Relaxed)
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
    use crate::fs::anon::anon_path;
    use crate::kernel::cred::{Gid, Uid};

    fn place() -> Arc<Dentry> {
        anon_path(Anon::Pipe, Uid(0), Gid(0)).dentry
    }

    fn tell(dentry: &Dentry, mask: Events, name: Option<&[u8]>) {
        dentry.inode().extra().notify(&Event {
            mask,
            cookie: 0,
            name,
            unlinked: false,
        });
    }

    /// (wd, mask, name) of what can be read.
    fn read(file: &File) -> Vec<(i32, u32, Vec<u8>)> {
        let mut buf = vec![0u8; 65536];
        let n = file.read(&mut Sink::kernel(&mut buf)).unwrap_or(0);
        let mut rest = &buf[..n];
        let mut out = Vec::new();
        while !rest.is_empty() {
            let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
            let len = word(12) as usize;
            let name = rest[16..16 + len].iter().copied().take_while(|b| *b != 0);
            out.push((word(0) as i32, word(4), name.collect()));
            rest = &rest[16 + len..];
        }
        out
    }

    #[test]
    fn events_are_filtered_named_and_merged() {
        let file = inotify(OpenFlags::empty()).unwrap();
        let ino = file.downcast::<Inotify>().unwrap();
        let (a, b) = (place(), place());
        assert_eq!(ino.add(&a, libc::IN_MODIFY | libc::IN_CREATE), Ok(1));
        assert_eq!(ino.add(&b, libc::IN_OPEN), Ok(2));
        tell(&a, Events::OPEN, None);
        assert_eq!(file.ready(), Ready::empty());
        tell(&a, Events::MODIFY, None);
        tell(&a, Events::MODIFY, None);
        tell(
            &a,
            Events::CREATE | Events::ISDIR,
            Some(b"sixteen-long-nam"),
        );
        tell(&b, Events::OPEN, None);
        let mut small = [0u8; 15];
        let short = file.read(&mut Sink::kernel(&mut small));
        assert_eq!(short, Err(Errno::EINVAL));
        let dir = libc::IN_CREATE | libc::IN_ISDIR;
        let expected = [
            (1, libc::IN_MODIFY, vec![]),
            (1, dir, b"sixteen-long-nam".to_vec()),
            (2, libc::IN_OPEN, vec![]),
        ];
        assert_eq!(read(&file), expected);
    }

    #[test]
    fn a_watch_changes_and_ends() {
        let file = inotify(OpenFlags::empty()).unwrap();
        let ino = file.downcast::<Inotify>().unwrap();
        let a = place();
        assert_eq!(ino.add(&a, libc::IN_MODIFY), Ok(1));
        assert_eq!(
            ino.add(&a, libc::IN_OPEN | libc::IN_MASK_CREATE),
            Err(Errno::EEXIST)
        );
        assert_eq!(ino.add(&a, libc::IN_OPEN | libc::IN_MASK_ADD), Ok(1));
        tell(&a, Events::MODIFY, None);
        assert_eq!(ino.add(&a, libc::IN_OPEN | libc::IN_ONESHOT), Ok(1));
        tell(&a, Events::MODIFY, None);
        tell(&a, Events::OPEN, None);
        tell(&a, Events::OPEN, None);
        let masks: Vec<u32> = read(&file).iter().map(|e| e.1).collect();
        assert_eq!(masks, [libc::IN_MODIFY, libc::IN_OPEN, libc::IN_IGNORED]);
        assert_eq!(ino.remove(1), Err(Errno::EINVAL));
        assert_eq!(ino.add(&a, libc::IN_ACCESS), Ok(2));
        tell(&a, Events::DELETE_SELF, None);
        assert_eq!(read(&file), [(2, libc::IN_IGNORED, vec![])]);
        assert!(!a.inode().extra().is_watched());
    }

    #[test]
    fn too_many_events_overflow_once() {
        let file = inotify(OpenFlags::empty()).unwrap();
        let ino = file.downcast::<Inotify>().unwrap();
        let a = place();
        ino.add(&a, libc::IN_ALL_EVENTS).unwrap();
        for i in 0..MAX_QUEUED + 10 {
            let event = if i % 2 == 0 {
                Events::OPEN
            } else {
                Events::ACCESS
            };
            tell(&a, event, None);
        }
        let mut all = Vec::new();
        loop {
            let some = read(&file);
            if some.is_empty() {
                break;
            }
            all.extend(some);
        }
        assert_eq!(all.len(), MAX_QUEUED + 1);
        assert_eq!(all[MAX_QUEUED].1, libc::IN_Q_OVERFLOW);
        drop(file);
        assert!(!a.inode().extra().is_watched());
    }
}
