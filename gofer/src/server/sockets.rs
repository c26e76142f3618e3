//! Unix sockets of the host: connecting to those that lie in the mounts, and making some that the
//! host can connect to.
//!
//! connect(2) and bind(2) take no directory fd, so a serving thread, which has a working directory
//! of its own ([`own_directory`]), enters the socket's directory and names the one component. What
//! is connected to or bound is a name in the file system for sure: an address with a first byte of
//! 0 would be another thing. The host follows no symlink there ([`super::mounts::HostGuards`]).

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::{
    fs::{AtFlags, Mode},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use super::{
    change::{checked_mode, finish, keep_or_remove, mknod},
    mounts::{Mounts, Place, Result, Root, pin_at, stat_at},
};
use crate::protocol::{Attr, Errno, NodeKind, NodeRef, Owner, SocketKind};

/// Gives this thread a working directory that no other thread changes.
pub(super) fn own_directory() -> std::io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_FS)?)
}

fn make(kind: SocketKind) -> Result<OwnedFd> {
    let kind = match kind {
        SocketKind::Stream => SocketType::STREAM,
        SocketKind::Datagram => SocketType::DGRAM,
        SocketKind::SeqPacket => SocketType::SEQPACKET,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        flags,
        None,
    )?)
}

/// Does something with the address of `place`, in its directory.
fn at<T>(
    place: &Place<'_>,
    home: &Root,
    act: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<T>,
) -> Result<T> {
    let address = SocketAddrUnix::new(place.name)?;
    rustix::process::fchdir(&place.dir)?;
    let done = act(&address);
    // Nothing is to be kept busy.
    let home = match home {
        Root::Directory(dir) | Root::File(dir, _) => dir.as_fd(),
    };
    let _ = rustix::process::fchdir(home);
    Ok(done?)
}

/// A new socket, connected to the one at `node`.
pub(super) fn connect(mounts: &Mounts, node: NodeRef<'_>, kind: SocketKind) -> Result<OwnedFd> {
    let (mount, path) = mounts.get(node)?;
    if !mounts.sockets.opens() {
        return Err(Errno(libc::ECONNREFUSED));
    }
    let place = mount.place(path)?;
    if stat_at(&place.dir, place.name)?.file_type() != libc::S_IFSOCK {
        return Err(Errno(libc::ECONNREFUSED));
    }
    let socket = make(kind)?;
    at(&place, &mount.root, |to| rustix::net::connect(&socket, to))?;
    Ok(socket)
}

/// A new socket at `node`, and the socket itself unless nobody outside may connect to it.
pub(super) fn bind(
    mounts: &Mounts,
    node: NodeRef<'_>,
    kind: SocketKind,
    mode: u32,
    owner: Option<Owner>,
) -> Result<(Attr, Option<OwnedFd>)> {
    if !mounts.sockets.creates() {
        let attr = mknod(mounts, node, NodeKind::Socket, mode, owner)?;
        return Ok((attr, None));
    }
    let (mount, path) = mounts.get_writable(node)?;
    let place = mount.entry(path, libc::EEXIST)?;
    let socket = make(kind)?;
    // The node gets it from the socket; later there would be a moment for everybody.
    let mode_bits: Mode = checked_mode(mode)?;
    rustix::fs::fchmod(&socket, mode_bits)?;
    at(&place, &mount.root, |name| rustix::net::bind(&socket, name)).map_err(
        |errno| match errno {
            Errno(libc::EADDRINUSE) => Errno(libc::EEXIST),
            other => other,
        },
    )?;
    let attr =
        pin_at(&place.dir, place.name).and_then(|pin| finish(mount, &place, &pin, mode, owner));
    let attr = keep_or_remove(&place, AtFlags::empty(), attr)?;
    Ok((attr, Some(socket)))
}
