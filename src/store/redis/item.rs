//! What an entry of a stream holds, as bytes under a checksum that covers the place too.

use std::{fmt, str::FromStr};

use bytes::{Buf, BufMut};

use crate::{
    ids::{Epoch, PartitionId},
    machine::replication::Position,
    store::entry::{self, Entry},
};

/// The id of an entry: how often the stream had been opened, and the number of the entry since. Number 0 says that
/// it was opened. Redis refuses an id that is not greater than the last, and so whoever opened it before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Id {
    pub(super) open: u64,
    pub(super) number: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.open, self.number)
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('-').and_then(|(open, number)| Some((open.parse().ok()?, number.parse().ok()?)));
        parts.map(|(open, number)| Self { open, number }).ok_or_else(|| format!("'{text}' is no id of a stream"))
    }
}

/// One entry of a stream.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Item {
    /// The one before it, those not counted that say that the stream was opened. So a gap shows.
    pub(super) previous: Id,
    pub(super) what: What,
}

#[derive(PartialEq, Eq, Debug)]
pub(super) enum What {
    /// Whoever wrote before must not go on.
    Opened,
    /// A batch.
    Batch(Vec<Entry>),
    /// A state, in a key of its own.
    Checkpoint(Checkpoint),
}

/// Where a state is and how to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Checkpoint {
    pub(super) at: Position,
    /// Everything before is void, records after `at` included.
    pub(super) reset: bool,
    pub(super) chunks: u32,
    pub(super) length: u64,
    pub(super) checksum: u32,
    pub(super) key: String,
}

const OPENED: u8 = 1;
const BATCH: u8 = 2;
const CHECKPOINT: u8 = 3;

/// What is encoded: a batch is borrowed.
pub(super) enum Write<'a> {
    Opened,
    Batch(&'a [Entry]),
    Checkpoint(&'a Checkpoint),
}

fn checksum(partition: PartitionId, id: Id, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for number in [u64::from(partition.0), id.open, id.number] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(bytes);
    hasher.finalize()
}

pub(super) fn encode(partition: PartitionId, id: Id, previous: Id, write: &Write<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.put_u8(match write {
        Write::Opened => OPENED,
        Write::Batch(_) => BATCH,
        Write::Checkpoint(_) => CHECKPOINT,
    });
    out.put_u64_le(previous.open);
    out.put_u64_le(previous.number);
    match write {
        Write::Opened => {}
        Write::Batch(entries) => entry::encode(entries, &mut out),
        Write::Checkpoint(checkpoint) => {
            out.put_u64_le(checkpoint.at.epoch.0);
            out.put_u64_le(checkpoint.at.seq);
            out.put_u8(u8::from(checkpoint.reset));
            out.put_u32_le(checkpoint.chunks);
            out.put_u64_le(checkpoint.length);
            out.put_u32_le(checkpoint.checksum);
            out.put_slice(checkpoint.key.as_bytes());
        }
    }
    let checksum = checksum(partition, id, &out);
    out.put_u32_le(checksum);
    out
}

/// # Errors
/// How it is not what [`encode`] made for this place.
pub(super) fn decode(partition: PartitionId, id: Id, bytes: &[u8]) -> Result<Item, String> {
    let (mut body, sum) = bytes.split_last_chunk::<4>().ok_or("it is too short")?;
    if checksum(partition, id, body) != u32::from_le_bytes(*sum) {
        return Err("it does not match its checksum".to_owned());
    }
    let short = |_| "it is too short".to_owned();
    let kind = body.try_get_u8().map_err(short)?;
    let previous = Id { open: body.try_get_u64_le().map_err(short)?, number: body.try_get_u64_le().map_err(short)? };
    let what = match kind {
        OPENED => What::Opened,
        BATCH => What::Batch(entry::decode(body)?),
        CHECKPOINT => What::Checkpoint(Checkpoint {
            at: Position {
                epoch: Epoch(body.try_get_u64_le().map_err(short)?),
                seq: body.try_get_u64_le().map_err(short)?,
            },
            reset: body.try_get_u8().map_err(short)? != 0,
            chunks: body.try_get_u32_le().map_err(short)?,
            length: body.try_get_u64_le().map_err(short)?,
            checksum: body.try_get_u32_le().map_err(short)?,
            key: String::from_utf8(body.to_vec()).map_err(|error| error.to_string())?,
        }),
        other => return Err(format!("{other} is no kind of entry")),
    };
    Ok(Item { previous, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_read_at_its_own_place_only_and_every_flipped_byte_is_noticed() {
        let checkpoint = Checkpoint {
            at: Position { epoch: Epoch(3), seq: 9 },
            reset: true,
            chunks: 2,
            length: 300_000,
            checksum: 77,
            key: "key".to_owned(),
        };
        let batch = vec![Entry::Truncate { last_seq: 4 }];
        let (id, previous) = (Id { open: 4, number: 1 }, Id { open: 3, number: 8 });
        let items = [
            (Write::Opened, What::Opened),
            (Write::Batch(&batch), What::Batch(batch.clone())),
            (Write::Checkpoint(&checkpoint), What::Checkpoint(checkpoint.clone())),
        ];
        for (write, what) in items {
            let bytes = encode(PartitionId(7), id, previous, &write);
            assert_eq!(decode(PartitionId(7), id, &bytes), Ok(Item { previous, what }));
            assert!(decode(PartitionId(8), id, &bytes).is_err());
            assert!(decode(PartitionId(7), previous, &bytes).is_err());
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 4;
                assert!(decode(PartitionId(7), id, &flipped).is_err(), "byte {at}");
            }
        }
        assert_eq!("12-3".parse(), Ok(Id { open: 12, number: 3 }));
        assert!("12".parse::<Id>().is_err());
    }
}
