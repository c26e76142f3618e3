//! A netlink socket as the system-call layer sees it.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::message::{Request, Requests};
use super::queue::{Datagram, Queue};
use super::reply::{self, Answer, Batch, Manners, NLM_F_ACK};
use super::{Asker, Handler, Plan, plan};
use crate::errno::{Errno, Result};
use crate::fs::sigio::Band;
use crate::kernel::cred::Cap;
use crate::kernel::current;
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::options;
use crate::net::socket::{Common, Connect, Extra, Info, Kind, Name, Outgoing, Received, Socket};

/// sizeof(struct sockaddr_nl).
const NAME_LEN: usize = 12;
/// MAX_LINKS.
const PROTOCOLS: i32 = 32;
/// Groups that a protocol has at most.
const GROUPS: u32 = 64;
/// Least and greatest size of a part of a dump, bytes: Linux's. In between it is the largest room
/// that a receive gave.
const PART: std::ops::RangeInclusive<usize> = 3776..=32_448;
const NLM_F_REQUEST: u16 = 1;
/// The first type that is a protocol's.
const NLMSG_MIN_TYPE: u16 = 16;
const NETLINK_BROADCAST_ERROR: i32 = 4;
const NETLINK_LISTEN_ALL_NSID: i32 = 8;

/// A table that is being read.
struct Dump {
    /// The request.
    raw: Vec<u8>,
    handler: Handler,
    /// The key to go on at.
    from: u64,
    manners: Manners,
    /// What [`Stack::generation`] was when a part was made last.
    generation: u64,
}

#[derive(Default)]
struct State {
    port: Option<u32>,
    /// Bits of multicast groups.
    groups: u64,
    /// Where messages without an address go: 0 is the kernel.
    peer: (u32, u32),
    queue: Queue,
    dump: Option<Dump>,
    /// A dump is running. It may be out of `dump` while a part of it is made.
    dumping: bool,
    part: usize,
    manners: Manners,
    packet_info: bool,
    broadcast_error: bool,
    all_nsid: bool,
}

/// See the module documentation.
pub struct Netlink {
    this: Weak<Netlink>,
    common: Common,
    state: Mutex<State>,
}

/// socket(2). ESOCKTNOSUPPORT, EPROTONOSUPPORT.
pub fn make(t: &Task, kind: Kind, protocol: i32) -> Result<Arc<dyn Socket>> {
    if !matches!(kind, Kind::Raw | Kind::Datagram) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    match protocol {
        libc::NETLINK_ROUTE
        | libc::NETLINK_SOCK_DIAG
        | libc::NETLINK_KOBJECT_UEVENT
        | libc::NETLINK_GENERIC => {}
        _ => return Err(Errno::EPROTONOSUPPORT),
    }
    debug_assert!((0..PROTOCOLS).contains(&protocol));
    Ok(Arc::new_cyclic(|this| Netlink {
        this: this.clone(),
        common: Common::new(&t.kernel().net, libc::AF_NETLINK, kind, protocol),
        state: Mutex::default(),
    }))
}

/// Port and groups of struct sockaddr_nl. EINVAL.
fn decode(name: &Name) -> Result<(u32, u32)> {
    let [_, _, _, _, rest @ ..] = name.bytes() else {
        return Err(Errno::EINVAL);
    };
    let (Some(port), Some(groups)) = (
        rest.first_chunk(),
        rest.get(4..).and_then(<[u8]>::first_chunk),
    ) else {
        return Err(Errno::EINVAL);
    };
    if name.family() != Some(libc::AF_NETLINK) {
        return Err(Errno::EINVAL);
    }
    Ok((u32::from_ne_bytes(*port), u32::from_ne_bytes(*groups)))
}

/// The bit of a multicast group; 0 for none.
fn bit(group: u32) -> u64 {
    1u64.checked_shl(group.wrapping_sub(1)).unwrap_or(0)
}

fn encode(port: u32, groups: u32) -> Name {
    let mut raw = [0; NAME_LEN];
    raw[..2].copy_from_slice(&(libc::AF_NETLINK as u16).to_ne_bytes());
    raw[4..8].copy_from_slice(&port.to_ne_bytes());
    raw[8..].copy_from_slice(&groups.to_ne_bytes());
    Name::new(&raw).unwrap_or(Name::EMPTY)
}

impl Netlink {
    /// The netlink socket that a socket is. None: of another family.
    pub fn of(socket: &dyn Socket) -> Option<&Netlink> {
        socket.as_any().downcast_ref()
    }

