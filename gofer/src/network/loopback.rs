//! A new network namespace's first step.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkFlags, LinkMessage},
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
    },
};

/// The index of the loopback interface in every namespace.
const LO: u32 = 1;

/// Takes the loopback interface of the caller's network namespace up, as `ip link set lo up` does.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` over the namespace.
pub fn raise_loopback() -> std::io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let mut link = LinkMessage::default();
    link.header.index = LO;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::SetLink(link));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    rustix::net::send(&socket, &bytes, SendFlags::empty())?;
    let mut answer = vec![0; 4096];
    let (_, length) = rustix::net::recv(&socket, &mut *answer, RecvFlags::TRUNC)?;
    let answer = answer.get(..length).ok_or(Errno::MSGSIZE)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer);
    match answer.map_err(std::io::Error::other)?.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    }
}
