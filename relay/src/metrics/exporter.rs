//! Counters over HTTP, for Prometheus to fetch: `GET /metrics`, one request a connection, nothing else.
//!
//! The request's headers aren't looked at: there is one document, the same for all, and it is public to whoever reaches the
//! address. What a client can take up is bounded in connections, bytes and time.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::debug;

use super::AllMetrics;
use crate::server::{ServeError, accept};

/// Connections at a time; one more waits in the listener's backlog until another ends.
const CONNECTIONS_MAX: usize = 8;

/// Longest request: a scraper sends a few hundred bytes.
const REQUEST_BYTES_MAX: usize = 4_096;

/// Time for a whole exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn serve(listener: TcpListener, metrics: AllMetrics, stopped: watch::Receiver<bool>) -> Result<(), ServeError> {
    accept::serve(listener, CONNECTIONS_MAX, stopped, |stream, _| exchange(stream, metrics.clone())).await
}

async fn exchange(stream: TcpStream, metrics: AllMetrics) {
    match tokio::time::timeout(EXCHANGE_TIMEOUT, answer(stream, &metrics)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "metrics connection failed"),
        Err(_) => debug!("metrics connection took too long"),
    }
}

async fn answer(mut stream: TcpStream, metrics: &AllMetrics) -> io::Result<()> {
    let mut request = Vec::with_capacity(REQUEST_BYTES_MAX);
    while !request.ends_with(b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        let room = (REQUEST_BYTES_MAX - request.len()) as u64;
        if (&mut stream).take(room).read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let (status, body) = response(&request, metrics);
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

fn response(request: &[u8], metrics: &AllMetrics) -> (&'static str, String) {
    let mut words = request.split(|byte| byte.is_ascii_whitespace());
    match (words.next(), words.next()) {
        _ if !request.ends_with(b"\r\n\r\n") => ("400 Bad Request", "not a whole request\n".to_owned()),
        (Some(b"GET"), Some(b"/metrics")) => ("200 OK", metrics.snapshot().to_string()),
        (Some(b"GET"), _) => ("404 Not Found", "the counters are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
    }
}
