//! The machine code of ring 0.
//!
//! Each entry leaves to the host with its first instruction, `out imm8, al`; the port tells which it
//! was. Where that pays, the entry for system calls answers some in place ([`Entries::Answer`]), from
//! words that the Sentry publishes for the vCPU:
//!
//! ```text
//! no bit for the call in a map?   leave: the third instruction
//! flags that SYSRET must not load, or an address beyond the guest's?   leave
//! one of the calls?  none: leave
//! its word says no?  leave
//! eax = the value; sysret
//! ```
//! The map only sorts out; what passes is compared in full. It is asked by the lower half of EAX,
//! which has no register to spare for a check and needs none: taken for a number with a sign, that
//! leads no further than a page away on either side of the map, where there is nothing but pages of
//! ring 0 ([`MAP_AT`]).
//!
//! All of it writes nothing, uses no stack, and changes no register before the last instruction but one:
//! wherever KVM_RUN is interrupted, the call was not made yet or was answered ([`Position`]).
//!
//! Where SYSCALL cannot enter ring 0 and faults on its entry, the entry for page faults does the
//! same, once the fault is just that one. A guest can raise that fault with a jump as well, so nothing
//! in its registers is believed to come from SYSCALL.

use super::ring0::{EXCEPTIONS, PAGE_FAULT, SYSCALL_PORT};
use crate::Answer;

/// What ring 0 does with system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Entries {
    #[default]
    Leave,
    Answer,
}

/// Words for a vCPU: one for each of [`Answer::ALL`], and one for the calls without a value.
pub(super) const WORDS: usize = Answer::ALL.len() + 1;
/// In a word: the lower half is the answer.
pub(super) const VALID: u64 = 1 << 32;

/// Where the entries lie in their page: exceptions, four bytes each; the one for SYSCALL; the longer
/// one for page faults.
const EXCEPTION: usize = 4;
pub(super) const SYSCALL_AT: usize = EXCEPTION * EXCEPTIONS as usize;
const FAULT_AT: usize = 0x400;
/// Words, from the start of the entries. The limit for addresses lies behind them.
pub(super) const WORDS_AT: usize = 0x1000;
pub(super) const LIMIT_AT: usize = WORDS_AT + 8 * WORDS;

/// The map of calls: a bit each, for all numbers that Linux has and more. What a number leads to lies
/// within a page of it: the entries before, the IDT behind, a part of the task state.
pub(super) const MAP_AT: usize = WORDS_AT + 0x400;
pub(super) const MAP: usize = 0x400;

/// What SYSRET may load into RFLAGS: arithmetic flags, DF, IF, AC, ID, and the one that is always set.
const HARMLESS: u32 = 0x0024_0ed7;

/// How far an interrupted entry has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// In the entry for this vector, and nothing has happened yet.
    Exception(u64),
    /// The same, of a system call.
    Call,
    /// The answer is in RAX; RCX and R11 are the guest's RIP and RFLAGS.
    Answered,
    /// The same, in the entry for page faults: RSP may not be the guest's.
    AnsweredFault,
}

/// Code being written; jumps to one place are filled in at the end.
struct Code {
    bytes: Vec<u8>,
    /// Of the first byte, in the page.
    at: usize,
    /// Jumps to the instruction that leaves: where their displacement lies.
    leaves: Vec<usize>,
    /// First instruction after an answer is in RAX.
    answered: Vec<usize>,
}

