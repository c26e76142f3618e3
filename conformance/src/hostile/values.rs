//! Arguments made up from the types in the table of system calls.
//!
//! Most of the time something plausible, so that the call gets past its first checks; otherwise
//! the values kernels stumble over: unmapped, straddling and non-canonical addresses, lengths
//! that overflow, descriptors of another kind.

use super::arena::Arena;
use super::random::Random;
use runsc_syscall_tables::{ArgType, Syscall};

const SIZES: &[u64] = &[
    0,
    1,
    2,
    4,
    7,
    8,
    12,
    16,
    24,
    32,
    56,
    64,
    88,
    128,
    144,
    255,
    256,
    1000,
    4095,
    4096,
    4097,
    8192,
    65535,
    65536,
    1 << 20,
    (1 << 21) + 1,
    0x7FFF_F000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 32,
    1 << 40,
    1 << 46,
    1 << 47,
    i64::MAX as u64 - 4095,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 4096,
    u64::MAX - 4095,
    u64::MAX,
];

const OFFSETS: &[i64] = &[
    0,
    1,
    511,
    4095,
    4096,
    65536,
    1 << 31,
    1 << 32,
    1 << 40,
    i64::MAX - 4096,
    i64::MAX - 1,
    i64::MAX,
    -1,
    -4096,
    i64::MIN,
    i64::MIN + 1,
];

const PATHS: &[&str] = &[
    "file",
    "dir",
    "dir/inner",
    "link",
    "loop",
    "new",
    "new2",
    "fifo",
    "sock",
    "dir/../file",
    ".",
    "..",
    "",
    "/",
    "/.",
    "//",
    "file/",
    "dir/",
    "/proc",
    "/proc/self",
    "/proc/self/fd",
    "/proc/self/fd/3",
    "/proc/self/fd/9",
    "/proc/self/exe",
    "/proc/self/mem",
    "/proc/self/maps",
    "/proc/self/smaps",
    "/proc/self/stat",
    "/proc/self/status",
    "/proc/self/task",
    "/proc/self/cwd",
    "/proc/self/root",
    "/proc/self/fdinfo/5",
    "/proc/self/environ",
    "/proc/self/cmdline",
    "/proc/self/oom_score_adj",
    "/proc/self/mountinfo",
    "/proc/self/uid_map",
    "/proc/self/limits",
    "/proc/thread-self",
    "/proc/1/mem",
    "/proc/999999",
    "/proc/sys",
    "/proc/sys/kernel/hostname",
    "/proc/stat",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/locks",
    "/proc/sys/fs/pipe-max-size",
    "/dev",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/pts/0",
    "/dev/tty",
    "/dev/fd/4",
    "/dev/shm",
    "/dev/shm/x",
    "/sys",
    "/sys/devices/system/cpu",
    "/tmp",
    "/etc/passwd",
    "/usr/bin",
    "user.a",
    "user.",
    "security.capability",
    "system.posix_acl_access",
    "trusted.x",
    "tmpfs",
    "proc",
    "sysfs",
    "overlay",
    "size=4096",
    "size=99999999999999999999%",
];

/// Operations of the multiplexed calls, beside small numbers.
const IOCTLS: &[u64] = &[
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x5405,
    0x5409,
    0x540A,
    0x540B,
    0x540C,
    0x540D,
    0x540E,
    0x540F,
    0x5410,
    0x5411,
    0x5412,
    0x5413,
    0x5414,
    0x541B,
    0x5420,
    0x5421,
    0x5422,
    0x5423,
    0x5424,
    0x5425,
    0x5429,
    0x5450,
    0x5451,
    0x5452,
    0x8004_5430,
    0x4004_5431,
    0x8004_5432,
    0x8004_5438,
    0x8004_5439,
    0x5441,
    0x8008_6601,
    0x4008_6602,
    0x6609,
    0x4004_9409,
    0x4020_940D,
    0xC020_660B,
    0xC018_9436,
    0x8901,
    0x8902,
    0x8903,
    0x8904,
    0x8905,
    0x8910,
    0x8912,
    0x8913,
    0x8927,
];

