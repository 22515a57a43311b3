//! `config`: shows and checks the configuration, and prints an example of one. Reads it as `node` does, and starts nothing.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Context, Failure, flags::SettingFlags, output};
use crate::config::{Config, Sources, example};

/// Show or check the configuration, or print an example with every setting.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every setting with its value and where it came from.
    Show(Settings),
    /// Only validate; exit code 78 and a line for each fault if it is invalid.
    Check(Settings),
    /// Print .env.example: every setting with its default, unit and meaning.
    Example,
}

/// The flags of `node`.
#[derive(Debug, Args)]
pub(super) struct Settings {
    #[command(flatten)]
    settings: SettingFlags,
}

impl ConfigCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Show(given) => show(context, &context.sources(&given.settings)),
            Self::Check(given) => {
                Config::from_sources(&context.sources(&given.settings))?;
                context.output.result(&json!({}), || "The configuration is valid.\n".to_owned())
            }
            Self::Example => context.output.raw(example::env_example().as_bytes()),
        }
    }
}

/// Prints every setting: `config show`, and `node --check`.
pub(super) fn show(context: &Context, sources: &Sources) -> Result<(), Failure> {
    let resolved = Config::resolve(sources)?;
    let document = BTreeMap::from([("settings", &resolved)]);
    context.output.result(&document, || {
        let rows = resolved.iter().map(|one| {
            let unit = one.setting.unit().unwrap_or_default();
            let value = one.text().unwrap_or_else(|| "-".to_owned());
            [one.setting.name.to_owned(), value, unit.to_owned(), one.source.to_string()]
        });
        output::table(["NAME", "VALUE", "UNIT", "SOURCE"], rows)
    })
}
