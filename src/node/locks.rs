//! The lock service as applications see it, on any node.
//!
//! Checks what is asked, gives it an id, and has the [gateway](super::gateway) bring it to the
//! leader. Called by the HTTP API and by applications that embed a node. Keeps nothing itself.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};

use super::{
    gateway::Gateway,
    limits::{self, check_key, check_owner, check_range},
    requests::OpenRequest,
    wire::{ClientAsk, ClientReply, EventCursor, Read},
};
use crate::{
    clock::Clock,
    error::{Error, ErrorCode},
    ids::{FencingToken, LockName, SessionId, Tick},
    machine::{
        control::ChangeBody,
        lock::{
            Acquire, Bound, Granted, LockAnswer, LockEvent, LockRequest, LockView, Mode, NewSession, Refusal, Want,
        },
    },
    telemetry::LockMetrics,
};

pub(crate) use super::limits::DEFAULT_TTL_MS;
pub use crate::machine::control::IdempotencyKey;

/// Items that a watcher may be behind before it waits.
const WATCH_BUFFER: usize = 256;
/// How long one question of a watcher may take; the leader answers sooner, with or without news.
const WATCH_PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two tries to settle an abandoned request.
const ABANDON_PAUSE: Duration = Duration::from_millis(250);
/// How long an abandoned request is tried to be settled.
const ABANDON_PATIENCE: Duration = Duration::from_secs(30);

/// A session and its term.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionTerm {
    /// The session.
    pub session: SessionId,
    /// Its full term, in milliseconds.
    pub ttl_ms: u64,
}

/// What an acquire asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcquireRequest {
    /// The session that is to hold the locks; one is made where there is none.
    pub session: Option<SessionId>,
    /// The locks: one, or all or none of several.
    pub wants: Vec<Want>,
    /// How long to wait in line, in milliseconds.
    pub wait_ms: u64,
    /// The term of a session that is made for this; only without `session`.
    pub ttl_ms: Option<u64>,
    /// How long the locks stay closed if their holder is lost; `None`: the setting `LOCK_DELAY`.
    pub lock_delay_ms: Option<u64>,
    /// Whom people see as holder; only without `session`.
    pub owner: Option<String>,
}

/// One lock of an acquire that was granted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AcquiredLock {
    /// The lock.
    pub lock: LockName,
    /// The mode in which it is held.
    pub mode: Mode,
    /// The token.
    pub fencing_token: FencingToken,
}

/// An acquire that was granted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Acquired {
    /// The holder.
    pub session: SessionId,
    /// How long the session lasts from now unless it is kept alive, in milliseconds.
    pub expires_in_ms: u64,
    /// In the order of the request.
    pub locks: Vec<AcquiredLock>,
}

/// A session as people see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub owner: String,
    /// Its full term, in milliseconds.
    pub ttl_ms: u64,
    /// What is left of it, in milliseconds.
    pub expires_in_ms: u64,
    /// The locks that it holds, in the order of their names.
    pub locks: Vec<LockName>,
}

/// One page of a list in the order of names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where to go on; `None` at the end.
    pub next: Option<String>,
}

/// Which part of a list is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageRequest {
    /// Only names that begin so.
    pub prefix: Option<String>,
    /// Only what comes after this name.
    pub after: Option<String>,
    /// At most so many, 1 to 1,000.
    pub limit: usize,
}

/// What a watcher of one lock hears: its state first, then what happens to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchItem {
    /// The state from which the events go on.
    State(LockView),
    /// An event.
    Event(LockEvent),
}

/// The lock service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Locks {
    gateway: Gateway,
    pub(super) clock: Arc<dyn Clock>,
    lock_delay_ms: u64,
    metrics: LockMetrics,
}

impl Locks {
    /// The lock service of a node. `lock_delay_ms` is the setting `LOCK_DELAY`.
    pub(crate) fn new(gateway: Gateway, clock: Arc<dyn Clock>, lock_delay_ms: u64, metrics: LockMetrics) -> Self {
        Self { gateway, clock, lock_delay_ms, metrics }
    }

