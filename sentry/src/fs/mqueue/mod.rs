//! mqueue: POSIX message queues (mq_overview(7)) and the file system that shows them.
//!
//! [`Mqueues`] is the container's one instance, whether it is mounted or not: a directory of
//! [`Queue`]s, the limits of /proc/sys/fs/mqueue, and the account of RLIMIT_MSGQUEUE. What a mount
//! shows and what mq_open(2) finds is the same. [`queue`] has the messages.
//!
//! Deliberately absent: other IPC namespaces, and notification by SIGEV_THREAD, for which the C
//! library needs a netlink socket that the kernel writes to.

mod queue;

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::extra::InodeExtra;
use crate::fs::file::{File, FileOps};
use crate::fs::inode::{Attr, Dev, DirEntry, FileType, Inode, NewNode, OpenFlags, SetAttr, StatFs};
use crate::fs::meta::{Identity, Meta};
use crate::fs::mount::{FileSystem, Mount, MountFlags, anonymous_dev};
use crate::fs::path::PathRef;
use crate::kernel::cred::{Cap, Gid, Uid};
use crate::kernel::task::Task;
use crate::kernel::{Kernel, current};
pub use queue::{Message, Notification, Open, Queue};

/// MQUEUE_MAGIC.
const MAGIC: u64 = 0x1980_0202;
/// The root's number; queues follow.
const ROOT_INO: u64 = 1;
/// What Linux counts for an entry in st_size.
const ENTRY_SIZE: u64 = 20;
/// Bounds of a queue for whom the settings do not bind (HARD_MSGMAX, HARD_MSGSIZEMAX).
const HARD_MESSAGES: i64 = 65536;
const HARD_SIZE: i64 = 16 << 20;
/// Priorities are below this (MQ_PRIO_MAX).
pub const PRIORITIES: u32 = 32768;
/// What Linux needs for a message, and for each priority, beside the text: it counts as well.
const MESSAGE_OVERHEAD: u64 = 48;
const PRIORITY_OVERHEAD: u64 = 48;
/// Bytes of messages at a time, of all queues: they lie in the Sentry's own memory.
const MAX_BYTES: u64 = 64 << 20;

/// /proc/sys/fs/mqueue.
pub struct Settings {
    pub msg_default: AtomicI64,
    pub msg_max: AtomicI64,
    pub msgsize_default: AtomicI64,
    pub msgsize_max: AtomicI64,
    pub queues_max: AtomicI64,
}

/// How large a queue is: messages, and bytes in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub messages: i64,
    pub bytes: i64,
}

#[derive(Default)]
struct Table {
    by_name: HashMap<Box<[u8]>, u64>,
    /// By number: those are never used again, so readdir does not see an entry twice.
    by_ino: BTreeMap<u64, (Box<[u8]>, Arc<Queue>)>,
}

/// See the module documentation. It is the inode of the root as well.
pub struct Mqueues {
    this: Weak<Mqueues>,
    pub settings: Settings,
    dev: Dev,
    meta: Mutex<Meta>,
    table: Mutex<Table>,
    next_ino: AtomicU64,
    /// Queues that exist, with or without a name.
    alive: AtomicI64,
    /// What each user's queues may come to hold, bytes.
    charged: Mutex<HashMap<u32, u64>>,
    /// What all hold now, bytes.
    held: AtomicU64,
    extra: InodeExtra,
}

/// Where mq_open(2) finds queues; mounts show the same file system.
pub struct Place {
    pub queues: Arc<Mqueues>,
    fs: Arc<FileSystem>,
    root: PathRef,
}

impl Place {
    pub fn new() -> Place {
        let node = NewNode {
            perm: 0o1777,
            uid: Uid(0),
            gid: Gid(0),
        };
        let queues = Arc::new_cyclic(|this| Mqueues {
            this: this.clone(),
            settings: Settings {
                msg_default: AtomicI64::new(10),
                msg_max: AtomicI64::new(10),
                msgsize_default: AtomicI64::new(8192),
                msgsize_max: AtomicI64::new(8192),
                queues_max: AtomicI64::new(256),
            },
            dev: anonymous_dev(),
            meta: Mutex::new(Meta::new(&node, 2)),
            table: Mutex::default(),
            next_ino: AtomicU64::new(ROOT_INO + 1),
            alive: AtomicI64::new(0),
            charged: Mutex::default(),
            held: AtomicU64::new(0),
            extra: InodeExtra::default(),
        });
        let fs = FileSystem::new("mqueue", queues.dev, queues.clone(), String::new());
        let mount = Mount::new(fs.clone(), b"mqueue", MountFlags::empty());
        let root = mount.root_path();
        Place { queues, fs, root }
    }

    /// The directory of the queues.
    pub fn root(&self) -> &PathRef {
        &self.root
    }
}

impl Default for Place {
    fn default() -> Place {
        Place::new()
    }
}

/// The file system, to be mounted.
pub fn mount(kernel: &Arc<Kernel>) -> Result<Arc<FileSystem>> {
    Ok(kernel.mqueues.fs.clone())
}

