//! How much memory the control group of a process may have: the least that it or a group above it is limited to. Knows the
//! files of both versions of control groups, not whose process it is.

use std::{
    fs,
    path::{Component, Path},
};

/// Version 1 writes the largest multiple of a page for no limit.
const UNLIMITED: u64 = 1 << 60;

/// The limit in bytes, if there is one. `folder` is the process' in procfs, `groups` where control groups are mounted.
pub(super) fn memory_limit(folder: &Path, groups: &Path) -> Option<u64> {
    let lines = fs::read_to_string(folder.join("cgroup")).ok()?;
    let limits = lines.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => (groups.to_owned(), "memory.max"),
            controllers if controllers.split(',').any(|one| one == "memory") => {
                (groups.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let path = Path::new(path.trim_start_matches('/'));
        // What lies outside of what this namespace shows is not ours to read.
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        let levels = path.ancestors().filter(|_| inside);
        levels.filter_map(|level| fs::read_to_string(root.join(level).join(file)).ok()?.trim().parse().ok()).min()
    });
    limits.filter(|limit: &u64| *limit < UNLIMITED).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_all_groups_above_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (process, groups) = (folder.path().join("7"), folder.path().join("groups"));
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("7/cgroup", "0::/shop.slice/web.service\n");
        assert_eq!(memory_limit(&process, &groups), None);
        write("groups/shop.slice/web.service/memory.max", "max\n");
        assert_eq!(memory_limit(&process, &groups), None);
        write("groups/shop.slice/memory.max", "1000000\n");
        write("groups/memory.max", "2000000\n");
        assert_eq!(memory_limit(&process, &groups), Some(1_000_000));
        write("7/cgroup", "4:cpu,memory:/web\n1:name=systemd:/\n");
        write("groups/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory_limit(&process, &groups), None);
        write("groups/memory/web/memory.limit_in_bytes", "500\n");
        assert_eq!(memory_limit(&process, &groups), Some(500));
        write("7/cgroup", "0::/../../elsewhere\n");
        assert_eq!(memory_limit(&process, &groups), None);
    }
}
