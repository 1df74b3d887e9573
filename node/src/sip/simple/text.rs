//! Messages: a phone's MESSAGE (RFC 3428) becomes a message of its user, and what comes for the user becomes a MESSAGE to each of its phones.
//!
//! What is held for phones is what the account's node has as unread, the oldest first, so many at a time. The first phone that answers with a success has taken a
//! message: it counts as read, here and on the user's other devices, and its author is told as the privacy settings say. That is noted for many together
//! ([`halloo_protocol::simple::taken`]): a crash between the two costs a second copy, never a message. What is read on another device before isn't sent to phones any more. Messages of
//! groups aren't sent to phones, which couldn't answer to the group. That somebody writes (RFC 3994) goes through both ways, to phones that have said so themselves: others
//! would show it as a message.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use halloo_protocol::simple::composing::{self, Composing};
use halloo_protocol::simple::delivery::{Fate, HELD_MAX, fate_of};
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::status::reason_of;
use tracing::debug;

use super::client::Client;
use super::{ANSWER_MAX, Clerk, Finished, address, bare, request_to};
use crate::handle::messages::MessageError;
use crate::handle::waiting::{WaitingMessage, WaitingText};
use crate::sip::wire::{Arrived, Input};
use crate::timestamp::Timestamp;

/// Requests to phones under way at which words that somebody writes are left out.
const WORDS_MAX: usize = 64;

/// A message for phones.
#[derive(Clone, Debug)]
pub(super) struct Text {
    /// Who wrote it, verified.
    pub(super) from: String,
    pub(super) text: String,
    pub(super) sent_at: Timestamp,
}

/// A MESSAGE that waits for its answer.
#[derive(Debug)]
pub(super) struct AskedText {
    phone: String,
    key: String,
    until: Instant,
}

/// Those of an account, by number: one for each of its phones. Later ones have higher numbers and wait for longer.
#[derive(Debug, Default)]
pub(super) struct Asked(BTreeMap<u32, AskedText>, u32);

impl Asked {
    fn add(&mut self, asked: AskedText) -> u32 {
        self.1 = self.1.wrapping_add(1);
        self.0.insert(self.1, asked);
        self.1
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.first_key_value().map(|(_, asked)| asked.until)
    }

    /// One that has waited for too long: whoever was to tell of it has lost it.
    pub(super) fn poll_overdue(&mut self, now: Instant) -> Option<AskedText> {
        self.0.first_entry().filter(|first| first.get().until <= now).map(|first| first.remove())
    }
}

impl Clerk {
    /// A phone's message.
    pub(super) async fn take_text(&mut self, arrived: Arrived) {
        let request = &arrived.request;
        let Some(to) = self.target(request) else { return self.refuse(&arrived, 404, reason_of(404)).await };
        match bare(request.get("content-type").unwrap_or("text/plain")).as_str() {
            "text/plain" => {}
            composing::CONTENT_TYPE => return self.take_composing(&arrived, &to).await,
            _ => {
                let accept = |answer: &mut Message| answer.add("accept", format!("text/plain, {}", composing::CONTENT_TYPE));
                return self.refuse_with(&arrived, 415, reason_of(415), accept).await;
            }
        }
        let Ok(text) = String::from_utf8(arrived.request.body.clone()) else {
            return self.refuse(&arrived, 400, "The text is not UTF-8").await;
        };
        match self.node.messages().send(&to, &text).await {
            Ok(_) => self.refuse(&arrived, 202, "Accepted").await,
            Err(error) => self.refuse(&arrived, status_of(&error), reason_of(status_of(&error))).await,
        }
    }

    /// The account's user writes to somebody (RFC 3994): a contact is told, and nothing of it is kept.
    async fn take_composing(&mut self, arrived: &Arrived, to: &str) {
        let composing = match Composing::parse(&arrived.request.body) {
            Ok(composing) => composing,
            Err(error) => return self.refuse(arrived, 400, &error.to_string()).await,
        };
        let phone = self.phones.iter().find(|(_, phone)| phone.flow == arrived.flow).map(|(name, _)| name.clone());
        self.composers.extend(phone);
        let for_secs = if composing.is_active { u16::try_from(composing.refresh_secs).unwrap_or(u16::MAX) } else { 0 };
        // Whether it is told, and to whom, isn't the phone's business.
        match self.node.messages().composing(to, for_secs).await {
            Ok(_) => self.refuse(arrived, 200, "OK").await,
            Err(error) => self.refuse(arrived, status_of(&error), reason_of(status_of(&error))).await,
        }
    }

