//! Configurations put together by hand: no test reads the environment of the machine it runs on.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, path::Path};

use super::{
    settings::{Fallback, SETTINGS, Scope},
    *,
};

fn given(values: &[(&str, &str)]) -> Sources {
    values.iter().fold(Sources::default(), |sources, (name, value)| sources.with(Source::Environment, name, value))
}

fn read(values: &[(&str, &str)]) -> Config {
    Config::from_sources(&given(values)).unwrap()
}

fn faults(values: &[(&str, &str)]) -> Vec<String> {
    match Config::from_sources(&given(values)) {
        Ok(_) => Vec::new(),
        Err(Faults(faults)) => faults.iter().map(Fault::to_string).collect(),
    }
}

fn key_file(directory: &Path, mode: u32) -> PathBuf {
    let path = directory.join("cluster.key");
    std::fs::write(&path, key::generate().unwrap().to_key_file()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn every_setting_of_the_table_is_read_once_and_has_its_default() {
    let resolved = Config::resolve(&Sources::default()).unwrap();
    let names: Vec<&str> = resolved.iter().map(|one| one.setting.name).collect();
    assert_eq!(names, SETTINGS.iter().map(|setting| setting.name).collect::<Vec<_>>());
    for one in &resolved {
        assert_eq!(one.source, Source::Default);
        match one.setting.fallback {
            Fallback::Value(text) => assert_eq!(one.text().as_deref(), Some(text), "{}", one.setting.name),
            Fallback::Unset => assert_eq!(one.text().unwrap_or_default(), "", "{}", one.setting.name),
            Fallback::Derived(_) => {}
        }
    }
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let all = Sources::default()
        .with_env_file("LOCK_DELAY=1\nMDNS=off\nCLUSTER_NAME=file\nSOMETHING_ELSE=1")
        .with(Source::Environment, "LOCK_DELAY", "2")
        .with(Source::Environment, "MDNS", "on")
        .with(Source::Flag, "LOCK_DELAY", "3");
    let config = Config::from_sources(&all).unwrap();
    assert_eq!(config.lock_delay, Duration::from_millis(3));
    assert_eq!(config.mdns, Switch::On);
    assert_eq!(config.cluster_name, "file");
    assert_eq!(all.get("LOCK_DELAY"), Some(("3", Source::Flag)));
    assert_eq!(all.get("CLUSTER_NAME"), Some(("file", Source::EnvFile)));
}

#[test]
fn an_empty_value_gives_way_to_the_next_source() {
    let all = Sources::default()
        .with_env_file("LOCK_DELAY=7\nNODE_ROLES=\nBOOTSTRAP_PEERS=\"\"")
        .with(Source::Environment, "LOCK_DELAY", "  ")
        .with(Source::Flag, "LOCK_DELAY", "");
    let config = Config::from_sources(&all).unwrap();
    assert_eq!(config.lock_delay, Duration::from_millis(7));
    assert_eq!(config.node_roles, BTreeSet::from([Role::LockManager, Role::QueueNode, Role::CacheNode]));
    assert!(config.bootstrap_peers.is_empty());
}

#[test]
fn durations_take_suffixes_and_must_be_whole_in_their_unit() {
    assert_eq!(read(&[("LOCK_DELAY", "2s")]).lock_delay, Duration::from_secs(2));
    assert_eq!(read(&[("SHUTDOWN_GRACE", "1000ms")]).shutdown_grace, Duration::from_secs(1));
    assert_eq!(read(&[("MESSAGE_RETENTION_PERIOD", "4d")]).message_retention_period, Duration::from_secs(345_600));
    for bad in ["1.5", "1.5s", "-1", "+1", "1 s", "ms", "1S", "1w", "99999999999999999999", "18446744073709551615d"] {
        assert_eq!(faults(&[("LOCK_DELAY", bad)]).len(), 1, "{bad}");
    }
    let not_whole = faults(&[("SHUTDOWN_GRACE", "1500ms")]);
    assert!(not_whole[0].contains("a whole number of s"), "{not_whole:?}");
}

#[test]
fn all_faults_are_reported_at_once_each_with_name_value_source_and_cure() {
    let all = Sources::default()
        .with_env_file("QUEUE_REPLICAS=9\nCACHE_PROTOCOL=MEOW")
        .with(Source::Environment, "API_ADDR", "nowhere")
        .with(Source::Flag, "ELECTION_TIMEOUT_MIN", "700");
    let Faults(faults) = Config::from_sources(&all).unwrap_err();
    let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
    assert_eq!(
        lines,
        [
            "QUEUE_REPLICAS=9 (.env): expected a whole number from 1 to 7",
            "CACHE_PROTOCOL=MEOW (.env): expected MESI or MOSI or MOESI, in upper or lower case",
            "API_ADDR=nowhere (environment): expected host:port, such as 127.0.0.1:8080 or [::]:8080",
            "ELECTION_TIMEOUT_MIN=700 (flag --election-timeout-min): \
             expected less than ELECTION_TIMEOUT_MAX=600 (default)",
        ]
    );
}

#[test]
fn contradictions_are_found_at_their_exact_limits() {
    for (values, contradicts) in [
        (&[("ELECTION_TIMEOUT_MIN", "600")][..], true),
        (&[("ELECTION_TIMEOUT_MIN", "599")], false),
        (&[("HEARTBEAT_INTERVAL", "101")], true),
        (&[("HEARTBEAT_INTERVAL", "100")], false),
        (&[("QUEUE_MIN_IN_SYNC", "3")], true),
        (&[("QUEUE_MIN_IN_SYNC", "2")], false),
        (&[("MAX_VALUE_BYTES", "8388609")], true),
        (&[("MAX_VALUE_BYTES", "8388608")], false),
        (&[("FAILURE_TIMEOUT", "2052")], true),
        (&[("FAILURE_TIMEOUT", "2051")], false),
        (&[("FAILURE_TIMEOUT", "3900"), ("CACHE_LEASE", "3802")], true),
        (&[("FAILURE_TIMEOUT", "3900"), ("CACHE_LEASE", "3803")], false),
    ] {
        assert_eq!(faults(values).len(), usize::from(contradicts), "{values:?}");
    }
}

#[test]
fn least_in_sync_copies_follow_the_replicas() {
    for (replicas, least) in [("1", 1), ("2", 1), ("3", 2), ("7", 6)] {
        assert_eq!(read(&[("QUEUE_REPLICAS", replicas)]).queue_min_in_sync, least);
    }
}

#[test]
fn lists_and_words_are_checked_element_by_element() {
    let roles = read(&[("NODE_ROLES", "bootstrap, lock-manager ,,")]).node_roles;
    assert_eq!(roles, BTreeSet::from([Role::LockManager, Role::Bootstrap]));
    assert_eq!(read(&[("CACHE_PROTOCOL", "moesi")]).cache_protocol, CacheProtocol::Moesi);
    for (name, bad) in [
        ("NODE_ROLES", "lock-manager,chef"),
        ("NODE_ROLES", ","),
        ("LISTEN_ADDRS", "/dns4/here/tcp/1"),
        ("LISTEN_ADDRS", "/ip4/0.0.0.0/udp/1"),
        ("LISTEN_ADDRS", "0.0.0.0:4001"),
        ("BOOTSTRAP_PEERS", "/ip4/10.0.0.1/tcp/0"),
        ("BOOTSTRAP_PEERS", "/ip4/10.0.0.1/tcp/4001/p2p/nobody"),
        ("BOOTSTRAP_PEERS", "/ip4/10.0.0.1/tcp/4001/ws"),
        ("BOOTSTRAP_EXPECT", "0"),
        ("MDNS", "true"),
        ("CLUSTER_NAME", "a\tb"),
        ("API_TOKEN", "two words"),
        ("REDIS_URL", "http://127.0.0.1"),
        ("REDIS_URL", "rediss://127.0.0.1"),
        ("RUST_LOG", "syncmesh=loud"),
        ("API_ADDR", "::1:80"),
        ("API_ADDR", "127.0.0.1"),
        ("API_ADDR", "300.0.0.1:80"),
        ("API_ADDR", "host:65536"),
    ] {
        let lines = faults(&[(name, bad)]);
        assert!(lines.len() == 1 && lines[0].starts_with(name), "{name}={bad}: {lines:?}");
    }
    let peers = "/dns4/node-1/tcp/4001,/ip4/10.0.0.1/udp/4001/quic-v1,/dnsaddr/example.org,\
                 /ip6/::1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    assert_eq!(read(&[("BOOTSTRAP_PEERS", peers)]).bootstrap_peers.len(), 4);
}

#[test]
fn secrets_show_in_no_fault_no_debug_output_and_no_listing() {
    let values = [("API_TOKEN", "s3cret-token"), ("REDIS_URL", "redis://user:s3cret@127.0.0.1:6379/0")];
    let config = read(&values);
    assert_eq!(config.api_token.as_ref().unwrap().expose(), "s3cret-token");
    assert!(!format!("{config:?} {:?}", given(&values)).contains("s3cret"));
    let shown = Config::resolve(&given(&values)).unwrap();
    let texts: Vec<String> = shown.iter().filter_map(Resolved::text).collect();
    assert!(!texts.iter().any(|text| text.contains("s3cret")));
    assert!(texts.contains(&"redis://user:<redacted>@127.0.0.1:6379/0".to_owned()));

    let lines = faults(&[("API_TOKEN", "s3cret token"), ("REDIS_URL", "rediss://user:s3cret@h:0:0")]).join("\n");
    assert!(lines.contains("API_TOKEN") && lines.contains("REDIS_URL") && !lines.contains("s3cret"), "{lines}");
    let unreadable = Sources::default().with_env_file("API_TOKEN=s3cret token\n");
    let lines = Config::from_sources(&unreadable).unwrap_err().to_string();
    assert!(lines.contains("API_TOKEN") && !lines.contains("s3cret"), "{lines}");
}

#[test]
fn a_line_that_is_no_setting_is_named_by_its_number() {
    let file = "# s3cret\n\nRUST_LOG=info\n  s3cret token \nLOG_FORMAT=json\n";
    let lines = Config::from_sources(&Sources::default().with_env_file(file)).unwrap_err().to_string();
    assert!(lines.contains("<line 4, without '='>") && !lines.contains("s3cret"), "{lines}");
}

#[test]
fn a_cluster_key_is_read_and_leaves_quic_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = key_file(directory.path(), 0o600);
    let named = read(&[("CLUSTER_KEY_FILE", path.to_str().unwrap())]);
    assert!(named.cluster_key.is_some());
    assert_eq!(named.listen_addrs, ["/ip4/0.0.0.0/tcp/4001".parse::<Multiaddr>().unwrap()]);
    assert_eq!(Config::default().listen_addrs.len(), 2);

    let lines = faults(&[
        ("CLUSTER_KEY_FILE", path.to_str().unwrap()),
        ("LISTEN_ADDRS", "/ip4/0.0.0.0/udp/0/quic-v1,/ip4/0.0.0.0/tcp/0"),
    ]);
    assert!(lines.len() == 1 && lines[0].contains("QUIC cannot carry the key"), "{lines:?}");
}

#[test]
fn a_key_file_that_is_missing_malformed_or_readable_by_others_is_a_fault() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none");
    let malformed = directory.path().join("malformed");
    std::fs::write(&malformed, "no key").unwrap();
    std::fs::set_permissions(&malformed, std::fs::Permissions::from_mode(0o600)).unwrap();
    let exposed = key_file(directory.path(), 0o644);
    for (path, expected) in [(&missing, "syncmesh init"), (&malformed, "/base16/"), (&exposed, "chmod 600")] {
        let lines = faults(&[("CLUSTER_KEY_FILE", path.to_str().unwrap())]);
        assert!(lines.len() == 1 && lines[0].contains(expected), "{lines:?}");
    }
    assert!(faults(&[("CLUSTER_KEY_FILE", directory.path().to_str().unwrap())]).len() == 1);
}

