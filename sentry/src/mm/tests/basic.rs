//! One behaviour a test.

use runsc_platform::Fault;

use super::fake::*;
use crate::errno::Errno;
use crate::mm::io::UserMemory;
use crate::mm::*;

const PRIVATE: i32 = libc::MAP_PRIVATE;
const SHARED: i32 = libc::MAP_SHARED;
const FIXED: i32 = libc::MAP_FIXED;
const P: u64 = PAGE_SIZE;
const BASE: u64 = 0x20_0000_0000;
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;

fn ops(mm: &Mm) -> usize {
    space(mm).ops.lock().len()
}

fn code<T>(result: Result<T, SignalInfo>) -> (i32, i32) {
    match result {
        Ok(_) => (0, 0),
        Err(info) => (info.signo, info.code),
    }
}

#[test]
fn anonymous_memory_needs_no_fault() {
    let mm = new_mm();
    let a = mm.mmap(anon(0, 100, RW, PRIVATE)).unwrap();
    assert_eq!(guest_write(&mm, a + 50 * P, b"x"), Ok(0));
    assert_eq!(ops(&mm), 1);
    assert_eq!(mm.memory().used(), P);
    // The next mapping lies below and is contiguous in the MemoryFile, for the host to merge.
    let b = mm.mmap(anon(0, 1, RW, PRIVATE)).unwrap();
    assert_eq!(b, a - P);
    assert_eq!(mm.maps().len(), 1);
}

#[test]
fn what_is_not_accessible_gets_the_right_signal() {
    let mm = new_mm();
    let a = mm.mmap(anon(BASE, 4, RO, PRIVATE | FIXED)).unwrap();
    assert_eq!(
        code(guest_write(&mm, a, b"x")),
        (libc::SIGSEGV, SEGV_ACCERR)
    );
    assert_eq!(
        code(guest_write(&mm, a + 4 * P, b"x")),
        (libc::SIGSEGV, SEGV_MAPERR)
    );
    assert_eq!(code(guest_exec(&mm, a)), (libc::SIGSEGV, SEGV_ACCERR));
    mm.mprotect(a, P, RW).unwrap();
    assert_eq!(code(guest_exec(&mm, a)), (libc::SIGSEGV, SEGV_ACCERR));
    mm.mprotect(a, P, 0).unwrap();
    let mut b = [0];
    assert_eq!(
        code(guest_read(&mm, a, &mut b)),
        (libc::SIGSEGV, SEGV_ACCERR)
    );
    assert_eq!(
        code(guest_write(&mm, u64::MAX, b"x")),
        (libc::SIGSEGV, SEGV_MAPERR)
    );
    // What is no page fault passes through.
    let fpe = Fault {
        signal: libc::SIGFPE,
        code: 1,
        addr: a,
        access: None,
    };
    let info = mm.handle_fault(&fpe).unwrap_err();
    assert_eq!((info.signo, info.code, info.addr), (libc::SIGFPE, 1, a));
}

#[test]
fn several_threads_may_fault_on_one_page() {
    let mm = new_mm();
    let a = mm.mmap(anon(0, 1, RW, PRIVATE)).unwrap();
    let _child = mm.fork().unwrap();
    let fault = Fault {
        signal: libc::SIGSEGV,
        code: SEGV_ACCERR,
        addr: a,
        access: None,
    };
    for _ in 0..10 {
        mm.handle_fault(&fault).unwrap();
    }
}

#[test]
fn fork_copies_on_write_in_both_directions() {
    let mm = new_mm();
    let a = mm.mmap(anon(0, 64, RW, PRIVATE)).unwrap();
    for i in 0..64 {
        poke(&mm, a + i * P, 1);
    }
    let child = mm.fork().unwrap();
    poke(&mm, a, 2);
    poke(&child, a + P, 3);
    assert_eq!((peek(&mm, a), peek(&child, a)), (2, 1));
    assert_eq!((peek(&mm, a + P), peek(&child, a + P)), (1, 3));
    // By the Sentry too.
    assert_eq!(mm.copy_out(a + 40 * P, &[9]), 1);
    assert_eq!(peek(&child, a + 40 * P), 1);
    check_invariant(&mm);
    check_invariant(&child);
}

