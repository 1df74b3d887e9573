//! Where the telephone network meets the edge: requests of providers, and calls for the gateway.

use std::time::Instant;

use halloo_protocol::call::Reason;
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::transaction::Flow;
use tracing::debug;

use super::Edge;
use super::calls::CALLS_MAX;
use crate::sip::dialog::ALLOW;
use crate::sip::trunk::{Inbound, outbound};
use crate::sip::wire::{Arrived, Telephone};

impl Edge {
    /// What a phone of this account may dial. The gateway's own user dials no numbers: who may is for its owner to say of others.
    pub(super) fn telephone_of(&self, account: &str) -> Telephone {
        if self.dials_numbers && !self.trunks.is_gateway(account) { Telephone::Dials } else { Telephone::None }
    }

    /// Takes what a provider sends that isn't of a call which is there. False for everything that isn't a provider's, or nothing for a provider to say: it
    /// needs credentials then, as anybody's.
    pub(super) fn receive_from_provider(&mut self, message: &Message, flow: Flow, now: Instant) -> bool {
        let Some(line) = self.trunks.line_of(flow) else { return false };
        if message.to_tag().is_some() {
            return false;
        }
        match message.method() {
            "OPTIONS" => self.answer(message, 200, "OK", flow, |answer| answer.add("allow", ALLOW)),
            "INVITE" => self.take_inbound(line, message.clone(), flow, now),
            _ => return false,
        }
        true
    }

    /// A call of the telephone network: it rings at whom the owner has mapped the number to, and nowhere else.
    fn take_inbound(&mut self, line: usize, message: Message, flow: Flow, now: Instant) {
        let Some(Inbound { user, number }) = self.trunks.inbound(line, &message) else {
            debug!("a provider's call to a number that nobody has");
            return self.answer(&message, 404, reason_of(404), flow, |_| {});
        };
        let account = self.trunks.gateway().to_owned();
        let (Some(running), Some(local)) = (self.running.get(&account), self.local(flow)) else {
            return self.answer(&message, 480, reason_of(480), flow, |_| {});
        };
        if self.followed.len() >= CALLS_MAX {
            return self.answer(&message, 503, reason_of(503), flow, |answer| answer.add("retry-after", "30"));
        }
        if self.followed.contains_key(message.call_id()) {
            return self.answer(&message, 482, reason_of(482), flow, |_| {});
        }
        let Ok(place) = running.legs.clone().try_acquire_owned() else {
            return self.answer(&message, 503, reason_of(503), flow, |answer| answer.add("retry-after", "30"));
        };
        let (node, telephone) = (running.account.node.clone(), Telephone::From { user, number });
        self.take_call(message, flow, now, place, |id, request| Arrived { id, request, flow, local, account, node, telephone });
    }

    /// Somebody calls a number through this gateway.
    pub(super) fn call_telephone(&self, account: &str, call_id: String, from: String, number: String) {
        let Some(running) = self.running.get(account) else { return };
        let (node, legs) = (running.account.node.clone(), running.legs.clone());
        let call = outbound::Call { call_id, from, account: account.to_owned(), node, own: self.own.clone() };
        let (trunks, wire, media) = (self.trunks.clone(), self.wire.clone(), self.media.clone());
        tokio::spawn(async move {
            // The account's share of calls and ports, as for any account.
            match legs.try_acquire_owned() {
                Ok(place) => {
                    outbound::place(call, &number, trunks, wire, media).await;
                    drop(place);
                }
                // The caller may have given up.
                Err(_full) => drop(call.node.calls().refuse(&call.call_id, Reason::TELEPHONE_FAILED).await),
            }
        });
    }
}
