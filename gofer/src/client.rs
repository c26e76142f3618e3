//! The Sentry's end: blocking calls over a small pool of channels.
//!
//! Each call takes a free channel, sends one frame and receives one. When the server goes away,
//! or answers with what is no answer, the client is dead for good: every call from then on gives
//! [`Error::Disconnected`], and [`Client::watch_fd`] becomes ready (`POLLHUP`). No caching and no
//! interpretation of paths here; that is the Sentry's business.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::{Condvar, Mutex};
use rustix::{
    event::{PollFd, PollFlags},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendFlags,
    },
};

use crate::{
    listing::{Known, Listing},
    protocol::*,
    wire::{RawHow, Reply, Request, TreeItem, WalkOpen},
};

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The host refused, or the request was out of bounds.
    #[error("{0}")]
    Errno(#[from] Errno),
    /// The Gofer is gone or no longer answers sensibly; the sandbox should end.
    #[error("the gofer is gone")]
    Disconnected,
}

impl Error {
    /// The error number a guest would be shown; `EIO` when disconnected.
    pub fn errno(self) -> i32 {
        match self {
            Self::Errno(errno) => errno.raw(),
            Self::Disconnected => libc::EIO,
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

struct Channel {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// Connection to a Gofer; share it freely between threads.
pub struct Client {
    /// Free channels, the one used last on top: its server thread and buffers are warm.
    free: Mutex<Vec<Channel>>,
    returned: Condvar,
    dead: AtomicBool,
    watch: OwnedFd,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

/// Makes `count` connected pairs of channels: the client's ends and the server's ends.
pub fn channel_pairs(count: usize) -> std::io::Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    let mut pairs = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let (client, server) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        pairs.0.push(client);
        pairs.1.push(server);
    }
    Ok(pairs)
}

impl Client {
    /// Takes the client's ends of the channels (at least one) whose other ends the server has.
    pub fn new(channels: Vec<OwnedFd>) -> std::io::Result<Self> {
        let watch = match channels.first() {
            Some(fd) => fd.try_clone()?,
            None => return Err(std::io::ErrorKind::InvalidInput.into()),
        };
        let free = channels
            .into_iter()
            .map(|fd| Channel {
                fd,
                buffer: Vec::new(),
            })
            .collect();
        Ok(Self {
            free: Mutex::new(free),
            returned: Condvar::new(),
            dead: AtomicBool::new(false),
            watch,
        })
    }

    /// An fd to poll for `POLLHUP`/`POLLRDHUP` (not `POLLIN`): set once the server is gone.
    pub fn watch_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Whether a call has found the server gone.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Blocks until the server is gone. For a thread of the Sentry that then ends the sandbox.
    pub fn wait_disconnected(&self) {
        let mut fds = [PollFd::new(&self.watch, PollFlags::RDHUP)];
        while let Ok(0) | Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut fds, None) {}
        self.dead.store(true, Ordering::Release);
    }

    /// Looks up `names` one after the other from the directory `dir`, and opens what it reaches
    /// if asked to. Symlinks are reported, never followed. A name that no directory can have
    /// (empty, `.`, `..`, with `/` or NUL) fails the whole call with `EINVAL`, and more than [`MAX_WALK`] of them with `E2BIG`. If `dir` is not
    /// (or no longer) a directory, either the call fails or the walk ends before its first name.
    pub fn walk(&self, dir: NodeRef<'_>, names: &[&[u8]], open: Option<OpenHow>) -> Result<Walk> {
        let names = join(names)?;
        let request = Request::Walk {
            dir,
            names: &names,
            open: open.map(RawHow::from),
        };
        match self.call(&request)? {
            (Reply::Walk { attrs, end, open }, fd) => {
                let opened = match (open, fd) {
                    (WalkOpen::NotTried, None) => None,
                    (WalkOpen::Opened, Some(fd)) => Some(Ok(fd)),
                    (WalkOpen::Failed(errno), None) => Some(Err(errno)),
                    _ => return Err(self.broken()),
                };
                Ok(Walk { attrs, end, opened })
            }
            _ => Err(self.broken()),
        }
    }

    pub fn getattr(&self, node: NodeRef<'_>) -> Result<Attr> {
        self.call_attr(&Request::GetAttr(node))
    }

    /// Opens a regular file (or a fifo, if the flags say so). Directories are never handed out
    /// (`EISDIR`), devices only on mounts that allow them (`EACCES`), symlinks give `ELOOP`.
    pub fn open(&self, node: NodeRef<'_>, how: OpenHow) -> Result<(OwnedFd, Attr)> {
        self.call_opened(&Request::Open {
            node,
            how: how.into(),
        })
    }

    /// `O_CREAT | O_EXCL`, with exactly `mode` (no umask is applied).
    pub fn create(
        &self,
        node: NodeRef<'_>,
        how: OpenHow,
        mode: u32,
        owner: Option<Owner>,
    ) -> Result<(OwnedFd, Attr)> {
        self.call_opened(&Request::Create {
            node,
            how: how.into(),
            mode,
            owner,
        })
    }

    pub fn mkdir(&self, node: NodeRef<'_>, mode: u32, owner: Option<Owner>) -> Result<Attr> {
        self.call_attr(&Request::MkDir { node, mode, owner })
    }

    pub fn mknod(
        &self,
        node: NodeRef<'_>,
        kind: NodeKind,
        mode: u32,
        owner: Option<Owner>,
    ) -> Result<Attr> {
        self.call_attr(&Request::MkNod {
            node,
            kind,
            mode,
            owner,
        })
    }

    /// A socket of the host's, which does not block, connected to the one at `node`. `ECONNREFUSED`
    /// also where that is not permitted, `EAGAIN` if the other one is busy.
    pub fn connect(&self, node: NodeRef<'_>, kind: SocketKind) -> Result<OwnedFd> {
        match self.call(&Request::Connect { node, kind })? {
            (Reply::Connected, Some(fd)) => Ok(fd),
            _ => Err(self.broken()),
        }
    }

    /// A socket's node and, where that is permitted, the socket of the host's that is bound to it.
    pub fn bind(
        &self,
        node: NodeRef<'_>,
        kind: SocketKind,
        mode: u32,
        owner: Option<Owner>,
    ) -> Result<(Option<OwnedFd>, Attr)> {
        let request = Request::Bind {
            node,
            kind,
            mode,
            owner,
        };
        match self.call(&request)? {
            (Reply::Opened(attr), Some(fd)) => Ok((Some(fd), attr)),
            (Reply::Attr(attr), None) => Ok((None, attr)),
            _ => Err(self.broken()),
        }
    }

    pub fn symlink(&self, node: NodeRef<'_>, target: &[u8], owner: Option<Owner>) -> Result<Attr> {
        self.call_attr(&Request::SymLink {
            node,
            target,
            owner,
        })
    }

    /// Makes `to` another name of `from`. Both must lie in the same mount (`EXDEV`).
    pub fn link(&self, from: NodeRef<'_>, to: NodeRef<'_>) -> Result<Attr> {
        self.call_attr(&Request::Link { from, to })
    }

    pub fn unlink(&self, node: NodeRef<'_>) -> Result<()> {
        self.call_done(&Request::Unlink(node))
    }

    pub fn rmdir(&self, node: NodeRef<'_>) -> Result<()> {
        self.call_done(&Request::RmDir(node))
    }

    /// Both must lie in the same mount (`EXDEV`).
    pub fn rename(&self, from: NodeRef<'_>, to: NodeRef<'_>, flags: RenameFlags) -> Result<()> {
        self.call_done(&Request::Rename {
            from,
            to,
            flags: flags.bits(),
        })
    }

    /// Applies the changes and reports the attributes after them.
    pub fn setattr(&self, node: NodeRef<'_>, set: &SetAttr) -> Result<Attr> {
        self.call_attr(&Request::SetAttr { node, set: *set })
    }

    pub fn readlink(&self, node: NodeRef<'_>) -> Result<Vec<u8>> {
        self.call_bytes(&Request::ReadLink(node))
    }

    /// The entries after `cookie` (0: from the start), as many as fit a message.
    pub fn readdir(
        &self,
        node: NodeRef<'_>,
        cookie: u64,
        detail: ReadDirDetail,
    ) -> Result<DirChunk> {
        match self.call(&Request::ReadDir {
            node,
            cookie,
            detail,
        })? {
            (Reply::Dir(chunk), None) => Ok(chunk),
            _ => Err(self.broken()),
        }
    }

    /// The whole directory. All pieces go over one channel, so the server reads on in the same
    /// open directory: an entry that exists throughout is reported exactly once, whatever
    /// happens to the others meanwhile.
    pub fn readdir_all(&self, node: NodeRef<'_>, detail: ReadDirDetail) -> Result<Vec<DirEntry>> {
        let mut channel = self.take_channel()?;
        let mut entries = Vec::new();
        let mut cookie = 0;
        let result = loop {
            let request = Request::ReadDir {
                node,
                cookie,
                detail,
            };
            match self.exchange(&mut channel, &request) {
                Ok(Answer {
                    reply: Reply::Dir(mut chunk),
                    ..
                }) => {
                    let last = chunk.entries.last().map(|entry| entry.cookie);
                    entries.append(&mut chunk.entries);
                    match last {
                        _ if chunk.end => break Ok(entries),
                        Some(last) => cookie = last,
                        None => break Err(self.broken()),
                    }
                }
                Ok(_) => break Err(self.broken()),
                Err(error) => break Err(error),
            }
        };
        self.give_back(channel);
        result
    }

    pub fn statfs(&self, node: NodeRef<'_>) -> Result<StatFs> {
        match self.call(&Request::StatFs(node))? {
            (Reply::StatFs(statfs), None) => Ok(statfs),
            _ => Err(self.broken()),
        }
    }

    pub fn getxattr(&self, node: NodeRef<'_>, name: &[u8]) -> Result<Vec<u8>> {
        self.call_bytes(&Request::GetXattr { node, name })
    }

    /// Values above [`MAX_XATTR`] bytes give `E2BIG`.
    pub fn setxattr(
        &self,
        node: NodeRef<'_>,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        self.call_done(&Request::SetXattr {
            node,
            name,
            value,
            mode,
        })
    }

