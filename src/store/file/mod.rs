//! The journal in files: the default, below `DATA_DIR/queues/`.
//!
//! ```text
//! queues/journal-id               names the journal as a whole
//! queues/marks                    how far each partition had got
//! queues/p-0007/segment-00000003  batches, one synced frame each; the last segment is written to
//! queues/p-0007/checkpoint-00000002   a state, and the first segment that is read after it
//! ```
//! The process holds the lock of `DATA_DIR`, so nobody else writes here.

mod checkpoint;
mod log;
mod recover;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{sync::watch, task::spawn_blocking};

use crate::{
    durable,
    ids::{JournalId, PartitionId},
    store::{
        JournalError, JournalHealth, JournalInfo, JournalStore, Opened,
        health::{Board, Health},
        marks::Marks,
        slots::Slots,
        writer::{Start, start},
    },
};

/// The journals of a node, in files.
#[derive(Debug)]
pub struct FileStore {
    dir: PathBuf,
    id: JournalId,
    marks: Arc<Marks>,
    board: Arc<Board>,
    slots: Slots,
}

impl FileStore {
    /// Opens the journals below this `DATA_DIR`, and makes what is missing at the first start.
    ///
    /// # Errors
    /// [`JournalError::Unusable`], with what to do.
    pub async fn open(data_dir: &Path) -> Result<Self, JournalError> {
        let dir = data_dir.join("queues");
        let path = dir.clone();
        let (id, marks) = spawn_blocking(move || open(&path)).await.expect("opening does not panic")?;
        Ok(Self { dir, id, marks: Arc::new(marks), board: Board::new(), slots: Slots::default() })
    }

    fn place(&self, partition: PartitionId) -> Place {
        let dir = self.dir.join(format!("{FOLDER}{:04}", partition.0));
        Place { dir, journal: self.id, partition }
    }
}

/// What the folder of a partition is called, before its number.
const FOLDER: &str = "p-";

/// Where the journal of a partition is, and what it belongs to.
#[derive(Clone, Debug)]
struct Place {
    dir: PathBuf,
    journal: JournalId,
    partition: PartitionId,
}

impl Place {
    fn damaged(&self, path: &Path, how: &str) -> JournalError {
        JournalError::Damaged {
            partition: self.partition,
            detail: format!("{}: {how}", path.display()),
            cure: "check the disk, then move the partition's folder away: its copy is made anew from another replica",
        }
    }

    fn disk(&self, error: &io::Error) -> JournalError {
        JournalError::Disk { partition: self.partition, detail: refusal(&self.dir, error) }
    }
}

/// What the disk said, where, and what to do.
fn refusal(path: &Path, error: &io::Error) -> String {
    let cure = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space there",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "let the node write there",
        _ => "check the disk",
    };
    format!("{}: {error}; {cure}", path.display())
}

fn open(dir: &Path) -> Result<(JournalId, Marks), JournalError> {
    let unusable = |error: io::Error| JournalError::Unusable(refusal(dir, &error));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let path = dir.join("journal-id");
    let (id, fresh) = match durable::read(&path).map_err(unusable)? {
        Some(text) => (read_id(&path, &text)?, false),
        None => {
            if let Some(folder) = partitions(dir).map_err(unusable)?.first() {
                return Err(JournalError::Unusable(format!(
                    "{} is missing, and there is the journal of partition {folder} beside it: put it back, or move \
                     {} away to begin with an empty journal",
                    path.display(),
                    dir.display()
                )));
            }
            let id = JournalId(rand::random());
            durable::replace(&path, format!("{id}\n").as_bytes()).map_err(unusable)?;
            (id, true)
        }
    };
    let marks = Marks::open(&dir.join("marks"), id, fresh).map_err(unusable)?;
    Ok((id, marks))
}

fn read_id(path: &Path, text: &[u8]) -> Result<JournalId, JournalError> {
    let id = String::from_utf8_lossy(text).trim().to_owned().try_into();
    id.map_err(|error| JournalError::Unusable(format!("{}: {error}; put the file back from a backup", path.display())))
}

/// The partitions of which there is a folder.
fn partitions(dir: &Path) -> io::Result<Vec<PartitionId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(FOLDER)?.parse().ok());
        found.extend(number.map(PartitionId));
    }
    found.sort_unstable();
    Ok(found)
}

impl JournalStore for FileStore {
    fn id(&self) -> JournalId {
        self.id
    }

    fn info(&self) -> JournalInfo {
        JournalInfo {
            kind: "file".to_owned(),
            durable: true,
            detail: format!("files in {}, synced before anything is acknowledged", self.dir.display()),
            shared_fate: None,
        }
    }

    fn health(&self) -> watch::Receiver<JournalHealth> {
        self.board.worst()
    }

    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>, JournalError>> {
        let dir = self.dir.clone();
        async move {
            let listed = spawn_blocking(move || partitions(&dir).map_err(|error| refusal(&dir, &error)));
            listed.await.expect("listing does not panic").map_err(JournalError::Unusable)
        }
        .boxed()
    }

    fn open(&self, partition: PartitionId) -> BoxFuture<'_, Result<Opened, JournalError>> {
        async move {
            let slot = self.slots.take(partition).await?;
            let place = self.place(partition);
            let recovered =
                spawn_blocking(move || recover::recover(place)).await.expect("recovering does not panic")?;
            let base = recovered.checkpoint.as_ref().map(|(at, _)| *at).unwrap_or_default();
            let last = recovered.records.last().map_or(base, |record| record.position);
            let trust = self.marks.judge(partition, last);
            let health = Health::new(Arc::clone(&self.board), partition);
            let marks = Some(Arc::clone(&self.marks));
            let beginning = Start { partition, backend: recovered.log, health, slot, marks, opened: 0 };
            let journal = start(beginning, base, &recovered.records);
            Ok(Opened { journal, checkpoint: recovered.checkpoint, records: recovered.records, trust })
        }
        .boxed()
    }

    fn remove(&self, partition: PartitionId) -> BoxFuture<'_, Result<(), JournalError>> {
        async move {
            let _slot = self.slots.take(partition).await?;
            let place = self.place(partition);
            spawn_blocking(move || remove(&place)).await.expect("removing does not panic")?;
            self.marks.clear(partition);
            Ok(())
        }
        .boxed()
    }
}

fn remove(place: &Place) -> Result<(), JournalError> {
    // Renamed first: what a crash leaves of it is not taken for a journal.
    let gone = place.dir.with_extension("removed");
    let discard = || match fs::remove_dir_all(&gone) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let removed = discard().and_then(|()| match fs::rename(&place.dir, &gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => discard(),
    });
    removed.map_err(|error| place.disk(&error))
}
