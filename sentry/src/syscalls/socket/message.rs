//! sendmsg(2), recvmsg(2) and their relatives.

use std::sync::Arc;

use super::{read_address, socket_file, write_address};
use crate::errno::{Errno, Error, Result};
use crate::fs::fdtable::Exec;
use crate::fs::file::File;
use crate::fs::pidfd;
use crate::kernel::block::Stop;
use crate::kernel::cred::Cap;
use crate::kernel::group::ThreadGroup;
use crate::kernel::signal::send::send_to_task;
use crate::kernel::signal::{SigInfo, Signal};
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::wait::{Ready, Waiter};
use crate::mm::io::{Segment, Sink, Source};
use crate::net::socket::Extra;
use crate::net::unix::flight::drop_flat;
use crate::net::unix::message::MAX_RIGHTS;
use crate::net::unix::{Rights, Ucred, Unix};
use crate::net::{self, Kind, Outgoing, Received, Socket};
use crate::syscalls::signal::read_timespec;
use crate::syscalls::{Args, SysResult};

/// Most bytes of a transfer (MAX_RW_COUNT).
const MAX_RW: usize = 0x7fff_f000;
const UIO_MAXIOV: u64 = 1024;
/// Most bytes of control data taken.
const MAX_CONTROL: usize = 8192;
/// Most files that a privileged user may have in flight.
const MAX_IN_FLIGHT: u64 = 65536;
/// sizeof(struct msghdr), sizeof(struct mmsghdr), sizeof(struct cmsghdr).
const MSGHDR_LEN: u64 = 56;
const MMSGHDR_LEN: u64 = 64;
const CMSGHDR_LEN: usize = 16;
/// linux/socket.h, not in libc.
const SCM_PIDFD: i32 = 4;
/// Of 32-bit programs.
const MSG_CMSG_COMPAT: i32 = i32::MIN;
const MSG_CMSG_CLOEXEC: i32 = libc::MSG_CMSG_CLOEXEC;

/// struct msghdr.
struct Header {
    name: u64,
    name_len: u32,
    iov: u64,
    iov_len: u64,
    control: u64,
    control_len: u64,
}

/// EFAULT, EINVAL.
fn read_header(t: &Task, addr: u64) -> Result<Header> {
    let words: [u64; 7] = t.mm().read_obj(addr)?;
    let name_len = words[1] as u32;
    if words[0] != 0 && name_len.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Header {
        name: words[0],
        name_len,
        iov: words[2],
        iov_len: words[3],
        control: words[4],
        control_len: words[5],
    })
}

fn read_segments(t: &Task, h: &Header) -> Result<Vec<Segment>> {
    if h.iov_len > UIO_MAXIOV {
        return Err(Errno::EMSGSIZE);
    }
    let mut raw = vec![0u8; h.iov_len as usize * 16];
    if !raw.is_empty() {
        t.mm().read_bytes(h.iov, &mut raw)?;
    }
    let word = |b: &[u8]| b.iter().rev().fold(0u64, |w, b| w << 8 | u64::from(*b));
    let mut left = MAX_RW;
    let mut segments = Vec::with_capacity(h.iov_len as usize);
    for entry in raw.chunks_exact(16) {
        let (addr, len) = (word(&entry[..8]), word(&entry[8..]));
        if i64::try_from(len).is_err() {
            return Err(Errno::EINVAL);
        }
        let len = usize::try_from(len).unwrap_or(left).min(left);
        left -= len;
        segments.push(Segment { addr, len });
    }
    Ok(segments)
}

