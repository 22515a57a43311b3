//! How the task comes by a cluster: what the [`Founding`] wants done.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{ControlParts, ControlTask, Done, Search, Standing};
use crate::{
    ids::NodeId,
    machine::{
        control::ControlState,
        founding::{Candidacy, Founder, Founding, FoundingEffect, Mismatch},
    },
    net::MeshStatus,
    raft::RaftNode,
};

/// How long a founder looks for a cluster that is there already before it founds one.
const LOOK_FIRST: Duration = Duration::from_millis(1_500);
/// How often a node without a cluster says so.
const SAY_SO: Duration = Duration::from_secs(10);
/// Most peers whose mismatch is remembered as said.
const MAX_WARNED: usize = 1_024;

/// The founding of this node, as far as it has come in earlier runs.
pub(super) fn of(parts: &ControlParts) -> Founding {
    let settings = &parts.settings;
    let founder = Founder {
        me: parts.mesh.local(),
        lock_manager: Candidacy::of(&settings.roles),
        cluster_name: settings.cluster_name.clone(),
        cache_protocol: settings.cache_protocol.clone(),
        cache: settings.cache.clone(),
        queue_partitions: settings.queue_partitions,
        expect: settings.expect,
        fresh_id: parts.fresh_id,
    };
    Founding::new(founder, parts.known_record.borrow().clone())
}

impl ControlTask {
    /// Acts on what the disk holds. A founder without a record that has somewhere to look for a cluster
    /// looks there first.
    pub(super) fn begin(&mut self) {
        let mut effects = Vec::new();
        let wall = self.parts.clock.wall();
        if self.founding.record().is_none() && self.parts.settings.search == Search::Elsewhere {
            self.found_at = Some(Instant::now() + LOOK_FIRST);
        } else {
            self.founding.may_found(wall, &mut effects);
        }
        self.founding.started(&mut effects);
        self.perform(effects);
    }

    /// The search is over, once everyone here has said whether there is a cluster.
    pub(super) fn found_when_due(&mut self) {
        let Some(at) = self.found_at else { return };
        let greeted = self.parts.greeted.borrow().clone();
        let all_heard = self.peers.keys().all(|peer| greeted.contains_key(peer) || self.warned.contains(peer));
        if Instant::now() >= at && (all_heard || at.elapsed() > LOOK_FIRST) {
            self.found_at = None;
            let mut effects = Vec::new();
            self.founding.may_found(self.parts.clock.wall(), &mut effects);
            self.perform(effects);
        }
    }

    pub(super) fn perform(&mut self, effects: Vec<FoundingEffect>) {
        for effect in effects {
            match effect {
                FoundingEffect::Store(record) => {
                    let records = Arc::clone(&self.parts.records);
                    self.work.spawn(async move { Done::Stored(records.save(record).await.map_err(|e| e.to_string())) });
                }
                FoundingEffect::Announce => {
                    if let Some(record) = self.founding.record() {
                        info!(cluster = %record.cluster_id, name = %record.cluster_name, "belongs to the cluster");
                    }
                    let peers: Vec<_> = self.peers.keys().copied().collect();
                    peers.into_iter().for_each(|peer| self.greet(peer));
                }
                FoundingEffect::Initialise(voters) => {
                    if let Some(raft) = self.parts.raft.clone() {
                        self.work.spawn(async move { Done::Initialised(initialise(&raft, voters).await) });
                    }
                }
                FoundingEffect::Refuse(mismatch) => self.refuse(&mismatch),
            }
        }
    }

    fn refuse(&mut self, mismatch: &Mismatch) {
        let peer = mismatch.peer();
        // Whom it was not told to turn to, such as another cluster nearby, is none of its business. Who refuses this
        // node too may have closed the connection by now.
        if self.parts.mesh.status().borrow().bootstrap.contains(&peer) {
            self.refused = Some(mismatch.to_string());
            self.stand_looking();
        }
        if self.warned.len() < MAX_WARNED && self.warned.insert(peer) {
            warn!(%peer, "refused: {mismatch}");
        }
        self.parts.mesh.disconnect(peer);
    }

