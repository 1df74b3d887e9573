//! What a user's own devices share of linked accounts, so that each of them judges and calls as the one that has the login.
//!
//! The login itself stays on its device, the *holder*; everything else is shared: the account ([`SharedAccount`]), its contact list in pages ([`SharedContacts`]), and
//! what was seen at contacts' places ([`SharedSighting`]). Each piece merges by itself as a join, in whatever order pieces come and by whatever way: the vault
//! keeps them, and connected devices tell each other of changes ([`LinkedShare`]).
//!
//! *Rules.* A link of an account has a number that grows with every linking. Of an account the later link counts; of one link its end, then the higher version. What a link
//! brought goes with it. A page counts by its version; a sighting by when it was made, and only as long as the page that its place is in has it: a page that is older
//! than the sighting says nothing of it.
//!
//! One device writes: the holder, but for the end of a link, which any device may say.
//!
//! What can't wait is asked of the holder itself ([`LinkedAsk`]).

mod messages;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};

pub use messages::{LinkedAsk, LinkedQuestion, LinkedReply, LinkedShare, LinkedTold, SHARE_PIECES_MAX};

use super::association::Association;
use super::carrier::Carrier;
use super::id::LinkedId;
use super::proof::PROOF_BYTES_MAX;
use super::sighting::Sighting;
use crate::key::{DeviceKey, hash};
use crate::time::UnixTime;
use crate::wire::{self, DecodeError, Extensions, Signed};

/// Most accounts that are followed, linked and unlinked ones together; of those unlinked longest ago nothing is remembered.
pub const SHARED_ACCOUNTS_MAX: usize = 40;

/// Most of them that are linked: two devices that were apart have linked as many as one may each.
const LINKED_MAX: usize = 16;

/// Pages of one contact list: a change is one page's worth of bytes.
pub const PAGES: u8 = 64;

/// Bytes of one page: a fair share of the largest list fits several times. What doesn't fit isn't shared.
const PAGE_BYTES_MAX: usize = 24 * 1024;

/// Longest name of a contact that is shared, in bytes; longer ones are cut.
const NAME_BYTES_MAX: usize = 128;

/// Highest version of an account, which grows by one: more than is ever reached, and leaves room to grow.
const VERSION_MAX: u64 = 1 << 48;

/// Longest name of a provider, and of an application there, in bytes.
const PROVIDER_BYTES_MAX: usize = 256;

/// Most sightings that are shared; the oldest fall out.
pub const SHARED_SIGHTINGS_MAX: usize = 2_000;

/// What is seen again unchanged is shared again after so long: others count it for a day, and it costs as much as something new.
const SEEN_AGAIN_SECS: u64 = 6 * 3_600;

/// An account, as own devices know it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SharedAccount {
    /// Which.
    pub id: LinkedId,
    /// Number of the link: grows with every linking; at least the time in seconds.
    pub link: u64,
    /// The link has ended; nothing of it counts any more.
    pub is_removed: bool,
    /// Grows with every change of what follows.
    pub version: u64,
    /// The device that has the login.
    pub holder: DeviceKey,
    /// Its contacts are shown nothing but tokens.
    pub is_token_only: bool,
    /// What this user says of it.
    pub association: Option<Signed<Association>>,
    /// What shows it, where that stands by itself.
    pub proof: Option<SharedProof>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// What shows that an account is this user's.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SharedProof {
    /// At most [`PROOF_BYTES_MAX`].
    pub proof: Vec<u8>,
    /// Which provider has made it, and for which application, so that contacts' tokens count on every device.
    pub provider: Option<SharedProvider>,
}

/// A provider whose tokens count.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SharedProvider {
    /// Its issuer. At most 256 bytes.
    pub issuer: String,
    /// The application for which it makes tokens. At most 256 bytes.
    pub client: String,
}

/// A page of a contact list: those contacts whose ids fall into it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SharedContacts {
    /// Of which account.
    pub account: LinkedId,
    /// Of which link.
    pub link: u64,
    /// Which page, below [`PAGES`].
    pub page: u8,
    /// The higher one counts; at least the time in seconds at which the list was so.
    pub version: u64,
    /// Who is in it, in ascending order, with the name that the list has for them.
    pub contacts: Vec<(LinkedId, Option<String>)>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// What was seen at a contact's place.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SharedSighting {
    /// Over which account.
    pub account: LinkedId,
    /// Of which link.
    pub link: u64,
    /// At whose place.
    pub place: LinkedId,
    /// What; the later one counts.
    pub sighting: Sighting,
    /// Room to grow.
    pub extensions: Extensions,
}

