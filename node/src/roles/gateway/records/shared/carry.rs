//! What a gateway has in its home from before it shared a database is carried over into that: registrations, what devices have told to choose by, notices, pushes that
//! wait. So devices don't find out, one after the other, that they are unknown.
//!
//! Each part is committed there before it is struck off here, and a row that is there already is left alone: a gateway that dies meanwhile carries on at its next start.

use halloo_protocol::key::{PublicKey, hash};
use halloo_protocol::push::PushChannel;
use halloo_protocol::push::registration::Registration;
use halloo_protocol::wire;
use tokio_postgres::Error;
use tracing::info;

use super::link::{Link, SharedError};
use super::rows::Rows;
use super::worker::{BEAT, Joined};
use super::{Change, Outcome};
use crate::roles::gateway::{STORED_BYTES_MAX, ended};
use crate::store::{GATEWAY_PENDING_MAX, PendingPush, Store, StoreError};

/// Registrations carried over at a time.
const BATCH: usize = 256;

/// How often it is told how far it is.
const TOLD_EVERY: u64 = 10_000;

/// Why it ended before all was carried over.
pub(super) enum Failed {
    Database(Error),
    Home(StoreError),
    Unsealed,
    /// Its process isn't one of the group any more.
    Dead,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Home(error)
    }
}

/// A home whose records go to the database.
pub(super) struct Carry<'a> {
    pub(super) store: &'a Store,
    pub(super) rows: &'a mut Rows,
    /// Whether the group's key for push services is this gateway's own. Subscriptions are for one key: those for another are worth nothing.
    pub(super) has_own_vapid: bool,
}

impl Failed {
    /// What to tell: what wasn't carried over is in the home as before.
    pub(super) fn explain(self, link: &Link) -> SharedError {
        match self {
            Self::Database(error) => link.explain(&error),
            Self::Home(error) => SharedError::Failed { place: "this gateway's home".to_owned(), reason: error.to_string() },
            Self::Unsealed => {
                SharedError::Failed { place: link.place().to_owned(), reason: "a record couldn't be sealed".to_owned() }
            }
            Self::Dead => {
                let reason = "the other gateways took this one for dead while it began: start it again".to_owned();
                SharedError::Failed { place: link.place().to_owned(), reason }
            }
        }
    }
}

