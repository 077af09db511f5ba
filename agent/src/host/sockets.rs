//! Sockets in use, by protocol. By hand: procfs lists sockets one by one, which costs with their number.

use std::collections::HashSet;

use procfs::page_size;

use super::{Files, Problem, push};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::values;

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
