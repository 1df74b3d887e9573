//! Proofs that stand by themselves: the trust decision over everything that can be the case, and attacks.

use std::collections::BTreeSet;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::rand::SystemRandom;
use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

use super::*;
use crate::contact::privacy::{self, Audience, Kind, PrivacySettings, Relation};
use crate::identity::{SigningCertificate, TrustStore, UserId};
use crate::key::{AuthorityKey, IdentityKey, SecretKey};
use crate::test_identity::NOW;
use crate::time::UnixTime;
use crate::wire::{self, Extensions, Signed};

const ALICE: u8 = 1;
const MALLORY: u8 = 2;
const ISSUER: &str = "https://id.example";
const OTHER_ISSUER: &str = "https://other.example";
const SALT: [u8; 16] = [9; 16];

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes([seed; 32])
}

fn identity(seed: u8) -> IdentityKey {
    IdentityKey(key(seed).public())
}

fn user(seed: u8) -> UserId {
    UserId::Key(identity(seed))
}

fn id(text: &str) -> LinkedId {
    text.parse().expect("an identity")
}

fn alice() -> LinkedId {
    id("oidc:https://id.example#alice")
}

fn bob() -> LinkedId {
    id("oidc:https://id.example#bob")
}

/// Signs tokens as providers do.
enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn rsa() -> Self {
        let pem = include_str!("rfc7515-a2.pem");
        let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = BASE64.decode(text.as_bytes()).expect("base64");
        Self::Rsa(RsaKeyPair::from_pkcs8(&der).expect("the key of RFC 7515 appendix A.2"))
    }

    fn p256() -> Self {
        let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).expect("randomness");
        Self::P256(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &SystemRandom::new()).expect("a key"))
    }

    fn ed25519(seed: u8) -> Self {
        Self::Ed25519(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a key"))
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    /// The key as a provider publishes it.
    fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        match self {
            Self::Rsa(pair) => {
                let public: ring::signature::RsaPublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "kid": kid, "use": "sig", "n": text(&public.n), "e": text(&public.e)})
            }
            Self::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(pair.public_key().as_ref())})
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("signed");
                signature
            }
            Self::P256(pair) => pair.sign(&SystemRandom::new(), message).expect("signed").as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    fn jwt(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let message = format!("{}.{}", part(header), part(claims));
        format!("{message}.{}", BASE64URL_NOPAD.encode(&self.sign(message.as_bytes())))
    }
}

fn claims_of(seed: u8) -> Value {
    let nonce = nonce_for(&user(seed), &identity(seed), &SALT);
    json!({"iss": ISSUER, "sub": "alice", "aud": "halloo", "iat": NOW.0 - 60, "exp": NOW.0 + 3_540, "nonce": nonce})
}

fn with(claim: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims_of(ALICE);
    claims[claim] = value.into();
    claims
}

fn without(claim: &str) -> Value {
    let mut claims = claims_of(ALICE);
    claims.as_object_mut().expect("an object").remove(claim);
    claims
}

fn proof(signer: &Signer, claims: &Value) -> Vec<u8> {
    let header = json!({"alg": signer.algorithm(), "kid": "k1"});
    ProviderToken::of_jwt(&signer.jwt(&header, claims), SALT).expect("a token").to_bytes()
}

/// A token whose header says something else than its key is for.
fn proof_under(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let text = |value: &Value| value.to_string().into_bytes();
    let (header, claims) = (text(header), text(claims));
    let message = format!("{}.{}", BASE64URL_NOPAD.encode(&header), BASE64URL_NOPAD.encode(&claims));
    let signature = sign(message.as_bytes());
    ProviderToken { salt: SALT, header, claims, signature, extensions: Extensions::none() }.to_bytes()
}

fn provider(signer: &Signer, kid: &str, seen_at: UnixTime) -> TrustedProvider {
    TrustedProvider {
        clients: BTreeSet::from(["halloo".to_owned(), "halloo-web".to_owned()]),
        mail_domains: BTreeSet::from(["id.example".to_owned()]),
        keys: vec![ProviderKey::of_jwk(&signer.jwk(kid), seen_at).expect("a key")],
    }
}

