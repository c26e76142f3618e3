//! Path walk (path_resolution(7), openat2(2)): from text to a place in the tree.
//!
//! A [`Walk`] holds the place reached and a stack of texts still to go: the path given, and above it
//! the targets of symlinks met on the way. [`Walk::to_last`] goes to the last component, which the
//! caller looks up, creates, removes or opens; [`Ctx::lookup`] is the common case. On a dentry miss
//! the names that follow are handed to the file system too, so one far away answers them in one trip.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::context::{FsContext, View};
use crate::fs::dentry::{Child, Dentry};
use crate::fs::inode::{FileType, LookupHint, MagicTarget};
use crate::fs::mount::MountFlags;
use crate::fs::path::PathRef;
use crate::fs::perm;
use crate::kernel::cred::Credentials;

/// Longest name, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest path with its NUL, in bytes.
pub const PATH_MAX: usize = 4096;
/// Symlinks followed in one walk.
const MAX_LINKS: u32 = 40;
/// Names handed to the file system at once.
const MAX_AHEAD: usize = 64;

bitflags::bitflags! {
    /// How to walk. The RESOLVE_* flags of openat2(2) and what the *at calls ask for.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct WalkFlags: u32 {
        /// Follow the last component if it is a symlink.
        const FOLLOW = 1;
        /// ENOTDIR unless it ends at a directory.
        const DIRECTORY = 2;
        /// An empty path means the starting point (AT_EMPTY_PATH).
        const EMPTY = 4;
        /// A regular file at the end is about to be opened for reading.
        const OPEN_READ = 8;
        const NO_XDEV = 0x100;
        const NO_MAGICLINKS = 0x200;
        const NO_SYMLINKS = 0x400;
        const BENEATH = 0x800;
        const IN_ROOT = 0x1000;
        const CACHED = 0x2000;
    }
}

/// Where relative paths start.
#[derive(Clone)]
pub enum Base {
    Cwd,
    At(PathRef),
}

/// Who walks: namespace, root, current directory and rights, at one moment.
pub struct Ctx {
    pub view: Arc<View>,
    pub creds: Arc<Credentials>,
}

impl Deref for Ctx {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl DerefMut for Ctx {
    /// A changed view is this walker's own.
    fn deref_mut(&mut self) -> &mut View {
        Arc::make_mut(&mut self.view)
    }
}

/// The last component of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// A name; `slash`: slashes follow it.
    Name {
        name: Vec<u8>,
        slash: bool,
    },
    Dot,
    DotDot,
    /// There is none: the path is `/`, or a magic link led straight to the place.
    Nothing,
}

/// A directory and what is to be done something with in it.
pub struct Parent {
    pub dir: PathRef,
    pub last: Last,
}

struct Piece<'c> {
    text: Cow<'c, [u8]>,
    pos: usize,
}

/// A walk under way.
pub struct Walk<'c> {
    ctx: &'c Ctx,
    flags: WalkFlags,
    /// The root of a walk that must not leave the place it started at; None: the walker's root.
    scope: Option<PathRef>,
    pub at: PathRef,
    path: Piece<'c>,
    /// Of the symlinks met, the innermost last.
    targets: Vec<Piece<'c>>,
    links: u32,
    must_be_dir: bool,
}

/// A component of the text that is worked on.
enum Component {
    /// Where in the text.
    Name(Range<usize>),
    Dot,
    DotDot,
}

struct Step {
    component: Component,
    /// Slashes follow.
    slash: bool,
    /// Nothing but slashes follows, in any text.
    last: bool,
}

impl Ctx {
    pub fn new(fs: &FsContext, creds: Arc<Credentials>) -> Ctx {
        Ctx {
            view: fs.view(),
            creds,
        }
    }

    fn base(&self, base: &Base) -> PathRef {
        match base {
            Base::Cwd => self.cwd.clone(),
            Base::At(place) => place.clone(),
        }
    }

