//! What follows by itself: of what is seen, of what other devices know, of time.

use super::super::statement::{Attested, ContactStatement, Stance};
use super::super::{
    ContactAnswer, ContactKeys, ContactRemoval, ContactRequest, ContactSignal, ContactUpdate, PresenceSecret,
    REQUEST_NAME_BYTES_MAX,
};
use super::{
    Asking, CAPABILITY_BACKDATED_SECS, CONTACT_PAYLOAD_BYTES_MAX, CONTACT_PER_HOUR, CONTACTS_MAX, Contact,
    KEYS_RENEWED_AFTER_SECS, OwnNews, REQUESTS_MAX, Roster, RosterAction, RosterEntry, RosterEvent, SERVICES, Seen, Signer,
    Standing, TRACES_MAX, Told,
};
use crate::capability::{CAPABILITY_SECS_MAX, Capability, CapabilityId, Holder, Issuer, Limits, Service};
use crate::identity::{Tombstone, UserId, with_tombstones};
use crate::key::{PublicKey, hash};
use crate::linked::TOLD_EXTENSION;
use crate::profile::ProfileCard;
use crate::time::UnixTime;
use crate::wire::{Extensions, Signed};

impl Roster {
    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<RosterAction> {
        self.actions.pop_front()
    }

    /// Tells every contact what they haven't been told: after a start, and once a day.
    pub fn reconcile_all(&mut self, signer: &mut Signer<'_>) {
        let users: Vec<UserId> = self.contacts.keys().cloned().collect();
        for user in users {
            self.reconcile(&user, signer);
        }
    }

    /// A name was seen with this certificate: in the directory, or in a hello.
    pub fn see(&mut self, user: &UserId, seen: Seen, signer: &mut Signer<'_>) {
        let Some(entry) = self.entry(user) else { return };
        let Some(pin) = entry.pin else { return };
        if pin.identity == seen.identity || entry.has_former(&seen.identity) || entry.changed() == Some(seen.identity) {
            return;
        }
        let standing = entry.standing();
        let old = pin.identity;
        if seen.is_successor {
            self.contact_mut(user).entry.repin(seen.identity, true);
            self.persist(user);
            if standing.is_contact() {
                // Under the new key the contact holds no statement of ours.
                self.state(user, Stance::Accepted, signer);
                self.send_accept(user, signer);
            }
            return;
        }
        self.contact_mut(user).entry.note_seen(seen.serial, seen.identity);
        self.persist(user);
        let matters = standing.is_contact() || standing == Standing::Asked;
        if matters && self.entry(user).is_some_and(|entry| entry.changed().is_some()) {
            self.tell(RosterEvent::IdentityChanged { user: user.clone(), old, new: seen.identity });
        }
    }

    /// Takes in what another device of this user knows of people, and its own part if that came along.
    ///
    /// People come first: whoever that device has removed gets nothing of a key that was made because of it.
    pub fn merge(&mut self, others: Vec<RosterEntry>, own: Option<OwnNews>, signer: &mut Signer<'_>) {
        let mut is_anybody_lost = false;
        for other in others {
            is_anybody_lost |= self.merge_entry(other, signer);
        }
        let known = self.own.presence.clone();
        if let Some(own) = own {
            self.merge_own(own, signer);
        }
        if is_anybody_lost && self.own.presence == known {
            // Else the other device has seen to it.
            self.renew_keys(signer);
        }
    }

    /// True if somebody was a contact, has the present key, and is none any more.
    fn merge_entry(&mut self, other: RosterEntry, signer: &mut Signer<'_>) -> bool {
        let user = other.user.clone();
        let is_known = self.contacts.contains_key(&user);
        if !is_known && self.contacts.len() >= CONTACTS_MAX + REQUESTS_MAX + TRACES_MAX {
            return false;
        }
        let Some(other) = other.believed(&signer.identity) else { return false };
        let before = self.standing(&user);
        // If the other device has made a new key already, and it came first, they were never told that one.
        let has_present_key = self.contacts.get(&user).is_some_and(|contact| contact.told.keys == self.keys_hash(contact));
        let contact = self.contact_mut(&user);
        let old = contact.entry.clone();
        contact.entry.join(other);
        if contact.entry == old && is_known {
            return false;
        }
        self.persist(&user);
        if self.standing(&user) == Standing::Blocked && self.says_yes(&user) {
            // One device has blocked them while another said yes to them.
            self.end(&user, signer);
        }
        self.tell_change(&user, before);
        self.reconcile(&user, signer);
        self.forget_if_lost(&user, before) && has_present_key
    }

