//! Processes that join a running container (`exec`).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::first::{self, NotPrepared, Refusal, Role};
use crate::config::ProcessConfig;
use crate::control::{self, Event, MAX_PROCESS_CONFIG, Server};
use crate::fs::mount::MountNamespace;
use crate::fs::tty::HostName;
use crate::kernel::Kernel;
use crate::kernel::group::ThreadGroup;

/// Highest number of a file that a process starts with.
const MAX_FILE: i32 = 1023;

/// The processes that joined and live, by the command line's numbers for them.
#[derive(Default)]
pub struct Joined(Mutex<BTreeMap<u64, Member>>);

struct Member {
    group: Arc<ThreadGroup>,
    /// Its terminal has a name as long as it lives.
    _terminal: Option<HostName>,
}

/// What a [`control::Request::Join`] brings.
pub struct Joining {
    pub id: u64,
    pub files: Vec<i32>,
    pub fds: Vec<OwnedFd>,
}

pub fn failed(id: u64, exit_code: u8, message: &str) -> Event {
    Event::JoinFailed {
        id,
        exit_code,
        message: message.to_owned(),
    }
}

impl Joined {
    pub fn group(&self, id: u64) -> Option<Arc<ThreadGroup>> {
        self.0.lock().get(&id).map(|member| member.group.clone())
    }

    /// Forgets a process. Its number, if it is one of these.
    pub fn remove(&self, group: &Arc<ThreadGroup>) -> Option<u64> {
        let mut members = self.0.lock();
        let is_it = |(_, member): &(&u64, &Member)| Arc::ptr_eq(&member.group, group);
        let id = *members.iter().find(is_it)?.0;
        let gone = members.remove(&id);
        drop(members);
        drop(gone);
        Some(id)
    }

    /// Starts a process, or reports why not.
    pub fn join(
        self: &Arc<Self>,
        kernel: &Arc<Kernel>,
        namespace: &Arc<MountNamespace>,
        control: &Arc<Server>,
        joining: Joining,
    ) -> Result<(), control::Error> {
        let id = joining.id;
        if self.group(id).is_some() {
            return control.send(&failed(id, 1, "the number is taken"));
        }
        let (process, files) = match joining.read() {
            Ok(read) => read,
            Err(why) => return control.send(&failed(id, 1, &why)),
        };
        let mut prepared =
            match first::prepare(kernel, namespace.clone(), &process, files, Role::Joined) {
                Ok(prepared) => prepared,
                Err(NotPrepared::Boot(e)) => return control.send(&failed(id, 1, &e.to_string())),
                Err(NotPrepared::Program(why)) => {
                    return control.send(&failed(id, why.exit_code, &why.message));
                }
            };
        let group = prepared.group().clone();
        let member = Member {
            group: group.clone(),
            _terminal: prepared.take_terminal(),
        };
        self.0.lock().insert(id, member);
        let (joined, control) = (self.clone(), control.clone());
        prepared.launch(move |result| {
            let event = match result {
                Ok(()) => Event::Joined {
                    id,
                    pid: group.pid(),
                },
                Err(Refusal { exit_code, message }) => {
                    // Its end is not to be told of as well.
                    joined.remove(&group);
                    failed(id, exit_code, &message)
                }
            };
            // Without a listener there is nobody to tell.
            let _ = control.send(&event);
        });
        Ok(())
    }
}

impl Joining {
    /// The process and its files. The memfd is read once.
    fn read(self) -> Result<(ProcessConfig, Vec<(i32, OwnedFd)>), String> {
        let mut fds = self.fds.into_iter();
        let config = File::from(fds.next().ok_or("no configuration")?);
        let len = config.metadata().map_err(|e| e.to_string())?.len();
        if len > MAX_PROCESS_CONFIG {
            return Err(format!("configuration of {len} bytes"));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        config
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| format!("configuration: {e}"))?;
        let process = ProcessConfig::from_bytes(&bytes).map_err(|e| e.to_string())?;
        let valid = |number: &i32| (0..=MAX_FILE).contains(number);
        if fds.len() != self.files.len() || !self.files.iter().all(valid) {
            return Err("files that do not fit".to_owned());
        }
        Ok((process, self.files.into_iter().zip(fds).collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::CapabilitySets;

    fn process(name: &[u8], cwd: &[u8]) -> ProcessConfig {
        ProcessConfig {
            args: vec![name.to_vec()],
            env: Vec::new(),
            cwd: cwd.to_vec(),
            init: false,
            make_cwd: false,
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
            umask: 0o22,
            capabilities: CapabilitySets::default(),
            rlimits: Vec::new(),
            terminal: false,
            no_new_privileges: false,
            timeout_ms: None,
            seccomp: None,
            oom_score_adj: None,
            io_priority: 0,
            ignored_signals: 0,
            blocked_signals: 0,
        }
    }

    fn read(bytes: &[u8], files: Vec<i32>) -> Result<(ProcessConfig, Vec<(i32, OwnedFd)>), String> {
        let mut config = tempfile::tempfile().unwrap();
        config.write_all(bytes).unwrap();
        let mut fds = vec![OwnedFd::from(config)];
        fds.extend([tempfile::tempfile().unwrap().into()]);
        let joining = Joining { id: 1, files, fds };
        joining.read()
    }

    #[test]
    fn a_hostile_configuration_is_refused() {
        let good = process(b"sh", b"/").to_bytes().unwrap();
        let (read_back, files) = read(&good, vec![2]).unwrap();
        assert_eq!((read_back, files[0].0), (process(b"sh", b"/"), 2));
        for (bytes, files) in [
            (&good, vec![]),
            (&good, vec![-1]),
            (&good, vec![1024]),
            (&good, vec![0, 1]),
            (&good[..good.len() - 1].to_vec(), vec![0]),
            (&process(b"", b"/").to_bytes().unwrap(), vec![0]),
            (&process(b"a\0b", b"/").to_bytes().unwrap(), vec![0]),
            (&process(b"sh", b"tmp").to_bytes().unwrap(), vec![0]),
            (&Vec::new(), vec![0]),
        ] {
            assert!(read(bytes, files.clone()).is_err(), "{bytes:?} {files:?}");
        }
        let nothing = Joining {
            id: 1,
            files: Vec::new(),
            fds: Vec::new(),
        };
        assert!(nothing.read().is_err());
        let large = tempfile::tempfile().unwrap();
        large.set_len(MAX_PROCESS_CONFIG + 1).unwrap();
        let large = Joining {
            id: 1,
            files: Vec::new(),
            fds: vec![large.into()],
        };
        assert!(large.read().unwrap_err().contains("bytes"));
    }
}
