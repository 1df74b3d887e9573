use halloo_protocol::directory::Place;
use halloo_protocol::identity::{
    ChainError, KeySuccession, KeySuccessionParams, TrustStore, USER_CERTIFICATE_SECS, UserChain, UserId, Username, VerifiedUser,
};
use halloo_protocol::key::{AuthorityKey, IdentityKey, PublicKey};
use halloo_protocol::node::{Address, LoadClass, Roles, Transport};
use proptest::prelude::*;

use super::*;
use crate::identity::LocalIdentity;

mod hints;

const NOW: UnixTime = UnixTime(1_800_000_000);
const DAY: u64 = 86_400;

fn open_at(store: &Store, policy: AuthorityPolicy, now: UnixTime) -> Authority {
    Authority::open(store.clone(), RootKeyPlace::Store, policy, now).expect("opens")
}

fn authority(policy: AuthorityPolicy) -> Authority {
    open_at(&Store::in_memory().expect("memory"), policy, NOW)
}

fn user(number: u8) -> LocalIdentity {
    let store = Store::in_memory().expect("memory");
    LocalIdentity::in_memory(&store, SecretKey::from_bytes([number; 32]), SecretKey::from_bytes([number + 100; 32]), NOW)
        .expect("memory")
}

fn name(text: &str) -> Username {
    Username::new(text).expect("valid")
}

fn asker(user: &LocalIdentity) -> Asker {
    Asker { device: user.device(), network: None }
}

/// Asks and checks the grant as a node does.
fn enrol(
    authority: &mut Authority,
    user: &mut LocalIdentity,
    wanted: &str,
    invite: Option<InviteSecret>,
    now: UnixTime,
) -> Result<VerifiedUser, RefusalCode> {
    let request = user.enrol_request(authority.root(), name(wanted), invite, None, now).expect("identity key is here");
    let grant = authority.enrol(&request, &asker(user), now).map_err(|refusal| refusal.code)?;
    let id = UserId::Named { authority: authority.root(), name: name(wanted) };
    let verified = grant.verify(&id, &user.identity(), now, &trust(authority)).expect("what was asked for");
    user.set_user_chain(grant.chain).expect("own identity");
    Ok(verified)
}

/// A network on one machine in which alice has her name.
fn with_alice() -> (Authority, LocalIdentity) {
    let mut authority = authority(AuthorityPolicy::lab());
    let mut alice = user(1);
    enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
    (authority, alice)
}

fn renew(authority: &mut Authority, user: &mut LocalIdentity, now: UnixTime) -> Result<u64, RefusalCode> {
    let grant = authority.renew(&user.renew_request(), &asker(user), now).map_err(|refusal| refusal.code)?;
    let verified = grant.verify(&user.user_id(), &user.identity(), now, &trust(authority)).expect("what was asked for");
    user.set_user_chain(grant.chain).expect("own identity");
    Ok(verified.serial)
}

fn trust(authority: &Authority) -> TrustStore {
    let mut trust = TrustStore::new();
    trust.trust(authority.root()).expect("one authority");
    trust
}

fn succession(authority: &Authority, wanted: &str, old: u8, new: u8, signer: u8) -> Signed<KeySuccession> {
    let key = |number: u8| SecretKey::from_bytes([number; 32]);
    let params =
        KeySuccessionParams { authority: authority.root(), name: name(wanted), old: IdentityKey(key(old).public()), at: NOW };
    let said = KeySuccession::new(params, &key(new));
    Signed::sign(said, &key(signer))
}

fn succeed(authority: &mut Authority, new: u8, said: Signed<KeySuccession>, now: UnixTime) -> Result<u64, RefusalCode> {
    let user = user(new);
    let request = user.enrol_request(authority.root(), name("alice"), None, Some(said), now).expect("identity key is here");
    let grant = authority.enrol(&request, &asker(&user), now).map_err(|refusal| refusal.code)?;
    let id = UserId::Named { authority: authority.root(), name: name("alice") };
    Ok(grant.verify(&id, &user.identity(), now, &trust(authority)).expect("what was asked for").serial)
}

