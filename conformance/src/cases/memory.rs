//! mmap(2), munmap(2), mprotect(2), mremap(2) and brk(2).
//!
//! `unsafe`: reads and writes through raw pointers into mappings the case made itself.

use crate::case::*;
use std::ptr::null_mut;

// si_code of SIGSEGV; libc does not name them.
const SEGV_MAPERR: c_int = 1;
const SEGV_ACCERR: c_int = 2;

const RW: c_int = PROT_READ | PROT_WRITE;
const ANON: c_int = MAP_PRIVATE | MAP_ANONYMOUS;

fn map(at: *mut u8, len: usize, prot: c_int, flags: c_int, fd: c_int) -> Outcome<*mut u8> {
    Ok(ok!(mmap(at.cast(), len, prot, flags, fd, 0)).cast())
}

/// The line of `/proc/self/maps` a mapping stands in.
fn maps_line(at: *mut u8) -> Outcome<Option<String>> {
    for line in slurp("/proc/self/maps")?.lines() {
        let range = line.split(' ').next().unwrap_or("");
        if let Some((from, to)) = range.split_once('-') {
            let from = usize::from_str_radix(from, 16).unwrap_or(0);
            let to = usize::from_str_radix(to, 16).unwrap_or(0);
            if (from..to).contains(&(at as usize)) {
                return Ok(Some(line.to_string()));
            }
        }
    }
    Ok(None)
}

