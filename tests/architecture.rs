//! The house rules, read off the source: which module may import which, and what only some may do.
//!
//! The tables below are the rules; docs/architecture.md gives the reasons. Tests, comments and string
//! literals are not looked at. A module that the tables do not know fails the test: give it its place.

#[path = "architecture/source.rs"]
mod source;

use std::{fs, path::Path};

use source::{Source, imports, test_modules};

/// What everybody may import.
const LEAVES: &[&str] =
    &["ids", "error", "config", "clock", "telemetry", "codec", "time", "lease", "mutant", "durable"];

/// A module at the top of `src/`, and what it may import beside itself.
struct Arrow {
    from: &'static str,
    leaves: Leaves,
    to: &'static [&'static str],
}

/// Whether a module may import all of [`LEAVES`], or only what its arrow lists.
#[derive(Clone, Copy, PartialEq)]
enum Leaves {
    All,
    Listed,
}

const ARROWS: &[Arrow] = &[
    Arrow { from: "ids", leaves: Leaves::Listed, to: &[] },
    Arrow { from: "error", leaves: Leaves::Listed, to: &["ids"] },
    Arrow { from: "config", leaves: Leaves::Listed, to: &["ids"] },
    Arrow { from: "clock", leaves: Leaves::Listed, to: &["ids"] },
    Arrow { from: "time", leaves: Leaves::Listed, to: &["ids"] },
    Arrow { from: "lease", leaves: Leaves::Listed, to: &["ids", "clock"] },
    Arrow { from: "codec", leaves: Leaves::Listed, to: &["ids", "error"] },
    Arrow { from: "telemetry", leaves: Leaves::Listed, to: &["ids", "config"] },
    Arrow { from: "mutant", leaves: Leaves::Listed, to: &[] },
    Arrow { from: "durable", leaves: Leaves::Listed, to: &[] },
    // Errors are data to a machine; configuration comes in as values. A state is saved in the one encoding. A
    // mutant is a constant outside tests.
    Arrow { from: "machine", leaves: Leaves::Listed, to: &["ids", "error", "codec", "mutant"] },
    Arrow { from: "net", leaves: Leaves::All, to: &[] },
    Arrow { from: "store", leaves: Leaves::All, to: &["machine"] },
    Arrow { from: "raft", leaves: Leaves::All, to: &["machine", "net"] },
    Arrow { from: "node", leaves: Leaves::All, to: &["machine", "net", "raft", "store"] },
    Arrow { from: "sim", leaves: Leaves::All, to: &["machine", "net", "raft", "store", "node"] },
    // The views of a lock are the machine's own data; the rest of what is shown is in node::status.
    Arrow { from: "api", leaves: Leaves::All, to: &["node", "machine::lock", "machine::queue", "machine::cache"] },
    // The client reads the bodies and problems that the API writes.
    Arrow {
        from: "client",
        leaves: Leaves::All,
        to: &[
            "api::bodies",
            "api::cache_bodies",
            "api::problem",
            "api::queue_bodies",
            "machine::lock",
            "node::backup",
            "node::caches",
            "node::locks",
            "node::queues",
            "node::status",
        ],
    },
    // `peer-info MULTIADDR` dials by itself; `node` and `dev` start what they run.
    Arrow {
        from: "cli",
        leaves: Leaves::All,
        to: &["client", "node", "api", "net", "machine::lock", "machine::queue"],
    },
];

/// The crate root and the binary: they name everything and hold nothing.
const ROOTS: &[&str] = &["lib", "main"];

/// What only some files may do. A path that ends in `/` means all below it, others the files that begin so.
struct Reserved {
    words: &'static [&'static str],
    to: &'static [&'static str],
    because: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        words: &["env::var", "env::vars", "env::set_var", "dotenvy::"],
        to: &["config/"],
        because: "only config reads the environment: take a setting, or add one to its table",
    },
    Reserved {
        words: &["print!", "println!", "stdout()"],
        to: &["cli/output.rs"],
        because: "only cli/output.rs prints to stdout: return what is to be shown",
    },
    Reserved {
        words: &[
            "fs::write",
            "fs::rename",
            "fs::remove_",
            "fs::create_dir",
            "fs::copy",
            "fs::set_permissions",
            "File::create",
            "OpenOptions::new",
            "DirBuilder::new",
            "renameat",
        ],
        to: &["durable", "raft/log", "store/", "net/identity", "node/records", "cli/"],
        because: "durable state is written in few places, each with its own way to survive a crash",
    },
    Reserved {
        words: &["durable::"],
        to: &["raft/log", "raft/snapshot", "store/", "net/identity", "node/records", "node/running"],
        because: "only these write to disk: hand what is to be kept to one of them",
    },
    Reserved {
        words: &["cbor4ii::"],
        to: &["codec.rs"],
        because: "there is one encoding, and one that decodes it with its bounds: use crate::codec",
    },
    Reserved {
        words: &["unbounded_channel", "UnboundedSender", "mpsc::unbounded", "crossbeam_channel::unbounded"],
        to: &[],
        because: "every channel is bounded by a named constant or setting",
    },
];

