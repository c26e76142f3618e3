//! What the VFS keeps with every inode: file locks, inotify watches, the pipe of a FIFO, the socket
//! bound to a name.

/// See the module documentation. Every inode owns one; cheap while empty.
#[derive(Default)]
pub struct InodeExtra {}
