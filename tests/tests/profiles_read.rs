//! What others read of our profiles: `go tool pprof`, the npm package pprof-format, and Firefox Profiler's own command line.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use steth::{
    model::profile::{Kind, Profile, State},
    profile::format::{Format, Options},
};
use steth_tests::{
    agent::steth,
    drivers::npm_packages,
    flame::Folded,
    need_program,
    process::{self, Process},
    profiles::{self, Builder},
    wait,
};
use tempfile::TempDir;

/// What is read with, and by which scripts.
const READERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/readers");
const SOON: Duration = Duration::from_secs(60);

/// Profiles with every kind of time, and such as only a hostile host has.
fn cases() -> [(&'static str, Profile); 5] {
    let mut one = Builder::new("shop (PID 10)", Kind::Cpu);
    one.stack("shop!main@main.c:3 > i:shop!parse@parse.c:40", ("shop", "worker", 10, 11), State::OnCpu, 1);
    let mut calls = Builder::new("postgres (PID 4711)", Kind::Syscalls);
    calls.stack("postgres!main > k:read", ("postgres:main", "postgres", 4711, 4711), State::OffCpu, 7);
    let empty = Builder::new("shop (PID 10)", Kind::OffCpu);
    [
        ("host", profiles::host(1)),
        ("hostile", profiles::hostile()),
        ("one", one.profile()),
        ("calls", calls.profile()),
        ("empty", empty.profile()),
    ]
}

fn written(folder: &Path, name: &str, profile: &Profile, format: Format) -> PathBuf {
    let file = folder.join(format!("{name}{}", format.ending()));
    let mut bytes = Vec::new();
    format.write(profile, &Options::default(), &mut bytes).unwrap();
    std::fs::write(&file, bytes).unwrap();
    file
}

fn run(program: &str, arguments: &[&str], set: &[(&str, &Path)]) -> String {
    let mut command = process::command(program, None);
    command.args(arguments).envs(set.iter().copied());
    Process::start(program, command).unwrap().finish(SOON).unwrap_or_else(|error| panic!("{arguments:?}: {error:#}"))
}

/// Samples, and nanoseconds on and off CPU.
fn totals(profile: &Profile) -> (u64, u64, u64) {
    profile.stacks.iter().fold((0, 0, 0), |(samples, on, off), stack| match stack.state {
        State::OnCpu => (samples + stack.samples, on + stack.ns, off),
        State::OffCpu => (samples + stack.samples, on, off + stack.ns),
    })
}

/// The names of the values, and their sums.
fn values(profile: &Profile) -> Vec<(&'static str, u64)> {
    let (samples, on, off) = totals(profile);
    match profile.kind {
        Kind::Cpu => vec![("samples/count", samples), ("cpu/nanoseconds", on)],
        Kind::OffCpu => vec![("samples/count", samples), ("wait/nanoseconds", off)],
        Kind::Wall => vec![("samples/count", samples), ("cpu/nanoseconds", on), ("wait/nanoseconds", off)],
        Kind::Syscalls => vec![("calls/count", samples), ("wait/nanoseconds", off)],
        Kind::Queries => vec![("requests/count", samples), ("wait/nanoseconds", off)],
    }
}

#[test]
fn go_reads_the_same_types_totals_labels_and_lines() {
    need_program!("go");
    let folder = TempDir::new().unwrap();
    let home = [("HOME", folder.path()), ("PPROF_TMPDIR", folder.path())];
    for (name, profile) in cases() {
        let file = written(folder.path(), name, &profile, Format::Pprof);
        let file = file.to_str().unwrap();
        let raw = run("go", &["tool", "pprof", "-raw", file], &home);
        let (head, rest) = raw.split_once("\nSamples:\n").unwrap_or_else(|| panic!("{name}: {raw}"));
        let (samples, rest) = rest.split_once("\nLocations\n").unwrap_or_else(|| panic!("{name}: {raw}"));
        let expected = values(&profile);
        let mut lines = samples.lines();
        let types: Vec<&str> =
            lines.next().unwrap().split_whitespace().map(|it| it.trim_end_matches("[dflt]")).collect();
        assert_eq!(types, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "{name}");
        // `    3   30303030          0: 4 3 2 1`, and labels on lines of their own.
        let mut sums = vec![0; expected.len()];
        let mut stacks = 0;
        for line in lines {
            let numbers = line.split_once(':').map(|(values, _)| values.split_whitespace().map(str::parse::<u64>));
            let Some(Ok(numbers)) = numbers.map(|it| it.collect::<Result<Vec<_>, _>>()) else { continue };
            stacks += 1;
            sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
        }
        assert_eq!(sums, expected.iter().map(|(_, sum)| *sum).collect::<Vec<_>>(), "{name}: {samples}");
        assert_eq!(stacks, profile.stacks.len(), "{name}: {samples}");
        assert!(head.contains("Duration: 10"), "{name}: {head}");
        if name == "host" {
            assert!(rest.contains("heapgettup_pagemode") && rest.contains("heapam.c:921"), "{rest}");
            let top = run("go", &["tool", "pprof", "-top", "-sample_index=wait", file], &home);
            assert!(top.contains("schedule"), "{top}");
        }
    }
    let (_, host) = &cases()[0];
    let file = written(folder.path(), "host", host, Format::Pprof);
    let mut services: BTreeMap<&str, u64> = BTreeMap::new();
    for stack in &host.stacks {
        *services.entry(&stack.service).or_default() += stack.samples;
    }
    for (service, count) in services {
        let focus = format!("-tagfocus=service=^{service}$");
        let only = ["tool", "pprof", "-raw", "-sample_index=samples", &focus, file.to_str().unwrap()];
        let raw = run("go", &only, &home);
        let (_, rest) = raw.split_once("\nSamples:\n").unwrap();
        let samples = rest.split_once("\nLocations\n").unwrap().0;
        let first = |line: &str| line.split_once(':')?.0.split_whitespace().next()?.parse::<u64>().ok();
        assert_eq!(samples.lines().filter_map(first).sum::<u64>(), count, "{service}: {raw}");
    }
}

#[test]
fn the_pprof_format_of_npm_reads_the_same() {
    need_program!("node");
    need_program!("npm");
    let packages = npm_packages(Path::new(READERS)).unwrap();
    let folder = TempDir::new().unwrap();
    let script = format!("{READERS}/read_pprof.js");
    for (name, profile) in cases() {
        let file = written(folder.path(), name, &profile, Format::Pprof);
        let modules = packages.join("node_modules");
        let told = run("node", &[&script, file.to_str().unwrap()], &[("NODE_PATH", &modules)]);
        let told: Value = serde_json::from_str(&told).unwrap();
        let expected: Vec<Value> = values(&profile).iter().map(|(name, sum)| serde_json::json!([name, sum])).collect();
        assert_eq!(told["values"], Value::from(expected), "{name}");
        let mut stacks: Vec<(String, Vec<String>)> = profile
            .stacks
            .iter()
            .map(|stack| {
                let names = stack.frames.iter().rev().map(|at| shown(&profile.frames[*at as usize].function));
                (shown(&stack.service), names.collect())
            })
            .collect();
        stacks.sort();
        let mut read: Vec<(String, Vec<String>)> = serde_json::from_value(told["stacks"].clone()).unwrap();
        read.sort();
        assert_eq!(read, stacks, "{name}");
    }
}

/// A name without what no text may have.
fn shown(name: &str) -> String {
    let hidden = |char: char| char.is_control() || matches!(char, '\u{202a}'..='\u{202e}');
    let replaced = name.chars().map(|char| match char {
        '\n' | '\r' | '\t' => ' ',
        _ if hidden(char) => '\u{fffd}',
        _ => char,
    });
    if name.is_empty() { "[unknown]".into() } else { replaced.collect() }
}

/// Milliseconds of functions themselves.
type Own = BTreeMap<String, f64>;
/// A thread: its service and number.
type Whose<'a> = (&'a str, u32);

