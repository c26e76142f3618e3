//! `HOME` for a container that does not set it: what its own /etc/passwd says, as runc does.

use std::{fs::File, io::Read, os::fd::OwnedFd, path::Path};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};

/// More of a passwd file is not read, in bytes.
const MAX_PASSWD: u64 = 1 << 20;

/// Home directory of `uid` in the container at `root`, `/` if it has none.
pub fn of(uid: u32, root: &Path) -> Vec<u8> {
    read_passwd(root)
        .ok()
        .and_then(|text| find(uid, &text))
        .unwrap_or_else(|| b"/".to_vec())
}

/// The container's files are not trusted: symlinks are resolved within `root`, and a fifo does not
/// hold us up.
fn read_passwd(root: &Path) -> std::io::Result<Vec<u8>> {
    let directory = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file: OwnedFd = openat2(directory, "etc/passwd", how)?;
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let mut text = Vec::new();
    file.take(MAX_PASSWD).read_to_end(&mut text)?;
    Ok(text)
}

fn find(uid: u32, passwd: &[u8]) -> Option<Vec<u8>> {
    passwd.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let id = std::str::from_utf8(fields.nth(2)?).ok()?;
        let home = fields.nth(2)?;
        (id.parse() == Ok(uid) && home.starts_with(b"/") && !home.contains(&0))
            .then(|| home.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_in_the_containers_own_passwd() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of(0, dir.path()), b"/");
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = dir.path().join("etc/passwd");
        std::fs::write(
            &passwd,
            "root:x:0:0:r:/root:/bin/sh\nbad\nu:x:7:7::/home/u:\nv:x:8:8::\n",
        )
        .unwrap();
        assert_eq!(of(0, dir.path()), b"/root");
        assert_eq!(of(7, dir.path()), b"/home/u");
        assert_eq!(of(8, dir.path()), b"/");
        // A link out of the container leads nowhere.
        std::fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &passwd).unwrap();
        assert_eq!(of(0, dir.path()), b"/");
    }
}
