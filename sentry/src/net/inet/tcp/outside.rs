//! A TCP socket's half outside of the sandbox: where there is a way out, a port that is taken inside
//! is taken in the container's network namespace as well, connections come from there too, and
//! addresses that are not the sandbox's own are reached by a socket of the host's.
//!
//! So is one of its own addresses on which nobody inside listens: others may share the namespace
//! (the members of a pod, Docker's name server).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use super::{Phase, Tcp};
use crate::errno::{Errno, Result};
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::host::Host;
use crate::net::options::int;
use crate::net::outside::Transport;
use crate::net::socket::{Received, Socket};

/// How often another port is tried that is free inside and outside.
const TRIES: usize = 16;

impl Tcp {
    /// The host's socket, made if there is a way out and none yet.
    fn outer(self: &Arc<Self>) -> Result<Option<Arc<Host>>> {
        if let Some(host) = self.state.lock().outer.clone() {
            return Ok(Some(host));
        }
        let Some(way) = self.common.stack.way_out() else {
            return Ok(None);
        };
        let options = self.asked.lock().clone();
        let guest: Weak<dyn Socket> = self.this.clone();
        let host = Arc::new(way.open(self.domain, Transport::Tcp, &options, guest)?);
        let mut state = self.state.lock();
        // Another thread may have been faster.
        Ok(Some(state.outer.get_or_insert(host).clone()))
    }

    /// bind(2), inside and outside. EADDRINUSE if the port is taken on either side.
    pub(super) fn bind_both(self: &Arc<Self>, local: SocketAddr) -> Result<()> {
        for _ in 0..TRIES {
            self.bind_to(local)?;
            let Some(bound) = self.state.lock().local else {
                return Ok(());
            };
            let outcome = match self.outer() {
                // Nobody is left who could make one: the inside goes on.
                Ok(None) | Err(Errno::ENETDOWN) => return Ok(()),
                Ok(Some(host)) => host.socket().bind(bound),
                Err(e) => Err(e),
            };
            let Err(e) = outcome else {
                return Ok(());
            };
            self.unbind();
            if e != Errno::EADDRINUSE || local.port() != 0 {
                return Err(e);
            }
        }
        Err(Errno::EADDRINUSE)
    }

    /// As before bind(2).
    fn unbind(&self) {
        let mut tables = self.common.stack.inet.tcp.lock();
        let mut state = self.state.lock();
        state.outer = None;
        state.bound = None;
        if let Some(local) = state.local.take() {
            tables.bound.leave(local.port(), self.common.cookie);
        }
    }

    /// listen(2), inside and outside.
    pub(super) fn listen_both(self: &Arc<Self>, backlog: i32) -> Result<()> {
        if self.state.lock().local.is_none() {
            let any = SocketAddr::new(super::address::any(self.domain), 0);
            match self.bind_both(any) {
                Err(Errno::EINVAL) | Ok(()) => {}
                Err(e) => return Err(e),
            }
        }
        self.start_listening(backlog)?;
        let host = self.state.lock().outer.clone();
        let Some(host) = host else {
            return Ok(());
        };
        host.socket().listen(backlog).inspect_err(|_| {
            self.stop_listening();
        })
    }

    /// The next connection from outside. EAGAIN, as without a way out.
    pub(super) fn next_from_outside(&self) -> Result<Arc<Tcp>> {
        let (host, local) = {
            let state = self.state.lock();
            let host = state.outer.clone().ok_or(Errno::EAGAIN)?;
            (host, state.local.ok_or(Errno::EAGAIN)?)
        };
        let way = self.common.stack.way_out().ok_or(Errno::EAGAIN)?;
        let (made, remote) = host.socket().accept()?;
        let own = made.local().unwrap_or(local);
        let options = self.common.options.lock().clone();
        let values = self.values.lock().clone();
        let child = Tcp::make(&self.common.stack, self.domain, options, values, None);
        let guest: Weak<dyn Socket> = child.this.clone();
        let host = Arc::new(way.watch(made, guest)?);
        {
            let mut state = child.state.lock();
            state.local = Some(unmapped(own));
            state.phase = Phase::Outside(unmapped(remote));
            state.outer = Some(host);
        }
        Ok(child)
    }

    /// Begins a connection to the outside; afterwards the phase tells how far it got.
    ///
    /// # Errors
    /// ENETUNREACH without a way out, and what the host says at once.
    pub(super) fn connect_outside(self: &Arc<Self>, to: SocketAddr) -> Result<()> {
        let host = self.outer()?.ok_or(Errno::ENETUNREACH)?;
        let begun = host.socket().connect(self.as_domain(to));
        match begun {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(e) => {
                self.forget_outer();
                return Err(e);
            }
        }
        let local = host.socket().local().ok().map(unmapped);
        let mut state = self.state.lock();
        state.local = local.or(state.local);
        state.phase = Phase::Reaching(to);
        state.untold = true;
        state.error = None;
        state.shut_write = false;
        drop(state);
        self.inbox.lock().restart();
        Ok(())
    }

