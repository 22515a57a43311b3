//! A lock held by the application that the node is part of: kept alive, and given up in time.
//!
//! [`Locks::lock`] makes a [`LockGuard`]. When to stop believing is [`lease`](crate::lease)'s to say;
//! this says how a session is renewed and a loss is heard of inside a node. The same guard over HTTP is
//! [`client::RemoteGuard`](crate::client::RemoteGuard).

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::time::{sleep, timeout};

use super::locks::{AcquireRequest, Locks, WatchItem};
use crate::{
    error::{Error, ErrorCode, Outcome},
    ids::{FencingToken, LockName, SessionId, Tick},
    lease::{Held, HeldGrant, Lease, Loss, Term},
    machine::lock::{LockEvent, LockEventKind, LockView, Mode, Want},
    node::limits::DEFAULT_TTL_MS,
};

/// The pause before a watch that broke is opened again.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

impl Locks {
    /// A lock that is to be held: acquired, then kept alive until it is released or lost.
    pub fn lock(&self, name: LockName) -> LockBuilder {
        LockBuilder {
            locks: self.clone(),
            want: Want { lock: name, mode: Mode::Exclusive },
            wait: Duration::ZERO,
            ttl: Duration::from_millis(DEFAULT_TTL_MS),
            owner: None,
        }
    }
}

/// An acquire that becomes a [`LockGuard`].
#[derive(Clone, Debug)]
pub struct LockBuilder {
    locks: Locks,
    want: Want,
    wait: Duration,
    ttl: Duration,
    owner: Option<String>,
}

impl LockBuilder {
    /// Together with other shared holders.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.want.mode = Mode::Shared;
        self
    }

    /// The term: how long after this holder's death another gets the lock (500 ms to 1 h; 30 s).
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long to wait in line (up to 10 min; not at all).
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Whom people see as holder.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Acquires. Dropping the future leaves the line.
    ///
    /// # Errors
    /// `bad-request`, `lock-timeout`, `no-quorum`, `unavailable`, `session-expired` where the grant was
    /// lost before it was heard of. What may have been granted then is released behind the scenes.
    pub async fn acquire(self) -> Result<LockGuard, Error> {
        let Self { locks, want, wait, ttl, owner } = self;
        let (clock, ttl_ms) = (Arc::clone(&locks.clock), millis(ttl));
        let request = AcquireRequest {
            session: None,
            wants: vec![want],
            wait_ms: millis(wait),
            ttl_ms: Some(ttl_ms),
            lock_delay_ms: None,
            owner,
        };
        let sent = clock.now();
        // Boxed, as what follows: whoever waits for a lock is not to meet the depth of these futures.
        let granted = locks.acquire(request, None).boxed().await?;
        let lock = granted.locks.into_iter().next().ok_or_else(|| Error::internal("a grant names no lock"))?;
        let grant = HeldGrant { lock: lock.lock, session: granted.session, token: lock.fencing_token };
        // From here on, whatever goes wrong releases what was granted.
        let held = Local { locks: locks.clone(), grant: grant.clone(), released: false };
        let term = Term { ttl_ms, sent, left_ms: granted.expires_in_ms };
        let lease = Lease::keep(Session { locks, grant }, clock, term).boxed().await?;
        Ok(LockGuard { lease, held })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A lock that is held, and kept alive while this lives. Dropped, it is released in the background.
///
/// Whoever holds it stops what the lock protects once [`LockGuard::lost`] resolves, or passes
/// [`LockGuard::token`] to a resource that refuses older ones: that is what still holds when the process
/// was too slow to stop.
#[derive(Debug)]
pub struct LockGuard {
    lease: Lease,
    held: Local,
}

impl LockGuard {
    /// The lock.
    pub fn lock(&self) -> &LockName {
        &self.held.grant.lock
    }

    /// The session that holds it.
    pub fn session(&self) -> &SessionId {
        &self.held.grant.session
    }

    /// The fencing token, for the resource that the lock protects.
    pub fn token(&self) -> FencingToken {
        self.held.grant.token
    }

    /// Whether the lock may still be believed in.
    pub fn is_held(&self) -> bool {
        self.lease.is_held()
    }

    /// Until when the lock may be believed in, as far as is known now (`CLOCK_BOOTTIME`).
    pub fn believed_until(&self) -> Tick {
        self.lease.believed_until()
    }

    /// Resolves when the lock is lost, or its term runs out unconfirmed: before anybody else can be
    /// granted it. Says why.
    pub async fn lost(&self) -> String {
        self.lost_within(Duration::ZERO).await
    }

    /// Resolves as [`LockGuard::lost`], but `notice` earlier where the term runs out unconfirmed: time to
    /// stop what the lock protects.
    pub async fn lost_within(&self, notice: Duration) -> String {
        self.lease.lost_within(notice).await
    }

    /// Releases the lock and closes its session.
    ///
    /// # Errors
    /// `session-expired` if it was lost before; `no-quorum` or `unavailable`: it is released when its
    /// term is over.
    pub async fn release(mut self) -> Result<(), Error> {
        self.lease.let_go();
        let closed = self.held.locks.close_session(self.held.grant.session.clone(), None).boxed().await;
        // Only now: a release that is given up halfway is finished by the drop.
        self.held.released = true;
        closed
    }
}

/// A grant that is given back when this is dropped.
#[derive(Debug)]
struct Local {
    locks: Locks,
    grant: HeldGrant,
    released: bool,
}

impl Drop for Local {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let (locks, session) = (self.locks.clone(), self.grant.session.clone());
        // Outside a runtime nobody can release it: it ends with its term.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = locks.close_session(session, None).await {
                    tracing::debug!(%error, "a dropped lock was not released and ends with its term");
                }
            });
        }
    }
}

