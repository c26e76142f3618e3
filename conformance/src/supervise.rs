//! Runs one case in a process of its own and cleans up after it.
//!
//! The supervisor is a single-threaded process, so a case starts from a plain fork. The
//! case gets a process group, an empty scratch directory, default signals and `/dev/null`
//! as standard input. Whatever it does, its group is killed, its orphans are reaped and its
//! directory is removed before the next case starts.
//!
//! `unsafe`: fork, signal dispositions and waiting, before any thread exists.

use crate::case::*;
use crate::protocol;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where and how long a case may run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Directory the scratch directories are made in.
    pub dir: PathBuf,
    pub timeout_s: u32,
}

/// Runs a case to its end, or to the timeout.
pub fn run(case: &Case, setup: &Setup) -> Outcome {
    let scratch = make_scratch(&setup.dir)?;
    let outcome = run_in(case, &scratch, setup.timeout_s);
    let removed = remove_scratch(&scratch);
    outcome?;
    removed
}

fn make_scratch(dir: &Path) -> Outcome<PathBuf> {
    let mut template = dir
        .join("conformance.XXXXXX")
        .as_os_str()
        .as_bytes()
        .to_vec();
    template.push(0);
    let made = raw!(mkdtemp(template.as_mut_ptr().cast()));
    if made.is_null() {
        fail!("mkdtemp in {}: {}", dir.display(), errno_name(errno()));
    }
    template.pop();
    let path = PathBuf::from(OsStr::from_bytes(&template));
    // Cases that give up root still look at their files.
    let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755));
    Ok(path)
}

/// Removes the tree, opening directories a case left without permissions.
fn remove_scratch(path: &Path) -> Outcome {
    if std::fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    unlock(path);
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) => fail!(
            "the scratch directory {} could not be removed: {e}",
            path.display()
        ),
    }
}

fn unlock(path: &Path) {
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    let Ok(entries) = std::fs::read_dir(path) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            unlock(&entry.path());
        }
    }
}

extern "C" fn on_alarm(_: c_int) {}

fn run_in(case: &Case, scratch: &Path, timeout_s: u32) -> Outcome {
    raw!(prctl(PR_SET_CHILD_SUBREAPER, 1));
    let (r, w) = pipe_pair()?;
    let pid = ok!(fork());
    if pid == 0 {
        raw!(close(r));
        let outcome = std::panic::catch_unwind(|| {
            enter(scratch)?;
            (case.run)()
        })
        .unwrap_or_else(|panic| {
            let why = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
            Err(Failure::Fail(format!("panic: {}", why.unwrap_or_default())))
        });
        let mut text = protocol::encode(&outcome).into_bytes();
        // A pipe takes this much at once, read or not.
        text.truncate(4000);
        raw!(write(w, text.as_ptr().cast(), text.len()));
        raw!(_exit(0));
    }
    raw!(setpgid(pid, pid));
    ok!(close(w));
    // Without SA_RESTART, so that the wait below ends.
    let mut action = zeroed::<sigaction>();
    action.sa_sigaction = on_alarm as extern "C" fn(c_int) as usize;
    ok!(sigaction(SIGALRM, &action, std::ptr::null_mut()));
    let timed_out = !wait_until(pid, timeout_s);
    raw!(kill(-pid, SIGKILL));
    raw!(kill(pid, SIGKILL));
    let status = reap(pid);
    let text = drain(r);
    ok!(close(r));
    if timed_out {
        fail!("timed out after {timeout_s} s");
    }
    match protocol::decode(&text) {
        Some(outcome) => outcome,
        None => fail!(
            "the case's process ended without a result: {}",
            status_text(status)
        ),
    }
}

/// Waits for the child to end without reaping it; false at the timeout.
fn wait_until(pid: pid_t, timeout_s: u32) -> bool {
    raw!(alarm(timeout_s));
    let mut info = zeroed::<siginfo_t>();
    let ended = raw!(waitid(P_PID, pid as id_t, &mut info, WEXITED | WNOWAIT)) == 0;
    raw!(alarm(0));
    ended
}

/// Reaps every descendant and returns the case's own status.
fn reap(case_pid: pid_t) -> c_int {
    let mut case_status = 0;
    loop {
        let mut status = 0;
        raw!(alarm(2));
        let pid = raw!(waitpid(-1, &mut status, 0));
        raw!(alarm(0));
        if pid == case_pid {
            case_status = status;
        }
        if pid <= 0 {
            return case_status;
        }
    }
}

/// What is in the pipe now; an orphan may still hold its other end.
fn drain(fd: c_int) -> Vec<u8> {
    raw!(fcntl(fd, F_SETFL, O_NONBLOCK));
    let mut buf = vec![0u8; 65536];
    let n = raw!(read(fd, buf.as_mut_ptr().cast(), buf.len())).max(0);
    buf.truncate(n as usize);
    buf
}

/// The clean state a case starts from.
fn enter(scratch: &Path) -> Outcome {
    raw!(setpgid(0, 0));
    for signal in 1..=31 {
        if signal != SIGKILL && signal != SIGSTOP {
            raw!(signal(signal, SIG_DFL));
        }
    }
    let mut none = zeroed::<sigset_t>();
    raw!(sigemptyset(&mut none));
    raw!(sigprocmask(SIG_SETMASK, &none, std::ptr::null_mut()));
    raw!(umask(0o022));
    raw!(prctl(PR_SET_PDEATHSIG, SIGKILL));
    let null = ok!(open(c"/dev/null".as_ptr(), O_RDWR | O_CLOEXEC));
    ok!(dup2(null, 0));
    ok!(close(null));
    let dir = CString::new(scratch.as_os_str().as_bytes()).expect("a path has no NUL");
    ok!(chdir(dir.as_ptr()));
    // A failing case's panic message is reported in its result, not on stderr.
    std::panic::set_hook(Box::new(|_| {}));
    Ok(())
}