#[test]
fn the_default_key_file_counts_only_where_it_exists() {
    let directory = tempfile::tempdir().unwrap();
    let sources = |path: PathBuf| {
        let mut sources = Sources::default();
        sources.default_key_file = Some(path);
        sources
    };
    let absent = Config::from_sources(&sources(directory.path().join("none"))).unwrap();
    assert!(absent.cluster_key.is_none() && absent.cluster_key_file.is_none());
    let present = Config::from_sources(&sources(key_file(directory.path(), 0o600))).unwrap();
    assert!(present.cluster_key.is_some());
    let exposed = sources(key_file(directory.path(), 0o640));
    assert!(Config::from_sources(&exposed).unwrap_err().to_string().contains("(default): expected"));
    let dangling = directory.path().join("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    assert!(Config::from_sources(&sources(dangling)).is_err());
}

#[test]
fn an_env_file_takes_quotes_comments_and_export_and_the_last_line_wins() {
    let text = "\u{feff}# a comment\nexport CLUSTER_NAME='a b $c #d' # behind\nLOCK_DELAY=1\nLOCK_DELAY=2\nFOO=a b c\nMDNS=off ";
    let config = Config::from_sources(&Sources::default().with_env_file(text)).unwrap();
    assert_eq!(config.cluster_name, "a b $c #d");
    assert_eq!(config.lock_delay, Duration::from_millis(2));
    assert_eq!(config.mdns, Switch::Off);
    assert!(Config::from_sources(&Sources::default().with_env_file("garbage\n")).is_err());
}

#[test]
fn tuning_only_forgets_what_belongs_to_one_node() {
    let sources = given(&[("DATA_DIR", "/nowhere"), ("API_ADDR", "nonsense"), ("LOCK_DELAY", "5")]).tuning_only();
    let config = Config::from_sources(&sources).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("./data"));
    assert_eq!(config.lock_delay, Duration::from_millis(5));
}