#[test]
fn the_last_owner_gets_its_pages_back_without_copying() {
    let mm = new_mm();
    let a = mm.mmap(anon(0, 256, RW, PRIVATE)).unwrap();
    for i in 0..256 {
        poke(&mm, a + i * P, 1);
    }
    drop(mm.fork().unwrap());
    let before = ops(&mm);
    assert_eq!(guest_write(&mm, a + 100 * P, b"x"), Ok(1));
    // One operation for all of it; no page was copied.
    assert_eq!(ops(&mm), before + 1);
    assert_eq!(guest_write(&mm, a, b"x"), Ok(0));
    assert_eq!(guest_write(&mm, a + 255 * P, b"x"), Ok(0));
    mm.memory().trim();
    assert_eq!(mm.memory().used(), 256 * P);
}

#[test]
fn a_copy_brings_its_neighbours() {
    let mm = new_mm();
    let a = mm.mmap(anon(BASE, 64, RW, PRIVATE | FIXED)).unwrap();
    for i in 0..64 {
        poke(&mm, a + i * P, i as u8);
    }
    let _child = mm.fork().unwrap();
    let faults: usize = (0..64)
        .map(|i| guest_write(&mm, a + i * P, b"x").unwrap())
        .sum();
    assert_eq!(faults, 8);
}

#[test]
fn what_is_written_after_each_fork_is_copied_ahead() {
    let mm = new_mm();
    let a = mm.mmap(anon(BASE, 64, RW, PRIVATE | FIXED)).unwrap();
    poke(&mm, a, 1);
    let first = mm.fork().unwrap();
    assert_eq!(guest_write(&mm, a, &[2]), Ok(1));
    for i in 0..40 {
        let child = mm.fork().unwrap();
        assert_eq!(peek(&child, a), 2 + i);
        let faults = guest_write(&mm, a, &[3 + i]).unwrap();
        assert_eq!(guest_write(&child, a, &[77]).unwrap(), faults);
        // Now and then it must prove that it is still worth it.
        assert_eq!(faults, usize::from(i == 16 || i == 33), "{i}");
        assert_eq!(peek(&mm, a), 3 + i);
        check_invariant(&mm);
        check_invariant(&child);
    }
    assert_eq!(peek(&first, a), 1);
}

#[test]
fn memory_is_not_reused_while_it_may_still_be_mapped() {
    let memory = MemoryFile::new().unwrap();
    let mm = new_mm_in(&memory);
    let a = mm.mmap(anon(0, 8, RW, PRIVATE)).unwrap();
    poke(&mm, a, 7);
    let page = space(&mm).pages.lock()[&a].offset;
    space(&mm)
        .hold
        .store(true, std::sync::atomic::Ordering::SeqCst);
    mm.munmap(a, 8 * P).unwrap();
    assert_eq!(memory.reserved(), 8 * P);
    let other = memory
        .allocate_near(
            8 * P,
            memory_file::Near::Offset(page),
            memory_file::Contents::Any,
        )
        .unwrap();
    assert_ne!(other.offset(), page);
    drop(other);
    space(&mm).release();
    assert_eq!(memory.reserved(), 0);
    // Also when the address space outlives the Mm.
    let b = mm.mmap(anon(0, 8, RW, PRIVATE)).unwrap();
    poke(&mm, b, 7);
    let host = mm.space().clone();
    space(&mm)
        .hold
        .store(true, std::sync::atomic::Ordering::SeqCst);
    drop(mm);
    assert_eq!(memory.reserved(), 8 * P);
    drop(host);
    assert_eq!(memory.reserved(), 0);
}

