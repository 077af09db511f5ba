//! Names, times and headings as they stand in every format. Names come from files and processes that may be hostile.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::model::profile::{Frame, Kind, Profile, Stack, State};

/// What a name looks like where text is shown: without control characters, without what turns the direction of the
/// text around it, without what XML does not allow; never empty.
pub fn shown(name: &str) -> Cow<'_, str> {
    let hidden = |char: char| {
        let direction = matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let line_end = matches!(char, '\u{2028}' | '\u{2029}');
        direction || line_end || char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}')
    };
    match name {
        "" => "[unknown]".into(),
        _ if name.contains(hidden) => {
            let replace = |char| match char {
                '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
                _ if hidden(char) => '\u{fffd}',
                _ => char,
            };
            name.chars().map(replace).collect::<String>().into()
        }
        _ => name.into(),
    }
}

/// At most so many characters of a name, its middle left out.
pub fn cut(name: &str, chars: usize) -> Cow<'_, str> {
    // Bytes are at least as many as characters, and cheap to count.
    if name.len() <= chars {
        return name.into();
    }
    let count = name.chars().count();
    if count <= chars {
        return name.into();
    }
    let head = chars / 2;
    let tail = count - (chars - head);
    let kept = name.chars().enumerate().filter(|(at, _)| *at < head || *at >= tail);
    kept.map(|(at, char)| if at == tail { '…' } else { char }).collect::<String>().into()
}

/// The frames of a stack that there are, the outermost caller first.
pub fn frames<'a>(profile: &'a Profile, stack: &'a Stack) -> impl DoubleEndedIterator<Item = (u32, &'a Frame)> {
    stack.frames.iter().filter_map(|&index| {
        let frame = profile.frames.get(usize::try_from(index).ok()?)?;
        Some((index, frame))
    })
}

/// What a profile weighs, in nanoseconds: on and off CPU.
pub fn totals_ns(profile: &Profile) -> (u64, u64) {
    profile.stacks.iter().fold((0u64, 0u64), |(on, off), stack| match stack.state {
        State::OnCpu => (on.saturating_add(stack.ns), off),
        State::OffCpu => (on, off.saturating_add(stack.ns)),
    })
}

/// Whether nothing in it weighs anything.
pub fn is_empty(profile: &Profile) -> bool {
    totals_ns(profile) == (0, 0)
}

/// What a profile is of: `CPU time of postgres (PID 4711)`.
pub fn title(profile: &Profile) -> String {
    format!("{} of {}", what(profile.kind), shown(&profile.target))
}

/// What a kind of profile shows.
pub const fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::Cpu => "CPU time",
        Kind::OffCpu => "Waiting time",
        Kind::Wall => "CPU and waiting time",
        Kind::Syscalls => "Time in system calls",
        Kind::Queries => "Time of slow Postgres requests",
    }
}

/// When, how long, how often, how much, in one line.
pub fn facts(profile: &Profile) -> String {
    let samples = profile.stacks.iter().fold(0u64, |sum, stack| sum.saturating_add(stack.samples));
    let (on, off) = totals_ns(profile);
    let mut facts = String::new();
    // What was read from a file may not say.
    if profile.began > UNIX_EPOCH {
        facts += &format!("{} · ", utc(profile.began));
    }
    let has_cpu = matches!(profile.kind, Kind::Cpu | Kind::Wall);
    if !profile.lasted.is_zero() {
        let rate = if has_cpu && profile.hertz > 0 { format!(" at {} Hz", profile.hertz) } else { String::new() };
        facts += &format!("{}{rate} · ", span(profile.lasted.as_nanos()));
    }
    let (one, several) = match profile.kind {
        Kind::Syscalls => ("call", "calls"),
        Kind::Queries => ("request", "requests"),
        Kind::Cpu | Kind::OffCpu | Kind::Wall => ("sample", "samples"),
    };
    facts += &format!("{samples} {}", if samples == 1 { one } else { several });
    if has_cpu {
        facts += &format!(" · {} on CPU", span(on.into()));
    }
    match profile.kind {
        Kind::Cpu => {}
        Kind::OffCpu | Kind::Wall => facts += &format!(" · {} waiting", span(off.into())),
        Kind::Syscalls | Kind::Queries => facts += &format!(" · {} in them", span(off.into())),
    }
    facts
}

/// Why an empty profile is empty: its notes, or that nobody knows.
pub fn why_empty(profile: &Profile) -> Vec<String> {
    if profile.notes.is_empty() {
        return vec![match profile.kind {
            Kind::Cpu => "nothing of it ran on a CPU while it was looked at".to_owned(),
            Kind::OffCpu => "nothing of it waited while it was looked at".to_owned(),
            Kind::Wall => "nothing of it ran or waited while it was looked at".to_owned(),
            Kind::Syscalls => "no system call of it ended that took so long".to_owned(),
            Kind::Queries => "no Postgres request of it ended that took so long".to_owned(),
        }];
    }
    profile.notes.iter().map(|note| shown(note).into_owned()).collect()
}

/// Nanoseconds for people, with three digits: `9.90 s`, `153 ms`.
pub fn span(ns: u128) -> String {
    // No profile is longer than what a float tells apart by three digits.
    let ns = ns as f64;
    let (value, unit) = match ns {
        _ if ns >= 1e9 => (ns / 1e9, "s"),
        _ if ns >= 1e6 => (ns / 1e6, "ms"),
        _ if ns >= 1e3 => (ns / 1e3, "µs"),
        _ => return format!("{ns} ns"),
    };
    let digits = match value {
        _ if value >= 100.0 => 0,
        _ if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

/// A moment as `2026-11-21 06:28:00 UTC`.
pub fn utc(moment: SystemTime) -> String {
    let seconds = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut day) = (1970, days);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_could_fool_a_reader_and_nothing_else() {
        assert_eq!(shown("a\u{202e}b\u{1b}[2J\0c\nd"), "a\u{fffd}b\u{fffd}[2J\u{fffd}c d");
        for kept in ["שלום", "日本語", "std::vec<int, \"x\">; '&", "é🦀"] {
            assert_eq!(shown(kept), kept);
        }
        assert_eq!(shown(""), "[unknown]");
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(cut("abcdefghij", 10), "abcdefghij");
        assert_eq!(cut("abcdefghijk", 6), "abc…jk");
        assert_eq!(cut("ééééééé", 7), "ééééééé");
        assert_eq!(cut(&"é".repeat(5000), 100).chars().count(), 100);
    }

    #[test]
    fn moments_are_told_by_the_calendar() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(at(1_704_067_199), "2023-12-31 23:59:59 UTC");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn spans_have_three_digits() {
        let told: Vec<String> = [999, 1_000, 15_300_000, 999_400_000, 9_900_000_000, 123_456_000_000].map(span).into();
        assert_eq!(told, ["999 ns", "1.00 µs", "15.3 ms", "999 ms", "9.90 s", "123 s"]);
    }
}
