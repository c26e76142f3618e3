use std::collections::BTreeMap;
use std::fs;

use super::*;

const START: u64 = 0x7f12_3456_7100;
const TAIL: u64 = 0x2_0000_0000;
const SLOT: u32 = 0x6_1238;
const GETPID: u32 = 39;

const BY_NUMBER: [u8; 7] = [0xff, 0x24, 0x25, 0x38, 0x12, 0x06, 0x00];
const ANY: [u8; 7] = [0xff, 0x24, 0xe5, 0x38, 0x12, 0x06, 0x00];

fn hex(text: &str) -> Vec<u8> {
    let byte = |digits| u8::from_str_radix(digits, 16).unwrap();
    text.split_whitespace().map(byte).collect()
}

/// Plans the first `syscall` of the code.
fn plan_code_at(start: u64, code: &str) -> Result<Plan, Refusal> {
    let bytes = hex(code);
    let window = CodeWindow {
        start,
        bytes: &bytes,
    };
    let at = bytes.windows(2).position(|pair| pair == SYSCALL).unwrap();
    plan(window, start + at as u64, GETPID, SLOT, TAIL)
}

fn plan_code(code: &str) -> Result<Plan, Refusal> {
    plan_code_at(START, code)
}

fn decode(bytes: &[u8], at: u64) -> Instruction {
    Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode()
}

#[test]
fn both_jumps_go_through_the_slot() {
    for code in [BY_NUMBER, ANY] {
        let jump = decode(&code, START);
        assert_eq!(jump.len(), JUMP_LEN);
        assert_eq!(jump.code(), iced_x86::Code::Jmp_rm64);
        assert_eq!(jump.memory_base(), iced_x86::Register::None);
        assert_eq!(jump.memory_index(), iced_x86::Register::None);
        assert_eq!(jump.memory_displacement64(), u64::from(SLOT));
        assert!(decode(&code[5..], START).is_invalid());
    }
    assert!(decode(&ANY[2..], START).is_privileged());
}

#[test]
fn instruction_that_loads_the_number_is_replaced() {
    // (name, code, offset of the jump, offset of the syscall, entered)
    let cases = [
        (
            "glibc getpid",
            "b8 27 00 00 00 0f 05 c3 0f 1f 84 00 00 00 00 00",
            0,
            5,
            false,
        ),
        (
            "what follows is of no concern",
            "90 b8 27 00 00 00 0f 05 e8 00 00 00 00",
            1,
            6,
            false,
        ),
        ("at the window's end", "b8 27 00 00 00 0f 05", 0, 5, false),
        (
            "branch to the syscall",
            "b8 27 00 00 00 0f 05 eb fc",
            0,
            5,
            true,
        ),
        (
            "mov $39,%rax",
            "55 48 c7 c0 27 00 00 00 0f 05 5d c3",
            1,
            8,
            false,
        ),
    ];
    for (name, code, start, syscall, entered) in cases {
        let plan = plan_code(code).expect(name);
        let syscall = START + syscall;
        assert_eq!(plan.start, START + start, "{name}");
        assert_eq!((plan.len, plan.code), (JUMP_LEN, BY_NUMBER), "{name}");
        assert_eq!(plan.number, Some(GETPID), "{name}");
        assert_eq!(
            (plan.syscall, plan.resume),
            (syscall, syscall + 2),
            "{name}"
        );
        assert_eq!(plan.entered, entered, "{name}");
        assert!(plan.tail.is_empty(), "{name}");
        for address in plan.start - 1..plan.start + 12 {
            let replaced = address == syscall && address < plan.start + 7;
            let expected = replaced.then_some(Redirect::Syscall);
            assert_eq!(plan.redirect(address), expected, "{name}: {address:#x}");
        }
    }
}

