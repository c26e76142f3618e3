//! Classic BPF as seccomp(2) has it: checking a program, and running it on a system call.
//!
//! Programs come from guests and from configurations. What [`Program::new`] lets pass ends: jumps go
//! forward only, and the last instruction returns. Sources: linux/bpf_common.h, linux/seccomp.h, and
//! Documentation/networking/filter.rst of Linux.

use serde::{Deserialize, Serialize};

use crate::errno::{Errno, Result};

/// BPF_MAXINSNS.
pub const MAX_LEN: usize = 4096;
/// BPF_MEMWORDS.
const WORDS: usize = 16;
/// Bytes of struct seccomp_data.
const DATA_LEN: u32 = 64;

/// struct sock_filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Insn {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// struct seccomp_data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    pub nr: i32,
    pub arch: u32,
    pub ip: u64,
    pub args: [u64; 6],
}

impl Data {
    /// The word at a byte offset, a multiple of four below [`DATA_LEN`].
    fn word(&self, at: u32) -> u32 {
        let half = |value: u64, at: u32| {
            if at.is_multiple_of(8) {
                value as u32
            } else {
                (value >> 32) as u32
            }
        };
        match at {
            0 => self.nr as u32,
            4 => self.arch,
            8 | 12 => half(self.ip, at),
            at => half(self.args[(at as usize - 16) / 8 % 6], at),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    K,
    X,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Eq,
    Gt,
    Ge,
    Set,
}

/// An instruction as it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    LoadData(u32),
    LoadImm(u32),
    LoadMem(u8),
    LoadXImm(u32),
    LoadXMem(u8),
    Store(u8),
    StoreX(u8),
    Alu(Alu, Operand, u32),
    Neg,
    Jump(u32),
    JumpIf(Test, Operand, u32, u8, u8),
    ToX,
    ToA,
    ReturnK(u32),
    ReturnA,
}

/// A program that passed the checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Box<[Op]>);

impl Program {
    /// Checks a program as Linux does.
    ///
    /// # Errors
    /// EINVAL.
    pub fn new(insns: &[Insn]) -> Result<Program> {
        if insns.is_empty() || insns.len() > MAX_LEN {
            return Err(Errno::EINVAL);
        }
        let ops = insns.iter().map(decode).collect::<Result<Vec<Op>>>()?;
        check_jumps(&ops)?;
        check_memory(&ops)?;
        Ok(Program(ops.into()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the program returns for a call.
    pub fn run(&self, data: &Data) -> u32 {
        self.walk(|at| Some(data.word(at))).unwrap_or(0)
    }

    /// What it returns whatever the arguments and the place of the call are; None if that depends.
    pub fn run_constant(&self, nr: i32, arch: u32) -> Option<u32> {
        self.walk(|at| match at {
            0 => Some(nr as u32),
            4 => Some(arch),
            _ => None,
        })
    }

    /// None as soon as `load` gives none.
    fn walk(&self, load: impl Fn(u32) -> Option<u32>) -> Option<u32> {
        let (mut a, mut x) = (0u32, 0u32);
        let mut memory = [0u32; WORDS];
        let mut pc = 0;
        // The checks leave no way past the end.
        while let Some(op) = self.0.get(pc) {
            pc += 1;
            match *op {
                Op::LoadData(at) => a = load(at)?,
                Op::LoadImm(k) => a = k,
                Op::LoadMem(m) => a = memory[usize::from(m) % WORDS],
                Op::LoadXImm(k) => x = k,
                Op::LoadXMem(m) => x = memory[usize::from(m) % WORDS],
                Op::Store(m) => memory[usize::from(m) % WORDS] = a,
                Op::StoreX(m) => memory[usize::from(m) % WORDS] = x,
                Op::Alu(alu, operand, k) => {
                    let by = if operand == Operand::K { k } else { x };
                    match calculate(alu, a, by) {
                        Some(value) => a = value,
                        None => return Some(0),
                    }
                }
                Op::Neg => a = a.wrapping_neg(),
                Op::Jump(k) => pc += k as usize,
                Op::JumpIf(test, operand, k, jt, jf) => {
                    let with = if operand == Operand::K { k } else { x };
                    let holds = match test {
                        Test::Eq => a == with,
                        Test::Gt => a > with,
                        Test::Ge => a >= with,
                        Test::Set => a & with != 0,
                    };
                    pc += usize::from(if holds { jt } else { jf });
                }
                Op::ToX => x = a,
                Op::ToA => a = x,
                Op::ReturnK(k) => return Some(k),
                Op::ReturnA => return Some(a),
            }
        }
        Some(0)
    }
}

/// None for a division by zero, which ends the program with 0.
fn calculate(alu: Alu, a: u32, by: u32) -> Option<u32> {
    Some(match alu {
        Alu::Add => a.wrapping_add(by),
        Alu::Sub => a.wrapping_sub(by),
        Alu::Mul => a.wrapping_mul(by),
        Alu::Div => a.checked_div(by)?,
        Alu::And => a & by,
        Alu::Or => a | by,
        Alu::Xor => a ^ by,
        Alu::Shl => a.wrapping_shl(by),
        Alu::Shr => a.wrapping_shr(by),
    })
}

fn decode(insn: &Insn) -> Result<Op> {
    const LD: u32 = libc::BPF_LD | libc::BPF_W;
    const LDX: u32 = libc::BPF_LDX | libc::BPF_W;
    let code = u32::from(insn.code);
    let slot = || match insn.k {
        k if (k as usize) < WORDS => Ok(k as u8),
        _ => Err(Errno::EINVAL),
    };
    let k = insn.k;
    Ok(match code {
        c if c == LD | libc::BPF_ABS => {
            if k >= DATA_LEN || !k.is_multiple_of(4) {
                return Err(Errno::EINVAL);
            }
            Op::LoadData(k)
        }
        c if c == LD | libc::BPF_LEN => Op::LoadImm(DATA_LEN),
        c if c == LDX | libc::BPF_LEN => Op::LoadXImm(DATA_LEN),
        c if c == libc::BPF_LD | libc::BPF_IMM => Op::LoadImm(k),
        c if c == libc::BPF_LDX | libc::BPF_IMM => Op::LoadXImm(k),
        c if c == libc::BPF_LD | libc::BPF_MEM => Op::LoadMem(slot()?),
        c if c == libc::BPF_LDX | libc::BPF_MEM => Op::LoadXMem(slot()?),
        c if c == libc::BPF_ST => Op::Store(slot()?),
        c if c == libc::BPF_STX => Op::StoreX(slot()?),
        c if c == libc::BPF_RET | libc::BPF_K => Op::ReturnK(k),
        c if c == libc::BPF_RET | libc::BPF_A => Op::ReturnA,
        c if c == libc::BPF_MISC | libc::BPF_TAX => Op::ToX,
        c if c == libc::BPF_MISC | libc::BPF_TXA => Op::ToA,
        c if c == libc::BPF_ALU | libc::BPF_NEG => Op::Neg,
        c if c == libc::BPF_JMP | libc::BPF_JA => Op::Jump(k),
        c if c & 7 == libc::BPF_ALU => {
            let (alu, operand) = (alu(c)?, operand(c)?);
            let shift = matches!(alu, Alu::Shl | Alu::Shr) && k >= 32;
            if operand == Operand::K && (alu == Alu::Div && k == 0 || shift) {
                return Err(Errno::EINVAL);
            }
            Op::Alu(alu, operand, k)
        }
        c if c & 7 == libc::BPF_JMP => Op::JumpIf(test(c)?, operand(c)?, k, insn.jt, insn.jf),
        _ => return Err(Errno::EINVAL),
    })
}

/// The operation is in the bits above the source's.
fn alu(code: u32) -> Result<Alu> {
    Ok(match code & !0xf {
        libc::BPF_ADD => Alu::Add,
        libc::BPF_SUB => Alu::Sub,
        libc::BPF_MUL => Alu::Mul,
        libc::BPF_DIV => Alu::Div,
        libc::BPF_AND => Alu::And,
        libc::BPF_OR => Alu::Or,
        libc::BPF_XOR => Alu::Xor,
        libc::BPF_LSH => Alu::Shl,
        libc::BPF_RSH => Alu::Shr,
        _ => return Err(Errno::EINVAL),
    })
}

fn test(code: u32) -> Result<Test> {
    Ok(match code & !0xf {
        libc::BPF_JEQ => Test::Eq,
        libc::BPF_JGT => Test::Gt,
        libc::BPF_JGE => Test::Ge,
        libc::BPF_JSET => Test::Set,
        _ => return Err(Errno::EINVAL),
    })
}

fn operand(code: u32) -> Result<Operand> {
    match code & 8 {
        libc::BPF_K => Ok(Operand::K),
        _ => Ok(Operand::X),
    }
}

/// All jumps stay inside, and the end is a return.
fn check_jumps(ops: &[Op]) -> Result<()> {
    for (pc, op) in ops.iter().enumerate() {
        let left = ops.len() - pc - 1;
        let inside = match *op {
            Op::Jump(k) => (k as usize) < left,
            Op::JumpIf(_, _, _, jt, jf) => usize::from(jt.max(jf)) < left,
            _ => true,
        };
        if !inside {
            return Err(Errno::EINVAL);
        }
    }
    match ops.last() {
        Some(Op::ReturnK(_) | Op::ReturnA) => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// No word of memory is read on any way that has not written it.
fn check_memory(ops: &[Op]) -> Result<()> {
    // The words written on every way to an instruction so far.
    let mut written = vec![u16::MAX; ops.len()];
    let mut now = 0u16;
    for (pc, op) in ops.iter().enumerate() {
        now &= written[pc];
        let mut jump = |by: usize, now: u16| {
            if let Some(to) = written.get_mut(pc + 1 + by) {
                *to &= now;
            }
        };
        match *op {
            Op::Store(m) | Op::StoreX(m) => now |= 1 << m,
            Op::LoadMem(m) | Op::LoadXMem(m) if now & 1 << m == 0 => return Err(Errno::EINVAL),
            Op::Jump(k) => {
                jump(k as usize, now);
                now = u16::MAX;
            }
            Op::JumpIf(_, _, _, jt, jf) => {
                jump(usize::from(jt), now);
                jump(usize::from(jf), now);
                now = u16::MAX;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCH: u32 = 0xc000_003e;

    fn insn(code: u32, k: u32) -> Insn {
        jump(code, k, 0, 0)
    }

    fn jump(code: u32, k: u32, jt: u8, jf: u8) -> Insn {
        let code = code as u16;
        Insn { code, jt, jf, k }
    }

    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const RET: u32 = libc::BPF_RET | libc::BPF_K;
    const RET_A: u32 = libc::BPF_RET | libc::BPF_A;
    const JEQ: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;

    fn data(nr: i32, arg: u64) -> Data {
        Data {
            nr,
            arch: ARCH,
            ip: 0x1_0000_0002,
            args: [arg, 0x3_0000_0004, 0, 0, 0, 6],
        }
    }

    fn result(insns: &[Insn]) -> u32 {
        Program::new(insns).unwrap().run(&data(7, 0x5_0000_0009))
    }

    #[test]
    fn loads() {
        let at = |k| result(&[insn(LOAD, k), insn(RET_A, 0)]);
        let words = [0, 4, 8, 12, 16, 20, 24, 28, 56, 60].map(at);
        assert_eq!(words, [7, ARCH, 2, 1, 9, 5, 4, 3, 6, 0]);
        for bad in [64, 2, 63, u32::MAX] {
            let program = [insn(LOAD, bad), insn(RET_A, 0)];
            assert_eq!(Program::new(&program), Err(Errno::EINVAL), "{bad}");
        }
        let len = libc::BPF_LD | libc::BPF_W | libc::BPF_LEN;
        assert_eq!(result(&[insn(len, 0), insn(RET_A, 0)]), 64);
    }

    #[test]
    fn arithmetic() {
        let op = |code: u32, k: u32| {
            result(&[
                insn(LOAD, 0),
                insn(libc::BPF_ALU | code | libc::BPF_K, k),
                insn(RET_A, 0),
            ])
        };
        assert_eq!(op(libc::BPF_ADD, u32::MAX), 6);
        assert_eq!(op(libc::BPF_SUB, 8), u32::MAX);
        assert_eq!(op(libc::BPF_MUL, 3), 21);
        assert_eq!(op(libc::BPF_DIV, 2), 3);
        assert_eq!(op(libc::BPF_AND, 6), 6);
        assert_eq!(op(libc::BPF_OR, 8), 15);
        assert_eq!(op(libc::BPF_XOR, 1), 6);
        assert_eq!(op(libc::BPF_LSH, 31), 1 << 31);
        assert_eq!(op(libc::BPF_RSH, 1), 3);
        assert_eq!(op(libc::BPF_NEG, 0), 7u32.wrapping_neg());
        // A division by x = 0 ends the program with 0.
        let by_x = insn(libc::BPF_ALU | libc::BPF_DIV | libc::BPF_X, 0);
        assert_eq!(result(&[insn(LOAD, 0), by_x, insn(RET, 5)]), 0);
    }

    #[test]
    fn jumps_and_memory() {
        let program = [
            insn(LOAD, 0),
            insn(libc::BPF_MISC | libc::BPF_TAX, 0),
            insn(libc::BPF_STX, 3),
            insn(libc::BPF_LD | libc::BPF_IMM, 1),
            insn(libc::BPF_LD | libc::BPF_MEM, 3),
            jump(JEQ, 7, 1, 0),
            insn(RET, 1),
            insn(libc::BPF_JMP | libc::BPF_JA, 1),
            insn(RET, 2),
            jump(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_X, 0, 0, 1),
            insn(RET, 3),
            insn(RET, 4),
        ];
        assert_eq!(result(&program), 3);
    }

    #[test]
    fn programs_that_could_misbehave_are_refused() {
        let load_m = |m| insn(libc::BPF_LD | libc::BPF_MEM, m);
        let bad: &[&[Insn]] = &[
            &[],
            &[insn(LOAD, 0)],
            &[jump(JEQ, 0, 0, 1), insn(RET, 0)],
            &[jump(JEQ, 0, 255, 0), insn(RET, 0)],
            &[insn(libc::BPF_JMP | libc::BPF_JA, 1), insn(RET, 0)],
            &[insn(libc::BPF_JMP | libc::BPF_JA, u32::MAX), insn(RET, 0)],
            &[load_m(0), insn(RET, 0)],
            &[load_m(16), insn(RET, 0)],
            &[insn(libc::BPF_ST, 16), insn(RET, 0)],
            &[
                insn(libc::BPF_ALU | libc::BPF_DIV | libc::BPF_K, 0),
                insn(RET, 0),
            ],
            &[
                insn(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, 32),
                insn(RET, 0),
            ],
            &[
                insn(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 3),
                insn(RET, 0),
            ],
            &[
                insn(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0),
                insn(RET, 0),
            ],
            &[
                insn(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 0),
                insn(RET, 0),
            ],
            &[insn(libc::BPF_RET | libc::BPF_X, 0)],
            &[insn(0xffff, 0), insn(RET, 0)],
            // Written on one way only.
            &[
                jump(JEQ, 0, 1, 0),
                insn(libc::BPF_ST, 2),
                load_m(2),
                insn(RET, 0),
            ],
        ];
        for program in bad {
            assert_eq!(Program::new(program), Err(Errno::EINVAL), "{program:?}");
        }
        assert!(Program::new(&[insn(RET, 0); MAX_LEN]).is_ok());
        assert!(Program::new(&[insn(RET, 0); MAX_LEN + 1]).is_err());
        // Written on both.
        let both = [
            jump(JEQ, 0, 1, 0),
            insn(libc::BPF_ST, 2),
            insn(libc::BPF_ST, 2),
            load_m(2),
            insn(RET, 0),
        ];
        assert!(Program::new(&both).is_ok());
    }

    #[test]
    fn what_depends_on_arguments_is_not_constant() {
        // nr 1 is allowed, nr 2 if its first argument is 0, all else not.
        let program = Program::new(&[
            insn(LOAD, 0),
            jump(JEQ, 1, 3, 0),
            jump(JEQ, 2, 0, 3),
            insn(LOAD, 16),
            jump(JEQ, 0, 0, 1),
            insn(RET, 0x7fff_0000),
            insn(RET, 0),
        ])
        .unwrap();
        assert_eq!(program.run_constant(1, ARCH), Some(0x7fff_0000));
        assert_eq!(program.run_constant(2, ARCH), None);
        assert_eq!(program.run_constant(3, ARCH), Some(0));
        assert_eq!(program.run(&data(2, 0)), 0x7fff_0000);
        assert_eq!(program.run(&data(2, 1)), 0);
    }
}
