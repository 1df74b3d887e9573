//! The profile over INFO, from the server's side: `docs/sip.md` specifies it.

use std::time::Instant;

use halloo_protocol::presence::State;
use halloo_protocol::simple::info::{
    BUDDIES_MAX, Buddy, CONTENT_TYPE, Notice, Numbered, RETRY, Request, Status, TEXT_BYTES_MAX, TRIES, Transmit, VERSION,
};
use halloo_protocol::simple::publication::{Word, mood};
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::uri::address_of_user;
use tracing::info;

use super::client::Client;
use super::presence::is_asleep;
use super::{Clerk, Finished, bare, text};
use crate::handle::contacts::{ContactChange, ContactError, ContactState, ContactView};
use crate::handle::presence::{PresenceState, PresenceView};
use crate::sip::dialog::USER_AGENT;
use crate::sip::wire::Arrived;

/// Bytes of buddies in one notice, beside what each has: less than a datagram can hold.
const BUDDIES_BYTES_MAX: usize = 24 * 1_024;

/// Buddies being asked at once, by all clients of an account.
const ASKED_MAX: usize = 16;

impl Clerk {
    /// A client's INFO.
    pub(super) async fn take_info(&mut self, arrived: Arrived) {
        let request = &arrived.request;
        if self.target(request).as_deref() != Some(&self.account) {
            return self.refuse(&arrived, 403, "The profile is spoken to one's own address").await;
        }
        if bare(request.get("content-type").unwrap_or_default()) != CONTENT_TYPE {
            return self.refuse_with(&arrived, 415, reason_of(415), |answer| answer.add("accept", CONTENT_TYPE)).await;
        }
        let Ok(Numbered { id, body }) = Numbered::<Request>::parse(&request.body) else {
            return self.refuse(&arrived, 400, "Not a body of this profile").await;
        };
        let Some(phone) = self.phone_of(&arrived).await else {
            return self.refuse(&arrived, 403, "Not registered from here").await;
        };
        let number = self.next_client;
        let client = self.clients.entry(phone.clone()).or_insert_with(|| Client::new(number));
        self.next_client += 1;
        if client.is_full() {
            return self.refuse_with(&arrived, 503, reason_of(503), |answer| answer.add("retry-after", "8")).await;
        }
        if !client.is_logged_in() {
            client.speaks_in(request);
        }
        let is_new = client.is_new(id);
        let mut answer = Message::answer(request, 200, "OK", Some(&client.tag));
        answer.add("server", USER_AGENT);
        self.wire.respond(arrived.id, answer).await;
        if is_new {
            self.carry_out(&phone, id, body).await;
        }
    }

    /// The registered phone that a request comes from.
    async fn phone_of(&mut self, arrived: &Arrived) -> Option<String> {
        if let Some(known) = self.phone_there(arrived) {
            return Some(known);
        }
        // It may have registered a moment ago.
        self.follow_phones().await;
        self.phone_there(arrived)
    }

    fn phone_there(&self, arrived: &Arrived) -> Option<String> {
        let contact = arrived.request.contacts().ok().and_then(|contacts| contacts.first().map(|contact| contact.uri.clone()));
        let there = || self.phones.iter().filter(|(_, phone)| phone.flow == arrived.flow);
        let named = there().find(|(_, phone)| contact.as_ref() == Some(&phone.contact));
        named.or_else(|| there().next()).map(|(name, _)| name.clone())
    }

    async fn carry_out(&mut self, phone: &str, re: u32, request: Request) {
        let is_logged_in = self.clients.get(phone).is_some_and(Client::is_logged_in);
        if !is_logged_in && !matches!(request, Request::Login { .. }) {
            return self.refuse_request(phone, re, 403, "log in first");
        }
        match request {
            Request::Login { version } => self.log_in(phone, re, version).await,
            Request::GetConfiguration => {
                let (retry_secs, tries) = (u32::try_from(RETRY.as_secs()).unwrap_or(u32::MAX), TRIES);
                let text_bytes_max = u32::try_from(TEXT_BYTES_MAX).unwrap_or(u32::MAX);
                self.say(phone, Notice::Configuration { re, retry_secs, tries, text_bytes_max });
            }
            Request::GetBuddies => self.tell_buddies(phone, re).await,
            Request::GetStatus { buddy } => self.tell_status(phone, re, buddy).await,
            Request::AddBuddy { buddy, name } => self.add_buddy(phone, re, &buddy, name),
            Request::RemoveBuddy { buddy } => self.remove_buddy(phone, re, &buddy).await,
            Request::ChangeBuddy { buddy, name } => self.change_buddy(phone, re, &buddy, name).await,
            Request::SetStatus { status, mood } => self.set_status(phone, re, status, mood).await,
            Request::SendMessage { to, text } => self.send_message(phone, re, &to, &text).await,
            Request::GoOffline => self.go_offline(phone, re).await,
            _ => self.refuse_request(phone, re, 501, reason_of(501)),
        }
    }

