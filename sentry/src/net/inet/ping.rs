//! ICMP echo sockets (icmp(7), SOCK_DGRAM): a request to one of the sandbox's own addresses is
//! answered at once, one to the outside goes through a socket of the host. Its identifier is the socket's port, whatever the program put there.

use std::any::Any;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::options::Values;
use super::outer::{self, Outer};
use super::ports::{PortUser, Range, Scope};
use super::{address, check_inside, decode_local, family, has_level, other_option, source_for};
use crate::errno::{Errno, Result};
use crate::fs::sigio::Band;
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::host::Host;
use crate::net::options;
use crate::net::outside::{Domain, Transport};
use crate::net::socket::{Common, Connect, Extra, Info, Kind, Name, Outgoing, Received, Socket};
use crate::net::stack::Stack;

/// Types of messages: echo request and reply.
const ECHO_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const ECHO_V6: u8 = 128;
const REPLY_V6: u8 = 129;
/// Type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;
const MAX_LEN: usize = 65507;
const TTL: i32 = 64;
/// What a message takes up besides its bytes.
const OVERHEAD: usize = 512;

struct Reply {
    data: Vec<u8>,
    from: IpAddr,
    /// Since the epoch, ns.
    time_ns: u64,
}

impl Reply {
    fn cost(&self) -> usize {
        self.data.len() + OVERHEAD
    }
}

#[derive(Default)]
struct State {
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    replies: VecDeque<Reply>,
    cost: usize,
    drops: u32,
    closed: bool,
}

/// See the module documentation.
pub struct Ping {
    this: Weak<Ping>,
    common: Common,
    domain: Domain,
    values: Mutex<Values>,
    state: Mutex<State>,
    outer: Outer,
}

impl PortUser for Ping {
    fn common(&self) -> &Common {
        &self.common
    }

    fn listens(&self) -> bool {
        false
    }
}