/// What the guest's control data asks to send along.
fn read_control(t: &Task, h: &Header, out: &mut Outgoing) -> Result<()> {
    let len = usize::try_from(h.control_len).map_err(|_| Errno::ENOBUFS)?;
    if h.control == 0 || len == 0 {
        return Ok(());
    }
    if len > MAX_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    let mut raw = vec![0u8; len];
    t.mm().read_bytes(h.control, &mut raw)?;
    let int = |b: &[u8]| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
    let mut files = Vec::new();
    let mut rest = &raw[..];
    while rest.len() >= CMSGHDR_LEN {
        let size = rest[..8]
            .iter()
            .rev()
            .fold(0u64, |w, b| w << 8 | u64::from(*b));
        let size = usize::try_from(size)
            .ok()
            .filter(|s| (CMSGHDR_LEN..=rest.len()).contains(s))
            .ok_or(Errno::EINVAL)?;
        let data = &rest[CMSGHDR_LEN..size];
        let (level, kind) = (int(&rest[8..]), int(&rest[12..]));
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for fd in data.chunks_exact(4) {
                    files.push(t.any_file(int(fd))?);
                }
                if files.len() > MAX_RIGHTS {
                    return Err(Errno::EINVAL);
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if data.len() == 12 => {
                out.creds = check_creds(t, [int(data), int(&data[4..]), int(&data[8..])])?;
            }
            (libc::SOL_SOCKET, _) => return Err(Errno::EINVAL),
            _ => out.extra.push(Extra {
                level,
                kind,
                data: data.to_vec(),
            }),
        }
        rest = &rest[size.next_multiple_of(8).min(rest.len())..];
    }
    let limit = t.group().limits.lock().soft(libc::RLIMIT_NOFILE);
    // Linux has none for those; here it is memory of the sandbox's.
    let (uid, free) = t.with_creds(|c| {
        let free = c.has_cap(Cap::SysResource) || c.has_cap(Cap::SysAdmin);
        (c.ruid.0, free)
    });
    let limit = if free {
        limit.max(MAX_IN_FLIGHT)
    } else {
        limit
    };
    out.rights = Rights::new(files, uid, limit)?;
    Ok(())
}

/// A process may name itself, or with privileges anybody (unix(7), SCM_CREDENTIALS). EPERM.
fn check_creds(t: &Task, [pid, uid, gid]: [i32; 3]) -> Result<Ucred> {
    let creds = t.creds();
    let (uid, gid) = (uid as u32, gid as u32);
    let own_uid = [creds.ruid.0, creds.euid.0, creds.suid.0].contains(&uid);
    let own_gid = [creds.rgid.0, creds.egid.0, creds.sgid.0].contains(&gid);
    if (pid != t.pid() && !creds.has_cap(Cap::SysAdmin))
        || !(own_uid || creds.has_cap(Cap::Setuid))
        || !(own_gid || creds.has_cap(Cap::Setgid))
    {
        return Err(Errno::EPERM);
    }
    if pid != t.pid() && t.kernel().tree.group(pid).is_none() {
        return Err(Errno::ESRCH);
    }
    Ok(Ucred { pid, uid, gid })
}

/// EPIPE raises SIGPIPE, unless the caller does not want it.
fn broken(t: &Task, kind: Kind, flags: i32, e: Errno) -> Error {
    if e == Errno::EPIPE && kind != Kind::Datagram && flags & libc::MSG_NOSIGNAL == 0 {
        let info = SigInfo::user(Signal::SIGPIPE, t.pid(), t.creds().ruid.0);
        send_to_task(t, info);
    }
    e.into()
}

/// Sends one message; the bytes sent. A stream that waits takes all of it, but for an error.
async fn send(t: &Task, file: &Arc<File>, src: &mut Source<'_>, mut out: Outgoing) -> SysResult {
    let socket = net::of(file)?;
    let common = socket.common();
    let flags = out.flags;
    if let Some(to) = &out.to {
        out.target = socket.find(t, to)?;
    }
    let wait = !file.nonblocking() && flags & libc::MSG_DONTWAIT == 0;
    let until = if wait {
        common.deadline(Ready::OUT)
    } else {
        None
    };
    let mut total = 0;
    loop {
        let result = match socket.send(src, &mut out) {
            Err(Errno::EAGAIN) if wait => {
                let target = out.target.clone();
                let register = |waker: Arc<dyn Waiter>| {
                    let queues = [
                        Some(&common.queue),
                        target.as_ref().map(|s| &s.common().queue),
                    ];
                    let enter =
                        |q: &crate::kernel::wait::WaitQueue| q.register(Ready::OUT, waker.clone());
                    queues.into_iter().flatten().map(enter).collect()
                };
                let attempt = || socket.send(src, &mut out);
                t.wait_with(until, register, attempt).await
            }
            other => other.map_err(Stop::Failed),
        };
        match result {
            Ok(n) => total += n as u64,
            Err(_) if total > 0 => return Ok(total),
            Err(Stop::Failed(e)) => return Err(broken(t, common.kind, flags, e)),
            Err(stop) => return Err(stop.restart()),
        }
        if common.kind != Kind::Stream || src.remaining() == 0 || !wait {
            return Ok(total);
        }
    }
}

