//! The user's own devices: a new one is linked, all are listed and named, a lost one is revoked.
//!
//! [`join`] is the new device's side of a linking, which needs no running node. Everything else are `impl EventLoop` blocks, one file for each.

pub mod join;
mod linking;
mod manage;
mod removal;

use std::collections::BTreeMap;

use halloo_protocol::directory::DeviceKind;
use halloo_protocol::key::DeviceKey;

use crate::event_loop::EventLoop;
use crate::handle::devices::DeviceCommand;
pub(crate) use manage::{DevicesTask, Renaming};
pub(crate) use removal::keep_tombstones;

/// What a node knows of its user's devices.
#[derive(Debug, Default)]
pub(crate) struct DevicesState {
    linking: Option<linking::Linking>,
    removal: removal::RemovalState,
    renewing: manage::Renewing,
    /// What own other devices have said of themselves; at most as many as a record has.
    cards: BTreeMap<DeviceKey, manage::Card>,
    /// This device's name as the configuration has it.
    configured_name: String,
}

impl DevicesState {
    /// What own other devices have said of themselves.
    pub(crate) fn cards(&self) -> impl Iterator<Item = (DeviceKey, &str, DeviceKind)> {
        self.cards.iter().map(|(device, card)| (*device, card.name.as_str(), card.kind))
    }

    /// Own other devices that have the identity key, by their own word.
    pub(crate) fn with_identity_key(&self) -> impl Iterator<Item = DeviceKey> {
        self.cards.iter().filter(|(_, card)| card.has_identity_key).map(|(device, _)| *device)
    }

    /// Name and kind of another own device, as far as they are known.
    pub(crate) fn name_of(&self, device: &DeviceKey) -> (Option<String>, Option<DeviceKind>) {
        let card = self.cards.get(device);
        (card.map(|card| card.name.clone()).filter(|name| !name.is_empty()), card.map(|card| card.kind))
    }
}

impl EventLoop {
    pub(crate) fn handle_devices(&mut self, command: DeviceCommand) {
        match command {
            DeviceCommand::OfferLink { options, reply } => {
                let offer = self.offer_link(options);
                reply.send(offer);
            }
            DeviceCommand::WaitLink { id, reply } => self.wait_link(&id, reply),
            DeviceCommand::List(reply) => self.devices_task(DevicesTask::List(reply)),
            DeviceCommand::Rename { device, name, reply } => self.rename_device(device, name, reply),
            DeviceCommand::Revoke { device, options, reply } => {
                self.devices_task(DevicesTask::Revoke { device, options, reply });
            }
        }
    }

    /// A peer has said who it is. If its user's record, as we have it, doesn't know the device, the record is old: whatever goes to that user next
    /// looks it up anew.
    pub(crate) fn devices_peer_greeted(&mut self, peer: libp2p::PeerId) {
        let Some(chain) = self.peers.get(&peer).and_then(|known| known.chain.clone()) else { return };
        let key = chain.user.record_key();
        if self.cached_record(&key).is_some_and(|record| record.entry(&chain.device).is_none()) {
            self.forget_cached(&chain.user.id);
        }
        if chain.user.identity == self.identity.identity() {
            self.greet_own_device(peer);
            self.choice_own_device_met(peer);
            self.linked_own_device_met(peer);
        }
    }

    pub(crate) fn devices_tick(&mut self, now: halloo_protocol::time::Now) {
        self.linking_tick(now.instant);
        self.removal_tick(now);
        self.renewing_tick(now);
    }
}
