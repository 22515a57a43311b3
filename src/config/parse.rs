//! From the text of a setting to its value. Pure; an error is the sentence that says what would be accepted.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use libp2p::{Multiaddr, multiaddr::Protocol};
use redis::IntoConnectionInfo;
use tracing_subscriber::EnvFilter;

use super::{
    settings::{AddressUse, Kind, MAX_TEXT_BYTES, Setting, TimeUnit},
    values::{HostPort, REDACTED, Secret, Word},
};
use crate::ids::Role;

/// Most elements of a list of addresses.
const MAX_ADDRESSES: usize = 64;

/// A duration, in the setting's unit or with a suffix.
pub(super) fn duration(setting: &Setting, text: &str) -> Result<Duration, String> {
    let Kind::Duration { unit, min, max } = setting.kind else { unreachable!("{} is a duration", setting.name) };
    let ms = duration_ms(text, unit).ok_or_else(|| setting.accepted())?;
    if !ms.is_multiple_of(unit.in_ms()) {
        return Err(format!("a whole number of {}: {}", unit.as_str(), setting.accepted()));
    }
    let number = ms / unit.in_ms();
    if (min..=max).contains(&number) { Ok(Duration::from_millis(ms)) } else { Err(setting.accepted()) }
}

/// Milliseconds of a number with a suffix, or in `unit` without one.
fn duration_ms(text: &str, unit: TimeUnit) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let factor = match &text[digits..] {
        "" => unit.in_ms(),
        suffix => suffix_ms(suffix)?,
    };
    number.checked_mul(factor)
}

fn suffix_ms(suffix: &str) -> Option<u64> {
    Some(match suffix {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    })
}

/// A duration that must carry a suffix (`ms s m h d`): the flags and query parameters that are no settings.
pub fn suffixed_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("'{text}' is not a duration: expected a whole number with a suffix ms, s, m, h or d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let number: u64 = text[..digits].parse().map_err(|_| expected())?;
    let factor = suffix_ms(&text[digits..]).ok_or_else(expected)?;
    number.checked_mul(factor).map(Duration::from_millis).ok_or_else(expected)
}

/// A whole number in the setting's range.
pub(super) fn count(setting: &Setting, text: &str) -> Result<u64, String> {
    let Kind::Count { min, max, .. } = setting.kind else { unreachable!("{} is a count", setting.name) };
    let number = if text.bytes().all(|c| c.is_ascii_digit()) { text.parse::<u64>().ok() } else { None };
    number.filter(|number| (min..=max).contains(number)).ok_or_else(|| setting.accepted())
}

/// A whole number in the setting's range, which fits 32 bits.
pub(super) fn small_count(setting: &Setting, text: &str) -> Result<u32, String> {
    count(setting, text)?.try_into().map_err(|_| setting.accepted())
}

/// One of the setting's words.
pub(super) fn word<T: Word>(setting: &Setting, text: &str) -> Result<T, String> {
    let word = match setting.kind {
        Kind::WordAnyCase(_) => text.to_ascii_uppercase(),
        _ => text.to_owned(),
    };
    T::from_word(&word).ok_or_else(|| setting.accepted())
}

fn elements(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|element| !element.is_empty())
}

/// At least one role.
pub(super) fn roles(setting: &Setting, text: &str) -> Result<BTreeSet<Role>, String> {
    let roles: BTreeSet<Role> =
        elements(text).map(str::parse).collect::<Result<_, String>>().map_err(|_| setting.accepted())?;
    if roles.is_empty() { Err(format!("at least one role: {}", setting.accepted())) } else { Ok(roles) }
}

/// Addresses that the mesh can use, each named where it is at fault.
pub(super) fn addresses(setting: &Setting, text: &str) -> Result<Vec<Multiaddr>, String> {
    let Kind::Addresses(used_to) = setting.kind else { unreachable!("{} holds addresses", setting.name) };
    let mut addresses = Vec::new();
    for element in elements(text) {
        let address: Multiaddr =
            element.parse().map_err(|_| format!("{}; '{element}' is no multiaddr", setting.accepted()))?;
        check_address(&address, used_to).map_err(|why| format!("{}; '{element}' {why}", setting.accepted()))?;
        addresses.push(address);
    }
    match addresses.len() {
        0 if used_to == AddressUse::Listen => Err(format!("at least one address: {}", setting.accepted())),
        0..=MAX_ADDRESSES => Ok(addresses),
        _ => Err(format!("at most {MAX_ADDRESSES} addresses")),
    }
}

