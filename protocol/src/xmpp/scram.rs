//! SCRAM (RFC 5802) with SHA-256 (RFC 7677) or SHA-1: the client shows that it knows the password, and the server that it knew it before.

use std::fmt;

use data_encoding::BASE64;
use hmac::digest::{Digest, KeyInit, OutputSizeUser};
use hmac::{EagerHash, Hmac, Mac};
use sha1::Sha1;
use sha2::Sha256;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// Fewest iterations that a server may ask for (RFC 7677 section 4): with fewer, whoever stands between could guess the password cheaply.
const ITERATIONS_MIN: u32 = 4_096;
/// Most: a second's work.
const ITERATIONS_MAX: u32 = 1_000_000;

/// Longest thing that a server says here.
const SAID_BYTES_MAX: usize = 4_096;

/// The mechanisms, the better first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// With SHA-256.
    Sha256,
    /// With SHA-1, for servers that know nothing else.
    Sha1,
}

impl Mechanism {
    /// Its name in SASL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha1 => "SCRAM-SHA-1",
        }
    }

    /// The best of those that are offered.
    pub fn choose<'a>(offered: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut best = None;
        for name in offered {
            match name {
                "SCRAM-SHA-256" => return Some(Self::Sha256),
                "SCRAM-SHA-1" => best = Some(Self::Sha1),
                _ => {}
            }
        }
        best
    }
}

/// Why a server isn't logged in to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScramError {
    /// What it said can't be read, or doesn't answer what we said.
    #[error("the server's answer isn't in order")]
    Form,
    /// It asks for too few iterations, or for more than are done.
    #[error("the server asks for {0} iterations, between {ITERATIONS_MIN} and {ITERATIONS_MAX} are done")]
    Iterations(u32),
    /// It doesn't know the password: it is another server.
    #[error("the server doesn't show that it knows the password")]
    Server,
}

/// The client's side of one log-in: [`Scram::first`], then [`Scram::answer`], then [`Scram::check`].
pub struct Scram {
    mechanism: Mechanism,
    password: Zeroizing<String>,
    first: String,
    nonce: String,
    expected: Option<Vec<u8>>,
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scram").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

impl Scram {
    /// Begins, with a nonce of at least 18 random bytes.
    #[must_use]
    pub fn new(mechanism: Mechanism, user: &str, password: &str, nonce: &[u8]) -> Self {
        let nonce = BASE64.encode(nonce);
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let first = format!("n={user},r={nonce}");
        Self { mechanism, password: Zeroizing::new(password.nfkc().collect()), first, nonce, expected: None }
    }

    /// What the client says first.
    #[must_use]
    pub fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first).into_bytes()
    }

    /// What the client says to what the server said.
    ///
    /// # Errors
    /// [`ScramError`].
    pub fn answer(&mut self, said: &[u8]) -> Result<Vec<u8>, ScramError> {
        let said = readable(said)?;
        let field = |name: &str| said.split(',').find_map(|field| field.strip_prefix(name)).ok_or(ScramError::Form);
        if said.starts_with("m=") {
            return Err(ScramError::Form);
        }
        let (nonce, salt, iterations) = (field("r=")?, field("s=")?, field("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() <= self.nonce.len() {
            return Err(ScramError::Form);
        }
        let salt = BASE64.decode(salt.as_bytes()).map_err(|_| ScramError::Form)?;
        let iterations: u32 = iterations.parse().map_err(|_| ScramError::Form)?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(ScramError::Iterations(iterations));
        }
        let last = format!("c=biws,r={nonce}");
        let message = format!("{},{said},{last}", self.first);
        let (proof, expected) = match self.mechanism {
            Mechanism::Sha256 => prove::<Sha256>(&self.password, &salt, iterations, &message),
            Mechanism::Sha1 => prove::<Sha1>(&self.password, &salt, iterations, &message),
        };
        self.expected = Some(expected);
        Ok(format!("{last},p={}", BASE64.encode(&proof)).into_bytes())
    }

    /// Checks what the server says in the end.
    ///
    /// # Errors
    /// [`ScramError`].
    pub fn check(&self, said: &[u8]) -> Result<(), ScramError> {
        let said = readable(said)?;
        let signature = said.split(',').find_map(|field| field.strip_prefix("v=")).ok_or(ScramError::Server)?;
        let signature = BASE64.decode(signature.as_bytes()).map_err(|_| ScramError::Form)?;
        if self.expected.as_ref() == Some(&signature) { Ok(()) } else { Err(ScramError::Server) }
    }
}

fn readable(said: &[u8]) -> Result<&str, ScramError> {
    if said.len() > SAID_BYTES_MAX {
        return Err(ScramError::Form);
    }
    std::str::from_utf8(said).map_err(|_| ScramError::Form)
}

/// The client's proof, and the signature by which the server is known (RFC 5802 section 3).
fn prove<D>(password: &str, salt: &[u8], iterations: u32, message: &str) -> (Vec<u8>, Vec<u8>)
where
    D: Digest + EagerHash,
    Hmac<D>: KeyInit + Mac + Clone,
{
    let salted = Zeroizing::new(stretch::<D>(password.as_bytes(), salt, iterations));
    let client_key = mac::<D>(&salted, &[b"Client Key"]);
    let signature = mac::<D>(&D::digest(&client_key), &[message.as_bytes()]);
    let proof = client_key.iter().zip(&signature).map(|(key, signature)| key ^ signature).collect();
    let server_key = mac::<D>(&salted, &[b"Server Key"]);
    (proof, mac::<D>(&server_key, &[message.as_bytes()]))
}

/// `Hi` of RFC 5802: PBKDF2 of one block.
fn stretch<D>(password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8>
where
    D: EagerHash,
    Hmac<D>: KeyInit + Mac + Clone,
{
    let keyed = keyed::<D>(password);
    let round = |parts: &[&[u8]]| {
        let mut mac = keyed.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().to_vec()
    };
    let mut block = round(&[salt, &1_u32.to_be_bytes()]);
    let mut sum = block.clone();
    for _ in 1..iterations {
        block = round(&[&block]);
        sum.iter_mut().zip(&block).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

fn mac<D>(key: &[u8], parts: &[&[u8]]) -> Vec<u8>
where
    D: EagerHash,
    Hmac<D>: KeyInit + Mac + Clone,
{
    let mut mac = keyed::<D>(key);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

fn keyed<D>(key: &[u8]) -> Hmac<D>
where
    D: EagerHash,
    Hmac<D>: KeyInit + OutputSizeUser,
{
    <Hmac<D> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length")
}
