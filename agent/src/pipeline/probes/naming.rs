//! What services and peers are called, and which servers there are.

use std::collections::BTreeMap;

use steth_probes::socket::tcp_state;

use super::Probes;
use crate::model::event::{PeerSeen, Reading, ServiceSeen};

impl Probes {
    pub(super) fn name_services(&mut self, services: &[ServiceSeen]) {
        for service in services {
            if self.names.has_service(service.number) {
                continue;
            }
            let name = self.services.name(service);
            let is_own = self.leaves_own_out && self.services.is_own(service);
            if is_own {
                self.own.insert(service.number);
            }
            if is_own || self.exclude.iter().any(|excluded| **excluded == *name) {
                match self.cells.exclude(service.number, true) {
                    Ok(()) => _ = self.left_out.insert(service.number),
                    Err(error) => tracing::warn!("cannot leave out service {name}: {error}"),
                }
            }
            if let Some(postmaster) = service.cluster_pid {
                if let Some(version) = self.clusters.server_version(postmaster) {
                    self.names.set_server_version(service.number, version);
                }
                self.postmasters.insert(service.number, (postmaster, self.clusters.max_connections(postmaster)));
            }
            if self.told.wants(&name) {
                self.mark(service.number, &name);
            }
            self.names.set_service(service.number, name);
            if let Some(path) = self.services.cgroup_path(service) {
                self.names.set_cgroup(service.number, path.into());
            }
        }
        self.clusters.look(&self.cells, services);
    }

    pub(super) fn name_peers(&mut self, reading: &Reading) {
        for peer in &reading.peers {
            if !self.names.has_peer(peer.number) {
                self.names.set_peer(peer.number, self.peer_name(peer, reading));
            }
        }
    }

    /// A peer on this host that listens is known by its service, any other by its address.
    fn peer_name(&self, peer: &PeerSeen, reading: &Reading) -> String {
        let listener = |port| {
            let found = reading.connections.iter().find(|connection| {
                connection.tcp_state == Some(tcp_state::LISTEN) && connection.port == port && connection.service != 0
            });
            found.and_then(|connection| self.names.service_name(connection.service))
        };
        let named = peer.port.filter(|_| peer.address.is_loopback()).and_then(listener);
        named.map_or_else(|| peer.shown(), str::to_owned)
    }

    /// How many connections each server allows. A cluster that was started again has another number and the same name.
    pub(super) fn servers(&self) -> BTreeMap<&str, u32> {
        let servers = self.postmasters.iter();
        servers.filter_map(|(service, (_, most))| Some((self.names.service_name(*service)?, (*most)?))).collect()
    }
}
