//! An authority and users with real certificates and signatures.

use halloo_protocol::directory::{DeviceEntry, DirectoryRecord, EntryParts, Lease, Reachability, RecordKey, UnverifiedRecord};
use halloo_protocol::identity::{
    Chain, DeviceCertificate, DeviceCertificateParams, RevocationList, RevokedSerial, SignedRevocationList, SigningCertificate,
    TrustStore, UserCertificate, UserChain, Username, VerifiedChain,
};
use halloo_protocol::key::{AuthorityKey, DeviceKey, IdentityKey, SecretKey, hash};
use halloo_protocol::node::{Address, Descriptor, LoadClass, Roles, Transport};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Signed};

/// When every simulation starts.
pub(crate) const START: UnixTime = UnixTime(1_800_000_000);

pub(crate) fn secret(domain: &str, number: u64) -> SecretKey {
    SecretKey::from_bytes(hash(domain, &[&number.to_be_bytes()]))
}

pub(crate) struct Authority {
    root: SecretKey,
    signing: SecretKey,
    certificate: Signed<SigningCertificate>,
    revoked: Vec<RevokedSerial>,
    lists: u64,
}

impl Authority {
    pub(crate) fn new(number: u64) -> Self {
        let (root, signing) = (secret("root", number), secret("signing", number));
        let certificate = SigningCertificate {
            key: signing.public(),
            serial: 1,
            not_before: START.minus_secs(86_400),
            not_after: START.plus_secs(365 * 86_400),
            extensions: Extensions::none(),
        };
        let certificate = Signed::sign(certificate, &root);
        Self { root, signing, certificate, revoked: Vec::new(), lists: 0 }
    }

    pub(crate) fn key(&self) -> AuthorityKey {
        AuthorityKey(self.root.public())
    }

    pub(crate) fn trust(&self) -> TrustStore {
        let mut trust = TrustStore::new();
        trust.trust(self.key()).expect("one authority fits");
        trust
    }

    /// Enrols user number `number` with a first device.
    pub(crate) fn user(&self, number: u64) -> User {
        self.user_with_serial(number, number + 1)
    }

    pub(crate) fn user_with_serial(&self, number: u64, serial: u64) -> User {
        let identity = secret("identity", number ^ (serial << 32));
        let certificate = UserCertificate {
            name: Username::new(&format!("user{number}")).expect("a plain name"),
            identity: IdentityKey(identity.public()),
            placement: hash("placement", &[&number.to_be_bytes()]),
            serial,
            not_before: START.minus_secs(3_600),
            not_after: START.plus_secs(80 * 86_400),
            linked: Vec::new(),
            extensions: Extensions::none(),
        };
        let chain = UserChain::Named {
            root: self.key(),
            signing: self.certificate.clone(),
            user: Signed::sign(certificate, &self.signing),
        };
        User { number, serial, identity, chain }
    }

    pub(crate) fn revoke(&mut self, user: &User) -> SignedRevocationList {
        self.lists += 1;
        self.revoked.push(RevokedSerial { serial: user.serial, until: START.plus_secs(90 * 86_400) });
        self.revoked.sort();
        let list = RevocationList {
            authority: self.key(),
            number: self.lists,
            issued_at: START,
            users: self.revoked.clone(),
            signing: Vec::new(),
            extensions: Extensions::none(),
        };
        SignedRevocationList { signing: Some(self.certificate.clone()), list: Signed::sign(list, &self.signing) }
    }
}

pub(crate) struct User {
    pub(crate) number: u64,
    pub(crate) serial: u64,
    pub(crate) identity: SecretKey,
    pub(crate) chain: UserChain,
}

pub(crate) struct Device {
    pub(crate) secret: SecretKey,
    pub(crate) certificate: Signed<DeviceCertificate>,
}

impl Device {
    pub(crate) fn key(&self) -> DeviceKey {
        DeviceKey(self.secret.public())
    }
}

