//! The user's own devices: a new one is linked, all are listed and named, a lost one is revoked.
//!
//! [`join`] is the new device's side of a linking, which needs no running node. Everything else are `impl EventLoop` blocks, one file for each.

pub mod join;
mod linking;

use crate::event_loop::EventLoop;
use crate::handle::devices::DeviceCommand;

/// What a node knows of its user's devices.
#[derive(Debug, Default)]
pub(crate) struct DevicesState {
    linking: Option<linking::Linking>,
}

impl EventLoop {
    pub(crate) fn handle_devices(&mut self, command: DeviceCommand) {
        match command {
            DeviceCommand::OfferLink { options, reply } => {
                let offer = self.offer_link(options);
                reply.send(offer);
            }
            DeviceCommand::WaitLink { id, reply } => self.wait_link(&id, reply),
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
    }

    pub(crate) fn devices_tick(&mut self, now: halloo_protocol::time::Now) {
        self.linking_tick(now.instant);
    }
}
