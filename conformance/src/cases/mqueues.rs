//! POSIX message queues: mq_overview(7).

use crate::case::*;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// A name of this case's own, with the slash that the C library takes away.
fn own_name(what: &str) -> std::ffi::CString {
    cstring(format!("/runsc-rs-{}-{what}", getpid_now()))
}

fn attr(messages: i64, bytes: i64) -> mq_attr {
    let mut attr = zeroed::<mq_attr>();
    attr.mq_maxmsg = messages;
    attr.mq_msgsize = bytes;
    attr
}

/// A new queue without a name.
fn queue(flags: c_int, messages: i64, bytes: i64) -> Outcome<mqd_t> {
    let name = own_name("queue");
    let mut attr = attr(messages, bytes);
    let flags = flags | O_CREAT | O_EXCL;
    let q = ok!(mq_open(p(&name), flags, 0o600, &raw mut attr));
    ok!(mq_unlink(p(&name)));
    Ok(q)
}

fn send(q: mqd_t, text: &str, priority: u32) -> Outcome {
    ok!(mq_send(q, text.as_ptr().cast(), text.len(), priority));
    Ok(())
}

fn receive(q: mqd_t) -> Outcome<(String, u32)> {
    let mut buf = [0u8; 8192];
    let mut priority = 77;
    let n = ok!(mq_receive(
        q,
        buf.as_mut_ptr().cast(),
        buf.len(),
        &raw mut priority
    ));
    let text = String::from_utf8_lossy(&buf[..n as usize]).into_owned();
    Ok((text, priority))
}

fn count(q: mqd_t) -> Outcome<i64> {
    let mut attr = zeroed::<mq_attr>();
    ok!(mq_getattr(q, &raw mut attr));
    Ok(attr.mq_curmsgs)
}

/// The real clock in so many milliseconds.
fn soon(ms: i64) -> Outcome<timespec> {
    let at = ns(now(CLOCK_REALTIME)?) + ms * 1_000_000;
    Ok(timespec {
        tv_sec: at / 1_000_000_000,
        tv_nsec: at % 1_000_000_000,
    })
}

static SEEN: AtomicU32 = AtomicU32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicU64 = AtomicU64::new(0);
static SENDER: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    let info = unsafe { &*info };
    CODE.store(info.si_code, Ordering::SeqCst);
    let (value, pid) = unsafe { (info.si_value().sival_ptr as u64, info.si_pid()) };
    VALUE.store(value, Ordering::SeqCst);
    SENDER.store(pid, Ordering::SeqCst);
    SEEN.fetch_add(1, Ordering::SeqCst);
}

fn catch(signal: c_int) -> Outcome {
    let mut action = zeroed::<sigaction>();
    action.sa_sigaction = note as *const () as usize;
    action.sa_flags = SA_SIGINFO;
    ok!(sigaction(signal, &raw const action, null_mut()));
    Ok(())
}

fn by_signal(signal: c_int, value: usize) -> sigevent {
    let mut event = zeroed::<sigevent>();
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = signal;
    event.sigev_value.sival_ptr = value as *mut c_void;
    event
}

/// Where a file system of queues is mounted; in a mount namespace of its own if there was none.
fn shown_at() -> Outcome<String> {
    for line in slurp("/proc/self/mounts")?.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(place), Some("mqueue")) = (words.next(), words.next()) {
            return Ok(place.to_string());
        }
    }
    ok!(unshare(CLONE_NEWNS));
    let private = MS_REC | MS_PRIVATE;
    ok!(mount(null(), p(c"/"), null(), private, null()));
    mkdir_at(c"mnt")?;
    let kind = p(c"mqueue");
    ok!(mount(kind.cast(), p(c"mnt"), kind, 0, null()));
    Ok("mnt".to_string())
}

