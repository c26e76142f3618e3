//! A TCP socket as the system-call layer sees it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::connect::Start;
use super::{Ending, Phase, Tcp, info, transfer};
use crate::errno::{Errno, Result};
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::inet::{address, decode_local, has_level, headers, other_option};
use crate::net::options;
use crate::net::socket::{Common, Connect, Info, Name, Outgoing, Received, Socket};

/// Congestion controls that may be asked for: none does anything here.
const CONGESTION: [&[u8]; 2] = [b"cubic", b"reno"];

impl Socket for Tcp {
    fn common(&self) -> &Common {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn bind(&self, t: &Task, address: &Name) -> Result<()> {
        let local = decode_local(t, &self.common, self.domain, self.v6_only(), address)?;
        self.this.upgrade().ok_or(Errno::EINVAL)?.bind_both(local)
    }

    fn listen(&self, _t: &Task, backlog: i32) -> Result<()> {
        self.this
            .upgrade()
            .ok_or(Errno::EINVAL)?
            .listen_both(backlog)
    }

    fn accept(&self) -> Result<Arc<dyn Socket>> {
        Ok(self.next_connection()?)
    }

    fn connect(&self, _t: &Task, to: &Name) -> Result<Connect> {
        match to.family() {
            None => return Err(Errno::EINVAL),
            Some(libc::AF_UNSPEC) => {
                self.disconnect();
                return Ok(Connect::Done);
            }
            Some(_) => {}
        }
        let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
        let otherwise = match self.connect_phase()? {
            Start::Told => return self.outcome().map(|()| Connect::Done),
            Start::Wait => Errno::EALREADY,
            Start::Go => {
                let to = address::decode(self.domain, to)?;
                this.connect_to(to)?;
                Errno::EINPROGRESS
            }
        };
        Ok(Connect::Later {
            on: this.clone(),
            attempt: Box::new(move || this.outcome()),
            otherwise,
        })
    }

    fn send(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize> {
        if let Some(host) = self.outside() {
            return self.send_outside(&host, src, out.flags);
        }
        self.send_bytes(src, out)
    }

    fn receive(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
        if flags & libc::MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        if dst.remaining() == 0 && flags & libc::MSG_OOB == 0 {
            return Ok(Received::default());
        }
        if let Some(host) = self.outside() {
            return self.receive_outside(&host, dst, flags);
        }
        self.receive_bytes(dst, flags)
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        if let Some(host) = self.outside() {
            host.shutdown(read, write)?;
            self.state.lock().shut_write |= write;
            self.common.queue.wake_all();
            return Ok(());
        }
        let phase = match &self.state.lock().phase {
            Phase::Listening(_) => info::LISTEN,
            Phase::Connected(_) => info::ESTABLISHED,
            _ => info::CLOSE,
        };
        if phase == info::LISTEN {
            if read {
                self.stop_listening();
            }
            return Ok(());
        }
        if self.state_number() == info::CLOSE {
            return Err(Errno::ENOTCONN);
        }
        if phase == info::CLOSE {
            // Still connecting: given up.
            self.disconnect();
            return Ok(());
        }
        if read {
            self.inbox.lock().shut = true;
        }
        if write {
            self.finish();
        }
        self.common.queue.wake_all();
        Ok(())
    }

    fn local_name(&self) -> Result<Name> {
        let local = self.state.lock().local;
        Ok(address::local_name(self.domain, local))
    }

    fn peer_name(&self) -> Result<Name> {
        if self.state_number() == info::CLOSE {
            return Err(Errno::ENOTCONN);
        }
        self.settle();
        let state = self.state.lock();
        let remote = match &state.phase {
            Phase::Connected(link) => link.remote,
            Phase::Outside(remote) => *remote,
            _ => return Err(Errno::ENOTCONN),
        };
        Ok(address::encode(self.domain, remote))
    }

    fn ready(&self) -> Ready {
        self.readiness()
    }

    fn set_option(&self, t: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        self.set(t, level, name, value)?;
        if self.common.stack.way_out().is_some() {
            self.outer.set_option(level, name, value);
        }
        Ok(())
    }

    fn option(&self, _t: &Task, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        let of_host = headers::is_of_the_way(level, name)
            || matches!(
                (level, name),
                (libc::IPPROTO_TCP, libc::TCP_INFO | libc::TCP_MAXSEG)
            );
        if of_host && let Some(host) = self.outside() {
            return host.socket().option(level, name, room);
        }
        if has_level(self.domain, level)
            && let Some(told) = headers::get(self, level, name)
        {
            return told;
        }
        match (level, name) {
            (libc::IPPROTO_TCP, libc::TCP_INFO) => Ok(self.tcp_info()),
            (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
                Ok(b"cubic\0\0\0\0\0\0\0\0\0\0\0".to_vec())
            }
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => Ok(self.mss().to_ne_bytes().to_vec()),
            (libc::IPPROTO_TCP | libc::IPPROTO_IP | libc::IPPROTO_IPV6, _)
                if has_level(self.domain, level) =>
            {
                let settings = self.common.stack.settings.read();
                self.values.lock().told(&settings, level, name, room)
            }
            _ => other_option(self, self.domain, level, name),
        }
    }

    fn take_error(&self) -> Option<Errno> {
        self.settle();
        if let Some(host) = self.outside() {
            return self.outside_error(&host);
        }
        self.state.lock().error.take()
    }

    fn is_listening(&self) -> bool {
        self.backlog().is_some()
    }

    fn ioctl(&self, t: &Task, cmd: u32, arg: u64) -> Result<u64> {
        const FIONREAD: u32 = 0x541B;
        const TIOCOUTQ: u32 = 0x5411;
        const SIOCATMARK: u32 = 0x8905;
        let n = match cmd {
            FIONREAD | TIOCOUTQ if self.is_listening() => return Err(Errno::EINVAL),
            FIONREAD if self.outside().is_some() => {
                let host = self.outside().ok_or(Errno::ENOTCONN)?;
                host.unread()?
            }
            FIONREAD => self.readable_bytes(),
            TIOCOUTQ => self.unsent_bytes(),
            SIOCATMARK => usize::from(self.at_mark()),
            _ => return Err(Errno::ENOTTY),
        };
        t.mm()
            .write_obj(arg, &i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn info(&self) -> Info {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let queues = (clamp(self.readable_bytes()), clamp(self.unsent_bytes()));
        let (receive_queue, send_queue) = self.backlog().unwrap_or(queues);
        Info {
            local: self.local_name().ok(),
            peer: self.peer_name().ok(),
            state: self.state_number(),
            receive_queue,
            send_queue,
            drops: 0,
        }
    }

    fn close(&self) {
        self.end(Ending::Orderly);
    }
}

impl Tcp {
    /// An option of level IPPROTO_TCP has changed.
    fn heed(&self, name: i32) {
        let on = self.values.lock().on(libc::IPPROTO_TCP, name);
        match name {
            libc::TCP_CORK => {
                self.corked.store(on, Ordering::Relaxed);
                if !on {
                    self.uncork();
                }
            }
            libc::TCP_NODELAY if on => self.uncork(),
            _ => {}
        }
    }

    fn set(&self, t: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        if !has_level(self.domain, level) {
            return Err(Errno::ENOPROTOOPT);
        }
        if let Some(done) = headers::set(self, t, level, name, value) {
            return done;
        }
        match (level, name) {
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if self.state.lock().local.is_some() => {
                return Err(Errno::EINVAL);
            }
            (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
                let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
                let known = CONGESTION.contains(&&value[..end]);
                return if known { Ok(()) } else { Err(Errno::ENOENT) };
            }
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => {
                let v = options::int(value)?;
                let fits = v == 0 || (88..=32767).contains(&v);
                return if fits { Ok(()) } else { Err(Errno::EINVAL) };
            }
            (libc::IPPROTO_TCP | libc::IPPROTO_IP | libc::IPPROTO_IPV6, _) => {
                self.values.lock().set(level, name, value)?;
                if level == libc::IPPROTO_TCP {
                    self.heed(name);
                }
                return Ok(());
            }
            _ => options::set(&self.common, t, level, name, value)?,
        }
        let o = self.common.options.lock().clone();
        let send = transfer::room(o.send_buffer, o.send_locked);
        self.send_room.store(send, Ordering::Relaxed);
        self.inbox.lock().capacity = transfer::room(o.receive_buffer, o.receive_locked);
        Ok(())
    }
}
