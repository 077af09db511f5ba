//! What wall time is spent with, as it is shown.

use std::{borrow::Cow, collections::BTreeMap};

use steth_probes::wall::{STATES, WallState};

/// The name of a state.
pub fn state_name(state: WallState) -> &'static str {
    match state {
        WallState::OnCpu => "on_cpu",
        WallState::RunQueue => "run_queue",
        WallState::Disk => "disk",
        WallState::Lock => "lock",
        WallState::Network => "network",
        WallState::Poll => "poll",
        WallState::Sleep => "sleep",
        WallState::Other => "other",
        WallState::Unknown => "unknown",
        WallState::Client => "client",
        WallState::Ipc => "ipc",
        WallState::Timeout => "timeout",
        WallState::Activity => "activity",
        WallState::Extension => "extension",
        WallState::BufferPin => "buffer_pin",
        WallState::Pipeline => "pipeline",
    }
}

/// Times in nanoseconds by state, with the states' names; those without time are left out.
pub fn named(ns: &[u64]) -> impl Iterator<Item = (&'static str, u64)> {
    WallState::ALL.iter().zip(ns).filter(|(_, ns)| **ns != 0).map(|(state, ns)| (state_name(*state), *ns))
}

/// Seconds by the name of a state.
pub type Seconds<'a> = BTreeMap<Cow<'a, str>, f64>;

/// The split as it is told.
pub fn seconds(ns: &[u64; STATES]) -> Seconds<'static> {
    named(ns).map(|(name, ns)| (name.into(), ns as f64 / 1e9)).collect()
}
