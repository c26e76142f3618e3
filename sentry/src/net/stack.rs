//! What the sockets of a network namespace share.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};

use super::buffer::Pool;
use super::inet::{Settings, Tables};
use super::interfaces::Interfaces;
use super::outside::Outside;
use super::socket::Socket;
use super::unix::address::Names;

/// See the module documentation. A sandbox has one so far; nothing here is global, so that
/// containers of one sandbox can have their own.
#[derive(Default)]
pub struct Stack {
    /// Links, addresses, routes and neighbours.
    pub interfaces: RwLock<Interfaces>,
    /// Abstract names of unix sockets.
    pub(super) unix_names: Mutex<Names>,
    /// Buffers of stream sockets, and the count of what all sockets hold.
    pub pool: Pool,
    /// What /proc/sys/net/ipv4 has.
    pub settings: RwLock<Settings>,
    /// Ports of the internet protocols.
    pub(super) inet: Tables,
    outside: OnceLock<Arc<dyn Outside>>,
    /// Sockets with an open file, by inode number.
    sockets: Mutex<BTreeMap<u64, Weak<dyn Socket>>>,
}

impl Stack {
    /// Loopback only, no way out.
    pub fn new() -> Arc<Stack> {
        Arc::default()
    }

    /// The way out of the sandbox; None: there is only loopback.
    pub fn outside(&self) -> Option<&Arc<dyn Outside>> {
        self.outside.get()
    }

    /// Set once, before the first guest instruction.
    pub fn set_outside(&self, outside: Arc<dyn Outside>) {
        if self.outside.set(outside).is_err() {
            log::error!("a network stack got a second way out");
        }
    }

    /// Looks at what interfaces there are now, if there is more than loopback.
    pub fn look(&self) {
        match self.outside().map(|outside| outside.interfaces()) {
            None => {}
            Some(Ok(interfaces)) => *self.interfaces.write() = interfaces,
            Some(Err(e)) => log::warn!("the network's interfaces: {e:?}"),
        }
    }

    /// Keeps the interfaces up to date until there is nobody to ask. For a thread of its own.
    pub fn keep_looking(&self) {
        while self
            .outside()
            .is_some_and(|outside| outside.wait_for_change())
        {
            self.look();
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
