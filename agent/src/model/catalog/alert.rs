//! What alerting says of itself (`steth_alert…`).

use super::Chapter;
use crate::model::metric::Metric;

/// Alerts.
pub static ALERTS: Metric = Metric::gauge(
    "steth_alerts",
    "Alerts that the agent holds. state is pending, firing, acknowledged or resolved; resolved ones are held for an hour.",
    &["state", "severity"],
);
/// Alerts that fired.
pub static FIRED: Metric = Metric::counter("steth_alerts_fired_total", "Alerts that began to fire.", &[]);
/// What people were not told.
pub static SUPPRESSED: Metric = Metric::counter(
    "steth_alerts_suppressed_total",
    "Alerts that nobody was told of, or later than they fired. reason is silence, inhibition (another alert says the same and \
     more), throttle (told together with others of their rule, after alerts.throttle) or brief (over before a channel could be \
     told, for each such channel).",
    &["reason"],
);
/// Notices.
pub static NOTICES: Metric = Metric::counter(
    "steth_alert_notices_total",
    "Notices to channels. outcome is arrived, failed (tried again later) or dropped (refused for good).",
    &["channel", "outcome"],
);
/// Groups of series.
pub static GROUPS: Metric =
    Metric::gauge("steth_alert_groups", "Groups of series that rules for alerts are evaluated for.", &[]);
/// What there was no room for.
pub static LOST: Metric = Metric::counter(
    "steth_alerts_lost_total",
    "What alerting could not do. reason is series (no room for a group of series, each window), alerts (no room for an alert, each \
     window), untold (a channel could not be told for a day that an alert is over) or state (alerts.folder could not be written).",
    &["reason"],
);
/// What is wrong with rules.
pub static LEFT_OUT: Metric = Metric::gauge(
    "steth_alert_rules_left_out",
    "What is wrong in the files of rules and channels that the agent started with, and left out; its log names file and line.",
    &[],
);
/// Its cost.
pub static EVALUATION: Metric = Metric::counter(
    "steth_alert_evaluation_seconds_total",
    "Time that evaluating the rules for alerts took, at the end of each window.",
    &[],
);

/// What alerting says of itself.
pub static ALERTING: Chapter = Chapter {
    title: "Alerts",
    source: "the agent's own counts",
    metrics: || vec![&ALERTS, &FIRED, &SUPPRESSED, &NOTICES, &GROUPS, &LOST, &LEFT_OUT, &EVALUATION],
};
