//! Reads presence with a key that somebody kept: asks a carrier for what it has under a topic, and tries to open it.
//!
//! It is what a person could do with their own home and a little programming, so what it can't read nobody can who has no more than that.

use std::path::Path;

use halloo::store::{Store, StoreError};
use halloo_protocol::contact::PresenceKey;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{DeviceKey, IdentityKey};
use halloo_protocol::presence::{
    Day, Document, DocumentError, Mode, NamedTopic, Part, PresenceGossip, SealedDocument, Topic, TopicName, TopicPlace,
    TopicSlot, TopicWant,
};
use halloo_protocol::wire::{Extensions, Message};

use crate::attacker::{Attacker, now};

/// What a home holds of somebody's presence.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Whose.
    pub identity: IdentityKey,
    /// The newest key that they gave.
    pub key: PresenceKey,
}

impl Kept {
    /// What the database in `home` has of the user called `name`. No daemon may run on it.
    ///
    /// # Panics
    /// If it can't be read, or has no key of theirs.
    #[track_caller]
    #[must_use]
    pub fn of(home: &Path, name: &str) -> Self {
        let store = Store::open(home).expect("the database of a stopped device");
        let contacts = store.read::<_, StoreError>(halloo::store::View::contacts).expect("it has contacts");
        let is_wanted = |user: &UserId| matches!(user, UserId::Named { name: known, .. } if known.to_string() == name);
        let contact = contacts.into_iter().find(|contact| is_wanted(&contact.entry.user)).expect("they are in the list");
        let identity = contact.entry.identity().expect("contacts have identities");
        let key = contact.entry.presence_keys(None).next().cloned().expect("contacts give keys");
        Self { identity, key }
    }

    /// The topic of a device today.
    ///
    /// # Panics
    /// If the key is none.
    #[must_use]
    pub fn topic(&self, device: &DeviceKey) -> (Day, Topic) {
        let day = self.key.day(now());
        (day, self.key.topic(device, day).expect("a genuine key"))
    }

    /// Opens a document of a device that was found under a topic, as contacts do.
    ///
    /// # Errors
    /// Why it doesn't open.
    pub fn open(&self, document: &SealedDocument, device: &DeviceKey, place: (Day, &Topic)) -> Result<Document, DocumentError> {
        document.open(&self.key, &self.identity, device, place).map(std::sync::Arc::unwrap_or_clone)
    }
}

/// Asks a carrier for the newest documents under these topics, of which the last must be known there: when its document comes, the others'
/// had come if there were any.
///
/// # Panics
/// If the last one has no document in time.
#[track_caller]
pub fn fetch(carrier: &mut Attacker, topics: &[Topic]) -> Vec<Option<SealedDocument>> {
    let slots: Vec<TopicSlot> = topics.iter().map(|_| TopicSlot(carrier.next_slot())).collect();
    let names = slots
        .iter()
        .zip(topics)
        .map(|(slot, topic)| NamedTopic { slot: *slot, name: TopicName::Topic { topic: *topic, carriers: Vec::new() } });
    let wants = slots.iter().map(|slot| TopicWant { slot: *slot, mode: Mode::Push, have: 0 });
    let parts = vec![Part::Names(names.collect()), Part::Wants(wants.collect())];
    carrier.notify(&PresenceGossip { parts, extensions: Extensions::none() });
    let mut found: Vec<Option<SealedDocument>> = vec![None; topics.len()];
    carrier.wait_for("the presence under a topic", |frame| {
        let gossip = (frame.kind == PresenceGossip::KIND).then(|| frame.parse::<PresenceGossip>().ok()).flatten()?;
        for passed in gossip.parts.into_iter().filter_map(documents).flatten() {
            let TopicPlace::Slot(slot) = passed.place else { continue };
            if let Some(index) = slots.iter().position(|asked| *asked == slot) {
                found[index] = Some(passed.document);
            }
        }
        found.last().is_some_and(Option::is_some).then_some(())
    });
    found
}

fn documents(part: Part) -> Option<Vec<halloo_protocol::presence::PassedDocument>> {
    match part {
        Part::Documents(list) => Some(list),
        _ => None,
    }
}
