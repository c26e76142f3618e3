//! Sockets: making and connecting them here, data in [`message`], options in [`options`].
//!
//! What a family of sockets is and does is [`crate::net`]'s.

mod message;
mod options;

use std::sync::Arc;

pub(super) use message::read_enough;
pub use message::{recvfrom, recvmmsg, recvmsg, sendmmsg, sendmsg, sendto};
pub use options::{getsockopt, setsockopt};

use crate::errno::{Errno, Result};
use crate::fs::fdtable::Exec;
use crate::fs::file::File;
use crate::fs::inode::OpenFlags;
use crate::kernel::block::Stop;
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::net::socket::MAX_NAME;
use crate::net::{self, Connect, Name, Socket};
use crate::syscalls::{Args, SysResult};

/// An open socket.
fn socket_file(t: &Task, fd: i32) -> Result<Arc<File>> {
    let file = t.file(fd)?;
    net::of(&file)?;
    Ok(file)
}

fn socket_of(t: &Task, fd: i32) -> Result<Arc<dyn Socket>> {
    Ok(net::of(&*t.file(fd)?)?.clone())
}

/// Type and flags of socket(2) and socketpair(2).
fn parse(bits: i32) -> Result<(i32, OpenFlags)> {
    let flags = OpenFlags::from_bits_retain(bits & !0xf);
    if !(OpenFlags::NONBLOCK | OpenFlags::CLOEXEC).contains(flags) {
        return Err(Errno::EINVAL);
    }
    Ok((bits & 0xf, flags))
}

pub async fn socket(t: &Task, a: &Args) -> SysResult {
    let (kind, flags) = parse(a.int(1))?;
    let socket = net::make(t, a.int(0), kind, a.int(2))?;
    let file = net::into_file(socket, flags - OpenFlags::CLOEXEC);
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
    let (kind, flags) = parse(a.int(1))?;
    let pair = net::make_pair(t, a.int(0), kind, a.int(2))?;
    let files = pair.map(|socket| net::into_file(socket, flags - OpenFlags::CLOEXEC));
    install_pair(t, files, Exec::from_flags(flags), a.u64(3))?;
    Ok(0)
}

/// Reads an address of `len` bytes. EINVAL, EFAULT.
fn read_address(t: &Task, addr: u64, len: u32) -> Result<Name> {
    let len = len as usize;
    if len > MAX_NAME {
        return Err(Errno::EINVAL);
    }
    let mut raw = [0u8; MAX_NAME];
    if len > 0 {
        t.mm().read_bytes(addr, &mut raw[..len])?;
    }
    Name::new(&raw[..len])
}

/// Writes an address as far as it fits and its whole length. `len_addr`: in and out.
fn write_address(t: &Task, raw: &[u8], addr: u64, len_addr: u64) -> Result<()> {
    let room: i32 = t.mm().read_obj(len_addr)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    t.mm().write_bytes(addr, &raw[..raw.len().min(room)])?;
    t.mm().write_obj(len_addr, &(raw.len() as u32))
}

pub async fn bind(t: &Task, a: &Args) -> SysResult {
    let socket = socket_of(t, a.int(0))?;
    socket.bind(t, &read_address(t, a.u64(1), a.uint(2))?)?;
    Ok(0)
}

pub async fn listen(t: &Task, a: &Args) -> SysResult {
    socket_of(t, a.int(0))?.listen(t, a.int(1))?;
    Ok(0)
}

async fn accept_any(t: &Task, a: &Args, bits: i32) -> SysResult {
    let flags = OpenFlags::from_bits_retain(bits);
    if !(OpenFlags::NONBLOCK | OpenFlags::CLOEXEC).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let file = socket_file(t, a.int(0))?;
    let socket = net::of(&file)?;
    let common = socket.common();
    let child = match socket.accept() {
        Err(Errno::EAGAIN) if !file.nonblocking() => {
            let until = common.deadline(Ready::IN);
            t.wait_on(&common.queue, Ready::IN, until, || socket.accept())
                .await
                .map_err(|stop| stop.restart())?
        }
        other => other?,
    };
    let peer = child.peer_name();
    let new = net::into_file(child, flags - OpenFlags::CLOEXEC);
    if a.u64(1) != 0 {
        // A peer that is gone again.
        let peer = peer.map_err(|_| Errno::ECONNABORTED)?;
        write_address(t, peer.bytes(), a.u64(1), a.u64(2))?;
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
    let socket = net::of(&file)?;
    let to = read_address(t, a.u64(1), a.uint(2))?;
    match socket.connect(t, &to)? {
        Connect::Done => {}
        Connect::Later { otherwise, .. } if file.nonblocking() => return Err(otherwise.into()),
        Connect::Later {
            on,
            attempt,
            otherwise,
        } => {
            let until = socket.common().deadline(Ready::OUT);
            let queue = &on.common().queue;
            t.wait_on(queue, Ready::OUT, until, attempt)
                .await
                .map_err(|stop| match stop {
                    // SO_SNDTIMEO: as if it had not waited.
                    Stop::TimedOut => otherwise.into(),
                    stop => stop.restart(),
                })?;
        }
    }
    Ok(0)
}

pub async fn getsockname(t: &Task, a: &Args) -> SysResult {
    let name = socket_of(t, a.int(0))?.local_name()?;
    write_address(t, name.bytes(), a.u64(1), a.u64(2))?;
    Ok(0)
}

pub async fn getpeername(t: &Task, a: &Args) -> SysResult {
    let name = socket_of(t, a.int(0))?.peer_name()?;
    write_address(t, name.bytes(), a.u64(1), a.u64(2))?;
    Ok(0)
}

pub async fn shutdown(t: &Task, a: &Args) -> SysResult {
    let socket = socket_of(t, a.int(0))?;
    let (read, write) = match a.int(1) {
        libc::SHUT_RD => (true, false),
        libc::SHUT_WR => (false, true),
        libc::SHUT_RDWR => (true, true),
        _ => return Err(Errno::EINVAL.into()),
    };
    socket.shutdown(read, write)?;
    Ok(0)
}
