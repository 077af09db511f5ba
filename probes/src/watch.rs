//! Which Postgres cycles are told one by one: slow and failed ones up to a rate, all that someone traces. Decides; does not
//! know how a cycle is measured nor how it is told.

use crate::record::record;

/// It was slow.
pub const SLOW: u8 = 1;
/// It ended with an error.
pub const FAILED: u8 = 2;
/// Someone traces it.
pub const TRACED: u8 = 4;
/// It was slow or failed, but too many were before it.
pub const SUPPRESSED: u8 = 8;

record! {
    /// What is told one by one. The agent changes it while the programs run.
    pub struct Watch {
        /// Cycles that ended well in less than this are not looked at: the least of the two below.
        pub floor_ns: u64,
        /// From here on a cycle is slow.
        pub slow_ns: u64,
        /// From here on a cycle is traced; `u64::MAX` while nobody traces.
        pub traced_ns: u64,
        /// Slow and failed cycles of one service are told this far apart in the long run.
        pub interval_ns: u64,
        /// How far they may run ahead of that in a burst.
        pub burst_ns: u64,
        /// Outside of a transaction a longer pause than this parts two bursts.
        pub gap_ns: u64,
        /// How often a statement comes in one burst before that is told.
        pub repeats: u32,
        /// Spare.
        pub _pad: u32,
        /// The only process that is traced; 0 for all.
        pub pid: u32,
        /// 1: only services that are marked are traced.
        pub by_service: u32,
        /// From here on a system call is traced; `u64::MAX` while nobody traces them.
        pub calls_ns: u64,
        /// The only process whose calls are traced; 0 for all.
        pub calls_pid: u32,
        /// 1: only calls of services that are marked are traced.
        pub calls_by_service: u32,
        /// 1: TCP connections are traced.
        pub tcp: u32,
        /// 1: executions are traced.
        pub executions: u32,
    }
}

record! {
    /// What is kept of each service for this, in an array by service number.
    pub struct ServiceWatch {
        /// When the service's slow and failed cycles will have been told at the even rate.
        pub due_ns: u64,
        /// 1: it is marked for tracing.
        pub traced: u32,
        /// Spare.
        pub _pad: u32,
    }
}

impl Watch {
    /// Sets the floor from what is slow and what is traced.
    pub fn with_floor(self) -> Self {
        Self { floor_ns: self.slow_ns.min(self.traced_ns), ..self }
    }

    /// Whether a cycle is to be looked at: the one comparison that each cycle pays.
    #[inline(always)]
    pub fn is_worth_a_look(&self, duration_ns: u64, failed: bool) -> bool {
        duration_ns | (failed as u64) << 63 >= self.floor_ns
    }

    /// What a cycle is told for, as bits; 0 if it is not told.
    #[inline(always)]
    pub fn look(&self, service: &mut ServiceWatch, pid: u32, duration_ns: u64, failed: bool, now_ns: u64) -> u8 {
        let mut why = 0;
        if failed {
            why |= FAILED;
        }
        if duration_ns >= self.slow_ns {
            why |= SLOW;
        }
        if why != 0 && !allow(&mut service.due_ns, now_ns, self.interval_ns, self.burst_ns) {
            why |= SUPPRESSED;
        }
        if duration_ns >= self.traced_ns
            && (self.pid == 0 || self.pid == pid)
            && (self.by_service == 0 || service.traced != 0)
        {
            why |= TRACED;
        }
        why
    }
}

/// Lets events through at an even rate and in bursts: the generic cell rate algorithm (ITU-T I.371), a token bucket whose
/// whole state is one moment. Two CPUs that race for the last token may both get it.
#[inline(always)]
pub fn allow(due_ns: &mut u64, now_ns: u64, interval_ns: u64, burst_ns: u64) -> bool {
    let due = if *due_ns > now_ns { *due_ns } else { now_ns };
    if due - now_ns >= burst_ns {
        return false;
    }
    *due_ns = due.saturating_add(interval_ns);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        let watch = Watch { slow_ns: 100, traced_ns: u64::MAX, interval_ns: 10, burst_ns: 30, ..Watch::zeroed() };
        watch.with_floor()
    }

    #[test]
    fn a_burst_passes_and_then_the_even_rate() {
        let mut due_ns = 0;
        let passed: Vec<bool> = (0..5).map(|_| allow(&mut due_ns, 1_000, 10, 30)).collect();
        assert_eq!(passed, [true, true, true, false, false]);
        let later = (1_001..=2_000).filter(|now_ns| allow(&mut due_ns, *now_ns, 10, 30)).count();
        assert_eq!(later, 100, "one for each interval");
        assert!(allow(&mut due_ns, 9_000, 10, 30) && allow(&mut due_ns, 9_000, 10, 30), "silence gives the burst back");
    }

    #[test]
    fn hostile_rates_neither_panic_nor_let_everything_through() {
        let mut due_ns = u64::MAX;
        assert!(!allow(&mut due_ns, u64::MAX - 1, 1, 1));
        let mut due_ns = 0;
        assert!(allow(&mut due_ns, 1, u64::MAX, u64::MAX));
        assert!(!allow(&mut due_ns, 1, u64::MAX, 0), "no burst, no event");
    }

    #[test]
    fn slow_and_failed_cycles_are_told_up_to_the_rate() {
        let (watch, mut service) = (watch(), ServiceWatch::zeroed());
        assert!(!watch.is_worth_a_look(99, false));
        assert!(watch.is_worth_a_look(100, false) && watch.is_worth_a_look(0, true));
        assert_eq!(watch.look(&mut service, 1, 100, false, 5), SLOW);
        assert_eq!(watch.look(&mut service, 1, 0, true, 5), FAILED);
        assert_eq!(watch.look(&mut service, 1, 100, true, 5), SLOW | FAILED);
        assert_eq!(watch.look(&mut service, 1, 100, false, 5), SLOW | SUPPRESSED);
        assert_eq!(watch.look(&mut ServiceWatch::zeroed(), 1, 100, false, 5), SLOW, "each service has its own rate");
    }

    #[test]
    fn what_is_traced_is_filtered_by_process_service_and_duration_and_spends_no_token() {
        let mut service = ServiceWatch::zeroed();
        let all = Watch { traced_ns: 0, ..watch() }.with_floor();
        assert!(all.is_worth_a_look(0, false));
        for _ in 0..10 {
            assert_eq!(all.look(&mut service, 1, 7, false, 5), TRACED);
        }
        assert_eq!(service.due_ns, 0);
        let one = Watch { pid: 2, ..all };
        assert_eq!([1, 2].map(|pid| one.look(&mut service, pid, 7, false, 5)), [0, TRACED]);
        let long = Watch { traced_ns: 50, ..all }.with_floor();
        assert_eq!(long.look(&mut service, 1, 7, true, 5), FAILED, "an error does not make it long enough");
        let marked = Watch { by_service: 1, ..all };
        assert_eq!(marked.look(&mut service, 1, 7, false, 5), 0);
        service.traced = 1;
        assert_eq!(marked.look(&mut service, 1, 7, false, 5), TRACED);
    }
}