fn providers(signer: &Signer) -> Providers {
    Providers::from([
        (ISSUER.to_owned(), provider(signer, "k1", NOW)),
        (OTHER_ISSUER.to_owned(), provider(&Signer::ed25519(77), "other", NOW)),
    ])
}

fn said(seed: u8, linked: LinkedId, method: ProofMethod, now: UnixTime) -> Signed<Association> {
    Association::sign(AssociationParams { user: user(seed), linked, method, last_serial: 0, now }, &key(seed))
}

fn by_token(seed: u8) -> Signed<Association> {
    said(seed, alice(), ProofMethod::PROVIDER_TOKEN, NOW)
}

fn verified(association: &Signed<Association>, proof: Option<&[u8]>, providers: &Providers) -> Result<UnixTime, ProofError> {
    let trusted = TrustedProofs { providers, authorities: &TrustStore::new() };
    verify_proof(association.unverified(), proof, trusted, NOW)
}

/// The provider's three kinds of signature hold, and what was changed, moved or made for something else doesn't.
#[test]
fn tokens_and_attacks_on_them() {
    for signer in [Signer::rsa(), Signer::p256(), Signer::ed25519(5)] {
        let (trusted, good) = (providers(&signer), by_token(ALICE));
        let check = |proof: &[u8]| verified(&good, Some(proof), &trusted);
        assert_eq!(check(&proof(&signer, &claims_of(ALICE))), Ok(UnixTime(NOW.0 - 60)));
        assert_eq!(check(&proof(&signer, &with("aud", json!(["halloo"])))), Ok(UnixTime(NOW.0 - 60)));
        let kinds = [
            ("for another identity here", proof(&signer, &claims_of(MALLORY)), ProofError::OtherUser),
            ("a nonce of the attacker's", proof(&signer, &with("nonce", "n-1")), ProofError::OtherUser),
            ("no nonce", proof(&signer, &without("nonce")), ProofError::OtherUser),
            ("another application", proof(&signer, &with("aud", "game")), ProofError::Audience),
            ("no application", proof(&signer, &with("aud", json!([]))), ProofError::Audience),
            ("several applications", proof(&signer, &with("aud", json!(["halloo", "game"]))), ProofError::Audience),
            ("asked for by another", proof(&signer, &with("azp", "game")), ProofError::Audience),
            ("somebody else's account", proof(&signer, &with("sub", "mallory")), ProofError::OtherIdentity),
            ("another issuer's key", proof(&signer, &with("iss", OTHER_ISSUER)), ProofError::Key),
            ("an issuer that nobody trusts", proof(&signer, &with("iss", "https://evil.example")), ProofError::Issuer),
            ("from the future", proof(&signer, &with("iat", NOW.0 + 3_000)), ProofError::Time),
            ("over before it began", proof(&signer, &with("exp", NOW.0 - 61)), ProofError::Time),
            ("over before the association", proof(&signer, &with("exp", NOW.0 - 4_000)), ProofError::Time),
            ("without an end", proof(&signer, &without("exp")), ProofError::Unreadable),
            ("without a subject", proof(&signer, &without("sub")), ProofError::Unreadable),
            ("no token", vec![1, 2, 3], ProofError::Unreadable),
        ];
        for (attack, proof, fault) in kinds {
            assert_eq!(check(&proof), Err(fault), "{}: {attack}", signer.algorithm());
        }
        let mut forged = ProviderToken::read(&proof(&signer, &claims_of(MALLORY))).expect("a token");
        forged.claims = claims_of(ALICE).to_string().into_bytes();
        assert_eq!(check(&forged.to_bytes()), Err(ProofError::Signature));
        assert_eq!(verified(&good, None, &trusted), Err(ProofError::Missing));
        // Alice's own token with Mallory's word beside it.
        assert_eq!(verified(&by_token(MALLORY), Some(&proof(&signer, &claims_of(ALICE))), &trusted), Err(ProofError::OtherUser));
    }
}

