//! The replicated state of the control plane as a whole: what Raft applies its log to.
//!
//! Owns the [`LockTable`], the [`Membership`], the [`Placement`] of the queues, the [`Slots`] of the cache and the
//! [`AnswerMemory`] that makes repeated requests harmless, and is the only place where they meet. Called by `raft/apply.rs` with committed entries
//! in their order, and read by whoever serves linearizable reads.

mod recover;
mod restore;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::recover::{NotRecoverable, RECOVERY_JUMP, Recovery};
use super::{
    backup::{RestoreAnswer, RestoreStep, Restoring},
    lock::{LockAnswer, LockEffect, LockRequest, LockTable, LockTimer, Refusal, token_floor},
    membership::{ClusterRecord, Liveness, MemberAnswer, MemberChange, MemberNews, Membership},
    placement::{Placement, PlacementAnswer, PlacementChange},
    requests::{Abandonment, Admission, AnswerMemory, Done, MemoryBound, STEP_MS},
    slots::{SlotAnswer, SlotChange, Slots},
};
use crate::{
    error::{Error, ErrorCode, Outcome},
    ids::{RequestId, Term, Tick},
};

/// A client's own name for a request, so that a repeat within ten minutes gets the first answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// As the client sent it, 1 to 255 bytes.
    pub key: String,
    /// A digest of the request, so that another request under the same key is noticed.
    pub fingerprint: u64,
}

/// A change that somebody asked for, remembered under its id.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// Its id, drawn by the node that serves it.
    pub request: RequestId,
    /// Which requests of that node are finished.
    pub done: Done,
    /// The client's name for it.
    pub key: Option<IdempotencyKey>,
    /// What is to be changed.
    pub body: ChangeBody,
}

/// What is to be changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ChangeBody {
    /// A lock or a session.
    Lock(LockRequest),
    /// A member, by an operator.
    Member(MemberChange),
    /// Who keeps a partition of the queues.
    Placement(PlacementChange),
    /// Who is home to a slot of the cache.
    Slot(SlotChange),
    /// A step of putting a backup back, by an operator.
    Restore(RestoreStep),
    /// Nothing but a note, under a client's name, of what is about to be done outside this state.
    Intent,
}

impl ChangeBody {
    /// Whether a node may ask for this: it gives up only requests of its own, of membership it changes
    /// nothing but its own leaving and what an operator does by way of any node, and of the placement
    /// what a primary, a replica or a home may say.
    fn may_come_from(&self, request: &RequestId, placement: &Placement, slots: &Slots) -> bool {
        let node = &request.node;
        match self {
            Self::Placement(change) => placement.may_come_from(node, request.incarnation, change),
            Self::Slot(change) => slots.may_come_from(node, request.incarnation, change),
            Self::Lock(LockRequest::Abandon { request }) => request.node == *node,
            Self::Intent
            | Self::Lock(_)
            | Self::Restore(_)
            | Self::Member(MemberChange::Remove(_) | MemberChange::Admit(_)) => true,
            Self::Member(MemberChange::Leave(leaving)) => leaving == node,
            Self::Member(
                MemberChange::Join(_)
                | MemberChange::Drain { .. }
                | MemberChange::Down { .. }
                | MemberChange::Forget(_),
            ) => false,
        }
    }
}

/// One command of a log entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// The first of a cluster, by its first leader: tokens count on from above all that a cluster of
    /// these machines can have granted before.
    Found(Box<ClusterRecord>),
    /// What somebody asked for.
    Change(Box<Change>),
    /// What the leader's judgement of time says.
    Timer(LockTimer),
    /// What a node says of itself, or the leader of it.
    Member(MemberChange),
    /// Who is to keep the queues, by the leader's judgement.
    Placement(Vec<PlacementChange>),
    /// Who is to be home to the cache's slots, by the leader's judgement.
    Slots(Vec<SlotChange>),
    /// [`STEP_MS`] have passed in office, by the boot-time clock of the leader. Void unless the entry's
    /// term is this.
    Passed(Term),
}

