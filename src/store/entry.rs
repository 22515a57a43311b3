//! What is written of a batch: its records and truncations, in order, as bytes without checksums of their own (what
//! carries them has one). The same in a file and in Redis.

use bytes::{Buf, BufMut, Bytes};

use crate::{
    ids::Epoch,
    machine::replication::{Durability, Position, Record},
};

/// Bytes of a record beside its body.
pub(super) const RECORD_OVERHEAD: usize = 8 + 8 + 1 + 4;

/// One step of a journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// Records that follow the last one.
    Records(Vec<Record>),
    /// Everything after this record number is cut.
    Truncate { last_seq: u64 },
}

const RECORDS: u8 = 1;
const TRUNCATE: u8 = 2;

const SYNCED: u8 = 0;
const IN_MEMORY: u8 = 1;

impl Entry {
    /// How many bytes it takes.
    pub(super) fn encoded_len(&self) -> usize {
        match self {
            Self::Records(records) => 1 + 4 + records.iter().map(record_len).sum::<usize>(),
            Self::Truncate { .. } => 1 + 8,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Records(records) => {
                out.put_u8(RECORDS);
                out.put_u32_le(u32::try_from(records.len()).expect("a batch is bounded by its bytes"));
                for record in records {
                    out.put_u64_le(record.position.epoch.0);
                    out.put_u64_le(record.position.seq);
                    out.put_u8(match record.durability {
                        Durability::Synced => SYNCED,
                        Durability::InMemory => IN_MEMORY,
                    });
                    out.put_u32_le(u32::try_from(record.body.len()).expect("MAX_BATCH_BYTES is far below 4 GiB"));
                    out.put_slice(&record.body);
                }
            }
            Self::Truncate { last_seq } => {
                out.put_u8(TRUNCATE);
                out.put_u64_le(*last_seq);
            }
        }
    }
}

/// How many bytes a record takes.
pub(super) fn record_len(record: &Record) -> usize {
    RECORD_OVERHEAD + record.body.len()
}

/// Appends the bytes of a batch to `out`.
pub(super) fn encode(entries: &[Entry], out: &mut Vec<u8>) {
    out.reserve(entries.iter().map(Entry::encoded_len).sum());
    entries.iter().for_each(|entry| entry.put(out));
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// How it is not that. The checksum around it has been checked before, so that this is a fault of the writer, or a
/// newer version's journal.
pub(super) fn decode(mut bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    while bytes.has_remaining() {
        entries.push(get(&mut bytes)?);
    }
    Ok(entries)
}

fn get(bytes: &mut &[u8]) -> Result<Entry, String> {
    let short = |_| "an entry ends early".to_owned();
    match bytes.try_get_u8().map_err(short)? {
        RECORDS => {
            let count = bytes.try_get_u32_le().map_err(short)? as usize;
            // A count is believed only as far as the bytes go.
            let mut records = Vec::with_capacity(count.min(bytes.remaining() / RECORD_OVERHEAD));
            for _ in 0..count {
                let epoch = Epoch(bytes.try_get_u64_le().map_err(short)?);
                let seq = bytes.try_get_u64_le().map_err(short)?;
                let durability = match bytes.try_get_u8().map_err(short)? {
                    SYNCED => Durability::Synced,
                    IN_MEMORY => Durability::InMemory,
                    other => return Err(format!("{other} is no durability")),
                };
                let length = bytes.try_get_u32_le().map_err(short)? as usize;
                if length > bytes.remaining() {
                    return Err("a record ends early".to_owned());
                }
                // Copied, so that one record does not keep all that was read with it in memory.
                let body = Bytes::copy_from_slice(&bytes[..length]);
                bytes.advance(length);
                records.push(Record { position: Position { epoch, seq }, durability, body });
            }
            Ok(Entry::Records(records))
        }
        TRUNCATE => Ok(Entry::Truncate { last_seq: bytes.try_get_u64_le().map_err(short)? }),
        other => Err(format!("{other} is no kind of entry")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_back_as_it_was_and_no_prefix_of_it_is_another() {
        let record = |seq, durability, body: &'static [u8]| Record {
            position: Position { epoch: Epoch(3), seq },
            durability,
            body: Bytes::from_static(body),
        };
        let entries = vec![
            Entry::Records(vec![record(1, Durability::Synced, b"one"), record(2, Durability::InMemory, b"")]),
            Entry::Truncate { last_seq: 1 },
            Entry::Records(vec![record(2, Durability::Synced, &[0; 40])]),
        ];
        let mut bytes = Vec::new();
        encode(&entries, &mut bytes);
        assert_eq!(bytes.len(), entries.iter().map(Entry::encoded_len).sum::<usize>());
        assert_eq!(decode(&bytes).unwrap(), entries);
        for end in 0..bytes.len() {
            assert_ne!(decode(&bytes[..end]).as_ref(), Ok(&entries), "{end}");
        }
        assert!(decode(&[9]).is_err());
    }
}