#[test]
fn the_way_of_signing_is_the_keys_to_say() {
    let signer = Signer::rsa();
    let (trusted, good) = (providers(&signer), by_token(ALICE));
    let public = signer.jwk("k1")["n"].to_string();
    let hmac = |message: &[u8]| crate::key::hash(&public, &[message]).to_vec();
    for header in [
        json!({"alg": "none", "kid": "k1"}),
        json!({"alg": "none"}),
        json!({"alg": "HS256", "kid": "k1"}),
        json!({"alg": "ES256", "kid": "k1"}),
        json!({"alg": "RS512", "kid": "k1"}),
    ] {
        for signed in [proof_under(&header, &claims_of(ALICE), hmac), proof_under(&header, &claims_of(ALICE), |_| Vec::new())] {
            assert_eq!(verified(&good, Some(&signed), &trusted), Err(ProofError::Algorithm), "{header}");
        }
    }
    let sign = |message: &[u8]| signer.sign(message);
    let unknown = proof_under(&json!({"alg": "RS256", "kid": "k2"}), &claims_of(ALICE), sign);
    assert_eq!(verified(&good, Some(&unknown), &trusted), Err(ProofError::Key));
    let critical = proof_under(&json!({"alg": "RS256", "kid": "k1", "crit": ["b64"]}), &claims_of(ALICE), sign);
    assert_eq!(verified(&good, Some(&critical), &trusted), Err(ProofError::Unreadable));
    let unnamed = proof_under(&json!({"alg": "RS256"}), &claims_of(ALICE), sign);
    assert!(verified(&good, Some(&unnamed), &trusted).is_ok(), "every key of the provider is tried");
    // Keys that are for something else, or secret, are none.
    let jwk = signer.jwk("k1");
    for (part, value) in [("use", "enc"), ("alg", "RS384"), ("kty", "oct"), ("n", "AQAB")] {
        let mut other = jwk.clone();
        other[part] = json!(value);
        assert_eq!(ProviderKey::of_jwk(&other, NOW), None, "{part}");
    }
    let header = json!({"alg": "EdDSA", "kid": "k1"});
    let long = with("iss", "x".repeat(PROOF_BYTES_MAX));
    assert_eq!(ProviderToken::of_jwt(&Signer::ed25519(5).jwt(&header, &long), SALT), Err(ProofError::Unreadable));
    for text in ["", "a", "a.b", "a.b.c.d", "e30.e30.!", "e30=.e30.e30"] {
        assert_eq!(ProviderToken::of_jwt(text, SALT), Err(ProofError::Unreadable), "{text}");
    }
}

#[test]
fn a_provider_that_is_gone_counts_for_as_long_as_an_association_may() {
    let (old, new) = (Signer::ed25519(5), Signer::ed25519(6));
    let mut trusted = providers(&old);
    let entry = trusted.get_mut(ISSUER).expect("it is trusted");
    let renewed = |at| vec![ProviderKey::of_jwk(&new.jwk("k2"), at).expect("a key")];
    assert!(entry.set_keys(NOW, renewed(NOW)));
    assert!(!entry.set_keys(NOW, renewed(NOW)));
    let token = proof(&old, &claims_of(ALICE));
    assert!(verified(&by_token(ALICE), Some(&token), &trusted).is_ok(), "the provider has another key by now");
    let long_ago = NOW.minus_secs(PROVIDER_KEY_SECS_MAX + 1);
    trusted.insert(ISSUER.to_owned(), provider(&old, "k1", long_ago));
    assert_eq!(verified(&by_token(ALICE), Some(&token), &trusted), Err(ProofError::Key));
    let entry = trusted.get_mut(ISSUER).expect("it is trusted");
    entry.set_keys(NOW, renewed(NOW));
    assert_eq!(entry.keys.len(), 1, "one that counts no more is forgotten");
    for seed in 0..40 {
        let key = ProviderKey::of_jwk(&Signer::ed25519(seed).jwk(&format!("s{seed}")), NOW.plus_secs(u64::from(seed)));
        entry.set_keys(NOW, key.into_iter().collect());
    }
    assert_eq!(entry.keys.len(), PROVIDER_KEYS_MAX);
    // A token doesn't count for longer than an association, and an association that was said after the token's end not at all.
    let aged = json!({"iss": ISSUER, "sub": "alice", "aud": "halloo", "nonce": claims_of(ALICE)["nonce"],
        "iat": NOW.0 - ASSOCIATION_SECS_MAX - 1, "exp": NOW.0 + 60});
    let trusted = providers(&old);
    assert_eq!(verified(&by_token(ALICE), Some(&proof(&old, &aged)), &trusted), Err(ProofError::Time));
}

