//! Unix sockets of the host (`--host-uds`), made by the Gofer.
//!
//! A connection to the host has a [`Host`] in `Unix::link`, and so has what stands for a datagram
//! socket of the host that guests send to. A guest's own socket that the host can connect or send to
//! has one in `Unix::door`, beside its inbox or its queue of connections.
//!
//! Only bytes pass. Open files of the guest are refused (EPERM); what the host sends along is not
//! received: there is never room for control data, so the host's kernel closes it. The host sees the
//! Gofer's credentials, the guest those of nobody. Of addresses the guest sees those it gave itself.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use nix::sys::socket::MsgFlags;
use rustix::net::SocketFlags;

use super::{Address, Message, Ucred, Unix, connects};
use crate::errno::{Errno, Result};
use crate::fs::inode::SocketKind;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::host::Host;
use crate::net::outside::HostSocket;
use crate::net::socket::{Kind, Outgoing, Received, Socket};
use crate::net::stack::Stack;

/// Longest packet that is received.
const MAX_PACKET: usize = 1 << 20;

/// A socket that somebody has connected or bound already.
struct Given(Arc<OwnedFd>);

impl HostSocket for Given {
    fn fd(&self) -> &Arc<OwnedFd> {
        &self.0
    }
}

/// `guest` is told what happens to it.
fn host(stack: &Stack, fd: OwnedFd, guest: Weak<dyn Socket>) -> Result<Host> {
    let reactor = stack.reactor.as_ref().ok_or(Errno::ECONNREFUSED)?;
    Host::new(Box::new(Given(Arc::new(fd))), reactor, guest)
}

/// What stands for a datagram socket of the host, to which `fd` is connected.
pub(super) fn stand_in(stack: &Arc<Stack>, fd: OwnedFd) -> Result<Arc<Unix>> {
    let other = Unix::new(stack, Kind::Datagram);
    let guest: Weak<dyn Socket> = other.this.clone();
    let _ = other.link.set(host(stack, fd, guest)?);
    Ok(other)
}

/// A packet, whole or not at all.
pub(super) fn send_packet(link: &Host, message: &Message) -> Result<()> {
    if !message.rights.is_empty() {
        return Err(Errno::EPERM);
    }
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let fd = link.socket().fd().as_raw_fd();
    nix::sys::socket::send(fd, message.data.bytes(), flags)?;
    Ok(())
}

fn receive_packet(from: &Host, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
    let mut data = vec![0; dst.remaining().min(MAX_PACKET)];
    let peek = MsgFlags::from_bits_truncate(flags & libc::MSG_PEEK);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_TRUNC | peek;
    let fd = from.socket().fd().as_raw_fd();
    let full = nix::sys::socket::recv(fd, &mut data, flags)?;
    let n = full.min(data.len());
    Ok(Received {
        count: if n == 0 { 0 } else { dst.put(&data[..n])? },
        full,
        creds: Ucred::NOBODY,
        ..Received::default()
    })
}

impl Unix {
    /// As the Gofer is asked for it.
    pub(super) fn socket_kind(&self) -> SocketKind {
        match self.kind() {
            Kind::Datagram => SocketKind::Datagram,
            Kind::SeqPacket => SocketKind::SeqPacket,
            _ => SocketKind::Stream,
        }
    }

    /// Whether connect(2) is for this socket. EINVAL, EISCONN.
    pub(super) fn check_connects(&self) -> Result<()> {
        let state = self.state.lock();
        if !connects(self.kind()) {
            return Ok(());
        }
        if state.listening.is_some() {
            return Err(Errno::EINVAL);
        }
        if state.connected {
            return Err(Errno::EISCONN);
        }
        Ok(())
    }

    /// Connects to the socket of the host at `to`, to which `fd` is connected.
    pub(super) fn connect_outside(&self, fd: OwnedFd, to: Address) -> Result<()> {
        let stack = &self.common.stack;
        let host = host(stack, fd, self.this.clone())?;
        let other = match connects(self.kind()) {
            true => {
                self.link.set(host).map_err(|_| Errno::EISCONN)?;
                None
            }
            false => {
                let other = Unix::new(stack, Kind::Datagram);
                let _ = other.link.set(host);
                Some(other)
            }
        };
        {
            let mut state = self.state.lock();
            state.peer = other.as_ref().map(Arc::downgrade);
            state.stand_in = other;
            state.peer_address = Some(to);
            state.peer_process = connects(self.kind()).then(|| Ucred::NOBODY.into());
            state.connected = true;
        }
        self.common.queue.wake(Ready::OUT | Ready::WRNORM);
        Ok(())
    }

    /// By what the host connects, or sends, to this socket: `fd` is bound to its name.
    pub(super) fn door_of(&self, fd: OwnedFd) -> Result<Host> {
        host(&self.common.stack, fd, self.this.clone())
    }

    /// The next connection from the host. EAGAIN.
    pub(super) fn accept_outside(&self, door: &Host) -> Result<Arc<Unix>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = || rustix::net::accept_with(door.socket().fd(), flags);
        let fd = rustix::io::retry_on_intr(accept)?;
        let child = Unix::new(&self.common.stack, self.kind());
        let guest: Weak<dyn Socket> = child.this.clone();
        let _ = child.link.set(host(&self.common.stack, fd, guest)?);
        {
            let mut state = child.state.lock();
            state.address = self.address();
            state.peer_process = Some(Ucred::NOBODY.into());
            state.connected = true;
        }
        child.common.options.lock().pass_creds = self.common.options.lock().pass_creds;
        Ok(child)
    }

    /// Sends bytes of a stream to the host.
    pub(super) fn send_outside(
        &self,
        link: &Host,
        src: &mut Source<'_>,
        out: &Outgoing,
    ) -> Result<usize> {
        if !out.rights.is_empty() {
            return Err(Errno::EPERM);
        }
        if src.remaining() == 0 {
            return Ok(0);
        }
        link.send(src, out.flags)
    }

    /// Takes (MSG_PEEK: looks at) what the host has sent.
    pub(super) fn receive_outside(
        &self,
        from: &Host,
        dst: &mut Sink<'_>,
        flags: i32,
    ) -> Result<Received> {
        if self.kind() != Kind::Stream {
            return receive_packet(from, dst, flags);
        }
        let count = match dst.remaining() {
            0 => 0,
            // MSG_TRUNC means nothing to such a stream.
            _ => from.receive(dst, flags & !libc::MSG_TRUNC)?,
        };
        Ok(Received {
            count,
            full: count,
            creds: Ucred::NOBODY,
            ..Received::default()
        })
    }
}
