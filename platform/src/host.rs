//! Small facts about and settings of the host process and thread that need `unsafe` or that the
//! Sentry should not parse itself.
//!
//! [`vdso_range`] reads /proc/self/maps once and remembers the answer: call it (or make a
//! platform) while /proc is still reachable.

use std::io;
use std::sync::OnceLock;

use crate::VdsoRange;

/// Host thread id of the caller.
pub fn gettid() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::gettid() }
}

/// Binds the calling thread (`tid` 0) or another one to a set of host cores.
pub fn set_affinity(tid: i32, cores: &[usize]) -> io::Result<()> {
    // SAFETY: all-zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in cores {
        if core < libc::CPU_SETSIZE as usize {
            // SAFETY: the index was checked against the size of the set.
            unsafe { libc::CPU_SET(core, &mut set) };
        }
    }
    // SAFETY: `set` is a valid set of the size given.
    let rc = unsafe { libc::sched_setaffinity(tid, size_of_val(&set), &set) };
    if rc == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// The host cores the calling thread may run on.
pub fn affinity() -> io::Result<Vec<usize>> {
    // SAFETY: all-zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid buffer of the size given.
    let rc = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index is below the size of the set.
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect())
}

/// Raises the soft limit of open files to the hard limit and gives it.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid buffer.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid limit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// The pages of the host's vDSO and its data in this process, as one range. None if the host has
/// none, or if they are not adjacent.
pub fn vdso_range() -> Option<VdsoRange> {
    static RANGE: OnceLock<Option<VdsoRange>> = OnceLock::new();
    *RANGE.get_or_init(|| parse_maps(&std::fs::read_to_string("/proc/self/maps").ok()?))
}

fn parse_maps(maps: &str) -> Option<VdsoRange> {
    let mut range: Option<VdsoRange> = None;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let addresses = fields.next()?;
        let name = fields.nth(4).unwrap_or("");
        if !matches!(name, "[vdso]" | "[vvar]" | "[vvar_vclock]") {
            continue;
        }
        let (start, end) = addresses.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        let entry = range.get_or_insert(VdsoRange {
            start,
            end: start,
            image: 0,
        });
        if entry.end != start {
            return None;
        }
        entry.end = end;
        if name == "[vdso]" {
            entry.image = start;
        }
    }
    range.filter(|range| range.image != 0)
}

/// A copy of the vDSO's ELF image (without its data pages).
pub fn vdso_bytes() -> Option<Vec<u8>> {
    let range = vdso_range()?;
    // The image is the last mapping where its data comes first, as on x86-64.
    let len = usize::try_from(range.end.checked_sub(range.image)?).ok()?;
    // SAFETY: the kernel maps these pages readable for the life of the process, and they do not
    // change.
    let image = unsafe { std::slice::from_raw_parts(range.image as *const u8, len) };
    Some(image.to_vec())
}

/// Value of a symbol of a vDSO image, by its dynamic section (ELF specification, "Dynamic
/// Section"; vdso(7)).
pub(crate) fn vdso_symbol(image: &[u8], name: &str) -> Option<u64> {
    const DT_STRTAB: u64 = 5;
    const DT_SYMTAB: u64 = 6;
    const PT_DYNAMIC: u32 = 2;
    let word = |at: usize| Some(u64::from_le_bytes(image.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?));
    let (headers, count) = (word(32)? as usize, half(56)? as usize);
    let dynamic = (0..count)
        .map(|n| headers + n * 56)
        .find(|&at| image.get(at..at + 4) == Some(&PT_DYNAMIC.to_le_bytes()))?;
    let (mut strings, mut symbols) = (0, 0);
    let mut at = word(dynamic + 8)? as usize;
    loop {
        match word(at)? {
            0 => break,
            DT_STRTAB => strings = word(at + 8)? as usize,
            DT_SYMTAB => symbols = word(at + 8)? as usize,
            _ => {}
        }
        at += 16;
    }
    const MOST: usize = 64;
    (1..MOST).map(|n| symbols + n * 24).find_map(|symbol| {
        let start = strings + usize::from(half(symbol)?);
        let end = start + name.len();
        let found = image.get(start..end)? == name.as_bytes() && image.get(end) == Some(&0);
        found.then(|| word(symbol + 8)).flatten()
    })
}

/// A full memory barrier on every running thread of the machine (membarrier(2),
/// MEMBARRIER_CMD_GLOBAL). Takes milliseconds.
pub fn membarrier_global() -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    let r = unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Fills `buf` from the host's random number generator (getrandom(2)).
pub fn random(buf: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let rest = &mut buf[done..];
        // SAFETY: `rest` is valid for writes of its length.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => done += n,
            Err(_) => {
                let e = io::Error::last_os_error();
                if e.kind() != io::ErrorKind::Interrupted {
                    return Err(e);
                }
            }
        }
    }
    Ok(())
}

