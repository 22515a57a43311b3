//! A lease as its holder sees it: kept alive, and given up in time.
//!
//! The holder knows first. [`believed_until`] counts from the moment at which the last confirmed
//! renewal was *sent*, on `CLOCK_BOOTTIME`, less the drift of two clocks and a margin, so the holder
//! stops believing before the servers can grant to another (Gray and Cheriton, "Leases", 1989,
//! section 3).
//!
//! A leaf: the guards of `client` and of `node` hold a [`Lease`] each and say by [`Held`] how it is
//! renewed and how a loss is heard of, over HTTP the one, in this process the other. It decides when
//! to believe, and never what to do about it.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::sleep};

use crate::{
    clock::Clock,
    ids::{FencingToken, LockName, SessionId, Tick},
};

/// By how many hundredths two clocks may run apart.
const DRIFT_PERCENT: u64 = 1;

/// What rounding and the waking of a task may cost, in milliseconds.
const MARGIN_MS: u64 = 10;

/// The longest sleep between two looks at the clock: tokio's timers stand still while the machine is
/// suspended, the lease does not.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The shortest pause before a renewal that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Until when a holder may believe in a term of `ttl_ms` that it asked for at `sent`.
pub fn believed_until(sent: Tick, ttl_ms: u64) -> Tick {
    let certain_ms = (ttl_ms - ttl_ms * DRIFT_PERCENT / 100).saturating_sub(MARGIN_MS);
    sent.plus_ms(certain_ms)
}

/// What is held: how its term is renewed, and how its holder hears that it is lost.
pub trait Held: Send + Sync + 'static {
    /// Why a renewal was not confirmed.
    type Error: fmt::Display + Send;

    /// Asks for a new term; gives how long that is, in milliseconds, counted from now at the least.
    fn renew(&self, within: Duration) -> impl Future<Output = Result<u64, Self::Error>> + Send;

    /// Whether this says that there is nothing left to renew.
    fn is_over(error: &Self::Error) -> bool;

    /// Resolves when it is certainly lost, and says how.
    fn lost(&self) -> impl Future<Output = String> + Send;
}

/// What a holder knows of its lease.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Belief {
    until: Tick,
    /// Why it is certainly lost.
    lost: Option<String>,
}

/// A lease that is kept alive for as long as this lives, or until it is lost.
#[derive(Debug)]
pub struct Lease {
    clock: Arc<dyn Clock>,
    belief: watch::Sender<Belief>,
    keeper: JoinHandle<()>,
}

/// The term of a lease, as it was when the lease began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Term {
    /// A whole term, in milliseconds.
    pub ttl_ms: u64,
    /// When it was asked for, on `CLOCK_BOOTTIME`.
    pub sent: Tick,
    /// How much of it was said to be left then, in milliseconds.
    pub left_ms: u64,
}

impl Lease {
    /// Keeps `held` alive, of whose term of `ttl_ms` at least `left_ms` were left when it was asked for
    /// at `sent`. Renews it first where that was long ago: after a wait in line.
    ///
    /// # Errors
    /// What that first renewal failed with.
    pub async fn keep<H: Held>(held: H, clock: Arc<dyn Clock>, term: Term) -> Result<Self, H::Error> {
        let Term { ttl_ms, sent, left_ms } = term;
        let mut until = believed_until(sent, left_ms.min(ttl_ms));
        let now = clock.now();
        if now.ms_since(sent) > ttl_ms / 3 {
            let renewed_ms = held.renew(Duration::from_millis(ttl_ms)).await?;
            until = until.max(believed_until(now, renewed_ms.min(ttl_ms)));
        }
        let (belief, _) = watch::channel(Belief { until, lost: None });
        let keeper = Keeper { held, clock: Arc::clone(&clock), ttl_ms, belief: belief.clone() };
        Ok(Self { clock, belief, keeper: tokio::spawn(keeper.run()) })
    }

    /// Whether it may still be believed in.
    pub fn is_held(&self) -> bool {
        let belief = self.belief.borrow();
        belief.lost.is_none() && self.clock.now() < belief.until
    }

    /// Until when it may be believed in, as far as is known now (`CLOCK_BOOTTIME`).
    pub fn believed_until(&self) -> Tick {
        self.belief.borrow().until
    }

    /// Resolves when it is lost, and `notice` before its term runs out unconfirmed. Says why.
    pub async fn lost_within(&self, notice: Duration) -> String {
        let mut changes = self.belief.subscribe();
        loop {
            let belief = changes.borrow_and_update().clone();
            if let Some(why) = belief.lost {
                return why;
            }
            let left_ms = belief.until.ms_since(self.clock.now().plus_ms(millis(notice)));
            if left_ms == 0 {
                return UNCONFIRMED.to_owned();
            }
            tokio::select! {
                Ok(()) = changes.changed() => {}
                () = sleep(Duration::from_millis(left_ms).min(LOOK_EVERY)) => {}
            }
        }
    }

