//! Waking phones' apps for SIP edges (RFC 8599): a push without content, by the services that this gateway has credentials for.
//!
//! A registration isn't needed: the app belongs to no device of the overlay. Who asks is a certified device, counted by its user.

use std::time::Instant;

use halloo_protocol::identity::VerifiedChain;
use halloo_protocol::key::PublicKey;
use halloo_protocol::push::PushReason;
use halloo_protocol::push::phone::{PhonePush, PhonePushStatus, PhonePushed};
use halloo_protocol::rate::{Rate, RateLimiter};
use halloo_protocol::wire::{self, Extensions, Frame, FrameKind, Message};
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tracing::debug;

use super::channel::{Next, Outcome};
use crate::event_loop::{EventLoop, Internal};

/// Apps woken for one user's edges, with those that sleep in an office and are to register again each hour.
const WAKE_RATE: Rate = Rate { per_hour: 1_200, burst: 100 };

/// Questions of one user's accounts, which ask after each start and every ten minutes.
const QUERY_RATE: Rate = Rate { per_hour: 3_600, burst: 200 };

/// Push services asked at once for phones.
const ASKED_MAX: usize = 256;

/// What is kept of such pushes: none of them waits.
pub(super) struct Phones {
    waking: RateLimiter<PublicKey>,
    querying: RateLimiter<PublicKey>,
    asked: usize,
}

impl Phones {
    pub(super) fn new(keys_max: usize) -> Self {
        Self { waking: RateLimiter::new(keys_max), querying: RateLimiter::new(keys_max), asked: 0 }
    }
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    peer: PeerId,
    via: ConnectionId,
    frame: u32,
}

impl EventLoop {
    /// An edge wants an app woken, or asks whom we can wake.
    pub(crate) fn handle_phone_push(&mut self, peer: PeerId, via: ConnectionId, frame: &Frame) {
        let Ok(request) = frame.parse::<PhonePush>() else {
            self.counters.malformed += 1;
            return self.answer_encoded(peer, via, frame.id, FrameKind::UNSUPPORTED, Vec::new());
        };
        let chain = self.chain_of(&peer);
        let ticket = Ticket { peer, via, frame: frame.id };
        match self.begin_phone_push(chain.as_ref(), ticket, request) {
            Ok(true) => {}
            Ok(false) => self.answer_phone_push(ticket, PhonePushStatus::Offered),
            Err(reason) => self.answer_phone_push(ticket, PhonePushStatus::Refused(reason)),
        }
    }

    /// True if a push service is being asked.
    fn begin_phone_push(
        &mut self,
        chain: Option<&VerifiedChain>,
        ticket: Ticket,
        request: PhonePush,
    ) -> Result<bool, PushReason> {
        let gateway = self.gateway.as_mut().ok_or(PushReason::NOT_SERVED)?;
        let user = chain.filter(|chain| chain.user.name().is_some()).ok_or(PushReason::NOT_CERTIFIED)?;
        let (identity, now) = (&user.user.identity.0, Instant::now());
        let PhonePush { target, event, urgency, ttl_secs, .. } = request;
        let Some(target) = target else {
            return gateway.phones.querying.take(identity, QUERY_RATE, now).map(|()| false).map_err(|_| PushReason::RATE);
        };
        if !gateway.services.ways().contains(target.way()) {
            return Err(PushReason::CHANNEL);
        }
        gateway.phones.waking.take(identity, WAKE_RATE, now).map_err(|_| PushReason::RATE)?;
        if gateway.phones.asked >= ASKED_MAX {
            return Err(PushReason::RATE);
        }
        gateway.phones.asked += 1;
        let services = gateway.services.clone();
        let news = self.internal_sender.clone();
        tokio::spawn(async move {
            let outcome = services.wake(&target, event, urgency, ttl_secs).await;
            // The event loop is gone only when the node is.
            let _ = news.send(Internal::PhonePush(ticket, outcome)).await;
        });
        Ok(true)
    }

    pub(crate) fn handle_phone_push_outcome(&mut self, ticket: Ticket, outcome: Outcome) {
        debug!(?outcome, "a phone's app was to be woken");
        if let Some(gateway) = &mut self.gateway {
            gateway.phones.asked = gateway.phones.asked.saturating_sub(1);
        }
        self.answer_phone_push(ticket, status_of(outcome));
    }

    fn answer_phone_push(&mut self, ticket: Ticket, status: PhonePushStatus) {
        let (ways, vapid_key) = match &self.gateway {
            Some(gateway) => (PhonePushed::ways_of(gateway.services.ways()), Some(gateway.vapid_key)),
            None => (Vec::new(), None),
        };
        let answer = PhonePushed { status, ways, vapid_key, extensions: Extensions::none() };
        self.answer_encoded(ticket.peer, ticket.via, ticket.frame, PhonePushed::KIND, wire::encode(&answer));
    }
}

const fn status_of(outcome: Outcome) -> PhonePushStatus {
    match (outcome, outcome.next()) {
        (Outcome::Sent, _) => PhonePushStatus::Sent,
        (_, Next::End(end)) => PhonePushStatus::Gone(end),
        (_, Next::StrikeOff) => PhonePushStatus::Refused(PushReason::CHANNEL),
        (_, Next::Again | Next::AgainAfter(_)) => PhonePushStatus::Refused(PushReason::TEMPORARY),
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::push::ChannelEnd;

    use super::*;

    #[test]
    fn an_edge_is_told_what_it_can_act_upon() {
        for (outcome, status) in [
            (Outcome::Sent, PhonePushStatus::Sent),
            (Outcome::Dead(ChannelEnd::UNREGISTERED), PhonePushStatus::Gone(ChannelEnd::UNREGISTERED)),
            (Outcome::Refused { status: 403 }, PhonePushStatus::Refused(PushReason::CHANNEL)),
            (Outcome::BadCredentials, PhonePushStatus::Refused(PushReason::TEMPORARY)),
            (Outcome::Temporary, PhonePushStatus::Refused(PushReason::TEMPORARY)),
        ] {
            assert_eq!(status_of(outcome), status, "{outcome:?}");
        }
    }
}
