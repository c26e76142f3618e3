//! What a case is, and the helpers cases are written with.
//!
//! A case is a function that returns `Ok(())`, or a [`Failure`] that says what was expected
//! and what was seen. It runs in a process of its own whose working directory is an empty
//! scratch directory (see [`crate::supervise`]), so it may use relative paths, change
//! signal dispositions, limits and credentials, and need not close what it opens.
//!
//! `unsafe`: the [`ok!`](crate::ok) family of macros calls libc functions with whatever
//! the case hands them; handing the kernel bad pointers is part of the job.

use std::ffi::{CStr, CString};
use std::fmt::Debug;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

pub use libc::*;

/// Why a case did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The kernel did something else than the man page promises.
    Fail(String),
    /// The promise cannot be checked here (missing privilege, missing device).
    Skip(String),
}

pub type Outcome<T = ()> = Result<T, Failure>;

/// One promise of a man page and the function that checks it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// `family.what`, unique.
    pub name: &'static str,
    /// Where the promise stands, e.g. `open(2)`.
    pub man: &'static str,
    /// The promise in one line.
    pub promise: &'static str,
    pub run: fn() -> Outcome,
}

impl Case {
    pub const fn new(
        name: &'static str,
        man: &'static str,
        promise: &'static str,
        run: fn() -> Outcome,
    ) -> Case {
        Case {
            name,
            man,
            promise,
            run,
        }
    }

    /// The part of the name before the first dot.
    pub fn family(&self) -> &'static str {
        self.name.split('.').next().unwrap_or(self.name)
    }
}

/// A value a libc function returns, -1 (or `MAP_FAILED`) meaning "see errno".
pub trait Returned: Copy + Debug {
    fn failed(self) -> bool;
}

impl Returned for i32 {
    fn failed(self) -> bool {
        self == -1
    }
}

impl Returned for i64 {
    fn failed(self) -> bool {
        self == -1
    }
}

impl Returned for isize {
    fn failed(self) -> bool {
        self == -1
    }
}

impl<T> Returned for *mut T {
    fn failed(self) -> bool {
        self as isize == -1
    }
}

/// Calls a libc function that must succeed; its value is the expression's value.
#[macro_export]
macro_rules! ok {
    ($f:ident($($a:expr),* $(,)?)) => {
        $crate::case::succeeded(stringify!($f($($a),*)), unsafe { libc::$f($($a),*) })?
    };
}

/// Calls a libc function that must fail with the given errno.
#[macro_export]
macro_rules! err {
    ($errno:expr, $f:ident($($a:expr),* $(,)?)) => {
        $crate::case::failed_with(stringify!($f($($a),*)), unsafe { libc::$f($($a),*) }, &[$errno])?
    };
}

/// Like [`err!`](crate::err) where Linux may give one of several.
#[macro_export]
macro_rules! err_any {
    ($errnos:expr, $f:ident($($a:expr),* $(,)?)) => {
        $crate::case::failed_with(stringify!($f($($a),*)), unsafe { libc::$f($($a),*) }, &$errnos)?
    };
}

/// Calls a libc function and returns its value unchecked.
#[macro_export]
macro_rules! raw {
    ($f:ident($($a:expr),* $(,)?)) => { unsafe { libc::$f($($a),*) } };
}

/// Calls a libc function that must return exactly this value.
#[macro_export]
macro_rules! gives {
    ($want:expr, $f:ident($($a:expr),* $(,)?)) => {
        $crate::case::returned(
            stringify!($f($($a),*)), unsafe { libc::$f($($a),*) }, ($want) as _)?
    };
}

/// Fails the case with a message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $($fmt:tt)+) => {
        if !$cond { return Err($crate::case::Failure::Fail(format!($($fmt)+))); }
    };
}

/// Ends the case as skipped.
#[macro_export]
macro_rules! skip {
    ($($fmt:tt)+) => { return Err($crate::case::Failure::Skip(format!($($fmt)+))) };
}

/// Fails the case with a message.
#[macro_export]
macro_rules! fail {
    ($($fmt:tt)+) => { return Err($crate::case::Failure::Fail(format!($($fmt)+))) };
}

