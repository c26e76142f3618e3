//! Sending and receiving.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::info::LOOPBACK_MSS;
use super::{Phase, QUEUE, Tcp};
use crate::errno::{Errno, Result};
use crate::fs::sigio::Band;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::buffer::{ByteQueue, LARGE, Piece};
use crate::net::socket::{Outgoing, Received};

/// What a buffer adds to a queue: as much as the program asked for, if it did.
pub(super) fn room(buffer: usize, asked: bool) -> usize {
    if asked { buffer } else { QUEUE }
}

/// A byte sent with MSG_OOB.
#[derive(Clone, Copy)]
pub(super) struct Urgent {
    /// Where in the stream it is.
    pub at: u64,
    byte: u8,
    /// recv(2) with MSG_OOB had it.
    taken: bool,
}

/// What has come and was not read.
pub(super) struct Inbox {
    pub queue: ByteQueue,
    /// Position in the stream of the first byte of `queue`.
    head: u64,
    pub urgent: Option<Urgent>,
    /// What the receive buffer holds, bytes.
    pub capacity: usize,
    /// A sender found less room than it likes; told when no more than this many bytes are left.
    tell_below: Option<usize>,
    /// Bytes at the end of `queue` that the sender holds back (TCP_CORK, MSG_MORE).
    pub held: usize,
    /// The listener that does not tell of this connection before something comes.
    pub deferring: Option<Weak<Tcp>>,
    /// The peer sends no more.
    pub fin: bool,
    /// Nobody wants more (shutdown(2), or the connection is no more).
    pub shut: bool,
    pub closed: bool,
}

impl Inbox {
    pub fn new(capacity: usize) -> Inbox {
        Inbox {
            queue: ByteQueue::default(),
            head: 0,
            urgent: None,
            capacity,
            tell_below: None,
            held: 0,
            deferring: None,
            fin: false,
            shut: false,
            closed: false,
        }
    }

    /// For a new connection.
    pub fn restart(&mut self) {
        self.urgent = None;
        self.tell_below = None;
        self.held = 0;
        self.fin = false;
        self.shut = false;
    }

    /// Bytes that have come in all, but for those that the sender holds back.
    pub fn received(&self) -> u64 {
        self.head + self.visible() as u64
    }

    /// Bytes that have come, as far as the reader can know.
    pub fn visible(&self) -> usize {
        self.queue.len() - self.held
    }

    /// `n` bytes were added, which the sender holds back but for whole segments; true if there is
    /// more to see now.
    fn hold(&mut self, n: usize) -> bool {
        self.held += n;
        let whole = self.held >= LOOPBACK_MSS as usize;
        self.held %= LOOPBACK_MSS as usize;
        whole
    }

    /// At the urgent byte.
    pub fn at_mark(&self) -> bool {
        self.urgent.is_some_and(|u| u.at == self.head)
    }

    /// There is an urgent byte to be had with MSG_OOB.
    pub fn has_urgent(&self, inline: bool) -> bool {
        self.urgent.is_some_and(|u| !u.taken && !inline)
    }

    /// Bytes that a read gives, up to the urgent one (SIOCINQ).
    pub fn readable(&self, inline: bool) -> usize {
        match self.urgent {
            Some(u) if !inline && u.at > self.head => (u.at - self.head) as usize,
            Some(u) if !inline && u.at == self.head => self.visible() - 1,
            _ => self.visible(),
        }
    }

    /// Takes up to `max` bytes. `begun`: the caller has some already, and stops at the mark.
    fn pop(&mut self, max: usize, begun: bool, inline: bool) -> Option<Piece> {
        let mut max = max;
        if let Some(urgent) = self.urgent {
            if urgent.at == self.head {
                if begun {
                    return None;
                }
                if !inline && self.queue.pop(1).is_some() {
                    self.head += 1;
                    self.urgent = None;
                }
            } else if urgent.at > self.head {
                max = max.min((urgent.at - self.head) as usize);
            }
        }
        max = max.min(self.visible());
        if max == 0 {
            return None;
        }
        let piece = self.queue.pop(max)?;
        self.head += piece.len() as u64;
        // Read past it.
        if self.urgent.is_some_and(|u| u.at < self.head) {
            self.urgent = None;
        }
        Some(piece)
    }

    fn unpop(&mut self, piece: Piece) {
        self.head -= piece.len() as u64;
        self.queue.unpop(piece);
    }

    /// Whether the sender is to be told that there is room.
    fn room_again(&mut self) -> bool {
        let tell = self.tell_below.is_some_and(|n| self.queue.len() <= n);
        if tell {
            self.tell_below = None;
        }
        tell
    }
}

/// Linux: a third of the buffer has to be free.
fn low(limit: usize) -> usize {
    limit / 3 * 2
}

