//! The tasks that hold the connections: some for jobs ([`lane`](super::lane)), one that gives a sign of life and hears what others say, one that takes over what belongs
//! to processes that give none, and one that tidies. None of them waits for another.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use halloo_protocol::directory::Helper;
use halloo_protocol::key::DeviceKey;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_postgres::AsyncMessage;
use tracing::{debug, info, warn};

use super::carry::Carry;
use super::held::Held;
use super::key::GroupKey;
use super::lane::{Lane, guarded};
use super::link::{Link, SharedError};
use super::rows::{CHANNEL, Rows, SCHEMA_VERSION, TABLES, heard, value};
use super::{JOBS_MAX, Job, News, Shared, World};
use crate::event_loop::Internal;
use crate::store::{PendingPush, Store};

/// Connections for jobs.
const LANES: usize = 4;

/// How long a job may take, with its wait for a connection.
pub(super) const JOB_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before a database that was lost is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// How often a process gives a sign of life.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(2);

/// What another process says that waits to be heard.
const HEARD_MAX: usize = 1_024;

/// "halloo" as a number: what processes that make or change the tables wait for.
const MIGRATION_LOCK: i64 = 0x68_61_6c_6c_6f_6f;

/// Pushes taken over at a time.
pub(super) const ADOPT_MAX: i64 = 512;

const LEAVE: &str = "DELETE FROM process WHERE home = $1";
const JOIN: &str = "INSERT INTO process (process, home, beat, helper) VALUES ($1, $2, now(), $3)";
pub(super) const BEAT: &str = "UPDATE process SET beat = now(), helper = $2 WHERE process = $1";
/// Only while the process counts as alive: what it took over after that would have no owner.
pub(super) const ADOPT: &str = "
    WITH member AS (SELECT process FROM process WHERE process = $1 FOR KEY SHARE)
    UPDATE push SET owner = member.process FROM member WHERE number IN (
        SELECT number FROM push WHERE owner NOT IN (SELECT process FROM process) ORDER BY number LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING number, content";

/// What a process has in the group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    /// Its number.
    pub(in crate::roles::gateway) process: u64,
    /// The count of looks at the rows before this one.
    pub(in crate::roles::gateway) since: u64,
    /// Its pushes, with those it took over.
    pub(in crate::roles::gateway) pushes: Vec<(u64, PendingPush)>,
    /// Numbers given to pushes that were carried over.
    pub(in crate::roles::gateway) counted: u64,
}

impl Joined {
    /// A number for a push: numbers of a process are its own, and a process that starts again is another one.
    pub(super) fn next_number(&mut self) -> u64 {
        self.counted += 1;
        number_of(self.process, self.counted)
    }
}

/// The number of a process's push.
pub(super) fn number_of(process: u64, counted: u64) -> u64 {
    process << 32 | (counted & u64::from(u32::MAX))
}

/// A shared database at hand.
pub(in crate::roles::gateway) struct Opened {
    pub(in crate::roles::gateway) shared: Shared,
    pub(in crate::roles::gateway) joined: Joined,
    /// The group's key for push services (RFC 8292).
    pub(in crate::roles::gateway) vapid: Vec<u8>,
}

/// How to open one.
pub(in crate::roles::gateway) struct Opening<'a> {
    pub(in crate::roles::gateway) url: &'a str,
    pub(in crate::roles::gateway) password: Option<&'a str>,
    pub(in crate::roles::gateway) key_file: &'a Path,
    pub(in crate::roles::gateway) tls: rustls::ClientConfig,
    pub(in crate::roles::gateway) device: DeviceKey,
    /// Becomes the group's key for push services if it has none yet.
    pub(in crate::roles::gateway) vapid: &'a [u8],
    /// What is in this gateway's home from before is carried over.
    pub(in crate::roles::gateway) store: &'a Store,
}

