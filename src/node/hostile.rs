//! What nodes tell each other, after somebody has tampered with it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    events::news::News,
    recording::node,
    wire::{ClientAsk, ClientReply, ControlCall, ControlReply, Hello, Leader, Read, Refused, View, ViewHint},
};
use crate::{
    codec::{
        encode,
        hostile::{bytes, is_decoded_or_refused},
    },
    error::{Error, Outcome},
    ids::{
        CacheKey, ClusterId, Epoch, Incarnation, JournalId, LockName, PartitionId, RequestId, Role, SessionId, Term,
        Tick,
    },
    machine::{
        cache::{
            CacheRequest, Fetch, FromHome, HandedEntry, HandedOwner, HomeAnswer, HomeId, HomeReply, HomeRequest, Inv,
            InvBatch, LineId, LineState, Moved, Nonce, PutAck, Right, SlotId, ToHome, Value, Version,
        },
        control::{Change, ChangeBody, IdempotencyKey},
        lock::{Acquire, LockRequest, LockView, Mode, NewSession, Want},
        membership::{CacheTerms, ClusterRecord, Joiner, JournalSafety, Liveness, Member, MemberChange},
        placement::{Partition, PartitionStatus},
        replication::Replica,
        requests::Done,
        slots::{Came, Slot, SlotTable, table},
    },
    node::{
        caches::{
            Read as CacheRead, Which,
            wire::{CacheAsk, CacheReply, Cleared, CoherenceAsk, Part},
        },
        locks::PageRequest,
    },
};

fn joiner() -> Joiner {
    Joiner {
        node: node(1),
        incarnation: Incarnation(7),
        roles: Role::ALL.to_vec(),
        addrs: vec!["/ip4/127.0.0.1/tcp/4001".into()],
        version: "0.1.0".into(),
        journal: Some(JournalId(8)),
        journal_safety: JournalSafety { durable: true, shared_fate: Some("run".into()), given_up: 0, away: None },
    }
}

fn partition() -> Partition {
    let replica = Replica { node: node(1), incarnation: Incarnation(7), journal: JournalId(8) };
    Partition {
        epoch: Epoch(2),
        primary: Some(replica),
        in_sync: vec![replica],
        holders: vec![replica],
        replicas: vec![node(1), node(3)],
        status: PartitionStatus::Serving,
    }
}

fn view() -> View {
    let member = Member { joiner: joiner(), liveness: Liveness::Up, since: Tick(9) };
    View {
        version: 3,
        members: BTreeMap::from([(node(1), member)]),
        barred: vec![node(2)],
        voters: vec![node(1)],
        learners: vec![node(3)],
        partitions: Arc::new(BTreeMap::from([(PartitionId(1), partition())])),
        slots: slots(),
    }
}

fn slots() -> SlotTable {
    let home = HomeId { node: node(1), incarnation: Incarnation(7), group: 0 };
    let slot = Slot { epoch: Epoch(2), home: Some(home), came: Came::Handed(home), to: Some(home) };
    table([(SlotId(3), slot)])
}

fn hello() -> Hello {
    let record = ClusterRecord {
        cluster_id: ClusterId(5),
        cluster_name: "default".into(),
        founders: vec![node(1)],
        queue_partitions: 64,
        cache_protocol: "moesi".into(),
        cache: CacheTerms::default(),
        founded_at: Tick(1),
    };
    Hello {
        incarnation: Incarnation(7),
        cluster_name: "default".into(),
        cache_protocol: "moesi".into(),
        cache_write_policy: "back".into(),
        roles: Role::ALL.to_vec(),
        version: "0.1.0".into(),
        record: Some(record),
        leader: Some(Leader { term: Term(3), node: node(1) }),
        addrs: joiner().addrs,
        acquainted: vec![(node(2), joiner().addrs)],
    }
}

fn control_calls() -> Vec<Bytes> {
    let calls = [
        ControlCall::Hello(Box::new(hello())),
        ControlCall::Join(Box::new(joiner())),
        ControlCall::Heartbeat { incarnation: Incarnation(7), view: 3 },
        ControlCall::PleaseLeave,
        ControlCall::LeaveWithin { deadline_ms: 1_000 },
        ControlCall::Logs,
        ControlCall::News(Box::new(News::Healed { reached: vec![node(2)], lasted_ms: 7, recovery_ms: 3 })),
    ];
    calls.iter().map(encode).collect()
}

