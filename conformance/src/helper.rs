//! What the `cases` program does when a case executes it: `cases helper WHAT [ARG]`.
//!
//! Each helper answers one question about the state a program starts with, through its exit
//! status, so that cases about execve(2) need no other program on the machine.

use crate::case::*;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::ptr::null;

/// The first argument that asks for a helper.
pub const WORD: &str = "helper";

/// Runs a helper and exits: 0 yes, 1 no, 99 for one that does not exist.
pub fn run(words: &[OsString]) -> ! {
    let text = |i: usize| words.get(i).map(|w| w.to_string_lossy().into_owned());
    let number = |i: usize| text(i).and_then(|t| t.parse::<i64>().ok()).unwrap_or(-1);
    let yes = |b: bool| if b { 0 } else { 1 };
    let code = match text(0).as_deref() {
        Some("wait") => {
            let mut b = 0u8;
            while raw!(read(0, (&raw mut b).cast(), 1)) > 0 {}
            0
        }
        Some("exit") => number(1) as i32,
        Some("fd-open") => yes(raw!(fcntl(number(1) as i32, F_GETFD)) >= 0),
        Some("arguments") => words.len() as i32,
        Some("environment") => std::env::vars_os().count() as i32,
        Some("variable-is") => {
            let name = words.get(1).cloned().unwrap_or_default();
            let want = words.get(2).cloned().unwrap_or_default();
            yes(std::env::var_os(name).is_some_and(|v| v.as_bytes() == want.as_bytes()))
        }
        Some("signal-ignored") => {
            let mut old = zeroed::<sigaction>();
            raw!(sigaction(number(1) as i32, std::ptr::null(), &mut old));
            yes(old.sa_sigaction == SIG_IGN)
        }
        Some("signal-default") => {
            let mut old = zeroed::<sigaction>();
            raw!(sigaction(number(1) as i32, std::ptr::null(), &mut old));
            yes(old.sa_sigaction == SIG_DFL)
        }
        Some("signal-blocked") => {
            let mut set = zeroed::<sigset_t>();
            raw!(sigprocmask(SIG_BLOCK, std::ptr::null(), &mut set));
            yes(raw!(sigismember(&set, number(1) as i32)) == 1)
        }
        Some("signal-pending") => {
            let mut set = zeroed::<sigset_t>();
            raw!(sigpending(&mut set));
            yes(raw!(sigismember(&set, number(1) as i32)) == 1)
        }
        Some("pid-is") => yes(i64::from(raw!(getpid())) == number(1)),
        Some("comm-is") => {
            let comm = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
            yes(Some(comm.trim_end()) == text(1).as_deref())
        }
        Some("alarm-pending") => yes(raw!(alarm(0)) > 0),
        Some("umask-is") => yes(i64::from(raw!(umask(0))) == number(1)),
        Some("no-new-privs") => yes(raw!(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)) == 1),
        Some("dumpable") => raw!(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)),
        Some("altstack-size-is") => {
            let mut old = zeroed::<stack_t>();
            raw!(sigaltstack(std::ptr::null(), &mut old));
            yes(old.ss_size as i64 == number(1))
        }
        Some("auxv-secure") => raw!(getauxval(AT_SECURE)) as i32,
        Some("auxv-execfn-is") => {
            let at = raw!(getauxval(AT_EXECFN)) as *const c_char;
            let name = unsafe { std::ffi::CStr::from_ptr(at) };
            yes(Some(name.to_string_lossy().as_ref()) == text(1).as_deref())
        }
        Some("auxv-page-size") => yes(raw!(getauxval(AT_PAGESZ)) as usize == page_size()),
        Some("auxv-random") => {
            let at = raw!(getauxval(AT_RANDOM)) as *const [u8; 16];
            yes(!at.is_null() && unsafe { *at } != [0; 16])
        }
        Some("auxv-phdr") => yes(raw!(getauxval(AT_PHDR)) != 0
            && raw!(getauxval(AT_PHNUM)) > 0
            && raw!(getauxval(AT_ENTRY)) != 0),
        Some("capability-bits") => {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let mask = field(&status, "CapEff").unwrap_or_default();
            yes(u64::from_str_radix(&mask, 16).is_ok_and(|m| m != 0))
        }
        _ => 99,
    };
    std::process::exit(code)
}

/// This program, for cases that execute it as a helper.
pub fn own_path() -> Outcome<CString> {
    match std::env::current_exe() {
        Ok(path) => Ok(cstring(path.as_os_str().as_bytes())),
        Err(e) => fail!("/proc/self/exe: {e}"),
    }
}

/// Replaces the calling process by a helper; only returns on failure.
pub fn exec_helper(words: &[&str]) -> i32 {
    let Ok(path) = own_path() else { return 90 };
    let words: Vec<CString> = ["cases", "helper"]
        .iter()
        .chain(words)
        .map(|word| cstring(*word))
        .collect();
    let mut argv: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(null());
    raw!(execv(path.as_ptr(), argv.as_ptr()));
    91
}
