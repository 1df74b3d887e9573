//! What a user tells contacts here of accounts elsewhere: that they are one and the same person.
//!
//! Contacts here needn't learn every address that a user has. So each account is sealed under the slow hash of its address ([`SlowId`]): who has the account in a contact list
//! there knows the address, finds what is theirs by the hint that stands outside, and opens it; anybody else pays a slow hash for each guess.
//!
//! It goes with the keys that contacts get ([`ContactKeys`](crate::contact::ContactKeys)) when it changes, a few times a year, and not with presence documents, which are a tenth of its size
//! and told every few minutes.

use bincode::{Decode, Encode};

use super::association::{Association, AssociationError};
use super::id::LinkedId;
use super::listing::{Listing, ListingError, seal, unseal};
use super::slow::{Indicator, SlowId};
use crate::identity::UserId;
use crate::key::{IdentityKey, hash};
use crate::time::UnixTime;
use crate::wire::{self, DecodeError, Extensions, Signed};

/// Tag of the extension of [`ContactKeys`](crate::contact::ContactKeys) that holds [`ToldLinks`].
pub const TOLD_EXTENSION: u16 = 0x0002;

/// Most accounts told of.
pub const TOLD_LINKS_MAX: usize = 8;

/// Largest [`ToldLinks`]: eight accounts without proofs, or four with.
pub const TOLD_BYTES_MAX: usize = 8_704;

/// An account, for whoever knows its address.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ToldLink {
    /// Hints at whose account it is.
    pub indicator: Indicator,
    /// `nonce (24) || ciphertext || tag (16)`, of a length of 1, 2, 3 or 4 KiB; a [`Listing`] without leave, which contacts here don't need.
    pub sealed: Vec<u8>,
}

/// All that a user tells contacts of accounts elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ToldLinks {
    /// Grows with every change, and is at least the time in seconds: each device of a user tells for itself.
    pub version: u64,
    /// At most [`TOLD_LINKS_MAX`].
    pub links: Vec<ToldLink>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl ToldLinks {
    /// Those of these links, in order, for which there is room.
    #[must_use]
    pub fn new(version: u64, links: Vec<ToldLink>) -> Self {
        let mut told = Self { version, links: Vec::new(), extensions: Extensions::none() };
        for link in links.into_iter().take(TOLD_LINKS_MAX) {
            told.links.push(link);
            if wire::encoded_len(&told) > TOLD_BYTES_MAX {
                told.links.pop();
            }
        }
        told
    }

    /// Reads it as it came.
    ///
    /// # Errors
    /// [`DecodeError`] if it can't be read or is too much.
    pub fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let told: Self = wire::decode(bytes, TOLD_BYTES_MAX)?;
        if told.links.len() > TOLD_LINKS_MAX {
            return Err(DecodeError::invalid("links", format!("{}, at most {TOLD_LINKS_MAX}", told.links.len())));
        }
        Ok(told)
    }
}

/// What a contact is told of an account, opened: their own word, and what shows it. Not yet proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedLink {
    /// What they say.
    pub association: Signed<Association>,
    /// What shows it; empty if it doesn't stand by itself.
    pub proof: Vec<u8>,
}

impl ToldLink {
    /// Seals what the user says of an own account. The same gives the same bytes, so that nobody is told twice.
    ///
    /// # Errors
    /// [`DecodeError`] if it is too large.
    pub fn seal(association: Signed<Association>, proof: Vec<u8>, slow: &SlowId) -> Result<Self, DecodeError> {
        let user = association.unverified().user.clone();
        let listing = Listing { association, proof, leave: None, extensions: Extensions::none() };
        // Secret, and another for everything that is ever sealed under this key.
        let nonce = hash("halloo told link nonce", &[slow.key(), &wire::encode(&user), &wire::encode(&listing)]);
        let nonce: [u8; 24] = std::array::from_fn(|at| nonce[at]);
        Ok(Self { indicator: slow.indicator, sealed: seal(&listing, slow, &associated(slow, &user), nonce)? })
    }

    /// Opens what a contact tells of the account `linked`.
    ///
    /// # Errors
    /// [`ListingError`]: it is of another account, can't be opened, is somebody else's word, or doesn't hold.
    pub fn open(
        &self,
        (linked, slow): (&LinkedId, &SlowId),
        (user, identity): (&UserId, &IdentityKey),
        now: UnixTime,
    ) -> Result<OpenedLink, ListingError> {
        if self.indicator != slow.indicator {
            return Err(ListingError::OtherPlace);
        }
        let Listing { association, proof, .. } = unseal(&self.sealed, slow, &associated(slow, user))?;
        let said = Association::verify(&association, now).map_err(|error: AssociationError| ListingError::from(error))?;
        if said.user != *user || said.identity != *identity {
            return Err(ListingError::OtherUser);
        }
        if said.linked != *linked {
            return Err(ListingError::OtherIdentity);
        }
        Ok(OpenedLink { association, proof })
    }
}

