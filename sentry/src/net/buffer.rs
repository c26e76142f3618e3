//! Bytes on their way through a socket.
//!
//! A writer fills a buffer without any lock and hands over a [`Piece`] of it; a reader takes the
//! piece, copies it without a lock and drops it, which brings the buffer back to the [`Pool`], from
//! which the next writer has it: nothing is allocated or cleared on the way. A [`ByteQueue`] is a
//! stream of pieces. What the sockets of a sandbox hold together is counted, and bounded.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::mm::io::Source;

/// Sizes of buffers that are used again, bytes, and how many of each are kept.
const CLASSES: [(usize, usize); 3] = [(512, 256), (4096, 256), (LARGE, 32)];
pub const LARGE: usize = 64 * 1024;
/// A piece no larger than this is moved behind the one before it, if there is room.
const SMALL: usize = 4096;
/// What the sockets of a sandbox hold at most, bytes. Beyond it a queue gets one small piece at a
/// time, so that all still move.
const MAX_HELD: usize = 256 << 20;

/// Memory that counts as long as this lives.
pub struct Charge {
    pool: Arc<Pool>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.uncharge(self.bytes);
    }
}

/// See the module documentation.
#[derive(Default)]
pub struct Pool {
    spare: Mutex<[Vec<Box<[u8]>>; CLASSES.len()]>,
    held: AtomicUsize,
}

impl Pool {
    /// Bytes of all buffers in use, and of what was charged.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether more than is good for the sandbox is in use.
    pub fn exhausted(&self) -> bool {
        self.held() >= MAX_HELD
    }

    /// What a queue that holds `used` bytes and may hold `limit` has room for.
    pub fn room(&self, limit: usize, used: usize) -> usize {
        let limit = if self.exhausted() {
            SMALL.min(limit)
        } else {
            limit
        };
        limit.saturating_sub(used)
    }

    /// Counts memory that is not a buffer of the pool (a socket, a message). False, and not counted,
    /// if there is too much of it.
    pub fn charge(&self, bytes: usize) -> bool {
        if self.exhausted() {
            return false;
        }
        self.held.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// As [`Pool::charge`], until what it gives is dropped.
    pub fn charged(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let pool = self.clone();
        self.charge(bytes).then_some(Charge { pool, bytes })
    }

    pub fn uncharge(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn take(self: &Arc<Self>, len: usize) -> Arc<Buffer> {
        let class = CLASSES.iter().position(|(size, _)| len <= *size);
        let size = class.map_or(len, |c| CLASSES[c].0);
        self.held.fetch_add(size, Ordering::Relaxed);
        let spare = class.and_then(|c| self.spare.lock()[c].pop());
        Arc::new(Buffer {
            bytes: spare.unwrap_or_else(|| vec![0; size].into_boxed_slice()),
            pool: self.clone(),
        })
    }
}

struct Buffer {
    bytes: Box<[u8]>,
    pool: Arc<Pool>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.pool.held.fetch_sub(bytes.len(), Ordering::Relaxed);
        let class = CLASSES.iter().position(|(size, _)| *size == bytes.len());
        if let Some(class) = class {
            let mut spare = self.pool.spare.lock();
            if spare[class].len() < CLASSES[class].1 {
                spare[class].push(bytes);
            }
        }
    }
}

/// A part of a buffer.
#[derive(Clone)]
pub struct Piece {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

impl Piece {
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.bytes[self.range.clone()]
    }

