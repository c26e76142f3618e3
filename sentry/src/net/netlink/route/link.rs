//! RTM_GETLINK, and RTM_NEWLINK as far as it asks for what is so already.

use super::{AF_INET6, Answer, Asker, head};
use crate::errno::Errno;
use crate::net::interfaces::{Interfaces, LOOPBACK, Link};
use crate::net::netlink::Cause;
use crate::net::netlink::message::{Request, Writer};
use crate::net::netlink::reply::{Batch, Refused};
use crate::net::traffic::Counters;

/// sizeof(struct ifinfomsg).
const INFO: usize = 16;
/// RTEXT_FILTER_SKIP_STATS of IFLA_EXT_MASK.
const SKIP_STATS: u32 = 8;
const IFLA_INET6_FLAGS: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IFLA_CARRIER_CHANGES: u16 = 35;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_CARRIER_UP_COUNT: u16 = 47;
const IFLA_CARRIER_DOWN_COUNT: u16 = 48;
const IFLA_MIN_MTU: u16 = 50;
const IFLA_MAX_MTU: u16 = 51;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_GRO_MAX_SIZE: u16 = 58;
const IFLA_TSO_MAX_SIZE: u16 = 59;
const IFLA_TSO_MAX_SEGS: u16 = 60;
const IFLA_ALLMULTI: u16 = 61;
/// IF_READY of inet6.
const IF_READY: u32 = 0x8000_0000;
/// sizeof(struct rtnl_link_stats64), struct rtnl_link_stats, in counters.
const STATS64: usize = 25;
const STATS32: usize = 24;

struct Ask {
    family: u8,
    index: u32,
    flags: u32,
    change: u32,
}

fn ask(asker: &Asker<'_>, request: &Request<'_>, words: &'static str) -> Answer<Ask> {
    let raw = head::<INFO>(asker, request, words)?;
    let word = |at: usize| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    Ok(Ask {
        family: raw[0],
        index: word(4),
        flags: word(8),
        change: word(12),
    })
}

/// The counters of a link in the order of struct rtnl_link_stats64.
pub fn counters(stats: Counters) -> [u64; STATS64] {
    let mut all = [0; STATS64];
    all[..8].copy_from_slice(&[
        stats.rx_packets,
        stats.tx_packets,
        stats.rx_bytes,
        stats.tx_bytes,
        stats.rx_errors,
        stats.tx_errors,
        stats.rx_dropped,
        stats.tx_dropped,
    ]);
    all
}

fn write_head(w: &mut Writer, link: &Link, family: u8, change: u32) {
    w.bytes(&[family, 0]);
    w.bytes(&link.kind.to_ne_bytes());
    w.bytes(&link.index.to_ne_bytes());
    w.bytes(&link.flags.to_ne_bytes());
    w.bytes(&change.to_ne_bytes());
    w.attr_text(libc::IFLA_IFNAME, &link.name);
}

/// What IPv6 knows of a link.
pub fn write_inet6(w: &mut Writer, link: &Link) {
    write_head(w, link, AF_INET6, 0);
    w.attr(libc::IFLA_ADDRESS, &link.hardware);
    w.attr_u32(libc::IFLA_MTU, link.mtu);
    w.attr_u8(libc::IFLA_OPERSTATE, link.oper_state());
    w.nest(libc::IFLA_PROTINFO, write_settings);
}

fn write_settings(w: &mut Writer) {
    w.attr_u32(IFLA_INET6_FLAGS, IF_READY);
    w.attr_u8(IFLA_INET6_ADDR_GEN_MODE, 0);
}

/// `change`: the flags that differ from what they were.
pub fn write(w: &mut Writer, link: &Link, change: u32, stats: Option<Counters>) {
    write_head(w, link, 0, change);
    if let Some(lower) = link.lower {
        w.attr_u32(libc::IFLA_LINK, lower);
    }
    if let Some(number) = link.lower_namespace {
        w.attr(IFLA_LINK_NETNSID, &number.to_ne_bytes());
    }
    w.attr_u32(libc::IFLA_TXQLEN, link.tx_queue_len);
    w.attr_u8(libc::IFLA_OPERSTATE, link.oper_state());
    w.attr_u8(libc::IFLA_LINKMODE, 0);
    w.attr_u32(libc::IFLA_MTU, link.mtu);
    w.attr_u32(IFLA_MIN_MTU, 0);
    w.attr_u32(IFLA_MAX_MTU, 0);
    w.attr_u32(libc::IFLA_GROUP, 0);
    w.attr_u32(libc::IFLA_PROMISCUITY, 0);
    w.attr_u32(IFLA_ALLMULTI, 0);
    w.attr_u32(libc::IFLA_NUM_TX_QUEUES, 1);
    w.attr_u32(IFLA_GSO_MAX_SEGS, 65535);
    w.attr_u32(IFLA_GSO_MAX_SIZE, 65536);
    w.attr_u32(IFLA_GRO_MAX_SIZE, 65536);
    w.attr_u32(IFLA_TSO_MAX_SIZE, 524_280);
    w.attr_u32(IFLA_TSO_MAX_SEGS, 65535);
    w.attr_u32(libc::IFLA_NUM_RX_QUEUES, 1);
    w.attr_u8(libc::IFLA_CARRIER, u8::from(link.has_carrier()));
    w.attr_u32(IFLA_CARRIER_CHANGES, 0);
    w.attr_u32(IFLA_CARRIER_UP_COUNT, 0);
    w.attr_u32(IFLA_CARRIER_DOWN_COUNT, 0);
    w.attr_u8(libc::IFLA_PROTO_DOWN, 0);
    w.attr(libc::IFLA_ADDRESS, &link.hardware);
    w.attr(libc::IFLA_BROADCAST, &link.hardware_broadcast);
    if let Some(stats) = stats {
        let counters = counters(stats);
        w.nest(libc::IFLA_STATS64, |w| {
            counters.iter().for_each(|n| w.bytes(&n.to_ne_bytes()));
        });
        w.nest(libc::IFLA_STATS, |w| {
            let short = counters.iter().take(STATS32).map(|n| *n as u32);
            short.for_each(|n| w.bytes(&n.to_ne_bytes()));
        });
    }
    w.attr_text(libc::IFLA_QDISC, "noqueue");
    w.nest(libc::IFLA_AF_SPEC, |w| {
        w.nest(u16::from(AF_INET6), write_settings);
    });
    w.attr(libc::IFLA_MAP, &[0; 32]);
}

