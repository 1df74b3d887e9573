//! A second gateway: who can be woken through one alone isn't woken while that one is down, or drops what it is to deliver.

use halloo_protocol::directory::Helper;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::node::Roles;
use halloo_protocol::push::PushHandle;
use tracing::{debug, warn};

use super::{GATEWAYS_MAX, LOCAL_ENDPOINT, Registered, Registering, WireChannel, channel_word, gateway_name, helper_of};
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

/// Whether two channels are the same, or of the same kind; each gateway has an address of its own at this machine's push service.
fn is_same(one: &WireChannel, other: &WireChannel, by_kind: bool) -> bool {
    let is_local = |channel: &WireChannel| matches!(channel, WireChannel::WebPush { .. }) && serves_any_gateway(channel);
    one == other || (channel_word(one) == channel_word(other) && (by_kind || (is_local(one) && is_local(other))))
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
        let known = self.directory.machine.table().filter(|descriptor| descriptor.roles.contains(Roles::GATEWAY));
        let candidates = connected.chain(known.cloned());
        let me = self.identity.device();
        let is_new = |device: &DeviceKey| *device != me && !own.contains(device) && !self.push.tried.contains(device);
        let new: Vec<Helper> =
            candidates.filter(|descriptor| is_new(&descriptor.device)).map(|descriptor| helper_of(&descriptor)).collect();
        // What stops one gateway of a group may stop all of them.
        let outside = new.iter().find(|other| !self.push.groups.is_named(&own, &other.device)).cloned();
        outside.or_else(|| new.into_iter().next())
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
        let Some(gateway) = self.another_gateway().filter(|_| !channels.is_empty()) else { return false };
        self.register_channels(gateway, channels);
        true
    }

    /// A gateway says which others share its database.
    pub(super) fn note_group(&mut self, gateway: DeviceKey, group: &[Helper]) {
        self.push.groups.told(gateway, group.iter().map(|other| other.device).collect());
        // They may have been asked in vain, before each of them knew of the other.
        self.push.tried.retain(|tried| group.iter().all(|other| other.device != *tried));
        let mut asked = self.own_gateways();
        asked.push(gateway);
        self.push.groups.keep(&asked);
    }

    /// Whether a gateway that is new under this handle answers with one that others have, who don't share a database with it.
    pub(super) fn is_anothers_handle(&self, gateway: &DeviceKey, handle: &PushHandle) -> bool {
        let with_it: Vec<&DeviceKey> =
            self.push.registered.iter().filter(|known| known.handle == *handle).map(|known| &known.gateway.device).collect();
        !with_it.contains(&gateway) && with_it.iter().any(|other| !self.push.groups.share(gateway, other))
    }

    /// A gateway has registered this device, and shares its database with `group`: each of these can use every channel that it has. One of them becomes the
    /// second gateway where no other can be, as for tokens of an application; and since their registration is one, each is told all of its channels.
    pub(super) fn register_with_group(&mut self, gateway: &DeviceKey, handle: &PushHandle, group: &[Helper]) {
        if let Some((gateway, channel)) = self.missing_in_group(gateway, handle) {
            return self.ask_gateway(Registering::renewal(gateway, channel));
        }
        let own = self.own_gateways();
        if own.len() != 1 || GATEWAYS_MAX < 2 || !self.push.spare_left.is_empty() {
            return;
        }
        let is_new = |other: &&Helper| !own.contains(&other.device) && !self.push.tried.contains(&other.device);
        let Some(other) = group.iter().find(is_new).cloned() else { return };
        let known = self.push.registered.iter().filter(|known| known.gateway.device == *gateway && known.is_live());
        let channels: Vec<WireChannel> = known.map(|known| known.channel.clone()).collect();
        if channels.iter().any(serves_any_gateway) && self.has_gateway_outside(group) {
            return;
        }
        if !channels.is_empty() {
            self.register_channels(other, channels);
        }
    }

    /// A channel that one gateway of the registration behind a handle has, and another one of it not. What `gateway` has is the newest.
    fn missing_in_group(&self, gateway: &DeviceKey, handle: &PushHandle) -> Option<(Helper, WireChannel)> {
        let known: Vec<&Registered> =
            self.push.registered.iter().filter(|known| self.is_of_group(known, gateway, handle)).collect();
        let lacks = |device: &DeviceKey, channel: &WireChannel, by_kind: bool| {
            !known.iter().any(|known| known.gateway.device == *device && is_same(&known.channel, channel, by_kind))
        };
        let (own, others): (Vec<&Registered>, Vec<&Registered>) =
            known.iter().copied().partition(|known| known.gateway.device == *gateway);
        let at_other = own.iter().find_map(|registered| {
            let other = others.iter().find(|other| lacks(&other.gateway.device, &registered.channel, false))?;
            Some((other.gateway.clone(), registered.channel.clone()))
        });
        at_other.or_else(|| {
            let missing = others.iter().find(|other| lacks(gateway, &other.channel, true))?;
            Some((own.first()?.gateway.clone(), missing.channel.clone()))
        })
    }

    /// Whether a registration is the one behind this handle, at the gateway or at one that shares its database.
    fn is_of_group(&self, known: &Registered, gateway: &DeviceKey, handle: &PushHandle) -> bool {
        known.is_live() && known.handle == *handle && self.push.groups.share(gateway, &known.gateway.device)
    }

    fn has_gateway_outside(&self, group: &[Helper]) -> bool {
        self.another_gateway().is_some_and(|other| group.iter().all(|member| member.device != other.device))
    }

    fn register_channels(&mut self, gateway: Helper, channels: Vec<WireChannel>) {
        if self.push.tried.len() >= TRIED_MAX {
            self.push.tried.remove(0);
        }
        self.push.tried.push(gateway.device);
        debug!(gateway = %gateway_name(&gateway), channels = channels.len(), "registering with a second gateway");
        let mut left: Vec<(Helper, WireChannel)> = channels.into_iter().map(|channel| (gateway.clone(), channel)).collect();
        let (gateway, first) = left.remove(0);
        self.push.spare_left = left;
        self.ask_gateway(Registering::renewal(gateway, first));
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
        let is_dropped = |known: &Registered| known.gateway.device == *gateway && serves_any_gateway(&known.channel);
        let names: Vec<Vec<u8>> = self.push.registered.iter().filter(|known| is_dropped(known)).map(Registered::name).collect();
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
