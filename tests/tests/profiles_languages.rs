//! Profiles of what compilers make of C++ and Rust, against what the programs know of themselves: exceptions, calls through a
//! linkage table, inlined functions, panics. What perf makes of the same programs is printed beside.

use std::{collections::BTreeMap, process::Command, time::Duration};

use steth_tests::{
    flame::{Flame, Folded, Line},
    need_bpf, need_program,
    process::{self, Process},
    program_missing,
    programs::{INLINED, Program, SPINS_JS, STEP, THROWS, said_number},
};

const SOON: Duration = Duration::from_secs(60);

fn throwing() -> Program {
    let compiled = Program::compiled("thrw", |folder, path| {
        let (source, library) = (folder.join("source.cpp"), folder.join("step.cpp"));
        let shared = folder.join("libstep.so");
        std::fs::write(&source, THROWS)?;
        std::fs::write(&library, STEP)?;
        let mut gcc = Command::new("g++");
        gcc.args(["-O2", "-fomit-frame-pointer", "-shared", "-fPIC", "-o"]).args([&shared, &library]);
        assert!(gcc.status()?.success());
        let mut gcc = Command::new("g++");
        gcc.args(["-O2", "-fomit-frame-pointer", "-g", "-Wall", "-Wextra", "-Werror", "-Wl,-rpath,$ORIGIN", "-o"]);
        gcc.args([path, &source, &shared]);
        Ok(gcc)
    });
    compiled.unwrap()
}

fn inlined() -> Program {
    let compiled = Program::compiled("inln", |folder, path| {
        let source = folder.join("source.rs");
        std::fs::write(&source, INLINED)?;
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition", "2024", "--crate-name", "inlined", "-O", "-g", "-C", "force-frame-pointers=no", "-o"]);
        rustc.args([path, &source]);
        Ok(rustc)
    });
    compiled.unwrap()
}

fn ready(program: &Program) -> Process {
    let process = program.start(&["3"]).unwrap();
    process.wait_for_line("that it is ready", SOON, |line| (line == "ready").then_some(())).unwrap();
    process
}

/// Of the whole run of a program, and what it said.
fn profile_of(program: &Program) -> (Folded, String) {
    let mut process = ready(program);
    let flame = Flame::begin(&["-p", &process.id().to_string(), "-d", "60s", "-F", "997"]).unwrap();
    process.say("go").unwrap();
    process.wait(SOON).unwrap();
    (flame.end(true).unwrap(), process.log())
}

/// What perf's stacks are: the share of samples with each function, and of those that reach `main`; or why not.
fn perf(program: &Program, functions: &[&str]) -> Result<String, String> {
    if let Some(why) = program_missing("perf") {
        return Err(why);
    }
    let mut process = ready(program);
    let data = program.folder().join("perf.data");
    let mut record = process::command("perf", None);
    record.args(["record", "-e", "cpu-clock", "-F", "997", "--call-graph", "dwarf", "-o"]).arg(&data);
    record.args(["-p", &process.id().to_string()]);
    let mut record = Process::start("perf", record).map_err(|error| error.to_string())?;
    process.say("go").unwrap();
    process.wait(SOON).unwrap();
    let status = record.wait(SOON).map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("perf record failed ({status}): {}", record.log()));
    }
    let mut script = Command::new("perf");
    script.args(["script", "--no-inline", "-F", "ip,sym", "-i"]).arg(&data);
    let output = script.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("perf script failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let samples: Vec<&str> = text.split("\n\n").filter(|sample| !sample.trim().is_empty()).collect();
    let with = |function: &str| {
        let has = |line: &str| line.split_once(' ').is_some_and(|_| line.trim().ends_with(function));
        samples.iter().filter(|sample| sample.lines().any(has)).count() as f64 / samples.len().max(1) as f64
    };
    let shares: BTreeMap<&str, String> =
        functions.iter().chain(&["main"]).map(|function| (*function, format!("{:.3}", with(function)))).collect();
    Ok(format!("{} samples, {shares:?}", samples.len()))
}

