//! What a process does for its group beside giving signs of life: it takes over what belongs to processes that give none, compares its own rows with what it knows, and
//! removes what is over. On connections of their own: none of it keeps a sign of life waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout;
use tokio_postgres::Error;
use tracing::{debug, info, warn};

use super::held::Owned;
use super::lane::guarded;
use super::link::SharedError;
use super::rows::{Rows, SILENT_SECS, value};
use super::worker::{ADOPT, ADOPT_MAX, BEAT_EVERY, JOB_TIMEOUT, Member, RETRY};
use super::{News, PendingPush};
use crate::store::GATEWAY_PENDING_MAX;

/// How often the rows of this process are compared with what it knows.
const COMPARE_EVERY: Duration = Duration::from_secs(8);

/// How often is removed what is over, and counted what is left.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Rows looked at, or removed, by one statement; and how often in a row.
const BATCH: i64 = 1_000;
const BATCHES_MAX: usize = 100;

/// One whose last commit is under way is left alone: it waits for nobody.
const BURY: &str = "DELETE FROM process WHERE process IN (
    SELECT process FROM process WHERE process <> $1 AND beat < now() - make_interval(secs => $2) FOR UPDATE SKIP LOCKED)";
const OTHERS: &str = "SELECT process, helper FROM process WHERE process <> $1 ORDER BY process LIMIT 16";
const OWN: &str = "SELECT number FROM push WHERE owner = $1 AND number > $2 ORDER BY number LIMIT $3";
const TIDY_PUSHES: &str = "DELETE FROM push WHERE number IN (
    SELECT number FROM push WHERE expires_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)";
const TIDY_REGISTRATIONS: &str = "DELETE FROM registration WHERE handle IN (
    SELECT handle FROM registration WHERE expires_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)";
const TIDY_CHOICES: &str = "DELETE FROM choice WHERE identity IN (
    SELECT identity FROM choice c WHERE NOT EXISTS (SELECT 1 FROM registration r WHERE r.identity = c.identity) LIMIT $1)";
const TIDY_NOTICES: &str = "DELETE FROM notice WHERE (device, name) IN (
    SELECT device, name FROM notice WHERE at < now() - make_interval(days => $1) LIMIT $2)";

/// For how long a device that never comes is to be told that a channel has ended: as long as its registration may last.
const NOTICE_DAYS: i32 = 60;

impl Member {
    /// Takes over what others leave, until the node ends.
    pub(super) async fn succeed(self: Arc<Self>) {
        while !self.news.is_closed() {
            if let Some(Err(error)) = guarded(self.succeed_on_one_connection()).await {
                debug!(%error, "nothing can be taken over from other gateways now");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn succeed_on_one_connection(&self) -> Result<(), SharedError> {
        let failed = |error: Error| self.link.explain(&error);
        let mut rows = self.connect().await?;
        let (since, mut compared) = (Instant::now(), None);
        while !self.news.is_closed() {
            let step = timeout(JOB_TIMEOUT, self.take_over(&mut rows, since)).await;
            step.map_err(|_| self.silent())?.map_err(failed)?;
            if compared.is_none_or(|at: Instant| at.elapsed() >= COMPARE_EVERY) {
                compared = Some(Instant::now());
                self.compare(&mut rows).await.map_err(failed)?;
            }
            tokio::select! {
                () = tokio::time::sleep(BEAT_EVERY) => {}
                () = self.news.closed() => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whoever gave no sign of life is succeeded.
    async fn take_over(&self, rows: &mut Rows, since: Instant) -> Result<(), Error> {
        let process = self.process.load(Ordering::Relaxed);
        // Whoever has just come, or whose database was away, gives the others time to show themselves.
        if since.elapsed() >= Duration::from_secs(u64::from(SILENT_SECS)) {
            let buried = rows.execute(BURY, &[&process, &f64::from(SILENT_SECS)]).await?;
            if buried > 0 {
                info!(buried, "gateways of this database give no sign of life: what waits there is taken over");
            }
        }
        let adopted = rows.query(ADOPT, &[&process, &ADOPT_MAX]).await?;
        let pushes: Vec<(u64, PendingPush)> = adopted.iter().filter_map(|row| rows.push(row)).collect();
        if !pushes.is_empty() {
            info!(pushes = pushes.len(), "pushes of another gateway taken over");
            self.tell(News::Adopted(pushes)).await;
        }
        let found = rows.query(OTHERS, &[&process]).await?;
        let others = found.iter().filter_map(|row| rows.helper(row)).collect();
        self.tell(News::Group(Some(others), None)).await;
        Ok(())
    }

    /// Looks which rows are this process's own.
    async fn compare(&self, rows: &mut Rows) -> Result<(), Error> {
        let process = self.process.load(Ordering::Relaxed);
        let since = self.looks.fetch_add(1, Ordering::Relaxed);
        let (mut numbers, mut after, mut is_all) = (Vec::new(), i64::MIN, false);
        while !is_all && (numbers.len() as u64) < 2 * GATEWAY_PENDING_MAX {
            let found = rows.query(OWN, &[&process, &after, &BATCH]).await?;
            let page: Vec<i64> = found.iter().filter_map(|row| value(row, 0)).collect();
            is_all = page.len() < usize::try_from(BATCH).unwrap_or_default();
            after = page.last().copied().unwrap_or(after);
            numbers.extend(page.into_iter().map(i64::cast_unsigned));
        }
        self.tell(News::Owned(Owned { process: process.cast_unsigned(), since, numbers, is_all })).await;
        Ok(())
    }

    /// Removes what is over, now and then, until the node ends. That it fails harms nobody.
    pub(super) async fn tidy(self: Arc<Self>) {
        while !self.news.is_closed() {
            if let Some(Err(error)) = guarded(self.tidy_once()).await {
                warn!(%error, "what is over isn't removed from the gateway's database now");
            }
            tokio::select! {
                () = tokio::time::sleep(TIDY_EVERY) => {}
                () = self.news.closed() => return,
            }
        }
    }

    async fn tidy_once(&self) -> Result<(), SharedError> {
        let failed = |error: Error| self.link.explain(&error);
        let mut rows = self.connect().await?;
        let counted = rows.query("SELECT count(*) FROM registration", &[]).await.map_err(failed)?;
        if let Some(count) = counted.first().and_then(|row| value::<i64>(row, 0)) {
            self.tell(News::Group(None, Some(count.cast_unsigned()))).await;
        }
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // A clock that is a little ahead removes nothing too early.
        let before = i64::try_from(unix.saturating_sub(60)).unwrap_or(i64::MAX);
        for sql in [TIDY_PUSHES, TIDY_REGISTRATIONS] {
            for _ in 0..BATCHES_MAX {
                if rows.execute(sql, &[&before, &BATCH]).await.map_err(failed)? < BATCH.cast_unsigned() {
                    break;
                }
            }
        }
        rows.execute(TIDY_CHOICES, &[&BATCH]).await.map_err(failed)?;
        rows.execute(TIDY_NOTICES, &[&NOTICE_DAYS, &BATCH]).await.map_err(failed)?;
        Ok(())
    }
}
