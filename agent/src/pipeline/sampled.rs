//! Counts samples: by what took them, how long their walks took, and why their stacks are not whole. Knows single records, not
//! the profiles made of them.

use std::{collections::BTreeMap, sync::Arc};

use steth_probes::{profile::SampleKind, unwind::Stop};

use crate::model::{catalog::profile as catalog, distribution::Distribution, sample::Sample, snapshot::Series};

/// What has been taken since the start.
#[derive(Debug)]
pub struct Sampled {
    /// By trigger, in the order of [`TRIGGERS`].
    samples: [u64; TRIGGERS.len()],
    walks: Arc<Distribution>,
    incomplete: BTreeMap<&'static str, u64>,
}

/// What takes samples.
const TRIGGERS: [&str; 5] = ["always", "demand", "wait", "long_call", "long_request"];

impl Default for Sampled {
    fn default() -> Self {
        let reasons = Stop::ALL.iter().filter(|stop| !stop.is_complete());
        let incomplete = reasons.map(|stop| (reason(*stop), 0)).collect();
        Self { samples: [0; TRIGGERS.len()], walks: Arc::default(), incomplete }
    }
}

impl Sampled {
    /// Counts a record as the kernel told it. A wait that is told in two parts is one sample; its stack is in the part that
    /// bears no weight.
    pub fn count(&mut self, sample: &Sample) {
        let [always, demand, wait, long_call, long_request] = &mut self.samples;
        match sample.kind {
            SampleKind::Always => *always += 1,
            SampleKind::Demand => *demand += 1,
            SampleKind::WaitInCall | SampleKind::Back | SampleKind::WaitBefore | SampleKind::Still => *wait += 1,
            SampleKind::LongCall => *long_call += 1,
            SampleKind::LongRequest => *long_request += 1,
            SampleKind::CallReturns | SampleKind::Leaves | SampleKind::NoTable => {}
        }
        let Some(stop) = sample.stop else { return };
        if !matches!(stop, Stop::NoUserPart | Stop::Busy) {
            Arc::make_mut(&mut self.walks).observe_ns(sample.walk_ns.into());
        }
        if !stop.is_complete() {
            *self.incomplete.entry(reason(stop)).or_default() += 1;
        }
    }

    /// The series of this moment.
    pub fn series(&self, series: &mut Vec<Series>) {
        for (trigger, count) in TRIGGERS.into_iter().zip(self.samples) {
            series.push(Series::number(&catalog::SAMPLES, vec![trigger.into()], count as f64));
        }
        series.push(Series::histogram(&catalog::WALK_SECONDS, vec![], Arc::clone(&self.walks)));
        for (reason, count) in &self.incomplete {
            series.push(Series::number(&catalog::STACKS_INCOMPLETE, vec![(*reason).into()], *count as f64));
        }
    }
}

const fn reason(stop: Stop) -> &'static str {
    match stop {
        Stop::End => "end",
        Stop::NoTable => "no_table",
        Stop::NoRule => "no_rule",
        Stop::NoFile => "no_file",
        Stop::Unsupported => "unsupported_rule",
        Stop::Unreadable => "stack_unreadable",
        Stop::NotCode => "return_outside_code",
        Stop::NotRising => "stack_not_rising",
        Stop::TooDeep => "too_deep",
        Stop::FramePointerLost => "frame_pointer_lost",
        Stop::UnknownProcess => "process_unknown",
        Stop::BrokenTable => "table_replaced",
        Stop::Busy => "busy",
        Stop::NoUserPart => "no_user_part",
        Stop::Untold => "untold",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::Value;

    fn sample(kind: SampleKind, stop: Option<Stop>, walk_ns: u32) -> Sample {
        Sample { walk_ns, ..Sample::of_kind(kind, stop) }
    }

    fn number(series: &[Series], label: &str) -> f64 {
        let found = series.iter().find(|series| series.labels.iter().any(|value| value == label));
        let Value::Number(number) = found.unwrap().value else { panic!("{label} is no number") };
        number
    }

    #[test]
    fn a_wait_told_in_two_parts_is_one_sample_with_one_stack() {
        let mut sampled = Sampled::default();
        sampled.count(&sample(SampleKind::WaitInCall, None, 0));
        sampled.count(&sample(SampleKind::CallReturns, Some(Stop::NoTable), 2_000));
        sampled.count(&sample(SampleKind::Demand, Some(Stop::End), 3_000));
        sampled.count(&sample(SampleKind::Demand, Some(Stop::NoUserPart), 0));
        let mut series = Vec::new();
        sampled.series(&mut series);
        let numbers = ["always", "demand", "wait", "no_table", "too_deep"].map(|label| number(&series, label));
        assert_eq!(numbers, [0.0, 2.0, 1.0, 1.0, 0.0]);
        assert_eq!((sampled.walks.count(), sampled.walks.sum_ns()), (2, 5_000));
        assert!(
            !series.iter().any(|series| series.labels.iter().any(|value| value == "end")),
            "whole ones are no lack"
        );
    }
}
