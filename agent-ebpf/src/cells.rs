//! Adding to cells, and giving out numbers: the only places where counts change.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE},
    helpers::generated::{bpf_ringbuf_output, bpf_ringbuf_query},
};
use steth_probes::{
    cell::{CellKey, CounterKind, HistogramKind, Loss, Share},
    histogram::{BUCKETS, Histogram, bucket_of},
    profile::SLOT_NUMBER,
    socket::PASS_NUMBER,
};

use crate::{
    kernel::setting,
    maps::{COUNTERS, HISTOGRAM_SLOTS, HISTOGRAMS, LOSSES_BY_REASON, NUMBERS, RECORDS, TRACE},
};

/// What numbers are given out for.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Numbers {
    Services = 0,
    Peers = 1,
    Statements = 2,
    Databases = 3,
    HistogramsOfCalls = 4,
    HistogramsOfTcp = 5,
    HistogramsOfPostgres = 6,
    HistogramsCommon = 7,
    CountersOfCalls = 8,
    CountersOfTcp = 9,
    CountersOfPostgres = 10,
    CountersCommon = 11,
    /// Set back by the agent: slots of files of code.
    UnwindFiles = SLOT_NUMBER,
    /// Given out by the agent: the current pass over all open files.
    Pass = PASS_NUMBER,
}

/// The last number that was given out.
#[inline(always)]
pub fn last_number(what: Numbers) -> u32 {
    NUMBERS.get(what as u32).copied().unwrap_or(0)
}

/// The next number, from `first` on, unless `limit` is reached.
#[inline(always)]
pub fn next_number(what: Numbers, first: u32, limit: u32) -> Option<u32> {
    let counter = NUMBERS.get_ptr_mut(what as u32)?;
    // SAFETY: a map value.
    if unsafe { counter.read_volatile() }.saturating_add(first) >= limit {
        return None;
    }
    let number = fetch_add_u32(counter, 1).saturating_add(first);
    if number < limit { Some(number) } else { None }
}

/// Counts something that was not counted.
#[inline(always)]
pub fn lost(loss: Loss) {
    lost_several(loss, 1);
}

/// Counts what was not counted, several times.
#[inline(always)]
pub fn lost_several(loss: Loss, count: u64) {
    if let Some(counter) = LOSSES_BY_REASON.get_ptr_mut(loss as u32) {
        add(counter, count);
    }
}

/// Adds to a map value that other contexts may add to at the same time.
#[inline(always)]
pub fn add(counter: *mut u64, value: u64) {
    // SAFETY: the verifier checks that the pointer leads into a map value.
    unsafe { asm!("lock *(u64 *)({counter} + 0) += {value}", counter = in(reg) counter, value = in(reg) value) };
}

#[inline(always)]
fn add_u32(counter: *mut u32, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("lock *(u32 *)({counter} + 0) += {value}", counter = in(reg) counter, value = in(wreg) value) };
}

#[inline(always)]
fn fetch_add_u32(counter: *mut u32, mut value: u32) -> u32 {
    // SAFETY: as above.
    unsafe {
        asm!("{value} = atomic_fetch_add((u32 *)({counter} + 0), {value})",
             counter = in(reg) counter, value = inout(wreg) value)
    };
    value
}

/// Adds to a counter cell.
#[inline(always)]
pub fn count(kind: CounterKind, sub: u8, service: u32, a: u32, b: u32, value: u64) {
    let key = CellKey { kind: kind as u8, sub, service: service as u16, a, b };
    match COUNTERS.get_ptr_mut(&key) {
        Some(counter) => add(counter, value),
        None => count_first(&key, value),
    }
}