#[test]
fn instruction_that_loads_the_number_is_left_alone() {
    let rest = "0f 05 48 3d 01 f0 ff ff 73 01 c3";
    let cases = [
        ("another number", "b8 28 00 00 00", GETPID),
        ("mov $39,%r8d", "41 b8 27 00 00 00", GETPID),
        ("in a mov of 10 bytes", "48 b8 b8 27 00 00 00", GETPID),
        ("sign-extended", "48 c7 c0 27 00 00 80", 0x8000_0027),
        ("branch into it", "eb 02 b8 27 00 00 00", GETPID),
        ("branch to its end", "eb 05 48 c7 c0 27 00 00 00", GETPID),
    ];
    for (name, code, number) in cases {
        let bytes = hex(&format!("{code} {rest}"));
        let window = CodeWindow {
            start: START,
            bytes: &bytes,
        };
        let at = START + hex(code).len() as u64;
        let plan = plan(window, at, number, SLOT, TAIL).expect(name);
        assert_eq!((plan.number, plan.code), (None, ANY), "{name}");
    }
}

#[test]
fn syscall_and_what_follows_are_replaced() {
    // (name, code, offset of the syscall, bytes claimed, offsets that move, jump back)
    let cases = [
        (
            "glibc syscall()",
            "0f 05 48 3d 01 f0 ff ff 73 01 c3",
            0,
            8,
            &[2][..],
            true,
        ),
        (
            "Go Syscall6",
            "48 8b 44 24 08 0f 05 48 3d 01 f0 ff ff 76 20",
            5,
            8,
            &[2],
            true,
        ),
        ("5 bytes", "0f 05 3d 00 f0 ff ff 77 01", 0, 7, &[2], true),
        ("boundary at 5", "0f 05 48 89 c7 85 ff", 0, 7, &[2, 5], true),
        (
            "and on beyond 7",
            "0f 05 48 89 c7 8b 54 24 10",
            0,
            9,
            &[2, 5],
            true,
        ),
        (
            "musl, nops",
            "0f 05 c3 66 2e 0f 1f 84 00 00 00 00 00",
            0,
            13,
            &[2],
            false,
        ),
        ("musl, int3", "0f 05 c3 cc cc cc cc cc", 0, 7, &[2], false),
        (
            "musl, two nops",
            "0f 05 c3 90 66 0f 1f 44 00 00",
            0,
            10,
            &[2],
            false,
        ),
        (
            "jmp, then padding",
            "0f 05 e9 11 22 33 44",
            0,
            7,
            &[2],
            false,
        ),
        ("jmp *%rax", "0f 05 ff e0 cc cc cc", 0, 7, &[2], false),
        ("jcc", "0f 05 48 85 c0 78 10", 0, 7, &[2, 5], true),
        ("far jcc", "0f 05 0f 88 10 00 00 00", 0, 8, &[2], true),
        (
            "code that only a trap reaches",
            "0f 05 41 ff e3 90 90",
            0,
            7,
            &[2],
            false,
        ),
        (
            "reached by a branch",
            "eb 05 0f 05 41 ff e3 31 c0 c3",
            2,
            7,
            &[2, 5],
            true,
        ),
    ];
    for (name, code, at, len, moved, back) in cases {
        let plan = plan_code(code).expect(name);
        let bytes = hex(code);
        let syscall = START + at as u64;
        assert_eq!((plan.start, plan.syscall), (syscall, syscall), "{name}");
        assert_eq!((plan.len, plan.code), (len, ANY), "{name}");
        assert_eq!((plan.number, plan.resume), (None, TAIL), "{name}");
        assert!(plan.tail.len() <= TAIL_MAX, "{name}");
        for offset in 0..16 {
            let address = syscall + offset as u64;
            let redirect = plan.redirect(address);
            if !moved.contains(&offset) {
                assert_eq!(redirect, None, "{name}: {offset}");
                continue;
            }
            let Some(Redirect::To(place)) = redirect else {
                panic!("{name}: {offset}: {redirect:?}");
            };
            assert_eq!(plan.guest_address(place), Some(address), "{name}");
            let old = decode(&bytes[at + offset..], address);
            let new = decode(&plan.tail[(place - TAIL) as usize..], place);
            assert_same_instruction(name, &old, &new, &plan);
        }
        let end = syscall + len as u64;
        assert_eq!(ends_with_jump_to(&plan.tail, end), back, "{name}");
    }
}

