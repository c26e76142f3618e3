//! The stubs' own memory: the file behind it, the addresses, the constants beside the code.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use parking_lot::Mutex;

use super::code::{self, in_place as how};
use super::filter::{self, Bells};
use super::layout::*;
use super::shared::Shared;
use crate::common::bpf::Insn;
use crate::common::xstate::XState;
use crate::memory::MemFd;
use crate::{Error, InPlace, Result, arch::FpState, host};

/// All that stubs share with the Sentry. Whoever holds a part of it holds this too.
pub(super) struct StubMemory {
    pub layout: Layout,
    pub file: MemFd,
    all: Shared,
    reserved: Reserved,
    pub xstate: XState,
    slices: Mutex<Slices>,
}

/// Slices kept with their memory.
const SPARE: usize = 4;

/// What a process may have left in its slice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    /// Bytes of the order pages, from the first.
    pub orders: u64,
    /// Areas of threads.
    pub areas: u64,
    /// There may be something in the low pages and the trampolines.
    pub patched: bool,
}

struct Slices {
    used: u64,
    free: Vec<u64>,
}

fn host_error(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Host { what, source }
}

impl StubMemory {
    /// Reserves the addresses and writes code and constants. `in_place`: whether stubs may answer
    /// calls in place.
    pub fn new(bells: Bells, in_place: InPlace) -> Result<StubMemory> {
        let file = MemFd::create(c"runsc-stubs").map_err(host_error("memfd_create"))?;
        let len = SLICES * SLICE;
        file.set_len(len).map_err(host_error("ftruncate"))?;
        let all = map(&file, len).map_err(host_error("mapping the stubs' memory"))?;
        let reserved = Reserved::new().map_err(host_error("reserving stub addresses"))?;
        let layout = Layout {
            base: reserved.base(),
            vdso: host::vdso_range(),
        };
        let xstate = XState::of_processor();
        if xstate.size as u64 > area::FP_LEN {
            return Err(Error::Refused {
                op: format!("systrap: {} bytes of FP state", xstate.size),
                source: io::Error::from_raw_os_error(libc::ENOTSUP),
            });
        }
        let mut page = code::bytes().to_vec();
        if page.len() as u64 > DATA {
            return Err(host_error("stub code")(io::Error::from_raw_os_error(
                libc::E2BIG,
            )));
        }
        page.resize(DATA as usize, 0);
        page.extend(constants(&layout, &xstate, bells, in_place));
        page.resize(CODE_LEN as usize, 0);
        write_code(layout.base, &page).map_err(host_error("writing stub code"))?;
        Ok(StubMemory {
            layout,
            file,
            all,
            reserved,
            xstate,
            slices: Mutex::new(Slices {
                used: 1,
                free: Vec::new(),
            }),
        })
    }

    /// The line of the global page that tells about a worker.
    pub fn worker(&self, index: usize) -> Shared {
        self.all
            .at(index as u64 % global::MAX_WORKERS * global::LINE)
    }

    pub fn slice(&self, slice: u64) -> Shared {
        self.all.at(slice * SLICE)
    }

    /// Takes a slice nobody uses. It reads as zeros.
    pub fn take_slice(&self) -> Result<u64> {
        let mut slices = self.slices.lock();
        if let Some(slice) = slices.free.pop() {
            return Ok(slice);
        }
        if slices.used == SLICES {
            return Err(Error::Refused {
                op: "one more address space".to_owned(),
                source: io::Error::from_raw_os_error(libc::EAGAIN),
            });
        }
        slices.used += 1;
        Ok(slices.used - 1)
    }

    /// Gives a slice back once no process has it mapped any more. The memory of most goes to the
    /// host; some of those that hold little stay as they are, cleared: the next process has no page
    /// to wait for.
    pub fn free_slice(&self, slice: u64, used: Used) {
        let small = used.areas <= 1 && !used.patched;
        if small && self.slices.lock().free.len() < SPARE {
            let memory = self.slice(slice);
            memory.clear(FILE_COMMANDS, used.orders);
            memory.clear(FILE_ANSWERS, ANSWERS_LEN + AREA_LEN);
        } else if self.file.punch_hole(slice * SLICE, SLICE).is_err() {
            // Not to be used again.
            return;
        }
        self.slices.lock().free.push(slice);
    }

    /// What a new process maps of its slice: address, length, protection, offset in the slice. The
    /// areas of all threads but the first are mapped with them.
    pub fn maps(layout: &Layout) -> [(u64, u64, i32, u64); data::MAP_COUNT as usize] {
        let base = layout.base;
        let (r, rw) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
        let rx = libc::PROT_READ | libc::PROT_EXEC;
        [
            (base + COMMANDS, COMMANDS_LEN, r, FILE_COMMANDS),
            (LOW, LOW_LEN, r, FILE_LOW),
            (base + SITES, SITES_LEN, rx, FILE_SITES),
            (base + ANSWERS, ANSWERS_LEN + AREA_LEN, rw, FILE_ANSWERS),
        ]
    }
}

