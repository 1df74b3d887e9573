//! The loop of everything that listens for TCP connections: clients' streams, and the counters.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::debug;

use super::{ServeError, told_to_stop};

/// Pause after a failure to accept, as when file descriptors ran out: trying at once would only burn time.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts connections until told to stop, and serves each in a task that ends with this one. With `max` of them, one more waits in the listener's
/// backlog until another ends.
pub(crate) async fn serve<F>(
    listener: TcpListener,
    max: usize,
    mut stopped: watch::Receiver<bool>,
    connect: impl Fn(TcpStream, SocketAddr) -> F,
) -> Result<(), ServeError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = told_to_stop(&mut stopped) => return Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < max => match accepted {
                Ok((stream, address)) => { connections.spawn(connect(stream, address)); }
                Err(error) => {
                    debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
}
