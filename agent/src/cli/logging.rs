//! The agent's own log: text or JSON on stderr. Knows no message.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use super::terminal::Paint;
use crate::config::{Log, LogFormat, LogLevel};

/// Changes the level of a running log.
#[derive(Clone)]
pub struct Logging {
    level: reload::Handle<LevelFilter, Registry>,
}

impl Logging {
    /// Begins to log; once in a process.
    pub fn start(log: &Log) -> Self {
        let (filter, level) = reload::Layer::new(filter(log.level));
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
        let lines = match log.format {
            LogFormat::Text => lines.with_ansi(Paint::stderr().0).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry().with(filter).with(lines).init();
        Self { level }
    }

    /// Takes another level over.
    pub fn set_level(&self, level: LogLevel) {
        // It fails only when the log has ended, which is when the process has.
        let _ = self.level.modify(|current| *current = filter(level));
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
