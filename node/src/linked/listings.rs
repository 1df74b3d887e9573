//! Listings in the directory: the own ones are kept there, and others are looked up, for `halloo link find` and for dials that nothing else leads to.
//!
//! An account is listed if its system has no place where its contacts could look, unless its user says otherwise. The place follows from a slow hash ([`super::slow`]), so everything here waits for that first.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use halloo_protocol::identity::UserId;
use halloo_protocol::kademlia::{ListingReport, ListingSearch, QueryId};
use halloo_protocol::key::IdentityKey;
use halloo_protocol::linked::{
    Association, Carrier, FoundListing, LinkedId, Listing, ListingParams, PlacedListing, Sighting, System, verify_proof,
};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Signed};
use tracing::{debug, info, warn};

use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::calls::{CallError, CallOutcome, DialOptions};
use crate::handle::files::{FileError, FileSource, FileView};
use crate::handle::linked::{FoundProof, FoundUser, LinkError, LinkFound, LinkedAccount, LinkedCallee, LinkedClaim};
use crate::handle::messages::{MessageError, MessageStatus};
use crate::handle::problem::UsernameError;
use crate::store::StoreError;

const LISTED: &str = "linked listed";

/// How often a listing is brought to its replicas anew.
const REFRESH: Duration = Duration::from_secs(3_600);

/// First and longest pause after nobody took it.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(600);

/// Times that replicas are told of a listing that is gone; it ends by itself within a day.
const GONE_TRIES: u32 = 8;

/// Searches at once.
const FINDS_MAX: usize = 16;

/// How long a search may take, its hash included.
const FIND_AT_MOST: Duration = Duration::from_secs(60);

/// The same before a call that can go another way.
const FIND_BEFORE_CALL: Duration = Duration::from_secs(4);

/// People found who are remembered, and how long: a few messages and files later they are looked for again.
const FOUND_MAX: usize = 64;
const FOUND_FOR: Duration = Duration::from_secs(3_600);

/// A listing of this user.
#[derive(Debug)]
struct OwnListing {
    next_at: Instant,
    /// It is on its way.
    query: Option<QueryId>,
    serial: u64,
    failures: u32,
    /// Replicas that have it.
    replicas: usize,
    /// It is being taken away.
    is_gone: bool,
}

#[derive(Debug)]
enum FindAim {
    Command(Reply<LinkFound, LinkError>),
    Message(String, Reply<MessageStatus, MessageError>),
    File(FileSource, Reply<FileView, FileError>),
    Dial(Box<DialOptions>, Reply<CallOutcome, CallError>),
}

#[derive(Debug)]
struct Find {
    id: LinkedId,
    aim: FindAim,
    query: Option<QueryId>,
    until: Instant,
}

/// Listings, own and sought.
#[derive(Debug, Default)]
pub(super) struct Listings {
    own: BTreeMap<LinkedId, OwnListing>,
    finds: Vec<Find>,
    /// Who was proved to be somebody elsewhere, and when; for those who are in no contact list.
    found: VecDeque<(LinkedId, Association, Instant)>,
    /// What the user has said of accounts.
    listed: BTreeMap<LinkedId, bool>,
}

/// Where a call goes that is for nobody in a linked system.
#[derive(Debug, PartialEq, Eq)]
enum OtherWay {
    /// To the telephone.
    Gateway,
    /// To a user, by this name here.
    User(String),
}

/// How long the directory is asked whom a call is for; `None`: it isn't. A call that can go another way doesn't wait for a slow hash: only whose hash is known, as those of contacts are by and
/// by, is looked for.
const fn find_for(is_on: bool, has_other_way: bool, is_hashed: bool) -> Option<Duration> {
    match (is_on, has_other_way, is_hashed) {
        (false, ..) | (true, true, false) => None,
        (true, true, true) => Some(FIND_BEFORE_CALL),
        (true, false, _) => Some(FIND_AT_MOST),
    }
}

/// Not where contacts have a place to look, and not where there are few enough addresses to try them all.
fn is_listed_by_default(id: &LinkedId) -> bool {
    id.system() != System::Xmpp && !id.is_guessable()
}

// The own ones.
impl EventLoop {
    pub(super) fn listings_start(&mut self) {
        match self.store.read::<_, StoreError>(|view| view.setting_value::<Vec<(LinkedId, bool)>>(LISTED)) {
            Ok(listed) => self.linked.listings.listed = listed.unwrap_or_default().into_iter().collect(),
            Err(error) => warn!(%error, "which linked accounts are listed isn't read"),
        }
    }

