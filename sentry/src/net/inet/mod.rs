//! AF_INET and AF_INET6: [`tcp`], [`udp`] and [`ping`] sockets (ip(7), ipv6(7), tcp(7), udp(7)).
//!
//! To an address of the sandbox's own data moves through queues; there are no packets. One port
//! space a protocol serves both families ([`ports`]). Other addresses are reached through
//! [`super::outside`], or not at all.

pub mod address;
mod errors;
mod headers;
pub mod options;
mod outer;
pub mod ping;
pub mod ports;
mod settings;
pub mod tcp;
pub mod udp;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;

use self::ping::Ping;
use self::ports::Ports;
pub use self::settings::Settings;
use self::tcp::{Tcp, TcpPorts};
use self::udp::Udp;
use super::interfaces::LOOPBACK;
use super::outside::Domain;
use super::socket::{Common, Kind, Name, Socket};
use super::stack::Stack;
use crate::errno::{Errno, Result};
use crate::kernel::cred::Cap;
use crate::kernel::task::Task;

/// Who has which port.
#[derive(Default)]
pub struct Tables {
    pub tcp: Mutex<TcpPorts>,
    pub udp: Mutex<Ports<Udp>>,
    pub ping: Mutex<Ports<Ping>>,
    pub groups: Mutex<udp::Members>,
}

const IPPROTO_MAX: i32 = 263;

fn make(t: &Task, domain: Domain, kind: Kind, protocol: i32) -> Result<Arc<dyn Socket>> {
    if !(0..IPPROTO_MAX).contains(&protocol) {
        return Err(Errno::EINVAL);
    }
    let stack = &t.kernel().net;
    let echo = match domain {
        Domain::V4 => libc::IPPROTO_ICMP,
        Domain::V6 => libc::IPPROTO_ICMPV6,
    };
    match (kind, protocol) {
        (Kind::Stream, 0 | libc::IPPROTO_TCP) => Ok(Tcp::new(stack, domain)),
        (Kind::Datagram, 0 | libc::IPPROTO_UDP) => Ok(Udp::new(stack, domain)),
        (Kind::Datagram, p) if p == echo => {
            let (low, high) = stack.settings.read().ping_groups;
            let range = low..=high;
            let may = t.with_creds(|c| {
                range.contains(&c.egid.0) || c.groups.iter().any(|g| range.contains(&g.0))
            });
            if !may {
                return Err(Errno::EACCES);
            }
            Ok(Ping::new(stack, domain))
        }
        (Kind::Raw, _) if !t.has_cap(Cap::NetRaw) => Err(Errno::EPERM),
        // There are no packets to see or make.
        (Kind::Stream | Kind::Datagram | Kind::Raw, _) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// socket(2) for AF_INET.
pub fn make_v4(t: &Task, kind: Kind, protocol: i32) -> Result<Arc<dyn Socket>> {
    make(t, Domain::V4, kind, protocol)
}

/// socket(2) for AF_INET6.
pub fn make_v6(t: &Task, kind: Kind, protocol: i32) -> Result<Arc<dyn Socket>> {
    make(t, Domain::V6, kind, protocol)
}

/// AF_* of a domain.
fn family(domain: Domain) -> i32 {
    match domain {
        Domain::V4 => libc::AF_INET,
        Domain::V6 => libc::AF_INET6,
    }
}

/// The address that bind(2) was given.
///
/// # Errors
/// EINVAL, EAFNOSUPPORT, EACCES for a privileged port, EADDRNOTAVAIL.
fn decode_local(
    t: &Task,
    common: &Common,
    domain: Domain,
    v6_only: bool,
    name: &Name,
) -> Result<SocketAddr> {
    let raw = name.bytes();
    // Programs of old leave the family out.
    let mut given = *name;
    if domain == Domain::V4
        && name.family() == Some(libc::AF_UNSPEC)
        && raw.len() >= 16
        && raw[4..8] == [0; 4]
    {
        let fixed = [&(libc::AF_INET as u16).to_ne_bytes()[..], &raw[2..]].concat();
        given = Name::new(&fixed)?;
    }
    let address = address::decode(domain, &given)?;
    let ip = address.ip();
    if domain == Domain::V6 && ip.is_ipv4() && v6_only {
        return Err(Errno::EINVAL);
    }
    let udp = common.kind == Kind::Datagram;
    let stack = &common.stack;
    let anywhere = {
        let settings = stack.settings.read();
        match ip {
            IpAddr::V4(_) => settings.ip_nonlocal_bind != 0,
            IpAddr::V6(_) => settings.ip6_nonlocal_bind != 0,
        }
    };
    let known = ip.is_unspecified()
        || anywhere
        || stack.interfaces.read().own(ip).is_some()
        || (udp && ip.is_multicast())
        || (udp && matches!(ip, IpAddr::V4(ip) if stack.interfaces.read().is_broadcast(ip)));
    if !known {
        return Err(Errno::EADDRNOTAVAIL);
    }
    let port = address.port();
    let privileged = port != 0 && port < stack.settings.read().unprivileged_port;
    if privileged && common.protocol != libc::IPPROTO_ICMP && !t.has_cap(Cap::NetBindService) {
        return Err(Errno::EACCES);
    }
    // An IPv4 wildcard on an IPv6 socket is bound to IPv4 only, and shown as ::ffff:0.0.0.0; we keep
    // what it means.
    Ok(address)
}

/// Whether sockets of a domain know the options of that level.
fn has_level(domain: Domain, level: i32) -> bool {
    domain == Domain::V6 || level != libc::IPPROTO_IPV6
}

/// getsockopt(2) for what is not of the socket's protocols. IPv4 has an errno of its own for it.
///
/// # Errors
/// EOPNOTSUPP, ENOPROTOOPT.
fn other_option(socket: &impl Socket, domain: Domain, level: i32, name: i32) -> Result<Vec<u8>> {
    if level != libc::SOL_SOCKET && domain == Domain::V4 {
        return Err(Errno::EOPNOTSUPP);
    }
    super::options::get(socket, level, name)
}

/// The address that a socket sends from to one of the sandbox's own.
fn source_for(stack: &Stack, to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() => {
            Ipv4Addr::LOCALHOST.into()
        }
        IpAddr::V6(ip) if ip.is_multicast() => std::net::Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(ip) => {
            let interfaces = stack.interfaces.read();
            // Or the broadcast address of an interface.
            let of = |a: &&super::interfaces::Address| a.broadcast == Some(ip);
            let found = interfaces.own_address(to);
            let found = found.or_else(|| interfaces.addresses.iter().find(of));
            found.map_or(to, |a| interfaces.first_of_network(a))
        }
        _ => to,
    }
}

/// Whether what is sent to `ip` stays inside.
///
/// # Errors
/// ENETUNREACH if there is no way to it, EADDRNOTAVAIL where loopback has no IPv6.
fn check_inside(common: &Common, ip: IpAddr) -> Result<()> {
    let device = common.options.lock().device;
    let stack = &common.stack;
    let own = stack.interfaces.read().own(ip).is_some();
    if own && matches!(device, 0 | LOOPBACK) {
        Ok(())
    } else if matches!(ip, IpAddr::V6(ip) if ip.is_loopback()) {
        Err(Errno::EADDRNOTAVAIL)
    } else {
        Err(Errno::ENETUNREACH)
    }
}
