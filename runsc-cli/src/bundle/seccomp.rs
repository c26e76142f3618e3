//! `linux.seccomp` as the program of a filter, which the Sentry applies to the guest's calls.
//!
//! The meaning is that of libseccomp as runc uses it: of several rules for a call one without
//! arguments counts, else the first that matches, else the default action. Names that the guest's
//! architecture does not have are left out. A call newer than all that the profile names fails with
//! ENOSYS instead of a default action that refuses, so that programs fall back as on an older kernel.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::{
    Arch as ProfileArch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg,
    LinuxSeccompFilterFlag as Flag, LinuxSeccompOperator as Operator, LinuxSyscall,
};
use runsc_sentry::{
    config::{Insn, SeccompConfig},
    kernel::seccomp::{ALLOW, ARCH, ERRNO, KILL_PROCESS, KILL_THREAD, LOG, TRACE, TRAP},
};
use runsc_syscall_tables::{Arch, by_name};

/// Actions a profile may have, as `features` tells them: all but SCMP_ACT_NOTIFY. An agent outside
/// would need a listener's fd of the host, which answers for calls that the host never sees.
pub const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
/// Conditions on arguments.
pub const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
/// Flags that are honoured, some because they make no difference here.
pub const FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
];

/// Most instructions of a program (linux/bpf_common.h).
const MAX_LEN: usize = 4096;
/// Offsets in struct seccomp_data (linux/seccomp.h).
const NR: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGS: u32 = 16;

/// Conditions that must all hold, and what the call is answered with then.
#[derive(Debug, Clone)]
struct Rule {
    args: Vec<LinuxSeccompArg>,
    answer: u32,
}

pub fn translate(profile: &LinuxSeccomp) -> Result<SeccompConfig> {
    for flag in profile.flags().iter().flatten() {
        match flag {
            Flag::SeccompFilterFlagLog => {}
            // The first process has one thread, and no speculation is switched off for it.
            Flag::SeccompFilterFlagTsync | Flag::SeccompFilterFlagSpecAllow => {}
            Flag::SeccompFilterFlagWaitKillableRecv => {
                bail!("flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: needs SCMP_ACT_NOTIFY")
            }
        }
    }
    ensure!(
        profile.listener_path().is_none(),
        "listenerPath: no listeners are supported"
    );
    ensure!(
        profile.listener_metadata().is_none(),
        "listenerMetadata: no listeners are supported"
    );
    let default =
        answer(profile.default_action(), profile.default_errno_ret()).context("defaultAction")?;
    let mut rules: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for (index, call) in profile.syscalls().iter().flatten().enumerate() {
        add(call, default, &mut rules).with_context(|| format!("syscalls[{index}]"))?;
    }
    let named = profile
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|call| call.names());
    // As in runc, only for the architectures that the profile lists.
    let listed = profile.architectures().iter().flatten();
    let native = listed
        .into_iter()
        .any(|arch| matches!(arch, ProfileArch::ScmpArchX86_64));
    let newest = named
        .filter_map(|name| number(name))
        .max()
        .filter(|_| native);
    let program = program(&rules, default, newest);
    ensure!(
        program.len() <= MAX_LEN,
        "{} instructions, more than {MAX_LEN}",
        program.len()
    );
    Ok(SeccompConfig {
        program,
        log: profile
            .flags()
            .iter()
            .flatten()
            .any(|flag| matches!(flag, Flag::SeccompFilterFlagLog)),
    })
}

fn number(name: &str) -> Option<u32> {
    by_name(name)?.number(Arch::X86_64)
}

fn answer(action: Action, errno: Option<u32>) -> Result<u32> {
    let data = errno.unwrap_or(libc::EPERM as u32);
    ensure!(data <= 0xffff, "errnoRet: {data}: out of range");
    let takes_errno = matches!(action, Action::ScmpActErrno | Action::ScmpActTrace);
    ensure!(
        errno.is_none() || takes_errno,
        "errnoRet: not with this action"
    );
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => KILL_THREAD,
        Action::ScmpActKillProcess => KILL_PROCESS,
        Action::ScmpActTrap => TRAP,
        Action::ScmpActErrno => ERRNO | data,
        Action::ScmpActTrace => TRACE | data,
        Action::ScmpActLog => LOG,
        Action::ScmpActAllow => ALLOW,
        Action::ScmpActNotify => bail!("SCMP_ACT_NOTIFY: no listeners are supported"),
    })
}

