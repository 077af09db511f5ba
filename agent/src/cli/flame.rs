//! `steth flame`: where CPU time and waiting time go, as a picture or for other tools; from a running agent or without one.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use tokio::sync::oneshot;

use super::{
    Failure, Outcome,
    agent::{Agent, Answer, encoded},
    configuration, past,
    reach::{Target, Where},
    signals::Stop,
    terminal,
};
use crate::{
    config::{
        Config,
        value::{parse_duration, show_duration},
    },
    model::{
        profile::{Drawing, Kind, Profile},
        sample::{ProfileRefused, ProfileRequest, Whose},
    },
    pipeline,
};

/// What `steth flame` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steth flame -p 4711                                one process, ten seconds of CPU time
  steth flame --service postgres:15/main --wall      a service, running and waiting
  steth flame --cgroup /kubepods/burstable           all containers of a class
  steth flame --all -d 30s -o host.html              the whole host, in a page with search, zoom and more
  steth flame --query 1f0c2a94b6d3e875 --wall        only while this Postgres statement was being served
  steth flame --slow 100ms --off-cpu                 only while slow Postgres requests were being served
  steth flame -p 4711 --syscalls 10ms                who made system calls that took 10 ms and more
  steth flame --all --queries 100ms                  who served, and who made, Postgres requests of 100 ms and more
  steth flame -p 4711 -o - | less                    folded stacks
  steth flame -p 4711 -o cpu.pb.gz                   for go tool pprof and stores of profiles
  steth flame --from 03:10 --to 03:15                what the host was doing then, as an agent has kept it
  steth flame -p 4711 --base before.pb.gz -o d.html  what it does now that it did not before
  steth flame --read cpu.pb.gz -o cpu.html           a saved profile, drawn in another way
  steth flame --from -10m --against -30m..-10m       what it does now that it did not before

A running agent is asked if there is one; else the kernel programs are loaded for as long as the profile lasts. Ctrl-C ends it
early and writes what there is. Fingerprints of statements are shown by `steth trace postgres` and /api/v1/postgres/queries.")]
pub struct Arguments {
    /// This process; may be given several times
    #[arg(short, long, value_name = "PID")]
    pid: Vec<u32>,
    /// This service; may be given several times
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// This control group and those in it, as in /proc/PID/cgroup; may be given several times
    #[arg(long, value_name = "/PATH", value_parser = control_group)]
    cgroup: Vec<String>,
    /// All processes
    #[arg(long, conflicts_with_all = ["pid", "service", "cgroup"])]
    all: bool,
    /// How long
    #[arg(short, long, value_name = "10s", value_parser = parse_duration, default_value = "10s")]
    duration: Duration,
    /// How often each CPU is looked at in a second
    #[arg(short = 'F', long, value_name = "HERTZ", default_value_t = 99)]
    frequency: u32,
    /// Time spent waiting, in place of time on a CPU
    #[arg(long, conflicts_with = "wall")]
    off_cpu: bool,
    /// Both
    #[arg(long)]
    wall: bool,
    /// Time in system calls that took at least this long, from 1ms on, by who made them
    #[arg(long, value_name = "10ms", value_parser = parse_duration, conflicts_with_all = ["off_cpu", "wall"])]
    syscalls: Option<Duration>,
    /// Time of Postgres requests that took at least this long, from 1ms on, by the stack of who served or made them at their end
    #[arg(long, value_name = "100ms", value_parser = parse_duration,
        conflicts_with_all = ["off_cpu", "wall", "syscalls", "slow"])]
    queries: Option<Duration>,
    /// Only while a Postgres statement with this fingerprint was being served
    #[arg(long, value_name = "FINGERPRINT")]
    query: Option<String>,
    /// Only while Postgres requests were being served that took at least this long
    #[arg(long, value_name = "100ms", value_parser = parse_duration)]
    slow: Option<Duration>,
    #[command(flatten)]
    past: past::Time,
    /// None is taken: this one, which was saved as .pb.gz or .folded
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pid", "service", "cgroup", "all", "duration", "frequency", "off_cpu",
        "wall", "syscalls", "queries", "query", "slow", "from", "agent", "alone"])]
    read: Option<PathBuf>,
    /// Compared with this one, which was saved before as .pb.gz or .folded
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    base: Option<PathBuf>,
    /// Where to: .svg, .html, .folded, .pb.gz or .json says what; `-` is stdout [default: an SVG named after target and time]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What to write, whatever the file is called: svg, html, folded, pprof or firefox
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// Callers above what they call
    #[arg(long)]
    icicle: bool,
    /// From the inside out: what ran or waited at the bottom
    #[arg(long)]
    reversed: bool,
    #[command(flatten)]
    place: Where,
    /// Load the kernel programs, whether an agent runs or not
    #[arg(long, conflicts_with_all = ["agent", "url"])]
    alone: bool,
    /// Configuration file [default: /etc/steth/steth.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "STETH_CONFIG")]
    config: Option<PathBuf>,
}

