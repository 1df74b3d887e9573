//! Whose a request is, and who handles it.

use std::time::Instant;

use halloo_protocol::simple::info;
use halloo_protocol::sip::digest::Denied;
use halloo_protocol::sip::gruu::{self, PhoneMark};
use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::status::reason_of;
use halloo_protocol::sip::transaction::Flow;
use halloo_protocol::sip::uri::{NameAddr, SipUri, address_of_user, user_of_address};

use super::{Edge, unix};
use crate::sip::accounts::Record;
use crate::sip::dialog::{ALLOW, USER_AGENT, salt, token};
use crate::sip::wire::{Arrived, Telephone};

impl Edge {
    /// Whose request it is; else it is answered, or not.
    pub(super) fn authenticate(&mut self, message: &Message, flow: Flow, now: Instant) -> Option<String> {
        let source = flow.peer.ip();
        let is_claim = message.get("authorization").or_else(|| message.get("proxy-authorization")).is_some();
        let record = if is_claim { self.claimed(message).cloned() } else { None };
        let find = |user: &str| record.as_ref().and_then(|record| record.ha1(user));
        let checked = self.authenticator.check(message, source, find, unix());
        match checked {
            Ok(_) => {
                self.guard.succeeded(source);
                self.transports.trust(flow);
                record.map(|record| record.account)
            }
            Err(denied) => {
                let is_banned = denied == Denied::Wrong && self.guard.failed(source, now);
                if is_banned {
                    tracing::debug!("a source is banned for guessing passwords");
                } else if self.guard.take(source, now) {
                    self.challenge(message, flow, denied == Denied::Stale);
                }
                None
            }
        }
    }

    /// The account that a request says it is from: a registration's address of record, or who it is from.
    pub(super) fn claimed(&self, message: &Message) -> Option<&Record> {
        let address = if message.method() == "REGISTER" { message.to() } else { message.from() };
        let uri = address?.sip()?;
        if let Some(running) = self.running.get(&user_of_address(&uri)?) {
            return Some(&running.account.record);
        }
        let user = uri.user.as_deref()?.to_lowercase();
        // A phone that was set up with the edge's address instead of the authority's name.
        if !is_address(&uri.host) {
            return None;
        }
        let mut named = self.running.values().map(|running| &running.account.record).filter(|record| record.name() == user);
        let found = named.next();
        if named.next().is_none() { found } else { None }
    }

    pub(super) fn challenge(&mut self, message: &Message, flow: Flow, is_stale: bool) {
        let (status, name) = match message.method() {
            "REGISTER" => (401, "www-authenticate"),
            _ => (407, "proxy-authenticate"),
        };
        let challenges = self.authenticator.challenges(message, flow.peer.ip(), unix(), salt(), is_stale);
        self.answer_statelessly(message, status, reason_of(status), flow, |answer| {
            for challenge in challenges {
                answer.add(name, challenge);
            }
        });
    }

    /// Answers and keeps nothing of it: what comes again is answered anew.
    pub(super) fn answer_statelessly(
        &self,
        request: &Message,
        status: u16,
        reason: &str,
        flow: Flow,
        more: impl FnOnce(&mut Message),
    ) {
        if request.method() == "ACK" {
            return;
        }
        let mut answer = Message::answer(request, status, reason, Some(&token()));
        more(&mut answer);
        answer.add("server", USER_AGENT);
        self.transports.send(flow, answer.to_bytes());
    }

    /// Answers within a transaction, and that is all there is to it.
    pub(super) fn answer(&mut self, request: &Message, status: u16, reason: &str, flow: Flow, more: impl FnOnce(&mut Message)) {
        let now = Instant::now();
        let Some(id) = self.transactions.accept(request, flow, now) else {
            self.answer_statelessly(request, 503, reason_of(503), flow, |answer| answer.add("retry-after", "10"));
            return;
        };
        let mut answer = Message::answer(request, status, reason, Some(&token()));
        more(&mut answer);
        answer.add("server", USER_AGENT);
        self.transactions.respond(id, &answer, now);
    }

    /// Each method to whoever handles it.
    pub(super) fn dispatch(&mut self, message: Message, flow: Flow, account: String, now: Instant) {
        if !self.is_from_itself(&message, &account) {
            self.answer(&message, 403, "From names somebody else", flow, |_| {});
            return;
        }
        let message = self.to_its_user(message);
        match message.method() {
            "REGISTER" => self.register(&message, flow, &account),
            "INVITE" if message.to_tag().is_none() => self.begin_call(message, flow, account, now),
            "OPTIONS" => self.answer(&message, 200, "OK", flow, |answer| {
                answer.add("allow", ALLOW);
                answer.add("accept", "application/sdp, application/pidf+xml, text/plain, application/im-iscomposing+xml");
                answer.add("allow-events", "presence, refer");
                answer.add("supported", "timer, gruu, outbound, eventlist, 100rel, replaces");
            }),
            "SUBSCRIBE" | "PUBLISH" => self.at_desk(message, flow, account, now),
            "MESSAGE" | "INFO" if message.to_tag().is_none() || is_profile(&message) => self.at_desk(message, flow, account, now),
            "INVITE" | "BYE" | "CANCEL" | "UPDATE" | "REFER" | "NOTIFY" | "MESSAGE" | "INFO" | "PRACK" => {
                self.answer(&message, 481, reason_of(481), flow, |_| {});
            }
            _ => self.answer(&message, 501, reason_of(501), flow, |answer| answer.add("allow", ALLOW)),
        }
    }