/// What a folder must never do.
struct Banned {
    within: &'static str,
    words: &'static [&'static str],
    because: &'static str,
}

const BANNED: &[Banned] = &[
    Banned {
        within: "machine/",
        words: &[
            "async ",
            ".await",
            "tokio::",
            "futures::",
            "std::fs",
            "std::net",
            "std::thread",
            "std::env",
            "rand::",
            "tracing::",
            "Instant",
            "SystemTime",
            "Mutex",
            "RwLock",
            "mpsc::",
            "libp2p::",
            "openraft::",
        ],
        because: "a machine is pure: time, randomness and ids come in, effects go out as values",
    },
    Banned {
        within: "net/",
        words: &["openraft::", "LockName", "SessionId", "FencingToken"],
        because: "net carries bytes between peers: it names no lock, queue or key",
    },
    Banned { within: "node/", words: NUMBERS_AS_TEXT, because: NUMBERS_ARE_LOGGED_AS_NUMBERS },
    Banned { within: "store/", words: NUMBERS_AS_TEXT, because: NUMBERS_ARE_LOGGED_AS_NUMBERS },
];

/// Fields of log lines that would be strings in JSON.
const NUMBERS_AS_TEXT: &[&str] =
    &["%partition", "partition = %", "%epoch", "epoch = %", "%term", "term = %", "%slot", "slot = %"];
const NUMBERS_ARE_LOGGED_AS_NUMBERS: &str = "numbers are numbers in JSON logs: log the number inside, `.0`";

/// Everything in one file that breaks a rule, a line each.
fn violations(source: &Source) -> Vec<String> {
    let mut found = import_violations(source);
    for rule in RESERVED {
        if !rule.to.iter().any(|place| source.path.starts_with(place)) {
            found.extend(occurrences(source, rule.words, rule.because));
        }
    }
    for rule in BANNED {
        if source.path.starts_with(rule.within) {
            found.extend(occurrences(source, rule.words, rule.because));
        }
    }
    found
}

fn import_violations(source: &Source) -> Vec<String> {
    let module = source.module();
    if ROOTS.contains(&module) {
        return Vec::new();
    }
    let Some(arrow) = ARROWS.iter().find(|arrow| arrow.from == module) else {
        return vec![format!("src/{}: ARROWS in tests/architecture.rs has no place for `{module}`", source.path)];
    };
    let allowed = |path: &str| {
        let is_within = |place: &&str| path == *place || path.starts_with(&format!("{place}::"));
        is_within(&module)
            || arrow.to.iter().any(is_within)
            || (arrow.leaves == Leaves::All && LEAVES.iter().any(is_within))
    };
    imports(source)
        .into_iter()
        .filter(|import| !allowed(&import.path))
        .map(|import| format!("src/{}:{}: `{module}` must not import `{}`", source.path, import.line, import.path))
        .collect()
}

fn occurrences(source: &Source, words: &[&str], because: &str) -> Vec<String> {
    let lines = source.code.lines().enumerate();
    lines
        .flat_map(|(index, line)| {
            words
                .iter()
                .filter(|word| has_word(line, word))
                .map(move |word| format!("src/{}:{}: `{}`: {because}", source.path, index + 1, word.trim()))
        })
        .collect()
}

/// Whether the text stands in the line, and not as the end of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !word.starts_with(char::is_alphabetic) || !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// Every file below `src/` that is not a test.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    read_folder(&root, &root, &mut files);
    let tests: Vec<String> = files.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    let is_test =
        |path: &str| tests.iter().any(|test| path == format!("{test}.rs") || path.starts_with(&format!("{test}/")));
    files.iter().filter(|(path, _)| !is_test(path)).map(|(path, text)| Source::new(path, text)).collect()
}