fn ends_with_jump_to(tail: &[u8], target: u64) -> bool {
    let jump = tail.len() - 14.min(tail.len());
    tail.len() >= 14
        && tail[jump..jump + 6] == hex("ff 25 00 00 00 00")
        && tail[jump + 6..] == target.to_le_bytes()
}

/// The new instruction, at its place in the tail, does what the old one does.
fn assert_same_instruction(name: &str, old: &Instruction, new: &Instruction, plan: &Plan) {
    if old.op0_kind() != OpKind::NearBranch64 {
        assert_eq!(old, new, "{name}");
        return;
    }
    let target = old.near_branch_target();
    let mut jump = (new.ip() - TAIL) as usize;
    if old.flow_control() == FlowControl::ConditionalBranch {
        let mut short = *old;
        short.as_short_branch();
        assert_eq!(short.code(), new.code(), "{name}");
        let over = decode(&plan.tail[jump + new.len()..], new.next_ip());
        assert_eq!(over.code(), iced_x86::Code::Jmp_rel8_64, "{name}");
        assert_eq!(plan.guest_address(over.ip()), Some(old.next_ip()));
        assert_eq!(new.near_branch_target(), over.next_ip(), "{name}");
        jump = (over.next_ip() - TAIL) as usize;
        assert_eq!(over.near_branch_target(), TAIL + jump as u64 + 14, "{name}");
        assert_eq!(plan.guest_address(over.next_ip()), Some(target));
    }
    assert!(ends_with_jump_to(&plan.tail[..jump + 14], target), "{name}");
}

#[test]
fn operand_relative_to_rip_follows() {
    // mov 0x1000(%rip),%eax
    let code = hex("0f 05 8b 05 00 10 00 00");
    let window = CodeWindow {
        start: START,
        bytes: &code,
    };
    for (distance, reachable) in [(0x10_0000, true), (0x7fff_0000, true), (0x8000_1000, false)] {
        let tail_at = START - distance;
        let plan = plan(window, START, GETPID, SLOT, tail_at);
        if !reachable {
            assert_eq!(plan, Err(Refusal::TooFar(2)));
            continue;
        }
        let plan = plan.unwrap();
        let (old, new) = (decode(&code[2..], START + 2), decode(&plan.tail, tail_at));
        assert_eq!(old.code(), new.code());
        assert_eq!(old.op0_register(), new.op0_register());
        assert_eq!(old.ip_rel_memory_address(), new.ip_rel_memory_address());
        assert_ne!(old.ip_rel_memory_address(), 0);
    }
}

