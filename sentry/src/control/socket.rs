//! Both ends of the control socket: blocking, whole messages.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::{Serialize, de::DeserializeOwned};

use super::{Event, MAX_MESSAGE, Request};

/// Why the control socket cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other end is closed: its process is gone.
    #[error("the control connection is closed")]
    Closed,
    #[error("control message: {0}")]
    Malformed(#[from] postcard::Error),
    #[error("control message of more than {MAX_MESSAGE} bytes")]
    TooLong,
    #[error("control socket: {0}")]
    Host(#[from] io::Error),
}

/// The Sentry's end. Shared between threads by reference: `send` may be called while another
/// thread blocks in `recv`.
pub type Server = End<Event, Request>;

/// The command line's end.
pub type Client = End<Request, Event>;

/// One end that sends `S` and receives `R`.
#[derive(Debug)]
pub struct End<S, R> {
    fd: OwnedFd,
    messages: PhantomData<fn(S) -> R>,
}

/// A connected pair: the command line's end and the fd of the Sentry's.
pub fn pair() -> io::Result<(Client, OwnedFd)> {
    let (client, server) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    Ok((Client::new(client), server))
}

impl<S: Serialize, R: DeserializeOwned> End<S, R> {
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            messages: PhantomData,
        }
    }

    /// Sends one message; blocks only while the socket's buffer is full.
    pub fn send(&self, message: &S) -> Result<(), Error> {
        let bytes = postcard::to_stdvec(message)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(Error::TooLong);
        }
        loop {
            match send(self.fd.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EPIPE | nix::Error::ECONNRESET) => return Err(Error::Closed),
                Err(errno) => return Err(Error::Host(errno.into())),
            }
        }
    }

    /// Blocks until a message arrives. [`Error::Closed`] once the other end is gone.
    pub fn recv(&self) -> Result<R, Error> {
        // One byte more shows a packet that was cut off.
        let mut buffer = vec![0u8; MAX_MESSAGE + 1];
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) | Err(nix::Error::ECONNRESET) => return Err(Error::Closed),
                Ok(len) if len > MAX_MESSAGE => return Err(Error::TooLong),
                Ok(len) => return Ok(postcard::from_bytes(&buffer[..len])?),
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(Error::Host(errno.into())),
            }
        }
    }
}

impl<S, R> AsFd for End<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ExitStatus, SignalTarget};

    #[test]
    fn messages_pass_both_ways_and_closing_is_noticed() {
        let (client, server) = pair().unwrap();
        let server = Server::new(server);
        let signal = Request::Signal {
            signo: 2,
            target: SignalTarget::Foreground,
        };
        client.send(&signal).unwrap();
        client.send(&Request::Resize).unwrap();
        assert_eq!(server.recv().unwrap(), signal);
        assert_eq!(server.recv().unwrap(), Request::Resize);
        let exited = Event::Exited(ExitStatus::Signal {
            signo: 11,
            core_dumped: false,
        });
        server.send(&exited).unwrap();
        assert_eq!(client.recv().unwrap(), exited);
        drop(server);
        assert!(matches!(client.recv(), Err(Error::Closed)));
        assert!(matches!(client.send(&Request::Resize), Err(Error::Closed)));
    }

    #[test]
    fn oversized_and_malformed_messages_are_errors() {
        let (client, server) = pair().unwrap();
        let report = "x".repeat(MAX_MESSAGE + 10);
        let end = Server::new(server.try_clone().unwrap());
        assert!(matches!(
            end.send(&Event::Fatal { report }),
            Err(Error::TooLong)
        ));
        send(server.as_raw_fd(), &[200, 1, 2], MsgFlags::empty()).unwrap();
        assert!(matches!(client.recv(), Err(Error::Malformed(_))));
        send(
            server.as_raw_fd(),
            &vec![0; MAX_MESSAGE + 1],
            MsgFlags::empty(),
        )
        .unwrap();
        assert!(matches!(client.recv(), Err(Error::TooLong)));
    }

    #[test]
    fn shell_codes() {
        assert_eq!(ExitStatus::Code(3).shell_code(), 3);
        assert_eq!(
            ExitStatus::Signal {
                signo: 9,
                core_dumped: false
            }
            .shell_code(),
            137
        );
        assert_eq!(
            ExitStatus::Signal {
                signo: -5,
                core_dumped: true
            }
            .shell_code(),
            128
        );
    }
}
