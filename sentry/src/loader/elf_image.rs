//! ELF images: checking headers (hostile input) and mapping segments.

use std::sync::Arc;

use elf::abi;
use elf::endian::{LittleEndian, NativeEndian};
use elf::file::{Class, FileHeader};
use elf::segment::{ProgramHeader, SegmentTable};

use crate::errno::{Errno, Result};
use crate::loader::ExecFile;
use crate::mm::{MapFile, MapRequest, Mm, PAGE_SIZE, page_down, page_up};

/// Most bytes of program headers.
const MAX_HEADERS: usize = 65536;
const HEADER_LEN: usize = 64;
const PHDR_LEN: u16 = 56;

/// What the loader needs of an ELF file's headers.
pub struct Image {
    pub file: ExecFile,
    /// ET_DYN: can lie anywhere.
    pub relocatable: bool,
    entry: u64,
    loads: Vec<ProgramHeader>,
    /// Path of PT_INTERP.
    pub interpreter: Option<Vec<u8>>,
    pub exec_stack: bool,
    /// Where the program headers are in memory, before the load bias.
    phdr: u64,
    phnum: u16,
}

/// An image in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Added to the addresses in the file.
    pub bias: u64,
    pub entry: u64,
    pub phdr: u64,
    pub phnum: u16,
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    /// End of the last segment, page aligned.
    pub end: u64,
}

impl Image {
    /// Reads and checks the headers.
    ///
    /// # Errors
    /// ENOEXEC for what is not a 64-bit image of this machine, EIO if reading fails, EINVAL for
    /// impossible segments.
    pub fn read(file: ExecFile, head: &[u8]) -> Result<Image> {
        let header = header(head)?;
        let table_len = usize::from(header.e_phnum) * usize::from(PHDR_LEN);
        if header.e_phentsize != PHDR_LEN || table_len == 0 || table_len > MAX_HEADERS {
            return Err(Errno::ENOEXEC);
        }
        let mut table = vec![0; table_len];
        if file.reader.read_at(header.e_phoff, &mut table)? != table_len {
            return Err(Errno::ENOEXEC);
        }
        let mut image = Image {
            file,
            relocatable: header.e_type == abi::ET_DYN,
            entry: header.e_entry,
            loads: Vec::new(),
            interpreter: None,
            exec_stack: false,
            phdr: 0,
            phnum: header.e_phnum,
        };
        for segment in SegmentTable::new(LittleEndian, Class::ELF64, &table).iter() {
            image.take_segment(&segment, header.e_phoff)?;
        }
        if image.loads.is_empty() {
            return Err(Errno::EINVAL);
        }
        Ok(image)
    }

    fn take_segment(&mut self, segment: &ProgramHeader, phoff: u64) -> Result<()> {
        match segment.p_type {
            abi::PT_INTERP if self.interpreter.is_none() => {
                let len = segment.p_filesz;
                if !(2..=libc::PATH_MAX as u64).contains(&len) {
                    return Err(Errno::ENOEXEC);
                }
                let mut path = vec![0; len as usize];
                if self.file.reader.read_at(segment.p_offset, &mut path)? != path.len() {
                    return Err(Errno::EIO);
                }
                if path.pop() != Some(0) {
                    return Err(Errno::ENOEXEC);
                }
                path.truncate(path.iter().position(|&b| b == 0).unwrap_or(path.len()));
                self.interpreter = Some(path);
            }
            abi::PT_GNU_STACK => self.exec_stack = segment.p_flags & abi::PF_X != 0,
            abi::PT_LOAD => {
                let ends = segment
                    .p_vaddr
                    .checked_add(segment.p_memsz)
                    .and_then(page_up);
                let file_ends = segment
                    .p_offset
                    .checked_add(segment.p_filesz)
                    .and_then(page_up);
                if segment.p_filesz > segment.p_memsz
                    || ends.is_none_or(|e| e > 1 << 47)
                    || file_ends.is_none_or(|e| e > 1 << 62)
                {
                    return Err(Errno::EINVAL);
                }
                let misplaced = segment.p_vaddr % PAGE_SIZE != segment.p_offset % PAGE_SIZE;
                if segment.p_filesz > 0 && misplaced {
                    return Err(Errno::EINVAL);
                }
                // Linux takes them in the order of the table; the extent is that of all.
                let in_file = segment.p_offset..segment.p_offset + segment.p_filesz;
                if self.phdr == 0 && in_file.contains(&phoff) {
                    self.phdr = phoff - segment.p_offset + segment.p_vaddr;
                }
                self.loads.push(*segment);
            }
            _ => {}
        }
        Ok(())
    }

    /// First and last (exclusive) address, page aligned, before the load bias.
    fn extent(&self) -> (u64, u64) {
        let low = self.loads.iter().map(|s| page_down(s.p_vaddr)).min();
        let high = self
            .loads
            .iter()
            .filter_map(|s| page_up(s.p_vaddr + s.p_memsz))
            .max();
        (low.unwrap_or(0), high.unwrap_or(0))
    }

    /// Largest alignment that a segment asks for, at least a page.
    fn alignment(&self) -> u64 {
        self.loads
            .iter()
            .map(|s| s.p_align)
            .filter(|a| a.is_power_of_two() && *a <= 1 << 30)
            .fold(PAGE_SIZE, u64::max)
    }

