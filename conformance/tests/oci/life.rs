//! Creation, start, end and deletion, and what is refused in between.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::bundle::Bundle;
use crate::runtime::{Runtime, is_alive, on_each, pid_in, wait_for};

#[test]
fn from_creation_to_deletion() {
    on_each(|runtime| {
        let bundle = Bundle::script("echo started; exec sleep 1000");
        let pid_file = bundle.at("pid");
        let path = pid_file.display().to_string();
        runtime
            .make(&["create", "--no-pivot", "--pid-file", &path], &bundle, "c")
            .ok();
        let created = runtime.state("c");
        let pid = created["pid"].as_i64().unwrap();
        assert_eq!(created["status"], "created");
        assert_eq!(created["id"], "c");
        assert_eq!(created["bundle"], json!(bundle.path));
        assert_eq!(created["rootfs"], json!(bundle.at("rootfs")));
        assert_eq!(created["annotations"], json!({"org.example.note": "kept"}));
        assert!(created["ociVersion"].as_str().unwrap().starts_with("1.0."));
        assert!(created["created"].as_str().unwrap().ends_with('Z'));
        assert_eq!(pid_in(&pid_file), pid);
        assert!(is_alive(pid));
        assert_eq!(bundle.text("out"), "", "it waits");

        runtime.call(&["start", "c"]).ok();
        wait_for("output", || {
            (bundle.text("out") == "started\n").then_some(())
        });
        let running = runtime.state("c");
        assert_eq!(
            (&running["status"], &running["pid"]),
            (&json!("running"), &json!(pid))
        );

        runtime.call(&["kill", "c", "KILL"]).ok();
        runtime.until("c", "stopped");
        assert_eq!(runtime.state("c")["pid"], 0);
        assert!(!is_alive(pid));
        runtime.call(&["delete", "c"]).ok();
        assert_eq!(runtime.call(&["state", "c"]).code, 1);
    });
}

/// What a command's exit status is in each state.
#[test]
fn wrong_transitions_are_refused() {
    type Expected = (&'static [&'static str], i32);
    let refused = |runtime: &Runtime, state: &str, expected: &[Expected]| {
        for (command, code) in expected {
            let done = runtime.call(command);
            assert_eq!(
                done.code, *code,
                "{} {command:?} when {state}: {done:?}",
                runtime.name
            );
            assert!(!done.err.is_empty(), "{command:?} when {state} says why");
        }
    };
    on_each(|runtime| {
        let bundle = Bundle::new(&["sleep", "1000"]);
        let nothing: &[Expected] = &[
            (&["state", "c"], 1),
            (&["start", "c"], 1),
            (&["kill", "c"], 1),
            (&["kill", "--all", "c"], 1),
            (&["exec", "c", "true"], 255),
            (&["pause", "c"], 1),
            (&["resume", "c"], 1),
            (&["ps", "c"], 1),
            (&["events", "--stats", "c"], 1),
            (&["delete", "c"], 1),
        ];
        refused(runtime, "absent", nothing);
        runtime.call(&["delete", "--force", "c"]).ok();
        runtime.create(&bundle, "c");
        assert_eq!(
            runtime.make(&["create"], &bundle, "c").code,
            1,
            "an id is used once"
        );
        refused(runtime, "created", &[(&["resume", "c"], 1)]);
        runtime.call(&["start", "c"]).ok();
        let running: &[Expected] = &[
            (&["start", "c"], 1),
            (&["resume", "c"], 1),
            (&["delete", "c"], 1),
            (&["kill", "c", "NOSUCH"], 1),
            (&["kill", "c", "99"], 1),
        ];
        refused(runtime, "running", running);
        runtime.call(&["pause", "c"]).ok();
        assert_eq!(runtime.status("c"), "paused");
        let paused: &[Expected] = &[
            (&["start", "c"], 1),
            (&["pause", "c"], 1),
            (&["exec", "c", "true"], 255),
            (&["delete", "c"], 1),
        ];
        refused(runtime, "paused", paused);
        runtime.call(&["resume", "c"]).ok();
        assert_eq!(runtime.status("c"), "running");
        runtime.call(&["kill", "c", "9"]).ok();
        runtime.until("c", "stopped");
        let stopped: &[Expected] = &[
            (&["start", "c"], 1),
            (&["kill", "c"], 1),
            (&["exec", "c", "true"], 255),
            (&["pause", "c"], 1),
            (&["resume", "c"], 1),
        ];
        refused(runtime, "stopped", stopped);
        assert_eq!(
            runtime.make(&["create"], &bundle, "c").code,
            1,
            "until it is deleted"
        );
        runtime.call(&["delete", "c"]).ok();
    });
}

