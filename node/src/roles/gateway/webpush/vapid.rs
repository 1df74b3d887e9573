//! Voluntary application server identification (VAPID, RFC 8292).
//!
//! The gateway has one P-256 key for its whole life: devices may restrict a subscription to it,
//! so a gateway that loses its key loses them. Each request carries a JSON Web Token, signed with
//! ES256, that names the push service's origin, an expiry and whom to contact. A token serves
//! every request to its origin until shortly before it expires: signing costs 0.2 ms, and push
//! services cache the tokens that they have checked.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use p256::SecretKey;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::Generate;
use zeroize::Zeroizing;

use super::PUBLIC_KEY_BYTES;
use super::encryption::uncompressed;

/// How long a token is valid. RFC 8292 section 2 allows 24 hours; half of that leaves room for a
/// push service whose clock is behind ours.
const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// A token with less than this to go is not used any more, so that it cannot expire on its way
/// and a push service whose clock is ahead still takes it.
const TOKEN_MARGIN: Duration = Duration::from_secs(3_600);

/// Origins with a token kept. There are a handful of large push services; self-hosted ones are a
/// long tail. When full, the token nearest to its expiry is dropped: it costs one signature more.
const TOKENS_MAX: usize = 256;

/// Longest contact accepted: mail addresses have up to 254 characters.
const SUBJECT_BYTES_MAX: usize = 320;

/// Why a VAPID key or contact was not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum VapidError {
    /// Zero, or not below the curve's order.
    #[error("VAPID key is not a P-256 private key")]
    Key,
    /// Neither a `mailto:` nor an `https:` URI, or with characters that no URI has.
    #[error("VAPID contact is not a mailto: or https: URI")]
    Subject,
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system")]
    Randomness,
}

/// The gateway's signing key, P-256.
#[derive(Clone)]
pub struct VapidKey(SecretKey);

impl VapidKey {
    /// Makes a new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`VapidError::Randomness`].
    pub fn generate() -> Result<Self, VapidError> {
        SecretKey::try_generate().map(Self).map_err(|_| VapidError::Randomness)
    }

    /// A key as [`Self::to_bytes`] gave it.
    ///
    /// # Errors
    /// [`VapidError::Key`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, VapidError> {
        SecretKey::from_slice(bytes).map(Self).map_err(|_| VapidError::Key)
    }

    /// The private key, for the gateway's own storage.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes().into())
    }

    /// The public key, an uncompressed point: what a browser is given as `applicationServerKey`.
    pub fn public_key(&self) -> [u8; PUBLIC_KEY_BYTES] {
        uncompressed(&self.0.public_key())
    }
}

impl fmt::Debug for VapidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VapidKey(..)")
    }
}

/// Whom a push service's operator contacts about this gateway: a `mailto:` or `https:` URI
/// (RFC 8292 section 2.1). Some push services refuse tokens without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VapidSubject(String);

impl FromStr for VapidSubject {
    type Err = VapidError;

