//! A real Docker engine with this program as a runtime: what users type, and what they expect.
//!
//! One dockerd of the test's own (Debian's docker.io) with its own data, state and socket, without
//! network, configured by `runsc-rs install`; it is stopped at the end. All cases share it, so that
//! this is one test: each is named when it fails, and the others are tried nevertheless. Some of them
//! are tried again with another engine for each of the other platforms.
//!
//! - `RUNSC_RS_DOCKER_CASE=TEXT` tries only those with TEXT in their names.
//! - Skipped where dockerd is missing, or this is not root; `RUNSC_RS_REQUIRE_ALL=1` makes that a
//!   failure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::Write,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use common::{
    docker::{Case, Docker, available, is_possible, try_all, wait_for},
    session::Session,
};

const CASES: &[Case] = &[
    ("run", run),
    ("background", background),
    ("exec", exec),
    ("terminal", terminal),
    ("exec on a terminal", exec_on_a_terminal),
    ("attach", attach),
    ("a full-screen program", full_screen),
    ("copy", copy),
    ("look", look),
    ("top", top),
    ("pause", pause),
    ("stop and kill", stop_and_kill),
    ("restart", restart),
    ("health", health),
    ("mounts", mounts),
    ("identity", identity),
    ("limits", limits),
    ("out of memory", out_of_memory),
    ("seccomp", seccomp),
    ("build", build),
    ("logs", logs),
    ("fifty at once", fifty),
];

/// With a platform asked for.
const ON_EACH_PLATFORM: &[Case] = &[
    ("run", run),
    ("exec", exec),
    ("terminal", terminal),
    ("look", look),
    ("pause", pause),
    ("stop and kill", stop_and_kill),
];

#[test]
fn docker_does_not_notice_a_difference() {
    if !available(&["dockerd", "busybox"], &[]) {
        return;
    }
    let options = ["--iptables=false", "--ip6tables=false", "--bridge=none"];
    let docker = Docker::start(&options, &["--network=none"]);
    try_all(docker, CASES);
    for platform in ["ptrace", "kvm"] {
        if is_possible(platform) {
            eprintln!("on {platform}:");
            let runtime = format!("--platform={platform}");
            let docker = Docker::start_with(&[&runtime], &options, &["--network=none"]);
            try_all(docker, ON_EACH_PLATFORM);
        }
    }
}

fn run(docker: &Docker) {
    // It is ours: the kernel says so.
    assert!(
        docker
            .run(&[], "cat /proc/version")
            .ok()
            .contains("runsc-rs")
    );
    assert_eq!(docker.run(&[], "exit 7").code, 7);
    let done = docker.run(&[], "echo out; echo err >&2");
    assert_eq!((done.out.as_str(), done.err.as_str()), ("out\n", "err\n"));
    let done = docker.call(&["run", "--rm", "--network=none", "box", "nosuch"]);
    assert_eq!(done.code, 127, "{done:?}");
    assert!(done.err.contains("executable file not found"), "{done:?}");
    assert_eq!(
        docker.run(&["--init"], "cat /proc/1/comm").ok(),
        "docker-init"
    );
    let mut typed = docker.command(&["run", "--rm", "-i", "--network=none", "box", "cat"]);
    let mut child = typed
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"typed\n");
}

fn background(docker: &Docker) {
    docker.background(
        "bg",
        &[],
        "echo up; while [ ! -e /go ]; do sleep 0.05; done; exit 4",
    );
    docker.until_logged("bg", "up");
    assert_eq!(docker.inspect("bg", ".State.Status"), "running");
    let pid = docker.inspect("bg", ".State.Pid");
    assert!(Path::new("/proc").join(&pid).exists());
    docker.call(&["exec", "bg", "touch", "/go"]).ok();
    assert_eq!(docker.call(&["wait", "bg"]).ok(), "4");
    assert_eq!(docker.inspect("bg", ".State.Status"), "exited");
    assert_eq!(docker.inspect("bg", ".State.ExitCode"), "4");
    // What it wrote is still there when it starts again.
    docker.call(&["start", "bg"]).ok();
    assert_eq!(docker.call(&["wait", "bg"]).ok(), "4");
    docker.remove("bg");
}

