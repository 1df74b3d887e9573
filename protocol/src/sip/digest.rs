//! Digest authentication (RFC 8760, RFC 7616, RFC 3261 section 22): challenges without state, checks with as little as replays need.
//!
//! A nonce is the time of its making, a salt and an HMAC over both, so a challenge costs no memory. Only a nonce that somebody has answered rightly
//! is remembered, with the numbers (`nc`) used: each counts once, within a window of 64. When more nonces are in use than are remembered, the
//! oldest end early and their users are asked anew (`stale=true`), so that forgetting never lets a replay through.
//!
//! `qop=auth` is asked for and required; passwords are kept as HA1 values alone.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use super::guard::network;
use super::message::Message;
use super::uri::{self, Malformed, SipUri};
use crate::time::UnixTime;

/// How long a nonce is good.
pub const NONCE_SECS: u64 = 10 * 60;

/// Nonces in use that are remembered.
const NONCES_MAX: usize = 16_384;

const NONCE_BYTES: usize = 8 + 8 + 16;

/// The hash functions, the better first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 8760.
    Sha256,
    /// For phones that know nothing else.
    Md5,
}

impl Algorithm {
    /// As it stands in a header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Md5 => "MD5",
        }
    }

    /// By its name; none is MD5 (RFC 2617).
    #[must_use]
    pub fn from_name(name: Option<&str>) -> Option<Self> {
        match name {
            None => Some(Self::Md5),
            Some(name) if name.eq_ignore_ascii_case("MD5") => Some(Self::Md5),
            Some(name) if name.eq_ignore_ascii_case("SHA-256") => Some(Self::Sha256),
            Some(_) => None,
        }
    }

    fn hash(self, parts: &[&str]) -> String {
        let text = parts.join(":");
        match self {
            Self::Sha256 => HEXLOWER.encode(&Sha256::digest(text.as_bytes())),
            Self::Md5 => HEXLOWER.encode(&Md5::digest(text.as_bytes())),
        }
    }
}

/// What is kept of a password: H(user:realm:password), in hexadecimal. Whoever has it can log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Ha1 {
    /// With SHA-256.
    pub sha256: String,
    /// With MD5.
    pub md5: String,
}

impl Ha1 {
    /// Of a password.
    #[must_use]
    pub fn new(user: &str, realm: &str, password: &str) -> Self {
        let parts = [user, realm, password];
        Self { sha256: Algorithm::Sha256.hash(&parts), md5: Algorithm::Md5.hash(&parts) }
    }

    fn of(&self, algorithm: Algorithm) -> &str {
        match algorithm {
            Algorithm::Sha256 => &self.sha256,
            Algorithm::Md5 => &self.md5,
        }
    }
}

impl fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ha1(..)")
    }
}

impl Drop for Ha1 {
    fn drop(&mut self) {
        self.sha256.zeroize();
        self.md5.zeroize();
    }
}

/// What stands in `Authorization`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Who it is.
    pub username: String,
    realm: String,
    nonce: String,
    uri: String,
    response: String,
    algorithm: Option<String>,
    cnonce: String,
    nc: String,
    qop: String,
}

impl Credentials {
    /// Reads a header's value; `None` if it is of another scheme.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(text: &str) -> Result<Option<Self>, Malformed> {
        let Some(fields) = auth_fields(text)? else { return Ok(None) };
        let mut read = Self::default();
        for (name, value) in fields {
            match name.as_str() {
                "username" => read.username = value,
                "realm" => read.realm = value,
                "nonce" => read.nonce = value,
                "uri" => read.uri = value,
                "response" => read.response = value,
                "algorithm" => read.algorithm = Some(value),
                "cnonce" => read.cnonce = value,
                "nc" => read.nc = value,
                "qop" => read.qop = value,
                _ => {}
            }
        }
        Ok(Some(read))
    }
}

/// A challenge that was received, to answer it as a client (a trunk's registration).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Whose password is asked for.
    pub realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    has_qop: bool,
    /// The nonce that was used is over, and the password was right.
    pub is_stale: bool,
}

impl Challenge {
    /// Of a response with 401 or 407, the best that is known here.
    #[must_use]
    pub fn of(response: &Message) -> Option<Self> {
        let name = if response.status() == 407 { "proxy-authenticate" } else { "www-authenticate" };
        let all: Vec<Self> = response.all(name).filter_map(Self::parse).collect();
        all.iter().find(|challenge| challenge.algorithm == Algorithm::Sha256).or(all.first()).cloned()
    }

