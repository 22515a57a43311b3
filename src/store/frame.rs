//! Frames: how pieces lie in a file so that what was not written, what was half written and what was damaged later
//! are told apart.
//!
//! ```text
//! header  length of the body u32 | checksum of the body u32 | kind u8 | checksum of the header u32
//! body    length bytes
//! end     one byte that is not zero
//! ```
//! Numbers are little endian, checksums CRC-32. The header's covers where the frame belongs (a salt of the file) and
//! its offset, so that a frame copied elsewhere is none. A header lies within one sector; what is left of a sector
//! that cannot take one is zero.
//!
//! Each sync covers one frame, so only the last frame of a file can be torn. Space is reserved ahead, as zeros, and
//! a disk writes whole sectors: a torn frame is one that the file cuts off, or of which a sector is still all zero
//! (as etcd's log tells it, `wal/decoder.go`, `isTornEntry`). Any other mismatch is damage, and so is a torn frame
//! that a whole one follows.

use crc32fast::Hasher;

/// The unit that a disk writes as a whole.
const SECTOR: usize = 512;
/// Bytes of a header.
const HEADER: usize = 13;
/// The last byte of a frame: the last sector of a written frame is not all zero.
const END: u8 = 0xa5;
/// Most bytes of a body: some more than the greatest record, a batch of MAX_BATCH_BYTES.
pub(super) const MAX_BODY_BYTES: usize = 512 << 20;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The first of a segment: what it belongs to.
    Head = 1,
    /// A batch.
    Entries = 2,
    /// The last of a segment that another one follows.
    Seal = 3,
    /// A piece of a checkpoint's state.
    Chunk = 4,
    /// The last of a checkpoint.
    Foot = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Head, Self::Entries, Self::Seal, Self::Chunk, Self::Foot].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What a file's frames are bound to.
#[derive(Clone, Debug)]
pub(super) struct Salt(Hasher);

impl Salt {
    pub(super) fn new(parts: &[&[u8]]) -> Self {
        let mut hasher = Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher)
    }

    fn checksum(&self, at: usize, header: &[u8]) -> u32 {
        let mut hasher = self.0.clone();
        hasher.update(&(at as u64).to_le_bytes());
        hasher.update(header);
        hasher.finalize()
    }
}

/// Where the frame that is written after `at` begins.
pub(super) fn begin(at: usize) -> usize {
    let left = SECTOR - at % SECTOR;
    if left < HEADER { at + left } else { at }
}

/// Bytes that a frame takes whose body has this length.
pub(super) fn len(body: usize) -> usize {
    HEADER + body + 1
}

/// Makes `out` the frame of this body, to be written at `at`, which is a place that [`begin`] gives.
pub(super) fn encode(salt: &Salt, at: usize, kind: Kind, body: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    debug_assert_eq!(at, begin(at));
    out.clear();
    out.resize(HEADER, 0);
    body(out);
    let length = out.len() - HEADER;
    assert!(length <= MAX_BODY_BYTES, "a batch is cut long before it has {MAX_BODY_BYTES} bytes");
    let checksum = crc32fast::hash(&out[HEADER..]);
    out[..4].copy_from_slice(&(length as u32).to_le_bytes());
    out[4..8].copy_from_slice(&checksum.to_le_bytes());
    out[8] = kind as u8;
    let checksum = salt.checksum(at, &out[..9]);
    out[9..HEADER].copy_from_slice(&checksum.to_le_bytes());
    out.push(END);
}

/// What is found at a place of a file.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Next<'a> {
    /// A whole frame.
    Frame {
        /// What it is.
        kind: Kind,
        /// Its body.
        body: &'a [u8],
        /// Where it ends.
        end: usize,
    },
    /// Nothing more was written.
    Nothing,
    /// The write of a frame here did not get to its end.
    Torn,
    /// What is here is not what was written.
    Damaged(String),
}

/// Looks at the place of a file after which `at` bytes have been read.
pub(super) fn next<'a>(salt: &Salt, bytes: &'a [u8], at: usize) -> Next<'a> {
    if is_zero(&bytes[at..]) {
        return Next::Nothing;
    }
    let start = begin(at).min(bytes.len());
    if !is_zero(&bytes[at..start]) {
        return Next::Damaged(format!("bytes between two frames, at offset {at}, are not zero"));
    }
    match look(salt, bytes, start) {
        Next::Torn => match following(salt, bytes, start + 1) {
            Some(next) => Next::Damaged(format!("the frame at offset {start} is gone, one at offset {next} is there")),
            None => Next::Torn,
        },
        other => other,
    }
}

fn look<'a>(salt: &Salt, bytes: &'a [u8], at: usize) -> Next<'a> {
    let rest = &bytes[at..];
    let sector = &rest[..rest.len().min(SECTOR - at % SECTOR)];
    if rest.len() < HEADER || is_zero(sector) {
        return Next::Torn;
    }
    let Some((kind, length, checksum)) = header(salt, rest, at) else {
        return Next::Damaged(format!("the header of the frame at offset {at} does not match its checksum"));
    };
    let end = at + len(length);
    if end > bytes.len() {
        return Next::Torn;
    }
    let body = &bytes[at + HEADER..end - 1];
    if bytes[end - 1] == END && crc32fast::hash(body) == checksum {
        Next::Frame { kind, body, end }
    } else if has_zero_sector(&bytes[at..end], at) {
        Next::Torn
    } else {
        Next::Damaged(format!("the frame at offset {at} does not match its checksum"))
    }
}

