//! Counts what a node writes to its transports, encryption and multiplexing included.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};

/// Bytes that went through a swarm's byte streams: TCP connections and, in tests, the memory transport's. QUIC's packets are made below
/// libp2p's interface and aren't counted; nor are headers of TCP and IP.
#[derive(Debug, Default)]
pub struct Traffic {
    written: AtomicU64,
    read: AtomicU64,
}

impl Traffic {
    /// Bytes written since the start.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Bytes read since the start.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

/// A byte stream whose traffic is counted.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    traffic: std::sync::Arc<Traffic>,
}

impl<S> Counted<S> {
    /// Counts from now on what goes through `stream`.
    pub const fn new(stream: S, traffic: std::sync::Arc<Traffic>) -> Self {
        Self { stream, traffic }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(bytes)) = outcome {
            self.traffic.read.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(bytes)) = outcome {
            self.traffic.written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