    fn parse(text: &str) -> Option<Self> {
        let fields = auth_fields(text).ok()??;
        let field = |name: &str| fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let qop = field("qop");
        if qop.as_ref().is_some_and(|qop| !qop.split(',').any(|one| one.trim() == "auth")) {
            return None;
        }
        Some(Self {
            realm: field("realm")?,
            nonce: field("nonce")?,
            opaque: field("opaque"),
            algorithm: Algorithm::from_name(field("algorithm").as_deref())?,
            has_qop: qop.is_some(),
            is_stale: field("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        })
    }

    /// Whether two challenges are answered with the same numbers.
    #[must_use]
    pub fn is_same_nonce(&self, other: &Self) -> bool {
        self.nonce == other.nonce && self.realm == other.realm
    }

    /// The header's value that answers it.
    #[must_use]
    pub fn answer(&self, user: &str, password: &str, method: &str, uri: &str, nc: u32, cnonce: &str) -> String {
        let ha1 = self.algorithm.hash(&[user, &self.realm, password]);
        let ha2 = self.algorithm.hash(&[method, uri]);
        let nc = format!("{nc:08x}");
        let response = match self.has_qop {
            true => self.algorithm.hash(&[&ha1, &self.nonce, &nc, cnonce, "auth", &ha2]),
            false => self.algorithm.hash(&[&ha1, &self.nonce, &ha2]),
        };
        let mut text = format!(
            "Digest username={}, realm={}, nonce={}, uri=\"{uri}\", response=\"{response}\", algorithm={}",
            uri::quote(user),
            uri::quote(&self.realm),
            uri::quote(&self.nonce),
            self.algorithm.name()
        );
        if self.has_qop {
            text += &format!(", qop=auth, nc={nc}, cnonce=\"{cnonce}\"");
        }
        if let Some(opaque) = &self.opaque {
            text += &format!(", opaque={}", uri::quote(opaque));
        }
        text
    }
}

/// Names and values after `Digest`; `None` for another scheme.
fn auth_fields(text: &str) -> Result<Option<Vec<(String, String)>>, Malformed> {
    const FIELDS_MAX: usize = 24;
    let Some((scheme, mut rest)) = text.split_once(char::is_whitespace) else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case("Digest") {
        return Ok(None);
    }
    let mut fields = Vec::new();
    loop {
        rest = rest.trim_start();
        let (name, after) = rest.split_once('=').ok_or(Malformed("credentials without a value"))?;
        let after = after.trim_start();
        let (value, after) = match after.starts_with('"') {
            true => uri::quoted(after)?,
            false => {
                let (value, after) = after.split_at(after.find(',').unwrap_or(after.len()));
                (value.trim().to_owned(), after)
            }
        };
        if fields.len() == FIELDS_MAX {
            return Err(Malformed("too many credentials"));
        }
        fields.push((name.trim().to_ascii_lowercase(), value));
        match after.trim_start().strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok(Some(fields)),
        }
    }
}

/// Why credentials aren't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There are none, or of another scheme.
    #[error("no credentials")]
    Missing,
    /// They can't be read, or are for something else.
    #[error("credentials that can't be used")]
    Unusable,
    /// The nonce is over, or its number was used: right or not, another try with a new nonce may be.
    #[error("the nonce is over")]
    Stale,
    /// No such user, or another password. Which of them isn't said to anybody.
    #[error("wrong user or password")]
    Wrong,
}

/// What has been used of a nonce.
#[derive(Debug)]
struct Used {
    highest: u32,
    /// Bit n: `highest - n` was used.
    seen: u64,
}

/// Makes challenges and checks what answers them.
pub struct Authenticator {
    realm: String,
    key: [u8; 32],
    used: HashMap<[u8; 16], Used>,
    /// Those in `used` by age.
    by_age: BTreeMap<(u64, u64), [u8; 16]>,
    /// Nonces made before are over: a time, and a salt.
    not_before: (u64, u64),
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("realm", &self.realm).field("used", &self.used.len()).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// With a key that nobody else has; nonces don't outlive it.
    #[must_use]
    pub fn new(realm: &str, key: [u8; 32]) -> Self {
        Self { realm: realm.to_owned(), key, used: HashMap::new(), by_age: BTreeMap::new(), not_before: (0, 0) }
    }

