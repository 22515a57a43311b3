//! The ranges of what an application may ask (API.md, "Ranges"), checked in one place for HTTP and
//! library alike.

use std::{collections::BTreeSet, ops::RangeInclusive};

use super::locks::{IdempotencyKey, PageRequest};
use crate::{error::Error, machine::lock::Want};

/// Term of a session, in milliseconds.
pub(super) const TTL_MS: RangeInclusive<u64> = 500..=3_600_000;
/// Term of a session for which none is asked, in milliseconds.
pub(crate) const DEFAULT_TTL_MS: u64 = 30_000;
/// How long a request may wait for a lock, in milliseconds.
pub(super) const WAIT_MS: RangeInclusive<u64> = 0..=600_000;
/// How long a node that leaves may take to hand its duties over, in milliseconds.
pub(super) const LEAVE_DEADLINE_MS: RangeInclusive<u64> = 1_000..=86_400_000;
/// How long a lock may stay closed after its holder was lost, in milliseconds.
pub(super) const LOCK_DELAY_MS: RangeInclusive<u64> = 0..=3_600_000;
/// Locks in one multi-acquire.
const WANTS: RangeInclusive<usize> = 1..=64;
/// Items in one page of a list.
const PAGE: RangeInclusive<usize> = 1..=1_000;
/// Most bytes in the name of a session's owner.
const MAX_OWNER_BYTES: usize = 512;
/// Most bytes in an idempotency key.
const MAX_KEY_BYTES: usize = 255;

/// A number outside its range is a bad request that names the field and the range.
pub(super) fn check_range(field: &str, value: u64, range: RangeInclusive<u64>) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = (range.start(), range.end());
    Err(Error::bad_request(field, format!("{field} is {value}: expected {least} to {most}")))
}

pub(super) fn check_owner(owner: &str) -> Result<(), Error> {
    if owner.len() <= MAX_OWNER_BYTES {
        return Ok(());
    }
    Err(Error::bad_request("owner", format!("owner has {} bytes: at most {MAX_OWNER_BYTES} are allowed", owner.len())))
}

pub(super) fn check_key(key: Option<&IdempotencyKey>) -> Result<(), Error> {
    match key {
        Some(key) if key.key.is_empty() || key.key.len() > MAX_KEY_BYTES => Err(Error::bad_request(
            "Idempotency-Key",
            format!("the idempotency key has {} bytes: expected 1 to {MAX_KEY_BYTES}", key.key.len()),
        )),
        _ => Ok(()),
    }
}

pub(super) fn check_wants(wants: &[Want]) -> Result<(), Error> {
    if !WANTS.contains(&wants.len()) {
        let (least, most) = (WANTS.start(), WANTS.end());
        let detail = format!("{} locks are named: expected {least} to {most}", wants.len());
        return Err(Error::bad_request("locks", detail));
    }
    let mut names = BTreeSet::new();
    match wants.iter().find(|want| !names.insert(&want.lock)) {
        Some(twice) => Err(Error::bad_request("locks", format!("the lock '{}' is named twice", twice.lock))),
        None => Ok(()),
    }
}

pub(super) fn check_page(page: &PageRequest) -> Result<(), Error> {
    if PAGE.contains(&page.limit) {
        return Ok(());
    }
    let (least, most) = (PAGE.start(), PAGE.end());
    Err(Error::bad_request("limit", format!("limit is {}: expected {least} to {most}", page.limit)))
}
