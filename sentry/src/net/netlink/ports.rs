//! Port ids: the addresses of netlink sockets.

use std::collections::BTreeMap;
use std::sync::Weak;

use super::Netlink;
use crate::errno::{Errno, Result};

/// Automatic ids that are no process's go down from here.
const FIRST_OTHER: i32 = -4097;

/// The ids in use, by protocol.
#[derive(Default)]
pub struct Ports {
    taken: BTreeMap<(i32, u32), Weak<Netlink>>,
    /// How many automatic ids were given out.
    others: u32,
    /// Sockets that are in a multicast group, by protocol.
    listeners: Vec<(i32, Weak<Netlink>)>,
}

impl Ports {
    /// EADDRINUSE.
    pub(super) fn claim(&mut self, protocol: i32, port: u32, socket: Weak<Netlink>) -> Result<()> {
        let key = (protocol, port);
        if self.taken.get(&key).is_some_and(|s| s.strong_count() > 0) {
            return Err(Errno::EADDRINUSE);
        }
        self.taken.insert(key, socket);
        Ok(())
    }

    /// The process's own id if it is free, else another one.
    pub(super) fn claim_any(
        &mut self,
        protocol: i32,
        pid: i32,
        socket: &Weak<Netlink>,
    ) -> Result<u32> {
        let mut port = pid as u32;
        // There are fewer sockets than ids.
        for _ in 0..=self.taken.len() {
            if self.claim(protocol, port, socket.clone()).is_ok() {
                return Ok(port);
            }
            port = FIRST_OTHER.wrapping_sub_unsigned(self.others % (1 << 30)) as u32;
            self.others = self.others.wrapping_add(1);
        }
        Err(Errno::EADDRINUSE)
    }

    pub(super) fn release(&mut self, protocol: i32, port: u32, socket: &Weak<Netlink>) {
        let key = (protocol, port);
        if self.taken.get(&key).is_some_and(|s| s.ptr_eq(socket)) {
            self.taken.remove(&key);
        }
    }

    /// A socket is in a group.
    pub(super) fn listen(&mut self, protocol: i32, socket: &Weak<Netlink>) {
        self.ignore(protocol, socket);
        self.listeners.push((protocol, socket.clone()));
    }

    /// A socket is in no group any more.
    pub(super) fn ignore(&mut self, protocol: i32, socket: &Weak<Netlink>) {
        let is = |l: &(i32, Weak<Netlink>)| l.0 == protocol && l.1.ptr_eq(socket);
        self.listeners.retain(|l| !is(l));
    }

    /// The sockets that are in some group of a protocol.
    pub(super) fn listeners(&self, protocol: i32) -> Vec<std::sync::Arc<Netlink>> {
        let of = self.listeners.iter().filter(|l| l.0 == protocol);
        of.filter_map(|(_, socket)| socket.upgrade()).collect()
    }

    pub(super) fn find(&self, protocol: i32, port: u32) -> Option<std::sync::Arc<Netlink>> {
        self.taken.get(&(protocol, port))?.upgrade()
    }
}
