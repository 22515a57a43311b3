//! The lock service as a client reaches it: one question, one answer, and a door that a dying process
//! slams.
//!
//! [`LockApi`] is what a node offers, run inside the node's own runtime; [`Door`] is what a client
//! holds. A request that was inside when the process died, or whose client hung up, has an unknown
//! outcome; one that found no process had none.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, ErrorCode, Outcome},
    ids::{FencingToken, LockName, NodeId, SessionId},
    machine::lock::{Mode, Want},
    node::locks::{AcquireRequest, IdempotencyKey, Locks},
};

/// Requests that a process may leave lying at its door.
const DOOR_QUEUE: usize = 1_024;

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Open a session.
    Open {
        /// Its term, in milliseconds.
        ttl_ms: u64,
    },
    /// Start its term anew.
    KeepAlive(SessionId),
    /// Close it.
    Close(SessionId),
    /// Acquire one lock.
    Acquire {
        /// For whom.
        session: SessionId,
        /// Which.
        lock: LockName,
        /// How.
        mode: Mode,
        /// How long to wait in line, in milliseconds.
        wait_ms: u64,
    },
    /// Give it back.
    Release {
        /// By whom.
        session: SessionId,
        /// Which.
        lock: LockName,
    },
    /// Look at it.
    Show(LockName),
}

impl Ask {
    /// The lock that it is about.
    pub fn lock(&self) -> Option<&LockName> {
        match self {
            Self::Acquire { lock, .. } | Self::Release { lock, .. } | Self::Show(lock) => Some(lock),
            Self::Open { .. } | Self::KeepAlive(_) | Self::Close(_) => None,
        }
    }

    /// The session that it names.
    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Self::KeepAlive(session) | Self::Close(session) => Some(session),
            Self::Acquire { session, .. } | Self::Release { session, .. } => Some(session),
            Self::Open { .. } | Self::Show(_) => None,
        }
    }
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The session is open.
    Opened {
        /// Its id.
        session: SessionId,
        /// Its term, in milliseconds.
        ttl_ms: u64,
    },
    /// Its term began anew.
    Alive {
        /// The term, in milliseconds.
        ttl_ms: u64,
    },
    /// The session is closed.
    Closed,
    /// The lock is held.
    Granted {
        /// The token.
        token: FencingToken,
        /// In which mode.
        mode: Mode,
    },
    /// It was not to be had in time.
    Held {
        /// Who holds it.
        holders: Vec<SessionId>,
    },
    /// Waiting would have closed a cycle.
    Deadlock,
    /// It was given back.
    Released,
    /// It was not held by this session.
    NotHolder,
    /// The session is not alive.
    SessionExpired,
    /// The state of the lock; nobody holds it where there are no holders.
    Shown {
        /// How it is held.
        mode: Option<Mode>,
        /// By whom, with which token.
        holders: Vec<(SessionId, FencingToken)>,
    },
    /// Not done, certainly.
    Refused(ErrorCode),
    /// Perhaps done.
    Unknown,
}

/// The lock service of one node.
pub trait LockApi: Send + Sync + 'static {
    /// Does what is asked. `key`: the client's own name for the request, the same when it repeats it.
    /// Dropped when the client hangs up.
    fn perform(&self, ask: Ask, key: Option<String>) -> BoxFuture<'_, Answer>;

    /// Whether this node believes that it leads: what faults that look for the leader go by.
    fn leads(&self) -> bool {
        false
    }

    /// Who votes, as far as this node knows.
    fn voters(&self) -> BTreeSet<NodeId> {
        BTreeSet::new()
    }

    /// Hands its duties over and ends.
    fn retire(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    /// Waits until it ends by itself, and says why.
    fn ended(&self) -> BoxFuture<'_, String> {
        std::future::pending().boxed()
    }
}

impl LockApi for Locks {
    fn perform(&self, ask: Ask, key: Option<String>) -> BoxFuture<'_, Answer> {
        async move {
            let key = key.map(|key| IdempotencyKey { fingerprint: fingerprint(&ask), key });
            perform(self, ask, key).await.unwrap_or_else(refusal)
        }
        .boxed()
    }
}