fn add(call: &LinuxSyscall, default: u32, rules: &mut BTreeMap<u32, Vec<Rule>>) -> Result<()> {
    let answer = answer(call.action(), call.errno_ret())?;
    let args = call.args().as_deref().unwrap_or_default();
    for arg in args {
        ensure!(arg.index() < 6, "args: index {}: out of range", arg.index());
    }
    let mut indices: Vec<_> = args.iter().map(LinuxSeccompArg::index).collect();
    indices.sort_unstable();
    indices.dedup();
    // Two conditions on one argument: each is a rule of its own, as in runc.
    let alternatives: Vec<Vec<_>> = if indices.len() < args.len() {
        args.iter().map(|arg| vec![*arg]).collect()
    } else {
        vec![args.to_vec()]
    };
    for name in call.names() {
        let Some(number) = number(name) else {
            log::debug!("linux.seccomp: no call {name:?} on this architecture");
            continue;
        };
        // It changes nothing, and libseccomp takes no such rule.
        if answer == default {
            continue;
        }
        let of_call = rules.entry(number).or_default();
        if of_call.iter().any(|rule| rule.args.is_empty()) {
            continue;
        }
        if args.is_empty() {
            of_call.clear();
        }
        of_call.extend(alternatives.iter().map(|args| Rule {
            args: args.clone(),
            answer,
        }));
    }
    Ok(())
}

fn program(rules: &BTreeMap<u32, Vec<Rule>>, default: u32, newest: Option<u32>) -> Vec<Insn> {
    let mut code = vec![
        load(ARCH_AT),
        jump(libc::BPF_JEQ, ARCH, 1, 0),
        ret(KILL_PROCESS),
        load(NR),
    ];
    let refuses = !matches!(default & 0xffff_0000, ALLOW | LOG | TRACE);
    if let Some(newest) = newest.filter(|_| refuses) {
        code.push(jump(libc::BPF_JGT, newest, 0, 1));
        code.push(ret(ERRNO | libc::ENOSYS as u32));
    }
    for (number, rules) in rules {
        let body = body(rules, default);
        match u8::try_from(body.len()) {
            Ok(len) => code.push(jump(libc::BPF_JEQ, *number, 0, len)),
            Err(_) => {
                code.push(jump(libc::BPF_JEQ, *number, 1, 0));
                code.push(stmt(libc::BPF_JMP | libc::BPF_JA, body.len() as u32));
            }
        }
        code.extend(body);
    }
    code.push(ret(default));
    code
}

/// What a call is answered with; does not fall through.
fn body(rules: &[Rule], default: u32) -> Vec<Insn> {
    let mut code = Vec::new();
    for rule in rules {
        let checks: Vec<Vec<Check>> = rule.args.iter().map(checks).collect();
        let mut blocks: Vec<Vec<Insn>> = Vec::new();
        // From the end on: where a failed condition goes depends on what follows it.
        let mut below = 1;
        for arg in checks.iter().rev() {
            let block = emit(arg, below);
            below += block.len();
            blocks.push(block);
        }
        code.extend(blocks.into_iter().rev().flatten());
        code.push(ret(rule.answer));
    }
    if rules.iter().all(|rule| !rule.args.is_empty()) {
        code.push(ret(default));
    }
    code
}

/// Where a comparison of one half of an argument leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// The condition holds.
    Pass,
    /// It does not.
    Fail,
    /// The next comparison decides.
    Next,
}

/// A comparison of one half.
#[derive(Debug, Clone, Copy)]
struct Check {
    at: u32,
    /// Applied first.
    mask: Option<u32>,
    op: u32,
    with: u32,
    yes: To,
    no: To,
}

