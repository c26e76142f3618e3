//! What the namespace looks like, asked from the host kernel over route netlink (rtnetlink(7)).

use std::{
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use rustix::{
    io::Errno as HostErrno,
    net::{
        AddressFamily as Domain, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::SocketAddrNetlink,
    },
};

use super::protocol::{
    Family, InterfaceAddress, Link, MAX_ADDRESSES, MAX_LINKS, MAX_NEIGHBOURS, MAX_ROUTES,
    Neighbour, Route, Traffic, View,
};

/// One message of the kernel fits: it makes none longer for a dump.
const BUFFER: usize = 64 * 1024;

/// Groups of rtnetlink(7): links, neighbours, IPv4 and IPv6 addresses and routes.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;

/// Two netlink sockets of the namespace.
pub(super) struct Watch {
    asking: OwnedFd,
    changes: OwnedFd,
    buffer: Vec<u8>,
}

impl Watch {
    pub(super) fn new() -> rustix::io::Result<Self> {
        let socket = |groups: u32| {
            let socket = rustix::net::socket_with(
                Domain::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                // NETLINK_ROUTE.
                None,
            )?;
            rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
            Ok::<_, HostErrno>(socket)
        };
        Ok(Self {
            asking: socket(0)?,
            changes: socket(GROUPS)?,
            buffer: vec![0; BUFFER],
        })
    }

    /// Readable when something has changed.
    pub(super) fn changes(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }

    /// Takes all changes that have come; what they are is asked for afresh.
    pub(super) fn clear_changes(&mut self) {
        let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        loop {
            match rustix::net::recv(&self.changes, &mut *self.buffer, flags) {
                // ENOBUFS: some were lost, which is a change as well.
                Ok(_) | Err(HostErrno::INTR | HostErrno::NOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    /// All there is to see, up to the protocol's limits.
    pub(super) fn view(&mut self) -> rustix::io::Result<View> {
        let mut view = View::default();
        let questions = [
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            RouteNetlinkMessage::GetRoute(RouteMessage::default()),
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        ];
        for question in questions {
            self.dump(question, |answer| match answer {
                RouteNetlinkMessage::NewLink(link) => {
                    push(&mut view.links, MAX_LINKS, self::link(link))
                }
                RouteNetlinkMessage::NewAddress(it) => {
                    push(&mut view.addresses, MAX_ADDRESSES, address(it));
                }
                RouteNetlinkMessage::NewRoute(it) => push(&mut view.routes, MAX_ROUTES, route(it)),
                RouteNetlinkMessage::NewNeighbour(it) => {
                    push(&mut view.neighbours, MAX_NEIGHBOURS, neighbour(it));
                }
                _ => {}
            })?;
        }
        Ok(view)
    }

    fn dump(
        &mut self,
        question: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> rustix::io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::io::retry_on_intr(|| rustix::net::send(&self.asking, &bytes, flags))?;
        loop {
            let receive = || rustix::net::recv(&self.asking, &mut *self.buffer, RecvFlags::TRUNC);
            let (_, length) = rustix::io::retry_on_intr(receive)?;
            let mut rest = self.buffer.get(..length).ok_or(HostErrno::MSGSIZE)?;
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
                let (length, payload) = match message {
                    Ok(message) => (message.header.length, Some(message.payload)),
                    // One kind of link, say, that the crate does not know: the others count.
                    Err(error) => {
                        log::debug!("route netlink: {error}");
                        let length = rest.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
                        (length, None)
                    }
                };
                match payload {
                    Some(NetlinkPayload::Done(_)) => return Ok(()),
                    Some(NetlinkPayload::Error(error)) => {
                        let code = error.raw_code().wrapping_neg();
                        return Err(HostErrno::from_raw_os_error(code));
                    }
                    Some(NetlinkPayload::InnerMessage(answer)) => each(answer),
                    _ => {}
                }
                // At least a header, or this would not end.
                let length = (length as usize).next_multiple_of(4).max(16);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
}

fn push<T>(list: &mut Vec<T>, most: usize, item: Option<T>) {
    if let Some(item) = item
        && list.len() < most
    {
        list.push(item);
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as the others")]
fn link(message: LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        kind: message.header.link_layer_type.into(),
        flags: message.header.flags.bits(),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::TxQueueLen(length) => link.queue_length = length,
            LinkAttribute::OperState(state) => link.state = state.into(),
            LinkAttribute::Address(address) => link.address = address,
            LinkAttribute::Broadcast(address) => link.broadcast = address,
            LinkAttribute::Link(lower) => link.lower = Some(lower),
            LinkAttribute::LinkNetNsId(number) => link.lower_namespace = Some(number),
            LinkAttribute::Stats64(stats) => {
                link.received = Traffic {
                    bytes: stats.rx_bytes,
                    packets: stats.rx_packets,
                    errors: stats.rx_errors,
                    dropped: stats.rx_dropped,
                };
                link.sent = Traffic {
                    bytes: stats.tx_bytes,
                    packets: stats.tx_packets,
                    errors: stats.tx_errors,
                    dropped: stats.tx_dropped,
                };
            }
            _ => {}
        }
    }
    // What a hostile driver could make long is not.
    link.address.truncate(32);
    link.broadcast.truncate(32);
    Some(link)
}

fn address(message: AddressMessage) -> Option<InterfaceAddress> {
    let header = message.header;
    let (mut local, mut address, mut broadcast) = (None, None, None);
    let mut flags = u32::from(header.flags.bits());
    let mut label = String::new();
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => address = Some(ip),
            AddressAttribute::Broadcast(ip) => broadcast = Some(ip),
            AddressAttribute::Flags(all) => flags = all.bits(),
            AddressAttribute::Label(name) => label = name,
            _ => {}
        }
    }
    // IPv6 has only IFA_ADDRESS; where both are there and differ, that is the other end.
    let own = local.or(address)?;
    Some(InterfaceAddress {
        link: header.index,
        local: own,
        peer: address.filter(|address| *address != own),
        broadcast,
        prefix: header.prefix_len,
        flags,
        scope: header.scope.into(),
        label,
    })
}

fn route(message: RouteMessage) -> Option<Route> {
    let header = message.header;
    let family = match header.address_family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let mut route = Route {
        family,
        destination: None,
        prefix: header.destination_prefix_length,
        gateway: None,
        source: None,
        link: None,
        metric: None,
        table: header.table.into(),
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        kind: header.kind.into(),
        flags: header.flags.bits(),
    };
    let ip = |address: RouteAddress| match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => route.destination = ip(address),
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Oif(link) => route.link = Some(link),
            RouteAttribute::Priority(metric) => route.metric = Some(metric),
            RouteAttribute::Table(table) => route.table = table,
            _ => {}
        }
    }
    Some(route)
}

fn neighbour(message: NeighbourMessage) -> Option<Neighbour> {
    let header = message.header;
    let (mut address, mut hardware) = (None, Vec::new());
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                address = Some(IpAddr::V4(ip));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(IpAddr::V6(ip));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => hardware = bytes,
            _ => {}
        }
    }
    hardware.truncate(32);
    Some(Neighbour {
        link: header.ifindex,
        address: address?,
        hardware,
        state: header.state.into(),
        flags: header.flags.bits(),
    })
}
