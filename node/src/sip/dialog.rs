//! A dialog with a phone (RFC 3261 section 12), seen from the edge.

use std::net::SocketAddr;

use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::replaces::Replaces;
use halloo_protocol::sip::transaction::Flow;
use halloo_protocol::sip::uri::{NameAddr, escape_user};

/// What the edge calls itself.
pub(super) const USER_AGENT: &str = concat!("Halloo/", env!("CARGO_PKG_VERSION"));

/// Methods that the edge takes.
pub(super) const ALLOW: &str =
    "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, PRACK, UPDATE, INFO, REFER, NOTIFY, MESSAGE, SUBSCRIBE, PUBLISH";

/// Both ends' names for what is between them.
#[derive(Clone, Debug)]
pub(super) struct Dialog {
    pub(super) call_id: String,
    /// Our `From` or `To`, with the tag.
    local: String,
    local_tag: String,
    /// The phone's.
    remote: String,
    remote_tag: String,
    routes: Vec<String>,
    /// Where the phone wants its requests.
    target: String,
    contact: String,
    cseq: u32,
    remote_cseq: u32,
    pub(super) flow: Flow,
}

impl Dialog {
    /// Of an INVITE that a phone has sent.
    pub(super) fn answering(invite: &Message, tag: &str, flow: Flow, contact: String) -> Self {
        let to = format!("{};tag={tag}", invite.get("to").unwrap_or_default());
        Self {
            call_id: invite.call_id().to_owned(),
            local: to,
            local_tag: tag.to_owned(),
            remote: invite.get("from").unwrap_or_default().to_owned(),
            remote_tag: invite.from_tag(),
            routes: invite.list("record-route").into_iter().map(str::to_owned).collect(),
            target: target_of(invite).unwrap_or_default(),
            contact,
            cseq: 0,
            remote_cseq: invite.cseq().map_or(0, |(number, _)| number),
            flow,
        }
    }

    /// For a request of ours that begins one. `local` and `remote` are addresses without tags.
    pub(super) fn calling(local: &NameAddr, remote: &NameAddr, target: &str, flow: Flow, contact: String) -> Self {
        let tag = token();
        Self {
            call_id: format!("{}@halloo", token()),
            local: format!("{local};tag={tag}"),
            local_tag: tag,
            remote: remote.to_string(),
            remote_tag: String::new(),
            routes: Vec::new(),
            target: target.to_owned(),
            contact,
            cseq: 0,
            remote_cseq: 0,
            flow,
        }
    }

    /// The phone has answered: its tag, route and target count from now on.
    pub(super) fn established(&mut self, response: &Message) {
        if let Some(tag) = response.to_tag() {
            self.remote_tag = tag;
            response.get("to").unwrap_or_default().clone_into(&mut self.remote);
        }
        self.routes = response.list("record-route").into_iter().rev().map(str::to_owned).collect();
        if let Some(target) = target_of(response) {
            self.target = target;
        }
    }

    /// The phone has moved within the dialog.
    pub(super) fn refresh_target(&mut self, request: &Message) {
        if let Some(target) = target_of(request) {
            self.target = target;
        }
    }

    /// A request of ours within it.
    pub(super) fn request(&mut self, method: &str) -> Message {
        self.cseq += 1;
        self.build(method, self.cseq)
    }

    /// The ACK to the 2xx to an INVITE with this number.
    pub(super) fn ack(&self, number: u32) -> Message {
        self.build("ACK", number)
    }

    /// The number of the last request of ours.
    pub(super) const fn cseq(&self) -> u32 {
        self.cseq
    }

    fn build(&self, method: &str, number: u32) -> Message {
        let mut request = Message::request(method, &self.target);
        request.add("max-forwards", "70");
        for route in &self.routes {
            request.add("route", route.as_str());
        }
        request.add("from", self.local.as_str());
        request.add("to", self.remote.as_str());
        request.add("call-id", self.call_id.as_str());
        request.add("cseq", format!("{number} {method}"));
        if !matches!(method, "BYE" | "ACK") {
            request.add("contact", self.contact.as_str());
        }
        request.add("user-agent", USER_AGENT);
        request
    }

    /// An answer of ours to a request of the phone's.
    pub(super) fn answer(&self, request: &Message, status: u16, reason: &str) -> Message {
        let mut answer = Message::answer(request, status, reason, Some(&self.local_tag));
        if matches!(request.method(), "INVITE" | "SUBSCRIBE") {
            for route in request.all("record-route") {
                answer.add("record-route", route);
            }
        }
        if matches!(request.method(), "INVITE" | "UPDATE" | "OPTIONS" | "SUBSCRIBE") && (101..300).contains(&status) {
            answer.add("contact", self.contact.as_str());
            answer.add("allow", ALLOW);
            answer.add("supported", "timer, gruu, outbound, 100rel, replaces");
        }
        answer.add("server", USER_AGENT);
        answer
    }

    /// Whether it is the dialog that another is to replace.
    pub(super) fn is_replaced_by(&self, replaces: &Replaces) -> bool {
        (self.call_id == replaces.call_id && self.local_tag == replaces.to_tag && self.remote_tag == replaces.from_tag)
            && !replaces.is_early_only
    }

    /// Whether a request of the phone's is within it, new or not.
    pub(super) fn is_of(&self, request: &Message) -> bool {
        request.call_id() == self.call_id
            && request.to_tag().as_deref() == Some(&self.local_tag)
            && request.from_tag() == self.remote_tag
    }

    /// Whether a request of the phone's is within it, and newer than those before.
    ///
    /// # Errors
    /// The status to refuse it with (RFC 3261 section 12.2.2).
    pub(super) fn check(&mut self, request: &Message) -> Result<(), u16> {
        if !self.is_of(request) {
            return Err(481);
        }
        let number = request.cseq().map_or(0, |(number, _)| number);
        if request.method() == "ACK" {
            return Ok(());
        }
        if number <= self.remote_cseq {
            return Err(500);
        }
        self.remote_cseq = number;
        Ok(())
    }
}

fn target_of(message: &Message) -> Option<String> {
    message.contacts().ok()?.first().map(|contact| contact.uri.clone())
}

/// The edge's own address, for `Contact`.
pub(super) fn contact(user: &str, local: SocketAddr, flow: Flow) -> String {
    let transport = match flow.transport {
        halloo_protocol::sip::transaction::Transport::Udp => String::new(),
        other => format!(";transport={}", other.name().to_ascii_lowercase()),
    };
    format!("<sip:{}@{local}{transport}>", escape_user(user))
}

/// Something that nobody guesses: a tag, a branch, a Call-ID.
pub(super) fn token() -> String {
    let bytes: [u8; 12] = rand::random();
    data_encoding::HEXLOWER.encode(&bytes)
}

/// For a challenge: grows within each second, so that of many nonces the oldest are forgotten first, and isn't known before.
pub(super) fn salt() -> [u8; 8] {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (age, random): ([u8; 4], [u8; 4]) = (since.subsec_nanos().to_be_bytes(), rand::random());
    let mut salt = [0; 8];
    salt[..4].copy_from_slice(&age);
    salt[4..].copy_from_slice(&random);
    salt
}
