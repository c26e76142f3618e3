//! What execve(2) makes of credentials (capabilities(7), "Transformation of capabilities during
//! execve"): set-id bits, capabilities of files, root's rules.

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::fs::mount::MountFlags;
use crate::fs::perm::{SET_GID, SET_UID};
use crate::kernel::cred::{CapSet, Credentials, Gid, Uid};
use crate::kernel::task::Task;

/// Bits of securebits (linux/securebits.h).
const SECBIT_NOROOT: u32 = 1;
const SECBIT_KEEP_CAPS: u32 = 1 << 4;

/// The extended attribute.
pub const FILE_CAPS: &[u8] = b"security.capability";

/// Capabilities of a file (linux/capability.h, struct vfs_ns_cap_data).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileCaps {
    permitted: CapSet,
    inheritable: CapSet,
    effective: bool,
}

impl FileCaps {
    /// From the attribute's value; None: not for this user namespace. EINVAL.
    pub fn parse(value: &[u8]) -> Result<Option<FileCaps>> {
        const EFFECTIVE: u32 = 1;
        let mut words = [0; 6];
        for (word, bytes) in words.iter_mut().zip(value.chunks(4)) {
            *word = u32::from_le_bytes(bytes.try_into().map_err(|_| Errno::EINVAL)?);
        }
        let [
            magic,
            permitted,
            inheritable,
            permitted_high,
            inheritable_high,
            root,
        ] = words;
        match (magic & !EFFECTIVE, value.len()) {
            (0x0100_0000, 12) | (0x0200_0000, 20) => {}
            (0x0300_0000, 24) if root == 0 => {}
            (0x0300_0000, 24) => return Ok(None),
            _ => return Err(Errno::EINVAL),
        }
        let (mut permitted, mut inheritable) = (u64::from(permitted), u64::from(inheritable));
        if value.len() > 12 {
            permitted |= u64::from(permitted_high) << 32;
            inheritable |= u64::from(inheritable_high) << 32;
        }
        Ok(Some(FileCaps {
            permitted: CapSet(permitted & CapSet::FULL.0),
            inheritable: CapSet(inheritable & CapSet::FULL.0),
            effective: magic & EFFECTIVE != 0,
        }))
    }

    /// Whether setxattr(2) takes this value: no old version. An empty one it does, and execve(2) then
    /// fails. EINVAL.
    pub fn check(value: &[u8]) -> Result<()> {
        match value.len() {
            0 => Ok(()),
            20 | 24 => FileCaps::parse(value).map(drop),
            _ => Err(Errno::EINVAL),
        }
    }

