//! Configurations as runc, Docker and a minimalist write them, and what becomes of them.

use std::{fs, path::PathBuf};

use runsc_sentry::config::{
    Atime, CapabilitySets, DevptsOptions, MountConfig, MountFlags, MountKind, Rlimit, TmpfsOptions,
};
use tempfile::TempDir;

use super::*;

/// A bundle with this configuration, a root and a `host` directory to bind from.
fn bundle(config: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(dir.path()).unwrap();
    fs::create_dir(path.join("rootfs")).unwrap();
    fs::create_dir_all(path.join("host/volume")).unwrap();
    fs::write(path.join("host/resolv.conf"), "").unwrap();
    fs::write(path.join("config.json"), config).unwrap();
    (dir, path)
}

fn translate(config: &str) -> Result<(BootConfig, ServerConfig)> {
    let (_dir, path) = bundle(config);
    Bundle::load(&path)?.translate("id", OverlayKind::Memory)
}

fn mount<'a>(boot: &'a BootConfig, destination: &str) -> &'a MountConfig {
    let mut found = boot
        .mounts
        .iter()
        .filter(|m| m.destination == destination.as_bytes());
    let mount = found
        .next()
        .unwrap_or_else(|| panic!("no mount at {destination}"));
    assert!(found.next().is_none(), "two mounts at {destination}");
    mount
}

const LOCKED: MountFlags = MountFlags {
    readonly: false,
    nosuid: true,
    nodev: true,
    noexec: true,
    atime: Atime::Relative,
};
const KILL_BIND_AUDIT: u64 = 1 << 5 | 1 << 10 | 1 << 29;

#[test]
fn minimal_gets_proc_and_dev() {
    let (boot, gofer) = translate(include_str!("../../tests/data/minimal.json")).unwrap();
    assert_eq!(boot.container_id, "id");
    assert_eq!(boot.process.args, [b"/bin/true"]);
    assert_eq!(boot.process.env, [b"HOME=/"]);
    assert_eq!(boot.process.umask, 0o022);
    assert_eq!(boot.process.capabilities, CapabilitySets::default());
    assert!(!boot.process.no_new_privileges && !boot.process.terminal);
    let root = RootConfig {
        gofer_mount: 0,
        readonly: false,
        overlay: OverlayKind::Memory,
    };
    assert_eq!(boot.root, root);
    let order: Vec<_> = boot
        .mounts
        .iter()
        .map(|m| m.destination.as_slice())
        .collect();
    assert_eq!(
        order,
        [b"/proc".as_slice(), b"/dev", b"/dev/pts", b"/dev/shm"]
    );
    assert_eq!(mount(&boot, "/dev").kind, MountKind::Devtmpfs);
    assert_eq!(gofer.mounts.len(), 1);
    assert!(gofer.mounts[0].source.ends_with("rootfs"));
    assert_eq!(gofer.mounts[0].writes, Writes::Refuse);
}

