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
    pub fn own(&self, ip: IpAddr) -> Option<u32> {
        self.own_address(ip).map(|a| a.link)
    }

    /// The same, the address. All of an IPv4 network on loopback is the sandbox's own.
    pub fn own_address(&self, ip: IpAddr) -> Option<&Address> {
        let exact = self.addresses.iter().find(|a| a.ip == ip);
        let near = |a: &&Address| a.link == LOOPBACK && a.ip.is_ipv4() && a.is_near(ip);
        exact.or_else(|| self.addresses.iter().find(near))
    }

    /// What packets to an IPv4 address of the sandbox's own are from: the first of its network.
    pub fn first_of_network(&self, of: &Address) -> IpAddr {
        if of.flags & libc::IFA_F_SECONDARY == 0 {
            return of.ip;
        }
        let first = |a: &&Address| {
            a.link == of.link
                && a.prefix_len == of.prefix_len
                && a.flags & libc::IFA_F_SECONDARY == 0
                && a.is_near(of.ip)
        };
        self.addresses.iter().find(first).map_or(of.ip, |a| a.ip)
    }

    /// Whether an IPv4 address is the broadcast address of one of the interfaces.
    pub fn is_broadcast(&self, ip: Ipv4Addr) -> bool {
        let of = |a: &Address| match a.ip {
            // The last address of a network is one, told or not, unless there are but two.
            IpAddr::V4(own) => {
                let host = u32::MAX.checked_shr(u32::from(a.prefix_len)).unwrap_or(0);
                a.broadcast == Some(ip) || (host > 1 && ip.to_bits() == own.to_bits() | host)
            }
            IpAddr::V6(_) => false,
        };
        ip.is_broadcast() || self.addresses.iter().any(of)
    }

    /// The interface by which an address is reached, if there is a way: one's own network, or the
    /// route with the longest prefix.
    pub fn way_to(&self, ip: IpAddr) -> Option<u32> {
        if let Some(link) = self.own(ip) {
            return Some(link);
        }
        let covers = |network: IpAddr, bits: u8| match (network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32)));
                (network.to_bits() ^ ip.to_bits()) & mask.unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128)));
                (network.to_bits() ^ ip.to_bits()) & mask.unwrap_or(0) == 0
            }
            _ => false,
        };
        let routes = self.routes.iter();
        let fit = routes.filter(|r| covers(r.destination, r.prefix_len));
        let best = fit.max_by_key(|r| (r.prefix_len, u32::MAX - r.metric));
        let known = best.map(|r| r.link);
        let broadcast = || {
            let of = |a: &&Address| matches!(ip, IpAddr::V4(ip) if a.broadcast == Some(ip));
            self.addresses.iter().find(of).map(|a| a.link)
        };
        known.or_else(broadcast)
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
        let mut more = table.clone();
        for (ip, flags) in [("10.1.2.3", 0), ("10.1.2.4", libc::IFA_F_SECONDARY)] {
            more.addresses.push(Address {
                link: LOOPBACK,
                ip: ip.parse().unwrap(),
                prefix_len: 24,
                broadcast: None,
                scope: 0,
                flags,
            });
        }
        for (ip, from) in [
            ("10.1.2.4", Some("10.1.2.3")),
            ("10.1.2.77", Some("10.1.2.3")),
            ("10.1.3.3", None),
        ] {
            let own = more.own_address(ip.parse().unwrap());
            let from = from.map(|ip| ip.parse().unwrap());
            assert_eq!(own.map(|a| more.first_of_network(a)), from, "{ip}");
        }
        assert!(table.is_broadcast(Ipv4Addr::new(127, 255, 255, 255)));
        assert!(!table.is_broadcast(Ipv4Addr::new(127, 0, 0, 255)));
    }

    #[test]
    fn the_longest_route_leads() {
        let route = |text: &str, prefix_len, link| Route {
            destination: text.parse().unwrap(),
            prefix_len,
            gateway: None,
            source: None,
            link,
            metric: 0,
            table: 254,
            protocol: 2,
            scope: 0,
            kind: 1,
        };
        let table = Interfaces {
            routes: vec![
                route("0.0.0.0", 0, 2),
                route("10.1.0.0", 16, 3),
                route("ff00::", 8, 4),
            ],
            ..Interfaces::default()
        };
        for (ip, link) in [
            ("10.1.2.3", Some(3)),
            ("10.2.2.3", Some(2)),
            ("239.1.1.1", Some(2)),
            ("127.0.0.9", Some(LOOPBACK)),
            ("ff02::1", Some(4)),
            ("fe80::1", None),
        ] {
            assert_eq!(table.way_to(ip.parse().unwrap()), link, "{ip}");
        }
    }
}