/// What binds what is sealed to the account and to whose it is.
fn associated(slow: &SlowId, user: &UserId) -> [u8; 32] {
    hash("halloo told link 1", &[&slow.place.0, &wire::encode(user)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SecretKey;
    use crate::linked::{ASSOCIATION_SECS_MAX, AssociationParams, ProofMethod};
    use crate::test_identity::NOW;

    const ALICE: u8 = 1;
    const MALLORY: u8 = 2;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes([seed; 32])
    }

    fn who(seed: u8) -> (UserId, IdentityKey) {
        let identity = IdentityKey(key(seed).public());
        (UserId::Key(identity), identity)
    }

    fn alice() -> LinkedId {
        "xmpp:alice@there.example".parse().expect("an address")
    }

    fn association(seed: u8, linked: LinkedId, now: UnixTime) -> Signed<Association> {
        let params = AssociationParams { user: who(seed).0, linked, method: ProofMethod::OWN_ITEM, last_serial: 0, now };
        Association::sign(params, &key(seed))
    }

    fn told(association: Signed<Association>, proof: Vec<u8>) -> ToldLink {
        ToldLink::seal(association, proof, &SlowId::for_tests(1)).expect("small")
    }

    fn open(link: &ToldLink, seed: u8) -> Result<OpenedLink, ListingError> {
        let (user, identity) = who(seed);
        link.open((&alice(), &SlowId::for_tests(1)), (&user, &identity), NOW)
    }

    #[test]
    fn who_knows_the_address_opens_what_the_contact_says_of_it() {
        let said = association(ALICE, alice(), NOW);
        let link = told(said.clone(), vec![7; 900]);
        assert_eq!(open(&link, ALICE), Ok(OpenedLink { association: said.clone(), proof: vec![7; 900] }));
        assert_eq!(told(said.clone(), vec![7; 900]), link, "nobody is told twice");
        let (user, identity) = who(ALICE);
        let other = link.open((&alice(), &SlowId::for_tests(2)), (&user, &identity), NOW);
        assert_eq!(other, Err(ListingError::OtherPlace));
        let renamed = ToldLink { indicator: SlowId::for_tests(2).indicator, ..link.clone() };
        let other = renamed.open((&alice(), &SlowId::for_tests(2)), (&user, &identity), NOW);
        assert_eq!(other, Err(ListingError::Sealed), "sealed under another address");
        assert_eq!(open(&link, MALLORY), Err(ListingError::Sealed), "copied by another contact");
        let mut broken = link.clone();
        broken.sealed[100] ^= 1;
        assert_eq!(open(&broken, ALICE), Err(ListingError::Sealed));
        broken.sealed.truncate(10);
        assert_eq!(open(&broken, ALICE), Err(ListingError::Sealed));
    }

    #[test]
    fn what_isnt_the_contacts_own_word_isnt_taken() {
        // Whoever knows the address can seal: what is inside is checked.
        let sealed_for = |seed: u8, association: Signed<Association>| {
            let slow = SlowId::for_tests(1);
            let listing = Listing { association, proof: Vec::new(), leave: None, extensions: Extensions::none() };
            let sealed = seal(&listing, &slow, &associated(&slow, &who(seed).0), [0; 24]).expect("small");
            ToldLink { indicator: slow.indicator, sealed }
        };
        let others = sealed_for(MALLORY, association(ALICE, alice(), NOW));
        assert_eq!(open(&others, MALLORY), Err(ListingError::OtherUser));
        let forged = Signed::sign(association(ALICE, alice(), NOW).unverified().clone(), &key(MALLORY));
        assert!(matches!(
            open(&sealed_for(ALICE, forged), ALICE),
            Err(ListingError::Association(AssociationError::Signature(_)))
        ));
        let bobs = "xmpp:bob@there.example".parse().expect("an address");
        assert_eq!(open(&told(association(ALICE, bobs, NOW), Vec::new()), ALICE), Err(ListingError::OtherIdentity));
        let old = association(ALICE, alice(), NOW.minus_secs(ASSOCIATION_SECS_MAX + 1));
        assert!(matches!(open(&told(old, Vec::new()), ALICE), Err(ListingError::Association(AssociationError::Expired(_)))));
    }

    #[test]
    fn what_is_told_is_bounded() {
        let (bare, proved) =
            (told(association(ALICE, alice(), NOW), Vec::new()), told(association(ALICE, alice(), NOW), vec![1; 1_500]));
        // As the documentation says.
        let size = |link: &ToldLink| wire::encoded_len(&ToldLinks::new(NOW.0, vec![link.clone()]));
        assert_eq!((size(&bare), size(&proved)), (1_050, 2_074));
        let all = ToldLinks::new(1, vec![bare.clone(); 20]);
        assert_eq!((all.links.len(), wire::encoded_len(&all) <= TOLD_BYTES_MAX), (TOLD_LINKS_MAX, true));
        assert_eq!(ToldLinks::read(&wire::encode(&all)), Ok(all.clone()));
        let some = ToldLinks::new(1, [vec![proved; 5], vec![bare.clone()]].concat());
        assert_eq!(some.links.len(), 4, "what has room");
        let many = ToldLinks { links: vec![ToldLink { sealed: Vec::new(), ..bare.clone() }; TOLD_LINKS_MAX + 1], ..all.clone() };
        assert!(ToldLinks::read(&wire::encode(&many)).is_err());
        let long = ToldLinks { links: vec![ToldLink { sealed: vec![0; TOLD_BYTES_MAX], ..bare }], ..all };
        assert!(ToldLinks::read(&wire::encode(&long)).is_err());
    }
}