#[test]
fn ids_are_names() {
    on_each(|runtime| {
        let bundle = Bundle::new(&["true"]);
        for id in ["a/b", "..", "a b", "", "é"] {
            assert_eq!(runtime.make(&["create"], &bundle, id).code, 1, "{id:?}");
        }
        let long = "x".repeat(200);
        for id in ["A-b_c.d+9", "..a", &long] {
            assert_eq!(runtime.run(&bundle, id).code, 0, "{id:?}");
        }
    });
}

#[test]
fn a_created_container_can_be_killed_and_deleted() {
    on_each(|runtime| {
        let bundle = Bundle::new(&["sleep", "1000"]);
        runtime.create(&bundle, "c");
        let pid = runtime.state("c")["pid"].as_i64().unwrap();
        runtime.call(&["delete", "c"]).ok();
        assert!(!is_alive(pid));
        runtime.create(&bundle, "c");
        runtime.call(&["kill", "c", "KILL"]).ok();
        runtime.until("c", "stopped");
        runtime.call(&["delete", "c"]).ok();
    });
}

#[test]
fn the_exit_status_is_the_programs() {
    on_each(|runtime| {
        assert_eq!(runtime.run(&Bundle::script("exit 7"), "c").code, 7);
        let done = runtime.run(&Bundle::script("echo out; echo err >&2"), "c");
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, "out\n", "err\n")
        );
        // A first process is safe from its own signals.
        assert_eq!(
            runtime.run(&Bundle::script("kill -9 $$; exit 3"), "c").code,
            3
        );
    });
}

#[test]
fn a_program_that_is_not_there_is_named() {
    on_each(|runtime| {
        let done = runtime.make(&["create"], &Bundle::new(&["nosuch"]), "c");
        assert_eq!(done.code, 1);
        let words = "executable file not found in $PATH";
        assert!(done.err.contains(words), "{done:?}");
        let done = runtime.run(&Bundle::new(&["/bin/nosuch"]), "c");
        assert_eq!(done.code, 1);
        assert!(done.err.contains("no such file or directory"), "{done:?}");
        let done = runtime.run(&Bundle::new(&["/tmp"]), "c");
        assert_eq!(done.code, 1);
        assert!(
            done.err.to_lowercase().contains("permission denied")
                || done.err.contains("is a directory"),
            "{done:?}"
        );
    });
}

#[test]
fn run_in_the_background() {
    on_each(|runtime| {
        let bundle = Bundle::script("echo $KEPT; exec sleep 1000");
        let pid_file = bundle.at("pid").display().to_string();
        runtime
            .make(&["run", "--detach", "--pid-file", &pid_file], &bundle, "c")
            .ok();
        let state = runtime.state("c");
        assert_eq!(state["status"], "running");
        assert_eq!(state["pid"].as_i64().unwrap(), pid_in(&bundle.at("pid")));
        wait_for("output", || (bundle.text("out") == "yes\n").then_some(()));
        runtime.delete("c");
        assert!(!is_alive(pid_in(&bundle.at("pid"))));
    });
}

#[test]
fn a_container_ends_by_itself_and_stays_until_deleted() {
    on_each(|runtime| {
        let bundle = Bundle::script("exit 3");
        runtime.running(&bundle, "c");
        runtime.until("c", "stopped");
        let keep = Bundle::new(&["true"]);
        let path = keep.path.display().to_string();
        runtime
            .call(&["run", "--keep", "--bundle", &path, "d"])
            .ok();
        assert_eq!(runtime.status("d"), "stopped");
        runtime.call(&["delete", "c"]).ok();
        runtime.call(&["delete", "d"]).ok();
    });
}

