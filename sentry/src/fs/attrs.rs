//! Changing attributes: chmod, chown, utimensat, truncate, extended attributes; with the checks of
//! Linux.

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::fs::inode::{Attr, FileType, SetAttr, SetTime, XattrFlags};
use crate::fs::notify::{self, Events};
use crate::fs::path::PathRef;
use crate::fs::perm::{self, Access, SET_GID, SET_UID};
use crate::kernel::cred::{Cap, Credentials, Gid, Uid};
use crate::kernel::exec_creds::{FILE_CAPS, FileCaps};

/// What is changed: a place, or an open file (which may know more than its name).
#[derive(Clone, Copy)]
pub enum Target<'a> {
    Path(&'a PathRef),
    File(&'a File),
}

impl Target<'_> {
    fn path(&self) -> &PathRef {
        match self {
            Target::Path(path) => path,
            Target::File(file) => file.path(),
        }
    }

    fn attr(&self) -> Result<Attr> {
        match self {
            Target::Path(path) => path.inode().attr(),
            Target::File(file) => file.attr(),
        }
    }

    fn apply(&self, change: &SetAttr) -> Result<()> {
        match self {
            Target::Path(path) => path.inode().set_attr(change)?,
            Target::File(file) => file.ops().set_attr(file, change)?,
        }
        let event = if change.size.is_some() {
            Events::MODIFY
        } else {
            Events::ATTRIB
        };
        notify::file(&self.path().dentry, event);
        Ok(())
    }
}

/// chmod(2). EROFS, EPERM.
pub fn chmod(target: Target<'_>, creds: &Credentials, perm: u32) -> Result<()> {
    target.path().mount.check_writable()?;
    let attr = target.attr()?;
    if !perm::is_owner(&attr, creds) {
        return Err(Errno::EPERM);
    }
    if attr.kind == FileType::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut perm = perm & 0o7777;
    if !creds.in_group(attr.gid) && !creds.has_cap(Cap::Fsetid) {
        perm &= !SET_GID;
    }
    target.apply(&SetAttr {
        perm: Some(perm),
        ..SetAttr::default()
    })
}

/// chown(2). None: unchanged. EROFS, EPERM.
pub fn chown(
    target: Target<'_>,
    creds: &Credentials,
    uid: Option<Uid>,
    gid: Option<Gid>,
) -> Result<()> {
    target.path().mount.check_writable()?;
    let attr = target.attr()?;
    let privileged = creds.has_cap(Cap::Chown);
    if let Some(uid) = uid
        && !privileged
        && (creds.fsuid != attr.uid || uid != attr.uid)
    {
        return Err(Errno::EPERM);
    }
    if let Some(gid) = gid
        && !privileged
        && (creds.fsuid != attr.uid || (!creds.in_group(gid) && gid != attr.gid))
    {
        return Err(Errno::EPERM);
    }
    let mut change = SetAttr {
        uid,
        gid,
        ..SetAttr::default()
    };
    // Set-id bits go, whoever asks, except those of directories and of mandatory locking.
    if attr.kind != FileType::Dir {
        let mut perm = attr.perm & !SET_UID;
        if attr.perm & 0o010 != 0 || (!creds.in_group(attr.gid) && !creds.has_cap(Cap::Fsetid)) {
            perm &= !SET_GID;
        }
        if perm != attr.perm {
            change.perm = Some(perm);
        }
        // security.capability goes too; most files have none.
        let _ = target.path().inode().remove_xattr(FILE_CAPS);
    }
    target.apply(&change)
}

/// utimensat(2). None: unchanged (UTIME_OMIT). `both_now`: times was NULL or both UTIME_NOW.
pub fn set_times(
    target: Target<'_>,
    creds: &Credentials,
    atime: Option<SetTime>,
    mtime: Option<SetTime>,
) -> Result<()> {
    if atime.is_none() && mtime.is_none() {
        return Ok(());
    }
    target.path().mount.check_writable()?;
    let attr = target.attr()?;
    let both_now = atime == Some(SetTime::Now) && mtime == Some(SetTime::Now);
    if !perm::is_owner(&attr, creds) {
        if !both_now {
            return Err(Errno::EPERM);
        }
        perm::check(target.path().inode(), creds, Access::WRITE)?;
    }
    target.apply(&SetAttr {
        atime,
        mtime,
        ..SetAttr::default()
    })
}

/// truncate(2) on a path; `limit` is RLIMIT_FSIZE.
pub fn truncate(place: &PathRef, creds: &Credentials, size: u64) -> Result<()> {
    match place.inode().kind() {
        FileType::Dir => return Err(Errno::EISDIR),
        FileType::Regular => {}
        _ => return Err(Errno::EINVAL),
    }
    place.mount.check_writable()?;
    perm::check(place.inode(), creds, Access::WRITE)?;
    place.inode().extra().get_write()?;
    let result = resize(Target::Path(place), creds, size);
    place.inode().extra().put_write();
    result
}

/// ftruncate(2). EINVAL unless it is a regular file open for writing.
pub fn ftruncate(file: &File, creds: &Credentials, size: u64) -> Result<()> {
    if file.inode().kind() != FileType::Regular || !file.flags().writable() {
        return Err(Errno::EINVAL);
    }
    resize(Target::File(file), creds, size)
}

