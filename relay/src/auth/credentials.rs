//! The two kinds of credentials `halloo-relay` knows itself.
//!
//! - **Static users**: a name and a password, from the configuration.
//! - **Time-limited ones**: whoever shares a secret with the relay makes them for others, without telling the relay. The user name is
//!   `EXPIRY` or `EXPIRY:NAME`, EXPIRY in seconds since 1970; the password is the base64 of HMAC-SHA1 of the whole user name
//!   under the secret. Other TURN servers know the same scheme, as "TURN REST API" or `use-auth-secret`. Quotas count under NAME.
//!
//! Names and passwords are compared byte by byte: the preparation of RFC 8265, which matters for text other than ASCII, is left
//! to who writes them down.

use std::collections::HashMap;
use std::fmt;

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;

use super::{AuthRefusal, Authenticator, Grant, Identity, Key, PasswordAlgorithm, digest};
use crate::quota::ServiceClass;
use crate::time::UnixTime;

/// A static user.
#[derive(Clone)]
struct User {
    name: Box<str>,
    password: Box<str>,
    class: ServiceClass,
}

/// Static users, found by name and by hash.
#[derive(Clone, Default)]
pub struct Users {
    realm: Box<str>,
    by_name: HashMap<Box<str>, User>,
    by_hash: HashMap<[u8; 32], Box<str>>,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.by_name.len())
    }
}

impl Users {
    /// None yet. Hashes of names depend on the realm.
    #[must_use]
    pub fn new(realm: &str) -> Self {
        Self { realm: realm.into(), ..Self::default() }
    }

    /// Adds one; of two with the same name the later counts.
    pub fn insert(&mut self, name: &str, password: &str, class: ServiceClass) {
        self.by_hash.insert(userhash(name, &self.realm), name.into());
        self.by_name.insert(name.into(), User { name: name.into(), password: password.into(), class });
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    fn find(&self, identity: Identity<'_>, realm: &str) -> Option<&User> {
        match identity {
            Identity::Name(name) => self.by_name.get(name),
            Identity::Hash(hash) if *self.realm == *realm => self.by_name.get(self.by_hash.get(hash)?),
            Identity::Hash(_) => None,
        }
    }
}

/// SHA-256 of `username:realm` (RFC 8489 section 14.4).
pub(crate) fn userhash(username: &str, realm: &str) -> [u8; 32] {
    digest::<Sha256>(&[username.as_bytes(), b":", realm.as_bytes()]).into()
}

/// Static users and shared secrets.
#[derive(Clone, Default)]
pub struct Credentials {
    users: Users,
    secrets: Vec<Box<[u8]>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, {} secrets)", self.users, self.secrets.len())
    }
}

/// Secrets at a time: the one in use and those being replaced. A user name is tried against each.
pub const SECRETS_MAX: usize = 4;

impl Credentials {
    /// Knows these users, and whoever has a password made with one of these secrets. Of the secrets the first [`SECRETS_MAX`] count.
    #[must_use]
    pub fn new(users: Users, secrets: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self { users, secrets: secrets.into_iter().take(SECRETS_MAX).map(Vec::into_boxed_slice).collect() }
    }

    /// User name and password that are good until `expiry`, for `name`.
    #[must_use]
    pub fn issue(secret: &[u8], name: &str, expiry: UnixTime) -> (String, String) {
        let username = if name.is_empty() { expiry.0.to_string() } else { format!("{}:{name}", expiry.0) };
        let password = password(secret, &username);
        (username, password)
    }
}

fn password(secret: &[u8], username: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("an hmac takes keys of any length");
    mac.update(username.as_bytes());
    BASE64.encode(&mac.finalize().into_bytes())
}

/// Expiry and name of a time-limited user name.
fn parse(username: &str) -> Option<(UnixTime, &str)> {
    let (expiry, name) = username.split_once(':').unwrap_or((username, ""));
    // `parse` would take a plus sign.
    let is_number = !expiry.is_empty() && expiry.bytes().all(|byte| byte.is_ascii_digit());
    Some((UnixTime(expiry.parse().ok().filter(|_| is_number)?), name))
}