    /// Renews it no more.
    pub fn let_go(&self) {
        self.keeper.abort();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Why a lease is over that nobody is known to have ended.
const UNCONFIRMED: &str = "no keep-alive was confirmed before the term ran out";

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Renews, and listens for a loss.
struct Keeper<H> {
    held: H,
    clock: Arc<dyn Clock>,
    ttl_ms: u64,
    belief: watch::Sender<Belief>,
}

impl<H: Held> Keeper<H> {
    async fn run(self) {
        let why = tokio::select! {
            why = self.keep_alive() => why,
            why = self.held.lost() => why,
        };
        self.belief.send_modify(|belief| belief.lost = Some(why));
    }

    /// Renews at a third of the term, more often while it fails; returns once it is of no use.
    async fn keep_alive(&self) -> String {
        let third = Duration::from_millis(self.ttl_ms / 3);
        let mut pause = third;
        let mut failures = 0_u64;
        loop {
            self.sleep_on_boottime(pause).await;
            let sent = self.clock.now();
            if sent >= self.belief.borrow().until {
                return UNCONFIRMED.to_owned();
            }
            pause = match self.held.renew(third.max(RETRY_PAUSE)).await {
                Ok(ttl_ms) => {
                    let until = believed_until(sent, ttl_ms.min(self.ttl_ms));
                    self.belief.send_modify(|belief| belief.until = until);
                    if std::mem::take(&mut failures) > 0 {
                        tracing::info!("keep-alives are confirmed again");
                    }
                    third
                }
                Err(error) if H::is_over(&error) => return error.to_string(),
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(%error, "a keep-alive failed and is repeated");
                    } else {
                        tracing::debug!(%error, failures, "a keep-alive failed again");
                    }
                    (third / 10).max(RETRY_PAUSE)
                }
            };
        }
    }

    /// Sleeps so long on the clock that leases are judged by.
    async fn sleep_on_boottime(&self, pause: Duration) {
        let until = self.clock.now().plus_ms(millis(pause));
        loop {
            let left_ms = until.ms_since(self.clock.now());
            if left_ms == 0 {
                return;
            }
            sleep(Duration::from_millis(left_ms).min(LOOK_EVERY)).await;
        }
    }
}

/// Exactly one grant of a lock: what is heard about the lock is compared with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldGrant {
    /// The lock.
    pub lock: LockName,
    /// The session that holds it.
    pub session: SessionId,
    /// The token of the grant.
    pub token: FencingToken,
}

/// How a grant ends by somebody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// By force.
    Broken,
    /// With its session's term.
    Expired,
    /// By a release that its holder did not ask for.
    Released,
}

impl HeldGrant {
    /// Why the lock is lost, if this happened to exactly this grant.
    pub fn ended_by(&self, loss: Loss, session: &SessionId, token: Option<FencingToken>) -> Option<String> {
        let is_this = *session == self.session && token.is_none_or(|token| token == self.token);
        let how = match loss {
            Loss::Broken => "was broken by an operator",
            Loss::Expired => "was lost because its session expired",
            Loss::Released => "was released by somebody who knew its session",
        };
        is_this.then(|| format!("the lock '{}' {how}", self.lock))
    }

