use data_encoding::BASE64URL_NOPAD;
use halloo_protocol::authority::CertifyWish;
use halloo_protocol::directory::Place;
use halloo_protocol::identity::{
    ChainError, KeySuccession, KeySuccessionParams, RevokedSerial, TrustStore, USER_CERTIFICATE_SECS, UserChain, UserId,
    Username, VerifiedUser,
};
use halloo_protocol::key::{AuthorityKey, IdentityKey, PublicKey};
use halloo_protocol::linked::{
    ADDRESS_WORD_SECS_MAX, AddressProof, AddressWord, Association, AssociationParams, Indicator, LinkedId, ProofMethod,
    ProviderKey, ProviderToken, Providers, TrustedProofs, TrustedProvider, nonce_for,
};
use halloo_protocol::node::{Address, LoadClass, Roles, Transport};
use proptest::prelude::*;
use serde_json::json;

use super::proofs::ProofIssuer;
use super::*;
use crate::identity::LocalIdentity;

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

/// Asks for a certificate that hints at an identity elsewhere, or no more; the hints of the one that comes.
fn wish(
    authority: &mut Authority,
    user: &mut LocalIdentity,
    id: &str,
    is_wanted: bool,
    now: UnixTime,
) -> Result<Vec<Indicator>, RefusalCode> {
    let (id, extensions) = (id.parse().expect("an address"), Extensions::none());
    let wish = CertifyWish { id, is_wanted, association: None, proof: Vec::new(), extensions };
    let request = RenewRequest { extensions: wish.add_to(Extensions::none()), ..user.renew_request() };
    let grant = authority.renew(&request, &asker(user), now).map_err(|refusal| refusal.code)?;
    let verified = grant.verify(&user.user_id(), &user.identity(), now, &trust(authority)).expect("what was asked for");
    user.set_user_chain(grant.chain).expect("own identity");
    Ok(verified.indicators)
}

#[test]
fn certificates_hint_at_what_the_operator_knows_and_the_user_wishes() {
    let mut authority = authority(AuthorityPolicy::lab());
    let (mut alice, mut mallory) = (user(1), user(2));
    enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
    enrol(&mut authority, &mut mallory, "mallory", None, NOW).expect("free");
    let hint = |number: u8| Indicator([number; 16]);
    let id = |number: u8| format!("xmpp:alice{number}@there.example");
    let certify = |authority: &mut Authority, number: u8, indicator: Option<Indicator>| {
        authority.certify(&name("alice"), &id(number).parse().expect("an address"), indicator, NOW)
    };
    assert_eq!(wish(&mut authority, &mut alice, &id(0), true, NOW), Err(RefusalCode::NOT_PROVED));
    certify(&mut authority, 0, Some(hint(0))).expect("known");
    // The operator's word alone says nothing to others, and hers is nobody else's.
    let renewed = authority.renew(&alice.renew_request(), &asker(&alice), NOW).expect("renews");
    let UserChain::Named { user: certificate, .. } = renewed.chain else { panic!("named") };
    assert_eq!(certificate.unverified().indicators(), []);
    assert_eq!(wish(&mut authority, &mut mallory, &id(0), true, NOW), Err(RefusalCode::NOT_PROVED));
    assert_eq!(wish(&mut authority, &mut alice, &id(0), true, NOW), Ok(vec![hint(0)]));
    // It stays so, from one certificate to the next.
    renew(&mut authority, &mut alice, NOW.plus_secs(31 * DAY)).expect("renews");
    let UserChain::Named { user: certificate, .. } = &alice.chain().user else { panic!("named") };
    assert_eq!(certificate.unverified().indicators(), [hint(0)]);
    // A certificate has room for four, and an authority knows eight.
    for number in 1..8 {
        certify(&mut authority, number, Some(hint(number))).expect("room");
        let wished = wish(&mut authority, &mut alice, &id(number), true, NOW.plus_secs(31 * DAY));
        assert_eq!(wished.is_ok(), number < 4, "{number}");
    }
    assert!(matches!(certify(&mut authority, 8, Some(hint(8))), Err(certify::CertifyError::TooMany)));
    let left = wish(&mut authority, &mut alice, &id(1), false, NOW.plus_secs(31 * DAY)).expect("granted");
    assert_eq!(left, [hint(0), hint(2), hint(3)]);
    // What the operator takes back is in no certificate after that.
    let list = certify(&mut authority, 0, None).expect("known").expect("certificates hint at it");
    let mut heard = trust(&authority);
    heard.apply_revocations(&list).expect("the authority's");
    let verified = alice.chain().user.verify(NOW.plus_secs(31 * DAY), &heard).expect("she is who she was");
    assert_eq!(verified.indicators, [], "nor does what she has");
    let left = wish(&mut authority, &mut alice, &id(1), false, NOW.plus_secs(31 * DAY)).expect("granted");
    assert_eq!(left, [hint(2), hint(3)]);
    // Each change is another certificate: they are few in a day, and there is another day.
    let today = NOW.plus_secs(31 * DAY);
    let mut turned = 0;
    while wish(&mut authority, &mut alice, &id(2), turned % 2 == 1, today).is_ok() {
        turned += 1;
        assert!(turned < 20, "a day has an end");
    }
    assert_eq!(wish(&mut authority, &mut alice, &id(2), turned % 2 == 1, today), Err(RefusalCode::RATE_LIMITED));
    assert!(turned >= 4, "{turned}: nobody is held up who changes their mind");
    assert!(wish(&mut authority, &mut alice, &id(2), true, today.plus_secs(DAY)).is_ok());
    let unknown = authority.certify(&name("nobody"), &id(0).parse().expect("an address"), Some(hint(0)), NOW);
    assert!(matches!(unknown, Err(certify::CertifyError::Unknown)));
}

