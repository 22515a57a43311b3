//! Writing the journal of a partition into its files. What blocks does so on the runtime's threads for that, so that
//! an idle journal holds none.

use std::{fs, io, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    Place,
    checkpoint::{self, Prepared},
    refusal,
    segment::{Active, SEGMENT_BYTES},
};
use crate::{
    machine::replication::Position,
    store::{
        State,
        entry::{self, Entry},
        frame::{self, Kind},
        pending::Keep,
        writer::{Backend, Fault},
    },
};

/// At a checkpoint a segment of so many bytes is sealed, so that the next checkpoint can free it.
const SEAL_BYTES: usize = 64 << 10;

/// A segment that another one follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub(super) number: u64,
    /// The greatest number of a record in it.
    pub(super) greatest: u64,
}

/// The journal of a partition, in files.
#[derive(Debug)]
pub(super) struct FileLog {
    place: Place,
    sealed: Vec<Sealed>,
    active: Active,
    /// The number of the last checkpoint.
    checkpoint: u64,
    /// Kept for its memory.
    frame: Vec<u8>,
    /// Removes what a checkpoint has replaced: appends do not wait for that, which takes the longer the more it is.
    removing: Option<JoinHandle<()>>,
}

impl FileLog {
    pub(super) fn new(place: Place, sealed: Vec<Sealed>, active: Active, checkpoint: u64) -> Self {
        Self { place, sealed, active, checkpoint, frame: Vec::new(), removing: None }
    }

    fn away(&self, error: &io::Error) -> Fault {
        Fault::Away(refusal(&self.place.dir, error))
    }

    /// Seals the active segment and goes on in the next one.
    async fn roll(&mut self) -> Result<(), Fault> {
        let (place, active) = (self.place.clone(), self.active.clone());
        let next = blocking(move || {
            active.seal()?;
            Active::create(&place, active.number + 1)
        });
        let next = next.await.map_err(|error| self.away(&error))?;
        self.sealed.push(Sealed { number: self.active.number, greatest: self.active.greatest });
        self.active = next;
        Ok(())
    }
}

impl Backend for FileLog {
    type Prepared = Arc<Prepared>;

    async fn write(&mut self, entries: &[Entry]) -> Result<(), Fault> {
        let bytes: usize = entries.iter().map(Entry::encoded_len).sum();
        if self.active.at + bytes > SEGMENT_BYTES && !self.active.is_empty() {
            self.roll().await?;
        }
        let (active, at, mut frame) =
            (self.active.clone(), frame::begin(self.active.at), std::mem::take(&mut self.frame));
        frame::encode(&active.salt, at, Kind::Entries, |out| entry::encode(entries, out), &mut frame);
        let (written, frame) =
            blocking(move || Ok((active.commit(at, &frame), frame))).await.map_err(|error| self.away(&error))?;
        self.active.reserved = written.map_err(|error| self.away(&error))?;
        self.active.at = at + frame.len();
        let greatest = |entry: &Entry| match entry {
            Entry::Records(records) => records.last().map_or(0, |record| record.position.seq),
            Entry::Truncate { .. } => 0,
        };
        self.active.greatest = entries.iter().map(greatest).fold(self.active.greatest, u64::max);
        self.frame = frame;
        self.frame.shrink_to(SEGMENT_BYTES);
        Ok(())
    }

    fn prepare(&mut self, at: Position, state: State) -> BoxFuture<'static, Result<Self::Prepared, Fault>> {
        let place = self.place.clone();
        async move {
            let dir = place.dir.clone();
            let prepared = blocking(move || checkpoint::prepare(&place, at, &state)).await;
            prepared.map(Arc::new).map_err(|error| Fault::Away(refusal(&dir, &error)))
        }
        .boxed()
    }

    async fn install(&mut self, prepared: &Self::Prepared, keep: Keep) -> Result<(), Fault> {
        self.close().await;
        let full = self.active.at > SEAL_BYTES;
        if full || (keep == Keep::Nothing && !self.active.is_empty()) {
            self.roll().await?;
        }
        let covered = |segment: &Sealed| keep == Keep::Nothing || segment.greatest <= prepared.at.seq;
        let freed = self.sealed.iter().take_while(|segment| covered(segment)).count();
        let first = self.sealed.get(freed).map_or(self.active.number, |segment| segment.number);

        let (place, number, prepared) = (self.place.clone(), self.checkpoint + 1, Arc::clone(prepared));
        let installed = blocking(move || prepared.install(&place, number, first)).await;
        installed.map_err(|error| self.away(&error))?;
        self.checkpoint = number;
        let freed: Vec<_> = self.sealed.drain(..freed).collect();
        let place = self.place.clone();
        // What cannot be removed is when the journal is opened next.
        self.removing = Some(spawn_blocking(move || {
            let _ = fs::remove_file(checkpoint::path(&place, number - 1));
            for segment in freed {
                let _ = fs::remove_file(super::segment::path(&place, segment.number));
            }
        }));
        Ok(())
    }

    async fn disturbed(&mut self) {
        std::future::pending().await
    }

    async fn verify(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    async fn close(&mut self) {
        if let Some(removing) = self.removing.take() {
            // It is cancelled only where the runtime ends.
            let _ = removing.await;
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    // It is cancelled only where the runtime ends.
    spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
