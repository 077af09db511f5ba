//! Pressure stall information, Linux 4.20 and later.

use procfs::parse_pressure_record;

use super::{Files, Problem, malformed, push};
use crate::model::{catalog::host, metric::Metric, snapshot::Series};

/// The file, the line, and the metric. A `full` line for the CPU means nothing for the whole host
/// (Documentation/accounting/psi.rst), so node_exporter leaves it out.
static RECORDS: [(&str, &str, &Metric); 5] = [
    ("pressure/cpu", "some", &host::PRESSURE_CPU_WAITING),
    ("pressure/io", "some", &host::PRESSURE_IO_WAITING),
    ("pressure/io", "full", &host::PRESSURE_IO_STALLED),
    ("pressure/memory", "some", &host::PRESSURE_MEMORY_WAITING),
    ("pressure/memory", "full", &host::PRESSURE_MEMORY_STALLED),
];

/// Adds the total stall times.
pub(super) fn read(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    for records in RECORDS.chunk_by(|a, b| a.0 == b.0) {
        let path = files.in_proc(records[0].0);
        let text = files.text(&path)?;
        for (_, kind, metric) in records {
            // Line by line, and not procfs' whole file: that wants a `full` line, which the CPU has since 5.13.
            let Some(line) = text.lines().find(|line| line.starts_with(kind)) else { continue };
            let record = parse_pressure_record(line).map_err(|error| malformed(&path, error))?;
            push(out, metric, &[], record.total as f64 / 1e6);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::tests::values;

    #[test]
    fn microseconds_become_seconds_and_an_old_kernels_cpu_has_no_full_line() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("pressure")).unwrap();
        let some = "some avg10=0.00 avg60=0.00 avg300=0.00 total=16785665\n";
        let full = "full avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n";
        fs::write(root.path().join("pressure/cpu"), some).unwrap();
        fs::write(root.path().join("pressure/io"), format!("{some}{full}")).unwrap();
        fs::write(root.path().join("pressure/memory"), format!("{some}{full}")).unwrap();
        let mut out = Vec::new();
        read(&mut Files::new(root.path().into(), root.path().into()), &mut out).unwrap();
        assert_eq!(
            values(&out),
            [
                "node_pressure_cpu_waiting_seconds_total 16.785665",
                "node_pressure_io_waiting_seconds_total 16.785665",
                "node_pressure_io_stalled_seconds_total 0.5",
                "node_pressure_memory_waiting_seconds_total 16.785665",
                "node_pressure_memory_stalled_seconds_total 0.5",
            ]
        );
    }
}
