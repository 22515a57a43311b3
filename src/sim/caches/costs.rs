//! What each operation of the cache costs, counted where it is sent: the exchanges, notices and broadcasts between the
//! real nodes that name the key, and how often its value crosses the wire.
//!
//! Held to the table of the protocol's specification, "What E and O buy". The machines alone are held to it in
//! [`machine::cache`](crate::machine::cache); here batches, deferred answers and gossip are between them. Three nodes
//! use keys that a fourth one is home to.

use std::sync::{Arc, Mutex};

use super::api::{Answer, Ask, CacheService};
use crate::{
    codec::decode,
    ids::CacheKey,
    machine::cache::{CacheRequest, InvBatch, SlotId},
    net::{self, Topic, deferred::questions},
    node::caches::{Protocol, WritePolicy, wire::CoherenceAsk},
    sim::{
        machine::{self, CachePlan, ClusterPlan, Latecomers},
        network::{Frame, Weather},
        world::World,
    },
};

/// The node that is home to all keys.
const HOME: usize = 3;
/// So long is waited for what an operation leaves to be sent: longer than gossip takes, and shorter than anything that is
/// sent again.
const SETTLES_MS: u64 = 12;
/// By then what was surrendered is acknowledged, or, where no message of the home's came by which it could be, was Put. The
/// table does not count that.
const BUFFERED_MS: u64 = 200;
/// Lines of a cache.
const CAPACITY: usize = 16;
/// Other keys are used so often at the most until a line gives way.
const MANY: u64 = 2_000;

/// What was sent that names a key.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Sent {
    /// Questions that are answered, notices that are not, and broadcasts, by their kind.
    messages: Vec<&'static str>,
    /// How often the value was sent.
    values: usize,
}

impl Sent {
    fn of(frames: &[Frame], key: &CacheKey, value: u64) -> Self {
        let digits = value.to_string().into_bytes();
        let carries = |body: &[u8]| body.windows(digits.len()).filter(|part| *part == digits).count();
        let mut sent = Self::default();
        for frame in frames {
            match frame {
                Frame::Request { protocol: net::Protocol::Coherence, body } => {
                    sent.values += carries(body);
                    sent.messages.extend(questions(body).iter().filter_map(|ask| kind(ask, key)));
                }
                Frame::Answer { protocol: net::Protocol::Coherence, body } => sent.values += carries(body),
                Frame::Broadcast { topic: Topic::Invalidations, body } => {
                    let batch: InvBatch = decode(body).expect("nodes broadcast batches");
                    let names = batch.invs.iter().filter(|inv| inv.line.key == *key);
                    sent.messages.extend(names.map(|_| "broadcast"));
                }
                _ => {}
            }
        }
        sent.messages.sort_unstable();
        sent
    }

    /// As the table has it.
    fn tell(&self) -> String {
        let mut told = self.messages.join(" ");
        if self.values > 0 {
            told.push_str(&format!(" {}v", self.values));
        }
        if told.is_empty() { "0".to_owned() } else { told }
    }
}

/// What is asked that names the key.
fn kind(ask: &[u8], key: &CacheKey) -> Option<&'static str> {
    let (named, kind) = match decode(ask).expect("nodes ask what there is") {
        CoherenceAsk::Home(message) => (message.body.line()?.key.clone(), message.body.kind()),
        CoherenceAsk::Cache(message) => match message.body {
            CacheRequest::Recall { line, .. } => (line.key, "recall"),
            CacheRequest::Ask { line, .. } => (line.key, "ask"),
            CacheRequest::Inv(inv) => (inv.line.key, "inv"),
            CacheRequest::Recover { .. } => return None,
        },
        CoherenceAsk::Owner(message) => (message.line.key, "fetch"),
        CoherenceAsk::HandOver(_) => return None,
    };
    (named == *key).then_some(kind)
}

/// Four cache nodes under one protocol, and the names that were used.
struct Tried {
    world: World<CacheService>,
    names: u64,
    values: u64,
}

/// A key of its own, and its last value.
struct Line {
    key: CacheKey,
    value: u64,
}