/// Makes a counter cell. Where there is no room the event is counted all the same, under "other".
#[inline(never)]
fn count_first(key: &CellKey, value: u64) {
    let mut key = *key;
    let (numbers, limit) = match Share::of_counter(key.kind) {
        Share::Calls => (Numbers::CountersOfCalls, setting!(counters_calls)),
        Share::Tcp => (Numbers::CountersOfTcp, setting!(counters_tcp)),
        Share::Postgres => (Numbers::CountersOfPostgres, setting!(counters_postgres)),
    };
    if next_number(numbers, 0, limit).is_none()
        && next_number(Numbers::CountersCommon, 0, setting!(counters_common)).is_none()
    {
        lost(Loss::CountersFull);
        key.service = 0;
        key.a = 0;
        key.b = 0;
    }
    if COUNTERS.insert(&key, &value, BPF_NOEXIST.into()).is_err() {
        // It was there already, or another CPU was faster.
        if let Some(counter) = COUNTERS.get_ptr_mut(&key) {
            add(counter, value);
        }
    }
}

/// Claims something that one program uses at a time: whoever finds no claim before its own has it. Either way the claim is
/// to be given back by [`unclaim`].
#[inline(always)]
pub fn claim(claims: *mut u64) -> bool {
    let mut before = 1u64;
    // SAFETY: the verifier checks that the pointer leads into a map value.
    unsafe {
        asm!("{value} = atomic_fetch_add((u64 *)({counter} + 0), {value})",
             counter = in(reg) claims, value = inout(reg) before)
    };
    before == 0
}

/// Gives a claim back.
#[inline(always)]
pub fn unclaim(claims: *mut u64) {
    add(claims, u64::MAX);
}

/// The histogram slot of a cell; 0 if there is no room.
#[inline(never)]
pub fn slot_of(key: &CellKey) -> u32 {
    // SAFETY: the value is copied at once.
    if let Some(slot) = unsafe { HISTOGRAM_SLOTS.get(key) } {
        return *slot;
    }
    let (calls, tcp, postgres) = (setting!(histograms_calls), setting!(histograms_tcp), setting!(histograms_postgres));
    let own = match Share::of_histogram(key.kind) {
        Share::Calls => next_number(Numbers::HistogramsOfCalls, 1, calls),
        Share::Tcp => next_number(Numbers::HistogramsOfTcp, calls, tcp),
        Share::Postgres => next_number(Numbers::HistogramsOfPostgres, tcp, postgres),
    };
    let slot = match own {
        Some(slot) => slot,
        None => match next_number(Numbers::HistogramsCommon, postgres, setting!(histograms)) {
            Some(slot) => slot,
            None => {
                lost(Loss::HistogramsFull);
                return 0;
            }
        },
    };
    if HISTOGRAM_SLOTS.insert(key, &slot, BPF_NOEXIST.into()).is_ok() {
        return slot;
    }
    // Another CPU was faster; the slot just taken stays empty.
    // SAFETY: as above.
    unsafe { HISTOGRAM_SLOTS.get(key) }.copied().unwrap_or(0)
}

/// The histogram in `slot` of this CPU. Slot 0 is none: its loss was counted when there was no room.
#[inline(always)]
fn histogram(slot: u32) -> Option<*mut Histogram> {
    if slot == 0 {
        return None;
    }
    HISTOGRAMS.get_ptr_mut(slot)
}

/// Adds a duration, and the bucket that it falls into, to a histogram that only programs at system calls add to: they do
/// not interrupt each other, because they run with preemption off.
#[inline(always)]
pub fn observe_bucket(slot: u32, ns: u64, bucket: usize) -> Option<()> {
    let histogram = histogram(slot)?;
    let bucket = in_register(bucket);
    if bucket >= BUCKETS {
        return None; // Never so; the verifier cannot follow the arithmetic.
    }
    // SAFETY: a map value of this CPU; `bucket` was checked.
    unsafe {
        (*histogram).sum_ns += ns;
        *(&raw mut (*histogram).buckets).cast::<u32>().add(bucket) += 1;
    }
    None
}

