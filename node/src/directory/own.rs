//! Our own record: made, signed, published, leased, read back.

use halloo_protocol::directory::RECORD_BYTES_MAX;
use halloo_protocol::wire::Body;

use super::*;
use crate::linked::LINKED_PART;

/// How long to wait before a publication that failed is tried again.
const PUBLISH_RETRY: Duration = Duration::from_secs(3);

/// How long to wait before reading the own record back again.
const READ_BACK_RETRY: Duration = Duration::from_secs(1);

/// By how much an entry's number may lengthen it.
const SEQUENCE_BYTES_MAX: usize = 16;

/// Callers that may wait for a publication or a renewal.
const WAITERS_MAX: usize = 16;

const fn full() -> crate::handle::problem::NodeError {
    crate::handle::problem::NodeError::LimitReached { what: "publications waited for", max: WAITERS_MAX }
}

impl EventLoop {
    /// Publishes as soon as there is somebody to publish to.
    pub(crate) fn publish_soon(&mut self) {
        self.directory.own.publish_at.get_or_insert_with(Instant::now);
    }

    /// Publishes a new entry for whoever waits for it.
    pub(crate) fn handle_publish(&mut self, reply: Reply<Publication, NetworkError>) {
        if !self.settings.publishes || self.is_revoked() {
            return reply.send(Ok(Publication::default()));
        }
        if self.directory.own.publish_waiters.len() >= WAITERS_MAX {
            return reply.send(Err(full().into()));
        }
        self.directory.own.publish_waiters.push(reply);
        self.directory.own.entry = None;
        self.publish_own(self.now());
    }

    /// Renews the lease for whoever waits for it.
    pub(crate) fn handle_renew_lease(&mut self, reply: Reply<Renewal, NetworkError>) {
        if self.directory.own.lease_waiters.len() >= WAITERS_MAX {
            return reply.send(Err(full().into()));
        }
        match self.renew_own_lease(self.now()) {
            Some(query) => self.directory.own.lease_waiters.push((query, reply)),
            None => reply.send(Ok(Renewal::default())),
        }
    }

    pub(super) fn lease_renewed(&mut self, query: QueryId, report: &halloo_protocol::kademlia::LeaseReport) {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let renewal = Renewal { asked: count(report.asked), renewed: count(report.renewed), stored: count(report.stored) };
        for (_, reply) in self.directory.own.lease_waiters.extract_if(.., |(waited, _)| *waited == query) {
            reply.send(Ok(renewal));
        }
        self.keeper_lease_renewed(query, report);
    }

    pub(super) fn publish_own(&mut self, now: Now) {
        if !self.settings.publishes || self.is_revoked() {
            self.directory.own.publish_at = None;
            return;
        }
        if self.directory.own.publishing.is_some() {
            // The running publication is of an older entry; this one follows it.
            self.directory.own.publish_at = Some(now.instant + PUBLISH_RETRY / 10);
            return;
        }
        if !self.directory.bootstrapped && !self.is_first_node() {
            self.directory.own.publish_at = Some(now.instant + PUBLISH_RETRY / 10);
            return;
        }
        self.directory.own.publish_at = None;
        let record = match self.own_record(now) {
            Ok(record) => record,
            Err(error) => {
                warn!(error, "own record can't be made");
                self.directory.own.publish_at = Some(now.instant + PUBLISH_RETRY);
                return;
            }
        };
        self.directory.own.publishing = Some(self.directory.machine.publish(now, record));
        let waiters = std::mem::take(&mut self.directory.own.publish_waiters);
        self.directory.own.publishing_waiters.extend(waiters);
    }

    /// Our record with our own entry only: replicas join it with what they hold of our other devices.
    fn own_record(&mut self, now: Now) -> Result<DirectoryRecord, String> {
        let entry = self.own_entry(now)?;
        let lease = self.own_lease(&entry, now).map_err(|error| describe(&error))?;
        let chain = self.identity.chain().clone();
        let parts = EntryParts { certificate: chain.device, entry, lease: Some(lease), keeper_lease: None };
        let record = UnverifiedRecord {
            user: chain.user,
            successions: Vec::new(),
            tombstones: self.own_tombstones(),
            entries: vec![parts],
            extensions: Extensions::none(),
        };
        record.verify(now.unix, &self.trust).map_err(|error| describe(&error))
    }

