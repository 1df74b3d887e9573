//! An OpenID Connect provider's signed word for who logged in: an ID token (OpenID Connect Core 1.0 section 2), whose nonce says for whom.
//!
//! 1. The user's node chooses 16 random bytes, and asks the provider for a token whose `nonce` is the hash of them, the user and the identity key ([`nonce_for`]).
//! 2. The provider has the owner of the account log in, and signs `iss`, `sub`, `aud` and that nonce. It learns nothing of who the user is here.
//! 3. Whoever sees the token with the random bytes knows that the owner of the account had it made for this user.
//!
//! The nonce is over the user and not over the association: whose account it is isn't known before the login, and a token that is refreshed has the nonce of the
//! login (section 12.2), so that an association can be said anew without another one.
//!
//! Which applications (`aud`) count is the verifier's to say: any application can have tokens made with any nonce for whoever logs in to it.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use data_encoding::BASE64URL_NOPAD;
use ring::signature::{self, UnparsedPublicKey};
use serde::Deserialize;

use super::association::{ASSOCIATION_SECS_MAX, Association};
use super::id::{LinkedId, System};
use super::proof::{PROOF_BYTES_MAX, ProofError, Providers};
use crate::identity::UserId;
use crate::key::{IdentityKey, hash};
use crate::time::{CLOCK_TOLERANCE_SECS, UnixTime};
use crate::wire::{self, Extensions};

/// Keys kept of one provider: those that it has, and those that it had.
pub const PROVIDER_KEYS_MAX: usize = 16;

/// How long a key counts after it was last seen at the provider: as long as what was proved with it may.
pub const PROVIDER_KEY_SECS_MAX: u64 = ASSOCIATION_SECS_MAX;

/// Longest name of a key, in bytes.
const KEY_ID_BYTES_MAX: usize = 128;

/// Sizes of a modulus, in bytes: 2,048 to 8,192 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;

/// What is signed, and how (RFC 7518 section 3.1, RFC 8037 section 3.1): it follows from the key, and a token that says otherwise isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KeyMaterial {
    /// RS256: modulus and exponent, big endian.
    Rsa {
        /// Modulus.
        n: Vec<u8>,
        /// Exponent.
        e: Vec<u8>,
    },
    /// ES256: an uncompressed point of P-256, 65 bytes.
    P256(Vec<u8>),
    /// EdDSA: a key of Ed25519, 32 bytes.
    Ed25519(Vec<u8>),
}

/// A key of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProviderKey {
    /// Its name, if it has one.
    pub id: Option<String>,
    /// The key.
    pub material: KeyMaterial,
    /// When the provider had it last.
    pub seen_at: UnixTime,
}

/// A JSON Web Key (RFC 7517), as far as it matters.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl ProviderKey {
    /// Reads a JSON Web Key. `None`: it isn't for signatures of a kind that is known here; a secret one never is.
    #[must_use]
    pub fn of_jwk(jwk: &serde_json::Value, seen_at: UnixTime) -> Option<Self> {
        let jwk = Jwk::deserialize(jwk).ok()?;
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let part = |text: &Option<String>| BASE64URL_NOPAD.decode(text.as_deref()?.as_bytes()).ok();
        let curve = jwk.crv.as_deref();
        let material = match jwk.kty.as_str() {
            "RSA" => KeyMaterial::Rsa { n: part(&jwk.n)?, e: part(&jwk.e)? },
            "EC" if curve == Some("P-256") => KeyMaterial::P256([vec![4], part(&jwk.x)?, part(&jwk.y)?].concat()),
            "OKP" if curve == Some("Ed25519") => KeyMaterial::Ed25519(part(&jwk.x)?),
            _ => return None,
        };
        let is_for_it = jwk.alg.as_deref().is_none_or(|alg| material.is_algorithm(alg));
        let is_bounded = jwk.kid.as_ref().is_none_or(|id| id.len() <= KEY_ID_BYTES_MAX) && material.is_sized();
        (is_for_it && is_bounded).then_some(Self { id: jwk.kid, material, seen_at })
    }
}

impl KeyMaterial {
    fn is_sized(&self) -> bool {
        match self {
            Self::Rsa { n, e } => MODULUS_BYTES.contains(&n.len()) && (1..=8).contains(&e.len()),
            Self::P256(point) => point.len() == 65,
            Self::Ed25519(key) => key.len() == 32,
        }
    }

    fn is_algorithm(&self, name: &str) -> bool {
        match self {
            Self::Rsa { .. } => name == "RS256",
            Self::P256(_) => name == "ES256",
            // Newer documents name the curve (RFC 9864).
            Self::Ed25519(_) => matches!(name, "EdDSA" | "Ed25519"),
        }
    }

