//! Versions as ETags, and messages as bytes.

use bytes::Bytes;
use proptest::prelude::*;

use crate::{
    codec::{
        self,
        hostile::{bytes, is_decoded_or_refused},
    },
    ids::{CacheKey, Epoch, Incarnation},
    machine::cache::{
        CacheAnswer, CacheRequest, Fetch, FromHome, HomeAnswer, HomeReply, HomeRequest, Inv, InvBatch, LineId, Moved,
        Nonce, PutAck, RecoveredLine, Right, SLOTS, SlotId, ToHome, Value, Version, believed_ms, waited_ms,
        world::{home_id, key, node},
    },
};

fn versions() -> impl Strategy<Value = Version> {
    let number = prop_oneof![0..20_u64, any::<u64>()];
    (number.clone(), number.clone(), number).prop_map(|(epoch, seq, n)| Version { epoch: Epoch(epoch), seq, n })
}

proptest! {
    #[test]
    fn texts_of_versions_compare_as_versions_do(one in versions(), other in versions()) {
        prop_assert_eq!(one.to_string().cmp(&other.to_string()), one.cmp(&other));
        prop_assert_eq!(one.to_string().parse(), Ok(one));
    }

    #[test]
    fn any_text_is_read_as_a_version_or_refused(text in "[0-9a-fA-F+]{0,60}|.*") {
        if let Ok(version) = text.parse::<Version>() {
            prop_assert_eq!(version.to_string(), text);
        }
    }
}

#[test]
fn a_holder_stops_believing_before_the_home_stops_waiting() {
    for lease_ms in [10, 100, 2_000, 3_600_000] {
        let (believed, waited) = (believed_ms(lease_ms), waited_ms(lease_ms));
        assert!(believed < lease_ms && lease_ms < waited, "{lease_ms}: {believed}, {waited}");
        // Even if the one clock runs slow by a hundredth and the other fast.
        assert!(believed * 101 <= waited * 99 + 100, "{lease_ms}: {believed}, {waited}");
    }
}

#[test]
fn the_slot_of_a_key_is_what_it_was_in_the_first_version() {
    let slots = ["k", "user:1", "user:2"].map(|name| SlotId::of(&CacheKey::new(name).expect("a short name")).0);
    assert_eq!(slots, [96, 194, 48]);
    assert!(slots.iter().all(|slot| *slot < SLOTS));
}

#[test]
fn a_message_is_the_same_after_its_journey() {
    let session = Nonce { incarnation: Incarnation(3), count: 7 };
    let message = ToHome { home: home_id(0), session, body: HomeRequest::Renew };
    assert_eq!(codec::decode::<ToHome>(&codec::encode(&message)), Ok(message));
}

fn sent() -> Vec<Bytes> {
    let (line, nonce) = (LineId { key: key(), epoch: Epoch(2) }, Nonce { incarnation: Incarnation(3), count: 7 });
    let stamp = Version { epoch: Epoch(2), seq: 9, n: 1 };
    let value = Value { version: stamp, body: Some(Bytes::from_static(b"value")), ttl_ms: Some(5) };
    let put = HomeRequest::Put { line: line.clone(), grant: nonce, stamp, value: Some(value.clone()) };
    let data = HomeAnswer::Data { nonce, stamp, value: value.clone(), right: Right::Shared };
    let put_acks = vec![PutAck { line: line.clone(), grant: nonce }];
    let inv = Inv { line: line.clone(), version: stamp, writer: Some(node(1)), home: home_id(0) };
    let recovered = RecoveredLine { key: key(), grant: nonce, released: false, value: value.clone() };
    vec![
        codec::encode(&ToHome { home: home_id(0), session: nonce, body: put }),
        codec::encode(&HomeReply {
            session: nonce,
            lease_ms: Some(2_000),
            moved: vec![Moved { slot: SlotId(3), epoch: Epoch(1) }],
            put_acks: put_acks.clone(),
            body: data,
        }),
        codec::encode(&FromHome { home: home_id(0), put_acks, body: CacheRequest::Inv(inv.clone()) }),
        codec::encode(&CacheAnswer::Recovered { lines: vec![recovered], session: None }),
        codec::encode(&Fetch { line, grant: nonce, nonce }),
        codec::encode(&InvBatch { home_seq: 4, invs: vec![inv] }),
    ]
}

proptest! {
    #[test]
    fn messages_are_decoded_or_refused(bytes in bytes(sent())) {
        is_decoded_or_refused::<ToHome>(&bytes);
        is_decoded_or_refused::<HomeReply>(&bytes);
        is_decoded_or_refused::<FromHome>(&bytes);
        is_decoded_or_refused::<CacheAnswer>(&bytes);
        is_decoded_or_refused::<Fetch>(&bytes);
        is_decoded_or_refused::<InvBatch>(&bytes);
    }
}
