//! Identities, with real certificates and signatures, and who is where.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use halloo_protocol::directory::{
    DeviceEntry, DirectoryRecord, EntryParts, Lease, Place, PrivatePart, Reachability, RecordKey, SealKey, UnverifiedRecord,
};
use halloo_protocol::identity::{
    Chain, DeviceCertificate, DeviceCertificateParams, SigningCertificate, TrustStore, UserCertificate, UserChain, Username,
    VerifiedChain,
};
use halloo_protocol::key::{AuthorityKey, DeviceKey, IdentityKey, SecretKey, hash};
use halloo_protocol::node::{Address, Descriptor, Hello, LoadClass, Roles, Transport};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Extensions, Signed};

use crate::machine::NodeId;
use crate::network::START;

/// Secret number `number` of its domain, the same in every run.
#[must_use]
pub fn secret(domain: &str, number: u64) -> SecretKey {
    SecretKey::from_bytes(hash(domain, &[&number.to_be_bytes()]))
}

/// One user with one device.
#[derive(Debug)]
pub struct Identity {
    /// Where its record lies.
    pub key: RecordKey,
    /// Its chain, verified once.
    pub chain: VerifiedChain,
    /// What it says about itself as a server; all tables share this one.
    pub descriptor: Arc<Descriptor>,
    /// What it says about itself as a client.
    pub client: Arc<Descriptor>,
    /// Its hello's encoded length.
    pub hello_bytes: usize,
    user: UserChain,
    certificate: Signed<DeviceCertificate>,
    number: u64,
}

/// What all directory nodes of a simulation share.
#[derive(Debug)]
pub struct World {
    /// Every node trusts the one authority.
    pub trust: TrustStore,
    authority: AuthorityKey,
    signing: SecretKey,
    signing_certificate: Signed<SigningCertificate>,
    identities: Vec<Arc<Identity>>,
    serving: Vec<bool>,
    sequences: Vec<u64>,
    /// Only looked up, never iterated: its order is random.
    by_device: HashMap<DeviceKey, NodeId>,
    by_record: HashMap<RecordKey, NodeId>,
    /// What was written last for each record by a node that has stopped.
    disk: HashMap<RecordKey, Weak<[u8]>>,
}

impl World {
    /// A world with an authority and nobody else.
    ///
    /// # Panics
    /// Never: one authority fits.
    #[must_use]
    pub fn new() -> Self {
        let (root, signing) = (secret("simulated root", 1), secret("simulated signing key", 1));
        let certificate = SigningCertificate {
            key: signing.public(),
            serial: 1,
            not_before: START.minus_secs(86_400),
            not_after: START.plus_secs(365 * 86_400),
            extensions: Extensions::none(),
        };
        let authority = AuthorityKey(root.public());
        let mut trust = TrustStore::new();
        trust.trust(authority).expect("one authority fits");
        Self {
            trust,
            authority,
            signing_certificate: Signed::sign(certificate, &root),
            signing,
            identities: Vec::new(),
            serving: Vec::new(),
            sequences: Vec::new(),
            by_device: HashMap::new(),
            by_record: HashMap::new(),
            disk: HashMap::new(),
        }
    }

    /// What a node that stops leaves of a record: the same memory as others, if they leave the same.
    pub fn on_disk(&mut self, key: RecordKey, bytes: &[u8]) -> Arc<[u8]> {
        let known = self.disk.get(&key).and_then(Weak::upgrade);
        known.filter(|known| **known == *bytes).unwrap_or_else(|| {
            let bytes: Arc<[u8]> = bytes.into();
            self.disk.insert(key, Arc::downgrade(&bytes));
            bytes
        })
    }

    /// Enrols the next node. `attempts` is how often it tries to get near `wanted`: an enrolment each gives it a placement drawn by the authority,
    /// of which it takes the nearest of four slots. Device keys, however many it tries, change nothing.
    pub fn enrol(&mut self, is_serving: bool, wanted: Option<(RecordKey, u64)>) -> NodeId {
        let index = u32::try_from(self.identities.len()).expect("fewer than four billion nodes fit in memory");
        let number = u64::from(index);
        let placement = |enrolment: u64| hash("simulated placement", &[&number.to_be_bytes(), &enrolment.to_be_bytes()]);
        let (enrolment, slot) = match wanted {
            None => (0, 0),
            Some((key, enrolments)) => {
                let tries = (0..enrolments.max(1)).flat_map(|enrolment| (0..4_u8).map(move |slot| (enrolment, slot)));
                let distance = |(enrolment, slot): &(u64, u8)| key.distance(&Place::assigned(&placement(*enrolment), *slot));
                tries.min_by_key(distance).unwrap_or((0, 0))
            }
        };
        let identity = Arc::new(self.identity_of(number, placement(enrolment), slot));
        self.by_device.insert(identity.chain.device, NodeId(index));
        self.by_record.insert(identity.key, NodeId(index));
        self.identities.push(identity);
        self.serving.push(is_serving);
        self.sequences.push(0);
        NodeId(index)
    }