fn control_replies() -> Vec<Bytes> {
    let replies = [
        ControlReply::Hello(Box::new(hello())),
        ControlReply::Joined(Box::new(view())),
        ControlReply::Alive { leader: Leader::default(), version: 3, view: Some(Box::new(view())) },
        ControlReply::NotLeader(Some(Leader::default())),
        ControlReply::Info("{}".into()),
        ControlReply::Logs { text: "starts".into(), forgotten: 3 },
        ControlReply::Refused(Refused::Barred),
        ControlReply::Failed(Error::unavailable(Outcome::Unknown, "later")),
    ];
    replies.iter().map(encode).collect()
}

fn session() -> SessionId {
    SessionId::new("s-1").unwrap()
}

fn asks() -> Vec<Bytes> {
    let new = NewSession { session: session(), ttl_ms: 30_000, owner: "somebody".into() };
    let want = Want { lock: LockName::new("printer").unwrap(), mode: Mode::Exclusive };
    let acquire =
        Acquire { session: session(), open: Some(new), wants: vec![want.clone(), want], wait_ms: 1, lock_delay_ms: 2 };
    let change = |body| {
        ClientAsk::Change(Change {
            request: RequestId { node: node(1), incarnation: Incarnation(7), seq: 9 },
            done: Done { below: 3, ranges: vec![(5, 6)] },
            key: Some(IdempotencyKey { key: "once".into(), fingerprint: 8 }),
            body,
        })
    };
    let page = PageRequest { prefix: Some("p".into()), after: None, limit: 10 };
    let asks = [
        change(ChangeBody::Lock(LockRequest::Acquire(acquire))),
        change(ChangeBody::Member(MemberChange::Remove(node(2)))),
        ClientAsk::KeepAlive(session()),
        ClientAsk::Read(Read::Locks(page)),
        ClientAsk::Watch { lock: LockName::new("printer").unwrap(), after: None },
        ClientAsk::Transfer(Some(node(2))),
        ClientAsk::Cache(Box::new(CacheAsk::Increment(CacheKey::new("hits").unwrap(), -1))),
        ClientAsk::Cache(Box::new(CacheAsk::Clear { which: Which::Prefix("user:".into()), slots: [SlotId(7)].into() })),
    ];
    asks.iter().map(encode).collect()
}

fn client_replies() -> Vec<Bytes> {
    let shown = LockView {
        lock: LockName::new("printer").unwrap(),
        mode: Some(Mode::Shared),
        holders: Vec::new(),
        waiters: Vec::new(),
    };
    let replies = [
        ClientReply::NotLeader(Some(Leader::default())),
        ClientReply::View(Some(shown)),
        ClientReply::Kept { ttl_ms: 30_000 },
        ClientReply::Failed(Error::bad_request("ttl_ms", "too short")),
    ];
    replies.iter().map(encode).collect()
}

fn line() -> LineId {
    LineId { key: CacheKey::new("hits").unwrap(), epoch: Epoch(2) }
}

fn value() -> Value {
    Value { version: Version { epoch: Epoch(2), seq: 3, n: 1 }, body: Some(Bytes::from_static(b"7")), ttl_ms: Some(9) }
}

fn home() -> HomeId {
    HomeId { node: node(1), incarnation: Incarnation(7), group: 0 }
}

