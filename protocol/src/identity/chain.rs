//! The one way to believe that something comes from a user.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};

use super::certificate::{DeviceCertificate, SigningCertificate, Tombstone, UserCertificate};
use super::removal::Removals;
use super::revocation::SignedRevocationList;
use super::username::{UserId, Username};
use crate::directory::{Place, RecordKey};
use crate::key::{AuthorityKey, DeviceKey, IdentityKey, SignatureError};
use crate::linked::Indicator;
use crate::time::UnixTime;
use crate::wire::Signed;

/// Most authorities a node trusts at once.
pub const AUTHORITIES_MAX: usize = 64;

/// Most identities remembered that have become part of others.
pub const RETIRED_MAX: usize = 4_096;

/// Why a chain, or a revocation list, isn't believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The root key isn't one we trust.
    #[error("authority {0} isn't trusted here")]
    UnknownAuthority(AuthorityKey),
    /// The root key didn't sign the signing certificate.
    #[error("signing certificate: {0}")]
    SigningSignature(SignatureError),
    /// The signing certificate's time is over, or hasn't come.
    #[error("signing certificate isn't valid now (ends {not_after})")]
    SigningExpired {
        /// Its end.
        not_after: UnixTime,
    },
    /// The root key has taken the signing key back.
    #[error("signing key {0} was revoked")]
    SigningRevoked(u64),
    /// The signing key didn't sign the user certificate.
    #[error("user certificate: {0}")]
    UserSignature(SignatureError),
    /// The user certificate is over.
    #[error("user certificate expired at {0}")]
    UserExpired(UnixTime),
    /// The user certificate hasn't started.
    #[error("user certificate isn't valid before {0}")]
    UserNotYet(UnixTime),
    /// The authority revoked the user.
    #[error("user certificate {0} was revoked")]
    UserRevoked(u64),
    /// The identity key didn't sign the device certificate.
    #[error("device certificate: {0}")]
    DeviceSignature(SignatureError),
    /// The device certificate is over.
    #[error("device certificate expired at {0}")]
    DeviceExpired(UnixTime),
    /// The device certificate hasn't started.
    #[error("device certificate isn't valid before {0}")]
    DeviceNotYet(UnixTime),
    /// The user has removed the device.
    #[error("the device was removed by its user at {0}")]
    DeviceRemoved(UnixTime),
    /// The identity has become part of another one.
    #[error("the identity {0} is part of another one now")]
    Merged(IdentityKey),
    /// A revocation list that its authority didn't sign.
    #[error("revocation list: {0}")]
    ListSignature(SignatureError),
    /// The table of trusted authorities is full.
    #[error("more than {AUTHORITIES_MAX} authorities")]
    TooManyAuthorities,
}

/// From the root to the user; or an identity without a name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[allow(clippy::large_enum_variant, reason = "nearly every chain is a named one")]
pub enum UserChain {
    /// A user whom an authority named.
    Named {
        /// The authority's root key.
        root: AuthorityKey,
        /// The root key's word for the signing key.
        signing: Signed<SigningCertificate>,
        /// The signing key's word for the user.
        user: Signed<UserCertificate>,
    },
    /// A user known by key alone. Such nodes are served, and never serve.
    Key(IdentityKey),
}

impl UserChain {
    /// The user this chain *claims* to be, for finding out where to look; believe it only after [`UserChain::verify`].
    #[must_use]
    pub fn claimed_id(&self) -> UserId {
        match self {
            Self::Named { root, user, .. } => UserId::Named { authority: *root, name: user.unverified().name.clone() },
            Self::Key(identity) => UserId::Key(*identity),
        }
    }

