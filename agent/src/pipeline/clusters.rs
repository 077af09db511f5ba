//! What is asked of Postgres clusters beside their connections: what they were set to, and where their processes note what they run,
//! which the kernel programs are told.

use std::{collections::HashMap, path::Path};

use crate::{
    host::{self, Patience},
    ingest::{self, Cells},
    model::event::ServiceSeen,
};

/// A cluster that just starts has no processes yet: so often is it looked at, once each window.
const LOOKS: u8 = 10;

const PROC: &str = "/proc";

const NOT_FOUND: &str = "its processes do not note it in a known way (PostgreSQL 14 to 17)";

/// Clusters that were met.
#[derive(Debug, Default)]
pub struct Clusters {
    /// How often each was looked at, by its service.
    looks: HashMap<u32, u8>,
    patience: Patience,
}

impl Clusters {
    /// Looks at those among the services that are not understood yet.
    pub fn look(&mut self, cells: &Cells, services: &[ServiceSeen]) {
        for (service, postmaster) in services.iter().filter_map(|seen| Some((seen.number, seen.cluster_pid?))) {
            let looks = self.looks.entry(service).or_default();
            if *looks >= LOOKS {
                continue;
            }
            let find = move || ingest::find_backends(Path::new(PROC), postmaster);
            let Some(found) = self.patience.ask(postmaster, find) else { continue };
            *looks += 1;
            let found = match found {
                Ok(found) => {
                    let told = cells.set_backends(service, found.backends());
                    told.map(|()| found).map_err(|error| error.to_string())
                }
                // Of who is gone nothing is missing.
                Err(_) if !Path::new(PROC).join(postmaster.to_string()).exists() => continue,
                Err(error) => Err(error.to_string()),
            };
            let is_last = *looks == LOOKS;
            // Its statements are known from the wire; only those prepared before the agent came are not.
            let statements = "statements that were prepared in it before now";
            let waits = "what its processes wait for, where their system calls do not say so";
            let (missing, reason) = match &found {
                Ok(found) if found.statements.is_some() && found.event_address.is_some() => {
                    *looks = LOOKS;
                    continue;
                }
                Ok(found) if found.statements.is_some() => (waits.to_owned(), NOT_FOUND),
                Ok(_) => (statements.to_owned(), NOT_FOUND),
                Err(reason) => (format!("{statements}, and {waits}"), reason.as_str()),
            };
            if is_last {
                tracing::info!("of the PostgreSQL of process {postmaster} stay unknown: {missing}: {reason}");
            }
        }
    }

    /// The major version of the server with this postmaster, if its files say so in time.
    pub fn server_version(&mut self, postmaster: u32) -> Option<u32> {
        self.patience.ask(postmaster, move || host::server_version(Path::new(PROC), postmaster)).flatten()
    }

    /// How many connections it lets in, if its files say so in time.
    pub fn max_connections(&mut self, postmaster: u32) -> Option<u32> {
        self.patience.ask(postmaster, move || host::max_connections(Path::new(PROC), postmaster)).flatten()
    }
}