/// Tag of the extension of a [`SharedSighting`] that says by which carrier it came, if not from the place: one byte, 1 for presence, 2 for the directory.
const SEEN_BY: u16 = 0x0001;

impl SharedSighting {
    fn by(carrier: Carrier) -> Extensions {
        match carrier {
            Carrier::Presence => Extensions::none().with(SEEN_BY, vec![1]),
            Carrier::Directory => Extensions::none().with(SEEN_BY, vec![2]),
            _ => Extensions::none(),
        }
    }

    /// By which carrier it came.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        match self.extensions.find(SEEN_BY) {
            Some([1]) => Carrier::Presence,
            Some([2]) => Carrier::Directory,
            _ => Carrier::Place,
        }
    }
}

/// A piece of what own devices share.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SharedPiece {
    /// An account.
    Account(Box<SharedAccount>),
    /// A page of its contact list.
    Contacts(SharedContacts),
    /// What was seen at a place.
    Sighting(Box<SharedSighting>),
}

impl SharedPiece {
    /// Which account it is of.
    #[must_use]
    pub fn account(&self) -> &LinkedId {
        match self {
            Self::Account(account) => &account.id,
            Self::Contacts(page) => &page.account,
            Self::Sighting(seen) => &seen.account,
        }
    }

    /// What it is about: of two with the same subject one counts.
    #[must_use]
    pub fn subject(&self) -> Vec<u8> {
        match self {
            Self::Account(account) => wire::encode(&(0_u8, &account.id)),
            Self::Contacts(page) => wire::encode(&(1_u8, &page.account, page.page)),
            Self::Sighting(seen) => wire::encode(&(2_u8, &seen.account, &seen.place)),
        }
    }

    /// Whether it is dated ahead: it would count for longer than it should, and nothing said in time could take its place.
    #[must_use]
    pub fn is_from_the_future(&self, now: UnixTime) -> bool {
        let is_ahead = |time: u64| UnixTime(time).is_from_the_future(now);
        match self {
            Self::Account(account) => is_ahead(account.link),
            Self::Contacts(page) => is_ahead(page.link) || is_ahead(page.version),
            Self::Sighting(seen) => is_ahead(seen.link) || is_ahead(seen.sighting.read_at.0),
        }
    }

    /// Checks ranges after decoding.
    ///
    /// # Errors
    /// [`DecodeError`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Account(account) => {
                let says_another = account.association.as_ref().is_some_and(|said| said.unverified().linked != account.id);
                let shown = account.proof.as_ref();
                let is_too_long = |shown: &SharedProof| {
                    let names = shown.provider.iter().flat_map(|provider| [provider.issuer.len(), provider.client.len()]);
                    shown.proof.len() > PROOF_BYTES_MAX || names.max().is_some_and(|length| length > PROVIDER_BYTES_MAX)
                };
                if shown.is_some_and(is_too_long) {
                    return Err(DecodeError::invalid("proof", "too long"));
                }
                if account.version > VERSION_MAX {
                    return Err(DecodeError::invalid("version", format!("{}", account.version)));
                }
                if says_another { Err(DecodeError::invalid("association", "about another identity")) } else { Ok(()) }
            }
            Self::Contacts(page) => check_page(page),
            Self::Sighting(seen) => {
                let shown = seen.sighting.association.as_ref();
                let is_elsewhere = shown.is_some_and(|said| said.unverified().linked != seen.place);
                if is_elsewhere { Err(DecodeError::invalid("sighting", "of another place")) } else { Ok(()) }
            }
        }
    }
}

fn check_page(page: &SharedContacts) -> Result<(), DecodeError> {
    if page.page >= PAGES {
        return Err(DecodeError::invalid("page", format!("{}, of {PAGES}", page.page)));
    }
    if wire::encoded_len(page) > PAGE_BYTES_MAX {
        return Err(DecodeError::invalid("contacts", format!("more than {PAGE_BYTES_MAX} bytes")));
    }
    let is_ascending = page.contacts.is_sorted_by(|(one, _), (next, _)| one < next);
    let is_here = page.contacts.iter().all(|(id, _)| page_of(id) == page.page);
    if is_ascending && is_here { Ok(()) } else { Err(DecodeError::invalid("contacts", "out of order, or of another page")) }
}