#[test]
fn a_private_file_mapping_is_the_file_until_written() {
    let mm = new_mm();
    let file = TestFile::new(&vec![5; 10 * P as usize - 100]);
    let a = mm.mmap(of_file(&file, 12, RW, PRIVATE)).unwrap();
    assert_eq!(peek(&mm, a + P), 5);
    assert_eq!(ops(&mm), 1);
    nix::sys::uio::pwrite(&*file.fd, &[6], P as i64).unwrap();
    assert_eq!(peek(&mm, a + P), 6);
    poke(&mm, a + P + 1, 7);
    nix::sys::uio::pwrite(&*file.fd, &[8], P as i64).unwrap();
    assert_eq!(peek(&mm, a + P), 6);
    let mut byte = [0];
    nix::sys::uio::pread(&*file.fd, &mut byte, P as i64 + 1).unwrap();
    assert_eq!(byte[0], 5);
    // The last page beyond the end of the file is zeros, and copies keep them.
    assert_eq!(peek(&mm, a + 10 * P - 50), 0);
    poke(&mm, a + 9 * P, 1);
    assert_eq!(peek(&mm, a + 10 * P - 50), 0);
    assert_eq!(peek(&mm, a + 9 * P + 1), 5);
    // Pages beyond it are SIGBUS.
    assert_eq!(
        code(guest_read(&mm, a + 10 * P, &mut byte)),
        (libc::SIGBUS, 2)
    );
    assert_eq!(mm.copy_in(a + 10 * P, &mut byte), 0);
    // Dropping the copy shows the file again.
    mm.madvise(a, 12 * P, libc::MADV_DONTNEED).unwrap();
    assert_eq!(peek(&mm, a + P), 8);
    check_invariant(&mm);
}

#[test]
fn a_shared_file_mapping_writes_through_and_follows_the_size() {
    let mm = new_mm();
    let file = TestFile::new(&vec![5; 4 * P as usize]);
    let a = mm.mmap(of_file(&file, 8, RW, SHARED)).unwrap();
    poke(&mm, a, 9);
    let mut byte = [0];
    nix::sys::uio::pread(&*file.fd, &mut byte, 0).unwrap();
    assert_eq!(byte[0], 9);
    assert_eq!(mm.copy_out(a + 1, &[7]), 1);
    nix::sys::uio::pread(&*file.fd, &mut byte, 1).unwrap();
    assert_eq!(byte[0], 7);
    // Grown: the next touch finds it. Cut: gone at once.
    file.truncate(6 * P);
    assert_eq!(peek(&mm, a + 5 * P), 0);
    file.truncate(P);
    assert_eq!(code(guest_read(&mm, a + P, &mut byte)), (libc::SIGBUS, 2));
    assert_eq!(peek(&mm, a), 9);
    let child = mm.fork().unwrap();
    poke(&child, a, 3);
    assert_eq!(peek(&mm, a), 3);
    mm.store_u32(a + 8, 77).unwrap();
    assert_eq!(child.load_u32(a + 8), Ok(77));
    assert_eq!(mm.futex_key(a + 8, false), child.futex_key(a + 8, false));
    assert_ne!(mm.futex_key(a + 8, true), child.futex_key(a + 8, true));
    assert_ne!(mm.futex_key(a + 8, false), child.futex_key(a + 12, false));
    check_invariant(&mm);
}

#[test]
fn shared_anonymous_memory_survives_fork() {
    let mm = new_mm();
    let a = mm.mmap(anon(0, 4, RW, SHARED)).unwrap();
    let child = mm.fork().unwrap();
    poke(&mm, a + P, 4);
    assert_eq!(peek(&child, a + P), 4);
    assert_eq!(mm.maps()[0].name, VmaName::DevZero);
    mm.madvise(a + P, P, libc::MADV_REMOVE).unwrap();
    assert_eq!(peek(&child, a + P), 0);
    assert_eq!(mm.compare_exchange_u32(a, 0, 5), Ok(Ok(0)));
    assert_eq!(child.compare_exchange_u32(a, 0, 6), Ok(Err(5)));
}

