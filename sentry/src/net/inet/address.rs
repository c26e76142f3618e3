//! struct sockaddr_in and sockaddr_in6.
//!
//! Inside, an IPv4 address is always [`SocketAddr::V4`], also on an IPv6 socket, which shows and
//! takes it as `::ffff:a.b.c.d`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::errno::{Errno, Result};
use crate::net::outside::Domain;
use crate::net::socket::Name;

/// sizeof(struct sockaddr_in); the least of sockaddr_in6 (RFC 2133, without the scope).
const V4_LEN: usize = 16;
const V6_LEN: usize = 28;
const V6_MIN: usize = 24;

fn chunk<const N: usize>(raw: &[u8], at: usize) -> [u8; N] {
    raw.get(at..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .unwrap_or([0; N])
}

fn port(raw: &[u8]) -> u16 {
    u16::from_be_bytes(chunk(raw, 2))
}

fn decode_v4(raw: &[u8]) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(chunk::<4>(raw, 4)).into(), port(raw))
}

/// The address a guest gave to a socket of this domain.
///
/// # Errors
/// EINVAL if it is too short, EAFNOSUPPORT for another family.
pub fn decode(domain: Domain, name: &Name) -> Result<SocketAddr> {
    let raw = name.bytes();
    let min = match domain {
        Domain::V4 => V4_LEN,
        Domain::V6 => V6_MIN,
    };
    if raw.len() < min {
        return Err(Errno::EINVAL);
    }
    match (domain, name.family()) {
        (Domain::V4, Some(libc::AF_INET)) => Ok(decode_v4(raw)),
        (Domain::V6, Some(libc::AF_INET6)) => {
            let ip = Ipv6Addr::from(chunk::<16>(raw, 8));
            if let Some(v4) = ip.to_ipv4_mapped() {
                return Ok(SocketAddr::new(v4.into(), port(raw)));
            }
            let scope = u32::from_ne_bytes(chunk(raw, 24));
            Ok(SocketAddrV6::new(ip, port(raw), 0, scope).into())
        }
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// As [`decode`] for a datagram's destination, where an IPv6 socket takes a sockaddr_in too and an
/// IPv4 socket one without a family.
pub fn decode_destination(domain: Domain, name: &Name) -> Result<SocketAddr> {
    let raw = name.bytes();
    match (domain, name.family()) {
        (Domain::V4, Some(libc::AF_UNSPEC)) | (Domain::V6, Some(libc::AF_INET))
            if raw.len() >= V4_LEN =>
        {
            Ok(decode_v4(raw))
        }
        _ => decode(domain, name),
    }
}

/// An address as a socket of this domain shows it.
pub fn encode(domain: Domain, address: SocketAddr) -> Name {
    let mut raw = [0u8; V6_LEN];
    raw[2..4].copy_from_slice(&address.port().to_be_bytes());
    let (family, len) = match (domain, address.ip()) {
        (Domain::V4, IpAddr::V4(ip)) => {
            raw[4..8].copy_from_slice(&ip.octets());
            (libc::AF_INET, V4_LEN)
        }
        (_, ip) => {
            let ip = match ip {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv6Addr::UNSPECIFIED,
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            raw[8..24].copy_from_slice(&ip.octets());
            if let SocketAddr::V6(v6) = address {
                raw[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            }
            (libc::AF_INET6, V6_LEN)
        }
    };
    raw[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    Name::new(&raw[..len]).unwrap_or(Name::EMPTY)
}

/// The wildcard address of a domain.
pub fn any(domain: Domain) -> IpAddr {
    match domain {
        Domain::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Domain::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// What getsockname(2) tells of a socket of this domain; one without a name has the wildcard's.
pub fn local_name(domain: Domain, local: Option<SocketAddr>) -> Name {
    encode(
        domain,
        local.unwrap_or_else(|| SocketAddr::new(any(domain), 0)),
    )
}

/// Where a connection to an unspecified address goes: to this host.
pub fn this_host(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port())
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for (domain, text) in [
            (Domain::V4, "127.0.0.1:80"),
            (Domain::V6, "[::1]:80"),
            (Domain::V6, "1.2.3.4:5"),
            (Domain::V4, "0.0.0.0:0"),
        ] {
            let address: SocketAddr = text.parse().unwrap();
            let name = encode(domain, address);
            assert_eq!(decode(domain, &name), Ok(address), "{text}");
        }
        let v4 = encode(Domain::V4, "127.0.0.1:80".parse().unwrap());
        assert_eq!(
            v4.bytes(),
            [2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(decode(Domain::V6, &v4), Err(Errno::EINVAL));
        let short = Name::new(&v4.bytes()[..15]).unwrap();
        assert_eq!(decode(Domain::V4, &short), Err(Errno::EINVAL));
        let unix = Name::new(&[&[1, 0][..], &[0; 30]].concat()).unwrap();
        assert_eq!(decode(Domain::V4, &unix), Err(Errno::EAFNOSUPPORT));
    }
}
