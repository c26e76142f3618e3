//! Stub processes: made by the template, told what to do through their mapper, killed.
//!
//! The *mapper* is the first thread of each. What it is told it reads from pages that guests cannot
//! write, what it answers lies where guests can: a guest may make its own change of mappings seem
//! done or failed. What a mapper has really done is known from the host kernel: it sleeps then on
//! a futex that says so, on which no guest thread may sleep ([`Stub::settle`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::code;
use super::filter::{CLONE_STUB, CLONE_THREAD_FLAGS};
use super::layout::*;
use super::memory::{StubMemory, Used};
use super::shared::{Shared, futex_wait, futex_wake, state};
use super::thread::{NO_CORE, Thread};
use crate::common::changes::{Carried, Command};
use crate::common::host_calls::count;
use crate::{Error, Mourner, Result, Retired, host};

/// How long a mapper may take for an order before its process is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for what a guest might hide before asking the host.
const ASK: Duration = Duration::from_millis(20);
/// So often is the guest believed about which call failed.
const LIES: u32 = 4;
/// How often a new thread is waited for, that long each, before its process is given up. No time: the
/// whole sandbox may have stood still.
const BIRTH_WAITS: u32 = 200;
const BIRTH_WAIT_MS: i64 = 5;
/// How often to look for a mapper's answer before sleeping.
const SPINS: u32 = 5000;

/// What to do about an order's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The mapper runs on another core.
    Spin,
    Sleep,
}

/// How an order ended, as the host says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// The host refused the call after this many.
    Failed(usize),
}

/// What the mapper was told.
#[derive(Default)]
struct Orders {
    /// Sequence number of the last order.
    seq: u32,
    /// Left to a guest thread to wake the mapper for it.
    unrung: bool,
    /// How often the host was asked in vain how it ended.
    asked: u32,
    /// Calls of the longest.
    longest: usize,
}

/// A stub process.
pub(super) struct Stub {
    pub memory: Arc<StubMemory>,
    pub pid: i32,
    pub slice: u64,
    orders: Mutex<Orders>,
    pub threads: Mutex<Threads>,
    /// What must not be used again before it is gone.
    limbo: Mutex<Vec<Retired>>,
    end: Mutex<End>,
    ended: Condvar,
    dead: AtomicBool,
    /// There are patched sites, or were.
    pub patched: AtomicBool,
    /// The core its mapper is bound to.
    mapper_core: AtomicUsize,
    /// Who to tell that it died.
    pub mourners: Mutex<Vec<Weak<dyn Mourner>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotYet,
    Reaped,
}

/// The guest threads of a stub.
#[derive(Default)]
pub(super) struct Threads {
    /// Area indexes given out so far.
    used: u64,
    /// Nobody's, stopped or told to stop.
    pub idle: Vec<Arc<Thread>>,
    /// Contexts that exist.
    pub contexts: usize,
}

fn host_error(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Host { what, source }
}

impl Stub {
    fn new(memory: Arc<StubMemory>, pid: i32, slice: u64) -> Arc<Stub> {
        Arc::new(Stub {
            memory,
            pid,
            slice,
            orders: Mutex::default(),
            threads: Mutex::default(),
            limbo: Mutex::default(),
            end: Mutex::new(End::NotYet),
            ended: Condvar::new(),
            dead: AtomicBool::new(false),
            patched: AtomicBool::new(false),
            mapper_core: AtomicUsize::new(NO_CORE),
            mourners: Mutex::default(),
        })
    }

    /// Lets the mapper run where the guest thread runs that waits for it.
    pub fn place_mapper(&self, core: usize, cores: &[usize]) {
        if self.mapper_core.swap(core, Ordering::Relaxed) != core {
            count();
            let _ = host::set_affinity(self.pid, cores);
        }
    }

    fn slice(&self) -> Shared {
        self.memory.slice(self.slice)
    }

