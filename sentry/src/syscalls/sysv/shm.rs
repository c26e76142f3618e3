//! Shared memory: shmget(2), shmat(2), shmdt(2), shmctl(2).

use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::errno::{Errno, Result};
use crate::kernel::ipc::ids::{PermWords, READ, WRITE};
use crate::kernel::ipc::shm::Stat;
use crate::kernel::task::Task;
use crate::mm::{PAGE_SIZE, Place, page_aligned, page_down};
use crate::syscalls::{Args, SysResult};

const SHM_LOCK: i32 = 11;
const SHM_UNLOCK: i32 = 12;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;
/// Permission to execute, in all three classes.
const EXEC: u32 = 0o111;

/// struct shmid64_ds.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct StatWords {
    perm: PermWords,
    size: u64,
    atime: i64,
    dtime: i64,
    ctime: i64,
    cpid: i32,
    lpid: i32,
    attached: u64,
    unused: [u64; 2],
}

impl From<Stat> for StatWords {
    fn from(stat: Stat) -> StatWords {
        StatWords {
            perm: stat.perm,
            size: stat.size,
            atime: stat.atime,
            dtime: stat.dtime,
            ctime: stat.ctime,
            cpid: stat.cpid,
            lpid: stat.lpid,
            attached: stat.attached,
            unused: [0; 2],
        }
    }
}

pub async fn shmget(t: &Task, a: &Args) -> SysResult {
    let shm = &t.kernel().ipc.shm;
    let id = shm.get(a.int(0), a.u64(1), a.uint(2), &t.creds(), t.pid())?;
    Ok(id as u64)
}

/// Where shmat(2) is to put it. EINVAL.
fn place(addr: u64, flags: i32) -> Result<Place> {
    let over = flags & libc::SHM_REMAP != 0;
    if addr == 0 {
        return if over {
            Err(Errno::EINVAL)
        } else {
            Ok(Place::Anywhere)
        };
    }
    let rounded = page_down(addr);
    if rounded != addr && (flags & libc::SHM_RND == 0 || rounded == 0 && over) {
        return Err(Errno::EINVAL);
    }
    Ok(match rounded {
        // Rounded away: as if it were asked for, which mmap refuses to all but the privileged.
        at if over => Place::Over(at),
        at => Place::Free(at),
    })
}

pub async fn shmat(t: &Task, a: &Args) -> SysResult {
    let (id, flags) = (a.int(0), a.int(2));
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let place = place(a.u64(1), flags)?;
    let (mut prot, mut want) = (libc::PROT_READ, READ);
    if flags & libc::SHM_RDONLY == 0 {
        prot |= libc::PROT_WRITE;
        want |= WRITE;
    }
    if flags & libc::SHM_EXEC != 0 {
        prot |= libc::PROT_EXEC;
        want |= EXEC;
    }
    let pin = t.kernel().ipc.shm.pin(id, &t.creds(), want)?;
    Ok(t.mm().attach(pin.segment(), place, prot)?)
}

pub async fn shmdt(t: &Task, a: &Args) -> SysResult {
    if !page_aligned(a.u64(0)) {
        return Err(Errno::EINVAL.into());
    }
    t.mm().detach(a.u64(0))?;
    Ok(0)
}

pub async fn shmctl(t: &Task, a: &Args) -> SysResult {
    let (id, cmd, buf) = (a.int(0), a.int(1), a.u64(2));
    if id < 0 || cmd < 0 {
        return Err(Errno::EINVAL.into());
    }
    let shm = &t.kernel().ipc.shm;
    let creds = t.creds();
    match cmd {
        libc::IPC_INFO => {
            let settings = &shm.settings;
            // shmmax, shmmin, shmmni, shmseg, shmall, four unused.
            let most = settings.shmmni.load(Ordering::Relaxed) as u64;
            let max = settings.shmmax.load(Ordering::Relaxed);
            let all = settings.shmall.load(Ordering::Relaxed);
            let info = [max, 1, most, most, all, 0, 0, 0, 0];
            t.mm().write_obj(buf, &info)?;
            Ok(shm.sums().highest as u64)
        }
        SHM_INFO => {
            let sums = shm.sums();
            // used_ids, shm_tot, shm_rss, shm_swp, and two that Linux no longer counts.
            let info = [sums.count as u64, sums.pages, sums.resident, 0, 0, 0];
            t.mm().write_obj(buf, &info)?;
            Ok(sums.highest as u64)
        }
        libc::IPC_STAT => {
            let stat = shm.stat(id, &creds)?;
            t.mm().write_obj(buf, &StatWords::from(stat))?;
            Ok(0)
        }
        SHM_STAT | SHM_STAT_ANY => {
            let who = (cmd == SHM_STAT).then_some(&*creds);
            let stat = shm.stat_at(id, who)?;
            let id = stat.id;
            t.mm().write_obj(buf, &StatWords::from(stat))?;
            Ok(id as u64)
        }
        libc::IPC_SET => {
            let new: StatWords = t.mm().read_obj(buf)?;
            shm.set(id, &new.perm, &creds)?;
            Ok(0)
        }
        libc::IPC_RMID => {
            shm.remove(id, &creds)?;
            Ok(0)
        }
        SHM_LOCK | SHM_UNLOCK => {
            let limit = t.group().limits.lock().soft(libc::RLIMIT_MEMLOCK);
            shm.lock(id, cmd == SHM_LOCK, &creds, limit)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

const _: () = assert!(size_of::<StatWords>() == 112 && PAGE_SIZE == 4096);
