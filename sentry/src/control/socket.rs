//! Both ends of the control socket: blocking, whole messages.

use std::{
    io::{self, IoSlice, IoSliceMut},
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Event, MAX_FDS, MAX_MESSAGE, Request};

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
    #[error("control message with more than {MAX_FDS} fds")]
    TooManyFds,
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
        self.send_with(message, &[])
    }

    /// As [`End::send`], with fds.
    pub fn send_with(&self, message: &S, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let bytes = postcard::to_stdvec(message)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(Error::TooLong);
        }
        // There is room for a few more, because of alignment.
        if fds.len() > MAX_FDS {
            return Err(Error::TooManyFds);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::TooManyFds);
        }
        let slices = [IoSlice::new(&bytes)];
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.fd, &slices, &mut control, SendFlags::NOSIGNAL)
        });
        match sent {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(Error::Closed),
            Err(errno) => Err(Error::Host(errno.into())),
        }
    }

    /// Blocks until a message arrives; fds that come with it are closed. [`Error::Closed`] once
    /// the other end is gone.
    pub fn recv(&self) -> Result<R, Error> {
        Ok(self.recv_with()?.0)
    }

    /// As [`End::recv`], with the message's fds, all of them close-on-exec.
    pub fn recv_with(&self) -> Result<(R, Vec<OwnedFd>), Error> {
        let mut buffer = vec![0u8; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.fd, &mut slices, &mut control, flags) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Err(Error::Closed),
                Err(errno) => return Err(Error::Host(errno.into())),
                Ok(message) => break message,
            }
        };
        let mut fds = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = part {
                fds.extend(passed);
            }
        }
        if message.bytes == 0 {
            return Err(Error::Closed);
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(Error::TooLong);
        }
        if message.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
            return Err(Error::TooManyFds);
        }
        Ok((postcard::from_bytes(&buffer[..message.bytes])?, fds))
    }
}

impl<S, R> AsFd for End<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{MsgFlags, send};

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
    fn fds_come_along_and_are_bounded() {
        let (client, server) = pair().unwrap();
        let server = Server::new(server);
        let (reader, mut writer) = io::pipe().unwrap();
        let join = Request::Join {
            id: 7,
            files: vec![0],
        };
        client.send_with(&join, &[reader.as_fd()]).unwrap();
        drop(reader);
        let (request, fds) = server.recv_with().unwrap();
        assert_eq!((request, fds.len()), (join, 1));
        io::Write::write_all(&mut writer, b"x").unwrap();
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&fds[0], &mut byte), Ok(1));
        // Whoever does not ask for fds does not keep them.
        client
            .send_with(&Request::Resize, &[fds[0].as_fd()])
            .unwrap();
        drop(fds);
        assert_eq!(server.recv().unwrap(), Request::Resize);
        let error = io::Write::write_all(&mut writer, b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let many = vec![client.as_fd(); MAX_FDS + 1];
        let refused = client.send_with(&Request::Resize, &many);
        assert!(matches!(refused, Err(Error::TooManyFds)));
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