#[test]
fn a_mail_address_is_its_providers_to_verify() {
    let signer = Signer::ed25519(5);
    let trusted = providers(&signer);
    let mail = |text: &str| said(ALICE, id(text), ProofMethod::PROVIDER_TOKEN, NOW);
    let claims = |mail: &str, verified: Value| {
        let mut claims = with("email", mail);
        claims["email_verified"] = verified;
        proof(&signer, &claims)
    };
    let good = claims("Alice@ID.example", json!(true));
    assert!(verified(&mail("mailto:alice@id.example"), Some(&good), &trusted).is_ok());
    assert!(verified(&by_token(ALICE), Some(&good), &trusted).is_ok(), "the account too");
    let faults = [
        (claims("alice@id.example", json!(false)), "mailto:alice@id.example"),
        (proof(&signer, &with("email", "alice@id.example")), "mailto:alice@id.example"),
        (claims("bob@id.example", json!(true)), "mailto:alice@id.example"),
        (claims("alice@bank.example", json!(true)), "mailto:alice@bank.example"),
        (proof(&signer, &claims_of(ALICE)), "mailto:alice@id.example"),
    ];
    for (proof, address) in faults {
        assert_eq!(verified(&mail(address), Some(&proof), &trusted), Err(ProofError::Mail), "{address}");
    }
}

#[test]
fn a_way_of_proving_is_for_its_systems_alone() {
    let signer = Signer::ed25519(5);
    let (trusted, token) = (providers(&signer), proof(&signer, &claims_of(ALICE)));
    for method in [ProofMethod::OWN_ITEM, ProofMethod::AUTHORITY_WORD, ProofMethod(9)] {
        let association = said(ALICE, alice(), method, NOW);
        assert_eq!(verified(&association, Some(&token), &trusted), Err(ProofError::Method));
    }
    for address in ["tel:+4930123456", "xmpp:alice@id.example", "sip:alice@id.example"] {
        let association = said(ALICE, id(address), ProofMethod::PROVIDER_TOKEN, NOW);
        assert_eq!(verified(&association, Some(&token), &trusted), Err(ProofError::Method), "{address}");
    }
}

/// An authority, its signing key, and a word of it.
fn word(authority: u8, linked: LinkedId, seed: u8, not_before: UnixTime) -> AddressProof {
    let signing = SigningCertificate {
        key: key(authority + 1).public(),
        serial: 1,
        not_before: NOW.minus_secs(86_400),
        not_after: NOW.plus_secs(86_400),
        extensions: Extensions::none(),
    };
    let word = AddressWord {
        user: user(seed),
        identity: identity(seed),
        linked,
        not_before,
        not_after: not_before.plus_secs(3_600),
        extensions: Extensions::none(),
    };
    AddressProof {
        authority: AuthorityKey(key(authority).public()),
        signing: Signed::sign(signing, &key(authority)),
        word: Signed::sign(word, &key(authority + 1)),
        extensions: Extensions::none(),
    }
}

