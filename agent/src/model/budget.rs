//! What steth costs and what it may cost, as it is shown.

use serde::Serialize;

/// One feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FeatureStatus {
    /// Its name, as in `[probes]`.
    pub feature: &'static str,
    /// Whether it runs.
    pub state: FeatureState,
}

/// Whether a feature runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureState {
    /// As it should.
    On,
    /// It is not wanted.
    Off,
    /// It is wanted, but costs too much.
    Held,
    /// It does less than is wanted.
    Lowered,
}

impl FeatureState {
    /// All of them, with their names.
    pub const ALL: &[(&str, Self)] =
        &[("on", Self::On), ("off", Self::Off), ("held", Self::Held), ("lowered", Self::Lowered)];
}

/// The budget, and what was last used of it; shares of the host's CPU time, from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Budget {
    /// Whether it is kept.
    pub enabled: bool,
    /// For long.
    pub soft: f64,
    /// For a short time.
    pub hard: f64,
    /// Of kernel programs; `null` where the kernel does not tell, or before the first look.
    pub kernel: Option<f64>,
    /// Of the agent's own process; `null` before the first look.
    pub own: Option<f64>,
}
