//! The list of expected failures, and the verdict on a pair of results.
//!
//! One line each: `CASE PLATFORM-PATTERN REASON...`; `#` starts a comment. The list can
//! only shrink honestly: a listed case that passes fails the run, and so does a name no case
//! has.

use crate::glob;
use serde::Serialize;

/// How one run of one case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Pass,
    Fail,
    Skip,
    /// The program or the whole sandbox went down.
    Crash,
    Hang,
}

impl Status {
    pub fn is_bad(self) -> bool {
        matches!(self, Status::Fail | Status::Crash | Status::Hang)
    }

    pub fn word(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Fail => "FAIL",
            Status::Skip => "skip",
            Status::Crash => "CRASH",
            Status::Hang => "HANG",
        }
    }
}

/// What the run as a whole makes of a result in the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As on Linux, and not listed.
    Same,
    ExpectedFailure,
    UnexpectedFailure,
    /// Listed as failing, but it passes: the line must go.
    UnexpectedPass,
    /// Linux itself does not keep the promise here; the case is wrong or the host is odd.
    NativeFailure,
}

impl Verdict {
    pub fn fails_the_run(self) -> bool {
        !matches!(self, Verdict::Same | Verdict::ExpectedFailure)
    }
}

/// Compares a case's result in the sandbox with the one on the host.
pub fn judge(native: Status, sandbox: Status, listed: bool) -> Verdict {
    let differs = sandbox.is_bad() || (sandbox == Status::Skip && native == Status::Pass);
    if native.is_bad() {
        Verdict::NativeFailure
    } else if differs && listed {
        Verdict::ExpectedFailure
    } else if differs {
        Verdict::UnexpectedFailure
    } else if listed && sandbox == Status::Pass {
        Verdict::UnexpectedPass
    } else {
        Verdict::Same
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub case: String,
    pub platforms: String,
    pub reason: String,
    pub line: usize,
}

#[derive(Debug, Clone, Default)]
pub struct ExpectedFailures {
    pub entries: Vec<Entry>,
}

impl ExpectedFailures {
    pub fn parse(text: &str) -> Result<ExpectedFailures, String> {
        let mut entries: Vec<Entry> = Vec::new();
        for (index, raw) in text.lines().enumerate() {
            let line = index + 1;
            let content = raw.split('#').next().unwrap_or("").trim();
            if content.is_empty() {
                continue;
            }
            let mut words = content.split_whitespace();
            let (Some(case), Some(platforms)) = (words.next(), words.next()) else {
                return Err(format!(
                    "line {line}: want CASE PLATFORM REASON, got {content:?}"
                ));
            };
            let reason = words.collect::<Vec<_>>().join(" ");
            if reason.is_empty() {
                return Err(format!("line {line}: {case} has no reason"));
            }
            if entries
                .iter()
                .any(|e| e.case == case && e.platforms == platforms)
            {
                return Err(format!(
                    "line {line}: {case} on {platforms} is listed twice"
                ));
            }
            let (case, platforms) = (case.to_string(), platforms.to_string());
            entries.push(Entry {
                case,
                platforms,
                reason,
                line,
            });
        }
        Ok(ExpectedFailures { entries })
    }

    /// A file that does not exist lists nothing.
    pub fn load(path: &std::path::Path) -> Result<ExpectedFailures, String> {
        let named = |e: String| format!("{}: {e}", path.display());
        match std::fs::read_to_string(path) {
            Ok(text) => ExpectedFailures::parse(&text).map_err(named),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(ExpectedFailures::default()),
            Err(e) => Err(named(e.to_string())),
        }
    }

    pub fn find(&self, case: &str, platform: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|e| e.case == case && glob::matches(&e.platforms, platform))
    }

    /// A complaint for each entry whose case does not exist.
    pub fn unknown<'a>(&'a self, exists: impl Fn(&str) -> bool + 'a) -> Vec<String> {
        let missing = self.entries.iter().filter(|e| !exists(&e.case));
        missing
            .map(|e| format!("line {}: no case is called {:?}", e.line, e.case))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::*;

    #[test]
    fn parses_comments_and_reasons() {
        let list = ExpectedFailures::parse(
            "# all of it\n\nopen.a  *  not built yet # really\nopen.b kvm  no   nested paging\n",
        )
        .unwrap();
        assert_eq!(list.entries.len(), 2);
        assert_eq!(
            list.find("open.a", "ptrace").unwrap().reason,
            "not built yet"
        );
        assert_eq!(
            list.find("open.b", "kvm").unwrap().reason,
            "no nested paging"
        );
        assert!(list.find("open.b", "ptrace").is_none());
        assert_eq!(list.unknown(|name| name == "open.a").len(), 1);
    }

    #[test]
    fn a_line_needs_a_reason_and_stands_once() {
        assert!(ExpectedFailures::parse("open.a").is_err());
        assert!(ExpectedFailures::parse("open.a *").is_err());
        assert!(ExpectedFailures::parse("open.a * x\nopen.a * y").is_err());
    }

    #[test]
    fn verdicts() {
        for (native, sandbox, listed, want) in [
            (Pass, Pass, false, Verdict::Same),
            (Pass, Pass, true, Verdict::UnexpectedPass),
            (Pass, Fail, false, Verdict::UnexpectedFailure),
            (Pass, Fail, true, Verdict::ExpectedFailure),
            (Pass, Crash, true, Verdict::ExpectedFailure),
            (Pass, Hang, false, Verdict::UnexpectedFailure),
            (Pass, Skip, false, Verdict::UnexpectedFailure),
            (Pass, Skip, true, Verdict::ExpectedFailure),
            (Skip, Skip, false, Verdict::Same),
            (Skip, Skip, true, Verdict::Same),
            (Skip, Pass, false, Verdict::Same),
            (Skip, Fail, false, Verdict::UnexpectedFailure),
            (Fail, Pass, false, Verdict::NativeFailure),
            (Hang, Fail, true, Verdict::NativeFailure),
        ] {
            assert_eq!(
                judge(native, sandbox, listed),
                want,
                "{native:?} {sandbox:?} {listed}"
            );
        }
    }
}
