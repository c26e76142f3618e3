//! One child: descriptors and files of many kinds, then calls.

use super::arena::Arena;
use super::random::Random;
use super::values::{self, Who};
use super::{Plan, raw};
use runsc_syscall_tables::{Arch, Syscall};
use std::ffi::CString;

/// Generations of children below the one that the parent started.
const DEPTH: u32 = 2;

#[derive(Clone)]
struct Job<'a> {
    calls: &'a [&'static Syscall],
    arena: Arena,
    who: Who,
    count: u64,
    verbose: bool,
    depth: u32,
}

/// Makes the calls of round `round` and exits.
pub fn main(plan: &Plan, calls: &[&'static Syscall], round: u64) -> ! {
    let mut r = Random::derive(plan.seed, round);
    // SAFETY: take numbers only.
    let who = unsafe {
        libc::setsid();
        libc::alarm(2);
        Who {
            pid: libc::getpid(),
            parent: libc::getppid(),
        }
    };
    silence(plan.verbose);
    let dir = std::env::temp_dir().join(format!("hostile-{}-{round}", plan.seed));
    let _ = std::fs::create_dir_all(&dir);
    let _ = std::env::set_current_dir(&dir);
    let arena = Arena::new(open_things(&mut r));
    let job = Job {
        calls,
        arena,
        who,
        count: plan.calls,
        verbose: plan.verbose,
        depth: 0,
    };
    let threads = if r.one_in(2) { 0 } else { 1 + r.below(2) };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (mut own, job) = (Random::new(r.next()), job.clone());
            // Without it, the round has a thread less.
            let _ = std::thread::Builder::new().spawn_scoped(scope, move || work(&mut own, &job));
        }
        work(&mut r, &job);
    });
    // SAFETY: nothing of this process is to run any more.
    unsafe { libc::_exit(0) }
}

/// Standard input and output lead nowhere; the error output only if calls are printed.
fn silence(verbose: bool) {
    // SAFETY: the path is a literal; the rest are numbers.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for fd in 0..if verbose { 2 } else { 3 } {
            libc::dup2(null, fd);
        }
    }
}

/// Fills the table of descriptors; gives one of a small file.
fn open_things(r: &mut Random) -> i32 {
    let open = |path: &str, flags| {
        let path = CString::new(path).unwrap_or_default();
        // SAFETY: `path` is NUL-terminated.
        unsafe { libc::open(path.as_ptr(), flags | libc::O_NONBLOCK, 0o644) }
    };
    let file = open("file", libc::O_RDWR | libc::O_CREAT);
    let mut pair = [0; 2];
    // SAFETY: arguments are literals, numbers and `pair`.
    unsafe {
        libc::write(file, b"some bytes in a file".as_ptr().cast(), 20);
        libc::mkdir(c"dir".as_ptr(), 0o755);
        libc::symlink(c"file".as_ptr(), c"link".as_ptr());
        libc::symlink(c"loop".as_ptr(), c"loop".as_ptr());
        libc::mkfifo(c"fifo".as_ptr(), 0o644);
        open("fifo", libc::O_RDWR);
        libc::pipe(pair.as_mut_ptr());
        libc::pipe2(pair.as_mut_ptr(), libc::O_NONBLOCK | libc::O_DIRECT);
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
            libc::socketpair(
                libc::AF_UNIX,
                kind | libc::SOCK_NONBLOCK,
                0,
                pair.as_mut_ptr(),
            );
        }
        libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0);
        libc::eventfd(3, libc::EFD_NONBLOCK);
        libc::eventfd(0, libc::EFD_SEMAPHORE);
        let epoll = libc::epoll_create1(0);
        for fd in 4..12 {
            let mut event = libc::epoll_event { events: 5, u64: fd };
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd as i32, &mut event);
        }
        libc::epoll_create1(0);
        libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK);
        libc::timerfd_create(libc::CLOCK_REALTIME, 0);
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::signalfd(-1, &set, libc::SFD_NONBLOCK);
        let inotify = libc::inotify_init1(libc::IN_NONBLOCK);
        libc::inotify_add_watch(inotify, c".".as_ptr(), libc::IN_ALL_EVENTS);
        libc::inotify_add_watch(inotify, c"file".as_ptr(), libc::IN_ALL_EVENTS);
        libc::memfd_create(c"m".as_ptr(), libc::MFD_ALLOW_SEALING);
        libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0);
    }
    let more = [
        ("dir", libc::O_DIRECTORY),
        ("file", libc::O_PATH),
        (".", libc::O_DIRECTORY),
        ("/proc/self/mem", libc::O_RDWR),
        ("/proc/self/maps", 0),
        ("/proc/self/fd", 0),
        ("/proc", 0),
        ("/proc/self/status", 0),
        ("/dev/zero", libc::O_RDWR),
        ("/dev/full", libc::O_RDWR),
        ("/dev/urandom", 0),
        ("/dev/ptmx", libc::O_RDWR),
        ("/dev/pts/0", libc::O_RDWR),
        ("/etc/passwd", 0),
        ("/usr/bin/env", 0),
        ("/usr/bin", 0),
        ("/sys", 0),
        ("/dev/shm", libc::O_TMPFILE | libc::O_RDWR),
    ];
    for (path, flags) in more {
        if !r.one_in(6) {
            open(path, flags);
        }
    }
    file
}

fn work(r: &mut Random, job: &Job<'_>) {
    for _ in 0..job.count {
        let mut call = r.pick(job.calls);
        if matches!(call.name, "exit" | "exit_group" | "seccomp") && !r.one_in(16) {
            call = job.calls[0];
        }
        if one(r, job, call) {
            let deeper = Job {
                depth: job.depth + 1,
                count: 10,
                ..job.clone()
            };
            if deeper.depth <= DEPTH {
                work(r, &deeper);
            }
            // SAFETY: as in `main`.
            unsafe { libc::_exit(0) };
        }
    }
}

/// Makes one call; true in a child that it made.
fn one(r: &mut Random, job: &Job<'_>, call: &Syscall) -> bool {
    let mut args = values::arguments(r, &job.arena, job.who, call);
    let forks = matches!(call.name, "clone" | "clone3" | "fork" | "vfork");
    if forks && job.depth > DEPTH {
        return false;
    }
    let mut ends = forks;
    if call.name == "fork" || (call.name == "clone" && args[0] & 0x100 == 0 && r.one_in(2)) {
        args[1] = 0;
        ends = false;
    }
    bound_the_wait();
    if job.verbose {
        eprintln!("{} {}({args:x?})", std::process::id(), call.name);
    }
    if call.name == "rt_sigreturn" {
        if r.one_in(8) {
            raw::sigreturn(job.arena.address(r) & !7);
        }
        return false;
    }
    let Some(number) = call.number(Arch::HOST) else {
        return false;
    };
    raw::call(u64::from(number), args, ends) == 0 && forks && !ends
}

/// A call that blocks gets a signal soon; whoever manages to avoid it is killed.
fn bound_the_wait() {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: all structures are this function's own.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGALRM);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        let mut timer: libc::itimerval = std::mem::zeroed();
        timer.it_value.tv_usec = 20_000;
        libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
    }
}
