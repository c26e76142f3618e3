//! Permission checks (path_resolution(7), "Permissions"; capabilities(7)).

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::inode::{Attr, FileType, Inode};
use crate::kernel::cred::{Cap, Credentials, Gid};

bitflags::bitflags! {
    /// What is wanted, with the values of access(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u32 {
        const EXEC = 1;
        const WRITE = 2;
        const READ = 4;
    }
}

/// S_ISVTX.
pub const STICKY: u32 = 0o1000;
/// S_ISGID.
pub const SET_GID: u32 = 0o2000;
/// S_ISUID.
pub const SET_UID: u32 = 0o4000;

/// May `creds` do `want` to a file with these attributes? EACCES.
pub fn check_attr(attr: &Attr, creds: &Credentials, want: Access) -> Result<()> {
    let shift = if creds.fsuid == attr.uid {
        6
    } else if creds.in_group(attr.gid) {
        3
    } else {
        0
    };
    if (attr.perm >> shift) & want.bits() == want.bits() {
        return Ok(());
    }
    if attr.kind == FileType::Dir {
        if !want.contains(Access::WRITE) && creds.has_cap(Cap::DacReadSearch) {
            return Ok(());
        }
        if creds.has_cap(Cap::DacOverride) {
            return Ok(());
        }
        return Err(Errno::EACCES);
    }
    if want == Access::READ && creds.has_cap(Cap::DacReadSearch) {
        return Ok(());
    }
    // Executing needs one x bit even for the superuser.
    if (!want.contains(Access::EXEC) || attr.perm & 0o111 != 0) && creds.has_cap(Cap::DacOverride) {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// As [`check_attr`], by the inode's own rules where it has some.
pub fn check(inode: &Arc<dyn Inode>, creds: &Credentials, want: Access) -> Result<()> {
    match inode.check_access(creds, want) {
        Some(answer) => answer,
        None => check_attr(&inode.attr()?, creds, want),
    }
}

/// May `creds` look up names in this directory?
pub fn check_search(dir: &Arc<dyn Inode>, creds: &Credentials) -> Result<()> {
    if let Some(answer) = dir.check_access(creds, Access::EXEC) {
        return answer;
    }
    if creds.has_cap(Cap::DacReadSearch) || creds.has_cap(Cap::DacOverride) {
        return Ok(());
    }
    check_attr(&dir.attr()?, creds, Access::EXEC)
}

/// Owner of the file, or privileged as if.
pub fn is_owner(attr: &Attr, creds: &Credentials) -> bool {
    creds.fsuid == attr.uid || creds.has_cap(Cap::Fowner)
}

/// Sticky directories: only the owner of the entry or of the directory may remove it. EPERM.
pub fn check_sticky(dir: &Attr, child: &Attr, creds: &Credentials) -> Result<()> {
    if dir.perm & STICKY == 0
        || creds.fsuid == child.uid
        || creds.fsuid == dir.uid
        || creds.has_cap(Cap::Fowner)
    {
        return Ok(());
    }
    Err(Errno::EPERM)
}

/// protected_symlinks (proc_sys_fs(5)): in a sticky directory that everybody may write, only links of
/// one's own or of the directory's owner are followed. EACCES.
pub fn check_follow(dir: &Attr, link: &Attr, creds: &Credentials) -> Result<()> {
    if dir.perm & (STICKY | 0o002) != STICKY | 0o002
        || creds.fsuid == link.uid
        || dir.uid == link.uid
    {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// protected_hardlinks: one's own files, or plain files one may read and write. EPERM.
pub fn check_hardlink(inode: &Arc<dyn Inode>, creds: &Credentials) -> Result<()> {
    let attr = inode.attr()?;
    if is_owner(&attr, creds) {
        return Ok(());
    }
    let set_ids = attr.perm & SET_UID != 0 || attr.perm & (SET_GID | 0o010) == SET_GID | 0o010;
    if attr.kind != FileType::Regular
        || set_ids
        || check_attr(&attr, creds, Access::READ | Access::WRITE).is_err()
    {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// protected_fifos and protected_regular: O_CREAT of somebody else's file in a sticky directory that
/// others may write. EACCES.
pub fn check_create_existing(dir: &Attr, child: &Attr, creds: &Credentials) -> Result<()> {
    if !matches!(child.kind, FileType::Fifo | FileType::Regular)
        || dir.perm & STICKY == 0
        || child.uid == dir.uid
        || child.uid == creds.fsuid
    {
        return Ok(());
    }
    if dir.perm & 0o002 != 0 {
        return Err(Errno::EACCES);
    }
    Ok(())
}

/// Group and permission bits of a new node: set-gid directories hand down their group.
pub fn inherit(dir: &Attr, creds: &Credentials, perm: u32, kind: FileType) -> (Gid, u32) {
    if dir.perm & SET_GID == 0 {
        return (creds.fsgid, perm);
    }
    let perm = if kind == FileType::Dir {
        perm | SET_GID
    } else if perm & (SET_GID | 0o010) == SET_GID | 0o010
        && !creds.in_group(dir.gid)
        && !creds.has_cap(Cap::Fsetid)
    {
        perm & !SET_GID
    } else {
        perm
    };
    (dir.gid, perm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::inode::{Dev, Timestamp};
    use crate::kernel::cred::{CapSet, Uid};

    fn attr(kind: FileType, perm: u32, uid: u32, gid: u32) -> Attr {
        Attr {
            kind,
            perm,
            ino: 1,
            dev: Dev::default(),
            nlink: 1,
            uid: Uid(uid),
            gid: Gid(gid),
            rdev: Dev::default(),
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            btime: None,
        }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let user = Credentials::user(Uid(5), Gid(6), vec![Gid(7)], CapSet::EMPTY);
        let cases = [
            (0o077, 5, 6, Access::READ, false),
            (0o407, 5, 6, Access::READ, true),
            (0o707, 1, 7, Access::READ, false),
            (0o040, 1, 7, Access::READ, true),
            (0o005, 1, 1, Access::READ.union(Access::EXEC), true),
            (0o004, 1, 1, Access::READ.union(Access::EXEC), false),
        ];
        for (perm, uid, gid, want, ok) in cases {
            let a = attr(FileType::Regular, perm, uid, gid);
            assert_eq!(check_attr(&a, &user, want).is_ok(), ok, "{perm:o} {want:?}");
        }
        let root = Credentials::root();
        let a = attr(FileType::Regular, 0, 1, 1);
        assert!(check_attr(&a, &root, Access::WRITE).is_ok());
        assert!(check_attr(&a, &root, Access::EXEC).is_err());
        let d = attr(FileType::Dir, 0, 1, 1);
        assert!(check_attr(&d, &root, Access::EXEC | Access::WRITE).is_ok());
    }

    #[test]
    fn sticky_and_protected() {
        let user = Credentials::user(Uid(5), Gid(6), vec![], CapSet::EMPTY);
        let tmp = attr(FileType::Dir, 0o1777, 0, 0);
        let foreign = attr(FileType::Regular, 0o666, 9, 9);
        let own = attr(FileType::Regular, 0o666, 5, 9);
        assert_eq!(check_sticky(&tmp, &foreign, &user), Err(Errno::EPERM));
        assert!(check_sticky(&tmp, &own, &user).is_ok());
        assert_eq!(check_follow(&tmp, &foreign, &user), Err(Errno::EACCES));
        assert!(check_follow(&tmp, &own, &user).is_ok());
    }
}
