//! Metrics of taking profiles (`steth_profile_…`, `steth_unwind_…`).

use super::Chapter;
use crate::model::metric::{Bounds, Metric};

/// Samples.
pub static SAMPLES: Metric = Metric::counter(
    "steth_profile_samples_total",
    "Samples taken: by the clock that always runs (always), by that of a profile asked for (demand), of time spent \
     waiting (wait), of system calls that took long (long_call), of Postgres requests that did (long_request).",
    &["trigger"],
);
/// How long a walk takes.
pub static WALK_SECONDS: Metric = Metric::histogram(
    "steth_profile_walk_seconds",
    "How long it took to walk the process' part of a stack; the thread stands still meanwhile.",
    &[],
    Bounds::Short,
);
/// Stacks that are not whole.
pub static STACKS_INCOMPLETE: Metric = Metric::counter(
    "steth_profile_stacks_incomplete_total",
    "Stacks whose outermost callers are missing, by why the walk ended. What was found of them is kept.",
    &["reason"],
);
/// Tables.
pub static TABLES: Metric =
    Metric::gauge("steth_unwind_tables", "Unwind tables that the kernel programs have at hand, one a build-id.", &[]);
/// Their rows.
pub static ROWS: Metric = Metric::gauge("steth_unwind_rows", "Rows of all unwind tables at hand.", &[]);
/// Room for rows.
pub static ROWS_LIMIT: Metric = Metric::gauge(
    "steth_unwind_rows_limit",
    "Rows of unwind tables that there is room for (profile.memory); beyond, the table not used longest gives way.",
    &[],
);
/// Tables that gave way.
pub static EVICTED: Metric = Metric::counter(
    "steth_unwind_tables_evicted_total",
    "Unwind tables that gave way to others for lack of room.",
    &[],
);
/// Files without.
pub static WITHOUT_TABLE: Metric = Metric::counter(
    "steth_unwind_without_table_total",
    "Times that code was met of which no unwind table could be had, by reason. Its stacks are walked by frame pointer.",
    &["reason"],
);
/// Processes with Python.
pub static PYTHONS: Metric = Metric::gauge(
    "steth_profile_python_processes",
    "Processes whose Python frames the kernel programs know how to read.",
    &[],
);
/// Those without room.
pub static PYTHONS_REFUSED: Metric = Metric::counter(
    "steth_profile_python_processes_refused_total",
    "Times that there was no room for one more process with Python (1024): its stacks show the interpreter only.",
    &[],
);

/// Taking profiles.
pub static PROFILES: Chapter = Chapter {
    title: "Profiles",
    source: "the samples and what they say of their stacks",
    metrics: || {
        vec![
            &SAMPLES,
            &WALK_SECONDS,
            &STACKS_INCOMPLETE,
            &TABLES,
            &ROWS,
            &ROWS_LIMIT,
            &EVICTED,
            &WITHOUT_TABLE,
            &PYTHONS,
            &PYTHONS_REFUSED,
        ]
    },
};
