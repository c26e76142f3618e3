//! What a trap and its relatives cost: medians in nanoseconds, and host calls for each.
//!
//! `cargo run --release -p runsc-platform --example trap_cost [ptrace|kvm]`

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use runsc_platform::arch::Registers;
use runsc_platform::kvm::KvmPlatform;
use runsc_platform::memory::{MemFd, Window, install_fault_handler};
use runsc_platform::ptrace::{PtracePlatform, host_call_count};
use runsc_platform::*;

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x80_0000;
const PAGE: u64 = 4096;

/// `syscall; jmp .-2`
const CALL_LOOP: &[u8] = &[0x0f, 0x05, 0xeb, 0xfc];

struct Bench {
    platform: Arc<dyn Platform>,
    worker: Box<dyn Worker>,
    file: Arc<OwnedFd>,
}

impl Bench {
    fn map(&self, space: &Arc<dyn AddressSpace>, addr: u64, pages: u64, prot: Prot) {
        let op = HostOp::Map {
            addr,
            len: pages * PAGE,
            prot,
            file: self.file.clone(),
            offset: addr,
            private: false,
            populate: false,
        };
        space.queue(op, None);
    }

    fn space(&self) -> Arc<dyn AddressSpace> {
        let space = self.platform.new_address_space();
        self.map(&space, CODE, 1, Prot::READ | Prot::EXEC);
        space
    }

    fn trip(&mut self, context: &mut Box<dyn Context>, regs: &mut Registers) -> Result<()> {
        context.resume(regs)?;
        self.worker.wait(Wait::Block)?;
        context.trap(regs)?;
        Ok(())
    }
}

/// Runs `body` often; prints the median of batches and the host calls of one.
fn row(name: &str, batch: u32, mut body: impl FnMut() -> Result<()>) -> Result<()> {
    let calls = host_call_count();
    let mut times = Vec::new();
    for _ in 0..41 {
        let start = Instant::now();
        for _ in 0..batch {
            body()?;
        }
        times.push(start.elapsed().as_nanos() / u128::from(batch));
    }
    times.sort_unstable();
    let calls = (host_call_count() - calls) as f64 / (41.0 * f64::from(batch));
    println!("{name:44} {:>9} ns {calls:>7.1} host calls", times[20]);
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    install_fault_handler()?;
    let memfd = MemFd::create(c"bench")?;
    memfd.set_len(1 << 30)?;
    let window = Window::map(memfd.as_fd(), 0, 1 << 30, true)?;
    window.write(CODE as usize, CALL_LOOP)?;
    let platform: Arc<dyn Platform> = match std::env::args().nth(1).as_deref() {
        Some("kvm") => Arc::new(KvmPlatform::new(Default::default())?),
        _ => Arc::new(PtracePlatform::new()?),
    };
    let worker = platform.new_worker(WorkerId(0))?;
    let mut bench = Bench {
        platform,
        worker,
        file: Arc::new(memfd.into_fd()),
    };
    let space = bench.space();
    let mut context = bench.worker.new_context(&space)?;
    let mut regs = Registers::start(CODE, 0);
    bench.trip(&mut context, &mut regs)?;

    row("null call, only rax set", 2000, || {
        regs.rax = 39;
        bench.trip(&mut context, &mut regs)
    })?;
    row("null call, all registers set", 2000, || {
        regs.rax = 39;
        regs.rdx = regs.rdx.wrapping_add(1);
        bench.trip(&mut context, &mut regs)
    })?;
    row("call with one mapping", 500, || {
        bench.map(&space, DATA, 1, Prot::READ);
        bench.trip(&mut context, &mut regs)
    })?;
    row("call with 64 mappings", 50, || {
        for n in 0..64 {
            bench.map(&space, DATA + 2 * n * PAGE, 1, Prot::READ);
        }
        bench.trip(&mut context, &mut regs)
    })?;
    row("FP state out and in", 1000, || {
        let state = context.fp_state()?;
        context.set_fp_state(&state)
    })?;
    row("thread: make, first call, drop", 50, || {
        let mut other = bench.worker.new_context(&space)?;
        let mut regs = Registers::start(CODE, 0);
        bench.trip(&mut other, &mut regs)
    })?;
    row("address space: make, first call, drop", 50, || {
        let space = bench.space();
        let mut other = bench.worker.new_context(&space)?;
        let mut regs = Registers::start(CODE, 0);
        bench.trip(&mut other, &mut regs)
    })?;
    row("20 address spaces at once (each)", 1, || {
        let mut all = Vec::new();
        for _ in 0..20 {
            let space = bench.space();
            let mut other = bench.worker.new_context(&space)?;
            let mut regs = Registers::start(CODE, 0);
            bench.trip(&mut other, &mut regs)?;
            all.push(other);
        }
        Ok(())
    })?;
    let mut idle = Vec::new();
    for _ in 0..100 {
        let space = bench.space();
        let mut other = bench.worker.new_context(&space)?;
        let mut regs = Registers::start(CODE, 0);
        bench.trip(&mut other, &mut regs)?;
        idle.push(other);
    }
    row("null call beside 100 idle address spaces", 2000, || {
        regs.rax = 39;
        bench.trip(&mut context, &mut regs)
    })?;
    Ok(())
}