/// An argument is 64 bits wide and the machine 32: the upper half decides, then the lower.
fn checks(arg: &LinuxSeccompArg) -> Vec<Check> {
    use To::{Fail, Next, Pass};
    let at = ARGS + 8 * arg.index() as u32;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (high, low) = halves(arg.value());
    let check = |at, op, with, yes, no| Check {
        at,
        mask: None,
        op,
        with,
        yes,
        no,
    };
    let (jeq, jgt, jge) = (libc::BPF_JEQ, libc::BPF_JGT, libc::BPF_JGE);
    let upper = at + 4;
    match arg.op() {
        Operator::ScmpCmpEq => vec![
            check(upper, jeq, high, Next, Fail),
            check(at, jeq, low, Pass, Fail),
        ],
        Operator::ScmpCmpNe => vec![
            check(upper, jeq, high, Next, Pass),
            check(at, jeq, low, Fail, Pass),
        ],
        // Above: yes or no at once; not equal either: the other; equal: the lower half.
        Operator::ScmpCmpGt => vec![
            check(upper, jgt, high, Pass, Next),
            check(upper, jeq, high, Next, Fail),
            check(at, jgt, low, Pass, Fail),
        ],
        Operator::ScmpCmpGe => vec![
            check(upper, jgt, high, Pass, Next),
            check(upper, jeq, high, Next, Fail),
            check(at, jge, low, Pass, Fail),
        ],
        Operator::ScmpCmpLt => vec![
            check(upper, jgt, high, Fail, Next),
            check(upper, jeq, high, Next, Pass),
            check(at, jge, low, Fail, Pass),
        ],
        Operator::ScmpCmpLe => vec![
            check(upper, jgt, high, Fail, Next),
            check(upper, jeq, high, Next, Pass),
            check(at, jgt, low, Fail, Pass),
        ],
        // `value` is the mask here, `valueTwo` what is left.
        Operator::ScmpCmpMaskedEq => {
            let (mask_high, mask_low) = (high, low);
            let (high, low) = halves(arg.value_two().unwrap_or(0));
            vec![
                Check {
                    mask: Some(mask_high),
                    ..check(upper, jeq, high, Next, Fail)
                },
                Check {
                    mask: Some(mask_low),
                    ..check(at, jeq, low, Pass, Fail)
                },
            ]
        }
    }
}

/// The checks of one argument. It goes on behind the block if they pass, else `below` instructions
/// further.
fn emit(checks: &[Check], below: usize) -> Vec<Insn> {
    let len = |check: &Check| 2 + usize::from(check.mask.is_some());
    let mut left: usize = checks.iter().map(len).sum();
    let mut code = Vec::new();
    for check in checks {
        left -= len(check);
        code.push(load(check.at));
        if let Some(mask) = check.mask {
            code.push(stmt(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask));
        }
        // At most six arguments of nine instructions each: it fits.
        let by = |to: To| match to {
            To::Next => 0,
            To::Pass => left as u8,
            To::Fail => (left + below) as u8,
        };
        code.push(jump(check.op, check.with, by(check.yes), by(check.no)));
    }
    code
}

