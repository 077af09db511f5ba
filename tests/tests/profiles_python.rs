//! Profiles of CPython against what a program in it knows of itself: its functions by name, each with its part of the time, and
//! whole native stacks around them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use steth_probes::unwind::Stop;
use steth_tests::{
    flame::{Flame, Folded, Line},
    need_bpf, need_program,
    process::{self, Process},
    programs::{PYTHON_PATHS, said_number},
    skipped, trixie,
};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);

/// Which interpreter runs the program.
enum Python {
    /// The host's.
    Host,
    /// Debian 13's, in this folder, which is its root.
    Trixie(PathBuf),
}

impl Python {
    /// It, and a folder for the program.
    fn command(&self) -> (Command, TempDir) {
        match self {
            Self::Host => (process::command("python3", None), tempfile::tempdir().unwrap()),
            Self::Trixie(root) => {
                let mut command = process::command("chroot", None);
                command.arg(root).arg(trixie::PYTHON);
                (command, tempfile::tempdir_in(root.join("paths")).unwrap())
            }
        }
    }

    /// Where it has a folder.
    fn sees(&self, path: &Path) -> PathBuf {
        match self {
            Self::Host => path.to_owned(),
            Self::Trixie(root) => Path::new("/").join(path.strip_prefix(root).unwrap()),
        }
    }
}

/// Of the program's whole run, and what it said.
fn profile_of(python: &Python, options: &[&str]) -> (Folded, String) {
    let (mut command, folder) = python.command();
    std::fs::write(folder.path().join("paths.py"), PYTHON_PATHS).unwrap();
    command.arg("-I").arg(python.sees(folder.path()).join("paths.py"));
    let mut process = Process::start("python3", command).unwrap();
    let says = |process: &Process, word: &str| {
        process.wait_for_line(word, SOON, |line| (line.trim() == word).then_some(())).unwrap();
    };
    says(&process, "ready");
    let pid = process.id().to_string();
    let flame = Flame::begin(&[&["-p", &pid, "-d", "60s", "-F", "997"], options].concat()).unwrap();
    process.say("go").unwrap();
    says(&process, "done");
    let folded = flame.end(true).unwrap();
    (folded, process.log())
}

/// Without what was sampled before the unwind tables were made, which takes seconds on a busy machine.
fn with_tables(folded: &Folded) -> Folded {
    let none = format!("[{}]", Stop::NoTable.text());
    folded.only(|line| !line.has(&none))
}

/// Stacks in which these frames stand in this order, from outside; others may stand between.
fn through(folded: &Folded, frames: &[&str]) -> Folded {
    folded.only(|line| {
        let mut found = line.frames.iter();
        frames.iter().all(|wanted| found.any(|frame| frame == wanted))
    })
}

fn in_file(function: &str) -> String {
    format!("paths.py:{function}")
}

/// Whether code objects know the class or function that they stand in, as they do from 3.11 on.
fn is_qualified(python: &Python) -> bool {
    let says = "import sys; sys.exit(sys.version_info < (3, 11))";
    python.command().0.args(["-c", says]).status().unwrap().success()
}

#[test]
fn functions_of_python_stand_between_native_ones_with_their_share() {
    need_program!("python3");
    assert_functions_stand(&Python::Host);
}

#[test]
fn functions_of_python_3_13_do_so_too() {
    need_bpf!();
    need_program!("apt-get", "dpkg-deb", "chroot");
    match trixie::root(Path::new(env!("CARGO_TARGET_TMPDIR"))) {
        Ok(root) => assert_functions_stand(&Python::Trixie(root)),
        Err(why) => skipped!("no Python 3.13: {why:#}"),
    }
}

fn assert_functions_stand(python: &Python) {
    let (folded, said) = profile_of(python, &[]);
    let is_qualified = is_qualified(python);
    let all = said_number(&said, "all").unwrap() as f64;
    let mut told = String::new();
    for (key, way) in [
        ("left_inner", &["main", "work", "left", "left_inner", "spend"][..]),
        ("parts", &["main", "work", "Service.handle", "Service.parts", "spend"]),
        ("key", &["main", "work", "sorts", "key", "spend"]),
        ("replacement", &["main", "work", "replaces", "replaces.<locals>.<lambda>", "replacement", "spend"]),
        ("deep", &["main", "work", "deep", "deep", "deep", "spend"]),
        ("hashes", &["main", "work", "hashes"]),
    ] {
        let known =
            |function: &&'static str| if is_qualified { function } else { function.rsplit('.').next().unwrap() };
        let way: Vec<String> = way.iter().map(|function| in_file(known(function))).collect();
        let way: Vec<&str> = way.iter().map(String::as_str).collect();
        let truth = said_number(&said, key).unwrap() as f64 / all;
        let share = through(&folded, &way).ns() as f64 / folded.ns() as f64;
        told += &format!("{key}: {truth:.3} of its time, {share:.3} of the profile\n");
        assert!((truth - share).abs() < 0.03, "{told}");
    }
    let whole = with_tables(&folded).whole();
    assert!(whole >= 0.995, "{whole} of the stacks are whole\n{told}");
    // C between two functions of Python, and below one.
    let (sorts, key) = (in_file("sorts"), in_file("key"));
    let sorted = through(&with_tables(&folded), &[&sorts, &key]);
    assert_eq!(
        sorted.ns(),
        through(&sorted, &["Py_BytesMain", &sorts, &key]).ns(),
        "the program's own frames are outside"
    );
    let is_apart = |line: &Line| line.frames.windows(2).all(|pair| pair[0] != sorts || pair[1] != key);
    assert_eq!(sorted.ns(), sorted.only(is_apart).ns(), "what sorts is C's");
    let hashes = in_file("hashes");
    let below = folded.only(|line| line.frames.last().is_some_and(|last| !last.contains(".py:")));
    let below = below.with(&hashes) as f64 / folded.with(&hashes) as f64;
    assert!(below > 0.9, "{below} of the hashing is C's");
    // The interpreter's own function does not stand beside what it runs.
    let bare = folded.share("_PyEval_EvalFrameDefault");
    assert!(bare < 0.02, "{bare}\n{told}");
    let deep = through(&folded, &[&in_file("deep"), &in_file("spend")]);
    let count = |line: &Line| line.frames.iter().filter(|it| **it == in_file("deep")).count();
    let full = deep.only(|line| count(line) == 51);
    assert!(full.ns() as f64 >= deep.ns() as f64 * 0.97, "{} of {}", full.ns(), deep.ns());
}

#[test]
fn waits_of_python_stand_where_it_waits() {
    need_program!("python3");
    let (folded, said) = profile_of(&Python::Host, &["--off-cpu"]);
    let truth = said_number(&said, "naps").unwrap() as f64;
    let naps = through(&folded, &[&in_file("sleeper"), &in_file("nap")]).ns() as f64;
    assert!((naps - truth).abs() < truth * 0.03, "{naps} of {truth}");
    // That one waits from before the profile begins until after it ends.
    let waits = folded.only(|line| line.has(&in_file("waits_for_ever")));
    assert!(waits.ns() as f64 > truth, "{} ns: {folded:#?}", waits.ns());
    assert!(with_tables(&folded).whole() >= 0.995, "{folded:#?}");
}
