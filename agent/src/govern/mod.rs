//! Keeps what steth costs within its budget: what it costs goes in, the next step comes out. Samples are taken less often first,
//! then the dearest feature is switched off; when it has been calm for long enough, what was held comes back, the last first.
//! Does not know how cost is measured, nor how a feature is switched off.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use steth_probes::catalog::Feature;

/// What may be switched off, with its name, in the order in which it goes where nothing is known of its cost.
pub const FEATURES: &[(Feature, &str)] = &[
    (Feature::Profiles, "profiles"),
    (Feature::Wall, "wall"),
    (Feature::Syscalls, "syscalls"),
    (Feature::Sockets, "sockets"),
    (Feature::Tls, "tls"),
    (Feature::Tcp, "tcp"),
    (Feature::Postgres, "postgres"),
];

/// The features that share the programs at system calls. What these cost stands with the first of them that is on: it is the one
/// that looks at most calls.
pub const OF_CALLS: &[Feature] = &[Feature::Syscalls, Feature::Sockets, Feature::Postgres];

/// So many looks together must be beyond `soft`, as a mean.
const SOFT_LOOKS: usize = 6;
/// So many looks, each of them, must be beyond `hard`.
const HARD_LOOKS: usize = 2;
/// What a step itself costs is not held against it.
const SETTLE_LOOKS: u32 = 2;
/// So many looks in a row must be calm before something comes back; twice as many each time that it had to go again.
const CALM_LOOKS: u32 = 30;
const MOST_CALM_LOOKS: u32 = 360;
/// So many looks on end may be excused for what people ask for; after that one for so many others.
const EXCUSED_LOOKS: u32 = 30;
const EXCUSED_PART: u32 = 10;
/// Calm is what is below this part of `soft`.
const CALM_PART: f64 = 0.5;
/// Samples are not taken less often than this: fewer tell nothing.
const LEAST_HERTZ: u32 = 5;

/// What steth may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Share of the host's CPU time, from 0 to 1, for long.
    pub soft: f64,
    /// The same for a short time.
    pub hard: f64,
    /// Resident memory.
    pub memory_bytes: u64,
}

/// What steth cost since the last look; shares of the host's CPU time, from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// Of the kernel programs of each feature.
    pub kernel: Vec<(Feature, f64)>,
    /// Of the agent's own process.
    pub own: f64,
    /// Its resident memory.
    pub memory_bytes: u64,
}

impl Cost {
    /// All CPU time.
    pub fn total(&self) -> f64 {
        self.in_kernel() + self.own
    }

    /// That of all kernel programs.
    pub fn in_kernel(&self) -> f64 {
        self.kernel.iter().map(|(_, share)| share).sum()
    }

    fn of(&self, feature: Feature) -> f64 {
        self.kernel.iter().filter(|(of, _)| *of == feature).map(|(_, share)| share).sum()
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Take samples only so often in a second.
    Fewer(u32),
    /// Take samples so often again.
    More(u32),
    /// Switch this off.
    Off(Feature),
    /// Switch this on again.
    On(Feature),
    /// It costs too much, and nothing is left to be switched off.
    Exhausted,
}

/// What is held, and how long it has been calm.
#[derive(Debug)]
pub struct Governor {
    bounds: Bounds,
    /// What the configuration asks for.
    wanted: Vec<Feature>,
    wanted_hertz: u32,
    hertz: u32,
    held: Vec<Feature>,
    totals: VecDeque<f64>,
    settling: u32,
    calm: u32,
    calm_needed: u32,
    /// Looks since something came back.
    returned: Option<u32>,
    exhausted: bool,
    looks: u32,
    /// Looks at which what people ask for is not held against anything.
    excused: u32,
}

impl Governor {
    /// Holds nothing of what is wanted.
    pub fn new(bounds: Bounds, wanted: Vec<Feature>, hertz: u32) -> Self {
        Self {
            bounds,
            wanted,
            wanted_hertz: hertz,
            hertz,
            held: Vec::new(),
            totals: VecDeque::new(),
            settling: SETTLE_LOOKS,
            calm: 0,
            calm_needed: CALM_LOOKS,
            returned: None,
            exhausted: false,
            looks: 0,
            excused: EXCUSED_LOOKS,
        }
    }

    /// What is switched off for its cost.
    pub fn held(&self) -> &[Feature] {
        &self.held
    }

    /// How often in a second samples may be taken.
    pub fn hertz(&self) -> u32 {
        self.hertz
    }

    /// Whether samples are taken less often than is wanted.
    pub fn is_lowered(&self) -> bool {
        self.hertz < self.wanted_hertz
    }

