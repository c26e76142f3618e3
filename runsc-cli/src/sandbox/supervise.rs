//! What the command line does while a sandbox lives: passes signals on and waits for the end.
//!
//! One poll(2) over the Sentry's control socket, a signalfd and both children's pidfds. What the
//! Sentry says counts before anybody's death, because a sandbox that ends well dies as well.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, raise},
        signalfd::{SfdFlags, SignalFd, siginfo},
        termios::{SetArg, tcsetattr},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::{getpgrp, tcgetpgrp},
};
use runsc_sentry::control::{Error, Event, ExitStatus, Request, SignalTarget};

use super::{Process, Sandbox};
use crate::logging::{self, printable};

/// Signals that are the guest's business rather than ours.
const FORWARDED: [Signal; 10] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// `si_code` of a signal the kernel sent by itself: from the terminal, for these signals.
const SI_KERNEL: i32 = 0x80;

/// How long a process may take to die after the other one has.
const GRACE: Duration = Duration::from_millis(200);

/// What a wait for the Sentry brings.
#[derive(Debug)]
pub(super) enum Next {
    Event(Event),
    End(Outcome),
}

/// How a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Exited(ExitStatus),
    /// The guest's program could not be started.
    StartFailed {
        exit_code: u8,
        message: String,
    },
    /// The sandbox itself failed.
    Broken(String),
}

/// The forwarded signals, blocked and readable. To be made before anything that must be cleaned up.
#[derive(Debug)]
pub struct Signals {
    pub(super) fd: SignalFd,
    /// Signals that were blocked before; signal n is bit n - 1.
    pub blocked_before: u64,
}

impl Signals {
    pub fn block() -> Result<Self> {
        let mask = SigSet::from_iter(FORWARDED);
        let before = mask.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&mask, flags).context("signalfd")?;
        let blocked_before = runsc_platform::process::signal_bits(before.as_ref());
        Ok(Self { fd, blocked_before })
    }
}

/// What came for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    pub signo: i32,
    /// From the terminal, so for its foreground.
    pub foreground: bool,
}

