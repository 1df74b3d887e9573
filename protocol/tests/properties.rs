//! Laws: merging is a join, pruning settles, encoding is undone by decoding, and no bytes make a decoder panic.

mod support;

use halloo_protocol::directory::{
    DeviceEntry, DeviceKind, DirectoryRecord, EntryParts, Helper, Lease, Place, PrivatePart, PushAddress, Reachability,
    SealedPart, UnverifiedRecord,
};
use halloo_protocol::identity::{
    Chain, DEVICE_CERTIFICATE_SECS_MAX, DeviceCertificate, LinkedIndicator, RevocationList, RevokedSerial, SigningCertificate,
    Tombstone, USER_CERTIFICATE_SECS, UserCertificate, UserChain, UserId, Username,
};
use halloo_protocol::key::{AuthorityKey, DeviceKey, IdentityKey, PublicKey};
use halloo_protocol::node::{Address, Descriptor, Hello, LoadClass, RevocationNumber, Roles, Transport};
use halloo_protocol::session::PreKeys;
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Body, Extensions, FRAME_BYTES_MAX, Frame, FrameKind, Message, Signed};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use support::*;

// --- Families of records of one user ----------------------------------------------------------------------------------------

/// One device in a generated record: choices, not content, so that few different things are signed.
#[derive(Clone, Debug)]
struct EntryChoice {
    device: u8,
    certificate_serial: u64,
    certificate_ends: bool,
    sequence: u64,
    variant: u8,
    expires_in: u64,
    lease: Option<(u64, u64)>,
    keeper_lease: Option<(u8, u64)>,
}

#[derive(Clone, Debug)]
struct RecordChoice {
    /// Which identity key, and with it which range of user serials: an authority never goes back to a former key.
    identity: u8,
    renewal: u64,
    has_successions: bool,
    tombstones: Vec<(u8, u64)>,
    entries: Vec<EntryChoice>,
    hint: u8,
}

fn entry_choice() -> impl Strategy<Value = EntryChoice> {
    (
        0..5_u8,
        1..3_u64,
        prop::bool::weighted(0.1),
        1..4_u64,
        0..2_u8,
        prop::sample::select(vec![600, 3_000, DAY, 20 * DAY]),
        option::of((1..4_u64, prop::sample::select(vec![100, 900, 3_000]))),
        option::of((0..2_u8, prop::sample::select(vec![500, 20_000]))),
    )
        .prop_map(|(device, certificate_serial, certificate_ends, sequence, variant, expires_in, lease, keeper_lease)| {
            EntryChoice { device, certificate_serial, certificate_ends, sequence, variant, expires_in, lease, keeper_lease }
        })
}

fn record_choice() -> impl Strategy<Value = RecordChoice> {
    (
        prop::sample::select(vec![0, 0, 0, 1, 2]),
        0..3_u64,
        any::<bool>(),
        vec((0..6_u8, prop::sample::select(vec![1_000, 5 * DAY, 200 * DAY])), 0..3),
        vec(entry_choice(), 1..5),
        0..3_u8,
    )
        .prop_map(|(identity, renewal, has_successions, tombstones, entries, hint)| RecordChoice {
            identity,
            renewal,
            has_successions,
            tombstones,
            entries,
            hint,
        })
}

fn build_entry(identity: u8, choice: &EntryChoice) -> EntryParts {
    // Devices of different identities are different devices.
    let number = choice.device + 10 * identity;
    let not_after = if choice.certificate_ends { NOW.plus_secs(800) } else { NOW.plus_secs(100 * DAY) };
    let certificate = DeviceCertificate { not_after, ..device_certificate(number, choice.certificate_serial) };
    let entry = DeviceEntry {
        expires_at: NOW.plus_secs(choice.expires_in),
        features: u64::from(choice.variant),
        ..entry(number, choice.sequence)
    };
    let mut parts = parts_of(identity, certificate, entry, number);
    parts.lease = choice.lease.map(|(lease_number, secs)| {
        let lease = Lease { until: NOW.plus_secs(secs), ..lease(&parts, lease_number) };
        Signed::sign(lease, &device_secret(number))
    });
    parts.keeper_lease = choice.keeper_lease.map(|(keeper_number, secs)| keeper_lease(&parts, keeper_number, secs));
    parts
}