fn header(salt: &Salt, bytes: &[u8], at: usize) -> Option<(Kind, usize, u32)> {
    let header = bytes.get(..HEADER)?;
    let kind = Kind::of(header[8])?;
    let number = |from: usize| u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]]);
    let length = number(0) as usize;
    (salt.checksum(at, &header[..9]) == number(9) && length <= MAX_BODY_BYTES).then_some((kind, length, number(4)))
}

/// Where a whole frame is after a torn one, whose end nobody knows.
fn following(salt: &Salt, bytes: &[u8], from: usize) -> Option<usize> {
    (from..bytes.len()).find(|at| *at == begin(*at) && is_whole(salt, bytes, *at))
}

fn is_whole(salt: &Salt, bytes: &[u8], at: usize) -> bool {
    let Some((_, length, checksum)) = header(salt, &bytes[at..], at) else { return false };
    bytes.get(at + HEADER..at + HEADER + length).is_some_and(|body| crc32fast::hash(body) == checksum)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn has_zero_sector(frame: &[u8], at: usize) -> bool {
    let (first, rest) = frame.split_at(frame.len().min(SECTOR - at % SECTOR));
    std::iter::once(first).chain(rest.chunks(SECTOR)).any(is_zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn salt() -> Salt {
        Salt::new(&[b"one file"])
    }

    /// Frames of bodies of these lengths, one after the other, then zeros.
    fn file(lengths: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts, mut frame) = (Vec::new(), Vec::new(), Vec::new());
        for (nth, length) in lengths.iter().enumerate() {
            let start = begin(bytes.len());
            bytes.resize(start, 0);
            encode(&salt(), start, Kind::Entries, |out| out.extend(vec![nth as u8 + 1; *length]), &mut frame);
            bytes.extend(&frame);
            starts.push(start);
        }
        starts.push(bytes.len());
        bytes.resize(bytes.len() + 2 * SECTOR, 0);
        (bytes, starts)
    }

    /// How many whole frames come first, and what is after them.
    fn read(salt: &Salt, bytes: &[u8]) -> (usize, Next<'static>) {
        let (mut at, mut whole) = (0, 0);
        loop {
            match next(salt, bytes, at) {
                Next::Frame { end, .. } => (at, whole) = (end, whole + 1),
                Next::Nothing => return (whole, Next::Nothing),
                Next::Torn => return (whole, Next::Torn),
                Next::Damaged(how) => return (whole, Next::Damaged(how)),
            }
        }
    }

    #[test]
    fn frames_of_all_lengths_around_a_sector_are_read_back() {
        let lengths: Vec<usize> = (470..530).chain([0, 1, 2000]).collect();
        let (bytes, _) = file(&lengths);
        assert_eq!(read(&salt(), &bytes), (lengths.len(), Next::Nothing));
    }

    #[test]
    fn a_frame_of_another_file_or_another_place_is_none() {
        let (bytes, _) = file(&[20]);
        assert!(matches!(read(&Salt::new(&[b"another"]), &bytes), (0, Next::Damaged(_))));
        assert!(matches!(read(&salt(), &[&[1; 40], bytes.as_slice()].concat()), (0, Next::Damaged(_))));
        let (twice, starts) = file(&[20, 20]);
        let copied = [&twice[..starts[1]], &twice[..starts[1]], &[0; SECTOR]].concat();
        assert!(matches!(read(&salt(), &copied), (1, Next::Damaged(_))));
    }

    #[test]
    fn wherever_the_last_frame_is_cut_off_those_before_it_are_whole() {
        let (bytes, starts) = file(&[300, 700, 900]);
        for end in starts[2]..starts[3] {
            let (whole, after) = read(&salt(), &bytes[..end]);
            assert_eq!(whole, 2, "{end}");
            assert!(matches!(after, Next::Torn | Next::Nothing), "{end}: {after:?}");
        }
    }

    #[test]
    fn a_last_frame_of_which_any_sectors_were_not_written_is_torn() {
        let (whole, starts) = file(&[300, 2000]);
        let sectors: Vec<_> = (starts[1] / SECTOR..=(starts[2] - 1) / SECTOR).collect();
        for missing in 1..1u32 << sectors.len() {
            let mut bytes = whole.clone();
            for (_, sector) in sectors.iter().enumerate().filter(|(nth, _)| missing & (1 << nth) != 0) {
                bytes[(sector * SECTOR).max(starts[1])..(sector + 1) * SECTOR].fill(0);
            }
            let (count, after) = read(&salt(), &bytes);
            assert_eq!(count, 1, "{missing:b}");
            assert!(matches!(after, Next::Torn | Next::Nothing), "{missing:b}: {after:?}");
        }
    }

    #[test]
    fn a_hole_before_a_whole_frame_is_damage() {
        let (mut bytes, starts) = file(&[600, 1200, 50]);
        bytes[starts[1]..starts[2]].fill(0);
        assert!(matches!(read(&salt(), &bytes), (1, Next::Damaged(_))));
    }

    #[test]
    fn every_flipped_bit_of_what_was_written_is_noticed_and_one_in_the_space_after_it_costs_nothing() {
        let (whole, starts) = file(&[40, 700, 1]);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let (count, after) = read(&salt(), &bytes);
                let noticed = matches!(after, Next::Damaged(_));
                assert!(noticed || (at >= starts[3] && count == 3), "bit {bit} of byte {at}: {count}, {after:?}");
            }
        }
    }
}
