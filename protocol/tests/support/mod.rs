//! A small world of fixed keys and times from which tests build whatever they need.
#![allow(dead_code, reason = "every test binary uses another part of it")]

pub(crate) mod samples;
pub(crate) mod vectors;

use halloo_protocol::directory::{
    DeviceEntry, DirectoryRecord, EntryParts, Helper, KeeperLease, Lease, Reachability, RecordError, SealKey, SealedPart,
    UnverifiedRecord,
};
use halloo_protocol::identity::{
    Chain, DeviceCertificate, KeySuccession, KeySuccessionParams, RevocationList, RevokedSerial, SignedRevocationList,
    SigningCertificate, Tombstone, TrustStore, USER_CERTIFICATE_SECS, UserCertificate, UserChain, UserId, Username,
};
use halloo_protocol::key::{AuthorityKey, DeviceKey, IdentityKey, SecretKey};
use halloo_protocol::node::{Address, Transport};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Body, Extensions, Signed};

/// The time at which the tests' world stands.
pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);

/// A day, in seconds.
pub(crate) const DAY: u64 = 86_400;

/// The key with this number. Roles take their numbers from different tens, so that no two share a key by chance.
pub(crate) fn secret(number: u8) -> SecretKey {
    SecretKey::from_bytes([number; 32])
}

pub(crate) fn root() -> SecretKey {
    secret(1)
}

pub(crate) fn signing_key() -> SecretKey {
    secret(2)
}

pub(crate) fn authority() -> AuthorityKey {
    AuthorityKey(root().public())
}

/// Identity keys: 10 to 19.
pub(crate) fn identity_secret(number: u8) -> SecretKey {
    secret(10 + number)
}

pub(crate) fn identity(number: u8) -> IdentityKey {
    IdentityKey(identity_secret(number).public())
}

/// Device keys: 30 to 89.
pub(crate) fn device_secret(number: u8) -> SecretKey {
    secret(30 + number)
}

pub(crate) fn device(number: u8) -> DeviceKey {
    DeviceKey(device_secret(number).public())
}

/// Keepers' keys: 100 and up.
pub(crate) fn keeper_secret(number: u8) -> SecretKey {
    secret(100 + number)
}

pub(crate) fn keeper(number: u8) -> DeviceKey {
    DeviceKey(keeper_secret(number).public())
}

pub(crate) fn alice() -> Username {
    Username::new("alice").expect("a name")
}

pub(crate) fn alice_id() -> UserId {
    UserId::Named { authority: authority(), name: alice() }
}

/// Trusts the world's authority.
pub(crate) fn trust() -> TrustStore {
    let mut trust = TrustStore::new();
    trust.trust(authority()).expect("room for one");
    trust
}

pub(crate) fn signing_certificate() -> SigningCertificate {
    SigningCertificate {
        key: signing_key().public(),
        serial: 1,
        not_before: NOW.minus_secs(100 * DAY),
        not_after: NOW.plus_secs(400 * DAY),
        extensions: Extensions::none(),
    }
}

pub(crate) fn signed_signing() -> Signed<SigningCertificate> {
    Signed::sign(signing_certificate(), &root())
}

pub(crate) fn user_certificate(identity_number: u8, serial: u64) -> UserCertificate {
    UserCertificate {
        name: alice(),
        identity: identity(identity_number),
        placement: [0x5a; 32],
        serial,
        not_before: NOW.minus_secs(DAY),
        not_after: NOW.minus_secs(DAY).plus_secs(USER_CERTIFICATE_SECS),
        linked: Vec::new(),
        extensions: Extensions::none(),
    }
}

/// alice with this identity key, under a user certificate of this serial.
pub(crate) fn user_chain(identity_number: u8, serial: u64) -> UserChain {
    user_chain_of(user_certificate(identity_number, serial))
}

pub(crate) fn user_chain_of(certificate: UserCertificate) -> UserChain {
    UserChain::Named { root: authority(), signing: signed_signing(), user: Signed::sign(certificate, &signing_key()) }
}

pub(crate) fn device_certificate(device_number: u8, serial: u64) -> DeviceCertificate {
    DeviceCertificate {
        device: device(device_number),
        slot: device_number % 4,
        serial,
        not_before: NOW.minus_secs(DAY),
        not_after: NOW.plus_secs(300 * DAY),
        extensions: Extensions::none(),
    }
}

pub(crate) fn chain(identity_number: u8, device_number: u8) -> Chain {
    Chain {
        user: user_chain(identity_number, 1),
        device: Signed::sign(device_certificate(device_number, 1), &identity_secret(identity_number)),
    }
}

pub(crate) fn v4(last: u8, port: u16) -> Address {
    Address::V4 { ip: [192, 0, 2, last], port, transport: Transport::Quic }
}

