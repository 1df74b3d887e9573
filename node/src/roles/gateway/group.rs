//! What the processes of a group that shares a database hear of it and of each other, and do for each other.

use halloo_protocol::directory::Helper;
use halloo_protocol::key::DeviceKey;
use halloo_protocol::push::{DeliveredStatus, PushChannel};
use halloo_protocol::wire;
use tracing::{debug, info};

use super::parked::Then;
use super::records::shared::News;
use super::{Kept, STORED_BYTES_MAX};
use crate::event_loop::EventLoop;
use crate::store::PendingPush;

// News of the database.
impl EventLoop {
    pub(crate) fn handle_records_news(&mut self, news: News) {
        match news {
            News::Loaded(ticket, world) => self.records_loaded(ticket, world.map(|world| *world)),
            News::Committed(ticket, outcome) => self.records_committed(ticket, outcome),
            News::Joined(joined) => {
                let shared = self.gateway.as_mut().and_then(|gateway| gateway.records.shared_mut());
                let lost = shared.map(|shared| shared.joined(&joined)).unwrap_or_default();
                self.let_go(&lost);
                self.adopt(&joined.pushes);
            }
            News::Owned(owned) => {
                let shared = self.gateway.as_mut().and_then(|gateway| gateway.records.shared_mut());
                let compared = shared.map(|shared| shared.compare(&owned)).unwrap_or_default();
                self.let_go(&compared.lost);
                self.take_up_missing(compared.missing);
            }
            News::Adopted(pushes) => self.adopt(&pushes),
            News::Group(others, registrations) => {
                if let Some(shared) = self.gateway.as_mut().and_then(|gateway| gateway.records.shared_mut()) {
                    shared.set_group(others, registrations);
                }
                self.describe_to_group();
            }
            News::Asked(number, index) => self.asked_to_bring(number, &index),
            News::Brought(number, status) => self.brought_by_another(number, status),
        }
    }
}

// What the processes of a group do for each other.
impl EventLoop {
    fn adopt(&mut self, pushes: &[(u64, PendingPush)]) {
        if let Some(shared) = self.gateway.as_mut().and_then(|gateway| gateway.records.shared_mut()) {
            let alive = shared.take_up(pushes);
            self.take_up_pushes(&alive);
        }
    }

    /// Rows that are this process's own, and aren't known here: whoever was to be told that they are there wasn't.
    pub(super) fn take_up_missing(&mut self, mut numbers: Vec<u64>) {
        let shared = self.gateway.as_ref().and_then(|gateway| gateway.records.shared());
        numbers.retain(|number| shared.is_some_and(|shared| !shared.is_own(*number)));
        if !numbers.is_empty() {
            info!(pushes = numbers.len(), "pushes whose commit wasn't confirmed are taken up");
            self.with_records(Then::TakeUp(numbers));
        }
    }

    pub(super) fn take_up_found(&mut self) {
        let shared = self.gateway.as_ref().and_then(|gateway| gateway.records.shared());
        let found = shared.map(|shared| shared.found_pushes()).unwrap_or_default();
        self.adopt(&found);
    }

    /// A push whose row isn't this process's any more is another's, or was brought by one.
    pub(super) fn give_up_push(&mut self, number: u64) {
        if let Some(shared) = self.gateway.as_mut().and_then(|gateway| gateway.records.shared_mut()) {
            shared.let_go(number);
        }
        self.let_go(&[number]);
        info!("a push that is another gateway's by now isn't sent again");
    }

    /// Pushes that aren't this process's any more.
    fn let_go(&mut self, numbers: &[u64]) {
        let Some(gateway) = &mut self.gateway else { return };
        for number in numbers {
            gateway.held.remove(number);
            gateway.waiting.remove(*number);
        }
    }

    /// Tells the others where this process is found.
    fn describe_to_group(&self) {
        let Some(shared) = self.gateway.as_ref().and_then(|gateway| gateway.records.shared()) else { return };
        let Some(descriptor) = self.own_descriptor() else { return };
        let addresses = descriptor.addresses.into_iter().take(2).collect();
        shared.describe(Helper { device: descriptor.device, addresses });
    }

    fn asked_to_bring(&mut self, number: u64, index: &[u8; 32]) {
        let shared = self.gateway.as_ref().and_then(|gateway| gateway.records.shared());
        let device = shared.filter(|shared| !shared.is_own(number)).and_then(|shared| shared.connected(index));
        let is_there = |device: &DeviceKey| {
            crate::address::peer_id(device).is_some_and(|peer| self.peers.get(&peer).is_some_and(|known| known.chain.is_some()))
        };
        if let Some(device) = device.filter(is_there) {
            self.with_records(Then::Bring { number, device });
        }
    }

    /// Brings pushes that other processes hold on the stream of a device that has one here. They stay the others' until the device has them.
    pub(super) fn bring_others_pushes(&mut self, device: &DeviceKey) {
        let Some(shared) = self.gateway.as_ref().and_then(|gateway| gateway.records.shared()) else { return };
        let now = self.now().unix;
        let pushes = shared.found_pushes().into_iter().filter(|(number, push)| !shared.is_own(*number) && push.expires_at > now);
        let others: Vec<(u64, Vec<u8>)> = pushes
            .filter_map(|(number, push)| Some((number, wire::decode::<Kept>(&push.content, STORED_BYTES_MAX).ok()?)))
            .filter(|(_, kept)| kept.turn_at <= now && kept.channels.contains(&PushChannel::Stream))
            .map(|(number, kept)| (number, kept.payload))
            .collect();
        for (number, payload) in others {
            self.deliver_on_stream(number, *device, &payload);
        }
    }

    /// Another process says that it has brought a push. It is believed once the row is gone.
    fn brought_by_another(&mut self, number: u64, status: DeliveredStatus) {
        let shared = self.gateway.as_ref().and_then(|gateway| gateway.records.shared());
        if shared.is_some_and(|shared| shared.is_own(number)) {
            self.with_records(Then::Brought { number, status });
        }
    }

    pub(super) fn check_brought(&mut self, number: u64, status: DeliveredStatus) {
        let shared = self.gateway.as_mut().and_then(|gateway| gateway.records.shared_mut());
        let Some(shared) = shared else { return };
        if shared.found_pushes().iter().any(|(found, _)| *found == number) {
            return debug!(number, "a push that is said to have been brought is still there");
        }
        if shared.strike(number) {
            self.let_go(&[number]);
            self.tell_brought(number, status);
        }
    }
}
