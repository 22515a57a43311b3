//! Random histories: the machine against the plain model, record by record.

use std::{cell::RefCell, collections::BTreeSet};

use bytes::Bytes;
use proptest::{prelude::*, sample::Index};

use super::{
    model::Model,
    state::Queue,
    step::Limits,
    tests::{id, queue},
    *,
};
use crate::ids::Epoch;

/// `c` is a dead-letter queue by configuration only.
const QUEUES: [&str; 5] = ["a", "b", "c", "a.dead", "b.dead"];
const HERE: PartitionId = PartitionId(3);

/// Small ones, so that short histories reach them.
const TIGHT: Limits = Limits {
    queues: 4,
    outbox: 5,
    moves_per_destination: 2,
    ids: 5,
    acks: 3,
    due: usize::MAX,
    leased: 4,
    leased_bytes: 12,
};

#[derive(Clone, Debug)]
enum Act {
    Publish {
        queue: usize,
        messages: Vec<(usize, usize, u64, u8, bool)>,
    },
    Lease {
        queue: usize,
        max: u32,
        visibility_ms: Option<u64>,
    },
    Ack(usize, Vec<Index>),
    Nack(usize, Vec<Index>, Option<u64>),
    Extend(usize, Vec<Index>, Option<u64>),
    GiveBack(usize, Vec<Index>),
    Configure(usize, Config),
    Purge(usize),
    Delete(usize),
    Redrive(usize, usize),
    /// A move arrives, as often as it says, and its source hears of it or not.
    Arrive {
        moved: Index,
        times: usize,
        heard: bool,
    },
    Moved(Vec<u64>),
    Timer,
}

#[derive(Clone, Debug)]
struct Config {
    retention_s: u64,
    visibility_ms: u64,
    max_deliveries: Option<u32>,
    dead_letter: Option<usize>,
    on_expiry: OnExpiry,
    max_messages: Option<u64>,
    max_bytes: Option<u64>,
}

fn any_queue() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0usize), 2 => Just(1), 1 => Just(2), 2 => Just(3), 1 => Just(4)]
}

fn config() -> impl Strategy<Value = Config> {
    (
        prop_oneof![Just(2u64), Just(40), Just(100_000)],
        prop_oneof![Just(0u64), Just(700), Just(30_000)],
        prop::option::weighted(0.8, 0..3u32),
        prop::option::weighted(0.8, 0..QUEUES.len()),
        prop_oneof![Just(OnExpiry::Drop), Just(OnExpiry::DeadLetter)],
        prop::option::weighted(0.3, 0..6u64),
        prop::option::weighted(0.3, 0..30u64),
    )
        .prop_map(
            |(retention_s, visibility_ms, max_deliveries, dead_letter, on_expiry, max_messages, max_bytes)| Config {
                retention_s,
                visibility_ms,
                max_deliveries,
                dead_letter,
                on_expiry,
                max_messages,
                max_bytes,
            },
        )
}

fn delay() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(0u64), 1 => Just(1), 1 => Just(900), 1 => Just(3_000)]
}

fn act() -> impl Strategy<Value = Act> {
    let receipts = || prop::collection::vec(any::<Index>(), 1..4);
    let visibility = || prop::option::of(prop_oneof![1 => Just(0u64), 2 => Just(400), 2 => Just(5_000)]);
    let message = (0..7usize, 0..9usize, delay(), prop_oneof![3 => Just(4u8), 1 => 0..12u8], any::<bool>());
    prop_oneof![
        12 => (any_queue(), prop::collection::vec(message, 1..4))
            .prop_map(|(queue, messages)| Act::Publish { queue, messages }),
        12 => (any_queue(), 0..6u32, visibility())
            .prop_map(|(queue, max, visibility_ms)| Act::Lease { queue, max, visibility_ms }),
        6 => (any_queue(), receipts()).prop_map(|(queue, receipts)| Act::Ack(queue, receipts)),
        6 => (any_queue(), receipts(), prop::option::of(delay()))
            .prop_map(|(queue, receipts, delay_ms)| Act::Nack(queue, receipts, delay_ms)),
        3 => (any_queue(), receipts(), visibility())
            .prop_map(|(queue, receipts, visibility_ms)| Act::Extend(queue, receipts, visibility_ms)),
        2 => (any_queue(), receipts()).prop_map(|(queue, receipts)| Act::GiveBack(queue, receipts)),
        4 => (any_queue(), config()).prop_map(|(queue, config)| Act::Configure(queue, config)),
        1 => any_queue().prop_map(Act::Purge),
        1 => any_queue().prop_map(Act::Delete),
        3 => (3..5usize, any_queue()).prop_map(|(queue, to)| Act::Redrive(queue, to)),
        8 => (any::<Index>(), 1..3usize, prop::bool::weighted(0.8))
            .prop_map(|(moved, times, heard)| Act::Arrive { moved, times, heard }),
        1 => prop::collection::vec(0..40u64, 1..4).prop_map(Act::Moved),
        4 => Just(Act::Timer),
    ]
}