#[test]
fn a_name_goes_to_one_key() {
    let mut authority = authority(AuthorityPolicy::lab());
    let (mut alice, mut mallory) = (user(1), user(2));
    assert!(enrol(&mut authority, &mut alice, "alice", None, NOW).is_ok());
    assert_eq!(enrol(&mut authority, &mut mallory, "alice", None, NOW), Err(RefusalCode::NAME_TAKEN));
    assert_eq!(enrol(&mut authority, &mut mallory, "ALICE", None, NOW), Err(RefusalCode::NAME_TAKEN), "however written");
    assert!(enrol(&mut authority, &mut mallory, "mallory", None, NOW).is_ok());
}

#[test]
fn asking_again_gives_the_same_certificate_and_uses_nothing_up() {
    let mut authority = authority(AuthorityPolicy::default());
    let (secret, _) = authority.invite(1, DAY, NOW).expect("makes an invite");
    let mut alice = user(1);
    let first = enrol(&mut authority, &mut alice, "alice", Some(secret), NOW).expect("invited");
    let again = enrol(&mut authority, &mut alice, "alice", Some(secret), NOW.plus_secs(60)).expect("same key");
    assert_eq!(first, again);
    let log = authority.log(None, 100).expect("reads");
    assert_eq!(log.iter().filter(|entry| matches!(entry.event, LogEvent::Enrolled { .. })).count(), 1);
}

#[test]
fn the_log_reads_as_what_happened() {
    let mut authority = authority(AuthorityPolicy::lab());
    enrol(&mut authority, &mut user(1), "alice", None, NOW).expect("free");
    authority.revoke(&name("alice"), NOW).expect("revokes");
    let log = authority.log(None, 100).expect("reads");
    let lines: Vec<String> = log.iter().map(|entry| entry.event.to_string()).collect();
    assert_eq!(lines[0], "authority created");
    assert!(lines[1].starts_with("signing key certified until 2028-"), "{}", lines[1]);
    assert!(lines[2].starts_with("alice given to ed25519:"), "{}", lines[2]);
    assert_eq!(lines[3], "alice revoked (list 1)");
    assert_eq!(authority.log(Some(log[3].sequence), 1).expect("reads"), log[2..3]);
}

#[test]
fn parts_may_move_between_threads() {
    fn check<T: Send>() {}
    check::<Authority>();
    check::<Store>();
    check::<LocalIdentity>();
}

#[test]
fn invites_are_needed_counted_and_end() {
    let mut authority = authority(AuthorityPolicy::default());
    let (secret, expires_at) = authority.invite(2, DAY, NOW).expect("makes an invite");
    let wrong = InviteSecret([7; 16]);
    assert_eq!(enrol(&mut authority, &mut user(1), "a", None, NOW), Err(RefusalCode::INVITE_REQUIRED));
    assert_eq!(enrol(&mut authority, &mut user(1), "a", Some(wrong), NOW), Err(RefusalCode::INVITE_UNKNOWN));
    let late = expires_at.plus_secs(1);
    assert_eq!(enrol(&mut authority, &mut user(1), "a", Some(secret), late), Err(RefusalCode::INVITE_EXPIRED));
    assert!(enrol(&mut authority, &mut user(1), "a", Some(secret), NOW).is_ok());
    assert_eq!(
        enrol(&mut authority, &mut user(2), "a", Some(secret), NOW),
        Err(RefusalCode::NAME_TAKEN),
        "a refusal uses nothing up"
    );
    assert!(enrol(&mut authority, &mut user(2), "b", Some(secret), NOW).is_ok());
    assert_eq!(enrol(&mut authority, &mut user(3), "c", Some(secret), NOW), Err(RefusalCode::INVITE_USED_UP));
    // Long after, it isn't even remembered.
    let much_later = expires_at.plus_secs(EXPIRED_INVITE_SECS + 1);
    authority.maintain(much_later).expect("maintains");
    assert_eq!(enrol(&mut authority, &mut user(3), "c", Some(secret), much_later), Err(RefusalCode::INVITE_UNKNOWN));
    assert_eq!(authority.status().expect("reads").invites, 0);
    for (uses, ttl) in [(0, DAY), (1, 0), (INVITE_USES_MAX + 1, DAY), (1, INVITE_SECS_MAX + 1)] {
        assert!(matches!(authority.invite(uses, ttl, NOW), Err(AuthorityError::InviteRange)));
    }
}

