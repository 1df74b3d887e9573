//! Connections: how many, how long, how they end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listener::Socket;

/// Connections at the same time; one more is answered 503 and closed.
const CONNECTIONS_MAX: usize = 128;

/// How long a client may take to send a request's headers, and stay silent between requests.
const HEADER_TIME_MAX: Duration = Duration::from_secs(30);

/// Largest request headers.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// How long open answers may take when the daemon stops.
const FINISH_MAX: Duration = Duration::from_secs(1);

/// A pause after a failed accept: out of files, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Accepts and serves until `stop` is cancelled.
pub(super) async fn serve(socket: Socket, router: Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let abort = CancellationToken::new();
    let accepting = accept_all(&socket, |stream| {
        let ends = (stop.clone(), abort.clone());
        match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => drop(connections.spawn(serve_one(stream, router.clone(), permit, ends))),
            Err(_full) => drop(connections.spawn(refuse(stream, abort.clone()))),
        }
    });
    stop.run_until_cancelled(accepting).await;
    drop(socket);
    connections.close();
    if tokio::time::timeout(FINISH_MAX, connections.wait()).await.is_err() {
        abort.cancel();
        connections.wait().await;
    }
}

/// Either kind of stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept_all(socket: &Socket, mut take: impl FnMut(Box<dyn Stream>)) {
    loop {
        let accepted = match socket {
            Socket::Unix(socket) => socket.accept().await.map(|(stream, _)| boxed(stream)),
            Socket::Tcp(socket) => socket.accept().await.map(|(stream, _)| boxed(stream)),
        };
        match accepted {
            Ok(stream) => take(stream),
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn boxed(stream: impl Stream + 'static) -> Box<dyn Stream> {
    Box::new(stream)
}

async fn serve_one(
    stream: Box<dyn Stream>,
    router: Router,
    _permit: OwnedSemaphorePermit,
    (stop, abort): (CancellationToken, CancellationToken),
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME_MAX);
    builder.max_buf_size(HEADER_BYTES_MAX);
    let service = TowerToHyperService::new(router);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            abort.run_until_cancelled(connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "API connection ended badly");
    }
}

/// Answers without looking at the request, but reads some of it: closing on unread data would
/// reset the connection before the client has read the answer.
async fn refuse(mut stream: Box<dyn Stream>, abort: CancellationToken) {
    let mut ignored = [0; 1024];
    let answer = async {
        stream.write_all(FULL).await?;
        stream.shutdown().await?;
        stream.read(&mut ignored).await
    };
    let _gone = tokio::time::timeout(FINISH_MAX, abort.run_until_cancelled(answer)).await;
}