pub async fn sendto(t: &Task, a: &Args) -> SysResult {
    let file = socket_file(t, a.int(0))?;
    let mut out = Outgoing::from(Some(t), a.int(3));
    if a.u64(4) != 0 {
        out.to = Some(read_address(t, a.u64(4), a.uint(5))?);
    }
    let segments = [Segment {
        addr: a.u64(1),
        len: a.len(2).min(MAX_RW),
    }];
    let mut src = Source::user(t, &segments);
    send(t, &file, &mut src, out).await
}

async fn send_header(t: &Task, file: &Arc<File>, addr: u64, flags: i32) -> SysResult {
    let h = read_header(t, addr)?;
    let mut out = Outgoing::from(Some(t), flags);
    if h.name != 0 && h.name_len > 0 {
        out.to = Some(read_address(t, h.name, h.name_len)?);
    }
    let segments = read_segments(t, &h)?;
    read_control(t, &h, &mut out)?;
    let mut src = Source::user(t, &segments);
    send(t, file, &mut src, out).await
}

/// The flags at `n`. EINVAL for what is only of 32-bit programs.
fn message_flags(a: &Args, n: usize) -> Result<i32> {
    match a.int(n) {
        flags if flags & MSG_CMSG_COMPAT != 0 => Err(Errno::EINVAL),
        flags => Ok(flags),
    }
}

pub async fn sendmsg(t: &Task, a: &Args) -> SysResult {
    let flags = message_flags(a, 2)?;
    let file = socket_file(t, a.int(0))?;
    send_header(t, &file, a.u64(1), flags).await
}

pub async fn sendmmsg(t: &Task, a: &Args) -> SysResult {
    let flags = message_flags(a, 3)?;
    let file = socket_file(t, a.int(0))?;
    let count = u64::from(a.uint(2)).min(UIO_MAXIOV);
    for i in 0..count {
        let at = a.u64(1).wrapping_add(i * MMSGHDR_LEN);
        // Boxed: the future of every call has room for this one.
        let sent = match Box::pin(send_header(t, &file, at, flags)).await {
            Ok(n) => n as u32,
            Err(_) if i > 0 => return Ok(i),
            Err(e) => return Err(e),
        };
        t.mm().write_obj(at.wrapping_add(MSGHDR_LEN), &sent)?;
    }
    Ok(count)
}

/// Bytes that a receive waits for: of a stream all with MSG_WAITALL, else SO_RCVLOWAT.
fn enough(socket: &dyn Socket, room: usize, flags: i32) -> usize {
    let common = socket.common();
    if common.kind != Kind::Stream || flags & libc::MSG_OOB != 0 {
        return 0;
    }
    if flags & libc::MSG_WAITALL != 0 {
        return room;
    }
    common.options.lock().receive_low.min(room)
}

/// As [`receive`] with MSG_PEEK, until there is enough to be looked at, or the end.
async fn peek_enough(
    t: &Task,
    socket: &dyn Socket,
    segments: &[Segment],
    flags: i32,
    enough: usize,
    until: Option<MonoTime>,
) -> Result<Received, Error> {
    let ended = Ready::RDHUP | Ready::HUP | Ready::ERR;
    let mut seen = None;
    let attempt = || {
        let ready = socket.ready();
        let got = socket.receive(&mut Sink::user(t, segments), flags)?;
        if got.count == 0 || got.count >= enough || ready.intersects(ended) {
            return Ok(got);
        }
        seen = Some(got);
        Err(Errno::EAGAIN)
    };
    let queue = &socket.common().queue;
    let interest = Ready::IN | Ready::RDHUP;
    match t.wait_on(queue, interest, until, attempt).await {
        Err(Stop::Interrupted | Stop::TimedOut) if seen.is_some() => Ok(seen.unwrap_or_default()),
        other => other.map_err(Stop::restart),
    }
}