#[test]
fn refusals() {
    use Refusal::*;
    let cases = [
        ("0f 05 5b 48 3d 01 f0 ff ff", Boundary(3), "boundary at 3"),
        (
            "0f 05 89 c7 48 3d 01 f0 ff ff",
            Boundary(4),
            "boundary at 4",
        ),
        ("0f 05 83 7c 24 00", WindowEnd, "instruction goes on"),
        ("0f 05 8b 44 24 08 c3", Boundary(6), "boundary at 6"),
        ("0f 05 c3 55 48 89 e5", Boundary(3), "function after ret"),
        ("0f 05 c3 f3 0f 1e fa", Boundary(3), "endbr64 after ret"),
        ("0f 05 c3 90 90 90", WindowEnd, "padding ends too early"),
        ("0f 05", WindowEnd, "nothing after the syscall"),
        ("0f 05 e8 00 01 00 00", Immovable(2), "call"),
        ("0f 05 41 ff d3 90 90", Immovable(2), "call *%r11"),
        ("0f 05 48 89 c7 0f 05", Immovable(5), "second syscall"),
        ("0f 05 48 89 c7 0f 34", Immovable(5), "sysenter"),
        ("0f 05 48 89 c7 cd 80", Immovable(5), "int 0x80"),
        ("0f 05 48 89 c7 cc 90", Immovable(5), "int3"),
        ("0f 05 48 89 c7 0f 0b", Immovable(5), "ud2"),
        ("0f 05 f4 90 90 90 90", Immovable(2), "hlt"),
        ("0f 05 48 cf 90 90 90", Immovable(2), "iretq"),
        ("0f 05 c7 f8 00 00 00 00", Immovable(2), "xbegin"),
        ("0f 05 06 90 90 90 90", Undecodable(2), "not an instruction"),
        ("0f 05 8b 05 00 00 00 00", TooFar(2), "relative to rip"),
        ("48 0f 05 48 3d 01 f0 ff ff", Prefixed, "syscall with REX.W"),
        (
            "0f 05 48 3d 01 f0 ff ff eb f9",
            BranchInto(3),
            "branch back",
        ),
        (
            "eb 04 0f 05 48 3d 01 f0 ff ff",
            BranchInto(4),
            "branch ahead",
        ),
        (
            "0f 05 48 3d 01 f0 ff ff 0f 84 f8 ff ff ff",
            BranchInto(6),
            "far branch",
        ),
        (
            "0f 05 48 3d 01 f0 ff ff e8 f6 ff ff ff",
            BranchInto(3),
            "call of it",
        ),
        ("0f 05 48 3d 01 f0 ff ff e2 f9", BranchInto(3), "loop"),
        (
            "0f 05 48 3d 01 f0 ff ff c7 f8 f7 ff ff ff",
            BranchInto(5),
            "xbegin's abort",
        ),
        (
            "0f 05 c3 90 90 90 90 eb fb",
            Boundary(4),
            "branch to padding",
        ),
        (
            "0f 05 48 89 c7 eb fb",
            BranchInto(5),
            "tail that jumps to itself",
        ),
        // The syscall is known to begin an instruction, what seems to hold it is none.
        (
            "b8 eb 04 0f 05 48 3d 01 f0 ff ff",
            BranchInto(4),
            "branch in doubt ahead",
        ),
        // 06 is no instruction, so any byte after it may begin one.
        (
            "0f 05 48 3d 01 f0 ff ff 06 b8 eb f7 00 00",
            BranchInto(3),
            "branch in doubtful code",
        ),
    ];
    for (code, refusal, name) in cases {
        assert_eq!(plan_code(code), Err(refusal), "{name}");
    }
}

#[test]
fn branches_to_trapping_places_are_redirected() {
    for (code, at) in [
        ("eb 02 0f 05 48 3d 01 f0 ff ff", 2),
        ("0f 05 48 89 c7 48 01 f8 eb fb", 5),
    ] {
        let plan = plan_code(code).expect(code);
        assert!(plan.entered);
        let redirect = plan.redirect(plan.start + at);
        assert!(matches!(redirect, Some(Redirect::To(_))), "{code}");
    }
}

#[test]
fn window_must_hold_the_syscall() {
    let code = hex("90 0f 05 48 3d 01 f0 ff ff");
    let with = |start, at, slot| {
        let window = CodeWindow {
            start,
            bytes: &code,
        };
        plan(window, at, GETPID, slot, TAIL)
    };
    assert!(with(START, START + 1, SLOT).is_ok());
    assert_eq!(with(START, START, SLOT), Err(Refusal::NotSyscall));
    assert_eq!(with(START, START + 8, SLOT), Err(Refusal::NotSyscall));
    assert_eq!(with(START, START + 9, SLOT), Err(Refusal::WindowEnd));
    assert_eq!(with(START, START - 1, SLOT), Err(Refusal::WindowEnd));
    let top = u64::MAX - 4;
    assert_eq!(with(top, top + 1, SLOT), Err(Refusal::WindowEnd));
    for slot in [SLOTS.start - 8, SLOTS.end, SLOT + 4] {
        assert_eq!(with(START, START + 1, slot), Err(Refusal::Slot));
    }
    for slot in [SLOTS.start, SLOTS.end - 8] {
        let plan = with(START, START + 1, slot).unwrap();
        assert_eq!(plan.code[5..], [0x06, 0x00]);
    }
}