/// Which page of a contact list somebody is in.
fn page_of(id: &LinkedId) -> u8 {
    hash("halloo linked page", &[&wire::encode(id)])[0] % PAGES
}

/// All that own devices share of linked accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SharedLinks {
    accounts: BTreeMap<LinkedId, SharedAccount>,
    pages: BTreeMap<(LinkedId, u8), SharedContacts>,
    sightings: BTreeMap<(LinkedId, LinkedId), SharedSighting>,
}

// Merging.
impl SharedLinks {
    /// Takes in a piece, whose ranges were checked. True if it was news.
    pub fn merge(&mut self, piece: SharedPiece) -> bool {
        match piece {
            SharedPiece::Account(account) => self.merge_account(*account),
            SharedPiece::Contacts(page) => self.merge_page(page),
            SharedPiece::Sighting(seen) => self.merge_sighting(*seen),
        }
    }

    /// Takes in several; gives those that were news.
    pub fn merge_all(&mut self, pieces: impl IntoIterator<Item = SharedPiece>) -> Vec<SharedPiece> {
        pieces.into_iter().filter(|piece| self.merge(piece.clone())).collect()
    }

    fn merge_account(&mut self, account: SharedAccount) -> bool {
        let rank = |account: &SharedAccount| (account.link, account.is_removed, account.version);
        if let Some(known) = self.accounts.get(&account.id) {
            if (rank(known), wire::encode(known)) >= (rank(&account), wire::encode(&account)) {
                return false;
            }
        } else if !account.is_removed && self.live().count() >= LINKED_MAX {
            return false;
        }
        let id = account.id.clone();
        self.accounts.insert(id.clone(), account);
        self.sweep(&id);
        while self.accounts.len() > SHARED_ACCOUNTS_MAX {
            let removed = self.accounts.values().filter(|account| account.is_removed);
            let Some(oldest) = removed.min_by_key(|account| account.link).map(|account| account.id.clone()) else { break };
            self.accounts.remove(&oldest);
            if oldest == id {
                return false;
            }
        }
        true
    }

    fn merge_page(&mut self, page: SharedContacts) -> bool {
        if !self.counts(&page.account, page.link) {
            return false;
        }
        let key = (page.account.clone(), page.page);
        let rank = |page: &SharedContacts| (page.link, page.version);
        let known = self.pages.get(&key);
        if known.is_some_and(|known| (rank(known), wire::encode(known)) >= (rank(&page), wire::encode(&page))) {
            return false;
        }
        let account = page.account.clone();
        self.pages.insert(key, page);
        self.sweep(&account);
        true
    }

    fn merge_sighting(&mut self, seen: SharedSighting) -> bool {
        if !self.counts(&seen.account, seen.link) || self.is_void(&seen) {
            return false;
        }
        let key = (seen.account.clone(), seen.place.clone());
        let rank = |seen: &SharedSighting| (seen.link, seen.sighting.read_at, seen.sighting.association.is_some());
        let known = self.sightings.get(&key);
        if known.is_some_and(|known| (rank(known), wire::encode(known)) >= (rank(&seen), wire::encode(&seen))) {
            return false;
        }
        self.sightings.insert(key.clone(), seen);
        if self.sightings.len() > SHARED_SIGHTINGS_MAX {
            let oldest =
                self.sightings.iter().min_by_key(|(key, seen)| (seen.sighting.read_at, *key)).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return true };
            self.sightings.remove(&oldest);
            return oldest != key;
        }
        true
    }

    /// Whether something of this link of an account counts, or will when the account is heard of.
    fn counts(&self, account: &LinkedId, link: u64) -> bool {
        match self.accounts.get(account) {
            Some(known) => link > known.link || (link == known.link && !known.is_removed),
            None => self.waiting(account) || self.accounts.len() + self.unheard() < SHARED_ACCOUNTS_MAX,
        }
    }

    fn waiting(&self, account: &LinkedId) -> bool {
        self.pages.range((account.clone(), 0)..).next().is_some_and(|((known, _), _)| known == account)
    }

    /// Accounts of which something came before they were heard of.
    fn unheard(&self) -> usize {
        let of_pages = self.pages.keys().map(|(account, _)| account);
        let all: BTreeSet<&LinkedId> = of_pages.chain(self.sightings.keys().map(|(account, _)| account)).collect();
        all.into_iter().filter(|account| !self.accounts.contains_key(*account)).count()
    }

    /// The page of the sighting's place doesn't have it, and is newer.
    fn is_void(&self, seen: &SharedSighting) -> bool {
        let page = self.pages.get(&(seen.account.clone(), page_of(&seen.place)));
        page.is_some_and(|page| {
            let has_it = page.contacts.binary_search_by(|(id, _)| id.cmp(&seen.place)).is_ok();
            page.link == seen.link && !has_it && page.version >= seen.sighting.read_at.0
        })
    }

    /// Forgets what doesn't count any more of an account.
    fn sweep(&mut self, account: &LinkedId) {
        let Some(known) = self.accounts.get(account) else { return };
        let (link, is_removed) = (known.link, known.is_removed);
        let is_over = |of: &LinkedId, of_link: u64| of == account && (of_link < link || (of_link == link && is_removed));
        self.pages.retain(|(of, _), page| !is_over(of, page.link));
        let void: Vec<(LinkedId, LinkedId)> = self
            .sightings
            .range((account.clone(), account.clone())..)
            .chain(self.sightings.range(..(account.clone(), account.clone())))
            .filter(|((of, _), seen)| of == account && (is_over(of, seen.link) || self.is_void(seen)))
            .map(|(key, _)| key.clone())
            .collect();
        void.iter().for_each(|key| drop(self.sightings.remove(key)));
    }
}

