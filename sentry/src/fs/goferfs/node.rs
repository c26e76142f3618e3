//! Inodes of a Gofer tree.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use runsc_gofer::protocol::{
    self, Access, NodeKind, NodeRef, OpenHow, Owner, RenameFlags, SyncScope, WalkEnd, XattrMode,
};

use super::ahead::Directory;
use super::file::{DirFile, HostFile};
use super::list::Found;
use super::names::Name;
use super::{GoferFs, ROOT_NAMES_NS, Trust, errno};
use crate::errno::{Errno, Result};
use crate::fs::extra::InodeExtra;
use crate::fs::file::FileOps;
use crate::fs::inode::{
    Attr, Chain, Dev, Exchange, FileType, Inode, LookupHint, Names, NewNode, OpenFlags, SetAttr,
    SetTime, SocketKind, StatFs, XattrFlags,
};
use crate::fs::moment::{Moment, now_ns};

struct Known {
    attr: Attr,
    /// Nothing that we know of has happened since that could have changed it.
    fresh: bool,
    /// When it was learned.
    moment: Moment,
    at_ns: u64,
    /// When a name was seen to lead here.
    there: Moment,
    /// Of a symlink.
    target: Option<Box<[u8]>>,
}

/// A file of a Gofer tree.
pub struct Node {
    pub(super) fs: Arc<GoferFs>,
    me: Weak<Node>,
    kind: FileType,
    /// Empty for the root and when the last name is gone.
    pub(super) names: Mutex<Vec<Name>>,
    pub(super) is_root: bool,
    known: Mutex<Known>,
    /// A host fd that may be used again, and whether it can write.
    open: Mutex<Option<(Access, Weak<OwnedFd>)>>,
    /// Of a layer, until we change the directory.
    pub(super) listing: Mutex<Option<Arc<Directory>>>,
    /// Look-ups since it had no listing.
    pub(super) asked: AtomicU32,
    /// Orders appends.
    pub(super) append: Mutex<()>,
    extra: InodeExtra,
}

impl Node {
    fn make(fs: Arc<GoferFs>, at: Option<Name>, attr: Attr, target: Option<Vec<u8>>) -> Arc<Node> {
        Arc::new_cyclic(|me| Node {
            me: me.clone(),
            kind: attr.kind,
            is_root: at.is_none(),
            names: Mutex::new(at.into_iter().collect()),
            known: Mutex::new(Known {
                attr,
                fresh: true,
                moment: Moment::now(),
                at_ns: now_ns(),
                there: Moment::now(),
                target: target.map(Vec::into_boxed_slice),
            }),
            open: Mutex::new(None),
            listing: Mutex::new(None),
            asked: AtomicU32::new(0),
            append: Mutex::new(()),
            extra: InodeExtra::default(),
            fs,
        })
    }

    pub(super) fn root(fs: Arc<GoferFs>, attr: &protocol::Attr) -> Result<Arc<Node>> {
        let attr = fs.attr(attr)?;
        Ok(Self::make(fs, None, attr, None))
    }

    /// The node for `name` of `parent`, which the Gofer has just described.
    pub(super) fn child(
        parent: &Arc<Node>,
        name: &[u8],
        attr: &protocol::Attr,
        target: Option<Vec<u8>>,
    ) -> Result<Arc<Node>> {
        let fs = &parent.fs;
        let attr = fs.attr(attr)?;
        let at = Name {
            parent: parent.clone(),
            name: name.into(),
        };
        if attr.nlink < 2 || attr.kind == FileType::Dir {
            return Ok(Self::make(fs.clone(), Some(at), attr, target));
        }
        let mut links = fs.links.lock();
        let key = (attr.dev, attr.ino);
        if let Some(node) = links.get(&key).and_then(Weak::upgrade)
            && same_file(&node.known(), &attr)
        {
            node.add_name(at);
            node.learn(attr);
            return Ok(node);
        }
        if links.len() > 4096 {
            links.retain(|_, n| n.strong_count() > 0);
        }
        let node = Self::make(fs.clone(), Some(at), attr, target);
        links.insert(key, Arc::downgrade(&node));
        Ok(node)
    }

