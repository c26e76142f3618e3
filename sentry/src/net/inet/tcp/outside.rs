//! A TCP socket's half outside of the sandbox: where there is a way out, a port that is taken inside
//! is taken in the container's network namespace as well, connections come from there too, and
//! addresses that are not the sandbox's own are reached by a socket of the host's.
//!
//! So is one of its own addresses on which nobody inside listens: others may share the namespace
//! (the members of a pod, Docker's name server).

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use super::{Phase, Tcp};

use crate::errno::{Errno, Result};
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::host::Host;
use crate::net::inet::outer;
use crate::net::options::int;
use crate::net::outside::Transport;
use crate::net::socket::{Received, Socket};
use crate::net::traffic::Count;

impl Tcp {
    /// The host's socket, made if there is a way out and none yet.
    fn open_outer(&self) -> Result<Option<Arc<Host>>> {
        let guest: Weak<dyn Socket> = self.this.clone();
        self.outer
            .open(&self.common, self.domain, Transport::Tcp, guest)
    }

    /// bind(2), inside and outside. EADDRINUSE if the port is taken on either side.
    pub(super) fn bind_both(self: &Arc<Self>, local: SocketAddr) -> Result<()> {
        for _ in 0..outer::TRIES {
            self.bind_to(local)?;
            let Some(bound) = self.state.lock().local else {
                return Ok(());
            };
            let outcome = match self.open_outer() {
                // Inside traffic goes on without a network Gofer, or without IPv6 on the host.
                Ok(None) | Err(Errno::ENETDOWN | Errno::EAFNOSUPPORT) => return Ok(()),
                Ok(Some(host)) => host.bind(outer::to_host(self.domain, bound)),
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
        self.outer.close();
        let mut tables = self.common.stack.inet.tcp.lock();
        let mut state = self.state.lock();
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
        let Some(host) = self.outer.get() else {
            return Ok(());
        };
        let backlog = self.common.stack.settings.read().backlog(backlog);
        host.socket().listen(backlog).inspect_err(|_| {
            self.stop_listening();
        })
    }

    /// The next connection from outside. EAGAIN, as without a way out.
    pub(super) fn next_from_outside(&self) -> Result<Arc<Tcp>> {
        let host = self.outer.get().ok_or(Errno::EAGAIN)?;
        let local = self.state.lock().local.ok_or(Errno::EAGAIN)?;
        let way = self.common.stack.way_out().ok_or(Errno::EAGAIN)?;
        let (made, remote) = host.socket().accept()?;
        self.common.stack.loopback.count(Count::TcpPassiveOpens);
        let own = made.local().unwrap_or(local);
        let options = self.common.options.lock().clone();
        let values = self.values.lock().clone();
        let child = Tcp::make(&self.common.stack, self.domain, options, values, None);
        let guest: Weak<dyn Socket> = child.this.clone();
        child.outer.put(way.watch(made, guest)?);
        {
            let mut state = child.state.lock();
            state.local = Some(outer::from_host(own));
            state.phase = Phase::Outside(outer::from_host(remote));
        }
        Ok(child)
    }

    /// Begins a connection to the outside; afterwards the phase tells how far it got.
    ///
    /// # Errors
    /// ENETUNREACH without a way out, and what the host says at once.
    pub(super) fn connect_outside(self: &Arc<Self>, to: SocketAddr) -> Result<()> {
        let host = self.open_outer()?.ok_or(Errno::ENETUNREACH)?;
        let begun = host.socket().connect(outer::to_host(self.domain, to));
        self.common.stack.loopback.count(Count::TcpActiveOpens);
        match begun {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(e) => {
                self.forget_outer();
                return Err(e);
            }
        }
        let local = host.socket().local().ok().map(outer::from_host);
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
        if self.state.lock().bound.is_none() {
            self.outer.close();
        }
    }

    /// connect(2) with AF_UNSPEC: the port that bind(2) asked for is kept outside as well.
    pub(super) fn disconnect_outside(&self) {
        let host = self.outside();
        if host.is_some_and(|host| host.socket().disconnect().is_err()) {
            self.outer.close();
        }
        self.forget_outer();
    }

    /// Looks whether a connection to the outside that was begun stands or has failed, and takes note.
    pub(super) fn settle(&self) {
        let Some(host) = self.outside() else {
            return;
        };
        if !matches!(self.state.lock().phase, Phase::Reaching(_)) {
            return;
        }
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
                state.local = host
                    .socket()
                    .local()
                    .ok()
                    .map(outer::from_host)
                    .or(state.local);
                state.phase = Phase::Outside(remote);
            }
            Some(error) => {
                self.common.stack.loopback.count(Count::TcpAttemptFails);
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
        // Without a way out nothing is locked for it.
        self.common.stack.way_out()?;
        match self.state.lock().phase {
            Phase::Outside(_) | Phase::Reaching(_) => self.outer.get(),
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
}
