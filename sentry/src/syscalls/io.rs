//! Reading and writing, and moving data between files.

use std::sync::Arc;

use crate::errno::{Errno, Error, Result};
use crate::fs::file::{File, Positioned, Seek};
use crate::fs::inode::{FileType, OpenFlags};
use crate::kernel::block::Stop;
use crate::kernel::signal::send::send_to_task;
use crate::kernel::signal::{SigInfo, Signal};
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::mm::Mm;
use crate::mm::io::{Segment, Sink, Source};
use crate::syscalls::{Args, SysResult};

/// MAX_RW_COUNT: no transfer is longer.
const MAX_COUNT: usize = 0x7fff_f000;
/// UIO_MAXIOV.
const MAX_SEGMENTS: usize = 1024;
/// Bytes held by us at a time when moving data between files.
const MOVE_CHUNK: usize = 128 * 1024;

/// A buffer of the guest. EFAULT if it cannot be guest memory at all, as access_ok of Linux.
pub fn buffer(t: &Task, addr: u64, len: usize) -> Result<Vec<Segment>> {
    let len = if len > i64::MAX as usize { return Err(Errno::EINVAL) } else { len };
    let (_, end) = t.platform().user_range();
    if addr.checked_add(len as u64).is_none_or(|last| last > end.max(0x7fff_ffff_f000)) {
        return Err(Errno::EFAULT);
    }
    Ok(vec![Segment { addr, len: len.min(MAX_COUNT) }])
}

/// An iovec of the guest (readv(2)). EINVAL, EFAULT.
pub fn iovec(t: &Task, addr: u64, count: u64) -> Result<Vec<Segment>> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    if count > MAX_SEGMENTS {
        return Err(Errno::EINVAL);
    }
    let mut raw = vec![0u8; count * 16];
    t.mm().read_bytes(addr, &mut raw)?;
    let word = |b: &[u8]| u64::from_ne_bytes(b.try_into().unwrap_or_default());
    let mut left = MAX_COUNT;
    let mut segments = Vec::with_capacity(count);
    for entry in raw.chunks_exact(16) {
        let (addr, len) = (word(&entry[..8]), word(&entry[8..]));
        let len = usize::try_from(len).ok().filter(|l| *l <= i64::MAX as usize).ok_or(Errno::EINVAL)?;
        buffer(t, addr, len)?;
        let len = len.min(left);
        left -= len;
        segments.push(Segment { addr, len });
    }
    Ok(segments)
}

/// Where a transfer takes place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// The position, which moves.
    Current,
    Offset(u64),
}

/// RWF_* flags of preadv2(2).
const RWF_HIPRI: i32 = 1;
const RWF_DSYNC: i32 = 2;
const RWF_SYNC: i32 = 4;
const RWF_NOWAIT: i32 = 8;
const RWF_APPEND: i32 = 16;

/// Waits for `events` of a file and repeats `operation`.
pub async fn wait_ready<T>(
    t: &Task,
    file: &File,
    events: Ready,
    operation: impl FnMut() -> Result<T>,
) -> Result<T, Error> {
    let mut operation = operation;
    match (operation(), file.ops().wait_queue()) {
        (Err(Errno::EAGAIN), Some(queue)) if !file.nonblocking() => {
            t.wait_on(queue, events, None, operation).await.map_err(Stop::restart)
        }
        (done, _) => Ok(done?),
    }
}

async fn read_file(t: &Task, file: &Arc<File>, mm: &Mm, to: Vec<Segment>, at: At) -> SysResult {
    let once = || {
        let mut sink = Sink::user(mm, to.clone());
        match at {
            At::Current => file.read(&mut sink),
            At::Offset(offset) => file.pread(&mut sink, offset),
        }
    };
    let n = wait_ready(t, file, Ready::IN | Ready::RDNORM, once).await?;
    let io = &t.group().io;
    io.syscr.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    io.rchar.fetch_add(n as u64, std::sync::atomic::Ordering::Relaxed);
    Ok(n as u64)
}