/// Beyond its length, a profile takes this long at most until it is drawn: up to 50 s for the stacks of threads that wait still, and
/// then names.
const GRACE: Duration = Duration::from_secs(150);
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(200);

/// Takes a profile and writes it.
///
/// # Errors
/// When the target does not exist, when no program can run that takes samples, or the file cannot be written.
pub fn flame(arguments: &Arguments) -> Outcome {
    if arguments.past.is_wanted() {
        return arguments.of_the_past();
    }
    if let Some(read) = &arguments.read {
        return arguments.of_a_file(read);
    }
    if arguments.pid.is_empty()
        && arguments.service.is_empty()
        && arguments.cgroup.is_empty()
        && !arguments.all
        && arguments.query.is_none()
        && arguments.slow.is_none()
    {
        return Err(Failure::usage(
            "whose profile? Give -p PID, --service NAME, --cgroup /PATH, --query, --slow, --all or --read FILE; see --help",
        ));
    }
    let format = arguments.format().map_err(Failure::usage)?;
    let config = configuration(arguments.config.as_deref(), vec![]).map_err(Failure::usage)?;
    let base = arguments.base()?;
    let file = arguments.file(&format);
    // Before time is spent on what could not be kept.
    let is_new = file.as_deref().map(reserve).transpose()?.unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let drawn = runtime.block_on(arguments.take(config, &format, base));
    runtime.shutdown_timeout(Duration::from_millis(500));
    match (drawn, file) {
        (Ok(drawn), file) => write(file.as_deref(), &drawn),
        (Err(failure), file) => {
            if let Some(file) = file.filter(|_| is_new) {
                let _ = fs::remove_file(file);
            }
            Err(failure)
        }
    }
}

/// Has an agent end a profile with what there is.
async fn end(target: &Target, ticket: &str) -> Result<(), Failure> {
    let gone = || Failure::failed(format!("the agent at {target} does not answer any more"));
    let agent = Agent::connect(target).await?.ok_or_else(gone)?;
    agent.post("/api/v1/flame", &serde_json::json!({ "end": ticket })).await?.whole().await.map(drop)
}

fn control_group(path: &str) -> Result<String, String> {
    if path.starts_with('/') { Ok(path.into()) } else { Err("a path as in /proc/PID/cgroup, beginning with /".into()) }
}

/// Sees to it that a file can be written; whether it is a new one.
fn reserve(file: &Path) -> Result<bool, Failure> {
    let is_new = fs::symlink_metadata(file).is_err();
    // As it is: what it holds is kept until there is something better.
    let opened = fs::File::options().append(true).create(true).open(file);
    opened.map(|_| is_new).map_err(|error| cannot_write(file, &error))
}

/// To a file, or to stdout.
fn write(file: Option<&Path>, drawn: &[u8]) -> Outcome {
    let Some(file) = file else {
        let mut out = std::io::stdout().lock();
        return match out.write_all(drawn).and_then(|()| out.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::failed(format!("cannot write to stdout: {error}")))
            }
            _ => Ok(()),
        };
    };
    fs::write(file, drawn).map_err(|error| cannot_write(file, &error))?;
    terminal::result(&format!("{}\n", file.display()))
}

fn cannot_write(file: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", file.display()))
}

impl Arguments {
    fn format(&self) -> Result<String, String> {
        match (&self.format, &self.output) {
            (Some(name), _) => pipeline::format_named(name),
            (None, Some(path)) if path.as_os_str() == "-" => Ok("folded".into()),
            (None, Some(path)) => pipeline::format_of_file(path),
            (None, None) => Ok("svg".into()),
        }
    }

    fn of_the_past(&self) -> Outcome {
        let format = self.format().map_err(Failure::usage)?;
        let config = configuration(self.config.as_deref(), vec![]).map_err(Failure::usage)?;
        let asked = past::Asked {
            config,
            place: self.place.clone(),
            alone: self.alone,
            services: self.service.clone(),
            drawing: self.drawing(&format),
        };
        write(self.file(&format).as_deref(), &self.past.take(asked)?)
    }

    fn of_a_file(&self, read: &Path) -> Outcome {
        let format = self.format().map_err(Failure::usage)?;
        let base = self.base()?;
        let profile = pipeline::read_profile_file(read).map_err(Failure::failed)?;
        let drawn = draw(&profile, base.as_ref(), &self.drawing(&format))?;
        write(self.file(&format).as_deref(), &drawn)
    }

