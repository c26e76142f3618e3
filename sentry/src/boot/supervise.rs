//! The Sentry's side of the control socket: reports out, signals in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::last::Last;
use crate::control::{self, Event, Request, Server, SignalTarget};
use crate::kernel::group::ExitStatus;
use crate::kernel::signal::send::send_to_group;
use crate::kernel::signal::{SigInfo, Signal};
use crate::kernel::{Kernel, Supervisor};

/// Reports over the control socket. The first report is the last: the process ends with it, and with
/// it every stub.
pub struct ControlSupervisor {
    control: Arc<Server>,
    over: AtomicBool,
    last: Arc<OnceLock<Last>>,
    last_begun: AtomicBool,
}

impl ControlSupervisor {
    /// `last` is done before the end of the first process is reported.
    pub fn new(control: Arc<Server>, last: Arc<OnceLock<Last>>) -> Self {
        ControlSupervisor {
            control,
            over: AtomicBool::new(false),
            last,
            last_begun: AtomicBool::new(false),
        }
    }

    fn end(&self, event: &Event) {
        if self.over.swap(true, Ordering::SeqCst) {
            return;
        }
        // Without a listener there is nobody to tell.
        let _ = self.control.send(event);
        std::process::exit(0);
    }
}

impl Supervisor for ControlSupervisor {
    fn started(&self) {
        let _ = self.control.send(&Event::Started);
    }

    fn start_failed(&self, exit_code: u8, message: &str) {
        self.end(&Event::StartFailed {
            exit_code,
            message: message.to_owned(),
        });
    }

    fn exited(&self, status: ExitStatus) {
        let status = match status {
            ExitStatus::Exited(code) => control::ExitStatus::Code(code),
            ExitStatus::Signaled { signal, core } => control::ExitStatus::Signal {
                signo: signal.number(),
                core_dumped: core,
            },
        };
        if let Some(last) = self.last.get()
            && !self.last_begun.swap(true, Ordering::SeqCst)
        {
            last.run();
        }
        self.end(&Event::Exited(status));
    }

    fn stopped(&self, signal: Signal) {
        let _ = self.control.send(&Event::Stopped {
            signo: signal.number(),
        });
    }

    fn fatal(&self, report: &str) {
        self.end(&Event::Fatal {
            report: report.to_owned(),
        });
    }
}

/// Carries out what the command line asks for, until it is gone.
pub fn serve(kernel: &Arc<Kernel>, control: &Server) {
    loop {
        match control.recv() {
            Ok(Request::Signal { signo, target }) => {
                if let Some(signal) = Signal::new(signo) {
                    signal_guest(kernel, signal, target);
                }
            }
            Ok(Request::Terminal { foreground }) => {
                kernel.host_background.store(!foreground, Ordering::Relaxed);
            }
            Ok(Request::Resize) => signal_guest(kernel, Signal::SIGWINCH, SignalTarget::Foreground),
            Err(e) => {
                kernel.fatal(&format!("control socket: {e}"));
                return;
            }
        }
    }
}

fn signal_guest(kernel: &Kernel, signal: Signal, target: SignalTarget) {
    let Some(first) = kernel.first() else { return };
    let info = SigInfo::user(signal, 0, 0);
    match target {
        SignalTarget::Init => send_to_group(&first, info),
        SignalTarget::All => {
            for group in kernel.tree.groups() {
                send_to_group(&group, info);
            }
        }
        SignalTarget::Foreground => {
            let (_, pgid, sid) = kernel.tree.relations(first.pid());
            let foreground = {
                let tree = kernel.tree.lock();
                let session = tree.sessions.get(&sid);
                session
                    .filter(|s| s.terminal.is_some())
                    .map(|s| s.foreground)
            };
            if kernel
                .tree
                .signal_pgrp(foreground.unwrap_or(pgid), info)
                .is_err()
            {
                log::debug!("no foreground process for signal {}", signal.number());
            }
        }
    }
}