    pub(super) fn node_ref<'a>(&self, path: &'a [u8]) -> NodeRef<'a> {
        NodeRef::new(self.fs.mount, path)
    }

    /// The Gofer has told, asked by a path.
    fn learn(&self, attr: Attr) {
        let mut known = self.known.lock();
        known.there = Moment::now();
        known.set(attr);
    }

    /// Something may have changed the attributes.
    pub(super) fn stale(&self) {
        self.known.lock().fresh = false;
        self.unlist();
    }

    /// Listings that show old attributes of this node are of no use any more.
    fn unlist(&self) {
        if self.fs.trust.is_layer() {
            self.fs.ahead.changed();
        }
        let names = self.names.lock();
        for Name { parent, .. } in names.iter() {
            let old = parent.listing.lock().take();
            drop(old);
        }
    }

    /// An entry of this directory came or went.
    fn entries_changed(&self) {
        let old = self.listing.lock().take();
        drop(old);
        self.stale();
    }

    /// Attributes, asked of `fd` if they are not known.
    pub(super) fn attr_by(&self, fd: &OwnedFd) -> Result<Attr> {
        let old = {
            let known = self.known.lock();
            if known.holds(self.fs.trust) {
                return Ok(known.attr);
            }
            known.attr
        };
        let attr = self.fs.attr_of_fd(fd, &old)?;
        self.known.lock().set(attr);
        Ok(attr)
    }

    pub(super) fn known(&self) -> Attr {
        self.known.lock().attr
    }

    fn reuse(&self, access: Access) -> Option<Arc<OwnedFd>> {
        let slot = self.open.lock();
        let (has, fd) = slot.as_ref()?;
        let fits = access == *has || *has == Access::ReadWrite || access == Access::Read;
        // What was opened for writing only cannot be read.
        let fits = fits && !(access == Access::Read && *has == Access::Write);
        fd.upgrade().filter(|_| fits)
    }

    pub(super) fn keep_open(&self, access: Access, fd: OwnedFd) -> Arc<OwnedFd> {
        let fd = Arc::new(fd);
        *self.open.lock() = Some((access, Arc::downgrade(&fd)));
        self.fs.keep(&fd);
        fd
    }

    /// Asks the Gofer for `names`, of which the first led to `before` when they were asked for last.
    pub(super) fn walk(
        self: &Arc<Self>,
        names: &[&[u8]],
        hint: LookupHint,
        before: &[Arc<dyn Inode>],
    ) -> Result<Chain> {
        let before: Vec<Arc<Node>> = before.iter().map_while(|inode| node(inode).ok()).collect();
        let is_open = names.len() == before.len()
            && before
                .last()
                .is_some_and(|n| n.reuse(Access::Read).is_some());
        let open = (hint == LookupHint::OpenRead && !is_open).then(OpenHow::read);
        let path = self.path()?;
        let walk = self.fs.client.walk(self.node_ref(&path), names, open);
        let walk = walk.map_err(errno)?;
        let mut chain = Chain {
            found: Vec::with_capacity(walk.attrs.len()),
            missing: matches!(walk.end, WalkEnd::Missing),
        };
        if let (WalkEnd::Failed(e), true) = (&walk.end, walk.attrs.is_empty()) {
            return Err(Errno::from_raw(e.raw()));
        }
        let count = walk.attrs.len();
        let mut target = match walk.end {
            WalkEnd::Symlink(target) => Some(target),
            _ => None,
        };
        let mut parent = self.clone();
        for (i, (attr, name)) in walk.attrs.iter().zip(names).enumerate() {
            let target = target.take_if(|_| i + 1 == count);
            let new = self.fs.attr(attr)?;
            let child = match before.get(i) {
                Some(node) if node.is_at(&parent, name) && same_file(&node.known(), &new) => {
                    node.learn(new);
                    node.clone()
                }
                _ => Node::child(&parent, name, attr, target)?,
            };
            chain.found.push(child.clone());
            parent = child;
        }
        if let Some(Ok(fd)) = walk.opened {
            parent.keep_open(Access::Read, fd);
        }
        Ok(chain)
    }

    fn set(&self, change: &SetAttr) -> protocol::SetAttr {
        let time = |t: Option<SetTime>| match t {
            None => protocol::SetTime::Omit,
            Some(SetTime::Now) => protocol::SetTime::Now,
            Some(SetTime::At(t)) => protocol::SetTime::To(protocol::Timestamp {
                sec: t.sec,
                nsec: t.nsec,
            }),
        };
        protocol::SetAttr {
            mode: change.perm,
            uid: change.uid.map(|u| u.0),
            gid: change.gid.map(|g| g.0),
            size: change.size,
            atime: time(change.atime),
            mtime: time(change.mtime),
        }
    }

    fn made(
        self: &Arc<Self>,
        name: &[u8],
        attr: &protocol::Attr,
        target: Option<Vec<u8>>,
    ) -> Result<Arc<Node>> {
        self.entries_changed();
        Node::child(self, name, attr, target)
    }

    /// `&self` as the Arc it lives in.
    fn arc(&self) -> Result<Arc<Node>> {
        self.me.upgrade().ok_or(Errno::ESTALE)
    }
}

