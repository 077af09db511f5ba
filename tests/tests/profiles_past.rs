//! Profiles of the past: what ended minutes ago, or before the agent was killed, still has an answer.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use steth_tests::{
    agent::{Agent, Options, steth},
    flame::Folded,
    http,
    programs::{Program, TWO_PATHS},
    wait,
};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);
const BARE: &[&str] = &["-O2", "-fomit-frame-pointer", "-g"];

/// Where an agent keeps its pieces, and a configuration that says so.
struct Kept(TempDir);

impl Kept {
    fn new() -> Self {
        let kept = Self(tempfile::Builder::new().prefix("steth-past-").tempdir().unwrap());
        fs::write(kept.config(), format!("[profile]\nfolder = \"{}\"\npiece = \"1s\"\n", kept.folder())).unwrap();
        kept
    }

    fn folder(&self) -> String {
        self.0.path().join("pieces").to_str().unwrap().to_owned()
    }

    fn config(&self) -> String {
        self.0.path().join("steth.toml").to_str().unwrap().to_owned()
    }

    fn start(&self, piece: &str) -> Agent {
        // As often as may be: a second then has enough samples.
        let sections = format!("[profile]\nhertz = 99\npiece = \"{piece}\"\n");
        Agent::start(&Options { sections, profiles: Some(self.folder().into()), ..Options::default() }).unwrap()
    }

    /// The ends of the pieces, in milliseconds since the Unix epoch.
    fn ends(&self) -> Vec<u64> {
        let end = |name: &str| name.strip_suffix(".json.gz")?.rsplit_once('-')?.1.parse().ok();
        let files = fs::read_dir(self.folder()).into_iter().flatten();
        files.filter_map(|file| end(file.unwrap().file_name().to_str()?)).collect()
    }

    /// Waits until all that has happened so far is in pieces; returns when the last of them ends.
    fn wait_for_all(&self) -> u64 {
        // On a busy host a sample may come a piece later than it was taken: it is followed when its unwind table is made.
        let late = now_ms() + 1_000;
        let written = || Ok(self.ends().into_iter().filter(|end| *end >= late).min());
        wait::poll("a piece that ends a second from now", SOON, written).unwrap()
    }

