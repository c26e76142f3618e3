//! Runs a folder of foreign test binaries natively and in the sandbox.
//!
//! Two kinds are understood: GoogleTest binaries, recognised by what they answer to
//! `--gtest_list_tests`, one result a test; and binaries that report by exit status the way
//! LTP's do (bits 1 failed, 2 broken, 4 warning, 32 not for this configuration), one result
//! a binary with its TPASS and TFAIL lines counted.
//!
//! What a test writes in the sandbox stays there, so GoogleTest's JSON file comes back
//! through standard output: a shell inside runs the binary and prints the file.

use crate::expected::{ExpectedFailures, Status, Verdict};
use crate::launch::{Output, Target, describe};
use crate::protocol::one_line;
use crate::report::{self, Report};
use crate::runner::{Answers, CaseResult, Listed};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    GoogleTest,
    ExitCode,
}

/// A test binary.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its path below the folder.
    pub name: String,
    pub path: PathBuf,
}

#[derive(Debug, Clone)]
pub struct Plan {
    /// `None`: find out for each binary.
    pub kind: Option<Kind>,
    /// For one binary.
    pub timeout: Duration,
    pub jobs: usize,
}

/// Every executable file below a folder, sorted by name.
pub fn programs(dir: &Path) -> Result<Vec<Program>, String> {
    let root = std::fs::canonicalize(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder);
        for entry in entries
            .map_err(|e| format!("{}: {e}", folder.display()))?
            .flatten()
        {
            let path = entry.path();
            let Ok(meta) = std::fs::metadata(&path) else {
                continue;
            };
            let is_link = entry.file_type().is_ok_and(|t| t.is_symlink());
            if meta.is_dir() && !is_link {
                folders.push(path);
            } else if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
                let name = path
                    .strip_prefix(&root)
                    .unwrap_or(&path)
                    .display()
                    .to_string();
                found.push(Program { name, path });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Runs all of them everywhere.
pub fn run(
    programs: &[Program],
    targets: &[Target],
    plan: &Plan,
    expected: &ExpectedFailures,
) -> Result<Report, String> {
    let plans: Vec<(Program, Kind, Vec<String>)> = programs
        .iter()
        .map(|program| {
            let tests = match plan.kind {
                Some(Kind::ExitCode) => None,
                _ => list_tests(program),
            };
            match (plan.kind, tests) {
                (Some(Kind::GoogleTest), None) => Err(format!(
                    "{}: not a GoogleTest binary",
                    program.path.display()
                )),
                (_, Some(tests)) => Ok((program.clone(), Kind::GoogleTest, tests)),
                (_, None) => Ok((program.clone(), Kind::ExitCode, Vec::new())),
            }
        })
        .collect::<Result<_, _>>()?;
    let native = run_on(&Target::native(), &plans, plan);
    let sandboxes: Vec<(String, Answers)> = targets
        .iter()
        .map(|t| (t.name.clone(), run_on(t, &plans, plan)))
        .collect();
    let mut names: Vec<&String> = native.results.keys().collect();
    for (_, answers) in &sandboxes {
        names.extend(answers.results.keys());
    }
    names.sort();
    names.dedup();
    let unknown = expected.unknown(|name| names.iter().any(|n| *n == name));
    if !unknown.is_empty() {
        return Err(format!("expected failures: {}", unknown.join("; ")));
    }
    let listed: Vec<Listed> = names
        .into_iter()
        .map(|name| Listed {
            name: name.clone(),
            man: "foreign".to_string(),
            promise: "as on Linux".to_string(),
        })
        .collect();
    Ok(report::build(&listed, &native, &sandboxes, expected, judge))
}

/// A foreign suite's result is right when it is Linux's, whatever Linux's is.
fn judge(native: &CaseResult, sandbox: &CaseResult, listed: bool) -> Verdict {
    let differs =
        native.status != sandbox.status || tally_of(&native.message) != tally_of(&sandbox.message);
    match (differs, listed) {
        (false, false) => Verdict::Same,
        (false, true) => Verdict::UnexpectedPass,
        (true, false) => Verdict::UnexpectedFailure,
        (true, true) => Verdict::ExpectedFailure,
    }
}

/// The counts an LTP-style result starts with, up to the semicolon.
fn tally_of(message: &str) -> Option<&str> {
    message
        .starts_with("TPASS ")
        .then(|| message.split(';').next().unwrap_or(message))
}

fn run_on(target: &Target, programs: &[(Program, Kind, Vec<String>)], plan: &Plan) -> Answers {
    let answers = Mutex::new(Answers::default());
    let queue = Mutex::new(programs.iter());
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no worker panics").next();
                    let Some((program, kind, tests)) = next else {
                        return;
                    };
                    let results = match kind {
                        Kind::GoogleTest => run_gtest(target, program, tests, plan.timeout),
                        Kind::ExitCode => run_exit_code(target, program, plan.timeout),
                    };
                    answers
                        .lock()
                        .expect("no worker panics")
                        .results
                        .extend(results);
                }
            });
        }
    });
    answers.into_inner().expect("no worker panics")
}

