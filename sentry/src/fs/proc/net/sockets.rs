//! Tables of sockets (proc_net(5)). Inode numbers are those of the links in /proc/PID/fd, by which
//! programs find who has a socket; what Linux shows of addresses in the kernel is zero.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::net::Stack;
use crate::net::netlink::Netlink;
use crate::net::socket::{Info, Kind, Name, Socket};
use crate::net::unix::{Address, Unix};

const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;
/// Lengths of lines without their ends, where Linux pads them.
const TCP_LINE: usize = 149;
const UDP_LINE: usize = 127;

/// An address and a port as the tables have them: words of the machine's, ports in order.
fn place(family: i32, name: Option<Name>) -> (String, u16) {
    let address = name.as_ref().and_then(Name::inet);
    let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let address = address.unwrap_or(nowhere);
    let bytes = match (address.ip(), family) {
        (IpAddr::V4(ip), libc::AF_INET) => ip.octets().to_vec(),
        (IpAddr::V4(ip), _) => ip.to_ipv6_mapped().octets().to_vec(),
        (IpAddr::V6(_), libc::AF_INET) => vec![0; 4],
        (IpAddr::V6(ip), _) => ip.octets().to_vec(),
    };
    let mut text = String::new();
    for word in bytes.chunks_exact(4) {
        let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        let _ = write!(text, "{word:08X}");
    }
    let _ = write!(text, ":{:04X}", address.port());
    (text, address.port())
}

/// The own port of a socket, 0 without one.
pub fn port(info: &Info) -> u16 {
    place(libc::AF_INET6, info.local).1
}

/// The sockets of a protocol that hold a port, listeners first.
fn of_protocol(stack: &Stack, family: i32, protocol: i32) -> Vec<(Arc<dyn Socket>, Info)> {
    let all = stack.sockets().into_iter();
    let mut rows: Vec<_> = all
        .filter(|s| s.common().family == family && s.common().protocol == protocol)
        .map(|s| {
            let info = s.info();
            (s, info)
        })
        .filter(|(_, info)| match protocol {
            libc::IPPROTO_TCP => info.state != TCP_CLOSE,
            _ => place(family, info.local).1 != 0,
        })
        .collect();
    rows.sort_by_key(|(_, info)| info.state != TCP_LISTEN);
    rows
}

/// What the rows of all protocols have in common, up to the reference count and the address.
fn common(socket: &dyn Socket, info: &Info, references: u32) -> String {
    let common = socket.common();
    let (local, _) = place(common.family, info.local);
    let (peer, _) = place(common.family, info.peer);
    // A listener's backlog is not shown.
    let sent = if info.state == TCP_LISTEN {
        0
    } else {
        info.send_queue
    };
    format!(
        "{local} {peer} {:02X} {sent:08X}:{:08X} 00:00000000 00000000 {:5} {:8} {} {references} {:016x}",
        info.state,
        info.receive_queue,
        common.uid(),
        0,
        common.ino(),
        0,
    )
}

fn tcp_table(stack: &Stack, family: i32) -> String {
    let mut text = String::new();
    let rows = of_protocol(stack, family, libc::IPPROTO_TCP);
    for (i, (socket, info)) in rows.iter().enumerate() {
        // Timeout, delayed acknowledgement, its state, congestion window, slow start.
        let timers = if info.state == TCP_LISTEN {
            "100 0 0 10 0"
        } else {
            "20 4 30 10 -1"
        };
        let line = format!("{i:4}: {} {timers}", common(&**socket, info, 1));
        let width = if family == libc::AF_INET { TCP_LINE } else { 0 };
        let _ = writeln!(text, "{line:<width$}");
    }
    text
}

fn datagram_table(stack: &Stack, family: i32, protocol: i32) -> String {
    let mut text = String::new();
    for (socket, info) in of_protocol(stack, family, protocol) {
        // Linux's hash of the port, with a table that has room for all.
        let slot = place(family, info.local).1;
        let line = format!("{slot:5}: {} {}", common(&*socket, &info, 2), info.drops);
        let width = if family == libc::AF_INET { UDP_LINE } else { 0 };
        let _ = writeln!(text, "{line:<width$}");
    }
    text
}

pub fn tcp(stack: &Stack) -> String {
    tcp_table(stack, libc::AF_INET)
}

pub fn tcp6(stack: &Stack) -> String {
    tcp_table(stack, libc::AF_INET6)
}

pub fn udp(stack: &Stack) -> String {
    datagram_table(stack, libc::AF_INET, libc::IPPROTO_UDP)
}

pub fn udp6(stack: &Stack) -> String {
    datagram_table(stack, libc::AF_INET6, libc::IPPROTO_UDP)
}

pub fn icmp(stack: &Stack) -> String {
    datagram_table(stack, libc::AF_INET, libc::IPPROTO_ICMP)
}

pub fn icmp6(stack: &Stack) -> String {
    datagram_table(stack, libc::AF_INET6, libc::IPPROTO_ICMPV6)
}

