//! Profiles against what programs know of themselves: which part of their time went where, and that stacks are whole.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options},
    flame::{Flame, Folded, Line, flame},
    need_postgres,
    pgwire::Session,
    postgres::{Postgres, USER},
    process::Process,
    programs::{LIBRARY, Program, TWO_PATHS, WAITS, said_number},
    wait,
};

const SOON: Duration = Duration::from_secs(60);
/// Without frame pointers; the most that the compiler does.
const BARE: &[&str] = &["-O2", "-fomit-frame-pointer", "-g"];
const FRAMED: &[&str] = &["-O2", "-fno-omit-frame-pointer", "-g"];

/// The parts that the program says its paths took, of all, and those that the profile has.
fn compare(folded: &Folded, said: &str) -> String {
    let all = said_number(said, "all").unwrap() as f64;
    let mut told = String::new();
    for (key, frame) in [("left", "left5"), ("right", "right5"), ("down", "down"), ("handler", "handler_works")] {
        let truth = said_number(said, key).unwrap() as f64 / all;
        let share = folded.share(frame);
        told += &format!("{key}: {truth:.3} of its time, {share:.3} of the profile\n");
        assert!((truth - share).abs() < 0.03, "{told}");
    }
    told
}

/// Of the whole run of a program, and what it said.
fn profile_of(program: &Program, arguments: &[&str], options: &[&str]) -> (Folded, String) {
    let mut process = program.start(arguments).unwrap();
    let child = arguments.contains(&"fork").then(|| {
        let pid = |line: &str| line.strip_prefix("pid=").map(str::to_owned);
        process.wait_for_line("its child", SOON, pid).unwrap()
    });
    process.wait_for_line("that it is ready", SOON, |line| line.contains("ready").then_some(())).unwrap();
    let pid = child.unwrap_or_else(|| process.id().to_string());
    let flame = Flame::begin(&[&["-p", &pid, "-d", "60s"], options].concat()).unwrap();
    process.say("go").unwrap();
    process.wait(SOON).unwrap();
    (flame.end(true).unwrap(), process.log())
}

#[test]
fn shares_are_right_and_stacks_whole_with_and_without_frame_pointers() {
    for flags in [BARE, FRAMED] {
        let program = Program::build_with("paths", TWO_PATHS, flags).unwrap();
        for arguments in [&["3", "1"][..], &["3", "1", "signal"], &["3", "1", "fork"], &["3", "12"]] {
            let (folded, said) = profile_of(&program, arguments, &["-F", "997"]);
            let told = compare(&folded, &said);
            let whole = folded.whole();
            assert!(whole >= 0.995, "{flags:?} {arguments:?}: {whole} of the stacks are whole\n{told}");
            let deep = folded.only(|line| line.frames.iter().any(|frame| frame == "down"));
            let full = deep.only(|line| line.frames.iter().filter(|frame| *frame == "down").count() >= 200);
            // What is taken on the way down and up has fewer.
            assert!(full.ns() * 10 >= deep.ns() * 9, "{flags:?} {arguments:?}: deep stacks are cut");
        }
    }
}

/// A thousand samples that fell anywhere would be off by as much; on long stretches they are spread evenly.
#[test]
fn shares_are_right_at_the_rate_that_is_taken_unless_another_is_given() {
    let program = Program::build_with("paths", TWO_PATHS, BARE).unwrap();
    let (folded, said) = profile_of(&program, &["10", "1", "long"], &[]);
    let told = compare(&folded, &said);
    assert!(folded.whole() >= 0.995, "{told}\n{folded:#?}");
    let own = folded.only(|line| line.has("run"));
    let main = own.share("main");
    assert!(main >= 0.995, "{main} of it from main\n{told}");
}