/// The transports are TCP and QUIC; `Err` says what is wrong with the address.
fn check_address(address: &Multiaddr, used_to: AddressUse) -> Result<(), &'static str> {
    let mut parts = address.iter();
    match (parts.next(), used_to) {
        (Some(Protocol::Ip4(_) | Protocol::Ip6(_)), _) => {}
        (Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)), AddressUse::Dial) => {}
        (Some(Protocol::Dnsaddr(_)), AddressUse::Dial) => return only_peer_id_follows(parts),
        (_, AddressUse::Listen) => return Err("does not begin with /ip4 or /ip6"),
        (_, AddressUse::Dial) => return Err("does not begin with /ip4, /ip6, /dns, /dns4, /dns6 or /dnsaddr"),
    }
    let port = match parts.next() {
        Some(Protocol::Tcp(port)) => port,
        Some(Protocol::Udp(port)) => match parts.next() {
            Some(Protocol::QuicV1) => port,
            _ => return Err("lacks /quic-v1 behind its UDP port"),
        },
        _ => return Err("lacks /tcp/PORT or /udp/PORT/quic-v1"),
    };
    match used_to {
        AddressUse::Dial if port == 0 => Err("has port 0, which nobody can dial"),
        AddressUse::Dial => only_peer_id_follows(parts),
        AddressUse::Listen if parts.next().is_some() => Err("goes on behind its port"),
        AddressUse::Listen => Ok(()),
    }
}

fn only_peer_id_follows<'a>(mut parts: impl Iterator<Item = Protocol<'a>>) -> Result<(), &'static str> {
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => Ok(()),
        _ => Err("has more than /p2p/PEER behind its port"),
    }
}

/// Whether an address is one of QUIC.
pub(super) fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::QuicV1 | Protocol::Quic))
}

/// `host:port`.
pub(super) fn host_port(_: &Setting, text: &str) -> Result<HostPort, String> {
    text.parse()
}

/// A path; whether it exists is somebody else's question.
pub(super) fn path(setting: &Setting, text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') { Err(setting.accepted()) } else { Ok(PathBuf::from(text)) }
}

/// A name for people.
pub(super) fn text(setting: &Setting, text: &str) -> Result<String, String> {
    let fits = (1..=MAX_TEXT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err(setting.accepted()) }
}

/// What an `Authorization` header can carry.
pub(super) fn token(setting: &Setting, text: &str) -> Result<Secret, String> {
    if text.bytes().all(|c| c.is_ascii_graphic()) { Ok(Secret::new(text)) } else { Err(setting.accepted()) }
}

/// A URL that the Redis client takes.
pub(super) fn redis_url(setting: &Setting, text: &str) -> Result<Secret, String> {
    match text.into_connection_info() {
        Ok(_) => Ok(Secret::new(text)),
        Err(_) => Err(setting.accepted()),
    }
}

/// A URL without its password, and without what its query says: servers are given passwords there too, under any name.
pub(super) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return REDACTED.into() };
    let (place, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    if query.contains('@') {
        // The beginning of a password that was not percent-encoded may be before the `?`.
        return format!("{scheme}://{REDACTED}");
    }
    let place = match place.rsplit_once('@') {
        None => place.to_owned(),
        Some((user_info, host)) => match user_info.split_once(':') {
            None => format!("{REDACTED}@{host}"),
            Some((user, _)) => format!("{user}:{REDACTED}@{host}"),
        },
    };
    format!("{scheme}://{place}{}", names_in_query(query))
}

/// `?name=value&…` without the values; what has no name is left out whole.
fn names_in_query(query: &str) -> String {
    let Some(query) = query.strip_prefix('?') else {
        return if query.is_empty() { String::new() } else { format!("#{REDACTED}") };
    };
    let redacted = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) => format!("{name}={REDACTED}"),
        None => REDACTED.to_owned(),
    });
    format!("?{}", redacted.collect::<Vec<_>>().join("&"))
}

/// Directives of `tracing`.
pub(super) fn log_filter(setting: &Setting, text: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(setting.accepted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_url_all_is_shown_but_what_may_be_a_secret() {
        for (url, shown) in [
            ("redis://host:6379/0", "redis://host:6379/0"),
            ("redis://user:s3cret@host", "redis://user:<redacted>@host"),
            ("redis://:s3:cr@t@host/0", "redis://:<redacted>@host/0"),
            ("redis://s3cret@host", "redis://<redacted>@host"),
            ("redis://host:6379?password=s3cret", "redis://host:6379?password=<redacted>"),
            ("redis://host/0?db=1&p%61ss=s3=cret&s3cret", "redis://host/0?db=<redacted>&p%61ss=<redacted>&<redacted>"),
            ("redis://user:s3cret@host?auth=s3cret#s3cret", "redis://user:<redacted>@host?auth=<redacted>"),
            ("redis://host#s3cret", "redis://host#<redacted>"),
            ("redis://host?password=s3cr@t", "redis://<redacted>"),
            ("redis://:s3?cr#t@host", "redis://<redacted>"),
            ("unix:///run/redis.sock?pass=s3cret", "unix:///run/redis.sock?pass=<redacted>"),
            ("redis:s3cret", "<redacted>"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
