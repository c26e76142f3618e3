//! What a process knows of the tree: its mount namespace, root and current directory, umask.
//! Shared between tasks by CLONE_FS.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::fs::mount::MountNamespace;
use crate::fs::path::PathRef;

#[derive(Clone)]
struct Inner {
    namespace: Arc<MountNamespace>,
    root: PathRef,
    cwd: PathRef,
    umask: u32,
}

/// See the module documentation.
pub struct FsContext {
    inner: Mutex<Inner>,
}

impl FsContext {
    /// Root and current directory at the namespace's root; umask 022.
    pub fn new(namespace: Arc<MountNamespace>) -> Arc<FsContext> {
        let root = namespace.root();
        Arc::new(FsContext {
            inner: Mutex::new(Inner {
                namespace,
                cwd: root.clone(),
                root,
                umask: 0o022,
            }),
        })
    }

    /// A copy of its own (fork(2)).
    pub fn fork(&self) -> Arc<FsContext> {
        Arc::new(FsContext {
            inner: Mutex::new(self.inner.lock().clone()),
        })
    }

    pub fn namespace(&self) -> Arc<MountNamespace> {
        self.inner.lock().namespace.clone()
    }

    pub fn root(&self) -> PathRef {
        self.inner.lock().root.clone()
    }

    pub fn cwd(&self) -> PathRef {
        self.inner.lock().cwd.clone()
    }

    /// Root and current directory at one moment.
    pub fn places(&self) -> (PathRef, PathRef) {
        let inner = self.inner.lock();
        (inner.root.clone(), inner.cwd.clone())
    }

    pub fn umask(&self) -> u32 {
        self.inner.lock().umask
    }

    /// Sets the umask, returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        std::mem::replace(&mut self.inner.lock().umask, umask & 0o777)
    }

    pub fn set_root(&self, root: PathRef) {
        let old = std::mem::replace(&mut self.inner.lock().root, root);
        drop(old);
    }

    pub fn set_cwd(&self, cwd: PathRef) {
        let old = std::mem::replace(&mut self.inner.lock().cwd, cwd);
        drop(old);
    }

    /// unshare(CLONE_NEWNS): a copy of the mount tree of its own.
    pub fn unshare_mounts(&self) {
        let mut inner = self.inner.lock();
        let (root, cwd) = (inner.root.clone(), inner.cwd.clone());
        let (namespace, mut places) = inner.namespace.copy(&[root, cwd]);
        if let (Some(cwd), Some(root)) = (places.pop(), places.pop()) {
            inner.namespace = namespace;
            inner.root = root;
            inner.cwd = cwd;
        }
    }

    /// pivot_root(2) moves everybody who was at the old root.
    pub fn move_root(&self, from: &PathRef, to: &PathRef) {
        let mut inner = self.inner.lock();
        if inner.root.same(from) {
            inner.root = to.clone();
        }
        if inner.cwd.same(from) {
            inner.cwd = to.clone();
        }
    }
}