impl Mqueues {
    /// Makes a queue for `task`, of the default size or of that asked for.
    ///
    /// # Errors
    /// EEXIST, ENOSPC (too many queues), EINVAL (size), EOVERFLOW, EMFILE (RLIMIT_MSGQUEUE).
    pub fn make(
        &self,
        name: &[u8],
        new: &NewNode,
        size: Option<Size>,
        task: &Task,
    ) -> Result<Arc<dyn Inode>> {
        let privileged = task.creds().has_cap(Cap::SysResource);
        let get = |setting: &AtomicI64| setting.load(Ordering::Relaxed);
        let settings = &self.settings;
        if self.alive.load(Ordering::Relaxed) >= get(&settings.queues_max) && !privileged {
            return Err(Errno::ENOSPC);
        }
        let size = size.unwrap_or(Size {
            messages: get(&settings.msg_max).min(get(&settings.msg_default)),
            bytes: get(&settings.msgsize_max).min(get(&settings.msgsize_default)),
        });
        let (most, longest) = match privileged {
            true => (HARD_MESSAGES, HARD_SIZE),
            false => (get(&settings.msg_max), get(&settings.msgsize_max)),
        };
        if !(1..=most).contains(&size.messages) || !(1..=longest).contains(&size.bytes) {
            return Err(Errno::EINVAL);
        }
        let limit = task.group().limits.lock().soft(libc::RLIMIT_MSGQUEUE);
        let charge = Charge::new(self, new.uid, size, limit)?;
        let ino = self.next_ino.fetch_add(1, Ordering::Relaxed);
        let queue = Queue::new(charge, ino, new, size);
        let mut table = self.table.lock();
        if table.by_name.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        table.by_name.insert(name.into(), ino);
        table.by_ino.insert(ino, (name.into(), queue.clone()));
        drop(table);
        self.meta.lock().modified();
        Ok(queue)
    }

    /// Room for the text of a message. ENOMEM.
    fn hold(&self, bytes: u64) -> Result<()> {
        let fits = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= MAX_BYTES);
        let held = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        held.map(|_| ()).map_err(|_| Errno::ENOMEM)
    }

    fn let_go(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What a queue counts for, as long as it exists.
struct Charge {
    queues: Arc<Mqueues>,
    uid: Uid,
    bytes: u64,
}

impl Charge {
    /// EOVERFLOW, EMFILE.
    fn new(queues: &Mqueues, uid: Uid, size: Size, limit: u64) -> Result<Charge> {
        let queues = queues.this.upgrade().ok_or(Errno::ENOENT)?;
        let (messages, each) = (size.messages as u64, size.bytes as u64);
        let text = messages.checked_mul(each).ok_or(Errno::EOVERFLOW)?;
        let overhead =
            messages * MESSAGE_OVERHEAD + messages.min(u64::from(PRIORITIES)) * PRIORITY_OVERHEAD;
        let bytes = text.checked_add(overhead).ok_or(Errno::EOVERFLOW)?;
        let mut charged = queues.charged.lock();
        let sum = charged.entry(uid.0).or_default();
        let more = sum.checked_add(bytes).filter(|more| *more <= limit);
        *sum = more.ok_or(Errno::EMFILE)?;
        drop(charged);
        queues.alive.fetch_add(1, Ordering::Relaxed);
        Ok(Charge { queues, uid, bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.queues.alive.fetch_sub(1, Ordering::Relaxed);
        let mut charged = self.queues.charged.lock();
        if let Some(sum) = charged.get_mut(&self.uid.0) {
            *sum = sum.saturating_sub(self.bytes);
            if *sum == 0 {
                charged.remove(&self.uid.0);
            }
        }
    }
}

impl Inode for Mqueues {
    fn attr(&self) -> Result<Attr> {
        let entries = self.table.lock().by_ino.len() as u64;
        Ok(self.meta.lock().attr(Identity {
            kind: FileType::Dir,
            ino: ROOT_INO,
            dev: self.dev,
            rdev: Dev::default(),
            size: entries.saturating_add(2) * ENTRY_SIZE,
            blocks: 0,
        }))
    }

    fn kind(&self) -> FileType {
        FileType::Dir
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        self.meta.lock().apply(change);
        Ok(())
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(DirFile(self)))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let table = self.table.lock();
        let found = table
            .by_name
            .get(name)
            .and_then(|ino| table.by_ino.get(ino));
        match found {
            Some((_, queue)) => Ok(queue.clone()),
            None => Err(Errno::ENOENT),
        }
    }

    fn create(&self, name: &[u8], node: &NewNode) -> Result<Arc<dyn Inode>> {
        let task = current::task().ok_or(Errno::EPERM)?;
        self.make(name, node, None, &task)
    }

    fn unlink(&self, name: &[u8], _child: &Arc<dyn Inode>) -> Result<()> {
        let mut table = self.table.lock();
        let ino = table.by_name.remove(name).ok_or(Errno::ENOENT)?;
        let removed = table.by_ino.remove(&ino);
        drop(table);
        if let Some((_, queue)) = removed {
            queue.unlinked();
        }
        self.meta.lock().modified();
        Ok(())
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs {
            magic: MAGIC,
            block_size: 4096,
            fsid: self.dev.encode(),
            name_max: 255,
            ..StatFs::default()
        })
    }

    fn accessed(&self, strict: bool) {
        self.meta.lock().accessed(strict);
    }

    fn extra(&self) -> &InodeExtra {
        &self.extra
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The open root.
struct DirFile(Arc<Mqueues>);

impl FileOps for DirFile {
    fn readdir(
        &self,
        _file: &File,
        pos: u64,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let table = self.0.table.lock();
        for (ino, (name, _)) in table.by_ino.range(pos..) {
            let go_on = emit(DirEntry {
                name,
                ino: *ino,
                kind: Some(FileType::Regular),
                next: ino + 1,
            });
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
