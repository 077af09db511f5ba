//! What the kernel is told: which samples, of whom, how often. Knows who waits, not what becomes of samples.

use std::{
    collections::HashMap,
    time::{Instant, SystemTime},
};

use steth_probes::profile::{SampleKind, TARGET_PROCESS, TARGET_SERVICE, Target};

use super::{LEAST_WHOLE, Profiles, Session, monotonic_ns};
use crate::{
    aggregate::Names,
    kernel::{Kernel, sampling::Clock},
};

impl Profiles {
    /// Tells the kernel what all who wait want together.
    pub(super) fn steer(&mut self, kernel: &mut Kernel, names: &Names) -> Result<(), String> {
        let taking = || self.sessions.iter().filter(|session| session.closing.is_none());
        let ready = || taking().filter(|session| session.preparing.is_none());
        let hertz = ready().filter(|it| it.has(SampleKind::Demand)).map(|it| it.request.hertz).max().unwrap_or(0);
        let waits = ready().any(|session| session.has(SampleKind::Back));
        let wholes = [SampleKind::LongCall, SampleKind::LongRequest];
        let long_ones = ready().any(|session| wholes.iter().any(|kind| session.has(*kind)));
        let (mut all, mut targets) = (0, HashMap::<Target, u32>::new());
        for session in taking() {
            let mut bits = 0;
            bits |= if session.has(SampleKind::Demand) { SampleKind::Demand.bit() } else { 0 };
            bits |= if session.has(SampleKind::Back) { SampleKind::WAITS } else { 0 };
            bits |= wholes.iter().filter(|kind| session.has(**kind)).fold(0, |bits, kind| bits | kind.bit());
            let whose = &session.request.whose;
            if whose.is_everybody() {
                all |= bits;
            }
            for pid in &whose.pids {
                *targets.entry(Target { what: TARGET_PROCESS, number: *pid }).or_default() |= bits;
            }
            for (number, name) in names.services() {
                if whose.has_service(name, names.cgroup(number)) {
                    *targets.entry(Target { what: TARGET_SERVICE, number }).or_default() |= bits;
                }
            }
        }
        let mut targets: Vec<_> = targets.into_iter().collect();
        targets.sort_by_key(|(target, _)| (target.what, target.number));
        let mut sampling = self.sampling;
        sampling.all = all | if self.always.is_some() { SampleKind::Always.bit() } else { 0 };
        sampling.any = sampling.all | targets.iter().fold(0, |any, (_, bits)| any | bits);
        let fastest = taking().map(|session| session.request.hertz).max().unwrap_or(1);
        sampling.demand_ns = 1_000_000_000 / u64::from(hertz.max(1));
        // As often as on a CPU.
        sampling.interval_ns = 1_000_000_000 / u64::from(fastest.max(1));
        let [least_call_ns, least_request_ns] = wholes.map(|kind| {
            let least = taking().filter(|session| session.has(kind)).map(|session| session.request.least).min();
            u64::try_from(least.unwrap_or(LEAST_WHOLE).as_nanos()).unwrap_or(u64::MAX)
        });
        (sampling.long_call_ns, sampling.long_request_ns) = (least_call_ns, least_request_ns);
        let changed = (sampling.all, sampling.any) != (self.sampling.all, self.sampling.any)
            || (sampling.demand_ns, sampling.interval_ns) != (self.sampling.demand_ns, self.sampling.interval_ns)
            || (least_call_ns, least_request_ns) != (self.sampling.long_call_ns, self.sampling.long_request_ns)
            || targets != self.targets;
        if changed {
            if self.waits {
                // What has been waited for so far is settled; everybody begins anew.
                kernel.tell_waiting().map_err(|error| error.to_string())?;
                self.drain(names);
            }
            sampling.epoch_ns = monotonic_ns();
            self.sampler.set(&sampling, &targets).map_err(|error| error.to_string())?;
            (self.sampling, self.targets) = (sampling, targets);
        }
        if hertz != self.hertz {
            if hertz == 0 {
                kernel.stop_clock(Clock::Demand);
            } else {
                kernel.start_clock(Clock::Demand, hertz).map_err(|error| error.to_string())?;
            }
            self.hertz = hertz;
        }
        let taking = |session: &&mut Session| session.preparing.is_none() && session.closing.is_none();
        self.sessions.iter_mut().filter(taking).for_each(|session| session.hertz = session.hertz.max(hertz));
        kernel.look_at(waits, long_ones).map_err(|error| error.to_string())?;
        if waits != self.waits {
            if waits {
                // That took its time, in which nobody was looked at.
                self.sampling.epoch_ns = monotonic_ns();
            }
            self.sampling.waits = waits.into();
            self.sampler.set(&self.sampling, &self.targets).map_err(|error| error.to_string())?;
        }
        self.waits = waits;
        Ok(())
    }

    /// Lets profiles begin whose unwind tables are there.
    pub(super) fn begin_prepared(&mut self, kernel: &mut Kernel, names: &Names) -> Result<(), String> {
        let now = Instant::now();
        let settled = |session: &Session| !self.unwinding.is_busy_for(session.request.whose.pids());
        let is_ready = |session: &Session| session.preparing.is_some_and(|late| now >= late || settled(session));
        let ready: Vec<bool> = self.sessions.iter().map(is_ready).collect();
        if !ready.contains(&true) {
            return Ok(());
        }
        if self.waits {
            // What is waited for since before is the others'.
            kernel.tell_waiting().map_err(|error| error.to_string())?;
        }
        for (session, ready) in self.sessions.iter_mut().zip(&ready) {
            if *ready {
                session.preparing = None;
            }
        }
        self.steer(kernel, names)?;
        let begun_ns = monotonic_ns();
        for (session, _) in self.sessions.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            session.began = SystemTime::now();
            session.until = Instant::now() + session.request.length;
            session.span_ns = (begun_ns, u64::MAX);
            if let Some(begun) = session.request.begun.take() {
                let _ = begun.send(());
            }
        }
        Ok(())
    }
}