/// The answer to a [`Command`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Of the lock machine.
    Lock(LockAnswer),
    /// Of the membership.
    Member(MemberAnswer),
    /// Of the placement of the queues.
    Placement(PlacementAnswer),
    /// Of the placement of the cache's slots.
    Slot(SlotAnswer),
    /// Of a step of putting a backup back.
    Restore(RestoreAnswer),
    /// Noted; under a name that was known, the first to be noted, and in which term it was.
    Noted {
        /// The first.
        first: RequestId,
        /// The term of its entry.
        term: Term,
    },
    /// Refused before it came so far.
    Refused(Error),
    /// There is nothing to say.
    None,
}

/// What applying an entry causes outside the replicated state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// About locks.
    Lock(LockEffect),
    /// About members.
    Member(MemberNews),
    /// Some partition or slot is placed otherwise.
    Placement,
    /// The lock table is another one, out of a backup: whoever follows it reads it anew.
    Restored,
}

/// The replicated state.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ControlState {
    cluster: Option<Arc<ClusterRecord>>,
    locks: LockTable,
    members: Membership,
    placement: Placement,
    #[serde(default)]
    slots: Slots,
    answers: AnswerMemory<Answer>,
    /// A backup that is being put back.
    #[serde(default)]
    restoring: Option<Box<Restoring>>,
    /// The time that leaders have counted: what answers age by, whatever the wall clocks say.
    passed: Tick,
}

impl ControlState {
    /// The cluster, once its first leader has said so.
    pub fn cluster(&self) -> Option<&ClusterRecord> {
        self.cluster.as_deref()
    }

    /// Locks and sessions.
    pub fn locks(&self) -> &LockTable {
        &self.locks
    }

    /// Members and who is barred.
    pub fn members(&self) -> &Membership {
        &self.members
    }

    /// Who keeps the queues.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Who is home to the cache's slots.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Grows with every change of members or placement.
    pub fn view_version(&self) -> u64 {
        self.members.version() + self.placement.version() + self.slots.version()
    }

    /// Whether anything ages: whether the leader is to count the time.
    pub fn counts_time(&self) -> bool {
        self.answers.ages() || self.restoring.is_some()
    }

    /// Counts tokens from the beginning again: what a mutant does.
    #[cfg(test)]
    pub(crate) fn lose_token(&mut self) {
        self.locks.lose_token();
    }

    /// Applies one command of an entry of `term`; `at` is the entry's time, made monotone.
    pub fn apply(&mut self, at: Tick, term: Term, command: Command, effects: &mut Vec<Effect>) -> Answer {
        match command {
            Command::Found(record) => {
                if self.cluster.is_none() {
                    self.locks.raise_token(token_floor(self.locks.token().0, record.founded_at.0 / 1000));
                    self.placement.found(record.queue_partitions);
                    effects.push(Effect::Placement);
                    self.cluster = Some(Arc::new(*record));
                }
                Answer::None
            }
            Command::Change(change) => self.change(at, term, *change, effects),
            Command::Timer(timer) => {
                self.lock_step(effects, |locks, effects| locks.timer(at, term, timer, effects));
                Answer::None
            }
            Command::Member(change) => Answer::Member(self.member(at, term, change, effects)),
            Command::Placement(changes) => {
                for change in changes {
                    self.place(effects, |placement, members| placement.apply(members, change));
                }
                Answer::None
            }
            Command::Slots(changes) => {
                for change in changes {
                    self.place_slots(effects, |slots, members| slots.apply(members, change));
                }
                Answer::None
            }
            Command::Passed(judged) => {
                if judged == term {
                    self.passed = self.passed.plus_ms(STEP_MS);
                    self.answers.forget_old_keys(self.passed);
                    self.restoring = self.restoring.take().filter(|restoring| !restoring.is_stale(self.passed));
                }
                Answer::None
            }
        }
    }

