//! Messages between contacts in a linked system: what is said beside one, and whether its sender is a contact there.
//!
//! A message is judged by what was seen at its sender's place within a day. Where nothing was, the place is looked at, and the sender is told to try again later, as where
//! there is no room: the same whether or not the contact list has them.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use halloo_protocol::call::Reason;
use halloo_protocol::contact::Standing;
use halloo_protocol::contact::privacy::{Kind, Relation};
use halloo_protocol::id::MessageId;
use halloo_protocol::identity::{UserId, VerifiedChain, VerifiedUser};
use halloo_protocol::key::{DeviceKey, IdentityKey};
use halloo_protocol::linked::{
    Carrier, Claim, LinkedId, LinkedPart, SIGHTING_SECS_FRESH, SIGHTING_SECS_MAX, Sighting, TrustRequest, decide,
};
use halloo_protocol::message::{Envelope, MessageBody};
use halloo_protocol::wire::{Extensions, Signed};
use tracing::debug;

use crate::directory::Waiter;
use crate::event_loop::EventLoop;

/// Messages whose senders' places were looked at: their repetitions are judged by that.
const LOOKED_MAX: usize = 256;

/// For so long a record that was looked up anew is taken for what there is.
const LOOKED_UP_FOR: Duration = Duration::from_secs(60);

/// Users of whom that is remembered; beyond, all are forgotten.
const LOOKED_UP_MAX: usize = 256;

/// Users whose names had another key than was meant, and when they were looked up anew for that.
#[derive(Debug, Default)]
pub(super) struct LookedUp(BTreeMap<UserId, Instant>);

impl LookedUp {
    /// Whether it is the first time in a while.
    fn note(&mut self, user: &UserId, now: Instant) -> bool {
        if self.0.get(user).is_some_and(|at| now.saturating_duration_since(*at) < LOOKED_UP_FOR) {
            return false;
        }
        if self.0.len() >= LOOKED_UP_MAX {
            self.0.clear();
        }
        self.0.insert(user.clone(), now);
        true
    }
}

/// Messages that came again after a look, or will.
#[derive(Debug, Default)]
pub(super) struct Looked(VecDeque<MessageId>);

impl Looked {
    /// Whether it is the first time.
    fn note(&mut self, id: MessageId) -> bool {
        if self.0.contains(&id) {
            return false;
        }
        if self.0.len() >= LOOKED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(id);
        true
    }
}

impl EventLoop {
    /// As whom a user was seen in own contact lists elsewhere, within a day: by account and place.
    pub(super) fn seen_as(&self, user: &UserId) -> impl Iterator<Item = (&LinkedId, &LinkedId, &Sighting)> {
        let now = self.now().unix;
        let is_theirs =
            move |sighting: &Sighting| sighting.association.as_ref().is_some_and(|said| said.unverified().user == *user);
        let known = self.linked.known.iter().filter(move |(_, sighting)| is_theirs(sighting));
        let listed = known.filter(move |((account, place), sighting)| {
            !self.linked.token_only.contains(account)
                && self.linked.lists.get(account).is_some_and(|list| list.contains_key(place))
                && sighting.counts(SIGHTING_SECS_MAX, now)
                && sighting.holds(now).is_ok()
        });
        listed.map(|((account, place), sighting)| (account, place, sighting))
    }

    /// Whether a user whose chain holds is a contact in a linked system.
    pub(crate) fn is_linked_contact(&self, user: &VerifiedUser) -> bool {
        let is_key =
            |sighting: &Sighting| sighting.association.as_ref().is_some_and(|said| said.unverified().identity == user.identity);
        let carriers = self.carriers();
        let counts = |account: &LinkedId, place: &LinkedId, sighting: &Sighting| {
            let by = self.linked.seen_by.get(&(account.clone(), place.clone())).copied().unwrap_or(Carrier::Place);
            // What was proved came with a request.
            carriers.has(if sighting.proved_at.is_some() { Carrier::Request } else { by })
        };
        self.seen_as(&user.id).any(|(account, place, sighting)| is_key(sighting) && counts(account, place, sighting))
            || self.is_contact_by_certificate(user)
    }

    /// What is said beside a message to somebody who is a contact elsewhere and not here.
    pub(crate) fn linked_extensions(&self, to: &UserId) -> Extensions {
        if self.contacts.roster().standing(to) == Standing::Contact || !self.carriers().has(Carrier::Request) {
            return Extensions::none();
        }
        let said = self.seen_as(to).find_map(|(account, place, _)| {
            let association = self.own_association(account)?;
            Some(LinkedPart::new(association, self.own_proof(account), place.clone()))
        });
        said.map_or_else(Extensions::none, |part| part.add_to(Extensions::none()))
    }

