//! Which file of code is meant, as the kernel numbers it.

use std::{fs::Metadata, os::unix::fs::MetadataExt as _};

/// A file, as `/proc/PID/maps` tells of it. Its number is another file's once nobody has it open, mapped or by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device of its file system, major and minor.
    pub device: (u32, u32),
    /// Number of its inode.
    pub inode: u64,
}

impl FileId {
    /// Whose metadata these are.
    pub fn of(metadata: &Metadata) -> Self {
        let device = metadata.dev();
        Self { device: (rustix::fs::major(device), rustix::fs::minor(device)), inode: metadata.ino() }
    }
}