    /// The same while people ask for something, which costs what it costs: only memory is kept, and nothing comes back. They may for
    /// a tenth of the time, five minutes on end by default; what they ask beyond that is as any other cost.
    pub fn look_away(&mut self, cost: &Cost) -> Option<Step> {
        if self.excused == 0 {
            // To load programs anew would end what they asked for.
            return self.judge(cost, false);
        }
        self.excused -= 1;
        // What is measured meanwhile says nothing of other times.
        self.totals.clear();
        match self.settling.checked_sub(1) {
            Some(left) => self.settling = left,
            None if cost.memory_bytes > self.bounds.memory_bytes => return self.less(cost, false, true),
            None => {}
        }
        None
    }

    /// What it cost since the last look; what is to be done about it.
    pub fn look(&mut self, cost: &Cost) -> Option<Step> {
        self.judge(cost, true)
    }

    fn judge(&mut self, cost: &Cost, may_return: bool) -> Option<Step> {
        self.looks += 1;
        if self.looks.is_multiple_of(EXCUSED_PART) {
            self.excused = (self.excused + 1).min(EXCUSED_LOOKS);
        }
        if self.settling > 0 {
            self.settling -= 1;
            return None;
        }
        self.totals.push_back(cost.total());
        while self.totals.len() > SOFT_LOOKS {
            self.totals.pop_front();
        }
        self.returned = self.returned.map(|looks| looks + 1);
        let latest = || self.totals.iter().rev().take(HARD_LOOKS);
        let beyond_hard = latest().count() == HARD_LOOKS && latest().all(|total| *total > self.bounds.hard);
        let mean = self.totals.iter().sum::<f64>() / self.totals.len() as f64;
        let beyond_soft = self.totals.len() == SOFT_LOOKS && mean > self.bounds.soft;
        let beyond_memory = cost.memory_bytes > self.bounds.memory_bytes;
        if beyond_hard || beyond_soft || beyond_memory {
            return self.less(cost, beyond_hard, beyond_memory);
        }
        self.exhausted = false;
        self.calm = if mean < self.bounds.soft * CALM_PART { self.calm + 1 } else { 0 };
        if may_return && self.calm >= self.calm_needed { self.more() } else { None }
    }

    fn less(&mut self, cost: &Cost, at_once: bool, memory: bool) -> Option<Step> {
        self.calm = 0;
        // It came back too early: the same again would only go up and down.
        if self.returned.take().is_some_and(|looks| looks <= 2 * SOFT_LOOKS as u32) {
            self.calm_needed = (self.calm_needed * 2).min(MOST_CALM_LOOKS);
        }
        let samples = self.is_on(Feature::Profiles) && self.hertz > LEAST_HERTZ;
        // Less often taken, samples take no less memory.
        if samples && !memory {
            let next = if at_once { LEAST_HERTZ } else { (self.hertz / 2).max(LEAST_HERTZ) };
            self.hertz = next;
            self.settle();
            return Some(Step::Fewer(next));
        }
        match self.dearest(cost, memory) {
            Some(feature) => {
                self.held.push(feature);
                self.settle();
                Some(Step::Off(feature))
            }
            // Said once.
            None if std::mem::replace(&mut self.exhausted, true) => None,
            None => Some(Step::Exhausted),
        }
    }

    fn dearest(&self, cost: &Cost, memory: bool) -> Option<Feature> {
        let mut on = FEATURES.iter().map(|(feature, _)| *feature).filter(|feature| self.is_on(*feature));
        // Most of the agent's own time and memory goes into stacks and names.
        if (memory || cost.own > cost.in_kernel()) && self.is_on(Feature::Profiles) {
            return Some(Feature::Profiles);
        }
        let first = on.next()?;
        Some(on.fold(first, |dearest, next| if cost.of(next) > cost.of(dearest) { next } else { dearest }))
    }

    fn more(&mut self) -> Option<Step> {
        let step = match self.held.pop() {
            Some(feature) => Step::On(feature),
            None if self.is_lowered() => {
                self.hertz = (self.hertz * 2).min(self.wanted_hertz);
                Step::More(self.hertz)
            }
            None => return None,
        };
        self.calm = 0;
        self.returned = Some(0);
        self.settle();
        Some(step)
    }

    /// Whether it is wanted and not held.
    pub fn is_on(&self, feature: Feature) -> bool {
        self.wanted.contains(&feature) && !self.held.contains(&feature)
    }

    fn settle(&mut self) {
        self.settling = SETTLE_LOOKS;
        self.totals.clear();
    }
}

/// The name of a feature.
pub fn name(feature: Feature) -> &'static str {
    FEATURES.iter().find(|(of, _)| *of == feature).map_or("identity", |(_, name)| name)
}
