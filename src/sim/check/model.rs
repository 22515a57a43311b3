//! What one lock may answer: its sequential specification.
//!
//! Operations of unknown outcome take effect where they can and are no-ops elsewhere, so they are
//! possible at any time; so is the end of a session.

use std::collections::{BTreeMap, BTreeSet};

use crate::{ids::FencingToken, machine::lock::Mode};

/// Which session, in the order of appearance at the lock.
pub(super) type Who = u16;

/// Which acquire, and which attempt of it.
pub(super) type Attempt = (usize, u32);

/// Something that may have happened to a lock, with the answer that was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Op {
    Granted { who: Who, mode: Mode, token: FencingToken },
    Held { who: Who, holders: Vec<Who> },
    Deadlock,
    Released { who: Who },
    NotHolder { who: Who },
    Dead { who: Who },
    Shown { mode: Option<Mode>, holders: BTreeMap<Who, FencingToken> },
    End { who: Who },
    MaybeAcquired { who: Who, mode: Mode, ask: Attempt },
    MaybeSurrendered { who: Who, ask: Attempt },
    MaybeReleased { who: Who },
}

impl Op {
    /// Whose it is, where it is one session's.
    pub(super) fn who(&self) -> Option<Who> {
        match self {
            Self::Granted { who, .. }
            | Self::Held { who, .. }
            | Self::Released { who }
            | Self::NotHolder { who }
            | Self::Dead { who }
            | Self::End { who }
            | Self::MaybeAcquired { who, .. }
            | Self::MaybeSurrendered { who, .. }
            | Self::MaybeReleased { who } => Some(*who),
            Self::Deadlock | Self::Shown { .. } => None,
        }
    }
}

/// One session's hold of the lock.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Hold {
    mode: Mode,
    /// `None`: nobody has been told of it.
    token: Option<FencingToken>,
    /// The acquire without an answer that got it, as long as its session was not told of the grant.
    unheard: Option<Attempt>,
    /// What the session held before an upgrade that it was not told of, and holds again if that is surrendered.
    weaker: Option<Box<Hold>>,
}

impl Hold {
    /// One that its session was told of.
    fn told(mode: Mode, token: FencingToken) -> Self {
        Self { mode, token: Some(token), unheard: None, weaker: None }
    }
}

/// The state of one lock.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Lock {
    pub(super) holds: BTreeMap<Who, Hold>,
    pub(super) dead: BTreeSet<Who>,
    pub(super) last_token: FencingToken,
}

impl Lock {
    fn admits(&self, who: Who, mode: Mode) -> bool {
        let compatible = |hold: &Hold| mode == Mode::Shared && hold.mode == Mode::Shared;
        !self.dead.contains(&who) && self.holds.iter().all(|(holder, hold)| *holder == who || compatible(hold))
    }

    /// Whether a session could have been granted this with this token; if so, it holds it now.
    fn grant(&mut self, who: Who, mode: Mode, token: FencingToken) -> bool {
        if let Some(hold) = self.holds.get_mut(&who).filter(|hold| hold.mode == mode) {
            let same = hold.token.is_none_or(|known| known == token);
            *hold = Hold::told(mode, token);
            self.last_token = self.last_token.max(token);
            return same;
        }
        // An upgrade, or a lock that was not held: a token of its own.
        let fresh = self.admits(who, mode) && token > self.last_token;
        if fresh {
            self.last_token = token;
            self.holds.insert(who, Hold::told(mode, token));
        }
        fresh
    }

    fn grant_unheard(&mut self, who: Who, mode: Mode, ask: Attempt) {
        let has_it = self.holds.get(&who).is_some_and(|hold| hold.mode == Mode::Exclusive || hold.mode == mode);
        if !has_it && self.admits(who, mode) {
            let weaker = self.holds.remove(&who).map(Box::new);
            self.holds.insert(who, Hold { mode, token: None, unheard: Some(ask), weaker });
        }
    }

    /// What this acquire got is given back, where nobody was told of it.
    fn surrender(&mut self, who: Who, ask: Attempt) {
        let Some(mut hold) = self.holds.remove(&who) else { return };
        hold.weaker.take_if(|weaker| weaker.unheard == Some(ask));
        let left = if hold.unheard == Some(ask) { hold.weaker.map(|weaker| *weaker) } else { Some(hold) };
        if let Some(left) = left {
            self.holds.insert(who, left);
        }
    }

    fn show(&mut self, mode: Option<Mode>, holders: &BTreeMap<Who, FencingToken>) -> bool {
        let held = self.holds.values().next().map(|hold| hold.mode);
        if held != mode || !self.holds.keys().eq(holders.keys()) {
            return false;
        }
        for (hold, token) in self.holds.values_mut().zip(holders.values()) {
            if hold.token.is_some_and(|known| known != *token) {
                return false;
            }
            hold.token = Some(*token);
            self.last_token = self.last_token.max(*token);
        }
        true
    }

    /// Whether this could have been answered now; if so, it has happened now.
    pub(super) fn apply(&mut self, op: &Op) -> bool {
        match op {
            Op::Granted { who, mode, token } => self.grant(*who, *mode, *token),
            Op::Held { who, holders } => {
                let others = holders.iter().any(|holder| holder != who);
                others && !self.dead.contains(who) && holders.iter().all(|holder| self.holds.contains_key(holder))
            }
            Op::Deadlock => true,
            Op::Released { who } => self.holds.remove(who).is_some(),
            Op::NotHolder { who } => !self.holds.contains_key(who),
            Op::Dead { who } => self.dead.contains(who),
            Op::Shown { mode, holders } => self.show(*mode, holders),
            Op::End { who } => {
                self.holds.remove(who);
                self.dead.insert(*who);
                true
            }
            Op::MaybeAcquired { who, mode, ask } => {
                self.grant_unheard(*who, *mode, *ask);
                true
            }
            Op::MaybeSurrendered { who, ask } => {
                self.surrender(*who, *ask);
                true
            }
            Op::MaybeReleased { who } => {
                self.holds.remove(who);
                true
            }
        }
    }
}
