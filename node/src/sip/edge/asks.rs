//! What calls and other handlers ask of the edge.

use std::net::SocketAddr;
use std::time::Instant;

use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::transaction::{Flow, Transport};

use super::{Edge, tell, unix};
use crate::sip::dialog::token;
use crate::sip::wire::{Ask, Input};
use crate::sip::{is_near, route_to};

impl Edge {
    /// This end of a flow as the phone should know it.
    pub(super) fn local(&self, flow: Flow) -> Option<SocketAddr> {
        let mut local = self.transports.local(flow)?;
        if local.ip().is_unspecified() {
            local.set_ip(route_to(flow.peer.ip()).unwrap_or(local.ip()));
        }
        if let Some(external) = self.external.filter(|_| !is_near(flow.peer.ip())) {
            local.set_ip(external);
        }
        Some(local)
    }

    pub(super) fn handle_ask(&mut self, ask: Ask) {
        let now = Instant::now();
        match ask {
            Ask::Respond { id, response } => {
                // The ACK of a refusal is the transaction's own; of a success it is the call's.
                if response.status() >= 300 || (response.status() >= 200 && response.method() != "INVITE") {
                    self.servers.remove(&id);
                }
                self.transactions.respond(id, &response, now);
            }
            Ask::Acknowledged(id) => {
                self.servers.remove(&id);
                self.transactions.acknowledged(id);
            }
            Ask::Request { request, flow, number, inbox, sent } => {
                let id = self.with_via(*request, flow).and_then(|request| self.transactions.request(request, flow, now));
                match id {
                    Some(id) => drop(self.clients.insert(id, (number, inbox))),
                    None if sent.is_none() => tell(&inbox, Input::TimedOut(number)),
                    None => {}
                }
                // Who asked has gone: the answer goes nowhere.
                let _ = sent.map(|sent| sent.send(id));
            }
            Ask::Send { request, flow } => {
                if let Some(request) = self.with_via(*request, flow) {
                    self.transports.send(flow, request.to_bytes());
                }
            }
            Ask::Abandon(id) => {
                self.clients.remove(&id);
                self.transactions.abandon(id);
            }
            Ask::Cancel { id, reason } => self.transactions.cancel(id, reason, now),
            Ask::Follow { call_id, account, flow, inbox } => self.follow(call_id, account, flow, inbox),
            Ask::Unfollow { call_id } => {
                self.followed.remove(&call_id);
            }
            // Where there is no such dialog, dropping the reply says so.
            Ask::Which { account, dialog, reply } => {
                let followed = self.followed.get(&dialog.call_id).filter(|followed| followed.account == account);
                if let Some(followed) = followed {
                    tell(&followed.inbox, Input::Which(dialog, reply));
                }
            }
            Ask::Local { flow, reply } => drop(reply.send(self.local(flow))),
            Ask::Ping(flow) => self.transports.send(flow, b"\r\n\r\n".to_vec()),
            Ask::Bindings { account, reply } => {
                let bindings = self.registrar.bindings(&account, unix()).into_iter().filter(|binding| !binding.is_asleep);
                let found = bindings.filter_map(|binding| Some((binding.clone(), self.local(binding.flow)?))).collect();
                let _ = reply.send(found);
            }
            Ask::Sleepers { account, reply } => {
                let bindings = self.registrar.bindings(&account, unix()).into_iter();
                let _ = reply.send(bindings.filter(|binding| binding.is_asleep).map(|binding| binding.flow).collect());
            }
            Ask::PhonesForCall { account, phone, inbox, reply } => {
                let _ = reply.send(self.phones_for_call(&account, phone.as_deref(), inbox));
            }
            Ask::Wake { account, apps, cause } => self.wake_phones(&account, apps.as_deref(), cause),
        }
    }

    pub(super) fn with_via(&self, mut request: Message, flow: Flow) -> Option<Message> {
        let local = self.local(flow)?;
        let rport = if flow.transport == Transport::Udp { ";rport" } else { "" };
        request.add_first("via", format!("SIP/2.0/{} {local};branch=z9hG4bK{}{rport}", flow.transport.name(), token()));
        Some(request)
    }

    /// Lets go of inboxes whose call is over.
    pub(super) fn forget_closed(&mut self) {
        self.clients.retain(|_, (_, inbox)| !inbox.is_closed());
        self.servers.retain(|_, inbox| !inbox.is_closed());
        self.followed.retain(|_, followed| !followed.inbox.is_closed());
    }
}