impl Authenticator for Credentials {
    fn grant(
        &self,
        identity: Identity<'_>,
        realm: &str,
        algorithm: PasswordAlgorithm,
        unix_now: UnixTime,
        is_signed: &dyn Fn(&Key) -> bool,
    ) -> Result<Grant, AuthRefusal> {
        if let Some(user) = self.users.find(identity, realm) {
            let key = Key::new(algorithm, &user.name, realm, &user.password);
            let granted = Grant { username: user.name.clone(), account: user.name.clone(), key, class: user.class };
            return if is_signed(&granted.key) { Ok(granted) } else { Err(AuthRefusal::WrongPassword) };
        }
        let Identity::Name(username) = identity else { return Err(AuthRefusal::Unknown) };
        if self.secrets.is_empty() {
            return Err(AuthRefusal::Unknown);
        }
        let (expiry, name) = parse(username).ok_or(AuthRefusal::Unknown)?;
        if expiry <= unix_now {
            return Err(AuthRefusal::Expired);
        }
        let keys = self.secrets.iter().map(|secret| Key::new(algorithm, username, realm, &password(secret, username)));
        let key = keys.into_iter().find(|key| is_signed(key)).ok_or(AuthRefusal::WrongPassword)?;
        let account = if name.is_empty() { username } else { name };
        Ok(Grant { username: username.into(), account: account.into(), key, class: ServiceClass::default() })
    }

    fn knows_hashes(&self) -> bool {
        // A time-limited name can't be found by its hash, and who holds one would be turned away.
        self.secrets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_000);
    const REALM: &str = "example.org";

    fn credentials() -> Credentials {
        let mut users = Users::new(REALM);
        users.insert("ann", "secret", ServiceClass::First);
        Credentials::new(users, [b"old".to_vec(), b"new".to_vec()])
    }

    fn granted(username: &str, password: &str, now: UnixTime) -> Result<Grant, AuthRefusal> {
        let right = Key::new(PasswordAlgorithm::Md5, username, REALM, password);
        credentials().grant(Identity::Name(username), REALM, PasswordAlgorithm::Md5, now, &|key| *key == right)
    }

    #[test]
    fn static_users_are_known_by_name_and_hash() {
        let grant = granted("ann", "secret", NOW).unwrap();
        assert_eq!((&*grant.account, grant.class), ("ann", ServiceClass::First));
        assert_eq!(granted("ann", "wrong", NOW).unwrap_err(), AuthRefusal::WrongPassword);
        assert_eq!(granted("bob", "secret", NOW).unwrap_err(), AuthRefusal::Unknown);
        let by_hash = |hash: [u8; 32], realm: &str| {
            credentials()
                .grant(Identity::Hash(&hash), realm, PasswordAlgorithm::Sha256, NOW, &|_| true)
                .map(|grant| grant.username)
        };
        assert_eq!(by_hash(userhash("ann", REALM), REALM), Ok("ann".into()));
        assert_eq!(by_hash(userhash("ann", REALM), "elsewhere"), Err(AuthRefusal::Unknown));
        assert_eq!(by_hash([0; 32], REALM), Err(AuthRefusal::Unknown));
    }

    #[test]
    fn time_limited_ones_are_good_with_each_secret_until_their_time() {
        for secret in [&b"old"[..], b"new"] {
            let (username, password) = Credentials::issue(secret, "bob", UnixTime(1_001));
            assert_eq!(username, "1001:bob");
            assert_eq!(&*granted(&username, &password, NOW).unwrap().account, "bob");
            assert_eq!(granted(&username, &password, UnixTime(1_001)).unwrap_err(), AuthRefusal::Expired);
        }
        let (username, password) = Credentials::issue(b"other", "bob", UnixTime(1_001));
        assert_eq!(granted(&username, &password, NOW).unwrap_err(), AuthRefusal::WrongPassword);
        let (username, password) = Credentials::issue(b"new", "", UnixTime(1_001));
        assert_eq!(&*granted(&username, &password, NOW).unwrap().account, "1001");
    }

    #[test]
    fn the_password_is_the_one_other_servers_expect() {
        // python3 -c 'import hmac,base64;print(base64.b64encode(hmac.new(b"north",b"1433895918:ninefingers","sha1").digest()))'
        let (username, password) = Credentials::issue(b"north", "ninefingers", UnixTime(1_433_895_918));
        assert_eq!((&*username, &*password), ("1433895918:ninefingers", "jy8hTxmOO7UtEKXqSkSlvakPVYA="));
    }

    #[test]
    fn odd_names_are_unknown() {
        for username in ["", ":bob", "+1001:bob", "-1:bob", "bob:1001", "99999999999999999999:bob", "1001 :bob"] {
            assert_eq!(granted(username, "x", NOW).unwrap_err(), AuthRefusal::Unknown, "{username}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let printed = format!("{:?} {:?}", credentials(), granted("ann", "secret", NOW));
        assert!(!printed.contains("secret\"") && !printed.contains("old"), "{printed}");
    }
}
