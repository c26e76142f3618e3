//! Synthetic trees: what procfs and sysfs are made of.
//!
//! An inode here is a [`Head`] (number, permission bits, owner) and a body: [`Dir`] over
//! [`Entries`] that are fixed or looked up anew each time, [`Text`] made when it is read, [`Link`]
//! with a text or a place. Sizes are zero, times are those of the inode's making, nothing can be
//! created, renamed or removed by name.

mod dir;
mod link;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::errno::{Errno, Result};
use crate::fs::extra::InodeExtra;
use crate::fs::inode::{Attr, Dev, FileType, SetAttr, StatFs, Timestamp};
use crate::fs::mount::anonymous_dev;
use crate::fs::perm::Access;
use crate::kernel::cred::{Credentials, Gid, Uid};
pub use dir::{Dir, Entries, StaticDir, list_table};
pub use link::Link;
pub use text::{Generated, Text};

/// A mounted instance: what all its inodes share.
pub struct Super {
    pub dev: Dev,
    magic: u64,
    /// What making a name fails with.
    fixed: Errno,
    next: AtomicU64,
}

impl Super {
    /// `magic`: *_MAGIC of statfs(2); `fixed`: what creating anything in it fails with.
    pub fn new(magic: u64, fixed: Errno) -> Arc<Super> {
        Arc::new(Super {
            dev: anonymous_dev(),
            magic,
            fixed,
            next: AtomicU64::new(1),
        })
    }

    /// A number for an inode that lives as long as the instance. The first is 1.
    pub fn next_ino(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn statfs(&self) -> StatFs {
        StatFs {
            magic: self.magic,
            block_size: 4096,
            fsid: self.dev.encode(),
            name_max: 255,
            ..StatFs::default()
        }
    }
}

/// Whose an inode is, where that is not the superuser.
pub trait Owner: Send + Sync {
    fn ids(&self) -> (Uid, Gid);

    /// An access check by other rules than the permission bits. None: those.
    fn check(&self, _creds: &Credentials, _want: Access) -> Option<Result<()>> {
        None
    }
}

/// Which permission rules apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    Posix,
    /// /proc/sys: capabilities do not override the permission bits.
    Sysctl,
}

/// What every synthetic inode has.
pub struct Head {
    sb: Arc<Super>,
    ino: u64,
    perm: u32,
    size: u64,
    owner: Option<Arc<dyn Owner>>,
    rules: Rules,
    born: Timestamp,
    extra: InodeExtra,
}

impl Head {
    /// A lasting inode of the superuser.
    pub fn new(sb: &Arc<Super>, perm: u32) -> Head {
        Head::numbered(sb, sb.next_ino(), perm)
    }

    /// With a number of the caller's. Two inodes with the same number and type stand for the same
    /// thing.
    pub fn numbered(sb: &Arc<Super>, ino: u64, perm: u32) -> Head {
        Head {
            sb: sb.clone(),
            ino,
            perm,
            size: 0,
            owner: None,
            rules: Rules::Posix,
            born: Timestamp::now(),
            extra: InodeExtra::default(),
        }
    }

    #[must_use]
    pub fn owned(mut self, owner: Arc<dyn Owner>) -> Head {
        self.owner = Some(owner);
        self
    }

    /// With this st_size.
    #[must_use]
    pub fn sized(mut self, size: u64) -> Head {
        self.size = size;
        self
    }

    /// With the rules of /proc/sys.
    #[must_use]
    pub fn sysctl(mut self) -> Head {
        self.rules = Rules::Sysctl;
        self
    }

    pub fn ino(&self) -> u64 {
        self.ino
    }

    fn attr(&self, kind: FileType, nlink: u32) -> Attr {
        let (uid, gid) = match &self.owner {
            Some(owner) => owner.ids(),
            None => (Uid(0), Gid(0)),
        };
        Attr {
            kind,
            perm: self.perm,
            ino: self.ino,
            dev: self.sb.dev,
            nlink,
            uid,
            gid,
            rdev: Dev::default(),
            size: self.size,
            blocks: 0,
            blksize: 1024,
            atime: self.born,
            mtime: self.born,
            ctime: self.born,
            btime: None,
        }
    }

    /// Sizes (O_TRUNC) and times may be set, to no effect.
    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        if change.perm.is_some() || change.uid.is_some() || change.gid.is_some() {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    fn check_access(&self, creds: &Credentials, want: Access) -> Option<Result<()>> {
        if self.rules == Rules::Sysctl {
            return Some(sysctl_access(self.perm, creds, want));
        }
        self.owner.as_ref().and_then(|o| o.check(creds, want))
    }
}

/// Permission check of /proc/sys: owner 0, group 0, and no capability helps.
fn sysctl_access(perm: u32, creds: &Credentials, want: Access) -> Result<()> {
    let shift = if creds.euid == Uid(0) {
        6
    } else if creds.egid == Gid(0) || creds.in_group(Gid(0)) {
        3
    } else {
        0
    };
    if (perm >> shift) & want.bits() == want.bits() {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}

/// The inode methods that are the same for all bodies.
macro_rules! inode_basics {
    () => {
        fn set_attr(&self, change: &$crate::fs::inode::SetAttr) -> $crate::errno::Result<()> {
            self.head.set_attr(change)
        }

        fn statfs(&self) -> $crate::errno::Result<$crate::fs::inode::StatFs> {
            Ok(self.head.sb.statfs())
        }

        fn check_access(
            &self,
            creds: &$crate::kernel::cred::Credentials,
            want: $crate::fs::perm::Access,
        ) -> Option<$crate::errno::Result<()>> {
            self.head.check_access(creds, want)
        }

        fn extra(&self) -> &$crate::fs::extra::InodeExtra {
            &self.head.extra
        }

        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    };
}
use inode_basics;

/// A decimal number as Linux parses names of processes and descriptors: no sign, no leading zero.
pub fn number(name: &[u8]) -> Option<i32> {
    let plain = !name.is_empty() && name.iter().all(u8::is_ascii_digit);
    if !plain || (name.len() > 1 && name.first() == Some(&b'0')) {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