    fn answers(&self) -> Shared {
        self.slice().at(FILE_ANSWERS)
    }

    pub fn area(&self, index: u64) -> Shared {
        self.slice().at(FILE_AREAS + index * AREA_LEN)
    }

    /// The low pages, and those that patched sites jump to.
    pub fn low(&self) -> Shared {
        self.slice().at(FILE_LOW)
    }

    pub fn site_pages(&self) -> Shared {
        self.slice().at(FILE_SITES)
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Makes the mapper carry out the calls in order, up to the first that fails.
    pub fn carry(&self, commands: &[Command], wait: Wait) -> Result<Carried> {
        let mut orders = self.orders.lock();
        let mut done = 0;
        for part in commands.chunks(orders::MAX as usize) {
            let (left, result) = self.order(&mut orders, part, wait)?;
            done += part.len().saturating_sub(left);
            if left > 0 {
                return Ok((done, Some(failure(result))));
            }
        }
        Ok((done, None))
    }

    /// One call and its result.
    fn call(&self, number: i64, args: [u64; 6]) -> Result<io::Result<u64>> {
        self.calls(&[Command { number, args }])
    }

    /// Some calls and the result of the last, or of the first that failed.
    fn calls(&self, commands: &[Command]) -> Result<io::Result<u64>> {
        let mut orders = self.orders.lock();
        let (left, result) = self.order(&mut orders, commands, Wait::Sleep)?;
        Ok(match left {
            0 => Ok(result),
            _ => Err(failure(result)),
        })
    }

    /// Some calls that do not matter, with what they point to on the scratch page. False if the mapper
    /// is at work, or a thread has yet to hear how its last order ended: they were not made.
    pub fn calls_at_leisure(&self, commands: &[Command], scratch: &[u8]) -> bool {
        let mut orders = self.orders.lock();
        let page = self.slice().at(FILE_COMMANDS);
        let rests = sleep_word(&page, orders.seq);
        if self.is_dead() || !is_asleep(rests.as_ptr(), rests) {
            return false;
        }
        page.write(orders::SCRATCH, scratch);
        // Whether the host refuses one, or the process is gone, is all the same.
        let _ = self.order(&mut orders, commands, Wait::Sleep);
        // The next process of this slice can read it.
        page.clear(orders::SCRATCH, scratch.len().next_multiple_of(8) as u64);
        true
    }

    fn order(&self, state: &mut Orders, commands: &[Command], wait: Wait) -> Result<(usize, u64)> {
        let next = self.write_order(state, commands, 0)?;
        let (page, answers) = (self.slice().at(FILE_COMMANDS), self.answers());
        publish(&page, next);
        futex_wake(sleep_word(&page, next.wrapping_sub(1)));
        let known = self.await_done(state, answers.u32(answers::DONE), next, wait)?;
        let (left, result) = self.outcome(commands.len());
        if known == Some(Outcome::Done) || (known.is_none() && left == 0) {
            return Ok((0, result));
        }
        let known = known.map_or_else(|| self.settled(state), Ok)?;
        match known {
            Outcome::Failed(done) => Ok((commands.len().saturating_sub(done), result)),
            // The guest says so, and it is not true.
            Outcome::Done => {
                self.kill();
                Err(Error::Gone)
            }
        }
    }

    /// Writes an order down. Gives the sequence number that will make it one.
    fn write_order(&self, state: &mut Orders, commands: &[Command], release: u64) -> Result<u32> {
        // What the guest says about the one before does not count.
        if self.settled(state)? != Outcome::Done {
            // And it has hidden a failure.
            self.kill();
            return Err(Error::Gone);
        }
        let page = self.slice().at(FILE_COMMANDS);
        for (n, command) in commands.iter().enumerate() {
            let at = orders::CALLS + n as u64 * orders::CALL_LEN;
            page.u64(at).store(command.number as u64, Ordering::Relaxed);
            for (i, arg) in command.args.iter().enumerate() {
                let word = page.u64(at + 8 + 8 * i as u64);
                word.store(*arg, Ordering::Relaxed);
            }
        }
        state.longest = state.longest.max(commands.len());
        state.seq = state.seq.wrapping_add(1);
        state.asked = 0;
        page.u32(orders::COUNT)
            .store(commands.len() as u32, Ordering::Relaxed);
        page.u32(orders::WAITER).store(0, Ordering::Relaxed);
        page.u64(orders::RELEASE).store(release, Ordering::Relaxed);
        Ok(state.seq)
    }

    /// Calls of the last order of `len` that were not carried out, and the last result.
    fn outcome(&self, len: usize) -> (usize, u64) {
        let answers = self.answers();
        let left = answers.u32(answers::LEFT).load(Ordering::Relaxed) as usize;
        let result = answers.u64(answers::RESULT).load(Ordering::Relaxed);
        (left.min(len), result)
    }

    /// Lets the thread at rest of this area go on as soon as the mapper has carried out the calls,
    /// at most [`orders::MAX`].
    pub fn post(&self, commands: &[Command], index: u64) -> Result<()> {
        let mut orders = self.orders.lock();
        let address = self.memory.layout.area(index);
        let next = self.write_order(&mut orders, commands, address)?;
        let area = self.area(index);
        area.u32(area::ORDER).store(next, Ordering::Relaxed);
        // First the state, or the mapper could be done before it; the thread waits for the number.
        let before = area.u32(area::STATE).swap(state::MAP, Ordering::SeqCst);
        let page = self.slice().at(FILE_COMMANDS);
        publish(&page, next);
        orders.unrung = before != state::PARKED;
        if !orders.unrung {
            futex_wake(sleep_word(&page, next.wrapping_sub(1)));
        }
        Ok(())
    }

    /// Why the host refused an order, as the guest lets us know.
    pub fn why(&self) -> io::Error {
        failure(self.outcome(0).1)
    }

    /// Waits until the guest says that the order is done, or the host, which is asked when the
    /// guest says nothing for long. What the host said, if it did.
    fn await_done(
        &self,
        state: &mut Orders,
        done: &std::sync::atomic::AtomicU32,
        seq: u32,
        wait: Wait,
    ) -> Result<Option<Outcome>> {
        if wait == Wait::Spin {
            for _ in 0..SPINS {
                if done.load(Ordering::Acquire) == seq {
                    return Ok(None);
                }
                std::hint::spin_loop();
            }
        }
        let page = self.slice().at(FILE_COMMANDS);
        page.u32(orders::WAITER).store(1, Ordering::SeqCst);
        let deadline = Instant::now() + PATIENCE;
        let mut ask = Instant::now() + ASK;
        loop {
            let found = done.load(Ordering::SeqCst);
            if found == seq {
                return Ok(None);
            }
            if self.is_dead() {
                return Err(Error::Gone);
            }
            let now = Instant::now();
            if now > ask {
                if let Some(outcome) = self.sleeping(state) {
                    return Ok(Some(outcome));
                }
                ask = now + ASK;
            }
            if now > deadline {
                self.kill();
                return Err(Error::Gone);
            }
            futex_wait(done, found, ASK.as_millis() as i64);
        }
    }

    /// How the last order ended, once it has, whatever the guest wrote where the mapper answers. A
    /// failure is told once.
    pub fn settle(&self) -> Result<Outcome> {
        let mut orders = self.orders.lock();
        self.settled(&mut orders)
    }

    fn settled(&self, state: &mut Orders) -> Result<Outcome> {
        if let Some(outcome) = self.sleeping(state) {
            return Ok(outcome);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            for _ in 0..64 {
                std::hint::spin_loop();
            }
            if let Some(outcome) = self.sleeping(state) {
                return Ok(outcome);
            }
            if self.is_dead() {
                return Err(Error::Gone);
            }
            if Instant::now() > deadline {
                self.kill();
                return Err(Error::Gone);
            }
            std::thread::yield_now();
        }
    }

    /// How the last order ended, by what the host says; None while it is being carried out.
    pub fn outcome_so_far(&self) -> Option<Outcome> {
        let mut orders = self.orders.lock();
        self.sleeping(&mut orders)
    }

    /// Only the mapper's filter lets anybody sleep on these words. Where it does says how its order
    /// ended; it is moved to where it is woken.
    fn sleeping(&self, state: &mut Orders) -> Option<Outcome> {
        let page = self.slice().at(FILE_COMMANDS);
        let done = sleep_word(&page, state.seq);
        let requeue = |from: *mut u32| is_asleep(from, done);
        if requeue(done.as_ptr()) {
            return Some(Outcome::Done);
        }
        if std::mem::take(&mut state.unrung) {
            // It may sleep since before the order; now it looks, whatever the guest does.
            futex_wake(sleep_word(&page, state.seq.wrapping_sub(1)));
            return None;
        }
        // It sleeps on the call that failed. The guest says which that is, or lies.
        let count = page.u32(orders::COUNT).load(Ordering::Relaxed);
        let count = (count as usize).min(orders::MAX as usize);
        let call = |n: usize| {
            let at = orders::CALLS + n as u64 * orders::CALL_LEN;
            page.u32(at).as_ptr()
        };
        let told = count - self.outcome(count).0;
        let which = match requeue(call(told)) {
            true => told,
            false if state.asked < LIES => {
                state.asked += 1;
                return None;
            }
            false => (0..count).find(|n| requeue(call(*n)))?,
        };
        let failed = call(which);
        let seq = page.u32(orders::SEQ).load(Ordering::Relaxed);
        page.u32(orders::ACKNOWLEDGED).store(seq, Ordering::SeqCst);
        // Once more: it may have been woken, and gone back, before it was acknowledged.
        requeue(failed);
        Some(Outcome::Failed(which))
    }

    /// A thread for a new context: an idle one that has stopped, or a new one.
    pub fn thread(self: &Arc<Self>) -> Result<Arc<Thread>> {
        let refused = |source| Error::Refused {
            op: "one more guest thread".to_owned(),
            source,
        };
        let mut threads = self.threads.lock();
        if let Some(at) = threads.idle.iter().rposition(|thread| thread.has_stopped()) {
            return Ok(threads.idle.swap_remove(at));
        }
        if threads.used + 1 >= AREA_COUNT {
            return Err(refused(io::Error::from_raw_os_error(libc::EAGAIN)));
        }
        let index = threads.used + 1;
        let area = self.area(index);
        area.u32(area::STATE).store(state::GUEST, Ordering::SeqCst);
        area.u32(area::SPIN).store(0, Ordering::Relaxed);
        let at = self.memory.layout.area(index);
        // stack_t: where, flags, size.
        let page = self.slice().at(FILE_COMMANDS);
        let stack = [at + area::ALTSTACK, 0, area::ALTSTACK_LEN];
        page.write(orders::STACK, stack.map(u64::to_le_bytes).as_flattened());
        let stack_at = self.memory.layout.base + COMMANDS + orders::STACK;
        let clone = Command {
            number: libc::SYS_clone,
            args: [CLONE_THREAD_FLAGS, 0, 0, 0, at, stack_at],
        };
        let tid = match index {
            1 => self.calls(&[clone])?,
            _ => self.calls(&[self.map_area(index), clone])?,
        };
        let tid = tid.map_err(refused)? as i32;
        threads.used = index;
        // The number comes from where guests write: it must be one of this process's threads.
        // SAFETY: no memory is passed.
        if unsafe { libc::syscall(libc::SYS_tgkill, self.pid, tid, 0) } != 0 {
            return Err(Error::Gone);
        }
        let thread = Thread::new(index, tid, area);
        self.await_birth(&thread)?;
        Ok(thread)
    }

    fn map_area(&self, index: u64) -> Command {
        let at = self.memory.layout.area(index);
        let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        let file = self.memory.file.as_fd().as_raw_fd() as u64;
        let offset = self.slice * SLICE + FILE_AREAS + index * AREA_LEN;
        Command {
            number: libc::SYS_mmap,
            args: [at, AREA_LEN, prot, flags, file, offset],
        }
    }

    /// Waits until a new thread has come to rest; other guest threads might hide that.
    fn await_birth(&self, thread: &Thread) -> Result<()> {
        const YIELDS: u32 = 20;
        let word = thread.area.u32(area::STATE);
        for n in 0..YIELDS + BIRTH_WAITS {
            let found = word.load(Ordering::Acquire);
            if thread.has_stopped() {
                return Ok(());
            }
            if self.is_dead() {
                return Err(Error::Gone);
            }
            match n < YIELDS {
                true => std::thread::yield_now(),
                false => futex_wait(word, found, BIRTH_WAIT_MS),
            }
        }
        self.kill();
        Err(Error::Gone)
    }

    /// Kills the process; it may take a moment to be gone.
    pub fn kill(&self) {
        if !self.is_dead() {
            // SAFETY: no memory is passed. The process is not reaped before it is marked dead.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
    }

    /// Keeps something until the process is gone.
    pub fn keep(&self, retired: Retired) {
        let mut limbo = self.limbo.lock();
        if self.is_dead() {
            drop(limbo);
            drop(retired);
        } else {
            limbo.push(retired);
        }
    }

    /// Kills the process, which nobody needs any more.
    pub fn dismiss(&self) {
        self.mourners.lock().clear();
        self.kill();
    }

    /// As `dismiss`; returns when it is gone.
    pub fn kill_and_wait(&self) {
        self.dismiss();
        let mut end = self.end.lock();
        while *end != End::Reaped {
            self.ended.wait(&mut end);
        }
    }

    /// The process was reaped.
    pub fn reaped(&self) {
        self.dead.store(true, Ordering::Release);
        let limbo = std::mem::take(&mut *self.limbo.lock());
        drop(limbo);
        *self.end.lock() = End::Reaped;
        self.ended.notify_all();
        futex_wake(self.answers().u32(answers::DONE));
        for mourner in self.mourners.lock().drain(..) {
            if let Some(mourner) = mourner.upgrade() {
                mourner.died();
            }
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let calls = self.orders.get_mut().longest as u64;
        let used = Used {
            orders: orders::CALLS + calls * orders::CALL_LEN,
            areas: self.threads.get_mut().used,
            patched: *self.patched.get_mut(),
        };
        self.memory.free_slice(self.slice, used);
    }
}

/// Makes what is written in the order page an order.
fn publish(page: &Shared, seq: u32) {
    // First the words to sleep on: a mapper that has not seen it must not fall asleep.
    for n in 0..2 {
        page.u32(orders::SLEEP + 4 * n).store(seq, Ordering::SeqCst);
    }
    page.u32(orders::SEQ).store(seq, Ordering::SeqCst);
}

/// Whether the mapper sleeps on the word `on`; if so, it does on `then` from now on.
fn is_asleep(on: *mut u32, then: &std::sync::atomic::AtomicU32) -> bool {
    count();
    // SAFETY: the words are valid; nothing is written.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            on,
            libc::FUTEX_REQUEUE,
            0,
            1,
            then.as_ptr(),
        ) > 0
    }
}

/// Where the mapper sleeps that has carried out the order of this number.
fn sleep_word(page: &Shared, seq: u32) -> &std::sync::atomic::AtomicU32 {
    page.u32(orders::SLEEP + 4 * u64::from(seq & 1))
}

fn failure(result: u64) -> io::Error {
    let errno = (result as i64).wrapping_neg();
    io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(libc::EIO))
}

