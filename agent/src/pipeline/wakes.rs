//! When samples are taken from their ring: at due times, and at once when code is met that has no unwind table, or when one was made.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Instant};

use tokio::{io::unix::AsyncFd, sync::Notify};

use crate::kernel::sampling;

/// What may come before the due time.
#[derive(Debug)]
pub struct Wakes {
    /// The ring of samples, which the kernel says is to be read when it tells of a file without a table.
    ring: AsyncFd<OwnedFd>,
    made: Arc<Notify>,
}

impl Wakes {
    /// Of a ring, and of who makes tables. For where tokio runs.
    ///
    /// # Errors
    /// If the ring cannot be waited for.
    pub fn new(ring: OwnedFd, made: Arc<Notify>) -> io::Result<Self> {
        Ok(Self { ring: sampling::awaited(ring)?, made })
    }

    async fn come(&self) {
        tokio::select! {
            Ok(mut readable) = self.ring.readable() => readable.clear_ready(),
            () = self.made.notified() => {}
        }
    }
}

/// When samples are to be taken.
#[derive(Clone, Debug)]
pub struct Due {
    /// Not before, whoever wakes: what comes again and again must not take more than its share.
    pub earliest: Instant,
    /// Whatever comes.
    pub latest: Instant,
    /// What may come between.
    pub wakes: Option<Arc<Wakes>>,
}

/// Waits until samples are to be taken; where nobody waits for any, for ever.
pub async fn due(due: Option<Due>) {
    let Some(Due { earliest, latest, wakes }) = due else { return std::future::pending().await };
    let come = async {
        tokio::time::sleep_until(earliest.into()).await;
        match &wakes {
            Some(wakes) => wakes.come().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = tokio::time::sleep_until(latest.into()) => {}
        () = come => {}
    }
}
