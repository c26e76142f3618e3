//! The last work of a sandbox: telling and keeping what the guest has changed, between the end of its
//! first process and the report of it.
//!
//! The list goes to [`BootFds::changes`](crate::config::BootFds::changes) as records that end in a
//! NUL byte: a letter and a path. `A` is added, `M` modified, `D` deleted; `!` is followed by an
//! errno and a space before the path, and says that it could not be kept.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use runsc_gofer::client::Client;
use runsc_gofer::protocol::MountId;

use crate::config::ChangesConfig;
use crate::errno::{Errno, Result};
use crate::fs::goferfs::{GoferFs, Trust};
use crate::fs::inode::Inode;
use crate::fs::mount::FileSystem;
use crate::fs::overlay::changes::{self, Kind};

/// What there is to do.
pub struct Last {
    overlay: Arc<FileSystem>,
    list: bool,
    keep: Option<Arc<dyn Inode>>,
    out: File,
}

impl Last {
    /// # Errors
    /// The directory to keep changes in is not there.
    pub fn new(
        config: &ChangesConfig,
        gofer: &Arc<Client>,
        overlay: Arc<FileSystem>,
        out: OwnedFd,
    ) -> Result<Last> {
        let keep = match config.keep_in {
            Some(mount) => {
                let root = GoferFs::open(gofer.clone(), MountId(mount), Trust::Shared)?;
                Some(root as Arc<dyn Inode>)
            }
            None => None,
        };
        Ok(Last {
            overlay,
            list: config.list,
            keep,
            out: out.into(),
        })
    }

    pub fn run(&self) {
        if let Err(e) = self.try_run() {
            log::error!("changes: {e}");
        }
    }

    fn try_run(&self) -> std::io::Result<()> {
        let mut out = BufWriter::new(&self.out);
        let mut result = Ok(());
        let mut put = |parts: &[&[u8]]| {
            for part in parts.iter().chain([&&b"\0"[..]]) {
                if result.is_ok() {
                    result = out.write_all(part);
                }
            }
        };
        if self.list {
            let listed = changes::list(&self.overlay, &mut |kind, path| {
                let letter = match kind {
                    Kind::Added => b"A",
                    Kind::Modified => b"M",
                    Kind::Deleted => b"D",
                };
                put(&[letter, path]);
            });
            if let Err(e) = listed {
                put(&[b"!", e.raw().to_string().as_bytes(), b" /"]);
            }
        }
        if let Some(to) = &self.keep {
            let mut problem = |path: &[u8], e: Errno| {
                put(&[b"!", e.raw().to_string().as_bytes(), b" ", path]);
            };
            if let Err(e) = changes::export(&self.overlay, to, &mut problem) {
                problem(b"/", e);
            }
        }
        result?;
        out.flush()
    }
}