/// The process that all others are cloned from. It runs no guest code.
pub(super) struct Template {
    stub: Arc<Stub>,
}

impl Template {
    /// Forks the template from the calling thread, whose death is its death.
    pub fn new(memory: &Arc<StubMemory>) -> Result<Template> {
        let slice = memory.take_slice()?;
        let pid = fork_mapper(memory, slice).map_err(host_error("fork of the stub"))?;
        let stub = Stub::new(memory.clone(), pid, slice);
        let template = Template { stub };
        template.set_up()?;
        Ok(template)
    }

    pub fn stub(&self) -> &Arc<Stub> {
        &self.stub
    }

    fn set_up(&self) -> Result<()> {
        let stub = &self.stub;
        let layout = &stub.memory.layout;
        let page = stub.slice().at(FILE_COMMANDS);
        let scratch = layout.base + COMMANDS + orders::SCRATCH;
        let run = |what: &'static str, number: i64, args: [u64; 6]| {
            stub.call(number, args)?
                .map_err(|source| Error::Host { what, source })
        };
        // The kernel writes to the rseq area, which is about to go.
        if let Some((address, len, signature)) = host::rseq_area() {
            let args = [address, len, 1, signature, 0, 0];
            // EINVAL: the C library was told not to register it.
            let _ = stub.call(libc::SYS_rseq, args)?;
        }
        page.write(orders::SCRATCH, &[0; 16]);
        let args = [libc::RLIMIT_CORE as u64, scratch, 0, 0, 0, 0];
        run("setrlimit of the stub", libc::SYS_setrlimit, args)?;
        page.write(orders::SCRATCH, b"runsc-stub\0");
        let args = [libc::PR_SET_NAME as u64, scratch, 0, 0, 0, 0];
        run("naming the stub", libc::SYS_prctl, args)?;
        let args = [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0];
        run("no_new_privs of the stub", libc::SYS_prctl, args)?;
        // struct __user_cap_header_struct, version 3, and its two data: none.
        page.write(orders::SCRATCH, &[0; 64]);
        page.write(orders::SCRATCH, &0x2008_0522u64.to_le_bytes());
        let args = [scratch, scratch + 16, 0, 0, 0, 0];
        run("dropping the stub's capabilities", libc::SYS_capset, args)?;
        self.set_handlers(&page, scratch)?;
        for (start, len) in layout.others() {
            run(
                "emptying the stub",
                libc::SYS_munmap,
                [start, len, 0, 0, 0, 0],
            )?;
        }
        let args = [
            u64::from(libc::SECCOMP_SET_MODE_FILTER),
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            layout.data() + data::MAPPER_FILTER,
            0,
            0,
            0,
        ];
        run(
            "installing the stub's seccomp filter",
            libc::SYS_seccomp,
            args,
        )?;
        Ok(())
    }

    /// Actions of the signals that guest code raises or is kicked with. Others end the process, or
    /// are none.
    fn set_handlers(&self, page: &Shared, scratch: u64) -> Result<()> {
        const SA_RESTORER: u64 = 0x0400_0000;
        let base = self.stub.memory.layout.base + CODE;
        let flags = (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER) as u64 | SA_RESTORER;
        // struct sigaction of the kernel: handler, flags, restorer, mask.
        let action = [base + code::handler(), flags, base + code::restorer(), 0];
        let signals = [
            (libc::SIGSYS, action),
            (libc::SIGSEGV, action),
            (libc::SIGBUS, action),
            (libc::SIGFPE, action),
            (libc::SIGILL, action),
            (libc::SIGTRAP, action),
            (crate::common::kick::KICK_SIGNAL, action),
        ];
        let ignore = [libc::SIG_IGN as u64, 0, 0, 0];
        let ignored = (1..libc::SIGRTMIN() + 31)
            .filter(|n| !signals.iter().any(|s| s.0 == *n))
            .filter(|n| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD, libc::SIGCONT].contains(n))
            .map(|n| (n, ignore));
        for (signal, action) in signals.into_iter().chain(ignored) {
            page.write(orders::SCRATCH, action.map(u64::to_le_bytes).as_flattened());
            let args = [signal as u64, scratch, 0, 8, 0, 0];
            // Some real-time signals belong to the C library here; not to the stub.
            self.stub
                .call(libc::SYS_rt_sigaction, args)?
                .map_err(host_error("sigaction of the stub"))?;
        }
        // Not the mapper's business; new guest threads open their mask.
        page.write(orders::SCRATCH, &[0xff; 8]);
        let args = [libc::SIG_SETMASK as u64, scratch, 0, 8, 0, 0];
        self.stub
            .call(libc::SYS_rt_sigprocmask, args)?
            .map_err(host_error("signal mask of the stub"))?;
        Ok(())
    }

    /// A new stub process.
    pub fn clone_stub(&self) -> Result<Arc<Stub>> {
        let memory = &self.stub.memory;
        let slice = memory.take_slice()?;
        let refused = |source| Error::Refused {
            op: "one more address space".to_owned(),
            source,
        };
        let file = memory.file.as_fd().as_raw_fd() as u64;
        let args = [CLONE_STUB, 0, 0, 0, slice * SLICE, file];
        let pid = self
            .stub
            .call(libc::SYS_clone, args)
            .and_then(|result| result.map_err(refused));
        match pid {
            Ok(pid) => Ok(Stub::new(memory.clone(), pid as i32, slice)),
            Err(error) => {
                memory.free_slice(slice, Used::default());
                Err(error)
            }
        }
    }
}

