//! Everything that comes and goes on a host, at a high rate, each in a thread of its own. Knows how each is done, not what it
//! does to the agent.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{Scope, ScopedJoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    agent::Agent,
    http,
    pgwire::Session,
    postgres::Postgres,
    process::{self, Process},
    programs::{Program, SHORT_LIVED, SPAWNER},
};

const SOON: Duration = Duration::from_secs(60);

/// What is done again and again, and how often a second at most.
const PARTS: [(&str, Duration, Part); 7] = [
    ("processes", Duration::from_millis(400), processes),
    ("services of new names", Duration::from_millis(1_000), services),
    ("connections with new statements", Duration::from_millis(20), statements),
    ("libraries with OpenSSL", Duration::from_secs(4), libraries),
    ("profiles", Duration::from_secs(5), profiles),
    ("scrapes", Duration::from_millis(50), scrapes),
    ("reloads", Duration::from_secs(10), reloads),
];

/// Tries of all parts that may fail before all of it has failed.
const MOST_IN_VAIN: u64 = 100;

/// Does its part once; says how many of it were done.
type Part = fn(&Place<'_>, u64) -> Result<u64>;

/// Where it is done.
struct Place<'a> {
    agent: &'a Agent,
    postgres: &'a Postgres,
    folder: PathBuf,
    spawner: Program,
    short: Program,
}

/// How much was done of each.
#[derive(Debug)]
pub struct Done {
    counts: [u64; PARTS.len()],
    in_vain: u64,
}

/// All of it, under way.
pub struct Churn<'scope> {
    over: Arc<AtomicBool>,
    counts: Arc<[AtomicU64; PARTS.len()]>,
    in_vain: Arc<AtomicU64>,
    threads: Vec<ScopedJoinHandle<'scope, Result<()>>>,
}

impl<'scope> Churn<'scope> {
    /// Begins with all.
    pub fn begin<'a: 'scope>(scope: &'scope Scope<'scope, '_>, agent: &'a Agent, postgres: &'a Postgres) -> Self {
        let (over, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(std::array::from_fn(|_| AtomicU64::new(0))));
        let in_vain = Arc::new(AtomicU64::new(0));
        let begin = |(place, (what, pause, part)): (usize, &(&'static str, Duration, Part))| {
            let (over, counts): (_, Arc<[AtomicU64; PARTS.len()]>) = (Arc::clone(&over), Arc::clone(&counts));
            let (what, pause, part, in_vain) = (*what, *pause, *part, Arc::clone(&in_vain));
            scope.spawn(move || {
                let folder = tempfile::Builder::new().prefix("steth-soak-").tempdir()?;
                let at = Place {
                    agent,
                    postgres,
                    folder: folder.path().to_owned(),
                    spawner: Program::build("spwn", SPAWNER)?,
                    short: Program::build("shrt", SHORT_LIVED)?,
                };
                for turn in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    match part(&at, turn) {
                        Ok(count) => drop(counts[place].fetch_add(count, Ordering::Relaxed)),
                        // Such as an answer that takes longer than is waited for.
                        Err(error) if in_vain.fetch_add(1, Ordering::Relaxed) < MOST_IN_VAIN => {
                            eprintln!("{what}, turn {turn}: {error:#}");
                        }
                        Err(error) => return Err(error.context(format!("{what}, turn {turn}"))),
                    }
                    std::thread::sleep(pause);
                }
                Ok(())
            })
        };
        let threads = PARTS.iter().enumerate().map(begin).collect();
        Self { over, counts, in_vain, threads }
    }

    /// Whether none has failed yet.
    pub fn goes_on(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Ends all of it.
    ///
    /// # Errors
    /// What a part failed with.
    pub fn end(mut self) -> Result<Done> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a part panicked")?;
        }
        let counts = std::array::from_fn(|place| self.counts[place].load(Ordering::Relaxed));
        Ok(Done { counts, in_vain: self.in_vain.load(Ordering::Relaxed) })
    }
}

/// Whoever leaves early is not waited for in vain.
impl Drop for Churn<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl fmt::Display for Done {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> =
            PARTS.iter().zip(self.counts).map(|((what, ..), count)| format!("{count} {what}")).collect();
        write!(formatter, "{}; {} tries were in vain", all.join(", "), self.in_vain)
    }
}

fn processes(at: &Place<'_>, _: u64) -> Result<u64> {
    let short = at.short.path.to_str().context("a path that is no text")?;
    at.spawner.run(&["40", "20", short]).map(|_| 60)
}

/// A program that nobody has met yet, and that nobody meets again.
fn services(at: &Place<'_>, _: u64) -> Result<u64> {
    at.short.under_another_name("new")?.run(&[]).map(|_| 1)
}

fn statements(at: &Place<'_>, turn: u64) -> Result<u64> {
    let mut session = Session::open(at.postgres, "postgres")?;
    session.prepare("own", &format!("select $1::int as prepared_{turn}"))?;
    for statement in
        [format!("select {turn} as c{turn}"), "select no_such_column".into(), "begin; select 1; commit".into()]
    {
        session.query(&statement)?;
    }
    session.execute("own", &["1"]).map(|_| 1)
}

/// A file of its own that somebody has mapped for a second; then both are gone.
fn libraries(at: &Place<'_>, turn: u64) -> Result<u64> {
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";
    if !Path::new(LIBRARY).exists() {
        return Ok(0);
    }
    let own = at.folder.join(format!("libssl-{turn}.so.3"));
    fs::copy(LIBRARY, &own)?;
    let mut sleep = process::command("sleep", None);
    sleep.arg("1").env("LD_PRELOAD", &own);
    Process::start("sleep", sleep)?.finish(SOON)?;
    fs::remove_file(&own)?;
    Ok(1)
}

fn profiles(at: &Place<'_>, turn: u64) -> Result<u64> {
    let what = ["kind=cpu", "kind=off-cpu", "kind=wall"][(turn % 3) as usize];
    let answer = http::get(&format!("http://{}/api/v1/flame?seconds=1&{what}", at.agent.address()))?;
    // One that is under way ends where programs are loaded anew.
    ensure!([200, 404, 409, 503].contains(&answer.status), "{}: {}", answer.status, answer.body);
    Ok(1)
}

fn scrapes(at: &Place<'_>, turn: u64) -> Result<u64> {
    if turn.is_multiple_of(20) {
        at.agent.get_json("/api/v1/events")?;
        at.agent.get_json("/api/v1/postgres/slow")?;
    }
    at.agent.scrape_raw().map(|_| 1)
}

/// The same settings, others, and features that are switched, which loads all programs anew.
fn reloads(at: &Place<'_>, turn: u64) -> Result<u64> {
    match turn % 6 {
        0 => at.agent.reload("level = \"info\"", "level = \"warn\"")?,
        1 => at.agent.reload("level = \"warn\"", "level = \"info\"")?,
        2 => at.agent.reload("[log]", "[probes]\nwall = false\n[log]")?,
        3 => at.agent.reload("[probes]\nwall = false\n[log]", "[log]")?,
        _ => at.agent.signal("HUP")?,
    }
    Ok(1)
}