pub fn errno() -> i32 {
    unsafe { *__errno_location() }
}

pub fn set_errno(value: i32) {
    unsafe { *__errno_location() = value }
}

/// One line, blanks collapsed: `stringify!` keeps line breaks of long calls.
fn tidy(call: &str) -> String {
    call.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replacen(" (", "(", 1)
}

pub fn succeeded<T: Returned>(call: &str, value: T) -> Outcome<T> {
    let seen = errno();
    if value.failed() {
        fail!("{}: expected success, got {}", tidy(call), errno_name(seen));
    }
    Ok(value)
}

pub fn failed_with<T: Returned>(call: &str, value: T, errnos: &[i32]) -> Outcome {
    let seen = errno();
    let wanted = errnos
        .iter()
        .map(|e| errno_name(*e))
        .collect::<Vec<_>>()
        .join(" or ");
    if !value.failed() {
        fail!("{}: expected {wanted}, got success ({value:?})", tidy(call));
    }
    if !errnos.contains(&seen) {
        fail!(
            "{}: expected {wanted}, got {}",
            tidy(call),
            errno_name(seen)
        );
    }
    Ok(())
}

pub fn returned<T: Returned + PartialEq>(call: &str, value: T, want: T) -> Outcome {
    let seen = errno();
    if value != want {
        let why = if value.failed() {
            errno_name(seen)
        } else {
            format!("{value:?}")
        };
        fail!("{}: expected {want:?}, got {why}", tidy(call));
    }
    Ok(())
}

pub fn eq<T: PartialEq + Debug>(what: &str, seen: T, want: T) -> Outcome {
    ensure!(seen == want, "{what}: expected {want:?}, got {seen:?}");
    Ok(())
}

/// Like [`eq`] for masks and modes, shown in octal.
pub fn eq_octal(what: &str, seen: u32, want: u32) -> Outcome {
    ensure!(seen == want, "{what}: expected {want:#o}, got {seen:#o}");
    Ok(())
}

pub fn p(path: &CStr) -> *const c_char {
    path.as_ptr()
}

pub fn cstring(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).expect("no NUL in a case's string")
}

/// An address no mapping can have: what `EFAULT` cases pass.
pub fn bad_ptr<T>() -> *mut T {
    usize::MAX as *mut T
}

pub fn zeroed<T>() -> T {
    // Used only for libc's plain C structures, for which all zeroes is a value.
    unsafe { std::mem::zeroed() }
}

/// Creates a regular file with this content; the descriptor is read-write at offset 0.
pub fn put(path: &CStr, content: &[u8]) -> Outcome<c_int> {
    let fd = ok!(open(p(path), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644));
    gives!(
        content.len(),
        pwrite(fd, content.as_ptr().cast(), content.len(), 0)
    );
    Ok(fd)
}

pub fn mkdir_at(path: &CStr) -> Outcome {
    ok!(mkdir(p(path), 0o755));
    Ok(())
}

pub fn stat_of(path: &CStr) -> Outcome<libc::stat> {
    let mut st = zeroed::<libc::stat>();
    ok!(lstat(p(path), &mut st));
    Ok(st)
}

pub fn fstat_of(fd: c_int) -> Outcome<libc::stat> {
    let mut st = zeroed::<libc::stat>();
    ok!(fstat(fd, &mut st));
    Ok(st)
}

pub fn pipe_pair() -> Outcome<(c_int, c_int)> {
    let mut fds = [0; 2];
    ok!(pipe2(fds.as_mut_ptr(), O_CLOEXEC));
    Ok((fds[0], fds[1]))
}

pub fn socket_pair(kind: c_int) -> Outcome<(c_int, c_int)> {
    let mut fds = [0; 2];
    ok!(socketpair(
        AF_UNIX,
        kind | SOCK_CLOEXEC,
        0,
        fds.as_mut_ptr()
    ));
    Ok((fds[0], fds[1]))
}

