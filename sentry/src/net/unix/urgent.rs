//! Out-of-band data of streams (MSG_OOB): one byte, the last one sent so, that can be read before
//! what precedes it, and a mark where it was.

use super::{Inbox, Message, Peek, Unix};
use crate::errno::{Errno, Result};
use crate::mm::io::{Sink, Source};
use crate::net::buffer::Piece;
use crate::net::socket::{Outgoing, Received};

impl Inbox {
    /// An urgent byte waits to be taken.
    pub(super) fn has_urgent(&self) -> bool {
        self.messages.iter().any(|m| m.urgent && !m.data.is_empty())
    }

    /// Another one comes: the last is an ordinary byte now, or no mark any more. What is left over.
    #[must_use]
    pub(super) fn forget_urgent(&mut self) -> Option<Message> {
        let last = self.messages.iter().position(|m| m.urgent)?;
        self.messages[last].urgent = false;
        if !self.messages[last].data.is_empty() {
            return None;
        }
        let mark = self.messages.remove(last)?;
        self.cost -= mark.cost();
        Some(mark)
    }

    /// A read begins at the mark: the urgent byte is lost, unless it is read in line. What is lost.
    #[must_use]
    pub(super) fn pass_mark(&mut self, inline: bool) -> Option<Message> {
        let first = self.messages.front_mut().filter(|m| m.urgent)?;
        first.urgent = false;
        if inline && !first.data.is_empty() {
            return None;
        }
        let first = self.messages.pop_front()?;
        self.cost -= first.cost();
        Some(first)
    }
}

impl Unix {
    /// Sends bytes of which the last one is urgent: as many as there is room for.
    ///
    /// # Errors
    /// EOPNOTSUPP if there are none, and as `send_stream`.
    pub(super) fn send_urgent(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize> {
        let all = src.remaining();
        let before = all.checked_sub(1).ok_or(Errno::EOPNOTSUPP)?;
        if before > 0 {
            let sent = self.send_stream_but(src, out, 1)?;
            if sent < before {
                return Ok(sent);
            }
        }
        let (peer, from) = self.stream_peer()?;
        let limit = self.common.options.lock().send_buffer;
        let pool = &self.common.stack.pool;
        if pool.room(limit, peer.inbox.lock().cost) == 0 {
            return if before > 0 {
                Ok(before)
            } else {
                Err(Errno::EAGAIN)
            };
        }
        let data = Piece::fill(pool, src, 1)?;
        peer.deliver(Message {
            data,
            urgent: true,
            from,
            creds: out.creds,
            process: peer.sender(out.creds),
            rights: std::mem::take(&mut out.rights),
        })?;
        Ok(all)
    }

    /// recv(2) with MSG_OOB. EINVAL if there is no urgent byte, or it is read in line.
    pub(super) fn take_urgent(&self, dst: &mut Sink<'_>, peek: Peek) -> Result<Received> {
        if self.common.options.lock().oob_inline {
            return Err(Errno::EINVAL);
        }
        let byte = {
            let mut inbox = self.inbox.lock();
            let mut found = inbox.messages.iter_mut();
            let message = found
                .find(|m| m.urgent && !m.data.is_empty())
                .ok_or(Errno::EINVAL)?;
            let before = message.cost();
            let byte = message.data.clone();
            if peek == Peek::No {
                message.data.skip(1);
            }
            let after = message.cost();
            inbox.cost -= before - after;
            byte
        };
        let count = if dst.remaining() > 0 {
            dst.put(byte.bytes())?
        } else {
            0
        };
        Ok(Received {
            count,
            full: 1,
            flags: libc::MSG_OOB,
            ..Received::default()
        })
    }

    /// SIOCATMARK.
    pub(super) fn at_mark(&self) -> bool {
        let inbox = self.inbox.lock();
        inbox.messages.front().is_some_and(|m| m.urgent)
    }
}
