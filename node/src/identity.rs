//! Who this node is: its keys in files, its certificates in the store.
//!
//! `device.key` is on every device and never leaves it. `identity.key` is on the device where the identity was made or recovered, and signs
//! device certificates. The [`Chain`] that shows both to others is kept in the store: before enrolment it is the bare identity key.
//! Losing the store loses no identity: certificates are made or asked for again.

use std::path::Path;

use halloo_protocol::authority::{EnrolParams, EnrolRequest, InviteSecret, RenewRequest};
use halloo_protocol::directory::Place;
use halloo_protocol::identity::{
    Chain, DEVICE_CERTIFICATE_SECS_MAX, DeviceCertificate, DeviceCertificateParams, KeySuccession, RecoveryPhrase, SLOTS,
    USER_RENEWAL_AFTER_SECS, UserChain, UserId, Username,
};
use halloo_protocol::key::{AuthorityKey, DeviceKey, IdentityKey, SecretKey};
use halloo_protocol::linked::{Association, AssociationParams, IdentityMerge, LeaveScope, LinkedKey, LinkedLeave};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Signed};
use zeroize::Zeroizing;

use crate::key_file::{self, KeyFileError, KeyRole};
use crate::store::{Store, StoreError, Transaction};

const CHAIN_SETTING: &str = "identity chain";
const HPKE_SETTING: &str = "identity hpke keys";

/// Age from which a device certificate is made anew, where the identity key is at hand.
const DEVICE_RENEWAL_AFTER_SECS: u64 = DEVICE_CERTIFICATE_SECS_MAX / 2;

/// Why this home has no usable identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalIdentityError {
    /// No keys in this home.
    #[error("this home has no identity yet: run `halloo init`")]
    NotInitialised,
    /// There are keys already.
    #[error("this home has an identity already")]
    AlreadyInitialised,
    /// The device's certificate is gone, and the key that could make another isn't here.
    #[error("the device's certificate is missing and the identity key isn't on this device: link the device again")]
    NoCertificate,
    /// The operation needs the identity key.
    #[error("the identity key isn't on this device")]
    NoIdentityKey,
    /// The certificate chain offered is another identity's.
    #[error("the certificate is for the key {0}, which isn't this home's")]
    OtherIdentity(IdentityKey),
    /// The device certificate offered can't take the place of the present one.
    #[error("the device certificate isn't a newer one of this device")]
    OtherCertificate,
    /// A key file.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// This node's own keys and certificates.
#[derive(Debug)]
pub struct LocalIdentity {
    store: Store,
    identity_key: Option<SecretKey>,
    device_key: SecretKey,
    identity: IdentityKey,
    chain: Chain,
}

/// A new identity and device in memory, for nodes without a home: tests, and embedders who keep no state.
///
/// # Errors
/// [`LocalIdentityError::KeyFile`] if the system gives no random bytes; [`LocalIdentityError::Store`].
pub fn fresh(store: &Store) -> Result<LocalIdentity, LocalIdentityError> {
    let now = crate::event_loop::ClockSource::default().raw_unix();
    LocalIdentity::in_memory(store, key_file::generate_key()?, key_file::generate_key()?, now)
}

/// True if `home` has an identity, whole or not.
#[must_use]
pub fn is_initialised(home: &Path) -> bool {
    key_file::has_key(home, KeyRole::Device)
}

impl LocalIdentity {
    /// Makes keys for a home that has none: the identity key of `phrase`, which may be new or written down earlier, and a new device key.
    ///
    /// # Errors
    /// [`LocalIdentityError::AlreadyInitialised`]; [`LocalIdentityError::KeyFile`]; [`LocalIdentityError::Store`].
    pub fn create(home: &Path, store: &Store, phrase: &RecoveryPhrase, now: UnixTime) -> Result<Self, LocalIdentityError> {
        if is_initialised(home) {
            return Err(LocalIdentityError::AlreadyInitialised);
        }
        let identity_key = phrase.identity_key();
        // The device key last: it marks the home as complete. An identity key without it is left from an attempt that was cut
        // short, and may stay only if it is the same.
        match key_file::read_key(home, KeyRole::Identity)? {
            None => key_file::write_key(home, KeyRole::Identity, &identity_key)?,
            Some(found) if found.public() == identity_key.public() => {}
            Some(_) => return Err(LocalIdentityError::AlreadyInitialised),
        }
        let device_key = key_file::generate_key()?;
        key_file::write_key(home, KeyRole::Device, &device_key)?;
        Self::in_memory(store, identity_key, device_key, now)
    }

