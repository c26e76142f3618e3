//! The initial stack: strings, auxiliary vector, envp, argv, argc (System V ABI, "Process
//! Initialization"; getauxval(3)).

use std::sync::Arc;

use runsc_platform::auxv::auxval;

use crate::errno::{Errno, Result};
use crate::loader::ExecIds;
use crate::loader::elf_image::Placed;
use crate::mm::{Limits, Mm, PAGE_SIZE, Randomize, page_down, page_up, random_pages, random_u64};

/// Bytes mapped below the initial stack pointer from the start.
const ROOM: u64 = 128 << 10;
/// Least space for arguments, whatever the limits (ARG_MAX).
const MIN_ARGS: u64 = 128 << 10;
/// Most, whatever the limits: three quarters of the usual stack.
const MAX_ARGS: u64 = 6 << 20;
/// Clock ticks a second (sysconf(_SC_CLK_TCK)).
const CLOCK_TICKS: u64 = 100;
#[cfg(target_arch = "x86_64")]
const PLATFORM: &[u8] = b"x86_64\0";
#[cfg(target_arch = "aarch64")]
const PLATFORM: &[u8] = b"aarch64\0";

const AT_SYSINFO_EHDR: u64 = 33;
const AT_HWCAP2: u64 = 26;
const AT_MINSIGSTKSZ: u64 = 51;

/// argv, envp and the file name as they lie at the top of the stack.
pub struct Strings {
    bytes: Vec<u8>,
    /// Offsets in `bytes`.
    argv: Vec<usize>,
    envp: Vec<usize>,
    filename: usize,
    arg_end: usize,
    env_end: usize,
}

impl Strings {
    /// Lays the strings out, checking the total (execve(2), "Limits on size of arguments and
    /// environment").
    pub fn new(
        filename: &[u8],
        argv: &[Vec<u8>],
        envp: &[Vec<u8>],
        limits: Limits,
    ) -> Result<Strings> {
        let allowed = (limits.stack / 4).clamp(MIN_ARGS, MAX_ARGS);
        let pointers = (argv.len() + envp.len()) as u64 * 8;
        let text: usize = argv.iter().chain(envp).map(|s| s.len() + 1).sum();
        let total = pointers + (text + filename.len() + 1) as u64;
        if total > allowed {
            return Err(Errno::E2BIG);
        }
        let mut strings = Strings {
            bytes: Vec::with_capacity(text + filename.len() + 9),
            argv: Vec::with_capacity(argv.len()),
            envp: Vec::with_capacity(envp.len()),
            filename: 0,
            arg_end: 0,
            env_end: 0,
        };
        for s in argv {
            strings.argv.push(strings.bytes.len());
            strings.put(s);
        }
        strings.arg_end = strings.bytes.len();
        for s in envp {
            strings.envp.push(strings.bytes.len());
            strings.put(s);
        }
        strings.env_end = strings.bytes.len();
        strings.filename = strings.bytes.len();
        strings.put(filename);
        // The last word of the stack is zero.
        strings.bytes.extend_from_slice(&[0; 8]);
        Ok(strings)
    }

    fn put(&mut self, s: &[u8]) {
        self.bytes.extend_from_slice(s);
        self.bytes.push(0);
    }

    /// Bytes of the vectors below the strings, generously.
    fn vectors(&self) -> u64 {
        (self.argv.len() + self.envp.len()) as u64 * 8 + 1024
    }
}

/// Maps the stack; returns its top.
pub fn reserve(mm: &Arc<Mm>, strings: &Strings, exec: bool, randomize: Randomize) -> Result<u64> {
    let (_, high) = mm.user_range();
    let random = match randomize {
        Randomize::Yes => random_pages(1 << 22),
        Randomize::No => 0,
    };
    let len = page_up(strings.bytes.len() as u64 + strings.vectors() + PAGE_SIZE)
        .and_then(|n| n.checked_add(ROOM))
        .ok_or(Errno::E2BIG)?;
    // Whatever the platform has mapped near the top is avoided.
    let mut top = page_down(high - random);
    for _ in 0..8 {
        match mm.add_stack(top, len, exec) {
            Ok(()) => return Ok(top),
            Err(Errno::ENOMEM) => top = page_down(top - (1 << 30)),
            Err(e) => return Err(e),
        }
    }
    Err(Errno::ENOMEM)
}

