//! How a datagram leaves: gathered (MSG_MORE, UDP_CORK), put into its envelope, cut into several
//! (UDP_SEGMENT), and delivered inside, sent outside, or told of as unreachable.

use std::net::SocketAddr;

use super::control::Envelope;
use super::{Datagram, MAX_V4, MAX_V6, Udp};
use crate::errno::{Errno, Result};
use crate::fs::sigio::Band;
use crate::kernel::wait::Ready;
use crate::mm::io::Source;
use crate::net::buffer::Charge;
use crate::net::inet::errors::Report;
use crate::net::inet::source_for;
use crate::net::interfaces::LOOPBACK;
use crate::net::socket::Outgoing;
use crate::net::traffic;

/// A datagram that is being written.
pub(super) struct Letter {
    to: SocketAddr,
    envelope: Envelope,
    flags: i32,
    data: Vec<u8>,
    /// Of one that is held back.
    charge: Option<Charge>,
}

/// What one that is held back takes up besides its bytes.
const OVERHEAD: usize = 256;

impl Udp {
    pub(super) fn post(&self, src: &mut Source<'_>, out: &Outgoing) -> Result<usize> {
        if out.flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let len = src.remaining();
        if len > 0xffff {
            return Err(Errno::EMSGSIZE);
        }
        let letter = match self.corked.lock().is_some() {
            true => None,
            false => Some(self.letter(len, out)?),
        };
        let mut data = vec![0u8; len];
        if len > 0 && src.peek(&mut data)? < len {
            return Err(Errno::EFAULT);
        }
        let more =
            out.flags & libc::MSG_MORE != 0 || self.value(libc::IPPROTO_UDP, libc::UDP_CORK) != 0;
        let held = self.corked.lock().take();
        let begun = held.is_some();
        let mut letter = match (held, letter) {
            // Where it goes has been said.
            (Some(letter), _) | (None, Some(letter)) => letter,
            // Another thread sent it meanwhile.
            (None, None) => self.letter(len, out)?,
        };
        let before = letter.data.len();
        letter.data.append(&mut data);
        let max = if letter.to.is_ipv4() { MAX_V4 } else { MAX_V6 };
        if letter.data.len() > max {
            return Err(Errno::EMSGSIZE);
        }
        if more {
            let held = letter.data.capacity() + OVERHEAD;
            let charge = self.common.stack.pool.charged(held);
            letter.charge = Some(charge.ok_or(Errno::ENOBUFS)?);
            *self.corked.lock() = Some(letter);
            src.skip(len);
            return Ok(len);
        }
        match self.dispatch(&mut letter) {
            // What waits for room is not lost.
            Err(Errno::EAGAIN) if begun => {
                letter.data.truncate(before);
                *self.corked.lock() = Some(letter);
                Err(Errno::EAGAIN)
            }
            Err(e) => Err(e),
            Ok(()) => {
                src.skip(len);
                Ok(len)
            }
        }
    }

    /// UDP_CORK ends: what has been gathered goes.
    pub(super) fn uncork(&self) {
        let letter = self.corked.lock().take();
        if let Some(mut letter) = letter
            && let Err(e) = self.dispatch(&mut letter)
        {
            log::debug!("a datagram that was held back: {e:?}");
        }
    }

    /// An empty one, to where it goes.
    fn letter(&self, len: usize, out: &Outgoing) -> Result<Letter> {
        let to = self.destination(out)?;
        self.take_pending()?;
        if self.state.lock().shut_write {
            return Err(Errno::EPIPE);
        }
        let envelope = self.envelope(to.ip(), &out.extra)?;
        self.check_route(to.ip())?;
        let max = if to.is_ipv4() { MAX_V4 } else { MAX_V6 };
        if len > max {
            return Err(Errno::EMSGSIZE);
        }
        Ok(Letter {
            to,
            envelope,
            flags: out.flags,
            data: Vec::new(),
            charge: None,
        })
    }

    /// What fails with EAGAIN still has its bytes.
    fn dispatch(&self, letter: &mut Letter) -> Result<()> {
        let Letter { to, envelope, .. } = *letter;
        let own = self.local()?;
        let ip = match envelope.source {
            Some(ip) => ip,
            None if own.ip().is_unspecified() => source_for(&self.common.stack, to.ip()),
            None if own.is_ipv4() == to.is_ipv4() => own.ip(),
            None => return Err(Errno::ENETUNREACH),
        };
        let from = SocketAddr::new(ip, own.port());
        let data = &letter.data[..];
        let piece = envelope.piece(data.len())?;
        let link = match self.is_to_many(to.ip()) {
            true => Some(self.link_for(to, envelope.link)?),
            false => None,
        };
        let (receivers, outside) = match link {
            Some(link) if link != LOOPBACK => (Vec::new(), true),
            Some(_) => (self.receivers(from, to), false),
            None => {
                let receivers = self.receivers(from, to);
                let outside = receivers.is_empty() && self.common.stack.way_out().is_some();
                (receivers, outside)
            }
        };
        let traffic = &self.common.stack.loopback;
        if outside && let Some(host) = self.way_out()? {
            let extra = envelope.outside(to.ip(), link, piece < data.len());
            self.send_outside(&host, data, to, &extra, letter.flags)?;
            traffic.udp(to.ip(), traffic::Udp::Sent);
            return Ok(());
        }
        traffic.udp(to.ip(), traffic::Udp::Sent);
        if receivers.is_empty() {
            if link.is_none() {
                traffic.unreachable(to.ip(), data.len());
                self.refused(to, data.get(..piece).unwrap_or(data));
            }
            return Ok(());
        }
        traffic.datagram(to.ip(), data.len());
        let time_ns = crate::kernel::time::clock_ns(nix::time::ClockId::CLOCK_REALTIME);
        let deliver = |receiver: &Udp, data: Vec<u8>, segment| {
            receiver.deliver(Datagram {
                data,
                from,
                to,
                ttl: envelope.ttl,
                tos: envelope.tos,
                time_ns,
                lost: 0,
                segment,
            });
        };
        let cut = piece < data.len();
        let last = receivers.len() - 1;
        for (n, receiver) in receivers.iter().enumerate() {
            let data = &mut letter.data;
            // There is one as a rule, and nothing to copy.
            let whole = |data: &mut Vec<u8>| match n == last {
                true => std::mem::take(data),
                false => data.clone(),
            };
            if cut && receiver.value(libc::IPPROTO_UDP, libc::UDP_GRO) != 0 {
                deliver(receiver, whole(data), piece);
            } else if cut {
                data.chunks(piece)
                    .for_each(|data| deliver(receiver, data.to_vec(), 0));
            } else {
                deliver(receiver, whole(data), 0);
            }
        }
        Ok(())
    }

    /// Port unreachable: told to those who are connected, or asked (IP_RECVERR).
    fn refused(&self, to: SocketAddr, data: &[u8]) {
        let asked = match to.is_ipv4() {
            true => self.value(libc::IPPROTO_IP, libc::IP_RECVERR) != 0,
            false => self.value(libc::IPPROTO_IPV6, libc::IPV6_RECVERR) != 0,
        };
        let limit = self.common.options.lock().receive_buffer;
        {
            let mut state = self.state.lock();
            match state.remote {
                Some(remote) if remote == to => {}
                None if asked => {}
                // What a connected socket sends elsewhere is not its connection's.
                _ => return,
            }
            if asked {
                let report = Report::port_unreachable(to, data);
                state.errors.push(report, limit, &self.common.stack.pool);
            }
            state.error = Some(Errno::ECONNREFUSED);
        }
        self.common.tell(Ready::ERR, Band::Error);
    }
}
