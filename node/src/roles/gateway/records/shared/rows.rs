//! The tables, and what is asked of them. Names are keyed hashes and contents sealed ([`GroupKey`]); in the open are times, versions and who holds which push.

use std::collections::HashMap;

use halloo_protocol::directory::Helper;
use halloo_protocol::key::PublicKey;
use halloo_protocol::push::DeliveredStatus;
use halloo_protocol::push::registration::Registration;
use halloo_protocol::wire;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Error, Row, Statement};
use tracing::warn;

use super::key::GroupKey;
use super::{Change, Outcome, Query, World};
use crate::roles::gateway::STORED_BYTES_MAX;
use crate::roles::gateway::sessions;
use crate::store::PendingPush;

/// Version of the tables that this code writes.
pub(super) const SCHEMA_VERSION: i32 = 1;

/// The channel on which processes tell each other.
pub(super) const CHANNEL: &str = "halloo_gateway";

/// For how long a process without a sign of life is left alone, in seconds.
pub(super) const SILENT_SECS: u32 = 10;

/// Tables of version 1.
pub(super) const TABLES: &str = "
    CREATE SEQUENCE halloo_gateway.process_number MAXVALUE 2147483647;
    CREATE TABLE halloo_gateway.process (
        process bigint PRIMARY KEY, home bytea NOT NULL, beat timestamptz NOT NULL, helper bytea NOT NULL);
    CREATE TABLE halloo_gateway.registration (
        handle bytea PRIMARY KEY, device bytea NOT NULL, identity bytea NOT NULL, client bytea, expires_at bigint NOT NULL,
        version bigint NOT NULL, content bytea NOT NULL, UNIQUE (device, identity));
    CREATE INDEX ON halloo_gateway.registration (identity);
    CREATE INDEX ON halloo_gateway.registration (client);
    CREATE INDEX ON halloo_gateway.registration (expires_at);
    CREATE TABLE halloo_gateway.choice (identity bytea PRIMARY KEY, version bigint NOT NULL, content bytea NOT NULL);
    CREATE TABLE halloo_gateway.notice (
        device bytea, name bytea, at timestamptz NOT NULL, content bytea NOT NULL, PRIMARY KEY (device, name));
    CREATE TABLE halloo_gateway.push (
        number bigint PRIMARY KEY, owner bigint NOT NULL, handle bytea NOT NULL, hash bytea NOT NULL UNIQUE,
        expires_at bigint NOT NULL, content bytea NOT NULL);
    CREATE INDEX ON halloo_gateway.push (owner);
    CREATE INDEX ON halloo_gateway.push (handle);
    CREATE INDEX ON halloo_gateway.push (expires_at);
";

/// What every connection begins with: nothing hangs for ever, and what is committed is on the disk, whatever the server's settings say.
const SETTINGS: &str = "SET search_path TO halloo_gateway, pg_catalog; SET statement_timeout TO 4000; SET lock_timeout TO 3000;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

const REGISTRATIONS: &str = "
    SELECT r.handle, r.version, r.content FROM (
        SELECT identity FROM registration WHERE handle = $1::bytea
        UNION SELECT identity FROM registration WHERE device = ANY($2::bytea[])
        UNION SELECT $3::bytea) who
    JOIN registration r ON r.identity = who.identity
    ORDER BY coalesce(r.handle = $1::bytea, false) DESC, r.device = ANY($2::bytea[]) DESC LIMIT 512";

const CHOICES: &str = "
    SELECT c.identity, c.version, c.content FROM (
        SELECT identity FROM registration WHERE handle = $1::bytea
        UNION SELECT identity FROM registration WHERE device = ANY($2::bytea[])
        UNION SELECT $3::bytea) who
    JOIN choice c ON c.identity = who.identity LIMIT 64";

const OF_USER: &str = "SELECT handle, version, content FROM registration WHERE client = $1 LIMIT 512";

const NOTICES: &str = "SELECT name, content FROM notice WHERE device = $1 LIMIT 8";

const PUSHES_FOR: &str = "SELECT p.number, p.content FROM registration r JOIN push p ON p.handle = r.handle WHERE r.device = $1
    ORDER BY p.number LIMIT 64";

const PUSH: &str = "SELECT number, content FROM push WHERE number = $1";

