//! What a user's phones say of the user: publications (RFC 3903), words over INFO, and what they come to together.
//!
//! A publication is soft state: it ends by itself, and each answer names it anew ([`Published::etag`]), so that a phone that comes back from nowhere can't change
//! what another has said meanwhile. Never reads the clock.

use std::time::{Duration, Instant};

use super::pidf::{Activity, Basic, Presence, Tuple};
use crate::presence::{MOOD_BYTES_MAX, State};
use crate::sip::transaction::Flow;

/// Publications of one account: one for each phone that it may have, and as many again for those that have lost their names.
pub const PUBLICATIONS_MAX: usize = 20;
/// How long one lasts at most, and where nothing is asked for.
pub const EXPIRES_SECS_MAX: u32 = 3_600;
/// How long at least; less is answered with 423.
pub const EXPIRES_SECS_MIN: u32 = 60;

/// What is said of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// What they are.
    pub state: State,
    /// What they say of themselves, at most [`MOOD_BYTES_MAX`] bytes; empty for nothing.
    pub mood: String,
}

impl Word {
    /// What a document comes to: not to be reached is offline, else what they are doing decides. On the phone is away: whoever is may take another call.
    #[must_use]
    pub fn of(presence: &Presence) -> Self {
        let does = |activities: &[Activity]| presence.activities.iter().any(|activity| activities.contains(activity));
        let state = if presence.is_open() == Some(false) {
            State::Offline
        } else if does(&[Activity::Busy, Activity::Meeting]) {
            State::Dnd
        } else if does(&[Activity::Away, Activity::OnThePhone, Activity::Sleeping]) {
            State::Away
        } else {
            State::Online
        };
        let note = presence.note.as_ref().or_else(|| presence.tuples.iter().find_map(|tuple| tuple.note.as_ref()));
        Self { state, mood: mood(note.map_or("", String::as_str)) }
    }

    /// The document that says it of a user, `sip:` URI.
    #[must_use]
    pub fn document(&self, uri: &str) -> Presence {
        let basic = if self.state == State::Offline { Basic::Closed } else { Basic::Open };
        let activities = match self.state {
            State::Away => vec![Activity::Away],
            State::Dnd => vec![Activity::Busy],
            _ => Vec::new(),
        };
        let tuple = Tuple { id: "halloo".to_owned(), basic: Some(basic), contact: Some(uri.to_owned()), note: None };
        let note = (!self.mood.is_empty()).then(|| self.mood.clone());
        Presence { entity: uri.to_owned(), tuples: vec![tuple], activities, note }
    }
}

/// Words of a mood, as many as it may have.
#[must_use]
pub fn mood(text: &str) -> String {
    let mut end = text.len().min(MOOD_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// Why a publication isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// 423, with `Min-Expires`.
    #[error("a publication lasts {EXPIRES_SECS_MIN} seconds at least")]
    TooBrief,
    /// 412: the name is none of ours, or not any more.
    #[error("no publication has this SIP-ETag")]
    Unknown,
    /// 400: a first publication without document.
    #[error("nothing is published")]
    Nothing,
    /// 503
    #[error("an account has {PUBLICATIONS_MAX} publications at most")]
    TooMany,
}

impl PublishError {
    /// The status to refuse with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::TooBrief => 423,
            Self::Unknown => 412,
            Self::Nothing => 400,
            Self::TooMany => 503,
        }
    }
}

/// A publication was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its name from now on.
    pub etag: String,
    /// How long it lasts, in seconds; 0: it is gone.
    pub expires_secs: u32,
}

#[derive(Clone, Debug)]
struct Publication {
    etag: String,
    word: Word,
    flow: Flow,
    at: Instant,
    expires_at: Instant,
}

/// The publications of one account.
#[derive(Clone, Debug, Default)]
pub struct Publications(Vec<Publication>);

impl Publications {
    /// Takes a PUBLISH: `if_match` its `SIP-If-Match`, `word` its document, `expires` what it asks for, `etag` a name that nobody guesses.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn publish(
        &mut self,
        if_match: Option<&str>,
        word: Option<Word>,
        expires: Option<u32>,
        etag: String,
        flow: Flow,
        now: Instant,
    ) -> Result<Published, PublishError> {
        self.expire(now);
        let expires_secs = expires.unwrap_or(EXPIRES_SECS_MAX).min(EXPIRES_SECS_MAX);
        if (1..EXPIRES_SECS_MIN).contains(&expires_secs) {
            return Err(PublishError::TooBrief);
        }
        let expires_at = now + Duration::from_secs(expires_secs.into());
        let Some(known) = if_match else {
            let word = word.ok_or(PublishError::Nothing)?;
            if expires_secs > 0 {
                if self.0.len() >= PUBLICATIONS_MAX {
                    return Err(PublishError::TooMany);
                }
                self.0.push(Publication { etag: etag.clone(), word, flow, at: now, expires_at });
            }
            return Ok(Published { etag, expires_secs });
        };
        let place = self.0.iter().position(|publication| publication.etag == known).ok_or(PublishError::Unknown)?;
        if expires_secs == 0 {
            self.0.swap_remove(place);
            return Ok(Published { etag: known.to_owned(), expires_secs });
        }
        if let Some(publication) = self.0.get_mut(place) {
            etag.clone_into(&mut publication.etag);
            (publication.flow, publication.expires_at) = (flow, expires_at);
            if let Some(word) = word {
                (publication.word, publication.at) = (word, now);
            }
        }
        Ok(Published { etag, expires_secs })
    }

    /// Drops what has ended. True if something has.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|publication| publication.expires_at > now);
        self.0.len() != before
    }

    /// When the next one ends.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.0.iter().map(|publication| publication.expires_at).min()
    }

    /// What is said, by which phone, and since when.
    pub fn words(&self) -> impl Iterator<Item = Said<'_>> {
        self.0.iter().map(|publication| Said { word: &publication.word, flow: publication.flow, at: publication.at })
    }
}

