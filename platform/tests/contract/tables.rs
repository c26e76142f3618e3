//! Page tables that a platform builds itself: that they say what was mapped whatever happened
//! before, how few traps and pages they take, and that no guest makes them many.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use runsc_platform::arch::Registers;
use runsc_platform::kvm::{Bounds, KvmPlatform, LargePages, Options, Reserved, TableMemory};
use runsc_platform::memory::{MemFd, Window};
use runsc_platform::ptrace::host_call_count;
use runsc_platform::*;

use crate::Case;
use crate::guest::*;

pub const CASES: &[Case] = &[
    ("mappings_follow_a_model", mappings_follow_a_model),
    ("large_pages_save_traps_and_tables", large_pages_save),
    ("large_pages_are_broken_up", large_pages_are_broken_up),
    ("sparse_touches_stay_bounded", sparse_touches_stay_bounded),
    ("tables_start_over", tables_start_over),
    ("tables_are_freed_whole", tables_are_freed_whole),
    ("many_files_share_slots", many_files_share_slots),
    ("mapped_files_stay_bounded", mapped_files_stay_bounded),
    ("slots_are_shared_out", slots_are_shared_out),
];

const LARGE: u64 = 2 << 20;
const BLOCK_PAGES: u64 = LARGE / PAGE;

/// Memory for tables that counts, and may run out.
struct Counted {
    file: MemFd,
    fd: Arc<OwnedFd>,
    next: AtomicU64,
    /// Of the file.
    end: u64,
}

impl Counted {
    fn new(end: u64) -> Arc<Counted> {
        let file = MemFd::create(c"tables").unwrap();
        file.set_len(end).unwrap();
        Arc::new(Counted {
            fd: Arc::new(file.try_clone_fd().unwrap()),
            file,
            next: AtomicU64::new(0),
            end,
        })
    }

    fn pages(&self) -> u64 {
        self.file.allocated_bytes().unwrap() / PAGE
    }
}