    /// Our entry: the one we have if nothing in it has changed, else a new one under the next number.
    fn own_entry(&mut self, now: Now) -> Result<Signed<DeviceEntry>, String> {
        let mut next = self.describe_self(now);
        if let Some(current) = &self.directory.own.entry {
            let same = {
                let current = current.unverified();
                let kept = DeviceEntry {
                    sequence: current.sequence,
                    issued_at: current.issued_at,
                    expires_at: current.expires_at,
                    sealed: current.sealed.clone(),
                    extensions: current.extensions.clone(),
                    ..next.clone()
                };
                let half_used = now.unix.secs_since(current.issued_at) > ENTRY_SECS_MAX / 2;
                let misdated = current.issued_at.is_from_the_future(now.unix) || current.sequence < self.directory.own.sequence;
                kept == *current && self.sealed_matches(current, &next) && !half_used && !misdated
            };
            if same {
                return Ok(current.clone());
            }
        }
        next.sequence = self.directory.own.sequence.saturating_add(1);
        // Kept before it is used: after a crash the next number is higher, never the same with other content.
        self.store
            .transaction::<_, StoreError>(|tx| tx.put_setting_value(SEQUENCE, &next.sequence))
            .map_err(|error| describe(&error))?;
        self.directory.own.sequence = next.sequence;
        let signed = Signed::sign(next, self.identity.device_key());
        self.directory.own.entry = Some(signed.clone());
        Ok(signed)
    }

    /// True if the sealed parts, whose nonces differ, hold the same.
    fn sealed_matches(&self, current: &DeviceEntry, next: &DeviceEntry) -> bool {
        let me = self.identity.user_id();
        let key = self.contacts.presence_key().seal_key();
        let closed = |entry: &DeviceEntry| entry.sealed.as_ref().and_then(|sealed| key.open(&entry.device, sealed).ok());
        closed(current).is_some()
            && closed(current) == closed(next)
            && self.open_part(&me, current) == self.open_part(&me, next)
            && self.own_linked_part(current) == self.own_linked_part(next)
    }

    /// Our entry, if the replicas have it as it should be.
    pub(crate) fn published_entry(&self) -> Option<&DeviceEntry> {
        self.published_signed_entry().map(Signed::unverified)
    }

    pub(crate) fn published_signed_entry(&self) -> Option<&Signed<DeviceEntry>> {
        let own = &self.directory.own;
        let is_current = own.replicas > 0 && own.publishing.is_none() && own.publish_at.is_none();
        own.entry.as_ref().filter(|_| is_current)
    }

    fn describe_self(&mut self, now: Now) -> DeviceEntry {
        let device = self.identity.device();
        let open = self.open_addresses();
        let private = PrivatePart {
            name: self.settings.device_name.clone(),
            kind: self.settings.device_kind,
            addresses: if open.is_empty() { self.direct_addresses() } else { Vec::new() },
            push: self.push_addresses(),
            extensions: Extensions::none(),
        };
        let private = fitted(private);
        // What wakes the device goes first: a relay is reached by a circuit as well.
        let private = match self.hand_over_capability(now.unix).map(|capability| private.clone().with_hand_over(&capability)) {
            Some(with_capability) if with_capability.fits() => with_capability,
            _ => private,
        };
        let nonce = self.random();
        let presence = self.contacts.presence_key();
        let sealed = presence.seal_key().seal(presence.epoch, &device, &private, nonce);
        let mut entry = DeviceEntry {
            device,
            sequence: 0,
            issued_at: now.unix,
            expires_at: now.unix.plus_secs(ENTRY_SECS_MAX),
            addresses: open,
            relays: self.relay_helpers(),
            mailboxes: self.mailbox_helpers(),
            keepers: self.keepers(),
            features: 0,
            hpke_key: self.hpke.public(),
            pre_keys: Some(self.sessions.keys()),
            sealed: Some(sealed),
            extensions: self.open_extension(device, usize::MAX),
        };
        let devices = self.own_devices_known().len();
        if !has_room(wire::encode(&entry).len(), devices) {
            entry.extensions = self.open_extension(device, 1);
        }
        if let Some(part) = self.linked_part(device) {
            let extensions = entry.extensions.clone().with(LINKED_PART, wire::encode(&part));
            if has_room(wire::encode(&DeviceEntry { extensions: extensions.clone(), ..entry.clone() }).len(), devices) {
                entry.extensions = extensions;
            } else {
                warn!("contacts in linked systems can't wake this device: there is no room in its entry");
            }
        }
        entry
    }

    /// Whoever may be called by anyone tells everybody how the device is woken; names and addresses stay with contacts.
    fn open_extension(&mut self, device: DeviceKey, gateways_max: usize) -> Extensions {
        if !self.contacts.privacy().is_open() {
            return Extensions::none();
        }
        let push = self.push_addresses().into_iter().take(gateways_max).collect();
        let part = PrivatePart { push, ..PrivatePart::default() };
        let capability = self.hand_over_capability(self.now().unix);
        if part.push.is_empty() && capability.is_none() {
            return Extensions::none();
        }
        let Some(part) = largest_that_fits(part, capability.as_ref()) else { return Extensions::none() };
        let nonce = self.random();
        let sealed = SealKey::of_name(&self.identity.user_id()).seal(0, &device, &part, nonce);
        Extensions::none().with(OPEN_PART, wire::encode(&sealed))
    }

