//! A connection for jobs: what decisions are made by is fetched, and what they change is committed.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::Error;
use tracing::{debug, warn};

use super::key::GroupKey;
use super::link::{Link, SharedError};
use super::rows::Rows;
use super::worker::{JOB_TIMEOUT, RETRY};
use super::{Change, Job, News, Outcome, Query, World};
use crate::event_loop::Internal;

/// Whoever asks a gateway waits for a few seconds: a job that is older than this is answered as not done.
const STALE: Duration = Duration::from_secs(4);

/// Changes nobody waits for, kept while the database is away, and made between two jobs.
const BACKLOG_MAX: usize = 4_096;
const BACKLOG_BATCH: usize = 64;

/// How often the database may refuse such a change before it is thrown away.
const REFUSALS_MAX: u8 = 20;

/// What a failure says of the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing was sent.
    Away,
    /// Nothing was changed; it may go better later.
    Unmade,
    /// Nothing was changed, and never will be.
    Never,
    /// Whether they were made isn't known: the answer was lost.
    Unknown,
}

/// From the code of the database's word (SQLSTATE), if it has said one.
fn fate_of(code: Option<&str>) -> Fate {
    match code {
        // Connection exceptions, its stop, its own errors, and "statement completion unknown".
        Some(code) if ["08", "57P", "58", "XX"].iter().any(|class| code.starts_with(class)) => Fate::Unknown,
        Some("40003") | None => Fate::Unknown,
        // Rights may be given.
        Some("42501") => Fate::Unmade,
        Some(code) if ["22", "23", "42"].iter().any(|class| code.starts_with(class)) => Fate::Never,
        Some(_) => Fate::Unmade,
    }
}

/// Its jobs, each with the time it was given.
pub(super) type Jobs = mpsc::Receiver<(Instant, Job)>;

/// A connection for jobs.
pub(super) struct Lane {
    link: Link,
    key: GroupKey,
    process: Arc<AtomicI64>,
    news: mpsc::Sender<Internal>,
    rows: Option<Rows>,
    failed_at: Option<Instant>,
    /// What nobody waits for, and how often it was refused.
    backlog: VecDeque<(Vec<Change>, u8)>,
}

/// What panics has failed: it takes nothing else with it.
pub(super) async fn guarded<T>(work: impl Future<Output = T>) -> Option<T> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.inspect_err(|_| warn!("a fault in what speaks with the gateway's database: it goes on")).ok()
}

impl Lane {
    pub(super) fn new(link: Link, key: GroupKey, process: Arc<AtomicI64>, news: mpsc::Sender<Internal>) -> Self {
        Self { link, key, process, news, rows: None, failed_at: None, backlog: VecDeque::new() }
    }

    pub(super) async fn run(mut self, mut jobs: Jobs) {
        let mut pause = Duration::ZERO;
        loop {
            let next = if self.backlog.is_empty() { Ok(jobs.recv().await) } else { timeout(pause, jobs.recv()).await };
            let done = match next {
                Ok(None) => {
                    while guarded(self.flush()).await == Some(true) && !self.backlog.is_empty() {}
                    return;
                }
                Ok(Some((given, job))) => self.serve(given, job).await,
                Err(_) => true,
            };
            if !done {
                return;
            }
            pause = if guarded(self.flush()).await == Some(true) { Duration::ZERO } else { RETRY };
        }
    }

    /// Does a job; false once the node has ended.
    async fn serve(&mut self, given: Instant, job: Job) -> bool {
        match job {
            Job::Load(ticket, query) => {
                let world = if given.elapsed() > STALE { None } else { guarded(self.load(&query)).await.flatten() };
                self.tell(News::Loaded(ticket, world.map(Box::new))).await
            }
            Job::Commit(Some(ticket), changes) => {
                let outcome = if given.elapsed() > STALE { None } else { guarded(self.commit(&changes, given)).await.flatten() };
                self.tell(News::Committed(ticket, outcome)).await
            }
            Job::Commit(None, changes) => {
                if self.backlog.len() >= BACKLOG_MAX {
                    warn!("too much waits for the gateway's database: a push may go out twice");
                    self.backlog.pop_front();
                }
                self.backlog.push_back((changes, 0));
                true
            }
        }
    }

    async fn tell(&self, news: News) -> bool {
        self.news.send(Internal::GatewayRecords(Box::new(news))).await.is_ok()
    }

