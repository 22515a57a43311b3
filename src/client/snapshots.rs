//! Backups over HTTP: as streams, because they may be larger than what an answer may have.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use reqwest::{Body, Method};

use super::{Call, Client, ClientError};
use crate::node::backup::Onto;

/// The bytes of a backup as they come.
pub struct BackupBytes {
    stream: BoxStream<'static, Result<Bytes, reqwest::Error>>,
    client: Client,
}

impl std::fmt::Debug for BackupBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupBytes").field("from", &self.client.base).finish_non_exhaustive()
    }
}

impl BackupBytes {
    /// The next ones; `None`: the node has sent all. Whether that is a whole backup, its reader tells.
    ///
    /// # Errors
    /// `unavailable` where the node broke it off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        match self.stream.next().await {
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(error)) => Err(self.client.unreachable(&error, &Method::GET)),
            None => Ok(None),
        }
    }
}

impl Client {
    /// Begins to fetch a backup.
    ///
    /// # Errors
    /// As [`Client::text`].
    pub async fn backup(&self) -> Result<BackupBytes, ClientError> {
        let call = Call::get("/v1/cluster/snapshot");
        let answer = self.request(&call).send().await.map_err(|error| self.unreachable(&error, &call.method))?;
        let status = answer.status();
        if !status.is_success() {
            let body = answer.bytes().await.map_err(|error| self.unreachable(&error, &call.method))?;
            return Err(self.problem(status, &body));
        }
        Ok(BackupBytes { stream: answer.bytes_stream().boxed(), client: self.clone() })
    }

    /// Puts a backup of so many bytes back.
    ///
    /// # Errors
    /// As [`Client::text`]; `conflict` where there are sessions or locks, and they may not be given up.
    pub async fn restore(
        &self,
        length: u64,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
        onto: Onto,
    ) -> Result<(), ClientError> {
        let path = match onto {
            Onto::EmptyState => "/v1/cluster/snapshot",
            Onto::AnyState => "/v1/cluster/snapshot?force=true",
        };
        let call = Call::new(Method::PUT, path);
        let request =
            self.request(&call).header(reqwest::header::CONTENT_LENGTH, length).body(Body::wrap_stream(bytes));
        let answer = request.send().await.map_err(|error| self.unreachable(&error, &call.method))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| self.unreachable(&error, &call.method))?;
        if status.is_success() { Ok(()) } else { Err(self.problem(status, &body)) }
    }
}