    /// A call or a message to a temporary address of a phone that is registered here is for that phone of its user, by its public address. What is none is for
    /// the overlay to refuse, as any name that nobody has.
    fn to_its_user(&self, mut message: Message) -> Message {
        if !matches!(message.method(), "INVITE" | "MESSAGE") {
            return message;
        }
        let uri = SipUri::parse(message.request_uri()).ok();
        let named = uri.and_then(|uri| uri.user).filter(|user| user.starts_with(gruu::PREFIX));
        let Some((user, instance)) = named.and_then(|user| self.phone_of_gruu(&user)) else { return message };
        message.set_request_uri(&format!("{};gr={instance}", address_of_user(user)));
        message
    }

    /// Whose temporary address it is, and the instance of the phone that it was given to, as long as that is registered.
    fn phone_of_gruu(&self, user: &str) -> Option<(&str, String)> {
        self.running.iter().find_map(|(account, running)| {
            let phone = running.account.record.gruu_key().open(user)?;
            let bindings = self.registrar.bindings(account, unix());
            let is_it = |instance: &str| PhoneMark::of(instance) == phone;
            let instance = bindings.iter().filter_map(|binding| binding.instance.as_deref()).find(|instance| is_it(instance))?;
            Some((account.as_str(), instance.to_owned()))
        })
    }

    /// Presence, messages and the INFO profile: to the account's desk.
    fn at_desk(&mut self, message: Message, flow: Flow, account: String, now: Instant) {
        let (Some(running), Some(local)) = (self.running.get(&account), self.local(flow)) else { return };
        let (node, desk) = (running.account.node.clone(), running.desk.clone());
        let Some(id) = self.transactions.accept(&message, flow, now) else {
            return self.answer_statelessly(&message, 503, reason_of(503), flow, |answer| answer.add("retry-after", "10"));
        };
        let telephone = Telephone::None;
        if let Err(arrived) = desk.take(Arrived { id, request: message, flow, local, account, node, telephone }) {
            let mut answer = Message::answer(&arrived.request, 503, reason_of(503), Some(&token()));
            answer.add("retry-after", "10");
            self.transactions.respond(id, &answer, now);
        }
    }

    /// Whether what a request says of its sender is its sender. Others' names in `P-Asserted-Identity` and the like are worth nothing and are ignored;
    /// another's in `From` is a mistake or a lie.
    pub(super) fn is_from_itself(&self, message: &Message, account: &str) -> bool {
        let Some(uri) = message.from().and_then(|from| from.sip()) else { return false };
        if !is_address(&uri.host) {
            return user_of_address(&uri).as_deref() == Some(account);
        }
        let name = account.split('@').next().unwrap_or_default();
        uri.user.is_some_and(|user| user.to_lowercase() == name)
    }
}

/// Whether it is of the profile over INFO, whose dialogues are the desk's.
fn is_profile(message: &Message) -> bool {
    let content_type = message.get("content-type").and_then(|value| value.split(';').next()).unwrap_or_default();
    message.method() == "INFO" && content_type.trim().eq_ignore_ascii_case(info::CONTENT_TYPE)
}

/// What can be refused before asking who it is: what nobody could ask (RFC 3261 section 8.2).
pub(super) fn unsupported(message: &Message) -> Option<(u16, &'static str)> {
    if !required(message).is_empty() {
        return Some((420, "Bad Extension"));
    }
    let is_other_scheme = |name: &str| {
        let uri = message.get(name).and_then(|text| NameAddr::parse(text).ok());
        uri.is_some_and(|uri| uri.sip().is_none() && !uri.uri.to_ascii_lowercase().starts_with("tel:"))
    };
    (message.method() == "REGISTER" && is_other_scheme("to")).then_some((416, "Unsupported URI Scheme"))
}

/// Extensions that a request requires and the edge doesn't have.
pub(super) fn required(message: &Message) -> Vec<String> {
    const KNOWN: [&str; 6] = ["timer", "outbound", "gruu", "eventlist", "replaces", "100rel"];
    // The first answer that is acknowledged would have to offer something (RFC 3262 section 5), before anybody has said in what it can be.
    let known = if message.method() == "INVITE" && message.body.is_empty() { &KNOWN[..5] } else { &KNOWN };
    let listed = message.list("require").into_iter().chain(message.list("proxy-require"));
    listed.filter(|option| !known.iter().any(|known| known.eq_ignore_ascii_case(option))).map(str::to_owned).collect()
}

/// Whether a host is an address of some machine rather than a name.
pub(in crate::sip) fn is_address(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

/// Notes in a request's topmost `Via` where it was seen to come from; its answers tell the phone so (RFC 3261 section 18.2.1, RFC 3581 section 4).
pub(super) fn seen_from(mut message: Message, flow: Flow) -> Message {
    let vias: Vec<String> = message.list("via").into_iter().map(str::to_owned).collect();
    let (Some((first, rest)), Some(via), true) = (vias.split_first(), message.via(), message.is_request()) else {
        return message;
    };
    let mut first = first.clone();
    if via.params.iter().any(|(name, value)| name == "rport" && value.is_none()) {
        first = first.replacen(";rport", &format!(";rport={}", flow.peer.port()), 1);
    } else if via.host == flow.peer.ip().to_string() {
        return message;
    }
    message.remove("via");
    for via in rest.iter().rev() {
        message.add_first("via", via.as_str());
    }
    message.add_first("via", format!("{first};received={}", flow.peer.ip()));
    message
}
