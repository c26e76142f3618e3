//! Identifiers, keys, owners and permissions of the objects of System V IPC.

use std::collections::BTreeMap;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::errno::{Errno, Result};
use crate::kernel::cred::{Cap, Credentials, Gid, Uid};

/// IPC_CREAT, IPC_EXCL and IPC_PRIVATE in the types used here.
const CREAT: u32 = libc::IPC_CREAT as u32;
const EXCL: u32 = libc::IPC_EXCL as u32;
/// Bits of an identifier that say where the object is; the rest counts how often places were
/// taken again, so that an old identifier finds nothing.
const INDEX_BITS: u32 = 15;
/// Places are used again only after so many.
const LEAST_CYCLE: usize = 64;
const GREATEST_SEQUENCE: i32 = i32::MAX >> INDEX_BITS;

/// What may be asked for, as each of the three classes has it.
pub const READ: u32 = 0o444;
pub const WRITE: u32 = 0o222;

/// struct ipc64_perm.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
pub struct PermWords {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
    pad: [u16; 3],
    unused: [u64; 2],
}

/// Owner, creator and mode of an object.
#[derive(Clone, Copy, Debug)]
pub struct Perm {
    pub key: i32,
    pub uid: Uid,
    pub gid: Gid,
    pub cuid: Uid,
    pub cgid: Gid,
    /// Nine permission bits.
    pub mode: u32,
}

impl Perm {
    pub fn new(key: i32, flags: u32, creds: &Credentials) -> Perm {
        Perm {
            key,
            uid: creds.euid,
            gid: creds.egid,
            cuid: creds.euid,
            cgid: creds.egid,
            mode: flags & 0o777,
        }
    }

