//! /proc/cpuinfo, from what CPUID tells user programs.
//!
//! Only features that a program can see are named: the guest has the host's processor, but not what
//! Linux derives for its own use (bugs, power management).

use std::fmt::Write;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use runsc_platform::host::{cpuid, time_stamp};

/// Leaf, sub-leaf, register (0: eax) and bits with Linux's names, in the order Linux lists them.
type Word = (u32, u32, usize, &'static [(u32, &'static str)]);

const WORDS: &[Word] = &[
    (
        1,
        0,
        3,
        &[
            (0, "fpu"),
            (1, "vme"),
            (2, "de"),
            (3, "pse"),
            (4, "tsc"),
            (5, "msr"),
            (6, "pae"),
            (7, "mce"),
            (8, "cx8"),
            (9, "apic"),
            (11, "sep"),
            (12, "mtrr"),
            (13, "pge"),
            (14, "mca"),
            (15, "cmov"),
            (16, "pat"),
            (17, "pse36"),
            (18, "pn"),
            (19, "clflush"),
            (21, "dts"),
            (22, "acpi"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
            (27, "ss"),
            (28, "ht"),
            (29, "tm"),
            (30, "ia64"),
            (31, "pbe"),
        ],
    ),
    (
        0x8000_0001,
        0,
        3,
        &[
            (11, "syscall"),
            (19, "mp"),
            (20, "nx"),
            (22, "mmxext"),
            (25, "fxsr_opt"),
            (26, "pdpe1gb"),
            (27, "rdtscp"),
            (29, "lm"),
            (30, "3dnowext"),
            (31, "3dnow"),
        ],
    ),
    (0x8000_0007, 0, 3, &[(8, "constant_tsc")]),
    (0x8000_0007, 0, 3, &[(8, "nonstop_tsc")]),
    (
        1,
        0,
        2,
        &[
            (0, "pni"),
            (1, "pclmulqdq"),
            (2, "dtes64"),
            (3, "monitor"),
            (4, "ds_cpl"),
            (7, "est"),
            (8, "tm2"),
            (9, "ssse3"),
            (10, "cid"),
            (11, "sdbg"),
            (12, "fma"),
            (13, "cx16"),
            (14, "xtpr"),
            (15, "pdcm"),
            (17, "pcid"),
            (18, "dca"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (21, "x2apic"),
            (22, "movbe"),
            (23, "popcnt"),
            (24, "tsc_deadline_timer"),
            (25, "aes"),
            (26, "xsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
            (31, "hypervisor"),
        ],
    ),
    (
        0x8000_0001,
        0,
        2,
        &[
            (0, "lahf_lm"),
            (1, "cmp_legacy"),
            (3, "extapic"),
            (4, "cr8_legacy"),
            (5, "abm"),
            (6, "sse4a"),
            (7, "misalignsse"),
            (8, "3dnowprefetch"),
            (9, "osvw"),
            (10, "ibs"),
            (11, "xop"),
            (15, "lwp"),
            (16, "fma4"),
            (21, "tbm"),
            (22, "topoext"),
        ],
    ),
    (
        7,
        0,
        1,
        &[
            (0, "fsgsbase"),
            (1, "tsc_adjust"),
            (3, "bmi1"),
            (4, "hle"),
            (5, "avx2"),
            (7, "smep"),
            (8, "bmi2"),
            (9, "erms"),
            (10, "invpcid"),
            (11, "rtm"),
            (14, "mpx"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (20, "smap"),
            (21, "avx512ifma"),
            (23, "clflushopt"),
            (24, "clwb"),
            (26, "avx512pf"),
            (27, "avx512er"),
            (28, "avx512cd"),
            (29, "sha_ni"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
    ),
    (
        0xd,
        1,
        0,
        &[
            (0, "xsaveopt"),
            (1, "xsavec"),
            (2, "xgetbv1"),
            (3, "xsaves"),
        ],
    ),
    (7, 1, 0, &[(4, "avx_vnni"), (5, "avx512_bf16")]),
    (
        0x8000_0008,
        0,
        1,
        &[(0, "clzero"), (2, "xsaveerptr"), (9, "wbnoinvd")],
    ),
    (6, 0, 0, &[(2, "arat")]),
    (
        7,
        0,
        2,
        &[
            (1, "avx512vbmi"),
            (2, "umip"),
            (3, "pku"),
            (4, "ospke"),
            (5, "waitpkg"),
            (6, "avx512_vbmi2"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512_vnni"),
            (12, "avx512_bitalg"),
            (14, "avx512_vpopcntdq"),
            (16, "la57"),
            (22, "rdpid"),
            (25, "cldemote"),
            (27, "movdiri"),
            (28, "movdir64b"),
        ],
    ),
    (
        7,
        0,
        3,
        &[
            (2, "avx512_4vnniw"),
            (3, "avx512_4fmaps"),
            (4, "fsrm"),
            (8, "avx512_vp2intersect"),
            (14, "serialize"),
            (22, "amx_bf16"),
            (23, "avx512_fp16"),
            (24, "amx_tile"),
            (25, "amx_int8"),
        ],
    ),
];

/// What is the same for all processors.
struct Machine {
    vendor: String,
    family: u32,
    model: u32,
    stepping: u32,
    name: String,
    mhz: f64,
    cache_kib: u32,
    levels: u32,
    flags: String,
    clflush: u32,
    physical_bits: u32,
    virtual_bits: u32,
}

fn text_of(registers: &[u32]) -> String {
    let bytes = registers.iter().flat_map(|r| r.to_le_bytes());
    let text: Vec<u8> = bytes.take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// The highest leaf of the basic and the extended range.
fn has(leaf: u32) -> bool {
    let highest = cpuid(leaf & 0x8000_0000, 0)[0];
    highest >= leaf
}

fn leaf(leaf: u32, sub: u32) -> [u32; 4] {
    if has(leaf) { cpuid(leaf, sub) } else { [0; 4] }
}

fn flags() -> String {
    let mut names = Vec::new();
    for (number, sub, register, bits) in WORDS {
        // Leaf 7 tells how many sub-leaves it has.
        if *number == 7 && *sub > leaf(7, 0)[0] {
            continue;
        }
        let value = leaf(*number, *sub)[*register];
        names.extend(
            bits.iter()
                .filter(|(b, _)| value >> b & 1 != 0)
                .map(|(_, n)| *n),
        );
    }
    names.join(" ")
}

/// Megahertz of the time-stamp counter, which runs at the nominal clock.
fn clock() -> f64 {
    let base = leaf(0x16, 0)[0] & 0xffff;
    if base != 0 {
        return f64::from(base);
    }
    let (start, ticks) = (Instant::now(), time_stamp());
    while start.elapsed() < Duration::from_micros(500) {
        std::hint::spin_loop();
    }
    let ticks = time_stamp().saturating_sub(ticks);
    ticks as f64 / start.elapsed().as_secs_f64() / 1e6
}

/// KiB of the cache that Linux shows: the last level Intel's leaf 4 tells of, AMD's second level.
fn cache(vendor: &str) -> u32 {
    if vendor == "GenuineIntel" {
        let sizes = (0..8)
            .map(|sub| leaf(4, sub))
            .take_while(|r| r[0] & 31 != 0)
            .map(|r| {
                let ways = (r[1] >> 22) + 1;
                let partitions = (r[1] >> 12 & 0x3ff) + 1;
                let line = (r[1] & 0xfff) + 1;
                let sets = u64::from(r[2]) + 1;
                (u64::from(ways * partitions * line) * sets / 1024) as u32
            });
        return sizes.last().unwrap_or(0);
    }
    leaf(0x8000_0006, 0)[2] >> 16
}

impl Machine {
    fn read() -> Machine {
        let head = leaf(0, 0);
        let vendor = text_of(&[head[1], head[3], head[2]]);
        let signature = leaf(1, 0);
        let base_family = signature[0] >> 8 & 15;
        let extended = base_family == 15;
        let family = base_family
            + if extended {
                signature[0] >> 20 & 0xff
            } else {
                0
            };
        let mut model = signature[0] >> 4 & 15;
        if family >= 6 {
            model |= signature[0] >> 12 & 0xf0;
        }
        let brand: Vec<u32> = (0x8000_0002u32..=0x8000_0004)
            .flat_map(|l| leaf(l, 0))
            .collect();
        let widths = leaf(0x8000_0008, 0)[0];
        Machine {
            cache_kib: cache(&vendor),
            vendor,
            family,
            model,
            stepping: signature[0] & 15,
            name: text_of(&brand),
            mhz: clock(),
            levels: head[0],
            flags: flags(),
            clflush: (signature[1] >> 8 & 0xff) * 8,
            physical_bits: widths & 0xff,
            virtual_bits: widths >> 8 & 0xff,
        }
    }
}

/// The text for a machine of `cpus` processors.
pub fn text(cpus: usize) -> Vec<u8> {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    let m = MACHINE.get_or_init(Machine::read);
    let mut text = String::new();
    for cpu in 0..cpus {
        let _ = write!(
            text,
            "processor\t: {cpu}\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\n\
             model name\t: {}\nstepping\t: {}\nmicrocode\t: 0x1\ncpu MHz\t\t: {:.3}\n\
             cache size\t: {} KB\nphysical id\t: 0\nsiblings\t: {cpus}\ncore id\t\t: {cpu}\n\
             cpu cores\t: {cpus}\napicid\t\t: {cpu}\ninitial apicid\t: {cpu}\nfpu\t\t: yes\n\
             fpu_exception\t: yes\ncpuid level\t: {}\nwp\t\t: yes\nflags\t\t: {}\nbugs\t\t: \n\
             bogomips\t: {:.2}\nclflush size\t: {}\ncache_alignment\t: {}\n\
             address sizes\t: {} bits physical, {} bits virtual\npower management:\n\n",
            m.vendor,
            m.family,
            m.model,
            m.name,
            m.stepping,
            m.mhz,
            m.cache_kib,
            m.levels,
            m.flags,
            m.mhz * 2.0,
            m.clflush,
            m.clflush,
            m.physical_bits,
            m.virtual_bits,
        );
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn first(text: &str) -> BTreeMap<&str, &str> {
        let block = text.split("\n\n").next().unwrap();
        block.lines().map(|l| l.split_once(':').unwrap()).collect()
    }

    /// The host's kernel reads the same processor.
    #[test]
    fn says_what_the_host_says() {
        let ours = String::from_utf8(text(2)).unwrap();
        let theirs = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        assert_eq!(ours.matches("processor\t:").count(), 2);
        let (ours, theirs) = (first(&ours), first(&theirs));
        for key in [
            "vendor_id\t",
            "cpu family\t",
            "model\t\t",
            "model name\t",
            "stepping\t",
            "wp\t\t",
        ] {
            assert_eq!(ours.get(key), theirs.get(key), "{key}");
        }
        for key in theirs
            .keys()
            .filter(|k| !matches!(**k, "TLB size\t" | "vmx flags\t" | "bogomips\t"))
        {
            assert!(ours.contains_key(key), "no {key:?}");
        }
        let set = |m: &BTreeMap<&str, &'_ str>| -> BTreeSet<String> {
            m["flags\t\t"]
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect()
        };
        // The host's kernel may hide what it has switched off; programs ask for these.
        let (ours, theirs) = (set(&ours), set(&theirs));
        for flag in [
            "sse2", "ssse3", "avx", "avx2", "aes", "popcnt", "lm", "fsgsbase", "erms",
        ] {
            assert_eq!(ours.contains(flag), theirs.contains(flag), "{flag}");
        }
    }
}
