//! Listings of directories, and look-ups that they answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use runsc_gofer::listing::{Known, Listed, Listing};
use runsc_gofer::protocol::{ReadDirDetail, TreeDir};

use super::ahead::{Directory, OpenFile};
use super::errno;
use super::names::Name;
use super::node::Node;
use crate::errno::{Errno, Result};
use crate::fs::inode::{FileType, LookupHint};

/// Look-ups in one directory after which all of it is asked for, and how many when that has lately
/// been of use in others.
const MANY_LOOKUPS: u32 = 4;
const FEW_LOOKUPS: u32 = 1;
/// Subdirectories named in one message, and the bytes of their names.
const MAX_NAMES: usize = 256;
const MAX_NAME_BYTES: usize = 16 << 10;

/// What is known of a name.
pub(super) enum Found {
    /// Nothing: the Gofer has to be asked.
    Unknown,
    Missing,
    There(Arc<Node>),
}

/// The type of an entry, if the host has told.
pub(super) fn kind(entry: &Listed<'_>) -> Option<FileType> {
    match entry.known {
        Some(known) => FileType::from_mode(known.attr.mode),
        None => FileType::from_mode(u32::from(entry.file_type) << 12)
            .filter(|kind| *kind != FileType::Anonymous),
    }
}

impl Node {
    /// All entries of this directory.
    pub(super) fn listing(&self) -> Result<Arc<Directory>> {
        if let Some(listing) = self.listed() {
            return Ok(listing);
        }
        let path = self.path().map_err(|e| match e {
            // As Linux says it of a directory that was removed.
            Errno::ESTALE => Errno::ENOENT,
            other => other,
        })?;
        if !self.fs.trust.is_layer() {
            return self.list_all(&path, ReadDirDetail::Names);
        }
        let ahead = &self.fs.ahead;
        let changes = ahead.changes();
        if let Some(listing) = ahead.take(&path)
            && self.fs.trust.holds(listing.at_ns)
        {
            return Ok(self.keep_listing(changes, listing));
        }
        let detail = ahead.detail();
        let listing = match self.list_some(&path, detail, changes) {
            Err(Errno::E2BIG) => self.list_all(&path, detail)?,
            other => other?,
        };
        Ok(self.keep_listing(changes, listing))
    }

    /// The listing that is kept, as long as it holds.
    fn listed(&self) -> Option<Arc<Directory>> {
        let mut kept = self.listing.lock();
        let holds = |d: &Arc<Directory>| self.fs.trust.holds(d.at_ns);
        let old = kept.take_if(|d| !holds(d));
        if old.is_some() {
            self.asked.store(0, Ordering::Relaxed);
        }
        kept.clone()
    }

    fn keep_listing(&self, changes: u64, listing: Arc<Directory>) -> Arc<Directory> {
        let mut kept = self.listing.lock();
        if self.fs.ahead.changes() == changes {
            *kept = Some(listing.clone());
        }
        listing
    }

    /// However long it is.
    fn list_all(&self, path: &[u8], detail: ReadDirDetail) -> Result<Arc<Directory>> {
        let found = self.fs.client.readdir_all(self.node_ref(path), detail);
        let mut listing = Listing::default();
        for entry in found.map_err(errno)? {
            let target = entry.target.map(Vec::into_boxed_slice);
            let known = entry.attr.map(|attr| Known {
                attr,
                target,
                plain: false,
            });
            listing.push(&entry.name, entry.ino, entry.file_type, known);
        }
        listing.shrink();
        Ok(Arc::new(Directory::new(listing, detail)))
    }

    /// With what a walk comes to after it, or alone. E2BIG if it does not fit one message.
    fn list_some(
        &self,
        path: &[u8],
        detail: ReadDirDetail,
        changes: u64,
    ) -> Result<Arc<Directory>> {
        let walk = match self.name()? {
            Some(at) => self.list_walk(&at, detail, changes),
            None => None,
        };
        walk.unwrap_or_else(|| self.list_one(path, detail))
    }

    /// E2BIG if it does not fit one message.
    fn list_one(&self, path: &[u8], detail: ReadDirDetail) -> Result<Arc<Directory>> {
        let dirs = self
            .fs
            .client
            .list_tree(self.node_ref(path), &[], 1, detail);
        let first = dirs.map_err(errno)?.into_iter().next();
        let listing = first.ok_or(Errno::EIO)?.listing;
        Ok(Arc::new(Directory::new(listing, detail)))
    }