#[test]
fn the_word_of_an_authority_and_attacks_on_it() {
    let mut authorities = TrustStore::new();
    authorities.trust(AuthorityKey(key(40).public())).expect("room for one");
    let providers = Providers::new();
    let trusted = TrustedProofs { providers: &providers, authorities: &authorities };
    for address in ["mailto:alice@there.example", "tel:+4930123456", "sip:alice@there.example"] {
        let claimed = said(ALICE, id(address), ProofMethod::AUTHORITY_WORD, NOW);
        let check = |proof: &AddressProof| verify_proof(claimed.unverified(), Some(&proof.to_bytes()), trusted, NOW);
        let good = word(40, id(address), ALICE, NOW.minus_secs(60));
        assert_eq!(check(&good), Ok(NOW.minus_secs(60)));
        let forged = AddressProof { word: word(60, id(address), ALICE, NOW).word, ..good.clone() };
        let borrowed = AddressProof { authority: AuthorityKey(key(40).public()), ..word(60, id(address), ALICE, NOW) };
        for (attack, proof, fault) in [
            ("another user's", word(40, id(address), MALLORY, NOW), ProofError::OtherUser),
            ("another address's", word(40, id("mailto:alice@other.example"), ALICE, NOW), ProofError::OtherIdentity),
            ("of an authority that nobody trusts", word(60, id(address), ALICE, NOW), ProofError::Issuer),
            ("signed by another", forged, ProofError::Signature),
            ("with another's signing key", borrowed, ProofError::Issuer),
            ("over", word(40, id(address), ALICE, NOW.minus_secs(3_601)), ProofError::Time),
            ("early", word(40, id(address), ALICE, NOW.plus_secs(1_000)), ProofError::Time),
        ] {
            assert_eq!(check(&proof), Err(fault), "{attack}");
        }
    }
    let long = AddressWord {
        not_after: NOW.plus_secs(ADDRESS_WORD_SECS_MAX + 1),
        ..word(40, id("mailto:a@b.example"), ALICE, NOW).word.unverified().clone()
    };
    let bytes = wire::encode(&Signed::sign(long, &key(41)));
    assert!(wire::decode::<Signed<AddressWord>>(&bytes, 2_000).is_err());
}

fn seen(linked: &LinkedId, association: Signed<Association>, proved_at: Option<UnixTime>) -> KnownAssociations {
    let sighting = Sighting { read_at: NOW, association: Some(association), leave: None, proved_at };
    KnownAssociations::from([((bob(), linked.clone()), sighting)])
}

