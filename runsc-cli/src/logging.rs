//! The log of all our processes, and complaints to the user.
//!
//! One line a record, written with one `write` to stderr or to a file opened for appending, so that
//! the processes of a sandbox can share it.
//!
//! `--log` is what runc's callers read: a file that gets the complaints, as `level`, `msg` and `time`
//! in text or JSON. A complaint always goes to stderr as well.

use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::failure::Report;

static LOGGER: OnceLock<Logger> = OnceLock::new();
static COMPLAINTS: OnceLock<(File, Format)> = OnceLock::new();

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// Time, process, level, place and text.
    Plain,
    /// runc's `time="..." level=... msg="..."`.
    Text,
    Json,
}

struct Logger {
    to: File,
    process: &'static str,
    format: Format,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = printable(&record.args().to_string());
        let line = match self.format {
            Format::Plain => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                format!(
                    "{}.{:06} {} {:5} {}: {text}\n",
                    now.as_secs(),
                    now.subsec_micros(),
                    self.process,
                    record.level(),
                    record.target(),
                )
            }
            format => line(
                format,
                record.level(),
                &format!("{}: {text}", self.process),
                None,
            ),
        };
        // Nothing sensible can be done about a log that cannot be written.
        let _ = (&self.to).write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Sends this process's records to `to`. Later calls are ignored.
pub fn init(process: &'static str, level: LevelFilter, format: Format, to: OwnedFd) {
    log::set_max_level(level);
    let logger = LOGGER.get_or_init(|| Logger {
        to: to.into(),
        process,
        format,
    });
    // Fails only if there is a logger already.
    let _ = log::set_logger(logger);
}

/// Sends complaints to a file as well.
pub fn complain_to(to: OwnedFd, format: Format) {
    // Called once.
    let _ = COMPLAINTS.set((to.into(), format));
}

/// One line on stderr: the command, and what is wrong with every cause.
pub fn complain(command: &str, error: &anyhow::Error) {
    let report = Report::of(error);
    let text = match &report {
        Some(report) => report.full(),
        None => format!("{error:#}"),
    };
    let text = printable(&text);
    if let Some((to, format)) = COMPLAINTS.get() {
        let line = line(*format, Level::Error, &text, report.as_ref());
        let mut to = to;
        // There is stderr.
        let _ = to.write_all(line.as_bytes());
    }
    let line = format!("runsc-rs: {command}: {text}\n");
    // There is no better place to complain about it.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// One line on stderr: what whoever waits for a container should know, though nothing failed here.
pub fn tell(text: &str) {
    let text = printable(text);
    log::warn!("{text}");
    let line = format!("runsc-rs: {text}\n");
    // As above.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// A line as runc writes it, with what a report knows besides.
fn line(format: Format, level: Level, text: &str, report: Option<&Report>) -> String {
    let time = SystemTime::UNIX_EPOCH
        + SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|now| std::time::Duration::from_secs(now.as_secs()))
            .unwrap_or_default();
    let time = crate::clock::rfc3339(time);
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    if format != Format::Json {
        return format!("time=\"{time}\" level={level} msg={text:?}\n");
    }
    let mut line = json!({"level": level, "msg": text, "time": time});
    if let Some(report) = report {
        line["stage"] = report.stage.name().into();
        if let Some(errno) = report.errno {
            line["errno"] = errno.into();
        }
        if let Some(advice) = report.advice() {
            line["advice"] = advice.into();
        }
    }
    format!("{line}\n")
}

/// Text on one line that cannot steer a terminal.
pub fn printable(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            result.extend(c.escape_default());
        } else {
            result.push(c);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runcs_callers_find_what_they_read() {
        let error = anyhow::anyhow!("no \"x\"\nhere");
        let text = printable(&format!("{error:#}"));
        let json = line(Format::Json, Level::Error, &text, None);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "no \"x\"\\nhere");
        assert!(value["time"].as_str().unwrap().ends_with('Z'));
        assert!(json.ends_with("}\n") && json.matches('\n').count() == 1);
        let text = line(Format::Text, Level::Warn, "a \"b\"", None);
        assert!(
            text.ends_with(" level=warning msg=\"a \\\"b\\\"\"\n"),
            "{text}"
        );
        let report = Report {
            stage: crate::failure::Stage::State,
            errno: Some(libc::EACCES),
            message: "m".into(),
        };
        let json = line(Format::Json, Level::Error, "m", Some(&report));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&value["stage"], &value["errno"]),
            (&json!("state"), &json!(13))
        );
        assert!(value["advice"].is_string());
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc é"), "a\\u{1b}[2Jb\\nc é");
    }
}