fn pause() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => 0..5i64,
        4 => 300..1_100i64,
        3 => Just(2_500i64),
        1 => Just(31_000i64),
        1 => Just(70_000i64),
        1 => Just(4_000_000i64),
        1 => Just(-5_000i64),
    ]
}

/// The machine, the model, and what receivers and the nodes of destinations know.
struct Pair {
    machine: Queues,
    model: Model,
    at: u64,
    seq: u64,
    window_s: u64,
    /// The last deliveries, newest last.
    receipts: Vec<Receipt>,
    moves: Vec<Move>,
}

impl Pair {
    fn new(window_s: u64) -> Self {
        Self {
            machine: Queues::with_limits(HERE, TIGHT),
            model: Model::new(HERE, TIGHT),
            at: 1_000_000,
            seq: 0,
            window_s,
            receipts: vec![],
            moves: vec![],
        }
    }

    fn pick(&self, indexes: &[Index]) -> Vec<Receipt> {
        let lost = Receipt { offset: 0, lease: Position { epoch: Epoch(9), seq: 1 } };
        let recent = &self.receipts[self.receipts.len().saturating_sub(8)..];
        indexes.iter().map(|index| if recent.is_empty() { lost } else { *index.get(recent) }).collect()
    }

    fn config(&self, config: &Config) -> QueueConfig {
        QueueConfig {
            retention_s: config.retention_s,
            visibility_ms: config.visibility_ms,
            max_deliveries: config.max_deliveries,
            dead_letter: config.dead_letter.map(|n| queue(QUEUES[n])),
            on_expiry: config.on_expiry,
            max_messages: config.max_messages,
            max_bytes: config.max_bytes,
            // One for the whole history: what a shorter window has forgotten, a longer one does not know.
            dedup_window_s: self.window_s,
        }
    }

    fn ops(&self, act: &Act) -> Vec<Op> {
        let q = |n: usize| queue(QUEUES[n]);
        vec![match act {
            Act::Publish { queue, messages } => Op::Publish {
                queue: q(*queue),
                messages: messages
                    .iter()
                    .map(|(name, length, delay_ms, priority, plain)| NewMessage {
                        id: id(&format!("m{name}")),
                        body: Bytes::from(vec![7; *length]),
                        content_type: (!plain).then(|| "text/plain".to_owned()),
                        attributes: (!plain).then(|| ("k".to_owned(), "v".to_owned())).into_iter().collect(),
                        delay_ms: *delay_ms,
                        priority: *priority,
                        origin: None,
                    })
                    .collect(),
            },
            Act::Lease { queue, max, visibility_ms } => {
                Op::Lease { queue: q(*queue), max: *max, visibility_ms: *visibility_ms }
            }
            Act::Ack(queue, receipts) => Op::Ack { queue: q(*queue), receipts: self.pick(receipts) },
            Act::Nack(queue, receipts, delay_ms) => {
                Op::Nack { queue: q(*queue), receipts: self.pick(receipts), delay_ms: *delay_ms }
            }
            Act::Extend(queue, receipts, visibility_ms) => {
                Op::Extend { queue: q(*queue), receipts: self.pick(receipts), visibility_ms: *visibility_ms }
            }
            Act::GiveBack(queue, receipts) => Op::GiveBack { queue: q(*queue), receipts: self.pick(receipts) },
            Act::Configure(queue, config) => Op::Configure { queue: q(*queue), config: self.config(config) },
            Act::Purge(queue) => Op::Purge { queue: q(*queue) },
            Act::Delete(queue) => Op::Delete { queue: q(*queue) },
            Act::Redrive(queue, to) => Op::Redrive { queue: q(*queue), to: q(*to) },
            Act::Arrive { moved, times, heard } => return self.arrive(moved, *times, *heard),
            Act::Moved(offsets) => Op::Moved { offsets: offsets.clone() },
            Act::Timer => Op::Timer,
        }]
    }

