//! Files that the host's processes change while a sandbox uses them, and the other way round.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use common::{Bundle, command, config};
use serde_json::json;

/// A shell in a sandbox that does a line at a time.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            input,
            output,
        }
    }

    /// What a line of script says on stdout and stderr, and `!` if it fails.
    fn ask(&mut self, script: &str) -> String {
        writeln!(
            self.input,
            "{{ {script}; }} 2>&1 || printf '!'; echo; echo ."
        )
        .unwrap();
        let mut said = String::new();
        while !said.ends_with("\n.\n") {
            assert_ne!(self.output.read_line(&mut said).unwrap(), 0, "{said}");
        }
        said.trim_end_matches("\n.\n").trim_end().to_string()
    }

    /// Asks until it is answered so.
    fn ask_until(&mut self, script: &str, expected: &str) {
        let begin = Instant::now();
        loop {
            let said = self.ask(script);
            if said == expected {
                return;
            }
            let patience = Duration::from_secs(20);
            assert!(
                begin.elapsed() < patience,
                "{script}: {said:?}, not {expected:?}"
            );
        }
    }

    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().unwrap().success());
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(dir.path()).unwrap();
    (dir, path)
}

/// The host changes `dir`, which a shell standing in `inside` sees at once, and the other way round.
fn both_see(shell: &mut Shell, dir: &Path, inside: &str) {
    let out = |name: &str| dir.join(name);
    let text = |name: &str| fs::read_to_string(out(name)).unwrap();
    assert_eq!(shell.ask(&format!("cd {inside}")), "");
    // Removed outside.
    assert_eq!(shell.ask("echo one >f; mkdir d; cat f"), "one");
    assert_eq!(text("f"), "one\n");
    fs::remove_file(out("f")).unwrap();
    fs::remove_dir(out("d")).unwrap();
    assert_eq!(shell.ask("echo two >f; mkdir d"), "");
    assert_eq!(text("f"), "two\n");
    assert!(out("d").is_dir());
    assert_eq!(shell.ask("test -e g"), "!");
    fs::write(out("g"), "made outside").unwrap();
    assert_eq!(shell.ask("cat g"), "made outside");
    // Replaced by a rename, both ways.
    fs::write(out("new"), "three").unwrap();
    fs::rename(out("new"), out("f")).unwrap();
    assert_eq!(shell.ask("cat f; test -e new"), "three!");
    assert_eq!(shell.ask("echo four >new; mv new f"), "");
    assert_eq!(text("f"), "four\n");
    // A file of another type, a tree that moves.
    fs::remove_file(out("g")).unwrap();
    fs::create_dir_all(out("g/h")).unwrap();
    fs::write(out("g/h/i"), "deep").unwrap();
    assert_eq!(shell.ask("cat g/h/i"), "deep");
    fs::rename(out("g"), out("k")).unwrap();
    assert_eq!(shell.ask("cat k/h/i; test -e g/h/i"), "deep!");
    std::os::unix::fs::symlink("k/h", out("l")).unwrap();
    assert_eq!(shell.ask("cat l/i; rm l; ls"), "deepd\nf\nk");
    assert!(!out("l").is_symlink());
    // Attributes, and a lock file that one side takes and the other gives back.
    fs::write(out("f"), "longer than before").unwrap();
    assert_eq!(shell.ask("stat -c %s f"), "18");
    for _ in 0..20 {
        assert_eq!(shell.ask("set -C; echo >lock; set +C"), "");
        fs::remove_file(out("lock")).unwrap();
    }
}

#[test]
fn what_do_writes_through_is_shared() {
    let (_dir, path) = place();
    let path_text = path.to_str().unwrap();
    let mut shell = Shell::start(command(&["do", "--rw", path_text, "--", "sh"]));
    both_see(&mut shell, &path, path_text);
    shell.end();
}

