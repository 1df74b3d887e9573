//! Associations in the presence of contacts elsewhere.
//!
//! What a contact's client says as long as it is there counts as seen at each moment, without a look. When the client has gone it counts as what was
//! seen at a place does, for a day. Where an account's server has no places, that is all there is, and the leave to wake its user's devices is in it too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use halloo_protocol::key::hash;
use halloo_protocol::linked::{Association, Carrier, Heard, LinkedId, Shown, Sighting, System};
use halloo_protocol::wire::{self, Signed};
use tracing::debug;

use super::logins;
use crate::event_loop::EventLoop;

/// What is said in presence is noted as seen so often, for own devices and for afterwards.
const NOTE_EVERY: Duration = Duration::from_secs(600);

/// What contacts' clients say now, by account and place: which association, for the place may show another one.
#[derive(Debug, Default)]
pub(super) struct Present(BTreeMap<(LinkedId, LinkedId), [u8; 32]>);

impl Present {
    fn hear(&mut self, key: (LinkedId, LinkedId), association: &Signed<Association>) {
        self.0.insert(key, digest(association));
    }

    /// Something was seen: what is heard counts no more if that was another association.
    pub(super) fn seen(&mut self, key: &(LinkedId, LinkedId), seen: &Sighting) {
        if self.0.contains_key(key) && !self.says(key, Some(seen)) {
            self.0.remove(key);
        }
    }

    pub(super) fn remove(&mut self, key: &(LinkedId, LinkedId)) {
        self.0.remove(key);
    }

    fn contains(&self, key: &(LinkedId, LinkedId)) -> bool {
        self.0.contains_key(key)
    }

    /// Whether what is known is what is heard now.
    fn says(&self, key: &(LinkedId, LinkedId), known: Option<&Sighting>) -> bool {
        let known = known.and_then(|known| known.association.as_ref());
        known.is_some_and(|known| self.0.get(key) == Some(&digest(known)))
    }
}

fn digest(association: &Signed<Association>) -> [u8; 32] {
    hash("halloo association present", &[&wire::encode(association)])
}

// The own accounts.
impl EventLoop {
    /// Whether an account's presence is sent, with the association, and others' is listened to.
    pub(super) fn is_present_elsewhere(&self, id: &LinkedId) -> bool {
        id.system() == System::Xmpp && !self.is_token_only(id) && self.settings.linked.is_present_elsewhere()
    }

    /// Whether places are shown something, and looked at. What a request says is checked there.
    pub(super) fn uses_places(&self, id: &LinkedId) -> bool {
        let carriers = self.carriers();
        let is_used = [Carrier::Request, Carrier::Place, Carrier::Directory].into_iter().any(|carrier| carriers.has(carrier));
        logins::has_place(id) && is_used
    }
}

// Others.
impl EventLoop {
    /// A contact's client says an association.
    pub(super) fn association_heard(&mut self, account: &LinkedId, at: &LinkedId, shown: Shown) {
        let is_in_list = self.linked.lists.get(account).is_some_and(|list| list.contains_key(at));
        if !is_in_list || !self.is_present_elsewhere(account) {
            return;
        }
        let now = self.now().unix;
        let key = (account.clone(), at.clone());
        let before = self.linked.known.get(&key);
        let is_settled = self.linked.present.contains(&key) || !self.was_heard(&key);
        match Sighting::hear(at, shown, before, is_settled, now) {
            Ok(Heard::News(seen)) if self.is_of_merged(&seen) => {}
            Ok(Heard::News(seen)) => {
                let holds = seen.holds(now).is_ok();
                let said = seen.association.clone();
                self.take_sighting(account, at, *seen);
                if let Some(said) = said.filter(|_| holds) {
                    self.linked.seen_by.insert(key.clone(), Carrier::Presence);
                    self.linked.present.hear(key, &said);
                    // The leave stands there, if there is such a place.
                    self.look_soon(account, at);
                } else {
                    self.linked.present.remove(&key);
                }
                self.linked_looked(account, at, true);
            }
            Ok(Heard::Known) => {
                let known = self.linked.known.get(&key).and_then(|known| known.association.as_ref());
                if let Some(known) = known {
                    self.linked.present.hear(key, known);
                }
                self.note_present();
            }
            Ok(Heard::Disputed) => self.look_soon(account, at),
            Err(error) => debug!(place = %at, %error, "what a contact says in presence isn't taken"),
        }
    }

