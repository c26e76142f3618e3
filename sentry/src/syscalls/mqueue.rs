//! POSIX message queues: `mq_*`.

use std::sync::Arc;

use super::signal::read_timespec;
use super::{Args, SysResult};
use crate::errno::{Errno, Restart, Result};
use crate::fs::fdtable::Exec;
use crate::fs::file::File;
use crate::fs::inode::{FileType, LookupHint, OpenFlags};
use crate::fs::mqueue::{self, Message, Notification, Queue, Size};
use crate::fs::open::open_plain;
use crate::fs::path::PathRef;
use crate::fs::perm::{self, Access};
use crate::fs::walk::{Base, Ctx};
use crate::kernel::task::Task;
use crate::kernel::time::{MonoTime, clock_ns};
use crate::kernel::wait::Ready;

/// Longest name.
const NAME_MAX: usize = 255;
/// Longs of struct mq_attr: flags, most messages, bytes in each, messages now, four unused.
type MqAttr = [i64; 8];

/// A name in the directory of queues: without a slash, which the C library takes away.
fn name(t: &Task, addr: u64) -> Result<Vec<u8>> {
    let name = t.with_mm(|mm| mm.read_cstr(addr, libc::PATH_MAX as usize))?;
    match name.as_slice() {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        name if name.contains(&b'/') => Err(Errno::EACCES),
        name if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        _ => Ok(name),
    }
}

pub async fn mq_open(t: &Task, a: &Args) -> SysResult {
    let size = match a.u64(3) {
        0 => None,
        addr => {
            let attr: MqAttr = t.mm().read_obj(addr)?;
            Some(Size {
                messages: attr[1],
                bytes: attr[2],
            })
        }
    };
    let name = name(t, a.u64(0))?;
    let flags = OpenFlags::from_bits_truncate(a.int(1));
    let file = open(t, &name, flags, a.uint(2), size)?;
    // It never passes on to another program.
    Ok(t.add_file(file, Exec::Close)? as u64)
}

fn open(
    t: &Task,
    name: &[u8],
    flags: OpenFlags,
    perm: u32,
    size: Option<Size>,
) -> Result<Arc<File>> {
    let ctx = Ctx::of(t);
    let place = &t.kernel().mqueues;
    let root = place.root();
    let lock = root.dentry.lock_dir();
    let found = root.dentry.lookup_locked(&[name], LookupHint::None)?;
    let dentry = match found {
        Some(_) if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) => {
            return Err(Errno::EEXIST);
        }
        Some(dentry) => {
            let want = match flags.bits() & libc::O_ACCMODE {
                libc::O_RDONLY => Access::READ,
                libc::O_WRONLY => Access::WRITE,
                libc::O_RDWR => Access::READ | Access::WRITE,
                _ => return Err(Errno::EINVAL),
            };
            perm::check(dentry.inode(), &ctx.creds, want)?;
            dentry
        }
        None if !flags.contains(OpenFlags::CREAT) => return Err(Errno::ENOENT),
        None => {
            let attr = ctx.may_create(root)?;
            let node = ctx.new_node(&attr, perm, FileType::Regular);
            let inode = place.queues.make(name, &node, size, t)?;
            root.dentry.add_child(name, inode)
        }
    };
    drop(lock);
    let access = OpenFlags::from_bits_retain(flags.bits() & libc::O_ACCMODE);
    let flags = access | flags & OpenFlags::NONBLOCK;
    open_plain(PathRef::new(root.mount.clone(), dentry), flags)
}

pub async fn mq_unlink(t: &Task, a: &Args) -> SysResult {
    let name = name(t, a.u64(0))?;
    let root = t.kernel().mqueues.root().clone();
    Ctx::of(t).unlink(&Base::At(root), &name)?;
    Ok(0)
}

/// The queue behind a descriptor that is open for `access`. EBADF.
fn queue(t: &Task, fd: i32, access: fn(OpenFlags) -> bool) -> Result<(Arc<File>, Arc<Queue>)> {
    let file = t.file(fd)?;
    let open: &mqueue::Open = file.downcast().ok_or(Errno::EBADF)?;
    let queue = open.queue().clone();
    if !access(file.flags()) {
        return Err(Errno::EBADF);
    }
    Ok((file, queue))
}

