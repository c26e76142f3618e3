//! What every family's sockets can do, as the system-call layer sees them.
//!
//! Nothing here waits: what would gives EAGAIN, and the layer waits on [`Common::queue`]. Addresses
//! are bytes ([`Name`]), which the family takes apart.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::options::{self, Options};
use super::stack::Stack;
use super::unix::{Rights, Ucred};
use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::fs::sigio::{Band, Subscribers};
use crate::kernel::group::ThreadGroup;
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::mm::io::{Sink, Source};

/// Type of socket(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Stream,
    Datagram,
    Raw,
    SeqPacket,
    /// SOCK_PACKET, SOCK_RDM, SOCK_DCCP: known and in no family.
    Other(i32),
}

impl Kind {
    /// # Errors
    /// EINVAL for what is no type at all.
    pub fn from_number(n: i32) -> Result<Kind> {
        Ok(match n {
            libc::SOCK_STREAM => Kind::Stream,
            libc::SOCK_DGRAM => Kind::Datagram,
            libc::SOCK_RAW => Kind::Raw,
            libc::SOCK_SEQPACKET => Kind::SeqPacket,
            0..=10 => Kind::Other(n),
            _ => return Err(Errno::EINVAL),
        })
    }

    pub fn number(self) -> i32 {
        match self {
            Kind::Stream => libc::SOCK_STREAM,
            Kind::Datagram => libc::SOCK_DGRAM,
            Kind::Raw => libc::SOCK_RAW,
            Kind::SeqPacket => libc::SOCK_SEQPACKET,
            Kind::Other(n) => n,
        }
    }
}

/// sizeof(struct sockaddr_storage): the longest address.
pub const MAX_NAME: usize = 128;

/// A struct sockaddr as bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; MAX_NAME],
    len: u8,
}

impl Name {
    pub const EMPTY: Name = Name {
        bytes: [0; MAX_NAME],
        len: 0,
    };

    /// # Errors
    /// EINVAL if it is longer than any address.
    pub fn new(raw: &[u8]) -> Result<Name> {
        let mut bytes = [0; MAX_NAME];
        bytes
            .get_mut(..raw.len())
            .ok_or(Errno::EINVAL)?
            .copy_from_slice(raw);
        let len = raw.len() as u8;
        Ok(Name { bytes, len })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// sa_family, if there are bytes enough for one.
    pub fn family(&self) -> Option<i32> {
        let [a, b, ..] = self.bytes() else {
            return None;
        };
        Some(i32::from(u16::from_ne_bytes([*a, *b])))
    }

    /// The address and port of a struct sockaddr_in or sockaddr_in6. None: it is neither.
    pub fn inet(&self) -> Option<SocketAddr> {
        let raw = self.bytes();
        let port = u16::from_be_bytes(*raw.get(2..)?.first_chunk()?);
        let ip = match self.family()? {
            libc::AF_INET => IpAddr::from(*raw.get(4..)?.first_chunk::<4>()?),
            libc::AF_INET6 => IpAddr::from(*raw.get(8..)?.first_chunk::<16>()?),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bytes().fmt(f)
    }
}

/// A control message (cmsg(3)) of another level than SOL_SOCKET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    pub level: i32,
    pub kind: i32,
    pub data: Vec<u8>,
}

/// What goes with the bytes of a sendmsg(2).
#[derive(Default)]
pub struct Outgoing {
    /// The address that was given.
    pub to: Option<Name>,
    /// The socket of the Sentry that [`Socket::find`] found for it.
    pub target: Option<Arc<dyn Socket>>,
    pub creds: Ucred,
    pub rights: Rights,
    pub extra: Vec<Extra>,
    /// MSG_*.
    pub flags: i32,
}

impl Outgoing {
    /// Bytes alone, from the task that sends.
    pub fn from(task: Option<&Task>, flags: i32) -> Outgoing {
        Outgoing {
            creds: task.map_or(Ucred::NOBODY, Ucred::of),
            flags,
            ..Outgoing::default()
        }
    }
}

/// What came with the bytes of a recvmsg(2).
#[derive(Default)]
pub struct Received {
    /// Bytes put.
    pub count: usize,
    /// Length of the whole message (datagrams).
    pub full: usize,
    /// The sender, where it has a name and the protocol tells it.
    pub from: Option<Name>,
    pub creds: Ucred,
    /// Of the sender, if the socket has SO_PASSPIDFD.
    pub process: Option<Arc<ThreadGroup>>,
    pub files: Vec<Arc<File>>,
    pub extra: Vec<Extra>,
    /// msg_flags to add: MSG_OOB, MSG_ERRQUEUE...
    pub flags: i32,
}

impl Received {
    /// The rest of a message did not fit.
    pub fn truncated(&self) -> bool {
        self.full > self.count
    }
}

/// How far a connect(2) got.
pub enum Connect {
    Done,
    /// `attempt` tells how it ended, EAGAIN until then; `on` is woken when that may have changed.
    Later {
        on: Arc<dyn Socket>,
        attempt: Box<dyn FnMut() -> Result<()> + Send>,
        /// What a caller that does not wait gets.
        otherwise: Errno,
    },
}

/// What all sockets have.
pub struct Common {
    pub stack: Arc<Stack>,
    /// AF_*.
    pub family: i32,
    pub kind: Kind,
    pub protocol: i32,
    pub options: Mutex<Options>,
    pub queue: WaitQueue,
    /// Told by signals of what the queue is woken for.
    pub subscribers: Subscribers,
    /// A sender found no room: told once when there is some again.
    pub lacks_room: AtomicBool,
    /// SO_COOKIE.
    pub cookie: u64,
    /// Inode number and owner, once there is an open file.
    place: OnceLock<(u64, u32)>,
    file: OnceLock<Weak<File>>,
}

impl Common {
    pub fn new(stack: &Arc<Stack>, family: i32, kind: Kind, protocol: i32) -> Common {
        static COOKIES: AtomicU64 = AtomicU64::new(1);
        Common {
            stack: stack.clone(),
            family,
            kind,
            protocol,
            options: Mutex::default(),
            queue: WaitQueue::new(),
            subscribers: Subscribers::default(),
            lacks_room: AtomicBool::new(false),
            cookie: COOKIES.fetch_add(1, Ordering::Relaxed),
            place: OnceLock::new(),
            file: OnceLock::new(),
        }
    }

