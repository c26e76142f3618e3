//! A unix socket as the system-call layer sees it.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::outside::stand_in;
use super::{Address, Message, Peek, Peer, Rights, Unix, connects};
use crate::errno::{Errno, Result};
use crate::fs::inode::FileType;
use crate::fs::perm::{self, Access};
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::buffer::Piece;
use crate::net::options::{self, SO_PASSPIDFD, SO_PEERPIDFD};
use crate::net::socket::{Common, Connect, Info, Kind, Name, Outgoing, Received, Socket};

/// Type and protocol that AF_UNIX has.
fn check(kind: Kind, protocol: i32) -> Result<Kind> {
    if !matches!(protocol, 0 | libc::AF_UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Ok(match kind {
        // Linux gives a datagram socket for SOCK_RAW.
        Kind::Raw => Kind::Datagram,
        Kind::Other(_) => return Err(Errno::ESOCKTNOSUPPORT),
        kind => kind,
    })
}

/// socket(2). EPROTONOSUPPORT, ESOCKTNOSUPPORT.
pub fn make(t: &Task, kind: Kind, protocol: i32) -> Result<Arc<dyn Socket>> {
    Ok(Unix::new(&t.kernel().net, check(kind, protocol)?))
}

/// socketpair(2). As [`make`].
pub fn make_pair(t: &Task, kind: Kind, protocol: i32) -> Result<[Arc<dyn Socket>; 2]> {
    let kind = check(kind, protocol)?;
    let (a, b) = Unix::pair(&t.kernel().net, kind, &Peer::of(t));
    Ok([a, b])
}

/// Who is at an address.
enum Named {
    Inside(Arc<Unix>),
    /// A socket of the host: a new one that is connected to it.
    Outside(OwnedFd),
}

impl Unix {
    /// The socket that an address names. ECONNREFUSED and what the walk says.
    fn named(&self, t: &Task, to: &Address) -> Result<Named> {
        match to {
            Address::Abstract(name) => {
                let names = self.common.stack.unix_names.lock();
                names.find(self.kind(), name).map(Named::Inside)
            }
            Address::Path(path) => {
                let ctx = Ctx::new(&t.fs(), t.creds());
                let place = ctx.lookup(&Base::Cwd, path, WalkFlags::FOLLOW)?;
                perm::check(place.inode(), &ctx.creds, Access::WRITE)?;
                if place.inode().kind() != FileType::Socket {
                    return Err(Errno::ECONNREFUSED);
                }
                match Unix::at_inode(&**place.inode()) {
                    Ok(socket) => Ok(Named::Inside(socket)),
                    Err(_) => {
                        self.check_connects()?;
                        let fd = place.inode().connect_socket(self.socket_kind())?;
                        Ok(Named::Outside(fd))
                    }
                }
            }
        }
    }

    fn send_bytes(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize> {
        if out.to.is_some() {
            let connected = self.peer_address().is_ok();
            return Err(if connected {
                Errno::EISCONN
            } else {
                Errno::EOPNOTSUPP
            });
        }
        if let Some(link) = self.link.get() {
            return self.send_outside(link, src, out);
        }
        if src.remaining() == 0 && out.flags & libc::MSG_OOB == 0 {
            // Nothing to send: only whether one could.
            return self.packet_target(None).map(|_| 0);
        }
        if out.flags & libc::MSG_OOB != 0 {
            self.send_urgent(src, out)
        } else {
            self.send_stream(src, out)
        }
    }

    fn send_message(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize> {
        let to = out.target.clone();
        let to = to.and_then(|s| Unix::of(&*s).and_then(|u| u.this.upgrade()));
        let target = self.packet_target(to)?;
        let len = src.remaining();
        self.check_packet_len(len)?;
        // The bytes stay in `src` until they are sent: the call may be tried again.
        let data = Piece::look(&self.common.stack.pool, src)?;
        if data.len() < len {
            return Err(Errno::EFAULT);
        }
        let mut message = Some(Message {
            data,
            urgent: false,
            from: self.address(),
            creds: out.creds,
            process: target.sender(out.creds),
            rights: std::mem::take(&mut out.rights),
        });
        let sent = self.send_packet(&target, &mut message);
        out.rights = message.map_or_else(Rights::default, |m| m.rights);
        sent?;
        src.skip(len);
        Ok(len)
    }
}

impl Socket for Unix {
    fn common(&self) -> &Common {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn bind(&self, t: &Task, address: &Name) -> Result<()> {
        match Address::decode(address.bytes())? {
            None => self.bind_abstract(None),
            Some(Address::Abstract(name)) => self.bind_abstract(Some(&name)),
            Some(Address::Path(path)) => {
                if self.address().is_some() {
                    return Err(Errno::EINVAL);
                }
                let ctx = Ctx::new(&t.fs(), t.creds());
                let made = ctx.make_socket(&Base::Cwd, &path, self.socket_kind(), 0o777);
                let (place, door) = made.map_err(|e| match e {
                    Errno::EEXIST => Errno::EADDRINUSE,
                    e => e,
                })?;
                let door = door.map(|fd| self.door_of(fd)).transpose()?;
                self.bind_inode(path, place.inode(), door)
            }
        }
    }

    fn listen(&self, t: &Task, backlog: i32) -> Result<()> {
        self.start_listening(backlog, Peer::of(t))
    }

    fn accept(&self) -> Result<Arc<dyn Socket>> {
        Ok(self.next_connection()?)
    }

    fn connect(&self, t: &Task, address: &Name) -> Result<Connect> {
        if address.family() == Some(libc::AF_UNSPEC) {
            self.disconnect()?;
            return Ok(Connect::Done);
        }
        let to = Address::decode(address.bytes())?.ok_or(Errno::EINVAL)?;
        let target = match self.named(t, &to)? {
            Named::Inside(target) => target,
            Named::Outside(fd) => {
                self.connect_outside(fd, to)?;
                return Ok(Connect::Done);
            }
        };
        let own = Peer::of(t);
        match self.connect_to(&target, &own) {
            Err(Errno::EAGAIN) => {
                let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
                Ok(Connect::Later {
                    on: target.clone(),
                    attempt: Box::new(move || this.connect_to(&target, &own)),
                    otherwise: Errno::EAGAIN,
                })
            }
            other => other.map(|()| Connect::Done),
        }
    }

    fn find(&self, t: &Task, address: &Name) -> Result<Option<Arc<dyn Socket>>> {
        match Address::decode(address.bytes())? {
            Some(to) if self.kind() == Kind::Datagram => Ok(Some(match self.named(t, &to)? {
                Named::Inside(target) => target,
                Named::Outside(fd) => stand_in(&self.common.stack, fd)?,
            })),
            _ => Ok(None),
        }
    }

    fn send(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize> {
        let sent = if self.kind() == Kind::Stream {
            self.send_bytes(src, out)
        } else if out.flags & libc::MSG_OOB != 0 {
            Err(Errno::EOPNOTSUPP)
        } else {
            self.send_message(src, out)
        };
        if sent == Err(Errno::EAGAIN) {
            self.common.lacks_room.store(true, Ordering::Release);
        }
        sent
    }

    fn receive(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
        if flags & libc::MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        if let Some(link) = self.link.get() {
            return self.receive_outside(link, dst, flags);
        }
        let peek = if flags & libc::MSG_PEEK != 0 {
            Peek::Yes
        } else {
            Peek::No
        };
        if flags & libc::MSG_OOB == 0 {
            match (self.take(dst, peek), self.door.get()) {
                (Err(Errno::EAGAIN), Some(door)) if self.kind() == Kind::Datagram => {
                    self.receive_outside(door, dst, flags)
                }
                (taken, _) => taken,
            }
        } else if self.kind() == Kind::Stream {
            self.take_urgent(dst, peek)
        } else {
            Err(Errno::EOPNOTSUPP)
        }
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        self.shut(read, write);
        Ok(())
    }

    fn local_name(&self) -> Result<Name> {
        Ok(Address::name(self.address().as_ref()))
    }

    fn peer_name(&self) -> Result<Name> {
        Ok(Address::name(self.peer_address()?.as_ref()))
    }

    fn ready(&self) -> Ready {
        self.readiness()
    }

    fn set_option(&self, t: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        if level != libc::SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        match name {
            SO_PASSPIDFD => {
                let on = options::int(value)? != 0;
                self.pass_process.store(on, Ordering::Relaxed);
                Ok(())
            }
            libc::SO_REUSEPORT if options::int(value)? != 0 => Err(Errno::EOPNOTSUPP),
            _ => options::set(&self.common, t, level, name, value),
        }
    }

    fn option(&self, t: &Task, level: i32, name: i32, _room: usize) -> Result<Vec<u8>> {
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_PEERCRED) => Ok(self.peer_creds().encode().to_vec()),
            (libc::SOL_SOCKET, libc::SO_PEERGROUPS) => {
                let groups = self.peer_process()?.groups;
                Ok(groups.iter().flat_map(|g| g.to_ne_bytes()).collect())
            }
            (libc::SOL_SOCKET, SO_PEERPIDFD) => {
                let fd = self.peer_process()?.descriptor(t)?;
                Ok(fd.to_ne_bytes().to_vec())
            }
            (libc::SOL_SOCKET, SO_PASSPIDFD) => {
                Ok(i32::from(self.passes_process()).to_ne_bytes().to_vec())
            }
            (libc::SOL_SOCKET, _) => options::get(self, level, name),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    fn is_listening(&self) -> bool {
        self.state.lock().listening.is_some()
    }

    fn ioctl(&self, t: &Task, cmd: u32, arg: u64) -> Result<u64> {
        const FIONREAD: u32 = 0x541B;
        const TIOCOUTQ: u32 = 0x5411;
        const SIOCATMARK: u32 = 0x8905;
        let n = match cmd {
            SIOCATMARK if self.kind() == Kind::Stream => usize::from(self.at_mark()),
            FIONREAD if self.is_listening() => return Err(Errno::EINVAL),
            FIONREAD => match (self.link.get(), self.readable_bytes(), self.door.get()) {
                (Some(link), _, _) => link.unread()?,
                (None, 0, Some(door)) => door.unread()?,
                (None, n, _) => n,
            },
            TIOCOUTQ => self.unread_bytes(),
            _ => return Err(Errno::ENOTTY),
        };
        t.mm()
            .write_obj(arg, &i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn info(&self) -> Info {
        const ESTABLISHED: u8 = 1;
        const CLOSE: u8 = 7;
        const LISTEN: u8 = 10;
        let (listening, connected) = {
            let state = self.state.lock();
            let listening = state.listening.as_ref();
            (
                listening.map(|l| (l.pending.len() as u32, l.backlog as u32)),
                (state.peer.is_some() || self.link.get().is_some()) && connects(self.kind()),
            )
        };
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (receive_queue, send_queue) =
            listening.unwrap_or_else(|| (clamp(self.readable_bytes()), clamp(self.unread_bytes())));
        Info {
            local: self.address().map(|a| Address::name(Some(&a))),
            peer: None,
            state: match (listening, connected) {
                (Some(_), _) => LISTEN,
                (None, true) => ESTABLISHED,
                (None, false) => CLOSE,
            },
            receive_queue,
            send_queue,
            drops: 0,
        }
    }

    fn close(&self) {
        self.end();
    }
}
