//! Identity: user and group ids, supplementary groups, capabilities.
//!
//! An id of -1 is never valid (EINVAL), or means "leave as it is".

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::errno::{Errno, Result};
use crate::kernel::cred::{Cap, CapSet, Credentials, Gid, Uid};
use crate::kernel::task::Task;
pub use crate::syscalls::seccomp::seccomp;
use crate::syscalls::{Args, SysResult};

const UNCHANGED: u32 = u32::MAX;
const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
const SECBIT_KEEP_CAPS: u32 = 1 << 4;

pub async fn getuid(t: &Task, _: &Args) -> SysResult {
    Ok(t.with_creds(|creds| creds.ruid.0).into())
}

pub async fn geteuid(t: &Task, _: &Args) -> SysResult {
    Ok(t.with_creds(|creds| creds.euid.0).into())
}

pub async fn getgid(t: &Task, _: &Args) -> SysResult {
    Ok(t.with_creds(|creds| creds.rgid.0).into())
}

pub async fn getegid(t: &Task, _: &Args) -> SysResult {
    Ok(t.with_creds(|creds| creds.egid.0).into())
}

fn commit(t: &Task, old: &Credentials, mut new: Credentials) -> SysResult {
    fix_capabilities(old, &mut new);
    if new.euid != old.euid
        || new.egid != old.egid
        || new.fsuid != old.fsuid
        || new.fsgid != old.fsgid
    {
        t.group()
            .dumpable
            .store(0, std::sync::atomic::Ordering::Relaxed);
        t.pdeathsig.store(0, std::sync::atomic::Ordering::Relaxed);
    }
    t.set_creds(new);
    Ok(0)
}

/// What a change of user ids does to capabilities (capabilities(7), "Effect of user ID changes").
fn fix_capabilities(old: &Credentials, new: &mut Credentials) {
    if new.securebits & SECBIT_NO_SETUID_FIXUP != 0 {
        return;
    }
    let root = Uid(0);
    let had_root = [old.ruid, old.euid, old.suid].contains(&root);
    let has_root = [new.ruid, new.euid, new.suid].contains(&root);
    if had_root && !has_root {
        if new.securebits & SECBIT_KEEP_CAPS == 0 {
            new.permitted = CapSet::EMPTY;
            new.effective = CapSet::EMPTY;
        }
        new.ambient = CapSet::EMPTY;
    }
    if old.euid == root && new.euid != root {
        new.effective = CapSet::EMPTY;
    } else if old.euid != root && new.euid == root {
        new.effective = new.permitted;
    }
    const FS_CAPS: u64 = 1 << Cap::Chown as u64
        | 1 << Cap::DacOverride as u64
        | 1 << Cap::DacReadSearch as u64
        | 1 << Cap::Fowner as u64
        | 1 << Cap::Fsetid as u64
        | 1 << Cap::LinuxImmutable as u64
        | 1 << Cap::Mknod as u64
        | 1 << Cap::MacOverride as u64;
    if old.fsuid == root && new.fsuid != root {
        new.effective = CapSet(new.effective.0 & !FS_CAPS);
    } else if old.fsuid != root && new.fsuid == root {
        new.effective = CapSet(new.effective.0 | new.permitted.0 & FS_CAPS);
    }
}

pub async fn setuid(t: &Task, a: &Args) -> SysResult {
    let (old, uid) = (t.creds(), Uid(a.uint(0)));
    if uid.0 == UNCHANGED {
        return Err(Errno::EINVAL.into());
    }
    let mut new = (*old).clone();
    if old.has_cap(Cap::Setuid) {
        new.ruid = uid;
        new.suid = uid;
    } else if uid != old.ruid && uid != old.suid {
        return Err(Errno::EPERM.into());
    }
    new.euid = uid;
    new.fsuid = uid;
    commit(t, &old, new)
}

pub async fn setgid(t: &Task, a: &Args) -> SysResult {
    let (old, gid) = (t.creds(), Gid(a.uint(0)));
    if gid.0 == UNCHANGED {
        return Err(Errno::EINVAL.into());
    }
    let mut new = (*old).clone();
    if old.has_cap(Cap::Setgid) {
        new.rgid = gid;
        new.sgid = gid;
    } else if gid != old.rgid && gid != old.sgid {
        return Err(Errno::EPERM.into());
    }
    new.egid = gid;
    new.fsgid = gid;
    commit(t, &old, new)
}