/// How a session of this node is renewed, and watched over.
struct Session {
    locks: Locks,
    grant: HeldGrant,
}

impl Held for Session {
    type Error = Error;

    async fn renew(&self, within: Duration) -> Result<u64, Error> {
        let silent = |_| Error::unavailable(Outcome::Unknown, "no leader confirmed the keep-alive in time");
        Ok(timeout(within, self.locks.keep_alive(self.grant.session.clone())).await.map_err(silent)??.ttl_ms)
    }

    fn is_over(error: &Error) -> bool {
        error.code == ErrorCode::SessionExpired
    }

    /// Follows the lock's events until one says that the session has lost it.
    async fn lost(&self) -> String {
        loop {
            if let Some(why) = self.follow().await {
                return why;
            }
            sleep(WATCH_PAUSE).await;
        }
    }
}

impl Session {
    /// Why the lock is lost, if one watch says so before it ends.
    async fn follow(&self) -> Option<String> {
        let mut items = self.locks.watch(self.grant.lock.clone()).await.ok()?;
        while let Some(item) = items.recv().await {
            match item {
                WatchItem::Event(event) => {
                    if let Some(why) = self.judge(&event) {
                        return Some(why);
                    }
                }
                WatchItem::State(state) => {
                    if !self.is_holder_of(&state) && self.is_certainly_gone().await {
                        return Some(self.grant.gone());
                    }
                }
            }
        }
        None
    }

    /// An event that ends exactly this grant.
    fn judge(&self, event: &LockEvent) -> Option<String> {
        let loss = match event.kind {
            LockEventKind::Broken => Loss::Broken,
            LockEventKind::Expired => Loss::Expired,
            LockEventKind::Released => Loss::Released,
            LockEventKind::Granted | LockEventKind::Waiting => return None,
        };
        self.grant.ended_by(loss, &event.session, event.fencing_token)
    }

    fn is_holder_of(&self, lock: &LockView) -> bool {
        self.grant.is_among(lock.holders.iter().map(|holder| (&holder.session, holder.fencing_token)))
    }

