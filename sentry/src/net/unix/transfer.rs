//! Sending and receiving.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Address, Message, Rights, Unix, connects, flight, outside};
use crate::errno::{Errno, Result};
use crate::fs::sigio::Band;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::buffer::Piece;
use crate::net::socket::{Kind, Outgoing, Received};

/// A stream is cut into messages of at most this many bytes.
const STREAM_CHUNK: usize = 32 * 1024;
/// /proc/sys/net/unix/max_dgram_qlen: messages from strangers a datagram socket keeps.
const MAX_QUEUE: usize = 10;

/// MSG_PEEK or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    No,
    Yes,
}

impl Unix {
    /// Sends bytes of `src` to the peer of a stream: as many as there is room for. The rights go
    /// with the first of them.
    ///
    /// # Errors
    /// EAGAIN if there is no room, EPIPE, ENOTCONN.
    pub fn send_stream(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize> {
        self.send_stream_but(src, out, 0)
    }

    /// As `send_stream` without the last `keep` bytes.
    pub(super) fn send_stream_but(
        &self,
        src: &mut Source<'_>,
        out: &mut Outgoing,
        keep: usize,
    ) -> Result<usize> {
        let mut total = 0;
        let limit = self.common.options.lock().send_buffer;
        while src.remaining() > keep {
            let (peer, from) = match self.stream_peer() {
                Ok(found) => found,
                Err(_) if total > 0 => break,
                Err(e) => return Err(e),
            };
            let pool = &self.common.stack.pool;
            if pool.room(limit, peer.inbox.lock().cost) == 0 {
                break;
            }
            let want = (src.remaining() - keep).min(limit.clamp(1, STREAM_CHUNK));
            let data = match Piece::fill(pool, src, want) {
                Ok(piece) => piece,
                Err(_) if total > 0 => break,
                Err(e) => return Err(e),
            };
            let got = data.len();
            let message = Message {
                data,
                urgent: false,
                from,
                creds: out.creds,
                process: peer.sender(out.creds),
                rights: std::mem::take(&mut out.rights),
            };
            if let Err(e) = peer.deliver(message) {
                return if total > 0 { Ok(total) } else { Err(e) };
            }
            total += got;
            if got < want {
                break;
            }
        }
        if total == 0 {
            return Err(Errno::EAGAIN);
        }
        Ok(total)
    }

    /// Who gets what is sent, and whom from.
    pub(super) fn stream_peer(&self) -> Result<(Arc<Unix>, Option<Address>)> {
        let state = self.state.lock();
        if state.shut_write {
            return Err(Errno::EPIPE);
        }
        let peer = state.peer.as_ref().ok_or(if state.connected {
            Errno::EPIPE
        } else {
            Errno::ENOTCONN
        })?;
        let peer = peer.upgrade().ok_or(Errno::EPIPE)?;
        Ok((peer, state.address.clone()))
    }

    /// Adds a message to the inbox.
    pub(super) fn deliver(&self, message: Message) -> Result<()> {
        let mut ready = Ready::IN | Ready::RDNORM;
        ready.set(Ready::PRI, message.urgent);
        // What has files is not dropped under the lock.
        let _mark;
        {
            let mut inbox = self.inbox.lock();
            if inbox.closed || (inbox.shut && connects(self.kind())) {
                return Err(Errno::EPIPE);
            }
            _mark = if message.urgent {
                inbox.forget_urgent()
            } else {
                None
            };
            inbox.cost += message.cost();
            inbox.messages.push_back(message);
        }
        if ready.contains(Ready::PRI) {
            self.common.tell_urgent();
        }
        self.common.tell(ready, Band::In);
        Ok(())
    }

    /// Where a datagram or packet goes: to `to`, or to the peer.
    ///
    /// # Errors
    /// ENOTCONN, EPIPE, ECONNREFUSED if it is gone, EPROTOTYPE, EISCONN.
    pub fn packet_target(&self, to: Option<Arc<Unix>>) -> Result<Arc<Unix>> {
        let state = self.state.lock();
        if state.shut_write {
            return Err(Errno::EPIPE);
        }
        if let Some(to) = to.filter(|_| self.kind() == Kind::Datagram) {
            return if to.kind() == Kind::Datagram {
                Ok(to)
            } else {
                Err(Errno::EPROTOTYPE)
            };
        }
        let gone = if self.kind() == Kind::Datagram {
            Errno::ECONNREFUSED
        } else {
            Errno::EPIPE
        };
        if self.link.get().is_some() {
            return self.this.upgrade().ok_or(gone);
        }
        match &state.peer {
            Some(peer) => peer.upgrade().ok_or(gone),
            None if state.connected => Err(gone),
            None => Err(Errno::ENOTCONN),
        }
    }

    /// EMSGSIZE for a packet that can never be sent.
    pub fn check_packet_len(&self, len: usize) -> Result<()> {
        if len > self.common.options.lock().send_buffer.saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        Ok(())
    }

    /// Sends one packet to `target`; it stays in `message` unless Ok.
    ///
    /// # Errors
    /// EAGAIN if there is no room, ECONNREFUSED or EPIPE.
    pub fn send_packet(&self, target: &Arc<Unix>, message: &mut Option<Message>) -> Result<()> {
        if let Some(link) = target.link.get() {
            if let Some(message) = message {
                outside::send_packet(link, message)?;
            }
            *message = None;
            return Ok(());
        }
        let limit = self.common.options.lock().send_buffer;
        let stranger = self.kind() == Kind::Datagram && {
            let state = target.state.lock();
            let heard = state.peer.as_ref().filter(|p| p.strong_count() > 0);
            match heard {
                Some(peer) if !peer.ptr_eq(&self.this) => return Err(Errno::EPERM),
                heard => heard.is_none(),
            }
        };
        {
            let mut inbox = target.inbox.lock();
            if inbox.closed {
                return Err(if self.kind() == Kind::Datagram {
                    Errno::ECONNREFUSED
                } else {
                    Errno::EPIPE
                });
            }
            if inbox.shut {
                return Err(Errno::EPIPE);
            }
            let full = self.common.stack.pool.room(limit, inbox.cost) == 0;
            if full || (stranger && inbox.messages.len() > MAX_QUEUE) {
                return Err(Errno::EAGAIN);
            }
            let Some(message) = message.take() else {
                return Ok(());
            };
            inbox.cost += message.cost();
            inbox.messages.push_back(message);
        }
        target.common.tell(Ready::IN | Ready::RDNORM, Band::In);
        Ok(())
    }

    /// There is room again: whoever sends here is told.
    fn room(&self) {
        let (peer, clients) = {
            let mut state = self.state.lock();
            state.clients.retain(|c| c.strong_count() > 0);
            let peer = state.peer.as_ref().and_then(std::sync::Weak::upgrade);
            (peer, state.clients.clone())
        };
        let ready = Ready::OUT | Ready::WRNORM | Ready::WRBAND;
        let clients = clients.iter().filter_map(std::sync::Weak::upgrade);
        for sender in peer.into_iter().chain(clients) {
            sender.common.queue.wake(ready);
            let lacks = &sender.common.lacks_room;
            if lacks.load(Ordering::Acquire)
                && sender.readiness().contains(Ready::OUT)
                && lacks.swap(false, Ordering::AcqRel)
            {
                sender.common.subscribers.tell(Band::Out);
            }
        }
        // Senders without a connection wait here.
        self.common.queue.wake(ready);
    }

    /// Takes (or looks at) what is in the inbox.
    ///
    /// # Errors
    /// EAGAIN if there is nothing, EINVAL or ENOTCONN where nothing can come, a pending error.
    pub fn take(&self, dst: &mut Sink<'_>, peek: Peek) -> Result<Received> {
        if self.kind() == Kind::Stream {
            self.receive_stream(dst, peek)
        } else {
            self.receive_packet(dst, peek)
        }
    }

    /// What an empty inbox means.
    pub(super) fn nothing(&self) -> Result<Received> {
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let connected = state.connected;
        drop(state);
        if self.inbox.lock().shut {
            return Ok(Received::default());
        }
        match self.kind() {
            Kind::Stream if !connected => Err(Errno::EINVAL),
            Kind::SeqPacket if !connected => Err(Errno::ENOTCONN),
            _ => Err(Errno::EAGAIN),
        }
    }

    fn receive_packet(&self, dst: &mut Sink<'_>, peek: Peek) -> Result<Received> {
        let mut got = Received::default();
        let taken = {
            let mut inbox = self.inbox.lock();
            match peek {
                Peek::Yes => inbox.messages.front().map(|m| {
                    got.files = m.rights.look();
                    Message {
                        data: m.data.clone(),
                        urgent: m.urgent,
                        from: m.from.clone(),
                        creds: m.creds,
                        process: m.process.clone(),
                        rights: Rights::default(),
                    }
                }),
                Peek::No => {
                    let taken = inbox.messages.pop_front();
                    inbox.cost -= taken.as_ref().map_or(0, Message::cost);
                    taken
                }
            }
        };
        let Some(mut message) = taken else {
            return self.nothing();
        };
        match peek {
            Peek::Yes => flight::looked(&got.files),
            Peek::No => got.files = message.rights.take(),
        }
        let data = message.data;
        if peek == Peek::No {
            self.room();
        }
        got.full = data.len();
        got.from = message.from.map(|f| Address::name(Some(&f)));
        got.creds = message.creds;
        got.process = message.process;
        let n = data.len().min(dst.remaining());
        got.count = if n == 0 {
            0
        } else {
            dst.put(&data.bytes()[..n])?
        };
        Ok(got)
    }

    fn receive_stream(&self, dst: &mut Sink<'_>, peek: Peek) -> Result<Received> {
        if dst.remaining() == 0 {
            return Ok(Received::default());
        }
        if peek == Peek::Yes {
            return self.peek_stream(dst);
        }
        let (pass_creds, inline) = {
            let options = self.common.options.lock();
            (
                options.pass_creds || self.passes_process(),
                options.oob_inline,
            )
        };
        let mut got = Received::default();
        while dst.remaining() > 0 && got.files.is_empty() {
            // What has files is neither dropped nor emptied under the lock.
            let mut _lost = None;
            let mut rights = Rights::default();
            let part = {
                let mut inbox = self.inbox.lock();
                let differs = |m: &Message| m.urgent || (pass_creds && m.creds != got.creds);
                if got.count == 0 {
                    _lost = inbox.pass_mark(inline);
                }
                match inbox.messages.pop_front() {
                    None => None,
                    Some(m) if got.count > 0 && differs(&m) => {
                        inbox.messages.push_front(m);
                        break;
                    }
                    Some(mut m) => {
                        inbox.cost -= m.cost();
                        rights = std::mem::take(&mut m.rights);
                        got.creds = m.creds;
                        got.process = m.process.clone();
                        let part = m.data.split(dst.remaining());
                        if !m.data.is_empty() {
                            inbox.cost += m.cost();
                            inbox.messages.push_front(m);
                        }
                        Some(part)
                    }
                }
            };
            got.files = rights.take();
            let Some(mut part) = part else {
                if got.count > 0 {
                    break;
                }
                return self.nothing();
            };
            let put = dst.put(part.bytes());
            let done = *put.as_ref().unwrap_or(&0);
            got.count += done;
            part.skip(done);
            let whole = part.is_empty();
            if !whole {
                self.give_back(part, &got);
            }
            match put {
                Err(e) if got.count == 0 => return Err(e),
                _ if whole => {}
                _ => break,
            }
        }
        got.full = got.count;
        self.room();
        Ok(got)
    }

    /// Bytes that could not be copied out are still there.
    fn give_back(&self, data: Piece, got: &Received) {
        let message = Message {
            data,
            urgent: false,
            from: None,
            creds: got.creds,
            process: got.process.clone(),
            rights: Rights::default(),
        };
        let mut inbox = self.inbox.lock();
        inbox.cost += message.cost();
        inbox.messages.push_front(message);
    }

    fn peek_stream(&self, dst: &mut Sink<'_>) -> Result<Received> {
        let mut got = Received::default();
        let mut parts = Vec::new();
        let inline = self.common.options.lock().oob_inline;
        {
            let mut left = dst.remaining();
            let inbox = self.inbox.lock();
            let mark = |m: &Message| m.urgent && !inline;
            let first = usize::from(inbox.messages.front().is_some_and(mark));
            for m in inbox.messages.iter().skip(first) {
                if m.urgent && !parts.is_empty() {
                    break;
                }
                let part = m.data.clone().split(left);
                if part.is_empty() {
                    break;
                }
                left -= part.len();
                parts.push(part);
                got.creds = m.creds;
                got.process = m.process.clone();
                got.files = m.rights.look();
                if !got.files.is_empty() {
                    break;
                }
            }
        }
        flight::looked(&got.files);
        if parts.is_empty() {
            return self.nothing();
        }
        for part in parts {
            match dst.put(part.bytes()) {
                Ok(n) => got.count += n,
                Err(e) if got.count == 0 => return Err(e),
                Err(_) => break,
            }
        }
        got.full = got.count;
        Ok(got)
    }

    /// FIONREAD: bytes in the inbox, for packets of the first one.
    pub fn readable_bytes(&self) -> usize {
        let inbox = self.inbox.lock();
        match self.kind() {
            Kind::Stream => inbox.messages.iter().map(|m| m.data.len()).sum(),
            _ => inbox.messages.front().map_or(0, |m| m.data.len()),
        }
    }

    /// TIOCOUTQ: what the peer has not read yet.
    pub fn unread_bytes(&self) -> usize {
        self.peer().map_or(0, |p| p.inbox.lock().cost)
    }
}
