//! System calls without a C library around them: clone, vfork and sigreturn as well.

/// Makes a call. A child that shares memory, or that has a stack of its own, ends at once.
#[cfg(target_arch = "x86_64")]
pub fn call(number: u64, args: [u64; 6], ends_in_child: bool) -> i64 {
    let result: i64;
    // SAFETY: what the kernel then does to this process is the purpose. The child of a clone
    // touches no memory: its stack may be shared, or missing.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 3f",
            "test {ends:e}, {ends:e}",
            "jz 3f",
            "mov eax, 24",
            "syscall",
            "mov eax, 39",
            "syscall",
            "2: xor edi, edi",
            "mov eax, 60",
            "syscall",
            "jmp 2b",
            "3:",
            ends = in(reg) u32::from(ends_in_child),
            inout("rax") number => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            out("rcx") _, out("r11") _,
        );
    }
    result
}

/// rt_sigreturn(2) with a frame at `stack`.
#[cfg(target_arch = "x86_64")]
pub fn sigreturn(stack: u64) {
    // SAFETY: does not come back, or comes back where the frame says.
    unsafe {
        std::arch::asm!(
            "mov rsp, {stack}",
            "mov eax, 15",
            "syscall",
            "ud2",
            stack = in(reg) stack,
            options(noreturn),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub fn call(number: u64, args: [u64; 6], ends_in_child: bool) -> i64 {
    if ends_in_child {
        return -i64::from(libc::ENOSYS);
    }
    // SAFETY: what the kernel then does to this process is the purpose.
    unsafe {
        libc::syscall(
            number as _,
            args[0],
            args[1],
            args[2],
            args[3],
            args[4],
            args[5],
        )
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub fn sigreturn(_stack: u64) {}
