//! What a directory record is refused for, what falls out of it, and what passes through it unharmed.

mod support;

use halloo_protocol::directory::{
    DEVICES_MAX, DeviceEntry, DirectoryRecord, EntryParts, KEEPER_LEASE_SECS_MAX, Lease, RECORD_BYTES_MAX, Reachability,
    RecordError, RecordKey, SealError, TOMBSTONES_MAX, UnverifiedRecord,
};
use halloo_protocol::identity::{ChainError, DeviceCertificate, KeySuccession, Tombstone, UserChain, UserId, Username};
use halloo_protocol::time::{CLOCK_TOLERANCE_SECS, UnixTime};
use halloo_protocol::wire::{self, DecodeError, Extensions, Signed};
use support::*;

fn late() -> UnixTime {
    NOW.plus_secs(CLOCK_TOLERANCE_SECS + 1)
}

fn refusal(record: UnverifiedRecord) -> RecordError {
    verify(record).expect_err("must be refused")
}

fn is_mismatch(error: &RecordError) -> bool {
    matches!(error, RecordError::Mismatch(_))
}

fn one(parts: EntryParts) -> UnverifiedRecord {
    unverified(vec![parts])
}

fn leased(change: impl FnOnce(&mut Lease), signer: u8) -> EntryParts {
    let mut parts = parts(0, 0, 1);
    let mut lease = lease(&parts, 1);
    change(&mut lease);
    parts.lease = Some(Signed::sign(lease, &device_secret(signer)));
    parts
}

fn kept(change: impl FnOnce(&mut Lease), keeper_number: u8) -> EntryParts {
    let mut parts = parts(0, 0, 1);
    let mut kept = keeper_lease(&parts, keeper_number, 7_200);
    let mut lease = kept.lease.unverified().clone();
    change(&mut lease);
    kept.lease = Signed::sign(lease, &keeper_secret(keeper_number));
    parts.keeper_lease = Some(kept);
    parts
}

#[test]
fn an_honest_record_is_believed_and_travels_unchanged() {
    let record = verify(unverified(vec![parts(0, 0, 1), parts(0, 1, 1), parts(0, 2, 1)])).expect("honest");
    assert_eq!(record.entries().count(), 3);
    assert_eq!(record.key(), RecordKey::of(&alice_id()));
    let again = UnverifiedRecord::from_bytes(&record.to_bytes()).expect("decodes").verify(NOW, &trust()).expect("honest");
    assert_eq!(again, record);
}

#[test]
fn forged_entries_are_refused() {
    let mut by_other = parts(0, 0, 1);
    by_other.entry = Signed::sign(entry(0, 1), &device_secret(1));
    assert!(matches!(refusal(one(by_other)), RecordError::Signature { what: "entry", .. }));
    let mut by_user = parts(0, 0, 1);
    by_user.entry = Signed::sign(entry(0, 1), &identity_secret(0));
    assert!(matches!(refusal(one(by_user)), RecordError::Signature { what: "entry", .. }));
    let foreign = parts(1, 0, 1); // another identity's device
    assert!(matches!(refusal(one(foreign)), RecordError::Chain(ChainError::DeviceSignature(_))));
    let mut swapped = parts(0, 0, 1);
    swapped.certificate = parts(0, 1, 1).certificate;
    assert!(is_mismatch(&refusal(one(swapped))));
    // One bad entry among good ones: an honest node passes on no such thing.
    let mut bad = parts(0, 1, 1);
    bad.entry = forged(entry(1, 1));
    assert!(verify(unverified(vec![parts(0, 0, 1), bad])).is_err());
}

#[test]
fn the_user_chain_counts() {
    let other_name = UserChain::Named { root: authority(), signing: signed_signing(), user: forged(user_certificate(0, 1)) };
    assert!(matches!(refusal(UnverifiedRecord { user: other_name, ..one(parts(0, 0, 1)) }), RecordError::Chain(_)));
    let mut trust = trust();
    trust.apply_revocations(&by_signing_key(revocation_list(1, &[1], &[]))).expect("the authority's own");
    let error = one(parts(0, 0, 1)).verify(NOW, &trust).expect_err("revoked user");
    assert_eq!(error, RecordError::Chain(ChainError::UserRevoked(1)));
}

