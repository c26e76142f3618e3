//! Bytes: read and write in all forms, lseek, sync, space; [`copy`] between files, [`control`] for
//! ioctl.

mod control;
mod copy;

pub use control::ioctl;
pub use copy::{copy_file_range, sendfile, splice, tee, vmsplice};

use std::sync::Arc;

use super::{Args, SysResult};
use crate::errno::{Errno, Error, Result};
use crate::fs::attrs::strip_set_ids;
use crate::fs::file::{File, Positioned, Seek, WriteAt};
use crate::fs::inode::{FileType, OpenFlags};
use crate::kernel::block::Stop;
use crate::kernel::signal::{SigInfo, Signal};
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::wait::Ready;
use crate::mm::io::{Segment, Sink, Source};
use crate::net;

/// Most bytes one call moves (MAX_RW_COUNT).
pub(super) const MAX_RW: usize = 0x7fff_f000;
/// Most elements of an iovec.
const IOV_MAX: usize = 1024;
/// First address that is never the guest's.
const USER_END: u64 = 0x7fff_ffff_f000;

/// Repeats `operation` until it does not fail with EAGAIN, unless the description says not to wait.
pub(super) async fn when_ready<T>(
    t: &Task,
    file: &File,
    interest: Ready,
    mut operation: impl FnMut() -> Result<T>,
) -> Result<T, Error> {
    match operation() {
        Err(Errno::EAGAIN) if !file.nonblocking() => {}
        done => return Ok(done?),
    }
    wait_until(t, file, interest, deadline(file, interest), operation).await
}

/// When a wait for a socket that begins now ends: SO_RCVTIMEO and SO_SNDTIMEO hold for read(2) and
/// write(2) too.
fn deadline(file: &File, interest: Ready) -> Option<MonoTime> {
    let socket = net::of(file).ok().filter(|_| !file.nonblocking());
    socket.and_then(|s| s.common().deadline(interest))
}

/// Repeats what failed with EAGAIN.
async fn wait_until<T>(
    t: &Task,
    file: &File,
    interest: Ready,
    until: Option<MonoTime>,
    operation: impl FnMut() -> Result<T>,
) -> Result<T, Error> {
    let Some(queue) = file.ops().wait_queue() else {
        return Err(Errno::EAGAIN.into());
    };
    t.wait_on(queue, interest, until, operation)
        .await
        .map_err(Stop::restart)
}

const READ: Ready = Ready::IN.union(Ready::RDNORM).union(Ready::HUP);
const WRITE: Ready = Ready::OUT.union(Ready::WRNORM).union(Ready::ERR);

/// One buffer as segments. EFAULT for addresses no guest can have.
fn buffer(addr: u64, len: usize) -> Result<[Segment; 1]> {
    let len = len.min(MAX_RW);
    check_range(addr, len)?;
    Ok([Segment { addr, len }])
}

fn check_range(addr: u64, len: usize) -> Result<()> {
    match addr.checked_add(len as u64) {
        Some(end) if end <= USER_END => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// An iovec of the guest. EINVAL, EFAULT.
pub(in crate::syscalls) fn iovec(t: &Task, addr: u64, count: usize) -> Result<Vec<Segment>> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let mut raw = vec![0u8; count * 16];
    t.with_mm(|mm| mm.read_bytes(addr, &mut raw))?;
    let mut segments = Vec::with_capacity(count);
    let mut total = 0;
    for pair in raw.chunks_exact(16) {
        let word = |i: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&pair[i..i + 8]);
            u64::from_ne_bytes(bytes)
        };
        let (addr, len) = (word(0), word(8));
        if i64::try_from(len).is_err() {
            return Err(Errno::EINVAL);
        }
        let len = (len as usize).min(MAX_RW - total);
        check_range(addr, len)?;
        total += len;
        segments.push(Segment { addr, len });
    }
    Ok(segments)
}

fn may_read(file: &File) -> Result<()> {
    if file.flags().readable() {
        Ok(())
    } else {
        Err(Errno::EBADF)
    }
}

fn may_write(file: &File) -> Result<()> {
    if file.flags().writable() {
        Ok(())
    } else {
        Err(Errno::EBADF)
    }
}