    /// Opens a session of `ttl_ms` (500 to 3,600,000; default 30,000).
    ///
    /// # Errors
    /// `bad-request`, `no-quorum`, `unavailable`.
    pub async fn open_session(
        &self,
        ttl_ms: Option<u64>,
        owner: Option<String>,
        key: Option<IdempotencyKey>,
    ) -> Result<SessionTerm, Error> {
        let new = new_session(ttl_ms, owner)?;
        match self.change(key, LockRequest::OpenSession(new)).await? {
            LockAnswer::Opened(new) => Ok(SessionTerm { session: new.session, ttl_ms: new.ttl_ms }),
            answer => Err(unexpected(answer)),
        }
    }

    /// Like [`Locks::keep_alive`], once the key is known to be used for nothing else. A repetition starts
    /// the term anew too: to say that the session lives without that would promise more than is left.
    ///
    /// # Errors
    /// `bad-request`, `session-expired`, `no-quorum`, `unavailable`.
    pub async fn keep_alive_once(&self, session: SessionId, key: IdempotencyKey) -> Result<SessionTerm, Error> {
        check_key(Some(&key))?;
        self.gateway.noted_before(Some(key)).await?;
        self.keep_alive(session).await
    }

    /// Starts the term of a session anew.
    ///
    /// # Errors
    /// `session-expired`, `no-quorum`.
    pub async fn keep_alive(&self, session: SessionId) -> Result<SessionTerm, Error> {
        match self.gateway.ask(ClientAsk::KeepAlive(session.clone()), Duration::ZERO).await? {
            ClientReply::Kept { ttl_ms } => Ok(SessionTerm { session, ttl_ms }),
            reply => Err(mistaken(&reply)),
        }
    }

    /// Closes a session: its locks are released, its waits cancelled.
    ///
    /// # Errors
    /// `session-expired`, `no-quorum`, `unavailable`.
    pub async fn close_session(&self, session: SessionId, key: Option<IdempotencyKey>) -> Result<(), Error> {
        match self.change(key, LockRequest::CloseSession(session)).await? {
            LockAnswer::Closed => Ok(()),
            answer => Err(unexpected(answer)),
        }
    }

    /// The sessions in the order of their ids (`prefix` is not used).
    ///
    /// # Errors
    /// `bad-request`, `no-quorum`.
    pub async fn sessions(&self, page: PageRequest) -> Result<Page<SessionInfo>, Error> {
        limits::check_page(&page)?;
        match self.gateway.ask(ClientAsk::Read(Read::Sessions(page)), Duration::ZERO).await? {
            ClientReply::Sessions(page) => Ok(page),
            reply => Err(mistaken(&reply)),
        }
    }

    /// Acquires one lock, or all or none of several. Dropping the future gives the request up: it
    /// leaves the line, or releases exactly the grant that nobody got to hear of.
    ///
    /// # Errors
    /// `bad-request`, `lock-timeout`, `lock-deadlock`, `session-expired`, `no-quorum`, `unavailable`.
    pub async fn acquire(&self, request: AcquireRequest, key: Option<IdempotencyKey>) -> Result<Acquired, Error> {
        let began = Instant::now();
        let outcome = self.acquire_once(request, key).await;
        self.metrics.acquired(outcome.as_ref().err().map(|error| error.code.as_str()), began.elapsed());
        outcome
    }

    async fn acquire_once(&self, request: AcquireRequest, key: Option<IdempotencyKey>) -> Result<Acquired, Error> {
        check_key(key.as_ref())?;
        let acquire = self.checked(request, key.as_ref())?;
        let wait = Duration::from_millis(acquire.wait_ms);
        let (session, made_here) = (acquire.session.clone(), acquire.open.clone());
        let attempt = Attempt::begin(&self.gateway);
        let body = ChangeBody::Lock(LockRequest::Acquire(acquire));
        let sent = self.clock.now();
        let change = self.gateway.change(attempt.request(), key, body, wait);
        let (reply, renewed) = match &made_here {
            Some(new) if wait.as_millis() > 0 => self.kept_alive_while(change, &session, new.ttl_ms, sent).await,
            _ => (change.await, sent),
        };
        match reply {
            Ok(ClientReply::Lock { answer: LockAnswer::Granted(granted), expires_in_ms }) => {
                attempt.settled();
                let age = self.clock.now().ms_since(renewed);
                Ok(acquired(granted, expires_in_ms, age))
            }
            Ok(ClientReply::Lock { answer, .. }) => {
                attempt.settled();
                Err(unexpected(answer))
            }
            Ok(reply) => Err(mistaken(&reply)),
            Err(error) => {
                // What certainly had no effect needs no undoing; the rest is undone behind the scenes.
                if error.code != ErrorCode::Unavailable {
                    attempt.settled();
                }
                Err(error)
            }
        }
    }

