//! Where things lie: the stub's own pages in every guest address space, and the file behind them.
//!
//! ```text
//! 0x60000          jump table and thread table           r--  a process's own
//! ... guest ...    user range, up to `Layout::base`
//! base + CODE      stub code, constants                  r-x  the same in all
//! base + GLOBAL    what workers are doing                r--  the same in all
//! base + TITLE     what the host shows of the process  rw-  a process's own, if it was ever shown
//! base + COMMANDS  orders for the process's mapper       r--  a process's own
//! base + SITES     what patched call sites jump to       r-x  a process's own
//! base + ANSWERS   what the mapper says                  rw-  a process's own
//! base + AREAS     one area a thread, from number 1 on   rw-  a process's own, those of its threads
//! ```
//!
//! All but the code lies in one sparse file, a *slice* of it a process; the Sentry has all of the
//! file mapped. What a stub can write (its areas) and what it can only read are different pages of
//! its slice. Guest code may write its areas at any moment: the Sentry reads each word once and
//! checks it.

use super::super::common::TASK_SIZE;

/// Bytes of the fixed low pages, and where: below any program, above vm.mmap_min_addr. Sites are
/// patched to jump through this address range, see `sites`.
pub(super) const LOW: u64 = 0x6_0000;
pub(super) const LOW_LEN: u64 = 0x1_0000;
/// Guests may map from here on.
pub(super) const USER_START: u64 = LOW + LOW_LEN;

/// Offsets from the base.
pub(super) const CODE: u64 = 0;
pub(super) const CODE_LEN: u64 = 0x8000;
/// Constants behind the code, in the same mapping.
pub(super) const DATA: u64 = 0x3000;
pub(super) const GLOBAL: u64 = 0x8000;
pub(super) const GLOBAL_LEN: u64 = 0x1000;
/// Memory of no file: the host shows no other.
pub(super) const TITLE: u64 = 0x9000;
pub(super) const TITLE_LEN: u64 = 0x1000;
pub(super) const COMMANDS: u64 = 0x1_0000;
pub(super) const COMMANDS_LEN: u64 = 0x1_0000;
pub(super) const SITES: u64 = 0x2_0000;
pub(super) const SITES_LEN: u64 = 0x4_0000;
pub(super) const AREAS: u64 = 0x8_0000;
pub(super) const AREA_LEN: u64 = 0x8000;
/// Areas of a process: of the first only the last page is used, see [`answers`]; the others are its
/// threads'.
pub(super) const AREA_COUNT: u64 = 4096;
pub(super) const ANSWERS: u64 = AREAS + AREA_LEN - ANSWERS_LEN;
pub(super) const ANSWERS_LEN: u64 = 0x1000;
pub(super) const TOTAL: u64 = AREAS + AREA_COUNT * AREA_LEN;

/// Offsets in a slice of the file. The areas keep their offset from the base.
pub(super) const FILE_COMMANDS: u64 = 0;
pub(super) const FILE_LOW: u64 = 0x1_0000;
pub(super) const FILE_SITES: u64 = 0x2_0000;
pub(super) const FILE_AREAS: u64 = AREAS;
pub(super) const FILE_ANSWERS: u64 = ANSWERS;
pub(super) const SLICE: u64 = 0x820_0000;
/// Slices there are; the first holds the global page, the second is the template's.
pub(super) const SLICES: u64 = 1 << 15;

/// The order page (at COMMANDS): orders, read by the mapper.
pub(super) mod orders {
    /// Sequence number of the last order.
    pub const SEQ: u64 = 0;
    /// How many calls.
    pub const COUNT: u64 = 4;
    /// Whether the Sentry sleeps until they are done.
    pub const WAITER: u64 = 8;
    /// Two futexes, with the sequence number too. After an order of even number the mapper sleeps on
    /// the first, after one of odd number on the second: where it sleeps says what it has done.
    pub const SLEEP: u64 = 40;
    /// Sequence number of the last order whose failure the Sentry has seen.
    pub const ACKNOWLEDGED: u64 = 56;
    /// stack_t for a new thread.
    pub const STACK: u64 = 16;
    /// Address of the area of the thread that goes on after it; 0: none.
    pub const RELEASE: u64 = 48;
    /// The calls: number and six arguments each. After an order that failed the mapper sleeps on the
    /// number of the call that did.
    ///
    /// A number of [`COPY`] is no call: the mapper copies as many bytes as the third argument says
    /// from the second one's address to the first one's.
    pub const CALLS: u64 = 64;
    pub const COPY: i64 = -1;
    pub const CALL_LEN: u64 = 56;
    /// For other structures that calls point to.
    pub const SCRATCH: u64 = super::COMMANDS_LEN - 0x1000;
    pub const MAX: u64 = (SCRATCH - CALLS) / CALL_LEN;
}

/// The page before the areas of threads: what the mapper says.
pub(super) mod answers {
    /// Last sequence number carried out; a futex.
    pub const DONE: u64 = 0;
    /// Calls not carried out, the failed one first.
    pub const LEFT: u64 = 4;
    /// Result of the last call.
    pub const RESULT: u64 = 8;
}