/// Reads once, up to `max` bytes.
pub fn read_some(fd: c_int, max: usize) -> Outcome<Vec<u8>> {
    let mut buf = vec![0u8; max];
    let n = ok!(read(fd, buf.as_mut_ptr().cast(), max));
    buf.truncate(n as usize);
    Ok(buf)
}

/// Writes all of it in one call.
pub fn write_all(fd: c_int, bytes: &[u8]) -> Outcome {
    gives!(bytes.len(), write(fd, bytes.as_ptr().cast(), bytes.len()));
    Ok(())
}

/// A whole file, through std; for `/proc`.
pub fn slurp(path: &str) -> Outcome<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) => fail!("reading {path}: {e}"),
    }
}

/// Waits until a process sleeps in a system call, as `/proc` tells; gives up when it ended.
pub fn until_asleep(pid: pid_t) -> Outcome {
    let path = format!("/proc/{pid}/stat");
    let give_up = ns(now(CLOCK_MONOTONIC)?) + 15_000_000_000;
    loop {
        let stat = slurp(&path)?;
        let state = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.trim().chars().next());
        if let Some('S' | 'Z' | 'X') = state {
            return Ok(());
        }
        let late = ns(now(CLOCK_MONOTONIC)?) > give_up;
        ensure!(
            !late,
            "process {pid} never slept in its system call: {stat:?}"
        );
        raw!(sched_yield());
    }
}

/// The value after `key` in a `key:  value` file such as `/proc/self/status`.
pub fn field(text: &str, key: &str) -> Outcome<String> {
    for line in text.lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.trim() == key
        {
            return Ok(value.trim().to_string());
        }
    }
    fail!("no line {key:?} in {text:?}")
}

pub fn page_size() -> usize {
    raw!(sysconf(_SC_PAGESIZE)) as usize
}

pub fn is_root() -> bool {
    raw!(geteuid()) == 0
}

pub fn need_root() -> Outcome {
    if !is_root() {
        skip!("needs root");
    }
    Ok(())
}

/// Whether the calling process holds this capability in its effective set.
pub fn has_cap(cap: u32) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return is_root();
    };
    let Ok(mask) = field(&status, "CapEff") else {
        return is_root();
    };
    u64::from_str_radix(&mask, 16).is_ok_and(|m| m >> cap & 1 == 1)
}

pub fn need_cap(cap: u32, name: &str) -> Outcome {
    if !has_cap(cap) {
        skip!("needs {name}");
    }
    if ID_CAPS.contains(&cap) && !all_ids_mapped() {
        skip!("this user namespace knows only a few ids");
    }
    Ok(())
}

/// CAP_CHOWN, CAP_SETGID and CAP_SETUID: of use only for ids the user namespace knows.
const ID_CAPS: [u32; 3] = [0, 6, 7];

fn all_ids_mapped() -> bool {
    ["/proc/self/uid_map", "/proc/self/gid_map"]
        .iter()
        .all(|path| {
            // A kernel without user namespaces has all ids.
            let Ok(text) = std::fs::read_to_string(path) else {
                return true;
            };
            let counts = text
                .lines()
                .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
            counts.sum::<u64>() >= 65536
        })
}

/// Forks; the child runs `body` and exits with what it returns.
pub fn child(body: impl FnOnce() -> i32) -> Outcome<pid_t> {
    let pid = ok!(fork());
    if pid == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
        raw!(_exit(code));
    }
    Ok(pid)
}

/// Waits for this child and returns its wait status.
pub fn wait_for(pid: pid_t) -> Outcome<c_int> {
    let mut status = 0;
    loop {
        let got = raw!(waitpid(pid, &mut status, 0));
        if got == -1 && errno() == EINTR {
            continue;
        }
        returned("waitpid(pid)", got, pid)?;
        return Ok(status);
    }
}

pub fn status_text(status: c_int) -> String {
    if WIFEXITED(status) {
        format!("exit {}", WEXITSTATUS(status))
    } else if WIFSIGNALED(status) {
        format!("killed by signal {}", WTERMSIG(status))
    } else if WIFSTOPPED(status) {
        format!("stopped by signal {}", WSTOPSIG(status))
    } else {
        format!("status {status:#x}")
    }
}