    /// A contact writes to the user: phones that know such words hear of it, once.
    pub(super) fn send_composing(&mut self, from: &str, for_secs: u16) {
        let composing =
            Composing { is_active: for_secs > 0, refresh_secs: for_secs.into(), content_type: Some("text/plain".to_owned()) };
        let from = address(from);
        for phone in self.phones.iter().filter(|(name, _)| self.composers.contains(*name)).map(|(_, phone)| phone) {
            if self.tasks.len() >= WORDS_MAX {
                return;
            }
            let mut request = request_to(phone, "MESSAGE", &from, &self.account);
            request.add("p-asserted-identity", from.to_string());
            let request = request.with_body(composing::CONTENT_TYPE, composing.to_xml());
            let (wire, flow) = (self.wire.clone(), phone.flow);
            self.tasks.spawn(async move {
                // It is of no use later.
                let _ = wire.ask(request, flow, ANSWER_MAX).await;
                Finished::Said
            });
        }
    }

    /// A message has come.
    pub(super) fn hold_text(&mut self, id: &str, text: Text) {
        let key = key_of(&text.from, id);
        if self.texts.contains_key(&key) || text.text.is_empty() {
            return;
        }
        // Not before those that came before it.
        let is_next = self.backlog.is_empty() && !self.has_more_texts;
        if is_next && self.delivery.hold(&key) {
            self.texts.insert(key, text);
        } else {
            self.has_more_texts = true;
        }
        self.is_to_wake = true;
    }

    /// Takes up what is unread, as far as there is room, once phones have nothing more to get of what is held.
    pub(super) async fn hold_more(&mut self) {
        if self.has_more_texts || !self.backlog.is_empty() {
            self.delivery.make_room();
            self.tidy_texts();
        }
        while (self.has_more_texts || !self.backlog.is_empty()) && self.delivery.len() < HELD_MAX && !self.delivery.is_busy() {
            if self.backlog.is_empty() {
                self.has_more_texts = false;
                // What phones have taken isn't to be listed again.
                self.mark_taken().await;
                match self.node.messages().waiting().await {
                    Ok(numbers) => self.backlog.extend(numbers),
                    Err(error) => {
                        self.has_more_texts = true;
                        return debug!(%error, "unread messages aren't listed");
                    }
                }
            }
            let page = self.backlog.len().min(HELD_MAX - self.delivery.len());
            if !self.hold_page(page).await {
                return;
            }
        }
    }

    /// False if they can't be had now.
    async fn hold_page(&mut self, count: usize) -> bool {
        let numbers: Vec<u64> = self.backlog.drain(..count).collect();
        if numbers.is_empty() {
            return true;
        }
        let texts = match self.node.messages().waiting_texts(numbers).await {
            Ok(texts) => texts,
            Err(error) => {
                (self.has_more_texts, self.backlog) = (true, VecDeque::new());
                debug!(%error, "unread messages can't be read");
                return false;
            }
        };
        for WaitingText { message: WaitingMessage { from, id }, text, sent_at } in texts {
            let key = key_of(&from, &id);
            if self.delivery.hold(&key) {
                self.texts.insert(key, Text { from, text, sent_at });
                self.is_to_wake = true;
            }
        }
        true
    }

    /// Messages were read on another device.
    pub(super) async fn forget_read(&mut self, with: &str) {
        let start = key_of(with, "");
        let held: Vec<WaitingMessage> =
            self.texts.keys().filter(|key| key.starts_with(&start)).filter_map(|key| named(key)).collect();
        if held.is_empty() {
            return;
        }
        match self.node.messages().still_unread(held).await {
            Ok(unread) => {
                let unread: BTreeSet<String> = unread.iter().map(|message| key_of(&message.from, &message.id)).collect();
                self.delivery.forget(|key| key.starts_with(&start) && !unread.contains(key));
                self.tidy_texts();
            }
            Err(error) => debug!(%error, "messages read elsewhere go to phones nevertheless"),
        }
    }