fn read_folder(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("src/ can be listed") {
        let path = entry.expect("src/ can be listed").path();
        if path.is_dir() {
            read_folder(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("it lies below src/").to_string_lossy().into_owned();
            files.push((name, fs::read_to_string(&path).expect("sources are UTF-8")));
        }
    }
}

#[test]
fn imports_point_one_way_and_each_has_its_place() {
    let sources = sources();
    assert!(sources.len() > 10, "src/ was not found");
    let found: Vec<String> = sources.iter().flat_map(violations).collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_rule_can_be_broken() {
    for (path, text, expected) in [
        ("machine/lock/mod.rs", "use crate::clock::Clock;", "`machine` must not import `clock::Clock`"),
        ("machine/queue.rs", "use crate::{ids::X, config};", "must not import `config`"),
        ("machine/lock/step.rs", "fn f() { tokio::spawn(g) }", "a machine is pure"),
        ("machine/lock/step.rs", "async fn f() {}", "a machine is pure"),
        ("net/rpc.rs", "use crate::raft::log;", "`net` must not import `raft::log`"),
        (
            "net/rpc.rs",
            "use crate::{\n    ids::NodeId,\n    node::{Node, status},\n};",
            ":3: `net` must not import `node::Node`",
        ),
        ("net/mod.rs", "fn f(lock: LockName) {}", "it names no lock"),
        ("raft/mod.rs", "fn f() { crate::node::start() }", "`raft` must not import `node::start`"),
        ("raft/apply.rs", "use super::super::api::X;", "`raft` must not import `api::X`"),
        ("store/redis.rs", "use crate::cli;", "`store` must not import `cli`"),
        ("api/mod.rs", "use crate::net::Mesh;", "`api` must not import `net::Mesh`"),
        ("api/locks.rs", "use crate::machine::membership::Members;", "must not import `machine::membership::Members`"),
        ("client.rs", "use crate::api::server::Server;", "must not import `api::server::Server`"),
        ("cli/lock.rs", "use crate::raft;", "`cli` must not import `raft`"),
        ("ids.rs", "use crate::error::Error;", "`ids` must not import `error::Error`"),
        ("node/mod.rs", "fn f() { std::env::var(NAME); }", "only config reads the environment"),
        ("cli/lock.rs", "fn f() { println!(); }", "only cli/output.rs prints"),
        ("node/mod.rs", "fn f() { std::fs::write(a, b); }", "durable state"),
        ("node/mod.rs", "fn f() { crate::durable::replace(a, b); }", "only these write to disk"),
        ("raft/log.rs", "use cbor4ii::serde;", "there is one encoding"),
        ("net/event_loop.rs", "fn f() { mpsc::unbounded_channel(); }", "every channel is bounded"),
        ("node/queues/x.rs", "fn f() { info!(partition = %self.id); }", "numbers are numbers"),
        ("store/health.rs", "fn f() { debug!(%epoch); }", "numbers are numbers"),
        ("surprise/mod.rs", "", "has no place for `surprise`"),
    ] {
        let found = violations(&Source::new(path, text));
        assert!(found.iter().any(|line| line.contains(expected)), "{path}: {text}\nfound {found:?}");
    }
}

#[test]
fn what_is_allowed_is_not_reported() {
    for (path, text) in [
        ("machine/lock/mod.rs", "use crate::{error::CycleEdge, ids::{LockName, Tick}, machine::lock::types};"),
        ("machine/lock/mod.rs", "//! No [`tokio::spawn`] here.\nconst TEXT: &str = \"use crate::node;\";"),
        ("node/mod.rs", "use crate::{raft::Raft, net::Mesh, telemetry::Metrics};"),
        ("node/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::cli;\n    fn f() { println!(\"{}\", '}'); }\n}"),
        ("api/mod.rs", "use crate::{machine::lock::Mode, node::Node};"),
        ("cli/output.rs", "fn f() { println!(); }"),
        ("cli/lock.rs", "fn f() { eprintln!(); }"),
        ("raft/log.rs", "fn f() { fs::rename(a, b); }"),
        ("net/peers.rs", "use super::rpc::Rpc; pub(in crate::net) fn f() {}"),
        ("lib.rs", "pub mod machine; pub use crate::node::Node;"),
    ] {
        assert_eq!(violations(&Source::new(path, text)), Vec::<String>::new(), "{path}: {text}");
    }
}
