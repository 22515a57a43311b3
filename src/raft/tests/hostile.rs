//! What lock managers tell each other and keep on disk, after somebody has tampered with it.

use openraft::{
    EntryPayload,
    raft::{AppendEntriesRequest, VoteRequest},
};
use proptest::prelude::*;
use raft_log::codeq::{Decode, Encode};

use super::*;
use crate::{
    codec::{encoded_len, hostile},
    raft::{
        Batch, Types,
        disk::{DiskLogId, DiskPayload, DiskVote},
        network::{Chunk, Reply, Request, from_wire, to_wire},
        snapshot::{self, Header},
        types::{CommittedLeader, Entry, LogId, SnapshotMeta, Vote},
    },
};

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeader { term: 1 }, index)
}

fn requests() -> Vec<Bytes> {
    let vote = Vote::new_committed(3, node(1));
    let batch = Batch { at: Tick(5), commands: vec!["a line".to_owned()] };
    let entry = Entry::<Journal> { log_id: id(2), payload: EntryPayload::Normal(batch) };
    let append = AppendEntriesRequest::<Types<Journal>> {
        vote,
        prev_log_id: Some(id(1)),
        entries: vec![entry],
        leader_commit: Some(id(1)),
    };
    let chunk = Chunk { vote, transfer: 1, offset: 0, total: 3, data: Bytes::from_static(b"abc") };
    let requests =
        [Request::<Journal>::Vote(VoteRequest::new(vote, Some(id(2)))), Request::Append(append), Request::Chunk(chunk)];
    let replies = [Reply::<Journal>::Taken, Reply::Refused("no".into())];
    requests.iter().map(to_wire).chain(replies.iter().map(to_wire)).collect()
}

fn records() -> Vec<Bytes> {
    let mut records = [Vec::new(), Vec::new(), Vec::new()];
    DiskLogId::from(id(7)).encode(&mut records[0]).unwrap();
    DiskVote(Vote::new(3, node(1))).encode(&mut records[1]).unwrap();
    DiskPayload(Bytes::from_static(b"an entry")).encode(&mut records[2]).unwrap();
    records.map(Bytes::from).to_vec()
}

/// An image without its checksum.
fn image() -> Bytes {
    let header = Header { meta: SnapshotMeta::default(), clock: Tick(1) };
    let state = Journal { lines: vec!["a line".to_owned()], times: vec![Tick(1)] };
    let image = snapshot::encode(&header, &state).unwrap();
    image.slice(..image.len() - 4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1_000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_are_decoded_or_refused(bytes in hostile::bytes(requests())) {
        if let Ok(request) = from_wire::<Request<Journal>>(&bytes) {
            prop_assert!(encoded_len(&request) <= 64 * bytes.len());
        }
        if let Ok(reply) = from_wire::<Reply<Journal>>(&bytes) {
            prop_assert!(encoded_len(&reply) <= 64 * bytes.len());
        }
    }

    #[test]
    fn records_of_the_log_are_decoded_or_refused(bytes in hostile::bytes(records())) {
        let _ = DiskLogId::decode(&bytes[..]);
        let _ = DiskVote::decode(&bytes[..]);
        if let Ok(payload) = DiskPayload::decode(&bytes[..]) {
            prop_assert!(payload.0.len() <= bytes.len());
        }
    }

    #[test]
    fn images_of_the_state_are_decoded_or_refused(bytes in hostile::bytes(vec![image()])) {
        // Whoever tampers with one can make its checksum match.
        let checksum = crc32fast::hash(&bytes).to_be_bytes();
        let image = Bytes::from([&bytes[..], &checksum].concat());
        if let Ok((header, state)) = snapshot::decode::<Journal>(&image) {
            prop_assert!(encoded_len(&header) + encoded_len(&state) <= 64 * bytes.len());
        }
    }
}
