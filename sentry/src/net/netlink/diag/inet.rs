//! TCP, UDP and raw sockets (struct inet_diag_req_v2).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::filter;
use crate::errno::Errno;
use crate::net::netlink::Asker;
use crate::net::netlink::message::{Request, Writer, u32_at};
use crate::net::netlink::reply::{Answer, Batch};
use crate::net::socket::{Info, Kind, Socket};

/// sizeof(struct inet_diag_req_v2).
const REQUEST: usize = 56;
/// sizeof(struct inet_diag_sockid).
const ID: usize = 48;
const BY_FAMILY: u16 = super::SOCK_DIAG_BY_FAMILY;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_REQ_PROTOCOL: u16 = 3;
// Attributes of an answer; `idiag_ext` has a bit for each, from the first one on.
const MEMINFO: u16 = 1;
const INFO: u16 = 2;
const CONG: u16 = 4;
const TOS: u16 = 5;
const TCLASS: u16 = 6;
const SKMEMINFO: u16 = 7;
const SHUTDOWN: u16 = 8;
const SKV6ONLY: u16 = 11;
const MARK: u16 = 15;
/// Longest value of an option asked for.
const ROOM: usize = 512;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;

struct Ask {
    family: i32,
    protocol: i32,
    extensions: u8,
    states: u32,
    source: SocketAddr,
    destination: SocketAddr,
    link: u32,
    cookie: u64,
}

fn address(family: i32, ip: &[u8], port: &[u8]) -> SocketAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&ip[..16]);
    let ip = if family == libc::AF_INET {
        IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
    } else {
        IpAddr::from(octets)
    };
    SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]]))
}

fn ask(request: &Request<'_>) -> Answer<Ask> {
    let raw = request.body().first_chunk::<REQUEST>();
    let raw = raw.ok_or(Errno::EINVAL)?;
    let word = |at| u32_at(raw, at).unwrap_or(0);
    let family = i32::from(raw[0]);
    let id = &raw[REQUEST - ID..];
    Ok(Ask {
        family,
        // One that does not fit a byte has an attribute.
        protocol: request
            .attrs(REQUEST)
            .u32(INET_DIAG_REQ_PROTOCOL)
            .map_or(i32::from(raw[1]), u32::cast_signed),
        extensions: raw[2],
        states: word(4),
        source: address(family, &id[4..20], &id[..2]),
        destination: address(family, &id[20..36], &id[2..4]),
        link: word(REQUEST - ID + 36),
        cookie: u64::from(word(REQUEST - ID + 44)) << 32 | u64::from(word(REQUEST - ID + 40)),
    })
}

/// # Errors
/// EINVAL if it is too short or its filter is no program.
pub fn check(request: &Request<'_>) -> Answer {
    ask(request)?;
    match request.attrs(REQUEST).find(INET_DIAG_REQ_BYTECODE) {
        Some(code) => Ok(filter::check(code)?),
        None => Ok(()),
    }
}

/// What a filter and an answer look at.
pub struct Subject {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub link: u32,
    pub mark: u32,
    /// Whether a port was given out, not asked for.
    pub auto_port: bool,
}

/// Whether a socket is one of the protocol's. IPPROTO_RAW stands for all raw sockets.
fn of_protocol(socket: &dyn Socket, protocol: i32) -> bool {
    let common = socket.common();
    match protocol {
        libc::IPPROTO_RAW => common.kind == Kind::Raw,
        libc::IPPROTO_TCP => common.kind == Kind::Stream && common.protocol == libc::IPPROTO_TCP,
        other => common.kind == Kind::Datagram && common.protocol == other,
    }
}

