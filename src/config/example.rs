//! The text of `.env.example`, which lists every setting.

use std::fmt::Write;

use super::settings::{Fallback, SETTINGS, Scope, Setting};

/// How many containers of each kind docker-compose starts; read by the compose file only.
const COMPOSE_COUNTS: [(&str, &str); 3] =
    [("LOCK_MANAGERS", "lock-manager"), ("QUEUE_NODES", "queue-node"), ("CACHE_NODES", "cache-node")];

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
    out.push_str("\n# --- How many containers docker-compose starts ---\n");
    for (name, role) in COMPOSE_COUNTS {
        let _ = writeln!(out, "\n# containers of the service {role} (default 3)\n{name}=3");
    }
    out.push_str("\n# --- The same on every node ---\n");
    for setting in of(Scope::Tuning) {
        let _ = writeln!(out, "\n{}\n{}", explanation(setting), line(setting));
    }
    out.push_str("\n# --- One node's own: docker-compose sets these itself ---\n");
    for setting in of(Scope::PerNode) {
        let _ = writeln!(out, "\n{}\n# {}", explanation(setting), line(setting));
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
