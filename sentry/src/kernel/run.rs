//! The life of a task: guest code, trap, answer, signals, guest code again.

use std::pin::Pin;
use std::sync::Arc;

use runsc_platform as platform;
use runsc_platform::{AddressSpace, Trap};

use crate::errno::{Errno, Error, Restart};
use crate::executor;
use crate::fs::moment;
use crate::kernel::current;
use crate::kernel::exec::{Program, exec};
use crate::kernel::exit;
use crate::kernel::freeze;
use crate::kernel::group::ExitStatus;
use crate::kernel::resources::out_of_memory;
use crate::kernel::seccomp::bpf::Data;
use crate::kernel::seccomp::listener::{Decision, ask};
use crate::kernel::seccomp::{self, Refused};
use crate::kernel::signal::deliver::{Outcome, deliver};
use crate::kernel::signal::send::force;
use crate::kernel::signal::{SigInfo, Signal};
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::vsyscall::{self, Called};
use crate::kernel::wait::Ready;
use crate::syscalls;

/// How long a task waits for the memory of another one, which is ending, before it looks again.
const OOM_RETRY_NS: u64 = 1_000_000;

/// How often it looks before it takes the memory for lost.
const MAX_HUNGRY: u32 = 10_000;

/// Lets a new task run.
pub fn start(task: Arc<Task>) {
    let (executor, home) = (task.kernel().executor.clone(), task.home.clone());
    executor.spawn(&home, boxed(task));
}

/// Lets the task of a process from outside run: it executes `program`, and `told` hears how that
/// went. If it did not go the process ends.
pub fn start_with(
    task: Arc<Task>,
    program: Program,
    told: impl FnOnce(Result<(), Errno>) + Send + 'static,
) {
    let (executor, home) = (task.kernel().executor.clone(), task.home.clone());
    executor.spawn(
        &home,
        current::scope(task.clone(), async move {
            match exec(&task, program).await {
                Ok(()) => told(Ok(())),
                Err(e) => {
                    told(Err(match e {
                        Error::Errno(errno) => errno,
                        Error::Restart(_) => Errno::EINTR,
                    }));
                    exit::finish(&task, killed());
                    return;
                }
            }
            boxed(task).await;
        }),
    );
}

/// Boxed, because a task's future contains the one of clone(2), which starts others.
fn boxed(task: Arc<Task>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(current::scope(task.clone(), run(task)))
}

/// The future of a task, from its first instruction to its end.
async fn run(task: Arc<Task>) {
    let status = live(&task).await;
    task.set_context(None);
    exit::finish(&task, status);
}

/// A system call that a signal interrupted and that has not been decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Undecided(Restart);

async fn live(task: &Arc<Task>) -> ExitStatus {
    let mut space: Option<Arc<dyn AddressSpace>> = None;
    let mut undecided: Option<Undecided> = None;
    let mut hungry = 0;
    // A child may be born with something pending.
    task.interrupt();
    loop {
        if task.kernel().is_frozen() {
            freeze::wait_for_thaw(task).await;
        }
        while task.take_interrupt() || undecided.is_some() {
            if let Some(status) = task.group().must_exit(task.tid()) {
                return status;
            }
            if task.group().is_stopped() {
                wait_for_continue(task).await;
                continue;
            }
            match deliver(task, undecided.take().map(|u| u.0)) {
                Outcome::Resume => {}
                Outcome::Exit(status) => {
                    task.group().begin_exit(status);
                    return task.group().must_exit(task.tid()).unwrap_or(status);
                }
                Outcome::Stop(signal) => {
                    if let Some(report) = task.group().stop_all(signal) {
                        let kernel = task.kernel();
                        kernel.tree.report_stopped(task.group(), report);
                        if task.group().answers_outside() {
                            kernel.supervisor().stopped(report);
                        }
                    }
                }
            }
        }
        let mm = task.mm();
        if !space.as_ref().is_some_and(|s| Arc::ptr_eq(s, mm.space())) {
            if let Err(e) = enter_space(task, mm.space()).await {
                no_context(task, &e);
                return task.group().must_exit(task.tid()).unwrap_or(killed());
            }
            space = Some(mm.space().clone());
        }
        if !task.enter_guest() {
            continue;
        }
        match guest(task).await {
            Ok(Trap::Syscall) => match syscall(task).await {
                Ok(()) => {}
                Err(restart) => undecided = Some(Undecided(restart)),
            },
            Ok(Trap::Fault(fault)) => {
                handle_fault(task, &fault, &mut hungry).await;
                if let Some(status) = task.take_exit() {
                    return status;
                }
                continue;
            }
            Ok(Trap::Interrupted) => {}
            Err(platform::Error::Gone) => return killed(),
            Err(platform::Error::Refused { op, source }) => {
                // What Linux's OOM killer would do; the rest of the sandbox lives on.
                log::warn!("process {} killed: host refused {op}: {source}", task.pid());
                task.group().begin_exit(killed());
            }
            Err(e) => {
                fatal(task, &e);
                return killed();
            }
        }
        hungry = 0;
        if let Some(status) = task.take_exit() {
            return status;
        }
    }
}