pub fn expect_exit(pid: pid_t, code: i32) -> Outcome {
    let status = wait_for(pid)?;
    let want = WIFEXITED(status) && WEXITSTATUS(status) == code;
    ensure!(
        want,
        "child: expected exit {code}, got {}",
        status_text(status)
    );
    Ok(())
}

pub fn expect_signal(pid: pid_t, signal: i32) -> Outcome {
    let status = wait_for(pid)?;
    let want = WIFSIGNALED(status) && WTERMSIG(status) == signal;
    ensure!(
        want,
        "child: expected death by signal {signal}, got {}",
        status_text(status)
    );
    Ok(())
}

/// Runs part of a case in a child and passes its outcome on.
pub fn in_child(body: impl FnOnce() -> Outcome) -> Outcome {
    let (r, w) = pipe_pair()?;
    let pid = child(|| {
        let text = crate::protocol::encode(&body());
        raw!(write(w, text.as_ptr().cast(), text.len()));
        0
    })?;
    ok!(close(w));
    let mut text = Vec::new();
    loop {
        let part = read_some(r, 4096)?;
        if part.is_empty() {
            break;
        }
        text.extend_from_slice(&part);
    }
    let status = wait_for(pid)?;
    ok!(close(r));
    match crate::protocol::decode(&text) {
        Some(outcome) => outcome,
        None => fail!("child ended without a result: {}", status_text(status)),
    }
}

/// An ordinary user's id, for cases that give up root.
pub const NOBODY: u32 = 65534;

/// Runs part of a case without privileges: as nobody when we are root, as we are otherwise.
pub fn as_user(body: impl FnOnce() -> Outcome) -> Outcome {
    in_child(|| {
        if is_root() {
            if raw!(setgroups(0, std::ptr::null())) != 0
                || raw!(setresgid(NOBODY, NOBODY, NOBODY)) != 0
                || raw!(setresuid(NOBODY, NOBODY, NOBODY)) != 0
            {
                skip!(
                    "cannot become an ordinary user here: {}",
                    errno_name(errno())
                );
            }
            // Dropping ids clears the dumpable flag, which would hide /proc/self.
            raw!(prctl(PR_SET_DUMPABLE, 1));
        }
        body()
    })
}

/// A scratch subdirectory everybody may write in, for use with [`as_user`].
pub fn open_dir(path: &CStr) -> Outcome {
    mkdir_at(path)?;
    ok!(chmod(p(path), 0o777));
    Ok(())
}

pub fn now(clock: clockid_t) -> Outcome<timespec> {
    let mut ts = zeroed::<timespec>();
    ok!(clock_gettime(clock, &mut ts));
    Ok(ts)
}

pub fn ns(ts: timespec) -> i64 {
    ts.tv_sec * 1_000_000_000 + ts.tv_nsec
}

pub fn millis(ms: i64) -> timespec {
    timespec {
        tv_sec: ms / 1000,
        tv_nsec: ms % 1000 * 1_000_000,
    }
}

/// A private anonymous read-write mapping.
pub fn map_anon(len: usize) -> Outcome<*mut u8> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS;
    let at = ok!(mmap(
        std::ptr::null_mut(),
        len,
        PROT_READ | PROT_WRITE,
        flags,
        -1,
        0
    ));
    Ok(at.cast())
}

/// A shared anonymous mapping: what a parent and a forked child talk through.
pub fn map_shared(len: usize) -> Outcome<*mut u8> {
    let flags = MAP_SHARED | MAP_ANONYMOUS;
    let at = ok!(mmap(
        std::ptr::null_mut(),
        len,
        PROT_READ | PROT_WRITE,
        flags,
        -1,
        0
    ));
    Ok(at.cast())
}

macro_rules! names {
    ($value:expr; $($name:ident)*) => {
        match $value { $(libc::$name => stringify!($name).to_string(),)* n => format!("errno {n}") }
    };
}