    /// Whether an account is in the directory, for whoever knows its address.
    pub(super) fn is_listed(&self, id: &LinkedId) -> bool {
        let by_default = is_listed_by_default(id);
        let is_wanted = self.linked.listings.listed.get(id).copied().unwrap_or(by_default);
        is_wanted && !self.linked.token_only.contains(id) && self.carriers().has(Carrier::Directory)
    }

    /// Remembers what the user says of an account; `None`: as by default.
    pub(super) fn set_listed(&mut self, id: &LinkedId, is_listed: Option<bool>) {
        match is_listed {
            Some(is_listed) => drop(self.linked.listings.listed.insert(id.clone(), is_listed)),
            None => drop(self.linked.listings.listed.remove(id)),
        }
        let listed: Vec<(LinkedId, bool)> =
            self.linked.listings.listed.iter().map(|(id, is_listed)| (id.clone(), *is_listed)).collect();
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(LISTED, &listed)) {
            warn!(%error, "which linked accounts are listed isn't written");
        }
        self.listing_changed(id);
    }

    pub(super) fn set_listing(&mut self, account: &str, is_listed: bool, reply: Reply<LinkedAccount, LinkError>) {
        let known = account.parse::<LinkedId>().ok().filter(|id| self.linked.accounts.contains_key(id));
        let Some(id) = known else {
            return reply.send(Err(LinkError::Unknown { account: account.chars().take(128).collect() }));
        };
        if is_listed && self.linked.token_only.contains(&id) {
            let reason = "an account with tokens is shown to nobody".to_owned();
            return reply.send(Err(LinkError::Options { reason }));
        }
        self.set_listed(&id, Some(is_listed));
        let Some(account) = self.linked.accounts.get(&id) else { return };
        reply.send(Ok(self.account_view(account)));
    }

    /// What is to lie in the directory is something else now: said at the next tick.
    pub(super) fn listing_changed(&mut self, id: &LinkedId) {
        if let Some(own) = self.linked.listings.own.get_mut(id) {
            (own.next_at, own.failures) = (Instant::now(), 0);
        }
    }

    pub(super) fn all_listings_changed(&mut self) {
        let now = Instant::now();
        self.linked.listings.own.values_mut().for_each(|own| (own.next_at, own.failures) = (now, 0));
    }

    /// What an account is listed with, if it is to be.
    fn listing_of(&self, id: &LinkedId) -> Option<Listing> {
        let association = self.linked.accounts.get(id)?.stored.association.clone()?;
        if !self.is_listed(id) {
            return None;
        }
        let proof = self.own_proof(id).unwrap_or_default();
        let leave = self.shown_with(association.clone()).leave;
        Some(Listing { association, proof, leave, extensions: Extensions::none() })
    }

    /// Replicas that have an account's listing.
    pub(super) fn listing_replicas(&self, id: &LinkedId) -> Option<u32> {
        let own = self.linked.listings.own.get(id).filter(|own| !own.is_gone && own.replicas > 0)?;
        u32::try_from(own.replicas).ok()
    }

    pub(super) fn listings_tick(&mut self, now: Instant) {
        let accounts: Vec<LinkedId> = self.linked.accounts.keys().cloned().collect();
        for id in accounts {
            let is_wanted = self.listing_of(&id).is_some();
            let own = &mut self.linked.listings.own;
            match own.get_mut(&id) {
                Some(own) if own.is_gone && is_wanted => (own.is_gone, own.next_at) = (false, now),
                None if is_wanted => {
                    let fresh = OwnListing { next_at: now, query: None, serial: 0, failures: 0, replicas: 0, is_gone: false };
                    own.insert(id, fresh);
                }
                _ => {}
            }
        }
        let is_due = |own: &OwnListing| own.query.is_none() && own.next_at <= now;
        let due: Vec<LinkedId> =
            self.linked.listings.own.iter().filter(|(_, own)| is_due(own)).map(|(id, _)| id.clone()).collect();
        due.iter().for_each(|id| self.bring_listing(id));
        let (over, waiting): (Vec<_>, Vec<_>) = self.linked.listings.finds.drain(..).partition(|find| find.until <= now);
        self.linked.listings.finds = waiting;
        over.into_iter().for_each(|find| self.find_failed(find, "it takes too long"));
    }

    fn bring_listing(&mut self, id: &LinkedId) {
        let Some(slow) = self.slow_of(id) else { return };
        let listing = self.listing_of(id);
        let now = self.now();
        let nonce = self.random();
        let Some(own) = self.linked.listings.own.get_mut(id) else { return };
        own.is_gone = listing.is_none();
        let params = ListingParams { writer: self.identity.chain().clone(), last_serial: own.serial, now: now.unix, nonce };
        match PlacedListing::sign(params, &slow, listing.as_ref(), self.identity.device_key()) {
            Ok(signed) => {
                own.serial = signed.unverified().serial;
                own.query = Some(self.directory.machine.store_listing(now, &self.trust, &signed));
            }
            Err(error) => {
                warn!(account = %id, %error, "not listed in the directory");
                own.next_at = now.instant + REFRESH;
            }
        }
    }

    pub(crate) fn listing_stored(&mut self, query: QueryId, report: &ListingReport) {
        let found = self.linked.listings.own.iter_mut().find(|(_, own)| own.query == Some(query));
        let Some((id, own)) = found else { return };
        own.query = None;
        own.replicas = report.accepted;
        let is_taken = report.accepted > 0;
        if is_taken {
            debug!(account = %id, replicas = report.accepted, is_gone = own.is_gone, "listed in the directory");
            (own.failures, own.next_at) = (0, Instant::now() + REFRESH);
        } else {
            debug!(account = %id, refused = ?report.refused, failed = report.failed, "nobody takes a listing");
            own.failures = own.failures.saturating_add(1);
            let pause = (RETRY_MIN * 2_u32.saturating_pow(own.failures.min(10))).min(RETRY_MAX);
            own.next_at = Instant::now() + pause;
        }
        if own.is_gone && (is_taken || own.failures >= GONE_TRIES) {
            let id = id.clone();
            self.linked.listings.own.remove(&id);
        }
    }
}

