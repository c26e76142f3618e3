//! getsockopt(2), setsockopt(2): level SOL_SOCKET.

use super::socket_file;
use crate::errno::{Errno, Result};
use crate::kernel::task::Task;
use crate::net::unix::{Options, Unix};
use crate::syscalls::{Args, SysResult};

/// /proc/sys/net/core/wmem_max and rmem_max, and the least Linux sets.
const MAX_BUFFER: usize = 212_992;
const MIN_SEND: usize = 4608;
const MIN_RECEIVE: usize = 2304;
const NS: u64 = 1_000_000_000;

fn read_int(t: &Task, addr: u64, len: i32) -> Result<i32> {
    if len < 4 {
        return Err(Errno::EINVAL);
    }
    t.mm().read_obj(addr)
}

/// Linux doubles what is asked for.
fn buffer(value: i32, min: usize) -> usize {
    let asked = usize::try_from(value).unwrap_or(MAX_BUFFER).min(MAX_BUFFER);
    (asked * 2).max(min)
}

fn read_timeout(t: &Task, addr: u64, len: i32) -> Result<u64> {
    if len < 16 {
        return Err(Errno::EINVAL);
    }
    let [sec, usec]: [i64; 2] = t.mm().read_obj(addr)?;
    if !(0..1_000_000).contains(&usec) {
        return Err(Errno::EDOM);
    }
    // Negative: at once.
    let Ok(sec) = u64::try_from(sec) else {
        return Ok(1);
    };
    Ok(sec.saturating_mul(NS).saturating_add(usec as u64 * 1000))
}

pub async fn setsockopt(t: &Task, a: &Args) -> SysResult {
    let file = socket_file(t, a.int(0))?;
    let socket = Unix::of(&file)?;
    let (name, addr, len) = (a.int(2), a.u64(3), a.int(4));
    if a.int(1) != libc::SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let change: Box<dyn FnOnce(&mut Options)> = match name {
        libc::SO_RCVTIMEO | libc::SO_SNDTIMEO => {
            let ns = read_timeout(t, addr, len)?;
            Box::new(move |o| match name {
                libc::SO_RCVTIMEO => o.receive_timeout_ns = ns,
                _ => o.send_timeout_ns = ns,
            })
        }
        libc::SO_SNDBUF | libc::SO_SNDBUFFORCE => {
            let v = read_int(t, addr, len)?;
            Box::new(move |o| o.send_buffer = buffer(v, MIN_SEND))
        }
        libc::SO_RCVBUF | libc::SO_RCVBUFFORCE => {
            let v = read_int(t, addr, len)?;
            Box::new(move |o| o.receive_buffer = buffer(v, MIN_RECEIVE))
        }
        libc::SO_PASSCRED => {
            let v = read_int(t, addr, len)? != 0;
            Box::new(move |o| o.pass_creds = v)
        }
        libc::SO_REUSEADDR => {
            let v = read_int(t, addr, len)? != 0;
            Box::new(move |o| o.reuse_address = v)
        }
        libc::SO_KEEPALIVE => {
            let v = read_int(t, addr, len)? != 0;
            Box::new(move |o| o.keep_alive = v)
        }
        libc::SO_BROADCAST => {
            let v = read_int(t, addr, len)? != 0;
            Box::new(move |o| o.broadcast = v)
        }
        // No effect on unix sockets.
        libc::SO_PRIORITY
        | libc::SO_LINGER
        | libc::SO_RCVLOWAT
        | libc::SO_TIMESTAMP
        | libc::SO_DONTROUTE
        | libc::SO_OOBINLINE
        | libc::SO_PASSSEC => {
            read_int(t, addr, len)?;
            Box::new(|_| {})
        }
        _ => return Err(Errno::ENOPROTOOPT.into()),
    };
    change(&mut socket.options.lock());
    Ok(0)
}

pub async fn getsockopt(t: &Task, a: &Args) -> SysResult {
    let file = socket_file(t, a.int(0))?;
    let socket = Unix::of(&file)?;
    let room: i32 = t.mm().read_obj(a.u64(4))?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    if a.int(1) != libc::SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let o = *socket.options.lock();
    let int = |v: i32| v.to_ne_bytes().to_vec();
    let flag = |v: bool| int(i32::from(v));
    let size = |v: usize| int(i32::try_from(v).unwrap_or(i32::MAX));
    let time = |ns: u64| {
        let parts = [ns / NS, ns % NS / 1000];
        parts.iter().flat_map(|v| v.to_ne_bytes()).collect()
    };
    let value: Vec<u8> = match a.int(2) {
        libc::SO_TYPE => int(socket.kind().number()),
        libc::SO_DOMAIN => int(libc::AF_UNIX),
        libc::SO_PROTOCOL => int(0),
        libc::SO_ERROR => int(socket.take_error().map_or(0, Errno::raw)),
        libc::SO_SNDBUF => size(o.send_buffer),
        libc::SO_RCVBUF => size(o.receive_buffer),
        libc::SO_PASSCRED => flag(o.pass_creds),
        libc::SO_PEERCRED => socket.peer_creds().encode().to_vec(),
        libc::SO_ACCEPTCONN => flag(socket.is_listening()),
        libc::SO_RCVTIMEO => time(o.receive_timeout_ns),
        libc::SO_SNDTIMEO => time(o.send_timeout_ns),
        libc::SO_REUSEADDR => flag(o.reuse_address),
        libc::SO_KEEPALIVE => flag(o.keep_alive),
        libc::SO_BROADCAST => flag(o.broadcast),
        libc::SO_RCVLOWAT | libc::SO_SNDLOWAT => int(1),
        libc::SO_PRIORITY
        | libc::SO_TIMESTAMP
        | libc::SO_DONTROUTE
        | libc::SO_OOBINLINE
        | libc::SO_PASSSEC => int(0),
        libc::SO_LINGER => vec![0; 8],
        _ => return Err(Errno::ENOPROTOOPT.into()),
    };
    let n = value.len().min(room);
    t.mm().write_bytes(a.u64(3), &value[..n])?;
    t.mm().write_obj(a.u64(4), &(n as u32))?;
    Ok(0)
}