const ADD_REGISTRATION: &str = "INSERT INTO registration (handle, device, identity, client, expires_at, version, content)
    VALUES ($1, $2, $3, $4, $5, 1, $6) ON CONFLICT DO NOTHING";

const CHANGE_REGISTRATION: &str =
    "UPDATE registration SET device = $2, identity = $3, client = $4, expires_at = $5, content = $6,
    version = version + 1 WHERE handle = $1 AND version = $7";

const REMOVE_REGISTRATION: &str = "DELETE FROM registration WHERE handle = $1 AND version = $2";

const ADD_CHOICE: &str = "INSERT INTO choice (identity, version, content) VALUES ($1, 1, $2) ON CONFLICT DO NOTHING";

const CHANGE_CHOICE: &str = "UPDATE choice SET content = $2, version = version + 1 WHERE identity = $1 AND version = $3";

const REMOVE_CHOICE: &str = "DELETE FROM choice WHERE identity = $1 AND version = $2";

/// Only while the process counts as alive: what it added after that would have no owner. The lock keeps the process from being removed, and not from giving signs of life.
const ADD_PUSH: &str = "
    WITH member AS (SELECT process FROM process WHERE process = $2 FOR KEY SHARE),
    added AS (INSERT INTO push (number, owner, handle, hash, expires_at, content)
        SELECT $1, process, $3, $4, $5, $6 FROM member ON CONFLICT (hash) DO NOTHING RETURNING 1)
    SELECT (SELECT count(*) FROM member), (SELECT count(*) FROM added)";

const KNOWN_PUSH: &str = "SELECT number FROM push WHERE hash = $1 AND owner = $2";

const OWN_PUSHES: &str = "SELECT number, content FROM push WHERE number = ANY($1) AND owner = $2";

const CHANGE_PUSH: &str = "UPDATE push SET content = $2 WHERE number = $1 AND owner = $3";

const REMOVE_PUSH: &str = "DELETE FROM push WHERE number = $1 AND owner = $2";

const PUSH_BROUGHT: &str = "WITH gone AS (DELETE FROM push WHERE number = $1 RETURNING owner)
    SELECT pg_notify('halloo_gateway', $3) FROM gone WHERE owner <> $2";

const PUT_NOTICE: &str = "INSERT INTO notice (device, name, at, content) VALUES ($1, $2, now(), $3)
    ON CONFLICT (device, name) DO UPDATE SET at = now(), content = $3";

const PRUNE_NOTICES: &str =
    "DELETE FROM notice WHERE device = $1 AND name IN (SELECT name FROM notice WHERE device = $1 ORDER BY at DESC OFFSET 8)";

const REMOVE_NOTICE: &str = "DELETE FROM notice WHERE device = $1 AND name = $2";

const ASK: &str = "SELECT pg_notify('halloo_gateway', $1)";

/// Parameters of a statement.
type Values<'a> = [&'a (dyn ToSql + Sync)];

/// A connection with its prepared statements.
pub(super) struct Rows {
    client: Client,
    statements: HashMap<&'static str, Statement>,
    key: GroupKey,
}

impl Rows {
    /// Begins.
    pub(super) async fn begin(client: Client, key: GroupKey) -> Result<Self, Error> {
        client.batch_execute(SETTINGS).await?;
        Ok(Self { client, statements: HashMap::new(), key })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(super) async fn query(&mut self, sql: &'static str, values: &Values<'_>) -> Result<Vec<Row>, Error> {
        let statement = self.statement(sql).await?;
        self.client.query(&statement, values).await
    }

    pub(super) async fn execute(&mut self, sql: &'static str, values: &Values<'_>) -> Result<u64, Error> {
        let statement = self.statement(sql).await?;
        self.client.execute(&statement, values).await
    }

    /// Statements without parameters.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await
    }

    async fn statement(&mut self, sql: &'static str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    fn name(&self, kind: &str, name: &[u8]) -> Vec<u8> {
        self.key.index(kind, name).to_vec()
    }

