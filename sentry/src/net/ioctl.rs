//! Requests of ioctl(2) about interfaces (netdevice(7)), which sockets of every family take.
//!
//! Those about IPv4 addresses are AF_INET's alone. Changes need CAP_NET_ADMIN and are then refused
//! unless they ask for what is so: interfaces are the host's.

use std::net::{IpAddr, Ipv4Addr};

use super::interfaces::{Address, Interfaces, Link};
use super::socket::Socket;
use crate::errno::{Errno, Result};
use crate::kernel::cred::Cap;
use crate::kernel::task::Task;

const SIOCADDRT: u32 = 0x890B;
const SIOCDELRT: u32 = 0x890C;
const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCSIFADDR: u32 = 0x8916;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCSIFDSTADDR: u32 = 0x8918;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCSIFBRDADDR: u32 = 0x891a;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCSIFNETMASK: u32 = 0x891c;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCSIFMETRIC: u32 = 0x891e;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCSIFNAME: u32 = 0x8923;
const SIOCSIFHWADDR: u32 = 0x8924;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCDIFADDR: u32 = 0x8936;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCSIFTXQLEN: u32 = 0x8943;
const SIOCETHTOOL: u32 = 0x8946;
const SIOCGIFMAP: u32 = 0x8970;
const SIOCSIFMAP: u32 = 0x8971;
const SIOCBRADDBR: u32 = 0x89a0;
const SIOCBRDELBR: u32 = 0x89a1;
const SIOCSHWTSTAMP: u32 = 0x89b0;

const ETHTOOL_GLINK: u32 = 0x0a;
const ETHTOOL_GRXCSUM: u32 = 0x14;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GSG: u32 = 0x18;
const ETHTOOL_GTSO: u32 = 0x1e;
const ETHTOOL_GGSO: u32 = 0x2b;
/// IFNAMSIZ, sizeof(struct ifreq).
const NAME: usize = 16;
const IFREQ: usize = 40;
/// Flags that fit in ifr_flags and are shown there.
const FLAGS: u32 = 0xffff;

/// Whose requests a socket takes besides those of all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Other,
}

/// A request about interfaces.
///
/// # Errors
/// ENOTTY: it is none; ENODEV, EPERM, EOPNOTSUPP, EADDRNOTAVAIL.
pub fn interface(socket: &dyn Socket, t: &Task, cmd: u32, arg: u64) -> Result<u64> {
    let family = match socket.common().family {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => Family::Other,
    };
    let interfaces = &socket.common().stack.interfaces;
    if cmd == SIOCGIFCONF {
        return list(&interfaces.read().clone(), t, arg);
    }
    if is_change(cmd, family) && !t.has_cap(Cap::NetAdmin) {
        return Err(Errno::EPERM);
    }
    if !is_change(cmd, family) && !is_question(cmd, family) {
        return Err(Errno::ENOTTY);
    }
    let mut request: [u8; IFREQ] = t.mm().read_obj(arg)?;
    let answer = {
        let interfaces = interfaces.read();
        if cmd == SIOCGIFNAME {
            let link = interfaces.link(word(&request)).ok_or(Errno::ENODEV)?;
            request[..NAME].fill(0);
            let name = link.name.as_bytes();
            let len = name.len().min(NAME - 1);
            request[..len].copy_from_slice(&name[..len]);
            None
        } else {
            let link = named(&interfaces, &request)?;
            if is_change(cmd, family) {
                change(&interfaces, link, cmd, &request)?;
                None
            } else if cmd == SIOCETHTOOL {
                Some(link.clone())
            } else {
                answer(&interfaces, link, cmd, &mut request)?;
                None
            }
        }
    };
    match answer {
        Some(link) => ethtool(t, &request, &link)?,
        None => t.mm().write_obj(arg, &request)?,
    }
    Ok(0)
}

/// ifr_ifindex and whatever else is an int.
fn word(request: &[u8; IFREQ]) -> u32 {
    let at = |i: usize| request[NAME + i];
    u32::from_ne_bytes([at(0), at(1), at(2), at(3)])
}

fn named<'a>(interfaces: &'a Interfaces, request: &[u8; IFREQ]) -> Result<&'a Link> {
    let name = &request[..NAME - 1];
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    // An alias ("eth0:1") is the interface's.
    let name = std::str::from_utf8(&name[..end]).map_err(|_| Errno::ENODEV)?;
    let name = name.split_once(':').map_or(name, |(link, _)| link);
    interfaces.link_named(name).ok_or(Errno::ENODEV)
}

fn is_question(cmd: u32, family: Family) -> bool {
    match cmd {
        SIOCGIFNAME | SIOCGIFFLAGS | SIOCGIFMETRIC | SIOCGIFMTU | SIOCGIFHWADDR | SIOCGIFINDEX
        | SIOCGIFTXQLEN | SIOCETHTOOL | SIOCGIFMAP => true,
        SIOCGIFADDR | SIOCGIFDSTADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK => family == Family::V4,
        _ => false,
    }
}

fn is_change(cmd: u32, family: Family) -> bool {
    match cmd {
        SIOCSIFFLAGS | SIOCSIFMETRIC | SIOCSIFMTU | SIOCSIFNAME | SIOCSIFHWADDR | SIOCSIFTXQLEN
        | SIOCSIFMAP | SIOCBRADDBR | SIOCBRDELBR | SIOCSHWTSTAMP => true,
        SIOCSIFADDR | SIOCADDRT | SIOCDELRT => family != Family::Other,
        SIOCSIFDSTADDR | SIOCSIFBRDADDR | SIOCSIFNETMASK => family == Family::V4,
        SIOCDIFADDR => family == Family::V6,
        _ => false,
    }
}