impl Known {
    fn set(&mut self, attr: Attr) {
        self.attr = attr;
        self.fresh = true;
        self.moment = Moment::now();
        self.at_ns = now_ns();
    }

    fn holds(&self, trust: Trust) -> bool {
        self.fresh && (self.moment.lasts() || trust.holds(self.at_ns))
    }
}

/// Whether these are attributes of one file.
fn same_file(a: &Attr, b: &Attr) -> bool {
    (a.kind, a.dev, a.ino, a.btime) == (b.kind, b.dev, b.ino, b.btime)
}

/// The hint is about the last name.
fn hint_for(rest: &[&[u8]], hint: LookupHint) -> LookupHint {
    if rest.is_empty() {
        hint
    } else {
        LookupHint::None
    }
}

fn owner(node: &NewNode) -> Option<Owner> {
    Some(Owner {
        uid: node.uid.0,
        gid: node.gid.0,
    })
}

fn node(inode: &Arc<dyn Inode>) -> Result<Arc<Node>> {
    let any: Arc<dyn Any + Send + Sync> = inode.clone();
    any.downcast().map_err(|_| Errno::EXDEV)
}

impl Inode for Node {
    fn attr(&self) -> Result<Attr> {
        {
            let known = self.known.lock();
            if known.holds(self.fs.trust) {
                return Ok(known.attr);
            }
        }
        let open = self.open.lock().as_ref().and_then(|(_, fd)| fd.upgrade());
        if let Some(fd) = open {
            return self.attr_by(&fd);
        }
        match self.ask()? {
            Some(attr) => Ok(attr),
            None => {
                let nlink = 0;
                let known = self.known();
                Ok(Attr { nlink, ..known })
            }
        }
    }

    fn kind(&self) -> FileType {
        self.kind
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        if !self.is_there()? {
            // Nobody but us can still see it; what the open fd cannot change is kept here.
            let mut known = self.known.lock();
            known.attr.perm = change.perm.unwrap_or(known.attr.perm);
            known.attr.uid = change.uid.unwrap_or(known.attr.uid);
            known.attr.gid = change.gid.unwrap_or(known.attr.gid);
            return Ok(());
        }
        let path = self.path()?;
        let attr = self
            .fs
            .client
            .setattr(self.node_ref(&path), &self.set(change));
        match attr {
            Ok(attr) => {
                self.learn(self.fs.attr(&attr)?);
                self.unlist();
                Ok(())
            }
            Err(e) => {
                self.stale();
                Err(errno(e))
            }
        }
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        match self.kind {
            FileType::Dir => return Ok(Arc::new(DirFile::new(self))),
            FileType::Regular => {}
            _ => return Err(Errno::ENXIO),
        }
        let access = match (flags.readable(), flags.writable()) {
            (_, false) => Access::Read,
            (false, true) => Access::Write,
            (true, true) => Access::ReadWrite,
        };
        if let Some(fd) = self.reuse(access) {
            return Ok(Arc::new(HostFile::new(self, fd)));
        }
        if access == Access::Read
            && let Some((fd, attr)) = self.open_ahead()
        {
            self.learn(self.fs.attr(&attr)?);
            let fd = self.keep_open(access, fd);
            return Ok(Arc::new(HostFile::new(self, fd)));
        }
        let mut host = protocol::OpenFlags::empty();
        if flags.contains(OpenFlags::DSYNC) {
            host |= protocol::OpenFlags::DSYNC;
        }
        if flags.contains(OpenFlags::SYNC) {
            host |= protocol::OpenFlags::SYNC;
        }
        let path = self.path()?;
        let how = OpenHow::new(access, host);
        let opened = self.fs.client.open(self.node_ref(&path), how);
        let (fd, attr) = opened.map_err(errno)?;
        self.learn(self.fs.attr(&attr)?);
        let fd = if host.is_empty() {
            self.keep_open(access, fd)
        } else {
            Arc::new(fd)
        };
        Ok(Arc::new(HostFile::new(self, fd)))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let chain = self.lookup_chain(&[name], LookupHint::None)?;
        chain.found.into_iter().next().ok_or(Errno::ENOENT)
    }