    fn identity_of(&self, number: u64, placement: [u8; 32], slot: u8) -> Identity {
        let identity = secret("simulated identity", number);
        let certificate = UserCertificate {
            name: Username::new(&format!("user{number}")).expect("a plain name"),
            identity: IdentityKey(identity.public()),
            placement,
            serial: number + 1,
            not_before: START.minus_secs(3_600),
            not_after: START.plus_secs(80 * 86_400),
            linked: Vec::new(),
            extensions: Extensions::none(),
        };
        let user = UserChain::Named {
            root: self.authority,
            signing: self.signing_certificate.clone(),
            user: Signed::sign(certificate, &self.signing),
        };
        let device = secret("simulated device", number);
        let params = DeviceCertificateParams { device: DeviceKey(device.public()), slot, serial: 1, now: START };
        let certificate = Signed::sign(DeviceCertificate::new(params), &identity);
        let chain = Chain { user: user.clone(), device: certificate.clone() };
        let verified = chain.verify(START, &self.trust).expect("just signed");
        let descriptor = descriptor_of(&verified, number, Roles::DIRECTORY);
        let client = Descriptor { roles: Roles::default(), ..descriptor.clone() };
        let hello = Hello {
            version: Hello::VERSION,
            features: 0,
            chain: Some(chain),
            descriptor: Some(descriptor.clone()),
            clock: START,
            revocations: Vec::new(),
            extensions: Extensions::none(),
        };
        Identity {
            key: RecordKey::of(&verified.user.id),
            chain: verified,
            descriptor: Arc::new(descriptor),
            client: Arc::new(client),
            hello_bytes: wire::encoded_len(&hello),
            user,
            certificate,
            number,
        }
    }

    /// A node's identity.
    #[must_use]
    pub fn identity(&self, node: NodeId) -> &Arc<Identity> {
        &self.identities[node.index()]
    }

    /// Enrolled nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.identities.len()
    }

    /// True if nobody is enrolled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    /// Whether a node says that it serves.
    #[must_use]
    pub fn is_serving(&self, node: NodeId) -> bool {
        self.serving[node.index()]
    }

    /// Who has this device key.
    #[must_use]
    pub fn node_of(&self, device: &DeviceKey) -> Option<NodeId> {
        self.by_device.get(device).copied()
    }

    /// Whose record lies under this key.
    #[must_use]
    pub fn owner_of(&self, key: &RecordKey) -> Option<NodeId> {
        self.by_record.get(key).copied()
    }

    /// The next sequence number of a node's entry.
    pub(crate) fn next_sequence(&mut self, node: NodeId) -> u64 {
        self.sequences[node.index()] += 1;
        self.sequences[node.index()]
    }

    /// The newest sequence number that a node has published; 0 if none.
    #[must_use]
    pub fn newest_sequence(&self, node: NodeId) -> u64 {
        self.sequences[node.index()]
    }

    /// A node's record as the product makes it: open addresses, a sealed part with the device's name, a lease.
    ///
    /// # Panics
    /// Never: what was just signed verifies.
    #[must_use]
    pub fn sign_record(&self, node: NodeId, sequence: u64, lease: u64, now: UnixTime) -> DirectoryRecord {
        let identity = self.identity(node);
        let entry =
            self.sign_entry(node, sequence, (now, now.plus_secs(30 * 86_400)), &secret("simulated device", identity.number));
        let lease = self.sign_lease(node, &entry, lease, now);
        self.unverified(node, entry, Some(lease)).verify(now, &self.trust).expect("just signed")
    }

    /// A record around any entry; whether it verifies is another matter.
    #[must_use]
    pub fn unverified(&self, node: NodeId, entry: Signed<DeviceEntry>, lease: Option<Signed<Lease>>) -> UnverifiedRecord {
        let identity = self.identity(node);
        UnverifiedRecord {
            user: identity.user.clone(),
            successions: Vec::new(),
            tombstones: Vec::new(),
            entries: vec![EntryParts { certificate: identity.certificate.clone(), entry, lease, keeper_lease: None }],
            extensions: Extensions::none(),
        }
    }

    /// An entry of a node's device, signed by whatever key.
    #[must_use]
    pub fn sign_entry(
        &self,
        node: NodeId,
        sequence: u64,
        validity: (UnixTime, UnixTime),
        signer: &SecretKey,
    ) -> Signed<DeviceEntry> {
        let identity = self.identity(node);
        let private = PrivatePart { name: "simulated device".into(), ..PrivatePart::default() };
        let mut nonce = [0; 24];
        nonce[..8].copy_from_slice(&sequence.to_be_bytes());
        let sealed = SealKey::of_name(&identity.chain.user.id).seal(0, &identity.chain.device, &private, nonce);
        let entry = DeviceEntry {
            device: identity.chain.device,
            sequence,
            issued_at: validity.0,
            expires_at: validity.1,
            addresses: identity.descriptor.addresses.clone(),
            relays: Vec::new(),
            mailboxes: Vec::new(),
            keepers: Vec::new(),
            features: 0,
            hpke_key: [7; 32],
            pre_keys: None,
            sealed: Some(sealed),
            extensions: Extensions::none(),
        };
        Signed::sign(entry, signer)
    }

    /// An hour's lease for an entry.
    #[must_use]
    pub fn sign_lease(&self, node: NodeId, entry: &Signed<DeviceEntry>, number: u64, now: UnixTime) -> Signed<Lease> {
        let identity = self.identity(node);
        let lease = Lease {
            device: identity.chain.device,
            entry_hash: entry.body_hash(),
            number,
            reachability: Reachability::Direct,
            issued_at: now,
            until: now.plus_secs(3_600),
            extensions: Extensions::none(),
        };
        Signed::sign(lease, &secret("simulated device", identity.number))
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// The descriptor of a chain's node; every node in a /24 of its own.
#[must_use]
pub fn descriptor_of(chain: &VerifiedChain, number: u64, roles: Roles) -> Descriptor {
    let [.., a, b, c] = number.to_be_bytes();
    Descriptor {
        device: chain.device,
        place: chain.place.unwrap_or(Place([0; 32])),
        roles,
        load: LoadClass(0),
        addresses: vec![Address::V4 { ip: [10_u8.wrapping_add(a), b, c, 1], port: 4_000, transport: Transport::Quic }],
    }
}
