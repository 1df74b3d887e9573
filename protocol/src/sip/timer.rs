//! Session timers (RFC 4028): a call whose other end has gone without a word ends.

use std::time::{Duration, Instant};

use super::message::Message;

/// What is asked for where the phone asks for nothing.
pub const INTERVAL_SECS: u32 = 1_800;

/// The longest interval taken: a phone that is gone is missed after it.
const INTERVAL_SECS_MAX: u32 = 7_200;

/// The shortest that is taken (RFC 4028 section 4).
pub const INTERVAL_SECS_MIN: u32 = 90;

/// Who sends the refreshing re-INVITE or UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresher {
    /// This end.
    Us,
    /// The phone.
    Phone,
}

/// The timer of a call with a phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimer {
    /// Seconds between refreshes.
    pub interval_secs: u32,
    /// Who refreshes.
    pub refresher: Refresher,
    /// When the session was last known to be alive at both ends.
    since: Instant,
    /// When a refresh of ours is to be sent, the first one or another.
    refresh_at: Instant,
}

/// How long a refresh of ours that gets no final answer is waited for: as long as its transaction lasts where nothing comes at all.
const REFRESH_LASTS: Duration = Duration::from_secs(32);

/// How long after a refresh that met one of the phone's the next is sent (RFC 3261 section 14.1: 2.1 to 4 seconds for who made the Call-ID).
const RETRY_AFTER_GLARE: Duration = Duration::from_secs(3);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Refresh: half of the interval is over.
    Refresh,
    /// The phone is gone: end the call.
    End,
}

impl SessionTimer {
    /// For a request that the phone sent. Where it knows no timers, we refresh; where it does, it, unless it says otherwise.
    ///
    /// # Errors
    /// The shortest interval taken, for a 422 with `Min-SE`.
    pub fn asked(request: &Message, now: Instant) -> Result<Self, u32> {
        let knows = request.lists("supported", "timer");
        let asked = request.get("session-expires");
        let interval_secs = asked.and_then(interval).unwrap_or(INTERVAL_SECS).min(INTERVAL_SECS_MAX);
        if interval_secs < INTERVAL_SECS_MIN {
            // One that doesn't know timers hasn't asked: a proxy on the way has, and may raise it.
            return if knows { Err(INTERVAL_SECS_MIN) } else { Ok(Self::new(INTERVAL_SECS_MIN, Refresher::Us, now)) };
        }
        let refresher = match asked.and_then(refresher) {
            Some("uas") => Refresher::Us,
            Some(_) => Refresher::Phone,
            None if knows => Refresher::Phone,
            None => Refresher::Us,
        };
        Ok(Self::new(interval_secs, refresher, now))
    }

    /// By the phone's 2xx to our request.
    #[must_use]
    pub fn answered(response: &Message, now: Instant) -> Self {
        let said = response.get("session-expires");
        let interval_secs = said.and_then(interval).unwrap_or(INTERVAL_SECS).clamp(INTERVAL_SECS_MIN, INTERVAL_SECS_MAX);
        let refresher = if said.and_then(refresher) == Some("uas") { Refresher::Phone } else { Refresher::Us };
        Self::new(interval_secs, refresher, now)
    }

    fn new(interval_secs: u32, refresher: Refresher, since: Instant) -> Self {
        let half = Duration::from_secs(interval_secs.into()) / 2;
        Self { interval_secs, refresher, since, refresh_at: since + half }
    }

    /// The session was refreshed: the other end has answered.
    pub fn refreshed(&mut self, now: Instant) {
        *self = Self::new(self.interval_secs, self.refresher, now);
    }

    /// A refresh of ours is on its way. It counts once it is answered; until then the session runs out as before.
    pub fn refreshing(&mut self, now: Instant) {
        self.refresh_at = now + REFRESH_LASTS;
    }

    /// A refresh of ours met a request of the phone's (491): another one follows soon.
    pub fn crossed(&mut self, now: Instant) {
        self.refresh_at = now + RETRY_AFTER_GLARE;
    }

    /// `Session-Expires` for an answer of ours.
    #[must_use]
    pub fn header(&self) -> String {
        let refresher = if self.refresher == Refresher::Us { "uas" } else { "uac" };
        format!("{};refresher={refresher}", self.interval_secs)
    }

    /// When something is due, and what (RFC 4028 section 10): who refreshes does so at half time; whoever refreshes, a session that nobody has refreshed is
    /// ended a little before its time is over.
    #[must_use]
    pub fn due(&self) -> (Instant, Due) {
        let whole = Duration::from_secs(self.interval_secs.into());
        let end = self.since + whole - (whole / 3).min(Duration::from_secs(32));
        match self.refresher {
            Refresher::Us if self.refresh_at < end => (self.refresh_at, Due::Refresh),
            _ => (end, Due::End),
        }
    }
}

fn interval(text: &str) -> Option<u32> {
    super::message::seconds(text.split(';').next()?)
}

fn refresher(text: &str) -> Option<&str> {
    text.split(';').skip(1).find_map(|param| param.trim().strip_prefix("refresher=")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite(supported: bool, expires: Option<&str>) -> Message {
        let mut message = Message::request("INVITE", "sip:a@b");
        if supported {
            message.add("supported", "100rel, timer");
        }
        if let Some(expires) = expires {
            message.add("session-expires", expires);
        }
        message
    }

    #[test]
    fn who_refreshes_and_how_often() {
        let now = Instant::now();
        for (supported, expires, expected) in [
            (false, None, Ok((1_800, Refresher::Us))),
            (true, None, Ok((1_800, Refresher::Phone))),
            (true, Some("600"), Ok((600, Refresher::Phone))),
            (true, Some("600;refresher=uas"), Ok((600, Refresher::Us))),
            (true, Some("600 ; refresher=uac"), Ok((600, Refresher::Phone))),
            (true, Some("60"), Err(90)),
            (false, Some("60"), Ok((90, Refresher::Us))),
            (true, Some("99999999999"), Ok((INTERVAL_SECS_MAX, Refresher::Phone))),
        ] {
            let timer = SessionTimer::asked(&invite(supported, expires), now).map(|timer| (timer.interval_secs, timer.refresher));
            assert_eq!(timer, expected, "{supported} {expires:?}");
        }
    }

    #[test]
    fn a_silent_phone_is_noticed_before_the_interval_is_over() {
        let now = Instant::now();
        let mut timer = SessionTimer::asked(&invite(true, Some("90")), now).expect("a timer");
        assert_eq!(timer.due(), (now + Duration::from_secs(60), Due::End));
        timer.refreshed(now + Duration::from_secs(50));
        assert_eq!(timer.due(), (now + Duration::from_secs(110), Due::End));
        let ours = SessionTimer::answered(&invite(true, Some("600;refresher=uac")), now);
        assert_eq!(ours.due(), (now + Duration::from_secs(300), Due::Refresh));
    }

    #[test]
    fn a_refresh_that_nobody_answers_doesnt_keep_a_call() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut ours = SessionTimer::answered(&invite(true, Some("600;refresher=uac")), start);
        ours.refreshing(at(300));
        assert_eq!(ours.due(), (at(332), Due::Refresh), "tried again");
        ours.crossed(at(301));
        assert_eq!(ours.due(), (at(304), Due::Refresh), "soon, after it met one of the phone's");
        ours.refreshing(at(540));
        assert_eq!(ours.due(), (at(568), Due::End));
        ours.refreshed(at(541));
        assert_eq!(ours.due(), (at(841), Due::Refresh));
    }
}
