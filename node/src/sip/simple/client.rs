//! A client of the profile over INFO: what it is to be told, what it has been told, and what its user is by its word.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use halloo_protocol::simple::info::{Buddy, Exchange, Notice, Numbered, OUTSTANDING_MAX, Outcome, Seen, Transmit};
use halloo_protocol::simple::publication::Word;
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::registrar::Binding;
use halloo_protocol::sip::uri::address_of_user;

use super::address;
use super::text::Text;
use crate::sip::dialog::{USER_AGENT, token};

/// Notices that wait to be sent; beyond, the client's requests are refused until it has taken some.
const BACKLOG_MAX: usize = 512;

/// Buddies of whom is remembered what was told.
const TOLD_MAX: usize = 1_000;

/// Notices under way at once.
const UNDER_WAY_MAX: usize = OUTSTANDING_MAX / 4;

/// What a notice that was sent is about.
#[derive(Debug)]
enum About {
    /// A message, by its key.
    Text(String),
    Other,
}

/// One client: a phone that speaks the profile.
#[derive(Debug)]
pub(super) struct Client {
    /// Tells it from one before it at the same phone.
    pub(super) number: u64,
    is_logged_in: bool,
    /// It speaks the profile, so nothing else is sent to it.
    was_logged_in: bool,
    seen: Seen,
    exchange: Exchange,
    backlog: VecDeque<(Notice, About)>,
    under_way: BTreeMap<u32, About>,
    /// Buddies whose status it is to be told.
    changed: BTreeSet<String>,
    is_all_changed: bool,
    word: Option<(Word, Instant)>,
    /// The dialogue: what the client logged in by, and our tag in it.
    call_id: String,
    remote: String,
    pub(super) tag: String,
    cseq: u32,
    /// What it was told last of each buddy.
    told: BTreeMap<String, Buddy>,
}

/// What has become of a client's notices.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Messages that it has taken.
    pub(super) taken: Vec<String>,
    /// Messages that it has refused.
    pub(super) failed: Vec<String>,
    /// It doesn't answer.
    pub(super) is_gone: bool,
}