    /// An identity from keys in hand, for nodes without a home and for embedders who keep keys themselves. Its chain is in `store`.
    ///
    /// # Errors
    /// [`LocalIdentityError::Store`].
    pub fn in_memory(
        store: &Store,
        identity_key: SecretKey,
        device_key: SecretKey,
        now: UnixTime,
    ) -> Result<Self, LocalIdentityError> {
        Self::assemble(store, Some(identity_key), device_key, now)
    }

    /// Loads the identity of a home.
    ///
    /// # Errors
    /// [`LocalIdentityError::NotInitialised`]; [`LocalIdentityError::NoCertificate`]; [`LocalIdentityError::KeyFile`];
    /// [`LocalIdentityError::Store`].
    pub fn load(home: &Path, store: &Store, now: UnixTime) -> Result<Self, LocalIdentityError> {
        let device_key = key_file::read_key(home, KeyRole::Device)?.ok_or(LocalIdentityError::NotInitialised)?;
        let identity_key = key_file::read_key(home, KeyRole::Identity)?;
        Self::assemble(store, identity_key, device_key, now)
    }

    fn assemble(
        store: &Store,
        identity_key: Option<SecretKey>,
        device_key: SecretKey,
        now: UnixTime,
    ) -> Result<Self, LocalIdentityError> {
        let device = DeviceKey(device_key.public());
        let stored: Option<Chain> = store.read(|view| view.setting_value(CHAIN_SETTING))?;
        let stored = stored.filter(|chain| is_chain_of(chain, device, identity_key.as_ref()));
        let chain = match (stored, &identity_key) {
            (Some(chain), _) => chain,
            (None, None) => return Err(LocalIdentityError::NoCertificate),
            (None, Some(key)) => {
                let chain = Chain {
                    user: UserChain::Key(IdentityKey(key.public())),
                    device: certify_device(key, device, slot_of(&device), now),
                };
                store.transaction(|tx| tx.put_setting_value(CHAIN_SETTING, &chain))?;
                chain
            }
        };
        let identity = identity_in(&chain.user);
        let mut local = Self { store: store.clone(), identity_key, device_key, identity, chain };
        local.renew_device_certificate(now)?;
        Ok(local)
    }

    /// Takes over the chain an authority gave. The caller has verified it
    /// ([`EnrolGrant::verify`](halloo_protocol::authority::EnrolGrant::verify)).
    ///
    /// # Errors
    /// [`LocalIdentityError::OtherIdentity`]; [`LocalIdentityError::Store`].
    pub fn set_user_chain(&mut self, user: UserChain) -> Result<(), LocalIdentityError> {
        let identity = identity_in(&user);
        if identity != self.identity {
            return Err(LocalIdentityError::OtherIdentity(identity));
        }
        self.keep(Chain { user, device: self.chain.device.clone() })
    }

    /// Makes a new device certificate if the present one is past half its time and the identity key is here; `true` if it did. Call it daily.
    ///
    /// # Errors
    /// [`LocalIdentityError::Store`].
    pub fn renew_device_certificate(&mut self, now: UnixTime) -> Result<bool, LocalIdentityError> {
        let Some(identity_key) = &self.identity_key else { return Ok(false) };
        let current = self.chain.device.unverified();
        // One from the future is replaced as well: it was made while the clock was wrong.
        let is_due =
            now.secs_since(current.not_before) >= DEVICE_RENEWAL_AFTER_SECS || current.not_before.is_from_the_future(now);
        if !is_due {
            return Ok(false);
        }
        let serial = now.0.max(current.serial.saturating_add(1));
        let params = DeviceCertificateParams { device: self.device(), slot: current.slot, serial, now };
        let device = Signed::sign(DeviceCertificate::new(params), identity_key);
        self.keep(Chain { user: self.chain.user.clone(), device })?;
        Ok(true)
    }

