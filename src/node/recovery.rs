//! The last resort after the loss of a quorum, on the data directory of one lock manager that does not run.
//!
//! [`Survivor::open`] takes the directory as a node would, and reads what is left; [`Survivor::plan`] says what a recovery
//! would make of it; [`Survivor::recover`] does that. The node is started as usual afterwards and leads a cluster of one,
//! which others join as new.

use std::{io, path::Path};

use super::records::{RecordFile, raft_dir};
pub use crate::machine::control::{NotRecoverable, Recovery};
use crate::{
    clock::{Clock, SystemClock},
    ids::{ClusterId, NodeId},
    machine::control::ControlState,
    net::identity::{DataDir, DataDirError},
    raft::{Extent, RaftStorageError, Remains},
};

/// Why a data directory cannot be recovered. Nothing was changed, unless the disk refused half way: then the command can
/// be repeated.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// It cannot be had.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The record of its cluster cannot be read.
    #[error(transparent)]
    Record(#[from] io::Error),
    /// Log or snapshot cannot be read.
    #[error(transparent)]
    Storage(#[from] RaftStorageError),
    /// It belongs to no cluster.
    #[error("the node of {0} belongs to no cluster: there is nothing to recover")]
    NoCluster(String),
    /// What it has is nothing to go on with.
    #[error(transparent)]
    NotRecoverable(#[from] NotRecoverable),
}

/// A lock manager that does not run, and what it has.
#[derive(Debug)]
pub struct Survivor {
    /// Its id, which it keeps.
    pub node: NodeId,
    /// Its cluster, which stays the same.
    pub cluster_id: ClusterId,
    /// The name of that.
    pub cluster_name: String,
    /// How far its log goes.
    pub extent: Extent,
    remains: Remains<ControlState>,
    _held: DataDir,
}

impl Survivor {
    /// Takes the data directory, and reads it.
    ///
    /// # Errors
    /// [`RecoveryError`], also while a node runs on it.
    pub fn open(data_dir: &Path) -> Result<Self, RecoveryError> {
        let held = DataDir::open_existing(data_dir)?;
        let record = RecordFile::new(held.path()).load()?;
        let record = record.ok_or_else(|| RecoveryError::NoCluster(data_dir.display().to_string()))?;
        let (node, log_id) = held.last_identity()?;
        let remains = Remains::<ControlState>::read(&raft_dir(held.path()), log_id)?;
        Ok(Self {
            node,
            cluster_id: record.cluster_id,
            cluster_name: record.cluster_name,
            extent: remains.extent(),
            remains,
            _held: held,
        })
    }

    /// What a recovery would make of it.
    ///
    /// # Errors
    /// [`RecoveryError::NotRecoverable`].
    pub fn plan(&self) -> Result<Recovery, RecoveryError> {
        Ok(self.recovered()?.1)
    }

    /// Makes it the only lock manager of its cluster.
    ///
    /// # Errors
    /// [`RecoveryError`].
    pub async fn recover(self) -> Result<Recovery, RecoveryError> {
        let (state, recovery) = self.recovered()?;
        self.remains.found_anew(self.node, state).await?;
        Ok(recovery)
    }

    fn recovered(&self) -> Result<(ControlState, Recovery), RecoveryError> {
        let at = self.remains.clock().max(SystemClock.wall());
        let mut state = self.remains.state().clone();
        let recovery = state.recover(at, self.node, &self.remains.group())?;
        Ok((state, recovery))
    }
}
