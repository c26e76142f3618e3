//! What /proc/PID shows of an address space: maps, smaps, smaps_rollup, cmdline, environ, auxv, mem.
//!
//! maps and its kind, environ, auxv and mem belong to the address space at the time of the open: who
//! may open them then may go on reading. They do not keep it alive; after its end they are empty.

use std::any::Any;
use std::sync::{Arc, Weak};

use runsc_platform::Prot;

use super::subject::{Subject, reader_root};
use crate::errno::{Errno, Result};
use crate::fs::file::{File, FileOps, Seek, WriteAt, default_seek};
use crate::fs::inode::OpenFlags;
use crate::fs::kernfs::Generated;
use crate::fs::path::PathRef;
use crate::kernel::vsyscall;
use crate::mm::Mm;
use crate::mm::io::{Sink, Source};
use crate::mm::types::{Layout, PAGE_SIZE, VmaInfo, VmaName, VmaUse};

/// Bytes copied at once.
const CHUNK: usize = 64 << 10;
/// Where names start in maps.
const NAME_COLUMN: usize = 72;

/// What a file of the address space is made with: the space and the root of the reader.
type Make = fn(&Mm, &PathRef) -> Vec<u8>;

/// An open file over the address space as it is now.
///
/// # Errors
/// EACCES if the opener may not look, ESRCH if the process has ended.
fn open_with(subject: &Subject, make: Make) -> Result<Arc<dyn FileOps>> {
    let mm = match subject.mm() {
        Ok(mm) => {
            subject.check_look()?;
            Arc::downgrade(&mm)
        }
        // A zombie has no memory left; what is gone altogether cannot be opened.
        Err(_) => {
            subject.group()?;
            Weak::new()
        }
    };
    let subject = subject.clone();
    Ok(Generated::ops(move || {
        let Some(mm) = mm.upgrade() else {
            return subject.group().map(|_| Vec::new());
        };
        let Ok(root) = reader_root(&subject) else {
            return Ok(Vec::new());
        };
        Ok(make(&mm, &root))
    }))
}

pub fn open_maps(subject: &Subject, _: OpenFlags) -> Result<Arc<dyn FileOps>> {
    open_with(subject, |mm, root| {
        let mut text = Vec::new();
        for vma in mm.maps() {
            maps_line(&mut text, &vma, root);
        }
        text.extend_from_slice(vsyscall::MAPS_LINE);
        text
    })
}

pub fn open_smaps(subject: &Subject, _: OpenFlags) -> Result<Arc<dyn FileOps>> {
    open_with(subject, smaps)
}

pub fn open_rollup(subject: &Subject, _: OpenFlags) -> Result<Arc<dyn FileOps>> {
    open_with(subject, |mm, _| rollup(mm))
}

pub fn open_auxv(subject: &Subject, _: OpenFlags) -> Result<Arc<dyn FileOps>> {
    open_with(subject, |mm, _| {
        let layout = mm.layout();
        let words = layout.auxv.iter().flat_map(|(kind, value)| [*kind, *value]);
        words.flat_map(u64::to_ne_bytes).collect()
    })
}

/// Pads a line up to the column of names and puts the name.
fn put_name(text: &mut Vec<u8>, line_start: usize, name: &[u8]) {
    while text.len() - line_start < NAME_COLUMN {
        text.push(b' ');
    }
    text.push(b' ');
    for &byte in name {
        match byte {
            b'\n' => text.extend_from_slice(b"\\012"),
            byte => text.push(byte),
        }
    }
}

/// One line of maps.
fn maps_line(text: &mut Vec<u8>, vma: &VmaInfo, root: &PathRef) {
    let start = text.len();
    let flag = |prot, on| if vma.prot.contains(prot) { on } else { '-' };
    let attr = vma.file.as_ref().and_then(|f| f.attr().ok());
    let (dev, ino) = match (&attr, &vma.name) {
        (Some(attr), _) => (attr.dev, attr.ino),
        // The kernel's own tmpfs.
        (None, VmaName::DevZero) => (crate::fs::inode::Dev::new(0, 1), 1024),
        (None, VmaName::Segment { id, .. }) => (
            crate::fs::inode::Dev::new(0, 1),
            u64::from(id.unsigned_abs()),
        ),
        (None, _) => Default::default(),
    };
    let line = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {ino} ",
        vma.start,
        vma.end,
        flag(Prot::READ, 'r'),
        flag(Prot::WRITE, 'w'),
        flag(Prot::EXEC, 'x'),
        if vma.shared { 's' } else { 'p' },
        vma.offset,
        dev.major,
        dev.minor,
    );
    text.extend_from_slice(line.as_bytes());
    let name = match &vma.file {
        Some(file) => file.path().display(root),
        None => vma.name.text(),
    };
    if !name.is_empty() {
        put_name(text, start, &name);
    }
    text.push(b'\n');
}