    /// Port id (0: none yet), the first 32 groups, and whether a dump is running.
    pub fn facts(&self) -> (u32, u32, bool) {
        let state = self.state.lock();
        (state.port.unwrap_or(0), state.groups as u32, state.dumping)
    }

    /// The port id, given out now if there was none.
    fn port(&self, t: &Task) -> Result<u32> {
        if let Some(port) = self.state.lock().port {
            return Ok(port);
        }
        let protocol = self.common.protocol;
        let stack = &self.common.stack;
        let mut ports = stack.netlink_ports.lock();
        let mut state = self.state.lock();
        if let Some(port) = state.port {
            return Ok(port);
        }
        let port = ports.claim_any(protocol, t.pid(), &self.this)?;
        state.port = Some(port);
        Ok(port)
    }

    /// Puts a datagram in the queue. One without room is lost, and the reader told.
    fn push(&self, datagram: Datagram) {
        let room = self.common.options.lock().receive_buffer;
        let pool = &self.common.stack.pool;
        self.state.lock().queue.push(datagram, room, pool);
        self.common.tell(Ready::IN | Ready::RDNORM, Band::In);
    }

    /// Puts a message of the kernel's to this socket in the queue.
    fn reply(&self, data: Vec<u8>) {
        self.push(Datagram {
            from: 0,
            group: 0,
            data,
        });
    }

    /// Puts a message to a group in the queue, if this socket is in that group and is
    /// neither the sender nor `except`.
    pub(super) fn hear(&self, from: u32, group: u32, except: u32, data: &[u8]) {
        {
            let state = self.state.lock();
            // Linux's kernel and a socket without a port both are port 0: those are not told.
            let port = state.port.unwrap_or(0);
            let excluded = port == from || port == except;
            if state.groups & bit(group) == 0 || excluded {
                return;
            }
        }
        self.push(Datagram {
            from,
            group,
            data: data.to_vec(),
        });
    }

    /// Answers what the guest sent to the kernel.
    fn ask(&self, t: &Task, data: &[u8], port: u32) {
        for request in Requests(data) {
            let manners = self.state.lock().manners;
            let asker = Asker {
                task: t,
                stack: &self.common.stack,
                port,
                manners,
            };
            let Some(result) = self.answer(&asker, &request, port) else {
                continue;
            };
            if result.is_err() || request.header.flags & NLM_F_ACK != 0 {
                self.reply(reply::ack(&request, port, result, manners));
            }
        }
    }

    /// None: a dump began, which has its own end.
    fn answer(&self, asker: &Asker<'_>, request: &Request<'_>, port: u32) -> Option<Answer> {
        let header = request.header;
        if header.flags & NLM_F_REQUEST == 0 || header.kind < NLMSG_MIN_TYPE {
            return Some(Ok(()));
        }
        match plan(self.common.protocol, asker, request) {
            Ok(Plan::Nothing) => Some(Ok(())),
            Ok(Plan::Once(handler)) => {
                let mut batch = Batch::single(request, port);
                let result = handler(asker, request, &mut batch);
                let (messages, _) = batch.finish();
                if result.is_ok() && !messages.is_empty() {
                    self.reply(messages);
                }
                Some(result)
            }
            Ok(Plan::Dump(handler)) => {
                {
                    let mut state = self.state.lock();
                    if state.dumping {
                        return Some(Err(Errno::EBUSY.into()));
                    }
                    state.dumping = true;
                    state.dump = Some(Dump {
                        raw: request.raw.to_vec(),
                        handler,
                        from: 0,
                        generation: asker.stack.generation(),
                        manners: asker.manners,
                    });
                }
                self.dump(asker.task);
                None
            }
            Err(refused) => Some(Err(refused)),
        }
    }

    /// Makes the next part of the running dump; tables are read without this socket's lock.
    fn dump(&self, t: &Task) {
        let (dump, room, port) = {
            let mut state = self.state.lock();
            let room = state.part.clamp(*PART.start(), *PART.end());
            (state.dump.take(), room, state.port.unwrap_or(0))
        };
        let Some(mut dump) = dump else {
            return;
        };
        let Some(request) = Request::parse(&dump.raw) else {
            self.state.lock().dumping = false;
            return;
        };
        let asker = Asker {
            task: t,
            stack: &self.common.stack,
            port,
            manners: dump.manners,
        };
        let mut batch = Batch::part(&request, port, dump.from, room);
        let now = self.common.stack.generation();
        if self.common.protocol == libc::NETLINK_ROUTE && now != dump.generation {
            batch.interrupted();
            dump.generation = now;
        }
        let result = (dump.handler)(&asker, &request, &mut batch);
        let done = batch.done(result, dump.manners);
        let (messages, next) = batch.finish();
        let sends = result.is_ok() && !messages.is_empty();
        match next {
            Some(next) if sends => {
                dump.from = next;
                self.state.lock().dump = Some(dump);
                self.reply(messages);
            }
            _ => {
                // The end first: nothing that is queued may be taken for more to come.
                self.state.lock().dumping = false;
                if sends {
                    self.reply(messages);
                }
                self.reply(done);
            }
        }
    }

