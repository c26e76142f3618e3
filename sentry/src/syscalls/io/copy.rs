//! From file to file inside the kernel: sendfile, copy_file_range, splice, tee, vmsplice.
//!
//! All of them copy through a buffer of the Sentry; what they save the guest is the calls.

use std::sync::Arc;

use super::super::{Args, SysResult};
use super::writable;
use super::{MAX_RW, READ, iovec, readable, when_ready, write_from};
use crate::errno::{Errno, Error, Result};
use crate::fs::file::{File, Positioned};
use crate::fs::inode::{FileType, OpenFlags};
use crate::fs::pipe::Pipe;
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};

/// Bytes moved in one step.
const STEP: usize = 64 << 10;

/// An offset the guest passes by reference; 0: the file's position is used.
struct OffsetArg {
    addr: u64,
    value: u64,
}

impl OffsetArg {
    fn read(t: &Task, addr: u64) -> Result<Option<OffsetArg>> {
        if addr == 0 {
            return Ok(None);
        }
        let value: i64 = t.mm().read_obj(addr)?;
        let value = u64::try_from(value).map_err(|_| Errno::EINVAL)?;
        Ok(Some(OffsetArg { addr, value }))
    }

    fn write(&self, t: &Task) -> Result<()> {
        t.mm().write_obj(self.addr, &self.value)
    }
}

/// One end of a transfer.
struct End {
    file: Arc<File>,
    at: Option<OffsetArg>,
}

impl End {
    /// Reads a piece; at a position the caller gives back what was not used.
    async fn read(&mut self, t: &Task, buffer: &mut [u8], nonblock: bool) -> Result<usize, Error> {
        let file = &self.file;
        let at = self.at.as_ref().map(|o| o.value);
        let once = || {
            let mut sink = Sink::kernel(buffer);
            match at {
                Some(offset) => file.pread(&mut sink, offset),
                None => file.read(&mut sink),
            }
        };
        let n = unless_nonblock(t, file, READ, nonblock, once).await?;
        if let Some(at) = &mut self.at {
            at.value = at.value.saturating_add(n as u64);
        }
        Ok(n)
    }

    /// Takes back what was read but could not be written.
    fn unread(&mut self, n: usize) {
        match &mut self.at {
            Some(at) => at.value -= n as u64,
            None if self.file.ops().positioned() == Positioned::Yes => {
                self.file
                    .with_position(|pos| *pos = pos.saturating_sub(n as u64));
            }
            None => {}
        }
    }

    async fn write(&mut self, t: &Task, bytes: &[u8]) -> Result<usize, Error> {
        let mut source = Source::kernel(bytes);
        match &mut self.at {
            None => write_from(t, &self.file, &mut source).await,
            Some(at) => {
                let n = self.file.pwrite(&mut source, at.value)?;
                at.value = at.value.saturating_add(n as u64);
                Ok(n)
            }
        }
    }

    fn store(&self, t: &Task) -> Result<()> {
        match &self.at {
            Some(at) => at.write(t),
            None => Ok(()),
        }
    }
}

/// Moves up to `len` bytes. Stops early at the end of the input, when the output is full, and after
/// one step if the input is a stream.
async fn transfer(
    t: &Task,
    from: &mut End,
    to: &mut End,
    len: usize,
    nonblock: bool,
) -> Result<usize, Error> {
    let mut buffer = vec![0; len.min(STEP)];
    let mut done = 0;
    while done < len {
        let want = (len - done).min(STEP);
        let got = match from.read(t, &mut buffer[..want], nonblock).await {
            Ok(0) => break,
            Ok(got) => got,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        };
        let put = match to.write(t, &buffer[..got]).await {
            Ok(put) => put,
            Err(e) => {
                from.unread(got);
                if done > 0 {
                    break;
                }
                return Err(e);
            }
        };
        if put < got {
            from.unread(got - put);
        }
        done += put;
        if put < got || from.file.ops().positioned() == Positioned::Stream {
            break;
        }
    }
    Ok(done)
}

pub async fn sendfile(t: &Task, a: &Args) -> SysResult {
    let input = readable(t, a.int(1))?;
    let at = OffsetArg::read(t, a.u64(2))?;
    if at.is_some() && input.ops().positioned() == Positioned::Stream {
        return Err(Errno::ESPIPE.into());
    }
    let output = writable(t, a.int(0))?;
    let seekable = matches!(input.inode().kind(), FileType::Regular | FileType::Block)
        || input.ops().positioned() == Positioned::Yes;
    if output.flags().contains(OpenFlags::APPEND)
        || input.inode().kind() == FileType::Dir
        || !seekable
    {
        return Err(Errno::EINVAL.into());
    }
    let mut from = End { file: input, at };
    let mut to = End {
        file: output,
        at: None,
    };
    let done = transfer(t, &mut from, &mut to, a.len(3).min(MAX_RW), false).await?;
    from.store(t)?;
    Ok(done as u64)
}

