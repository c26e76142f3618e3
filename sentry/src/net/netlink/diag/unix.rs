//! Unix sockets (struct unix_diag_req).

use std::sync::Arc;

use crate::errno::Errno;
use crate::fs::inode::Dev;
use crate::net::netlink::Asker;
use crate::net::netlink::message::{Request, Writer, u32_at};
use crate::net::netlink::reply::{Answer, Batch};
use crate::net::socket::{Info, Socket};
use crate::net::unix::{Address, Unix};

/// sizeof(struct unix_diag_req).
const REQUEST: usize = 24;
const BY_FAMILY: u16 = super::SOCK_DIAG_BY_FAMILY;
// udiag_show.
const SHOW_NAME: u32 = 1;
const SHOW_VFS: u32 = 2;
const SHOW_PEER: u32 = 4;
const SHOW_ICONS: u32 = 8;
const SHOW_RQLEN: u32 = 0x10;
const SHOW_MEMINFO: u32 = 0x20;
const SHOW_UID: u32 = 0x40;
// Attributes.
const NAME: u16 = 0;
const VFS: u16 = 1;
const PEER: u16 = 2;
const ICONS: u16 = 3;
const RQLEN: u16 = 4;
const MEMINFO: u16 = 5;
const SHUTDOWN: u16 = 6;
const UID: u16 = 7;

struct Ask {
    states: u32,
    ino: u32,
    show: u32,
    cookie: u64,
}

/// # Errors
/// EINVAL if it is too short or names a protocol.
pub fn check(request: &Request<'_>) -> Answer {
    ask(request).map(drop)
}

fn ask(request: &Request<'_>) -> Answer<Ask> {
    let raw = request.body();
    let word = |at| u32_at(raw, at).ok_or(Errno::EINVAL);
    if raw.len() < REQUEST || raw[1] != 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(Ask {
        states: word(4)?,
        ino: word(8)?,
        show: word(12)?,
        cookie: u64::from(word(20)?) << 32 | u64::from(word(16)?),
    })
}

/// A device number as Linux has it inside.
fn kernel_dev(dev: Dev) -> u32 {
    dev.major << 20 | dev.minor
}

fn write(w: &mut Writer, socket: &Arc<dyn Socket>, unix: &Unix, info: &Info, show: u32) {
    let common = socket.common();
    w.bytes(&[
        libc::AF_UNIX as u8,
        common.kind.number() as u8,
        info.state,
        0,
    ]);
    w.bytes(&(common.ino() as u32).to_ne_bytes());
    w.bytes(&common.cookie.to_le_bytes());
    let address = unix.address();
    if show & SHOW_NAME != 0
        && let Some(address) = &address
    {
        // sun_path without the family; a path keeps its NUL.
        w.attr(NAME, &Address::encode(Some(address))[2..]);
    }
    if show & SHOW_VFS != 0
        && let Some((dev, ino)) = unix.place()
    {
        w.nest(VFS, |w| {
            w.bytes(&(ino as u32).to_ne_bytes());
            w.bytes(&kernel_dev(dev).to_ne_bytes());
        });
    }
    if show & SHOW_PEER != 0
        && let Some(ino) = unix.peer_ino()
    {
        w.attr_u32(PEER, ino as u32);
    }
    if show & SHOW_ICONS != 0 && socket.is_listening() {
        // Connections that nobody accepted have no inode.
        w.nest(ICONS, |w| {
            (0..info.receive_queue).for_each(|_| w.bytes(&[0; 4]));
        });
    }
    if show & SHOW_RQLEN != 0 {
        w.nest(RQLEN, |w| {
            w.bytes(&info.receive_queue.to_ne_bytes());
            w.bytes(&info.send_queue.to_ne_bytes());
        });
    }
    if show & SHOW_MEMINFO != 0 {
        super::inet::memory(w, MEMINFO, &**socket, info);
    }
    w.attr_u8(SHUTDOWN, unix.shut_bits());
    if show & SHOW_UID != 0 {
        w.attr_u32(UID, common.uid());
    }
}

pub fn dump(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let ask = ask(request)?;
    for socket in asker.stack.sockets() {
        let Some(unix) = Unix::of(&*socket) else {
            continue;
        };
        let info = socket.info();
        if ask.states & (1 << (info.state & 31)) == 0 {
            continue;
        }
        let fill = |w: &mut Writer| write(w, &socket, unix, &info, ask.show);
        if !batch.put_at(socket.common().ino(), BY_FAMILY, fill) {
            break;
        }
    }
    Ok(())
}

pub fn get(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let ask = ask(request)?;
    if ask.ino == 0 {
        return Err(Errno::EINVAL.into());
    }
    let sockets = asker.stack.sockets();
    let mut found = sockets.iter().filter_map(|s| Some((s, Unix::of(&**s)?)));
    let found = found.find(|(s, _)| s.common().ino() as u32 == ask.ino);
    let (socket, unix) = found.ok_or(Errno::ENOENT)?;
    if ask.cookie != u64::MAX && ask.cookie != socket.common().cookie {
        return Err(Errno::ESTALE.into());
    }
    let info = socket.info();
    batch.put(BY_FAMILY, |w| write(w, socket, unix, &info, ask.show));
    Ok(())
}