#[test]
fn without_an_overlay_the_bundle_is_written() {
    let minimal = include_str!("../../tests/data/minimal.json");
    let (_dir, path) = bundle(minimal);
    let (boot, gofer) = Bundle::load(&path)
        .unwrap()
        .translate("id", OverlayKind::None)
        .unwrap();
    assert_eq!(boot.root.overlay, OverlayKind::None);
    assert_eq!(gofer.mounts[0].writes, Writes::Allow);
    let config = minimal.replace(r#""rootfs""#, r#""rootfs", "readonly": true"#);
    fs::write(path.join("config.json"), config).unwrap();
    let (boot, gofer) = Bundle::load(&path)
        .unwrap()
        .translate("id", OverlayKind::None)
        .unwrap();
    assert!(boot.root.readonly);
    assert_eq!(gofer.mounts[0].writes, Writes::Refuse);
}

#[test]
fn runc_style() {
    let (boot, gofer) = translate(include_str!("../../tests/data/runc-style.json")).unwrap();
    assert!(boot.root.readonly && boot.process.terminal && boot.process.no_new_privileges);
    assert_eq!(boot.hostname, b"runc");
    assert_eq!(boot.domainname, b"(none)");
    let capabilities = CapabilitySets {
        bounding: KILL_BIND_AUDIT,
        effective: KILL_BIND_AUDIT,
        permitted: KILL_BIND_AUDIT,
        inheritable: 0,
        // Not inheritable, so the kernel would refuse them.
        ambient: 0,
    };
    assert_eq!(boot.process.capabilities, capabilities);
    let limit = Rlimit {
        resource: libc::RLIMIT_NOFILE,
        soft: 1024,
        hard: 1024,
    };
    assert_eq!(boot.process.rlimits, [limit]);
    let dev = mount(&boot, "/dev");
    let tmpfs = TmpfsOptions {
        size: Some(64 << 20),
        mode: Some(0o755),
        ..Default::default()
    };
    assert_eq!(dev.kind, MountKind::Tmpfs(tmpfs));
    let flags = MountFlags {
        nosuid: true,
        atime: Atime::Strict,
        ..Default::default()
    };
    assert_eq!(dev.flags, flags);
    let devpts = DevptsOptions {
        mode: Some(0o620),
        ptmx_mode: Some(0o666),
        gid: Some(5),
        ..Default::default()
    };
    assert_eq!(mount(&boot, "/dev/pts").kind, MountKind::Devpts(devpts));
    assert_eq!(mount(&boot, "/dev/mqueue").kind, MountKind::Mqueue);
    let sys = mount(&boot, "/sys");
    assert_eq!(
        (&sys.kind, sys.flags),
        (
            &MountKind::Sysfs,
            MountFlags {
                readonly: true,
                ..LOCKED
            }
        )
    );
    assert!(matches!(
        mount(&boot, "/sys/fs/cgroup").kind,
        MountKind::Cgroup
    ));
    assert_eq!(boot.masked_paths.len(), 3);
    assert_eq!(boot.readonly_paths[0], b"/proc/bus");
    let console = boot.nodes.iter().any(|node| node.path == b"/dev/console");
    assert!(console, "a terminal has a console");
    assert_eq!(gofer.mounts.len(), 1);
}

#[test]
fn docker_style() {
    let (boot, gofer) = translate(include_str!("../../tests/data/docker-style.json")).unwrap();
    let process = &boot.process;
    assert_eq!((process.uid, process.gid), (1000, 1000));
    assert_eq!(process.additional_gids, [27, 1000]);
    assert_eq!(process.cwd, b"/srv/app");
    assert_eq!(process.env[3], "GREETING=Grüße = hello".as_bytes());
    assert_eq!(
        process.capabilities.effective,
        1 << 0 | 1 << 31,
        "not more than permitted"
    );
    let files = Rlimit {
        resource: libc::RLIMIT_NOFILE,
        soft: 1 << 20,
        hard: u64::MAX,
    };
    assert_eq!(process.rlimits[0], files);
    assert_eq!(boot.domainname, b"example.org");

    let resolv = mount(&boot, "/etc/resolv.conf");
    let kind = MountKind::Bind {
        gofer_mount: 1,
        directory: false,
        overlay: OverlayKind::None,
    };
    assert_eq!(resolv.kind, kind);
    assert!(gofer.mounts[1].source.ends_with("host/resolv.conf"));
    assert_eq!(gofer.mounts[1].writes, Writes::Allow);
    let data = mount(&boot, "/data");
    let kind = MountKind::Bind {
        gofer_mount: 2,
        directory: true,
        overlay: OverlayKind::None,
    };
    assert_eq!(data.kind, kind);
    assert!(data.flags.readonly && data.flags.nosuid && !data.flags.nodev);
    assert_eq!(gofer.mounts[2].writes, Writes::Refuse);
    let MountKind::Tmpfs(scratch) = mount(&boot, "/scratch").kind else {
        panic!("no tmpfs")
    };
    assert!(scratch.copy_up && scratch.size.is_some() && scratch.uid == Some(1000));

    let node = |path: &[u8]| {
        &boot
            .nodes
            .iter()
            .find(|node| node.path == path)
            .unwrap()
            .kind
    };
    let fuse = NodeKind::Char {
        major: 10,
        minor: 229,
        mode: 0o660,
        uid: 0,
        gid: 44,
    };
    assert_eq!(node(b"/dev/fuse"), &fuse);
    assert_eq!(
        node(b"/dev/initctl"),
        &NodeKind::Fifo {
            mode: 0o600,
            uid: 0,
            gid: 0
        }
    );
    assert_eq!(
        node(b"/dev/ptmx"),
        &NodeKind::Symlink {
            target: b"pts/ptmx".to_vec()
        }
    );
}

#[test]
fn what_was_translated_survives_the_way_to_the_sentry() {
    let (boot, _) = translate(include_str!("../../tests/data/docker-style.json")).unwrap();
    assert_eq!(
        BootConfig::from_bytes(&boot.to_bytes().unwrap()).unwrap(),
        boot
    );
    assert!(BootConfig::from_bytes(&[1, 2, 3]).is_err());
}

#[test]
fn unknown_capabilities_are_left_out() {
    let config = include_str!("../../tests/data/runc-style.json");
    let (boot, _) = translate(&config.replace("CAP_AUDIT_WRITE", "CAP_TIME_TRAVEL")).unwrap();
    assert_eq!(
        boot.process.capabilities.bounding,
        KILL_BIND_AUDIT & !(1 << 29)
    );
}

/// Replaces the first thing by the second in the minimal configuration.
fn error(from: &str, to: &str) -> String {
    let config = include_str!("../../tests/data/minimal.json");
    assert!(config.contains(from), "{from}");
    let (_dir, path) = bundle(&config.replacen(from, to, 1));
    let result = Bundle::load(&path).and_then(|b| b.translate("id", OverlayKind::Memory));
    let text = format!(
        "{:#}",
        result.err().unwrap_or_else(|| panic!("{to} was accepted"))
    );
    let file = path.join("config.json").display().to_string();
    let text = text.strip_prefix(&format!("{file}: ")).unwrap_or(&text);
    text.replace(&path.display().to_string(), "BUNDLE")
}

#[test]
fn what_is_wrong_is_named() {
    let process = r#""args": ["/bin/true"],"#;
    let section = r#""root": { "path": "rootfs" },"#;
    let mounts = |json: &str| format!("{section} \"mounts\": [{json}],");
    let cases = [
        (process, "", "process.args: must not be empty"),
        (process, r#""args": [],"#, "process.args: must not be empty"),
        (
            process,
            r#""args": [""],"#,
            "process.args: must not be empty",
        ),
        (
            process,
            r#""args": ["a", "b\u0000"],"#,
            "process.args[1]: holds a NUL byte",
        ),
        (
            process,
            r#""args": ["a"], "env": ["=x"],"#,
            "process.env: \"=x\": not NAME=VALUE",
        ),
        (
            r#""cwd": "/""#,
            r#""cwd": "tmp""#,
            "process.cwd: \"tmp\": not an absolute path",
        ),
        (
            r#""uid": 0"#,
            r#""uid": 4294967295"#,
            "process.user.uid: 4294967295: out of range",
        ),
        (section, "", "root: missing"),
        ("rootfs", "", "root.path: must not be empty"),
        (
            "rootfs",
            "nowhere",
            "root.path: BUNDLE/nowhere: No such file or directory (os error 2)",
        ),
        (
            "rootfs",
            "config.json",
            "root.path: BUNDLE/config.json: not a directory",
        ),
        (
            process,
            r#""args": ["a"], "rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}],"#,
            "process.rlimits: RLIMIT_CPU: soft limit 2 above hard limit 1",
        ),
        (
            process,
            r#""args": ["a"], "rlimits": [{"type": "RLIMIT_CPU"}, {"type": "RLIMIT_CPU"}],"#,
            "process.rlimits: RLIMIT_CPU: given twice",
        ),
        (
            section,
            &mounts(r#"{"destination": "/a", "type": "nfs"}"#),
            "mounts[0] (/a): type: \"nfs\" is unknown",
        ),
        (
            section,
            &mounts(r#"{"destination": "/a"}"#),
            "mounts[0] (/a): type: missing",
        ),
        (
            section,
            &mounts(r#"{"destination": "/a", "type": "tmpfs", "options": ["size=many"]}"#),
            "mounts[0] (/a): option \"size=many\": not a size",
        ),
        (
            section,
            &mounts(r#"{"destination": "/a", "type": "bind", "source": "nowhere"}"#),
            "mounts[0] (/a): source: BUNDLE/nowhere: No such file or directory (os error 2)",
        ),
        (
            section,
            &mounts(r#"{"destination": "/a", "type": "bind"}"#),
            "mounts[0] (/a): source: missing",
        ),
        (
            section,
            &mounts(r#"{"destination": "/x/..", "type": "tmpfs"}"#),
            "mounts[0] (/x/..): destination: the root comes from the section \"root\"",
        ),
        (
            section,
            &format!(r#"{section} "linux": {{"maskedPaths": ["proc"]}},"#),
            "linux.maskedPaths: \"proc\": not an absolute path",
        ),
        (
            section,
            &format!(r#"{section} "hostname": "{}","#, "h".repeat(65)),
            &format!("hostname: {:?}: longer than 64 bytes", "h".repeat(65)),
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(error(from, to), expected, "{to}");
    }
}

#[test]
fn syntax_errors_have_a_place() {
    assert_eq!(
        error("\"root\"", "root"),
        "line 3, column 3: key must be a string"
    );
    let text = error(r#""uid": 0"#, r#""uid": "zero""#);
    assert!(text.starts_with("line 4, column "), "{text}");
    let limits = r#""args": ["a"], "rlimits": [{"type": "RLIMIT_LUCK"}],"#;
    let text = error(r#""args": ["/bin/true"],"#, limits);
    assert!(
        text.contains("RLIMIT_LUCK") && text.starts_with("line 4, column "),
        "{text}"
    );
    let (_dir, path) = bundle("{\"ociVersion\": ");
    let text = format!("{:#}", Bundle::load(&path).unwrap_err());
    assert!(
        text.ends_with("config.json: line 1, column 15: EOF while parsing a value"),
        "{text}"
    );
}

#[test]
fn unknown_properties_are_named_up_to_a_bound() {
    let mut config: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/data/minimal.json")).unwrap();
    for number in 0..1000 {
        config[format!("unknown{number:04}")] = serde_json::json!(1);
    }
    let (_dir, path) = bundle(&config.to_string());
    let names = Bundle::load(&path).unwrap().without_effect();
    assert_eq!(names.len(), 17, "{names:?}");
    assert_eq!(names[0], "unknown0000: unknown");
    assert_eq!(names[16], "984 more unknown properties");
}