    /// Whether this device has the identity key.
    pub(crate) const fn has_identity_key(&self) -> bool {
        self.identity_key.is_some()
    }

    /// Says, or takes back, that an identity in another system is this user's; with the identity that this user was before.
    ///
    /// # Errors
    /// [`LocalIdentityError::NoIdentityKey`].
    pub(crate) fn associate(
        &self,
        params: AssociationParams,
        merge: Option<&Signed<IdentityMerge>>,
        is_revoked: bool,
    ) -> Result<Signed<Association>, LocalIdentityError> {
        let key = self.identity_key.as_ref().ok_or(LocalIdentityError::NoIdentityKey)?;
        Ok(if is_revoked { Association::revoke(params, key) } else { Association::sign_merged(params, merge, key) })
    }

    /// Gives contacts in linked systems leave to use this key. `None` without the identity key.
    pub(crate) fn linked_leave(&self, key: LinkedKey, scope: LeaveScope, now: UnixTime) -> Option<LinkedLeave> {
        Some(LinkedLeave::sign(key, scope, self.identity_key.as_ref()?, now))
    }

    /// A certificate for another device of this user; for `secs` from an hour ago on, if that isn't as long as it may be.
    ///
    /// # Errors
    /// [`LocalIdentityError::NoIdentityKey`].
    pub(crate) fn certify(
        &self,
        device: DeviceKey,
        secs: Option<u64>,
        now: UnixTime,
    ) -> Result<Signed<DeviceCertificate>, LocalIdentityError> {
        let key = self.identity_key.as_ref().ok_or(LocalIdentityError::NoIdentityKey)?;
        let params = DeviceCertificateParams { device, slot: slot_of(&device), serial: now.0, now };
        let mut certificate = DeviceCertificate::new(params);
        if let Some(secs) = secs {
            certificate.not_after = certificate.not_after.min(certificate.not_before.plus_secs(secs));
        }
        Ok(Signed::sign(certificate, key))
    }

    /// A certificate for a device of this user in place of `current`.
    ///
    /// # Errors
    /// [`LocalIdentityError::NoIdentityKey`].
    pub(crate) fn recertify(
        &self,
        device: DeviceKey,
        current: &DeviceCertificate,
        now: UnixTime,
    ) -> Result<Signed<DeviceCertificate>, LocalIdentityError> {
        let key = self.identity_key.as_ref().ok_or(LocalIdentityError::NoIdentityKey)?;
        let serial = now.0.max(current.serial.saturating_add(1));
        Ok(Signed::sign(DeviceCertificate::new(DeviceCertificateParams { device, slot: current.slot, serial, now }), key))
    }

    /// True from half of the device certificate's time on, on a device that can't make another itself.
    #[must_use]
    pub(crate) fn needs_device_certificate(&self, now: UnixTime) -> bool {
        let current = self.chain.device.unverified();
        let length_secs = current.not_after.secs_since(current.not_before);
        self.identity_key.is_none() && now.secs_since(current.not_before) >= length_secs / 2
    }

    /// Takes over a device certificate that another device of this user has made.
    ///
    /// # Errors
    /// [`LocalIdentityError::OtherCertificate`] if it isn't one for this device, or isn't newer; [`LocalIdentityError::Store`].
    pub(crate) fn set_device_certificate(
        &mut self,
        certificate: Signed<DeviceCertificate>,
        now: UnixTime,
    ) -> Result<(), LocalIdentityError> {
        let content = certificate.verify(&self.identity.0).map_err(|_| LocalIdentityError::OtherCertificate)?;
        let current = self.chain.device.unverified();
        let is_good = content.device == self.device()
            && content.serial > current.serial
            && content.not_after > current.not_after
            && content.slot == current.slot
            && !content.not_before.is_from_the_future(now);
        if !is_good {
            return Err(LocalIdentityError::OtherCertificate);
        }
        self.keep(Chain { user: self.chain.user.clone(), device: certificate })
    }

    fn keep(&mut self, chain: Chain) -> Result<(), LocalIdentityError> {
        self.store.transaction(|tx| tx.put_setting_value(CHAIN_SETTING, &chain))?;
        self.chain = chain;
        Ok(())
    }

