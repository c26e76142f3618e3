//! The Sentry's side of the control socket: reports out, requests in.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::first::{self, NotPrepared, Prepared, Role};
use super::join::{self, Joined, Joining};
use super::last::Last;
use super::{BootError, query};
use crate::config::ProcessConfig;
use crate::control::{self, Event, Request, Server, SignalTarget};
use crate::fs::mount::MountNamespace;
use crate::kernel::group::{ExitStatus, ThreadGroup};
use crate::kernel::signal::send::send_to_group;
use crate::kernel::signal::{DefaultAction, SigInfo, Signal};
use crate::kernel::{Kernel, Supervisor};

/// Reports over the control socket. The first report of an end is the last: the process ends with it,
/// and with it every stub.
pub struct ControlSupervisor {
    control: Arc<Server>,
    joined: Arc<Joined>,
    over: AtomicBool,
    last: Arc<OnceLock<Last>>,
    last_begun: AtomicBool,
    /// How often the lack of memory was told of and nobody has said that it was seen.
    unseen: Mutex<u32>,
    seen: Condvar,
}

/// How long a process that is to end for lack of memory is kept for others to see.
const PATIENCE: Duration = Duration::from_secs(1);

impl ControlSupervisor {
    /// `last` is done before the end of the first process is reported.
    pub fn new(control: Arc<Server>, joined: Arc<Joined>, last: Arc<OnceLock<Last>>) -> Self {
        ControlSupervisor {
            control,
            joined,
            over: AtomicBool::new(false),
            last,
            last_begun: AtomicBool::new(false),
            unseen: Mutex::new(0),
            seen: Condvar::new(),
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
        if let Some(last) = self.last.get()
            && !self.last_begun.swap(true, Ordering::SeqCst)
        {
            last.run();
        }
        self.end(&Event::Exited(reported(status)));
    }

    fn out_of_memory(&self, pid: i32) {
        let mut unseen = self.unseen.lock();
        *unseen = unseen.saturating_add(1);
        if self.control.send(&Event::OutOfMemory { pid }).is_err() {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        while *unseen > 0 && !self.seen.wait_until(&mut unseen, deadline).timed_out() {}
        *unseen = 0;
    }

    fn out_of_memory_seen(&self) {
        let mut unseen = self.unseen.lock();
        *unseen = unseen.saturating_sub(1);
        self.seen.notify_all();
    }

    fn another_ended(&self, group: &Arc<ThreadGroup>, status: ExitStatus) {
        if let Some(id) = self.joined.remove(group) {
            let status = reported(status);
            let _ = self.control.send(&Event::JoinedExited { id, status });
        }
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

fn reported(status: ExitStatus) -> control::ExitStatus {
    match status {
        ExitStatus::Exited(code) => control::ExitStatus::Code(code),
        ExitStatus::Signaled { signal, core } => control::ExitStatus::Signal {
            signo: signal.number(),
            core_dumped: core,
        },
    }
}

/// The container as the command line commands it.
pub struct Container {
    kernel: Arc<Kernel>,
    control: Arc<Server>,
    joined: Arc<Joined>,
    /// Known once the mounts stand.
    namespace: OnceLock<Arc<MountNamespace>>,
    /// The first process while it has not run.
    first: Mutex<Option<Prepared>>,
}

impl Container {
    pub fn new(kernel: &Arc<Kernel>, control: &Arc<Server>, joined: Arc<Joined>) -> Container {
        Container {
            kernel: kernel.clone(),
            control: control.clone(),
            joined,
            namespace: OnceLock::new(),
            first: Mutex::new(None),
        }
    }

    pub fn set_namespace(&self, namespace: &Arc<MountNamespace>) {
        // Called once.
        let _ = self.namespace.set(namespace.clone());
    }

    /// Makes the first process. A program that cannot be executed ends the sandbox.
    pub fn prepare_first(
        &self,
        namespace: &Arc<MountNamespace>,
        process: &ProcessConfig,
        files: Vec<(i32, OwnedFd)>,
    ) -> Result<(), BootError> {
        match first::prepare(&self.kernel, namespace.clone(), process, files, Role::First) {
            Ok(prepared) => *self.first.lock() = Some(prepared),
            Err(NotPrepared::Boot(e)) => return Err(e),
            Err(NotPrepared::Program(why)) => self
                .kernel
                .supervisor()
                .start_failed(why.exit_code, &why.message),
        }
        Ok(())
    }

    /// Says that everything is ready for the first process.
    pub fn announce(&self) {
        let _ = self.control.send(&Event::Prepared);
    }

    /// Lets the first process run, unless it does.
    pub fn start_first(&self) {
        let Some(first) = self.first.lock().take() else {
            return;
        };
        // Hooks have set up the network by now.
        self.kernel.net.look();
        let kernel = self.kernel.clone();
        first.launch(move |result| match result {
            Ok(()) => kernel.supervisor().started(),
            Err(why) => kernel
                .supervisor()
                .start_failed(why.exit_code, &why.message),
        });
    }

    /// Carries out what the command line asks for, until it is gone.
    pub fn serve(&self) {
        loop {
            let (request, fds) = match self.control.recv_with() {
                Ok(received) => received,
                Err(e) => {
                    self.kernel.fatal(&format!("control socket: {e}"));
                    return;
                }
            };
            if let Err(e) = self.carry_out(request, fds) {
                self.kernel.fatal(&format!("control socket: {e}"));
                return;
            }
        }
    }

    fn carry_out(&self, request: Request, fds: Vec<OwnedFd>) -> Result<(), control::Error> {
        match request {
            Request::Signal { signo, target } => {
                if let Some(signal) = Signal::new(signo) {
                    self.signal(signal, target);
                }
            }
            Request::Terminal { foreground } => {
                let background = &self.kernel.host_background;
                background.store(!foreground, Ordering::Relaxed);
            }
            Request::Resize => self.signal(Signal::SIGWINCH, SignalTarget::Foreground),
            Request::Start => self.start_first(),
            Request::OutOfMemorySeen => self.kernel.supervisor().out_of_memory_seen(),
            Request::Join { id, files } => match self.namespace.get() {
                Some(namespace) => {
                    let joining = Joining { id, files, fds };
                    self.joined
                        .join(&self.kernel, namespace, &self.control, joining)?;
                }
                None => self.control.send(&join::failed(id, 1, "not ready yet"))?,
            },
            Request::Query { id, what } => {
                for answer in query::answer(&self.kernel, what) {
                    self.control.send(&Event::Answer { id, answer })?;
                }
            }
        }
        Ok(())
    }

    fn signal(&self, signal: Signal, target: SignalTarget) {
        let Some(first) = self.kernel.first() else {
            return;
        };
        let info = SigInfo::user(signal, 0, 0);
        match target {
            SignalTarget::Init => {
                if !self.ends_before_start(signal) {
                    send_to_group(&first, info);
                }
            }
            SignalTarget::All => {
                for group in self.kernel.tree.groups() {
                    if !Arc::ptr_eq(&group, &first) || !self.ends_before_start(signal) {
                        send_to_group(&group, info);
                    }
                }
            }
            SignalTarget::Foreground => {
                if !self.ends_before_start(signal) {
                    signal_foreground(&self.kernel, &first, info);
                }
            }
            SignalTarget::Joined(id) => {
                if let Some(group) = self.joined.group(id) {
                    send_to_group(&group, info);
                }
            }
            SignalTarget::JoinedForeground(id) => {
                if let Some(group) = self.joined.group(id) {
                    signal_foreground(&self.kernel, &group, info);
                }
            }
        }
    }

    /// A first process that has not run has no handlers: what would end it ends the container, and
    /// the rest is lost. False if it runs.
    fn ends_before_start(&self, signal: Signal) -> bool {
        if self.first.lock().is_none() {
            return false;
        }
        let action = signal.default_action();
        if matches!(action, DefaultAction::Terminate | DefaultAction::Core) {
            self.kernel.supervisor().exited(ExitStatus::Signaled {
                signal,
                core: false,
            });
        }
        true
    }
}

/// Sends to the foreground group of the process's terminal; without one, to its own group.
fn signal_foreground(kernel: &Kernel, process: &ThreadGroup, info: SigInfo) {
    let (_, pgid, sid) = kernel.tree.relations(process.pid());
    let number = info.signal.number();
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
        log::debug!("no foreground process for signal {number}");
    }
}
