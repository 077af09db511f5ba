//! The open Postgres connections, by client process and by server. Knows how they are grouped, not where they are read.

use std::collections::{BTreeMap, HashMap, HashSet};

use steth_probes::cell::Role;

use crate::{
    aggregate::Names,
    model::{
        event::{ConnectionSeen, PostgresSeen, PostgresState},
        query::{ClientConnections, ConnectionCounts, Connections, Selection, ServerConnections},
    },
};

/// What there may be at most, by service.
pub struct Bounds<'a> {
    /// `max_connections` of servers.
    pub servers: BTreeMap<&'a str, u32>,
    /// The configured size of clients' pools.
    pub pools: &'a BTreeMap<String, usize>,
}

/// The connections to be shown: those that are Postgres, of this service and database.
pub fn selected<'a>(
    connections: &'a [ConnectionSeen],
    names: &Names,
    selection: &Selection,
) -> Vec<(&'a ConnectionSeen, PostgresSeen)> {
    let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let found = connections.iter().filter_map(|connection| Some((connection, connection.postgres?)));
    let found = found.filter(|(connection, postgres)| {
        is(&selection.service, names.service_name(connection.service).unwrap_or_default())
            && is(&selection.database, names.database(postgres.database))
    });
    found.collect()
}

/// The sockets of clients, to be looked for in processes.
pub fn client_inodes(found: &[(&ConnectionSeen, PostgresSeen)]) -> HashSet<u64> {
    let clients = found.iter().filter(|(_, postgres)| postgres.role != Some(Role::Server));
    clients.map(|(connection, _)| connection.inode).filter(|inode| *inode != 0).collect()
}

/// Groups them; `holders` are processes by the inodes of their sockets.
pub fn grouped(
    found: &[(&ConnectionSeen, PostgresSeen)],
    names: &Names,
    holders: &HashMap<u64, u32>,
    bounds: &Bounds<'_>,
    limit: usize,
) -> Connections {
    let mut clients: BTreeMap<(&str, Option<u32>, &str), ConnectionCounts> = BTreeMap::new();
    let mut servers: BTreeMap<&str, ConnectionCounts> = BTreeMap::new();
    for (connection, postgres) in found {
        let service = names.service_name(connection.service).unwrap_or("unknown");
        let counts = match postgres.role {
            Some(Role::Server) => servers.entry(service).or_default(),
            // Which end an encrypted one is, is not seen; a server is known by its setting.
            None if bounds.servers.contains_key(service) => servers.entry(service).or_default(),
            Some(Role::Client) | None => {
                let server = names.peer_name(connection.peer).unwrap_or_default();
                clients.entry((service, holders.get(&connection.inode).copied(), server)).or_default()
            }
        };
        counts.total += 1;
        *match postgres.state {
            PostgresState::Active => &mut counts.active,
            PostgresState::Idle => &mut counts.idle,
            PostgresState::IdleInTransaction => &mut counts.idle_in_transaction,
            PostgresState::EncryptedUnseen => &mut counts.encrypted_unseen,
        } += 1;
    }
    let mut clients: Vec<ClientConnections> = clients
        .into_iter()
        .map(|((service, pid, server), counts)| ClientConnections {
            service: service.to_owned(),
            pid,
            server: server.to_owned(),
            counts,
            pool_size: bounds.pools.get(service).copied(),
        })
        .collect();
    // Who has the most goes first; the order is otherwise that of the names.
    clients.sort_by_key(|client| std::cmp::Reverse(client.counts.total));
    clients.truncate(limit);
    let servers = servers.into_iter().map(|(service, counts)| ServerConnections {
        service: service.to_owned(),
        counts,
        max_connections: bounds.servers.get(service).copied(),
    });
    Connections { at_unix_ms: 0, clients, servers: servers.collect() }
}
