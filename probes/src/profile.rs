//! Profiles: what is sampled, and the records that a sample crosses in. Stacks are walked by [`crate::unwind`].

use crate::{cell::kinds, message::Header, python, record::record, tls::CodeFile, unwind};

/// Frames of the kernel that a sample holds at most: half of what `kernel.perf_event_max_stack` allows.
pub const KERNEL_FRAMES: usize = 64;
/// Frames of a sample, with those of the process itself and those of Python.
pub const FRAMES: usize = unwind::DEPTH as usize + KERNEL_FRAMES + python::DEPTH as usize;
/// Ways of the largest node in the kernel's tree of mappings, less the last: `MAPLE_RANGE64_SLOTS` - 1.
pub const TREE_PIVOTS: usize = 15;
/// Stands for the device of the page of code that the kernel maps into each process.
pub const VDSO: u64 = u64::MAX;

/// Numbers that the kernel programs give files of code as their slots, from 1 on; the agent, for stacks that it walks itself,
/// takes those above. When most are given out it lets the kernel begin anew.
pub const KERNEL_SLOTS: u32 = 0x8000;
/// Index of the last slot among the numbers that are given out.
pub const SLOT_NUMBER: u32 = 13;

kinds! {
    /// What a record of the ring of samples tells.
    pub enum SampleKind {
        /// A stack on a CPU, taken by the clock that always runs.
        Always = 1,
        /// A stack on a CPU, taken by the clock that runs on demand.
        Demand = 2,
        /// A wait has ended. The thread's own stack follows when its system call returns.
        WaitInCall = 3,
        /// The stack of the thread whose wait was told last.
        CallReturns = 4,
        /// A thread is about to leave its CPU, and is in no system call. How long follows.
        Leaves = 5,
        /// How long a thread was away that had been told to leave.
        Back = 6,
        /// A wait has ended, and nothing more follows: it had begun before samples were taken.
        WaitBefore = 7,
        /// Code is run from a file without an unwind table.
        NoTable = 8,
        /// A thread waits while sampling ends; the frames of the process are its registers RIP, RSP and RBP.
        Still = 9,
        /// A system call has ended that took long; its weight is how long.
        LongCall = 10,
        /// A Postgres request has ended that took long; its weight is how long, its stack that of who served or made it.
        LongRequest = 11,
    }
}

impl SampleKind {
    /// As a bit of [`Sampling::all`] and of what [`Target`]s lead to.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Off-CPU time: the bit of all its kinds.
    pub const WAITS: u32 = Self::WaitInCall.bit();
}

/// Which waits of a thread are told, and what each weighs: one in each interval of waiting time, that which goes on at a moment
/// drawn by lot. So many short waits weigh what they last, whatever the order they come in.
///
/// `waited` and `point` are how far the thread has got in the interval under way, and its moment; `draw` gives any number.
/// Returns what the wait of `ns` weighs, a multiple of the interval; 0 if it is not told.
#[inline(always)]
pub fn weigh(ns: u64, interval: u64, waited: &mut u64, point: &mut u64, mut draw: impl FnMut() -> u64) -> u64 {
    let end = waited.wrapping_add(ns);
    let Some(passed) = end.checked_div(interval) else { return 0 };
    let mut told = (*waited <= *point && end > *point) as u64;
    if passed != 0 {
        let rest = end.wrapping_sub(passed.wrapping_mul(interval));
        *point = draw().checked_rem(interval).unwrap_or(0);
        told = told.wrapping_add(passed - 1).wrapping_add((rest > *point) as u64);
        *waited = rest;
    } else {
        *waited = end;
    }
    told.wrapping_mul(interval)
}

/// The most that one sample of a clock stands for, in ticks: who runs when a CPU has stood still for long need not have run then.
const TICKS: u64 = 64;

/// What a thread has run that the kernel has not added up yet: it does so at its own ticks, with `CONFIG_HZ=250` every 4 ms.
const UNTOLD_NS: u64 = 4_000_000;

