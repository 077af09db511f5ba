//! Measures what steth costs, and does what the governor says. The kernel counts the time of programs only while it is asked to,
//! which makes each run dearer: so it is asked for a twentieth of the time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use procfs::{WithCurrentSystemInfo as _, process::Process};
use rustix::time::{ClockId, clock_gettime};
use steth_probes::catalog::{Feature, LIBRARY_PROBES, PROBES};

use crate::{
    config::Config,
    govern::{Bounds, Cost, FEATURES, Governor, OF_CALLS, Step, name},
    kernel::{self, Measuring},
    model::{
        budget::{Budget, FeatureState, FeatureStatus},
        catalog::steth::{BUDGET_SHARE, BUDGET_USED, FEATURE_STATE, GOVERNOR_STEPS},
        probe::ProbeStatus,
        snapshot::Series,
    },
};

/// Which part of the time the kernel measures.
const MEASURED_PART: u32 = 20;
const LEAST_MEASURED: Duration = Duration::from_millis(100);
/// What a run costs beside the program's own time, in nanoseconds: the way into a tracepoint and back (half of the 138 ns that an
/// empty pair adds to a system call), a breakpoint in user space (540 ns). Measured on Linux 6.18.
const TRACEPOINT_NS: u64 = 69;
const UPROBE_NS: u64 = 540;
/// When nothing is to be done, it is looked at again then.
const IDLE: Duration = Duration::from_secs(3_600);

/// Runs and nanoseconds of each program.
type Runs = BTreeMap<String, (u64, u64)>;

/// Looks at cost, from time to time.
pub struct Governing {
    enabled: bool,
    interval: Duration,
    bounds: Bounds,
    governor: Governor,
    due: Instant,
    measuring: Option<Measured>,
    /// The agent's CPU time at the last look, and when that was.
    own: (Duration, Instant),
    last: Option<Cost>,
    /// Whether the kernel tells what programs cost.
    told: bool,
    steps: [u64; 2],
}

/// What else is done.
#[derive(Clone, Copy, Debug)]
pub enum Meanwhile {
    /// Nothing.
    Usual,
    /// What people ask for, which is not held against anything for a while.
    Asked,
    /// Programs are loaded anew, which says nothing of what they cost.
    Opening,
}

struct Measured {
    since: Instant,
    before: Runs,
    /// While it is held, the kernel measures.
    _measuring: Option<Measuring>,
}

impl Governing {
    /// Begins to look.
    pub fn new(config: &Config) -> Self {
        let budget = &config.budget;
        let share = |millionths: u32| f64::from(millionths) / 1e6;
        let bounds = Bounds { soft: share(budget.soft), hard: share(budget.hard), memory_bytes: budget.memory_bytes };
        let hertz = u32::try_from(config.profile.hertz).unwrap_or(u32::MAX);
        Self {
            enabled: budget.enabled,
            interval: budget.interval,
            bounds,
            governor: Governor::new(bounds, wanted(config), hertz),
            due: Instant::now() + if budget.enabled { budget.interval } else { IDLE },
            measuring: None,
            own: (own_time(), Instant::now()),
            last: None,
            told: false,
            steps: [0; 2],
        }
    }

    /// When it wants to look.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// It is time: the kernel begins to measure, or has measured. What is to be done then, if anything.
    pub fn look(&mut self, probes: &[ProbeStatus], meanwhile: Meanwhile) -> Option<Step> {
        let now = Instant::now();
        if !self.enabled {
            self.due = now + IDLE;
            return None;
        }
        let Some(measured) = self.measuring.take() else {
            let measuring = Measuring::begin();
            if let Err(error) = &measuring
                && !std::mem::replace(&mut self.told, true)
            {
                tracing::info!(
                    "the kernel does not tell what its programs cost ({error}): of [budget] only the agent's own CPU time and \
                     memory are kept, unless kernel.bpf_stats_enabled is set"
                );
            }
            let length = (self.interval / MEASURED_PART).max(LEAST_MEASURED).min(self.interval / 2);
            self.due = now + length;
            self.measuring = Some(Measured { since: now, before: runs(probes), _measuring: measuring.ok() });
            return None;
        };
        let elapsed = now - measured.since;
        self.due = now + self.interval.saturating_sub(elapsed);
        let (own, cpus) = (own_time(), kernel::cpus() as f64);
        let kernel = by_feature(&measured.before, &runs(probes), elapsed.mul_f64(cpus));
        let kernel = of_what_is_on(kernel, |feature| self.governor.is_on(feature));
        let own_share = (own - self.own.0).as_secs_f64() / ((now - self.own.1).as_secs_f64() * cpus).max(1e-9);
        self.own = (own, now);
        let cost = Cost { kernel, own: own_share, memory_bytes: resident_bytes() };
        let step = match meanwhile {
            Meanwhile::Usual => self.governor.look(&cost),
            Meanwhile::Asked => self.governor.look_away(&cost),
            Meanwhile::Opening => None,
        };
        self.last = Some(cost);
        match step {
            Some(Step::Fewer(_) | Step::Off(_)) => self.steps[0] += 1,
            Some(Step::More(_) | Step::On(_)) => self.steps[1] += 1,
            Some(Step::Exhausted) | None => {}
        }
        step
    }