#[test]
fn a_request_is_worth_nothing_in_other_hands() {
    let mut authority = authority(AuthorityPolicy::lab());
    let (alice, mallory) = (user(1), user(2));
    let request = alice.enrol_request(authority.root(), name("alice"), None, None, NOW).expect("identity key is here");
    let refused =
        |result: Result<_, Refusal>| result.map(|_: halloo_protocol::authority::EnrolGrant| ()).expect_err("refused").code;
    // Replayed by another device.
    assert_eq!(refused(authority.enrol(&request, &asker(&mallory), NOW)), RefusalCode::INVALID_REQUEST);
    // Sent to another authority.
    let mut other = self::authority(AuthorityPolicy::lab());
    assert_eq!(refused(other.enrol(&request, &asker(&alice), NOW)), RefusalCode::INVALID_REQUEST);
    // Kept back for a day.
    assert_eq!(refused(authority.enrol(&request, &asker(&alice), NOW.plus_secs(DAY))), RefusalCode::CLOCK);
    // In somebody else's name: alice's identity, signed by mallory.
    let mut forged = request.body.unverified().clone();
    forged.device = mallory.device();
    let forged =
        EnrolRequest { body: Signed::sign(forged, mallory.identity_key().expect("here")), extensions: Extensions::none() };
    assert_eq!(refused(authority.enrol(&forged, &asker(&mallory), NOW)), RefusalCode::INVALID_REQUEST);
    // Ten minutes of clock error are nothing.
    assert!(authority.enrol(&request, &asker(&alice), NOW.plus_secs(600)).is_ok());
}

#[test]
fn a_key_hands_its_name_on_and_never_gets_it_back() {
    let mut authority = authority(AuthorityPolicy::lab());
    let first = enrol(&mut authority, &mut user(1), "alice", None, NOW).expect("free");
    let forged = succession(&authority, "alice", 1, 2, 2);
    assert_eq!(succeed(&mut authority, 2, forged, NOW), Err(RefusalCode::SUCCESSION_INVALID), "signed by the new key only");
    let other_name = succession(&authority, "bob", 1, 2, 1);
    assert_eq!(succeed(&mut authority, 2, other_name, NOW), Err(RefusalCode::SUCCESSION_INVALID));
    let for_another = succession(&authority, "alice", 1, 2, 1);
    assert_eq!(succeed(&mut authority, 3, for_another, NOW), Err(RefusalCode::SUCCESSION_INVALID));

    let valid = succession(&authority, "alice", 1, 2, 1);
    let second = succeed(&mut authority, 2, valid, NOW).expect("signed over");
    assert!(second > first.serial);
    let valid = succession(&authority, "alice", 2, 3, 2);
    assert!(succeed(&mut authority, 3, valid, NOW).expect("signed over") > second);

    // Back to a former key, even signed over by the present one.
    for former in [1, 2] {
        let back = succession(&authority, "alice", 3, former, 3);
        assert_eq!(succeed(&mut authority, former, back, NOW), Err(RefusalCode::SUCCESSION_BACK));
    }
    // The old succession again, and the old key on its own.
    let replayed = succession(&authority, "alice", 1, 2, 1);
    assert_eq!(succeed(&mut authority, 2, replayed, NOW), Err(RefusalCode::SUCCESSION_INVALID));
    assert_eq!(enrol(&mut authority, &mut user(1), "alice", None, NOW), Err(RefusalCode::NAME_TAKEN));
}

#[test]
fn certificates_are_renewed_for_the_same_key_and_place() {
    let mut authority = authority(AuthorityPolicy::lab());
    let mut alice = user(1);
    let first = enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
    assert!(!alice.renewal_due(NOW.plus_secs(29 * DAY)));
    let later = NOW.plus_secs(30 * DAY);
    assert!(alice.renewal_due(later));
    let serial = renew(&mut authority, &mut alice, later).expect("renews");
    assert!(serial > first.serial && !alice.renewal_due(later));
    let verified = alice.chain().verify(later, &trust(&authority)).expect("holds");
    assert_eq!(verified.user.placement, first.placement);
    assert_eq!(renew(&mut authority, &mut alice, later.plus_secs(60)), Ok(serial), "one a day is enough");
    // Long expired: still the owner's.
    let much_later = later.plus_secs(100 * DAY);
    assert!(alice.chain().verify(much_later, &trust(&authority)).is_err());
    assert!(renew(&mut authority, &mut alice, much_later).expect("renews") > serial);
    assert!(alice.chain().verify(much_later, &trust(&authority)).is_ok());
}