/// Memory use of one VMA or several. Who else maps a page is not known: pages of files and shared
/// objects count as shared, and in full in Pss.
#[derive(Clone, Copy, Default)]
struct Use {
    used: VmaUse,
    /// Shared objects in memory.
    shmem: u64,
    locked: u64,
}

impl Use {
    fn of(mm: &Mm, vma: &VmaInfo) -> Use {
        let used = mm.vma_use(vma.start);
        let in_memory = vma.shared && vma.file.is_none();
        Use {
            used,
            shmem: if in_memory { used.shared } else { 0 },
            locked: if vma.locked { used.rss } else { 0 },
        }
    }

    fn add(&mut self, other: Use) {
        self.used.rss += other.used.rss;
        self.used.anonymous += other.used.anonymous;
        self.used.shared += other.used.shared;
        self.shmem += other.shmem;
        self.locked += other.locked;
    }

    /// The rows that smaps and smaps_rollup have in common; `pss` are rows after Pss.
    fn rows(&self, text: &mut Vec<u8>, pss: &[(&str, u64)]) {
        let u = &self.used;
        let dirty = u.anonymous + self.shmem;
        let head = [("Rss", u.rss), ("Pss", u.rss), ("Pss_Dirty", dirty)];
        let tail = [
            ("Shared_Clean", u.shared.saturating_sub(self.shmem)),
            ("Shared_Dirty", self.shmem),
            ("Private_Clean", 0),
            ("Private_Dirty", u.anonymous),
            ("Referenced", u.rss),
            ("Anonymous", u.anonymous),
            ("KSM", 0),
            ("LazyFree", 0),
            ("AnonHugePages", 0),
            ("ShmemPmdMapped", 0),
            ("FilePmdMapped", 0),
            ("Shared_Hugetlb", 0),
            ("Private_Hugetlb", 0),
            ("Swap", 0),
            ("SwapPss", 0),
            ("Locked", self.locked),
        ];
        for (name, bytes) in head.iter().chain(pss).chain(&tail) {
            row(text, name, *bytes);
        }
    }
}

fn row(text: &mut Vec<u8>, name: &str, bytes: u64) {
    let label = format!("{name}:");
    text.extend_from_slice(format!("{label:<16}{:8} kB\n", bytes / 1024).as_bytes());
}

fn smaps(mm: &Mm, root: &PathRef) -> Vec<u8> {
    let mut text = Vec::new();
    for vma in mm.maps() {
        maps_line(&mut text, &vma, root);
        let size = vma.end - vma.start;
        smaps_rows(&mut text, size, &Use::of(mm, &vma), &vma.vm_flags);
    }
    text.extend_from_slice(vsyscall::MAPS_LINE);
    smaps_rows(&mut text, PAGE_SIZE, &Use::default(), "ex");
    text
}

fn smaps_rows(text: &mut Vec<u8>, size: u64, used: &Use, flags: &str) {
    row(text, "Size", size);
    row(text, "KernelPageSize", PAGE_SIZE);
    row(text, "MMUPageSize", PAGE_SIZE);
    used.rows(text, &[]);
    text.extend_from_slice(b"THPeligible:           0\n");
    text.extend_from_slice(format!("VmFlags: {flags} \n").as_bytes());
}

fn rollup(mm: &Mm) -> Vec<u8> {
    let vmas = mm.maps();
    let mut sum = Use::default();
    for vma in &vmas {
        sum.add(Use::of(mm, vma));
    }
    let first = vmas.first().map_or(0, |v| v.start);
    let last = vmas.last().map_or(0, |v| v.end);
    let mut text = format!("{first:08x}-{last:08x} ---p 00000000 00:00 0 ").into_bytes();
    put_name(&mut text, 0, b"[rollup]");
    text.push(b'\n');
    let anonymous = sum.used.anonymous;
    let file = sum.used.shared.saturating_sub(sum.shmem);
    let pss = [
        ("Pss_Anon", anonymous),
        ("Pss_File", file),
        ("Pss_Shmem", sum.shmem),
    ];
    sum.rows(&mut text, &pss);
    text
}

/// Copies guest memory from `start + offset`, at most to `end`.
fn read_range(mm: &Mm, dst: &mut Sink<'_>, start: u64, end: u64, offset: u64) -> Result<usize> {
    let Some(from) = start.checked_add(offset) else {
        return Ok(0);
    };
    let want = end.saturating_sub(from).min(dst.remaining() as u64);
    let want = usize::try_from(want).unwrap_or(usize::MAX);
    let mut buf = vec![0; want.min(CHUNK)];
    let mut done = 0;
    while done < want {
        let n = buf.len().min(want - done);
        let got = mm.forced_read(from.saturating_add(done as u64), &mut buf[..n]);
        if got == 0 {
            break;
        }
        let put = match dst.put(&buf[..got]) {
            Ok(put) => put,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        };
        done += put;
        if put < n {
            break;
        }
    }
    Ok(done)
}

