//! What phones say of their user: PUBLISH (RFC 3903), and what all of the account's phones come to, which is what its node says.

use std::time::Instant;

use halloo_protocol::presence::State;
use halloo_protocol::simple::pidf::{self, Presence};
use halloo_protocol::simple::publication::{EXPIRES_SECS_MIN, PublishError, Said, Word, together};
use halloo_protocol::sip::status::reason_of;
use tracing::debug;

use super::client::Client;
use super::{Clerk, bare, token};
use crate::handle::presence::{PresenceChange, PresenceState, PresenceView};
use crate::sip::wire::Arrived;

impl Clerk {
    pub(super) async fn publish(&mut self, arrived: Arrived) {
        let request = &arrived.request;
        if self.target(request).as_deref() != Some(&self.account) {
            return self.refuse(&arrived, 403, "Presence of somebody else").await;
        }
        if bare(request.get("event").unwrap_or_default()) != "presence" {
            return self.refuse_with(&arrived, 489, reason_of(489), |answer| answer.add("allow-events", "presence")).await;
        }
        let word = match document(&arrived) {
            Ok(word) => word,
            Err((status, reason)) => {
                let accept = |answer: &mut halloo_protocol::sip::message::Message| answer.add("accept", pidf::CONTENT_TYPE);
                return self.refuse_with(&arrived, status, &reason, accept).await;
            }
        };
        let if_match = request.get("sip-if-match");
        let expires = request.seconds("expires");
        let taken = self.publications.publish(if_match, word, expires, token(), arrived.flow, Instant::now());
        match taken {
            Ok(published) => {
                let answer = |answer: &mut halloo_protocol::sip::message::Message| {
                    answer.add("sip-etag", published.etag);
                    answer.add("expires", published.expires_secs.to_string());
                };
                self.refuse_with(&arrived, 200, "OK", answer).await;
                self.say_own().await;
            }
            Err(error) => {
                let reason =
                    if error == PublishError::Unknown { "Conditional Request Failed".to_owned() } else { error.to_string() };
                self.refuse_with(&arrived, error.status(), &reason, |answer| match error {
                    PublishError::TooBrief => answer.add("min-expires", EXPIRES_SECS_MIN.to_string()),
                    PublishError::TooMany => answer.add("retry-after", "60"),
                    _ => {}
                })
                .await;
            }
        }
    }

    /// What the account's phones come to.
    pub(super) fn own_word(&self) -> (State, Option<String>) {
        let clients = self.clients.iter().filter_map(|(name, client)| {
            let (word, at) = client.word()?;
            Some(Said { word, flow: self.phones.get(name)?.flow, at })
        });
        let words: Vec<Said<'_>> = self.publications.words().chain(clients).collect();
        // One that sleeps is there: it is woken.
        let phones: Vec<_> = self.phones.values().map(|phone| phone.flow).chain(self.sleepers.iter().copied()).collect();
        together(&words, &phones)
    }

    /// Has the node say what the phones come to, if that is another thing than before.
    pub(super) async fn say_own(&mut self) {
        let own = self.own_word();
        if self.said.as_ref() == Some(&own) {
            return;
        }
        let change = PresenceChange { state: Some(own.0.into()), mood: own.1.clone() };
        match self.node.presence().set(change).await {
            Ok(_) => {
                self.said = Some(own);
                self.subscriptions.own_changed();
            }
            Err(error) => debug!(%error, "an account's presence isn't set"),
        }
    }

    /// The own presence as a phone is told.
    pub(super) fn own_shown(&self) -> Word {
        let (state, mood) = self.own_word();
        Word { state, mood: mood.unwrap_or_default() }
    }
}

/// What a publication says; none for one that only goes on.
fn document(arrived: &Arrived) -> Result<Option<Word>, (u16, String)> {
    let request = &arrived.request;
    if request.body.is_empty() {
        return Ok(None);
    }
    if bare(request.get("content-type").unwrap_or_default()) != pidf::CONTENT_TYPE {
        return Err((415, reason_of(415).to_owned()));
    }
    let presence = Presence::parse(&request.body).map_err(|error| (400, error.to_string()))?;
    Ok(Some(Word::of(&presence)))
}

/// What is known of somebody, as a word.
pub(super) fn word_of(view: &PresenceView) -> Word {
    Word { state: State::from(view.state), mood: view.mood.clone() }
}

/// Whether somebody is reached by a push alone.
pub(super) fn is_asleep(view: &PresenceView) -> bool {
    view.reachability == crate::handle::presence::PresenceReachability::Push && view.state != PresenceState::Offline
}

impl Clerk {
    /// A client of the profile says what its user is.
    pub(super) async fn client_says(&mut self, phone: &str, word: Option<Word>) {
        if let Some(client) = self.clients.get_mut(phone) {
            Client::say_word(client, word, Instant::now());
        }
        self.say_own().await;
    }
}