/// A session of Firefox Profiler's command line, which does what profiler.firefox.com does. It ends with its test.
struct FirefoxProfiler {
    program: PathBuf,
    home: TempDir,
}

impl FirefoxProfiler {
    fn load(program: PathBuf, file: &Path) -> Self {
        let profiler = Self { program, home: TempDir::new().unwrap() };
        // It has a second half that stays; the first does not wait for it long enough on a busy machine, and says so.
        let _ = profiler.ask(&["load", file.to_str().unwrap()]);
        wait::poll("the profile to be loaded", SOON, || Ok(profiler.ask(&["profile", "info"]).ok())).unwrap();
        profiler
    }

    fn ask(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = process::command("node", None);
        command.arg(&self.program).args(arguments).env("HOME", self.home.path());
        Process::start("profiler-cli", command)?.finish(SOON)
    }

    /// What it tells of the functions of a thread: their own milliseconds, by file and name.
    fn own_ms(&self, thread: usize) -> Own {
        let thread = format!("t-{thread}");
        let told = self.ask(&["thread", "functions", "--thread", &thread, "--include-idle", "--json"]).unwrap();
        let told: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
        let mut all = BTreeMap::new();
        for function in told["functions"].as_array().unwrap() {
            // `name` is what stands behind the first exclamation mark, also of one that is part of the name.
            let name = function["nameWithLibrary"].as_str().unwrap().to_owned();
            *all.entry(name).or_insert(0.0) += function["selfSamples"].as_f64().unwrap();
        }
        all.retain(|_, ms| *ms > 0.0);
        all
    }
}

