//! Bytes on their way through a stream socket.
//!
//! A [`ByteQueue`] is a list of pieces of buffers. A writer fills a buffer without any lock and then
//! puts it in; a reader takes a piece out, copies it without the lock and gives the buffer back to
//! the [`Pool`], from which the next writer has it: nothing is allocated or cleared on the way. What
//! all queues hold together is counted, and bounded.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::mm::io::Source;

/// Sizes of buffers, bytes.
const SMALL: usize = 4096;
const LARGE: usize = 64 * 1024;
/// Buffers kept for later use.
const SPARE_SMALL: usize = 256;
const SPARE_LARGE: usize = 32;
/// What the queues of a sandbox hold at most, bytes. Beyond it a queue gets one small buffer at a
/// time, so that all still move.
const MAX_HELD: usize = 256 << 20;

type Buffer = Arc<Box<[u8]>>;

/// See the module documentation.
#[derive(Default)]
pub struct Pool {
    spare: Mutex<Spare>,
    held: AtomicUsize,
}

#[derive(Default)]
struct Spare {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
}

impl Pool {
    /// Bytes of all buffers in queues.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether more than is good for the sandbox is in use.
    pub fn exhausted(&self) -> bool {
        self.held() >= MAX_HELD
    }

    /// Counts memory that is not a buffer of the pool (messages). False, and not counted, if there
    /// is too much of it.
    pub fn charge(&self, bytes: usize) -> bool {
        if self.exhausted() {
            return false;
        }
        self.held.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    pub fn uncharge(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn take(&self, len: usize) -> Buffer {
        let small = len <= SMALL;
        let size = if small { SMALL } else { LARGE };
        self.held.fetch_add(size, Ordering::Relaxed);
        let mut spare = self.spare.lock();
        let list = if small {
            &mut spare.small
        } else {
            &mut spare.large
        };
        let found = list.pop();
        drop(spare);
        Arc::new(found.unwrap_or_else(|| vec![0; size].into_boxed_slice()))
    }

    fn give(&self, buffer: Buffer) {
        // Else somebody still reads another piece of it: the last one gives it back.
        let Some(buffer) = Arc::into_inner(buffer) else {
            return;
        };
        let size = buffer.len();
        self.held.fetch_sub(size, Ordering::Relaxed);
        let mut spare = self.spare.lock();
        let (list, max) = if size == SMALL {
            (&mut spare.small, SPARE_SMALL)
        } else {
            (&mut spare.large, SPARE_LARGE)
        };
        if list.len() < max {
            list.push(buffer);
        }
    }
}

/// A part of a buffer.
pub struct Piece {
    buffer: Buffer,
    range: Range<usize>,
}

impl Piece {
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }

    /// Fills a buffer with up to `max` bytes of `src`. Empty if there are none.
    ///
    /// # Errors
    /// EFAULT if nothing could be read.
    pub fn fill(pool: &Pool, src: &mut Source<'_>, max: usize) -> Result<Piece> {
        let want = src.remaining().min(max).min(LARGE);
        let mut buffer = pool.take(want);
        let got = match Arc::get_mut(&mut buffer) {
            Some(bytes) => src.take(&mut bytes[..want]),
            // Buffers of the pool have one owner.
            None => Err(Errno::ENOMEM),
        };
        match got {
            Ok(n) => Ok(Piece {
                buffer,
                range: 0..n,
            }),
            Err(e) => {
                pool.give(buffer);
                Err(e)
            }
        }
    }

    /// Done with it.
    pub fn release(self, pool: &Pool) {
        pool.give(self.buffer);
    }

    /// Gives up the first `n` bytes.
    pub fn skip(&mut self, n: usize) {
        self.range.start += n.min(self.range.len());
    }
}

/// Bytes in order.
#[derive(Default)]
pub struct ByteQueue {
    pieces: VecDeque<Piece>,
    len: usize,
}

impl ByteQueue {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a piece at the end; the bytes of a small one are moved behind the last one's, if they
    /// fit there.
    pub fn push(&mut self, pool: &Pool, piece: Piece) {
        let n = piece.range.len();
        self.len += n;
        if n > 0
            && n < SMALL
            && let Some(last) = self.pieces.back_mut()
            && last.buffer.len() - last.range.end >= n
            && let Some(bytes) = Arc::get_mut(&mut last.buffer)
        {
            bytes[last.range.end..last.range.end + n].copy_from_slice(piece.bytes());
            last.range.end += n;
            piece.release(pool);
        } else if n > 0 {
            self.pieces.push_back(piece);
        } else {
            piece.release(pool);
        }
    }

    /// Takes up to `max` bytes from the front; None if there are none.
    pub fn pop(&mut self, max: usize) -> Option<Piece> {
        let first = self.pieces.front_mut()?;
        let n = first.range.len().min(max);
        self.len -= n;
        if n == first.range.len() {
            return self.pieces.pop_front();
        }
        let start = first.range.start;
        first.range.start += n;
        Some(Piece {
            buffer: first.buffer.clone(),
            range: start..start + n,
        })
    }

    /// Puts back what was popped last and not used.
    pub fn unpop(&mut self, piece: Piece) {
        self.len += piece.range.len();
        self.pieces.push_front(piece);
    }

    /// The first `max` bytes, which stay: as pieces.
    pub fn peek(&self, max: usize) -> Vec<Piece> {
        let mut left = max;
        let mut found = Vec::new();
        for piece in &self.pieces {
            let n = piece.range.len().min(left);
            if n == 0 {
                break;
            }
            left -= n;
            found.push(Piece {
                buffer: piece.buffer.clone(),
                range: piece.range.start..piece.range.start + n,
            });
        }
        found
    }

    /// Gives everything back.
    pub fn clear(&mut self, pool: &Pool) {
        self.len = 0;
        for piece in self.pieces.drain(..) {
            piece.release(pool);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(pool: &Pool, data: &[u8]) -> Piece {
        Piece::fill(pool, &mut Source::kernel(data), usize::MAX).unwrap()
    }

    #[test]
    fn bytes_keep_their_order_and_buffers_come_back() {
        let pool = Pool::default();
        let mut queue = ByteQueue::default();
        queue.push(&pool, piece(&pool, b"one"));
        queue.push(&pool, piece(&pool, b"two"));
        assert_eq!(
            (queue.len(), queue.pieces.len(), pool.held()),
            (6, 1, SMALL)
        );
        let part = queue.pop(4).unwrap();
        assert_eq!(part.bytes(), b"onet");
        // As long as the part is read nothing is written beside it.
        queue.push(&pool, piece(&pool, &[7; 5000]));
        assert_eq!(queue.pieces.len(), 2);
        part.release(&pool);
        assert_eq!(queue.peek(3)[0].bytes(), b"wo");
        let mut rest = queue.pop(9).unwrap();
        rest.skip(1);
        queue.unpop(rest);
        assert_eq!(queue.len(), 5001);
        queue.clear(&pool);
        assert_eq!((queue.len(), pool.held()), (0, 0));
    }
}
