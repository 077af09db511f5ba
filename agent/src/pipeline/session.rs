//! One profile that is being taken: whose samples it wants, when it is over, and what it is said to be.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use steth_probes::profile::SampleKind;

use crate::{
    aggregate::Names,
    config::value::show_duration,
    model::{
        profile::{Kind, State},
        sample::{ProfileRequest, Whose},
    },
    profile::{
        build::Title,
        gather::{Gathered, Taken, Whole},
    },
};

/// Slow requests that one profile tells apart; as many as it has stacks.
const MOST_SLOW: usize = 200_000;

/// A profile that is being taken.
pub(super) struct Session {
    pub request: ProfileRequest,
    pub began: SystemTime,
    pub until: Instant,
    pub lasted: Duration,
    pub gathered: Gathered,
    /// The rate of the clock that it got: that of the fastest of those who share it.
    pub hertz: u32,
    /// Postgres requests that were slow enough.
    pub slow: HashSet<(u64, u64)>,
    /// Slow requests that there was no room for.
    pub slow_beyond: u64,
    /// Samples that found no room on their way from the kernel, from the start of the agent until that of the session; once it is
    /// [closing](Self::closing), those of the session.
    pub lost: u64,
    /// Set while unwind tables are waited for, so that the first samples have whole stacks.
    pub preparing: Option<Instant>,
    /// From when to when its samples are, by the monotonic clock.
    pub span_ns: (u64, u64),
    /// Set when its time is over and only stacks of threads that wait still are missing.
    pub closing: Option<Instant>,
}

impl Session {
    pub fn has(&self, kind: SampleKind) -> bool {
        match kind {
            SampleKind::Demand => matches!(self.request.kind, Kind::Cpu | Kind::Wall),
            SampleKind::LongCall => self.request.kind == Kind::Syscalls,
            SampleKind::LongRequest => self.request.kind == Kind::Queries,
            SampleKind::Always | SampleKind::NoTable => false,
            _ => matches!(self.request.kind, Kind::OffCpu | Kind::Wall),
        }
    }

    pub fn wants(&self, taken: &Taken, names: &Names) -> bool {
        let is_long = u128::from(taken.ns) >= self.request.least.as_nanos();
        let of_kind = match (self.request.kind, taken.stack.whole, taken.stack.state) {
            (Kind::Syscalls, Whole::Calls(_), _) | (Kind::Queries, Whole::Requests, _) => is_long,
            (Kind::OffCpu | Kind::Wall, Whole::Samples, State::OffCpu) => true,
            (kind, Whole::Samples, State::OnCpu) => matches!(kind, Kind::Cpu | Kind::Wall),
            _ => false,
        };
        let whose = &self.request.whose;
        let service = taken.stack.service;
        let has_service =
            || names.service_name(service).is_some_and(|name| whose.has_service(name, names.cgroup(service)));
        let is_his = match whose.is_everybody() {
            // Whoever looks at all others does not look at itself.
            true => taken.stack.pid != std::process::id(),
            false => whose.pids.contains(&taken.stack.pid) || has_service(),
        };
        let (from_ns, to_ns) = self.span_ns;
        (from_ns..=to_ns).contains(&taken.at_ns)
            && of_kind
            && is_his
            && (!self.is_of_requests() || taken.request.is_some())
    }

    /// Keeps a request that was slow enough.
    pub fn keep_slow(&mut self, request: (u64, u64)) {
        if self.slow.len() < MOST_SLOW || self.slow.contains(&request) {
            self.slow.insert(request);
        } else {
            self.slow_beyond += 1;
        }
    }

    pub fn is_over(&self, now: Instant) -> bool {
        (self.preparing.is_none() && now >= self.until)
            || self.request.answer.is_closed()
            || self.request.enough.load(Ordering::Relaxed)
    }

    /// Whether only samples taken while a request was being served are wanted.
    pub fn is_of_requests(&self) -> bool {
        self.request.query.is_some() || self.request.slow.is_some()
    }
}