impl Tried {
    fn of(protocol: Protocol, policy: WritePolicy) -> Self {
        let plan = ClusterPlan {
            founders: HOME + 1,
            latecomers: Latecomers::Workers,
            queues: None,
            caches: Some(CachePlan { capacity: CAPACITY, ..CachePlan::of(protocol, policy) }),
        };
        let weather = Weather { delay_us: 200..=1_000, ..Weather::calm() };
        let mut world = World::new(7, HOME + 1, weather, 0, machine::cluster(plan));
        (0..=HOME).for_each(|index| world.start(index));
        let is_placed = |world: &World<CacheService>| {
            let slots = world.door(0).slots();
            let agreed = (1..=HOME).all(|index| world.door(index).slots() == slots);
            agreed
                && slots.len() == usize::from(crate::machine::cache::SLOTS)
                && slots.values().all(|slot| slot.home.is_some())
        };
        assert!(world.run_until(60_000, is_placed), "the slots were not placed");
        Self { world, names: 0, values: 1_000_000_000_000_000_000 }
    }

    /// A key that the home has a value of, which nobody shares.
    fn at_home(&mut self) -> Line {
        let slots = self.world.door(0).slots();
        let home = self.world.node(HOME);
        let key = loop {
            self.names += 1;
            let key = CacheKey::new(format!("k{}", self.names)).expect("a short name is a key");
            if slots[&SlotId::of(&key)].home.is_some_and(|of| of.node == home) {
                break key;
            }
        };
        let mut line = Line { key, value: 0 };
        self.put(2, &mut line);
        self.evict(2, &line);
        line
    }

    /// One operation at a node, and what was sent for it.
    fn does(&mut self, node: usize, ask: Ask) -> (Answer, Vec<Frame>) {
        self.world.network().take_recorded();
        let answer = self.asks(node, ask);
        self.world.run_for(SETTLES_MS);
        (answer, self.world.network().take_recorded())
    }

    fn asks(&mut self, node: usize, ask: Ask) -> Answer {
        let (door, told) = (self.world.door(node), Arc::new(Mutex::new(None)));
        let answer = Arc::clone(&told);
        let asks = async move { *answer.lock().expect("no panic while locked") = Some(door.perform(ask, None).await) };
        let asked = self.world.spawn_client(asks);
        assert!(self.world.run_until(10_000, |_| asked.is_finished()), "it was not answered");
        told.lock().expect("no panic while locked").take().expect("it was answered")
    }

    fn get(&mut self, node: usize, line: &Line) -> String {
        let (answer, frames) = self.does(node, Ask::Get(line.key.clone()));
        assert!(matches!(answer, Answer::Read(value, _) if value == line.value), "{answer:?}");
        Sent::of(&frames, &line.key, line.value).tell()
    }

    /// Stores a new value; what crossed the wire is the one before, or, where it is written through, the new one.
    fn put(&mut self, node: usize, line: &mut Line) -> String {
        self.values += 1;
        let before = std::mem::replace(&mut line.value, self.values);
        let (answer, frames) = self.does(node, Ask::Put(line.key.clone(), line.value));
        assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
        let mut sent = Sent::of(&frames, &line.key, line.value);
        if before > 0 {
            sent.values += Sent::of(&frames, &line.key, before).values;
        }
        sent.tell()
    }

    /// Uses other keys until the line has given way: those of a few that come again and again, since what is used once
    /// takes nobody's place.
    fn evict(&mut self, node: usize, line: &Line) -> String {
        self.world.network().take_recorded();
        for nth in 0..MANY {
            // What is forgotten before it comes again is new each time: few at first, then more than there is room for.
            let few = 4 + nth / 40 % 20;
            let other = CacheKey::new(format!("other-{}", nth % few)).expect("a short name is a key");
            self.asks(node, Ask::Put(other, 0));
            let mut frames = self.world.network().take_recorded();
            if !Sent::of(&frames, &line.key, line.value).messages.is_empty() {
                self.world.run_for(SETTLES_MS);
                frames.extend(self.world.network().take_recorded());
                return Sent::of(&frames, &line.key, line.value).tell();
            }
        }
        panic!("{} has not given way", line.key)
    }
}

/// A row of the table: what is done before, and then measured.
type Row = (&'static str, fn(&mut Tried) -> String, [&'static str; 3]);

