//! Names: the dentry cache.
//!
//! A [`Dentry`] is a name that exists; names known to be missing are negative entries of the
//! parent's table. An inode never changes under a dentry. A dentry keeps its parents alive; a
//! parent's table keeps children that nobody uses until there are too many. State that must last
//! lives in the file system, so an unused dentry can be dropped at any time (whoever watches an
//! inode of a cached file system keeps the dentry).
//!
//! Where others change the names, too ([`Names`]), what is known of one holds for a while only; then
//! the file system is asked again, for all names that follow at once, and a dentry whose inode is no
//! longer there gives way to another.
//!
//! Each directory has a lock ([`Dentry::lock_dir`]) around changes of its entries and around
//! look-ups that ask the file system, so a look-up cannot overtake a create. It is held across
//! calls of the file system, Gofer trips included, never across guest memory. Only to ask again it is
//! not held: what comes back does not count if the directory was changed meanwhile. Two directories
//! are locked in the order [`lock_two`] gives.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::errno::{Errno, Result};
use crate::fs::inode::{Chain, FileType, Inode, LookupHint, Names};
use crate::fs::moment::{Moment, now_ns};

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

/// A name in a table, and when it was looked at last.
struct Entry {
    child: Child,
    moment: Moment,
    /// CLOCK_MONOTONIC.
    at_ns: u64,
}

#[derive(Default)]
struct Children {
    table: HashMap<Box<[u8]>, Entry>,
    negative: u32,
    /// How often a guest has changed the entries.
    changes: u64,
}

