//! What a command changed: `--keep` and `--diff` of `do`.
//!
//! The Sentry lists and copies; the list comes back through a memfd. The directory gets what differs
//! as an image layer has it (OCI image specification): see the README.

use std::{
    fs::{self, DirBuilder, File},
    io::{Read, Seek, Write},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::memfd::{MFdFlags, memfd_create};
use runsc_gofer::server::{MountSource, Writes};
use runsc_sentry::config::ChangesConfig;

use crate::logging::printable;

/// Bytes of a list that are read: the guest decides how much it changes.
const MAX_LIST: u64 = 256 << 20;
/// Problems that are shown one by one.
const SHOWN: usize = 10;

/// What was asked for.
#[derive(Debug)]
pub struct Changes {
    list: bool,
    told: Option<File>,
}

impl Changes {
    /// Prepares the directory; its tree is added to `sources`, the first of which is the root.
    pub fn prepare(
        keep: Option<&Path>,
        list: bool,
        sources: &mut Vec<MountSource>,
    ) -> Result<(Self, ChangesConfig)> {
        let mut config = ChangesConfig {
            list,
            keep_in: None,
        };
        if let Some(path) = keep {
            let what = || format!("--keep: {}", path.display());
            let shown = sources.get(1..).unwrap_or_default();
            refuse_writable(path, shown).with_context(what)?;
            let source = directory(path).with_context(what)?;
            config.keep_in = Some(u32::try_from(sources.len())?);
            sources.push(MountSource {
                source,
                writes: Writes::Allow,
                devices: Default::default(),
                kernel_file_systems: Default::default(),
            });
        }
        let told = match list || keep.is_some() {
            true => {
                let made = memfd_create(c"runsc-rs-changes", MFdFlags::MFD_CLOEXEC);
                Some(File::from(made.context("memfd_create")?))
            }
            false => None,
        };
        Ok((Self { list, told }, config))
    }

    /// For the Sentry to write to.
    pub fn fd(&self) -> Result<Option<OwnedFd>> {
        let fd = self.told.as_ref().map(|file| file.try_clone());
        Ok(fd.transpose()?.map(OwnedFd::from))
    }

    /// Shows what the Sentry told. False if something could not be kept.
    pub fn show(mut self) -> Result<bool> {
        let Some(file) = &mut self.told else {
            return Ok(true);
        };
        let mut text = Vec::new();
        file.rewind()?;
        file.take(MAX_LIST).read_to_end(&mut text)?;
        let mut out = std::io::stderr().lock();
        let mut problems = 0;
        let mut complete = true;
        for record in text.split(|b| *b == 0).filter(|record| !record.is_empty()) {
            let (letter, rest) = record.split_at(1);
            if letter != b"!" {
                if self.list {
                    writeln!(out, "{} {}", letter.escape_ascii(), shown(rest))?;
                }
                continue;
            }
            let (errno, path) = split_errno(rest);
            // Sockets are nothing without who listens; they are left out.
            complete &= errno == libc::EOPNOTSUPP;
            problems += 1;
            if problems <= SHOWN {
                let why = nix::errno::Errno::from_raw(errno).desc();
                writeln!(out, "runsc-rs: do: --keep: {}: {why}", shown(path))?;
            }
        }
        if problems > SHOWN {
            let more = problems - SHOWN;
            writeln!(out, "runsc-rs: do: --keep: {more} more were not kept")?;
        }
        Ok(complete)
    }
}

/// The command must not get at what is kept. Of trees that lie in each other the inner one counts.
fn refuse_writable(path: &Path, shown: &[MountSource]) -> Result<()> {
    let path = std::path::absolute(path)?;
    let real = match (fs::canonicalize(&path), path.parent(), path.file_name()) {
        (Ok(real), _, _) => real,
        (_, Some(parent), Some(name)) => fs::canonicalize(parent)?.join(name),
        (Err(error), _, _) => return Err(error.into()),
    };
    let around = shown.iter().filter(|tree| real.starts_with(&tree.source));
    let inner = around.max_by_key(|tree| tree.source.components().count());
    if let Some(tree) = inner.filter(|tree| tree.writes == Writes::Allow) {
        bail!(
            "lies in {} (--rw), where the command could change it",
            tree.source.display()
        );
    }
    Ok(())
}

/// Makes the directory, for nobody but the caller, or takes one that is empty.
fn directory(path: &Path) -> Result<PathBuf> {
    let made = DirBuilder::new().mode(0o700).create(path);
    if let Err(error) = made {
        ensure!(
            error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir(),
            error
        );
        ensure!(fs::read_dir(path)?.next().is_none(), "is not empty");
    }
    Ok(fs::canonicalize(path)?)
}

fn split_errno(text: &[u8]) -> (i32, &[u8]) {
    let space = text.iter().position(|b| *b == b' ').unwrap_or(text.len());
    let number = std::str::from_utf8(&text[..space]).ok();
    let errno = number.and_then(|number| number.parse().ok());
    let path = text.get(space + 1..).unwrap_or_default();
    (errno.unwrap_or(libc::EIO), path)
}

fn shown(path: &[u8]) -> String {
    printable(&String::from_utf8_lossy(path))
}
