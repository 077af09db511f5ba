//! What is asked for without an agent: loads what that needs, answers, and unloads it.

use tokio::time::MissedTickBehavior;

use super::{
    TRACE_INTERVAL, past as of_past,
    probes::{self, Probes},
    wakes,
};
use crate::{
    config::Config,
    kernel::{Kernel, LoadError, ability::ability, sampling::not_needed},
    model::{
        probe::Verdict,
        profile::Kind,
        sample::{PastRequest, ProfileRequest},
        trace::{TraceRequest, Wanted},
    },
};

/// Traces without an agent: loads the probes that this needs, tells of what happens until the request is over, and unloads them.
///
/// # Errors
/// When no probe can run.
pub async fn trace(mut config: Config, request: TraceRequest) -> Result<(), LoadError> {
    let of_queries = matches!(request.wanted, Wanted::Queries(_));
    let of_connections = of_queries || matches!(request.wanted, Wanted::Tcp(_));
    config.probes.syscalls = matches!(request.wanted, Wanted::Calls(_));
    // Who called whom, and when a connection ends, is told by TCP; who accepted, by sockets.
    config.probes.tcp = of_connections;
    config.probes.sockets = of_connections;
    config.probes.postgres = of_queries;
    config.probes.tls &= of_queries;
    config.probes.wall &= of_queries;
    config.probes.profiles = false;
    config.profile.hertz = 0;
    let mut probes = Probes::new(load_alone(&config)?, &config)?;
    // Names for what was there before.
    drop(probes.read());
    probes.trace(request);
    let mut tick = tokio::time::interval(TRACE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while probes.is_traced() {
        tick.tick().await;
        probes.tell();
    }
    Ok(())
}

/// Takes a profile without an agent: loads what takes samples, and unloads it when the profile is finished.
///
/// # Errors
/// When no probe can run.
pub async fn profile(mut config: Config, request: ProfileRequest) -> Result<(), LoadError> {
    let of_requests = request.query.is_some() || request.slow.is_some() || request.kind == Kind::Queries;
    config.probes.profiles = true;
    config.probes.syscalls = false;
    // Which statement a thread serves is told by what it reads and writes.
    config.probes.tcp = of_requests;
    config.probes.sockets = of_requests;
    config.probes.postgres = of_requests;
    config.probes.tls &= of_requests;
    config.probes.wall = false;
    // Nobody asks for the past.
    config.profile.hertz = 0;
    config.kernel.without.extend(not_needed(request.kind).map(str::to_owned));
    let mut probes = Probes::new(load_alone(&config)?, &config)?;
    drop(probes.read());
    probes.profile(request);
    while probes.is_profiled() {
        wakes::due(probes.sampling()).await;
        probes.drain();
        probes.sample();
    }
    Ok(())
}

/// Answers with a profile of the past without an agent, from the files that one has left. Takes its time.
pub fn past(config: &Config, request: PastRequest) {
    of_past::answer(&of_past::pieces(config), request);
}

/// Loads the kernel programs where they can run at all; else says what is missing.
fn load_alone(config: &Config) -> Result<Kernel, LoadError> {
    let ability = ability(&config.kernel.btf);
    match ability.findings().into_iter().find(|finding| finding.verdict == Verdict::Missing) {
        Some(missing) => Err(LoadError::Impossible(missing)),
        None => probes::load(config),
    }
}