pub fn errno_name(value: i32) -> String {
    names!(value; EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM
        EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY
        ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK
        ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM ENODATA ETIME EPROTO EBADMSG EOVERFLOW EILSEQ
        ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT
        EOPNOTSUPP EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ECONNABORTED
        ECONNRESET ENOBUFS EISCONN ENOTCONN ETIMEDOUT ECONNREFUSED EHOSTUNREACH EALREADY
        EINPROGRESS ESTALE EDQUOT ECANCELED EOWNERDEAD ENOTRECOVERABLE)
}

pub fn getpid_now() -> pid_t {
    raw!(getpid())
}

static CAUGHT: AtomicI32 = AtomicI32::new(0);
static LAST_CODE: AtomicI32 = AtomicI32::new(0);
static LAST_PID: AtomicI32 = AtomicI32::new(0);
static LAST_VALUE: AtomicI32 = AtomicI32::new(0);
static LAST_ADDRESS: AtomicUsize = AtomicUsize::new(0);
static LAST_SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    if !info.is_null() {
        let info = unsafe { *info };
        LAST_CODE.store(info.si_code, SeqCst);
        LAST_PID.store(unsafe { info.si_pid() }, SeqCst);
        LAST_VALUE.store(unsafe { info.si_value().sival_ptr } as usize as i32, SeqCst);
        LAST_ADDRESS.store(unsafe { info.si_addr() } as usize, SeqCst);
    }
    LAST_SIGNAL.store(signal, SeqCst);
    CAUGHT.fetch_add(1, SeqCst);
}

/// What the handler of [`catch`] saw last.
#[derive(Debug, Clone, Copy)]
pub struct Caught {
    pub signal: c_int,
    pub code: c_int,
    pub pid: pid_t,
    pub value: c_int,
    pub address: usize,
}

/// Installs a handler that counts and remembers; `flags` besides SA_SIGINFO.
pub fn catch(signal: c_int, flags: c_int) -> Outcome {
    let mut action = zeroed::<sigaction>();
    action.sa_sigaction = on_signal as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
    action.sa_flags = flags | SA_SIGINFO;
    ok!(sigaction(signal, &action, std::ptr::null_mut()));
    Ok(())
}

/// How often the handler of [`catch`] ran in this process.
pub fn caught() -> i32 {
    CAUGHT.load(SeqCst)
}

pub fn last_caught() -> Caught {
    Caught {
        signal: LAST_SIGNAL.load(SeqCst),
        code: LAST_CODE.load(SeqCst),
        pid: LAST_PID.load(SeqCst),
        value: LAST_VALUE.load(SeqCst),
        address: LAST_ADDRESS.load(SeqCst),
    }
}

/// SIGALRM again and again, so that one of them meets the call it is meant to interrupt.
pub fn tick(ms: i64) -> Outcome {
    let every = timeval {
        tv_sec: 0,
        tv_usec: ms * 1000,
    };
    let timer = itimerval {
        it_interval: every,
        it_value: every,
    };
    ok!(syscall(
        SYS_setitimer,
        ITIMER_REAL,
        &raw const timer,
        std::ptr::null::<u8>()
    ));
    Ok(())
}

/// A child that waits for signals until killed.
pub fn sleeper() -> Outcome<pid_t> {
    child(|| {
        loop {
            raw!(pause());
        }
    })
}

/// Kills a [`sleeper`] and reaps it.
pub fn finish(pid: pid_t) -> Outcome {
    ok!(kill(pid, SIGKILL));
    expect_signal(pid, SIGKILL)
}

/// Reads a byte of a mapping, whatever that does.
pub fn peek(at: *mut u8) -> u8 {
    unsafe { at.read_volatile() }
}

/// Writes a byte of a mapping, whatever that does.
pub fn poke(at: *mut u8, value: u8) {
    unsafe { at.write_volatile(value) }
}

/// Expects a child that runs this to die by that signal.
pub fn dies<T>(signal: c_int, body: impl FnOnce() -> T) -> Outcome {
    let pid = child(|| {
        let none = rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        raw!(setrlimit(RLIMIT_CORE, &none));
        body();
        0
    })?;
    expect_signal(pid, signal)
}
