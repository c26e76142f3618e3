//! The messages: one request frame, one reply frame, postcard-encoded.
//!
//! A frame is one `SOCK_SEQPACKET` packet. Requests carry no fds (the server receives without
//! room for any, so the kernel drops them). A reply carries as many as it says. Behind
//! [`Reply::Tree`] its frame goes on with [`TreeItem`]s, written and read one by one.

use serde::{Deserialize, Serialize};

use crate::protocol::{
    Access, Attr, DirChunk, Errno, NodeKind, NodeRef, Owner, ReadDirDetail, SetAttr, SocketKind,
    StatFs, SyncScope, WalkEnd, XattrMode,
};

/// `OpenHow` with its flags as bits, so that the server sees unknown ones.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct RawHow {
    pub access: Access,
    pub flags: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request<'a> {
    Walk {
        #[serde(borrow)]
        dir: NodeRef<'a>,
        /// The components, joined with `/`; empty for none.
        names: &'a [u8],
        open: Option<RawHow>,
    },
    GetAttr(#[serde(borrow)] NodeRef<'a>),
    Open {
        node: NodeRef<'a>,
        how: RawHow,
    },
    Create {
        node: NodeRef<'a>,
        how: RawHow,
        mode: u32,
        owner: Option<Owner>,
    },
    MkDir {
        node: NodeRef<'a>,
        mode: u32,
        owner: Option<Owner>,
    },
    MkNod {
        node: NodeRef<'a>,
        kind: NodeKind,
        mode: u32,
        owner: Option<Owner>,
    },
    SymLink {
        node: NodeRef<'a>,
        target: &'a [u8],
        owner: Option<Owner>,
    },
    Link {
        from: NodeRef<'a>,
        to: NodeRef<'a>,
    },
    Unlink(NodeRef<'a>),
    RmDir(NodeRef<'a>),
    Rename {
        from: NodeRef<'a>,
        to: NodeRef<'a>,
        flags: u32,
    },
    SetAttr {
        node: NodeRef<'a>,
        set: SetAttr,
    },
    ReadLink(NodeRef<'a>),
    ReadDir {
        node: NodeRef<'a>,
        cookie: u64,
        detail: ReadDirDetail,
    },
    /// Lists directories and what is below them.
    ListTree {
        dir: NodeRef<'a>,
        /// Subdirectories of `dir` to start with, joined with `/`; empty: `dir` itself.
        names: &'a [u8],
        /// Most directories to list.
        count: u32,
        detail: ReadDirDetail,
    },
    /// Opens regular files of one directory for reading.
    OpenMany {
        dir: NodeRef<'a>,
        /// Their names, joined with `/`.
        names: &'a [u8],
    },
    StatFs(NodeRef<'a>),
    GetXattr {
        node: NodeRef<'a>,
        name: &'a [u8],
    },
    SetXattr {
        node: NodeRef<'a>,
        name: &'a [u8],
        value: &'a [u8],
        mode: XattrMode,
    },
    ListXattr(NodeRef<'a>),
    RemoveXattr {
        node: NodeRef<'a>,
        name: &'a [u8],
    },
    Sync {
        node: NodeRef<'a>,
        scope: SyncScope,
    },
    /// Makes a socket that is connected to the host's one at `node`.
    Connect {
        node: NodeRef<'a>,
        kind: SocketKind,
    },
    /// As `MkNod`, bound to a socket of the host's where that is permitted.
    Bind {
        node: NodeRef<'a>,
        kind: SocketKind,
        mode: u32,
        owner: Option<Owner>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Failed(Errno),
    Done,
    Attr(Attr),
    /// The frame carries the fd.
    Opened(Attr),
    /// The frame carries the fd.
    Connected,
    Walk {
        attrs: Vec<Attr>,
        end: WalkEnd,
        open: WalkOpen,
    },
    Bytes(Vec<u8>),
    Dir(DirChunk),
    StatFs(StatFs),
    /// The rest of the frame is [`TreeItem`]s.
    Tree,
    /// The frame carries an fd for each that is there, in order; the others could not be opened.
    OpenedMany(Vec<Option<Attr>>),
}

/// A piece of a listed tree.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum TreeItem<'a> {
    /// A directory, whose entries follow.
    Directory {
        /// The directory it lies in, by its number in this frame; `None`: the one asked about.
        above: Option<u32>,
        /// Empty: the one asked about.
        name: &'a [u8],
    },
    /// As [`crate::protocol::DirEntry`].
    Entry {
        name: &'a [u8],
        ino: u64,
        file_type: u8,
        attr: Option<Attr>,
        #[serde(borrow)]
        target: Option<&'a [u8]>,
        /// It has no extended attributes for sure.
        plain: bool,
    },
}

/// What became of the open at the end of a walk.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum WalkOpen {
    NotTried,
    /// The frame carries the fd.
    Opened,
    Failed(Errno),
}
