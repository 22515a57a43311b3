//! From [`Sources`] to a [`Config`], or to everything that is wrong with them.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use libp2p::Multiaddr;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::Value;

use super::{
    Config, check,
    fault::{Fault, Faults},
    key,
    parse::{
        self, addresses, count, duration, host_port, log_filter, path, redis_url, roles, small_count, text, token, word,
    },
    settings::{Fallback, Kind, SETTINGS, Secrecy, Setting, setting},
    sources::{Source, Sources},
    values::{CacheCutOff, CacheProtocol, CacheWritePolicy, HostPort, LockReads, LogFormat, REDACTED, Secret, Switch},
};
use crate::ids::Role;

/// What a setting has come to, for `config show`.
#[derive(Clone, PartialEq, Debug)]
pub struct Resolved {
    /// Which.
    pub setting: &'static Setting,
    /// Numbers in the setting's unit, lists as lists, secrets redacted, null where it is unset.
    pub value: Value,
    /// Where it came from.
    pub source: Source,
}

impl Resolved {
    /// The value as one would write it in the environment; `None` where it is unset.
    pub fn text(&self) -> Option<String> {
        match &self.value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            Value::Array(elements) => Some(elements.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
            other => Some(other.to_string()),
        }
    }
}

impl Serialize for Resolved {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Setting { name, description, .. } = *self.setting;
        let mut fields = serializer.serialize_struct("Resolved", 5)?;
        fields.serialize_field("name", name)?;
        fields.serialize_field("value", &self.value)?;
        fields.serialize_field("source", &self.source)?;
        fields.serialize_field("unit", &self.setting.unit())?;
        fields.serialize_field("description", description)?;
        fields.end()
    }
}

/// Reads all settings. The second part has one element a setting, in the order of the table.
pub(super) fn read(sources: &Sources) -> Result<(Config, Vec<Resolved>), Faults> {
    let mut reader =
        Reader { sources, faults: sources.faults().to_vec(), faulty: HashSet::new(), resolved: Vec::new() };
    let config = reader.config();
    let Reader { mut faults, faulty, mut resolved, .. } = reader;
    resolved.sort_by_key(|resolved| SETTINGS.iter().position(|setting| setting.name == resolved.setting.name));
    faults.extend(check::contradictions(&config, &resolved, &faulty));
    if faults.is_empty() { Ok((config, resolved)) } else { Err(Faults(faults)) }
}

/// Reads one setting without looking at the others: for clients, which need no whole configuration.
pub(super) fn read_one<T: Shown>(sources: &Sources, name: &'static str, parse: Parse<T>) -> Result<Option<T>, Faults> {
    let mut reader = Reader { sources, faults: Vec::new(), faulty: HashSet::new(), resolved: Vec::new() };
    let value = reader.optional(name, parse);
    if reader.faults.is_empty() { Ok(value) } else { Err(Faults(reader.faults)) }
}

type Parse<T> = fn(&Setting, &str) -> Result<T, String>;

struct Reader<'a> {
    sources: &'a Sources,
    faults: Vec<Fault>,
    /// The settings whose own value is at fault: contradictions with what stands in for it are noise.
    faulty: HashSet<&'static str>,
    resolved: Vec<Resolved>,
}

