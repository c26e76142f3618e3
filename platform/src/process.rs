//! Starting the sandbox's processes, and what a program inherits from its caller.
//!
//! [`spawn`] clones the calling process into new namespaces and executes a program there with
//! exactly the fds it is given. It is for single-threaded callers and does what neither libc nor
//! std offer: namespaces, a wait for the parent to write the id maps ([`Child::release`]), ambient
//! capabilities, no inherited fd. Between clone and execve the child makes only direct system
//! calls on memory prepared by the parent.
//!
//! [`devour`] starts a process whose purpose is to be too big.
//!
//! [`inherited`] tells what std's start-up code hides: closed stdio fds, and SIGPIPE's disposition.
//!
//! Deliberately absent: id maps, mounts, credentials; the program does those itself once it runs.

use std::{
    ffi::{CStr, CString, c_char, c_long},
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

/// What to run and in which surroundings.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program, opened (O_PATH suffices).
    pub program: BorrowedFd<'a>,
    pub args: &'a [CString],
    pub env: &'a [CString],
    /// `CLONE_NEW*` flags.
    pub namespaces: i32,
    /// The program's fds: `fds[n]` becomes fd n. Everything else is closed.
    pub fds: &'a [BorrowedFd<'a>],
    /// Blocked signals of the program; signal n is bit n - 1.
    pub blocked_signals: u64,
}

/// A spawned process, not yet reaped.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The child waits for a byte from here before it goes on to execute the program.
    gate: Option<io::PipeWriter>,
    /// Holds stage and errno if the program could not be executed.
    failure: io::PipeReader,
}

impl Child {
    /// Lets the child execute the program; until then it does nothing. Dropping the `Child`
    /// without it ends the child.
    pub fn release(&mut self) -> io::Result<()> {
        match self.gate.take() {
            Some(mut gate) => io::Write::write_all(&mut gate, b"g"),
            None => Ok(()),
        }
    }

    /// Why the program could not be executed, for a child that is dead.
    pub fn failure(&mut self) -> Option<io::Error> {
        let mut record = [0; 4];
        io::Read::read_exact(&mut self.failure, &mut record).ok()?;
        Some(io::Error::from_raw_os_error(i32::from_ne_bytes(record)))
    }
}

/// Pointers for execve, ending in NULL.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([ptr::null()])
        .collect()
}

/// Starts a process. The child is killed when the calling thread ends, and is left waiting for
/// [`Child::release`].
pub fn spawn(spawn: &Spawn<'_>) -> io::Result<Child> {
    let (gate_reader, gate) = io::pipe()?;
    let (failure, failure_writer) = io::pipe()?;
    let mut plan = Plan {
        program: spawn.program.as_raw_fd(),
        args: pointers(spawn.args),
        env: pointers(spawn.env),
        fds: spawn.fds.iter().map(AsRawFd::as_raw_fd).collect(),
        blocked_signals: spawn.blocked_signals,
        gate: gate_reader.as_raw_fd(),
        gate_writer: gate.as_raw_fd(),
        failure: failure_writer.as_raw_fd(),
    };
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero bytes are a valid clone_args.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = (spawn.namespaces | libc::CLONE_PIDFD) as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    let size = mem::size_of::<libc::clone_args>();
    // SAFETY: without CLONE_VM the child works on a copy of this memory and stack; `args` and
    // `pidfd` outlive the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            plan.run();
            exit_now()
        }
        pid => {
            // SAFETY: the kernel has stored a new fd of this process, owned by nobody else.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child {
                pid: pid as i32,
                pidfd,
                gate: Some(gate),
                failure,
            })
        }
    }
}

/// A process that takes memory, not yet reaped.
#[derive(Debug)]
pub struct Devourer {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// What a process that takes memory does when it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Exit,
    /// Until it is killed.
    Stay,
}