fn mail(text: &str) -> LinkedId {
    format!("mailto:{text}@there.example").parse().expect("an address")
}

/// What an authority says of who has shown a code.
fn word(authority: &Authority, user: &LocalIdentity, linked: &LinkedId, now: UnixTime) -> Vec<u8> {
    let word = AddressWord {
        user: user.user_id(),
        identity: user.identity(),
        linked: linked.clone(),
        not_before: now,
        not_after: now.plus_secs(ADDRESS_WORD_SECS_MAX),
        extensions: Extensions::none(),
    };
    let (signing, word) = (authority.signing.clone(), Signed::sign(word, &authority.signing_key));
    AddressProof { authority: authority.root(), signing, word, extensions: Extensions::none() }.to_bytes()
}

fn says(user: &LocalIdentity, linked: &LinkedId, now: UnixTime) -> Signed<Association> {
    let method = ProofMethod::AUTHORITY_WORD;
    let params = AssociationParams { user: user.user_id(), linked: linked.clone(), method, last_serial: 0, now };
    user.associate(params, None, false).expect("the identity key is here")
}

fn wish_for(user: &LocalIdentity, id: &LinkedId, association: Signed<Association>, proof: Vec<u8>) -> RenewRequest {
    let (id, association) = (id.clone(), Some(association));
    let wish = CertifyWish { id, is_wanted: true, association, proof, extensions: Extensions::none() };
    RenewRequest { extensions: wish.add_to(Extensions::none()), ..user.renew_request() }
}

/// Asks as a node does, which looks at proofs first; by its own authority's words alone.
fn ask_proved(
    authority: &mut Authority,
    user: &mut LocalIdentity,
    request: &RenewRequest,
    hint: Indicator,
    now: UnixTime,
) -> Result<VerifiedUser, Refusal> {
    ask_trusting(authority, user, request, &Providers::new(), hint, now)
}

/// The same by these providers' tokens too.
fn ask_trusting(
    authority: &mut Authority,
    user: &mut LocalIdentity,
    request: &RenewRequest,
    providers: &Providers,
    hint: Indicator,
    now: UnixTime,
) -> Result<VerifiedUser, Refusal> {
    let trust = trust(authority);
    let trusted = TrustedProofs { providers, authorities: &trust };
    if let Some(proved) = authority.judge_wish(request, &asker(user), trusted, now)? {
        authority.prove(&proved.name, &proved.id, hint, (proved.until, proved.issuer), now).expect("room");
    }
    let grant = authority.renew(request, &asker(user), now)?;
    let verified = grant.verify(&user.user_id(), &user.identity(), now, &trust).expect("what was asked for");
    user.set_user_chain(grant.chain).expect("own identity");
    Ok(verified)
}

const HINT: Indicator = Indicator([7; 16]);