fn readable(t: &Task, fd: i32) -> Result<Arc<File>> {
    let file = t.file(fd)?;
    may_read(&file)?;
    Ok(file)
}

fn writable(t: &Task, fd: i32) -> Result<Arc<File>> {
    let file = t.file(fd)?;
    may_write(&file)?;
    Ok(file)
}

fn not_dir(file: &File) -> Result<()> {
    if file.inode().kind() == FileType::Dir {
        return Err(Errno::EISDIR);
    }
    Ok(())
}

/// Where a transfer takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// At the description's position, which moves.
    Position,
    Offset(u64),
}

async fn read_segments(t: &Task, file: &File, segments: &[Segment], at: At) -> SysResult {
    not_dir(file)?;
    if net::of(file).is_ok_and(|s| s.common().options.lock().receive_low > 1) {
        return Box::pin(super::socket::read_enough(t, file, segments)).await;
    }
    let done = when_ready(t, file, READ, || {
        let mut sink = Sink::user(t, segments);
        match at {
            At::Position => file.read(&mut sink),
            At::Offset(offset) => file.pread(&mut sink, offset),
        }
    })
    .await?;
    Ok(done as u64)
}

/// Cuts a write at RLIMIT_FSIZE. EFBIG and SIGXFSZ if nothing is left.
fn within_file_limit(t: &Task, file: &File, segments: &mut [Segment], at: At) -> Result<()> {
    if file.inode().kind() != FileType::Regular {
        return Ok(());
    }
    let limit = t.group().limits.lock().soft(libc::RLIMIT_FSIZE);
    if limit == u64::MAX {
        return Ok(());
    }
    let start = match at {
        _ if file.flags().contains(OpenFlags::APPEND) => file.attr()?.size,
        At::Offset(offset) => offset,
        At::Position => file.position(),
    };
    let wanted: usize = segments.iter().map(|s| s.len).sum();
    if wanted == 0 {
        return Ok(());
    }
    if start >= limit {
        t.raise(libc::SIGXFSZ);
        return Err(Errno::EFBIG);
    }
    let mut left = limit - start;
    for segment in segments {
        segment.len = segment.len.min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= segment.len as u64;
    }
    Ok(())
}

impl Task {
    /// Sends the task a signal from the kernel.
    pub(in crate::syscalls) fn raise(&self, signal: i32) {
        if let Some(signal) = Signal::new(signal) {
            crate::kernel::signal::send::send_to_task(self, SigInfo::kernel(signal));
        }
    }
}

async fn write_segments(t: &Task, file: &File, segments: &mut [Segment], at: At) -> SysResult {
    within_file_limit(t, file, segments, at)?;
    let mut source = Source::user(t, segments);
    let done = write_source(t, file, &mut source, at).await?;
    Ok(done as u64)
}

/// Writes all of `source` where the file is a stream that waits, else what goes at once.
pub(super) async fn write_from(
    t: &Task,
    file: &File,
    source: &mut Source<'_>,
) -> Result<usize, Error> {
    write_source(t, file, source, At::Position).await
}