    /// The host's socket is of no use any more: after a failure Linux's are not either.
    fn forget_outer(&self) {
        let mut state = self.state.lock();
        if state.bound.is_none() {
            state.outer = None;
        }
    }

    /// connect(2) with AF_UNSPEC: the port that bind(2) asked for is kept outside as well.
    pub(super) fn disconnect_outside(&self) {
        let host = self.outside();
        if host.is_some_and(|host| host.socket().disconnect().is_err()) {
            self.state.lock().outer = None;
        }
        self.forget_outer();
    }

    /// An address as the host's socket takes it: an IPv6 socket reaches IPv4 by mapped ones.
    fn as_domain(&self, to: SocketAddr) -> SocketAddr {
        match (self.domain, to.ip()) {
            (crate::net::outside::Domain::V6, IpAddr::V4(ip)) => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), to.port())
            }
            _ => to,
        }
    }

    /// Looks whether a connection to the outside that was begun stands or has failed, and takes note.
    pub(super) fn settle(&self) {
        let host = {
            let state = self.state.lock();
            match (&state.phase, &state.outer) {
                (Phase::Reaching(_), Some(host)) => host.clone(),
                _ => return,
            }
        };
        let ready = host.ready();
        if !ready.intersects(Ready::OUT | Ready::ERR | Ready::HUP) {
            return;
        }
        let error = self.outside_error(&host);
        // A send(2) may have had the error.
        let error = error.or_else(|| host.socket().peer().err().map(|_| Errno::ECONNABORTED));
        let mut state = self.state.lock();
        let Phase::Reaching(remote) = state.phase else {
            // Another thread was faster.
            return;
        };
        match error {
            None => {
                state.local = host.socket().local().ok().map(unmapped).or(state.local);
                state.phase = Phase::Outside(remote);
            }
            Some(error) => {
                state.phase = Phase::Closed;
                state.error = Some(error);
                state.local = state.bound;
                state.shut_write = true;
                drop(state);
                self.inbox.lock().shut = true;
                self.forget_outer();
            }
        }
    }

    /// SO_ERROR of the host's socket, told once.
    pub(super) fn outside_error(&self, host: &Host) -> Option<Errno> {
        let raw = host.socket().option(libc::SOL_SOCKET, libc::SO_ERROR, 4);
        match raw.and_then(|raw| int(&raw)) {
            Ok(0) => None,
            Ok(error) => Some(Errno::from_raw(error)),
            // Nobody is left who could ask.
            Err(_) => host
                .ready()
                .contains(Ready::ERR)
                .then_some(Errno::ECONNRESET),
        }
    }

    /// The host's socket of a connection to the outside, or one that is begun.
    pub(super) fn outside(&self) -> Option<Arc<Host>> {
        let state = self.state.lock();
        match state.phase {
            Phase::Outside(_) | Phase::Reaching(_) => state.outer.clone(),
            _ => None,
        }
    }

    pub(super) fn send_outside(
        &self,
        host: &Host,
        src: &mut Source<'_>,
        flags: i32,
    ) -> Result<usize> {
        if src.remaining() == 0 {
            return match self.state.lock().shut_write {
                true => Err(Errno::EPIPE),
                false => Ok(0),
            };
        }
        host.send(src, flags)
    }

    pub(super) fn receive_outside(
        &self,
        host: &Host,
        dst: &mut Sink<'_>,
        flags: i32,
    ) -> Result<Received> {
        let count = host.receive(dst, flags)?;
        Ok(Received {
            count,
            full: count,
            flags: flags & libc::MSG_OOB,
            ..Received::default()
        })
    }

    /// An option that was set, for the host's socket: the one there is, and the one to be made.
    pub(super) fn tell_outside(&self, level: i32, name: i32, value: &[u8]) {
        if self.common.stack.way_out().is_none() {
            return;
        }
        // A close(2) that lingers would hold up a thread of ours.
        let lingers = (level, name) == (libc::SOL_SOCKET, libc::SO_LINGER)
            && value.get(4..8).is_some_and(|seconds| seconds != [0; 4]);
        if lingers {
            return;
        }
        self.asked.lock().insert((level, name), value.to_vec());
        let host = self.state.lock().outer.clone();
        if let Some(host) = host
            && let Err(e) = host.socket().set_option(level, name, value)
        {
            log::debug!("socket option {name} of level {level}: {e:?}");
        }
    }
}

/// The sockets' own tables know IPv4 addresses as such.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