impl TableMemory for Counted {
    fn reserve(&self, len: u64) -> std::io::Result<Reserved> {
        let offset = self.next.fetch_add(len, Ordering::SeqCst);
        if offset + len > self.end {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        Ok(Reserved {
            file: self.fd.clone(),
            offset,
            range: Arc::new(()),
        })
    }
}

/// A virtual machine of its own, which is asked about its tables.
fn machine(tables: &Arc<Counted>, large_pages: LargePages) -> Machine {
    bounded(tables, large_pages, Bounds::default())
}

fn bounded(tables: &Arc<Counted>, large_pages: LargePages, bounds: Bounds) -> Machine {
    let options = Options {
        workers: 1,
        tables: Some(tables.clone()),
        large_pages,
        bounds,
        ..Default::default()
    };
    Machine::new(Arc::new(KvmPlatform::new(options).unwrap()))
}

fn has_tables(platform: &Arc<dyn Platform>) -> bool {
    platform.name() == "kvm"
}

program!(
    // RSI: 0 to load from RDI, else what to store there.
    load_or_store,
    "test rsi, rsi",
    "jz 2f",
    "mov [rdi], rsi",
    "2: mov rax, [rdi]",
    "syscall",
);

/// Random changes, most of them of aligned blocks, and random accesses between them.
fn mappings_follow_a_model(platform: Arc<dyn Platform>) {
    const PAGES: u64 = 8 * BLOCK_PAGES;
    const ROUNDS: u64 = 250;
    let mut machine = Machine::new(platform);
    let space = machine.space(load_or_store());
    let mut thread = machine.thread(&space);
    let mut model: Vec<Option<(u64, Prot)>> = vec![None; PAGES as usize];
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) % below
    };
    for page in 0..2 * PAGES {
        space.set_word(HOLE + page * PAGE, page + 1);
    }
    for round in 0..ROUNDS {
        let (first, len) = match random(3) {
            0 => (random(PAGES), 1 + random(8)),
            1 => (random(PAGES), 1 + random(2 * BLOCK_PAGES)),
            _ => {
                let block = random(PAGES / BLOCK_PAGES);
                (block * BLOCK_PAGES, (1 + random(3)) * BLOCK_PAGES)
            }
        };
        let len = len.min(PAGES - first);
        let at = HOLE + first * PAGE;
        let prot = match random(2) {
            0 => Prot::READ,
            _ => Prot::READ | Prot::WRITE,
        };
        let range = &mut model[first as usize..(first + len) as usize];
        match random(4) {
            0 => {
                space.unmap(at, len * PAGE);
                range.fill(None);
            }
            1 if range.iter().all(Option::is_some) => {
                space.protect(at, len * PAGE, prot);
                range.iter_mut().flatten().for_each(|page| page.1 = prot);
            }
            _ => {
                // In step with the file, mostly.
                let from = match random(4) {
                    0 => random(2 * PAGES - len),
                    1 => first,
                    _ => (first + BLOCK_PAGES * random(8)).min(2 * PAGES - len),
                };
                space.map_from(at, len * PAGE, prot, HOLE + from * PAGE);
                for (n, page) in (0..).zip(range) {
                    *page = Some((HOLE + (from + n) * PAGE, prot));
                }
            }
        }
        for probe in 0..12 {
            // Within the change, and beside it.
            let page = match probe % 3 {
                0 => random(PAGES),
                1 => first + random(len),
                _ => (first / BLOCK_PAGES * BLOCK_PAGES + random(BLOCK_PAGES)).min(PAGES - 1),
            };
            let write = random(2) * (1 + round);
            thread.regs = Registers::start(CODE, STACK_TOP - 64);
            thread.regs.rdi = HOLE + page * PAGE + if write == 0 { 0 } else { 8 };
            thread.regs.rsi = write;
            let trap = machine.run(&mut thread);
            let expected = model[page as usize];
            match (expected, trap) {
                (Some((offset, _)), Trap::Syscall) if write == 0 => {
                    assert_eq!(thread.regs.orig_rax, (offset - HOLE) / PAGE + 1);
                }
                (Some((offset, prot)), Trap::Syscall) => {
                    assert!(prot.contains(Prot::WRITE), "round {round}, page {page}");
                    assert_eq!(space.word(offset + 8), write);
                }
                (Some((_, prot)), Trap::Fault(fault)) => {
                    assert!(write != 0 && !prot.contains(Prot::WRITE));
                    assert_eq!((fault.signal, fault.code), (libc::SIGSEGV, 2));
                }
                (None, Trap::Fault(fault)) => {
                    assert_eq!((fault.signal, fault.code), (libc::SIGSEGV, 1));
                }
                (model, trap) => panic!("round {round}, page {page}: {model:?}, {trap:?}"),
            }
        }
    }
}

program!(
    // Touches from RDI to RSI, each RDX bytes.
    touch_all,
    "2: mov al, [rdi]",
    "add rdi, rdx",
    "cmp rdi, rsi",
    "jb 2b",
    "syscall",
);

fn touch(machine: &mut Machine, thread: &mut Thread, range: (u64, u64), step: u64) {
    thread.regs = Registers::start(CODE, STACK_TOP - 64);
    (thread.regs.rdi, thread.regs.rsi, thread.regs.rdx) = (range.0, range.1, step);
    assert_eq!(machine.run(thread), Trap::Syscall);
}

/// 64 MiB: what touching all of it costs in host calls and pages of tables.
fn large_pages_save(platform: Arc<dyn Platform>) {
    const LEN: u64 = 64 << 20;
    if !has_tables(&platform) {
        return;
    }
    let cost = |large_pages| {
        let tables = Counted::new(1 << 30);
        let mut machine = machine(&tables, large_pages);
        let space = machine.space(touch_all());
        space.map(HOLE, LEN, Prot::READ | Prot::WRITE);
        let mut thread = machine.thread(&space);
        // The slot and the first tables.
        touch(&mut machine, &mut thread, (HOLE, HOLE + 1), PAGE);
        let (calls, pages) = (host_call_count(), tables.pages());
        touch(&mut machine, &mut thread, (HOLE, HOLE + LEN), PAGE);
        (host_call_count() - calls, tables.pages() - pages)
    };
    // The call, and if the thread was taken from its processor in between.
    let pages = (0..20)
        .map(|_| cost(LargePages::Always))
        .find_map(|(calls, pages)| (calls <= 4).then_some(pages))
        .expect("few host calls");
    assert_eq!(pages, 0, "one entry a large page, in the first directory");
    let (calls, pages) = cost(LargePages::Never);
    assert!(calls >= LEN / LARGE, "{calls} host calls");
    // One a block, but for the first one; asked for sixteen at a time.
    assert!((16..=32).contains(&pages), "{pages} pages");
}

