//! Who contacts here are elsewhere, by their own word: told to contacts when it changes, and taken from them.
//!
//! What is told is sealed under the slow hashes of the accounts' addresses (`protocol/src/linked/told.rs`), so both sides wait for those ([`super::slow`]). Of a contact here who is a contact
//! elsewhere it is known by that who they are: they are one entry, and can be called by their other name, while they are in no directory and away there. A proof that stands by
//! itself is enough; else it makes this node look at the place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use halloo_protocol::contact::Standing;
use halloo_protocol::contact::privacy::{Audience, Kind};
use halloo_protocol::identity::{UserId, VerifiedUser};
use halloo_protocol::key::hash;
use halloo_protocol::linked::{Carrier, LinkedId, OpenedLink, Sighting, ToldLink, ToldLinks};
use halloo_protocol::wire;
use tracing::{debug, warn};

use crate::event_loop::EventLoop;
use crate::store::StoreError;

const TOLD: &str = "linked told contacts";
const TOLD_BY: &str = "linked told by contacts";

/// Contacts of whom it is kept what they tell; beyond, the one heard of first is forgotten.
const TELLERS_MAX: usize = 512;

/// Changes are gathered for so long.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// What is told, and what was told by others.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// When contacts are told, if something has changed.
    tell_at: Option<Instant>,
    by: BTreeMap<UserId, ToldLinks>,
}

/// Where it is kept what a contact tells.
fn setting_of(user: &UserId) -> String {
    format!("{TOLD_BY} {}", HEXLOWER.encode(&hash("halloo told by", &[&wire::encode(user)])))
}

// Telling.
impl EventLoop {
    pub(super) fn told_start(&mut self) {
        let read = self.store.read::<_, StoreError>(|view| {
            let tellers: Vec<UserId> = view.setting_value(TOLD_BY)?.unwrap_or_default();
            let mut by = BTreeMap::new();
            for user in tellers {
                if let Some(told) = view.setting_value::<ToldLinks>(&setting_of(&user))? {
                    by.insert(user, told);
                }
            }
            Ok((view.setting_value::<ToldLinks>(TOLD)?, by))
        });
        match read {
            Ok((told, by)) => {
                self.keep_links(told.as_ref().map(wire::encode));
                self.linked.told.by = by;
            }
            Err(error) => warn!(%error, "what contacts were told of linked accounts isn't read"),
        }
        self.tell_contacts_soon();
    }

    /// What contacts are told of linked accounts may be another.
    pub(super) fn tell_contacts_soon(&mut self) {
        self.linked.told.tell_at.get_or_insert(Instant::now() + TELL_AFTER);
    }

    /// Whether contacts here are told who this user is elsewhere: whoever lets nobody do anything tells nobody.
    fn tells_contacts(&self) -> bool {
        let settings = self.privacy_settings();
        let kinds = [Kind::Call, Kind::Video, Kind::Message, Kind::File];
        self.carriers().has(Carrier::Presence) && kinds.into_iter().any(|kind| settings.audience(kind) > Audience::Nobody)
    }

    /// All accounts that contacts are told of, sealed. `None`: not all slow hashes are known yet.
    fn links_to_tell(&mut self) -> Option<Vec<ToldLink>> {
        let here = self.linked.accounts.keys().cloned();
        let ids: BTreeSet<LinkedId> = here.chain(self.linked.shared.live().map(|account| account.id.clone())).collect();
        let mut links = Vec::new();
        for id in ids {
            let said = self.own_association(&id).filter(|_| self.tells_contacts() && !self.is_token_only(&id));
            let Some(association) = said else { continue };
            let slow = self.slow_of(&id)?;
            match ToldLink::seal(association, self.own_proof(&id).unwrap_or_default(), &slow) {
                Ok(link) => links.push(link),
                Err(error) => warn!(account = %id, %error, "contacts aren't told of a linked account"),
            }
        }
        Some(links)
    }

    fn tell_contacts(&mut self) {
        // Told again when the hashes are there.
        let Some(links) = self.links_to_tell() else { return };
        let before = self.links_kept().and_then(|bytes| ToldLinks::read(bytes).ok());
        let version = before.as_ref().map_or(0, |before| before.version.saturating_add(1)).max(self.now().unix.0);
        let told = ToldLinks::new(version, links);
        // Whoever was never told of one needn't hear that there is none.
        if before.as_ref().map_or(told.links.is_empty(), |before| before.links == told.links) {
            return;
        }
        debug!(accounts = told.links.len(), "contacts are told of linked accounts");
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(TOLD, &told)) {
            return warn!(%error, "what contacts are told of linked accounts isn't written");
        }
        if let Err(error) = self.run_roster(|roster, signer| roster.set_links(wire::encode(&told), signer)) {
            warn!(%error, "contacts aren't told of linked accounts");
        }
    }
}