    /// Checks signatures, times and revocations from the root down to the user.
    ///
    /// # Errors
    /// The first link that doesn't hold.
    pub fn verify(&self, now: UnixTime, trust: &TrustStore) -> Result<VerifiedUser, ChainError> {
        let (root, signing, user) = match self {
            Self::Key(identity) if trust.retired.contains(identity) => return Err(ChainError::Merged(*identity)),
            Self::Key(identity) => return Ok(VerifiedUser::from_key(*identity)),
            Self::Named { root, signing, user } => (root, signing, user),
        };
        let authority = trust.authorities.get(root).ok_or(ChainError::UnknownAuthority(*root))?;
        let signing = trust.signing(root, signing, now)?;
        let user = user.verify(&signing.key).map_err(ChainError::UserSignature)?;
        if user.not_before.is_from_the_future(now) {
            return Err(ChainError::UserNotYet(user.not_before));
        }
        if now > user.not_after {
            return Err(ChainError::UserExpired(user.not_after));
        }
        if authority.users_revoked.contains_key(&user.serial) {
            return Err(ChainError::UserRevoked(user.serial));
        }
        // Hints that were taken back are none; the rest of the certificate is good.
        let indicators = if authority.hints_revoked.contains(&user.serial) { Vec::new() } else { user.indicators() };
        Ok(VerifiedUser {
            id: UserId::Named { authority: *root, name: user.name.clone() },
            identity: user.identity,
            placement: Some(user.placement),
            serial: user.serial,
            not_after: user.not_after,
            indicators,
        })
    }
}

/// From the root to one device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Chain {
    /// Down to the user.
    pub user: UserChain,
    /// The user's word for the device.
    pub device: Signed<DeviceCertificate>,
}

impl Chain {
    /// Checks everything from the root down to the device. That the peer *holds* the device key is shown by the transport's handshake or
    /// by a signature of that key.
    ///
    /// # Errors
    /// The first link that doesn't hold.
    pub fn verify(&self, now: UnixTime, trust: &TrustStore) -> Result<VerifiedChain, ChainError> {
        let user = self.user.verify(now, trust)?;
        let device = verify_device(&self.device, &user.identity, now)?;
        if let Some(tombstone) = trust.removals.find(&user.identity, &device.device, now) {
            return Err(ChainError::DeviceRemoved(tombstone.unverified().removed_at));
        }
        Ok(VerifiedChain {
            device: device.device,
            slot: device.slot,
            place: user.placement.map(|placement| Place::assigned(&placement, device.slot)),
            device_serial: device.serial,
            not_after: user.not_after.min(device.not_after),
            user,
        })
    }
}

/// Checks one device certificate under a user already verified.
///
/// # Errors
/// The signature or time that is wrong.
pub(crate) fn verify_device<'a>(
    certificate: &'a Signed<DeviceCertificate>,
    identity: &IdentityKey,
    now: UnixTime,
) -> Result<&'a DeviceCertificate, ChainError> {
    let device = certificate.verify(&identity.0).map_err(ChainError::DeviceSignature)?;
    if device.not_before.is_from_the_future(now) {
        return Err(ChainError::DeviceNotYet(device.not_before));
    }
    if now > device.not_after {
        return Err(ChainError::DeviceExpired(device.not_after));
    }
    Ok(device)
}

/// A user whose chain holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedUser {
    /// Who.
    pub id: UserId,
    /// Their identity key.
    pub identity: IdentityKey,
    /// Where the authority placed them; `None` without an authority.
    pub placement: Option<[u8; 32]>,
    /// Serial of the user certificate; 0 without an authority.
    pub serial: u64,
    /// When the user certificate ends.
    pub not_after: UnixTime,
    /// Hints at identities in other systems that the authority has seen proved.
    pub indicators: Vec<Indicator>,
}

impl VerifiedUser {
    const fn from_key(identity: IdentityKey) -> Self {
        Self {
            id: UserId::Key(identity),
            identity,
            placement: None,
            serial: 0,
            not_after: UnixTime(u64::MAX),
            indicators: Vec::new(),
        }
    }

    /// Where the user's directory record is kept.
    #[must_use]
    pub fn record_key(&self) -> RecordKey {
        RecordKey::of(&self.id)
    }

    /// The name, if an authority gave one.
    #[must_use]
    pub const fn name(&self) -> Option<&Username> {
        match &self.id {
            UserId::Named { name, .. } => Some(name),
            UserId::Key(_) => None,
        }
    }
}

