//! Inodes of an overlay: attributes, content, pinning.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::dir::Entries;
use super::file::{DirFile, RegularFile};
use super::{Link, OverlayFs};
use crate::errno::{Errno, Result};
use crate::fs::anon::internal_file;
use crate::fs::extra::InodeExtra;
use crate::fs::file::FileOps;
use crate::fs::inode::{
    Attr, Chain, Dev, Exchange, FileType, Inode, LookupHint, Names, NewNode, OpenFlags, SetAttr,
    SocketKind, StatFs, XattrFlags,
};
use crate::fs::meta::{Identity, Meta};
use crate::fs::tmpfs::data::Data;

/// What the node knows itself; the lower file answers for the rest.
pub(super) struct Own {
    pub meta: Option<Meta>,
    /// Extended attributes are in `meta`, not in the lower file.
    xattrs: bool,
}

/// The content of a regular file.
enum Content {
    /// Nobody has it open.
    Closed,
    /// Unchanged; goes when the last one closes it.
    Unchanged(Weak<Data>),
    Own(Arc<Data>),
}

pub(super) enum Body {
    Regular,
    Dir,
    /// None: ask the lower one.
    Symlink(Option<Box<[u8]>>),
    Special(Dev),
}

/// Where a node is, while it is not pinned there otherwise.
pub(super) struct Place {
    pub parent: Weak<Node>,
    pub name: Box<[u8]>,
}

/// A file of the merged tree.
pub struct Node {
    pub(super) me: Weak<Node>,
    pub(super) fs: Arc<OverlayFs>,
    kind: FileType,
    ino: u64,
    dev: Dev,
    pub(super) lower: Option<Arc<dyn Inode>>,
    /// Number in the table of lower files with several names.
    link: Option<(Dev, u64)>,
    body: Body,
    pub(super) own: Mutex<Own>,
    content: Mutex<Content>,
    /// Set when `content` is `Own`; saves the lock.
    has_content: AtomicBool,
    pub(super) entries: Mutex<Entries>,
    /// Locked before the parent's entries.
    pub(super) place: Mutex<Option<Place>>,
    pinned: AtomicBool,
    extra: InodeExtra,
}

impl Node {
    /// The node for a lower inode found at `place`.
    pub(super) fn lower(
        fs: &Arc<OverlayFs>,
        lower: Arc<dyn Inode>,
        place: Option<Place>,
    ) -> Result<Arc<Node>> {
        let attr = lower.attr()?;
        let key = (attr.dev, attr.ino);
        let linked = attr.nlink > 1 && attr.kind != FileType::Dir;
        let make = || {
            let body = match attr.kind {
                FileType::Regular => Body::Regular,
                FileType::Dir => Body::Dir,
                FileType::Symlink => Body::Symlink(None),
                _ => Body::Special(attr.rdev),
            };
            let own = Own {
                meta: None,
                xattrs: false,
            };
            let id = (attr.ino, fs.device(attr.dev));
            Self::make(
                fs,
                attr.kind,
                id,
                Some(lower),
                body,
                own,
                place,
                linked.then_some(key),
            )
        };
        if !linked {
            return Ok(make());
        }
        let mut links = fs.links.lock();
        let known = match links.get(&key) {
            Some(Link::Pinned(node)) => Some(node.clone()),
            Some(Link::Unchanged(node)) => node.upgrade(),
            None => None,
        };
        if let Some(node) = known.filter(|n| n.kind == attr.kind) {
            return Ok(node);
        }
        if links.len() > 8192 && links.len().is_power_of_two() {
            links.retain(|_, l| match l {
                Link::Pinned(_) => true,
                Link::Unchanged(node) => node.strong_count() > 0,
            });
        }
        let node = make();
        links.insert(key, Link::Unchanged(Arc::downgrade(&node)));
        Ok(node)
    }

    /// Something that is in no lower tree.
    pub(super) fn new(
        fs: &Arc<OverlayFs>,
        kind: FileType,
        new: &NewNode,
        nlink: u32,
        body: Body,
    ) -> Arc<Node> {
        let own = Own {
            meta: Some(Meta::new(new, nlink)),
            xattrs: true,
        };
        let node = Self::make(
            fs,
            kind,
            (fs.new_ino(), fs.dev),
            None,
            body,
            own,
            None,
            None,
        );
        if kind == FileType::Regular {
            *node.content.lock() = Content::Own(Data::new(fs.space.clone()));
            node.has_content.store(true, Ordering::Release);
        }
        node.set_pinned();
        node
    }