impl Tcp {
    /// Where bytes go. EPIPE, EAGAIN while connecting, or why the connection ended.
    fn destination(&self) -> Result<Option<Arc<Tcp>>> {
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        match &state.phase {
            Phase::Connecting(_) => Err(Errno::EAGAIN),
            Phase::Connected(link) if !state.shut_write => Ok(link.peer.upgrade()),
            _ => Err(Errno::EPIPE),
        }
    }

    /// Sends as many bytes of `src` as there is room for.
    pub(super) fn send_bytes(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize> {
        let pool = &self.common.stack.pool;
        let mut total = 0;
        loop {
            let peer = match self.destination() {
                Ok(peer) => peer,
                Err(_) if total > 0 => return Ok(total),
                Err(e) => return Err(e),
            };
            if src.remaining() == 0 {
                return Ok(total);
            }
            // Closed: what is sent now is answered with a RST.
            let Some(peer) = peer.filter(|p| !p.inbox.lock().closed) else {
                let n = src.remaining();
                src.skip(n);
                self.reset();
                return Ok(total + n);
            };
            let room = {
                let mut inbox = peer.inbox.lock();
                let limit = inbox.capacity + self.send_room.load(Ordering::Relaxed);
                let used = inbox.queue.len();
                let room = pool.room(limit, used);
                if room == 0 {
                    inbox.tell_below = Some(if used > low(limit) { low(limit) } else { 0 });
                }
                room
            };
            if room == 0 {
                // Whoever waits for room does not hide what is in the way.
                peer.show_all();
                return if total > 0 {
                    Ok(total)
                } else {
                    Err(Errno::EAGAIN)
                };
            }
            let want = src.remaining().min(room).min(LARGE);
            let piece = match Piece::fill(pool, src, want) {
                Ok(piece) => piece,
                Err(_) if total > 0 => return Ok(total),
                Err(e) => return Err(e),
            };
            let n = piece.len();
            let urgent = out.flags & libc::MSG_OOB != 0 && src.remaining() == 0;
            let more = out.flags & libc::MSG_MORE != 0 || self.corked.load(Ordering::Relaxed);
            let (shown, deferring) = {
                let mut inbox = peer.inbox.lock();
                let last = piece.bytes().last().copied();
                inbox.queue.push(piece);
                if let Some(byte) = last.filter(|_| urgent) {
                    let at = inbox.head + inbox.queue.len() as u64 - 1;
                    inbox.urgent = Some(Urgent {
                        at,
                        byte,
                        taken: false,
                    });
                }
                let shown = if more && !urgent {
                    inbox.hold(n)
                } else {
                    inbox.held = 0;
                    true
                };
                if inbox.closed {
                    inbox.queue.clear();
                    inbox.held = 0;
                }
                (shown, inbox.deferring.is_some())
            };
            if more {
                self.limit_cork();
            }
            let mut ready = Ready::IN | Ready::RDNORM;
            if urgent {
                ready |= Ready::PRI;
                peer.common.tell_urgent();
            }
            if shown {
                peer.common.tell(ready, Band::In);
                if deferring {
                    peer.admit();
                }
            }
            self.common.stack.loopback.segment(self.wire(&peer), n);
            total += n;
            if n < want {
                return Ok(total);
            }
        }
    }

    /// What an empty inbox means.
    fn nothing(&self) -> Result<Received> {
        if self.inbox.lock().fin {
            return Ok(Received::default());
        }
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            state.untold = false;
            return Err(error);
        }
        let connected = matches!(state.phase, Phase::Connected(_) | Phase::Connecting(_));
        let done = matches!(state.phase, Phase::Done);
        drop(state);
        if self.inbox.lock().shut || done {
            return Ok(Received::default());
        }
        Err(if connected {
            Errno::EAGAIN
        } else {
            Errno::ENOTCONN
        })
    }

    /// The sender holds nothing back any more.
    pub(super) fn show_all(&self) {
        let held = std::mem::take(&mut self.inbox.lock().held);
        if held > 0 {
            self.common.tell(Ready::IN | Ready::RDNORM, Band::In);
            self.admit();
        }
    }

    /// Whoever sends here may go on.
    fn tell_room(&self) {
        if let Some(peer) = self.link().and_then(|l| l.peer.upgrade()) {
            peer.common.tell(Ready::OUT | Ready::WRNORM, Band::Out);
        }
    }

    pub(super) fn receive_bytes(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
        if flags & libc::MSG_OOB != 0 {
            return self.receive_urgent(dst, flags);
        }
        if flags & libc::MSG_PEEK != 0 {
            return self.peek_bytes(dst);
        }
        let inline = self.common.options.lock().oob_inline;
        let discard = flags & libc::MSG_TRUNC != 0;
        let mut total = 0;
        while dst.remaining() > 0 {
            let (piece, room) = {
                let mut inbox = self.inbox.lock();
                let want = dst.remaining().min(LARGE);
                let piece = inbox.pop(want, total > 0, inline);
                (piece, inbox.room_again())
            };
            if room {
                self.tell_room();
            }
            let Some(mut piece) = piece else {
                if total > 0 {
                    break;
                }
                return self.nothing();
            };
            let n = piece.len();
            if discard {
                total += n;
                break;
            }
            let put = dst.put(piece.bytes());
            let done = *put.as_ref().unwrap_or(&0);
            total += done;
            if done < n {
                // What could not be copied out is still there.
                piece.skip(done);
                self.inbox.lock().unpop(piece);
                match put {
                    Err(e) if total == 0 => return Err(e),
                    _ => break,
                }
            }
        }
        Ok(Received {
            count: total,
            full: total,
            ..Received::default()
        })
    }

