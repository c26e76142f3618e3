//! Terminals: their masters go to a socket, their signals to the program in the foreground.

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::json;

use crate::bundle::Bundle;
use crate::runtime::{Runtime, on_each, wait_for};

/// The master of a terminal, and what was read from it.
struct Terminal {
    master: File,
    seen: String,
}

impl Terminal {
    /// Takes the master that a runtime sends to the socket.
    fn receive(listener: &UnixListener) -> Terminal {
        listener.set_nonblocking(true).unwrap();
        let (stream, _) = wait_for("a connection", || listener.accept().ok());
        stream.set_nonblocking(false).unwrap();
        let master = File::from(receive_fd(&stream));
        let flags = unsafe { libc::fcntl(master.as_raw_fd(), libc::F_GETFL) };
        unsafe { libc::fcntl(master.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
        Terminal {
            master,
            seen: String::new(),
        }
    }

    fn write(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until it has seen the text; forgets what was up to there.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        wait_for(&format!("{text:?}"), || {
            let mut buffer = [0; 4096];
            if let Ok(n) = self.master.read(&mut buffer) {
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
            let end = self.seen.find(text)? + text.len();
            self.seen.drain(..end);
            Some(())
        });
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        assert_eq!(
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) },
            0
        );
    }
}

/// One fd that comes with a message.
fn receive_fd(stream: &UnixStream) -> OwnedFd {
    let mut data = [0u8; 256];
    let mut iov = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let mut control = [0u64; 16];
    // All-zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let n = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    assert!(n > 0, "the socket is closed");
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    assert!(!header.is_null(), "no fd came");
    unsafe {
        assert_eq!((*header).cmsg_type, libc::SCM_RIGHTS);
        let fd = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
        OwnedFd::from_raw_fd(fd)
    }
}

fn listen(bundle: &Bundle) -> (UnixListener, String) {
    let path = bundle.at("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (listener, path.display().to_string())
}

/// A shell with job control on its terminal: jobs, signals, sizes.
fn drive(terminal: &mut Terminal) {
    terminal.write("PS1='rea''dy> '\n");
    terminal.expect("ready> ");
    terminal.write("stty -echo; echo on $((40 + 2))\n");
    terminal.expect("on 42\r\n");
    terminal.write("[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all $((1 + 1))\n");
    terminal.expect("all 2\r\n");
    // It has a name, by which it can be opened.
    terminal.write("tty && echo by $((2 + 1)) names > $(tty)\n");
    terminal.expect("/dev/");
    terminal.expect("by 3 names\r\n");
    terminal.resize(33, 99);
    terminal.write("stty size\n");
    terminal.expect("33 99\r\n");
    // Ctrl-C reaches the program in the foreground, and not the shell.
    terminal.write("sh -c 'echo up; exec sleep 1000'\n");
    terminal.expect("up\r\n");
    terminal.write("\x03");
    terminal.expect("ready> ");
    terminal.write("echo status $?\n");
    terminal.expect("status 130\r\n");
    // Ctrl-Z stops it, and it can go on.
    terminal.write("sh -c 'echo up; read line; echo got $line'\n");
    terminal.expect("up\r\n");
    terminal.write("\x1a");
    terminal.expect("Stopped");
    terminal.write("fg\n");
    terminal.write("word\n");
    terminal.expect("got word\r\n");
    // A change of size is told.
    terminal
        .write("sh -c 'trap \"stty size; exit\" WINCH; echo up; while :; do sleep 0.05; done'\n");
    terminal.expect("up\r\n");
    terminal.resize(20, 70);
    terminal.expect("20 70\r\n");
    terminal.write("exit 5\n");
}

#[test]
fn a_container_with_a_terminal() {
    on_each(|runtime: &Runtime| {
        let bundle = Bundle::new(&["sh"]).with(|config| {
            config["process"]["terminal"] = json!(true);
            config["process"]["consoleSize"] = json!({"height": 40, "width": 100});
        });
        let (listener, socket) = listen(&bundle);
        runtime
            .make(&["create", "--console-socket", &socket], &bundle, "c")
            .ok();
        let mut terminal = Terminal::receive(&listener);
        runtime.call(&["start", "c"]).ok();
        terminal.write("stty size\n");
        terminal.expect("40 100\r\n");
        drive(&mut terminal);
        runtime.until("c", "stopped");
        runtime.call(&["delete", "c"]).ok();
    });
}

#[test]
fn a_process_with_a_terminal_of_its_own() {
    on_each(|runtime: &Runtime| {
        let bundle = Bundle::new(&["sleep", "1000"]);
        runtime.running(&bundle, "c");
        let (listener, socket) = listen(&bundle);
        let exec = ["exec", "-t", "-d", "--console-socket", &socket, "c", "sh"];
        runtime.call(&exec).ok();
        let mut terminal = Terminal::receive(&listener);
        drive(&mut terminal);
        assert_eq!(runtime.status("c"), "running");
        runtime.delete("c");
    });
}

#[test]
fn a_terminal_needs_somebody_to_have_it() {
    on_each(|runtime: &Runtime| {
        let bundle = Bundle::new(&["true"]).with(|config| {
            config["process"]["terminal"] = json!(true);
        });
        assert_eq!(runtime.make(&["create"], &bundle, "c").code, 1, "no socket");
        let nowhere = bundle.at("nowhere").display().to_string();
        let create = ["create", "--console-socket", &nowhere];
        assert_eq!(
            runtime.make(&create, &bundle, "c").code,
            1,
            "nobody listens"
        );
        let plain = Bundle::new(&["true"]);
        let (_listener, socket) = listen(&plain);
        let create = ["create", "--console-socket", &socket];
        assert_eq!(
            runtime.make(&create, &plain, "c").code,
            1,
            "no terminal to give"
        );
    });
}

#[test]
fn the_session_ends_when_the_master_closes() {
    on_each(|runtime: &Runtime| {
        let bundle = Bundle::new(&["sh"]).with(|config| {
            config["process"]["terminal"] = json!(true);
        });
        let (listener, socket) = listen(&bundle);
        runtime
            .make(&["create", "--console-socket", &socket], &bundle, "c")
            .ok();
        let mut terminal = Terminal::receive(&listener);
        runtime.call(&["start", "c"]).ok();
        terminal.write("echo $((40 + 2))\n");
        terminal.expect("42\r\n");
        drop(terminal);
        runtime.until("c", "stopped");
        runtime.call(&["delete", "c"]).ok();
    });
}