    /// When a wait to receive (else to send) that begins now ends, by SO_RCVTIMEO or SO_SNDTIMEO.
    pub fn deadline(&self, interest: Ready) -> Option<MonoTime> {
        let options = self.options.lock();
        let ns = if interest.contains(Ready::IN) {
            options.receive_timeout_ns
        } else {
            options.send_timeout_ns
        };
        (ns > 0).then(|| MonoTime::now().after_ns(ns))
    }

    /// The inode's number; 0 as long as there is no open file.
    pub fn ino(&self) -> u64 {
        self.place.get().map_or(0, |p| p.0)
    }

    /// Who made it.
    pub fn uid(&self) -> u32 {
        self.place.get().map_or(0, |p| p.1)
    }

    pub(super) fn set_place(&self, ino: u64, uid: u32) {
        // A socket gets one open file.
        let _ = self.place.set((ino, uid));
    }

    pub(super) fn set_file(&self, file: &Arc<File>) {
        let _ = self.file.set(Arc::downgrade(file));
    }

    /// Wakes who waits for `ready`, and tells those with O_ASYNC.
    pub fn tell(&self, ready: Ready, band: Band) {
        self.queue.wake(ready);
        self.subscribers.tell(band);
    }

    /// An urgent byte has come: SIGURG.
    pub fn tell_urgent(&self) {
        if let Some(file) = self.file.get().and_then(Weak::upgrade) {
            let owner = file.owner.lock().clone();
            owner.urgent();
        }
        self.subscribers.tell_urgent();
    }
}

/// What the tables of /proc/net and sock_diag show of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Info {
    pub local: Option<Name>,
    pub peer: Option<Name>,
    /// TCP_ESTABLISHED and so on (tcp(7)); other protocols use the same numbers.
    pub state: u8,
    /// Bytes to read (connections to accept, for a listener) and bytes not yet read by the peer
    /// (a listener's backlog).
    pub receive_queue: u32,
    pub send_queue: u32,
    /// Messages lost for want of room.
    pub drops: u32,
}

/// Operations of a socket. Errors are those of the man pages; those of the defaults are what Linux
/// gives where a family has no such thing.
pub trait Socket: Any + Send + Sync {
    fn common(&self) -> &Common;

    fn as_any(&self) -> &dyn Any;

    fn bind(&self, t: &Task, address: &Name) -> Result<()>;

    fn listen(&self, _t: &Task, _backlog: i32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The next connection. EAGAIN if there is none yet.
    fn accept(&self) -> Result<Arc<dyn Socket>> {
        Err(Errno::EOPNOTSUPP)
    }

    fn connect(&self, t: &Task, address: &Name) -> Result<Connect>;

    /// The socket of the Sentry that an address leads to, in families where it is one: waited for
    /// as well when a message to it has no room.
    fn find(&self, _t: &Task, _address: &Name) -> Result<Option<Arc<dyn Socket>>> {
        Ok(None)
    }

    /// Sends what there is room for (packets: all or nothing). What was sent is taken out of `src`
    /// and `out`; EAGAIN if that is nothing.
    fn send(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize>;

    /// Takes what is there. `flags`: MSG_*. EAGAIN if there is nothing yet, Ok with a count of 0 at
    /// the end of a stream.
    fn receive(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received>;

    /// `read`, `write`: which directions end.
    fn shutdown(&self, read: bool, write: bool) -> Result<()>;

    fn local_name(&self) -> Result<Name>;

    fn peer_name(&self) -> Result<Name>;

    /// What poll(2) shows.
    fn ready(&self) -> Ready;

    /// setsockopt(2); `value` as the guest gave it. Families match their own and leave the rest to
    /// [`options::set`].
    fn set_option(&self, t: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        options::set(self.common(), t, level, name, value)
    }

    /// getsockopt(2); the caller cuts the value to the room the guest has, `room`. As `set_option`.
    fn option(&self, _t: &Task, level: i32, name: i32, _room: usize) -> Result<Vec<u8>> {
        options::get(self, level, name)
    }

    /// SO_ERROR: told once.
    fn take_error(&self) -> Option<Errno> {
        None
    }

    /// SO_ACCEPTCONN.
    fn is_listening(&self) -> bool {
        false
    }

    /// ioctl(2) of this family. ENOTTY: not one of its requests.
    fn ioctl(&self, _t: &Task, _cmd: u32, _arg: u64) -> Result<u64> {
        Err(Errno::ENOTTY)
    }

    /// For the tables of sockets.
    fn info(&self) -> Info {
        Info::default()
    }

    /// The last reference to the open file is gone.
    fn close(&self);
}
