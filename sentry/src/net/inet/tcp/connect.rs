//! connect(2) to an address of the sandbox's own: the other end is made at once, and put into the
//! listener's queue.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{COST, HANDSHAKE, Link, Phase, REFUSAL, Tcp, TcpPorts};
use crate::errno::{Errno, Result};
use crate::fs::sigio::Band;
use crate::kernel::wait::Ready;
use crate::net::inet::ports::Scope;
use crate::net::inet::{address, check_inside, source_for};
use crate::net::outside::Domain;
use crate::net::traffic::Count;

/// Begins a connection as the caller's phase allows, or says how the last attempt ended.
pub(super) enum Start {
    Go,
    Wait,
    Told,
}

impl Tcp {
    /// A place in the listener's queue has become free.
    pub(super) fn retry(self: &Arc<Self>, listener: &Arc<Tcp>) {
        let link = match &self.state.lock().phase {
            Phase::Connecting(link) => link.clone(),
            _ => return,
        };
        self.establish(listener, link.remote);
        self.common.queue.wake_all();
    }

    /// Whom a connection to `to` meets: of listeners that fit equally well, one by the sender's port.
    pub(super) fn listener(&self, to: SocketAddr, from: u16) -> Option<Arc<Tcp>> {
        let found = self.common.stack.inet.tcp.lock().listeners.answering(to);
        let best = found.last()?.0;
        let mut equal: Vec<_> = found.into_iter().filter(|(r, _)| *r == best).collect();
        let index = usize::from(from) % equal.len();
        Some(equal.swap_remove(index).1)
    }

    /// What connect(2) finds. EISCONN, EALREADY (with a wait), or how the last attempt failed.
    pub(super) fn connect_phase(&self) -> Result<Start> {
        self.settle();
        let mut state = self.state.lock();
        match &state.phase {
            Phase::Connecting(_) => Ok(Start::Wait),
            Phase::Connected(_) if state.untold => Ok(Start::Told),
            Phase::Reaching(_) => Ok(Start::Wait),
            Phase::Outside(_) if state.untold => Ok(Start::Told),
            Phase::Closed if state.untold => {
                state.untold = false;
                Err(state.error.take().unwrap_or(Errno::ECONNABORTED))
            }
            Phase::Closed => Ok(Start::Go),
            _ => Err(Errno::EISCONN),
        }
    }

    /// Picks what is not bound yet, and enters the connection. EADDRNOTAVAIL.
    pub(super) fn take_ends(self: &Arc<Self>, to: SocketAddr) -> Result<SocketAddr> {
        let stack = &self.common.stack;
        let range = stack.settings.read().range();
        let source = source_for(stack, to.ip());
        let mut tables = stack.inet.tcp.lock();
        let TcpPorts {
            bound, connections, ..
        } = &mut *tables;
        let local = {
            let state = self.state.lock();
            state.local
        };
        let local = match local {
            Some(local) if local.ip().is_unspecified() => SocketAddr::new(source, local.port()),
            Some(local) if local.is_ipv4() != to.is_ipv4() => return Err(Errno::ENETUNREACH),
            Some(local) => local,
            None => {
                let scope = self.scope(source);
                let free = |port| !connections.contains(&(SocketAddr::new(source, port), to));
                let port = bound.bind_connection(self, scope, &range, free)?;
                SocketAddr::new(source, port)
            }
        };
        if !connections.insert((local, to)) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        bound.rescope(local.port(), self.common.cookie, self.scope(local.ip()));
        Ok(local)
    }

    /// connect(2) to an address: afterwards the phase tells how far it got.
    pub(super) fn connect_to(self: &Arc<Self>, to: SocketAddr) -> Result<()> {
        let to = address::this_host(to);
        if to.ip().is_multicast() || matches!(to.ip(), IpAddr::V4(ip) if ip.is_broadcast()) {
            return Err(Errno::ENETUNREACH);
        }
        if self.domain == Domain::V6 && to.is_ipv4() && self.v6_only() {
            return Err(Errno::ENETUNREACH);
        }
        if let Err(e) = check_inside(&self.common, to.ip()) {
            return match self.common.stack.way_out() {
                Some(_) => self.connect_outside(to),
                None => Err(e),
            };
        }
        if self.common.stack.way_out().is_some() && self.listener(to, 0).is_none() {
            match self.connect_outside(to) {
                Err(Errno::ENETDOWN) => {}
                begun => return begun,
            }
        }
        let local = self.take_ends(to)?;
        self.common.stack.loopback.count(Count::TcpActiveOpens);
        let listener = self.listener(to, local.port());
        {
            let mut state = self.state.lock();
            state.local = Some(local);
            state.phase = Phase::Connecting(Link {
                peer: listener.as_ref().map(Arc::downgrade).unwrap_or_default(),
                remote: to,
            });
            state.untold = true;
            state.error = None;
            state.shut_write = false;
            state.first = false;
        }
        self.inbox.lock().restart();
        match listener {
            Some(listener) => self.establish(&listener, to),
            None if local == to => self.meet_itself(to),
            None => self.refuse(),
        }
        if matches!(self.state.lock().phase, Phase::Connecting(_)) {
            self.limit_connecting();
        }
        Ok(())
    }

