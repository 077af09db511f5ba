//! Probes, as those who trace use them: what the kernel is to tell, and telling it with names.

use std::time::Duration;

use steth_probes::cell::Loss;

use super::Probes;
use crate::model::{
    event::Traced,
    probe::ProbeState,
    trace::{TraceRefused, TraceRequest, Wanted},
};

impl Probes {
    /// Someone wants to be told of what happens.
    pub fn trace(&mut self, request: TraceRequest) {
        if let Some(refused) = self.refused(&request.wanted) {
            let _ = request.answer.send(Err(refused));
            return;
        }
        // What an earlier trace left in the ring is not for this one.
        if !self.told.is_heard() {
            self.traces.drain();
        }
        let skipped = self.lost(Loss::TraceFull);
        let answer = self.told.listen(request, skipped);
        self.set_watch();
        // Only now, so that nothing is missed that happens from then on. Who has gone meanwhile is let go at the next turn.
        answer.map(|answer| answer.send(Ok(())));
    }

    /// Why nothing of what is wanted would be seen, if so.
    fn refused(&self, wanted: &Wanted) -> Option<TraceRefused> {
        let (what, probes): (_, &[&str]) = match wanted {
            Wanted::Queries(_) => ("Postgres queries", &["sys_enter", "sys_exit"]),
            Wanted::Calls(_) => ("system calls", &["sys_enter", "sys_exit"]),
            Wanted::Tcp(_) => ("TCP connections", &["inet_sock_set_state"]),
            Wanted::Executions(_) => ("executions", &["sched_process_exec"]),
        };
        let statuses = self.statuses();
        let missing = probes.iter().find_map(|probe| {
            match statuses.iter().find(|status| status.name == *probe).map(|status| &status.state) {
                Some(ProbeState::Unavailable { reason }) => Some(reason.clone()),
                Some(ProbeState::Off) | None => Some(format!("probe {probe} is off")),
                Some(ProbeState::Attached | ProbeState::Ready | ProbeState::Partial { .. }) => None,
            }
        });
        let is_blind = matches!(wanted, Wanted::Queries(_)) && !self.kernel.sees_postgres();
        let why = missing.or_else(|| is_blind.then(|| "probes.postgres is off".into()))?;
        Some(TraceRefused::NotSeen { what, why })
    }

    /// Whether anybody traces.
    pub fn is_traced(&self) -> bool {
        self.told.is_heard()
    }

    /// Tells those who trace what has happened since the last time.
    pub fn tell(&mut self) {
        let traced = self.traces.drain();
        // Names and texts were sent before what bears their numbers.
        self.drain();
        self.name(traced.iter().map(|one| (one.service(), one.peer())).collect());
        if let Ok(profiles) = &mut self.profiles {
            for query in traced.iter().filter_map(|one| if let Traced::Query(query) = one { Some(query) } else { None })
            {
                profiles.ended(query.connection, query.begun_ns, Duration::from_nanos(query.duration_ns));
            }
        }
        let skipped = self.lost(Loss::TraceFull);
        self.told.tell(&self.names, &traced, skipped);
        if self.told.part() {
            self.set_watch();
        }
    }

    /// Takes in what has been told, with the names of all in it: those whom the last reading has not met have theirs now.
    pub(super) fn drain_named(&mut self) {
        self.drain();
        self.name(self.told.ends().collect());
    }

    /// Looks up names for services and peers that have none yet.
    fn name(&mut self, ends: Vec<(u32, u32)>) {
        if ends.iter().any(|(service, _)| *service != 0 && !self.names.has_service(*service)) {
            self.name_new_services();
        }
        if ends.iter().any(|(_, peer)| !self.told.knows_peer(&self.names, *peer)) {
            match self.cells.peers() {
                Ok(peers) => self.told.learn_peers(&peers),
                Err(error) => tracing::warn!("cannot read the peers that were met: {error}"),
            }
        }
    }

    /// Lets all go who trace.
    pub fn end_traces(&mut self) {
        self.told.end();
    }

    pub(super) fn set_watch(&self) {
        for (service, name) in self.names.services() {
            self.mark(service, name);
        }
        if let Err(error) = self.cells.watch(&self.told.watch(self.watch)) {
            tracing::warn!("cannot tell the kernel which queries to report: {error}");
        }
    }

    pub(super) fn mark(&self, service: u32, name: &str) {
        if let Err(error) = self.cells.mark(service, self.told.wants(name)) {
            tracing::warn!("cannot mark service {name} for tracing: {error}");
        }
    }
}
