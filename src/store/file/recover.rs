//! Reading the journal of a partition when it is opened: what a crash left half done is completed or cut, what is
//! damaged is refused.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Place, checkpoint,
    log::{FileLog, Sealed},
    segment::{self, Active},
};
use crate::{
    durable,
    machine::replication::{Position, Record},
    store::{
        JournalError,
        entry::{self, Entry},
        frame::{self, Kind, Next},
        replay::Replay,
    },
};

/// A journal as it was read, ready to be written on.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) log: FileLog,
    pub(super) checkpoint: Option<(Position, Bytes)>,
    pub(super) records: Vec<Record>,
}

/// The files of a partition, by number.
#[derive(Debug, Default)]
struct Files {
    segments: BTreeMap<u64, PathBuf>,
    checkpoints: BTreeMap<u64, PathBuf>,
}

pub(super) fn recover(place: Place) -> Result<Recovered, JournalError> {
    let mut files = list(&place).map_err(|error| place.disk(&error))?;
    let newest = files.checkpoints.pop_last();
    let checkpoint = newest.as_ref().map(|(_, path)| checkpoint::read(&place, path)).transpose()?;
    let first_segment = checkpoint.as_ref().map_or(1, |checkpoint| checkpoint.first_segment);
    let kept = files.segments.split_off(&first_segment);
    for path in files.checkpoints.into_values().chain(files.segments.into_values()) {
        fs::remove_file(&path).map_err(|error| place.disk(&error))?;
    }
    for (nth, (number, path)) in kept.iter().enumerate() {
        if *number != first_segment + nth as u64 {
            let how = format!("the segment before it, number {}, is missing", first_segment + nth as u64);
            return Err(place.damaged(path, &how));
        }
    }
    if let (true, Some((_, path))) = (kept.is_empty(), &newest) {
        return Err(place.damaged(path, &format!("segment {first_segment}, which follows it, is missing")));
    }

    let base = checkpoint.as_ref().map(|checkpoint| checkpoint.at).unwrap_or_default();
    let (mut replay, mut sealed, mut active) = (Replay::new(base), Vec::new(), None);
    let last = kept.last_key_value().map(|(number, _)| *number);
    for (number, path) in kept {
        match read(&place, number, path, last == Some(number), &mut replay)? {
            Read::Sealed(segment) => sealed.push(segment),
            Read::Open(segment) => active = Some(segment),
        }
    }
    let active = match active {
        Some(active) => active,
        // The first ever, or a crash came between a seal and what follows it.
        None => {
            let number = last.map_or(first_segment, |last| last + 1);
            Active::create(&place, number).map_err(|error| place.disk(&error))?
        }
    };
    let end = active.path.clone();
    let records = replay.end().map_err(|how| place.damaged(&end, &how))?;
    let checkpoint_number = newest.map_or(0, |(number, _)| number);
    let log = FileLog::new(place, sealed, active, checkpoint_number);
    Ok(Recovered { log, checkpoint: checkpoint.map(|checkpoint| (checkpoint.at, checkpoint.state)), records })
}

/// Finds the files, and removes those that are not complete.
fn list(place: &Place) -> io::Result<Files> {
    if !place.dir.exists() {
        fs::DirBuilder::new().mode(0o700).create(&place.dir)?;
        durable::sync_dir(place.dir.parent().expect("the folder of a partition lies in that of the journal"))?;
    }
    let mut files = Files::default();
    for entry in fs::read_dir(&place.dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = |prefix: &str| name.strip_prefix(prefix)?.parse::<u64>().ok();
        if name.ends_with(segment::TEMPORARY) {
            fs::remove_file(&path)?;
        } else if let Some(number) = number(segment::NAME) {
            files.segments.insert(number, path);
        } else if let Some(number) = number(checkpoint::NAME) {
            files.checkpoints.insert(number, path);
        }
    }
    Ok(files)
}

enum Read {
    Sealed(Sealed),
    Open(Active),
}

fn read(place: &Place, number: u64, path: PathBuf, is_last: bool, replay: &mut Replay) -> Result<Read, JournalError> {
    let disk = |error: io::Error| place.disk(&error);
    let bytes = fs::read(&path).map_err(disk)?;
    let salt = segment::salt(place, number);
    let damaged = |how: &str| place.damaged(&path, how);
    let (mut at, mut greatest) = (0, 0);
    loop {
        match frame::next(&salt, &bytes, at) {
            Next::Frame { kind: Kind::Head, body: [segment::FORMAT], end } if at == 0 => at = end,
            Next::Frame { kind: Kind::Entries, body, end } if at > 0 => {
                let at_offset = |how| damaged(&format!("{how}, at offset {at}"));
                for entry in entry::decode(body).map_err(at_offset)? {
                    if let Entry::Records(records) = &entry {
                        greatest = records.iter().map(|record| record.position.seq).fold(greatest, u64::max);
                    }
                    replay.take(entry).map_err(at_offset)?;
                }
                at = end;
            }
            Next::Frame { kind: Kind::Seal, end, .. } if at > 0 && bytes[end..].iter().all(|byte| *byte == 0) => {
                if end < bytes.len() {
                    // A crash came before the space was given back that had been reserved.
                    let file = OpenOptions::new().write(true).open(&path).map_err(disk)?;
                    cut(&file, end).map_err(disk)?;
                }
                return Ok(Read::Sealed(Sealed { number, greatest }));
            }
            Next::Frame { kind, .. } => {
                return Err(damaged(&format!("a frame of kind {kind:?} is not expected at offset {at}")));
            }
            Next::Nothing | Next::Torn if !is_last || at == 0 => {
                return Err(damaged(&format!("what follows offset {at} is missing")));
            }
            end @ (Next::Nothing | Next::Torn) => {
                return open(number, path.clone(), salt, (at, greatest), end == Next::Torn)
                    .map(Read::Open)
                    .map_err(disk);
            }
            Next::Damaged(how) => return Err(damaged(&how)),
        }
    }
}

/// The last segment, from which a torn frame is cut.
fn open(number: u64, path: PathBuf, salt: frame::Salt, (at, greatest): (usize, u64), torn: bool) -> io::Result<Active> {
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    if torn {
        tracing::info!("cuts off what a crash left half written in {}, after offset {at}", Path::display(&path));
        cut(&file, at)?;
    }
    let reserved = usize::try_from(file.metadata()?.len()).expect("it was read into memory");
    Ok(Active { number, salt, file: Arc::new(file), path, at, reserved, greatest })
}

fn cut(file: &File, at: usize) -> io::Result<()> {
    file.set_len(at as u64)?;
    file.sync_all()
}