    /// Sees to what follows from another statement: the person is told, somebody who is a contact gets keys, and whoever was one gets no more.
    pub(super) fn follow_change(&mut self, user: &UserId, before: Standing, signer: &mut Signer<'_>) {
        self.tell_change(user, before);
        if self.forget_if_lost(user, before) {
            self.renew_keys(signer);
        }
        self.reconcile(user, signer);
        self.forget_traces();
    }

    /// True if somebody was a contact and is none any more; that they were told anything is forgotten then.
    fn forget_if_lost(&mut self, user: &UserId, before: Standing) -> bool {
        let is_lost = before.is_contact() && !self.standing(user).is_contact();
        if is_lost {
            self.contact_mut(user).told = Told::default();
        }
        is_lost
    }

    fn merge_own(&mut self, news: OwnNews, signer: &mut Signer<'_>) {
        let OwnNews { presence, profile, tombstones } = news;
        let before = self.own.clone();
        for tombstone in tombstones {
            self.own.bury(tombstone);
        }
        if let Some(presence) = presence
            && presence > self.own.presence
            && presence.epoch() > 0
        {
            self.own.presence = presence;
        }
        if let Some(card) = profile {
            let rank = |card: &ProfileCard| (card.profile.unverified().sequence, card.profile.body_bytes().to_vec());
            let is_whole = card.avatar.is_some() || card.profile.unverified().avatar.is_none();
            if is_whole && self.own.profile.as_ref().is_none_or(|own| rank(&card) > rank(own)) {
                self.own.profile = Some(card);
            }
        }
        if self.own != before {
            self.actions.push_back(RosterAction::OwnChanged);
            self.reconcile_all(signer);
        }
    }

    /// The user has removed a device: contacts and own devices are told, and all get new keys. Returns whether it was news. The caller has signed the
    /// tombstone with the identity key, or verified it.
    pub fn remove_device(&mut self, tombstone: Signed<Tombstone>, signer: &mut Signer<'_>) -> bool {
        if !self.own.bury(tombstone) {
            return false;
        }
        self.raise_epoch(signer);
        self.reconcile_all(signer);
        true
    }

    /// Gives every contact new keys: somebody who is none any more, or a device of one of them that was removed, has the old ones.
    pub fn renew_keys(&mut self, signer: &mut Signer<'_>) {
        self.raise_epoch(signer);
        self.reconcile_all(signer);
    }

    /// Begins a new epoch: who isn't told has nothing from now on.
    pub(super) fn raise_epoch(&mut self, signer: &mut Signer<'_>) {
        let epoch = self.own.presence.epoch().saturating_add(1);
        self.own.presence = PresenceSecret::new(epoch, *signer.secret().as_bytes());
        self.actions.push_back(RosterAction::OwnChanged);
    }

    pub(super) fn reconcile(&mut self, user: &UserId, signer: &mut Signer<'_>) {
        let Some(contact) = self.contacts.get(user) else { return };
        if contact.entry.standing() != Standing::Contact {
            return;
        }
        let is_old = signer.now.secs_since(contact.told.at) > KEYS_RENEWED_AFTER_SECS;
        let wants_keys = is_old || contact.told.keys != self.keys_hash(contact);
        let profile = self.untold_profile(&contact.told);
        if !wants_keys && profile.is_none() {
            return;
        }
        let keys = if wants_keys { self.keys_for(user, signer) } else { None };
        if keys.is_none() && profile.is_none() {
            return;
        }
        self.note_told(user, keys.is_some().then_some(signer.now));
        let extensions = with_tombstones(Extensions::none(), &self.own.tombstones);
        let update = ContactUpdate { keys, profile, extensions };
        self.send(user, ContactSignal::Update(Box::new(update)));
    }

    /// What the contact hasn't seen of the profile; the picture only if that has changed.
    pub(super) fn untold_profile(&self, told: &Told) -> Option<ProfileCard> {
        let card = self.own.profile.as_ref()?;
        let profile = card.profile.unverified();
        if told.profile == profile.sequence {
            return None;
        }
        let avatar = card.avatar.clone().filter(|_| told.avatar != profile.avatar);
        Some(ProfileCard { profile: card.profile.clone(), avatar })
    }

    /// Notes that a contact is told everything; `now` if keys are among it.
    fn note_told(&mut self, user: &UserId, now: Option<UnixTime>) {
        let Some(contact) = self.contacts.get(user) else { return };
        let keys = self.keys_hash(contact);
        let at = now.map_or(contact.told.at, |now| issued_at(contact, now));
        let profile = self.own.profile.as_ref().map(|card| card.profile.unverified());
        let told = Told {
            keys,
            profile: profile.map_or(0, |profile| profile.sequence),
            avatar: profile.and_then(|profile| profile.avatar),
            at,
        };
        self.contact_mut(user).told = told;
        self.actions.push_back(RosterAction::PersistTold { user: user.clone() });
    }

