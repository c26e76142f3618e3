//! EPOLLEXCLUSIVE of epoll_ctl(2): several instances watch one file, and an event wakes one.

use crate::case::*;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

fn instance() -> Outcome<c_int> {
    Ok(ok!(epoll_create1(EPOLL_CLOEXEC)))
}

fn control(ep: c_int, op: c_int, fd: c_int, events: c_int) -> c_int {
    let mut event = epoll_event {
        events: events as u32,
        u64: fd as u64,
    };
    raw!(epoll_ctl(ep, op, fd, &mut event))
}

fn watch(ep: c_int, fd: c_int, events: c_int) -> Outcome {
    succeeded("epoll_ctl", control(ep, EPOLL_CTL_ADD, fd, events))?;
    Ok(())
}

/// Which descriptors are told within this time.
fn told(ep: c_int, timeout_ms: c_int) -> Outcome<Vec<c_int>> {
    let mut events = [epoll_event { events: 0, u64: 0 }; 4];
    let n = ok!(epoll_wait(ep, events.as_mut_ptr(), 4, timeout_ms)) as usize;
    Ok(events[..n].iter().map(|e| e.u64 as c_int).collect())
}

/// A child that waits in `ep`, asleep when this returns; it exits with 0 if told of just `want`.
fn waiter(ep: c_int, want: c_int) -> Outcome<pid_t> {
    let pid = child(|| i32::from(told(ep, -1) != Ok(vec![want])))?;
    until_asleep(pid)?;
    Ok(pid)
}

fn post(fd: c_int) -> Outcome {
    write_all(fd, &1u64.to_ne_bytes())
}

/// `count` instances that watch `fd` exclusively, in this order, and `quit` as well.
fn instances(count: usize, fd: c_int, quit: c_int) -> Outcome<Vec<c_int>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let ep = instance()?;
        watch(ep, fd, EPOLLIN | EPOLLEXCLUSIVE)?;
        watch(ep, quit, EPOLLIN)?;
        all.push(ep);
    }
    Ok(all)
}

/// A listener, and what connects to it.
fn listener() -> Outcome<(TcpListener, std::net::SocketAddr)> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|l| Ok((l.local_addr()?, l)));
    match bound {
        Ok((addr, listener)) => Ok((listener, addr)),
        Err(e) => fail!("a listener: {e}"),
    }
}

fn connected(to: std::net::SocketAddr) -> Outcome<TcpStream> {
    match TcpStream::connect(to) {
        Ok(stream) => Ok(stream),
        Err(e) => fail!("connect: {e}"),
    }
}

