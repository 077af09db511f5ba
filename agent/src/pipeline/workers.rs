//! Which parallel workers a Postgres cycle had: those that say they worked for its process, and ended while it ran. Does not know
//! how they are told apart from other processes.

use std::{collections::VecDeque, path::Path};

use steth_probes::cell::Role;

use crate::{
    host::process_status::own_number,
    model::event::{QuerySeen, WorkerSeen},
};

/// Workers that are remembered; the oldest gives way.
const MOST: usize = 1_024;

/// Workers that have ended of late.
#[derive(Debug, Default)]
pub struct Workers {
    ended: VecDeque<WorkerSeen>,
}

impl Workers {
    /// One has ended.
    pub fn ended(&mut self, worker: WorkerSeen) {
        self.ended.push_front(worker);
        self.ended.truncate(MOST);
    }

    /// Those of a cycle, in the order in which they ended.
    pub fn of(&self, query: &QuerySeen) -> Vec<WorkerSeen> {
        if query.role != Role::Server {
            return Vec::new();
        }
        let ended_ns = query.begun_ns.saturating_add(query.duration_ns);
        let meanwhile = |worker: &&WorkerSeen| {
            worker.service == query.service && (query.begun_ns..=ended_ns).contains(&worker.ended_ns)
        };
        let mut candidates = self.ended.iter().filter(meanwhile).peekable();
        if candidates.peek().is_none() {
            return Vec::new();
        }
        // In a container a process has another number than here.
        let own = own_number(Path::new("/proc"), query.pid).unwrap_or(query.pid);
        let mut workers: Vec<_> = candidates.filter(|worker| worker.leader == own).copied().collect();
        workers.reverse();
        workers
    }
}

#[cfg(test)]
mod tests {
    use steth_probes::wall::STATES;

    use super::*;

    /// A process that is not there: its number is the one that was seen.
    const LEADER: u32 = u32::MAX;

    fn worker(pid: u32, leader: u32, ended_ns: u64) -> WorkerSeen {
        WorkerSeen { begun_ns: 1, ended_ns, service: 1, pid, leader, wall: [0; STATES], event: None }
    }

    fn query(role: Role) -> QuerySeen {
        QuerySeen { begun_ns: 100, duration_ns: 100, pid: LEADER, tid: LEADER, role, slow: true, ..QuerySeen::any() }
    }

    #[test]
    fn a_cycle_has_the_workers_that_worked_for_it_and_no_others() {
        let mut workers = Workers::default();
        for seen in [
            worker(1, LEADER, 99),
            worker(2, LEADER, 150),
            worker(3, 7, 160),
            WorkerSeen { service: 2, ..worker(4, LEADER, 170) },
            worker(5, LEADER, 200),
            worker(6, LEADER, 201),
        ] {
            workers.ended(seen);
        }
        let pids = |role| workers.of(&query(role)).iter().map(|worker| worker.pid).collect::<Vec<_>>();
        assert_eq!(pids(Role::Server), [2, 5]);
        assert!(pids(Role::Client).is_empty());
    }

    #[test]
    fn as_many_are_remembered_as_there_is_room_for() {
        let mut workers = Workers::default();
        for pid in 0..MOST as u32 + 1 {
            workers.ended(worker(pid, LEADER, 150));
        }
        let found = workers.of(&query(Role::Server));
        assert_eq!((found.len(), found.first().map(|worker| worker.pid)), (MOST, Some(1)));
    }
}
