//! Ranges, their sharing, and what of them the host keeps.

use super::*;

fn fill(range: &FileRange, byte: u8) {
    let (w, pos, n) = range.window(0).unwrap();
    w.write(pos, &vec![byte; n.min(range.len() as usize)])
        .unwrap();
}

fn first(range: &FileRange, off: u64) -> u8 {
    let (w, pos, _) = range.window(off).unwrap();
    let mut b = [0];
    w.read(pos, &mut b).unwrap();
    b[0]
}

#[test]
fn freed_memory_comes_back_zeroed() {
    let file = MemoryFile::new().unwrap();
    for _ in 0..3 {
        let ranges: Vec<FileRange> = (0..40).map(|_| file.allocate(64 << 10).unwrap()).collect();
        for r in &ranges {
            assert_eq!(first(r, 0), 0);
            assert_eq!(first(r, 60 << 10), 0);
            fill(r, 0xaa);
        }
    }
    file.trim();
    assert_eq!(file.used(), 0);
    assert_eq!(file.reserved(), 0);
    let state = file.state.lock();
    assert_eq!(state.clean.by_start.len(), 1);
    assert_eq!(state.clean.bytes, FILE_SIZE);
}

#[test]
fn small_ranges_are_kept_and_cleared_large_ones_given_back() {
    let file = MemoryFile::new().unwrap();
    let small = file.allocate(8 * PAGE_SIZE).unwrap();
    let large = file.allocate(MAX_KEPT + PAGE_SIZE).unwrap();
    fill(&small, 0xaa);
    fill(&large, 0xbb);
    let at = small.offset();
    drop((small, large));
    assert_eq!(file.used(), 8 * PAGE_SIZE);
    let again = file.allocate(4 * PAGE_SIZE).unwrap();
    assert_eq!(again.offset(), at);
    for page in 0..4 {
        assert_eq!(first(&again, page * PAGE_SIZE), 0);
    }
    // Of a range that is shared, only what nobody else refers to is free.
    let shared = file.allocate(2 * MAX_KEPT).unwrap();
    fill(&shared, 0xcc);
    let part = shared.share(PAGE_SIZE, PAGE_SIZE);
    drop(shared);
    assert_eq!(first(&part, 0), 0xcc);
    let after = file.allocate(PAGE_SIZE).unwrap();
    assert_eq!(first(&after, 0), 0);
}

#[test]
fn large_ranges_lie_as_their_addresses_do() {
    let file = MemoryFile::new().unwrap();
    let _before = file.allocate(3 * PAGE_SIZE).unwrap();
    for addr in [0x7f00_0000_5000u64, 0x7f00_0020_0000, 0x1000] {
        let near = Near::Address(addr);
        let large = file
            .allocate_near(LARGE_PAGE, near, Contents::Zero)
            .unwrap();
        assert_eq!(large.offset() % LARGE_PAGE, addr % LARGE_PAGE);
    }
    // What was passed over is not lost.
    let near = Near::Address(0x5000);
    let small = file.allocate_near(PAGE_SIZE, near, Contents::Zero).unwrap();
    assert!(small.offset() < LARGE_PAGE);
}

/// Wherever they are to be mapped: small ranges leave no gaps, large ones less than such a page,
/// and all of it is one piece again when it is free.
#[test]
fn alignment_costs_no_memory() {
    const COUNT: u64 = 500;
    let file = MemoryFile::new().unwrap();
    let end = |ranges: &[FileRange]| ranges.iter().map(|r| r.offset() + r.len()).max();
    let address = |n: u64| Near::Address((n * 0x12345) << 12);
    let get = |len, n| file.allocate_near(len, address(n), Contents::Zero).unwrap();
    let small: Vec<FileRange> = (0..COUNT).map(|n| get((1 + n) * PAGE_SIZE, n)).collect();
    assert_eq!(end(&small), Some(file.reserved()));
    let before = file.reserved();
    let large: Vec<FileRange> = (0..COUNT).map(|n| get(LARGE_PAGE, n)).collect();
    assert!(end(&large).unwrap() <= before + COUNT * 2 * LARGE_PAGE);
    assert_eq!(file.used(), 0);
    // Gaps are used before anything else.
    let fill: Vec<FileRange> = (0..COUNT).map(|n| get(PAGE_SIZE, n)).collect();
    assert!(end(&fill) < end(&large));
    drop((small, large, fill));
    // But for what is kept.
    let state = file.state.lock();
    assert_eq!(state.clean.bytes + state.dirty.bytes, FILE_SIZE);
    assert!(state.clean.by_start.len() <= 1 + state.dirty.by_start.len());
}

