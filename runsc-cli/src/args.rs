//! What can be typed. What an OCI runtime has to understand is in [`oci`].

pub mod oci;

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Args as ClapArgs, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use runsc_sentry::{boot::PLATFORMS, config::HostSockets};
use runsc_syscall_tables::{Arch, Family, Level};

/// As runc says it, which Docker reads: behind the program's name.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.0.2");

/// Runs Linux programs nobody trusts on a kernel of their own.
#[derive(Debug, Parser)]
#[command(name = "runsc-rs", version = VERSION, about, propagate_version = true)]
pub struct Args {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, ClapArgs)]
pub struct GlobalArgs {
    /// Directory for the state of containers
    /// [default: /run/runsc-rs for root, else $XDG_RUNTIME_DIR/runsc-rs or /tmp/runsc-rs-UID]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// `linux.cgroupsPath` is SLICE:PREFIX:NAME; the group is made where systemd would make it
    #[arg(long, global = true)]
    pub systemd_cgroup: bool,
    /// How guest code is run [default: the fastest that works here]
    #[arg(long, global = true, value_name = "NAME", value_parser = PossibleValuesParser::new(PLATFORMS))]
    pub platform: Option<String>,
    /// Leave guest code as it is, at the price of slower system calls: for programs that check
    /// their own code
    #[arg(long, global = true)]
    pub no_patch: bool,
    /// Print the guest's system calls to stderr
    #[arg(long, global = true)]
    pub strace: bool,
    /// Append the guest's system calls to a file
    #[arg(long, global = true, value_name = "FILE")]
    pub strace_log: Option<PathBuf>,
    /// Log what the sandbox does, to stderr
    #[arg(long, global = true)]
    pub debug: bool,
    /// Append the log to a file
    #[arg(long, global = true, value_name = "FILE")]
    pub debug_log: Option<PathBuf>,
    /// Append the logs of a container's command line, monitor, Sentry and Gofer to DIR/ID.log
    #[arg(long, global = true, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Append complaints to a file, and with --debug the log
    #[arg(long, global = true, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// What the lines of --log look like
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Where a container's writes to its root go: a layer in memory that dies with it, or the bundle,
    /// as with runc
    #[arg(long, global = true, value_enum, default_value_t = Overlay::Memory)]
    pub overlay: Overlay,
    /// What the guest reaches: its container's network namespace (for `do`, which has none, its own
    /// loopback), that loopback only, or the caller's network
    #[arg(long, global = true, value_enum, default_value_t = Network::Sandbox)]
    pub network: Network,
    /// What the guest may do with unix sockets on the host's file systems: connect to those it finds
    /// (open), make some that the host can connect to (create), both (all)
    #[arg(long, global = true, value_enum, default_value_t = HostUds::None, value_name = "WHAT")]
    pub host_uds: HostUds,
    /// Do without what an ordinary user may not do with cgroups: true, false or auto
    #[arg(long, value_name = "BOOL", default_value = "auto",
          value_parser = PossibleValuesParser::new(["true", "false", "auto"]))]
    pub rootless: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Overlay {
    Memory,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Network {
    Sandbox,
    None,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HostUds {
    None,
    Open,
    Create,
    All,
}

impl From<HostUds> for HostSockets {
    fn from(what: HostUds) -> Self {
        match what {
            HostUds::None => Self::None,
            HostUds::Open => Self::Open,
            HostUds::Create => Self::Create,
            HostUds::All => Self::All,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl From<LogFormat> for crate::logging::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program from this machine's files, which it cannot change
    Do(Box<DoArgs>),
    /// Create and start the container of an OCI bundle
    Run(oci::RunArgs),
    /// Create a container, whose program waits for `start`
    Create(oci::CreateArgs),
    /// Start the program of a container that was created
    Start(oci::IdArgs),
    /// Print what a container is and does, as JSON
    State(oci::IdArgs),
    /// Send a signal to a container's first process
    Kill(oci::KillArgs),
    /// Remove a container
    Delete(oci::DeleteArgs),
    /// Run a program in a container
    Exec(oci::ExecArgs),
    /// List containers
    List(oci::ListArgs),
    /// List a container's processes
    Ps(oci::PsArgs),
    /// Stop all processes of a container until `resume`
    Pause(oci::IdArgs),
    /// Let the processes of a paused container go on
    Resume(oci::IdArgs),
    /// Print what a container uses
    Events(oci::EventsArgs),
    /// Change a container's limits
    Update(oci::UpdateArgs),
    /// Write a config.json to start from
    Spec(oci::SpecArgs),
    /// Print what this runtime supports, as JSON
    Features,
    /// Make Docker know this program as a runtime
    Install(InstallArgs),
    /// Make Docker forget it
    Uninstall(UninstallArgs),
    /// List the system calls and how far they are supported
    Syscalls(SyscallsArgs),
    /// Look inside
    #[command(subcommand)]
    Debug(DebugCommand),
}

impl Command {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Do(_) => "do",
            Self::Run(_) => "run",
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::State(_) => "state",
            Self::Kill(_) => "kill",
            Self::Delete(_) => "delete",
            Self::Exec(_) => "exec",
            Self::List(_) => "list",
            Self::Ps(_) => "ps",
            Self::Pause(_) => "pause",
            Self::Resume(_) => "resume",
            Self::Events(_) => "events",
            Self::Update(_) => "update",
            Self::Spec(_) => "spec",
            Self::Features => "features",
            Self::Install(_) => "install",
            Self::Uninstall(_) => "uninstall",
            Self::Syscalls(_) => "syscalls",
            Self::Debug(_) => "debug",
        }
    }
}

#[derive(Debug, Default, ClapArgs)]
pub struct DoArgs {
    /// User id, and group id, to run as [default: the caller's]
    #[arg(long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Directory to start in [default: the current one]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set an environment variable, on top of the caller's; may be repeated
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE")]
    pub env: Vec<OsString>,
    /// Let it change this directory (or file) of the host; may be repeated
    #[arg(long, value_name = "DIR")]
    pub rw: Vec<PathBuf>,
    /// Show this directory of the host as it is, for reading only; may be repeated
    #[arg(long, value_name = "DIR")]
    pub ro: Vec<PathBuf>,
    /// Show this directory as an empty one; may be repeated
    #[arg(long, value_name = "DIR")]
    pub hide: Vec<PathBuf>,
    /// Most memory it may use, with k, M, G or T
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Processors it may keep busy, with a fraction
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<String>,
    /// Most processes and threads at a time
    #[arg(long, value_name = "NUMBER")]
    pub pids: Option<u32>,
    /// End it after that time, with status 124; with ms, s, m or h
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<String>,
    /// Keep what it changed in this directory, which must be new or empty
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// List what it changed, at the end, on stderr
    #[arg(long)]
    pub diff: bool,
    /// Host name inside [default: this machine's]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<OsString>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Debug, ClapArgs)]
pub struct InstallArgs {
    /// Docker's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/docker/daemon.json")]
    pub config: PathBuf,
    /// What `docker run --runtime=` is to call it
    #[arg(long, value_name = "NAME", default_value = "runsc-rs")]
    pub name: String,
    /// Run all containers with it that ask for no other one
    #[arg(long)]
    pub default: bool,
    /// Options that each of its containers gets
    #[arg(last = true, value_name = "OPTION")]
    pub runtime_args: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct UninstallArgs {
    /// Docker's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/docker/daemon.json")]
    pub config: PathBuf,
    /// What it was called
    #[arg(long, value_name = "NAME", default_value = "runsc-rs")]
    pub name: String,
}

#[derive(Debug, ClapArgs)]
pub struct SyscallsArgs {
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Only calls of this level of support
    #[arg(long, value_parser = word(Level::ALL, Level::name, Level::from_name))]
    pub level: Option<Level>,
    /// Only calls of this family
    #[arg(long, value_parser = word(Family::ALL, Family::name, Family::from_name))]
    pub family: Option<Family>,
    /// Numbers of this architecture
    #[arg(long, default_value = Arch::HOST.name(), value_parser = word(Arch::ALL, Arch::name, arch))]
    pub arch: Arch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
    Markdown,
}

#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    /// Print the host system calls that each process of a sandbox may make
    Filters,
    /// Measure what a system call costs on each platform, and tell which one is the default
    Platforms {
        /// Print the name of that one only, and measure no more than it takes to know
        #[arg(long)]
        choose: bool,
    },
    /// Print as JSON what a Sentry finds around itself, instead of running a guest
    #[command(hide = true)]
    Surroundings {
        /// Then wait for a signal, which becomes the exit status
        #[arg(long)]
        hold: bool,
    },
}

fn arch(name: &str) -> Option<Arch> {
    Arch::ALL.iter().copied().find(|arch| arch.name() == name)
}

/// A parser for the words of one of the table's own types, which are then listed in the help.
fn word<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    name: fn(T) -> &'static str,
    from_name: fn(&str) -> Option<T>,
) -> impl TypedValueParser<Value = T> {
    let names = all.iter().map(move |value| name(*value));
    PossibleValuesParser::new(names).try_map(move |word| from_name(&word).ok_or("unknown"))
}
