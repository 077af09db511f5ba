//! Load averages.

use procfs::{FromRead, LoadAverage};

use super::{Files, Problem, malformed, push};
use crate::model::{catalog::host, snapshot::Series};

/// Adds the three averages.
pub(super) fn read(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    let path = files.in_proc("loadavg");
    let load = LoadAverage::from_read(files.text(&path)?.as_bytes()).map_err(|error| malformed(&path, error))?;
    for (metric, load) in [(&host::LOAD1, load.one), (&host::LOAD5, load.five), (&host::LOAD15, load.fifteen)] {
        // The kernel prints hundredths; an f32 made longer would show digits that nobody measured.
        push(out, metric, &[], (f64::from(load) * 100.0).round() / 100.0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::tests::values;

    #[test]
    fn loads_are_exact_to_the_hundredth() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("loadavg"), "1.24 0.47 0.26 6/120 9520\n").unwrap();
        let mut out = Vec::new();
        read(&mut Files::new(root.path().into(), root.path().into()), &mut out).unwrap();
        assert_eq!(values(&out), ["node_load1 1.24", "node_load5 0.47", "node_load15 0.26"]);
    }
}
