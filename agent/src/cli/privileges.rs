//! What a running agent may still do. It reads of every process on the host; beyond reading it needs nothing of what root may,
//! so all else is given up before it serves. What each capability is for stands in `packaging/steth.service` too.

use std::io;

use rustix::{
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs,
    },
};

use crate::config::Config;

/// What is needed as long as the agent runs: processes come and go, and code is met for the first time at any hour.
const NEEDED: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SYSLOG);

/// perf_uprobe_event_init() in kernel/events/core.c asks for it and is not content with CAP_PERFMON (Linux 6.18): without it
/// OpenSSL is not listened to.
const FOR_TLS: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// bpf_enable_stats() in kernel/bpf/syscall.c asks for it: without it the cost of kernel programs is not known.
const FOR_BUDGET: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// The first port that everybody may listen on, unless `net.ipv4.ip_unprivileged_port_start` says another.
const UNPRIVILEGED_PORT: u16 = 1_024;

/// No core dump, and nobody without CAP_SYS_PTRACE reads this process's memory.
///
/// # Errors
/// When the kernel refuses.
pub fn forbid_dumps() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Gives up what is not needed, for this thread and those that it starts, and for good; returns the names of it.
///
/// # Errors
/// When the kernel refuses.
pub fn keep_needed(config: &Config) -> io::Result<Vec<String>> {
    let held = capabilities(None)?.permitted;
    let kept = held & needed(held, config);
    // From what it may gain by executing a program; needs CAP_SETPCAP. Whoever lacks it gains nothing either, by the next line.
    if held.contains(CapabilitySet::SETPCAP) {
        for (_, capability) in CapabilitySet::all().iter_names().filter(|(_, capability)| !kept.contains(*capability)) {
            match remove_capability_from_bounding_set(capability) {
                // A number that this kernel has no capability for.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })?;
    Ok((held - kept).iter_names().map(|(name, _)| format!("CAP_{name}")).collect())
}

fn needed(held: CapabilitySet, config: &Config) -> CapabilitySet {
    let mut needed = NEEDED;
    // What is given up is gone: who switches them on later, while the agent runs, has to start it anew to see TLS.
    if config.probes.postgres && config.probes.tls {
        needed |= FOR_TLS;
    }
    if config.budget.enabled {
        needed |= FOR_BUDGET;
    }
    // It stands for both since they exist (Linux 5.8); there are containers that are given it and not them.
    if !held.contains(CapabilitySet::BPF.union(CapabilitySet::PERFMON)) {
        needed |= CapabilitySet::SYS_ADMIN;
    }
    if (1..UNPRIVILEGED_PORT).contains(&config.listen.port()) {
        needed |= CapabilitySet::NET_BIND_SERVICE;
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str, tls: bool) -> Config {
        let mut config = Config { listen: listen.parse().unwrap(), ..Config::default() };
        config.probes.tls = tls;
        config.budget.enabled = false;
        config
    }

    #[test]
    fn what_reads_is_kept_and_what_changes_the_host_is_not() {
        assert_eq!(needed(CapabilitySet::all(), &config("127.0.0.1:9464", false)), NEEDED);
        assert_eq!(needed(CapabilitySet::all(), &config("127.0.0.1:9464", true)), NEEDED | FOR_TLS);
        let mut governed = config("127.0.0.1:9464", false);
        governed.budget.enabled = true;
        assert_eq!(needed(CapabilitySet::all(), &governed), NEEDED | FOR_BUDGET);
    }

    #[test]
    fn a_low_port_and_an_old_fashioned_grant_need_more() {
        let needed = |held, listen| needed(held, &config(listen, false));
        assert!(needed(CapabilitySet::all(), "127.0.0.1:443").contains(CapabilitySet::NET_BIND_SERVICE));
        assert!(!needed(CapabilitySet::all(), "127.0.0.1:0").contains(CapabilitySet::NET_BIND_SERVICE));
        assert!(needed(CapabilitySet::SYS_ADMIN, "127.0.0.1:9464").contains(CapabilitySet::SYS_ADMIN));
    }

    /// On a thread of its own: capabilities are those of threads, and no other test is to lose any.
    #[test]
    fn a_thread_that_gave_up_has_nothing_but_what_is_needed() {
        let config = config("127.0.0.1:9464", false);
        let of_thread = config.clone();
        let (before, dropped, after) = std::thread::spawn(move || {
            let before = capabilities(None).unwrap();
            let dropped = keep_needed(&of_thread).unwrap();
            (before, dropped, capabilities(None).unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(after.permitted, before.permitted & needed(before.permitted, &config));
        assert_eq!((after.effective, after.inheritable), (after.permitted, CapabilitySet::empty()));
        assert_eq!(dropped.len(), (before.permitted - after.permitted).iter_names().count());
    }
}