#[test]
fn a_library_that_is_opened_later_is_followed() {
    let program = Program::build_with("paths", TWO_PATHS, BARE).unwrap();
    let source = program.folder().join("library.c");
    let library = program.folder().join("libthrough.so");
    std::fs::write(&source, LIBRARY).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-fomit-frame-pointer", "-shared", "-fPIC", "-o"]).args([&library, &source]);
    assert!(gcc.status().unwrap().success());
    let (folded, said) = profile_of(&program, &["3", "1", "library", library.to_str().unwrap()], &["-F", "997"]);
    let told = compare(&folded, &said);
    let through = folded.share("through_library");
    assert!((through - folded.share("left9")).abs() < 0.01, "{through}\n{told}");
    let not_whole_ms = (1.0 - folded.whole()) * folded.ns() as f64 / 1e6;
    println!("stacks through a library opened later were not whole for {not_whole_ms:.1} ms");
    assert!(folded.whole() >= 0.995);
}

#[test]
fn waits_weigh_what_they_last_also_on_the_move() {
    let program = Program::build_with("waits", WAITS, BARE).unwrap();
    let written = program.folder().join("written");
    let (folded, said) = profile_of(&program, &["4", written.to_str().unwrap()], &["--off-cpu", "-F", "997"]);
    let is_of_main =
        |line: &Line| line.frames.iter().any(|it| it == "main") && !line.frames.iter().any(|it| it == "getchar");
    let main = folded.only(is_of_main);
    let number = |key: &str| said_number(&said, key).unwrap() as f64;
    let truth = number("wall") - number("cpu");
    let told: String = ["sleeps", "naps", "reads_pipe", "takes_lock", "writes_disk", "works"]
        .map(|key| format!("{key}: {:.3} s, profile {:.3} s\n", number(key) / 1e9, main.with(key) as f64 / 1e9))
        .concat();
    let missing = (truth - main.ns() as f64) / truth;
    let told = format!("{told}all: {:.3} s, profile {:.3} s", truth / 1e9, main.ns() as f64 / 1e9);
    // Before the program was told to begin it waited for that.
    assert!(missing.abs() < 0.02, "{told}");
    // How long the disk takes is its own affair, nothing in a file system in memory.
    for key in ["sleeps", "naps", "reads_pipe", "takes_lock", "writes_disk"] {
        let (truth, share) = (number(key) / truth, main.share(key));
        assert!((truth - share).abs() < 0.03, "{key}: {truth:.3}, profile {share:.3}\n{told}");
    }
    assert!(folded.whole() >= 0.995, "{told}\n{folded:#?}");
    println!("{told}");
}

#[test]
fn long_system_calls_are_told_with_who_made_them_and_short_ones_are_not() {
    let program = Program::build_with("waits", WAITS, BARE).unwrap();
    let (folded, said) = profile_of(&program, &["4"], &["--syscalls", "10ms"]);
    let truth = said_number(&said, "sleeps").unwrap() as f64;
    let told = folded.only(|line| line.frames.iter().any(|it| it == "sleeps"));
    let share = told.ns() as f64 / truth;
    // A call lasts until its thread has a CPU again; what the program says is the time that it was off it.
    assert!((0.98..1.1).contains(&share), "{share}: {folded:#?}");
    assert!(told.0.iter().all(|line| line.frames.last().is_some_and(|it| it == "clock_nanosleep_[k]")), "{told:#?}");
    assert!(told.whole() >= 0.995, "{told:#?}");
    assert_eq!(folded.with("naps"), 0, "{folded:#?}");
    let read = folded.only(|line| line.frames.last().is_some_and(|it| it == "read_[k]"));
    assert!(read.with("reads_pipe") > 0, "{folded:#?}");
}

#[test]
fn who_runs_through_the_whole_profile_is_not_said_to_wait_for_it() {
    let program = Program::build_with("paths", TWO_PATHS, BARE).unwrap();
    let mut process = program.start(&["60", "1"]).unwrap();
    process.wait_for_line("that it is ready", SOON, |line| line.contains("ready").then_some(())).unwrap();
    process.say("go").unwrap();
    let flame = Flame::begin(&["-p", &process.id().to_string(), "-d", "1s", "--wall", "-F", "499"]).unwrap();
    let begun = Instant::now();
    let folded = flame.end(false).unwrap();
    let (told, most) = (folded.ns() as f64 / 1e9, begun.elapsed().as_secs_f64() * 1.05 + 0.1);
    assert!((0.9..most).contains(&told), "{told} s of at most {most}: {folded:#?}");
    process.signal("KILL").unwrap();
}