#[test]
fn bind_mounts_of_directories_and_files_are_shared() {
    let (_dir, path) = place();
    fs::create_dir(path.join("dir")).unwrap();
    fs::write(path.join("file"), "begin").unwrap();
    let mut config = config("exec sh");
    let binds = [
        json!({"destination": "/mnt", "type": "bind", "source": path.join("dir"), "options": ["rbind"]}),
        json!({"destination": "/opt/file", "type": "bind", "source": path.join("file"), "options": ["bind"]}),
    ];
    config["mounts"].as_array_mut().unwrap().extend(binds);
    let bundle = Bundle::new(Some(&config.to_string()));
    let mut shell = Shell::start(bundle.run("c"));
    both_see(&mut shell, &path.join("dir"), "/mnt");
    let file = path.join("file");
    assert_eq!(shell.ask("cat /opt/file"), "begin");
    fs::write(&file, "in place").unwrap();
    assert_eq!(shell.ask("cat /opt/file"), "in place");
    assert_eq!(shell.ask("printf inside >/opt/file"), "");
    assert_eq!(fs::read_to_string(&file).unwrap(), "inside");
    // A file that is mounted stays mounted, whatever its name leads to now.
    fs::write(path.join("other"), "other").unwrap();
    fs::rename(path.join("other"), &file).unwrap();
    assert_eq!(shell.ask("cat /opt/file; stat -c %s /opt/file"), "inside6");
    assert_eq!(shell.ask("printf still >/opt/file; cat /opt/file"), "still");
    assert_eq!(fs::read_to_string(&file).unwrap(), "other");
    shell.end();
}

#[test]
fn a_root_that_is_written_through_shows_what_is_copied_into_it() {
    let (_dir, path) = place();
    let mut config = config("exec sh");
    config["root"] = json!({"path": "rootfs"});
    let bind = |dir: &str| json!({"destination": dir, "type": "bind", "source": dir, "options": ["rbind", "ro"]});
    let programs = ["/usr", "/bin", "/lib", "/lib64"].map(bind);
    config["mounts"].as_array_mut().unwrap().extend(programs);
    let bundle = Bundle::new(Some(&config.to_string()));
    let root = bundle.path.join("rootfs");
    fs::create_dir(root.join("work")).unwrap();
    let mut run = bundle.command(&["--overlay=none", "run", "--bundle"]);
    run.arg(&bundle.path).arg("c");
    let mut shell = Shell::start(run);
    assert_eq!(shell.ask("cd /work; test -e f"), "!");
    fs::write(root.join("work/f"), "copied").unwrap();
    shell.ask_until("cat f", "copied");
    fs::write(path.join("new"), "replaced").unwrap();
    fs::copy(path.join("new"), root.join("work/g")).unwrap();
    fs::rename(root.join("work/g"), root.join("work/f")).unwrap();
    shell.ask_until("cat f", "replaced");
    fs::remove_file(root.join("work/f")).unwrap();
    shell.ask_until("test -e f", "!");
    assert_eq!(shell.ask("echo made >f; cat f"), "made");
    assert_eq!(fs::read_to_string(root.join("work/f")).unwrap(), "made\n");
    shell.end();
}

#[test]
fn what_lies_under_the_layer_in_memory_is_seen_after_a_while() {
    let (_dir, path) = place();
    let out = |name: &str| path.join(name);
    fs::write(out("f"), "old").unwrap();
    fs::write(out("removed"), "").unwrap();
    let mut shell = Shell::start(command(&["do", "--", "sh"]));
    assert_eq!(
        shell.ask(&format!("cd {}; cat f; ls; test -e new", path.display())),
        "oldf\nremoved\n!"
    );
    fs::write(out("new"), "new").unwrap();
    fs::write(out("over"), "longer").unwrap();
    fs::rename(out("over"), out("f")).unwrap();
    fs::remove_file(out("removed")).unwrap();
    shell.ask_until("cat f; stat -c %s f", "longer6");
    shell.ask_until("cat new", "new");
    shell.ask_until("ls", "f\nnew");
    // What it has written is its own, on both sides.
    assert_eq!(shell.ask("echo own >f; cat f"), "own");
    assert_eq!(fs::read_to_string(out("f")).unwrap(), "longer");
    shell.end();
}