// Being told.
impl EventLoop {
    /// A contact, whose chain holds, tells who they are elsewhere.
    pub(crate) fn take_told_links(&mut self, user: &VerifiedUser, bytes: &[u8]) {
        let is_theirs = self.is_teller(&user.id) && self.contact_identity(&user.id) == Some(user.identity);
        if !self.carriers().has(Carrier::Presence) || !is_theirs {
            return;
        }
        let told = match ToldLinks::read(bytes) {
            Ok(told) => told,
            Err(error) => return debug!(%error, "what a contact tells of accounts elsewhere can't be read"),
        };
        if self.linked.told.by.get(&user.id).is_some_and(|known| known.version >= told.version) {
            return;
        }
        self.linked.told.by.insert(user.id.clone(), told);
        self.keep_told(&user.id);
        let opened = self.open_told(&user.id, None);
        self.forget_untold(&user.id, &opened);
    }

    fn is_teller(&self, user: &UserId) -> bool {
        self.contacts.roster().standing(user) == Standing::Contact
    }

    /// An identity's slow hash is known, or it is in a contact list: whoever has told of it is known by it.
    pub(super) fn match_told(&mut self, id: Option<&LinkedId>) {
        let users: Vec<UserId> = self.linked.told.by.keys().cloned().collect();
        for user in users {
            self.open_told(&user, id);
        }
    }

    /// Opens what somebody has told of those who are in own contact lists, or of one of them. Which those are.
    fn open_told(&mut self, user: &UserId, only: Option<&LinkedId>) -> BTreeSet<LinkedId> {
        let mut opened = BTreeSet::new();
        let identity = self.contact_identity(user).filter(|_| self.is_teller(user));
        let (Some(identity), Some(told)) = (identity, self.linked.told.by.get(user)) else { return opened };
        let now = self.now().unix;
        let mut found = Vec::new();
        for link in &told.links {
            let Some(id) = self.linked.slow.indicated().get(&link.indicator) else { continue };
            let Some(slow) = self.linked.slow.known(id).filter(|_| only.is_none_or(|only| only == id)) else { continue };
            match link.open((id, slow), (user, &identity), now) {
                Ok(link) => found.push((id.clone(), link)),
                Err(error) => debug!(%id, %error, "what a contact tells of an account elsewhere isn't taken"),
            }
        }
        for (id, link) in found {
            self.note_told(&id, &link);
            opened.insert(id);
        }
        opened
    }

    /// A contact says that they are somebody in an own contact list elsewhere.
    fn note_told(&mut self, id: &LinkedId, link: &OpenedLink) {
        let accounts: Vec<LinkedId> =
            self.linked.lists.iter().filter(|(_, list)| list.contains_key(id)).map(|(account, _)| account.clone()).collect();
        for account in accounts {
            let key = (account.clone(), id.clone());
            let known = self.linked.known.get(&key).and_then(|known| known.association.as_ref());
            if known == Some(&link.association) {
                continue;
            }
            if link.association.unverified().method.stands_by_itself() {
                if self.note_proof(&account, &link.association, &link.proof) {
                    self.linked.seen_by.insert(key, Carrier::Presence);
                }
            } else {
                self.look_soon(&account, id);
            }
        }
    }

    /// What was known of a user by what they told, and is told no more, isn't known any more.
    fn forget_untold(&mut self, user: &UserId, told: &BTreeSet<LinkedId>) {
        let now = self.now().unix;
        let linked = &mut self.linked;
        let mut is_any = false;
        for (key, seen) in &mut linked.known {
            let is_theirs = seen.association.as_ref().is_some_and(|said| said.unverified().user == *user);
            let is_by_word = seen.proved_at.is_some() && linked.seen_by.get(key) == Some(&Carrier::Presence);
            if is_theirs && is_by_word && !told.contains(&key.1) {
                // And not left out, for own devices to hear of it.
                *seen = Sighting::nothing(now);
                is_any = true;
            }
        }
        if is_any {
            self.keep_sightings_soon();
        }
    }

    pub(super) fn told_tick(&mut self, now: Instant) {
        if self.linked.told.tell_at.is_some_and(|at| at <= now) {
            self.linked.told.tell_at = None;
            self.tell_contacts();
        }
    }

    /// Writes what a contact has told, and that it isn't kept any more of those who are none, and of the one heard of first if there are too many.
    fn keep_told(&mut self, user: &UserId) {
        let mut gone: Vec<UserId> = self.linked.told.by.keys().filter(|user| !self.is_teller(user)).cloned().collect();
        if self.linked.told.by.len() > TELLERS_MAX + gone.len() {
            let others = self.linked.told.by.iter().filter(|(other, _)| *other != user);
            gone.extend(others.min_by_key(|(_, told)| told.version).map(|(user, _)| user.clone()));
        }
        gone.iter().for_each(|user| drop(self.linked.told.by.remove(user)));
        let tellers: Vec<&UserId> = self.linked.told.by.keys().collect();
        let told = self.linked.told.by.get(user);
        let kept = self.store.transaction::<_, StoreError>(|tx| {
            tx.put_setting_value(TOLD_BY, &tellers)?;
            gone.iter().try_for_each(|user| tx.remove_setting(&setting_of(user)).map(drop))?;
            told.map_or(Ok(()), |told| tx.put_setting_value(&setting_of(user), told))
        });
        if let Err(error) = kept {
            warn!(%error, "what a contact tells of linked accounts isn't written");
        }
    }
}