/// What is done to a part of a large page concerns no other part, and that part at once.
fn large_pages_are_broken_up(platform: Arc<dyn Platform>) {
    const LEN: u64 = 8 * LARGE;
    if !has_tables(&platform) {
        return;
    }
    let tables = Counted::new(1 << 30);
    let mut machine = machine(&tables, LargePages::Always);
    let space = machine.space(load_or_store());
    for page in 0..2 * LEN / PAGE {
        space.set_word(HOLE + page * PAGE, page);
    }
    let mut thread = machine.thread(&space);
    let mut load = |machine: &mut Machine, page: u64, store: u64| {
        thread.regs = Registers::start(CODE, STACK_TOP - 64);
        thread.regs.rdi = HOLE + page * PAGE;
        thread.regs.rsi = store;
        match machine.run(&mut thread) {
            Trap::Syscall => Ok(thread.regs.orig_rax),
            Trap::Fault(fault) => Err((fault.signal, fault.code)),
            Trap::Interrupted => panic!("nobody did"),
        }
    };
    let both = Prot::READ | Prot::WRITE;
    for round in 0..4 {
        // Of one piece, then with a page of another place in it, and of another piece again.
        for shift in [0, BLOCK_PAGES] {
            space.map_from(HOLE, LEN, both, HOLE + shift * PAGE);
            for block in 0..LEN / LARGE {
                let page = block * BLOCK_PAGES + 5 + round;
                assert_eq!(load(&mut machine, page, 0), Ok(page + shift));
            }
            space.protect(HOLE + 7 * PAGE, PAGE, Prot::READ);
            space.unmap(HOLE + (BLOCK_PAGES + 9) * PAGE, PAGE);
            let target = HOLE + (2 * BLOCK_PAGES + 3) * PAGE;
            space.map_from(target, PAGE, both, HOLE + 11 * PAGE);
            assert_eq!(load(&mut machine, 6, 0), Ok(6 + shift));
            assert_eq!(load(&mut machine, 7, 0), Ok(7 + shift));
            assert_eq!(load(&mut machine, 7, 1), Err((libc::SIGSEGV, 2)));
            assert_eq!(
                load(&mut machine, BLOCK_PAGES + 8, 0),
                Ok(BLOCK_PAGES + 8 + shift)
            );
            assert_eq!(
                load(&mut machine, BLOCK_PAGES + 9, 0),
                Err((libc::SIGSEGV, 1))
            );
            assert_eq!(load(&mut machine, 2 * BLOCK_PAGES + 3, 0), Ok(11));
            let next = 2 * BLOCK_PAGES + 4;
            assert_eq!(load(&mut machine, next, 0), Ok(next + shift));
        }
    }
}

