use super::{
    file::{Damage, PART_BYTES, Piece, Reader, VERSION, Writer, encode_parts},
    *,
};
use crate::{
    ids::{FencingToken, LockName, SessionId},
    machine::lock::{BadRecord, Mode},
};

fn session(name: &str) -> SessionId {
    SessionId::new(name).expect("an id")
}

fn lock(name: &str) -> LockName {
    LockName::new(name).expect("a name")
}

fn held(name: &str, by: &str, mode: Mode, token: u64) -> LockRecord {
    LockRecord::Hold(lock(name), session(by), mode, FencingToken(token), Tick(5), 0)
}

fn records() -> Vec<LockRecord> {
    vec![
        LockRecord::Session(session("s"), "me".into(), 30_000),
        LockRecord::Session(session("t"), "".into(), 500),
        held("a", "s", Mode::Exclusive, 7),
        held("b", "s", Mode::Shared, 8),
        held("b", "t", Mode::Shared, 9),
        LockRecord::Delay(lock("c"), 1_000),
    ]
}

fn header(counts: RecordCounts, parts: u32) -> BackupHeader {
    BackupHeader {
        cluster_id: ClusterId(42),
        cluster_name: "default".into(),
        version: "0.1.0".into(),
        created_at: Tick(1_700_000_000_000),
        term: Term(3),
        applied_index: 99,
        token: 9,
        counts,
        parts,
    }
}

/// A file with each of these as a part.
fn file(parts: &[Vec<LockRecord>]) -> Vec<u8> {
    let counts = RecordCounts { sessions: 2, holds: 3, delays: 1 };
    let (mut writer, start) = Writer::begin(&header(counts, u32::try_from(parts.len()).expect("few")));
    let mut file = start.to_vec();
    for part in parts {
        let [content] = &encode_parts(part.clone())[..] else { panic!("one part") };
        file.extend_from_slice(&writer.part(content));
    }
    file.extend_from_slice(&writer.end());
    file
}

fn whole() -> Vec<u8> {
    let (first, second) = (records()[..3].to_vec(), records()[3..].to_vec());
    file(&[first, second])
}

/// All that is in a file that comes in chunks of this size.
fn read(file: &[u8], chunk: usize) -> Result<Vec<Piece>, Damage> {
    let (mut reader, mut pieces) = (Reader::default(), Vec::new());
    for bytes in file.chunks(chunk) {
        reader.push(bytes);
        while let Some(piece) = reader.next_piece()? {
            pieces.push(piece);
        }
    }
    reader.finish().map(|()| pieces)
}

