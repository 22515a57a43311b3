//! A client's connection: TCP that does not wait for ever for a client that stopped reading, and
//! that lets a refused client read its refusal.
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

/// How long a write may make no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may go on sending after our last byte.
const LINGER: Duration = Duration::from_secs(2);

/// How much it may send then.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// A TCP stream with these bounds.
#[derive(Debug)]
pub(super) struct ApiStream {
    inner: TcpStream,
    /// Runs while a write makes no progress.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs once our direction is closed.
    linger: Option<Pin<Box<Sleep>>>,
    lingered_bytes: usize,
}

impl ApiStream {
    /// Takes a connection over.
    pub(super) fn new(inner: TcpStream) -> Self {
        Self { inner, stalled: None, linger: None, lingered_bytes: 0 }
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
        let progress = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.bound_write(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
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
