//! What a container has on disk while it lives: `ROOT/ID/`, with a lock and a description.
//!
//! The command that runs the container holds a lock on `ROOT/ID/lock` (flock(2)); the kernel
//! releases it however that command ends. A directory whose lock is free is therefore stale, and
//! whoever comes across it removes it. Only the holder of the lock touches a directory.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::Uid,
};
use serde::Serialize;

/// Longest id, as runc has it.
const MAX_ID: usize = 1024;

/// Checks an id by runc's rules.
pub fn check_id(id: &str) -> Result<()> {
    ensure!(!id.is_empty(), "container id: must not be empty");
    ensure!(
        id.len() <= MAX_ID,
        "container id: longer than {MAX_ID} bytes"
    );
    ensure!(
        id != "."
            && id != ".."
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b)),
        "container id: {id:?}: only letters, digits and _ + - . are allowed"
    );
    Ok(())
}

/// The directory for the state of containers, existing and safe.
#[derive(Debug)]
pub struct StateRoot(PathBuf);

impl StateRoot {
    /// Opens the directory the user asked for, or the default one; makes it if need be.
    pub fn open(asked: Option<&Path>) -> Result<Self> {
        let path = asked.map_or_else(default_root, Path::to_path_buf);
        let what = || format!("state directory: {}", path.display());
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(what)?;
        let found = fs::symlink_metadata(&path).with_context(what)?;
        let uid = Uid::effective().as_raw();
        ensure!(found.is_dir(), "{}: not a directory", what());
        ensure!(
            found.uid() == uid,
            "{}: belongs to user {}, not {uid}",
            what(),
            found.uid()
        );
        ensure!(
            found.mode() & 0o077 == 0,
            "{}: mode {:o} lets others in, must be 700",
            what(),
            found.mode() & 0o7777
        );
        Ok(Self(path))
    }

    /// Removes what containers left behind that are dead.
    pub fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.0)
            .with_context(|| self.0.display().to_string())?
            .flatten()
        {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // An empty directory is what remains of a removal that was cut short.
            if check_id(&name).is_err() || fs::remove_dir(entry.path()).is_ok() {
                continue;
            }
            let is_state = entry.path().join("lock").is_file();
            if is_state && let Claim::Free(lock) = claim(&entry.path())? {
                log::debug!("removing the state of {name}, which is dead");
                drop(Container {
                    directory: entry.path(),
                    _lock: lock,
                });
            }
        }
        Ok(())
    }

    /// Claims the id for a new container.
    pub fn create(&self, id: &str, description: &Description<'_>) -> Result<Container> {
        check_id(id)?;
        let directory = self.0.join(id);
        loop {
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| directory.display().to_string());
                }
                _ => {}
            }
            let lock = match claim(&directory)? {
                Claim::Free(lock) => lock,
                Claim::Gone => continue,
                Claim::Held => bail!("container id: {id}: already in use"),
            };
            let container = Container {
                directory,
                _lock: lock,
            };
            let mut text = serde_json::to_vec_pretty(description)?;
            text.push(b'\n');
            let path = container.directory.join("state.json");
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)
                .and_then(|mut file| file.write_all(&text))
                .with_context(|| path.display().to_string())?;
            return Ok(container);
        }
    }
}

fn default_root() -> PathBuf {
    let uid = Uid::effective();
    if uid.is_root() {
        return "/run/runsc-rs".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if Path::new(&dir).is_absolute() => Path::new(&dir).join("runsc-rs"),
        _ => format!("/tmp/runsc-rs-{uid}").into(),
    }
}

/// What `state.json` says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description<'a> {
    pub oci_version: &'a str,
    pub id: &'a str,
    pub bundle: &'a Path,
    /// Process id of the command that runs the container.
    pub owner: u32,
}

/// A claimed id. Dropping it removes everything.
#[derive(Debug)]
pub struct Container {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Container {
    fn drop(&mut self) {
        // The lock goes before the directory: a state without it is what `claim` calls new.
        for name in ["state.json", "lock"] {
            let _ = fs::remove_file(self.directory.join(name));
        }
        // Fails if somebody has just claimed the id again.
        let _ = fs::remove_dir(&self.directory);
    }
}

enum Claim {
    Free(Flock<File>),
    /// Somebody alive has it.
    Held,
    /// It was removed meanwhile.
    Gone,
}

/// Tries to lock a container's directory.
fn claim(directory: &Path) -> Result<Claim> {
    let path = directory.join("lock");
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path);
    let file = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Claim::Gone),
        other => other.with_context(|| path.display().to_string())?,
    };
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, nix::Error::EWOULDBLOCK)) => return Ok(Claim::Held),
        Err((_, errno)) => return Err(errno).with_context(|| path.display().to_string()),
    };
    // Locked, but is it still the file of that name?
    let current = fs::symlink_metadata(&path)
        .map(|found| (found.dev(), found.ino()))
        .ok();
    let mine = lock.metadata().map(|found| (found.dev(), found.ino())).ok();
    Ok(if current == mine && mine.is_some() {
        Claim::Free(lock)
    } else {
        Claim::Gone
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, StateRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = StateRoot::open(Some(&dir.path().join("root"))).unwrap();
        (dir, root)
    }

    fn description(id: &str) -> Description<'_> {
        Description {
            oci_version: "1.0.2",
            id,
            bundle: Path::new("/b"),
            owner: 1,
        }
    }

    #[test]
    fn ids_follow_runc() {
        for id in ["a", "A-b_c.d+9", "..a", "0", "-", &"x".repeat(1024)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "é",
            "a\n",
            "a:b",
            &"x".repeat(1025),
        ] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn an_id_is_claimed_once_and_leaves_nothing() {
        let (_dir, root) = root();
        let first = root.create("c", &description("c")).unwrap();
        let error = root.create("c", &description("c")).unwrap_err();
        assert_eq!(error.to_string(), "container id: c: already in use");
        root.sweep().unwrap();
        assert!(root.0.join("c/state.json").exists(), "swept although alive");
        drop(first);
        assert!(!root.0.join("c").exists());
        drop(root.create("c", &description("c")).unwrap());
    }

    #[test]
    fn state_of_the_dead_is_taken_over_and_swept() {
        let (_dir, root) = root();
        fs::create_dir(root.0.join("empty")).unwrap();
        for id in ["old", "older"] {
            fs::create_dir(root.0.join(id)).unwrap();
            fs::write(root.0.join(id).join("lock"), "").unwrap();
            fs::write(root.0.join(id).join("state.json"), "{}").unwrap();
        }
        let container = root.create("old", &description("old")).unwrap();
        let text = fs::read_to_string(root.0.join("old/state.json")).unwrap();
        assert!(text.contains("\"bundle\": \"/b\""), "{text}");
        root.sweep().unwrap();
        assert!(!root.0.join("older").exists());
        assert!(root.0.join("old").exists());
        drop(container);
        assert_eq!(fs::read_dir(&root.0).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = StateRoot::open(Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains("mode 755"), "{error}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/root", &link).unwrap();
        assert!(StateRoot::open(Some(&link)).is_err());
    }
}