fn compare(program: &Program, paths: &[(&str, &str)]) -> Folded {
    let (folded, said) = profile_of(program);
    let all = said_number(&said, "all").unwrap() as f64;
    let mut told = String::new();
    let mut right = true;
    for (key, frame) in paths {
        let (truth, share) = (said_number(&said, key).unwrap() as f64 / all, folded.share(frame));
        told += &format!("{key}: {truth:.3} of its time, {share:.3} of the profile\n");
        right &= (truth - share).abs() < 0.03;
    }
    // As the unwinder of the language leaves for the frame that catches, its own tables do not tell where it stands.
    let unwinds = |line: &Line| line.has("_Unwind_RaiseException");
    let (whole, inside) = (folded.only(|line| !unwinds(line)).whole(), folded.only(unwinds).whole());
    println!("{told}whole: {whole:.4}, in the unwinder {inside:.4}");
    assert!(right && whole >= 0.995, "{told}whole: {whole}, cut:\n{}", cut(&folded));
    // None is no number.
    assert!(inside.is_nan() || inside > 0.8, "in the unwinder {inside}, cut:\n{}", cut(&folded));
    let functions: Vec<&str> = paths.iter().map(|(_, frame)| *frame).collect();
    match perf(program, &functions) {
        Ok(told) => println!("perf record --call-graph dwarf: {told}"),
        Err(why) => println!("perf is not beside it: {why}"),
    }
    folded
}

/// Its stacks that were not walked to their end.
fn cut(folded: &Folded) -> String {
    let cut = folded.only(|line| line.frames.first().is_some_and(|frame| frame.starts_with('[')));
    cut.0.iter().map(|line| format!("{} {}\n", line.frames.join(";"), line.ns)).collect()
}

#[test]
fn exceptions_and_calls_of_a_library_have_right_shares_and_whole_stacks() {
    need_bpf!();
    need_program!("g++");
    let folded = compare(&throwing(), &[("throws", "throws"), ("catches", "catches"), ("calls", "calls")]);
    // What is thrown goes through the runtime of the language, and what is called is another file's.
    let raised = folded.only(|line| line.has("throws") && line.has("_Unwind_RaiseException"));
    assert!(raised.ns() > 0, "{folded:#?}");
    assert!(folded.only(|line| line.has("calls") && line.has("step")).ns() > 0, "{folded:#?}");
}

#[test]
fn inlined_functions_and_panics_of_rust_have_right_shares_and_whole_stacks() {
    need_bpf!();
    need_program!("rustc");
    let paths =
        [("has_inlined", "inlined::has_inlined"), ("has_none", "inlined::has_none"), ("panics", "inlined::panics")];
    let folded = compare(&inlined(), &paths);
    let inside = folded.only(|line| line.has("inlined::has_inlined"));
    // What hides the result from the compiler takes the most time there.
    for (function, least) in [("inlined::mixes_often_[i]", 0.97), ("inlined::mixes_[i]", 0.01)] {
        let share = inside.share(function);
        assert!(share > least, "{function}: {share} of its caller");
    }
    let none = folded.only(|line| line.has("inlined::has_none")).share("inlined::mixes_[i]");
    assert!(none == 0.0, "{none}");
}

/// A file that another program leaves behind.
struct Left(String);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn javascript_that_was_compiled_while_it_runs_has_its_names() {
    need_bpf!();
    need_program!("node");
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("spins.js");
    std::fs::write(&source, SPINS_JS).unwrap();
    let mut node = process::command("node", None);
    // Where it is started it leaves a log.
    node.current_dir(folder.path()).arg("--perf-basic-prof").arg(&source).arg("60");
    let process = Process::start("node", node).unwrap();
    let _map = Left(format!("/tmp/perf-{}.map", process.id()));
    process.wait_for_line("that it is ready", SOON, |line| (line == "ready").then_some(())).unwrap();
    let flame = Flame::begin(&["-p", &process.id().to_string(), "-d", "2s", "-F", "499"]).unwrap();
    let folded = flame.end(false).unwrap();
    let (share, whole) = (folded.share("inner_[j]"), folded.whole());
    assert!(share >= 0.9 && whole >= 0.995, "{share} in the function, {whole} whole: {folded:#?}");
    // What calls it runs in node's interpreter, which has no names in Debian's build, below the functions of node that start it.
    let started = folded.only(|line| line.has("inner_[j]"));
    assert!(started.share("node::Start(int, char**)") >= 0.995, "{started:#?}");
}
