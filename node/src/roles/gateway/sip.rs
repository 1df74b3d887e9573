//! The SIP channel: what a gateway pushes goes as a MESSAGE request to a phone that is registered at the SIP edge beside it.

use halloo_protocol::push::session::encapsulation::sip_message;
use halloo_protocol::push::session::{SessionInitiation, SessionReason, SessionStatus};
use halloo_protocol::push::{ChannelEnd, PUSH_CONTENT_TYPE, sip_account};
use halloo_protocol::wire::Signed;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::channel::{Outcome, PushMessage};

/// What an edge is asked to bring to a phone.
#[derive(Debug)]
pub struct SipPush {
    /// `name@authority`
    pub account: String,
    /// The phone's `+sip.instance`; `None`: the first that takes it.
    pub instance: Option<String>,
    /// More headers of the request, in lower case.
    pub headers: Vec<(String, String)>,
    /// The content's type.
    pub content_type: &'static str,
    /// The content.
    pub body: Vec<u8>,
    /// Whether it rings, so that a phone that sleeps is woken accordingly.
    pub is_call: bool,
    /// What came of it.
    pub reply: oneshot::Sender<SipPushed>,
}

/// What came of it.
#[derive(Debug)]
pub enum SipPushed {
    /// There is no such account.
    NoAccount,
    /// No such phone is there now; one that can be woken is being woken.
    Away,
    /// It has answered.
    Answered {
        /// Its status.
        status: u16,
        /// What it returned, if that is JSON.
        body: Vec<u8>,
    },
}

/// The edge beside this gateway.
#[derive(Clone, Debug)]
pub(super) struct SipClient(pub(super) mpsc::Sender<SipPush>);

impl SipClient {
    /// Brings a payload to a phone.
    pub(super) async fn send(&self, address: &str, message: &PushMessage) -> Outcome {
        let is_call = message.event.is_call();
        match self.ask(address, (Vec::new(), PUSH_CONTENT_TYPE, message.payload.to_vec()), is_call).await {
            Some(SipPushed::Answered { status: 200..=299, .. }) => Outcome::Sent,
            Some(SipPushed::Answered { status: 413 | 513, .. }) => Outcome::TooLarge,
            Some(SipPushed::Answered { status: status @ (400..=407 | 409..=479 | 600..), .. }) => Outcome::Refused { status },
            Some(SipPushed::NoAccount) => Outcome::Dead(ChannelEnd::UNREGISTERED),
            Some(_) => Outcome::Temporary,
            None => Outcome::Dead(ChannelEnd::INVALID),
        }
    }

    /// Brings a request for a session to a phone. What it does, and what it returned at once.
    pub(super) async fn send_initiation(
        &self,
        address: &str,
        request: &Signed<SessionInitiation>,
    ) -> Option<(SessionStatus, Value)> {
        let Some(SipPushed::Answered { status, body }) = self.ask(address, sip_message(request), false).await else {
            return None;
        };
        let status = match status {
            202 => SessionStatus::Asking,
            200..=299 => SessionStatus::Opening,
            600.. | 486 => SessionStatus::Refused(SessionReason::USER),
            _ => SessionStatus::Ignored(SessionReason::UNKNOWN),
        };
        Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    async fn ask(
        &self,
        address: &str,
        content: (Vec<(String, String)>, &'static str, Vec<u8>),
        is_call: bool,
    ) -> Option<SipPushed> {
        let (account, instance) = sip_account(address)?;
        let (headers, content_type, body) = content;
        let (reply, answer) = oneshot::channel();
        let push = SipPush { account, instance, headers, content_type, body, is_call, reply };
        // An edge that has ended comes back with the process.
        if self.0.send(push).await.is_err() {
            return Some(SipPushed::Away);
        }
        Some(answer.await.unwrap_or(SipPushed::Away))
    }
}
