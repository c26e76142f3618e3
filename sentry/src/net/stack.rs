//! What the sockets of a network namespace share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::buffer::Pool;
use super::host::Host;
use super::inet::{Settings, Tables};
use super::interfaces::{Interfaces, LOOPBACK};
use super::netlink::{self, Cause, Ports};
use super::outside::{Domain, HostSocket, Options, Outside, Transport, View};
use super::socket::Socket;
use super::traffic::{Counters, Traffic};
use super::unix::address::Names;
use crate::errno::{Errno, Result};
use crate::executor::Reactor;

/// How old a look at the outside may be.
const FRESH: Duration = Duration::from_millis(50);

/// See the module documentation. A sandbox has one so far; nothing here is global, so that
/// containers of one sandbox can have their own.
#[derive(Default)]
pub struct Stack {
    /// Links, addresses, routes and neighbours; changed by [`Stack::change`].
    pub interfaces: RwLock<Interfaces>,
    /// Held while they change, so that changes are told in their order.
    changing: Mutex<()>,
    /// How often they did.
    generation: AtomicU64,
    /// What the host counts for its interfaces, by index.
    outside_counters: RwLock<BTreeMap<u32, Counters>>,
    looked: Mutex<Looked>,
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
    /// What went over loopback, and what happened to sockets.
    pub loopback: Traffic,
    way_out: OnceLock<WayOut>,
    /// For what sockets do after a while; None in tests of sockets alone.
    pub(super) reactor: Option<Arc<Reactor>>,
    /// Sockets with an open file, by inode number.
    sockets: Mutex<BTreeMap<u64, Weak<dyn Socket>>>,
}

/// Looks at the outside, which several may take at once: each has a number, and what was begun
/// earlier does not win over what was begun later.
#[derive(Default)]
struct Looked {
    begun: u64,
    /// The latest whose result is known.
    known: u64,
    /// When the last one began.
    at: Option<Instant>,
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

