//! This end as a client of somebody else's server: answering its challenges, and keeping a registration there.
//!
//! ```text
//! REGISTER  ------->
//!           <-------  401, a challenge
//! REGISTER  ------->  with credentials
//!           <-------  200, for so many seconds
//!                     half of them later: REGISTER again, with the next number of the same nonce
//! ```
//!
//! A server that refuses or isn't there is asked again after 5 seconds, then after twice as long each time, up to ten minutes; one that says the password
//! is wrong, or wants to be left alone for a while (`Retry-After`), after ten minutes or when it says.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use super::digest::Challenge;
use super::message::Message;

/// How long a registration is asked for, in seconds.
pub const REGISTER_SECS: u32 = 600;

/// The shortest that is kept up: a server that gives less is asked again as if it had given this.
const GRANTED_SECS_MIN: u32 = 30;

/// The longest that is believed.
const GRANTED_SECS_MAX: u32 = 24 * 3_600;

/// First pause after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(5);

/// Longest pause, and the one after a refusal that time alone doesn't mend.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Credentials at a server, and what it has asked for.
#[derive(Clone)]
pub struct ClientAuth {
    user: String,
    password: Zeroizing<String>,
    challenge: Option<(Challenge, &'static str)>,
    /// Numbers of the nonce used.
    count: u32,
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth").field("count", &self.count).finish_non_exhaustive()
    }
}

/// A challenge that can't be answered, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// None that is known here: another scheme, algorithm or protection.
    #[error("the server asks for credentials in a way that isn't known here")]
    Unknown,
    /// The server has seen the credentials, and they are wrong.
    #[error("the server says that user name or password are wrong")]
    Wrong,
}

impl ClientAuth {
    /// Of a user there.
    #[must_use]
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: Zeroizing::new(password.to_owned()), challenge: None, count: 0 }
    }

    /// Takes a 401 or 407 to a request; `had_credentials` says whether that had an answer to an earlier challenge, of which one that is over (`stale`) is
    /// worth another try.
    ///
    /// # Errors
    /// [`AuthError`]
    pub fn challenged(&mut self, response: &Message, had_credentials: bool) -> Result<(), AuthError> {
        let header = if response.status() == 407 { "proxy-authorization" } else { "authorization" };
        let challenge = Challenge::of(response).ok_or(AuthError::Unknown)?;
        // A new nonce without a word on the old one is how many servers say that it is over: once.
        let is_new = self.challenge.as_ref().is_none_or(|(before, _)| !before.is_same_nonce(&challenge));
        if had_credentials && !challenge.is_stale && (!is_new || self.count <= 1) {
            return Err(AuthError::Wrong);
        }
        if is_new {
            self.count = 0;
        }
        self.challenge = Some((challenge, header));
        Ok(())
    }

    /// Adds credentials to a request, if there was a challenge. True if it has them then.
    pub fn authorize(&mut self, request: &mut Message, client_nonce: &str) -> bool {
        let Some((challenge, header)) = &self.challenge else { return false };
        self.count = self.count.saturating_add(1);
        let (method, uri) = (request.method().to_owned(), request.request_uri().to_owned());
        let answer = challenge.answer(&self.user, &self.password, &method, &uri, self.count, client_nonce);
        request.set(header, answer);
        true
    }
}

/// How a registration stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Not answered yet.
    #[default]
    Trying,
    /// The server sends calls here.
    Registered,
    /// It doesn't, for this reason.
    Failed(String),
}

/// When to register next.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    standing: Standing,
    failures: u32,
    /// What the server wants at least (423).
    secs_min: u32,
}

impl Registration {
    /// How it stands.
    #[must_use]
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// How long to ask for, in seconds.
    #[must_use]
    pub fn secs(&self) -> u32 {
        REGISTER_SECS.max(self.secs_min)
    }

    /// The server's final answer to a REGISTER whose challenge was answered; the contact is ours. When to ask again.
    pub fn answered(&mut self, response: &Message, contact_host: &str) -> Duration {
        match response.status() {
            200..=299 => {
                self.standing = Standing::Registered;
                self.failures = 0;
                let secs = granted(response, contact_host).unwrap_or(REGISTER_SECS);
                // Half of it, so that one that is lost or refused can be made again in time.
                Duration::from_secs(u64::from(secs.clamp(GRANTED_SECS_MIN, GRANTED_SECS_MAX) / 2))
            }
            423 if self.secs_min == 0 => {
                self.secs_min = response.seconds("min-expires").unwrap_or(3_600).min(GRANTED_SECS_MAX);
                Duration::ZERO
            }
            status => {
                let pause = response.seconds("retry-after").map(|secs| Duration::from_secs(u64::from(secs)));
                let words = response.reason().to_owned();
                let pause = pause.filter(|_| status == 503).map(|pause| pause.clamp(PAUSE_MIN, PAUSE_MAX));
                self.failed(format!("{status} {words}").trim(), pause)
            }
        }
    }

