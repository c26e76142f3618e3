//! Credentials (credentials(7), capabilities(7)) of a task: an immutable set behind an `Arc`; a
//! change makes a new one, as Linux does.

use std::fmt;

/// A user id in the sandbox's user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(pub u32);
/// A group id in the sandbox's user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gid(pub u32);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A capability number (linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cap {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
    Fsetid = 4,
    Kill = 5,
    Setgid = 6,
    Setuid = 7,
    Setpcap = 8,
    LinuxImmutable = 9,
    NetBindService = 10,
    NetBroadcast = 11,
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    IpcOwner = 15,
    SysModule = 16,
    SysRawio = 17,
    SysChroot = 18,
    SysPtrace = 19,
    SysPacct = 20,
    SysAdmin = 21,
    SysBoot = 22,
    SysNice = 23,
    SysResource = 24,
    SysTime = 25,
    SysTtyConfig = 26,
    Mknod = 27,
    Lease = 28,
    AuditWrite = 29,
    AuditControl = 30,
    Setfcap = 31,
    MacOverride = 32,
    MacAdmin = 33,
    Syslog = 34,
    WakeAlarm = 35,
    BlockSuspend = 36,
    AuditRead = 37,
    Perfmon = 38,
    Bpf = 39,
    CheckpointRestore = 40,
}

/// Highest capability number known (/proc/sys/kernel/cap_last_cap).
pub const CAP_LAST: u8 = 40;

/// A set of capabilities as a bit mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CapSet(pub u64);

impl CapSet {
    pub const EMPTY: CapSet = CapSet(0);
    pub const FULL: CapSet = CapSet((1 << (CAP_LAST as u64 + 1)) - 1);

    pub fn has(self, cap: Cap) -> bool {
        self.0 & (1 << cap as u64) != 0
    }
    #[must_use]
    pub fn with(self, cap: Cap) -> CapSet {
        CapSet(self.0 | 1 << cap as u64)
    }
    #[must_use]
    pub fn without(self, cap: Cap) -> CapSet {
        CapSet(self.0 & !(1 << cap as u64))
    }
}

/// Everything that permission checks look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub ruid: Uid,
    pub euid: Uid,
    pub suid: Uid,
    pub fsuid: Uid,
    pub rgid: Gid,
    pub egid: Gid,
    pub sgid: Gid,
    pub fsgid: Gid,
    /// Supplementary groups, sorted.
    pub groups: Vec<Gid>,
    pub permitted: CapSet,
    pub effective: CapSet,
    pub inheritable: CapSet,
    pub bounding: CapSet,
    pub ambient: CapSet,
    /// PR_SET_SECUREBITS.
    pub securebits: u32,
    /// PR_SET_KEEPCAPS is part of securebits (SECBIT_KEEP_CAPS).
    pub no_new_privs: bool,
}

impl Credentials {
    /// The superuser with every capability.
    pub fn root() -> Credentials {
        Credentials::user(Uid(0), Gid(0), Vec::new(), CapSet::FULL)
    }

    /// A user whose permitted, effective and bounding sets are `caps`.
    pub fn user(uid: Uid, gid: Gid, mut groups: Vec<Gid>, caps: CapSet) -> Credentials {
        groups.sort_unstable();
        groups.dedup();
        Credentials {
            ruid: uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            rgid: gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups,
            permitted: caps,
            effective: caps,
            inheritable: CapSet::EMPTY,
            bounding: CapSet::FULL,
            ambient: CapSet::EMPTY,
            securebits: 0,
            no_new_privs: false,
        }
    }

    pub fn has_cap(&self, cap: Cap) -> bool {
        self.effective.has(cap)
    }

    /// Member of `gid` as far as file access goes.
    pub fn in_group(&self, gid: Gid) -> bool {
        self.fsgid == gid || self.groups.binary_search(&gid).is_ok()
    }
}