/// A thread's area. The first line is all that a plain call and its answer need.
pub(super) mod area {
    /// Futex word, see `shared::state`.
    pub const STATE: u64 = 0;
    /// Why it trapped, see `shared::kind`.
    pub const KIND: u64 = 4;
    /// Number on the way in, result on the way out.
    pub const RAX: u64 = 8;
    pub const RDI: u64 = 16;
    pub const RSI: u64 = 24;
    pub const RDX: u64 = 32;
    pub const R10: u64 = 40;
    pub const R8: u64 = 48;
    pub const R9: u64 = 56;
    pub const RIP: u64 = 64;
    pub const RSP: u64 = 72;
    pub const EFLAGS: u64 = 80;
    pub const RCX: u64 = 88;
    pub const R11: u64 = 96;
    pub const RBX: u64 = 104;
    pub const RBP: u64 = 112;
    /// Address of FP state to load before guest code runs; 0: it is in the processor.
    pub const FP_AT: u64 = 120;
    pub const R12: u64 = 128;
    pub const R13: u64 = 136;
    pub const R14: u64 = 144;
    pub const R15: u64 = 152;
    pub const FS_BASE: u64 = 160;
    pub const GS_BASE: u64 = 168;
    /// How to go back to the guest, see `shared::exit`.
    pub const EXIT: u64 = 176;
    /// Not zero while stub code is single-stepped out of.
    pub const STEP: u64 = 180;
    /// How often to yield the core, looking for the answer, before sleeping; in the upper half, how
    /// often to look before the first time.
    pub const SPIN: u64 = 184;
    /// The worker to ring.
    pub const BELL: u64 = 188;
    /// Of a signal.
    pub const SIGNO: u64 = 192;
    pub const SI_CODE: u64 = 196;
    pub const SI_ADDR: u64 = 200;
    pub const ERR: u64 = 208;
    pub const TRAPNO: u64 = 216;
    pub const SI_ARCH: u64 = 224;
    /// Not zero if a kick came where it could not be told whether it was late.
    pub const KICKED: u64 = 232;
    /// Sequence number of the order that state MAP is about.
    pub const ORDER: u64 = 236;
    /// Answers in place: seven words, negative where there is none.
    pub const ANSWERS: u64 = 256;
    /// Negative if calls that have no such word are not to be answered in place.
    pub const OTHER_CALLS: u64 = ANSWERS + 56;
    /// Space for FP state.
    pub const FP: u64 = 0x1000;
    pub const FP_LEN: u64 = 0x1000;
    /// Top of the stack of code that patched sites jump to.
    pub const STACK_TOP: u64 = 0x3000;
    pub const ALTSTACK: u64 = 0x3000;
    pub const ALTSTACK_LEN: u64 = super::AREA_LEN - ALTSTACK;
}

/// The global page: a line a worker.
pub(super) mod global {
    pub const LINE: u64 = 64;
    /// 1 while the worker sleeps and wants to be rung.
    pub const ASLEEP: u64 = 0;
    /// Host fd of its bell.
    pub const BELL_FD: u64 = 4;
    /// Workers there can be.
    pub const MAX_WORKERS: u64 = 16;
}

/// Constants at DATA.
pub(super) mod data {
    /// Mask for XSAVE and XRSTOR.
    pub const XSAVE_MASK: u64 = 0;
    /// The number 1.
    pub const ONE: u64 = 8;
    /// vDSO functions, 0 where there is none.
    pub const VDSO_CLOCK_GETTIME: u64 = 16;
    pub const VDSO_GETTIMEOFDAY: u64 = 24;
    pub const VDSO_TIME: u64 = 32;
    pub const VDSO_GETCPU: u64 = 40;
    /// struct sock_fprog of the guest threads' filter and of the mappers'.
    pub const GUEST_FILTER: u64 = 48;
    pub const MAPPER_FILTER: u64 = 64;
    /// Zeros.
    pub const ZERO: u64 = 80;
    /// FP state of a fresh thread, 64-byte aligned.
    pub const FP_INIT: u64 = 128;
    /// How many of a new process's pages to map, and which: address, length, prot, offset.
    pub const MAPS: u64 = 1024;
    pub const MAP_COUNT: u64 = 4;
    /// One byte a call number below 512: how it is answered in place.
    pub const IN_PLACE: u64 = 1536;
    pub const FILTERS: u64 = 2048;
}

/// Addresses of one sandbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub base: u64,
    pub vdso: Option<crate::VdsoRange>,
}

impl Layout {
    /// Highest address (exclusive) that guests may map.
    pub fn user_end(&self) -> u64 {
        self.vdso
            .map_or(self.base, |vdso| vdso.start.min(self.base))
    }

    pub fn user(&self) -> (u64, u64) {
        (USER_START, self.user_end())
    }

    pub fn data(&self) -> u64 {
        self.base + DATA
    }

    pub fn area(&self, index: u64) -> u64 {
        self.base + AREAS + index * AREA_LEN
    }

    /// Whether an address is in a trampoline.
    pub fn is_site_page(&self, addr: u64) -> bool {
        addr.wrapping_sub(self.base + SITES) < SITES_LEN
    }

    /// The ranges that a stub keeps, ascending.
    pub fn kept(&self) -> Vec<(u64, u64)> {
        let mut kept = vec![(LOW, LOW + LOW_LEN), (self.base, self.base + TOTAL)];
        kept.extend(self.vdso.map(|vdso| (vdso.start, vdso.end)));
        kept.sort_unstable();
        kept
    }

    /// What lies between the kept ranges.
    pub fn others(&self) -> Vec<(u64, u64)> {
        let mut from = 0;
        let mut others = Vec::new();
        for (start, end) in self.kept().into_iter().chain([(TASK_SIZE, TASK_SIZE)]) {
            if start > from {
                others.push((from, start - from));
            }
            from = end;
        }
        others
    }
}
