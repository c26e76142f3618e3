//! What a trap costs on this machine, to choose a platform by.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arch::Registers;
use crate::memory::{MemFd, Window};
use crate::{Error, Event, HostOp, Platform, Prot, Result, Trap, Wait, WorkerId};

const CODE: u64 = 0x40_0000;
const PAGE: u64 = 4096;
/// `syscall; jmp .-2`
const CALL_LOOP: [u8; 4] = [0x0f, 0x05, 0xeb, 0xfc];
/// A call that nothing answers in place.
const NO_CALL: u64 = 5000;
const BATCHES: u32 = 8;
const CALLS: u32 = 16;

/// Time from guest code to the caller and back, for a system call at a place that the platform has
/// not prepared for it: the best of a few batches. The platform must be a new one, with one worker.
///
/// # Errors
/// Guest code does not run.
pub fn call_time(platform: &Arc<dyn Platform>) -> Result<Duration> {
    let host = |what| move |source| Error::Host { what, source };
    let file = MemFd::create(c"measure").map_err(host("memfd_create"))?;
    file.set_len(PAGE).map_err(host("ftruncate"))?;
    let window = Window::map(file.as_fd(), 0, PAGE as usize, true).map_err(host("mmap"))?;
    let written = window.write(0, &CALL_LOOP);
    written.map_err(|fault| host("guest code")(std::io::Error::other(fault)))?;
    let file: Arc<OwnedFd> = Arc::new(file.into_fd());
    let mut worker = platform.new_worker(WorkerId(0))?;
    let space = platform.new_address_space();
    let op = HostOp::Map {
        addr: CODE,
        len: PAGE,
        prot: Prot::READ | Prot::EXEC,
        file,
        offset: 0,
        private: false,
        populate: false,
    };
    space.queue(op, None);
    let mut context = worker.new_context(&space)?;
    let mut regs = Registers::start(CODE, 0);
    let mut best = Duration::MAX;
    // The first one finds everything for the first time.
    for _ in 0..=BATCHES {
        let start = Instant::now();
        for _ in 0..CALLS {
            regs.rax = NO_CALL;
            context.resume(&regs)?;
            while !matches!(worker.wait(Wait::Block)?, Event::Trap(_)) {}
            match context.trap(&mut regs)? {
                Trap::Syscall | Trap::Interrupted => {}
                Trap::Fault(fault) => {
                    let told = std::io::Error::other(format!("{fault:?}"));
                    return Err(host("guest code")(told));
                }
            }
        }
        best = best.min(start.elapsed() / CALLS);
    }
    Ok(best)
}
