//! Moving bytes: read(2), write(2), lseek(2), pread(2), readv(2), fallocate(2), sendfile(2),
//! copy_file_range(2), splice(2), and what dup(2) and fcntl(2) do to descriptors.

use crate::case::*;
use std::ptr::null_mut;

fn vec_of(bytes: &mut [u8]) -> iovec {
    iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

pub static CASES: &[Case] = &[
    Case::new(
        "read.end_of_file",
        "read(2)",
        "read at end of file gives 0, buffer untouched",
        || {
            let fd = put(c"f", b"")?;
            gives!(0, read(fd, null_mut(), 1));
            Ok(())
        },
    ),
    Case::new(
        "read.efault",
        "read(2)",
        "a bad buffer gives EFAULT and keeps the offset",
        || {
            let fd = put(c"f", b"abc")?;
            err!(EFAULT, read(fd, bad_ptr(), 3));
            gives!(0, lseek(fd, 0, SEEK_CUR));
            Ok(())
        },
    ),
    Case::new(
        "read.eisdir",
        "read(2)",
        "reading a directory gives EISDIR",
        || {
            let fd = ok!(open(p(c"."), O_RDONLY));
            let mut b = [0u8; 4];
            err!(EISDIR, read(fd, b.as_mut_ptr().cast(), 4));
            err!(EISDIR, pread(fd, b.as_mut_ptr().cast(), 4, 0));
            Ok(())
        },
    ),
    Case::new(
        "read.short",
        "read(2)",
        "less than asked for near the end of a file",
        || {
            let fd = put(c"f", b"abcdef")?;
            gives!(4, lseek(fd, 4, SEEK_SET));
            eq("bytes", read_some(fd, 100)?, b"ef".to_vec())
        },
    ),
    Case::new(
        "read.partial_fault",
        "read(2)",
        "a buffer that ends in a bad page is filled up to it",
        || {
            let page = page_size();
            let at = map_anon(2 * page)?;
            ok!(munmap(at.wrapping_add(page).cast(), page));
            let (r, w) = pipe_pair()?;
            write_all(w, &[7u8; 64])?;
            let to = at.wrapping_add(page - 16);
            let got = raw!(read(r, to.cast(), 64));
            let why = errno();
            ensure!(
                got == 16 || (got == -1 && why == EFAULT),
                "got {got}, {}",
                errno_name(why)
            );
            Ok(())
        },
    ),
    Case::new(
        "write.efault",
        "write(2)",
        "a bad buffer gives EFAULT",
        || {
            let fd = put(c"f", b"")?;
            err!(EFAULT, write(fd, bad_ptr(), 1));
            eq("size", fstat_of(fd)?.st_size, 0)
        },
    ),
    Case::new("write.zero", "write(2)", "writing 0 bytes gives 0", || {
        let fd = put(c"f", b"abc")?;
        gives!(0, write(fd, std::ptr::null(), 0));
        eq("size", fstat_of(fd)?.st_size, 3)
    }),
    Case::new(
        "write.hole",
        "lseek(2)",
        "writing past the end leaves a hole of zeroes",
        || {
            let fd = put(c"f", b"a")?;
            gives!(10_000, lseek(fd, 10_000, SEEK_SET));
            write_all(fd, b"z")?;
            eq("size", fstat_of(fd)?.st_size, 10_001)?;
            gives!(0, lseek(fd, 0, SEEK_SET));
            let all = read_some(fd, 20_000)?;
            ensure!(
                all[1..10_000].iter().all(|b| *b == 0),
                "the hole is not all zeroes"
            );
            Ok(())
        },
    ),
    Case::new(
        "lseek.whence",
        "lseek(2)",
        "SEEK_SET, SEEK_CUR and SEEK_END",
        || {
            let fd = put(c"f", b"0123456789")?;
            gives!(3, lseek(fd, 3, SEEK_SET));
            gives!(5, lseek(fd, 2, SEEK_CUR));
            gives!(9, lseek(fd, -1, SEEK_END));
            gives!(20, lseek(fd, 10, SEEK_END));
            Ok(())
        },
    ),
    Case::new(
        "lseek.errors",
        "lseek(2)",
        "EINVAL, ESPIPE and EBADF",
        || {
            let fd = put(c"f", b"abc")?;
            err!(EINVAL, lseek(fd, -1, SEEK_SET));
            err!(EINVAL, lseek(fd, -4, SEEK_END));
            err!(EINVAL, lseek(fd, 0, 99));
            err!(ESPIPE, lseek(pipe_pair()?.0, 0, SEEK_CUR));
            err!(ESPIPE, lseek(socket_pair(SOCK_STREAM)?.0, 0, SEEK_CUR));
            err!(EBADF, lseek(-1, 0, SEEK_SET));
            gives!(0, lseek(fd, 0, SEEK_CUR));
            Ok(())
        },
    ),
    Case::new(
        "lseek.data_and_hole",
        "lseek(2)",
        "SEEK_DATA and SEEK_HOLE, ENXIO past the end",
        || {
            let fd = put(c"f", b"abc")?;
            gives!(0, lseek(fd, 0, SEEK_DATA));
            gives!(3, lseek(fd, 0, SEEK_HOLE));
            err!(ENXIO, lseek(fd, 3, SEEK_DATA));
            err!(ENXIO, lseek(fd, 4, SEEK_HOLE));
            Ok(())
        },
    ),
    Case::new(
        "pread.keeps_offset",
        "pread(2)",
        "pread and pwrite leave the offset alone",
        || {
            let fd = put(c"f", b"abcdef")?;
            let mut b = [0u8; 2];
            gives!(2, pread(fd, b.as_mut_ptr().cast(), 2, 3));
            eq("bytes", b, *b"de")?;
            gives!(2, pwrite(fd, b"XY".as_ptr().cast(), 2, 0));
            gives!(0, lseek(fd, 0, SEEK_CUR));
            eq("content", slurp("f")?, "XYcdef".to_string())
        },
    ),
    Case::new(
        "pread.errors",
        "pread(2)",
        "EINVAL for a negative offset, ESPIPE on a pipe",
        || {
            let fd = put(c"f", b"abc")?;
            let mut b = [0u8; 2];
            err!(EINVAL, pread(fd, b.as_mut_ptr().cast(), 2, -1));
            err!(EINVAL, pwrite(fd, b.as_ptr().cast(), 2, -1));
            err!(ESPIPE, pread(pipe_pair()?.0, b.as_mut_ptr().cast(), 2, 0));
            gives!(0, pread(fd, b.as_mut_ptr().cast(), 2, 100));
            Ok(())
        },
    ),
    Case::new(
        "readv.scatter",
        "readv(2)",
        "buffers are filled in order",
        || {
            let fd = put(c"f", b"abcdef")?;
            let (mut a, mut b) = ([0u8; 2], [0u8; 3]);
            let iov = [vec_of(&mut a), vec_of(&mut []), vec_of(&mut b)];
            gives!(5, readv(fd, iov.as_ptr(), 3));
            eq("buffers", (a, b), (*b"ab", *b"cde"))?;
            gives!(1, preadv(fd, iov.as_ptr(), 3, 5));
            gives!(5, lseek(fd, 0, SEEK_CUR));
            Ok(())
        },
    ),
    Case::new(
        "readv.errors",
        "readv(2)",
        "EINVAL for 1025 or negative counts, EFAULT",
        || {
            let fd = put(c"f", b"abc")?;
            let iov = vec![
                iovec {
                    iov_base: null_mut(),
                    iov_len: 0
                };
                1025
            ];
            err!(EINVAL, readv(fd, iov.as_ptr(), 1025));
            gives!(0, readv(fd, iov.as_ptr(), 1024));
            gives!(0, readv(fd, iov.as_ptr(), 0));
            err!(EINVAL, syscall(SYS_readv, fd, iov.as_ptr(), -1isize));
            err!(EFAULT, readv(fd, bad_ptr(), 1));
            Ok(())
        },
    ),
    Case::new(
        "readv.length_overflow",
        "readv(2)",
        "lengths that overflow ssize_t give EINVAL",
        || {
            let fd = put(c"f", b"abc")?;
            let mut b = [0u8; 1];
            let mut iov = [vec_of(&mut b), vec_of(&mut b.clone())];
            iov[1].iov_len = usize::MAX;
            err!(EINVAL, readv(fd, iov.as_ptr(), 2));
            err!(EINVAL, writev(fd, iov.as_ptr(), 2));
            Ok(())
        },
    ),
    Case::new(
        "writev.gather",
        "writev(2)",
        "buffers are written in order",
        || {
            let fd = put(c"f", b"")?;
            let (mut a, mut b) = (*b"ab", *b"cde");
            let iov = [vec_of(&mut a), vec_of(&mut b)];
            gives!(5, writev(fd, iov.as_ptr(), 2));
            gives!(5, pwritev(fd, iov.as_ptr(), 2, 5));
            eq("content", slurp("f")?, "abcdeabcde".to_string())
        },
    ),
    Case::new(
        "preadv2.flags",
        "preadv2(2)",
        "offset -1 uses the offset; unknown flags EOPNOTSUPP",
        || {
            let fd = put(c"f", b"abcdef")?;
            let mut a = [0u8; 2];
            let iov = [vec_of(&mut a)];
            gives!(2, preadv2(fd, iov.as_ptr(), 1, -1, 0));
            gives!(2, lseek(fd, 0, SEEK_CUR));
            err!(EOPNOTSUPP, preadv2(fd, iov.as_ptr(), 1, 0, 1 << 30));
            gives!(2, pwritev2(fd, iov.as_ptr(), 1, 0, RWF_APPEND));
            eq("size", fstat_of(fd)?.st_size, 8)
        },
    ),
    Case::new(
        "preadv.negative_offset",
        "preadv(2)",
        "to preadv and pwritev -1 is no offset",
        || {
            let fd = put(c"f", b"abcdef")?;
            let mut a = [0u8; 2];
            let iov = [vec_of(&mut a)];
            for call in [SYS_preadv, SYS_pwritev] {
                err!(EINVAL, syscall(call, fd, iov.as_ptr(), 1, -1i64, -1i64));
            }
            Ok(())
        },
    ),
    Case::new(
        "fallocate.grow",
        "fallocate(2)",
        "mode 0 grows, FALLOC_FL_KEEP_SIZE does not",
        || {
            let fd = put(c"f", b"abc")?;
            let got = raw!(fallocate(fd, 0, 0, 8192));
            if got == -1 && errno() == EOPNOTSUPP {
                skip!("the scratch file system cannot fallocate");
            }
            succeeded("fallocate(fd, 0, 0, 8192)", got)?;
            eq("size", fstat_of(fd)?.st_size, 8192)?;
            ok!(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 16384));
            eq("size", fstat_of(fd)?.st_size, 8192)
        },
    ),
    Case::new(
        "fallocate.punch_hole",
        "fallocate(2)",
        "FALLOC_FL_PUNCH_HOLE zeroes a range",
        || {
            let fd = put(c"f", &[b'x'; 12288])?;
            let got = raw!(fallocate(
                fd,
                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                4096,
                4096
            ));
            if got == -1 && errno() == EOPNOTSUPP {
                skip!("the scratch file system cannot punch holes");
            }
            succeeded("fallocate(PUNCH_HOLE)", got)?;
            let all = read_some(fd, 12288)?;
            ensure!(
                all[4096..8192].iter().all(|b| *b == 0),
                "the hole is not all zeroes"
            );
            ensure!(
                all[4095] == b'x' && all[8192] == b'x',
                "the hole is too large"
            );
            Ok(())
        },
    ),
    Case::new(
        "fallocate.errors",
        "fallocate(2)",
        "EINVAL, EBADF, ESPIPE",
        || {
            let fd = put(c"f", b"")?;
            err!(EINVAL, fallocate(fd, 0, -1, 10));
            err!(EINVAL, fallocate(fd, 0, 0, 0));
            err!(EBADF, fallocate(-1, 0, 0, 10));
            err!(ESPIPE, fallocate(pipe_pair()?.1, 0, 0, 10));
            let fd = ok!(open(p(c"f"), O_RDONLY));
            err!(EBADF, fallocate(fd, 0, 0, 10));
            Ok(())
        },
    ),
    Case::new(
        "sendfile.file_to_pipe",
        "sendfile(2)",
        "sendfile copies and moves the right offset",
        || {
            let fd = put(c"f", b"abcdef")?;
            let (r, w) = pipe_pair()?;
            gives!(2, sendfile(w, fd, null_mut(), 2));
            gives!(2, lseek(fd, 0, SEEK_CUR));
            let mut at: off_t = 3;
            gives!(3, sendfile(w, fd, &mut at, 100));
            eq("offset variable", at, 6)?;
            gives!(2, lseek(fd, 0, SEEK_CUR));
            eq("bytes", read_some(r, 10)?, b"abdef".to_vec())
        },
    ),
    Case::new(
        "sendfile.errors",
        "sendfile(2)",
        "EBADF, EINVAL from a pipe, EINVAL to O_APPEND",
        || {
            let fd = put(c"f", b"abc")?;
            let (_r, w) = pipe_pair()?;
            err!(EBADF, sendfile(w, -1, null_mut(), 1));
            let read_only = ok!(open(p(c"f"), O_RDONLY));
            err!(EBADF, sendfile(read_only, fd, null_mut(), 1));
            let append = ok!(open(p(c"g"), O_WRONLY | O_CREAT | O_APPEND, 0o644));
            err!(EINVAL, sendfile(append, fd, null_mut(), 1));
            Ok(())
        },
    ),
    Case::new(
        "copy_file_range.copies",
        "copy_file_range(2)",
        "bytes are copied between files",
        || {
            let from = put(c"a", b"abcdef")?;
            let to = put(c"b", b"")?;
            let (mut at, mut into): (off64_t, off64_t) = (2, 1);
            let got = raw!(copy_file_range(from, &mut at, to, &mut into, 3, 0));
            if got == -1 && errno() == EOPNOTSUPP {
                skip!("the scratch file system cannot copy_file_range");
            }
            eq("copied", got, 3)?;
            eq("offsets", (at, into), (5, 4))?;
            eq("content", slurp("b")?, "\0cde".to_string())?;
            err!(EINVAL, copy_file_range(from, &mut at, to, &mut into, 3, 1));
            err!(
                EINVAL,
                copy_file_range(pipe_pair()?.0, null_mut(), to, null_mut(), 3, 0)
            );
            Ok(())
        },
    ),
    Case::new(
        "splice.pipe_to_file",
        "splice(2)",
        "splice moves between a pipe and a file",
        || {
            let (r, w) = pipe_pair()?;
            write_all(w, b"abcdef")?;
            let fd = put(c"f", b"")?;
            gives!(4, splice(r, null_mut(), fd, null_mut(), 4, 0));
            eq("content", slurp("f")?, "abcd".to_string())?;
            eq("left in the pipe", read_some(r, 10)?, b"ef".to_vec())?;
            gives!(0, lseek(fd, 0, SEEK_SET));
            gives!(4, splice(fd, null_mut(), w, null_mut(), 100, 0));
            eq("through the pipe", read_some(r, 10)?, b"abcd".to_vec())
        },
    ),
    Case::new(
        "splice.errors",
        "splice(2)",
        "EINVAL without a pipe, ESPIPE for an offset on one",
        || {
            let a = put(c"a", b"abc")?;
            let b = put(c"b", b"abc")?;
            let (r, w) = pipe_pair()?;
            err!(EINVAL, splice(a, null_mut(), b, null_mut(), 1, 0));
            let mut at: loff_t = 0;
            err!(ESPIPE, splice(r, &mut at, a, null_mut(), 1, 0));
            err!(EINVAL, splice(r, null_mut(), w, null_mut(), 1, 0));
            err!(
                EAGAIN,
                splice(r, null_mut(), a, null_mut(), 1, SPLICE_F_NONBLOCK)
            );
            Ok(())
        },
    ),
    Case::new(
        "splice.tee",
        "tee(2)",
        "tee copies without consuming",
        || {
            let (r, w) = pipe_pair()?;
            let (r2, w2) = pipe_pair()?;
            write_all(w, b"abc")?;
            gives!(3, tee(r, w2, 10, 0));
            eq("the copy", read_some(r2, 10)?, b"abc".to_vec())?;
            eq("the original", read_some(r, 10)?, b"abc".to_vec())
        },
    ),
    Case::new(
        "dup.shares_offset",
        "dup(2)",
        "duplicates share the file offset and flags",
        || {
            let a = put(c"f", b"abcdef")?;
            let b = ok!(dup(a));
            gives!(4, lseek(a, 4, SEEK_SET));
            gives!(4, lseek(b, 0, SEEK_CUR));
            ok!(fcntl(a, F_SETFL, O_APPEND));
            ensure!(
                ok!(fcntl(b, F_GETFL)) & O_APPEND != 0,
                "O_APPEND is not shared"
            );
            Ok(())
        },
    ),
    Case::new(
        "dup.cloexec_not_shared",
        "dup(2)",
        "a duplicate has close-on-exec off",
        || {
            let a = put(c"f", b"")?;
            ok!(fcntl(a, F_SETFD, FD_CLOEXEC));
            gives!(0, fcntl(ok!(dup(a)), F_GETFD));
            gives!(
                FD_CLOEXEC,
                fcntl(ok!(fcntl(a, F_DUPFD_CLOEXEC, 0)), F_GETFD)
            );
            Ok(())
        },
    ),
    Case::new(
        "dup.dup2_same",
        "dup2(2)",
        "dup2 onto itself does nothing, EBADF if closed",
        || {
            let a = put(c"f", b"")?;
            ok!(fcntl(a, F_SETFD, FD_CLOEXEC));
            gives!(a, syscall(SYS_dup2, a, a));
            gives!(FD_CLOEXEC, fcntl(a, F_GETFD));
            ok!(close(a));
            err!(EBADF, syscall(SYS_dup2, a, a));
            Ok(())
        },
    ),
    Case::new(
        "dup.dup2_replaces",
        "dup2(2)",
        "dup2 closes the target first",
        || {
            let (r, w) = pipe_pair()?;
            let fd = put(c"f", b"")?;
            gives!(w, dup2(fd, w));
            eq("end of file on the pipe", read_some(r, 1)?.len(), 0)
        },
    ),
    Case::new(
        "dup.dup3_errors",
        "dup3(2)",
        "EINVAL for equal descriptors or flags, EBADF",
        || {
            let a = put(c"f", b"")?;
            err!(EINVAL, dup3(a, a, 0));
            err!(EINVAL, dup3(a, a + 1, O_APPEND));
            err!(EBADF, dup3(-1, a, 0));
            err!(EBADF, dup2(a, -1));
            err!(EBADF, dup2(a, 1 << 30));
            err!(EBADF, dup(-1));
            Ok(())
        },
    ),
    Case::new(
        "fcntl.dupfd_min",
        "fcntl(2)",
        "F_DUPFD takes the lowest one from the argument up",
        || {
            let a = put(c"f", b"")?;
            gives!(50, fcntl(a, F_DUPFD, 50));
            gives!(51, fcntl(a, F_DUPFD, 50));
            err!(EINVAL, fcntl(a, F_DUPFD, -1));
            err!(EINVAL, fcntl(a, F_DUPFD, 1 << 30));
            Ok(())
        },
    ),
    Case::new(
        "fcntl.setfl",
        "fcntl(2)",
        "F_SETFL changes status flags only",
        || {
            let a = put(c"f", b"")?;
            ok!(fcntl(a, F_SETFL, O_NONBLOCK | O_WRONLY | O_CREAT));
            let flags = ok!(fcntl(a, F_GETFL));
            eq_octal("access mode", (flags & O_ACCMODE) as u32, O_RDWR as u32)?;
            ensure!(
                flags & O_NONBLOCK != 0,
                "O_NONBLOCK was not set: {flags:#o}"
            );
            Ok(())
        },
    ),
    Case::new(
        "fcntl.errors",
        "fcntl(2)",
        "EBADF and EINVAL for an unknown command",
        || {
            let a = put(c"f", b"")?;
            err!(EBADF, fcntl(-1, F_GETFD));
            err!(EINVAL, fcntl(a, 9999));
            Ok(())
        },
    ),
    Case::new(
        "ioctl.fionread",
        "ioctl(2)",
        "FIONREAD tells what can be read",
        || {
            let (r, w) = pipe_pair()?;
            write_all(w, b"abc")?;
            let mut n: c_int = 0;
            ok!(ioctl(r, FIONREAD, &raw mut n));
            eq("pipe", n, 3)?;
            let (a, b) = socket_pair(SOCK_STREAM)?;
            write_all(b, b"hello")?;
            ok!(ioctl(a, FIONREAD, &raw mut n));
            eq("socket", n, 5)
        },
    ),
    Case::new(
        "ioctl.errors",
        "ioctl(2)",
        "ENOTTY for a foreign request, EBADF",
        || {
            let a = put(c"f", b"")?;
            let mut t = zeroed::<termios>();
            err!(ENOTTY, ioctl(a, TCGETS, &raw mut t));
            err!(ENOTTY, ioctl(pipe_pair()?.0, TCGETS, &raw mut t));
            err!(EBADF, ioctl(-1, TCGETS, &raw mut t));
            gives!(0, isatty(a));
            Ok(())
        },
    ),
    Case::new(
        "ioctl.fioclex_fionbio",
        "ioctl(2)",
        "FIOCLEX, FIONCLEX and FIONBIO set the flags",
        || {
            let (r, _) = pipe_pair()?;
            ok!(ioctl(r, FIONCLEX));
            gives!(0, fcntl(r, F_GETFD));
            ok!(ioctl(r, FIOCLEX));
            gives!(FD_CLOEXEC, fcntl(r, F_GETFD));
            let on: c_int = 1;
            ok!(ioctl(r, FIONBIO, &raw const on));
            let mut b = 0u8;
            err!(EAGAIN, read(r, (&raw mut b).cast(), 1));
            Ok(())
        },
    ),
    Case::new(
        "fadvise.errors",
        "posix_fadvise(2)",
        "EINVAL for advice, ESPIPE on a pipe",
        || {
            let a = put(c"f", b"abc")?;
            eq(
                "good",
                raw!(posix_fadvise(a, 0, 0, POSIX_FADV_SEQUENTIAL)),
                0,
            )?;
            eq("bad advice", raw!(posix_fadvise(a, 0, 0, 99)), EINVAL)?;
            eq("pipe", raw!(posix_fadvise(pipe_pair()?.0, 0, 0, 0)), ESPIPE)?;
            eq("bad fd", raw!(posix_fadvise(-1, 0, 0, 0)), EBADF)
        },
    ),
];