pub async fn setreuid(t: &Task, a: &Args) -> SysResult {
    let old = t.creds();
    let (r, e) = (a.uint(0), a.uint(1));
    let privileged = old.has_cap(Cap::Setuid);
    let mut new = (*old).clone();
    if r != UNCHANGED {
        if !privileged && r != old.ruid.0 && r != old.euid.0 {
            return Err(Errno::EPERM.into());
        }
        new.ruid = Uid(r);
    }
    if e != UNCHANGED {
        if !privileged && e != old.ruid.0 && e != old.euid.0 && e != old.suid.0 {
            return Err(Errno::EPERM.into());
        }
        new.euid = Uid(e);
    }
    if r != UNCHANGED || e != UNCHANGED && e != old.ruid.0 {
        new.suid = new.euid;
    }
    new.fsuid = new.euid;
    commit(t, &old, new)
}

pub async fn setregid(t: &Task, a: &Args) -> SysResult {
    let old = t.creds();
    let (r, e) = (a.uint(0), a.uint(1));
    let privileged = old.has_cap(Cap::Setgid);
    let mut new = (*old).clone();
    if r != UNCHANGED {
        if !privileged && r != old.rgid.0 && r != old.egid.0 {
            return Err(Errno::EPERM.into());
        }
        new.rgid = Gid(r);
    }
    if e != UNCHANGED {
        if !privileged && e != old.rgid.0 && e != old.egid.0 && e != old.sgid.0 {
            return Err(Errno::EPERM.into());
        }
        new.egid = Gid(e);
    }
    if r != UNCHANGED || e != UNCHANGED && e != old.rgid.0 {
        new.sgid = new.egid;
    }
    new.fsgid = new.egid;
    commit(t, &old, new)
}