    /// The challenges to put into a 401 or 407, the better algorithm first (RFC 8760 section 2.4). `salt` tells nonces of a second apart, and
    /// their age: where too many are in use, those with a lower one are over first.
    /// A nonce is good for its source alone: what somebody else was given, sent under this one's name, is stale and no wrong password.
    #[must_use]
    pub fn challenges(&self, request: &Message, source: IpAddr, now: UnixTime, salt: [u8; 8], is_stale: bool) -> Vec<String> {
        let nonce = self.nonce(source, now, salt);
        let stale = if is_stale { ", stale=true" } else { "" };
        let challenge = |algorithm: &Algorithm| {
            let realm = uri::quote(&self.realm);
            format!("Digest realm={realm}, qop=\"auth\", nonce=\"{nonce}\", algorithm={}{stale}", algorithm.name())
        };
        algorithms(request.get("user-agent").unwrap_or_default()).iter().map(challenge).collect()
    }

    fn nonce(&self, source: IpAddr, now: UnixTime, salt: [u8; 8]) -> String {
        let mut bytes = [0; NONCE_BYTES];
        bytes[..8].copy_from_slice(&now.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&salt);
        let tag = self.tag(&bytes[..16], source);
        bytes[16..].copy_from_slice(&tag);
        BASE64URL_NOPAD.encode(&bytes)
    }

    fn tag(&self, bytes: &[u8], source: IpAddr) -> [u8; 16] {
        let mut tag = [0; 16];
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) {
            mac.update(bytes);
            match network(source) {
                IpAddr::V4(address) => mac.update(&address.octets()),
                IpAddr::V6(address) => mac.update(&address.octets()),
            }
            tag.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        }
        tag
    }

    /// Whose request it is. `find` gives what is kept of a username's password.
    ///
    /// # Errors
    /// See [`Denied`].
    pub fn check(
        &mut self,
        request: &Message,
        source: IpAddr,
        find: impl Fn(&str) -> Option<Ha1>,
        now: UnixTime,
    ) -> Result<String, Denied> {
        let mut denied = Denied::Missing;
        for name in ["authorization", "proxy-authorization"] {
            for text in request.all(name) {
                let Ok(read) = Credentials::parse(text) else {
                    denied = Denied::Unusable;
                    continue;
                };
                let Some(credentials) = read else { continue };
                // A phone may hold credentials for somebody else too.
                if credentials.realm != self.realm {
                    continue;
                }
                match self.check_one(&credentials, request, source, &find, now) {
                    Ok(()) => return Ok(credentials.username),
                    // One guess a request: what else it says excuses nothing.
                    Err(Denied::Wrong) => return Err(Denied::Wrong),
                    Err(reason) => denied = reason,
                }
            }
        }
        Err(denied)
    }

    fn check_one(
        &mut self,
        credentials: &Credentials,
        request: &Message,
        source: IpAddr,
        find: impl Fn(&str) -> Option<Ha1>,
        now: UnixTime,
    ) -> Result<(), Denied> {
        let algorithm = Algorithm::from_name(credentials.algorithm.as_deref()).ok_or(Denied::Unusable)?;
        let is_hexadecimal = credentials.nc.len() == 8 && credentials.nc.bytes().all(|b| b.is_ascii_hexdigit());
        if credentials.qop != "auth" || credentials.cnonce.is_empty() || !is_hexadecimal {
            return Err(Denied::Unusable);
        }
        let count = u32::from_str_radix(&credentials.nc, 16).map_err(|_| Denied::Unusable)?;
        if !same_target(&credentials.uri, request.request_uri()) {
            return Err(Denied::Unusable);
        }
        let nonce = self.own_nonce(&credentials.nonce, source)?;
        let ha1 = find(&credentials.username).ok_or(Denied::Wrong)?;
        let ha2 = algorithm.hash(&[request.method(), &credentials.uri]);
        let parts = [ha1.of(algorithm), &credentials.nonce, &credentials.nc, &credentials.cnonce, "auth", &ha2];
        if !is_same(&algorithm.hash(&parts), &credentials.response.to_ascii_lowercase()) {
            return Err(Denied::Wrong);
        }
        self.use_up(nonce, count, now)
    }