/// One page in each 2 MiB of 12 GiB, which takes a table each.
fn sparse_touches_stay_bounded(platform: Arc<dyn Platform>) {
    const BLOCKS: u64 = 6 * 1024;
    const TABLES: usize = 4 * 1024;
    const MOST: u64 = TABLES as u64 + 64;
    if !has_tables(&platform) {
        return;
    }
    let tables = Counted::new(1 << 40);
    let bounds = Bounds {
        tables: TABLES,
        ..Default::default()
    };
    let mut machine = bounded(&tables, LargePages::Never, bounds);
    let space = machine.space(touch_all());
    let base = 1 << 40;
    for block in 0..BLOCKS {
        space.map_from(base + block * LARGE, PAGE, Prot::READ, HOLE);
    }
    let mut thread = machine.thread(&space);
    let mut most = 0;
    for part in 0..24 {
        let start = base + part * (BLOCKS / 24) * LARGE;
        let end = start + BLOCKS / 24 * LARGE;
        touch(&mut machine, &mut thread, (start, end), LARGE);
        most = most.max(tables.pages());
    }
    assert!(most > MOST / 2, "{most}: the case shows nothing");
    assert!(most < MOST, "{most} pages of tables");
    // All of it is still there.
    touch(&mut machine, &mut thread, (base, base + 16 * LARGE), LARGE);
}

/// Without memory for more tables, those there are given up for those that are needed, under
/// another thread that uses them.
fn tables_start_over(platform: Arc<dyn Platform>) {
    const BLOCKS: u64 = 1500;
    if !has_tables(&platform) {
        return;
    }
    // Two address spaces' first ones, a large piece for each time, and no end to it.
    let tables = Counted::new(64 << 20);
    let mut machine = machine(&tables, LargePages::Never);
    let space = machine.space(touch_all());
    let base = 1 << 40;
    for block in 0..BLOCKS {
        space.map_from(base + block * LARGE, PAGE, Prot::READ, HOLE);
    }
    let before = tables.pages();
    let mut threads: Vec<Thread> = (0..2).map(|_| machine.thread(&space)).collect();
    for _ in 0..3 {
        for (n, thread) in (0..).zip(&mut threads) {
            thread.regs = Registers::start(CODE, STACK_TOP - 64);
            let half = base + n * BLOCKS / 2 * LARGE;
            thread.regs.rdi = half;
            thread.regs.rsi = half + BLOCKS / 2 * LARGE;
            thread.regs.rdx = LARGE;
            thread.context.resume(&thread.regs).unwrap();
        }
        for _ in 0..2 {
            let Event::Trap(id) = machine.worker.wait(Wait::Block).unwrap() else {
                panic!("nobody woke it");
            };
            let thread = threads.iter_mut().find(|t| t.context.id() == id).unwrap();
            let trap = thread.context.trap(&mut thread.regs).unwrap();
            assert_eq!(trap, Trap::Syscall);
        }
    }
    drop((threads, space));
    assert!(tables.pages() <= before, "what was given up is still held");
}

/// Files of one page, which begins with a number from 1 on.
fn numbered_files(count: u64) -> Vec<Arc<OwnedFd>> {
    let numbered = |n| {
        let file = MemFd::create(c"file").unwrap();
        file.set_len(PAGE).unwrap();
        let window = Window::map(file.as_fd(), 0, PAGE as usize, true).unwrap();
        window.store_u64(0, n).unwrap();
        Arc::new(file.into_fd())
    };
    (1..=count).map(numbered).collect()
}

fn page_of(file: &Arc<OwnedFd>, addr: u64) -> HostOp {
    HostOp::Map {
        addr,
        len: PAGE,
        prot: Prot::READ,
        file: file.clone(),
        offset: 0,
        private: false,
        populate: false,
    }
}

/// Many files mapped at once do not all keep their slots, whether they were touched or not.
fn mapped_files_stay_bounded(platform: Arc<dyn Platform>) {
    const FILES: u64 = 400;
    /// What is kept for all address spaces.
    const KEPT: usize = 128;
    if !has_tables(&platform) {
        return;
    }
    let bounds = Bounds {
        chunks: 32,
        ..Default::default()
    };
    let mut machine = bounded(&Counted::new(1 << 30), LargePages::Natural, bounds);
    let space = machine.space(load_or_store());
    let mut thread = machine.thread(&space);
    let files = numbered_files(FILES);
    // One is this list's, one the mapping's.
    let held = || {
        files
            .iter()
            .filter(|file| Arc::strong_count(file) > 2)
            .count()
    };
    let place = |n: u64| HOLE + n * 2 * PAGE;
    for (n, file) in (0..).zip(&files) {
        space.space.queue(page_of(file, place(n)), None);
    }
    for _ in 0..2 {
        for n in 0..FILES {
            thread.regs = Registers::start(CODE, STACK_TOP - 64);
            thread.regs.rdi = place(n);
            assert_eq!(machine.run(&mut thread), Trap::Syscall);
            assert_eq!(thread.regs.orig_rax, n + 1);
            let held = held();
            assert!(held <= KEPT + bounds.chunks, "{held} slots");
        }
    }
}

