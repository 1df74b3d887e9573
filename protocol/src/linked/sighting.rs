//! What was seen at somebody's place in another system.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use super::association::{Association, AssociationError, ProofMethod};
use super::id::LinkedId;
use super::leave::LinkedLeave;
use super::proof::{ProofError, TrustedProofs, verify_proof};
use crate::time::UnixTime;
use crate::wire::Signed;

/// Up to this age nobody looks again before judging by a sighting.
pub const SIGHTING_SECS_FRESH: u64 = 300;

/// The same of somebody who says nothing of a linked system: whoever has unlinked since is no contact there any more.
pub const SEEN_SECS_FRESH: u64 = 1;

/// Up to this age a sighting counts while the place can't be looked at.
pub const SIGHTING_SECS_MAX: u64 = 86_400;

/// Why what a place shows isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SightingError {
    /// It is about another identity than the one whose place it is: it was copied there.
    #[error("it is about another identity than the one that shows it")]
    OtherPlace,
    /// It is said to be proved in another way.
    #[error("it isn't shown in the way that it says")]
    Method,
    /// It isn't in order.
    #[error(transparent)]
    Association(#[from] AssociationError),
    /// A later one of the same user is known.
    #[error("the same user has said something later")]
    Older,
}

/// What comes of an association in somebody's presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It counts as if it had been seen at their place.
    News(Box<Sighting>),
    /// It is known.
    Known,
    /// Another user is known to have the identity: their place has to be looked at, and says who has it.
    Disputed,
}

/// What the place of one identity showed, read over a login of one's own from the server of the identity: that server says who may write there, and it, or the
/// own account's server on the way, alone can show anything else than the owner put there.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Sighting {
    /// When.
    pub read_at: UnixTime,
    /// The association that stood there; `None` if none did.
    pub association: Option<Signed<Association>>,
    /// The leave that stood beside it.
    pub leave: Option<LinkedLeave>,
    /// When it was proved, for one whose proof stands by itself: it came from anywhere, and counts as long as it says.
    pub proved_at: Option<UnixTime>,
}

/// What stands, or is put, at somebody's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The association.
    pub association: Signed<Association>,
    /// The leave beside it, encoded.
    pub leave: Option<Vec<u8>>,
}

impl Sighting {
    /// What it means that `shown` stood at the place of `place`. One that was taken back, or has ended, is a sighting too.
    ///
    /// # Errors
    /// [`SightingError`]: it counts as if nothing stood there.
    pub fn take(place: &LinkedId, shown: Shown, read_at: UnixTime) -> Result<Self, SightingError> {
        let Shown { association, leave } = shown;
        let said = Association::verify_signature(&association)?;
        if said.linked != *place {
            return Err(SightingError::OtherPlace);
        }
        if said.method != ProofMethod::OWN_ITEM {
            return Err(SightingError::Method);
        }
        // A leave that can't be read, or is somebody else's, is none.
        let leave = leave.and_then(|leave| LinkedLeave::read(&leave, said).ok());
        Ok(Self { read_at, association: Some(association), leave, proved_at: None })
    }

    /// What it means that an association, with or without a leave, came in the presence of somebody, whom servers name as they name the owner of a place. What is there in presence may count; that
    /// nothing is there says nothing, for other clients of theirs know nothing of it. So it is taken back by a later association alone, there or at the place.
    ///
    /// `before` is what is known of the identity; with `is_settled` it was seen at the place, or is in the presence of another client now.
    ///
    /// # Errors
    /// [`SightingError`]: it counts as if it had never come.
    pub fn hear(
        place: &LinkedId,
        shown: Shown,
        before: Option<&Self>,
        is_settled: bool,
        now: UnixTime,
    ) -> Result<Heard, SightingError> {
        let association = shown.association.clone();
        let holds = Association::verify(&association, now).map(drop);
        let seen = Self::take(place, shown, now)?;
        let said = association.unverified();
        let known = before.and_then(|before| before.association.as_ref());
        let same = known.filter(|known| {
            let known = known.unverified();
            known.identity == said.identity && known.user == said.user
        });
        match same {
            Some(known) if known.unverified().serial > said.serial => return Err(SightingError::Older),
            // Taken back: a stranger's word that it isn't theirs, or never was, changes nothing.
            Some(_) if holds == Err(AssociationError::Revoked) => return Ok(Heard::News(Box::new(seen))),
            _ => holds?,
        }
        let leave_before = same.and(before).and_then(|before| before.leave.as_ref());
        // Beside what is known already, leave of an earlier epoch is an old copy: a device that was away, or a server that repeats.
        let is_old = |leave: &LinkedLeave| leave_before.is_some_and(|before| leave.key.epoch < before.key.epoch);
        let is_news = |leave: &LinkedLeave| leave_before != Some(leave) && !is_old(leave);
        if known == Some(&association) && !seen.leave.as_ref().is_some_and(is_news) {
            return Ok(Heard::Known);
        }
        if same.is_none() && is_settled && before.is_some_and(|before| before.holds(now).is_ok()) {
            return Ok(Heard::Disputed);
        }
        let leave = seen.leave.clone().or_else(|| leave_before.cloned());
        Ok(Heard::News(Box::new(Self { leave, ..seen })))
    }

