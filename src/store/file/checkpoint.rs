//! Checkpoints: the state of a partition in a file, which frees the segments before it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Place, segment::TEMPORARY};
use crate::{
    durable,
    ids::Epoch,
    machine::replication::Position,
    store::{
        JournalError, State,
        frame::{self, Kind, Next, Salt},
    },
};

/// A state is written in pieces of so many bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// It is synced after so many bytes, so that the syncs of appends have less to wait for.
const SYNC_BYTES: usize = 8 << 20;

/// What the file of a checkpoint is called, before its number.
pub(super) const NAME: &str = "checkpoint-";

/// Tells what is being written by one attempt from what another one left.
static ATTEMPTS: AtomicU64 = AtomicU64::new(0);

pub(super) fn path(place: &Place, number: u64) -> PathBuf {
    place.dir.join(format!("{NAME}{number:08}"))
}

fn salt(place: &Place) -> Salt {
    Salt::new(&[b"checkpoint", &place.journal.0.to_le_bytes(), &place.partition.0.to_le_bytes()])
}

/// A state that is on disk under a temporary name. Dropped without being installed, it is removed.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) at: Position,
    file: File,
    temporary: PathBuf,
    end: usize,
    length: u64,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // Gone where it was installed; what cannot be removed is when the journal is opened next.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Writes a state under a temporary name and syncs it.
pub(super) fn prepare(place: &Place, at: Position, state: &State) -> io::Result<Prepared> {
    let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    let temporary = place.dir.join(format!("{NAME}{attempt}{TEMPORARY}"));
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(&temporary)?;
    let mut prepared = Prepared { at, file, temporary, end: 0, length: 0 };
    let (salt, mut piece, mut synced) = (salt(place), Vec::new(), 0);
    for chunk in state.chunks(CHUNK_BYTES) {
        let start = frame::begin(prepared.end);
        frame::encode(&salt, start, Kind::Chunk, |out| out.extend_from_slice(&chunk), &mut piece);
        prepared.file.write_all_at(&piece, start as u64)?;
        prepared.end = start + piece.len();
        prepared.length += chunk.len() as u64;
        if prepared.end - synced >= SYNC_BYTES {
            prepared.file.sync_data()?;
            synced = prepared.end;
        }
    }
    prepared.file.sync_data()?;
    Ok(prepared)
}

impl Prepared {
    /// Makes it the checkpoint of this number, after which the journal is read from this segment on.
    pub(super) fn install(&self, place: &Place, number: u64, first_segment: u64) -> io::Result<()> {
        let path = path(place, number);
        // An earlier attempt may have got further than it knew.
        if self.temporary.exists() {
            let (start, mut foot) = (frame::begin(self.end), Vec::new());
            let body = |out: &mut Vec<u8>| {
                for number in [self.at.epoch.0, self.at.seq, first_segment, self.length] {
                    out.put_u64_le(number);
                }
            };
            frame::encode(&salt(place), start, Kind::Foot, body, &mut foot);
            self.file.write_all_at(&foot, start as u64)?;
            self.file.sync_all()?;
            fs::rename(&self.temporary, &path)?;
        }
        durable::sync_dir(&place.dir)
    }
}

/// A checkpoint as it was read.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) at: Position,
    pub(super) first_segment: u64,
    pub(super) state: Bytes,
}

pub(super) fn read(place: &Place, path: &Path) -> Result<Checkpoint, JournalError> {
    let bytes = fs::read(path).map_err(|error| place.disk(&error))?;
    let (salt, mut at, mut state) = (salt(place), 0, BytesMut::with_capacity(bytes.len()));
    loop {
        let how = match frame::next(&salt, &bytes, at) {
            Next::Frame { kind: Kind::Chunk, body, end } => {
                state.extend_from_slice(body);
                at = end;
                continue;
            }
            Next::Frame { kind: Kind::Foot, mut body, end } if body.len() == 4 * 8 && end == bytes.len() => {
                let position = Position { epoch: Epoch(body.get_u64_le()), seq: body.get_u64_le() };
                let (first_segment, length) = (body.get_u64_le(), body.get_u64_le());
                if length == state.len() as u64 {
                    return Ok(Checkpoint { at: position, first_segment, state: state.freeze() });
                }
                format!("it has {} bytes of {length}", state.len())
            }
            Next::Frame { kind, .. } => format!("a frame of kind {kind:?} is not expected at offset {at}"),
            Next::Nothing | Next::Torn => format!("its end, at offset {at}, is missing"),
            Next::Damaged(how) => how,
        };
        return Err(place.damaged(path, &how));
    }
}