fn exec(docker: &Docker) {
    docker.background("ex", &["--env", "KEPT=yes"], "sleep 1000");
    assert_eq!(
        docker.call(&["exec", "ex", "sh", "-c", "echo $KEPT"]).ok(),
        "yes"
    );
    assert_eq!(docker.call(&["exec", "ex", "sh", "-c", "exit 9"]).code, 9);
    let options = [
        "exec", "-e", "A=b", "-w", "/bin", "-u", "5:6", "ex", "sh", "-c",
    ];
    let script = "echo $A; pwd; id -u; id -g";
    let words: Vec<_> = options.into_iter().chain([script]).collect();
    assert_eq!(docker.call(&words).ok(), "b\n/bin\n5\n6");
    let done = docker.call(&["exec", "ex", "nosuch"]);
    assert!(matches!(done.code, 126 | 127), "{done:?}");
    docker
        .call(&["exec", "-d", "ex", "sh", "-c", "echo > /made; sleep 500"])
        .ok();
    wait_for("the background process", || {
        let ps = docker.call(&["exec", "ex", "ps"]).ok();
        ps.contains("sleep 500").then_some(())
    });
    let mut typed = docker.command(&["exec", "-i", "ex", "cat"]);
    let mut child = typed
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"typed\n");
    docker.remove("ex");
}

/// A shell with job control.
fn drive(session: &mut Session) {
    session.write("PS1='rea''dy> '\n");
    session.expect("ready> ");
    session.write("stty -echo; echo on $((40 + 2))\n");
    session.expect("on 42\r\n");
    // The client tells the size after the start.
    session.write("until [ \"$(stty size)\" = '31 97' ]; do sleep 0.1; done; stty size\n");
    session.expect("31 97\r\n");
    session.write("sh -c 'echo up; exec sleep 1000'\n");
    session.expect("up\r\n");
    session.write("\x03");
    session.expect("ready> ");
    session.write("echo status $?\n");
    session.expect("status 130\r\n");
    session.write("sh -c 'echo up; read line; echo got $line'\n");
    session.expect("up\r\n");
    session.write("\x1a");
    session.expect("Stopped");
    session.write("fg\n");
    session.write("word\n");
    session.expect("got word\r\n");
}

fn terminal(docker: &Docker) {
    let words = ["run", "--rm", "-it", "--network=none", "box", "sh"];
    let mut session = Session::start(docker, &words);
    drive(&mut session);
    session.write("exit 5\n");
    assert_eq!(session.end(), 5);
}

fn exec_on_a_terminal(docker: &Docker) {
    docker.background("et", &[], "sleep 1000");
    let mut session = Session::start(docker, &["exec", "-it", "et", "sh"]);
    drive(&mut session);
    session.write("exit 6\n");
    assert_eq!(session.end(), 6);
    docker.remove("et");
}

fn attach(docker: &Docker) {
    let words = ["run", "-dit", "--network=none", "--name", "at", "box", "sh"];
    docker.call(&words).ok();
    let mut session = Session::start(docker, &["attach", "at"]);
    session.write("x=kept; echo one $((1 + 1))\n");
    session.expect("one 2");
    // Ctrl-P Ctrl-Q.
    session.write("\x10\x11");
    session.end();
    assert_eq!(docker.inspect("at", ".State.Status"), "running");
    let mut session = Session::start(docker, &["attach", "at"]);
    session.write("echo still $x\n");
    session.expect("still kept");
    session.write("exit 3\n");
    assert_eq!(session.end(), 3);
    docker.remove("at");
}

fn full_screen(docker: &Docker) {
    let words = ["run", "--rm", "-it", "--network=none", "box", "sh"];
    let mut session = Session::start(docker, &words);
    session.write("PS1='rea''dy> '; stty -echo\n");
    session.expect("ready> ");
    session.write("vi /tmp/f\n");
    session.expect("1/1 100%");
    session.write("ihello there");
    session.expect("hello there");
    session.write("\x1b");
    session.expect("odified]");
    session.write(":wq\n");
    session.expect("ready> ");
    session.write("cat /tmp/f\n");
    session.expect("hello there\r\n");
    session.write("top\n");
    session.expect("PID");
    session.write("q");
    session.expect("ready> ");
    session.write("exit\n");
    assert_eq!(session.end(), 0);
}

fn copy(docker: &Docker) {
    docker.background("cp", &[], "sleep 1000");
    let source = docker
        .file("source", "from outside\n")
        .display()
        .to_string();
    docker.call(&["cp", &source, "cp:/there"]).ok();
    assert_eq!(
        docker.call(&["exec", "cp", "cat", "/there"]).ok(),
        "from outside"
    );
    docker
        .call(&["exec", "cp", "sh", "-c", "echo from inside > /here"])
        .ok();
    let target = docker.dir.path().join("target");
    docker
        .call(&["cp", "cp:/here", &target.display().to_string()])
        .ok();
    assert_eq!(fs::read_to_string(target).unwrap(), "from inside\n");
    docker.remove("cp");
}

