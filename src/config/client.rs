//! What the commands that talk to a node read: its URL and the token.

use super::{
    fault::{Fault, Faults},
    parse, read,
    sources::{Source, Sources},
    values::Secret,
};

/// Which node a client talks to.
#[derive(Clone, Debug)]
pub struct ClientTarget {
    /// The base URL of its HTTP API, without a slash at the end.
    pub url: String,
    /// The bearer token.
    pub token: Option<Secret>,
}

impl ClientTarget {
    /// `SYNCMESH_URL`, or what follows from `API_ADDR`; and `API_TOKEN`. Looks at nothing else, so that a
    /// client works beside the faulty configuration of a node.
    pub fn from_sources(sources: &Sources) -> Result<Self, Faults> {
        let token = read::read_one(sources, "API_TOKEN", parse::token)?;
        let url = match sources.get("SYNCMESH_URL") {
            Some((url, source)) => check_url(url, source)?,
            None => {
                read::read_one(sources, "API_ADDR", parse::host_port)?.expect("API_ADDR has a default").client_url()
            }
        };
        Ok(Self { url, token })
    }
}

fn check_url(url: &str, source: Source) -> Result<String, Faults> {
    match url.strip_prefix("http://") {
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => {
            Ok(url.trim_end_matches('/').to_owned())
        }
        _ => Err(Faults(vec![Fault {
            variable: "SYNCMESH_URL".into(),
            value: url.into(),
            source: source.to_string(),
            expected: "a URL such as http://127.0.0.1:8080 (TLS is a proxy's work)".into(),
        }])),
    }
}