#[test]
fn dates_ahead_are_refused() {
    let ahead = DeviceEntry { issued_at: late(), expires_at: late(), ..entry(0, 1) };
    let error = refusal(one(parts_of(0, device_certificate(0, 1), ahead, 0)));
    assert!(matches!(error, RecordError::FromTheFuture { what: "entry", .. }));
    let tolerable = NOW.plus_secs(CLOCK_TOLERANCE_SECS);
    let nearly = DeviceEntry { issued_at: tolerable, expires_at: tolerable, ..entry(0, 1) };
    assert!(verify(one(parts_of(0, device_certificate(0, 1), nearly, 0))).is_ok());
    let lease_ahead = leased(|lease| (lease.issued_at, lease.until) = (late(), late().plus_secs(60)), 0);
    assert!(matches!(refusal(one(lease_ahead)), RecordError::FromTheFuture { what: "lease", .. }));
    let certificate_ahead = DeviceCertificate { not_before: late(), ..device_certificate(0, 1) };
    let error = refusal(one(parts_of(0, certificate_ahead, entry(0, 1), 0)));
    assert!(matches!(error, RecordError::Chain(ChainError::DeviceNotYet(_))));
}

#[test]
fn expired_entries_and_certificates_fall_out() {
    let over = |number| DeviceEntry { expires_at: NOW.minus_secs(1), ..entry(number, 9) };
    let expired = parts_of(0, device_certificate(0, 1), over(0), 0);
    assert_eq!(refusal(one(expired.clone())), RecordError::Expired(NOW.minus_secs(1)));
    let record = verify(unverified(vec![expired, parts(0, 1, 1)])).expect("one lives");
    assert_eq!(record.entries().map(EntryParts::device).collect::<Vec<_>>(), [device(1)]);
    let ended = DeviceCertificate { not_after: NOW.minus_secs(1), ..device_certificate(0, 1) };
    assert!(verify(one(parts_of(0, ended, entry(0, 1), 0))).is_err());
    assert_eq!(refusal(unverified(Vec::new())), RecordError::Empty);
}

#[test]
fn impossible_validities_do_not_decode() {
    let decodes = |entry: DeviceEntry| {
        let bytes = wire::encode(&one(parts_of(0, device_certificate(0, 1), entry, 0)));
        UnverifiedRecord::from_bytes(&bytes).is_ok()
    };
    assert!(decodes(entry(0, 1)));
    assert!(!decodes(DeviceEntry { expires_at: NOW.plus_secs(31 * DAY), ..entry(0, 1) }));
    assert!(!decodes(DeviceEntry { expires_at: NOW.minus_secs(61), ..entry(0, 1) }), "before its issue");
    assert!(!decodes(DeviceEntry { issued_at: UnixTime(0), expires_at: UnixTime(u64::MAX), ..entry(0, 1) }));
    assert!(!decodes(DeviceEntry { addresses: vec![v4(1, 1); 9], ..entry(0, 1) }));
    assert!(!decodes(DeviceEntry { keepers: vec![helper(0); 4], ..entry(0, 1) }));
}

#[test]
fn leases_come_from_the_device_or_its_keeper_only() {
    assert_eq!(reachability(leased(|_| (), 0)), Ok(Reachability::Direct));
    assert!(matches!(reachability(leased(|_| (), 1)), Err(RecordError::Signature { what: "lease", .. })));
    assert!(reachability(leased(|lease| lease.entry_hash = [0; 32], 0)).is_err_and(|error| is_mismatch(&error)));
    assert!(reachability(leased(|lease| lease.device = device(1), 0)).is_err_and(|error| is_mismatch(&error)));
    let long = leased(|lease| lease.until = lease.issued_at.plus_secs(3_601), 0);
    assert!(reachability(long).is_err_and(|error| is_mismatch(&error)), "an hour at most");

    assert_eq!(reachability(kept(|_| (), 0)), Ok(Reachability::Push));
    assert!(reachability(kept(|_| (), 2)).is_err_and(|error| is_mismatch(&error)), "a relay isn't a keeper");
    let mut moved = kept(|_| (), 2);
    moved.keeper_lease.as_mut().expect("there").keeper = keeper(0);
    assert!(matches!(reachability(moved), Err(RecordError::Signature { what: "lease", .. })), "named one, signed by another");
    for claim in [Reachability::Direct, Reachability::Relayed, Reachability::None] {
        assert!(reachability(kept(|lease| lease.reachability = claim, 0)).is_err_and(|error| is_mismatch(&error)));
    }
    let too_long = kept(|lease| lease.until = lease.issued_at.plus_secs(KEEPER_LEASE_SECS_MAX + 1), 0);
    assert!(UnverifiedRecord::from_bytes(&wire::encode(&one(too_long))).is_err(), "a day at most");
}