    /// One of ours, whether it is over or not.
    fn own_nonce(&self, text: &str, source: IpAddr) -> Result<[u8; 16], Denied> {
        // Another's, or of an earlier run of this edge, or given to another source: a new one is all that is needed.
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| Denied::Stale)?;
        let bytes: [u8; NONCE_BYTES] = bytes.try_into().map_err(|_| Denied::Stale)?;
        if self.tag(&bytes[..16], source) != bytes[16..] {
            return Err(Denied::Stale);
        }
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&bytes[..16]);
        Ok(nonce)
    }

    fn use_up(&mut self, nonce: [u8; 16], count: u32, now: UnixTime) -> Result<(), Denied> {
        let (made, salt) = halves(&nonce);
        if (made, salt) < self.not_before || made + NONCE_SECS < now.0 || made > now.0 || count == 0 {
            return Err(Denied::Stale);
        }
        self.forget(now);
        let Some(used) = self.used.get_mut(&nonce) else {
            self.used.insert(nonce, Used { highest: count, seen: 1 });
            self.by_age.insert((made, salt), nonce);
            return Ok(());
        };
        if count > used.highest {
            used.seen = used.seen.checked_shl(count - used.highest).unwrap_or(0) | 1;
            used.highest = count;
            return Ok(());
        }
        let bit = 1_u64.checked_shl(used.highest - count).ok_or(Denied::Stale)?;
        if used.seen & bit != 0 {
            return Err(Denied::Stale);
        }
        used.seen |= bit;
        Ok(())
    }

    /// Drops what is over, and of the rest the oldest if there are too many.
    fn forget(&mut self, now: UnixTime) {
        while let Some((&(made, salt), nonce)) = self.by_age.first_key_value() {
            let is_over = made + NONCE_SECS < now.0;
            if !is_over && self.used.len() < NONCES_MAX {
                return;
            }
            if !is_over {
                self.not_before = (made, salt.saturating_add(1));
            }
            self.used.remove(nonce);
            self.by_age.remove(&(made, salt));
        }
    }
}

fn halves(nonce: &[u8; 16]) -> (u64, u64) {
    let number = u128::from_be_bytes(*nonce);
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of it")]
    (((number >> 64) as u64), number as u64)
}

/// What a phone is offered. Baresip before 2.0, and SIPp, give up where they are offered an algorithm that they don't know, even beside one that they do.
fn algorithms(user_agent: &str) -> &'static [Algorithm] {
    let knows_md5_alone = ["baresip v0.", "baresip v1.", "SIPp"].iter().any(|agent| user_agent.starts_with(agent));
    if knows_md5_alone { &[Algorithm::Md5] } else { &[Algorithm::Sha256, Algorithm::Md5] }
}

/// The same user at the same host: phones differ in parameters between the two places.
fn same_target(claimed: &str, actual: &str) -> bool {
    if claimed == actual {
        return true;
    }
    match (SipUri::parse(claimed), SipUri::parse(actual)) {
        (Ok(claimed), Ok(actual)) => (claimed.user, claimed.host, claimed.port) == (actual.user, actual.host, actual.port),
        _ => false,
    }
}

