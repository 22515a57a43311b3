//! The snapshot: the replicated state as one checksummed image, on disk and on the wire.
//!
//! An image is written by `raft::apply` when the log has grown, sent in chunks by `raft::network` to
//! those whose log was purged too far, and read at start. One that does not match its checksum is
//! never served.

use std::{
    fmt::Debug,
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec, durable,
    ids::Tick,
    raft::{
        storage::RaftStorageError,
        types::{Replicated, SnapshotMeta},
    },
};

/// Most bytes of an image that is accepted from a leader.
pub(crate) const MAX_IMAGE_BYTES: usize = 1 << 30;

const FILE: &str = "snapshot";
/// Names the format; the digit is its version.
const MAGIC: &[u8; 8] = b"SYNCSNP1";
/// Magic, then the lengths of header and state.
const PREFIX_BYTES: usize = 8 + 4 + 8;
const CHECKSUM_BYTES: usize = 4;

/// Keeps the latest snapshot. Calls block.
pub trait SnapshotStore: Send + Sync + Debug + 'static {
    /// The latest image, if one was ever kept. Unchecked.
    fn load(&self) -> Result<Option<Bytes>, RaftStorageError>;

    /// Replaces the image, durably and at once: a crash leaves the old one or the new one.
    fn keep(&self, image: &[u8]) -> Result<(), RaftStorageError>;

    /// Where it lies, for messages.
    fn path(&self) -> PathBuf;
}

/// The file `snapshot` in a directory.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    dir: PathBuf,
}

impl SnapshotFile {
    /// The snapshot in `dir`, which exists.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }
}

impl SnapshotStore for SnapshotFile {
    fn load(&self) -> Result<Option<Bytes>, RaftStorageError> {
        let image = durable::read(&self.path()).map_err(RaftStorageError::io(&self.path()))?;
        Ok(image.map(Bytes::from))
    }

    fn keep(&self, image: &[u8]) -> Result<(), RaftStorageError> {
        durable::replace(&self.path(), image).map_err(RaftStorageError::io(&self.path()))
    }

    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }
}

/// What stands before the state in an image.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Last applied log id and membership.
    pub(crate) meta: SnapshotMeta,
    /// The time of the last applied entry.
    pub(crate) clock: Tick,
}

/// The image of a state.
pub(crate) fn encode<S: Replicated>(header: &Header, state: &S) -> io::Result<Bytes> {
    let (header, state) = (codec::encode(header), codec::encode(state));
    let header_bytes = u32::try_from(header.len()).map_err(|_| io::Error::other("the membership is too large"))?;
    let mut image = Vec::with_capacity(PREFIX_BYTES + header.len() + state.len() + CHECKSUM_BYTES);
    image.extend_from_slice(MAGIC);
    image.extend_from_slice(&header_bytes.to_be_bytes());
    image.extend_from_slice(&(state.len() as u64).to_be_bytes());
    image.extend_from_slice(&header);
    image.extend_from_slice(&state);
    let checksum = crc32fast::hash(&image);
    image.extend_from_slice(&checksum.to_be_bytes());
    Ok(image.into())
}

/// Splits an image into header and state, after checking all of it.
fn parts(image: &Bytes) -> io::Result<(Header, Bytes)> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot is damaged: {what}"));
    let content = image.len().checked_sub(CHECKSUM_BYTES).filter(|content| *content >= PREFIX_BYTES);
    let content = content.ok_or_else(|| damaged("it is too short"))?;
    if !image.starts_with(MAGIC) {
        return Err(damaged("it does not begin like one, or is of another version"));
    }
    if crc32fast::hash(&image[..content]).to_be_bytes() != image[content..] {
        return Err(damaged("its checksum does not match"));
    }
    let mut length = [0; 4];
    length.copy_from_slice(&image[8..12]);
    let state_at = PREFIX_BYTES + u32::from_be_bytes(length) as usize;
    if state_at > content {
        return Err(damaged("its header is longer than it is"));
    }
    Ok((codec::decode(&image[PREFIX_BYTES..state_at])?, image.slice(state_at..content)))
}

/// The header of an image, all of which is checked.
pub(crate) fn decode_header(image: &Bytes) -> io::Result<Header> {
    parts(image).map(|(header, _)| header)
}

/// The header and the state of an image.
pub(crate) fn decode<S: Replicated>(image: &Bytes) -> io::Result<(Header, S)> {
    let (header, state) = parts(image)?;
    Ok((header, codec::decode(&state)?))
}
