//! The last resort when a quorum of the group is lost for good: one member's log becomes all there is.
//!
//! Used offline, on the files of a node that does not run. [`Remains::read`] applies everything that the log holds on top
//! of the snapshot, committed or not: which of the last entries were committed, nobody is left to say. [`Remains::found_anew`]
//! writes a snapshot of the changed state with this node as the only voter, under a log id beyond all that the log holds
//! and in a term beyond all that were voted in. The vote is written first, then the snapshot replaces the old one at
//! once: a crash in between leaves the node as it was, in a later term. What the log holds is covered by the snapshot
//! then, and is purged when the node starts.

use std::{collections::BTreeSet, path::Path};

use openraft::Membership as Voters;

use crate::{
    ids::{NodeId, Tick},
    raft::{
        apply::{Current, apply_entry, restored},
        disk::DiskVote,
        log::{DiskLog, READ_BYTES},
        snapshot::{self, SnapshotFile, SnapshotStore},
        storage::RaftStorageError,
        types::{CommittedLeader, LogId, Membership, Replicated, Vote},
    },
};

/// The term grows by so much: no leader that is lost can have had a later one, and whoever still follows one believes the
/// recovered node at once.
const TERM_JUMP: u64 = 1 << 20;

/// What is left on the disk of one member of a group.
#[derive(Debug)]
pub struct Remains<S: Replicated> {
    log: DiskLog,
    snapshots: SnapshotFile,
    vote: Option<Vote>,
    committed: Option<LogId>,
    current: Current<S>,
}

/// How far what is left goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The term of the last entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
    /// The last entry that this node knows to be committed.
    pub committed: u64,
    /// The term in which the node voted or followed last.
    pub voted: u64,
}

impl<S: Replicated> Remains<S> {
    /// Reads snapshot and log of the node whose log has this id. Changes nothing.
    ///
    /// # Errors
    /// Where they are not there, damaged, or in use.
    pub fn read(dir: &Path, log_id: u128) -> Result<Self, RaftStorageError> {
        let log = DiskLog::open(dir, log_id)?;
        let snapshots = SnapshotFile::new(dir);
        let damaged = |error: std::io::Error| RaftStorageError::corrupt(&snapshots.path(), error);
        let mut current = match snapshots.load()? {
            Some(image) => {
                let (header, state) = snapshot::decode::<S>(&image).map_err(damaged)?;
                restored(header, state)
            }
            None => Current::default(),
        };
        let (vote, committed, last) = log.extent();
        let end = last.map_or(0, |last| last.index + 1);
        let mut next = current.last_applied.map_or(0, |last| last.index + 1);
        while next < end {
            let entries = log.read::<S>(next, end, READ_BYTES).map_err(RaftStorageError::io(dir))?;
            for entry in entries {
                if entry.log_id.index != next {
                    let gap = format!("entry {next} is missing between the snapshot and the log");
                    return Err(RaftStorageError::corrupt(dir, gap));
                }
                apply_entry(&mut current, entry, &mut Vec::new());
                next += 1;
            }
        }
        Ok(Self { log, snapshots, vote, committed, current })
    }

    /// The state that all of it makes.
    pub fn state(&self) -> &S {
        &self.current.state
    }

    /// The time of the last entry.
    pub fn clock(&self) -> Tick {
        self.current.clock
    }

    /// Who voted or followed, by the last membership in the log.
    pub fn group(&self) -> BTreeSet<NodeId> {
        self.current.membership.nodes().map(|(node, _)| *node).collect()
    }

    /// How far it goes.
    pub fn extent(&self) -> Extent {
        let last = self.current.last_applied;
        Extent {
            term: last.map_or(0, |last| last.leader_id.term),
            index: last.map_or(0, |last| last.index),
            committed: self.committed.max(self.snapshot_end()).map_or(0, |committed| committed.index),
            voted: self.vote.map_or(0, |vote| vote.leader_id.term),
        }
    }

    /// What a snapshot holds was committed.
    fn snapshot_end(&self) -> Option<LogId> {
        let image = self.snapshots.load().ok().flatten()?;
        snapshot::decode_header(&image).ok()?.meta.last_log_id
    }

    /// Makes `me` the only member of the group, with this state.
    ///
    /// # Errors
    /// Where the disk refuses. The node is as it was then, or in a later term.
    pub async fn found_anew(mut self, me: NodeId, state: S) -> Result<(), RaftStorageError> {
        let extent = self.extent();
        let term = extent.term.max(extent.voted) + TERM_JUMP;
        let last = LogId::new(CommittedLeader { term }, extent.index + 1);
        self.log.save_recovered_vote(DiskVote(Vote::new(term, me))).await?;
        let only_me = Voters::new_with_defaults(vec![BTreeSet::from([me])], []);
        self.current.last_applied = Some(last);
        self.current.membership = Membership::new(Some(last), only_me);
        let image =
            snapshot::encode(&self.current.header(), &state).map_err(RaftStorageError::io(&self.snapshots.path()))?;
        self.snapshots.keep(&image)
    }
}