async fn perform(locks: &Locks, ask: Ask, key: Option<IdempotencyKey>) -> Result<Answer, Error> {
    Ok(match ask {
        Ask::Open { ttl_ms } => {
            let term = locks.open_session(Some(ttl_ms), None, key).await?;
            Answer::Opened { session: term.session, ttl_ms: term.ttl_ms }
        }
        Ask::KeepAlive(session) => Answer::Alive { ttl_ms: locks.keep_alive(session).await?.ttl_ms },
        Ask::Close(session) => {
            locks.close_session(session, key).await?;
            Answer::Closed
        }
        Ask::Acquire { session, lock, mode, wait_ms } => {
            let request = AcquireRequest {
                session: Some(session),
                wants: vec![Want { lock, mode }],
                wait_ms,
                ttl_ms: None,
                lock_delay_ms: Some(0),
                owner: None,
            };
            let acquired = locks.acquire(request, key).await?;
            let [lock] = acquired.locks.as_slice() else { panic!("asked for one lock, got {acquired:?}") };
            Answer::Granted { token: lock.fencing_token, mode: lock.mode }
        }
        Ask::Release { session, lock } => {
            locks.release(session, lock, key).await?;
            Answer::Released
        }
        Ask::Show(lock) => {
            let view = locks.show(lock).await?;
            let mode = view.as_ref().and_then(|view| view.mode);
            let holders = view.map(|view| view.holders).unwrap_or_default();
            Answer::Shown { mode, holders: holders.into_iter().map(|h| (h.session, h.fencing_token)).collect() }
        }
    })
}

fn refusal(error: Error) -> Answer {
    match error.code {
        ErrorCode::SessionExpired => Answer::SessionExpired,
        ErrorCode::NotHolder => Answer::NotHolder,
        ErrorCode::LockDeadlock => Answer::Deadlock,
        ErrorCode::LockTimeout => Answer::Held { holders: error.details.holders.unwrap_or_default() },
        ErrorCode::Unavailable if error.details.outcome != Some(Outcome::NotApplied) => Answer::Unknown,
        ErrorCode::NoQuorum | ErrorCode::Unavailable => Answer::Refused(error.code),
        code => panic!("a well-formed request was answered {code}: {error}"),
    }
}

fn fingerprint(ask: &Ask) -> u64 {
    format!("{ask:?}")
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

struct Knock {
    ask: Ask,
    key: Option<String>,
    reply: oneshot::Sender<Answer>,
}

/// The way into a node, which outlives its processes. Cheap to clone.
#[derive(Clone, Default)]
pub struct Door(Arc<Mutex<Doorway>>);

#[derive(Default)]
struct Doorway {
    knocks: Option<mpsc::Sender<Knock>>,
    api: Option<Arc<dyn LockApi>>,
    retire: CancellationToken,
}

impl Door {
    /// Asks the process behind the door.
    pub async fn perform(&self, ask: Ask, key: Option<String>) -> Answer {
        let knocks = self.0.lock().expect("no panic while locked").knocks.clone();
        let (reply, answer) = oneshot::channel();
        match knocks.map(|knocks| knocks.try_send(Knock { ask, key, reply })) {
            Some(Ok(())) => answer.await.unwrap_or(Answer::Unknown),
            None | Some(Err(_)) => Answer::Refused(ErrorCode::Unavailable),
        }
    }

    /// Whether a process is there that believes that it leads.
    pub fn leads(&self) -> bool {
        self.0.lock().expect("no panic while locked").api.as_ref().is_some_and(|api| api.leads())
    }

    /// Who votes, as far as the process knows.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.0.lock().expect("no panic while locked").api.as_ref().map(|api| api.voters()).unwrap_or_default()
    }

    /// Asks the process to end; it serves until it has handed its duties over.
    pub fn retire(&self) {
        self.0.lock().expect("no panic while locked").retire.cancel();
    }

    /// Serves at this door, inside the node's runtime, from when `boot` is done until it has retired or
    /// has ended by itself, for the reason that is returned.
    pub fn serve(&self, boot: BoxFuture<'static, Arc<dyn LockApi>>) -> BoxFuture<'static, Result<(), String>> {
        let (knocks, queue) = mpsc::channel::<Knock>(DOOR_QUEUE);
        let retire = CancellationToken::new();
        *self.0.lock().expect("no panic while locked") =
            Doorway { knocks: Some(knocks), api: None, retire: retire.clone() };
        let door = self.clone();
        async move {
            let api = boot.await;
            door.0.lock().expect("no panic while locked").api = Some(Arc::clone(&api));
            let retired = async {
                retire.cancelled().await;
                api.retire().await;
            };
            tokio::select! {
                biased;
                () = retired => Ok(()),
                reason = api.ended() => Err(reason),
                () = answer(Arc::clone(&api), queue) => Ok(()),
            }
        }
        .boxed()
    }

    /// The process is gone: whoever knocks from now on finds nobody.
    pub fn shut(&self) {
        *self.0.lock().expect("no panic while locked") = Doorway::default();
    }
}

async fn answer(api: Arc<dyn LockApi>, mut queue: mpsc::Receiver<Knock>) {
    while let Some(Knock { ask, key, mut reply }) = queue.recv().await {
        let api = Arc::clone(&api);
        tokio::spawn(async move {
            let answer = tokio::select! {
                biased;
                () = reply.closed() => return,
                answer = api.perform(ask, key) => answer,
            };
            // A client that hung up meanwhile does not want it.
            let _ = reply.send(answer);
        });
    }
}