    fn has_signed(&self, message: &[u8], signed: &[u8]) -> bool {
        match self {
            Self::Rsa { n, e } => {
                let key = signature::RsaPublicKeyComponents { n, e };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signed).is_ok()
            }
            Self::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signed).is_ok()
            }
            Self::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signed).is_ok(),
        }
    }
}

/// A provider whose word is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProvider {
    /// The applications whose tokens count: client ids that are known to have no tokens made but for the user who logs in.
    pub clients: BTreeSet<String>,
    /// Domains for whose mail addresses its word is taken too, in lower case. Whoever has no mail there of their own could say anything about it.
    pub mail_domains: BTreeSet<String>,
    /// The keys that it has and has had.
    pub keys: Vec<ProviderKey>,
}

impl TrustedProvider {
    /// The provider has these keys now. Those that it had are kept for their time, the newest first, [`PROVIDER_KEYS_MAX`] in all. Whether there is one more than before.
    pub fn set_keys(&mut self, now: UnixTime, keys: Vec<ProviderKey>) -> bool {
        let is_same = |one: &ProviderKey, other: &ProviderKey| one.id == other.id && one.material == other.material;
        let has_new = keys.iter().any(|key| !self.keys.iter().any(|known| is_same(known, key)));
        let before = std::mem::take(&mut self.keys);
        self.keys = keys;
        self.keys.truncate(PROVIDER_KEYS_MAX);
        for old in before {
            let is_kept = now.secs_since(old.seen_at) <= PROVIDER_KEY_SECS_MAX;
            if is_kept && !self.keys.iter().any(|key| is_same(key, &old)) {
                self.keys.push(old);
            }
        }
        self.keys.sort_by_key(|key| std::cmp::Reverse(key.seen_at));
        self.keys.truncate(PROVIDER_KEYS_MAX);
        has_new
    }
}

/// The nonce that a token has to have to say something about this user.
#[must_use]
pub fn nonce_for(user: &UserId, identity: &IdentityKey, salt: &[u8; 16]) -> String {
    BASE64URL_NOPAD.encode(&hash("halloo provider nonce", &[&wire::encode(user), identity.0.as_bytes(), salt]))
}

/// An ID token as it travels, its three parts decoded: a quarter smaller than the text.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProviderToken {
    /// What makes the nonce of the token unlike any other's of this user.
    pub salt: [u8; 16],
    /// The header, JSON.
    pub header: Vec<u8>,
    /// The claims, JSON.
    pub claims: Vec<u8>,
    /// The signature over the first two in base64url.
    pub signature: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// What has to be understood and isn't (RFC 7515 section 4.1.11).
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// The claims that matter, as the token has them. Believe them after [`ProviderToken::verify`] only, or if they come from the provider itself.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    azp: Option<String>,
    exp: u64,
    iat: u64,
    nonce: Option<String>,
    email: Option<String>,
    #[serde(default)]
    email_verified: bool,
}