// Those of others.
impl EventLoop {
    pub(super) fn find_linked(&mut self, text: &str, reply: Reply<LinkFound, LinkError>) {
        match text.parse::<LinkedId>() {
            Ok(id) => self.begin_find(id, FindAim::Command(reply)),
            Err(error) => reply.send(Err(error.into())),
        }
    }

    /// A dial to somebody of whom no contact list says who they are here: by the directory, if that is switched on and nobody waits for it in vain.
    pub(super) fn dial_by_directory(
        &mut self,
        id: LinkedId,
        options: DialOptions,
        reply: Reply<CallOutcome, CallError>,
        otherwise: String,
    ) {
        let is_on = self.carriers().has(Carrier::Directory);
        match find_for(is_on, self.other_way(&id).is_some(), self.linked.slow.known(&id).is_some()) {
            Some(at_most) => self.begin_find_for(id, FindAim::Dial(Box::new(options), reply), at_most),
            None => self.dial_otherwise(&id, options, reply, otherwise),
        }
    }

    /// Where a call to an address goes that is nobody's whom contact lists or the directory know.
    fn other_way(&self, id: &LinkedId) -> Option<OtherWay> {
        match id.system() {
            System::Phone if self.settings.calls.telephone.is_some() => Some(OtherWay::Gateway),
            // The address of a user here, as phones dial it.
            System::Sip => {
                let user = id.address().to_lowercase();
                self.labels.parse(&user).is_ok().then_some(OtherWay::User(user))
            }
            _ => None,
        }
    }

    /// Neither contact lists nor the directory say whom a call to an address is for, which `reason` says in words.
    pub(super) fn dial_otherwise(
        &mut self,
        id: &LinkedId,
        mut options: DialOptions,
        reply: Reply<CallOutcome, CallError>,
        reason: String,
    ) {
        match self.other_way(id) {
            Some(OtherWay::User(user)) => options.users = vec![user],
            Some(OtherWay::Gateway) => {}
            // There is no gateway, which is said then.
            None if id.system() == System::Phone => {}
            None => return reply.send(Err(CallError::NotLinked { id: id.to_string(), reason })),
        }
        debug!(reason, "called as if it were no contact in a linked system");
        self.dial_as_said(options, reply);
    }