    /// What is to be compared with.
    fn base(&self) -> Result<Option<Profile>, Failure> {
        self.base.as_deref().map(pipeline::read_profile_file).transpose().map_err(Failure::failed)
    }

    const fn kind(&self) -> Kind {
        match (self.off_cpu, self.wall) {
            (true, _) => Kind::OffCpu,
            (_, true) => Kind::Wall,
            _ if self.syscalls.is_some() => Kind::Syscalls,
            _ if self.queries.is_some() => Kind::Queries,
            _ => Kind::Cpu,
        }
    }

    async fn take(&self, config: Config, format: &str, base: Option<Profile>) -> Result<Vec<u8>, Failure> {
        let mut stop = Stop::listen().map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))?;
        let target = self.place.target(&config)?;
        let agent = if self.alone { None } else { Agent::connect(&target).await? };
        let enough = Arc::new(AtomicBool::new(false));
        // What it is ended by early; as good as unique among the profiles that one agent takes.
        let ticket = format!("{}-{}", std::process::id(), pipeline::stamp(SystemTime::now()));
        let mut through_agent = false;
        let work = match agent {
            Some(agent) => {
                through_agent = true;
                // What is compared is drawn here: the agent does not have the other.
                let path = self.path(if base.is_some() { "pprof" } else { format }, &ticket);
                let drawing = self.drawing(format);
                tokio::spawn(async move {
                    let answer = told(agent.ask(&path).await?).await?;
                    let Some(base) = base else { return Ok(answer) };
                    let mut profile = pipeline::read_profile(&answer).map_err(Failure::failed)?;
                    // They were said.
                    profile.notes.clear();
                    draw(&profile, Some(&base), &drawing)
                })
            }
            None if self.place.is_given() => {
                return Err(Failure::failed(format!(
                    "no agent answers at {target}; without --agent the kernel programs are loaded for the profile"
                )));
            }
            None => {
                let (answer, answered) = oneshot::channel();
                let (begun, begins) = oneshot::channel();
                let request = self.request(Arc::clone(&enough), begun, answer);
                let seconds = show_duration(self.duration);
                tokio::spawn(async move {
                    if begins.await.is_ok() && !std::io::stderr().is_terminal() {
                        terminal::talk(&format!("taking samples for {seconds}"));
                    }
                });
                let drawing = self.drawing(format);
                tokio::spawn(async move {
                    let taken = pipeline::profile(config, request).await;
                    let profile = match (answered.await, taken) {
                        (Ok(profile), _) => profile.map_err(refused)?,
                        (Err(_), Err(error)) => return Err(Failure::missing(error)),
                        (Err(_), Ok(())) => return Err(Failure::failed("the profile was lost")),
                    };
                    draw(&profile, base.as_ref(), &drawing)
                })
            }
        };
        let progress = Progress::begin(self.duration);
        let deadline = Instant::now() + self.duration + GRACE;
        let mut tick = tokio::time::interval(PROGRESS);
        let mut work = work;
        loop {
            tokio::select! {
                done = &mut work => {
                    progress.end();
                    return done.unwrap_or_else(|error| Err(Failure::failed(error)));
                }
                () = stop.wait(), if !enough.load(Ordering::Relaxed) => {
                    enough.store(true, Ordering::Relaxed);
                    if through_agent && let Err(failure) = end(&target, &ticket).await {
                        progress.end();
                        work.abort();
                        terminal::talk("ended before the profile was finished; nothing is written");
                        return Err(failure);
                    }
                }
                _ = tick.tick() => {
                    progress.show();
                    if Instant::now() > deadline {
                        return Err(Failure::failed("the profile does not get finished"));
                    }
                }
            }
        }
    }

    fn request(
        &self,
        enough: Arc<AtomicBool>,
        begun: oneshot::Sender<()>,
        answer: oneshot::Sender<Result<Arc<Profile>, ProfileRefused>>,
    ) -> ProfileRequest {
        ProfileRequest {
            whose: Whose { pids: self.pid.clone(), services: self.service.clone(), cgroups: self.cgroup.clone() },
            kind: self.kind(),
            length: self.duration,
            hertz: self.frequency,
            query: self.query.clone(),
            slow: self.slow,
            least: self.syscalls.or(self.queries).unwrap_or_default(),
            enough,
            begun: Some(begun),
            answer,
        }
    }

    fn drawing(&self, format: &str) -> Drawing {
        Drawing { format: format.into(), icicle: self.icicle, reversed: self.reversed }
    }

    /// The same as a request to the agent.
    fn path(&self, format: &str, ticket: &str) -> String {
        let mut path = format!("/api/v1/flame?seconds={}&format={format}", self.duration.as_secs_f64());
        let mut add = |name: &str, value: &str| path.push_str(&format!("&{name}={}", encoded(value)));
        let numbers: Vec<String> = self.pid.iter().map(u32::to_string).collect();
        if !numbers.is_empty() {
            add("pid", &numbers.join(","));
        }
        if !self.service.is_empty() {
            add("service", &self.service.join(","));
        }
        if !self.cgroup.is_empty() {
            add("cgroup", &self.cgroup.join(","));
        }
        add("kind", self.kind().name());
        add("frequency", &self.frequency.to_string());
        if let Some(query) = &self.query {
            add("query", query);
        }
        if let Some(slow) = self.slow {
            add("slow", &show_duration(slow));
        }
        if let Some(least) = self.syscalls {
            add("syscalls", &show_duration(least));
        }
        if let Some(least) = self.queries {
            add("queries", &show_duration(least));
        }
        add("ticket", ticket);
        if self.icicle {
            add("icicle", "true");
        }
        if self.reversed {
            add("reversed", "true");
        }
        path
    }

    /// Where to; `None` is stdout.
    fn file(&self, format: &str) -> Option<PathBuf> {
        match &self.output {
            Some(path) if path.as_os_str() == "-" => None,
            Some(path) => Some(path.clone()),
            None => Some(self.default_path(format)),
        }
    }

    /// Named after the target and the time.
    fn default_path(&self, format: &str) -> PathBuf {
        let pids = self.pid.iter().map(u32::to_string);
        let target: Vec<String> = pids
            .chain(self.service.iter().cloned())
            .chain(self.cgroup.iter().cloned())
            .chain(self.query.clone())
            .chain(self.read.as_deref().and_then(Path::file_stem).map(|name| name.to_string_lossy().into_owned()))
            .collect();
        let target = if target.is_empty() { "all".into() } else { target.join("-") };
        let safe: String =
            target.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
        let safe: String = safe.chars().take(80).collect();
        PathBuf::from(format!("flame-{safe}-{}{}", pipeline::stamp(SystemTime::now()), pipeline::ending(format)))
    }
}

