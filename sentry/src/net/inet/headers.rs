//! Options of level IPPROTO_IPV6 about what an IPv6 packet has besides its data (ipv6(7), RFC 3542),
//! and about the packet's way: there are no such headers here, and no packets.
//!
//! Who asks for headers gets the errors of Linux for what is malformed or not permitted, and else
//! EOPNOTSUPP. Those that come in would be told; none do.

use std::net::IpAddr;

use crate::errno::{Errno, Result};
use crate::kernel::cred::Cap;
use crate::kernel::task::Task;
use crate::net::interfaces::LOOPBACK;
use crate::net::options::int;
use crate::net::socket::Socket;

/// linux/in6.h, not all in libc.
const IPV6_ADDRFORM: i32 = 1;
const IPV6_MTU: i32 = 24;
const IPV6_HOPOPTS: i32 = 54;
const IPV6_RTHDRDSTOPTS: i32 = 55;
const IPV6_RTHDR: i32 = 57;
const IPV6_DSTOPTS: i32 = 59;
const IP_MTU: i32 = 14;
/// Routing headers that Linux knows: for mobile nodes, and segment routing.
const ROUTING_TYPES: [u8; 2] = [2, 4];

/// setsockopt(2); None: the option is another one. EPERM, EINVAL, EOPNOTSUPP, ENOTCONN.
pub fn set(
    socket: &impl Socket,
    t: &Task,
    level: i32,
    name: i32,
    value: &[u8],
) -> Option<Result<()>> {
    if level != libc::IPPROTO_IPV6 {
        return None;
    }
    match name {
        IPV6_ADDRFORM => Some(become_v4(socket, value)),
        IPV6_HOPOPTS | IPV6_RTHDRDSTOPTS | IPV6_DSTOPTS if !t.has_cap(Cap::NetRaw) => {
            Some(Err(Errno::EPERM))
        }
        IPV6_HOPOPTS | IPV6_RTHDRDSTOPTS | IPV6_DSTOPTS | IPV6_RTHDR => {
            Some(check_header(name, value))
        }
        _ => None,
    }
}

/// An empty header is none, which is what there is.
fn check_header(name: i32, value: &[u8]) -> Result<()> {
    let [_, length, kind, ..] = value else {
        return match value {
            [] => Ok(()),
            _ => Err(Errno::EINVAL),
        };
    };
    let told = (usize::from(*length) + 1) * 8;
    let routing = name != IPV6_RTHDR || ROUTING_TYPES.contains(kind);
    if !value.len().is_multiple_of(8) || value.len() > 8 * 255 || told > value.len() || !routing {
        return Err(Errno::EINVAL);
    }
    Err(Errno::EOPNOTSUPP)
}

/// IPV6_ADDRFORM: a connection between IPv4 addresses stays a socket of IPv6.
fn become_v4(socket: &impl Socket, value: &[u8]) -> Result<()> {
    if int(value)? != libc::AF_INET {
        return Err(Errno::EINVAL);
    }
    let peer = socket.peer_name().map_err(|_| Errno::ENOTCONN)?;
    match peer.inet().map(|a| a.ip()) {
        Some(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EADDRNOTAVAIL),
    }
}

/// getsockopt(2); None: the option is another one, or the host's to answer. ENOTCONN.
pub fn get(socket: &impl Socket, level: i32, name: i32) -> Option<Result<Vec<u8>>> {
    let connected = |value: i32| match socket.peer_name() {
        Ok(_) => Ok(value.to_ne_bytes().to_vec()),
        Err(_) => Err(Errno::ENOTCONN),
    };
    match (level, name) {
        (libc::IPPROTO_IPV6, IPV6_ADDRFORM) => Some(connected(socket.common().family)),
        (libc::IPPROTO_IPV6, IPV6_HOPOPTS | IPV6_RTHDRDSTOPTS | IPV6_DSTOPTS | IPV6_RTHDR) => {
            Some(Ok(Vec::new()))
        }
        (libc::IPPROTO_IP, IP_MTU) | (libc::IPPROTO_IPV6, IPV6_MTU) => {
            let interfaces = socket.common().stack.interfaces.read();
            let mtu = interfaces.link(LOOPBACK).map_or(0, |l| l.mtu);
            // No packet of IPv4 is longer, with its header, nor one of IPv6 without.
            let longest = match level {
                libc::IPPROTO_IP => 65535,
                _ => 65535 + 40,
            };
            Some(connected(mtu.min(longest).cast_signed()))
        }
        _ => None,
    }
}

/// Whether an option is the host's to answer for a connection to the outside.
pub fn is_of_the_way(level: i32, name: i32) -> bool {
    matches!(
        (level, name),
        (libc::IPPROTO_IP, IP_MTU) | (libc::IPPROTO_IPV6, IPV6_MTU)
    )
}