#[test]
fn renewal_is_for_the_owners_devices() {
    let (mut authority, alice) = with_alice();
    let mut mallory = user(2);
    let code = |result: Result<_, Refusal>| result.map(|_: halloo_protocol::authority::EnrolGrant| ()).expect_err("refused").code;
    // Alice's public chain over mallory's connection.
    assert_eq!(code(authority.renew(&alice.renew_request(), &asker(&mallory), NOW)), RefusalCode::INVALID_REQUEST);
    // Alice's user certificate with mallory's device.
    let mut mixed = mallory.renew_request();
    mixed.chain.user = alice.chain().user.clone();
    assert_eq!(code(authority.renew(&mixed, &asker(&mallory), NOW)), RefusalCode::INVALID_REQUEST);
    // A certificate of an authority mallory made up, for a name that is another's.
    let mut fake = open_at(&Store::in_memory().expect("memory"), AuthorityPolicy::lab(), NOW);
    enrol(&mut fake, &mut mallory, "alice", None, NOW).expect("free there");
    let UserChain::Named { signing, user, .. } = mallory.chain().user.clone() else { unreachable!("just enrolled") };
    let mut request = mallory.renew_request();
    request.chain.user = UserChain::Named { root: authority.root(), signing, user };
    assert_eq!(code(authority.renew(&request, &asker(&mallory), NOW)), RefusalCode::NAME_TAKEN);
    // No name at all.
    assert_eq!(code(authority.renew(&self::user(3).renew_request(), &asker(&self::user(3)), NOW)), RefusalCode::INVALID_REQUEST);
}

#[test]
fn a_freed_name_waits_for_its_owner() {
    let mut authority = authority(AuthorityPolicy::lab());
    let mut alice = user(1);
    let first = enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
    authority.free(&name("alice"), NOW).expect("frees");
    authority.free(&name("alice"), NOW).expect("once more changes nothing");
    assert!(matches!(authority.free(&name("nobody"), NOW), Err(RevokeError::Unknown(_))));
    assert_eq!(renew(&mut authority, &mut alice, NOW.plus_secs(31 * DAY)), Err(RefusalCode::NAME_FREED));
    assert_eq!(enrol(&mut authority, &mut user(2), "alice", None, NOW), Err(RefusalCode::NAME_FREED));
    let signed_over = succession(&authority, "alice", 1, 2, 1);
    assert_eq!(succeed(&mut authority, 2, signed_over, NOW), Err(RefusalCode::NAME_FREED));
    let back = enrol(&mut authority, &mut alice, "alice", None, NOW).expect("its own key");
    assert!(back.serial > first.serial && back.placement == first.placement);
}

#[test]
fn a_revoked_name_is_refused_everywhere_and_stays_so() {
    let (mut authority, mut alice) = with_alice();
    let mut bob = user(2);
    enrol(&mut authority, &mut bob, "bob", None, NOW).expect("free");
    let older = alice.chain().clone();
    let now = NOW.plus_secs(40 * DAY);
    renew(&mut authority, &mut alice, now).expect("renews");
    renew(&mut authority, &mut bob, now).expect("renews");

    let mut trust = trust(&authority);
    let list = authority.revoke(&name("alice"), now).expect("revokes");
    assert!(alice.chain().verify(now, &trust).is_ok(), "until the list comes");
    assert_eq!(trust.apply_revocations(&list), Ok(true));
    for chain in [alice.chain(), &older] {
        assert!(matches!(chain.verify(now, &trust), Err(ChainError::UserRevoked(_))), "every certificate that hasn't ended");
    }
    assert!(bob.chain().verify(now, &trust).is_ok());
    assert_eq!(renew(&mut authority, &mut alice, now), Err(RefusalCode::NAME_REVOKED));
    assert_eq!(enrol(&mut authority, &mut alice, "alice", None, now), Err(RefusalCode::NAME_REVOKED));
    assert_eq!(enrol(&mut authority, &mut user(3), "alice", None, now), Err(RefusalCode::NAME_REVOKED));
    let signed_over = succession(&authority, "alice", 1, 3, 1);
    assert_eq!(succeed(&mut authority, 3, signed_over, now), Err(RefusalCode::NAME_REVOKED));
    assert!(matches!(authority.free(&name("alice"), now), Err(RevokeError::Revoked(_))));
    assert!(matches!(authority.revoke(&name("nobody"), now), Err(RevokeError::Unknown(_))));
}

