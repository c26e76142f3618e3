//! RTM_GETADDR; RTM_NEWADDR and RTM_DELADDR on loopback.

use std::net::IpAddr;

use super::{
    AF_INET, AF_INET6, Answer, Asker, RTM_NEWADDR, family_of, head, octets, parse_ip, wants,
};
use crate::errno::Errno;
use crate::net::interfaces::{Address, Interfaces, LOOPBACK};
use crate::net::netlink::Cause;
use crate::net::netlink::message::{Request, Writer};
use crate::net::netlink::reply::{Batch, Refused};

/// sizeof(struct ifaddrmsg).
const INFO: usize = 8;
/// Addresses that a guest may add to.
const MAX_ADDRESSES: usize = 1024;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
/// IFAPROT_KERNEL_LO.
const KERNEL_LO: u8 = 1;

struct Ask {
    family: u8,
    prefix_len: u8,
    flags: u8,
    scope: u8,
    index: u32,
}

fn ask(asker: &Asker<'_>, request: &Request<'_>) -> Answer<Ask> {
    let raw = head::<INFO>(asker, request, "Invalid header for address dump request")?;
    Ok(Ask {
        family: raw[0],
        prefix_len: raw[1],
        flags: raw[2],
        scope: raw[3],
        index: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
    })
}

pub fn write(w: &mut Writer, interfaces: &Interfaces, address: &Address) {
    let family = family_of(address.ip);
    w.bytes(&[
        family,
        address.prefix_len,
        address.flags as u8,
        address.scope,
    ]);
    w.bytes(&address.link.to_ne_bytes());
    let ip = octets(address.ip);
    w.attr(libc::IFA_ADDRESS, &ip);
    if family == AF_INET {
        w.attr(libc::IFA_LOCAL, &ip);
        if let Some(broadcast) = address.broadcast {
            w.attr(libc::IFA_BROADCAST, &broadcast.octets());
        }
        if let Some(link) = interfaces.link(address.link) {
            w.attr_text(libc::IFA_LABEL, &link.name);
        }
        w.attr_u32(IFA_FLAGS, address.flags);
    }
    // Valid for ever; made and changed when the system started.
    let forever = [u32::MAX, u32::MAX, 0, 0];
    w.nest(libc::IFA_CACHEINFO, |w| {
        forever.iter().for_each(|n| w.bytes(&n.to_ne_bytes()));
    });
    if family == AF_INET6 {
        w.attr_u32(IFA_FLAGS, address.flags);
        if address.ip.is_loopback() {
            w.attr_u8(IFA_PROTO, KERNEL_LO);
        }
    }
}

/// IPv4 first, as Linux walks its families.
fn in_order(interfaces: &Interfaces) -> impl Iterator<Item = &Address> {
    let of = |family| {
        let addresses = interfaces.addresses.iter();
        addresses.filter(move |a| family_of(a.ip) == family)
    };
    of(AF_INET).chain(of(AF_INET6))
}

pub fn dump(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let mut ask = ask(asker, request)?;
    let interfaces = asker.stack.interfaces.read();
    if !asker.manners.strict {
        ask.index = 0;
    } else if ask.prefix_len != 0 || ask.flags != 0 || ask.scope != 0 {
        return Err(Refused::with(
            Errno::EINVAL,
            "Invalid values in header for address dump request",
        ));
    } else if ask.index != 0 {
        batch.filtered();
        interfaces.link(ask.index).ok_or(Errno::ENODEV)?;
    }
    let shown = in_order(&interfaces)
        .filter(|a| wants(ask.family, a.ip) && (ask.index == 0 || a.link == ask.index));
    for address in shown {
        batch.put(RTM_NEWADDR, |w| write(w, &interfaces, address));
    }
    Ok(())
}

/// The address that a request is about.
fn target(request: &Request<'_>, family: u8) -> Answer<Option<IpAddr>> {
    let attrs = request.attrs(INFO);
    let value = attrs
        .find(libc::IFA_LOCAL)
        .or_else(|| attrs.find(libc::IFA_ADDRESS));
    value.map(|v| parse_ip(family, v)).transpose()
}

