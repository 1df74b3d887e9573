//! Devices of contacts that were connected to us and fell silent: is it they, or the way to them?
//!
//! A second witness isn't always to be had: two people alone, a carrier that hadn't got a document yet. What we have seen ourselves is enough for
//! our own view, if we look again: the device is dialled anew by every way we know ([`Action::Probe`]). If it doesn't answer, and somebody
//! else has been heard since, so that it isn't we who are cut off, then it is shown as silent until it speaks or is connected. Whoever has only
//! heard of it, by hints, waits for the second witness as ever: so nobody can show anybody else as offline by a lie, nor make us dial.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Action, Presence};
use crate::key::{DeviceKey, IdentityKey};
use crate::time::Now;

/// The pause before a device is looked for again while it isn't sure that it is they: living neighbours show themselves within this, thrice taken.
const AGAIN: Duration = Duration::from_secs(3);

/// After so many attempts pauses are doubled, up to [`AGAIN_MAX`]: we are cut off, for longer.
const ATTEMPTS_QUICK: u32 = 4;

/// The longest pause.
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// A device that fell silent towards us.
#[derive(Clone, Copy, Debug)]
struct Loss {
    contact: IdentityKey,
    /// Of its newest document.
    sequence: u64,
    /// When it was heard last; or when we woke up since.
    heard_at: Instant,
    /// There is nobody else to tell by whether we are cut off.
    is_only_one: bool,
    /// When it is looked for again; none while it is.
    again_at: Option<Instant>,
    attempts: u32,
}

/// All of them: at most one a device of a contact.
#[derive(Debug, Default)]
pub(super) struct Losses {
    by_device: BTreeMap<DeviceKey, Loss>,
}

impl Losses {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.by_device.values().filter_map(|loss| loss.again_at).min()
    }

    pub(super) fn forget_contact(&mut self, identity: &IdentityKey) {
        self.by_device.retain(|_, loss| loss.contact != *identity);
    }
}

impl Presence {
    /// Nobody answered to [`Action::Probe`] at any address of the device.
    pub fn handle_unanswered(&mut self, now: Now, device: &DeviceKey) {
        let Some(loss) = self.losses.by_device.get_mut(device).filter(|loss| loss.again_at.is_none()) else { return };
        if !loss.is_only_one && !self.gossip.is_heard_after(loss.heard_at) {
            loss.attempts = loss.attempts.saturating_add(1);
            let doublings = loss.attempts.saturating_sub(ATTEMPTS_QUICK).min(16);
            loss.again_at = Some(now.instant + (AGAIN * 2_u32.pow(doublings)).min(AGAIN_MAX));
            return;
        }
        let loss = *loss;
        self.losses.by_device.remove(device);
        if let Some(known) = self.contacts.get_mut(&loss.contact) {
            known.view.miss(device, loss.sequence);
            self.review(now, loss.contact);
        }
    }

    /// A watched device that was a neighbour fell silent, after the document with this sequence.
    pub(super) fn lose(
        &mut self,
        now: Now,
        (contact, device): (IdentityKey, DeviceKey),
        sequence: u64,
        heard_at: Instant,
        is_only_one: bool,
    ) {
        let is_live = |known: &super::Known| known.view.live_sequence(&device, now.unix).is_some_and(|newest| newest <= sequence);
        if !self.contacts.get(&contact).is_some_and(is_live) {
            return;
        }
        let loss = Loss { contact, sequence, heard_at, is_only_one, again_at: None, attempts: 0 };
        self.gossip.ask_around(now);
        if self.losses.by_device.insert(device, loss).is_none() {
            self.actions.push_back(Action::Probe { contact, device });
        }
    }

    /// Looks again for those for whom it is time.
    pub(super) fn look_again(&mut self, now: Now) {
        let is_due = |loss: &Loss| loss.again_at.is_some_and(|at| at <= now.instant);
        let due: Vec<_> = self.losses.by_device.iter().filter(|(_, loss)| is_due(loss)).map(|(device, _)| *device).collect();
        for device in due {
            let Some(loss) = self.losses.by_device.get_mut(&device) else { continue };
            loss.again_at = None;
            let (contact, sequence) = (loss.contact, loss.sequence);
            let newest = self.contacts.get(&contact).and_then(|known| known.view.live_sequence(&device, now.unix));
            if newest.is_some_and(|newest| newest <= sequence) {
                self.gossip.ask_around(now);
                self.actions.push_back(Action::Probe { contact, device });
            } else {
                // It has spoken since, or its word is over.
                self.losses.by_device.remove(&device);
            }
        }
    }

    /// A device is connected: it is there, whatever was thought. Others may be, too, if we were cut off.
    pub(super) fn meet(&mut self, now: Now, device: &DeviceKey, identity: IdentityKey) {
        self.losses.by_device.remove(device);
        for loss in self.losses.by_device.values_mut() {
            loss.again_at = loss.again_at.map(|at| at.min(now.instant + AGAIN));
        }
        if let Some(known) = self.contacts.get_mut(&identity) {
            known.view.meet(device);
            self.review(now, identity);
        }
    }

    /// This process slept: an attempt that it slept through proves nothing, nor do words from before.
    pub(super) fn doubt_losses(&mut self, now: Now) {
        for loss in self.losses.by_device.values_mut() {
            loss.heard_at = now.instant;
            loss.again_at = Some(now.instant + AGAIN);
        }
    }
}