    fn from_str(text: &str) -> Result<Self, VapidError> {
        let rest = text.strip_prefix("mailto:").or_else(|| text.strip_prefix("https://")).ok_or(VapidError::Subject)?;
        let is_uri = text.bytes().all(|byte| byte.is_ascii_graphic());
        if rest.is_empty() || text.len() > SUBJECT_BYTES_MAX || !is_uri {
            return Err(VapidError::Subject);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Signs tokens and keeps them per origin. It reads no clock: the time comes with each call.
pub struct VapidSigner {
    key: SigningKey,
    public_key: String,
    subject: VapidSubject,
    tokens: HashMap<String, Token>,
}

/// An `Authorization` header's value and when the token in it expires.
struct Token {
    authorization: String,
    expires_at: u64,
}

impl VapidSigner {
    /// A signer with no tokens yet.
    pub fn new(key: &VapidKey, subject: VapidSubject) -> Self {
        Self {
            public_key: BASE64URL_NOPAD.encode(&key.public_key()),
            key: SigningKey::from(&key.0),
            subject,
            tokens: HashMap::new(),
        }
    }

    /// The `Authorization` header's value for a request to `origin` at `now`, in seconds since
    /// 1970 (RFC 8292 section 3): `vapid t=TOKEN, k=PUBLIC KEY`.
    pub fn authorization(&mut self, origin: &str, now: u64) -> String {
        if let Some(token) = self.tokens.get(origin)
            && token.is_usable(now)
        {
            return token.authorization.clone();
        }
        let token = self.sign(origin, now);
        let authorization = token.authorization.clone();
        self.tokens.remove(origin);
        self.make_room(now);
        self.tokens.insert(origin.to_owned(), token);
        authorization
    }

    fn make_room(&mut self, now: u64) {
        if self.tokens.len() < TOKENS_MAX {
            return;
        }
        self.tokens.retain(|_, token| token.is_usable(now));
        while self.tokens.len() >= TOKENS_MAX {
            let oldest = self.tokens.iter().min_by_key(|(_, token)| token.expires_at).map(|(origin, _)| origin.clone());
            let Some(oldest) = oldest else { return };
            self.tokens.remove(&oldest);
        }
    }

    /// RFC 8292 section 2: claims `aud`, `exp` and `sub` in a token of RFC 7519, signed as
    /// RFC 7518 section 3.4 says.
    fn sign(&self, origin: &str, now: u64) -> Token {
        let expires_at = now.saturating_add(TOKEN_LIFETIME.as_secs());
        let claims = serde_json::json!({"aud": origin, "exp": expires_at, "sub": self.subject.0}).to_string();
        let header = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ES256"}"#);
        let signed = format!("{header}.{}", BASE64URL_NOPAD.encode(claims.as_bytes()));
        let signature: Signature = self.key.sign(signed.as_bytes());
        let signature = BASE64URL_NOPAD.encode(&signature.to_bytes());
        Token { authorization: format!("vapid t={signed}.{signature}, k={}", self.public_key), expires_at }
    }
}

impl fmt::Debug for VapidSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VapidSigner").field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}

impl Token {
    /// Neither about to expire nor, after our clock was set back, valid for longer than allowed.
    fn is_usable(&self, now: u64) -> bool {
        let remaining = self.expires_at.saturating_sub(now);
        (TOKEN_MARGIN.as_secs()..=TOKEN_LIFETIME.as_secs()).contains(&remaining)
    }
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::VerifyingKey;
    use p256::ecdsa::signature::Verifier;
    use serde_json::Value;

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const ORIGIN: &str = "https://push.example.net";

    fn signer() -> VapidSigner {
        let subject = "mailto:push@example.net".parse().unwrap();
        VapidSigner::new(&VapidKey::generate().unwrap(), subject)
    }

    /// Checks the signature with the key in the header, as a push service does.
    fn verify(authorization: &str) -> (Value, Value) {
        let (token, key) = authorization.strip_prefix("vapid t=").and_then(|rest| rest.split_once(", k=")).unwrap();
        let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        VerifyingKey::from_sec1_bytes(&decode(key))
            .unwrap()
            .verify(signed.as_bytes(), &Signature::from_slice(&decode(signature)).unwrap())
            .unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let json = |text: &str| serde_json::from_slice(&decode(text)).unwrap();
        (json(header), json(claims))
    }

    #[test]
    fn tokens_name_origin_expiry_and_contact_and_verify() {
        let (header, claims) = verify(&signer().authorization(ORIGIN, NOW));
        assert_eq!(header, serde_json::json!({"typ": "JWT", "alg": "ES256"}), "RFC 8292 section 2");
        assert_eq!(
            claims,
            serde_json::json!({
                "aud": ORIGIN,
                "exp": NOW + 12 * 3_600,
                "sub": "mailto:push@example.net",
            })
        );
    }

    #[test]
    fn a_token_is_kept_until_shortly_before_it_expires() {
        let mut signer = signer();
        let first = signer.authorization(ORIGIN, NOW);
        assert_eq!(signer.authorization(ORIGIN, NOW + 11 * 3_600), first);
        let second = signer.authorization(ORIGIN, NOW + 11 * 3_600 + 1);
        assert_ne!(second, first);
        assert_eq!(verify(&second).1["exp"], NOW + 23 * 3_600 + 1, "12 hours from then");
    }

    #[test]
    fn a_clock_set_back_does_not_leave_a_token_valid_for_too_long() {
        let mut signer = signer();
        signer.authorization(ORIGIN, NOW);
        let earlier = NOW - 48 * 3_600;
        let (_, claims) = verify(&signer.authorization(ORIGIN, earlier));
        assert_eq!(claims["exp"], earlier + 12 * 3_600);
    }

    #[test]
    fn each_origin_has_its_own_token_and_their_number_is_bounded() {
        let mut signer = signer();
        for number in 0..TOKENS_MAX as u64 + 10 {
            let origin = format!("https://push{number}.example.net");
            let (_, claims) = verify(&signer.authorization(&origin, NOW + number));
            assert_eq!(claims["aud"], origin);
        }
        assert_eq!(signer.tokens.len(), TOKENS_MAX);
        assert!(!signer.tokens.contains_key("https://push0.example.net"));
    }

    #[test]
    fn a_stored_key_signs_for_the_same_public_key() {
        let key = VapidKey::generate().unwrap();
        let restored = VapidKey::from_bytes(&key.to_bytes()).unwrap();
        assert_eq!(restored.public_key(), key.public_key());
        assert_eq!(VapidKey::from_bytes(&[0; 32]).unwrap_err(), VapidError::Key);
    }

    #[test]
    fn contacts_are_mail_or_web_addresses() {
        for subject in ["mailto:a@example.net", "https://example.net/contact"] {
            assert!(subject.parse::<VapidSubject>().is_ok(), "{subject}");
        }
        let long = format!("mailto:{}", "a".repeat(SUBJECT_BYTES_MAX));
        for subject in [
            "",
            "mailto:",
            "https://",
            "a@example.net",
            "http://example.net",
            "mailto:a b@example.net",
            "mailto:\u{fc}@example.net",
            &long,
        ] {
            assert_eq!(subject.parse::<VapidSubject>(), Err(VapidError::Subject), "{subject}");
        }
    }

    #[test]
    fn debug_output_shows_no_key() {
        let key = VapidKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), "VapidKey(..)");
        assert!(!format!("{:?}", signer()).contains("vapid t="));
    }
}
