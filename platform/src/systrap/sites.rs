//! How a `syscall` instruction of the guest becomes a jump to stub code.
//!
//! [`plan`] looks at the code around a `syscall` and says which 7 bytes to write where, and which
//! instructions have to run elsewhere instead ([`Plan`]), or why the code must stay as it is
//! ([`Refusal`]). It is pure: the caller reads, writes and maps.
//!
//! The jump is `jmp qword ptr [slot]`, the slot being 8 bytes of a table at [`SLOTS`]; because of
//! where the table lies, byte 5 of the jump is 06. Two of its bytes trap if someone executes them:
//!
//! ```text
//!           0  1  2  3  4  5  6
//! number    ff 24 25 .. .. 06 00    for: mov $nr,%eax (5 bytes); syscall   or
//!                                        mov $nr,%rax (7 bytes), its syscall stays
//! any       ff 24 e5 .. .. 06 00    for: syscall; the instructions after it, moved to the tail
//!                 │        └─ not an instruction: #UD (SDM vol. 2, opcode map, "i64")
//!                 └─ in eax, imm8: #GP without I/O privilege (SDM vol. 1, Input/Output)
//! ```
//!
//! e5 as SIB byte means the same as 25: no index, so the scale does not count (SDM vol. 2, table of
//! SIB bytes).
//!
//! What makes it safe: wherever an instruction began inside the 7 bytes, the jump has one of the
//! trapping bytes, so a thread that rests there, or gets there by an indirect jump, a signal's
//! return or a restarted call, traps, and [`Plan::redirect`] says where it should be. Only padding
//! that nothing can reach may begin elsewhere. Nothing is clobbered, on the stack neither; at each
//! instruction of the tail the registers are those that some place of the guest's code would see,
//! and [`Plan::guest_address`] says which.
//!
//! Writing the bytes is the caller's part. The 7 bytes never cross a page, so replacing the page at
//! once shows every thread all of the old or all of the new, both of which are right. In place, a
//! state in between is safe only while bytes 0, 2 and 5, as far as instructions begin there, hold
//! 06 and those traps are taken for "not written yet"; each such byte has to be seen by all
//! cores before its neighbours change (SDM vol. 3, cross-modifying code).
//!
//! Not considered: code that reads or checks itself, and branches into the 7 bytes from outside
//! the window.

use std::ops::Range;

use iced_x86::{
    Decoder, DecoderError, DecoderOptions, Encoder, FlowControl, Instruction, Mnemonic, OpKind,
};

/// Where the table of jump targets lies, so that a slot's address ends a jump with 06 00.
pub const SLOTS: Range<u32> = 0x6_0000..0x6_8000;
/// Bytes a plan writes.
pub const JUMP_LEN: usize = 7;
/// Bytes a tail has at most: two branches (at most 5 bytes with prefixes, and two jumps each) and
/// the jump back, made a cache line.
pub const TAIL_MAX: usize = 64;
const _: () = assert!(2 * (5 + 2 + FAR_JUMP_LEN) + FAR_JUMP_LEN <= TAIL_MAX);

const SYSCALL: [u8; 2] = [0x0f, 0x05];
const FAR_JUMP_LEN: usize = 14;
const PAGE_SIZE: u64 = 4096;
/// Functions begin at multiples of it.
const FUNCTION_ALIGN: u64 = 16;
const MAX_INSTRUCTION_LEN: usize = 15;
/// After so many bytes a decoder that began inside an instruction has found its way (nearly always
/// after a few instructions; where it matters, it is checked).
const SYNC_LEN: usize = 64;
/// Branches farther away than this are not looked for.
const REACH: usize = 4096;

/// Code of the guest as its program has it, without the bytes of earlier plans: a branch that was
/// moved to a tail must be seen here too.
#[derive(Clone, Copy, Debug)]
pub struct CodeWindow<'a> {
    /// Guest address of the first byte. An instruction has to begin here (such as at the start of a
    /// mapping) unless at least 96 bytes precede the `syscall`.
    pub start: u64,
    /// Up to 4 KiB before and after the `syscall` are of use.
    pub bytes: &'a [u8],
}

