//! The names behind the kernel's numbers. Does not find them out itself: stages before it do.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use steth_probes::postgres::{STATEMENT_OTHER, STATEMENT_UNKNOWN};

use super::shown::OTHER;

/// What is known of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementName {
    /// Fingerprint as it is shown.
    pub fingerprint: String,
    /// Operation, such as `SELECT`.
    pub operation: &'static str,
    /// Operation and tables.
    pub summary: String,
    /// The text without literals.
    pub text: String,
}

/// All names.
#[derive(Debug, Default)]
pub struct Names {
    services: HashMap<u32, Arc<str>>,
    cgroups: HashMap<u32, Arc<str>>,
    peers: HashMap<u32, String>,
    statements: HashMap<u32, StatementName>,
    databases: HashMap<u32, String>,
    versions: HashMap<u32, u32>,
}

/// Where a name is not known.
const UNKNOWN: &str = "unknown";

impl Names {
    /// Names a service.
    pub fn set_service(&mut self, number: u32, name: Arc<str>) {
        self.services.insert(number, name);
    }

    /// Says in which control group a service lives.
    pub fn set_cgroup(&mut self, number: u32, path: Arc<str>) {
        self.cgroups.insert(number, path);
    }

    /// The path of a service's control group below the root of its hierarchy, if it is known.
    pub fn cgroup(&self, number: u32) -> Option<&str> {
        self.cgroups.get(&number).map(|path| &**path)
    }

    /// Whether a service has a name.
    pub fn has_service(&self, number: u32) -> bool {
        self.services.contains_key(&number)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = (u32, &Arc<str>)> {
        self.services.iter().map(|(number, name)| (*number, name))
    }

    /// The name of a service, if it has one.
    pub fn service_name(&self, number: u32) -> Option<&str> {
        self.services.get(&number).map(|name| &**name)
    }

    /// Says which version of PostgreSQL a service is.
    pub fn set_server_version(&mut self, service: u32, version: u32) {
        self.versions.insert(service, version);
    }

    /// That version, if it is known.
    pub(super) fn server_version(&self, service: u32) -> Option<u32> {
        self.versions.get(&service).copied()
    }

    /// Whether a peer has a name.
    pub fn has_peer(&self, number: u32) -> bool {
        self.peers.contains_key(&number)
    }

    /// Names a peer.
    pub fn set_peer(&mut self, number: u32, name: String) {
        self.peers.insert(number, name);
    }

    /// The name of a peer, if it has one.
    pub fn peer_name(&self, number: u32) -> Option<&str> {
        self.peers.get(&number).map(String::as_str)
    }

    /// Names a statement.
    pub fn set_statement(&mut self, number: u32, name: StatementName) {
        self.statements.insert(number, name);
    }

    /// Names a database or user.
    pub fn set_database(&mut self, number: u32, name: String) {
        self.databases.insert(number, name);
    }

    pub(super) fn service(&self, number: u32) -> &str {
        match self.services.get(&number) {
            Some(name) => name,
            None => OTHER,
        }
    }

    pub(super) fn peer(&self, number: u32) -> &str {
        match self.peers.get(&number) {
            Some(name) => name,
            None => OTHER,
        }
    }

    /// A database's name, or that it is unknown.
    pub fn database(&self, number: u32) -> &str {
        match self.databases.get(&number) {
            Some(name) => name,
            None => UNKNOWN,
        }
    }

    /// Fingerprint and operation.
    pub(super) fn statement(&self, number: u32) -> (&str, &'static str) {
        match (number, self.statements.get(&number)) {
            (STATEMENT_OTHER, _) => (OTHER, "OTHER"),
            (STATEMENT_UNKNOWN, _) | (_, None) => (UNKNOWN, "UNKNOWN"),
            (_, Some(name)) => (&name.fingerprint, name.operation),
        }
    }

    /// The fingerprint of a statement, if it is known.
    pub fn fingerprint(&self, number: u32) -> Option<&str> {
        self.statements.get(&number).map(|name| name.fingerprint.as_str())
    }

    /// Summary and text.
    pub(super) fn statement_text(&self, number: u32) -> (&str, &str) {
        self.statements.get(&number).map_or(("", ""), |name| (&name.summary, &name.text))
    }

    /// How many numbers of statements have a text.
    pub fn statement_count(&self) -> usize {
        self.statements.len()
    }

    /// How many fingerprints those have; takes a look at each.
    pub fn fingerprint_count(&self) -> usize {
        self.statements.values().map(|name| name.fingerprint.as_str()).collect::<HashSet<_>>().len()
    }

    pub(super) fn statements(&self) -> impl Iterator<Item = &StatementName> {
        self.statements.values()
    }
}