    fn lookup_chain(&self, names: &[&[u8]], hint: LookupHint) -> Result<Chain> {
        self.lookup_again(names, hint, &[])
    }

    fn lookup_again(
        &self,
        names: &[&[u8]],
        hint: LookupHint,
        known: &[Arc<dyn Inode>],
    ) -> Result<Chain> {
        let this = self.arc()?;
        let Some((first, rest)) = names.split_first() else {
            return Ok(Chain::default());
        };
        let found = match this.find(first, hint_for(rest, hint))? {
            Found::Unknown => {
                return match this.walk(names, hint, known) {
                    // It lies in a directory that is gone.
                    Err(Errno::ESTALE) => Err(Errno::ENOENT),
                    other => other,
                };
            }
            Found::Missing => {
                return Ok(Chain {
                    found: Vec::new(),
                    missing: true,
                });
            }
            Found::There(child) => child,
        };
        let (child, known) = match known.split_first() {
            Some((old, below)) if old.is_same(&(found.clone() as Arc<dyn Inode>)) => {
                let old = node(old)?;
                old.add_name(Name {
                    parent: this.clone(),
                    name: (*first).into(),
                });
                old.learn(found.known());
                (old, below)
            }
            _ => (found, &[][..]),
        };
        let mut chain = Chain {
            found: vec![child.clone()],
            missing: false,
        };
        if child.kind == FileType::Dir
            && !rest.is_empty()
            && let Ok(below) = child.lookup_again(rest, hint, known)
        {
            chain.found.extend(below.found);
            chain.missing = below.missing;
        }
        Ok(chain)
    }

    fn names(&self) -> Names {
        match self.fs.trust {
            Trust::Layer(u64::MAX) => Names::Kept,
            Trust::Layer(ns) => Names::For(ns),
            Trust::Root => Names::For(ROOT_NAMES_NS),
            Trust::Shared => Names::Asked,
        }
    }

    fn is_same(&self, other: &Arc<dyn Inode>) -> bool {
        node(other).is_ok_and(|other| same_file(&self.known(), &other.known()))
    }

    fn name_lost(&self, dir: &Arc<dyn Inode>, name: &[u8]) {
        if let Ok(dir) = node(dir) {
            self.drop_name(&dir, name);
        }
    }

    fn create(&self, name: &[u8], new: &NewNode) -> Result<Arc<dyn Inode>> {
        let this = self.arc()?;
        let path = self.child_path(name)?;
        let how = OpenHow::new(Access::ReadWrite, protocol::OpenFlags::empty());
        let made = self
            .fs
            .client
            .create(self.node_ref(&path), how, new.perm, owner(new));
        let (fd, attr) = made.map_err(errno)?;
        let child = this.made(name, &attr, None)?;
        child.keep_open(Access::ReadWrite, fd);
        Ok(child)
    }

    fn mkdir(&self, name: &[u8], new: &NewNode) -> Result<Arc<dyn Inode>> {
        let path = self.child_path(name)?;
        let made = self
            .fs
            .client
            .mkdir(self.node_ref(&path), new.perm, owner(new));
        Ok(self.arc()?.made(name, &made.map_err(errno)?, None)?)
    }