/// How to make an entry.
#[derive(Clone, Copy)]
pub(crate) struct EntrySpec {
    pub(crate) sequence: u64,
    pub(crate) issued_at: UnixTime,
    pub(crate) expires_at: UnixTime,
}

impl EntrySpec {
    pub(crate) fn sequence(sequence: u64) -> Self {
        Self { sequence, issued_at: START, expires_at: START.plus_secs(7 * 86_400) }
    }
}

impl User {
    pub(crate) fn key(&self) -> RecordKey {
        RecordKey::of(&self.chain.claimed_id())
    }

    pub(crate) fn device(&self, number: u64) -> Device {
        let secret = secret("device", self.number * 100 + number);
        let certificate = DeviceCertificate::new(DeviceCertificateParams {
            device: DeviceKey(secret.public()),
            slot: u8::try_from(number % 4).expect("below four"),
            serial: number + 1,
            now: START,
        });
        Device { secret, certificate: Signed::sign(certificate, &self.identity) }
    }

    pub(crate) fn chain_of(&self, device: &Device, trust: &TrustStore) -> VerifiedChain {
        let chain = Chain { user: self.chain.clone(), device: device.certificate.clone() };
        chain.verify(START, trust).expect("a good chain")
    }

    pub(crate) fn entry(&self, device: &Device, spec: EntrySpec) -> EntryParts {
        let entry = DeviceEntry {
            device: device.key(),
            sequence: spec.sequence,
            issued_at: spec.issued_at,
            expires_at: spec.expires_at,
            addresses: vec![Address::V4 { ip: [127, 0, 0, 1], port: 4_000, transport: Transport::Quic }],
            relays: Vec::new(),
            mailboxes: Vec::new(),
            keepers: Vec::new(),
            features: 0,
            hpke_key: [7; 32],
            pre_keys: None,
            sealed: None,
            extensions: Extensions::none(),
        };
        EntryParts {
            certificate: device.certificate.clone(),
            entry: Signed::sign(entry, &device.secret),
            lease: None,
            keeper_lease: None,
        }
    }

    pub(crate) fn unverified(&self, entries: Vec<EntryParts>) -> UnverifiedRecord {
        UnverifiedRecord {
            user: self.chain.clone(),
            successions: Vec::new(),
            tombstones: Vec::new(),
            entries,
            extensions: Extensions::none(),
        }
    }

    /// A record with one entry of device 0.
    pub(crate) fn record(&self, sequence: u64, trust: &TrustStore) -> DirectoryRecord {
        self.record_of(&self.device(0), EntrySpec::sequence(sequence), trust)
    }

    pub(crate) fn record_of(&self, device: &Device, spec: EntrySpec, trust: &TrustStore) -> DirectoryRecord {
        let record = self.unverified(vec![self.entry(device, spec)]);
        record.verify(spec.issued_at.max(START), trust).expect("a good record")
    }

    pub(crate) fn lease(&self, device: &Device, record: &DirectoryRecord, number: u64, at: UnixTime) -> Signed<Lease> {
        let entry = record.entry(&device.key()).expect("the device is in the record");
        let lease = Lease {
            device: device.key(),
            entry_hash: entry.entry.body_hash(),
            number,
            reachability: Reachability::Direct,
            issued_at: at,
            until: at.plus_secs(3_600),
            extensions: Extensions::none(),
        };
        Signed::sign(lease, &device.secret)
    }
}

/// The descriptor a node of this chain gives of itself; every node in its own /24.
pub(crate) fn descriptor(chain: &VerifiedChain, number: usize, roles: Roles) -> Descriptor {
    let [_, a, b, c] = u32::try_from(number).expect("few nodes").to_be_bytes();
    Descriptor {
        device: chain.device,
        place: chain.place.expect("enrolled"),
        roles,
        load: LoadClass(0),
        addresses: vec![Address::V4 { ip: [10 + a, b, c, 1], port: 4_000, transport: Transport::Quic }],
    }
}