fn killed() -> ExitStatus {
    ExitStatus::Signaled {
        signal: Signal::SIGKILL,
        core: false,
    }
}

/// A task cannot run in its address space. That is fatal only if the platform itself broke:
/// a process that shares the memory of another one may find it gone, because the other was killed
/// before this one ran for the first time, and the host may have no room for another thread.
fn no_context(task: &Task, error: &platform::Error) {
    match error {
        platform::Error::Gone | platform::Error::Refused { .. } => {
            log::warn!("process {} killed: {error}", task.pid());
            task.group().begin_exit(killed());
        }
        _ => fatal(task, error),
    }
}

fn fatal(task: &Task, error: &platform::Error) {
    task.kernel()
        .fatal(&format!("platform {}: {error}", task.platform().name()));
}

/// Makes the task's context in its (new) address space, on the worker that has most room.
async fn enter_space(task: &Arc<Task>, space: &Arc<dyn AddressSpace>) -> platform::Result<()> {
    let moved = task.with_context(|_| ()).is_some();
    task.set_kicker(None);
    task.set_context(None);
    // A process that has just called execve(2) is free to move; a thread has to stay.
    if moved && task.group().task_count() == 1 {
        executor::rebalance(&task.home).await;
    }
    let mut context = executor::new_context(space)?;
    if let Some(fp) = task.start_fp.lock().take() {
        context.get().set_fp_state(&fp)?;
    }
    task.set_kicker(Some(context.get().kicker()));
    task.set_answers(context.get().answers());
    let mourner: Arc<dyn platform::Mourner> = task.clone();
    context.get().set_mourner(Arc::downgrade(&mourner));
    task.set_context(Some(context));
    Ok(())
}

/// Runs guest code until the next trap.
async fn guest(task: &Task) -> platform::Result<Trap> {
    let mut regs = *task.regs.lock();
    let started = task
        .with_context(|c| c.resume(&regs))
        .unwrap_or(Err(platform::Error::Gone));
    let id = match started {
        Ok(id) => id,
        Err(e) => {
            task.leave_guest();
            return Err(e);
        }
    };
    executor::trapped(id).await;
    task.leave_guest();
    let (trap, hot) = task
        .with_context(|c| {
            task.home.settle(c.get());
            let trap = c.take_trap(&mut regs);
            (trap, c.get().hot_site())
        })
        .unwrap_or((Err(platform::Error::Gone), None));
    if let Some(site) = hot {
        let plan = |code: platform::Code<'_>| task.with_context(|c| c.get().patch(site, code))?;
        task.mm().patch_code(site, plan);
    }
    let trap = trap?;
    *task.regs.lock() = regs;
    Ok(trap)
}

/// Answers a system call. `Err`: interrupted, how to go on depends on the signal.
async fn syscall(task: &Task) -> Result<(), Restart> {
    moment::begin();
    let (number, args, ip) = {
        let regs = task.regs.lock();
        (regs.syscall_number(), regs.syscall_args(), regs.rip)
    };
    answer(task, number, args, ip).await
}

async fn answer(task: &Task, number: u64, args: [u64; 6], ip: u64) -> Result<(), Restart> {
    let mut result = match allowed(task, number, args, ip) {
        Ok(()) => syscalls::dispatch(task, number, args).await,
        Err(Refused::Value(value)) => Ok(value),
        Err(Refused::Asked(listener)) => {
            let (nr, arch) = (number as i32, seccomp::ARCH);
            match ask(task, &listener, Data { nr, arch, ip, args }).await {
                Decision::Value(value) => Ok(value),
                Decision::Continue => syscalls::dispatch(task, number, args).await,
                Decision::Interrupted => Err(Error::Restart(Restart::Sys)),
            }
        }
        Err(Refused::Handled) => return Ok(()),
    };
    if let Err(Error::Errno(Errno::ENOMEM | Errno::EFAULT | Errno::ENOSPC)) = result
        && task.kernel().memory.is_full()
    {
        out_of_memory(task);
        // A copy to a page that the host had no memory for looks like a bad address.
        if let Err(Error::Errno(errno @ Errno::EFAULT)) = &mut result {
            *errno = Errno::ENOMEM;
        }
    }
    let mut regs = task.regs.lock();
    match result {
        Ok(value) => regs.set_return(value),
        Err(Error::Errno(errno)) => regs.set_return(errno.to_return()),
        Err(Error::Restart(restart)) => {
            regs.set_return(Errno::EINTR.to_return());
            return Err(restart);
        }
    }
    Ok(())
}

