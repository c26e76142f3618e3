//! One thread a channel: receive a frame, answer it.
//!
//! Whatever the frame holds, it is answered or the channel ends; a channel that ends costs the
//! client only itself.

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::{
    change,
    dir::Reader,
    lookup,
    mounts::{Mounts, Result},
    xattr,
};
use crate::{
    protocol::{Errno, MAX_FRAME},
    wire::{Reply, Request},
};

/// Answers what comes over `channel` until its other end is closed.
pub(super) fn serve(mounts: &Mounts, channel: &OwnedFd) {
    let mut reader = Reader::default();
    let mut request = vec![0; MAX_FRAME];
    let mut frame = vec![0; MAX_FRAME];
    loop {
        let (reply, fd) = match receive(channel.as_fd(), &mut request) {
            Ok(0) | Err(_) => return,
            Ok(length) => match request.get(..length) {
                Some(bytes) => answer(mounts, &mut reader, bytes),
                None => (Reply::Failed(Errno(libc::EMSGSIZE)), None),
            },
        };
        let length = match postcard::to_slice(&reply, &mut frame) {
            Ok(used) => Some(used.len()),
            Err(_) => postcard::to_slice(&Reply::Failed(Errno(libc::EMSGSIZE)), &mut frame)
                .ok()
                .map(|used| used.len()),
        };
        let Some(bytes) = length.and_then(|length| frame.get(..length)) else {
            return;
        };
        if send(channel.as_fd(), bytes, fd.as_ref()).is_err() {
            return;
        }
    }
}

/// The length of the frame, which may be more than was received. Fds sent along are dropped by
/// the kernel: there is no room for them.
fn receive(channel: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        rustix::net::recv(channel, &mut *buffer, RecvFlags::TRUNC).map(|(_, length)| length)
    })
}

fn send(channel: BorrowedFd<'_>, frame: &[u8], fd: Option<&OwnedFd>) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds
        && !control.push(SendAncillaryMessage::ScmRights(fds))
    {
        return Err(rustix::io::Errno::NOBUFS);
    }
    let slices = [IoSlice::new(frame)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(channel, &slices, &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

fn answer(mounts: &Mounts, reader: &mut Reader, bytes: &[u8]) -> (Reply, Option<OwnedFd>) {
    let request = match postcard::take_from_bytes(bytes) {
        Ok((request, [])) => request,
        _ => return (Reply::Failed(Errno(libc::EBADMSG)), None),
    };
    match dispatch(mounts, reader, request) {
        Ok(answer) => answer,
        Err(errno) => (Reply::Failed(errno), None),
    }
}

fn dispatch(
    mounts: &Mounts,
    reader: &mut Reader,
    request: Request<'_>,
) -> Result<(Reply, Option<OwnedFd>)> {
    let reply = match request {
        Request::Walk { dir, names, open } => return lookup::walk(mounts, dir, names, open),
        Request::Open { node, how } => {
            let (fd, attr) = lookup::open(mounts, node, how)?;
            return Ok((Reply::Opened(attr), Some(fd)));
        }
        Request::Create {
            node,
            how,
            mode,
            owner,
        } => {
            let (fd, attr) = change::create(mounts, node, how, mode, owner)?;
            return Ok((Reply::Opened(attr), Some(fd)));
        }
        Request::GetAttr(node) => Reply::Attr(lookup::getattr(mounts, node)?),
        Request::MkDir { node, mode, owner } => {
            Reply::Attr(change::mkdir(mounts, node, mode, owner)?)
        }
        Request::MkNod {
            node,
            kind,
            mode,
            owner,
        } => Reply::Attr(change::mknod(mounts, node, kind, mode, owner)?),
        Request::SymLink {
            node,
            target,
            owner,
        } => Reply::Attr(change::symlink(mounts, node, target, owner)?),
        Request::Link { from, to } => Reply::Attr(change::link(mounts, from, to)?),
        Request::Unlink(node) => done(change::unlink(mounts, node))?,
        Request::RmDir(node) => done(change::rmdir(mounts, node))?,
        Request::Rename { from, to, flags } => done(change::rename(mounts, from, to, flags))?,
        Request::SetAttr { node, set } => Reply::Attr(change::setattr(mounts, node, &set)?),
        Request::ReadLink(node) => Reply::Bytes(lookup::readlink(mounts, node)?),
        Request::ReadDir {
            node,
            cookie,
            detail,
        } => Reply::Dir(reader.read(mounts, node, cookie, detail)?),
        Request::StatFs(node) => Reply::StatFs(lookup::statfs(mounts, node)?),
        Request::GetXattr { node, name } => Reply::Bytes(xattr::get(mounts, node, name)?),
        Request::SetXattr {
            node,
            name,
            value,
            mode,
        } => done(xattr::set(mounts, node, name, value, mode))?,
        Request::ListXattr(node) => Reply::Bytes(xattr::list(mounts, node)?),
        Request::RemoveXattr { node, name } => done(xattr::remove(mounts, node, name))?,
        Request::Sync { node, scope } => done(lookup::sync(mounts, node, scope))?,
    };
    Ok((reply, None))
}

fn done(result: Result<()>) -> Result<Reply> {
    result.map(|()| Reply::Done)
}