pub async fn copy_file_range(t: &Task, a: &Args) -> SysResult {
    let (input, output) = (t.file(a.int(0))?, t.file(a.int(2))?);
    let (from_at, to_at) = (OffsetArg::read(t, a.u64(1))?, OffsetArg::read(t, a.u64(3))?);
    if a.uint(5) != 0 {
        return Err(Errno::EINVAL.into());
    }
    for file in [&input, &output] {
        match file.inode().kind() {
            FileType::Dir => return Err(Errno::EISDIR.into()),
            FileType::Regular => {}
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    if !input.flags().readable()
        || !output.flags().writable()
        || output.flags().contains(OpenFlags::APPEND)
    {
        return Err(Errno::EBADF.into());
    }
    let len = a.len(4).min(MAX_RW);
    if Arc::ptr_eq(input.inode(), output.inode()) {
        let start = |at: &Option<OffsetArg>, file: &File| match at {
            Some(at) => at.value,
            None => file.position(),
        };
        let (one, two) = (start(&from_at, &input), start(&to_at, &output));
        if one.abs_diff(two) < len as u64 {
            return Err(Errno::EINVAL.into());
        }
    }
    let mut from = End {
        file: input,
        at: from_at,
    };
    let mut to = End {
        file: output,
        at: to_at,
    };
    let done = transfer(t, &mut from, &mut to, len, false).await?;
    from.store(t)?;
    to.store(t)?;
    Ok(done as u64)
}

/// Waits until the operation can be done, or says EAGAIN (SPLICE_F_NONBLOCK).
async fn unless_nonblock<T>(
    t: &Task,
    file: &File,
    interest: Ready,
    nonblock: bool,
    mut operation: impl FnMut() -> Result<T>,
) -> Result<T, Error> {
    match nonblock {
        true => Ok(operation()?),
        false => when_ready(t, file, interest, operation).await,
    }
}

const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_F_ALL: u32 = 15;

pub async fn splice(t: &Task, a: &Args) -> SysResult {
    let flags = a.uint(5);
    if a.len(4) == 0 {
        return Ok(0);
    }
    if flags & !SPLICE_F_ALL != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (input, output) = (t.file(a.int(0))?, t.file(a.int(2))?);
    let (from_pipe, to_pipe) = (Pipe::of(&input), Pipe::of(&output));
    for (pipe, addr, file) in [
        (&from_pipe, a.u64(1), &input),
        (&to_pipe, a.u64(3), &output),
    ] {
        if addr != 0 && (pipe.is_some() || file.ops().positioned() == Positioned::Stream) {
            return Err(Errno::ESPIPE.into());
        }
    }
    let mut from = End {
        at: OffsetArg::read(t, a.u64(1))?,
        file: input,
    };
    let mut to = End {
        at: OffsetArg::read(t, a.u64(3))?,
        file: output,
    };
    if !from.file.flags().readable() || !to.file.flags().writable() {
        return Err(Errno::EBADF.into());
    }
    let same = matches!((&from_pipe, &to_pipe), (Some(one), Some(two)) if Arc::ptr_eq(one, two));
    if (from_pipe.is_none() && to_pipe.is_none())
        || same
        || to.file.flags().contains(OpenFlags::APPEND)
    {
        return Err(Errno::EINVAL.into());
    }
    let nonblock = flags & SPLICE_F_NONBLOCK != 0;
    let mut len = a.len(4).min(MAX_RW);
    if let Some(pipe) = &to_pipe {
        // What does not fit is not read: a stream could not take it back.
        let room = |pipe: &Pipe| match pipe.capacity().saturating_sub(pipe.readable_bytes()) {
            0 if to.file.ready().contains(Ready::ERR) => Ok(1),
            0 => Err(Errno::EAGAIN),
            room => Ok(room),
        };
        let room = unless_nonblock(t, &to.file, super::WRITE, nonblock, || room(pipe));
        len = len.min(room.await?);
    }
    let done = transfer(t, &mut from, &mut to, len, nonblock).await?;
    from.store(t)?;
    to.store(t)?;
    Ok(done as u64)
}

pub async fn tee(t: &Task, a: &Args) -> SysResult {
    let (len, flags) = (a.len(2), a.uint(3));
    if flags & !SPLICE_F_ALL != 0 {
        return Err(Errno::EINVAL.into());
    }
    if len == 0 {
        return Ok(0);
    }
    let (input, output) = (t.file(a.int(0))?, t.file(a.int(1))?);
    if !input.flags().readable() || !output.flags().writable() {
        return Err(Errno::EBADF.into());
    }
    let (Some(from), Some(to)) = (Pipe::of(&input), Pipe::of(&output)) else {
        return Err(Errno::EINVAL.into());
    };
    if Arc::ptr_eq(&from, &to) {
        return Err(Errno::EINVAL.into());
    }
    if flags & SPLICE_F_NONBLOCK != 0 || (input.nonblocking() && output.nonblocking()) {
        return Ok(from.tee(&to, len)? as u64);
    }
    // Waits for input first, then for room.
    when_ready(t, &input, READ, || {
        match input.ready().intersects(Ready::IN | Ready::HUP) {
            true => Ok(()),
            false => Err(Errno::EAGAIN),
        }
    })
    .await?;
    Ok(when_ready(t, &output, super::WRITE, || from.tee(&to, len)).await? as u64)
}

pub async fn vmsplice(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    if a.uint(3) & !SPLICE_F_ALL != 0 {
        return Err(Errno::EINVAL.into());
    }
    if Pipe::of(&file).is_none() {
        return Err(Errno::EBADF.into());
    }
    let segments = iovec(t, a.u64(1), a.len(2))?;
    // Neither way are the pages themselves taken; a pipe that has some room takes what fits.
    let nonblock = a.uint(3) & SPLICE_F_NONBLOCK != 0;
    if !file.flags().writable() {
        let mut sink = Sink::user(t, &segments);
        let once = || file.read(&mut sink);
        return Ok(unless_nonblock(t, &file, READ, nonblock, once).await? as u64);
    }
    let mut source = Source::user(t, &segments);
    let once = || file.write(&mut source);
    let done = unless_nonblock(t, &file, super::WRITE, nonblock, once).await;
    if done == Err(Error::Errno(Errno::EPIPE)) {
        t.raise(libc::SIGPIPE);
    }
    Ok(done? as u64)
}
