//! A second gateway: who can be woken through one alone isn't woken while that one is down, or drops what it is to deliver.

use halloo_protocol::directory::Helper;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::Roles;
use tracing::{debug, warn};

use super::{GATEWAYS_MAX, LOCAL_ENDPOINT, Registering, WireChannel, gateway_name, helper_of};
use crate::event_loop::EventLoop;
use crate::store::StoreError;

/// Gateways that were asked in vain, or were given up: not asked again before that many others.
const TRIED_MAX: usize = 16;

/// Whether any gateway can use the channel. Subscriptions at a push service are made for one gateway's key, and tokens of an application for those
/// who hold its credentials: which second gateway may use them only the user knows.
fn serves_any_gateway(channel: &WireChannel) -> bool {
    match channel {
        WireChannel::Stream => true,
        WireChannel::WebPush { endpoint, .. } => endpoint.starts_with(LOCAL_ENDPOINT),
        WireChannel::Fcm { .. }
        | WireChannel::Apns { .. }
        | WireChannel::Webhook { .. }
        | WireChannel::Sms { .. }
        | WireChannel::Sip { .. } => false,
    }
}

impl EventLoop {
    /// Gateways that this device is registered with.
    fn own_gateways(&self) -> Vec<DeviceKey> {
        let mut gateways: Vec<DeviceKey> =
            self.push.registered.iter().filter(|known| known.is_live()).map(|known| known.gateway.device).collect();
        gateways.sort_unstable();
        gateways.dedup();
        gateways
    }

    /// A gateway that this device isn't registered with, and that hasn't been tried.
    fn another_gateway(&self) -> Option<Helper> {
        let own = self.own_gateways();
        let connected = self.peers.with_roles(Roles::GATEWAY).filter_map(|(_, peer)| peer.descriptor.clone());
        let known =
            self.directory.machine.table_snapshot().into_iter().filter(|descriptor| descriptor.roles.contains(Roles::GATEWAY));
        let mut candidates = connected.chain(known);
        let me = self.identity.device();
        let found = candidates.find(|descriptor| {
            descriptor.device != me && !own.contains(&descriptor.device) && !self.push.tried.contains(&descriptor.device)
        });
        found.map(|descriptor| helper_of(&descriptor))
    }

    /// A gateway has taken a registration: what else is to be registered with it follows, one after the other, since each request names all channels that the
    /// gateway is to have. And those that it replaces are of no use any more.
    pub(super) fn spare_registered(&mut self, gateway: &DeviceKey) {
        if let Some(place) = self.push.spare_left.iter().position(|(spare, _)| spare.device == *gateway) {
            let (spare, channel) = self.push.spare_left.remove(place);
            return self.ask_gateway(Registering::renewal(spare, channel));
        }
        if !self.push.tried.contains(gateway) {
            return;
        }
        let (old, kept): (Vec<DeviceKey>, Vec<DeviceKey>) = self.push.replaced.iter().partition(|replaced| *replaced != gateway);
        self.push.replaced = kept;
        old.iter().for_each(|old| self.drop_gateway(old));
    }

    /// Registers what any gateway can use with a second one, if there is only one.
    pub(super) fn register_with_spare(&mut self) {
        if self.own_gateways().len() != 1 || GATEWAYS_MAX < 2 {
            return;
        }
        let channels: Vec<WireChannel> = self
            .push
            .registered
            .iter()
            .filter(|known| known.is_live())
            .map(|known| known.channel.clone())
            .filter(serves_any_gateway)
            .collect();
        self.register_with_another(channels);
    }

    fn register_with_another(&mut self, channels: Vec<WireChannel>) -> bool {
        if channels.is_empty() {
            return false;
        }
        let Some(gateway) = self.another_gateway() else { return false };
        if self.push.tried.len() >= TRIED_MAX {
            self.push.tried.remove(0);
        }
        self.push.tried.push(gateway.device);
        debug!(gateway = %gateway_name(&gateway), channels = channels.len(), "registering with a second gateway");
        let mut left: Vec<(Helper, WireChannel)> = channels.into_iter().map(|channel| (gateway.clone(), channel)).collect();
        let (gateway, first) = left.remove(0);
        self.push.spare_left = left;
        self.ask_gateway(Registering::renewal(gateway, first));
        true
    }

    /// Another gateway is to take the place of one that is of no use; that one stays until the other has the device. False if there is none.
    pub(super) fn replace_gateway(&mut self, gateway: &DeviceKey) -> bool {
        let of_it = self.push.registered.iter().filter(|known| known.gateway.device == *gateway && known.is_live());
        let channels: Vec<WireChannel> = of_it.map(|known| known.channel.clone()).filter(serves_any_gateway).collect();
        if !self.register_with_another(channels) {
            return false;
        }
        if !self.push.replaced.contains(gateway) {
            self.push.replaced.push(*gateway);
        }
        true
    }

    /// Takes a gateway off this device's list, as far as another one serves its channels.
    fn drop_gateway(&mut self, gateway: &DeviceKey) {
        let is_dropped = |known: &super::Registered| known.gateway.device == *gateway && serves_any_gateway(&known.channel);
        let names: Vec<Vec<u8>> =
            self.push.registered.iter().filter(|known| is_dropped(known)).map(super::Registered::name).collect();
        let removed = self
            .store
            .transaction::<_, StoreError>(|tx| names.iter().try_for_each(|name| tx.remove_push_registration(name).map(|_| ())));
        if let Err(error) = removed {
            warn!(%error, "push registration not removed");
        }
        self.push.registered.retain(|known| !is_dropped(known));
        self.publish_soon();
    }
}
