//! Registrations that are no more: taken back by the user, or ended by the push service.

use std::time::Instant;

use halloo_protocol::push::{PushChannelGone, PushChannelGoneNoted, PushUnregister, PushUnregistered};
use halloo_protocol::wire::{self, Extensions, Frame};
use libp2p::PeerId;
use tracing::{debug, info, warn};

use super::{Dead, GATEWAY_TIMEOUT, LOCAL_ENDPOINT, Registered, Registering, WireChannel, gateway_name};
use crate::address;
use crate::event_loop::EventLoop;
use crate::handle::push::{PushError, PushRemoved};
use crate::handle::{Event, Reply};
use crate::network::Purpose;
use crate::rpc::Failure;
use crate::store::StoreError;

/// A gateway being told that it may forget this device.
#[derive(Debug)]
pub(crate) struct Unregistering {
    id: String,
    reply: Reply<PushRemoved, PushError>,
}

impl EventLoop {
    /// A user takes a registration back.
    pub(crate) fn handle_push_unregister_command(&mut self, id: &str, reply: Reply<PushRemoved, PushError>) {
        let Some(registered) = self.push.registered.iter().find(|known| known.id() == id).cloned() else {
            let id = id.chars().take(64).collect();
            return reply.send(Err(PushError::NotFound { id }));
        };
        // Gateways that share a database have it under one handle: it ends at all of them.
        let (removed, kept) = std::mem::take(&mut self.push.registered).into_iter().partition(|known| known.id() == id);
        self.push.registered = kept;
        self.forget_registered(&removed);
        self.publish_soon();
        self.tell_unregistered(&registered, reply);
    }