fn look(docker: &Docker) {
    docker.background("lk", &["--memory", "100m"], "while :; do :; done");
    let stats = [
        "stats",
        "--no-stream",
        "--format",
        "{{.CPUPerc}} {{.MemUsage}} {{.PIDs}}",
        "lk",
    ];
    let stats = docker.call(&stats).ok();
    let cpu: f64 = stats.split('%').next().unwrap().parse().unwrap();
    assert!(cpu > 5.0, "{stats}");
    assert!(stats.contains("/ 100MiB"), "{stats}");
    assert!(!stats.ends_with(" 0"), "{stats}");
    let ps = docker
        .call(&["ps", "--format", "{{.Names}} {{.Status}}"])
        .ok();
    assert!(ps.contains("lk Up"), "{ps}");
    docker
        .call(&["update", "--memory", "200m", "--memory-swap", "200m", "lk"])
        .ok();
    // Which says nothing of limits.
    docker.call(&["update", "--restart=no", "lk"]).ok();
    assert_eq!(
        docker.inspect("lk", ".HostConfig.Memory"),
        (200 << 20).to_string()
    );
    let seen = docker
        .call(&["exec", "lk", "head", "-1", "/proc/meminfo"])
        .ok();
    assert_eq!(seen.split_whitespace().nth(1), Some("204800"), "{seen}");
    docker.remove("lk");
}

/// The guest's processes, and no others.
fn top(docker: &Docker) {
    docker.background("tp", &[], "sleep 1000 & while :; do :; done");
    let list = |options: &[&str]| -> Vec<String> {
        let words = [&["top", "tp"], options].concat();
        let out = docker.call(&words).ok();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        out.lines().skip(1).map(words).collect()
    };
    // The shell has not always forked yet, nor the new process its name.
    wait_for("two processes", || {
        let both = list(&["-o", "pid,comm,args"]);
        let has = |end| both.iter().any(|line| line.ends_with(end));
        let named = has("sleep sleep 1000") && has("sh sh -c sleep 1000 & while :; do :; done");
        (both.len() == 2 && named).then_some(())
    });
    let full = list(&[]);
    assert!(
        full.iter().any(|line| line.ends_with(" sleep 1000")),
        "{full:?}"
    );
    wait_for("processor time of the first", || {
        let times = list(&["-o", "pid,times,args"]);
        let mut words = times
            .iter()
            .find(|line| line.contains(" sh "))?
            .split_whitespace();
        (words.nth(1)?.parse::<u32>().ok()? > 0).then_some(())
    });
    docker.remove("tp");
}

fn pause(docker: &Docker) {
    docker.background("pa", &[], "while :; do echo x; sleep 0.02; done");
    docker.until_logged("pa", "x");
    docker.call(&["pause", "pa"]).ok();
    assert_eq!(docker.inspect("pa", ".State.Status"), "paused");
    let lines = || docker.call(&["logs", "pa"]).ok().lines().count();
    // What was written before is on its way to the log.
    let settled = wait_for("the log to settle", || {
        let before = lines();
        std::thread::sleep(Duration::from_millis(200));
        (lines() == before).then_some(before)
    });
    docker.call(&["unpause", "pa"]).ok();
    wait_for("more", || (lines() > settled).then_some(()));
    docker.remove("pa");
}

fn stop_and_kill(docker: &Docker) {
    docker.background(
        "st",
        &[],
        "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done",
    );
    docker.until_logged("st", "up");
    docker.call(&["stop", "st"]).ok();
    assert_eq!(docker.inspect("st", ".State.ExitCode"), "3");
    assert!(docker.call(&["logs", "st"]).ok().contains("bye"));
    docker.remove("st");
    // One that does not want to is killed.
    docker.background(
        "sk",
        &[],
        "trap '' TERM; echo up; while :; do sleep 0.05; done",
    );
    docker.until_logged("sk", "up");
    docker.call(&["stop", "--time", "1", "sk"]).ok();
    assert_eq!(docker.inspect("sk", ".State.ExitCode"), "137");
    docker.remove("sk");
    docker.background(
        "ki",
        &[],
        "trap 'echo usr1' USR1; echo up; while :; do sleep 0.05; done",
    );
    docker.until_logged("ki", "up");
    docker.call(&["kill", "-s", "USR1", "ki"]).ok();
    docker.until_logged("ki", "usr1");
    docker.call(&["kill", "ki"]).ok();
    assert_eq!(docker.call(&["wait", "ki"]).ok(), "137");
    docker.remove("ki");
}

