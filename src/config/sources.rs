//! Where settings come from: flag over environment over `.env` over default.
//!
//! [`Sources::of_process`] is the only reader of the environment in the program, and leaves it as it
//! is; tests put a [`Sources`] together by hand. An empty value counts as not given.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
};

use super::{
    fault::Fault,
    settings::{SETTINGS, Scope, setting},
    values::{LogFormat, REDACTED},
};

/// The variables of the environment that are no settings of a node: what the clients read.
pub const CLIENT_VARIABLES: [&str; 2] = ["SYNCMESH_URL", "SYNCMESH_SESSION"];

/// Most bytes of an `.env` file.
const MAX_ENV_FILE_BYTES: u64 = 1 << 20;

/// Where the key of the bootstrap bundle lies, relative to the working directory.
pub const DEFAULT_KEY_FILE: &str = "bootstrap/cluster.key";

/// Where a value came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A flag of the command line.
    Flag,
    /// A variable of the environment.
    Environment,
    /// A line of the `.env` file, or of the one named by `--env-file`.
    #[serde(rename = ".env")]
    EnvFile,
    /// Nobody gave it.
    Default,
}

impl Source {
    /// As `config show` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::EnvFile => ".env",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All that was given, and what the defaults need to know of the surroundings.
#[derive(Clone, Debug)]
pub struct Sources {
    given: BTreeMap<(Box<str>, Source), Given>,
    faults: Vec<Fault>,
    /// The key file that is taken where none is named, if it exists; `None`: none is looked for.
    pub default_key_file: Option<PathBuf>,
    /// The format of logs where none is named.
    pub default_log_format: LogFormat,
}

/// A value that was given. Without `Debug` output of its text: it may be a secret.
#[derive(Clone)]
struct Given(String);

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Default for Sources {
    fn default() -> Self {
        Self { given: BTreeMap::new(), faults: Vec::new(), default_key_file: None, default_log_format: LogFormat::Json }
    }
}

impl Sources {
    /// The flags that were given (by the name of their setting), the environment of this process, and
    /// `.env` in the working directory or the file named by `--env-file`. What cannot be read becomes
    /// a fault that [`Config::from_sources`](super::Config::from_sources) reports with the others.
    pub fn of_process(flags: &BTreeMap<&'static str, String>, env_file: Option<&Path>) -> Self {
        let mut sources = Self {
            default_key_file: Some(PathBuf::from(DEFAULT_KEY_FILE)),
            default_log_format: if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json },
            ..Self::default()
        };
        for (name, value) in flags {
            sources.give(name, Source::Flag, value);
        }
        for name in names() {
            match std::env::var(name) {
                Ok(value) => sources.give(name, Source::Environment, &value),
                Err(std::env::VarError::NotPresent) => {}
                Err(std::env::VarError::NotUnicode(_)) => {
                    sources.fault(name, "<not UTF-8>", Source::Environment.as_str(), "text in UTF-8");
                }
            }
        }
        sources.read_env_file(env_file);
        sources
    }

    /// With one more value. An empty one counts as not given.
    #[must_use]
    pub fn with(mut self, source: Source, name: &str, value: &str) -> Self {
        self.give(name, source, value);
        self
    }

    /// With the lines of an `.env` file.
    #[must_use]
    pub fn with_env_file(mut self, text: &str) -> Self {
        self.take_env_lines(text, Source::EnvFile.as_str());
        self
    }

    /// Without what belongs to one node: what `dev` reads.
    #[must_use]
    pub fn tuning_only(mut self) -> Self {
        self.given.retain(|(name, _), _| setting(name).is_none_or(|setting| setting.scope == Scope::Tuning));
        self.default_key_file = None;
        self
    }

    /// The value of a variable from the strongest source that gives one.
    pub fn get(&self, name: &str) -> Option<(&str, Source)> {
        [Source::Flag, Source::Environment, Source::EnvFile].into_iter().find_map(|source| {
            let Given(value) = self.given.get(&(name.into(), source))?;
            Some((value.as_str(), source))
        })
    }

    /// What could not even be read.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    fn give(&mut self, name: &str, source: Source, value: &str) {
        let value = value.trim();
        if value.is_empty() {
            self.given.remove(&(name.into(), source));
        } else {
            self.given.insert((name.into(), source), Given(value.to_owned()));
        }
    }

    fn fault(&mut self, variable: &str, value: &str, source: &str, expected: &str) {
        self.faults.push(Fault {
            variable: variable.into(),
            value: value.into(),
            source: source.into(),
            expected: expected.into(),
        });
    }

    fn read_env_file(&mut self, named: Option<&Path>) {
        let path = named.unwrap_or(Path::new(".env"));
        let (variable, source) = if named.is_some() { ("--env-file", "flag") } else { (".env", "working directory") };
        match read_bounded(path) {
            Ok(text) => self.take_env_lines(&text, &path.display().to_string()),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let expected = format!("a readable file of at most {MAX_ENV_FILE_BYTES} bytes: {error}");
                self.fault(variable, &path.display().to_string(), source, &expected);
            }
        }
    }

    /// The last line of a name wins, as it does for docker-compose. Unknown names are ignored.
    fn take_env_lines(&mut self, text: &str, file: &str) {
        // dotenvy takes a last line that ends in a space but not in a newline for an unfinished one.
        let text = format!("{}\n", text.trim_start_matches('\u{feff}'));
        for line in dotenvy::from_read_iter(text.as_bytes()) {
            match line {
                Ok((name, value)) if is_known(&name) => self.give(&name, Source::EnvFile, &value),
                Ok(_) => {}
                Err(dotenvy::Error::LineParse(unparsed, _)) => self.take_bad_line(&text, &unparsed, file),
                Err(error) => self.fault(file, "", Source::EnvFile.as_str(), &format!("lines NAME=value: {error}")),
            }
        }
    }

    /// Reports a line that is no `NAME=value`, without its value, which may be a secret.
    fn take_bad_line(&mut self, text: &str, unparsed: &str, file: &str) {
        const EXPECTED: &str = "NAME=value, with quotes around a value that holds spaces, quotes, $ or #";
        match name_of(text, unparsed) {
            Some(name) if is_known(name) => self.fault(name, "<unreadable>", file, EXPECTED),
            Some(_) => {}
            None => {
                let beginning = beginning_of(unparsed);
                let at = text.lines().position(|line| line.trim() == beginning);
                let which = at.map_or_else(|| "a line".to_owned(), |at| format!("line {}", at + 1));
                self.fault(file, &format!("<{which}, without '='>"), Source::EnvFile.as_str(), EXPECTED);
            }
        }
    }
}

/// The name on the line that dotenvy could not parse, of which it tells either all or the value alone.
fn name_of<'a>(text: &'a str, unparsed: &str) -> Option<&'a str> {
    let beginning = beginning_of(unparsed);
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        let is_it = value.trim_start().starts_with(beginning) || line.trim_start().starts_with(beginning);
        is_it.then(|| name.trim().trim_start_matches("export ").trim_start())
    })
}

fn beginning_of(unparsed: &str) -> &str {
    unparsed.lines().next().unwrap_or_default().trim()
}

fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|setting| setting.name).chain(CLIENT_VARIABLES)
}

fn is_known(name: &str) -> bool {
    names().any(|known| known == name)
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_ENV_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_ENV_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger"));
    }
    Ok(text)
}
