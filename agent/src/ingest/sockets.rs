//! Takes sockets out of the map that have ended without a word from the kernel: it reports the end of TCP connections only.

use std::{collections::HashSet, io};

use steth_probes::{
    limits::ENDED_SOCKETS,
    postgres::WireEntry,
    record::read,
    socket::{Connection, PASS_NUMBER, tcp_state},
};

use crate::kernel::Tables;

/// Passes over all open files, and what they found.
#[derive(Debug, Default)]
pub struct Passes {
    pass: u32,
    ended: u64,
    unanswered: u64,
}

impl Passes {
    /// Begins a pass: sockets that are open bear its number from now on.
    ///
    /// # Errors
    /// If the kernel refuses the write.
    pub fn begin(&mut self, tables: &Tables) -> io::Result<()> {
        // 0 is the first, in which all sockets are met.
        self.pass += 1;
        tables.numbers.put(&PASS_NUMBER, &self.pass)
    }

    /// Ends a pass: forgets sockets that neither this nor the last one met.
    ///
    /// # Errors
    /// If the kernel refuses to give the map's entries.
    pub fn end(&mut self, tables: &mut Tables) -> io::Result<()> {
        let mut ended: HashSet<u64> = HashSet::new();
        tables.connections.visit(u32::MAX, |key, value| {
            if let (Some(sock), Some(known)) = (read(key), read::<Connection>(value))
                && ended.len() < ENDED_SOCKETS
                && has_ended(&known, self.pass)
            {
                ended.insert(sock);
            }
        })?;
        if ended.is_empty() {
            return Ok(());
        }
        let of_ended = |key: &[u8]| read(key).is_some_and(|sock| ended.contains(&sock));
        tables.wires.visit(u32::MAX, |key, value| {
            if of_ended(key) {
                self.unanswered += read::<WireEntry>(value).map_or(0, |entry| entry.wire.unanswered().into());
            }
        })?;
        for sock in ended {
            self.ended += u64::from(tables.connections.remove(&sock)?);
            tables.wires.remove(&sock)?;
        }
        Ok(())
    }

    /// How many sockets were found to have ended.
    pub fn ended(&self) -> u64 {
        self.ended
    }

    /// How many requests of Postgres were waiting for their answer on them.
    pub fn unanswered(&self) -> u64 {
        self.unanswered
    }
}

/// A socket that was met during a pass, or that is on its way from one process to another, may not have been passed over.
/// Of a TCP connection the kernel reports the end, but a process may go on to read from it.
fn has_ended(known: &Connection, pass: u32) -> bool {
    matches!(known.tcp_state, 0 | tcp_state::CLOSE) && pass.wrapping_sub(known.pass) >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_ended_when_two_passes_did_not_meet_it() {
        let known = |tcp_state, pass| Connection { tcp_state, pass, ..Connection::zeroed() };
        for (pass, ended) in [(7, false), (6, false), (5, true), (0, true)] {
            assert_eq!(has_ended(&known(0, pass), 7), ended, "met in pass {pass}");
            assert_eq!(has_ended(&known(tcp_state::CLOSE, pass), 7), ended, "met in pass {pass}");
            assert!(!has_ended(&known(tcp_state::ESTABLISHED, pass), 7));
        }
    }
}
