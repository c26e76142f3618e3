//! A server that goes away, or talks nonsense.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test, helpers included"
)]

mod common;

use std::{os::fd::OwnedFd, time::Duration};

use common::{at, serve};
use runsc_gofer::{Client, Error, client::channel_pairs};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags},
};

/// A client whose server answers each request with `reply`.
fn with_replies(reply: &'static [u8]) -> Client {
    let (ours, theirs) = channel_pairs(1).unwrap();
    std::thread::spawn(move || {
        let channel: &OwnedFd = &theirs[0];
        let mut request = [0; 1024];
        while let Ok((_, 1..)) = rustix::net::recv(channel, &mut request, RecvFlags::empty()) {
            if rustix::net::send(channel, reply, SendFlags::NOSIGNAL).is_err() {
                break;
            }
        }
    });
    Client::new(ours).unwrap()
}

#[test]
fn nonsense_is_the_end() {
    // Garbage; an empty frame; `Opened` without an fd; `Done` where attributes are due.
    for reply in [
        &b"\xff\xff\xff"[..],
        b"",
        b"\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x01",
    ] {
        let client = with_replies(reply);
        assert_eq!(
            client.getattr(at("x")),
            Err(Error::Disconnected),
            "{reply:?}"
        );
        assert!(client.is_dead());
        assert_eq!(client.unlink(at("x")), Err(Error::Disconnected));
        assert_eq!(client.getattr(at("x")).unwrap_err().errno(), libc::EIO);
    }
}

#[test]
fn the_watch_fd_tells() {
    let (ours, theirs) = channel_pairs(2).unwrap();
    let client = Client::new(ours).unwrap();
    let watch = |timeout: Duration| {
        let fd = client.watch_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::RDHUP)];
        let timeout = Timespec::try_from(timeout).unwrap();
        poll(&mut fds, Some(&timeout)).unwrap()
    };
    assert_eq!(watch(Duration::ZERO), 0);
    drop(theirs);
    assert_eq!(watch(Duration::from_secs(10)), 1);
    client.wait_disconnected();
    assert!(client.is_dead());
    assert!(Client::new(vec![]).is_err());
}

#[test]
fn callers_that_wait_for_a_channel_are_released() {
    let (ours, theirs) = channel_pairs(1).unwrap();
    let client = Client::new(ours).unwrap();
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| client.getattr(at(""))))
            .collect();
        // One call has been sent; it and the seven that wait behind it shall fail.
        let mut request = [0; 1024];
        rustix::net::recv(&theirs[0], &mut request, RecvFlags::empty()).unwrap();
        drop(theirs);
        for call in calls {
            assert_eq!(call.join().unwrap(), Err(Error::Disconnected));
        }
    });
}

#[test]
fn many_threads_share_few_channels() {
    let served = serve();
    for index in 0..8 {
        std::fs::write(served.dir.path().join(index.to_string()), vec![0; index]).unwrap();
    }
    std::thread::scope(|scope| {
        for index in 0..8 {
            let client = &served.client;
            scope.spawn(move || {
                for _ in 0..500 {
                    let size = client.getattr(at(&index.to_string())).unwrap().size;
                    assert_eq!(size, index);
                }
            });
        }
    });
    drop(served.client);
    for thread in served.threads {
        thread.join().unwrap();
    }
}