    /// Lists this directory, which is `at`, and what a walk comes to after it. None: there is no
    /// walk, as the directory above was not listed. E2BIG as for `list_one`.
    fn list_walk(
        &self,
        at: &Name,
        detail: ReadDirDetail,
        changes: u64,
    ) -> Option<Result<Arc<Directory>>> {
        let above = at.parent.listed()?;
        let start = above.listing.find(&at.name)?;
        let window = self.fs.ahead.tree_window();
        let mut names = vec![&*at.name];
        let mut room = MAX_NAME_BYTES;
        {
            let brought = above.brought.lock();
            // Who goes by other orders than the host's comes back for what lies before.
            let others = (start.saturating_add(1)..above.listing.len()).chain(0..start);
            for index in others.filter(|index| !brought.contains(index)) {
                let entry = above.listing.get(index)?;
                if names.len() >= MAX_NAMES.min(window as usize) || room < entry.name.len() {
                    break;
                }
                if entry.file_type == libc::DT_DIR {
                    room -= entry.name.len();
                    names.push(entry.name);
                }
            }
        }
        let path = at.parent.path().ok()?;
        let node = self.node_ref(&path);
        let dirs = self.fs.client.list_tree(node, &names, window, detail);
        let mut dirs = match dirs {
            Ok(dirs) => dirs.into_iter(),
            Err(e) => return Some(Err(errno(e))),
        };
        let first = dirs.next()?;
        let dirs = dirs.inspect(|dir| {
            let index = || above.listing.find(&dir.name);
            let index = dir.above.is_none().then(index).flatten();
            above.brought.lock().extend(index);
        });
        above.brought.lock().insert(start);
        let brought = with_paths(path, &first, dirs, detail);
        self.fs.ahead.put(changes, brought);
        Some(Ok(Arc::new(Directory::new(first.listing, detail))))
    }

    /// What is known of `name`. Sees from how it is asked what would be good to know.
    pub(super) fn find(self: &Arc<Self>, name: &[u8], hint: LookupHint) -> Result<Found> {
        if !self.fs.trust.is_layer() {
            return Ok(Found::Unknown);
        }
        let Some(directory) = self.listed() else {
            return self.find_unlisted(name);
        };
        self.find_in(&directory, name, hint)
    }

    /// What is known of `name`, though this directory was not listed.
    fn find_unlisted(self: &Arc<Self>, name: &[u8]) -> Result<Found> {
        let ahead = &self.fs.ahead;
        let changes = ahead.changes();
        if ahead.has_listings()
            && let Some(directory) = ahead.take(&self.path()?)
            && self.fs.trust.holds(directory.at_ns)
        {
            let directory = self.keep_listing(changes, directory);
            return self.find_in(&directory, name, LookupHint::None);
        }
        let enough = match ahead.wants_attributes() {
            true => FEW_LOOKUPS,
            false => MANY_LOOKUPS,
        };
        // One that is too long is tried once.
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked < enough || asked > MANY_LOOKUPS {
            return Ok(Found::Unknown);
        }
        self.asked.store(MANY_LOOKUPS + 1, Ordering::Relaxed);
        self.find_in_all(name)
    }

    fn find_in(
        self: &Arc<Self>,
        directory: &Directory,
        name: &[u8],
        hint: LookupHint,
    ) -> Result<Found> {
        let Some(at) = directory.listing.find(name) else {
            self.fs.ahead.use_attributes();
            return Ok(Found::Missing);
        };
        let Some(entry) = directory.listing.get(at) else {
            return Ok(Found::Unknown);
        };
        if let Some(known) = entry.known {
            if entry.file_type != libc::DT_DIR && hint != LookupHint::OpenRead {
                self.fs.ahead.use_attributes();
            }
            return self.found(name, known);
        }
        if hint == LookupHint::OpenRead && entry.file_type == libc::DT_REG {
            let Some((fd, attr)) = self.open_entry(directory, at, name) else {
                return Ok(Found::Unknown);
            };
            let child = Node::child(self, name, &attr, None)?;
            child.keep_open(runsc_gofer::protocol::Access::Read, fd);
            return Ok(Found::There(child));
        }
        let unknown = directory.unknown.fetch_add(1, Ordering::Relaxed);
        // Of a long directory some may be looked at without all being worth it.
        if unknown as usize == 1 + directory.listing.len() / 64 {
            return self.find_in_all(name);
        }
        Ok(Found::Unknown)
    }