const FCNTLS: &[u64] = &[
    0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 36, 37, 38, 1024, 1025, 1026, 1030,
    1031, 1032, 1033, 1034, 1035, 1036, 1037, 1038,
];

const PRCTLS: &[u64] = &[
    1, 2, 3, 4, 7, 8, 15, 16, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37,
    38, 39, 40, 41, 42, 47, 50, 52, 53, 59, 62, 65, 0x53564d41, 0x59616d61,
];

/// Who the caller is: signals must not reach the process that counts the rounds.
#[derive(Debug, Clone, Copy)]
pub struct Who {
    pub pid: i32,
    pub parent: i32,
}

impl Who {
    fn pid(self, r: &mut Random) -> i32 {
        let chosen = match r.below(8) {
            0 | 1 => 0,
            2..=4 => self.pid,
            5 => self.pid + r.below(4) as i32,
            6 => -self.pid,
            _ => r.pick(&[i32::MIN, i32::MAX, -2, 4_194_304, 999_999]),
        };
        match chosen.unsigned_abs() {
            1 => 0,
            n if n == self.parent.unsigned_abs() => self.pid,
            _ => chosen,
        }
    }
}

pub fn size(r: &mut Random) -> u64 {
    match r.below(4) {
        0 => r.pick(SIZES),
        1 => r.below(64),
        _ => r.pick(&SIZES[..20]),
    }
}

pub fn fd(r: &mut Random) -> u64 {
    match r.below(16) {
        0 => r.pick(&[
            u64::MAX,
            -100_i64 as u64,
            0x7FFF_FFFF,
            1023,
            1024,
            1 << 20,
            0xFFFF_FFFF_0000_0003,
        ]),
        1 => r.below(3),
        _ => 3 + r.below(40),
    }
}

pub fn path(r: &mut Random) -> Vec<u8> {
    let mut bytes = match r.below(24) {
        0 => vec![b'a'; r.pick(&[254, 255, 256, 4094, 4095, 4096, 5000])],
        1 => b"d/".repeat(r.pick(&[10, 1000, 2047, 2048])),
        2 => b"../".repeat(r.pick(&[3, 1365])),
        3 => vec![0xFF, b'\n', b'\\', 1],
        _ => r.pick(PATHS).as_bytes().to_vec(),
    };
    bytes.push(0);
    bytes
}

/// Any number a structure or a register may hold.
pub fn word(r: &mut Random, arena: &Arena) -> u64 {
    match r.below(8) {
        0 => r.pick(SIZES),
        1 => r.pick(OFFSETS) as u64,
        2 => arena.address(r),
        3 => fd(r),
        4 => r.next(),
        5 => 1 << r.below(64),
        _ => r.below(20),
    }
}

fn flags(r: &mut Random) -> u64 {
    match r.below(5) {
        0 => 0,
        1 => 1 << r.below(33),
        2 => (1 << r.below(24)) | (1 << r.below(24)),
        3 => r.below(16),
        _ => {
            let any = r.next();
            r.pick(&[
                0x800,
                0x80000,
                0x80800,
                0x42,
                0x242,
                0x20_0000,
                0x41_0000,
                0x441,
                u64::MAX,
                any,
            ])
        }
    }
}

/// A structure of `words` words, of which some are addresses and some lengths.
fn structure(r: &mut Random, arena: &Arena, words: u64) -> u64 {
    let bytes: Vec<u8> = (0..words)
        .flat_map(|_| word(r, arena).to_ne_bytes())
        .collect();
    arena.put(r, &bytes)
}

fn halves(r: &mut Random, arena: &Arena, halves: &[u32]) -> u64 {
    let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_ne_bytes()).collect();
    arena.put(r, &bytes)
}

fn words(r: &mut Random, arena: &Arena, words: &[u64]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    arena.put(r, &bytes)
}