#[test]
fn a_stack_grows_to_its_limit_and_keeps_a_gap() {
    let mm = new_mm();
    let a = mm
        .mmap(anon(BASE, 1, RW, PRIVATE | FIXED | libc::MAP_GROWSDOWN))
        .unwrap();
    poke(&mm, a - 20 * P, 1);
    assert_eq!(mm.copy_out(a - 200 * P, &[1]), 1);
    assert_eq!(
        code(guest_write(&mm, a - (9 << 20), b"x")),
        (libc::SIGSEGV, SEGV_MAPERR)
    );
    poke(&mm, a + P - (8 << 20), 1);
    let low = mm.maps()[0].start;
    assert_eq!(low, a + P - (8 << 20));
    assert_eq!(
        code(guest_write(&mm, low - 1, b"x")),
        (libc::SIGSEGV, SEGV_MAPERR)
    );
    // Something below: the gap of 1 MiB stays.
    let mm = new_mm();
    let a = mm
        .mmap(anon(BASE, 1, RW, PRIVATE | FIXED | libc::MAP_GROWSDOWN))
        .unwrap();
    mm.mmap(anon(a - (2 << 20), 1, RW, PRIVATE | FIXED))
        .unwrap();
    poke(&mm, a - (1 << 20) + P, 1);
    assert_eq!(
        code(guest_write(&mm, a - (1 << 20), b"x")),
        (libc::SIGSEGV, SEGV_MAPERR)
    );
    check_invariant(&mm);
}

#[test]
fn mmap_refuses_in_linux_order() {
    let mm = new_mm();
    let file = TestFile::new(&[0; 100]);
    let with = |change: &dyn Fn(&mut MapRequest)| {
        let mut req = anon(0, 1, RW, PRIVATE);
        change(&mut req);
        mm.mmap(req).err()
    };
    assert_eq!(with(&|r| r.len = 0), Some(Errno::EINVAL));
    assert_eq!(with(&|r| r.len = u64::MAX), Some(Errno::ENOMEM));
    assert_eq!(with(&|r| r.len = 1 << 48), Some(Errno::ENOMEM));
    assert_eq!(
        with(&|r| r.flags = libc::MAP_ANONYMOUS),
        Some(Errno::EINVAL)
    );
    assert_eq!(with(&|r| r.offset = 1), Some(Errno::EINVAL));
    assert_eq!(
        with(&|r| (r.flags, r.addr) = (r.flags | FIXED, BASE + 1)),
        Some(Errno::EINVAL)
    );
    assert_eq!(
        with(&|r| (r.flags, r.addr) = (r.flags | FIXED, 0)),
        Some(Errno::EPERM)
    );
    assert_eq!(
        with(&|r| (r.flags, r.addr) = (r.flags | FIXED, HIGH)),
        Some(Errno::ENOMEM)
    );
    assert_eq!(with(&|r| r.flags |= libc::MAP_HUGETLB), Some(Errno::ENOMEM));
    mm.mmap(anon(BASE, 2, RW, PRIVATE | FIXED)).unwrap();
    let over = anon(BASE + P, 2, RW, PRIVATE | libc::MAP_FIXED_NOREPLACE);
    assert_eq!(mm.mmap(over), Err(Errno::EEXIST));
    let of = |prot, flags, change: &dyn Fn(&mut MapFile)| {
        let mut req = of_file(&file, 1, prot, flags);
        change(req.file.as_mut().unwrap());
        mm.mmap(req).err()
    };
    assert_eq!(of(RW, SHARED, &|f| f.writable = false), Some(Errno::EACCES));
    assert_eq!(of(RW, PRIVATE, &|f| f.writable = false), None);
    assert_eq!(
        of(RO, PRIVATE, &|f| f.readable = false),
        Some(Errno::EACCES)
    );
    assert_eq!(
        of(libc::PROT_EXEC, PRIVATE, &|f| f.noexec = true),
        Some(Errno::EPERM)
    );
    assert_eq!(
        of(RO, PRIVATE, &|f| f.mappable = Err(Errno::ENODEV)),
        Some(Errno::ENODEV)
    );
    assert_eq!(
        of(RO, libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC, &|_| ()),
        Some(Errno::EOPNOTSUPP)
    );
    // A shared mapping of a read-only descriptor never becomes writable.
    let mut req = of_file(&file, 1, RO, SHARED);
    req.file.as_mut().unwrap().writable = false;
    let a = mm.mmap(req).unwrap();
    assert_eq!(mm.mprotect(a, P, RW), Err(Errno::EACCES));
    check_invariant(&mm);
}

