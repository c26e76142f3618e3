//! Data of a socket that reaches the outside: the host's socket behind one of the guest's.
//!
//! [`Host`] moves bytes between guest memory and the host's socket, for a stream without a copy in
//! between, and passes the host's readiness on to the guest socket's queue. Whoever waits there
//! tries again.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::inet::address;
use super::outside::{Domain, HostSocket};
use super::socket::{Extra, Socket};
use crate::errno::{Errno, Result};
use crate::executor::{HostWatch, Reactor};
use crate::fs::sigio::Band;
use crate::kernel::wait::{Ready, Waiter};
use crate::mm::io::{Sink, Source};

/// Longest datagram.
const MAX_PACKET: usize = 65536;
/// Up to here a copy costs less than holding the guest's memory for the host.
const GATHERED: usize = 4096;
/// Room for the control messages of a datagram.
const MAX_CONTROL: usize = 512;

/// See the module documentation.
pub struct Host {
    made: Box<dyn HostSocket>,
    /// It has a port of its own in the network namespace.
    bound: AtomicBool,
    _watch: Arc<HostWatch>,
}

/// Tells those who wait for the guest's socket. It sends signals and may hold the last reference to
/// the socket, so nobody who tells it holds a lock.
struct PassOn(Weak<dyn Socket>);

impl Waiter for PassOn {
    fn notify(&self, ready: Ready) {
        if let Some(socket) = self.0.upgrade() {
            let common = socket.common();
            common.queue.wake(ready);
            if ready.contains(Ready::PRI) {
                common.tell_urgent();
            }
            common.subscribers.tell(if ready.contains(Ready::IN) {
                Band::In
            } else if ready.contains(Ready::HUP) {
                Band::HangUp
            } else if ready.contains(Ready::ERR) {
                Band::Error
            } else {
                Band::Out
            });
        }
    }
}

/// A datagram as it came.
#[derive(Debug)]
pub struct Packet {
    pub data: Vec<u8>,
    /// How long it was, which may be more than `data`.
    pub full: usize,
    pub from: Option<SocketAddr>,
    pub extra: Vec<Extra>,
    /// `msg_flags` of recvmsg(2), `MSG_ERRQUEUE` for one.
    pub flags: i32,
}

impl Host {
    /// # Errors
    /// The host cannot watch another socket.
    pub fn new(
        made: Box<dyn HostSocket>,
        reactor: &Arc<Reactor>,
        guest: Weak<dyn Socket>,
    ) -> Result<Host> {
        let watch = reactor.watch_for(made.fd(), Arc::new(PassOn(guest)))?;
        Ok(Host {
            made,
            bound: AtomicBool::new(false),
            _watch: watch,
        })
    }