fn stmt(code: u32, k: u32) -> Insn {
    Insn {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn load(at: u32) -> Insn {
    stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

fn ret(answer: u32) -> Insn {
    stmt(libc::BPF_RET | libc::BPF_K, answer)
}

fn jump(op: u32, k: u32, jt: u8, jf: u8) -> Insn {
    Insn {
        code: (libc::BPF_JMP | op | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests {
    use runsc_sentry::kernel::seccomp::bpf::{Data, Program};
    use serde_json::{Value, json};

    use super::*;

    fn config(profile: Value) -> Result<SeccompConfig> {
        translate(&serde_json::from_value(profile).unwrap())
    }

    /// The answers for calls of `number` with these first and second arguments.
    fn answers(profile: Value, number: i64, args: &[(u64, u64)]) -> Vec<u32> {
        let program = Program::new(&config(profile).unwrap().program).unwrap();
        let run = |(first, second): &(u64, u64)| {
            program.run(&Data {
                nr: number as i32,
                arch: ARCH,
                ip: 0,
                args: [*first, *second, 0, 0, 0, 0],
            })
        };
        args.iter().map(run).collect()
    }

    #[test]
    fn operators_compare_all_64_bits() {
        const BIG: u64 = 0x2_0000_0005;
        let around = [
            0,
            5,
            BIG - (1 << 32),
            BIG - 1,
            BIG,
            BIG + 1,
            BIG + (1 << 32),
            u64::MAX,
        ];
        type Holds = fn(u64) -> bool;
        let cases: [(&str, Holds); 6] = [
            ("SCMP_CMP_EQ", |a| a == BIG),
            ("SCMP_CMP_NE", |a| a != BIG),
            ("SCMP_CMP_LT", |a| a < BIG),
            ("SCMP_CMP_LE", |a| a <= BIG),
            ("SCMP_CMP_GT", |a| a > BIG),
            ("SCMP_CMP_GE", |a| a >= BIG),
        ];
        for (op, holds) in cases {
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
                "names": ["close"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7,
                "args": [{"index": 1, "value": BIG, "op": op}],
            }]});
            let args = around.map(|value| (0, value));
            let expected = around.map(|value| if holds(value) { ERRNO | 7 } else { ALLOW });
            assert_eq!(answers(profile, libc::SYS_close, &args), expected, "{op}");
        }
        let masked = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
            "names": ["clone"], "action": "SCMP_ACT_TRAP",
            "args": [{"index": 0, "value": 0x1_0000_00f0u64, "valueTwo": 0x1_0000_0010u64,
                      "op": "SCMP_CMP_MASKED_EQ"}],
        }]});
        let args = [0x1_0000_001f, 0x1_0000_0020, 0x10, 0xff_0000_0010].map(|a| (a, 0));
        let expected = [TRAP, ALLOW, ALLOW, TRAP];
        assert_eq!(answers(masked, libc::SYS_clone, &args), expected);
    }

    #[test]
    fn conditions_of_a_rule_must_all_hold() {
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["close"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_GE"},
                {"index": 1, "value": 2, "op": "SCMP_CMP_NE"}]},
            {"names": ["close"], "action": "SCMP_ACT_LOG", "args": [
                {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]},
        ]});
        let args = [(1, 0), (0, 0), (1, 2), (0, 2), (9, 9)];
        let expected = [ALLOW, ERRNO | 1, LOG, LOG, ALLOW];
        assert_eq!(answers(profile, libc::SYS_close, &args), expected);
        // Of two conditions on one argument one suffices.
        let either = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["close"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                {"index": 0, "value": 3, "op": "SCMP_CMP_EQ"}]},
        ]});
        let args = [(1, 0), (2, 0), (3, 0)];
        assert_eq!(
            answers(either, libc::SYS_close, &args),
            [ALLOW, ERRNO | 1, ALLOW]
        );
    }

    #[test]
    fn a_rule_without_conditions_counts_for_all() {
        let rule =
            |action: &str, args: Value| json!({"names": ["close"], "action": action, "args": args});
        let conditional = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]);
        for rules in [
            [
                rule("SCMP_ACT_KILL", json!([])),
                rule("SCMP_ACT_TRAP", conditional.clone()),
            ],
            [
                rule("SCMP_ACT_TRAP", conditional),
                rule("SCMP_ACT_KILL", json!([])),
            ],
        ] {
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
            let seen = answers(profile, libc::SYS_close, &[(1, 0), (2, 0)]);
            assert_eq!(seen, [KILL_THREAD, KILL_THREAD]);
        }
    }

    #[test]
    fn actions_and_defaults() {
        let actions = [
            ("SCMP_ACT_KILL", KILL_THREAD),
            ("SCMP_ACT_KILL_PROCESS", KILL_PROCESS),
            ("SCMP_ACT_TRAP", TRAP),
            ("SCMP_ACT_ERRNO", ERRNO | 1),
            ("SCMP_ACT_TRACE", TRACE | 1),
            ("SCMP_ACT_LOG", LOG),
        ];
        for (name, expected) in actions {
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["nosuchcall", "mkdir"], "action": name}]});
            assert_eq!(answers(profile, libc::SYS_mkdir, &[(0, 0)]), [expected]);
        }
        // Newer than anything named is ENOSYS, if the default refuses.
        let profile = |default: &str| {
            json!({"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
            {"names": ["openat2"], "action": "SCMP_ACT_KILL"}]})
        };
        let newer = libc::SYS_openat2 + 1;
        assert_eq!(
            answers(profile("SCMP_ACT_ERRNO"), newer, &[(0, 0)]),
            [ERRNO | 38]
        );
        assert_eq!(
            answers(profile("SCMP_ACT_ERRNO"), 3, &[(0, 0)]),
            [ERRNO | 1]
        );
        assert_eq!(
            answers(profile("SCMP_ACT_ALLOW"), newer, &[(0, 0)]),
            [ALLOW]
        );
        let own = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5});
        assert_eq!(answers(own, 3, &[(0, 0)]), [ERRNO | 5]);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let cases = [
            (
                json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
                "SCMP_ACT_NOTIFY",
            ),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
                "errnoRet",
            ),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}),
                "listenerPath",
            ),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["close"],
                    "action": "SCMP_ACT_TRAP", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
                "index 6",
            ),
        ];
        for (profile, word) in cases {
            let error = format!("{:#}", config(profile).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn many_calls_with_many_conditions() {
        let rules: Vec<_> = (0..60)
            .map(|value| {
                json!({"names": ["ioctl"], "action": "SCMP_ACT_ALLOW",
                       "args": [{"index": 1, "value": value * 2, "op": "SCMP_CMP_EQ"}]})
            })
            .collect();
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules});
        let args: Vec<_> = (0..8).map(|value| (0, value + 112)).collect();
        let seen = answers(profile, libc::SYS_ioctl, &args);
        let (yes, no) = (ALLOW, ERRNO | 1);
        assert_eq!(seen, [yes, no, yes, no, yes, no, yes, no]);
    }
}