/// A program's test names if it is a GoogleTest binary, found out natively.
fn list_tests(program: &Program) -> Option<Vec<String>> {
    let words = [
        program.path.display().to_string(),
        "--gtest_list_tests".to_string(),
    ];
    let output = Target::native()
        .output(&words, Duration::from_secs(20))
        .ok()?;
    if !output.status.is_some_and(|s| s.success()) {
        return None;
    }
    let tests = parse_list(&output.stdout);
    (!tests.is_empty()).then_some(tests)
}

/// `Suite.` lines, each followed by indented test names.
fn parse_list(text: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut suite = None;
    for line in text.lines() {
        let word = line.split('#').next().unwrap_or("").trim_end();
        if let Some(test) = word.strip_prefix("  ") {
            if let Some(suite) = suite {
                tests.push(format!("{suite}{}", test.trim()));
            }
        } else if word.ends_with('.') && !word.contains(' ') {
            suite = Some(word);
        } else {
            suite = None;
        }
    }
    tests.retain(|t| !t.contains("DISABLED_"));
    tests
}

const MARK: &str = "==== conformance gtest result";

/// Runs in the target: the binary, then a line with its status, then its JSON file.
const RELAY: &str = "f=$(mktemp) || exit 125; t=$1; shift; \"$t\" --gtest_output=json:\"$f\" \"$@\"; \
    s=$?; printf '\\n==== conformance gtest result %s\\n' \"$s\"; cat \"$f\"; rm -f \"$f\"";

fn run_gtest(
    target: &Target,
    program: &Program,
    tests: &[String],
    timeout: Duration,
) -> Vec<(String, CaseResult)> {
    let all = relay(target, program, None, timeout);
    let mut found = all.results;
    // A crash or a hang takes the file with it: ask for each missing test alone.
    for test in tests {
        if !found.contains_key(test) {
            let alone = relay(target, program, Some(test), timeout);
            let result = alone.results.get(test).cloned().unwrap_or(alone.otherwise);
            found.insert(test.clone(), result);
        }
    }
    let mut results: Vec<_> = found
        .into_iter()
        .map(|(test, r)| (format!("{}:{test}", program.name), r))
        .collect();
    results.sort_by(|a, b| a.0.cmp(&b.0));
    results
}

struct Relayed {
    results: BTreeMap<String, CaseResult>,
    /// For a test that is not among the results.
    otherwise: CaseResult,
}

