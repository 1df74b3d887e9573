//! Calls begin: those of phones, and those that ring at phones.

use std::time::Instant;

use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::replaces::Replaces;
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::transaction::{Flow, ServerId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::warn;

use super::{Edge, Followed, tell, unix};
use crate::handle::Event;
use crate::sip::wire::{Arrived, INBOX_MAX, Input, Telephone};
use crate::sip::{call, ring};

/// Calls of phones at once.
pub(super) const CALLS_MAX: usize = 256;

impl Edge {
    pub(super) fn begin_call(&mut self, message: Message, flow: Flow, account: String, now: Instant) {
        let (Some(running), Some(local)) = (self.running.get(&account), self.local(flow)) else { return };
        if self.followed.len() >= CALLS_MAX {
            self.answer(&message, 503, reason_of(503), flow, |answer| answer.add("retry-after", "30"));
            return;
        }
        if self.followed.contains_key(message.call_id()) {
            self.answer(&message, 482, reason_of(482), flow, |_| {});
            return;
        }
        match Replaces::of_invite(&message) {
            Ok(None) => {}
            Ok(Some(replaces)) => return self.take_over(message, flow, account, replaces, now),
            Err(error) => return self.answer(&message, 400, error.0, flow, |_| {}),
        }
        let Ok(place) = running.legs.clone().try_acquire_owned() else {
            self.answer(&message, 503, "This account has too many calls", flow, |answer| answer.add("retry-after", "30"));
            return;
        };
        let node = running.account.node.clone();
        let telephone = self.telephone_of(&account);
        let arrived = |id, request| Arrived { id, request, flow, local, account, node, telephone };
        self.take_call(message, flow, now, place, arrived);
    }

    /// A phone is to have a call of its account that another one has (RFC 3891): whoever carries that one says whether it can.
    fn take_over(&mut self, message: Message, flow: Flow, account: String, replaces: Replaces, now: Instant) {
        let followed = self.followed.get(&replaces.call_id).filter(|followed| followed.account == account);
        let (Some(followed), Some(running), Some(local)) = (followed, self.running.get(&account), self.local(flow)) else {
            return self.answer(&message, 481, reason_of(481), flow, |_| {});
        };
        let (inbox, node) = (followed.inbox.clone(), running.account.node.clone());
        let Some(id) = self.transactions.accept(&message, flow, now) else { return };
        self.servers.insert(id, inbox.clone());
        self.transactions.respond(id, &Message::answer(&message, 100, "Trying", None), now);
        let refusal = Message::answer(&message, 503, reason_of(503), None);
        let arrived = Arrived { id, request: message, flow, local, account, node, telephone: Telephone::None };
        if inbox.try_send(Input::TakeOver(Box::new(arrived), Box::new(replaces))).is_err() {
            self.servers.remove(&id);
            self.transactions.respond(id, &refusal, now);
        }
    }

    /// Takes an INVITE that may be a call, to whoever carries it.
    pub(super) fn take_call(
        &mut self,
        message: Message,
        flow: Flow,
        now: Instant,
        place: OwnedSemaphorePermit,
        arrived: impl FnOnce(ServerId, Message) -> Arrived,
    ) {
        let Some(id) = self.transactions.accept(&message, flow, now) else { return };
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        self.servers.insert(id, sender.clone());
        self.transactions.respond(id, &Message::answer(&message, 100, "Trying", None), now);
        let call_id = message.call_id().to_owned();
        let arrived = arrived(id, message);
        self.follow(call_id, arrived.account.clone(), flow, sender.clone());
        let (wire, media) = (self.wire.clone(), self.media.clone());
        tokio::spawn(async move {
            call::take(arrived, wire, media, sender, inbox).await;
            drop(place);
        });
    }

    /// Somebody calls the account's user: all of its phones ring, or the one that is meant.
    pub(super) fn ring(&mut self, account: &str, event: Event) {
        let Event::CallIncoming { call_id, from, telephone, dialled, phone, .. } = event else { return };
        let Some(running) = self.running.get(account) else { return };
        if self.followed.len() >= CALLS_MAX {
            warn!("too many calls: one doesn't ring at phones");
            return;
        }
        if let Some(number) = dialled {
            return self.call_telephone(account, call_id, from, number);
        }
        let (node, legs) = (running.account.node.clone(), running.legs.clone());
        let incoming = ring::Incoming { call_id, from, telephone, phone, account: account.to_owned(), node, legs };
        tokio::spawn(ring::ring(incoming, self.wire.clone(), self.media.clone()));
    }

    /// Further requests of this Call-ID are a call's, as long as they come from its phone.
    pub(super) fn follow(&mut self, call_id: String, account: String, flow: Flow, inbox: mpsc::Sender<Input>) {
        let bindings = self.registrar.bindings(&account, unix());
        let phone = bindings.iter().find(|binding| binding.flow == flow).map(|binding| binding.phone().to_owned());
        self.followed.insert(call_id, Followed { account, phone, flow, inbox });
    }

    /// A phone has registered: its calls go on the way that it is reached by now.
    pub(super) fn move_calls(&mut self, account: &str) {
        let now = unix();
        for followed in self.followed.values_mut().filter(|followed| followed.account == account && followed.phone.is_some()) {
            let bindings = self.registrar.bindings(account, now);
            let mut own = bindings.iter().filter(|binding| Some(binding.phone()) == followed.phone.as_deref());
            // Of several ways that a phone keeps open (RFC 5626) the call's own stays as long as it is there.
            let Some(newest) = own.clone().map(|binding| binding.flow).next_back() else { continue };
            if !own.any(|binding| binding.flow == followed.flow) {
                followed.flow = newest;
                tell(&followed.inbox, Input::Moved(newest));
            }
        }
    }
}