    /// Linux's ipcperms(): all that `want` asks for in any of the three classes. EACCES.
    pub fn check(&self, creds: &Credentials, want: u32) -> Result<()> {
        let want = want >> 6 | want >> 3 | want;
        let granted = if creds.euid == self.cuid || creds.euid == self.uid {
            self.mode >> 6
        } else if creds.in_group(self.cgid) || creds.in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if want & !granted & 0o7 != 0 && !creds.has_cap(Cap::IpcOwner) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// Who may change or remove it. EPERM.
    pub fn check_owner(&self, creds: &Credentials) -> Result<()> {
        let owns = creds.euid == self.cuid || creds.euid == self.uid;
        if owns || creds.has_cap(Cap::SysAdmin) {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    /// IPC_SET: owner and mode. EINVAL for ids that are none.
    pub fn set(&mut self, new: &PermWords) -> Result<()> {
        if new.uid == u32::MAX || new.gid == u32::MAX {
            return Err(Errno::EINVAL);
        }
        self.uid = Uid(new.uid);
        self.gid = Gid(new.gid);
        self.mode = new.mode & 0o777;
        Ok(())
    }
}

/// An object and its identifier.
pub struct Entry<T> {
    pub id: i32,
    pub perm: Perm,
    pub value: T,
}

impl<T> Entry<T> {
    /// As it is told to the guest; `more` are mode bits beyond the permissions.
    pub fn perm_words(&self, more: u32) -> PermWords {
        PermWords {
            key: self.perm.key,
            uid: self.perm.uid.0,
            gid: self.perm.gid.0,
            cuid: self.perm.cuid.0,
            cgid: self.perm.cgid.0,
            mode: self.perm.mode | more,
            seq: (self.id >> INDEX_BITS) as u16,
            ..PermWords::default()
        }
    }
}

/// The objects of one kind.
pub struct Table<T> {
    places: BTreeMap<i32, Entry<T>>,
    keys: BTreeMap<i32, i32>,
    last: i32,
    sequence: i32,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table {
            places: BTreeMap::new(),
            keys: BTreeMap::new(),
            last: -1,
            sequence: 0,
        }
    }
}

fn place(id: i32) -> i32 {
    id & ((1 << INDEX_BITS) - 1)
}

impl<T> Table<T> {
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// In order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.places.values()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry<T>> {
        self.places.values_mut()
    }

    /// The highest place in use, 0 if there is none.
    pub fn highest(&self) -> i32 {
        self.places.keys().next_back().copied().unwrap_or(0)
    }

    /// EINVAL if there is no such object (any more).
    pub fn get(&self, id: i32) -> Result<&Entry<T>> {
        let entry = self.places.get(&place(id)).filter(|entry| entry.id == id);
        entry.ok_or(Errno::EINVAL)
    }

    /// As `get`.
    pub fn get_mut(&mut self, id: i32) -> Result<&mut Entry<T>> {
        let entry = self.places.get_mut(&place(id));
        entry.filter(|entry| entry.id == id).ok_or(Errno::EINVAL)
    }

    /// What is in a place (`*_STAT`). EINVAL.
    pub fn at(&self, index: i32) -> Result<&Entry<T>> {
        self.places.get(&place(index)).ok_or(Errno::EINVAL)
    }

    /// The first half of a get call: the object with this key, or None if one is to be made.
    /// `fits` checks more of what is there, before permissions.
    ///
    /// # Errors
    /// ENOENT, EEXIST, EACCES, and what `fits` gives.
    pub fn find(
        &self,
        key: i32,
        flags: u32,
        creds: &Credentials,
        fits: impl FnOnce(&T) -> Result<()>,
    ) -> Result<Option<i32>> {
        if key == libc::IPC_PRIVATE {
            return Ok(None);
        }
        let found = self.keys.get(&key).and_then(|at| self.places.get(at));
        match found {
            None if flags & CREAT == 0 => Err(Errno::ENOENT),
            None => Ok(None),
            Some(_) if flags & (CREAT | EXCL) == CREAT | EXCL => Err(Errno::EEXIST),
            Some(entry) => {
                fits(&entry.value)?;
                entry.perm.check(creds, flags)?;
                Ok(Some(entry.id))
            }
        }
    }

    /// Enters a new object; `value` is told its identifier. ENOSPC if there are `most` already.
    pub fn add(&mut self, most: i64, perm: Perm, value: impl FnOnce(i32) -> T) -> Result<i32> {
        let most = usize::try_from(most).unwrap_or(0).min(1 << INDEX_BITS);
        if self.places.len() >= most {
            return Err(Errno::ENOSPC);
        }
        let cycle = (self.places.len() * 3 / 2).max(LEAST_CYCLE).min(most) as i32;
        let free = |at: &i32| !self.places.contains_key(at);
        let at = (self.last + 1..cycle).chain(0..cycle).find(free);
        let at = at.ok_or(Errno::ENOSPC)?;
        if at <= self.last {
            self.sequence = (self.sequence + 1) % GREATEST_SEQUENCE;
        }
        self.last = at;
        let id = self.sequence << INDEX_BITS | at;
        if perm.key != libc::IPC_PRIVATE {
            self.keys.insert(perm.key, at);
        }
        let value = value(id);
        self.places.insert(at, Entry { id, perm, value });
        Ok(id)
    }

    /// Nobody finds it by its key any more.
    pub fn forget_key(&mut self, id: i32) {
        if let Some(entry) = self.places.get_mut(&place(id)) {
            self.keys.remove(&entry.perm.key);
            entry.perm.key = libc::IPC_PRIVATE;
        }
    }

    /// Takes an object out; the caller drops it when it holds no lock.
    pub fn remove(&mut self, id: i32) -> Option<Entry<T>> {
        self.get(id).ok()?;
        let entry = self.places.remove(&place(id))?;
        if entry.perm.key != libc::IPC_PRIVATE {
            self.keys.remove(&entry.perm.key);
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_round_and_old_identifiers_find_nothing() {
        let root = Credentials::root();
        let mut table = Table::<()>::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let id = table.add(4096, Perm::new(0, 0o600, &root), |_| ()).unwrap();
            assert!(seen.insert(id), "{id} comes twice");
            assert!(table.get(id).is_ok());
            assert!(table.remove(id).is_some());
            assert!(table.get(id).is_err() && table.remove(id).is_none());
        }
        for _ in 0..200 {
            table.add(200, Perm::new(0, 0o600, &root), |_| ()).unwrap();
        }
        let more = table.add(200, Perm::new(0, 0o600, &root), |_| ());
        assert_eq!(more, Err(Errno::ENOSPC));
    }
}