pub(crate) fn helper(number: u8) -> Helper {
    Helper { device: keeper(number), addresses: vec![v4(number, 4_001)] }
}

/// A device's entry with this sequence number, valid for a day, with keepers 0 and 1.
pub(crate) fn entry(device_number: u8, sequence: u64) -> DeviceEntry {
    DeviceEntry {
        device: device(device_number),
        sequence,
        issued_at: NOW.minus_secs(60),
        expires_at: NOW.plus_secs(DAY),
        addresses: Vec::new(),
        relays: vec![helper(0), helper(2)],
        mailboxes: Vec::new(),
        keepers: vec![helper(0), helper(1)],
        features: 1,
        hpke_key: [0x42; 32],
        pre_keys: None,
        sealed: Some(SealedPart { epoch: 0, nonce: [7; 24], ciphertext: vec![0xee; 40] }),
        extensions: Extensions::none(),
    }
}

pub(crate) fn parts_of(identity_number: u8, certificate: DeviceCertificate, entry: DeviceEntry, device_number: u8) -> EntryParts {
    EntryParts {
        certificate: Signed::sign(certificate, &identity_secret(identity_number)),
        entry: Signed::sign(entry, &device_secret(device_number)),
        lease: None,
        keeper_lease: None,
    }
}

pub(crate) fn parts(identity_number: u8, device_number: u8, sequence: u64) -> EntryParts {
    parts_of(identity_number, device_certificate(device_number, 1), entry(device_number, sequence), device_number)
}

/// The device's own lease over an entry: direct, for an hour.
pub(crate) fn lease(of: &EntryParts, number: u64) -> Lease {
    Lease {
        device: of.device(),
        entry_hash: of.entry.body_hash(),
        number,
        reachability: Reachability::Direct,
        issued_at: NOW.minus_secs(10),
        until: NOW.plus_secs(3_000),
        extensions: Extensions::none(),
    }
}

/// A keeper's word over an entry: push, for `secs`.
pub(crate) fn keeper_lease(of: &EntryParts, keeper_number: u8, secs: u64) -> KeeperLease {
    let lease = Lease { reachability: Reachability::Push, until: NOW.plus_secs(secs), ..lease(of, 1) };
    KeeperLease { keeper: keeper(keeper_number), lease: Signed::sign(lease, &keeper_secret(keeper_number)) }
}

pub(crate) fn tombstone(identity_number: u8, device_number: u8, until: UnixTime) -> Signed<Tombstone> {
    let tombstone =
        Tombstone { device: device(device_number), removed_at: NOW.minus_secs(DAY), until, extensions: Extensions::none() };
    Signed::sign(tombstone, &identity_secret(identity_number))
}

/// alice's key `old` names the key `new` its successor, and `new` accepts.
pub(crate) fn succession(old: u8, new: u8) -> Signed<KeySuccession> {
    let params = KeySuccessionParams { authority: authority(), name: alice(), old: identity(old), at: NOW.minus_secs(DAY) };
    Signed::sign(KeySuccession::new(params, &identity_secret(new)), &identity_secret(old))
}

/// alice's record with identity 0 and these entries.
pub(crate) fn unverified(entries: Vec<EntryParts>) -> UnverifiedRecord {
    UnverifiedRecord {
        user: user_chain(0, 1),
        successions: Vec::new(),
        tombstones: Vec::new(),
        entries,
        extensions: Extensions::none(),
    }
}

pub(crate) fn verify(record: UnverifiedRecord) -> Result<DirectoryRecord, RecordError> {
    record.verify(NOW, &trust())
}

/// A list of the world's authority; `signing` revokes signing certificates.
pub(crate) fn revocation_list(number: u64, users: &[u64], signing: &[u64]) -> RevocationList {
    RevocationList {
        authority: authority(),
        number,
        issued_at: NOW,
        users: users.iter().map(|&serial| RevokedSerial { serial, until: NOW.plus_secs(90 * DAY) }).collect(),
        signing: signing.to_vec(),
        extensions: Extensions::none(),
    }
}

pub(crate) fn by_signing_key(list: RevocationList) -> SignedRevocationList {
    SignedRevocationList { signing: Some(signed_signing()), list: Signed::sign(list, &signing_key()) }
}

pub(crate) fn by_root(list: RevocationList) -> SignedRevocationList {
    SignedRevocationList { signing: None, list: Signed::sign(list, &root()) }
}

pub(crate) fn seal_key() -> SealKey {
    SealKey::of_name(&alice_id())
}

/// Signs with a key of no role.
pub(crate) fn forged<T: Body>(value: T) -> Signed<T> {
    Signed::sign(value, &secret(250))
}