/// Forks the calling thread; the child maps its pages and becomes a mapper.
fn fork_mapper(memory: &StubMemory, slice: u64) -> io::Result<i32> {
    let maps = StubMemory::maps(&memory.layout);
    let fd = memory.file.as_fd().as_raw_fd();
    let entry = memory.layout.base + CODE;
    let parent = std::process::id() as i32;
    // SAFETY: without CLONE_VM the child has its own copy of our memory. It is the only thread of
    // its process and runs only the few instructions below, which take no lock and allocate
    // nothing.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::CLONE_FILES | libc::SIGCHLD,
            0,
            0,
            0,
            0,
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid > 0 {
        // A group of their own, so that they can be waited for together.
        // SAFETY: no memory is passed.
        unsafe { libc::setpgid(pid as i32, pid as i32) };
        return Ok(pid as i32);
    }
    let die = || -> ! {
        // SAFETY: ends the child without running anything of ours.
        unsafe { libc::_exit(1) }
    };
    // SAFETY: in the child; no memory is passed.
    let rc = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    // SAFETY: in the child; no memory is passed.
    unsafe { libc::setpgid(0, 0) };
    // SAFETY: in the child; no memory is passed. Process 1 of a namespace has parent 0.
    let orphan = unsafe { libc::getppid() } != parent && parent != 1;
    if rc != 0 || orphan {
        die();
    }
    let slice = slice * SLICE;
    let global = (memory.layout.base + GLOBAL, GLOBAL_LEN, libc::PROT_READ, 0);
    let own = maps.map(|(addr, len, prot, offset)| (addr, len, prot, slice + offset));
    for (addr, len, prot, offset) in own.into_iter().chain([global]) {
        // SAFETY: in the child, which has none of its own things at these addresses: they were
        // reserved, or are below every program.
        let at = unsafe {
            libc::mmap(
                addr as *mut libc::c_void,
                len as usize,
                prot,
                libc::MAP_SHARED | libc::MAP_FIXED,
                fd,
                offset as i64,
            )
        };
        if at == libc::MAP_FAILED {
            die();
        }
    }
    // SAFETY: the address holds the mapper, which never returns and uses no stack.
    unsafe { std::arch::asm!("jmp {}", in(reg) entry, options(noreturn)) }
}