/// Alice has enrolled and shows that a mail address is hers.
fn alice_with_a_proof() -> (Authority, LocalIdentity, LinkedId, RenewRequest) {
    let mut authority = authority(AuthorityPolicy::lab());
    let mut alice = user(1);
    enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
    let id = mail("alice");
    let proof = word(&authority, &alice, &id, NOW);
    let request = wish_for(&alice, &id, says(&alice, &id, NOW), proof);
    (authority, alice, id, request)
}

#[test]
fn a_proof_that_stands_by_itself_is_hinted_at_as_long_as_it_counts() {
    let (mut authority, mut alice, id, request) = alice_with_a_proof();
    let granted = ask_proved(&mut authority, &mut alice, &request, HINT, NOW).expect("proved");
    assert_eq!(granted.indicators, [HINT]);
    let ends = |user: &LocalIdentity| user.not_after();
    assert!(ends(&alice) <= NOW.plus_secs(ADDRESS_WORD_SECS_MAX));
    let log = authority.log(None, 100).expect("reads");
    assert!(log.iter().any(|entry| entry.event.to_string().contains("mailto:alice@there.example")), "the operator sees it");
    // Renewed without a wish it stays, and ends with what shows it, however late that is.
    let later = NOW.plus_secs(60 * DAY);
    renew(&mut authority, &mut alice, later).expect("renews");
    let hints = |user: &LocalIdentity| match &user.chain().user {
        UserChain::Named { user, .. } => user.unverified().indicators(),
        UserChain::Key(_) => panic!("named"),
    };
    assert_eq!(hints(&alice), [HINT]);
    let until = NOW.minus_secs(3_600).plus_secs(90 * DAY);
    assert!(ends(&alice) <= until && ends(&alice) >= until.minus_secs(DAY), "{}", ends(&alice));
    // In its last week there is none, and the certificate lasts as long as others.
    renew(&mut authority, &mut alice, NOW.plus_secs(84 * DAY)).expect("renews");
    assert_eq!(hints(&alice), []);
    assert!(ends(&alice) > NOW.plus_secs(84 * DAY + USER_CERTIFICATE_SECS / 2));
    // A newer proof brings it back.
    let now = NOW.plus_secs(85 * DAY);
    let proof = word(&authority, &alice, &id, now);
    let request = wish_for(&alice, &id, says(&alice, &id, now), proof);
    assert_eq!(ask_proved(&mut authority, &mut alice, &request, HINT, now).expect("proved").indicators, [HINT]);
}

#[test]
fn a_hint_ends_with_the_word_that_shows_it() {
    let mut authority = authority(AuthorityPolicy::lab());
    let mut alice = user(1);
    enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
    let id = mail("alice");
    let mut proof = AddressProof::read(&word(&authority, &alice, &id, NOW)).expect("just made");
    let until = NOW.plus_secs(10 * DAY);
    let short = AddressWord { not_after: until, ..proof.word.unverified().clone() };
    proof.word = Signed::sign(short, &authority.signing_key);
    let request = wish_for(&alice, &id, says(&alice, &id, NOW), proof.to_bytes());
    let granted = ask_proved(&mut authority, &mut alice, &request, HINT, NOW).expect("proved");
    assert_eq!(granted.indicators, [HINT]);
    assert!(alice.not_after() <= until, "{}", alice.not_after());
}

#[test]
fn what_was_proved_of_a_key_ends_when_the_name_goes_to_another() {
    let mut authority = authority(AuthorityPolicy::lab());
    let mut alice = user(1);
    enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
    let (proved, certified) = (mail("alice"), mail("alice.office"));
    let proof = word(&authority, &alice, &proved, NOW);
    let request = wish_for(&alice, &proved, says(&alice, &proved, NOW), proof);
    assert_eq!(ask_proved(&mut authority, &mut alice, &request, HINT, NOW).expect("proved").indicators, [HINT]);
    let by_operator = Indicator([8; 16]);
    authority.certify(&name("alice"), &certified, Some(by_operator), NOW).expect("the operator's word");
    wish(&mut authority, &mut alice, &certified.to_string(), true, NOW).expect("certified");
    let signed_over = succession(&authority, "alice", 1, 2, 1);
    succeed(&mut authority, 2, signed_over, NOW).expect("hers");
    let hints = |authority: &Authority| {
        authority.store.read::<_, StoreError>(|view| super::certify::wanted(view, &name("alice"), NOW)).expect("reads").indicators
    };
    assert_eq!(hints(&authority), [by_operator]);
}

