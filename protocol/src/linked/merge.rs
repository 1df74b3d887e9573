//! A technical identity, which was made because somebody was known elsewhere alone, becomes part of another one.

use bincode::{Decode, Encode};

use super::association::Association;
use crate::identity::UserId;
use crate::key::{IdentityKey, SecretKey, Signature, SignatureError, hash};
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, Signed};

/// Tag of the extension of an [`Association`] that holds a signed [`IdentityMerge`]: what was said before of this identity elsewhere was said by the same person.
pub const MERGE_EXTENSION: u16 = 0x0001;

/// Largest signed statement.
const MERGE_BYTES_MAX: usize = 512;

/// The holder of `old`, an identity without a name, is the user `user` from now on, and `old` is nobody any more. Signed by `old`, and accepted by `identity`.
///
/// Without the acceptance anybody could make somebody else answerable for what they have said; without the signature anybody could take over what others have.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct IdentityMerge {
    /// The key so far, which signs this.
    pub old: IdentityKey,
    /// The user who stays.
    pub user: UserId,
    /// Their identity key.
    pub identity: IdentityKey,
    /// When.
    pub at: UnixTime,
    /// The signature of `identity` over the fields above.
    pub accepted: Signature,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for IdentityMerge {
    const KIND: u16 = 0x0b30;
    const LIMIT: usize = 384;

    fn check(&self) -> Result<(), DecodeError> {
        if self.old == self.identity {
            return Err(DecodeError::invalid("old", "the key that stays"));
        }
        if matches!(&self.user, UserId::Key(key) if *key != self.identity) {
            return Err(DecodeError::invalid("user", "another key than the identity's"));
        }
        Ok(())
    }
}

impl IdentityMerge {
    /// The user who stays takes an identity over. The old key still has to sign it.
    #[must_use]
    pub fn accept(old: IdentityKey, user: UserId, at: UnixTime, identity: &SecretKey) -> Self {
        let (key, extensions) = (IdentityKey(identity.public()), Extensions::none());
        let mut merge = Self { old, user, identity: key, at, accepted: Signature([0; 64]), extensions };
        merge.accepted = identity.sign(&merge.accepted_bytes());
        merge
    }

    /// The old key says so too.
    #[must_use]
    pub fn sign(self, old: &SecretKey) -> Signed<Self> {
        Signed::sign(self, old)
    }

    /// Checks that the user who stays accepts it.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify_accepted(&self) -> Result<(), SignatureError> {
        self.identity.0.verify(&self.accepted_bytes(), &self.accepted)
    }

    /// Checks both signatures.
    ///
    /// # Errors
    /// [`SignatureError`] if one of the keys didn't sign.
    pub fn verify(signed: &Signed<Self>) -> Result<&Self, SignatureError> {
        let merge = signed.verify(&signed.unverified().old.0)?;
        merge.verify_accepted()?;
        Ok(merge)
    }

    /// What an association says of it: the identity that its user has taken over, if both have signed that.
    #[must_use]
    pub fn of(said: &Association) -> Option<Self> {
        let bytes = said.extensions.find(MERGE_EXTENSION)?;
        let signed: Signed<Self> = wire::decode(bytes, MERGE_BYTES_MAX).ok()?;
        let merge = Self::verify(&signed).ok()?;
        (merge.user == said.user && merge.identity == said.identity).then(|| merge.clone())
    }

    fn accepted_bytes(&self) -> Vec<u8> {
        let (user, at) = (wire::encode(&self.user), self.at.0.to_be_bytes());
        let parts = [self.old.as_bytes().as_slice(), &user, self.identity.as_bytes().as_slice(), &at];
        let mut bytes = b"halloo identity merge\0".to_vec();
        bytes.extend_from_slice(&hash("halloo identity merge", &parts));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ChainError, TrustStore, UserChain};
    use crate::linked::{AssociationParams, LinkedId, ProofMethod};
    use crate::test_identity::NOW;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes([seed; 32])
    }

    fn user(seed: u8) -> UserId {
        UserId::Key(IdentityKey(key(seed).public()))
    }

    fn merge(old: u8, new: u8) -> IdentityMerge {
        IdentityMerge::accept(IdentityKey(key(old).public()), user(new), NOW, &key(new))
    }

    fn association(of: u8, merge: Option<&Signed<IdentityMerge>>) -> Association {
        let linked: LinkedId = "xmpp:alice@there.example".parse().expect("an address");
        let params = AssociationParams { user: user(of), linked, method: ProofMethod::OWN_ITEM, last_serial: 0, now: NOW };
        Association::sign_merged(params, merge, &key(of)).unverified().clone()
    }

    #[test]
    fn both_keys_have_to_say_it() {
        let good = merge(1, 2).sign(&key(1));
        assert_eq!(IdentityMerge::verify(&good).map(|merge| &merge.user), Ok(&user(2)));
        assert!(IdentityMerge::verify(&merge(1, 2).sign(&key(3))).is_err(), "somebody else's signature for the old key");
        let forced = IdentityMerge { user: user(3), identity: IdentityKey(key(3).public()), ..merge(1, 2) };
        assert!(IdentityMerge::verify(&forced.sign(&key(1))).is_err(), "who stays hasn't accepted it");
        let later = IdentityMerge { at: NOW.plus_secs(1), ..merge(1, 2) };
        assert!(IdentityMerge::verify(&later.sign(&key(1))).is_err(), "accepted for another time");
    }

    #[test]
    fn an_association_says_it_of_its_own_user_alone() {
        let good = merge(1, 2).sign(&key(1));
        let found = IdentityMerge::of(&association(2, Some(&good))).expect("it says so");
        assert_eq!(found.old, IdentityKey(key(1).public()));
        assert_eq!(IdentityMerge::of(&association(2, None)), None);
        assert_eq!(IdentityMerge::of(&association(3, Some(&good))), None, "another user's");
        let bytes = wire::encode(&Association::sign_merged(
            AssociationParams {
                user: user(2),
                linked: "xmpp:alice@there.example".parse().expect("an address"),
                method: ProofMethod::OWN_ITEM,
                last_serial: 0,
                now: NOW,
            },
            Some(&good),
            &key(2),
        ));
        assert!(wire::decode::<Signed<Association>>(&bytes, 1_000).is_ok(), "{} bytes", bytes.len());
    }

    #[test]
    fn an_identity_that_was_merged_is_believed_no_more() {
        let mut trust = TrustStore::new();
        let (old, other) = (IdentityKey(key(1).public()), IdentityKey(key(2).public()));
        assert!(UserChain::Key(old).verify(NOW, &trust).is_ok());
        assert!(trust.retire(old) && !trust.retire(old), "once");
        assert_eq!(UserChain::Key(old).verify(NOW, &trust), Err(ChainError::Merged(old)));
        assert!(UserChain::Key(other).verify(NOW, &trust).is_ok());
    }

    #[test]
    fn nobody_becomes_themselves() {
        let bytes = wire::encode(&merge(1, 1).sign(&key(1)));
        assert!(wire::decode::<Signed<IdentityMerge>>(&bytes, MERGE_BYTES_MAX).is_err());
        let other = IdentityMerge { user: user(3), ..merge(1, 2) };
        assert!(wire::decode::<Signed<IdentityMerge>>(&wire::encode(&other.sign(&key(1))), MERGE_BYTES_MAX).is_err());
    }
}
