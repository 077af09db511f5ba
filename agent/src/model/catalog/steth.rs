//! steth's own metrics (`steth_…`).

use super::Chapter;
use crate::model::metric::Metric;

/// The version that runs.
pub static BUILD_INFO: Metric = Metric::gauge("steth_build_info", "Always 1; the version of the agent.", &["version"]);
/// CPU time.
pub static AGENT_CPU: Metric =
    Metric::counter("steth_agent_cpu_seconds_total", "CPU time that the agent has used, user and system.", &[]);
/// Memory.
pub static AGENT_RESIDENT: Metric = Metric::gauge("steth_agent_resident_bytes", "Resident memory of the agent.", &[]);
/// Series that could not be exposed.
pub static DUPLICATE_SERIES: Metric = Metric::counter(
    "steth_duplicate_series_total",
    "Series left out of the exposition because one of the same name and labels stood before them.",
    &[],
);
/// Limits of memory.
pub static SERVICE_MEMORY_LIMIT: Metric = Metric::gauge(
    "steth_service_memory_limit_bytes",
    "The least memory that a control group of a service's processes, or one above it, is limited to. Absent where there is no \
     limit.",
    &["service"],
);
/// Findings.
pub static FINDINGS: Metric = Metric::counter(
    "steth_findings_total",
    "Findings that were made of what is kept of the past. kind is saturation, change or leak.",
    &["kind"],
);
/// History.
pub static HISTORY_SERIES: Metric =
    Metric::gauge("steth_history_series", "Series whose past is kept for findings (correlate.windows).", &[]);
/// What there was no room for.
pub static HISTORY_REFUSED: Metric = Metric::counter(
    "steth_history_refused_total",
    "Values whose series had no place in what is kept for findings, because there are too many.",
    &[],
);

/// Requests that were refused.
pub static HTTP_REFUSED: Metric = Metric::counter(
    "steth_http_refused_total",
    "Requests that were refused. reason is token (none, or one that is not known), role, rate, host (a name that is none of \
     this host's), tls (connections without a handshake) or crowd (connections beyond half of all, of one peer that is not this \
     host).",
    &["reason"],
);
/// Features.
pub static FEATURE_STATE: Metric = Metric::gauge(
    "steth_feature_state",
    "1 for the state that a feature is in: on, off (not wanted), held (switched off because steth costs too much, [budget]) or \
     lowered (does less, for the same reason).",
    &["feature", "state"],
);
/// The budget.
pub static BUDGET_SHARE: Metric = Metric::gauge(
    "steth_budget_ratio",
    "Share of the host's CPU time that steth may use: soft for long, hard for a short time.",
    &["bound"],
);
/// What is used of it.
pub static BUDGET_USED: Metric = Metric::gauge(
    "steth_budget_used_ratio",
    "Share of the host's CPU time that steth used at the last look. part is kernel (its programs) or agent (its own process).",
    &["part"],
);
/// Steps.
pub static GOVERNOR_STEPS: Metric = Metric::counter(
    "steth_governor_steps_total",
    "How often steth did less to stay within its budget (down), or more again (up).",
    &["direction"],
);
/// The audit log.
pub static AUDIT_LINES: Metric = Metric::counter(
    "steth_audit_lines_total",
    "Lines of the audit log. outcome is written, crowded (too many waited for the disk) or refused (by the disk).",
    &["outcome"],
);

/// Reloads.
pub static RELOADS: Metric = Metric::counter(
    "steth_config_reloads_total",
    "How often the configuration was read again (SIGHUP). outcome is taken_over or refused (something in it is wrong, and the one \
     before stays). `systemctl reload` has a wrong one refused before the agent is asked.",
    &["outcome"],
);

/// What the agent itself costs.
pub static AGENT: Chapter = Chapter {
    title: "The agent",
    source: "`/proc/self/stat` and the agent's own counts",
    metrics: || {
        vec![
            &BUILD_INFO,
            &AGENT_CPU,
            &AGENT_RESIDENT,
            &DUPLICATE_SERIES,
            &SERVICE_MEMORY_LIMIT,
            &FINDINGS,
            &HISTORY_SERIES,
            &HISTORY_REFUSED,
            &HTTP_REFUSED,
            &AUDIT_LINES,
            &FEATURE_STATE,
            &BUDGET_SHARE,
            &BUDGET_USED,
            &GOVERNOR_STEPS,
            &RELOADS,
        ]
    },
};
