//! Waiting for the end of what a connection runs, and passing signals on meanwhile.

use std::os::fd::AsFd;

use anyhow::Result;
use nix::{
    poll::PollFlags,
    sys::termios::{SetArg, Termios, tcgetattr, tcsetattr},
};
use runsc_sentry::control::{Error, ExitStatus};

use crate::{
    failure::Report,
    link::{Ask, Connection, Envelope, Tell},
    sandbox::{Signals, supervise},
};

/// How it ended.
#[derive(Debug)]
pub enum End {
    Exited(ExitStatus),
    Broken(Report),
}

/// Our terminal's settings, put back if the guest had no chance to.
#[derive(Debug)]
pub struct Settings(Option<Termios>);

impl Settings {
    pub fn note() -> Self {
        Self(tcgetattr(std::io::stdin()).ok())
    }

    pub fn put_back(&self) {
        if let Some(settings) = &self.0 {
            // Fails only if the terminal is gone.
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, settings);
        }
    }
}

pub fn attend(connection: &Connection, signals: &Signals) -> Result<End> {
    loop {
        let [told, arrived] = supervise::wait([
            (connection.as_fd(), PollFlags::POLLIN),
            (signals.as_fd(), PollFlags::POLLIN),
        ])?;
        if arrived {
            while let Some(signal) = signals.next()? {
                forward(connection, signal)?;
            }
        }
        if !told {
            continue;
        }
        match connection.recv() {
            Ok(Tell::Exited(status)) => return Ok(End::Exited(status)),
            Ok(Tell::Broken(report)) => return Ok(End::Broken(report)),
            Ok(_) => {}
            // The monitor was killed, and everything with it.
            Err(Error::Closed) => {
                return Ok(End::Exited(ExitStatus::Signal {
                    signo: libc::SIGKILL,
                    core_dumped: false,
                }));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn forward(connection: &Connection, signal: supervise::Arrived) -> Result<()> {
    let supervise::Arrived { signo, foreground } = signal;
    let asks = match signo {
        libc::SIGCONT => vec![Ask::Foreground(supervise::in_foreground())],
        _ => vec![],
    };
    for ask in asks.into_iter().chain([Ask::Forward { signo, foreground }]) {
        match connection.send(&Envelope::new(ask)) {
            // Its end is noticed in a moment.
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
