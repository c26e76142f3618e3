//! Links, addresses, routes and neighbours as plain data: loopback at first, the container's when
//! the network Gofer tells. Netlink, /proc/net and the ioctls present it; sockets ask it which
//! addresses are the sandbox's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// Interface index, from 1.
    pub index: u32,
    pub name: String,
    /// ARPHRD_*.
    pub kind: u16,
    /// IFF_*.
    pub flags: u32,
    pub mtu: u32,
    pub tx_queue_len: u32,
    /// Hardware address and broadcast address.
    pub hardware: Vec<u8>,
    pub hardware_broadcast: Vec<u8>,
    /// The link that it is the other end of, or on top of.
    pub lower: Option<u32>,
    /// The number of the namespace where that is, if not this one.
    pub lower_namespace: Option<i32>,
}

impl Link {
    /// RFC 2863's state, as Linux numbers it: loopback has none.
    pub fn oper_state(&self) -> u8 {
        const UNKNOWN: u8 = 0;
        const DOWN: u8 = 2;
        const UP: u8 = 6;
        if self.kind == libc::ARPHRD_LOOPBACK {
            UNKNOWN
        } else if self.has_carrier() {
            UP
        } else {
            DOWN
        }
    }

    pub fn has_carrier(&self) -> bool {
        self.flags & IFF_LOWER_UP != 0
    }
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Index of the interface.
    pub link: u32,
    pub ip: IpAddr,
    pub prefix_len: u8,
    pub broadcast: Option<Ipv4Addr>,
    /// RT_SCOPE_*.
    pub scope: u8,
    /// IFA_F_*.
    pub flags: u32,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub destination: IpAddr,
    pub prefix_len: u8,
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Index of the interface.
    pub link: u32,
    pub metric: u32,
    /// RT_TABLE_*, RTPROT_*, RT_SCOPE_*, RTN_*.
    pub table: u8,
    pub protocol: u8,
    pub scope: u8,
    pub kind: u8,
}

/// A hardware address that is known of a neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Neighbour {
    pub link: u32,
    pub ip: IpAddr,
    pub hardware: Vec<u8>,
    /// NUD_*.
    pub state: u16,
    /// NTF_*.
    pub flags: u8,
}

/// See the module documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
}

/// Index of the loopback interface.
pub const LOOPBACK: u32 = 1;

impl Default for Interfaces {
    /// Loopback only.
    fn default() -> Self {
        let local = |ip, prefix_len| Address {
            link: LOOPBACK,
            ip,
            prefix_len,
            broadcast: None,
            scope: libc::RT_SCOPE_HOST,
            flags: libc::IFA_F_PERMANENT,
        };
        Interfaces {
            links: vec![Link {
                index: LOOPBACK,
                name: "lo".to_owned(),
                kind: libc::ARPHRD_LOOPBACK,
                flags: (libc::IFF_UP | libc::IFF_LOOPBACK | libc::IFF_RUNNING) as u32
                    | IFF_LOWER_UP,
                mtu: 65536,
                tx_queue_len: 1000,
                hardware: vec![0; 6],
                hardware_broadcast: vec![0; 6],
                lower: None,
                lower_namespace: None,
            }],
            addresses: vec![
                local(Ipv4Addr::LOCALHOST.into(), 8),
                local(Ipv6Addr::LOCALHOST.into(), 128),
            ],
            routes: Vec::new(),
            neighbours: Vec::new(),
        }
    }
}

const IFF_LOWER_UP: u32 = 1 << 16;

impl Interfaces {
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|l| l.index == index)
    }

    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }

    /// The interface that an address of the sandbox's own is on: what is sent there stays inside.
    /// All of 127.0.0.0/8 is loopback's.
    pub fn own(&self, ip: IpAddr) -> Option<u32> {
        let found = self.addresses.iter().find(|a| match (a.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) if own.is_loopback() => {
                let bits = u32::MAX
                    .checked_shl(32 - u32::from(a.prefix_len))
                    .unwrap_or(0);
                own.to_bits() & bits == ip.to_bits() & bits
            }
            (own, ip) => own == ip,
        });
        found.map(|a| a.link)
    }

    /// Whether an IPv4 address is the broadcast address of one of the interfaces.
    pub fn is_broadcast(&self, ip: Ipv4Addr) -> bool {
        ip.is_broadcast() || self.addresses.iter().any(|a| a.broadcast == Some(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours() {
        let table = Interfaces::default();
        for (ip, own) in [
            ("127.0.0.1", Some(LOOPBACK)),
            ("127.9.8.7", Some(LOOPBACK)),
            ("::1", Some(LOOPBACK)),
            ("10.0.0.1", None),
            ("::2", None),
        ] {
            assert_eq!(table.own(ip.parse().unwrap()), own, "{ip}");
        }
    }
}