    /// True from the thirtieth day of the user certificate, or from a third of a shorter one's time: time for
    /// [`LocalIdentity::renew_request`]. False before enrolment.
    #[must_use]
    pub fn renewal_due(&self, now: UnixTime) -> bool {
        match &self.chain.user {
            UserChain::Named { user, .. } => {
                let certificate = user.unverified();
                let length_secs = certificate.not_after.secs_since(certificate.not_before);
                now.secs_since(certificate.not_before) >= USER_RENEWAL_AFTER_SECS.min(length_secs / 3)
            }
            UserChain::Key(_) => false,
        }
    }

    /// The chain to show to others.
    #[must_use]
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The user, as named in the chain.
    #[must_use]
    pub fn user_id(&self) -> UserId {
        self.chain.user.claimed_id()
    }

    /// The identity key's public half.
    #[must_use]
    pub const fn identity(&self) -> IdentityKey {
        self.identity
    }

    /// The identity key, where it is on this device.
    #[must_use]
    pub const fn identity_key(&self) -> Option<&SecretKey> {
        self.identity_key.as_ref()
    }

    /// The device key's public half.
    #[must_use]
    pub fn device(&self) -> DeviceKey {
        DeviceKey(self.device_key.public())
    }

    /// The device key: libp2p's key pair is made from it.
    #[must_use]
    pub const fn device_key(&self) -> &SecretKey {
        &self.device_key
    }

    /// The authority that named this user; `None` before enrolment.
    #[must_use]
    pub const fn authority(&self) -> Option<AuthorityKey> {
        match &self.chain.user {
            UserChain::Named { root, .. } => Some(*root),
            UserChain::Key(_) => None,
        }
    }

    /// This device's place in the directory; `None` before enrolment: such a node never serves.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match &self.chain.user {
            UserChain::Named { user, .. } => {
                Some(Place::assigned(&user.unverified().placement, self.chain.device.unverified().slot))
            }
            UserChain::Key(_) => None,
        }
    }

    /// When the first of the certificates ends.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        let device = self.chain.device.unverified().not_after;
        match &self.chain.user {
            UserChain::Named { user, .. } => user.unverified().not_after.min(device),
            UserChain::Key(_) => device,
        }
    }

    /// The request with which this device asks `authority` for `name`.
    ///
    /// # Errors
    /// [`LocalIdentityError::NoIdentityKey`].
    pub fn enrol_request(
        &self,
        authority: AuthorityKey,
        name: Username,
        invite: Option<InviteSecret>,
        succession: Option<Signed<KeySuccession>>,
        now: UnixTime,
    ) -> Result<EnrolRequest, LocalIdentityError> {
        let key = self.identity_key.as_ref().ok_or(LocalIdentityError::NoIdentityKey)?;
        let params = EnrolParams { authority, name, device: self.device(), invite, succession };
        Ok(EnrolRequest::new(params, key, now))
    }

    /// The request with which this device asks for a fresh user certificate.
    #[must_use]
    pub fn renew_request(&self) -> RenewRequest {
        RenewRequest { chain: self.chain.clone(), extensions: Extensions::none() }
    }

    /// The device's HPKE key pairs, as the caller encoded them.
    ///
    /// # Errors
    /// [`LocalIdentityError::Store`].
    pub fn hpke_keys(&self) -> Result<Option<Zeroizing<Vec<u8>>>, LocalIdentityError> {
        Ok(self.store.read(|view| view.setting(HPKE_SETTING))?.map(Zeroizing::new))
    }

    /// Keeps the device's HPKE key pairs in place of the former ones. Removed keys are overwritten in time, not at once: the database
    /// writes new pages and reuses the old.
    ///
    /// # Errors
    /// [`LocalIdentityError::Store`].
    pub fn put_hpke_keys(&self, keys: &[u8]) -> Result<(), LocalIdentityError> {
        Ok(self.store.transaction(|tx| tx.put_setting(HPKE_SETTING, keys))?)
    }
}

/// Keeps the chain that a new device was given.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn keep_chain(tx: &Transaction, chain: &Chain) -> Result<(), StoreError> {
    tx.put_setting_value(CHAIN_SETTING, chain)
}

/// The identity a chain *claims*.
pub(crate) fn identity_in(user: &UserChain) -> IdentityKey {
    match user {
        UserChain::Named { user, .. } => user.unverified().identity,
        UserChain::Key(identity) => *identity,
    }
}

