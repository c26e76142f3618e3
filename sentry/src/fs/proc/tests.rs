//! A kernel with one process, seen through procfs and compared with the host's own files.
