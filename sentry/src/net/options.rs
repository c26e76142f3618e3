//! Level SOL_SOCKET of getsockopt(2) and setsockopt(2), as far as the families share it (socket(7)).

use super::socket::{Common, Extra, Socket};
use super::unix::Ucred;
use crate::errno::{Errno, Result};
use crate::kernel::cred::Cap;
use crate::kernel::task::Task;

/// Default of SO_SNDBUF and SO_RCVBUF, bytes (/proc/sys/net/core/wmem_default, rmem_default).
pub const DEFAULT_BUFFER: usize = 212_992;
/// /proc/sys/net/core/wmem_max and rmem_max, and the least Linux sets.
const MAX_BUFFER: usize = 212_992;
/// What SO_SNDBUFFORCE and SO_RCVBUFFORCE get at most: buffers are memory of the sandbox's.
const MAX_FORCED: usize = 16 << 20;
const MIN_SEND: usize = 4608;
const MIN_RECEIVE: usize = 2304;
const NS: u64 = 1_000_000_000;

/// What a received message is stamped with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stamp {
    #[default]
    None,
    /// SO_TIMESTAMP: microseconds.
    Micro,
    /// SO_TIMESTAMPNS.
    Nano,
}

/// Options that have an effect, or are told again. Times in ns, 0: none; buffers in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    pub send_buffer: usize,
    pub receive_buffer: usize,
    /// SO_SNDBUF, SO_RCVBUF were set: the size does not follow the load any more.
    pub send_locked: bool,
    pub receive_locked: bool,
    pub receive_timeout_ns: u64,
    pub send_timeout_ns: u64,
    pub receive_low: usize,
    pub pass_creds: bool,
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub keep_alive: bool,
    pub broadcast: bool,
    pub oob_inline: bool,
    pub dont_route: bool,
    pub receive_errors_count: bool,
    /// SO_SELECT_ERR_QUEUE: POLLPRI along with POLLERR.
    pub select_errors: bool,
    pub stamp: Stamp,
    /// SO_TIMESTAMPING: SOF_TIMESTAMPING_*.
    pub stamping: u32,
    /// The stamps were asked for by the names with 64-bit times, and are told by these.
    pub stamp_new: bool,
    pub priority: i32,
    pub mark: u32,
    /// Seconds; None: close(2) does not wait.
    pub linger: Option<u32>,
    /// SO_BINDTODEVICE: index of the interface, 0: any.
    pub device: u32,
    pub incoming_cpu: i32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            send_buffer: DEFAULT_BUFFER,
            receive_buffer: DEFAULT_BUFFER,
            send_locked: false,
            receive_locked: false,
            receive_timeout_ns: 0,
            send_timeout_ns: 0,
            receive_low: 1,
            pass_creds: false,
            reuse_address: false,
            reuse_port: false,
            keep_alive: false,
            broadcast: false,
            oob_inline: false,
            dont_route: false,
            receive_errors_count: false,
            select_errors: false,
            stamp: Stamp::None,
            stamping: 0,
            stamp_new: false,
            priority: 0,
            mark: 0,
            linger: None,
            device: 0,
            incoming_cpu: -1,
        }
    }
}

/// An int at the start of an option's value. EINVAL if it is shorter.
pub fn int(value: &[u8]) -> Result<i32> {
    let first = value.first_chunk().ok_or(Errno::EINVAL)?;
    Ok(i32::from_ne_bytes(*first))
}

/// Linux doubles what is asked for.
fn buffer(value: i32, max: usize, min: usize) -> usize {
    let asked = usize::try_from(value).unwrap_or(max).min(max);
    (asked * 2).max(min)
}

fn timeout(value: &[u8]) -> Result<u64> {
    let (Some(sec), Some(usec)) = (
        value.first_chunk(),
        value.get(8..).and_then(<[u8]>::first_chunk),
    ) else {
        return Err(Errno::EINVAL);
    };
    let (sec, usec) = (i64::from_ne_bytes(*sec), i64::from_ne_bytes(*usec));
    if !(0..1_000_000).contains(&usec) {
        return Err(Errno::EDOM);
    }
    // Negative: at once.
    let Ok(sec) = u64::try_from(sec) else {
        return Ok(1);
    };
    Ok(sec.saturating_mul(NS).saturating_add(usec as u64 * 1000))
}

fn set_device(common: &Common, value: &[u8]) -> Result<()> {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    // IFNAMSIZ without its NUL.
    let name = &value[..end.min(15)];
    let index = if name.is_empty() {
        0
    } else {
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENODEV)?;
        let interfaces = common.stack.interfaces.read();
        interfaces.link_named(name).ok_or(Errno::ENODEV)?.index
    };
    common.options.lock().device = index;
    Ok(())
}