fn relay(target: &Target, program: &Program, only: Option<&str>, timeout: Duration) -> Relayed {
    let mut words: Vec<String> = ["sh", "-c", RELAY, "sh"]
        .iter()
        .map(|word| word.to_string())
        .collect();
    words.push(program.path.display().to_string());
    words.extend(only.map(|test| format!("--gtest_filter={test}")));
    let output = match target.output(&words, timeout) {
        Ok(output) => output,
        Err(e) => {
            let otherwise = CaseResult::new(Status::Crash, format!("cannot start: {e}"));
            return Relayed {
                results: BTreeMap::new(),
                otherwise,
            };
        }
    };
    let (status, json) = match output.stdout.rsplit_once(MARK) {
        Some((_, rest)) => rest.split_once('\n').unwrap_or((rest, "")),
        None => ("", ""),
    };
    let results = parse_results(json);
    let otherwise = if output.status.is_none() {
        CaseResult::new(Status::Hang, "killed at the timeout")
    } else if status.is_empty() {
        CaseResult::new(
            Status::Crash,
            format!("{}: {}", describe(output.status), tail(&output)),
        )
    } else {
        let code = status.trim();
        CaseResult::new(
            Status::Crash,
            format!("no result; status {code}: {}", tail(&output)),
        )
    };
    Relayed { results, otherwise }
}

/// GoogleTest's JSON: suites, their tests, and each test's failures.
fn parse_results(json: &str) -> BTreeMap<String, CaseResult> {
    let mut results = BTreeMap::new();
    let Ok(document) = serde_json::from_str::<serde_json::Value>(json.trim()) else {
        return results;
    };
    let list = |value: &serde_json::Value, key: &str| {
        value
            .get(key)
            .and_then(|v| v.as_array())
            .cloned()
            .unwrap_or_default()
    };
    let word = |value: &serde_json::Value, key: &str| {
        value
            .get(key)
            .and_then(|v| v.as_str())
            .unwrap_or_default()
            .to_string()
    };
    for suite in list(&document, "testsuites") {
        for test in list(&suite, "testsuite") {
            let name = format!("{}.{}", word(&suite, "name"), word(&test, "name"));
            let failures: Vec<String> = list(&test, "failures")
                .iter()
                .map(|f| one_line(&word(f, "failure")))
                .collect();
            let result = if !failures.is_empty() {
                CaseResult::new(Status::Fail, failures.join("; "))
            } else if word(&test, "result") == "SKIPPED" || word(&test, "status") == "NOTRUN" {
                CaseResult::new(Status::Skip, "")
            } else {
                CaseResult::new(Status::Pass, "")
            };
            // A filtered run lists nothing but what ran; a suppressed test is not a result.
            if word(&test, "result") != "SUPPRESSED" {
                results.insert(name, result);
            }
        }
    }
    results
}

fn run_exit_code(
    target: &Target,
    program: &Program,
    timeout: Duration,
) -> Vec<(String, CaseResult)> {
    let words = [program.path.display().to_string()];
    let result = match target.output(&words, timeout) {
        Ok(output) => judge_exit(&output),
        Err(e) => CaseResult::new(Status::Crash, format!("cannot start: {e}")),
    };
    vec![(program.name.clone(), result)]
}

const LTP_BITS: [(i32, &str); 4] = [(1, "TFAIL"), (2, "TBROK"), (4, "TWARN"), (32, "TCONF")];
const AUTOMAKE_SKIP: i32 = 77;

fn judge_exit(output: &Output) -> CaseResult {
    let Some(status) = output.status else {
        return CaseResult::new(Status::Hang, "killed at the timeout");
    };
    let text = format!("{}\n{}", output.stdout, output.stderr);
    let count = |word: &str| {
        text.split_whitespace()
            .filter(|w| w.trim_matches(':') == word)
            .count()
    };
    let tally = format!("TPASS {} TFAIL {}", count("TPASS"), count("TFAIL"));
    let Some(code) = status.code() else {
        return CaseResult::new(
            Status::Crash,
            format!("{tally}; {}", describe(output.status)),
        );
    };
    let bits: Vec<&str> = LTP_BITS
        .iter()
        .filter(|(bit, _)| code & bit != 0)
        .map(|(_, word)| *word)
        .collect();
    let (status, meaning) = match code {
        0 => (Status::Pass, "exit 0".to_string()),
        AUTOMAKE_SKIP => (Status::Skip, format!("exit {code}")),
        128.. => (Status::Crash, format!("exit {code}")),
        32 | 36 => (Status::Skip, format!("exit {code} ({})", bits.join("+"))),
        4 => (Status::Pass, "exit 4 (TWARN)".to_string()),
        _ if bits.is_empty() => (Status::Fail, format!("exit {code}")),
        _ => (Status::Fail, format!("exit {code} ({})", bits.join("+"))),
    };
    let why = if status.is_bad() {
        tail(output)
    } else {
        String::new()
    };
    let sep = if why.is_empty() { "" } else { ": " };
    CaseResult::new(status, format!("{tally}; {meaning}{sep}{why}"))
}