#[test]
fn seven_bytes_stay_on_one_page() {
    let code = "0f 05 48 3d 01 f0 ff ff 73 01 c3";
    for (start, fits) in [
        (0x1ff9, true),
        (0x1ffa, false),
        (0x1fff, false),
        (0x2000, true),
    ] {
        let plan = plan_code_at(start, code);
        assert_eq!(plan.is_ok(), fits, "{start:#x}");
        assert!(fits || plan == Err(Refusal::PageCrossing));
    }
    // Where the longer form crosses, the other one is taken.
    let plan = plan_code_at(0x1ffb, &format!("b8 27 00 00 00 {code}")).unwrap();
    assert_eq!((plan.start, plan.number), (0x2000, None));
}

#[test]
fn padding_where_a_function_may_begin_is_not_padding() {
    let code = "0f 05 c3 90 90 90 90";
    assert!(plan_code_at(0x1000, code).is_ok());
    assert_eq!(plan_code_at(0x100c, code), Err(Refusal::Boundary(4)));
    // Where it traps, it may move.
    let plan = plan_code_at(0x100b, "0f 05 c3 90 90 66 90").unwrap();
    assert!(plan.redirect(0x1010).is_some());
}

/// Without knowing where in the window instructions begin.
#[test]
fn far_into_a_window_decoders_have_to_agree() {
    let filler = "48 89 c7 ".repeat(40);
    let rest = "0f 05 48 3d 01 f0 ff ff";
    let plan = plan_code(&format!("{filler} b8 27 00 00 00 {rest}")).unwrap();
    assert_eq!(plan.number, Some(GETPID));
    let plan = plan_code(&format!("{filler} 41 b8 27 00 00 00 {rest}")).unwrap();
    assert_eq!(plan.number, None);
    // `mov $0xb8b8b8b8,%eax` all over, in one of five ways.
    let filler = "b8 ".repeat(120);
    let plan = plan_code(&format!("{filler} 27 00 00 00 {rest}")).unwrap();
    assert_eq!(plan.number, None);
    // Here some decoders, the first of them too, see the right one at the end.
    let plan = plan_code(&format!("{filler} 0f 1f 40 00 b8 27 00 00 00 {rest}")).unwrap();
    assert_eq!(plan.number, None);
}

struct Random(u64);

impl Random {
    /// Xorshift, good enough here.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn any_bytes_give_a_plan_or_a_refusal() {
    let pieces = [
        "b8 27 00 00 00",
        "c3",
        "90",
        "cc",
        "0f 05",
        "eb",
        "74",
        "e8",
        "48 89 c7",
        "e2",
        "67 e3",
        "3d 01 f0 ff ff",
        "8b 05",
        "48",
        "06",
        "00",
        "ff",
        "66 0f 1f 44 00 00",
        "3e 75",
        "f2 e9",
    ];
    let pieces = pieces.map(hex);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut plans = 0;
    for round in 0..20_000 {
        let mut bytes = Vec::new();
        let len = random.below(240);
        while bytes.len() < len {
            match random.below(4) {
                0 => bytes.push(random.next() as u8),
                _ => bytes.extend(&pieces[random.below(pieces.len())]),
            }
        }
        let at = random.below(bytes.len() + 1);
        bytes.splice(at..at, SYSCALL);
        let start = match round % 4 {
            0 => random.next(),
            1 => u64::MAX - random.below(300) as u64,
            _ => START + random.below(4096) as u64,
        };
        let window = CodeWindow {
            start,
            bytes: &bytes,
        };
        let tail_at = match round % 3 {
            0 => random.next(),
            _ => start.wrapping_add(random.next() >> 34),
        };
        let syscall_at = start.wrapping_add(at as u64);
        let Ok(plan) = plan(window, syscall_at, GETPID, SLOT, tail_at) else {
            continue;
        };
        plans += 1;
        assert_plan_holds(window, &plan);
    }
    assert!(plans > 1000, "{plans} plans");
}

