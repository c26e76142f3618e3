//! Programs that the configuration wants to be run on the way.

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::runtime::on_each;

/// A hook that notes its name, the status it is told and whether it is told a process.
fn note(bundle: &Bundle, name: &str) -> Value {
    let log = bundle.at("hooks").display().to_string();
    let script = format!(
        "state=$(cat); status=${{state#*'\"status\":'}}; status=${{status%%,*}}; \
         case $state in *'\"pid\":'[1-9]*) pid=yes;; *) pid=no;; esac; \
         echo {name} $status $pid $HOOKED >> {log}"
    );
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["HOOKED=1", "PATH=/usr/bin:/bin"]})
}

#[test]
fn hooks_run_in_order_and_know_the_state() {
    on_each(|runtime| {
        let bundle = Bundle::script("echo program >> /tmp/log; exec sleep 1000");
        let inside = json!({"path": "/bin/sh", "env": ["PATH=/bin"],
                            "args": ["sh", "-c", "echo startContainer >> /tmp/log"]});
        let hooks = json!({
            "prestart": [note(&bundle, "prestart-1"), note(&bundle, "prestart-2")],
            "createRuntime": [note(&bundle, "createRuntime")],
            "startContainer": [inside],
            "poststart": [note(&bundle, "poststart")],
            "poststop": [note(&bundle, "poststop")],
        });
        let bundle = bundle.with(|config| config["hooks"] = hooks);
        runtime.create(&bundle, "c");
        let created = "prestart-1 \"creating\" yes 1\nprestart-2 \"creating\" yes 1\n\
                       createRuntime \"creating\" yes 1\n";
        // runc's are "after the start" of its own part of the work, not after `start`.
        let log = || {
            let text = bundle.text("hooks");
            match runtime.name {
                "runc" => text.replace("poststart \"created\" yes 1\n", ""),
                _ => text,
            }
        };
        assert_eq!(log(), created);
        assert_eq!(bundle.text("rootfs/tmp/log"), "");
        runtime.call(&["start", "c"]).ok();
        let started = match runtime.name {
            "runc" => created.to_string(),
            _ => format!("{created}poststart \"running\" yes 1\n"),
        };
        assert_eq!(log(), started);
        crate::runtime::wait_for("the program", || {
            (bundle.text("rootfs/tmp/log") == "startContainer\nprogram\n").then_some(())
        });
        runtime.call(&["kill", "c", "KILL"]).ok();
        runtime.until("c", "stopped");
        assert_eq!(log(), started);
        runtime.call(&["delete", "c"]).ok();
        assert_eq!(log(), format!("{started}poststop \"stopped\" no 1\n"));
    });
}

/// Those that belong to the container find its network, those that belong to the runtime the host's.
#[test]
fn hooks_find_the_network_they_are_for() {
    on_each(|runtime| {
        let bundle = Bundle::new(&["sleep", "1000"]);
        let hook = |name: &str| {
            let script = format!(
                "cat >/dev/null; readlink /proc/self/ns/net > {}",
                bundle.at(name).display()
            );
            json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]})
        };
        let hooks = json!({
            "createRuntime": [hook("runtime")],
            "createContainer": [hook("container")],
            "poststop": [hook("after")],
        });
        let bundle = bundle.with(|config| config["hooks"] = hooks);
        runtime.create(&bundle, "c");
        let network = |pid: &str| {
            let link = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
            format!("{}\n", link.display())
        };
        let own = network("self");
        assert_eq!(bundle.text("runtime"), own);
        let container = network(&runtime.state("c")["pid"].to_string());
        assert_ne!(container, own);
        assert_eq!(bundle.text("container"), container);
        runtime.delete("c");
        assert_eq!(bundle.text("after"), own);
    });
}

#[test]
fn a_failed_hook_ends_the_creation() {
    on_each(|runtime| {
        for kind in ["prestart", "createRuntime"] {
            let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo oh no >&2; exit 3"]});
            let bundle = Bundle::new(&["true"]).with(|config| {
                config["hooks"] = json!({kind: [hook]});
            });
            let done = runtime.make(&["create"], &bundle, "c");
            assert_eq!(done.code, 1, "{kind}");
            assert!(done.err.contains("oh no"), "{done:?}");
            assert_eq!(runtime.call(&["state", "c"]).code, 1, "nothing is left");
        }
    });
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    on_each(|runtime| {
        let hook = json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1});
        let bundle = Bundle::new(&["true"]).with(|config| {
            config["hooks"] = json!({"prestart": [hook]});
        });
        assert_eq!(runtime.make(&["create"], &bundle, "c").code, 1);
    });
}

#[test]
fn what_happens_after_the_end_is_not_refused() {
    on_each(|runtime| {
        let hook = json!({"path": "/bin/false", "args": ["false"]});
        let bundle = Bundle::new(&["true"]).with(|config| {
            config["hooks"] = json!({"poststop": [hook, note_of("after")]});
        });
        assert_eq!(runtime.run(&bundle, "c").code, 0);
    });
}

fn note_of(word: &str) -> Value {
    json!({"path": "/bin/true", "args": ["true", word]})
}
