//! What the sections of `config.json` mean inside.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{command, config, run};
use serde_json::{Value, json};

/// Stdout of a container that must end well.
fn said(config: &Value) -> String {
    let (code, stdout, stderr) = run(config);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    stdout
}

/// Names of all system calls that Linux has on this architecture.
fn calls() -> Vec<String> {
    let output = command(&["syscalls", "--format", "json"]).output().unwrap();
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = rows.as_array().or_else(|| rows["syscalls"].as_array());
    let names = rows
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap());
    names.map(String::from).collect()
}

#[test]
fn a_seccomp_profile_is_applied_to_the_guest() {
    let mut config = config(
        "mkdir /tmp/a 2>&1; chmod 700 /; echo $?; sh -c 'rm /nothing'; echo $?; \
         grep Seccomp: /proc/self/status; umask 0; echo $((1 + 1))",
    );
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18},
            {"names": ["fchmodat", "chmod"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["unlinkat", "unlink"], "action": "SCMP_ACT_TRAP"},
        ],
    });
    let said = said(&config);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("Invalid cross-device link"), "{said}");
    assert_eq!(lines[1..], ["159", "159", "Seccomp:\t2", "2"], "{said}");
}

#[test]
fn a_seccomp_profile_may_be_a_list_of_what_is_allowed() {
    let mut names = calls();
    names.retain(|name| !name.starts_with("mkdir") && name != "clone3");
    let mut config = config("mkdir /tmp/a 2>&1; ls -d /proc | cat; date +%Y >/dev/null && echo ok");
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": names, "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    });
    let said = said(&config);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("Operation not permitted"), "{said}");
    assert_eq!(lines[1..], ["/proc", "ok"], "{said}");
}

#[test]
fn seccomp_that_cannot_be_done_is_refused_by_name() {
    let mut config = config("echo not reached");
    let profiles = [
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "linux.seccomp: defaultAction: SCMP_ACT_NOTIFY",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW",
                   "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
            "linux.seccomp: syscalls[0]: SCMP_ACT_NOTIFY",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent"}),
            "linux.seccomp: listenerPath",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
            "linux.seccomp: listenerMetadata",
        ),
    ];
    for (profile, word) in profiles {
        config["linux"]["seccomp"] = profile;
        let (code, stdout, stderr) = run(&config);
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert!(stderr.contains(word), "{stderr}");
    }
}

/// What `features` tells, and nothing else, is accepted.
#[test]
fn features_are_what_a_configuration_may_ask_for() {
    let output = command(&["features"]).output().unwrap();
    let features: Value = serde_json::from_slice(&output.stdout).unwrap();
    let told = |pointer: &str| -> Vec<String> {
        let list = features.pointer(pointer).and_then(Value::as_array);
        let words = list.unwrap_or_else(|| panic!("no {pointer}")).iter();
        words.map(|word| word.as_str().unwrap().into()).collect()
    };
    let actions = told("/linux/seccomp/actions");
    let all = json!([
        "KILL",
        "KILL_PROCESS",
        "KILL_THREAD",
        "TRAP",
        "ERRNO",
        "TRACE",
        "LOG",
        "ALLOW",
        "NOTIFY"
    ]);
    for action in all.as_array().unwrap() {
        let action = format!("SCMP_ACT_{}", action.as_str().unwrap());
        let rule = json!({"names": ["reboot"], "action": action});
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        assert_eq!(accepted(&profile), actions.contains(&action), "{action}");
    }
    for op in told("/linux/seccomp/operators") {
        let arg = json!({"index": 0, "value": 1, "valueTwo": 1, "op": op});
        let rule = json!({"names": ["reboot"], "action": "SCMP_ACT_ERRNO", "args": [arg]});
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        assert!(accepted(&profile), "{op}");
    }
    let flags = told("/linux/seccomp/supportedFlags");
    for flag in ["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"] {
        let flag = format!("SECCOMP_FILTER_FLAG_{flag}");
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [flag]});
        assert_eq!(accepted(&profile), flags.contains(&flag), "{flag}");
    }
    let mut config = config("echo ok");
    let mut options = told("/mountOptions");
    options.retain(|option| !option.ends_with("bind"));
    config["mounts"] = json!([{"destination": "/mnt", "type": "tmpfs", "options": options}]);
    assert_eq!(said(&config), "ok\n");
    for (pointer, section) in [
        ("/linux/intelRdt/enabled", "intelRdt"),
        ("/linux/netDevices/enabled", "netDevices"),
    ] {
        assert_eq!(features.pointer(pointer), Some(&json!(false)));
        let mut config = self::config("echo not reached");
        config["linux"][section] = json!({"closID": {}});
        assert_eq!(run(&config).0, Some(1), "{section}");
    }
}

