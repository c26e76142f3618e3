//! The Sentry's end. Calls are rare (none on the way of data) and short, so they take turns on one
//! channel.

use std::{
    io::IoSliceMut,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvFlags, SocketFlags, SocketType};

use super::{
    frame,
    protocol::{Done, Family, Kind, MAX_FRAME, Reply, Request, Step, View},
    server::Channels,
};
use crate::protocol::Errno;

/// The client's ends.
#[derive(Debug)]
pub struct Ends {
    pub requests: OwnedFd,
    pub changes: OwnedFd,
}

/// Connected pairs: the client's and the server's.
pub fn pairs() -> std::io::Result<(Ends, Channels)> {
    let pair = || {
        let (unix, packets) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        rustix::net::socketpair(unix, packets, SocketFlags::CLOEXEC, None)
    };
    let (requests, changes) = (pair()?, pair()?);
    let ends = Ends {
        requests: requests.0,
        changes: changes.0,
    };
    let channels = Channels {
        requests: requests.1,
        changes: changes.1,
    };
    Ok((ends, channels))
}

/// Connection to a network Gofer. When that is gone, or answers with what is no answer, every call
/// from then on fails with `ENETDOWN`; sockets it has made go on.
pub struct Client {
    channel: Mutex<Channel>,
    changes: OwnedFd,
    dead: AtomicBool,
}

struct Channel {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

impl Client {
    pub fn new(ends: Ends) -> Self {
        Self {
            channel: Mutex::new(Channel {
                fd: ends.requests,
                buffer: Vec::new(),
            }),
            changes: ends.changes,
            dead: AtomicBool::new(false),
        }
    }

    /// Makes a socket, which does not block, and does the steps up to the first that fails. The
    /// socket is there even then.
    ///
    /// # Errors
    /// What socket(2) says; `ENETDOWN` without a network Gofer, `E2BIG`.
    pub fn open(
        &self,
        family: Family,
        kind: Kind,
        steps: Vec<Step>,
    ) -> Result<(OwnedFd, Done), Errno> {
        let make = Some((family, kind));
        match self.call(&Request::Socket { make, steps }, None)? {
            (Reply::Socket(done), Some(socket)) => Ok((socket, done)),
            _ => Err(self.broken()),
        }
    }

    /// The steps on a socket that [`Client::open`] gave, or that was accepted from one.
    ///
    /// # Errors
    /// As [`Client::open`]; what a step says is in [`Done`].
    pub fn carry_out(&self, socket: BorrowedFd<'_>, steps: Vec<Step>) -> Result<Done, Errno> {
        let request = Request::Socket { make: None, steps };
        match self.call(&request, Some(socket))? {
            (Reply::Socket(done), None) => Ok(done),
            _ => Err(self.broken()),
        }
    }

    /// What the namespace looks like now.
    pub fn view(&self) -> Result<View, Errno> {
        match self.call(&Request::View, None)? {
            (Reply::View(view), None) => Ok(view),
            _ => Err(self.broken()),
        }
    }

    /// Blocks until the view has changed; false: it never will again. For a thread that then looks.
    pub fn wait_for_change(&self) -> bool {
        let mut byte = [0; 1];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = loop {
            let mut slices = [IoSliceMut::new(&mut byte)];
            let mut control = RecvAncillaryBuffer::default();
            match rustix::net::recvmsg(&self.changes, &mut slices, &mut control, flags) {
                Err(rustix::io::Errno::INTR) => continue,
                other => break other,
            }
        };
        got.is_ok_and(|message| message.bytes > 0)
    }

    /// Whether a call has found the server gone.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    fn broken(&self) -> Errno {
        self.dead.store(true, Ordering::Release);
        Errno(libc::ENETDOWN)
    }

    fn call(
        &self,
        request: &Request,
        socket: Option<BorrowedFd<'_>>,
    ) -> Result<(Reply, Option<OwnedFd>), Errno> {
        let mut channel = self.channel.lock();
        if self.is_dead() {
            return Err(Errno(libc::ENETDOWN));
        }
        if channel.buffer.is_empty() {
            channel.buffer = vec![0; MAX_FRAME];
        }
        let Channel { fd, buffer } = &mut *channel;
        let frame = postcard::to_slice(request, buffer).map_err(|_| Errno(libc::E2BIG))?;
        frame::send(fd.as_fd(), frame, socket).map_err(|_| self.broken())?;
        let received = frame::receive(fd.as_fd(), buffer).map_err(|_| self.broken())?;
        if received.cut {
            return Err(self.broken());
        }
        if received.lost_fds {
            // This process has too many open: our trouble, not the server's mistake.
            return Err(Errno(libc::EMFILE));
        }
        let socket = received.fd;
        let frame = buffer.get(..received.length).unwrap_or_default();
        match postcard::take_from_bytes(frame) {
            Ok((Reply::Failed(errno), [])) => Err(errno),
            Ok((reply, [])) => Ok((reply, socket)),
            _ => Err(self.broken()),
        }
    }
}