    /// Its own SYN comes to the port it was sent from: both ends are one socket (RFC 9293, 3.5,
    /// simultaneous open).
    fn meet_itself(&self, to: SocketAddr) {
        self.state.lock().phase = Phase::Connected(Link {
            peer: self.this.clone(),
            remote: to,
        });
        self.common.tell(Ready::OUT | Ready::WRNORM, Band::Out);
    }

    /// Makes the other end and puts it into the listener's queue, or waits for a place there. The
    /// phase is Connecting.
    pub(super) fn establish(self: &Arc<Self>, listener: &Arc<Tcp>, remote: SocketAddr) {
        let Some(local) = self.state.lock().local else {
            return;
        };
        if !self.common.stack.pool.charge(COST) {
            return self.refuse();
        }
        let child = Tcp::make(
            &self.common.stack,
            listener.domain,
            listener.common.options.lock().clone(),
            listener.values.lock().clone(),
            Some((
                remote,
                Link {
                    peer: self.this.clone(),
                    remote: local,
                },
            )),
        );
        {
            // Before anybody can meet the child.
            let mut tables = self.common.stack.inet.tcp.lock();
            let scope = Scope::new(listener.domain, remote.ip(), true);
            tables.bound.enter(&child, remote.port(), scope, false);
            tables.connections.insert((remote, local));
        }
        let defer = listener
            .values
            .lock()
            .get(libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
        if defer > 0 {
            child.inbox.lock().deferring = Some(Arc::downgrade(listener));
        }
        enum Outcome {
            Queued,
            Deferred,
            Waits,
            Refused,
        }
        let outcome = match &mut listener.state.lock().phase {
            // Those that are deferred come to be pending without being asked again.
            Phase::Listening(l) if l.pending.len() + l.deferred.len() <= l.backlog => {
                if defer > 0 {
                    l.deferred.push(child.clone());
                    Outcome::Deferred
                } else {
                    l.pending.push_back(child.clone());
                    Outcome::Queued
                }
            }
            Phase::Listening(l) => {
                l.waiting.retain(|c| c.strong_count() > 0);
                l.waiting.push_back(self.this.clone());
                Outcome::Waits
            }
            _ => Outcome::Refused,
        };
        match outcome {
            Outcome::Queued | Outcome::Deferred => {
                let traffic = &self.common.stack.loopback;
                traffic.count(Count::TcpPassiveOpens);
                traffic.segments(self.wire(&child), HANDSHAKE, 0);
                let connects = {
                    let mut state = self.state.lock();
                    let connects = matches!(state.phase, Phase::Connecting(_));
                    if connects {
                        state.phase = Phase::Connected(Link {
                            peer: Arc::downgrade(&child),
                            remote,
                        });
                    }
                    connects
                };
                if !connects {
                    // It gave up meanwhile; or the other end has ended it already, to which this
                    // means nothing.
                    child.reset();
                }
                let timer = self.timer.lock().take();
                drop(timer);
                match outcome {
                    Outcome::Deferred => child.limit_deferring(defer),
                    _ => listener.common.tell(Ready::IN | Ready::RDNORM, Band::In),
                }
                self.common.subscribers.tell(Band::Out);
            }
            Outcome::Waits => {
                let traffic = &self.common.stack.loopback;
                traffic.count(Count::TcpListenOverflows);
                traffic.count(Count::TcpListenDrops);
                child.leave();
            }
            Outcome::Refused => {
                child.leave();
                self.refuse();
            }
        }
    }

    /// Nobody listens there, or not any more.
    pub(super) fn refuse(&self) {
        let traffic = &self.common.stack.loopback;
        traffic.count(Count::TcpOutRsts);
        traffic.segments(self.domain, REFUSAL, 0);
        self.fail(Errno::ECONNREFUSED);
    }

    /// The attempt to connect has failed.
    /// Not if it has come to something meanwhile.
    pub(super) fn fail(&self, error: Errno) {
        {
            let mut tables = self.common.stack.inet.tcp.lock();
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Connecting(_)) {
                return;
            }
            self.unlink(&mut tables, &mut state);
            state.phase = Phase::Closed;
            state.error = Some(error);
            state.shut_write = true;
        }
        self.common.stack.loopback.count(Count::TcpAttemptFails);
        self.inbox.lock().shut = true;
        self.common.tell(Ready::all(), Band::Error);
    }

    /// How a connection that was begun went. EAGAIN as long as that is open.
    pub(super) fn outcome(&self) -> Result<()> {
        self.settle();
        let mut state = self.state.lock();
        match &state.phase {
            Phase::Connecting(_) | Phase::Reaching(_) => Err(Errno::EAGAIN),
            Phase::Connected(_) | Phase::Outside(_) => {
                state.untold = false;
                Ok(())
            }
            _ => {
                state.untold = false;
                Err(state.error.take().unwrap_or(Errno::ECONNABORTED))
            }
        }
    }
}