impl Client {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            is_logged_in: false,
            was_logged_in: false,
            seen: Seen::default(),
            exchange: Exchange::default(),
            backlog: VecDeque::new(),
            under_way: BTreeMap::new(),
            changed: BTreeSet::new(),
            is_all_changed: false,
            word: None,
            call_id: String::new(),
            remote: String::new(),
            tag: token(),
            cseq: 0,
            told: BTreeMap::new(),
        }
    }

    pub(super) const fn is_logged_in(&self) -> bool {
        self.is_logged_in
    }

    /// Whether messages are for it: one that has logged out gets none, in no way.
    pub(super) const fn gets_messages(&self) -> bool {
        self.is_logged_in || !self.was_logged_in
    }

    /// The dialogue that a request is in is the one for notices.
    pub(super) fn speaks_in(&mut self, request: &Message) {
        request.call_id().clone_into(&mut self.call_id);
        request.get("from").unwrap_or_default().clone_into(&mut self.remote);
    }

    pub(super) fn log_in(&mut self) {
        (self.is_logged_in, self.was_logged_in, self.word) = (true, true, None);
    }

    /// Tells a buddy's status, if it is another one than was told last.
    pub(super) fn say_status(&mut self, buddy: Buddy) {
        if self.told.get(&buddy.uri) != Some(&buddy) {
            self.note_status(&buddy);
            self.say(Notice::BuddyStatus { buddy });
        }
    }

    /// A buddy's status is told in another way.
    pub(super) fn note_status(&mut self, buddy: &Buddy) {
        if self.told.len() < TOLD_MAX || self.told.contains_key(&buddy.uri) {
            self.told.insert(buddy.uri.clone(), buddy.clone());
        }
    }

    /// It is told nothing more but what waits already.
    pub(super) fn log_out(&mut self) {
        self.is_logged_in = false;
        (self.changed, self.is_all_changed) = (BTreeSet::new(), false);
    }

    /// It doesn't answer: everything is given up. Gives back the messages that it hasn't taken.
    pub(super) fn give_up(&mut self, number: u64) -> Vec<String> {
        let given_up = Self {
            was_logged_in: self.was_logged_in,
            seen: std::mem::take(&mut self.seen),
            tag: std::mem::take(&mut self.tag),
            ..Self::new(number)
        };
        let before = std::mem::replace(self, given_up);
        let all = before.under_way.into_values().chain(before.backlog.into_iter().map(|(_, about)| about));
        all.filter_map(|about| if let About::Text(key) = about { Some(key) } else { None }).collect()
    }

    pub(super) fn is_full(&self) -> bool {
        self.backlog.len() >= BACKLOG_MAX
    }

    pub(super) fn is_new(&mut self, id: u32) -> bool {
        self.seen.is_new(id)
    }

    pub(super) fn say(&mut self, notice: Notice) {
        self.backlog.push_back((notice, About::Other));
    }

    pub(super) fn say_text(&mut self, key: &str, text: &Text) {
        let notice = Notice::Message {
            from: address_of_user(&text.from),
            // As JSON a control character has six bytes, and nobody can read it.
            text: text.text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect(),
            sent_at: text.sent_at.unix_ms() / 1_000,
        };
        self.backlog.push_back((notice, About::Text(key.to_owned())));
    }

    pub(super) fn buddy_changed(&mut self, user: &str) {
        if self.is_logged_in && !self.is_all_changed {
            self.changed.insert(user.to_owned());
        }
    }

    pub(super) fn all_changed(&mut self) {
        self.is_all_changed = self.is_logged_in;
        self.changed.clear();
    }

    /// Whether everybody's status is to be told; then [`Client::buddy_changed`] says whose.
    pub(super) fn take_all_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_all_changed)
    }

    /// The next buddy whose status is to be told, once all that waits was sent.
    pub(super) fn next_changed(&mut self) -> Option<String> {
        if !self.backlog.is_empty() || self.under_way.len() >= UNDER_WAY_MAX {
            return None;
        }
        self.changed.pop_first()
    }

    pub(super) fn say_word(&mut self, word: Option<Word>, now: Instant) {
        self.word = word.map(|word| (word, now));
    }

    pub(super) fn word(&self) -> Option<(&Word, Instant)> {
        self.word.as_ref().map(|(word, at)| (word, *at))
    }

    /// Sends what waits, as far as there is room, and again what wasn't answered.
    pub(super) fn drive(&mut self, now: Instant) {
        if self.exchange.poll_timeout().is_some_and(|at| at <= now) {
            self.exchange.handle_timeout(now);
        }
        while self.under_way.len() < UNDER_WAY_MAX {
            let Some((notice, about)) = self.backlog.pop_front() else { return };
            let id = self.exchange.next_id();
            let Ok(body) = (Numbered { id, body: notice }).to_bytes() else { continue };
            if self.exchange.send(id, body, now).is_ok() {
                self.under_way.insert(id, about);
            }
        }
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.exchange.poll_transmit()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.exchange.poll_timeout()
    }

    pub(super) fn answered(&mut self, id: u32, status: u16) {
        self.exchange.handle_answer(id, status);
    }

    /// What has become of notices since this was asked last.
    pub(super) fn settle(&mut self) -> Settled {
        let mut settled = Settled::default();
        while let Some(outcome) = self.exchange.poll_outcome() {
            let (id, is_taken) = match outcome {
                Outcome::Answered { id } => (id, true),
                Outcome::Refused { id, .. } => (id, false),
                Outcome::GivenUp { id } => {
                    settled.is_gone = true;
                    (id, false)
                }
            };
            match self.under_way.remove(&id) {
                Some(About::Text(key)) if is_taken => settled.taken.push(key),
                Some(About::Text(key)) => settled.failed.push(key),
                Some(About::Other) | None => {}
            }
        }
        settled
    }

    /// The INFO that carries a body, in the dialogue by which the client logged in.
    pub(super) fn request(&mut self, phone: &Binding, account: &str, body: Vec<u8>) -> Message {
        self.cseq += 1;
        let from = address(account);
        let mut request = Message::request("INFO", &phone.contact);
        request.add("max-forwards", "70");
        request.add("from", format!("{from};tag={}", self.tag));
        request.add("to", self.remote.as_str());
        request.add("call-id", self.call_id.as_str());
        request.add("cseq", format!("{} INFO", self.cseq));
        request.add("user-agent", USER_AGENT);
        request.with_body(halloo_protocol::simple::info::CONTENT_TYPE, body)
    }
}
