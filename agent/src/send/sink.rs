//! One destination, on a thread of its own: takes a window at each interval, puts it into the spool, and sends what the spool
//! holds, oldest first. Whatever hangs, the network or the disk, holds up nobody else.

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::{
    backoff::Backoff,
    figures::Figures,
    http::{Client, Failure, Reason},
    otlp::{self, Otlp},
    remote_write::{self, RemoteWrite},
    spool::{Entry, Spool},
};
use crate::{
    config::destination::{Destination, Protocol},
    model::snapshot::{NoSnapshot, Snapshot, SnapshotHandle},
};

/// A failure that lasts is told this often.
const TELL_AGAIN: Duration = Duration::from_secs(300);

/// What a destination is sent, and how.
pub struct Sink {
    name: String,
    destination: Destination,
    encoder: Encoder,
    spool: Spool,
    client: Option<Client>,
    backoff: Backoff,
    figures: Arc<Figures>,
    /// The last snapshot that was taken.
    taken: Option<Arc<Snapshot>>,
    /// When a failure was last told.
    told: Option<Instant>,
}

/// A request on its way.
type Sending = Pin<Box<dyn Future<Output = (Entry, Result<Bytes, Failure>)>>>;

impl Sink {
    /// Opens the spool in `folder`; what waits there is sent first.
    pub fn open(name: &str, destination: &Destination, folder: PathBuf, figures: Arc<Figures>) -> Self {
        let sink = Self {
            name: name.into(),
            encoder: Encoder::new(destination.protocol, labels(destination)),
            spool: Spool::open(&folder, destination.spool),
            client: None,
            backoff: Backoff::new(destination.longest_pause),
            destination: destination.clone(),
            figures,
            taken: None,
            told: None,
        };
        if !sink.spool.is_empty() {
            tracing::info!("{}: {} requests wait from before", sink.shown(), sink.spool.len());
        }
        sink.show();
        sink
    }

    /// Takes and sends until there are no snapshots any more. May be dropped at any time: what is not known to have arrived
    /// stays in the spool.
    pub async fn run(mut self, snapshots: SnapshotHandle) {
        let mut windows = interval(self.destination.every);
        windows.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut sending: Option<Sending> = None;
        let mut not_before = tokio::time::Instant::now();
        loop {
            if sending.is_none() && tokio::time::Instant::now() >= not_before {
                sending = match self.client() {
                    Ok(()) => self.next_request(),
                    Err(pause) => {
                        not_before = tokio::time::Instant::now() + pause;
                        None
                    }
                };
            }
            tokio::select! {
                _ = windows.tick() => match snapshots.fresh().await {
                    Ok(snapshot) if self.taken.as_ref().is_some_and(|taken| Arc::ptr_eq(taken, &snapshot)) => {
                        // Still the one before: windows last about as long as it is from one to the next.
                        windows.reset_after(self.destination.every / 10);
                    }
                    Ok(snapshot) => self.take(snapshot),
                    Err(NoSnapshot) => return,
                },
                (entry, outcome) = arrival(&mut sending) => {
                    sending = None;
                    not_before = tokio::time::Instant::now() + self.arrived(&entry, outcome);
                }
                () = sleep_until(not_before), if sending.is_none() && !self.spool.is_empty() => {}
            }
            self.show();
        }
    }

    fn take(&mut self, snapshot: Arc<Snapshot>) {
        for entry in self.encoder.encode(&snapshot) {
            self.spool.push(entry);
        }
        if self.backoff.failures() > 0 {
            // It will have to wait, maybe for longer than the host runs.
            self.spool.sync();
        }
        self.taken = Some(snapshot);
    }

    /// Has a client, or says how long to wait for one.
    fn client(&mut self) -> Result<(), Duration> {
        if self.client.is_some() {
            return Ok(());
        }
        match Client::new(&self.destination.endpoint) {
            Ok(client) => self.client = Some(client),
            Err(error) => {
                *self.figures.lock().failed.entry("setup").or_default() += 1;
                self.tell_failure(&error.to_string());
                return Err(self.backoff.next(None));
            }
        }
        Ok(())
    }

    fn next_request(&mut self) -> Option<Sending> {
        let client = self.client.clone()?;
        let entry = self.spool.oldest()?;
        let (content_type, encoding, headers) = self.encoder.form();
        Some(Box::pin(async move {
            let outcome = client.post(content_type, Some(encoding), headers, entry.payload.clone()).await;
            (entry, outcome)
        }))
    }

