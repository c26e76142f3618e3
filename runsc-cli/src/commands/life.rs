//! `state`, `list`, `kill`, `delete`, `pause`, `resume`: what is done to a container by name.

use std::{
    io::{Write, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
use nix::sys::signal::Signal;

use super::Failure;
use crate::{
    args::{
        GlobalArgs,
        oci::{DeleteArgs, IdArgs, KillArgs, ListArgs, ListFormat},
    },
    container::{self, StateJson, ask, kill_monitor, reach},
    link::{Ask, expect_within},
    state::{Container, DoesNotExist, Locked, StateRoot, Status, check_id},
};

/// How long a monitor may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The container of that name, for itself.
pub fn lock(global: &GlobalArgs, id: &str) -> Result<Locked> {
    check_id(id)?;
    let root = StateRoot::find(global.root.as_deref())?.ok_or(DoesNotExist)?;
    root.lock(id)
}

/// The container of that name as it is now.
pub fn find(global: &GlobalArgs, id: &str) -> Result<Container> {
    check_id(id)?;
    let root = StateRoot::find(global.root.as_deref())?.ok_or(DoesNotExist)?;
    Ok(root.container(id)?.ok_or(DoesNotExist)?)
}

pub fn state(global: &GlobalArgs, args: &IdArgs) -> Result<ExitCode, Failure> {
    let container = find(global, &args.id)?;
    let text = serde_json::to_string_pretty(&StateJson::of(&container))?;
    stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

pub fn list(global: &GlobalArgs, args: &ListArgs) -> Result<ExitCode, Failure> {
    let containers = match StateRoot::find(global.root.as_deref())? {
        Some(root) => root.containers()?,
        None => Vec::new(),
    };
    let mut out = stdout().lock();
    if args.quiet {
        for container in &containers {
            writeln!(out, "{}", container.record.id)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let states: Vec<_> = containers.iter().map(StateJson::of).collect();
    if args.format == ListFormat::Json {
        // As runc has it, where there are none.
        let text = match states.is_empty() {
            true => "null".to_owned(),
            false => serde_json::to_string(&states)?,
        };
        write!(out, "{text}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    rows.extend(states.iter().map(StateJson::row));
    table(&mut out, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// Columns of at least twelve characters, three of them spaces between.
fn table(out: &mut impl Write, rows: &[Vec<String>]) -> std::io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        (longest + 3).max(12)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if index + 1 < row.len() {
                let pad = widths[index].saturating_sub(cell.chars().count());
                line.extend(std::iter::repeat_n(' ', pad));
            }
        }
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// A signal's number, from its number or its name with or without SIG.
fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || anyhow!("unknown signal {text:?}");
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64)
            .contains(&number)
            .then_some(number)
            .ok_or_else(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let name = match upper.strip_prefix("SIG") {
        Some(_) => upper.clone(),
        None => format!("SIG{upper}"),
    };
    if let Ok(signal) = name.parse::<Signal>() {
        return Ok(signal as i32);
    }
    // RTMIN and RTMAX as the C library counts.
    let offset = |rest: &str| match rest {
        "" => Some(0),
        rest => rest.parse::<i32>().ok(),
    };
    let number = if let Some(rest) = name.strip_prefix("SIGRTMIN") {
        offset(rest).map(|plus| libc::SIGRTMIN() + plus)
    } else if let Some(rest) = name.strip_prefix("SIGRTMAX") {
        offset(rest).map(|plus| libc::SIGRTMAX() + plus)
    } else {
        None
    };
    number
        .filter(|number| (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(number))
        .ok_or_else(unknown)
}

pub fn kill(global: &GlobalArgs, args: &KillArgs) -> Result<ExitCode, Failure> {
    let signo = parse_signal(&args.signal)?;
    let container = find(global, &args.id)?;
    if container.status() == Status::Stopped && args.all {
        // All of none.
        return Ok(ExitCode::SUCCESS);
    }
    let all = args.all;
    let told = reach(&container).and_then(|connection| {
        expect_within(&connection, PATIENCE)?;
        ask(&connection, Ask::Signal { signo, all })
    });
    match told {
        Err(_) if container.status() == Status::Stopped => {
            Err(anyhow!("container not running").into())
        }
        // What does not answer can still be killed.
        Err(error) if signo == libc::SIGKILL => {
            log::warn!("{error:#}");
            kill_monitor(&container);
            Ok(ExitCode::SUCCESS)
        }
        other => Ok(other.map(|()| ExitCode::SUCCESS)?),
    }
}

pub fn delete(global: &GlobalArgs, args: &DeleteArgs) -> Result<ExitCode, Failure> {
    // A creation holds the lock for as long as it takes.
    if args.force
        && let Ok(container) = find(global, &args.id)
        && container.is_being_created()
    {
        container::kill_creator(&container);
    }
    let locked = match lock(global, &args.id) {
        Err(error) if args.force && error.is::<DoesNotExist>() => return Ok(ExitCode::SUCCESS),
        other => other?,
    };
    match locked.status() {
        Status::Stopped | Status::Created => {}
        _ if args.force => {}
        status => {
            let (id, status) = (&args.id, status.name());
            return Err(
                anyhow!("cannot delete container {id} that is not stopped: {status}").into(),
            );
        }
    }
    container::destroy(locked, None)?;
    Ok(ExitCode::SUCCESS)
}

pub fn pause(global: &GlobalArgs, args: &IdArgs) -> Result<ExitCode, Failure> {
    let locked = lock(global, &args.id)?;
    match locked.status() {
        Status::Running | Status::Created => {}
        Status::Paused | Status::Stopped | Status::Creating => bail_out("container not running")?,
    }
    let connection = reach(&locked)?;
    expect_within(&connection, PATIENCE)?;
    ask(&connection, Ask::Pause)?;
    Ok(ExitCode::SUCCESS)
}

pub fn resume(global: &GlobalArgs, args: &IdArgs) -> Result<ExitCode, Failure> {
    let locked = lock(global, &args.id)?;
    if locked.status() != Status::Paused {
        bail_out("container not paused")?;
    }
    let connection = reach(&locked)?;
    expect_within(&connection, PATIENCE)?;
    ask(&connection, Ask::Resume)?;
    Ok(ExitCode::SUCCESS)
}

fn bail_out(why: &str) -> Result<()> {
    bail!(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("usr1", 10),
            ("64", 64),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for bad in [
            "",
            "0",
            "65",
            "-1",
            "FOO",
            "SIG",
            "RTMIN+31",
            "RTMAX+1",
            "SIGRTMINX",
        ] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tables_are_aligned() {
        let mut out = Vec::new();
        let rows = [
            vec!["ID".into(), "B".into()],
            vec!["a-long-name-x".into(), "/b".into()],
        ];
        table(&mut out, &rows).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "ID              B\na-long-name-x   /b\n");
    }
}
