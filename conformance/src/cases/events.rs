//! eventfd(2), timerfd_create(2), signalfd(2), epoll(7), poll(2), select(2) and pidfd polling.

use crate::case::*;
use std::ptr::{null, null_mut};

fn value_of(fd: c_int) -> Outcome<u64> {
    let bytes = read_some(fd, 8)?;
    let bytes: [u8; 8] = match bytes.try_into() {
        Ok(bytes) => bytes,
        Err(short) => fail!("read: expected 8 bytes, got {}", short.len()),
    };
    Ok(u64::from_ne_bytes(bytes))
}

fn add_value(fd: c_int, value: u64) -> Outcome {
    write_all(fd, &value.to_ne_bytes())
}

/// What poll reports for one descriptor at once.
fn poll_now(fd: c_int, events: c_short) -> Outcome<c_short> {
    let mut fds = [pollfd {
        fd,
        events,
        revents: 0,
    }];
    ok!(poll(fds.as_mut_ptr(), 1, 0));
    Ok(fds[0].revents)
}

fn watch(ep: c_int, fd: c_int, events: c_int, data: u64) -> Outcome {
    let mut event = epoll_event {
        events: events as u32,
        u64: data,
    };
    ok!(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &mut event));
    Ok(())
}

/// The events ready at once, as (events, data).
fn ready(ep: c_int) -> Outcome<Vec<(c_int, u64)>> {
    let mut events = [epoll_event { events: 0, u64: 0 }; 16];
    let n = ok!(epoll_wait(ep, events.as_mut_ptr(), 16, 0)) as usize;
    Ok(events[..n]
        .iter()
        .map(|e| (e.events as c_int, e.u64))
        .collect())
}

fn spec(first_ms: i64, interval_ms: i64) -> itimerspec {
    itimerspec {
        it_value: millis(first_ms),
        it_interval: millis(interval_ms),
    }
}

fn block(signal: c_int) -> Outcome<sigset_t> {
    let mut set = zeroed::<sigset_t>();
    ok!(sigemptyset(&mut set));
    ok!(sigaddset(&mut set, signal));
    ok!(sigprocmask(SIG_BLOCK, &set, null_mut()));
    Ok(set)
}

