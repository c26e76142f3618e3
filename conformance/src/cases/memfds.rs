//! madvise(2), msync(2), mincore(2), mlock(2), memfd_create(2) and process_vm_readv(2).
//!
//! `unsafe`: reads and writes through raw pointers into mappings the case made itself.

use crate::case::*;
use std::ptr::null_mut;

const RW: c_int = PROT_READ | PROT_WRITE;
fn map(at: *mut u8, len: usize, prot: c_int, flags: c_int, fd: c_int) -> Outcome<*mut u8> {
    Ok(ok!(mmap(at.cast(), len, prot, flags, fd, 0)).cast())
}

fn new_memfd(flags: c_uint) -> Outcome<c_int> {
    Ok(ok!(memfd_create(p(c"test"), flags)))
}

pub static CASES: &[Case] = &[
    Case::new(
        "madvise.dontneed",
        "madvise(2)",
        "MADV_DONTNEED zeroes private memory",
        || {
            let page = page_size();
            let at = map_anon(2 * page)?;
            poke(at, 7);
            poke(at.wrapping_add(page), 8);
            ok!(madvise(at.cast(), page, MADV_DONTNEED));
            eq("bytes", (peek(at), peek(at.wrapping_add(page))), (0, 8))
        },
    ),
    Case::new(
        "madvise.dontneed_file",
        "madvise(2)",
        "MADV_DONTNEED brings file content back",
        || {
            let fd = put(c"f", b"abc")?;
            let at = map(null_mut(), 4096, RW, MAP_PRIVATE, fd)?;
            poke(at, b'X');
            ok!(madvise(at.cast(), 4096, MADV_DONTNEED));
            eq("byte", peek(at), b'a')
        },
    ),
    Case::new(
        "madvise.errors",
        "madvise(2)",
        "EINVAL for advice or alignment, ENOMEM unmapped",
        || {
            let page = page_size();
            let at = map_anon(2 * page)?;
            err!(EINVAL, madvise(at.cast(), page, 9999));
            err!(
                EINVAL,
                madvise(at.wrapping_add(1).cast(), page, MADV_NORMAL)
            );
            ok!(munmap(at.wrapping_add(page).cast(), page));
            err!(ENOMEM, madvise(at.cast(), 2 * page, MADV_NORMAL));
            ok!(madvise(at.cast(), 0, MADV_NORMAL));
            Ok(())
        },
    ),
    Case::new(
        "madvise.dontfork",
        "madvise(2)",
        "MADV_DONTFORK memory is missing in the child",
        || {
            let at = map_anon(4096)?;
            poke(at, 1);
            ok!(madvise(at.cast(), 4096, MADV_DONTFORK));
            dies(SIGSEGV, || peek(at))?;
            ok!(madvise(at.cast(), 4096, MADV_DOFORK));
            let pid = child(|| i32::from(peek(at)))?;
            expect_exit(pid, 1)
        },
    ),
    Case::new(
        "madvise.wipeonfork",
        "madvise(2)",
        "MADV_WIPEONFORK memory is zero in the child",
        || {
            let at = map_anon(4096)?;
            poke(at, 5);
            ok!(madvise(at.cast(), 4096, MADV_WIPEONFORK));
            let pid = child(|| i32::from(peek(at)))?;
            expect_exit(pid, 0)?;
            eq("parent's byte", peek(at), 5)
        },
    ),
    Case::new(
        "msync.errors",
        "msync(2)",
        "EINVAL for contradicting flags, ENOMEM unmapped",
        || {
            let fd = put(c"f", b"abc")?;
            let at = map(null_mut(), 4096, RW, MAP_SHARED, fd)?;
            poke(at, b'X');
            ok!(msync(at.cast(), 4096, MS_SYNC));
            err!(EINVAL, msync(at.cast(), 4096, MS_SYNC | MS_ASYNC));
            err!(EINVAL, msync(at.wrapping_add(1).cast(), 4096, MS_SYNC));
            ok!(munmap(at.cast(), 4096));
            err!(ENOMEM, msync(at.cast(), 4096, MS_SYNC));
            Ok(())
        },
    ),
    Case::new(
        "mincore.errors",
        "mincore(2)",
        "a touched page is resident; EINVAL, ENOMEM",
        || {
            let page = page_size();
            let at = map_anon(page)?;
            poke(at, 1);
            let mut vec = [0u8; 1];
            ok!(mincore(at.cast(), page, vec.as_mut_ptr()));
            eq("resident bit", vec[0] & 1, 1)?;
            err!(
                EINVAL,
                mincore(at.wrapping_add(1).cast(), page, vec.as_mut_ptr())
            );
            ok!(munmap(at.cast(), page));
            err!(ENOMEM, mincore(at.cast(), page, vec.as_mut_ptr()));
            Ok(())
        },
    ),
    Case::new(
        "mlock.limit",
        "mlock(2)",
        "beyond RLIMIT_MEMLOCK: ENOMEM, or EPERM at limit 0",
        || {
            as_user(|| {
                let at = map_anon(1 << 20)?;
                let limit = rlimit {
                    rlim_cur: 4096,
                    rlim_max: 4096,
                };
                ok!(setrlimit(RLIMIT_MEMLOCK, &limit));
                ok!(mlock(at.cast(), 4096));
                err!(ENOMEM, mlock(at.cast(), 1 << 20));
                ok!(munlock(at.cast(), 4096));
                let none = rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                ok!(setrlimit(RLIMIT_MEMLOCK, &none));
                err!(EPERM, mlock(at.cast(), 4096));
                Ok(())
            })
        },
    ),
    Case::new(
        "mlock.unmapped",
        "mlock(2)",
        "unmapped memory gives ENOMEM",
        || {
            let at = map_anon(4096)?;
            ok!(munmap(at.cast(), 4096));
            err!(ENOMEM, mlock(at.cast(), 4096));
            err!(ENOMEM, munlock(at.cast(), 4096));
            err!(EINVAL, syscall(SYS_mlock2, at, 4096usize, 99));
            Ok(())
        },
    ),
    Case::new(
        "memfd.file",
        "memfd_create(2)",
        "a memfd is a regular file named in /proc",
        || {
            let fd = new_memfd(MFD_CLOEXEC)?;
            gives!(FD_CLOEXEC, fcntl(fd, F_GETFD));
            write_all(fd, b"abc")?;
            let st = fstat_of(fd)?;
            eq_octal("mode", st.st_mode, S_IFREG | 0o777)?;
            eq("size", st.st_size, 3)?;
            let mut buf = [0u8; 64];
            let path = cstring(format!("/proc/self/fd/{fd}"));
            let n = ok!(readlink(path.as_ptr(), buf.as_mut_ptr().cast(), 64)) as usize;
            let seen = String::from_utf8_lossy(&buf[..n]).into_owned();
            eq("link", seen, "/memfd:test (deleted)".to_string())
        },
    ),
    Case::new(
        "memfd.errors",
        "memfd_create(2)",
        "EINVAL for flags or a long name, EFAULT",
        || {
            err!(EINVAL, memfd_create(p(c"x"), 1 << 20));
            let long = cstring("n".repeat(250));
            err!(EINVAL, memfd_create(long.as_ptr(), 0));
            ok!(memfd_create(cstring("n".repeat(249)).as_ptr(), 0));
            err!(EFAULT, memfd_create(bad_ptr::<c_char>(), 0));
            Ok(())
        },
    ),
    Case::new(
        "memfd.seal_write",
        "fcntl(2)",
        "F_SEAL_WRITE stops writes: EPERM",
        || {
            let fd = new_memfd(MFD_ALLOW_SEALING)?;
            write_all(fd, b"abc")?;
            gives!(0, fcntl(fd, F_GET_SEALS));
            ok!(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
            gives!(F_SEAL_WRITE, fcntl(fd, F_GET_SEALS));
            err!(EPERM, write(fd, c"x".as_ptr().cast(), 1));
            err!(EPERM, mmap(null_mut(), 4096, RW, MAP_SHARED, fd, 0));
            ok!(mmap(null_mut(), 4096, PROT_READ, MAP_SHARED, fd, 0));
            Ok(())
        },
    ),
    Case::new(
        "memfd.seal_size",
        "fcntl(2)",
        "F_SEAL_GROW and F_SEAL_SHRINK: EPERM",
        || {
            let fd = new_memfd(MFD_ALLOW_SEALING)?;
            ok!(ftruncate(fd, 100));
            ok!(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
            err!(EPERM, ftruncate(fd, 101));
            ok!(ftruncate(fd, 50));
            ok!(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL));
            err!(EPERM, ftruncate(fd, 49));
            err!(EPERM, fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
            Ok(())
        },
    ),
    Case::new(
        "memfd.seal_busy",
        "fcntl(2)",
        "F_SEAL_WRITE with a writable mapping gives EBUSY",
        || {
            let fd = new_memfd(MFD_ALLOW_SEALING)?;
            ok!(ftruncate(fd, 4096));
            let at = ok!(mmap(null_mut(), 4096, RW, MAP_SHARED, fd, 0));
            err!(EBUSY, fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
            ok!(munmap(at, 4096));
            ok!(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
            Ok(())
        },
    ),
    Case::new(
        "memfd.not_sealable",
        "fcntl(2)",
        "without MFD_ALLOW_SEALING: F_SEAL_SEAL, EPERM",
        || {
            let fd = new_memfd(0)?;
            gives!(F_SEAL_SEAL, fcntl(fd, F_GET_SEALS));
            err!(EPERM, fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
            err!(EINVAL, fcntl(pipe_pair()?.0, F_GET_SEALS));
            Ok(())
        },
    ),
    Case::new(
        "memfd.shared_mapping",
        "memfd_create(2)",
        "two mappings of a memfd show one memory",
        || {
            let fd = new_memfd(0)?;
            ok!(ftruncate(fd, 4096));
            let a = map(null_mut(), 4096, RW, MAP_SHARED, fd)?;
            let b = map(null_mut(), 4096, RW, MAP_SHARED, fd)?;
            ensure!(a != b, "both mappings are at {a:?}");
            poke(a, 9);
            eq("byte", peek(b), 9)
        },
    ),
    Case::new(
        "process_vm.read_and_write",
        "process_vm_readv(2)",
        "a child's memory is reached",
        || {
            let at = map_anon(4096)?;
            poke(at, 1);
            let pid = child(|| {
                loop {
                    if peek(at) == 2 {
                        return 0;
                    }
                    raw!(sched_yield());
                }
            })?;
            let mut byte = 0u8;
            let local = iovec {
                iov_base: (&raw mut byte).cast(),
                iov_len: 1,
            };
            let remote = iovec {
                iov_base: at.cast(),
                iov_len: 1,
            };
            let got = raw!(process_vm_readv(pid, &local, 1, &remote, 1, 0));
            if got == -1 && (errno() == EPERM || errno() == ENOSYS) {
                raw!(kill(pid, SIGKILL));
                skip!("tracing is not permitted here");
            }
            eq("read", (got, byte), (1, 1))?;
            poke(&raw mut byte, 2);
            gives!(1, process_vm_writev(pid, &local, 1, &remote, 1, 0));
            expect_exit(pid, 0)?;
            err!(ESRCH, process_vm_readv(pid, &local, 1, &remote, 1, 0));
            Ok(())
        },
    ),
];