impl Signals {
    /// The next signal that has come.
    pub fn next(&self) -> Result<Option<Arrived>> {
        let info = self.fd.read_signal().context("signalfd")?;
        Ok(info.map(|info| Arrived {
            signo: info.ssi_signo as i32,
            foreground: info.ssi_code == SI_KERNEL
                || matches!(
                    info.ssi_signo as i32,
                    libc::SIGCONT | libc::SIGTSTP | libc::SIGWINCH
                ),
        }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How a child ended.
pub(super) type Ended = WaitStatus;

/// Whoever waits for the guest learns what killed its process.
pub(super) fn tell_out_of_memory(pid: i32) {
    logging::tell(&format!("out of memory: process {pid} was killed"));
}

impl Process {
    /// Reaps the process if it is dead.
    pub(super) fn try_reap(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
            match waitid(Id::PIDFd(self.child.pidfd.as_fd()), flags) {
                Ok(WaitStatus::StillAlive) | Err(nix::Error::EINTR) => {}
                other => self.ended = Some(other.with_context(|| self.name)?),
            }
        }
        Ok(self.ended.is_some())
    }

    /// What to tell the user about a process that died by itself.
    fn obituary(&mut self) -> String {
        let name = self.name;
        // It may have said so itself.
        if let Ok(Event::Fatal { report }) = self.control.recv() {
            return format!("{name}: {}", printable(&report));
        }
        match self.ended {
            Some(WaitStatus::Signaled(_, Signal::SIGSYS, _)) => {
                format!("{name} was killed: it made a host system call that its filter forbids")
            }
            Some(WaitStatus::Signaled(_, signal, _)) => {
                format!("{name} died unexpectedly: killed by {signal}")
            }
            Some(WaitStatus::Exited(_, code)) => match self.child.failure() {
                Some(error) => format!("{name} could not be executed: {error}"),
                None => format!("{name} died unexpectedly: exit status {code}"),
            },
            _ => format!("{name} died unexpectedly"),
        }
    }

    pub(super) fn kill(&self) {
        if self.ended.is_none() {
            // Fails only if it is dead already.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.pid), Signal::SIGKILL);
        }
    }
}

impl Sandbox {
    /// Waits for the end of the sandbox, passing signals on. Nothing of it is left afterwards.
    pub fn supervise(mut self, signals: &Signals) -> Result<Outcome> {
        let outcome = self.watch(signals);
        // A guest that ends by itself leaves the terminal as it likes, as it would outside; one that
        // was cut short had no chance to.
        if let (Some(terminal), Ok(Outcome::Broken(_)) | Err(_)) = (&self.terminal, &outcome) {
            // Fails only if the terminal is gone.
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, terminal);
        }
        outcome
    }

    fn watch(&mut self, signals: &Signals) -> Result<Outcome> {
        if let Some(warning) = &self.warning {
            log::warn!("{warning}");
        }
        if !in_foreground() {
            self.tell(&Request::Terminal { foreground: false })?;
        }
        loop {
            match self.next(signals)? {
                Next::Event(event) => {
                    if let Some(outcome) = self.on_event(event, signals)? {
                        return Ok(outcome);
                    }
                }
                Next::End(outcome) => return Ok(outcome),
            }
        }
    }

    /// Waits for the Sentry's next event or the end of the sandbox, and passes signals on meanwhile.
    pub(super) fn next(&mut self, signals: &Signals) -> Result<Next> {
        loop {
            let network = self.network.as_ref().unwrap_or(&self.gofer);
            let [control, network, arrived, gofer, sentry] = wait([
                (self.sentry.control.as_fd(), PollFlags::POLLIN),
                (network.child.pidfd.as_fd(), PollFlags::POLLIN),
                (signals.fd.as_fd(), PollFlags::POLLIN),
                (self.gofer.child.pidfd.as_fd(), PollFlags::POLLIN),
                (self.sentry.child.pidfd.as_fd(), PollFlags::POLLIN),
            ])?;
            if network {
                self.network_ended()?;
            }
            if arrived {
                self.forward(signals)?;
            }
            if control {
                match self.sentry.control.recv_with() {
                    Ok((Event::Memory, mut fds)) => {
                        self.memory = fds.pop();
                        continue;
                    }
                    Ok((event, _)) => return Ok(Next::Event(event)),
                    Err(Error::Closed) => {}
                    Err(error) => {
                        return Ok(Next::End(Outcome::Broken(format!("sentry: {error}"))));
                    }
                }
            }
            if control || gofer || sentry {
                return self.post_mortem().map(Next::End);
            }
        }
    }

    /// If the network Gofer has died: the sandbox goes on, without new sockets to the outside.
    pub(super) fn network_ended(&mut self) -> Result<()> {
        let Some(network) = &mut self.network else {
            return Ok(());
        };
        if network.try_reap()? {
            // It ends by itself when the Sentry does.
            if !matches!(network.ended, Some(WaitStatus::Exited(_, 0))) {
                let why = network.obituary();
                logging::tell(&format!(
                    "{why}; the guest makes no more sockets to the outside"
                ));
            }
            self.network = None;
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event, signals: &Signals) -> Result<Option<Outcome>> {
        match event {
            Event::Stopped { signo } => {
                log::debug!("the program was stopped by signal {signo}");
                self.stop(signo, signals)?;
                Ok(None)
            }
            Event::OtherPlatform { text } => {
                // Once, whatever the Sentry has become.
                if self.warning.is_none() {
                    let text = self.warning.insert(printable(&text));
                    log::warn!("{text}");
                }
                Ok(None)
            }
            event => self.end_of(event),
        }
    }

    /// Whether an event is the end of the sandbox.
    pub(super) fn end_of(&mut self, event: Event) -> Result<Option<Outcome>> {
        Ok(match event {
            Event::Started => {
                log::debug!("the program has started");
                // All that is left to do here is to wait.
                runsc_platform::process::release_start_up_memory();
                None
            }
            Event::Exited(status) => Some(Outcome::Exited(status)),
            Event::StartFailed { exit_code, message } => Some(Outcome::StartFailed {
                exit_code,
                message: printable(&message),
            }),
            Event::Fatal { report } => {
                // A Sentry without its Gofer complains as well, but is not to blame. It may have
                // noticed before the kernel let us.
                let deadline = Instant::now() + GRACE;
                wait_for(self.gofer.child.pidfd.as_fd(), deadline)?;
                if self.gofer_died_first()? {
                    return Ok(Some(Outcome::Broken(self.gofer.obituary())));
                }
                Some(Outcome::Broken(format!("sentry: {}", printable(&report))))
            }
            Event::OutOfMemory { pid } => {
                tell_out_of_memory(pid);
                self.tell(&Request::OutOfMemorySeen)?;
                None
            }
            // About what was not asked for, or no end.
            _ => None,
        })
    }

    /// Stops with the guest's program, by the same signal, so that the host decides whether there is
    /// a shell to continue us. If there is none it does not stop us, and the guest has to go on.
    fn stop(&mut self, signo: i32, signals: &Signals) -> Result<()> {
        let signal = Signal::try_from(signo)?;
        let mut mask = SigSet::empty();
        mask.add(signal);
        // One that waits already would be the same once more.
        mask.thread_unblock()?;
        raise(signal)?;
        if FORWARDED.contains(&signal) {
            mask.thread_block()?;
        }
        if !self.forward(signals)?.contains(Signal::SIGCONT) {
            // Nobody could put us into the foreground: asking again would not end.
            self.tell(&Request::Terminal { foreground: true })?;
            self.tell(&Request::Signal {
                signo: libc::SIGCONT,
                target: SignalTarget::Foreground,
            })?;
        }
        Ok(())
    }

    /// Somebody died without a word from the Sentry. Finds out who was first.
    pub(super) fn post_mortem(&mut self) -> Result<Outcome> {
        if self.gofer_died_first()? {
            return Ok(Outcome::Broken(self.gofer.obituary()));
        }
        let deadline = Instant::now() + GRACE;
        while !self.sentry.try_reap()? && Instant::now() < deadline {
            wait_for(self.sentry.child.pidfd.as_fd(), deadline)?;
        }
        self.sentry.kill();
        // It may have spoken after we looked.
        match self.sentry.control.recv() {
            Ok(Event::Exited(status)) => Ok(Outcome::Exited(status)),
            Ok(Event::StartFailed { exit_code, message }) => Ok(Outcome::StartFailed {
                exit_code,
                message: printable(&message),
            }),
            Ok(Event::Fatal { report }) => {
                Ok(Outcome::Broken(format!("sentry: {}", printable(&report))))
            }
            _ => Ok(Outcome::Broken(self.sentry.obituary())),
        }
    }

    /// Whether the Gofer is dead, and not because the Sentry hung up (then it exits with 0).
    fn gofer_died_first(&mut self) -> Result<bool> {
        self.gofer.try_reap()?;
        Ok(!matches!(
            self.gofer.ended,
            None | Some(WaitStatus::Exited(_, 0))
        ))
    }

    /// Passes on what has come, and says what that was.
    pub(super) fn forward(&mut self, signals: &Signals) -> Result<SigSet> {
        let mut seen = SigSet::empty();
        while let Some(info) = signals.fd.read_signal().context("signalfd")? {
            if let Ok(signal) = Signal::try_from(info.ssi_signo as i32) {
                seen.add(signal);
            }
            let request = request_for(&info);
            log::debug!("signal {} becomes {request:?}", info.ssi_signo);
            if info.ssi_signo == libc::SIGCONT as u32 {
                self.tell(&Request::Terminal {
                    foreground: in_foreground(),
                })?;
            }
            self.tell(&request)?;
        }
        Ok(seen)
    }

    pub(super) fn tell(&mut self, request: &Request) -> Result<()> {
        match self.sentry.control.send(request) {
            // Its end is noticed by the caller.
            Ok(()) | Err(Error::Closed) => Ok(()),
            Err(error) => Err(error).context("telling the Sentry"),
        }
    }
}

/// Is ours the foreground job of our terminal? Without a terminal nobody else's is.
pub fn in_foreground() -> bool {
    let foreground = tcgetpgrp(std::io::stdin())
        .or_else(|_| tcgetpgrp(std::io::stdout()))
        .or_else(|_| tcgetpgrp(std::io::stderr()));
    foreground.map_or(true, |group| group == getpgrp())
}

/// What the Sentry is asked to do about a signal that came to us.
fn request_for(info: &siginfo) -> Request {
    let signo = info.ssi_signo as i32;
    if signo == libc::SIGWINCH {
        return Request::Resize;
    }
    let from_terminal = info.ssi_code == SI_KERNEL;
    let target = if from_terminal || matches!(signo, libc::SIGCONT | libc::SIGTSTP) {
        SignalTarget::Foreground
    } else {
        SignalTarget::Init
    };
    Request::Signal { signo, target }
}

impl Drop for Process {
    /// Nothing is left behind, whatever happened.
    fn drop(&mut self) {
        self.kill();
        while self.ended.is_none() {
            match waitid(Id::PIDFd(self.child.pidfd.as_fd()), WaitPidFlag::WEXITED) {
                Err(nix::Error::EINTR) => {}
                Ok(status) => self.ended = Some(status),
                Err(_) => break,
            }
        }
    }
}

/// Which of the fds are ready (or at their end).
pub fn wait<const N: usize>(on: [(BorrowedFd<'_>, PollFlags); N]) -> Result<[bool; N]> {
    let mut fds = on.map(|(fd, events)| PollFd::new(fd, events));
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => {}
            result => {
                result.context("poll")?;
                return Ok(fds.map(|fd| fd.any().unwrap_or(true)));
            }
        }
    }
}

/// Waits until `fd` is readable or the time has come.
fn wait_for(fd: BorrowedFd<'_>, deadline: Instant) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::ZERO);
    match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(errno) => Err(errno).context("poll"),
    }
}
