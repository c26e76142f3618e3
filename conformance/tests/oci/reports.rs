//! What commands print for others to read.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::runtime::{ON_KVM, on_each};

#[test]
fn containers_are_listed() {
    on_each(|runtime| {
        let empty = runtime.call(&["list"]).ok().out;
        let head = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n";
        assert_eq!(empty, head);
        assert_eq!(
            runtime.call(&["list", "--format", "json"]).ok().json(),
            Value::Null
        );
        let bundle = Bundle::new(&["sleep", "1000"]);
        runtime.running(&bundle, "one");
        let other = Bundle::new(&["sleep", "1000"]);
        runtime.create(&other, "two");
        assert_eq!(runtime.call(&["list", "--quiet"]).ok().out, "one\ntwo\n");
        let all = runtime.call(&["list", "-f", "json"]).ok().json();
        let all = all.as_array().unwrap();
        for (found, id, status) in [(&all[0], "one", "running"), (&all[1], "two", "created")] {
            let state = runtime.state(id);
            for field in ["id", "pid", "status", "bundle", "created", "annotations"] {
                assert_eq!(found[field], state[field], "{field}");
            }
            assert_eq!(found["owner"], "root");
            assert_eq!(
                (&found["id"], &found["status"]),
                (&json!(id), &json!(status))
            );
        }
        let table = runtime.call(&["list"]).ok().out;
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        let pid = all[0]["pid"].to_string();
        assert_eq!(lines[1][..3], ["one", pid.as_str(), "running"]);
        assert_eq!(lines[2][0], "two");
        runtime.delete("one");
        runtime.delete("two");
    });
}

#[test]
fn processes_are_listed() {
    on_each(|runtime| {
        let bundle = Bundle::script("sleep 1000 & exec sleep 2000");
        runtime.running(&bundle, "c");
        let table = crate::runtime::wait_for("both", || {
            let table = runtime.call(&["ps", "c"]).ok().out;
            // Not what the shell was told to start.
            let both = table.contains("sleep 1000") && table.contains("sleep 2000");
            (both && !table.contains("sh -c")).then_some(table)
        });
        let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(
            head,
            ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        );
        assert_eq!(table.lines().count(), 3, "{table}");
        // To the host they are processes with these arguments, too.
        let arguments = |pid: &Value| {
            // Gone if its guest has executed something meanwhile.
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.replace('\0', " ").trim_end().to_owned()
        };
        // One that is being executed may have none or another; on kvm no process of the host stands for one
        // of the guest's.
        let pids = crate::runtime::wait_for("both on the host", || {
            let pids = runtime.call(&["ps", "--format", "json", "c"]).ok().json();
            let mut all: Vec<String> = pids.as_array().unwrap().iter().map(arguments).collect();
            all.sort();
            match runtime.name == ON_KVM {
                true => all.iter().any(|line| line == "runsc-rs sentry"),
                false => all == ["sleep 1000", "sleep 2000"],
            }
            .then_some(pids)
        });
        if runtime.name == ON_KVM {
            runtime.delete("c");
            return;
        }
        let words = ["ps", "c", "-eo", "pid,args"];
        let table = runtime.call(&words).ok().out;
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(lines[0].contains("PID"), "{table}");
        for pid in pids.as_array().unwrap() {
            let line = format!("{pid} {}", arguments(pid));
            assert!(
                lines.iter().any(|l| l.trim() == line),
                "{line:?} in {table}"
            );
        }
        runtime.delete("c");
    });
}

#[test]
fn lack_of_memory_is_an_event() {
    on_each(|runtime| {
        let bundle = Bundle::script("while :; do tail /dev/zero; done").with(|config| {
            config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}});
        });
        runtime.running(&bundle, "c");
        let mut events = runtime.command(&["events", "--interval", "1h", "c"]);
        let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(events.stdout.take().unwrap()).lines();
        let mut told = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        // It is what takes too much that dies, each time.
        for _ in 0..5 {
            let oom = told.find(|event| event["type"] == "oom");
            assert_eq!(oom, Some(json!({"type": "oom", "id": "c"})));
        }
        runtime.delete("c");
        events.kill().unwrap();
        events.wait().unwrap();
    });
}

