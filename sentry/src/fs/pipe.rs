//! Pipes and FIFOs (pipe(7), fifo(7)).
//!
//! A [`Pipe`] is a bounded queue of chunks; a [`PipeEnd`] is an open end of it. A writer reserves
//! room, copies from the guest without the lock, and then hands its chunk over; a reader takes the
//! first chunk out and copies without the lock. Small writes are gathered in one chunk, whose
//! buffer is used again, so that a ping-pong allocates nothing.
//!
//! A write to a blocking end that does not fit returns a short count: the system-call layer waits
//! and goes on. It also raises SIGPIPE for EPIPE.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::errno::{Errno, Error, Result};
use crate::fs::anon::{Anon, anon_path};
use crate::fs::file::{File, FileOps, Positioned, WriteAt};
use crate::fs::inode::OpenFlags;
use crate::fs::path::PathRef;
use crate::fs::sigio::{Band, Subscribers};
use crate::kernel::cred::{Gid, Uid};
use crate::kernel::task::Task;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::mm::io::{Sink, Source};

/// Writes up to this many bytes are atomic.
pub const PIPE_BUF: usize = libc::PIPE_BUF;
/// Capacity of a new pipe, bytes.
pub const DEFAULT_CAPACITY: usize = 16 * PIPE_BUF;
/// /proc/sys/fs/pipe-max-size: the most an unprivileged process may ask for.
pub const MAX_CAPACITY: usize = 1 << 20;

/// Bytes that moved through a pipe together.
struct Chunk {
    data: Vec<u8>,
    start: usize,
    /// O_DIRECT: a read takes at most this chunk and forgets the rest.
    packet: bool,
}

impl Chunk {
    fn len(&self) -> usize {
        self.data.len() - self.start
    }
}

struct State {
    chunks: VecDeque<Chunk>,
    /// Bytes in `chunks`.
    used: usize,
    /// Chunks in `chunks` that are packets.
    packets: usize,
    /// Bytes that writers are copying now.
    reserved: usize,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// Ends opened so far, for the blocking rules of fifo(7).
    reader_opens: u64,
    writer_opens: u64,
    /// An empty buffer to use again.
    spare: Option<Vec<u8>>,
}

impl State {
    fn room(&self) -> usize {
        let by_bytes = self.capacity.saturating_sub(self.used + self.reserved);
        if self.packets > 0 && self.chunks.len() >= self.capacity / PIPE_BUF {
            return 0;
        }
        by_bytes
    }

    fn writable(&self) -> bool {
        self.room() >= PIPE_BUF
    }
}

/// See the module documentation.
pub struct Pipe {
    state: Mutex<State>,
    queue: WaitQueue,
    subscribers: Subscribers,
}

impl Default for Pipe {
    fn default() -> Self {
        Pipe {
            state: Mutex::new(State {
                chunks: VecDeque::new(),
                used: 0,
                packets: 0,
                reserved: 0,
                capacity: DEFAULT_CAPACITY,
                readers: 0,
                writers: 0,
                reader_opens: 0,
                writer_opens: 0,
                spare: None,
            }),
            queue: WaitQueue::new(),
            subscribers: Subscribers::default(),
        }
    }
}

impl Pipe {
    /// The pipe behind an open file, if it is one.
    pub fn of(file: &File) -> Option<Arc<Pipe>> {
        file.downcast::<PipeEnd>().map(|end| end.pipe.clone())
    }

    /// F_GETPIPE_SZ, bytes.
    pub fn capacity(&self) -> usize {
        self.state.lock().capacity
    }

    /// F_SETPIPE_SZ: rounded up to a power of two of pages.
    ///
    /// # Errors
    /// EINVAL, EPERM above [`MAX_CAPACITY`] without CAP_SYS_RESOURCE, EBUSY if more is in it.
    pub fn set_capacity(&self, task: &Task, size: u64) -> Result<usize> {
        let size = usize::try_from(size)
            .ok()
            .filter(|s| *s <= 1 << 31)
            .ok_or(Errno::EINVAL)?;
        let capacity = size.max(PIPE_BUF).next_power_of_two();
        if capacity > MAX_CAPACITY && !task.creds().has_cap(crate::kernel::cred::Cap::SysResource) {
            return Err(Errno::EPERM);
        }
        self.resize(capacity)
    }