/// An absolute time of the real clock; without one there is no end.
fn deadline(t: &Task, addr: u64) -> Result<Option<MonoTime>> {
    if addr == 0 {
        return Ok(None);
    }
    let until = read_timespec(t, addr)?;
    let now = clock_ns(nix::time::ClockId::CLOCK_REALTIME);
    Ok(Some(MonoTime::now().after_ns(until.saturating_sub(now))))
}

pub async fn mq_timedsend(t: &Task, a: &Args) -> SysResult {
    let until = deadline(t, a.u64(4))?;
    let (len, priority) = (a.len(2), a.uint(3));
    if priority >= mqueue::PRIORITIES {
        return Err(Errno::EINVAL.into());
    }
    let (file, queue) = queue(t, a.int(0), OpenFlags::writable)?;
    if i64::try_from(len).map_or(true, |len| len > queue.size().bytes) {
        return Err(Errno::EMSGSIZE.into());
    }
    let mut text = vec![0; len];
    t.mm().read_bytes(a.u64(1), &mut text)?;
    let message = Message { priority, text };
    let sent = queue.send(&message, t);
    if sent != Err(Errno::EAGAIN) || file.nonblocking() {
        return Ok(sent.map(|()| 0)?);
    }
    let interest = Ready::OUT | Ready::WRNORM;
    // A wait is rare, and each call's future would be as large.
    Box::pin(t.wait_on(queue.wait_queue(), interest, until, || {
        queue.send(&message, t)
    }))
    .await
    .map_err(|stop| stop.with(Restart::Sys, Errno::ETIMEDOUT))?;
    Ok(0)
}

pub async fn mq_timedreceive(t: &Task, a: &Args) -> SysResult {
    let until = deadline(t, a.u64(4))?;
    let (file, queue) = queue(t, a.int(0), OpenFlags::readable)?;
    if i64::try_from(a.len(2)).is_ok_and(|len| len < queue.size().bytes) {
        return Err(Errno::EMSGSIZE.into());
    }
    let message = match queue.receive() {
        Err(Errno::EAGAIN) if !file.nonblocking() => {
            let _waits = queue.receiver();
            let interest = Ready::IN | Ready::RDNORM;
            let wait = t.wait_on(queue.wait_queue(), interest, until, || queue.receive());
            let received = Box::pin(wait).await;
            received.map_err(|stop| stop.with(Restart::Sys, Errno::ETIMEDOUT))?
        }
        received => received?,
    };
    if a.u64(3) != 0 {
        t.mm().write_obj(a.u64(3), &message.priority)?;
    }
    t.mm().write_bytes(a.u64(1), &message.text)?;
    Ok(message.text.len() as u64)
}

pub async fn mq_notify(t: &Task, a: &Args) -> SysResult {
    let what = match a.u64(1) {
        0 => None,
        addr => {
            let event: [u64; 8] = t.mm().read_obj(addr)?;
            let (number, kind) = (event[1] as i32, (event[1] >> 32) as i32);
            Some(match kind {
                libc::SIGEV_NONE => Notification::Nothing,
                libc::SIGEV_SIGNAL if !(0..=64).contains(&number) => {
                    return Err(Errno::EINVAL.into());
                }
                libc::SIGEV_SIGNAL => Notification::Signal {
                    number,
                    value: event[0],
                },
                // SIGEV_THREAD names a netlink socket: there is none of which the kernel could know.
                _ => return Err(Errno::EINVAL.into()),
            })
        }
    };
    let (_, queue) = queue(t, a.int(0), |_| true)?;
    queue.notify(t, what)?;
    Ok(0)
}

pub async fn mq_getsetattr(t: &Task, a: &Args) -> SysResult {
    let new = match a.u64(1) {
        0 => None,
        addr => {
            let attr: MqAttr = t.mm().read_obj(addr)?;
            if attr[0] & !i64::from(libc::O_NONBLOCK) != 0 {
                return Err(Errno::EINVAL.into());
            }
            Some(attr[0] != 0)
        }
    };
    let (file, queue) = queue(t, a.int(0), |_| true)?;
    let size = queue.size();
    let old = file.flags();
    let attr: MqAttr = [
        i64::from((old & OpenFlags::NONBLOCK).bits()),
        size.messages,
        size.bytes,
        queue.count() as i64,
        0,
        0,
        0,
        0,
    ];
    if let Some(nonblocking) = new {
        let mut flags = old;
        flags.set(OpenFlags::NONBLOCK, nonblocking);
        file.set_flags(flags);
    }
    if a.u64(2) != 0 {
        t.mm().write_obj(a.u64(2), &attr)?;
    }
    Ok(0)
}