    #[expect(clippy::too_many_arguments, reason = "private, two callers")]
    fn make(
        fs: &Arc<OverlayFs>,
        kind: FileType,
        (ino, dev): (u64, Dev),
        lower: Option<Arc<dyn Inode>>,
        body: Body,
        own: Own,
        place: Option<Place>,
        link: Option<(Dev, u64)>,
    ) -> Arc<Node> {
        Arc::new_cyclic(|me| Node {
            me: me.clone(),
            fs: fs.clone(),
            kind,
            ino,
            dev,
            lower,
            link,
            body,
            own: Mutex::new(own),
            content: Mutex::new(Content::Closed),
            has_content: AtomicBool::new(false),
            entries: Mutex::default(),
            place: Mutex::new(place),
            pinned: AtomicBool::new(false),
            extra: InodeExtra::default(),
        })
    }

    pub(super) fn arc(&self) -> Result<Arc<Node>> {
        self.me.upgrade().ok_or(Errno::ESTALE)
    }

    pub(super) fn ino(&self) -> u64 {
        self.ino
    }

    pub(super) fn set_pinned(&self) {
        self.pinned.store(true, Ordering::Release);
    }

    /// Makes sure that this node, and no fresh one, is found under its name from now on.
    fn pin(&self) {
        let mut at = self.me.upgrade();
        while let Some(node) = at {
            if node.pinned.swap(true, Ordering::AcqRel) {
                break;
            }
            if let Some(key) = node.link {
                node.fs.links.lock().insert(key, Link::Pinned(node.clone()));
            }
            // Nobody can remove or rename it while its place is locked.
            let place = node.place.lock();
            let parent = place.as_ref().and_then(|p| p.parent.upgrade());
            if let (Some(place), Some(parent)) = (&*place, &parent)
                && node.link.is_none()
            {
                parent.entries.lock().pin(&place.name, node.clone());
            }
            at = parent;
        }
    }

    /// Gives the node attributes of its own and changes them.
    pub(super) fn update(&self, change: impl FnOnce(&mut Meta)) -> Result<()> {
        let mut own = self.own.lock();
        if own.meta.is_none()
            && let Some(lower) = &self.lower
        {
            own.meta = Some(Meta::copy_of(&lower.attr()?));
        }
        if let Some(meta) = &mut own.meta {
            change(meta);
        }
        drop(own);
        self.pin();
        Ok(())
    }

    /// A name is gone.
    pub(super) fn dropped(&self) {
        let mut left = 0;
        let _ = self.update(|meta| {
            meta.changed();
            meta.nlink = match self.kind {
                FileType::Dir => 0,
                _ => meta.nlink.saturating_sub(1),
            };
            left = meta.nlink;
        });
        if let (0, Some(key)) = (left, self.link) {
            let gone = self.fs.links.lock().remove(&key);
            drop(gone);
        }
    }

    /// The content, for reading and mapping.
    pub(super) fn content(&self) -> Result<Arc<Data>> {
        let mut content = self.content.lock();
        match &*content {
            Content::Own(data) => return Ok(data.clone()),
            Content::Unchanged(data) => {
                if let Some(data) = data.upgrade() {
                    return Ok(data);
                }
            }
            Content::Closed => {}
        }
        let lower = self.lower.as_ref().ok_or(Errno::EIO)?;
        let file = internal_file(lower.clone(), OpenFlags::empty())?;
        let size = file.attr()?.size;
        let data = Data::over(self.fs.space.clone(), file, size);
        *content = Content::Unchanged(Arc::downgrade(&data));
        Ok(data)
    }