    fn resize(&self, capacity: usize) -> Result<usize> {
        {
            let mut state = self.state.lock();
            if state.used + state.reserved > capacity {
                return Err(Errno::EBUSY);
            }
            state.capacity = capacity;
        }
        self.queue.wake(Ready::OUT | Ready::WRNORM);
        Ok(capacity)
    }

    /// Bytes that can be read (FIONREAD).
    pub fn readable_bytes(&self) -> usize {
        self.state.lock().used
    }

    /// Takes up to `want` bytes; EAGAIN if there are none, Ok(0) if no writer is left.
    fn read(&self, dst: &mut Sink<'_>) -> Result<usize> {
        let want = dst.remaining();
        let mut total = 0;
        while total < want {
            let (mut chunk, writable) = {
                let mut state = self.state.lock();
                let Some(chunk) = state.chunks.pop_front() else {
                    if total > 0 || state.writers == 0 {
                        break;
                    }
                    return Err(Errno::EAGAIN);
                };
                let was = state.writable();
                // What a reader has in its hands does not take up room.
                let taken = if chunk.packet {
                    chunk.len()
                } else {
                    chunk.len().min(want - total)
                };
                state.used -= taken;
                state.packets -= usize::from(chunk.packet);
                // The rest goes back before anybody else can look.
                let rest = chunk.len() - taken;
                let out = if rest == 0 {
                    chunk
                } else {
                    let part = Chunk {
                        data: chunk.data[chunk.start..chunk.start + taken].to_vec(),
                        start: 0,
                        packet: false,
                    };
                    let mut back = chunk;
                    back.start += taken;
                    state.chunks.push_front(back);
                    part
                };
                (out, !was && state.writable())
            };
            if writable {
                self.queue.wake(Ready::OUT | Ready::WRNORM);
            }
            let n = chunk.len().min(want - total);
            let put = dst.put(&chunk.data[chunk.start..chunk.start + n]);
            let done = *put.as_ref().unwrap_or(&0);
            total += done;
            let packet = chunk.packet;
            chunk.start += done;
            if done < n && !packet {
                // A bad address: what was not copied is still there.
                let mut state = self.state.lock();
                state.used += chunk.len();
                state.chunks.push_front(chunk);
            } else {
                self.recycle(chunk.data);
            }
            match put {
                Err(e) if total == 0 => return Err(e),
                _ if done < n || packet => break,
                _ => {}
            }
        }
        if total > 0 {
            self.subscribers.tell(Band::Out);
        }
        Ok(total)
    }

    fn recycle(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() == PIPE_BUF {
            buffer.clear();
            self.state.lock().spare = Some(buffer);
        }
    }

    /// Puts up to `len` bytes of `src`; EAGAIN if none (for atomic writes: not all) fit.
    fn write(&self, src: &mut Source<'_>, packet: bool) -> Result<usize> {
        let mut total = 0;
        while src.remaining() > 0 {
            let left = src.remaining();
            let (len, spare) = {
                let mut state = self.state.lock();
                if state.readers == 0 {
                    return if total > 0 {
                        Ok(total)
                    } else {
                        Err(Errno::EPIPE)
                    };
                }
                let room = state.room();
                let len = if packet {
                    left.min(PIPE_BUF)
                } else {
                    left.min(DEFAULT_CAPACITY)
                };
                let needed = if left <= PIPE_BUF { left } else { 1 };
                if room < needed || (packet && room < len) {
                    break;
                }
                let len = len.min(room);
                state.reserved += len;
                (len, state.spare.take())
            };
            let mut data = match spare {
                Some(spare) if len <= PIPE_BUF => spare,
                _ => Vec::with_capacity(len.max(PIPE_BUF)),
            };
            data.resize(len, 0);
            let got = src.take(&mut data);
            data.truncate(*got.as_ref().unwrap_or(&0));
            let n = data.len();
            {
                let mut state = self.state.lock();
                state.reserved -= len;
                state.push(data, packet);
            }
            if n > 0 {
                self.queue.wake(Ready::IN | Ready::RDNORM);
                self.subscribers.tell(Band::In);
            }
            total += n;
            match got {
                Err(e) if total == 0 => return Err(e),
                Ok(n) if n == len => {}
                _ => return Ok(total),
            }
        }
        if total == 0 {
            return Err(Errno::EAGAIN);
        }
        Ok(total)
    }