/// A name that was known before the file system was asked again.
struct KnownName {
    dentry: Arc<Dentry>,
    /// Changes of the directory that it is.
    changes: u64,
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
        let names = self.inode.names();
        let children = self.children.lock();
        let entry = children.table.get(name)?;
        entry.holds(names).then(|| entry.child.clone())
    }

    /// The dentry that `name` led to last.
    fn before(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        let children = self.children.lock();
        children.table.get(name)?.child.clone().there()
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
        if self.inode.names() != Names::Kept
            && let Some(found) = self.ask_again(names, hint)?
        {
            return Ok(found);
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
        if self.inode.names() != Names::Kept {
            return self.look_anew(name);
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
            && above.inode.names() == Names::Kept
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

    /// The child `name`, whatever was known of it; [`Dentry::lock_dir`] is held.
    pub fn look_anew(self: &Arc<Self>, name: &[u8]) -> Result<Option<Arc<Dentry>>> {
        let known = self.known(&[name]);
        let again = self
            .inode
            .lookup_again(&[name], LookupHint::None, &inodes(&known));
        self.settle_one(name, &again?, known.first())
            .ok_or(Errno::EIO)
    }

    /// Asks the file system for `names`, though some may be known. None: guests have changed the
    /// directory meanwhile.
    fn ask_again(
        self: &Arc<Self>,
        names: &[&[u8]],
        hint: LookupHint,
    ) -> Result<Option<Option<Arc<Dentry>>>> {
        let mut changes = self.children.lock().changes;
        if self.is_removed() {
            return Ok(Some(None));
        }
        let known = self.known(names);
        let chain = self.inode.lookup_again(names, hint, &inodes(&known))?;
        let mut at = self.clone();
        let mut first = None;
        for (i, name) in names.iter().enumerate() {
            let dir = at.dir.lock();
            if at.children.lock().changes != changes || at.is_removed() {
                break;
            }
            let rest = Chain {
                found: chain.found.get(i).cloned().into_iter().collect(),
                missing: chain.missing && i == chain.found.len(),
            };
            let Some(child) = at.settle_one(name, &rest, known.get(i)) else {
                break;
            };
            drop(dir);
            first.get_or_insert_with(|| child.clone());
            let Some(child) = child.filter(|c| c.is_dir() && !c.is_mount_point()) else {
                break;
            };
            if child.inode.names() == Names::Kept {
                break;
            }
            // A new one has not been changed by anybody.
            let before = known.get(i).filter(|k| Arc::ptr_eq(&k.dentry, &child));
            changes = before.map_or(0, |k| k.changes);
            at = child;
        }
        Ok(first)
    }

    fn is_removed(&self) -> bool {
        let place = self.place.lock();
        place.unhashed && place.parent.is_some()
    }

    /// The dentries that `names` led to last, as far as they are known.
    fn known(self: &Arc<Self>, names: &[&[u8]]) -> Vec<KnownName> {
        let mut known: Vec<KnownName> = Vec::new();
        for name in names {
            let at = known.last().map_or(self, |k| &k.dentry);
            let Some(dentry) = at.before(name) else {
                break;
            };
            let changes = dentry.children.lock().changes;
            known.push(KnownName { dentry, changes });
        }
        known
    }

    /// Takes over what the file system has said of `name`, which led to `known` when it was asked. The
    /// same inode keeps its dentry, and so does a mount point. None: it has said nothing, or another
    /// look-up has learned more since.
    fn settle_one(
        self: &Arc<Self>,
        name: &[u8],
        chain: &Chain,
        known: Option<&KnownName>,
    ) -> Option<Option<Arc<Dentry>>> {
        let old = self.before(name);
        let inode = match chain.found.first() {
            Some(inode) => Some(inode),
            None if chain.missing => None,
            None => return None,
        };
        if let Some(old) = &old {
            let same =
                |inode: &Arc<dyn Inode>| Arc::ptr_eq(&old.inode, inode) || old.inode.is_same(inode);
            if old.is_mount_point() || inode.is_some_and(same) {
                self.insert(name, Child::There(old.clone()));
                return Some(Some(old.clone()));
            }
            if !known.is_some_and(|known| Arc::ptr_eq(&known.dentry, old)) {
                return None;
            }
            old.place.lock().unhashed = true;
            old.inode.name_lost(&self.inode, name);
        }
        let new = inode.map(|inode| Self::make(inode.clone(), name, Some(self.clone())));
        let child = new.clone().map_or(Child::Missing, Child::There);
        self.insert(name, child);
        Some(new)
    }

    fn insert(self: &Arc<Self>, name: &[u8], child: Child) {
        let missing = matches!(child, Child::Missing);
        let mut children = self.children.lock();
        let old = children.table.insert(name.into(), Entry::new(child));
        children.uncount(&old);
        if missing {
            children.negative += 1;
            if children.negative > MAX_NEGATIVE {
                let there = |e: &Entry| matches!(e.child, Child::There(_));
                children.table.retain(|_, entry| there(entry));
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
        self.change(name, Child::There(dentry.clone()));
        dentry
    }

    /// A guest has changed the entry `name`.
    fn change(self: &Arc<Self>, name: &[u8], child: Child) {
        self.children.lock().changes += 1;
        self.insert(name, child);
    }

    /// `child`'s name was removed; [`Dentry::lock_dir`] is held.
    pub fn remove_child(self: &Arc<Self>, child: &Arc<Dentry>) {
        let name = {
            let mut place = child.place.lock();
            place.unhashed = true;
            place.name.clone()
        };
        self.change(&name, Child::Missing);
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
        if let Some(over) = new_dir.before(new_name) {
            over.place.lock().unhashed = true;
        }
        self.change(&old_name, Child::Missing);
        child.put(new_dir, new_name);
        new_dir.change(new_name, Child::There(child.clone()));
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
        self.change(&name, Child::There(other.clone()));
        other_dir.change(&other_name, Child::There(child.clone()));
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
            dirs.extend(children.table.values().filter_map(|e| match &e.child {
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

/// The inodes of a line of names.
fn inodes(known: &[KnownName]) -> Vec<Arc<dyn Inode>> {
    known.iter().map(|k| k.dentry.inode.clone()).collect()
}

impl Entry {
    fn new(child: Child) -> Entry {
        Entry {
            child,
            moment: Moment::now(),
            at_ns: now_ns(),
        }
    }

    /// Whether it still counts in a directory with such names.
    fn holds(&self, names: Names) -> bool {
        let mounted = || matches!(&self.child, Child::There(d) if d.is_mount_point());
        match names {
            Names::Kept => true,
            Names::For(ns) => now_ns().saturating_sub(self.at_ns) < ns || mounted(),
            Names::Asked => self.moment.lasts() || mounted(),
        }
    }
}

impl Children {
    fn uncount(&mut self, old: &Option<Entry>) {
        if matches!(old, Some(e) if matches!(e.child, Child::Missing)) {
            self.negative = self.negative.saturating_sub(1);
        }
    }

    /// Takes out what nobody uses. New references are only made under the table's lock.
    fn prune(&mut self) -> Vec<Child> {
        self.negative = 0;
        self.table
            .extract_if(|_, entry| match &entry.child {
                Child::Missing => true,
                Child::There(d) => Arc::strong_count(d) == 1,
            })
            .map(|(_, entry)| entry.child)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::goferfs::Trust;
    use crate::fs::{moment, tests::gofer_fs};

    #[test]
    fn a_late_answer_undoes_nothing_newer() {
        let dir = tempfile::tempdir().unwrap();
        let root = gofer_fs(dir.path(), Trust::Shared).root.clone();
        // Somebody asks before it is there, and is told so after it was found.
        let asked_early = root.known(&[b"f"]);
        let late = Chain {
            found: Vec::new(),
            missing: true,
        };
        std::fs::write(dir.path().join("f"), b"").unwrap();
        moment::begin();
        let found = root.lookup(&[b"f"], LookupHint::None).unwrap().unwrap();
        assert!(root.settle_one(b"f", &late, asked_early.first()).is_none());
        assert!(!found.is_deleted());
        // Who knew it may.
        let asked_now = root.known(&[b"f"]);
        assert!(root.settle_one(b"f", &late, asked_now.first()).is_some());
        assert!(found.is_deleted());
        moment::end();
    }
}