/// What to write, and what it means for threads near it. Ranges (`start`, `len`) of plans that are
/// in force must not overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Guest address of the bytes to write.
    pub start: u64,
    /// Bytes of whole instructions that the plan lays claim to; at least [`JUMP_LEN`].
    pub len: usize,
    /// The new bytes; those of `len` beyond them stay as they are, and are not executed.
    pub code: [u8; JUMP_LEN],
    /// Guest address of the `syscall` instruction. As after that instruction, rcx and the guest's
    /// rip are this plus 2.
    pub syscall: u64,
    /// The call number if the jump replaces the instruction that loads it, which then is up to the
    /// stub (all 64 bits of rax).
    pub number: Option<u32>,
    /// Where a thread goes on after the call: behind the `syscall`, or in the tail.
    pub resume: u64,
    /// Where the tail has to be, the `tail_at` of [`plan`].
    pub tail_at: u64,
    /// Moved instructions and a jump back; empty if `number` is given. At most [`TAIL_MAX`] bytes.
    pub tail: Vec<u8>,
    /// A direct branch leads to a place from where threads are redirected. Unless `number` is
    /// given, code that did not trap before does now, each time it goes there.
    pub entered: bool,
    /// The instructions of the tail.
    places: Vec<Place>,
}

/// An instruction of a tail, and the guest's instruction it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    tail: u64,
    guest: u64,
}

/// Where a thread belongs that trapped inside the new bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// It is about to execute the `syscall`, with all registers set.
    Syscall,
    /// It continues at this address.
    To(u64),
}

/// Why a `syscall` stays as it is. Offsets are from the first byte that would be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("slot is outside the table or not aligned")]
    Slot,
    #[error("no syscall instruction")]
    NotSyscall,
    #[error("code goes on after the known bytes")]
    WindowEnd,
    #[error("jump would cross a page boundary")]
    PageCrossing,
    #[error("syscall instruction may have prefixes")]
    Prefixed,
    #[error("instruction at offset {0} does not decode")]
    Undecodable(u8),
    #[error("instruction at offset {0} would not trap")]
    Boundary(u8),
    #[error("branch to offset {0}")]
    BranchInto(u8),
    #[error("instruction at offset {0} cannot run elsewhere")]
    Immovable(u8),
    #[error("tail is too far from what the instruction at offset {0} refers to")]
    TooFar(u8),
}

impl Plan {
    /// Where a thread belongs that trapped (SIGILL, SIGSEGV) at `address`, or is to be put there.
    /// None: the trap is the guest's own.
    pub fn redirect(&self, address: u64) -> Option<Redirect> {
        let inside = (1..JUMP_LEN as u64).contains(&address.wrapping_sub(self.start));
        if !inside {
            return None;
        }
        if self.number.is_some() {
            return (address == self.syscall).then_some(Redirect::Syscall);
        }
        let place = self.places.iter().find(|place| place.guest == address)?;
        Some(Redirect::To(place.tail))
    }

    /// Where in its own code the guest is when it is about to execute the instruction at
    /// `tail_address`. None: no instruction of the tail begins there.
    pub fn guest_address(&self, tail_address: u64) -> Option<u64> {
        let place = self
            .places
            .iter()
            .find(|place| place.tail == tail_address)?;
        Some(place.guest)
    }
}

/// Decides how the `syscall` at `syscall_at` becomes a jump through the table slot at address
/// `slot`, with moved instructions placed at `tail_at`.
///
/// `number` is what eax held when the guest came there: an instruction ahead that loads another
/// one is not replaced.
pub fn plan(
    window: CodeWindow<'_>,
    syscall_at: u64,
    number: u32,
    slot: u32,
    tail_at: u64,
) -> Result<Plan, Refusal> {
    if !SLOTS.contains(&slot) || !slot.is_multiple_of(8) {
        return Err(Refusal::Slot);
    }
    let at = window.offset(syscall_at).ok_or(Refusal::WindowEnd)?;
    let site = Site {
        window,
        at,
        slot,
        tail_at,
    };
    if window.bytes.get(at..at + SYSCALL.len()) != Some(&SYSCALL) {
        return Err(Refusal::NotSyscall);
    }
    match site.with_number(number) {
        Some(plan) => Ok(plan),
        None => site.any(),
    }
}