#[test]
fn counts_are_page_exact() {
    let file = MemoryFile::new().unwrap();
    let mut a = file.allocate(10 * PAGE_SIZE).unwrap();
    let b = a.share(2 * PAGE_SIZE, 3 * PAGE_SIZE);
    assert_eq!(a.owners(0), (1, 0, 2 * PAGE_SIZE));
    assert_eq!(a.owners(3 * PAGE_SIZE), (2, 2 * PAGE_SIZE, 5 * PAGE_SIZE));
    assert_eq!(a.owners(5 * PAGE_SIZE), (1, 5 * PAGE_SIZE, 10 * PAGE_SIZE));
    let tail = a.split_off(4 * PAGE_SIZE);
    drop(tail);
    assert_eq!(file.reserved(), 5 * PAGE_SIZE);
    assert_eq!(b.owners(0), (2, 0, 2 * PAGE_SIZE));
    assert_eq!(b.owners(2 * PAGE_SIZE), (1, 2 * PAGE_SIZE, 3 * PAGE_SIZE));
    drop(a);
    assert_eq!(b.owners(0), (1, 0, 3 * PAGE_SIZE));
    drop(b);
    assert_eq!(file.reserved(), 0);
    assert!(file.state.lock().runs.is_empty());
}

#[test]
fn near_is_honoured_and_joined() {
    let file = MemoryFile::new().unwrap();
    let mut a = file.allocate(PAGE_SIZE).unwrap();
    let b = file
        .allocate_near(
            PAGE_SIZE,
            Near::Offset(a.offset() + PAGE_SIZE),
            Contents::Zero,
        )
        .unwrap();
    assert_eq!(b.offset(), a.offset() + PAGE_SIZE);
    assert!(a.append(b).is_none());
    assert_eq!(a.len(), 2 * PAGE_SIZE);
    assert_eq!(file.reserved(), 2 * PAGE_SIZE);
    let far = file
        .allocate_near(PAGE_SIZE, Near::Offset(1 << 30), Contents::Zero)
        .unwrap();
    assert_eq!(far.offset(), 1 << 30);
    assert!(a.append(far).is_some());
}

#[test]
fn a_range_across_chunks_is_reached_in_pieces() {
    let file = MemoryFile::new().unwrap();
    let a = file.allocate(3 * CHUNK).unwrap();
    let b = file.allocate(3 * CHUNK).unwrap();
    let (w, pos, n) = a.window(CHUNK - 8).unwrap();
    assert_eq!(n, 8);
    w.write(pos, &[7; 8]).unwrap();
    b.copy_from(4, &a, 0, 2 * CHUNK).unwrap();
    assert_eq!(first(&b, CHUNK - 4), 7);
    assert_eq!(first(&b, CHUNK + 4), 0);
}

#[test]
fn windows_are_bounded() {
    let file = MemoryFile::new().unwrap();
    let a = file.allocate(CHUNK * (MAX_WINDOWS as u64 + 8)).unwrap();
    for i in 0..MAX_WINDOWS as u64 + 8 {
        a.window(i * CHUNK).unwrap();
    }
    assert!(file.windows.read().len() <= MAX_WINDOWS);
}

#[test]
fn what_is_resident_is_found_page_by_page() {
    let file = MemoryFile::new().unwrap();
    let a = file.allocate(2 * CHUNK).unwrap();
    let at = a.offset();
    // Across the end of a window, and on behind what is asked for.
    for page in [1, 2, 5, 4095, 4096, 4097, 5000] {
        let (w, pos, _) = a.window(page * PAGE_SIZE).unwrap();
        w.write(pos, &[1]).unwrap();
    }
    let found = file.extents(at + PAGE_SIZE, at + 4097 * PAGE_SIZE);
    let pages: Vec<_> = found
        .iter()
        .map(|(s, e)| ((s - at) / PAGE_SIZE, (e - at) / PAGE_SIZE))
        .collect();
    assert_eq!(pages, [(1, 3), (5, 6), (4095, 4097)]);
    assert_eq!(a.resident(), 7 * PAGE_SIZE);
}
