//! A client's connection: TCP that does not wait for ever for a client that stopped reading, and
//! that lets a refused client read its refusal.
//!
//! hyper answers by itself, with an empty body, what is no request at all: [`ApiStream`] puts a problem
//! document in its place.
//!
//! A server that closes while the client is still sending makes the kernel answer with a reset, and
//! the client loses the answer (a 413, say) that it had not read yet. So closing first ends our own
//! direction and then reads on, for a bounded time and amount, until the client ends its.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::problem::Problem;
use crate::error::Error;

/// How long a write may make no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may go on sending after our last byte.
const LINGER: Duration = Duration::from_secs(2);

/// How much it may send then.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// What hyper says of the body of its own refusals.
const EMPTY: &[u8] = b"content-length: 0\r\n";

/// A TCP stream with these bounds.
#[derive(Debug)]
pub(super) struct ApiStream {
    inner: TcpStream,
    /// Runs while a write makes no progress.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs once our direction is closed.
    linger: Option<Pin<Box<Sleep>>>,
    lingered_bytes: usize,
    /// What is written in place of hyper's own refusal, and how much of it has been.
    refusal: Option<(Vec<u8>, usize)>,
}

/// A problem in place of hyper's own refusal, if these bytes are one: nobody else here answers 4xx with
/// an empty body.
fn refusal_instead(bytes: &[u8]) -> Option<Vec<u8>> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let head = bytes.strip_suffix(b"\r\n\r\n")?;
    let is_bare = head.windows(EMPTY.len()).any(|window| window == EMPTY) && !head.windows(4).any(|w| w == b"\r\n\r\n");
    if !is_bare {
        return None;
    }
    let (status, detail) = match status {
        b"414" => (414, "the target of the request is too long: a name has at most 512 bytes"),
        b"431" => (431, "the head of the request is too large, or has more than 100 fields"),
        b"400" => (400, "this is no request of HTTP/1.1"),
        _ => return None,
    };
    Some(Problem { status, ..Problem::from(Error::bad_request("request", detail)) }.to_bytes())
}

impl ApiStream {
    /// Takes a connection over.
    pub(super) fn new(inner: TcpStream) -> Self {
        Self { inner, stalled: None, linger: None, lingered_bytes: 0, refusal: None }
    }

    /// Writes in place of `bytes` what stands for them, if something does.
    fn poll_refusal(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.refusal.is_none() {
            self.refusal = refusal_instead(bytes).map(|refusal| (refusal, 0));
        }
        let (refusal, written) = self.refusal.as_mut()?;
        while *written < refusal.len() {
            match Pin::new(&mut self.inner).poll_write(context, &refusal[*written..]) {
                Poll::Ready(Ok(count)) if count > 0 => *written += count,
                Poll::Ready(Ok(_)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                other => return Some(other),
            }
        }
        self.refusal = None;
        Some(Poll::Ready(Ok(bytes.len())))
    }

    fn bound_write(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

impl AsyncRead for ApiStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for ApiStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = match self.poll_refusal(context, bytes) {
            Some(progress) => progress,
            None => Pin::new(&mut self.inner).poll_write(context, bytes),
        };
        self.bound_write(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let alone = slices.iter().filter(|slice| !slice.is_empty()).count() == 1;
        let only = slices.iter().find(|slice| alone && !slice.is_empty());
        let progress = match only.and_then(|bytes| self.poll_refusal(context, bytes)) {
            Some(progress) => progress,
            None => Pin::new(&mut self.inner).poll_write_vectored(context, slices),
        };
        self.bound_write(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
            this.linger = Some(Box::pin(sleep(LINGER)));
        }
        let mut scratch = [0; 16 * 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.inner).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    this.lingered_bytes += buffer.filled().len();
                    if this.lingered_bytes > LINGER_BYTES {
                        return Poll::Ready(Ok(()));
                    }
                }
                // The client is done, or gone: either way nobody waits for us any more.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        let timer = this.linger.as_mut().expect("the timer was set when our direction was closed");
        timer.as_mut().poll(context).map(Ok)
    }
}
