//! Sockets in use, by protocol. By hand: procfs lists sockets one by one, which costs with their number.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use procfs::page_size;

use super::{Files, Problem, code::processes, push};
use crate::model::{catalog::host, snapshot::Series};

/// Adds IPv4's and, where the kernel has it, IPv6's.
pub(super) fn read(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    parse(files.proc_text("net/sockstat")?, page_size(), out);
    match files.proc_text("net/sockstat6") {
        Ok(text) => parse(text, page_size(), out),
        Err(Problem::Absent { .. }) => {}
        Err(problem) => return Err(problem),
    }
    Ok(())
}

/// Lines of `PROTOCOL: name number name number …`.
fn parse(text: &str, page_bytes: u64, out: &mut Vec<Series>) {
    for line in text.lines() {
        let Some((protocol, rest)) = line.split_once(':') else { continue };
        let mut words = rest.split_ascii_whitespace();
        while let (Some(name), Some(number)) = (words.next(), words.next()) {
            let Ok(number) = number.parse::<u64>() else { continue };
            if protocol == "sockets" && name == "used" {
                push(out, &host::SOCKETS_USED, &[], number as f64);
            }
            for (fields, unit) in [(host::SOCKETS, 1), (host::SOCKET_BYTES, page_bytes)] {
                if let Some(field) = fields.iter().find(|field| field.group == protocol && field.source == name) {
                    push(out, &field.metric, &[], (number * unit) as f64);
                }
            }
        }
    }
}

/// Inode numbers of all open unix sockets; `None` if they cannot be read.
pub fn unix_inodes() -> Option<HashSet<u64>> {
    Some(procfs::net::unix().ok()?.into_iter().map(|socket| socket.inode).collect())
}

/// The processes that have sockets open, by the sockets' inode numbers; of several the one with the lowest number. What
/// ends meanwhile is left out.
pub fn socket_holders(proc: &Path, wanted: &HashSet<u64>) -> HashMap<u64, u32> {
    let mut holders = HashMap::new();
    if wanted.is_empty() {
        return holders;
    }
    let mut processes = processes(proc);
    processes.sort_unstable();
    for pid in processes {
        let Ok(open) = std::fs::read_dir(proc.join(pid.to_string()).join("fd")) else { continue };
        for target in open.flatten().filter_map(|file| std::fs::read_link(file.path()).ok()) {
            if let Some(inode) = socket_inode(&target).filter(|inode| wanted.contains(inode)) {
                holders.entry(inode).or_insert(pid);
            }
        }
    }
    holders
}

/// The 7 of `socket:[7]` (proc_pid_fd(5)).
fn socket_inode(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::values;

    #[test]
    fn a_socket_is_found_in_the_first_process_that_has_it() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, file, target) in [
            ("20", "3", "socket:[7]"),
            ("3", "5", "socket:[7]"),
            ("3", "6", "socket:[8]"),
            ("3", "7", "/socket:[9]"),
            ("self", "3", "socket:[9]"),
        ] {
            let folder = proc.path().join(pid).join("fd");
            std::fs::create_dir_all(&folder).unwrap();
            std::os::unix::fs::symlink(target, folder.join(file)).unwrap();
        }
        let found = socket_holders(proc.path(), &[7, 9].into());
        assert_eq!(found, [(7, 3)].into());
    }

    #[test]
    fn memory_is_given_in_pages_and_in_bytes() {
        let mut out = Vec::new();
        parse(
            "sockets: used 14\nTCP: inuse 4 orphan 0 tw 4 alloc 17 mem 1\nUDP6: inuse 3\nNEW: inuse 1\n",
            4096,
            &mut out,
        );
        assert_eq!(
            values(&out),
            [
                "node_sockstat_sockets_used 14",
                "node_sockstat_TCP_inuse 4",
                "node_sockstat_TCP_orphan 0",
                "node_sockstat_TCP_tw 4",
                "node_sockstat_TCP_alloc 17",
                "node_sockstat_TCP_mem 1",
                "node_sockstat_TCP_mem_bytes 4096",
                "node_sockstat_UDP6_inuse 3",
            ]
        );
    }
}
