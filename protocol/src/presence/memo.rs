//! What several devices in one process may tell each other: the results of arithmetic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::topic::{Day, PresenceKey, Topic};
use crate::identity::{DeviceCertificate, verify_device};
use crate::key::{DeviceKey, IdentityKey, PublicKey, SignatureError, hash};
use crate::time::UnixTime;
use crate::wire::{self, Body, Signed};

/// Topics, certificates and hints that one device of this process has worked out or verified, for all of them: for simulations, in which each
/// contact of a person would do the same. Results are the same with it and without. It grows with devices, days and hints, and forgets nothing.
#[derive(Debug, Default)]
pub struct Memo {
    topics: Mutex<BTreeMap<(DeviceKey, Day), (PresenceKey, Topic)>>,
    certificates: Mutex<BTreeMap<DeviceKey, (IdentityKey, Signed<DeviceCertificate>)>>,
    /// Hashes of signed objects with the keys under which their signatures hold.
    signed: Mutex<BTreeSet<[u8; 32]>>,
}

impl Memo {
    pub(super) fn topic(&self, key: &PresenceKey, device: &DeviceKey, day: Day) -> Option<Topic> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, topic)) = topics.get(&(*device, day))
            && known == key
        {
            return Some(*topic);
        }
        let topic = key.topic(device, day)?;
        topics.insert((*device, day), (key.clone(), topic));
        Some(topic)
    }

    /// The device of a certificate that holds now.
    pub(super) fn device(&self, certificate: &Signed<DeviceCertificate>, user: &IdentityKey, now: UnixTime) -> Option<DeviceKey> {
        let mut certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        let body = certificate.unverified();
        if certificates.get(&body.device).is_some_and(|(known, signed)| known == user && signed == certificate) {
            let holds = !body.not_before.is_from_the_future(now) && now <= body.not_after;
            return holds.then_some(body.device);
        }
        let device = verify_device(certificate, user, now).ok()?.device;
        certificates.insert(device, (*user, certificate.clone()));
        Some(device)
    }

    /// As [`Signed::verify`].
    pub(super) fn verify<'a, T: Body>(&self, object: &'a Signed<T>, key: &PublicKey) -> Result<&'a T, SignatureError> {
        let name = hash("halloo memo of signed objects", &[key.as_bytes(), &wire::encode(object)]);
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if !signed.contains(&name) {
            object.verify(key)?;
            signed.insert(name);
        }
        Ok(object.unverified())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::DeviceCertificateParams;
    use crate::key::SecretKey;
    use crate::presence::PresenceSecret;
    use crate::test_identity::NOW;

    #[test]
    fn what_is_remembered_is_what_would_be_worked_out() {
        let memo = Memo::default();
        let (identity, other) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let (user, stranger) = (IdentityKey(identity.public()), IdentityKey(other.public()));
        let device = DeviceKey(SecretKey::from_bytes([3; 32]).public());
        for epoch in [1, 2, 1] {
            let key = PresenceSecret::new(epoch, [4; 32]).key();
            for day in [7, 8, 7] {
                assert_eq!(memo.topic(&key, &device, Day(day)), key.topic(&device, Day(day)));
            }
        }
        let params = DeviceCertificateParams { device, slot: 0, serial: 1, now: NOW };
        let signed = |by: &SecretKey| Signed::sign(DeviceCertificate::new(params), by);
        let late = signed(&identity).unverified().not_after.plus_secs(1);
        for _ in 0..2 {
            assert_eq!(memo.device(&signed(&identity), &user, NOW), Some(device));
            assert_eq!(memo.device(&signed(&identity), &user, late), None, "it has ended");
            assert_eq!(memo.device(&signed(&identity), &stranger, NOW), None, "another's");
            assert_eq!(memo.device(&signed(&other), &user, NOW), None, "signed by another");
            assert!(memo.verify(&signed(&identity), &user.0).is_ok());
            assert!(memo.verify(&signed(&identity), &stranger.0).is_err());
            assert!(memo.verify(&signed(&other), &user.0).is_err());
        }
    }
}