/// Waits for and takes a message.
async fn receive(
    t: &Task,
    file: &File,
    segments: &[Segment],
    flags: i32,
) -> Result<Received, Error> {
    let socket = net::of(file)?;
    let common = socket.common();
    let quick = libc::MSG_DONTWAIT | libc::MSG_ERRQUEUE;
    let wait = !file.nonblocking() && flags & quick == 0;
    let mut dst = Sink::user(t, segments);
    let enough = enough(&**socket, dst.remaining(), flags);
    let mut sum = Received::default();
    let until = if wait {
        common.deadline(Ready::IN)
    } else {
        None
    };
    if wait && flags & libc::MSG_PEEK != 0 && enough > 1 {
        // Rare, and in a box: a call's future has room for what is common.
        let peek = peek_enough(t, &**socket, segments, flags, enough, until);
        return Box::pin(peek).await;
    }
    loop {
        let result = match socket.receive(&mut dst, flags) {
            Err(Errno::EAGAIN) if wait => {
                let attempt = || socket.receive(&mut dst, flags);
                t.wait_on(&common.queue, Ready::IN | Ready::RDHUP, until, attempt)
                    .await
            }
            other => other.map_err(Stop::Failed),
        };
        match result {
            Ok(got) => {
                let end = got.count == 0 || !got.files.is_empty();
                let before = sum.count;
                sum = got;
                sum.count += before;
                sum.full += before;
                if !wait || end || sum.count >= enough {
                    return Ok(sum);
                }
            }
            Err(_) if sum.count > 0 => return Ok(sum),
            Err(stop) => return Err(stop.restart()),
        }
    }
}

/// read(2) from a socket that has SO_RCVLOWAT.
pub async fn read_enough(t: &Task, file: &File, segments: &[Segment]) -> SysResult {
    if segments.iter().all(|s| s.len == 0) {
        return Ok(0);
    }
    let got = receive(t, file, segments, 0).await?;
    drop_flat(got.files);
    Ok(got.count as u64)
}

/// What recvfrom(2) and recvmsg(2) return: with MSG_TRUNC the whole length of a packet.
fn result_len(got: &Received, flags: i32) -> u64 {
    if flags & libc::MSG_TRUNC != 0 {
        got.full as u64
    } else {
        got.count as u64
    }
}

pub async fn recvfrom(t: &Task, a: &Args) -> SysResult {
    let file = socket_file(t, a.int(0))?;
    let segments = [Segment {
        addr: a.u64(1),
        len: a.len(2).min(MAX_RW),
    }];
    let got = receive(t, &file, &segments, a.int(3)).await?;
    let len = result_len(&got, a.int(3));
    drop_flat(got.files);
    if a.u64(4) != 0 {
        let from = got.from.as_ref().map_or(&[][..], |f| f.bytes());
        write_address(t, from, a.u64(4), a.u64(5))?;
    }
    Ok(len)
}

/// Control data to write, within the room the guest gave.
struct Control {
    raw: Vec<u8>,
    room: usize,
    truncated: bool,
}

impl Control {
    fn left(&self) -> usize {
        self.room.saturating_sub(self.raw.len())
    }

    /// Adds a message, cut where the room ends.
    fn put(&mut self, level: i32, kind: i32, data: &[u8]) {
        let left = self.left();
        if left < CMSGHDR_LEN {
            self.truncated = true;
            return;
        }
        let fits = data.len().min(left - CMSGHDR_LEN);
        self.truncated |= fits < data.len();
        let len = (CMSGHDR_LEN + fits) as u64;
        self.raw.extend_from_slice(&len.to_ne_bytes());
        self.raw.extend_from_slice(&level.to_ne_bytes());
        self.raw.extend_from_slice(&kind.to_ne_bytes());
        self.raw.extend_from_slice(&data[..fits]);
        let padded = self.raw.len().next_multiple_of(8).min(self.room);
        self.raw.resize(padded, 0);
    }
}

impl Control {
    /// SCM_PIDFD: a descriptor for the sender's process.
    fn put_process(&mut self, t: &Task, process: &Arc<ThreadGroup>) {
        if self.left() < CMSGHDR_LEN + 4 {
            self.truncated = true;
            return;
        }
        match pidfd::install(t, process) {
            Ok(fd) => self.put(libc::SOL_SOCKET, SCM_PIDFD, &fd.to_ne_bytes()),
            Err(_) => self.truncated = true,
        }
    }
}

/// Gives files that came along numbers; what does not fit is closed.
fn install(t: &Task, control: &mut Control, files: Vec<Arc<File>>, exec: Exec) {
    let room = control.left().saturating_sub(CMSGHDR_LEN) / 4;
    let mut numbers = Vec::new();
    let mut rest = files.into_iter();
    for file in rest.by_ref().take(room) {
        match t.add_file(file, exec) {
            Ok(fd) => numbers.extend_from_slice(&fd.to_ne_bytes()),
            Err(_) => {
                control.truncated = true;
                break;
            }
        }
    }
    let lost: Vec<_> = rest.collect();
    control.truncated |= !lost.is_empty();
    drop_flat(lost);
    if !numbers.is_empty() {
        control.put(libc::SOL_SOCKET, libc::SCM_RIGHTS, &numbers);
    }
}