/// Compares digests of the texts, so that the time it takes tells nothing of them.
fn is_same(a: &str, b: &str) -> bool {
    Sha256::digest(a.as_bytes()) == Sha256::digest(b.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000);
    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn register(authenticator: &Authenticator, which: usize, nc: u32, password: &str, made: UnixTime) -> Message {
        let mut asked = Message::request("REGISTER", "sip:example");
        asked.start = super::super::message::Start::Response { status: 401, reason: String::new() };
        let challenge = authenticator.challenges(&asked, SOURCE, made, [7; 8], false)[which].clone();
        asked.add("www-authenticate", challenge);
        let challenge = Challenge::of(&asked).expect("a challenge");
        let mut request = Message::request("REGISTER", "sip:example");
        request.add("authorization", challenge.answer("bob", password, "REGISTER", "sip:example", nc, "c"));
        request
    }

    fn find(user: &str) -> Option<Ha1> {
        (user == "bob").then(|| Ha1::new("bob", "halloo", "secret"))
    }

    #[test]
    fn the_example_of_rfc_7616_is_ours_too() {
        let ha1 = Ha1::new("Mufasa", "http-auth@example.org", "Circle of Life");
        let response = |algorithm: Algorithm| {
            let ha2 = algorithm.hash(&["GET", "/dir/index.html"]);
            let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
            let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
            algorithm.hash(&[ha1.of(algorithm), nonce, "00000001", cnonce, "auth", &ha2])
        };
        assert_eq!(response(Algorithm::Md5), "8ca523f5e9506fed4657c9700eebdbec");
        assert_eq!(response(Algorithm::Sha256), "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1");
    }

    #[test]
    fn every_number_counts_once_with_either_algorithm_far_beyond_255() {
        for which in [0, 1] {
            let mut authenticator = Authenticator::new("halloo", [1; 32]);
            for nc in (1..=300).chain([1_000, 999, 70_000]) {
                let request = register(&authenticator, which, nc, "secret", NOW);
                assert_eq!(authenticator.check(&request, SOURCE, find, NOW), Ok("bob".to_owned()), "{nc}");
                assert_eq!(authenticator.check(&request, SOURCE, find, NOW), Err(Denied::Stale), "{nc} again");
            }
            let old = register(&authenticator, which, 300, "secret", NOW);
            assert_eq!(authenticator.check(&old, SOURCE, find, NOW), Err(Denied::Stale), "beyond the window");
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let mut authenticator = Authenticator::new("halloo", [1; 32]);
        let later = NOW.plus_secs(NONCE_SECS + 1);
        let good = register(&authenticator, 0, 1, "secret", NOW);
        let foreign = register(&Authenticator::new("halloo", [2; 32]), 0, 1, "secret", NOW);
        for (request, now, expected) in [
            (Message::request("REGISTER", "sip:example"), NOW, Denied::Missing),
            (register(&authenticator, 0, 1, "guess", NOW), NOW, Denied::Wrong),
            (foreign, NOW, Denied::Stale),
            (good.clone(), later, Denied::Stale),
        ] {
            assert_eq!(authenticator.check(&request, SOURCE, find, now), Err(expected));
        }
        let mut elsewhere = good.clone();
        elsewhere.start = super::super::message::Start::Request { method: "REGISTER".into(), uri: "sip:other".into() };
        assert_eq!(authenticator.check(&elsewhere, SOURCE, find, NOW), Err(Denied::Unusable));
        let mut method = good.clone();
        method.start = super::super::message::Start::Request { method: "INVITE".into(), uri: "sip:example".into() };
        assert_eq!(authenticator.check(&method, SOURCE, find, NOW), Err(Denied::Wrong));
        assert_eq!(authenticator.check(&good, SOURCE, find, NOW), Ok("bob".to_owned()));
    }

    #[test]
    fn a_nonce_under_a_forged_source_is_stale_and_no_wrong_password() {
        let mut authenticator = Authenticator::new("halloo", [1; 32]);
        let guess = register(&authenticator, 0, 1, "guess", NOW);
        let victim = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!(authenticator.check(&guess, victim, find, NOW), Err(Denied::Stale));
        assert_eq!(authenticator.check(&guess, SOURCE, find, NOW), Err(Denied::Wrong));
        let mut many = register(&authenticator, 0, 1, "guess", NOW);
        let foreign = register(&Authenticator::new("halloo", [2; 32]), 0, 1, "secret", NOW);
        many.add("authorization", foreign.get("authorization").expect("credentials").to_owned());
        assert_eq!(authenticator.check(&many, SOURCE, find, NOW), Err(Denied::Wrong), "a stale line hides no guess");
        let good = register(&authenticator, 0, 1, "secret", NOW);
        assert_eq!(authenticator.check(&good, victim, find, NOW), Err(Denied::Stale));
        assert_eq!(authenticator.check(&good, SOURCE, find, NOW), Ok("bob".to_owned()));
    }

    #[test]
    fn forgetting_a_nonce_ends_it() {
        let mut authenticator = Authenticator::new("halloo", [1; 32]);
        let first = register(&authenticator, 0, 1, "secret", NOW);
        assert_eq!(authenticator.check(&first, SOURCE, find, NOW), Ok("bob".to_owned()));
        for n in 0..NONCES_MAX as u64 {
            let (made, mut nonce) = (NOW.0 + 1, [0; 16]);
            nonce[..8].copy_from_slice(&made.to_be_bytes());
            nonce[8..].copy_from_slice(&n.to_be_bytes());
            authenticator.use_up(nonce, 1, NOW.plus_secs(1)).expect("a fresh one");
        }
        assert!(authenticator.used.len() <= NONCES_MAX);
        // Of one second, the older ones are over first.
        let of = |n: u64| {
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&(NOW.0 + 1).to_be_bytes());
            nonce[8..].copy_from_slice(&n.to_be_bytes());
            nonce
        };
        let fresh = NONCES_MAX as u64;
        assert_eq!(authenticator.use_up(of(fresh), 1, NOW.plus_secs(1)), Ok(()));
        assert_eq!(authenticator.use_up(of(0), 2, NOW.plus_secs(1)), Err(Denied::Stale));
        assert_eq!(authenticator.use_up(of(fresh - 1), 2, NOW.plus_secs(1)), Ok(()));
        assert_eq!(authenticator.check(&first, SOURCE, find, NOW.plus_secs(1)), Err(Denied::Stale));
    }
}