    /// The client that has said it has gone.
    pub(super) fn association_unheard(&mut self, account: &LinkedId, at: &LinkedId) {
        self.note_present();
        self.linked.present.remove(&(account.clone(), at.clone()));
    }

    /// An account isn't connected, or not any more: nobody is heard over it.
    pub(super) fn nobody_heard(&mut self, account: &LinkedId) {
        self.linked.present.0.retain(|(over, _), _| over != account);
    }

    /// Whether what is known of an identity came in its presence last.
    fn was_heard(&self, key: &(LinkedId, LinkedId)) -> bool {
        self.linked.seen_by.get(key) == Some(&Carrier::Presence)
    }

    /// Nothing stands at a contact's place. What is in their presence now counts all the same; what came in it within a day counts as where places can't be
    /// looked at, for there may be none. `Some`: it is kept, and whether it counts as seen.
    pub(super) fn nothing_but_presence(&mut self, account: &LinkedId, at: &LinkedId) -> Option<bool> {
        let key = (account.clone(), at.clone());
        if self.linked.present.says(&key, self.linked.known.get(&key)) {
            self.note_present();
            return Some(true);
        }
        self.was_heard(&key).then_some(false)
    }

    /// What is in presence is seen now.
    pub(super) fn note_present(&mut self) {
        let now = self.now().unix;
        let linked = &mut self.linked;
        for key in linked.present.0.keys() {
            if let Some(seen) = linked.known.get_mut(key).filter(|seen| linked.present.says(key, Some(&**seen))) {
                seen.read_at = now;
            }
        }
    }

    pub(super) fn linked_presence_tick(&mut self, now: Instant) {
        if !self.linked.present.0.is_empty() && self.linked.note_present_at.is_none_or(|at| at <= now) {
            self.linked.note_present_at = Some(now + NOTE_EVERY);
            self.note_present();
            self.share_links_soon();
        }
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::identity::UserId;
    use halloo_protocol::key::{IdentityKey, SecretKey};
    use halloo_protocol::linked::{AssociationParams, ProofMethod};
    use halloo_protocol::time::UnixTime;

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn seen(of: &LinkedId, seed: u8) -> Sighting {
        let key = SecretKey::from_bytes([seed; 32]);
        let user = UserId::Key(IdentityKey(key.public()));
        let params = AssociationParams { user, linked: of.clone(), method: ProofMethod::OWN_ITEM, last_serial: 0, now: NOW };
        Sighting { association: Some(Association::sign(params, &key)), ..Sighting::nothing(NOW) }
    }

    #[test]
    fn what_is_heard_keeps_alive_itself_and_nothing_else_that_the_place_shows() {
        let id = |name: &str| -> LinkedId { format!("xmpp:{name}@there.example").parse().expect("an address") };
        let (key, mut present) = ((id("alice"), id("bob")), Present::default());
        let (first, other) = (seen(&key.1, 1), seen(&key.1, 2));
        let heard = first.association.as_ref().expect("said");
        present.hear(key.clone(), heard);
        present.seen(&key, &first);
        assert!(present.says(&key, Some(&first)), "the place shows the same");
        assert!(!present.says(&key, Some(&other)) && !present.says(&key, None));
        // The place shows another: that it is taken away from there counts, whoever is there in presence.
        present.seen(&key, &other);
        assert!(!present.says(&key, Some(&other)) && !present.contains(&key));
        present.hear(key.clone(), heard);
        present.seen(&key, &Sighting::nothing(NOW));
        assert!(!present.contains(&key));
    }
}