impl Drop for FirefoxProfiler {
    fn drop(&mut self) {
        let _ = self.ask(&["stop", "--all"]);
    }
}

#[test]
fn firefox_profiler_reads_the_same_threads_functions_and_times() {
    need_program!("node");
    need_program!("npm");
    let packages = npm_packages(Path::new(READERS)).unwrap();
    let program = packages.join("node_modules/@firefox-devtools/profiler-cli/dist/profiler-cli.js");
    let folder = TempDir::new().unwrap();
    for (name, profile) in [("host", profiles::host(1)), ("hostile", profiles::hostile())] {
        let file = written(folder.path(), name, &profile, Format::Firefox);
        let profiler = FirefoxProfiler::load(program.clone(), &file);
        let mut threads: Vec<(Whose<'_>, Own)> = Vec::new();
        for stack in &profile.stacks {
            let key = (&*stack.service, stack.tid);
            if !threads.iter().any(|(it, _)| *it == key) {
                threads.push((key, BTreeMap::new()));
            }
            let (_, own) = threads.iter_mut().find(|(it, _)| *it == key).unwrap();
            let innermost = &profile.frames[*stack.frames.last().unwrap() as usize];
            let (function, module) = (shown(&innermost.function), &*innermost.module);
            let is_alone = module.is_empty() || module == &*innermost.function;
            let name = if is_alone { function } else { format!("{}!{function}", shown(module)) };
            *own.entry(name).or_insert(0.0) += stack.ns as f64 / 1e6;
        }
        for (at, (whose, own)) in threads.iter().enumerate() {
            let read = profiler.own_ms(at);
            assert_eq!(read.keys().collect::<Vec<_>>(), own.keys().collect::<Vec<_>>(), "{name}: {whose:?}");
            for (function, ms) in own {
                assert!(
                    (read[function] - ms).abs() < 1e-6 * ms,
                    "{name}: {whose:?}: {function}: {} of {ms}",
                    read[function]
                );
            }
        }
    }
}

#[test]
fn a_saved_profile_is_drawn_anew_and_compared_on_the_command_line() {
    let folder = TempDir::new().unwrap();
    let in_folder = |name: &str| folder.path().join(name).display().to_string();
    let (now, before) = (profiles::host(1), profiles::host(3));
    let now_file = written(folder.path(), "now", &now, Format::Pprof).display().to_string();
    let before_file = written(folder.path(), "before", &before, Format::Pprof).display().to_string();
    let flame = |arguments: &[&str]| steth(&[&["flame", "--config", "/dev/null"], arguments].concat()).unwrap();

    let (code, folded, said) = flame(&["--read", &now_file, "-o", "-"]);
    let (_, on, off) = totals(&now);
    assert_eq!((code, Folded::read(&folded).unwrap().ns()), (Some(0), on + off), "{said}");
    assert!(said.contains("names of java"), "notes are said: {said}");

    let (code, compared, said) = flame(&["--read", &now_file, "--base", &before_file, "-o", "-"]);
    assert_eq!(code, Some(0), "{said}");
    let weights = compared.lines().map(|line| {
        let mut words = line.rsplit(' ').map(|word| word.parse::<u64>().unwrap());
        let after = words.next().unwrap();
        (words.next().unwrap(), after)
    });
    let (base, after) = weights.fold((0, 0), |(base, after), it| (base + it.0, after + it.1));
    assert_eq!(after, on + off);
    assert!(base.abs_diff(after) < 100, "both weigh the same: {base} and {after}");

    let page = in_folder("difference.html");
    let (code, _, said) = flame(&["--read", &now_file, "--base", &before_file, "-o", &page]);
    assert_eq!(code, Some(0), "{said}");
    assert!(std::fs::metadata(&page).unwrap().len() > 10_000);

    let [.., (_, calls), _] = cases();
    let calls = written(folder.path(), "calls", &calls, Format::Pprof).display().to_string();
    for (arguments, expected, words) in [
        (&["--read", &now_file, "--base", &calls][..], 1, "cannot be compared"),
        (&["--read", &in_folder("none.pb.gz")], 1, "cannot read"),
        (&["--read", &page], 1, "can be read again"),
        (&["--read", &now_file, "-p", "1"], 2, "cannot be used with"),
    ] {
        let (code, _, said) = flame(&[arguments, &["-o", "-"]].concat());
        assert!(code == Some(expected) && said.contains(words), "{arguments:?}: {code:?} {said}");
    }
}
