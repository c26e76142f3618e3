//! What the host's listings of processes show of a stub: its guest's name and arguments.
//!
//! The host reads arguments from where the process says that they are (prctl(2), PR_SET_MM_MAP), in
//! memory of no file only. A stub has none but one page, which its mapper maps and fills when somebody
//! asks; it is as writable for the guest as its areas are, which then shows what it likes, as any
//! process may. What is shown stays until somebody asks again.

use std::time::Duration;

use super::layout::*;
use super::process::Stub;
use crate::common::changes::Command;

/// Bytes of a name with its NUL (TASK_COMM_LEN).
const NAME_LEN: usize = 16;
/// On the scratch page: the arguments first.
const NAME_AT: u64 = 0xe00;
const MAP_AT: u64 = NAME_AT + NAME_LEN as u64;
/// How often a mapper that is at work is asked, and how long that takes at most.
const TRIES: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(1);

/// Shows the name and the arguments, each with its NUL, unless the mapper has no time for it.
pub(super) fn set(stub: &Stub, name: &[u8], arguments: &[u8]) {
    let base = stub.memory.layout.base;
    let scratch = base + COMMANDS + orders::SCRATCH;
    let title = base + TITLE;
    let mut page = vec![0; NAME_AT as usize];
    let shown = arguments.len().min(page.len());
    page[..shown].copy_from_slice(&arguments[..shown]);
    let mut short = [0; NAME_LEN];
    for (to, from) in short[..NAME_LEN - 1].iter_mut().zip(name) {
        *to = *from;
    }
    page.extend(short);
    page.extend(map(title, shown as u64));
    let command = |number: i64, args: [u64; 6]| Command { number, args };
    let name = [libc::PR_SET_NAME as u64, scratch + NAME_AT, 0, 0, 0, 0];
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as u64;
    let at = [title, TITLE_LEN, prot, flags, u64::MAX, 0];
    let arguments = [
        libc::PR_SET_MM as u64,
        libc::PR_SET_MM_MAP as u64,
        scratch + MAP_AT,
        MAP_LEN as u64,
        0,
        0,
    ];
    let commands = [
        command(libc::SYS_prctl, name),
        command(libc::SYS_mmap, at),
        command(orders::COPY, [title, scratch, shown as u64, 0, 0, 0]),
        // Without CONFIG_CHECKPOINT_RESTORE the host has no such call, and shows the name alone.
        command(libc::SYS_prctl, arguments),
    ];
    for _ in 0..TRIES {
        if stub.calls_at_leisure(&commands, &page) {
            return;
        }
        std::thread::sleep(BETWEEN);
    }
}

/// Bytes of struct prctl_mm_map.
const MAP_LEN: usize = 104;

/// A struct prctl_mm_map: everything is at `title`, and the arguments are `len` bytes long.
fn map(title: u64, len: u64) -> [u8; MAP_LEN] {
    /// Numbers among the eleven addresses that it begins with.
    const END_CODE: usize = 1;
    const ARG_END: usize = 8;
    let mut bytes = [0; MAP_LEN];
    for (n, word) in bytes.chunks_exact_mut(8).take(11).enumerate() {
        let offset = match n {
            // There must be some.
            END_CODE => 1,
            // The environment begins where the arguments end.
            ARG_END.. => len,
            _ => 0,
        };
        word.copy_from_slice(&(title + offset).to_le_bytes());
    }
    // No other auxiliary vector, no other program.
    bytes[MAP_LEN - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    bytes
}
