//! How records of the log lie on disk.
//!
//! `raft-log` frames each record with a checksum over all of it, but reads a record by asking its
//! parts for their length: a part that believes a damaged length runs past the end of the file and
//! is then taken for a torn tail, together with everything after it. So each part here is either of
//! fixed size with a checksum of its own, or announces its length under one.

use std::{cmp::Ordering, fmt, io};

use bytes::Bytes;
use raft_log::codeq::{Decode, Encode};

use crate::{
    ids::NodeId,
    raft::types::{CommittedLeader, LogId, Vote},
};

/// Most bytes of one entry that is read back. More is damage, not an entry.
const MAX_ENTRY_BYTES: usize = 64 << 20;

fn damaged(what: &dyn fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// Reads `N` bytes and their checksum.
fn read_checked<const N: usize>(mut reader: impl io::Read, what: &str) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    let mut checksum = [0; 4];
    reader.read_exact(&mut checksum)?;
    if u32::from_be_bytes(checksum) == crc32fast::hash(&bytes) {
        Ok(bytes)
    } else {
        Err(damaged(&format_args!("the checksum of a {what} does not match")))
    }
}

fn write_checked(mut writer: impl io::Write, bytes: &[u8]) -> io::Result<usize> {
    writer.write_all(bytes)?;
    writer.write_all(&crc32fast::hash(bytes).to_be_bytes())?;
    Ok(bytes.len() + 4)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(number)
}

/// A log id on disk: 16 bytes and a checksum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct DiskLogId {
    term: u64,
    index: u64,
}

impl From<LogId> for DiskLogId {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<DiskLogId> for LogId {
    fn from(id: DiskLogId) -> Self {
        Self::new(CommittedLeader { term: id.term }, id.index)
    }
}

impl Encode for DiskLogId {
    fn encode<W: io::Write>(&self, writer: W) -> io::Result<usize> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.term.to_be_bytes());
        bytes[8..].copy_from_slice(&self.index.to_be_bytes());
        write_checked(writer, &bytes)
    }
}

impl Decode for DiskLogId {
    fn decode<R: io::Read>(reader: R) -> io::Result<Self> {
        let bytes = read_checked::<16>(reader, "log id")?;
        Ok(Self { term: u64_at(&bytes, 0), index: u64_at(&bytes, 8) })
    }
}

/// A vote on disk: 41 bytes and a checksum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DiskVote(pub(crate) Vote);

impl PartialOrd for DiskVote {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.0.partial_cmp(&other.0)
    }
}

impl Encode for DiskVote {
    fn encode<W: io::Write>(&self, writer: W) -> io::Result<usize> {
        let mut bytes = [0; 41];
        bytes[..8].copy_from_slice(&self.0.leader_id.term.to_be_bytes());
        bytes[8..40].copy_from_slice(self.0.leader_id.voted_for.as_bytes());
        bytes[40] = u8::from(self.0.committed);
        write_checked(writer, &bytes)
    }
}

impl Decode for DiskVote {
    fn decode<R: io::Read>(reader: R) -> io::Result<Self> {
        let bytes = read_checked::<41>(reader, "vote")?;
        let mut node = [0; 32];
        node.copy_from_slice(&bytes[8..40]);
        let node = NodeId::from_bytes(node);
        let term = u64_at(&bytes, 0);
        Ok(Self(if bytes[40] == 1 { Vote::new_committed(term, node) } else { Vote::new(term, node) }))
    }
}

/// An entry's payload on disk: its length under a checksum, then CBOR. The record's checksum covers
/// the CBOR.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DiskPayload(pub(crate) Bytes);

impl Encode for DiskPayload {
    fn encode<W: io::Write>(&self, mut writer: W) -> io::Result<usize> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "a log entry exceeds 64 MiB");
        let length = u32::try_from(self.0.len()).map_err(|_| too_large())?;
        if self.0.len() > MAX_ENTRY_BYTES {
            return Err(too_large());
        }
        let header = write_checked(&mut writer, &length.to_be_bytes())?;
        writer.write_all(&self.0)?;
        Ok(header + self.0.len())
    }
}

impl Decode for DiskPayload {
    fn decode<R: io::Read>(mut reader: R) -> io::Result<Self> {
        let length = u32::from_be_bytes(read_checked::<4>(&mut reader, "length of a log entry")?) as usize;
        if length > MAX_ENTRY_BYTES {
            return Err(damaged(&format_args!("a log entry claims {length} bytes")));
        }
        let mut bytes = vec![0; length];
        reader.read_exact(&mut bytes)?;
        Ok(Self(bytes.into()))
    }
}

/// Called once what was written is on disk, or cannot be. Dropped uncalled (the thread that flushes
/// has died), it reports a failure: whoever waits for a flush always hears.
pub(crate) struct OnFlushed(Option<Box<dyn FnOnce(io::Result<()>) + Send>>);

impl OnFlushed {
    pub(crate) fn new(then: impl FnOnce(io::Result<()>) + Send + 'static) -> Self {
        Self(Some(Box::new(then)))
    }
}

impl raft_log::Callback for OnFlushed {
    fn send(mut self, result: io::Result<()>) {
        if let Some(then) = self.0.take() {
            then(result);
        }
    }
}

impl Drop for OnFlushed {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then(Err(io::Error::other("the log stopped writing after an earlier failure")));
        }
    }
}

/// The types that `raft-log` is instantiated with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct DiskTypes;

impl raft_log::Types for DiskTypes {
    type LogId = DiskLogId;
    type LogPayload = DiskPayload;
    type Vote = DiskVote;
    type Callback = OnFlushed;
    type UserData = ();

    fn log_index(log_id: &DiskLogId) -> u64 {
        log_id.index
    }

    fn payload_size(payload: &DiskPayload) -> u64 {
        payload.0.len() as u64
    }
}