    fn mknod(
        &self,
        name: &[u8],
        new: &NewNode,
        kind: FileType,
        rdev: Dev,
    ) -> Result<Arc<dyn Inode>> {
        let Dev { major, minor } = rdev;
        let kind = match kind {
            FileType::Regular => NodeKind::Regular,
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::Char => NodeKind::Char { major, minor },
            FileType::Block => NodeKind::Block { major, minor },
            _ => return Err(Errno::EINVAL),
        };
        let path = self.child_path(name)?;
        let made = self
            .fs
            .client
            .mknod(self.node_ref(&path), kind, new.perm, owner(new));
        Ok(self.arc()?.made(name, &made.map_err(errno)?, None)?)
    }

    fn bind_socket(
        &self,
        name: &[u8],
        new: &NewNode,
        kind: SocketKind,
    ) -> Result<(Arc<dyn Inode>, Option<OwnedFd>)> {
        let path = self.child_path(name)?;
        let made = self
            .fs
            .client
            .bind(self.node_ref(&path), kind, new.perm, owner(new));
        let (fd, attr) = made.map_err(errno)?;
        Ok((self.arc()?.made(name, &attr, None)?, fd))
    }

    fn connect_socket(&self, kind: SocketKind) -> Result<OwnedFd> {
        let path = self.path()?;
        let connected = self.fs.client.connect(self.node_ref(&path), kind);
        connected.map_err(errno)
    }

    fn symlink(&self, name: &[u8], new: &NewNode, target: &[u8]) -> Result<Arc<dyn Inode>> {
        let path = self.child_path(name)?;
        let made = self
            .fs
            .client
            .symlink(self.node_ref(&path), target, owner(new));
        let made = made.map_err(errno)?;
        Ok(self.arc()?.made(name, &made, Some(target.to_vec()))?)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let target = node(target)?;
        let (from, to) = (target.path()?, self.child_path(name)?);
        let attr = self
            .fs
            .client
            .link(self.node_ref(&from), self.node_ref(&to));
        let attr = self.fs.attr(&attr.map_err(errno)?)?;
        self.entries_changed();
        target.add_name(Name {
            parent: self.arc()?,
            name: name.into(),
        });
        let key = (attr.dev, attr.ino);
        self.fs.links.lock().insert(key, Arc::downgrade(&target));
        target.learn(attr);
        Ok(())
    }

    fn unlink(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        let path = self.child_path(name)?;
        let done = self.fs.client.unlink(self.node_ref(&path));
        done.map_err(errno)?;
        self.entries_changed();
        node(child)?.drop_name(self, name);
        Ok(())
    }

    fn rmdir(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        let path = self.child_path(name)?;
        let done = self.fs.client.rmdir(self.node_ref(&path));
        done.map_err(errno)?;
        self.entries_changed();
        node(child)?.drop_name(self, name);
        Ok(())
    }

    fn rename(
        &self,
        name: &[u8],
        moved: &Arc<dyn Inode>,
        new_dir: &Arc<dyn Inode>,
        new_name: &[u8],
        replaced: Option<&Arc<dyn Inode>>,
        exchange: Exchange,
    ) -> Result<()> {
        let new_dir = node(new_dir)?;
        let (from, to) = (self.child_path(name)?, new_dir.child_path(new_name)?);
        let flags = match exchange {
            Exchange::Yes => RenameFlags::EXCHANGE,
            Exchange::No => RenameFlags::empty(),
        };
        let done = self
            .fs
            .client
            .rename(self.node_ref(&from), self.node_ref(&to), flags);
        done.map_err(errno)?;
        self.entries_changed();
        new_dir.entries_changed();
        let here = Name {
            parent: self.arc()?,
            name: name.into(),
        };
        let there = Name {
            parent: new_dir.clone(),
            name: new_name.into(),
        };
        if let Some(replaced) = replaced {
            let replaced = node(replaced)?;
            if exchange == Exchange::Yes {
                replaced.add_name(here);
            }
            replaced.drop_name(&new_dir, new_name);
        }
        let moved = node(moved)?;
        moved.add_name(there);
        moved.drop_name(self, name);
        Ok(())
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        if self.kind != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        if self.fs.trust.is_layer()
            && let Some(target) = &self.known.lock().target
        {
            return Ok(target.to_vec());
        }
        let path = self.path()?;
        let target = self.fs.client.readlink(self.node_ref(&path));
        let target = target.map_err(errno)?;
        self.known.lock().target = Some(target.clone().into());
        Ok(target)
    }

