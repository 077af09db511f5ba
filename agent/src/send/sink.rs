//! One destination, on a thread of its own: takes a window at each interval, or what it is told, puts it into the spool, and sends
//! what the spool holds, oldest first. Whatever hangs, the network or the disk, holds up nobody else.

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval, sleep_until},
};

use super::{
    backoff::Backoff,
    encoder::{Encoder, Input},
    figures::Figures,
    http::{Answer, Client, Failure},
    spool::{Entry, Spool},
};
use crate::{
    config::destination::Destination,
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
    /// When a failure was last told.
    told: Option<Instant>,
}

/// Where a destination has it from.
pub enum Source {
    /// Windows, at each interval.
    Windows(Box<Windows>),
    /// Whoever tells what happens; it ends with them.
    Told(mpsc::Receiver<Input>),
}

/// A window that was asked for.
type Asked = Pin<Box<dyn Future<Output = Result<Arc<Snapshot>, NoSnapshot>>>>;

/// Asks for a window at each interval.
pub struct Windows {
    snapshots: SnapshotHandle,
    every: Duration,
    ticks: Interval,
    /// It was asked for; whoever stops waiting for it comes back to it.
    asked: Option<Asked>,
    /// The last one.
    taken: Option<Arc<Snapshot>>,
}

impl Source {
    /// Windows so far apart. Needs a runtime.
    pub fn windows(snapshots: SnapshotHandle, every: Duration) -> Self {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self::Windows(Box::new(Windows { snapshots, every, ticks, asked: None, taken: None }))
    }

    /// The next of it; `None` when there will be none. Nothing is lost if it is dropped before.
    async fn next(&mut self) -> Option<Input> {
        let windows = match self {
            Self::Told(told) => return told.recv().await,
            Self::Windows(windows) => windows,
        };
        loop {
            let Some(asked) = &mut windows.asked else {
                windows.ticks.tick().await;
                let snapshots = windows.snapshots.clone();
                windows.asked = Some(Box::pin(async move { snapshots.fresh().await }));
                continue;
            };
            let fresh = asked.await;
            windows.asked = None;
            match fresh {
                Ok(snapshot) if windows.taken.as_ref().is_some_and(|taken| Arc::ptr_eq(taken, &snapshot)) => {
                    // Still the one before: windows last about as long as it is from one to the next.
                    windows.ticks.reset_after(windows.every / 10);
                }
                Ok(snapshot) => {
                    windows.taken = Some(Arc::clone(&snapshot));
                    return Some(Input::Window(snapshot));
                }
                Err(NoSnapshot) => return None,
            }
        }
    }
}

/// A request on its way.
type Sending = Pin<Box<dyn Future<Output = (Entry, Result<Answer, Failure>)>>>;

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
            told: None,
        };
        if !sink.spool.is_empty() {
            tracing::info!("{}: {} requests wait from before", sink.shown(), sink.spool.len());
        }
        sink.show();
        sink
    }

    /// Takes and sends until there is nothing to take any more. May be dropped at any time: what is not known to have arrived
    /// stays in the spool.
    pub async fn run(mut self, mut source: Source) {
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
                taken = source.next() => match taken {
                    Some(input) => self.take(&input),
                    None => return,
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

    fn take(&mut self, input: &Input) {
        for entry in self.encoder.encode(input) {
            self.spool.push(entry);
        }
        if self.backoff.failures() > 0 {
            // It will have to wait, maybe for longer than the host runs.
            self.spool.sync();
        }
    }

    /// Has a client, or says how long to wait for one.
    fn client(&mut self) -> Result<(), Duration> {
        if self.client.as_ref().is_some_and(Client::is_current) {
            return Ok(());
        }
        match Client::new(&self.destination.endpoint) {
            Ok(client) => {
                if self.client.replace(client).is_some() {
                    tracing::info!("{}: its certificates were exchanged", self.shown());
                }
            }
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
        let request = self.encoder.request(&entry.payload);
        Some(Box::pin(async move {
            let outcome = client.post(request).await;
            (entry, outcome)
        }))
    }

    /// What became of the oldest entry; returns how long to wait before the next.
    fn arrived(&mut self, entry: &Entry, outcome: Result<Answer, Failure>) -> Duration {
        // At the limit it may have been dropped while it was on its way.
        let is_oldest = self.spool.oldest().as_ref() == Some(entry);
        match outcome {
            Ok(answer) => {
                if is_oldest {
                    self.spool.sent();
                }
                let rejected = self.encoder.rejected(&answer, entry.samples);
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
async fn arrival(sending: &mut Option<Sending>) -> (Entry, Result<Answer, Failure>) {
    match sending {
        Some(sending) => sending.await,
        None => std::future::pending().await,
    }
}

/// What every series gets: which host it is of, as a scrape would say.
fn labels(destination: &Destination) -> BTreeMap<String, String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut labels = BTreeMap::from([("job".into(), "steth".into()), ("instance".into(), host)]);
    labels.extend(destination.labels.clone());
    labels
}