/// A number of its own to the compiler, which therefore checks and uses the same register. Of two copies that it reads from the
/// stack, Linux 6.1 does not know that they are equal: a check of one says nothing of the other.
#[inline(always)]
fn in_register(value: usize) -> usize {
    let copy: usize;
    // SAFETY: copies a register. No fewer than one instruction: line information of none is refused.
    unsafe { asm!("{copy} = {value}", copy = out(reg) copy, value = in(reg) value, options(nomem, nostack)) };
    copy
}

/// As [`observe_bucket`]; one copy of the code for all, which is then the more likely in the CPU's cache.
#[inline(never)]
pub fn observe_slot(slot: u32, ns: u64) {
    observe_bucket(slot, ns, bucket_of(ns));
}

/// As [`observe_slot`], for programs that may be interrupted.
#[inline(never)]
pub fn observe_slot_shared(slot: u32, ns: u64) {
    let Some(histogram) = histogram(slot) else { return };
    let bucket = in_register(bucket_of(ns));
    if bucket >= BUCKETS {
        return; // As above.
    }
    // SAFETY: a map value of this CPU; `bucket` was checked.
    unsafe {
        add(&raw mut (*histogram).sum_ns, ns);
        add_u32((&raw mut (*histogram).buckets).cast::<u32>().add(bucket), 1);
    }
}

/// As [`tally_slot`], for programs that may be interrupted.
#[inline(always)]
pub fn tally_slot_shared(slot: u32, tally: [u64; 2]) -> Option<()> {
    let histogram = histogram(slot)?;
    // SAFETY: a map value of this CPU.
    unsafe {
        let counts = (&raw mut (*histogram).tally).cast::<u64>();
        add(counts, tally[0]);
        add(counts.add(1), tally[1]);
    }
    None
}

/// Adds to the counts that go with such a histogram.
#[inline(always)]
pub fn tally_slot(slot: u32, tally: [u64; 2]) -> Option<()> {
    let histogram = histogram(slot)?;
    // SAFETY: a map value of this CPU.
    let counts = unsafe { &mut (*histogram).tally };
    counts[0] += tally[0];
    counts[1] += tally[1];
    None
}

/// Adds a duration to a histogram cell that programs in soft interrupts add to as well: adding is atomic.
#[inline(always)]
pub fn observe(kind: HistogramKind, sub: u8, service: u32, a: u32, b: u32, ns: u64) {
    let key = CellKey { kind: kind as u8, sub, service: service as u16, a, b };
    observe_slot_shared(slot_of(&key), ns);
}

/// Sends a record to user space, which reads on a timer: a wake-up for each would cost the observed process over a
/// microsecond. False, and counted, if there was no room.
#[inline(always)]
pub fn send(record: *const u8, size: u64) -> bool {
    let sent = output((&raw const RECORDS).cast(), record, size);
    if !sent {
        lost(Loss::RingFull);
    }
    sent
}

/// As [`send`], to whoever traces.
#[inline(always)]
pub fn trace(record: *const u8, size: u64) {
    if !output((&raw const TRACE).cast(), record, size) {
        lost(Loss::TraceFull);
    }
}

#[inline(always)]
fn output(ring: *const c_void, record: *const u8, size: u64) -> bool {
    // SAFETY: the verifier checks that `size` bytes can be read there.
    unsafe { bpf_ringbuf_output(ring.cast_mut(), record.cast_mut().cast(), size, BPF_RB_NO_WAKEUP as u64) == 0 }
}

/// Whether the ring has room for the longest record and some more.
#[inline(always)]
pub fn ring_has_room() -> bool {
    const LONGEST: u64 = 8192;
    let ring = (&raw const RECORDS).cast_mut().cast();
    // SAFETY: helpers that only read the ring's state.
    let (size, used) = unsafe {
        (bpf_ringbuf_query(ring, BPF_RB_RING_SIZE as u64), bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA as u64))
    };
    used + LONGEST <= size
}

/// `BPF_ANY` as the map methods take it.
pub const ANY: u64 = BPF_ANY as u64;
