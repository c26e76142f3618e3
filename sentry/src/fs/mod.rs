//! The virtual file system: mounts, dentries, open files, descriptor tables, and below them one
//! folder per file system.
//!
//! Names and rights are the VFS's ([`dentry`], [`mount`], [`walk`], [`perm`], [`change`], [`open`],
//! [`attrs`]); a file system implements [`inode::Inode`] and [`file::FileOps`]. Everything here is
//! synchronous and never waits for a guest.

pub mod anon;
pub mod attrs;
pub mod cgroup;
pub mod change;
pub mod context;
pub mod copy;
pub mod dentry;
pub mod dev;
pub mod device;
pub mod epoll;
pub mod eventfd;
pub mod exec;
pub mod extra;
pub mod fdtable;
pub mod file;
pub mod goferfs;
pub mod hostfd;
pub mod inode;
pub mod inotify;
pub mod kernfs;
pub mod locks;
pub mod meta;
pub mod moment;
pub mod mount;
pub mod mqueue;
pub mod namei;
pub mod notify;
pub mod open;
pub mod overlay;
pub mod path;
pub mod perm;
pub mod pidfd;
pub mod pipe;
pub mod proc;
pub mod readdir;
pub mod sigio;
pub mod signalfd;
pub mod sysfs;
pub mod timerfd;
pub mod tmpfs;
pub mod tty;
pub mod types;
pub mod walk;

pub use types::register_all;

#[cfg(test)]
mod tests;