fn accepted(seccomp: &Value) -> bool {
    let mut config = config("echo ok");
    config["linux"]["seccomp"] = seccomp.clone();
    let (code, stdout, stderr) = run(&config);
    assert_eq!(code == Some(0), stdout == "ok\n", "{stderr}");
    code == Some(0)
}

#[test]
fn settings_of_the_kernel() {
    let mut config = config("cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/ping_group_range");
    config["linux"]["sysctl"] = json!({
        "net.core.somaxconn": "77",
        "net.ipv4.ping_group_range": "0 2147483647",
    });
    assert_eq!(said(&config), "77\n0\t2147483647\n");
    let bad = [
        ("net.core.nosuch", "1", "net.core.nosuch: not supported"),
        (
            "kernel.osrelease",
            "9",
            "kernel.osrelease: cannot be changed",
        ),
        ("net.core.somaxconn", "x", "net/core/somaxconn"),
        ("../../etc/passwd", "x", "not supported"),
    ];
    for (name, value, word) in bad {
        config["linux"]["sysctl"] = json!({name: value});
        let (code, stdout, stderr) = run(&config);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{name}");
        assert!(stderr.contains(word), "{stderr}");
    }
}

#[test]
fn what_cannot_be_had_is_refused_by_name() {
    let namespace = |typ: &str| json!([{"type": typ, "path": "/proc/1/ns/x"}]);
    let cases = [
        ("namespaces", namespace("pid"), "linux.namespaces: pid"),
        ("namespaces", namespace("user"), "linux.namespaces: user"),
        (
            "namespaces",
            json!([{"type": "pid"}, {"type": "pid"}]),
            "linux.namespaces: pid: given twice",
        ),
        ("intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
        (
            "timeOffsets",
            json!({"monotonic": {"secs": 1}}),
            "linux.timeOffsets",
        ),
        (
            "personality",
            json!({"domain": "LINUX32"}),
            "linux.personality",
        ),
        (
            "rootfsPropagation",
            json!("sideways"),
            "linux.rootfsPropagation",
        ),
        (
            "uidMappings",
            json!([{"containerID": 0, "hostID": 7, "size": 1}]),
            "gidMappings",
        ),
    ];
    for (key, value, word) in cases {
        let mut config = config("echo not reached");
        config["linux"][key] = value;
        let (code, stdout, stderr) = run(&config);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{key}");
        assert!(stderr.contains(word), "{key}: {stderr}");
    }
}

#[test]
fn what_has_no_effect_is_said_once() {
    let mut config = config("echo ok");
    config["process"]["apparmorProfile"] = json!("docker-default");
    config["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t");
    config["linux"]["rootfsPropagation"] = json!("rshared");
    config["linux"]["resources"] =
        json!({"devices": [{"allow": true, "type": "c", "major": 10, "minor": 229}]});
    config["windows"] = json!({"servicing": true});
    config["process"]["mood"] = json!({"good": true});
    config["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "options": ["hidepid=2"]},
        {"destination": "/mnt", "type": "tmpfs", "options": ["rslave"], "a\u{1b}b": 1},
    ]);
    let (code, stdout, stderr) = run(&config);
    assert_eq!((code, stdout.as_str()), (Some(0), "ok\n"), "{stderr}");
    assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
    for name in [
        "process.apparmorProfile",
        "linux.mountLabel",
        "linux.rootfsPropagation: rshared",
        "linux.resources.devices: allowing c 10:229",
        "windows (not for Linux)",
        "process.mood: unknown",
        "mounts[0]: option \"hidepid=2\"",
        "mounts[1]: option \"rslave\"",
    ] {
        assert_eq!(stderr.matches(name).count(), 1, "{stderr}");
    }
}