/// What every plan promises.
fn assert_plan_holds(window: CodeWindow<'_>, plan: &Plan) {
    assert!(plan.len >= JUMP_LEN && plan.tail.len() <= TAIL_MAX);
    assert!(plan.start % PAGE_SIZE <= PAGE_SIZE - 7);
    let start = (plan.start - window.start) as usize;
    assert!(start + plan.len <= window.bytes.len());
    assert_eq!(decode(&plan.code, plan.start).len(), JUMP_LEN);
    if plan.number.is_some() {
        assert!(plan.tail.is_empty());
        return;
    }
    assert_eq!(
        plan.redirect(plan.syscall + 2),
        Some(Redirect::To(plan.tail_at))
    );
    for offset in 1..JUMP_LEN as u64 {
        let redirect = plan.redirect(plan.start + offset);
        assert!(redirect.is_none() || matches!(offset, 2 | 5));
    }
    // All instructions of the tail are known.
    let mut at = 0;
    while at < plan.tail.len() {
        let address = plan.tail_at.wrapping_add(at as u64);
        let instruction = decode(&plan.tail[at..], address);
        assert!(!instruction.is_invalid());
        assert!(plan.guest_address(address).is_some());
        let far = plan.tail[at..].starts_with(&[0xff, 0x25, 0, 0, 0, 0]);
        at += if far { FAR_JUMP_LEN } else { instruction.len() };
    }
    assert_eq!(at, plan.tail.len());
}

/// The C library of this machine: most of its calls can be jumps.
#[test]
fn most_of_libc_can_be_replaced() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let text = maps
        .lines()
        .find(|line| line.contains("r-xp") && line.ends_with("/libc.so.6"))
        .expect("no libc.so.6 here");
    let fields: Vec<&str> = text.split_whitespace().collect();
    let number = |digits| u64::from_str_radix(digits, 16).unwrap();
    let (start, end) = fields[0].split_once('-').unwrap();
    let (start, end, offset) = (number(start), number(end), number(fields[2]) as usize);
    let file = fs::read(fields[5]).unwrap();
    let code = CodeWindow {
        start,
        bytes: &file[offset..][..(end - start) as usize],
    };

    let (mut by_number, mut any, mut entered) = (0, 0, 0);
    let mut refusals = BTreeMap::<String, u32>::new();
    let mut at = 0;
    while at < code.bytes.len() {
        let Ok(instruction) = code.decode(at) else {
            at += 1;
            continue;
        };
        if instruction.code() == iced_x86::Code::Syscall {
            // What the caller would know: the number in eax, and the code around.
            let loaded = code.bytes[at - 4..at].try_into().unwrap();
            let from = at - at.min(REACH);
            let window = CodeWindow {
                start: start + from as u64,
                bytes: &code.bytes[from..code.bytes.len().min(at + REACH)],
            };
            let number = u32::from_le_bytes(loaded);
            match plan(window, start + at as u64, number, SLOT, TAIL) {
                Ok(plan) => {
                    assert_plan_holds(window, &plan);
                    match plan.number {
                        Some(_) => by_number += 1,
                        None => any += 1,
                    }
                    entered += u32::from(plan.entered && plan.number.is_none());
                }
                Err(refusal) => {
                    *refusals.entry(refusal.to_string()).or_default() += 1;
                }
            }
        }
        at += instruction.len();
    }
    let refused: u32 = refusals.values().sum();
    let plans = by_number + any;
    println!("{by_number} with their number, {any} with what follows ({entered} entered)");
    println!("{refused} refused: {refusals:#?}");
    assert!(plans > 100, "only {plans} calls found");
    assert!(plans > refused);
}
