//! A distribution of durations, accumulated from the kernel's histogram cells. Knows the bucket geometry, not
//! what was measured.

use steth_probes::histogram::{BUCKETS, Histogram, bucket_of, lower_bound_ns};

use super::metric::Bounds;

/// Counts per kernel bucket and the exact sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    counts: Box<[u64]>,
    sum_ns: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), sum_ns: 0 }
    }
}

impl Distribution {
    /// Adds what one cell gained between two readings. Cells wrap at 2^32 (buckets) and 2^64 (sum), so the
    /// difference is taken modulo that.
    pub fn add_difference(&mut self, earlier: &Histogram, later: &Histogram) {
        self.sum_ns = self.sum_ns.wrapping_add(later.sum_ns.wrapping_sub(earlier.sum_ns));
        for ((count, before), after) in self.counts.iter_mut().zip(&earlier.buckets).zip(&later.buckets) {
            *count += u64::from(after.wrapping_sub(*before));
        }
    }

    /// Adds all of another distribution.
    pub fn merge(&mut self, other: &Self) {
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// Adds counts by bucket, and the sum of their durations.
    pub fn add(&mut self, sum_ns: u64, counts: impl IntoIterator<Item = (usize, u64)>) {
        self.sum_ns = self.sum_ns.wrapping_add(sum_ns);
        for (bucket, more) in counts {
            if let Some(count) = self.counts.get_mut(bucket) {
                *count = count.saturating_add(more);
            }
        }
    }

    /// Adds one duration.
    pub fn observe_ns(&mut self, ns: u64) {
        self.sum_ns = self.sum_ns.wrapping_add(ns);
        if let Some(count) = self.counts.get_mut(bucket_of(ns)) {
            *count += 1;
        }
    }

    /// What was added since an earlier state; `None` if that is none of this distribution.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let counts = self.counts.iter().zip(&earlier.counts).map(|(now, before)| now.checked_sub(*before));
        let counts = counts.collect::<Option<Box<[u64]>>>()?;
        Some(Self { counts, sum_ns: self.sum_ns.wrapping_sub(earlier.sum_ns) })
    }

    /// Number of durations in each of the kernel's buckets.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of the durations, in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The cumulative count at each of the bounds, which are edges of the kernel's buckets: exact.
    pub fn cumulative(&self, bounds: Bounds) -> Vec<(u64, u64)> {
        let mut buckets = self.counts.iter().enumerate().peekable();
        let mut total = 0;
        let up_to = |bound| {
            while let Some((_, count)) = buckets.next_if(|(bucket, _)| lower_bound_ns(*bucket) < bound) {
                total += count;
            }
            (bound, total)
        };
        bounds.upper_bounds_ns().into_iter().map(up_to).collect()
    }

    /// The same data as an hdrhistogram, each duration at the middle of its bucket: for quantiles and merging.
    /// The middle is at most 6.25 % from the true value.
    pub fn to_hdr(&self) -> hdrhistogram::Histogram<u64> {
        // Three significant digits keep hdrhistogram's own error far below that of the buckets.
        let mut hdr = hdrhistogram::Histogram::new_with_bounds(1, lower_bound_ns(BUCKETS), 3)
            .unwrap_or_else(|_| unreachable!("constant bounds that hdrhistogram accepts"));
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let middle = u64::midpoint(lower_bound_ns(bucket), lower_bound_ns(bucket + 1));
            hdr.saturating_record_n(middle, *count);
        }
        hdr
    }

    /// The duration in nanoseconds below which the share `quantile` (0 to 1) of the observations lies; `None`
    /// when there are none.
    pub fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        let hdr = self.to_hdr();
        (!hdr.is_empty()).then(|| hdr.value_at_quantile(quantile))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed pseudo-random sequence over nine decades of nanoseconds.
    fn durations() -> impl Iterator<Item = u64> {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let magnitude = 10 + (state >> 59);
            1_000 + ((state >> 20) & ((1 << magnitude) - 1))
        })
        .take(100_000)
    }

    #[test]
    fn quantiles_agree_with_hdrhistogram_on_the_same_data() {
        let mut ours = Distribution::default();
        let mut hdr = hdrhistogram::Histogram::<u64>::new(4).unwrap();
        for ns in durations() {
            ours.observe_ns(ns);
            hdr.record(ns).unwrap();
        }
        assert_eq!(ours.count(), hdr.len());
        for quantile in [0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0] {
            let (mine, theirs) = (ours.quantile_ns(quantile).unwrap() as f64, hdr.value_at_quantile(quantile) as f64);
            assert!((mine / theirs - 1.0).abs() <= 0.125, "quantile {quantile}: {mine} against {theirs}");
        }
    }

    #[test]
    fn cumulative_counts_are_exact_at_every_bound() {
        let mut ours = Distribution::default();
        let all: Vec<u64> = durations().collect();
        all.iter().for_each(|ns| ours.observe_ns(*ns));
        for bounds in [Bounds::Coarse, Bounds::Fine, Bounds::Short] {
            for (bound, cumulative) in ours.cumulative(bounds) {
                assert_eq!(cumulative, all.iter().filter(|ns| **ns < bound).count() as u64, "bound {bound}");
            }
        }
    }

    #[test]
    fn what_was_added_since_is_the_difference_and_what_began_anew_has_none() {
        let mut earlier = Distribution::default();
        earlier.observe_ns(1_000);
        let mut later = earlier.clone();
        later.observe_ns(2_000_000);
        let gained = later.since(&earlier).unwrap();
        assert_eq!((gained.count(), gained.sum_ns()), (1, 2_000_000));
        assert_eq!(Distribution::default().since(&later), None);
    }

    #[test]
    fn cells_that_wrapped_between_two_readings_lose_nothing() {
        let (mut earlier, mut later) = (Histogram::zeroed(), Histogram::zeroed());
        earlier.buckets[5] = u32::MAX - 1;
        earlier.sum_ns = u64::MAX - 99;
        later.buckets[5] = 3;
        later.sum_ns = 100;
        let mut distribution = Distribution::default();
        distribution.add_difference(&earlier, &later);
        assert_eq!((distribution.count(), distribution.sum_ns()), (5, 200));
    }
}
