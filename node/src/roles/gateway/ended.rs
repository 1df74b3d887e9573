//! Channels that have ended: their device loses them, and is told when it is there. The notice is in the database from the commit that drops the
//! channel until the device has noted it.

use std::time::Duration;

use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::{ChannelEnd, PushChannel, PushChannelGone, PushChannelGoneNoted, PushHandle};
use halloo_protocol::wire::{self, Extensions, Frame};
use libp2p::PeerId;
use tracing::{debug, info, warn};

use super::STORED_BYTES_MAX;
use crate::event_loop::EventLoop;
use crate::network::{Purpose, Target};
use crate::rpc::Failure;

/// How long a device may take to note it.
const NOTE_TIMEOUT: Duration = Duration::from_secs(10);

/// A notice on its way to a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TellingGone {
    device: DeviceKey,
    fingerprint: [u8; 32],
}

/// By what a notice is found among those of its device; `None` if it is damaged.
pub(super) fn name_of(notice: &[u8]) -> Option<[u8; 32]> {
    wire::decode::<PushChannelGone>(notice, STORED_BYTES_MAX).ok().map(|notice| notice.fingerprint)
}

impl EventLoop {
    /// Drops a channel of a registration, which ends with its last one, and tells the device if it is there.
    pub(super) fn end_channel(&mut self, handle: &PushHandle, channel: &PushChannel, reason: ChannelEnd) {
        let Some(mut registration) = self.registration(handle) else { return };
        // Registered anew with another token while the service was asked about the old one: nothing to drop or to tell.
        if !registration.request.channels.contains(channel) {
            return;
        }
        let device = registration.device();
        let is_last = registration.remove_channel(channel);
        let notice = PushChannelGone {
            handle: *handle,
            fingerprint: channel.fingerprint(),
            way: channel.way(),
            reason,
            at: self.now().unix,
            extensions: Extensions::none(),
        };
        let Some(gateway) = &mut self.gateway else { return };
        let written = gateway.records.end_channel(&registration, &notice.fingerprint, &wire::encode(&notice));
        match written {
            Ok(()) => {
                info!(way = channel.way().name(), %reason, is_last, "a push channel has ended");
                self.purge_choice(&registration.rules.identity.0);
            }
            Err(error) => return warn!(%error, "ended channel not removed"),
        }
        if let Some(peer) = crate::address::peer_id(&device).filter(|peer| self.peers.get(peer).is_some()) {
            self.tell_ended(peer, device, &notice);
        }
    }

    /// A device is there: what it hasn't noted is told again.
    pub(super) fn tell_ended_channels(&mut self, peer: PeerId, device: &DeviceKey) {
        let notices = match self.gateway.as_ref().map_or_else(|| Ok(Vec::new()), |gateway| gateway.records.notices_of(device)) {
            Ok(notices) => notices,
            Err(error) => return warn!(%error, "notices of ended channels not read"),
        };
        for notice in notices {
            if let Ok(notice) = wire::decode::<PushChannelGone>(&notice, STORED_BYTES_MAX) {
                self.tell_ended(peer, *device, &notice);
            }
        }
    }

    fn tell_ended(&mut self, peer: PeerId, device: DeviceKey, notice: &PushChannelGone) {
        let telling = TellingGone { device, fingerprint: notice.fingerprint };
        self.request(&Target::connected(peer), notice, Purpose::PushChannelGone(telling), NOTE_TIMEOUT);
    }

    pub(crate) fn push_channel_gone_answer(&mut self, telling: TellingGone, frame: &Frame) {
        match frame.parse::<PushChannelGoneNoted>() {
            Ok(noted) => {
                debug!(was_known = noted.was_known, "the device has noted that a channel ended");
                self.forget_notice(telling);
            }
            // A version that doesn't know the notice: its channel doesn't come back by being told again.
            Err(_) => self.forget_notice(telling),
        }
    }

    pub(crate) fn push_channel_gone_failure(&mut self, _telling: TellingGone, failure: Failure) {
        debug!(%failure, "the device hasn't noted that a channel ended: told again when it connects");
    }

    fn forget_notice(&mut self, telling: TellingGone) {
        let Some(gateway) = &mut self.gateway else { return };
        let forgotten = gateway.records.remove_notice(&telling.device, &telling.fingerprint);
        if let Err(error) = forgotten {
            warn!(%error, "notice of an ended channel not removed");
        }
    }
}
