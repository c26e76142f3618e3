//! seccomp_unotify(2): a thread's calls are decided by another one.

use std::ffi::CString;
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::case::*;

const RECV: c_ulong = 0xC050_2100;
const SEND: c_ulong = 0xC018_2101;
const ID_VALID: c_ulong = 0x4008_2102;
const ADDFD: c_ulong = 0x4018_2103;
const NEW_LISTENER: c_ulong = 1 << 3;
const TSYNC_ESRCH: c_ulong = 1 << 4;
const WAIT_KILLABLE: c_ulong = 1 << 5;

/// struct seccomp_notif.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Notif {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    ip: u64,
    args: [u64; 6],
}

/// struct seccomp_notif_resp.
#[repr(C)]
struct Resp {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

/// struct seccomp_notif_addfd.
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    new: u32,
    new_flags: u32,
}

/// Installs a filter that has mkdir(2) asked about.
fn install(flags: c_ulong) -> c_long {
    let stmt = |code: u32, jf, k| sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let program = [
        stmt(BPF_LD | BPF_W | BPF_ABS, 0, 0),
        stmt(BPF_JMP | BPF_JEQ | BPF_K, 1, SYS_mkdir as u32),
        stmt(BPF_RET | BPF_K, 0, SECCOMP_RET_USER_NOTIF),
        stmt(BPF_RET | BPF_K, 0, SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    raw!(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    let program: *const sock_fprog = &program;
    let set = SECCOMP_SET_MODE_FILTER;
    raw!(syscall(SYS_seccomp, set, flags, program))
}

/// A call that is asked about: what it gives, and errno.
fn ask(name: &str) -> (c_long, i32) {
    let name = CString::new(name).unwrap_or_default();
    set_errno(0);
    let given = raw!(syscall(SYS_mkdir, name.as_ptr(), 0o700));
    (given, errno())
}

/// A thread with a filter and what it runs; the descriptor of the listener, and the thread's id.
fn asking<T: Send + 'static>(
    flags: c_ulong,
    calls: impl FnOnce() -> T + Send + 'static,
) -> Outcome<(c_int, pid_t, JoinHandle<T>)> {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let fd = install(NEW_LISTENER | flags);
        let _ = tell.send((fd as c_int, raw!(gettid()), errno()));
        calls()
    });
    match told.recv() {
        Ok((fd, tid, _)) if fd >= 0 => Ok((fd, tid, thread)),
        other => fail!("no listener: {other:?}"),
    }
}

fn joined<T>(thread: JoinHandle<T>) -> Outcome<T> {
    match thread.join() {
        Ok(value) => Ok(value),
        Err(_) => fail!("the thread panicked"),
    }
}

fn receive(fd: c_int) -> Outcome<Notif> {
    let mut notif = Notif::default();
    let at: *mut Notif = &mut notif;
    ok!(ioctl(fd, RECV, at));
    Ok(notif)
}

fn send(fd: c_int, id: u64, val: i64, error: i32, flags: u32) -> c_int {
    let resp = Resp {
        id,
        val,
        error,
        flags,
    };
    let at: *const Resp = &resp;
    raw!(ioctl(fd, SEND, at))
}

fn is_valid(fd: c_int, id: u64) -> (c_int, i32) {
    set_errno(0);
    let at: *const u64 = &id;
    let given = raw!(ioctl(fd, ID_VALID, at));
    (given, errno())
}

fn polled(fd: c_int, timeout: c_int) -> Outcome<i16> {
    let mut poll = pollfd {
        fd,
        events: POLLIN | POLLOUT,
        revents: 0,
    };
    let at: *mut pollfd = &mut poll;
    ok!(poll(at, 1, timeout));
    Ok(poll.revents)
}

