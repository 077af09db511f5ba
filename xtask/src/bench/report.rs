//! Writes a benchmark's section into the page. Each stands between markers, so that one can be measured again alone.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};

use super::{Bench, machine::Machine, rounds::Rounds};
use crate::workspace;

/// What a new page begins with.
const HEAD: &str = "# What steth costs\n\nWritten by `cargo xtask bench`. Variants take turns in one run; ratios are medians of the rounds' own \
                    ratios.\nFigures move from machine to machine: compare within one table.\n";

/// One section: what, how, where, and the table.
pub fn section(bench: &Bench, rounds: &Rounds) -> String {
    let Bench { name, title, what, unit, .. } = bench;
    let count = rounds.variants.first().map_or(0, |variant| variant.values.len());
    let mut text =
        format!("## {title}\n\n{what}\n\n`cargo xtask bench {name} --rounds {count}` on {}.\n\n", Machine::here());
    let base = rounds.variants.first().map_or("the first", |first| first.name);
    let _ = writeln!(text, "| variant | median, {unit} | least to greatest | ratio to {base} |\n|---|---:|---:|---:|");
    for variant in &rounds.variants {
        let (least, greatest) = variant.range();
        let (median, ratio) = (variant.median(), rounds.ratio(variant));
        let _ = writeln!(text, "| {} | {median:.1} | {least:.1} to {greatest:.1} | {ratio:.3} |", variant.name);
    }
    text
}

/// Puts the section in the place of its predecessor, or at the end.
pub fn replace_in_page(page: &str, name: &str, section: &str) -> Result<()> {
    let path = workspace::root().join(page);
    let old = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => HEAD.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {page}")),
    };
    fs::create_dir_all(path.parent().unwrap_or(workspace::root()))
        .and_then(|()| fs::write(&path, replaced(&old, name, section)))
        .with_context(|| format!("cannot write {page}"))
}

fn replaced(page: &str, name: &str, section: &str) -> String {
    let (begin, end) = (format!("<!-- bench {name} -->\n"), format!("<!-- end of bench {name} -->\n"));
    let block = format!("{begin}{section}{end}");
    let place = page.find(&begin).zip(page.find(&end)).filter(|(from, to)| from < to);
    match place {
        Some((from, to)) => format!("{}{block}{}", &page[..from], &page[to + end.len()..]),
        None => format!("{}\n\n{block}", page.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_alone_and_a_new_one_goes_to_the_end() {
        let page = replaced("# Head\n", "a", "A1\n");
        let page = replaced(&page, "b", "B1\n");
        let again = replaced(&page, "a", "A2\n");
        assert_eq!(again, page.replace("A1", "A2"));
        assert!(again.starts_with("# Head\n\n<!-- bench a -->\nA2\n<!-- end of bench a -->\n\n<!-- bench b -->\nB1\n"));
        assert_eq!(replaced(&again, "a", "A2\n"), again);
    }
}
