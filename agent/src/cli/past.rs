//! `steth flame --from`: a profile of the past, from a running agent, which has the last minutes too, or from its files.

use clap::Args;
use tokio::sync::oneshot;

use super::{
    Failure,
    agent::{Agent, encoded},
    flame::{draw, refused, told},
    reach::Where,
};
use crate::{
    config::{
        Config,
        moment::{self, exact},
    },
    model::{
        profile::Drawing,
        sample::{PastRequest, Period},
    },
    pipeline,
};

/// Which time.
#[derive(Debug, Args)]
pub struct Time {
    /// Of the past, from then on: 03:10, -10m or 2026-11-21T03:10
    #[arg(long, value_name = "TIME", allow_hyphen_values = true,
        conflicts_with_all = ["pid", "cgroup", "duration", "frequency", "off_cpu", "wall", "query", "slow", "syscalls", "queries"])]
    from: Option<String>,
    /// Until then [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, requires = "from")]
    to: Option<String>,
    /// Compared with an earlier time
    #[arg(long, value_name = "FROM..TO", allow_hyphen_values = true, requires = "from")]
    against: Option<String>,
}

/// What is asked for beside the time.
pub struct Asked {
    /// Where files are, and an agent listens.
    pub config: Config,
    /// How one is reached.
    pub place: Where,
    /// Whether only files are to be asked.
    pub alone: bool,
    /// Only of these services.
    pub services: Vec<String>,
    /// How it is drawn.
    pub drawing: Drawing,
}

impl Time {
    /// Whether a profile of the past is wanted.
    pub const fn is_wanted(&self) -> bool {
        self.from.is_some()
    }

    /// Takes it and draws it.
    ///
    /// # Errors
    /// When a time is none, or nothing is kept of it.
    pub fn take(&self, asked: Asked) -> Result<Vec<u8>, Failure> {
        let from = self.from.as_deref().unwrap_or_default();
        let wrong = |name: &str, why: String| Failure::usage(format!("{name} {why}"));
        let period = moment::period(from, self.to.as_deref()).map_err(|why| wrong("--from, --to:", why))?;
        let against = self.against.as_deref().map(moment::span).transpose();
        let against = against.map_err(|why| wrong("--against:", why))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
        let target = asked.place.target(&asked.config)?;
        let agent = if asked.alone { None } else { runtime.block_on(Agent::connect(&target))? };
        match agent {
            Some(agent) => runtime.block_on(async { told(agent.ask(&asked.path(period, against)).await?).await }),
            None if asked.place.is_given() => Err(Failure::failed(format!(
                "no agent answers at {target}; without --agent the files that one has left are read"
            ))),
            None => asked.read_files(period, against),
        }
    }
}

impl Asked {
    fn read_files(self, period: Period, against: Option<Period>) -> Result<Vec<u8>, Failure> {
        let (answer, answered) = oneshot::channel();
        pipeline::past(&self.config, PastRequest { period, against, services: self.services, answer });
        let past = answered.blocking_recv().map_err(|_| Failure::failed("the profile was lost"))?.map_err(refused)?;
        draw(&past.profile, past.against.as_ref(), &self.drawing)
    }

    /// The same as a request to the agent.
    fn path(&self, period: Period, against: Option<Period>) -> String {
        let mut path = format!("/api/v1/flame?format={}", self.drawing.format);
        let mut add = |name: &str, value: &str| path.push_str(&format!("&{name}={}", encoded(value)));
        add("from", &exact(period.from));
        add("to", &exact(period.to));
        if let Some(against) = against {
            add("against_from", &exact(against.from));
            add("against_to", &exact(against.to));
        }
        for service in &self.services {
            add("service", service);
        }
        for (name, is_set) in [("icicle", self.drawing.icicle), ("reversed", self.drawing.reversed)] {
            if is_set {
                add(name, "true");
            }
        }
        path
    }
}