fn reachability(parts: EntryParts) -> Result<Reachability, RecordError> {
    let record = verify(one(parts))?;
    Ok(record.entries().next().expect("one entry").reachability(NOW))
}

#[test]
fn a_lease_is_applied_once_and_only_if_it_holds() {
    let parts = parts(0, 0, 1);
    let mut record = verify(one(parts.clone())).expect("honest");
    let own = Signed::sign(lease(&parts, 1), &device_secret(0));
    assert_eq!(record.apply_lease(own.clone(), None, NOW), Ok(true));
    assert_eq!(record.apply_lease(own, None, NOW), Ok(false), "known");
    let over = Lease { until: NOW.minus_secs(1), issued_at: NOW.minus_secs(100), ..lease(&parts, 99) };
    assert_eq!(record.apply_lease(Signed::sign(over, &device_secret(0)), None, NOW), Ok(false), "over");
    assert_eq!(record.entries().next().map(|entry| entry.reachability(NOW)), Some(Reachability::Direct));
    assert!(record.apply_lease(forged(lease(&parts, 2)), None, NOW).is_err());
    assert!(record.apply_lease(keeper_lease(&parts, 2, 60).lease, Some(keeper(2)), NOW).is_err(), "not its keeper");
    assert_eq!(record.apply_lease(keeper_lease(&parts, 1, 7_200).lease, Some(keeper(1)), NOW), Ok(true));
    let evening = NOW.plus_secs(3_600);
    assert_eq!(record.entries().next().map(|entry| entry.reachability(evening)), Some(Reachability::Push), "own lease over");
    let elsewhere = parts_of(0, device_certificate(5, 1), entry(5, 1), 5);
    assert!(record.apply_lease(Signed::sign(lease(&elsewhere, 1), &device_secret(5)), None, NOW).is_err());
}

#[test]
fn a_removed_device_does_not_come_back() {
    let end = device_certificate(0, 1).not_after;
    let removed = UnverifiedRecord { tombstones: vec![tombstone(0, 0, end)], ..unverified(vec![parts(0, 1, 1)]) };
    let removed = verify(removed).expect("one device lives");
    // The removed device publishes again, with a higher sequence, and under a certificate of a higher serial it may have kept.
    let comeback = verify(one(parts_of(0, device_certificate(0, 9), entry(0, u64::MAX), 0))).expect("signed well");
    for merged in [removed.clone().merge(comeback.clone()), comeback.clone().merge(removed.clone())] {
        assert_eq!(merged.entries().map(EntryParts::device).collect::<Vec<_>>(), [device(1)]);
        assert_eq!(merged, removed.clone().merge(comeback.clone()));
    }
    let together = UnverifiedRecord { tombstones: vec![tombstone(0, 0, end)], ..one(parts(0, 0, 1)) };
    assert_eq!(refusal(together), RecordError::Removed);
    // Nobody else can remove a device.
    let by_device = Tombstone { device: device(0), removed_at: NOW, until: end, extensions: Extensions::none() };
    for tombstone in [forged(by_device.clone()), Signed::sign(by_device, &device_secret(0))] {
        let forged = UnverifiedRecord { tombstones: vec![tombstone], ..one(parts(0, 0, 1)) };
        assert!(matches!(refusal(forged), RecordError::Signature { what: "tombstone", .. }));
    }
    // Once the certificate has ended by itself, so has the tombstone's work.
    assert_eq!(removed.prune(end.plus_secs(1)).tombstones().count(), 0);
}

#[test]
fn a_rolled_back_sequence_loses() {
    let newer = verify(one(parts(0, 0, 7))).expect("honest");
    let older = verify(one(parts(0, 0, 6))).expect("honest");
    assert_eq!(older.clone().merge(newer.clone()), newer);
    assert_eq!(newer.clone().merge(older), newer);
}