    /// Fetches what a decision needs.
    pub(super) async fn load(&mut self, query: &Query, process: i64) -> Result<World, Error> {
        let mut world = World::default();
        let handle = query.handle.map(|handle| self.name("handle", &handle.0));
        let devices: Vec<Vec<u8>> = query.devices.iter().map(|device| self.name("device", device.as_bytes())).collect();
        let identity = query.identity.map(|identity| self.name("identity", &identity.0));
        if handle.is_some() || identity.is_some() || !devices.is_empty() {
            let rows = self.query(REGISTRATIONS, &[&handle, &devices, &identity]).await?;
            world.registrations.extend(rows.iter().filter_map(|row| self.registration(row)));
            let rows = self.query(CHOICES, &[&handle, &devices, &identity]).await?;
            world.choices.extend(rows.iter().filter_map(|row| self.choice(row)));
        }
        if let Some(user) = &query.user {
            let client = self.name("user", &wire::encode(user));
            let rows = self.query(OF_USER, &[&client]).await?;
            world.registrations.extend(rows.iter().filter_map(|row| self.registration(row)));
        }
        if let Some(device) = &query.waiting_for {
            let device = self.name("device", device.as_bytes());
            let rows = self.query(NOTICES, &[&device]).await?;
            world.notices.extend(rows.iter().filter_map(|row| {
                let name: Vec<u8> = value(row, 0)?;
                self.key.open(("notice", &[&device[..], &name].concat()), &value::<Vec<u8>>(row, 1)?)
            }));
            let rows = self.query(PUSHES_FOR, &[&device]).await?;
            world.pushes.extend(rows.iter().filter_map(|row| self.push(row)));
        }
        if !query.own.is_empty() {
            let numbers: Vec<i64> = query.own.iter().map(|number| number.cast_signed()).collect();
            let rows = self.query(OWN_PUSHES, &[&numbers, &process]).await?;
            world.pushes.extend(rows.iter().filter_map(|row| self.push(row)));
        }
        if let Some(number) = query.push {
            let rows = self.query(PUSH, &[&(number.cast_signed())]).await?;
            world.pushes.extend(rows.iter().filter_map(|row| self.push(row)));
        }
        Ok(world)
    }

    fn registration(&self, row: &Row) -> Option<(Registration, i64)> {
        let content = self.opened("registration", &value::<Vec<u8>>(row, 0)?, &value::<Vec<u8>>(row, 2)?)?;
        let known =
            wire::decode(&content, STORED_BYTES_MAX).inspect_err(|error| warn!(%error, "a registration's row is malformed"));
        Some((known.ok()?, value(row, 1)?))
    }

    fn choice(&self, row: &Row) -> Option<(PublicKey, (Vec<u8>, i64))> {
        let content = self.opened("choice", &value::<Vec<u8>>(row, 0)?, &value::<Vec<u8>>(row, 2)?)?;
        let (identity, content) = content.split_first_chunk::<32>()?;
        Some((PublicKey(*identity), (content.to_vec(), value(row, 1)?)))
    }

    /// A push, from its number and content.
    pub(super) fn push(&self, row: &Row) -> Option<(u64, PendingPush)> {
        let number: i64 = value(row, 0)?;
        let content = self.opened("push", &number.to_be_bytes(), &value::<Vec<u8>>(row, 1)?)?;
        let push = wire::decode(&content, 2 * STORED_BYTES_MAX).inspect_err(|error| warn!(%error, "a push's row is malformed"));
        Some((number.cast_unsigned(), push.ok()?))
    }

    /// What a row holds. One that can't be opened is passed over.
    fn opened(&self, table: &str, name: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let content = self.key.open((table, name), sealed);
        if content.is_none() {
            warn!(table, "a row of the gateway's database can't be opened: it is passed over");
        }
        content
    }

    /// Empty if nothing is to be said, or it can't be sealed: others are told then at the next sign of life.
    pub(super) fn seal_helper(&self, process: i64, helper: Option<&Helper>) -> Vec<u8> {
        helper.and_then(|helper| self.key.seal(("process", &process.to_be_bytes()), &wire::encode(helper))).unwrap_or_default()
    }

    /// Where another process is found, if it has said so.
    pub(super) fn helper(&self, row: &Row) -> Option<Helper> {
        let process: i64 = value(row, 0)?;
        let content = self.key.open(("process", &process.to_be_bytes()), &value::<Vec<u8>>(row, 1)?)?;
        wire::decode(&content, STORED_BYTES_MAX).ok()
    }

