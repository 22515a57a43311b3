//! Opening the stream of a partition: first everybody else is shut out, then it is read.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};
use redis::{cmd, pipe};

use super::{
    item::{self, Checkpoint, Id, Item, What},
    link::{Line, Link, Trouble},
    log::{self, Beginning, CHUNKS_AT_ONCE, RedisLog},
};
use crate::{
    ids::PartitionId,
    machine::replication::{Position, Record},
    store::{JournalError, entry::Entry, replay::Replay},
};

/// Entries that are read at once, at first; more while the pages stay below so many bytes.
const PAGE: usize = 16;
const MOST_IN_A_PAGE: usize = 4096;
const PAGE_BYTES: usize = 2 << 20;

/// A journal as it was read, ready to be written on.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) log: RedisLog,
    pub(super) opened: u64,
    pub(super) checkpoint: Option<(Position, Bytes)>,
    pub(super) records: Vec<Record>,
}

struct Reader {
    partition: PartitionId,
    stream: String,
    shown: String,
}

/// Opens a stream that was opened so often before, as far as this node remembers.
pub(super) async fn recover(link: Arc<Link>, partition: PartitionId, opened: u64) -> Result<Recovered, JournalError> {
    let reader = Reader { partition, stream: link.keys.stream(partition), shown: link.shown.clone() };
    let mut line = link.line().await?;
    let end = log::end(&mut line, &reader.stream).await?.unwrap_or_default();
    let open = end.open.max(opened) + 1;
    log::open(&mut line, partition, &reader.stream, open)
        .await
        .map_err(|trouble| if trouble.is_old_id() { reader.fenced(Id { open, number: 0 }) } else { trouble.into() })?;

    let mut items = reader.read(&mut line, open).await?;
    let start = items.iter().rposition(|(_, item)| matches!(&item.what, What::Checkpoint(at) if at.reset));
    items.drain(..start.unwrap_or(0));
    let newest = items.iter().rev().find_map(|(_, item)| match &item.what {
        What::Checkpoint(checkpoint) => Some(checkpoint.clone()),
        _ => None,
    });
    let state = match &newest {
        Some(checkpoint) => Some((checkpoint.at, reader.state(&mut line, checkpoint).await?)),
        None => None,
    };
    let base = newest.as_ref().map(|checkpoint| checkpoint.at).unwrap_or_default();
    let (mut replay, mut batches, mut previous) = (Replay::new(base), VecDeque::new(), Id::default());
    for (id, item) in items {
        match item.what {
            What::Opened => continue,
            What::Checkpoint(_) => {}
            What::Batch(entries) => {
                let greatest = entries.iter().flat_map(records).map(|record| record.position.seq).max();
                batches.push_back((id, greatest.unwrap_or(0)));
                for entry in entries {
                    replay.take(entry).map_err(|how| reader.damaged(id, &how))?;
                }
            }
        }
        previous = id;
    }
    let records = replay.end().map_err(|how| reader.damaged(previous, &how))?;
    let beginning = Beginning { open, previous, batches, checkpoint: newest };
    let log = RedisLog::new(link, partition, line.generation, beginning);
    Ok(Recovered { log, opened: open, checkpoint: state, records })
}

fn records(entry: &Entry) -> &[Record] {
    match entry {
        Entry::Records(records) => records,
        Entry::Truncate { .. } => &[],
    }
}

impl Reader {
    fn damaged(&self, id: Id, how: &str) -> JournalError {
        JournalError::Damaged {
            partition: self.partition,
            detail: format!("Redis at {}: entry {id} of {}: {how}", self.shown, self.stream),
            cure: "check that Redis, then rename the key: the copy is made anew from another replica",
        }
    }

    fn fenced(&self, by: Id) -> JournalError {
        let detail = format!("entry {by} of {} in Redis at {} is not its own", self.stream, self.shown);
        JournalError::Fenced { partition: self.partition, detail }
    }

    /// All entries up to our own opening.
    async fn read(&self, line: &mut Line, open: u64) -> Result<Vec<(Id, Item)>, JournalError> {
        let (mut items, mut from, mut count) = (Vec::<(Id, Item)>::new(), "-".to_owned(), PAGE);
        let mut previous = None::<Id>;
        loop {
            let question = cmd("XRANGE").arg(&self.stream).arg(&from).arg("+").arg("COUNT").arg(count).to_owned();
            let page: Vec<(String, Vec<Bytes>)> = line.ask(&question).await?;
            let bytes: usize = page.iter().flat_map(|(_, fields)| fields).map(Bytes::len).sum();
            let is_last = page.len() < count;
            for (id, fields) in page {
                let unreadable = |how: &str| self.damaged(Id::default(), how);
                let id: Id = id.parse().map_err(|how: String| unreadable(&how))?;
                let [_, bytes] = fields.as_slice() else { return Err(self.damaged(id, "it has not one field")) };
                let item = item::decode(self.partition, id, bytes).map_err(|how| self.damaged(id, &how))?;
                let begins_anew = matches!(&item.what, What::Checkpoint(checkpoint) if checkpoint.reset);
                if item.what != What::Opened {
                    if !begins_anew && previous.is_some_and(|previous| previous != item.previous) {
                        return Err(self.damaged(id, &format!("entry {} before it is missing", item.previous)));
                    }
                    previous = Some(id);
                }
                from = format!("({id}");
                items.push((id, item));
            }
            if is_last {
                break;
            }
            count = if bytes < PAGE_BYTES { (count * 2).min(MOST_IN_A_PAGE) } else { (count / 2).max(PAGE) };
        }
        match items.last() {
            Some((id, _)) if id.open == open => Ok(items),
            Some((id, _)) => Err(self.fenced(*id)),
            None => Err(JournalError::Away(format!("Redis at {} was emptied meanwhile", self.shown))),
        }
    }

    async fn state(&self, line: &mut Line, checkpoint: &Checkpoint) -> Result<Bytes, JournalError> {
        let Checkpoint { key, chunks, length, checksum, .. } = checkpoint;
        let damaged = |how: &str| JournalError::Damaged {
            partition: self.partition,
            detail: format!("Redis at {}: checkpoint {key} {how}", self.shown),
            cure: "check that Redis, then rename the stream: the copy is made anew from another replica",
        };
        let mut state = BytesMut::new();
        let numbers: Vec<u32> = (0..*chunks).collect();
        for some in numbers.chunks(CHUNKS_AT_ONCE) {
            let mut get = pipe();
            for number in some {
                get.cmd("HGET").arg(key).arg(number);
            }
            let found: Vec<Option<Bytes>> = line.ask(&get).await?;
            for chunk in found {
                state.extend_from_slice(&chunk.ok_or_else(|| damaged("is missing, or a part of it"))?);
            }
        }
        if state.len() as u64 != *length || crc32fast::hash(&state) != *checksum {
            return Err(damaged("does not match its checksum"));
        }
        Ok(state.freeze())
    }
}

/// The keys below a pattern, without repetition.
pub(super) async fn scan(line: &mut Line, pattern: &str) -> Result<Vec<String>, Trouble> {
    let (mut cursor, mut keys) = ("0".to_owned(), std::collections::BTreeSet::new());
    loop {
        let question = cmd("SCAN").arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000).to_owned();
        let (next, page): (String, Vec<String>) = line.ask(&question).await?;
        keys.extend(page);
        cursor = next;
        if cursor == "0" {
            return Ok(keys.into_iter().collect());
        }
    }
}