/// Of the host's namespaces that are not replaced, the guest has the name; the others are not shared.
#[test]
fn what_of_the_host_is_not_shared_is_said() {
    let mut config = config("hostname; grep -c shm.*mode= /proc/mounts");
    config["hostname"] = json!(null);
    config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network"}]);
    config["mounts"] = json!([
        {"destination": "/proc", "type": "proc"},
        {"destination": "/dev/shm", "type": "tmpfs", "options": ["mode=1777", "size=64k"]},
    ]);
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let (_, stdout, stderr) = run(&config);
    // As on Linux, what is usual is not among the options.
    assert_eq!(stdout, format!("{host}\n0\n"), "{stderr}");
    for name in ["no pid", "no ipc"] {
        let warning = format!("linux.namespaces: {name}");
        assert_eq!(stderr.matches(&warning).count(), 1, "{stderr}");
    }
    // Those of another container in a pod.
    let path = |typ: &str| json!({"type": typ, "path": format!("/proc/1/ns/{typ}")});
    config["linux"]["namespaces"] = json!([{"type": "pid"}, path("ipc"), path("uts")]);
    let (_, stdout, stderr) = run(&config);
    assert_eq!(stdout, "runsc-rs\n0\n", "{stderr}");
    for typ in ["ipc", "uts"] {
        let warning = format!("linux.namespaces: {typ}: /proc/1/ns/{typ} (the guest has one");
        assert_eq!(stderr.matches(&warning).count(), 1, "{stderr}");
    }
    config["linux"]["namespaces"] = json!(["pid", "ipc", "uts"].map(|typ| json!({"type": typ})));
    let (_, stdout, stderr) = run(&config);
    assert_eq!((stdout.as_str(), stderr.as_str()), ("runsc-rs\n0\n", ""));
}

#[test]
fn a_network_that_cannot_be_joined_is_refused() {
    let mut config = config("echo not reached");
    let nowhere = json!([{"type": "network", "path": "/no/such/network"}]);
    config["linux"]["namespaces"] = nowhere;
    let (code, stdout, stderr) = run(&config);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(
        stderr.contains("network: /no/such/network: No such file"),
        "{stderr}"
    );
}

#[test]
fn file_systems_and_their_options() {
    let mut config = config(
        "stat -c '%a %u %g' /mnt /dev/pts/ptmx; grep -o 'size=1024k' /proc/mounts; \
         head -c 2M /dev/zero >/mnt/x 2>/dev/null; wc -c </mnt/x; \
         ls -A /etc/apt | sort | head -1; stat -c %a /etc/apt; echo x >/etc/apt/new && echo written; \
         grep -o 'gid=7,mode=600,ptmxmode=644' /proc/mounts; \
         script -qc 'stat -c %g-%a $(tty)' /dev/null | tr -d '\\r'; stat -c %a /dev/mqueue",
    );
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.extend([
        json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs",
               "options": ["size=1m", "mode=1750", "uid=3", "gid=4"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["newinstance", "gid=7", "mode=600", "ptmxmode=0644"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}),
        json!({"destination": "/etc/apt", "type": "tmpfs", "source": "tmpfs",
               "options": ["tmpcopyup"]}),
    ]);
    let said = said(&config);
    let first = std::fs::read_dir("/etc/apt").unwrap();
    let mut names: Vec<_> = first
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = format!(
        "1750 3 4\n644 0 0\nsize=1024k\n1048576\n{}\n755\nwritten\n\
         gid=7,mode=600,ptmxmode=644\n7-600\n1777\n",
        names[0]
    );
    assert_eq!(said, expected);
}

#[test]
fn masked_and_readonly_paths() {
    let mut config = config(
        "cat /etc/hostname | wc -c; ls -A /usr/share | wc -l; echo x >/etc/apt/x; \
         echo x >/etc/passwd && echo w; ls -d /etc/apt",
    );
    config["linux"]["maskedPaths"] = json!(["/etc/hostname", "/usr/share", "/no/such"]);
    config["linux"]["readonlyPaths"] = json!(["/etc/apt", "/nor/such"]);
    let (code, stdout, stderr) = run(&config);
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "0\n0\nw\n/etc/apt\n"),
        "{stderr}"
    );
    assert!(stderr.contains("Read-only file system"), "{stderr}");
}

