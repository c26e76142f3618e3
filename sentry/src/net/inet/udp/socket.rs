//! A UDP socket as the system-call layer sees it.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr};

use super::{Datagram, MAX_V4, MAX_V6, Udp};
use crate::errno::{Errno, Result};
use crate::fs::sigio::Band;
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::inet::outer;
use crate::net::inet::{address, decode_local, source_for};
use crate::net::options;
use crate::net::outside::Domain;
use crate::net::socket::{Common, Connect, Info, Name, Outgoing, Received, Socket};
use crate::net::traffic;

/// The first address of a struct.
fn leading<const N: usize>(value: &[u8]) -> Result<[u8; N]> {
    value.first_chunk().copied().ok_or(Errno::EINVAL)
}

impl Socket for Udp {
    fn common(&self) -> &Common {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn bind(&self, t: &Task, address: &Name) -> Result<()> {
        let local = decode_local(t, &self.common, self.domain, self.v6_only(), address)?;
        let local = self.bind_to(local)?;
        self.state.lock().bound = Some(local);
        Ok(())
    }

    fn connect(&self, _t: &Task, to: &Name) -> Result<Connect> {
        match to.family() {
            None => return Err(Errno::EINVAL),
            Some(libc::AF_UNSPEC) => self.disconnect(),
            Some(_) => {
                let to = match (self.domain, to.family()) {
                    (Domain::V6, Some(libc::AF_INET)) => {
                        address::decode_destination(self.domain, to)?
                    }
                    _ => address::decode(self.domain, to)?,
                };
                self.connect_to(to)?;
            }
        }
        Ok(Connect::Done)
    }

    fn send(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize> {
        if out.flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let len = src.remaining();
        if len > 0xffff {
            return Err(Errno::EMSGSIZE);
        }
        let to = self.destination(out)?;
        self.take_pending()?;
        if self.state.lock().shut_write {
            return Err(Errno::EPIPE);
        }
        let (ttl, tos) = self.header(to.ip(), &out.extra)?;
        self.check_route(to.ip())?;
        let max = if to.is_ipv4() { MAX_V4 } else { MAX_V6 };
        if len > max {
            return Err(Errno::EMSGSIZE);
        }
        let own = self.local()?;
        let ip = if own.ip().is_unspecified() {
            source_for(&self.common.stack, to.ip())
        } else if own.is_ipv4() == to.is_ipv4() {
            own.ip()
        } else {
            return Err(Errno::ENETUNREACH);
        };
        let from = SocketAddr::new(ip, own.port());
        let receivers = self.receivers(from, to);
        let mut data = vec![0u8; len];
        let outside = receivers.is_empty() && self.leads_outside(own, to);
        // What waits for room is not lost.
        if len > 0 && src.peek(&mut data)? < len {
            return Err(Errno::EFAULT);
        }
        let traffic = &self.common.stack.loopback;
        if outside && let Some(host) = self.way_out()? {
            self.send_outside(&host, &data, to, out)?;
            traffic.udp(to.ip(), traffic::Udp::Sent);
            src.skip(len);
            return Ok(len);
        }
        src.skip(len);
        traffic.udp(to.ip(), traffic::Udp::Sent);
        if receivers.is_empty() && !to.ip().is_multicast() {
            traffic.unreachable(to.ip(), len);
            // Port unreachable: told to those who are connected.
            let mut state = self.state.lock();
            let asked = self.value(libc::IPPROTO_IP, libc::IP_RECVERR) != 0;
            if state.remote == Some(to) || asked {
                state.error = Some(Errno::ECONNREFUSED);
                drop(state);
                self.common.tell(Ready::ERR, Band::Error);
            }
            return Ok(len);
        }
        let looped = self.value(libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP) != 0;
        if to.ip().is_multicast() && !looped {
            return Ok(len);
        }
        let time_ns = crate::kernel::time::clock_ns(nix::time::ClockId::CLOCK_REALTIME);
        if !receivers.is_empty() {
            traffic.datagram(to.ip(), len);
        }
        let mut left = receivers.len();
        for receiver in receivers {
            left -= 1;
            let data = if left == 0 {
                std::mem::take(&mut data)
            } else {
                data.clone()
            };
            receiver.deliver(Datagram {
                data,
                from,
                to,
                ttl,
                tos,
                time_ns,
            });
        }
        Ok(len)
    }

    fn receive(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
        if flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if flags & libc::MSG_ERRQUEUE != 0 {
            return match self.way_in() {
                Some(host) => outer::receive(&host, self.domain, dst, flags),
                None => Err(Errno::EAGAIN),
            };
        }
        self.take_pending()?;
        let mut got = Received::default();
        let taken = {
            let mut inbox = self.inbox.lock();
            if flags & libc::MSG_PEEK != 0 {
                inbox.datagrams.front().map(|d| Datagram {
                    data: d.data[..d.data.len().min(dst.remaining())].to_vec(),
                    ..*d
                })
            } else {
                let taken = inbox.datagrams.pop_front();
                if let Some(d) = &taken {
                    inbox.cost -= d.cost();
                    self.common.stack.pool.uncharge(d.cost());
                }
                taken
            }
        };
        let full = self.first_len(flags, &taken);
        let Some(datagram) = taken else {
            if let Some(host) = self.way_in() {
                match outer::receive(&host, self.domain, dst, flags) {
                    Err(Errno::EAGAIN) => {}
                    other => {
                        if other.is_ok() {
                            self.count_received(address::any(self.domain), flags);
                        }
                        return other;
                    }
                }
            }
            return if self.state.lock().shut_read {
                Ok(got)
            } else {
                Err(Errno::EAGAIN)
            };
        };
        self.count_received(datagram.to.ip(), flags);
        let n = datagram.data.len().min(dst.remaining());
        got.full = full;
        got.from = Some(address::encode(self.domain, datagram.from));
        got.extra = self.extras(&datagram);
        got.count = if n == 0 {
            0
        } else {
            dst.put(&datagram.data[..n])?
        };
        Ok(got)
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let connected = {
            let mut state = self.state.lock();
            state.shut_read |= read;
            state.shut_write |= write;
            state.remote.is_some()
        };
        if let Some(host) = self.outer.get().filter(|_| connected) {
            // Not connected, if the other end is inside.
            let _ = host.shutdown(read, write);
        }
        self.common.queue.wake_all();
        if connected {
            Ok(())
        } else {
            Err(Errno::ENOTCONN)
        }
    }

    fn local_name(&self) -> Result<Name> {
        let local = self.state.lock().local;
        let any = || SocketAddr::new(address::any(self.domain), 0);
        Ok(address::encode(self.domain, local.unwrap_or_else(any)))
    }

    fn peer_name(&self) -> Result<Name> {
        let remote = self.state.lock().remote.ok_or(Errno::ENOTCONN)?;
        Ok(address::encode(self.domain, remote))
    }

    fn ready(&self) -> Ready {
        let mut ready = Ready::OUT | Ready::WRNORM | Ready::WRBAND;
        if !self.inbox.lock().datagrams.is_empty() {
            ready |= Ready::IN | Ready::RDNORM;
        }
        if let Some(host) = self.way_in() {
            ready |= host.ready() & (Ready::IN | Ready::RDNORM | Ready::ERR);
        }
        let state = self.state.lock();
        if state.error.is_some() {
            ready |= Ready::ERR;
        }
        if state.shut_read {
            ready |= Ready::IN | Ready::RDNORM | Ready::RDHUP;
        }
        if state.shut_read && state.shut_write {
            ready |= Ready::HUP;
        }
        ready
    }

    fn set_option(&self, t: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        match (level, name) {
            (libc::IPPROTO_IPV6, _) if self.domain == Domain::V4 => Err(Errno::ENOPROTOOPT),
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if self.state.lock().local.is_some() => {
                Err(Errno::EINVAL)
            }
            (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP) => {
                // struct ip_mreq: the group, then an interface, of which loopback is the only one.
                let group = Ipv4Addr::from(leading::<4>(value)?);
                leading::<8>(value)?;
                self.change_groups(name == libc::IP_ADD_MEMBERSHIP, group.into())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP) => {
                let group = std::net::Ipv6Addr::from(leading::<16>(value)?);
                leading::<20>(value)?;
                self.change_groups(name == libc::IPV6_ADD_MEMBERSHIP, group.into())
            }
            (libc::IPPROTO_IP, libc::IP_MULTICAST_IF) => {
                // struct in_addr, ip_mreq or ip_mreqn.
                let at = if value.len() >= 8 { 4 } else { 0 };
                let ip = Ipv4Addr::from(leading::<4>(value.get(at..).unwrap_or(&[]))?);
                let known = ip.is_unspecified()
                    || self.common.stack.interfaces.read().own(ip.into()).is_some();
                if known {
                    Ok(())
                } else {
                    Err(Errno::EADDRNOTAVAIL)
                }
            }
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, _) => {
                self.values.lock().set(level, name, value)?;
                self.outer.set_option(level, name, value);
                Ok(())
            }
            // UDP_CORK and segmentation offload are not for queues.
            (libc::IPPROTO_UDP, _) => Err(Errno::ENOPROTOOPT),
            _ => {
                options::set(&self.common, t, level, name, value)?;
                self.outer.set_option(level, name, value);
                Ok(())
            }
        }
    }

    fn option(&self, _t: &Task, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        match (level, name) {
            (libc::IPPROTO_IPV6, _) if self.domain == Domain::V4 => Err(Errno::ENOPROTOOPT),
            (libc::IPPROTO_IP, libc::IP_MULTICAST_IF) => Ok(vec![0; 4]),
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, _) => {
                let settings = self.common.stack.settings.read();
                self.values.lock().told(&settings, level, name, room)
            }
            _ => options::get(self, level, name),
        }
    }

