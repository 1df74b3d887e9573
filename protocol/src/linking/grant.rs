//! What the joiner says of itself, and what it is given.

use bincode::{Decode, Encode};

use crate::authority::LABEL_BYTES_MAX;
use crate::contact::privacy::PrivacySettings;
use crate::contact::{OwnKeys, Secret32};
use crate::directory::{DEVICE_NAME_BYTES_MAX, DeviceKind, Helper};
use crate::identity::{AUTHORITIES_MAX, Chain, ChainError, SignedRevocationList, TrustStore, UserChain, VerifiedChain};
use crate::key::{AuthorityKey, DeviceKey, SecretKey};
use crate::profile::ProfileCard;
use crate::time::UnixTime;
use crate::vault::VaultKey;
use crate::wire::{self, DecodeError, Extensions};

/// Largest request: a name and a kind.
pub(super) const REQUEST_BYTES_MAX: usize = 512;

/// Largest grant: it must fit a frame with what is around it.
pub const GRANT_BYTES_MAX: usize = 60 * 1024;

/// Most authorities in a grant: as many as a node trusts.
pub const GRANT_AUTHORITIES_MAX: usize = AUTHORITIES_MAX;

/// Most nodes to join through in a grant.
pub const GRANT_BOOTSTRAP_MAX: usize = 16;

/// Why a grant isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkGrantError {
    /// It can't be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The certificates don't hold.
    #[error("the certificate doesn't hold: {0}")]
    Chain(#[from] ChainError),
    /// The certificate is another device's.
    #[error("the certificate is another device's")]
    OtherDevice,
    /// The user is of another authority than the link says.
    #[error("the user belongs to another authority than the link says")]
    OtherAuthority,
    /// The identity key given isn't the one that signed.
    #[error("the identity key isn't the user's")]
    OtherIdentity,
}

/// Extension of a [`LinkRequest`]: the identity key without a name that the joiner has, which is to become part of the holder's user. Of a [`LinkGrant`]: the
/// [`IdentityMerge`](crate::linked::IdentityMerge) that the user accepts; the joiner signs it.
pub const LINK_MERGE: u16 = 0x0001;

/// What a joiner says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkRequest {
    /// What it is called; at most [`DEVICE_NAME_BYTES_MAX`] bytes, may be empty.
    pub name: String,
    /// What machine it is.
    pub kind: DeviceKind,
    /// Room to grow.
    pub extensions: Extensions,
}

impl LinkRequest {
    /// Reads one.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let request: Self = wire::decode(bytes, REQUEST_BYTES_MAX)?;
        if request.name.len() > DEVICE_NAME_BYTES_MAX {
            return Err(DecodeError::invalid("name", format!("{} bytes, at most {DEVICE_NAME_BYTES_MAX}", request.name.len())));
        }
        Ok(request)
    }
}

/// Everything a new device of a user needs to be one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkGrant {
    /// The user's chain, down to the new device.
    pub chain: Chain,
    /// Authorities that the holder trusts, with its labels for them; at most [`GRANT_AUTHORITIES_MAX`].
    pub authorities: Vec<(String, AuthorityKey)>,
    /// What those have taken back, as far as it fits.
    pub revocations: Vec<SignedRevocationList>,
    /// Ways into the network; at most [`GRANT_BOOTSTRAP_MAX`].
    pub bootstrap: Vec<Helper>,
    /// The keys that all devices of the user share, and the profile.
    pub own: OwnKeys,
    /// Who may do what.
    pub privacy: PrivacySettings,
    /// Opens the user's vault ([`crate::vault`]).
    pub vault_key: Option<VaultKey>,
    /// The identity key's seed, if the person wants it on the new device too.
    pub identity_key: Option<Secret32>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl LinkGrant {
    /// Reads one.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let grant: Self = wire::decode(bytes, GRANT_BYTES_MAX)?;
        grant.check()?;
        Ok(grant)
    }

    /// The bytes, with revocation lists left out from the end until they fit; the network has them too.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut grant = self.clone();
        while wire::encoded_len(&grant) > GRANT_BYTES_MAX && grant.revocations.pop().is_some() {}
        wire::encode(&grant)
    }

    /// Checks that the certificates hold, for this device and under the authority expected. Authorities are trusted on the holder's word: it has
    /// proved that it knows the code.
    ///
    /// # Errors
    /// [`LinkGrantError`].
    pub fn verify(
        &self,
        device: &DeviceKey,
        root: Option<&AuthorityKey>,
        now: UnixTime,
    ) -> Result<VerifiedChain, LinkGrantError> {
        self.check()?;
        if let (Some(root), UserChain::Named { root: named, .. }) = (root, &self.chain.user)
            && named != root
        {
            return Err(LinkGrantError::OtherAuthority);
        }
        let mut trust = TrustStore::new();
        self.authorities.iter().try_for_each(|(_, key)| trust.trust(*key))?;
        for list in &self.revocations {
            trust.apply_revocations(list)?;
        }
        let chain = self.chain.verify(now, &trust)?;
        if chain.device != *device {
            return Err(LinkGrantError::OtherDevice);
        }
        match self.identity_key() {
            Some(key) if key.public() != chain.user.identity.0 => Err(LinkGrantError::OtherIdentity),
            _ => Ok(chain),
        }
    }

    /// The identity key, if it was given.
    #[must_use]
    pub fn identity_key(&self) -> Option<SecretKey> {
        self.identity_key.as_ref().map(|seed| SecretKey::from_bytes(*seed.as_bytes()))
    }

    fn check(&self) -> Result<(), DecodeError> {
        let counts = [
            ("authorities", self.authorities.len(), GRANT_AUTHORITIES_MAX),
            ("revocations", self.revocations.len(), GRANT_AUTHORITIES_MAX),
            ("bootstrap", self.bootstrap.len(), GRANT_BOOTSTRAP_MAX),
            ("label", self.authorities.iter().map(|(label, _)| label.len()).max().unwrap_or(0), LABEL_BYTES_MAX),
        ];
        if let Some((field, count, limit)) = counts.into_iter().find(|(_, count, limit)| count > limit) {
            return Err(DecodeError::invalid(field, format!("{count}, at most {limit}")));
        }
        self.bootstrap.iter().try_for_each(Helper::check)?;
        self.own.profile.as_ref().map_or(Ok(()), ProfileCard::check)
    }
}