    /// Names the keys a contact is to have: another when the presence key changes, or the key they are known by, or when they say yes anew: what came
    /// while they said no they didn't keep.
    pub(super) fn keys_hash(&self, contact: &Contact) -> [u8; 32] {
        let holder = contact.entry.pairwise.map_or([0; 32], |(_, key)| key.0);
        let said = contact.entry.their_statement().map_or(0, |theirs| theirs.said().sequence);
        let presence = &self.own.presence;
        let removed: Vec<[u8; 32]> = self.own.tombstones.iter().map(Signed::body_hash).collect();
        let removed = removed.concat();
        let (epoch, presence) = (presence.epoch().to_be_bytes(), presence.to_bytes());
        let told = hash("halloo keys told", &[&epoch, presence.as_slice(), &holder, &said.to_be_bytes(), &removed]);
        let told = match &self.links {
            Some(links) => hash("halloo keys told with links", &[&told, links]),
            None => told,
        };
        if self.pass_on.version == 0 {
            return told;
        }
        let said = [u8::from(self.pass_on.is_allowed)];
        hash("halloo keys told with pass on", &[&told, &self.pass_on.version.to_be_bytes(), &said])
    }

    /// The keys for a contact; without a key to make them out to, no capabilities.
    pub(super) fn keys_for(&self, user: &UserId, signer: &mut Signer<'_>) -> Option<ContactKeys> {
        let contact = self.contacts.get(user)?;
        let holder = contact.entry.pairwise.map(|(_, key)| key);
        let at = issued_at(contact, signer.now);
        let epoch = self.own.presence.epoch();
        let mut capabilities = Vec::new();
        if let Some(holder) = holder {
            capabilities.extend(SERVICES.map(|service| capability(service, holder, epoch, at, signer)));
        }
        let extensions = self.pass_on.within(&Extensions::none());
        let extensions = match &self.links {
            Some(links) => extensions.with(TOLD_EXTENSION, links.clone()),
            None => extensions,
        };
        Some(ContactKeys { presence: self.own.presence.key(), capabilities, extensions })
    }

    /// Makes a new statement about `user`, above all that this user has said and that the other has ended.
    pub(super) fn state(&mut self, user: &UserId, stance: Stance, signer: &mut Signer<'_>) {
        let secret = signer.secret();
        let contact = self.contact_mut(user);
        let entry = &mut contact.entry;
        let Some(other) = entry.identity() else { return };
        let mine = entry.mine.as_ref().map(Attested::said);
        let theirs = entry.their_statement().map(Attested::said);
        let last = mine.map_or(0, |said| said.sequence).max(theirs.map_or(0, |said| said.ends));
        let ended = mine.map_or(0, |said| said.ends);
        let ends = if stance == Stance::Removed { ended.max(theirs.map_or(0, |said| said.sequence)) } else { ended };
        let statement = ContactStatement {
            owner: signer.identity,
            other,
            sequence: last.saturating_add(1).max(signer.now.0),
            stance,
            ends,
            issued_at: signer.now,
            extensions: Extensions::none(),
        };
        let statement = Signed::sign(statement, signer.key);
        entry.mine = Some(Attested { statement, certificate: signer.certificate.clone() });
        entry.seed.get_or_insert(secret);
        self.persist(user);
    }

    pub(super) fn send_request(&mut self, user: &UserId, asking: Asking, signer: &Signer<'_>) {
        let Some(entry) = self.entry(user) else { return };
        let (Some(mine), Some(pairwise)) = (&entry.mine, entry.own_pairwise()) else { return };
        let Asking { text, mut display_name } = asking;
        display_name.truncate(display_name.floor_char_boundary(REQUEST_NAME_BYTES_MAX));
        let request = ContactRequest {
            statement: under_own_signature(mine, signer),
            pairwise: pairwise.public(),
            text,
            display_name,
            extensions: Extensions::none(),
        };
        self.send(user, ContactSignal::Request(Box::new(request)));
    }

    pub(super) fn send_accept(&mut self, user: &UserId, signer: &mut Signer<'_>) {
        let keys = self.keys_for(user, signer);
        let profile = self.own.profile.clone();
        let Some(entry) = self.entry(user) else { return };
        let (Some(mine), Some(pairwise)) = (&entry.mine, entry.own_pairwise()) else { return };
        let answer = ContactAnswer {
            statement: under_own_signature(mine, signer),
            pairwise: Some(pairwise.public()),
            keys,
            profile,
            extensions: Extensions::none(),
        };
        self.note_told(user, Some(signer.now));
        self.send(user, ContactSignal::Accept(Box::new(answer)));
    }

