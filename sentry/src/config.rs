//! What the command line decides and the Sentry carries out: the boot configuration.
//!
//! [`BootConfig`] travels through a sealed memfd as postcard ([`BootConfig::to_bytes`],
//! [`BootConfig::from_bytes`]); [`BootFds`] are the host fds that go with it. Everything is already
//! validated and in kernel terms (numbers, not names): the Sentry neither parses OCI nor looks at
//! the host. Paths are guest paths, absolute, as bytes.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

pub use runsc_gofer::protocol::HostSockets;

pub use crate::kernel::seccomp::bpf::Insn;

/// Everything the Sentry needs to know to start a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootConfig {
    /// Container id; shown in logs only.
    pub container_id: String,
    pub platform: PlatformChoice,
    /// Whether the platform may change guest code to make its system calls cheaper.
    pub patch_code: bool,
    pub root: RootConfig,
    /// Mounted in this order. A mount point that does not exist is made (in the overlay or the
    /// Gofer mount below it) if `make_mount_point` says so.
    pub mounts: Vec<MountConfig>,
    /// Device nodes, symlinks and the like to make below the mounts before the program starts.
    pub nodes: Vec<NodeConfig>,
    /// Absolute paths that are made inaccessible: a directory is covered with an empty read-only
    /// tmpfs, anything else with /dev/null. Those that do not exist are skipped.
    pub masked_paths: Vec<GuestPath>,
    /// Absolute paths that become read-only. Those that do not exist are skipped.
    pub readonly_paths: Vec<GuestPath>,
    /// Settings of /proc/sys, by their path there, all of them settable
    /// ([`crate::fs::proc::sysctl::setting`]).
    pub sysctls: Vec<(String, String)>,
    pub process: ProcessConfig,
    pub limits: GuestLimits,
    /// What the Gofer lets the guest do with the host's unix sockets.
    pub host_sockets: HostSockets,
    /// What to do with the changes in the root's overlay, at the end; needs [`BootFds::changes`].
    pub changes: ChangesConfig,
    pub hostname: Vec<u8>,
    /// NIS domain name; Linux's default is `(none)`.
    pub domainname: Vec<u8>,
    pub strace: StraceConfig,
    pub log_level: LogLevel,
}

/// Which platform runs guest code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlatformChoice {
    /// The first that works.
    #[default]
    Any,
    /// This one, or the first that works if it cannot be made; that is told.
    Rather(String),
    /// Value of `--platform`: this one and no other.
    Only(String),
}

/// What becomes of changes in the root's overlay when the first process has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesConfig {
    /// They are listed.
    pub list: bool,
    /// They are copied there; no other use is made of that tree.
    pub keep_in: Option<GoferMount>,
}

/// What the guest may use, and is told that it may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestLimits {
    pub memory: Option<MemoryLimit>,
    pub cpu: Option<CpuQuota>,
    /// Weight of its processor time in terms of cgroup v1 (1024 is the default); shown only.
    pub cpu_shares: Option<u64>,
    /// Host processors to run on; empty: those of the Sentry.
    pub cpus: Vec<u32>,
    /// Tasks at a time.
    pub tasks: Option<u32>,
    /// What /sys/fs/cgroup looks like.
    pub layout: CgroupLayout,
}

/// A limit of memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimit {
    /// What the guest is told.
    pub told: u64,
    /// What the guest's memory may take. The file system of [`BootFds::memory`] enforces it.
    pub usable: u64,
    /// What the sandbox's own processes may take beside that: the host's control group is held to
    /// both together.
    pub own: u64,
}

/// Processor time in each period, both in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuQuota {
    pub quota_us: u64,
    pub period_us: u64,
}

impl CpuQuota {
    /// As many processors as could be kept busy, at least one.
    pub fn processors(self) -> u64 {
        self.quota_us.div_ceil(self.period_us.max(1)).max(1)
    }
}

/// Versions of control groups (cgroups(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupLayout {
    V1,
    #[default]
    V2,
}

/// An absolute path in the guest, without NUL bytes.
pub type GuestPath = Vec<u8>;

/// Index of a tree the Gofer serves (`MountId` of the Gofer protocol).
pub type GoferMount = u32;

/// The container's root directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootConfig {
    pub gofer_mount: GoferMount,
    /// The guest sees its root as a read-only mount.
    pub readonly: bool,
    pub overlay: OverlayKind,
}

/// Where writes to a tree of the Gofer go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OverlayKind {
    /// To the Gofer.
    None,
    /// To a layer in memory that dies with the sandbox.
    Memory,
}

/// One mount over the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountConfig {
    pub destination: GuestPath,
    pub kind: MountKind,
    pub flags: MountFlags,
    /// First column of /proc/mounts.
    pub source: Vec<u8>,
    /// Whether `destination` is created if missing (OCI: yes).
    pub make_mount_point: bool,
}

/// Flags every mount has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFlags {
    pub readonly: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub atime: Atime,
}

/// When a read updates the access time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Atime {
    #[default]
    Relative,
    Strict,
    Never,
}

