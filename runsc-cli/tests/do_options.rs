//! `do` with its options: what of the host is shown and written, limits, and what was changed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use common::{command, names, outcome};
use nix::unistd::Uid;

/// Exit code, stdout and stderr of a shell script.
fn run(options: &[&str], script: &str) -> (Option<i32>, String, String) {
    let words = [&["do"], options, &["--", "sh", "-c", script]].concat();
    let output = command(&words).output().unwrap();
    let (code, stderr) = outcome(&output);
    (code, String::from_utf8_lossy(&output.stdout).into(), stderr)
}

/// Stdout of a script that must end well.
fn said(options: &[&str], script: &str) -> String {
    let (code, stdout, stderr) = run(options, script);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    stdout
}

/// A directory with some files, and its path.
fn tree() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let base = fs::canonicalize(dir.path()).unwrap().join("base");
    for sub in ["kept", "replaced", "moved/deep"] {
        fs::create_dir_all(base.join(sub)).unwrap();
    }
    for (name, text) in [
        ("changed", "old\n"),
        ("removed", ""),
        ("untouched", "same"),
        ("linked", "two names"),
        ("kept/inner", "old"),
        ("replaced/old", ""),
        ("moved/deep/file", "deep"),
    ] {
        fs::write(base.join(name), text).unwrap();
    }
    fs::hard_link(base.join("linked"), base.join("again")).unwrap();
    (dir, base)
}

const CHANGES: &str = "\
    cd $0; echo new >changed; rm removed; cat untouched linked >/dev/null; echo more >>linked; \
    mkdir -m 711 made; echo text >made/file; ln -s ../changed made/link; mkfifo made/pipe; \
    truncate -s 1G made/sparse; cp /bin/true made/setuid; chmod 4755 made/setuid; \
    rm -r replaced; mkdir replaced; echo x >replaced/fresh; mv moved elsewhere; \
    touch \"$(printf 'odd\\nname')\"; echo more >>kept/inner; mkdir .wh.trap; ls";

fn with_base(base: &Path, options: &[&str]) -> (Option<i32>, String, String) {
    let script = CHANGES.replace("$0", base.to_str().unwrap());
    run(options, &script)
}

#[test]
fn changes_are_listed() {
    let (_dir, base) = tree();
    let (code, _, stderr) = with_base(&base, &["--diff"]);
    assert_eq!(code, Some(0), "{stderr}");
    let prefix = format!("{}/", base.display());
    let lines: Vec<String> = stderr
        .lines()
        .filter(|line| line.contains(&prefix))
        .map(|line| line.replace(&prefix, ""))
        .collect();
    let mut expected = vec![
        "A .wh.trap",
        "M changed",
        "A elsewhere",
        "M kept/inner",
        "A made",
        "D moved",
        "A odd\\nname",
        "D removed",
        "M replaced",
    ];
    // One of the two names by which the file is known.
    let linked = lines
        .iter()
        .filter(|line| ["M linked", "M again"].contains(&line.as_str()));
    assert_eq!(linked.count(), 1, "{stderr}");
    expected.sort_by_key(|line| line[2..].to_owned());
    let mut others: Vec<_> = lines.iter().map(String::as_str).collect();
    others.retain(|line| !["M linked", "M again"].contains(line));
    assert_eq!(others, expected, "{stderr}");
    // Nothing of it was done.
    assert_eq!(fs::read_to_string(base.join("changed")).unwrap(), "old\n");
    assert!(base.join("removed").exists());
}

