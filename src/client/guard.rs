//! A lock held from elsewhere: kept alive over HTTP, and given up in time.
//!
//! When to stop believing is [`lease`](crate::lease)'s to say; this says how a session is renewed and
//! a loss is heard of: a watch on the lock tells of a force release.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{AcquireOptions, Call, Client, ClientError, ServerEvent, ServerEvents};
use crate::{
    api::bodies::{GrantBody, LockBody, LockEventBody, SessionBody},
    clock::{Clock, SystemClock},
    error::ErrorCode,
    ids::{FencingToken, LockName, SessionId, Tick},
    lease::{Held, HeldGrant, Lease, Loss, Term},
    machine::lock::{Mode, Want},
};

/// The pause before a watch that broke is opened again.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// An acquire that becomes a [`RemoteGuard`].
#[derive(Clone, Debug)]
pub struct LockBuilder {
    client: Client,
    want: Want,
    options: AcquireOptions,
}

impl LockBuilder {
    pub(super) fn new(client: Client, lock: LockName) -> Self {
        let options = AcquireOptions { ttl: Some(Duration::from_secs(30)), ..AcquireOptions::default() };
        Self { client, want: Want { lock, mode: Mode::Exclusive }, options }
    }

    /// Together with other shared holders.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.want.mode = Mode::Shared;
        self
    }

    /// The term: how long after this holder's death another gets the lock (500 ms to 1 h; 30 s).
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = Some(ttl);
        self
    }

    /// How long to wait in line (up to 10 min; not at all).
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.options.wait = wait;
        self
    }

    /// Whom people see as holder.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.options.owner = Some(owner.into());
        self
    }

    /// Acquires. Dropping the future leaves the line.
    ///
    /// # Errors
    /// The node's problem, such as `lock-timeout`; `unavailable` where there is no answer; then
    /// what may have been granted is released when its term, which nobody renews, is over.
    pub async fn acquire(self) -> Result<RemoteGuard, ClientError> {
        let Self { client, want, options } = self;
        let sent = SystemClock.now();
        let grant: GrantBody = client.json(&Call::acquire(&want, &options)).await?;
        let left_ms = grant.expires_in_ms;
        let ttl_ms = options.ttl.map_or(left_ms, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        // From here on, whatever goes wrong releases what was granted.
        let held = Remote::of(client, grant);
        let session = Session { client: held.client.clone(), grant: held.grant.clone() };
        let lease = Lease::keep(session, Arc::new(SystemClock), Term { ttl_ms, sent, left_ms }).await?;
        Ok(RemoteGuard { lease, held })
    }
}

/// A lock that is held, and kept alive while this lives. Dropped, it is released in the background.
#[derive(Debug)]
pub struct RemoteGuard {
    lease: Lease,
    held: Remote,
}

impl RemoteGuard {
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

    /// Resolves when the lock is lost, or its term runs out unconfirmed. Says why.
    pub async fn lost(&self) -> String {
        self.lost_within(Duration::ZERO).await
    }

    /// Resolves as [`RemoteGuard::lost`], but `notice` earlier where the term runs out unconfirmed: time
    /// to stop what the lock protects.
    pub async fn lost_within(&self, notice: Duration) -> String {
        self.lease.lost_within(notice).await
    }

    /// Releases the lock and closes its session.
    ///
    /// # Errors
    /// `session-expired` if it was lost before; `unavailable`: it is released when its term is over.
    pub async fn release(mut self) -> Result<(), ClientError> {
        self.lease.let_go();
        let closed = self.held.client.close_session(&self.held.grant.session).await;
        // Only now: a release that is given up halfway is finished by the drop.
        self.held.released = true;
        closed
    }
}

/// A grant that is given back when this is dropped.
#[derive(Debug)]
struct Remote {
    client: Client,
    grant: HeldGrant,
    released: bool,
}

impl Remote {
    fn of(client: Client, grant: GrantBody) -> Self {
        let grant = HeldGrant { lock: grant.lock, session: grant.session, token: grant.fencing_token };
        Self { client, grant, released: false }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let (client, session) = (self.client.clone(), self.grant.session.clone());
        // Outside a runtime nobody can release it: it ends with its term.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = client.close_session(&session).await {
                    tracing::debug!(%error, "a dropped lock was not released and ends with its term");
                }
            });
        }
    }
}

/// How a session elsewhere is renewed, and watched over.
struct Session {
    client: Client,
    grant: HeldGrant,
}

impl Held for Session {
    type Error = ClientError;

    async fn renew(&self, within: Duration) -> Result<u64, ClientError> {
        let call = Call::keep_alive(&self.grant.session).with_timeout(within);
        Ok(self.client.json::<SessionBody>(&call).await?.ttl_ms)
    }

    fn is_over(error: &ClientError) -> bool {
        error.error.code == ErrorCode::SessionExpired
    }

    /// Follows the lock's events until one says that the session has lost it.
    async fn lost(&self) -> String {
        loop {
            if let Ok(mut events) = self.client.events(&Call::watch_lock(&self.grant.lock)).await
                && let Some(why) = self.follow(&mut events).await
            {
                return why;
            }
            sleep(WATCH_PAUSE).await;
        }
    }
}

impl Session {
    /// Why the lock is lost, if these events say so before they end.
    async fn follow(&self, events: &mut ServerEvents) -> Option<String> {
        while let Ok(Some(event)) = events.next().await {
            if let Some(why) = self.judge(&event) {
                return Some(why);
            }
            if event.event == "state" && !self.holds(&event) && self.is_certainly_gone().await {
                return Some(self.grant.gone());
            }
        }
        None
    }

    /// An event that ends exactly this grant.
    fn judge(&self, event: &ServerEvent) -> Option<String> {
        let loss = match event.event.as_str() {
            "broken" => Loss::Broken,
            "expired" => Loss::Expired,
            "released" => Loss::Released,
            _ => return None,
        };
        let body: LockEventBody = serde_json::from_str(&event.data).ok()?;
        self.grant.ended_by(loss, &body.session, body.fencing_token)
    }

    fn holds(&self, state: &ServerEvent) -> bool {
        serde_json::from_str::<LockBody>(&state.data).is_ok_and(|lock| self.is_holder_of(&lock))
    }

    fn is_holder_of(&self, lock: &LockBody) -> bool {
        self.grant.is_among(lock.holders.iter().map(|holder| (&holder.session, holder.fencing_token)))
    }

    /// Asks again, linearizably: the state that a watch begins with may be older than the grant.
    async fn is_certainly_gone(&self) -> bool {
        match self.client.show_lock(&self.grant.lock).await {
            Ok(lock) => !self.is_holder_of(&lock),
            Err(error) => error.error.code == ErrorCode::NotFound,
        }
    }
}
