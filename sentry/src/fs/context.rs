//! What a process knows of the tree: its mount namespace, root and current directory, umask.
//! Shared between tasks by CLONE_FS.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::fs::mount::MountNamespace;
use crate::fs::path::PathRef;

/// The tree as a process sees it at one moment.
#[derive(Clone)]
pub struct View {
    pub namespace: Arc<MountNamespace>,
    pub root: PathRef,
    pub cwd: PathRef,
    pub umask: u32,
}

/// See the module documentation.
pub struct FsContext {
    /// Replaced as a whole, so that a walk takes one reference instead of four.
    view: Mutex<Arc<View>>,
}

impl FsContext {
    /// Root and current directory at the namespace's root; umask 022.
    pub fn new(namespace: Arc<MountNamespace>) -> Arc<FsContext> {
        let root = namespace.root();
        Arc::new(FsContext {
            view: Mutex::new(Arc::new(View {
                namespace,
                cwd: root.clone(),
                root,
                umask: 0o022,
            })),
        })
    }

    /// A copy of its own (fork(2)).
    pub fn fork(&self) -> Arc<FsContext> {
        Arc::new(FsContext {
            view: Mutex::new(self.view()),
        })
    }

    /// All of it at this moment.
    pub fn view(&self) -> Arc<View> {
        self.view.lock().clone()
    }

    pub fn namespace(&self) -> Arc<MountNamespace> {
        self.view.lock().namespace.clone()
    }

    pub fn root(&self) -> PathRef {
        self.view.lock().root.clone()
    }

    pub fn cwd(&self) -> PathRef {
        self.view.lock().cwd.clone()
    }

    /// Root and current directory at one moment.
    pub fn places(&self) -> (PathRef, PathRef) {
        let view = self.view.lock();
        (view.root.clone(), view.cwd.clone())
    }

    pub fn umask(&self) -> u32 {
        self.view.lock().umask
    }

    /// Changes the view; gives back what `change` took out of it, to be dropped without the lock.
    fn change<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(Arc::make_mut(&mut self.view.lock()))
    }

    /// Sets the umask, returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.change(|view| std::mem::replace(&mut view.umask, umask & 0o777))
    }

    pub fn set_root(&self, root: PathRef) {
        let old = self.change(|view| std::mem::replace(&mut view.root, root));
        drop(old);
    }

    pub fn set_cwd(&self, cwd: PathRef) {
        let old = self.change(|view| std::mem::replace(&mut view.cwd, cwd));
        drop(old);
    }

    /// unshare(CLONE_NEWNS): a copy of the mount tree of its own.
    pub fn unshare_mounts(&self) {
        let mut view = self.view.lock();
        let (root, cwd) = (view.root.clone(), view.cwd.clone());
        let (namespace, mut places) = view.namespace.copy(&[root, cwd]);
        if let (Some(cwd), Some(root)) = (places.pop(), places.pop()) {
            *view = Arc::new(View {
                namespace,
                root,
                cwd,
                umask: view.umask,
            });
        }
    }

    /// pivot_root(2) moves everybody who was at the old root.
    pub fn move_root(&self, from: &PathRef, to: &PathRef) {
        self.change(|view| {
            if view.root.same(from) {
                view.root = to.clone();
            }
            if view.cwd.same(from) {
                view.cwd = to.clone();
            }
        });
    }
}