#[test]
fn who_sleeps_through_the_whole_profile_is_in_it() {
    let mut sleeper = steth_tests::process::command("sleep", None);
    sleeper.arg("100");
    let process = steth_tests::process::Process::start("sleep", sleeper).unwrap();
    let flame = Flame::begin(&["-p", &process.id().to_string(), "-d", "1s", "--wall"]).unwrap();
    let begun = Instant::now();
    let folded = flame.end(false).unwrap();
    // From the samples' end to that of the program names are found.
    let (waited, most) = (folded.ns() as f64 / 1e9, begun.elapsed().as_secs_f64() + 0.1);
    assert!((0.98..most).contains(&waited), "{waited} s: {folded:#?}");
    // `_main` is what it is called in the C library's own table, `_call_main` is known with its debug information only.
    assert!(folded.0.iter().all(|line| line.frames.iter().any(|it| it.starts_with("__libc_start_"))), "{folded:#?}");
}

/// The name of the server's service, as the agent tells it, and the fingerprint of a statement with this text.
fn server(agent: &Agent, database: &str, text: &str) -> (String, String) {
    let path = format!("/api/v1/postgres/queries?role=server&database={database}&limit=100");
    let found = wait::poll(&format!("a statement with {text}"), SOON, || {
        let answer = agent.get_json(&path)?;
        let all = answer["queries"].as_array().unwrap();
        let has_text = |it: &&Value| it["statement"].as_str().is_some_and(|statement| statement.contains(text));
        Ok(all.iter().find(has_text).cloned())
    });
    let found = found.unwrap();
    (found["service"].as_str().unwrap().into(), found["query"].as_str().unwrap().into())
}

/// Two sessions that ask one thing each, again and again, until this is dropped.
struct Load(Arc<AtomicBool>, Vec<JoinHandle<()>>);

impl Load {
    fn begin(postgres: &Postgres, database: &str, statements: &[&'static str]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let work = |statement: &'static str| {
            let (mut session, over) = (Session::open(postgres, database).unwrap(), Arc::clone(&over));
            session.query(statement).unwrap();
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    session.query(statement).unwrap();
                }
            })
        };
        let threads = statements.iter().map(|statement| work(statement)).collect();
        Self(over, threads)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Nearly all of whose time goes through functions that no other calls.
const LOOPS: &str = "select loops(300000)";
const HASHES: &str = "select count(*) from generate_series(1, 60) i where md5(repeat('a', 90000 + i)) = ''";
const LOOPS_ARE: &str = "create function loops(n int) returns bigint language plpgsql as $$ declare s bigint := 0; begin \
                         for i in 1..n loop s := s + i % 7; end loop; return s; end $$";

#[test]
fn the_stacks_of_a_database_are_whole_and_each_query_has_its_own() {
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    postgres.psql(&database, LOOPS_ARE).unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    let load = Load::begin(&postgres, &database, &[LOOPS, HASHES]);
    let (service, loops) = server(&agent, &database, "loops");
    let (_, hashes) = server(&agent, &database, "repeat");
    let through = ["--agent", agent.address()];
    let pgbench = |arguments: &[&str]| {
        let mut pgbench = postgres.program("pgbench");
        pgbench.args(["-U", USER, "-h", "127.0.0.1", "-p", &postgres.port.to_string()]).args(arguments).arg(&database);
        Process::start("pgbench", pgbench).unwrap()
    };
    pgbench(&["-i", "-q"]).finish(Duration::from_secs(60)).unwrap();
    let beside = pgbench(&["-n", "-S", "-M", "prepared", "-c", "2", "-T", "3600"]);
    for kind in [&[][..], &["--off-cpu"]] {
        let folded = flame(&[&through[..], &["--service", &service, "-d", "2s", "-F", "499"], kind].concat()).unwrap();
        let (whole, main) = (folded.whole(), folded.share("main"));
        println!("{kind:?}: whole {whole:.4}, from main {main:.4}");
        assert!(folded.ns() > 0 && whole >= 0.995 && main >= 0.995, "{kind:?}: {whole}, {main}");
    }
    drop(beside);
    for (query, own) in [(&loops, &["plpgsql_call_handler"][..]), (&hashes, &["md5_text", "repeat"])] {
        let folded = flame(&[&through[..], &["--query", query, "-d", "2s", "-F", "499"]].concat()).unwrap();
        let others = folded.only(|line| !own.iter().any(|function| line.has(function)));
        let share = 1.0 - others.ns() as f64 / folded.ns() as f64;
        println!("{own:?}: {share:.3} of the profile of their query");
        assert!(share >= 0.95, "{own:?}: {share} of the profile of their query; beside it {others:#?}");
    }
    drop(load);
}

