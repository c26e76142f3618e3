//! A terminal of the host for a container's process: the master goes to whoever asked for it.

use std::{
    io::IoSlice,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use anyhow::{Context, Result, ensure};
use nix::{
    pty::openpty,
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
};
use runsc_platform::terminal;

/// What runc calls it in the message that brings it.
const NAME: &[u8] = b"/dev/ptmx";

/// Makes a terminal of that size (rows, columns) and sends its master to the socket. The slave comes
/// back three times, for stdio.
pub fn make(socket: &Path, size: Option<(u16, u16)>) -> Result<[Option<OwnedFd>; 3]> {
    let what = || format!("--console-socket: {}", socket.display());
    let connection = UnixStream::connect(socket).with_context(what)?;
    let pty = openpty(None, None).context("openpty")?;
    if let Some((rows, columns)) = size {
        let mut bytes = [0; terminal::WINSIZE_LEN];
        bytes[..2].copy_from_slice(&rows.to_ne_bytes());
        bytes[2..4].copy_from_slice(&columns.to_ne_bytes());
        terminal::set_window_size(pty.slave.as_fd(), &bytes).context("window size")?;
    }
    let fds = [pty.master.as_raw_fd()];
    let sent = sendmsg::<()>(
        connection.as_raw_fd(),
        &[IoSlice::new(NAME)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    ensure!(
        sent.with_context(what)? == NAME.len(),
        "{}: cut off",
        what()
    );
    let slave = || -> Result<Option<OwnedFd>> {
        // A description of its own, which does not block.
        match crate::sandbox::reopen(pty.slave.as_fd()) {
            Some(slave) => Ok(Some(slave)),
            None => Ok(Some(pty.slave.try_clone()?)),
        }
    };
    Ok([slave()?, slave()?, slave()?])
}
