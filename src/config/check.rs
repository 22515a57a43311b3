//! Settings that are fine by themselves and contradict each other.

use std::collections::HashSet;

use super::{Config, fault::Fault, parse::is_quic, read::Resolved, settings::Setting, sources::Source};

/// The member lease is so many hundredths of `FAILURE_TIMEOUT`.
const MEMBER_LEASE_PERCENT: u128 = 65;

/// Two settings that cannot both be.
struct Contradiction {
    /// The one that has to give way.
    of: &'static str,
    /// The one that it contradicts.
    with: &'static str,
    /// What would be accepted, as text that precedes the other's name and value.
    expected: &'static str,
}

/// All contradictions, but for those that involve a setting that is faulty by itself.
pub(super) fn contradictions(config: &Config, resolved: &[Resolved], faulty: &HashSet<&'static str>) -> Vec<Fault> {
    found(config)
        .into_iter()
        .filter(|found| !faulty.contains(found.of) && !faulty.contains(found.with))
        .map(|Contradiction { of, with, expected }| {
            let find = |name| resolved.iter().find(|one| one.setting.name == name).expect("every setting is resolved");
            let (of, with) = (find(of), find(with));
            let other = format!("{}={} ({})", with.setting.name, text(with), place(with.setting, with.source));
            Fault {
                variable: of.setting.name.into(),
                value: text(of),
                source: place(of.setting, of.source),
                expected: expected.replace("{}", &other),
            }
        })
        .collect()
}

fn found(config: &Config) -> Vec<Contradiction> {
    let mut found = Vec::new();
    let mut check = |contradicts, of, with, expected| {
        if contradicts {
            found.push(Contradiction { of, with, expected });
        }
    };
    check(
        config.election_timeout_min >= config.election_timeout_max,
        "ELECTION_TIMEOUT_MIN",
        "ELECTION_TIMEOUT_MAX",
        "less than {}",
    );
    check(
        config.heartbeat_interval * 3 > config.election_timeout_min,
        "HEARTBEAT_INTERVAL",
        "ELECTION_TIMEOUT_MIN",
        "at most a third of {}",
    );
    check(config.queue_min_in_sync > config.queue_replicas, "QUEUE_MIN_IN_SYNC", "QUEUE_REPLICAS", "at most {}");
    check(config.max_value_bytes > config.max_batch_bytes, "MAX_VALUE_BYTES", "MAX_BATCH_BYTES", "at most {}");
    // 0.65 · FAILURE_TIMEOUT ≥ ⅔ · CACHE_LEASE, in whole numbers.
    check(
        3 * MEMBER_LEASE_PERCENT * config.failure_timeout.as_millis() >= 200 * config.cache_lease.as_millis(),
        "FAILURE_TIMEOUT",
        "CACHE_LEASE",
        "0.65 of it to be less than two thirds of {}",
    );
    if config.cluster_key_file.is_some() {
        for (name, addresses) in [
            ("BOOTSTRAP_PEERS", &config.bootstrap_peers),
            ("LISTEN_ADDRS", &config.listen_addrs),
            ("ANNOUNCE_ADDRS", &config.announce_addrs),
        ] {
            check(
                addresses.iter().any(is_quic),
                name,
                "CLUSTER_KEY_FILE",
                "TCP addresses only, because QUIC cannot carry the key of {}",
            );
        }
    }
    found
}

/// Where a value came from, for people.
pub(super) fn place(setting: &Setting, source: Source) -> String {
    match source {
        Source::Flag => format!("flag --{}", setting.flag()),
        Source::Environment | Source::EnvFile | Source::Default => source.as_str().to_owned(),
    }
}

fn text(resolved: &Resolved) -> String {
    resolved.text().unwrap_or_default()
}
