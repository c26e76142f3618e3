//! Call sites of a process that jump to stub code instead of making a system call.
//!
//! A site that has trapped [`HOT`] times is planned by `sites`; its *trampoline* goes into the
//! process's SITES pages, which guests can execute and not write, and the Sentry puts the new bytes
//! into the guest's code. A trampoline finds the thread's area by the thread's %fs base in the
//! process's *thread table*, without touching flags or more than rcx and r11, which a system call
//! clobbers anyhow; a thread that is not there makes the system call after all. Threads that share
//! a base are not there, nor any thread of a process whose guest sets %fs bases behind our back.
//!
//! ```text
//! LOW + 0       jump table: addresses of trampolines
//! LOW + 0x8000  thread table: complements of %fs bases, found by their bits 12 to 19; areas
//! LOW + 0x9000  another, by bits 6 to 13
//! ```
//!
//! Slots and trampolines are never used again in a process: code with a jump in it may have been
//! copied.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use super::code;
use super::layout::{CODE, LOW, Layout, SITES, SITES_LEN};
use super::process::Stub;
use super::shared::Shared;
use super::sites::{self, CodeWindow, Plan, Redirect};

/// So many traps make a site hot.
pub(super) const HOT: u32 = 24;
/// Sites counted at once in a process.
const MAX_COUNTED: usize = 1024;
/// Bytes of a trampoline with its tail.
const TRAMPOLINE: u64 = 256;
const MAX_PATCHES: u64 = SITES_LEN / TRAMPOLINE;
/// Offset of the tail in a trampoline.
const TAIL: u64 = TRAMPOLINE - sites::TAIL_MAX as u64;

/// A thread table: offsets from LOW, and the lowest bit of the base that the index begins with.
struct Table {
    keys: u64,
    areas: u64,
    shift: u8,
}

const TABLES: [Table; 2] = [
    Table {
        keys: 0x8000,
        areas: 0x8800,
        shift: 12,
    },
    Table {
        keys: 0x9000,
        areas: 0x9800,
        shift: 6,
    },
];

impl Table {
    fn index(&self, base: u64) -> u64 {
        base >> self.shift & 0xff
    }
}

/// A patch in force.
#[derive(Clone, Debug)]
struct Patch {
    plan: Plan,
    /// Where the system call of its prologue has returned to.
    returned: u64,
}

/// What is known about the sites of one address space.
#[derive(Clone, Default)]
pub(super) struct Patches {
    /// Traps by address of the instruction after; u32::MAX: it cannot be patched.
    counts: HashMap<u64, u32>,
    /// By slot; None if it means nothing any more.
    patches: Vec<Option<Patch>>,
    /// Slots by start of the bytes written.
    starts: BTreeMap<u64, usize>,
    threads: Threads,
}

/// Threads by %fs base.
#[derive(Clone, Default)]
struct Threads {
    /// Base and area of each registered thread.
    owners: HashMap<u64, Vec<u64>>,
    /// The guest sets bases itself.
    off: bool,
}

/// Where a thread is, in the guest's own terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// About to execute this instruction.
    At(u64),
    /// About to make the system call at this address, or having made it by a trap.
    Call(u64),
}

impl Patches {
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    fn used(&self) -> u64 {
        self.patches.len() as u64
    }

    /// The patch that begins at or before `addr`.
    fn before(&self, addr: u64) -> Option<&Patch> {
        let (_, &slot) = self.starts.range(..=addr).next_back()?;
        self.patches[slot].as_ref()
    }

    /// Counts a trap whose system call ended at `rip`. True: the site is hot now.
    pub fn count(&mut self, rip: u64) -> bool {
        if self.used() >= MAX_PATCHES || self.counts.len() >= MAX_COUNTED {
            return false;
        }
        let count = self.counts.entry(rip).or_insert(0);
        if *count == u32::MAX {
            return false;
        }
        *count += 1;
        *count == HOT
    }

