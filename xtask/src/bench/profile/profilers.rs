//! Who takes profiles: steth through an agent, perf, BCC's profile. Each is run over the same load in the same way.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::load::{NAME, Program};
use crate::bench::{
    Context,
    agent::Agent,
    bpf, interrupt,
    process::{self, Exact, Process, command, exact_cpu_times},
};

/// How long the load runs.
pub const LEG: Duration = Duration::from_secs(6);
/// The profiler looks before and after it as well.
const BEFORE: Duration = Duration::from_millis(1_000);
const AFTER: Duration = Duration::from_millis(500);
/// Until it has written what it has.
const PATIENCE: Duration = Duration::from_secs(60);

/// Those of BCC's tools that need no headers of the kernel, version 0.26 (`dpkg -L libbpf-tools`).
const NO_OTHER: &str = "; Debian 12's libbpf-tools has no profile";

/// An agent whose own clock stands.
pub const NO_CLOCK: &str = "[profile]\nhertz = 0\n";

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profiler {
    Nobody,
    /// An agent that takes no samples.
    Agent,
    /// An agent that takes them all the time.
    Always,
    /// A profile from an agent.
    Flame(u32),
    PerfFramePointers,
    PerfDwarf,
    Bcc,
}

/// What came of one leg.
#[derive(Debug, Default)]
pub struct Leg {
    /// Turns of the load in a second.
    pub turns: f64,
    /// Run time of BPF programs that clocks drive, while it ran.
    pub programs_seconds: f64,
    /// CPU time of the profiler's processes, while it ran.
    pub cpu_seconds: f64,
    /// What they needed before and after: to begin, to find names, to write; not a number if that is not known.
    pub once_seconds: f64,
    /// The part of the load's samples whose stacks have its `main`; not a number if nobody takes any.
    pub whole: f64,
    /// How long walks took: upper bounds in seconds, and how many took no longer.
    pub walks: Vec<(f64, f64)>,
    /// Samples that the agent counted.
    pub samples: f64,
}