impl Carry<'_> {
    /// Carries registrations over, with what belongs to them.
    ///
    /// # Errors
    /// [`Failed`].
    pub(super) async fn registrations(&mut self) -> Result<(), Failed> {
        let (mut after, mut carried, mut told) = (None::<Vec<u8>>, 0_u64, TOLD_EVERY);
        let waiting = self.store.read::<_, StoreError>(crate::store::View::gateway_registration_count)?;
        if waiting == 0 {
            return Ok(());
        }
        info!(registrations = waiting, "what devices have registered here is carried over into the gateway's database");
        loop {
            let found = self.store.read::<_, StoreError>(|view| view.gateway_registrations_after(after.as_deref(), BATCH))?;
            let Some((last, _)) = found.last() else { break };
            after = Some(last.clone());
            carried += self.batch(&found).await?;
            if carried >= told {
                info!(carried, "registrations carried over so far");
                told = carried + TOLD_EVERY;
            }
        }
        info!(carried, left = waiting.saturating_sub(carried), "registrations carried over");
        Ok(())
    }

    async fn batch(&mut self, found: &[(Vec<u8>, Vec<u8>)]) -> Result<u64, Failed> {
        let known = found.iter().filter_map(|(_, content)| wire::decode::<Registration>(content, STORED_BYTES_MAX).ok());
        let is_web_push = |channel: &PushChannel| matches!(channel, PushChannel::WebPush { .. });
        let is_of_use = |known: &Registration| self.has_own_vapid || !known.request.channels.iter().any(is_web_push);
        let known: Vec<Registration> = known.filter(is_of_use).collect();
        let mut changes = Vec::new();
        for registration in &known {
            changes.push(Change::PutRegistration { registration: Box::new(registration.clone()), version: None });
            changes.extend(self.beside(registration)?);
        }
        self.commit(&changes, 0).await?;
        self.store.transaction::<_, StoreError>(|tx| {
            for registration in &known {
                tx.remove_gateway_registration(&registration.handle.0)?;
                tx.remove_gateway_choice(&registration.rules.identity.0.0)?;
                let device = registration.device();
                for notice in tx.gateway_notices_of(&device)? {
                    if let Some(name) = ended::name_of(&notice) {
                        tx.remove_gateway_notice(&device, &name)?;
                    }
                }
            }
            Ok(())
        })?;
        Ok(known.len() as u64)
    }

    /// What belongs to a registration.
    fn beside(&self, known: &Registration) -> Result<Vec<Change>, Failed> {
        let (device, identity) = (known.device(), PublicKey(known.rules.identity.0.0));
        let (choice, notices) = self
            .store
            .read::<_, StoreError>(|view| Ok((view.gateway_choice(&identity.0)?, view.gateway_notices_of(&device)?)))?;
        let choice = choice.map(|content| Change::PutChoice { identity, content, version: None });
        let notices =
            notices.into_iter().filter_map(|notice| Some(Change::PutNotice { device, name: ended::name_of(&notice)?, notice }));
        Ok(choice.into_iter().chain(notices).collect())
    }

    /// Carries pushes over, for the process that has just joined: they are among those that it has joined with.
    ///
    /// # Errors
    /// [`Failed`].
    pub(super) async fn pushes(&mut self, joined: &mut Joined) -> Result<(), Failed> {
        let limit = usize::try_from(GATEWAY_PENDING_MAX).unwrap_or(usize::MAX);
        let waiting = self.store.read::<_, StoreError>(|view| view.pending_pushes(limit))?;
        for batch in waiting.chunks(BATCH) {
            let numbered: Vec<(u64, PendingPush)> = batch.iter().map(|(_, push)| (joined.next_number(), push.clone())).collect();
            let changes: Vec<Change> = numbered.iter().map(|(number, push)| added(*number, push)).collect();
            let outcomes = self.commit(&changes, joined.process.cast_signed()).await?;
            // Without its process nothing was added, and the home keeps what it has.
            if outcomes.contains(&Outcome::Conflict) {
                return Err(Failed::Dead);
            }
            let no_helper: &[u8] = &[];
            self.rows.execute(BEAT, &[&joined.process.cast_signed(), &no_helper]).await?;
            self.store.transaction::<_, StoreError>(|tx| {
                batch.iter().try_for_each(|(number, _)| tx.remove_pending_push(*number).map(|_| ()))
            })?;
            // One that was there already is whose it was.
            let is_new = outcomes.into_iter().map(|outcome| outcome == Outcome::Done);
            joined.pushes.extend(numbered.into_iter().zip(is_new).filter_map(|(push, is_new)| is_new.then_some(push)));
        }
        Ok(())
    }

    /// Makes changes, whatever is there already left as it is.
    async fn commit(&mut self, changes: &[Change], process: i64) -> Result<Vec<Outcome>, Failed> {
        self.rows.batch("BEGIN").await?;
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            let outcome = self.rows.make(change, process).await?;
            if outcome == Outcome::Unsealed {
                self.rows.batch("ROLLBACK").await?;
                return Err(Failed::Unsealed);
            }
            outcomes.push(outcome);
        }
        self.rows.batch("COMMIT").await?;
        Ok(outcomes)
    }
}

/// By what the caller had asked it isn't known any more: by its content, so that one that was carried over and not struck off isn't carried twice.
fn added(number: u64, push: &PendingPush) -> Change {
    let hash = hash("halloo push carried over", &[&wire::encode(push)]);
    Change::AddPush { number, hash, push: push.clone() }
}
