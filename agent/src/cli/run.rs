//! `steth run`: the agent, from start to signal.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{
    Failure, Outcome, configuration,
    instance::{Instance, InstanceError},
    logging::Logging,
    privileges, service_manager, terminal,
};
use crate::{
    config::{Complaints, Config, LogFormat},
    heap,
    model::probe::{ProbeState, Verdict},
    pipeline::{self, Command, Examination, Pipeline, StartError},
};

/// What `steth run` takes.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  steth run                                  with /etc/steth/steth.toml, if there is one
  steth run --config ./steth.toml --listen 127.0.0.1:9999
  STETH_LOG_LEVEL=debug steth run            any key, as an environment variable
  curl http://127.0.0.1:9464/metrics

Signals: SIGTERM and Ctrl-C end it, SIGHUP reloads the configuration.")]
pub struct Arguments {
    /// Configuration file [default: /etc/steth/steth.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "STETH_CONFIG")]
    config: Option<PathBuf>,
    /// Address to serve at; port 0 takes any free port
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

/// After the pipeline has ended, what still blocks may take this long.
const END_PATIENCE: Duration = Duration::from_millis(500);
/// What the agent does itself ends this soon after a signal, come what may, such as a file system that does not answer.
/// How long the kernel takes to detach comes on top: it takes that at a forced end, too.
const END_AT_ONCE: Duration = Duration::from_millis(1_900);

/// Runs the agent until a signal ends it.
///
/// # Errors
/// When the configuration is wrong, another agent runs, the address is taken, or nothing can be measured.
pub fn run(arguments: &Arguments) -> Outcome {
    // Before anything secret is read.
    let undumpable = privileges::forbid_dumps();
    let config = arguments.configuration().map_err(Failure::usage)?;
    let logging = Logging::start(&config.log);
    if let Err(error) = undumpable {
        tracing::warn!("cannot switch core dumps of the agent off: {error}; what it holds of secrets would be in one");
    }
    for wrong in &config.alerts.left_out {
        tracing::error!("left out: {wrong}; all else goes on. Correct it, and reload the agent");
    }
    let _instance = only_instance(&config)?;
    // Before there is a second thread: capabilities are those of threads, and new ones have those of who starts them.
    match privileges::keep_needed(&config) {
        Ok(dropped) if dropped.is_empty() => {}
        Ok(dropped) => tracing::info!("capabilities that are not needed are dropped: {}", dropped.join(", ")),
        Err(error) => tracing::warn!("cannot drop the capabilities that are not needed: {error}; the agent keeps them"),
    }
    if let Err(error) = heap::give_back() {
        tracing::warn!("free memory is given back late: {error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the agent's threads: {error}")))?;
    let outcome = serve_until_signal(&runtime, arguments, config, logging);
    runtime.shutdown_timeout(END_PATIENCE);
    outcome
}

fn serve_until_signal(runtime: &Runtime, arguments: &Arguments, config: Config, logging: Logging) -> Outcome {
    runtime.block_on(async {
        // Before anything is loaded: a signal that comes while probes attach must end the agent as any other does.
        let signals =
            Signals::listen().map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))?;
        let (orders, commands) = mpsc::channel(1);
        let ended = Arc::new(AtomicBool::new(false));
        tokio::spawn(signals.obey(orders, arguments.clone(), config.clone(), logging, Arc::clone(&ended)));

        let format = config.log.format;
        let pipeline = pipeline::start(config).await.map_err(|error| match error {
            StartError::NothingToMeasure { .. } => Failure::missing(error),
            StartError::Serve(_) => Failure::failed(error),
        })?;
        warn_of_what_is_lost(pipeline.examination());
        say_ready(&pipeline, format);
        service_manager::ready(&format!("serving {}", pipeline.url("/metrics")));
        let attached = pipeline.run(commands, service_manager::pulse()).await;
        ended.store(true, Ordering::Relaxed);
        drop(attached);
        tracing::info!("ended");
        Ok(())
    })
}

impl Arguments {
    fn configuration(&self) -> Result<Config, Complaints> {
        let flags = self.listen.iter().map(|listen| ("--listen", "listen", listen.clone())).collect();
        configuration(self.config.as_deref(), flags)
    }
}