#[test]
fn limits_are_kept() {
    let limits = Limits {
        address_space: 100 * P,
        data: 50 * P,
        memlock: 4 * P,
        ..Limits::default()
    };
    let mm = new_mm();
    mm.set_limits(limits);
    assert_eq!(mm.mmap(anon(0, 101, RO, PRIVATE)), Err(Errno::ENOMEM));
    assert_eq!(mm.mmap(anon(0, 51, RW, PRIVATE)), Err(Errno::ENOMEM));
    let a = mm.mmap(anon(0, 60, RO, PRIVATE)).unwrap();
    assert_eq!(mm.mprotect(a, 60 * P, RW), Err(Errno::ENOMEM));
    assert_eq!(mm.mlock(a, 5 * P, 0), Err(Errno::ENOMEM));
    mm.mlock(a, 4 * P, 0).unwrap();
    mm.mlock(a, 4 * P, 0).unwrap();
    assert_eq!(
        mm.mmap(anon(0, 1, RO, PRIVATE | libc::MAP_LOCKED)),
        Err(Errno::EAGAIN)
    );
    assert_eq!(mm.madvise(a, P, libc::MADV_DONTNEED), Err(Errno::EINVAL));
    mm.munlock(a, 4 * P).unwrap();
    assert_eq!(mm.totals().locked, 0);
    mm.set_limits(Limits {
        memlock: 0,
        ..limits
    });
    assert_eq!(mm.mlock(a, P, 0), Err(Errno::EPERM));
    assert_eq!(mm.mlockall(1), Err(Errno::EPERM));
}

#[test]
fn the_break_moves_and_stops_at_what_is_in_the_way() {
    let mm = new_mm();
    mm.set_heap(BASE + 5, Randomize::No);
    let start = BASE + P;
    assert_eq!(mm.brk(0), start);
    assert_eq!(mm.brk(start + 3 * P + 10), start + 3 * P + 10);
    poke(&mm, start + 3 * P, 1);
    assert_eq!(mm.maps()[0].name, VmaName::Heap);
    mm.mmap(anon(start + 10 * P, 1, RW, PRIVATE | FIXED))
        .unwrap();
    assert_eq!(mm.brk(start + 10 * P), start + 3 * P + 10);
    assert_eq!(mm.brk(start + P), start + P);
    assert!(guest_write(&mm, start + P, b"x").is_err());
    assert_eq!(mm.brk(start + 4 * P), start + 4 * P);
    assert_eq!(peek(&mm, start + 3 * P), 0);
}

