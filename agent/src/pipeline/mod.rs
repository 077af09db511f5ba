//! The table of contents of the program: sources, stages and sinks, in order. Knows all of them; none knows it.

mod alerts;
mod alone;
mod builds;
mod clock;
mod clusters;
mod connections;
mod drawing;
mod governing;
mod news;
mod past;
mod probes;
mod profiles;
mod pythons;
mod sampled;
mod session;
mod settings;
mod signals;
mod slow;
mod sources;
mod tls;
mod trace;
mod unwinders;
mod unwinding;
mod wakes;
mod workers;
mod written;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

pub use alerts::try_on_file;
pub use alone::{past, profile, trace};
use clock::unix_ms;
pub use drawing::{comparable, draw, ending, format_named, format_of_file, read_profile, read_profile_file, stamp};
use governing::{Governing, Meanwhile};
use news::Newsroom;
use probes::Probes;
use settings::Reloads;
use sources::Sources;
use tokio::{sync::mpsc, time::MissedTickBehavior};

use crate::{
    alert::Alerter,
    config::Config,
    correlate::Correlator,
    export::prometheus::{Exporter, Format},
    govern::Step,
    model::{
        finding::{Event, EventKind, Events, Findings, NotExplained},
        probe::{HostAbility, ProbeStatus},
        query::{Connections, Question, Repeats, SlowQueries, Statements, desk},
        sample::ProfileRefused,
        settings::SettingQuestion,
        snapshot::{Snapshot, SnapshotPublisher, handle_and_publisher},
        trace::TraceRefused,
    },
    send::Senders,
    serve::{self, Bounds, Content, Exposition, Guard, ServeError, Server, Tickets},
};

/// Requests in progress may take this long to end; all but the detaching of probes ends within 2 s.
const STOP_PATIENCE: Duration = Duration::from_millis(1_000);

/// How often those who trace are told: the ring holds at least ten times as much.
const TRACE_INTERVAL: Duration = Duration::from_millis(20);

/// How often a heart looks that has nobody to tell.
const NO_PULSE: Duration = Duration::from_secs(3_600);

/// A request from a person, through the command line or a signal.
#[derive(Debug)]
pub enum Command {
    /// Take over what can change live.
    Reload(Box<Config>),
    /// Count that what was to be taken over is wrong.
    CountRefused,
    /// End cleanly.
    Stop,
}

/// Told again and again that the pipeline works: by its own loop, which takes windows and answers, so that a loop that hangs
/// falls silent.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// How often.
    pub every: Duration,
    /// Whom to tell; must not block.
    pub beat: fn(),
}

/// What this host allows, and what became of every probe.
#[derive(Clone, Debug)]
pub struct Examination {
    /// Kernel, user and machine.
    pub ability: HostAbility,
    /// Every probe, in the order of the catalog.
    pub probes: Vec<ProbeStatus>,
    /// What programs and maps take together.
    pub kernel_memory_bytes: u64,
}

/// Why the pipeline cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The listener.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Neither a probe nor a host metric can be had.
    #[error("nothing can be measured: {reason}")]
    NothingToMeasure {
        /// What is missing.
        reason: String,
    },
}

/// A pipeline whose first snapshot is taken and whose sinks answer.
pub struct Pipeline {
    config: Config,
    sources: Sources,
    examination: Examination,
    address: SocketAddr,
    server: Server,
    senders: Senders,
    snapshots: SnapshotPublisher,
    questions: mpsc::Receiver<Question>,
    taken: Instant,
    correlator: Option<Correlator>,
    /// When the last window ended that the correlator and the alerter have seen.
    observed: Option<Instant>,
    alerter: Option<Alerter>,
    governing: Governing,
    reloads: Reloads,
    newsroom: Option<Newsroom>,
}

/// What is attached to the kernel. Dropping it detaches, which blocks: at each probe of OpenSSL the kernel waits about 0.1 s
/// until nobody can be in it any more (Linux 6.18, `perf_uprobe_destroy`), one after the other.
pub struct Attached {
    _sources: Sources,
}

/// Finds out what this host allows, without leaving anything behind.
pub fn examine(config: &Config) -> Examination {
    let mut config = config.clone();
    config.profile.hertz = 0;
    Sources::open(&config).1
}

/// Whether what a configuration names for who may ask, tokens and certificates, can be read.
///
/// # Errors
/// What cannot be read, and why.
pub fn admits(config: &Config) -> Result<(), StartError> {
    Ok(Guard::examine(config)?)
}

