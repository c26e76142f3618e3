//! What the VFS keeps with every inode: file locks, inotify watches, the pipe of a FIFO or the
//! socket bound to a name, and who writes or executes it.
//!
//! One word and a counter while unused; the rest is allocated on first use.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::locks::FileLocks;
use crate::fs::notify::{Event, Watcher};

#[derive(Default)]
struct Parts {
    locks: FileLocks,
    watchers: Mutex<Vec<Arc<dyn Watcher>>>,
    object: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
}

/// See the module documentation. Every inode owns one; cheap while empty.
#[derive(Default)]
pub struct InodeExtra {
    parts: OnceLock<Box<Parts>>,
    /// Positive: descriptions open for writing. Negative: programs that run from it.
    writers: AtomicI32,
    /// Made by O_TMPFILE without O_EXCL: linkat(2) may give it a name.
    linkable: AtomicBool,
}

impl InodeExtra {
    fn parts(&self) -> &Parts {
        self.parts.get_or_init(Box::default)
    }

    /// The locks of this file.
    pub fn locks(&self) -> &FileLocks {
        &self.parts().locks
    }

    /// As `locks`, None if there never were any.
    pub fn locks_if_any(&self) -> Option<&FileLocks> {
        self.parts.get().map(|p| &p.locks)
    }

    /// Has `watcher` told of every event from now on.
    pub fn add_watcher(&self, watcher: Arc<dyn Watcher>) {
        self.parts().watchers.lock().push(watcher);
    }

    pub fn remove_watcher(&self, watcher: &Arc<dyn Watcher>) {
        if let Some(parts) = self.parts.get() {
            parts.watchers.lock().retain(|w| !Arc::ptr_eq(w, watcher));
        }
    }

    /// Cheap test before an event is put together.
    pub fn is_watched(&self) -> bool {
        self.parts
            .get()
            .is_some_and(|p| !p.watchers.lock().is_empty())
    }

    /// Tells the watchers. Called without locks of the VFS held.
    pub fn notify(&self, event: &Event<'_>) {
        if let Some(parts) = self.parts.get() {
            let watchers = parts.watchers.lock().clone();
            for watcher in watchers {
                watcher.notify(event);
            }
        }
    }

    /// The kernel object behind the name (a FIFO's pipe, a bound socket), if it is a `T`.
    pub fn object<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let object = self.parts.get()?.object.lock().clone()?;
        object.downcast().ok()
    }

    /// As `object`; made by `make` if there is none of that type.
    pub fn object_or_insert<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        let mut slot = self.parts().object.lock();
        if let Some(object) = slot.clone()
            && let Ok(object) = object.downcast::<T>()
        {
            return object;
        }
        let object = make();
        *slot = Some(object.clone());
        object
    }

    pub fn set_object(&self, object: Option<Arc<dyn Any + Send + Sync>>) {
        if object.is_some() || self.parts.get().is_some() {
            *self.parts().object.lock() = object;
        }
    }

    pub fn set_linkable(&self) {
        self.linkable.store(true, Ordering::Relaxed);
    }

    pub fn is_linkable(&self) -> bool {
        self.linkable.load(Ordering::Relaxed)
    }

    /// Counts a description open for writing. ETXTBSY while a program runs from the file.
    pub fn get_write(&self) -> Result<()> {
        self.writers
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n >= 0).then(|| n.saturating_add(1))
            })
            .map(drop)
            .map_err(|_| Errno::ETXTBSY)
    }

    pub fn put_write(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Counts a program that runs from the file. ETXTBSY while it is open for writing.
    pub fn deny_write(&self) -> Result<()> {
        self.writers
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n <= 0).then(|| n.saturating_sub(1))
            })
            .map(drop)
            .map_err(|_| Errno::ETXTBSY)
    }

    pub fn allow_write(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }
}