    /// Keeps a session alive that was made for a request, while the request waits. Also gives when
    /// the last keep-alive that counted was sent.
    async fn kept_alive_while<T>(
        &self,
        change: impl Future<Output = T>,
        session: &SessionId,
        ttl_ms: u64,
        sent: Tick,
    ) -> (T, Tick) {
        let mut renewed = sent;
        tokio::pin!(change);
        loop {
            tokio::select! {
                biased;
                outcome = &mut change => return (outcome, renewed),
                () = tokio::time::sleep(Duration::from_millis(ttl_ms / 3)) => {}
            }
            let asked = self.clock.now();
            tokio::select! {
                biased;
                outcome = &mut change => return (outcome, renewed),
                kept = self.keep_alive(session.clone()) => if kept.is_ok() { renewed = asked },
            }
        }
    }

    fn checked(&self, request: AcquireRequest, key: Option<&IdempotencyKey>) -> Result<Acquire, Error> {
        let AcquireRequest { session, wants, wait_ms, ttl_ms, lock_delay_ms, owner } = request;
        check_range("wait_ms", wait_ms, limits::WAIT_MS)?;
        limits::check_wants(&wants)?;
        let lock_delay_ms = lock_delay_ms.unwrap_or(self.lock_delay_ms);
        check_range("lock_delay_ms", lock_delay_ms, limits::LOCK_DELAY_MS)?;
        let (session, open) = match session {
            Some(_) if ttl_ms.is_some() => {
                return Err(Error::bad_request(
                    "ttl_ms",
                    "ttl_ms goes with a session that is made: leave out one of the two",
                ));
            }
            Some(_) if owner.is_some() => {
                return Err(Error::bad_request(
                    "owner",
                    "owner goes with a session that is made: leave out one of the two",
                ));
            }
            Some(session) => (session, None),
            None => {
                let mut new = new_session(ttl_ms, owner)?;
                if let Some(key) = key {
                    // Whoever repeats the request keeps the same session alive while it waits.
                    new.session = session_of(key);
                }
                (new.session.clone(), Some(new))
            }
        };
        Ok(Acquire { session, open, wants, wait_ms, lock_delay_ms })
    }

