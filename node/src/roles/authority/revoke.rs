//! Taking names back.

use halloo_protocol::identity::{RevocationList, RevokedSerial, SignedRevocationList, Username};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Body, Extensions, Signed, encode};
use tracing::warn;

use super::{Authority, REVOCATIONS_SETTING};
use crate::store::{LogEvent, NameState, StoreError};

/// Why a name can't be revoked or freed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// The authority never gave the name.
    #[error("{0} isn't known here")]
    Unknown(Username),
    /// The name is revoked: it can't be freed any more.
    #[error("{0} is revoked already")]
    Revoked(Username),
    /// The revocation list has no room left; it empties by itself as certificates end.
    #[error("the revocation list is full ({0} certificates)")]
    ListFull(usize),
    /// The signing key's certificate is over.
    #[error("the signing certificate ended at {0}: bring the root key back")]
    SigningExpired(UnixTime),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Authority {
    /// Takes a name back for good: no renewal, and all its certificates that haven't ended go on a new revocation list, which is returned for
    /// spreading. Revoking a revoked name changes nothing and returns the newest list.
    ///
    /// # Errors
    /// [`RevokeError`]; nothing is changed then.
    pub fn revoke(&mut self, name: &Username, now: UnixTime) -> Result<SignedRevocationList, RevokeError> {
        let newest = self.revocations.as_ref();
        let list = self.store.transaction(|tx| {
            let mut row = tx.name(name)?.ok_or_else(|| RevokeError::Unknown(name.clone()))?;
            if let (NameState::Revoked, Some(newest)) = (row.state, newest) {
                return Ok(newest.clone());
            }
            let list = self.next_list(&row.serials, &[], now)?;
            row.state = NameState::Revoked;
            tx.put_name(name, &row)?;
            tx.put_setting_value(REVOCATIONS_SETTING, &list)?;
            tx.log_authority(now, &LogEvent::Revoked { name: name.clone(), number: list.list.unverified().number })?;
            Ok::<_, RevokeError>(list)
        })?;
        self.revocations = Some(list.clone());
        Ok(list)
    }

    /// Gives a name up: it isn't renewed, and goes to nobody but its present key. Its certificates stay good until they end.
    ///
    /// # Errors
    /// [`RevokeError`]; nothing is changed then.
    pub fn free(&mut self, name: &Username, now: UnixTime) -> Result<(), RevokeError> {
        self.store.transaction(|tx| {
            let mut row = tx.name(name)?.ok_or_else(|| RevokeError::Unknown(name.clone()))?;
            match row.state {
                NameState::Freed => Ok(()),
                NameState::Revoked => Err(RevokeError::Revoked(name.clone())),
                NameState::Active => {
                    row.state = NameState::Freed;
                    tx.put_name(name, &row)?;
                    tx.log_authority(now, &LogEvent::Freed { name: name.clone() })?;
                    Ok(())
                }
            }
        })
    }

    /// The next list: what the newest one has and still matters, and `serials`, and `hints`, certificates whose hints alone are taken back.
    pub(super) fn next_list(
        &self,
        serials: &[RevokedSerial],
        hints: &[RevokedSerial],
        now: UnixTime,
    ) -> Result<SignedRevocationList, RevokeError> {
        let signing = self.signing.unverified();
        if now > signing.not_after {
            return Err(RevokeError::SigningExpired(signing.not_after));
        }
        let newest = self.revocations.as_ref().map(|list| list.list.unverified());
        let merge = |mut all: Vec<RevokedSerial>, more: &[RevokedSerial]| {
            all.extend_from_slice(more);
            all.retain(|revoked| still_matters(revoked, now));
            all.sort_unstable();
            all.dedup_by_key(|revoked| revoked.serial);
            all
        };
        let users = merge(newest.map_or_else(Vec::new, |list| list.users.clone()), serials);
        let mut hints = merge(newest.map_or_else(Vec::new, RevocationList::hints), hints);
        // Nothing of those counts.
        hints.retain(|hint| users.binary_search_by_key(&hint.serial, |revoked| revoked.serial).is_err());
        let mut list = RevocationList {
            authority: self.root,
            number: newest.map_or(1, |list| list.number.saturating_add(1)),
            issued_at: now,
            users,
            signing: newest.map_or_else(Vec::new, |list| list.signing.clone()),
            extensions: RevocationList::with_hints(Extensions::none(), &hints),
        };
        while encode(&list).len() > RevocationList::LIMIT {
            // Who is revoked comes before whose hints count no more; of those the ones that end first go first.
            if hints.is_empty() {
                return Err(RevokeError::ListFull(list.users.len()));
            }
            hints.sort_unstable_by_key(|hint| hint.until);
            let gone = hints.len().div_ceil(8);
            hints.drain(..gone);
            hints.sort_unstable();
            warn!(gone, "the revocation list is full: hints that are taken back count on in certificates that there are");
            list.extensions = RevocationList::with_hints(Extensions::none(), &hints);
        }
        Ok(SignedRevocationList { signing: Some(self.signing.clone()), list: Signed::sign(list, &self.signing_key) })
    }
}

/// A certificate that has ended needs no revocation; a day more, for verifiers whose clocks are behind.
pub(super) fn still_matters(revoked: &RevokedSerial, now: UnixTime) -> bool {
    revoked.until.plus_secs(86_400) >= now
}