    /// The configuration without what is held.
    pub fn applied(&self, config: &Config) -> Config {
        let mut applied = config.clone();
        if !self.enabled {
            return applied;
        }
        for feature in self.governor.held() {
            *switch(&mut applied, *feature) = false;
        }
        applied.profile.hertz = applied.profile.hertz.min(self.governor.hertz() as usize);
        applied
    }

    /// Another configuration: what is held is held on, unless it is about that.
    pub fn reload(&mut self, before: &Config, config: &Config) {
        if before.budget != config.budget
            || before.probes != config.probes
            || before.profile.hertz != config.profile.hertz
        {
            *self = Self { steps: self.steps, ..Self::new(config) };
        }
    }

    /// What became of each feature.
    pub fn features(&self, config: &Config) -> Vec<FeatureStatus> {
        let wanted = wanted(config);
        let state = |feature: Feature| match feature {
            _ if !wanted.contains(&feature) => FeatureState::Off,
            _ if self.governor.held().contains(&feature) => FeatureState::Held,
            Feature::Profiles if self.governor.is_lowered() => FeatureState::Lowered,
            _ => FeatureState::On,
        };
        FEATURES.iter().map(|(feature, name)| FeatureStatus { feature: name, state: state(*feature) }).collect()
    }

    /// What was last used.
    pub fn budget(&self) -> Budget {
        Budget {
            enabled: self.enabled,
            soft: self.bounds.soft,
            hard: self.bounds.hard,
            kernel: self.last.as_ref().map(Cost::in_kernel),
            own: self.last.as_ref().map(|cost| cost.own),
        }
    }

    /// The same as figures.
    pub fn series(&self, config: &Config) -> Vec<Series> {
        let mut series = Vec::new();
        for status in self.features(config) {
            for (state, of) in FeatureState::ALL {
                let labels = vec![status.feature.into(), (*state).into()];
                series.push(Series::number(&FEATURE_STATE, labels, f64::from(status.state == *of)));
            }
        }
        for (bound, share) in [("soft", self.bounds.soft), ("hard", self.bounds.hard)] {
            series.push(Series::number(&BUDGET_SHARE, vec![bound.into()], share));
        }
        if let Some(cost) = &self.last {
            for (part, share) in [("kernel", cost.in_kernel()), ("agent", cost.own)] {
                series.push(Series::number(&BUDGET_USED, vec![part.into()], share));
            }
        }
        for (direction, count) in [("down", self.steps[0]), ("up", self.steps[1])] {
            series.push(Series::number(&GOVERNOR_STEPS, vec![direction.into()], count as f64));
        }
        series
    }

    /// What is said of a step.
    pub fn words(&self, step: Step) -> String {
        let cost = self.last.clone().unwrap_or_default();
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let used = format!(
            "steth used {} of the host's CPU time (kernel programs {}, agent {}; budget {}, {} at most)",
            percent(cost.total()),
            percent(cost.in_kernel()),
            percent(cost.own),
            percent(self.bounds.soft),
            percent(self.bounds.hard)
        );
        match step {
            Step::Fewer(hertz) => {
                format!("{used}: samples of the past are taken only {hertz} times a second until it is calm")
            }
            Step::More(hertz) => format!("{used}: samples of the past are taken {hertz} times a second again"),
            Step::Off(feature) => format!("{used}: {} is switched off until it is calm", name(feature)),
            Step::On(feature) => format!("{used}: {} is switched on again", name(feature)),
            Step::Exhausted => format!("{used}: nothing is left that could be switched off"),
        }
    }
}

fn wanted(config: &Config) -> Vec<Feature> {
    let mut config = config.clone();
    let is_on = |feature: &Feature| match feature {
        Feature::Tls => config.probes.tls && config.probes.postgres,
        other => *switch(&mut config, *other),
    };
    FEATURES.iter().map(|(feature, _)| *feature).filter(is_on).collect()
}

fn switch(config: &mut Config, feature: Feature) -> &mut bool {
    let probes = &mut config.probes;
    match feature {
        Feature::Identity | Feature::Syscalls => &mut probes.syscalls,
        Feature::Tcp => &mut probes.tcp,
        Feature::Sockets => &mut probes.sockets,
        Feature::Postgres => &mut probes.postgres,
        Feature::Tls => &mut probes.tls,
        Feature::Wall => &mut probes.wall,
        Feature::Profiles => &mut probes.profiles,
    }
}