#[test]
fn lists_are_numbered_replace_each_other_and_empty_with_time() {
    let mut authority = authority(AuthorityPolicy::lab());
    for (number, who) in [(1, "alice"), (2, "bob")] {
        enrol(&mut authority, &mut user(number), who, None, NOW).expect("free");
    }
    let mut trust = trust(&authority);
    let first = authority.revoke(&name("alice"), NOW).expect("revokes");
    assert_eq!(authority.revoke(&name("alice"), NOW).expect("again"), first, "changes nothing");
    let second = authority.revoke(&name("bob"), NOW).expect("revokes");
    let content = |list: &SignedRevocationList| {
        let list = list.verify().expect("signed");
        (list.number, list.users.len())
    };
    assert_eq!((content(&first), content(&second)), ((1, 1), (2, 2)));
    assert_eq!(trust.apply_revocations(&second), Ok(true));
    assert_eq!(trust.apply_revocations(&first), Ok(false), "older");
    assert_eq!(trust.revocation_number(&authority.root()), 2);

    let later = NOW.plus_secs(USER_CERTIFICATE_SECS + 2 * DAY);
    enrol(&mut authority, &mut user(3), "carol", None, later).expect("free");
    let third = authority.revoke(&name("carol"), later).expect("revokes");
    assert_eq!(content(&third), (3, 1), "ended certificates fall out");

    let mut tampered = third.clone();
    tampered.list = Signed::sign(third.list.unverified().clone(), &SecretKey::from_bytes([9; 32]));
    assert!(matches!(trust.apply_revocations(&tampered), Err(ChainError::ListSignature(_))));
    assert_eq!(trust.apply_revocations(&third), Ok(true));
}

#[test]
fn open_enrolment_is_limited_per_network_and_in_total() {
    let policy = AuthorityPolicy { open_per_network_hour: 2, open_per_hour: 3, ..AuthorityPolicy::default().open(true) };
    let mut authority = authority(policy);
    let mut ask = |number: u8, address: &str, now: UnixTime| {
        let user = user(number);
        let network = NetworkGroup::of(address.parse().expect("an address"));
        let asker = Asker { device: user.device(), network };
        let wanted = name(&format!("user{number}"));
        let request = user.enrol_request(authority.root(), wanted, None, None, now).expect("identity key is here");
        authority.enrol(&request, &asker, now).map(|_| ()).map_err(|refusal| refusal.code)
    };
    assert_eq!(ask(1, "192.0.2.1", NOW), Ok(()));
    assert_eq!(ask(2, "192.0.2.2", NOW), Ok(()));
    assert_eq!(ask(3, "192.0.2.3", NOW), Err(RefusalCode::RATE_LIMITED));
    assert_eq!(ask(1, "192.0.2.1", NOW), Ok(()), "an enrolled key asking again costs nothing");
    assert_eq!(ask(4, "198.51.100.1", NOW), Ok(()));
    assert_eq!(ask(5, "203.0.113.1", NOW), Err(RefusalCode::RATE_LIMITED));
    assert_eq!(ask(5, "203.0.113.1", NOW.plus_secs(3_600)), Ok(()));
}

#[test]
fn requests_are_limited() {
    let mut authority = authority(AuthorityPolicy { requests_per_minute: 2, ..AuthorityPolicy::lab() });
    let mut alice = user(1);
    assert!(enrol(&mut authority, &mut alice, "alice", None, NOW).is_ok());
    assert!(renew(&mut authority, &mut alice, NOW).is_ok());
    assert_eq!(renew(&mut authority, &mut alice, NOW), Err(RefusalCode::RATE_LIMITED));
    assert!(renew(&mut authority, &mut alice, NOW.plus_secs(60)).is_ok());
}