/// The internet checksum (RFC 1071).
fn checksum(data: &[u8]) -> u16 {
    let words = data.chunks(2).map(|c| {
        let low = c.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([c[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Ping {
    pub fn new(stack: &Arc<Stack>, domain: Domain) -> Arc<Ping> {
        let protocol = match domain {
            Domain::V4 => libc::IPPROTO_ICMP,
            Domain::V6 => libc::IPPROTO_ICMPV6,
        };
        Arc::new_cyclic(|this| Ping {
            this: this.clone(),
            common: Common::new(stack, family(domain), Kind::Datagram, protocol),
            domain,
            values: Mutex::default(),
            state: Mutex::default(),
            outer: Outer::default(),
        })
    }

    /// Takes the identifier of `local`. EINVAL if it has one, EADDRINUSE.
    fn bind_to(&self, local: SocketAddr) -> Result<SocketAddr> {
        let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
        let scope = Scope::new(self.domain, local.ip(), true);
        let mut tables = self.common.stack.inet.ping.lock();
        if self.state.lock().local.is_some() {
            return Err(Errno::EINVAL);
        }
        let port = tables.bind(&this, local.port(), scope, &Range::all())?;
        let local = SocketAddr::new(local.ip(), port);
        self.state.lock().local = Some(local);
        Ok(local)
    }

    fn local(&self) -> Result<SocketAddr> {
        if let Some(local) = self.state.lock().local {
            return Ok(local);
        }
        self.bind_to(SocketAddr::new(address::any(self.domain), 0))
    }

    fn destination(&self, out: &Outgoing) -> Result<IpAddr> {
        let to = match &out.to {
            Some(name) => address::decode(self.domain, name)?,
            None => self.state.lock().remote.ok_or(Errno::EDESTADDRREQ)?,
        };
        let to = address::this_host(to).ip();
        if to.is_ipv4() != (self.domain == Domain::V4) {
            return Err(Errno::EINVAL);
        }
        if self.common.stack.way_out().is_none() {
            check_inside(&self.common, to)?;
        }
        Ok(to)
    }

    /// The host's socket, made and bound to the identifier of this one. ENETDOWN, EADDRINUSE.
    fn way_out(&self) -> Result<Arc<Host>> {
        if let Some(host) = self.outer.get() {
            return Ok(host);
        }
        let local = SocketAddr::new(address::any(self.domain), self.local()?.port());
        let guest: Weak<dyn Socket> = self.this.clone();
        let host = self
            .outer
            .open(&self.common, self.domain, Transport::Ping, guest)?
            .ok_or(Errno::ENETDOWN)?;
        if let Err(e) = host.bind(local) {
            self.outer.close();
            return Err(e);
        }
        Ok(host)
    }

    fn receive_outside(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
        let host = self.outer.get().ok_or(Errno::EAGAIN)?;
        outer::receive(&host, self.domain, dst, flags)
    }

    fn extras(&self, reply: &Reply) -> Vec<Extra> {
        let mut extra = options::stamps(&self.common.options.lock(), reply.time_ns);
        let values = self.values.lock();
        let (level, asked, kind) = match self.domain {
            Domain::V4 => (libc::IPPROTO_IP, libc::IP_RECVTTL, libc::IP_TTL),
            Domain::V6 => (
                libc::IPPROTO_IPV6,
                libc::IPV6_RECVHOPLIMIT,
                libc::IPV6_HOPLIMIT,
            ),
        };
        if values.on(level, asked) {
            extra.push(Extra {
                level,
                kind,
                data: TTL.to_ne_bytes().to_vec(),
            });
        }
        extra
    }
}

impl Socket for Ping {
    fn common(&self) -> &Common {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn bind(&self, t: &Task, address: &Name) -> Result<()> {
        let local = decode_local(t, &self.common, self.domain, true, address)?;
        self.bind_to(local)?;
        Ok(())
    }

    fn connect(&self, _t: &Task, to: &Name) -> Result<Connect> {
        if to.family() == Some(libc::AF_UNSPEC) {
            self.state.lock().remote = None;
            if let Some(host) = self.outer.get() {
                host.socket().disconnect()?;
            }
            return Ok(Connect::Done);
        }
        let to = address::this_host(address::decode(self.domain, to)?);
        let inside = check_inside(&self.common, to.ip());
        if self.common.stack.way_out().is_none() {
            inside?;
        } else if inside.is_err() {
            self.way_out()?.socket().connect(to)?;
            self.state.lock().remote = Some(to);
            return Ok(Connect::Done);
        }
        let local = self.local()?;
        let mut state = self.state.lock();
        if local.ip().is_unspecified() {
            let source = source_for(&self.common.stack, to.ip());
            state.local = Some(SocketAddr::new(source, local.port()));
        }
        state.remote = Some(to);
        Ok(Connect::Done)
    }

    fn send(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize> {
        if out.flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let len = src.remaining();
        if len > MAX_LEN {
            return Err(Errno::EMSGSIZE);
        }
        if len < HEADER {
            return Err(Errno::EINVAL);
        }
        let mut data = vec![0u8; len];
        if src.peek(&mut data)? < len {
            return Err(Errno::EFAULT);
        }
        let (echo, answer) = match self.domain {
            Domain::V4 => (ECHO_V4, REPLY_V4),
            Domain::V6 => (ECHO_V6, REPLY_V6),
        };
        if data[..2] != [echo, 0] {
            return Err(Errno::EINVAL);
        }
        let from = self.destination(out)?;
        let local = self.local()?;
        if check_inside(&self.common, from).is_err() {
            let to = out.to.is_some().then(|| SocketAddr::new(from, 0));
            self.way_out()?
                .send_packet(&data, to, &out.extra, out.flags)?;
            src.skip(len);
            return Ok(len);
        }
        src.skip(len);
        let ignored = self.common.stack.settings.read().icmp_echo_ignore_all != 0;
        if ignored && self.domain == Domain::V4 {
            return Ok(len);
        }
        self.common.stack.loopback.echo(from, len);
        data[0] = answer;
        data[2..4].fill(0);
        data[4..6].copy_from_slice(&local.port().to_be_bytes());
        if self.domain == Domain::V4 {
            let sum = checksum(&data);
            data[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let reply = Reply {
            data,
            from,
            time_ns: crate::kernel::time::clock_ns(nix::time::ClockId::CLOCK_REALTIME),
        };
        let limit = self.common.options.lock().receive_buffer;
        {
            let mut state = self.state.lock();
            let cost = reply.cost();
            if state.closed || state.cost > limit || !self.common.stack.pool.charge(cost) {
                state.drops = state.drops.wrapping_add(1);
                return Ok(len);
            }
            state.cost += cost;
            state.replies.push_back(reply);
        }
        self.common.tell(Ready::IN | Ready::RDNORM, Band::In);
        Ok(len)
    }

    fn receive(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
        if flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        // Inside there are no errors to be queued.
        if flags & libc::MSG_ERRQUEUE != 0 {
            return self.receive_outside(dst, flags);
        }
        let reply = {
            let mut state = self.state.lock();
            let Some(reply) = state.replies.pop_front() else {
                drop(state);
                return self.receive_outside(dst, flags);
            };
            state.cost -= reply.cost();
            self.common.stack.pool.uncharge(reply.cost());
            reply
        };
        let n = reply.data.len().min(dst.remaining());
        let mut got = Received {
            full: reply.data.len(),
            from: Some(address::encode(self.domain, SocketAddr::new(reply.from, 0))),
            extra: self.extras(&reply),
            ..Received::default()
        };
        if n > 0 {
            got.count = dst.put(&reply.data[..n])?;
        }
        if flags & libc::MSG_PEEK != 0 {
            let mut state = self.state.lock();
            if self.common.stack.pool.charge(reply.cost()) {
                state.cost += reply.cost();
                state.replies.push_front(reply);
            }
        }
        Ok(got)
    }

    fn shutdown(&self, _read: bool, _write: bool) -> Result<()> {
        match self.state.lock().remote {
            Some(_) => Ok(()),
            None => Err(Errno::ENOTCONN),
        }
    }

    fn local_name(&self) -> Result<Name> {
        let local = self.state.lock().local;
        Ok(address::local_name(self.domain, local))
    }

    fn peer_name(&self) -> Result<Name> {
        let remote = self.state.lock().remote.ok_or(Errno::ENOTCONN)?;
        Ok(address::encode(self.domain, remote))
    }

    fn ready(&self) -> Ready {
        let mut ready = Ready::OUT | Ready::WRNORM | Ready::WRBAND;
        if !self.state.lock().replies.is_empty() {
            ready |= Ready::IN | Ready::RDNORM;
        }
        if let Some(host) = self.outer.get() {
            ready |= host.ready() & (Ready::IN | Ready::RDNORM | Ready::ERR);
        }
        ready
    }

    fn take_error(&self) -> Option<Errno> {
        let host = self.outer.get()?;
        let failed = host.ready().contains(Ready::ERR);
        failed.then(|| outer::take_error(&host)).flatten()
    }

    fn set_option(&self, t: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        match (level, name) {
            (libc::IPPROTO_IPV6, _) if self.domain == Domain::V4 => Err(Errno::ENOPROTOOPT),
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, _) => {
                self.values.lock().set(level, name, value)
            }
            _ => options::set(&self.common, t, level, name, value),
        }?;
        self.outer.set_option(level, name, value);
        Ok(())
    }

    fn option(&self, _t: &Task, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        match (level, name) {
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, _) if has_level(self.domain, level) => {
                let settings = self.common.stack.settings.read();
                self.values.lock().told(&settings, level, name, room)
            }
            _ => other_option(self, self.domain, level, name),
        }
    }

    fn info(&self) -> Info {
        let (local, peer) = (self.local_name().ok(), self.peer_name().ok());
        let state = self.state.lock();
        Info {
            local,
            peer,
            state: if peer.is_some() { 1 } else { 7 },
            receive_queue: u32::try_from(state.cost).unwrap_or(u32::MAX),
            send_queue: 0,
            drops: state.drops,
        }
    }

    fn close(&self) {
        self.outer.close();
        let mut tables = self.common.stack.inet.ping.lock();
        let mut state = self.state.lock();
        if let Some(local) = state.local.take() {
            tables.leave(local.port(), self.common.cookie);
        }
        state.closed = true;
        self.common.stack.pool.uncharge(state.cost);
        state.cost = 0;
        state.replies.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        // From RFC 1071, section 3.
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
        assert_eq!(checksum(&[0xff]), 0x00ff);
    }
}