#[test]
fn devices_publish_at_once_and_none_is_lost() {
    let records: Vec<_> = (0..3).map(|number| verify(one(parts(0, number, 1))).expect("honest")).collect();
    let merge = |order: [usize; 3]| order.into_iter().map(|i| records[i].clone()).reduce(DirectoryRecord::merge).expect("three");
    let all = merge([0, 1, 2]);
    assert_eq!(all.entries().count(), 3);
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        assert_eq!(merge(order), all);
    }
}

#[test]
fn too_much_is_refused() {
    let entries: Vec<_> = (0..=DEVICES_MAX as u8).map(|number| parts(0, number, 1)).collect();
    assert!(matches!(refusal(unverified(entries)), RecordError::TooMany { what: "devices", .. }));
    let tombstones = (0..=TOMBSTONES_MAX as u8).map(|number| tombstone(0, number + 20, NOW)).collect();
    let error = refusal(UnverifiedRecord { tombstones, ..one(parts(0, 0, 1)) });
    assert!(matches!(error, RecordError::TooMany { what: "tombstones", .. }));
    let oversized = vec![0; 10 * RECORD_BYTES_MAX];
    let error = UnverifiedRecord::from_bytes(&oversized).expect_err("ten times too large");
    assert!(matches!(error, RecordError::Decode(DecodeError::TooLarge { .. })));
    let hints = Extensions::none().with(1, vec![0; 600]);
    let error = refusal(UnverifiedRecord { extensions: hints, ..one(parts(0, 0, 1)) });
    assert!(matches!(error, RecordError::TooMany { what: "bytes of unsigned extensions", .. }));
}

/// An entry as large as an entry may be.
fn large(number: u8, serial: u64) -> EntryParts {
    let entry = DeviceEntry { extensions: Extensions::none().with(1, vec![number; 1_500]), ..entry(number, 1) };
    let mut parts = parts_of(0, device_certificate(number, serial), entry, number);
    parts.lease = Some(Signed::sign(lease(&parts, 1), &device_secret(number)));
    parts
}

#[test]
fn merging_never_outgrows_what_readers_accept() {
    let records: Vec<_> = (0..16).map(|number| verify(one(large(number, 1 + u64::from(number)))).expect("fits")).collect();
    let hinted = UnverifiedRecord { extensions: Extensions::none().with(1, vec![9; 500]), ..one(parts(0, 20, 1)) };
    let hinted = verify(hinted).expect("fits");
    let forward = records.iter().cloned().chain([hinted.clone()]).reduce(DirectoryRecord::merge).expect("some");
    let backward = records.iter().rev().cloned().chain([hinted]).reduce(|a, b| b.merge(a)).expect("some");
    for merged in [&forward, &backward] {
        let bytes = merged.to_bytes();
        assert!(bytes.len() <= RECORD_BYTES_MAX, "{}", bytes.len());
        let again = UnverifiedRecord::from_bytes(&bytes).expect("decodes").verify(NOW, &trust()).expect("holds");
        assert_eq!(&again, merged);
        assert!(merged.entry(&device(15)).is_some_and(|parts| parts.lease.is_some()), "the newest certificate stays");
        assert!(merged.entries().count() >= 6);
    }
}

#[test]
fn unknown_extensions_pass_through_everything() {
    let unknown = || Extensions::none().with(0x0777, b"from the future".to_vec());
    let certificate = DeviceCertificate { extensions: unknown(), ..device_certificate(0, 1) };
    let entry = DeviceEntry { extensions: unknown(), ..entry(0, 1) };
    let record = UnverifiedRecord { extensions: unknown(), ..one(parts_of(0, certificate, entry, 0)) };
    let sent = wire::encode(&record);
    let stored = UnverifiedRecord::from_bytes(&sent).expect("decodes").verify(NOW, &trust()).expect("holds");
    assert_eq!(stored.to_bytes(), sent);
    let other = verify(one(parts(0, 1, 1))).expect("honest");
    for merged in [stored.clone().merge(other.clone()), other.merge(stored)] {
        let read = UnverifiedRecord::from_bytes(&merged.prune(NOW).to_bytes()).expect("decodes");
        assert_eq!(read.extensions, unknown());
        let first = read.entries.iter().find(|parts| parts.device() == device(0)).expect("kept");
        assert_eq!(first.entry().extensions, unknown());
        assert_eq!(first.certificate.unverified().extensions, unknown());
    }
}