    /// Plans the patch of the site whose call ends at `rip` and prepares its trampoline. Gives what
    /// is to be written where.
    pub fn patch(
        &mut self,
        stub: &Stub,
        rip: u64,
        number: u64,
        window: CodeWindow<'_>,
    ) -> Option<(u64, [u8; sites::JUMP_LEN])> {
        const SYSCALL_LEN: u64 = 2;
        self.counts.insert(rip, u32::MAX);
        let layout = &stub.memory.layout;
        let trampoline = layout.base + SITES + self.used() * TRAMPOLINE;
        let slot = LOW + self.used() * 8;
        let number = u32::try_from(number).ok()?;
        let at = rip.wrapping_sub(SYSCALL_LEN);
        let plan = sites::plan(window, at, number, slot as u32, trampoline + TAIL);
        let plan = match plan {
            Ok(plan) if plan.number.is_some() || !plan.entered => plan,
            Ok(_) => return None,
            Err(refusal) => {
                log::debug!("call site {at:#x} stays as it is: {refusal}");
                return None;
            }
        };
        let end = plan.start + plan.len as u64;
        let overlaps = |other: &Patch| other.plan.start + other.plan.len as u64 > plan.start;
        if self.before(end - 1).is_some_and(overlaps) {
            return None;
        }
        let (code, returned) = prologue(layout, trampoline, &plan);
        stub.patched.store(true, Ordering::Relaxed);
        let pages = stub.site_pages().at(self.used() * TRAMPOLINE);
        pages.write(0, &code);
        pages.write(TAIL, &plan.tail);
        stub.low()
            .u64(self.used() * 8)
            .store(trampoline, Ordering::SeqCst);
        let write = (plan.start, plan.code);
        let patch = Patch { plan, returned };
        self.starts.insert(write.0, self.patches.len());
        self.patches.push(Some(patch));
        Some(write)
    }

    /// Patches in this range mean nothing any more: something else is mapped there.
    pub fn forget(&mut self, start: u64, end: u64) {
        for slot in &mut self.patches {
            let gone =
                |p: &mut Patch| p.plan.start < end && p.plan.start + p.plan.len as u64 > start;
            if let Some(patch) = slot.take_if(gone) {
                self.starts.remove(&patch.plan.start);
            }
        }
        self.counts.retain(|at, _| *at < start || *at >= end);
    }

    /// Writes the pages of a process that has just got this address space, as a copy.
    pub fn copy_pages(&self, from: &Stub, to: &Stub) {
        to.patched.store(true, Ordering::Relaxed);
        for (from, to, len) in [
            (from.low(), to.low(), self.used() * 8),
            (from.site_pages(), to.site_pages(), self.used() * TRAMPOLINE),
        ] {
            for at in (0..len).step_by(8) {
                let word = from.u64(at).load(Ordering::Relaxed);
                to.u64(at).store(word, Ordering::Relaxed);
            }
        }
    }

    /// As for a child: the same code, none of the threads.
    pub fn for_child(&self) -> Patches {
        Patches {
            threads: Threads {
                owners: HashMap::new(),
                off: self.threads.off,
            },
            ..self.clone()
        }
    }

    /// Where the guest is by its own code when it is at `rip`.
    pub fn guest_place(&self, layout: &Layout, rip: u64) -> Option<Place> {
        if layout.is_site_page(rip) {
            let offset = rip - (layout.base + SITES);
            let patch = self.patches.get((offset / TRAMPOLINE) as usize)?.as_ref()?;
            if rip == patch.returned {
                return Some(Place::Call(patch.plan.syscall));
            }
            if offset % TRAMPOLINE >= TAIL {
                return patch.plan.guest_address(rip).map(Place::At);
            }
            return Some(Place::At(patch.plan.start));
        }
        // A trap in the new bytes, where an instruction was.
        let patch = self.before(rip)?;
        match patch.plan.redirect(rip)? {
            Redirect::Syscall => Some(Place::Call(patch.plan.syscall)),
            Redirect::To(_) => Some(Place::At(rip)),
        }
    }

    /// Where a thread has to be put to go on at `rip` of the guest's code.
    pub fn resume_at(&self, rip: u64) -> u64 {
        match self.before(rip).and_then(|patch| patch.plan.redirect(rip)) {
            Some(Redirect::To(tail)) => tail,
            _ => rip,
        }
    }

    /// The guest has set a %fs base without telling: tables by it are not to be trusted.
    pub fn distrust(&mut self, low: &Shared) {
        if !self.threads.off {
            self.threads.off = true;
            self.threads.owners.clear();
            for table in &TABLES {
                for n in 0..256 {
                    low.u64(table.keys + 8 * n).store(0, Ordering::SeqCst);
                }
            }
        }
    }