    /// The same, with timers.
    pub fn with_timers(reactor: &Arc<Reactor>) -> Arc<Stack> {
        Arc::new(Stack {
            reactor: Some(reactor.clone()),
            ..Stack::default()
        })
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

    /// Changes the interfaces and tells those who listen. Nothing changes where `change` fails.
    pub fn change<E>(
        &self,
        cause: Cause,
        change: impl FnOnce(&mut Interfaces) -> Result<(), E>,
    ) -> Result<(), E> {
        let _order = self.changing.lock();
        let before = self.interfaces.read().clone();
        let mut after = before.clone();
        change(&mut after)?;
        if after != before {
            *self.interfaces.write() = after.clone();
            self.generation.fetch_add(1, Ordering::Relaxed);
            netlink::tell_changes(self, &before, &after, cause);
        }
        Ok(())
    }

    /// Whether there is no IPv6, as ipv6/conf/NAME/disable_ipv6 has it. `which`: all, default, lo.
    pub fn ipv6_off(&self, which: usize) -> i64 {
        if !self.has_outside() {
            return self.settings.read().ipv6_off[which];
        }
        // As it is in the container's network.
        let interfaces = self.interfaces.read();
        let mut own = interfaces.addresses.iter();
        i64::from(!own.any(|a| a.link == LOOPBACK && a.ip.is_ipv6()))
    }

    /// Sets that. EOPNOTSUPP where it is the container's network that would change.
    pub fn set_ipv6_off(&self, which: usize, off: i64) -> Result<()> {
        const ALL: usize = 0;
        const LO: usize = 2;
        if self.has_outside() {
            let same = (self.ipv6_off(which) != 0) == (off != 0);
            return if same { Ok(()) } else { Err(Errno::EOPNOTSUPP) };
        }
        let mut settings = self.settings.write();
        let was = settings.ipv6_off[LO] != 0;
        if which == ALL {
            settings.ipv6_off = [off; 3];
        } else {
            settings.ipv6_off[which] = off;
        }
        let is = settings.ipv6_off[LO] != 0;
        drop(settings);
        if was == is {
            return Ok(());
        }
        self.change(Cause::default(), |now| {
            now.addresses
                .retain(|a| a.link != LOOPBACK || a.ip.is_ipv4());
            if !is {
                let own = Interfaces::default().addresses.into_iter();
                now.addresses.extend(own.filter(|a| a.ip.is_ipv6()));
            }
            Ok(())
        })
    }

    /// Another number whenever the interfaces have changed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Looks at what interfaces there are now, if there is more than loopback.
    pub fn look(&self) {
        self.look_again(Duration::ZERO);
    }

    /// The same for what changes all the time (neighbours, counters), which is not looked at more
    /// often than [`FRESH`].
    pub fn refresh(&self) {
        self.look_again(FRESH);
    }

    fn look_again(&self, age: Duration) {
        let Some(way) = self.way_out() else {
            return;
        };
        let number = {
            let mut looked = self.looked.lock();
            if looked.at.is_some_and(|at| at.elapsed() < age) {
                return;
            }
            looked.at = Some(Instant::now());
            looked.begun += 1;
            looked.begun
        };
        let View {
            interfaces,
            counters,
        } = match way.outside.interfaces() {
            Ok(view) => view,
            Err(e) if age.is_zero() => return log::warn!("the network's interfaces: {e:?}"),
            // Who reads this may do so often.
            Err(_) => return,
        };
        // An error: somebody knows better by now.
        let _: Result<(), ()> = self.change(Cause::default(), |now| {
            let mut looked = self.looked.lock();
            if looked.known > number {
                return Err(());
            }
            looked.known = number;
            *self.outside_counters.write() = counters;
            *now = interfaces;
            Ok(())
        });
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

    /// What went over an interface: what the host says when it was last asked ([`Stack::refresh`]),
    /// and over loopback what stayed inside.
    pub fn counters(&self, link: u32) -> Counters {
        let outside = self.outside_counters.read().get(&link).copied();
        let outside = outside.unwrap_or_default();
        if link == LOOPBACK {
            outside + self.loopback.counters()
        } else {
            outside
        }
    }

    /// TCP connections in TIME_WAIT.
    pub fn lingering(&self) -> usize {
        self.inet.tcp.lock().lingering()
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::net::interfaces::Link;

    /// Says when it is asked, and answers what it is told to.
    struct Slow {
        asked: Sender<Sender<View>>,
    }

    impl Outside for Slow {
        fn open(&self, _: Domain, _: Transport, _: &Options) -> Result<Box<dyn HostSocket>> {
            Err(Errno::ENETDOWN)
        }
        fn interfaces(&self) -> Result<View> {
            let (answer, answered) = channel();
            self.asked.send(answer).map_err(|_| Errno::ENETDOWN)?;
            answered.recv().map_err(|_| Errno::ENETDOWN)
        }
        fn wait_for_change(&self) -> bool {
            false
        }
    }

    fn view(mtu: u32) -> View {
        let mut interfaces = Interfaces::default();
        let link = interfaces.links.first_mut();
        link.map(|link: &mut Link| link.mtu = mtu).unwrap();
        View {
            interfaces,
            counters: BTreeMap::new(),
        }
    }

    #[test]
    fn nobody_waits_for_one_who_looks_and_the_later_look_wins() {
        let stack = Stack::new();
        let (asked, is_asked): (_, Receiver<Sender<View>>) = channel();
        stack.set_outside(Arc::new(Slow { asked }), Reactor::new().unwrap());
        let look = || {
            let stack = stack.clone();
            let looks = std::thread::spawn(move || stack.look());
            let limit = Duration::from_secs(20);
            (looks, is_asked.recv_timeout(limit).unwrap())
        };
        let (first, first_answer) = look();
        let (second, second_answer) = look();
        second_answer.send(view(2000)).unwrap();
        second.join().unwrap();
        assert_eq!(stack.interfaces.read().links[0].mtu, 2000);
        first_answer.send(view(1000)).unwrap();
        first.join().unwrap();
        assert_eq!(stack.interfaces.read().links[0].mtu, 2000);
    }
}