/// For MESI, MOSI, MOESI. `v`: a value. What is dirty when another stores comes to the home, since it would be gone if the
/// grant were lost.
const BACK: [Row; 15] = [
    ("load hit", load_hit, ["0", "0", "0"]),
    ("load miss, home current", load_miss, ["get-s 1v", "get-s 1v", "get-s 1v"]),
    ("load miss, another owns it, dirty", load_of_owned, ["get-s recall 2v", "fetch get-s 1v", "fetch get-s 1v"]),
    ("load miss, another has it, clean", load_of_clean, ["get-s recall 1v", "get-s 1v", "fetch get-s 1v"]),
    ("the next load by a third node", load_by_third, ["get-s 1v", "fetch get-s 1v", "fetch get-s 1v"]),
    ("store by the only reader", store_by_reader, ["0", "upgrade", "0"]),
    ("store, 1 sharer", store_one_sharer, ["broadcast inv-ack upgrade"; 3]),
    ("store, 2 sharers", store_two_sharers, ["broadcast inv-ack inv-ack upgrade"; 3]),
    ("store miss, another owns it", store_of_owned, ["get-m recall 1v"; 3]),
    ("store by the owner", store_by_owner, ["0"; 3]),
    ("evict S", evict_shared, ["put-s"; 3]),
    ("evict what was read alone", evict_read, ["put", "put-s", "put"]),
    ("evict M", evict_modified, ["put 1v"; 3]),
    ("evict what was written, then read by another", evict_owned, ["put-s", "put 1v", "put 1v"]),
    ("evict what was read, then by another", evict_clean_owned, ["put-s", "put-s", "put"]),
];

fn load_hit(tried: &mut Tried) -> String {
    let line = tried.at_home();
    tried.get(0, &line);
    tried.get(0, &line)
}

fn load_miss(tried: &mut Tried) -> String {
    let line = tried.at_home();
    tried.get(0, &line)
}

/// A line that a node has written.
fn owned(tried: &mut Tried, node: usize) -> Line {
    let mut line = tried.at_home();
    tried.put(node, &mut line);
    line
}

fn load_of_owned(tried: &mut Tried) -> String {
    let line = owned(tried, 1);
    tried.get(0, &line)
}

fn load_of_clean(tried: &mut Tried) -> String {
    let line = tried.at_home();
    tried.get(1, &line);
    tried.get(0, &line)
}

fn load_by_third(tried: &mut Tried) -> String {
    let line = owned(tried, 1);
    tried.get(0, &line);
    tried.get(2, &line)
}

fn store_by_reader(tried: &mut Tried) -> String {
    let mut line = tried.at_home();
    tried.get(0, &line);
    tried.put(0, &mut line)
}

fn store_one_sharer(tried: &mut Tried) -> String {
    let mut line = tried.at_home();
    tried.get(0, &line);
    tried.get(1, &line);
    tried.put(0, &mut line)
}

fn store_two_sharers(tried: &mut Tried) -> String {
    let mut line = tried.at_home();
    (0..3).for_each(|node| _ = tried.get(node, &line));
    tried.put(0, &mut line)
}

fn store_of_owned(tried: &mut Tried) -> String {
    let mut line = owned(tried, 1);
    tried.put(0, &mut line)
}

fn store_by_owner(tried: &mut Tried) -> String {
    let mut line = owned(tried, 0);
    tried.put(0, &mut line)
}

fn evict_shared(tried: &mut Tried) -> String {
    let line = tried.at_home();
    tried.get(0, &line);
    tried.get(1, &line);
    tried.evict(1, &line)
}

fn evict_read(tried: &mut Tried) -> String {
    let line = tried.at_home();
    tried.get(0, &line);
    tried.evict(0, &line)
}

fn evict_modified(tried: &mut Tried) -> String {
    let line = owned(tried, 0);
    tried.evict(0, &line)
}

fn evict_owned(tried: &mut Tried) -> String {
    let line = owned(tried, 0);
    tried.get(1, &line);
    tried.world.run_for(BUFFERED_MS);
    tried.evict(0, &line)
}

fn evict_clean_owned(tried: &mut Tried) -> String {
    let line = tried.at_home();
    tried.get(0, &line);
    tried.get(1, &line);
    tried.evict(0, &line)
}

#[test]
fn each_operation_sends_what_the_table_says_under_each_protocol() {
    machine::show_logs();
    for (column, protocol) in Protocol::ALL.into_iter().enumerate() {
        let mut tried = Tried::of(protocol, WritePolicy::Back);
        for (name, measured, expected) in BACK {
            assert_eq!(measured(&mut tried), expected[column], "{protocol:?}, {name}");
        }
    }
}

#[test]
fn what_is_written_through_sends_each_value_once_and_nothing_dirty_is_evicted() {
    for protocol in Protocol::ALL {
        let mut tried = Tried::of(protocol, WritePolicy::Through);
        assert_eq!(store_by_owner(&mut tried), "store-through 1v", "{protocol:?}");
        assert_eq!(evict_modified(&mut tried), "put", "{protocol:?}");
    }
}