#[test]
fn changes_are_kept_as_a_layer() {
    let (dir, base) = tree();
    let keep = dir.path().join("keep");
    let (code, _, stderr) = with_base(&base, &["--keep", keep.to_str().unwrap()]);
    // What looks like a whiteout is no change that a layer can hold.
    assert_eq!(code, Some(128), "{stderr}");
    assert!(
        stderr.contains("--keep: ") && stderr.contains(".wh.trap"),
        "{stderr}"
    );
    assert_eq!(fs::metadata(&keep).unwrap().mode() & 0o777, 0o700);
    let kept = keep.join(base.strip_prefix("/").unwrap());
    let text = |name: &str| fs::read_to_string(kept.join(name)).unwrap();
    assert_eq!(text("changed"), "new\n");
    assert_eq!(text("made/file"), "text\n");
    assert_eq!(text("kept/inner"), "oldmore\n");
    assert_eq!(text("elsewhere/deep/file"), "deep");
    assert_eq!(text("replaced/fresh"), "x\n");
    assert_eq!(text("odd\nname"), "");
    for whiteout in [".wh.removed", ".wh.moved", "replaced/.wh..wh..opq"] {
        assert_eq!(text(whiteout), "", "{whiteout}");
    }
    let found = fs::symlink_metadata(kept.join("made/link")).unwrap();
    assert!(found.is_symlink());
    assert!(
        fs::metadata(kept.join("made/pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    let sparse = fs::metadata(kept.join("made/sparse")).unwrap();
    assert_eq!(sparse.len(), 1 << 30);
    assert!(sparse.blocks() < 1000, "{}", sparse.blocks());
    assert_eq!(
        fs::metadata(kept.join("made")).unwrap().mode() & 0o7777,
        0o711
    );
    let setuid = fs::metadata(kept.join("made/setuid")).unwrap();
    assert_eq!(
        setuid.mode() & 0o7777,
        0o755,
        "set-id bits do not leave the sandbox"
    );
    let mut top = names(&kept);
    top.retain(|name| name != "linked" && name != "again");
    top.sort();
    let expected = [
        ".wh.moved",
        ".wh.removed",
        "changed",
        "elsewhere",
        "kept",
        "made",
        "odd\nname",
        "replaced",
    ];
    assert_eq!(top, expected);
}

#[test]
fn a_directory_for_changes_is_new_or_empty() {
    let (dir, base) = tree();
    for (path, word) in [
        (base.clone(), "is not empty"),
        (base.join("changed"), "File exists"),
        (dir.path().join("no/such"), "No such file"),
    ] {
        let (code, stdout, stderr) = run(&["--keep", path.to_str().unwrap()], "echo x");
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{path:?}");
        assert!(
            stderr.contains("--keep") && stderr.contains(word),
            "{stderr}"
        );
    }
    // Not where the command could change it; an inner tree that is read-only is another matter.
    let inner = base.join("inner");
    fs::create_dir(&inner).unwrap();
    let (rw, ro) = (base.to_str().unwrap(), inner.to_str().unwrap());
    for kept in [base.join("new"), inner.clone()] {
        let options = ["--rw", rw, "--keep", kept.to_str().unwrap()];
        let (code, stdout, stderr) = run(&options, "echo x");
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{kept:?}");
        assert!(stderr.contains("--rw"), "{stderr}");
    }
    assert!(!base.join("new").exists());
    let options = ["--rw", rw, "--ro", ro, "--keep", ro];
    assert_eq!(run(&options, "echo x").0, Some(0));
    // Nothing changed, nothing kept.
    let keep = dir.path().join("keep");
    assert_eq!(
        said(&["--keep", keep.to_str().unwrap(), "--diff"], "true"),
        ""
    );
    assert_eq!(names(&keep), [""; 0]);
}

#[test]
fn parts_of_the_host() {
    let (_dir, base) = tree();
    let path = |name: &str| base.join(name).to_str().unwrap().to_owned();
    let (rw, ro, hide, file) = (
        path("kept"),
        path("moved"),
        path("replaced"),
        path("changed"),
    );
    let options = ["--rw", &rw, "--ro", &ro, "--hide", &hide, "--rw", &file];
    let script = format!(
        "cd {}; echo through >kept/new; echo x >moved/new; ls replaced; echo x >replaced/y; \
         echo written >changed; echo x >untouched; cat moved/deep/file",
        base.display()
    );
    let (code, stdout, stderr) = run(&options, &script);
    assert_eq!((code, stdout.as_str()), (Some(0), "deep"), "{stderr}");
    assert_eq!(
        stderr.matches("Read-only file system").count(),
        2,
        "{stderr}"
    );
    assert_eq!(
        fs::read_to_string(base.join("kept/new")).unwrap(),
        "through\n"
    );
    assert_eq!(
        fs::read_to_string(base.join("changed")).unwrap(),
        "written\n"
    );
    assert_eq!(fs::read_to_string(base.join("untouched")).unwrap(), "same");
    assert!(!base.join("moved/new").exists() && !base.join("replaced/y").exists());
    // What is to be seen is not hidden without a word.
    let (code, _, stderr) = run(&["--rw", &file, "--hide", base.to_str().unwrap()], "true");
    assert!(code != Some(0) && stderr.contains("would hide"), "{stderr}");
    // A smaller part of the other kind within a larger one.
    let inner = path("kept/inner");
    let (_, _, stderr) = run(
        &["--ro", &inner, "--rw", &rw],
        &format!("echo x >{inner}; echo y >{rw}/z"),
    );
    assert!(stderr.contains("Read-only file system"), "{stderr}");
    assert_eq!(fs::read_to_string(base.join("kept/z")).unwrap(), "y\n");
    let (code, _, stderr) = run(&["--ro", &rw, "--rw", &rw], "true");
    assert!(
        code == Some(1) && stderr.contains("given twice"),
        "{stderr}"
    );
    let (_, _, stderr) = run(&["--ro", "/"], &format!("echo x >{}", path("untouched")));
    assert!(stderr.contains("Read-only file system"), "{stderr}");
}

#[test]
fn limits_of_a_command() {
    let script = "nproc; grep MemTotal /proc/meminfo; tail /dev/zero; echo $?";
    let said = said(&["--memory", "64M", "--cpus", "0.5"], script);
    assert_eq!(said, format!("1\nMemTotal:{:>15} kB\n137\n", 64 << 10));
    let many = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done";
    let (_, _, stderr) = run(&["--pids", "5"], many);
    assert!(stderr.contains("fork"), "{stderr}");
    let (code, _, stderr) = run(&["--memory", "x"], "true");
    assert!(code == Some(1) && stderr.contains("--memory"), "{stderr}");
}

#[test]
fn a_command_has_its_time() {
    let start = Instant::now();
    let (dir, _) = tree();
    let keep = dir.path().join("keep");
    let script = "trap '' TERM; echo up; echo x >/made; while :; do sleep 1; done";
    let options = ["--timeout", "5s", "--keep", keep.to_str().unwrap()];
    let (code, stdout, stderr) = run(&options, script);
    assert_eq!((code, stdout.as_str()), (Some(124), "up\n"), "{stderr}");
    assert!(start.elapsed() >= Duration::from_secs(5));
    // What it had done is kept.
    assert_eq!(fs::read_to_string(keep.join("made")).unwrap(), "x\n");
    assert_eq!(said(&["--timeout", "1h"], "echo in time"), "in time\n");
    // Not even guest code that never calls anybody goes on.
    let (code, _, _) = run(&["--timeout", "0.3"], "exec sh -c 'while :; do :; done'");
    assert_eq!(code, Some(124));
}

#[test]
fn an_ordinary_user_keeps_changes_too() {
    use std::os::unix::process::CommandExt;
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root becomes somebody else");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let base = fs::canonicalize(dir.path()).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    common::copy_program(&base.join("runsc-rs"));
    fs::create_dir(base.join("own")).unwrap();
    std::os::unix::fs::chown(base.join("own"), Some(12345), Some(12345)).unwrap();
    let script = format!(
        "cd {}; echo x >own/file; mkdir -p own/a/b; echo y >own/a/b/c",
        base.display()
    );
    let keep = base.join("own/keep");
    let output = std::process::Command::new(base.join("runsc-rs"))
        .args([
            "do",
            "--diff",
            "--keep",
            keep.to_str().unwrap(),
            "--",
            "sh",
            "-c",
            &script,
        ])
        .uid(12345)
        .gid(12345)
        .current_dir("/")
        .output()
        .unwrap();
    let (code, stderr) = outcome(&output);
    let own = format!("{}/own", base.display());
    let expected = format!("A {own}/a\nA {own}/file\n");
    assert_eq!((code, stderr.as_str()), (Some(0), expected.as_str()));
    let kept = keep.join(own.strip_prefix('/').unwrap());
    assert_eq!(fs::read_to_string(kept.join("a/b/c")).unwrap(), "y\n");
    assert_eq!(fs::metadata(kept.join("file")).unwrap().uid(), 12345);
}

#[test]
fn a_command_that_was_killed_leaves_no_group_for_long() {
    use std::io::{BufRead, BufReader};
    let groups = || -> Vec<PathBuf> {
        let tops = fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        let mut found = Vec::new();
        for top in tops.map(|top| top.path()) {
            found.extend(names(&top).into_iter().map(|name| top.join(name)));
        }
        found
    };
    let mut child = command(&[
        "do",
        "--pids",
        "50",
        "--memory",
        "64M",
        "--",
        "sh",
        "-c",
        "echo up; sleep 100",
    ])
    .spawn()
    .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "up\n");
    let name = format!("runsc-rs-do-{}", child.id());
    let mine = |paths: Vec<PathBuf>| paths.iter().filter(|path| path.ends_with(&name)).count();
    let before = mine(groups());
    child.kill().unwrap();
    child.wait().unwrap();
    if before == 0 {
        eprintln!("skipped: no control groups can be made here");
        return;
    }
    // The sandbox dies with it, but not before it has returned.
    let deadline = Instant::now() + Duration::from_secs(10);
    while mine(groups()) > 0 {
        assert!(Instant::now() < deadline, "{name} is still there");
        said(
            &["--pids", "50"],
            "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null; true",
        );
    }
    let shown = said(
        &["--pids", "50"],
        "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null; true",
    );
    assert_eq!(shown, "50\n");
}