struct Site<'a> {
    window: CodeWindow<'a>,
    /// Offset of the `syscall` in the window.
    at: usize,
    slot: u32,
    tail_at: u64,
}

impl Site<'_> {
    /// The form that replaces the instruction loading the number.
    fn with_number(&self, number: u32) -> Option<Plan> {
        let imm = number.to_le_bytes();
        let before = &self.window.bytes[..self.at];
        let start = if before.ends_with(&imm) && before[..self.at - 4].ends_with(&[0xb8]) {
            self.at - 5
        } else if before.ends_with(&imm)
            && before[..self.at - 4].ends_with(&[0x48, 0xc7, 0xc0])
            && number <= i32::MAX as u32
        {
            self.at - 7
        } else {
            return None;
        };
        if self.crosses_page(start) || !self.window.begins_instruction(start) {
            return None;
        }
        let entries = self.window.branches_into(start);
        // The `syscall` of the short form; that of the long one is behind the jump.
        if entries.iter().any(|&offset| start + offset != self.at) {
            return None;
        }
        let syscall = self.window.address(self.at);
        Some(Plan {
            start: self.window.address(start),
            len: JUMP_LEN,
            code: self.jump(0x25),
            syscall,
            number: Some(number),
            resume: syscall + SYSCALL.len() as u64,
            tail_at: self.tail_at,
            tail: Vec::new(),
            entered: !entries.is_empty(),
            places: Vec::new(),
        })
    }

    /// The form that replaces the `syscall` and what comes after it.
    fn any(&self) -> Result<Plan, Refusal> {
        let start = self.at;
        if self.crosses_page(start) {
            return Err(Refusal::PageCrossing);
        }
        let may_be_prefix = start > 0 && is_prefix(self.window.bytes[start - 1]);
        if may_be_prefix && !self.window.begins_instruction(start) {
            return Err(Refusal::Prefixed);
        }
        let entries = self.window.branches_into(start);
        let mut tail = Tail::new(self.tail_at);
        let mut redirected = Vec::new();
        let mut len = SYSCALL.len();
        let mut falls_through = true;
        while len < JUMP_LEN {
            let offset = len as u8;
            let instruction = self.window.decode(start + len).map_err(|e| match e {
                DecoderError::NoMoreBytes => Refusal::WindowEnd,
                _ => Refusal::Undecodable(offset),
            })?;
            let traps = matches!(len, 2 | 5);
            let padding = !falls_through
                && matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
                && !entries.contains(&len)
                && !instruction.ip().is_multiple_of(FUNCTION_ALIGN);
            if !padding {
                if !traps {
                    return Err(Refusal::Boundary(offset));
                }
                let bytes = &self.window.bytes[start + len..][..instruction.len()];
                falls_through = tail.add(&instruction, bytes).map_err(|e| match e {
                    Unmoved::Kind => Refusal::Immovable(offset),
                    Unmoved::TooFar => Refusal::TooFar(offset),
                })?;
                if self.window.interior_target(start, &instruction).is_some() {
                    // A tail that jumps there would have two places for one address.
                    return Err(Refusal::BranchInto(offset));
                }
                redirected.push(len);
            }
            len += instruction.len();
        }
        if let Some(&offset) = entries.iter().find(|entry| !redirected.contains(entry)) {
            return Err(Refusal::BranchInto(offset as u8));
        }
        if falls_through {
            let end = self.window.address(start + len);
            tail.jump(end, end);
        }
        let syscall = self.window.address(start);
        Ok(Plan {
            start: syscall,
            len,
            code: self.jump(0xe5),
            syscall,
            number: None,
            resume: self.tail_at,
            tail_at: self.tail_at,
            tail: tail.bytes,
            entered: !entries.is_empty(),
            places: tail.places,
        })
    }

    fn jump(&self, sib: u8) -> [u8; JUMP_LEN] {
        let [a, b, c, d] = self.slot.to_le_bytes();
        [0xff, 0x24, sib, a, b, c, d]
    }

    fn crosses_page(&self, start: usize) -> bool {
        self.window.address(start) % PAGE_SIZE > PAGE_SIZE - JUMP_LEN as u64
    }
}

