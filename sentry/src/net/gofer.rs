//! The way out through the network Gofer: it makes the sockets, in the container's network
//! namespace, and does to them what the Sentry may not; data and accept(2) are the Sentry's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use runsc_gofer::network::client::Ends;
use runsc_gofer::network::options::{Access, access};
use runsc_gofer::network::{self as wire, Client, MAX_STEPS, OptionName, Step};
use rustix::net::SocketFlags;

use super::interfaces::{Address, Interfaces, Link, Neighbour, Route};
use super::options::int;
use super::outside::{Domain, HostSocket, Options, Outside, Transport, View};
use super::traffic::Counters;
use crate::errno::{Errno, Result};

/// See the module documentation.
pub struct Gofer(Arc<Client>);

impl Gofer {
    pub fn new(ends: Ends) -> Arc<Gofer> {
        Arc::new(Gofer(Arc::new(Client::new(ends))))
    }
}

fn errno(e: runsc_gofer::Errno) -> Errno {
    Errno::from_raw(e.raw())
}

impl Outside for Gofer {
    fn open(
        &self,
        domain: Domain,
        transport: Transport,
        options: &Options,
    ) -> Result<Box<dyn HostSocket>> {
        let family = match domain {
            Domain::V4 => wire::Family::V4,
            Domain::V6 => wire::Family::V6,
        };
        let kind = match transport {
            Transport::Tcp => wire::Kind::Tcp,
            Transport::Udp => wire::Kind::Udp,
            Transport::Ping => wire::Kind::Ping,
        };
        let permitted = options.iter().filter_map(|((level, name), value)| {
            let (level, name) = (*level, *name);
            let option = OptionName { level, name };
            let both = access(option) == Some(Access::Both);
            both.then(|| Step::Set(option, value.clone()))
        });
        let mut steps: Vec<_> = permitted.take(MAX_STEPS).collect();
        let (fd, mut done) = self.0.open(family, kind, steps.clone()).map_err(errno)?;
        // One that the host does not like does not stop the others.
        while done.failed.is_some() {
            steps.drain(..=(done.steps as usize).min(steps.len() - 1));
            if steps.is_empty() {
                break;
            }
            let rest = self.0.carry_out(fd.as_fd(), steps.clone());
            done = rest.map_err(errno)?;
        }
        Ok(Box::new(Made {
            client: self.0.clone(),
            fd: Arc::new(fd),
        }))
    }

    fn interfaces(&self) -> Result<View> {
        let view = self.0.view().map_err(errno)?;
        let counters = view.links.iter().map(|l| (l.index, counters(l))).collect();
        let interfaces = Interfaces {
            links: view.links.into_iter().map(link).collect(),
            addresses: view.addresses.into_iter().map(address).collect(),
            routes: view.routes.into_iter().filter_map(route).collect(),
            neighbours: view.neighbours.into_iter().map(neighbour).collect(),
        };
        Ok(View {
            interfaces,
            counters,
        })
    }

    fn wait_for_change(&self) -> bool {
        self.0.wait_for_change()
    }
}

fn counters(link: &wire::Link) -> Counters {
    let (received, sent) = (link.received, link.sent);
    Counters {
        rx_packets: received.packets,
        tx_packets: sent.packets,
        rx_bytes: received.bytes,
        tx_bytes: sent.bytes,
        rx_errors: received.errors,
        tx_errors: sent.errors,
        rx_dropped: received.dropped,
        tx_dropped: sent.dropped,
    }
}

fn link(link: wire::Link) -> Link {
    Link {
        index: link.index,
        name: link.name,
        kind: link.kind,
        flags: link.flags,
        mtu: link.mtu,
        tx_queue_len: link.queue_length,
        hardware: link.address,
        hardware_broadcast: link.broadcast,
        lower: link.lower,
        lower_namespace: link.lower_namespace,
    }
}

fn address(address: wire::InterfaceAddress) -> Address {
    Address {
        link: address.link,
        ip: address.local,
        prefix_len: address.prefix,
        broadcast: address.broadcast,
        scope: address.scope,
        flags: address.flags,
    }
}

/// Those that lead over an interface.
fn route(route: wire::Route) -> Option<Route> {
    let anywhere: IpAddr = match route.family {
        wire::Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        wire::Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    Some(Route {
        destination: route.destination.unwrap_or(anywhere),
        prefix_len: route.prefix,
        gateway: route.gateway,
        source: route.source,
        link: route.link?,
        metric: route.metric.unwrap_or(0),
        table: u8::try_from(route.table).ok()?,
        protocol: route.protocol,
        scope: route.scope,
        kind: route.kind,
    })
}

fn neighbour(neighbour: wire::Neighbour) -> Neighbour {
    Neighbour {
        link: neighbour.link,
        ip: neighbour.address,
        hardware: neighbour.hardware,
        state: neighbour.state,
        flags: neighbour.flags,
    }
}

/// A socket that the network Gofer has made, or one accepted from such a one.
struct Made {
    client: Arc<Client>,
    fd: Arc<OwnedFd>,
}

impl Made {
    fn carry_out(&self, step: Step) -> Result<Vec<Vec<u8>>> {
        let done = self.client.carry_out(self.fd.as_fd(), vec![step]);
        let done = done.map_err(errno)?;
        done.ok().map_err(errno)?;
        Ok(done.values)
    }
}

impl HostSocket for Made {
    fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    fn bind(&self, address: SocketAddr) -> Result<()> {
        self.carry_out(Step::Bind(address.into())).map(drop)
    }

    fn connect(&self, address: SocketAddr) -> Result<()> {
        self.carry_out(Step::Connect(address.into())).map(drop)
    }

    fn disconnect(&self) -> Result<()> {
        self.carry_out(Step::Disconnect).map(drop)
    }

    fn listen(&self, backlog: i32) -> Result<()> {
        self.carry_out(Step::Listen(backlog)).map(drop)
    }

    fn accept(&self) -> Result<(Box<dyn HostSocket>, SocketAddr)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = || rustix::net::acceptfrom_with(&self.fd, flags);
        let (fd, from) = rustix::io::retry_on_intr(accept)?;
        let from = from.ok_or(Errno::ECONNABORTED)?;
        let made = Made {
            client: self.client.clone(),
            fd: Arc::new(fd),
        };
        Ok((Box::new(made), SocketAddr::try_from(from)?))
    }

    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<()> {
        // Web servers set it twice for each answer: no trip for this one.
        if (level, name) == (libc::IPPROTO_TCP, libc::TCP_CORK) {
            let on = int(value)? != 0;
            return Ok(rustix::net::sockopt::set_tcp_cork(&self.fd, on)?);
        }
        let option = OptionName { level, name };
        self.carry_out(Step::Set(option, value.to_vec())).map(drop)
    }

    fn option(&self, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let values = self.carry_out(Step::Get(OptionName { level, name }, room))?;
        values.into_iter().next().ok_or(Errno::EIO)
    }

    fn local(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::try_from(rustix::net::getsockname(&self.fd)?)?)
    }

    fn peer(&self) -> Result<SocketAddr> {
        let address = rustix::net::getpeername(&self.fd)?;
        Ok(SocketAddr::try_from(address.ok_or(Errno::ENOTCONN)?)?)
    }
}