    fn found(self: &Arc<Self>, name: &[u8], known: &Known) -> Result<Found> {
        let target = known.target.as_deref().map(<[u8]>::to_vec);
        Node::child(self, name, &known.attr, target).map(Found::There)
    }

    /// Asks for the attributes of all entries, as far as they fit a message.
    fn find_in_all(self: &Arc<Self>, name: &[u8]) -> Result<Found> {
        self.fs.ahead.use_attributes();
        let Some(directory) = self.list_again(self.fs.ahead.detail()) else {
            return Ok(Found::Unknown);
        };
        let Some(at) = directory.listing.find(name) else {
            return Ok(Found::Missing);
        };
        match directory.listing.get(at).and_then(|entry| entry.known) {
            Some(known) => self.found(name, known),
            None => Ok(Found::Unknown),
        }
    }

    /// Lists this directory, though it may have been, for more detail.
    fn list_again(&self, detail: ReadDirDetail) -> Option<Arc<Directory>> {
        let changes = self.fs.ahead.changes();
        let path = self.path().ok()?;
        let directory = self.list_some(&path, detail, changes).ok()?;
        Some(self.keep_listing(changes, directory))
    }

    /// Whether this file has no extended attributes for sure.
    pub(super) fn is_plain(&self) -> bool {
        let plain = || {
            let at = self.name().ok()??;
            let mut directory = at.parent.listed()?;
            if directory.detail != ReadDirDetail::All {
                let unknown = directory.unknown_xattrs.fetch_add(1, Ordering::Relaxed);
                if unknown as usize != 2 + directory.listing.len() / 64 {
                    return None;
                }
                directory = at.parent.list_again(ReadDirDetail::All)?;
            }
            self.fs.ahead.use_xattrs();
            let index = directory.listing.find(&at.name)?;
            Some(directory.listing.get(index)?.known?.plain)
        };
        self.fs.trust.is_layer() && plain().unwrap_or(false)
    }

    /// Opens this regular file for reading, if a guest opens the files of its directory one after
    /// the other.
    pub(super) fn open_ahead(&self) -> Option<OpenFile> {
        let at = self.name().ok()??;
        let directory = at.parent.listed()?;
        let index = directory.listing.find(&at.name)?;
        at.parent.open_entry(&directory, index, &at.name)
    }

    /// Opens the file `name`, number `at` of this directory, and those that come next. None: it is
    /// to be opened by itself.
    fn open_entry(&self, directory: &Directory, at: usize, name: &[u8]) -> Option<OpenFile> {
        let ahead = &self.fs.ahead;
        let changes = ahead.changes();
        let window = match ahead.open(directory, at, &self.child_path(name).ok()?) {
            Ok(file) if self.fs.trust.holds(directory.at_ns) => return Some(file),
            Ok(_) => return None,
            Err(window) if window < 2 => return None,
            Err(window) => window as usize,
        };
        let files = directory.listing.from(at);
        let files = files.filter(|entry| entry.file_type == libc::DT_REG);
        let names: Vec<&[u8]> = files.map(|entry| entry.name).take(window).collect();
        let path = self.path().ok()?;
        let opened = self.fs.client.open_many(self.node_ref(&path), &names);
        let mut opened = opened.ok()?.into_iter();
        let first = opened.next().flatten();
        let others = names.iter().skip(1).zip(opened);
        let others = others.filter_map(|(name, file)| Some((self.child_path(name).ok()?, file?)));
        ahead.put_files(changes, others.collect());
        first
    }
}

/// The directories that came after `first`, by their paths; those that lie nowhere else lie in
/// `start`.
fn with_paths(
    start: Vec<u8>,
    first: &TreeDir,
    dirs: impl Iterator<Item = TreeDir>,
    detail: ReadDirDetail,
) -> Vec<(Vec<u8>, Arc<Directory>)> {
    let join = |above: &[u8], name: &[u8]| match above {
        b"" => name.to_vec(),
        _ => [above, name].join(&b'/'),
    };
    let first = join(&start, &first.name);
    let mut brought: Vec<(Vec<u8>, Arc<Directory>)> = Vec::new();
    for dir in dirs {
        let above = match dir.above {
            None => &start,
            Some(0) => &first,
            // The client has checked that it is one before this.
            Some(n) => brought.get(n - 1).map_or(&start, |(path, _)| path),
        };
        let path = join(above, &dir.name);
        brought.push((path, Arc::new(Directory::new(dir.listing, detail))));
    }
    brought
}