    /// Somebody elsewhere of whom nothing says who they are here, so that the directory has to be asked.
    pub(crate) fn sought_in_directory(&self, text: &str) -> Option<LinkedId> {
        let id = text.parse::<LinkedId>().ok()?;
        (self.carriers().has(Carrier::Directory) && self.linked_user(text).is_none()).then_some(id)
    }

    /// A message for somebody whom the directory has to name first.
    pub(crate) fn write_by_directory(&mut self, id: LinkedId, text: String, reply: Reply<MessageStatus, MessageError>) {
        self.begin_find(id, FindAim::Message(text, reply));
    }

    /// The same for a file.
    pub(crate) fn offer_by_directory(&mut self, id: LinkedId, source: FileSource, reply: Reply<FileView, FileError>) {
        self.begin_find(id, FindAim::File(source, reply));
    }

    /// Who was found for an identity elsewhere, lately; nobody whom its place denies by now.
    pub(super) fn found_lately(&self, id: &LinkedId) -> Option<&Association> {
        let found = self.linked.listings.found.iter().find(|(found, _, at)| found == id && at.elapsed() < FOUND_FOR);
        found.map(|(_, said, _)| said).filter(|said| !self.is_denied_by_place(id, said))
    }

    /// Whom the directory named lately under another key than this one is looked for again.
    pub(super) fn forget_found(&mut self, user: &UserId, identity: &IdentityKey) {
        self.linked.listings.found.retain(|(_, said, _)| said.user != *user || said.identity == *identity);
    }

    /// Whether what was seen of an identity speaks against what a listing says: the owner of the account has the last word, wherever it was seen.
    fn is_denied_by_place(&self, id: &LinkedId, said: &Association) -> bool {
        let now = self.now().unix;
        let mut seen = self.linked.known.iter().filter(|((_, place), _)| place == id);
        seen.any(|(_, sighting)| is_against(sighting, said, now))
    }

    fn begin_find(&mut self, id: LinkedId, aim: FindAim) {
        self.begin_find_for(id, aim, FIND_AT_MOST);
    }

    fn begin_find_for(&mut self, id: LinkedId, aim: FindAim, at_most: Duration) {
        let mut find = Find { id, aim, query: None, until: Instant::now() + at_most };
        if !self.carriers().has(Carrier::Directory) {
            return self.find_failed(find, "the directory is switched off: linked.carriers");
        }
        if self.linked.listings.finds.len() >= FINDS_MAX {
            return self.find_failed(find, "too many are sought at once");
        }
        if let Some(slow) = self.slow_of(&find.id) {
            let now = self.now();
            find.query = Some(self.directory.machine.find_listings(now, slow.place));
        }
        self.linked.listings.finds.push(find);
    }

    /// A slow hash is known, or can't be.
    pub(super) fn listings_slow_known(&mut self, id: &LinkedId) {
        self.listing_changed(id);
        let waits = |find: &Find| find.id == *id && find.query.is_none();
        if !self.linked.listings.finds.iter().any(waits) {
            return;
        }
        let slow = self.linked.slow.known(id).cloned();
        let now = self.now();
        let query = slow.map(|slow| self.directory.machine.find_listings(now, slow.place));
        self.linked.listings.finds.iter_mut().filter(|find| waits(find)).for_each(|find| find.query = query);
    }

    pub(crate) fn listings_found(&mut self, query: QueryId, search: &ListingSearch) {
        let is_it = |find: &Find| find.query == Some(query);
        let (done, waiting): (Vec<_>, Vec<_>) = self.linked.listings.finds.drain(..).partition(is_it);
        self.linked.listings.finds = waiting;
        for find in done {
            if search.answered == 0 {
                self.find_failed(find, "no node of the directory answers");
                continue;
            }
            let Some(slow) = self.slow_of(&find.id) else { continue };
            let now = self.now().unix;
            let found = PlacedListing::open_all(&search.listings, &find.id, &slow, now, &self.trust);
            debug!(answered = search.answered, listings = search.listings.len(), hold = found.len(), "listings found");
            match find.aim {
                FindAim::Command(reply) => reply.send(Ok(self.found_view(&find.id, &found, search))),
                FindAim::Dial(options, reply) => self.dial_found(find.id, &found, *options, reply),
                FindAim::Message(text, reply) => match self.take_found(&find.id, &found) {
                    Ok(_) => self.send_message_to(&find.id.to_string(), text, reply),
                    Err(reason) => reply.send(Err(MessageError::Username(unknown(&find.id, reason)))),
                },
                FindAim::File(source, reply) => match self.take_found(&find.id, &found) {
                    Ok(_) => self.send_file_to(&find.id.to_string(), source, reply),
                    Err(reason) => reply.send(Err(FileError::Username(unknown(&find.id, reason)))),
                },
            }
        }
    }

