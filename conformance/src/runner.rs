//! Runs the cases natively and on every platform.
//!
//! Cases go in batches, one command (so one sandbox) a batch: the `cases` program streams a
//! line when a case starts and one when it ends. If the stream breaks off or goes quiet, the
//! case that was running is the crash or the hang, and the rest of the batch is started
//! again without it. A batch size of one gives every case a sandbox of its own.

use crate::case::Failure;
use crate::expected::Status;
use crate::launch::{Next, Running, Target, describe};
use crate::protocol::{Line, one_line};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// A case as the `cases` program lists it.
#[derive(Debug, Clone, Deserialize)]
pub struct Listed {
    pub name: String,
    pub man: String,
    pub promise: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    pub status: Status,
    pub message: String,
}

impl CaseResult {
    pub fn new(status: Status, message: impl Into<String>) -> CaseResult {
        CaseResult {
            status,
            message: message.into(),
        }
    }
}

/// How to run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub cases_program: PathBuf,
    /// Where the cases make their scratch directories, as seen by the cases.
    pub dir: PathBuf,
    /// Cases a command runs.
    pub batch: usize,
    /// Commands at a time.
    pub jobs: usize,
    pub case_timeout_s: u32,
    /// Silence after which a command is taken for hung, over the case's own timeout.
    pub grace: Duration,
}

/// Everything one target answered.
#[derive(Debug, Default)]
pub struct Answers {
    pub results: BTreeMap<String, CaseResult>,
    /// What went wrong outside any case; each fails the run.
    pub problems: Vec<String>,
}

/// Asks the `cases` program what there is.
pub fn list(cases_program: &Path) -> Result<Vec<Listed>, String> {
    let named = |e: String| format!("{} list --json: {e}", cases_program.display());
    let mut command = std::process::Command::new(cases_program);
    let output = command
        .args(["list", "--json"])
        .output()
        .map_err(|e| named(e.to_string()))?;
    if !output.status.success() {
        return Err(named(describe(Some(output.status))));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| named(e.to_string()))
}

/// Runs these cases on one target.
pub fn run(target: &Target, plan: &Plan, names: &[String]) -> Answers {
    let answers = Mutex::new(Answers::default());
    let batches: VecDeque<&[String]> = names.chunks(plan.batch.max(1)).collect();
    let batches = Mutex::new(batches);
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let batch = batches.lock().expect("no worker panics").pop_front();
                    let Some(batch) = batch else { return };
                    run_batch(target, plan, batch, &answers);
                }
            });
        }
    });
    answers.into_inner().expect("no worker panics")
}

/// Starts that may fail in a row before the rest of a batch is given up.
const FAILED_STARTS: u32 = 2;

fn run_batch(target: &Target, plan: &Plan, names: &[String], answers: &Mutex<Answers>) {
    let record = |name: &str, result: CaseResult| {
        let mut answers = answers.lock().expect("no worker panics");
        answers.results.insert(name.to_string(), result);
    };
    let mut left: VecDeque<&String> = names.iter().collect();
    let mut failed_starts = 0;
    while !left.is_empty() {
        let ended = run_command(target, plan, &mut left, &record);
        match ended {
            Ended::Complete(problem) => {
                if let Some(problem) = problem {
                    let mut answers = answers.lock().expect("no worker panics");
                    answers.problems.push(format!("{}: {problem}", target.name));
                }
                // Cases the program never reported must not vanish.
                for name in left.drain(..) {
                    record(
                        name,
                        CaseResult::new(Status::Crash, "no result was reported"),
                    );
                }
            }
            Ended::During(status, why) => {
                failed_starts = 0;
                if let Some(name) = left.pop_front() {
                    record(name, CaseResult::new(status, why));
                }
            }
            Ended::Unstarted(status, why) => {
                failed_starts += 1;
                if let Some(name) = left.pop_front() {
                    record(name, CaseResult::new(status, why.clone()));
                }
                if failed_starts >= FAILED_STARTS {
                    for name in left.drain(..) {
                        record(name, CaseResult::new(status, why.clone()));
                    }
                }
            }
        }
    }
}

/// How a command ended.
enum Ended {
    /// All cases ran; perhaps the command then misbehaved.
    Complete(Option<String>),
    /// During the first case that is left.
    During(Status, String),
    /// Before any case started.
    Unstarted(Status, String),
}

fn run_command(
    target: &Target,
    plan: &Plan,
    left: &mut VecDeque<&String>,
    record: &dyn Fn(&str, CaseResult),
) -> Ended {
    let mut words: Vec<String> = vec![plan.cases_program.display().to_string(), "run".into()];
    words.extend([
        "--stream".into(),
        "--dir".into(),
        plan.dir.display().to_string(),
    ]);
    words.extend(["--timeout".into(), plan.case_timeout_s.to_string()]);
    words.extend(left.iter().map(|name| name.to_string()));
    let mut running = match target.start(&words) {
        Ok(running) => running,
        Err(e) => {
            let program = target.prefix.first().unwrap_or(&words[0]);
            return Ended::Unstarted(Status::Crash, format!("cannot start {program}: {e}"));
        }
    };
    let silence = Duration::from_secs(u64::from(plan.case_timeout_s)) + plan.grace;
    let mut started = false;
    let mut in_case = false;
    loop {
        let line = match running.next_line(silence) {
            Next::Line(line) => line,
            Next::End => {
                let why = last_words(&mut running);
                return match (in_case, started) {
                    (true, _) => Ended::During(Status::Crash, why),
                    (false, false) => Ended::Unstarted(Status::Crash, why),
                    (false, true) if left.is_empty() => Ended::Complete(Some(why)),
                    (false, true) => Ended::During(Status::Crash, format!("between cases: {why}")),
                };
            }
            Next::Timeout => {
                let why = format!("nothing heard for {} s", silence.as_secs());
                return match (started, left.is_empty()) {
                    (false, _) => Ended::Unstarted(Status::Hang, why),
                    (true, false) => Ended::During(Status::Hang, why),
                    (true, true) => Ended::Complete(Some(why)),
                };
            }
        };
        match Line::parse(&line) {
            Some(Line::Start(name)) if left.front().is_some_and(|n| **n == name) => {
                started = true;
                in_case = true;
            }
            Some(Line::Done(name, outcome)) if left.front().is_some_and(|n| **n == name) => {
                in_case = false;
                left.pop_front();
                record(&name, from_outcome(outcome));
            }
            Some(Line::End) => {
                return Ended::Complete(match running.wait(plan.grace) {
                    Some(_) => None,
                    None => Some("the command did not end after its last case".to_string()),
                });
            }
            // Anything else is a program talking on standard output.
            _ => {}
        }
    }
}

fn from_outcome(outcome: Result<(), Failure>) -> CaseResult {
    match outcome {
        Ok(()) => CaseResult::new(Status::Pass, ""),
        Err(Failure::Fail(why)) => CaseResult::new(Status::Fail, why),
        Err(Failure::Skip(why)) => CaseResult::new(Status::Skip, why),
    }
}

fn last_words(running: &mut Running) -> String {
    let status = describe(running.wait(Duration::from_secs(5)));
    let stderr = running.stderr_tail();
    let last: Vec<&str> = stderr.lines().rev().take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    if last.is_empty() {
        status
    } else {
        format!("{status}: {}", one_line(&last.join(" | ")))
    }
}