    /// tee(2): repeats up to `len` bytes of this pipe into `to`, and leaves them. EAGAIN if there is
    /// nothing or no room.
    pub fn tee(&self, to: &Pipe, len: usize) -> Result<usize> {
        let data = {
            let state = self.state.lock();
            if state.used == 0 {
                return if state.writers == 0 {
                    Ok(0)
                } else {
                    Err(Errno::EAGAIN)
                };
            }
            let mut data = Vec::with_capacity(len.min(state.used));
            for chunk in &state.chunks {
                let n = chunk.len().min(len - data.len());
                data.extend_from_slice(&chunk.data[chunk.start..chunk.start + n]);
            }
            data
        };
        {
            let mut state = to.state.lock();
            if state.readers == 0 {
                return Err(Errno::EPIPE);
            }
            let n = data.len().min(state.room());
            if n == 0 {
                return Err(Errno::EAGAIN);
            }
            let mut data = data;
            data.truncate(n);
            state.push(data, false);
            drop(state);
            to.queue.wake(Ready::IN | Ready::RDNORM);
            to.subscribers.tell(Band::In);
            Ok(n)
        }
    }

    fn enter(&self, flags: OpenFlags) {
        {
            let mut state = self.state.lock();
            if flags.readable() {
                state.readers += 1;
                state.reader_opens += 1;
            }
            if flags.writable() {
                state.writers += 1;
                state.writer_opens += 1;
            }
        }
        self.queue.wake_all();
    }

    fn leave(&self, flags: OpenFlags) {
        let one_left = {
            let mut state = self.state.lock();
            state.readers -= usize::from(flags.readable());
            state.writers -= usize::from(flags.writable());
            if state.readers == 0 && state.writers == 0 {
                state.chunks.clear();
                state.used = 0;
                state.packets = 0;
                state.spare = None;
            }
            (state.readers == 0) != (state.writers == 0)
        };
        self.queue.wake_all();
        if one_left {
            self.subscribers.tell(Band::In);
            self.subscribers.tell(Band::Out);
        }
    }
}

impl State {
    fn push(&mut self, mut data: Vec<u8>, packet: bool) {
        let n = data.len();
        if n == 0 {
            return;
        }
        self.used += n;
        self.packets += usize::from(packet);
        if let Some(last) = self.chunks.back_mut()
            && !packet
            && !last.packet
            && last.data.len() + n <= PIPE_BUF
        {
            last.data.extend_from_slice(&data);
            if data.capacity() == PIPE_BUF {
                data.clear();
                self.spare = Some(data);
            }
            return;
        }
        self.chunks.push_back(Chunk {
            data,
            start: 0,
            packet,
        });
    }
}

/// An open end of a pipe.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    /// Access mode.
    access: OpenFlags,
    /// Writers that had opened a FIFO before this reader: it sees no hang-up until one more has.
    seen_writers: Option<u64>,
}

/// pipe2(2): the read end and the write end. `flags`: O_NONBLOCK, O_DIRECT.
pub fn pipe(task: &Task, flags: OpenFlags) -> (Arc<File>, Arc<File>) {
    let creds = task.creds();
    pipe_of(creds.fsuid, creds.fsgid, flags)
}

/// As [`pipe`], for an owner.
pub fn pipe_of(uid: Uid, gid: Gid, flags: OpenFlags) -> (Arc<File>, Arc<File>) {
    ends(anon_path(Anon::Pipe, uid, gid), flags)
}

fn ends(path: PathRef, flags: OpenFlags) -> (Arc<File>, Arc<File>) {
    // Kept with the inode, so that /proc/PID/fd/N opens the same pipe.
    let pipe = path.inode().extra().object_or_insert(Arc::<Pipe>::default);
    let keep = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    let read = pipe.open_end(path.clone(), keep - OpenFlags::DIRECT, None);
    let write = pipe.open_end(path, keep | OpenFlags::WRONLY, None);
    (read, write)
}