    fn take_error(&self) -> Option<Errno> {
        let error = self.state.lock().error.take();
        error.or_else(|| {
            let host = self.outer.get()?;
            let failed = host.ready().contains(Ready::ERR);
            failed.then(|| outer::take_error(&host)).flatten()
        })
    }

    fn ioctl(&self, t: &Task, cmd: u32, arg: u64) -> Result<u64> {
        const FIONREAD: u32 = 0x541B;
        const TIOCOUTQ: u32 = 0x5411;
        let n = match cmd {
            FIONREAD => {
                let inbox = self.inbox.lock();
                match inbox.datagrams.front() {
                    Some(datagram) => datagram.data.len(),
                    None => self.way_in().map_or(0, |h| h.unread().unwrap_or(0)),
                }
            }
            TIOCOUTQ => 0,
            _ => return Err(Errno::ENOTTY),
        };
        t.mm()
            .write_obj(arg, &i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn info(&self) -> Info {
        const ESTABLISHED: u8 = 1;
        const CLOSE: u8 = 7;
        let peer = self.peer_name().ok();
        let inbox = self.inbox.lock();
        Info {
            local: self.local_name().ok(),
            peer,
            state: if peer.is_some() { ESTABLISHED } else { CLOSE },
            receive_queue: u32::try_from(inbox.cost).unwrap_or(u32::MAX),
            send_queue: 0,
            drops: inbox.drops,
        }
    }

    fn close(&self) {
        let mut tables = self.common.stack.inet.udp.lock();
        if let Some(local) = self.state.lock().local.take() {
            tables.leave(local.port(), self.common.cookie);
        }
        drop(tables);
        self.outer.close();
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        self.common.stack.pool.uncharge(inbox.cost);
        inbox.cost = 0;
        inbox.datagrams.clear();
    }
}

impl Udp {
    /// Length of the whole datagram that was taken or looked at.
    fn first_len(&self, flags: i32, taken: &Option<Datagram>) -> usize {
        let own = taken.as_ref().map_or(0, |d| d.data.len());
        if flags & libc::MSG_PEEK == 0 {
            return own;
        }
        let inbox = self.inbox.lock();
        inbox.datagrams.front().map_or(own, |d| d.data.len())
    }
}
