//! Control data of datagrams (ip(7), ipv6(7)): what a sender says of one, and what a receiver is told.

use std::net::{IpAddr, Ipv4Addr};

use super::{Datagram, Udp};
use crate::errno::{Errno, Result};
use crate::net::inet::address;
use crate::net::interfaces::LOOPBACK;
use crate::net::options::{self, Stamp};
use crate::net::outside::Domain;
use crate::net::socket::Extra;

impl Udp {
    /// TTL and traffic class, by options and control data.
    pub(super) fn header(&self, to: IpAddr, extra: &[Extra]) -> Result<(i32, i32)> {
        let values = self.values.lock();
        let (level, ttl, tos) = match to {
            IpAddr::V4(ip) if ip.is_multicast() => {
                (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, libc::IP_TOS)
            }
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_TOS),
            IpAddr::V6(_) => (
                libc::IPPROTO_IPV6,
                libc::IPV6_UNICAST_HOPS,
                libc::IPV6_TCLASS,
            ),
        };
        let mut ttl = values.get(level, ttl);
        let mut tos = values.get(level, tos);
        drop(values);
        for e in extra.iter().filter(|e| e.level == level) {
            match e.kind {
                libc::IP_TTL if level == libc::IPPROTO_IP => ttl = options::int(&e.data)?,
                libc::IP_TOS if level == libc::IPPROTO_IP => {
                    tos = i32::from(*e.data.first().ok_or(Errno::EINVAL)?);
                }
                libc::IPV6_HOPLIMIT if level == libc::IPPROTO_IPV6 => {
                    ttl = options::int(&e.data)?;
                }
                libc::IPV6_TCLASS if level == libc::IPPROTO_IPV6 => tos = options::int(&e.data)?,
                // The source is the one that the destination gives.
                libc::IP_PKTINFO if level == libc::IPPROTO_IP => {}
                libc::IPV6_PKTINFO if level == libc::IPPROTO_IPV6 => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok((ttl, tos))
    }

    /// The control messages that the receiver asked for.
    pub(super) fn extras(&self, datagram: &Datagram) -> Vec<Extra> {
        let mut extra = Vec::new();
        let mut put = |level, kind, data: &[u8]| {
            extra.push(Extra {
                level,
                kind,
                data: data.to_vec(),
            });
        };
        let stamp = self.common.options.lock().stamp;
        let (sec, ns) = (
            datagram.time_ns / 1_000_000_000,
            datagram.time_ns % 1_000_000_000,
        );
        let pair = |a: u64, b: u64| [a.to_ne_bytes(), b.to_ne_bytes()].concat();
        match stamp {
            Stamp::None => {}
            Stamp::Micro => put(libc::SOL_SOCKET, libc::SO_TIMESTAMP, &pair(sec, ns / 1000)),
            Stamp::Nano => put(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &pair(sec, ns)),
        }
        let values = self.values.lock();
        let on = |level, name| values.on(level, name);
        let int = |v: i32| v.to_ne_bytes();
        let index = (LOOPBACK as i32).to_ne_bytes();
        let v4 = match (self.domain, datagram.to.ip()) {
            (_, IpAddr::V4(ip)) => Some(ip),
            _ => None,
        };
        if let Some(ip) = v4 {
            if on(libc::IPPROTO_IP, libc::IP_PKTINFO) {
                let local = if ip.is_multicast() || ip.is_broadcast() {
                    Ipv4Addr::LOCALHOST
                } else {
                    ip
                };
                let data = [&index[..], &local.octets(), &ip.octets()].concat();
                put(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
            }
            if on(libc::IPPROTO_IP, libc::IP_RECVTTL) {
                put(libc::IPPROTO_IP, libc::IP_TTL, &int(datagram.ttl));
            }
            if on(libc::IPPROTO_IP, libc::IP_RECVTOS) {
                put(libc::IPPROTO_IP, libc::IP_TOS, &[datagram.tos as u8]);
            }
            if on(libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR) {
                let name = address::encode(Domain::V4, datagram.to);
                put(libc::IPPROTO_IP, libc::IP_ORIGDSTADDR, name.bytes());
            }
        }
        if self.domain == Domain::V6 {
            let ip = match datagram.to.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            if on(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) {
                let data = [&ip.octets()[..], &index].concat();
                put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
            }
            if v4.is_none() && on(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT) {
                put(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &int(datagram.ttl));
            }
            if v4.is_none() && on(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS) {
                put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &int(datagram.tos));
            }
        }
        extra
    }
}
