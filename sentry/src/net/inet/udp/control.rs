//! Control data of datagrams (ip(7), ipv6(7)): what a sender says of one, and what a receiver is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Datagram, Udp};
use crate::errno::{Errno, Result};
use crate::net::inet::address;
use crate::net::interfaces::LOOPBACK;
use crate::net::options;
use crate::net::outside::Domain;
use crate::net::socket::Extra;

const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
const IPV6_RECVORIGDSTADDR: i32 = 74;
/// Most datagrams that UDP_SEGMENT makes of one send.
const MAX_SEGMENTS: usize = 128;

/// What is on the outside of a datagram, by options and control data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub ttl: i32,
    pub tos: i32,
    /// They are the control data's.
    ttl_said: bool,
    tos_said: bool,
    /// The sender's address and interface, where IP_PKTINFO or IPV6_PKTINFO gave them.
    pub source: Option<IpAddr>,
    pub link: Option<u32>,
    /// UDP_SEGMENT: bytes of each datagram that it becomes; 0: one.
    pub segment: usize,
}

impl Envelope {
    /// The control messages that say the same to the host's socket: what options say it knows.
    /// `link`: the interface to leave by; `cut`: into segments.
    pub fn outside(&self, to: IpAddr, link: Option<u32>, cut: bool) -> Vec<Extra> {
        let mut extra = Vec::new();
        let mut put = |level, kind, data: Vec<u8>| extra.push(Extra { level, kind, data });
        let index = link.or(self.link).unwrap_or(0).to_ne_bytes();
        let int = |v: i32| v.to_ne_bytes().to_vec();
        let somewhere = self.source.is_some() || index != [0; 4];
        match to {
            IpAddr::V4(_) => {
                if somewhere {
                    let source = match self.source {
                        Some(IpAddr::V4(ip)) => ip,
                        _ => Ipv4Addr::UNSPECIFIED,
                    };
                    let data = [index, source.octets(), [0; 4]].concat();
                    put(IP, libc::IP_PKTINFO, data);
                }
                self.ttl_said.then(|| put(IP, libc::IP_TTL, int(self.ttl)));
                self.tos_said
                    .then(|| put(IP, libc::IP_TOS, vec![self.tos as u8]));
            }
            IpAddr::V6(_) => {
                if somewhere {
                    let source = match self.source {
                        Some(IpAddr::V6(ip)) => ip,
                        _ => Ipv6Addr::UNSPECIFIED,
                    };
                    let data = [&source.octets()[..], &index].concat();
                    put(IPV6, libc::IPV6_PKTINFO, data);
                }
                self.ttl_said
                    .then(|| put(IPV6, libc::IPV6_HOPLIMIT, int(self.ttl)));
                self.tos_said
                    .then(|| put(IPV6, libc::IPV6_TCLASS, int(self.tos)));
            }
        }
        if cut {
            let size = u16::try_from(self.segment).unwrap_or(u16::MAX);
            let data = size.to_ne_bytes().to_vec();
            put(libc::IPPROTO_UDP, libc::UDP_SEGMENT, data);
        }
        extra
    }

    /// The length of each datagram that `len` bytes become. EINVAL if they are too many.
    pub fn piece(&self, len: usize) -> Result<usize> {
        match self.segment {
            0 => Ok(len),
            n if len > n * MAX_SEGMENTS => Err(Errno::EINVAL),
            n => Ok(n.min(len)),
        }
    }
}

/// An int within bounds.
fn within(data: &[u8], low: i32, high: i32) -> Result<i32> {
    let exact: [u8; 4] = data.try_into().map_err(|_| Errno::EINVAL)?;
    let v = i32::from_ne_bytes(exact);
    if (low..=high).contains(&v) {
        Ok(v)
    } else {
        Err(Errno::EINVAL)
    }
}

fn at<const N: usize>(data: &[u8], from: usize) -> Result<[u8; N]> {
    let found = data.get(from..).and_then(<[u8]>::first_chunk);
    found.copied().ok_or(Errno::EINVAL)
}