    /// The names, each ended by a NUL byte, as listxattr(2) gives them.
    pub fn listxattr(&self, node: NodeRef<'_>) -> Result<Vec<u8>> {
        self.call_bytes(&Request::ListXattr(node))
    }

    pub fn removexattr(&self, node: NodeRef<'_>, name: &[u8]) -> Result<()> {
        self.call_done(&Request::RemoveXattr { node, name })
    }

    pub fn sync(&self, node: NodeRef<'_>, scope: SyncScope) -> Result<()> {
        self.call_done(&Request::Sync { node, scope })
    }

    /// Lists `dir` or, if there are `names`, those of its subdirectories, and what is below, each
    /// directory before what is in it: at most `count` of them, as many as fit a message. The first
    /// is always there: what went wrong with it is the call's error, `E2BIG` if it alone does not
    /// fit (then [`Client::readdir_all`] reads it). Others that cannot be read are left out.
    pub fn list_tree(
        &self,
        dir: NodeRef<'_>,
        names: &[&[u8]],
        count: u32,
        detail: ReadDirDetail,
    ) -> Result<Vec<TreeDir>> {
        let names = join(names)?;
        let request = Request::ListTree {
            dir,
            names: &names,
            count,
            detail,
        };
        let mut channel = self.take_channel()?;
        let result = match self.exchange(&mut channel, &request) {
            Ok(Answer {
                reply: Reply::Tree,
                rest,
                ..
            }) => {
                let body = channel.buffer.get(rest).unwrap_or_default();
                tree(body).ok_or_else(|| self.broken())
            }
            Ok(_) => Err(self.broken()),
            Err(error) => Err(error),
        };
        self.give_back(channel);
        result
    }