    /// bind(2). EADDRINUSE and others.
    pub fn bind(&self, local: SocketAddr) -> Result<()> {
        self.made.bind(local)?;
        self.bound.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether [`Host::bind`] was done.
    pub fn is_bound(&self) -> bool {
        self.bound.load(Ordering::Relaxed)
    }

    pub fn socket(&self) -> &dyn HostSocket {
        &*self.made
    }

    /// What poll(2) shows of the host's socket now.
    pub fn ready(&self) -> Ready {
        let all = PollFlags::IN
            | PollFlags::PRI
            | PollFlags::OUT
            | PollFlags::RDNORM
            | PollFlags::WRNORM
            | PollFlags::RDHUP;
        let mut fds = [PollFd::new(self.made.fd(), all)];
        match rustix::event::poll(&mut fds, Some(&Timespec::default())) {
            Ok(_) => Ready::from_bits_truncate(u32::from(fds[0].revents().bits())),
            Err(_) => Ready::empty(),
        }
    }

    /// The bytes sent, taken out of `src`. `flags`: MSG_OOB, MSG_MORE. EAGAIN, EPIPE and the
    /// socket's error.
    pub fn send(&self, src: &mut Source<'_>, flags: i32) -> Result<usize> {
        let special = flags & (libc::MSG_OOB | libc::MSG_MORE);
        let special = MsgFlags::from_bits_truncate(special);
        let mut total = 0;
        // What lies in several places is sent together, as what is sent at once is one segment to
        // the host. All is tried: less than was asked for says that there is no more room.
        loop {
            let want = src.remaining();
            let step = match src.is_one_piece() && want > GATHERED && special.is_empty() {
                // No signal: the Sentry ignores SIGPIPE.
                true => src.take_host(self.made.fd().as_fd(), None, want),
                false => self.send_gathered(src, special),
            };
            match step {
                Ok(sent) => total += sent,
                Err(_) if total > 0 => return Ok(total),
                Err(e) => return Err(e),
            }
            if src.remaining() == 0 || step == Ok(0) {
                return Ok(total);
            }
        }
    }

    /// The first bytes of `src`.
    fn send_gathered(&self, src: &mut Source<'_>, special: MsgFlags) -> Result<usize> {
        let want = src.remaining();
        let mut few = [0; GATHERED];
        let mut many = Vec::new();
        let data = match few.get_mut(..want) {
            Some(few) => few,
            None => {
                many.resize(want.min(MAX_PACKET), 0);
                &mut many
            }
        };
        let n = src.peek(data)?;
        // The last byte is the urgent one: it must not be cut off.
        let special = match n < want {
            true => special - MsgFlags::MSG_OOB,
            false => special,
        };
        let sent = nix::sys::socket::send(self.raw(), &data[..n], SEND | special)?;
        src.skip(sent);
        Ok(sent)
    }

    /// The bytes put into `dst`; 0: the end. `flags`: MSG_PEEK, MSG_OOB, MSG_TRUNC. EAGAIN and the
    /// socket's error.
    pub fn receive(&self, dst: &mut Sink<'_>, flags: i32) -> Result<usize> {
        let special = flags & (libc::MSG_PEEK | libc::MSG_OOB | libc::MSG_TRUNC);
        if special == 0 {
            return self.receive_stream(dst);
        }
        let mut data = vec![0; dst.remaining().min(MAX_PACKET)];
        let flags = MsgFlags::from_bits_truncate(special);
        let n = nix::sys::socket::recv(self.raw(), &mut data, RECEIVE | flags)?;
        match special & libc::MSG_TRUNC {
            // Taken and thrown away (tcp(7)).
            0 => dst.put(&data[..n.min(data.len())]),
            _ => Ok(n),
        }
    }

    /// Whatever there is, as far as there is room: that less than was asked for came says that nothing
    /// is left, to who waits for the next edge (epoll(7)).
    fn receive_stream(&self, dst: &mut Sink<'_>) -> Result<usize> {
        let fd = self.made.fd().as_fd();
        let mut total = dst.put_host(fd, None, dst.remaining())?;
        // Where memory lies in another place behind this one, the rest is asked for only if it is
        // there: an error is to be told by a call of its own.
        while total > 0
            && dst.remaining() > 0
            && dst.is_at_page()
            && self.unread().is_ok_and(|n| n > 0)
        {
            match dst.put_host(fd, None, dst.remaining()) {
                Ok(more @ 1..) => total += more,
                _ => break,
            }
        }
        Ok(total)
    }

    /// Sends a datagram. EAGAIN, EMSGSIZE, the socket's error, EINVAL for a control message that is
    /// none.
    pub fn send_packet(
        &self,
        data: &[u8],
        to: Option<SocketAddr>,
        extra: &[Extra],
        flags: i32,
    ) -> Result<usize> {
        let control = extra.iter().map(Control::decode);
        let control = control.collect::<Result<Vec<_>>>()?;
        let messages: Vec<_> = control.iter().map(Control::message).collect();
        let to = to.map(SockaddrStorage::from);
        let kept = libc::MSG_CONFIRM | libc::MSG_DONTROUTE;
        let flags = SEND | MsgFlags::from_bits_truncate(flags & kept);
        let slices = [IoSlice::new(data)];
        let fd = self.raw();
        Ok(nix::sys::socket::sendmsg(
            fd,
            &slices,
            &messages,
            flags,
            to.as_ref(),
        )?)
    }

    /// Takes (MSG_PEEK: looks at) a datagram, of which at most `room` bytes are wanted. EAGAIN and
    /// the socket's error.
    pub fn receive_packet(&self, room: usize, flags: i32) -> Result<Packet> {
        let mut data = vec![0; room.min(MAX_PACKET)];
        let mut control = vec![0; MAX_CONTROL];
        let kept = libc::MSG_PEEK | libc::MSG_ERRQUEUE;
        let flags = RECEIVE | MsgFlags::MSG_TRUNC | MsgFlags::from_bits_truncate(flags & kept);
        let (full, from, extra, flags) = {
            let mut slices = [IoSliceMut::new(&mut data)];
            let got = nix::sys::socket::recvmsg::<SockaddrStorage>(
                self.raw(),
                &mut slices,
                Some(&mut control),
                flags,
            )?;
            let extra = match got.cmsgs() {
                Ok(messages) => messages.filter_map(encode).collect(),
                Err(_) => Vec::new(),
            };
            let from = got.address.as_ref().and_then(socket_addr);
            (got.bytes, from, extra, got.flags.bits())
        };
        data.truncate(full);
        Ok(Packet {
            data,
            full,
            from,
            extra,
            flags: flags & libc::MSG_ERRQUEUE,
        })
    }

    /// shutdown(2).
    pub fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        use nix::sys::socket::Shutdown;
        let how = match (read, write) {
            (true, true) => Shutdown::Both,
            (true, false) => Shutdown::Read,
            (false, true) => Shutdown::Write,
            (false, false) => return Ok(()),
        };
        Ok(nix::sys::socket::shutdown(self.raw(), how)?)
    }

