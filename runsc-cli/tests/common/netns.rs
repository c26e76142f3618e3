//! Network namespaces of a test's own, so that nothing of it is on this machine's networks. They
//! end with the last process or thread inside; nothing is left to clean up.

use std::{
    fs::File,
    os::fd::AsRawFd,
    panic::resume_unwind,
    process::{Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

pub struct NetworkNamespace(File);

impl NetworkNamespace {
    /// One with its loopback interface up, and nothing else.
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let namespace = Self(made.join().unwrap());
        namespace.ip("link set lo up");
        namespace
    }

    /// Does something on a thread inside. Sockets made there and processes started there stay.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// `ip WORDS` inside.
    #[track_caller]
    pub fn ip(&self, words: &str) {
        let output = self.inside(|| {
            Command::new("ip")
                .args(words.split_whitespace())
                .stdin(Stdio::null())
                .output()
                .unwrap()
        });
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {words}: {err}");
    }

    /// A pair of interfaces of that name, one here and one there, up and with these addresses.
    pub fn wire(&self, name: &str, addresses: &[&str], other: &Self, others: &[&str]) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.ip(&format!(
            "link add {name} type veth peer name {name} netns {there}"
        ));
        for (namespace, addresses) in [(self, addresses), (other, others)] {
            for address in addresses {
                // Without duplicate address detection they are there at once.
                let nodad = if address.contains(':') { "nodad" } else { "" };
                namespace.ip(&format!("address add {address} dev {name} {nodad}"));
            }
            namespace.ip(&format!("link set {name} up"));
        }
    }
}