    /// Makes changes, all or none.
    pub(super) async fn change(&mut self, changes: &[Change], process: i64) -> Result<Outcome, Error> {
        // One statement is a transaction of its own, and saves two ways there and back.
        if let [change] = changes
            && !matches!(change, Change::PutNotice { .. })
        {
            return self.make(change, process).await;
        }
        self.batch("BEGIN").await?;
        for change in changes {
            let outcome = self.make(change, process).await?;
            if outcome != Outcome::Done {
                self.batch("ROLLBACK").await?;
                return Ok(outcome);
            }
        }
        self.batch("COMMIT").await?;
        Ok(Outcome::Done)
    }

    /// Makes a change, in the transaction that is open if one is.
    pub(super) async fn make(&mut self, change: &Change, process: i64) -> Result<Outcome, Error> {
        match change {
            Change::PutRegistration { registration, version } => self.put_registration(registration, *version).await,
            Change::RemoveRegistration { handle, version } => {
                let handle = self.name("handle", &handle.0);
                self.execute(REMOVE_REGISTRATION, &[&handle, version]).await.map(decided)
            }
            Change::PutChoice { identity, content, version } => {
                let name = self.name("identity", &identity.0);
                let sealed = self.key.seal(("choice", &name), &[&identity.0[..], content].concat());
                let Some(sealed) = sealed else { return Ok(Outcome::Unsealed) };
                let made = match version {
                    None => self.execute(ADD_CHOICE, &[&name, &sealed]).await?,
                    Some(version) => self.execute(CHANGE_CHOICE, &[&name, &sealed, version]).await?,
                };
                Ok(decided(made))
            }
            Change::RemoveChoice { identity, version } => {
                let name = self.name("identity", &identity.0);
                self.execute(REMOVE_CHOICE, &[&name, version]).await.map(|_| Outcome::Done)
            }
            Change::PutNotice { device, name, notice } => {
                let (device, name) = (self.name("device", device.as_bytes()), self.name("notice", name));
                let sealed = self.key.seal(("notice", &[&device[..], &name].concat()), notice);
                let Some(sealed) = sealed else { return Ok(Outcome::Unsealed) };
                self.execute(PUT_NOTICE, &[&device, &name, &sealed]).await?;
                self.execute(PRUNE_NOTICES, &[&device]).await.map(|_| Outcome::Done)
            }
            Change::RemoveNotice { device, name } => {
                let (device, name) = (self.name("device", device.as_bytes()), self.name("notice", name));
                self.execute(REMOVE_NOTICE, &[&device, &name]).await.map(|_| Outcome::Done)
            }
            Change::AddPush { .. } | Change::UpdatePush { .. } | Change::RemovePush { .. } | Change::Ask { .. } => {
                self.make_push(change, process).await
            }
        }
    }

    async fn put_registration(&mut self, known: &Registration, version: Option<i64>) -> Result<Outcome, Error> {
        let handle = self.name("handle", &known.handle.0);
        let device = self.name("device", known.device().as_bytes());
        let identity = self.name("identity", &known.rules.identity.0.0);
        let client = sessions::user_of(known).map(|user| self.name("user", &wire::encode(&user)));
        let expires_at = seconds(known.expires_at.0);
        let Some(sealed) = self.key.seal(("registration", &handle), &wire::encode(known)) else { return Ok(Outcome::Unsealed) };
        let made = match version {
            None => self.execute(ADD_REGISTRATION, &[&handle, &device, &identity, &client, &expires_at, &sealed]).await?,
            Some(version) => {
                let values: &Values<'_> = &[&handle, &device, &identity, &client, &expires_at, &sealed, &version];
                self.execute(CHANGE_REGISTRATION, values).await?
            }
        };
        Ok(decided(made))
    }

