//! The host's half of a socket: a socket of the container's network namespace, made when
//! the guest's is bound (so that there is one port space with everybody else there) or has to reach
//! the outside. What is set on the guest's is set on the host's.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::address;
use crate::errno::{Errno, Result};
use crate::mm::io::Sink;
use crate::net::host::Host;
use crate::net::outside::{Domain, Options, Transport};
use crate::net::socket::{Common, Received, Socket};

/// Longest value that is kept: those of numbers are shorter.
const LONGEST: usize = 16;

/// How often another free port is tried because somebody outside the sandbox has the one picked.
pub const TRIES: usize = 64;

/// See the module documentation.
#[derive(Default)]
pub struct Outer {
    host: Mutex<Option<Arc<Host>>>,
    /// Options that were set, for a socket that is made later.
    asked: Mutex<Options>,
}

impl Outer {
    pub fn get(&self) -> Option<Arc<Host>> {
        self.host.lock().clone()
    }

    /// The host's socket, made if there is none; None: there is no way out.
    ///
    /// # Errors
    /// ENETDOWN if nobody can make one any more, or what socket(2) said.
    pub fn open(
        &self,
        common: &Common,
        domain: Domain,
        transport: Transport,
        guest: Weak<dyn Socket>,
    ) -> Result<Option<Arc<Host>>> {
        let Some(way) = common.stack.way_out() else {
            return Ok(None);
        };
        if let Some(host) = self.get() {
            return Ok(Some(host));
        }
        let options = self.asked.lock().clone();
        let host = Arc::new(way.open(domain, transport, &options, guest)?);
        // Two threads at once: the first one's stays.
        Ok(Some(self.host.lock().get_or_insert(host).clone()))
    }

    /// An option was set on the guest's socket: one of those that this knows, which are not many.
    pub fn set_option(&self, level: i32, name: i32, value: &[u8]) {
        // A close(2) that lingers would hold up a thread of ours; a RST at once is another matter.
        let lingers = (level, name) == (libc::SOL_SOCKET, libc::SO_LINGER)
            && value.get(4..8).is_some_and(|seconds| seconds != [0; 4]);
        if lingers {
            return;
        }
        let value = &value[..value.len().min(LONGEST)];
        if let Some(host) = self.get()
            && let Err(e) = host.socket().set_option(level, name, value)
        {
            // What the host does not take makes no difference to who can be reached.
            log::debug!("socket option {name} of level {level}: {e:?}");
        }
        self.asked.lock().insert((level, name), value.to_vec());
    }

    /// A socket that is there already: an accepted one.
    pub fn put(&self, host: Host) {
        *self.host.lock() = Some(Arc::new(host));
    }

    /// The socket is no more.
    pub fn close(&self) {
        let host = self.host.lock().take();
        drop(host);
    }
}

/// SO_ERROR of the host's socket: told once.
pub fn take_error(host: &Host) -> Option<Errno> {
    let value = host
        .socket()
        .option(libc::SOL_SOCKET, libc::SO_ERROR, 4)
        .ok()?;
    let raw = i32::from_ne_bytes(value.first_chunk().copied()?);
    (raw != 0).then(|| Errno::from_raw(raw))
}

/// Takes a datagram of the host's socket. EAGAIN, and the socket's error.
pub fn receive(host: &Host, domain: Domain, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
    let packet = host.receive_packet(dst.remaining(), flags)?;
    let n = packet.data.len().min(dst.remaining());
    let count = match n {
        0 => 0,
        n => dst.put(&packet.data[..n])?,
    };
    let from = packet.from.map(from_host);
    Ok(Received {
        count,
        full: packet.full,
        from: from.map(|from| address::encode(domain, from)),
        extra: packet.extra,
        flags: packet.flags,
        ..Received::default()
    })
}

/// An address as the host's socket takes it: on one of IPv6, everything is of IPv6.
pub fn to_host(domain: Domain, address: SocketAddr) -> SocketAddr {
    match (domain, address.ip()) {
        (Domain::V6, IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}

/// The opposite of [`to_host`].
pub fn from_host(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            SocketAddr::new(address.ip().to_canonical(), address.port())
        }
        _ => address,
    }
}