    fn find_failed(&mut self, find: Find, reason: &str) {
        let reason = reason.to_owned();
        match find.aim {
            FindAim::Message(_, reply) => reply.send(Err(MessageError::Username(unknown(&find.id, &reason)))),
            FindAim::File(_, reply) => reply.send(Err(FileError::Username(unknown(&find.id, &reason)))),
            FindAim::Command(reply) => reply.send(Err(LinkError::NotFound { id: find.id.to_string(), reason })),
            // Whoever has hung up meanwhile calls nobody.
            FindAim::Dial(_, reply) if reply.is_closed() => {}
            FindAim::Dial(options, reply) => self.dial_otherwise(&find.id, *options, reply, reason),
        }
    }

    /// What shows that what a listing says is so; `None` if nothing does.
    fn listing_proof(&self, id: &LinkedId, found: &FoundListing) -> Option<FoundProof> {
        let said = found.association.unverified();
        if self.is_denied_by_place(id, said) {
            return None;
        }
        let now = self.now().unix;
        let is_shown = self.linked.known.iter().any(|((_, place), sighting)| place == id && sighting.holds(now).is_ok());
        if self.proved_at(found).is_some() {
            Some(FoundProof::Proof)
        } else if is_shown {
            Some(FoundProof::Place)
        } else {
            let is_certified = found.is_certified && self.carriers().has(Carrier::Certificate);
            is_certified.then_some(FoundProof::Certificate)
        }
    }

    /// When the proof in a listing was made, if it stands by itself and is taken.
    fn proved_at(&self, found: &FoundListing) -> Option<UnixTime> {
        let said = found.association.unverified();
        verify_proof(said, Some(&found.proof), self.trusted_proofs(), self.now().unix).ok()
    }

    fn found_view(&self, id: &LinkedId, found: &[FoundListing], search: &ListingSearch) -> LinkFound {
        let users = found.iter().map(|listing| {
            let said = listing.association.unverified();
            FoundUser {
                username: self.labels.display(&said.user),
                identity: said.identity.to_string(),
                proved_by: self.listing_proof(id, listing),
            }
        });
        LinkFound { id: id.to_string(), users: users.collect(), answered: u32::try_from(search.answered).unwrap_or(u32::MAX) }
    }

    /// Whom the directory proves to be somebody elsewhere, remembered; nobody by a mere claim.
    fn take_found(&mut self, id: &LinkedId, found: &[FoundListing]) -> Result<Association, &'static str> {
        let proved: Vec<&FoundListing> = found.iter().filter(|listing| self.listing_proof(id, listing).is_some()).collect();
        let listing = match (proved.as_slice(), found.len()) {
            ([listing], _) => *listing,
            ([], 0) => return Err("nothing says who that is here: neither a contact list of a linked account nor the directory"),
            ([], _) => return Err("the directory names somebody who doesn't prove it: halloo link find"),
            _ => return Err("the directory names several users for it: halloo link find"),
        };
        let said = listing.association.unverified().clone();
        self.note_listing(id, listing);
        let found = &mut self.linked.listings.found;
        found.retain(|(known, _, at)| known != id && at.elapsed() < FOUND_FOR);
        found.truncate(FOUND_MAX - 1);
        found.push_front((id.clone(), said.clone(), Instant::now()));
        Ok(said)
    }

    /// Calls whom the directory proves to be somebody elsewhere; nobody by a mere claim.
    fn dial_found(
        &mut self,
        id: LinkedId,
        found: &[FoundListing],
        mut options: DialOptions,
        reply: Reply<CallOutcome, CallError>,
    ) {
        if reply.is_closed() {
            return;
        }
        let said = match self.take_found(&id, found) {
            Ok(said) => said,
            Err(reason) => return self.dial_otherwise(&id, options, reply, reason.to_owned()),
        };
        info!(id = %id, "called by what the directory says");
        let claim = self.claim_towards(&id);
        let name = self.account_with(&id).and_then(|account| self.linked.lists.get(&account)?.get(&id).cloned()?);
        options.linked =
            Some(Box::new(LinkedCallee { user: said.user, identity: Some(said.identity), name, place: id, claim, call: None }));
        self.handle_dial(options, reply);
    }

    /// What the own account with somebody in its list says in a call to them.
    fn claim_towards(&self, id: &LinkedId) -> LinkedClaim {
        let account = self.account_with(id);
        account.and_then(|account| self.own_claim(&account, id).ok()).unwrap_or(LinkedClaim::Nothing)
    }

    /// A proved listing of a contact counts as if it had been seen at their place, where nothing was: with it comes the leave to wake them.
    fn note_listing(&mut self, id: &LinkedId, listing: &FoundListing) {
        let Some(account) = self.account_with(id) else { return };
        let key = (account, id.clone());
        let is_known = self.linked.known.get(&key).is_some_and(|sighting| sighting.association.is_some());
        // By a certificate they are called this time, and nothing is known of the account's own place.
        let proof = self.listing_proof(id, listing);
        if !is_known && proof.is_some_and(|proof| proof != FoundProof::Certificate) {
            let read_at = self.now().unix;
            let (association, leave) = (Some(listing.association.clone()), listing.leave.clone());
            let proved_at = self.proved_at(listing);
            self.linked.known.insert(key.clone(), Sighting { read_at, association, leave, proved_at });
            self.linked.seen_by.insert(key, Carrier::Directory);
            self.keep_sightings_soon();
        }
    }
}