    fn arrive(&self, moved: &Index, times: usize, heard: bool) -> Vec<Op> {
        if self.moves.is_empty() {
            return vec![];
        }
        let Move { offset, to, message } = moved.get(&self.moves);
        let publish = Op::Publish { queue: to.clone(), messages: vec![message.clone(); times] };
        let moved = Op::Moved { offsets: vec![*offset] };
        if heard { vec![publish, moved] } else { vec![publish] }
    }

    fn apply(&mut self, ops: Vec<Op>) -> Vec<QueueEffect> {
        self.seq += 1;
        let position = Position { epoch: Epoch(1 + self.seq / 10), seq: self.seq };
        let batch = Batch { at: Tick(self.at), retention_s: 50, ops };
        let mut effects = Vec::new();
        let before = self.machine.clone();
        let answers = self.machine.apply(position, &batch, &mut effects);
        let (expected, told) = self.model.apply(position, &batch);
        assert_eq!(answers, expected, "{batch:?}");
        assert_eq!(effects, told, "{batch:?}");
        if answers.iter().all(|answer| matches!(answer, OpAnswer::Refused(_))) {
            let now = self.machine.now;
            assert_eq!(self.machine, Queues { now, ..before }, "a refusal changed something");
            assert_eq!(effects, [], "a refusal had effects");
        }
        for answer in answers {
            if let OpAnswer::Leased(deliveries) = answer {
                self.receipts.extend(deliveries.iter().filter_map(|delivery| delivery.receipt));
            }
        }
        self.moves = self.machine.outbox();
        self.check();
        if self.seq.is_multiple_of(4) {
            self.reload();
        }
        effects
    }

    /// The same without the model.
    fn apply_alone(&mut self, op: Op) -> Vec<QueueEffect> {
        self.seq += 1;
        let position = Position { epoch: Epoch(1), seq: self.seq };
        let mut effects = Vec::new();
        let batch = Batch { at: Tick(self.at), retention_s: 50, ops: vec![op] };
        for answer in self.machine.apply(position, &batch, &mut effects) {
            if let OpAnswer::Leased(deliveries) = answer {
                self.receipts.extend(deliveries.iter().filter_map(|delivery| delivery.receipt));
            }
        }
        self.moves = self.machine.outbox();
        effects
    }

    fn check(&self) {
        let (machine, model) = (&self.machine, &self.model);
        assert_eq!(machine.deadline(), model.deadline());
        assert_eq!(machine.outbox(), model.outbox());
        assert_eq!(machine.names().cloned().collect::<Vec<_>>(), model.names());
        for name in QUEUES.map(queue) {
            for now in [self.at, self.at + 2_600].map(Tick) {
                assert_eq!(machine.stats(&name, now), model.stats(&name, now));
                let depth = model.stats(&name, now).map_or(0, |stats| stats.depth);
                assert_eq!(machine.deliverable(&name, now), depth);
                assert_eq!(machine.has_deliverable(&name, now), depth > 0);
            }
            assert_eq!(machine.peek(&name, 3), model.peek(&name, 3));
        }
    }

    /// Goes on with what was saved instead of what was there.
    fn reload(&mut self) {
        let saved = self.machine.save();
        let loaded = Queues::load_with(HERE, TIGHT, &saved).unwrap();
        assert_eq!(loaded, self.machine, "what was saved comes back");
        assert_eq!(loaded.save(), saved);
        self.machine = loaded;
    }

    /// Everything that there is, wherever it stands.
    fn offsets(&self) -> Vec<u64> {
        let queues = self.machine.queues.values().flat_map(|queue| queue.messages.iter().map(|(offset, _)| offset));
        let moves = self.machine.outbox.moves.iter().map(|(offset, _)| offset);
        let offsets: BTreeSet<u64> = queues.chain(moves).collect();
        offsets.into_iter().collect()
    }

    /// After a timer at the time of the deadline nothing is due, and so on until there is no deadline.
    fn run_out(&mut self) {
        for _ in 0..200 {
            let Some(Tick(at)) = self.machine.deadline() else { return };
            self.at = self.at.max(at);
            self.apply(vec![Op::Timer]);
            let next = self.machine.deadline();
            assert!(next.is_none_or(|next| next > self.machine.now), "due at {at}, and again at {next:?}");
        }
        panic!("the timer runs for ever");
    }
}