pub static CASES: &[Case] = &[
    Case::new(
        "mmap.anonymous_zero",
        "mmap(2)",
        "anonymous memory is zero and page-aligned",
        || {
            let len = 10 * page_size();
            let at = map(null_mut(), len, RW, ANON, -1)?;
            eq("alignment", at as usize % page_size(), 0)?;
            ensure!(
                (0..len).all(|i| peek(at.wrapping_add(i)) == 0),
                "not all zeroes"
            );
            Ok(())
        },
    ),
    Case::new(
        "mmap.einval",
        "mmap(2)",
        "length 0, neither shared nor private, unaligned offset",
        || {
            let fd = put(c"f", b"abc")?;
            err!(EINVAL, mmap(null_mut(), 0, RW, ANON, -1, 0));
            err!(EINVAL, mmap(null_mut(), 4096, RW, MAP_ANONYMOUS, -1, 0));
            err!(EINVAL, mmap(null_mut(), 4096, RW, MAP_PRIVATE, fd, 1));
            err!(
                EINVAL,
                mmap(
                    page_size().wrapping_add(1) as *mut c_void,
                    4096,
                    RW,
                    ANON | MAP_FIXED,
                    -1,
                    0
                )
            );
            Ok(())
        },
    ),
    Case::new(
        "mmap.ebadf",
        "mmap(2)",
        "a file mapping of a bad descriptor gives EBADF",
        || {
            err!(EBADF, mmap(null_mut(), 4096, RW, MAP_PRIVATE, -1, 0));
            let fd = ok!(open(p(c"."), O_PATH));
            err!(EBADF, mmap(null_mut(), 4096, PROT_READ, MAP_PRIVATE, fd, 0));
            Ok(())
        },
    ),
    Case::new(
        "mmap.eacces",
        "mmap(2)",
        "the open mode limits shared and all mappings",
        || {
            put(c"f", b"abc")?;
            let fd = ok!(open(p(c"f"), O_RDONLY));
            err!(EACCES, mmap(null_mut(), 4096, RW, MAP_SHARED, fd, 0));
            ok!(mmap(null_mut(), 4096, RW, MAP_PRIVATE, fd, 0));
            let fd = ok!(open(p(c"f"), O_WRONLY));
            err!(
                EACCES,
                mmap(null_mut(), 4096, PROT_READ, MAP_PRIVATE, fd, 0)
            );
            Ok(())
        },
    ),
    Case::new(
        "mmap.enodev",
        "mmap(2)",
        "a pipe or a directory cannot be mapped: ENODEV",
        || {
            let (r, _w) = pipe_pair()?;
            err!(ENODEV, mmap(null_mut(), 4096, PROT_READ, MAP_PRIVATE, r, 0));
            let fd = ok!(open(p(c"."), O_RDONLY));
            err!(
                ENODEV,
                mmap(null_mut(), 4096, PROT_READ, MAP_PRIVATE, fd, 0)
            );
            Ok(())
        },
    ),
    Case::new(
        "mmap.enomem",
        "mmap(2)",
        "more than the address space gives ENOMEM",
        || {
            err!(ENOMEM, mmap(null_mut(), 1 << 50, PROT_NONE, ANON, -1, 0));
            err!(
                ENOMEM,
                mmap(null_mut(), usize::MAX - 8192, PROT_NONE, ANON, -1, 0)
            );
            Ok(())
        },
    ),
    Case::new(
        "mmap.rlimit_as",
        "getrlimit(2)",
        "RLIMIT_AS makes mmap fail with ENOMEM",
        || {
            let limit = rlimit {
                rlim_cur: 1 << 20,
                rlim_max: RLIM_INFINITY,
            };
            ok!(setrlimit(RLIMIT_AS, &limit));
            err!(ENOMEM, mmap(null_mut(), 64 << 20, RW, ANON, -1, 0));
            Ok(())
        },
    ),
    Case::new(
        "mmap.fixed_replaces",
        "mmap(2)",
        "MAP_FIXED replaces what was there",
        || {
            let page = page_size();
            let at = map(null_mut(), 3 * page, RW, ANON, -1)?;
            for i in 0..3 {
                poke(at.wrapping_add(i * page), 7);
            }
            let middle = at.wrapping_add(page);
            eq(
                "address",
                map(middle, page, RW, ANON | MAP_FIXED, -1)?,
                middle,
            )?;
            let seen = [peek(at), peek(middle), peek(at.wrapping_add(2 * page))];
            eq("first bytes of the pages", seen, [7, 0, 7])
        },
    ),
    Case::new(
        "mmap.fixed_noreplace",
        "mmap(2)",
        "MAP_FIXED_NOREPLACE gives EEXIST on overlap",
        || {
            let page = page_size();
            let at = map(null_mut(), 2 * page, RW, ANON, -1)?;
            err!(
                EEXIST,
                mmap(at.cast(), page, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0)
            );
            ok!(munmap(at.cast(), page));
            eq(
                "address",
                map(at, page, RW, ANON | MAP_FIXED_NOREPLACE, -1)?,
                at,
            )
        },
    ),
    Case::new(
        "mmap.hint",
        "mmap(2)",
        "a free hint is honoured, a taken one moves",
        || {
            let page = page_size();
            let at = map(null_mut(), 4 * page, RW, ANON, -1)?;
            ok!(munmap(at.cast(), 4 * page));
            eq("address", map(at, page, RW, ANON, -1)?, at)?;
            ensure!(
                map(at, page, RW, ANON, -1)? != at,
                "the mapping was replaced without MAP_FIXED"
            );
            Ok(())
        },
    ),
    Case::new(
        "mmap.private_copy",
        "mmap(2)",
        "MAP_PRIVATE changes do not reach the file",
        || {
            let fd = put(c"f", b"abc")?;
            let at = map(null_mut(), 4096, RW, MAP_PRIVATE, fd)?;
            poke(at, b'X');
            eq("file", slurp("f")?, "abc".to_string())?;
            eq("mapping", peek(at), b'X')
        },
    ),
    Case::new(
        "mmap.shared_file",
        "mmap(2)",
        "MAP_SHARED and read/write see each other",
        || {
            let fd = put(c"f", b"abc")?;
            let at = map(null_mut(), 4096, RW, MAP_SHARED, fd)?;
            poke(at, b'X');
            eq("file after a store", slurp("f")?, "Xbc".to_string())?;
            gives!(1, pwrite(fd, c"Y".as_ptr().cast(), 1, 1));
            eq("mapping after a write", peek(at.wrapping_add(1)), b'Y')
        },
    ),
    Case::new(
        "mmap.shared_between_processes",
        "mmap(2)",
        "MAP_SHARED|MAP_ANONYMOUS is shared after fork",
        || {
            let at = map_shared(4096)?;
            let pid = child(|| {
                poke(at, 42);
                0
            })?;
            expect_exit(pid, 0)?;
            eq("byte", peek(at), 42)
        },
    ),
    Case::new(
        "mmap.private_after_fork",
        "fork(2)",
        "private memory is copied on write, both ways",
        || {
            let page = page_size();
            let at = map_anon(4 * page)?;
            poke(at, 1);
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                raw!(close(w));
                let mut b = 0u8;
                raw!(read(r, (&raw mut b).cast(), 1));
                let seen = peek(at);
                poke(at.wrapping_add(page), 9);
                i32::from(seen != 1)
            })?;
            poke(at, 2);
            ok!(close(w));
            expect_exit(pid, 0)?;
            eq("the child's store", peek(at.wrapping_add(page)), 0)
        },
    ),
    Case::new(
        "mmap.beyond_file_sigbus",
        "mmap(2)",
        "a page past the end of the file gives SIGBUS",
        || {
            let page = page_size();
            let fd = put(c"f", b"abc")?;
            let at = map(null_mut(), 2 * page, RW, MAP_SHARED, fd)?;
            eq("rest of the last page", peek(at.wrapping_add(page - 1)), 0)?;
            dies(SIGBUS, || peek(at.wrapping_add(page)))
        },
    ),
    Case::new(
        "mmap.truncated_sigbus",
        "mmap(2)",
        "truncating takes mapped pages away",
        || {
            let page = page_size();
            let fd = put(c"f", &vec![1u8; 2 * page])?;
            let at = map(null_mut(), 2 * page, RW, MAP_SHARED, fd)?;
            eq("before", peek(at.wrapping_add(page)), 1)?;
            ok!(ftruncate(fd, page as off_t));
            dies(SIGBUS, || peek(at.wrapping_add(page)))?;
            ok!(ftruncate(fd, 2 * page as off_t));
            eq("grown again", peek(at.wrapping_add(page)), 0)
        },
    ),
    Case::new(
        "mmap.survives_close",
        "mmap(2)",
        "closing and unlinking leave the mapping",
        || {
            let fd = put(c"f", b"abc")?;
            let at = map(null_mut(), 4096, PROT_READ, MAP_SHARED, fd)?;
            ok!(close(fd));
            ok!(unlink(p(c"f")));
            eq("byte", peek(at), b'a')
        },
    ),
    Case::new(
        "mmap.segv_code",
        "sigaction(2)",
        "SEGV_MAPERR or SEGV_ACCERR with the address",
        || {
            let page = page_size();
            let at = map(null_mut(), page, PROT_READ, ANON, -1)?;
            let seen = map_shared(4096)?.cast::<usize>();
            for (unmap, want) in [(false, SEGV_ACCERR), (true, SEGV_MAPERR)] {
                if unmap {
                    ok!(munmap(at.cast(), page));
                }
                let pid = child(|| {
                    extern "C" fn report(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
                        let (code, address) = unsafe { ((*info).si_code, (*info).si_addr()) };
                        let into = SEEN.load(std::sync::atomic::Ordering::SeqCst) as *mut usize;
                        unsafe { into.write_volatile(code as usize) };
                        unsafe { into.add(1).write_volatile(address as usize) };
                        raw!(_exit(55));
                    }
                    static SEEN: std::sync::atomic::AtomicUsize =
                        std::sync::atomic::AtomicUsize::new(0);
                    SEEN.store(seen as usize, std::sync::atomic::Ordering::SeqCst);
                    let mut action = zeroed::<sigaction>();
                    action.sa_flags = SA_SIGINFO;
                    action.sa_sigaction =
                        report as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
                    raw!(sigaction(SIGSEGV, &action, null_mut()));
                    poke(at.wrapping_add(5), 1);
                    0
                })?;
                expect_exit(pid, 55)?;
                let (code, address) =
                    unsafe { (seen.read_volatile(), seen.add(1).read_volatile()) };
                eq("si_code", code as c_int, want)?;
                eq("si_addr", address, at as usize + 5)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "mmap.prot_none",
        "mmap(2)",
        "PROT_NONE: reads fault, system calls give EFAULT",
        || {
            let at = map(null_mut(), 4096, PROT_NONE, ANON, -1)?;
            let fd = put(c"f", b"abc")?;
            err!(EFAULT, read(fd, at.cast(), 3));
            err!(EFAULT, write(fd, at.cast(), 3));
            dies(SIGSEGV, || peek(at))
        },
    ),
    Case::new(
        "mmap.execute",
        "mprotect(2)",
        "code runs with PROT_EXEC and not without",
        || {
            if !cfg!(target_arch = "x86_64") {
                skip!("the machine code is x86-64's");
            }
            let at = map_anon(4096)?;
            let code = [0xb8, 42, 0, 0, 0, 0xc3]; // mov $42,%eax; ret
            unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), at, code.len()) };
            let call: extern "C" fn() -> c_int = unsafe { std::mem::transmute(at) };
            dies(SIGSEGV, || call())?;
            ok!(mprotect(at.cast(), 4096, PROT_READ | PROT_EXEC));
            eq("value", call(), 42)
        },
    ),
    Case::new(
        "mmap.grows_down",
        "mmap(2)",
        "MAP_GROWSDOWN memory grows when touched below",
        || {
            let page = page_size();
            // Keep the space below free of other mappings.
            let room = map(null_mut(), 600 * page, PROT_NONE, ANON | MAP_NORESERVE, -1)?;
            ok!(munmap(room.cast(), 600 * page));
            let top = room.wrapping_add(599 * page);
            let at = map(top, page, RW, ANON | MAP_GROWSDOWN | MAP_FIXED, -1)?;
            poke(at.wrapping_sub(8), 3);
            eq("byte", peek(at.wrapping_sub(8)), 3)
        },
    ),
    Case::new(
        "mmap.stack_grows",
        "getrlimit(2)",
        "the main stack grows far below its first pages",
        || {
            fn deep(n: usize) -> u8 {
                let block = std::hint::black_box([n as u8; 16384]);
                if n == 0 {
                    block[0]
                } else {
                    deep(n - 1).wrapping_add(block[16383])
                }
            }
            let mut limit = zeroed::<rlimit>();
            ok!(getrlimit(RLIMIT_STACK, &mut limit));
            if limit.rlim_max < 8 << 20 {
                skip!("the stack may not grow to 8 MiB here");
            }
            limit.rlim_cur = 8 << 20;
            ok!(setrlimit(RLIMIT_STACK, &limit));
            let want = (0..=100).fold(0u8, |sum, n| sum.wrapping_add(n as u8));
            eq("sum", deep(100), want)
        },
    ),
    Case::new(
        "mmap.populate_and_noreserve",
        "mmap(2)",
        "hint flags change nothing visible",
        || {
            let at = map(null_mut(), 1 << 20, RW, ANON | MAP_POPULATE, -1)?;
            eq("populated", peek(at.wrapping_add(5000)), 0)?;
            let at = map(null_mut(), 1 << 32, RW, ANON | MAP_NORESERVE, -1)?;
            poke(at.wrapping_add(1 << 31), 1);
            eq("far byte", peek(at.wrapping_add(1 << 31)), 1)
        },
    ),
    Case::new(
        "mmap.shared_validate",
        "mmap(2)",
        "MAP_SHARED_VALIDATE refuses unknown flags",
        || {
            let fd = put(c"f", b"abc")?;
            err!(
                EOPNOTSUPP,
                mmap(null_mut(), 4096, RW, MAP_SHARED_VALIDATE | 1 << 22, fd, 0)
            );
            ok!(mmap(null_mut(), 4096, RW, MAP_SHARED_VALIDATE, fd, 0));
            Ok(())
        },
    ),
    Case::new(
        "mmap.maps_line",
        "proc_pid_maps(5)",
        "permissions, offset and path of a mapping",
        || {
            let page = page_size();
            let fd = put(c"f", &vec![0u8; 2 * page])?;
            let at: *mut u8 = ok!(mmap(
                null_mut(),
                page,
                PROT_READ,
                MAP_SHARED,
                fd,
                page as off_t
            ))
            .cast();
            let Some(line) = maps_line(at)? else {
                fail!("no line for {at:?} in /proc/self/maps")
            };
            let words: Vec<&str> = line.split_whitespace().collect();
            ensure!(words.len() >= 6, "line {line:?}");
            eq("permissions", words[1], "r--s")?;
            eq("offset", words[2], &format!("{page:08x}"))?;
            eq("inode", words[4], &fstat_of(fd)?.st_ino.to_string())?;
            ensure!(words[5].ends_with("/f"), "path {:?}", words[5]);
            Ok(())
        },
    ),
    Case::new(
        "munmap.unmaps",
        "munmap(2)",
        "unmapped memory faults; nothing mapped is no error",
        || {
            let page = page_size();
            let at = map_anon(3 * page)?;
            ok!(munmap(at.wrapping_add(page).cast(), page));
            ok!(munmap(at.wrapping_add(page).cast(), page));
            poke(at, 1);
            poke(at.wrapping_add(2 * page), 1);
            dies(SIGSEGV, || peek(at.wrapping_add(page)))
        },
    ),
    Case::new(
        "munmap.einval",
        "munmap(2)",
        "an unaligned address or length 0 gives EINVAL",
        || {
            let at = map_anon(4096)?;
            err!(EINVAL, munmap(at.wrapping_add(1).cast(), 4096));
            err!(EINVAL, munmap(at.cast(), 0));
            Ok(())
        },
    ),
    Case::new(
        "mprotect.downgrade",
        "mprotect(2)",
        "a read-only page faults on a store",
        || {
            let page = page_size();
            let at = map_anon(3 * page)?;
            poke(at.wrapping_add(page), 5);
            ok!(mprotect(at.wrapping_add(page).cast(), page, PROT_READ));
            eq("content", peek(at.wrapping_add(page)), 5)?;
            poke(at, 1);
            dies(SIGSEGV, || poke(at.wrapping_add(page), 1))?;
            ok!(mprotect(at.wrapping_add(page).cast(), page, RW));
            poke(at.wrapping_add(page), 6);
            Ok(())
        },
    ),
    Case::new(
        "mprotect.errors",
        "mprotect(2)",
        "EINVAL unaligned, ENOMEM unmapped, EACCES read-only file",
        || {
            let page = page_size();
            let at = map_anon(2 * page)?;
            err!(EINVAL, mprotect(at.wrapping_add(1).cast(), page, RW));
            err!(EINVAL, mprotect(at.cast(), page, 1 << 20));
            ok!(munmap(at.wrapping_add(page).cast(), page));
            err!(ENOMEM, mprotect(at.cast(), 2 * page, PROT_READ));
            put(c"f", b"abc")?;
            let fd = ok!(open(p(c"f"), O_RDONLY));
            let at = ok!(mmap(null_mut(), page, PROT_READ, MAP_SHARED, fd, 0));
            err!(EACCES, mprotect(at, page, RW));
            Ok(())
        },
    ),
    Case::new(
        "mremap.grow_moves",
        "mremap(2)",
        "MREMAP_MAYMOVE keeps the content",
        || {
            let page = page_size();
            let at = map_anon(page)?;
            poke(at, 7);
            let new: *mut u8 = ok!(mremap(at.cast(), page, 100 * page, MREMAP_MAYMOVE)).cast();
            eq(
                "content",
                (peek(new), peek(new.wrapping_add(99 * page))),
                (7, 0),
            )
        },
    ),
    Case::new(
        "mremap.in_place_enomem",
        "mremap(2)",
        "without MAYMOVE a blocked growth gives ENOMEM",
        || {
            let page = page_size();
            let at = map_anon(3 * page)?;
            ok!(mprotect(at.wrapping_add(page).cast(), page, PROT_READ));
            err!(ENOMEM, mremap(at.cast(), page, 2 * page, 0));
            Ok(())
        },
    ),
    Case::new(
        "mremap.shrink",
        "mremap(2)",
        "shrinking unmaps the tail",
        || {
            let page = page_size();
            let at = map_anon(3 * page)?;
            poke(at, 7);
            eq(
                "address",
                ok!(mremap(at.cast(), 3 * page, page, 0)),
                at.cast(),
            )?;
            eq("content", peek(at), 7)?;
            dies(SIGSEGV, || peek(at.wrapping_add(page)))
        },
    ),
    Case::new(
        "mremap.fixed",
        "mremap(2)",
        "MREMAP_FIXED moves onto the given address",
        || {
            let page = page_size();
            let (at, to) = (map_anon(page)?, map_anon(page)?);
            poke(at, 7);
            poke(to, 1);
            let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
            eq(
                "address",
                ok!(mremap(at.cast(), page, page, flags, to)),
                to.cast(),
            )?;
            eq("content", peek(to), 7)?;
            dies(SIGSEGV, || peek(at))
        },
    ),
    Case::new(
        "mremap.errors",
        "mremap(2)",
        "EINVAL for flags and alignment, EFAULT unmapped",
        || {
            let page = page_size();
            let at = map_anon(2 * page)?;
            err!(EINVAL, mremap(at.cast(), page, page, 1 << 20));
            err!(
                EINVAL,
                mremap(at.wrapping_add(1).cast(), page, page, MREMAP_MAYMOVE)
            );
            err!(EINVAL, mremap(at.cast(), page, 0, MREMAP_MAYMOVE));
            err!(EINVAL, mremap(at.cast(), page, page, MREMAP_FIXED, at));
            ok!(munmap(at.cast(), 2 * page));
            err!(EFAULT, mremap(at.cast(), page, 2 * page, MREMAP_MAYMOVE));
            Ok(())
        },
    ),
    Case::new(
        "brk.grow_and_shrink",
        "brk(2)",
        "the break moves and new memory is zero",
        || {
            let now = ok!(syscall(SYS_brk, 0)) as usize;
            let grown = now + 3 * page_size();
            eq("new break", ok!(syscall(SYS_brk, grown)) as usize, grown)?;
            let last = (grown - 1) as *mut u8;
            eq("new byte", peek(last), 0)?;
            poke(last, 1);
            eq("break back", ok!(syscall(SYS_brk, now)) as usize, now)?;
            eq("impossible break", ok!(syscall(SYS_brk, 1)) as usize, now)
        },
    ),
    Case::new(
        "brk.rlimit_data",
        "brk(2)",
        "beyond RLIMIT_DATA the break stays",
        || {
            let now = ok!(syscall(SYS_brk, 0)) as usize;
            let none = rlimit {
                rlim_cur: 0,
                rlim_max: RLIM_INFINITY,
            };
            ok!(setrlimit(RLIMIT_DATA, &none));
            eq(
                "break",
                ok!(syscall(SYS_brk, now + (1 << 20))) as usize,
                now,
            )
        },
    ),
];
