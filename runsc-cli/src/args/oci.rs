//! The commands of an OCI runtime, with runc's options.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, ValueEnum};

/// What creating a container takes.
#[derive(Debug, ClapArgs)]
pub struct CreateArgs {
    /// Directory with config.json
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Unix socket that gets the master end of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File for the process id on the host
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Accepted: the root is the Sentry's business, not the host's
    #[arg(long)]
    pub no_pivot: bool,
    /// Accepted: the guest sees no keyring of the host
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Pass N more files to the container, those from 3 on (after $LISTEN_FDS)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: usize,
    /// Name of the new container
    pub id: String,
}

#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    #[command(flatten)]
    pub create: CreateArgs,
    /// Do not wait for the container's end
    #[arg(long, short)]
    pub detach: bool,
    /// Do not delete the container after its end
    #[arg(long)]
    pub keep: bool,
    /// Accepted: no process of the guest ever becomes a child of this command
    #[arg(long)]
    pub no_subreaper: bool,
}

#[derive(Debug, ClapArgs)]
pub struct IdArgs {
    /// Name of the container
    pub id: String,
}

#[derive(Debug, ClapArgs)]
pub struct KillArgs {
    /// Send it to all processes
    #[arg(long, short)]
    pub all: bool,
    /// Name of the container
    pub id: String,
    /// Name or number
    #[arg(default_value = "SIGTERM")]
    pub signal: String,
}

#[derive(Debug, ClapArgs)]
pub struct DeleteArgs {
    /// Kill it first if need be
    #[arg(long, short)]
    pub force: bool,
    /// Name of the container
    pub id: String,
}

#[derive(Debug, ClapArgs)]
pub struct ExecArgs {
    /// Unix socket that gets the master end of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Directory to start in [default: the container's]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set an environment variable; may be repeated
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Give it a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// User id, and group id, to run as
    #[arg(long, short, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Another group; may be repeated
    #[arg(long, short = 'g', value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// File with the process, as in config.json
    #[arg(long, short, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Do not wait for its end
    #[arg(long, short)]
    pub detach: bool,
    /// File for the process id on the host
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Not supported: there are no labels inside
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// Not supported: there are no profiles inside
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// Control group below the container's; there are none but / itself
    #[arg(long, value_name = "[CONTROLLER:]GROUP")]
    pub cgroup: Vec<String>,
    /// Give it no new privileges
    #[arg(long)]
    pub no_new_privs: bool,
    /// Give it a capability; may be repeated
    #[arg(long, short, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Pass N more files, those from 3 on (after $LISTEN_FDS)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: usize,
    /// Also in a paused container, where it waits
    #[arg(long)]
    pub ignore_paused: bool,
    /// Name of the container
    pub id: String,
    /// The program and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD",
        required_unless_present = "process"
    )]
    pub command: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct ListArgs {
    #[arg(long, short, value_enum, default_value_t = ListFormat::Table)]
    pub format: ListFormat,
    /// Only the names
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    Table,
    #[value(alias = "text")]
    Text,
    Json,
}

#[derive(Debug, ClapArgs)]
pub struct PsArgs {
    /// A table, or the ids of the host processes as JSON
    #[arg(long, short, value_enum, default_value_t = ListFormat::Table)]
    pub format: ListFormat,
    /// Name of the container
    pub id: String,
    /// Options of ps(1): its table of the host processes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub ps_options: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct EventsArgs {
    /// Print it once
    #[arg(long)]
    pub stats: bool,
    /// How often, as in 5s or 500ms
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub interval: Duration,
    /// Name of the container
    pub id: String,
}

#[derive(Debug, ClapArgs)]
pub struct UpdateArgs {
    /// File with linux.resources as in config.json, or - for stdin; other options are ignored then
    #[arg(long, short, value_name = "FILE")]
    pub resources: Option<String>,
    #[arg(long, value_name = "N")]
    pub blkio_weight: Option<u16>,
    #[arg(long, value_name = "US")]
    pub cpu_period: Option<u64>,
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    #[arg(long, value_name = "N")]
    pub cpu_share: Option<u64>,
    #[arg(long, value_name = "US")]
    pub cpu_rt_period: Option<u64>,
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together, -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Refused: nothing of Intel's RDT is
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// Refused, as well
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
    /// Name of the container
    pub id: String,
}

#[derive(Debug, ClapArgs)]
pub struct SpecArgs {
    /// Directory for config.json
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// For an ordinary user
    #[arg(long)]
    pub rootless: bool,
}

/// A time as Go writes one, of one unit.
fn duration(text: &str) -> Result<Duration, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| "not a time")?;
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("not a time: its unit is ms, s, m or h".into()),
    };
    Duration::try_from_secs_f64(number * unit)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "out of range".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("0.5m"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in [
            "",
            "5",
            "s",
            "0s",
            "-1s",
            "1d",
            "1e9h",
            "9".repeat(400).as_str(),
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