/// Whether a sighting speaks against what is said elsewhere of the same identity: it shows another user, or that this one has taken it back since. Of others a word that was taken back says
/// nothing: the identity may be somebody else's by now.
fn is_against(sighting: &Sighting, said: &Association, now: UnixTime) -> bool {
    let Some(shown) = sighting.association.as_ref().map(Signed::unverified) else { return false };
    let is_same = shown.user == said.user && shown.identity == said.identity;
    match sighting.holds(now) {
        Ok(_) => !is_same,
        Err(_) => shown.is_revoked && is_same && said.serial <= shown.serial,
    }
}

/// Somebody elsewhere isn't known here.
fn unknown(id: &LinkedId, reason: &str) -> UsernameError {
    UsernameError::Invalid { username: id.to_string(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::key::SecretKey;
    use halloo_protocol::linked::{AssociationParams, ProofMethod};

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    #[test]
    fn a_call_that_goes_another_way_waits_for_no_hash_and_not_for_long() {
        for (is_on, has_other_way, is_hashed, found) in [
            (true, false, false, Some(60)),
            (true, false, true, Some(60)),
            (true, true, true, Some(4)),
            (true, true, false, None),
            (false, false, true, None),
            (false, true, true, None),
        ] {
            let found = found.map(Duration::from_secs);
            assert_eq!(find_for(is_on, has_other_way, is_hashed), found, "{is_on} {has_other_way} {is_hashed}");
        }
    }

    #[test]
    fn the_place_has_the_last_word_also_when_it_was_taken_back() {
        let linked: LinkedId = "mailto:bob@there.example".parse().expect("an address");
        let (key, other) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let says = |key: &SecretKey, last_serial| {
            let user = UserId::Key(IdentityKey(key.public()));
            let method = ProofMethod::AUTHORITY_WORD;
            Association::sign(AssociationParams { user, linked: linked.clone(), method, last_serial, now: NOW }, key)
        };
        let seen =
            |association: &Signed<Association>| Sighting { association: Some(association.clone()), ..Sighting::nothing(NOW) };
        let said = says(&key, 0);
        let is_against = |seen: &Sighting, said: &Signed<Association>, now| is_against(seen, said.unverified(), now);
        assert!(!is_against(&Sighting::nothing(NOW), &said, NOW) && !is_against(&seen(&said), &said, NOW));
        let others = seen(&says(&other, 0));
        assert!(is_against(&others, &said, NOW));
        let over = says(&other, 0).unverified().not_after.plus_secs(1);
        assert!(!is_against(&others, &said, over), "it says nothing any more");
        let revoked = Signed::sign(Association { is_revoked: true, serial: NOW.0 + 5, ..said.unverified().clone() }, &key);
        assert!(is_against(&seen(&revoked), &said, NOW), "taken back since");
        assert!(!is_against(&seen(&revoked), &says(&other, 0), NOW), "and may be somebody else's by now");
        assert!(!is_against(&seen(&revoked), &says(&key, NOW.0 + 9), NOW), "linked again");
    }
}
