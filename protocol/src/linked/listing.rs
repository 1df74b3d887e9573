//! A listing: in the directory, under the slow hash of an identity in another system, who that is here.
//!
//! Whoever knows the identity finds the place and opens what lies there; a replica sees that a user keeps something there, and nothing of it. The place's keys are anybody's who knows
//! the identity, so a place holds listings of several writers, one of each user, and none can be changed by another. What a listing *says* is a claim: it is believed if it is proved, by
//! the bytes in it, by an indicator in its writer's certificate, or by a look at the account's own place.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::association::{Association, AssociationError};
use super::id::LinkedId;
use super::leave::{LEAVE_BYTES_MAX, LinkedLeave};
use super::proof::PROOF_BYTES_MAX;
use super::slow::SlowId;
use crate::directory::RecordKey;
use crate::identity::{Chain, ChainError, TrustStore, UserId, VerifiedChain};
use crate::key::{SecretKey, SignatureError, hash};
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, Signed};

/// Longest time that a listing lies without being said anew.
pub const LISTING_SECS_MAX: u64 = 86_400;

/// Largest listing as it travels: chain, sealed part and signature.
pub const LISTING_BYTES_MAX: usize = PlacedListing::LIMIT + 80;

/// Sizes of sealed parts, by what is in them: an association alone, with leave, with a proof, with both.
const SEALED_SIZES: [usize; 4] = [1_024, 2_048, 3_072, 4_096];

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const LENGTH_BYTES: usize = 2;

/// What stands at the place of an identity, sealed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Listing {
    /// Who it is here.
    pub association: Signed<Association>,
    /// What shows it, by the association's method; empty if it doesn't stand by itself. At most [`PROOF_BYTES_MAX`].
    pub proof: Vec<u8>,
    /// The leave beside it, encoded. At most [`LEAVE_BYTES_MAX`].
    pub leave: Option<Vec<u8>>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// A listing as replicas keep it. Signed by the device that its chain ends with.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PlacedListing {
    /// Where it lies.
    pub place: RecordKey,
    /// Whose it is. A place has room for a few users, one listing of each.
    pub writer: Chain,
    /// When it was made, or a little later: of one writer the highest counts.
    pub serial: u64,
    /// Until when it lies, inclusive; at most [`LISTING_SECS_MAX`] after `serial`.
    pub until: UnixTime,
    /// `nonce (24) || ciphertext || tag (16)`, of a length of 1, 2, 3 or 4 KiB; empty: the writer has taken it away.
    pub sealed: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for PlacedListing {
    const KIND: u16 = 0x0b20;
    const LIMIT: usize = 8_192;

    fn check(&self) -> Result<(), DecodeError> {
        if !self.sealed.is_empty() && !SEALED_SIZES.contains(&self.sealed.len()) {
            return Err(DecodeError::invalid("sealed", format!("{} bytes", self.sealed.len())));
        }
        if self.until.0 < self.serial || self.until.0 - self.serial > LISTING_SECS_MAX {
            return Err(DecodeError::invalid("until", format!("before serial, or more than {LISTING_SECS_MAX} s after")));
        }
        Ok(())
    }
}

