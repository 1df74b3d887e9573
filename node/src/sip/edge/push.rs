//! What the gateway beside the edge pushes to phones (its channel `sip`): a MESSAGE request, whose answer goes back.

use std::time::Duration;

use halloo_protocol::sip::registrar::Binding;

use super::wake::Cause;
use super::{Edge, unix};
use crate::roles::gateway::sip::{SipPush, SipPushed};
use crate::sip::dialog::USER_AGENT;
use crate::sip::simple::request_to;
use halloo_protocol::sip::uri::NameAddr;

/// How long a phone may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// Longest answer that is passed on.
const ANSWER_BYTES_MAX: usize = 4 * 1_024;

impl Edge {
    pub(super) fn handle_push(&mut self, push: SipPush) {
        let SipPush { account, instance, headers, content_type, body, is_call, reply } = push;
        if !self.running.contains_key(&account) {
            // Whoever asked has gone: the answer goes nowhere.
            let _ = reply.send(SipPushed::NoAccount);
            return;
        }
        let is_meant = |binding: &&Binding| instance.is_none() || binding.instance == instance;
        let meant: Vec<Binding> = self.registrar.bindings(&account, unix()).into_iter().filter(is_meant).cloned().collect();
        let awake = meant.iter().find(|binding| !binding.is_asleep && self.local(binding.flow).is_some());
        let Some(phone) = awake else {
            let apps: Vec<_> = meant.into_iter().filter_map(|binding| binding.push).collect();
            self.wake_phones(&account, Some(&apps), if is_call { Cause::Call } else { Cause::Message });
            let _ = reply.send(SipPushed::Away);
            return;
        };
        let from = NameAddr {
            display: USER_AGENT.to_owned(),
            uri: format!("sip:{}", account.split('@').nth(1).unwrap_or_default()),
            params: Vec::new(),
        };
        let mut request = request_to(phone, "MESSAGE", &from, &account);
        for (name, value) in headers {
            request.add(&name, value);
        }
        let request = request.with_body(content_type, body);
        let (wire, flow) = (self.wire.clone(), phone.flow);
        tokio::spawn(async move {
            let pushed = match wire.ask(request, flow, ANSWER_MAX).await {
                Ok(answer) if answer.body.len() <= ANSWER_BYTES_MAX => {
                    SipPushed::Answered { status: answer.status(), body: answer.body }
                }
                Ok(answer) => SipPushed::Answered { status: answer.status(), body: Vec::new() },
                Err(_) => SipPushed::Away,
            };
            let _ = reply.send(pushed);
        });
    }
}