    /// The thread with this area has another %fs base from now on.
    pub fn register(&mut self, low: &Shared, area: u64, old: u64, new: u64) {
        if self.threads.off || old == new {
            return;
        }
        self.unregister(low, area, old);
        let owners = self.threads.owners.entry(new).or_default();
        owners.push(area);
        let alone = owners.len() == 1;
        if new != 0 {
            match alone {
                true => enter(low, new, area),
                false => remove(low, new),
            }
        }
    }

    /// The thread with this area is gone.
    pub fn unregister(&mut self, low: &Shared, area: u64, base: u64) {
        let Some(owners) = self.threads.owners.get_mut(&base) else {
            return;
        };
        owners.retain(|owner| *owner != area);
        match owners[..] {
            [] => {
                self.threads.owners.remove(&base);
                remove(low, base);
            }
            [alone] if base != 0 => enter(low, base, alone),
            _ => {}
        }
    }
}

/// Enters a thread where there is room; a base that finds none keeps trapping.
fn enter(low: &Shared, base: u64, area: u64) {
    for table in &TABLES {
        let at = 8 * table.index(base);
        let key = low.u64(table.keys + at);
        let found = key.load(Ordering::Relaxed);
        if found == 0 || found == !base {
            low.u64(table.areas + at).store(area, Ordering::SeqCst);
            key.store(!base, Ordering::SeqCst);
            return;
        }
    }
}

fn remove(low: &Shared, base: u64) {
    for table in &TABLES {
        let key = low.u64(table.keys + 8 * table.index(base));
        if key.load(Ordering::Relaxed) == !base {
            key.store(0, Ordering::SeqCst);
        }
    }
}

/// The code a patched site jumps to, and where in it a system call returns to.
fn prologue(layout: &Layout, at: u64, plan: &Plan) -> (Vec<u8>, u64) {
    let mut code = vec![0xf3, 0x49, 0x0f, 0xae, 0xc3]; // rdfsbase r11
    let mut jumps = Vec::new();
    for table in &TABLES {
        find(&mut code, table);
        let key = (LOW + table.keys) as u32;
        code.extend([0x48, 0x8b, 0x0c, 0xcd]); // mov rcx, [rcx*8 + keys]
        code.extend(key.to_le_bytes());
        code.extend([0x4a, 0x8d, 0x4c, 0x19, 0x01]); // lea rcx, [rcx + r11 + 1]
        code.extend([0xe3, 0]); // jrcxz found
        jumps.push(code.len());
    }
    load_number(&mut code, plan);
    code.extend([0x0f, 0x05]); // syscall
    let returned = at + code.len() as u64;
    code.extend([0xff, 0x25, 0, 0, 0, 0]); // jmp [rip]
    code.extend(plan.resume.to_le_bytes());
    let mut ends = Vec::new();
    for (table, jump) in TABLES.iter().zip(jumps) {
        code[jump - 1] = (code.len() - jump) as u8;
        find(&mut code, table);
        let areas = (LOW + table.areas) as u32;
        code.extend([0x4c, 0x8b, 0x1c, 0xcd]); // mov r11, [rcx*8 + areas]
        code.extend(areas.to_le_bytes());
        if ends.is_empty() {
            code.extend([0xeb, 0]); // jmp end
            ends.push(code.len());
        }
    }
    for end in ends {
        code[end - 1] = (code.len() - end) as u8;
    }
    code.extend([0x48, 0xb9]); // movabs rcx, resume
    code.extend(plan.resume.to_le_bytes());
    load_number(&mut code, plan);
    code.push(0xe9); // jmp entry
    let entry = layout.base + CODE + code::entry();
    let next = at + code.len() as u64 + 4;
    code.extend((entry.wrapping_sub(next) as u32).to_le_bytes());
    debug_assert!(code.len() as u64 <= TAIL);
    (code, returned)
}

/// rcx = the index of the base in r11; flags stay.
fn find(code: &mut Vec<u8>, table: &Table) {
    code.extend([0xc4, 0xc3, 0xfb, 0xf0, 0xcb, table.shift]); // rorx rcx, r11, shift
    code.extend([0x0f, 0xb6, 0xc9]); // movzx ecx, cl
}

fn load_number(code: &mut Vec<u8>, plan: &Plan) {
    if let Some(number) = plan.number {
        code.push(0xb8); // mov eax, number
        code.extend(number.to_le_bytes());
    }
}