    /// The content, about to be changed.
    pub(super) fn own_content(&self, data: Option<&Arc<Data>>) -> Result<Arc<Data>> {
        if self.kind != FileType::Regular {
            return Err(Errno::EINVAL);
        }
        if self.has_content.load(Ordering::Acquire)
            && let Some(data) = data
        {
            return Ok(data.clone());
        }
        let data = self.content()?;
        data.make_own();
        *self.content.lock() = Content::Own(data.clone());
        self.has_content.store(true, Ordering::Release);
        self.update(|_| {})?;
        Ok(data)
    }

    /// Takes the lower file's extended attributes over.
    fn own_xattrs(&self) -> Result<()> {
        if self.own.lock().xattrs {
            return Ok(());
        }
        let mut copied = Vec::new();
        if let Some(lower) = &self.lower {
            for name in lower.list_xattr()? {
                if let Ok(value) = lower.get_xattr(&name) {
                    copied.push((name, value));
                }
            }
        }
        self.update(|_| {})?;
        let mut own = self.own.lock();
        let own = &mut *own;
        if let Some(meta) = &mut own.meta
            && !own.xattrs
        {
            own.xattrs = true;
            for (name, value) in copied {
                meta.copy_xattr(name, value);
            }
        }
        Ok(())
    }

    /// Runs `own` on our extended attributes, or `lower` on the lower file's.
    fn xattrs<T>(
        &self,
        own: impl FnOnce(&Meta) -> Result<T>,
        lower: impl FnOnce(&Arc<dyn Inode>) -> Result<T>,
    ) -> Result<T> {
        {
            let state = self.own.lock();
            if let (true, Some(meta)) = (state.xattrs, &state.meta) {
                return own(meta);
            }
        }
        lower(self.lower.as_ref().ok_or(Errno::EIO)?)
    }

    pub(super) fn has_own_content(&self) -> bool {
        self.has_content.load(Ordering::Acquire)
    }

    pub(super) fn has_own_xattrs(&self) -> bool {
        self.lower.is_some() && self.own.lock().xattrs
    }

    pub(super) fn of(inode: &Arc<dyn Inode>) -> Result<Arc<Node>> {
        let any: Arc<dyn Any + Send + Sync> = inode.clone();
        any.downcast().map_err(|_| Errno::EXDEV)
    }
}

impl Inode for Node {
    fn attr(&self) -> Result<Attr> {
        let data = match &*self.content.lock() {
            Content::Own(data) => Some(data.clone()),
            _ => None,
        };
        let own = self.own.lock();
        let Some(meta) = &own.meta else {
            drop(own);
            let lower = self.lower.as_ref().ok_or(Errno::EIO)?;
            return Ok(Attr {
                ino: self.ino,
                dev: self.dev,
                ..lower.attr()?
            });
        };
        let (size, blocks) = match (&data, &self.body, &self.lower) {
            (Some(data), ..) => data.usage(),
            (_, Body::Symlink(Some(target)), _) => (target.len() as u64, 0),
            (_, _, Some(lower)) => {
                let attr = lower.attr()?;
                (attr.size, attr.blocks)
            }
            (_, Body::Dir, None) => (4096, 8),
            _ => (0, 0),
        };
        let rdev = match self.body {
            Body::Special(rdev) => rdev,
            _ => Dev::default(),
        };
        Ok(meta.attr(Identity {
            kind: self.kind,
            ino: self.ino,
            dev: self.dev,
            rdev,
            size,
            blocks,
        }))
    }

    fn kind(&self) -> FileType {
        self.kind
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        if let Some(size) = change.size {
            self.own_content(None)?.resize(size)?;
        }
        self.update(|meta| meta.apply(change))
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        match self.kind {
            FileType::Regular => {
                let data = self.content()?;
                Ok(Arc::new(RegularFile::new(self, data)))
            }
            FileType::Dir => Ok(Arc::new(DirFile::new(self))),
            _ => Err(Errno::ENXIO),
        }
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let chain = self.lookup_chain(&[name], LookupHint::None)?;
        chain.found.into_iter().next().ok_or(Errno::ENOENT)
    }

    fn lookup_chain(&self, names: &[&[u8]], hint: LookupHint) -> Result<Chain> {
        self.chain(names, hint, &[])
    }

    fn lookup_again(
        &self,
        names: &[&[u8]],
        hint: LookupHint,
        known: &[Arc<dyn Inode>],
    ) -> Result<Chain> {
        self.chain(names, hint, known)
    }

