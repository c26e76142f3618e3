//! x86-64 registers, in the layout of `struct user_regs_struct` (sys/user.h), so that ptrace(2)
//! can read and write them without translation.

/// General registers of a guest thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// System-call number while one is being made; u64::MAX otherwise.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// User code and stack segment selectors of 64-bit Linux.
const USER_CS: u64 = 0x33;
const USER_SS: u64 = 0x2b;

impl Registers {
    /// Registers of a fresh program: everything zero but the entry point and the stack.
    pub fn start(rip: u64, rsp: u64) -> Self {
        Registers {
            rip,
            rsp,
            cs: USER_CS,
            ss: USER_SS,
            eflags: 0x202,
            orig_rax: u64::MAX,
            ..Default::default()
        }
    }

    /// System-call number: the lower half of what the guest put into `rax`, with its sign. Linux looks
    /// at no more.
    pub fn syscall_number(&self) -> u64 {
        i64::from(self.orig_rax as i32) as u64
    }

    /// The six system-call arguments (syscall(2)).
    pub fn syscall_args(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    /// What the system call gives back: a value or a negated errno.
    pub fn set_return(&mut self, value: u64) {
        self.rax = value;
    }

    pub fn stack_pointer(&self) -> u64 {
        self.rsp
    }

    pub fn set_stack_pointer(&mut self, sp: u64) {
        self.rsp = sp;
    }

    pub fn set_tls(&mut self, base: u64) {
        self.fs_base = base;
    }
}

/// FP and vector state in the processor's XSAVE layout (Intel SDM vol. 1 §13.4), uncompacted, as
/// PTRACE_GETREGSET with NT_X86_XSTATE gives it and signal frames carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FpState {
    bytes: Vec<u8>,
}

impl FpState {
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        FpState { bytes }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The state after FNINIT: control words 0x37f and MXCSR 0x1f80, nothing else in use. 512
    /// bytes of legacy area and the 64-byte XSAVE header.
    pub fn initial() -> Self {
        let mut bytes = vec![0u8; 576];
        bytes[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        bytes[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        FpState { bytes }
    }
}
