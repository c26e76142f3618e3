//! eventfd(2): a counter that reads and writes.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::anon::{Anon, anon_file};
use crate::fs::file::{File, FileOps, Positioned, WriteAt};
use crate::fs::inode::OpenFlags;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::mm::io::{Sink, Source};

/// What a read takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The whole count.
    All,
    /// One (EFD_SEMAPHORE).
    One,
}

/// See the module documentation.
pub struct EventFd {
    count: Mutex<u64>,
    take: Take,
    queue: WaitQueue,
}

/// A new event file. `flags`: O_NONBLOCK.
pub fn eventfd(count: u64, take: Take, flags: OpenFlags) -> Arc<File> {
    let ops = EventFd {
        count: Mutex::new(count),
        take,
        queue: WaitQueue::new(),
    };
    anon_file(
        Anon::Inode("[eventfd]"),
        Arc::new(ops),
        flags | OpenFlags::RDWR,
    )
}

impl EventFd {
    /// Adds to the counter. EAGAIN if it would pass u64::MAX - 1.
    pub fn add(&self, value: u64) -> Result<()> {
        {
            let mut count = self.count.lock();
            if value > u64::MAX - 1 - *count {
                return Err(Errno::EAGAIN);
            }
            *count += value;
        }
        self.queue.wake(Ready::IN | Ready::RDNORM);
        Ok(())
    }
}

impl FileOps for EventFd {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, _offset: u64) -> Result<usize> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = {
            let mut count = self.count.lock();
            if *count == 0 {
                return Err(Errno::EAGAIN);
            }
            let value = if self.take == Take::One { 1 } else { *count };
            *count -= value;
            value
        };
        self.queue.wake(Ready::OUT | Ready::WRNORM);
        dst.put(&value.to_ne_bytes())
    }

    fn write_at(&self, _file: &File, src: &mut Source<'_>, _at: WriteAt) -> Result<(usize, u64)> {
        if src.remaining() != 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0u8; 8];
        if src.peek(&mut bytes)? < 8 {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        self.add(value)?;
        src.skip(8);
        Ok((8, 0))
    }

    fn ready(&self, _file: &File) -> Ready {
        let count = *self.count.lock();
        let mut ready = Ready::empty();
        if count > 0 {
            ready |= Ready::IN | Ready::RDNORM;
        }
        if count == u64::MAX {
            ready |= Ready::ERR;
        }
        if count < u64::MAX - 1 {
            ready |= Ready::OUT | Ready::WRNORM;
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn fdinfo(&self, _file: &File) -> String {
        format!("eventfd-count: {:16x}\n", *self.count.lock())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &File) -> Result<u64> {
        let mut buf = [0u8; 8];
        file.read(&mut Sink::kernel(&mut buf))?;
        Ok(u64::from_ne_bytes(buf))
    }

    fn write(file: &File, v: u64) -> Result<usize> {
        file.write(&mut Source::kernel(&v.to_ne_bytes()))
    }

    #[test]
    fn counts_and_limits() {
        let file = eventfd(3, Take::All, OpenFlags::empty());
        assert_eq!(write(&file, 4), Ok(8));
        assert_eq!(read(&file), Ok(7));
        assert_eq!(read(&file), Err(Errno::EAGAIN));
        assert_eq!(write(&file, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(write(&file, u64::MAX - 1), Ok(8));
        assert_eq!(write(&file, 1), Err(Errno::EAGAIN));
        assert_eq!(file.ready(), Ready::IN | Ready::RDNORM);
        let mut small = [0u8; 7];
        let short = file.read(&mut Sink::kernel(&mut small));
        assert_eq!(short, Err(Errno::EINVAL));
    }

    #[test]
    fn a_semaphore_gives_one_at_a_time() {
        let file = eventfd(2, Take::One, OpenFlags::empty());
        assert_eq!((read(&file), read(&file)), (Ok(1), Ok(1)));
        assert_eq!(read(&file), Err(Errno::EAGAIN));
    }
}