#[test]
fn critical_extensions_are_refused_wherever_they_stand() {
    let critical = || Extensions::none().with(0x8000, Vec::new());
    let in_entry = DeviceEntry { extensions: critical(), ..entry(0, 1) };
    let in_certificate = DeviceCertificate { extensions: critical(), ..device_certificate(0, 1) };
    for record in [
        UnverifiedRecord { extensions: critical(), ..one(parts(0, 0, 1)) },
        one(parts_of(0, device_certificate(0, 1), in_entry, 0)),
        one(parts_of(0, in_certificate, entry(0, 1), 0)),
    ] {
        let error = UnverifiedRecord::from_bytes(&wire::encode(&record)).expect_err("must be understood");
        assert!(error.to_string().contains("0x8000"), "{error}");
    }
}

#[test]
fn a_new_key_replaces_the_old_one_and_its_devices() {
    let old = verify(UnverifiedRecord { tombstones: vec![tombstone(0, 5, NOW)], ..one(parts(0, 0, 50)) }).expect("honest");
    let new =
        UnverifiedRecord { user: user_chain(1, 2), successions: vec![succession(0, 1)], ..unverified(vec![parts(1, 1, 1)]) };
    let new = verify(new).expect("honest");
    for merged in [old.clone().merge(new.clone()), new.clone().merge(old.clone())] {
        assert_eq!(merged.identity(), identity(1));
        assert_eq!(merged.entries().map(EntryParts::device).collect::<Vec<_>>(), [device(1)]);
        assert!(merged.is_successor_of(&identity(0)));
        assert!(!merged.is_successor_of(&identity(2)));
    }
}

#[test]
fn nobody_becomes_a_predecessor_unasked() {
    // A stranger's key names alice's key its successor; she never accepted.
    let mut claim: KeySuccession = succession(2, 0).unverified().clone();
    claim.accepted = secret(250).sign(b"whatever");
    claim.at = UnixTime(u64::MAX);
    let claim = Signed::sign(claim, &identity_secret(2));
    let error = refusal(UnverifiedRecord { successions: vec![claim], ..one(parts(0, 0, 1)) });
    assert!(matches!(error, RecordError::Signature { what: "key succession", .. }));
    // A stranger's successions among strangers' keys are well signed; they lead nowhere and fall out.
    let crowd = vec![succession(2, 3), succession(3, 4), succession(4, 5), succession(1, 0)];
    let record = verify(UnverifiedRecord { successions: crowd, ..one(parts(0, 0, 1)) }).expect("honest");
    assert!(record.is_successor_of(&identity(1)));
    assert!(!record.is_successor_of(&identity(3)));
    assert_eq!(record.to_unverified().successions.len(), 1);
    // The old key's word is needed as well.
    let unsigned = forged(succession(1, 0).unverified().clone());
    assert!(verify(UnverifiedRecord { successions: vec![unsigned], ..one(parts(0, 0, 1)) }).is_err());
}

#[test]
fn records_of_different_users_do_not_mix() {
    let bob = Username::new("bob").expect("a name");
    let mut certificate = user_certificate(1, 7);
    certificate.name = bob.clone();
    let other = UnverifiedRecord { user: user_chain_of(certificate), ..unverified(vec![parts(1, 1, 1)]) };
    let other = verify(other).expect("honest");
    assert_eq!(other.key(), RecordKey::of(&UserId::Named { authority: authority(), name: bob }));
    let alice = verify(one(parts(0, 0, 1))).expect("honest");
    assert_eq!(alice.clone().merge(other), alice);
}

#[test]
fn a_sealed_part_opens_for_its_device_alone() {
    let part = samples::private_part();
    let sealed = seal_key().seal(0, &device(0), &part, [3; 24]);
    assert_eq!(seal_key().open(&device(0), &sealed), Ok(part));
    assert_eq!(seal_key().open(&device(1), &sealed), Err(SealError::Seal), "moved to another's entry");
    let mut later = sealed.clone();
    later.epoch = 1;
    assert_eq!(seal_key().open(&device(0), &later), Err(SealError::Seal), "said to be of another epoch");
    let mut changed = sealed;
    changed.ciphertext[0] ^= 1;
    assert_eq!(seal_key().open(&device(0), &changed), Err(SealError::Seal));
}
