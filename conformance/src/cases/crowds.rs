//! Many sockets, full queues, many files in a message: limits hold, and the rest goes on.

use crate::case::*;
use crate::control::send_files;
use crate::inet::*;

/// Writes until there is no room; how much that was.
fn fill(fd: c_int) -> Outcome<usize> {
    let block = vec![7u8; 65536];
    let mut total = 0;
    loop {
        let n = raw!(send(fd, block.as_ptr().cast(), block.len(), MSG_DONTWAIT));
        if n == -1 {
            eq("errno", errno_name(errno()), "EAGAIN".to_string())?;
            return Ok(total);
        }
        total += n as usize;
        ensure!(total < 64 << 20, "64 MiB were taken without a reader");
    }
}

pub static CASES: &[Case] = &[
    Case::new(
        "crowd.files_in_a_message",
        "unix(7)",
        "SCM_RIGHTS: 253 files travel, 254 and 1000 give EINVAL",
        || {
            let (a, b) = socket_pair(SOCK_STREAM)?;
            let file = put(c"f", b"x")?;
            failed_with("254", send_files(a, &[file; 254], 0), &[EINVAL])?;
            failed_with("1000", send_files(a, &[file; 1000], 0), &[EINVAL])?;
            eq("253", send_files(a, &[file; 253], 0), 1)?;
            // Read without room for them: they are closed.
            eq("byte", read_some(b, 9)?, b"x".to_vec())
        },
    ),
    Case::new(
        "crowd.until_no_descriptor_is_left",
        "socket(2)",
        "EMFILE at the limit, and one that is closed makes room for another",
        || {
            let limit = rlimit {
                rlim_cur: 64,
                rlim_max: 64,
            };
            ok!(setrlimit(RLIMIT_NOFILE, &limit));
            let mut last = -1;
            loop {
                let fd = raw!(socket(AF_INET, SOCK_STREAM, 0));
                if fd == -1 {
                    break;
                }
                last = fd;
            }
            eq("errno", errno_name(errno()), "EMFILE".to_string())?;
            err!(EMFILE, socket(AF_UNIX, SOCK_DGRAM, 0));
            let mut fds = [0; 2];
            err!(
                EMFILE,
                socketpair(AF_UNIX, SOCK_STREAM, 0, fds.as_mut_ptr())
            );
            ok!(close(last));
            gives!(last, socket(AF_INET, SOCK_DGRAM, 0));
            Ok(())
        },
    ),
    Case::new(
        "crowd.full_queues",
        "socket(7)",
        "many connections that nobody reads hold what they hold, and another one works",
        || {
            let mut full = Vec::new();
            for _ in 0..20 {
                let (a, b) = tcp_pair()?;
                ensure!(fill(a)? > 0, "nothing was taken");
                let (c, d) = socket_pair(SOCK_STREAM)?;
                ensure!(fill(c)? > 0, "nothing was taken");
                full.extend([a, b, c, d]);
            }
            let (a, b) = tcp_pair()?;
            write_all(a, b"through")?;
            eq("another", receive(b, 7, MSG_WAITALL)?, b"through".to_vec())?;
            for fd in full {
                ok!(close(fd));
            }
            Ok(())
        },
    ),
    Case::new(
        "crowd.connections_that_come_and_go",
        "tcp(7)",
        "thousands of short connections, closed in every order",
        || {
            let (server, address) = tcp_listener(8)?;
            for round in 0..3000 {
                let client = new_tcp()?;
                succeeded("connect", connect_to(client, address))?;
                if round % 3 == 0 {
                    eq("send", send_text(client, b"unread", MSG_NOSIGNAL), 6)?;
                }
                if round % 4 == 0 {
                    ok!(close(client));
                    ok!(close(accept_one(server)?));
                } else {
                    let peer = accept_one(server)?;
                    let (first, second) = if round % 2 == 0 {
                        (peer, client)
                    } else {
                        (client, peer)
                    };
                    ok!(close(first));
                    ok!(close(second));
                }
            }
            Ok(())
        },
    ),
    Case::new(
        "crowd.datagrams_to_nobody",
        "udp(7)",
        "a flood of datagrams that nobody reads is lost, and what is read makes room",
        || {
            let (a, _) = udp_bound()?;
            let (b, to) = udp_bound()?;
            for _ in 0..5000 {
                eq("send", send_to(a, &[1; 1400], to), 1400)?;
            }
            let mut got = 0;
            let mut buf = [0u8; 2000];
            while raw!(recv(b, buf.as_mut_ptr().cast(), 2000, MSG_DONTWAIT)) > 0 {
                got += 1;
            }
            ensure!(got < 5000, "nothing was lost");
            eq("send", send_to(a, b"more", to), 4)?;
            eq("receive", receive(b, 9, 0)?, b"more".to_vec())
        },
    ),
];