/// Many address spaces with many files share the slots of one machine: nobody's memory is missing
/// because others have taken them all.
fn slots_are_shared_out(platform: Arc<dyn Platform>) {
    const SPACES: u64 = 10;
    const FILES: u64 = 60;
    if !has_tables(&platform) {
        return;
    }
    let bounds = Bounds {
        slots: 300,
        ..Default::default()
    };
    let mut machine = bounded(&Counted::new(1 << 30), LargePages::Natural, bounds);
    let files = numbered_files(SPACES * FILES);
    let place = |n: u64| HOLE + n * 2 * PAGE;
    let mut threads = Vec::new();
    for own in files.chunks(FILES as usize) {
        let space = machine.space(load_or_store());
        let thread = machine.thread(&space);
        for (n, file) in (0..).zip(own) {
            space.space.queue(page_of(file, place(n)), None);
        }
        threads.push((space, thread));
    }
    for round in 0..2 {
        for (first, (_, thread)) in (0..).step_by(FILES as usize).zip(&mut threads) {
            for n in 0..FILES {
                thread.regs = Registers::start(CODE, STACK_TOP - 64);
                thread.regs.rdi = place(n);
                let trap = machine.run(thread);
                assert_eq!(trap, Trap::Syscall, "round {round}, file {}", first + n);
                assert_eq!(thread.regs.orig_rax, first + n + 1);
            }
        }
    }
}

/// Files that are mapped again and again cost no slot each time, and more than are kept are right.
fn many_files_share_slots(platform: Arc<dyn Platform>) {
    const KEPT: usize = 100;
    const MANY: usize = 300;
    if !has_tables(&platform) {
        return;
    }
    let mut machine = machine(&Counted::new(1 << 30), LargePages::Natural);
    let space = machine.space(load_or_store());
    let mut thread = machine.thread(&space);
    let files = numbered_files(MANY as u64);
    let mut read_all = |machine: &mut Machine, count: usize| {
        let before = host_call_count();
        for (n, file) in (0..).zip(&files[..count]) {
            space.space.queue(page_of(file, HOLE), None);
            thread.regs = Registers::start(CODE, STACK_TOP - 64);
            thread.regs.rdi = HOLE;
            assert_eq!(machine.run(&mut thread), Trap::Syscall);
            assert_eq!(thread.regs.orig_rax, n + 1);
        }
        (host_call_count() - before) as usize
    };
    read_all(&mut machine, KEPT);
    // Its size, what leads to the one before is given up, the fault, and the call.
    let calls = read_all(&mut machine, KEPT);
    assert!(calls < KEPT * 9 / 2, "{calls} host calls");
    read_all(&mut machine, MANY);
    read_all(&mut machine, MANY);
}

/// With the last thread of an address space its tables are the host's again.
fn tables_are_freed_whole(platform: Arc<dyn Platform>) {
    if !has_tables(&platform) {
        return;
    }
    let tables = Counted::new(1 << 40);
    let mut machine = machine(&tables, LargePages::Natural);
    let before = tables.pages();
    for _ in 0..5 {
        let space = machine.space(touch_all());
        for block in 0..100 {
            space.map(HOLE + block * LARGE, PAGE, Prot::READ);
        }
        let mut thread = machine.thread(&space);
        touch(&mut machine, &mut thread, (HOLE, HOLE + 100 * LARGE), LARGE);
        assert!(tables.pages() >= before + 100);
        drop(thread);
        assert!(tables.pages() <= before, "{}", tables.pages());
    }
}