pub const CASES: &[Case] = &[
    Case::new(
        "unotify.answers",
        "seccomp_unotify(2)",
        "a listener gives values, errors, or lets the call be made; its end is ENOSYS",
        || {
            in_child(|| {
                let calls = || ["a", "b", "c", "d", "e"].map(ask);
                let (fd, tid, thread) = asking(0, calls)?;
                eq("poll", polled(fd, -1)?, POLLIN)?;
                let first = receive(fd)?;
                let seen = (first.pid, first.flags, first.nr, first.arch, first.args[1]);
                let want = (tid as u32, 0, SYS_mkdir as i32, 0xC000_003E, 0o700);
                eq("notification", seen, want)?;
                eq("poll", polled(fd, -1)?, POLLOUT)?;
                eq("valid", is_valid(fd, first.id), (0, 0))?;
                returned("send", send(fd, first.id, 55, 0, 0), 0)?;
                let second = receive(fd)?;
                eq("valid", is_valid(fd, first.id), (-1, ENOENT))?;
                failed_with("again", send(fd, first.id, 0, 0, 0), &[ENOENT])?;
                returned("send", send(fd, second.id, 0, -EXDEV, 0), 0)?;
                let third = receive(fd)?;
                returned("continue", send(fd, third.id, 0, 0, 1), 0)?;
                receive(fd)?;
                ok!(close(fd));
                let given = joined(thread)?;
                let (gone, there) = ((-1, ENOSYS), (0, 0));
                eq("calls", given, [(55, 0), (-1, EXDEV), there, gone, gone])?;
                ok!(rmdir(c"c".as_ptr()));
                err!(ENOENT, rmdir(c"a".as_ptr()));
                Ok(())
            })
        },
    ),
    Case::new(
        "unotify.errors",
        "seccomp_unotify(2)",
        "EINVAL, EBUSY, EINPROGRESS, ENOENT, EFAULT where Linux has them",
        || {
            in_child(|| {
                let mut sizes = [0u16; 3];
                let at: *mut u16 = sizes.as_mut_ptr();
                ok!(syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, at));
                eq("sizes", sizes, [80, 24, 64])?;
                err!(EINVAL, syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 1, at));
                let action = SECCOMP_RET_USER_NOTIF;
                let at: *const u32 = &action;
                ok!(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, at));
                for flags in [WAIT_KILLABLE, NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC] {
                    failed_with("flags", install(flags), &[EINVAL])?;
                }
                let both = NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC | TSYNC_ESRCH;
                let (go, wait) = mpsc::channel::<()>();
                let calls = move || {
                    let again = (install(NEW_LISTENER), errno());
                    let _ = wait.recv();
                    (again, ask("a"))
                };
                let (fd, _, thread) = asking(0, calls)?;
                eq("flags", ok!(fcntl(fd, F_GETFD)), FD_CLOEXEC)?;
                let mut garbage = Notif {
                    id: 1,
                    ..Notif::default()
                };
                let at: *mut Notif = &mut garbage;
                err!(EINVAL, ioctl(fd, RECV, at));
                err!(EFAULT, ioctl(fd, RECV, bad_ptr::<Notif>()));
                err!(EINVAL, ioctl(fd, 0x2107, 0));
                let _ = go.send(());
                eq("poll", polled(fd, -1)?, POLLIN)?;
                let mut notif = receive(fd)?;
                failed_with("send", send(fd, notif.id, 1, 0, 1), &[EINVAL])?;
                failed_with("send", send(fd, notif.id, 0, 0, 2), &[EINVAL])?;
                failed_with("send", send(fd, !notif.id, 0, 0, 0), &[ENOENT])?;
                eq("valid", is_valid(fd, !notif.id), (-1, ENOENT))?;
                notif.flags = 0;
                let mut add = AddFd {
                    id: notif.id,
                    flags: 4,
                    source: 0,
                    new: 0,
                    new_flags: 0,
                };
                let mut failing = |change: &dyn Fn(&mut AddFd), errno| {
                    let before = (add.id, add.flags, add.source, add.new, add.new_flags);
                    change(&mut add);
                    let at: *const AddFd = &add;
                    failed_with("addfd", raw!(ioctl(fd, ADDFD, at)), &[errno])?;
                    (add.id, add.flags, add.source, add.new, add.new_flags) = before;
                    add.flags = 0;
                    Ok(())
                };
                failing(&|_| {}, EINVAL)?;
                failing(&|a| a.new = 7, EINVAL)?;
                failing(&|a| a.new_flags = O_NONBLOCK as u32, EINVAL)?;
                failing(&|a| a.source = 999, EBADF)?;
                failing(&|a| a.id = !a.id, ENOENT)?;
                returned("send", send(fd, notif.id, 3, 0, 0), 0)?;
                eq("calls", joined(thread)?, ((-1, EBUSY), (3, 0)))?;
                // A listener whom nobody can ask any more.
                eq("poll", polled(fd, -1)? & POLLHUP, POLLHUP)?;
                let mut notif = Notif::default();
                let at: *mut Notif = &mut notif;
                err!(ENOENT, ioctl(fd, RECV, at));
                ok!(close(fd));
                let fd = install(both);
                eq("with TSYNC", fd >= 0, true)
            })
        },
    ),
    Case::new(
        "unotify.addfd",
        "seccomp_unotify(2)",
        "SECCOMP_IOCTL_NOTIF_ADDFD gives the one who asks a descriptor, and the answer with it",
        || {
            // Two processes: descriptors of threads are the same anyway.
            in_child(|| {
                let fd = install(NEW_LISTENER) as c_int;
                eq("listener", fd >= 0, true)?;
                let pid = child(|| {
                    let (given, _) = ask("a");
                    let mut text = [0u8; 5];
                    let read = raw!(read(given as c_int, text.as_mut_ptr().cast(), 5));
                    if given < 0 || read != 5 || text != *b"hello" {
                        return 1;
                    }
                    let cloexec = raw!(fcntl(given as c_int, F_GETFD)) == FD_CLOEXEC;
                    let (second, _) = ask("b");
                    let there = raw!(fcntl(77, F_GETFD)) == 0;
                    i32::from(!(cloexec && second == 4 && there)) * 2
                })?;
                let (r, w) = pipe_pair()?;
                write_all(w, b"hello")?;
                let notif = receive(fd)?;
                eq("pid", notif.pid, pid as u32)?;
                let mut add = AddFd {
                    id: notif.id,
                    flags: 2,
                    source: r as u32,
                    new: 0,
                    new_flags: O_CLOEXEC as u32,
                };
                let at: *const AddFd = &add;
                let given = ok!(ioctl(fd, ADDFD, at));
                eq("a free number", given > 2, true)?;
                failed_with(
                    "answered",
                    send(fd, notif.id, 0, 0, 0),
                    &[ENOENT, EINPROGRESS],
                )?;
                let notif = receive(fd)?;
                add = AddFd {
                    id: notif.id,
                    flags: 1,
                    new: 77,
                    new_flags: 0,
                    ..add
                };
                let at: *const AddFd = &add;
                returned("addfd", raw!(ioctl(fd, ADDFD, at)), 77)?;
                returned("send", send(fd, notif.id, 4, 0, 0), 0)?;
                expect_exit(pid, 0)
            })
        },
    ),
    Case::new(
        "unotify.signals",
        "seccomp_unotify(2)",
        "a signal takes the question back; with WAIT_KILLABLE_RECV not once it was received",
        || {
            in_child(|| {
                catch(SIGUSR1, 0)?;
                let me = getpid_now();
                let (fd, tid, thread) = asking(0, || ask("a"))?;
                let notif = receive(fd)?;
                ok!(syscall(SYS_tgkill, me, tid, SIGUSR1));
                eq("interrupted", joined(thread)?, (-1, EINTR))?;
                eq("valid", is_valid(fd, notif.id), (-1, ENOENT))?;
                ok!(close(fd));
                let (fd, tid, thread) = asking(WAIT_KILLABLE, || {
                    let given = ask("a");
                    (given, caught())
                })?;
                let notif = receive(fd)?;
                ok!(syscall(SYS_tgkill, me, tid, SIGUSR1));
                eq("valid", is_valid(fd, notif.id), (0, 0))?;
                returned("send", send(fd, notif.id, 9, 0, 0), 0)?;
                eq("answered", joined(thread)?, ((9, 0), 2))?;
                // SA_RESTART: it asks again.
                catch(SIGUSR1, SA_RESTART)?;
                let (fd, tid, thread) = asking(0, || ask("a"))?;
                let first = receive(fd)?;
                ok!(syscall(SYS_tgkill, me, tid, SIGUSR1));
                let second = receive(fd)?;
                eq("another question", first.id == second.id, false)?;
                returned("send", send(fd, second.id, 8, 0, 0), 0)?;
                eq("answered", joined(thread)?, (8, 0))?;
                // The end needs no answer.
                let pid = child(|| {
                    let Ok((fd, ..)) = asking(WAIT_KILLABLE, || ask("a")) else {
                        return 1;
                    };
                    let _ = receive(fd);
                    raw!(kill(raw!(getpid()), SIGKILL));
                    0
                })?;
                expect_signal(pid, SIGKILL)
            })
        },
    ),
];