record! {
    /// How far a clock has told the time of its CPU.
    pub struct ClockTold {
        /// Until then, by the monotonic clock.
        pub until_ns: u64,
        /// How long the thread that ran at the last tick had run by then, in all.
        pub ran_ns: u64,
        /// That thread; 0 where nobody ran.
        pub thread: u32,
        /// Spare.
        pub _pad: u32,
    }
}

/// What a sample of the clock weighs: a clock that interrupts late leaves out ticks, and one of an idle CPU may not interrupt at all. So
/// whoever runs then has the time since the last tick as far as it has run itself since, and a tick where another ran or nobody. A tick
/// that was late and one that comes in time after it are two together, so this may be 0.
///
/// Up to `epoch` no time was told. `thread` runs now and has run for `ran_ns` in all.
#[inline(always)]
pub fn ticks_ns(period: u64, epoch: u64, now: u64, thread: u32, ran_ns: u64, told: &mut ClockTold) -> u64 {
    let own = if thread == told.thread { ran_ns.saturating_sub(told.ran_ns).wrapping_add(UNTOLD_NS) } else { 0 };
    told.thread = thread;
    told.ran_ns = ran_ns;
    if told.until_ns <= epoch {
        told.until_ns = now;
        return period;
    }
    let of_period = |ns: u64| ns.wrapping_add(period / 2).checked_div(period).unwrap_or(0);
    let passed = of_period(now.saturating_sub(told.until_ns));
    let most = of_period(own).wrapping_add(1);
    let most = if most > TICKS { TICKS } else { most };
    let ns = period.wrapping_mul(if passed > most { most } else { passed });
    // One tick more is a clock that was late by half of one: who runs at the next has it.
    told.until_ns = if passed > most.wrapping_add(1) { now } else { told.until_ns.wrapping_add(ns) };
    ns
}

/// How far walks of a CPU may have taken more than their part of its time, in nanoseconds: one may last long, not all.
const AHEAD_NS: u64 = 100_000_000;

/// Whether walks have taken more of a CPU's time than a fifth, for longer than one of them may: then none begins.
///
/// `paid_until` is when the walks so far will have taken a fifth of the time; see [`pay`].
#[inline(always)]
pub fn is_overdrawn(now: u64, paid_until: u64) -> bool {
    paid_until > now.wrapping_add(AHEAD_NS)
}

/// A walk that began at `now` took `walk` nanoseconds.
#[inline(always)]
pub fn pay(now: u64, walk: u64, paid_until: &mut u64) {
    let from = if *paid_until > now { *paid_until } else { now };
    // One during which its CPU was taken away counts as one that went far ahead.
    let counted = if walk < AHEAD_NS / 5 { walk } else { AHEAD_NS / 5 };
    *paid_until = from.wrapping_add(counted.wrapping_mul(5));
}

record! {
    /// What is sampled. Written by the agent.
    pub struct Sampling {
        /// Since when off-CPU time is looked at, by the monotonic clock; waits that began before count from here. Changes
        /// with whatever else changes.
        pub epoch_ns: u64,
        /// Off-CPU time of a thread that a stack is told for.
        pub interval_ns: u64,
        /// Time that a sample of the clock which always runs stands for.
        pub always_ns: u64,
        /// Time that one of the clock on demand stands for.
        pub demand_ns: u64,
        /// From which duration on a system call is told.
        pub long_call_ns: u64,
        /// From which duration on a Postgres request is told.
        pub long_request_ns: u64,
        /// Of which kinds samples of all processes are taken: bits of [`SampleKind::bit`].
        pub all: u32,
        /// Of which kinds any are taken.
        pub any: u32,
        /// 1: waits are looked at now.
        pub waits: u32,
        /// Spare.
        pub _pad: u32,
    }
}

record! {
    /// Whose samples are taken, if not everybody's. Leads to a `u32` of [`SampleKind::bit`]s.
    #[derive(PartialEq, Eq, Hash)]
    pub struct Target {
        /// [`TARGET_PROCESS`] or [`TARGET_SERVICE`].
        pub what: u32,
        /// The process' or service's number.
        pub number: u32,
    }
}

/// A process.
pub const TARGET_PROCESS: u32 = 1;
/// A service.
pub const TARGET_SERVICE: u32 = 2;

