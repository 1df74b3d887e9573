//! What happened: stages, with timings, told as they end.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Stage, TestnetEvent};

/// Why a stage failed, in words. Every error becomes one.
#[derive(Debug)]
pub(super) struct Failure(String);

/// What a stage ends with: what happened, in words and figures.
pub(super) type Outcome = Result<String, Failure>;

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(crate::calls::describe(&error))
    }
}

/// Fails a stage unless `holds`.
pub(super) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure(otherwise())) }
}

/// Runs a stage's work: not longer than `limit`, not after `stop`.
pub(super) async fn work(name: &str, limit: Duration, stop: &CancellationToken, work: impl Future<Output = Outcome>) -> Stage {
    let started = Instant::now();
    let outcome = tokio::select! {
        biased;
        () = stop.cancelled() => Err(Failure::new("interrupted")),
        outcome = tokio::time::timeout(limit, work) => {
            outcome.unwrap_or_else(|_| Err(Failure(format!("not done after {} s", limit.as_secs()))))
        }
    };
    let elapsed_ms = crate::diagnosis::millis(started.elapsed());
    let (ok, detail) = match outcome {
        Ok(detail) => (true, detail),
        Err(Failure(reason)) => (false, reason),
    };
    Stage { name: name.to_owned(), ok, elapsed_ms, detail }
}

/// Collects stages and tells of them.
pub(super) struct Report<'a> {
    stages: Vec<Stage>,
    stop: CancellationToken,
    on_event: &'a mut dyn FnMut(TestnetEvent),
}

impl<'a> Report<'a> {
    pub(super) fn new(stop: CancellationToken, on_event: &'a mut dyn FnMut(TestnetEvent)) -> Self {
        Self { stages: Vec::new(), stop, on_event }
    }

    /// Runs one stage and tells of it; returns whether it worked.
    pub(super) async fn stage(&mut self, name: &str, limit: Duration, stage: impl Future<Output = Outcome>) -> bool {
        self.started(name);
        let done = work(name, limit, &self.stop, stage).await;
        self.finished(done)
    }

    pub(super) fn started(&mut self, name: &str) {
        (self.on_event)(TestnetEvent::StageStarted { name: name.to_owned() });
    }

    /// Takes over a stage that ran elsewhere; returns whether it worked.
    pub(super) fn finished(&mut self, stage: Stage) -> bool {
        let ok = stage.ok;
        (self.on_event)(TestnetEvent::Stage(stage.clone()));
        self.stages.push(stage);
        ok
    }

    /// Tells something that is no stage.
    pub(super) fn tell(&mut self, event: TestnetEvent) {
        (self.on_event)(event);
    }

    pub(super) const fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Tells the summary; returns whether everything worked.
    pub(super) fn finish(self) -> bool {
        let ok = !self.stages.is_empty() && self.stages.iter().all(|stage| stage.ok);
        (self.on_event)(TestnetEvent::Summary { ok, stages: self.stages });
        ok
    }
}