    fn peek_bytes(&self, dst: &mut Sink<'_>) -> Result<Received> {
        let inline = self.common.options.lock().oob_inline;
        let pieces = {
            let inbox = self.inbox.lock();
            inbox
                .queue
                .peek(inbox.readable(inline).min(dst.remaining()))
        };
        if pieces.is_empty() {
            return if dst.remaining() == 0 {
                Ok(Received::default())
            } else {
                self.nothing()
            };
        }
        let mut total = 0;
        let mut failed = None;
        for piece in pieces {
            if failed.is_none() {
                match dst.put(piece.bytes()) {
                    Ok(n) => total += n,
                    Err(e) => failed = Some(e),
                }
            }
        }
        match failed {
            Some(e) if total == 0 => Err(e),
            _ => Ok(Received {
                count: total,
                full: total,
                ..Received::default()
            }),
        }
    }

    /// recv(2) with MSG_OOB. EINVAL if there is no urgent byte.
    fn receive_urgent(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
        let inline = self.common.options.lock().oob_inline;
        if self.link().is_none() {
            return Err(Errno::ENOTCONN);
        }
        let mut inbox = self.inbox.lock();
        let urgent = inbox.urgent.filter(|u| !u.taken && !inline);
        let urgent = urgent.ok_or(Errno::EINVAL)?;
        if flags & libc::MSG_PEEK == 0 {
            inbox.urgent = Some(Urgent {
                taken: true,
                ..urgent
            });
        }
        drop(inbox);
        let count = if dst.remaining() > 0 {
            dst.put(&[urgent.byte])?
        } else {
            0
        };
        let cut = if count == 0 { libc::MSG_TRUNC } else { 0 };
        Ok(Received {
            count,
            full: count,
            flags: libc::MSG_OOB | cut,
            ..Received::default()
        })
    }

    /// What poll(2) shows.
    pub(super) fn readiness(&self) -> Ready {
        if let Some(host) = self.outside() {
            return host.ready();
        }
        let readable = Ready::IN | Ready::RDNORM;
        let writable = Ready::OUT | Ready::WRNORM;
        let (inline, low_mark) = {
            let options = self.common.options.lock();
            (options.oob_inline, options.receive_low)
        };
        let mut ready = Ready::empty();
        let (peer, shut_write, closed) = {
            let state = self.state.lock();
            if state.error.is_some() {
                ready |= Ready::ERR;
            }
            match &state.phase {
                Phase::Listening(l) if l.pending.is_empty() => {
                    drop(state);
                    let outer = self.outer.get();
                    let comes = outer.is_some_and(|host| host.ready().contains(Ready::IN));
                    return if comes { ready | readable } else { ready };
                }
                Phase::Listening(_) => return ready | readable,
                Phase::Connecting(_) => return ready,
                Phase::Connected(link) => (link.peer.upgrade(), state.shut_write, false),
                _ => (None, state.shut_write, true),
            }
        };
        {
            let inbox = self.inbox.lock();
            let ended = inbox.fin || inbox.shut;
            if inbox.readable(inline) >= low_mark.max(1) || ended {
                ready |= readable;
            }
            if ended {
                ready |= Ready::RDHUP;
            }
            if closed || (ended && shut_write) {
                ready |= Ready::HUP;
            }
            if inbox.has_urgent(inline) {
                ready |= Ready::PRI;
            }
        }
        let room = shut_write
            || peer.is_none_or(|peer| {
                let mut inbox = peer.inbox.lock();
                let limit = inbox.capacity + self.send_room.load(Ordering::Relaxed);
                let room = inbox.queue.len() <= low(limit);
                if !room {
                    inbox.tell_below = Some(low(limit));
                }
                room
            });
        if room {
            ready |= writable;
        }
        ready
    }

    /// SIOCATMARK.
    pub(super) fn at_mark(&self) -> bool {
        self.inbox.lock().at_mark()
    }

    /// SIOCINQ.
    pub(super) fn readable_bytes(&self) -> usize {
        let inline = self.common.options.lock().oob_inline;
        self.inbox.lock().readable(inline)
    }

    /// SIOCOUTQ: what the peer's receive buffer has no room for.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.link().and_then(|l| l.peer.upgrade()).map_or(0, |p| {
            let inbox = p.inbox.lock();
            inbox.queue.len().saturating_sub(inbox.capacity)
        })
    }
}