impl Code {
    fn new(at: usize) -> Code {
        Code {
            bytes: Vec::new(),
            at,
            leaves: Vec::new(),
            answered: Vec::new(),
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// An instruction that addresses `target` of the pages relative to what follows it.
    fn relative(&mut self, opcode: &[u8], target: usize, immediate: &[u8]) {
        self.put(opcode);
        let next = self.at + self.bytes.len() + 4 + immediate.len();
        self.put(&(target as i32 - next as i32).to_le_bytes());
        self.put(immediate);
    }

    /// `jcc`, to the instruction that leaves.
    fn leave_if(&mut self, condition: u8) {
        self.put(&[0x0f, 0x80 | condition]);
        self.leaves.push(self.bytes.len());
        self.put(&[0; 4]);
    }

    /// The answering part: falls through to nothing. `to_user`: what comes between answer and SYSRET.
    fn answer(&mut self, port: u8, to_user: &[u8]) {
        const CARRY: u8 = 2;
        const ABOVE_OR_EQUAL: u8 = 3;
        const EQUAL: u8 = 4;
        const NOT_EQUAL: u8 = 5;
        // bt word [map], ax; jc
        self.relative(&[0x66, 0x0f, 0xa3, 0x05], MAP_AT, &[]);
        self.put(&[0x0f, 0x80 | CARRY]);
        let passed = self.bytes.len();
        self.put(&[0; 4]);
        let leave = self.bytes.len();
        // out imm8, al; hlt
        self.put(&[0xe6, port, 0xf4]);
        self.fill(passed, self.bytes.len());
        // test r11d, imm32
        self.put(&[0x41, 0xf7, 0xc3]);
        self.put(&(!HARMLESS).to_le_bytes());
        self.leave_if(NOT_EQUAL);
        // cmp rcx, [limit]
        self.relative(&[0x48, 0x3b, 0x0d], LIMIT_AT, &[]);
        self.leave_if(ABOVE_OR_EQUAL);
        let mut found = Vec::new();
        for number in calls() {
            // cmp eax, imm32; je
            self.put(&[0x3d]);
            self.put(&(number as u32).to_le_bytes());
            self.put(&[0x0f, 0x80 | EQUAL]);
            found.push(self.bytes.len());
            self.put(&[0; 4]);
        }
        // jmp
        self.put(&[0xe9]);
        self.leaves.push(self.bytes.len());
        self.put(&[0; 4]);
        for (n, jump) in found.into_iter().enumerate() {
            self.fill(jump, self.bytes.len());
            // cmp dword [word + 4], 0; je
            self.relative(&[0x83, 0x3d], WORDS_AT + 8 * n + 4, &[0]);
            self.leave_if(EQUAL);
            // mov eax, [word]
            self.relative(&[0x8b, 0x05], WORDS_AT + 8 * n, &[]);
            self.answered.push(self.at + self.bytes.len());
            self.put(to_user);
            if !to_user.is_empty() {
                self.answered.push(self.at + self.bytes.len());
            }
            // sysretq
            self.put(&[0x48, 0x0f, 0x07]);
        }
        for jump in std::mem::take(&mut self.leaves) {
            self.fill(jump, leave);
        }
    }

    fn fill(&mut self, displacement: usize, target: usize) {
        let value = target as i32 - (displacement as i32 + 4);
        self.bytes[displacement..displacement + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// Those that may be answered, in the order of their words.
fn calls() -> impl Iterator<Item = i64> {
    let calls = Answer::ALL.map(Answer::call).into_iter();
    calls.chain([libc::SYS_sched_yield])
}

/// The bits of [`MAP_AT`].
pub(super) fn map() -> [u8; MAP] {
    let mut map = [0; MAP];
    for number in calls() {
        let number = number as usize % (8 * MAP);
        map[number / 8] |= 1 << (number % 8);
    }
    map
}

fn syscall_entry() -> Code {
    let mut code = Code::new(SYSCALL_AT);
    code.answer(SYSCALL_PORT as u8, &[]);
    code
}

/// Goes on when the frame of a page fault is that of a fetch of the entry for SYSCALL by ring 3.
fn fault_entry(start: u64) -> Code {
    const NOT_EQUAL: u8 = 5;
    let mut code = Code::new(FAULT_AT);
    // cmp dword [rsp], imm8: the error code
    code.put(&[0x83, 0x3c, 0x24, super::vcpu::FETCH_REFUSED as u8]);
    code.leave_if(NOT_EQUAL);
    // cmp dword [rsp + 8], imm32; cmp dword [rsp + 12], imm32: RIP
    let entry = start + SYSCALL_AT as u64;
    for (offset, half) in [(8, entry as u32), (12, (entry >> 32) as u32)] {
        code.put(&[0x81, 0x7c, 0x24, offset]);
        code.put(&half.to_le_bytes());
        code.leave_if(NOT_EQUAL);
    }
    // mov rsp, [rsp + 32]
    code.answer(PAGE_FAULT as u8, &[0x48, 0x8b, 0x64, 0x24, 0x20]);
    code
}

/// All entries, as bytes of their page, which guests have at `start`.
pub(super) fn page(entries: Entries, start: u64) -> Vec<u8> {
    let mut page = vec![0xf4; WORDS_AT];
    let leave = |port: u64| [0xe6, port as u8, 0xf4, 0x90];
    for vector in 0..EXCEPTIONS {
        let at = EXCEPTION * vector as usize;
        page[at..at + 4].copy_from_slice(&leave(vector));
    }
    page[SYSCALL_AT..SYSCALL_AT + 4].copy_from_slice(&leave(SYSCALL_PORT.into()));
    if entries == Entries::Answer {
        for code in [syscall_entry(), fault_entry(start)] {
            page[code.at..code.at + code.bytes.len()].copy_from_slice(&code.bytes);
        }
    }
    page
}

/// Where the gate for an exception leads, from the start of the page.
pub(super) fn gate(vector: u64, entries: Entries) -> u64 {
    match entries {
        Entries::Answer if vector == PAGE_FAULT => FAULT_AT as u64,
        _ => EXCEPTION as u64 * vector,
    }
}

/// What has happened at an address in ring 0, if guests come there.
pub(super) fn position(offset: u64, entries: Entries) -> Option<Position> {
    let within = |code: &Code| {
        let start = code.at as u64;
        (start..start + code.bytes.len() as u64).contains(&offset)
    };
    if entries == Entries::Answer {
        let (call, fault) = (syscall_entry(), fault_entry(0));
        for (code, before, after) in [
            (call, Position::Call, Position::Answered),
            (
                fault,
                Position::Exception(PAGE_FAULT),
                Position::AnsweredFault,
            ),
        ] {
            if within(&code) {
                let done = code.answered.contains(&(offset as usize));
                return Some(if done { after } else { before });
            }
        }
    }
    match offset {
        _ if offset == SYSCALL_AT as u64 => Some(Position::Call),
        _ if offset < 4 * EXCEPTIONS && offset.is_multiple_of(4) => {
            Some(Position::Exception(offset / 4))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::PAGE;

    /// Both fit, and do not overlap.
    #[test]
    fn entries_fit_their_page() {
        let (call, fault) = (syscall_entry(), fault_entry(0));
        assert!(call.at + call.bytes.len() <= fault.at);
        assert!(fault.at + fault.bytes.len() <= WORDS_AT);
        const { assert!(LIMIT_AT + 8 <= MAP_AT && MAP_AT + MAP <= WORDS_AT + 0x800) };
        assert_eq!(page(Entries::Answer, 0).len(), WORDS_AT);
    }

    /// The number's lower half, with a sign, is all that says where the map is looked at.
    #[test]
    fn the_map_is_looked_at_within_ring_0() {
        let at = |ax: i16| MAP_AT as i64 + i64::from(ax).div_euclid(16) * 2;
        assert!(at(i16::MIN) >= 0);
        assert!(at(i16::MAX) + 2 <= 3 * PAGE as i64, "the task state's end");
        let set = (0..8 * MAP).filter(|n| map()[n / 8] & 1 << (n % 8) != 0);
        let mut known: Vec<usize> = calls().map(|number| number as usize).collect();
        known.sort();
        assert_eq!(set.collect::<Vec<_>>(), known);
    }

    /// What no bit is set for leaves with the third instruction.
    #[test]
    fn calls_that_are_not_answered_leave_soon() {
        let code = syscall_entry();
        let bytes = &code.bytes;
        let bt = [0x66, 0x0f, 0xa3, 0x05];
        assert_eq!((&bytes[..4], &bytes[8..10]), (&bt[..], &[0x0f, 0x82][..]));
        assert_eq!(bytes[14..17], [0xe6, SYSCALL_PORT as u8, 0xf4]);
        let displacement = i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        assert_eq!(displacement, (MAP_AT - SYSCALL_AT - 8) as i32);
        // No other way leads out of the entry but back to ring 3.
        let outs = bytes
            .windows(3)
            .filter(|w| w == &[0xe6, SYSCALL_PORT as u8, 0xf4]);
        assert_eq!(outs.count(), 1);
    }

    /// Only what follows a load of an answer counts as answered: once a call, or twice.
    #[test]
    fn positions_are_those_of_instructions() {
        assert_eq!(syscall_entry().answered.len(), WORDS);
        assert_eq!(fault_entry(0).answered.len(), 2 * WORDS);
        let sysret = [0x48, 0x0f, 0x07];
        let page = page(Entries::Answer, 0);
        let ends = page.windows(3).filter(|bytes| *bytes == sysret).count();
        assert_eq!(ends, 2 * WORDS);
        for at in 0..page.len() {
            let after = position(at as u64, Entries::Answer);
            if page[at..].starts_with(&sysret) {
                assert!(matches!(
                    after,
                    Some(Position::Answered | Position::AnsweredFault)
                ));
            }
        }
        assert_eq!(position(0x80, Entries::Leave), Some(Position::Call));
        assert_eq!(
            position(4 * 14, Entries::Leave),
            Some(Position::Exception(14))
        );
        assert_eq!(position(0x81, Entries::Leave), None);
    }
}
