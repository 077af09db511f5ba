//! Paging, faults and OOM kills of the whole host.

use procfs::{FromRead, VmStat};

use super::{Files, Problem, malformed, push};
use crate::model::{catalog::host, snapshot::Series};

/// Adds the fields of the catalog that this kernel has.
pub(super) fn read(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    let path = files.in_proc("vmstat");
    let VmStat(fields) = VmStat::from_read(files.text(&path)?.as_bytes()).map_err(|error| malformed(&path, error))?;
    for field in host::VMSTAT {
        if let Some(value) = fields.get(field.source) {
            push(out, &field.metric, &[], *value as f64);
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
    fn only_the_catalogs_fields_are_taken() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("vmstat"), "nr_free_pages 5\npgpgin 7\npgfault 9\noom_kill 1\n").unwrap();
        let mut out = Vec::new();
        read(&mut Files::new(root.path().into(), root.path().into()), &mut out).unwrap();
        assert_eq!(values(&out), ["node_vmstat_oom_kill 1", "node_vmstat_pgfault 9", "node_vmstat_pgpgin 7"]);
    }
}