    fn change(&mut self, at: Tick, term: Term, change: Change, effects: &mut Vec<Effect>) -> Answer {
        let Change { request, done, key, body } = change;
        if !self.members.members().get(&request.node).is_some_and(|member| member.belongs()) {
            return Answer::Refused(Error::unavailable(
                Outcome::NotApplied,
                "the node that serves this request is no member of the cluster: ask another one",
            ));
        }
        if !body.may_come_from(&request, &self.placement, &self.slots) {
            return Answer::Refused(Error::new(
                ErrorCode::Forbidden,
                format!("{} may not change this for another node: let that node ask, or an operator", request.node),
            ));
        }
        let key = key.as_ref().map(|key| (key.key.as_str(), key.fingerprint));
        match self.answers.admit(self.passed, request, &done, key) {
            Admission::New => {}
            Admission::Repeat(answer) => return answer,
            Admission::Pending(_) => return Answer::Lock(LockAnswer::Waiting),
            Admission::Stale => return Answer::Refused(stale()),
            Admission::Full(bound) => return Answer::Refused(memory_full(bound)),
            Admission::KeyConflict => return Answer::Refused(key_conflict()),
        }
        let answer = match body {
            ChangeBody::Lock(LockRequest::Abandon { request: given_up }) => self.abandon(at, given_up, effects),
            ChangeBody::Lock(body) => {
                let step =
                    |locks: &mut LockTable, effects: &mut Vec<LockEffect>| locks.request(at, request, body, effects);
                Answer::Lock(self.lock_step(effects, step))
            }
            ChangeBody::Member(body) => Answer::Member(self.member(at, term, body, effects)),
            ChangeBody::Placement(body) => {
                Answer::Placement(self.place(effects, |placement, members| placement.apply(members, body)))
            }
            ChangeBody::Slot(body) => {
                Answer::Slot(self.place_slots(effects, |slots, members| slots.apply(members, body)))
            }
            ChangeBody::Restore(step) => Answer::Restore(self.restore(at, request, step, effects)),
            ChangeBody::Intent => Answer::Noted { first: request, term },
        };
        if answer != Answer::Lock(LockAnswer::Waiting) {
            self.answers.settle(self.passed, request, answer.clone());
        }
        answer
    }

    fn abandon(&mut self, at: Tick, given_up: RequestId, effects: &mut Vec<Effect>) -> Answer {
        let gone = Answer::Lock(LockAnswer::Refused(Refusal::Abandoned));
        match self.answers.abandon(given_up, gone) {
            Abandonment::Waiting(first) => {
                let leave = LockRequest::Abandon { request: first };
                self.lock_step(effects, |locks, effects| locks.request(at, first, leave, effects));
            }
            Abandonment::Answered(Answer::Lock(LockAnswer::Granted(granted))) => {
                self.lock_step(effects, |locks, effects| locks.surrender(at, &granted, effects));
            }
            Abandonment::Full(bound) => return Answer::Refused(memory_full(bound)),
            Abandonment::Answered(_) | Abandonment::Shared | Abandonment::Unseen | Abandonment::Stale => {}
        }
        Answer::Lock(LockAnswer::Abandoned)
    }

    /// Runs a step of the lock machine and remembers the answers of the waits that it ended.
    fn lock_step<T>(
        &mut self,
        effects: &mut Vec<Effect>,
        step: impl FnOnce(&mut LockTable, &mut Vec<LockEffect>) -> T,
    ) -> T {
        let mut caused = Vec::new();
        let outcome = step(&mut self.locks, &mut caused);
        for effect in caused {
            effects.push(Effect::Lock(match effect {
                LockEffect::Answered { requests, answer } => {
                    let remember =
                        |request: &RequestId| self.answers.settle(self.passed, *request, Answer::Lock(answer.clone()));
                    let mut told: Vec<RequestId> = requests.iter().flat_map(remember).collect();
                    // Also one that was abandoned while others waited under its key: its wait is over.
                    let abandoned: Vec<RequestId> =
                        requests.into_iter().filter(|request| !told.contains(request)).collect();
                    told.extend(abandoned);
                    LockEffect::Answered { requests: told, answer }
                }
                other => other,
            }));
        }
        outcome
    }

    fn member(&mut self, at: Tick, term: Term, change: MemberChange, effects: &mut Vec<Effect>) -> MemberAnswer {
        let mut news = Vec::new();
        let answer = self.members.change(at, term, change, &mut news);
        for item in news {
            if matches!(item.liveness, None | Some(Liveness::Left)) {
                self.answers.forget(&item.node);
            }
            let node = item.node;
            effects.push(Effect::Member(item));
            self.place(effects, |placement, members| placement.member_changed(members, &node));
            self.place_slots(effects, |slots, members| slots.member_changed(members, &node));
        }
        answer
    }