    /// Some of the changes that nobody waits for; each may come twice without harm. False if the database is away.
    async fn flush(&mut self) -> bool {
        for _ in 0..BACKLOG_BATCH {
            let Some((changes, refusals)) = self.backlog.pop_front() else { return true };
            let failed = match self.attempt(&changes).await {
                Ok(Outcome::Unsealed) => Fate::Unmade,
                Ok(_) => continue,
                Err(fate) => fate,
            };
            let refusals = refusals.saturating_add(u8::from(failed == Fate::Unmade));
            if failed == Fate::Never || refusals >= REFUSALS_MAX {
                warn!("the gateway's database refuses a change, which is given up: a push may go out twice");
                continue;
            }
            self.backlog.push_front((changes, refusals));
            return false;
        }
        true
    }

    async fn load(&mut self, query: &Query) -> Option<World> {
        let mut rows = self.connection().await?;
        let process = self.process.load(Ordering::Relaxed);
        match timeout(JOB_TIMEOUT, rows.load(query, process)).await {
            Ok(Ok(world)) => {
                self.rows = Some(rows);
                Some(world)
            }
            Ok(Err(error)) => {
                self.note(&error);
                None
            }
            Err(_) => {
                warn!("the gateway's database doesn't answer in time");
                None
            }
        }
    }

    /// Makes changes. If the answer is lost they are made once more, on another connection: a push has its number, and is there once, and for anything else rows have
    /// versions. If there is no time for that, or no connection, the rows that this process owns are compared with what it knows soon.
    async fn commit(&mut self, changes: &[Change], given: Instant) -> Option<Outcome> {
        match self.attempt(changes).await {
            Ok(outcome) => return Some(outcome),
            Err(Fate::Unknown) if given.elapsed() < STALE => {}
            Err(_) => return None,
        }
        debug!("whether a change is in the gateway's database isn't known: it is asked again");
        let outcome = self.attempt(changes).await.ok()?;
        Some(if is_ours(&outcome, changes) { Outcome::Done } else { outcome })
    }

    async fn attempt(&mut self, changes: &[Change]) -> Result<Outcome, Fate> {
        // It isn't kept if anything fails: in which state it is then isn't known.
        let mut rows = self.connection().await.ok_or(Fate::Away)?;
        let process = self.process.load(Ordering::Relaxed);
        match timeout(JOB_TIMEOUT, rows.change(changes, process)).await {
            Ok(Ok(outcome)) => {
                self.rows = Some(rows);
                Ok(outcome)
            }
            Ok(Err(error)) => {
                self.note(&error);
                Err(fate_of(error.as_db_error().map(|told| told.code().code())))
            }
            Err(_) => {
                warn!("the gateway's database doesn't answer in time");
                Err(Fate::Unknown)
            }
        }
    }

    fn note(&self, error: &Error) {
        warn!(error = %self.link.explain(error), "the gateway's database");
    }

    async fn connection(&mut self) -> Option<Rows> {
        if let Some(rows) = self.rows.take().filter(|rows| !rows.is_closed()) {
            return Some(rows);
        }
        if self.failed_at.is_some_and(|at| at.elapsed() < RETRY) {
            return None;
        }
        let reason = match timeout(JOB_TIMEOUT, self.connect()).await {
            Ok(Ok(rows)) => {
                self.failed_at = None;
                return Some(rows);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        debug!(reason, "no connection to the gateway's database");
        self.failed_at = Some(Instant::now());
        None
    }

    async fn connect(&self) -> Result<Rows, SharedError> {
        let (client, connection) = self.link.connect().await?;
        tokio::spawn(connection);
        Rows::begin(client, self.key.clone()).await.map_err(|error| self.link.explain(&error))
    }
}

/// Whether the push that is known already is the one that was to be added: the first try did it.
fn is_ours(outcome: &Outcome, changes: &[Change]) -> bool {
    let Outcome::Known(Some(known)) = outcome else { return false };
    changes.iter().any(|change| matches!(change, Change::AddPush { number, .. } if number == known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_says_of_changes() {
        for (code, fate) in [
            (None, Fate::Unknown),
            (Some("57P01"), Fate::Unknown),
            (Some("08006"), Fate::Unknown),
            (Some("40003"), Fate::Unknown),
            (Some("57014"), Fate::Unmade),
            (Some("55P03"), Fate::Unmade),
            (Some("40001"), Fate::Unmade),
            (Some("53100"), Fate::Unmade),
            (Some("42501"), Fate::Unmade),
            (Some("23505"), Fate::Never),
            (Some("42P01"), Fate::Never),
            (Some("22021"), Fate::Never),
        ] {
            assert_eq!(fate_of(code), fate, "{code:?}");
        }
    }

    #[tokio::test]
    async fn a_fault_is_a_failure() {
        assert_eq!(guarded(async { 1 }).await, Some(1));
        let faulty: Option<u8> = guarded(async { panic!("a fault, of a test") }).await;
        assert_eq!(faulty, None);
    }
}
