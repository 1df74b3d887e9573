//! People, as the user has them here and in linked systems: one entry, one conversation, whatever they are called by.

use std::collections::BTreeMap;

use halloo_protocol::contact::Standing;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::IdentityKey;
use halloo_protocol::linked::{Association, LinkedId};

use crate::event_loop::EventLoop;
use crate::handle::contacts::ContactView;
use crate::handle::linked::LinkedPeer;

impl EventLoop {
    /// What contacts in linked systems say of who they are here, as far as it was seen and holds. Not for deciding: it may have been seen long ago.
    fn said_by_contacts(&self) -> impl Iterator<Item = (&LinkedId, Option<&String>, &Association)> {
        let now = self.now().unix;
        self.linked.known.iter().filter_map(move |((account, place), sighting)| {
            let name = self.linked.lists.get(account)?.get(place)?.as_ref();
            Some((place, name, sighting.holds(now).ok()?))
        })
    }

    /// Who a user is in linked systems, by the user's own contact lists there: each once, though several accounts have them.
    pub(crate) fn linked_peers_of(&self, user: &UserId) -> Vec<LinkedPeer> {
        let mut peers: BTreeMap<&LinkedId, Option<&String>> = BTreeMap::new();
        for (place, name, _) in self.said_by_contacts().filter(|(_, _, said)| said.user == *user) {
            let known = peers.entry(place).or_default();
            *known = known.or(name);
        }
        peers.into_iter().map(|(place, name)| LinkedPeer { id: place.to_string(), name: name.cloned(), by: None }).collect()
    }

    /// As whom a user is shown beside their name here.
    pub(crate) fn linked_peer_of(&self, user: &UserId) -> Option<LinkedPeer> {
        let mut peers = self.linked_peers_of(user);
        let at = peers.iter().position(|peer| peer.name.is_some()).unwrap_or(0);
        (at < peers.len()).then(|| peers.swap_remove(at))
    }

    /// The name that the user has given them in a linked system.
    pub(crate) fn linked_name_of(&self, user: &UserId) -> Option<String> {
        let peer = self.linked_peer_of(user)?;
        Some(peer.name.unwrap_or(peer.id))
    }

    /// The identity key that somebody shows in a linked system.
    pub(crate) fn linked_identity(&self, user: &UserId) -> Option<IdentityKey> {
        self.said_by_contacts().find(|(_, _, said)| said.user == *user).map(|(_, _, said)| said.identity)
    }

    /// People who are contacts in linked systems, have shown who they are here, and are nothing here.
    pub(crate) fn linked_only(&self) -> Vec<ContactView> {
        let own = self.identity.user_id();
        let users: BTreeMap<&UserId, &Association> = self.said_by_contacts().map(|(_, _, said)| (&said.user, said)).collect();
        let is_nothing = |user: &UserId| *user != own && self.contacts.roster().standing(user) == Standing::Removed;
        users.into_keys().filter(|user| is_nothing(user)).map(|user| self.linked_view(user)).collect()
    }
}