impl Reader<'_> {
    /// Every setting of the table.
    fn config(&mut self) -> Config {
        let queue_replicas = self.required("QUEUE_REPLICAS", small_count);
        let key_default = self.sources.default_key_file.clone().filter(|path| is_there(path));
        let cluster_key_file = self.or_derived("CLUSTER_KEY_FILE", path, || key_default);
        let cluster_key = cluster_key_file.as_deref().and_then(|path| match key::read(path) {
            Ok(key) => Some(key),
            Err(invalid) => {
                self.fault_of("CLUSTER_KEY_FILE", &path.display().to_string(), &invalid.to_string());
                None
            }
        });
        let keyed = if cluster_key_file.is_some() { Switch::On } else { Switch::Off };
        let log_format = self.sources.default_log_format;
        Config {
            election_timeout_min: self.required("ELECTION_TIMEOUT_MIN", duration),
            election_timeout_max: self.required("ELECTION_TIMEOUT_MAX", duration),
            heartbeat_interval: self.required("HEARTBEAT_INTERVAL", duration),
            failure_timeout: self.required("FAILURE_TIMEOUT", duration),
            member_dead_timeout: self.required("MEMBER_DEAD_TIMEOUT", duration),
            member_forget_timeout: self.required("MEMBER_FORGET_TIMEOUT", duration),
            lock_delay: self.required("LOCK_DELAY", duration),
            lock_reads: self.required("LOCK_READS", word),
            queue_replicas,
            queue_min_in_sync: self
                .or_derived("QUEUE_MIN_IN_SYNC", small_count, || Some(queue_replicas.saturating_sub(1).max(1)))
                .expect("it is derived where it is not given"),
            queue_partitions: self.required("QUEUE_PARTITIONS", small_count),
            queue_batch_size: self.required("QUEUE_BATCH_SIZE", small_count),
            message_retention_period: self.required("MESSAGE_RETENTION_PERIOD", duration),
            max_value_bytes: self.required("MAX_VALUE_BYTES", count),
            max_batch_bytes: self.required("MAX_BATCH_BYTES", count),
            cache_capacity: self.required("CACHE_CAPACITY", count),
            cache_protocol: self.required("CACHE_PROTOCOL", word),
            cache_write_policy: self.required("CACHE_WRITE_POLICY", word),
            cache_lease: self.required("CACHE_LEASE", duration),
            cache_cut_off: self.required("CACHE_CUT_OFF", word),
            node_roles: self.required("NODE_ROLES", roles),
            bootstrap_peers: self.optional("BOOTSTRAP_PEERS", addresses).unwrap_or_default(),
            bootstrap_expect: self.optional("BOOTSTRAP_EXPECT", small_count),
            cluster_name: self.required("CLUSTER_NAME", text),
            cluster_key_file,
            cluster_key,
            mdns: self.required("MDNS", word),
            listen_addrs: self
                .or_derived("LISTEN_ADDRS", addresses, || Some(default_listeners(keyed)))
                .expect("it is derived where it is not given"),
            announce_addrs: self.optional("ANNOUNCE_ADDRS", addresses).unwrap_or_default(),
            api_addr: self.required("API_ADDR", host_port),
            api_token: self.optional("API_TOKEN", token),
            data_dir: self.required("DATA_DIR", path),
            data_slots: self.required("DATA_SLOTS", word),
            redis_url: self.optional("REDIS_URL", redis_url),
            shutdown_grace: self.required("SHUTDOWN_GRACE", duration),
            log_format: self
                .or_derived("LOG_FORMAT", word, || Some(log_format))
                .expect("it is derived where it is not given"),
            rust_log: self.required("RUST_LOG", log_filter),
        }
    }

    /// A setting that has a value by default.
    fn required<T: Shown>(&mut self, name: &'static str, parse: Parse<T>) -> T {
        self.optional(name, parse).expect("the table gives it a default within its range")
    }

    /// A setting that may be unset.
    fn optional<T: Shown>(&mut self, name: &'static str, parse: Parse<T>) -> Option<T> {
        self.or_derived(name, parse, || None)
    }

    /// A setting whose default is `derive`d unless the table has one. A faulty value is replaced by the
    /// default, so that reading can go on.
    fn or_derived<T: Shown>(
        &mut self,
        name: &'static str,
        parse: Parse<T>,
        derive: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        let setting = setting(name).expect("only settings of the table are read");
        let given = self.sources.get(name).and_then(|(text, source)| match parse(setting, text) {
            Ok(value) => Some((value, source)),
            Err(expected) => {
                self.fault_of(name, text, &expected);
                None
            }
        });
        let (value, source) = match (given, setting.fallback) {
            (Some((value, source)), _) => (Some(value), source),
            (None, Fallback::Value(text)) => (parse(setting, text).ok(), Source::Default),
            (None, _) => (derive(), Source::Default),
        };
        let shown = value.as_ref().map_or(Value::Null, |value| value.shown(setting));
        self.resolved.push(Resolved { setting, value: shown, source });
        value
    }

    fn fault_of(&mut self, name: &'static str, value: &str, expected: &str) {
        let setting = setting(name).expect("only settings of the table are read");
        let source = self.sources.get(name).map_or(Source::Default, |(_, source)| source);
        self.faulty.insert(name);
        self.faults.push(Fault {
            variable: name.into(),
            value: without_secrets(setting, value),
            source: check::place(setting, source),
            expected: expected.into(),
        });
    }
}

/// Whether something has that name, though it may be out of our reach: then reading it is a fault, while
/// taking it for absent would start the node without its key.
fn is_there(path: &Path) -> bool {
    !matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// The listeners where none are named: QUIC cannot carry the cluster key.
fn default_listeners(keyed: Switch) -> Vec<Multiaddr> {
    let mut listeners = vec!["/ip4/0.0.0.0/tcp/4001"];
    if !keyed.is_on() {
        listeners.push("/ip4/0.0.0.0/udp/4001/quic-v1");
    }
    listeners.into_iter().map(|address| address.parse().expect("a well-formed constant")).collect()
}

fn without_secrets(setting: &Setting, value: &str) -> String {
    match setting.secrecy {
        Secrecy::Public => value.to_owned(),
        Secrecy::Secret => REDACTED.to_owned(),
        Secrecy::UrlPassword => parse::without_password(value),
    }
}

/// A value as `config show` shows it.
pub(super) trait Shown {
    /// Numbers in the unit of the setting, secrets redacted.
    fn shown(&self, setting: &Setting) -> Value;
}

impl Shown for Duration {
    fn shown(&self, setting: &Setting) -> Value {
        let in_ms = match setting.kind {
            Kind::Duration { unit, .. } => unit.in_ms(),
            _ => 1,
        };
        Value::from(u64::try_from(self.as_millis()).unwrap_or(u64::MAX) / in_ms)
    }
}

impl Shown for u32 {
    fn shown(&self, _: &Setting) -> Value {
        Value::from(*self)
    }
}

impl Shown for u64 {
    fn shown(&self, _: &Setting) -> Value {
        Value::from(*self)
    }
}

impl Shown for Secret {
    fn shown(&self, setting: &Setting) -> Value {
        Value::from(without_secrets(setting, self.expose()))
    }
}

impl Shown for PathBuf {
    fn shown(&self, _: &Setting) -> Value {
        Value::from(self.display().to_string())
    }
}

impl Shown for BTreeSet<Role> {
    fn shown(&self, _: &Setting) -> Value {
        self.iter().map(|role| role.as_str()).collect()
    }
}

impl Shown for Vec<Multiaddr> {
    fn shown(&self, _: &Setting) -> Value {
        self.iter().map(Multiaddr::to_string).collect()
    }
}

macro_rules! shown_as_displayed {
    ($($type:ty),+) => {
        $(impl Shown for $type {
            fn shown(&self, _: &Setting) -> Value {
                Value::from(self.to_string())
            }
        })+
    };
}

shown_as_displayed!(CacheCutOff, CacheProtocol, CacheWritePolicy, HostPort, LockReads, LogFormat, String, Switch);