/// File system of a mount, with its options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    Proc,
    Sysfs,
    Tmpfs(TmpfsOptions),
    /// All of the Sentry's own devices, made by the Sentry.
    Devtmpfs,
    Devpts(DevptsOptions),
    Mqueue,
    /// The guest's control group, to be read: [`GuestLimits`] and what is used of them.
    Cgroup,
    /// A tree (or a single file) of the Gofer.
    Bind {
        gofer_mount: GoferMount,
        /// Whether the mount point is a directory or a file, should it have to be made.
        directory: bool,
        overlay: OverlayKind,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsOptions {
    /// Bytes; `None` is the default (half of the memory).
    pub size: Option<u64>,
    pub nr_inodes: Option<u64>,
    /// Permission bits of the root directory; the default is 01777.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// OCI's `tmpcopyup`: starts with a copy of what the mount point holds.
    pub copy_up: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevptsOptions {
    /// Permission bits of new terminals; the default is 0600.
    pub mode: Option<u32>,
    /// Permission bits of `ptmx`; the default is 0.
    pub ptmx_mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Most terminals at a time.
    pub max: Option<u32>,
}

/// A node that must exist before the program starts. One that already exists stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfig {
    pub path: GuestPath,
    pub kind: NodeKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    Symlink {
        target: Vec<u8>,
    },
    /// A device node; one the Sentry has no driver for fails to open with ENXIO.
    Char {
        major: u32,
        minor: u32,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Block {
        major: u32,
        minor: u32,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Fifo {
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// The first program of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessConfig {
    /// Never empty, no NUL bytes. `args[0]` without a slash is looked up in `PATH` of `env`.
    pub args: Vec<Vec<u8>>,
    /// `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// Absolute.
    pub cwd: GuestPath,
    /// The program is the container's init: signals for which it has no handler do not kill it
    /// from inside, as for process 1 of a pid namespace.
    pub init: bool,
    /// Make `cwd` if it does not exist (runc does).
    pub make_cwd: bool,
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub umask: u32,
    pub capabilities: CapabilitySets,
    /// Resources not named keep the Sentry's defaults.
    pub rlimits: Vec<Rlimit>,
    /// Stdio is a terminal that becomes the controlling terminal of the program's session.
    /// Without it a terminal on stdio is a host file like any other, but still answers TCGETS.
    pub terminal: bool,
    pub no_new_privileges: bool,
    /// After that time it ends with status 124, as timeout(1) has it.
    pub timeout_ms: Option<u64>,
    /// What its system calls have to pass from the first on, and those of all its children.
    pub seccomp: Option<SeccompConfig>,
    pub oom_score_adj: Option<i32>,
    /// As ioprio_set(2) takes it.
    pub io_priority: u16,
    /// Signals ignored and signals blocked at the start, as execve(2) hands them on; signal n is
    /// bit n - 1.
    pub ignored_signals: u64,
    pub blocked_signals: u64,
}

/// A filter of system calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompConfig {
    /// As seccomp(2) takes it.
    pub program: Vec<Insn>,
    /// SECCOMP_FILTER_FLAG_LOG: what is not allowed is logged.
    pub log: bool,
}

/// Sets of capabilities(7), bit n for capability number n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

/// One limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// `u64::MAX` is RLIM_INFINITY.
    pub soft: u64,
    pub hard: u64,
}

/// What `--strace` asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StraceConfig {
    /// Lines go to [`BootFds::strace`], or to the log if there is none.
    pub enabled: bool,
    /// Only these calls, by name; empty is all.
    pub only: Vec<String>,
}

/// Least severe records that are still logged, in the order of crate `log`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLevel {
    Off,
    Error,
    #[default]
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::Off,
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

/// Host fds the Sentry starts with. All are close-on-exec and above 2.
#[derive(Debug)]
pub struct BootFds {
    /// Client ends of the Gofer's channels, at least one.
    pub gofer: Vec<OwnedFd>,
    /// The Sentry's ends of the network Gofer's channels, if the sandbox reaches the outside.
    pub network: Option<runsc_gofer::network::client::Ends>,
    /// The Sentry's end of the control socket, for [`crate::control::Server`].
    pub control: OwnedFd,
    /// The guest's stdin, stdout, stderr; `None` is a closed one.
    pub stdio: [Option<OwnedFd>; 3],
    /// More files of the guest's, as its fds 3 and up.
    pub preserved: Vec<OwnedFd>,
    /// An empty file on a tmpfs whose size is [`MemoryLimit::usable`], for the guest's memory.
    /// `None`: the Sentry makes one without a limit.
    pub memory: Option<OwnedFd>,
    /// The files of the host's control group that tell what the sandbox as a whole uses of a
    /// [`MemoryLimit`]: the bytes in use, and memory.stat.
    pub memory_use: Option<[OwnedFd; 2]>,
    /// [`runsc_platform::kvm::DEVICE`], for the platform of that name.
    pub kvm: Option<OwnedFd>,
    /// Where changes are told, if that is asked for.
    pub changes: Option<OwnedFd>,
    /// Where log records go; crate `log` is already set up to write there.
    pub log: Option<OwnedFd>,
    /// Where strace lines go; write whole lines.
    pub strace: Option<OwnedFd>,
}

/// A configuration that does not decode.
#[derive(Debug, thiserror::Error)]
#[error("boot configuration: {0}")]
pub struct DecodeError(#[from] postcard::Error);

impl ProcessConfig {
    pub fn to_bytes(&self) -> Result<Vec<u8>, DecodeError> {
        Ok(postcard::to_stdvec(self)?)
    }

    /// Decodes a process that is to join. It is not trusted as one that boots is: what the fields
    /// promise is checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let process: Self = postcard::from_bytes(bytes)?;
        let strings = process.args.iter().chain(&process.env);
        let clean = strings.chain([&process.cwd]).all(|s| !s.contains(&0));
        let named = process.args.first().is_some_and(|name| !name.is_empty());
        if !clean || !named || !process.cwd.starts_with(b"/") {
            return Err(postcard::Error::DeserializeBadEncoding.into());
        }
        Ok(process)
    }
}

impl BootConfig {
    pub fn to_bytes(&self) -> Result<Vec<u8>, DecodeError> {
        Ok(postcard::to_stdvec(self)?)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(postcard::from_bytes(bytes)?)
    }
}
