//! The text of `.env.example`, which lists every setting, and what the compose file reads beside them.

use std::fmt::Write;

use super::settings::{Fallback, SETTINGS, Scope, Setting};

/// A variable that the compose file reads and no node: its name, its default there, and what it does.
type OfCompose = (&'static str, &'static str, &'static str);

/// How many containers of each kind docker-compose starts: active lines.
const COMPOSE_COUNTS: [OfCompose; 3] = [
    (
        "LOCK_MANAGERS",
        "3",
        "containers of the service lock-manager; so many found the cluster, unless BOOTSTRAP_EXPECT says another number",
    ),
    ("QUEUE_NODES", "3", "containers of the service queue-node"),
    ("CACHE_NODES", "3", "containers of the service cache-node"),
];

/// What else docker-compose reads: comments, because few need it.
const COMPOSE_OTHERS: [OfCompose; 6] = [
    ("API_PORT", "8080", "port on 127.0.0.1 where the API and the dashboard of the service bootstrap are published"),
    ("NODE_MEMORY", "0", "most memory of each container of a node, such as 512m; 0 is no limit"),
    ("NODE_CPUS", "0", "most processors that each container of a node takes, such as 1.5; 0 is no limit"),
    (
        "REDIS_MAXMEMORY",
        "0",
        "memory at which the service redis refuses to write, such as 2gb; publishes are refused then; 0 is no limit",
    ),
    ("SYNCMESH_IMAGE", "syncmesh", "name of the image that the containers of nodes run, and that --build makes"),
    (
        "REVISION",
        "unknown",
        "what the image is labelled with when it is built: REVISION=$(git rev-parse HEAD) before the command",
    ),
];

/// The setting of one node that docker-compose takes from `.env` all the same, and what it does with it.
const COMPOSE_EXPECT: (&str, &str) = (
    "BOOTSTRAP_EXPECT",
    "docker-compose: goes to the service bootstrap; empty: LOCK_MANAGERS. Set it to 7 or less where LOCK_MANAGERS is more than 7",
);

const HEAD: &str = "\
# Settings of Syncmesh: copy this file to .env. Written by `syncmesh config example`.
#
# A flag wins over the environment, the environment over .env, .env over the default. An empty value
# counts as not given. Durations are whole numbers in the unit that is named, or carry a suffix
# (ms, s, m, h, d). Put values that hold spaces, quotes, $ or # into single quotes.
";

/// The whole file.
pub fn env_example() -> String {
    let mut out = String::from(HEAD);
    out.push_str("\n# --- For docker-compose only: no node reads these ---\n");
    for (name, default, meaning) in COMPOSE_COUNTS {
        let _ = writeln!(out, "\n# {meaning} (default {default})\n{name}={default}");
    }
    for (name, default, meaning) in COMPOSE_OTHERS {
        let _ = writeln!(out, "\n# {meaning} (default {default})\n# {name}={default}");
    }
    out.push_str("\n# --- The same on every node ---\n");
    for setting in of(Scope::Tuning) {
        let _ = writeln!(out, "\n{}\n{}", explanation(setting), line(setting));
    }
    let (read_by_compose, what_it_does) = COMPOSE_EXPECT;
    let _ = writeln!(
        out,
        "\n# --- One node's own: docker-compose sets these itself, and takes only {read_by_compose} from here ---"
    );
    for setting in of(Scope::PerNode) {
        let _ = writeln!(out, "\n{}", explanation(setting));
        if setting.name == read_by_compose {
            let _ = writeln!(out, "# {what_it_does}");
        }
        let _ = writeln!(out, "# {}", line(setting));
    }
    out
}

fn of(scope: Scope) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| setting.scope == scope)
}

fn explanation(setting: &Setting) -> String {
    let unit = setting.unit().map(|unit| format!("{unit}, ")).unwrap_or_default();
    let range = setting.range().map(|range| format!("{range}, ")).unwrap_or_default();
    format!("# {} ({unit}{range}default {})", setting.description, setting.fallback)
}

/// A derived default stays empty, so that it goes on following what it is derived from.
fn line(setting: &Setting) -> String {
    match setting.fallback {
        Fallback::Value(text) => format!("{}={text}", setting.name),
        Fallback::Unset | Fallback::Derived(_) => format!("{}=", setting.name),
    }
}