    /// Opens the regular files `names` (at most [`MAX_OPEN`]) of the directory `dir` for reading,
    /// those that can be opened. As the server opens, so [`Client::open`].
    pub fn open_many(
        &self,
        dir: NodeRef<'_>,
        names: &[&[u8]],
    ) -> Result<Vec<Option<(OwnedFd, Attr)>>> {
        let joined = join(names)?;
        let request = Request::OpenMany {
            dir,
            names: &joined,
        };
        let Answer { reply, fds, .. } = self.answer(&request)?;
        let Reply::OpenedMany(attrs) = reply else {
            return Err(self.broken());
        };
        let opened = attrs.iter().flatten().count();
        if attrs.len() != names.len() || opened != fds.len() {
            return Err(self.broken());
        }
        let mut fds = fds.into_iter();
        let take = |attr: Option<Attr>| attr.and_then(|attr| Some((fds.next()?, attr)));
        Ok(attrs.into_iter().map(take).collect())
    }

    fn call_attr(&self, request: &Request<'_>) -> Result<Attr> {
        match self.call(request)? {
            (Reply::Attr(attr), None) => Ok(attr),
            _ => Err(self.broken()),
        }
    }

    fn call_opened(&self, request: &Request<'_>) -> Result<(OwnedFd, Attr)> {
        match self.call(request)? {
            (Reply::Opened(attr), Some(fd)) => Ok((fd, attr)),
            _ => Err(self.broken()),
        }
    }

    fn call_done(&self, request: &Request<'_>) -> Result<()> {
        match self.call(request)? {
            (Reply::Done, None) => Ok(()),
            _ => Err(self.broken()),
        }
    }

    fn call_bytes(&self, request: &Request<'_>) -> Result<Vec<u8>> {
        match self.call(request)? {
            (Reply::Bytes(bytes), None) => Ok(bytes),
            _ => Err(self.broken()),
        }
    }

    fn call(&self, request: &Request<'_>) -> Result<(Reply, Option<OwnedFd>)> {
        let answer = self.answer(request)?;
        let mut fds = answer.fds.into_iter();
        match (fds.next(), fds.next()) {
            (fd, None) => Ok((answer.reply, fd)),
            _ => Err(self.broken()),
        }
    }

    fn answer(&self, request: &Request<'_>) -> Result<Answer> {
        let mut channel = self.take_channel()?;
        let result = self.exchange(&mut channel, request);
        self.give_back(channel);
        result
    }