fn restart(docker: &Docker) {
    docker.background("re", &["--restart", "on-failure:2"], "echo try; exit 3");
    wait_for("the last try", || {
        let count = docker.inspect("re", ".RestartCount");
        let status = docker.inspect("re", ".State.Status");
        (count == "2" && status == "exited").then_some(())
    });
    assert_eq!(docker.call(&["logs", "re"]).ok(), "try\ntry\ntry");
    docker.remove("re");
    docker.background("rs", &[], "echo up; sleep 1000");
    let first = docker.inspect("rs", ".State.Pid");
    docker.call(&["restart", "--time", "0", "rs"]).ok();
    assert_eq!(docker.inspect("rs", ".State.Status"), "running");
    assert_ne!(docker.inspect("rs", ".State.Pid"), first);
    docker.remove("rs");
}

fn health(docker: &Docker) {
    let options = [
        "--health-cmd",
        "test -e /fine",
        "--health-interval",
        "200ms",
        "--health-retries",
        "1",
    ];
    docker.background("he", &options, "sleep 1000");
    let is = |status: &str| (docker.inspect("he", ".State.Health.Status") == status).then_some(());
    wait_for("unhealthy", || is("unhealthy"));
    docker.call(&["exec", "he", "touch", "/fine"]).ok();
    wait_for("healthy", || is("healthy"));
    docker.remove("he");
}

fn mounts(docker: &Docker) {
    let shared = docker.dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("given"), "given\n").unwrap();
    let bind = format!("{}:/shared", shared.display());
    assert_eq!(
        docker
            .run(
                &["-v", &bind],
                "cat /shared/given; echo made > /shared/made"
            )
            .ok(),
        "given"
    );
    assert_eq!(fs::read_to_string(shared.join("made")).unwrap(), "made\n");
    let readonly = format!("{bind}:ro");
    assert_ne!(docker.run(&["-v", &readonly], "echo > /shared/x").code, 0);
    assert!(!shared.join("x").exists());
    docker.run(&["-v", "volume:/v"], "echo kept > /v/f").ok();
    assert_eq!(docker.run(&["-v", "volume:/v"], "cat /v/f").ok(), "kept");
    docker.call(&["volume", "rm", "volume"]).ok();
    let tmpfs = ["--tmpfs", "/scratch:size=1m"];
    let script =
        "grep ' /scratch ' /proc/mounts | grep -c tmpfs; head -c 2M /dev/zero > /scratch/f";
    let done = docker.run(&tmpfs, script);
    assert_eq!(
        (done.out.as_str(), done.code != 0),
        ("1\n", true),
        "{done:?}"
    );
    assert_ne!(docker.run(&["--read-only"], "echo > /x").code, 0);
    assert_eq!(
        docker
            .run(
                &["--read-only", "--tmpfs", "/tmp"],
                "echo a > /tmp/x; cat /tmp/x"
            )
            .ok(),
        "a"
    );
}

fn identity(docker: &Docker) {
    let run = |options: &[&str], script: &str| docker.run(options, script).ok();
    assert_eq!(run(&["--user", "7:8"], "id -u; id -g"), "7\n8");
    assert_eq!(run(&["--hostname", "somewhere"], "hostname"), "somewhere");
    let file = docker
        .file("env", "ONE=1\nTWO=two words\n")
        .display()
        .to_string();
    assert_eq!(
        run(
            &["--env-file", &file, "-e", "THREE=3"],
            "echo $ONE $TWO $THREE"
        ),
        "1 two words 3"
    );
    assert_eq!(run(&["-w", "/made/here"], "pwd"), "/made/here");
    let caps = "grep CapEff /proc/self/status";
    assert_eq!(
        run(&["--cap-drop", "ALL"], caps),
        "CapEff:\t0000000000000000"
    );
    let one = ["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"];
    assert_eq!(run(&one, caps), "CapEff:\t0000000000000400");
    assert_eq!(
        run(
            &["--security-opt", "no-new-privileges"],
            "grep NoNew /proc/self/status"
        ),
        "NoNewPrivs:\t1"
    );
}