    /// From the files alone.
    fn read(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let config = self.config();
        steth(&[&["flame", "--alone", "--config", &config, "-o", "-"], arguments].concat()).unwrap()
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A second on known paths.
fn run(program: &Program) {
    let mut process = program.start(&["1", "1"]).unwrap();
    process.wait_for_line("that it is ready", SOON, |line| line.contains("ready").then_some(())).unwrap();
    process.say("go").unwrap();
    process.finish(SOON).unwrap();
}

/// Runs it, again if need be, until its functions are in the profile with their callers: its unwind table is made behind those of
/// all that runs on this host. The piece under way is among what is asked for.
fn run_until_whole(agent: &Agent, program: &Program) -> Folded {
    wait::poll("whole stacks of the past", SOON, || {
        run(program);
        let folded = asked(agent, &program.name);
        let is_whole = ["left5", "right5", "down"].iter().all(|frame| folded.with(frame) > 0);
        Ok(is_whole.then_some(folded))
    })
    .unwrap()
}

/// The last ten minutes of a service, as the agent tells them. Finding names takes its time on a host where much runs.
fn asked(agent: &Agent, service: &str) -> Folded {
    let arguments = ["flame", "--agent", agent.address(), "--from", "-10m", "--service", service, "-o", "-"];
    let (code, out, talk) = steth(&arguments).unwrap();
    assert!(code == Some(0) && talk.contains("covers "), "{code:?} {talk}");
    Folded::read(&out).unwrap()
}

#[test]
fn a_program_that_has_ended_is_in_the_past_even_if_the_agent_was_killed() {
    let program = Program::build_with("past", TWO_PATHS, BARE).unwrap();
    let kept = Kept::new();
    let agent = kept.start("1s");
    let first = run_until_whole(&agent, &program);
    kept.wait_for_all();
    // Drops it as SIGKILL does.
    drop(agent);
    let (code, out, talk) = kept.read(&["--from", "-10m", "--service", &program.name]);
    assert!(code == Some(0) && talk.contains("covers "), "{code:?} {talk}");
    let from_files = Folded::read(&out).unwrap();
    assert_eq!(from_files.ns(), first.ns());
    let again = kept.start("1s");
    assert_eq!(asked(&again, &program.name).ns(), first.ns());
}

#[test]
fn two_periods_are_compared() {
    let program = Program::build_with("before", TWO_PATHS, BARE).unwrap();
    let later = program.under_another_name("after").unwrap();
    let kept = Kept::new();
    let agent = kept.start("1s");
    let begun = now_ms();
    run(&program);
    let cut = kept.wait_for_all();
    run(&later);
    let end = kept.wait_for_all();
    let moment = rfc3339;
    let against = format!("{}..{}", moment(begun), moment(cut));
    let (code, out, talk) = kept.read(&["--from", &moment(cut), "--to", &moment(end), "--against", &against]);
    assert_eq!(code, Some(0), "{talk}");
    for (name, is_before) in [(&program.name, true), (&later.name, false)] {
        let lines: Vec<&str> = out.lines().filter(|line| line.starts_with(&format!("{name};"))).collect();
        assert!(!lines.is_empty(), "{name} is not in\n{out}");
        for line in lines {
            let mut numbers = line.rsplit(' ').map_while(|number| number.parse::<u64>().ok());
            let (after, before) = (numbers.next().unwrap(), numbers.next().unwrap());
            assert_eq!((before > 0, after > 0), (is_before, !is_before), "{line}");
        }
    }
    let query = format!("from={0}&to={1}&against_from={2}&against_to={0}", moment(cut), moment(end), moment(begun));
    for (format, code) in [("svg", 200), ("html", 200), ("pprof", 400)] {
        let url = format!("http://{}/api/v1/flame?format={format}&{query}", agent.address());
        assert_eq!(http::get(&url).unwrap().status, code, "{format}");
    }
}

/// By the program that everybody has.
fn rfc3339(ms: u64) -> String {
    let date = std::process::Command::new("date").args(["-u", "+%FT%T", "-d", &format!("@{}", ms / 1000)]).output();
    format!("{}.{:03}Z", String::from_utf8(date.unwrap().stdout).unwrap().trim(), ms % 1000)
}

#[test]
fn a_clean_end_keeps_the_piece_under_way() {
    let program = Program::build_with("last", TWO_PATHS, BARE).unwrap();
    let kept = Kept::new();
    let agent = kept.start("1h");
    // Most names are found by then; the end does not wait for long.
    run_until_whole(&agent, &program);
    assert!(agent.stop().unwrap().success());
    let (code, out, talk) = kept.read(&["--from", "-10m", "--service", &program.name]);
    assert_eq!(code, Some(0), "{talk}");
    assert!(Folded::read(&out).unwrap().with("left5") > 0, "{out}");
}

#[test]
fn where_nothing_is_kept_the_answer_says_so() {
    let kept = Kept::new();
    let (code, _, talk) = kept.read(&["--from", "-10m"]);
    assert!(code == Some(1) && talk.contains("no profile is kept of ") && talk.contains("profile.hertz"), "{talk}");
    let agent = kept.start("1s");
    kept.wait_for_all();
    let (code, _, talk) = kept.read(&["--from", "2001-01-01T00:00", "--to", "2001-01-01T00:10"]);
    assert!(code == Some(1) && talk.contains("what is kept begins at "), "{talk}");
    let url = format!("http://{}/api/v1/flame?from=2001-01-01T00:00&to=2001-01-01T00:10", agent.address());
    assert_eq!(http::get(&url).unwrap().status, 404);
    let none = asked(&agent, "no-such.service");
    assert_eq!(none.ns(), 0);
}

#[test]
fn a_folder_that_cannot_be_written_is_said_once_and_costs_nothing_else() {
    let program = Program::build_with("lossy", TWO_PATHS, BARE).unwrap();
    let kept = Kept::new();
    fs::write(kept.folder(), "no folder").unwrap();
    let agent = kept.start("1s");
    let labels = [("map", "pieces"), ("reason", "not_written")];
    let lost = |least: f64| {
        let met = move |metrics: &steth_tests::exposition::Exposition| {
            metrics.sum("steth_records_lost_total", &labels) >= least
        };
        agent.scrape_until("pieces that could not be written", met).unwrap();
    };
    lost(2.0);
    let said = agent.log().lines().filter(|line| line.contains("profiles of the past are not kept in ")).count();
    assert_eq!(said, 1, "{}", agent.log());
    run(&program);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn who_only_looks_keeps_nothing() {
    let kept = Kept::new();
    // Longer than a piece.
    let (code, _, talk) = kept.read(&["--all", "-d", "2s"]);
    assert_eq!(code, Some(0), "{talk}");
    let (code, ..) = steth(&["doctor", "--config", &kept.config()]).unwrap();
    assert_eq!(code, Some(0));
    assert!(!Path::new(&kept.folder()).exists());
}