    /// Runs a step of the placement and tells where it changed something.
    fn place<T>(&mut self, effects: &mut Vec<Effect>, step: impl FnOnce(&mut Placement, &Membership) -> T) -> T {
        let before = self.placement.version();
        let outcome = step(&mut self.placement, &self.members);
        if self.placement.version() != before {
            effects.push(Effect::Placement);
        }
        outcome
    }

    /// Runs a step of the slots and tells where it changed something.
    fn place_slots<T>(&mut self, effects: &mut Vec<Effect>, step: impl FnOnce(&mut Slots, &Membership) -> T) -> T {
        let before = self.slots.version();
        let outcome = step(&mut self.slots, &self.members);
        if self.slots.version() != before {
            effects.push(Effect::Placement);
        }
        outcome
    }
}

fn stale() -> Error {
    Error::unavailable(Outcome::Unknown, "the node that served this request has given it up or was restarted meanwhile")
}

fn memory_full(bound: MemoryBound) -> Error {
    let what = match bound {
        MemoryBound::Nodes => "nodes",
        MemoryBound::OpenRequests => "requests of this node under way",
        MemoryBound::Keys => "idempotency keys of the last ten minutes",
        MemoryBound::RequestsOfAKey => "requests under one idempotency key",
    };
    let detail = format!("the cluster remembers as many {what} as it can, nothing was changed: try again later");
    Error::unavailable(Outcome::NotApplied, detail)
}