    fn of(file: &File) -> Result<Option<FileCaps>> {
        match file.inode().get_xattr(FILE_CAPS) {
            Ok(value) => FileCaps::parse(&value),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

/// Credentials after execve(2), and whether the new program runs with more than its caller had
/// (AT_SECURE). EPERM: a file's capabilities are to be in force, and some cannot be had.
pub fn new_credentials(task: &Task, file: Option<&File>) -> Result<(Credentials, bool)> {
    let old = task.creds();
    let Some(file) = file else {
        return transform(&old, (None, None), None);
    };
    if file.path().mount.flags().contains(MountFlags::NOSUID) {
        return transform(&old, (None, None), None);
    }
    let attr = file.attr()?;
    let mut ids = (None, None);
    if attr.perm & SET_UID != 0 {
        ids.0 = Some(attr.uid);
    }
    // Set-gid without group execute means mandatory locking.
    if attr.perm & (SET_GID | libc::S_IXGRP) == SET_GID | libc::S_IXGRP {
        ids.1 = Some(attr.gid);
    }
    transform(&old, ids, FileCaps::of(file)?)
}

fn transform(
    old: &Credentials,
    (uid, gid): (Option<Uid>, Option<Gid>),
    file: Option<FileCaps>,
) -> Result<(Credentials, bool)> {
    const ROOT: Uid = Uid(0);
    let mut new = old.clone();
    if !old.no_new_privs {
        new.euid = uid.unwrap_or(old.euid);
        new.egid = gid.unwrap_or(old.egid);
    }
    new.permitted = CapSet::EMPTY;
    let mut effective = false;
    if let Some(file) = file {
        let of_file = old.bounding.0 & file.permitted.0;
        new.permitted = CapSet(of_file | old.inheritable.0 & file.inheritable.0);
        effective = file.effective;
        if effective && file.permitted.0 & !new.permitted.0 != 0 {
            return Err(Errno::EPERM);
        }
    }
    // The capabilities of a set-uid-root file count, and not root's, for other users.
    let mixed = file.is_some() && new.euid == ROOT && new.ruid != ROOT;
    if new.securebits & SECBIT_NOROOT == 0 && !mixed {
        if new.euid == ROOT || new.ruid == ROOT {
            new.permitted = CapSet(old.bounding.0 | old.inheritable.0);
        }
        effective |= new.euid == ROOT;
    }
    let other_ids = new.euid != old.euid
        || new.egid != old.egid && old.groups.binary_search(&new.egid).is_err();
    if old.no_new_privs && (other_ids || new.permitted.0 & !old.permitted.0 != 0) {
        (new.euid, new.egid) = (new.ruid, new.rgid);
        new.permitted.0 &= old.permitted.0;
    }
    (new.suid, new.fsuid) = (new.euid, new.euid);
    (new.sgid, new.fsgid) = (new.egid, new.egid);
    if file.is_some() || other_ids {
        new.ambient = CapSet::EMPTY;
    }
    new.permitted.0 |= new.ambient.0;
    new.effective = match effective {
        true => new.permitted,
        false => new.ambient,
    };
    new.securebits &= !SECBIT_KEEP_CAPS;
    let grown = effective || new.permitted.0 & !new.ambient.0 != 0;
    let secure =
        other_ids || new.euid != old.ruid || new.egid != old.rgid || new.ruid != ROOT && grown;
    Ok((new, secure))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET_RAW: u64 = 1 << 13;
    const CHOWN: u64 = 1;

    fn value(magic: u32, permitted: u32, inheritable: u32) -> Vec<u8> {
        let words = [magic, permitted, inheritable, 0, 0];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn caps(magic: u32, permitted: u64) -> Option<FileCaps> {
        FileCaps::parse(&value(magic, permitted as u32, 0)).unwrap()
    }

    fn user() -> Credentials {
        Credentials::user(Uid(7), Gid(7), Vec::new(), CapSet::EMPTY)
    }

    #[test]
    fn values_are_read_as_they_are_written() {
        let found = FileCaps::parse(&value(0x0200_0001, 1, 2)).unwrap().unwrap();
        assert_eq!((found.permitted.0, found.inheritable.0), (1, 2));
        assert!(found.effective);
        let own = [value(0x0300_0000, 1, 0), vec![0; 4]].concat();
        assert!(FileCaps::parse(&own).unwrap().is_some());
        let others = [value(0x0300_0000, 1, 0), vec![1, 0, 0, 0]].concat();
        assert_eq!(FileCaps::parse(&others), Ok(None));
        for bad in [
            &b""[..],
            &[1; 3],
            &[0; 20],
            &[0; 24],
            &own[..20],
            &value(0x0200_0002, 1, 0),
        ] {
            assert_eq!(FileCaps::parse(bad), Err(Errno::EINVAL), "{bad:?}");
            assert_eq!(FileCaps::check(bad).is_ok(), bad.is_empty(), "{bad:?}");
        }
        assert!(
            FileCaps::check(&value(0x0100_0000, 1, 0)[..12]).is_err(),
            "an old version"
        );
    }

    #[test]
    fn a_file_gives_what_the_bounding_set_allows() {
        let given = caps(0x0200_0001, NET_RAW);
        let (new, secure) = transform(&user(), (None, None), given).unwrap();
        assert_eq!(
            (new.permitted.0, new.effective.0, secure),
            (NET_RAW, NET_RAW, true)
        );
        let mut bounded = user();
        bounded.bounding = CapSet(CHOWN);
        assert_eq!(transform(&bounded, (None, None), given), Err(Errno::EPERM));
        // One that knows about capabilities looks for itself.
        let (new, _) = transform(&bounded, (None, None), caps(0x0200_0000, NET_RAW)).unwrap();
        assert_eq!((new.permitted.0, new.effective.0), (0, 0));
    }

    #[test]
    fn nothing_is_gained_with_no_new_privs() {
        let mut old = user();
        old.no_new_privs = true;
        let (new, _) = transform(&old, (Some(Uid(0)), None), caps(0x0200_0001, NET_RAW)).unwrap();
        assert_eq!((new.euid, new.permitted.0, new.effective.0), (Uid(7), 0, 0));
        let mut weak_root = Credentials::user(Uid(0), Gid(0), Vec::new(), CapSet(CHOWN));
        let (new, _) = transform(&weak_root, (None, None), None).unwrap();
        assert_eq!(
            new.permitted,
            CapSet::FULL,
            "as far as the bounding set goes"
        );
        weak_root.no_new_privs = true;
        let (new, _) = transform(&weak_root, (None, None), None).unwrap();
        assert_eq!((new.permitted.0, new.effective.0), (CHOWN, CHOWN));
    }

    #[test]
    fn a_files_capabilities_count_for_set_uid_root() {
        let given = caps(0x0200_0001, NET_RAW);
        let (new, _) = transform(&user(), (Some(Uid(0)), None), given).unwrap();
        assert_eq!((new.euid, new.permitted.0), (Uid(0), NET_RAW));
        let (new, _) = transform(&user(), (Some(Uid(0)), None), None).unwrap();
        assert_eq!((new.euid, new.permitted), (Uid(0), CapSet::FULL));
    }

    #[test]
    fn ambient_capabilities_stay_unless_something_is_gained() {
        let mut old = user();
        (old.permitted, old.inheritable, old.ambient) =
            (CapSet(CHOWN), CapSet(CHOWN), CapSet(CHOWN));
        let (new, secure) = transform(&old, (None, None), None).unwrap();
        assert_eq!(
            (new.permitted.0, new.effective.0, secure),
            (CHOWN, CHOWN, false)
        );
        let (new, _) = transform(&old, (None, None), caps(0x0200_0001, NET_RAW)).unwrap();
        assert_eq!((new.permitted.0, new.ambient.0), (NET_RAW, 0));
    }
}