// Reading.
impl SharedLinks {
    /// Accounts that are linked.
    pub fn live(&self) -> impl Iterator<Item = &SharedAccount> {
        self.accounts.values().filter(|account| !account.is_removed)
    }

    /// An account, linked or not any more.
    #[must_use]
    pub fn account(&self, id: &LinkedId) -> Option<&SharedAccount> {
        self.accounts.get(id)
    }

    /// An account that is linked.
    #[must_use]
    pub fn linked(&self, id: &LinkedId) -> Option<&SharedAccount> {
        self.account(id).filter(|account| !account.is_removed)
    }

    /// The contact list of an account that is linked.
    #[must_use]
    pub fn list(&self, id: &LinkedId) -> BTreeMap<LinkedId, Option<String>> {
        let Some(link) = self.linked(id).map(|account| account.link) else { return BTreeMap::new() };
        let pages = (0..PAGES).filter_map(|page| self.pages.get(&(id.clone(), page))).filter(|page| page.link == link);
        pages.flat_map(|page| page.contacts.iter().cloned()).collect()
    }

    /// What was seen at places of an account's contacts, and by which carrier.
    pub fn sightings<'a>(&'a self, id: &'a LinkedId) -> impl Iterator<Item = (&'a LinkedId, &'a Sighting, Carrier)> {
        let link = self.linked(id).map(|account| account.link);
        let of_account = self.sightings.values().filter(move |seen| seen.account == *id && Some(seen.link) == link);
        of_account.map(|seen| (&seen.place, &seen.sighting, seen.carrier()))
    }

    /// Everything, for the vault.
    pub fn pieces(&self) -> impl Iterator<Item = SharedPiece> {
        let accounts = self.accounts.values().map(|account| SharedPiece::Account(Box::new(account.clone())));
        let pages = self.pages.values().map(|page| SharedPiece::Contacts(page.clone()));
        let sightings = self.sightings.values().map(|seen| SharedPiece::Sighting(Box::new(seen.clone())));
        accounts.chain(pages).chain(sightings)
    }
}

/// What the holder says of an account.
#[derive(Clone, Debug)]
pub struct Held<'a> {
    /// The account.
    pub id: &'a LinkedId,
    /// The device that has its login: this one.
    pub holder: DeviceKey,
    /// Its contacts are shown nothing but tokens.
    pub is_token_only: bool,
    /// What this user says of it.
    pub association: Option<&'a Signed<Association>>,
    /// What shows it, where that stands by itself.
    pub proof: Option<SharedProof>,
    /// Its contact list; `None` while it isn't known.
    pub list: Option<&'a BTreeMap<LinkedId, Option<String>>>,
    /// What was seen at contacts' places, by place, and by which carrier.
    pub sightings: Vec<(&'a LinkedId, &'a Sighting, Carrier)>,
}

