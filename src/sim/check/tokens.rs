//! Fencing tokens: each stands for one grant, and they grow over the whole cluster in the order of
//! grants that followed each other in real time.

use std::collections::{BTreeMap, HashMap};

use super::Violation;
use crate::{
    ids::{FencingToken, LockName, SessionId},
    sim::{
        api::{Answer, Ask, Record},
        history::Moment,
    },
};

struct Grant<'a> {
    record: &'a Record,
    token: FencingToken,
    /// When the acquire began that may have drawn the token.
    drawn_after: Moment,
    returned: Moment,
}

pub(super) fn check(history: &[Record]) -> Vec<Violation> {
    let (grants, mut violations) = grants(history);
    // The greatest token heard of before a moment, for every moment at which one was heard of.
    let mut heard: BTreeMap<Moment, &Grant<'_>> = BTreeMap::new();
    let mut by_return: Vec<&Grant<'_>> = grants.iter().collect();
    by_return.sort_by_key(|grant| grant.returned);
    let mut greatest: Option<&Grant<'_>> = None;
    for grant in by_return {
        if greatest.is_none_or(|other| other.token < grant.token) {
            greatest = Some(grant);
        }
        heard.insert(grant.returned, greatest.unwrap_or(grant));
    }
    for grant in &grants {
        if let Some((_, before)) = heard.range(..grant.drawn_after).next_back()
            && before.token >= grant.token
        {
            violations.push(Violation::Token(format!(
                "{} came before {} and has no smaller token",
                before.record.tell(),
                grant.record.tell()
            )));
        }
    }
    violations
}

/// The first record of each grant, and tokens that stand for two.
fn grants(history: &[Record]) -> (Vec<Grant<'_>>, Vec<Violation>) {
    let mut firsts: HashMap<FencingToken, (&SessionId, &LockName, &Record)> = HashMap::new();
    let mut unheard: HashMap<(&SessionId, &LockName), Moment> = HashMap::new();
    let (mut grants, mut violations) = (Vec::new(), Vec::new());
    for record in history {
        let Ask::Acquire { session, lock, .. } = &record.ask else { continue };
        if record.is_unknown() {
            // A later acquire may be told of the grant that this one got.
            unheard.entry((session, lock)).or_insert(record.invoked);
        }
        let (Answer::Granted { token, .. }, Some(returned)) = (&record.answer, record.returned) else { continue };
        match firsts.get(token) {
            Some((s, l, _)) if *s == session && *l == lock => {}
            Some((_, _, first)) => violations.push(Violation::Token(format!(
                "{token:?} stands for two grants: {} and {}",
                first.tell(),
                record.tell()
            ))),
            None => {
                firsts.insert(*token, (session, lock, record));
                let drawn_after = unheard.get(&(session, lock)).copied().unwrap_or(record.invoked);
                grants.push(Grant { record, token: *token, drawn_after, returned });
            }
        }
    }
    (grants, violations)
}