fn time_words(r: &mut Random) -> [u64; 2] {
    let seconds = match r.below(8) {
        0 => r.pick(OFFSETS) as u64,
        _ => 0,
    };
    let fraction = match r.below(6) {
        0 => r.pick(&[
            999_999_999,
            1_000_000_000,
            u64::MAX,
            1 << 62,
            0x3FFF_FFFF,
            0x3FFF_FFFE,
        ]),
        _ => r.below(2_000_000),
    };
    [seconds, fraction]
}

fn vectors(r: &mut Random, arena: &Arena) -> (u64, u64) {
    let count = r.pick(&[0, 1, 1, 2, 3, 8, 1024]);
    let list: Vec<u64> = (0..count)
        .flat_map(|_| {
            let length = if r.one_in(12) { size(r) } else { r.below(9000) };
            [arena.address(r), length]
        })
        .collect();
    (words(r, arena, &list), count)
}

fn socket_address(r: &mut Random, arena: &Arena) -> u64 {
    let family: u16 = if r.one_in(6) { r.below(48) as u16 } else { 1 };
    let mut bytes = family.to_ne_bytes().to_vec();
    match r.below(4) {
        0 => bytes.extend(b"\0abstract"),
        1 => bytes.extend([b'x'; 200]),
        _ => bytes.extend(path(r)),
    }
    bytes.resize(bytes.len().max(128), 0);
    arena.put(r, &bytes)
}

fn control_message(r: &mut Random, arena: &Arena) -> (u64, u64) {
    let mut bytes = Vec::new();
    for _ in 0..r.below(4) {
        let fds = r.pick(&[0, 1, 2, 5, 253, 254]);
        let length = if r.one_in(6) { size(r) } else { 16 + 4 * fds };
        bytes.extend(length.to_ne_bytes());
        bytes.extend((if r.one_in(6) { r.below(300) as u32 } else { 1 }).to_ne_bytes());
        bytes.extend((1 + r.below(3) as u32).to_ne_bytes());
        for _ in 0..fds + fds % 2 {
            let fd = fd(r) as u32;
            bytes.extend((if r.one_in(4) { fd } else { 3 + fd % 24 }).to_ne_bytes());
        }
    }
    let length = if r.one_in(6) {
        size(r)
    } else {
        bytes.len() as u64
    };
    (arena.put(r, &bytes), length)
}

fn message(r: &mut Random, arena: &Arena, many: bool) -> u64 {
    let mut all = Vec::new();
    for _ in 0..if many { 1 + r.below(4) } else { 1 } {
        let (vector, count) = vectors(r, arena);
        let (control, control_length) = control_message(r, arena);
        let name = if r.one_in(2) {
            0
        } else {
            socket_address(r, arena)
        };
        let name_length = r.pick(&[0, 2, 16, 110, 128, 0xFFFF_FFFF]);
        let count = if r.one_in(10) { size(r) } else { count };
        all.extend([
            name,
            name_length,
            vector,
            count,
            control,
            control_length,
            flags(r),
        ]);
        if many {
            all.push(0);
        }
    }
    words(r, arena, &all)
}

fn strings(r: &mut Random, arena: &Arena) -> u64 {
    let mut list: Vec<u64> = (0..r.below(5))
        .map(|_| {
            let text = path(r);
            arena.put(r, &text)
        })
        .collect();
    if r.one_in(8) {
        list.push(arena.address(r));
    }
    list.push(0);
    words(r, arena, &list)
}

/// The arguments of one call.
pub fn arguments(r: &mut Random, arena: &Arena, who: Who, call: &Syscall) -> [u64; 6] {
    let mut values = [0; 6];
    for (i, arg) in call.args.iter().enumerate().take(6) {
        values[i] = if r.one_in(24) && arg.ty != ArgType::Pid {
            word(r, arena)
        } else {
            argument(r, arena, who, call, i, arg.ty)
        };
    }
    // F_SETOWN takes a process as well.
    if call.name == "fcntl" && values[1] as u32 == 8 {
        values[2] = who.pid(r) as u64;
    }
    values
}

