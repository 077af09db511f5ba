//! `cargo xtask newcomer`: the README's first chapters, typed on a clean Debian 12 in their order. Knows the order and the clock; the
//! commands come from `readme`, the Debian from `copy`, the namespace from `place`.

mod copy;
mod group;
mod host_settings;
mod output;
mod place;
mod readme;

use std::{
    fs::{self, File},
    net::TcpListener,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::{
    copy::{Copy, Toolchain, git},
    group::Group,
    host_settings::HostSettings,
    output::{Running, shown},
    place::Place,
    readme::{Kind, Step},
};
use crate::workspace;

/// How much of it.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask newcomer\n  cargo xtask newcomer --whole\n\nIt needs root, and mmdebstrap, which it \
                  installs. The Debian is made once, in target/newcomer; toolchain, network, mirrors and registries are this \
                  host's. What is not committed is not tried."
)]
pub struct Arguments {
    /// With `cargo xtask test`, which takes a quarter of an hour more
    #[arg(long)]
    whole: bool,
}

/// Where a newcomer clones to.
const CLONE: &str = "/root/steth";
/// What the agent begins to say once it can be asked.
const READY: &str = "ready";
/// Tools, crates and all of steth are built, on a machine that may be busy.
const READY_WITHIN: Duration = Duration::from_secs(2 * 60 * 60);
const TESTED_WITHIN: Duration = Duration::from_secs(2 * 60 * 60);
/// What is asked of an agent that runs.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);
const ENDED_WITHIN: Duration = Duration::from_secs(30);

pub fn run(arguments: &Arguments) -> Result<()> {
    if workspace::output_of(Command::new("id").arg("-u")).as_deref() != Some("0") {
        bail!("a Debian in a folder, with mounts of its own, needs root");
    }
    let readme = workspace::output_of(git().args(["show", "HEAD:README.md"])).context("no README.md is committed")?;
    let steps = readme::steps(&readme)?;
    let folder = workspace::target()?.join("newcomer");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let _alone = alone(&folder)?;
    port_is_free(&steps)?;
    output::listen_to_signals()?;
    warn_of_what_is_not_committed();

    let mut journey = Journey { whole: arguments.whole, ..Journey::default() };
    let gone = journey.go(&folder, &readme, &steps);
    // The reason stands below the table.
    journey.print();
    gone
}

/// What was done so far, and what holds for what follows.
#[derive(Default)]
struct Journey {
    whole: bool,
    rows: Vec<Row>,
    settings: Vec<String>,
    agent: Option<Running>,
}

/// A line of the table.
struct Row {
    name: String,
    took: Option<Duration>,
    outcome: &'static str,
}

impl Journey {
    fn go(&mut self, folder: &Path, readme: &str, steps: &[Step]) -> Result<()> {
        let place = self.arrive(folder, readme)?;
        // Those that run beside the agent first: it has to have ended before tests.
        for step in steps.iter().filter(|step| !matches!(step.kind, Kind::Test | Kind::LongTest)) {
            self.take(&place, step)?;
        }
        self.end_agent()?;
        steps
            .iter()
            .filter(|step| matches!(step.kind, Kind::Test | Kind::LongTest))
            .try_for_each(|step| self.take(&place, step))?;
        self.step("(all of it removed)", "ok", || {
            drop(place);
            Ok(())
        })
    }

    /// Before the first command.
    fn arrive(&mut self, folder: &Path, readme: &str) -> Result<Place> {
        let packages = readme::presupposed(readme)?;
        let toolchain = Toolchain::find()?;
        let settings = HostSettings::read()?;
        let hidden = settings.hidden.clone();
        let name = format!("(a clean Debian 12 with {})", packages.join(", "));
        let group = Group::make()?;
        let copy = self.step(&name, "ok", || {
            let clean = copy::clean(folder, &packages, &settings, &group)?;
            Copy::make(&clean, &toolchain, &hidden)
        })?;
        self.step("git clone", "ok", || copy.clone_repository(CLONE, &hidden))?;
        self.step("(mounts)", "ok", || Place::make(copy, &toolchain, settings, CLONE, group))
    }

    fn take(&mut self, place: &Place, step: &Step) -> Result<()> {
        let command = step.command.as_str();
        let typed_before = self.settings.clone();
        match step.kind {
            Kind::Setting => {
                self.settings.push(command.to_owned());
                self.note(command, "holds for what follows");
            }
            Kind::LongTest => self.note(command, "left out: is for those who release"),
            Kind::Test if !self.whole => self.note(command, "left out: takes a quarter of an hour; --whole runs it"),
            Kind::Test => {
                self.step(command, "ok", || place.start(&typed_before, command)?.wait(TESTED_WITHIN))?;
            }
            Kind::Agent => {
                let agent = self.step(command, "ready", || {
                    let mut agent = place.start(&typed_before, command)?;
                    agent.wait_for(READY, READY_WITHIN)?;
                    Ok(agent)
                })?;
                self.agent = Some(agent);
            }
            Kind::Beside => {
                self.agent_is_there(command)?;
                self.step(command, "ok", || {
                    let has_said = place.start(&typed_before, command)?.wait(ANSWERED_WITHIN)?;
                    ensure!(has_said, "`{command}` succeeded and said nothing");
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// What is asked of an agent that has ended says less than why it did.
    fn agent_is_there(&mut self, before: &str) -> Result<()> {
        let Some(agent) = &mut self.agent else { return Ok(()) };
        match agent.ended() {
            Some(status) => bail!("the agent ended by itself before `{before}` ({status}){}", agent.last_lines()),
            None => Ok(()),
        }
    }

    fn end_agent(&mut self) -> Result<()> {
        self.agent_is_there("Ctrl-C")?;
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        self.step("Ctrl-C", "ended", || {
            agent.interrupt()?;
            agent.wait(ENDED_WITHIN)
        })?;
        Ok(())
    }

    fn step<T>(&mut self, name: &str, outcome: &'static str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("== {name}");
        let began = Instant::now();
        let done = act();
        let took = began.elapsed();
        let outcome = if done.is_ok() { outcome } else { "failed" };
        eprintln!("   {outcome} after {}", shown(took));
        self.rows.push(Row { name: name.to_owned(), took: Some(took), outcome });
        done
    }

    fn note(&mut self, name: &str, outcome: &'static str) {
        eprintln!("== {name}\n   {outcome}");
        self.rows.push(Row { name: name.to_owned(), took: None, outcome });
    }

    fn print(&self) {
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default();
        println!();
        for Row { name, took, outcome } in &self.rows {
            let took = took.map(shown).unwrap_or_default();
            println!("{name:<width$}  {took:>12}  {outcome}");
        }
    }
}

/// Two at once would want the same port, and each remove the other's folder.
fn alone(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.try_lock().ok().with_context(|| format!("another `cargo xtask newcomer` holds {}", path.display()))?;
    Ok(file)
}

/// Said before anything is built: the network is this host's, as the registries have to be reached.
fn port_is_free(steps: &[Step]) -> Result<()> {
    let Some(port) = readme::port(steps) else { return Ok(()) };
    let bound = TcpListener::bind(("127.0.0.1", port));
    bound.map(drop).with_context(|| {
        format!(
            "127.0.0.1:{port} is taken: the agent of the README listens there, on the network of this host. End what listens \
             there (ss --listening --tcp --processes names it)"
        )
    })
}

fn warn_of_what_is_not_committed() {
    if workspace::output_of(git().args(["status", "--porcelain"])).is_some_and(|changes| !changes.is_empty()) {
        eprintln!("some changes here are not committed: a newcomer gets what is");
    }
}
