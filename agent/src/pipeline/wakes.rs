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

/// Waits until samples are to be taken; without a time, for ever.
pub async fn due(at: Option<Instant>, wakes: Option<Arc<Wakes>>) {
    let Some(at) = at else { return std::future::pending().await };
    let come = async {
        match &wakes {
            Some(wakes) => wakes.come().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = tokio::time::sleep_until(at.into()) => {}
        () = come => {}
    }
}