async fn receive_header(t: &Task, file: &Arc<File>, addr: u64, flags: i32) -> SysResult {
    let h = read_header(t, addr)?;
    let segments = read_segments(t, &h)?;
    let mut got = receive(t, file, &segments, flags).await?;
    let mm = t.mm();
    let len = result_len(&got, flags);
    let common = net::of(file)?.common();
    let packets = common.kind != Kind::Stream;
    let mut told = flags & MSG_CMSG_CLOEXEC | got.flags;
    if got.truncated() && packets {
        told |= libc::MSG_TRUNC;
    }
    let room = if h.control == 0 {
        0
    } else {
        usize::try_from(h.control_len).unwrap_or(usize::MAX)
    };
    let mut control = Control {
        raw: Vec::new(),
        room,
        truncated: false,
    };
    let unix = Unix::of(&**net::of(file)?).filter(|_| got.count > 0 || packets);
    if unix.is_some() && common.options.lock().pass_creds {
        let creds = got.creds.encode();
        control.put(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &creds);
    }
    for extra in &got.extra {
        control.put(extra.level, extra.kind, &extra.data);
    }
    let exec = if flags & MSG_CMSG_CLOEXEC != 0 {
        Exec::Close
    } else {
        Exec::Keep
    };
    let files = std::mem::take(&mut got.files);
    if !files.is_empty() {
        install(t, &mut control, files, exec);
    }
    if unix.is_some_and(|u| u.passes_process())
        && let Some(process) = &got.process
    {
        control.put_process(t, process);
    }
    if control.truncated {
        told |= libc::MSG_CTRUNC;
    }
    if h.name != 0 {
        let raw = got.from.as_ref().map_or(&[][..], |f| f.bytes());
        let fits = raw.len().min(h.name_len as usize);
        mm.write_bytes(h.name, &raw[..fits])?;
        mm.write_obj(addr.wrapping_add(8), &(raw.len() as u32))?;
    }
    if !control.raw.is_empty() {
        mm.write_bytes(h.control, &control.raw)?;
    }
    mm.write_obj(addr.wrapping_add(40), &(control.raw.len() as u64))?;
    mm.write_obj(addr.wrapping_add(48), &told)?;
    Ok(len)
}

pub async fn recvmsg(t: &Task, a: &Args) -> SysResult {
    let flags = message_flags(a, 2)?;
    let file = socket_file(t, a.int(0))?;
    receive_header(t, &file, a.u64(1), flags).await
}

pub async fn recvmmsg(t: &Task, a: &Args) -> SysResult {
    let flags = message_flags(a, 3)?;
    let until = match a.u64(4) {
        0 => None,
        addr => Some(MonoTime::now().after_ns(read_timespec(t, addr)?)),
    };
    let received = receive_many(t, a, flags, until).await?;
    if let Some(until) = until.filter(|_| received > 0) {
        let left = until.since_ns(MonoTime::now());
        let spec = [left / 1_000_000_000, left % 1_000_000_000];
        t.mm().write_obj(a.u64(4), &spec)?;
    }
    Ok(received)
}

async fn receive_many(t: &Task, a: &Args, flags: i32, until: Option<MonoTime>) -> SysResult {
    let file = socket_file(t, a.int(0))?;
    let count = u64::from(a.uint(2)).min(UIO_MAXIOV);
    let one = flags & libc::MSG_WAITFORONE != 0;
    let mut flags = flags & !libc::MSG_WAITFORONE;
    for i in 0..count {
        let at = a.u64(1).wrapping_add(i * MMSGHDR_LEN);
        let got = match Box::pin(receive_header(t, &file, at, flags)).await {
            Ok(n) => n as u32,
            Err(_) if i > 0 => return Ok(i),
            Err(e) => return Err(e),
        };
        t.mm().write_obj(at.wrapping_add(MSGHDR_LEN), &got)?;
        if one {
            flags |= libc::MSG_DONTWAIT;
        }
        // As on Linux the time is looked at between messages only.
        if until.is_some_and(|u| u <= MonoTime::now()) {
            return Ok(i + 1);
        }
    }
    Ok(count)
}
