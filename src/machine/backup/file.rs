//! The form of a backup in a file, and on its way over HTTP.
//!
//! ```text
//! file    magic "SYNCBAK", version (1 byte), frame…
//! frame   kind (1 byte), length (4 bytes), checksum (4 bytes), that many bytes of CBOR
//! kinds   'H' the header, once; 'P' a part, as many as the header says; 'E' the end, once
//! ```
//!
//! Numbers are big-endian. A frame's checksum (CRC-32) is over its position among the frames, kind, length and bytes, so
//! that damage is told by the part that has it; the end has one more over all bytes before it. A file that ends without
//! its end is cut off, and one that goes on after it is none.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::BackupHeader;
use crate::{codec, machine::lock::LockRecord};

/// The newest version of the form that is known.
pub const VERSION: u8 = 1;
/// A part that has come to so many bytes is closed: with what goes along with it, it fits one entry of the log.
pub const PART_BYTES: usize = 128 << 10;
/// Most bytes of a frame. More is damage.
const MAX_FRAME_BYTES: usize = 192 << 10;

const MAGIC: &[u8; 7] = b"SYNCBAK";
const START_BYTES: usize = MAGIC.len() + 1;
const FRAME_HEAD_BYTES: usize = 1 + 4 + 4;

const HEADER: u8 = b'H';
const PART: u8 = b'P';
const END: u8 = b'E';

/// What the end of a file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct End {
    parts: u32,
    bytes: u64,
    checksum: u32,
}

/// Why bytes are no backup, or not a whole one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// It is something else.
    #[error("this is no backup of Syncmesh: it does not begin like one")]
    NoBackup,
    /// A newer program made it.
    #[error(
        "this backup has format {found}, and this version of syncmesh reads formats up to {VERSION}: use a newer one"
    )]
    NewerVersion {
        /// Its version.
        found: u8,
    },
    /// A frame is not what was written.
    #[error("the backup is damaged in {place}: {what}. Nothing was changed; use another copy of it")]
    Damaged {
        /// Where.
        place: String,
        /// How.
        what: String,
    },
    /// It ends too early.
    #[error(
        "the backup is cut off in {place}: it was not written or copied to its end. Nothing was changed; use another copy of it"
    )]
    CutOff {
        /// Where.
        place: String,
    },
    /// It goes on after its end.
    #[error(
        "the backup goes on after its end: it is two files in one, or damaged. Nothing was changed; use another copy of it"
    )]
    GoesOn,
}

/// Writes a backup, frame by frame.
#[derive(Debug)]
pub struct Writer {
    frames: u32,
    bytes: u64,
    checksum: crc32fast::Hasher,
}

impl Writer {
    /// Begins a file with its header: these are its first bytes.
    pub fn begin(header: &BackupHeader) -> (Self, Bytes) {
        let mut writer = Self { frames: 0, bytes: 0, checksum: crc32fast::Hasher::new() };
        let mut start = MAGIC.to_vec();
        start.push(VERSION);
        writer.count(&start);
        start.extend_from_slice(&writer.frame(HEADER, &codec::encode(header)));
        (writer, start.into())
    }

    /// The bytes of the next part, of what [`encode_parts`] made.
    pub fn part(&mut self, records: &[u8]) -> Bytes {
        self.frame(PART, records).into()
    }

    /// The last bytes.
    pub fn end(mut self) -> Bytes {
        let end = End { parts: self.frames - 1, bytes: self.bytes, checksum: self.checksum.clone().finalize() };
        self.frame(END, &codec::encode(&end)).into()
    }

    fn frame(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).expect("frames are far below 4 GiB");
        let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + content.len());
        frame.push(kind);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&checksum(self.frames, kind, length, content).to_be_bytes());
        frame.extend_from_slice(content);
        self.count(&frame);
        self.frames += 1;
        frame
    }

    fn count(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.checksum.update(bytes);
    }
}

fn checksum(position: u32, kind: u8, length: u32, content: &[u8]) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&position.to_be_bytes());
    checksum.update(&[kind]);
    checksum.update(&length.to_be_bytes());
    checksum.update(content);
    checksum.finalize()
}

/// Records as the contents of parts, each of about [`PART_BYTES`].
pub fn encode_parts(records: impl IntoIterator<Item = LockRecord>) -> Vec<Bytes> {
    let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for record in records {
        bytes += codec::encoded_len(&record);
        part.push(record);
        if bytes >= PART_BYTES {
            parts.push(codec::encode(&std::mem::take(&mut part)));
            bytes = 0;
        }
    }
    if !part.is_empty() {
        parts.push(codec::encode(&part));
    }
    parts
}

/// What a [`Reader`] has read next.
#[derive(Clone, PartialEq, Debug)]
pub enum Piece {
    /// The header.
    Header(Box<BackupHeader>),
    /// A part: its number, and what is in it.
    Part(u32, Vec<LockRecord>),
}