#[test]
fn complaints_go_to_the_log() {
    on_each(|runtime| {
        let bundle = Bundle::new(&["nosuch"]);
        let log = bundle.at("log").display().to_string();
        let path = bundle.path.display().to_string();
        let create = [
            "--log",
            &log,
            "--log-format",
            "json",
            "create",
            "--bundle",
            &path,
            "c",
        ];
        let done = runtime.call(&create);
        assert_eq!(done.code, 1);
        assert!(!done.err.is_empty(), "it is said on stderr as well");
        let text = bundle.text("log");
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["level"], "error");
        assert!(
            last["msg"]
                .as_str()
                .unwrap()
                .contains("executable file not found in $PATH")
        );
        let time = last["time"].as_str().unwrap();
        assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
        std::fs::remove_file(bundle.at("log")).unwrap();
        assert_eq!(runtime.call(&["--log", &log, "state", "c"]).code, 1);
        let text = bundle.text("log");
        assert!(text.starts_with("time=\""), "{text}");
        assert!(text.contains(" level=error msg=\""), "{text}");
    });
}

#[test]
fn a_specification_is_written_once_and_works() {
    on_each(|runtime| {
        for more in [&[][..], &["--rootless"]] {
            let bundle = Bundle::new(&["true"]);
            std::fs::remove_file(bundle.at("config.json")).unwrap();
            let path = bundle.path.display().to_string();
            let words: Vec<&str> = ["spec", "--bundle", &path]
                .iter()
                .chain(more)
                .copied()
                .collect();
            runtime.call(&words).ok();
            let config: Value = serde_json::from_str(&bundle.text("config.json")).unwrap();
            assert_eq!(config["process"]["args"], json!(["sh"]));
            assert_eq!(runtime.call(&words).code, 1, "it is not overwritten");
            if more.is_empty() {
                let bundle = bundle.with(|old| {
                    *old = config;
                    old["process"]["terminal"] = json!(false);
                    old["process"]["args"] = json!(["echo", "spec"]);
                    // Not every machine's cgroups can be bound.
                    old["mounts"]
                        .as_array_mut()
                        .unwrap()
                        .retain(|m| m["type"] != "cgroup");
                });
                assert_eq!(runtime.run(&bundle, "c").ok().out, "spec\n");
            }
        }
    });
}

#[test]
fn features_are_told() {
    on_each(|runtime| {
        let features = runtime.call(&["features"]).ok().json();
        assert_eq!(features["ociVersionMin"], "1.0.0");
        let hooks = [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ];
        assert_eq!(features["hooks"], json!(hooks));
        let namespaces = features["linux"]["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!("mount")));
        let capabilities = features["linux"]["capabilities"].as_array().unwrap();
        assert_eq!(capabilities[0], "CAP_CHOWN");
    });
}

#[test]
fn statistics_are_told() {
    on_each(|runtime| {
        let bundle = Bundle::script("while :; do :; done");
        runtime.running(&bundle, "c");
        let event = runtime.call(&["events", "--stats", "c"]).ok().json();
        assert_eq!(
            (&event["type"], &event["id"]),
            (&json!("stats"), &json!("c"))
        );
        assert!(event["data"]["cpu"]["usage"]["total"].is_u64());
        assert!(event["data"]["pids"].is_object());
        // What is not limited or not counted is left out.
        assert_eq!(event["data"]["pids"].get("limit"), None);
        assert!(event["data"]["memory"]["swap"]["limit"].as_u64() > Some(0));
        if event["data"]["memory"]["usage"]["usage"].is_u64() {
            assert!(event["data"]["pids"]["current"].as_u64().unwrap() > 0);
        }
        // Without --stats they go on until the container's end.
        let mut events = runtime.command(&["events", "--interval", "50ms", "c"]);
        let file = std::fs::File::create(bundle.at("events")).unwrap();
        let mut events = events.stdout(file).spawn().unwrap();
        crate::runtime::wait_for("three events", || {
            (bundle.text("events").lines().count() >= 3).then_some(())
        });
        runtime.call(&["kill", "c", "KILL"]).ok();
        if runtime.name == "runc" {
            // It notices the end only where the kernel tells of cgroups that are removed.
            events.kill().unwrap();
        }
        let status = crate::runtime::wait_for("the end", || events.try_wait().unwrap());
        assert!(runtime.name == "runc" || status.code() == Some(0));
        let first: Value =
            serde_json::from_str(bundle.text("events").lines().next().unwrap()).unwrap();
        assert_eq!(first["type"], "stats");
        runtime.until("c", "stopped");
        runtime.delete("c");
    });
}