    /// From exclusive to shared, keeping the token.
    ///
    /// # Errors
    /// `not-holder`, `session-expired`, `no-quorum`, `unavailable`.
    pub async fn downgrade(
        &self,
        session: SessionId,
        lock: LockName,
        key: Option<IdempotencyKey>,
    ) -> Result<Acquired, Error> {
        check_key(key.as_ref())?;
        let request = self.gateway.begin();
        let body = ChangeBody::Lock(LockRequest::Downgrade { session, lock });
        match self.gateway.change(&request, key, body, Duration::ZERO).await? {
            ClientReply::Lock { answer: LockAnswer::Granted(granted), expires_in_ms } => {
                Ok(acquired(granted, expires_in_ms, 0))
            }
            ClientReply::Lock { answer, .. } => Err(unexpected(answer)),
            reply => Err(mistaken(&reply)),
        }
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// `not-holder`, `session-expired`, `no-quorum`, `unavailable`.
    pub async fn release(&self, session: SessionId, lock: LockName, key: Option<IdempotencyKey>) -> Result<(), Error> {
        let began = Instant::now();
        let answer = self.change(key, LockRequest::Release { session, lock }).await;
        self.metrics.released(began.elapsed());
        match answer? {
            LockAnswer::Released => Ok(()),
            answer => Err(unexpected(answer)),
        }
    }

    /// An operator's force release: takes the lock from all its holders and names them.
    ///
    /// # Errors
    /// `no-quorum`, `unavailable`.
    pub async fn break_lock(&self, lock: LockName, key: Option<IdempotencyKey>) -> Result<Vec<SessionId>, Error> {
        match self.change(key, LockRequest::Break(lock)).await? {
            LockAnswer::Broken(sessions) => Ok(sessions),
            answer => Err(unexpected(answer)),
        }
    }

    /// The locks that are held or waited for, linearizable.
    ///
    /// # Errors
    /// `bad-request`, `no-quorum`.
    pub async fn list(&self, page: PageRequest) -> Result<Page<LockView>, Error> {
        limits::check_page(&page)?;
        match self.gateway.ask(ClientAsk::Read(Read::Locks(page)), Duration::ZERO).await? {
            ClientReply::Locks(page) => Ok(page),
            reply => Err(mistaken(&reply)),
        }
    }

    /// One lock, linearizable; `None` when it is free and nobody waits.
    ///
    /// # Errors
    /// `no-quorum`.
    pub async fn show(&self, lock: LockName) -> Result<Option<LockView>, Error> {
        match self.gateway.ask(ClientAsk::Read(Read::Lock(lock)), Duration::ZERO).await? {
            ClientReply::View(view) => Ok(view),
            reply => Err(mistaken(&reply)),
        }
    }

    /// Watches one lock: its state, then its events, with a fresh state after a gap. Ends when the
    /// receiver is dropped or no leader can be reached. A watcher that does not keep up is waited
    /// for, and gets a fresh state instead of the events that are no longer known.
    ///
    /// # Errors
    /// `no-quorum`.
    pub async fn watch(&self, lock: LockName) -> Result<mpsc::Receiver<WatchItem>, Error> {
        let (items, receiver) = mpsc::channel(WATCH_BUFFER);
        let (state, _, mut next) = self.watched(&lock, None).await?;
        if let Some(state) = state {
            // The receiver is still ours.
            let _ = items.try_send(WatchItem::State(state));
        }
        let locks = self.clone();
        tokio::spawn(async move {
            loop {
                let told = tokio::select! {
                    () = items.closed() => return,
                    told = locks.watched(&lock, Some(next)) => told,
                };
                let Ok((state, events, after)) = told else { return };
                next = after;
                let news = state.map(WatchItem::State).into_iter().chain(events.into_iter().map(WatchItem::Event));
                for item in news {
                    if items.send(item).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(receiver)
    }

    async fn watched(
        &self,
        lock: &LockName,
        after: Option<EventCursor>,
    ) -> Result<(Option<LockView>, Vec<LockEvent>, EventCursor), Error> {
        let ask = ClientAsk::Watch { lock: lock.clone(), after };
        match self.gateway.ask(ask, WATCH_PATIENCE).await? {
            ClientReply::Watched { state, events, next } => Ok((state, events, next)),
            reply => Err(mistaken(&reply)),
        }
    }

    async fn change(&self, key: Option<IdempotencyKey>, body: LockRequest) -> Result<LockAnswer, Error> {
        check_key(key.as_ref())?;
        let request = self.gateway.begin();
        match self.gateway.change(&request, key, ChangeBody::Lock(body), Duration::ZERO).await? {
            ClientReply::Lock { answer, .. } => Ok(answer),
            reply => Err(mistaken(&reply)),
        }
    }
}

/// An acquire under way: given up, it is undone.
#[derive(Debug)]
struct Attempt {
    gateway: Gateway,
    request: Option<OpenRequest>,
}

impl Attempt {
    fn begin(gateway: &Gateway) -> Self {
        Self { gateway: gateway.clone(), request: Some(gateway.begin()) }
    }

    fn request(&self) -> &OpenRequest {
        self.request.as_ref().expect("an attempt has its request until it is settled or dropped")
    }

    fn settled(mut self) {
        self.request = None;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(request) = self.request.take() else { return };
        let gateway = self.gateway.clone();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let abandon = async {
                loop {
                    let undo = gateway.begin();
                    let body = ChangeBody::Lock(LockRequest::Abandon { request: request.id() });
                    if gateway.change(&undo, None, body, Duration::ZERO).await.is_ok() {
                        return;
                    }
                    tokio::time::sleep(ABANDON_PAUSE).await;
                }
            };
            // What cannot be settled in time ends with the wait or with the session.
            let _ = tokio::time::timeout(ABANDON_PATIENCE, abandon).await;
        });
    }
}

fn new_session(ttl_ms: Option<u64>, owner: Option<String>) -> Result<NewSession, Error> {
    let ttl_ms = ttl_ms.unwrap_or(limits::DEFAULT_TTL_MS);
    check_range("ttl_ms", ttl_ms, limits::TTL_MS)?;
    let owner = owner.unwrap_or_default();
    check_owner(&owner)?;
    let session = format!("{:032x}", rand::random::<u128>());
    let session = SessionId::new(session).expect("32 hexadecimal digits are a session id");
    Ok(NewSession { session, ttl_ms, owner: owner.into() })
}

/// The session that an acquire under an idempotency key makes, the same for each repetition.
fn session_of(key: &IdempotencyKey) -> SessionId {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &key.key, key.fingerprint).hash(&mut hasher);
        hasher.finish()
    };
    let id = format!("k{:016x}{:016x}", half(1), half(2));
    SessionId::new(id).expect("hexadecimal digits are a session id")
}

/// `left`: what the leader says is left of the session's term; `age_ms`: how long ago the last message
/// was sent that may have started it.
fn acquired(granted: Granted, left: Option<u64>, age_ms: u64) -> Acquired {
    let lock = |grant: crate::machine::lock::Grant| AcquiredLock {
        lock: grant.lock,
        mode: grant.mode,
        fencing_token: grant.fencing_token,
    };
    Acquired {
        session: granted.session,
        expires_in_ms: left.unwrap_or(0).min(granted.ttl_ms.saturating_sub(age_ms)),
        locks: granted.grants.into_iter().map(lock).collect(),
    }
}

fn unexpected(answer: LockAnswer) -> Error {
    match answer {
        LockAnswer::Refused(refusal) => refused(refusal),
        other => Error::internal(format!("the lock machine gave an answer to something else: {other:?}")),
    }
}

fn mistaken(reply: &ClientReply) -> Error {
    Error::internal(format!("the leader gave an answer to something else: {reply:?}"))
}

fn refused(refusal: Refusal) -> Error {
    match refusal {
        Refusal::SessionExpired => super::leader::session_expired(),
        Refusal::NotHolder => Error::new(
            ErrorCode::NotHolder,
            "the session does not hold that lock; `syncmesh lock show NAME` tells who does",
        ),
        Refusal::Timeout { holders } => {
            let mut error = Error::new(
                ErrorCode::LockTimeout,
                "the lock was not granted within wait_ms: it is held, waited for, or still closed after its holder was lost",
            );
            error.details.holders = Some(holders);
            error
        }
        Refusal::Deadlock { cycle } => {
            let mut error = Error::new(
                ErrorCode::LockDeadlock,
                "waiting would close a cycle of sessions that wait for each other: release something, or acquire the \
                 locks together with POST /v1/locks:acquire",
            );
            error.details.cycle = Some(cycle);
            error
        }
        Refusal::Abandoned => {
            Error::new(ErrorCode::LockTimeout, "the request was given up before the lock was granted")
        }
        Refusal::Full { what } => full(what),
        Refusal::SessionTaken => Error::bad_request(
            "Idempotency-Key",
            "the session that was made under this Idempotency-Key earlier is still alive: use a fresh key for each request",
        ),
    }
}

fn full(what: Bound) -> Error {
    let what = match what {
        Bound::Sessions => "sessions",
        Bound::LocksHeld => "held locks",
        Bound::WaitersOfALock => "waiters of one lock",
        Bound::Waits => "waits",
        Bound::LocksOfASession => "locks of one session",
        Bound::WaitsOfASession => "waits of one session",
        Bound::RequestsOfAWait => "requests that share one wait",
        Bound::LocksOfAnAcquire => "locks in one acquire",
    };
    Error::unavailable(
        crate::error::Outcome::NotApplied,
        format!("the cluster has as many {what} as it can: close or release some and try again"),
    )
}
