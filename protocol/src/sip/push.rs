//! Push parameters of phones (RFC 8599): what a phone's app says in `Contact` of how it is woken, what it is told of what can be done, and when that is done.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::registrar::RegisterError;
use super::uri::{NameAddr, SipUri, unescape};
use crate::push::PushWay;
use crate::push::phone::{PhonePushed, PhoneTarget};

/// The longest value of a parameter, escaped: an address at a push service has up to a kilobyte.
const PARAM_BYTES_MAX: usize = 3 * 1_024;

/// How long before its end a registration is refreshed, in seconds (RFC 8599 section 4.1.2 recommends 120), or half of its time, if that is less.
pub const REFRESH_BEFORE_SECS: u64 = 120;

/// How long an app that was asked to come isn't asked again: a call may try soon, everything else is told at once when it comes.
const CALL_PAUSE: Duration = Duration::from_secs(5);
const OTHER_PAUSE: Duration = Duration::from_secs(55);

/// How a phone's app is woken (RFC 8599 section 4.1): two with the same values are the same app.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PushParams {
    /// `fcm`, `apns`, `webpush`.
    pub provider: String,
    /// Names the app at that service, unescaped.
    pub param: String,
    /// Names the app's installation there, unescaped. A secret.
    pub prid: String,
}

/// Whoever knows the installation's name can wake it.
impl std::fmt::Debug for PushParams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PushParams({}, ..)", self.provider)
    }
}

/// What a phone says about push in one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushWish {
    /// Nothing.
    None,
    /// It asks which services there are (RFC 8599 section 4.1.1), and can't be woken yet.
    Query,
    /// It is to be woken so.
    Wake(PushParams),
}

impl PushWish {
    /// Reads an address's parameters.
    ///
    /// # Errors
    /// [`RegisterError::PushService`] for a service that isn't known, [`RegisterError::Malformed`] for values that can't be the service's.
    pub fn of(uri: &SipUri) -> Result<Self, RegisterError> {
        let value = |name: &'static str| {
            let text = uri.param(name).unwrap_or_default();
            if text.len() > PARAM_BYTES_MAX {
                return Err(RegisterError::Malformed("a push parameter too long"));
            }
            unescape(text).map_err(|error| RegisterError::Malformed(error.0))
        };
        let provider = value("pn-provider")?.to_ascii_lowercase();
        let (param, prid) = (value("pn-param")?, value("pn-prid")?);
        if provider.is_empty() {
            let is_query = uri.params.iter().any(|(name, _)| name == "pn-provider") && prid.is_empty();
            return if is_query {
                Ok(Self::Query)
            } else if prid.is_empty() {
                Ok(Self::None)
            } else {
                Err(RegisterError::Malformed("pn-prid without pn-provider"))
            };
        }
        let params = PushParams { provider, param, prid };
        params.target()?;
        Ok(Self::Wake(params))
    }
}

impl PushParams {
    /// Whom a gateway has to wake.
    ///
    /// # Errors
    /// As [`PushWish::of`].
    pub fn target(&self) -> Result<PhoneTarget, RegisterError> {
        let malformed = RegisterError::Malformed("push parameters that aren't the service's");
        let (param, prid) = (self.param.clone(), self.prid.clone());
        let target = match way_of(&self.provider) {
            Some(PushWay::WebPush) => {
                // Other schemes are nothing that a push service has.
                if !prid.starts_with("https://") && !prid.starts_with("http://") {
                    return Err(malformed);
                }
                PhoneTarget::WebPush { endpoint: prid }
            }
            Some(PushWay::Fcm) => PhoneTarget::Fcm { project: param, token: prid },
            Some(PushWay::Apns) => {
                let (team, topic) = param.split_once('.').ok_or(malformed)?;
                let token = data_encoding::HEXLOWER_PERMISSIVE.decode(prid.as_bytes()).map_err(|_| malformed)?;
                PhoneTarget::Apns { team: team.to_owned(), topic: topic.to_owned(), token }
            }
            _ => return Err(RegisterError::PushService),
        };
        target.check().map_err(|_| malformed)?;
        Ok(target)
    }

    /// By which way of a gateway's it is woken.
    #[must_use]
    pub fn way(&self) -> Option<PushWay> {
        way_of(&self.provider)
    }
}

/// Whether the app says that it refreshes its registration by itself (RFC 8599 section 4.1.4).
#[must_use]
pub fn refreshes_itself(contact: &NameAddr) -> bool {
    contact.param("+sip.pnsreg").is_some()
}

fn way_of(provider: &str) -> Option<PushWay> {
    match provider {
        "webpush" => Some(PushWay::WebPush),
        "fcm" => Some(PushWay::Fcm),
        "apns" => Some(PushWay::Apns),
        _ => None,
    }
}

/// The `Feature-Caps` headers (RFC 6809) of the answer to a REGISTER: the services that were asked for, or all that there are. `with_refresh`: the app refreshes its registration by itself.
#[must_use]
pub fn feature_caps(offer: &PhonePushed, asked: &[PushWish], with_refresh: bool) -> Vec<String> {
    let is_query = asked.contains(&PushWish::Query);
    let is_asked = |way: PushWay| {
        let ways = asked.iter().filter_map(|wish| if let PushWish::Wake(params) = wish { params.way() } else { None });
        is_query || ways.into_iter().any(|asked| asked == way)
    };
    let shown = |way: &PushWay| {
        let mut text = format!("*;+sip.pns=\"{}\"", way.name());
        if let Some(key) = offer.vapid_key.filter(|_| *way == PushWay::WebPush) {
            text += &format!(";+sip.vapid=\"{}\"", data_encoding::BASE64URL_NOPAD.encode(&key));
        }
        if with_refresh && !is_query {
            text += &format!(";+sip.pnsreg=\"{REFRESH_BEFORE_SECS}\"");
        }
        text
    };
    offer.ways.iter().filter(|way| way_of(way.name()).is_some() && is_asked(**way)).map(shown).collect()
}

/// All services of an offer: what a phone is told whose own isn't among them.
#[must_use]
pub fn offered(offer: &PhonePushed) -> Vec<String> {
    feature_caps(offer, &[PushWish::Query], false)
}

/// Which apps were asked to come, and when: one push of a burst of events, not one for each.
#[derive(Debug, Default)]
pub struct Waking {
    asked: HashMap<(String, PushParams), Instant>,
}

impl Waking {
    /// Whether an app of an account is to be asked now. If so it counts as asked.
    pub fn begin(&mut self, account: &str, app: &PushParams, is_call: bool, now: Instant) -> bool {
        let pause = if is_call { CALL_PAUSE } else { OTHER_PAUSE };
        let key = (account.to_owned(), app.clone());
        if self.asked.get(&key).is_some_and(|at| now.saturating_duration_since(*at) < pause) {
            return false;
        }
        self.asked.insert(key, now);
        true
    }

    /// It has come, or the asking failed: the next event asks anew.
    pub fn end(&mut self, account: &str, app: &PushParams) {
        self.asked.remove(&(account.to_owned(), app.clone()));
    }

    /// Forgets those whose pause is over.
    pub fn expire(&mut self, now: Instant) {
        self.asked.retain(|_, at| now.saturating_duration_since(*at) < OTHER_PAUSE);
    }
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;