fn history() -> impl Strategy<Value = (u64, Vec<(i64, Vec<Act>)>)> {
    let window = prop_oneof![Just(0u64), Just(3), Just(300)];
    (window, prop::collection::vec((pause(), prop::collection::vec(act(), 1..3)), 1..60))
}

thread_local! {
    /// What the histories of this run came to: a run in which something never happened shows little.
    static SEEN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

fn note(effects: &[QueueEffect]) {
    SEEN.with_borrow_mut(|seen| {
        for effect in effects {
            seen.insert(match effect {
                QueueEffect::Ready(_) => "Ready".to_owned(),
                QueueEffect::Move(moved) => match moved.message.attributes.get(DEAD_LETTER_REASON) {
                    Some(reason) => format!("Move {reason}"),
                    None => "Move redrive".to_owned(),
                },
                QueueEffect::Count { what, .. } => format!("{what:?}"),
            });
        }
    });
}

fn check_histories(cases: u32, strategy: impl Strategy<Value = (u64, Vec<(i64, Vec<Act>)>)>) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&strategy, |(window_s, history)| {
        let mut pair = Pair::new(window_s);
        for (pause, acts) in history {
            pair.at = pair.at.saturating_add_signed(pause);
            let ops: Vec<Op> = acts.iter().flat_map(|act| pair.ops(act)).collect();
            note(&pair.apply(ops));
            prop_assert_eq!(pair.offsets(), pair.model.offsets());
        }
        pair.run_out();
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn the_queues_do_what_the_plain_model_does() {
    check_histories(2_000, history());
    let seen = SEEN.with_borrow(|seen| seen.iter().cloned().collect::<Vec<_>>());
    let all = [
        "Acknowledged",
        "DeadLettered",
        "Delivered",
        "Duplicate",
        "Expired",
        "ForgottenEarly",
        "Move expired",
        "Move max-deliveries",
        "Move redrive",
        "Moved",
        "Published",
        "Purged",
        "Ready",
        "Redelivered",
        "Returned",
        "TimedOut",
    ];
    assert_eq!(seen, all, "not everything happened in these histories");
}

#[test]
fn with_little_work_at_a_time_nothing_is_lost_and_the_timer_comes_to_an_end() {
    let config = ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = proptest::test_runner::TestRunner::new(config).run(&history(), |(window_s, history)| {
        let mut pair = Pair::new(window_s);
        pair.machine = Queues::with_limits(HERE, Limits { due: 2, ..TIGHT });
        let mut there = 0;
        for (pause, acts) in history {
            pair.at = pair.at.saturating_add_signed(pause);
            for op in acts.iter().flat_map(|act| pair.ops(act)).collect::<Vec<_>>() {
                let dropped = match &op {
                    Op::Delete { queue } => pair.machine.queues.get(queue).map_or(0, |queue| queue.messages.len()),
                    _ => 0,
                };
                there += change(&pair.apply_alone(op)) - dropped as i64;
                prop_assert_eq!(there, pair.offsets().len() as i64);
            }
            // A message can be over, come to wait, and be too old; a memory can be forgotten.
            let work = |queue: &Queue| 3 * queue.messages.len() + queue.ids.len() + queue.origins.len();
            let most = pair.machine.queues.values().map(work).sum::<usize>().div_ceil(2);
            let timers = std::iter::repeat_n(Op::Timer, most);
            for timer in timers {
                if pair.machine.deadline().is_none_or(|due| due > pair.machine.now) {
                    break;
                }
                there += change(&pair.apply_alone(timer));
            }
            prop_assert_eq!(there, pair.offsets().len() as i64);
            prop_assert!(pair.machine.deadline().is_none_or(|due| due > pair.machine.now));
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// How many messages more there are after these effects.
fn change(effects: &[QueueEffect]) -> i64 {
    let of = |effect: &QueueEffect| match effect {
        QueueEffect::Count { what: Counted::Published, messages, .. } => *messages as i64,
        QueueEffect::Count {
            what: Counted::Acknowledged | Counted::Expired | Counted::Purged | Counted::Moved,
            messages,
            ..
        } => -(*messages as i64),
        _ => 0,
    };
    effects.iter().map(of).sum()
}
