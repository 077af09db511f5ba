//! The one histogram geometry: which bucket a duration falls into, on both sides of the ring.
//! Knows nothing of what is measured.
//!
//! Log-linear: eight buckets in every power of two, so that a bucket is never wider than an eighth
//! (12.5 %) of the value it holds. Below 128 ns the buckets are 16 ns wide; from 2^42 ns (73 min)
//! on everything falls into the last one.

use crate::record::record;

/// Buckets in each power of two, as a power of two.
const SUB_BITS: u32 = 3;
/// Below 2^this nanoseconds buckets are of equal width.
const LINEAR_BITS: u32 = 7;
/// Durations of 2^this nanoseconds and more share the last bucket; 2^42 ns is 73 min.
const MAX_BITS: u32 = 42;

/// Number of buckets of a [`Histogram`].
pub const BUCKETS: usize = ((MAX_BITS - LINEAR_BITS + 1) << SUB_BITS) as usize;

record! {
    /// One latency histogram cell, kept per CPU by the kernel programs.
    ///
    /// Bucket counts are 32 bits wide and wrap: a reader that looks at least once in 2^32 events takes
    /// wrapping differences. The number of observations is the sum of the buckets.
    #[derive(PartialEq, Eq)]
    pub struct Histogram {
        /// Sum of all observed durations, in nanoseconds.
        pub sum_ns: u64,
        /// Two counts that go with the cell. Postgres queries: statements that ended well, and rows. System calls: those that
        /// failed with EAGAIN.
        pub tally: [u64; 2],
        /// Observations in each bucket, modulo 2^32.
        pub buckets: [u32; BUCKETS],
    }
}

const _: () = assert!(size_of::<Histogram>() == 24 + 4 * BUCKETS);

/// The bucket that a duration in nanoseconds falls into; always less than [`BUCKETS`].
#[inline(always)]
pub fn bucket_of(ns: u64) -> usize {
    if ns < 1 << LINEAR_BITS {
        return (ns >> (LINEAR_BITS - SUB_BITS)) as usize;
    }
    if ns >= 1 << MAX_BITS {
        return BUCKETS - 1;
    }
    let log2 = log2(ns);
    let octave = log2 - LINEAR_BITS + 1;
    let sub = (ns >> (log2 - SUB_BITS)) as u32 & ((1 << SUB_BITS) - 1);
    ((octave << SUB_BITS) | sub) as usize
}

/// Position of the highest set bit; of zero, zero. BPF has no such instruction. Halving without a branch: durations are
/// as good as random to a CPU that would have to predict one.
#[inline(always)]
fn log2(mut value: u64) -> u32 {
    let mut log2 = 0;
    for bits in [32, 16, 8, 4, 2] {
        // 1 if anything is set above the lower half, else 0: the addition carries.
        let above = ((value >> bits) + ((1 << bits) - 1)) >> bits;
        let shift = above * bits;
        value >>= shift;
        log2 += shift as u32;
    }
    log2 + (value >> 1) as u32
}

/// The smallest duration, in nanoseconds, that falls into `bucket`. `lower_bound_ns(BUCKETS)` is
/// where the last bucket would end if it were not open.
pub const fn lower_bound_ns(bucket: usize) -> u64 {
    let sub = bucket as u64 & ((1 << SUB_BITS) - 1);
    let octave = bucket >> SUB_BITS;
    if octave == 0 {
        return sub << (LINEAR_BITS - SUB_BITS);
    }
    ((1 << SUB_BITS) + sub) << (octave as u32 - 1 + LINEAR_BITS - SUB_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_falls_into_its_own_bucket_and_the_value_below_into_the_one_before() {
        for bucket in 0..BUCKETS {
            let lower = lower_bound_ns(bucket);
            assert_eq!(bucket_of(lower), bucket, "lower bound {lower}");
            if bucket > 0 {
                assert_eq!(bucket_of(lower - 1), bucket - 1, "below {lower}");
            }
        }
    }

    #[test]
    fn no_bucket_from_one_microsecond_to_one_hour_is_wider_than_an_eighth_of_its_values() {
        let first = bucket_of(1_000);
        let last = bucket_of(3_600_000_000_000);
        assert!(last < BUCKETS - 1, "an hour must not share the open bucket");
        for bucket in first..=last {
            let (lower, upper) = (lower_bound_ns(bucket), lower_bound_ns(bucket + 1));
            assert!((upper - lower) * 8 <= lower, "bucket {bucket}: {lower}..{upper}");
        }
    }

    #[test]
    fn the_longest_duration_falls_into_the_last_bucket() {
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_of(1 << MAX_BITS), BUCKETS - 1);
        assert_eq!(bucket_of(0), 0);
    }

    #[test]
    fn log2_agrees_with_the_compiler() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1 << shift) | 1, u64::MAX >> (63 - shift)] {
                assert_eq!(log2(value), 63 - value.leading_zeros(), "{value}");
            }
        }
    }
}