pub fn unix(stack: &Stack) -> String {
    const SO_ACCEPTCON: u32 = 0x10000;
    let mut text = String::new();
    for socket in stack.sockets() {
        let Some(unix) = Unix::of(&*socket) else {
            continue;
        };
        let (mut flags, mut state, mut references) = (0, 1, 2);
        if socket.is_listening() {
            flags = SO_ACCEPTCON;
        }
        if unix.peer_ino().is_some() {
            (state, references) = (3, 3);
        }
        let common = socket.common();
        let _ = write!(
            text,
            "{:016x}: {references:08X} {:08X} {flags:08X} {:04X} {state:02X} {:5}",
            0,
            0,
            common.kind.number(),
            common.ino(),
        );
        match unix.address() {
            None => {}
            Some(Address::Path(path)) => {
                let _ = write!(text, " {}", String::from_utf8_lossy(&path));
            }
            Some(Address::Abstract(name)) => {
                let name = String::from_utf8_lossy(&name).replace('\0', "@");
                let _ = write!(text, " @{name}");
            }
        }
        text.push('\n');
    }
    text
}

pub fn netlink(stack: &Stack) -> String {
    let mut text = String::new();
    for socket in stack.sockets() {
        let Some(netlink) = Netlink::of(&*socket) else {
            continue;
        };
        let (port, groups, dumping) = netlink.facts();
        let info = socket.info();
        let common = socket.common();
        let _ = writeln!(
            text,
            "{:016x} {:<3} {port:<10} {groups:08x} {:<8} {:<8} {:<5} {:<8} {:<8} {:<8}",
            0,
            common.protocol,
            info.receive_queue,
            0,
            u8::from(dumping),
            2,
            info.drops,
            common.ino(),
        );
    }
    text
}

/// The protocols that there are and how many sockets they have.
pub fn protocols(stack: &Stack) -> String {
    let sockets = stack.sockets();
    let count = |family, kind: Option<Kind>, protocol: Option<i32>| {
        let is = |s: &&Arc<dyn Socket>| {
            let common = s.common();
            common.family == family
                && kind.is_none_or(|k| common.kind == k)
                && protocol.is_none_or(|p| common.protocol == p)
        };
        sockets.iter().filter(is).count()
    };
    // What a protocol has: the columns from "cl" on.
    const INET: &str = "y  y  y  n  y  y  y  n  y  y  y  y  n  n  y  y  y  n";
    const ECHO: &str = "y  y  y  n  n  y  n  n  y  y  y  y  y  y  n  y  y  n";
    const CONNECTED: &str = "y  y  y  y  y  y  y  y  y  y  y  y  n  y  y  y  y  y";
    const RAW: &str = "y  y  y  n  y  y  y  n  y  y  y  y  y  y  y  y  n  n";
    const LOCAL: &str = "y  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n";
    const NONE: &str = "n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n";
    let (v4, v6) = (libc::AF_INET, libc::AF_INET6);
    let of = |family, protocol| count(family, None, Some(protocol));
    let stream = count(libc::AF_UNIX, Some(Kind::Stream), None);
    let datagram = count(libc::AF_UNIX, None, None) - stream;
    let netlink = count(libc::AF_NETLINK, None, None);
    // Name, size, sockets, pages of memory, whether there is pressure, headers, a cache, columns.
    let (udp, tcp) = ((2, "NI", 0, "yes"), (47, "no", 192, "yes"));
    let (plain, uncached) = ((-1, "NI", 0, "yes"), (-1, "NI", 0, "no"));
    let rows = [
        ("PINGv6", 1344, of(v6, libc::IPPROTO_ICMPV6), plain, ECHO),
        ("RAWv6", 1344, 0, plain, RAW),
        ("UDPLITEv6", 1472, 0, udp, INET),
        ("UDPv6", 1472, of(v6, libc::IPPROTO_UDP), udp, INET),
        ("TCPv6", 2432, of(v6, libc::IPPROTO_TCP), tcp, CONNECTED),
        ("UNIX-STREAM", 1152, stream, plain, LOCAL),
        ("UNIX", 1152, datagram, plain, LOCAL),
        ("UDP-Lite", 1344, 0, udp, INET),
        ("PING", 1016, of(v4, libc::IPPROTO_ICMP), plain, ECHO),
        ("RAW", 1152, 0, plain, RAW),
        ("UDP", 1344, of(v4, libc::IPPROTO_UDP), udp, INET),
        ("TCP", 2304, of(v4, libc::IPPROTO_TCP), tcp, CONNECTED),
        ("NETLINK", 1096, netlink, uncached, NONE),
    ];
    let mut text = String::new();
    for (name, size, sockets, (memory, pressure, header, cache), has) in rows {
        let _ = writeln!(
            text,
            "{name:<9} {size:4} {sockets:6}  {memory:6}   {pressure:<3}{header:7}   {cache:<3}  kernel      {has}"
        );
    }
    text
}
