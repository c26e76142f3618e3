//! Mount options: the words of mount(8) that OCI allows, and the data of single file systems.

use anyhow::{Context, Result, anyhow, bail, ensure};
use runsc_sentry::config::{Atime, DevptsOptions, MountFlags, TmpfsOptions};

/// Options that any mount may have, as `features` tells them.
pub const KNOWN: &[&str] = &[
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Options of a mount, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    pub flags: MountFlags,
    /// `bind` or `rbind`.
    pub bind: bool,
    pub copy_up: bool,
    /// What is left is the file system's own business.
    pub data: Vec<&'a str>,
}

impl<'a> Options<'a> {
    pub fn parse(options: &'a [String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            let flags = &mut parsed.flags;
            match option.as_str() {
                "ro" | "rro" => flags.readonly = true,
                "rw" | "rrw" => flags.readonly = false,
                "nosuid" | "rnosuid" => flags.nosuid = true,
                "suid" | "rsuid" => flags.nosuid = false,
                "nodev" | "rnodev" => flags.nodev = true,
                "dev" | "rdev" => flags.nodev = false,
                "noexec" | "rnoexec" => flags.noexec = true,
                "exec" | "rexec" => flags.noexec = false,
                "relatime" | "rrelatime" | "nostrictatime" | "rnostrictatime" | "atime"
                | "ratime" => flags.atime = Atime::Relative,
                "strictatime" | "rstrictatime" | "norelatime" | "rnorelatime" => {
                    flags.atime = Atime::Strict;
                }
                "noatime" | "rnoatime" => flags.atime = Atime::Never,
                "defaults" => *flags = MountFlags::default(),
                "bind" | "rbind" => parsed.bind = true,
                "tmpcopyup" => parsed.copy_up = true,
                "idmap" | "ridmap" => bail!("option {option:?}: not supported"),
                // Make no difference here: one mount namespace, nothing is ever dirty.
                "diratime" | "nodiratime" | "rdiratime" | "rnodiratime" | "sync" | "async"
                | "dirsync" | "mand" | "nomand" | "silent" | "loud" | "lazytime" | "nolazytime"
                | "iversion" | "noiversion" | "acl" | "noacl" | "symfollow" | "rsymfollow"
                | "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared"
                | "unbindable" | "runbindable" | "remount" => {}
                data => parsed
                    .data
                    .extend(data.split(',').filter(|part| !part.is_empty())),
            }
        }
        Ok(parsed)
    }

    /// The data as options of tmpfs(5).
    pub fn tmpfs(&self) -> Result<TmpfsOptions> {
        let mut tmpfs = TmpfsOptions {
            copy_up: self.copy_up,
            ..Default::default()
        };
        self.for_each(|name, value| {
            match name {
                "size" => tmpfs.size = Some(size(value)?),
                "nr_blocks" => tmpfs.size = Some(scaled(value)?.saturating_mul(4096)),
                "nr_inodes" => tmpfs.nr_inodes = Some(scaled(value)?).filter(|most| *most != 0),
                "mode" => tmpfs.mode = Some(octal(value)?),
                "uid" => tmpfs.uid = Some(id(value)?),
                "gid" => tmpfs.gid = Some(id(value)?),
                // Where pages lie is the Sentry's choice.
                "huge" | "mpol" | "inode32" | "inode64" | "noswap" => {}
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        // Zero is "no limit" to tmpfs.
        tmpfs.size = tmpfs
            .size
            .map(|size| if size == 0 { u64::MAX } else { size });
        Ok(tmpfs)
    }

    /// The data as devpts takes it.
    pub fn devpts(&self) -> Result<DevptsOptions> {
        let mut devpts = DevptsOptions::default();
        self.for_each(|name, value| {
            match name {
                "mode" => devpts.mode = Some(octal(value)?),
                "ptmxmode" => devpts.ptmx_mode = Some(octal(value)?),
                "uid" => devpts.uid = Some(id(value)?),
                "gid" => devpts.gid = Some(id(value)?),
                "max" => devpts.max = Some(id(value)?),
                // Always so.
                "newinstance" => {}
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(devpts)
    }

    /// Options of proc(5): checked, but one's own processes are all there are.
    pub fn proc(&self) -> Result<()> {
        self.for_each(|name, _| Ok(matches!(name, "hidepid" | "gid" | "subset")))
    }

    /// For file systems without options of their own.
    pub fn none(&self) -> Result<()> {
        self.for_each(|_, _| Ok(false))
    }

    /// Calls `take` with names and values; an option that it does not know is an error.
    fn for_each(&self, mut take: impl FnMut(&str, &str) -> Result<bool>) -> Result<()> {
        for option in &self.data {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let known = take(name, value).with_context(|| format!("option {option:?}"))?;
            ensure!(known, "option {option:?}: unknown");
        }
        Ok(())
    }
}

fn octal(value: &str) -> Result<u32> {
    match u32::from_str_radix(value, 8) {
        Ok(mode) if mode <= 0o7777 && !value.starts_with('+') => Ok(mode),
        _ => bail!("not an octal mode"),
    }
}

fn id(value: &str) -> Result<u32> {
    value.parse().map_err(|_| anyhow!("not a number"))
}

/// A number with the suffix k, m, g or t.
pub fn scaled(value: &str) -> Result<u64> {
    let (digits, shift) = match value.as_bytes().last().map(u8::to_ascii_lowercase) {
        Some(b'k') => (&value[..value.len() - 1], 10),
        Some(b'm') => (&value[..value.len() - 1], 20),
        Some(b'g') => (&value[..value.len() - 1], 30),
        Some(b't') => (&value[..value.len() - 1], 40),
        _ => (value, 0),
    };
    let number: u64 = digits.parse().map_err(|_| anyhow!("not a size"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| anyhow!("too large"))
}

/// As [`scaled`], or a percentage of this machine's memory.
fn size(value: &str) -> Result<u64> {
    let Some(percent) = value.strip_suffix('%') else {
        return scaled(value);
    };
    let percent: u64 = percent.parse().map_err(|_| anyhow!("not a size"))?;
    let text = std::fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let total = text
        .strip_prefix("MemTotal:")
        .and_then(|rest| rest.split_whitespace().next());
    let kib: u64 = total
        .and_then(|kib| kib.parse().ok())
        .context("/proc/meminfo")?;
    kib.checked_mul(1024)
        .and_then(|bytes| (bytes / 100).checked_mul(percent))
        .ok_or_else(|| anyhow!("too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn flags_in_order() {
        let given = words("ro nosuid noexec nodev rbind rprivate rw strictatime size=1k");
        let options = Options::parse(&given).unwrap();
        let flags = MountFlags {
            readonly: false,
            nosuid: true,
            nodev: true,
            noexec: true,
            atime: Atime::Strict,
        };
        assert_eq!(options.flags, flags);
        assert!(options.bind);
        assert_eq!(options.data, ["size=1k"]);
    }

    #[test]
    fn what_is_told_to_be_known_is_known() {
        for word in KNOWN {
            let given = words(word);
            let options = Options::parse(&given).unwrap();
            assert!(options.data.is_empty(), "{word}");
        }
        assert!(KNOWN.is_sorted());
    }

    #[test]
    fn tmpfs_data() {
        let given = words("size=65536k mode=1755 uid=7,gid=8 nr_inodes=2k");
        let tmpfs = Options::parse(&given).unwrap().tmpfs().unwrap();
        let expected = TmpfsOptions {
            size: Some(64 << 20),
            nr_inodes: Some(2048),
            mode: Some(0o1755),
            uid: Some(7),
            gid: Some(8),
            copy_up: false,
        };
        assert_eq!(tmpfs, expected);
        let half = Options::parse(&words("size=50%"))
            .unwrap()
            .tmpfs()
            .map(|tmpfs| tmpfs.size);
        assert!(half.unwrap().unwrap() > 1 << 20);
    }

    #[test]
    fn wrong_data_is_named() {
        let cases = [
            ("size=x", "option \"size=x\": not a size"),
            (
                "size=99999999999g",
                "option \"size=99999999999g\": too large",
            ),
            ("mode=9", "option \"mode=9\": not an octal mode"),
            ("mode=77777", "option \"mode=77777\": not an octal mode"),
            ("uid=-1", "option \"uid=-1\": not a number"),
            ("frobnicate", "option \"frobnicate\": unknown"),
        ];
        for (option, message) in cases {
            let error = Options::parse(&words(option)).unwrap().tmpfs().unwrap_err();
            assert_eq!(format!("{error:#}"), message);
        }
        assert!(Options::parse(&words("idmap")).is_err());
    }
}