fn build(choice: &RecordChoice) -> UnverifiedRecord {
    let identity = choice.identity;
    let successions = (0..identity).map(|old| succession(old, old + 1)).collect();
    UnverifiedRecord {
        user: user_chain(identity, 10 * u64::from(identity) + choice.renewal + 1),
        successions: if choice.has_successions { successions } else { Vec::new() },
        tombstones: choice
            .tombstones
            .iter()
            .map(|&(device, secs)| tombstone(identity, device + 10 * identity, NOW.plus_secs(secs)))
            .collect(),
        entries: choice.entries.iter().map(|entry| build_entry(identity, entry)).collect(),
        extensions: if choice.hint == 0 { Extensions::none() } else { Extensions::none().with(1, vec![choice.hint]) },
    }
}

/// A record of the family, or `None` where all its devices were removed.
fn record() -> impl Strategy<Value = Option<DirectoryRecord>> {
    record_choice().prop_map(|choice| verify(build(&choice)).ok())
}

fn records() -> impl Strategy<Value = (DirectoryRecord, DirectoryRecord, DirectoryRecord)> {
    (record(), record(), record()).prop_filter_map("a record without living devices", |(a, b, c)| Some((a?, b?, c?)))
}

fn merge(a: &DirectoryRecord, b: &DirectoryRecord) -> DirectoryRecord {
    a.clone().merge(b.clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn merging_is_commutative_associative_and_idempotent((a, b, c) in records()) {
        let ab = merge(&a, &b);
        prop_assert_eq!(&merge(&b, &a), &ab);
        prop_assert_eq!(merge(&ab, &c), merge(&a, &merge(&b, &c)));
        prop_assert_eq!(&merge(&a, &a), &a);
        prop_assert_eq!(&merge(&ab, &a), &ab, "what is known already changes nothing");
        prop_assert_eq!(&merge(&ab, &b), &ab);
        prop_assert_eq!(ab.content_hash(), merge(&b, &a).content_hash());
    }

    #[test]
    fn replicas_that_saw_the_same_agree(choices in vec(record_choice(), 2..6), order in any::<prop::sample::Index>()) {
        let records: Vec<_> = choices.iter().filter_map(|choice| verify(build(choice)).ok()).collect();
        prop_assume!(!records.is_empty());
        let start = order.index(records.len());
        let turned = records[start..].iter().chain(&records[..start]).rev();
        let there = records.iter().cloned().reduce(DirectoryRecord::merge);
        prop_assert_eq!(turned.cloned().reduce(DirectoryRecord::merge), there);
    }

    #[test]
    fn what_was_merged_is_believed_by_the_next((a, b, _) in records()) {
        let merged = merge(&a, &b).prune(NOW);
        let sent = UnverifiedRecord::from_bytes(&merged.to_bytes()).expect("within limits");
        match sent.verify(NOW, &trust()) {
            Ok(received) => prop_assert_eq!(received, merged),
            Err(_) => prop_assert!(merged.is_empty()),
        }
    }

    #[test]
    fn merging_loses_no_sequence_number((a, b, _) in records()) {
        let merged = merge(&a, &b);
        for parts in merged.entries() {
            for before in [&a, &b].into_iter().filter(|record| record.identity() == merged.identity()) {
                let known = before.entry(&parts.device());
                prop_assert!(known.is_none_or(|known| known.entry().sequence <= parts.entry().sequence));
            }
        }
    }

    #[test]
    fn pruning_settles_at_once_and_only_takes_away((a, b, _) in records(), early in 0..40 * DAY, later in 0..40 * DAY) {
        let record = merge(&a, &b);
        let (early, late) = (NOW.plus_secs(early), NOW.plus_secs(early + later));
        let pruned = record.clone().prune(early);
        prop_assert_eq!(&pruned.clone().prune(early), &pruned);
        prop_assert_eq!(pruned.clone().prune(late), record.clone().prune(late), "in one step or two");
        for parts in pruned.entries() {
            prop_assert!(record.entry(&parts.device()).is_some_and(|before| before.entry == parts.entry));
            prop_assert!(parts.entry().expires_at >= early);
        }
        prop_assert!(pruned.tombstones().count() <= record.tombstones().count());
        prop_assert!(pruned.tombstones().all(|tombstone| tombstone.until >= early));
    }
}

// --- decode(encode(x)) == x --------------------------------------------------------------------------------------------------

fn public_key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey)
}

