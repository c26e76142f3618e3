//! Listeners: their queue of connections, and accept(2).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use super::{Ending, Listening, Phase, Tcp};
use crate::errno::{Errno, Result};
use crate::fs::sigio::Band;
use crate::kernel::wait::Ready;
use crate::net::inet::address;

impl Tcp {
    /// listen(2). EINVAL if connected, EADDRINUSE.
    pub(super) fn start_listening(&self, backlog: i32) -> Result<()> {
        let backlog = self.common.stack.settings.read().backlog(backlog);
        let backlog = usize::try_from(backlog).unwrap_or(0);
        let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
        if self.state.lock().local.is_none() {
            match self.bind_to(SocketAddr::new(address::any(self.domain), 0)) {
                Err(Errno::EINVAL) | Ok(()) => {}
                Err(e) => return Err(e),
            }
        }
        let mut tables = self.common.stack.inet.tcp.lock();
        let local = {
            let mut state = self.state.lock();
            match &mut state.phase {
                Phase::Listening(listening) => {
                    listening.backlog = backlog;
                    return Ok(());
                }
                Phase::Closed => {}
                _ => return Err(Errno::EINVAL),
            }
            state.local.ok_or(Errno::EINVAL)?
        };
        let scope = self.scope(local.ip());
        if tables.bound.conflict(&this, local.port(), scope) {
            return Err(Errno::EADDRINUSE);
        }
        self.state.lock().phase = Phase::Listening(Listening {
            backlog,
            pending: VecDeque::new(),
            deferred: Vec::new(),
            waiting: VecDeque::new(),
        });
        self.inbox.lock().restart();
        tables.listeners.enter(&this, local.port(), scope, false);
        Ok(())
    }

    /// accept(2): the next connection. EAGAIN, EINVAL if it does not listen.
    pub(super) fn next_connection(&self) -> Result<Arc<Tcp>> {
        match self.next_from_inside() {
            Err(Errno::EAGAIN) => self.next_from_outside(),
            other => other,
        }
    }

    pub(super) fn next_from_inside(&self) -> Result<Arc<Tcp>> {
        let (child, next) = {
            let mut state = self.state.lock();
            let Phase::Listening(listening) = &mut state.phase else {
                return Err(Errno::EINVAL);
            };
            let child = listening.pending.pop_front().ok_or(Errno::EAGAIN)?;
            (child, listening.waiting.pop_front())
        };
        self.let_in(next);
        Ok(child)
    }

    /// There is a place for one that waited.
    fn let_in(&self, next: Option<Weak<Tcp>>) {
        if let Some(client) = next.and_then(|c| c.upgrade())
            && let Some(this) = self.this.upgrade()
        {
            client.retry(&this);
        }
    }

    /// Its listener tells of this connection now, if it did not.
    pub(super) fn admit(&self) {
        let Some(listener) = self.take_deferring() else {
            return;
        };
        if let Phase::Listening(listening) = &mut listener.state.lock().phase
            && let Some(at) = self.place_among(&listening.deferred)
        {
            let child = listening.deferred.remove(at);
            listening.pending.push_back(child);
        }
        listener.common.tell(Ready::IN | Ready::RDNORM, Band::In);
    }

    /// It was reset before its listener told of it.
    pub(super) fn forget_deferred(&self) {
        let Some(listener) = self.take_deferring() else {
            return;
        };
        let forgotten = match &mut listener.state.lock().phase {
            Phase::Listening(listening) => self.place_among(&listening.deferred).map(|at| {
                let child = listening.deferred.remove(at);
                (child, listening.waiting.pop_front())
            }),
            _ => None,
        };
        if let Some((child, next)) = forgotten {
            child.leave();
            listener.let_in(next);
        }
    }

    fn take_deferring(&self) -> Option<Arc<Tcp>> {
        self.inbox.lock().deferring.take()?.upgrade()
    }

    fn place_among(&self, sockets: &[Arc<Tcp>]) -> Option<usize> {
        sockets
            .iter()
            .position(|s| s.common.cookie == self.common.cookie)
    }

    /// Ends a listener: what waits in its queue is reset.
    pub(super) fn stop_listening(&self) {
        let listening = {
            let mut tables = self.common.stack.inet.tcp.lock();
            let mut state = self.state.lock();
            let phase = std::mem::replace(&mut state.phase, Phase::Closed);
            let Phase::Listening(listening) = phase else {
                state.phase = phase;
                return;
            };
            if let Some(local) = state.local {
                tables.listeners.leave(local.port(), self.common.cookie);
            }
            listening
        };
        // Nor does the host's socket any more.
        self.outer.close();
        for child in listening.pending.into_iter().chain(listening.deferred) {
            child.end(Ending::Reset);
        }
        for client in listening.waiting.iter().filter_map(Weak::upgrade) {
            client.refuse();
        }
        self.common.queue.wake_all();
    }
}