/// A stored chain counts if it is this device's, signed by its identity, and that identity is the one whose key is here (if any is).
fn is_chain_of(chain: &Chain, device: DeviceKey, identity_key: Option<&SecretKey>) -> bool {
    let identity = identity_in(&chain.user);
    identity_key.is_none_or(|key| key.public() == identity.0)
        && chain.device.verify(&identity.0).is_ok_and(|certificate| certificate.device == device)
}

/// Spreads a user's devices over the user's places without any agreement between them.
fn slot_of(device: &DeviceKey) -> u8 {
    device.as_bytes()[0] % SLOTS
}

/// The first certificate of a device. Its serial is the time, so that it is above those of other devices made earlier.
fn certify_device(key: &SecretKey, device: DeviceKey, slot: u8, now: UnixTime) -> Signed<DeviceCertificate> {
    Signed::sign(DeviceCertificate::new(DeviceCertificateParams { device, slot, serial: now.0, now }), key)
}

#[cfg(test)]
mod tests {
    use halloo_protocol::identity::TrustStore;

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn phrase(number: u8) -> RecoveryPhrase {
        RecoveryPhrase::from_entropy([number; 32])
    }

    #[test]
    fn a_home_keeps_its_identity() -> Result<(), LocalIdentityError> {
        let home = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(home.path())?;
        assert!(!is_initialised(home.path()));
        assert!(matches!(LocalIdentity::load(home.path(), &store, NOW), Err(LocalIdentityError::NotInitialised)));
        let made = LocalIdentity::create(home.path(), &store, &phrase(1), NOW)?;
        made.put_hpke_keys(b"keys")?;
        let again = LocalIdentity::create(home.path(), &store, &phrase(2), NOW);
        assert!(matches!(again, Err(LocalIdentityError::AlreadyInitialised)));

        let loaded = LocalIdentity::load(home.path(), &store, NOW.plus_secs(60))?;
        assert_eq!(loaded.chain(), made.chain());
        assert_eq!(loaded.user_id(), UserId::Key(made.identity()));
        assert_eq!(loaded.hpke_keys()?.expect("kept").as_slice(), b"keys");
        let verified = loaded.chain().verify(NOW, &TrustStore::new()).expect("holds");
        assert_eq!((verified.device, verified.user.identity), (loaded.device(), loaded.identity()));
        assert!(!loaded.renewal_due(NOW.plus_secs(400 * 86_400)), "a bare key needs no authority");
        Ok(())
    }

    #[test]
    fn recovery_brings_back_the_identity_on_a_new_device() -> Result<(), LocalIdentityError> {
        let (first, second) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
        let made = LocalIdentity::create(first.path(), &Store::in_memory()?, &phrase(1), NOW)?;
        let read = RecoveryPhrase::parse(&phrase(1).words()).expect("own words");
        let recovered = LocalIdentity::create(second.path(), &Store::in_memory()?, &read, NOW.plus_secs(9))?;
        assert_eq!(recovered.identity(), made.identity());
        assert_ne!(recovered.device(), made.device());
        assert!(recovered.chain().device.unverified().serial > made.chain().device.unverified().serial);
        Ok(())
    }

    #[test]
    fn an_interrupted_creation_can_be_repeated_with_the_same_phrase_only() -> Result<(), LocalIdentityError> {
        let home = tempfile::tempdir().expect("temporary directory");
        let store = Store::in_memory()?;
        key_file::write_key(home.path(), KeyRole::Identity, &phrase(1).identity_key())?;
        let other = LocalIdentity::create(home.path(), &store, &phrase(2), NOW);
        assert!(matches!(other, Err(LocalIdentityError::AlreadyInitialised)));
        LocalIdentity::create(home.path(), &store, &phrase(1), NOW)?;
        Ok(())
    }