fn unbound(family: i32) -> SocketAddr {
    if family == libc::AF_INET {
        SocketAddr::from(([0; 4], 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    }
}

fn subject(socket: &dyn Socket, info: &Info) -> Subject {
    let common = socket.common();
    let options = common.options.lock();
    let of = |name: Option<crate::net::Name>| {
        let name = name.as_ref().and_then(crate::net::Name::inet);
        name.unwrap_or_else(|| unbound(common.family))
    };
    Subject {
        local: of(info.local),
        peer: of(info.peer),
        link: options.device,
        mark: options.mark,
        auto_port: false,
    }
}

fn put_address(w: &mut Writer, address: SocketAddr) {
    let mut raw = [0; 16];
    match address.ip() {
        IpAddr::V4(ip) => raw[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => raw = ip.octets(),
    }
    w.bytes(&raw);
}

/// struct sk_meminfo: what ss -m shows, as far as it is known.
pub fn memory(w: &mut Writer, kind: u16, socket: &dyn Socket, info: &Info) {
    let (send, receive) = {
        let options = socket.common().options.lock();
        (options.send_buffer as u32, options.receive_buffer as u32)
    };
    let words = [
        info.receive_queue,
        receive,
        0,
        send,
        0,
        info.send_queue,
        0,
        0,
        info.drops,
    ];
    w.nest(kind, |w| {
        words.iter().for_each(|n| w.bytes(&n.to_ne_bytes()));
    });
}

fn write(w: &mut Writer, asker: &Asker<'_>, socket: &Arc<dyn Socket>, info: &Info, extensions: u8) {
    let common = socket.common();
    let about = subject(&**socket, info);
    w.bytes(&[common.family as u8, info.state, 0, 0]);
    w.bytes(&about.local.port().to_be_bytes());
    w.bytes(&about.peer.port().to_be_bytes());
    put_address(w, about.local);
    put_address(w, about.peer);
    w.bytes(&about.link.to_ne_bytes());
    w.bytes(&common.cookie.to_le_bytes());
    w.bytes(&0u32.to_ne_bytes());
    for n in [info.receive_queue, info.send_queue, common.uid()] {
        w.bytes(&n.to_ne_bytes());
    }
    w.bytes(&(common.ino() as u32).to_ne_bytes());
    let wanted = |kind: u16| extensions & 1 << (kind - 1) != 0;
    let option = |level, name| socket.option(asker.task, level, name, ROOM).ok();
    let byte = |level, name| option(level, name).and_then(|v| v.first().copied());
    let tcp = common.protocol == libc::IPPROTO_TCP;
    let v6 = common.family == libc::AF_INET6;
    w.attr_u8(SHUTDOWN, 0);
    if wanted(TOS) {
        w.attr_u8(TOS, byte(libc::IPPROTO_IP, libc::IP_TOS).unwrap_or(0));
    }
    if v6 {
        if wanted(TCLASS) {
            let class = byte(libc::IPPROTO_IPV6, libc::IPV6_TCLASS);
            w.attr_u8(TCLASS, class.unwrap_or(0));
        }
        if matches!(info.state, TCP_LISTEN | TCP_CLOSE) {
            // An address of IPv6 makes it so.
            let of_v6 = match about.local.ip() {
                IpAddr::V6(ip) => !ip.is_unspecified() && ip.to_ipv4_mapped().is_none(),
                IpAddr::V4(_) => false,
            };
            let only = byte(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).unwrap_or(0);
            w.attr_u8(SKV6ONLY, only | u8::from(of_v6));
        }
    }
    if asker.admin().is_ok() {
        w.attr_u32(MARK, about.mark);
    }
    if wanted(MEMINFO) {
        w.nest(MEMINFO, |w| {
            for n in [info.receive_queue, 0, 0, info.send_queue] {
                w.bytes(&n.to_ne_bytes());
            }
        });
    }
    if wanted(SKMEMINFO) {
        memory(w, SKMEMINFO, &**socket, info);
    }
    if tcp
        && wanted(INFO)
        && let Some(value) = option(libc::IPPROTO_TCP, libc::TCP_INFO)
    {
        w.attr(INFO, &value);
    }
    if tcp
        && wanted(CONG)
        && let Some(value) = option(libc::IPPROTO_TCP, libc::TCP_CONGESTION)
    {
        let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
        w.attr(CONG, &[&value[..end], &[0]].concat());
    }
}

/// # Errors
/// ENOENT: no such protocol is told about.
fn known(protocol: i32) -> Answer {
    match protocol {
        libc::IPPROTO_TCP | libc::IPPROTO_UDP | libc::IPPROTO_RAW => Ok(()),
        _ => Err(Errno::ENOENT.into()),
    }
}

pub fn dump(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let ask = ask(request)?;
    known(ask.protocol)?;
    let code = request.attrs(REQUEST).find(INET_DIAG_REQ_BYTECODE);
    let any = |wanted: u16, port: u16| wanted == 0 || wanted == port;
    for socket in asker.stack.sockets() {
        let common = socket.common();
        if common.family != ask.family || !of_protocol(&*socket, ask.protocol) {
            continue;
        }
        let info = socket.info();
        let about = subject(&*socket, &info);
        // Linux lists what is in a table: what has a port, and for TCP does something with it.
        let listed = match common.kind {
            Kind::Raw => true,
            Kind::Stream => info.state != TCP_CLOSE,
            _ => about.local.port() != 0,
        };
        let shown = listed
            && ask.states & (1 << (info.state & 31)) != 0
            && any(ask.source.port(), about.local.port())
            && any(ask.destination.port(), about.peer.port())
            && code.is_none_or(|code| filter::run(code, &about));
        let fill = |w: &mut Writer| write(w, asker, &socket, &info, ask.extensions);
        if shown && !batch.put_at(common.ino(), BY_FAMILY, fill) {
            break;
        }
    }
    Ok(())
}

/// The one socket with these addresses.
pub fn get(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let ask = ask(request)?;
    known(ask.protocol)?;
    let mut best = None;
    for socket in asker.stack.sockets() {
        let common = socket.common();
        if common.family != ask.family || !of_protocol(&*socket, ask.protocol) {
            continue;
        }
        let info = socket.info();
        let about = subject(&*socket, &info);
        if ask.link != 0 && about.link != 0 && ask.link != about.link {
            continue;
        }
        let exact = about.local == ask.source && about.peer == ask.destination;
        let waits = about.local.port() == ask.source.port()
            && about.local.port() != 0
            && about.peer.port() == 0
            && (about.local.ip().is_unspecified() || about.local.ip() == ask.source.ip());
        if exact || (waits && best.is_none()) {
            best = Some((socket.clone(), info));
        }
        if exact {
            break;
        }
    }
    let (socket, info) = best.ok_or(Errno::ENOENT)?;
    if ask.cookie != u64::MAX && ask.cookie != socket.common().cookie {
        return Err(Errno::ESTALE.into());
    }
    batch.put(BY_FAMILY, |w| {
        write(w, asker, &socket, &info, ask.extensions);
    });
    Ok(())
}