fn device_key() -> impl Strategy<Value = DeviceKey> {
    public_key().prop_map(DeviceKey)
}

fn time() -> impl Strategy<Value = UnixTime> {
    // Small enough that a validity can be added.
    prop_oneof![0..4_000_000_000_u64, 0..u64::MAX / 2].prop_map(UnixTime)
}

fn extensions() -> impl Strategy<Value = Extensions> {
    vec((0..0x8000_u16, vec(any::<u8>(), 0..6)), 0..4)
        .prop_map(|list| list.into_iter().fold(Extensions::none(), |all, (tag, bytes)| all.with(tag, bytes)))
}

fn username() -> impl Strategy<Value = Username> {
    "[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?|[а-я]{1,64}|[ぁ-ん一-龥]{1,20}"
        .prop_filter_map("not a name", |text| Username::new(&text).ok())
}

fn address() -> impl Strategy<Value = Address> {
    let transport = || any::<bool>().prop_map(|quic| if quic { Transport::Quic } else { Transport::Tcp });
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>(), transport()).prop_map(|(ip, port, transport)| Address::V4 { ip, port, transport }),
        (any::<[u8; 16]>(), any::<u16>(), transport()).prop_map(|(ip, port, transport)| Address::V6 { ip, port, transport }),
        vec(any::<u8>(), 0..=160).prop_map(Address::Other),
    ]
}

fn small_address() -> impl Strategy<Value = Address> {
    address().prop_filter("for bodies that must fit", |address| !matches!(address, Address::Other(bytes) if bytes.len() > 20))
}

fn helpers() -> impl Strategy<Value = Vec<Helper>> {
    vec((device_key(), vec(small_address(), 0..=2)).prop_map(|(device, addresses)| Helper { device, addresses }), 0..=3)
}

prop_compose! {
    fn any_signing()(key in public_key(), serial: u64, not_before in time(), length in 0..u64::MAX / 4, extensions in extensions()) -> SigningCertificate {
        SigningCertificate { key, serial, not_before, not_after: not_before.plus_secs(length), extensions }
    }
}

prop_compose! {
    fn any_user()(
        name in username(),
        identity in public_key(),
        placement: [u8; 32],
        serial: u64,
        not_before in time(),
        length in 0..=USER_CERTIFICATE_SECS,
        linked in vec(("[a-z]{1,9}", "\\PC{0,20}"), 0..=8),
        extensions in extensions(),
    ) -> UserCertificate {
        UserCertificate {
            name,
            identity: IdentityKey(identity),
            placement,
            serial,
            not_before,
            not_after: not_before.plus_secs(length),
            linked: linked.into_iter().map(|(system, id)| LinkedIndicator { system, id }).collect(),
            extensions,
        }
    }
}

prop_compose! {
    fn any_device_certificate()(
        device in device_key(),
        slot in 0..4_u8,
        serial: u64,
        not_before in time(),
        length in 0..=DEVICE_CERTIFICATE_SECS_MAX,
        extensions in extensions(),
    ) -> DeviceCertificate {
        DeviceCertificate { device, slot, serial, not_before, not_after: not_before.plus_secs(length), extensions }
    }
}

prop_compose! {
    fn any_tombstone()(device in device_key(), removed_at in time(), length in 0..=DEVICE_CERTIFICATE_SECS_MAX, extensions in extensions()) -> Tombstone {
        Tombstone { device, removed_at, until: removed_at.plus_secs(length), extensions }
    }
}

prop_compose! {
    fn any_list()(
        authority in public_key(),
        issued_at in time(),
        number in any::<prop::sample::Index>(),
        users in prop::collection::btree_map(any::<u64>(), time(), 0..20),
        signing in vec(any::<u64>(), 0..5),
        extensions in extensions(),
    ) -> RevocationList {
        RevocationList {
            authority: AuthorityKey(authority),
            number: u64::try_from(number.index(1_000)).expect("small").min(issued_at.0),
            issued_at,
            users: users.into_iter().map(|(serial, until)| RevokedSerial { serial, until }).collect(),
            signing,
            extensions,
        }
    }
}

