//! A lock held from elsewhere: kept alive, and given up in time.
//!
//! The holder knows first. [`believed_until`] counts from the moment at which the last confirmed
//! keep-alive was *sent*, on `CLOCK_BOOTTIME`, less the drift of two clocks and a margin, so the
//! holder stops believing before the servers can grant the lock to another (Gray and Cheriton,
//! "Leases", 1989, section 3). A watch on the lock tells of a force release.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{AcquireOptions, Call, Client, ClientError, ServerEvent, ServerEvents};
use crate::{
    api::bodies::{GrantBody, LockBody, LockEventBody, SessionBody},
    clock::{Clock, SystemClock},
    error::{Error, ErrorCode},
    ids::{FencingToken, LockName, SessionId, Tick},
    machine::lock::{Mode, Want},
    time::millis,
};

/// By how many hundredths two clocks may run apart.
const DRIFT_PERCENT: u64 = 1;

/// What rounding and the waking of a task may cost, in milliseconds.
const MARGIN_MS: u64 = 10;

/// The longest sleep between two looks at the clock: tokio's timers stand still while the machine is
/// suspended, the lease does not.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The shortest pause before something that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The pause before a watch that broke is opened again.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// Until when a holder may believe in a term of `ttl_ms` that it asked for at `sent`.
pub fn believed_until(sent: Tick, ttl_ms: u64) -> Tick {
    let certain_ms = (ttl_ms - ttl_ms * DRIFT_PERCENT / 100).saturating_sub(MARGIN_MS);
    sent.plus_ms(certain_ms)
}

/// What a guard knows of its lease.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Lease {
    believed_until: Tick,
    /// Why the lock is certainly lost.
    lost: Option<String>,
}

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
        let ttl_ms = options.ttl.map_or(grant.expires_in_ms, millis);
        let mut until = believed_until(sent, grant.expires_in_ms);
        if SystemClock.now().ms_since(sent) > ttl_ms / 3 {
            // After a wait in line the request's own send time says little: ask anew.
            until = until.max(confirm(&client, &grant.session, ttl_ms).await?);
        }
        Ok(RemoteGuard::new(client, grant, ttl_ms, until))
    }
}

/// Keeps the session of a fresh grant alive once, and closes it where that is refused.
async fn confirm(client: &Client, id: &SessionId, ttl_ms: u64) -> Result<Tick, ClientError> {
    let sent = SystemClock.now();
    let call = Call::keep_alive(id).with_timeout(Duration::from_millis(ttl_ms));
    match client.json::<SessionBody>(&call).await {
        Ok(session) => Ok(believed_until(sent, session.ttl_ms.min(ttl_ms))),
        Err(error) => {
            if let Err(closing) = client.close_session(id).await {
                tracing::debug!(%closing, "the session of a grant that came too late ends by itself");
            }
            Err(error)
        }
    }
}

/// A lock that is held, and kept alive while this lives. Dropped, it is released in the background.
#[derive(Debug)]
pub struct RemoteGuard {
    client: Client,
    grant: GrantBody,
    lease: watch::Receiver<Lease>,
    keeper: JoinHandle<()>,
    released: bool,
}

impl RemoteGuard {
    fn new(client: Client, grant: GrantBody, ttl_ms: u64, until: Tick) -> Self {
        let (sender, lease) = watch::channel(Lease { believed_until: until, lost: None });
        let keeper = Keeper { client: client.clone(), grant: grant.clone(), ttl_ms, lease: Arc::new(sender) };
        let keeper = tokio::spawn(keeper.run());
        Self { client, grant, lease, keeper, released: false }
    }

    /// The lock.
    pub fn lock(&self) -> &LockName {
        &self.grant.lock
    }

    /// The session that holds it.
    pub fn session(&self) -> &SessionId {
        &self.grant.session
    }

    /// The token, for the resource that the lock protects.
    pub fn fencing_token(&self) -> FencingToken {
        self.grant.fencing_token
    }

    /// Whether the lock may still be believed in.
    pub fn is_held(&self) -> bool {
        let lease = self.lease.borrow();
        lease.lost.is_none() && SystemClock.now() < lease.believed_until
    }

    /// Until when the lock may be believed in, as far as is known now (`CLOCK_BOOTTIME`).
    pub fn believed_until(&self) -> Tick {
        self.lease.borrow().believed_until
    }

    /// Resolves when the lock is lost, or its term runs out unconfirmed. Says why.
    pub async fn lost(&self) -> String {
        self.lost_within(Duration::ZERO).await
    }

    /// Resolves as [`RemoteGuard::lost`], but `notice` earlier where the term runs out unconfirmed: time
    /// to stop what the lock protects.
    pub async fn lost_within(&self, notice: Duration) -> String {
        let notice_ms = millis(notice);
        let mut changes = self.lease.clone();
        loop {
            let lease = changes.borrow_and_update().clone();
            if let Some(why) = lease.lost {
                return why;
            }
            let left_ms = lease.believed_until.ms_since(SystemClock.now().plus_ms(notice_ms));
            if left_ms == 0 {
                return format!("no keep-alive of session {} was confirmed in time", self.grant.session);
            }
            tokio::select! {
                Ok(()) = changes.changed() => {}
                () = sleep(Duration::from_millis(left_ms).min(LOOK_EVERY)) => {}
            }
        }
    }