impl Udp {
    /// What a datagram to `to` has on its outside. EINVAL, ENODEV for an interface that is none.
    pub(super) fn envelope(&self, to: IpAddr, extra: &[Extra]) -> Result<Envelope> {
        let values = self.values.lock();
        let (level, ttl, tos) = match to {
            IpAddr::V4(ip) if ip.is_multicast() => (IP, libc::IP_MULTICAST_TTL, libc::IP_TOS),
            IpAddr::V4(_) => (IP, libc::IP_TTL, libc::IP_TOS),
            IpAddr::V6(ip) if ip.is_multicast() => {
                (IPV6, libc::IPV6_MULTICAST_HOPS, libc::IPV6_TCLASS)
            }
            IpAddr::V6(_) => (IPV6, libc::IPV6_UNICAST_HOPS, libc::IPV6_TCLASS),
        };
        let mut envelope = Envelope {
            ttl: values.get(level, ttl),
            tos: values.get(level, tos),
            ttl_said: false,
            tos_said: false,
            source: None,
            link: None,
            segment: values.get(libc::IPPROTO_UDP, libc::UDP_SEGMENT) as usize,
        };
        drop(values);
        for e in extra {
            let data = &e.data[..];
            match (e.level, e.kind) {
                (libc::IPPROTO_UDP, libc::UDP_SEGMENT) => {
                    let size: [u8; 2] = data.try_into().map_err(|_| Errno::EINVAL)?;
                    envelope.segment = usize::from(u16::from_ne_bytes(size));
                }
                (libc::IPPROTO_UDP, _) => return Err(Errno::EINVAL),
                (IPV6, libc::IPV6_PKTINFO) if level == IPV6 || self.domain == Domain::V6 => {
                    let ip = Ipv6Addr::from(at::<16>(data, 0)?);
                    envelope.link = self.known_link(at(data, 16)?)?;
                    if !ip.is_unspecified() {
                        envelope.source = Some(IpAddr::V6(ip).to_canonical());
                    }
                }
                // Other families' are not looked at.
                (other, _) if other != level => {}
                (IP, libc::IP_PKTINFO) => {
                    let ip = Ipv4Addr::from(at::<4>(data, 4)?);
                    at::<12>(data, 0)?;
                    envelope.link = self.known_link(at(data, 0)?)?;
                    if !ip.is_unspecified() {
                        envelope.source = Some(ip.into());
                    }
                }
                (IP, libc::IP_TTL) => {
                    envelope.ttl = within(data, 1, 255)?;
                    envelope.ttl_said = true;
                }
                (IP, libc::IP_TOS) => {
                    envelope.tos_said = true;
                    envelope.tos = match data {
                        [tos] => i32::from(*tos),
                        _ => within(data, 0, 255)?,
                    };
                }
                (IPV6, libc::IPV6_HOPLIMIT) => match within(data, -1, 255)? {
                    -1 => {}
                    hops => {
                        envelope.ttl = hops;
                        envelope.ttl_said = true;
                    }
                },
                (IPV6, libc::IPV6_TCLASS) => {
                    envelope.tos = within(data, -1, 255)?.max(0);
                    envelope.tos_said = true;
                }
                (IPV6, libc::IPV6_DONTFRAG) => {
                    within(data, 0, 1)?;
                }
                _ => return Err(Errno::EINVAL),
            }
        }
        self.check_source(to, envelope.source)?;
        Ok(envelope)
    }

    fn known_link(&self, index: [u8; 4]) -> Result<Option<u32>> {
        let index = u32::from_ne_bytes(index);
        let known = || self.common.stack.interfaces.read().link(index).is_some();
        match index {
            0 => Ok(None),
            index if known() => Ok(Some(index)),
            _ => Err(Errno::ENODEV),
        }
    }

    /// Whether that can be sent from. EINVAL, ENETUNREACH.
    fn check_source(&self, to: IpAddr, source: Option<IpAddr>) -> Result<()> {
        let Some(source) = source else {
            return Ok(());
        };
        let own = self.common.stack.interfaces.read().own(source).is_some();
        match source {
            _ if source.is_ipv4() != to.is_ipv4() => Err(Errno::EINVAL),
            IpAddr::V4(ip) if ip.is_multicast() || ip.is_broadcast() => Err(Errno::EINVAL),
            _ if own => Ok(()),
            IpAddr::V4(_) => Err(Errno::ENETUNREACH),
            IpAddr::V6(_) => Err(Errno::EINVAL),
        }
    }

    /// The control messages that the receiver asked for.
    pub(super) fn extras(&self, datagram: &Datagram) -> Vec<Extra> {
        let mut extra = {
            let options = self.common.options.lock();
            let mut extra = options::stamps(&options, datagram.time_ns);
            if options.receive_errors_count && datagram.lost > 0 {
                extra.push(Extra {
                    level: libc::SOL_SOCKET,
                    kind: libc::SO_RXQ_OVFL,
                    data: datagram.lost.to_ne_bytes().to_vec(),
                });
            }
            extra
        };
        let mut put = |level, kind, data: &[u8]| {
            extra.push(Extra {
                level,
                kind,
                data: data.to_vec(),
            });
        };
        let values = self.values.lock();
        let on = |level, name| values.on(level, name);
        let int = |v: i32| v.to_ne_bytes();
        let index = (LOOPBACK as i32).to_ne_bytes();
        if datagram.segment > 0 {
            let size = i32::try_from(datagram.segment).unwrap_or(i32::MAX);
            put(libc::IPPROTO_UDP, libc::UDP_GRO, &int(size));
        }
        let v4 = match datagram.to.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        };
        if let Some(ip) = v4 {
            if on(IP, libc::IP_PKTINFO) {
                let local = if ip.is_multicast() || ip.is_broadcast() {
                    Ipv4Addr::LOCALHOST
                } else {
                    ip
                };
                let data = [&index[..], &local.octets(), &ip.octets()].concat();
                put(IP, libc::IP_PKTINFO, &data);
            }
            if on(IP, libc::IP_RECVTTL) {
                put(IP, libc::IP_TTL, &int(datagram.ttl));
            }
            if on(IP, libc::IP_RECVTOS) {
                put(IP, libc::IP_TOS, &[datagram.tos as u8]);
            }
            if on(IP, libc::IP_RECVORIGDSTADDR) {
                let name = address::encode(Domain::V4, datagram.to);
                put(IP, libc::IP_ORIGDSTADDR, name.bytes());
            }
        }
        if self.domain == Domain::V6 {
            let ip = match datagram.to.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            if on(IPV6, libc::IPV6_RECVPKTINFO) {
                let data = [&ip.octets()[..], &index].concat();
                put(IPV6, libc::IPV6_PKTINFO, &data);
            }
            if v4.is_none() && on(IPV6, libc::IPV6_RECVHOPLIMIT) {
                put(IPV6, libc::IPV6_HOPLIMIT, &int(datagram.ttl));
            }
            if v4.is_none() && on(IPV6, libc::IPV6_RECVTCLASS) {
                put(IPV6, libc::IPV6_TCLASS, &int(datagram.tos));
            }
            if v4.is_none() && on(IPV6, IPV6_RECVORIGDSTADDR) {
                let name = address::encode(Domain::V6, datagram.to);
                put(IPV6, IPV6_RECVORIGDSTADDR, name.bytes());
            }
        }
        extra
    }
}