/// Writes all of it where that means waiting (pipes, sockets); a signal after some bytes reports
/// those.
async fn write_file(t: &Task, file: &Arc<File>, mm: &Mm, from: Vec<Segment>, at: At) -> SysResult {
    check_file_size(t, file, at, &from)?;
    let mut source = Source::user(mm, from);
    let total = source.remaining();
    let mut done = 0usize;
    loop {
        let once = || match at {
            At::Current => file.write(&mut source),
            At::Offset(offset) => file.pwrite(&mut source, offset.saturating_add(done as u64)),
        };
        match wait_ready(t, file, Ready::OUT | Ready::WRNORM, once).await {
            Ok(n) => done += n,
            Err(_) if done > 0 => break,
            Err(e) => {
                if e == Error::Errno(Errno::EPIPE) {
                    send_to_task(t, SigInfo::user(Signal::SIGPIPE, t.pid(), t.creds().ruid.0));
                }
                return Err(e);
            }
        }
        // Only streams are worth another try.
        if done >= total || file.ops().positioned() == Positioned::Yes || file.nonblocking() {
            break;
        }
    }
    if done > 0 && file.ops().positioned() == Positioned::Yes {
        crate::fs::attrs::strip_set_ids(file, &t.creds());
    }
    let io = &t.group().io;
    io.syscw.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    io.wchar.fetch_add(done as u64, std::sync::atomic::Ordering::Relaxed);
    Ok(done as u64)
}

/// RLIMIT_FSIZE: writing beyond it gives EFBIG and SIGXFSZ.
fn check_file_size(t: &Task, file: &File, at: At, from: &[Segment]) -> Result<()> {
    let limit = t.group().limits.lock().soft(libc::RLIMIT_FSIZE);
    if limit == u64::MAX || file.inode().kind() != FileType::Regular {
        return Ok(());
    }
    let start = match at {
        _ if file.flags().contains(OpenFlags::APPEND) => file.attr()?.size,
        At::Current => file.position(),
        At::Offset(offset) => offset,
    };
    if start >= limit && from.iter().any(|s| s.len > 0) {
        send_to_task(t, SigInfo::user(Signal::SIGXFSZ, t.pid(), t.creds().ruid.0));
        return Err(Errno::EFBIG);
    }
    Ok(())
}

pub async fn read(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    readable(&file)?;
    let to = buffer(t, a.u64(1), a.len(2))?;
    read_file(t, &file, &t.mm(), to, At::Current).await
}

pub async fn write(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    writable(&file)?;
    let from = buffer(t, a.u64(1), a.len(2))?;
    write_file(t, &file, &t.mm(), from, At::Current).await
}

fn readable(file: &File) -> Result<()> {
    if file.flags().readable() { Ok(()) } else { Err(Errno::EBADF) }
}

fn writable(file: &File) -> Result<()> {
    if file.flags().writable() { Ok(()) } else { Err(Errno::EBADF) }
}

fn offset(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Errno::EINVAL)
}

pub async fn pread64(t: &Task, a: &Args) -> SysResult {
    let at = offset(a.i64(3))?;
    let file = t.file(a.int(0))?;
    readable(&file)?;
    let to = buffer(t, a.u64(1), a.len(2))?;
    read_file(t, &file, &t.mm(), to, At::Offset(at)).await
}

pub async fn pwrite64(t: &Task, a: &Args) -> SysResult {
    let at = offset(a.i64(3))?;
    let file = t.file(a.int(0))?;
    writable(&file)?;
    let from = buffer(t, a.u64(1), a.len(2))?;
    write_file(t, &file, &t.mm(), from, At::Offset(at)).await
}

pub async fn readv(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    readable(&file)?;
    let to = iovec(t, a.u64(1), a.u64(2))?;
    read_file(t, &file, &t.mm(), to, At::Current).await
}

pub async fn writev(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    writable(&file)?;
    let from = iovec(t, a.u64(1), a.u64(2))?;
    write_file(t, &file, &t.mm(), from, At::Current).await
}

pub async fn preadv(t: &Task, a: &Args) -> SysResult {
    let at = offset(a.i64(3))?;
    let file = t.file(a.int(0))?;
    readable(&file)?;
    let to = iovec(t, a.u64(1), a.u64(2))?;
    read_file(t, &file, &t.mm(), to, At::Offset(at)).await
}

pub async fn pwritev(t: &Task, a: &Args) -> SysResult {
    let at = offset(a.i64(3))?;
    let file = t.file(a.int(0))?;
    writable(&file)?;
    let from = iovec(t, a.u64(1), a.u64(2))?;
    write_file(t, &file, &t.mm(), from, At::Offset(at)).await
}

/// The offset argument of the v2 calls: -1 means the position.
fn at_or_current(value: i64) -> Result<At> {
    if value == -1 { Ok(At::Current) } else { Ok(At::Offset(offset(value)?)) }
}

