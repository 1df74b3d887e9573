//! Having a gateway wake a phone's app, for the SIP edge.

use std::time::Duration;

use halloo_protocol::push::phone::{PhonePush, PhonePushed};
use halloo_protocol::wire::Frame;
use tracing::debug;

use super::gateway_name;
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::push::PushError;
use crate::network::Purpose;
use crate::rpc::Failure;

/// How long a gateway may take: it waits for the push service, 15 s at most.
const PHONE_PUSH_TIMEOUT: Duration = Duration::from_secs(20);

/// Who waits for a gateway's answer.
#[derive(Debug)]
pub(crate) struct Asking {
    gateway: String,
    reply: Reply<PhonePushed, PushError>,
}

impl EventLoop {
    pub(crate) fn handle_phone_push_command(
        &mut self,
        named: Option<&str>,
        request: &PhonePush,
        reply: Reply<PhonePushed, PushError>,
    ) {
        // The device's own gateway first: it stays the same, and so does the key that apps have subscribed for.
        let own = self.push.registered.iter().find(|known| known.is_live()).map(|known| known.gateway.clone());
        let chosen = match own.filter(|_| named.is_none()) {
            Some(own) => Ok(own),
            None => self.choose_gateway(named),
        };
        let gateway = match chosen {
            Ok(gateway) => gateway,
            Err(error) => return reply.send(Err(error)),
        };
        let Some(target) = self.helper_target(&gateway) else { return reply.send(Err(PushError::NoGateway)) };
        let asking = Asking { gateway: gateway_name(&gateway), reply };
        self.request(&target, request, Purpose::PhonePush(Box::new(asking)), PHONE_PUSH_TIMEOUT);
    }

    pub(crate) fn phone_push_answer(&mut self, asking: Asking, frame: &Frame) {
        let answer = frame.parse::<PhonePushed>();
        asking.reply.send(answer.map_err(|error| PushError::Refused { gateway: asking.gateway, reason: error.to_string() }));
    }

    pub(crate) fn phone_push_failure(&mut self, asking: Asking, failure: Failure) {
        debug!(%failure, "gateway not reached");
        asking.reply.send(Err(PushError::GatewayUnreachable { gateway: asking.gateway }));
    }
}