impl Pipe {
    /// Enters the pipe at once; the description's end leaves it.
    fn open_end(
        self: &Arc<Self>,
        path: PathRef,
        flags: OpenFlags,
        seen_writers: Option<u64>,
    ) -> Arc<File> {
        self.enter(flags);
        let ops = PipeEnd {
            pipe: self.clone(),
            access: flags & (OpenFlags::WRONLY | OpenFlags::RDWR),
            seen_writers,
        };
        File::new(Arc::new(ops), path, flags)
    }
}

/// Opens a FIFO by the rules of fifo(7): waits for the other side unless O_NONBLOCK.
///
/// # Errors
/// ENXIO for a writer that does not wait while nobody reads; a restart when interrupted.
pub async fn open_fifo(task: &Task, path: PathRef, flags: OpenFlags) -> Result<Arc<File>, Error> {
    let pipe = path.inode().extra().object_or_insert(Arc::<Pipe>::default);
    // Without a name it was made with both sides: nobody waits for another.
    let nameless = path.dentry.parent().is_none();
    let nonblock = flags.contains(OpenFlags::NONBLOCK) || nameless;
    let (readers, opens) = {
        let state = pipe.state.lock();
        let opens = if flags.writable() {
            state.reader_opens
        } else {
            state.writer_opens
        };
        (state.readers, opens)
    };
    match (flags.readable(), flags.writable()) {
        (true, true) => return Ok(pipe.open_end(path, flags, None)),
        (false, true) if nonblock && !nameless && readers == 0 => return Err(Errno::ENXIO.into()),
        (false, false) => return Err(Errno::EINVAL.into()),
        _ => {}
    }
    let seen = (nonblock && flags.readable() && pipe.state.lock().writers == 0).then_some(opens);
    let file = pipe.open_end(path, flags, seen);
    if nonblock {
        return Ok(file);
    }
    let other = || {
        let state = pipe.state.lock();
        let (there, count) = if flags.writable() {
            (state.readers, state.reader_opens)
        } else {
            (state.writers, state.writer_opens)
        };
        if there > 0 || count != opens {
            Ok(())
        } else {
            Err(Errno::EAGAIN)
        }
    };
    match task.wait_on(&pipe.queue, Ready::all(), None, other).await {
        Ok(()) => Ok(file),
        Err(stop) => Err(stop.restart()),
    }
}