    /// An association that came with a proof that stands by itself, wherever it came from; `leave` encoded.
    ///
    /// # Errors
    /// [`ProofError`]: it counts as if it had never come. `None` if the association itself doesn't hold.
    pub fn prove(
        shown: Shown,
        proof: Option<&[u8]>,
        trusted: TrustedProofs<'_>,
        now: UnixTime,
    ) -> Result<Self, Option<ProofError>> {
        let Shown { association, leave } = shown;
        let said = Association::verify(&association, now).map_err(|_| None)?;
        let proved_at = verify_proof(said, proof, trusted, now)?;
        let leave = leave.and_then(|leave| LinkedLeave::read(&leave, said).ok());
        Ok(Self { read_at: now, association: Some(association), leave, proved_at: Some(proved_at) })
    }

    /// Nothing stood there.
    #[must_use]
    pub const fn nothing(read_at: UnixTime) -> Self {
        Self { read_at, association: None, leave: None, proved_at: None }
    }

    /// Of what was known and what is seen now, what counts: what is seen now, unless it is an older word of the same user, which a place that was set back
    /// shows.
    #[must_use]
    pub fn after(self, before: Option<&Self>) -> Self {
        let Some(before) = before else { return self };
        let is_older = |now: &Signed<Association>, known: &Signed<Association>| {
            let (now, known) = (now.unverified(), known.unverified());
            now.identity == known.identity && now.serial < known.serial
        };
        match (&self.association, &before.association) {
            (Some(now), Some(known)) if is_older(now, known) => Self { read_at: self.read_at, ..before.clone() },
            // Another user: whose proof is the newer one has the identity now.
            (Some(now), Some(known))
                if self.proved_at < before.proved_at && now.unverified().identity != known.unverified().identity =>
            {
                before.clone()
            }
            _ => self,
        }
    }

    /// What was known before, if anything, as seen now: the place shows what doesn't count any more.
    #[must_use]
    pub fn set_back_to(self, before: Option<&Self>) -> Self {
        before.map_or(Self::nothing(self.read_at), |before| Self { read_at: self.read_at, ..before.clone() })
    }

    /// The association, if it holds.
    ///
    /// # Errors
    /// `None` if nothing stood there, else why it doesn't hold.
    pub fn holds(&self, now: UnixTime) -> Result<&Association, Option<AssociationError>> {
        let shown = self.association.as_ref().ok_or(None)?;
        Association::verify(shown, now).map_err(Some)
    }

    /// Whether it may be judged by: a place was read at most `secs_max` ago. What is proved by itself needs no look.
    #[must_use]
    pub const fn counts(&self, secs_max: u64, now: UnixTime) -> bool {
        self.proved_at.is_some() || self.age_secs(now) <= secs_max
    }

    /// How old it is.
    #[must_use]
    pub const fn age_secs(&self, now: UnixTime) -> u64 {
        now.secs_since(self.read_at)
    }
}

/// What is known of identities in other systems: by the own account over which it was seen, then by place. The server of that account passes on what others say, so it
/// can say anything in anybody's name; but only for that account's contacts.
pub type KnownAssociations = BTreeMap<(LinkedId, LinkedId), Sighting>;