pub(super) fn refused(refused: ProfileRefused) -> Failure {
    match refused {
        ProfileRefused::Impossible(_) | ProfileRefused::Kernel(_) => {
            Failure::missing(format!("{refused}; steth doctor says more"))
        }
        ProfileRefused::OutOfRange(_) => Failure::usage(refused),
        ProfileRefused::NoProcess(_) | ProfileRefused::NoPast(_) | ProfileRefused::TooMany(_) => {
            Failure::failed(refused)
        }
    }
}

/// The whole answer of an agent; says its notes.
pub(super) async fn told(answer: Answer) -> Result<Vec<u8>, Failure> {
    answer.notes().for_each(terminal::talk);
    answer.whole().await
}

pub(super) fn draw(profile: &Profile, baseline: Option<&Profile>, drawing: &Drawing) -> Result<Vec<u8>, Failure> {
    profile.notes.iter().for_each(|note| terminal::talk(note));
    for note in baseline.into_iter().flat_map(|it| &it.notes) {
        terminal::talk(&format!("compared with a profile that {note}"));
    }
    if let Some(baseline) = baseline {
        pipeline::comparable(profile, baseline).map_err(Failure::failed)?;
    }
    pipeline::draw(profile, baseline, drawing).map(|drawn| drawn.bytes).map_err(Failure::failed)
}

/// A bar on a terminal; nothing elsewhere.
struct Progress {
    began: Instant,
    length: Duration,
    shown: bool,
}

impl Progress {
    fn begin(length: Duration) -> Self {
        Self { began: Instant::now(), length, shown: std::io::stderr().is_terminal() }
    }

    fn show(&self) {
        const WIDTH: usize = 30;
        if !self.shown {
            return;
        }
        let passed = self.began.elapsed().min(self.length);
        let filled = (passed.as_secs_f64() / self.length.as_secs_f64() * WIDTH as f64) as usize;
        let what = if passed == self.length { "finding names" } else { "sampling" };
        let bar = format!("{}{}", "#".repeat(filled), "-".repeat(WIDTH.saturating_sub(filled)));
        let _ = write!(
            std::io::stderr(),
            "\r{what} [{bar}] {:.0} of {:.0} s \x1b[K",
            passed.as_secs_f64(),
            self.length.as_secs_f64()
        );
    }

    fn end(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
