//! A guest thread.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::cores::Cores;
use super::layout::area;
use super::patch::Place;
use super::process::{Stub, Wait};
use super::shared::{
    Shared, exit, futex_wait, futex_wake, kind, load_registers, state, store_registers,
};
use super::sites::CodeWindow;
use super::space::{Home, SpaceCore};
use super::thread::Thread;
use super::worker;
use super::{Patching, Shared as Platform};
use crate::arch::{FpState, Registers};
use crate::common::bpf::{AUDIT_ARCH_X86_64, VSYSCALL_PAGE};
use crate::common::changes::Batch;
use crate::common::kick::Kick;
use crate::common::regs;
use crate::ticks::Ticks;
use crate::{
    Access, Answer, Answers, Code, Context, ContextId, Error, Fault, InPlace, Kicker, Mourner,
    Patch, Result, Trap, WorkerId,
};

/// What workers know of a context.
pub(super) struct Run {
    pub id: ContextId,
    pub area: Shared,
    pub kick: Arc<Kick>,
    pub stub: Arc<Stub>,
    pub thread: Arc<Thread>,
    platform: Arc<Platform>,
    /// Resumed and not reported since.
    pub running: AtomicBool,
    /// Why it stopped without having run.
    early: Mutex<Option<Trap>>,
    /// The worker that reports it.
    pub worker: AtomicUsize,
    /// Short runs in a row, while it is served near.
    pub short_runs: AtomicU32,
    /// When it was resumed last, while it is served near.
    pub resumed: Mutex<Option<Ticks>>,
}

impl Run {
    /// Whether it has trapped, or never will again.
    pub fn has_stopped(&self) -> bool {
        self.thread.has_stopped() || self.stub.is_dead()
    }

    /// Takes the stop in. False if somebody else was faster.
    pub fn claim(&self) -> bool {
        let claimed = self.running.swap(false, Ordering::AcqRel);
        if claimed {
            self.kick.trapped();
            if self.early.lock().is_none() {
                self.platform.cores.stopped(self);
            }
        }
        claimed
    }
}

impl Mourner for Run {
    fn died(&self) {
        self.platform
            .ring(self.worker.load(Ordering::Relaxed), worker::Ring::Look);
    }
}

pub(super) struct SystrapContext {
    run: Arc<Run>,
    space: Arc<SpaceCore>,
    platform: Arc<Platform>,
    /// Registers as last published, if they are still what the area holds.
    published: Option<Registers>,
    answers: Arc<Published>,
    /// %fs base that the thread table has for this thread.
    registered: u64,
    /// %fs base the thread was resumed with.
    fs_base: u64,
    /// A site that became hot with the last trap: where its call ends, and the number.
    hot: Option<(u64, u64)>,
}

impl SystrapContext {
    pub fn new(
        platform: &Arc<Platform>,
        space: Arc<SpaceCore>,
        stub: Arc<Stub>,
        thread: Arc<Thread>,
    ) -> Self {
        let area = thread.area;
        let init = platform.memory.layout.data() + super::layout::data::FP_INIT;
        area.u64(area::FP_AT).store(init, Ordering::Relaxed);
        area.u32(area::STEP).store(0, Ordering::Relaxed);
        for answer in Answer::ALL {
            answer_word(&area, answer).store(NO_ANSWER, Ordering::Relaxed);
        }
        area.u64(area::OTHER_CALLS).store(0, Ordering::Relaxed);
        let kick = Arc::new(Kick::new(stub.pid, thread.tid));
        space.add_kick(&kick);
        let run = Arc::new(Run {
            id: platform.next_context(),
            area,
            kick,
            stub,
            thread,
            platform: platform.clone(),
            running: AtomicBool::new(false),
            early: Mutex::new(None),
            worker: Default::default(),
            short_runs: Default::default(),
            resumed: Mutex::default(),
        });
        let mourner: Arc<dyn Mourner> = run.clone();
        let mut mourners = run.stub.mourners.lock();
        mourners.retain(|mourner| mourner.strong_count() > 0);
        mourners.push(Arc::downgrade(&mourner));
        drop(mourners);
        SystrapContext {
            answers: Arc::new(Published {
                area: Mutex::new(Some(area)),
            }),
            run,
            space,
            platform: platform.clone(),
            published: None,
            registered: NO_BASE,
            fs_base: 0,
            hot: None,
        }
    }