pub async fn preadv2(t: &Task, a: &Args) -> SysResult {
    let flags = a.int(5);
    if flags & !(RWF_HIPRI | RWF_NOWAIT) != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let at = at_or_current(a.i64(3))?;
    let file = t.file(a.int(0))?;
    readable(&file)?;
    let to = iovec(t, a.u64(1), a.u64(2))?;
    read_file(t, &file, &t.mm(), to, at).await
}

pub async fn pwritev2(t: &Task, a: &Args) -> SysResult {
    let flags = a.int(5);
    if flags & !(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_APPEND) != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let mut at = at_or_current(a.i64(3))?;
    let file = t.file(a.int(0))?;
    writable(&file)?;
    if flags & RWF_APPEND != 0 {
        at = At::Offset(file.attr()?.size);
    }
    let from = iovec(t, a.u64(1), a.u64(2))?;
    let n = write_file(t, &file, &t.mm(), from, at).await?;
    if flags & (RWF_SYNC | RWF_DSYNC) != 0 {
        file.ops().sync(&file)?;
    }
    Ok(n)
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

/// Moves up to `len` bytes from one file to another through a buffer of ours. Stops at the end of
/// the input, and where writing would block after something was moved.
async fn move_bytes(
    t: &Task,
    from: (&Arc<File>, &mut Option<u64>),
    to: (&Arc<File>, &mut Option<u64>),
    len: usize,
) -> Result<usize, Error> {
    let ((from, from_at), (to, to_at)) = (from, to);
    let mut moved = 0;
    let mut chunk = vec![0u8; len.min(MOVE_CHUNK)];
    while moved < len {
        let want = (len - moved).min(chunk.len());
        let read = wait_ready(t, from, Ready::IN, || {
            let mut sink = Sink::kernel(&mut chunk[..want]);
            match *from_at {
                Some(at) => from.pread(&mut sink, at),
                None => from.read(&mut sink),
            }
        })
        .await;
        let got = match read {
            Ok(0) => break,
            Ok(n) => n,
            Err(_) if moved > 0 => break,
            Err(e) => return Err(e),
        };
        let mut written = 0;
        while written < got {
            let put = wait_ready(t, to, Ready::OUT, || {
                let mut source = Source::kernel(&chunk[written..got]);
                match *to_at {
                    Some(at) => to.pwrite(&mut source, at.saturating_add(written as u64)),
                    None => to.write(&mut source),
                }
            })
            .await;
            match put {
                Ok(n) => written += n,
                Err(e) => {
                    // Bytes read and not written go back where the input has a position.
                    let back = i64::try_from(got - written).unwrap_or(0);
                    if from_at.is_none() && from.ops().positioned() == Positioned::Yes {
                        from.seek(Seek::Cur, -back)?;
                    }
                    if let Some(at) = from_at {
                        *at = at.saturating_add(written as u64);
                    }
                    if let Some(at) = to_at {
                        *at = at.saturating_add(written as u64);
                    }
                    if moved + written > 0 {
                        return Ok(moved + written);
                    }
                    if e == Error::Errno(Errno::EPIPE) {
                        send_to_task(t, SigInfo::user(Signal::SIGPIPE, t.pid(), t.creds().ruid.0));
                    }
                    return Err(e);
                }
            }
        }
        for at in [&mut *from_at, &mut *to_at].into_iter().flatten() {
            *at = at.saturating_add(got as u64);
        }
        moved += got;
        // A stream gives what it has: no waiting for more.
        if from.ops().positioned() == Positioned::Stream {
            break;
        }
    }
    Ok(moved)
}

/// An offset the guest passed by address, None for NULL.
fn read_offset(t: &Task, addr: u64) -> Result<Option<u64>> {
    if addr == 0 {
        return Ok(None);
    }
    Ok(Some(offset(t.mm().read_obj::<i64>(addr)?)?))
}

fn write_offset(t: &Task, addr: u64, value: Option<u64>) -> Result<()> {
    match value {
        Some(value) => t.mm().write_obj(addr, &value),
        None => Ok(()),
    }
}

pub async fn sendfile(t: &Task, a: &Args) -> SysResult {
    let (to, from) = (t.file(a.int(0))?, t.file(a.int(1))?);
    readable(&from)?;
    writable(&to)?;
    if to.flags().contains(OpenFlags::APPEND) || from.inode().kind() == FileType::Dir {
        return Err(Errno::EINVAL.into());
    }
    let mut at = read_offset(t, a.u64(2))?;
    if at.is_some() && from.ops().positioned() == Positioned::Stream {
        return Err(Errno::ESPIPE.into());
    }
    let n = move_bytes(t, (&from, &mut at), (&to, &mut None), a.len(3).min(MAX_COUNT)).await?;
    write_offset(t, a.u64(2), at)?;
    Ok(n as u64)
}

pub async fn copy_file_range(t: &Task, a: &Args) -> SysResult {
    if a.uint(5) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (from, to) = (t.file(a.int(0))?, t.file(a.int(2))?);
    readable(&from)?;
    writable(&to)?;
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF.into());
    }
    for file in [&from, &to] {
        match file.inode().kind() {
            FileType::Regular => {}
            FileType::Dir => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    let (mut from_at, mut to_at) = (read_offset(t, a.u64(1))?, read_offset(t, a.u64(3))?);
    let len = a.len(4).min(MAX_COUNT);
    if Arc::ptr_eq(from.inode(), to.inode()) {
        let (x, y) = (from_at.unwrap_or(from.position()), to_at.unwrap_or(to.position()));
        if x.abs_diff(y) < len as u64 {
            return Err(Errno::EINVAL.into());
        }
    }
    let n = move_bytes(t, (&from, &mut from_at), (&to, &mut to_at), len).await?;
    write_offset(t, a.u64(1), from_at)?;
    write_offset(t, a.u64(3), to_at)?;
    Ok(n as u64)
}

fn is_pipe(file: &File) -> bool {
    file.inode().kind() == FileType::Fifo
}

const SPLICE_FLAGS: u32 = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;

pub async fn splice(t: &Task, a: &Args) -> SysResult {
    let len = a.len(4).min(MAX_COUNT);
    if a.uint(5) & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = (t.file(a.int(0))?, t.file(a.int(2))?);
    readable(&from)?;
    writable(&to)?;
    let (from_pipe, to_pipe) = (is_pipe(&from), is_pipe(&to));
    if !from_pipe && !to_pipe {
        return Err(Errno::EINVAL.into());
    }
    if from_pipe && a.u64(1) != 0 || to_pipe && a.u64(3) != 0 {
        return Err(Errno::ESPIPE.into());
    }
    if !to_pipe && to.flags().contains(OpenFlags::APPEND) || Arc::ptr_eq(from.inode(), to.inode()) {
        return Err(Errno::EINVAL.into());
    }
    let (mut from_at, mut to_at) = (read_offset(t, a.u64(1))?, read_offset(t, a.u64(3))?);
    if a.uint(5) & libc::SPLICE_F_NONBLOCK != 0 {
        let ready = |file: &File, events| !is_pipe(file) || file.ready().intersects(events);
        if !ready(&from, Ready::IN | Ready::HUP) || !ready(&to, Ready::OUT | Ready::ERR) {
            return Err(Errno::EAGAIN.into());
        }
    }
    // What a pipe's buffer holds at most, so that nothing read has to wait to be written.
    let n = move_bytes(t, (&from, &mut from_at), (&to, &mut to_at), len.min(65536)).await?;
    write_offset(t, a.u64(1), from_at)?;
    write_offset(t, a.u64(3), to_at)?;
    Ok(n as u64)
}

pub async fn tee(t: &Task, a: &Args) -> SysResult {
    let (from, to) = (t.file(a.int(0))?, t.file(a.int(1))?);
    readable(&from)?;
    writable(&to)?;
    if a.uint(3) & !SPLICE_FLAGS != 0 || !is_pipe(&from) || !is_pipe(&to) || Arc::ptr_eq(from.inode(), to.inode()) {
        return Err(Errno::EINVAL.into());
    }
    let len = a.len(2).min(65536);
    let mut data = vec![0u8; len];
    let got = wait_ready(t, &from, Ready::IN, || from.ops().peek(&from, &mut data)).await?;
    if got == 0 {
        return Ok(0);
    }
    let put = wait_ready(t, &to, Ready::OUT, || to.write(&mut Source::kernel(&data[..got]))).await?;
    Ok(put as u64)
}

pub async fn vmsplice(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    if a.uint(3) & !SPLICE_FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    if !is_pipe(&file) {
        return Err(Errno::EBADF.into());
    }
    let segments = iovec(t, a.u64(1), a.u64(2))?;
    if file.flags().writable() {
        write_file(t, &file, &t.mm(), segments, At::Current).await
    } else {
        read_file(t, &file, &t.mm(), segments, At::Current).await
    }
}

pub async fn ioctl(t: &Task, a: &Args) -> SysResult {
    const FIOASYNC: u32 = 0x5452;
    const FIOQSIZE: u32 = 0x5460;
    let (fd, cmd, arg) = (a.int(0), a.uint(1), a.u64(2));
    let file = t.file(fd)?;
    use crate::fs::fdtable::Exec;
    let mm = t.mm();
    let switch = |flag: OpenFlags| -> Result<()> {
        let on: i32 = mm.read_obj(arg)?;
        let mut flags = file.flags();
        flags.set(flag, on != 0);
        file.set_flags(flags);
        Ok(())
    };
    match cmd {
        c if c == libc::FIOCLEX as u32 => t.files().set_exec(fd, Exec::Close)?,
        c if c == libc::FIONCLEX as u32 => t.files().set_exec(fd, Exec::Keep)?,
        c if c == libc::FIONBIO as u32 => switch(OpenFlags::NONBLOCK)?,
        FIOASYNC => switch(OpenFlags::ASYNC)?,
        FIOQSIZE if matches!(file.inode().kind(), FileType::Regular | FileType::Dir | FileType::Symlink) => {
            mm.write_obj(arg, &file.attr()?.size)?;
        }
        c if c == libc::FIONREAD as u32 && file.inode().kind() == FileType::Regular => {
            let left = file.attr()?.size.saturating_sub(file.position());
            mm.write_obj(arg, &i32::try_from(left).unwrap_or(i32::MAX))?;
        }
        _ => return Ok(file.ops().ioctl(t, &file, cmd, arg)?),
    }
    Ok(0)
}

pub async fn fsync(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    file.ops().sync(&file)?;
    Ok(0)
}

pub async fn fdatasync(t: &Task, a: &Args) -> SysResult {
    fsync(t, a).await
}

/// What could be lost is written through at once or lives in memory.
pub async fn sync(_: &Task, _: &Args) -> SysResult {
    Ok(0)
}

pub async fn syncfs(t: &Task, a: &Args) -> SysResult {
    t.file(a.int(0))?;
    Ok(0)
}

pub async fn sync_file_range(t: &Task, a: &Args) -> SysResult {
    const FLAGS: u32 = 7;
    let file = t.file(a.int(0))?;
    let (start, len) = (a.i64(1), a.i64(2));
    if a.uint(3) & !FLAGS != 0 || start < 0 || len < 0 || start.checked_add(len).is_none() {
        return Err(Errno::EINVAL.into());
    }
    match file.inode().kind() {
        FileType::Regular | FileType::Block | FileType::Dir | FileType::Symlink => {}
        _ => return Err(Errno::ESPIPE.into()),
    }
    if a.uint(3) != 0 {
        file.ops().sync(&file)?;
    }
    Ok(0)
}

pub async fn fallocate(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    let (start, len) = (a.i64(2), a.i64(3));
    if start < 0 || len <= 0 {
        return Err(Errno::EINVAL.into());
    }
    writable(&file)?;
    if start.checked_add(len).is_none() {
        return Err(Errno::EFBIG.into());
    }
    match file.inode().kind() {
        FileType::Regular => {}
        FileType::Dir => return Err(Errno::EISDIR.into()),
        FileType::Fifo => return Err(Errno::ESPIPE.into()),
        _ => return Err(Errno::ENODEV.into()),
    }
    let limit = t.group().limits.lock().soft(libc::RLIMIT_FSIZE);
    if (start + len) as u64 > limit && a.int(1) & libc::FALLOC_FL_KEEP_SIZE == 0 {
        send_to_task(t, SigInfo::user(Signal::SIGXFSZ, t.pid(), t.creds().ruid.0));
        return Err(Errno::EFBIG.into());
    }
    file.ops().allocate(&file, a.int(1), start as u64, len as u64)?;
    Ok(0)
}

/// Advice changes nothing: the host's page cache is not ours to steer.
pub async fn fadvise64(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    if matches!(file.inode().kind(), FileType::Fifo | FileType::Socket) {
        return Err(Errno::ESPIPE.into());
    }
    if !(0..=5).contains(&a.int(3)) || a.i64(2) < 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

pub async fn readahead(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    readable(&file)?;
    if file.inode().kind() != FileType::Regular {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}
