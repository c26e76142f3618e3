//! The options both runners have, and the columns that come of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::report::{NATIVE, OURS, RUNSC, Report};
use crate::runtime::Runtime;

/// Which runtimes, and how each is called.
#[derive(Args, Debug)]
pub struct Columns {
    /// Only these columns, of native, runc, runsc, ours and those of --platform and
    /// --extra.
    #[arg(long, value_delimiter = ',')]
    pub runtimes: Vec<String>,
    /// Our command; the program's words follow it, or stand for `{}`.
    /// Default: runsc-rs of the release build, `do --`.
    #[arg(long, value_name = "TEMPLATE")]
    ours_command: Option<String>,
    /// One more column of ours, `ours-NAME`, on that platform: our command with
    /// `--platform=NAME` behind its first word. `ours` is on the default one.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    platform: Vec<String>,
    /// gVisor's command. Default: `runsc --platform=ptrace --network=none
    /// --ignore-cgroups do --`, with --rootless for ordinary users.
    #[arg(long, value_name = "TEMPLATE")]
    runsc_command: Option<String>,
    /// A further column, for example `before=/old/runsc-rs do --`.
    #[arg(long, value_name = "NAME=TEMPLATE")]
    extra: Vec<String>,
}

/// Where the results go besides the terminal.
#[derive(Args, Debug)]
pub struct Outputs {
    /// Write everything, with each sample, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

impl Columns {
    /// The columns in order, each with the command that the report names. `runc`
    /// comes with its command because its bundle depends on the runner.
    pub fn candidates(
        &self,
        target: &Path,
        work: &Path,
        runc: (Runtime, &str),
    ) -> Result<Vec<(Runtime, String)>> {
        let runsc = self.runsc_command.clone().unwrap_or_else(|| {
            let rootless = if nix::unistd::geteuid().is_root() {
                ""
            } else {
                " --rootless"
            };
            format!(
                "runsc --root={} --platform=ptrace --network=none --ignore-cgroups{rootless} do --",
                work.join("runsc-state").display()
            )
        });
        let ours = self
            .ours_command
            .clone()
            .unwrap_or_else(|| format!("{} do --", target.join("release/runsc-rs").display()));
        let mut candidates = vec![
            (Runtime::native(), String::new()),
            (runc.0, runc.1.to_string()),
            (Runtime::prefix(RUNSC, &runsc), runsc),
            (Runtime::prefix(OURS, &ours), ours.clone()),
        ];
        let mut add = |name: &str, template: String| {
            if candidates.iter().any(|(runtime, _)| runtime.name == name) {
                bail!("there is a column {name} already");
            }
            candidates.push((Runtime::prefix(name, &template), template));
            Ok(())
        };
        for platform in &self.platform {
            add(&format!("{OURS}-{platform}"), on_platform(&ours, platform))?;
        }
        for extra in &self.extra {
            let (name, template) = extra
                .split_once('=')
                .with_context(|| format!("--extra {extra}: expected NAME=TEMPLATE"))?;
            add(name, template.to_string())?;
        }
        for name in &self.runtimes {
            if !candidates.iter().any(|(runtime, _)| runtime.name == *name) {
                bail!("--runtimes: there is no runtime {name}");
            }
        }
        candidates.retain(|(runtime, _)| {
            self.runtimes.is_empty() || self.runtimes.contains(&runtime.name)
        });
        Ok(candidates)
    }
}

fn on_platform(template: &str, platform: &str) -> String {
    let (program, rest) = template.split_once(' ').unwrap_or((template, ""));
    format!("{program} --platform={platform} {rest}")
}

/// Those of the candidates that work here, which become the report's columns; the
/// others are noted as skipped.
pub fn choose(
    candidates: Vec<(Runtime, String)>,
    probe: impl Fn(&Runtime) -> Result<(), String>,
    report: &mut Report,
) -> Result<Vec<Runtime>> {
    let mut runtimes = Vec::new();
    for (runtime, command) in candidates {
        match probe(&runtime) {
            Ok(()) => {
                if runtime.name != NATIVE {
                    report.method.push(format!("{}: {command}", runtime.name));
                }
                report.runtimes.push(runtime.name.clone());
                runtimes.push(runtime);
            }
            Err(reason) => report.skip(&runtime.name, reason),
        }
    }
    if runtimes.is_empty() {
        bail!("no runtime to measure:{}", report.text());
    }
    Ok(runtimes)
}

impl Outputs {
    /// Prints the finished report and writes the files asked for.
    pub fn deliver(&self, report: &Report) -> Result<()> {
        print!("{}", report.text());
        if let Some(path) = &self.json {
            write(path, &serde_json::to_string_pretty(report)?)?;
        }
        if let Some(path) = &self.markdown {
            write(path, &report.markdown())?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The cargo target directory this program was built into.
pub fn target_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the own program")?;
    let target = own.parent().and_then(Path::parent);
    target
        .map(Path::to_path_buf)
        .context("the own program lies outside a target directory")
}

/// Makes the work directory, `side-by-side` in `target` unless another is wanted.
pub fn work_directory(wanted: Option<&Path>, target: &Path) -> Result<PathBuf> {
    let default = target.join("side-by-side");
    let work = wanted.unwrap_or(&default);
    fs::create_dir_all(work).with_context(|| format!("cannot make {}", work.display()))?;
    Ok(work.canonicalize()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        columns: Columns,
    }

    fn columns(arguments: &[&str]) -> Result<Vec<(String, String)>> {
        let words = ["runner"].iter().chain(arguments);
        let options = Options::try_parse_from(words)?;
        let runc = (Runtime::prefix("runc", "runc"), "bundle");
        let candidates =
            options
                .columns
                .candidates(Path::new("/target"), Path::new("/work"), runc)?;
        Ok(candidates
            .into_iter()
            .map(|(runtime, command)| (runtime.name, command))
            .collect())
    }

    #[test]
    fn ours_is_on_the_default_platform_and_others_beside_it() {
        let names = |columns: Vec<(String, String)>| -> Vec<String> {
            columns.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(
            names(columns(&[]).unwrap()),
            ["native", "runc", "runsc", "ours"]
        );
        let chosen = columns(&[
            "--platform",
            "ptrace,other",
            "--extra",
            "old=/old/runsc-rs do --",
            "--runtimes",
            "ours,ours-ptrace,ours-other,old",
        ])
        .unwrap();
        let expected = [
            ("ours", "/target/release/runsc-rs do --"),
            (
                "ours-ptrace",
                "/target/release/runsc-rs --platform=ptrace do --",
            ),
            (
                "ours-other",
                "/target/release/runsc-rs --platform=other do --",
            ),
            ("old", "/old/runsc-rs do --"),
        ]
        .map(|(name, command)| (name.to_string(), command.to_string()));
        assert_eq!(chosen, expected);
    }

    #[test]
    fn names_are_taken_once_and_known() {
        for arguments in [
            &["--extra", "ours=x"][..],
            &["--extra", "nothing"],
            &["--platform", "a,a"],
            &["--runtimes", "nope"],
        ] {
            assert!(columns(arguments).is_err(), "{arguments:?}");
        }
    }
}