    async fn make_push(&mut self, change: &Change, process: i64) -> Result<Outcome, Error> {
        match change {
            Change::AddPush { number, hash, push } => {
                let number = number.cast_signed();
                let (handle, hash) = (self.name("handle", &push.handle), self.name("push", hash));
                let sealed = self.key.seal(("push", &number.to_be_bytes()), &wire::encode(push));
                let Some(sealed) = sealed else { return Ok(Outcome::Unsealed) };
                let expires_at = seconds(push.expires_at.0);
                let rows = self.query(ADD_PUSH, &[&number, &process, &handle, &hash, &expires_at, &sealed]).await?;
                let count = |column| rows.first().and_then(|row| value::<i64>(row, column)).unwrap_or_default();
                match (count(0), count(1)) {
                    (0, _) => Ok(Outcome::Conflict),
                    (_, 0) => {
                        // In a statement of its own: the other one's may be newer than what the first has seen.
                        let known = self.query(KNOWN_PUSH, &[&hash, &process]).await?;
                        let number = known.first().and_then(|row| value::<i64>(row, 0)).map(i64::cast_unsigned);
                        Ok(Outcome::Known(number))
                    }
                    _ => Ok(Outcome::Done),
                }
            }
            Change::UpdatePush { number, push } => {
                let number = number.cast_signed();
                let sealed = self.key.seal(("push", &number.to_be_bytes()), &wire::encode(push));
                let Some(sealed) = sealed else { return Ok(Outcome::Unsealed) };
                self.execute(CHANGE_PUSH, &[&number, &sealed, &process]).await.map(|_| Outcome::Done)
            }
            Change::RemovePush { number, brought: None } => {
                self.execute(REMOVE_PUSH, &[&number.cast_signed(), &process]).await.map(|_| Outcome::Done)
            }
            Change::RemovePush { number, brought: Some(status) } => {
                let told = self.key.signed(&format!("brought {number} {}", status_number(*status)));
                self.query(PUSH_BROUGHT, &[&number.cast_signed(), &process, &told]).await.map(|_| Outcome::Done)
            }
            Change::Ask { number, device } => {
                let device = data_encoding::HEXLOWER.encode(&self.key.index("device", device.as_bytes()));
                let told = self.key.signed(&format!("ask {number} {device}"));
                self.query(ASK, &[&told]).await.map(|_| Outcome::Done)
            }
            _ => Ok(Outcome::Done),
        }
    }
}

/// A column's value. One of another kind, or none, is what somebody else has written: its row is passed over.
pub(super) fn value<T: for<'a> FromSql<'a>>(row: &Row, column: usize) -> Option<T> {
    row.try_get(column).inspect_err(|error| warn!(%error, column, "a row of the gateway's database is malformed")).ok()
}

fn decided(rows: u64) -> Outcome {
    if rows == 0 { Outcome::Conflict } else { Outcome::Done }
}

fn seconds(secs: u64) -> i64 {
    i64::try_from(secs).unwrap_or(i64::MAX)
}

const STATUSES: [DeliveredStatus; 5] = [
    DeliveredStatus::Ringing,
    DeliveredStatus::Taken,
    DeliveredStatus::Duplicate,
    DeliveredStatus::Expired,
    DeliveredStatus::Invalid,
];

fn status_number(status: DeliveredStatus) -> usize {
    STATUSES.iter().position(|known| *known == status).unwrap_or(1)
}

/// What another process has told; `None` if it isn't of the group, or isn't understood.
pub(super) fn heard(key: &GroupKey, text: &str) -> Option<super::News> {
    let mut words = key.verified(text)?.split(' ');
    match (words.next()?, words.next()?.parse().ok()?, words.next()?) {
        ("ask", number, device) => {
            let device = data_encoding::HEXLOWER.decode(device.as_bytes()).ok()?;
            Some(super::News::Asked(number, <[u8; 32]>::try_from(device.as_slice()).ok()?))
        }
        ("brought", number, status) => {
            let status = STATUSES.get(status.parse::<usize>().ok()?)?;
            Some(super::News::Brought(number, *status))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_groups_own_words_are_heard() {
        let (ours, theirs) = (GroupKey::new(&[1; 32]), GroupKey::new(&[2; 32]));
        let told = ours.signed("brought 7 0");
        assert!(matches!(heard(&ours, &told), Some(super::super::News::Brought(7, DeliveredStatus::Ringing))));
        assert!(heard(&theirs, &told).is_none());
        let asked = ours.signed(&format!("ask 9 {}", "ab".repeat(32)));
        assert!(matches!(heard(&ours, &asked), Some(super::super::News::Asked(9, device)) if device == [0xab; 32]));
        for wrong in ["brought 7 0", "", " ", &told.replace('7', "8"), &told[..told.len() - 1], &ours.signed("brought 7 9")] {
            assert!(heard(&ours, wrong).is_none(), "{wrong}");
        }
    }
}