impl FileOps for PipeEnd {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, _offset: u64) -> Result<usize> {
        self.pipe.read(dst)
    }

    fn write_at(&self, file: &File, src: &mut Source<'_>, _at: WriteAt) -> Result<(usize, u64)> {
        if src.remaining() == 0 {
            return Ok((0, 0));
        }
        let packet = file.flags().contains(OpenFlags::DIRECT);
        self.pipe.write(src, packet).map(|n| (n, 0))
    }

    fn ready(&self, _file: &File) -> Ready {
        let state = self.pipe.state.lock();
        let mut ready = Ready::empty();
        if self.access.readable() {
            if state.used > 0 {
                ready |= Ready::IN | Ready::RDNORM;
            }
            if state.writers == 0 && self.seen_writers != Some(state.writer_opens) {
                ready |= Ready::HUP;
            }
        }
        if self.access.writable() {
            if state.writable() {
                ready |= Ready::OUT | Ready::WRNORM;
            }
            if state.readers == 0 {
                ready |= Ready::ERR;
            }
        }
        ready
    }

    fn subscribers(&self) -> Option<&Subscribers> {
        Some(&self.pipe.subscribers)
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn ioctl(&self, task: &Task, _file: &File, cmd: u32, arg: u64) -> Result<u64> {
        const FIONREAD: u32 = 0x541B;
        if cmd != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let n = i32::try_from(self.pipe.readable_bytes()).unwrap_or(i32::MAX);
        task.mm().write_obj(arg, &n)?;
        Ok(0)
    }

    fn release(&self, _file: &File) {
        self.pipe.leave(self.access);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(flags: OpenFlags) -> (Arc<File>, Arc<File>) {
        pipe_of(Uid(0), Gid(0), flags)
    }

    fn read(file: &File, len: usize) -> Result<Vec<u8>> {
        let mut buf = vec![0u8; len];
        let n = file.read(&mut Sink::kernel(&mut buf))?;
        buf.truncate(n);
        Ok(buf)
    }

    fn write(file: &File, data: &[u8]) -> Result<usize> {
        file.write(&mut Source::kernel(data))
    }

    #[test]
    fn bytes_come_out_in_order_whatever_the_sizes() {
        let (r, w) = new(OpenFlags::empty());
        assert_eq!(read(&r, 1), Err(Errno::EAGAIN));
        let data: Vec<u8> = (0..50_000u32).map(|i| i as u8).collect();
        for part in [&data[..1], &data[1..100], &data[100..9000], &data[9000..]] {
            assert_eq!(write(&w, part), Ok(part.len()));
        }
        let pipe = Pipe::of(&r).unwrap();
        assert_eq!(pipe.readable_bytes(), data.len());
        let mut out = read(&r, 3).unwrap();
        out.extend(read(&r, 12_345).unwrap());
        out.extend(read(&r, 100_000).unwrap());
        assert_eq!(out, data);
        assert_eq!(r.ready(), Ready::empty());
        drop(w);
        assert_eq!(r.ready(), Ready::HUP);
        assert_eq!(read(&r, 1), Ok(vec![]));
    }

    #[test]
    fn a_full_pipe_takes_part_of_a_big_write_and_nothing_of_an_atomic_one() {
        let (r, w) = new(OpenFlags::empty());
        assert_eq!(write(&w, &vec![1; 100_000]), Ok(DEFAULT_CAPACITY));
        assert_eq!(write(&w, b"x"), Err(Errno::EAGAIN));
        assert_eq!(w.ready(), Ready::empty());
        read(&r, 4095).unwrap();
        assert_eq!(write(&w, &[2; 4096]), Err(Errno::EAGAIN));
        assert!(!w.ready().contains(Ready::OUT));
        read(&r, 1).unwrap();
        assert!(w.ready().contains(Ready::OUT));
        assert_eq!(write(&w, &[2; 4096]), Ok(4096));
        drop(r);
        assert_eq!(write(&w, b"x"), Err(Errno::EPIPE));
        assert!(w.ready().contains(Ready::ERR));
    }

    #[test]
    fn packets_stay_apart_and_their_rest_is_lost() {
        let (r, w) = new(OpenFlags::DIRECT);
        write(&w, b"first").unwrap();
        write(&w, b"second").unwrap();
        assert_eq!(read(&r, 3), Ok(b"fir".to_vec()));
        assert_eq!(read(&r, 100), Ok(b"second".to_vec()));
        for _ in 0..16 {
            assert_eq!(write(&w, b"."), Ok(1));
        }
        assert_eq!(write(&w, b"."), Err(Errno::EAGAIN));
    }

    #[test]
    fn the_capacity_can_change() {
        let (_r, w) = new(OpenFlags::empty());
        let pipe = Pipe::of(&w).unwrap();
        write(&w, &vec![0; 9000]).unwrap();
        assert_eq!(pipe.resize(8192), Err(Errno::EBUSY));
        assert_eq!(pipe.resize(1 << 17), Ok(1 << 17));
        assert_eq!(write(&w, &vec![0; 1 << 17]), Ok((1 << 17) - 9000));
    }

    #[test]
    fn tee_leaves_what_it_copies() {
        let ((r, w), (r2, w2)) = (new(OpenFlags::empty()), new(OpenFlags::empty()));
        write(&w, b"abcdef").unwrap();
        let (from, to) = (Pipe::of(&r).unwrap(), Pipe::of(&w2).unwrap());
        assert_eq!(from.tee(&to, 4), Ok(4));
        assert_eq!(read(&r2, 10), Ok(b"abcd".to_vec()));
        assert_eq!(read(&r, 10), Ok(b"abcdef".to_vec()));
        assert_eq!(from.tee(&to, 4), Err(Errno::EAGAIN));
    }
}