    fn set_membership(&self, group: i32, member: bool) -> Result<()> {
        let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
        if group == 0 || group > GROUPS {
            return Err(Errno::EINVAL);
        }
        self.set_groups(|groups| {
            if member {
                groups | bit(group)
            } else {
                groups & !bit(group)
            }
        });
        Ok(())
    }

    /// Changes what groups this socket is in.
    fn set_groups(&self, change: impl FnOnce(u64) -> u64) {
        let mut ports = self.common.stack.netlink_ports.lock();
        let mut state = self.state.lock();
        state.groups = change(state.groups);
        if state.groups != 0 {
            ports.listen(self.common.protocol, &self.this);
        } else {
            ports.ignore(self.common.protocol, &self.this);
        }
    }
}

impl Socket for Netlink {
    fn common(&self) -> &Common {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn bind(&self, t: &Task, address: &Name) -> Result<()> {
        let (port, groups) = decode(address)?;
        let bound = self.state.lock().port;
        match bound {
            Some(own) if own != port && port != 0 => return Err(Errno::EINVAL),
            Some(own) if own != port => return Err(Errno::EINVAL),
            Some(_) => {}
            None if port == 0 => {
                self.port(t)?;
            }
            None => {
                let mut ports = self.common.stack.netlink_ports.lock();
                ports.claim(self.common.protocol, port, self.this.clone())?;
                self.state.lock().port = Some(port);
            }
        }
        self.set_groups(|all| all & !u64::from(u32::MAX) | u64::from(groups));
        Ok(())
    }

    fn connect(&self, t: &Task, address: &Name) -> Result<Connect> {
        if address.family() == Some(libc::AF_UNSPEC) {
            self.state.lock().peer = (0, 0);
            return Ok(Connect::Done);
        }
        let peer = decode(address)?;
        if peer != (0, 0) && !t.has_cap(Cap::NetAdmin) {
            return Err(Errno::EPERM);
        }
        self.port(t)?;
        self.state.lock().peer = peer;
        Ok(Connect::Done)
    }

    fn send(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize> {
        if out.flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let len = src.remaining();
        if len == 0 {
            return Err(Errno::ENODATA);
        }
        let task = current::task().ok_or(Errno::EINVAL)?;
        let (peer, groups) = match &out.to {
            Some(to) => decode(to)?,
            None => self.state.lock().peer,
        };
        if (peer, groups) != (0, 0) && out.to.is_some() && !task.has_cap(Cap::NetAdmin) {
            return Err(Errno::EPERM);
        }
        let port = self.port(&task)?;
        if len > self.common.options.lock().send_buffer.saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        let mut data = vec![0; len];
        if src.take(&mut data)? < len {
            return Err(Errno::EFAULT);
        }
        // The lowest of the groups, and then the one it is addressed to.
        if groups != 0 {
            let group = groups.trailing_zeros() + 1;
            let stack = &self.common.stack;
            super::tell(stack, self.common.protocol, group, port, peer, &data);
        }
        if peer == 0 {
            self.ask(&task, &data, port);
        } else {
            let ports = self.common.stack.netlink_ports.lock();
            let target = ports.find(self.common.protocol, peer);
            drop(ports);
            target.ok_or(Errno::ECONNREFUSED)?.push(Datagram {
                from: port,
                group: 0,
                data,
            });
        }
        Ok(len)
    }

    fn receive(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
        if flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let room = dst.remaining();
        let peek = flags & libc::MSG_PEEK != 0;
        let (datagram, more, packet_info) = {
            let mut state = self.state.lock();
            if let Some(error) = state.queue.error.take() {
                return Err(error);
            }
            state.part = state.part.max(room);
            let taken = if peek {
                state.queue.front().cloned()
            } else {
                state.queue.pop(&self.common.stack.pool)
            };
            let datagram = taken.ok_or(Errno::EAGAIN)?;
            let more = state.dump.is_some() && state.queue.is_empty();
            (datagram, more, state.packet_info)
        };
        let Datagram { from, group, data } = datagram;
        if more && let Some(task) = current::task() {
            self.dump(&task);
        }
        let n = data.len().min(room);
        let count = if n == 0 { 0 } else { dst.put(&data[..n])? };
        let mut got = Received {
            count,
            full: data.len(),
            from: Some(encode(from, bit(group) as u32)),
            ..Received::default()
        };
        if packet_info {
            // struct nl_pktinfo: the group.
            got.extra.push(Extra {
                level: libc::SOL_NETLINK,
                kind: libc::NETLINK_PKTINFO,
                data: group.to_ne_bytes().to_vec(),
            });
        }
        Ok(got)
    }

    fn shutdown(&self, _read: bool, _write: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn local_name(&self) -> Result<Name> {
        let (port, groups, _) = self.facts();
        Ok(encode(port, groups))
    }

    fn peer_name(&self) -> Result<Name> {
        let (port, groups) = self.state.lock().peer;
        Ok(encode(port, groups))
    }

    fn ready(&self) -> Ready {
        let state = self.state.lock();
        let mut ready = Ready::OUT | Ready::WRNORM | Ready::WRBAND;
        if !state.queue.is_empty() {
            ready |= Ready::IN | Ready::RDNORM;
        }
        if state.queue.error.is_some() {
            ready |= Ready::ERR;
        }
        ready
    }

    fn set_option(&self, t: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        if level == libc::SOL_SOCKET {
            return options::set(&self.common, t, level, name, value);
        }
        if level != libc::SOL_NETLINK {
            return Err(Errno::ENOPROTOOPT);
        }
        let number = options::int(value).unwrap_or(0);
        let on = number != 0;
        if name == NETLINK_LISTEN_ALL_NSID && !t.has_cap(Cap::NetBroadcast) {
            return Err(Errno::EPERM);
        }
        match name {
            libc::NETLINK_ADD_MEMBERSHIP => return self.set_membership(number, true),
            libc::NETLINK_DROP_MEMBERSHIP => return self.set_membership(number, false),
            _ => {}
        }
        let mut state = self.state.lock();
        match name {
            libc::NETLINK_PKTINFO => state.packet_info = on,
            NETLINK_BROADCAST_ERROR => state.broadcast_error = on,
            libc::NETLINK_NO_ENOBUFS => state.queue.no_enobufs = on,
            NETLINK_LISTEN_ALL_NSID => state.all_nsid = on,
            libc::NETLINK_CAP_ACK => state.manners.cap_ack = on,
            libc::NETLINK_EXT_ACK => state.manners.ext_ack = on,
            libc::NETLINK_GET_STRICT_CHK => state.manners.strict = on,
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn option(&self, _t: &Task, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        if level == libc::SOL_SOCKET {
            return options::get(self, level, name);
        }
        if level != libc::SOL_NETLINK {
            return Err(Errno::ENOPROTOOPT);
        }
        let state = self.state.lock();
        let flag = match name {
            libc::NETLINK_LIST_MEMBERSHIPS => return Ok(state.groups.to_ne_bytes().to_vec()),
            libc::NETLINK_PKTINFO => state.packet_info,
            NETLINK_BROADCAST_ERROR => state.broadcast_error,
            libc::NETLINK_NO_ENOBUFS => state.queue.no_enobufs,
            NETLINK_LISTEN_ALL_NSID => state.all_nsid,
            libc::NETLINK_CAP_ACK => state.manners.cap_ack,
            libc::NETLINK_EXT_ACK => state.manners.ext_ack,
            libc::NETLINK_GET_STRICT_CHK => state.manners.strict,
            _ => return Err(Errno::ENOPROTOOPT),
        };
        if room < 4 {
            return Err(Errno::EINVAL);
        }
        Ok(i32::from(flag).to_ne_bytes().to_vec())
    }

    fn take_error(&self) -> Option<Errno> {
        self.state.lock().queue.error.take()
    }

    fn info(&self) -> Info {
        let state = self.state.lock();
        Info {
            receive_queue: u32::try_from(state.queue.cost()).unwrap_or(u32::MAX),
            drops: state.queue.drops,
            ..Info::default()
        }
    }

    fn close(&self) {
        let port = {
            let mut state = self.state.lock();
            state.queue.close(&self.common.stack.pool);
            state.dump = None;
            state.groups = 0;
            state.port
        };
        let mut ports = self.common.stack.netlink_ports.lock();
        ports.ignore(self.common.protocol, &self.this);
        if let Some(port) = port {
            ports.release(self.common.protocol, port, &self.this);
        }
    }
}
