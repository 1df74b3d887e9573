//! Calls begin: those of phones, and those that ring at phones.

use std::time::Instant;

use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::transaction::{Flow, ServerId};
use tokio::sync::mpsc;
use tracing::warn;

use super::{Edge, Followed};
use crate::handle::Event;
use crate::sip::wire::{Arrived, INBOX_MAX};
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
        let node = running.account.node.clone();
        let telephone = self.telephone_of(&account);
        let arrived = |id, request| Arrived { id, request, flow, local, account, node, telephone };
        self.take_call(message, flow, now, arrived);
    }

    /// Takes an INVITE that may be a call, to whoever carries it.
    pub(super) fn take_call(
        &mut self,
        message: Message,
        flow: Flow,
        now: Instant,
        arrived: impl FnOnce(ServerId, Message) -> Arrived,
    ) {
        let Some(id) = self.transactions.accept(&message, flow, now) else { return };
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        self.servers.insert(id, sender.clone());
        self.transactions.respond(id, &Message::answer(&message, 100, "Trying", None), now);
        let call_id = message.call_id().to_owned();
        let arrived = arrived(id, message);
        self.followed.insert(call_id, Followed { account: arrived.account.clone(), flow, inbox: sender.clone() });
        tokio::spawn(call::take(arrived, self.wire.clone(), self.media.clone(), sender, inbox));
    }

    /// Somebody calls the account's user: all of its phones ring.
    pub(super) fn ring(&mut self, account: &str, event: Event) {
        let Event::CallIncoming { call_id, from, telephone, dialled, .. } = event else { return };
        let Some(running) = self.running.get(account) else { return };
        if self.followed.len() >= CALLS_MAX {
            warn!("too many calls: one doesn't ring at phones");
            return;
        }
        if let Some(number) = dialled {
            return self.call_telephone(account, call_id, from, &number);
        }
        let incoming =
            ring::Incoming { call_id, from, telephone, account: account.to_owned(), node: running.account.node.clone() };
        tokio::spawn(ring::ring(incoming, self.wire.clone(), self.media.clone()));
    }
}