    /// Releases the lock and closes its session.
    ///
    /// # Errors
    /// `session-expired` if it was lost before; `unavailable`: it is released when its term is over.
    pub async fn release(mut self) -> Result<(), ClientError> {
        self.keeper.abort();
        self.released = true;
        self.client.close_session(&self.grant.session).await
    }
}

impl Drop for RemoteGuard {
    fn drop(&mut self) {
        self.keeper.abort();
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

/// Keeps a session alive and watches over its lock.
struct Keeper {
    client: Client,
    grant: GrantBody,
    ttl_ms: u64,
    lease: Arc<watch::Sender<Lease>>,
}

impl Keeper {
    async fn run(self) {
        let why = tokio::select! {
            why = self.keep_alive() => why,
            why = self.watch() => why,
        };
        self.lease.send_modify(|lease| lease.lost = Some(why));
    }

    /// Renews at a third of the term, more often while it fails; returns once it is of no use.
    async fn keep_alive(&self) -> String {
        let third = Duration::from_millis(self.ttl_ms / 3);
        let session = &self.grant.session;
        let call = Call::keep_alive(session).with_timeout(third.max(RETRY_PAUSE));
        let mut pause = third;
        loop {
            self.sleep_on_boottime(pause).await;
            let sent = SystemClock.now();
            if sent >= self.lease.borrow().believed_until {
                return format!("no keep-alive of session {session} was confirmed in time");
            }
            pause = match self.client.json::<SessionBody>(&call).await {
                Ok(session) => {
                    let until = believed_until(sent, session.ttl_ms.min(self.ttl_ms));
                    self.lease.send_modify(|lease| lease.believed_until = until);
                    third
                }
                Err(error) if error.error.code == ErrorCode::SessionExpired => {
                    return format!("session {session} has expired");
                }
                Err(error) => {
                    tracing::warn!(%error, %session, "a keep-alive failed and is repeated");
                    (third / 10).max(RETRY_PAUSE)
                }
            };
        }
    }

    /// Sleeps so long on the clock that leases are judged by.
    async fn sleep_on_boottime(&self, pause: Duration) {
        let until = SystemClock.now().plus_ms(millis(pause));
        loop {
            let left_ms = until.ms_since(SystemClock.now());
            if left_ms == 0 {
                return;
            }
            sleep(Duration::from_millis(left_ms).min(LOOK_EVERY)).await;
        }
    }

    /// Follows the lock's events until one says that the session has lost it.
    async fn watch(&self) -> String {
        loop {
            if let Ok(mut events) = self.client.events(&Call::watch_lock(&self.grant.lock)).await
                && let Some(why) = self.follow(&mut events).await
            {
                return why;
            }
            sleep(WATCH_PAUSE).await;
        }
    }

    /// Why the lock is lost, if these events say so before they end.
    async fn follow(&self, events: &mut ServerEvents) -> Option<String> {
        while let Ok(Some(event)) = events.next().await {
            if let Some(why) = self.judge(&event) {
                return Some(why);
            }
            if event.event == "state" && !self.holds(&event) && self.is_certainly_free().await {
                return Some(format!("session {} does not hold '{}' any more", self.grant.session, self.grant.lock));
            }
        }
        None
    }

    /// An event that ends exactly this grant.
    fn judge(&self, event: &ServerEvent) -> Option<String> {
        let what = match event.event.as_str() {
            "broken" => "was broken by an operator",
            "expired" => "was lost because its session expired",
            "released" => "was released by somebody who knew its session",
            _ => return None,
        };
        let body: LockEventBody = serde_json::from_str(&event.data).ok()?;
        let is_ours =
            body.session == self.grant.session && body.fencing_token.is_none_or(|t| t == self.grant.fencing_token);
        is_ours.then(|| format!("the lock '{}' {what}", self.grant.lock))
    }

    fn holds(&self, state: &ServerEvent) -> bool {
        serde_json::from_str::<LockBody>(&state.data).is_ok_and(|lock| self.is_holder_of(&lock))
    }

    fn is_holder_of(&self, lock: &LockBody) -> bool {
        let (session, token) = (&self.grant.session, self.grant.fencing_token);
        lock.holders.iter().any(|holder| holder.session == *session && holder.fencing_token == token)
    }

    /// Asks again, linearizably: the state that a watch begins with may be older than the grant.
    async fn is_certainly_free(&self) -> bool {
        match self.client.show_lock(&self.grant.lock).await {
            Ok(lock) => !self.is_holder_of(&lock),
            Err(ClientError { error: Error { code: ErrorCode::NotFound, .. }, .. }) => true,
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_stops_believing_a_hundredth_and_ten_milliseconds_early() {
        assert_eq!(believed_until(Tick(1000), 30_000), Tick(1000 + 29_700 - 10));
        assert_eq!(believed_until(Tick(1000), 500), Tick(1000 + 485));
        assert_eq!(believed_until(Tick(1000), 5), Tick(1000), "a term shorter than the margin is none");
    }
}
