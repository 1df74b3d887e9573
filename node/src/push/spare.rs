//! A second gateway: who can be woken through one alone isn't woken while that one is down, or drops what it is to deliver.

use halloo_protocol::directory::Helper;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::Roles;
use tracing::{debug, warn};

use super::{GATEWAYS_MAX, LOCAL_ENDPOINT, WireChannel, gateway_name, helper_of, registration_name};
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
        #[allow(unreachable_patterns, reason = "channels are added")]
        _ => false,
    }
}

impl EventLoop {
    /// Gateways that this device is registered with.
    fn own_gateways(&self) -> Vec<DeviceKey> {
        let mut gateways: Vec<DeviceKey> = self.push.registered.iter().map(|known| known.gateway.device).collect();
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

    /// Registers what any gateway can use with a second one, if there is only one.
    pub(super) fn register_with_spare(&mut self) {
        if self.own_gateways().len() != 1 || GATEWAYS_MAX < 2 {
            return;
        }
        let channels: Vec<WireChannel> =
            self.push.registered.iter().map(|known| known.channel.clone()).filter(serves_any_gateway).collect();
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
        for channel in channels {
            self.ask_gateway(gateway.clone(), channel, None);
        }
        true
    }

    /// Another gateway takes the place of one that is of no use. False if there is none: then it stays, for it may be of use again.
    pub(super) fn replace_gateway(&mut self, gateway: &DeviceKey) -> bool {
        let has_spare = self.own_gateways().len() > 1;
        let of_it = self.push.registered.iter().filter(|known| known.gateway.device == *gateway);
        let channels: Vec<WireChannel> = of_it.map(|known| known.channel.clone()).filter(serves_any_gateway).collect();
        if channels.is_empty() {
            return false;
        }
        let names: Vec<Vec<u8>> = channels.iter().map(|channel| registration_name(gateway, channel)).collect();
        if !self.register_with_another(channels) && !has_spare {
            return false;
        }
        let removed = self
            .store
            .transaction::<_, StoreError>(|tx| names.iter().try_for_each(|name| tx.remove_push_registration(name).map(|_| ())));
        if let Err(error) = removed {
            warn!(%error, "push registration not removed");
        }
        self.push.registered.retain(|known| !names.contains(&registration_name(&known.gateway.device, &known.channel)));
        self.publish_soon();
        true
    }
}