#[test]
fn signals_arrive_by_name_and_number() {
    on_each(|runtime| {
        let script = "for s in HUP USR1 USR2 TERM; do trap \"echo $s\" $s; done; echo ready; \
                      while :; do sleep 0.05; done";
        let bundle = Bundle::script(script);
        runtime.running(&bundle, "c");
        wait_for("traps", || {
            bundle.text("out").contains("ready").then_some(())
        });
        for (signal, name) in [
            ("HUP", "HUP"),
            ("SIGUSR1", "USR1"),
            ("12", "USR2"),
            ("term", "TERM"),
        ] {
            runtime.call(&["kill", "c", signal]).ok();
            wait_for(name, || bundle.text("out").contains(name).then_some(()));
        }
        // To the host's process, as to any other.
        let pid = runtime.state("c")["pid"].to_string();
        let sent = std::process::Command::new("kill")
            .args(["-USR1", &pid])
            .status();
        assert!(sent.unwrap().success());
        wait_for("a second USR1", || {
            (bundle.text("out").matches("USR1").count() == 2).then_some(())
        });
        runtime.delete("c");
    });
}

#[test]
fn all_processes_can_be_signalled() {
    on_each(|runtime| {
        let script = "(trap 'echo child' TERM; echo one; while :; do sleep 0.05; done) & \
                      trap 'echo first' TERM; echo two; while :; do sleep 0.05; done";
        let bundle = Bundle::script(script);
        runtime.running(&bundle, "c");
        let said = |words: [&'static str; 2]| {
            let out = bundle.text("out");
            words.iter().all(|word| out.contains(word)).then_some(())
        };
        wait_for("traps", || said(["one", "two"]));
        runtime.call(&["kill", "--all", "c", "TERM"]).ok();
        wait_for("both", || said(["child", "first"]));
        runtime.call(&["kill", "c", "KILL"]).ok();
        runtime.until("c", "stopped");
        runtime.call(&["delete", "c"]).ok();
    });
}

#[test]
fn a_paused_container_does_nothing() {
    on_each(|runtime| {
        let bundle = Bundle::script("while :; do echo x; sleep 0.01; done");
        runtime.running(&bundle, "c");
        let size = || bundle.text("out").len();
        wait_for("output", || (size() > 10).then_some(()));
        runtime.call(&["pause", "c"]).ok();
        let before = size();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(size(), before, "paused");
        runtime.call(&["resume", "c"]).ok();
        wait_for("more output", || (size() > before + 10).then_some(()));
        runtime.call(&["pause", "c"]).ok();
        // However it is done, it can be removed.
        runtime.delete("c");
    });
}

#[test]
fn files_can_be_passed_on() {
    on_each(|runtime| {
        let bundle = Bundle::script("cat <&3; echo ${LISTEN_FDS-none}");
        std::fs::write(bundle.at("given"), "given\n").unwrap();
        let path = bundle.path.display().to_string();
        let shell = |redirect: &str, command: &[&str]| {
            // The shell opens the file under the number.
            let inner = runtime.command(command);
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", &format!("exec \"$@\" {redirect}"), "sh"]);
            shell.arg(inner.get_program()).args(inner.get_args());
            shell.stdin(Stdio::null()).env("GIVEN", bundle.at("given"));
            runtime.finish(shell)
        };
        let done = shell(
            "3<\"$GIVEN\"",
            &["run", "--preserve-fds", "1", "--bundle", &path, "c"],
        )
        .ok();
        assert_eq!(done.out, "given\nnone\n");
    });
}

#[test]
fn stdin_is_the_containers() {
    on_each(|runtime| {
        let bundle = Bundle::new(&["cat"]);
        std::fs::write(bundle.at("in"), "typed\n").unwrap();
        let path = bundle.path.display().to_string();
        let mut command = runtime.command(&["run", "--bundle", &path, "c"]);
        command.stdin(File::open(bundle.at("in")).unwrap());
        assert_eq!(runtime.finish(command).ok().out, "typed\n");
    });
}