    fn statfs(&self) -> Result<StatFs> {
        let path = self.path()?;
        let statfs = self.fs.client.statfs(self.node_ref(&path));
        let statfs = statfs.map_err(errno)?;
        Ok(StatFs {
            magic: statfs.magic,
            block_size: statfs.block_size,
            blocks: statfs.blocks,
            blocks_free: statfs.blocks_free,
            blocks_avail: statfs.blocks_available,
            files: statfs.files,
            files_free: statfs.files_free,
            fsid: self.fs.dev.encode(),
            name_max: statfs.name_max,
        })
    }

    fn sync_fs(&self) -> Result<()> {
        let root = NodeRef::root(self.fs.mount);
        let done = self.fs.client.sync(root, SyncScope::FileSystem);
        done.map_err(errno)
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let file = self.known();
        let plain = self.is_plain();
        if plain && let Some(answer) = self.fs.without(&file, name) {
            return Err(answer);
        }
        let path = self.path()?;
        let value = self.fs.client.getxattr(self.node_ref(&path), name);
        let value = value.map_err(errno);
        if plain && let Err(answer) = value {
            self.fs.learn_without(&file, name, answer);
        }
        value
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        let mode = if flags.contains(XattrFlags::CREATE) {
            XattrMode::Create
        } else if flags.contains(XattrFlags::REPLACE) {
            XattrMode::Replace
        } else {
            XattrMode::Any
        };
        let path = self.path()?;
        let done = self
            .fs
            .client
            .setxattr(self.node_ref(&path), name, value, mode);
        self.stale();
        done.map_err(errno)
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        if self.is_plain() {
            return Ok(Vec::new());
        }
        let path = self.path()?;
        let names = self.fs.client.listxattr(self.node_ref(&path));
        let names = names.map_err(errno)?;
        let names = names.split(|b| *b == 0).filter(|n| !n.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        let path = self.path()?;
        let done = self.fs.client.removexattr(self.node_ref(&path), name);
        self.stale();
        done.map_err(errno)
    }

    fn extra(&self) -> &InodeExtra {
        &self.extra
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Node {
    /// Asks the Gofer for the attributes. None: no name leads here any more.
    fn ask(&self) -> Result<Option<Attr>> {
        let path = match self.path() {
            Ok(path) => path,
            Err(Errno::ESTALE) => return Ok(None),
            Err(e) => return Err(e),
        };
        let attr = match self.fs.client.getattr(self.node_ref(&path)).map_err(errno) {
            Ok(attr) => self.fs.attr(&attr)?,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(e) => return Err(e),
        };
        if !same_file(&self.known(), &attr) {
            return Ok(None);
        }
        self.learn(attr);
        Ok(Some(attr))
    }

    /// Whether a name leads here, as far as is known of this moment.
    fn is_there(&self) -> Result<bool> {
        if self.known.lock().there.lasts() {
            return Ok(self.has_name());
        }
        Ok(self.ask()?.is_some())
    }

    /// fsync(2) of a directory, which only the Gofer has open.
    pub(super) fn sync_node(&self) -> Result<()> {
        let path = self.path()?;
        let done = self.fs.client.sync(self.node_ref(&path), SyncScope::Node);
        done.map_err(errno)
    }
}

impl Drop for Node {
    /// Parents are let go one by one: the guest decides how deep it gets.
    fn drop(&mut self) {
        let mut left: Vec<Name> = std::mem::take(self.names.get_mut());
        while let Some(name) = left.pop() {
            if let Some(mut parent) = Arc::into_inner(name.parent) {
                left.append(parent.names.get_mut());
            }
        }
    }
}
