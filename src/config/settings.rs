//! The table of all settings. What it does not list does not exist.
//!
//! Data only. Flags, `.env.example`, `config show`, help texts and range checks all derive from it.

use std::fmt;

use super::values::{CacheCutOff, CacheProtocol, CacheWritePolicy, LockReads, LogFormat, Switch};

/// The unit of a setting that is a duration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeUnit {
    /// Milliseconds.
    Ms,
    /// Seconds.
    S,
}

impl TimeUnit {
    /// As it is written behind a number.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ms => "ms",
            Self::S => "s",
        }
    }

    /// Milliseconds in one of it.
    pub const fn in_ms(self) -> u64 {
        match self {
            Self::Ms => 1,
            Self::S => 1000,
        }
    }
}

/// What a list of addresses is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressUse {
    /// This node listens on them: IP addresses without a peer id.
    Listen,
    /// Somebody dials them: DNS names and peer ids are allowed, port 0 is not.
    Dial,
}

/// What a setting may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A duration from `min` to `max`, in `unit`.
    Duration {
        /// The unit of a number without a suffix, and of the range.
        unit: TimeUnit,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A whole number from `min` to `max`.
    Count {
        /// What is counted.
        unit: &'static str,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// One of these words, in upper or lower case.
    WordAnyCase(&'static [&'static str]),
    /// A list of roles.
    Roles,
    /// A list of multiaddrs.
    Addresses(AddressUse),
    /// `host:port`.
    HostPort,
    /// A path of the file system.
    Path,
    /// A name for people, of at most [`MAX_TEXT_BYTES`] bytes.
    Text,
    /// A bearer token.
    Token,
    /// The URL of a Redis server.
    RedisUrl,
    /// Directives of `tracing`.
    LogFilter,
}

/// Most bytes of a [`Kind::Text`].
pub const MAX_TEXT_BYTES: usize = 128;

/// What a setting is that nobody gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallback {
    /// This, written as one would write it.
    Value(&'static str),
    /// Nothing.
    Unset,
    /// What follows from other settings or the surroundings, in words.
    Derived(&'static str),
}

/// Whether a setting belongs to one node or tunes all of them alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The same on every node; an active line of `.env.example`; read by `dev`.
    Tuning,
    /// Roles, addresses, paths, peers of one node; a comment in `.env.example`; not read by `dev`.
    PerNode,
}

/// What of a setting may be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Secrecy {
    /// All of it.
    Public,
    /// Nothing of it.
    Secret,
    /// All but the password and the values of the query in the URL.
    UrlPassword,
}

/// One setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The variable of the environment.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it is by default.
    pub fallback: Fallback,
    /// Whose it is.
    pub scope: Scope,
    /// What of it may be shown.
    pub secrecy: Secrecy,
    /// A flag of fewer letters that means the same.
    pub short_flag: Option<&'static str>,
    /// What it does, in one line.
    pub description: &'static str,
}

impl Setting {
    /// The name of the flag, without the dashes.
    pub fn flag(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }

    /// The unit of its number; `None` where it is no number.
    pub fn unit(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Duration { unit, .. } => Some(unit.as_str()),
            Kind::Count { unit, .. } => Some(unit),
            _ => None,
        }
    }

    /// Whether it holds several values, so that its flag may be repeated.
    pub fn is_list(&self) -> bool {
        matches!(self.kind, Kind::Roles | Kind::Addresses(_))
    }

    /// The range or the words, in brief; `None` where only [`accepted`](Self::accepted) can tell.
    pub fn range(&self) -> Option<String> {
        match self.kind {
            Kind::Duration { min, max, .. } | Kind::Count { min, max, .. } => Some(format!("{min} to {max}")),
            Kind::Word(words) | Kind::WordAnyCase(words) => Some(words.join(" or ")),
            _ => None,
        }
    }

    /// What would be accepted, for people.
    pub fn accepted(&self) -> String {
        match self.kind {
            Kind::Duration { unit, min, max } => {
                format!("{min} to {max} {}, as a whole number or with a suffix ms, s, m, h or d", unit.as_str())
            }
            Kind::Count { min, max, .. } => format!("a whole number from {min} to {max}"),
            Kind::Word(words) => words.join(" or "),
            Kind::WordAnyCase(words) => format!("{}, in upper or lower case", words.join(" or ")),
            Kind::Roles => "a list of lock-manager, queue-node, cache-node, bootstrap, separated by commas".into(),
            Kind::Addresses(AddressUse::Listen) => {
                "a list of multiaddrs such as /ip4/0.0.0.0/tcp/4001 or /ip6/::/udp/4001/quic-v1, separated by commas"
                    .into()
            }
            Kind::Addresses(AddressUse::Dial) => {
                "a list of multiaddrs such as /dns4/node-1/tcp/4001 or /ip4/10.0.0.7/tcp/4001/p2p/12D3KooW…, \
                 separated by commas"
                    .into()
            }
            Kind::HostPort => "host:port, such as 127.0.0.1:8080 or [::]:8080".into(),
            Kind::Path => "a path".into(),
            Kind::Text => format!("1 to {MAX_TEXT_BYTES} bytes without control characters"),
            Kind::Token => "visible ASCII characters without spaces".into(),
            Kind::RedisUrl => "a URL such as redis://127.0.0.1:6379/0 (without TLS)".into(),
            Kind::LogFilter => "directives such as info or warn,syncmesh=debug".into(),
        }
    }

    const fn secret(mut self, secrecy: Secrecy) -> Self {
        self.secrecy = secrecy;
        self
    }

    const fn short(mut self, flag: &'static str) -> Self {
        self.short_flag = Some(flag);
        self
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(text) | Self::Derived(text) => f.write_str(text),
            Self::Unset => f.write_str("unset"),
        }
    }
}

