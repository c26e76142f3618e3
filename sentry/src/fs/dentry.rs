//! Names: the dentry cache.
//!
//! A [`Dentry`] is a name that exists; names known to be missing are negative entries of the
//! parent's table. An inode never changes under a dentry. A dentry keeps its parents alive; a
//! parent's table keeps children that nobody uses until there are too many. State that must last
//! lives in the file system, so an unused dentry can be dropped at any time (whoever watches an
//! inode of a cached file system keeps the dentry).
//!
//! Each directory has a lock ([`Dentry::lock_dir`]) around changes of its entries and around
//! look-ups that ask the file system, so a look-up cannot overtake a create. It is held across
//! calls of the file system, Gofer trips included, never across guest memory. Two directories are
//! locked in the order [`lock_two`] gives.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::errno::{Errno, Result};
use crate::fs::inode::{FileType, Inode, LookupHint};

/// Dentries of the whole sandbox above which unused ones are dropped.
const MAX_DENTRIES: usize = 50_000;
/// Negative entries of one directory above which they are dropped.
const MAX_NEGATIVE: u32 = 1024;

static DENTRIES: AtomicUsize = AtomicUsize::new(0);

/// What a directory's dentry knows of one name.
#[derive(Clone)]
pub enum Child {
    /// Known not to exist.
    Missing,
    There(Arc<Dentry>),
}

struct Place {
    name: Box<[u8]>,
    /// None for a root and for anonymous files.
    parent: Option<Arc<Dentry>>,
    /// Removed from the tree; path text ends in " (deleted)".
    unhashed: bool,
}

#[derive(Default)]
struct Children {
    table: HashMap<Box<[u8]>, Child>,
    negative: u32,
}

/// A name in the tree, see the module documentation.
pub struct Dentry {
    inode: Arc<dyn Inode>,
    place: Mutex<Place>,
    children: Mutex<Children>,
    dir: Mutex<()>,
    /// Mounts on top of this dentry, in all namespaces.
    mounted: AtomicU32,
}

/// Two directories locked in an order that cannot deadlock; one if they are the same.
pub struct TwoLocks<'a> {
    _first: MutexGuard<'a, ()>,
    _second: Option<MutexGuard<'a, ()>>,
}

/// Locks the entries of two directories for a rename.
pub fn lock_two<'a>(a: &'a Arc<Dentry>, b: &'a Arc<Dentry>) -> TwoLocks<'a> {
    if Arc::ptr_eq(a, b) {
        return TwoLocks {
            _first: a.dir.lock(),
            _second: None,
        };
    }
    let (first, second) = if Arc::as_ptr(a) < Arc::as_ptr(b) {
        (a, b)
    } else {
        (b, a)
    };
    TwoLocks {
        _first: first.dir.lock(),
        _second: Some(second.dir.lock()),
    }
}

impl Dentry {
    /// The root of a file system, or an anonymous file (`name` like `pipe:[7]`, else empty).
    pub fn root(inode: Arc<dyn Inode>, name: &[u8]) -> Arc<Dentry> {
        Self::make(inode, name, None)
    }

    fn make(inode: Arc<dyn Inode>, name: &[u8], parent: Option<Arc<Dentry>>) -> Arc<Dentry> {
        DENTRIES.fetch_add(1, Ordering::Relaxed);
        Arc::new(Dentry {
            inode,
            place: Mutex::new(Place {
                name: name.into(),
                parent,
                unhashed: false,
            }),
            children: Mutex::default(),
            dir: Mutex::new(()),
            mounted: AtomicU32::new(0),
        })
    }