#[test]
fn what_was_written_is_read_however_it_comes() {
    let expected = [
        Piece::Header(Box::new(header(RecordCounts { sessions: 2, holds: 3, delays: 1 }, 2))),
        Piece::Part(0, records()[..3].to_vec()),
        Piece::Part(1, records()[3..].to_vec()),
    ];
    for chunk in [1, 7, 4096] {
        assert_eq!(read(&whole(), chunk).as_deref(), Ok(&expected[..]), "in chunks of {chunk}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let file = whole();
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << bit;
            assert!(read(&damaged, 4096).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn every_cut_is_noticed_and_so_is_what_follows_the_end() {
    let file = whole();
    for length in 0..file.len() {
        let cut = read(&file[..length], 4096);
        assert!(matches!(cut, Err(Damage::CutOff { .. })), "{length} bytes: {cut:?}");
    }
    assert_eq!(read(&[&file[..], b"x"].concat(), 1), Err(Damage::GoesOn));
    assert_eq!(read(&[&file[..], &file[..]].concat(), 4096), Err(Damage::GoesOn));
}

#[test]
fn damage_is_told_by_the_part_that_has_it() {
    let mut file = whole();
    let second = file.len() - 60;
    file[second] ^= 1;
    let damage = read(&file, 4096).expect_err("damage").to_string();
    assert!(damage.contains("part 2 of 2") && damage.contains("Nothing was changed"), "{damage}");
}

#[test]
fn parts_that_changed_places_and_parts_of_another_file_are_noticed() {
    let [one, two] = [records()[..1].to_vec(), records()[1..2].to_vec()];
    let (there, swapped) = (file(&[one.clone(), two.clone()]), file(&[two, one]));
    // The frames of both files are of the same lengths: the one's beginning, then the other's end.
    let differ = |(a, b): (&u8, &u8)| a != b;
    let first = there.iter().zip(&swapped).position(differ).expect("they differ");
    let last = there.iter().zip(&swapped).rposition(differ).expect("they differ");
    let mixed = [&swapped[..(first + last) / 2], &there[(first + last) / 2..]].concat();
    assert!(mixed != there && mixed != swapped);
    assert!(read(&mixed, 4096).is_err());
}

#[test]
fn a_newer_format_and_something_else_are_told_apart() {
    let mut newer = whole();
    newer[7] = VERSION + 1;
    assert_eq!(read(&newer, 4096), Err(Damage::NewerVersion { found: VERSION + 1 }));
    for other in [&b"{\"json\":true}"[..], b"SYNCSNP1", b"X"] {
        assert_eq!(read(other, 4096), Err(Damage::NoBackup));
    }
}

#[test]
fn parts_are_bounded_and_hold_everything_in_its_order() {
    let many = || (0..20_000).map(|n| LockRecord::Session(session(&format!("s{n}")), "owner".into(), 1_000));
    let parts = encode_parts(many());
    assert!(parts.len() > 1 && parts.iter().all(|part| part.len() < PART_BYTES + 1_024));
    let all: Vec<LockRecord> =
        parts.iter().flat_map(|part| crate::codec::decode::<Vec<LockRecord>>(part).expect("records")).collect();
    assert!(all.into_iter().eq(many()));
    assert!(encode_parts([]).is_empty());
}

#[test]
fn a_table_comes_back_as_it_was() {
    let mut table = LockTable::of_backup(9);
    records().into_iter().try_for_each(|record| table.add_record(record)).expect("a whole table");
    assert_eq!(table.record_counts(), RecordCounts { sessions: 2, holds: 3, delays: 1 });
    let mut again = LockTable::of_backup(9);
    table.records().try_for_each(|record| again.add_record(record)).expect("a whole table");
    assert_eq!(again.records().collect::<Vec<_>>(), records());
    let saved: LockTable = crate::codec::decode(&crate::codec::encode(&again)).expect("it is a table like others");
    assert_eq!(saved, again);
}

#[test]
fn records_that_cannot_be_true_together_are_refused() {
    let refused = |record: LockRecord| {
        let mut table = LockTable::of_backup(9);
        records().into_iter().try_for_each(|record| table.add_record(record)).expect("a whole table");
        let before = table.clone();
        let refusal = table.add_record(record).expect_err("it cannot be");
        assert_eq!(table, before);
        refusal
    };
    assert_eq!(refused(records().remove(0)), BadRecord::SessionTwice(session("s")));
    assert_eq!(refused(held("a", "t", Mode::Shared, 9)), BadRecord::HeldTwice(lock("a")));
    assert_eq!(refused(held("b", "s", Mode::Shared, 9)), BadRecord::HeldTwice(lock("b")));
    assert_eq!(refused(held("d", "s", Mode::Shared, 10)), BadRecord::TokenBeyondCounter(lock("d")));
    let unknown = BadRecord::UnknownSession { lock: lock("d"), session: session("u") };
    assert_eq!(refused(held("d", "u", Mode::Shared, 9)), unknown);
    for ttl_ms in [0, 3_600_001] {
        assert_eq!(refused(LockRecord::Session(session("u"), "".into(), ttl_ms)), BadRecord::OutOfRange);
    }
    assert_eq!(refused(LockRecord::Session(session("u"), "x".repeat(513).into(), 500)), BadRecord::OutOfRange);
    assert_eq!(refused(LockRecord::Delay(lock("d"), 0)), BadRecord::OutOfRange);
}
