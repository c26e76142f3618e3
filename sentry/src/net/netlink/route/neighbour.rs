//! RTM_GETNEIGH.

use super::{AF_INET, AF_INET6, Answer, Asker, family_of, head, octets, parse_ip, wants};
use crate::errno::Errno;
use crate::net::interfaces::Neighbour;
use crate::net::netlink::message::{Request, Writer};
use crate::net::netlink::reply::Batch;

/// sizeof(struct ndmsg).
const INFO: usize = 12;
const RTM_NEWNEIGH: u16 = libc::RTM_NEWNEIGH;
/// NUD_NOARP: not shown.
const NO_ARP: u16 = 0x40;

pub fn write(w: &mut Writer, n: &Neighbour) {
    w.bytes(&[family_of(n.ip), 0, 0, 0]);
    w.bytes(&n.link.to_ne_bytes());
    w.bytes(&n.state.to_ne_bytes());
    w.bytes(&[n.flags, libc::RTN_UNICAST]);
    w.attr(libc::NDA_DST, &octets(n.ip));
    if !n.hardware.is_empty() {
        w.attr(libc::NDA_LLADDR, &n.hardware);
    }
}

pub fn dump(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let raw = head::<INFO>(asker, request, "Invalid header for neighbor dump request")?;
    let attrs = request.attrs(INFO);
    let index = attrs.u32(libc::NDA_IFINDEX).unwrap_or(0);
    if index != 0 {
        batch.filtered();
    }
    if batch.is_first() {
        asker.stack.refresh();
    }
    let interfaces = asker.stack.interfaces.read();
    for n in &interfaces.neighbours {
        let shown = wants(raw[0], n.ip) && (index == 0 || n.link == index) && n.state != NO_ARP;
        if shown {
            batch.put(RTM_NEWNEIGH, |w| write(w, n));
        }
    }
    Ok(())
}

pub fn get(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let raw = head::<INFO>(asker, request, "Invalid header for neighbor get request")?;
    let index = u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]);
    if !matches!(raw[0], AF_INET | AF_INET6) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let ip = request
        .attrs(INFO)
        .find(libc::NDA_DST)
        .ok_or(Errno::EINVAL)?;
    let ip = parse_ip(raw[0], ip)?;
    asker.stack.refresh();
    let interfaces = asker.stack.interfaces.read();
    interfaces.link(index).ok_or(Errno::ENODEV)?;
    let mut all = interfaces.neighbours.iter();
    let found = all.find(|n| n.ip == ip && n.link == index);
    let found = found.ok_or(Errno::ENOENT)?;
    batch.put(RTM_NEWNEIGH, |w| write(w, found));
    Ok(())
}