#[test]
fn who_the_process_is() {
    let mut config = config(
        "id -u; id -g; id -G; umask; ulimit -n; ulimit -Hn; grep -E '^(NoNewPrivs|Cap(Eff|Bnd)):' \
         /proc/self/status; cat /proc/self/oom_score_adj; hostname; cat /proc/sys/kernel/domainname; \
         pwd; echo $HOME",
    );
    let process = &mut config["process"];
    process["user"] = json!({"uid": 1, "gid": 2, "umask": 63, "additionalGids": [5, 3]});
    process["cwd"] = json!("/no/such/yet");
    process["noNewPrivileges"] = json!(true);
    process["oomScoreAdj"] = json!(300);
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    process["capabilities"] = json!({
        "bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"],
        "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    config["hostname"] = json!("inside");
    config["domainname"] = json!("of.name");
    let expected = "1\n2\n2 3 5\n0077\n100\n200\nCapEff:\t0000000000000020\n\
                    CapBnd:\t0000000000000021\nNoNewPrivs:\t1\n300\ninside\nof.name\n/no/such/yet\n\
                    /usr/sbin\n";
    assert_eq!(said(&config), expected);
}

#[test]
fn ids_of_the_host_are_those_of_the_mapping() {
    use std::os::unix::fs::{MetadataExt, chown};
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root maps ids of others");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    std::fs::create_dir(&path).unwrap();
    for (name, id) in [
        ("", 100_000),
        ("own", 100_000),
        ("other", 100_007),
        ("outside", 3),
    ] {
        let file = path.join(name);
        if !name.is_empty() {
            std::fs::write(&file, "").unwrap();
        }
        chown(&file, Some(id), Some(id)).unwrap();
    }
    let mut config = config(
        "cd /mnt; stat -c '%n %u %g' own other outside; touch made && chown 9:9 made && echo made",
    );
    config["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/mnt", "type": "bind", "source": path, "options": ["bind"],
    }));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    // The temporary directory is the caller's alone, who is not mapped.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), everybody).unwrap();
    assert_eq!(
        said(&config),
        "own 0 0\nother 7 7\noutside 65534 65534\nmade\n"
    );
    assert_eq!(std::fs::metadata(path.join("made")).unwrap().uid(), 100_009);
}

/// Debian's.
const RUNC: &str = "/usr/sbin/runc";

const PROBE: &str = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    libc.syscall(number, *[ctypes.c_ulong(arg) for arg in args])
    return ctypes.get_errno()
print([call(135, x) for x in (0, 8, 0xffffffff, 1, 0x100000008)])
print([call(95, x) for x in (0o22, 0o77, 0o122, 0)])
print([call(41, x, 77, 0) == 1 for x in (1, 40)])
print(call(83, 0, 0), call(162), call(600), call(435, 0, 0), call(21, 0, 0))
";

/// The same profile under runc: the same answers.
#[test]
fn a_seccomp_profile_means_what_it_means_to_runc() {
    let has = |path: &str| std::path::Path::new(path).exists();
    let python = "/usr/bin/python3";
    if !has(RUNC) || !has(python) || !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: needs root, {RUNC} and {python}");
        return;
    }
    let dropped = [
        "mkdir",
        "mkdirat",
        "clone3",
        "personality",
        "umask",
        "socket",
        "sync",
    ];
    let mut names = calls();
    names.retain(|name| !dropped.contains(&name.as_str()));
    let is = |index: u32, value: u64, op: &str, two: u64| json!({"index": index, "value": value, "valueTwo": two, "op": op});
    let allow = |names: Value, args: Value| json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args});
    let fail = |name: &str, errno: u32| json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno});
    let personality = |value: u64| {
        allow(
            json!(["personality"]),
            json!([is(0, value, "SCMP_CMP_EQ", 0)]),
        )
    };
    let mut syscalls = vec![
        allow(json!(names), json!([])),
        fail("clone3", 38),
        allow(
            json!(["socket"]),
            json!([is(0, 1, "SCMP_CMP_NE", 0), is(0, 40, "SCMP_CMP_NE", 0)]),
        ),
        allow(
            json!(["umask"]),
            json!([is(0, 0o77, "SCMP_CMP_MASKED_EQ", 0o22)]),
        ),
        fail("sync", 7),
        allow(json!(["sync"]), json!([])),
    ];
    syscalls.extend([0, 8, 0xffff_ffff].map(personality));
    let mut config = config("");
    config["process"]["args"] = json!([python, "-c", PROBE]);
    config["process"]["noNewPrivileges"] = json!(true);
    config["root"] = json!({"path": "rootfs"});
    let bind = |dir: &str| json!({"destination": dir, "type": "bind", "source": dir, "options": ["rbind", "ro"]});
    config["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        bind("/usr"), bind("/lib"), bind("/lib64"), bind("/bin"),
    ]);
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|typ| json!({"type": typ}));
    config["linux"] = json!({
        "namespaces": namespaces,
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": syscalls},
    });
    for architectures in [json!([]), json!(["SCMP_ARCH_X86_64"])] {
        config["linux"]["seccomp"]["architectures"] = architectures;
        let (code, ours, stderr) = run(&config);
        assert_eq!(code, Some(0), "{stderr}");
        let Some(theirs) = under_runc(&config) else {
            return;
        };
        assert_eq!(ours, theirs);
    }
}

