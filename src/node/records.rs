//! The record of the cluster on this node's disk: to which cluster it belongs, for good.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use futures::future::BoxFuture;

use crate::{durable, machine::membership::ClusterRecord};

/// Where a node keeps the record of its cluster.
pub(crate) trait ClusterStore: fmt::Debug + Send + Sync {
    /// Writes the record durably.
    fn save(&self, record: ClusterRecord) -> BoxFuture<'static, io::Result<()>>;

    /// Makes this node forget its cluster and its identity: it joins as new when it is started again.
    fn retire(&self) -> BoxFuture<'static, io::Result<()>>;
}

/// The record as a file in the data directory.
#[derive(Debug, Clone)]
pub(crate) struct RecordFile {
    dir: PathBuf,
}

/// Where in a data directory Raft's log and snapshot lie.
pub(crate) fn raft_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("raft")
}

impl RecordFile {
    /// The file in this data directory.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    /// Makes the directory for Raft's log and snapshot.
    pub(crate) fn make_raft_dir(&self) -> io::Result<PathBuf> {
        let dir = raft_dir(&self.dir);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Puts the record and Raft's log where no node will find them, replacing what was put there
    /// before. A node without its log takes a new identity.
    pub(crate) fn set_aside(&self) -> io::Result<()> {
        let retired = self.dir.join("retired");
        ignore_missing(fs::remove_dir_all(&retired))?;
        fs::create_dir_all(&retired)?;
        // The log first: without it, what is left is of no node any more.
        ignore_missing(fs::rename(raft_dir(&self.dir), retired.join("raft")))?;
        ignore_missing(fs::rename(self.path(), retired.join("cluster.json")))?;
        durable::sync_dir(&self.dir)
    }

    fn left_mark(&self) -> PathBuf {
        self.dir.join("left")
    }

    /// Whether this node left a cluster for good: it may join one, and never found one.
    pub(crate) fn has_left(&self) -> bool {
        self.left_mark().exists()
    }

    /// Reads the record, if there is one.
    pub(crate) fn load(&self) -> io::Result<Option<ClusterRecord>> {
        let Some(text) = durable::read(&self.path())? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let path = self.path();
            let path = path.display();
            let cure = "stop the node, move its DATA_DIR away and start it again: it joins as new";
            io::Error::new(io::ErrorKind::InvalidData, format!("{path} is damaged ({error}): {cure}"))
        })
    }
}

impl ClusterStore for RecordFile {
    fn save(&self, record: ClusterRecord) -> BoxFuture<'static, io::Result<()>> {
        let path = self.path();
        Box::pin(blocking(move || {
            let text = serde_json::to_vec_pretty(&record).map_err(io::Error::other)?;
            durable::replace(&path, &text)
        }))
    }

    fn retire(&self) -> BoxFuture<'static, io::Result<()>> {
        let record = self.clone();
        Box::pin(blocking(move || {
            durable::replace(&record.left_mark(), b"left a cluster\n")?;
            record.set_aside()
        }))
    }
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn ignore_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