    fn area_address(&self) -> u64 {
        self.platform.memory.layout.area(self.run.thread.index)
    }

    /// Enters the thread in the table that patched sites find it by.
    fn register(&mut self, fs_base: u64) {
        self.fs_base = fs_base;
        if self.registered == fs_base {
            return;
        }
        let mut patches = self.space.patches.lock();
        if !patches.is_empty() {
            let low = self.run.stub.low();
            patches.register(&low, self.area_address(), self.registered, fs_base);
            self.registered = fs_base;
        }
    }

    /// Puts the registers of a trap in terms of the guest's own code. What the trap is then.
    fn in_guest_terms(&mut self, trap: Trap, regs: &mut Registers) -> Trap {
        let by_signal = self.run.area.u32(area::SIGNO).load(Ordering::Relaxed) != 0;
        let layout = &self.platform.memory.layout;
        if !by_signal && !layout.is_site_page(regs.rip) {
            return trap;
        }
        let mut patches = self.space.patches.lock();
        if by_signal && regs.fs_base != self.fs_base {
            patches.distrust(&self.run.stub.low());
        }
        if !patches.is_empty()
            && let Some(place) = patches.guest_place(layout, regs.rip)
        {
            // The end of a call: the instruction has two bytes.
            const SYSCALL_LEN: u64 = 2;
            match (place, trap) {
                (Place::Call(site), Trap::Syscall) => {
                    regs.rip = site + SYSCALL_LEN;
                    regs.rcx = regs.rip;
                }
                // It went to the old instruction.
                (Place::Call(site), Trap::Fault(_)) => {
                    regs.rip = site + SYSCALL_LEN;
                    (regs.rcx, regs.r11) = (regs.rip, regs.eflags);
                    regs.orig_rax = regs.rax;
                    regs.rax = -i64::from(libc::ENOSYS) as u64;
                    return Trap::Syscall;
                }
                // Still before the old instruction.
                (Place::Call(site), Trap::Interrupted) if regs.rip == site => {}
                (Place::Call(site), Trap::Interrupted) => regs.rip = site + SYSCALL_LEN,
                (Place::At(at), _) => {
                    let was_inside = at == regs.rip;
                    if trap == Trap::Syscall {
                        regs.rcx = at;
                    }
                    regs.rip = at;
                    if was_inside && matches!(trap, Trap::Fault(_)) {
                        // It goes on in the tail.
                        return Trap::Interrupted;
                    }
                }
            }
            return trap;
        }
        let counts = by_signal && self.platform.patching == Patching::HotSites;
        if counts && trap == Trap::Syscall && patches.count(regs.rip) {
            self.hot = Some((regs.rip, regs.orig_rax));
        }
        trap
    }

    /// Fails unless the guest thread is stopped.
    fn at_rest(&self) -> Result<()> {
        if self.run.stub.is_dead() {
            return Err(Error::Gone);
        }
        if self.run.running.load(Ordering::Acquire) {
            return Err(Error::Host {
                what: "a context was used while it runs",
                source: std::io::Error::from_raw_os_error(libc::EBUSY),
            });
        }
        Ok(())
    }

    /// Carries changes out while the thread is at rest.
    fn carry_out(&self, batch: Batch) -> Result<()> {
        self.space
            .carry_out(&self.run.stub, batch, self.mapper_wait())
    }

    fn mapper_wait(&self) -> Wait {
        match self.platform.shares_core(&self.run.thread) {
            true => Wait::Sleep,
            false => Wait::Spin,
        }
    }

    /// Has the thread write down FP state that is still in its processor. Gives where it is.
    fn fp_place(&self) -> Result<u64> {
        let area = &self.run.area;
        let word = area.u32(area::STATE);
        let place = || area.u64(area::FP_AT).load(Ordering::Acquire);
        if place() != 0 {
            return Ok(place());
        }
        let old = word.swap(state::SAVE_FP, Ordering::SeqCst);
        if old == state::PARKED {
            futex_wake(word);
        }
        let shared = self.platform.shares_core(&self.run.thread);
        let mut spins = if shared { 0 } else { 10_000 };
        let mut waits = 0;
        while word.load(Ordering::Acquire) == state::SAVE_FP {
            if self.run.stub.is_dead() {
                return Err(Error::Gone);
            }
            if spins > 0 {
                spins -= 1;
                std::hint::spin_loop();
            } else {
                futex_wait(word, state::SAVE_FP, FP_WAIT_MS);
                waits += 1;
            }
            // It may only have seemed to be at rest. A thread that is takes no notice of a kick.
            if waits == MAX_FP_WAITS {
                self.run.stub.kill();
            } else if waits > 0 {
                super::kick(self.run.stub.pid, self.run.thread.tid);
            }
        }
        Ok(place())
    }