record! {
    /// A stack. The frames follow: those of the kernel as addresses, then those of the process, each as
    /// [`crate::unwind::FrameWord`], then those of Python, each as [`crate::python::FrameWord`]; in all the innermost comes first.
    pub struct Sample {
        /// Head; its kind is a [`SampleKind`], its text the frames.
        pub header: Header,
        /// What it weighs: time in nanoseconds. 0 for the kinds that follow from or are followed by another one.
        pub weight_ns: u64,
        /// The Postgres connection of the request that the thread served or waited for; 0 if none.
        pub connection: u64,
        /// When that request began, by the monotonic clock.
        pub request_ns: u64,
        /// The thread's name, zero-filled.
        pub thread: [u8; 16],
        /// The process.
        pub pid: u32,
        /// The thread.
        pub tid: u32,
        /// Its service.
        pub service: u32,
        /// The statement of the request.
        pub statement: u32,
        /// Frames of the kernel.
        pub kernel_frames: u16,
        /// Frames of the process.
        pub user_frames: u16,
        /// Why the walk ended: a [`crate::unwind::Stop`].
        pub stop: u8,
        /// A [`crate::cell::Role`]: at which end of the connection the thread is.
        pub role: u8,
        /// Frames of Python.
        pub python_frames: u16,
        /// Time that the walk took, in nanoseconds, that through Python's frames included.
        pub walk_ns: u32,
        /// System call that the thread is in, or [`NO_CALL`].
        pub call: u32,
    }
}

/// Stands for a system call's number: the thread is in none.
pub const NO_CALL: u32 = u32::MAX;

record! {
    /// What the kernel programs know of a file of code.
    pub struct UnwindFile {
        /// When a walk last came by, by the monotonic clock.
        pub used_ns: u64,
        /// Its table; without pages as long as there is none.
        pub table: unwind::Table,
        /// What stands for it in frames; given out in the kernel. 0 for a file that only holds memory: its addresses stand for themselves.
        pub slot: u32,
        /// Spare.
        pub _pad: u32,
    }
}

record! {
    /// Code is run from a file that has no unwind table yet.
    pub struct NoTable {
        /// Head.
        pub header: Header,
        /// The file.
        pub file: CodeFile,
        /// Where the code lies in the process.
        pub start: u64,
        /// Where it ends.
        pub end: u64,
        /// Where in the file that begins, in bytes.
        pub offset: u64,
        /// The process.
        pub pid: u32,
        /// What stands for the file in frames.
        pub slot: u32,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ClockTold, TICKS, is_overdrawn, pay, ticks_ns, weigh};

    /// Numbers by lot, the same in each run.
    fn lot(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed >> 11
    }