    /// What became of the oldest entry; returns how long to wait before the next.
    fn arrived(&mut self, entry: &Entry, outcome: Result<Bytes, Failure>) -> Duration {
        // At the limit it may have been dropped while it was on its way.
        let is_oldest = self.spool.oldest().as_ref() == Some(entry);
        match outcome {
            Ok(answer) => {
                if is_oldest {
                    self.spool.sent();
                }
                let rejected = self.encoder.rejected(&answer);
                if let Some((count, why)) = &rejected {
                    self.tell_failure(&format!("{count} samples were not wanted: {why}"));
                }
                {
                    let mut counts = self.figures.lock();
                    counts.sent += 1;
                    counts.samples += u64::from(entry.samples);
                    counts.bytes += entry.payload.len() as u64;
                    counts.rejected += rejected.map_or(0, |(count, _)| count);
                }
                if self.backoff.failures() > 0 {
                    tracing::info!("{}: takes again; {} requests wait", self.shown(), self.spool.len());
                    self.told = None;
                }
                self.backoff.reset();
                Duration::ZERO
            }
            Err(failure) => {
                *self.figures.lock().failed.entry(failure.reason.word()).or_default() += 1;
                if self.encoder.is_worth_another_try(&failure) {
                    self.tell_failure(&failure.to_string());
                    return self.backoff.next(failure.retry_after);
                }
                if is_oldest {
                    self.spool.sent();
                }
                self.figures.lock().refused += 1;
                self.tell_failure(&format!("{failure}; what it refuses is dropped"));
                // It answers.
                self.backoff.reset();
                Duration::ZERO
            }
        }
    }

    fn tell_failure(&mut self, what: &str) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            tracing::warn!("{}: {what}; {} requests wait", self.shown(), self.spool.len());
            self.told = Some(Instant::now());
        }
    }

    fn show(&self) {
        let mut counts = self.figures.lock();
        counts.lost = self.spool.lost();
        counts.waiting_bytes = self.spool.waiting_bytes();
        counts.oldest_unix_ms = self.spool.oldest_unix_ms();
    }

    fn shown(&self) -> String {
        format!("send.to.{}", self.name)
    }
}

/// Pending for ever when nothing is on its way.
async fn arrival(sending: &mut Option<Sending>) -> (Entry, Result<Bytes, Failure>) {
    match sending {
        Some(sending) => sending.await,
        None => std::future::pending().await,
    }
}

/// How snapshots are written for a destination.
enum Encoder {
    RemoteWrite(RemoteWrite),
    Otlp(Otlp),
}

impl Encoder {
    fn new(protocol: Protocol, labels: BTreeMap<String, String>) -> Self {
        match protocol {
            Protocol::RemoteWrite => Self::RemoteWrite(RemoteWrite::new(labels)),
            Protocol::Otlp => Self::Otlp(Otlp::new(labels)),
        }
    }

    fn encode(&mut self, snapshot: &Arc<Snapshot>) -> Vec<Entry> {
        match self {
            Self::RemoteWrite(encoder) => encoder.encode(snapshot),
            Self::Otlp(encoder) => encoder.encode(snapshot),
        }
    }

    /// Content type, encoding and further headers.
    fn form(&self) -> (&'static str, &'static str, &'static [(&'static str, &'static str)]) {
        match self {
            Self::RemoteWrite(_) => (remote_write::CONTENT_TYPE, remote_write::ENCODING, remote_write::HEADERS),
            Self::Otlp(_) => (otlp::CONTENT_TYPE, otlp::ENCODING, &[]),
        }
    }

    fn is_worth_another_try(&self, failure: &Failure) -> bool {
        match (self, failure.reason) {
            // OTLP 1.5, "Retryable Response Codes".
            (Self::Otlp(_), Reason::Status(status)) => matches!(status, 429 | 502 | 503 | 504),
            _ => failure.is_worth_another_try(),
        }
    }

    /// How many samples the answer to a success says were not taken, and why.
    fn rejected(&self, answer: &[u8]) -> Option<(u64, String)> {
        match self {
            Self::RemoteWrite(_) => None,
            Self::Otlp(_) => otlp::rejected(answer),
        }
    }
}

/// What every series gets: which host it is of, as a scrape would say.
fn labels(destination: &Destination) -> BTreeMap<String, String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut labels = BTreeMap::from([("job".into(), "steth".into()), ("instance".into(), host)]);
    labels.extend(destination.labels.clone());
    labels
}