    /// When our own lease is renewed: half time, so that one lost renewal does no harm.
    const fn lease_renewal(&self) -> Duration {
        Duration::from_secs(self.settings.lease_secs / 2)
    }

    fn own_lease(&mut self, entry: &Signed<DeviceEntry>, now: Now) -> Result<Signed<Lease>, StoreError> {
        let number = self.directory.own.lease_number.saturating_add(1);
        self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(LEASE_NUMBER, &number))?;
        self.directory.own.lease_number = number;
        self.directory.own.lease_at = Some(now.instant + self.lease_renewal());
        let reachability = if entry.unverified().addresses.is_empty() { Reachability::Relayed } else { Reachability::Direct };
        let lease = Lease {
            device: entry.unverified().device,
            entry_hash: entry.body_hash(),
            number,
            reachability,
            issued_at: now.unix,
            until: now.unix.plus_secs(self.settings.lease_secs),
            extensions: Extensions::none(),
        };
        Ok(Signed::sign(lease, self.identity.device_key()))
    }

    pub(super) fn renew_own_lease(&mut self, now: Now) -> Option<QueryId> {
        self.directory.own.lease_at = Some(now.instant + self.lease_renewal());
        let entry = self.directory.own.entry.clone().filter(|_| !self.is_revoked())?;
        match self.own_lease(&entry, now) {
            Ok(lease) => {
                let key = RecordKey::of(&self.identity.user_id());
                Some(self.directory.machine.renew_lease(now, key, None, lease))
            }
            Err(error) => {
                warn!(%error, "lease not renewed");
                None
            }
        }
    }

    pub(super) fn published(&mut self, accepted: u32, report: &halloo_protocol::kademlia::PublishReport) {
        self.directory.own.publishing = None;
        self.answer_publish_waiters(report);
        self.directory.own.replicas = accepted;
        let now = Instant::now();
        if accepted == 0 {
            debug!(?report, "record not published");
            if !self.is_first_node() {
                self.directory.own.publish_at.get_or_insert(now + PUBLISH_RETRY);
            }
            return;
        }
        debug!(accepted, "record published");
        self.events.send(Event::Published { replicas: accepted });
        if self.directory.own.publish_at.is_none() {
            self.push_announced();
        }
        if !self.ready {
            self.directory.own.read_back_at.get_or_insert(now);
        }
        // At once: a phone may be frozen the next moment.
        self.push_keep_soon();
        let now = self.now();
        self.push_keep_tick(now);
    }

    fn answer_publish_waiters(&mut self, report: &halloo_protocol::kademlia::PublishReport) {
        let record_bytes = self.directory.machine.own_record(&report.key).map_or(0, |record| record.to_bytes().len());
        let publication = Publication {
            accepted: u32::try_from(report.accepted).unwrap_or(u32::MAX),
            requests: report.requests,
            elapsed_ms: crate::diagnosis::millis(report.elapsed),
            record_bytes: u32::try_from(record_bytes).unwrap_or(u32::MAX),
        };
        for reply in self.directory.own.publishing_waiters.drain(..) {
            reply.send(Ok(publication));
        }
    }

    pub(super) fn read_back(&mut self, result: &FindResult) {
        self.directory.own.read_back = None;
        let device = self.identity.device();
        let found = result.record().and_then(|record| record.entry(&device)).map(|parts| parts.entry().sequence);
        if found.is_some_and(|sequence| sequence >= self.directory.own.sequence) {
            self.become_ready();
        } else if !self.ready {
            self.directory.own.read_back_at = Some(Instant::now() + READ_BACK_RETRY);
        }
    }

    /// The first node of a network has nobody to read its record back from: it is ready when it listens.
    pub(crate) fn check_ready(&mut self) {
        let listens = self.reach.listen().next().is_some();
        if !self.ready && listens && self.is_first_node() && self.identity.authority().is_some() {
            self.become_ready();
        }
    }

    fn become_ready(&mut self) {
        if self.ready {
            return;
        }
        self.ready = true;
        info!("ready");
        let ready = Ready {
            peer_id: self.swarm.local_peer_id().to_string(),
            listen: self.reach.listen().map(ToString::to_string).collect(),
            api: self.settings.api.clone(),
            roles: crate::diagnosis::role_names(self.roles()),
        };
        self.events.send(Event::Ready(ready));
    }

    /// A replica holds more than we published: our other devices, or, after a restore from a backup, a newer entry of our own.
    pub(super) fn own_record_merged(&mut self, record: &DirectoryRecord) {
        self.take_record_tombstones(record);
        let device = self.identity.device();
        let others = record.entries().map(|parts| parts.device()).filter(|other| *other != device).collect();
        self.contacts_own_devices(&others);
        let Some(parts) = record.entry(&device) else { return };
        let (sequence, lease) = (parts.entry().sequence, parts.lease.as_ref().map_or(0, |lease| lease.unverified().number));
        self.directory.own.lease_number = self.directory.own.lease_number.max(lease);
        // A home set back from a backup may come to a number that was used since, for another entry: whichever of the two the replicas keep, it isn't
        // known to be this one.
        let is_other = self.directory.own.entry.as_ref().is_some_and(|own| own.unverified() != parts.entry());
        if sequence > self.directory.own.sequence || (sequence == self.directory.own.sequence && is_other) {
            info!(sequence, "the network holds a newer entry of this device: going on above it");
            self.directory.own.sequence = sequence;
            self.directory.own.entry = None;
            self.sessions_restored();
            self.publish_soon();
        }
    }

    /// Our name stands with another key in the directory.
    pub(super) fn own_record_displaced(&mut self, record: &DirectoryRecord) {
        let event = Event::IdentityChanged {
            username: self.labels.display(&record.user_id()),
            old_identity: self.identity.identity().to_string(),
            new_identity: record.identity().to_string(),
        };
        warn!("this user's name now belongs to another key");
        self.events.send(event);
    }
}

