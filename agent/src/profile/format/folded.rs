//! Folded stacks: a line for each stack, its frames from the outermost caller on, what it weighs in nanoseconds.
//!
//! Names bear the marks of stackcollapse-perf, by which flamegraph.pl and inferno choose colours and which they do not
//! show: `_[k]` kernel, `_[i]` inlined, `_[j]` made while the process runs. What a profile of both kinds of time holds
//! is told apart by its first frame. With a baseline each line has two numbers, the baseline's first and scaled, as
//! difffolded.pl writes them.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    io::{self, Write},
};

use super::text;
use crate::model::profile::{Frame, Kind, Origin, Profile, State};

/// The first frame of stacks that ran, where others waited.
pub const ON_CPU: &str = "[on CPU]";
/// The first frame of stacks that waited, where others ran.
pub const OFF_CPU: &str = "[waiting]";

/// Writes a profile, and what to compare it with.
///
/// # Errors
/// The writer's.
pub fn write(profile: &Profile, baseline: Option<&Profile>, to: &mut dyn Write) -> io::Result<()> {
    let named = |profile: &Profile| stacks(profile, |frame, _| marked(frame));
    let stacks = named(profile);
    let Some(baseline) = baseline else {
        return stacks.iter().try_for_each(|(stack, ns)| writeln!(to, "{stack} {ns}"));
    };
    for (stack, (before, after)) in compared(&named(baseline), &stacks) {
        writeln!(to, "{stack} {before} {after}")?;
    }
    Ok(())
}

/// Each distinct stack with its nanoseconds, in order, with names as `name` gives them.
pub fn stacks(profile: &Profile, name: impl Fn(&Frame, State) -> String) -> BTreeMap<String, u64> {
    let mut names: HashMap<(u32, State), String> = HashMap::new();
    let mut stacks = BTreeMap::new();
    for stack in &profile.stacks {
        let mut line = String::new();
        if profile.kind == Kind::Wall {
            line += if stack.state == State::OnCpu { ON_CPU } else { OFF_CPU };
        }
        for (index, frame) in text::frames(profile, stack) {
            if !line.is_empty() {
                line.push(';');
            }
            line += names.entry((index, stack.state)).or_insert_with(|| name(frame, stack.state));
        }
        if line.is_empty() {
            line += "[no stack]";
        }
        let ns: &mut u64 = stacks.entry(line).or_default();
        *ns = ns.saturating_add(stack.ns);
    }
    stacks
}

/// What each stack weighs before and after, with all of before as heavy as all of after.
pub fn compared<'a>(
    before: &'a BTreeMap<String, u64>,
    after: &'a BTreeMap<String, u64>,
) -> BTreeMap<&'a str, (u64, u64)> {
    let total = |stacks: &BTreeMap<String, u64>| stacks.values().map(|ns| u128::from(*ns)).sum::<u128>();
    let (total_before, total_after) = (total(before), total(after));
    let scale = |ns: u64| match total_before {
        0 => 0,
        _ if total_after == 0 => ns,
        _ => u64::try_from((u128::from(ns) * total_after + total_before / 2) / total_before).unwrap_or(u64::MAX),
    };
    let mut both: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (stack, ns) in before {
        both.entry(stack).or_default().0 = scale(*ns);
    }
    for (stack, ns) in after {
        both.entry(stack).or_default().1 = *ns;
    }
    both
}

/// A frame's name with its mark.
pub fn marked(frame: &Frame) -> String {
    let mut name = name(&frame.function).into_owned();
    name += match frame.origin {
        Origin::Kernel => "_[k]",
        Origin::Jit => "_[j]",
        _ if frame.inlined => "_[i]",
        Origin::User | Origin::Interpreted | Origin::Note => "",
    };
    name
}

/// A name that means nothing to those who read lines: without `;`, without what looks like a comment or like a number
/// at the end of a line.
pub fn name(function: &str) -> Cow<'_, str> {
    let name = text::shown(function);
    let trimmed = match name.trim() {
        "" => "[unknown]",
        trimmed => trimmed,
    };
    let number = |word: &str| word.chars().all(|char| char.is_ascii_digit() || char == '.');
    match trimmed.rsplit_once(char::is_whitespace).filter(|(_, last)| number(last)) {
        // A space that readers of lines do not take for one.
        Some((head, last)) => unlike_lines(&format!("{head}\u{a0}{last}")).into(),
        None if trimmed.contains(';') || trimmed.starts_with('#') => unlike_lines(trimmed).into(),
        None if trimmed == function => function.into(),
        None => trimmed.to_owned().into(),
    }
}

fn unlike_lines(name: &str) -> String {
    let comment = if name.starts_with('#') { "\u{2060}" } else { "" };
    format!("{comment}{}", name.replace(';', ":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_means_something_to_a_reader_of_lines() {
        assert_eq!(name("[u8; 8]::f"), "[u8: 8]::f");
        assert_eq!(name("worker 12"), "worker\u{a0}12");
        assert_eq!(name("f 1.5"), "f\u{a0}1.5");
        assert_eq!(name("# f"), "\u{2060}# f");
        assert_eq!(name(" \n"), "[unknown]");
        assert_eq!(name("a\nb"), "a b");
        assert_eq!(name("operator new(unsigned long)"), "operator new(unsigned long)");
    }

    #[test]
    fn before_is_scaled_to_after() {
        let stacks = |of: &[(&str, u64)]| of.iter().map(|(name, ns)| ((*name).to_owned(), *ns)).collect();
        let (before, after) = (stacks(&[("a", 10), ("b", 30)]), stacks(&[("b", 20), ("c", 60)]));
        let both: Vec<_> = compared(&before, &after).into_iter().collect();
        assert_eq!(both, [("a", (20, 0)), ("b", (60, 20)), ("c", (0, 60))]);
    }
}
