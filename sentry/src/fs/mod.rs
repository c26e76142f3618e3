//! The virtual file system: mounts, dentries, open files, descriptor tables, and below them one
//! folder per file system.

pub mod dentry;
pub mod extra;
pub mod file;
pub mod inode;
pub mod mount;
pub mod path;