    #[test]
    fn a_lost_store_costs_no_identity_while_the_identity_key_is_here() -> Result<(), LocalIdentityError> {
        let home = tempfile::tempdir().expect("temporary directory");
        let made = LocalIdentity::create(home.path(), &Store::in_memory()?, &phrase(1), NOW)?;
        let loaded = LocalIdentity::load(home.path(), &Store::in_memory()?, NOW)?;
        assert_eq!((loaded.identity(), loaded.device()), (made.identity(), made.device()));
        std::fs::remove_file(home.path().join(KeyRole::Identity.file_name())).expect("removes");
        let lost = LocalIdentity::load(home.path(), &Store::in_memory()?, NOW);
        assert!(matches!(lost, Err(LocalIdentityError::NoCertificate)));
        Ok(())
    }

    #[test]
    fn device_certificates_are_renewed_in_time() -> Result<(), LocalIdentityError> {
        let store = Store::in_memory()?;
        let (identity, device) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let mut local = LocalIdentity::in_memory(&store, identity.clone(), device.clone(), NOW)?;
        let first = local.chain().device.unverified().clone();
        assert!(!local.renew_device_certificate(NOW.plus_secs(DEVICE_RENEWAL_AFTER_SECS / 2))?);
        let later = NOW.plus_secs(DEVICE_RENEWAL_AFTER_SECS);
        let reloaded = LocalIdentity::in_memory(&store, identity, device, later)?;
        let second = reloaded.chain().device.unverified();
        assert!(second.serial > first.serial && second.slot == first.slot);
        assert!(reloaded.chain().verify(later.plus_secs(300 * 86_400), &TrustStore::new()).is_ok());
        // A clock that was years ahead when the certificate was made.
        assert!(local.renew_device_certificate(NOW.minus_secs(86_400))?);
        assert!(local.chain().verify(NOW.minus_secs(86_400), &TrustStore::new()).is_ok());
        Ok(())
    }

    #[test]
    fn a_device_without_the_identity_key_takes_newer_certificates_of_its_own_alone() -> Result<(), LocalIdentityError> {
        let holder =
            LocalIdentity::in_memory(&Store::in_memory()?, SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]), NOW)?;
        let (home, store) = (tempfile::tempdir().expect("temporary directory"), Store::in_memory()?);
        let key = SecretKey::from_bytes([3; 32]);
        let device = DeviceKey(key.public());
        let chain = Chain { user: holder.chain().user.clone(), device: holder.certify(device, None, NOW)? };
        store.transaction(|tx| keep_chain(tx, &chain))?;
        key_file::write_key(home.path(), KeyRole::Device, &key)?;
        let mut linked = LocalIdentity::load(home.path(), &store, NOW)?;
        assert!(linked.identity_key().is_none() && !linked.needs_device_certificate(NOW));
        assert!(matches!(linked.certify(device, None, NOW), Err(LocalIdentityError::NoIdentityKey)));
        let later = NOW.plus_secs(DEVICE_RENEWAL_AFTER_SECS);
        assert!(linked.needs_device_certificate(later) && !holder.needs_device_certificate(later));

        let current = linked.chain().device.unverified().clone();
        let refuse = |linked: &mut LocalIdentity, certificate| {
            assert!(matches!(linked.set_device_certificate(certificate, later), Err(LocalIdentityError::OtherCertificate)));
        };
        refuse(&mut linked, holder.certify(DeviceKey(SecretKey::from_bytes([4; 32]).public()), None, later)?);
        refuse(&mut linked, holder.certify(device, None, NOW)?);
        let stranger =
            LocalIdentity::in_memory(&Store::in_memory()?, SecretKey::from_bytes([9; 32]), SecretKey::from_bytes([2; 32]), NOW)?;
        refuse(&mut linked, stranger.recertify(device, &current, later)?);
        linked.set_device_certificate(holder.recertify(device, &current, later)?, later)?;
        assert!(!linked.needs_device_certificate(later));
        let loaded = LocalIdentity::load(home.path(), &store, later)?;
        assert!(loaded.chain().device.unverified().serial > current.serial);
        Ok(())
    }

    #[test]
    fn a_chain_of_another_identity_is_not_taken_over() -> Result<(), LocalIdentityError> {
        let store = Store::in_memory()?;
        let mut local = LocalIdentity::in_memory(&store, SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]), NOW)?;
        let other = IdentityKey(SecretKey::from_bytes([3; 32]).public());
        assert!(matches!(local.set_user_chain(UserChain::Key(other)), Err(LocalIdentityError::OtherIdentity(_))));
        Ok(())
    }
}