#[test]
fn a_client_finds_its_node_and_looks_at_nothing_else() {
    let target = |values: &[(&str, &str)]| ClientTarget::from_sources(&given(values));
    for (api_addr, url) in [
        ("0.0.0.0:9000", "http://127.0.0.1:9000"),
        ("[::]:9000", "http://[::1]:9000"),
        ("[fe80::1]:1", "http://[fe80::1]:1"),
        ("node-1:80", "http://node-1:80"),
    ] {
        assert_eq!(target(&[("API_ADDR", api_addr), ("QUEUE_REPLICAS", "99")]).unwrap().url, url);
    }
    assert_eq!(target(&[]).unwrap().url, "http://127.0.0.1:8080");
    assert_eq!(target(&[("SYNCMESH_URL", "http://h:1/"), ("API_ADDR", "bad")]).unwrap().url, "http://h:1");
    for (given, url) in [
        ("node-1:8080", "http://node-1:8080"),
        ("127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("node_1", "http://node_1"),
        ("HTTP://h:1/behind/a/proxy", "http://h:1/behind/a/proxy"),
    ] {
        assert_eq!(target(&[("SYNCMESH_URL", given)]).unwrap().url, url);
    }
}

#[test]
fn a_url_that_no_node_can_have_is_refused_with_what_would_be_one() {
    let expected = |url: &str| {
        let faults = ClientTarget::from_sources(&given(&[("SYNCMESH_URL", url)])).unwrap_err();
        faults.0[0].expected.clone()
    };
    assert!(expected("https://h").contains("Where a proxy adds TLS"));
    assert!(expected("ftp://h").contains("nodes speak plain HTTP"));
    for nonsense in [
        "http://",
        "://h",
        ":8080",
        "h:",
        "h:0",
        "h:99999",
        "h:-1",
        "a b",
        "http://h?a=b",
        "http://h#a",
        "h:1:2",
        "::1",
        "http://user@h",
        "1.2.3",
        "/h",
    ] {
        assert!(expected(nonsense).contains("http"), "{nonsense}");
    }
}

#[test]
fn the_example_lists_every_setting_and_is_itself_valid() {
    let text = example::env_example();
    for setting in SETTINGS {
        let line = match setting.scope {
            Scope::Tuning => format!("\n{}=", setting.name),
            Scope::PerNode => format!("\n# {}=", setting.name),
        };
        assert_eq!(text.matches(&line).count(), 1, "{}", setting.name);
    }
    let plain = Config::resolve(&Sources::default()).unwrap();
    let copied = Config::resolve(&Sources::default().with_env_file(&text)).unwrap();
    let values = |all: &[Resolved]| all.iter().map(|one| (one.setting.name, one.text())).collect::<BTreeMap<_, _>>();
    assert_eq!(values(&plain), values(&copied));
    let uncommented =
        text.lines().map(|line| line.strip_prefix("# ").filter(|rest| rest.contains('=')).unwrap_or(line));
    let all_active: Vec<&str> = uncommented.filter(|line| SETTINGS.iter().any(|s| line.starts_with(s.name))).collect();
    assert!(Config::resolve(&Sources::default().with_env_file(&all_active.join("\n"))).is_ok());
}