/// Why a listing isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListingError {
    /// Its writer's chain doesn't hold.
    #[error("its writer: {0}")]
    Chain(#[from] ChainError),
    /// Its writer's device didn't sign it.
    #[error("listing: {0}")]
    Signature(#[from] SignatureError),
    /// It is dated ahead.
    #[error("it was made at {0}, which is to come")]
    FromTheFuture(UnixTime),
    /// Its time is over.
    #[error("it ended at {0}")]
    Expired(UnixTime),
    /// It is of another place: it was copied here.
    #[error("it belongs to another place")]
    OtherPlace,
    /// It was sealed by somebody who doesn't know the identity, or for another writer.
    #[error("it can't be opened")]
    Sealed,
    /// Its writer has taken it away.
    #[error("it was taken away")]
    TakenAway,
    /// What is inside can't be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// What is inside is somebody else's word.
    #[error("its writer isn't who the association is of")]
    OtherUser,
    /// The association is about another identity.
    #[error("it is about another identity")]
    OtherIdentity,
    /// The association doesn't hold.
    #[error(transparent)]
    Association(#[from] AssociationError),
}

/// What [`PlacedListing::sign`] needs.
#[derive(Clone, Debug)]
pub struct ListingParams {
    /// The chain of the device that signs.
    pub writer: Chain,
    /// The serial of the last one of this user at this place; 0 if there was none.
    pub last_serial: u64,
    /// Now.
    pub now: UnixTime,
    /// Random.
    pub nonce: [u8; NONCE_BYTES],
}

/// A listing that was found, is its writer's own word, and holds; not yet proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundListing {
    /// What it says.
    pub association: Signed<Association>,
    /// What shows it.
    pub proof: Vec<u8>,
    /// The leave beside it.
    pub leave: Option<LinkedLeave>,
    /// Whether the writer's certificate has the identity's indicator: their authority has seen it proved.
    pub is_certified: bool,
    /// Of one writer the highest counts.
    pub serial: u64,
}

impl PlacedListing {
    /// Seals and signs a listing; `None` as listing takes away what was there. Lies for the longest time, at most as long as the association holds.
    ///
    /// # Errors
    /// [`DecodeError`] if it is larger than a listing may be.
    pub fn sign(
        params: ListingParams,
        slow: &SlowId,
        listing: Option<&Listing>,
        device: &SecretKey,
    ) -> Result<Signed<Self>, DecodeError> {
        let serial = params.now.0.max(params.last_serial.saturating_add(1));
        let holds_until = listing.map_or(UnixTime(u64::MAX), |listing| listing.association.unverified().not_after);
        let until = UnixTime(serial).plus_secs(LISTING_SECS_MAX).min(holds_until).max(UnixTime(serial));
        let sealed = match listing {
            Some(listing) => seal(listing, slow, &associated(slow, &params.writer.user.claimed_id(), serial), params.nonce)?,
            None => Vec::new(),
        };
        let extensions = Extensions::none();
        let placed = Self { place: slow.place, writer: params.writer, serial, until, sealed, extensions };
        let length = wire::encoded_len(&placed);
        if length > Self::LIMIT {
            return Err(DecodeError::TooLarge { length, limit: Self::LIMIT });
        }
        Ok(Signed::sign(placed, device))
    }

    /// What a replica checks: that a device of its writer made it, and that its time isn't over.
    ///
    /// # Errors
    /// [`ListingError`].
    pub fn verify(signed: &Signed<Self>, now: UnixTime, trust: &TrustStore) -> Result<VerifiedChain, ListingError> {
        let said = signed.unverified();
        said.check_times(now)?;
        let chain = said.writer.verify(now, trust)?;
        signed.verify(&chain.device.0)?;
        Ok(chain)
    }

    fn check_times(&self, now: UnixTime) -> Result<(), ListingError> {
        if UnixTime(self.serial).is_from_the_future(now) {
            return Err(ListingError::FromTheFuture(UnixTime(self.serial)));
        }
        if now > self.until {
            return Err(ListingError::Expired(self.until));
        }
        Ok(())
    }

    /// What a reader takes of all that replicas of the place of `linked` have answered: of each writer the newest, if it hasn't been taken away and holds.
    #[must_use]
    pub fn open_all(
        listings: &[Vec<u8>],
        linked: &LinkedId,
        slow: &SlowId,
        now: UnixTime,
        trust: &TrustStore,
    ) -> Vec<FoundListing> {
        let mut newest: BTreeMap<UserId, Signed<Self>> = BTreeMap::new();
        for bytes in listings {
            let Ok(signed) = wire::decode::<Signed<Self>>(bytes, LISTING_BYTES_MAX) else { continue };
            if signed.unverified().place != slow.place {
                continue;
            }
            // Only what its writer has signed is newer than something.
            let Ok(chain) = Self::verify(&signed, now, trust) else { continue };
            let is_newer = |known: &Signed<Self>| known.unverified().serial < signed.unverified().serial;
            if newest.get(&chain.user.id).is_none_or(is_newer) {
                newest.insert(chain.user.id, signed);
            }
        }
        newest.values().filter_map(|signed| Self::open(signed, linked, slow, now, trust).ok()).collect()
    }

    /// What a reader takes of one that came from a replica of the place of `linked`.
    ///
    /// # Errors
    /// [`ListingError`].
    pub fn open(
        signed: &Signed<Self>,
        linked: &LinkedId,
        slow: &SlowId,
        now: UnixTime,
        trust: &TrustStore,
    ) -> Result<FoundListing, ListingError> {
        let said = signed.unverified();
        if said.place != slow.place {
            return Err(ListingError::OtherPlace);
        }
        let chain = Self::verify(signed, now, trust)?;
        if said.sealed.is_empty() {
            return Err(ListingError::TakenAway);
        }
        let listing = unseal(&said.sealed, slow, &associated(slow, &chain.user.id, said.serial))?;
        let association = Association::verify(&listing.association, now)?;
        if association.user != chain.user.id || association.identity != chain.user.identity {
            return Err(ListingError::OtherUser);
        }
        if association.linked != *linked {
            return Err(ListingError::OtherIdentity);
        }
        // A leave that can't be read, or is somebody else's, is none.
        let leave = listing.leave.and_then(|leave| LinkedLeave::read(&leave, association).ok());
        let is_certified = chain.user.indicators.contains(&slow.indicator);
        Ok(FoundListing { proof: listing.proof, leave, is_certified, serial: said.serial, association: listing.association })
    }
}

/// What binds a sealed part to its place, writer and serial.
fn associated(slow: &SlowId, writer: &UserId, serial: u64) -> [u8; 32] {
    hash("halloo listing 1", &[&slow.place.0, &wire::encode(writer), &serial.to_be_bytes()])
}

pub(super) fn seal(listing: &Listing, slow: &SlowId, aad: &[u8; 32], nonce: [u8; NONCE_BYTES]) -> Result<Vec<u8>, DecodeError> {
    let inside = wire::encode(listing);
    let needed = LENGTH_BYTES + inside.len() + NONCE_BYTES + TAG_BYTES;
    let limit = SEALED_SIZES[SEALED_SIZES.len() - 1];
    let too_large = DecodeError::TooLarge { length: needed, limit };
    let size = SEALED_SIZES.into_iter().find(|size| *size >= needed).ok_or_else(|| too_large.clone())?;
    let length = u16::try_from(inside.len()).map_err(|_| too_large.clone())?;
    let mut plain = length.to_be_bytes().to_vec();
    plain.extend_from_slice(&inside);
    plain.resize(size - NONCE_BYTES - TAG_BYTES, 0);
    let payload = Payload { msg: &plain, aad };
    let sealed = XChaCha20Poly1305::new(slow.key().into()).encrypt(&XNonce::from(nonce), payload).map_err(|_| too_large)?;
    Ok([&nonce[..], &sealed].concat())
}

pub(super) fn unseal(sealed: &[u8], slow: &SlowId, aad: &[u8; 32]) -> Result<Listing, ListingError> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(ListingError::Sealed)?;
    let payload = Payload { msg: sealed, aad };
    let cipher = XChaCha20Poly1305::new(slow.key().into());
    let plain = cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| ListingError::Sealed)?;
    let (length, rest) = plain.split_first_chunk::<LENGTH_BYTES>().ok_or(ListingError::Sealed)?;
    let inside = rest.get(..usize::from(u16::from_be_bytes(*length))).ok_or(ListingError::Sealed)?;
    let listing: Listing = wire::decode(inside, SEALED_SIZES[SEALED_SIZES.len() - 1])?;
    if listing.proof.len() > PROOF_BYTES_MAX {
        return Err(DecodeError::invalid("proof", format!("{} bytes", listing.proof.len())).into());
    }
    if listing.leave.as_ref().is_some_and(|leave| leave.len() > LEAVE_BYTES_MAX) {
        return Err(DecodeError::invalid("leave", "too long").into());
    }
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{INDICATORS_MAX, UserCertificate};
    use crate::linked::{AssociationParams, Indicator, LeaveScope, LinkedKey, ProofMethod};
    use crate::test_identity::{Authority, NOW, Person};

    const BOB: u8 = 20;
    const MALLORY: u8 = 60;

    fn bobs() -> LinkedId {
        "mailto:bob@there.example".parse().expect("an address")
    }

    fn slow() -> SlowId {
        SlowId::for_tests(1)
    }

    fn authority() -> Authority {
        Authority::new(1)
    }

    fn association(person: &Person, seed: u8, linked: LinkedId) -> Signed<Association> {
        let user = person.chain.user.claimed_id();
        let params = AssociationParams { user, linked, method: ProofMethod::OWN_ITEM, last_serial: 0, now: NOW };
        Association::sign(params, &SecretKey::from_bytes([seed; 32]))
    }

    fn listing(association: Signed<Association>) -> Listing {
        Listing { association, proof: vec![7; 40], leave: None, extensions: Extensions::none() }
    }

    fn params(person: &Person, last_serial: u64) -> ListingParams {
        ListingParams { writer: person.chain.clone(), last_serial, now: NOW, nonce: [3; 24] }
    }

    fn placed(person: &Person, listing: &Listing) -> Signed<PlacedListing> {
        PlacedListing::sign(params(person, 0), &slow(), Some(listing), &person.device_key).expect("fits")
    }

    fn open(signed: &Signed<PlacedListing>) -> Result<FoundListing, ListingError> {
        PlacedListing::open(signed, &bobs(), &slow(), NOW, &authority().trust())
    }

    #[test]
    fn whoever_knows_the_identity_finds_who_it_is() {
        let bob = authority().person("bob", BOB);
        let said = association(&bob, BOB, bobs());
        let signed = placed(&bob, &listing(said.clone()));
        let found = open(&signed).expect("it holds");
        assert_eq!((found.association, found.proof, found.is_certified), (said, vec![7; 40], false));
        let bytes = wire::encode(&signed);
        assert!(bytes.len() < LISTING_BYTES_MAX);
        assert!(!bytes.windows(13).any(|part| part == b"there.example"), "nothing of the address shows");
        // A wrong guess opens nothing, at that place or another.
        let mut wrong = SlowId::for_tests(2);
        wrong.place = slow().place;
        let opened = PlacedListing::open(&signed, &bobs(), &wrong, NOW, &authority().trust());
        assert_eq!(opened, Err(ListingError::Sealed));
        let opened = PlacedListing::open(&signed, &bobs(), &SlowId::for_tests(2), NOW, &authority().trust());
        assert_eq!(opened, Err(ListingError::OtherPlace));
    }

    #[test]
    fn the_authority_s_indicator_shows_that_it_has_seen_the_proof() {
        let bob = authority().certified("bob", BOB, 0, &[SlowId::for_tests(9).indicator, slow().indicator]);
        assert!(open(&placed(&bob, &listing(association(&bob, BOB, bobs())))).expect("it holds").is_certified);
        let other = authority().certified("bob", BOB, 0, &[SlowId::for_tests(9).indicator]);
        assert!(!open(&placed(&other, &listing(association(&other, BOB, bobs())))).expect("it holds").is_certified);
    }

    #[test]
    fn sizes_say_little() {
        let bob = authority().person("bob", BOB);
        let bare = Listing { proof: Vec::new(), ..listing(association(&bob, BOB, bobs())) };
        let key = LinkedKey::of_secret(1, &[5; 32]);
        let leave = crate::linked::LinkedLeave::sign(
            key,
            LeaveScope { calls: true, messages: true },
            &SecretKey::from_bytes([BOB; 32]),
            NOW,
        );
        let full = Listing { proof: vec![1; PROOF_BYTES_MAX], leave: Some(wire::encode(&leave)), ..bare.clone() };
        for (listing, size) in [(bare, 1_024), (full.clone(), 3_072)] {
            let signed = placed(&bob, &listing);
            assert_eq!(signed.unverified().sealed.len(), size);
            assert!(wire::encode(&signed).len() <= LISTING_BYTES_MAX);
        }
        assert_eq!(open(&placed(&bob, &full)).expect("it holds").leave, Some(leave));
        let huge = Listing { proof: vec![1; 4_096], ..full.clone() };
        assert!(PlacedListing::sign(params(&bob, 0), &slow(), Some(&huge), &bob.device_key).is_err());
        let too_much = Listing { proof: vec![1; PROOF_BYTES_MAX + 1], leave: None, ..full };
        assert!(matches!(open(&placed(&bob, &too_much)), Err(ListingError::Decode(_))));
    }

    #[test]
    fn attacks_on_a_listing_are_refused() {
        let (bob, mallory) = (authority().person("bob", BOB), authority().person("mallory", MALLORY));
        let good = placed(&bob, &listing(association(&bob, BOB, bobs())));
        // Mallory lists Bob's word, which anybody who knows the address can read.
        let foreign = placed(&mallory, &listing(association(&bob, BOB, bobs())));
        assert_eq!(open(&foreign), Err(ListingError::OtherUser));
        // Under Bob's name, signed by her.
        let said = good.unverified().clone();
        let forged = Signed::sign(said.clone(), &mallory.device_key);
        assert!(matches!(open(&forged), Err(ListingError::Signature(_))));
        // What he has sealed, as hers; and with a later serial.
        let copied = PlacedListing { writer: mallory.chain.clone(), ..said.clone() };
        assert_eq!(open(&Signed::sign(copied, &mallory.device_key)), Err(ListingError::Sealed));
        let later = PlacedListing { serial: said.serial + 9, ..said.clone() };
        assert_eq!(open(&Signed::sign(later, &bob.device_key)), Err(ListingError::Sealed));
        // Copied to the place of another identity.
        let other = PlacedListing { place: SlowId::for_tests(2).place, ..said.clone() };
        assert_eq!(open(&Signed::sign(other, &bob.device_key)), Err(ListingError::OtherPlace));
        // His own, about another identity, at the place of this one.
        let carols: LinkedId = "mailto:carol@there.example".parse().expect("an address");
        assert_eq!(open(&placed(&bob, &listing(association(&bob, BOB, carols)))), Err(ListingError::OtherIdentity));
        // Not hers to say: another identity's key under her chain.
        let not_hers = association(&mallory, BOB, bobs());
        assert!(matches!(open(&placed(&mallory, &listing(not_hers))), Err(ListingError::OtherUser)));
        // Of an authority that isn't trusted.
        let stranger = Authority::new(7).person("bob", BOB);
        let strange = placed(&stranger, &listing(association(&stranger, BOB, bobs())));
        assert!(matches!(open(&strange), Err(ListingError::Chain(ChainError::UnknownAuthority(_)))));
    }

    #[test]
    fn the_newest_of_each_writer_counts_whoever_has_it() {
        let (bob, mallory) = (authority().person("bob", BOB), authority().person("mallory", MALLORY));
        let of = |person: &Person, seed, last_serial, is_there: bool| {
            let said = listing(association(person, seed, bobs()));
            let signed = PlacedListing::sign(params(person, last_serial), &slow(), is_there.then_some(&said), &person.device_key);
            wire::encode(&signed.expect("fits"))
        };
        let open = |listings: &[Vec<u8>]| {
            let found = PlacedListing::open_all(listings, &bobs(), &slow(), NOW, &authority().trust());
            found.into_iter().map(|found| (found.association.unverified().user.clone(), found.serial)).collect::<Vec<_>>()
        };
        let (first, second, gone) = (of(&bob, BOB, 0, true), of(&bob, BOB, NOW.0 + 5, true), of(&bob, BOB, NOW.0 + 9, false));
        let hers = of(&mallory, MALLORY, 0, true);
        let (bobs, mallorys) = (bob.chain.user.claimed_id(), mallory.chain.user.claimed_id());
        assert_eq!(open(&[second.clone(), first.clone()]), [(bobs.clone(), NOW.0 + 6)]);
        let both = open(&[first.clone(), hers.clone(), vec![1, 2]]);
        assert!(both.contains(&(bobs, NOW.0)) && both.contains(&(mallorys.clone(), NOW.0)) && both.len() == 2);
        assert_eq!(open(&[first, second, gone, hers]), [(mallorys, NOW.0)]);
        // A later one that somebody else has signed in his name takes nothing away.
        let said = wire::decode::<Signed<PlacedListing>>(&of(&bob, BOB, NOW.0 + 20, false), LISTING_BYTES_MAX).expect("read");
        let forged = wire::encode(&Signed::sign(said.unverified().clone(), &mallory.device_key));
        assert_eq!(open(&[of(&bob, BOB, 0, true), forged]).len(), 1);
    }

    #[test]
    fn a_listing_ends() {
        let bob = authority().person("bob", BOB);
        let trust = authority().trust();
        let signed = placed(&bob, &listing(association(&bob, BOB, bobs())));
        let late = NOW.plus_secs(LISTING_SECS_MAX + 1);
        assert_eq!(PlacedListing::verify(&signed, late, &trust), Err(ListingError::Expired(NOW.plus_secs(LISTING_SECS_MAX))));
        let early = NOW.minus_secs(86_400);
        assert!(matches!(PlacedListing::verify(&signed, early, &trust), Err(ListingError::FromTheFuture(_))));
        let gone = PlacedListing::sign(params(&bob, signed.unverified().serial), &slow(), None, &bob.device_key).expect("fits");
        assert_eq!(open(&gone), Err(ListingError::TakenAway));
        assert!(gone.unverified().serial > signed.unverified().serial);
        // An association that was taken back, or is over, is none.
        let user = bob.chain.user.claimed_id();
        let back = AssociationParams { user, linked: bobs(), method: ProofMethod::OWN_ITEM, last_serial: 0, now: NOW };
        let revoked = Association::revoke(back.clone(), &SecretKey::from_bytes([BOB; 32]));
        let opened = open(&placed(&bob, &listing(revoked)));
        assert_eq!(opened, Err(ListingError::Association(AssociationError::Revoked)));
        let ended = AssociationParams { now: NOW.minus_secs(100 * 86_400), ..back };
        let ended = listing(Association::sign(ended, &SecretKey::from_bytes([BOB; 32])));
        assert!(matches!(open(&placed(&bob, &ended)), Err(ListingError::Association(AssociationError::Expired(_)))));
        // Longer than a day, or of another size than there are, isn't even read.
        let said = signed.unverified().clone();
        let long = PlacedListing { until: UnixTime(said.serial).plus_secs(LISTING_SECS_MAX + 1), ..said.clone() };
        let odd = PlacedListing { sealed: vec![0; 1_000], ..said };
        for wrong in [long, odd] {
            let bytes = wire::encode(&Signed::sign(wrong, &bob.device_key));
            assert!(wire::decode::<Signed<PlacedListing>>(&bytes, LISTING_BYTES_MAX).is_err());
        }
    }

    #[test]
    fn certificates_have_few_indicators_or_none() {
        let many: Vec<Indicator> = (0..9).map(|seed| SlowId::for_tests(seed).indicator).collect();
        let certificate = |extensions| {
            let chain = authority().certified("bob", BOB, 0, &[]).chain.user;
            let crate::identity::UserChain::Named { user, .. } = chain else { panic!("named") };
            UserCertificate { extensions, ..user.unverified().clone() }
        };
        let with = certificate(UserCertificate::with_indicators(Extensions::none(), &many));
        assert_eq!(with.indicators(), many[..INDICATORS_MAX]);
        assert_eq!(certificate(Extensions::none()).indicators(), []);
        for wrong in [wire::encode(&many), vec![4; 9]] {
            let extensions = Extensions::none().with(crate::identity::INDICATORS_EXTENSION, wrong);
            assert_eq!(certificate(extensions).indicators(), []);
        }
    }
}