/// A device whose chain holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedChain {
    /// Whose device.
    pub user: VerifiedUser,
    /// The device.
    pub device: DeviceKey,
    /// Its slot.
    pub slot: u8,
    /// Its place in the directory; `None` without an authority: such a node never serves.
    pub place: Option<Place>,
    /// Serial of the device certificate.
    pub device_serial: u64,
    /// When the first of the certificates ends.
    pub not_after: UnixTime,
}

#[derive(Clone, Debug, Default)]
struct AuthorityState {
    users_revoked: BTreeMap<u64, UnixTime>,
    /// Certificates whose hints don't count.
    hints_revoked: BTreeSet<u64>,
    signing_revoked: BTreeSet<u64>,
    newest: Option<SignedRevocationList>,
}

impl AuthorityState {
    /// True if the newest list was signed by a signing key that the root has taken back since.
    fn newest_is_void(&self) -> bool {
        let signing = self.newest.as_ref().and_then(|list| list.signing.as_ref());
        signing.is_some_and(|certificate| self.signing_revoked.contains(&certificate.unverified().serial))
    }
}

/// The authorities this node believes, what they have taken back, and which devices their users have removed.
#[derive(Clone, Debug, Default)]
pub struct TrustStore {
    authorities: BTreeMap<AuthorityKey, AuthorityState>,
    pub(super) removals: Removals,
    /// Identities without a name that have become part of others.
    retired: BTreeSet<IdentityKey>,
}

impl TrustStore {
    /// Trusts nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts `root` from now on.
    ///
    /// # Errors
    /// [`ChainError::TooManyAuthorities`] when [`AUTHORITIES_MAX`] are trusted already.
    pub fn trust(&mut self, root: AuthorityKey) -> Result<(), ChainError> {
        if !self.authorities.contains_key(&root) && self.authorities.len() >= AUTHORITIES_MAX {
            return Err(ChainError::TooManyAuthorities);
        }
        self.authorities.entry(root).or_default();
        Ok(())
    }