    /// A name that is in no table: O_TMPFILE, a memfd.
    pub fn unlinked(
        inode: Arc<dyn Inode>,
        name: &[u8],
        parent: Option<Arc<Dentry>>,
    ) -> Arc<Dentry> {
        let dentry = Self::make(inode, name, parent);
        dentry.place.lock().unhashed = true;
        dentry
    }

    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.lock().parent.clone()
    }

    pub fn name(&self) -> Box<[u8]> {
        self.place.lock().name.clone()
    }

    /// Parent and name at one moment.
    pub fn place(&self) -> (Option<Arc<Dentry>>, Box<[u8]>) {
        let place = self.place.lock();
        (place.parent.clone(), place.name.clone())
    }

    /// Its name was removed.
    pub fn is_deleted(&self) -> bool {
        self.place.lock().unhashed
    }

    pub fn is_dir(&self) -> bool {
        self.inode.kind() == FileType::Dir
    }

    pub fn is_mount_point(&self) -> bool {
        self.mounted.load(Ordering::Acquire) != 0
    }

    pub(in crate::fs) fn count_mount(&self) {
        self.mounted.fetch_add(1, Ordering::AcqRel);
    }

    pub(in crate::fs) fn uncount_mount(&self) {
        self.mounted.fetch_sub(1, Ordering::AcqRel);
    }

    /// True if `self` is `other` or above it in the same file system.
    pub fn is_ancestor_of(self: &Arc<Self>, other: &Arc<Dentry>) -> bool {
        let mut at = Some(other.clone());
        while let Some(dentry) = at {
            if Arc::ptr_eq(self, &dentry) {
                return true;
            }
            at = dentry.parent();
        }
        false
    }

    /// Keeps others from changing this directory's entries.
    pub fn lock_dir(&self) -> MutexGuard<'_, ()> {
        self.dir.lock()
    }

    /// What is known of `name`, without asking the file system.
    pub fn cached(&self, name: &[u8]) -> Option<Child> {
        if !self.inode.cacheable() {
            return None;
        }
        self.children.lock().table.get(name).cloned()
    }

    /// The child `names[0]`; None if it does not exist. `names` may go on with what follows, so
    /// that a file system far away is asked once for all of it.
    pub fn lookup(
        self: &Arc<Self>,
        names: &[&[u8]],
        hint: LookupHint,
    ) -> Result<Option<Arc<Dentry>>> {
        let Some(name) = names.first() else {
            return Err(Errno::ENOENT);
        };
        if let Some(known) = self.cached(name) {
            return Ok(known.there());
        }
        if !self.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let _dir = self.dir.lock();
        self.lookup_locked(names, hint)
    }

    /// As `lookup`, with [`Dentry::lock_dir`] held.
    pub fn lookup_locked(
        self: &Arc<Self>,
        names: &[&[u8]],
        hint: LookupHint,
    ) -> Result<Option<Arc<Dentry>>> {
        let Some(name) = names.first() else {
            return Err(Errno::ENOENT);
        };
        if let Some(known) = self.cached(name) {
            return Ok(known.there());
        }
        if self.is_deleted() && self.parent().is_some() {
            return Ok(None);
        }
        if !self.inode.cacheable() {
            return self.lookup_fresh(name);
        }
        let chain = self.inode.lookup_chain(names, hint)?;
        let count = chain.found.len();
        if count == 0 {
            if !chain.missing {
                return Err(Errno::EIO);
            }
            self.insert(name, Child::Missing);
            return Ok(None);
        }
        // New dentries get their children before anybody can find them.
        let mut above = self.clone();
        let mut chained: Vec<Arc<Dentry>> = Vec::with_capacity(count);
        for (inode, name) in chain.found.into_iter().zip(names) {
            let dentry = Self::make(inode, name, Some(above));
            above = dentry.clone();
            chained.push(dentry);
        }
        if chain.missing
            && let Some(missing) = names.get(count)
            && above.is_dir()
            && above.inode.cacheable()
        {
            above.insert(missing, Child::Missing);
        }
        for pair in (1..count).rev() {
            chained[pair - 1].insert(names[pair], Child::There(chained[pair].clone()));
        }
        let first = chained.swap_remove(0);
        self.insert(name, Child::There(first.clone()));
        Ok(Some(first))
    }

    /// A look-up in a file system that wants to be asked each time. The same inode keeps its
    /// dentry, and so does a mount point.
    fn lookup_fresh(self: &Arc<Self>, name: &[u8]) -> Result<Option<Arc<Dentry>>> {
        let old = match self.children.lock().table.get(name) {
            Some(Child::There(d)) => Some(d.clone()),
            _ => None,
        };
        if let Some(old) = &old
            && old.is_mount_point()
        {
            return Ok(Some(old.clone()));
        }
        let inode = match self.inode.lookup(name) {
            Ok(inode) => inode,
            Err(Errno::ENOENT) => {
                self.forget(name);
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        if let Some(old) = old {
            let same = Arc::ptr_eq(&old.inode, &inode)
                || (old.inode.kind() == inode.kind()
                    && matches!((old.inode.attr(), inode.attr()),
                        (Ok(a), Ok(b)) if a.ino == b.ino && a.dev == b.dev));
            if same {
                return Ok(Some(old));
            }
        }
        let dentry = Self::make(inode, name, Some(self.clone()));
        self.insert(name, Child::There(dentry.clone()));
        Ok(Some(dentry))
    }

    fn insert(self: &Arc<Self>, name: &[u8], child: Child) {
        let missing = matches!(child, Child::Missing);
        let mut children = self.children.lock();
        let old = children.table.insert(name.into(), child);
        children.uncount(&old);
        if missing {
            children.negative += 1;
            if children.negative > MAX_NEGATIVE {
                children.table.retain(|_, c| matches!(c, Child::There(_)));
                children.negative = 0;
            }
        }
        drop(children);
        drop(old);
        self.bound();
    }

    /// Now and then drops what nobody uses, when there are too many dentries.
    fn bound(self: &Arc<Self>) {
        static INSERTED: AtomicUsize = AtomicUsize::new(0);
        let turn = INSERTED.fetch_add(1, Ordering::Relaxed);
        if DENTRIES.load(Ordering::Relaxed) <= MAX_DENTRIES || !turn.is_multiple_of(4096) {
            return;
        }
        let mut top = self.clone();
        while let Some(parent) = top.parent() {
            top = parent;
        }
        top.shrink();
    }

    /// A name was made for `inode`; [`Dentry::lock_dir`] is held.
    pub fn add_child(self: &Arc<Self>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Dentry> {
        let dentry = Self::make(inode, name, Some(self.clone()));
        self.insert(name, Child::There(dentry.clone()));
        dentry
    }

    /// Forgets what is known of `name`.
    pub fn forget(&self, name: &[u8]) {
        let mut children = self.children.lock();
        let old = children.table.remove(name);
        children.uncount(&old);
        drop(children);
        drop(old);
    }

    /// `child`'s name was removed; [`Dentry::lock_dir`] is held.
    pub fn remove_child(self: &Arc<Self>, child: &Arc<Dentry>) {
        let name = {
            let mut place = child.place.lock();
            place.unhashed = true;
            place.name.clone()
        };
        if self.inode.cacheable() {
            self.insert(&name, Child::Missing);
        } else {
            self.forget(&name);
        }
    }

    /// `child` of `self` became `new_name` of `new_dir`, in place of what was there. Both
    /// directories are locked.
    pub fn move_child(
        self: &Arc<Self>,
        child: &Arc<Dentry>,
        new_dir: &Arc<Dentry>,
        new_name: &[u8],
    ) {
        let old_name = child.name();
        if let Some(Child::There(over)) = new_dir.cached(new_name) {
            over.place.lock().unhashed = true;
        }
        self.insert(&old_name, Child::Missing);
        child.put(new_dir, new_name);
        new_dir.insert(new_name, Child::There(child.clone()));
    }

    /// The two children changed places. Both directories are locked.
    pub fn exchange_children(
        self: &Arc<Self>,
        child: &Arc<Dentry>,
        other_dir: &Arc<Dentry>,
        other: &Arc<Dentry>,
    ) {
        let (name, other_name) = (child.name(), other.name());
        child.put(other_dir, &other_name);
        other.put(self, &name);
        self.insert(&name, Child::There(other.clone()));
        other_dir.insert(&other_name, Child::There(child.clone()));
    }

    fn put(&self, parent: &Arc<Dentry>, name: &[u8]) {
        let mut place = self.place.lock();
        let old = place.parent.replace(parent.clone());
        place.name = name.into();
        place.unhashed = false;
        drop(place);
        drop(old);
    }

    /// Drops every unused dentry below this one.
    pub fn shrink(self: &Arc<Self>) {
        let mut dirs = vec![self.clone()];
        let mut at = 0;
        while let Some(dir) = dirs.get(at).cloned() {
            at += 1;
            let children = dir.children.lock();
            dirs.extend(children.table.values().filter_map(|c| match c {
                Child::There(d) if d.is_dir() => Some(d.clone()),
                _ => None,
            }));
        }
        while let Some(dir) = dirs.pop() {
            let dropped = dir.children.lock().prune();
            drop(dropped);
        }
    }
}

impl Children {
    fn uncount(&mut self, old: &Option<Child>) {
        if matches!(old, Some(Child::Missing)) {
            self.negative = self.negative.saturating_sub(1);
        }
    }

    /// Takes out what nobody uses. New references are only made under the table's lock.
    fn prune(&mut self) -> Vec<Child> {
        self.negative = 0;
        self.table
            .extract_if(|_, child| match child {
                Child::Missing => true,
                Child::There(d) => Arc::strong_count(d) == 1,
            })
            .map(|(_, child)| child)
            .collect()
    }
}

impl Child {
    fn there(self) -> Option<Arc<Dentry>> {
        match self {
            Child::There(d) => Some(d),
            Child::Missing => None,
        }
    }
}

impl Drop for Dentry {
    /// A guest can nest directories without limit: parents are let go one by one, not recursively.
    fn drop(&mut self) {
        DENTRIES.fetch_sub(1, Ordering::Relaxed);
        let mut next = self.place.get_mut().parent.take();
        while let Some(parent) = next.take() {
            if let Some(mut parent) = Arc::into_inner(parent) {
                next = parent.place.get_mut().parent.take();
            }
        }
    }
}
