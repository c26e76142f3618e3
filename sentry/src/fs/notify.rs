//! Where the VFS reports what happens to files, for inotify(7).
//!
//! A [`Watcher`] registers with an inode's [`extra`](crate::fs::inode::Inode::extra). Events of a
//! file also go to the directory it was reached through, with its name. The inotify object itself
//! lives elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::fs::dentry::Dentry;
use crate::fs::inode::FileType;

bitflags::bitflags! {
    /// Events, with the IN_* values of inotify(7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Events: u32 {
        const ACCESS = libc::IN_ACCESS;
        const MODIFY = libc::IN_MODIFY;
        const ATTRIB = libc::IN_ATTRIB;
        const CLOSE_WRITE = libc::IN_CLOSE_WRITE;
        const CLOSE_NOWRITE = libc::IN_CLOSE_NOWRITE;
        const OPEN = libc::IN_OPEN;
        const MOVED_FROM = libc::IN_MOVED_FROM;
        const MOVED_TO = libc::IN_MOVED_TO;
        const CREATE = libc::IN_CREATE;
        const DELETE = libc::IN_DELETE;
        const DELETE_SELF = libc::IN_DELETE_SELF;
        const MOVE_SELF = libc::IN_MOVE_SELF;
        const UNMOUNT = libc::IN_UNMOUNT;
        const ISDIR = libc::IN_ISDIR;
    }
}

/// One event, as a watcher is told.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub mask: Events,
    /// Connects MOVED_FROM and MOVED_TO; else 0.
    pub cookie: u32,
    /// The child's name, where the watched file is its directory.
    pub name: Option<&'a [u8]>,
    /// The child had been unlinked before (IN_EXCL_UNLINK).
    pub unlinked: bool,
}

/// Somebody who watches an inode. Called without any lock of the VFS held.
pub trait Watcher: Send + Sync {
    fn notify(&self, event: &Event<'_>);
}

/// Watches in existence; nothing is put together while there is none.
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// To be held by each watch.
pub struct WatchCount(());

impl WatchCount {
    #[expect(clippy::new_without_default, reason = "counting is an effect")]
    pub fn new() -> WatchCount {
        WATCHES.fetch_add(1, Ordering::Relaxed);
        WatchCount(())
    }
}

impl Drop for WatchCount {
    fn drop(&mut self) {
        WATCHES.fetch_sub(1, Ordering::Relaxed);
    }
}

fn nobody() -> bool {
    WATCHES.load(Ordering::Relaxed) == 0
}

fn dir_bit(dentry: &Dentry) -> Events {
    if dentry.inode().kind() == FileType::Dir {
        Events::ISDIR
    } else {
        Events::empty()
    }
}

/// Something happened to the file at `dentry`: its watchers and its directory's are told.
pub fn file(dentry: &Arc<Dentry>, mask: Events) {
    if nobody() {
        return;
    }
    let mask = mask | dir_bit(dentry);
    if let Some(parent) = dentry.parent() {
        let name = dentry.name();
        parent.inode().extra().notify(&Event {
            mask,
            cookie: 0,
            name: Some(&name),
            unlinked: dentry.is_deleted(),
        });
    }
    dentry.inode().extra().notify(&Event {
        mask,
        cookie: 0,
        name: None,
        unlinked: false,
    });
}

/// An entry of `dir` came or went.
pub fn entry(dir: &Arc<Dentry>, name: &[u8], child: &Dentry, mask: Events) {
    if nobody() {
        return;
    }
    dir.inode().extra().notify(&Event {
        mask: mask | dir_bit(child),
        cookie: 0,
        name: Some(name),
        unlinked: false,
    });
}

/// The file itself is gone or moved: only its own watchers are told.
pub fn itself(dentry: &Dentry, mask: Events) {
    if nobody() {
        return;
    }
    dentry.inode().extra().notify(&Event {
        mask,
        cookie: 0,
        name: None,
        unlinked: false,
    });
}

/// A name of the file is gone: a file has one link less, and perhaps was the last.
pub fn unlinked(dentry: &Dentry) {
    // What is left of the links may be a trip to the Gofer away.
    if !dentry.inode().extra().is_watched() {
        return;
    }
    if !dentry.is_dir() {
        itself(dentry, Events::ATTRIB);
    }
    if dentry.is_dir() || dentry.inode().attr().is_ok_and(|a| a.nlink == 0) {
        itself(dentry, Events::DELETE_SELF);
    }
}

/// A rename happened.
pub fn moved(from: (&Arc<Dentry>, &[u8]), to: (&Arc<Dentry>, &[u8]), child: &Dentry) {
    static COOKIE: AtomicU32 = AtomicU32::new(1);
    if nobody() {
        return;
    }
    let cookie = COOKIE.fetch_add(1, Ordering::Relaxed);
    for ((dir, name), mask) in [(from, Events::MOVED_FROM), (to, Events::MOVED_TO)] {
        dir.inode().extra().notify(&Event {
            mask: mask | dir_bit(child),
            cookie,
            name: Some(name),
            unlinked: false,
        });
    }
    itself(child, Events::MOVE_SELF);
}
