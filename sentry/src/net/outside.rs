//! The way out of the sandbox.
//!
//! A socket that has to reach another address than the sandbox's own asks an [`Outside`] for a
//! [`HostSocket`]. The network Gofer's client is one; a TCP/IP stack of our own could be another.
//! What a HostSocket is told goes to whoever made it; data goes through its fd, which the Sentry
//! reads, writes and polls itself (`executor::Reactor::watch`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::interfaces::Interfaces;
use super::traffic::Counters;
use crate::errno::{Errno, Result};

/// Family of a socket to the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    V4,
    V6,
}

/// Protocol of a socket to the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    /// SOCK_DGRAM with IPPROTO_ICMP or IPPROTO_ICMPV6.
    Ping,
}

/// What the network looks like.
pub struct View {
    pub interfaces: Interfaces,
    /// By the index of an interface.
    pub counters: BTreeMap<u32, Counters>,
}

/// Options by level and name, as setsockopt(2) was given them.
pub type Options = BTreeMap<(i32, i32), Vec<u8>>;

/// Makes sockets that reach the outside. Calls may take a trip to another process; no lock of a
/// socket is held meanwhile.
pub trait Outside: Send + Sync {
    /// A socket that does not block, with options set as far as that is permitted.
    ///
    /// # Errors
    /// ENETDOWN if nobody can make one any more, or what socket(2) said.
    fn open(
        &self,
        domain: Domain,
        transport: Transport,
        options: &Options,
    ) -> Result<Box<dyn HostSocket>>;

    /// What the network looks like now. ENETDOWN.
    fn interfaces(&self) -> Result<View>;

    /// Blocks until that has changed; false: it never will again. For a thread that then looks.
    fn wait_for_change(&self) -> bool;
}

/// A socket of the host. Errors are those of the host's call of the same name; what one that was
/// handed over as it is has no use for is EOPNOTSUPP.
pub trait HostSocket: Send + Sync {
    /// For read, write, poll and shutdown.
    fn fd(&self) -> &Arc<OwnedFd>;

    fn bind(&self, _address: SocketAddr) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// EINPROGRESS: the fd becomes writable when it is done, and SO_ERROR tells.
    fn connect(&self, _address: SocketAddr) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// connect(2) with AF_UNSPEC.
    fn disconnect(&self) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn listen(&self, _backlog: i32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// EAGAIN: the fd becomes readable.
    fn accept(&self) -> Result<(Box<dyn HostSocket>, SocketAddr)> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Options of a short list. ENOPROTOOPT for another one.
    fn set_option(&self, _level: i32, _name: i32, _value: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// `room`: bytes of the longest value wanted.
    fn option(&self, _level: i32, _name: i32, _room: usize) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    fn local(&self) -> Result<SocketAddr> {
        Err(Errno::EOPNOTSUPP)
    }

    fn peer(&self) -> Result<SocketAddr> {
        Err(Errno::EOPNOTSUPP)
    }
}
