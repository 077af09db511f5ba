//! What each kernel must show, feature by feature: tests of `tests/tests`, each by its name.

use anyhow::{Result, bail};

/// Something that users see, and the tests that show it.
#[derive(Debug)]
pub struct Feature {
    pub name: &'static str,
    /// Whether it takes a machine whose first process is systemd.
    pub systemd: bool,
    /// Test program, test.
    pub tests: &'static [(&'static str, &'static str)],
}

/// A row that is no test: that every program is loaded and attached, or says what instead.
pub const PROBES: &str = "probes";

const FEATURES: &[Feature] = &[
    Feature { name: PROBES, systemd: false, tests: &[] },
    Feature {
        name: "system calls: counts, errors, durations",
        systemd: false,
        tests: &[("syscalls", "counts_errors_and_sums_are_the_known_ones"), ("syscalls", "nothing_is_lost_on_the_way")],
    },
    Feature {
        name: "TCP: connect, refusal, accept queue",
        systemd: false,
        tests: &[
            ("tcp", "a_refused_connection_is_counted_as_refused"),
            ("tcp", "a_late_accept_shows_in_the_queue_and_not_in_the_connect"),
        ],
    },
    Feature {
        name: "Postgres: every statement, errors",
        systemd: false,
        tests: &[
            ("postgres", "every_query_is_counted_once_in_every_mode_over_every_socket"),
            ("postgres", "errors_are_counted_by_sqlstate"),
        ],
    },
    Feature {
        name: "Postgres behind TLS",
        systemd: false,
        tests: &[("tls", "every_query_is_counted_once_in_every_mode_at_both_ends")],
    },
    Feature {
        name: "profiles: shares and whole stacks",
        systemd: false,
        tests: &[
            // Not those of short handlers and naps: an emulated clock samples them at the moment of its own interrupt, and an
            // emulated switch takes as long as a short nap.
            ("profiles", "shares_are_right_at_the_rate_that_is_taken_unless_another_is_given"),
            ("profiles", "who_runs_through_the_whole_profile_is_not_said_to_wait_for_it"),
        ],
    },
    Feature {
        name: "wall split: threads",
        systemd: false,
        tests: &[("wall", "each_thread_adds_a_second_a_second_where_it_spends_it")],
    },
    Feature {
        name: "wall split: requests",
        systemd: false,
        tests: &[("wall", "a_request_that_waits_for_a_row_is_in_a_lock_though_it_polls")],
    },
    Feature {
        name: "installed: unit, pgbench, flame graph, upgrade, removal",
        systemd: true,
        tests: &[("installed", "a_booted_host_is_served_from_installation_to_purge")],
    },
    Feature {
        name: "fallbacks: without hooks, without fields",
        systemd: false,
        tests: &[
            ("missing_hooks", "without_any_probe_the_rest_runs"),
            ("missing_hooks", "a_field_that_this_kernel_lacks_stops_only_what_reads_it"),
        ],
    },
];

/// Those with this in their name, or all.
///
/// # Errors
/// If there is none.
pub fn plan(only: Option<&str>) -> Result<Vec<&'static Feature>> {
    let wanted = |feature: &&Feature| only.is_none_or(|only| feature.name.contains(only));
    let plan: Vec<&Feature> = FEATURES.iter().filter(wanted).collect();
    if plan.is_empty() {
        let names: Vec<&str> = FEATURES.iter().map(|feature| feature.name).collect();
        bail!("--only: no feature has this in its name; there are: {}", names.join("; "));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::{PROBES, plan};

    #[test]
    fn a_part_of_the_features_is_chosen_by_name() {
        assert_eq!(plan(Some(PROBES)).unwrap().len(), 1);
        assert!(plan(None).unwrap().len() > plan(Some("Postgres")).unwrap().len());
        assert!(plan(Some("nonsense")).unwrap_err().to_string().contains("system calls"));
    }
}
