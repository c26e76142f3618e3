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
    sockets, xattr,
};
use crate::{
    protocol::{Errno, MAX_FRAME, MAX_OPEN},
    wire::{Reply, Request},
};

/// Answers what comes over `channel` until its other end is closed.
pub(super) fn serve(mounts: &Mounts, channel: &OwnedFd) {
    let mut reader = Reader::default();
    let mut request = vec![0; MAX_FRAME];
    let mut frame = vec![0; MAX_FRAME];
    loop {
        reader.clear_body();
        let (reply, fds) = match receive(channel.as_fd(), &mut request) {
            Ok(0) | Err(_) => return,
            Ok(length) => match request.get(..length) {
                Some(bytes) => answer(mounts, &mut reader, bytes),
                None => (Reply::Failed(Errno(libc::EMSGSIZE)), Vec::new()),
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
        match send(channel.as_fd(), bytes, reader.body(), &fds) {
            Ok(()) => {}
            // The user has too many fds under way: the other requests may go on.
            Err(rustix::io::Errno::TOOMANYREFS) => {
                let refusal = Reply::Failed(Errno(libc::ETOOMANYREFS));
                let Ok(bytes) = postcard::to_slice(&refusal, &mut frame) else {
                    return;
                };
                if send(channel.as_fd(), bytes, &[], &[]).is_err() {
                    return;
                }
            }
            Err(_) => return,
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

fn send(
    channel: BorrowedFd<'_>,
    frame: &[u8],
    body: &[u8],
    fds: &[OwnedFd],
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_OPEN))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(rustix::io::Errno::NOBUFS);
    }
    let slices = [IoSlice::new(frame), IoSlice::new(body)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(channel, &slices, &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

fn answer(mounts: &Mounts, reader: &mut Reader, bytes: &[u8]) -> (Reply, Vec<OwnedFd>) {
    let request = match postcard::take_from_bytes(bytes) {
        Ok((request, [])) => request,
        _ => return (Reply::Failed(Errno(libc::EBADMSG)), Vec::new()),
    };
    match dispatch(mounts, reader, request) {
        Ok(answer) => answer,
        Err(errno) => (Reply::Failed(errno), Vec::new()),
    }
}

fn dispatch(
    mounts: &Mounts,
    reader: &mut Reader,
    request: Request<'_>,
) -> Result<(Reply, Vec<OwnedFd>)> {
    let reply = match request {
        Request::Walk { dir, names, open } => {
            let (reply, fd) = lookup::walk(mounts, dir, names, open)?;
            return Ok((reply, fd.into_iter().collect()));
        }
        Request::OpenMany { dir, names } => {
            let (attrs, fds) = lookup::open_many(mounts, dir, names)?;
            return Ok((Reply::OpenedMany(attrs), fds));
        }
        Request::Open { node, how } => {
            let (fd, attr) = lookup::open(mounts, node, how)?;
            return Ok((Reply::Opened(attr), vec![fd]));
        }
        Request::Create {
            node,
            how,
            mode,
            owner,
        } => {
            let (fd, attr) = change::create(mounts, node, how, mode, owner)?;
            return Ok((Reply::Opened(attr), vec![fd]));
        }
        Request::Connect { node, kind } => {
            let fd = sockets::connect(mounts, node, kind)?;
            return Ok((Reply::Connected, vec![fd]));
        }
        Request::Bind {
            node,
            kind,
            mode,
            owner,
        } => match sockets::bind(mounts, node, kind, mode, owner)? {
            (attr, Some(fd)) => return Ok((Reply::Opened(attr), vec![fd])),
            (attr, None) => Reply::Attr(attr),
        },
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
        Request::ListTree {
            dir,
            names,
            count,
            detail,
        } => {
            reader.list_tree(mounts, dir, names, count, detail)?;
            Reply::Tree
        }
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
    Ok((reply, Vec::new()))
}

fn done(result: Result<()>) -> Result<Reply> {
    result.map(|()| Reply::Done)
}
