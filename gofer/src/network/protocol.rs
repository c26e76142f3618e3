//! Types that both ends speak, and their limits. A frame is one `SOCK_SEQPACKET` packet,
//! postcard-encoded; a request and a reply each carry one fd at most.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use serde::{Deserialize, Serialize};

use crate::protocol::Errno;

/// Longest frame in either direction, in bytes.
pub const MAX_FRAME: usize = 64 * 1024;
/// Most steps of one request.
pub const MAX_STEPS: usize = 64;
/// Longest value of an option, in bytes: struct group_source_req, and more.
pub const MAX_VALUE: usize = 288;
/// How much of a namespace is told.
pub const MAX_LINKS: usize = 64;
pub const MAX_ADDRESSES: usize = 256;
pub const MAX_ROUTES: usize = 256;
pub const MAX_NEIGHBOURS: usize = 256;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Family {
    V4,
    V6,
}

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    Tcp,
    Udp,
    /// ICMP or ICMPv6 echo, without privileges (icmp(7), `net.ipv4.ping_group_range`).
    Ping,
}

/// An address with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
    /// Interface index of an IPv6 address that means nothing without one, else 0.
    pub scope: u32,
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        match endpoint.ip {
            IpAddr::V4(ip) => (ip, endpoint.port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, endpoint.port, 0, endpoint.scope).into(),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let scope = match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(address) => address.scope_id(),
        };
        Self {
            ip: address.ip(),
            port: address.port(),
            scope,
        }
    }
}

/// An option: level and name of setsockopt(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OptionName {
    pub level: i32,
    pub name: i32,
}

/// One thing to do to a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    Set(OptionName, Vec<u8>),
    /// At most as many bytes.
    Get(OptionName, u32),
    Bind(Endpoint),
    /// The socket does not block: `EINPROGRESS` is the usual failure.
    Connect(Endpoint),
    /// connect(2) with `AF_UNSPEC`.
    Disconnect,
    Listen(i32),
}

/// How far a socket's steps went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How many succeeded.
    pub steps: u32,
    /// Why the next one did not; it is the last that was tried.
    pub failed: Option<Errno>,
    /// What the options that were asked for are, in order.
    pub values: Vec<Vec<u8>>,
    /// getsockname(2) afterwards.
    pub local: Endpoint,
}

impl Done {
    /// Whether all was done.
    pub fn ok(&self) -> Result<(), Errno> {
        self.failed.map_or(Ok(()), Err)
    }
}

pub(super) const NOWHERE: Endpoint = Endpoint {
    ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    port: 0,
    scope: 0,
};

/// What a network namespace looks like, as route netlink tells it (rtnetlink(7)). Numbers are
/// Linux's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub links: Vec<Link>,
    pub addresses: Vec<InterfaceAddress>,
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `ARPHRD_*`
    pub kind: u16,
    /// `IFF_*`
    pub flags: u32,
    /// Bytes.
    pub mtu: u32,
    pub queue_length: u32,
    /// `IF_OPER_*`
    pub state: u8,
    pub address: Vec<u8>,
    pub broadcast: Vec<u8>,
    /// The link that it is the other end of, or on top of.
    pub lower: Option<u32>,
    /// The number of the namespace where that is, if not this one.
    pub lower_namespace: Option<i32>,
    pub received: Traffic,
    pub sent: Traffic,
}

/// What went through an interface in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAddress {
    pub link: u32,
    pub local: IpAddr,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    pub broadcast: Option<Ipv4Addr>,
    pub prefix: u8,
    /// `IFA_F_*`
    pub flags: u32,
    /// `RT_SCOPE_*`
    pub scope: u8,
    pub label: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub family: Family,
    /// Without one it is the default route.
    pub destination: Option<IpAddr>,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
    pub link: Option<u32>,
    pub metric: Option<u32>,
    /// `RT_TABLE_*`
    pub table: u32,
    /// `RTPROT_*`
    pub protocol: u8,
    /// `RT_SCOPE_*`
    pub scope: u8,
    /// `RTN_*`
    pub kind: u8,
    /// `RTNH_F_*`
    pub flags: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    pub link: u32,
    pub address: IpAddr,
    pub hardware: Vec<u8>,
    /// `NUD_*`
    pub state: u16,
    /// `NTF_*`
    pub flags: u8,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Makes a socket, or takes the one that comes along, and does the steps up to the first that
    /// fails.
    Socket {
        make: Option<(Family, Kind)>,
        steps: Vec<Step>,
    },
    View,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Failed(Errno),
    /// With the socket's fd if it was made.
    Socket(Done),
    View(View),
}
