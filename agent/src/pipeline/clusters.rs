//! Tells the kernel programs where the processes of each Postgres cluster note what they run.

use std::{collections::HashMap, path::Path};

use crate::{
    ingest::{self, Cells},
    model::event::ServiceSeen,
};

/// A cluster that just starts has no processes yet: so often is it looked at, once each window.
const LOOKS: u8 = 10;

/// Clusters that were met.
#[derive(Debug, Default)]
pub struct Clusters {
    /// How often each was looked at, by its service.
    looks: HashMap<u32, u8>,
}

impl Clusters {
    /// Looks at those among the services that are not understood yet.
    pub fn look(&mut self, cells: &Cells, services: &[ServiceSeen]) {
        for (service, postmaster) in services.iter().filter_map(|seen| Some((seen.number, seen.cluster_pid?))) {
            let looks = self.looks.entry(service).or_default();
            if *looks >= LOOKS {
                continue;
            }
            *looks += 1;
            let told = match ingest::find_backends(Path::new("/proc"), postmaster) {
                Ok(backends) => cells.set_backends(service, backends).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match told {
                Ok(()) => *looks = LOOKS,
                // Its statements are known from the wire; only those prepared before the agent came are not.
                Err(reason) if *looks == LOOKS => tracing::info!(
                    "statements that were prepared in the PostgreSQL of process {postmaster} before now stay unknown: {reason}"
                ),
                Err(_) => {}
            }
        }
    }
}