prop_compose! {
    fn any_entry()(
        (device, sequence, issued_at, length) in (device_key(), any::<u64>(), time(), 0..=30 * DAY),
        addresses in vec(small_address(), 0..=8),
        (relays, mailboxes, keepers) in (helpers(), helpers(), helpers()),
        (features, hpke_key, pre_keys) in (any::<u64>(), any::<[u8; 32]>(), option::of(any::<([u8; 32], [u8; 32])>())),
        sealed in option::of((any::<u32>(), any::<[u8; 24]>(), vec(any::<u8>(), 0..300))),
        extensions in extensions(),
    ) -> DeviceEntry {
        DeviceEntry {
            device,
            sequence,
            issued_at,
            expires_at: issued_at.plus_secs(length),
            addresses,
            relays,
            mailboxes,
            keepers,
            features,
            hpke_key,
            pre_keys: pre_keys.map(|(identity, fallback)| PreKeys { identity, fallback }),
            sealed: sealed.map(|(epoch, nonce, ciphertext)| SealedPart { epoch, nonce, ciphertext }),
            extensions,
        }
    }
}

prop_compose! {
    fn any_lease()(
        device in device_key(),
        entry_hash: [u8; 32],
        number: u64,
        reachability in prop::sample::select(vec![Reachability::None, Reachability::Push, Reachability::Relayed, Reachability::Direct]),
        issued_at in time(),
        length in 0..=DAY,
        extensions in extensions(),
    ) -> Lease {
        Lease { device, entry_hash, number, reachability, issued_at, until: issued_at.plus_secs(length), extensions }
    }
}

prop_compose! {
    fn any_private()(
        name in "\\PC{0,16}",
        kind in prop::sample::select(vec![DeviceKind::Phone, DeviceKind::Tablet, DeviceKind::Laptop, DeviceKind::Desktop, DeviceKind::Server]),
        addresses in vec(small_address(), 0..=4),
        push in vec((device_key(), vec(any::<u8>(), 0..=64), vec(any::<u8>(), 0..=64)), 0..=2),
        extensions in extensions(),
    ) -> PrivatePart {
        let push = push.into_iter().map(|(device, handle, capability)| PushAddress {
            gateway: Helper { device, addresses: Vec::new() },
            handle,
            capability,
        });
        PrivatePart { name, kind, addresses, push: push.collect(), extensions }
    }
}

prop_compose! {
    fn any_descriptor()(device in device_key(), place: [u8; 32], roles: u16, load: u8, addresses in vec(address(), 0..=4)) -> Descriptor {
        Descriptor { device, place: Place(place), roles: Roles(roles), load: LoadClass(load), addresses }
    }
}

prop_compose! {
    fn any_chain()(user in any_user(), signing in any_signing(), device in any_device_certificate(), named: bool) -> Chain {
        let identity = user.identity;
        let named_chain = UserChain::Named {
            root: authority(),
            signing: Signed::sign(signing, &root()),
            user: Signed::sign(user, &signing_key()),
        };
        let user = if named { named_chain } else { UserChain::Key(identity) };
        Chain { user, device: Signed::sign(device, &identity_secret(0)) }
    }
}

prop_compose! {
    fn any_hello()(
        version: u16,
        features: u64,
        chain in option::of(any_chain()),
        descriptor in option::of(any_descriptor()),
        clock in time(),
        revocations in vec((public_key(), any::<u64>()), 0..=16),
        extensions in extensions(),
    ) -> Hello {
        let number = |(key, number)| RevocationNumber { authority: AuthorityKey(key), number };
        Hello { version, features, chain, descriptor, clock, revocations: revocations.into_iter().map(number).collect(), extensions }
    }
}

fn survives_signed<T: Body + PartialEq + std::fmt::Debug>(value: T) -> Result<(), TestCaseError> {
    let plain: T =
        wire::decode(&wire::encode(&value), FRAME_BYTES_MAX).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(&plain, &value);
    prop_assert_eq!(wire::encoded_len(&value), wire::encode(&value).len());
    let signed = Signed::sign(value, &secret(200));
    let again: Signed<T> =
        wire::decode(&wire::encode(&signed), FRAME_BYTES_MAX).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(&again, &signed);
    prop_assert!(again.verify(&secret(200).public()).is_ok_and(|value| *value == plain));
    prop_assert!(again.verify(&secret(201).public()).is_err());
    Ok(())
}