#[test]
fn the_profile_of_slow_requests_holds_no_others() {
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    let slow = "select sum(length(md5(i::text))) from generate_series(1, 2000000) i";
    let load = Load::begin(&postgres, &database, &[slow, "select count(*) from generate_series(1, 2000)"]);
    let through = ["--agent", agent.address(), "-d", "5s", "-F", "997"];
    let (_, query) = server(&agent, &database, "md5");
    let slow = flame(&[&through[..], &["--slow", "400ms"]].concat()).unwrap();
    let own = flame(&[&through[..], &["--query", &query]].concat()).unwrap();
    drop(load);
    let hashing = |folded: &Folded| {
        let hashes = folded.only(|line| line.frames.iter().any(|frame| frame.contains("md5")));
        hashes.ns() as f64 / folded.ns() as f64
    };
    // Samples of the other statement, which never hashes and runs as long, would halve its share.
    let (slow, own) = (hashing(&slow), hashing(&own));
    assert!(own > 0.3 && slow > 0.75 * own, "{slow} of the slow requests hash, {own} of that statement");
}

#[test]
fn the_agent_tells_of_each_sample_and_its_walk() {
    let program = Program::build_with("paths", TWO_PATHS, BARE).unwrap();
    let agent = Agent::start(&Options { sections: "[profile]\nhertz = 0\n".into(), ..Options::default() }).unwrap();
    let mut process = program.start(&["20", "1"]).unwrap();
    process.wait_for_line("that it is ready", SOON, |line| line.contains("ready").then_some(())).unwrap();
    process.say("go").unwrap();
    let pid = process.id().to_string();
    let folded = flame(&["--agent", agent.address(), "-p", &pid, "-d", "1s", "-F", "100"]).unwrap();
    // Each stands for a hundredth of a second.
    let drawn = folded.ns() / 10_000_000;
    assert!(drawn > 0 && folded.ns().is_multiple_of(10_000_000), "{folded:#?}");
    let told = agent.settled().unwrap();
    let samples = |trigger| told.sum("steth_profile_samples_total", &[("trigger", trigger)]);
    let [always, demand, wait] = ["always", "demand", "wait"].map(samples);
    // The clock of each processor may tick once more while it is stopped.
    assert!((drawn as f64..=drawn as f64 + 2.0).contains(&demand), "{demand} samples, {drawn} drawn");
    assert_eq!((always, wait), (0.0, 0.0));
    assert_eq!(told.sum("steth_profile_walk_seconds_count", &[]), demand);
    let incomplete = told.sum("steth_profile_stacks_incomplete_total", &[]);
    let drawn_so = (1.0 - folded.whole()) * drawn as f64;
    assert!(
        (drawn_so.round()..=drawn_so.round() + 2.0).contains(&incomplete),
        "{incomplete} are not whole: {folded:#?}"
    );
    let rows = |name| told.sum(name, &[]);
    assert!(rows("steth_unwind_tables") >= 2.0, "the program and its libc");
    assert!(rows("steth_unwind_rows") > 0.0 && rows("steth_unwind_rows") <= rows("steth_unwind_rows_limit"));
}
