//! What the agent adds to the cheapest syscall.

use std::{hint::black_box, os::unix::process::parent_id, time::Instant};

use anyhow::Result;

use super::{
    Context,
    agent::Agent,
    rounds::{Rounds, Variant, alternate},
};

/// About half a second of a bare loop.
const CALLS: u32 = 4_000_000;

pub fn run(context: &Context) -> Result<Rounds> {
    let bare = Variant::new("bare", || Ok(nanoseconds_per_call()));
    let steth = Variant::new("steth", || {
        let agent = Agent::start(&context.steth)?;
        let ns = nanoseconds_per_call();
        drop(agent);
        Ok(ns)
    });
    alternate(context.rounds, vec![bare, steth])
}

fn nanoseconds_per_call() -> f64 {
    let started = Instant::now();
    for _ in 0..CALLS {
        black_box(parent_id());
    }
    started.elapsed().as_nanos() as f64 / f64::from(CALLS)
}