    /// Starts a walk.
    ///
    /// # Errors
    /// ENOENT for an empty path, ENOTDIR if a relative path starts at no directory.
    pub fn walk<'c>(&'c self, base: &Base, path: &'c [u8], flags: WalkFlags) -> Result<Walk<'c>> {
        if path.is_empty() && !flags.contains(WalkFlags::EMPTY) {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let scoped = flags.intersects(WalkFlags::BENEATH | WalkFlags::IN_ROOT);
        let absolute = path.first() == Some(&b'/');
        if absolute && flags.contains(WalkFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        let from_root = absolute && !scoped;
        let start = if from_root {
            self.root.clone()
        } else {
            self.base(base)
        };
        if !start.dentry.is_dir() && !path.is_empty() && !from_root {
            return Err(Errno::ENOTDIR);
        }
        Ok(Walk {
            ctx: self,
            flags,
            scope: scoped.then(|| start.clone()),
            at: start,
            path: Piece {
                text: Cow::Borrowed(path),
                pos: 0,
            },
            targets: Vec::new(),
            links: 0,
            must_be_dir: flags.contains(WalkFlags::DIRECTORY),
        })
    }

    /// The place a path leads to.
    pub fn lookup(&self, base: &Base, path: &[u8], flags: WalkFlags) -> Result<PathRef> {
        self.walk(base, path, flags)?.to_end()
    }

    /// Everything but the last component.
    pub fn parent(&self, base: &Base, path: &[u8], flags: WalkFlags) -> Result<Parent> {
        let mut walk = self.walk(base, path, flags)?;
        let last = walk.to_last()?;
        Ok(Parent { dir: walk.at, last })
    }

    /// A child of a directory, with what is mounted on it; no permission check.
    pub fn child(&self, dir: &PathRef, name: &[u8]) -> Result<Option<PathRef>> {
        let child = dir.dentry.lookup(&[name], LookupHint::None)?;
        Ok(child.map(|d| self.namespace.cross(PathRef::new(dir.mount.clone(), d))))
    }
}

impl<'c> Walk<'c> {
    fn root(&self) -> &PathRef {
        self.scope.as_ref().unwrap_or(&self.ctx.root)
    }

    /// The text that is worked on.
    fn top(&self) -> &Piece<'c> {
        self.targets.last().unwrap_or(&self.path)
    }

    /// The name at a place in the text that is worked on.
    fn name(&self, place: &Range<usize>) -> &[u8] {
        &self.top().text[place.clone()]
    }

    /// The next component, None at the end.
    fn next(&mut self) -> Option<Step> {
        let place = loop {
            let piece = self.targets.last_mut().unwrap_or(&mut self.path);
            let rest = &piece.text[piece.pos..];
            let skip = rest.iter().take_while(|b| **b == b'/').count();
            let rest = &rest[skip..];
            if rest.is_empty() {
                self.targets.pop()?;
                continue;
            }
            let len = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
            let start = piece.pos + skip;
            piece.pos = start + len;
            break start..start + len;
        };
        let (mut slash, mut last) = (false, true);
        for piece in std::iter::once(&self.path).chain(&self.targets) {
            let rest = &piece.text[piece.pos..];
            slash |= !rest.is_empty();
            last &= rest.iter().all(|b| *b == b'/');
        }
        let component = match self.name(&place) {
            b"." => Component::Dot,
            b".." => Component::DotDot,
            _ => Component::Name(place),
        };
        Some(Step {
            component,
            slash,
            last,
        })
    }

    /// Walks to the last component; `self.at` is the directory it is looked up in.
    pub fn to_last(&mut self) -> Result<Last> {
        Ok(match self.last_step()? {
            None => Last::Nothing,
            Some(Step {
                component, slash, ..
            }) => match component {
                Component::Dot => Last::Dot,
                Component::DotDot => Last::DotDot,
                Component::Name(place) => Last::Name {
                    name: self.name(&place).to_vec(),
                    slash,
                },
            },
        })
    }

    /// As `to_last`, the name left in the text.
    fn last_step(&mut self) -> Result<Option<Step>> {
        loop {
            let Some(step) = self.next() else {
                return Ok(None);
            };
            if !self.at.dentry.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            perm::check_search(self.at.inode(), &self.ctx.creds)?;
            if step.last {
                return Ok(Some(step));
            }
            match step.component {
                Component::Name(place) => {
                    let child = self.lookup(self.name(&place))?.ok_or(Errno::ENOENT)?;
                    if child.inode().kind() == FileType::Symlink {
                        self.follow(&child, false)?;
                    } else {
                        self.enter(child)?;
                    }
                    // A magic link can lead anywhere.
                    if !self.at.dentry.is_dir() {
                        return Err(Errno::ENOTDIR);
                    }
                }
                Component::DotDot => self.up()?,
                Component::Dot => {}
            }
        }
    }

    /// Walks to the end of the path.
    pub fn to_end(mut self) -> Result<PathRef> {
        self.finish()?;
        Ok(self.at)
    }

    /// As `to_end`, keeping the walk.
    pub fn finish(&mut self) -> Result<()> {
        while let Some(step) = self.last_step()? {
            match step.component {
                Component::Dot => break,
                Component::DotDot => {
                    self.up()?;
                    break;
                }
                Component::Name(place) => {
                    self.must_be_dir |= step.slash;
                    let child = self.lookup(self.name(&place))?.ok_or(Errno::ENOENT)?;
                    let follow = step.slash || self.flags.contains(WalkFlags::FOLLOW);
                    if child.inode().kind() == FileType::Symlink && follow {
                        self.follow(&child, true)?;
                        continue;
                    }
                    self.enter(child)?;
                    break;
                }
            }
        }
        self.check_end()
    }

    /// ENOTDIR if the path asked for a directory and this is none; the end of a scoped walk must
    /// still lie inside (it always does) and exist.
    pub fn check_end(&self) -> Result<()> {
        if self.must_be_dir && !self.at.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        Ok(())
    }

    /// The child `name` of where the walk is, without what is mounted on it.
    pub fn lookup(&self, name: &[u8]) -> Result<Option<Arc<Dentry>>> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        match self.at.dentry.cached(name) {
            Some(Child::There(child)) => Ok(Some(child)),
            Some(Child::Missing) => Ok(None),
            None if self.flags.contains(WalkFlags::CACHED) => Err(Errno::EAGAIN),
            None => self.lookup_ahead(name),
        }
    }