/// What a finished profile is said to be.
pub(super) fn title(session: &Session) -> Title {
    let Whose { pids, services, cgroups } = &session.request.whose;
    let process = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        match name.trim() {
            "" => format!("process {pid}"),
            name => format!("{name} (PID {pid})"),
        }
    };
    let services_of = services.iter().map(|service| format!("service {service}"));
    let groups = cgroups.iter().map(|group| format!("control group {group}"));
    let parts: Vec<String> = pids.iter().map(process).chain(services_of).chain(groups).collect();
    let mut target = if parts.is_empty() { "all processes".into() } else { parts.join(", ") };
    if let Some(query) = &session.request.query {
        target.push_str(&format!(", query {query}"));
    }
    if let Some(slow) = session.request.slow {
        target.push_str(&format!(", requests of {} ms and more", slow.as_millis()));
    }
    let least = show_duration(session.request.least);
    match session.request.kind {
        Kind::Syscalls => target.push_str(&format!(", calls of {least} and more")),
        Kind::Queries => target.push_str(&format!(", those of {least} and more")),
        Kind::Cpu | Kind::OffCpu | Kind::Wall => {}
    }
    let mut notes = Vec::new();
    if session.request.enough.load(Ordering::Relaxed) && session.lasted < session.request.length {
        let [lasted, length] = [session.lasted, session.request.length].map(|it| it.as_secs_f64());
        notes.push(format!("ended early: it lasted {lasted:.1} s of {length:.1} s"));
    }
    if session.slow_beyond > 0 {
        notes.push(format!("{} slow requests more than there is room for are left out", session.slow_beyond));
    }
    if session.lost > 0 {
        notes.push(format!("{} samples are missing: they came faster than they were read", session.lost));
    }
    if session.gathered.is_empty() {
        notes.push(why_empty(session));
    }
    Title {
        target,
        kind: session.request.kind,
        began: session.began,
        lasted: session.lasted,
        hertz: session.hertz,
        several: session.request.whose.pids().is_none_or(|pids| pids.len() != 1),
        notes,
    }
}

fn why_empty(session: &Session) -> String {
    let Whose { pids, services, cgroups } = &session.request.whose;
    let living = pids.iter().any(|pid| PathBuf::from(format!("/proc/{pid}")).exists());
    if let Some(query) = &session.request.query {
        return format!("no sample was taken while a statement with fingerprint {query} was being served");
    }
    if session.request.slow.is_some() {
        return "no sample was taken while a slow request was being served".into();
    }
    if !pids.is_empty() && !living {
        return "the process ended before a sample was taken".into();
    }
    if !services.is_empty() || !cgroups.is_empty() {
        return format!("no thread of {} was met", [&services[..], cgroups].concat().join(", "));
    }
    match session.request.kind {
        Kind::Cpu => "it used no CPU time while it was looked at; --off-cpu or --wall show where it waits".into(),
        Kind::OffCpu => "it waited for nothing while it was looked at".into(),
        Kind::Wall => "nothing of it ran or waited while it was looked at".into(),
        Kind::Syscalls => "no system call of it ended that took so long".into(),
        Kind::Queries => "no Postgres request of it ended that took so long".into(),
    }
}

type NamesByNumber = HashMap<u32, Arc<str>>;

/// Names of the services, and fingerprints of the statements, of stacks.
pub(super) fn names_in(gathered: &Gathered, names: &Names) -> (NamesByNumber, NamesByNumber) {
    let (mut services, mut queries) = (NamesByNumber::new(), NamesByNumber::new());
    for (stack, request, _) in gathered.iter() {
        if let Some(name) = names.service_name(stack.service) {
            services.entry(stack.service).or_insert_with(|| name.into());
        }
        if let Some((request, name)) = request.and_then(|it| Some((it, names.fingerprint(it.statement)?))) {
            queries.entry(request.statement).or_insert_with(|| name.into());
        }
    }
    (services, queries)
}
