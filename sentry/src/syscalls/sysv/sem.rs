//! Semaphores: semget(2), semop(2), semtimedop(2), semctl(2).

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::errno::{Errno, Error};
use crate::kernel::block::Stop;
use crate::kernel::ipc::ids::PermWords;
use crate::kernel::ipc::sem::{
    Begun, Caller, GREATEST, MOST_IN_SET, MOST_OPS, MOST_SEMS, MOST_SETS, Op, Query, Stat,
};
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::wait::Ready;
use crate::syscalls::signal::read_timespec;
use crate::syscalls::{Args, SysResult};

const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;
const GETPID: i32 = 11;
const GETVAL: i32 = 12;
const GETALL: i32 = 13;
const GETNCNT: i32 = 14;
const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;

/// struct semid64_ds.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct StatWords {
    perm: PermWords,
    otime: i64,
    unused1: u64,
    ctime: i64,
    unused2: u64,
    count: u64,
    unused: [u64; 2],
}

impl From<Stat> for StatWords {
    fn from(stat: Stat) -> StatWords {
        StatWords {
            perm: stat.perm,
            otime: stat.otime,
            unused1: 0,
            ctime: stat.ctime,
            unused2: 0,
            count: stat.count as u64,
            unused: [0; 2],
        }
    }
}

pub async fn semget(t: &Task, a: &Args) -> SysResult {
    let kernel = t.kernel();
    kernel.resources.check_own_memory(&kernel.memory)?;
    let id = kernel
        .ipc
        .sem
        .get(a.int(0), a.int(1), a.uint(2), &t.creds())?;
    Ok(id as u64)
}

pub async fn semop(t: &Task, a: &Args) -> SysResult {
    operate(t, a, None).await
}

pub async fn semtimedop(t: &Task, a: &Args) -> SysResult {
    let timeout = match a.u64(3) {
        0 => None,
        addr => Some(read_timespec(t, addr)?),
    };
    operate(t, a, timeout).await
}

/// `timeout` is in nanoseconds.
async fn operate(t: &Task, a: &Args, timeout: Option<u64>) -> SysResult {
    let (id, count) = (a.int(0), a.uint(2) as usize);
    if count > MOST_OPS {
        return Err(Errno::E2BIG.into());
    }
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = vec![0u8; count * size_of::<Op>()];
    t.mm().read_bytes(a.u64(1), &mut bytes)?;
    let ops = <[Op]>::ref_from_bytes(&bytes).map_or_else(
        |_| {
            let whole = bytes.chunks_exact(size_of::<Op>());
            whole.filter_map(|b| Op::read_from_bytes(b).ok()).collect()
        },
        <[Op]>::to_vec,
    );
    let undo = ops
        .iter()
        .any(|op| i32::from(op.flags) & libc::SEM_UNDO != 0);
    let caller = Caller {
        pid: t.pid(),
        undo: if undo { t.sem_undo_list() } else { None },
    };
    let deadline = timeout.map(|ns| MonoTime::now().after_ns(ns));
    let begun = t.kernel().ipc.sem.begin(id, ops, caller, &t.creds())?;
    let Begun::Sleeps(asleep) = begun else {
        return Ok(0);
    };
    let sleeper = Arc::clone(&asleep.sleeper);
    let wait = t.wait_on(&sleeper.queue, Ready::all(), deadline, || sleeper.outcome());
    // A wait is rare, and each call's future would be as large.
    let stopped = match Box::pin(wait).await {
        Ok(()) => return Ok(0),
        Err(Stop::Failed(errno)) => return Err(errno.into()),
        Err(Stop::TimedOut) => Errno::EAGAIN,
        Err(Stop::Interrupted) => Errno::EINTR,
    };
    // It may have been carried out meanwhile.
    asleep.take_back();
    match sleeper.outcome() {
        Err(Errno::EAGAIN) => Err(Error::Errno(stopped)),
        outcome => Ok(outcome.map(|()| 0)?),
    }
}

pub async fn semctl(t: &Task, a: &Args) -> SysResult {
    let (id, num, cmd, arg) = (a.int(0), a.int(1), a.int(2), a.u64(3));
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let sem = &t.kernel().ipc.sem;
    let creds = t.creds();
    let query = |what| sem.query(id, num, what, &creds).map(|value| value as u64);
    match cmd {
        libc::IPC_INFO | SEM_INFO => {
            let (sets, sems, highest) = sem.counts();
            let now = cmd == SEM_INFO;
            let (all, ops) = (MOST_SEMS as i32, MOST_OPS as i32);
            // semmap, semmni, semmns, semmnu, semmsl, semopm, semume, semusz, semvmx, semaem.
            let info: [i32; 10] = [
                all,
                MOST_SETS as i32,
                all,
                all,
                MOST_IN_SET,
                ops,
                ops,
                if now { sets as i32 } else { 20 },
                GREATEST,
                if now { sems as i32 } else { GREATEST },
            ];
            t.mm().write_obj(arg, &info)?;
            Ok(highest as u64)
        }
        libc::IPC_STAT => {
            let stat = sem.stat(id, &creds)?;
            t.mm().write_obj(arg, &StatWords::from(stat))?;
            Ok(0)
        }
        SEM_STAT | SEM_STAT_ANY => {
            let who = (cmd == SEM_STAT).then_some(&*creds);
            let stat = sem.stat_at(id, who)?;
            let id = stat.id;
            t.mm().write_obj(arg, &StatWords::from(stat))?;
            Ok(id as u64)
        }
        GETVAL => Ok(query(Query::Value)?),
        GETPID => Ok(query(Query::Pid)?),
        GETNCNT => Ok(query(Query::WaitingForMore)?),
        GETZCNT => Ok(query(Query::WaitingForZero)?),
        GETALL => {
            let values = sem.values(id, &creds)?;
            t.mm().write_obj(arg, values.as_slice())?;
            Ok(0)
        }
        SETALL => {
            let mut values = vec![0u16; sem.settable(id, &creds)?];
            t.mm().read_bytes(arg, values.as_mut_bytes())?;
            if values.iter().any(|value| i32::from(*value) > GREATEST) {
                return Err(Errno::ERANGE.into());
            }
            sem.set_values(id, None, &values, t.pid(), &creds)?;
            Ok(0)
        }
        SETVAL => {
            let value = arg as i32;
            if !(0..=GREATEST).contains(&value) {
                return Err(Errno::ERANGE.into());
            }
            sem.set_values(id, Some(num), &[value as u16], t.pid(), &creds)?;
            Ok(0)
        }
        libc::IPC_SET => {
            let new: StatWords = t.mm().read_obj(arg)?;
            sem.set(id, &new.perm, &creds)?;
            Ok(0)
        }
        libc::IPC_RMID => {
            sem.remove(id, &creds)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}