/// Whether a byte can precede an opcode as a part of its instruction (SDM vol. 2, legacy and REX
/// prefixes).
fn is_prefix(byte: u8) -> bool {
    matches!(
        byte,
        0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
    )
}

impl CodeWindow<'_> {
    fn address(&self, offset: usize) -> u64 {
        self.start.wrapping_add(offset as u64)
    }

    /// None: not in the window, or the window is not within the address space.
    fn offset(&self, address: u64) -> Option<usize> {
        self.start.checked_add(self.bytes.len() as u64)?;
        let offset = usize::try_from(address.checked_sub(self.start)?).ok()?;
        (offset < self.bytes.len()).then_some(offset)
    }

    fn decode(&self, offset: usize) -> Result<Instruction, DecoderError> {
        let end = self.bytes.len().min(offset + MAX_INSTRUCTION_LEN);
        let bytes = &self.bytes[offset.min(end)..end];
        let mut decoder = Decoder::with_ip(64, bytes, self.address(offset), DecoderOptions::NONE);
        let instruction = decoder.decode();
        match decoder.last_error() {
            DecoderError::None => Ok(instruction),
            error => Err(error),
        }
    }

    /// Whether an instruction begins at `at`, beyond reasonable doubt: of 16 neighbouring bytes
    /// ahead one begins an instruction, so that one of 16 decoders is right, and all have to agree.
    fn begins_instruction(&self, at: usize) -> bool {
        let starts = match at.checked_sub(SYNC_LEN + MAX_INSTRUCTION_LEN) {
            Some(first) => first..first + MAX_INSTRUCTION_LEN + 1,
            None => 0..1,
        };
        starts.into_iter().all(|mut offset| {
            while offset < at {
                offset += self.decode(offset).map_or(1, |i| i.len());
            }
            offset == at
        })
    }

    /// Offset from `start`, if the instruction is a direct branch to the inside of a jump there.
    fn interior_target(&self, start: usize, instruction: &Instruction) -> Option<usize> {
        let offset = instruction
            .near_branch_target()
            .wrapping_sub(self.address(start));
        let direct = instruction.op0_kind() == OpKind::NearBranch64;
        (direct && (1..JUMP_LEN as u64).contains(&offset)).then_some(offset as usize)
    }

    /// Offsets from `start` inside a jump there to which direct branches of the window lead. An
    /// instruction begins at `start`.
    fn branches_into(&self, start: usize) -> Vec<usize> {
        let first = start.saturating_sub(REACH);
        let end = self.bytes.len().min(start + REACH);
        let doubtful = if start < SYNC_LEN + MAX_INSTRUCTION_LEN {
            0
        } else {
            SYNC_LEN
        };
        let mut found = Vec::new();
        if !self.scan(first..start, doubtful, start, &mut found) {
            self.scan(
                start.saturating_sub(SYNC_LEN)..start,
                SYNC_LEN,
                start,
                &mut found,
            );
        }
        self.scan(start..end, 0, start, &mut found);
        found
    }

    /// Adds what the instructions of `range` give. In the first `doubtful` bytes, and for a while
    /// after what does not decode, an instruction may begin at any byte. Says whether the last
    /// instruction ends with the range.
    fn scan(
        &self,
        range: Range<usize>,
        doubtful: usize,
        start: usize,
        found: &mut Vec<usize>,
    ) -> bool {
        let end = range.end;
        let mut next = range.start;
        let mut doubtful_until = range.start + doubtful;
        for offset in range {
            if offset != next && offset >= doubtful_until {
                continue;
            }
            let decoded = self.decode(offset);
            if let Ok(instruction) = &decoded {
                found.extend(self.interior_target(start, instruction));
            }
            if offset == next {
                next += decoded.map_or(1, |instruction| instruction.len());
                if decoded.is_err() {
                    doubtful_until = offset + SYNC_LEN;
                }
            }
        }
        next == end
    }
}

