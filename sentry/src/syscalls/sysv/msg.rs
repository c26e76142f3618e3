//! Message queues: msgget(2), msgsnd(2), msgrcv(2), msgctl(2).

use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::errno::{Errno, Error, Restart};
use crate::kernel::block::Stop;
use crate::kernel::ipc::ids::PermWords;
use crate::kernel::ipc::msg::{Long, Message, Stat, Want};
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::syscalls::{Args, SysResult};

const MSG_NOERROR: i32 = 0o10000;
const MSG_EXCEPT: i32 = 0o20000;
const MSG_COPY: i32 = 0o40000;
const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;
/// Bytes of the type that stands before a message's text.
const KIND_LEN: u64 = 8;

/// struct msqid64_ds.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct StatWords {
    perm: PermWords,
    stime: i64,
    rtime: i64,
    ctime: i64,
    bytes: u64,
    count: u64,
    most_bytes: u64,
    lspid: i32,
    lrpid: i32,
    unused: [u64; 2],
}

impl From<Stat> for StatWords {
    fn from(stat: Stat) -> StatWords {
        StatWords {
            perm: stat.perm,
            stime: stat.stime,
            rtime: stat.rtime,
            ctime: stat.ctime,
            bytes: stat.bytes,
            count: stat.count,
            most_bytes: stat.most_bytes,
            lspid: stat.lspid,
            lrpid: stat.lrpid,
            unused: [0; 2],
        }
    }
}

pub async fn msgget(t: &Task, a: &Args) -> SysResult {
    let kernel = t.kernel();
    kernel.resources.check_own_memory(&kernel.memory)?;
    let id = kernel.ipc.msg.get(a.int(0), a.uint(1), &t.creds())?;
    Ok(id as u64)
}

/// How a wait ends: a queue that is gone was there when it began.
fn ended(stop: Stop) -> Error {
    match stop {
        Stop::Failed(Errno::EINVAL) => Error::Errno(Errno::EIDRM),
        stop => stop.with(Restart::NoHand, Errno::EAGAIN),
    }
}

pub async fn msgsnd(t: &Task, a: &Args) -> SysResult {
    let (id, at, size, flags) = (a.int(0), a.u64(1), a.i64(2), a.int(3));
    let kind: i64 = t.mm().read_obj(at)?;
    let msg = &t.kernel().ipc.msg;
    let most = msg.settings.msgmax.load(Ordering::Relaxed);
    if !(0..=most).contains(&size) || id < 0 || kind < 1 {
        return Err(Errno::EINVAL.into());
    }
    let mut text = vec![0; size as usize];
    t.mm().read_bytes(at.wrapping_add(KIND_LEN), &mut text)?;
    let mut message = Message { kind, text };
    let queue = msg.wait_queue(id)?;
    let mut send = || msg.send(id, &mut message, t.pid(), &t.creds());
    let sent = send();
    if sent != Err(Errno::EAGAIN) || flags & libc::IPC_NOWAIT != 0 {
        return Ok(sent.map(|()| 0)?);
    }
    // A wait is rare, and each call's future would be as large.
    let wait = t.wait_on(&queue, Ready::OUT, None, send);
    Box::pin(wait).await.map_err(ended)?;
    Ok(0)
}

/// Which message is wanted. EINVAL for flags that exclude each other.
fn want(kind: i64, flags: i32) -> Result<Want, Errno> {
    if flags & MSG_COPY != 0 {
        if flags & MSG_EXCEPT != 0 || flags & libc::IPC_NOWAIT == 0 {
            return Err(Errno::EINVAL);
        }
        return Ok(Want::CopyOf(kind));
    }
    Ok(match kind {
        0 => Want::Any,
        ..0 => Want::UpTo(kind.checked_neg().unwrap_or(i64::MAX)),
        kind if flags & MSG_EXCEPT != 0 => Want::AllBut(kind),
        kind => Want::Kind(kind),
    })
}

pub async fn msgrcv(t: &Task, a: &Args) -> SysResult {
    let (id, at, size, flags) = (a.int(0), a.u64(1), a.i64(2), a.int(4));
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let want = want(a.i64(3), flags)?;
    let long = match flags & MSG_NOERROR {
        0 => Long::Refuse,
        _ => Long::Cut,
    };
    let msg = &t.kernel().ipc.msg;
    let queue = msg.wait_queue(id)?;
    let receive = || msg.receive(id, want, size, long, t.pid(), &t.creds());
    let message = match receive() {
        Err(Errno::EAGAIN) if flags & libc::IPC_NOWAIT != 0 => return Err(Errno::ENOMSG.into()),
        Err(Errno::EAGAIN) => {
            let wait = t.wait_on(&queue, Ready::IN, None, receive);
            Box::pin(wait).await.map_err(ended)?
        }
        received => received?,
    };
    let text = message.text.get(..size).unwrap_or(&message.text);
    t.mm().write_obj(at, &message.kind)?;
    t.mm().write_bytes(at.wrapping_add(KIND_LEN), text)?;
    Ok(text.len() as u64)
}

pub async fn msgctl(t: &Task, a: &Args) -> SysResult {
    let (id, cmd, buf) = (a.int(0), a.int(1), a.u64(2));
    if id < 0 || cmd < 0 {
        return Err(Errno::EINVAL.into());
    }
    let msg = &t.kernel().ipc.msg;
    let creds = t.creds();
    match cmd {
        libc::IPC_INFO | MSG_INFO => {
            let sums = msg.sums();
            let get = |setting: &std::sync::atomic::AtomicI64| setting.load(Ordering::Relaxed);
            let settings = &msg.settings;
            let (max, mnb) = (get(&settings.msgmax) as i32, get(&settings.msgmnb) as i32);
            let mni = get(&settings.msgmni) as i32;
            let (pool, map, tql) = match cmd {
                MSG_INFO => (sums.queues as i32, sums.messages as i32, sums.bytes as i32),
                _ => (mni.saturating_mul(mnb / 1024), mnb, mnb),
            };
            // msgpool, msgmap, msgmax, msgmnb, msgmni, msgssz, msgtql, msgseg (a short).
            let info: [i32; 8] = [pool, map, max, mnb, mni, 16, tql, 0xffff];
            t.mm().write_obj(buf, &info)?;
            Ok(sums.highest as u64)
        }
        libc::IPC_STAT => {
            let stat = msg.stat(id, &creds)?;
            t.mm().write_obj(buf, &StatWords::from(stat))?;
            Ok(0)
        }
        MSG_STAT | MSG_STAT_ANY => {
            let who = (cmd == MSG_STAT).then_some(&*creds);
            let stat = msg.stat_at(id, who)?;
            let id = stat.id;
            t.mm().write_obj(buf, &StatWords::from(stat))?;
            Ok(id as u64)
        }
        libc::IPC_SET => {
            let new: StatWords = t.mm().read_obj(buf)?;
            msg.set(id, &new.perm, new.most_bytes, &creds)?;
            Ok(0)
        }
        libc::IPC_RMID => {
            msg.remove(id, &creds)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}
