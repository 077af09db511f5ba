//! Spends its CPU time in functions that are inlined into their callers, and in panics that are caught. Says at the end how much
//! on each, by the thread's own CPU clock. Begins at the first line of input. Arguments: seconds.

use std::{
    env,
    hint::black_box,
    io, panic,
    time::{Duration, Instant},
};

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: i32, at: *mut Timespec) -> i32;
}

/// CPU time of this thread, in nanoseconds.
fn used_ns() -> i64 {
    const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    let mut at = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: there is room for the answer.
    unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &raw mut at) };
    at.seconds * 1_000_000_000 + at.nanoseconds
}

#[inline(always)]
fn mixes(number: u64) -> u64 {
    (number ^ (number >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

#[inline(always)]
fn mixes_often(number: u64, times: u64) -> u64 {
    (0..times).fold(number, |number, time| black_box(mixes(number ^ time)))
}

#[inline(never)]
fn has_inlined(number: u64) -> u64 {
    mixes_often(number, 600_000) + 1
}

#[inline(never)]
fn has_none(number: u64) -> u64 {
    let mut number = number;
    for time in 0..300_000 {
        number = black_box(number.rotate_left(7) + time);
    }
    number + 1
}

#[inline(never)]
fn falls(depth: u64) -> u64 {
    if depth == 0 {
        panic::panic_any(depth);
    }
    black_box(falls(black_box(depth - 1))) + 1
}

#[inline(never)]
fn panics(number: u64) -> u64 {
    (0..100).map(|time| panic::catch_unwind(|| falls(black_box(8))).map_or(time, |_| number)).sum::<u64>() + 1
}

fn main() {
    let seconds: f64 = env::args().nth(1).and_then(|typed| typed.parse().ok()).expect("seconds");
    panic::set_hook(Box::new(|_| ()));
    println!("ready");
    io::stdin().read_line(&mut String::new()).expect("a line");
    let (begun, length) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut spent = [0; 3];
    let first = used_ns();
    let mut at = first;
    while begun.elapsed() < length {
        for (path, spent) in [has_inlined, has_none, panics].into_iter().zip(&mut spent) {
            black_box(path(black_box(1)));
            let next = used_ns();
            *spent += next - at;
            at = next;
        }
    }
    println!("has_inlined={} has_none={} panics={} all={}", spent[0], spent[1], spent[2], at - first);
}
