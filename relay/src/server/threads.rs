//! The threads of batched workers, as tasks of the server.

use std::io;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::ServeError;
use crate::worker::{Stop, Worker};

/// Running threads. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Threads {
    stops: Vec<Stop>,
}

impl Threads {
    /// Starts a thread for each worker, and a task for each that ends with it.
    pub(super) fn start(workers: Vec<Worker>, tasks: &mut JoinSet<Result<(), ServeError>>) -> Self {
        let mut stops = Vec::new();
        for (number, worker) in workers.into_iter().enumerate() {
            stops.push(worker.stopper());
            let (ended, has_ended) = oneshot::channel();
            let thread = std::thread::Builder::new().name(format!("relay-{number}")).spawn(move || {
                // Nobody listens if the server's future was dropped.
                let _ = ended.send(worker.run());
            });
            tasks.spawn(async move {
                thread.map_err(ServeError::Thread)?;
                match has_ended.await {
                    Ok(result) => result.map_err(|(address, source)| ServeError::Receive { address, source }),
                    Err(_) => Err(ServeError::Thread(io::Error::other("it panicked"))),
                }
            });
        }
        Self { stops }
    }

    /// Ends them. Their tasks are done when they have ended.
    pub(super) fn stop(&self) {
        self.stops.iter().for_each(Stop::stop);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}