    /// Says that the user's newest word is no.
    pub(super) fn send_removal(&mut self, user: &UserId, signer: &Signer<'_>) {
        let mine = self.entry(user).and_then(|entry| entry.mine.as_ref()).filter(|mine| !mine.said().is_yes());
        let Some(statement) = mine.map(|mine| under_own_signature(mine, signer)) else { return };
        let removal = ContactRemoval { statement, extensions: Extensions::none() };
        self.send(user, ContactSignal::Remove(Box::new(removal)));
    }

    /// Tells what has become of somebody, if it is another than before.
    pub(super) fn tell_change(&mut self, user: &UserId, before: Standing) {
        let after = self.standing(user);
        let user = user.clone();
        match (before, after) {
            (before, after) if before == after => {}
            (before, Standing::Contact) if !before.is_contact() => self.tell(RosterEvent::Accepted { user }),
            (Standing::Asked, Standing::Declined | Standing::Removed) if self.says_yes(&user) => {
                self.tell(RosterEvent::Declined { user });
            }
            (_, Standing::Requested) => {
                let intro = self.entry(&user).and_then(|entry| entry.intro.clone()).unwrap_or_default();
                self.tell(RosterEvent::Request { user, display_name: intro.display_name, text: intro.text });
            }
            (Standing::Contact | Standing::Changed | Standing::Requested, Standing::Removed | Standing::Declined) => {
                self.tell(RosterEvent::Removed { user });
            }
            _ => {}
        }
    }

    /// True if the user's own newest word is yes: if they are no contact, it was the other who has ended it.
    pub(super) fn says_yes(&self, user: &UserId) -> bool {
        self.entry(user).is_some_and(RosterEntry::says_yes)
    }

    /// Forgets those who are nothing to the user, beyond [`TRACES_MAX`].
    pub(super) fn forget_traces(&mut self) {
        let is_trace = |contact: &&Contact| matches!(contact.entry.standing(), Standing::Removed | Standing::Declined);
        while self.contacts.values().filter(is_trace).count() > TRACES_MAX {
            let oldest = self.contacts.values().filter(is_trace).min_by_key(|contact| contact.entry.heard_at());
            let Some(user) = oldest.map(|contact| contact.entry.user.clone()) else { return };
            self.contacts.remove(&user);
            self.actions.push_back(RosterAction::Forget { user });
        }
    }

    pub(super) fn contact_mut(&mut self, user: &UserId) -> &mut Contact {
        self.contacts
            .entry(user.clone())
            .or_insert_with(|| Contact { entry: RosterEntry::new(user.clone()), told: Told::default() })
    }

    pub(super) fn persist(&mut self, user: &UserId) {
        let persist = RosterAction::Persist { user: user.clone() };
        if !self.actions.contains(&persist) {
            self.actions.push_back(persist);
        }
    }

    pub(super) fn send(&mut self, to: &UserId, signal: ContactSignal) {
        self.actions.push_back(RosterAction::Send { to: to.clone(), signal: Box::new(signal) });
    }

    pub(super) fn tell(&mut self, event: RosterEvent) {
        self.actions.push_back(RosterAction::Tell(event));
    }
}

/// The user's word as this device may send it. Receivers check it against the certificate of the device that sends, so what another device has
/// signed is said again: the same statement.
fn under_own_signature(mine: &Attested, signer: &Signer<'_>) -> Signed<ContactStatement> {
    if mine.device() == signer.device() { mine.statement.clone() } else { Signed::sign(mine.said().clone(), signer.key) }
}

/// When keys that are made now are issued. Of two capabilities the later one is kept, so those made in the same second get another.
fn issued_at(contact: &Contact, now: UnixTime) -> UnixTime {
    contact.told.at.plus_secs(1).max(now)
}

fn capability(service: Service, holder: PublicKey, epoch: u32, at: UnixTime, signer: &mut Signer<'_>) -> Signed<Capability> {
    let not_before = at.minus_secs(CAPABILITY_BACKDATED_SECS);
    let capability = Capability {
        id: CapabilityId::random(&mut signer.rng),
        issuer: Issuer::Device(signer.device()),
        service,
        holder: Holder::Key(holder),
        limits: Limits { per_hour: CONTACT_PER_HOUR, payload_bytes_max: CONTACT_PAYLOAD_BYTES_MAX },
        epoch,
        not_before,
        not_after: not_before.plus_secs(CAPABILITY_SECS_MAX),
        extensions: Extensions::none(),
    };
    Signed::sign(capability, signer.key)
}
