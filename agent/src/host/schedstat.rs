//! Time that each CPU ran tasks, and that tasks waited for it. By hand: procfs has only the processes' own files.

use super::{Files, Problem, push};
use crate::model::{catalog::host, snapshot::Series};

/// Adds the three counters of each CPU. Present where the kernel has CONFIG_SCHEDSTATS.
pub(super) fn read(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    parse(files.proc_text("schedstat")?, out);
    Ok(())
}

/// The last three of nine columns since version 15 of the file (2.6.30): running and waiting in nanoseconds,
/// and timeslices. See Documentation/scheduler/sched-stats.rst.
fn parse(text: &str, out: &mut Vec<Series>) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(cpu) = words.next().and_then(|word| word.strip_prefix("cpu")) else { continue };
        let mut numbers = words.skip(6).map(str::parse::<u64>);
        let (Some(Ok(running_ns)), Some(Ok(waiting_ns)), Some(Ok(timeslices))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            continue;
        };
        push(out, &host::SCHEDSTAT_RUNNING, &[cpu], running_ns as f64 / 1e9);
        push(out, &host::SCHEDSTAT_WAITING, &[cpu], waiting_ns as f64 / 1e9);
        push(out, &host::SCHEDSTAT_TIMESLICES, &[cpu], timeslices as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::values;

    #[test]
    fn nanoseconds_become_seconds() {
        let mut out = Vec::new();
        let text = "version 15\ntimestamp 1\ncpu0 0 0 0 0 0 0 2045936778163039 343796328169361 4767485306\n\
                    domain0 00000003 1 2 3\ncpu1 0 0\n";
        parse(text, &mut out);
        assert_eq!(
            values(&out),
            [
                r#"node_schedstat_running_seconds_total{cpu="0"} 2045936.778163039"#,
                r#"node_schedstat_waiting_seconds_total{cpu="0"} 343796.328169361"#,
                r#"node_schedstat_timeslices_total{cpu="0"} 4767485306"#,
            ]
        );
    }
}