    pub fn len(&self) -> usize {
        self.range.len()
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Takes up to `max` bytes of `src`.
    ///
    /// # Errors
    /// EFAULT if nothing could be read.
    pub fn fill(pool: &Arc<Pool>, src: &mut Source<'_>, max: usize) -> Result<Piece> {
        Self::make(pool, src.remaining().min(max), |bytes| src.take(bytes))
    }

    /// As [`fill`](Self::fill) for all of `src`, which stays there.
    pub fn look(pool: &Arc<Pool>, src: &mut Source<'_>) -> Result<Piece> {
        Self::make(pool, src.remaining(), |bytes| src.peek(bytes))
    }

    fn make(
        pool: &Arc<Pool>,
        want: usize,
        copy: impl FnOnce(&mut [u8]) -> Result<usize>,
    ) -> Result<Piece> {
        let mut buffer = pool.take(want);
        // It is new, and nobody else's.
        let inner = Arc::get_mut(&mut buffer).ok_or(Errno::ENOMEM)?;
        let n = if want == 0 {
            0
        } else {
            copy(&mut inner.bytes[..want])?
        };
        Ok(Piece {
            buffer,
            range: 0..n,
        })
    }

    /// The first `n` bytes, which this piece has no more.
    pub fn split(&mut self, n: usize) -> Piece {
        let first = Piece {
            buffer: self.buffer.clone(),
            range: self.range.start..self.range.start + n.min(self.range.len()),
        };
        self.range.start = first.range.end;
        first
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
    pub fn push(&mut self, piece: Piece) {
        let n = piece.len();
        if n == 0 {
            return;
        }
        self.len += n;
        if n <= SMALL
            && let Some(last) = self.pieces.back_mut()
            && let Some(buffer) = Arc::get_mut(&mut last.buffer)
            && let Some(room) = buffer.bytes.get_mut(last.range.end..last.range.end + n)
        {
            room.copy_from_slice(piece.bytes());
            last.range.end += n;
        } else {
            self.pieces.push_back(piece);
        }
    }

    /// Takes up to `max` bytes from the front; None if there are none.
    pub fn pop(&mut self, max: usize) -> Option<Piece> {
        let first = self.pieces.front_mut()?;
        let n = first.len().min(max);
        self.len -= n;
        if n == first.len() {
            self.pieces.pop_front()
        } else {
            Some(first.split(n))
        }
    }

    /// Puts back what was popped last and not used.
    pub fn unpop(&mut self, piece: Piece) {
        self.len += piece.len();
        self.pieces.push_front(piece);
    }

    /// The first `max` bytes, which stay: as pieces.
    pub fn peek(&self, max: usize) -> Vec<Piece> {
        let mut left = max;
        let mut found = Vec::new();
        for piece in &self.pieces {
            let part = piece.clone().split(left);
            if part.is_empty() {
                break;
            }
            left -= part.len();
            found.push(part);
        }
        found
    }

    pub fn clear(&mut self) {
        self.len = 0;
        self.pieces.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(pool: &Arc<Pool>, data: &[u8]) -> Piece {
        Piece::fill(pool, &mut Source::kernel(data), usize::MAX).unwrap()
    }

    #[test]
    fn bytes_keep_their_order_and_buffers_come_back() {
        let pool = Arc::new(Pool::default());
        let mut queue = ByteQueue::default();
        queue.push(piece(&pool, b"one"));
        queue.push(piece(&pool, b"two"));
        assert_eq!((queue.len(), queue.pieces.len(), pool.held()), (6, 1, 512));
        let part = queue.pop(4).unwrap();
        assert_eq!(part.bytes(), b"onet");
        // As long as the part is read nothing is written beside it.
        queue.push(piece(&pool, &[7; 400]));
        assert_eq!(queue.pieces.len(), 2);
        drop(part);
        assert_eq!(queue.peek(3)[0].bytes(), b"wo");
        let mut rest = queue.pop(9).unwrap();
        rest.skip(1);
        queue.unpop(rest);
        assert_eq!(queue.len(), 401);
        queue.push(piece(&pool, &[7; 100_000]));
        queue.clear();
        assert_eq!((queue.len(), pool.held()), (0, 0));
        let spare = pool.spare.lock();
        assert_eq!(spare.each_ref().map(Vec::len), [2, 0, 0]);
    }

    #[test]
    fn a_sandbox_that_holds_too_much_goes_on_in_small_steps() {
        let pool = Pool::default();
        assert_eq!(pool.room(100_000, 10), 99_990);
        assert!(pool.charge(MAX_HELD));
        assert!(!pool.charge(1));
        assert_eq!(
            (pool.room(100_000, 0), pool.room(100_000, 10)),
            (4096, 4086)
        );
        assert_eq!(pool.room(100_000, 5000), 0);
        pool.uncharge(MAX_HELD);
        assert_eq!(pool.held(), 0);
    }
}