#[test]
fn a_restart_keeps_everything() {
    let home = tempfile::tempdir().expect("temporary directory");
    let place = RootKeyPlace::Home(home.path().to_owned());
    let open = |now| {
        let store = Store::open(home.path()).expect("opens");
        Authority::open(store, place.clone(), AuthorityPolicy::default(), now)
    };
    let mut first = open(NOW).expect("makes an authority");
    let (secret, _) = first.invite(3, 30 * DAY, NOW).expect("makes an invite");
    let (mut alice, mut bob) = (user(1), user(2));
    enrol(&mut first, &mut alice, "alice", Some(secret), NOW).expect("invited");
    let serial = enrol(&mut first, &mut bob, "bob", Some(secret), NOW).expect("invited").serial;
    let list = first.revoke(&name("alice"), NOW).expect("revokes");
    first.set_bootstrap(vec![node(1)], NOW).expect("one node");
    let (root, log) = (first.root(), first.log(None, 100).expect("reads"));
    drop(first);

    let mut second = open(NOW.plus_secs(DAY)).expect("opens again");
    assert_eq!(second.root(), root);
    assert_eq!(second.log(None, 100).expect("reads"), log);
    assert_eq!(second.revocations(), Some(&list));
    assert_eq!(second.bootstrap().map(|list| list.list.unverified().number), Some(1));
    assert_eq!(enrol(&mut second, &mut user(3), "alice", Some(secret), NOW), Err(RefusalCode::NAME_REVOKED));
    assert_eq!(enrol(&mut second, &mut user(3), "bob", Some(secret), NOW), Err(RefusalCode::NAME_TAKEN));
    let later = NOW.plus_secs(2 * DAY);
    assert!(renew(&mut second, &mut bob, later).expect("renews") > serial);
    assert!(enrol(&mut second, &mut user(3), "carol", Some(secret), later).is_ok());
    assert_eq!(enrol(&mut second, &mut user(4), "dave", Some(secret), later), Err(RefusalCode::INVITE_USED_UP));
    let next = second.revoke(&name("carol"), later).expect("revokes");
    assert_eq!(next.list.unverified().number, 2);
}

#[test]
fn the_root_key_may_be_away_while_the_signing_certificate_lasts() {
    let home = tempfile::tempdir().expect("temporary directory");
    let place = RootKeyPlace::Home(home.path().to_owned());
    let store = Store::open(home.path()).expect("opens");
    let open = |now| Authority::open(store.clone(), place.clone(), AuthorityPolicy::lab(), now);
    let made = open(NOW).expect("makes an authority");
    assert!(made.status().expect("reads").has_root_key);
    let path = home.path().join("authority-root.key");
    let safe = home.path().join("safe");
    std::fs::rename(&path, &safe).expect("moves away");

    let day_300 = NOW.plus_secs(300 * DAY);
    let mut away = open(day_300).expect("goes on");
    let status = away.status().expect("reads");
    assert!(!status.has_root_key && !path.exists());
    assert_eq!(status.signing_not_after, made.status().expect("reads").signing_not_after);
    let mut alice = user(1);
    let verified = enrol(&mut away, &mut alice, "alice", None, day_300).expect("free");
    assert_eq!(verified.not_after, status.signing_not_after, "no certificate outlives the signing key's");

    let day_400 = NOW.plus_secs(400 * DAY);
    let error = open(day_400).expect_err("ended");
    assert!(matches!(&error, AuthorityError::SigningExpired { .. }), "{error}");
    assert!(error.to_string().contains("authority-root.key"), "{error}");
    assert_eq!(enrol(&mut away, &mut user(2), "bob", None, day_400), Err(RefusalCode::UNAVAILABLE));

    // Another authority's key in its place isn't taken for it.
    key_file::write_key(home.path(), key_file::KeyRole::AuthorityRoot, &SecretKey::from_bytes([3; 32])).expect("writes");
    assert!(matches!(open(day_400), Err(AuthorityError::OtherRootKey(_))));
    std::fs::rename(&safe, &path).expect("brings back");
    let mut back = open(day_400).expect("renews");
    assert_eq!(back.root(), made.root());
    alice.renew_device_certificate(day_400).expect("identity key is here");
    assert!(renew(&mut back, &mut alice, day_400).is_ok());
    assert!(alice.chain().verify(day_400.plus_secs(80 * DAY), &trust(&back)).is_ok());
}

#[test]
fn the_signing_certificate_renews_itself_at_half_its_time() {
    let mut authority = authority(AuthorityPolicy::lab());
    let mut alice = user(1);
    let before = authority.status().expect("reads").signing_not_after;
    enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
    authority.maintain(NOW.plus_secs(100 * DAY)).expect("nothing to do");
    assert_eq!(authority.status().expect("reads").signing_not_after, before);
    let later = NOW.plus_secs(200 * DAY);
    authority.maintain(later).expect("renews");
    assert!(authority.status().expect("reads").signing_not_after > before);
    assert!(renew(&mut authority, &mut alice, later).is_ok());
}

fn node(number: u8) -> Descriptor {
    Descriptor {
        device: DeviceKey(PublicKey([number; 32])),
        place: Place([number; 32]),
        roles: Roles::DIRECTORY,
        load: LoadClass(0),
        addresses: vec![Address::V4 { ip: [127, 0, 0, 1], port: 4_001, transport: Transport::Quic }],
    }
}

