//! Why the durable parts of Raft cannot be used.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::error::disk_cure;

/// Why the log or the snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RaftStorageError {
    /// It is damaged, or not the one that this node wrote. Serving from it could undo what was
    /// acknowledged.
    #[error(
        "{} cannot be trusted: {what}. Stop this node, move its DATA_DIR away and start it again: it joins \
         as a new node, and the others keep the data",
        path.display()
    )]
    Corrupt {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file system refused.
    #[error("{}: {source}: {}", path.display(), disk_cure(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

impl RaftStorageError {
    pub(crate) fn corrupt(path: &Path, what: impl ToString) -> Self {
        Self::Corrupt { path: path.to_owned(), what: what.to_string() }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        |source| Self::Io { path, source }
    }
}

impl From<RaftStorageError> for io::Error {
    fn from(error: RaftStorageError) -> Self {
        match error {
            RaftStorageError::Corrupt { .. } => Self::new(io::ErrorKind::InvalidData, error.to_string()),
            RaftStorageError::Io { ref source, .. } => Self::new(source.kind(), error.to_string()),
        }
    }
}
