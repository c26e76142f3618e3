//! The side-by-side table, the counts and the JSON file.

use crate::expected::{ExpectedFailures, Status, Verdict};
use crate::runner::{Answers, CaseResult, Listed};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// One case on one platform.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    #[serde(flatten)]
    pub result: CaseResult,
    pub verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub name: String,
    pub man: String,
    pub promise: String,
    pub native: CaseResult,
    pub platforms: BTreeMap<String, Judged>,
}

impl Row {
    fn differs(&self) -> bool {
        self.platforms.values().any(|j| j.verdict != Verdict::Same)
    }
}

#[derive(Debug, Default, Serialize)]
pub struct Counts {
    pub pass: usize,
    pub fail: usize,
    pub skip: usize,
    pub crash: usize,
    pub hang: usize,
    pub expected_failures: usize,
    pub unexpected: usize,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub platforms: Vec<String>,
    pub rows: Vec<Row>,
    pub counts: BTreeMap<String, Counts>,
    pub problems: Vec<String>,
    pub ok: bool,
}

/// Compares a result on the host with one in the sandbox; the last one: is it listed as failing?
pub type Judge = fn(&CaseResult, &CaseResult, bool) -> Verdict;

/// Puts the answers side by side.
pub fn build(
    cases: &[Listed],
    native: &Answers,
    sandboxes: &[(String, Answers)],
    expected: &ExpectedFailures,
    judge: Judge,
) -> Report {
    let missing = CaseResult::new(Status::Crash, "no result");
    let mut problems = native.problems.clone();
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    for (platform, answers) in sandboxes {
        problems.extend(answers.problems.iter().cloned());
        counts.entry(platform.clone()).or_default();
    }
    let mut rows = Vec::new();
    for case in cases {
        let on_host = native.results.get(&case.name).unwrap_or(&missing).clone();
        count(
            counts.entry("native".to_string()).or_default(),
            on_host.status,
        );
        let mut platforms = BTreeMap::new();
        for (platform, answers) in sandboxes {
            let result = answers.results.get(&case.name).unwrap_or(&missing).clone();
            let entry = expected.find(&case.name, platform);
            let verdict = judge(&on_host, &result, entry.is_some());
            let tally = counts.entry(platform.clone()).or_default();
            count(tally, result.status);
            tally.expected_failures += usize::from(verdict == Verdict::ExpectedFailure);
            tally.unexpected += usize::from(verdict.fails_the_run());
            let reason = entry.map(|e| e.reason.clone());
            platforms.insert(
                platform.clone(),
                Judged {
                    result,
                    verdict,
                    reason,
                },
            );
        }
        rows.push(Row {
            name: case.name.clone(),
            man: case.man.clone(),
            promise: case.promise.clone(),
            native: on_host,
            platforms,
        });
    }
    let fine = |row: &Row| !row.platforms.values().any(|j| j.verdict.fails_the_run());
    let ok = problems.is_empty() && rows.iter().all(fine);
    let platforms = sandboxes
        .iter()
        .map(|(platform, _)| platform.clone())
        .collect();
    Report {
        platforms,
        rows,
        counts,
        problems,
        ok,
    }
}

fn count(tally: &mut Counts, status: Status) {
    match status {
        Status::Pass => tally.pass += 1,
        Status::Fail => tally.fail += 1,
        Status::Skip => tally.skip += 1,
        Status::Crash => tally.crash += 1,
        Status::Hang => tally.hang += 1,
    }
}

impl Report {
    /// The table: only differences unless `verbose`.
    pub fn text(&self, verbose: bool) -> String {
        let mut out = String::new();
        let shown: Vec<&Row> = self
            .rows
            .iter()
            .filter(|r| verbose || r.differs())
            .collect();
        let width = shown.iter().map(|r| r.name.len()).max().unwrap_or(0).max(4);
        if !shown.is_empty() {
            let _ = write!(out, "{:<width$}  native", "case");
            for platform in &self.platforms {
                let _ = write!(out, "  {platform:<8}");
            }
            out.push('\n');
        }
        for row in shown {
            let _ = write!(out, "{:<width$}  {:<6}", row.name, row.native.status.word());
            for platform in &self.platforms {
                let _ = write!(out, "  {:<8}", row.platforms[platform].result.status.word());
            }
            out.push('\n');
            self.explain(row, verbose, &mut out);
        }
        for problem in &self.problems {
            let _ = writeln!(out, "problem: {problem}");
        }
        let targets = ["native".to_string()];
        for name in targets.iter().chain(&self.platforms) {
            let Some(c) = self.counts.get(name) else {
                continue;
            };
            let _ = write!(out, "{name}: {} passed, {} failed", c.pass, c.fail);
            let _ = write!(
                out,
                ", {} skipped, {} crashed, {} hung",
                c.skip, c.crash, c.hang
            );
            if name != "native" {
                let _ = write!(out, "; {} expected failures", c.expected_failures);
                let _ = write!(out, ", {} unexpected results", c.unexpected);
            }
            out.push('\n');
        }
        out
    }

    fn explain(&self, row: &Row, verbose: bool, out: &mut String) {
        if row.differs() || verbose {
            let _ = writeln!(out, "    {}: {}", row.man, row.promise);
        }
        if !row.native.message.is_empty() {
            let _ = writeln!(out, "    native: {}", row.native.message);
        }
        for platform in &self.platforms {
            let judged = &row.platforms[platform];
            let note = match (judged.verdict, &judged.reason) {
                (Verdict::ExpectedFailure, Some(reason)) => format!(" (expected: {reason})"),
                (Verdict::UnexpectedPass, Some(reason)) => {
                    format!("passes, but is listed as failing: {reason}")
                }
                _ => String::new(),
            };
            if !judged.result.message.is_empty() || !note.is_empty() {
                let _ = writeln!(out, "    {platform}: {}{note}", judged.result.message);
            }
        }
    }
}