    #[test]
    fn each_kind_of_wait_weighs_what_it_lasts_in_any_order() {
        // Far shorter than the interval, longer, and of a common length with it.
        let waits = [6_000, 17_000, 100, 1_900, 10_000, 25_000];
        let (mut waited, mut point, mut seed) = (0, 3_000, 88_172_645_463_325_252);
        let mut weights = [0; 6];
        let rounds = 40_000;
        for _ in 0..rounds {
            for (weight, ns) in weights.iter_mut().zip(waits) {
                *weight += weigh(ns, 10_000, &mut waited, &mut point, || lot(&mut seed));
            }
        }
        for (weight, ns) in weights.into_iter().zip(waits) {
            let mean = weight as f64 / f64::from(rounds);
            let off = (mean - ns as f64).abs();
            assert!(off < 100.0 + ns as f64 / 100.0, "{ns} weighs {mean}");
        }
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn ticks_that_a_late_clock_left_out_are_told_and_none_twice() {
        let mut told = ClockTold::zeroed();
        // One thread runs all the time; ten milliseconds are a tick.
        let mut tick = |now| ticks_ns(10 * MS, 100 * MS, now * MS, 7, now * MS, &mut told) / MS;
        // The first, in time, two left out, late, and in time again after that; then it stood still.
        assert_eq!([109, 119, 149, 167, 169, 179].map(&mut tick), [10, 10, 30, 20, 0, 10]);
        assert_eq!([900_000, 900_010].map(&mut tick), [10 * TICKS, 10]);
        // Another profile began.
        assert_eq!(ticks_ns(10 * MS, 950_000 * MS, 960_000 * MS, 7, 960_000 * MS, &mut told), 10 * MS);
        assert_eq!(ticks_ns(0, 0, 970_000 * MS, 7, 970_000 * MS, &mut told), 0);
    }

    #[test]
    fn nobody_has_the_time_of_an_idle_cpu_or_of_another_thread() {
        let mut told = ClockTold::zeroed();
        let mut tick = |now, thread, ran| ticks_ns(10 * MS, 100 * MS, now * MS, thread, ran * MS, &mut told) / MS;
        assert_eq!([tick(110, 7, 5), tick(120, 7, 15)], [10, 10]);
        // It slept for most of the time, and ran for two ticks, of which the kernel has not added up all.
        assert_eq!(tick(520, 7, 35), 30);
        // Another one runs that has run for long elsewhere, and it again.
        assert_eq!([tick(620, 8, 90_000), tick(630, 8, 90_010), tick(730, 7, 45)], [10, 10, 10]);
        // Nobody, while the clock stood still, and then a new thread.
        assert_eq!([tick(740, 0, 0), tick(840, 9, 2)], [10, 10]);
        // Late by more than half of a tick, each time another.
        let mut late = |now, thread| tick(now, thread, 3);
        assert_eq!([late(850, 20), late(866, 21), late(870, 22), late(880, 23)], [10, 10, 10, 10]);
        // A number that is another's now.
        assert_eq!([tick(890, 10, 500), tick(990, 10, 3)], [10, 10]);
    }

    #[test]
    fn walks_take_a_fifth_of_a_slow_cpu_and_all_are_taken_on_a_fast_one() {
        // Every millisecond; as long as one walks, the clock stands still.
        let walked = |walk: u64, ticks: u64| {
            let (mut now, mut paid_until, mut walks) = (0, 0, 0);
            for _ in 0..ticks {
                now += 1_000_000;
                if !is_overdrawn(now, paid_until) {
                    pay(now, walk, &mut paid_until);
                    now += walk;
                    walks += 1;
                }
            }
            (walks, (walks * walk) as f64 / now as f64)
        };
        assert_eq!(walked(150_000, 10_000).0, 10_000);
        let (_, part) = walked(3_000_000, 100_000);
        assert!((0.19..0.21).contains(&part), "{part}");
        // One that was interrupted for long.
        let mut paid_until = 0;
        pay(1_000_000_000, 15_000_000, &mut paid_until);
        assert!(!is_overdrawn(1_010_000_000, paid_until));
        // One whose CPU was taken away for longer than there is to go ahead.
        let mut paid_until = 0;
        pay(1_000_000_000, 1_000_000_000, &mut paid_until);
        assert!(!is_overdrawn(2_000_000_000, paid_until));
    }

    proptest! {
        #[test]
        fn a_clock_that_is_ever_so_late_tells_all_of_its_time(late in prop::collection::vec(0u64..25, 1..200)) {
            let (mut clock, mut told, mut now, mut grid) = (ClockTold::zeroed(), 0, 0, 100);
            for late in late {
                now = grid + late;
                told += ticks_ns(10 * MS, 50 * MS, now * MS, 7, now * MS, &mut clock) / MS;
                // The next tick that is not over yet.
                grid = now - now % 10 + 10;
            }
            prop_assert!(told.abs_diff(now - 90) <= 35, "{} of {}", told, now - 90);
        }

        #[test]
        fn all_together_weigh_what_they_last(waits in prop::collection::vec(0u64..100_000, 1..200), mut seed: u64) {
            seed |= 1;
            let (mut waited, mut point) = (0, 5_000);
            let told: u64 =
                waits.iter().map(|ns| weigh(*ns, 10_000, &mut waited, &mut point, || lot(&mut seed))).sum();
            prop_assert!(told.abs_diff(waits.iter().sum()) <= 10_000);
        }
    }
}
