//! What this kernel's structures do not have, and what therefore cannot run. Knows neither BTF nor programs.

use steth_probes::{
    catalog::{Feature, Probe, SWITCH},
    offsets::{ABSENT, MEMBERS, Member, Offsets, Part},
};

/// The fields that this kernel does not have.
#[derive(Debug)]
pub struct Lacks(Vec<Member>);

impl Lacks {
    /// Those that were not found.
    pub fn of(offsets: &Offsets) -> Self {
        let absent = MEMBERS.iter().zip(offsets.to_array()).filter(|(_, offset)| *offset == ABSENT);
        Self(absent.map(|(member, _)| *member).collect())
    }

    /// Why a probe cannot run.
    pub fn stop(&self, probe: &Probe) -> Option<String> {
        self.of_parts(probe.needs)
    }

    /// Why a feature cannot be had.
    pub fn refuse(&self, feature: Feature) -> Option<String> {
        self.of_parts(feature.needs())
    }

    /// Which of the wanted features can be had.
    pub fn leave(&self, wanted: &[Feature]) -> Vec<Feature> {
        wanted.iter().copied().filter(|feature| self.of_parts(feature.needs()).is_none()).collect()
    }

    /// Why a probe that runs does not do all that is wanted of it, and what is lost: the system calls' programs, and that at
    /// switches, serve other features as well.
    pub fn curtail(&self, probe: &Probe, wanted: &[Feature]) -> Option<(String, String)> {
        if probe.name == SWITCH && wanted.contains(&probe.feature) {
            return Some((self.refuse(probe.feature)?, "what wall time is spent with".into()));
        }
        if probe.name != "sys_exit" {
            return None;
        }
        let halves = [
            (Feature::Sockets, "socket operations"),
            (Feature::Postgres, "Postgres"),
            (Feature::Tcp, "accept-queue delay and TCP round-trip times"),
        ];
        let lost = halves.into_iter().filter(|(feature, _)| wanted.contains(feature));
        let lost = lost.filter_map(|(feature, what)| Some((self.of_parts(feature.needs())?, what)));
        let (mut reasons, lost): (Vec<String>, Vec<&str>) = lost.unzip();
        reasons.dedup();
        (!lost.is_empty()).then(|| (reasons.join("; "), lost.join(", ")))
    }

    fn of_parts(&self, parts: &[Part]) -> Option<String> {
        let absent = self.0.iter().filter(|member| parts.contains(&member.part));
        let absent: Vec<String> = absent.map(|member| format!("{}.{}", member.structure, member.path)).collect();
        (!absent.is_empty()).then(|| format!("this kernel has no {}", absent.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use steth_probes::catalog::PROBES;

    use super::*;

    const ALL: &[Feature] = &[Feature::Syscalls, Feature::Tcp, Feature::Sockets, Feature::Postgres];

    fn without(path: &str) -> Lacks {
        let offsets: Vec<u32> = MEMBERS.iter().map(|member| if member.path == path { ABSENT } else { 8 }).collect();
        assert!(offsets.contains(&ABSENT), "{path} is read by nobody");
        Lacks::of(&Offsets::from_slice(&offsets).unwrap())
    }

    fn stopped(lacks: &Lacks) -> Vec<&'static str> {
        PROBES.iter().filter(|probe| lacks.stop(probe).is_some()).map(|probe| probe.name).collect()
    }

    #[test]
    fn a_kernel_with_all_fields_lacks_nothing() {
        let lacks = Lacks::of(&Offsets::from_slice(&vec![8; MEMBERS.len()]).unwrap());
        assert_eq!((stopped(&lacks), lacks.leave(ALL)), (vec![], ALL.to_vec()));
        assert!(PROBES.iter().all(|probe| lacks.curtail(probe, ALL).is_none()));
    }

    #[test]
    fn an_absent_field_stops_only_what_needs_it() {
        let lacks = without("srtt_us");
        assert_eq!(stopped(&lacks), ["inet_sock_set_state"]);
        assert_eq!(lacks.leave(ALL), [Feature::Syscalls, Feature::Sockets, Feature::Postgres]);

        let lacks = without("inet_sport");
        assert_eq!(stopped(&lacks), ["inet_sock_set_state", "tcp_send_reset"]);

        let lacks = without("max_fds");
        assert_eq!(stopped(&lacks), ["sk_data_ready"]);
        assert_eq!(lacks.leave(ALL), [Feature::Syscalls, Feature::Tcp]);

        let lacks = without("sk_drops");
        assert_eq!((stopped(&lacks), lacks.leave(ALL)), (vec![], ALL.to_vec()));
    }

    #[test]
    fn without_knowing_who_only_what_names_nobody_runs() {
        let lacks = without("dfl_cgrp");
        let running: Vec<_> =
            PROBES.iter().map(|probe| probe.name).filter(|name| !stopped(&lacks).contains(name)).collect();
        assert_eq!((running, lacks.leave(ALL)), (vec!["tcp_retransmit_skb", "tcp_receive_reset"], vec![]));
    }

    #[test]
    fn a_probe_that_does_half_says_which_half_and_why() {
        let sys_exit = PROBES.iter().find(|probe| probe.name == "sys_exit").unwrap();
        let (reason, lost) = without("max_fds").curtail(sys_exit, ALL).unwrap();
        assert_eq!(
            (reason.as_str(), lost.as_str()),
            ("this kernel has no fdtable.max_fds", "socket operations, Postgres")
        );
        assert_eq!(without("max_fds").curtail(sys_exit, &[Feature::Tcp]), None);
    }
}