#[test]
fn what_proves_nothing_is_refused_and_says_why() {
    let mut authority = authority(AuthorityPolicy::lab());
    let other = open_at(&Store::in_memory().expect("memory"), AuthorityPolicy::lab(), NOW);

    let (mut alice, mut mallory) = (user(1), user(2));
    enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
    enrol(&mut authority, &mut mallory, "mallory", None, NOW).expect("free");
    let (id, old) = (mail("alice"), NOW.minus_secs(91 * DAY));
    let good = word(&authority, &alice, &id, NOW);
    let (said, hers) = (says(&alice, &id, NOW), word(&authority, &mallory, &id, NOW));
    let forged = Signed::sign(said.unverified().clone(), &SecretKey::from_bytes([2; 32]));
    let ends_soon = says(&alice, &id, NOW.minus_secs(84 * DAY));
    for (what, association, proof, id, says_why) in [
        ("somebody else's association", says(&mallory, &id, NOW), hers.clone(), &id, "somebody else's"),
        ("signed by somebody else", forged, good.clone(), &id, "association"),
        ("about another identity", said.clone(), good.clone(), &mail("bob"), "another identity"),
        ("an association that is over", says(&alice, &id, old), good.clone(), &id, "ended"),
        ("a proof for somebody else", said.clone(), hers, &id, "another user"),
        ("a proof that is over", said.clone(), word(&authority, &alice, &id, old), &id, "time"),
        ("an authority that isn't trusted", said.clone(), word(&other, &alice, &id, NOW), &id, "trusted"),
        ("no proof of the kind", said.clone(), vec![1, 2, 3], &id, "read"),
        ("one that ends within a week", ends_soon, good.clone(), &id, "week"),
    ] {
        let request = wish_for(&alice, id, association, proof);
        let refused = ask_proved(&mut authority, &mut alice, &request, HINT, NOW).expect_err(what);
        assert_eq!(refused.code, RefusalCode::NOT_PROVED, "{what}: {refused}");
        assert!(refused.detail.contains(says_why) && refused.detail.contains("operator"), "{what}: {refused}");
    }
    let renewed = authority.renew(&alice.renew_request(), &asker(&alice), NOW).expect("renews");
    let UserChain::Named { user: certificate, .. } = renewed.chain else { panic!("named") };
    assert_eq!(certificate.unverified().indicators(), []);
    // Another device's request with a proof of hers isn't judged at all.
    let request = wish_for(&alice, &id, said, good);
    let refused = ask_proved(&mut authority, &mut mallory, &request, HINT, NOW).expect_err("not her device");
    assert_eq!(refused.code, RefusalCode::INVALID_REQUEST);
}

/// A token as a provider signs it for who has logged in.
fn token(user: &LocalIdentity, linked: &LinkedId, client: &str, issued: UnixTime) -> Vec<u8> {
    let (salt, part) = ([5; 16], |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes));
    let (issuer, subject) = linked.address().split_once('#').expect("of a provider");
    let claims = json!({
        "iss": issuer, "sub": subject, "aud": client, "iat": issued.0, "exp": issued.0 + 3_600,
        "nonce": nonce_for(&user.user_id(), &user.identity(), &salt),
    });
    let header = json!({"alg": "EdDSA", "kid": "k1"}).to_string();
    let message = format!("{}.{}", part(header.as_bytes()), part(claims.to_string().as_bytes()));
    let signature = SecretKey::from_bytes([9; 32]).sign(message.as_bytes());
    ProviderToken::of_jwt(&format!("{message}.{}", part(&signature.0)), salt).expect("small").to_bytes()
}

/// A provider whose tokens for these applications are taken.
fn provider_for(client: &str) -> Providers {
    let key = BASE64URL_NOPAD.encode(SecretKey::from_bytes([9; 32]).public().as_bytes());
    let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": key});
    let keys = vec![ProviderKey::of_jwk(&key, NOW).expect("a key")];
    let provider = TrustedProvider { clients: [client.to_owned()].into(), keys, ..TrustedProvider::default() };
    Providers::from([("https://id.example".to_owned(), provider)])
}