/// Linux has it for IPv6 only.
pub fn get(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let ask = ask(asker, request)?;
    if ask.family != AF_INET6 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let ip = target(request, ask.family)?.ok_or(Errno::EINVAL)?;
    let interfaces = asker.stack.interfaces.read();
    let mut all = interfaces.addresses.iter();
    let found = all.find(|a| a.ip == ip && (ask.index == 0 || a.link == ask.index));
    let found = found.ok_or(Errno::EADDRNOTAVAIL)?;
    batch.put(RTM_NEWADDR, |w| write(w, &interfaces, found));
    Ok(())
}

/// The fixed part and the address of a change, which is to be one of loopback.
fn change(asker: &Asker<'_>, request: &Request<'_>) -> Answer<(Ask, IpAddr)> {
    let ask = ask(asker, request)?;
    let ip = match ask.family {
        AF_INET | AF_INET6 => target(request, ask.family)?.ok_or(Errno::EINVAL)?,
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    let interfaces = asker.stack.interfaces.read();
    interfaces.link(ask.index).ok_or(Errno::ENODEV)?;
    let bits = if ask.family == AF_INET { 32 } else { 128 };
    if ask.prefix_len > bits {
        return Err(Errno::EINVAL.into());
    }
    // Others are the host's, and all of them where it tells which there are.
    if ask.index != LOOPBACK || asker.stack.has_outside() {
        return Err(Errno::EOPNOTSUPP.into());
    }
    Ok((ask, ip))
}

pub fn add(asker: &Asker<'_>, request: &Request<'_>, _batch: &mut Batch) -> Answer {
    let (ask, ip) = change(asker, request)?;
    let broadcast = request.attrs(INFO).find(libc::IFA_BROADCAST);
    let broadcast = match broadcast.map(|b| parse_ip(AF_INET, b)).transpose()? {
        Some(IpAddr::V4(ip)) => Some(ip),
        _ => None,
    };
    let cause = Cause::new(request, asker.port);
    asker.stack.change(cause, |interfaces| {
        let addresses = &mut interfaces.addresses;
        if addresses.iter().any(|a| a.link == ask.index && a.ip == ip) {
            let words = match ip {
                IpAddr::V4(_) => "ipv4: Address already assigned",
                IpAddr::V6(_) => "ipv6: address already assigned",
            };
            return Err(Refused::with(Errno::EEXIST, words));
        }
        if addresses.len() >= MAX_ADDRESSES {
            return Err(Errno::ENOBUFS.into());
        }
        // The first address of a network is the one that others come after.
        let second = ip.is_ipv4()
            && addresses
                .iter()
                .any(|a| a.prefix_len == ask.prefix_len && a.is_near(ip));
        addresses.push(Address {
            link: ask.index,
            ip,
            prefix_len: ask.prefix_len,
            broadcast,
            // Linux keeps what it is given for IPv4 and knows better for IPv6.
            scope: match ip {
                IpAddr::V4(_) => ask.scope,
                IpAddr::V6(ip) if ip.is_loopback() => libc::RT_SCOPE_HOST,
                IpAddr::V6(_) => libc::RT_SCOPE_UNIVERSE,
            },
            flags: libc::IFA_F_PERMANENT | if second { libc::IFA_F_SECONDARY } else { 0 },
        });
        Ok(())
    })
}

pub fn remove(asker: &Asker<'_>, request: &Request<'_>, _batch: &mut Batch) -> Answer {
    let (ask, ip) = change(asker, request)?;
    let cause = Cause::new(request, asker.port);
    asker.stack.change(cause, |interfaces| {
        let addresses = &mut interfaces.addresses;
        let at = addresses
            .iter()
            .position(|a| a.link == ask.index && a.ip == ip)
            .ok_or_else(|| match ip {
                IpAddr::V4(_) => Refused::with(Errno::EADDRNOTAVAIL, "ipv4: Address not found"),
                IpAddr::V6(_) => Refused::with(Errno::EADDRNOTAVAIL, "address not found"),
            })?;
        let gone = addresses.remove(at);
        // Those that came after it go with it.
        if gone.ip.is_ipv4() && gone.flags & libc::IFA_F_SECONDARY == 0 {
            let after = |a: &Address| {
                a.flags & libc::IFA_F_SECONDARY != 0
                    && a.prefix_len == gone.prefix_len
                    && a.is_near(gone.ip)
            };
            addresses.retain(|a| !after(a));
        }
        Ok(())
    })
}