/// An unprivileged caller may set each id only to one of the three it has.
fn check_three(wanted: [u32; 3], have: [u32; 3], privileged: CapCheck) -> Result<()> {
    let allowed = |id: u32| id == UNCHANGED || have.contains(&id);
    if privileged == CapCheck::Held || wanted.into_iter().all(allowed) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

#[derive(PartialEq, Eq)]
enum CapCheck {
    Held,
    Missing,
}

fn check_cap(creds: &Credentials, cap: Cap) -> CapCheck {
    if creds.has_cap(cap) {
        CapCheck::Held
    } else {
        CapCheck::Missing
    }
}

pub async fn setresuid(t: &Task, a: &Args) -> SysResult {
    let old = t.creds();
    let wanted = [a.uint(0), a.uint(1), a.uint(2)];
    check_three(
        wanted,
        [old.ruid.0, old.euid.0, old.suid.0],
        check_cap(&old, Cap::Setuid),
    )?;
    let mut new = (*old).clone();
    for (slot, id) in [&mut new.ruid, &mut new.euid, &mut new.suid]
        .into_iter()
        .zip(wanted)
    {
        if id != UNCHANGED {
            *slot = Uid(id);
        }
    }
    new.fsuid = new.euid;
    commit(t, &old, new)
}

pub async fn setresgid(t: &Task, a: &Args) -> SysResult {
    let old = t.creds();
    let wanted = [a.uint(0), a.uint(1), a.uint(2)];
    check_three(
        wanted,
        [old.rgid.0, old.egid.0, old.sgid.0],
        check_cap(&old, Cap::Setgid),
    )?;
    let mut new = (*old).clone();
    for (slot, id) in [&mut new.rgid, &mut new.egid, &mut new.sgid]
        .into_iter()
        .zip(wanted)
    {
        if id != UNCHANGED {
            *slot = Gid(id);
        }
    }
    new.fsgid = new.egid;
    commit(t, &old, new)
}

pub async fn getresuid(t: &Task, a: &Args) -> SysResult {
    let c = t.creds();
    for (i, id) in [c.ruid, c.euid, c.suid].into_iter().enumerate() {
        t.mm().write_obj(a.u64(i), &id.0)?;
    }
    Ok(0)
}

pub async fn getresgid(t: &Task, a: &Args) -> SysResult {
    let c = t.creds();
    for (i, id) in [c.rgid, c.egid, c.sgid].into_iter().enumerate() {
        t.mm().write_obj(a.u64(i), &id.0)?;
    }
    Ok(0)
}

/// Returns the old id whether or not it changed anything.
pub async fn setfsuid(t: &Task, a: &Args) -> SysResult {
    let (old, uid) = (t.creds(), Uid(a.uint(0)));
    let allowed =
        old.has_cap(Cap::Setuid) || [old.ruid, old.euid, old.suid, old.fsuid].contains(&uid);
    if uid.0 != UNCHANGED && allowed {
        let mut new = (*old).clone();
        new.fsuid = uid;
        commit(t, &old, new)?;
    }
    Ok(old.fsuid.0.into())
}

pub async fn setfsgid(t: &Task, a: &Args) -> SysResult {
    let (old, gid) = (t.creds(), Gid(a.uint(0)));
    let allowed =
        old.has_cap(Cap::Setgid) || [old.rgid, old.egid, old.sgid, old.fsgid].contains(&gid);
    if gid.0 != UNCHANGED && allowed {
        let mut new = (*old).clone();
        new.fsgid = gid;
        commit(t, &old, new)?;
    }
    Ok(old.fsgid.0.into())
}

const NGROUPS_MAX: usize = 65536;

pub async fn getgroups(t: &Task, a: &Args) -> SysResult {
    let size = usize::try_from(a.int(0)).map_err(|_| Errno::EINVAL)?;
    let creds = t.creds();
    if size == 0 {
        return Ok(creds.groups.len() as u64);
    }
    if size < creds.groups.len() {
        return Err(Errno::EINVAL.into());
    }
    let bytes: Vec<u8> = creds
        .groups
        .iter()
        .flat_map(|g| g.0.to_ne_bytes())
        .collect();
    t.mm().write_bytes(a.u64(1), &bytes)?;
    Ok(creds.groups.len() as u64)
}

pub async fn setgroups(t: &Task, a: &Args) -> SysResult {
    let creds = t.creds();
    if !creds.has_cap(Cap::Setgid) {
        return Err(Errno::EPERM.into());
    }
    let size = usize::try_from(a.int(0)).map_err(|_| Errno::EINVAL)?;
    if size > NGROUPS_MAX {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = vec![0u8; size * 4];
    t.mm().read_bytes(a.u64(1), &mut bytes)?;
    let id = |b: &[u8]| Gid(u32::from_ne_bytes(b.try_into().unwrap_or_default()));
    let mut groups: Vec<Gid> = bytes.chunks_exact(4).map(id).collect();
    if groups.iter().any(|g| g.0 == UNCHANGED) {
        return Err(Errno::EINVAL.into());
    }
    groups.sort_unstable();
    t.set_creds(Credentials {
        groups,
        ..(*creds).clone()
    });
    Ok(0)
}

const CAP_VERSION_1: u32 = 0x1998_0330;
const CAP_VERSION_2: u32 = 0x2007_1026;
const CAP_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Header and the number of data elements. An unknown version is answered with the known one.
fn cap_header(t: &Task, addr: u64) -> Result<(CapHeader, usize)> {
    let header: CapHeader = t.mm().read_obj(addr)?;
    match header.version {
        CAP_VERSION_1 => Ok((header, 1)),
        CAP_VERSION_2 | CAP_VERSION_3 => Ok((header, 2)),
        _ => {
            t.mm().write_obj(addr, &CAP_VERSION_3)?;
            Err(Errno::EINVAL)
        }
    }
}

pub async fn capget(t: &Task, a: &Args) -> SysResult {
    let (header, words) = match cap_header(t, a.u64(0)) {
        // Asking for the version only.
        Err(Errno::EINVAL) if a.u64(1) == 0 => return Ok(0),
        other => other?,
    };
    let creds = match header.pid {
        p if p < 0 => return Err(Errno::EINVAL.into()),
        0 => t.creds(),
        p => t.kernel().tree.task(p).ok_or(Errno::ESRCH)?.creds(),
    };
    if a.u64(1) == 0 {
        return Ok(0);
    }
    let mut data = [CapData::default(); 2];
    for (i, d) in data.iter_mut().enumerate() {
        let part = |set: CapSet| (set.0 >> (32 * i)) as u32;
        *d = CapData {
            effective: part(creds.effective),
            permitted: part(creds.permitted),
            inheritable: part(creds.inheritable),
        };
    }
    t.mm().write_bytes(a.u64(1), data[..words].as_bytes())?;
    Ok(0)
}

pub async fn capset(t: &Task, a: &Args) -> SysResult {
    let (header, words) = cap_header(t, a.u64(0))?;
    if header.pid != 0 && header.pid != t.tid() {
        return Err(Errno::EPERM.into());
    }
    let mut data = [CapData::default(); 2];
    t.mm().read_bytes(a.u64(1), data[..words].as_mut_bytes())?;
    let join = |f: fn(&CapData) -> u32| {
        CapSet((u64::from(f(&data[0])) | u64::from(f(&data[1])) << 32) & CapSet::FULL.0)
    };
    let (effective, permitted, inheritable) = (
        join(|d| d.effective),
        join(|d| d.permitted),
        join(|d| d.inheritable),
    );
    let old = t.creds();
    let within = |set: CapSet, limit: u64| set.0 & !limit == 0;
    let may_inherit = if old.has_cap(Cap::Setpcap) {
        u64::MAX
    } else {
        old.inheritable.0 | old.permitted.0
    };
    if !within(inheritable, may_inherit)
        || !within(inheritable, old.inheritable.0 | old.bounding.0)
        || !within(permitted, old.permitted.0)
        || !within(effective, permitted.0)
    {
        return Err(Errno::EPERM.into());
    }
    let ambient = CapSet(old.ambient.0 & permitted.0 & inheritable.0);
    t.set_creds(Credentials {
        effective,
        permitted,
        inheritable,
        ambient,
        ..(*old).clone()
    });
    Ok(0)
}
