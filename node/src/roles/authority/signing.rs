//! The root key, the signing key, and the certificate between them.

use halloo_protocol::identity::SigningCertificate;
use halloo_protocol::key::{AuthorityKey, PublicKey, SecretKey};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Signed};

use super::{AuthorityError, RootKeyPlace, root_key_path};
use crate::key_file::{self, KeyRole};
use crate::store::{LogEvent, Store, StoreError, Transaction};

/// How long the signing key is certified: long enough that the root key is needed once a year.
pub(super) const SIGNING_CERTIFICATE_SECS: u64 = 366 * 86_400;

/// Age from which the certificate is renewed. Well before its end, since no user certificate outlives it.
const SIGNING_RENEWAL_AFTER_SECS: u64 = SIGNING_CERTIFICATE_SECS / 2;

/// Certificates start this long ago, so that peers whose clocks are behind accept them.
pub(super) const BACKDATE_SECS: u64 = 3_600;

const ROOT_SETTING: &str = "authority root";
const ROOT_SECRET_SETTING: &str = "authority root key";
const SIGNING_SECRET_SETTING: &str = "authority signing key";
const SIGNING_CERTIFICATE_SETTING: &str = "authority signing certificate";
const SERIAL_SETTING: &str = "authority last serial";

/// What the authority signs with.
pub(super) struct Keys {
    pub(super) root: AuthorityKey,
    pub(super) has_root_key: bool,
    pub(super) signing_key: SecretKey,
    pub(super) signing: Signed<SigningCertificate>,
}

/// Loads the keys, makes what was never made, and renews the certificate if it is time and the root key is here.
pub(super) fn load_or_create(store: &Store, place: &RootKeyPlace, now: UnixTime) -> Result<Keys, AuthorityError> {
    let known: Option<PublicKey> = store.read(|view| view.setting_value(ROOT_SETTING))?;
    let mut root_key = read_root_key(store, place)?;
    if let (Some(known), Some(found), RootKeyPlace::Home(home)) = (known, &root_key, place)
        && found.public() != known
    {
        return Err(AuthorityError::OtherRootKey(root_key_path(home)));
    }
    if known.is_none() && root_key.is_none() {
        root_key = Some(create_root_key(store, place)?);
    }
    store.transaction(|tx| settle(tx, known, root_key.as_ref(), place, now))
}

/// Brings the stored keys in order, in one transaction.
fn settle(
    tx: &Transaction,
    known: Option<PublicKey>,
    root_key: Option<&SecretKey>,
    place: &RootKeyPlace,
    now: UnixTime,
) -> Result<Keys, AuthorityError> {
    let root = match (known, root_key) {
        (Some(root), _) => root,
        (None, Some(key)) => {
            tx.put_setting_value(ROOT_SETTING, &key.public())?;
            tx.log_authority(now, &LogEvent::Created)?;
            key.public()
        }
        (None, None) => unreachable!("a root key is made where none was known"),
    };
    let signing_key = match tx.setting_value::<[u8; 32]>(SIGNING_SECRET_SETTING)? {
        Some(seed) => SecretKey::from_bytes(seed),
        None => {
            let key = key_file::generate_key()?;
            tx.put_setting_value(SIGNING_SECRET_SETTING, &*key.to_bytes())?;
            key
        }
    };
    let current: Option<Signed<SigningCertificate>> = tx.setting_value(SIGNING_CERTIFICATE_SETTING)?;
    let signing = match (current, root_key) {
        (Some(current), _) if !renewal_due(current.unverified(), now) => current,
        (_, Some(root_key)) => certify(tx, root_key, &signing_key, now)?,
        (Some(current), None) if now <= current.unverified().not_after => current,
        (current, None) => {
            let not_after = current.map_or(now, |current| current.unverified().not_after);
            return Err(AuthorityError::SigningExpired { not_after, path: place_path(place) });
        }
    };
    Ok(Keys { root: AuthorityKey(root), has_root_key: root_key.is_some(), signing_key, signing })
}

fn renewal_due(certificate: &SigningCertificate, now: UnixTime) -> bool {
    now.secs_since(certificate.not_before) >= SIGNING_RENEWAL_AFTER_SECS || certificate.not_before.is_from_the_future(now)
}

fn certify(
    tx: &Transaction,
    root_key: &SecretKey,
    signing_key: &SecretKey,
    now: UnixTime,
) -> Result<Signed<SigningCertificate>, StoreError> {
    let not_before = now.minus_secs(BACKDATE_SECS);
    let certificate = SigningCertificate {
        key: signing_key.public(),
        serial: next_serial(tx, now)?,
        not_before,
        not_after: not_before.plus_secs(SIGNING_CERTIFICATE_SECS),
        extensions: Extensions::none(),
    };
    let event = LogEvent::SigningCertified { serial: certificate.serial, not_after: certificate.not_after };
    tx.log_authority(now, &event)?;
    let signed = Signed::sign(certificate, root_key);
    tx.put_setting_value(SIGNING_CERTIFICATE_SETTING, &signed)?;
    Ok(signed)
}

/// The next serial: above the last, and at least the time in seconds, so that an authority restored from a backup doesn't hand out a
/// number twice unless it gave more than one a second on average since.
pub(super) fn next_serial(tx: &Transaction, now: UnixTime) -> Result<u64, StoreError> {
    let last: u64 = tx.setting_value(SERIAL_SETTING)?.unwrap_or(0);
    let serial = last.saturating_add(1).max(now.0);
    tx.put_setting_value(SERIAL_SETTING, &serial)?;
    Ok(serial)
}

fn read_root_key(store: &Store, place: &RootKeyPlace) -> Result<Option<SecretKey>, AuthorityError> {
    match place {
        RootKeyPlace::Home(home) => Ok(key_file::read_key(home, KeyRole::AuthorityRoot)?),
        RootKeyPlace::Store => {
            let seed: Option<[u8; 32]> = store.read(|view| view.setting_value(ROOT_SECRET_SETTING))?;
            Ok(seed.map(SecretKey::from_bytes))
        }
    }
}

/// Makes the root key. Its file comes first: if all ends before the store knows of it, the next start finds and uses it.
fn create_root_key(store: &Store, place: &RootKeyPlace) -> Result<SecretKey, AuthorityError> {
    let key = key_file::generate_key()?;
    match place {
        RootKeyPlace::Home(home) => key_file::write_key(home, KeyRole::AuthorityRoot, &key)?,
        RootKeyPlace::Store => store.transaction(|tx| tx.put_setting_value(ROOT_SECRET_SETTING, &*key.to_bytes()))?,
    }
    Ok(key)
}

fn place_path(place: &RootKeyPlace) -> std::path::PathBuf {
    match place {
        RootKeyPlace::Home(home) => root_key_path(home),
        RootKeyPlace::Store => "the store".into(),
    }
}