pub static CASES: &[Case] = &[
    Case::new(
        "eventfd.counter",
        "eventfd(2)",
        "writes add, a read takes all",
        || {
            let fd = ok!(eventfd(3, EFD_NONBLOCK));
            add_value(fd, 4)?;
            eq("value", value_of(fd)?, 7)?;
            let mut b = [0u8; 8];
            err!(EAGAIN, read(fd, b.as_mut_ptr().cast(), 8));
            Ok(())
        },
    ),
    Case::new(
        "eventfd.semaphore",
        "eventfd(2)",
        "EFD_SEMAPHORE reads 1 at a time",
        || {
            let fd = ok!(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK));
            eq("first", value_of(fd)?, 1)?;
            eq("second", value_of(fd)?, 1)?;
            let mut b = [0u8; 8];
            err!(EAGAIN, read(fd, b.as_mut_ptr().cast(), 8));
            Ok(())
        },
    ),
    Case::new(
        "eventfd.einval",
        "eventfd(2)",
        "short buffers, the value 2^64-1 and bad flags",
        || {
            let fd = ok!(eventfd(1, EFD_NONBLOCK));
            let mut b = u64::MAX.to_ne_bytes();
            err!(EINVAL, write(fd, b.as_ptr().cast(), 8));
            err!(EINVAL, write(fd, b.as_ptr().cast(), 7));
            err!(EINVAL, read(fd, b.as_mut_ptr().cast(), 7));
            err!(EINVAL, eventfd(0, 1 << 20));
            Ok(())
        },
    ),
    Case::new(
        "eventfd.full",
        "eventfd(2)",
        "adding beyond 2^64-2 gives EAGAIN",
        || {
            let fd = ok!(eventfd(0, EFD_NONBLOCK));
            add_value(fd, u64::MAX - 1)?;
            let one = 1u64.to_ne_bytes();
            err!(EAGAIN, write(fd, one.as_ptr().cast(), 8));
            eq("revents", poll_now(fd, POLLIN | POLLOUT)?, POLLIN)?;
            eq("value", value_of(fd)?, u64::MAX - 1)
        },
    ),
    Case::new(
        "eventfd.poll",
        "eventfd(2)",
        "readable above 0, writable below the maximum",
        || {
            let fd = ok!(eventfd(0, 0));
            eq("empty", poll_now(fd, POLLIN | POLLOUT)?, POLLOUT)?;
            add_value(fd, 1)?;
            eq(
                "with a value",
                poll_now(fd, POLLIN | POLLOUT)?,
                POLLIN | POLLOUT,
            )
        },
    ),
    Case::new(
        "eventfd.wakes_reader",
        "eventfd(2)",
        "a blocked read is woken by a write",
        || {
            let fd = ok!(eventfd(0, 0));
            let pid = child(|| match value_of(fd) {
                Ok(value) => value as i32,
                Err(_) => 99,
            })?;
            until_asleep(pid)?;
            add_value(fd, 5)?;
            expect_exit(pid, 5)
        },
    ),
    Case::new(
        "timerfd.expires",
        "timerfd_create(2)",
        "a read waits and counts expirations",
        || {
            let fd = ok!(timerfd_create(CLOCK_MONOTONIC, 0));
            let before = ns(now(CLOCK_MONOTONIC)?);
            ok!(timerfd_settime(fd, 0, &spec(20, 0), null_mut()));
            eq("expirations", value_of(fd)?, 1)?;
            let took = ns(now(CLOCK_MONOTONIC)?) - before;
            ensure!(
                took >= 20_000_000,
                "expired after {took} ns, expected at least 20 ms"
            );
            Ok(())
        },
    ),
    Case::new(
        "timerfd.interval",
        "timerfd_create(2)",
        "an interval keeps counting",
        || {
            let fd = ok!(timerfd_create(CLOCK_MONOTONIC, 0));
            ok!(timerfd_settime(fd, 0, &spec(5, 5), null_mut()));
            let mut total = 0;
            while total < 5 {
                total += value_of(fd)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "timerfd.gettime",
        "timerfd_gettime(2)",
        "the remaining time and the interval",
        || {
            let fd = ok!(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
            let mut seen = zeroed::<itimerspec>();
            ok!(timerfd_gettime(fd, &mut seen));
            eq("disarmed", ns(seen.it_value), 0)?;
            ok!(timerfd_settime(fd, 0, &spec(100_000, 7_000), null_mut()));
            ok!(timerfd_gettime(fd, &mut seen));
            let left = ns(seen.it_value);
            ensure!(
                left > 0 && left <= 100_000_000_000,
                "remaining {left} ns of 100 s"
            );
            eq("interval", ns(seen.it_interval), 7_000_000_000)?;
            let mut b = [0u8; 8];
            err!(EAGAIN, read(fd, b.as_mut_ptr().cast(), 8));
            let mut old = zeroed::<itimerspec>();
            ok!(timerfd_settime(fd, 0, &spec(0, 0), &mut old));
            eq("old interval", ns(old.it_interval), 7_000_000_000)
        },
    ),
    Case::new(
        "timerfd.absolute_past",
        "timerfd_create(2)",
        "an absolute time in the past expires at once",
        || {
            let fd = ok!(timerfd_create(CLOCK_MONOTONIC, 0));
            let past = itimerspec {
                it_value: timespec {
                    tv_sec: 0,
                    tv_nsec: 1,
                },
                it_interval: millis(0),
            };
            ok!(timerfd_settime(fd, TFD_TIMER_ABSTIME, &past, null_mut()));
            eq("expirations", value_of(fd)?, 1)
        },
    ),
    Case::new(
        "timerfd.errors",
        "timerfd_create(2)",
        "EINVAL for clock, flags, nanoseconds, no timerfd",
        || {
            err!(EINVAL, timerfd_create(99, 0));
            err!(EINVAL, timerfd_create(CLOCK_MONOTONIC, 1 << 20));
            let fd = ok!(timerfd_create(CLOCK_REALTIME, 0));
            let mut bad = spec(1, 0);
            bad.it_value.tv_nsec = 1_000_000_000;
            err!(EINVAL, timerfd_settime(fd, 0, &bad, null_mut()));
            err!(
                EINVAL,
                timerfd_settime(pipe_pair()?.0, 0, &spec(1, 0), null_mut())
            );
            err!(EBADF, timerfd_settime(-1, 0, &spec(1, 0), null_mut()));
            let mut b = [0u8; 4];
            err!(EINVAL, read(fd, b.as_mut_ptr().cast(), 4));
            Ok(())
        },
    ),
    Case::new(
        "signalfd.reads_pending",
        "signalfd(2)",
        "a blocked signal is read from the descriptor",
        || {
            let set = block(SIGUSR1)?;
            let fd = ok!(signalfd(-1, &set, SFD_NONBLOCK));
            let mut info = zeroed::<signalfd_siginfo>();
            let size = size_of::<signalfd_siginfo>();
            err!(EAGAIN, read(fd, (&raw mut info).cast(), size));
            ok!(kill(getpid_now(), SIGUSR1));
            eq("revents", poll_now(fd, POLLIN)?, POLLIN)?;
            gives!(size, read(fd, (&raw mut info).cast(), size));
            eq("signal", info.ssi_signo as i32, SIGUSR1)?;
            eq("sender", info.ssi_pid as i32, getpid_now())?;
            eq("code", info.ssi_code, SI_USER)?;
            let mut pending = zeroed::<sigset_t>();
            ok!(sigpending(&mut pending));
            gives!(0, sigismember(&pending, SIGUSR1));
            Ok(())
        },
    ),
    Case::new(
        "signalfd.set_changed",
        "signalfd(2)",
        "an existing descriptor takes a new set",
        || {
            let set = block(SIGUSR1)?;
            let other = block(SIGUSR2)?;
            let fd = ok!(signalfd(-1, &set, SFD_NONBLOCK));
            gives!(fd, signalfd(fd, &other, 0));
            ok!(kill(getpid_now(), SIGUSR1));
            eq("revents for the old set", poll_now(fd, POLLIN)?, 0)?;
            ok!(kill(getpid_now(), SIGUSR2));
            eq("revents for the new set", poll_now(fd, POLLIN)?, POLLIN)
        },
    ),
    Case::new(
        "signalfd.errors",
        "signalfd(2)",
        "EBADF, EINVAL for another file and for flags",
        || {
            let set = block(SIGUSR1)?;
            err!(EBADF, signalfd(999, &set, 0));
            err!(EINVAL, signalfd(pipe_pair()?.0, &set, 0));
            err!(EINVAL, signalfd(-1, &set, 1 << 20));
            let fd = ok!(signalfd(-1, &set, 0));
            let mut b = [0u8; 8];
            err!(EINVAL, read(fd, b.as_mut_ptr().cast(), 8));
            Ok(())
        },
    ),
    Case::new(
        "epoll.level",
        "epoll(7)",
        "level-triggered: reported as long as it holds",
        || {
            let ep = ok!(epoll_create1(EPOLL_CLOEXEC));
            let (r, w) = pipe_pair()?;
            watch(ep, r, EPOLLIN, 42)?;
            eq("nothing yet", ready(ep)?, vec![])?;
            write_all(w, b"x")?;
            eq("first", ready(ep)?, vec![(EPOLLIN, 42)])?;
            eq("second", ready(ep)?, vec![(EPOLLIN, 42)])?;
            read_some(r, 1)?;
            eq("after the read", ready(ep)?, vec![])
        },
    ),
    Case::new(
        "epoll.edge",
        "epoll(7)",
        "edge-triggered: reported once a change",
        || {
            let ep = ok!(epoll_create1(0));
            let (r, w) = pipe_pair()?;
            watch(ep, r, EPOLLIN | EPOLLET, 1)?;
            write_all(w, b"x")?;
            eq("first", ready(ep)?, vec![(EPOLLIN, 1)])?;
            eq("second", ready(ep)?, vec![])?;
            write_all(w, b"y")?;
            eq("after more data", ready(ep)?, vec![(EPOLLIN, 1)])
        },
    ),
    Case::new(
        "epoll.oneshot",
        "epoll_ctl(2)",
        "EPOLLONESHOT disables until EPOLL_CTL_MOD",
        || {
            let ep = ok!(epoll_create1(0));
            let (r, w) = pipe_pair()?;
            watch(ep, r, EPOLLIN | EPOLLONESHOT, 1)?;
            write_all(w, b"x")?;
            eq("first", ready(ep)?, vec![(EPOLLIN, 1)])?;
            write_all(w, b"y")?;
            eq("disabled", ready(ep)?, vec![])?;
            let mut event = epoll_event {
                events: (EPOLLIN | EPOLLONESHOT) as u32,
                u64: 2,
            };
            ok!(epoll_ctl(ep, EPOLL_CTL_MOD, r, &mut event));
            eq("armed again", ready(ep)?, vec![(EPOLLIN, 2)])
        },
    ),
    Case::new(
        "epoll.hup",
        "epoll_ctl(2)",
        "EPOLLHUP and EPOLLERR come unasked",
        || {
            let ep = ok!(epoll_create1(0));
            let (r, w) = pipe_pair()?;
            watch(ep, r, 0, 1)?;
            ok!(close(w));
            eq("reader", ready(ep)?, vec![(EPOLLHUP, 1)])?;
            let (r2, w2) = pipe_pair()?;
            watch(ep, w2, 0, 3)?;
            ok!(epoll_ctl(ep, EPOLL_CTL_DEL, r, null_mut()));
            ok!(close(r2));
            eq("writer", ready(ep)?, vec![(EPOLLERR, 3)])
        },
    ),
    Case::new(
        "epoll.rdhup",
        "epoll_ctl(2)",
        "EPOLLRDHUP tells that a stream peer shut down",
        || {
            let ep = ok!(epoll_create1(0));
            let (a, b) = socket_pair(SOCK_STREAM)?;
            watch(ep, a, EPOLLRDHUP | EPOLLIN, 1)?;
            ok!(shutdown(b, SHUT_WR));
            eq("events", ready(ep)?, vec![(EPOLLIN | EPOLLRDHUP, 1)])
        },
    ),
    Case::new(
        "epoll.ctl_errors",
        "epoll_ctl(2)",
        "EEXIST, ENOENT, EBADF, EINVAL, EPERM, ELOOP",
        || {
            let ep = ok!(epoll_create1(0));
            let (r, _w) = pipe_pair()?;
            let mut event = epoll_event {
                events: EPOLLIN as u32,
                u64: 0,
            };
            watch(ep, r, EPOLLIN, 0)?;
            err!(EEXIST, epoll_ctl(ep, EPOLL_CTL_ADD, r, &mut event));
            let other = ok!(eventfd(0, 0));
            err!(ENOENT, epoll_ctl(ep, EPOLL_CTL_MOD, other, &mut event));
            err!(ENOENT, epoll_ctl(ep, EPOLL_CTL_DEL, other, null_mut()));
            err!(EBADF, epoll_ctl(ep, EPOLL_CTL_ADD, -1, &mut event));
            err!(EBADF, epoll_ctl(-1, EPOLL_CTL_ADD, r, &mut event));
            err!(EINVAL, epoll_ctl(ep, EPOLL_CTL_ADD, ep, &mut event));
            err!(EINVAL, epoll_ctl(r, EPOLL_CTL_ADD, other, &mut event));
            err!(EINVAL, epoll_ctl(ep, 99, other, &mut event));
            err!(
                EPERM,
                epoll_ctl(ep, EPOLL_CTL_ADD, put(c"f", b"")?, &mut event)
            );
            err!(EFAULT, epoll_ctl(ep, EPOLL_CTL_ADD, other, bad_ptr()));
            let ep2 = ok!(epoll_create1(0));
            watch(ep2, ep, EPOLLIN, 0)?;
            err!(ELOOP, epoll_ctl(ep, EPOLL_CTL_ADD, ep2, &mut event));
            Ok(())
        },
    ),
    Case::new(
        "epoll.wait_errors",
        "epoll_wait(2)",
        "EBADF, EINVAL, and EFAULT for a bad buffer",
        || {
            let ep = ok!(epoll_create1(0));
            let mut events = [epoll_event { events: 0, u64: 0 }; 2];
            err!(EBADF, epoll_wait(-1, events.as_mut_ptr(), 1, 0));
            err!(EINVAL, epoll_wait(ep, events.as_mut_ptr(), 0, 0));
            err!(
                EINVAL,
                epoll_wait(pipe_pair()?.0, events.as_mut_ptr(), 1, 0)
            );
            watch(ep, ok!(eventfd(1, 0)), EPOLLIN, 0)?;
            err!(EFAULT, epoll_wait(ep, bad_ptr(), 1, 0));
            err!(EINVAL, epoll_create1(1));
            err!(EINVAL, epoll_create(0));
            Ok(())
        },
    ),
    Case::new(
        "epoll.close_removes",
        "epoll(7)",
        "closing the last descriptor removes the entry",
        || {
            let ep = ok!(epoll_create1(0));
            let fd = ok!(eventfd(1, 0));
            let copy = ok!(dup(fd));
            watch(ep, fd, EPOLLIN, 7)?;
            ok!(close(fd));
            eq("a duplicate keeps it", ready(ep)?, vec![(EPOLLIN, 7)])?;
            ok!(close(copy));
            eq("all closed", ready(ep)?, vec![])
        },
    ),
    Case::new(
        "epoll.nested",
        "epoll(7)",
        "an epoll descriptor is readable when an event waits",
        || {
            let (inner, outer) = (ok!(epoll_create1(0)), ok!(epoll_create1(0)));
            let fd = ok!(eventfd(0, 0));
            watch(inner, fd, EPOLLIN, 1)?;
            watch(outer, inner, EPOLLIN, 2)?;
            eq("nothing yet", ready(outer)?, vec![])?;
            add_value(fd, 1)?;
            eq("outer", ready(outer)?, vec![(EPOLLIN, 2)])?;
            eq("poll on the inner one", poll_now(inner, POLLIN)?, POLLIN)
        },
    ),
    Case::new(
        "epoll.timeout",
        "epoll_wait(2)",
        "a timeout returns 0 and not too early",
        || {
            let ep = ok!(epoll_create1(0));
            let mut events = [epoll_event { events: 0, u64: 0 }; 2];
            let before = ns(now(CLOCK_MONOTONIC)?);
            gives!(0, epoll_wait(ep, events.as_mut_ptr(), 2, 20));
            let took = ns(now(CLOCK_MONOTONIC)?) - before;
            ensure!(
                took >= 20_000_000,
                "returned after {took} ns, expected at least 20 ms"
            );
            Ok(())
        },
    ),
    Case::new(
        "epoll.wakes",
        "epoll_wait(2)",
        "an event from another process ends the wait",
        || {
            let ep = ok!(epoll_create1(0));
            let (r, w) = pipe_pair()?;
            watch(ep, r, EPOLLIN, 5)?;
            let me = getpid_now();
            let pid = child(|| {
                let asleep = until_asleep(me);
                i32::from(asleep.is_err() || raw!(write(w, c"x".as_ptr().cast(), 1)) != 1)
            })?;
            let mut events = [epoll_event { events: 0, u64: 0 }; 2];
            gives!(1, epoll_wait(ep, events.as_mut_ptr(), 2, -1));
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "epoll.pwait_mask",
        "epoll_pwait(2)",
        "the mask holds during the wait: EINTR",
        || {
            block(SIGUSR1)?;
            catch(SIGUSR1, 0)?;
            ok!(kill(getpid_now(), SIGUSR1));
            let ep = ok!(epoll_create1(0));
            let mut none = zeroed::<sigset_t>();
            ok!(sigemptyset(&mut none));
            let mut events = [epoll_event { events: 0, u64: 0 }; 2];
            err!(EINTR, epoll_pwait(ep, events.as_mut_ptr(), 2, -1, &none));
            eq("handler calls", caught(), 1)
        },
    ),
    Case::new(
        "poll.revents",
        "poll(2)",
        "POLLIN, POLLOUT, POLLHUP, POLLERR and POLLNVAL",
        || {
            let (r, w) = pipe_pair()?;
            eq("empty pipe, reader", poll_now(r, POLLIN)?, 0)?;
            eq("writer", poll_now(w, POLLOUT)?, POLLOUT)?;
            write_all(w, b"x")?;
            eq("full pipe, reader", poll_now(r, POLLIN)?, POLLIN)?;
            ok!(close(w));
            eq("writer gone", poll_now(r, POLLIN)?, POLLIN | POLLHUP)?;
            read_some(r, 1)?;
            eq("writer gone, empty", poll_now(r, POLLIN)?, POLLHUP)?;
            let (r, w) = pipe_pair()?;
            ok!(close(r));
            eq("reader gone", poll_now(w, POLLOUT)?, POLLOUT | POLLERR)?;
            eq("closed", poll_now(r, POLLIN)?, POLLNVAL)
        },
    ),
    Case::new(
        "poll.negative_fd",
        "poll(2)",
        "negative descriptors are ignored",
        || {
            let mut fds = [pollfd {
                fd: -5,
                events: POLLIN,
                revents: 7,
            }];
            gives!(0, poll(fds.as_mut_ptr(), 1, 0));
            eq("revents", fds[0].revents, 0)
        },
    ),
    Case::new(
        "poll.regular_file",
        "poll(2)",
        "regular files are always readable and writable",
        || {
            eq(
                "revents",
                poll_now(put(c"f", b"")?, POLLIN | POLLOUT)?,
                POLLIN | POLLOUT,
            )
        },
    ),
    Case::new(
        "poll.errors",
        "poll(2)",
        "EFAULT, EINVAL beyond RLIMIT_NOFILE or for bad times",
        || {
            err!(EFAULT, poll(bad_ptr(), 1, 0));
            let limit = rlimit {
                rlim_cur: 20,
                rlim_max: 20,
            };
            ok!(setrlimit(RLIMIT_NOFILE, &limit));
            let mut fds = vec![
                pollfd {
                    fd: -1,
                    events: 0,
                    revents: 0
                };
                30
            ];
            err!(EINVAL, poll(fds.as_mut_ptr(), 30, 0));
            let bad = timespec {
                tv_sec: 0,
                tv_nsec: -1,
            };
            err!(EINVAL, ppoll(fds.as_mut_ptr(), 1, &bad, null()));
            Ok(())
        },
    ),
    Case::new(
        "poll.eintr",
        "poll(2)",
        "a handler ends poll with EINTR despite SA_RESTART",
        || {
            catch(SIGALRM, SA_RESTART)?;
            tick(10)?;
            let (r, _w) = pipe_pair()?;
            let mut fds = [pollfd {
                fd: r,
                events: POLLIN,
                revents: 0,
            }];
            err!(EINTR, poll(fds.as_mut_ptr(), 1, -1));
            Ok(())
        },
    ),
    Case::new(
        "ppoll.remaining_time",
        "ppoll(2)",
        "the raw call updates the timeout",
        || {
            let mut fds = [pollfd {
                fd: put(c"f", b"")?,
                events: POLLIN,
                revents: 0,
            }];
            let mut left = millis(100_000);
            gives!(
                1,
                syscall(
                    SYS_ppoll,
                    fds.as_mut_ptr(),
                    1,
                    &raw mut left,
                    null::<u8>(),
                    8usize
                )
            );
            ensure!(
                ns(left) < 100_000_000_000 && ns(left) > 0,
                "timeout is now {} ns",
                ns(left)
            );
            Ok(())
        },
    ),
    Case::new(
        "select.sets",
        "select(2)",
        "only ready descriptors stay in the sets",
        || {
            let (r, w) = pipe_pair()?;
            let (mut reads, mut writes) = (zeroed::<fd_set>(), zeroed::<fd_set>());
            unsafe {
                FD_SET(r, &mut reads);
                FD_SET(w, &mut writes);
            }
            let mut zero = zeroed::<timeval>();
            gives!(
                1,
                select(r.max(w) + 1, &mut reads, &mut writes, null_mut(), &mut zero)
            );
            eq("reader", unsafe { FD_ISSET(r, &reads) }, false)?;
            eq("writer", unsafe { FD_ISSET(w, &writes) }, true)
        },
    ),
    Case::new(
        "select.errors",
        "select(2)",
        "EBADF, EINVAL for nfds and for the timeout",
        || {
            let (closed, _w) = pipe_pair()?;
            ok!(close(closed));
            let mut reads = zeroed::<fd_set>();
            unsafe { FD_SET(closed, &mut reads) };
            let mut zero = zeroed::<timeval>();
            err!(
                EBADF,
                select(closed + 1, &mut reads, null_mut(), null_mut(), &mut zero)
            );
            err!(
                EINVAL,
                select(-1, null_mut(), null_mut(), null_mut(), &mut zero)
            );
            let mut bad = timeval {
                tv_sec: -1,
                tv_usec: 0,
            };
            err!(
                EINVAL,
                select(0, null_mut(), null_mut(), null_mut(), &mut bad)
            );
            Ok(())
        },
    ),
    Case::new(
        "select.timeout",
        "select(2)",
        "a timeout clears the sets and is used up",
        || {
            let (r, _w) = pipe_pair()?;
            let mut reads = zeroed::<fd_set>();
            unsafe { FD_SET(r, &mut reads) };
            let mut time = timeval {
                tv_sec: 0,
                tv_usec: 10_000,
            };
            gives!(
                0,
                syscall(
                    SYS_select,
                    r + 1,
                    &raw mut reads,
                    null::<u8>(),
                    null::<u8>(),
                    &raw mut time
                )
            );
            eq("set", unsafe { FD_ISSET(r, &reads) }, false)?;
            eq("time left", (time.tv_sec, time.tv_usec), (0, 0))
        },
    ),
    Case::new(
        "pselect.mask",
        "pselect(2)",
        "the mask holds during the call: EINTR",
        || {
            block(SIGUSR1)?;
            catch(SIGUSR1, 0)?;
            ok!(kill(getpid_now(), SIGUSR1));
            let mut none = zeroed::<sigset_t>();
            ok!(sigemptyset(&mut none));
            err!(
                EINTR,
                pselect(0, null_mut(), null_mut(), null_mut(), null(), &none)
            );
            eq("handler calls", caught(), 1)
        },
    ),
    Case::new(
        "pidfd.poll",
        "pidfd_open(2)",
        "a pidfd becomes readable when its process ends",
        || {
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                raw!(close(w));
                let mut b = 0u8;
                raw!(read(r, (&raw mut b).cast(), 1)) as i32
            })?;
            let fd = ok!(syscall(SYS_pidfd_open, pid, 0)) as c_int;
            eq("while it runs", poll_now(fd, POLLIN)?, 0)?;
            ok!(close(w));
            let mut fds = [pollfd {
                fd,
                events: POLLIN,
                revents: 0,
            }];
            gives!(1, poll(fds.as_mut_ptr(), 1, -1));
            eq("revents", fds[0].revents & POLLIN, POLLIN)?;
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "pidfd.errors",
        "pidfd_open(2)",
        "ESRCH, EINVAL; pidfd_send_signal EBADF",
        || {
            let pid = child(|| 0)?;
            expect_exit(pid, 0)?;
            err!(ESRCH, syscall(SYS_pidfd_open, pid, 0));
            err!(EINVAL, syscall(SYS_pidfd_open, getpid_now(), 1 << 20));
            err!(EINVAL, syscall(SYS_pidfd_open, -1, 0));
            err!(
                EBADF,
                syscall(SYS_pidfd_send_signal, pipe_pair()?.0, 0, null::<u8>(), 0)
            );
            Ok(())
        },
    ),
    Case::new(
        "pidfd.send_signal",
        "pidfd_send_signal(2)",
        "a signal goes through the descriptor",
        || {
            let pid = child(|| {
                raw!(pause());
                0
            })?;
            let fd = ok!(syscall(SYS_pidfd_open, pid, 0)) as c_int;
            gives!(FD_CLOEXEC, fcntl(fd, F_GETFD));
            ok!(syscall(SYS_pidfd_send_signal, fd, SIGKILL, null::<u8>(), 0));
            expect_signal(pid, SIGKILL)
        },
    ),
];
