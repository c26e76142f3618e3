//! Network namespaces of one's own, so that nothing of a test or a measurement is on this machine's
//! networks. They end with the last process or thread inside and the last fd; nothing is left to
//! clean up. Making one needs root.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// See the module documentation.
#[derive(Debug)]
pub struct NetworkNamespace(File);

impl NetworkNamespace {
    /// One with its loopback interface up, and nothing else.
    pub fn new() -> io::Result<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let made = made.join().unwrap_or_else(|panic| resume_unwind(panic));
        let namespace = Self(made?);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// A path to it for other processes, valid as long as this is there.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Does something on a thread inside. Sockets made there and processes started there stay.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// `ip WORDS` inside. The error has the words and what `ip` said.
    pub fn ip(&self, words: &str) -> io::Result<()> {
        let output = self.inside(|| {
            let mut ip = Command::new("ip");
            ip.args(words.split_whitespace()).stdin(Stdio::null());
            ip.output()
        })??;
        let errors = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("ip {words}: {errors}"))),
        }
    }

    /// A pair of interfaces of that name, one here and one there, up and with these addresses.
    pub fn wire(
        &self,
        name: &str,
        addresses: &[&str],
        other: &Self,
        others: &[&str],
    ) -> io::Result<()> {
        let there = other.path();
        let there = there.display();
        self.ip(&format!(
            "link add {name} type veth peer name {name} netns {there}"
        ))?;
        for (namespace, addresses) in [(self, addresses), (other, others)] {
            for address in addresses {
                // Without duplicate address detection they are there at once.
                let nodad = if address.contains(':') { "nodad" } else { "" };
                namespace.ip(&format!("address add {address} dev {name} {nodad}"))?;
            }
            namespace.ip(&format!("link set {name} up"))?;
        }
        Ok(())
    }
}
