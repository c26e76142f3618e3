//! Sockets: making and connecting them here, data in [`message`], options in [`options`].
//!
//! One family so far, AF_UNIX ([`crate::net::unix`]); others give EAFNOSUPPORT.

mod message;
mod options;

use std::sync::Arc;

pub use message::{recvfrom, recvmmsg, recvmsg, sendmmsg, sendmsg, sendto};
pub use options::{getsockopt, setsockopt};

use crate::errno::{Errno, Result};
use crate::fs::change::Make;
use crate::fs::fdtable::Exec;
use crate::fs::file::File;
use crate::fs::inode::{Dev, FileType, OpenFlags};
use crate::fs::perm::{self, Access};
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::wait::Ready;
use crate::net::unix::{Address, Kind, Ucred, Unix, address};
use crate::syscalls::{Args, SysResult};

/// sizeof(struct sockaddr_storage): the longest address taken.
const MAX_ADDRESS: usize = 128;

/// An open socket.
fn socket_file(t: &Task, fd: i32) -> Result<Arc<File>> {
    let file = t.file(fd)?;
    Unix::of(&file)?;
    Ok(file)
}

/// Family, type and flags of socket(2) and socketpair(2).
fn parse(a: &Args) -> Result<(Kind, OpenFlags)> {
    let bits = a.int(1);
    let flags = OpenFlags::from_bits_retain(bits & !0xf);
    if !(OpenFlags::NONBLOCK | OpenFlags::CLOEXEC).contains(flags) {
        return Err(Errno::EINVAL);
    }
    if a.int(0) != libc::AF_UNIX {
        return Err(Errno::EAFNOSUPPORT);
    }
    if !matches!(a.int(2), 0 | libc::AF_UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Ok((Kind::from_number(bits & 0xf)?, flags))
}

pub async fn socket(t: &Task, a: &Args) -> SysResult {
    let (kind, flags) = parse(a)?;
    let file = Unix::new(kind).into_file(flags - OpenFlags::CLOEXEC);
    Ok(t.add_file(file, Exec::from_flags(flags))? as u64)
}

/// Installs two files and tells their numbers; neither stays if that fails.
fn install_pair(t: &Task, files: [Arc<File>; 2], exec: Exec, addr: u64) -> Result<()> {
    let table = t.files();
    let [a, b] = files;
    let first = t.add_file(a, exec)?;
    let second = match t.add_file(b, exec) {
        Ok(second) => second,
        Err(e) => {
            table.close(first)?;
            return Err(e);
        }
    };
    if let Err(e) = t.mm().write_obj(addr, &[first, second]) {
        table.close(first)?;
        table.close(second)?;
        return Err(e);
    }
    Ok(())
}

pub async fn socketpair(t: &Task, a: &Args) -> SysResult {
    let (kind, flags) = parse(a)?;
    let (one, two) = Unix::pair(kind, Ucred::of(t));
    let open = flags - OpenFlags::CLOEXEC;
    let files = [one.into_file(open), two.into_file(open)];
    install_pair(t, files, Exec::from_flags(flags), a.u64(3))?;
    Ok(0)
}

/// Reads an address of `len` bytes. EINVAL, EFAULT.
fn read_address(t: &Task, addr: u64, len: u32) -> Result<Vec<u8>> {
    let len = len as usize;
    if len > MAX_ADDRESS {
        return Err(Errno::EINVAL);
    }
    let mut raw = vec![0u8; len];
    if len > 0 {
        t.mm().read_bytes(addr, &mut raw)?;
    }
    Ok(raw)
}

/// Writes an address as far as it fits and its whole length. `len_addr`: in and out.
fn write_address(t: &Task, raw: &[u8], addr: u64, len_addr: u64) -> Result<()> {
    let room: i32 = t.mm().read_obj(len_addr)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    t.mm().write_bytes(addr, &raw[..raw.len().min(room)])?;
    t.mm().write_obj(len_addr, &(raw.len() as u32))
}

/// The socket that an address names, for one of type `kind`. ECONNREFUSED and what the walk says.
fn find(t: &Task, kind: Kind, to: &Address) -> Result<Arc<Unix>> {
    match to {
        Address::Abstract(name) => address::find(kind, name),
        Address::Path(path) => {
            let ctx = Ctx::new(&t.fs(), t.creds());
            let place = ctx.lookup(&Base::Cwd, path, WalkFlags::FOLLOW)?;
            perm::check(place.inode(), &ctx.creds, Access::WRITE)?;
            if place.inode().kind() != FileType::Socket {
                return Err(Errno::ECONNREFUSED);
            }
            Unix::at_inode(&**place.inode())
        }
    }
}

pub async fn bind(t: &Task, a: &Args) -> SysResult {
    let file = socket_file(t, a.int(0))?;
    let socket = Unix::of(&file)?;
    let raw = read_address(t, a.u64(1), a.uint(2))?;
    match Address::decode(&raw)? {
        None => socket.bind_abstract(None)?,
        Some(Address::Abstract(name)) => socket.bind_abstract(Some(&name))?,
        Some(Address::Path(path)) => {
            if socket.address().is_some() {
                return Err(Errno::EINVAL.into());
            }
            let ctx = Ctx::new(&t.fs(), t.creds());
            let node = Make::Node(FileType::Socket, Dev::default());
            let made = ctx.make(&Base::Cwd, &path, node, 0o777);
            let place = made.map_err(|e| match e {
                Errno::EEXIST => Errno::EADDRINUSE,
                e => e,
            })?;
            socket.bind_inode(path, place.inode())?;
        }
    }
    Ok(0)
}

pub async fn listen(t: &Task, a: &Args) -> SysResult {
    let file = socket_file(t, a.int(0))?;
    Unix::of(&file)?.listen(a.int(1), Ucred::of(t))?;
    Ok(0)
}

/// SO_RCVTIMEO or SO_SNDTIMEO as a deadline.
fn deadline(timeout_ns: u64) -> Option<MonoTime> {
    (timeout_ns > 0).then(|| MonoTime::now().after_ns(timeout_ns))
}

async fn accept_any(t: &Task, a: &Args, bits: i32) -> SysResult {
    let flags = OpenFlags::from_bits_retain(bits);
    if !(OpenFlags::NONBLOCK | OpenFlags::CLOEXEC).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let file = socket_file(t, a.int(0))?;
    let socket = Unix::of(&file)?;
    let child = match socket.accept() {
        Err(Errno::EAGAIN) if !file.nonblocking() => {
            let until = deadline(socket.options.lock().receive_timeout_ns);
            t.wait_on(socket.queue(), Ready::IN, until, || socket.accept())
                .await
                .map_err(|stop| stop.restart())?
        }
        other => other?,
    };
    let peer = child.peer_address().unwrap_or_default();
    let new = child.into_file(flags - OpenFlags::CLOEXEC);
    if a.u64(1) != 0 {
        write_address(t, &Address::encode(peer.as_ref()), a.u64(1), a.u64(2))?;
    }
    Ok(t.add_file(new, Exec::from_flags(flags))? as u64)
}

pub async fn accept(t: &Task, a: &Args) -> SysResult {
    accept_any(t, a, 0).await
}

pub async fn accept4(t: &Task, a: &Args) -> SysResult {
    accept_any(t, a, a.int(3)).await
}

pub async fn connect(t: &Task, a: &Args) -> SysResult {
    let file = socket_file(t, a.int(0))?;
    let socket = Unix::of(&file)?;
    let raw = read_address(t, a.u64(1), a.uint(2))?;
    let unspecified = (libc::AF_UNSPEC as u16).to_ne_bytes();
    if raw.len() >= 2 && raw[..2] == unspecified {
        socket.disconnect()?;
        return Ok(0);
    }
    let to = Address::decode(&raw)?.ok_or(Errno::EINVAL)?;
    let target = find(t, socket.kind(), &to)?;
    let creds = Ucred::of(t);
    match socket.connect(&target, creds) {
        Err(Errno::EAGAIN) if !file.nonblocking() => {
            let until = deadline(socket.options.lock().send_timeout_ns);
            t.wait_on(target.queue(), Ready::OUT, until, || {
                socket.connect(&target, creds)
            })
            .await
            .map_err(|stop| stop.restart())?;
        }
        other => other?,
    }
    Ok(0)
}

pub async fn getsockname(t: &Task, a: &Args) -> SysResult {
    let file = socket_file(t, a.int(0))?;
    let raw = Address::encode(Unix::of(&file)?.address().as_ref());
    write_address(t, &raw, a.u64(1), a.u64(2))?;
    Ok(0)
}

pub async fn getpeername(t: &Task, a: &Args) -> SysResult {
    let file = socket_file(t, a.int(0))?;
    let raw = Address::encode(Unix::of(&file)?.peer_address()?.as_ref());
    write_address(t, &raw, a.u64(1), a.u64(2))?;
    Ok(0)
}

pub async fn shutdown(t: &Task, a: &Args) -> SysResult {
    let file = socket_file(t, a.int(0))?;
    let (read, write) = match a.int(1) {
        libc::SHUT_RD => (true, false),
        libc::SHUT_WR => (false, true),
        libc::SHUT_RDWR => (true, true),
        _ => return Err(Errno::EINVAL.into()),
    };
    Unix::of(&file)?.shutdown(read, write);
    Ok(0)
}
