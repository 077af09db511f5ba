//! What the configuration asks of the kernel.

use steth_probes::catalog::Feature;

use crate::{
    aggregate::Limits,
    config::Config,
    kernel::{self, Kernel, LoadError},
    model::profile::Kind,
    pipeline::{profiles::Profiles, trace},
};

/// Loads what the configuration asks for.
///
/// # Errors
/// If no probe can run.
pub fn load(config: &Config) -> Result<Kernel, LoadError> {
    let wanted = [
        (config.probes.syscalls, Feature::Syscalls),
        (config.probes.tcp, Feature::Tcp),
        (config.probes.sockets, Feature::Sockets),
        (config.probes.postgres, Feature::Postgres),
        (config.probes.postgres && config.probes.tls, Feature::Tls),
        (config.probes.wall, Feature::Wall),
        (config.probes.profiles, Feature::Profiles),
    ];
    Kernel::load(&kernel::Options {
        btf: config.kernel.btf.clone(),
        features: wanted.into_iter().filter(|(on, _)| *on).map(|(_, feature)| feature).collect(),
        without: config.kernel.without.clone(),
        memory_bytes: config.kernel.memory_bytes,
        ring_bytes: count(config.kernel.ring_bytes),
        services: count(config.limits.services as u64),
        peers: count(config.limits.peers as u64),
        statements: count(config.limits.queries as u64),
        profile_memory_bytes: config.profile.memory_bytes,
        watch: trace::watch(config),
    })
}

fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The limits of what is shown.
pub fn limits(config: &Config) -> Limits {
    Limits {
        services: config.limits.shown_services,
        syscalls: config.limits.shown_syscalls,
        peers: config.limits.shown_peers,
        queries: config.limits.shown_queries,
    }
}

/// What takes profiles, or why nothing does.
pub fn profiles(kernel: &mut Kernel, config: &Config) -> Result<Profiles, String> {
    // Without an agent only the programs of one kind are there.
    let kinds = [Kind::Cpu, Kind::OffCpu, Kind::Syscalls, Kind::Queries];
    let lacking: Vec<String> = kinds.into_iter().filter_map(|kind| kernel.cannot_sample(kind)).collect();
    if let (Some(why), true) = (lacking.first(), lacking.len() == kinds.len()) {
        return Err(why.clone());
    }
    Profiles::new(kernel, config).map_err(|error| error.to_string())
}
