//! What the two ends of a connection have said about needing it.
//!
//! An end that needs it no longer says so with an [empty frame](Word::NotNeeded), once; any other frame of it takes that back, [`Word::Needed`] if it has
//! nothing else to say. When both have said it the connection may close, and is no loss to either.

use std::time::{Duration, Instant};

use super::StreamError;

/// Words with nothing between them, and no more than [`IN_A_ROW`] from one to the next, that a peer may say: as often as its owner changes its mind.
const IN_A_ROW_MAX: u8 = 16;
const IN_A_ROW: Duration = Duration::from_secs(60);

/// A frame that is for the other end's handler alone: shorter than any message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The sender needs the connection no longer.
    NotNeeded,
    /// It does again.
    Needed,
}

impl Word {
    /// The word that a frame is, if it is one.
    pub(super) const fn of(frame: &[u8]) -> Option<Self> {
        match frame {
            [] => Some(Self::NotNeeded),
            [1] => Some(Self::Needed),
            _ => None,
        }
    }

    pub(super) const fn frame(self) -> &'static [u8] {
        match self {
            Self::NotNeeded => &[],
            Self::Needed => &[1],
        }
    }
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Our last word was that we don't need it.
    said: bool,
    /// The peer's was.
    heard: bool,
    in_a_row: u8,
    heard_at: Option<Instant>,
    reported: bool,
}

impl Rest {
    /// What is to be said now, by an end that keeps the connection, or for which it is idle. What came from the peer takes nothing of ours back.
    pub(super) fn say(&mut self, is_kept: bool, is_idle: bool) -> Option<Word> {
        let word = match (self.said, is_kept) {
            (true, true) => Word::Needed,
            (false, false) if is_idle => Word::NotNeeded,
            _ => return None,
        };
        self.said = word == Word::NotNeeded;
        Some(word)
    }

    /// A frame of ours has left.
    pub(super) fn frame_sent(&mut self) {
        self.said = false;
    }

    /// A frame of the peer has come.
    pub(super) fn frame_heard(&mut self) {
        (self.heard, self.in_a_row) = (false, 0);
    }

    /// A stream has opened: each end's hello goes over it.
    pub(super) fn stream_opened(&mut self) {
        (self.said, self.heard) = (false, false);
    }

    /// The peer has said a word.
    ///
    /// # Errors
    /// [`StreamError::Restless`] if it says nothing else, again and again.
    pub(super) fn hear(&mut self, word: Word, now: Instant) -> Result<(), StreamError> {
        let is_next = self.heard_at.replace(now).is_some_and(|last| now < last + IN_A_ROW);
        self.heard = word == Word::NotNeeded;
        self.in_a_row = if is_next { self.in_a_row + 1 } else { 1 };
        if self.in_a_row > IN_A_ROW_MAX { Err(StreamError::Restless) } else { Ok(()) }
    }

    /// Whether both have said that they need it no longer.
    pub(super) const fn is_agreed(&self) -> bool {
        self.said && self.heard
    }

    /// Whether it rests, if that is news.
    pub(super) fn news(&mut self, rests: bool) -> Option<bool> {
        (std::mem::replace(&mut self.reported, rests) != rests).then_some(rests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_said_once_and_taken_back_by_a_frame_or_another_word() {
        let mut rest = Rest::default();
        assert_eq!(rest.say(false, false), None);
        assert_eq!(rest.say(true, true), None, "who keeps it needs it, idle or not");
        assert_eq!(rest.say(false, true), Some(Word::NotNeeded));
        assert_eq!(rest.say(false, true), None);
        assert_eq!(rest.say(true, true), Some(Word::Needed));
        assert_eq!(rest.say(false, true), Some(Word::NotNeeded));
        rest.frame_sent();
        assert_eq!(rest.say(false, true), Some(Word::NotNeeded));
    }

    #[test]
    fn both_have_to_say_it_and_the_same_word_twice_is_the_same_word() {
        let (mut rest, now) = (Rest::default(), Instant::now());
        assert!(rest.hear(Word::NotNeeded, now).is_ok() && rest.hear(Word::NotNeeded, now).is_ok());
        assert!(!rest.is_agreed());
        assert_eq!(rest.say(false, true), Some(Word::NotNeeded));
        assert!(rest.is_agreed());
        assert!(rest.hear(Word::Needed, now).is_ok() && !rest.is_agreed());
        assert!(rest.hear(Word::NotNeeded, now).is_ok() && rest.is_agreed());
        rest.frame_heard();
        assert!(!rest.is_agreed());
    }

    #[test]
    fn whoever_says_nothing_else_is_refused_unless_it_takes_its_time() {
        let (mut hasty, mut slow, start) = (Rest::default(), Rest::default(), Instant::now());
        for number in 0..u32::from(IN_A_ROW_MAX) {
            assert!(hasty.hear(Word::NotNeeded, start).is_ok());
            assert!(slow.hear(Word::NotNeeded, start + IN_A_ROW * number).is_ok());
        }
        assert!(hasty.hear(Word::Needed, start).is_err());
        assert!(slow.hear(Word::Needed, start + IN_A_ROW * u32::from(IN_A_ROW_MAX)).is_ok());
    }
}
