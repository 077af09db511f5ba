//! Which files of code processes have mapped. Knows procfs, not what the files hold.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use procfs::process::{MMPermissions, MMapPath, Process};

use crate::model::code::FileId;

/// Where distributions put libraries; those there are found before the first process uses them.
const LIBRARY_FOLDERS: &[&str] =
    &["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib64", "/usr/local/lib"];

/// The files that a process has mapped to be executed, each with a path that leads to it wherever it is: also in another
/// mount namespace, and when it was removed. Empty if the process is gone.
pub fn mapped(proc: &Path, pid: u32) -> Vec<(FileId, PathBuf)> {
    let folder = proc.join(pid.to_string());
    let maps = Process::new_with_root(folder.clone()).and_then(|process| process.maps());
    let maps = maps.into_iter().flatten().filter(|map| {
        map.perms.contains(MMPermissions::EXECUTE) && map.inode != 0 && matches!(map.pathname, MMapPath::Path(_))
    });
    maps.map(|map| {
        let file = FileId { device: (map.dev.0.unsigned_abs(), map.dev.1.unsigned_abs()), inode: map.inode };
        (file, folder.join("map_files").join(format!("{:x}-{:x}", map.address.0, map.address.1)))
    })
    .collect()
}

/// The file that a process runs.
pub fn executable(proc: &Path, pid: u32) -> Option<FileId> {
    file(&proc.join(pid.to_string()).join("exe"))
}

/// All processes.
pub fn processes(proc: &Path) -> Vec<u32> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Installed libraries whose name begins so.
pub fn libraries(name: &str) -> Vec<(FileId, PathBuf)> {
    let folders = LIBRARY_FOLDERS.iter().filter_map(|folder| fs::read_dir(folder).ok());
    let named = |path: &PathBuf| path.file_name().and_then(OsStr::to_str).is_some_and(|file| file.starts_with(name));
    let paths = folders.flatten().flatten().map(|entry| entry.path()).filter(named);
    paths.filter_map(|path| Some((file(&path)?, path))).collect()
}

/// The file at a path.
pub fn file(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|metadata| FileId::of(&metadata))
}