/// Binds, opens the sources, takes the first snapshot, starts the sinks.
///
/// # Errors
/// When the address is taken, or when nothing can be measured.
pub async fn start(config: Config) -> Result<Pipeline, StartError> {
    // First: a taken port, or a certificate that is none, must not cost the host a load of all probes.
    let guard = Guard::start(&config)?;
    let bound = serve::bind(config.listen).await?;
    let address = bound.address();

    let (mut sources, examination) = Sources::open(&config);
    if !examination.ability.probes_can_run() && !config.host.node && !config.host.processes {
        let lacking = examination.ability.findings().into_iter().find(|finding| !finding.advice.is_empty());
        let reason = lacking.map(|finding| format!("{}: {}; {}", finding.name, finding.found, finding.advice));
        let reason = format!("{}, and host metrics are switched off in [host]", reason.unwrap_or_default());
        return Err(StartError::NothingToMeasure { reason });
    }

    let (handle, snapshots) = handle_and_publisher();
    snapshots.publish(Arc::new(sources.snapshot()));
    let taken = Instant::now();

    let senders = Senders::start(&config.send, &handle);
    let of_pieces = senders.of_pieces();
    if !of_pieces.is_empty() {
        sources.tell_pieces(Arc::new(move |piece| of_pieces.piece(&written::written(piece).into())));
    }
    let (desk, questions) = desk();
    let exporter = Arc::new(Exporter::default());
    let expositions = Format::ALL.map(|format| {
        let exporter = Arc::clone(&exporter);
        Exposition {
            media_type: format.media_type(),
            render: Arc::new(move |snapshot| exporter.text(snapshot, format)),
        }
    });
    let content = Content {
        snapshots: handle,
        desk,
        expositions: expositions.into(),
        draw: Arc::new(draw),
        knows_format: |name| format_named(name).map(drop),
        tickets: Tickets::default(),
    };
    let bounds = Bounds { connections: config.http.connections, timeout: config.http.timeout };
    let server = bound.serve(content, bounds, guard);
    let correlator = correlator(&config);
    let observed = None;
    let alerter = config.alerts.enabled.then(|| {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Alerter::start(&config.alerts, host, url(&config, address, "/api/v1/alerts"))
    });
    let governing = Governing::new(&config);
    let newsroom = Newsroom::open(senders.of_news(), alerter.as_ref());
    Ok(Pipeline {
        newsroom,
        config,
        sources,
        examination,
        address,
        server,
        senders,
        snapshots,
        questions,
        taken,
        correlator,
        observed,
        alerter,
        governing,
        reloads: Reloads::default(),
    })
}

impl Pipeline {
    /// Where it answers at this path.
    pub fn url(&self, path: &str) -> String {
        url(&self.config, self.address, path)
    }

    /// What was found at the start.
    pub fn examination(&self) -> &Examination {
        &self.examination
    }