/// A private part that fits into an entry: names are cut, and what leads to the second gateway is left out first.
fn fitted(mut private: PrivatePart) -> PrivatePart {
    let end = private.name.floor_char_boundary(DEVICE_NAME_BYTES_MAX);
    private.name.truncate(end);
    while !private.fits() {
        if private.push.len() > 1 {
            warn!("a push gateway is left out of the record: it doesn't fit");
            private.push.pop();
        } else if private.push.first_mut().is_none_or(|only| only.gateway.addresses.pop().is_none())
            && private.push.pop().is_none()
        {
            break;
        }
    }
    private
}

/// Whether an entry may be so large: within its own limit, and so that those of all the user's devices leave a quarter of their record free.
const fn has_room(entry_bytes: usize, devices: usize) -> bool {
    let is_within = entry_bytes + SEQUENCE_BYTES_MAX <= <DeviceEntry as Body>::LIMIT;
    is_within && entry_bytes.saturating_mul(devices) <= RECORD_BYTES_MAX / 4 * 3
}

/// What strangers are told, as much of it as there is room for: every gateway and the leave for relays to hand invites over; of too much first the second
/// gateway is left out, which is there for when the first one fails, then that leave.
fn largest_that_fits(
    part: PrivatePart,
    capability: Option<&Signed<halloo_protocol::capability::Capability>>,
) -> Option<PrivatePart> {
    let mut one_gateway = part.clone();
    one_gateway.push.truncate(1);
    let with_leave = |part: &PrivatePart| capability.map(|capability| part.clone().with_hand_over(capability));
    let variants = [with_leave(&part), with_leave(&one_gateway), Some(part), Some(one_gateway)];
    variants.into_iter().flatten().find(PrivatePart::fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use halloo_protocol::directory::{Helper, PushAddress};
    use halloo_protocol::key::PublicKey;
    use halloo_protocol::node::Address;

    #[test]
    fn a_private_part_is_made_to_fit() {
        let address = |byte| Address::Other(vec![byte; 160]);
        let gateway = |number: u8| PushAddress {
            gateway: Helper { device: DeviceKey(PublicKey([number; 32])), addresses: vec![address(1), address(2)] },
            handle: vec![number; 32],
            capability: vec![number; 160],
        };
        let part = |name: &str, gateways: u8| PrivatePart {
            name: name.to_owned(),
            kind: halloo_protocol::directory::DeviceKind::Phone,
            addresses: Vec::new(),
            push: (0..gateways).map(gateway).collect(),
            extensions: Extensions::none(),
        };
        let small = part("phone", 1);
        assert_eq!(fitted(small.clone()), small);
        let cut = fitted(part(&"\u{1f4f1}".repeat(40), 2));
        assert!(cut.fits(), "what doesn't fit makes the whole record one that nobody takes");
        assert_eq!((cut.push.len(), cut.name.len()), (1, DEVICE_NAME_BYTES_MAX));
        let mut vast = part("phone", 1);
        vast.push[0].capability = vec![0; 700];
        assert!(fitted(vast).push.is_empty());
    }
}