async fn write_source(
    t: &Task,
    file: &File,
    source: &mut Source<'_>,
    at: At,
) -> Result<usize, Error> {
    let stream = file.ops().positioned() == Positioned::Stream;
    // From the first wait on, for all of them.
    let mut until = None;
    let mut done = 0;
    loop {
        let mut operation = || match at {
            At::Position => file.write(source),
            At::Offset(offset) => file.pwrite(source, offset),
        };
        let step = match operation() {
            Err(Errno::EAGAIN) if !file.nonblocking() => {
                let until = *until.get_or_insert_with(|| deadline(file, WRITE));
                wait_until(t, file, WRITE, until, operation).await
            }
            done => done.map_err(Error::from),
        };
        match step {
            Ok(n) => {
                done += n;
                if !stream || n == 0 || source.remaining() == 0 {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(e) => {
                if e == Error::Errno(Errno::EPIPE) && stream {
                    t.raise(libc::SIGPIPE);
                }
                return Err(e);
            }
        }
    }
    if done > 0 {
        strip_set_ids(file, &t.creds());
    }
    Ok(done)
}

pub async fn read(t: &Task, a: &Args) -> SysResult {
    let file = readable(t, a.int(0))?;
    let segments = buffer(a.u64(1), a.len(2))?;
    read_segments(t, &file, &segments, At::Position).await
}

pub async fn write(t: &Task, a: &Args) -> SysResult {
    let file = writable(t, a.int(0))?;
    let mut segments = buffer(a.u64(1), a.len(2))?;
    write_segments(t, &file, &mut segments, At::Position).await
}

pub async fn readv(t: &Task, a: &Args) -> SysResult {
    let file = readable(t, a.int(0))?;
    let segments = iovec(t, a.u64(1), a.len(2))?;
    read_segments(t, &file, &segments, At::Position).await
}

pub async fn writev(t: &Task, a: &Args) -> SysResult {
    let file = writable(t, a.int(0))?;
    let mut segments = iovec(t, a.u64(1), a.len(2))?;
    write_segments(t, &file, &mut segments, At::Position).await
}

/// An offset argument. EINVAL if negative.
fn offset(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Errno::EINVAL)
}

fn seekable(file: &File) -> Result<()> {
    if file.ops().positioned() == Positioned::Stream {
        return Err(Errno::ESPIPE);
    }
    Ok(())
}

pub async fn pread64(t: &Task, a: &Args) -> SysResult {
    let at = offset(a.i64(3))?;
    let file = t.file(a.int(0))?;
    seekable(&file)?;
    may_read(&file)?;
    let segments = buffer(a.u64(1), a.len(2))?;
    read_segments(t, &file, &segments, At::Offset(at)).await
}

pub async fn pwrite64(t: &Task, a: &Args) -> SysResult {
    let at = offset(a.i64(3))?;
    let file = t.file(a.int(0))?;
    seekable(&file)?;
    may_write(&file)?;
    let mut segments = buffer(a.u64(1), a.len(2))?;
    write_segments(t, &file, &mut segments, At::Offset(at)).await
}

pub async fn preadv(t: &Task, a: &Args) -> SysResult {
    vector_at(t, a, Direction::Read, None).await
}

pub async fn pwritev(t: &Task, a: &Args) -> SysResult {
    vector_at(t, a, Direction::Write, None).await
}

pub async fn preadv2(t: &Task, a: &Args) -> SysResult {
    vector_at(t, a, Direction::Read, Some(a.int(5))).await
}

pub async fn pwritev2(t: &Task, a: &Args) -> SysResult {
    vector_at(t, a, Direction::Write, Some(a.int(5))).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

const RWF_HIPRI: i32 = 1;
const RWF_DSYNC: i32 = 2;
const RWF_SYNC: i32 = 4;
const RWF_NOWAIT: i32 = 8;
const RWF_APPEND: i32 = 16;

/// preadv2(2) and pwritev2(2); with offset -1 and flags they work at the position.
/// `flags`: of the calls that have some; to them -1 means the file's own position.
async fn vector_at(t: &Task, a: &Args, direction: Direction, flags: Option<i32>) -> SysResult {
    let at = match a.i64(3) {
        -1 if flags.is_some() => At::Position,
        value => At::Offset(offset(value)?),
    };
    let flags = flags.unwrap_or(0);
    let file = t.file(a.int(0))?;
    if at != At::Position {
        seekable(&file)?;
    }
    let allowed = match direction {
        Direction::Read => file.flags().readable(),
        Direction::Write => file.flags().writable(),
    };
    if !allowed {
        return Err(Errno::EBADF.into());
    }
    let mut segments = iovec(t, a.u64(1), a.len(2))?;
    let known = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND;
    if flags & !known != 0 || (flags & RWF_APPEND != 0 && direction == Direction::Read) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if direction == Direction::Read {
        if flags & RWF_NOWAIT != 0 && file.ops().positioned() == Positioned::Stream {
            let mut sink = Sink::user(t, &segments);
            return Ok(file.read(&mut sink)? as u64);
        }
        return read_segments(t, &file, &segments, at).await;
    }
    let done = if flags & RWF_APPEND != 0 && file.ops().positioned() == Positioned::Yes {
        let mut source = Source::user(t, &segments);
        let (n, after) = file.ops().write_at(&file, &mut source, WriteAt::End)?;
        if at == At::Position {
            file.with_position(|pos| *pos = after);
        }
        n as u64
    } else if flags & RWF_NOWAIT != 0 {
        let mut source = Source::user(t, &segments);
        match at {
            At::Position => file.write(&mut source)? as u64,
            At::Offset(offset) => file.pwrite(&mut source, offset)? as u64,
        }
    } else {
        write_segments(t, &file, &mut segments, at).await?
    };
    if flags & (RWF_DSYNC | RWF_SYNC) != 0 && done > 0 {
        file.ops().sync(&file)?;
    }
    Ok(done)
}

pub async fn lseek(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    let whence = match a.int(2) {
        libc::SEEK_SET => Seek::Set,
        libc::SEEK_CUR => Seek::Cur,
        libc::SEEK_END => Seek::End,
        libc::SEEK_DATA => Seek::Data,
        libc::SEEK_HOLE => Seek::Hole,
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(file.seek(whence, a.i64(1))?)
}

pub async fn fsync(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    file.ops().sync(&file)?;
    Ok(0)
}

pub async fn fdatasync(t: &Task, a: &Args) -> SysResult {
    fsync(t, a).await
}

pub async fn sync_file_range(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    if a.u64(3) & !7 != 0 || a.i64(1) < 0 || a.i64(2) < 0 {
        return Err(Errno::EINVAL.into());
    }
    if a.i64(1).checked_add(a.i64(2)).is_none() {
        return Err(Errno::EINVAL.into());
    }
    match file.inode().kind() {
        FileType::Regular | FileType::Block | FileType::Dir | FileType::Symlink => {}
        _ => return Err(Errno::ESPIPE.into()),
    }
    if file.inode().kind() == FileType::Regular {
        file.ops().sync(&file)?;
    }
    Ok(0)
}

pub async fn sync(t: &Task, _: &Args) -> SysResult {
    let mut done = Vec::new();
    for mount in t.fs().namespace().list() {
        if !done.contains(&mount.fs.dev) {
            done.push(mount.fs.dev);
            // sync(2) cannot fail.
            let _ = mount.fs.root.inode().sync_fs();
        }
    }
    Ok(0)
}

pub async fn syncfs(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    file.path().mount.fs.root.inode().sync_fs()?;
    Ok(0)
}

pub async fn readahead(t: &Task, a: &Args) -> SysResult {
    let file = readable(t, a.int(0))?;
    if file.inode().kind() != FileType::Regular {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

pub async fn fadvise64(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    if file.inode().kind() == FileType::Fifo {
        return Err(Errno::ESPIPE.into());
    }
    if a.i64(2) < 0 || !(0..=5).contains(&a.int(3)) {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

pub async fn fallocate(t: &Task, a: &Args) -> SysResult {
    let (mode, start, len) = (a.int(1), a.i64(2), a.i64(3));
    let file = t.file(a.int(0))?;
    if start < 0 || len <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let known = libc::FALLOC_FL_KEEP_SIZE
        | libc::FALLOC_FL_PUNCH_HOLE
        | libc::FALLOC_FL_COLLAPSE_RANGE
        | libc::FALLOC_FL_ZERO_RANGE
        | libc::FALLOC_FL_INSERT_RANGE
        | libc::FALLOC_FL_UNSHARE_RANGE;
    let punch = libc::FALLOC_FL_PUNCH_HOLE;
    if mode & !known != 0
        || mode & (punch | libc::FALLOC_FL_ZERO_RANGE) == punch | libc::FALLOC_FL_ZERO_RANGE
        || mode & (punch | libc::FALLOC_FL_KEEP_SIZE) == punch
    {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if !file.flags().writable() {
        return Err(Errno::EBADF.into());
    }
    match file.inode().kind() {
        FileType::Fifo => return Err(Errno::ESPIPE.into()),
        FileType::Dir => return Err(Errno::EISDIR.into()),
        FileType::Regular | FileType::Block => {}
        _ => return Err(Errno::ENODEV.into()),
    }
    let end = start.checked_add(len).ok_or(Errno::EFBIG)? as u64;
    let limit = t.group().limits.lock().soft(libc::RLIMIT_FSIZE);
    if end > limit && mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
        t.raise(libc::SIGXFSZ);
        return Err(Errno::EFBIG.into());
    }
    file.ops().allocate(&file, mode, start as u64, len as u64)?;
    strip_set_ids(&file, &t.creds());
    Ok(0)
}
