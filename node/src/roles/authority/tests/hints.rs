//! Hints in certificates: what the operator says, what proofs say, and how each is taken back.

use data_encoding::BASE64URL_NOPAD;
use halloo_protocol::authority::CertifyWish;
use halloo_protocol::identity::{RevokedSerial, USER_CERTIFICATE_SECS, UserChain};
use halloo_protocol::linked::{
    ADDRESS_WORD_SECS_MAX, AddressProof, AddressWord, Association, AssociationParams, Indicator, LinkedId, ProofMethod,
    ProviderKey, ProviderToken, Providers, TrustedProofs, TrustedProvider, nonce_for,
};
use serde_json::json;

use super::super::proofs::ProofIssuer;
use super::*;
use crate::identity::LocalIdentity;

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
    let (mut authority, mut alice) = with_alice();
    let mut mallory = user(2);
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
    let (authority, alice) = with_alice();
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
    let (mut authority, mut alice) = with_alice();
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
    let (mut authority, mut alice) = with_alice();
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
        authority
            .store
            .read::<_, StoreError>(|view| super::super::certify::wanted(view, &name("alice"), NOW))
            .expect("reads")
            .indicators
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
    let (mut authority, mut alice) = with_alice();
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
