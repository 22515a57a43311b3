//! The flags of the settings, made from their table: every variable has the flag of the same name.
//!
//! Flatten [`SettingFlags`] (all of them) or [`TuningFlags`] into a command and hand what was given to
//! [`Context::sources`](super::Context::sources). Values are not looked at here, so that all faults are
//! reported together.

use std::{collections::BTreeMap, sync::LazyLock};

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};

use crate::config::settings::{Kind, SETTINGS, Scope, Setting};

/// The settings that were given as flags, by the name of their variable.
#[derive(Clone, Debug, Default)]
pub struct SettingFlags {
    given: BTreeMap<&'static str, String>,
}

impl SettingFlags {
    /// What was given.
    pub fn given(&self) -> &BTreeMap<&'static str, String> {
        &self.given
    }
}

/// The same, without the settings of one node: for `dev`.
#[derive(Clone, Debug, Default)]
pub struct TuningFlags(pub SettingFlags);

/// All of them, of which the help shows the one of the cluster's key: for what only dials a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyFlags(pub(super) SettingFlags);

/// The names of the flags, made once: clap borrows them for as long as the program runs.
static FLAGS: LazyLock<BTreeMap<&'static str, String>> =
    LazyLock::new(|| SETTINGS.iter().map(|setting| (setting.name, setting.flag())).collect());

fn of_table() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter()
}

fn tuning_of_table() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| setting.scope == Scope::Tuning)
}

fn arg(setting: &'static Setting) -> Arg {
    let heading = match setting.scope {
        Scope::Tuning => "Settings of the cluster (also variables of the environment or .env, such as LOCK_DELAY)",
        Scope::PerNode => "Settings of this node (also variables of the environment or .env, such as NODE_ROLES)",
    };
    let unit = setting.unit().map(|unit| format!("{unit}, ")).unwrap_or_default();
    let range = setting.range().map(|range| format!("{range}, ")).unwrap_or_default();
    let repeats = if setting.is_list() { "; may be repeated" } else { "" };
    let arg = Arg::new(setting.name)
        .long(FLAGS[setting.name].as_str())
        .value_name(value_name(setting))
        .help(format!("{} [{unit}{range}default: {}{repeats}]", sentence(setting), setting.fallback))
        .help_heading(heading)
        .hide_short_help(false)
        .allow_negative_numbers(true)
        .action(if setting.is_list() { ArgAction::Append } else { ArgAction::Set });
    match setting.short_flag {
        Some(short) => arg.visible_alias(short),
        None => arg,
    }
}

fn sentence(setting: &Setting) -> String {
    let mut letters = setting.description.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn value_name(setting: &Setting) -> &'static str {
    match setting.kind {
        Kind::Duration { .. } => "DURATION",
        Kind::Count { .. } => "NUMBER",
        Kind::Word(_) | Kind::WordAnyCase(_) => "WORD",
        Kind::Roles => "ROLES",
        Kind::Addresses(_) => "MULTIADDRS",
        Kind::HostPort => "HOST:PORT",
        Kind::Path => "PATH",
        Kind::Text => "TEXT",
        Kind::Token => "TOKEN",
        Kind::RedisUrl => "URL",
        Kind::LogFilter => "FILTER",
    }
}

fn given(matches: &ArgMatches, settings: impl Iterator<Item = &'static Setting>) -> SettingFlags {
    let values = settings.filter_map(|setting| {
        let values: Vec<&str> = matches.get_many::<String>(setting.name)?.map(String::as_str).collect();
        Some((setting.name, values.join(",")))
    });
    SettingFlags { given: values.collect() }
}

impl Args for SettingFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(of_table().map(arg))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(given(matches, of_table()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.given.extend(given(matches, of_table()).given);
        Ok(())
    }
}

impl Args for TuningFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(tuning_of_table().map(arg))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for TuningFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(given(matches, tuning_of_table())))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.given.extend(given(matches, tuning_of_table()).given);
        Ok(())
    }
}

impl Args for KeyFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(of_table().map(|setting| arg(setting).hide(setting.name != "CLUSTER_KEY_FILE")))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KeyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(given(matches, of_table())))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.given.extend(given(matches, of_table()).given);
        Ok(())
    }
}
