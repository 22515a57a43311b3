//! In what condition this node's journals are, as others are told: their kind, how safe they are, and whether they
//! can be written.
//!
//! Owned by the [keeper](super); its [`Journals`] are read by this node's status and readiness, its [`OwnJournal`] goes
//! to the leader, and so to everybody's `status`. Each change of the latter is an entry of the log: it is looked at
//! every few seconds, and what is over sooner is not told.

use std::sync::Arc;

use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::Journals;
use crate::{
    clock::Clock,
    ids::{JournalId, PartitionId},
    machine::membership::{JournalAway, JournalSafety},
    node::control::OwnJournal,
    store::{AWAY_AFTER, JournalHealth, JournalInfo},
};

/// What is told of the journals.
#[derive(Debug)]
pub(super) struct Condition {
    own: watch::Sender<Option<OwnJournal>>,
    journals: watch::Sender<Journals>,
    clock: Arc<dyn Clock>,
    /// Since when they cannot be written.
    away: Option<(Instant, JournalAway)>,
}

impl Condition {
    pub(super) fn new(
        own: watch::Sender<Option<OwnJournal>>,
        journals: watch::Sender<Journals>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { own, journals, clock, away: None }
    }

    /// They could not be opened yet.
    pub(super) fn not_opened(&mut self, reason: String) {
        self.journals.send_replace(Journals { trouble: Some(reason.clone()), ..Journals::default() });
        self.is_away(reason);
        let away = self.away.as_ref().map(|(_, away)| away.clone());
        let safety = JournalSafety { away, ..JournalSafety::default() };
        self.tell(OwnJournal { id: None, safety });
    }

    /// They are open.
    pub(super) fn opened(&mut self, id: JournalId, info: JournalInfo) {
        self.away = None;
        warn_unless_durable(&info);
        let safety =
            JournalSafety { durable: info.durable, shared_fate: info.shared_fate.clone(), ..JournalSafety::default() };
        self.journals.send_replace(Journals { info: Some(info), ..Journals::default() });
        self.tell(OwnJournal { id: Some(id), safety });
    }

    /// Whether they can be written has changed.
    pub(super) fn health(&mut self, health: &JournalHealth) {
        let trouble = match health {
            JournalHealth::Well => None,
            JournalHealth::Away(reason) | JournalHealth::Shortened(reason) => Some(reason.clone()),
        };
        self.journals.send_modify(|journals| journals.trouble = trouble.clone());
        match trouble {
            Some(reason) => self.is_away(reason),
            None => {
                self.away = None;
                self.tell_safety(|safety| safety.away = None);
            }
        }
    }

    /// A partition is kept here no longer.
    pub(super) fn gave_up(&mut self, id: PartitionId, reason: String) {
        self.journals.send_modify(|journals| _ = journals.given_up.insert(id, reason));
        self.tell_safety(|safety| safety.given_up += 1);
    }

    /// Tells what has lasted, and what has changed under the running node.
    pub(super) fn look(&mut self, info: JournalInfo) {
        let known = self.journals.borrow().info.clone();
        if let Some(known) = known.filter(|known| *known != info) {
            self.changed(&known, info);
        }
        if let Some((since, away)) = &self.away
            && since.elapsed() >= AWAY_AFTER
        {
            let away = away.clone();
            self.tell_safety(|safety| _ = safety.away.get_or_insert(away));
        }
    }

    fn changed(&mut self, known: &JournalInfo, info: JournalInfo) {
        match (known.durable, info.durable) {
            (true, false) => warn_unless_durable(&info),
            (false, true) => info!(
                journal = %info.kind,
                detail = %info.detail,
                "what the queues acknowledge survives a loss of power here again"
            ),
            _ => {}
        }
        self.tell_safety(|safety| {
            safety.durable = info.durable;
            safety.shared_fate.clone_from(&info.shared_fate);
        });
        self.journals.send_modify(|journals| journals.info = Some(info));
    }

    fn is_away(&mut self, reason: String) {
        if self.away.is_none() {
            self.away = Some((Instant::now(), JournalAway::new(self.clock.wall(), reason)));
        }
    }

    fn tell_safety(&self, change: impl FnOnce(&mut JournalSafety)) {
        let Some(mut own) = self.own.borrow().clone() else { return };
        change(&mut own.safety);
        self.tell(own);
    }

    fn tell(&self, own: OwnJournal) {
        self.own.send_if_modified(|told| told.replace(own.clone()) != Some(own));
    }
}

fn warn_unless_durable(info: &JournalInfo) {
    if !info.durable {
        warn!(
            journal = %info.kind,
            detail = %info.detail,
            "what the queues acknowledge does not survive a loss of power here: messages can be lost"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn info(durable: bool) -> JournalInfo {
        let (detail, shared_fate) = ("Redis at a:1/0".to_owned(), Some("run".to_owned()));
        JournalInfo { kind: "redis".to_owned(), durable, detail, shared_fate }
    }

    fn condition() -> (Condition, watch::Receiver<Option<OwnJournal>>) {
        let (own, told) = watch::channel(None);
        (Condition::new(own, watch::Sender::default(), Arc::new(SystemClock)), told)
    }

    fn away(told: &watch::Receiver<Option<OwnJournal>>) -> Option<String> {
        told.borrow().as_ref()?.safety.away.as_ref().map(|away| away.reason.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_journal_that_stays_away_is_told_of_until_it_is_back() {
        let (mut condition, told) = condition();
        condition.opened(JournalId(1), info(true));
        condition.health(&JournalHealth::Away("no connection".to_owned()));
        condition.look(info(true));
        assert_eq!(away(&told), None, "it may be back in a moment");
        tokio::time::advance(AWAY_AFTER).await;
        condition.health(&JournalHealth::Away("another reason".to_owned()));
        condition.look(info(true));
        assert_eq!(away(&told).as_deref(), Some("no connection"));
        assert_eq!(condition.journals.borrow().trouble.as_deref(), Some("another reason"));
        condition.health(&JournalHealth::Well);
        assert_eq!((away(&told), condition.journals.borrow().trouble.clone()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_is_none_is_told_to_nobody() {
        let (mut condition, mut told) = condition();
        condition.opened(JournalId(1), info(true));
        told.mark_unchanged();
        condition.look(info(true));
        condition.health(&JournalHealth::Away("for a moment".to_owned()));
        condition.health(&JournalHealth::Well);
        assert!(!told.has_changed().expect("it is there"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_set_otherwise_under_the_running_node_is_told_of() {
        let (mut condition, told) = condition();
        let durable = || told.borrow().as_ref().expect("a journal").safety.durable;
        condition.opened(JournalId(1), info(true));
        condition.gave_up(PartitionId(3), "a bug".to_owned());
        condition.look(info(false));
        assert!(!durable() && !condition.journals.borrow().info.as_ref().expect("it is open").durable);
        condition.look(info(true));
        assert!(durable());
        assert_eq!(told.borrow().as_ref().expect("a journal").safety.given_up, 1, "which is a matter of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_journal_that_was_never_there_is_told_of_without_an_id() {
        let (mut condition, told) = condition();
        condition.not_opened("no connection".to_owned());
        assert_eq!((away(&told).as_deref(), told.borrow().as_ref().unwrap().id), (Some("no connection"), None));
        condition.opened(JournalId(1), info(true));
        assert_eq!((away(&told), told.borrow().as_ref().unwrap().id), (None, Some(JournalId(1))));
    }
}
