//! Starting commands natively and behind a runtime prefix, and ending them for certain.
//!
//! A [`Target`] is a name and the words to put in front of a command; the native one has no
//! words. A started command leads its own process group, so that a timeout ends the runtime
//! with everything it started.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A way to run a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `native`, or the platform's name.
    pub name: String,
    pub prefix: Vec<String>,
}

/// What stands in a runtime command for the platform's name.
pub const PLATFORM: &str = "{platform}";

impl Target {
    pub fn native() -> Target {
        Target {
            name: "native".to_string(),
            prefix: Vec::new(),
        }
    }

    /// The runtime command for one platform: `{platform}` in it is replaced.
    pub fn sandbox(runtime: &[String], platform: &str) -> Target {
        let prefix = runtime
            .iter()
            .map(|word| word.replace(PLATFORM, platform))
            .collect();
        Target {
            name: platform.to_string(),
            prefix,
        }
    }

    fn command(&self, words: &[String]) -> Command {
        let all: Vec<&String> = self.prefix.iter().chain(words).collect();
        let mut command = Command::new(all[0]);
        command
            .args(&all[1..])
            .process_group(0)
            .stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a command whose standard output is read line by line.
    pub fn start(&self, words: &[String]) -> std::io::Result<Running> {
        let mut child = self.command(words).spawn()?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    return;
                }
                line.clear();
            }
        });
        let stderr = child.stderr.take().expect("stderr is piped");
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&tail);
        let (ended_sender, stderr_ended) = channel();
        std::thread::spawn(move || {
            keep_tail(stderr, &kept);
            drop::<Sender<()>>(ended_sender);
        });
        Ok(Running {
            child,
            lines,
            tail,
            stderr_ended,
            ended: None,
        })
    }

    /// Runs a command to its end and keeps everything it prints.
    pub fn output(&self, words: &[String], timeout: Duration) -> std::io::Result<Output> {
        let mut running = self.start(words)?;
        let deadline = Instant::now() + timeout;
        let mut stdout = String::new();
        let mut hung = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match running.next_line(left) {
                Next::Line(line) => stdout.push_str(&line),
                Next::End => break,
                Next::Timeout => {
                    hung = true;
                    break;
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let status = if hung { None } else { running.wait(left) };
        let stderr = running.stderr_tail();
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    }
}

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    /// `None`: it had to be killed at the timeout.
    pub status: Option<ExitStatus>,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug)]
pub enum Next {
    Line(String),
    End,
    Timeout,
}

/// A started command; dropping it kills what is left of it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    tail: Arc<Mutex<VecDeque<u8>>>,
    /// Nothing is ever sent; it disconnects when standard error has been read to its end.
    stderr_ended: Receiver<()>,
    ended: Option<ExitStatus>,
}

impl Running {
    pub fn next_line(&mut self, timeout: Duration) -> Next {
        match self.lines.recv_timeout(timeout) {
            Ok(line) => Next::Line(line),
            Err(RecvTimeoutError::Disconnected) => Next::End,
            Err(RecvTimeoutError::Timeout) => Next::Timeout,
        }
    }

    /// Waits for the end, `None` if it did not come in time.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.ended = Some(status);
                return self.ended;
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The last words on standard error.
    pub fn stderr_tail(&self) -> String {
        // Something left behind may hold it open; what it says later is not waited for.
        let _ = self.stderr_ended.recv_timeout(Duration::from_secs(2));
        let tail = self
            .tail
            .lock()
            .map(|t| t.iter().copied().collect::<Vec<u8>>());
        String::from_utf8_lossy(&tail.unwrap_or_default())
            .trim()
            .to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // The leader is not reaped yet or the group is empty, so the number is ours.
            // SAFETY of the call: no memory is involved.
            if self.ended.is_none() {
                unsafe { libc::kill(-pid, libc::SIGKILL) };
            }
        }
        let _ = self.child.wait();
    }
}

/// Enough for the counts of a chatty test.
const TAIL_BYTES: usize = 4 << 20;

fn keep_tail(mut from: impl Read, into: &Mutex<VecDeque<u8>>) {
    let mut buf = [0; 4096];
    while let Ok(n) = from.read(&mut buf) {
        if n == 0 {
            return;
        }
        let Ok(mut tail) = into.lock() else { return };
        tail.extend(&buf[..n]);
        let surplus = tail.len().saturating_sub(TAIL_BYTES);
        tail.drain(..surplus);
    }
}

/// "exit 3", "signal 9", or "killed at the timeout".
pub fn describe(status: Option<ExitStatus>) -> String {
    match status {
        None => "killed at the timeout".to_string(),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "unknown status".to_string(),
        },
    }
}