fn key_conflict() -> Error {
    let mut error = Error::new(
        ErrorCode::BadRequest,
        "this Idempotency-Key was used for another request within ten minutes: use a fresh key for each request",
    );
    error.details.field = Some("Idempotency-Key".into());
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{ClusterId, Epoch, Incarnation, LockName, NodeId, PartitionId, SessionId},
        machine::{
            lock::{Acquire, Mode, NewSession, Want},
            membership::{CacheTerms, Joiner},
            placement::PlacementBody,
        },
    };

    const NODE: NodeId = NodeId::from_bytes([7; 32]);

    fn id(seq: u64) -> RequestId {
        RequestId { node: NODE, incarnation: Incarnation(1), seq }
    }

    fn joiner() -> Joiner {
        Joiner::of(NODE, 1)
    }

    fn ask(state: &mut ControlState, seq: u64, key: Option<&str>, request: LockRequest) -> Vec<Effect> {
        let key = key.map(|key| IdempotencyKey { key: key.to_owned(), fingerprint: 1 });
        let change = Change { request: id(seq), done: Done::default(), key, body: ChangeBody::Lock(request) };
        let mut effects = Vec::new();
        state.apply(Tick(seq), Term(1), Command::Change(Box::new(change)), &mut effects);
        effects
    }

    #[test]
    fn what_is_noted_under_a_key_names_the_first_that_was() {
        let mut state = ControlState::default();
        state.apply(Tick(0), Term(1), Command::Member(MemberChange::Join(joiner())), &mut Vec::new());
        let mut note = |seq: u64, term: u64, fingerprint: u64| {
            let key = Some(IdempotencyKey { key: "key".to_owned(), fingerprint });
            let change = Change { request: id(seq), done: Done::default(), key, body: ChangeBody::Intent };
            state.apply(Tick(seq), Term(term), Command::Change(Box::new(change)), &mut Vec::new())
        };
        let noted = Answer::Noted { first: id(1), term: Term(1) };
        assert_eq!(note(1, 1, 7), noted);
        assert_eq!(note(2, 3, 7), noted, "a repetition");
        assert_eq!(note(3, 3, 8), Answer::Refused(key_conflict()), "another request");
    }

    #[test]
    fn the_end_of_a_wait_is_told_under_its_own_request_too_when_that_was_abandoned() {
        let mut state = ControlState::default();
        state.apply(Tick(0), Term(1), Command::Member(MemberChange::Join(joiner())), &mut Vec::new());
        let lock = LockName::new("a").unwrap();
        let [holder, waiter] = ["s", "t"].map(|name| SessionId::new(name).unwrap());
        let acquire = |session: &SessionId| {
            let open = Some(NewSession { session: session.clone(), ttl_ms: 30_000, owner: "".into() });
            let wants = vec![Want { lock: lock.clone(), mode: Mode::Exclusive }];
            LockRequest::Acquire(Acquire { session: session.clone(), open, wants, wait_ms: 5_000, lock_delay_ms: 0 })
        };
        ask(&mut state, 1, None, acquire(&holder));
        ask(&mut state, 2, Some("key"), acquire(&waiter));
        ask(&mut state, 3, Some("key"), acquire(&waiter));
        ask(&mut state, 4, None, LockRequest::Abandon { request: id(2) });
        let ended = ask(&mut state, 5, None, LockRequest::Release { session: holder, lock: lock.clone() });
        let told = ended.iter().find_map(|effect| match effect {
            Effect::Lock(LockEffect::Answered { requests, .. }) => Some(requests.clone()),
            _ => None,
        });
        assert_eq!(told, Some(vec![id(3), id(2)]));
    }

    #[test]
    fn a_node_changes_nothing_in_the_name_of_another() {
        let mut state = ControlState::default();
        let joiner = Joiner::of;
        let other = NodeId::from_bytes([8; 32]);
        for node in [NODE, other] {
            state.apply(Tick(0), Term(1), Command::Member(MemberChange::Join(joiner(node, 1))), &mut Vec::new());
        }
        let theirs = RequestId { node: other, incarnation: Incarnation(1), seq: 1 };
        let down = MemberChange::Down { node: other, incarnation: Incarnation(1), term: None };
        let bodies = [
            ChangeBody::Lock(LockRequest::Abandon { request: theirs }),
            ChangeBody::Member(MemberChange::Join(joiner(other, u64::MAX))),
            ChangeBody::Member(down),
            ChangeBody::Member(MemberChange::Leave(other)),
            ChangeBody::Member(MemberChange::Forget(vec![(other, Tick(0))])),
        ];
        let before = state.clone();
        for body in bodies {
            let change = Change { request: id(1), done: Done::default(), key: None, body };
            let mut effects = Vec::new();
            let answer = state.apply(Tick(1), Term(1), Command::Change(Box::new(change)), &mut effects);
            assert!(matches!(answer, Answer::Refused(error) if error.code == ErrorCode::Forbidden));
            assert_eq!((&state, effects), (&before, vec![]));
        }
        let leave = ChangeBody::Member(MemberChange::Leave(NODE));
        let change = Change { request: id(1), done: Done::default(), key: None, body: leave };
        let answer = state.apply(Tick(1), Term(1), Command::Change(Box::new(change)), &mut Vec::new());
        assert_eq!(answer, Answer::Member(MemberAnswer::Done));
    }

    /// A cluster with one partition of the queues, kept by [`NODE`] and by another one.
    fn with_queues() -> (ControlState, NodeId) {
        let (mut state, other) = (ControlState::default(), NodeId::from_bytes([8; 32]));
        let record = ClusterRecord {
            cluster_id: ClusterId(1),
            cluster_name: String::new(),
            founders: vec![],
            queue_partitions: 1,
            cache_protocol: String::new(),
            cache: CacheTerms::default(),
            founded_at: Tick(0),
        };
        let place = PlacementBody::Place(vec![NODE, other]);
        let commands = [
            Command::Found(Box::new(record)),
            Command::Member(MemberChange::Join(Joiner::of_queue_node(NODE, 1, 7))),
            Command::Member(MemberChange::Join(Joiner::of_queue_node(other, 1, 8))),
            Command::Placement(vec![placement(0, place)]),
        ];
        for command in commands {
            let (version, mut effects) = (state.view_version(), Vec::new());
            state.apply(Tick(0), Term(1), command, &mut effects);
            assert!(state.view_version() > version && !effects.is_empty(), "everyone has to hear of it");
        }
        (state, other)
    }

    fn placement(based_on: u64, body: PlacementBody) -> PlacementChange {
        PlacementChange { partition: PartitionId(0), based_on: Epoch(based_on), body }
    }

    fn propose(state: &mut ControlState, node: NodeId, seq: u64, change: PlacementChange) -> Answer {
        let request = RequestId { node, incarnation: Incarnation(1), seq };
        let change = Change { request, done: Done::default(), key: None, body: ChangeBody::Placement(change) };
        state.apply(Tick(0), Term(1), Command::Change(Box::new(change)), &mut Vec::new())
    }

    #[test]
    fn a_change_of_placement_that_is_asked_for_again_gets_its_first_answer() {
        let (mut state, other) = with_queues();
        let away = state.members().replica(&other).expect("a queue node");
        let shrink = || placement(1, PlacementBody::Shrink(vec![away]));
        let done = propose(&mut state, NODE, 1, shrink());
        assert!(matches!(&done, Answer::Placement(PlacementAnswer::Done(now)) if now.in_sync.len() == 1));
        propose(&mut state, NODE, 2, placement(2, PlacementBody::Confirm));
        propose(&mut state, NODE, 4, placement(3, PlacementBody::Grow(away)));
        assert_eq!(propose(&mut state, NODE, 1, shrink()), done, "though it is in another epoch by now");
        let void = propose(&mut state, NODE, 3, shrink());
        assert!(matches!(void, Answer::Placement(PlacementAnswer::Void(now)) if now.in_sync.len() == 2));
    }

    #[test]
    fn who_is_not_the_primary_changes_no_in_sync_set() {
        let (mut state, other) = with_queues();
        let before = state.clone();
        let away = state.members().replica(&NODE).expect("a queue node");
        for body in [PlacementBody::Shrink(vec![away]), PlacementBody::Place(vec![other])] {
            let answer = propose(&mut state, other, 1, placement(1, body));
            assert!(matches!(answer, Answer::Refused(error) if error.code == ErrorCode::Forbidden));
            assert_eq!(state, before);
        }
    }

    #[test]
    fn the_entry_that_says_that_a_primary_is_down_names_the_next_one() {
        let (mut state, other) = with_queues();
        let down = MemberChange::Down { node: NODE, incarnation: Incarnation(1), term: None };
        let mut effects = Vec::new();
        state.apply(Tick(0), Term(1), Command::Member(down), &mut effects);
        let now = &state.placement().partitions()[&PartitionId(0)];
        assert_eq!(now.primary.map(|primary| primary.node), Some(other));
        assert!(matches!(effects[..], [Effect::Member(_), Effect::Placement]));
    }

    #[test]
    fn keys_age_by_the_time_that_leaders_count_and_not_by_the_times_of_entries() {
        let mut state = ControlState::default();
        state.apply(Tick(0), Term(1), Command::Member(MemberChange::Join(joiner())), &mut Vec::new());
        let open = |state: &mut ControlState, at, seq| {
            let new = NewSession { session: SessionId::new("s").unwrap(), ttl_ms: 30_000, owner: "".into() };
            let key = Some(IdempotencyKey { key: "k".into(), fingerprint: 1 });
            let body = ChangeBody::Lock(LockRequest::OpenSession(new));
            let change = Change { request: id(seq), done: Done::default(), key, body };
            state.apply(at, Term(1), Command::Change(Box::new(change)), &mut Vec::new())
        };
        let opened = open(&mut state, Tick(0), 1);
        assert!(matches!(opened, Answer::Lock(LockAnswer::Opened(_))));
        assert_eq!(open(&mut state, Tick(u64::MAX), 2), opened, "however far a wall clock jumps");
        let passed = |state: &mut ControlState, judged| {
            state.apply(Tick(0), Term(1), Command::Passed(Term(judged)), &mut Vec::new());
        };
        (0..100).for_each(|_| passed(&mut state, 0));
        assert_eq!(open(&mut state, Tick(0), 3), opened, "what another term's leader counted is void");
        (0..600_000 / STEP_MS).for_each(|_| passed(&mut state, 1));
        assert_eq!(open(&mut state, Tick(0), 4), opened);
        assert!(state.counts_time());
        passed(&mut state, 1);
        assert!(!state.counts_time());
        let taken = Answer::Lock(LockAnswer::Refused(Refusal::SessionTaken));
        assert_eq!(open(&mut state, Tick(0), 5), taken, "executed anew");
    }
}