    fn take_channel(&self) -> Result<Channel> {
        let mut free = self.free.lock();
        loop {
            if self.is_dead() {
                return Err(Error::Disconnected);
            }
            match free.pop() {
                Some(channel) => return Ok(channel),
                None => self.returned.wait(&mut free),
            }
        }
    }

    fn give_back(&self, channel: Channel) {
        self.free.lock().push(channel);
        if self.is_dead() {
            self.returned.notify_all();
        } else {
            self.returned.notify_one();
        }
    }

    /// Marks the client dead: the server broke the protocol or is gone.
    fn broken(&self) -> Error {
        self.dead.store(true, Ordering::Release);
        Error::Disconnected
    }

    fn exchange(&self, channel: &mut Channel, request: &Request<'_>) -> Result<Answer> {
        if channel.buffer.is_empty() {
            // Fresh zeroes from the allocator: pages nobody writes to cost nothing.
            channel.buffer = vec![0; MAX_FRAME];
        }
        let Channel { fd, buffer } = channel;
        let length = match postcard::to_slice(request, buffer) {
            Ok(used) => used.len(),
            Err(_) => return Err(Errno(libc::E2BIG).into()),
        };
        let frame = buffer.get(..length).unwrap_or_default();
        send(fd.as_fd(), frame).map_err(|_| self.broken())?;
        let (length, fds) = receive(fd.as_fd(), buffer).map_err(|_| self.broken())?;
        // This process has too many open: our trouble, not the server's mistake.
        let fds = fds.ok_or(Errno(libc::EMFILE))?;
        let frame = buffer.get(..length).unwrap_or_default();
        match postcard::take_from_bytes(frame) {
            Ok((Reply::Failed(errno), _)) => Err(errno.into()),
            Ok((reply, rest)) => Ok(Answer {
                reply,
                fds,
                rest: length.saturating_sub(rest.len())..length,
            }),
            Err(_) => Err(self.broken()),
        }
    }
}

/// What the server answered.
struct Answer {
    reply: Reply,
    fds: Vec<OwnedFd>,
    /// What follows the reply in the channel's buffer.
    rest: std::ops::Range<usize>,
}

/// The directories in what follows [`Reply::Tree`]; `None` if it is something else.
fn tree(mut body: &[u8]) -> Option<Vec<TreeDir>> {
    let mut dirs: Vec<TreeDir> = Vec::new();
    while !body.is_empty() {
        let (item, rest) = postcard::take_from_bytes(body).ok()?;
        body = rest;
        match item {
            TreeItem::Directory { above, name } => {
                let above = above.map(usize::try_from).transpose().ok()?;
                if above.is_some_and(|above| above >= dirs.len()) {
                    return None;
                }
                if let Some(before) = dirs.last_mut() {
                    before.listing.shrink();
                }
                dirs.push(TreeDir {
                    above,
                    name: name.to_vec(),
                    listing: Listing::default(),
                });
            }
            TreeItem::Entry {
                name,
                ino,
                file_type,
                attr,
                target,
                plain,
            } => {
                let known = attr.map(|attr| Known {
                    attr,
                    target: target.map(Box::from),
                    plain,
                });
                let listing = &mut dirs.last_mut()?.listing;
                listing.push(name, ino, file_type, known);
            }
        }
    }
    let last = dirs.last_mut()?;
    last.listing.shrink();
    Some(dirs)
}

/// The names as requests have them; `EINVAL` if they were others afterwards.
fn join(names: &[&[u8]]) -> Result<Vec<u8>> {
    let odd = |name: &&[u8]| name.is_empty() || name.contains(&b'/');
    if names.iter().any(odd) {
        return Err(Errno(libc::EINVAL).into());
    }
    Ok(names.join(&b'/'))
}

impl From<OpenHow> for RawHow {
    fn from(how: OpenHow) -> Self {
        Self {
            access: how.access,
            flags: how.flags.bits(),
        }
    }
}

fn send(fd: BorrowedFd<'_>, frame: &[u8]) -> rustix::io::Result<()> {
    let slices = [IoSlice::new(frame)];
    let mut control = SendAncillaryBuffer::default();
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(fd, &slices, &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// A frame's length and the fds that came with it; `None` if there was no room for all of them.
type Received = (usize, Option<Vec<OwnedFd>>);

/// Receives one frame. End of file and cut-off frames are errors.
fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_OPEN))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut slices = [IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(fd, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            other => break other?,
        }
    };
    let mut passed = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            passed.extend(fds);
        }
    }
    if message.bytes == 0 || message.flags.contains(ReturnFlags::TRUNC) {
        return Err(rustix::io::Errno::CONNRESET);
    }
    let all = !message.flags.contains(ReturnFlags::CTRUNC);
    Ok((message.bytes, all.then_some(passed)))
}
