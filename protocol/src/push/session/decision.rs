//! The client's decision on a session initiation request: a pure function with its reason.
//!
//! Order: whatever shows that the request isn't from a gateway of ours, isn't for us or isn't fresh, is ignored, as if nothing were here; then what this
//! client can't or its user won't is refused; then the user is asked, if they want to be.

use std::collections::BTreeMap;

use super::{
    Acceptance, Activation, Application, Asks, Sends, SessionInitiation, SessionMode, SessionNonce, SessionPreferences,
    SessionReason, Subscription,
};
use crate::directory::Helper;
use crate::identity::UserId;
use crate::key::DeviceKey;
use crate::push::Identifier;
use crate::time::{CLOCK_TOLERANCE_SECS, UnixTime};
use crate::wire::Signed;

/// Most requests that are remembered as taken; further ones are ignored until some have expired.
pub const SEEN_MAX: usize = 256;

/// What a client knows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Whose client it is.
    pub identity: &'a UserId,
    /// Its identifiers, in normal form.
    pub identifiers: &'a [Identifier],
    /// Its applications.
    pub applications: &'a [Application],
    /// What its user prefers.
    pub preferences: &'a SessionPreferences,
    /// The gateways it is subscribed to.
    pub subscriptions: &'a [Subscription],
    /// The servers it has a session with.
    pub sessions: &'a [DeviceKey],
    /// What its user said to this request, if asked.
    pub choice: Option<bool>,
}

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Ignore(SessionReason),
    /// Ask the user.
    Ask(Opening),
    /// Open a session.
    Open(Opening),
    /// Say no.
    Refuse {
        /// Why.
        reason: SessionReason,
        /// Where to say it by connecting, if that was asked for; the answer on a stream says it in any case.
        tell: Option<Helper>,
    },
}

/// How a session is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Where to connect.
    pub server: Helper,
    /// What to activate, and when.
    pub activate: Option<Activation>,
    /// What to return: what was asked for and may be told.
    pub returns: Asks,
    /// What to send.
    pub sends: Sends,
}

/// Decides on a request. `is_new` is [`SeenNonces::check`]'s word on it, or `Ok` for one that the user was asked about.
#[must_use]
pub fn decide(
    request: &Signed<SessionInitiation>,
    client: &Client<'_>,
    is_new: Result<(), SessionReason>,
    now: UnixTime,
) -> Decision {
    match believe(request, client, now).and_then(|initiation| {
        is_new?;
        is_for(initiation, client).map(|()| initiation)
    }) {
        Ok(initiation) => judge(initiation, client),
        Err(reason) => Decision::Ignore(reason),
    }
}

/// Is it from a gateway of ours, and of now?
fn believe<'a>(
    request: &'a Signed<SessionInitiation>,
    client: &Client<'_>,
    now: UnixTime,
) -> Result<&'a SessionInitiation, SessionReason> {
    let gateway = request.unverified().gateway;
    // Cheapest first: anybody can make us check signatures.
    if !client.subscriptions.iter().any(|known| known.gateway == gateway) {
        return Err(SessionReason::NOT_SUBSCRIBED);
    }
    let initiation = request.verify(&gateway.0).map_err(|_| SessionReason::SIGNATURE)?;
    if initiation.created_at.is_from_the_future(now) {
        return Err(SessionReason::FUTURE);
    }
    if now > initiation.expires_at.plus_secs(CLOCK_TOLERANCE_SECS) {
        return Err(SessionReason::EXPIRED);
    }
    Ok(initiation)
}

/// Is it for us, and not done already?
fn is_for(initiation: &SessionInitiation, client: &Client<'_>) -> Result<(), SessionReason> {
    if initiation.identity != *client.identity {
        return Err(SessionReason::OTHER_IDENTITY);
    }
    let is_ours = initiation.identifiers.iter().any(|wanted| client.identifiers.contains(wanted));
    let fits = match initiation.mode {
        SessionMode::One => initiation.identifiers.is_empty() || is_ours,
        SessionMode::All => true,
        SessionMode::Matching => is_ours,
    };
    if !fits {
        return Err(SessionReason::OTHER_CLIENT);
    }
    if client.sessions.contains(&initiation.server.device) {
        return Err(SessionReason::HAS_SESSION);
    }
    Ok(())
}

/// Can we, and will the user?
fn judge(initiation: &SessionInitiation, client: &Client<'_>) -> Decision {
    // A refusal goes to whoever asked, who knows where this client is; no other server learns of it.
    let is_asker = initiation.server.device == initiation.gateway;
    let tell = (initiation.asks.contains(Asks::REFUSAL) && is_asker).then(|| initiation.server.clone());
    let refuse = |reason| Decision::Refuse { reason, tell };
    let application = initiation.application.as_ref().map(|activation| activation.application.id.as_str());
    let covers = |known: &Subscription| known.gateway == initiation.gateway && known.covers(application);
    if !client.subscriptions.iter().any(covers) {
        return refuse(SessionReason::NOT_SUBSCRIBED);
    }
    let preferences = client.preferences;
    let is_unwanted = application.is_some_and(|id| preferences.unwanted.iter().any(|unwanted| unwanted == id));
    if preferences.acceptance == Acceptance::Never || is_unwanted {
        return refuse(SessionReason::PREFERENCE);
    }
    if application.is_some_and(|id| !client.applications.iter().any(|known| known.id == id)) {
        return refuse(SessionReason::NO_APPLICATION);
    }
    let opening = Opening {
        server: initiation.server.clone(),
        activate: initiation.application.clone(),
        returns: initiation.asks.and(preferences.disclosed),
        sends: initiation.sends,
    };
    match (preferences.acceptance, client.choice) {
        (_, Some(false)) => refuse(SessionReason::USER),
        (Acceptance::Ask, None) => Decision::Ask(opening),
        _ => Decision::Open(opening),
    }
}

/// The requests that were taken, for as long as they could be taken again; at most [`SEEN_MAX`].
#[derive(Clone, Debug, Default)]
pub struct SeenNonces {
    until: BTreeMap<SessionNonce, UnixTime>,
}

impl SeenNonces {
    /// Whether a request may be taken: it wasn't yet, and there is room to remember it.
    ///
    /// # Errors
    /// [`SessionReason::REPLAYED`], [`SessionReason::BUSY`].
    pub fn check(&mut self, nonce: &SessionNonce, now: UnixTime) -> Result<(), SessionReason> {
        self.until.retain(|_, until| *until >= now);
        if self.until.contains_key(nonce) {
            return Err(SessionReason::REPLAYED);
        }
        if self.until.len() >= SEEN_MAX { Err(SessionReason::BUSY) } else { Ok(()) }
    }

    /// Remembers a request that is believed: those of strangers must not fill the memory.
    pub fn note(&mut self, initiation: &SessionInitiation) {
        if self.until.len() < SEEN_MAX {
            self.until.insert(initiation.nonce, initiation.expires_at.plus_secs(CLOCK_TOLERANCE_SECS + 1));
        }
    }
}