    /// The credentials are wrong, and will be until somebody changes them.
    pub fn denied(&mut self, error: AuthError) -> Duration {
        self.failed(&error.to_string(), Some(PAUSE_MAX))
    }

    /// Nothing came back, or nothing could be sent.
    pub fn unreachable(&mut self, why: &str) -> Duration {
        self.failed(why, None)
    }

    fn failed(&mut self, why: &str, pause: Option<Duration>) -> Duration {
        const WORDS_MAX: usize = 200;
        self.standing = Standing::Failed(why.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect());
        let doubled = PAUSE_MIN.saturating_mul(1 << self.failures.min(7)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        pause.unwrap_or(doubled)
    }
}

/// For how long a registration holds: what stands at our contact, else for all (RFC 3261 section 10.2.4).
fn granted(response: &Message, contact_host: &str) -> Option<u32> {
    let contacts = response.contacts().unwrap_or_default();
    let ours = contacts.iter().find(|contact| contact.uri.contains(contact_host)).or(contacts.first());
    let own = ours.and_then(|contact| contact.param("expires")).and_then(super::message::seconds);
    own.or_else(|| response.seconds("expires"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)]) -> Message {
        let mut message = Message::answer(&Message::request("REGISTER", "sip:provider.example"), status, "Words", None);
        headers.iter().for_each(|(name, value)| message.add(name, *value));
        message
    }

    fn challenge(nonce: &str, more: &str) -> Message {
        let value = format!("Digest realm=\"provider\", nonce=\"{nonce}\", qop=\"auth\", algorithm=MD5{more}");
        answer(401, &[("www-authenticate", &value)])
    }

    #[test]
    fn a_challenge_is_answered_and_its_nonce_used_on_until_it_is_over() {
        let mut auth = ClientAuth::new("alice", "secret");
        let mut request = Message::request("REGISTER", "sip:provider.example");
        assert!(!auth.authorize(&mut request, "c"), "nothing was asked yet");
        assert_eq!(auth.challenged(&challenge("one", ""), false), Ok(()));
        assert!(auth.authorize(&mut request, "c"));
        assert!(request.get("authorization").is_some_and(|value| value.contains("nc=00000001")));
        assert!(auth.authorize(&mut request, "c"));
        assert!(request.get("authorization").is_some_and(|value| value.contains("nc=00000002")));
        assert_eq!(request.all("authorization").count(), 1);
        assert_eq!(auth.challenged(&challenge("two", ""), true), Ok(()), "another nonce after a good while");
        assert!(auth.authorize(&mut request, "c"));
        assert!(request.get("authorization").is_some_and(|value| value.contains("nc=00000001")));
        assert_eq!(auth.challenged(&challenge("three", ", stale=true"), true), Ok(()));
        assert!(auth.authorize(&mut request, "c"));
        assert_eq!(auth.challenged(&challenge("four", ""), true), Err(AuthError::Wrong), "at once: the password is wrong");
        assert_eq!(auth.challenged(&answer(401, &[("www-authenticate", "Basic realm=\"x\"")]), false), Err(AuthError::Unknown));
        assert!(!format!("{auth:?}").contains("secret"));
    }

    #[test]
    fn a_proxy_is_answered_by_the_header_for_proxies_and_without_qop_as_of_old() {
        let mut auth = ClientAuth::new("alice", "secret");
        let asked = answer(407, &[("proxy-authenticate", "Digest realm=\"provider\", nonce=\"n\"")]);
        assert_eq!(auth.challenged(&asked, false), Ok(()));
        let mut request = Message::request("INVITE", "sip:+49@provider.example");
        auth.authorize(&mut request, "c");
        let value = request.get("proxy-authorization").expect("credentials");
        assert!(!value.contains("qop") && !value.contains("nc="), "{value}");
    }

    #[test]
    fn a_registration_is_renewed_in_time_and_failures_come_less_often() {
        let mut registration = Registration::default();
        let ours = ("contact", "<sip:other@192.0.2.9>;expires=60, <sip:a@192.0.2.1:5080>;expires=300");
        assert_eq!(registration.answered(&answer(200, &[ours]), "192.0.2.1:5080"), Duration::from_secs(150));
        assert_eq!(registration.standing(), &Standing::Registered);
        assert_eq!(registration.answered(&answer(200, &[("expires", "1")]), "x"), Duration::from_secs(15));
        let pauses: Vec<u64> = (0..9).map(|_| registration.unreachable("no answer").as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(registration.standing(), &Standing::Failed("no answer".to_owned()));
        assert_eq!(registration.denied(AuthError::Wrong), PAUSE_MAX);
        assert_eq!(registration.answered(&answer(503, &[("retry-after", "20")]), "x"), Duration::from_secs(20));
        assert_eq!(registration.answered(&answer(403, &[]), "x"), PAUSE_MAX);
        assert_eq!(registration.standing(), &Standing::Failed("403 Words".to_owned()));
        assert_eq!(registration.answered(&answer(423, &[("min-expires", "1800")]), "x"), Duration::ZERO);
        assert_eq!(registration.secs(), 1_800);
    }
}