    fn names(&self) -> Names {
        self.lower.as_ref().map_or(Names::Kept, |l| l.names())
    }

    fn create(&self, name: &[u8], new: &NewNode) -> Result<Arc<dyn Inode>> {
        let node = Node::new(&self.fs, FileType::Regular, new, 1, Body::Regular);
        self.add(name, node)
    }

    fn mkdir(&self, name: &[u8], new: &NewNode) -> Result<Arc<dyn Inode>> {
        self.add(name, Node::new(&self.fs, FileType::Dir, new, 2, Body::Dir))
    }

    fn tmpfile(&self, new: &NewNode) -> Result<Arc<dyn Inode>> {
        Ok(Node::new(
            &self.fs,
            FileType::Regular,
            new,
            0,
            Body::Regular,
        ))
    }

    fn mknod(
        &self,
        name: &[u8],
        new: &NewNode,
        kind: FileType,
        rdev: Dev,
    ) -> Result<Arc<dyn Inode>> {
        match kind {
            FileType::Regular => self.create(name, new),
            FileType::Fifo | FileType::Socket | FileType::Char | FileType::Block => {
                self.add(name, Node::new(&self.fs, kind, new, 1, Body::Special(rdev)))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn connect_socket(&self, kind: SocketKind) -> Result<OwnedFd> {
        let lower = self.lower.as_ref().ok_or(Errno::ECONNREFUSED)?;
        lower.connect_socket(kind)
    }

    fn symlink(&self, name: &[u8], new: &NewNode, target: &[u8]) -> Result<Arc<dyn Inode>> {
        let body = Body::Symlink(Some(target.into()));
        self.add(name, Node::new(&self.fs, FileType::Symlink, new, 1, body))
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let target = Node::of(target)?;
        target.update(|meta| {
            meta.nlink = meta.nlink.saturating_add(1);
            meta.changed();
        })?;
        self.add(name, target).map(drop)
    }

    fn unlink(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        self.remove(name, &Node::of(child)?)
    }

    fn rmdir(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        let child = Node::of(child)?;
        if !child.is_empty()? {
            return Err(Errno::ENOTEMPTY);
        }
        self.remove(name, &child)
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
        let replaced = replaced.map(Node::of).transpose()?;
        let (moved, new_dir) = (Node::of(moved)?, Node::of(new_dir)?);
        self.move_entry(
            name,
            &moved,
            &new_dir,
            new_name,
            replaced.as_ref(),
            exchange,
        )
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        match (&self.body, &self.lower) {
            (Body::Symlink(Some(target)), _) => Ok(target.to_vec()),
            (Body::Symlink(None), Some(lower)) => lower.readlink(),
            _ => Err(Errno::EINVAL),
        }
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(self.fs.statfs())
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.xattrs(|own| own.get_xattr(name), |lower| lower.get_xattr(name))
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        self.own_xattrs()?;
        let mut own = self.own.lock();
        let meta = own.meta.as_mut().ok_or(Errno::EIO)?;
        meta.set_xattr(name, value, flags)
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        self.xattrs(|own| Ok(own.list_xattr()), |lower| lower.list_xattr())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        // Most files have none: look before copying anything up.
        self.get_xattr(name)?;
        self.own_xattrs()?;
        let mut own = self.own.lock();
        own.meta.as_mut().ok_or(Errno::EIO)?.remove_xattr(name)
    }

    /// What is written is copied up.
    fn drop_file_caps(&self) {
        if let Some(meta) = &mut self.own.lock().meta {
            meta.drop_file_caps();
        }
    }

    /// A read alone does not copy anything up.
    fn accessed(&self, strict: bool) {
        if let Some(meta) = &mut self.own.lock().meta {
            meta.accessed(strict);
        }
    }

    fn extra(&self) -> &InodeExtra {
        &self.extra
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Node {
    /// Directories are taken apart one by one: the guest decides how deep they nest.
    fn drop(&mut self) {
        let mut left = std::mem::take(self.entries.get_mut()).into_nodes();
        while let Some(node) = left.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                left.append(&mut std::mem::take(node.entries.get_mut()).into_nodes());
            }
        }
    }
}