fn runs(probes: &[ProbeStatus]) -> Runs {
    probes.iter().map(|probe| (probe.name.clone(), (probe.runs, probe.run_ns))).collect()
}

/// What the programs of each feature took of so much CPU time.
fn by_feature(before: &Runs, after: &Runs, of: Duration) -> Vec<(Feature, f64)> {
    let mut costs: Vec<(Feature, f64)> = Vec::new();
    for (program, (runs, ns)) in after {
        let (runs_before, ns_before) = before.get(program).copied().unwrap_or_default();
        let (runs, ns) = (runs.saturating_sub(runs_before), ns.saturating_sub(ns_before));
        let (feature, way_ns) = match PROBES.iter().find(|probe| probe.name == program) {
            Some(probe) => (probe.feature, TRACEPOINT_NS),
            None if LIBRARY_PROBES.iter().any(|probe| probe.name == program) => (Feature::Tls, UPROBE_NS),
            None => (Feature::Profiles, 0),
        };
        let share = (ns + runs * way_ns) as f64 / (of.as_nanos() as f64).max(1.0);
        match costs.iter_mut().find(|(known, _)| *known == feature) {
            Some((_, sum)) => *sum += share,
            None => costs.push((feature, share)),
        }
    }
    costs
}

/// Costs at system calls stand with a feature that is on, or nothing would help.
fn of_what_is_on(mut cost: Vec<(Feature, f64)>, on: impl Fn(Feature) -> bool) -> Vec<(Feature, f64)> {
    if let Some(first) = OF_CALLS.iter().copied().find(|feature| on(*feature)) {
        for (feature, _) in &mut cost {
            if *feature == Feature::Syscalls {
                *feature = first;
            }
        }
    }
    cost
}

fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

fn resident_bytes() -> u64 {
    Process::myself().and_then(|process| process.stat()).map_or(0, |stat| stat.rss_bytes().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_take_is_a_share_of_all_cpus_and_stands_with_their_feature() {
        let runs =
            |of: &[(&str, u64, u64)]| of.iter().map(|(name, runs, ns)| ((*name).to_owned(), (*runs, *ns))).collect();
        let before: Runs = runs(&[("sys_enter", 1_000, 5_000), ("sched_switch", 7, 7)]);
        let after = runs(&[
            ("sys_enter", 2_000, 105_000),
            ("sys_exit", 1_000, 100_000),
            ("sched_switch", 7, 7),
            ("tls_enter", 10, 0),
        ]);
        let costs = by_feature(&before, &after, Duration::from_millis(10));
        let of = |feature| costs.iter().find(|(of, _)| *of == feature).unwrap().1;
        assert!((of(Feature::Syscalls) - 338_000.0 / 1e7).abs() < 1e-9, "{costs:?}");
        assert!((of(Feature::Tls) - 5_400.0 / 1e7).abs() < 1e-9 && of(Feature::Wall) == 0.0, "{costs:?}");
        // Programs that were loaded anew count from nothing.
        assert_eq!(by_feature(&after, &before, Duration::from_millis(10))[1].1, 0.0);
        let moved = of_what_is_on(costs, |feature| feature == Feature::Sockets);
        assert!(moved.iter().any(|(feature, _)| *feature == Feature::Sockets));
    }

    #[test]
    fn what_is_held_is_off_in_what_is_applied_and_said_as_held() {
        let mut config = Config::default();
        config.probes.tcp = false;
        let mut governing = Governing::new(&config);
        let dear = Cost { kernel: vec![(Feature::Wall, 0.5)], own: 0.0, memory_bytes: 0 };
        while governing.governor.look(&dear) != Some(Step::Off(Feature::Wall)) {}
        let applied = governing.applied(&config);
        assert!(!applied.probes.wall && applied.probes.syscalls && applied.profile.hertz == 5);
        let states: Vec<_> = governing.features(&config).iter().map(|it| (it.feature, it.state)).collect();
        for state in [
            ("profiles", FeatureState::Lowered),
            ("wall", FeatureState::Held),
            ("tcp", FeatureState::Off),
            ("syscalls", FeatureState::On),
        ] {
            assert!(states.contains(&state), "{states:?}");
        }
        // Another budget is another beginning; another log level is not.
        governing.reload(&config, &config.with("host.node", "false").unwrap());
        assert_eq!(governing.governor.held(), [Feature::Wall]);
        governing.reload(&config, &config.with("budget.hard", "5%").unwrap());
        assert_eq!(governing.applied(&config), config);
    }
}
