//! The text a case's outcome travels in.
//!
//! Two uses: one message through the pipe between a case's process and its supervisor
//! ([`encode`], [`decode`]), and one line an outcome on the standard output of `cases run`
//! ([`Line`]), which the runner reads. Neither side trusts the other to live long enough
//! to finish a line.

use crate::case::{Failure, Outcome};

/// An outcome as one message.
pub fn encode(outcome: &Outcome) -> String {
    match outcome {
        Ok(()) => "PASS".to_string(),
        Err(Failure::Fail(why)) => format!("FAIL {}", one_line(why)),
        Err(Failure::Skip(why)) => format!("SKIP {}", one_line(why)),
    }
}

pub fn decode(text: &[u8]) -> Option<Outcome> {
    let text = String::from_utf8_lossy(text);
    let (word, why) = text.split_once(' ').unwrap_or((&text, ""));
    match word {
        "PASS" => Some(Ok(())),
        "FAIL" => Some(Err(Failure::Fail(why.to_string()))),
        "SKIP" => Some(Err(Failure::Skip(why.to_string()))),
        _ => None,
    }
}

/// A line of `cases run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// `START name`
    Start(String),
    /// `PASS name`, `FAIL name: why`, `SKIP name: why`
    Done(String, Outcome),
    /// `DONE`: every case asked for was run.
    End,
}

impl Line {
    /// Reads a line; `None` for anything else a program may have printed.
    pub fn parse(line: &str) -> Option<Line> {
        let line = line.trim_end();
        if line == "DONE" {
            return Some(Line::End);
        }
        let (word, rest) = line.split_once(' ')?;
        let (name, why) = rest.split_once(": ").unwrap_or((rest, ""));
        let name = name.to_string();
        match word {
            "START" => Some(Line::Start(name)),
            "PASS" => Some(Line::Done(name, Ok(()))),
            "FAIL" => Some(Line::Done(name, Err(Failure::Fail(why.to_string())))),
            "SKIP" => Some(Line::Done(name, Err(Failure::Skip(why.to_string())))),
            _ => None,
        }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Line::Start(name) => write!(f, "START {name}"),
            Line::Done(name, Ok(())) => write!(f, "PASS {name}"),
            Line::Done(name, Err(Failure::Fail(why))) => write!(f, "FAIL {name}: {why}"),
            Line::Done(name, Err(Failure::Skip(why))) => write!(f, "SKIP {name}: {why}"),
            Line::End => write!(f, "DONE"),
        }
    }
}

/// Line breaks would end the message early.
pub fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_both_encodings() {
        for outcome in [
            Ok(()),
            Err(Failure::Fail("open(x): expected ENOENT, got EPERM".into())),
            Err(Failure::Skip("needs root".into())),
        ] {
            assert_eq!(decode(encode(&outcome).as_bytes()), Some(outcome.clone()));
            let line = Line::Done("open.x".into(), outcome);
            assert_eq!(Line::parse(&line.to_string()), Some(line));
        }
        assert_eq!(Line::parse("START a.b"), Some(Line::Start("a.b".into())));
        assert_eq!(Line::parse("DONE\n"), Some(Line::End));
    }

    #[test]
    fn noise_is_not_a_result() {
        assert_eq!(decode(b""), None);
        for noise in ["", "PASS", "warning: something", "thread main panicked"] {
            assert_eq!(Line::parse(noise), None, "{noise:?}");
        }
    }

    #[test]
    fn a_message_stays_one_line() {
        let encoded = encode(&Err(Failure::Fail("a\nb".into())));
        assert_eq!(encoded, "FAIL a\\nb");
    }
}