    fn read_fp(&self, place: u64) -> FpState {
        let layout = &self.platform.memory.layout;
        let len = self.platform.memory.xstate.size.next_multiple_of(8);
        let offset = place.wrapping_sub(layout.area(self.run.thread.index)) & !7;
        // Anywhere else: the initial state, or a guest that deceives itself.
        if offset > super::layout::AREA_LEN - len as u64 {
            return FpState::initial();
        }
        let mut bytes = self.run.area.read(offset, len);
        bytes.truncate(self.platform.memory.xstate.size);
        FpState::from_bytes(self.platform.memory.xstate.sanitise(&bytes))
    }

    fn published_trap(&self, regs: &mut Registers) -> Trap {
        let area = &self.run.area;
        *regs = load_registers(area);
        let word = |offset| area.u32(offset).load(Ordering::Relaxed);
        match word(area::KIND) {
            kind::SYSCALL => self.published_call(regs),
            kind::FAULT => Trap::Fault(self.published_fault(regs)),
            _ => {
                regs.orig_rax = u64::MAX;
                Trap::Interrupted
            }
        }
    }

    fn published_call(&self, regs: &mut Registers) -> Trap {
        let area = &self.run.area;
        regs.orig_rax = regs.rax;
        // Through a patched site, not by a signal.
        if area.u32(area::SIGNO).load(Ordering::Relaxed) == 0 {
            regs.rax = -i64::from(libc::ENOSYS) as u64;
            return Trap::Syscall;
        }
        let at = area.u64(area::SI_ADDR).load(Ordering::Relaxed);
        let arch = area.u32(area::SI_ARCH).load(Ordering::Relaxed);
        let fault = |code, addr, access| {
            Trap::Fault(Fault {
                signal: libc::SIGSEGV,
                code,
                addr,
                access,
            })
        };
        if at >= VSYSCALL_PAGE {
            // The host has carried out the `ret` of that page.
            regs.rip = at;
            regs.rsp = regs.rsp.wrapping_sub(8);
            regs.orig_rax = u64::MAX;
            return fault(SEGV_MAPERR, at, Some(Access::Execute));
        }
        if arch != AUDIT_ARCH_X86_64 {
            // `int 0x80`: what a gate that user code may not use raises.
            const INT_80_LEN: u64 = 2;
            regs.rip = regs.rip.wrapping_sub(INT_80_LEN);
            regs.orig_rax = u64::MAX;
            return fault(SI_KERNEL, 0, None);
        }
        regs.rax = -i64::from(libc::ENOSYS) as u64;
        Trap::Syscall
    }

    fn published_fault(&self, regs: &mut Registers) -> Fault {
        let area = &self.run.area;
        regs.orig_rax = u64::MAX;
        let signal = area.u32(area::SIGNO).load(Ordering::Relaxed) as i32;
        let code = area.u32(area::SI_CODE).load(Ordering::Relaxed) as i32;
        let addr = area.u64(area::SI_ADDR).load(Ordering::Relaxed);
        let err = area.u64(area::ERR).load(Ordering::Relaxed);
        let trap = area.u64(area::TRAPNO).load(Ordering::Relaxed);
        // The page-fault error code (Intel SDM vol. 3 §4.7): bit 1 a write, bit 4 a fetch.
        let access = (trap == PAGE_FAULT).then_some(match err {
            err if err & 1 << 4 != 0 => Access::Execute,
            err if err & 1 << 1 != 0 => Access::Write,
            _ => Access::Read,
        });
        Fault {
            signal,
            code,
            addr,
            access,
        }
    }
}

const SEGV_MAPERR: i32 = 1;
const SI_KERNEL: i32 = 0x80;
const PAGE_FAULT: u64 = 14;