#[test]
fn a_providers_token_is_hinted_at_where_its_provider_is_trusted_and_while_it_counts() {
    let mut authority = authority(AuthorityPolicy::lab());
    let (mut alice, mallory) = (user(1), user(2));
    enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
    let id: LinkedId = "oidc:https://id.example#alice".parse().expect("an identity");
    let method = ProofMethod::PROVIDER_TOKEN;
    let params = AssociationParams { user: alice.user_id(), linked: id.clone(), method, last_serial: 0, now: NOW };
    let said = alice.associate(params, None, false).expect("the identity key is here");
    let (good, halloo) = (token(&alice, &id, "halloo", NOW), provider_for("halloo"));
    for (what, providers, proof, says_why) in [
        ("a provider that isn't trusted", Providers::new(), good.clone(), "isn't trusted here"),
        ("an application that isn't", provider_for("game"), good.clone(), "application"),
        ("a token that is over", halloo.clone(), token(&alice, &id, "halloo", NOW.minus_secs(91 * DAY)), "time"),
        ("somebody else's token", halloo.clone(), token(&mallory, &id, "halloo", NOW), "another user"),
    ] {
        let request = wish_for(&alice, &id, said.clone(), proof);
        let refused = ask_trusting(&mut authority, &mut alice, &request, &providers, HINT, NOW).expect_err(what);
        assert_eq!(refused.code, RefusalCode::NOT_PROVED, "{what}: {refused}");
        assert!(refused.detail.contains(says_why), "{what}: {refused}");
    }
    let request = wish_for(&alice, &id, said, good);
    let granted = ask_trusting(&mut authority, &mut alice, &request, &halloo, HINT, NOW).expect("proved");
    assert_eq!(granted.indicators, [HINT]);
    let own = trust(&authority);
    let drop_by = |authority: &mut Authority, providers: &Providers| {
        let trusted = TrustedProofs { providers, authorities: &own };
        authority.drop_untrusted(|issuer| issuer.is_trusted(trusted), NOW).expect("written")
    };
    assert_eq!(drop_by(&mut authority, &halloo), None);
    assert!(drop_by(&mut authority, &Providers::new()).is_some(), "it isn't in the configuration any more");
}

#[test]
fn the_operators_word_goes_before_a_proof() {
    let (mut authority, mut alice, id, request) = alice_with_a_proof();
    assert_eq!(ask_proved(&mut authority, &mut alice, &request, HINT, NOW).expect("proved").indicators, [HINT]);
    authority.certify(&name("alice"), &id, None, NOW).expect("known");
    let refused = ask_proved(&mut authority, &mut alice, &request, HINT, NOW).expect_err("taken back");
    assert!(refused.code == RefusalCode::NOT_PROVED && refused.detail.contains("taken it back"), "{refused}");
    assert!(matches!(
        authority.prove(
            &name("alice"),
            &id,
            HINT,
            (NOW.plus_secs(80 * DAY), ProofIssuer::Authority(AuthorityKey(PublicKey([1; 32])))),
            NOW
        ),
        Err(certify::CertifyError::TakenBack)
    ));
    renew(&mut authority, &mut alice, NOW).expect("renews");
    let UserChain::Named { user: certificate, .. } = &alice.chain().user else { panic!("named") };
    assert_eq!(certificate.unverified().indicators(), []);
    // What the operator certifies lasts without end, and needs no proof.
    authority.certify(&name("alice"), &id, Some(HINT), NOW).expect("known");
    let later = NOW.plus_secs(200 * DAY);
    assert_eq!(wish(&mut authority, &mut alice, &id.to_string(), true, later), Ok(vec![HINT]));
    assert!(alice.not_after() > later.plus_secs(USER_CERTIFICATE_SECS / 2));
    // Proofs that are over make room for others.
    let mut bob = user(3);
    enrol(&mut authority, &mut bob, "bob", None, NOW).expect("free");
    let prove = |authority: &mut Authority, number: u32, now: UnixTime| {
        let issuer = ProofIssuer::Authority(authority.root());
        authority.prove(&name("bob"), &mail(&format!("b{number}")), HINT, (now.plus_secs(30 * DAY), issuer), now)
    };
    assert_eq!((0..20).filter(|number| prove(&mut authority, *number, NOW).is_ok()).count(), 8);
    assert!(prove(&mut authority, 30, NOW.plus_secs(31 * DAY)).is_ok());
}