#[test]
fn mremap_grows_moves_and_refuses() {
    let mm = new_mm();
    let a = mm.mmap(anon(BASE, 4, RW, PRIVATE | FIXED)).unwrap();
    poke(&mm, a + 3 * P, 8);
    assert_eq!(mm.mremap(a, 4 * P, 6 * P, 0, 0), Ok(a));
    assert_eq!(mm.maps().len(), 1);
    mm.mmap(anon(a + 6 * P, 1, RO, PRIVATE | FIXED)).unwrap();
    assert_eq!(mm.mremap(a, 6 * P, 7 * P, 0, 0), Err(Errno::ENOMEM));
    let b = mm.mremap(a, 6 * P, 7 * P, libc::MREMAP_MAYMOVE, 0).unwrap();
    assert_ne!(b, a);
    assert_eq!(peek(&mm, b + 3 * P), 8);
    assert!(guest_write(&mm, a, b"x").is_err());
    assert_eq!(mm.mremap(b, 7 * P, 2 * P, 0, 0), Ok(b));
    assert_eq!(mm.mremap(a, P, P, 0, 0), Err(Errno::EFAULT));
    assert_eq!(mm.mremap(b + 1, P, P, 0, 0), Err(Errno::EINVAL));
    assert_eq!(mm.mremap(b, P, 0, 0, 0), Err(Errno::EINVAL));
    assert_eq!(
        mm.mremap(b, P, P, libc::MREMAP_FIXED, BASE),
        Err(Errno::EINVAL)
    );
    let both = libc::MREMAP_FIXED | libc::MREMAP_MAYMOVE;
    assert_eq!(mm.mremap(b, 2 * P, 2 * P, both, b + P), Err(Errno::EINVAL));
    assert_eq!(mm.mremap(b, 3 * P, 4 * P, both, BASE), Err(Errno::EFAULT));
    let keep = libc::MREMAP_DONTUNMAP | libc::MREMAP_MAYMOVE;
    poke(&mm, b, 5);
    let c = mm.mremap(b, 2 * P, 2 * P, keep, 0).unwrap();
    assert_eq!((peek(&mm, c), peek(&mm, b)), (5, 0));
    // A shared mapping can be doubled.
    let s = mm.mmap(anon(0, 1, RW, SHARED)).unwrap();
    let d = mm.mremap(s, 0, P, libc::MREMAP_MAYMOVE, 0).unwrap();
    poke(&mm, s, 3);
    assert_eq!(peek(&mm, d), 3);
    check_invariant(&mm);
}

#[test]
fn advice_about_fork_is_followed() {
    let mm = new_mm();
    let a = mm.mmap(anon(BASE, 3, RW, PRIVATE | FIXED)).unwrap();
    for i in 0..3 {
        poke(&mm, a + i * P, 1);
    }
    mm.madvise(a, P, libc::MADV_DONTFORK).unwrap();
    mm.madvise(a + P, P, libc::MADV_WIPEONFORK).unwrap();
    assert_eq!(mm.maps().len(), 3);
    let child = mm.fork().unwrap();
    assert!(guest_write(&child, a, b"x").is_err());
    assert_eq!(peek(&child, a + P), 0);
    assert_eq!(peek(&child, a + 2 * P), 1);
    mm.madvise(a, P, libc::MADV_DOFORK).unwrap();
    mm.madvise(a + P, P, libc::MADV_KEEPONFORK).unwrap();
    assert_eq!(mm.maps().len(), 1);
    assert_eq!(mm.madvise(a, P, 77), Err(Errno::EINVAL));
    assert_eq!(mm.madvise(a + 1, P, 0), Err(Errno::EINVAL));
    assert_eq!(
        mm.madvise(a, 4 * P, libc::MADV_DONTNEED),
        Err(Errno::ENOMEM)
    );
    assert_eq!(peek(&mm, a), 0);
    check_invariant(&child);
}

#[test]
fn dropped_memory_goes_back_to_the_host() {
    let mm = new_mm();
    let a = mm.mmap(anon(0, 1000, RW, PRIVATE)).unwrap();
    for i in 0..1000 {
        poke(&mm, a + i * P, 1);
    }
    let before = ops(&mm);
    mm.madvise(a, 900 * P, libc::MADV_DONTNEED).unwrap();
    assert_eq!(ops(&mm), before, "no host operation is needed");
    assert_eq!(mm.memory().used(), 100 * P);
    assert_eq!(mm.totals().rss_anon, 100 * P);
    let resident = mm.mincore(a, 1000 * P).unwrap();
    assert_eq!(resident.iter().map(|&b| u64::from(b)).sum::<u64>(), 100);
    assert_eq!((resident[899], resident[900]), (0, 1));
    assert_eq!(mm.mincore(a, 1001 * P), Err(Errno::ENOMEM));
}