/// Connects, makes the tables if there are none, and joins the group.
pub(in crate::roles::gateway) async fn open(opening: Opening<'_>, news: mpsc::Sender<Internal>) -> Result<Opened, SharedError> {
    let link = Link::new(opening.url, opening.password, opening.tls)?;
    let (client, connection) = link.connect().await?;
    tokio::spawn(connection);
    let failed = |error: tokio_postgres::Error| link.explain(&error);
    let key = prepare(&client, &link, opening.key_file).await?;
    let mut rows = Rows::begin(client, key.clone()).await.map_err(failed)?;
    let vapid = vapid(&mut rows, &key, opening.vapid).await.map_err(failed)?;
    let vapid = vapid.ok_or_else(|| SharedError::Failed {
        place: link.place().to_owned(),
        reason: "the key for push services can't be opened".to_owned(),
    })?;
    let member = Member {
        link,
        key: key.clone(),
        home: key.index("process", opening.device.as_bytes()).to_vec(),
        process: Arc::new(AtomicI64::new(0)),
        looks: Arc::new(AtomicU64::new(0)),
        news,
    };
    // Before this process is one of the group: it gives no signs of life yet.
    let mut carry = Carry { store: opening.store, rows: &mut rows, has_own_vapid: vapid == opening.vapid };
    carry.registrations().await.map_err(|failed| failed.explain(&member.link))?;
    let mut joined = member.join(&mut rows, None).await.map_err(|error| member.link.explain(&error))?;
    let mut carry = Carry { store: opening.store, rows: &mut rows, has_own_vapid: vapid == opening.vapid };
    carry.pushes(&mut joined).await.map_err(|failed| failed.explain(&member.link))?;
    let (database, waiting) = (member.link.place(), joined.pushes.len());
    info!(database, waiting, "joined the gateways of a database as process {}", joined.process);
    let lanes = (0..LANES).map(|_| member.start_lane()).collect();
    let held = Held::new(Arc::clone(&member.looks));
    let (own_helper, helper) = watch::channel(None);
    let member = Arc::new(member);
    tokio::spawn(Arc::clone(&member).run(helper));
    tokio::spawn(Arc::clone(&member).succeed());
    tokio::spawn(member.tidy());
    let shared = Shared {
        key,
        lanes,
        own_helper,
        process: joined.process,
        counted: joined.counted,
        world: World::default(),
        gathered: None,
        held,
        others: Vec::new(),
        registrations: 0,
        connected: HashMap::new(),
    };
    Ok(Opened { shared, joined, vapid })
}

