//! Tells the kernel programs where the processes of each Postgres cluster note what they run.

use std::path::Path;

use crate::ingest::{self, Cells};

/// A cluster that just starts has no processes yet: so often is it looked at, once each window.
const LOOKS: u8 = 10;

/// Clusters that were met and not yet understood.
#[derive(Debug, Default)]
pub struct Clusters {
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    service: u32,
    postmaster: u32,
    looks: u8,
}

impl Clusters {
    /// A cluster was met.
    pub fn meet(&mut self, service: u32, postmaster: u32) {
        self.waiting.push(Waiting { service, postmaster, looks: 0 });
    }

    /// Looks at those that wait.
    pub fn look(&mut self, cells: &Cells) {
        self.waiting.retain_mut(|cluster| {
            let told = match ingest::find_backends(Path::new("/proc"), cluster.postmaster) {
                Ok(backends) => cells.set_backends(cluster.service, backends).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            cluster.looks += 1;
            let Err(reason) = told else { return false };
            let last = cluster.looks >= LOOKS;
            if last {
                // Its statements are known from the wire; only those prepared before the agent came are not.
                tracing::info!(
                    "statements that were prepared in the PostgreSQL of process {} before now stay unknown: {reason}",
                    cluster.postmaster
                );
            }
            !last
        });
    }
}