    fn say(&mut self, phone: &str, notice: Notice) {
        if let Some(client) = self.clients.get_mut(phone) {
            client.say(notice);
        }
    }

    fn refuse_request(&mut self, phone: &str, re: u32, code: u16, reason: &str) {
        let reason = reason.chars().take(120).collect();
        self.say(phone, Notice::Refused { re, code, reason });
    }

    async fn log_in(&mut self, phone: &str, re: u32, version: u32) {
        if version != VERSION {
            return self.refuse_request(phone, re, 505, "this server speaks version 1");
        }
        let user = address_of_user(&self.account);
        if let Some(client) = self.clients.get_mut(phone) {
            client.log_in();
            client.say(Notice::LoggedIn { re, user });
        }
        self.follow_receivers(&[phone.to_owned()].into());
        // What waited may be on its way as MESSAGE since it registered.
        self.delivery.start_over(phone);
        self.say_own().await;
    }

    async fn tell_buddies(&mut self, phone: &str, re: u32) {
        let (contacts, views) = self.contacts().await;
        // People who are contacts in a linked system alone can be called, and have no presence here.
        let linked = self.node.contacts().list().await.map(|list| list.linked).unwrap_or_default();
        let linked = linked.iter().map(|person| linked_buddy(person, self.names.of(&person.username)));
        let own = contacts.iter().map(|contact| self.buddy_of(&contact.username, Some(contact), views.get(&contact.username)));
        let buddies: Vec<Buddy> = own.chain(linked).collect();
        let mut chunks: Vec<Vec<Buddy>> = vec![Vec::new()];
        let mut bytes = 0;
        for buddy in buddies {
            let size =
                buddy.uri.len() + buddy.name.as_ref().map_or(0, String::len) + buddy.mood.as_ref().map_or(0, String::len) + 64;
            if bytes + size > BUDDIES_BYTES_MAX || chunks.last().is_some_and(|chunk| chunk.len() >= BUDDIES_MAX) {
                chunks.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            if let Some(client) = self.clients.get_mut(phone).filter(|_| buddy.status.is_some()) {
                client.note_status(&buddy);
            }
            if let Some(chunk) = chunks.last_mut() {
                chunk.push(buddy);
            }
        }
        let last = chunks.len().saturating_sub(1);
        for (number, buddies) in chunks.into_iter().enumerate() {
            self.say(phone, Notice::Buddies { re, buddies, more: number < last });
        }
    }

    async fn tell_status(&mut self, phone: &str, re: u32, buddy: Option<String>) {
        let (contacts, views) = self.contacts().await;
        let wanted = buddy.as_deref().map(|buddy| self.user_named(buddy).unwrap_or_default());
        let named: Vec<&ContactView> =
            contacts.iter().filter(|contact| wanted.as_ref().is_none_or(|wanted| *wanted == contact.username)).collect();
        if wanted.is_some() && named.is_empty() {
            return self.refuse_request(phone, re, 404, "not a buddy");
        }
        for contact in named {
            let buddy = self.buddy_of(&contact.username, Some(contact), views.get(&contact.username));
            if let Some(client) = self.clients.get_mut(phone) {
                client.note_status(&buddy);
                client.say(Notice::BuddyStatus { buddy });
            }
        }
        self.say(phone, Notice::Done { re });
    }

    fn buddy_of(&self, user: &str, contact: Option<&ContactView>, view: Option<&PresenceView>) -> Buddy {
        let own_name = contact.and_then(|contact| contact.display_name.clone()).filter(|name| !name.is_empty());
        let name = self.names.of(user).map(str::to_owned).or(own_name);
        let status = match view {
            None => Status::Offline,
            Some(view) if is_asleep(view) && view.state == PresenceState::Online => Status::Push,
            Some(view) => match view.state {
                PresenceState::Offline => Status::Offline,
                PresenceState::Online => Status::Online,
                PresenceState::Away => Status::Away,
                PresenceState::Dnd => Status::Busy,
            },
        };
        let mood = view.map(|view| view.mood.clone()).filter(|mood| !mood.is_empty());
        Buddy { uri: address_of_user(user), name, status: Some(status), mood }
    }

    fn add_buddy(&mut self, phone: &str, re: u32, buddy: &str, name: Option<String>) {
        let Some(user) = self.user_named(buddy) else { return self.refuse_request(phone, re, 404, "not an address") };
        if self.asking.len() >= ASKED_MAX {
            return self.refuse_request(phone, re, 503, "too many are being asked");
        }
        let Some(client) = self.clients.get(phone).map(|client| client.number) else { return };
        let (node, phone) = (self.node.clone(), phone.to_owned());
        self.asking.spawn(async move {
            let refused = node.contacts().add(&user, "").await.err().map(|error| refusal_of(&error));
            Finished::Added { phone, client, re, refused, user, name }
        });
    }

    /// A buddy was asked, or can't be.
    pub(super) fn buddy_added(&mut self, phone: &str, client: u64, re: u32, refused: Option<(u16, String)>) {
        if self.clients.get(phone).is_none_or(|known| known.number != client) {
            return;
        }
        match refused {
            None => self.say(phone, Notice::Done { re }),
            Some((code, reason)) => self.refuse_request(phone, re, code, &reason),
        }
    }

    async fn remove_buddy(&mut self, phone: &str, re: u32, buddy: &str) {
        let Some(user) = self.user_named(buddy) else { return self.refuse_request(phone, re, 404, "not an address") };
        match self.node.contacts().change(&user, ContactChange::Remove).await {
            Ok(_) => {
                self.names.set(&user, None);
                self.say(phone, Notice::Done { re });
            }
            Err(error) => {
                let (code, reason) = refusal_of(&error);
                self.refuse_request(phone, re, code, &reason);
            }
        }
    }

    async fn change_buddy(&mut self, phone: &str, re: u32, buddy: &str, name: Option<String>) {
        let user = self.user_named(buddy).unwrap_or_default();
        let is_buddy = |contact: ContactView| matches!(contact.state, ContactState::Contact | ContactState::Asked);
        if !self.node.contacts().get(&user).await.is_ok_and(is_buddy) {
            return self.refuse_request(phone, re, 404, "not a buddy");
        }
        match self.names.set(&user, name) {
            true => self.say(phone, Notice::Done { re }),
            false => self.refuse_request(phone, re, 413, "too many names"),
        }
    }

    async fn set_status(&mut self, phone: &str, re: u32, status: Status, words: Option<String>) {
        let state = match status {
            Status::Online => State::Online,
            Status::Away => State::Away,
            Status::Busy => State::Dnd,
            Status::Offline => State::Offline,
            _ => return self.refuse_request(phone, re, 400, "nobody chooses to be reached by a push"),
        };
        let words = words.map_or_else(|| self.own_shown().mood, |words| mood(&words));
        self.client_says(phone, Some(Word { state, mood: words })).await;
        self.say(phone, Notice::Done { re });
    }

    async fn send_message(&mut self, phone: &str, re: u32, to: &str, words: &str) {
        let Some(user) = self.user_named(to) else { return self.refuse_request(phone, re, 404, "not an address") };
        match self.node.messages().send(&user, words).await {
            Ok(_) => self.say(phone, Notice::Done { re }),
            Err(error) => self.refuse_request(phone, re, text::status_of(&error), &error.to_string()),
        }
    }

    /// The status is out when the node has said it; then the client is told so, and nothing else any more.
    async fn go_offline(&mut self, phone: &str, re: u32) {
        let words = self.own_shown().mood;
        self.client_says(phone, Some(Word { state: State::Offline, mood: words })).await;
        if let Some(client) = self.clients.get_mut(phone) {
            client.say(Notice::Offline { re });
            client.log_out();
        }
        self.follow_receivers(&std::collections::BTreeSet::new());
    }

    /// Sends clients what is due, and settles what has its answer.
    pub(super) async fn drive_clients(&mut self, now: Instant) {
        let names: Vec<String> = self.clients.keys().cloned().collect();
        for name in names {
            self.tell_changed(&name).await;
            let (Some(client), Some(phone)) = (self.clients.get_mut(&name), self.phones.get(&name)) else { continue };
            client.drive(now);
            let number = client.number;
            while let Some(Transmit { id, body, .. }) = client.poll_transmit() {
                let (request, flow) = (client.request(phone, &self.account, body), phone.flow);
                let (wire, phone) = (self.wire.clone(), name.clone());
                // One after the other: a status comes before the word that all were told.
                let begun = wire.begin(request, flow).await;
                self.tasks.spawn(async move {
                    let answer: Option<Message> = match begun {
                        Ok(begun) => begun.answer(RETRY).await.ok(),
                        Err(_) => None,
                    };
                    Finished::Informed { phone, client: number, id, status: answer.map(|answer| answer.status()) }
                });
            }
            self.settle(&name).await;
        }
    }

    async fn tell_changed(&mut self, phone: &str) {
        if self.clients.get_mut(phone).is_some_and(Client::take_all_changed) {
            let (contacts, _) = self.contacts().await;
            if let Some(client) = self.clients.get_mut(phone) {
                contacts.iter().for_each(|contact| client.buddy_changed(&contact.username));
            }
        }
        while let Some(user) = self.clients.get_mut(phone).and_then(Client::next_changed) {
            let view = self.node.presence().get(user.as_str()).await.ok();
            let contact = self.node.contacts().get(&user).await.ok();
            let buddy = self.buddy_of(&user, contact.as_ref(), view.as_ref());
            if let Some(client) = self.clients.get_mut(phone) {
                client.say_status(buddy);
            }
            if let Some(client) = self.clients.get_mut(phone) {
                client.drive(Instant::now());
            }
        }
    }

    async fn settle(&mut self, phone: &str) {
        let Some(client) = self.clients.get_mut(phone) else { return };
        let settled = client.settle();
        for key in settled.taken {
            self.text_taken(phone, &key, Instant::now());
        }
        let mut failed = settled.failed;
        if settled.is_gone {
            info!("a client of the profile doesn't answer: it is logged out");
            self.next_client += 1;
            if let Some(client) = self.clients.get_mut(phone) {
                failed.extend(client.give_up(self.next_client));
            }
        }
        for key in failed {
            self.delivery.failed(phone, &key, Instant::now());
        }
        if settled.is_gone {
            self.follow_receivers(&std::collections::BTreeSet::new());
            self.say_own().await;
        }
    }

    pub(super) fn info_answered(&mut self, phone: &str, client: u64, id: u32, status: Option<u16>) {
        let known = self.clients.get_mut(phone).filter(|known| known.number == client);
        if let (Some(client), Some(status)) = (known, status) {
            client.answered(id, status);
        }
    }
}

fn refusal_of(error: &ContactError) -> (u16, String) {
    let code = match error {
        ContactError::Username(_) | ContactError::Resolve(_) | ContactError::Unknown { .. } => 404,
        ContactError::Full => 413,
        ContactError::Node(_) => 503,
        _ => 403,
    };
    (code, error.to_string())
}

/// Somebody who is a contact in a linked system alone, by the name that the account's user gives them, or that the contact list there has.
fn linked_buddy(person: &ContactView, name: Option<&str>) -> Buddy {
    let name = name.map(str::to_owned).or_else(|| person.display_name.clone());
    Buddy { uri: address_of_user(&person.username), name, status: None, mood: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_contact_elsewhere_alone_is_a_buddy_without_status() {
        let person = json!({ "username": "bob@example", "state": "linked", "display_name": "bob from there", "key_epoch": 0, "languages": [],
            "mood": "hidden", "linked": [{ "id": "xmpp:bob@there.example" }] });
        let person: ContactView = serde_json::from_value(person).expect("a contact");
        let shown = |name| serde_json::to_value(linked_buddy(&person, name)).expect("JSON");
        assert_eq!(shown(None), json!({ "uri": address_of_user("bob@example"), "name": "bob from there" }));
        assert_eq!(shown(Some("Bob"))["name"], "Bob");
    }
}