fn seek_anywhere(whence: Seek, offset: i64, current: u64) -> Result<u64> {
    match whence {
        Seek::Set | Seek::Cur => default_seek(0, whence, offset, current),
        Seek::End | Seek::Data | Seek::Hole => Err(Errno::EINVAL),
    }
}

/// /proc/PID/cmdline: the arguments of the process at the time of each read.
pub struct Cmdline(Subject);

pub fn open_cmdline(subject: &Subject, _: OpenFlags) -> Result<Arc<dyn FileOps>> {
    subject.group()?;
    Ok(Arc::new(Cmdline(subject.clone())))
}

/// Where the arguments end. A program that wrote over the NUL at their end (setproctitle(3)) shows
/// one string instead, which may go on into its environment.
fn arguments_end(mm: &Mm, l: &Layout) -> u64 {
    let mut last = [0];
    let whole = l.arg_end > l.arg_start && mm.forced_read(l.arg_end - 1, &mut last) == 1;
    if !whole || last[0] == 0 {
        return l.arg_end;
    }
    let limit = if l.env_start == l.arg_end && l.env_end >= l.env_start {
        l.env_end
    } else {
        l.arg_end
    };
    let len = limit.saturating_sub(l.arg_start).min(PAGE_SIZE);
    let mut title = vec![0; len as usize];
    let got = mm.forced_read(l.arg_start, &mut title);
    let end = title[..got].iter().position(|b| *b == 0);
    l.arg_start + end.map_or(got, |nul| nul + 1) as u64
}

/// The first `most` bytes of a process's arguments, each ending in NUL.
pub fn command_line(mm: &Mm, most: usize) -> Vec<u8> {
    let layout = mm.layout();
    let len = arguments_end(mm, &layout).saturating_sub(layout.arg_start);
    let mut line = vec![0; usize::try_from(len).unwrap_or(most).min(most)];
    let got = mm.forced_read(layout.arg_start, &mut line);
    line.truncate(got);
    line
}

impl FileOps for Cmdline {
    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, offset: u64) -> Result<usize> {
        let Ok(mm) = self.0.mm() else {
            self.0.group()?;
            return Ok(0);
        };
        let layout = mm.layout();
        let end = arguments_end(&mm, &layout);
        read_range(&mm, dst, layout.arg_start, end, offset)
    }

    fn seek(&self, _file: &File, whence: Seek, offset: i64, current: u64) -> Result<u64> {
        seek_anywhere(whence, offset, current)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// /proc/PID/environ: the environment the program started with.
pub struct Environ(Weak<Mm>);

pub fn open_environ(subject: &Subject, _: OpenFlags) -> Result<Arc<dyn FileOps>> {
    subject.check_look()?;
    Ok(Arc::new(Environ(weak(subject)?)))
}

fn weak(subject: &Subject) -> Result<Weak<Mm>> {
    match subject.mm() {
        Ok(mm) => Ok(Arc::downgrade(&mm)),
        Err(_) => subject.group().map(|_| Weak::new()),
    }
}

impl FileOps for Environ {
    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, offset: u64) -> Result<usize> {
        let Some(mm) = self.0.upgrade() else {
            return Ok(0);
        };
        let layout = mm.layout();
        read_range(&mm, dst, layout.env_start, layout.env_end, offset)
    }

    fn seek(&self, _file: &File, whence: Seek, offset: i64, current: u64) -> Result<u64> {
        seek_anywhere(whence, offset, current)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// /proc/PID/mem: the address space itself, whatever its protection.
pub struct Mem(Weak<Mm>);

pub fn open_mem(subject: &Subject, _: OpenFlags) -> Result<Arc<dyn FileOps>> {
    subject.check_look()?;
    Ok(Arc::new(Mem(weak(subject)?)))
}

impl FileOps for Mem {
    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, offset: u64) -> Result<usize> {
        let Some(mm) = self.0.upgrade() else {
            return Ok(0);
        };
        let some = dst.remaining() > 0;
        match read_range(&mm, dst, 0, u64::MAX, offset)? {
            0 if some => Err(Errno::EIO),
            n => Ok(n),
        }
    }

    fn write_at(&self, _file: &File, src: &mut Source<'_>, at: WriteAt) -> Result<(usize, u64)> {
        let WriteAt::Offset(offset) = at else {
            return Err(Errno::EINVAL);
        };
        let Some(mm) = self.0.upgrade() else {
            return Ok((0, offset));
        };
        let want = src.remaining();
        let mut buf = vec![0; want.min(CHUNK)];
        let mut done = 0;
        while done < want {
            let n = match src.take(&mut buf) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            };
            let put = mm.forced_write(offset.saturating_add(done as u64), &buf[..n]);
            done += put;
            if put < n {
                break;
            }
        }
        if done == 0 && want > 0 {
            return Err(Errno::EIO);
        }
        Ok((done, offset.saturating_add(done as u64)))
    }

    fn seek(&self, _file: &File, whence: Seek, offset: i64, current: u64) -> Result<u64> {
        seek_anywhere(whence, offset, current)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