/// Everything at once: relation, audience, the proof, the list, and what else is known of the identity.
#[test]
fn the_whole_table_of_proofs() {
    let signer = Signer::ed25519(5);
    let providers = providers(&signer);
    let trusted = TrustedProofs { providers: &providers, authorities: &TrustStore::new() };
    let good = by_token(ALICE);
    let later = |is_revoked: bool| {
        let params = AssociationParams {
            user: user(ALICE),
            linked: alice(),
            method: ProofMethod::PROVIDER_TOKEN,
            last_serial: good.unverified().serial,
            now: NOW,
        };
        if is_revoked { Association::revoke(params, &key(ALICE)) } else { Association::sign(params, &key(ALICE)) }
    };
    let proofs = [
        ("good", Some(proof(&signer, &claims_of(ALICE))), None),
        ("none", None, Some(ProofError::Missing)),
        ("another's", Some(proof(&signer, &claims_of(MALLORY))), Some(ProofError::OtherUser)),
        ("forged", Some(proof(&Signer::ed25519(6), &claims_of(ALICE))), Some(ProofError::Signature)),
        ("expired", Some(proof(&signer, &with("exp", NOW.0 - 4_000))), Some(ProofError::Time)),
    ];
    let revoked = Some(NotLinked::Shown(AssociationError::Revoked));
    let known = [
        ("nothing", KnownAssociations::new(), None),
        ("the same", seen(&alice(), good.clone(), Some(NOW)), None),
        ("a later word", seen(&alice(), later(false), Some(NOW)), None),
        ("taken back", seen(&alice(), later(true), None), revoked),
        ("another user before", seen(&alice(), by_token(MALLORY), Some(NOW.minus_secs(61))), None),
        ("another user since", seen(&alice(), by_token(MALLORY), Some(NOW)), Some(NotLinked::OtherUser)),
    ];
    let (alices, identity) = (user(ALICE), identity(ALICE));
    let mut rows = 0;
    for relation in Relation::ALL {
        for audience in Audience::ALL {
            for (shows, proof, proof_fault) in &proofs {
                for has_alice in [true, false] {
                    for (knows, known, known_fault) in &known {
                        let entries = has_alice.then(|| (alice(), None)).into_iter().collect();
                        let lists = ContactLists::from([(bob(), entries)]);
                        let in_list = if has_alice { None } else { Some(NotLinked::NotInList) };
                        let fault = proof_fault.map(NotLinked::Proof).or(in_list).or(*known_fault);
                        let part = LinkedPart::new(good.clone(), proof.clone(), bob());
                        let claim = Some(Claim::Association(&part));
                        let request = TrustRequest { user: &alices, identity: &identity, relation, kind: Kind::Call, claim };
                        let settings = PrivacySettings::all(audience);
                        let got = decide(
                            &request,
                            &Grounds {
                                lists: &lists,
                                hidden: &std::collections::BTreeSet::new(),
                                known,
                                trusted,
                                settings: &settings,
                                sighting_secs_max: SIGHTING_SECS_FRESH,
                                now: NOW,
                            },
                        );
                        let row = format!("{relation:?} {audience}: proof {shows}, in list {has_alice}, known {knows}");
                        assert_eq!(got.linked.as_ref().err().copied(), fault, "{row}");
                        let stands_for =
                            if relation == Relation::Stranger && fault.is_none() { Relation::Linked } else { relation };
                        assert_eq!(got.decision, privacy::decide(&settings, stands_for, Kind::Call), "{row}");
                        // A bad proof is refused at once whoever is in the list; everybody else who is refused waits as long.
                        let waits = relation == Relation::Stranger
                            && audience == Audience::Linked
                            && proof_fault.is_none()
                            && fault.is_some();
                        assert_eq!(got.takes_a_look, waits, "{row}");
                        rows += 1;
                    }
                }
            }
        }
    }
    assert_eq!(rows, 6 * 4 * 5 * 2 * 6);
}

#[test]
fn a_sighting_by_proof_gives_way_to_a_newer_one_alone() {
    let signer = Signer::ed25519(5);
    let providers = providers(&signer);
    let trusted = TrustedProofs { providers: &providers, authorities: &TrustStore::new() };
    let token = proof(&signer, &claims_of(ALICE));
    let prove = |association: &Signed<Association>, proof: &[u8]| {
        Sighting::prove(Shown { association: association.clone(), leave: None }, Some(proof), trusted, NOW)
    };
    let alices = prove(&by_token(ALICE), &token).expect("it is proved");
    assert_eq!(alices.proved_at, Some(NOW.minus_secs(60)));
    assert!(alices.counts(0, NOW.plus_secs(86_400 * 30)) && alices.holds(NOW.plus_secs(86_400 * 30)).is_ok());
    assert!(alices.holds(NOW.plus_secs(ASSOCIATION_SECS_MAX + 1)).is_err());
    assert_eq!(prove(&by_token(MALLORY), &token), Err(Some(ProofError::OtherUser)));
    let mut newer = claims_of(MALLORY);
    newer["iat"] = json!(NOW.0 - 30);
    let mallorys = prove(&by_token(MALLORY), &proof(&signer, &newer)).expect("her account by now");
    assert_eq!(alices.clone().after(Some(&mallorys)).association, mallorys.association);
    assert_eq!(mallorys.clone().after(Some(&alices)).association, mallorys.association);
}

#[test]
fn the_largest_proof_fits_the_part() {
    let part = LinkedPart::new(by_token(ALICE), Some(vec![7; PROOF_BYTES_MAX]), bob());
    assert_eq!(LinkedPart::of_extensions(&part.add_to(Extensions::none())), Ok(Some(part.clone())));
    assert_eq!(part.proof().map(<[u8]>::len), Some(PROOF_BYTES_MAX));
    let typical = proof(&Signer::rsa(), &claims_of(ALICE));
    assert!(typical.len() < 600, "{} bytes", typical.len());
}