impl ProviderToken {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`ProofError::Unreadable`], also for one that is too large to travel.
    pub fn of_jwt(jwt: &str, salt: [u8; 16]) -> Result<Self, ProofError> {
        let mut parts = jwt.split('.').map(|part| BASE64URL_NOPAD.decode(part.as_bytes()));
        let mut next = || parts.next().and_then(Result::ok).ok_or(ProofError::Unreadable);
        let token = Self { salt, header: next()?, claims: next()?, signature: next()?, extensions: Extensions::none() };
        let is_whole = parts.next().is_none() && token.to_bytes().len() <= PROOF_BYTES_MAX;
        is_whole.then_some(token).ok_or(ProofError::Unreadable)
    }

    /// As it travels.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Reads what has travelled.
    ///
    /// # Errors
    /// [`ProofError::Unreadable`].
    pub fn read(bytes: &[u8]) -> Result<Self, ProofError> {
        wire::decode(bytes, PROOF_BYTES_MAX).map_err(|_| ProofError::Unreadable)
    }

    fn claims(&self) -> Result<Claims, ProofError> {
        serde_json::from_slice(&self.claims).map_err(|_| ProofError::Unreadable)
    }

    /// Whose account it says it is of, not verified: `oidc:ISSUER#SUBJECT`.
    ///
    /// # Errors
    /// [`ProofError::Unreadable`], also for a subject that can't be an identity here.
    pub fn subject(&self) -> Result<LinkedId, ProofError> {
        let claims = self.claims()?;
        LinkedId::new(System::Oidc, &format!("{}#{}", claims.iss, claims.sub)).map_err(|_| ProofError::Unreadable)
    }

    /// The mail address that it says is verified, not verified.
    #[must_use]
    pub fn mail(&self) -> Option<LinkedId> {
        self.claims().ok()?.verified_mail()
    }

    /// For whom it says it was made, not verified.
    #[must_use]
    pub fn nonce(&self) -> Option<String> {
        self.claims().ok()?.nonce
    }

    /// The name of the key that it says it is signed with.
    #[must_use]
    pub fn key_id(&self) -> Option<String> {
        serde_json::from_slice::<Header>(&self.header).ok()?.kid
    }

    /// Checks that a trusted provider says that the account of `said` is its user's. Gives when it said so.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn verify(&self, said: &Association, providers: &Providers, now: UnixTime) -> Result<UnixTime, ProofError> {
        let claims = self.claims()?;
        let provider = providers.get(&claims.iss).ok_or(ProofError::Issuer)?;
        self.verify_signature(provider, now)?;
        claims.verify_audience(provider)?;
        if claims.nonce.as_ref() != Some(&nonce_for(&said.user, &said.identity, &self.salt)) {
            return Err(ProofError::OtherUser);
        }
        claims.verify_identity(&said.linked, provider)?;
        claims.verify_times(said, now)
    }

    fn verify_signature(&self, provider: &TrustedProvider, now: UnixTime) -> Result<(), ProofError> {
        let header: Header = serde_json::from_slice(&self.header).map_err(|_| ProofError::Unreadable)?;
        if header.crit.is_some() {
            return Err(ProofError::Unreadable);
        }
        let is_named = |key: &&ProviderKey| header.kid.is_none() || key.id == header.kid;
        let is_kept = |key: &&ProviderKey| now.secs_since(key.seen_at) <= PROVIDER_KEY_SECS_MAX;
        let mut named = provider.keys.iter().filter(is_named).filter(is_kept).peekable();
        named.peek().ok_or(ProofError::Key)?;
        let mut fitting = named.filter(|key| key.material.is_algorithm(&header.alg)).peekable();
        fitting.peek().ok_or(ProofError::Algorithm)?;
        let message = format!("{}.{}", BASE64URL_NOPAD.encode(&self.header), BASE64URL_NOPAD.encode(&self.claims));
        let is_signed = fitting.any(|key| key.material.has_signed(message.as_bytes(), &self.signature));
        is_signed.then_some(()).ok_or(ProofError::Signature)
    }
}

impl Claims {
    /// OpenID Connect Core 1.0 section 3.1.3.7, steps 3 to 5: for an application that is trusted, and asked for by none other.
    fn verify_audience(&self, provider: &TrustedProvider) -> Result<(), ProofError> {
        let is_trusted = |client: &String| provider.clients.contains(client);
        let is_ours = match &self.aud {
            Audience::One(client) => is_trusted(client),
            Audience::Many(clients) => clients.iter().any(is_trusted) && (clients.len() == 1 || self.azp.is_some()),
        };
        let is_asked_by_ours = self.azp.as_ref().is_none_or(is_trusted);
        (is_ours && is_asked_by_ours).then_some(()).ok_or(ProofError::Audience)
    }

    fn verified_mail(&self) -> Option<LinkedId> {
        let mail = self.email.as_ref().filter(|_| self.email_verified)?;
        LinkedId::new(System::Mail, mail).ok()
    }

    fn verify_identity(&self, linked: &LinkedId, provider: &TrustedProvider) -> Result<(), ProofError> {
        if linked.system() == System::Mail {
            let domain = linked.address().rsplit_once('@').map(|(_, domain)| domain);
            let is_theirs = domain.is_some_and(|domain| provider.mail_domains.contains(domain));
            let is_it = is_theirs && self.verified_mail().as_ref() == Some(linked);
            return is_it.then_some(()).ok_or(ProofError::Mail);
        }
        let subject = LinkedId::new(System::Oidc, &format!("{}#{}", self.iss, self.sub));
        (subject.as_ref() == Ok(linked)).then_some(()).ok_or(ProofError::OtherIdentity)
    }

    /// What is said after the token's end isn't proved by it, and neither is anything once the longest time of an association has passed since.
    fn verify_times(&self, said: &Association, now: UnixTime) -> Result<UnixTime, ProofError> {
        let (issued, ends) = (UnixTime(self.iat), UnixTime(self.exp));
        let is_in_order = ends > issued && !issued.is_from_the_future(now);
        let is_said_in_time = said.not_before <= ends.plus_secs(CLOCK_TOLERANCE_SECS);
        let is_over = now.secs_since(issued) > ASSOCIATION_SECS_MAX;
        (is_in_order && is_said_in_time && !is_over).then_some(issued).ok_or(ProofError::Time)
    }
}