/// The last lines it said, the most telling ones first to hand.
fn tail(output: &Output) -> String {
    let telling = |line: &&str| line.contains("TFAIL") || line.contains("TBROK");
    let said = |line: &&str| !line.trim().is_empty() && !line.starts_with(MARK);
    let all: Vec<&str> = output
        .stderr
        .lines()
        .chain(output.stdout.lines())
        .filter(said)
        .collect();
    let mut lines: Vec<&str> = all.iter().copied().filter(telling).take(3).collect();
    if lines.is_empty() {
        lines = all.iter().rev().take(3).rev().copied().collect();
    }
    lines.join(" | ").trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_test_list() {
        let text = "Running main() from gtest_main.cc\nPipe.\n  Reads\n  Writes\n\
                    All/Sized/0.  # TypeParam = int\n  Big/1  # GetParam() = 4\n  DISABLED_No\n";
        assert_eq!(
            parse_list(text),
            ["Pipe.Reads", "Pipe.Writes", "All/Sized/0.Big/1"]
        );
        assert!(parse_list("usage: prog [-h]\n  -h  help\n").is_empty());
    }

    #[test]
    fn reads_results() {
        let json = r#"{"testsuites":[{"name":"A","testsuite":[
            {"name":"ok","status":"RUN","result":"COMPLETED"},
            {"name":"no","status":"RUN","result":"COMPLETED","failures":[{"failure":"x\ny"}]},
            {"name":"later","status":"RUN","result":"SKIPPED"}]}]}"#;
        let results = parse_results(json);
        assert_eq!(results["A.ok"].status, Status::Pass);
        assert_eq!(results["A.no"], CaseResult::new(Status::Fail, "x\\ny"));
        assert_eq!(results["A.later"].status, Status::Skip);
        assert!(parse_results("not json").is_empty());
    }

    #[test]
    fn counts_are_part_of_the_result() {
        let same = Verdict::Same;
        let differs = Verdict::UnexpectedFailure;
        for (native, sandbox, want) in [
            (
                (Status::Pass, "TPASS 3 TFAIL 0; x"),
                (Status::Pass, "TPASS 3 TFAIL 0; y"),
                same,
            ),
            (
                (Status::Pass, "TPASS 3 TFAIL 0; x"),
                (Status::Pass, "TPASS 2 TFAIL 0; x"),
                differs,
            ),
            (
                (Status::Fail, "TPASS 2 TFAIL 1; x"),
                (Status::Fail, "TPASS 2 TFAIL 1; x"),
                same,
            ),
            (
                (Status::Fail, "one reason"),
                (Status::Fail, "another"),
                same,
            ),
            ((Status::Fail, ""), (Status::Pass, ""), differs),
            ((Status::Skip, ""), (Status::Skip, ""), same),
        ] {
            let of = |side: (Status, &str)| CaseResult::new(side.0, side.1);
            assert_eq!(
                judge(&of(native), &of(sandbox), false),
                want,
                "{native:?} {sandbox:?}"
            );
        }
        let (pass, fail) = (
            CaseResult::new(Status::Pass, ""),
            CaseResult::new(Status::Fail, ""),
        );
        assert_eq!(judge(&pass, &fail, true), Verdict::ExpectedFailure);
        assert_eq!(judge(&pass, &pass, true), Verdict::UnexpectedPass);
    }
}
