//! What a Redis server says of itself: how much of what it acknowledges it still has after a crash.

use redis::{RedisError, aio::MultiplexedConnection, cmd};

/// What decides over durability. `None` where the server does not tell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Server {
    append_only: Option<String>,
    append_fsync: Option<String>,
    eviction: Option<String>,
    /// Names this run of this server.
    pub(super) run_id: Option<String>,
}

impl Server {
    /// Asks for it. What is forbidden is unknown.
    ///
    /// # Errors
    /// The connection broke: nothing is known.
    pub(super) async fn ask(connection: &mut MultiplexedConnection) -> Result<Self, RedisError> {
        let mut values = Vec::new();
        for name in ["appendonly", "appendfsync", "maxmemory-policy"] {
            let answer = cmd("CONFIG").arg("GET").arg(name).query_async::<Vec<String>>(connection).await;
            values.push(unless_forbidden(answer)?.and_then(|pair| pair.into_iter().nth(1)));
        }
        let info = cmd("INFO").arg("server").query_async::<String>(connection).await;
        let info = unless_forbidden(info)?.unwrap_or_default();
        let run_id = info.lines().find_map(|line| Some(line.strip_prefix("run_id:")?.trim().to_owned()));
        let mut values = values.into_iter();
        let mut next = || values.next().flatten();
        Ok(Self { append_only: next(), append_fsync: next(), eviction: next(), run_id })
    }

    /// Why something that it acknowledged may be lost with its machine or its memory.
    pub(super) fn not_durable(&self) -> Option<String> {
        let wanted = [
            ("appendonly", &self.append_only, "yes"),
            ("appendfsync", &self.append_fsync, "always"),
            ("maxmemory-policy", &self.eviction, "noeviction"),
        ];
        let wrong: Vec<_> = wanted
            .into_iter()
            .filter(|(_, value, wanted)| value.as_deref() != Some(*wanted))
            .map(|(name, value, wanted)| match value {
                Some(value) => format!("{name} is {value}, not {wanted}"),
                None => format!("{name} is unknown, taken as not {wanted}"),
            })
            .collect();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }
}

/// `None` where the server refuses to answer.
fn unless_forbidden<T>(answer: Result<T, RedisError>) -> Result<Option<T>, RedisError> {
    match answer {
        Err(error) if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() => Err(error),
        answer => Ok(answer.ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_syncs_each_command_and_evicts_nothing_is_durable() {
        let server = |append_only: &str, append_fsync: &str, eviction: &str| Server {
            append_only: Some(append_only.to_owned()),
            append_fsync: Some(append_fsync.to_owned()),
            eviction: Some(eviction.to_owned()),
            run_id: None,
        };
        assert_eq!(server("yes", "always", "noeviction").not_durable(), None);
        for (server, named) in [
            (server("no", "always", "noeviction"), "appendonly is no"),
            (server("yes", "everysec", "noeviction"), "appendfsync is everysec"),
            (server("yes", "always", "allkeys-lru"), "maxmemory-policy is allkeys-lru"),
            (Server::default(), "appendfsync is unknown, taken as not always"),
        ] {
            let why = server.not_durable().unwrap();
            assert!(why.contains(named), "{why}");
        }
    }
}
