//! Segments: the files that batches are appended to.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
    sync::Arc,
};

use rustix::fs::FallocateFlags;

use super::Place;
use crate::{
    durable,
    store::frame::{self, Kind, Salt},
};

/// A segment is followed by another one when it has so many bytes: the grain in which space is freed.
pub(super) const SEGMENT_BYTES: usize = 8 << 20;
/// So much is reserved ahead, so that a sync has no length to write.
const RESERVED: usize = 1 << 20;

/// What the file of a segment is called, before its number.
pub(super) const NAME: &str = "segment-";
/// What ends the name of a file that is not complete.
pub(super) const TEMPORARY: &str = ".tmp";

/// The version of what is in a segment, in its head.
pub(super) const FORMAT: u8 = 1;

pub(super) fn path(place: &Place, number: u64) -> PathBuf {
    place.dir.join(format!("{NAME}{number:08}"))
}

pub(super) fn salt(place: &Place, number: u64) -> Salt {
    Salt::new(&[b"segment", &place.journal.0.to_le_bytes(), &place.partition.0.to_le_bytes(), &number.to_le_bytes()])
}

/// The segment that is written to.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) salt: Salt,
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    /// Where the last frame ends.
    pub(super) at: usize,
    /// How far the file reaches, in zeros.
    pub(super) reserved: usize,
    /// The greatest number of a record in it.
    pub(super) greatest: u64,
}

impl Active {
    /// Makes a segment with nothing in it, durable when this returns.
    pub(super) fn create(place: &Place, number: u64) -> io::Result<Self> {
        let salt = salt(place, number);
        let mut head = Vec::new();
        frame::encode(&salt, 0, Kind::Head, |out| out.push(FORMAT), &mut head);
        let path = path(place, number);
        let temporary = path.with_extension(&TEMPORARY[1..]);
        let file =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(&temporary)?;
        reserve(&file, 0, RESERVED);
        file.write_all_at(&head, 0)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        durable::sync_dir(&place.dir)?;
        let reserved = usize::try_from(file.metadata()?.len()).expect("a segment fits into memory");
        Ok(Self { number, salt, file: Arc::new(file), path, at: head.len(), reserved, greatest: 0 })
    }

    /// Whether it holds no batch.
    pub(super) fn is_empty(&self) -> bool {
        self.at == frame::len(1)
    }

    /// Writes a frame at its place and syncs.
    pub(super) fn commit(&self, at: usize, frame: &[u8]) -> io::Result<usize> {
        let (end, mut reserved) = (at + frame.len(), self.reserved);
        if end > reserved {
            reserved = end + RESERVED.min(SEGMENT_BYTES.saturating_sub(end));
            reserve(&self.file, self.reserved, reserved);
        }
        self.file.write_all_at(frame, at as u64)?;
        self.file.sync_data()?;
        Ok(reserved.max(end))
    }

    /// Says that another one follows; the space that was reserved is given back.
    pub(super) fn seal(&self) -> io::Result<()> {
        let (at, mut frame) = (frame::begin(self.at), Vec::new());
        frame::encode(&self.salt, at, Kind::Seal, |_| {}, &mut frame);
        self.file.write_all_at(&frame, at as u64)?;
        self.file.set_len((at + frame.len()) as u64)?;
        self.file.sync_all()
    }
}

/// Where it cannot be reserved, it is written without: then the write says what is wrong.
fn reserve(file: &File, from: usize, to: usize) {
    if let Err(error) = rustix::fs::fallocate(file, FallocateFlags::empty(), from as u64, (to - from) as u64) {
        tracing::trace!("no space is reserved ahead: {error}");
    }
}