    /// Whether this grant is among those who hold the lock.
    pub fn is_among<'a>(&self, holders: impl IntoIterator<Item = (&'a SessionId, FencingToken)>) -> bool {
        holders.into_iter().any(|(session, token)| *session == self.session && token == self.token)
    }

    /// Why the lock is lost, where this grant is certainly not among its holders.
    pub fn gone(&self) -> String {
        format!("session {} does not hold '{}' any more", self.session, self.lock)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    };

    use tokio::time::Instant;

    use super::*;

    const TTL_MS: u64 = 3_000;

    #[test]
    fn a_holder_stops_believing_a_hundredth_and_ten_milliseconds_early() {
        assert_eq!(believed_until(Tick(1000), 30_000), Tick(1000 + 29_700 - 10));
        assert_eq!(believed_until(Tick(1000), 500), Tick(1000 + 485));
        assert_eq!(believed_until(Tick(1000), 5), Tick(1000), "a term shorter than the margin is none");
    }

    /// tokio's paused time, and what the machine slept through besides.
    #[derive(Debug)]
    struct Boottime {
        began: Instant,
        suspended_ms: AtomicU64,
    }

    impl Clock for Boottime {
        fn now(&self) -> Tick {
            Tick(millis(self.began.elapsed()) + self.suspended_ms.load(SeqCst))
        }

        fn wall(&self) -> Tick {
            self.now()
        }
    }

    fn clock() -> Arc<Boottime> {
        Arc::new(Boottime { began: Instant::now(), suspended_ms: AtomicU64::new(0) })
    }

    /// What the servers do with keep-alives.
    #[derive(Clone, Copy, PartialEq)]
    enum Servers {
        Confirm,
        Refuse,
        Expired,
    }

    struct Session {
        servers: Mutex<Servers>,
        answer_after: Duration,
        renewals: AtomicU64,
        loss: watch::Sender<bool>,
    }

    impl Session {
        fn with(servers: Servers) -> Arc<Self> {
            let (loss, answer_after) = (watch::channel(false).0, Duration::from_millis(200));
            Arc::new(Self { servers: Mutex::new(servers), answer_after, renewals: AtomicU64::new(0), loss })
        }
    }

    impl Held for Arc<Session> {
        type Error = &'static str;

        async fn renew(&self, _: Duration) -> Result<u64, &'static str> {
            self.renewals.fetch_add(1, SeqCst);
            sleep(self.answer_after).await;
            match *self.servers.lock().unwrap() {
                Servers::Confirm => Ok(TTL_MS),
                Servers::Refuse => Err("no quorum"),
                Servers::Expired => Err("expired"),
            }
        }

        fn is_over(error: &&'static str) -> bool {
            *error == "expired"
        }

        async fn lost(&self) -> String {
            let mut loss = self.loss.subscribe();
            loss.wait_for(|lost| *lost).await.unwrap();
            "it was broken".to_owned()
        }
    }

    async fn lease(session: &Arc<Session>, clock: &Arc<Boottime>, sent: Tick) -> Result<Lease, &'static str> {
        let term = Term { ttl_ms: TTL_MS, sent, left_ms: TTL_MS };
        Lease::keep(Arc::clone(session), Arc::clone(clock) as Arc<dyn Clock>, term).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_confirmed_lasts_and_is_counted_from_when_it_was_asked_for() {
        let (session, clock) = (Session::with(Servers::Confirm), clock());
        let lease = lease(&session, &clock, clock.now()).await.unwrap();
        sleep(Duration::from_millis(1_201)).await;
        assert_eq!(lease.believed_until(), believed_until(Tick(1_000), TTL_MS), "not from the answer at 1,200 ms");
        sleep(Duration::from_secs(60)).await;
        assert!(lease.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_nobody_confirms_is_given_up_before_its_term_is_over_and_with_notice() {
        let (session, clock) = (Session::with(Servers::Refuse), clock());
        let lease = lease(&session, &clock, clock.now()).await.unwrap();
        assert_eq!(lease.lost_within(Duration::from_secs(1)).await, UNCONFIRMED);
        assert_eq!((clock.now(), lease.is_held()), (Tick(1_960), true));
        assert_eq!(lease.lost_within(Duration::ZERO).await, UNCONFIRMED);
        assert_eq!((clock.now(), lease.is_held()), (Tick(2_960), false));
        assert!(session.renewals.load(SeqCst) > 3, "it was tried again and again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_over_or_taken_away_is_lost_at_once() {
        let (session, clock) = (Session::with(Servers::Expired), clock());
        let expired = lease(&session, &clock, clock.now()).await.unwrap();
        assert_eq!(expired.lost_within(Duration::ZERO).await, "expired");
        let session = Session::with(Servers::Confirm);
        let broken = lease(&session, &clock, clock.now()).await.unwrap();
        session.loss.send_replace(true);
        assert_eq!(broken.lost_within(Duration::ZERO).await, "it was broken");
        assert!(!broken.is_held() && broken.believed_until() > clock.now());
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_suspend_counts() {
        let (session, clock) = (Session::with(Servers::Confirm), clock());
        let lease = lease(&session, &clock, clock.now()).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        clock.suspended_ms.store(60_000, SeqCst);
        assert!(!lease.is_held());
        assert_eq!(lease.lost_within(Duration::ZERO).await, UNCONFIRMED);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_wait_a_lease_is_confirmed_before_it_is_believed_in() {
        let (session, clock) = (Session::with(Servers::Confirm), clock());
        sleep(Duration::from_secs(60)).await;
        let lease = lease(&session, &clock, Tick(0)).await.unwrap();
        assert!(lease.is_held());
        assert_eq!(lease.believed_until(), believed_until(Tick(60_000), TTL_MS));
        *session.servers.lock().unwrap() = Servers::Refuse;
        assert_eq!(super::tests::lease(&session, &clock, Tick(0)).await.unwrap_err(), "no quorum");
    }

    #[test]
    fn only_what_happens_to_exactly_this_grant_ends_it() {
        let id = |text: &str| SessionId::new(text).unwrap();
        let grant = HeldGrant { lock: LockName::new("a").unwrap(), session: id("s"), token: FencingToken(7) };
        assert!(grant.ended_by(Loss::Broken, &id("s"), Some(FencingToken(7))).is_some());
        assert_eq!(grant.ended_by(Loss::Expired, &id("other"), None), None);
        assert_eq!(grant.ended_by(Loss::Released, &id("s"), Some(FencingToken(6))), None, "an earlier grant");
        assert!(grant.is_among([(&id("o"), FencingToken(1)), (&id("s"), FencingToken(7))]));
        assert!(!grant.is_among([(&id("s"), FencingToken(8))]));
    }
}