/// Answers a call of the page for calls of old, and returns from it as its function would. True: that
/// is what the fault was.
async fn vsyscall(task: &Task, fault: &platform::Fault) -> bool {
    let rip = task.regs.lock().rip;
    let Some(called) = vsyscall::called(fault, rip) else {
        return false;
    };
    let regs = *task.regs.lock();
    let back = task.try_mm().and_then(|mm| mm.read_obj::<u64>(regs.rsp));
    if let (Called::Call(number), Ok(back)) = (called, back) {
        {
            let mut regs = task.regs.lock();
            regs.rip = back;
            regs.rsp = regs.rsp.wrapping_add(8);
            regs.orig_rax = number;
        }
        moment::begin();
        let answered = answer(task, number, regs.syscall_args(), regs.rip).await;
        let mut now = task.regs.lock();
        now.orig_rax = regs.orig_rax;
        // None of the three waits; whom a filter asks may, and then the function is called again.
        if answered.is_err() {
            (now.rip, now.rsp, now.rax) = (regs.rip, regs.rsp, regs.rax);
            return true;
        }
        if now.rax != Errno::EFAULT.to_return() {
            return true;
        }
        (now.rip, now.rsp) = (regs.rip, regs.rsp);
    }
    // What is wrong is told by a signal, as there was no call where it went wrong.
    force(task, SigInfo::kernel(Signal::SIGSEGV));
    true
}

/// Asks the task's filters, if it has any.
fn allowed(task: &Task, number: u64, args: [u64; 6], ip: u64) -> Result<(), Refused> {
    match task.filters().as_deref() {
        Some(Some(seccomp)) if !seccomp.allows(number) => {
            let seccomp = seccomp.clone();
            let (nr, arch) = (number as i32, seccomp::ARCH);
            seccomp::check(task, &seccomp, &Data { nr, arch, ip, args })
        }
        _ => Ok(()),
    }
}

/// `hungry` counts faults in a row that found no memory.
async fn handle_fault(task: &Task, fault: &platform::Fault, hungry: &mut u32) {
    task.count_fault();
    if vsyscall(task, fault).await {
        return;
    }
    let is_memory = fault.signal == libc::SIGSEGV || fault.signal == libc::SIGBUS;
    let info = if is_memory {
        match task.mm().handle_fault(fault) {
            Ok(()) => {
                *hungry = 0;
                return;
            }
            Err(info)
                if info.no_memory
                    && task.kernel().memory.limit().is_some()
                    && *hungry < MAX_HUNGRY =>
            {
                *hungry += 1;
                out_of_memory(task);
                // Somebody's memory becomes free soon, if it is not this task's own.
                let soon = MonoTime::now().after_ns(OOM_RETRY_NS);
                let _ = task.sleep_until(soon).await;
                return;
            }
            Err(info) => {
                let signal = Signal::new(info.signo).unwrap_or(Signal::SIGSEGV);
                SigInfo::fault(signal, info.code, info.addr)
            }
        }
    } else {
        let signal = Signal::new(fault.signal).unwrap_or(Signal::SIGSEGV);
        SigInfo::fault(signal, fault.code, fault.addr)
    };
    remember(task, fault, info.code);
    force(task, info);
}

/// Keeps what a handler is told of the processor's exception.
fn remember(task: &Task, fault: &platform::Fault, code: i32) {
    /// Of the x87 status word, which lies behind the control word: an exception that is not masked.
    const SUMMARY: u8 = 1 << 7;
    let x87 = fault.signal == libc::SIGFPE
        && task
            .with_context(|c| c.get().fp_state())
            .and_then(Result::ok)
            .is_some_and(|fp| fp.as_bytes().get(2).is_some_and(|low| low & SUMMARY != 0));
    let rip = task.regs.lock().rip;
    let exception = &mut task.signals.lock().exception;
    *exception = exception.after(fault, code, rip, x87);
}

/// A stopped task waits here until SIGCONT, or until it has to end.
async fn wait_for_continue(task: &Task) {
    let group = task.group();
    let ready = || {
        if group.is_stopped() && group.must_exit(task.tid()).is_none() {
            Err(Errno::EAGAIN)
        } else {
            Ok(())
        }
    };
    // Interrupted only means that a signal came in: SIGKILL ends the stop through `must_exit`.
    let _ = task
        .wait_on(&group.continued, Ready::all(), None, ready)
        .await;
    task.interrupt();
}
