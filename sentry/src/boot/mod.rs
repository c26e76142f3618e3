//! Start-up: from a boot configuration to the first guest instruction.
//!
//! Everything the host is asked for by name or that needs rights is done before the system-call
//! filter; after it only what [`filter`] lists is possible. The order matters: host fds and
//! threads first, then the filter, then the container's files are looked at and guest code runs.

pub mod filter;
mod first;
mod join;
mod last;
mod mounts;
mod query;
mod supervise;

use std::convert::Infallible;
use std::sync::{Arc, Barrier, OnceLock};
use std::time::Duration;

use runsc_platform::kvm;
use runsc_platform::memory::install_fault_handler;
use runsc_platform::systrap::{self, InPlace, Patching};
use runsc_platform::{Platform, WorkerId};

use crate::config::{BootConfig, BootFds, CpuQuota, PlatformChoice};
use crate::control::{Event, Server};
use crate::executor::{Executor, Reactor};
use crate::kernel::resources::{Machine, OwnUse};
use crate::kernel::{Kernel, KernelParts, Uts};
use crate::mm::{MemoryFile, TableMemory};
use crate::syscalls::strace::Strace;
use supervise::{Container, ControlSupervisor};

/// Why the Sentry could not start: the step and the reason, which is part of the text and so not told
/// as a source again.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("{step}: {error}")]
    Host {
        step: &'static str,
        error: std::io::Error,
    },
    #[error("platform {name}: {error}")]
    Platform {
        name: String,
        error: runsc_platform::Error,
    },
    #[error("unknown platform {0:?}: this build has systrap, ptrace and kvm")]
    UnknownPlatform(String),
    #[error("system-call filter: {0}")]
    Filter(#[from] runsc_platform::seccomp::Error),
    #[error("mount {destination}: {errno}")]
    Mount {
        destination: String,
        errno: crate::errno::Errno,
    },
    #[error("{what}: {errno}")]
    Guest {
        what: String,
        errno: crate::errno::Errno,
    },
}

fn host(step: &'static str) -> impl Fn(std::io::Error) -> BootError {
    move |error| BootError::Host { step, error }
}

/// Names of the platforms this build knows.
pub const PLATFORMS: &[&str] = &["systrap", "ptrace", "kvm"];

/// Those tried when none is asked for. kvm is not: whether it is the faster one depends on how the
/// machine virtualises, and where its traps are slow they are so by a factor of ten.
const DEFAULTS: &[&str] = &["systrap", "ptrace"];

/// The platform that is wanted, or the first that works here. `refused` hears why it is another one.
fn choose_platform(
    choice: &PlatformChoice,
    options: systrap::Options,
    kvm: kvm::Options,
    refused: impl FnOnce(&BootError, &dyn Platform),
) -> Result<Arc<dyn Platform>, BootError> {
    match choice {
        PlatformChoice::Any => first_platform(options),
        PlatformChoice::Only(name) => make_platform(name, options, kvm),
        PlatformChoice::Rather(name) => match make_platform(name, options, kvm) {
            Err(why) => {
                let platform = first_platform(options)?;
                refused(&why, &*platform);
                Ok(platform)
            }
            made => made,
        },
    }
}

fn first_platform(options: systrap::Options) -> Result<Arc<dyn Platform>, BootError> {
    let mut result = Err(BootError::UnknownPlatform(String::new()));
    for name in DEFAULTS {
        result = make_platform(name, options, kvm::Options::default());
        match &result {
            Ok(_) => break,
            Err(e) => log::info!("{e}"),
        }
    }
    result
}

fn make_platform(
    name: &str,
    options: systrap::Options,
    kvm: kvm::Options,
) -> Result<Arc<dyn Platform>, BootError> {
    let made: runsc_platform::Result<Arc<dyn Platform>> = match name {
        "systrap" => systrap::SystrapPlatform::new(options).map(|p| Arc::new(p) as _),
        "ptrace" => runsc_platform::ptrace::PtracePlatform::new().map(|p| Arc::new(p) as _),
        "kvm" => kvm::KvmPlatform::new(kvm).map(|p| Arc::new(p) as _),
        other => return Err(BootError::UnknownPlatform(other.to_owned())),
    };
    made.map_err(|error| BootError::Platform {
        name: name.to_owned(),
        error,
    })
}

/// Workers: one a CPU, but a handful at most, since each holds a stub of its own in reserve.
const MAX_WORKERS: usize = 4;
/// Stacks of our threads: the Sentry does not recurse deeply.
const THREAD_STACK: usize = 512 * 1024;

/// When the first program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    AtOnce,
    /// When the command line asks for it.
    OnRequest,
}