fn argument(r: &mut Random, arena: &Arena, who: Who, call: &Syscall, i: usize, ty: ArgType) -> u64 {
    use ArgType::*;
    let optional = r.one_in(5);
    match ty {
        Int | UInt | Hex | Dev => match call.args[i].name {
            "cpu" | "signum" | "sig" => r.below(70),
            "timeout" => r.pick(&[0, 1, 5, u64::MAX]),
            _ => word(r, arena),
        },
        Size => size(r),
        Offset => {
            if r.one_in(2) {
                r.below(20_000)
            } else {
                r.pick(OFFSETS) as u64
            }
        }
        Fd => fd(r),
        DirFd if !optional => -100_i64 as u64,
        DirFd => fd(r),
        Path | Str => {
            if r.one_in(16) {
                return arena.address(r);
            }
            let text = path(r);
            arena.put(r, &text)
        }
        StringArray | EnvArray => strings(r, arena),
        IoVecIn | IoVecOut => vectors(r, arena).0,
        MsgIn | MsgOut => message(r, arena, false),
        MmsgIn | MmsgOut => message(r, arena, true),
        SockAddr | SockAddrOut => socket_address(r, arena),
        LenInOut => {
            let length = size(r) as u32;
            halves(r, arena, &[length])
        }
        SockDomain => r.pick(&[1, 1, 1, 1, 2, 10, 16, 17, 0, 45]),
        SockType => r.pick(&[1, 2, 5]) | r.pick(&[0, 0o4000, 0o2000000, 3]),
        SockLevel => r.pick(&[1, 1, 1, 6, 0, 41]),
        SockOpt => r.below(80),
        SockOptIn => structure(r, arena, 4),
        Pid => who.pid(r) as u64,
        // The two that cannot be handled end the round.
        Signal => match r.below(66) {
            9 | 19 if !r.one_in(16) => 10,
            signal => signal,
        },
        SigHow => r.below(4),
        SigSet if optional => 0,
        SigSet => structure(r, arena, 1),
        SigSetArg => {
            let set = structure(r, arena, 1);
            words(r, arena, &[set, 8])
        }
        SigAction => {
            let any = arena.address(r);
            let handler = r.pick(&[0, 1, arena.handler, any]);
            let bits = flags(r) | 0x0400_0000;
            let restorer = arena.address(r);
            words(r, arena, &[handler, bits, restorer, 0])
        }
        SigStack => {
            let stack = arena.address(r);
            let size = size(r);
            let bits = r.below(4);
            words(r, arena, &[stack, bits, size])
        }
        SigInfo | SigEvent => {
            let code = r.pick(&[-1_i32, -2, -6, 0, 1, 0x80]);
            let number = r.below(66) as u32;
            let mut list = [0; 32];
            list[..6].copy_from_slice(&[number, 0, code as u32, 0, who.pid as u32, 0]);
            halves(r, arena, &list)
        }
        Timespec | Timeval | FutexTimeout | Utimbuf => {
            let time = time_words(r);
            words(r, arena, &time)
        }
        TimevalPair | TimespecPair | Itimerval | Itimerspec => {
            let (a, b) = (time_words(r), time_words(r));
            words(r, arena, &[a, b].concat())
        }
        ClockId => r.pick(&[
            0,
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            9,
            11,
            12,
            u64::MAX,
            -6_i64 as u64,
            (!(who.pid as i64) << 3 | 2) as u64,
        ]),
        PollFds => {
            let list: Vec<u32> = (0..r.pick(&[0, 1, 3, 16]))
                .flat_map(|_| [fd(r) as u32, r.next() as u32])
                .collect();
            halves(r, arena, &list)
        }
        FdSet if optional => 0,
        EpollOp => 1 + r.below(4),
        EpollEvent => {
            let events = r.pick(&[
                1,
                4,
                5,
                0x2001,
                0x8000_0005,
                0x4000_0001,
                0x1000_0001,
                u32::MAX,
            ]);
            halves(r, arena, &[events, 1, 2])
        }
        Ioctl => r.pick(IOCTLS),
        FcntlCmd => r.pick(FCNTLS),
        FcntlArg => {
            if r.one_in(2) {
                let whence = r.below(4) << 16 | r.below(4);
                let (a, b) = (r.pick(OFFSETS) as u64, r.pick(OFFSETS) as u64);
                words(r, arena, &[whence, a, b, 0])
            } else {
                word(r, arena)
            }
        }
        PrctlOp => r.pick(PRCTLS),
        ArchPrctlOp => 0x1001 + r.below(20),
        FutexOp => r.below(16) | r.pick(&[0, 128, 256, 384]),
        FutexWaitV => {
            let list: Vec<u64> = (0..r.below(8))
                .flat_map(|_| [r.below(3), arena.address(r), r.pick(&[2, 0x82, 0, 7])])
                .collect();
            words(r, arena, &list)
        }
        CloneFlags => {
            let bits = r.pick(&[
                0,
                0x100,
                0x4100,
                0x5_0F00,
                0x3_D0F00,
                0x1000,
                0x200_0000,
                0x1000_0000,
                0x10_0000,
            ]);
            bits | r.pick(&[17, 0, 65, 9]) | if r.one_in(3) { flags(r) } else { 0 }
        }
        CloneArgs => {
            let mut list = [0_u64; 11];
            list[0] = r.pick(&[
                0,
                0x100,
                0x4100,
                0x1000,
                0x5_0F00,
                0x2_0000_0000,
                0x1_0000_0000,
            ]);
            list[4] = r.pick(&[0, 17, 65, u64::MAX]);
            for _ in 0..r.below(4) {
                let at = r.below(11) as usize;
                list[at] = word(r, arena);
            }
            words(r, arena, &list)
        }
        OpenHow => {
            let (flags, mode, resolve) = (
                flags(r),
                r.below(0o1000),
                r.pick(&[0, 1, 2, 4, 8, 16, 32, 64]),
            );
            words(r, arena, &[flags, mode, resolve])
        }
        OpenFlags => {
            r.pick(&[
                0, 1, 2, 0x42, 0x242, 0x1_0000, 0x20_0000, 0x41_0002, 0x800, 0x442,
            ]) | if r.one_in(3) { flags(r) } else { 0 }
        }
        Mode | OpenMode => r.pick(&[
            0, 0o600, 0o755, 0o1777, 0o6755, 0o10644, 0o20666, 0o60600, 0o140755, 0o177_7777,
        ]),
        Prot => r.below(8) | if r.one_in(16) { flags(r) } else { 0 },
        MapFlags => r.pick(&[
            0x22, 0x21, 0x1, 0x2, 0x3, 0x32, 0x31, 0x11, 0x12, 0x10_0022, 0x4022, 0x122, 0x8022,
            0x4_0022,
        ]),
        Madvise => r.pick(&[
            0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
            100, 101,
        ]),
        SchedPolicy | Whence => r.below(8),
        Resource => r.below(17),
        Rlimit => {
            // Not so low that nothing else works any more.
            let soft = r.pick(&[64, 1024, 1 << 20, 1 << 30, u64::MAX]);
            let hard = r.pick(&[soft, u64::MAX]);
            words(r, arena, &[soft, hard])
        }
        SeccompOp => r.below(5),
        Uid | Gid => r.pick(&[0, 1, 65534, u64::MAX, 0xFFFF_FFFF, 1000]),
        Addr | AddrOut | IntOut | SizeOut => arena.address(r),
        ty if ty.is_out() => {
            if optional {
                0
            } else {
                arena.address(r)
            }
        }
        BufIn => arena.address(r),
        CapHeader => halves(r, arena, &[0x2008_0522, 0]),
        GroupsOut | Groups | CapData | CpuSet | SchedParam | InotifyMask if r.one_in(2) => {
            structure(r, arena, 4)
        }
        OffsetPtr if optional => 0,
        OffsetPtr | FdSet => {
            let offset = r.pick(OFFSETS) as u64;
            words(r, arena, &[offset, offset])
        }
        _ => flags(r),
    }
}
