//! That somebody is writing a message, said to contacts and heard from them. Nothing of it is kept, and nothing wakes a device for it.
//!
//! Whoever doesn't let authors know what was read says nothing of this either.

use std::time::Instant;

use halloo_protocol::contact::Standing;
use halloo_protocol::directory::RecordKey;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::message::{Composing, Correspondent};
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::wire::Extensions;
use libp2p::PeerId;

use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::handle::messages::{ComposingTold, MessageError};
use crate::handle::{Event, Reply};

/// Words of this kind to one contact, or from one: several a minute, as somebody writes, stops and goes on.
const RATE: Rate = Rate { per_hour: 1_200, burst: 20 };

/// Contacts that are counted at once.
const CONTACTS_MAX: usize = 1_024;

/// Who has said so lately.
#[derive(Debug)]
pub(crate) struct ComposingState {
    said: RateLimiter<UserId>,
    heard: RateLimiter<UserId>,
}

impl Default for ComposingState {
    fn default() -> Self {
        Self { said: RateLimiter::new(CONTACTS_MAX), heard: RateLimiter::new(CONTACTS_MAX) }
    }
}

impl EventLoop {
    pub(crate) fn handle_composing(&mut self, with: &str, for_secs: u16, reply: Reply<ComposingTold, MessageError>) {
        let told = self.parse_correspondent(with).map(|with| {
            let told = match &with {
                Correspondent::User(user) => self.say_composing(user, for_secs),
                // Members of a group needn't know each other's devices.
                Correspondent::Group(_) => false,
            };
            ComposingTold { with: self.shown_correspondent(&with).0, told }
        });
        reply.send(told);
    }

    /// Tells the devices of a contact that are known; whether there are any that may be told.
    fn say_composing(&mut self, user: &UserId, for_secs: u16) -> bool {
        let is_allowed = self.contacts.privacy().receipts && self.contacts.roster().standing(user) == Standing::Contact;
        if self.is_revoked() || !is_allowed || self.messages.composing.said.take(user, RATE, Instant::now()).is_err() {
            return false;
        }
        let me = self.identity.device();
        let record = self.cached_record(&RecordKey::of(user));
        let devices: Vec<DeviceKey> = record
            .into_iter()
            .flat_map(|record| record.entries())
            .map(|parts| parts.device())
            .filter(|device| *device != me)
            .collect();
        if devices.is_empty() {
            // The next word finds them.
            self.resolve_user(user, Waiter::Messages);
        }
        let notice = Composing { for_secs, extensions: Extensions::none() };
        let targets: Vec<_> = devices.iter().filter_map(|device| self.cached_target(user, device)).collect();
        targets.iter().for_each(|target| self.notify(target, &notice));
        !targets.is_empty()
    }

    /// A peer says that its user is writing.
    pub(crate) fn handle_composing_notice(&mut self, peer: PeerId, notice: &Composing) {
        let Some(user) = self.peers.get(&peer).and_then(|known| Some(known.chain.as_ref()?.user.id.clone())) else { return };
        if self.contacts.roster().standing(&user) != Standing::Contact {
            return;
        }
        if self.messages.composing.heard.take(&user, RATE, Instant::now()).is_err() {
            self.counters.rate_limited += 1;
            return;
        }
        self.events.send(Event::Composing { from: self.labels.display(&user), for_secs: notice.for_secs });
    }
}