fn only_instance(config: &Config) -> Result<Option<Instance>, Failure> {
    match Instance::lock(&config.run.lock) {
        Ok(instance) => Ok(Some(instance)),
        Err(error @ InstanceError::Denied { .. }) => {
            tracing::warn!(
                "{error}; a second agent on this host will not be noticed. The key `lock` in [run] names another file"
            );
            Ok(None)
        }
        Err(error) => Err(Failure::failed(error)),
    }
}

/// The signals that the agent answers.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Makes signals commands until one ends the agent.
    async fn obey(
        mut self,
        orders: mpsc::Sender<Command>,
        arguments: Arguments,
        mut config: Config,
        logging: Logging,
        ended: Arc<AtomicBool>,
    ) {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.hang_up.recv() => {
                    service_manager::reloading();
                    let next = reload(&config, &arguments);
                    let status = if next.is_some() { "reloaded" } else { "a reload was refused: see the log" };
                    let order = match next {
                        Some(next) => {
                            config = next;
                            logging.set_level(config.log.level);
                            Command::Reload(Box::new(config.clone()))
                        }
                        None => Command::CountRefused,
                    };
                    let _ = orders.send(order).await;
                    // There is room for the next order once this one was taken.
                    let _ = orders.reserve().await;
                    service_manager::ready(status);
                    continue;
                }
            };
            tracing::info!("{name}: ending");
            service_manager::stopping();
            std::thread::spawn(move || end_at_once_if_need_be(&ended));
            let _ = orders.send(Command::Stop).await;
            return;
        }
    }
}

/// On a thread of its own: whatever blocks, it is not this.
fn end_at_once_if_need_be(ended: &AtomicBool) {
    std::thread::sleep(END_AT_ONCE);
    if ended.load(Ordering::Relaxed) {
        return;
    }
    tracing::error!(
        "the agent did not end in {} ms; it is cut off, and the kernel detaches its probes",
        END_AT_ONCE.as_millis()
    );
    std::process::exit(1);
}

/// The configuration as it is after a reload; `None` when the new one is refused.
fn reload(old: &Config, arguments: &Arguments) -> Option<Config> {
    let new = arguments
        .configuration()
        .and_then(Config::whole)
        .inspect_err(|complaints| {
            tracing::error!("SIGHUP: the new configuration is refused, the old one stays:\n{complaints}")
        })
        .ok()?;
    let (next, waiting) = old.reloaded(&new);
    if let Err(error) = pipeline::admits(&next) {
        // A token that is to be known no more would still be.
        tracing::error!("SIGHUP: the new configuration is refused, the old one stays, with its tokens: {error}");
        return None;
    }
    if !waiting.is_empty() {
        tracing::warn!("SIGHUP: these keys have changed and wait for a restart: {}", waiting.join(", "));
    }
    tracing::info!("SIGHUP: configuration reloaded");
    Some(next)
}

/// One line for each thing that this host lacks; all else runs.
fn warn_of_what_is_lost(examination: &Examination) {
    for finding in examination.ability.findings().iter().filter(|finding| finding.verdict == Verdict::Missing) {
        tracing::warn!(
            "no probe can run, only host metrics are measured: {}: {}; {}",
            finding.name,
            finding.found,
            finding.advice
        );
    }
    for probe in &examination.probes {
        match &probe.state {
            ProbeState::Attached | ProbeState::Ready | ProbeState::Off => {}
            ProbeState::Partial { reason } => {
                tracing::warn!(
                    "probe {} does part of its work: {reason}; lost: {}; all else runs. See: steth doctor",
                    probe.name,
                    probe.lost
                );
            }
            ProbeState::Unavailable { reason } => {
                tracing::warn!(
                    "probe {} is unavailable: {reason}; lost: {}; all else runs. See: steth doctor",
                    probe.name,
                    probe.lost
                );
            }
        }
    }
}

/// The line that people and scripts wait for, at whatever level is logged.
fn say_ready(pipeline: &Pipeline, format: LogFormat) {
    let url = pipeline.url("/metrics");
    terminal::talk(&match format {
        LogFormat::Text => format!("ready: {url}"),
        LogFormat::Json => serde_json::json!({ "level": "INFO", "message": format!("ready: {url}") }).to_string(),
    });
}
