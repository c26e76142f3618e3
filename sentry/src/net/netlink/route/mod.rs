//! NETLINK_ROUTE (rtnetlink(7)): links, addresses, routes, neighbours and rules; [`changes`] tells
//! those who listen.

mod address;
pub mod changes;
mod groups;
mod link;
mod neighbour;
mod parameters;
mod routes;
mod traffic;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::Request;
use super::reply::{Answer, NLM_F_DUMP, Refused};
use super::{Asker, Handler, Plan};
use crate::errno::Errno;

/// Greatest message type that Linux knows (RTM_MAX).
const RTM_MAX: u16 = 123;
const RTM_NEWADDR: u16 = libc::RTM_NEWADDR;
const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;

/// What is done for a type of request. None: Linux's answer where it has no such part.
fn handlers(kind: u16) -> (Option<Handler>, Option<Handler>) {
    match kind {
        libc::RTM_GETLINK => (Some(link::get), Some(link::dump)),
        libc::RTM_NEWLINK => (Some(link::change), None),
        libc::RTM_GETADDR => (Some(address::get), Some(address::dump)),
        libc::RTM_NEWADDR => (Some(address::add), None),
        libc::RTM_DELADDR => (Some(address::remove), None),
        libc::RTM_GETROUTE => (Some(routes::get), Some(routes::dump)),
        libc::RTM_GETNEIGH => (Some(neighbour::get), Some(neighbour::dump)),
        libc::RTM_GETRULE => (None, Some(routes::dump_rules)),
        libc::RTM_GETNEIGHTBL => (None, Some(parameters::dump_neighbour_tables)),
        libc::RTM_GETADDRLABEL => (None, Some(parameters::dump_labels)),
        RTM_GETNETCONF => (
            Some(parameters::get_netconf),
            Some(parameters::dump_netconf),
        ),
        RTM_GETSTATS => (Some(traffic::get_stats), Some(traffic::dump_stats)),
        libc::RTM_GETQDISC => (None, Some(traffic::dump_disciplines)),
        libc::RTM_GETMULTICAST => (None, Some(groups::dump_multicast)),
        libc::RTM_GETNSID => (Some(groups::get_namespace), Some(nothing)),
        libc::RTM_GETTCLASS
        | libc::RTM_GETTFILTER
        | RTM_GETACTION
        | RTM_GETANYCAST
        | RTM_GETNEXTHOP
        | RTM_GETCHAIN => (None, Some(nothing)),
        _ => (None, None),
    }
}

const RTM_GETACTION: u16 = libc::RTM_GETACTION;
const RTM_GETANYCAST: u16 = libc::RTM_GETANYCAST;
const RTM_GETNETCONF: u16 = 82;
const RTM_GETSTATS: u16 = 94;
const RTM_GETCHAIN: u16 = 102;
const RTM_GETNEXTHOP: u16 = 106;

/// Whether Linux has a table of a family, where not all have one.
fn lists(kind: u16, family: u8) -> bool {
    match kind {
        libc::RTM_GETADDRLABEL | RTM_GETANYCAST => family == AF_INET6,
        libc::RTM_GETMULTICAST => matches!(family, AF_INET | AF_INET6),
        _ => true,
    }
}

/// A table with nothing in it.
fn nothing(_: &Asker<'_>, _: &Request<'_>, _: &mut super::reply::Batch) -> Answer {
    Ok(())
}

pub fn plan(asker: &Asker<'_>, request: &Request<'_>) -> Answer<Plan> {
    const GET: u16 = 2;
    let kind = request.header.kind;
    if kind > RTM_MAX {
        return Err(Errno::EOPNOTSUPP.into());
    }
    // Without even a family there is nothing to do.
    if request.body().is_empty() {
        return Ok(Plan::Nothing);
    }
    let (once, dump) = handlers(kind);
    let family = request.body().first().copied().unwrap_or(0);
    let dump = dump.filter(|_| lists(kind, family));
    if kind & 3 != GET {
        asker.admin()?;
    } else if request.header.flags & NLM_F_DUMP != 0 {
        return dump.map(Plan::Dump).ok_or(Errno::EOPNOTSUPP.into());
    }
    once.map(Plan::Once).ok_or(Errno::EOPNOTSUPP.into())
}

/// The fixed part of a request. Dumps take less from those who are not strict, as Linux does.
fn head<const N: usize>(
    asker: &Asker<'_>,
    request: &Request<'_>,
    words: &'static str,
) -> Answer<[u8; N]> {
    let body = request.body();
    match body.first_chunk() {
        Some(head) => Ok(*head),
        None if !asker.manners.strict && request.header.flags & NLM_F_DUMP != 0 => {
            let mut head = [0; N];
            head[0] = body.first().copied().unwrap_or(0);
            Ok(head)
        }
        None => Err(Refused::with(Errno::EINVAL, words)),
    }
}

/// AF_* of an address.
fn family_of(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// Whether a request for a family (AF_UNSPEC: all) asks for an address.
fn wants(family: u8, ip: IpAddr) -> bool {
    match family {
        AF_INET | AF_INET6 => family == family_of(ip),
        _ => true,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The address in an attribute. EINVAL if it has another size than the family's.
fn parse_ip(family: u8, value: &[u8]) -> Answer<IpAddr> {
    match (family, value.len()) {
        (AF_INET, 4) => Ok(value.first_chunk().map(|b| Ipv4Addr::from(*b).into())),
        (AF_INET6, 16) => Ok(value.first_chunk::<16>().map(|b| Ipv6Addr::from(*b).into())),
        _ => Err(Errno::EINVAL),
    }?
    .ok_or(Errno::EINVAL.into())
}

#[cfg(test)]
mod tests;