fn survives<T: bincode::Encode + bincode::Decode<()> + PartialEq + std::fmt::Debug>(value: &T) -> Result<(), TestCaseError> {
    let again: T = wire::decode(&wire::encode(value), FRAME_BYTES_MAX).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(&again, value);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn certificates_survive(signing in any_signing(), user in any_user(), device in any_device_certificate(), tombstone in any_tombstone()) {
        survives_signed(signing)?;
        survives_signed(user)?;
        survives_signed(device)?;
        survives_signed(tombstone)?;
    }

    #[test]
    fn entries_leases_and_lists_survive(entry in any_entry(), lease in any_lease(), list in any_list()) {
        survives_signed(entry)?;
        survives_signed(lease)?;
        survives_signed(list)?;
    }

    #[test]
    fn the_private_part_survives_sealing(part in any_private(), device in device_key(), nonce: [u8; 24], epoch: u32) {
        survives(&part)?;
        let sealed = seal_key().seal(epoch, &device, &part, nonce);
        prop_assert_eq!(seal_key().open(&device, &sealed), Ok(part));
    }

    #[test]
    fn hellos_survive_a_frame(hello in any_hello(), id: u32) {
        survives(&hello)?;
        let frame = Frame::new(id, &hello);
        let again: Frame = wire::decode(&wire::encode(&frame), FRAME_BYTES_MAX).expect("a frame");
        if wire::encoded_len(&hello) <= Hello::LIMIT {
            prop_assert_eq!(again.parse::<Hello>(), Ok(hello));
        } else {
            prop_assert!(again.parse::<Hello>().is_err());
        }
    }

    #[test]
    fn frames_survive(kind: u16, id: u32, body in vec(any::<u8>(), 0..2_000)) {
        survives(&Frame { kind: FrameKind(kind), id, body })?;
    }

    #[test]
    fn records_survive(choice in record_choice()) {
        let record = build(&choice);
        prop_assert_eq!(UnverifiedRecord::from_bytes(&wire::encode(&record)), Ok(record));
    }

    #[test]
    fn user_ids_survive(name in username(), key in public_key()) {
        survives(&UserId::Named { authority: AuthorityKey(key), name })?;
        survives(&UserId::Key(IdentityKey(key)))?;
    }

    // --- No input panics -----------------------------------------------------------------------------------------------------

    #[test]
    fn any_text_is_a_name_or_is_not(text in "\\PC{0,80}|.{0,20}") {
        if let Ok(name) = Username::new(&text) {
            prop_assert_eq!(Username::new(name.as_str()), Ok(name.clone()), "a name's normal form is its own");
            survives(&UserId::Named { authority: authority(), name })?;
        }
    }

    #[test]
    fn any_text_is_a_key_or_is_not(text in "(ed25519:)?[A-Za-z0-9_-]{0,50}|\\PC{0,60}") {
        if let Ok(key) = text.parse::<PublicKey>() {
            prop_assert_eq!(key.to_string(), text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in vec(any::<u8>(), 0..400)) {
        for vector in vectors::all_cached() {
            let _ = (vector.again)(&bytes);
        }
    }

    #[test]
    fn changed_bytes_decode_or_are_refused(
        which in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        let all = vectors::all_cached();
        let vector = &all[which.index(all.len())];
        let mut bytes = vector.bytes.clone();
        for (position, byte, how) in changes {
            let position = position.index(bytes.len().max(1));
            match how {
                0 if position < bytes.len() => bytes[position] = byte,
                1 => bytes.insert(position.min(bytes.len()), byte),
                2 if position < bytes.len() => drop(bytes.remove(position)),
                _ => bytes.truncate(position),
            }
        }
        if let Ok(again) = (vector.again)(&bytes) {
            prop_assert_eq!((vector.again)(&again), Ok(again.clone()), "{}: what decodes encodes to itself", vector.name);
        }
    }
}

proptest! {
    // Each of these that still decodes costs a dozen signatures.
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_changed_record_is_refused_or_says_nothing_new(position in any::<prop::sample::Index>(), byte: u8) {
        let genuine = samples::record();
        let mut bytes = wire::encode(&genuine);
        let position = position.index(bytes.len());
        bytes[position] = byte;
        if let Ok(record) = UnverifiedRecord::from_bytes(&bytes)
            && let Ok(record) = record.verify(NOW, &trust())
        {
            let genuine = verify(genuine).expect("honest");
            // Only what nobody signs can differ.
            prop_assert_eq!(record.content_hash(), genuine.content_hash());
        }
    }
}