/// The entries that do not depend on the stack, in Linux's order.
pub fn auxv(mm: &Arc<Mm>, program: &Placed, base: u64, ids: &ExecIds) -> Vec<(u64, u64)> {
    let mut auxv = Vec::with_capacity(24);
    if let Some(vdso) = mm.vdso_image() {
        auxv.push((AT_SYSINFO_EHDR, vdso));
    }
    let minimum = auxval(AT_MINSIGSTKSZ);
    if minimum != 0 {
        auxv.push((AT_MINSIGSTKSZ, minimum));
    }
    auxv.extend([
        (libc::AT_HWCAP, auxval(libc::AT_HWCAP)),
        (libc::AT_PAGESZ, PAGE_SIZE),
        (libc::AT_CLKTCK, CLOCK_TICKS),
        (libc::AT_PHDR, program.phdr),
        (libc::AT_PHENT, 56),
        (libc::AT_PHNUM, u64::from(program.phnum)),
        (libc::AT_BASE, base),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, program.entry),
        (libc::AT_UID, u64::from(ids.uid)),
        (libc::AT_EUID, u64::from(ids.euid)),
        (libc::AT_GID, u64::from(ids.gid)),
        (libc::AT_EGID, u64::from(ids.egid)),
        (libc::AT_SECURE, u64::from(ids.secure)),
    ]);
    auxv
}

/// Writes everything; returns the stack pointer.
pub fn build(
    mm: &Arc<Mm>,
    top: u64,
    strings: &Strings,
    mut auxv: Vec<(u64, u64)>,
    randomize: Randomize,
) -> Result<u64> {
    let base = top - strings.bytes.len() as u64;
    // As Linux does, so that hot stack lines of processes do not share cache sets.
    let jitter = match randomize {
        Randomize::Yes => random_u64() % 8192,
        Randomize::No => 0,
    };
    let mut sp = (base - jitter.min(PAGE_SIZE / 2)) & !15;
    sp -= PLATFORM.len() as u64;
    let platform = sp;
    sp -= 16;
    let random = sp;
    sp &= !15;

    auxv.push((libc::AT_RANDOM, random));
    auxv.push((AT_HWCAP2, auxval(AT_HWCAP2)));
    auxv.push((libc::AT_EXECFN, base + strings.filename as u64));
    auxv.push((libc::AT_PLATFORM, platform));
    auxv.push((libc::AT_NULL, 0));

    let words = 1 + strings.argv.len() + 1 + strings.envp.len() + 1 + auxv.len() * 2;
    sp = (sp - words as u64 * 8) & !15;

    let mut image = Vec::with_capacity((top - sp) as usize);
    let mut word = |w: u64| image.extend_from_slice(&w.to_ne_bytes());
    word(strings.argv.len() as u64);
    for &at in &strings.argv {
        word(base + at as u64);
    }
    word(0);
    for &at in &strings.envp {
        word(base + at as u64);
    }
    word(0);
    for &(kind, value) in &auxv {
        word(kind);
        word(value);
    }
    image.resize((random - sp) as usize, 0);
    image.extend_from_slice(&random_u64().to_ne_bytes());
    image.extend_from_slice(&random_u64().to_ne_bytes());
    image.extend_from_slice(PLATFORM);
    image.resize((base - sp) as usize, 0);
    image.extend_from_slice(&strings.bytes);
    mm.write_bytes(sp, &image)?;
    mm.set_layout(|layout| {
        layout.start_stack = sp;
        layout.arg_start = base;
        layout.arg_end = base + strings.arg_end as u64;
        layout.env_start = base + strings.arg_end as u64;
        layout.env_end = base + strings.env_end as u64;
        layout.auxv = auxv;
    });
    Ok(sp)
}