    fn forget_registered(&mut self, removed: &[Registered]) {
        for name in removed.iter().map(Registered::name) {
            self.push.stale.remove(&name);
            if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.remove_push_registration(&name)) {
                warn!(%error, "push registration not removed from the database");
            }
        }
    }

    /// Registers what is left at the gateway, or takes leave of it.
    fn tell_unregistered(&mut self, registered: &Registered, reply: Reply<PushRemoved, PushError>) {
        let id = registered.id();
        if !registered.is_live() {
            return reply.send(Ok(PushRemoved { id, gateway_told: true }));
        }
        let gateway = registered.gateway.clone();
        let left = self.push.registered.iter().find(|known| known.gateway.device == gateway.device && known.is_live());
        if let Some(left) = left {
            // Renewed until the gateway has answered, should it not be there now.
            self.push.stale.insert(left.name());
            self.push.renew_at = Some(Instant::now() + super::RENEW_STALE_EVERY);
            let channel = left.channel.clone();
            return self.ask_gateway(Registering { removed: Some((id, reply)), ..Registering::renewal(gateway, channel) });
        }
        let Some(target) = self.helper_target(&gateway) else {
            return reply.send(Ok(PushRemoved { id, gateway_told: false }));
        };
        let request = PushUnregister { handle: registered.handle, extensions: Extensions::none() };
        self.request(&target, &request, Purpose::PushUnregister(Box::new(Unregistering { id, reply })), GATEWAY_TIMEOUT);
    }

    pub(crate) fn push_unregister_answer(&mut self, unregistering: Unregistering, frame: &Frame) {
        let gateway_told = frame.parse::<PushUnregistered>().is_ok();
        unregistering.reply.send(Ok(PushRemoved { id: unregistering.id, gateway_told }));
    }

    pub(crate) fn push_unregister_failure(&mut self, unregistering: Unregistering, failure: Failure) {
        debug!(%failure, "gateway not reached: it forgets this device when the registration expires");
        unregistering.reply.send(Ok(PushRemoved { id: unregistering.id, gateway_told: false }));
    }

    /// A gateway says that a channel has ended. It can say so of its own registrations alone, and of the channel that is registered now.
    pub(crate) fn handle_push_channel_gone(&mut self, peer: &PeerId, notice: &PushChannelGone) -> PushChannelGoneNoted {
        let gateway = address::device_key(peer);
        let is_meant = |known: &Registered| {
            Some(known.gateway.device) == gateway
                && known.handle == notice.handle
                && known.channel.fingerprint() == notice.fingerprint
        };
        let was_known = self.push.registered.iter().any(is_meant);
        // Gateways that share a database have it under one handle: it has ended at all of them.
        let groups = &self.push.groups;
        let is_it = |known: &Registered| {
            known.handle == notice.handle
                && known.channel.fingerprint() == notice.fingerprint
                && gateway.is_some_and(|gateway| groups.share(&gateway, &known.gateway.device))
        };
        let known = self.push.registered.iter().enumerate().filter(|(_, known)| was_known && is_it(known));
        let places: Vec<usize> = known.map(|(place, _)| place).collect();
        places.into_iter().for_each(|place| self.channel_ended(place, notice));
        PushChannelGoneNoted { was_known, extensions: Extensions::none() }
    }

    fn channel_ended(&mut self, place: usize, notice: &PushChannelGone) {
        let Some(registered) = self.push.registered.get_mut(place).filter(|known| known.is_live()) else { return };
        if matches!(&registered.channel, WireChannel::WebPush { endpoint, .. } if endpoint.starts_with(LOCAL_ENDPOINT)) {
            // The push service of this machine has forgotten a path: there is another.
            self.renew_local_endpoints();
            self.push.renew_at = Some(Instant::now());
            return;
        }
        registered.dead = Some(Dead { reason: notice.reason, at: notice.at });
        let (name, row) = (registered.name(), wire::encode(registered));
        let event = Event::PushChannelGone {
            id: registered.id(),
            kind: registered.channel.way().name().to_owned(),
            gateway: gateway_name(&registered.gateway),
            reason: notice.reason.to_string(),
        };
        info!(way = registered.channel.way().name(), reason = %notice.reason, "a push channel has ended");
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_push_registration(&name, &row)) {
            warn!(%error, "end of a push channel not kept");
        }
        self.push.stale.remove(&name);
        self.events.send(event);
        self.publish_soon();
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::capability::{Capability, CapabilityId, Holder, Issuer, Limits, Service};
    use halloo_protocol::directory::Helper;
    use halloo_protocol::key::{DeviceKey, SecretKey};
    use halloo_protocol::push::{ChannelEnd, PushHandle};
    use halloo_protocol::time::UnixTime;
    use halloo_protocol::wire::Signed;

    use super::*;

    fn registered(channel: WireChannel) -> Registered {
        let key = SecretKey::from_bytes([1; 32]);
        let device = DeviceKey(key.public());
        let capability = Capability {
            id: CapabilityId([1; 16]),
            issuer: Issuer::Device(device),
            service: Service::Push,
            holder: Holder::Certified,
            limits: Limits { per_hour: 1, payload_bytes_max: 1 },
            epoch: 0,
            not_before: UnixTime(1),
            not_after: UnixTime(2),
            extensions: Extensions::none(),
        };
        Registered {
            gateway: Helper { device, addresses: Vec::new() },
            handle: PushHandle([3; 32]),
            channel,
            capability: Signed::sign(capability, &key),
            registered_at: UnixTime(1),
            expires_at: UnixTime(2),
            dead: None,
        }
    }

    #[test]
    fn rows_of_earlier_versions_are_read_as_live() {
        let row = wire::encode(&registered(WireChannel::Stream));
        let (last, earlier) = row.split_last().unwrap();
        assert_eq!(*last, 0, "nothing has ended");
        assert!(Registered::from_row(earlier).is_some_and(|known| known.is_live()));
        let mut dead = registered(WireChannel::Stream);
        dead.dead = Some(Dead { reason: ChannelEnd::UNREGISTERED, at: UnixTime(5) });
        assert!(Registered::from_row(&wire::encode(&dead)).is_some_and(|known| !known.is_live()));
        assert!(Registered::from_row(&row[..20]).is_none());
    }

    #[test]
    fn each_kind_has_its_own_id_at_a_gateway() {
        let apns = |topic: &str| WireChannel::Apns { token: vec![1], topic: topic.into(), is_sandbox: false };
        let stream = registered(WireChannel::Stream);
        let (calls, rest) = (registered(apns("org.example.voip")), registered(apns("org.example")));
        assert_ne!(stream.id(), rest.id());
        assert_ne!(calls.id(), rest.id(), "an application has a token for calls and one for the rest");
        assert_ne!(calls.name(), rest.name());
        assert_eq!(rest.id(), registered(apns("org.example.other")).id(), "a new token takes the old one's place");
    }
}
