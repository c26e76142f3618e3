//! `runsc-rs do` and `run` from the outside: what passes through, in both directions.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{Bundle, PROGRAM, command, outcome, with_stubs};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, Uid},
};

/// Runs a command in the sandbox; its status, output and error output.
fn sandboxed(args: &[&str]) -> (Option<i32>, String, String) {
    texts(&command(&["do", "--"]).args(args).output().unwrap())
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let (code, stderr) = outcome(output);
    (
        code,
        String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr,
    )
}

fn shell(script: &str) -> (Option<i32>, String, String) {
    sandboxed(&["/bin/sh", "-c", script])
}

#[test]
fn exit_statuses() {
    for code in [0, 1, 42, 255] {
        let (status, out, err) = shell(&format!("exit {code}"));
        assert_eq!((status, out.as_str(), err.as_str()), (Some(code), "", ""));
    }
    for signal in ["TERM", "KILL", "SEGV"] {
        let number = signal
            .parse::<Signal>()
            .unwrap_or_else(|_| format!("SIG{signal}").parse().unwrap());
        let (status, _, err) = shell(&format!("kill -{signal} $$"));
        assert_eq!(
            (status, err.as_str()),
            (Some(128 + number as i32), ""),
            "{signal}"
        );
    }
}

#[test]
fn programs_that_cannot_be_started() {
    let cases = [
        ("no-such-command", 127, "no-such-command: "),
        ("/no/such/command", 127, "/no/such/command: "),
        ("/etc/passwd", 126, "/etc/passwd: "),
        ("/etc", 126, "/etc: "),
    ];
    for (program, code, start) in cases {
        let (status, out, err) = sandboxed(&[program]);
        assert_eq!((status, out.as_str()), (Some(code), ""), "{program}: {err}");
        assert!(err.starts_with(&format!("runsc-rs: do: {start}")), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

#[test]
fn a_signal_to_the_own_group_stays_in_it() {
    // With pid 1 the group's number would mean "everybody else".
    let script = "trap 'echo caught; exit 6' USR1; kill -USR1 -$$; echo missed";
    assert_eq!(shell(script), (Some(6), "caught\n".into(), String::new()));
}

#[test]
fn the_host_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "before").unwrap();
    let path = dir.path().display();
    let script = format!(
        "cd {path}; echo after > file; mkdir new; rm -f file; ls; echo x > new/y; cat new/y"
    );
    assert_eq!(shell(&script), (Some(0), "new\nx\n".into(), String::new()));
    assert_eq!(fs::read_to_string(&file).unwrap(), "before");
    assert_eq!(common::names(dir.path()), ["file"]);
}

#[test]
fn stdio_passes_through() {
    let mut child = command(&["do", "--", "cat"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(texts(&output), (Some(0), "through\n".into(), String::new()));
    assert_eq!(
        shell("echo err >&2"),
        (Some(0), String::new(), "err\n".into())
    );
    let mut closed = Command::new("/bin/sh");
    let script = "exec \"$0\" do -- /bin/sh -c 'test -e /proc/self/fd/0 || echo closed' <&-";
    let output = closed.arg("-c").arg(script).arg(PROGRAM).output().unwrap();
    assert_eq!(texts(&output), (Some(0), "closed\n".into(), String::new()));
}

#[test]
fn surroundings_are_the_callers() {
    let dir = tempfile::tempdir().unwrap();
    let script = "pwd; echo $MARK; umask; ulimit -n; id -u; id -g; trap";
    let run = |mut command: Command| {
        command.current_dir(dir.path()).env("MARK", "a b");
        texts(&command.args(["/bin/sh", "-c", script]).output().unwrap())
    };
    let mut native = Command::new("/usr/bin/env");
    native.stdin(Stdio::null());
    let mut ours = command(&["do"]);
    ours.args(["--", "/usr/bin/env"]);
    assert_eq!(run(ours), run(native));
    let changed = [
        "do",
        "--user",
        "7:8",
        "--cwd",
        "/usr",
        "--env",
        "MARK=c",
        "--hostname",
        "inside",
    ];
    let script = "pwd; echo $MARK; id -u; id -g; uname -n";
    let output = command(&changed)
        .args(["--", "/bin/sh", "-c", script])
        .output()
        .unwrap();
    assert_eq!(
        texts(&output),
        (Some(0), "/usr\nc\n7\n8\ninside\n".into(), String::new())
    );
}

#[test]
fn an_ordinary_user_needs_no_setup() {
    if !Uid::effective().is_root() {
        // Then all other tests have shown it.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("runsc-rs");
    common::copy_program(&program);
    let mut command = Command::new(program);
    command.args([
        "do",
        "--",
        "/bin/sh",
        "-c",
        "id -u; grep CapEff /proc/self/status",
    ]);
    let output = command
        .uid(12345)
        .gid(12345)
        .current_dir("/")
        .output()
        .unwrap();
    let expected = "12345\nCapEff:\t0000000000000000\n";
    assert_eq!(texts(&output), (Some(0), expected.into(), String::new()));
}

#[test]
fn signals_reach_the_program() {
    let script = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = command(&["do", "--", "/bin/sh", "-c", script])
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(
        (rest.as_str(), child.wait().unwrap().code()),
        ("got\n", Some(5))
    );
    // Without a handler it kills, although the program is the first of its pid namespace.
    let mut child = command(&["do", "--", "/bin/sh", "-c", "echo; exec sleep 100"])
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_stopped_program_stops_the_command() {
    let script = ["do", "--", "/bin/sh", "-c", "kill -STOP $$; exit 3"];
    let mut child = command(&script).spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    // Where no shell could continue it, SIGTSTP stops nothing, as on the host.
    let mut alone = Command::new("/usr/bin/setsid");
    alone.args(["--wait", PROGRAM, "do", "--", "/bin/sh", "-c"]);
    let status = alone.arg("kill -TSTP $$; exit 5").status().unwrap();
    assert_eq!(status.code(), Some(5));
}

#[test]
fn a_job_in_the_background_leaves_the_terminal_alone() {
    let pty = nix::pty::openpty(None, None).unwrap();
    // The shell is no interactive one: `set -m` puts the job into a group of its own.
    let script = format!(
        "set -m; {PROGRAM} do -- /bin/cat & for i in {{1..600}}; do [ -n \"$(jobs -s)\" ] && break; sleep 0.1; done; jobs; read -r line; echo \"got $line\"; fg; echo end $?"
    );
    let mut shell = Command::new("/usr/bin/setsid");
    shell.args(["--ctty", "--wait", "/bin/bash", "-c", &script]);
    // bash takes its terminal from its standard error.
    let slave = pty.slave.try_clone().unwrap();
    shell.stdin(slave).stderr(pty.slave).stdout(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    drop(shell);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = || {
        let mut text = String::new();
        out.read_line(&mut text).unwrap();
        text
    };
    let stopped = line();
    assert!(stopped.contains("Stopped"), "{stopped}");
    let mut keyboard = fs::File::from(pty.master);
    keyboard.write_all(b"for the shell\n").unwrap();
    assert_eq!(line(), "got for the shell\n");
    assert!(line().contains("do -- /bin/cat"));
    keyboard.write_all(b"for cat\n").unwrap();
    assert_eq!(line(), "for cat\n");
    keyboard.write_all(b"\x04").unwrap();
    assert_eq!(line(), "end 0\n");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_bundle_runs() {
    let config = include_str!("data/minimal.json")
        .replace("\"rootfs\"", "\"/\"")
        .replace(
            "\"/bin/true\"",
            "\"/bin/sh\", \"-c\", \"id -u; hostname; exit 3\"",
        )
        .replace("\"process\"", "\"hostname\": \"box\", \"process\"");
    let bundle = Bundle::new(Some(&config));
    let output = bundle.run("c").output().unwrap();
    assert_eq!(texts(&output), (Some(3), "0\nbox\n".into(), String::new()));
    assert_eq!(bundle.left_behind(), Vec::<String>::new());
}

/// A bundle whose program is `script`, run by the host's shell.
fn bundle_of(script: &str, more: &str) -> Bundle {
    let config = include_str!("data/minimal.json")
        .replace("\"rootfs\"", "\"/\"")
        .replace(
            "\"/bin/true\"",
            &format!("\"/bin/sh\", \"-c\", \"{script}\""),
        )
        .replace("\"process\"", &format!("{more} \"process\""));
    Bundle::new(Some(&config))
}

#[test]
fn the_first_process_of_a_container_survives_its_children() {
    let bundle = bundle_of("kill -9 1; (kill -STOP 1; kill -TERM 1); echo alive", "");
    let output = bundle.run("c").output().unwrap();
    assert_eq!(texts(&output), (Some(0), "alive\n".into(), String::new()));
    // What comes from outside may end it.
    let bundle = bundle_of("trap 'exit 4' TERM; echo; while :; do sleep 0.1; done", "");
    let mut run = bundle.run("c").spawn().unwrap();
    let mut out = BufReader::new(run.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    kill(Pid::from_raw(run.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(4));
}

#[test]
fn a_tmpfs_without_a_mode_looks_like_what_it_covers() {
    let mounts = r#""mounts": [{"destination": "/opt", "type": "tmpfs"},
        {"destination": "/srv", "type": "tmpfs", "options": ["mode=700"]}],"#;
    let bundle = bundle_of("stat -c %a /opt /srv", mounts);
    let mode = fs::metadata("/opt").unwrap().permissions();
    let mode = mode.mode() & 0o7777;
    let output = bundle.run("c").output().unwrap();
    let expected = format!("{mode:o}\n700\n");
    assert_eq!(texts(&output), (Some(0), expected, String::new()));
}

#[test]
fn mount_points_are_made_in_a_root_that_becomes_read_only() {
    let mounts = r#""mounts": [{"destination": "/not/there/yet", "type": "tmpfs"}],"#;
    let script = "touch /not/there/yet/x && echo made; touch /x 2> /dev/null || echo sealed";
    let config = include_str!("data/minimal.json")
        .replace("\"rootfs\"", "\"/\", \"readonly\": true")
        .replace(
            "\"/bin/true\"",
            &format!("\"/bin/sh\", \"-c\", \"{script}\""),
        )
        .replace("\"process\"", &format!("{mounts} \"process\""));
    let output = Bundle::new(Some(&config)).run("c").output().unwrap();
    let expected = "made\nsealed\n".into();
    assert_eq!(texts(&output), (Some(0), expected, String::new()));
}

#[test]
fn an_id_is_used_once() {
    let config = include_str!("data/minimal.json")
        .replace("\"rootfs\"", "\"/\"")
        .replace("\"/bin/true\"", "\"/bin/sh\", \"-c\", \"echo; read x\"");
    let bundle = Bundle::new(Some(&config));
    let mut first = bundle.run("c").stdin(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(first.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    let second = texts(&bundle.run("c").output().unwrap());
    let line = "runsc-rs: run: container id: c: already in use\n";
    assert_eq!(second, (Some(1), String::new(), line.into()));
    // Killed, it takes the container with it, and leaves its state for `delete`.
    first.kill().unwrap();
    first.wait().unwrap();
    out.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(bundle.left_behind(), ["c"]);
    let again = texts(&bundle.run("c").output().unwrap());
    assert_eq!(again, (Some(1), String::new(), line.into()));
    let deleted = bundle
        .command(&["delete", "--force", "c"])
        .output()
        .unwrap();
    assert_eq!(texts(&deleted), (Some(0), String::new(), String::new()));
    assert_eq!(bundle.left_behind(), Vec::<String>::new());
}

#[test]
fn a_terminal_has_a_name_and_can_be_opened_by_it() {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut run = Command::new("/usr/bin/setsid");
    run.args(["--ctty", "--wait", PROGRAM, "do", "--", "/bin/sh", "-c"]);
    run.arg("tty; echo opened > $(tty); readlink /proc/self/fd/0");
    let output = run.stdin(pty.slave).output().unwrap();
    let (status, out, _) = texts(&output);
    assert_eq!(
        (status, out.as_str()),
        (Some(0), "/dev/console\n/dev/console\n")
    );
    let mut screen = [0; 64];
    let n = fs::File::from(pty.master).read(&mut screen).unwrap();
    assert_eq!(&screen[..n], b"opened\r\n");
}

/// Children of a process, with their names.
fn children(parent: u32) -> Vec<(u32, String)> {
    let stat = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (head, rest) = text.rsplit_once(") ")?;
        let (pid, name) = head.split_once(" (")?;
        let mut fields = rest.split(' ');
        let alive = fields.next() != Some("Z");
        let is_child = alive && fields.next()? == parent.to_string();
        is_child.then(|| (pid.parse().unwrap(), name.to_owned()))
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(stat).collect()
}

#[test]
fn the_death_of_any_part_is_the_end_of_all() {
    for victim in [
        "runsc-rs",
        "runsc-gofer",
        "runsc-sentry",
        "runsc-stub",
        "template",
    ] {
        let mut run = command(&[with_stubs(), "do", "--", "/bin/sh", "-c"]);
        // At rest in one call, so that the victim is in the middle of nothing.
        run.arg("echo up; read line");
        run.stdin(Stdio::piped());
        let mut run = run
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(run.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        let _keyboard = run.stdin.take();
        let parts = children(run.id());
        let of = |name: &str| parts.iter().find(|(_, n)| n == name).unwrap().0;
        let stubs = children(of("runsc-sentry"));
        let target = match victim {
            "runsc-rs" => run.id(),
            "runsc-stub" => stubs.last().unwrap().0,
            // What stubs are cloned from.
            "template" => stubs[0].0,
            part => of(part),
        };
        kill(Pid::from_raw(target as i32), Signal::SIGKILL).unwrap();
        let output = run.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if victim == "runsc-rs" {
            assert_eq!(output.status.signal(), Some(libc::SIGKILL));
        } else if victim == "runsc-stub" {
            // The first process died with its memory.
            assert_eq!(output.status.code(), Some(137), "{said}");
        } else {
            assert_eq!(output.status.code(), Some(128), "{victim}: {said}");
            assert_eq!(said.lines().count(), 1, "{victim}: {said}");
        }
        let everybody: Vec<u32> = parts.iter().chain(&stubs).map(|(pid, _)| *pid).collect();
        let deadline = Instant::now() + Duration::from_secs(10);
        let lives = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !(stat.is_empty() || stat.contains(") Z ") || stat.contains(") X "))
        };
        while everybody.iter().any(lives) {
            assert!(Instant::now() < deadline, "{victim}: something lives on");
            std::thread::yield_now();
        }
    }
}

#[test]
fn strace_goes_to_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut run = command(&["--strace-log"]);
    let output = run
        .arg(&log)
        .args(["do", "--", "/bin/echo", "hello"])
        .output()
        .unwrap();
    assert_eq!(texts(&output), (Some(0), "hello\n".into(), String::new()));
    let text = fs::read_to_string(log).unwrap();
    assert!(text.contains("write(1, \"hello\\n\", 6) = 6"), "{text}");
}

/// Guest code is changed where that pays, and not if told so.
#[test]
fn code_can_be_left_alone() {
    // umask(2), through libc's syscall(): is its code what it was?
    let script = "import ctypes
libc = ctypes.CDLL(None)
at = ctypes.cast(libc.syscall, ctypes.c_void_p).value
before = ctypes.string_at(at, 64)
for _ in range(200):
    libc.syscall(95, 18)
print(ctypes.string_at(at, 64) == before)";
    let run = |flags: &[&str]| {
        let mut all = vec!["--platform=systrap"];
        all.extend(flags);
        all.extend(["do", "--", "python3", "-c", script]);
        texts(&command(&all).output().unwrap())
    };
    assert_eq!(
        run(&["--no-patch"]),
        (Some(0), "True\n".into(), String::new())
    );
    assert_eq!(run(&[]), (Some(0), "False\n".into(), String::new()));
}

/// The files of others are not the caller's, even if his is the id that stands for others.
#[test]
fn nobody_owns_only_his_own_files() {
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root becomes nobody");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("runsc-rs");
    common::copy_program(&program);
    let own = dir.path().join("own");
    fs::write(&own, "").unwrap();
    std::os::unix::fs::chown(&own, Some(65534), Some(65534)).unwrap();
    let script = format!(
        "id -u; stat -c '%u %g' /etc/passwd {0}; test -O /etc/passwd || echo not mine; \
         chmod 600 /etc/passwd 2>&1 | grep -o 'not permitted'; chmod 640 {0} && echo changed",
        own.display()
    );
    let output = std::process::Command::new(program)
        .args(["do", "--", "sh", "-c", &script])
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .output()
        .unwrap();
    let expected = "65534\n65533 65533\n65534 65534\nnot mine\nnot permitted\nchanged\n";
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        expected,
        "{stderr}"
    );
}
