//! The port space of a protocol: who has which port on which addresses, and the rules when two may
//! have the same (ip(7), socket(7) SO_REUSEADDR and SO_REUSEPORT).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use crate::errno::{Errno, Result};
use crate::kernel::time::MonoTime;
use crate::net::interfaces::LOOPBACK;
use crate::net::outside::Domain;
use crate::net::socket::Common;

/// How long a closed connection keeps its port from those who do not say SO_REUSEADDR, and how many
/// such are kept (/proc/sys/net/ipv4/tcp_max_tw_buckets is larger).
const TIME_WAIT_NS: u64 = 60_000_000_000;
const MAX_TIME_WAIT: usize = 8192;

/// The local addresses a socket answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// None: all of the families below.
    ip: Option<IpAddr>,
    v4: bool,
    v6: bool,
}

impl Scope {
    pub fn new(domain: Domain, ip: IpAddr, v6_only: bool) -> Scope {
        if ip.is_unspecified() {
            Scope {
                ip: None,
                v4: domain == Domain::V4 || !v6_only,
                v6: domain == Domain::V6,
            }
        } else {
            Scope {
                ip: Some(ip),
                v4: ip.is_ipv4(),
                v6: ip.is_ipv6(),
            }
        }
    }

    pub fn covers(&self, ip: IpAddr) -> bool {
        match self.ip {
            Some(own) => own == ip,
            None if ip.is_ipv4() => self.v4,
            None => self.v6,
        }
    }

    fn overlaps(&self, other: &Scope) -> bool {
        let families = (self.v4 && other.v4) || (self.v6 && other.v6);
        families && (self.ip.is_none() || other.ip.is_none() || self.ip == other.ip)
    }

    /// How well it fits `ip`, which it covers: the exact address first, then the same family only.
    pub fn rank(&self, ip: IpAddr) -> u8 {
        u8::from(self.ip.is_some()) << 1 | u8::from(ip.is_ipv4() && !self.v6)
    }
}

/// Ports that may be picked.
#[derive(Clone, Debug)]
pub struct Range {
    pub low: u16,
    pub high: u16,
    /// Ranges that may not, in order and apart.
    pub reserved: Arc<[(u16, u16)]>,
}

impl Range {
    pub fn all() -> Range {
        Range {
            low: 1,
            high: u16::MAX,
            reserved: Arc::new([]),
        }
    }

    fn is_reserved(&self, port: u16) -> bool {
        let after = self.reserved.partition_point(|(low, _)| *low <= port);
        after > 0 && port <= self.reserved[after - 1].1
    }
}

/// A socket that can have a port.
pub trait PortUser: Send + Sync {
    fn common(&self) -> &Common;
    /// Nobody else may have the port then, not even with SO_REUSEADDR.
    fn listens(&self) -> bool;
}

struct User<T> {
    scope: Scope,
    socket: Weak<T>,
    /// The port was picked for it by connect(2).
    picked: bool,
}

struct Waiting {
    port: u16,
    scope: Scope,
    reuse: bool,
    until: MonoTime,
}

/// See the module documentation. Sockets are told apart by their cookie.
pub struct Ports<T> {
    users: BTreeMap<(u16, u64), User<T>>,
    waiting: VecDeque<Waiting>,
    next: u16,
}

impl<T> Default for Ports<T> {
    fn default() -> Self {
        Ports {
            users: BTreeMap::new(),
            waiting: VecDeque::new(),
            next: 0,
        }
    }
}

/// What of a socket decides about conflicts.
#[derive(Clone, Copy)]
struct Claim {
    reuse: bool,
    reuse_port: bool,
    uid: u32,
    device: u32,
}

fn claim(common: &Common) -> Claim {
    let options = common.options.lock();
    Claim {
        reuse: options.reuse_address,
        reuse_port: options.reuse_port,
        uid: common.uid(),
        device: options.device,
    }
}

impl<T: PortUser> Ports<T> {
    fn on(&self, port: u16) -> impl Iterator<Item = &User<T>> {
        self.users.range((port, 0)..=(port, u64::MAX)).map(|e| e.1)
    }

