//! What `runc` reads: OCI bundles, and the host's root as a container's root.
//!
//! [`Container`] is what differs between the two kinds of bundle; the rest is as
//! Docker would write it, less what costs a benchmark nothing to miss: own
//! namespaces, few capabilities or none, no seccomp profile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::runtime::{Network, Place};

/// What root needs to read and write everybody's files, as it can natively, and servers to have
/// their work done by another user.
const CAPABILITIES_OF_PROGRAMS: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
];

/// One container to be: its `config.json`.
#[derive(Debug)]
pub struct Container {
    words: Vec<String>,
    environment: Vec<String>,
    directory: PathBuf,
    root: PathBuf,
    capabilities: &'static [&'static str],
    network: Network,
    /// If set, the root is read-only and this directory of the host is not.
    writable: Option<PathBuf>,
}

impl Container {
    /// The static program in the bundle's own root.
    pub fn of_static_program(words: &[String]) -> Container {
        Container {
            words: words.to_vec(),
            environment: vec!["PATH=/".to_string()],
            directory: "/".into(),
            root: "rootfs".into(),
            capabilities: &[],
            network: Network::Alone,
            writable: None,
        }
    }

    /// A program of the host, which may write to `place` only.
    pub fn on_host_root(words: &[String], place: &Place, root: &HostRootMount) -> Container {
        let environment = place.environment.iter();
        Container {
            words: words.to_vec(),
            environment: environment.map(|(n, v)| format!("{n}={v}")).collect(),
            directory: place.directory.clone(),
            root: root.path.clone(),
            capabilities: CAPABILITIES_OF_PROGRAMS,
            network: place.network,
            writable: Some(place.directory.clone()),
        }
    }

    /// Writes the configuration into the directory `bundle`.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        let config = self.config(nix::unistd::geteuid().as_raw());
        fs::write(bundle.join("config.json"), config.to_string())
    }

    fn config(&self, euid: u32) -> Value {
        let mut namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount"]
            .iter()
            .filter(|kind| self.network == Network::Alone || **kind != "network")
            .map(|kind| json!({"type": kind}))
            .collect();
        let mut linux = json!({});
        if euid != 0 {
            namespaces.push(json!({"type": "user"}));
            let egid = nix::unistd::getegid().as_raw();
            linux["uidMappings"] = json!([{"containerID": 0, "hostID": euid, "size": 1}]);
            linux["gidMappings"] = json!([{"containerID": 0, "hostID": egid, "size": 1}]);
        }
        linux["namespaces"] = json!(namespaces);
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                   "options": ["nosuid", "strictatime", "mode=755", "size=64k"]}),
            json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                   "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        ];
        if let Some(writable) = &self.writable {
            mounts.push(
                json!({"destination": writable, "type": "bind", "source": writable,
                               "options": ["bind", "rw"]}),
            );
        }
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": self.words,
                "env": self.environment,
                "cwd": self.directory,
                "capabilities": {
                    "bounding": self.capabilities,
                    "effective": self.capabilities,
                    "permitted": self.capabilities,
                },
                "noNewPrivileges": true,
            },
            "root": {"path": self.root, "readonly": self.writable.is_some()},
            "hostname": "side-by-side",
            "mounts": mounts,
            "linux": linux,
        })
    }
}

/// The host's root, visible a second time at a path below itself, because `runc`
/// does not take `/` for a container's root. It needs root privileges.
#[derive(Debug, Clone)]
pub struct HostRootMount {
    path: PathBuf,
}

impl HostRootMount {
    /// Makes the mount point, in the directory `bundle`.
    pub fn create(bundle: &Path) -> io::Result<HostRootMount> {
        let path = bundle.join("host-root");
        fs::create_dir_all(&path)?;
        Ok(HostRootMount { path })
    }

    fn mount_here(&self) -> nix::Result<()> {
        private_mount_namespace()?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some("/"), &self.path, None::<&str>, flags, None::<&str>)
    }

    /// Calls `body` in a thread whose mount namespace has the mount and ends with
    /// it and its children. Nobody else may see it: `find /` natively or in another
    /// sandbox would walk all files twice, and `cargo clean` would remove them.
    pub fn while_mounted<T: Send>(&self, body: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let mounted = scope.spawn(|| {
                self.mount_here().map_err(|e| {
                    let message = format!("the host's root cannot be mounted for it: {e}");
                    io::Error::new(io::Error::from(e).kind(), message)
                })?;
                Ok(body())
            });
            let panicked = || io::Error::other("the thread in the namespace ended early");
            mounted.join().map_err(|_| panicked())?
        })
    }
}

/// Gives the calling thread a mount namespace whose changes stay in it.
pub fn private_mount_namespace() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ordinary_users_get_a_user_namespace() {
        let container = Container::of_static_program(&["/micro".to_string(), "noop".to_string()]);
        let root = container.config(0);
        assert_eq!(root["process"]["args"], json!(["/micro", "noop"]));
        assert_eq!(root["root"]["readonly"], json!(false));
        assert!(root["linux"]["uidMappings"].is_null());
        let user = container.config(1000);
        assert_eq!(user["linux"]["uidMappings"][0]["hostID"], 1000);
        let namespaces = user["linux"]["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!({"type": "user"})));
    }

    #[test]
    fn on_the_hosts_root_one_directory_is_writable() {
        let place = Place {
            directory: "/tmp/here".into(),
            environment: vec![("HOME".to_string(), "/tmp/here".to_string())],
            network: Network::Callers,
        };
        let root = HostRootMount {
            path: "/bundle/host-root".into(),
        };
        let config = Container::on_host_root(&["true".to_string()], &place, &root).config(0);
        assert_eq!(
            config["root"],
            json!({"path": "/bundle/host-root", "readonly": true})
        );
        assert_eq!(config["process"]["env"], json!(["HOME=/tmp/here"]));
        assert_eq!(config["process"]["cwd"], "/tmp/here");
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        assert!(!namespaces.contains(&json!({"type": "network"})));
        assert_eq!(config["mounts"][3]["source"], "/tmp/here");
        assert_eq!(config["mounts"][3]["destination"], "/tmp/here");
    }

    #[test]
    fn the_second_root_is_seen_by_its_thread_only() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRootMount::create(directory.path()).unwrap();
        let inside = root.path.join("proc/self/stat");
        match root.while_mounted(|| inside.exists()) {
            Ok(seen) => assert!(seen),
            Err(e) => eprintln!("SKIPPED the mount of the host's root: {e}"),
        }
        assert!(!inside.exists());
    }
}
