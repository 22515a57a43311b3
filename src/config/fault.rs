//! What is wrong with a configuration: one line a fault, all of them at once.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Fault {
    /// The variable, or what else is at fault (`--env-file`).
    pub variable: String,
    /// Its value, without secrets.
    pub value: String,
    /// Where it came from.
    pub source: String,
    /// What would be accepted.
    pub expected: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, value, source, expected } = self;
        write!(f, "{variable}={value} ({source}): expected {expected}")
    }
}

/// All that is wrong; never empty.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Fault::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}
