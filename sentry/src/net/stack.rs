//! What the sockets of a network namespace share.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};

use super::buffer::Pool;
use super::host::Host;
use super::inet::{Settings, Tables};
use super::interfaces::{Interfaces, LOOPBACK};
use super::netlink::Ports;
use super::outside::{Domain, HostSocket, Options, Outside, Transport};
use super::socket::Socket;
use super::traffic::{Counters, Traffic};
use super::unix::address::Names;
use crate::errno::Result;
use crate::executor::Reactor;

/// See the module documentation. A sandbox has one so far; nothing here is global, so that
/// containers of one sandbox can have their own.
#[derive(Default)]
pub struct Stack {
    /// Links, addresses, routes and neighbours.
    pub interfaces: RwLock<Interfaces>,
    /// Abstract names of unix sockets.
    pub(super) unix_names: Mutex<Names>,
    /// Buffers of stream sockets, and the count of what all sockets hold.
    pub pool: Arc<Pool>,
    /// What /proc/sys/net/ipv4 has.
    pub settings: RwLock<Settings>,
    /// Ports of the internet protocols.
    pub(super) inet: Tables,
    /// Port ids of netlink sockets.
    pub(super) netlink_ports: Mutex<Ports>,
    /// What went over loopback.
    pub loopback: Traffic,
    way_out: OnceLock<WayOut>,
    /// Sockets with an open file, by inode number.
    sockets: Mutex<BTreeMap<u64, Weak<dyn Socket>>>,
}

/// Who makes sockets to the outside, and who tells when something happens to them.
pub struct WayOut {
    outside: Arc<dyn Outside>,
    reactor: Arc<Reactor>,
}

impl WayOut {
    /// A socket of the host's behind one of the guest's. As [`Outside::open`].
    pub fn open(
        &self,
        domain: Domain,
        transport: Transport,
        options: &Options,
        guest: Weak<dyn Socket>,
    ) -> Result<Host> {
        self.watch(self.outside.open(domain, transport, options)?, guest)
    }

    /// The same for one that there is already.
    pub fn watch(&self, made: Box<dyn HostSocket>, guest: Weak<dyn Socket>) -> Result<Host> {
        Host::new(made, &self.reactor, guest)
    }
}

impl Stack {
    /// Loopback only, no way out.
    pub fn new() -> Arc<Stack> {
        Arc::default()
    }

    /// The way out of the sandbox; None: there is only loopback.
    pub fn way_out(&self) -> Option<&WayOut> {
        self.way_out.get()
    }

    /// Set once, before the first guest instruction.
    pub fn set_outside(&self, outside: Arc<dyn Outside>, reactor: Arc<Reactor>) {
        if self.way_out.set(WayOut { outside, reactor }).is_err() {
            log::error!("a network stack got a second way out");
        }
    }

    /// Looks at what interfaces there are now, if there is more than loopback.
    pub fn look(&self) {
        match self.way_out().map(|way| way.outside.interfaces()) {
            None => {}
            Some(Ok(interfaces)) => *self.interfaces.write() = interfaces,
            Some(Err(e)) => log::warn!("the network's interfaces: {e:?}"),
        }
    }

    /// Keeps the interfaces up to date until there is nobody to ask. For a thread of its own.
    pub fn keep_looking(&self) {
        while self
            .way_out()
            .is_some_and(|way| way.outside.wait_for_change())
        {
            self.look();
        }
    }

    /// Is there more than loopback?
    pub fn has_outside(&self) -> bool {
        self.way_out.get().is_some()
    }

    /// What went over an interface, as far as the Sentry counts it.
    pub fn counters(&self, link: u32) -> Counters {
        if link == LOOPBACK {
            self.loopback.counters()
        } else {
            Counters::default()
        }
    }

    pub(super) fn enter(&self, ino: u64, socket: &Arc<dyn Socket>) {
        self.sockets.lock().insert(ino, Arc::downgrade(socket));
    }

    pub(super) fn leave(&self, ino: u64) {
        self.sockets.lock().remove(&ino);
    }

    /// All sockets that have an open file, in the order of their inode numbers.
    pub fn sockets(&self) -> Vec<Arc<dyn Socket>> {
        let sockets = self.sockets.lock();
        sockets.values().filter_map(Weak::upgrade).collect()
    }
}