    /// Works until a command, or the loss of all who could give one, stops it. The sinks have ended then; what is
    /// returned is still attached.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, pulse: Option<Pulse>) -> Attached {
        let mut ring = tokio::time::interval(self.config.kernel.ring_interval);
        let mut kept = tokio::time::interval(self.config.window.kept);
        ring.set_missed_tick_behavior(MissedTickBehavior::Delay);
        kept.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trace = tokio::time::interval(TRACE_INTERVAL);
        trace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heart = tokio::time::interval(pulse.map_or(NO_PULSE, |pulse| pulse.every));
        heart.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sampling = self.sources.probes().and_then(|probes| probes.sampling());
            tokio::select! {
                _ = heart.tick() => pulse.into_iter().for_each(|pulse| (pulse.beat)()),
                Some(request) = self.snapshots.requested() => request.answer(self.fresh_snapshot()),
                Some(question) = self.questions.recv() => self.answer(question),
                _ = ring.tick() => self.sources.drain(),
                _ = trace.tick(), if self.sources.probes().is_some_and(|probes| probes.is_traced()) => {
                    self.sources.probes().into_iter().for_each(Probes::tell);
                }
                () = wakes::due(sampling) => {
                    slow::step("taking samples", || self.sources.probes().into_iter().for_each(Probes::sample));
                }
                // Cells wrap, and names are only to be found while their processes live: look even if nobody asks.
                _ = kept.tick() => {
                    let snapshot = self.end_of_window();
                    let elapsed = self.observed.map_or(self.config.window.kept, |observed| self.taken - observed);
                    self.observed = Some(self.taken);
                    slow::step("comparing with the past", || self.correlate(&snapshot, elapsed));
                    slow::step("evaluating alerts", || self.alert(&snapshot, elapsed));
                    slow::step("telling receivers", || self.tell(snapshot.at_unix_ms));
                    slow::step("closing the window", || {
                        self.sources.probes().into_iter().for_each(Probes::close_window);
                    });
                }
                () = tokio::time::sleep_until(self.governing.due().into()) => slow::step("keeping the budget", || self.govern()),
                outcome = alerts::outcome(self.alerter.as_mut()) => {
                    if let Some(alerter) = &mut self.alerter {
                        alerter.take(outcome, unix_ms());
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Reload(config)) => {
                        self.reloads.taken_over += 1;
                        self.reload(*config);
                    }
                    Some(Command::CountRefused) => self.reloads.refused += 1,
                    Some(Command::Stop) | None => break,
                },
            }
        }
        let late = Instant::now() + STOP_PATIENCE;
        // Names are found while the server ends.
        let keeper = self.sources.probes().and_then(Probes::end_pieces);
        // Their answers end with them, and the server waits for that.
        self.sources.probes().into_iter().for_each(Probes::end_traces);
        self.server.stop(STOP_PATIENCE).await;
        if let Some(alerter) = self.alerter.take() {
            alerter.stop();
        }
        if let Some(keeper) = keeper {
            keeper.finish(late);
        }
        // The last: what the others tell is kept then.
        drop(self.newsroom);
        self.senders.stop(late);
        Attached { _sources: self.sources }
    }

    /// Takes over what may change.
    fn reload(&mut self, config: Config) {
        let before = self.governing.applied(&self.config);
        self.governing.reload(&self.config, &config);
        self.sources.reload(&before, &self.governing.applied(&config));
        self.server.reload(&config);
        if let Some(alerter) = &mut self.alerter {
            alerter.reload(&config.alerts);
        }
        if config.correlate.enabled != self.config.correlate.enabled {
            self.correlator = correlator(&config);
            self.observed = None;
        }
        self.config = config;
    }

    /// Looks at what steth costs, and does less or more.
    fn govern(&mut self) {
        let (statuses, is_asked) = self.sources.probes().map(|it| (it.statuses(), it.is_busy())).unwrap_or_default();
        let meanwhile = match (self.sources.is_opening(), is_asked) {
            (true, _) => Meanwhile::Opening,
            (false, true) => Meanwhile::Asked,
            (false, false) => Meanwhile::Usual,
        };
        let before = self.governing.applied(&self.config);
        let Some(step) = self.governing.look(&statuses, meanwhile) else { return };
        let text = self.governing.words(step);
        match step {
            Step::More(_) | Step::On(_) => tracing::info!("{text}"),
            Step::Fewer(_) | Step::Off(_) | Step::Exhausted => tracing::warn!("{text}"),
        }
        self.sources.reload(&before, &self.governing.applied(&self.config));
        if let Some(correlator) = &mut self.correlator {
            correlator.tell(Event { kind: EventKind::Budget, at_unix_ms: unix_ms(), service: None, text });
        }
        self.take_snapshot();
    }

    fn settings(&mut self, question: SettingQuestion) {
        match question {
            SettingQuestion::List(answer) => drop(answer.send(settings::list(&self.config))),
            SettingQuestion::Change(order, answer) => {
                let changed = settings::change(&self.config, &order);
                let _ = answer.send(changed.map(|(config, set)| {
                    tracing::info!("{} is set to {} until the configuration is read again", set.key, set.value);
                    self.reload(config);
                    set
                }));
            }
        }
    }

    fn answer(&mut self, question: Question) {
        match question {
            Question::Settings(question) => self.settings(question),
            Question::Statements(selection, answer) => {
                let at_unix_ms = self.fresh_snapshot().at_unix_ms;
                let found = self.sources.probes().map(|probes| probes.statements(&selection)).unwrap_or_default();
                let _ = answer.send(Statements { at_unix_ms, ..found });
            }
            Question::Slow(filter, limit, answer) => {
                let at_unix_ms = self.fresh_snapshot().at_unix_ms;
                let found = self.sources.probes().map(|probes| probes.slow(&filter, limit)).unwrap_or_default();
                let _ = answer.send(SlowQueries { at_unix_ms, ..found });
            }
            Question::Repeats(selection, answer) => {
                let at_unix_ms = self.fresh_snapshot().at_unix_ms;
                let found = self.sources.probes().map(|probes| probes.repeats(&selection)).unwrap_or_default();
                let _ = answer.send(Repeats { at_unix_ms, ..found });
            }
            Question::Connections(selection, answer) => {
                let at_unix_ms = self.fresh_snapshot().at_unix_ms;
                let found = self.sources.probes().map(|probes| probes.connections(&selection)).unwrap_or_default();
                let _ = answer.send(Connections { at_unix_ms, ..found });
            }
            Question::Trace(request) => match self.sources.probes() {
                Some(probes) => probes.trace(request),
                None => drop(request.answer.send(Err(TraceRefused::NoProbes))),
            },
            Question::Past(request) => {
                let left = match self.sources.probes() {
                    Some(probes) => probes.past(request),
                    None => Some(request),
                };
                if let Some(request) = left {
                    let pieces = past::pieces(&self.config);
                    tokio::task::spawn_blocking(move || past::answer(&pieces, request));
                }
            }
            Question::Explain(request) => {
                let explained = self.correlator.as_ref().ok_or(NotExplained::Disabled);
                let explained = explained.and_then(|it| it.explain(request.service.as_deref(), request.period));
                let _ = request.answer.send(explained);
            }
            Question::Findings(answer) => {
                let findings = self.correlator.as_ref().map(|it| Findings { findings: it.findings() });
                let _ = answer.send(findings.ok_or(NotExplained::Disabled));
            }
            Question::Events(answer) => {
                let events = self.correlator.as_ref().map(|it| Events { events: it.events() });
                let _ = answer.send(events.ok_or(NotExplained::Disabled));
            }
            Question::Happened(posted, answer) => {
                let taken = self.correlator.as_mut().ok_or(NotExplained::Disabled);
                let _ = answer.send(taken.and_then(|it| it.post(posted, unix_ms())));
            }
            Question::Alerts(question) => alerts::answer(self.alerter.as_mut(), question, unix_ms()),
            Question::Profile(request) => match self.sources.probes() {
                Some(probes) => probes.profile(request),
                None => {
                    let why = ProfileRefused::Impossible("no probe runs on this host".into());
                    drop(request.answer.send(Err(why)));
                }
            },
        }
    }

    /// A window ends with this snapshot.
    fn correlate(&mut self, snapshot: &Snapshot, elapsed: Duration) {
        let events = self.sources.probes().map(Probes::events).unwrap_or_default();
        let Some(correlator) = &mut self.correlator else { return };
        events.into_iter().for_each(|event| correlator.tell(event));
        correlator.observe(snapshot, elapsed);
    }

    /// After correlation, so that alerts have what was found.
    fn alert(&mut self, snapshot: &Snapshot, elapsed: Duration) {
        let correlator = self.correlator.as_ref();
        let surroundings = |service: Option<&str>| correlator.map(|it| it.surroundings(service)).unwrap_or_default();
        if let Some(alerter) = &mut self.alerter {
            alerter.observe(snapshot, elapsed, &surroundings);
        }
    }

    /// After both, what is new.
    fn tell(&mut self, at_unix_ms: u64) {
        if let Some(newsroom) = &mut self.newsroom {
            newsroom.tell(at_unix_ms, self.alerter.as_ref(), self.correlator.as_ref(), self.sources.probes());
        }
    }

    /// The one that a window ends with: never that of the window before, however short they are.
    fn end_of_window(&mut self) -> Arc<Snapshot> {
        if self.observed == Some(self.taken) { self.take_snapshot() } else { self.fresh_snapshot() }
    }

    fn fresh_snapshot(&mut self) -> Arc<Snapshot> {
        match self.snapshots.latest() {
            Some(latest) if self.taken.elapsed() < self.config.window.live => latest,
            _ => self.take_snapshot(),
        }
    }

    fn take_snapshot(&mut self) -> Arc<Snapshot> {
        let mut fresh = self.sources.snapshot();
        fresh.series.extend(self.correlator.iter().flat_map(Correlator::series));
        fresh.series.extend(self.senders.series());
        fresh.series.extend(self.server.series());
        fresh.series.extend(self.governing.series(&self.config));
        fresh.series.extend(self.reloads.series());
        fresh.features = self.governing.features(&self.config);
        fresh.budget = self.governing.budget();
        fresh.series.extend(self.alerter.iter().flat_map(Alerter::series));
        let fresh = Arc::new(fresh);
        self.taken = Instant::now();
        self.snapshots.publish(Arc::clone(&fresh));
        fresh
    }
}

fn url(config: &Config, address: SocketAddr, path: &str) -> String {
    let scheme = if config.http.certificate.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}{path}")
}

fn correlator(config: &Config) -> Option<Correlator> {
    config.correlate.enabled.then(|| Correlator::new(config.correlate.windows, config.window.kept))
}