/// Makes the tables if there are none, one process at a time. Gives the group's key.
async fn prepare(client: &tokio_postgres::Client, link: &Link, key_file: &Path) -> Result<GroupKey, SharedError> {
    let failed = |error: tokio_postgres::Error| link.explain(&error);
    client.batch_execute("BEGIN; SET LOCAL lock_timeout TO 8000").await.map_err(failed)?;
    client.query("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await.map_err(failed)?;
    // Asked first: who may use a schema may not make one.
    let row = client.query_one("SELECT to_regclass('halloo_gateway.setting') IS NOT NULL", &[]).await.map_err(failed)?;
    if !row.try_get::<_, bool>(0).map_err(failed)? {
        let made = "CREATE SCHEMA IF NOT EXISTS halloo_gateway; CREATE TABLE halloo_gateway.setting (name text PRIMARY KEY, value bytea NOT NULL)";
        client.batch_execute(made).await.map_err(failed)?;
        client.batch_execute(TABLES).await.map_err(failed)?;
        let version = SCHEMA_VERSION.to_be_bytes().to_vec();
        put_setting(client, "schema", &version).await.map_err(failed)?;
    }
    // Version 1 is the first: nothing older to bring up to date.
    let found = setting(client, "schema").await.map_err(failed)?.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let found = found.map_or(0, i32::from_be_bytes);
    if found > SCHEMA_VERSION {
        return Err(SharedError::TooNew { place: link.place().to_owned(), found, known: SCHEMA_VERSION });
    }
    let known = setting(client, "key").await.map_err(failed)?;
    let file_error = |reason| SharedError::File("database_key", reason);
    let other_key = || SharedError::OtherKey { place: link.place().to_owned(), path: key_file.display().to_string() };
    let key = match (GroupKey::read(key_file).map_err(file_error)?, &known) {
        (Some(key), _) => key,
        (None, None) => GroupKey::create(key_file).map_err(file_error)?,
        (None, Some(_)) => return Err(other_key()),
    };
    let mark = key.index("mark", b"group").to_vec();
    match known {
        Some(known) if known != mark => return Err(other_key()),
        Some(_) => {}
        None => put_setting(client, "key", &mark).await.map_err(failed)?,
    }
    client.batch_execute("COMMIT").await.map_err(failed)?;
    Ok(key)
}

async fn setting(client: &tokio_postgres::Client, name: &str) -> Result<Option<Vec<u8>>, tokio_postgres::Error> {
    let row = client.query_opt("SELECT value FROM halloo_gateway.setting WHERE name = $1", &[&name]).await?;
    row.map(|row| row.try_get(0)).transpose()
}

async fn put_setting(client: &tokio_postgres::Client, name: &str, value: &[u8]) -> Result<(), tokio_postgres::Error> {
    let sql = "INSERT INTO halloo_gateway.setting (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    client.execute(sql, &[&name, &value]).await.map(|_| ())
}

/// The group's key for push services: ours if there is none yet.
async fn vapid(rows: &mut Rows, key: &GroupKey, own: &[u8]) -> Result<Option<Vec<u8>>, tokio_postgres::Error> {
    let place = ("setting", &b"vapid"[..]);
    let Some(sealed) = key.seal(place, own) else { return Ok(None) };
    rows.execute("INSERT INTO setting (name, value) VALUES ('vapid', $1) ON CONFLICT DO NOTHING", &[&sealed]).await?;
    let found = rows.query("SELECT value FROM setting WHERE name = 'vapid'", &[]).await?;
    Ok(found.first().and_then(|row| key.open(place, &value::<Vec<u8>>(row, 0)?)))
}

/// This process in the group.
pub(super) struct Member {
    pub(super) link: Link,
    pub(super) key: GroupKey,
    /// The gateway's name in the group: one that starts again takes the place of what it was.
    home: Vec<u8>,
    pub(super) process: Arc<AtomicI64>,
    /// How often the rows that are its own were looked at.
    pub(super) looks: Arc<AtomicU64>,
    pub(super) news: mpsc::Sender<Internal>,
}

impl Member {
    /// Takes a number, and what belonged to processes that are no more: first of all to an earlier run of this one.
    async fn join(&self, rows: &mut Rows, helper: Option<&Helper>) -> Result<Joined, tokio_postgres::Error> {
        let since = self.looks.fetch_add(1, Ordering::Relaxed);
        rows.batch("BEGIN").await?;
        let number = rows.query("SELECT nextval('process_number')", &[]).await?;
        let process: i64 = number.first().and_then(|row| value(row, 0)).unwrap_or_default();
        rows.execute(LEAVE, &[&self.home]).await?;
        let sealed = rows.seal_helper(process, helper);
        rows.execute(JOIN, &[&process, &self.home, &sealed]).await?;
        let adopted = rows.query(ADOPT, &[&process, &ADOPT_MAX]).await?;
        rows.batch("COMMIT").await?;
        self.process.store(process, Ordering::Relaxed);
        let pushes = adopted.iter().filter_map(|row| rows.push(row)).collect();
        Ok(Joined { process: process.cast_unsigned(), since, pushes, counted: 0 })
    }

    pub(super) async fn tell(&self, news: News) -> bool {
        self.news.send(Internal::GatewayRecords(Box::new(news))).await.is_ok()
    }

    /// Lives in the group until the node ends.
    async fn run(self: Arc<Self>, helper: watch::Receiver<Option<Helper>>) {
        let mut was_lost = false;
        while !self.news.is_closed() {
            match guarded(self.live(&helper, was_lost)).await {
                Some(Ok(())) => return,
                Some(Err(error)) if was_lost => debug!(%error, "the gateway's database isn't back yet"),
                Some(Err(error)) => warn!(%error, "the gateway's database is lost: pushes are refused until it is back"),
                None => {}
            }
            was_lost = true;
            tokio::time::sleep(RETRY).await;
        }
    }

    /// A connection of its own.
    pub(super) async fn connect(&self) -> Result<Rows, SharedError> {
        let (client, connection) = self.link.connect().await?;
        tokio::spawn(connection);
        Rows::begin(client, self.key.clone()).await.map_err(|error| self.link.explain(&error))
    }

    /// Lives on one connection; `Ok` once the node has ended.
    async fn live(&self, helper: &watch::Receiver<Option<Helper>>, was_lost: bool) -> Result<(), SharedError> {
        let failed = |error: tokio_postgres::Error| self.link.explain(&error);
        let (client, mut connection) = self.link.connect().await?;
        let (say, mut hear) = mpsc::channel(HEARD_MAX);
        tokio::spawn(async move {
            let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = futures::StreamExt::next(&mut messages).await {
                // Never waited for: what is said too fast is dropped, and found when the rows are compared.
                if let AsyncMessage::Notification(told) = message
                    && let Err(mpsc::error::TrySendError::Closed(_)) = say.try_send(told.payload().to_owned())
                {
                    return;
                }
            }
        });
        let mut rows = Rows::begin(client, self.key.clone()).await.map_err(failed)?;
        rows.batch(&format!("LISTEN {CHANNEL}")).await.map_err(failed)?;
        if was_lost {
            info!("the gateway's database is back");
        }
        loop {
            let next = tokio::time::Instant::now() + BEAT_EVERY;
            let step = timeout(JOB_TIMEOUT, self.beat(&mut rows, helper)).await;
            step.map_err(|_| self.silent())?.map_err(failed)?;
            loop {
                tokio::select! {
                    told = hear.recv() => match told {
                        Some(told) => self.hear(&told),
                        None => return Err(self.silent()),
                    },
                    () = tokio::time::sleep_until(next) => break,
                    () = self.news.closed() => return Ok(()),
                }
            }
        }
    }

    /// What another process says.
    fn hear(&self, told: &str) {
        let Some(news) = heard(&self.key, told) else { return debug!("a word that isn't of this group's gateways") };
        // A sign of life doesn't wait until it is heard.
        if self.news.try_send(Internal::GatewayRecords(Box::new(news))).is_err() {
            debug!("a word of another gateway isn't heard: too much is under way");
        }
    }

    pub(super) fn silent(&self) -> SharedError {
        SharedError::Unreachable { place: self.link.place().to_owned(), reason: "the connection is lost".to_owned() }
    }

    /// A sign of life.
    async fn beat(&self, rows: &mut Rows, helper: &watch::Receiver<Option<Helper>>) -> Result<(), tokio_postgres::Error> {
        let process = self.process.load(Ordering::Relaxed);
        let own = helper.borrow().clone();
        let sealed = rows.seal_helper(process, own.as_ref());
        if rows.execute(BEAT, &[&process, &sealed]).await? == 0 {
            info!("this gateway was taken for dead: it joins anew");
            let joined = self.join(rows, own.as_ref()).await?;
            self.tell(News::Joined(joined)).await;
        }
        Ok(())
    }

    fn start_lane(&self) -> mpsc::Sender<(Instant, Job)> {
        let (sender, jobs) = mpsc::channel(JOBS_MAX);
        let lane = Lane::new(self.link.clone(), self.key.clone(), Arc::clone(&self.process), self.news.clone());
        tokio::spawn(lane.run(jobs));
        sender
    }
}