/// How often FP state is waited for before the process is given up. No time: the whole sandbox may
/// have stood still.
const MAX_FP_WAITS: u32 = 100;
const FP_WAIT_MS: i64 = 10;

/// Most changes that a thread waits for itself.
const MAX_POSTED: usize = super::layout::orders::MAX as usize;

impl Context for SystrapContext {
    fn id(&self) -> ContextId {
        self.run.id
    }

    fn resume(&mut self, regs: &Registers) -> Result<()> {
        self.at_rest()?;
        let (mut clean, fault) = regs::sanitise(regs);
        let published = self.published.take();
        self.register(clean.fs_base);
        let run = &self.run;
        let mut batch = None;
        let space = self.space.clone();
        let mut carrying = None;
        let early = loop {
            if space.changes.pending() {
                carrying.get_or_insert_with(|| space.carrying.lock());
                let more = space.take(&self.run.stub, self.run.id)?;
                if let Some(before) = std::mem::replace(&mut batch, more) {
                    self.carry_out(before)?;
                }
            }
            if let Some(large) = batch.take_if(|b: &mut Batch| b.commands.len() > MAX_POSTED) {
                self.carry_out(large)?;
            }
            if let Some(fault) = fault {
                break Some(Trap::Fault(fault));
            }
            if !run.kick.start() {
                break Some(Trap::Interrupted);
            }
            if !space.changes.pending() {
                if carrying.is_some() || !space.is_posted_by_another(run.id) {
                    break None;
                }
                // Its own changes may be among those.
                run.kick.not_started();
                space.await_others(&run.stub)?;
                continue;
            }
            run.kick.not_started();
        };
        let me = worker::current();
        *run.early.lock() = None;
        if let Some(trap) = early {
            if let Some(batch) = batch {
                self.carry_out(batch)?;
            }
            run.worker.store(me, Ordering::Relaxed);
            self.published = Some(*regs);
            *run.early.lock() = Some(trap);
            run.running.store(true, Ordering::Release);
            self.platform.report(me, run.clone());
            return Ok(());
        }
        let area = &run.area;
        let only_result = published.is_some_and(|old| {
            *regs
                == Registers {
                    rax: regs.rax,
                    ..old
                }
        });
        if only_result {
            area.u64(area::RAX).store(clean.rax, Ordering::Relaxed);
        } else {
            clean.rip = self.space.patches.lock().resume_at(clean.rip);
            store_registers(area, &clean);
            area.u32(area::EXIT).store(exit::FULL, Ordering::Relaxed);
        }
        let server = self.platform.about_to_run(me, run);
        run.running.store(true, Ordering::SeqCst);
        let word = area.u32(area::STATE);
        match batch {
            Some(batch) => self.space.post(&run.stub, batch, run.thread.index)?,
            None if word.swap(state::RESUME, Ordering::SeqCst) == state::PARKED => futex_wake(word),
            None => {}
        }
        run.kick.repeat();
        self.platform.watch(me, server, run);
        Ok(())
    }

    fn trap(&mut self, regs: &mut Registers) -> Result<Trap> {
        self.at_rest()?;
        if let Some(trap) = *self.run.early.lock() {
            if let Some(published) = self.published {
                *regs = published;
            }
            regs.orig_rax = u64::MAX;
            // The area does not hold them.
            self.published = None;
            return Ok(trap);
        }
        if self.run.area.u32(area::KIND).load(Ordering::Relaxed) == kind::REFUSED {
            // It has not run: its registers are whole, and no trap of its own.
            *regs = load_registers(&self.run.area);
            regs.orig_rax = u64::MAX;
            self.published = None;
            return Err(self.space.refused(&self.run.stub));
        }
        self.space.clean_up(&self.run.stub)?;
        let published = self.published_trap(regs);
        let trap = self.in_guest_terms(published, regs);
        // From a fault that stands for a call the thread itself would go back to the fault.
        let leads_on = published == Trap::Syscall && trap == Trap::Syscall;
        self.published = leads_on.then_some(*regs);
        Ok(trap)
    }

    fn flush(&mut self) -> Result<()> {
        self.at_rest()?;
        if !self.space.changes.pending() {
            return Ok(());
        }
        self.space.flush(&self.run.stub, self.mapper_wait())
    }

    fn fp_state(&mut self) -> Result<FpState> {
        self.at_rest()?;
        let place = self.fp_place()?;
        Ok(self.read_fp(place))
    }