// Writing.
impl SharedLinks {
    /// A new link begins: the account is held by a device now, whoever has held it before.
    pub fn begin(&mut self, id: &LinkedId, holder: DeviceKey, is_token_only: bool, now: UnixTime) -> Option<SharedPiece> {
        let link = now.0.max(self.account(id).map_or(0, |known| known.link.saturating_add(1)));
        let account = SharedAccount {
            id: id.clone(),
            link,
            is_removed: false,
            version: 1,
            holder,
            is_token_only,
            association: None,
            proof: None,
            extensions: Extensions::none(),
        };
        self.put(SharedPiece::Account(Box::new(account)))
    }

    /// The link of an account ends.
    pub fn end(&mut self, id: &LinkedId) -> Option<SharedPiece> {
        let known = self.linked(id)?;
        let version = known.version.saturating_add(1);
        let ended = SharedAccount { is_removed: true, version, association: None, proof: None, ..known.clone() };
        self.put(SharedPiece::Account(Box::new(ended)))
    }

    /// What has changed since the holder said it last; nothing for an account that it doesn't hold.
    pub fn update(&mut self, held: &Held<'_>, now: UnixTime) -> Vec<SharedPiece> {
        let Some(known) = self.linked(held.id).filter(|known| known.holder == held.holder).cloned() else { return Vec::new() };
        let mut news = Vec::new();
        let is_said_anew = known.association.as_ref() != held.association || known.proof != held.proof;
        if is_said_anew || known.is_token_only != held.is_token_only {
            let account = SharedAccount {
                version: known.version.saturating_add(1),
                is_token_only: held.is_token_only,
                association: held.association.cloned(),
                proof: held.proof.clone(),
                ..known.clone()
            };
            news.extend(self.put(SharedPiece::Account(Box::new(account))));
        }
        if let Some(list) = held.list {
            news.extend(self.update_list(held.id, known.link, list, now));
        }
        for (place, sighting, by) in &held.sightings {
            news.extend(self.update_sighting(held.id, known.link, (place, *by), sighting));
        }
        news
    }

    fn update_list(
        &mut self,
        id: &LinkedId,
        link: u64,
        list: &BTreeMap<LinkedId, Option<String>>,
        now: UnixTime,
    ) -> Vec<SharedPiece> {
        let mut pages: Vec<Vec<(LinkedId, Option<String>)>> = vec![Vec::new(); usize::from(PAGES)];
        for (contact, name) in list {
            if let Some(page) = pages.get_mut(usize::from(page_of(contact))) {
                page.push((contact.clone(), name.as_ref().map(|name| cut(name))));
            }
        }
        let mut news = Vec::new();
        for (page, mut contacts) in (0..PAGES).zip(pages) {
            let known = self.pages.get(&(id.clone(), page)).filter(|known| known.link == link);
            let version = known.map_or(0, |known| known.version.saturating_add(1)).max(now.0);
            if known.map_or(contacts.is_empty(), |known| known.contacts == contacts) {
                continue;
            }
            let piece = |contacts| {
                let (account, extensions) = (id.clone(), Extensions::none());
                SharedContacts { account, link, page, version, contacts, extensions }
            };
            while wire::encoded_len(&piece(contacts.clone())) > PAGE_BYTES_MAX {
                contacts.truncate(contacts.len() * 3 / 4);
            }
            let is_same = known.is_some_and(|known| known.contacts == contacts);
            if !is_same {
                news.extend(self.put(SharedPiece::Contacts(piece(contacts))));
            }
        }
        news
    }

    fn update_sighting(
        &mut self,
        id: &LinkedId,
        link: u64,
        (place, by): (&LinkedId, Carrier),
        sighting: &Sighting,
    ) -> Option<SharedPiece> {
        let known = self.sightings.get(&(id.clone(), place.clone())).filter(|known| known.link == link);
        let is_news = match known {
            None => sighting.association.is_some(),
            Some(known) => {
                let before = &known.sighting;
                let is_same = before.association == sighting.association && before.leave == sighting.leave;
                let is_again = sighting.association.is_some() && sighting.read_at.secs_since(before.read_at) >= SEEN_AGAIN_SECS;
                !is_same || is_again
            }
        };
        if !is_news {
            return None;
        }
        let (account, place, sighting) = (id.clone(), place.clone(), sighting.clone());
        self.put(SharedPiece::Sighting(Box::new(SharedSighting {
            account,
            link,
            place,
            sighting,
            extensions: SharedSighting::by(by),
        })))
    }

    fn put(&mut self, piece: SharedPiece) -> Option<SharedPiece> {
        self.merge(piece.clone()).then_some(piece)
    }
}

fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
}