    /// FIONREAD: bytes that wait to be read.
    pub fn unread(&self) -> Result<usize> {
        let n = rustix::io::ioctl_fionread(self.made.fd())?;
        Ok(usize::try_from(n).unwrap_or(0))
    }

    fn raw(&self) -> i32 {
        self.made.fd().as_raw_fd()
    }
}

const SEND: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);
const RECEIVE: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_CMSG_CLOEXEC);

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|a| SocketAddr::V6((*a).into()))
    })
}

/// A control message that a guest may send along (ip(7), ipv6(7)).
enum Control {
    PacketInfo4(libc::in_pktinfo),
    PacketInfo6(libc::in6_pktinfo),
    Ttl(i32),
    Tos(u8),
    HopLimit(i32),
    TrafficClass(i32),
    Segments(u16),
}

impl Control {
    fn decode(extra: &Extra) -> Result<Control> {
        let data = &extra.data[..];
        let int = || match data {
            [a, b, c, d] => Ok(i32::from_ne_bytes([*a, *b, *c, *d])),
            [byte] => Ok(i32::from(*byte)),
            _ => Err(Errno::EINVAL),
        };
        Ok(match (extra.level, extra.kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let bytes: [u8; 12] = data.try_into().map_err(|_| Errno::EINVAL)?;
                let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
                Control::PacketInfo4(libc::in_pktinfo {
                    ipi_ifindex: i32::from_ne_bytes(word(0)),
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from_ne_bytes(word(4)),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                })
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let bytes: [u8; 20] = data.try_into().map_err(|_| Errno::EINVAL)?;
                let (address, index) = bytes.split_at(16);
                let mut s6_addr = [0; 16];
                s6_addr.copy_from_slice(address);
                Control::PacketInfo6(libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr },
                    ipi6_ifindex: index.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)),
                })
            }
            (libc::IPPROTO_IP, libc::IP_TTL) => Control::Ttl(int()?),
            (libc::IPPROTO_IP, libc::IP_TOS) => Control::Tos(int()? as u8),
            (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => Control::HopLimit(int()?),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => Control::TrafficClass(int()?),
            (libc::IPPROTO_UDP, libc::UDP_SEGMENT) => {
                let size: [u8; 2] = data.try_into().map_err(|_| Errno::EINVAL)?;
                Control::Segments(u16::from_ne_bytes(size))
            }
            _ => return Err(Errno::EINVAL),
        })
    }

    fn message(&self) -> ControlMessage<'_> {
        match self {
            Control::PacketInfo4(info) => ControlMessage::Ipv4PacketInfo(info),
            Control::PacketInfo6(info) => ControlMessage::Ipv6PacketInfo(info),
            Control::Ttl(ttl) => ControlMessage::Ipv4Ttl(ttl),
            Control::Tos(tos) => ControlMessage::Ipv4Tos(tos),
            Control::HopLimit(hops) => ControlMessage::Ipv6HopLimit(hops),
            Control::TrafficClass(class) => ControlMessage::Ipv6TClass(class),
            Control::Segments(size) => ControlMessage::UdpGsoSegments(size),
        }
    }
}