/// Why an instruction is not moved.
enum Unmoved {
    /// It enters a kernel, leaves its address behind, or is privileged.
    Kind,
    /// Its operand cannot be reached from the tail.
    TooFar,
}

/// Instructions that run at another address than the guest's program has them.
struct Tail {
    at: u64,
    bytes: Vec<u8>,
    places: Vec<Place>,
}

impl Tail {
    fn new(at: u64) -> Tail {
        Tail {
            at,
            bytes: Vec::new(),
            places: Vec::new(),
        }
    }

    fn address(&self) -> u64 {
        self.at.wrapping_add(self.bytes.len() as u64)
    }

    /// The next instruction of the tail stands for the guest's at `guest`.
    fn place(&mut self, guest: u64) {
        let tail = self.address();
        self.places.push(Place { tail, guest });
    }

    /// Adds an instruction, `bytes` being its encoding. Says whether the next one can be reached.
    fn add(&mut self, instruction: &Instruction, bytes: &[u8]) -> Result<bool, Unmoved> {
        let guest = instruction.ip();
        let direct = instruction.op0_kind() == OpKind::NearBranch64;
        match instruction.flow_control() {
            _ if instruction.is_privileged() => return Err(Unmoved::Kind),
            FlowControl::UnconditionalBranch if direct => {
                self.jump(instruction.near_branch_target(), guest);
                return Ok(false);
            }
            FlowControl::ConditionalBranch if direct => {
                self.branch(instruction)?;
                return Ok(true);
            }
            FlowControl::Return if instruction.mnemonic() == Mnemonic::Ret => {}
            FlowControl::Next | FlowControl::IndirectBranch => {}
            _ => return Err(Unmoved::Kind),
        }
        self.place(guest);
        if instruction.is_ip_rel_memory_operand() {
            let moved = encode(instruction, self.address())?;
            self.bytes.extend(moved);
        } else {
            self.bytes.extend(bytes);
        }
        Ok(instruction.flow_control() == FlowControl::Next)
    }

    /// `jmp [rip]`, followed by the target.
    fn jump(&mut self, target: u64, guest: u64) {
        self.place(guest);
        self.bytes.extend([0xff, 0x25, 0, 0, 0, 0]);
        self.bytes.extend(target.to_le_bytes());
    }

    /// A conditional branch, of which some (`loop`, `jrcxz`) reach only their neighbourhood:
    ///
    /// ```text
    ///     jcc taken
    ///     jmp over
    /// taken:
    ///     jmp [target]
    /// over:
    /// ```
    fn branch(&mut self, instruction: &Instruction) -> Result<(), Unmoved> {
        const JMP_OVER: [u8; 2] = [0xeb, FAR_JUMP_LEN as u8];
        let mut short = *instruction;
        short.as_short_branch();
        short.set_near_branch64(self.address());
        let mut encoded = encode(&short, self.address())?;
        if let Some(displacement) = encoded.last_mut() {
            *displacement = JMP_OVER.len() as u8;
        }
        self.place(instruction.ip());
        self.bytes.extend(encoded);
        self.place(instruction.next_ip());
        self.bytes.extend(JMP_OVER);
        let target = instruction.near_branch_target();
        self.jump(target, target);
        Ok(())
    }
}

fn encode(instruction: &Instruction, at: u64) -> Result<Vec<u8>, Unmoved> {
    let mut encoder = Encoder::new(64);
    match encoder.encode(instruction, at) {
        Ok(_) => Ok(encoder.take_buffer()),
        Err(_) => Err(Unmoved::TooFar),
    }
}

#[cfg(test)]
mod tests;
