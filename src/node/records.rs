//! The record of the cluster on this node's disk: to which cluster it belongs, for good.

use std::{fmt, io, path::PathBuf};

use futures::future::BoxFuture;

use crate::machine::membership::ClusterRecord;

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
    path: PathBuf,
}

impl RecordFile {
    /// The file in this data directory.
    pub(crate) fn new(data_dir: &std::path::Path) -> Self {
        Self { path: data_dir.join("cluster.json") }
    }

    /// Reads the record, if there is one.
    pub(crate) fn load(&self) -> io::Result<Option<ClusterRecord>> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let path = self.path.display();
            let cure = "stop the node, move its DATA_DIR away and start it again: it joins as new";
            io::Error::new(io::ErrorKind::InvalidData, format!("{path} is damaged ({error}): {cure}"))
        })
    }
}

impl ClusterStore for RecordFile {
    fn save(&self, record: ClusterRecord) -> BoxFuture<'static, io::Result<()>> {
        let path = self.path.clone();
        Box::pin(blocking(move || {
            let text = serde_json::to_vec_pretty(&record).map_err(io::Error::other)?;
            crate::net::identity::write_durably(&path, &text)
        }))
    }

    fn retire(&self) -> BoxFuture<'static, io::Result<()>> {
        let path = self.path.clone();
        Box::pin(blocking(move || crate::net::identity::retire(&path)))
    }
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