fn resize(target: Target<'_>, creds: &Credentials, size: u64) -> Result<()> {
    let change = SetAttr {
        size: Some(size),
        perm: without_set_ids(&target.attr()?, creds),
        ..SetAttr::default()
    };
    target.apply(&change)?;
    target.path().inode().drop_file_caps();
    Ok(())
}

/// The permission bits after a write by somebody without CAP_FSETID, if that changes them.
pub fn without_set_ids(attr: &Attr, creds: &Credentials) -> Option<u32> {
    if attr.perm & (SET_UID | SET_GID) == 0 || creds.has_cap(Cap::Fsetid) {
        return None;
    }
    let mut perm = attr.perm & !SET_UID;
    if perm & 0o010 != 0 {
        perm &= !SET_GID;
    }
    (perm != attr.perm).then_some(perm)
}

/// To be called after a write: takes set-id bits and capabilities of the file away as Linux does.
pub fn strip_set_ids(file: &File, creds: &Credentials) {
    if file.inode().kind() != FileType::Regular {
        return;
    }
    file.inode().drop_file_caps();
    if creds.has_cap(Cap::Fsetid) {
        return;
    }
    let Ok(attr) = file.attr() else { return };
    if let Some(perm) = without_set_ids(&attr, creds) {
        let change = SetAttr {
            perm: Some(perm),
            ..SetAttr::default()
        };
        let _ = file.ops().set_attr(file, &change);
    }
}

/// Longest name of an extended attribute.
pub const XATTR_NAME_MAX: usize = 255;
/// Longest value.
pub const XATTR_SIZE_MAX: usize = 65536;

fn check_xattr_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(Errno::ERANGE);
    }
    let known = [&b"user."[..], b"trusted.", b"security.", b"system."];
    match known.iter().find(|p| name.starts_with(p)) {
        None => Err(Errno::EOPNOTSUPP),
        Some(prefix) if name.len() == prefix.len() => Err(Errno::EINVAL),
        Some(_) => Ok(()),
    }
}

/// xattr(7): who may use which name on what.
fn may_xattr(target: &Target<'_>, creds: &Credentials, name: &[u8], want: Access) -> Result<()> {
    let writes = want.contains(Access::WRITE);
    if writes {
        target.path().mount.check_writable()?;
    }
    if name.starts_with(b"security.") || name.starts_with(b"system.") {
        if writes && name == FILE_CAPS {
            return match creds.has_cap(Cap::Setfcap) {
                true => Ok(()),
                false => Err(Errno::EPERM),
            };
        }
        if writes && !creds.has_cap(Cap::SysAdmin) {
            let acl = name.starts_with(b"system.") && perm::is_owner(&target.attr()?, creds);
            if !acl {
                return Err(Errno::EPERM);
            }
        }
        return Ok(());
    }
    if name.starts_with(b"trusted.") {
        return match creds.has_cap(Cap::SysAdmin) {
            true => Ok(()),
            false if writes => Err(Errno::EPERM),
            false => Err(Errno::ENODATA),
        };
    }
    let attr = target.attr()?;
    if !matches!(attr.kind, FileType::Regular | FileType::Dir) {
        return Err(if writes { Errno::EPERM } else { Errno::ENODATA });
    }
    if attr.kind == FileType::Dir
        && attr.perm & perm::STICKY != 0
        && writes
        && !perm::is_owner(&attr, creds)
    {
        return Err(Errno::EPERM);
    }
    perm::check(target.path().inode(), creds, want)
}

/// setxattr(2).
pub fn set_xattr(
    target: Target<'_>,
    creds: &Credentials,
    name: &[u8],
    value: &[u8],
    flags: XattrFlags,
) -> Result<()> {
    if value.len() > XATTR_SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    may_xattr(&target, creds, name, Access::WRITE)?;
    check_xattr_name(name)?;
    if name == FILE_CAPS {
        FileCaps::check(value)?;
    }
    target.path().inode().set_xattr(name, value, flags)?;
    notify::file(&target.path().dentry, Events::ATTRIB);
    Ok(())
}

/// getxattr(2).
pub fn get_xattr(target: Target<'_>, creds: &Credentials, name: &[u8]) -> Result<Vec<u8>> {
    check_xattr_name(name)?;
    may_xattr(&target, creds, name, Access::READ)?;
    target.path().inode().get_xattr(name)
}

/// removexattr(2).
pub fn remove_xattr(target: Target<'_>, creds: &Credentials, name: &[u8]) -> Result<()> {
    check_xattr_name(name)?;
    may_xattr(&target, creds, name, Access::WRITE)?;
    target.path().inode().remove_xattr(name)?;
    notify::file(&target.path().dentry, Events::ATTRIB);
    Ok(())
}

/// listxattr(2): names, each with a NUL behind it. trusted.* only for the privileged.
pub fn list_xattr(target: Target<'_>, creds: &Credentials) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for name in target.path().inode().list_xattr()? {
        if name.starts_with(b"trusted.") && !creds.has_cap(Cap::SysAdmin) {
            continue;
        }
        text.extend_from_slice(&name);
        text.push(0);
    }
    Ok(text)
}
