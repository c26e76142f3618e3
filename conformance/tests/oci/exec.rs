//! More processes in a container.

use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use serde_json::json;

use crate::bundle::Bundle;
use crate::runtime::{Runtime, is_alive, on_each, pid_in, wait_for};

fn sleeper(runtime: &Runtime) -> Bundle {
    let bundle = Bundle::new(&["sleep", "1000"]);
    runtime.running(&bundle, "c");
    bundle
}

#[test]
fn the_exit_status_is_the_programs() {
    on_each(|runtime| {
        let _bundle = sleeper(runtime);
        assert_eq!(runtime.call(&["exec", "c", "true"]).code, 0);
        assert_eq!(runtime.call(&["exec", "c", "sh", "-c", "exit 9"]).code, 9);
        assert_eq!(
            runtime.call(&["exec", "c", "sh", "-c", "kill -9 $$"]).code,
            137
        );
        let done = runtime.call(&["exec", "c", "nosuch"]);
        assert_eq!(done.code, 255);
        assert!(
            done.err.contains("executable file not found in $PATH"),
            "{done:?}"
        );
        // The container does not notice.
        assert_eq!(runtime.status("c"), "running");
        runtime.delete("c");
    });
}

#[test]
fn a_process_may_start_where_its_user_may_not_go() {
    on_each(|runtime| {
        let bundle = Bundle::script("pwd; cat file; sleep 1000").with(|config| {
            config["process"]["cwd"] = "/private/inner".into();
            config["process"]["user"] = json!({"uid": 12, "gid": 34});
        });
        let private = bundle.at("rootfs/private");
        std::fs::create_dir_all(private.join("inner")).unwrap();
        std::fs::write(private.join("inner/file"), "read\n").unwrap();
        std::fs::set_permissions(&private, Permissions::from_mode(0o700)).unwrap();
        let output = bundle.at("output");
        let mut command = runtime.command(&["run", "--detach", "--bundle"]);
        command.arg(&bundle.path).arg("c");
        command.stdout(std::fs::File::create(&output).unwrap());
        assert!(command.status().unwrap().success());
        wait_for("output", || {
            let text = std::fs::read_to_string(&output).unwrap();
            (text == "/private/inner\nread\n").then_some(())
        });
        let words = ["exec", "--cwd", "/private/inner", "c", "cat", "file"];
        assert_eq!(runtime.call(&words).ok().out, "read\n");
        let words = ["exec", "c", "ls", "/private"];
        assert_ne!(runtime.call(&words).code, 0);
        runtime.delete("c");
    });
}

#[test]
fn a_process_is_the_containers_but_for_what_is_asked() {
    on_each(|runtime| {
        let _bundle = sleeper(runtime);
        let out = |args: &[&str]| {
            let words: Vec<&str> = ["exec"].iter().chain(args).copied().collect();
            runtime.call(&words).ok().out
        };
        assert_eq!(
            out(&["c", "sh", "-c", "echo $KEPT; pwd; id -u"]),
            "yes\n/\n0\n"
        );
        assert_eq!(out(&["--cwd", "/bin", "c", "pwd"]), "/bin\n");
        let env = [
            "--env",
            "A=b c",
            "--env",
            "KEPT=no",
            "c",
            "sh",
            "-c",
            "echo $A; echo $KEPT",
        ];
        assert_eq!(out(&env), "b c\nno\n");
        let user = ["--user", "12:34", "c", "sh", "-c", "id -u; id -g"];
        assert_eq!(out(&user), "12\n34\n");
        let groups = ["-u", "12:34", "-g", "56", "c", "id", "-G"];
        assert!(out(&groups).split_whitespace().any(|id| id == "56"));
        let caps = |more: &[&str]| {
            let words = ["c", "grep", "Cap[BE]", "/proc/self/status"];
            let words: Vec<&str> = more.iter().chain(&words).copied().collect();
            out(&words)
        };
        assert_eq!(
            caps(&[]),
            "CapEff:\t0000000000000020\nCapBnd:\t0000000000000020\n"
        );
        let more = caps(&["--cap", "CAP_SYS_ADMIN"]);
        assert_eq!(
            more,
            "CapEff:\t0000000000200020\nCapBnd:\t0000000000200020\n"
        );
        runtime
            .call(&["exec", "--cap", "CAP_NONE", "c", "true"])
            .ok();
        // It sees the container's processes, and is a child of nobody's.
        let inside = out(&[
            "c",
            "sh",
            "-c",
            "cat /proc/1/comm; grep PPid /proc/self/status; echo $$",
        ]);
        let lines: Vec<_> = inside.lines().collect();
        assert_eq!(lines[0], "sleep");
        assert!(lines[2].parse::<i32>().unwrap() > 1);
        assert_eq!(
            out(&["c", "sh", "-c", "exec grep PPid /proc/self/status"]),
            "PPid:\t0\n"
        );
        runtime.delete("c");
    });
}

#[test]
fn a_process_can_be_described_by_a_file() {
    on_each(|runtime| {
        let bundle = sleeper(runtime);
        let process = json!({
            "terminal": false,
            "user": {"uid": 5, "gid": 6, "additionalGids": [7]},
            "args": ["sh", "-c", "id -u; id -g; id -G; pwd; echo $WHO"],
            "env": ["PATH=/bin", "WHO=me"],
            "cwd": "/tmp",
        });
        std::fs::write(bundle.at("process.json"), process.to_string()).unwrap();
        let path = bundle.at("process.json").display().to_string();
        let done = runtime.call(&["exec", "--process", &path, "c"]).ok();
        assert_eq!(done.out, "5\n6\n6 7\n/tmp\nme\n");
        std::fs::write(bundle.at("process.json"), "{\"args\": 3}").unwrap();
        assert_ne!(runtime.call(&["exec", "--process", &path, "c"]).code, 0);
        runtime.delete("c");
    });
}

