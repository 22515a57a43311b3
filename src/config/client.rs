//! What the commands that talk to a node read: its URL and the token.

use super::{
    fault::{Fault, Faults},
    parse, read,
    sources::{Source, Sources},
    values::{HostPort, Secret},
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

/// The secrets that this process was given, of which nothing may leave it: the token, and in `REDIS_URL` the password and
/// what the query says. What is too short to be told from other text is none.
pub fn given_secrets(sources: &Sources) -> Vec<Secret> {
    const SHORTEST: usize = 4;
    let given = |name| sources.get(name).map(|(value, _)| value);
    let of_redis = given("REDIS_URL").into_iter().flat_map(secrets_in);
    let secrets = given("API_TOKEN").into_iter().chain(of_redis);
    secrets.filter(|secret| secret.len() >= SHORTEST).map(Secret::new).collect()
}

/// The password and the values in `scheme://user:password@host?name=value&…`, also of one that is not well-formed.
fn secrets_in(url: &str) -> Vec<&str> {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    // A password that holds a `?` was not encoded, and goes on behind it.
    let password = password_before_host(place).or_else(|| password_before_host(rest));
    let values = query.split(['&', '#']).filter_map(|pair| pair.split_once('=')).map(|(_, value)| value);
    password.into_iter().chain(values).collect()
}

fn password_before_host(place: &str) -> Option<&str> {
    let (login, _) = place.rsplit_once('@')?;
    login.split_once(':').map(|(_, password)| password)
}

/// `http://host:port`, perhaps with a path before the API's own; `http://` and the port 80 may be left out.
fn check_url(url: &str, source: Source) -> Result<String, Faults> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let expected = match scheme.to_ascii_lowercase().as_str() {
        "http" if is_host_and_path(rest) => return Ok(format!("http://{}", rest.trim_end_matches('/'))),
        "http" => "the URL of a node, such as http://127.0.0.1:8080, or its host:port",
        "https" => {
            "http://host:port: nodes and their clients speak plain HTTP. Where a proxy adds TLS, name an address behind it"
        }
        _ => "http://host:port: nodes speak plain HTTP and nothing else",
    };
    let value = if url.contains(['@', '?', '#']) { parse::without_password(url) } else { url.to_owned() };
    let (variable, expected) = ("SYNCMESH_URL".to_owned(), expected.to_owned());
    Err(Faults(vec![Fault { variable, value, source: source.to_string(), expected }]))
}

fn is_host_and_path(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    let with_port = |authority: &str| authority.parse::<HostPort>().is_ok_and(|host_port| host_port.port() != 0);
    let is_plain = |c: char| c.is_ascii_graphic() && !"?#@\\".contains(c);
    rest.chars().all(is_plain) && (with_port(authority) || with_port(&format!("{authority}:80")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secrets_that_were_given_are_known() {
        let sources = |redis: &str| {
            let sources = Sources::default().with(Source::Environment, "API_TOKEN", "t0ken");
            sources.with(Source::EnvFile, "REDIS_URL", redis)
        };
        let secrets = |redis| -> Vec<String> {
            given_secrets(&sources(redis)).iter().map(|secret| secret.expose().to_owned()).collect()
        };
        assert_eq!(secrets("redis://:p@ss:word@host:6379/0"), ["t0ken", "p@ss:word"]);
        assert_eq!(secrets("redis://host:6379/0"), ["t0ken"]);
        assert_eq!(secrets("redis://user:s3cret@host?db=0&password=0th@r"), ["t0ken", "s3cret", "0th@r"]);
        assert_eq!(secrets("redis://user:abc@host"), ["t0ken"], "too short to be told from other text");
    }
}