/// Starts a child that takes `bytes` of memory and touches all of it. Besides it maps the first
/// [`BALLAST_PIECE`] of `ballast`'s file as often as makes so many bytes, which count as its own to
/// the OOM killer and use hardly any memory. It executes no program, so that it can do what the caller
/// can under the caller's own filter of system calls. Killed when the calling thread ends.
pub fn devour(bytes: usize, ballast: (BorrowedFd<'_>, usize), then: Then) -> io::Result<Devourer> {
    let mut pidfd: RawFd = -1;
    let pidfd_at = &raw mut pidfd;
    // SAFETY: without CLONE_VM the child works on a copy of this memory and stack; `pidfd` outlives
    // the call.
    let pid = unsafe {
        system_call(
            libc::SYS_clone,
            [DEVOURER_FLAGS as c_long, 0, pidfd_at as c_long, 0, 0],
        )
    };
    match pid.map_err(io::Error::from_raw_os_error)? {
        0 => {
            // Whatever fails, the end is the same.
            let _ = take_memory(bytes, ballast);
            match then {
                Then::Exit => {}
                Then::Stay => loop {
                    // SAFETY: looks at no fds.
                    unsafe { libc::poll(ptr::null_mut(), 0, -1) };
                },
            }
            // SAFETY: _exit touches no memory.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(Devourer {
            pid: pid as i32,
            // SAFETY: the kernel has stored a new fd of this process, owned by nobody else.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// What [`devour`] passes to clone(2).
pub const DEVOURER_FLAGS: u32 = (libc::CLONE_PIDFD | libc::SIGCHLD) as u32;

/// See [`devour`].
pub const BALLAST_PIECE: usize = 1 << 20;

/// Runs in the child.
fn take_memory(bytes: usize, ballast: (BorrowedFd<'_>, usize)) -> Result<(), i32> {
    const PAGE: usize = 4096;
    let kill = libc::SIGKILL as c_long;
    // SAFETY: PR_SET_PDEATHSIG takes no pointers.
    unsafe {
        system_call(
            libc::SYS_prctl,
            [libc::PR_SET_PDEATHSIG as c_long, kill, 0, 0, 0],
        )
    }?;
    let (file, size) = ballast;
    for _ in 0..size.div_ceil(BALLAST_PIECE) {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let (rights, fd) = (libc::PROT_READ, file.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice, which nobody reads.
        unsafe { libc::mmap(ptr::null_mut(), BALLAST_PIECE, rights, flags, fd, 0) };
    }
    if bytes == 0 {
        return Ok(());
    }
    let (rights, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(libc::ENOMEM);
    }
    // SAFETY: the mapping, full of zeroes, is of that length, and nobody else knows of it.
    let memory = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), bytes) };
    for page in memory.iter_mut().step_by(PAGE) {
        *page = 1;
    }
    std::hint::black_box(memory);
    Ok(())
}

/// Ends a child that could not execute its program, without running any exit handlers.
fn exit_now() -> ! {
    // SAFETY: _exit touches no memory.
    unsafe { libc::_exit(127) }
}

/// What the child does, prepared so that it need not allocate.
struct Plan {
    program: RawFd,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    fds: Vec<RawFd>,
    blocked_signals: u64,
    gate: RawFd,
    gate_writer: RawFd,
    failure: RawFd,
}

impl Plan {
    /// Runs in the child; returns only if something failed.
    fn run(&mut self) {
        if let Err(errno) = self.steps() {
            let record = errno.to_ne_bytes();
            let len = record.len() as c_long;
            // SAFETY: writes from a live array of that length.
            let _ = unsafe {
                system_call(
                    libc::SYS_write,
                    [self.failure as c_long, record.as_ptr() as c_long, len, 0, 0],
                )
            };
        }
    }

    fn steps(&mut self) -> Result<(), i32> {
        let kill = libc::SIGKILL as c_long;
        // SAFETY: PR_SET_PDEATHSIG takes no pointers.
        unsafe {
            system_call(
                libc::SYS_prctl,
                [libc::PR_SET_PDEATHSIG as c_long, kill, 0, 0, 0],
            )
        }?;
        self.wait_at_gate()?;
        keep_capabilities()?;
        self.place_fds()?;
        let mask = &raw const self.blocked_signals as c_long;
        let set = libc::SIG_SETMASK as c_long;
        // SAFETY: `mask` points to the eight bytes of a kernel signal set.
        unsafe { system_call(libc::SYS_rt_sigprocmask, [set, mask, 0, 8, 0]) }?;
        let args = self.args.as_ptr() as c_long;
        let env = self.env.as_ptr() as c_long;
        let empty = c"".as_ptr() as c_long;
        let flags = libc::AT_EMPTY_PATH as c_long;
        // SAFETY: both arrays end in NULL and hold C strings that live until the image is replaced.
        unsafe {
            system_call(
                libc::SYS_execveat,
                [self.program as c_long, empty, args, env, flags],
            )
        }
        .map(|_| ())
    }

    /// Waits for the parent's byte. End of file means that the parent is gone, so this process
    /// must not hold the writing end itself.
    fn wait_at_gate(&self) -> Result<(), i32> {
        // SAFETY: closes the child's own copy of a pipe end that it has no other use for.
        unsafe { system_call(libc::SYS_close, [self.gate_writer as c_long, 0, 0, 0, 0]) }?;
        let mut byte = 0u8;
        loop {
            let to = &raw mut byte as c_long;
            // SAFETY: reads one byte into a live variable.
            match unsafe { system_call(libc::SYS_read, [self.gate as c_long, to, 1, 0, 0]) } {
                Ok(1) => return Ok(()),
                Err(libc::EINTR) => {}
                Ok(_) => exit_now(),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Moves the fds to their places: first out of the way, then down in order. All others are
    /// marked to be closed by execve.
    fn place_fds(&mut self) -> Result<(), i32> {
        let count = self.fds.len() as c_long;
        for fd in self
            .fds
            .iter_mut()
            .chain([&mut self.program, &mut self.failure])
        {
            let above = libc::F_DUPFD_CLOEXEC as c_long;
            // SAFETY: F_DUPFD_CLOEXEC takes no pointers.
            let moved =
                unsafe { system_call(libc::SYS_fcntl, [*fd as c_long, above, count, 0, 0]) }?;
            *fd = moved as RawFd;
        }
        for (place, fd) in self.fds.iter().enumerate() {
            // SAFETY: takes no pointers; what it closes is below `count`, where this process
            // keeps nothing that it still needs.
            unsafe { system_call(libc::SYS_dup3, [*fd as c_long, place as c_long, 0, 0, 0]) }?;
        }
        let flags = libc::CLOSE_RANGE_CLOEXEC as c_long;
        let last = c_long::from(u32::MAX);
        // SAFETY: takes no pointers and closes nothing before execve.
        unsafe { system_call(libc::SYS_close_range, [count, last, flags, 0, 0]) }?;
        Ok(())
    }
}

/// Makes all permitted capabilities ambient, so that they survive execve without uid 0. In a new
/// user namespace these are all there are, and good for nothing outside of it.
fn keep_capabilities() -> Result<(), i32> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    // Effective, permitted, inheritable; low words, then high words.
    let mut sets = [0u32; 6];
    let header_at = header.as_ptr() as c_long;
    let sets_at = sets.as_mut_ptr() as c_long;
    // SAFETY: version 3 reads a header of two words and writes six.
    unsafe { system_call(libc::SYS_capget, [header_at, sets_at, 0, 0, 0]) }?;
    sets[2] = sets[1];
    sets[5] = sets[4];
    let sets_at = sets.as_ptr() as c_long;
    // SAFETY: version 3 reads a header of two words and six words of sets.
    unsafe { system_call(libc::SYS_capset, [header_at, sets_at, 0, 0, 0]) }?;
    let permitted = u64::from(sets[1]) | u64::from(sets[4]) << 32;
    for capability in (0..64).filter(|bit| permitted >> bit & 1 == 1) {
        let ambient = libc::PR_CAP_AMBIENT as c_long;
        let raise = libc::PR_CAP_AMBIENT_RAISE as c_long;
        // SAFETY: PR_CAP_AMBIENT takes no pointers.
        unsafe { system_call(libc::SYS_prctl, [ambient, raise, capability, 0, 0]) }?;
    }
    Ok(())
}

/// A system call with up to five arguments, its errno as an error.
///
/// # Safety
/// As the system call demands of its pointers.
unsafe fn system_call(number: c_long, args: [c_long; 5]) -> Result<c_long, i32> {
    let [a, b, c, d, e] = args;
    // SAFETY: passed on to the caller.
    match unsafe { libc::syscall(number, a, b, c, d, e) } {
        -1 => Err(io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)),
        value => Ok(value),
    }
}

/// Takes over the fds `first..first + count` that [`spawn`] put there, and marks them
/// close-on-exec. Fails if one is not open, and when called a second time.
pub fn received_fds(first: RawFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let last = i32::try_from(count)
        .ok()
        .and_then(|count| first.checked_add(count));
    let last = last.ok_or(io::ErrorKind::InvalidInput)?;
    for fd in first..last {
        // SAFETY: F_SETFD takes no pointers.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: these fds are open, came from the parent and are nobody's: this runs once, and the
    // only caller is a program's start.
    Ok((first..last)
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect())
}

/// Another fd for what the caller of this program left it as number `fd`. One that this process has
/// opened itself is none of those, which execve(2) would have closed.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes no pointers.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags == -1 || flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_DUPFD_CLOEXEC takes no pointers.
    let new = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if new == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this fd, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// What the caller of this program left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    /// Whether stdin, stdout, stderr were closed. std has opened /dev/null in their place.
    pub closed_stdio: [bool; 3],
    /// Ignored signals; signal n is bit n - 1.
    pub ignored_signals: u64,
}

/// Reports what this process inherited, as it was before std's start-up code changed it.
pub fn inherited() -> Inherited {
    let at_start = AT_START.load(Ordering::Relaxed);
    let closed_stdio = [0, 1, 2].map(|fd| at_start >> fd & 1 == 1);
    let mut ignored_signals = 0;
    for signal in 1..=64 {
        let ignored = match signal {
            libc::SIGPIPE => at_start & SIGPIPE_IGNORED != 0,
            // The two that libc keeps for itself.
            32 | 33 => false,
            signal => is_ignored(signal),
        };
        ignored_signals |= u64::from(ignored) << (signal - 1);
    }
    Inherited {
        closed_stdio,
        ignored_signals,
    }
}

/// The signals of a set, those of real time included; signal n is bit n - 1.
pub fn signal_bits(set: &libc::sigset_t) -> u64 {
    // SAFETY: sigismember(3) reads the set and nothing else.
    let has = |signal| unsafe { libc::sigismember(set, signal) } == 1;
    let signals = (1..=64).filter(|signal| has(*signal));
    signals.fold(0, |bits, signal| bits | 1 << (signal - 1))
}

/// Bits 0 to 2: the fd of that number was closed. Bit 3: [`SIGPIPE_IGNORED`].
static AT_START: AtomicU32 = AtomicU32::new(0);
const SIGPIPE_IGNORED: u32 = 8;

/// Runs before `main` and before std's start-up code.
// SAFETY: the section holds pointers to functions with the C ABI, which this is.
#[used]
#[unsafe(link_section = ".init_array")]
static OBSERVE: extern "C" fn() = observe_start;

extern "C" fn observe_start() {
    let mut seen = 0;
    for fd in 0..3 {
        if !is_open(fd) {
            seen |= 1 << fd;
        }
    }
    if is_ignored(libc::SIGPIPE) {
        seen |= SIGPIPE_IGNORED;
    }
    AT_START.store(seen, Ordering::Relaxed);
}

/// Whether this process has an fd of that number.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointers and changes nothing.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: writes the current action to a live variable and changes nothing.
    let result = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Names this process in ps(1); at most 15 bytes are kept.
pub fn set_name(name: &CStr) {
    // SAFETY: PR_SET_NAME reads up to 16 bytes of a C string and stops at its end.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Gives back what only the start-up needed: the pages of this program's code, of which those still
/// needed come again with a fault each, and free memory of the heap. For a process that will mostly
/// sleep; may be called again when more has become superfluous. A process that gives up /proc calls
/// it before.
pub fn release_start_up_memory() {
    static CODE: OnceLock<Vec<(usize, usize)>> = OnceLock::new();
    let code = CODE.get_or_init(|| {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        maps.lines().filter_map(code_range).collect()
    });
    for &(start, end) in code {
        // SAFETY: the range is mapped from a file for the life of the process, private and not
        // writable, and nothing in it was ever written (see `code_range`), so what comes back is
        // what was there. If the host refuses, everything stays.
        unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_DONTNEED) };
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator gives back memory that nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Start and end, if the line of /proc/PID/maps is of a file's code or first segment. Others may
/// hold what the dynamic linker has written before it took the right to write away.
fn code_range(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let rights = fields.next()?;
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(1)?;
    let untouched = rights == "r-xp" || rights == "r--p" && offset == 0;
    let address = |text| usize::from_str_radix(text, 16).ok();
    (untouched && inode != "0").then_some((address(start)?, address(end)?))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::fd::AsFd};

    use super::*;

    fn run(script: &str, namespaces: i32) -> String {
        let program = File::open("/bin/sh").unwrap();
        let args = ["sh", "-c", script].map(|arg| CString::new(arg).unwrap());
        let (mut out, inner) = io::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        let mut child = spawn(&Spawn {
            program: program.as_fd(),
            args: &args,
            env: &[c"PATH=/usr/bin:/bin".into()],
            namespaces,
            fds: &[null.as_fd(), inner.as_fd(), inner.as_fd()],
            blocked_signals: 0,
        })
        .unwrap();
        drop(inner);
        child.release().unwrap();
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child.pid), None).unwrap();
        assert!(child.failure().is_none());
        text
    }

    #[test]
    fn the_program_has_its_fds_and_no_others() {
        // ls itself opens the directory as fd 3.
        assert_eq!(
            run("ls /proc/self/fd | tr '\\n' ' '; echo $PATH", 0),
            "0 1 2 3 /usr/bin:/bin\n"
        );
    }

    #[test]
    fn new_namespaces_and_kept_capabilities() {
        let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNET;
        let text = run(
            "echo $$; grep CapEff /proc/self/status; tail -n +3 /proc/net/dev",
            flags,
        );
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("1"));
        // No id map was written, yet all capabilities survived the execve.
        let effective = lines.next().unwrap().split_whitespace().last().unwrap();
        assert!(
            u64::from_str_radix(effective, 16).unwrap() & (1 << 21) != 0,
            "{effective}"
        );
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_reported() {
        let program = File::open("/etc/passwd").unwrap();
        let null = File::open("/dev/null").unwrap();
        let mut child = spawn(&Spawn {
            program: program.as_fd(),
            args: &[],
            env: &[],
            namespaces: 0,
            fds: &[null.as_fd()],
            blocked_signals: 0,
        })
        .unwrap();
        child.release().unwrap();
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child.pid), None).unwrap();
        assert_eq!(child.failure().unwrap().raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn code_pages_come_back() {
        let cases = [
            (
                "5600-5700 r-xp 00001000 fe:00 7 /bin/x",
                Some((0x5600, 0x5700)),
            ),
            (
                "5600-5700 r--p 00000000 fe:00 7 /bin/x",
                Some((0x5600, 0x5700)),
            ),
            ("5600-5700 r--p 00001000 fe:00 7 /bin/x", None),
            ("5600-5700 rw-p 00001000 fe:00 7 /bin/x", None),
            ("5600-5700 r-xp 00000000 00:00 0 [vdso]", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(code_range(line), expected, "{line}");
        }
        release_start_up_memory();
        release_start_up_memory();
        assert_eq!(
            format!("{:.3}", std::hint::black_box(0.5f64).sqrt()),
            "0.707"
        );
    }

    #[test]
    fn memory_is_taken_by_a_process_of_its_own() {
        let program = File::open("/proc/self/exe").unwrap();
        let ballast = |bytes| (program.as_fd(), bytes);
        let devourer = devour(8 << 20, ballast(0), Then::Exit).unwrap();
        let pid = nix::unistd::Pid::from_raw(devourer.pid);
        let status = nix::sys::wait::waitpid(pid, None).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(pid, 0));
        // It got that far: its most, in pages at least.
        // SAFETY: all-zero bytes are a valid rusage.
        let mut usage: libc::rusage = unsafe { mem::zeroed() };
        // SAFETY: writes to a live variable.
        let result = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
        assert_eq!(result, 0);
        assert!(usage.ru_maxrss >= 8 << 10, "{}", usage.ru_maxrss);
        let stays = devour(0, ballast(64 << 20), Then::Stay).unwrap();
        let pid = nix::unistd::Pid::from_raw(stays.pid);
        // It counts as big, and does not use that.
        let resident = || {
            let sizes = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
            let sizes: Vec<usize> = sizes
                .split(' ')
                .map_while(|n| n.trim().parse().ok())
                .collect();
            (sizes[1], sizes[1] - sizes[2])
        };
        while resident().0 < 64 << 8 {
            std::thread::yield_now();
        }
        assert!(resident().1 < 16 << 8, "{:?}", resident());
        let signal = nix::sys::signal::Signal::SIGKILL;
        nix::sys::signal::kill(pid, signal).unwrap();
        let status = nix::sys::wait::waitpid(pid, None).unwrap();
        let killed = nix::sys::wait::WaitStatus::Signaled(pid, signal, false);
        assert_eq!(status, killed);
    }

    #[test]
    fn a_child_that_is_never_released_ends() {
        let null = File::open("/dev/null").unwrap();
        let child = spawn(&Spawn {
            program: null.as_fd(),
            args: &[],
            env: &[],
            namespaces: 0,
            fds: &[],
            blocked_signals: 0,
        })
        .unwrap();
        let pid = nix::unistd::Pid::from_raw(child.pid);
        drop(child);
        let status = nix::sys::wait::waitpid(pid, None).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(pid, 127));
    }
}