/// The first IPv4 address of an interface.
fn address<'a>(interfaces: &'a Interfaces, link: &Link) -> Result<(&'a Address, Ipv4Addr)> {
    let mut all = interfaces.addresses.iter().filter(|a| a.link == link.index);
    let found = all.find_map(|a| match a.ip {
        IpAddr::V4(ip) => Some((a, ip)),
        IpAddr::V6(_) => None,
    });
    found.ok_or(Errno::EADDRNOTAVAIL)
}

fn netmask(address: &Address) -> Ipv4Addr {
    let shift = 32u32.saturating_sub(address.prefix_len.into());
    Ipv4Addr::from_bits(u32::MAX.checked_shl(shift).unwrap_or(0))
}

/// struct sockaddr_in without a port.
fn encode(ip: Ipv4Addr) -> [u8; 16] {
    let mut raw = [0; 16];
    raw[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    raw[4..8].copy_from_slice(&ip.octets());
    raw
}

fn answer(interfaces: &Interfaces, link: &Link, cmd: u32, request: &mut [u8; IFREQ]) -> Result<()> {
    let value = &mut request[NAME..];
    let ip = match cmd {
        SIOCGIFADDR | SIOCGIFDSTADDR => Some(address(interfaces, link)?.1),
        SIOCGIFBRDADDR => {
            let (address, _) = address(interfaces, link)?;
            Some(address.broadcast.unwrap_or(Ipv4Addr::UNSPECIFIED))
        }
        SIOCGIFNETMASK => Some(netmask(address(interfaces, link)?.0)),
        _ => None,
    };
    if let Some(ip) = ip {
        value[..16].copy_from_slice(&encode(ip));
        return Ok(());
    }
    match cmd {
        SIOCGIFFLAGS => {
            let flags = (link.flags & FLAGS) as u16;
            value[..2].copy_from_slice(&flags.to_ne_bytes());
        }
        SIOCGIFHWADDR => {
            value[..16].fill(0);
            value[..2].copy_from_slice(&link.kind.to_ne_bytes());
            let len = link.hardware.len().min(14);
            value[2..2 + len].copy_from_slice(&link.hardware[..len]);
        }
        SIOCGIFMAP => value[..24].fill(0),
        _ => {
            let number = match cmd {
                SIOCGIFMTU => link.mtu,
                SIOCGIFINDEX => link.index,
                SIOCGIFTXQLEN => link.tx_queue_len,
                _ => 0,
            };
            value[..4].copy_from_slice(&number.to_ne_bytes());
        }
    }
    Ok(())
}

/// A change, which may only be none. EOPNOTSUPP.
fn change(interfaces: &Interfaces, link: &Link, cmd: u32, request: &[u8; IFREQ]) -> Result<()> {
    let value = &request[NAME..];
    let short = u16::from_ne_bytes([value[0], value[1]]);
    let is = |ip: Ipv4Addr| value[4..8] == ip.octets();
    let same = match cmd {
        SIOCSIFFLAGS => {
            let settable = (libc::IFF_UP | libc::IFF_PROMISC | libc::IFF_ALLMULTI) as u32;
            (u32::from(short) ^ link.flags) & settable == 0
        }
        SIOCSIFMTU => word(request) == link.mtu,
        SIOCSIFTXQLEN => word(request) == link.tx_queue_len,
        SIOCSIFADDR => is(address(interfaces, link)?.1),
        SIOCSIFNETMASK => is(netmask(address(interfaces, link)?.0)),
        _ => false,
    };
    if same { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

/// SIOCETHTOOL: whether there is a link, and what loopback spares. EOPNOTSUPP for what is the
/// hardware's.
fn ethtool(t: &Task, request: &[u8; IFREQ], link: &Link) -> Result<()> {
    let mut pointer = [0; 8];
    pointer.copy_from_slice(&request[NAME..NAME + 8]);
    let addr = u64::from_ne_bytes(pointer);
    let cmd: u32 = t.mm().read_obj(addr)?;
    let loopback = link.kind == libc::ARPHRD_LOOPBACK;
    let value = match cmd {
        ETHTOOL_GLINK => u32::from(link.has_carrier()),
        ETHTOOL_GRXCSUM | ETHTOOL_GTXCSUM | ETHTOOL_GSG | ETHTOOL_GTSO | ETHTOOL_GGSO
            if loopback =>
        {
            1
        }
        _ => return Err(Errno::EOPNOTSUPP),
    };
    t.mm().write_obj(addr.wrapping_add(4), &value)
}

/// SIOCGIFCONF: the IPv4 addresses with their interfaces' names.
fn list(interfaces: &Interfaces, t: &Task, arg: u64) -> Result<u64> {
    let [len, _]: [i32; 2] = t.mm().read_obj(arg)?;
    let buffer: u64 = t.mm().read_obj(arg.wrapping_add(8))?;
    let mut raw = Vec::new();
    for address in &interfaces.addresses {
        let (Some(link), IpAddr::V4(ip)) = (interfaces.link(address.link), address.ip) else {
            continue;
        };
        let mut entry = [0; IFREQ];
        let len = link.name.len().min(NAME - 1);
        entry[..len].copy_from_slice(&link.name.as_bytes()[..len]);
        entry[NAME..NAME + 16].copy_from_slice(&encode(ip));
        raw.extend_from_slice(&entry);
    }
    // Whole entries; without a buffer only how long they are.
    if buffer != 0 {
        let room = usize::try_from(len).unwrap_or(0);
        raw.truncate(room / IFREQ * IFREQ);
        t.mm().write_bytes(buffer, &raw)?;
    }
    t.mm().write_obj(arg, &(raw.len() as u32))?;
    Ok(0)
}
