//! Open file descriptors of the whole host. By hand: procfs has the file, but only at `/proc`.

use super::{Files, Problem, malformed, push};
use crate::model::{catalog::host, snapshot::Series};

/// Adds allocated and maximum, from `/proc/sys/fs/file-nr`: allocated, free (always 0 since 2.6), maximum.
pub(super) fn read(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    let path = files.in_proc("sys/fs/file-nr");
    let text = files.text(&path)?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (Some(Ok(allocated)), Some(Ok(_)), Some(Ok(maximum))) = (numbers.next(), numbers.next(), numbers.next()) else {
        return Err(malformed(&path, text.trim()));
    };
    push(out, &host::FILEFD_ALLOCATED, &[], allocated as f64);
    push(out, &host::FILEFD_MAXIMUM, &[], maximum as f64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::tests::values;

    #[test]
    fn allocated_and_maximum_are_the_first_and_the_third_number() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("sys/fs")).unwrap();
        let mut files = Files::new(root.path().into(), root.path().into());
        fs::write(root.path().join("sys/fs/file-nr"), "1024\t0\t1631329\n").unwrap();
        let mut out = Vec::new();
        read(&mut files, &mut out).unwrap();
        assert_eq!(values(&out), ["node_filefd_allocated 1024", "node_filefd_maximum 1631329"]);
        fs::write(root.path().join("sys/fs/file-nr"), "1024\t0\n").unwrap();
        assert!(matches!(read(&mut files, &mut out), Err(Problem::Malformed { .. })));
    }
}