    /// Brings up to date what this node shows while it looks for a cluster.
    fn stand_looking(&self) {
        let lock_managers = self.founding.lock_managers_waiting();
        let looking =
            Standing::Looking { lock_managers, expect: self.founding.expect(), refused: self.refused.clone() };
        self.parts.standing.send_if_modified(|known| {
            let news = matches!(known, Standing::Looking { .. }) && *known != looking;
            if news {
                *known = looking;
            }
            news
        });
    }

    /// Shows how far it has come, and tells the log of it now and then.
    pub(super) fn say_so(&mut self) {
        self.stand_looking();
        if self.said_at.is_some_and(|at| at.elapsed() < SAY_SO) {
            return;
        }
        // A node that has just started gives its peers a moment before it complains.
        if self.said_at.replace(Instant::now()).is_none() {
            return;
        }
        let mesh = self.parts.mesh.status().borrow().clone();
        let hint = mesh.key_hint();
        let why = why_not_found(self.refused.as_deref(), &mesh);
        match self.founding.expect() {
            Some(expect) => warn!(
                "waits for lock managers before it founds the cluster: {} of BOOTSTRAP_EXPECT={expect} are \
                 here; start the others with this node in BOOTSTRAP_PEERS{hint}",
                self.founding.lock_managers_waiting()
            ),
            None => warn!(
                peers = self.peers.len(),
                "has no cluster yet and waits: {}{hint}",
                why.as_deref().unwrap_or(
                    "exactly one node must be started with BOOTSTRAP_EXPECT=n to found one, or BOOTSTRAP_PEERS must name a \
                     member of one"
                )
            ),
        }
    }
}

/// Why a node that was told where to look has found no cluster there. `None`: nothing is wrong with where it looks, so
/// that there may be none yet.
pub(crate) fn why_not_found(refused: Option<&str>, mesh: &MeshStatus) -> Option<String> {
    let unanswered = || {
        let addrs = mesh.unanswered_text()?;
        Some(format!(
            "nobody answers at {addrs}, which BOOTSTRAP_PEERS names: start the nodes there, or correct the addresses; do not \
             found another cluster meanwhile"
        ))
    };
    refused.map(str::to_owned).or_else(unanswered)
}

/// Founders initialise once; on any later start their log says that it was done.
async fn initialise(raft: &RaftNode<ControlState>, voters: Vec<NodeId>) -> Result<(), String> {
    let outcome = raft.initialize(voters.into_iter().collect()).await;
    // Done in an earlier run, or another founder was faster and has asked for our vote.
    match raft.is_initialized().await {
        Ok(true) => Ok(()),
        _ => outcome.map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_found_no_cluster_says_what_became_of_the_addresses_that_it_was_given() {
        let unanswered = |reason: Option<&str>, count: u16| {
            let addr = |port| format!("/ip4/10.0.0.1/tcp/{port}").parse().expect("an address");
            let unanswered = (1..=count).map(|port| (addr(port), reason.map(str::to_owned))).collect();
            MeshStatus { unanswered, ..MeshStatus::default() }
        };
        assert_eq!(why_not_found(None, &MeshStatus::default()), None);
        let said = |refused, mesh: &MeshStatus| why_not_found(refused, mesh).expect("there is a reason");
        let one = said(None, &unanswered(Some("Connection refused"), 1));
        assert!(one.starts_with("nobody answers at /ip4/10.0.0.1/tcp/1 (Connection refused), which"), "{one}");
        assert!(said(None, &unanswered(None, 6)).contains("/tcp/4 (not yet) and at 2 more, which"));
        assert_eq!(said(Some("of another name"), &unanswered(None, 1)), "of another name", "it was met");
    }
}
