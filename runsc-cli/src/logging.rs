//! The log of all our processes, and complaints to the user.
//!
//! One line a record, written with one `write` to stderr or to a file opened for appending, so that
//! the three processes of a sandbox can share it.

use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use log::{LevelFilter, Log, Metadata, Record};

static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    to: File,
    process: &'static str,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let line = format!(
            "{}.{:06} {} {:5} {}: {}\n",
            now.as_secs(),
            now.subsec_micros(),
            self.process,
            record.level(),
            record.target(),
            printable(&record.args().to_string()),
        );
        // Nothing sensible can be done about a log that cannot be written.
        let _ = (&self.to).write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Sends this process's records to `to`. Later calls are ignored.
pub fn init(process: &'static str, level: LevelFilter, to: OwnedFd) {
    log::set_max_level(level);
    let logger = LOGGER.get_or_init(|| Logger {
        to: to.into(),
        process,
    });
    // Fails only if there is a logger already.
    let _ = log::set_logger(logger);
}

/// One line on stderr: the command, and what is wrong with every cause.
pub fn complain(command: &str, error: &anyhow::Error) {
    let line = format!(
        "runsc-rs: {command}: {}\n",
        printable(&format!("{error:#}"))
    );
    // There is no better place to complain about it.
    let _ = std::io::stderr().write_all(line.as_bytes());
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
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc é"), "a\\u{1b}[2Jb\\nc é");
    }
}
