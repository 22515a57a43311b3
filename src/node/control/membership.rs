//! What the task tells the leader, and what it hears from it: joining, heartbeats, views.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, error, info};

use super::{ControlTask, Done, MemberLease, Standing, VERSION, reply};
use crate::{
    codec::encode,
    ids::{NodeId, Tick},
    machine::{
        cache::believed_ms,
        membership::{ClusterRecord, Joiner},
    },
    net::{CallError, Lane, Mesh, Protocol},
    node::{
        authority::Authority,
        wire::{ControlCall, ControlReply, Leader, Refused},
    },
};

/// A node heartbeats so many times within its lease as a member, however great its own `FAILURE_TIMEOUT` is.
const HEARTBEATS_PER_LEASE: u32 = 3;

/// What was told to a leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Join,
    Heartbeat,
}

impl ControlTask {
    fn joiner(&self) -> Joiner {
        let settings = &self.parts.settings;
        let journal = settings.journal.borrow().clone();
        Joiner {
            node: self.me(),
            incarnation: settings.incarnation,
            roles: settings.roles.iter().copied().collect(),
            addrs: self.addrs(),
            version: VERSION.to_owned(),
            journal: journal.as_ref().and_then(|journal| journal.id),
            journal_safety: journal.map(|journal| journal.safety).unwrap_or_default(),
        }
    }

    pub(super) fn tell_leader(&mut self) {
        let Some(leader) = self.parts.route.leader() else { return };
        let joiner = self.joiner();
        let draining = self.parts.draining.is_cancelled();
        let joined = self.joined_as.as_ref().is_some_and(|joined| draining || *joined == joiner);
        let (call, told) = if joined {
            if self.told_at.elapsed() < self.heartbeat() {
                return;
            }
            let view = self.parts.route.view().version;
            (ControlCall::Heartbeat { incarnation: joiner.incarnation, view }, Told::Heartbeat)
        } else if draining {
            return;
        } else {
            self.joined_as = Some(joiner.clone());
            (ControlCall::Join(Box::new(joiner)), Told::Join)
        };
        self.telling = true;
        self.told_at = Instant::now();
        let (me, authority) = (self.me(), self.parts.authority.clone());
        let mesh = Arc::clone(&self.parts.mesh);
        let sent = self.parts.clock.now();
        let (route, patience) = (self.parts.route.clone(), self.heartbeat() * 2);
        self.work.spawn(async move {
            // A leader that is silent must not keep this node from telling the next one.
            let outcome = tokio::select! {
                outcome = tell(&*mesh, authority.as_ref(), me, leader.node, call) => outcome,
                () = route.other_leader_than(leader) => Err(CallError::Timeout(leader.node)),
                () = tokio::time::sleep(patience) => Err(CallError::Timeout(leader.node)),
            };
            Done::Told { leader, call: told, sent, outcome }
        });
    }

    pub(super) fn answered(
        &mut self,
        leader: Leader,
        (call, sent): (Told, Tick),
        outcome: Result<ControlReply, CallError>,
    ) {
        match outcome {
            Ok(ControlReply::Joined(view)) => {
                self.parts.route.install(*view);
                if *self.parts.standing.borrow() != Standing::Member {
                    info!(leader = %leader.node, term = leader.term.0, "is a member of the cluster");
                }
                self.parts.standing.send_replace(Standing::Member);
            }
            Ok(ControlReply::Alive { leader, version, view }) => {
                self.learn(leader);
                if let Some(view) = view {
                    self.parts.route.install(*view);
                }
                self.extend_lease(sent, version);
            }
            Ok(ControlReply::JoinFirst) => self.joined_as = None,
            Ok(ControlReply::Refused(reason @ (Refused::Barred | Refused::OlderIncarnation | Refused::Full))) => {
                self.barred(reason);
            }
            Ok(ControlReply::Refused(Refused::HasLeft)) => {
                self.parts.standing.send_replace(Standing::Left);
            }
            Ok(ControlReply::NotLeader(other)) => {
                debug!(leader = %leader.node, ?other, ?call, "does not lead, or cannot decide");
                self.forget_join(call);
                self.parts.route.doubt(leader);
                if let Some(other) = other {
                    self.learn(other);
                }
            }
            Ok(reply) => {
                self.forget_join(call);
                debug!(?reply, ?call, "the leader could not do it now");
            }
            Err(reason) => {
                self.forget_join(call);
                debug!(%reason, ?call, "the leader was not reached");
                self.parts.route.doubt(leader);
            }
        }
    }

