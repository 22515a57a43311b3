//! What leaves: evictions, and the write-back buffer in which an owned line stays until somebody has it.

use super::{
    Effect, Lines,
    entry::{Buffered, Line},
};
use crate::{
    ids::{CacheKey, Tick},
    machine::cache::{HomeRequest, LineAct, LineEvent, LineId, LineState, Nonce, line_move},
};

impl Lines {
    pub(super) fn evict(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<Effect>) {
        if let Some(line) = self.keys.get_mut(key).and_then(|entry| entry.line.as_mut()) {
            line.evict = true;
            self.settle(now, key, effects);
        }
    }

    /// A line that has to make room goes as soon as nothing needs it.
    pub(super) fn evict_if_asked(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<Effect>) {
        let Some(entry) = self.keys.get(key) else { return };
        let Some(line) = entry.line.as_ref().filter(|line| line.evict && line.through.is_none()) else { return };
        if !entry.pending.is_empty() || entry.open.is_some() {
            return;
        }
        let (held, state) = (line.held, line.state);
        let Some(line_move) = line_move(self.settings.protocol, state, LineEvent::Evict) else { return };
        let Some(line) = self.drop_line(key, effects) else { return };
        if line_move.act == LineAct::PutS {
            let line = LineId { key: key.clone(), epoch: held.epoch };
            self.tell_home(now, held.home, HomeRequest::PutS { line, grant: held.grant }, effects);
        } else {
            self.keep_in_buffer(key, &line, Some(now));
            self.put_again(now, key, effects);
        }
    }

    /// An owned line goes to the buffer: to be Put from `put_at` on, or, where its home is none any more, to be asked
    /// for by the next one.
    pub(super) fn keep_in_buffer(&mut self, key: &CacheKey, line: &Line, put_at: Option<Tick>) {
        let state = match line.state {
            LineState::E => LineState::EI,
            LineState::O => LineState::OI,
            LineState::M => LineState::MI,
            _ => return,
        };
        if line.unknown {
            return;
        }
        let buffered = Buffered {
            state,
            stamp: line.stamp,
            value: line.value.clone(),
            dirty: line.dirty,
            held: line.held,
            surrendered: false,
            released: false,
            offered: None,
            put_at,
        };
        self.entry(key).buffer.insert(line.held.grant, buffered);
    }

    /// Puts what is due.
    pub(super) fn put_again(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<Effect>) {
        let retry_ms = self.settings.retry_ms;
        let Some(entry) = self.keys.get_mut(key) else { return };
        let mut puts = Vec::new();
        for (grant, kept) in &mut entry.buffer {
            if kept.put_at.is_some_and(|at| at <= now) {
                kept.put_at = Some(now.plus_ms(retry_ms));
                kept.released = true;
                let value = kept.dirty.then(|| kept.value.sent(now));
                puts.push((*grant, kept.held, kept.stamp, value));
            }
        }
        for (grant, held, stamp, value) in puts {
            let line = LineId { key: key.clone(), epoch: held.epoch };
            let body = HomeRequest::Put { line, grant, stamp, value };
            self.ask_home(now, held.home, Some((key, grant)), body, effects);
        }
    }

    /// A line was surrendered: what is dirty stays until its PutAck (R16).
    pub(super) fn keep_surrendered(&mut self, now: Tick, key: &CacheKey, line: &Line) {
        let put_at = now.plus_ms(self.settings.put_after_ms);
        self.keep_in_buffer(key, line, Some(put_at));
        self.mark_surrendered(key, line.held.grant);
    }

    pub(super) fn mark_surrendered(&mut self, key: &CacheKey, grant: Nonce) {
        if let Some(kept) = self.entry(key).buffer.get_mut(&grant) {
            (kept.surrendered, kept.released) = (true, true);
        }
    }
}