/// Who doesn't trust an issuer any more says so to everybody at once, and issues no such certificate again.
#[test]
fn hints_by_the_word_of_whom_nobody_trusts_any_more_count_no_more() {
    let (mut authority, mut alice, id, request) = alice_with_a_proof();
    assert_eq!(ask_proved(&mut authority, &mut alice, &request, HINT, NOW).expect("proved").indicators, [HINT]);
    let own = authority.root();
    let (certified, by_operator) = (mail("alice.office"), Indicator([8; 16]));
    authority.certify(&name("alice"), &certified, Some(by_operator), NOW).expect("the operator's word");
    wish(&mut authority, &mut alice, &certified.to_string(), true, NOW).expect("certified");
    let trusting = authority.drop_untrusted(|issuer| *issuer == ProofIssuer::Authority(own), NOW).expect("reads");
    assert_eq!(trusting, None);

    let list = authority.drop_untrusted(|_| false, NOW).expect("written").expect("a certificate hints at it");
    let mut heard = trust(&authority);
    let before = alice.chain().user.verify(NOW, &heard).expect("good");
    assert_eq!((before.indicators.len(), heard.indicators(&before).len()), (2, 2));
    assert_eq!(heard.apply_revocations(&list), Ok(true));
    let verified = alice.chain().user.verify(NOW, &heard).expect("she is who she was");
    assert!(verified.indicators.is_empty() && heard.indicators(&before).is_empty(), "of whom was verified before, too");
    // Her next certificate says what still counts.
    renew(&mut authority, &mut alice, NOW.plus_secs(31 * DAY)).expect("renews");
    let verified = alice.chain().user.verify(NOW.plus_secs(31 * DAY), &heard).expect("good");
    assert_eq!(verified.indicators, [by_operator]);
    assert_eq!(authority.drop_untrusted(|_| false, NOW).expect("reads"), None, "once");
    // Who is revoked has no hints to take back, and a later list says the same of others.
    let later = authority.revoke(&name("alice"), NOW.plus_secs(32 * DAY)).expect("revokes");
    assert_eq!(later.list.unverified().hints(), []);
    assert_eq!(id, mail("alice"));
}

/// Who wished for a hint and then wished otherwise still has the certificate that hints.
#[test]
fn what_is_taken_back_counts_no_more_in_certificates_from_before_a_wish_to_the_contrary() {
    let mut authority = authority(AuthorityPolicy::lab());
    let mut alice = user(1);
    enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
    let id = mail("alice.office");
    authority.certify(&name("alice"), &id, Some(HINT), NOW).expect("the operator's word");
    wish(&mut authority, &mut alice, &id.to_string(), true, NOW).expect("certified");
    let hinting = alice.chain().user.clone();
    wish(&mut authority, &mut alice, &id.to_string(), false, NOW).expect("as she likes");
    let mut heard = trust(&authority);
    assert_eq!(hinting.verify(NOW, &heard).expect("good").indicators, [HINT]);
    let list = authority.certify(&name("alice"), &id, None, NOW).expect("taken back").expect("a certificate hints at it");
    assert_eq!(heard.apply_revocations(&list), Ok(true));
    assert_eq!(hinting.verify(NOW, &heard).expect("she is who she was").indicators, []);
}

#[test]
fn hints_that_are_taken_back_leave_room_for_names_that_are() {
    let mut authority = authority(AuthorityPolicy::lab());
    enrol(&mut authority, &mut user(1), "alice", None, NOW).expect("free");
    let hints = (0..20_000_u64).map(|serial| RevokedSerial { serial: serial << 32, until: NOW.plus_secs(serial) });
    let list = authority.next_list(&[], &hints.collect::<Vec<_>>(), NOW).expect("as many as fit");
    let kept = list.list.unverified().hints();
    assert!(kept.len() > 1_000 && kept.iter().any(|hint| hint.until == NOW.plus_secs(19_999)), "{} are kept", kept.len());
    authority.revocations = Some(list);
    let mallory = (0..1_000_u64).map(|serial| RevokedSerial { serial: u64::MAX - serial, until: NOW.plus_secs(DAY) });
    let list = authority.next_list(&mallory.collect::<Vec<_>>(), &[], NOW).expect("there is room");
    assert_eq!(list.list.unverified().users.len(), 1_000);
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
    let mut authority = authority(AuthorityPolicy::lab());
    let (mut alice, mut mallory) = (user(1), user(2));
    enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
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
    let mut authority = authority(AuthorityPolicy::lab());
    let (mut alice, mut bob) = (user(1), user(2));
    enrol(&mut authority, &mut alice, "alice", None, NOW).expect("free");
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
