//! What unwind tables cost and lack: `cargo run --release --example unwind_tables -- FILE...`

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Instant,
};

use steth::profile::unwind::elf::CodeFile;
use steth_probes::unwind::Rule;

fn main() {
    println!(
        "{:<40} {:>8} {:>7} {:>6} {:>9} {:>8} {:>6} unsupported, of rows and of bytes",
        "file", "rows", "pages", "rules", "KiB", "B a row", "ms"
    );
    for path in std::env::args().skip(1) {
        if let Err(why) = measure(Path::new(&path)) {
            println!("{path}: {why}");
        }
    }
}

fn measure(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let table = CodeFile::open(path)?.table(Some(path), Path::new("/usr/lib/debug"))?;
    let elapsed_ms = begun.elapsed().as_secs_f64() * 1e3;
    let rules: BTreeSet<_> = table.rows.iter().map(|row| row.rule()).collect();
    let mut lacks: BTreeMap<String, (usize, u32)> = BTreeMap::new();
    let ends = table.rows.iter().skip(1).map(|row| row.offset()).chain(table.rows.last().map(|row| row.offset()));
    for (row, end) in table.rows.iter().zip(ends) {
        let name = match row.rule().rule() {
            Some(Rule::Unsupported(lack)) => format!("{lack:?}"),
            Some(Rule::FramePointer) => "none".to_owned(),
            Some(Rule::Sp { bp: steth_probes::unwind::SavedBp::Lost, .. }) => "RBP lost".to_owned(),
            _ => continue,
        };
        let lack = lacks.entry(name).or_default();
        *lack = (lack.0 + 1, lack.1 + (end - row.offset()));
    }
    let all = table.rows.len();
    let all_bytes = table.rows.last().zip(table.rows.first()).map_or(0, |(last, first)| last.offset() - first.offset());
    let share = |part: f64, whole: f64| 100.0 * part / whole.max(1.0);
    let lacks = lacks.iter().map(|(name, &(rows, bytes))| {
        format!(
            "{name} {rows} ({:.3} %, {:.3} %)",
            share(rows as f64, all as f64),
            share(bytes.into(), all_bytes.into())
        )
    });
    println!(
        "{:<40} {:>8} {:>7} {:>6} {:>9.1} {:>8.2} {:>6.1} {}",
        path.display(),
        table.rows.len(),
        table.pages.len(),
        rules.len(),
        table.size_bytes() as f64 / 1024.0,
        table.size_bytes() as f64 / table.rows.len().max(1) as f64,
        elapsed_ms,
        lacks.collect::<Vec<_>>().join(", "),
    );
    table.gaps.iter().for_each(|gap| println!("  {gap}"));
    Ok(())
}