pub static CASES: &[Case] = &[
    Case::new(
        "exclusive.combinations",
        "epoll_ctl(2)",
        "EINVAL with other events, with EPOLL_CTL_MOD and for an epoll descriptor",
        || {
            let (ep, fd) = (instance()?, ok!(eventfd(0, 0)));
            let add = |fd, events| control(ep, EPOLL_CTL_ADD, fd, events | EPOLLEXCLUSIVE);
            for events in [
                EPOLLIN | EPOLLONESHOT,
                EPOLLIN | EPOLLRDHUP,
                EPOLLPRI,
                EPOLLRDNORM,
                EPOLLWRBAND,
                EPOLLIN | 1 << 20,
            ] {
                failed_with("epoll_ctl", add(fd, events), &[EINVAL])?;
            }
            failed_with("of an instance", add(instance()?, EPOLLIN), &[EINVAL])?;
            let change = |fd, events| control(ep, EPOLL_CTL_MOD, fd, events);
            let exclusive = EPOLLIN | EPOLLEXCLUSIVE;
            failed_with("not there", change(fd, exclusive), &[EINVAL])?;
            for events in [
                0,
                EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP,
                EPOLLOUT | EPOLLET | EPOLLWAKEUP,
            ] {
                succeeded("epoll_ctl", add(fd, events))?;
                failed_with("twice", add(fd, events), &[EEXIST])?;
                failed_with("modified", change(fd, EPOLLIN), &[EINVAL])?;
                failed_with("modified", change(fd, exclusive), &[EINVAL])?;
                // The event is not looked at.
                ok!(epoll_ctl(ep, EPOLL_CTL_DEL, fd, null_mut()));
            }
            watch(ep, fd, EPOLLIN)?;
            failed_with("made exclusive", change(fd, exclusive), &[EINVAL])
        },
    ),
    Case::new(
        "exclusive.one_is_woken",
        "epoll_ctl(2)",
        "of those who wait one is told, the others are not",
        || {
            let (fd, quit) = (ok!(eventfd(0, 0)), ok!(eventfd(0, 0)));
            let all = instances(3, fd, quit)?;
            let first = waiter(all[0], fd)?;
            let others = [waiter(all[1], quit)?, waiter(all[2], quit)?];
            post(fd)?;
            expect_exit(first, 0)?;
            post(quit)?;
            for other in others {
                expect_exit(other, 0)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "exclusive.who_does_not_wait",
        "epoll_ctl(2)",
        "an event goes on until somebody wakes up",
        || {
            let (fd, quit) = (ok!(eventfd(0, 0)), ok!(eventfd(0, 0)));
            let all = instances(4, fd, quit)?;
            let second = waiter(all[1], fd)?;
            let third = waiter(all[2], quit)?;
            post(fd)?;
            expect_exit(second, 0)?;
            post(quit)?;
            expect_exit(third, 0)?;
            // Those passed by know of it, those behind do not.
            eq("passed by", told(all[0], 0)?, vec![fd, quit])?;
            eq("behind", told(all[3], 0)?, vec![quit])
        },
    ),
    Case::new(
        "exclusive.nobody_waits",
        "epoll_ctl(2)",
        "an event that wakes nobody is told everywhere",
        || {
            let (fd, quit) = (ok!(eventfd(0, 0)), ok!(eventfd(0, 0)));
            let all = instances(3, fd, quit)?;
            post(fd)?;
            for ep in all {
                eq("told", told(ep, 0)?, vec![fd])?;
            }
            Ok(())
        },
    ),
    Case::new(
        "exclusive.with_shared",
        "epoll_ctl(2)",
        "instances without the flag are told in any case",
        || {
            let (fd, quit) = (ok!(eventfd(0, 0)), ok!(eventfd(0, 0)));
            let before = instance()?;
            watch(before, fd, EPOLLIN)?;
            let all = instances(2, fd, quit)?;
            let after = instance()?;
            watch(after, fd, EPOLLIN)?;
            let waiting = [waiter(before, fd)?, waiter(all[0], fd)?, waiter(after, fd)?];
            let left = waiter(all[1], quit)?;
            post(fd)?;
            for pid in waiting {
                expect_exit(pid, 0)?;
            }
            post(quit)?;
            expect_exit(left, 0)
        },
    ),
    Case::new(
        "exclusive.nested",
        "epoll_ctl(2)",
        "who waits through another instance, or in poll(2), does not keep others from it",
        || {
            let (fd, quit) = (ok!(eventfd(0, 0)), ok!(eventfd(0, 0)));
            let all = instances(3, fd, quit)?;
            let outer = instance()?;
            watch(outer, all[0], EPOLLIN)?;
            let through = waiter(outer, all[0])?;
            let inner = all[1];
            let polling = child(|| {
                let mut fds = [pollfd {
                    fd: inner,
                    events: POLLIN,
                    revents: 0,
                }];
                i32::from(raw!(poll(fds.as_mut_ptr(), 1, -1)) != 1)
            })?;
            until_asleep(polling)?;
            let direct = waiter(all[2], fd)?;
            post(fd)?;
            for pid in [through, polling, direct] {
                expect_exit(pid, 0)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "exclusive.listener",
        "epoll_ctl(2)",
        "each of two connections in a row wakes another worker",
        || {
            let (listener, addr) = listener()?;
            let quit = ok!(eventfd(0, 0));
            let fd = listener.as_raw_fd();
            let all = instances(3, fd, quit)?;
            // The first is busy, the second leaves its wait.
            let second = waiter(all[1], fd)?;
            let one = connected(addr)?;
            expect_exit(second, 0)?;
            let third = waiter(all[2], fd)?;
            let two = connected(addr)?;
            expect_exit(third, 0)?;
            drop((one, two));
            eq("the busy one", told(all[0], 0)?, vec![fd])
        },
    ),
];