fn limits(docker: &Docker) {
    let run = |options: &[&str], script: &str| docker.run(options, script);
    assert_eq!(
        run(&["--ulimit", "nofile=77:88"], "ulimit -n; ulimit -Hn").ok(),
        "77\n88"
    );
    assert_eq!(run(&["--cpus", "1"], "nproc").ok(), "1");
    let memory = run(&["--memory", "64m"], "head -1 /proc/meminfo").ok();
    assert_eq!(memory.split_whitespace().nth(1), Some("65536"), "{memory}");
    // Who takes too much is killed, and nobody else.
    assert_eq!(
        run(&["--memory", "64m"], "tail /dev/zero; echo $?").ok(),
        "137"
    );
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done";
    let done = run(&["--pids-limit", "5"], script);
    assert!(done.err.contains("fork"), "{done:?}");
}

/// What ends for lack of memory says so, and only that.
fn out_of_memory(docker: &Docker) {
    let options = ["--memory", "64m"];
    docker.background("om", &options, "tail /dev/zero");
    let status = docker.call(&["wait", "om"]).ok();
    assert_eq!(status, "137", "{}", docker.inspect("om", ".State"));
    assert_eq!(docker.inspect("om", ".State.OOMKilled"), "true");
    docker.remove("om");
    // Another process than the first one.
    docker.background("om", &options, "tail /dev/zero; exit 3");
    let status = docker.call(&["wait", "om"]).ok();
    assert_eq!(status, "3", "{}", docker.inspect("om", ".State"));
    assert_eq!(docker.inspect("om", ".State.OOMKilled"), "true");
    docker.remove("om");
    docker.background("om", &options, "while :; do sleep 1; done");
    docker.call(&["kill", "om"]).ok();
    assert_eq!(docker.call(&["wait", "om"]).ok(), "137");
    assert_eq!(docker.inspect("om", ".State.OOMKilled"), "false");
    docker.remove("om");
}

fn seccomp(docker: &Docker) {
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
    let file = docker.file("profile.json", profile);
    let option = format!("seccomp={}", file.display());
    let done = docker.run(
        &["--security-opt", &option],
        "mkdir /x; echo $?; touch /y; echo $?",
    );
    assert_eq!(done.out, "1\n0\n", "{done:?}");
    assert_eq!(
        docker
            .run(&["--security-opt", "seccomp=unconfined"], "mkdir /x")
            .code,
        0
    );
}

fn build(docker: &Docker) {
    let context = docker.dir.path().join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("file"), "copied\n").unwrap();
    let text = "FROM box\nCOPY file /file\nRUN cat /proc/version > /version && cat /file > /again\n\
                RUN mkdir /d && echo x > /d/x && chmod 640 /d/x\nCMD cat /version /again /d/x\n";
    fs::write(context.join("Dockerfile"), text).unwrap();
    let path = context.display().to_string();
    docker
        .call(&["build", "--network=none", "-t", "built", &path])
        .ok();
    let out = docker
        .call(&["run", "--rm", "--network=none", "built"])
        .ok();
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].contains("runsc-rs"), "{out}");
    assert_eq!(lines[1..], ["copied", "x"]);
    docker.background("cm", &[], "echo committed > /c");
    docker.call(&["wait", "cm"]).ok();
    docker.call(&["commit", "cm", "later"]).ok();
    docker.remove("cm");
    assert_eq!(
        docker
            .call(&["run", "--rm", "--network=none", "later", "cat", "/c"])
            .ok(),
        "committed"
    );
}

/// The log directory of `install` above has all our processes.
fn logs(docker: &Docker) {
    docker.background("lg", &[], "true");
    docker.call(&["wait", "lg"]).ok();
    let id = docker.inspect("lg", ".Id");
    docker.remove("lg");
    assert!(docker.dir.path().join(format!("logs/{id}.log")).exists());
}

fn fifty(docker: &Docker) {
    let begun = Instant::now();
    let names: Vec<String> = (0..50).map(|index| format!("many-{index}")).collect();
    let clients: Vec<_> = names
        .iter()
        .map(|name| {
            let words = [
                "run",
                "-d",
                "--network=none",
                "--name",
                name,
                "box",
                "sleep",
                "1000",
            ];
            docker
                .command(&words)
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut client in clients {
        assert!(client.wait().unwrap().success());
    }
    let running = docker
        .call(&["ps", "--quiet", "--filter", "name=many-"])
        .ok();
    assert_eq!(running.lines().count(), 50);
    eprintln!("fifty up after {} ms", begun.elapsed().as_millis());
    let mut words = vec!["rm", "--force"];
    words.extend(names.iter().map(String::as_str));
    docker.call(&words).ok();
    let left = ["ps", "--all", "--quiet", "--filter", "name=many-"];
    assert_eq!(docker.call(&left).ok(), "");
}