    /// A signing key of a trusted authority, by the word of its root.
    ///
    /// # Errors
    /// The first link that doesn't hold.
    pub fn signing<'a>(
        &self,
        root: &AuthorityKey,
        signing: &'a Signed<SigningCertificate>,
        now: UnixTime,
    ) -> Result<&'a SigningCertificate, ChainError> {
        let authority = self.authorities.get(root).ok_or(ChainError::UnknownAuthority(*root))?;
        let signing = signing.verify(&root.0).map_err(ChainError::SigningSignature)?;
        if signing.not_before.is_from_the_future(now) || now > signing.not_after {
            return Err(ChainError::SigningExpired { not_after: signing.not_after });
        }
        if authority.signing_revoked.contains(&signing.serial) {
            return Err(ChainError::SigningRevoked(signing.serial));
        }
        Ok(signing)
    }

    /// An identity without a name is part of another one: nothing is believed of it any more. The caller has checked that both have said so. False if it was known, or there
    /// is no room: at most [`RETIRED_MAX`].
    pub fn retire(&mut self, identity: IdentityKey) -> bool {
        self.retired.len() < RETIRED_MAX && self.retired.insert(identity)
    }

    /// True if `root` is believed.
    #[must_use]
    pub fn is_trusted(&self, root: &AuthorityKey) -> bool {
        self.authorities.contains_key(root)
    }

    /// The trusted roots.
    pub fn authorities(&self) -> impl Iterator<Item = &AuthorityKey> {
        self.authorities.keys()
    }

    /// True if `root`'s newest list takes back the user certificate with this serial.
    #[must_use]
    pub fn is_user_revoked(&self, root: &AuthorityKey, serial: u64) -> bool {
        self.authorities.get(root).is_some_and(|state| state.users_revoked.contains_key(&serial))
    }

    /// True if `root`'s newest list takes back what the user certificate with this serial hints at.
    #[must_use]
    pub fn are_hints_revoked(&self, root: &AuthorityKey, serial: u64) -> bool {
        self.authorities.get(root).is_some_and(|state| state.hints_revoked.contains(&serial))
    }

    /// What a user's certificate hints at, by what is known now: hints may have been taken back since it was verified.
    #[must_use]
    pub fn indicators<'a>(&self, user: &'a VerifiedUser) -> &'a [Indicator] {
        match &user.id {
            UserId::Named { authority, .. } if !self.are_hints_revoked(authority, user.serial) => &user.indicators,
            _ => &[],
        }
    }

    /// True if the user's certificate has been taken back by its authority.
    #[must_use]
    pub fn is_revoked(&self, user: &VerifiedUser) -> bool {
        match &user.id {
            UserId::Named { authority, .. } => self.is_user_revoked(authority, user.serial),
            UserId::Key(_) => false,
        }
    }

    /// Number of the newest list known of `root`; 0 if none.
    #[must_use]
    pub fn revocation_number(&self, root: &AuthorityKey) -> u64 {
        self.revocation_list(root).map_or(0, |list| list.list.unverified().number)
    }

    /// The newest list known of `root`, for passing on.
    #[must_use]
    pub fn revocation_list(&self, root: &AuthorityKey) -> Option<&SignedRevocationList> {
        self.authorities.get(root)?.newest.as_ref()
    }

    /// Takes a user's word that a device is theirs no longer: its chains don't hold from now on. `Ok(true)` if it was news. With `is_kept`, for
    /// oneself and for contacts, it isn't pushed out by those of strangers.
    ///
    /// # Errors
    /// [`SignatureError`] if the identity key didn't sign it.
    pub fn apply_tombstone(
        &mut self,
        identity: &IdentityKey,
        tombstone: &Signed<Tombstone>,
        is_kept: bool,
        now: UnixTime,
    ) -> Result<bool, SignatureError> {
        let until = tombstone.verify(&identity.0)?.until;
        Ok(now <= until && self.removals.insert(*identity, tombstone.clone(), is_kept))
    }

    /// True if the user has removed this device.
    #[must_use]
    pub fn is_device_removed(&self, identity: &IdentityKey, device: &DeviceKey, now: UnixTime) -> bool {
        self.removals.find(identity, device, now).is_some()
    }

    /// The tombstones known of a user.
    pub fn tombstones_of(&self, identity: &IdentityKey) -> impl Iterator<Item = &Signed<Tombstone>> {
        self.removals.of_user(identity)
    }

    /// Forgets tombstones that are over, and tells which.
    pub fn prune_tombstones(&mut self, now: UnixTime) -> Vec<(IdentityKey, DeviceKey)> {
        self.removals.prune(now)
    }

    /// Takes over a list. `Ok(true)` if it was news, `Ok(false)` if an equal or newer one is known.
    ///
    /// What the root key itself says about signing keys counts whatever the list's number; and if that takes back the key which
    /// signed the newest list, the root's list replaces it. So a stolen signing key can't outnumber the root.
    ///
    /// # Errors
    /// [`ChainError`] if the authority isn't trusted, didn't sign it, or signed with a revoked key.
    pub fn apply_revocations(&mut self, list: &SignedRevocationList) -> Result<bool, ChainError> {
        let root = list.list.unverified().authority;
        let known = self.revocation_number(&root);
        let state = self.authorities.get_mut(&root).ok_or(ChainError::UnknownAuthority(root))?;
        let is_newer = list.list.unverified().number > known;
        if !is_newer && (list.signing.is_some() || state.newest.as_ref() == Some(list)) {
            return Ok(false);
        }
        let content = list.verify()?;
        let revoked_before = state.signing_revoked.len();
        if let Some(signing) = &list.signing {
            let serial = signing.unverified().serial;
            if state.signing_revoked.contains(&serial) {
                return Err(ChainError::SigningRevoked(serial));
            }
        } else {
            state.signing_revoked.extend(content.signing.iter().copied());
        }
        if !is_newer && !state.newest_is_void() {
            return Ok(state.signing_revoked.len() > revoked_before);
        }
        state.users_revoked = content.users.iter().map(|revoked| (revoked.serial, revoked.until)).collect();
        state.hints_revoked = content.hints().into_iter().map(|revoked| revoked.serial).collect();
        state.newest = Some(list.clone());
        Ok(true)
    }
}