/// The counters, unless the request does without.
fn stats(asker: &Asker<'_>, link: &Link, request: &Request<'_>) -> Option<Counters> {
    let mask = request.attrs(INFO).u32(libc::IFLA_EXT_MASK).unwrap_or(0);
    (mask & SKIP_STATS == 0).then(|| asker.stack.counters(link.index))
}

pub fn dump(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let ask = ask(asker, request, "Invalid header for link dump")?;
    if asker.manners.strict && ask.index != 0 {
        return Err(Refused::with(
            Errno::EINVAL,
            "Filter by device index not supported for link dumps",
        ));
    }
    if batch.is_first() {
        asker.stack.refresh();
    }
    let interfaces = asker.stack.interfaces.read();
    for link in &interfaces.links {
        batch.put(libc::RTM_NEWLINK, |w| match ask.family {
            AF_INET6 => write_inet6(w, link),
            _ => write(w, link, 0, stats(asker, link, request)),
        });
    }
    Ok(())
}

/// The link that a request names by index or name.
fn named<'a>(interfaces: &'a Interfaces, ask: &Ask, request: &Request<'_>) -> Answer<&'a Link> {
    let attrs = request.attrs(INFO);
    let name = attrs.text(libc::IFLA_IFNAME);
    let name = name.or_else(|| attrs.text(IFLA_ALT_IFNAME));
    let index = i32::try_from(ask.index).map_err(|_| Errno::EINVAL)?;
    let found = match name {
        _ if index > 0 => interfaces.link(ask.index),
        Some(name) => interfaces.link_named(name),
        None => return Err(Errno::EINVAL.into()),
    };
    found.ok_or(Errno::ENODEV.into())
}

pub fn get(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let ask = ask(asker, request, "Invalid header for get link")?;
    asker.stack.refresh();
    let interfaces = asker.stack.interfaces.read();
    let link = named(&interfaces, &ask, request)?;
    batch.put(libc::RTM_NEWLINK, |w| {
        write(w, link, 0, stats(asker, link, request));
    });
    Ok(())
}

/// Greatest MTU and queue length that Linux takes for loopback.
const MAX_MTU: u32 = i32::MAX as u32;
const MAX_QUEUE: u32 = i32::MAX as u32;

/// RTM_NEWLINK: the MTU and queue length of loopback can be changed where it is the Sentry's alone,
/// and what makes no difference is done. EOPNOTSUPP for the rest: links are the host's.
pub fn change(asker: &Asker<'_>, request: &Request<'_>, _batch: &mut Batch) -> Answer {
    let ask = ask(asker, request, "Invalid header")?;
    let own = !asker.stack.has_outside();
    let cause = Cause::new(request, asker.port);
    asker.stack.change(cause, |interfaces| {
        let index = match named(interfaces, &ask, request) {
            Ok(link) => link.index,
            // A link of a new kind is to be made.
            Err(_) if request.header.flags & libc::NLM_F_CREATE as u16 != 0 => {
                return Err(Refused::with(Errno::EOPNOTSUPP, "Unknown device type"));
            }
            // Linux looks for a link before it finds that none was named.
            Err(_) => return Err(Errno::ENODEV.into()),
        };
        let mut links = interfaces.links.iter_mut();
        let link = links.find(|l| l.index == index).ok_or(Errno::ENODEV)?;
        let own = own && index == LOOPBACK;
        // Flags that do not differ, attributes that say what is.
        let changes = if ask.change == 0 {
            u32::MAX
        } else {
            ask.change
        };
        let settable = (libc::IFF_UP | libc::IFF_PROMISC | libc::IFF_ALLMULTI) as u32;
        let asked = ask.change != 0 || ask.flags != 0;
        let mut can = !asked || (ask.flags ^ link.flags) & changes & settable == 0;
        for (kind, value) in request.attrs(INFO) {
            let number = value.first_chunk().map(|b| u32::from_ne_bytes(*b));
            can &= match (kind, number) {
                (libc::IFLA_IFNAME | IFLA_ALT_IFNAME | libc::IFLA_EXT_MASK, _) => true,
                (libc::IFLA_MTU | libc::IFLA_TXQLEN, None) => return Err(Errno::ERANGE.into()),
                (libc::IFLA_MTU, Some(mtu)) => set(&mut link.mtu, mtu, MAX_MTU, own)?,
                (libc::IFLA_TXQLEN, Some(len)) => set(&mut link.tx_queue_len, len, MAX_QUEUE, own)?,
                (libc::IFLA_ADDRESS, _) => value == link.hardware,
                _ => false,
            };
        }
        if can {
            Ok(())
        } else {
            Err(Errno::EOPNOTSUPP.into())
        }
    })
}

/// Sets a number of a link, if that is `own`. False: it stays what it is. EINVAL.
fn set(at: &mut u32, value: u32, most: u32, own: bool) -> Answer<bool> {
    if own && value > most {
        return Err(Errno::EINVAL.into());
    }
    let can = own || *at == value;
    if can {
        *at = value;
    }
    Ok(can)
}