    /// The devices of a user were found, under this identity key. Messages by an address that leads to another key don't go to them: the record is looked up once more, for it may be an old
    /// one; then they are given up, and the places are looked at, so that the next goes by what stands there by then.
    pub(crate) fn hold_to_linked_key(&mut self, user: &UserId, identity: &IdentityKey, devices: &[DeviceKey]) {
        let meant: Vec<MessageId> = self.messages.outbox.for_other_key(user, identity).collect();
        if meant.is_empty() {
            return;
        }
        let now = Instant::now();
        if self.linked.looked_up.note(user, now) {
            self.forget_cached(user);
            return self.resolve_user(user, Waiter::MessagesAgain);
        }
        for id in &meant {
            debug!(%id, "not sent: the name has another identity key than the address leads to");
            self.messages.outbox.refuse(id, devices, Reason::OTHER_IDENTITY, now);
        }
        self.look_for_key(user, identity);
    }

    /// What is known of who a user is elsewhere, under another key, is looked at again.
    fn look_for_key(&mut self, user: &UserId, identity: &IdentityKey) {
        self.forget_found(user, identity);
        let is_old = |sighting: &Sighting| {
            let said = sighting.association.as_ref().map(Signed::unverified);
            said.is_some_and(|said| said.user == *user && said.identity != *identity)
        };
        let old = self.linked.known.iter().filter(|(_, sighting)| is_old(sighting)).map(|(key, _)| key.clone());
        for (account, place) in old.collect::<Vec<_>>() {
            self.look_soon(&account, &place);
        }
    }

    /// Whether a message comes too early: its sender's place is being looked at.
    pub(crate) fn waits_for_look(&mut self, sender: &VerifiedChain, envelope: &Envelope) -> bool {
        let kind = match &envelope.body {
            MessageBody::Text(_) | MessageBody::Voicemail(_) => Kind::Message,
            MessageBody::File(_) => Kind::File,
            _ => return false,
        };
        if !self.has_linked() || self.relation(&sender.user) != Relation::Stranger {
            return false;
        }
        if !self.carriers().has(Carrier::Request) {
            return false;
        }
        let Some(part) = LinkedPart::of_extensions(&envelope.extensions).ok().flatten() else { return false };
        let place = part.association.unverified().linked.clone();
        self.note_present();
        let user = &sender.user;
        let request = TrustRequest {
            user: &user.id,
            identity: &user.identity,
            relation: Relation::Stranger,
            kind,
            claim: Some(Claim::Association(&part)),
        };
        let judged = |secs| decide(&request, &self.grounds(secs));
        let (by_a_day, by_now) = (judged(SIGHTING_SECS_MAX).takes_a_look, judged(SIGHTING_SECS_FRESH).takes_a_look);
        if judged(SIGHTING_SECS_FRESH).linked.is_ok() {
            // Whoever has proved it is known by it from here on.
            self.note_proved(&part);
            return false;
        }
        // A look is a ring's worth.
        let is_first = by_a_day && self.admit_caller(&user.identity.0) && self.linked.messages.note(envelope.id);
        let is_in_list = self.linked.lists.get(&part.callee).is_some_and(|list| list.contains_key(&place));
        // What counts now is looked at again for those that follow.
        if is_in_list && (is_first || (by_now && !by_a_day && self.admit_caller(&user.identity.0))) {
            self.look_at(&part.callee, &place);
        }
        is_first
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::key::PublicKey;

    use super::*;

    #[test]
    fn a_name_with_another_key_is_looked_up_once_and_then_believed_for_a_while() {
        let (mut looked_up, now) = (LookedUp::default(), Instant::now());
        let user = |number: u16| {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&number.to_be_bytes());
            UserId::Key(IdentityKey(PublicKey(key)))
        };
        assert!(looked_up.note(&user(1), now) && !looked_up.note(&user(1), now));
        assert!(looked_up.note(&user(2), now), "each for itself");
        assert!(looked_up.note(&user(1), now + LOOKED_UP_FOR), "after a while again");
        assert!((3..2_000).all(|number| looked_up.note(&user(number), now)) && looked_up.0.len() <= LOOKED_UP_MAX);
    }
}