    /// Maps the image; a relocatable one near `hint`, or where mmap puts it (None).
    ///
    /// # Errors
    /// What mmap says; EINVAL if it does not fit the address space.
    pub fn map(&self, mm: &Arc<Mm>, hint: Option<u64>) -> Result<Placed> {
        let (low, high) = self.extent();
        let total = high - low;
        if total == 0 {
            return Err(Errno::EINVAL);
        }
        let bias = if self.relocatable {
            let at = find_place(mm, hint, total, self.alignment())?;
            at.wrapping_sub(low)
        } else {
            0
        };
        let (user_low, user_high) = mm.user_range();
        let start = low.wrapping_add(bias);
        if start < user_low {
            return Err(Errno::EPERM);
        }
        if start.checked_add(total).is_none_or(|e| e > user_high) {
            return Err(Errno::EINVAL);
        }
        let mut placed = Placed {
            bias,
            entry: self.entry.wrapping_add(bias),
            phdr: if self.phdr == 0 {
                0
            } else {
                self.phdr.wrapping_add(bias)
            },
            phnum: self.phnum,
            start_code: u64::MAX,
            end_code: 0,
            start_data: 0,
            end_data: 0,
            end: start + total,
        };
        for segment in &self.loads {
            self.map_segment(mm, segment, bias)?;
            let begin = segment.p_vaddr.wrapping_add(bias);
            let file_end = begin + segment.p_filesz;
            if segment.p_flags & abi::PF_X != 0 {
                placed.start_code = placed.start_code.min(begin);
                placed.end_code = placed.end_code.max(file_end);
            }
            placed.start_data = placed.start_data.max(begin);
            placed.end_data = placed.end_data.max(file_end);
        }
        if placed.start_code == u64::MAX {
            placed.start_code = start;
        }
        if !(user_low..user_high).contains(&placed.entry) {
            return Err(Errno::EINVAL);
        }
        Ok(placed)
    }

    fn map_segment(&self, mm: &Arc<Mm>, segment: &ProgramHeader, bias: u64) -> Result<()> {
        let prot = protection(segment.p_flags);
        let begin = segment.p_vaddr.wrapping_add(bias);
        let page = page_down(begin);
        let within = begin - page;
        let file_end = begin + segment.p_filesz;
        let mem_end = page_up(begin + segment.p_memsz).ok_or(Errno::EINVAL)?;
        let mut anon_from = page;
        if segment.p_filesz > 0 {
            mm.mmap(MapRequest {
                addr: page,
                len: segment.p_filesz + within,
                prot,
                flags: libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_DENYWRITE,
                file: Some(MapFile {
                    mappable: Ok(self.file.mappable.clone()),
                    file: self.file.file.clone(),
                    readable: true,
                    writable: false,
                    noexec: false,
                }),
                offset: segment.p_offset - within,
            })?;
            anon_from = page_up(file_end).ok_or(Errno::EINVAL)?;
        }
        if segment.p_memsz > segment.p_filesz {
            if segment.p_filesz > 0 && anon_from > file_end && prot & libc::PROT_WRITE != 0 {
                mm.write_bytes(file_end, &vec![0; (anon_from - file_end) as usize])?;
            }
            if mem_end > anon_from {
                mm.mmap(MapRequest {
                    addr: anon_from,
                    len: mem_end - anon_from,
                    prot,
                    flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                    file: None,
                    offset: 0,
                })?;
            }
        }
        Ok(())
    }
}

fn header(head: &[u8]) -> Result<FileHeader<NativeEndian>> {
    let head = head.get(..HEADER_LEN).ok_or(Errno::ENOEXEC)?;
    let ident = elf::file::parse_ident::<NativeEndian>(head).map_err(|_| Errno::ENOEXEC)?;
    if ident.1 != Class::ELF64 {
        return Err(Errno::ENOEXEC);
    }
    let header =
        FileHeader::parse_tail(ident, &head[abi::EI_NIDENT..]).map_err(|_| Errno::ENOEXEC)?;
    let known = matches!(header.e_type, abi::ET_EXEC | abi::ET_DYN);
    if !known || header.e_machine != MACHINE {
        return Err(Errno::ENOEXEC);
    }
    Ok(header)
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = abi::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = abi::EM_AARCH64;

fn protection(flags: u32) -> i32 {
    let mut prot = 0;
    for (flag, bit) in [
        (abi::PF_R, libc::PROT_READ),
        (abi::PF_W, libc::PROT_WRITE),
        (abi::PF_X, libc::PROT_EXEC),
    ] {
        if flags & flag != 0 {
            prot |= bit;
        }
    }
    prot
}

/// A free, aligned place of `total` bytes.
fn find_place(mm: &Arc<Mm>, hint: Option<u64>, total: u64, alignment: u64) -> Result<u64> {
    let room = total
        .checked_add(alignment - PAGE_SIZE)
        .ok_or(Errno::ENOMEM)?;
    let at = mm.mmap(MapRequest {
        addr: hint.map_or(0, |h| h & !(alignment - 1)),
        len: room,
        prot: libc::PROT_NONE,
        flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        file: None,
        offset: 0,
    })?;
    mm.munmap(at, room)?;
    Ok(at.next_multiple_of(alignment))
}
