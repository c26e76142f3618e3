//! What the host's socket does for a UDP socket: the port in the network namespace, and datagrams to
//! and from the outside. Those that sockets of the sandbox are there for never come here.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use super::{Udp, outer};
use crate::errno::{Errno, Result};
use crate::net::host::Host;
use crate::net::outside::Transport;
use crate::net::socket::{Extra, Socket};

impl Udp {
    /// Takes the port of `local`, here and in the network namespace. EINVAL if it has one,
    /// EADDRINUSE.
    pub(super) fn bind_to(&self, local: SocketAddr) -> Result<SocketAddr> {
        for _ in 0..outer::TRIES {
            let bound = self.bind_inside(local)?;
            match self.bind_outside(bound) {
                Ok(_) => return Ok(bound),
                Err(e) => {
                    self.outer.close();
                    let mut tables = self.common.stack.inet.udp.lock();
                    tables.leave(bound.port(), self.common.cookie);
                    self.state.lock().local = None;
                    if e != Errno::EADDRINUSE || local.port() != 0 {
                        return Err(e);
                    }
                }
            }
        }
        Err(Errno::EADDRINUSE)
    }

    /// The host's socket on that address; None: there is no outside.
    fn bind_outside(&self, local: SocketAddr) -> Result<Option<Arc<Host>>> {
        let host = self.open_host();
        let bound = host.and_then(|host| {
            if let Some(host) = &host {
                host.bind(outer::to_host(self.domain, local))?;
            }
            Ok(host)
        });
        match bound {
            // Inside traffic goes on without a network Gofer, or without IPv6 on the host.
            Err(Errno::ENETDOWN | Errno::EAFNOSUPPORT) => Ok(None),
            other => other,
        }
    }

    /// The host's socket, made and in this one's groups; None: there is no outside.
    pub(super) fn open_host(&self) -> Result<Option<Arc<Host>>> {
        let known = self.outer.get();
        if known.is_some() {
            return Ok(known);
        }
        let guest: Weak<dyn Socket> = self.this.clone();
        let opened = self
            .outer
            .open(&self.common, self.domain, Transport::Udp, guest)?;
        if let Some(host) = &opened
            && let Err(e) = self.join_outside(host)
        {
            self.outer.close();
            return Err(e);
        }
        Ok(opened)
    }

    /// The host's socket, made and bound where this one is if there is none.
    pub(super) fn way_out(&self) -> Result<Option<Arc<Host>>> {
        if self.common.stack.way_out().is_none() {
            return Ok(None);
        }
        let Some(local) = self.state.lock().local else {
            return Err(Errno::EINVAL);
        };
        // One that is only in groups so far has no port yet.
        if let Some(host) = self.outer.get()
            && host.is_bound()
        {
            return Ok(Some(host));
        }
        match self.bind_outside(local) {
            // The port was picked, and nobody was told: another will do.
            Err(Errno::EADDRINUSE) if self.state.lock().bound.is_none() => {
                self.outer.close();
                self.common
                    .stack
                    .inet
                    .udp
                    .lock()
                    .leave(local.port(), self.common.cookie);
                self.state.lock().local = None;
                self.bind_to(SocketAddr::new(local.ip(), 0))?;
                Ok(self.outer.get())
            }
            Err(e) => {
                self.outer.close();
                Err(e)
            }
            Ok(None) => Err(Errno::ENETDOWN),
            found => found,
        }
    }

    /// Whether `to` is for the host's socket. Where nobody in the sandbox listens, somebody else in
    /// its network namespace may.
    pub(super) fn leads_outside(&self, local: SocketAddr, to: SocketAddr) -> bool {
        self.common.stack.way_out().is_some()
            && !self.is_to_many(to.ip())
            && self.receivers(local, to).is_empty()
    }

    pub(super) fn connect_outside(&self, to: SocketAddr) -> Result<()> {
        let host = self.way_out()?.ok_or(Errno::ENETDOWN)?;
        host.socket().connect(outer::to_host(self.domain, to))?;
        let local = outer::from_host(host.socket().local()?);
        self.set_local(local);
        let mut state = self.state.lock();
        state.remote = Some(to);
        state.outside = true;
        Ok(())
    }

    pub(super) fn disconnect_outside(&self) {
        let outside = std::mem::take(&mut self.state.lock().outside);
        if outside && let Some(host) = self.outer.get() {
            let _ = host.socket().disconnect();
        }
        // A port that was picked ends with the connection, also there.
        if outside && self.state.lock().bound.is_none() {
            self.outer.close();
        }
    }

    pub(super) fn send_outside(
        &self,
        host: &Host,
        data: &[u8],
        to: SocketAddr,
        extra: &[Extra],
        flags: i32,
    ) -> Result<()> {
        let connected = {
            let state = self.state.lock();
            state.outside && state.remote == Some(to)
        };
        let to = (!connected).then(|| outer::to_host(self.domain, to));
        host.send_packet(data, to, extra, flags)?;
        Ok(())
    }

    /// The host's socket as far as its datagrams are wanted: not if the other end is inside.
    pub(super) fn way_in(&self) -> Option<Arc<Host>> {
        let wanted = {
            let state = self.state.lock();
            state.remote.is_none() || state.outside
        };
        wanted.then(|| self.outer.get()).flatten()
    }
}
