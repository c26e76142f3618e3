//! Starting programs: ELF images, `#!` scripts, the initial stack.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::mm::Mm;
use crate::mm::mappable::Mappable;

/// How the loader opens programs and interpreters. Implemented over the VFS; checks that the file
/// is regular and executable (EACCES) and not on a noexec mount.
pub trait ExecFiles {
    /// Opens `path` (an interpreter: of a script or an ELF image), relative to the task's cwd.
    fn open_exec(&self, path: &[u8]) -> Result<ExecFile>;
}

/// Positioned reads of an executable.
pub trait ReadAt: Send + Sync {
    /// As pread(2): short only at the end of the file.
    fn read_at(&self, offset: u64, dst: &mut [u8]) -> Result<usize>;
}

/// An open executable.
#[derive(Clone)]
pub struct ExecFile {
    pub mappable: Arc<dyn Mappable>,
    pub reader: Arc<dyn ReadAt>,
    /// Bytes.
    pub size: u64,
    /// For /proc/PID/maps and exe. None in tests.
    pub file: Option<Arc<File>>,
}

/// Identity for AT_UID, AT_EUID, AT_GID, AT_EGID and AT_SECURE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecIds {
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    pub secure: bool,
}

/// What to start.
pub struct ExecRequest<'a> {
    /// The program, already opened by execve or execveat.
    pub file: ExecFile,
    /// As given to execve (for scripts and AT_EXECFN); `/dev/fd/N` or `/dev/fd/N/path` for execveat.
    pub filename: &'a [u8],
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
    pub ids: ExecIds,
    /// personality(2): ADDR_NO_RANDOMIZE.
    pub no_randomize: bool,
}

/// What was read of the chain of scripts: the file that is really loaded. First step of execve,
/// done before the old address space goes.
pub struct Prepared {
    /// The ELF file (its set-id bits count, a script's do not).
    pub file: ExecFile,
}

/// A program ready to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub entry: u64,
    pub stack_pointer: u64,
}

/// Follows `#!` lines, rewriting argv, and checks the ELF header and sizes.
///
/// # Errors
/// ENOEXEC, ELOOP, E2BIG, ENOENT, EACCES, ELIBBAD and what `open_exec` says.
pub fn prepare(_files: &dyn ExecFiles, _req: ExecRequest<'_>) -> Result<Prepared> {
    Err(Errno::ENOSYS)
}

impl Prepared {
    /// Changes the identity (set-id programs are known only now).
    pub fn set_ids(&mut self, _ids: ExecIds) {}

    /// Fills the empty `mm` (from [`Mm::new`]).
    pub fn load(self, _mm: &Arc<Mm>) -> Result<Loaded> {
        Err(Errno::ENOSYS)
    }
}