fn map(file: &MemFd, len: u64) -> io::Result<Shared> {
    // SAFETY: an address of the kernel's choice replaces nothing.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            file.as_fd().as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the whole file is mapped, and nothing unmaps it.
    Ok(unsafe { Shared::new(at.cast()) })
}

impl Drop for StubMemory {
    fn drop(&mut self) {
        let at = self.all.address() as *mut libc::c_void;
        // SAFETY: nobody holds a part of it any more.
        unsafe { libc::munmap(at, (SLICES * SLICE) as usize) };
        let Reserved { at } = self.reserved;
        // SAFETY: reserved by us; nothing of ours runs there.
        unsafe { libc::munmap(at as *mut libc::c_void, Reserved::LEN as usize) };
    }
}

/// Keeps the stubs' addresses free in this process.
struct Reserved {
    at: u64,
}

impl Reserved {
    const LEN: u64 = 2 * TOTAL + AREA_LEN;

    fn new() -> io::Result<Reserved> {
        // SAFETY: an address of the kernel's choice replaces nothing.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::LEN as usize,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Reserved { at: at as u64 })
    }

    /// Aligned to areas, and within one 4 GiB block, so that filters need not compare more than
    /// one half of an address at a time.
    fn base(&self) -> u64 {
        let base = self.at.next_multiple_of(AREA_LEN);
        if base >> 32 == (base + TOTAL) >> 32 {
            return base;
        }
        (base + TOTAL) >> 32 << 32
    }
}

fn write_code(base: u64, page: &[u8]) -> io::Result<()> {
    let at = (base + CODE) as *mut u8;
    let protect = |prot| {
        // SAFETY: the addresses were reserved by us and hold nothing else.
        match unsafe { libc::mprotect(at.cast(), CODE_LEN as usize, prot) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    protect(libc::PROT_READ | libc::PROT_WRITE)?;
    // SAFETY: `at` has CODE_LEN writable bytes, as many as `page`.
    unsafe { std::ptr::copy_nonoverlapping(page.as_ptr(), at, page.len()) };
    protect(libc::PROT_READ | libc::PROT_EXEC)
}

/// The constants at DATA.
fn constants(layout: &Layout, xstate: &XState, bells: Bells, in_place: InPlace) -> Vec<u8> {
    let mut bytes = vec![0; (CODE_LEN - DATA) as usize];
    let mut put = |at: u64, value: &[u8]| {
        bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
    };
    put(data::XSAVE_MASK, &xstate.features.to_le_bytes());
    put(data::ONE, &1u64.to_le_bytes());
    if let (Some(range), Some(image)) = (layout.vdso, host::vdso_bytes()) {
        for (at, name) in [
            (data::VDSO_CLOCK_GETTIME, "__vdso_clock_gettime"),
            (data::VDSO_GETTIMEOFDAY, "__vdso_gettimeofday"),
            (data::VDSO_TIME, "__vdso_time"),
            (data::VDSO_GETCPU, "__vdso_getcpu"),
        ] {
            if let Some(symbol) = host::vdso_symbol(&image, name) {
                put(at, &(range.image + symbol).to_le_bytes());
            }
        }
    }
    let init = FpState::initial();
    put(data::FP_INIT, init.as_bytes());
    for (n, (addr, len, prot, offset)) in StubMemory::maps(layout).into_iter().enumerate() {
        let entry = [addr, len, prot as u64, offset].map(u64::to_le_bytes);
        put(data::MAPS + 32 * n as u64, entry.as_flattened());
    }
    if in_place == InPlace::Answer {
        for (number, how) in answered() {
            put(data::IN_PLACE + number as u64, &[how]);
        }
    }
    let mut at = data::FILTERS;
    for (head, program) in [
        (data::GUEST_FILTER, filter::guest(layout, bells)),
        (data::MAPPER_FILTER, filter::mapper(layout, bells)),
    ] {
        // struct sock_fprog: a length and, 8 bytes on, a pointer.
        put(head, &(program.len() as u64).to_le_bytes());
        put(head + 8, &(layout.data() + at).to_le_bytes());
        let code: Vec<u8> = program.iter().flat_map(encode).collect();
        put(at, &code);
        at += code.len() as u64;
    }
    bytes
}

fn encode(insn: &Insn) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&insn.code.to_le_bytes());
    bytes[2..4].copy_from_slice(&[insn.jt, insn.jf]);
    bytes[4..].copy_from_slice(&insn.k.to_le_bytes());
    bytes
}

/// Calls that stubs can answer, and how.
fn answered() -> impl Iterator<Item = (i64, u8)> {
    use crate::Answer;
    let words = Answer::ALL.map(|answer| (answer.call(), answer as u8 + 1));
    words.into_iter().chain([
        (libc::SYS_clock_gettime, how::CLOCK_GETTIME),
        (libc::SYS_gettimeofday, how::GETTIMEOFDAY),
        (libc::SYS_time, how::TIME),
        (libc::SYS_getcpu, how::GETCPU),
        (libc::SYS_sched_yield, how::SCHED_YIELD),
    ])
}
