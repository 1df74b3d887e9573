//! Users with certificates, for this crate's tests.

use crate::identity::{
    Chain, DeviceCertificate, DeviceCertificateParams, SigningCertificate, TrustStore, UserCertificate, UserChain, Username,
};
use crate::key::{AuthorityKey, DeviceKey, IdentityKey, SecretKey};
use crate::linked::Indicator;
use crate::time::UnixTime;
use crate::wire::{Extensions, Signed};

/// When the tests play.
pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);

/// One authority.
pub(crate) struct Authority {
    root: SecretKey,
    signing_key: SecretKey,
}

/// One device of one user.
pub(crate) struct Person {
    pub(crate) device_key: SecretKey,
    pub(crate) chain: Chain,
}

impl Authority {
    pub(crate) fn new(seed: u8) -> Self {
        Self { root: SecretKey::from_bytes([seed; 32]), signing_key: SecretKey::from_bytes([seed.wrapping_add(1); 32]) }
    }

    pub(crate) fn trust(&self) -> TrustStore {
        let mut trust = TrustStore::new();
        trust.trust(AuthorityKey(self.root.public())).expect("room for one");
        trust
    }

    pub(crate) fn person(&self, name: &str, seed: u8) -> Person {
        self.device(name, seed, 0)
    }

    /// One of several devices of a user.
    pub(crate) fn device(&self, name: &str, seed: u8, slot: u8) -> Person {
        self.certified(name, seed, slot, &[])
    }

    /// A device of a user whose certificate hints at identities in other systems.
    pub(crate) fn certified(&self, name: &str, seed: u8, slot: u8, indicators: &[Indicator]) -> Person {
        let identity = SecretKey::from_bytes([seed; 32]);
        let device_key = SecretKey::from_bytes([seed.wrapping_add(slot).wrapping_add(1); 32]);
        let (not_before, not_after) = (NOW.minus_secs(3_600), NOW.plus_secs(30 * 86_400));
        let signing = SigningCertificate {
            key: self.signing_key.public(),
            serial: 1,
            not_before,
            not_after,
            extensions: Extensions::none(),
        };
        let user = UserCertificate {
            name: Username::new(name).expect("a good name"),
            identity: IdentityKey(identity.public()),
            placement: [seed; 32],
            serial: u64::from(seed),
            not_before,
            not_after,
            linked: Vec::new(),
            extensions: UserCertificate::with_indicators(Extensions::none(), indicators),
        };
        let params = DeviceCertificateParams { device: DeviceKey(device_key.public()), slot, serial: 1, now: NOW };
        let user = UserChain::Named {
            root: AuthorityKey(self.root.public()),
            signing: Signed::sign(signing, &self.root),
            user: Signed::sign(user, &self.signing_key),
        };
        let chain = Chain { user, device: Signed::sign(DeviceCertificate::new(params), &identity) };
        Person { device_key, chain }
    }
}

impl Person {
    pub(crate) fn device(&self) -> DeviceKey {
        DeviceKey(self.device_key.public())
    }
}