#[test]
fn the_sentry_reads_strings_and_stops_at_the_end() {
    let mm = new_mm();
    let a = mm.mmap(anon(BASE, 2, RW, PRIVATE | FIXED)).unwrap();
    let text = vec![b'x'; 5000];
    mm.write_bytes(a, &text).unwrap();
    assert_eq!(mm.read_cstr(a, 6000), Ok(text.clone()));
    assert_eq!(mm.read_cstr(a, 5000), Err(Errno::ENAMETOOLONG));
    assert_eq!(mm.read_cstr(a + 2 * P, 10), Err(Errno::EFAULT));
    mm.write_bytes(a + 2 * P - 4, b"abcd").unwrap();
    assert_eq!(mm.read_cstr(a + 2 * P - 4, 10), Err(Errno::EFAULT));
    assert_eq!(mm.read_cstr(u64::MAX - 2, 10), Err(Errno::EFAULT));
    let mut dst = [0; 8];
    assert_eq!(mm.copy_in(a + 2 * P - 4, &mut dst), 4);
    assert_eq!(&dst, b"abcd\0\0\0\0");
    assert_eq!(mm.load_u32(a + 2), Err(Errno::EINVAL));
    assert_eq!(mm.load_u32(a + 2 * P), Err(Errno::EFAULT));
    assert_eq!(mm.read_obj::<u32>(a), Ok(0x7878_7878));
}

#[test]
fn a_debugger_may_write_what_the_guest_may_not() {
    let mm = new_mm();
    let file = TestFile::new(&vec![5; P as usize]);
    let a = mm.mmap(of_file(&file, 1, RO, PRIVATE)).unwrap();
    assert_eq!(mm.copy_out(a, &[1]), 0);
    assert_eq!(mm.forced_write(a, &[1]), 1);
    assert_eq!((peek(&mm, a), peek(&mm, a + 1)), (1, 5));
    assert!(guest_write(&mm, a, b"x").is_err());
    mm.mprotect(a, P, 0).unwrap();
    let mut byte = [0];
    assert_eq!(mm.copy_in(a, &mut byte), 0);
    assert_eq!(mm.forced_read(a, &mut byte), 1);
    assert_eq!(byte[0], 1);
    let s = mm.mmap(of_file(&file, 1, RO, SHARED)).unwrap();
    assert_eq!(mm.forced_write(s, &[1]), 0);
    check_invariant(&mm);
}

#[test]
fn host_files_are_read_straight_into_guest_memory() {
    use std::os::fd::AsFd;
    let mm = new_mm();
    let file = TestFile::new(&(0..=255u8).cycle().take(3 * P as usize).collect::<Vec<_>>());
    let a = mm.mmap(anon(BASE, 2, RW, PRIVATE | FIXED)).unwrap();
    mm.mmap(of_file(&file, 1, RW, PRIVATE)).unwrap();
    mm.mmap(anon(BASE + 2 * P, 2, RW, SHARED | FIXED)).unwrap();
    let fd = file.fd.as_fd();
    assert_eq!(
        mm.read_host(a + 1, 4 * P as usize, fd, Some(1)),
        Ok(3 * P as usize - 1)
    );
    assert_eq!(peek(&mm, a + 2 * P + 7), 7);
    assert_eq!(mm.read_host(a + 4 * P, 10, fd, Some(0)), Err(Errno::EFAULT));
    assert_eq!(mm.read_host(a + 4 * P - 4, 10, fd, Some(0)), Ok(4));
    mm.write_bytes(a, b"hello").unwrap();
    assert_eq!(mm.write_host(a, 5, fd, Some(2 * P)), Ok(5));
    let mut back = [0; 5];
    nix::sys::uio::pread(fd, &mut back, 2 * P as i64).unwrap();
    assert_eq!(&back, b"hello");
    assert_eq!(mm.memory().reserved(), 4 * P);
}

