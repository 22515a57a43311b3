//! Requests to homes: sent, sent again, given up.

use super::{
    Effect, Lines,
    entry::{Held, Open, Wish},
    operate::Wanting,
};
use crate::{
    ids::{CacheKey, NodeId, Tick},
    machine::cache::{HomeId, HomeRequest, LineId, Nonce, ToHome, believed_ms, rules::Rule},
};

/// A call that has no answer yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Call {
    pub(super) to: Callee,
    pub(super) sent: Tick,
    /// What it is about; `None`: a session.
    pub(super) key: Option<CacheKey>,
    /// The request or the grant that it names.
    pub(super) nonce: Nonce,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Callee {
    Home { home: HomeId, session: Nonce },
    Owner { node: NodeId, grant: Nonce },
}

impl Lines {
    pub(super) fn call(&mut self, call: Call) -> u64 {
        self.calls += 1;
        self.open.insert(self.calls, call);
        self.calls
    }

    /// Asks a home under the session of now.
    pub(super) fn ask_home(
        &mut self,
        now: Tick,
        home: HomeId,
        about: Option<(&CacheKey, Nonce)>,
        body: HomeRequest,
        effects: &mut Vec<Effect>,
    ) {
        let session = self.session_with(now, home);
        let (key, nonce) = about.map_or((None, session), |(key, nonce)| (Some(key.clone()), nonce));
        let call = self.call(Call { to: Callee::Home { home, session }, sent: now, key, nonce });
        self.asked(now, home);
        effects.push(Effect::AskHome { call, message: ToHome { home, session, body } });
    }

    /// Tells a home what it does not answer.
    pub(super) fn tell_home(&mut self, now: Tick, home: HomeId, body: HomeRequest, effects: &mut Vec<Effect>) {
        let session = self.session_with(now, home);
        effects.push(Effect::TellHome { message: ToHome { home, session, body } });
    }

    /// Opens a request for a key, in the place of one that is open. Without a home it waits for one.
    pub(super) fn request(&mut self, now: Tick, key: &CacheKey, wanting: Wanting, effects: &mut Vec<Effect>) {
        let Some((home, epoch)) = self.home_of(key) else { return };
        let session = self.session_with(now, home);
        let nonce = self.next_nonce();
        let line = self.entry(key).line.as_ref().map(|line| line.held.grant);
        let wish = match wanting {
            Wanting::Read => Wish::Read,
            Wanting::Write { need_value } => Wish::Write { held: line, need_value },
        };
        let open = Open {
            wish,
            held: Held { home, session, epoch, grant: nonce },
            sent: now,
            again_at: now.plus_ms(self.settings.patience_ms),
            minver: None,
            joinable_until: now.plus_ms(believed_ms(self.settings.lease_ms)),
        };
        self.close(key);
        self.entry(key).open = Some(Box::new(open));
        self.homes.entry(home).and_modify(|session| session.uses += 1);
        for waiting in &mut self.entry(key).pending {
            waiting.came_before = true;
        }
        self.send_open(now, key, effects);
    }

    /// Sends the open request, under its nonce.
    fn send_open(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<Effect>) {
        let patience_ms = self.settings.patience_ms;
        let entry = self.entry(key);
        let refused = entry.refused.take();
        let Some(open) = entry.open.as_mut() else { return };
        open.again_at = now.plus_ms(patience_ms);
        let Held { home, epoch, grant: nonce, .. } = open.held;
        let line = LineId { key: key.clone(), epoch };
        let body = match open.wish {
            Wish::Read => HomeRequest::GetS { line, nonce, refused },
            Wish::Write { held, need_value } => HomeRequest::GetM { line, nonce, held, need_value },
        };
        self.ask_home(now, home, Some((key, nonce)), body, effects);
    }

    /// Asks again what had no answer for long: an Upgrade of a line that is there under its nonce (R15), anything else
    /// under a new one.
    pub(super) fn ask_again(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<Effect>) {
        self.store_through_again(now, key, effects);
        let Some(entry) = self.keys.get(key) else { return };
        let Some(open) = entry.open.as_ref().filter(|open| open.again_at <= now) else { return };
        let is_upgrade = matches!(open.wish, Wish::Write { held: Some(_), .. }) && entry.line.is_some();
        if is_upgrade && self.rules.keep(Rule::UpgradeNotGivenUp) {
            self.send_open(now, key, effects);
        } else {
            self.ask_anew(now, key, effects);
        }
    }

    /// Gives the open request up, and asks under a new nonce if anybody still waits.
    pub(super) fn ask_anew(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<Effect>) {
        self.close(key);
        self.settle(now, key, effects);
    }

    /// The open request is over: who waits takes nothing from it any more.
    pub(super) fn close(&mut self, key: &CacheKey) -> Option<Open> {
        let entry = self.keys.get_mut(key)?;
        let open = entry.open.take()?;
        self.homes.entry(open.held.home).and_modify(|session| session.uses -= 1);
        for waiting in &mut entry.pending {
            if waiting.joined == Some(open.held.grant) {
                waiting.joined = None;
            }
            waiting.came_before = false;
        }
        // Who waits for nothing is not worth a request.
        entry.pending.retain(|waiting| waiting.op.is_some());
        Some(*open)
    }

    /// Whether the open request was sent once more after this moment.
    pub(super) fn is_sent_since(&self, key: &CacheKey, moment: Tick) -> bool {
        let open = self.keys.get(key).and_then(|entry| entry.open.as_ref());
        open.is_some_and(|open| moment.plus_ms(self.settings.patience_ms) < open.again_at)
    }

    /// Puts the next attempt off.
    pub(super) fn put_off(&mut self, now: Tick, key: &CacheKey, nonce: Nonce, ms: u64) {
        if let Some(open) = self.keys.get_mut(key).and_then(|entry| entry.open.as_mut())
            && open.held.grant == nonce
        {
            open.again_at = now.plus_ms(ms.max(1));
        }
    }
}
