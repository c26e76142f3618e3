//! Random sequences of memory calls, compared with an array of pages.

use std::collections::BTreeMap;

use super::fake::*;
use crate::mm::io::UserMemory;
use crate::mm::*;

const BASE: u64 = 0x10_0000_0000;
const PAGES: u64 = 48;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    prot: i32,
    byte: u8,
}

struct Process {
    mm: Arc<Mm>,
    model: BTreeMap<u64, Page>,
}

struct Rng(u64);

impl Rng {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

fn addr(page: u64) -> u64 {
    BASE + page * PAGE_SIZE
}

const PROTS: [i32; 4] = [0, RO, RW, RW];

fn check(p: &Process) {
    check_invariant(&p.mm);
    for n in 0..PAGES * 2 {
        let mut byte = [0xee];
        let seen = guest_read(&p.mm, addr(n) + 5, &mut byte)
            .ok()
            .map(|_| byte[0]);
        let expected = p.model.get(&n).filter(|p| p.prot != 0).map(|p| p.byte);
        assert_eq!(seen, expected, "page {n}");
        let mut byte = [0xee];
        let by_sentry = p.mm.copy_in(addr(n) + 5, &mut byte);
        assert_eq!(
            (by_sentry == 1).then_some(byte[0]),
            expected,
            "page {n} by the Sentry"
        );
    }
    check_invariant(&p.mm);
    for info in p.mm.maps() {
        for at in (info.start..info.end).step_by(PAGE_SIZE as usize) {
            let n = (at - BASE) / PAGE_SIZE;
            assert_eq!(p.model.get(&n).map(|p| p.prot), Some(info.prot.bits()));
        }
    }
    let total: u64 = p.mm.maps().iter().map(|i| i.end - i.start).sum();
    assert_eq!(total, p.mm.totals().vm);
    assert_eq!(total, p.model.len() as u64 * PAGE_SIZE);
}

fn step(procs: &mut Vec<Process>, rng: &mut Rng, file: &Arc<TestFile>) {
    let count = procs.len() as u64;
    let which = rng.next(count) as usize;
    let p = &mut procs[which];
    let first = rng.next(PAGES);
    let n = 1 + rng.next((PAGES - first).min(12));
    let all = first..first + n;
    match rng.next(13) {
        0 | 1 => {
            let prot = PROTS[rng.next(4) as usize];
            let got = p.mm.mmap(anon(
                addr(first),
                n,
                prot,
                libc::MAP_PRIVATE | libc::MAP_FIXED,
            ));
            assert_eq!(got, Ok(addr(first)));
            for i in all {
                p.model.insert(i, Page { prot, byte: 0 });
            }
        }
        2 => {
            let prot = PROTS[rng.next(4) as usize];
            let mut req = of_file(file, n, prot, libc::MAP_PRIVATE | libc::MAP_FIXED);
            req.addr = addr(first);
            req.offset = rng.next(8) * PAGE_SIZE;
            let from = req.offset / PAGE_SIZE;
            p.mm.mmap(req).unwrap();
            for i in all {
                let byte = 1 + (from + i - first) as u8;
                p.model.insert(i, Page { prot, byte });
            }
        }
        3 => {
            p.mm.munmap(addr(first), n * PAGE_SIZE).unwrap();
            for i in all {
                p.model.remove(&i);
            }
        }
        4 | 5 => {
            let prot = PROTS[rng.next(4) as usize];
            let result = p.mm.mprotect(addr(first), n * PAGE_SIZE, prot);
            let mut expected = Ok(());
            for i in all {
                match p.model.get_mut(&i) {
                    Some(page) => page.prot = prot,
                    None => {
                        expected = Err(crate::errno::Errno::ENOMEM);
                        break;
                    }
                }
            }
            assert_eq!(result, expected);
        }
        6 => {
            let to = PAGES + rng.next(PAGES - 12);
            let keep: Vec<Option<Page>> = all.clone().map(|i| p.model.get(&i).copied()).collect();
            let result = p.mm.mremap(
                addr(first),
                n * PAGE_SIZE,
                n * PAGE_SIZE,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                addr(to),
            );
            // Even a refused call may have unmapped the destination.
            match result {
                Ok(at) => {
                    assert_eq!(at, addr(to));
                    for (k, page) in keep.into_iter().enumerate() {
                        p.model.remove(&(first + k as u64));
                        p.model.insert(to + k as u64, page.unwrap());
                    }
                }
                Err(_) => {
                    if p.model.contains_key(&first) {
                        for i in to..to + n {
                            p.model.remove(&i);
                        }
                    }
                }
            }
        }
        7 if count < 5 => {
            let child = Process {
                mm: p.mm.fork().unwrap(),
                model: p.model.clone(),
            };
            procs.push(child);
        }
        8 if count > 1 => {
            procs.swap_remove(which);
        }
        9 => {
            let anon_only = p.mm.maps().iter().all(|i| {
                i.end <= addr(first) || i.start >= addr(first + n) || i.name == VmaName::None
            });
            assert!(anon_only);
            // Which pages are the file's is not in the model: discard what was never the file's.
            let fresh = anon(addr(first), n, RW, libc::MAP_PRIVATE | libc::MAP_FIXED);
            p.mm.mmap(fresh).unwrap();
            for i in all.clone() {
                guest_write(&p.mm, addr(i), &[9; 64]).unwrap();
            }
            if rng.next(2) == 0 {
                let child = p.mm.fork().unwrap();
                p.mm.madvise(addr(first), n * PAGE_SIZE, libc::MADV_DONTNEED)
                    .unwrap();
                for i in all.clone() {
                    assert_eq!(peek(&child, addr(i) + 5), 9);
                }
            } else {
                p.mm.madvise(addr(first), n * PAGE_SIZE, libc::MADV_DONTNEED)
                    .unwrap();
            }
            for i in all {
                p.model.insert(i, Page { prot: RW, byte: 0 });
            }
        }
        other => {
            let byte = rng.next(200) as u8 + 50;
            for i in all {
                let writable = p.model.get(&i).is_some_and(|p| p.prot == RW);
                let done = if other % 2 == 0 {
                    guest_write(&p.mm, addr(i), &[byte; 4096]).is_ok()
                } else {
                    p.mm.copy_out(addr(i), &[byte; 4096]) == 4096
                };
                assert_eq!(done, writable, "page {i}");
                if done && let Some(page) = p.model.get_mut(&i) {
                    page.byte = byte;
                }
            }
        }
    }
}

#[test]
fn random_sequences_match_an_array_of_pages() {
    let data: Vec<u8> = (0..64u8)
        .flat_map(|i| vec![i + 1; PAGE_SIZE as usize])
        .collect();
    let file = TestFile::new(&data);
    let memory = MemoryFile::new().unwrap();
    for seed in 1..40u64 {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut procs = vec![Process {
            mm: new_mm_in(&memory),
            model: BTreeMap::new(),
        }];
        for i in 0..250 {
            step(&mut procs, &mut rng, &file);
            if i % 10 == 0 {
                for p in &procs {
                    check(p);
                }
            }
        }
        for p in &procs {
            check(p);
        }
        drop(procs);
        assert_eq!(memory.reserved(), 0, "seed {seed} leaks");
        assert!(file.owners.lock().is_empty());
    }
    memory.trim();
    assert_eq!(memory.used(), 0);
}
