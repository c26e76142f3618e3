//! Classic BPF for the seccomp filters of stubs, which look at the instruction pointer (seccomp(2),
//! linux/seccomp.h). Filters that do not are written as data, see [`crate::seccomp`].

/// seccomp_data (linux/seccomp.h): offsets of the fields.
pub(crate) const NR: u32 = 0;
pub(crate) const ARCH: u32 = 4;
pub(crate) const IP: u32 = 8;
pub(crate) const fn arg(n: u32) -> u32 {
    16 + 8 * n
}

pub(crate) const KILL: u32 = 0x8000_0000;
pub(crate) const TRAP: u32 = 0x0003_0000;
pub(crate) const ALLOW: u32 = 0x7fff_0000;

/// First address of the vsyscall page.
pub(crate) const VSYSCALL_PAGE: u64 = 0xffff_ffff_ff60_0000;

pub(crate) type Insn = libc::sock_filter;

pub(crate) const fn stmt(code: u32, k: u32) -> Insn {
    Insn {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

pub(crate) const fn load(offset: u32) -> Insn {
    stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

pub(crate) const fn ret(action: u32) -> Insn {
    stmt(libc::BPF_RET | libc::BPF_K, action)
}

/// Goes on after `jt` or `jf` further instructions.
pub(crate) const fn jump(op: u32, k: u32, jt: u8, jf: u8) -> Insn {
    Insn {
        code: (libc::BPF_JMP | op | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    }
}

pub(crate) const EQ: u32 = libc::BPF_JEQ;
pub(crate) const GT: u32 = libc::BPF_JGT;
pub(crate) const GE: u32 = libc::BPF_JGE;
pub(crate) const SET: u32 = libc::BPF_JSET;

pub(crate) fn low(value: u64) -> u32 {
    value as u32
}

pub(crate) fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

/// `body` for system call `number`, whose last instruction returns. The accumulator holds the
/// number before and, if it is another one, after.
pub(crate) fn call(number: i64, body: &[Insn]) -> Vec<Insn> {
    let mut code = vec![jump(EQ, number as u32, 0, body.len() as u8)];
    code.extend_from_slice(body);
    code
}

/// AUDIT_ARCH_X86_64 (linux/audit.h).
pub(crate) const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// What a program says to a call, by a machine with the instructions used here.
#[cfg(test)]
pub(crate) fn verdict(code: &[Insn], arch: u32, ip: u64, number: i64, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend((number as u32).to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(ip.to_le_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
    let (mut at, mut a) = (0, 0);
    loop {
        let insn = code[at];
        at += 1;
        let class = u32::from(insn.code) & 7;
        if class == libc::BPF_LD {
            let k = insn.k as usize;
            a = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
        } else if class == libc::BPF_RET {
            return insn.k;
        } else {
            let taken = match u32::from(insn.code) & 0xf0 {
                EQ => a == insn.k,
                GT => a > insn.k,
                GE => a >= insn.k,
                SET => a & insn.k != 0,
                op => unreachable!("{op:x}"),
            };
            at += usize::from(if taken { insn.jt } else { insn.jf });
        }
    }
}