/// A control message as the guest is to see it; those that it did not ask for do not come.
fn encode(message: ControlMessageOwned) -> Option<Extra> {
    let (level, kind, data) = match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            let addresses = [info.ipi_spec_dst.s_addr, info.ipi_addr.s_addr];
            let mut data = info.ipi_ifindex.to_ne_bytes().to_vec();
            data.extend(addresses.iter().flat_map(|a| a.to_ne_bytes()));
            (libc::IPPROTO_IP, libc::IP_PKTINFO, data)
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let mut data = info.ipi6_addr.s6_addr.to_vec();
            data.extend(info.ipi6_ifindex.to_ne_bytes());
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, data)
        }
        ControlMessageOwned::ScmTimestamp(time) => {
            let mut data = time.tv_sec().to_ne_bytes().to_vec();
            data.extend(time.tv_usec().to_ne_bytes());
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMP, data)
        }
        ControlMessageOwned::ScmTimestampns(time) => {
            let mut data = time.tv_sec().to_ne_bytes().to_vec();
            data.extend(time.tv_nsec().to_ne_bytes());
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, data)
        }
        ControlMessageOwned::ScmTimestampsns(times) => {
            let parts = [times.system, times.hw_trans, times.hw_raw];
            let parts = parts.map(|t| [t.tv_sec().to_ne_bytes(), t.tv_nsec().to_ne_bytes()]);
            let data = parts.concat().concat();
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING, data)
        }
        ControlMessageOwned::RxqOvfl(lost) => {
            let data = lost.to_ne_bytes().to_vec();
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, data)
        }
        ControlMessageOwned::UdpGroSegments(size) => int(libc::IPPROTO_UDP, libc::UDP_GRO, size),
        ControlMessageOwned::Ipv4OrigDstAddr(to) => {
            let to: SocketAddrV4 = nix::sys::socket::SockaddrIn::from(to).into();
            let name = address::encode(Domain::V4, to.into());
            let data = name.bytes().to_vec();
            (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR, data)
        }
        ControlMessageOwned::Ipv6OrigDstAddr(to) => {
            let to: SocketAddrV6 = nix::sys::socket::SockaddrIn6::from(to).into();
            let name = address::encode(Domain::V6, to.into());
            let data = name.bytes().to_vec();
            (libc::IPPROTO_IPV6, IPV6_ORIGDSTADDR, data)
        }
        ControlMessageOwned::Ipv4RecvErr(error, from) => {
            let from = from.map(|a| SocketAddr::V4(nix::sys::socket::SockaddrIn::from(a).into()));
            (libc::IPPROTO_IP, libc::IP_RECVERR, recv_error(&error, from))
        }
        ControlMessageOwned::Ipv6RecvErr(error, from) => {
            let from = from.map(|a| SocketAddr::V6(nix::sys::socket::SockaddrIn6::from(a).into()));
            (
                libc::IPPROTO_IPV6,
                libc::IPV6_RECVERR,
                recv_error(&error, from),
            )
        }
        ControlMessageOwned::Unknown(other) => {
            let header = other.cmsg_header;
            (header.cmsg_level, header.cmsg_type, other.data_bytes)
        }
        ControlMessageOwned::Ipv4Ttl(ttl) => int(libc::IPPROTO_IP, libc::IP_TTL, ttl),
        ControlMessageOwned::Ipv4Tos(tos) => (libc::IPPROTO_IP, libc::IP_TOS, vec![tos]),
        ControlMessageOwned::Ipv6HopLimit(n) => int(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, n),
        ControlMessageOwned::Ipv6TClass(n) => int(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, n),
        _ => return None,
    };
    Some(Extra { level, kind, data })
}

/// linux/in6.h, not in libc.
const IPV6_ORIGDSTADDR: i32 = 74;

fn int(level: i32, kind: i32, value: i32) -> (i32, i32, Vec<u8>) {
    (level, kind, value.to_ne_bytes().to_vec())
}

/// struct sock_extended_err and the address of the one who complained.
fn recv_error(error: &libc::sock_extended_err, from: Option<SocketAddr>) -> Vec<u8> {
    let mut data = error.ee_errno.to_ne_bytes().to_vec();
    data.extend([error.ee_origin, error.ee_type, error.ee_code, error.ee_pad]);
    data.extend(error.ee_info.to_ne_bytes());
    data.extend(error.ee_data.to_ne_bytes());
    if let Some(from) = from {
        let (family, ip) = match from.ip() {
            IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (libc::AF_INET6, [&[0; 4][..], &ip.octets()].concat()),
        };
        data.extend((family as u16).to_ne_bytes());
        data.extend(from.port().to_be_bytes());
        data.extend(ip);
        // sockaddr_in is padded, sockaddr_in6 has its scope.
        let rest = if from.is_ipv4() { 8 } else { 4 };
        data.extend(std::iter::repeat_n(0, rest));
    }
    data
}

#[cfg(test)]
mod tests;