/// Stdout of the container under runc; none if it does not run here.
fn under_runc(config: &Value) -> Option<String> {
    let bundle = common::Bundle::new(Some(&config.to_string()));
    let output = std::process::Command::new(RUNC)
        .arg("--root")
        .arg(bundle.state())
        .args(["run", "--bundle"])
        .arg(&bundle.path)
        .arg(format!("runsc-rs-test-{}", std::process::id()))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    if output.status.success() {
        return Some(String::from_utf8_lossy(&output.stdout).into());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    eprintln!("skipped: runc does not run here: {stderr}");
    None
}

#[test]
fn trees_and_files_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    std::fs::create_dir(path.join("tree")).unwrap();
    std::fs::write(path.join("tree/file"), "in the tree\n").unwrap();
    std::fs::write(path.join("single"), "single\n").unwrap();
    let mut config = config(
        "cat /mnt/file /opt/new/place; echo more >>/mnt/file; echo more >>/opt/new/place; \
         echo x >/media/file || echo refused; echo x >/mnt/made",
    );
    config["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/mnt", "type": "bind", "source": path.join("tree"), "options": ["rbind", "rw", "rprivate"]}),
        json!({"destination": "/media", "type": "none", "source": path.join("tree"), "options": ["bind", "ro", "rshared"]}),
        json!({"destination": "/opt/new/place", "source": path.join("single"), "options": ["bind"]}),
    ]);
    assert_eq!(said(&config), "in the tree\nsingle\nrefused\n");
    let text = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    assert_eq!(text("tree/file"), "in the tree\nmore\n");
    assert_eq!(
        (text("single"), text("tree/made")),
        ("single\nmore\n".into(), "x\n".into())
    );
}

#[test]
fn devices() {
    let mut config = config(
        "stat -c '%n %F %a %u %g %t:%T' /dev/mine /dev/other /dev/pipe /dev/cpu/0/null; echo gone >/dev/mine && echo ok; \
         head -c 3 /dev/zero | wc -c; cat /dev/other 2>&1 | grep -o 'No such device or address'",
    );
    config["mounts"].as_array_mut().unwrap().push(
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}),
    );
    config["linux"]["devices"] = json!([
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/dev/other", "type": "b", "major": 200, "minor": 7},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
        {"path": "/dev/cpu/0/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
    ]);
    let (code, stdout, stderr) = run(&config);
    let expected = "/dev/mine character special file 640 3 4 1:3\n\
                    /dev/other block special file 666 0 0 c8:7\n\
                    /dev/pipe fifo 600 0 0 0:0\n\
                    /dev/cpu/0/null character special file 600 0 0 1:3\nok\n3\nNo such device or address\n";
    assert_eq!((code, stdout.as_str()), (Some(0), expected), "{stderr}");
    assert_eq!(
        stderr.matches("linux.devices: /dev/other").count(),
        1,
        "{stderr}"
    );
}

#[test]
fn a_priority_of_io_is_shown() {
    let show = "import ctypes; print(ctypes.CDLL(None).syscall(252, 1, 0))";
    let mut config = config(&format!("python3 -c '{show}'"));
    config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 3});
    let (code, said, stderr) = common::run(&config);
    assert_eq!((code, said.as_str()), (Some(0), "24579\n"), "{stderr}");
    assert!(stderr.contains("process.ioPriority"), "{stderr}");
    config["process"]["ioPriority"]["priority"] = json!(8);
    let (code, _, stderr) = common::run(&config);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("process.ioPriority.priority: 8"),
        "{stderr}"
    );
}
