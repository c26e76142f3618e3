//! A client of Docker's on a terminal.

use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::docker::{Docker, PATIENCE, wait_for};

/// A client on a terminal of its own, made by script(1).
pub struct Session {
    child: Child,
    input: std::process::ChildStdin,
    output: std::process::ChildStdout,
    seen: String,
}

impl Session {
    pub fn start(docker: &Docker, args: &[&str]) -> Self {
        let inner = docker.command(args);
        let words: Vec<_> = [inner.get_program()]
            .into_iter()
            .chain(inner.get_args())
            .map(|word| word.to_string_lossy().replace('\'', "'\\''"))
            .map(|word| format!("'{word}'"))
            .collect();
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--echo", "never", "--command"]);
        // timeout(1) would take the terminal away.
        let line = words
            .join(" ")
            .replacen("'timeout' ", "'timeout' '--foreground' ", 1);
        script
            .arg(format!("stty rows 31 cols 97; exec {line}"))
            .arg("/dev/null");
        for (name, value) in inner.get_envs() {
            script.env(name, value.unwrap());
        }
        script.env("TERM", "xterm");
        let mut child = script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = child.stdout.take().unwrap();
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&output, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
        Self {
            child,
            input,
            output,
            seen: String::new(),
        }
    }

    pub fn write(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).unwrap();
        self.input.flush().unwrap();
    }

    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(start) = self.seen.find(text) {
                self.seen.drain(..start + text.len());
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} not in {:?}", self.seen);
            let mut buffer = [0; 4096];
            match self.output.read(&mut buffer) {
                Ok(n) if n > 0 => {
                    self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
                    continue;
                }
                Ok(_) => panic!("{text:?}: the end, after {:?}", self.seen),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub fn end(mut self) -> i32 {
        let status = wait_for("the client's end", || {
            let mut buffer = [0; 4096];
            let _ = self.output.read(&mut buffer);
            self.child.try_wait().unwrap()
        });
        status.code().unwrap()
    }
}
