//! The contract of `traits.rs`, as tests that every platform is put through.
//!
//! Each case gets a platform and a fresh thread. All cases run twice: as the user who runs the
//! tests, and as process 1 of a user and pid namespace without capabilities and with no_new_privs,
//! which is how a Sentry runs. A platform that does not work on this machine is reported, loudly,
//! as skipped.
//!
//! `cargo test --test contract -- WORD` runs the cases whose name contains WORD; with
//! `RUNSC_RS_PLATFORM=NAME` only on that platform.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "a test program, but not one of the built-in harness that the lints know"
)]

mod attacks;
mod clocks;
mod guest;
mod mappings;
mod patched;
mod ring0;
mod state;
mod tables;
mod threads;
mod titles;
mod trampolines;
mod traps;
mod wakeups;

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use runsc_platform::Platform;
use runsc_platform::kvm;
use runsc_platform::memory::install_fault_handler;
use runsc_platform::ptrace::PtracePlatform;
use runsc_platform::systrap::{InPlace, Options, Patching, SystrapPlatform};

/// A test: name and body.
pub type Case = (&'static str, fn(Arc<dyn Platform>));

/// One way to make a platform: its name and either it or why it does not work here.
type Maker = (
    &'static str,
    fn() -> Result<Arc<dyn Platform>, runsc_platform::Error>,
);

const PLATFORMS: &[Maker] = &[
    ("ptrace", || Ok(Arc::new(PtracePlatform::new()?))),
    ("systrap", || {
        let options = Options {
            workers: 2,
            in_place: InPlace::Answer,
            patching: Patching::HotSites,
        };
        Ok(Arc::new(SystrapPlatform::new(options)?))
    }),
    ("kvm", || {
        let options = kvm::Options {
            workers: 2,
            ..Default::default()
        };
        Ok(Arc::new(kvm::KvmPlatform::new(options)?))
    }),
    // With what other machines have in use as well.
    ("kvm-all", || {
        let options = kvm::Options {
            workers: 2,
            large_pages: kvm::LargePages::Always,
            in_ring0: kvm::InRing0::Always,
            ..Default::default()
        };
        Ok(Arc::new(kvm::KvmPlatform::new(options)?))
    }),
];

/// Argument that makes this program a Sentry to be killed.
pub const SPIN: &str = "spin-for-ever";

/// The longest case takes a tenth of this on a machine at rest.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, mode, name] = &args[..]
        && mode == SPIN
    {
        install_fault_handler().unwrap();
        let maker = PLATFORMS.iter().find(|maker| maker.0 == name).unwrap();
        return threads::spin_for_ever(maker.1().unwrap());
    }
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let filter = filter.as_deref();
    install_fault_handler().unwrap();
    let confined = confined(|| run_all("as a Sentry runs", filter));
    let plain = run_all("as the caller", filter);
    let confined = confined.unwrap_or_else(|why| {
        println!("!!! SKIPPED: running without capabilities: {why}");
        true
    });
    std::process::exit(if plain && confined { 0 } else { 1 });
}

fn run_all(how: &str, filter: Option<&str>) -> bool {
    let cases: Vec<&Case> = [
        traps::CASES,
        mappings::CASES,
        state::CASES,
        threads::CASES,
        titles::CASES,
        wakeups::CASES,
        patched::CASES,
        attacks::CASES,
        trampolines::CASES,
        ring0::CASES,
        tables::CASES,
        clocks::CASES,
    ]
    .into_iter()
    .flatten()
    .filter(|(name, _)| filter.is_none_or(|word| name.contains(word)))
    .collect();
    let mut failed = Vec::new();
    let only = std::env::var("RUNSC_RS_PLATFORM").ok();
    for (name, make) in PLATFORMS {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        if let Err(error) = make() {
            println!("!!! SKIPPED: platform {name}, {how}: {error}");
            continue;
        }
        println!("platform {name}, {how}: {} cases", cases.len());
        for (case, body) in &cases {
            let ended = ends(case, move || body(make().unwrap()));
            println!("  {case} ... {}", if ended { "ok" } else { "FAILED" });
            if !ended {
                failed.push(format!("{name}::{case}"));
            }
        }
    }
    if !failed.is_empty() {
        println!("FAILED {how}: {}", failed.join(", "));
    }
    failed.is_empty()
}

/// Whether a case ends well. One that does not end is the end of the program.
fn ends(name: &str, case: impl FnOnce() + Send + 'static) -> bool {
    let (ended, told) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        // Dropped when the case ends, however that is.
        let _ended = ended;
        case();
    });
    if told.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
        println!("  {name} ... FAILED: it goes on after {PATIENCE:?}");
        std::process::exit(1);
    }
    thread.join().is_ok()
}

/// Runs `body` as process 1 of new user and pid namespaces, without capabilities.
fn confined(body: impl FnOnce() -> bool) -> Result<bool, String> {
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    const NO_NAMESPACES: i32 = 77;
    // Still the only thread of the process.
    match unsafe { fork() }.map_err(|e| e.to_string())? {
        ForkResult::Parent { child } => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, NO_NAMESPACES)) => Err("no user namespaces here".into()),
            Ok(WaitStatus::Exited(_, code)) => Ok(code == 0),
            other => Err(format!("{other:?}")),
        },
        ForkResult::Child => {
            die_with_parent();
            if unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID).is_err() {
                std::process::exit(NO_NAMESPACES);
            }
            match unsafe { fork() }.unwrap() {
                ForkResult::Parent { child } => {
                    let status = waitpid(child, None).unwrap();
                    let ok = matches!(status, WaitStatus::Exited(_, 0));
                    std::process::exit(if ok { 0 } else { 1 });
                }
                ForkResult::Child => {
                    die_with_parent();
                    assert_eq!(std::process::id(), 1);
                    drop_capabilities();
                    let ok = body();
                    std::process::exit(if ok { 0 } else { 1 });
                }
            }
        }
    }
}

fn die_with_parent() {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn drop_capabilities() {
    nix::sys::prctl::set_no_new_privs().unwrap();
    // struct __user_cap_header_struct and two __user_cap_data_struct, version 3.
    let header = [0x2008_0522u32, 0];
    let data = [0u32; 6];
    let rc = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    assert_eq!(rc, 0);
}