/// Reads a backup as its bytes come, and gives out nothing that is damaged.
#[derive(Debug)]
pub struct Reader {
    buffer: Vec<u8>,
    started: bool,
    frames: u32,
    parts: Option<u32>,
    bytes: u64,
    checksum: crc32fast::Hasher,
    ended: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            started: false,
            frames: 0,
            parts: None,
            bytes: 0,
            checksum: crc32fast::Hasher::new(),
            ended: false,
        }
    }
}

impl Reader {
    /// Takes the next bytes. What they complete is had from [`Self::next_piece`] until that has nothing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece that has come as a whole; `None`: more bytes are wanted.
    ///
    /// # Errors
    /// [`Damage`]; nothing more is to be read then.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, Damage> {
        if !self.start()? {
            return Ok(None);
        }
        if self.ended {
            return if self.buffer.is_empty() { Ok(None) } else { Err(Damage::GoesOn) };
        }
        let Some((kind, content)) = self.frame()? else { return Ok(None) };
        match (kind, self.frames, self.parts) {
            (HEADER, 0, _) => {
                let header: BackupHeader = self.decoded(&content)?;
                self.took(kind, &content);
                self.parts = Some(header.parts);
                Ok(Some(Piece::Header(Box::new(header))))
            }
            (PART, number, Some(parts)) if number >= 1 && number <= parts => {
                let records = self.decoded(&content)?;
                self.took(kind, &content);
                Ok(Some(Piece::Part(number - 1, records)))
            }
            (END, number, Some(parts)) if number == parts.saturating_add(1) => {
                let end: End = self.decoded(&content)?;
                let expected = End { parts, bytes: self.bytes, checksum: self.checksum.clone().finalize() };
                if end != expected {
                    return Err(self.damaged("the checksum over all of it does not match"));
                }
                self.ended = true;
                if self.buffer.is_empty() { Ok(None) } else { Err(Damage::GoesOn) }
            }
            _ => Err(self.damaged("something else stands in its place")),
        }
    }

    /// There are no more bytes.
    ///
    /// # Errors
    /// [`Damage::CutOff`] where the end is missing.
    pub fn finish(&self) -> Result<(), Damage> {
        match (self.started, self.ended) {
            (true, true) => Ok(()),
            (false, _) if !MAGIC.starts_with(&self.buffer[..self.buffer.len().min(MAGIC.len())]) => {
                Err(Damage::NoBackup)
            }
            _ => Err(Damage::CutOff { place: self.place() }),
        }
    }

    /// Whether the magic and the version have come and are what they should be.
    fn start(&mut self) -> Result<bool, Damage> {
        if self.started {
            return Ok(true);
        }
        let begins = self.buffer.len().min(MAGIC.len());
        if self.buffer[..begins] != MAGIC[..begins] {
            return Err(Damage::NoBackup);
        }
        let Some(version) = self.buffer.get(MAGIC.len()).copied() else { return Ok(false) };
        match version {
            0 => return Err(Damage::NoBackup),
            1..=VERSION => {}
            found => return Err(Damage::NewerVersion { found }),
        }
        let start: Vec<u8> = self.buffer.drain(..START_BYTES).collect();
        self.count(&start);
        self.started = true;
        Ok(true)
    }

    /// Takes the next frame out of the buffer, once it is there as a whole, and checks it.
    fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, Damage> {
        let Some(head) = self.buffer.get(..FRAME_HEAD_BYTES) else { return Ok(None) };
        let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (kind, length, expected) = (head[0], number(1), number(5));
        let size = length as usize;
        if size > MAX_FRAME_BYTES {
            return Err(self.damaged(&format!("it claims to have {length} bytes, at most {MAX_FRAME_BYTES} can be")));
        }
        if self.buffer.len() < FRAME_HEAD_BYTES + size {
            return Ok(None);
        }
        let content: Vec<u8> = self.buffer.drain(..FRAME_HEAD_BYTES + size).skip(FRAME_HEAD_BYTES).collect();
        if checksum(self.frames, kind, length, &content) != expected {
            return Err(self.damaged("its checksum does not match"));
        }
        Ok(Some((kind, content)))
    }

    /// A frame is as it was written: it counts for the checksum over all.
    fn took(&mut self, kind: u8, content: &[u8]) {
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let own = checksum(self.frames, kind, length, content);
        self.count(&[kind]);
        self.count(&length.to_be_bytes());
        self.count(&own.to_be_bytes());
        self.count(content);
        self.frames += 1;
    }

    fn count(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.checksum.update(bytes);
    }

    fn decoded<T: serde::de::DeserializeOwned>(&self, content: &[u8]) -> Result<T, Damage> {
        codec::decode(content).map_err(|unreadable| self.damaged(&unreadable.to_string()))
    }

    fn damaged(&self, what: &str) -> Damage {
        Damage::Damaged { place: self.place(), what: what.to_owned() }
    }

    fn place(&self) -> String {
        match (self.frames, self.parts) {
            (0, _) => "its header".to_owned(),
            (number, Some(parts)) if number <= parts => format!("part {number} of {parts}"),
            _ => "its end".to_owned(),
        }
    }
}
