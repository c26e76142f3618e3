//! A UDP socket as the system-call layer sees it.

use std::any::Any;
use std::net::SocketAddr;

use super::{Datagram, Udp, groups};
use crate::errno::{Errno, Result};
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::inet::outer;
use crate::net::inet::{address, decode_local, has_level, headers, other_option};
use crate::net::options;
use crate::net::outside::Domain;
use crate::net::socket::{Common, Connect, Info, Name, Outgoing, Received, Socket};

/// Type of service of a message of ICMP: internetwork control.
const TOS_ICMP: i32 = 0xc0;

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
        self.post(src, out)
    }

    fn receive(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
        if flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if flags & libc::MSG_ERRQUEUE != 0 {
            return self.receive_error(dst, flags);
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
        Ok(address::local_name(self.domain, local))
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
        if ready.contains(Ready::ERR) || self.has_errors() {
            ready |= Ready::ERR;
            if self.common.options.lock().select_errors {
                ready |= Ready::PRI;
            }
        }
        let state = self.state.lock();
        if state.shut_read {
            ready |= Ready::IN | Ready::RDNORM | Ready::RDHUP;
        }
        if state.shut_read && state.shut_write {
            ready |= Ready::HUP;
        }
        ready
    }

    fn set_option(&self, t: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        if !has_level(self.domain, level) {
            return Err(Errno::ENOPROTOOPT);
        }
        if let Some(done) = headers::set(self, t, level, name, value) {
            return done;
        }
        match (level, name) {
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if self.state.lock().local.is_some() => {
                Err(Errno::EINVAL)
            }
            (libc::IPPROTO_IP, libc::IP_MULTICAST_IF) => self.set_multicast_link(value),
            (libc::IPPROTO_UDP, _) => {
                self.values.lock().set(level, name, value)?;
                match name {
                    libc::UDP_CORK if options::int(value)? == 0 => self.uncork(),
                    // Only what is received is the host's business.
                    libc::UDP_GRO => self.outer.set_option(level, name, value),
                    _ => {}
                }
                Ok(())
            }
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, _) => {
                if let Some(request) = groups::decode(level, name, value) {
                    return self.change_groups(request?);
                }
                if (level, name) == (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF) {
                    self.check_multicast_link_v6(value)?;
                }
                self.values.lock().set(level, name, value)?;
                let errors = matches!(
                    (level, name),
                    (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
                );
                if errors && !self.values.lock().on(level, name) {
                    self.state.lock().errors.clear();
                }
                self.outer.set_option(level, name, value);
                Ok(())
            }
            _ => {
                options::set(&self.common, t, level, name, value)?;
                self.outer.set_option(level, name, value);
                Ok(())
            }
        }
    }

    fn option(&self, _t: &Task, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        if headers::is_of_the_way(level, name)
            && self.state.lock().outside
            && let Some(host) = self.outer.get()
        {
            return host.socket().option(level, name, room);
        }
        if has_level(self.domain, level)
            && let Some(told) = headers::get(self, level, name)
        {
            return told;
        }
        match (level, name) {
            (libc::IPPROTO_UDPLITE, _) => Err(Errno::ENOPROTOOPT),
            (libc::IPPROTO_IP, libc::IP_MULTICAST_IF) => {
                Ok(self.state.lock().multicast.1.octets().to_vec())
            }
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6 | libc::IPPROTO_UDP, _)
                if has_level(self.domain, level) =>
            {
                let settings = self.common.stack.settings.read();
                self.values.lock().told(&settings, level, name, room)
            }
            _ => other_option(self, self.domain, level, name),
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
        self.leave_groups();
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
    fn has_errors(&self) -> bool {
        let state = self.state.lock();
        state.error.is_some() || !state.errors.is_empty()
    }

    /// MSG_ERRQUEUE: the first report, inside or of the host's socket. EAGAIN.
    fn receive_error(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
        let report = {
            let mut state = self.state.lock();
            let popped = state.errors.pop();
            popped.map(|(report, error)| {
                state.error = error;
                report
            })
        };
        let Some(report) = report else {
            let host = self.way_in().ok_or(Errno::EAGAIN)?;
            return outer::receive(&host, self.domain, dst, flags);
        };
        // The message of ICMP came as a packet, too.
        let message = Datagram {
            data: Vec::new(),
            from: SocketAddr::new(report.offender, 0),
            to: SocketAddr::new(report.offender, 0),
            ttl: 64,
            tos: TOS_ICMP,
            time_ns: report.time_ns,
            lost: 0,
            segment: 0,
        };
        let mut extra = self.extras(&message);
        extra.push(report.extra(self.domain));
        let n = report.quoted.len().min(dst.remaining());
        let count = match n {
            0 => 0,
            n => dst.put(&report.quoted[..n])?,
        };
        Ok(Received {
            count,
            full: report.quoted.len(),
            from: Some(address::encode(self.domain, report.to)),
            extra,
            flags: libc::MSG_ERRQUEUE,
            ..Received::default()
        })
    }

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