    /// Whether `socket` may not have `port` (or keep it, when it begins to listen).
    pub fn conflict(&self, socket: &T, port: u16, scope: Scope) -> bool {
        let me = claim(socket.common());
        let cookie = socket.common().cookie;
        let taken = self.on(port).any(|user| {
            let Some(other) = user.socket.upgrade() else {
                return false;
            };
            if other.common().cookie == cookie || !user.scope.overlaps(&scope) {
                return false;
            }
            let its = claim(other.common());
            if me.device != 0 && its.device != 0 && me.device != its.device {
                return false;
            }
            let shared = me.reuse && its.reuse && !other.listens();
            let group = me.reuse_port && its.reuse_port && me.uid == its.uid;
            !shared && !group
        });
        let now = MonoTime::now();
        taken
            || self.waiting.iter().any(|w| {
                w.port == port
                    && w.until > now
                    && w.scope.overlaps(&scope)
                    && !(me.reuse && w.reuse)
            })
    }

    /// Takes a port; 0: any free one of `range`. Returns it.
    ///
    /// # Errors
    /// EADDRINUSE.
    pub fn bind(&mut self, socket: &Arc<T>, port: u16, scope: Scope, range: &Range) -> Result<u16> {
        let port = match port {
            0 => self
                .pick(range, |ports, port| {
                    ports.on(port).next().is_none() && !ports.conflict(socket, port, scope)
                })
                .or_else(|| self.pick(range, |ports, p| !ports.conflict(socket, p, scope)))
                .ok_or(Errno::EADDRINUSE)?,
            port if self.conflict(socket, port, scope) => return Err(Errno::EADDRINUSE),
            port => port,
        };
        self.enter(socket, port, scope, false);
        Ok(port)
    }

    /// Picks a port for a connection. `free`: no connection from it to there exists.
    ///
    /// # Errors
    /// EADDRNOTAVAIL.
    pub fn bind_connection(
        &mut self,
        socket: &Arc<T>,
        scope: Scope,
        range: &Range,
        free: impl Fn(u16) -> bool,
    ) -> Result<u16> {
        let port = self
            .pick(range, |ports, port| ports.on(port).next().is_none())
            .or_else(|| {
                self.pick(range, |ports, port| {
                    ports.on(port).all(|u| u.picked) && free(port)
                })
            })
            .ok_or(Errno::EADDRNOTAVAIL)?;
        self.enter(socket, port, scope, true);
        Ok(port)
    }

    fn pick(&mut self, range: &Range, good: impl Fn(&Self, u16) -> bool) -> Option<u16> {
        let (low, high) = (range.low, range.high);
        let count = u32::from(high.saturating_sub(low)) + 1;
        let first = u32::from(self.next);
        let found = (0..count)
            .map(|i| low + ((first + i) % count) as u16)
            .find(|port| !range.is_reserved(*port) && good(self, *port))?;
        self.next = found - low + 1;
        Some(found)
    }

    /// Takes note of a socket that shares a port whatever the rules are (an accepted connection).
    pub fn enter(&mut self, socket: &Arc<T>, port: u16, scope: Scope, picked: bool) {
        let user = User {
            scope,
            socket: Arc::downgrade(socket),
            picked,
        };
        self.users.insert((port, socket.common().cookie), user);
    }

    /// The addresses of a socket become fewer or more (connect(2), disconnect).
    pub fn rescope(&mut self, port: u16, cookie: u64, scope: Scope) {
        if let Some(user) = self.users.get_mut(&(port, cookie)) {
            user.scope = scope;
        }
    }

    pub fn leave(&mut self, port: u16, cookie: u64) {
        self.users.remove(&(port, cookie));
    }

    /// The port of a connection that this side ended: nobody gets it for a while.
    pub fn linger(&mut self, port: u16, scope: Scope, reuse: bool) {
        let now = MonoTime::now();
        while let Some(first) = self.waiting.front() {
            if first.until > now && self.waiting.len() < MAX_TIME_WAIT {
                break;
            }
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting {
            port,
            scope,
            reuse,
            until: now.after_ns(TIME_WAIT_NS),
        });
    }

    /// Connections in TIME_WAIT.
    pub fn lingering(&self) -> usize {
        let now = MonoTime::now();
        self.waiting.iter().filter(|w| w.until > now).count()
    }

    /// Sockets that answer on an address of the sandbox's own, the best last.
    pub fn answering(&self, to: SocketAddr) -> Vec<(u8, Arc<T>)> {
        let mut found: Vec<_> = self
            .on(to.port())
            .filter(|u| u.scope.covers(to.ip()))
            .filter_map(|u| Some((u.scope.rank(to.ip()), u.socket.upgrade()?)))
            .filter(|(_, s)| matches!(s.common().options.lock().device, 0 | LOOPBACK))
            .collect();
        found.sort_by_key(|(rank, _)| *rank);
        found
    }
}
