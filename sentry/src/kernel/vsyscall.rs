//! The page at a fixed address by which programs asked for the time before there was a vDSO.
//!
//! C libraries of before 2012, and what was linked with them statically, call three functions there.
//! As Linux does by default (`vsyscall=xonly`), calls are emulated and nothing can be read: there is
//! no page, and the fault of fetching one of the three addresses is taken for the call.

use runsc_platform::Fault;

/// The page, as /proc/PID/maps shows it.
pub const MAPS_LINE: &[u8] =
    b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

const START: u64 = 0xffff_ffff_ff60_0000;
const LEN: u64 = 4096;
/// Between two functions.
const STEP: u64 = 1024;
const CALLS: [i64; 3] = [libc::SYS_gettimeofday, libc::SYS_time, libc::SYS_getcpu];

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// This system call.
    Call(u64),
    /// Nothing that is there.
    Nothing,
}

/// If `fault`, raised at `rip`, is that of executing something in the page: what.
pub fn called(fault: &Fault, rip: u64) -> Option<Called> {
    let offset = rip.checked_sub(START).filter(|offset| *offset < LEN)?;
    // Nothing runs there. Who is to go on there is stopped before, and no address is told.
    if fault.signal != libc::SIGSEGV {
        return None;
    }
    let call = CALLS.get((offset / STEP) as usize);
    Some(match call {
        Some(&call) if offset.is_multiple_of(STEP) => Called::Call(call as u64),
        _ => Called::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_addresses_are_calls() {
        let at = |rip, addr| {
            let fault = Fault {
                signal: libc::SIGSEGV,
                code: 1,
                addr,
                access: None,
            };
            called(&fault, rip)
        };
        for (offset, call) in [(0, 96), (1024, 201), (2048, 309)] {
            assert_eq!(at(START + offset, START + offset), Some(Called::Call(call)));
        }
        for offset in [1, 8, 1023, 3072, 4095] {
            assert_eq!(at(START + offset, START + offset), Some(Called::Nothing));
        }
        // A read of the page, and code elsewhere.
        assert_eq!(at(0x40_0000, START), None);
        assert_eq!(at(START - 1, START), None);
        assert_eq!(at(START + LEN, START + LEN), None);
        assert_eq!(at(START - 1, START - 1), None);
    }
}