/// Boots the sandbox and runs it to its end, which ends the process.
///
/// # Errors
/// The sandbox could not start. Later failures go over the control socket.
pub fn run(config: BootConfig, fds: BootFds, begin: Start) -> Result<Infallible, BootError> {
    runsc_platform::host::single_heap();
    install_fault_handler().map_err(host("fault handler"))?;
    runsc_platform::host::raise_open_files_limit().map_err(host("open files limit"))?;
    let (cores, possible_cores) = processors(&config.limits).map_err(host("processors"))?;
    let control = Arc::new(Server::new(fds.control));
    let gofer =
        Arc::new(runsc_gofer::client::Client::new(fds.gofer).map_err(host("gofer channels"))?);
    let by_quota = config.limits.cpu.map_or(u64::MAX, CpuQuota::processors);
    let workers = cores.min(usize::try_from(by_quota).unwrap_or(usize::MAX));
    let workers = workers.clamp(1, MAX_WORKERS);
    let options = systrap::Options {
        workers,
        // A trace is to show every call.
        in_place: match config.strace.enabled {
            true => InPlace::Never,
            false => InPlace::Answer,
        },
        patching: match config.patch_code {
            true => Patching::HotSites,
            false => Patching::Never,
        },
    };
    let memory = match (fds.memory, config.limits.memory) {
        (Some(file), limit) => MemoryFile::limited(file, limit.map(|limit| limit.usable)),
        (None, _) => MemoryFile::new(),
    };
    let memory = memory.map_err(host("memory file"))?;
    let kvm = kvm::Options {
        workers,
        device: fds.kvm,
        tables: Some(Arc::new(TableMemory(memory.clone()))),
        in_ring0: match config.strace.enabled {
            true => kvm::InRing0::Never,
            false => kvm::InRing0::Measured,
        },
        ..Default::default()
    };
    let platform = choose_platform(&config.platform, options, kvm, |why, instead| {
        let text = format!("{why}; it is {} instead", instead.name());
        // If it is gone nobody is left to tell.
        let _ = control.send(&Event::OtherPlatform { text });
    })?;
    let executor = Executor::new(platform.clone(), workers);
    let reactor =
        Reactor::new().map_err(|e| host("reactor")(std::io::Error::from_raw_os_error(e.raw())))?;
    let joined = Arc::new(join::Joined::default());
    let strace = config
        .strace
        .enabled
        .then(|| Strace::new(&config.strace, fds.strace));
    let last = Arc::new(OnceLock::new());
    let kernel = Kernel::new(KernelParts {
        platform,
        memory,
        executor: executor.clone(),
        reactor: reactor.clone(),
        uts: Uts {
            nodename: config.hostname.clone(),
            domainname: config.domainname.clone(),
        },
        machine: Machine {
            cores,
            possible_cores,
            memory: mounts::memory_total(),
        },
        limits: config.limits.clone(),
        own_use: fds.memory_use.map(OwnUse::new),
        strace,
        supervisor: Box::new(ControlSupervisor::new(
            control.clone(),
            joined.clone(),
            last.clone(),
        )),
    });

    spawn("reactor", move || reactor.run())?;
    if let Some(ends) = fds.network {
        let outside = crate::net::Gofer::new(ends);
        kernel.net.set_outside(outside, kernel.reactor.clone());
        let net = kernel.net.clone();
        spawn("network-watch", move || net.keep_looking())?;
    }
    let watched = gofer.clone();
    let watching = kernel.clone();
    spawn("gofer-watch", move || {
        watched.wait_disconnected();
        watching.fatal("the Gofer is gone");
    })?;
    let container = Arc::new(Container::new(&kernel, &control, joined));
    let commanded = container.clone();
    spawn("control", move || commanded.serve())?;
    // Workers make what needs rights (their first stub), then wait for the filter.
    let ready = Arc::new(Barrier::new(executor.worker_count() + 1));
    for i in 0..executor.worker_count() {
        let (executor, kernel, ready) = (executor.clone(), kernel.clone(), ready.clone());
        spawn("worker", move || {
            let begin = || {
                ready.wait();
                ready.wait();
            };
            if let Err(e) = executor.run_worker(WorkerId(i), begin) {
                kernel.fatal(&format!("worker {i}: {e}"));
            }
        })?;
    }
    ready.wait();
    let outside = kernel.net.way_out().is_some();
    filter::sentry(kernel.platform.name(), outside, config.host_sockets).install()?;
    let start = mounts::build(&kernel, &gofer, &config).and_then(|namespace| {
        if let Some(out) = fds.changes {
            let overlay = namespace.root().mount.fs.clone();
            let work = last::Last::new(&config.changes, &gofer, overlay, out);
            let work = work.map_err(|errno| BootError::Guest {
                what: "the directory for changes".to_owned(),
                errno,
            })?;
            let _ = last.set(work);
        }
        container.set_namespace(&namespace);
        let stdio = fds.stdio.into_iter().enumerate();
        let more = (3..).zip(fds.preserved);
        let files = stdio
            .filter_map(|(number, fd)| Some((number as i32, fd?)))
            .chain(more)
            .collect();
        container.prepare_first(&namespace, &config.process, files)
    });
    match start {
        Err(e) => kernel.fatal(&e.to_string()),
        Ok(()) if begin == Start::AtOnce => container.start_first(),
        // The control thread hears the request.
        Ok(()) => container.announce(),
    }
    ready.wait();
    // The end of the sandbox ends this thread. Until then it gives back what the start needed, that
    // of the Sentry first and that of a larger program later.
    for settled in [Duration::from_millis(100), Duration::from_secs(2)] {
        std::thread::sleep(settled);
        runsc_platform::process::release_start_up_memory();
    }
    loop {
        std::thread::park();
    }
}

/// Keeps to the processors asked for, as far as there are any. How many there are, and below which
/// number all are that the guest's threads can run on.
fn processors(limits: &crate::config::GuestLimits) -> std::io::Result<(usize, usize)> {
    use runsc_platform::host::{affinity, set_affinity};
    let mut cores = affinity()?;
    let asked = |core: &usize| limits.cpus.iter().any(|cpu| *cpu as usize == *core);
    // A control group that holds to them already can be given others later.
    if cores.iter().any(asked) && !cores.iter().all(asked) {
        cores.retain(asked);
        set_affinity(0, &cores)?;
    }
    let possible = cores.last().map_or(1, |last| last + 1);
    Ok((cores.len().max(1), possible))
}

/// Starts a thread and returns when it runs: starting takes host calls that the filter forbids.
fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<(), BootError> {
    let (started, start) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(THREAD_STACK)
        .spawn(move || {
            let _ = started.send(());
            body();
        })
        .map_err(host("thread"))?;
    let _ = start.recv();
    Ok(())
}