impl Profiler {
    pub const ALL: [Self; 8] = [
        Self::Nobody,
        Self::Agent,
        Self::Always,
        Self::Flame(19),
        Self::Flame(99),
        Self::PerfFramePointers,
        Self::PerfDwarf,
        Self::Bcc,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "bare",
            Self::Agent => "steth, no samples",
            Self::Always => "steth, always, 19 Hz",
            Self::Flame(19) => "steth flame -F 19",
            Self::Flame(_) => "steth flame -F 99",
            Self::PerfFramePointers => "perf record -F 99 -g",
            Self::PerfDwarf => "perf record -F 99 --call-graph dwarf",
            Self::Bcc => "profile-bpfcc -F 99",
        }
    }

    /// Runs the load under it.
    ///
    /// # Errors
    /// Something fails.
    pub fn leg(self, context: &Context, program: &Program, processors: usize) -> Result<Leg> {
        let whole = LEG + BEFORE + AFTER;
        let mut leg = Leg { whole: f64::NAN, once_seconds: f64::NAN, ..Leg::default() };
        let file = program.folder().join("profile");
        match self {
            Self::Nobody => leg.turns = program.run(LEG, processors)?,
            Self::Agent | Self::Always => {
                let configuration = if self == Self::Always { "" } else { NO_CLOCK };
                let agent = Agent::start(&context.steth, configuration)?;
                interrupt::sleep(BEFORE)?;
                let (_, before_ns) = bpf::driven_by_clocks(agent.id());
                let before = agent.exact_cpu_times()?;
                leg.turns = program.run(LEG, processors)?;
                leg.cpu_seconds = agent.exact_cpu_times()?.since(&before);
                leg.programs_seconds = (bpf::driven_by_clocks(agent.id()).1 - before_ns) as f64 / 1e9;
                leg.scrape(&agent, "always")?;
            }
            Self::Flame(hertz) => {
                let agent = Agent::start(&context.steth, NO_CLOCK)?;
                interrupt::sleep(BEFORE)?;
                let flame = flame(context, &agent, whole, hertz, &file)?;
                leg.under(flame, program, processors, Some(&agent))?;
                leg.scrape(&agent, "demand")?;
                leg.whole = whole_of_folded(&fs::read_to_string(&file)?);
            }
            Self::PerfFramePointers | Self::PerfDwarf => {
                let mut perf = command("perf", None, None);
                let how: &[&str] = if self == Self::PerfDwarf { &["--call-graph", "dwarf"] } else { &["-g"] };
                perf.args(["record", "-q", "-F", "99", "-a"]).args(how).arg("-o").arg(&file);
                perf.args(["--", "sleep", &whole.as_secs_f64().to_string()]);
                perf.stdout(Stdio::null()).stderr(Stdio::null());
                leg.under(Process::start(&mut perf)?, program, processors, None)?;
                let mut script = command("perf", None, None);
                script.args(["script", "--no-inline", "--comms", NAME, "-F", "comm,ip,sym", "-i"]).arg(&file);
                let text = program.folder().join("script");
                script.stdout(fs::File::create(&text)?).stderr(Stdio::null());
                Process::start(&mut script)?.wait(PATIENCE)?;
                leg.whole = whole_of_script(&fs::read_to_string(&text)?);
            }
            Self::Bcc => {
                let mut bcc = command("profile-bpfcc", None, None);
                bcc.args(["-F", "99", "-f", &whole.as_secs().to_string()]);
                bcc.stdout(fs::File::create(&file)?).stderr(Stdio::null());
                leg.under(Process::start(&mut bcc)?, program, processors, None)?;
                leg.whole = whole_of_folded(&fs::read_to_string(&file)?);
            }
        }
        Ok(leg)
    }

    /// Why it cannot be compared with here.
    pub fn missing(self) -> Option<String> {
        let (name, arguments): (_, &[&str]) = match self {
            Self::PerfFramePointers | Self::PerfDwarf => {
                ("perf", &["record", "-q", "-F", "99", "-a", "-o", "/dev/null", "--", "true"])
            }
            Self::Bcc => ("profile-bpfcc", &["-F", "99", "-f", "1"]),
            _ => return None,
        };
        let mut short = command(name, None, None);
        short.args(arguments);
        let error = process::output(&mut short, PATIENCE).err()?;
        let text = format!("{error:#}");
        let instead = if self == Self::Bcc { NO_OTHER } else { "" };
        Some(format!("{name} does not run here: {}{instead}", text.lines().last().unwrap_or_default()))
    }
}

impl Leg {
    /// Runs the load while someone looks, alone or through an agent.
    fn under(
        &mut self,
        mut profiler: Process,
        program: &Program,
        processors: usize,
        agent: Option<&Agent>,
    ) -> Result<()> {
        let of_agent = || agent.map_or(Ok(0.0), Agent::cpu_seconds);
        let owner = agent.map_or(profiler.id(), Agent::id);
        let id = profiler.id();
        let of_both = || -> Result<[Exact; 2]> {
            Ok([exact_cpu_times(id)?, agent.map_or(Ok(Exact::default()), Agent::exact_cpu_times)?])
        };
        let begun = of_agent()?;
        interrupt::sleep(BEFORE)?;
        let (before, (_, before_ns)) = (of_both()?, bpf::driven_by_clocks(owner));
        self.turns = program.run(LEG, processors)?;
        self.programs_seconds = (bpf::driven_by_clocks(owner).1 - before_ns) as f64 / 1e9;
        self.cpu_seconds = of_both()?.iter().zip(&before).map(|(now, before)| now.since(before)).sum();
        let ended = profiler.wait_watched(PATIENCE, |_| {})?;
        self.once_seconds = ended + of_agent()? - begun - self.cpu_seconds;
        Ok(())
    }

    fn scrape(&mut self, agent: &Agent, trigger: &str) -> Result<()> {
        let exposition = agent.scrape()?.exposition;
        self.walks = exposition.buckets("steth_profile_walk_seconds");
        self.samples = exposition.sum("steth_profile_samples_total", &[("trigger", trigger)]);
        Ok(())
    }
}