    /// How often this node heartbeats.
    fn heartbeat(&self) -> Duration {
        heartbeat(self.parts.settings.heartbeat, self.founding.record())
    }

    /// The leader has renewed this node's lease as a member: from when the heartbeat was sent, and only as far as the
    /// view is known that the leader knew.
    fn extend_lease(&self, sent: Tick, version: u64) {
        let installed = self.parts.route.view().version;
        let Some(record) = self.founding.record().filter(|_| installed >= version) else { return };
        let until = sent.plus_ms(believed_ms(record.cache.member_lease_ms));
        self.parts.lease.send_if_modified(|lease| {
            let is_longer = until > lease.until;
            if is_longer {
                *lease = MemberLease { until, view: version };
            }
            is_longer
        });
    }

    fn forget_join(&mut self, call: Told) {
        if call == Told::Join {
            self.joined_as = None;
        }
    }

    fn barred(&mut self, reason: Refused) {
        let reason = reason.told_by(self.me());
        error!(%reason, "refused by the cluster");
        self.parts.standing.send_replace(Standing::Barred(reason));
    }

    pub(super) fn view_changed(&mut self) {
        let view = self.parts.route.view();
        let me = self.me();
        let belongs = view.members.iter().filter(|(node, member)| **node != me && member.belongs());
        let addrs = belongs.map(|(node, member)| {
            let addrs = member.joiner.addrs.iter().filter_map(|addr| addr.parse().ok());
            (*node, addrs.collect())
        });
        self.parts.mesh.set_members(addrs.collect());
        self.parts.greeted.send_if_modified(|greeted| {
            let some_are_barred = view.barred.iter().any(|peer| greeted.contains_key(peer));
            if some_are_barred {
                Arc::make_mut(greeted).retain(|peer, _| !view.barred.contains(peer));
            }
            some_are_barred
        });
        // A view from before this run may be older than an admission: then the leader has the word.
        if view.barred.contains(&me) && *self.parts.standing.borrow() == Standing::Member {
            return self.barred(Refused::Barred);
        }
        if self.parts.route.has_left(me, self.parts.settings.incarnation) {
            self.parts.standing.send_replace(Standing::Left);
        }
    }
}

/// How often a node heartbeats that is set to do so every `set`: the lease that it renews is as the cluster was founded.
fn heartbeat(set: Duration, record: Option<&ClusterRecord>) -> Duration {
    let lease = record.map(|record| Duration::from_millis(record.cache.member_lease_ms));
    lease.map_or(set, |lease| set.min(lease / HEARTBEATS_PER_LEASE))
}

/// Tells the leader something, be it this node itself or a peer.
pub(crate) async fn tell(
    mesh: &dyn Mesh,
    authority: Option<&Authority>,
    me: NodeId,
    leader: NodeId,
    call: ControlCall,
) -> Result<ControlReply, CallError> {
    match authority {
        Some(authority) if leader == me => Ok(authority.control(me, call).await),
        _ => reply(mesh.call(leader, Protocol::Control, Lane::End, encode(&call)).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::ClusterId, machine::membership::CacheTerms};

    #[test]
    fn a_node_with_a_greater_failure_timeout_than_its_cluster_was_founded_with_keeps_its_lease() {
        let record = ClusterRecord {
            cluster_id: ClusterId(1),
            cluster_name: "default".into(),
            founders: Vec::new(),
            queue_partitions: 64,
            cache_protocol: "MESI".into(),
            cache: CacheTerms { member_lease_ms: 1_300, ..CacheTerms::default() },
            founded_at: Tick(0),
        };
        let every = |set_ms, record| heartbeat(Duration::from_millis(set_ms), record).as_millis();
        assert_eq!(every(400, Some(&record)), 400, "the default of both");
        assert_eq!(every(1_200, Some(&record)), 433, "a third of the lease");
        assert_eq!(every(1_200, None), 1_200);
    }
}