#[test]
fn vmas_merge_as_linux_merges_them() {
    let mm = new_mm();
    mm.mmap(anon(BASE, 2, RW, PRIVATE | FIXED)).unwrap();
    mm.mmap(anon(BASE + 4 * P, 2, RW, PRIVATE | FIXED)).unwrap();
    assert_eq!(mm.maps().len(), 2);
    mm.mmap(anon(BASE + 2 * P, 2, RW, PRIVATE | FIXED)).unwrap();
    assert_eq!(mm.maps().len(), 1);
    mm.mprotect(BASE + P, P, RO).unwrap();
    assert_eq!(mm.maps().len(), 3);
    mm.mprotect(BASE + P, P, RW).unwrap();
    assert_eq!(mm.maps().len(), 1);
    mm.set_anon_name(BASE, P, Some(b"x")).unwrap();
    assert_eq!(mm.maps()[0].name.text(), b"[anon:x]");
    mm.set_anon_name(BASE, P, None).unwrap();
    assert_eq!(mm.maps().len(), 1);
    let file = TestFile::new(&vec![5; 4 * P as usize]);
    for i in [0, 1] {
        let mut req = of_file(&file, 1, RO, PRIVATE | FIXED);
        (req.addr, req.offset) = (BASE + (8 + i) * P, i * P);
        mm.mmap(req).unwrap();
    }
    assert_eq!(mm.maps().len(), 2);
    assert_eq!(file.owners.lock().len(), 1);
    mm.munmap(BASE, 100 * P).unwrap();
    assert!(mm.maps().is_empty() && file.owners.lock().is_empty());
}

#[test]
fn huge_reservations_cost_nothing() {
    let mm = new_mm();
    let flags = PRIVATE | libc::MAP_NORESERVE;
    let a = mm.mmap(anon(0, (16 << 40) / P, RW, flags)).unwrap();
    assert_eq!(ops(&mm), 0);
    poke(&mm, a + (5 << 40), 1);
    assert_eq!(mm.copy_out(a + (6 << 40), &[1]), 1);
    assert!(mm.memory().reserved() <= 128 << 20);
    // Without NORESERVE it is more than there is.
    assert_eq!(
        mm.mmap(anon(0, (16 << 40) / P, RW, PRIVATE)),
        Err(Errno::ENOMEM)
    );
    // Address space alone is free.
    assert!(mm.mmap(anon(0, (16 << 40) / P, 0, PRIVATE)).is_ok());
}

#[test]
fn the_vdso_is_there_and_can_be_unmapped() {
    let _ = runsc_platform::memory::install_fault_handler();
    let Some(range) = runsc_platform::host::vdso_range() else {
        return;
    };
    let platform: Arc<dyn Platform> = Arc::new(FakePlatform { vdso: Some(range) });
    let memory = MemoryFile::new().unwrap();
    let mm = Mm::new(&platform, &memory, Limits::default());
    let names: Vec<_> = mm.maps().into_iter().map(|m| m.name).collect();
    assert_eq!(names, [VmaName::Vvar, VmaName::Vdso]);
    let mut magic = [0; 4];
    assert_eq!(mm.copy_in(range.image, &mut magic), 4);
    assert_eq!(&magic, b"\x7fELF");
    assert_eq!(mm.copy_in(range.start, &mut magic), 0);
    let child = mm.fork().unwrap();
    assert_eq!(ops(&child), 0);
    mm.munmap(range.start, range.end - range.start).unwrap();
    assert_eq!(ops(&mm), 1);
    let child = mm.fork().unwrap();
    assert_eq!(ops(&child), 1);
    assert!(child.maps().is_empty());
}

#[test]
fn a_vdso_beyond_what_can_be_mapped_stays_as_it_is() {
    let range = runsc_platform::VdsoRange {
        start: HIGH,
        end: HIGH + 3 * P,
        image: HIGH + P,
    };
    let platform: Arc<dyn Platform> = Arc::new(FakePlatform { vdso: Some(range) });
    let memory = MemoryFile::new().unwrap();
    let mm = Mm::new(&platform, &memory, Limits::default());
    assert_eq!(mm.mprotect(range.image, 2 * P, RO), Err(Errno::EINVAL));
    assert_eq!(mm.munmap(range.image, 2 * P), Err(Errno::EINVAL));
    let child = mm.fork().unwrap();
    assert_eq!(child.maps().len(), 2);
    assert_eq!((ops(&mm), ops(&child)), (0, 0));
}