#[test]
fn in_the_background_a_process_of_the_host_stands_for_it() {
    on_each(|runtime| {
        let bundle = sleeper(runtime);
        let file = bundle.at("exec-pid");
        let path = file.display().to_string();
        let script =
            "trap 'echo x > /tmp/hup' HUP; echo x > /tmp/ready; while :; do sleep 0.05; done";
        let exec = [
            "exec",
            "--detach",
            "--pid-file",
            &path,
            "c",
            "sh",
            "-c",
            script,
        ];
        runtime.call(&exec).ok();
        let pid = pid_in(&file);
        assert!(is_alive(pid));
        let there = |name: &str| bundle.at("rootfs/tmp").join(name).exists().then_some(());
        wait_for("the trap", || there("ready"));
        let kill = |signal: &str| {
            let sent = std::process::Command::new("kill")
                .args([signal, &pid.to_string()])
                .status();
            assert!(sent.unwrap().success());
        };
        kill("-HUP");
        wait_for("the signal", || there("hup"));
        // It ends, however it is told to, and the program with it.
        kill("-KILL");
        wait_for("its end", || (!is_alive(pid)).then_some(()));
        wait_for("the program's end", || {
            let ps = runtime.call(&["exec", "c", "ps"]).ok().out;
            (!ps.contains("hup")).then_some(())
        });
        assert_eq!(runtime.status("c"), "running");
        runtime.delete("c");
    });
}

#[test]
fn processes_end_with_the_container() {
    on_each(|runtime| {
        let bundle = sleeper(runtime);
        let path = bundle.at("exec-pid").display().to_string();
        let exec = [
            "exec",
            "--detach",
            "--pid-file",
            &path,
            "c",
            "sleep",
            "1000",
        ];
        runtime.call(&exec).ok();
        let mut foreground = runtime
            .command(&["exec", "c", "sleep", "1000"])
            .spawn()
            .unwrap();
        wait_for("both to run", || {
            let out = runtime.call(&["exec", "c", "ps"]).ok().out;
            (out.matches("sleep 1000").count() == 3).then_some(())
        });
        runtime.call(&["kill", "c", "KILL"]).ok();
        let status = wait_for("the end", || foreground.try_wait().unwrap());
        assert_eq!(status.code(), Some(137));
        wait_for("the other end", || {
            (!is_alive(pid_in(&bundle.at("exec-pid")))).then_some(())
        });
        runtime.until("c", "stopped");
        runtime.delete("c");
    });
}

#[test]
fn a_created_container_has_room_for_others() {
    on_each(|runtime| {
        let bundle = Bundle::script("echo late > /tmp/late");
        runtime.create(&bundle, "c");
        let look = ["exec", "c", "sh", "-c", "ls /tmp; echo $$ > /tmp/early"];
        assert_eq!(runtime.call(&look).ok().out, "");
        assert_eq!(runtime.status("c"), "created");
        runtime.call(&["start", "c"]).ok();
        runtime.until("c", "stopped");
        assert_eq!(bundle.text("rootfs/tmp/late"), "late\n");
        runtime.delete("c");
    });
}

#[test]
fn whoever_joins_is_as_confined_as_the_others() {
    on_each(|runtime| {
        let bundle = Bundle::new(&["sleep", "1000"]).with(|config| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO",
                              "errnoRet": 1}],
            });
        });
        runtime.running(&bundle, "c");
        let script = "mkdir /tmp/x && echo made; touch /tmp/y && echo touched";
        let process = json!({
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
        });
        std::fs::write(bundle.at("process.json"), process.to_string()).unwrap();
        let path = bundle.at("process.json").display().to_string();
        for exec in [
            &["exec", "c", "sh", "-c", script][..],
            &["exec", "--process", &path, "c"],
        ] {
            let done = runtime.call(exec).ok();
            assert_eq!(done.out, "touched\n", "{done:?}");
            assert!(done.err.contains("not permitted"), "{done:?}");
        }
        runtime.delete("c");
    });
}

#[test]
fn who_joins_is_in_the_control_group() {
    on_each(|runtime| {
        let bundle = Bundle::new(&["sleep", "1000"]);
        runtime.running(&bundle, "c");
        let pid_file = bundle.at("joined").display().to_string();
        let options = ["--detach", "--cgroup", "/", "--pid-file", &pid_file];
        let joined = [&["exec"], &options[..], &["c", "sleep", "1000"]].concat();
        runtime.call(&joined).ok();
        let groups = |pid: &str| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            let mut lines: Vec<_> = text.lines().map(String::from).collect();
            lines.sort();
            lines
        };
        let first = runtime.state("c")["pid"].to_string();
        let mine = groups("self");
        let (first, joined) = (groups(&first), groups(&bundle.text("joined")));
        assert_eq!(first, joined);
        assert!(first != mine, "{first:?}");
        let refused = runtime.call(&["exec", "--cgroup", "nosuch", "c", "true"]);
        assert_eq!(refused.code, 255, "{refused:?}");
        runtime.delete("c");
    });
}