/// A profile of all processes from an agent.
///
/// # Errors
/// It does not start.
pub fn flame(context: &Context, agent: &Agent, length: Duration, hertz: u32, to: &Path) -> Result<Process> {
    let mut flame = command(&context.steth, None, None);
    flame.args(["flame", "--all", "--agent", &agent.address().to_string(), "-F", &hertz.to_string()]);
    flame.args(["-d", &format!("{}ms", length.as_millis()), "--format", "folded", "-o"]).arg(to);
    flame.env_remove("STETH_CONFIG").stdout(Stdio::null()).stderr(Stdio::null());
    Process::start(&mut flame)
}

/// Of folded stacks that begin with the load's name.
fn whole_of_folded(text: &str) -> f64 {
    let (whole, all) = weights(text, NAME);
    whole / all
}

/// What stacks that begin with a name weigh: those that are whole, and all.
pub fn weights(text: &str, name: &str) -> (f64, f64) {
    let (mut whole, mut all) = (0.0, 0.0);
    for (stack, weight) in text.lines().filter_map(|line| line.rsplit_once(' ')) {
        let mut frames = stack.split(';');
        if frames.next().is_some_and(|first| first.split(' ').next() == Some(name)) {
            let weight: f64 = weight.parse().unwrap_or(0.0);
            all += weight;
            whole += if frames.any(|frame| frame == "main") { weight } else { 0.0 };
        }
    }
    (whole, all)
}

/// Of what `perf script` prints: a line with the name, a line for each frame, an empty one.
fn whole_of_script(text: &str) -> f64 {
    let (mut whole, mut all) = (0.0, 0.0);
    for sample in text.split("\n\n") {
        let mut lines = sample.trim_start().lines();
        if lines.next().is_some_and(|first| first.trim() == NAME) {
            all += 1.0;
            whole += if lines.any(|frame| frame.trim_end().ends_with(" main")) { 1.0 } else { 0.0 };
        }
    }
    whole / all
}

/// How long it takes from the start of `steth flame` until a program is run by a clock, in milliseconds.
///
/// # Errors
/// It does not start, or fails.
pub fn first_sample(context: &Context, agent: Option<&Agent>, to: &Path) -> Result<f64> {
    let length = Duration::from_millis(300);
    let started = std::time::Instant::now();
    let (mut flame, watched) = match agent {
        Some(agent) => (flame(context, agent, length, 99, to)?, agent.id()),
        None => {
            let mut alone = command(&context.steth, None, None);
            alone.args(["flame", "--all", "--alone", "-d", "300ms", "--format", "folded", "-o"]).arg(to);
            alone.env_remove("STETH_CONFIG").stdout(Stdio::null()).stderr(Stdio::null());
            let alone = Process::start(&mut alone)?;
            let pid = alone.id();
            (alone, pid)
        }
    };
    let (before, _) = if agent.is_some() { bpf::driven_by_clocks(watched) } else { (0, 0) };
    while bpf::driven_by_clocks(watched).0 <= before {
        ensure!(started.elapsed() < PATIENCE, "no sample after {} s", PATIENCE.as_secs());
        ensure!(flame.is_running(), "steth flame ended before it took a sample");
        // Each look takes CPU time from who is looked at.
        std::thread::sleep(Duration::from_millis(10));
    }
    let took = started.elapsed();
    flame.wait(PATIENCE).context("steth flame")?;
    Ok(took.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loads_stacks_count_and_only_with_main_are_they_whole() {
        let folded = "deep (PID 7);_start;main;odd;spin 30\ndeep;odd;mainly 10\nother;main 99\ndeeper;x 5\n";
        assert_eq!(whole_of_folded(folded), 0.75);
        let script = "deep \n\t 12 spin\n\t 13 main\n\ndeep\n\t 12 spin\n\t 14 domain\n\nperf \n\t 1 main\n\n";
        assert_eq!(whole_of_script(script), 0.5);
    }
}