    fn set_fp_state(&mut self, new: &FpState) -> Result<()> {
        self.at_rest()?;
        let area = &self.run.area;
        let bytes = self.platform.memory.xstate.sanitise(new.as_bytes());
        area.write(area::FP, &bytes);
        let layout = &self.platform.memory.layout;
        let place = layout.area(self.run.thread.index) + area::FP;
        area.u64(area::FP_AT).store(place, Ordering::Relaxed);
        Ok(())
    }

    fn rest(&mut self) {
        // Alone, it keeps its core awake for a while; with others there it would be in their way.
        let core = self.run.thread.core.load(Ordering::Relaxed);
        if self.platform.cores.running(core) > 0 {
            Cores::park(&self.run.thread);
        }
    }

    fn near_worker(&self) -> Option<WorkerId> {
        Some(WorkerId(self.platform.cores.near(&self.run.thread)))
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.run.kick.clone()
    }

    fn hot_site(&mut self) -> Option<u64> {
        self.hot.map(|(site, _)| site)
    }

    fn patch(&mut self, site: u64, code: Code<'_>) -> Option<Patch> {
        let (hot, number) = self.hot.take()?;
        if hot != site {
            return None;
        }
        let window = CodeWindow {
            start: code.start,
            bytes: code.bytes,
        };
        // It may go on elsewhere now than where it came from.
        self.published = None;
        let mut patches = self.space.patches.lock();
        let (addr, bytes) = patches.patch(&self.run.stub, site, number, window)?;
        Some(Patch { addr, bytes })
    }

    fn set_mourner(&mut self, mourner: Weak<dyn Mourner>) {
        let mut mourners = self.run.stub.mourners.lock();
        // The place of one that is gone, or a new one.
        mourners.retain(|mourner| mourner.strong_count() > 0);
        mourners.push(mourner);
    }

    fn answers(&self) -> Option<Arc<dyn Answers>> {
        Some(self.answers.clone())
    }
}

impl Drop for SystrapContext {
    fn drop(&mut self) {
        self.run.kick.retire();
        *self.answers.area.lock() = None;
        let low = self.run.stub.low();
        let area = self.area_address();
        self.space
            .patches
            .lock()
            .unregister(&low, area, self.registered);
        // In this order: whoever moves it between workers meanwhile sees that it does not run.
        let was_running = self.run.claim();
        self.platform.cores.leaves(&self.run.thread);
        self.platform.forget(&self.run);
        let stub = &self.run.stub;
        let last = {
            let mut threads = stub.threads.lock();
            threads.contexts = threads.contexts.saturating_sub(1);
            if threads.contexts > 0 && was_running {
                super::kick(stub.pid, self.run.thread.tid);
            }
            threads.idle.push(self.run.thread.clone());
            threads.contexts == 0
        };
        if last {
            *self.space.home.lock() = Home::Gone(stub.clone());
            self.space.clear(stub);
            // The process is not used again: a thread of the guest might still be in stub code, with
            // registers of its choice, and go on in the next address space; and there are registers
            // of this one in the areas. Nor is its memory, until it is gone.
            match was_running {
                true => stub.kill_and_wait(),
                false => self.platform.keeper.bury(stub),
            }
        }
        if was_running {
            self.platform.left(&self.run);
        }
    }
}

/// The answers in an area, until the context is gone.
struct Published {
    area: Mutex<Option<Shared>>,
}

const NO_ANSWER: u64 = u64::MAX;
/// No %fs base: not canonical.
const NO_BASE: u64 = u64::MAX;

fn answer_word(area: &Shared, answer: Answer) -> &std::sync::atomic::AtomicU64 {
    area.u64(area::ANSWERS + 8 * answer as u64)
}

impl Answers for Published {
    fn publish(&self, answer: Answer, value: Option<u32>) {
        if let Some(area) = &*self.area.lock() {
            let word = value.map_or(NO_ANSWER, u64::from);
            answer_word(area, answer).store(word, Ordering::Release);
        }
    }

    fn answer_other_calls(&self, how: InPlace) {
        if let Some(area) = &*self.area.lock() {
            let word = match how {
                InPlace::Answer => 0,
                InPlace::Never => NO_ANSWER,
            };
            area.u64(area::OTHER_CALLS).store(word, Ordering::Release);
        }
    }
}