    /// Asks again, linearizably: the state that a watch begins with may be older than the grant.
    async fn is_certainly_gone(&self) -> bool {
        match self.locks.show(self.grant.lock.clone()).await {
            Ok(lock) => !lock.is_some_and(|lock| self.is_holder_of(&lock)),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{
        clock::{Clock, SystemClock},
        config::{Config, Switch},
        node::Node,
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A cluster of one, over real sockets, once it grants locks.
    async fn lone_node() -> (Node, TempDir) {
        let data_dir = TempDir::new().unwrap();
        let config = Config {
            data_dir: data_dir.path().to_owned(),
            listen_addrs: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            mdns: Switch::Off,
            bootstrap_expect: Some(1),
            ..Config::default()
        };
        let node = Node::start(config).await.unwrap();
        let ready = async {
            while !node.readiness().await.ready {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, ready).await.expect("a cluster of one founds itself");
        (node, data_dir)
    }

    fn report() -> LockName {
        LockName::new("report").unwrap()
    }

    fn held_for(node: &Node, ttl: Duration) -> LockBuilder {
        node.locks().lock(report()).ttl(ttl).wait(Duration::from_secs(10)).owner("a test")
    }

    #[tokio::test]
    async fn a_guard_outlives_its_term_and_its_release_lets_the_next_one_in() {
        let (node, _data_dir) = lone_node().await;
        let guard = held_for(&node, Duration::from_millis(600)).acquire().await.unwrap();
        let first_term = guard.believed_until();
        timeout(PATIENCE, async {
            while SystemClock.now() <= first_term {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap();
        assert!(guard.is_held());
        let view = node.locks().show(report()).await.unwrap().expect("the lock is held");
        assert_eq!((&view.holders[0].session, view.holders[0].fencing_token), (guard.session(), guard.token()));
        assert_eq!(node.locks().lock(report()).acquire().await.unwrap_err().code, ErrorCode::LockTimeout);
        let token = guard.token();
        guard.release().await.unwrap();
        let next = node.locks().lock(report()).acquire().await.unwrap();
        assert!(next.token() > token);
        drop(next);
        // The drop's release runs by itself: whoever waits gets the lock long before the term of 30 s.
        timeout(PATIENCE, held_for(&node, Duration::from_secs(1)).acquire()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_guard_tells_that_its_lock_was_broken() {
        let (node, _data_dir) = lone_node().await;
        let guard = held_for(&node, Duration::from_secs(60)).acquire().await.unwrap();
        node.locks().break_lock(report(), None).await.unwrap();
        assert_eq!(timeout(PATIENCE, guard.lost()).await.unwrap(), "the lock 'report' was broken by an operator");
        assert!(!guard.is_held());
    }

    #[tokio::test]
    async fn a_guard_tells_that_its_session_was_closed_by_somebody_else() {
        let (node, _data_dir) = lone_node().await;
        let guard = held_for(&node, Duration::from_secs(60)).acquire().await.unwrap();
        node.locks().close_session(guard.session().clone(), None).await.unwrap();
        let why = timeout(PATIENCE, guard.lost()).await.unwrap();
        assert!(why.contains("was released by somebody who knew its session"), "{why}");
        assert_eq!(guard.release().await.unwrap_err().code, ErrorCode::SessionExpired);
    }

    #[tokio::test]
    async fn a_guard_of_a_node_that_stopped_is_lost_before_its_term_is_over() {
        let (node, _data_dir) = lone_node().await;
        let ttl = Duration::from_secs(2);
        let guard = held_for(&node, ttl).acquire().await.unwrap();
        node.stop(Duration::from_secs(5)).await;
        let stopped = SystemClock.now();
        timeout(PATIENCE, guard.lost()).await.unwrap();
        assert!(SystemClock.now().ms_since(stopped) < millis(ttl));
    }

    #[tokio::test]
    async fn a_lock_that_is_held_and_a_term_out_of_range_are_refused() {
        let (node, _data_dir) = lone_node().await;
        let _guard = held_for(&node, Duration::from_secs(60)).shared().acquire().await.unwrap();
        let refused = node.locks().lock(report()).acquire().await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::LockTimeout);
        assert!(node.locks().lock(report()).shared().acquire().await.is_ok());
        let refused = node.locks().lock(report()).ttl(Duration::from_millis(1)).acquire().await.unwrap_err();
        assert_eq!(refused.details.field.as_deref(), Some("ttl_ms"));
    }
}