pub static CASES: &[Case] = &[
    Case::new(
        "mqueue.priorities",
        "mq_receive(3)",
        "the oldest message of the highest priority comes first",
        || {
            let q = queue(O_RDWR, 8, 100)?;
            for (text, priority) in [("a", 1), ("b", 5), ("c", 1), ("", 32767), ("d", 5)] {
                send(q, text, priority)?;
            }
            eq("count", count(q)?, 5)?;
            for (text, priority) in [("", 32767), ("b", 5), ("d", 5), ("a", 1), ("c", 1)] {
                eq("message", receive(q)?, (text.to_string(), priority))?;
            }
            eq("count", count(q)?, 0)?;
            // A priority nobody asks for.
            send(q, "x", 3)?;
            let mut buf = [0u8; 100];
            gives!(1, mq_receive(q, buf.as_mut_ptr().cast(), 100, null_mut()));
            Ok(())
        },
    ),
    Case::new(
        "mqueue.open",
        "mq_open(3)",
        "errors of mq_open and mq_unlink",
        || {
            let name = own_name("open");
            let none = null_mut::<mq_attr>();
            err!(ENOENT, mq_open(p(&name), O_RDWR));
            err!(ENOENT, mq_unlink(p(&name)));
            let q = ok!(mq_open(p(&name), O_RDWR | O_CREAT, 0o600, none));
            eq("close-on-exec", raw!(fcntl(q, F_GETFD)), FD_CLOEXEC)?;
            let flags = O_RDWR | O_CREAT | O_EXCL;
            err!(EEXIST, mq_open(p(&name), flags, 0o600, none));
            let again = ok!(mq_open(p(&name), O_RDONLY));
            send(q, "x", 0)?;
            ok!(mq_unlink(p(&name)));
            err!(ENOENT, mq_open(p(&name), O_RDWR));
            // What is open lives on.
            eq("message", receive(again)?, ("x".to_string(), 0))?;
            for (messages, bytes) in [(0, 10), (10, 0), (-1, 10), (10, -1), (1 << 40, 10)] {
                let mut attr = attr(messages, bytes);
                let flags = O_RDWR | O_CREAT;
                err!(EINVAL, mq_open(p(&name), flags, 0o600, &raw mut attr));
            }
            let bad = bad_ptr::<mq_attr>();
            err!(EFAULT, mq_open(p(&name), O_RDWR | O_CREAT, 0o600, bad));
            Ok(())
        },
    ),
    Case::new(
        "mqueue.names",
        "mq_open(2)",
        "the system call takes a name without slashes of at most 255 bytes",
        || {
            let open = |name: &std::ffi::CStr| unsafe {
                syscall(SYS_mq_open, name.as_ptr(), O_RDWR, 0, null::<mq_attr>())
            };
            let gives = |name: &str, errno: i32| failed_with(name, open(&cstring(name)), &[errno]);
            gives("", ENOENT)?;
            gives("/a", EACCES)?;
            gives("a/b", EACCES)?;
            gives(".", EACCES)?;
            gives("..", EACCES)?;
            gives(&"n".repeat(255), ENOENT)?;
            gives(&"n".repeat(256), ENAMETOOLONG)?;
            gives(&"n".repeat(5000), ENAMETOOLONG)?;
            let unlink = |name: *const c_char| unsafe { syscall(SYS_mq_unlink, name) };
            failed_with("slash", unlink(p(c"/a")), &[EACCES])?;
            failed_with("nowhere", unlink(bad_ptr()), &[EFAULT])
        },
    ),
    Case::new(
        "mqueue.send_errors",
        "mq_send(3)",
        "errors of mq_send and mq_timedsend",
        || {
            let q = queue(O_WRONLY, 1, 4)?;
            let text = c"12345".as_ptr();
            err!(EMSGSIZE, mq_send(q, text, 5, 0));
            err!(EINVAL, mq_send(q, text, 4, 32768));
            err!(EFAULT, mq_send(q, bad_ptr(), 4, 0));
            let mut buf = [0i8; 8];
            err!(EBADF, mq_receive(q, buf.as_mut_ptr().cast(), 8, null_mut()));
            err!(EBADF, mq_send(-1, text, 1, 0));
            let (_, w) = pipe_pair()?;
            err!(EBADF, mq_send(w, text, 1, 0));
            ok!(mq_send(q, text, 4, 0));
            let late = soon(20)?;
            err!(ETIMEDOUT, mq_timedsend(q, text, 1, 0, &raw const late));
            ensure!(
                ns(now(CLOCK_REALTIME)?) >= ns(late),
                "returned before the time"
            );
            err!(ETIMEDOUT, mq_timedsend(q, text, 1, 0, &raw const late));
            for tv_nsec in [-1, 1_000_000_000] {
                let bad = timespec { tv_sec: 1, tv_nsec };
                err!(EINVAL, mq_timedsend(q, text, 1, 0, &raw const bad));
            }
            err!(EFAULT, mq_timedsend(q, text, 1, 0, bad_ptr()));
            let mut nonblocking = zeroed::<mq_attr>();
            nonblocking.mq_flags = i64::from(O_NONBLOCK);
            ok!(mq_setattr(q, &raw const nonblocking, null_mut()));
            err!(EAGAIN, mq_send(q, text, 1, 0));
            Ok(())
        },
    ),
    Case::new(
        "mqueue.receive_errors",
        "mq_receive(3)",
        "errors of mq_receive and mq_timedreceive",
        || {
            let q = queue(O_RDWR, 2, 16)?;
            let mut buf = [0u8; 16];
            let at = buf.as_mut_ptr().cast();
            err!(EMSGSIZE, mq_receive(q, at, 15, null_mut()));
            let late = soon(20)?;
            err!(
                ETIMEDOUT,
                mq_timedreceive(q, at, 16, null_mut(), &raw const late)
            );
            let bad = timespec {
                tv_sec: -1,
                tv_nsec: 0,
            };
            err!(
                EINVAL,
                mq_timedreceive(q, at, 16, null_mut(), &raw const bad)
            );
            send(q, "lost", 0)?;
            err!(EFAULT, mq_receive(q, bad_ptr(), 16, null_mut()));
            eq("count", count(q)?, 0)?;
            let reader = queue(O_RDONLY | O_NONBLOCK, 2, 16)?;
            err!(EAGAIN, mq_receive(reader, at, 16, null_mut()));
            err!(EBADF, mq_send(reader, c"x".as_ptr(), 1, 0));
            Ok(())
        },
    ),
    Case::new(
        "mqueue.attributes",
        "mq_getattr(3)",
        "size and flags; only O_NONBLOCK can be set",
        || {
            let q = queue(O_RDWR, 3, 33)?;
            let mut old = zeroed::<mq_attr>();
            let mut new = attr(7, 7);
            new.mq_flags = i64::from(O_NONBLOCK);
            ok!(mq_setattr(q, &raw const new, &raw mut old));
            let all = |a: mq_attr| (a.mq_flags, a.mq_maxmsg, a.mq_msgsize, a.mq_curmsgs);
            eq("before", all(old), (0, 3, 33, 0))?;
            ok!(mq_getattr(q, &raw mut old));
            eq("after", all(old), (i64::from(O_NONBLOCK), 3, 33, 0))?;
            eq("flags", raw!(fcntl(q, F_GETFL)) & O_NONBLOCK, O_NONBLOCK)?;
            new.mq_flags = i64::from(O_APPEND);
            err!(EINVAL, mq_setattr(q, &raw const new, null_mut()));
            let (r, _) = pipe_pair()?;
            err!(EBADF, mq_getattr(r, &raw mut old));
            let name = own_name("default");
            let none = null_mut::<mq_attr>();
            let q = ok!(mq_open(p(&name), O_RDWR | O_CREAT, 0o600, none));
            ok!(mq_unlink(p(&name)));
            ok!(mq_getattr(q, &raw mut old));
            let setting = |name: &str| -> Outcome<i64> {
                let text = slurp(&format!("/proc/sys/fs/mqueue/{name}"))?;
                Ok(text.trim().parse().unwrap_or(-1))
            };
            let most = setting("msg_default")?.min(setting("msg_max")?);
            let bytes = setting("msgsize_default")?.min(setting("msgsize_max")?);
            eq("default", all(old), (0, most, bytes, 0))
        },
    ),
    Case::new(
        "mqueue.waits",
        "mq_send(3)",
        "a receiver waits for a message, a sender for room",
        || {
            let q = queue(O_RDWR, 1, 16)?;
            let me = getpid_now();
            let pid = child(|| {
                let asleep = until_asleep(me);
                i32::from(asleep.is_err() || send(q, "first", 4).is_err())
            })?;
            eq("message", receive(q)?, ("first".to_string(), 4))?;
            expect_exit(pid, 0)?;
            send(q, "second", 0)?;
            let pid = child(|| {
                let asleep = until_asleep(me);
                i32::from(asleep.is_err() || receive(q).is_err())
            })?;
            send(q, "third", 0)?;
            expect_exit(pid, 0)?;
            eq("message", receive(q)?, ("third".to_string(), 0))
        },
    ),
    Case::new(
        "mqueue.interrupted",
        "mq_receive(3)",
        "a signal handler interrupts a wait",
        || {
            let q = queue(O_RDWR, 1, 16)?;
            catch(SIGUSR1)?;
            let me = getpid_now();
            let pid = child(|| {
                let asleep = until_asleep(me);
                i32::from(asleep.is_err() || raw!(kill(me, SIGUSR1)) != 0)
            })?;
            let mut buf = [0u8; 16];
            err!(
                EINTR,
                mq_receive(q, buf.as_mut_ptr().cast(), 16, null_mut())
            );
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "mqueue.notification",
        "mq_notify(3)",
        "a signal for the first message in an empty queue, once",
        || {
            let q = queue(O_RDWR, 4, 16)?;
            catch(SIGUSR1)?;
            let event = by_signal(SIGUSR1, 0x1234_5678_9abc);
            ok!(mq_notify(q, &raw const event));
            err!(EBUSY, mq_notify(q, &raw const event));
            let other = in_child(|| {
                err!(EBUSY, mq_notify(q, &raw const event));
                // Not its own to take back.
                ok!(mq_notify(q, null()));
                Ok(())
            });
            other?;
            let sender = child(|| i32::from(send(q, "one", 0).is_err()))?;
            expect_exit(sender, 0)?;
            eq("signals", SEEN.load(Ordering::SeqCst), 1)?;
            eq("code", CODE.load(Ordering::SeqCst), SI_MESGQ)?;
            eq("value", VALUE.load(Ordering::SeqCst), 0x1234_5678_9abc)?;
            eq("sender", SENDER.load(Ordering::SeqCst), sender)?;
            // Registered for an empty queue only, and only once.
            receive(q)?;
            send(q, "two", 0)?;
            eq("signals", SEEN.load(Ordering::SeqCst), 1)?;
            ok!(mq_notify(q, &raw const event));
            send(q, "three", 0)?;
            eq("signals", SEEN.load(Ordering::SeqCst), 1)?;
            receive(q)?;
            receive(q)?;
            send(q, "four", 0)?;
            eq("signals", SEEN.load(Ordering::SeqCst), 2)?;
            // Taken back.
            ok!(mq_notify(q, &raw const event));
            ok!(mq_notify(q, null()));
            receive(q)?;
            send(q, "five", 0)?;
            eq("signals", SEEN.load(Ordering::SeqCst), 2)
        },
    ),
    Case::new(
        "mqueue.notification_and_receiver",
        "mq_notify(3)",
        "nobody is notified of a message that somebody waits for",
        || {
            let q = queue(O_RDWR, 4, 16)?;
            catch(SIGUSR1)?;
            let event = by_signal(SIGUSR1, 1);
            ok!(mq_notify(q, &raw const event));
            let pid = child(|| i32::from(receive(q).is_err()))?;
            until_asleep(pid)?;
            send(q, "his", 0)?;
            expect_exit(pid, 0)?;
            eq("signals", SEEN.load(Ordering::SeqCst), 0)?;
            send(q, "ours", 0)?;
            eq("signals", SEEN.load(Ordering::SeqCst), 1)
        },
    ),
    Case::new(
        "mqueue.notification_ends",
        "mq_notify(3)",
        "errors of mq_notify; closing a descriptor takes it back",
        || {
            let q = queue(O_RDWR, 4, 16)?;
            catch(SIGUSR1)?;
            let mut event = by_signal(65, 1);
            err!(EINVAL, mq_notify(q, &raw const event));
            event.sigev_notify = 99;
            err!(EINVAL, mq_notify(q, &raw const event));
            let raw = unsafe { syscall(SYS_mq_notify, q, bad_ptr::<sigevent>()) };
            failed_with("mq_notify", raw, &[EFAULT])?;
            let event = by_signal(SIGUSR1, 1);
            let (r, _) = pipe_pair()?;
            err!(EBADF, mq_notify(r, &raw const event));
            ok!(mq_notify(q, &raw const event));
            let second = ok!(dup(q));
            ok!(close(second));
            send(q, "x", 0)?;
            eq("signals", SEEN.load(Ordering::SeqCst), 0)?;
            // One that has asked for nothing but to be alone.
            let mut quiet = zeroed::<sigevent>();
            quiet.sigev_notify = SIGEV_NONE;
            let pid = child(|| raw!(mq_notify(q, &raw const quiet)))?;
            expect_exit(pid, 0)?;
            ok!(mq_notify(q, &raw const quiet));
            err!(EBUSY, mq_notify(q, &raw const event));
            Ok(())
        },
    ),
    Case::new(
        "mqueue.poll",
        "mq_overview(7)",
        "readable with a message, writable with room",
        || {
            let q = queue(O_RDWR, 1, 16)?;
            let mut fds = [pollfd {
                fd: q,
                events: POLLIN | POLLOUT,
                revents: 0,
            }];
            gives!(1, poll(fds.as_mut_ptr(), 1, 0));
            eq("empty", fds[0].revents, POLLOUT)?;
            send(q, "x", 0)?;
            gives!(1, poll(fds.as_mut_ptr(), 1, 0));
            eq("full", fds[0].revents, POLLIN)
        },
    ),
    Case::new(
        "mqueue.limits",
        "mq_overview(7)",
        "settings and RLIMIT_MSGQUEUE bind users without rights",
        || {
            as_user(|| {
                let name = own_name("limits");
                let most = slurp("/proc/sys/fs/mqueue/msg_max")?;
                let most: i64 = most.trim().parse().unwrap_or(0);
                let mut more = attr(most + 1, 16);
                let flags = O_RDWR | O_CREAT;
                err!(EINVAL, mq_open(p(&name), flags, 0o600, &raw mut more));
                let none = rlimit {
                    rlim_cur: 1000,
                    rlim_max: 1000,
                };
                ok!(setrlimit(RLIMIT_MSGQUEUE, &raw const none));
                let mut fits = attr(2, 400);
                // Two messages cost 2 * (48 + 48) more than their text.
                let q = ok!(mq_open(p(&name), flags, 0o600, &raw mut fits));
                ok!(mq_unlink(p(&name)));
                let mut small = attr(1, 1);
                err!(EMFILE, mq_open(p(&name), flags, 0o600, &raw mut small));
                ok!(mq_close(q));
                let mut much = attr(2, 405);
                err!(EMFILE, mq_open(p(&name), flags, 0o600, &raw mut much));
                Ok(())
            })
        },
    ),
    Case::new(
        "mqueue.rights",
        "mq_open(3)",
        "mode, umask and owner decide",
        || {
            need_root()?;
            let name = own_name("rights");
            let none = null_mut::<mq_attr>();
            raw!(umask(0o22));
            let q = ok!(mq_open(p(&name), O_RDWR | O_CREAT, 0o666, none));
            let st = fstat_of(q)?;
            eq_octal("mode", st.st_mode, S_IFREG | 0o644)?;
            eq("size", st.st_size, 80)?;
            let denied = as_user(|| {
                ok!(mq_open(p(&name), O_RDONLY));
                err!(EACCES, mq_open(p(&name), O_RDWR));
                // The C library has made this of EPERM.
                err!(EACCES, mq_unlink(p(&name)));
                let name = name.as_ptr().wrapping_add(1);
                let raw = unsafe { syscall(SYS_mq_unlink, name) };
                failed_with("mq_unlink", raw, &[EPERM])
            });
            ok!(mq_unlink(p(&name)));
            eq("links", fstat_of(q)?.st_nlink, 0)?;
            denied
        },
    ),
    Case::new(
        "mqueue.file_system",
        "mq_overview(7)",
        "a mount shows the queues, and their states to readers",
        || {
            need_root()?;
            in_child(|| {
                let top = shown_at()?;
                let name = own_name("shown");
                let mut size = attr(4, 16);
                let flags = O_RDWR | O_CREAT | O_EXCL;
                let q = ok!(mq_open(p(&name), flags, 0o640, &raw mut size));
                let path = cstring([top.as_bytes(), name.as_bytes()].concat());
                let st = stat_of(&path)?;
                eq_octal("mode", st.st_mode, S_IFREG | 0o640)?;
                send(q, "abc", 1)?;
                send(q, "de", 1)?;
                let event = by_signal(SIGUSR1, 0);
                ok!(mq_notify(q, &raw const event));
                let text = slurp(&path.to_string_lossy())?;
                let me = getpid_now();
                let want = format!(
                    "QSIZE:{:<10} NOTIFY:{:<5} SIGNO:{:<5} NOTIFY_PID:{me:<6}\n",
                    5, 0, SIGUSR1
                );
                eq("state", text, want)?;
                // Made and removed by ordinary calls, too.
                ok!(unlink(p(&path)));
                err!(ENOENT, mq_open(p(&name), O_RDWR));
                let made = ok!(open(p(&path), O_RDWR | O_CREAT | O_EXCL, 0o600));
                err!(EINVAL, write(made, c"x".as_ptr().cast(), 1));
                send(made, "by any descriptor", 0)?;
                let again = ok!(mq_open(p(&name), O_RDWR));
                eq("count", count(again)?, 1)?;
                ok!(mq_unlink(p(&name)));
                err!(ENOENT, stat(p(&path), &mut zeroed::<libc::stat>()));
                let dir = cstring(format!("{top}/dir"));
                err!(EPERM, mkdir(p(&dir), 0o755));
                Ok(())
            })
        },
    ),
];
