//! Memory accesses that survive SIGSEGV and SIGBUS.
//!
//! Each routine is written in assembly so that the instructions that touch foreign memory are
//! known by address. `FIXUPS` pairs each of them with the place where execution continues after a
//! fault; [`fixup`] is what the signal handler asks.

use std::arch::global_asm;

/// Result of a single-word access: RAX and RDX of the System V calling convention.
#[repr(C)]
pub(super) struct Word {
    /// Zero, or one if the access faulted.
    pub faulted: u64,
    pub value: u64,
}

unsafe extern "C" {
    /// Copies `len` bytes upward; returns how many were left when it stopped.
    pub(super) fn runsc_guarded_copy(dst: *mut u8, src: *const u8, len: usize) -> usize;
    /// Clears `len` bytes; returns how many were left when it stopped.
    pub(super) fn runsc_guarded_zero(dst: *mut u8, len: usize) -> usize;
    pub(super) fn runsc_guarded_load8(at: *const u8) -> Word;
    pub(super) fn runsc_guarded_load32(at: *const u8) -> Word;
    pub(super) fn runsc_guarded_load64(at: *const u8) -> Word;
    pub(super) fn runsc_guarded_store32(at: *mut u8, value: u32) -> Word;
    pub(super) fn runsc_guarded_store64(at: *mut u8, value: u64) -> Word;
    pub(super) fn runsc_guarded_swap32(at: *mut u8, value: u32) -> Word;
    pub(super) fn runsc_guarded_add32(at: *mut u8, value: u32) -> Word;
    /// Gives the value found; it was replaced if it equals `old`.
    pub(super) fn runsc_guarded_cas32(at: *mut u8, old: u32, new: u32) -> Word;

    static runsc_guarded_fixups: [Fixup; 0];
    static runsc_guarded_fixups_end: [Fixup; 0];
}

/// Both fields are distances from the field itself, so that the table needs no relocation.
#[repr(C)]
struct Fixup {
    fault: i32,
    resume: i32,
}

// Copies of up to 64 bytes avoid the start-up cost of `rep movs`. A fault in the word loop goes on
// in the byte loop, whose fault is exact.
global_asm!(
    ".pushsection .text.runsc_guarded,\"ax\",@progbits",
    ".balign 16",
    ".globl runsc_guarded_copy",
    "runsc_guarded_copy:",
    "mov rcx, rdx",
    "cmp rcx, 64",
    "ja 5f",
    "2: cmp rcx, 8",
    "jb 3f",
    "20: mov rax, [rsi]",
    "21: mov [rdi], rax",
    "add rsi, 8",
    "add rdi, 8",
    "sub rcx, 8",
    "jmp 2b",
    "3: test rcx, rcx",
    "jz 6f",
    "30: mov al, [rsi]",
    "31: mov [rdi], al",
    "inc rsi",
    "inc rdi",
    "dec rcx",
    "jmp 3b",
    "5: rep movsb",
    "6: mov rax, rcx",
    "ret",
    ".globl runsc_guarded_zero",
    "runsc_guarded_zero:",
    "mov rcx, rsi",
    "xor eax, eax",
    "7: rep stosb",
    "8: mov rax, rcx",
    "ret",
    ".globl runsc_guarded_load8",
    "runsc_guarded_load8:",
    "40: movzx edx, byte ptr [rdi]",
    "xor eax, eax",
    "ret",
    ".globl runsc_guarded_load32",
    "runsc_guarded_load32:",
    "41: mov edx, [rdi]",
    "xor eax, eax",
    "ret",
    ".globl runsc_guarded_load64",
    "runsc_guarded_load64:",
    "42: mov rdx, [rdi]",
    "xor eax, eax",
    "ret",
    ".globl runsc_guarded_store32",
    "runsc_guarded_store32:",
    "43: mov [rdi], esi",
    "xor eax, eax",
    "ret",
    ".globl runsc_guarded_store64",
    "runsc_guarded_store64:",
    "44: mov [rdi], rsi",
    "xor eax, eax",
    "ret",
    ".globl runsc_guarded_swap32",
    "runsc_guarded_swap32:",
    "mov edx, esi",
    "45: xchg [rdi], edx",
    "xor eax, eax",
    "ret",
    ".globl runsc_guarded_add32",
    "runsc_guarded_add32:",
    "mov edx, esi",
    "46: lock xadd [rdi], edx",
    "xor eax, eax",
    "ret",
    ".globl runsc_guarded_cas32",
    "runsc_guarded_cas32:",
    "mov eax, esi",
    "47: lock cmpxchg [rdi], edx",
    "mov edx, eax",
    "xor eax, eax",
    "ret",
    "49: mov eax, 1",
    "ret",
    ".popsection",
    ".pushsection .rodata.runsc_guarded,\"a\",@progbits",
    ".balign 8",
    ".globl runsc_guarded_fixups",
    "runsc_guarded_fixups:",
    ".long 20b - ., 3b - .",
    ".long 21b - ., 3b - .",
    ".long 30b - ., 6b - .",
    ".long 31b - ., 6b - .",
    ".long 5b - ., 6b - .",
    ".long 7b - ., 8b - .",
    ".long 40b - ., 49b - .",
    ".long 41b - ., 49b - .",
    ".long 42b - ., 49b - .",
    ".long 43b - ., 49b - .",
    ".long 44b - ., 49b - .",
    ".long 45b - ., 49b - .",
    ".long 46b - ., 49b - .",
    ".long 47b - ., 49b - .",
    ".globl runsc_guarded_fixups_end",
    "runsc_guarded_fixups_end:",
    ".popsection",
);

/// Where to continue after a fault of the instruction at `rip`, if it is one of ours.
/// Async-signal-safe.
pub(super) fn fixup(rip: u64) -> Option<u64> {
    let first = (&raw const runsc_guarded_fixups).cast::<Fixup>();
    let end = (&raw const runsc_guarded_fixups_end).cast::<Fixup>();
    let count = (end as usize - first as usize) / size_of::<Fixup>();
    // SAFETY: the two symbols bound a constant table of `Fixup`s in our own read-only data.
    let table = unsafe { std::slice::from_raw_parts(first, count) };
    table
        .iter()
        .find(|entry| target(&entry.fault) == rip)
        .map(|entry| target(&entry.resume))
}

fn target(field: &i32) -> u64 {
    (std::ptr::from_ref(field) as u64).wrapping_add_signed(i64::from(*field))
}
