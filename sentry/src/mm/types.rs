//! Plain data of the memory subsystem: what callers pass in and get back.

use std::sync::Arc;

use crate::errno::Result;
use crate::fs::file::File;
use crate::mm::mappable::Mappable;
use runsc_platform::Prot;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;

/// Rounds down to a page.
pub const fn page_down(addr: u64) -> u64 {
    addr & !(PAGE_SIZE - 1)
}

/// Rounds up to a page; None on overflow.
pub const fn page_up(addr: u64) -> Option<u64> {
    match addr.checked_add(PAGE_SIZE - 1) {
        Some(a) => Some(page_down(a)),
        None => None,
    }
}

/// True for a multiple of the page size.
pub const fn page_aligned(addr: u64) -> bool {
    addr & (PAGE_SIZE - 1) == 0
}

bitflags::bitflags! {
    /// flags of mmap(2), with Linux's x86-64 values.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MapFlags: i32 {
        const SHARED = libc::MAP_SHARED;
        const PRIVATE = libc::MAP_PRIVATE;
        const FIXED = libc::MAP_FIXED;
        const ANONYMOUS = libc::MAP_ANONYMOUS;
        const BITS_32 = libc::MAP_32BIT;
        const GROWSDOWN = libc::MAP_GROWSDOWN;
        const DENYWRITE = libc::MAP_DENYWRITE;
        const EXECUTABLE = libc::MAP_EXECUTABLE;
        const LOCKED = libc::MAP_LOCKED;
        const NORESERVE = libc::MAP_NORESERVE;
        const POPULATE = libc::MAP_POPULATE;
        const NONBLOCK = libc::MAP_NONBLOCK;
        const STACK = libc::MAP_STACK;
        const HUGETLB = libc::MAP_HUGETLB;
        const SYNC = libc::MAP_SYNC;
        const FIXED_NOREPLACE = libc::MAP_FIXED_NOREPLACE;
    }
}

/// The file side of a mapping, as the system-call layer found it in the descriptor table.
pub struct MapFile {
    /// What [`crate::fs::file::FileOps::mappable`] said; an error is reported at the point where
    /// Linux would call the file's mmap operation.
    pub mappable: Result<Arc<dyn Mappable>>,
    /// For /proc/PID/maps and to keep the file open. None in tests.
    pub file: Option<Arc<File>>,
    /// The descriptor was opened for reading.
    pub readable: bool,
    /// The descriptor was opened for writing.
    pub writable: bool,
    /// The file lies on a mount with noexec.
    pub noexec: bool,
}

/// Arguments of mmap(2). For anonymous memory `file` is None.
pub struct MapRequest {
    /// Hint, or the exact address with FIXED.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// PROT_* bits as the guest passed them (unknown bits are ignored, as Linux does).
    pub prot: i32,
    /// MAP_* bits as the guest passed them.
    pub flags: i32,
    pub file: Option<MapFile>,
    /// Bytes; EINVAL unless page aligned.
    pub offset: u64,
}

/// Resource limits that concern memory, in bytes (`u64::MAX`: none), and the privilege that lifts
/// one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// RLIMIT_AS.
    pub address_space: u64,
    /// RLIMIT_DATA.
    pub data: u64,
    /// RLIMIT_STACK.
    pub stack: u64,
    /// RLIMIT_MEMLOCK.
    pub memlock: u64,
    /// CAP_IPC_LOCK: RLIMIT_MEMLOCK does not apply.
    pub may_lock: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            address_space: u64::MAX,
            data: u64::MAX,
            stack: 8 << 20,
            memlock: 8 << 20,
            may_lock: false,
        }
    }
}

/// A signal that a fault turns into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalInfo {
    /// There was no memory for the page: it may work later.
    pub no_memory: bool,
    pub signo: i32,
    /// si_code.
    pub code: i32,
    /// si_addr.
    pub addr: u64,
}

/// Identifies a futex word. Equal keys: the same word.
#[derive(Clone)]
pub enum FutexKey {
    /// Address space and address.
    Private(u64, u64),
    /// Object and offset in it, bytes. Keeps the object, so that its identity is not reused.
    Shared(Arc<dyn Mappable>, u64),
}

impl FutexKey {
    fn parts(&self) -> (u8, u64, u64) {
        match self {
            FutexKey::Private(mm, addr) => (0, *mm, *addr),
            FutexKey::Shared(object, offset) => (1, object.identity(), *offset),
        }
    }

    /// Differs for most keys. A guest can make it the same for many: good to divide work by, not
    /// to look keys up by.
    pub fn spread(&self) -> usize {
        let (_, space, word) = self.parts();
        let mixed = (space ^ word >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize
    }
}

impl PartialEq for FutexKey {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for FutexKey {}

impl std::hash::Hash for FutexKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl std::fmt::Debug for FutexKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, object, offset) = self.parts();
        write!(f, "FutexKey({kind}, {object:#x}, {offset:#x})")
    }
}

/// The name /proc/PID/maps shows for a mapping without a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmaName {
    None,
    Heap,
    Stack,
    Vvar,
    Vdso,
    /// PR_SET_VMA_ANON_NAME: shown as `[anon:NAME]`.
    Anon(Arc<[u8]>),
    /// MAP_SHARED | MAP_ANONYMOUS: shown as `/dev/zero (deleted)`.
    DevZero,
    /// A System V segment: shown as `/SYSVkey (deleted)`.
    Segment {
        key: i32,
        id: i32,
    },
}

impl VmaName {
    /// The text of /proc/PID/maps, empty for none.
    pub fn text(&self) -> Vec<u8> {
        match self {
            VmaName::None => Vec::new(),
            VmaName::Heap => b"[heap]".to_vec(),
            VmaName::Stack => b"[stack]".to_vec(),
            VmaName::Vvar => b"[vvar]".to_vec(),
            VmaName::Vdso => b"[vdso]".to_vec(),
            VmaName::Anon(name) => [b"[anon:", &name[..], b"]"].concat(),
            VmaName::DevZero => b"/dev/zero (deleted)".to_vec(),
            VmaName::Segment { key, .. } => format!("/SYSV{key:08x} (deleted)").into_bytes(),
        }
    }
}

/// One line of /proc/PID/maps, and what smaps adds. Sizes in bytes.
#[derive(Clone)]
pub struct VmaInfo {
    pub start: u64,
    pub end: u64,
    pub prot: Prot,
    pub shared: bool,
    /// Offset in the file; 0 for anonymous memory.
    pub offset: u64,
    pub file: Option<Arc<File>>,
    pub name: VmaName,
    /// VmFlags of smaps: "rd wr mr mw me ac ..." without a trailing space.
    pub vm_flags: String,
    pub locked: bool,
}

/// Memory use of one VMA for smaps, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmaUse {
    pub rss: u64,
    /// Private and written: copies and anonymous memory.
    pub anonymous: u64,
    pub shared: u64,
}

/// Sizes for /proc/PID/status and statm, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub vm: u64,
    pub vm_peak: u64,
    pub rss: u64,
    pub rss_peak: u64,
    pub rss_anon: u64,
    pub rss_file: u64,
    pub rss_shmem: u64,
    pub data: u64,
    pub stack: u64,
    pub exec: u64,
    pub locked: u64,
    /// VmLib: executable file mappings other than the program's text.
    pub lib: u64,
}

/// Where the parts of the program lie (PR_SET_MM, /proc/PID/stat, cmdline, environ, auxv).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// The auxiliary vector as it was on the initial stack, AT_NULL included.
    pub auxv: Vec<(u64, u64)>,
}