fn coherence_asks() -> Vec<Bytes> {
    let nonce = Nonce { incarnation: Incarnation(7), count: 4 };
    let (version, writer) = (value().version, Some(node(2)));
    let to_home = |body| CoherenceAsk::Home(ToHome { home: home(), session: nonce, body });
    let from_home = |body| CoherenceAsk::Cache(FromHome { home: home(), put_acks: Vec::new(), body });
    let owner = Some(HandedOwner { node: node(2), grant: nonce, session: nonce, before: Some(nonce) });
    let entry = HandedEntry { key: line().key, value: Some(value()), owner };
    let part = Part {
        slot: SlotId(3),
        epoch: Epoch(2),
        home: home(),
        part: 0,
        of: 1,
        caches: vec![node(2)],
        entries: vec![entry],
    };
    let asks = [
        to_home(HomeRequest::GetM { line: line(), nonce, held: Some(nonce), need_value: true }),
        to_home(HomeRequest::Put { line: line(), grant: nonce, stamp: version, value: Some(value()) }),
        from_home(CacheRequest::Inv(Inv { line: line(), version, writer, home: home() })),
        from_home(CacheRequest::Recover { slot: SlotId(3), epoch: Epoch(2), after: None, before: Some(home()) }),
        CoherenceAsk::Owner(Fetch { line: line(), grant: nonce, nonce }),
        CoherenceAsk::HandOver(part),
    ];
    asks.iter().map(encode).collect()
}

fn coherence_answers() -> Vec<Bytes> {
    let nonce = Nonce { incarnation: Incarnation(7), count: 4 };
    let body = HomeAnswer::Data { nonce, stamp: value().version, value: value(), right: Right::Exclusive };
    let put_acks = vec![PutAck { line: line(), grant: nonce }];
    let moved = vec![Moved { slot: SlotId(3), epoch: Epoch(2) }];
    let reply = HomeReply { session: nonce, lease_ms: Some(2_000), moved, put_acks, body };
    vec![encode(&reply)]
}

fn gossip() -> Vec<Bytes> {
    let inv = Inv { line: line(), version: value().version, writer: None, home: home() };
    vec![encode(&InvBatch { home_seq: 3, invs: vec![inv.clone(), inv] })]
}

fn cache_replies() -> Vec<Bytes> {
    let read = CacheRead { version: value().version, body: Bytes::from_static(b"7"), state: LineState::M, hit: false };
    let cleared = Cleared { invalidated: 3, left: [SlotId(9)].into() };
    let replies = [
        CacheReply::Read(Some(read)),
        CacheReply::Cleared(cleared),
        CacheReply::Failed(Error::unavailable(Outcome::Unknown, "later")),
    ];
    replies.iter().map(encode).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1_000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn control_calls_are_decoded_or_refused(bytes in bytes(control_calls())) {
        is_decoded_or_refused::<ControlCall>(&bytes);
    }

    #[test]
    fn control_replies_are_decoded_or_refused(bytes in bytes(control_replies())) {
        is_decoded_or_refused::<ControlReply>(&bytes);
    }

    #[test]
    fn questions_of_clients_are_decoded_or_refused(bytes in bytes(asks())) {
        is_decoded_or_refused::<ClientAsk>(&bytes);
    }

    #[test]
    fn answers_to_clients_are_decoded_or_refused(bytes in bytes(client_replies())) {
        is_decoded_or_refused::<ClientReply>(&bytes);
    }

    #[test]
    fn hints_of_the_view_are_decoded_or_refused(bytes in bytes(vec![encode(&ViewHint { term: Term(1), version: 2 })])) {
        is_decoded_or_refused::<ViewHint>(&bytes);
    }

    #[test]
    fn what_caches_ask_each_other_is_decoded_or_refused(bytes in bytes(coherence_asks())) {
        is_decoded_or_refused::<CoherenceAsk>(&bytes);
    }

    #[test]
    fn what_homes_answer_is_decoded_or_refused(bytes in bytes(coherence_answers())) {
        is_decoded_or_refused::<HomeReply>(&bytes);
    }

    #[test]
    fn what_is_gossiped_of_the_cache_is_decoded_or_refused(bytes in bytes(gossip())) {
        is_decoded_or_refused::<InvBatch>(&bytes);
    }

    #[test]
    fn what_cache_nodes_answer_for_others_is_decoded_or_refused(bytes in bytes(cache_replies())) {
        is_decoded_or_refused::<CacheReply>(&bytes);
    }

    #[test]
    fn a_greeting_is_bounded_whatever_it_says(bytes in bytes(control_calls())) {
        if let Ok(ControlCall::Hello(mut hello)) = crate::codec::decode(&bytes) {
            hello.bound();
            prop_assert!(hello.acquainted.len() <= super::wire::MAX_ACQUAINTED);
            prop_assert!(hello.roles.len() <= Role::ALL.len());
        }
    }
}