/// Memory of the machine in bytes (sysconf(3)).
pub fn memory_total() -> Option<u64> {
    // SAFETY: the call takes no pointers.
    let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    // SAFETY: the call takes no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(pages)
        .ok()?
        .checked_mul(u64::try_from(size).ok()?)
}

/// Keeps malloc(3) to one arena: the C library trims further ones after reading a file of /proc,
/// which a filter may forbid. To be called while the process has one thread.
pub fn single_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// The registers eax, ebx, ecx, edx that CPUID gives for a leaf and its sub-leaf. Any leaf may be
/// asked; what the processor does not have is zeros or the highest leaf's answer.
#[cfg(target_arch = "x86_64")]
pub fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    #[allow(unused_unsafe, reason = "safe in newer standard libraries")]
    // SAFETY: every x86-64 processor has the instruction.
    let r = unsafe { std::arch::x86_64::__cpuid_count(leaf, sub) };
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// The processor's extended-state features that the kernel has switched on (XCR0).
#[cfg(target_arch = "x86_64")]
pub fn enabled_features() -> u64 {
    const OSXSAVE: u32 = 1 << 27;
    const X87_SSE: u64 = 0b11;
    if cpuid(1, 0)[2] & OSXSAVE == 0 {
        return X87_SSE;
    }
    let (low, high): (u32, u32);
    // SAFETY: the kernel has enabled XGETBV, as CPUID says; it reads a register.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Whether user code may read and set %fs and %gs bases (HWCAP2_FSGSBASE, asm/hwcap2.h).
#[cfg(target_arch = "x86_64")]
pub fn has_fsgsbase() -> bool {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    // SAFETY: no memory is passed.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
}

/// Whether the processor has the instructions of BMI2 (CPUID leaf 7, ebx bit 8).
#[cfg(target_arch = "x86_64")]
pub fn has_bmi2() -> bool {
    cpuid(7, 0)[1] & 1 << 8 != 0
}

/// Where the C library has registered the calling thread's rseq area: address, length, signature
/// (rseq(2)). None where it is too old to.
pub fn rseq_area() -> Option<(u64, u64, u64)> {
    const SIGNATURE: u64 = 0x5305_3053;
    let symbol = |name: &std::ffi::CStr| {
        // SAFETY: the name is terminated; the default scope is searched.
        let at = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        (!at.is_null()).then_some(at)
    };
    let offset: *const isize = symbol(c"__rseq_offset")?.cast();
    let size: *const u32 = symbol(c"__rseq_size")?.cast();
    // SAFETY: glibc's ptrdiff_t, set at start-up.
    let offset = unsafe { *offset };
    // SAFETY: glibc's unsigned int, set at start-up.
    let size = unsafe { *size };
    let base: u64;
    // SAFETY: the first word of the thread control block is its own address (x86-64 TLS ABI).
    unsafe { std::arch::asm!("mov {}, fs:[0]", out(reg) base, options(nostack, readonly)) };
    const MIN_LEN: u64 = 32;
    let len = u64::from(size).max(MIN_LEN);
    Some((base.wrapping_add_signed(offset as i64), len, SIGNATURE))
}

/// The time-stamp counter.
#[cfg(target_arch = "x86_64")]
pub fn time_stamp() -> u64 {
    // SAFETY: the instruction has no operands and is allowed in user mode (Linux sets no CR4.TSD).
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vdso_is_an_elf_image() {
        let bytes = vdso_bytes().unwrap();
        assert_eq!(&bytes[..4], b"\x7fELF");
        let range = vdso_range().unwrap();
        // SAFETY: no memory is passed.
        let auxv = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
        assert_eq!(range.image, auxv);
    }

    #[test]
    fn maps_with_a_gap_are_refused() {
        let maps = "7000-8000 r--p 00000000 00:00 0   [vvar]\n\
                    9000-a000 r-xp 00000000 00:00 0   [vdso]\n";
        assert_eq!(parse_maps(maps), None);
        let maps = maps.replace("9000", "8000");
        let range = VdsoRange {
            start: 0x7000,
            end: 0xa000,
            image: 0x8000,
        };
        assert_eq!(parse_maps(&maps), Some(range));
    }

    #[test]
    fn affinity_round_trips() {
        let all = affinity().unwrap();
        set_affinity(0, &all[..1]).unwrap();
        assert_eq!(affinity().unwrap(), &all[..1]);
        set_affinity(0, &all).unwrap();
    }
}