/// A phone's word.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// What.
    pub word: &'a Word,
    /// By the phone there.
    pub flow: Flow,
    /// Since when.
    pub at: Instant,
}

/// What an account's phones come to: as with a user's devices, not to be disturbed wins, then online, then away. A phone that is registered and says nothing counts
/// as online where no other says more than offline. The mood is the newest. `None` for the mood: nobody has said anything of it.
#[must_use]
pub fn together(words: &[Said<'_>], phones: &[Flow]) -> (State, Option<String>) {
    let best = words.iter().map(|said| said.word.state).max();
    let is_silent = |phone: &&Flow| !words.iter().any(|said| said.flow == **phone);
    let state = match best {
        Some(state) if state != State::Offline => state,
        _ if phones.iter().any(|phone| is_silent(&phone)) => State::Online,
        _ => State::Offline,
    };
    (state, words.iter().max_by_key(|said| said.at).map(|said| said.word.mood.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::transaction::Transport;

    fn flow(port: u16) -> Flow {
        Flow { transport: Transport::Udp, peer: ([127, 0, 0, 1], port).into(), connection: 0 }
    }

    fn word(state: State, mood: &str) -> Option<Word> {
        Some(Word { state, mood: mood.to_owned() })
    }

    #[test]
    fn a_publication_is_named_anew_refreshed_and_removed() {
        let (mut all, start) = (Publications::default(), Instant::now());
        let first = all.publish(None, word(State::Dnd, "busy"), Some(120), "a".into(), flow(1), start);
        assert_eq!(first, Ok(Published { etag: "a".into(), expires_secs: 120 }));
        let refreshed = all.publish(Some("a"), None, None, "b".into(), flow(1), start).unwrap();
        assert_eq!((refreshed.etag.as_str(), refreshed.expires_secs), ("b", EXPIRES_SECS_MAX));
        assert_eq!(all.publish(Some("a"), None, None, "c".into(), flow(1), start), Err(PublishError::Unknown));
        assert_eq!(together(&all.words().collect::<Vec<_>>(), &[flow(1)]), (State::Dnd, Some("busy".into())));
        assert!(all.publish(Some("b"), word(State::Away, ""), Some(60), "d".into(), flow(1), start).is_ok());
        assert_eq!(all.poll_timeout(), Some(start + Duration::from_secs(60)));
        assert!(!all.expire(start + Duration::from_secs(59)) && all.expire(start + Duration::from_secs(60)));
        assert_eq!(all.publish(Some("d"), None, Some(0), "e".into(), flow(1), start), Err(PublishError::Unknown));
        assert!(all.publish(None, word(State::Away, ""), None, "f".into(), flow(1), start).is_ok());
        assert_eq!(all.publish(Some("f"), None, Some(0), "g".into(), flow(1), start).map(|gone| gone.expires_secs), Ok(0));
        assert_eq!(all.words().count(), 0);
    }

    #[test]
    fn what_cant_be_taken_is_refused() {
        let (mut all, now) = (Publications::default(), Instant::now());
        assert_eq!(all.publish(None, None, None, "a".into(), flow(1), now), Err(PublishError::Nothing));
        assert_eq!(all.publish(None, word(State::Away, ""), Some(59), "a".into(), flow(1), now), Err(PublishError::TooBrief));
        for number in 0..PUBLICATIONS_MAX {
            assert!(all.publish(None, word(State::Away, ""), None, number.to_string(), flow(1), now).is_ok());
        }
        assert_eq!(all.publish(None, word(State::Away, ""), None, "a".into(), flow(1), now), Err(PublishError::TooMany));
    }

    #[test]
    fn phones_come_to_what_is_most() {
        let at = Instant::now();
        let words = [State::Offline, State::Away, State::Online, State::Dnd].map(|state| Word { state, mood: String::new() });
        let said = |number: usize| Said { word: &words[number], flow: flow(number as u16), at };
        assert_eq!(together(&[], &[]).0, State::Offline, "no phone");
        assert_eq!(together(&[], &[flow(7)]), (State::Online, None));
        assert_eq!(together(&[said(0)], &[flow(0)]).0, State::Offline);
        assert_eq!(together(&[said(0)], &[flow(0), flow(7)]).0, State::Online, "another phone rings");
        assert_eq!(together(&[said(1)], &[flow(1), flow(7)]).0, State::Away);
        assert_eq!(together(&[said(0), said(1), said(2)], &[]).0, State::Online);
        assert_eq!(together(&[said(3), said(2)], &[]).0, State::Dnd);
    }

    #[test]
    fn words_and_documents_are_the_same() {
        for state in [State::Offline, State::Away, State::Online, State::Dnd] {
            let word = Word { state, mood: "in <town>".to_owned() };
            let read = Presence::parse(word.document("sip:a@b").to_xml().as_bytes()).unwrap();
            assert_eq!(Word::of(&read), word);
        }
        assert_eq!(mood(&"ä".repeat(200)).len(), 280);
    }
}