    /// Sends what phones are to get next.
    pub(super) async fn send_texts(&mut self, now: Instant) {
        while let Some((name, key)) = self.delivery.poll_send(now) {
            let (Some(text), Some(phone)) = (self.texts.get(&key), self.phones.get(&name)) else {
                self.delivery.failed(&name, &key, now);
                continue;
            };
            if let Some(client) = self.clients.get_mut(&name).filter(|client| client.is_logged_in()) {
                client.say_text(&key, text);
                continue;
            }
            let from = address(&text.from);
            let mut request = request_to(phone, "MESSAGE", &from, &self.account);
            request.add("p-asserted-identity", from.to_string());
            let written = std::time::UNIX_EPOCH + std::time::Duration::from_millis(text.sent_at.unix_ms());
            request.add("date", httpdate::fmt_http_date(written));
            let request = request.with_body("text/plain;charset=UTF-8", text.text.clone());
            let flow = phone.flow;
            let number = self.asked.add(AskedText { phone: name, key, until: now + ANSWER_MAX });
            self.wire.start(request, flow, number, &self.answers).await;
        }
    }

    /// What a phone says to a MESSAGE, or that it says nothing.
    pub(super) async fn handle_answer(&mut self, answer: Input) {
        let (number, fate) = match answer {
            Input::Response(number, response) if response.status() >= 200 => (number, fate_of(response.status())),
            Input::TimedOut(number) => (number, Fate::Failed),
            _ => return,
        };
        if let Some(asked) = self.asked.0.remove(&number) {
            self.text_answered(asked, fate).await;
        }
    }

    pub(super) async fn text_answered(&mut self, asked: AskedText, fate: Fate) {
        let (AskedText { phone, key, .. }, now) = (asked, Instant::now());
        match fate {
            Fate::Taken => self.text_taken(&phone, &key, now),
            // It has logged in to the profile meanwhile, and gets it there.
            _ if self.clients.get(&phone).is_some_and(Client::is_logged_in) => {}
            Fate::Refused => self.delivery.refused(&phone, &key),
            Fate::Failed => {
                self.delivery.failed(&phone, &key, now);
                self.wake_silent(&phone).await;
            }
        }
    }

    /// A phone has a message: it is read, which is noted a moment later, together with others.
    pub(super) fn text_taken(&mut self, phone: &str, key: &str, now: Instant) {
        if self.delivery.taken(phone, key)
            && let Some(message) = named(key)
        {
            self.taken.add(message, now);
        }
        if !self.delivery.holds(key) {
            self.texts.remove(key);
        }
    }

    /// Notes what phones have taken. If that fails they are still unread, and go to a phone again later.
    pub(super) async fn mark_taken(&mut self) {
        let taken = self.taken.take();
        if !taken.is_empty()
            && let Err(error) = self.node.messages().mark_taken(taken).await
        {
            debug!(%error, "messages that a phone has taken aren't marked");
        }
    }

    /// Lets go of what no phone is to get any more.
    pub(super) fn tidy_texts(&mut self) {
        let delivery = &self.delivery;
        if self.texts.len() != delivery.len() {
            self.texts.retain(|key, _| delivery.holds(key));
        }
    }
}

/// Names a message: its id is its sender's choice, so that it names it together with the sender alone.
fn key_of(from: &str, id: &str) -> String {
    format!("{from} {id}")
}

/// What [`key_of`] was made of.
fn named(key: &str) -> Option<WaitingMessage> {
    key.split_once(' ').map(|(from, id)| WaitingMessage { from: from.to_owned(), id: id.to_owned() })
}

/// What a phone is told of a message that can't be sent.
pub(super) const fn status_of(error: &MessageError) -> u16 {
    match error {
        MessageError::Username(_) | MessageError::Resolve(_) | MessageError::UnknownGroup { .. } => 404,
        MessageError::Empty => 400,
        MessageError::TooLarge { .. } => 413,
        MessageError::Node(_) => 503,
        _ => 403,
    }
}
