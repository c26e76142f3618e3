//! Groups on this machine, and those of the other version in a directory that looks like them.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{resources::host_tasks, *};

/// A name of which no other test of this machine uses a part.
fn unique(test: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("/runsc-rs-{test}-{}-{number}/group", std::process::id()).into()
}

fn request<'a>(path: &'a Path, resources: Option<&'a LinuxResources>) -> Request<'a> {
    Request {
        path: Some(path),
        id: "c",
        systemd: false,
        resources,
        privileged: true,
    }
}

fn resources(json: serde_json::Value) -> LinuxResources {
    serde_json::from_value(json).unwrap()
}

/// A process that waits for its stdin to end.
struct Cat(Child);

impl Cat {
    fn start() -> Self {
        Self(
            Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this test may make groups here; says so if not.
fn may_make_groups() -> bool {
    let path = unique("probe");
    match Cgroup::create(&request(&path, None)) {
        Ok(Some(cgroup)) => {
            cgroup.remove().unwrap();
            true
        }
        other => {
            eprintln!("skipped: no cgroups can be made here: {other:?}");
            false
        }
    }
}

#[test]
fn the_life_of_a_group() {
    if !may_make_groups() {
        return;
    }
    let path = unique("life");
    let limits = resources(serde_json::json!({
        "memory": {"limit": 64 << 20}, "pids": {"limit": 20}, "cpu": {"cpus": "0"},
    }));
    let cgroup = Cgroup::create(&request(&path, Some(&limits)))
        .unwrap()
        .unwrap();
    let directories: Vec<_> = cgroup.groups.iter().map(|g| g.directory.clone()).collect();
    let mut cat = Cat::start();
    let pid = cat.0.id() as i32;
    cgroup.enter(pid).unwrap();
    assert_eq!(cgroup.processes().unwrap(), [pid]);

    // A second container does not get the same group.
    let error = Cgroup::create(&request(&path, None)).unwrap_err();
    assert!(
        format!("{error:#}").contains("processes already"),
        "{error:#}"
    );
    assert_eq!(cgroup.processes().unwrap(), [pid]);

    let stats = cgroup.stats().unwrap();
    if cgroup.with("memory").is_some() {
        assert_eq!(stats.memory.limit, Some(64 << 20));
        assert!(stats.memory.usage.is_some(), "{stats:?}");
        let more = resources(serde_json::json!({"memory": {"limit": 128 << 20}}));
        cgroup.update(&more).unwrap();
        assert_eq!(cgroup.stats().unwrap().memory.limit, Some(128 << 20));
        let less = serde_json::json!({"memory": {"limit": 1, "checkBeforeUpdate": true}});
        if cgroup.stats().unwrap().memory.usage > Some(1) {
            cgroup.update(&resources(less)).unwrap_err();
        }
    }
    if cgroup.with("pids").is_some() {
        assert_eq!(stats.pids.current, Some(1));
        assert_eq!(stats.pids.limit, Some(host_tasks(20) as u64));
    }
    if cgroup.with("cpuset").is_some() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let allowed = status.lines().find(|l| l.starts_with("Cpus_allowed_list:"));
        assert_eq!(allowed.unwrap().split_whitespace().nth(1), Some("0"));
    }

    // What is frozen answers only when it has thawed.
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    let mut stdin = cat.0.stdin.take().unwrap();
    stdin.write_all(b"x").unwrap();
    drop(stdin);
    assert_eq!(cat.0.try_wait().unwrap(), None);
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    assert!(cat.0.wait().unwrap().success());

    // It can be kept as text.
    let kept: Cgroup = serde_json::from_str(&serde_json::to_string(&cgroup).unwrap()).unwrap();
    let cat = Cat::start();
    kept.enter(cat.0.id() as i32).unwrap();
    kept.freeze().unwrap();
    kept.destroy().unwrap();
    for directory in directories {
        assert!(!directory.exists(), "{}", directory.display());
        assert!(
            !directory.parent().unwrap().exists() || directory.parent() == Some(Path::new("/"))
        );
    }
}

#[test]
fn what_this_machine_lacks_is_refused_and_leaves_nothing() {
    if !may_make_groups() {
        return;
    }
    let path = unique("lacking");
    let limits = resources(serde_json::json!({
        "blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 0, "rate": 1}]},
    }));
    let error = format!(
        "{:#}",
        Cgroup::create(&request(&path, Some(&limits))).unwrap_err()
    );
    assert!(
        error.contains("linux.resources.blockIO.throttleReadBpsDevice"),
        "{error}"
    );
    for hierarchy in layout::hierarchies().unwrap() {
        let made = Place::new(Some(&path), "", false)
            .unwrap()
            .within(&hierarchy);
        assert!(!made.exists(), "{}", made.display());
    }
}

/// A hierarchy of v2 as files in a directory: what is written can be read, nothing is enforced.
fn pretended(directory: &Path) -> Hierarchy {
    for file in ["cgroup.procs", "cgroup.subtree_control"] {
        fs::write(directory.join(file), "").unwrap();
    }
    Hierarchy {
        controllers: ["memory", "cpu", "pids", "io"].map(String::from).to_vec(),
        version: Version::V2,
        mount: directory.to_path_buf(),
        own: PathBuf::new(),
    }
}

#[test]
fn values_and_figures_of_v2() {
    let dir = tempfile::tempdir().unwrap();
    let hierarchy = pretended(dir.path());
    let group = dir.path().join("c");
    fs::create_dir(&group).unwrap();
    let files = [
        ("cgroup.procs", ""),
        ("memory.max", "max\n"),
        ("memory.current", "4096\n"),
        ("memory.swap.max", "10000\n"),
        ("memory.swap.current", "100\n"),
        ("memory.peak", "8192\n"),
        ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n"),
        ("memory.stat", "anon 5\nfile 6\n"),
        ("cpu.max", "max 100000\n"),
        (
            "cpu.stat",
            "usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 2\nnr_throttled 1\nthrottled_usec 9\n",
        ),
        ("pids.max", "max\n"),
        ("pids.current", "3\n"),
        (
            "io.stat",
            "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
        ),
    ];
    for (file, text) in files {
        fs::write(group.join(file), text).unwrap();
    }
    let limits = resources(serde_json::json!({
        "memory": {"limit": 65536}, "cpu": {"quota": 50_000, "period": 100_000},
        "pids": {"limit": 1},
    }));
    let path = Path::new("/c");
    let asked = request(path, Some(&limits));
    let cgroup = Cgroup::create_in(&asked, &[hierarchy]).unwrap().unwrap();
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
    assert_eq!(read("memory.max"), "65536");
    assert!(read("cpu.max").starts_with("50000 100000"));
    assert!(read("pids.max").starts_with("68"));
    let passed_on = fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap();
    assert!(!passed_on.is_empty());
    cgroup.enter(77).unwrap();
    assert_eq!(cgroup.processes().unwrap(), [77]);
    let stats = cgroup.stats().unwrap();
    assert_eq!(stats.memory.usage, Some(4096));
    assert_eq!(stats.memory.with_swap, Some(4196));
    assert_eq!(stats.memory.with_swap_limit, Some(75_536));
    assert_eq!(stats.memory.failures, Some(3));
    assert_eq!(stats.memory.oom_kills, Some(1));
    assert_eq!(stats.memory.details["file"], 6);
    assert_eq!(stats.cpu.usage, Some(7000));
    assert_eq!(stats.cpu.throttled, Some(9000));
    assert_eq!(stats.pids.current, Some(3));
    let io = &stats.block_io[0];
    assert_eq!((io.minor, io.read_bytes, io.writes), (16, 1, 4));
}

#[test]
fn processes_above_keep_controllers_from_a_group_of_v2() {
    let dir = tempfile::tempdir().unwrap();
    let hierarchy = pretended(dir.path());
    let group = dir.path().join("own/c");
    fs::create_dir_all(&group).unwrap();
    fs::write(dir.path().join("own/cgroup.type"), "domain\n").unwrap();
    fs::write(dir.path().join("own/cgroup.procs"), "77\n").unwrap();
    let create = |resources| {
        let limits = self::resources(resources);
        let asked = request(Path::new("/own/c"), Some(&limits));
        let created = Cgroup::create_in(&asked, std::slice::from_ref(&hierarchy));
        let error = created.err().map(|error| format!("{error:#}"));
        fs::create_dir_all(&group).unwrap();
        error.unwrap_or_default()
    };
    let error = create(serde_json::json!({"memory": {"limit": 65536}}));
    assert!(error.contains("linux.resources.memory.limit"), "{error}");
    assert!(error.contains("own has processes of its own"), "{error}");
    // No limit is had without.
    assert_eq!(create(serde_json::json!({"memory": {"limit": -1}})), "");
}

#[test]
fn who_may_not_make_groups_does_without() {
    let dir = tempfile::tempdir().unwrap();
    let mut hierarchy = pretended(dir.path());
    // A path below what is not a directory is as good as one that is refused.
    hierarchy.mount = dir.path().join("absent");
    let limits = resources(serde_json::json!({"memory": {"limit": 65536}}));
    let path = Path::new("/c");
    let mut asked = request(path, Some(&limits));
    Cgroup::create_in(&asked, &[hierarchy.clone()]).unwrap_err();
    asked.privileged = false;
    assert_eq!(Cgroup::create_in(&asked, &[hierarchy]).unwrap(), None);
    assert_eq!(Cgroup::create_in(&asked, &[]).unwrap(), None);
}
