//! The micro-benchmark program: building it, and reading what it prints.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

/// The program's source, so that the runner needs no other file.
pub const SOURCE: &str = include_str!("../micro.c");

/// How many bytes the file of the `*_lower` rows has.
pub const LOWER_FILE_BYTES: usize = 64 * 1024;

#[derive(Debug, Error)]
pub enum BuildError {
    /// A file of the work directory could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    /// There is no C compiler.
    #[error("cannot start the C compiler `{compiler}` (Debian: gcc libc6-dev): {source}")]
    NoCompiler {
        compiler: String,
        source: std::io::Error,
    },
    /// The compiler refused the program.
    #[error("`{compiler}` failed: {message}")]
    Compile { compiler: String, message: String },
}

/// Builds the program as `directory/micro`, statically linked, with `$CC` or `cc`.
pub fn build(directory: &Path) -> Result<PathBuf, BuildError> {
    let source_path = directory.join("micro.c");
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&source_path, SOURCE))
        .map_err(|source| BuildError::Write {
            path: source_path.clone(),
            source,
        })?;
    let program = directory.join("micro");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_string());
    let output = Command::new(&compiler)
        .args(["-O2", "-static", "-pthread", "-o"])
        .arg(&program)
        .arg(&source_path)
        .output()
        .map_err(|source| BuildError::NoCompiler {
            compiler: compiler.clone(),
            source,
        })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_string();
        return Err(BuildError::Compile { compiler, message });
    }
    Ok(program)
}

/// What the program said about one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Measured {
    /// Nanoseconds an operation.
    Ns(f64),
    /// The row failed, and why.
    Failed(String),
}

/// Reads the program's output. Lines that are not `name<TAB>value` are returned
/// apart: a runtime that prints into its guest's output must not pass for a result.
pub fn parse(output: &str) -> (Vec<(String, Measured)>, Vec<String>) {
    let mut rows = Vec::new();
    let mut strange = Vec::new();
    for line in output.lines().filter(|line| !line.trim().is_empty()) {
        let row = line.split_once('\t').and_then(|(name, value)| {
            let measured = match value.strip_prefix('!') {
                Some(reason) => Measured::Failed(reason.to_string()),
                None => {
                    let ns = value.parse::<f64>().ok()?;
                    Measured::Ns((ns.is_finite() && ns >= 0.0).then_some(ns)?)
                }
            };
            (!name.is_empty()).then(|| (name.to_string(), measured))
        });
        match row {
            Some(row) => rows.push(row),
            None => strange.push(line.to_string()),
        }
    }
    (rows, strange)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_failures_and_noise_are_told_apart() {
        let (rows, strange) =
            parse("getppid\t12.5\nstat\t!stat: No such file\nwarning: x\n\nbad\tfast\nnan\tNaN\n");
        assert_eq!(
            rows,
            [
                ("getppid".to_string(), Measured::Ns(12.5)),
                (
                    "stat".to_string(),
                    Measured::Failed("stat: No such file".to_string())
                ),
            ]
        );
        assert_eq!(strange, ["warning: x", "bad\tfast", "nan\tNaN"]);
    }

    #[test]
    fn every_row_appears_in_a_native_run() {
        let directory = tempfile::tempdir().unwrap();
        let program = build(directory.path()).unwrap();
        let lower = directory.path().join("lower");
        fs::write(&lower, vec![7u8; LOWER_FILE_BYTES]).unwrap();
        let list = Command::new(&program).arg("list").output().unwrap();
        let names: Vec<String> = String::from_utf8(list.stdout)
            .unwrap()
            .lines()
            .map(str::to_string)
            .collect();
        assert!(names.len() >= 36, "{names:?}");

        let run = Command::new(&program)
            .args(["bench", "--budget-ms", "1", "--dir"])
            .arg(directory.path())
            .arg("--lower")
            .arg(&lower)
            .output()
            .unwrap();
        let (rows, strange) = parse(&String::from_utf8(run.stdout).unwrap());
        assert_eq!(strange, [""; 0]);
        assert_eq!(
            rows.iter()
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>(),
            names
        );
        for (name, measured) in rows {
            assert!(
                matches!(measured, Measured::Ns(ns) if ns > 0.0),
                "{name}: {measured:?}"
            );
        }
        assert!(run.status.success());
        // The program removes its scratch directory again.
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, ["micro.c", "micro", "lower"].len());
    }

    #[test]
    fn a_row_that_fails_is_named_and_does_not_stop_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let program = build(directory.path()).unwrap();
        let run = Command::new(&program)
            .args([
                "bench",
                "--budget-ms",
                "1",
                "--rows",
                "getpid,stat_lower,write_null",
            ])
            .args(["--lower", "/nonexistent/file", "--dir"])
            .arg(directory.path())
            .output()
            .unwrap();
        let (rows, _) = parse(&String::from_utf8(run.stdout).unwrap());
        let by_name = |name: &str| rows.iter().find(|row| row.0 == name).unwrap().1.clone();
        assert_eq!(rows.len(), 3);
        assert!(matches!(by_name("getpid"), Measured::Ns(_)));
        assert!(matches!(by_name("write_null"), Measured::Ns(_)));
        assert!(
            matches!(by_name("stat_lower"), Measured::Failed(why) if why.starts_with("stat: "))
        );
        assert_eq!(run.status.code(), Some(1));
    }
}