/// setsockopt(2) for what all families know.
///
/// # Errors
/// ENOPROTOOPT, EINVAL, EDOM, EPERM, ENODEV.
pub fn set(common: &Common, t: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
    if level != libc::SOL_SOCKET {
        return Err(Errno::ENOPROTOOPT);
    }
    if name == libc::SO_BINDTODEVICE {
        return set_device(common, value);
    }
    let v = int(value)?;
    let on = v != 0;
    let may = |cap| t.with_creds(|c| c.has_cap(cap));
    // What is checked before the lock is taken.
    let time = match name {
        libc::SO_RCVTIMEO | libc::SO_SNDTIMEO | SO_RCVTIMEO_NEW | SO_SNDTIMEO_NEW => {
            timeout(value)?
        }
        libc::SO_SNDBUFFORCE | libc::SO_RCVBUFFORCE if !may(Cap::NetAdmin) => {
            return Err(Errno::EPERM);
        }
        libc::SO_MARK if !may(Cap::NetAdmin) && !may(Cap::NetRaw) => return Err(Errno::EPERM),
        libc::SO_PRIORITY if !(0..=6).contains(&v) && !may(Cap::NetAdmin) && !may(Cap::NetRaw) => {
            return Err(Errno::EPERM);
        }
        libc::SO_DEBUG if on && !may(Cap::NetAdmin) => return Err(Errno::EACCES),
        _ => 0,
    };
    let mut o = common.options.lock();
    match name {
        libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW => o.receive_timeout_ns = time,
        libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW => o.send_timeout_ns = time,
        libc::SO_SNDBUF | libc::SO_SNDBUFFORCE => {
            let max = if name == libc::SO_SNDBUF {
                MAX_BUFFER
            } else {
                MAX_FORCED
            };
            o.send_buffer = buffer(v, max, MIN_SEND);
            o.send_locked = true;
        }
        libc::SO_RCVBUF | libc::SO_RCVBUFFORCE => {
            let max = if name == libc::SO_RCVBUF {
                MAX_BUFFER
            } else {
                MAX_FORCED
            };
            o.receive_buffer = buffer(v, max, MIN_RECEIVE);
            o.receive_locked = true;
        }
        libc::SO_PASSCRED => o.pass_creds = on,
        libc::SO_REUSEADDR => o.reuse_address = on,
        libc::SO_REUSEPORT => o.reuse_port = on,
        libc::SO_KEEPALIVE => o.keep_alive = on,
        libc::SO_BROADCAST => o.broadcast = on,
        libc::SO_OOBINLINE => o.oob_inline = on,
        libc::SO_DONTROUTE => o.dont_route = on,
        libc::SO_PRIORITY => o.priority = v,
        libc::SO_MARK => o.mark = v as u32,
        libc::SO_RXQ_OVFL => o.receive_errors_count = on,
        libc::SO_INCOMING_CPU => o.incoming_cpu = v,
        libc::SO_RCVLOWAT => {
            let v = if v < 0 { i32::MAX } else { v };
            o.receive_low = (v as usize).max(1);
        }
        libc::SO_SELECT_ERR_QUEUE => o.select_errors = on,
        libc::SO_TIMESTAMP | SO_TIMESTAMP_NEW => {
            o.stamp = if on { Stamp::Micro } else { Stamp::None };
            o.stamp_new = name == SO_TIMESTAMP_NEW;
        }
        libc::SO_TIMESTAMPNS | SO_TIMESTAMPNS_NEW => {
            o.stamp = if on { Stamp::Nano } else { Stamp::None };
            o.stamp_new = name == SO_TIMESTAMPNS_NEW;
        }
        // What was sent is not stamped, nor what is stamped by hardware.
        libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => {
            let flags = u32::try_from(v).map_err(|_| Errno::EINVAL)?;
            if flags & !STAMPING != 0 {
                return Err(Errno::EINVAL);
            }
            o.stamping = flags;
            o.stamp_new = name == SO_TIMESTAMPING_NEW;
        }
        libc::SO_LINGER => {
            let seconds = value.get(4..).ok_or(Errno::EINVAL).and_then(int)?;
            o.linger = on.then_some(u32::try_from(seconds).unwrap_or(u32::MAX));
        }
        // Without an effect here, as on Linux where nobody looks.
        libc::SO_DEBUG | libc::SO_NO_CHECK | libc::SO_PASSSEC | libc::SO_BUSY_POLL => {}
        // Of unix sockets.
        SO_PASSPIDFD => return Err(Errno::EOPNOTSUPP),
        // Read only.
        libc::SO_TYPE | libc::SO_PROTOCOL | libc::SO_DOMAIN | libc::SO_ERROR => {
            return Err(Errno::ENOPROTOOPT);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// SOF_TIMESTAMPING_* that say what is told of received messages. Those about hardware are for
/// drivers, of which there are none.
const STAMPING: u32 = libc::SOF_TIMESTAMPING_RX_SOFTWARE
    | libc::SOF_TIMESTAMPING_SOFTWARE
    | libc::SOF_TIMESTAMPING_RX_HARDWARE
    | libc::SOF_TIMESTAMPING_RAW_HARDWARE
    | libc::SOF_TIMESTAMPING_SYS_HARDWARE;

/// The control messages that stamp a message which came at `time_ns` since the epoch.
pub fn stamps(o: &Options, time_ns: u64) -> Vec<Extra> {
    let (sec, ns) = (time_ns / NS, time_ns % NS);
    let pair = |a: u64, b: u64| [a.to_ne_bytes(), b.to_ne_bytes()].concat();
    let named = |old, new| if o.stamp_new { new } else { old };
    let mut told = Vec::new();
    let mut tell = |kind, data| {
        told.push(Extra {
            level: libc::SOL_SOCKET,
            kind,
            data,
        });
    };
    match o.stamp {
        Stamp::None => {}
        Stamp::Micro => {
            let kind = named(libc::SO_TIMESTAMP, SO_TIMESTAMP_NEW);
            tell(kind, pair(sec, ns / 1000));
        }
        Stamp::Nano => tell(
            named(libc::SO_TIMESTAMPNS, SO_TIMESTAMPNS_NEW),
            pair(sec, ns),
        ),
    }
    let both = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
    if o.stamping & both == both {
        // struct scm_timestamping: the others are for hardware.
        let data = [pair(sec, ns), vec![0; 32]].concat();
        tell(named(libc::SO_TIMESTAMPING, SO_TIMESTAMPING_NEW), data);
    }
    told
}

// With 64-bit times on every architecture; the same layout here.
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_TIMESTAMPING_NEW: i32 = 65;
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;

/// asm-generic/socket.h, not in libc.
pub const SO_PASSPIDFD: i32 = 76;
pub const SO_PEERPIDFD: i32 = 77;

/// getsockopt(2) for what all families know. ENOPROTOOPT.
pub fn get(socket: &(impl Socket + ?Sized), level: i32, name: i32) -> Result<Vec<u8>> {
    if level != libc::SOL_SOCKET {
        return Err(Errno::ENOPROTOOPT);
    }
    let common = socket.common();
    let int = |v: i32| v.to_ne_bytes().to_vec();
    let flag = |v: bool| int(i32::from(v));
    let size = |v: usize| int(i32::try_from(v).unwrap_or(i32::MAX));
    let time = |ns: u64| {
        let parts = [ns / NS, ns % NS / 1000];
        parts.iter().flat_map(|v| v.to_ne_bytes()).collect()
    };
    match name {
        libc::SO_ERROR => return Ok(int(socket.take_error().map_or(0, Errno::raw))),
        libc::SO_ACCEPTCONN => return Ok(flag(socket.is_listening())),
        _ => {}
    }
    let o = common.options.lock();
    Ok(match name {
        libc::SO_TYPE => int(common.kind.number()),
        libc::SO_DOMAIN => int(common.family),
        libc::SO_PROTOCOL => int(common.protocol),
        libc::SO_SNDBUF => size(o.send_buffer),
        libc::SO_RCVBUF => size(o.receive_buffer),
        libc::SO_PASSCRED => flag(o.pass_creds),
        // Nobody is known.
        libc::SO_PEERCRED => Ucred::UNKNOWN.encode().to_vec(),
        libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW => time(o.receive_timeout_ns),
        libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW => time(o.send_timeout_ns),
        libc::SO_REUSEADDR => flag(o.reuse_address),
        libc::SO_REUSEPORT => flag(o.reuse_port),
        libc::SO_KEEPALIVE => flag(o.keep_alive),
        libc::SO_BROADCAST => flag(o.broadcast),
        libc::SO_OOBINLINE => flag(o.oob_inline),
        libc::SO_DONTROUTE => flag(o.dont_route),
        libc::SO_RXQ_OVFL => flag(o.receive_errors_count),
        libc::SO_RCVLOWAT => size(o.receive_low),
        libc::SO_SNDLOWAT => int(1),
        libc::SO_PRIORITY => int(o.priority),
        libc::SO_MARK => int(o.mark as i32),
        libc::SO_INCOMING_CPU => int(o.incoming_cpu),
        libc::SO_SELECT_ERR_QUEUE => flag(o.select_errors),
        libc::SO_TIMESTAMP => flag(o.stamp == Stamp::Micro && !o.stamp_new),
        SO_TIMESTAMP_NEW => flag(o.stamp == Stamp::Micro && o.stamp_new),
        libc::SO_TIMESTAMPNS => flag(o.stamp == Stamp::Nano && !o.stamp_new),
        SO_TIMESTAMPNS_NEW => flag(o.stamp == Stamp::Nano && o.stamp_new),
        libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => int(o.stamping as i32),
        libc::SO_DEBUG | libc::SO_NO_CHECK | libc::SO_PASSSEC | libc::SO_BUSY_POLL => int(0),
        libc::SO_LINGER => {
            let parts = [u32::from(o.linger.is_some()), o.linger.unwrap_or(0)];
            parts.iter().flat_map(|v| v.to_ne_bytes()).collect()
        }
        libc::SO_COOKIE => common.cookie.to_ne_bytes().to_vec(),
        libc::SO_BINDTODEVICE => {
            let interfaces = common.stack.interfaces.read();
            let link = interfaces.link(o.device);
            link.map_or(Vec::new(), |l| [l.name.as_bytes(), b"\0"].concat())
        }
        SO_PASSPIDFD => return Err(Errno::EOPNOTSUPP),
        SO_PEERPIDFD | libc::SO_PEERGROUPS => return Err(Errno::ENODATA),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}
