//! The loop that accepts connections, and the bounds of each.
//!
//! axum's own `serve` has neither a limit of connections nor a time for the head of a request, so
//! this drives hyper itself. Owns the connections' tasks; ends them with the node's token.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{ApiSettings, connection::ApiStream, problem::Problem, router};
use crate::{
    error::{Error, Outcome},
    node::Node,
};

/// How long the head of a request may take to arrive, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of the head of a request: a path with a name of 512 escaped bytes, and ample headers.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Connections over the limit that are told so at a time, at most and as part of the limit; further ones
/// are only closed.
const MAX_REFUSALS: usize = 1024;
const REFUSALS_PART: usize = 4;

/// How long one of them has to ask, and to read what it is told.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(500);

/// How long to wait when the process has no file descriptor left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API on a listener until `shutdown`, then lets requests under way finish within
/// [`ApiSettings::drain`].
///
/// # Errors
/// Does not fail while it serves: what goes wrong with one connection ends that connection.
pub async fn serve(
    listener: TcpListener,
    node: Node,
    settings: ApiSettings,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let app = router(node, &settings, shutdown.clone());
    let permits = Arc::new(Semaphore::new(settings.max_connections));
    let most_refusals = settings.max_connections.div_ceil(REFUSALS_PART).min(MAX_REFUSALS);
    let (mut connections, mut refusals) = (JoinSet::new(), JoinSet::new());
    loop {
        let stream = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            Some(ended) = refusals.join_next() => {
                report(ended);
                continue;
            }
            accepted = accept(&listener) => accepted,
        };
        match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => drop(connections.spawn(connection(stream, app.clone(), shutdown.clone(), permit))),
            Err(_) => {
                settings.metrics.bounds().hit("api.connections");
                if refusals.len() < most_refusals {
                    refusals.spawn(refuse(stream, settings.max_connections));
                }
            }
        }
    }
    drop(listener);
    let drained = timeout(settings.drain, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "requests under way were cut off by the shutdown");
    }
    Ok(())
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the task of an API connection failed");
    }
}

/// The next connection.
async fn accept(listener: &TcpListener) -> TcpStream {
    let mut said = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "no API connection can be accepted: trying on");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Tells a connection over the limit that there is no room, without reading what it asks.
async fn refuse(stream: TcpStream, limit: usize) {
    let detail = format!(
        "this node has {limit} connections open, as many as it takes, and has not read the request: close some, or ask \
         another node"
    );
    let refusal = Problem::from(Error::unavailable(Outcome::NotApplied, detail)).to_bytes();
    let told = async {
        // An answer that comes before the request is none to most clients.
        stream.peek(&mut [0]).await?;
        let mut stream = ApiStream::new(stream);
        stream.write_all(&refusal).await?;
        stream.shutdown().await
    };
    // Who does not read it in time is hung up on.
    let _ = timeout(REFUSAL_TIMEOUT, told).await;
}

async fn connection(stream: TcpStream, app: Router, shutdown: CancellationToken, permit: OwnedSemaphorePermit) {
    // Answers are small and awaited: do not hold them back to fill a packet.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "an API connection ended before it began");
        return;
    }
    let io = TokioIo::new(ApiStream::new(stream));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(io, TowerToHyperService::new(app));
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an API connection ended early");
    }
    drop(permit);
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, sync::mpsc};

    use super::*;

    /// Says so when it is dropped.
    struct Handler(mpsc::Sender<&'static str>);

    impl Drop for Handler {
        fn drop(&mut self) {
            // The test may have ended.
            let _ = self.0.try_send("dropped");
        }
    }

    /// A connection that is served by this app, from the client's side.
    async fn connected_to(app: Router) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let stream = accept(&listener).await;
        tokio::spawn(connection(stream, app, CancellationToken::new(), permit));
        client
    }

    // The paused clock runs ahead whenever everybody waits for everybody else.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_finish_its_head_is_let_go() {
        let mut client = connected_to(Router::new()).await;
        let began = tokio::time::Instant::now();
        client.write_all(b"GET /healthz HTTP/1.1\r\nHost: slo").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_ends_its_handler() {
        let (tell, mut told) = mpsc::channel(2);
        let wait = move || {
            let tell = tell.clone();
            async move {
                let handler = Handler(tell);
                handler.0.try_send("waiting").unwrap();
                std::future::pending::<()>().await;
                drop(handler);
            }
        };
        let app = Router::new().route("/wait", axum::routing::post(wait));
        let mut client = connected_to(app).await;
        client.write_all(b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert_eq!(told.recv().await, Some("waiting"));
        drop(client);
        assert_eq!(told.recv().await, Some("dropped"));
    }
}
