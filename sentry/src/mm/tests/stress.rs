//! Threads of a guest, of its children and of the Sentry at once: nothing deadlocks, panics or
//! leaks, and in the end the host maps what it should.

use runsc_platform::Fault;

use super::fake::*;
use crate::mm::io::UserMemory;
use crate::mm::*;

const BASE: u64 = 0x30_0000_0000;
const PAGES: u64 = 64;

fn random(seed: &mut u64, below: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 9) % below
}

fn act(mm: &Arc<Mm>, file: &Arc<TestFile>, seed: &mut u64) {
    let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let page = random(seed, PAGES);
    let len = 1 + random(seed, 8.min(PAGES - page));
    let at = BASE + page * PAGE_SIZE;
    let bytes = len * PAGE_SIZE;
    match random(seed, 12) {
        0 => {
            let _ = mm.mmap(anon(at, len, RW, fixed));
        }
        1 => {
            let mut req = of_file(file, len, RW, fixed);
            req.addr = at;
            let _ = mm.mmap(req);
        }
        2 => {
            let mut req = of_file(file, len, RW, libc::MAP_SHARED | libc::MAP_FIXED);
            req.addr = at;
            let _ = mm.mmap(req);
        }
        3 => drop(mm.munmap(at, bytes)),
        4 => drop(mm.mprotect(at, bytes, RO)),
        5 => drop(mm.mprotect(at, bytes, RW)),
        6 => drop(mm.madvise(at, bytes, libc::MADV_DONTNEED)),
        7 => {
            let child = mm.fork().unwrap();
            child.copy_out(at, &[1; 5000]);
            check_invariant(&child);
        }
        8 => file.truncate(random(seed, 8) * PAGE_SIZE),
        9 => {
            let mut buf = [0; 9000];
            mm.copy_in(at + 100, &mut buf);
            let _ = mm.compare_exchange_u32(at, 0, 1);
        }
        10 => {
            let _ = mm.read_host(at, 9000, std::os::fd::AsFd::as_fd(&*file.fd), Some(0));
            mm.copy_out(at + 1, &[7; 9000]);
        }
        _ => {
            for code in [1, 2] {
                let _ = mm.handle_fault(&Fault {
                    signal: libc::SIGSEGV,
                    code,
                    addr: at,
                    access: None,
                });
            }
        }
    }
}

#[test]
fn threads_do_not_get_in_each_others_way() {
    let memory = MemoryFile::new().unwrap();
    let file = TestFile::new(&vec![3; 6 * PAGE_SIZE as usize]);
    let mm = new_mm_in(&memory);
    std::thread::scope(|scope| {
        for thread in 1..4u64 {
            let (mm, file) = (&mm, &file);
            scope.spawn(move || {
                let mut seed = thread.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                for _ in 0..1500 {
                    act(mm, file, &mut seed);
                }
            });
        }
    });
    check_invariant(&mm);
    drop(mm);
    assert_eq!(memory.reserved(), 0);
    assert!(file.owners.lock().is_empty());
}
