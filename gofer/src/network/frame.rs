//! Frames as both ends send and receive them: one packet, with one fd at most.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};

/// A frame that has come.
pub(super) struct Received {
    /// Bytes of it in the buffer.
    pub length: usize,
    /// It was longer.
    pub cut: bool,
    /// The first fd that came along.
    pub fd: Option<OwnedFd>,
    /// There was no room for all that came along.
    pub lost_fds: bool,
}

pub(super) fn send(
    channel: BorrowedFd<'_>,
    frame: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    let slices = [IoSlice::new(frame)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(channel, &slices, &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// `ECONNRESET` at the end.
pub(super) fn receive(channel: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut slices = [IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(channel, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            other => break other?,
        }
    };
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fd.or(fds.into_iter().next());
        }
    }
    if message.bytes == 0 {
        return Err(Errno::CONNRESET);
    }
    Ok(Received {
        length: message.bytes,
        cut: message.flags.contains(ReturnFlags::TRUNC),
        fd,
        lost_fds: message.flags.contains(ReturnFlags::CTRUNC),
    })
}