const fn tuning(name: &'static str, kind: Kind, fallback: Fallback, description: &'static str) -> Setting {
    let secrecy = Secrecy::Public;
    Setting { name, kind, fallback, scope: Scope::Tuning, secrecy, short_flag: None, description }
}

const fn per_node(name: &'static str, kind: Kind, fallback: Fallback, description: &'static str) -> Setting {
    let secrecy = Secrecy::Public;
    Setting { name, kind, fallback, scope: Scope::PerNode, secrecy, short_flag: None, description }
}

const fn ms(min: u64, max: u64) -> Kind {
    Kind::Duration { unit: TimeUnit::Ms, min, max }
}

const fn s(min: u64, max: u64) -> Kind {
    Kind::Duration { unit: TimeUnit::S, min, max }
}

const fn count(unit: &'static str, min: u64, max: u64) -> Kind {
    Kind::Count { unit, min, max }
}

use Fallback::{Derived, Unset, Value};

const HOUR_MS: u64 = 3_600_000;
const DAY_S: u64 = 86_400;
const YEAR_S: u64 = 365 * DAY_S;
const MIB: u64 = 1 << 20;

/// Most voters of the Raft group, hence most lock managers that can found it together.
pub const MAX_VOTERS: u64 = 7;

/// Every setting, in the order in which they are shown. One line each, so that it reads as a table.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    tuning("ELECTION_TIMEOUT_MIN", ms(10, HOUR_MS), Value("300"), "shortest Raft election timeout; each is drawn at random from here up to ELECTION_TIMEOUT_MAX"),
    tuning("ELECTION_TIMEOUT_MAX", ms(10, HOUR_MS), Value("600"), "longest Raft election timeout"),
    tuning("HEARTBEAT_INTERVAL", ms(1, HOUR_MS), Value("60"), "how often the Raft leader sends heartbeats; at most a third of ELECTION_TIMEOUT_MIN"),
    tuning("FAILURE_TIMEOUT", ms(10, HOUR_MS), Value("2000"), "silence after which a member is down; the member lease is 0.65 of it, as the cluster was founded"),
    tuning("MEMBER_DEAD_TIMEOUT", s(1, YEAR_S), Value("60"), "after which a dead voter loses its vote, if the rest keeps a quorum, and a dead replica is replaced"),
    tuning("MEMBER_FORGET_TIMEOUT", s(1, YEAR_S), Value("86400"), "after which a dead member is no longer listed"),
    tuning("LOCK_DELAY", ms(0, HOUR_MS), Value("0"), "how long a lock stays closed after its holder was lost, not after a release"),
    tuning("LOCK_READS", Kind::Word(LockReads::WORDS), Value("index"), "how linearizable reads are confirmed: by a quorum round (index) or by the leader's lease (lease)"),
    tuning("QUEUE_REPLICAS", count("count", 1, 7), Value("2"), "copies of each message, the primary's included"),
    tuning("QUEUE_MIN_IN_SYNC", count("count", 1, 7), Derived("QUEUE_REPLICAS - 1, at least 1"), "publishes are refused below so many in-sync copies"),
    tuning("QUEUE_PARTITIONS", count("count", 1, 1024), Value("64"), "partitions of the queues; read at founding only"),
    tuning("QUEUE_BATCH_SIZE", count("count", 1, 1_000_000), Value("256"), "most messages in one replication and journal batch"),
    tuning("MESSAGE_RETENTION_PERIOD", s(1, 100 * YEAR_S), Value("345600"), "how long an unconsumed message is kept"),
    tuning("MAX_VALUE_BYTES", count("bytes", 1, 64 * MIB), Value("1048576"), "most bytes of one message or cache value"),
    tuning("MAX_BATCH_BYTES", count("bytes", 1, 256 * MIB), Value("8388608"), "most bytes of one batch; at least MAX_VALUE_BYTES"),
    tuning("CACHE_CAPACITY", count("entries", 1, 1_000_000_000), Value("10000"), "lines that a node's cache holds"),
    tuning("CACHE_PROTOCOL", Kind::WordAnyCase(CacheProtocol::WORDS), Value("MESI"), "coherence protocol of the caches; all nodes of a cluster must agree"),
    tuning("CACHE_WRITE_POLICY", Kind::Word(CacheWritePolicy::WORDS), Value("back"), "whether a store in M or E is acknowledged locally (back) or by the home too (through); all nodes of a cluster must agree"),
    tuning("CACHE_LEASE", ms(10, HOUR_MS), Value("2000"), "session lease between a cache and a home; two thirds of it must exceed 0.65 FAILURE_TIMEOUT; read at founding only"),
    tuning("CACHE_CUT_OFF", Kind::Word(CacheCutOff::WORDS), Value("unavailable"), "what a read gets that can reach no home"),
    per_node("NODE_ROLES", Kind::Roles, Value("lock-manager,queue-node,cache-node"), "roles of this node; bootstrap alone is a gateway without data").short("role"),
    per_node("BOOTSTRAP_PEERS", Kind::Addresses(AddressUse::Dial), Unset, "where to find a cluster, with or without /p2p/…; DNS names are allowed").short("bootstrap"),
    per_node("BOOTSTRAP_EXPECT", count("count", 1, MAX_VOTERS), Unset, "given to exactly one node: it founds the cluster once so many lock managers are there, itself included if it is one"),
    tuning("CLUSTER_NAME", Kind::Text, Value("default"), "name of the cluster; nodes of another name are refused"),
    per_node("CLUSTER_KEY_FILE", Kind::Path, Derived("bootstrap/cluster.key where it exists"), "the cluster's pre-shared key, readable by its owner only; `syncmesh init` makes one"),
    per_node("MDNS", Kind::Word(Switch::WORDS), Value("on"), "discovery on the local network"),
    per_node("LISTEN_ADDRS", Kind::Addresses(AddressUse::Listen), Derived("/ip4/0.0.0.0/tcp/4001 and, without a cluster key, /ip4/0.0.0.0/udp/4001/quic-v1"), "where libp2p listens; port 0 lets the system choose").short("listen"),
    per_node("ANNOUNCE_ADDRS", Kind::Addresses(AddressUse::Dial), Unset, "addresses to tell others when they differ from the listeners"),
    per_node("API_ADDR", Kind::HostPort, Value("127.0.0.1:8080"), "where the HTTP API and the dashboard listen; port 0 lets the system choose"),
    tuning("API_TOKEN", Kind::Token, Unset, "bearer token that /v1 then demands; set one wherever API_ADDR is not loopback").secret(Secrecy::Secret),
    per_node("DATA_DIR", Kind::Path, Value("./data"), "identity, Raft log, snapshots, embedded journal"),
    per_node("DATA_SLOTS", Kind::Word(Switch::WORDS), Value("off"), "on: the node takes the first free slot-N directory in DATA_DIR, from slot-0"),
    per_node("REDIS_URL", Kind::RedisUrl, Unset, "the queue's journal; unset: the embedded journal in DATA_DIR").secret(Secrecy::UrlPassword),
    tuning("SHUTDOWN_GRACE", s(0, DAY_S), Value("25"), "how long a node drains after SIGTERM"),
    tuning("LOG_FORMAT", Kind::Word(LogFormat::WORDS), Derived("text on a terminal, else json"), "how log lines look, on stderr"),
    tuning("RUST_LOG", Kind::LogFilter, Value("info"), "which log lines there are: a level, which leaves out what libraries say below warnings, or directives such as warn,syncmesh=debug, which stand as they are"),
];

/// The setting of that name.
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_flags_are_unique_and_short_ones_belong_to_lists() {
        let mut seen = BTreeSet::new();
        for setting in SETTINGS {
            assert!(seen.insert(setting.flag()), "{} stands twice in the table", setting.name);
            if let Some(short) = setting.short_flag {
                assert!(seen.insert(short.to_owned()), "--{short} is taken");
                assert!(setting.is_list(), "--{short} is to repeat");
            }
        }
    }

    #[test]
    fn descriptions_are_one_line_without_a_full_stop() {
        for setting in SETTINGS {
            assert!(!setting.description.contains('\n') && !setting.description.ends_with('.'), "{}", setting.name);
        }
    }
}
