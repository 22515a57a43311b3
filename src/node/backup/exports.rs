//! The backups that are being fetched from this lock manager: frozen states, as the contents of their parts.
//!
//! One task owns them. A state is copied while nothing is applied, as for Raft's own snapshots, and encoded beside the
//! runtime. Who fetches a backup has a minute for each part.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::unknown_backup;
use crate::{
    clock::Clock,
    error::{Error, Outcome},
    machine::{
        backup::{BackupHeader, file::encode_parts},
        control::ControlState,
        lock::LockTable,
        membership::ClusterRecord,
    },
    raft::RaftNode,
    telemetry::Bounds,
};

/// Backups that are being fetched at a time.
const MAX_EXPORTS: usize = 4;
/// How long one is kept of which nothing is asked.
const IDLE: Duration = Duration::from_secs(60);
/// Requests to the task that may wait.
const INBOX: usize = 64;

#[derive(Debug)]
enum Ask {
    Begin(oneshot::Sender<Result<(u64, BackupHeader), Error>>),
    Part(u64, u32, oneshot::Sender<Option<Bytes>>),
}

/// How others speak to the task. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Exports {
    inbox: mpsc::Sender<Ask>,
}

#[derive(Debug)]
struct Export {
    parts: Vec<Bytes>,
    asked: Instant,
}

/// The task.
#[derive(Debug)]
pub(crate) struct ExportTask {
    raft: RaftNode<ControlState>,
    clock: Arc<dyn Clock>,
    bounds: Bounds,
    exports: BTreeMap<u64, Export>,
    inbox: mpsc::Receiver<Ask>,
}

/// Makes the task and the handle to it; the caller spawns the task.
pub(crate) fn exports(raft: RaftNode<ControlState>, clock: Arc<dyn Clock>, bounds: Bounds) -> (Exports, ExportTask) {
    let (sender, inbox) = mpsc::channel(INBOX);
    (Exports { inbox: sender }, ExportTask { raft, clock, bounds, exports: BTreeMap::new(), inbox })
}

impl Exports {
    /// Freezes the state as it is here now; the caller has made sure that it is that of the leader.
    pub(crate) async fn begin(&self) -> Result<(u64, BackupHeader), Error> {
        let (reply, answer) = oneshot::channel();
        let sent = self.inbox.send(Ask::Begin(reply)).await;
        match (sent, answer.await) {
            (Ok(()), Ok(begun)) => begun,
            _ => Err(stopping()),
        }
    }

    /// One part of a backup that was begun here.
    pub(crate) async fn part(&self, id: u64, number: u32) -> Result<Bytes, Error> {
        let (reply, answer) = oneshot::channel();
        let sent = self.inbox.send(Ask::Part(id, number, reply)).await;
        match (sent, answer.await) {
            (Ok(()), Ok(part)) => part.ok_or_else(unknown_backup),
            _ => Err(stopping()),
        }
    }
}

fn stopping() -> Error {
    Error::unavailable(Outcome::NotApplied, "the leader that was asked is stopping: begin the backup anew")
}

impl ExportTask {
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut sweep = tokio::time::interval(IDLE / 4);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = sweep.tick() => self.exports.retain(|_, export| export.asked.elapsed() < IDLE),
                ask = self.inbox.recv() => match ask {
                    Some(Ask::Begin(reply)) => {
                        let begun = self.begin().await;
                        // Who hung up asks no further, and it is swept out.
                        let _ = reply.send(begun);
                    }
                    Some(Ask::Part(id, number, reply)) => {
                        let _ = reply.send(self.part(id, number));
                    }
                    None => return,
                },
            }
        }
    }

    async fn begin(&mut self) -> Result<(u64, BackupHeader), Error> {
        self.exports.retain(|_, export| export.asked.elapsed() < IDLE);
        if self.exports.len() >= MAX_EXPORTS {
            self.bounds.hit("node.backups");
            let detail = format!("{MAX_EXPORTS} backups are being fetched already: try again in a minute");
            return Err(Error::unavailable(Outcome::NotApplied, detail));
        }
        let term = self.raft.status().borrow().term;
        let frozen = self.raft.with_state(|state, index| {
            let record: Option<ClusterRecord> = state.cluster().cloned();
            (record, state.locks().clone(), index)
        });
        let (record, locks, applied_index) = frozen.map_err(|_| stopping())?;
        let record = record.ok_or_else(stopping)?;
        let encode = move |locks: LockTable| (locks.record_counts(), locks.token().0, encode_parts(locks.records()));
        let encoded = tokio::task::spawn_blocking(move || encode(locks)).await;
        let (counts, token, parts) = encoded.map_err(|error| {
            warn!(%error, "a backup could not be encoded");
            Error::internal("a backup could not be encoded")
        })?;
        let header = BackupHeader {
            cluster_id: record.cluster_id,
            cluster_name: record.cluster_name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            created_at: self.clock.wall(),
            term,
            applied_index,
            token,
            counts,
            parts: u32::try_from(parts.len()).map_err(Error::internal)?,
        };
        info!(
            sessions = counts.sessions,
            holds = counts.holds,
            parts = header.parts,
            applied_index,
            "a backup is fetched"
        );
        let id = rand::random();
        if !parts.is_empty() {
            self.exports.insert(id, Export { parts, asked: Instant::now() });
        }
        Ok((id, header))
    }

    /// The last part is asked for again where its answer is lost: so it ends nothing, and the sweep does.
    fn part(&mut self, id: u64, number: u32) -> Option<Bytes> {
        let export = self.exports.get_mut(&id)?;
        export.asked = Instant::now();
        export.parts.get(number as usize).cloned()
    }
}