#[test]
fn bootstrap_lists_are_numbered_and_come_with_the_grant() {
    let mut authority = authority(AuthorityPolicy::lab());
    authority.set_bootstrap(vec![node(1)], NOW).expect("one node");
    authority.set_bootstrap(vec![node(1)], NOW.plus_secs(5)).expect("the same");
    assert_eq!(authority.bootstrap().map(|list| list.list.unverified().number), Some(1));
    authority.set_bootstrap(vec![node(1), node(2)], NOW).expect("two nodes");
    assert!(matches!(authority.set_bootstrap(vec![node(3); 17], NOW), Err(AuthorityError::Bootstrap(_))));
    let alice = user(1);
    let request = alice.enrol_request(authority.root(), name("alice"), None, None, NOW).expect("identity key is here");
    let grant = authority.enrol(&request, &asker(&alice), NOW).expect("free");
    let list = grant.bootstrap.expect("comes along");
    assert_eq!(list.verify().map(|list| (list.number, list.nodes.len())), Ok((2, 2)));
}

#[test]
fn a_code_carries_what_a_new_home_needs() {
    let mut authority = authority(AuthorityPolicy::default());
    let invite = authority.invite(1, DAY, NOW).expect("makes an invite");
    let me = Helper { device: DeviceKey(PublicKey([1; 32])), addresses: node(1).addresses };
    let text = authority.invite_code(Some(invite), "example", me.clone(), Vec::new()).to_text().expect("fits");
    let code = InviteCode::parse(&text).expect("own code");
    assert_eq!((code.root, &code.node, code.expires_at), (authority.root(), &me, Some(invite.1)));
    assert!(enrol(&mut authority, &mut user(1), "alice", code.secret, NOW).is_ok());
    let open = authority.invite_code(None, "example", me, Vec::new());
    assert_eq!((open.secret, open.expires_at), (None, None));
}

#[test]
fn frames_are_answered_by_kind() {
    let mut authority = authority(AuthorityPolicy::lab());
    let alice = user(1);
    let request = alice.enrol_request(authority.root(), name("alice"), None, None, NOW).expect("identity key is here");
    let answer = authority.handle_frame(&Frame::new(5, &request), &asker(&alice), NOW).expect("ours");
    assert_eq!(answer.id, 5);
    assert!(matches!(answer.parse::<EnrolAnswer>().expect("an answer").result, EnrolResult::Granted(_)));
    let other = user(2);
    let request = other.enrol_request(authority.root(), name("alice"), None, None, NOW).expect("identity key is here");
    let answer = authority.handle_frame(&Frame::new(6, &request), &asker(&other), NOW).expect("ours");
    let EnrolResult::Refused(refusal) = answer.parse::<EnrolAnswer>().expect("an answer").result else {
        panic!("a taken name was given")
    };
    assert_eq!(refusal.code, RefusalCode::NAME_TAKEN);

    let list = authority.revoke(&name("alice"), NOW).expect("revokes");
    for (root, have, expected) in
        [(authority.root(), 0, Some(list)), (authority.root(), 1, None), (AuthorityKey(PublicKey([1; 32])), 0, None)]
    {
        let request = RevocationListRequest { authority: root, have, extensions: Extensions::none() };
        let answer = authority.handle_frame(&Frame::new(7, &request), &asker(&other), NOW).expect("ours");
        assert_eq!(answer.parse::<RevocationListAnswer>().expect("an answer").list, expected);
    }
    let garbage = Frame { kind: EnrolRequest::KIND, id: 8, body: vec![1, 2, 3] };
    assert_eq!(authority.handle_frame(&garbage, &asker(&other), NOW), Some(unsupported(8)));
    let foreign = Frame { kind: FrameKind(0x0010), id: 9, body: Vec::new() };
    assert_eq!(authority.handle_frame(&foreign, &asker(&other), NOW), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_frames_are_answered_and_never_panic(kind in 0x0050u16..0x0053, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut authority = authority(AuthorityPolicy::lab());
        let asker = Asker { device: DeviceKey(PublicKey([1; 32])), network: None };
        let frame = Frame { kind: FrameKind(kind), id: 1, body };
        prop_assert!(authority.handle_frame(&frame, &asker, NOW).is_some());
    }
}
