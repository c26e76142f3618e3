//! Starting programs: `#!` scripts (`script.rs`), ELF images (`elf_image.rs`), the initial stack
//! (`stack.rs`).
//!
//! execve(2) has two halves. [`prepare`] reads: it follows `#!` lines, checks the headers of the
//! program and its interpreter. [`Prepared::load`] fills a new, empty address space. Until it has
//! succeeded the old program is untouched, so that every error can still be returned.
//!
//! Files come through [`ExecFiles`] and [`ReadAt`]; the loader knows no VFS. All that is read from
//! them is hostile.

mod elf_image;
mod script;
mod stack;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::loader::elf_image::Image;
use crate::mm::mappable::Mappable;
use crate::mm::{Mm, Randomize, random_pages};

/// Most rewrites by `#!` lines.
const MAX_REWRITES: usize = 5;
/// Bytes of the longest argument or environment string, with its NUL (MAX_ARG_STRLEN).
const MAX_STRING: usize = 32 * 4096;

/// How the loader opens programs and interpreters. Implemented over the VFS; checks that the file
/// is regular and executable (EACCES) and not on a noexec mount.
pub trait ExecFiles {
    /// Opens `path` (an interpreter: of a script or an ELF image), relative to the task's cwd.
    ///
    /// # Errors
    /// Those of execve(2) for the path.
    fn open_exec(&self, path: &[u8]) -> Result<ExecFile>;
}

/// Positioned reads of an executable.
pub trait ReadAt: Send + Sync {
    /// As pread(2): short only at the end of the file.
    ///
    /// # Errors
    /// Those of pread(2).
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

/// A program whose files are open and whose headers are checked.
pub struct Prepared {
    /// The ELF file (its set-id bits count, a script's do not).
    pub file: ExecFile,
    image: Image,
    interpreter: Option<Image>,
    filename: Vec<u8>,
    argv: Vec<Vec<u8>>,
    envp: Vec<Vec<u8>>,
    ids: ExecIds,
    randomize: Randomize,
}

/// A program ready to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub entry: u64,
    pub stack_pointer: u64,
}

fn read_head(file: &ExecFile) -> Result<[u8; script::HEAD]> {
    let mut head = [0; script::HEAD];
    file.reader.read_at(0, &mut head)?;
    Ok(head)
}

/// Follows `#!` lines, rewriting argv, and checks the headers of the program and its interpreter.
///
/// # Errors
/// ENOEXEC, ELOOP, E2BIG, ELIBBAD, EIO and what `open_exec` says.
pub fn prepare(files: &dyn ExecFiles, req: ExecRequest<'_>) -> Result<Prepared> {
    let mut argv = req.argv;
    let too_long = |s: &Vec<u8>| s.len() >= MAX_STRING;
    if argv.iter().any(too_long) || req.envp.iter().any(too_long) {
        return Err(Errno::E2BIG);
    }
    if argv.is_empty() {
        // Since Linux 5.18 a program always has an argv[0].
        argv.push(Vec::new());
    }
    let mut file = req.file;
    let mut path = req.filename.to_vec();
    let mut rewrites = 0;
    let head = loop {
        let head = read_head(&file)?;
        let Some(script) = script::parse(&head)? else {
            break head;
        };
        let mut rewritten = vec![script.interpreter.clone()];
        rewritten.extend(script.argument);
        rewritten.push(path);
        rewritten.extend(argv.into_iter().skip(1));
        argv = rewritten;
        file = files.open_exec(&script.interpreter)?;
        path = script.interpreter;
        rewrites += 1;
        if rewrites > MAX_REWRITES {
            return Err(Errno::ELOOP);
        }
    };
    let image = Image::read(file.clone(), &head)?;
    let interpreter = match &image.interpreter {
        None => None,
        Some(path) => {
            let file = files.open_exec(path)?;
            let head = read_head(&file)?;
            if file.size < 64 {
                return Err(Errno::EIO);
            }
            let image = Image::read(file, &head).map_err(|e| match e {
                Errno::ENOEXEC => Errno::ELIBBAD,
                e => e,
            })?;
            Some(image)
        }
    };
    Ok(Prepared {
        file,
        image,
        interpreter,
        filename: req.filename.to_vec(),
        argv,
        envp: req.envp,
        ids: req.ids,
        randomize: if req.no_randomize {
            Randomize::No
        } else {
            Randomize::Yes
        },
    })
}

impl Prepared {
    /// Changes the identity (set-id programs are known only now).
    pub fn set_ids(&mut self, ids: ExecIds) {
        self.ids = ids;
    }

    /// Fills the empty `mm` (from [`Mm::new`]).
    ///
    /// # Errors
    /// E2BIG for too much argv and envp, and what mapping the images says.
    pub fn load(self, mm: &Arc<Mm>) -> Result<Loaded> {
        if self.randomize == Randomize::No {
            mm.set_randomize(Randomize::No);
        }
        let strings = stack::Strings::new(&self.filename, &self.argv, &self.envp, mm.limits())?;
        let top = stack::reserve(mm, &strings, self.image.exec_stack, self.randomize)?;
        let (_, high) = mm.user_range();
        // ELF_ET_DYN_BASE: two thirds up, far from mmap and stack.
        let dyn_base = high / 3 * 2;
        let random = match self.randomize {
            Randomize::Yes => random_pages(1 << 28),
            Randomize::No => 0,
        };
        // An interpreter run as a program goes where libraries go, out of its program's way.
        let hint = self.interpreter.is_some().then_some(dyn_base + random);
        let program = self.image.map(mm, hint)?;
        let interpreter = match &self.interpreter {
            None => None,
            Some(image) => Some(image.map(mm, None)?),
        };
        let heap = if self.image.relocatable && self.interpreter.is_none() {
            dyn_base + random
        } else {
            program.end
        };
        mm.set_heap(heap, self.randomize);
        mm.set_layout(|layout| {
            layout.start_code = program.start_code;
            layout.end_code = program.end_code;
            layout.start_data = program.start_data;
            layout.end_data = program.end_data;
        });
        let auxv = stack::auxv(mm, &program, interpreter.map_or(0, |i| i.bias), &self.ids);
        let stack_pointer = stack::build(mm, top, &strings, auxv, self.randomize)?;
        mm.set_exe(self.file.file.clone());
        Ok(Loaded {
            entry: interpreter.map_or(program.entry, |i| i.entry),
            stack_pointer,
        })
    }
}