    fn lookup_ahead(&self, name: &[u8]) -> Result<Option<Arc<Dentry>>> {
        let mut names = vec![name];
        let mut complete = true;
        let top = self.top();
        for next in top.text[top.pos..].split(|b| *b == b'/') {
            if next.is_empty() {
                continue;
            }
            if matches!(next, b"." | b"..") || next.len() > NAME_MAX || names.len() == MAX_AHEAD {
                complete = false;
                break;
            }
            names.push(next);
        }
        complete &= self.targets.is_empty();
        let hint = if complete && self.flags.contains(WalkFlags::OPEN_READ) {
            LookupHint::OpenRead
        } else {
            LookupHint::None
        };
        self.at.dentry.lookup(&names, hint)
    }

    /// Goes to `child` of where the walk is and onto what is mounted there.
    pub fn enter(&mut self, child: Arc<Dentry>) -> Result<()> {
        if !child.is_mount_point() {
            self.at.dentry = child;
            return Ok(());
        }
        let before = self.at.mount.id;
        let child = PathRef::new(self.at.mount.clone(), child);
        self.at = self.ctx.namespace.cross(child);
        if self.flags.contains(WalkFlags::NO_XDEV) && self.at.mount.id != before {
            return Err(Errno::EXDEV);
        }
        Ok(())
    }

    /// `..`
    pub fn up(&mut self) -> Result<()> {
        if self.at.same(self.root()) {
            return if self.flags.contains(WalkFlags::BENEATH) {
                Err(Errno::EXDEV)
            } else {
                Ok(())
            };
        }
        let mut at = self.at.clone();
        while at.is_mount_root() {
            let Some(below) = at.mount.attached_to() else {
                // The root of a namespace, or of a detached tree.
                return Ok(());
            };
            if self.flags.contains(WalkFlags::NO_XDEV) {
                return Err(Errno::EXDEV);
            }
            at = below;
            if at.same(self.root()) {
                break;
            }
        }
        if let Some(parent) = at.dentry.parent()
            && !at.same(self.root())
        {
            at.dentry = parent;
        }
        let before = at.mount.id;
        self.at = self.ctx.namespace.cross(at);
        if self.flags.contains(WalkFlags::NO_XDEV) && self.at.mount.id != before {
            return Err(Errno::EXDEV);
        }
        Ok(())
    }

    /// Follows the symlink `link`, a child of where the walk is: its target comes next.
    pub fn follow(&mut self, link: &Dentry, last: bool) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS
            || self.flags.contains(WalkFlags::NO_SYMLINKS)
            || self.at.mount.flags().contains(MountFlags::NOSYMFOLLOW)
        {
            return Err(Errno::ELOOP);
        }
        let inode = link.inode();
        if last {
            let dir = self.at.inode().attr()?;
            if dir.perm & 0o1002 == 0o1002 {
                perm::check_follow(&dir, &inode.attr()?, &self.ctx.creds)?;
            }
        }
        if let Some(target) = inode.magic_link() {
            if self.flags.contains(WalkFlags::NO_MAGICLINKS) {
                return Err(Errno::ELOOP);
            }
            let target = match target? {
                MagicTarget::Path(path) => path,
                MagicTarget::File(file) => file.path().clone(),
            };
            if self
                .flags
                .intersects(WalkFlags::BENEATH | WalkFlags::IN_ROOT)
            {
                return Err(Errno::EXDEV);
            }
            if self.flags.contains(WalkFlags::NO_XDEV) && target.mount.id != self.at.mount.id {
                return Err(Errno::EXDEV);
            }
            self.at = target;
            return Ok(());
        }
        if self.flags.contains(WalkFlags::CACHED) {
            return Err(Errno::EAGAIN);
        }
        let text = inode.readlink()?;
        if !self.at.mount.flags().contains(MountFlags::NOATIME) && !self.at.mount.is_readonly() {
            inode.accessed(false);
        }
        if text.is_empty() {
            return Err(Errno::ENOENT);
        }
        if text.first() == Some(&b'/') {
            if self.flags.contains(WalkFlags::BENEATH) {
                return Err(Errno::EXDEV);
            }
            if self.flags.contains(WalkFlags::NO_XDEV) && self.root().mount.id != self.at.mount.id {
                return Err(Errno::EXDEV);
            }
            self.at = self.root().clone();
        }
        self.targets.push(Piece {
            text: Cow::Owned(text),
            pos: 0,
        });
        Ok(())
    }
}
