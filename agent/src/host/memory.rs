//! `/proc/meminfo`. By hand, against the catalog: procfs knows a fixed list of fields that ends before Linux 6.0
//! and refuses the file when an old one is missing.

use super::{Files, Problem, malformed, push};
use crate::model::{
    catalog::host::{self, Field},
    snapshot::Series,
};

/// Adds every field that the catalog knows.
pub(super) fn read(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    let path = files.in_proc("meminfo");
    let before = out.len();
    parse(files.text(&path)?, out);
    if out.len() == before { Err(malformed(&path, "no field is known")) } else { Ok(()) }
}

fn parse(text: &str, out: &mut Vec<Series>) {
    // The kernel and the catalog have the same order, so the search goes on from the last hit.
    let mut next = 0;
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let Some((position, Field { metric, .. })) = find(name, next) else { continue };
        next = position + 1;
        let mut words = rest.split_ascii_whitespace();
        let Some(number) = words.next().and_then(|number| number.parse::<u64>().ok()) else { continue };
        let unit = if words.next() == Some("kB") { 1024 } else { 1 };
        push(out, metric, &[], number as f64 * f64::from(unit));
    }
}

fn find(name: &str, from: usize) -> Option<(usize, &'static Field)> {
    let count = host::MEMORY.len();
    (0..count).map(|step| (from + step) % count).find_map(|position| {
        let field = host::MEMORY.get(position)?;
        (field.source == name).then_some((position, field))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::values;

    #[test]
    fn kilobytes_become_bytes_and_counts_stay() {
        let mut out = Vec::new();
        parse(
            "MemTotal:       24684084 kB\nActive(anon):  1012 kB\nHugePages_Total:       3\nHugepagesize: 2048 kB\n",
            &mut out,
        );
        assert_eq!(
            values(&out),
            [
                "node_memory_MemTotal_bytes 25276502016",
                "node_memory_Active_anon_bytes 1036288",
                "node_memory_HugePages_Total 3",
                "node_memory_Hugepagesize_bytes 2097152",
            ]
        );
    }

    #[test]
    fn unknown_fields_and_any_order_are_fine() {
        let mut out = Vec::new();
        parse("DirectMap1G: 1 kB\nBrandNew: 1 kB\nMemFree: 2 kB\nMemFree\nMemTotal: x kB\n", &mut out);
        assert_eq!(values(&out), ["node_memory_DirectMap1G_bytes 1024", "node_memory_MemFree_bytes 2048"]);
    }
}
