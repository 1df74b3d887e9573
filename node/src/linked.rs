//! Linked systems: this user's accounts elsewhere, whose contacts can call here (`protocol/src/linked/` decides).
//!
//! 1. *Linking* ([`commands`]): a task ([`system`]) logs in to the account, then what this user says under their identity key is shown at its place.
//! 2. *Following*: the task tells of the contact list and its changes; every contact's place is looked at once a list is known, and now and then.
//! 3. *Calling* and *being called* ([`calls`]): by what was seen, and by a look at the place where that is old.
//!
//! Accounts, contact lists and sightings are in the database, passwords sealed ([`secret`]). What a list said counts as long as what was seen of those in it.
//!
//! Contacts elsewhere wake this user's devices with the key that stands beside the association; when one of them leaves, it is another ([`leave`]).

mod addresses;
mod asking;
mod book;
mod calls;
mod carddav;
mod certify;
mod commands;
mod http;
mod leave;
mod listings;
mod logins;
pub(crate) mod merge;
mod messages;
mod oidc;
mod own;
mod people;
mod presence;
mod registered;
mod secret;
mod signing;
mod slow;
mod system;
mod tokens;
mod told;
mod xmpp;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::call::CallId;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::IdentityKey;
use halloo_protocol::linked::{
    Association, AssociationParams, Carrier, ContactLists, IdentityMerge, KnownAssociations, LinkedId, LinkedLeave, ListEntry,
    ProofMethod, Providers, Readers, SharedLinks, Shown, Sighting, System,
};
use halloo_protocol::time::Now;
use halloo_protocol::wire::Signed;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

pub(crate) use self::addresses::AddressAsking;
pub(crate) use self::asking::OwnAsk;
pub(crate) use self::book::{BookNews, read_book_file};
pub(crate) use self::certify::Certifying;
pub(crate) use self::leave::LINKED_PART;
pub(crate) use self::logins::LoginNews;
pub(crate) use self::registered::SipNews;
pub(crate) use self::slow::SlowHashed;
use self::system::{Order, Run, Showing};
use crate::event_loop::EventLoop;
use crate::handle::Event;
use crate::store::StoreError;

/// Linked accounts of one user.
const ACCOUNTS_MAX: usize = 8;

/// Contacts taken of one account.
const CONTACTS_MAX: usize = 5_000;

/// Orders that may wait for an account's task; one more isn't carried out.
const ORDERS_MAX: usize = 64;

/// Sightings of associations kept; the oldest falls out.
const SIGHTINGS_MAX: usize = 2_000;

/// How often the places of all contacts are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(6 * 3_600);

/// Looks under way at once of those that nobody waits for: one that somebody waits for comes after these.
const LOOKS_AT_ONCE: usize = 1;

/// What was seen is written so long after a change, with what else has changed by then.
const KEEP_AFTER: Duration = Duration::from_secs(5);

/// When a place is told again what it didn't take.
const SHOW_AGAIN: Duration = Duration::from_secs(30);

const ACCOUNTS: &str = "linked accounts";
const READERS: &str = "linked readers";

/// Readers kept under one name, so that each fits what is read back.
const READERS_AT_ONCE: usize = 200;
const TOKEN_ONLY: &str = "linked token accounts";

/// What an account's task tells.
#[derive(Debug)]
pub(crate) struct LinkedNews {
    account: LinkedId,
    number: u64,
    what: News,
}

#[derive(Debug)]
pub(crate) enum News {
    /// Logged in: the contact list.
    Connected(Vec<ListEntry>),
    /// The contact list has changed.
    Changed(ListEntry),
    /// The association stands at the own place, or doesn't.
    Shown(Result<(), String>),
    /// What somebody's place shows.
    Seen { at: LinkedId, shown: Result<Option<Box<Shown>>, String> },
    /// An association is in somebody's presence, with or without leave.
    Present { at: LinkedId, shown: Box<Shown> },
    /// It isn't any more, which says nothing of whether it holds.
    NotPresent { at: LinkedId },
    /// A token for a call of ours.
    Issued { call: CallId, token: Result<String, String> },
    /// What a caller's server shows under their token.
    TokenShown { asked: Box<tokens::Asked>, shown: Result<Option<[u8; 32]>, String> },
    /// There is a newer proof of the account, encoded.
    Renewed(Vec<u8>),
    /// What has to be kept of the account to use it again, to be sealed.
    Secret(String),
    /// It isn't connected; it is tried again.
    Trouble(String),
}

/// An account as it is kept.
#[derive(Clone, Debug, Encode, Decode)]
struct StoredAccount {
    id: LinkedId,
    server: Option<String>,
    roots: Option<String>,
    is_plain: bool,
    /// The password, sealed.
    secret: Vec<u8>,
    /// What this user says of it; `None` until it was shown.
    association: Option<Signed<Association>>,
}

/// An account, and the task that keeps it connected.
#[derive(Debug)]
struct Account {
    stored: StoredAccount,
    number: u64,
    orders: mpsc::Sender<Order>,
    is_connected: bool,
    /// Its contact list is known, of this run.
    has_list: bool,
    trouble: Option<String>,
    /// What is being put at its place.
    showing: Option<Signed<Association>>,
    /// Who waits for the account to be linked, or unlinked.
    asked: Option<commands::Asked>,
    /// Contacts whose places are to be looked at.
    to_look: Vec<LinkedId>,
    looking: usize,
    look_all_at: Option<Instant>,
    /// When its place is told again what it wasn't told.
    show_again_at: Option<Instant>,
    /// The leave beside it, where another own device signs.
    leave: Option<LinkedLeave>,
}

fn xmpp_params(stored: &StoredAccount, password: zeroize::Zeroizing<String>) -> xmpp::XmppParams {
    xmpp::XmppParams {
        account: stored.id.clone(),
        server: stored.server.clone(),
        roots: stored.roots.as_ref().map(Into::into),
        is_plain: stored.is_plain,
        password,
    }
}

/// All that is known of linked systems.
#[derive(Debug, Default)]
pub(crate) struct LinkedState {
    accounts: BTreeMap<LinkedId, Account>,
    lists: ContactLists,
    known: KnownAssociations,
    /// The serials said last in this run: what is said anew after it was taken back goes above, within one second too.
    serials: BTreeMap<LinkedId, u64>,
    /// When what was seen is written, if it has changed.
    keep_at: Option<Instant>,
    /// Who has the key that stands beside the associations, by account.
    readers: BTreeMap<LinkedId, Readers>,
    key: leave::KeyTurn,
    /// Tasks started so far.
    runs: u64,
    calls: calls::Waiting,
    tokens: tokens::Tokens,
    renewing: leave::Renewing,
    /// Accounts that show nothing but tokens.
    token_only: BTreeSet<LinkedId>,
    /// Accounts that couldn't be used at the start: kept, for the next one.
    unusable: Vec<StoredAccount>,
    messages: messages::Looked,
    looked_up: messages::LookedUp,
    /// What own devices share.
    shared: SharedLinks,
    /// When they are told what has changed here.
    share_at: Option<Instant>,
    questions: asking::Questions,
    /// People blocked, by who they are there.
    denied: BTreeMap<LinkedId, UserId>,
    slow: slow::SlowHashes,
    listings: listings::Listings,
    certifications: certify::Certifications,
    /// What has shown what was seen, where it wasn't the place.
    seen_by: BTreeMap<(LinkedId, LinkedId), Carrier>,
    /// Whose presence shows it now.
    present: presence::Present,
    note_present_at: Option<Instant>,
    /// Providers whose tokens count.
    providers: Providers,
    /// What shows that own accounts are this user's, where that stands by itself.
    proofs: BTreeMap<LinkedId, Vec<u8>>,
    logins: logins::Logins,
    told: told::Told,
    /// Technical identities that have become part of others.
    merged: BTreeMap<IdentityKey, UserId>,
    /// How many of them each identity elsewhere has brought.
    merges_brought: BTreeMap<LinkedId, u8>,
    /// Whose chain was just verified.
    verified_merger: Option<(UserId, IdentityKey)>,
    /// The one that this user was.
    own_merge: Option<Signed<IdentityMerge>>,
    /// This user's address book: the contacts of own addresses.
    book: book::Book,
    registered: registered::Registered,
    /// What an authority sends codes by.
    code_ways: crate::roles::authority::CodeWays,
}

// Start, and the tasks.
impl EventLoop {
    /// Reads what was linked and connects.
    pub(crate) fn linked_start(&mut self) {
        self.slow_start();
        self.told_start();
        self.listings_start();
        self.certifications_start();
        self.logins_start();
        self.book_start();
        let read = self.store.read::<_, StoreError>(|view| {
            let accounts: Vec<StoredAccount> = view.setting_value(ACCOUNTS)?.unwrap_or_default();
            let token_only: Vec<LinkedId> = view.setting_value(TOKEN_ONLY)?.unwrap_or_default();
            Ok((accounts, token_only))
        });
        match read {
            Ok((accounts, token_only)) => {
                self.linked.token_only = token_only.into_iter().collect();
                for stored in accounts {
                    self.read_readers(&stored.id);
                    if let Err(reason) = self.connect_account(stored.clone(), None) {
                        warn!(account = %stored.id, reason, "a linked account can't be used");
                        self.linked.unusable.push(stored);
                    }
                }
            }
            Err(error) => warn!(%error, "linked accounts not read"),
        }
        self.read_merges();
        self.read_denied();
        self.shared_start();
        self.turn_key_if_somebody_left();
    }

    /// What isn't written yet is.
    pub(crate) fn linked_stop(&mut self) {
        if self.linked.keep_at.take().is_some() {
            self.keep_sightings();
        }
        self.keep_slow_hashes();
    }

    /// Starts the task of an account.
    fn connect_account(&mut self, stored: StoredAccount, asked: Option<commands::Asked>) -> Result<(), String> {
        let secret = secret::open(self.identity.device_key(), &stored.id, &stored.secret);
        let secret = secret.ok_or("what it is used with was sealed on another device: link it again")?;
        self.linked.runs += 1;
        let run = Run { account: stored.id.clone(), number: self.linked.runs };
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let news = self.internal_sender.clone();
        if stored.id.system() == System::Xmpp {
            let system = xmpp::XmppAccount::new(xmpp_params(&stored, secret))?;
            tokio::spawn(system::drive(system, run, receiver, news));
        } else if addresses::is_by_word(&stored) {
            tokio::spawn(system::drive(addresses::AddressAccount::new(&self.linked.book.entries), run, receiver, news));
        } else {
            let system = self.oidc_account(&stored, &secret)?;
            tokio::spawn(system::drive(system, run, receiver, news));
        }
        let account = Account {
            number: self.linked.runs,
            orders,
            is_connected: false,
            has_list: false,
            trouble: None,
            showing: None,
            asked,
            to_look: Vec::new(),
            looking: 0,
            look_all_at: None,
            show_again_at: None,
            leave: None,
            stored,
        };
        self.linked.accounts.insert(account.stored.id.clone(), account);
        Ok(())
    }

    /// Writes the accounts, with what shows that they are this user's. Whether that is done.
    fn keep_accounts(&self) -> bool {
        let is_linked = |account: &&Account| account.stored.association.is_some() || self.is_token_only(&account.stored.id);
        let running = self.linked.accounts.values().filter(is_linked).map(|account| &account.stored);
        let unusable = self.linked.unusable.iter().filter(|stored| !self.linked.accounts.contains_key(&stored.id));
        let accounts: Vec<StoredAccount> = running.chain(unusable).cloned().collect();
        let token_only: Vec<LinkedId> = self.linked.token_only.iter().cloned().collect();
        let proofs: Vec<(&LinkedId, &Vec<u8>)> = self.linked.proofs.iter().collect();
        let kept = self.store.transaction::<_, StoreError>(|tx| {
            tx.put_setting_value(ACCOUNTS, &accounts)?;
            tx.put_setting_value(logins::PROOFS, &proofs)?;
            tx.put_setting_value(TOKEN_ONLY, &token_only)
        });
        kept.inspect_err(|error| warn!(%error, "linked accounts not written")).is_ok()
    }

    /// Whether an account shows its contacts nothing but tokens.
    fn is_token_only(&self, id: &LinkedId) -> bool {
        self.linked.token_only.contains(id)
    }

    fn keep_sightings_soon(&mut self) {
        self.linked.keep_at.get_or_insert(Instant::now() + KEEP_AFTER);
    }

    fn keep_sightings(&mut self) {
        self.keep_readers();
        while self.linked.known.len() > SIGHTINGS_MAX {
            let oldest = self.linked.known.iter().min_by_key(|(_, sighting)| sighting.read_at).map(|(id, _)| id.clone());
            let Some(oldest) = oldest else { break };
            self.linked.known.remove(&oldest);
        }
        self.share_now();
    }

    fn keep_readers(&self) {
        let kept = self.store.transaction::<_, StoreError>(|tx| {
            for (account, readers) in &self.linked.readers {
                let marks: Vec<(&LinkedId, bool)> = readers.marks().collect();
                let chunks = marks.chunks(READERS_AT_ONCE).chain(std::iter::once(&[][..]));
                for (number, chunk) in chunks.enumerate() {
                    tx.put_setting_value(&format!("{READERS} {number} {account}"), &chunk.to_vec())?;
                }
            }
            Ok(())
        });
        if let Err(error) = kept {
            warn!(%error, "who can read what linked accounts show isn't written");
        }
    }

    fn read_readers(&mut self, account: &LinkedId) {
        let read = self.store.read::<_, StoreError>(|view| {
            let mut marks: Vec<(LinkedId, bool)> = Vec::new();
            // A chunk that isn't full is the last one.
            for number in 0.. {
                let chunk: Vec<(LinkedId, bool)> =
                    view.setting_value(&format!("{READERS} {number} {account}"))?.unwrap_or_default();
                let is_last = chunk.len() < READERS_AT_ONCE;
                marks.extend(chunk);
                if is_last {
                    break;
                }
            }
            Ok(marks)
        });
        match read {
            Ok(marks) => drop(self.linked.readers.insert(account.clone(), Readers::of_marks(marks))),
            Err(error) => warn!(%error, %account, "who can read what a linked account shows isn't read"),
        }
    }

    /// What the task of an account tells.
    pub(crate) fn handle_linked(&mut self, news: LinkedNews) {
        let LinkedNews { account: id, number, what } = news;
        if self.linked.accounts.get(&id).is_none_or(|account| account.number != number) {
            return;
        }
        match what {
            News::Connected(list) => self.account_connected(&id, list),
            News::Changed(change) => self.list_changed(&id, change),
            News::Shown(shown) => self.association_shown(&id, shown),
            News::Seen { at, shown } => self.place_seen(&id, at, shown),
            News::Present { at, shown } => self.association_heard(&id, &at, *shown),
            News::NotPresent { at } => self.association_unheard(&id, &at),
            News::Issued { call, token } => self.token_issued(&id, call, token),
            News::TokenShown { asked, shown } => self.token_shown(*asked, shown),
            News::Renewed(proof) => self.proof_renewed(&id, proof),
            News::Secret(text) => self.secret_changed(&id, &text),
            News::Trouble(reason) => self.account_in_trouble(&id, reason),
        }
    }

    fn account_connected(&mut self, id: &LinkedId, list: Vec<ListEntry>) {
        info!(account = %id, contacts = list.len(), "linked account connected");
        self.linked.readers.entry(id.clone()).or_default().set(&list, CONTACTS_MAX);
        let contacts = list.into_iter().filter(|entry| entry.is_contact).take(CONTACTS_MAX);
        let list: BTreeMap<LinkedId, Option<String>> = contacts.map(|entry| (entry.id, entry.name)).collect();
        self.nobody_heard(id);
        let is_looked_at = self.uses_places(id);
        if let Some(account) = self.linked.accounts.get_mut(id) {
            (account.is_connected, account.has_list, account.trouble) = (true, true, None);
            account.look_all_at = Some(Instant::now() + LOOK_EVERY);
            account.to_look = if is_looked_at { list.keys().cloned().collect() } else { Vec::new() };
            account.looking = 0;
        }
        self.linked.known.retain(|(over, place), _| over != id || list.contains_key(place));
        self.linked.lists.insert(id.clone(), list);
        self.match_told(None);
        self.keep_sightings_soon();
        self.share_links_soon();
        self.turn_key_if_somebody_left();
        if self.linked.shared.account(id).is_some_and(|account| account.is_removed) {
            // Unlinked by another device while this one was away.
            self.take_shared(id);
        }
        self.show_own(id);
        self.look_on(id);
    }

    fn list_changed(&mut self, id: &LinkedId, entry: ListEntry) {
        self.linked.readers.entry(id.clone()).or_default().change(&entry, CONTACTS_MAX);
        self.keep_sightings_soon();
        self.share_links_soon();
        if let Some(list) = self.linked.lists.get_mut(id) {
            if !entry.is_contact {
                list.remove(&entry.id);
                let key = (id.clone(), entry.id);
                self.linked.known.remove(&key);
                self.linked.present.remove(&key);
            } else if list.len() < CONTACTS_MAX {
                list.insert(entry.id.clone(), entry.name);
                self.look_soon(id, &entry.id);
                self.match_told(Some(&entry.id));
            }
        }
        self.turn_key_if_somebody_left();
    }

    fn account_in_trouble(&mut self, id: &LinkedId, reason: String) {
        self.nobody_heard(id);
        let Some(account) = self.linked.accounts.get_mut(id) else { return };
        (account.is_connected, account.showing, account.looking) = (false, None, 0);
        if let Some(asked) = account.asked.take() {
            if logins::has_place(id) {
                return self.account_failed(id, asked, reason);
            }
            // It is linked all the same: what shows it is had already.
            account.trouble = Some(reason);
            return self.account_linked(id, asked);
        }
        let is_news = account.trouble.replace(reason.clone()).is_none();
        if is_news {
            let detail = format!("{id}: {reason}; it is tried again");
            self.events.send(Event::Warning { code: "linked-account".into(), detail });
        }
    }
}

// The own association.
impl EventLoop {
    /// Puts at the account's place what this user says of it: what was said before, unless that is half over.
    fn show_own(&mut self, id: &LinkedId) {
        if self.is_token_only(id) || !logins::has_place(id) {
            let is_kept = self.keep_accounts();
            let asked = self.linked.accounts.get_mut(id).and_then(|account| account.asked.take());
            return asked.into_iter().for_each(|asked| self.tell_linked(id, asked, is_kept));
        }
        let now = self.now().unix;
        let Some(account) = self.linked.accounts.get(id) else { return };
        let before = account.stored.association.as_ref();
        let user = self.identity.user_id();
        let still = before.filter(|said| {
            let said = said.unverified();
            now < said.renew_at() && said.user == user && said.identity == self.identity.identity()
        });
        let association = match still.filter(|_| self.has_leave_for(id)) {
            Some(said) => Ok(said.clone()),
            None => {
                let said_before = self.linked.serials.get(id).copied().unwrap_or(0);
                let last_serial = before.map_or(0, |said| said.unverified().serial).max(said_before);
                if !self.identity.has_identity_key() {
                    return self.ask_to_sign(id, last_serial, false);
                }
                let params = AssociationParams { user, linked: id.clone(), method: ProofMethod::OWN_ITEM, last_serial, now };
                self.identity.associate(params, self.linked.own_merge.as_ref(), false)
            }
        };
        match association {
            Ok(association) => self.put_at_place(id, association),
            Err(error) => {
                let asked = self.linked.accounts.get_mut(id).and_then(|account| account.asked.take());
                match asked {
                    Some(asked) => self.account_failed(id, asked, error.to_string()),
                    None => warn!(account = %id, %error, "the association isn't said anew"),
                }
            }
        }
    }

    /// Tells places what they weren't told.
    fn show_again(&mut self, now: Instant) {
        let is_due = |account: &Account| account.is_connected && account.show_again_at.is_some_and(|at| at <= now);
        let due: Vec<LinkedId> =
            self.linked.accounts.iter().filter(|(_, account)| is_due(account)).map(|(id, _)| id.clone()).collect();
        for id in due {
            if let Some(account) = self.linked.accounts.get_mut(&id) {
                account.show_again_at = None;
            }
            self.show_own(&id);
        }
    }

    fn put_at_place(&mut self, id: &LinkedId, association: Signed<Association>) {
        let showing = Showing {
            shown: self.shown_with(association.clone()),
            denied: self.denied_in(id),
            at_place: self.uses_places(id),
            in_presence: self.is_present_elsewhere(id),
        };
        let Some(account) = self.linked.accounts.get_mut(id) else { return };
        account.showing = Some(association);
        if account.orders.try_send(Order::Show(Box::new(showing))).is_err() {
            account.show_again_at = Some(Instant::now() + SHOW_AGAIN);
            debug!(account = %id, "the association waits");
        }
    }

    fn association_shown(&mut self, id: &LinkedId, shown: Result<(), String>) {
        let Some(account) = self.linked.accounts.get_mut(id) else { return };
        let Some(association) = account.showing.take() else { return };
        let asked = account.asked.take();
        if let Err(reason) = shown {
            match asked {
                Some(asked) => self.account_failed(id, asked, reason),
                None => {
                    warn!(account = %id, reason, "the association isn't shown");
                    if let Some(account) = self.linked.accounts.get_mut(id) {
                        account.show_again_at = Some(Instant::now() + SHOW_AGAIN);
                    }
                }
            }
            return;
        }
        self.linked.serials.insert(id.clone(), association.unverified().serial);
        if association.unverified().is_revoked {
            return self.account_unlinked(id, asked, true);
        }
        account.stored.association = Some(association);
        let is_kept = self.keep_accounts();
        self.share_links_soon();
        self.listing_changed(id);
        if let Some(asked) = asked {
            self.tell_linked(id, asked, is_kept);
        }
    }

    /// Whoever waits for an account hears that it is linked once that is on disk.
    fn tell_linked(&mut self, id: &LinkedId, asked: commands::Asked, is_kept: bool) {
        if is_kept {
            self.account_linked(id, asked);
        } else {
            self.account_failed(id, asked, "it isn't written here".to_owned());
        }
    }
}

// Others' places.
impl EventLoop {
    /// Looks at the next places that nobody waits for.
    fn look_on(&mut self, id: &LinkedId) {
        let Some(account) = self.linked.accounts.get_mut(id).filter(|account| account.is_connected) else { return };
        while account.looking < LOOKS_AT_ONCE {
            let Some(next) = account.to_look.pop() else { return };
            if account.orders.try_send(Order::Look(next)).is_err() {
                return;
            }
            account.looking += 1;
        }
    }

    /// Looks at a place that nobody waits for.
    fn look_soon(&mut self, id: &LinkedId, place: &LinkedId) {
        if !self.uses_places(id) {
            return;
        }
        if let Some(account) = self.linked.accounts.get_mut(id)
            && !account.to_look.contains(place)
        {
            account.to_look.push(place.clone());
        }
        self.look_on(id);
    }

    /// Looks at a place that somebody waits for. False if that can't be now.
    fn look_at(&mut self, account: &LinkedId, place: &LinkedId) -> bool {
        if !self.uses_places(account) {
            return false;
        }
        self.order(account, Order::Look(place.clone())) || self.ask_to_look(account, place)
    }

    /// Gives an order to the task of an account. False if it isn't connected, or has too much to do.
    fn order(&self, account: &LinkedId, order: Order) -> bool {
        let account = self.linked.accounts.get(account).filter(|account| account.is_connected);
        account.is_some_and(|account| account.orders.try_send(order).is_ok())
    }

    fn place_seen(&mut self, id: &LinkedId, at: LinkedId, shown: Result<Option<Box<Shown>>, String>) {
        if let Some(account) = self.linked.accounts.get_mut(id) {
            account.looking = account.looking.saturating_sub(1);
        }
        let is_in_list = self.linked.lists.get(id).is_some_and(|list| list.contains_key(&at));
        let by_presence = if shown == Ok(None) { self.nothing_but_presence(id, &at) } else { None };
        let was_seen = by_presence.unwrap_or(shown.is_ok());
        if is_in_list && by_presence.is_none() {
            match shown {
                Ok(shown) => self.note_sighting(id, &at, shown.map(|shown| *shown)),
                Err(reason) => debug!(account = %id, place = %at, reason, "not looked at"),
            }
        }
        self.look_on(id);
        self.answer_looks(id, &at, was_seen);
        self.linked_looked(id, &at, was_seen);
        self.linked_leave_looked(&at);
    }

    fn note_sighting(&mut self, account: &LinkedId, at: &LinkedId, shown: Option<Shown>) {
        let now = self.now().unix;
        let seen = match shown.map(|shown| Sighting::take(at, shown, now)) {
            Some(Ok(seen)) => seen,
            Some(Err(error)) => {
                debug!(place = %at, %error, "what a contact shows isn't taken");
                Sighting::nothing(now)
            }
            None => Sighting::nothing(now),
        };
        self.take_sighting(account, at, seen);
    }

    /// What was seen at a place counts, here or by an own device that has looked.
    fn take_sighting(&mut self, account: &LinkedId, at: &LinkedId, seen: Sighting) {
        if let Some(shown) = &seen.association {
            self.learn_merge(shown);
        }
        let key = (account.clone(), at.clone());
        let before = self.linked.known.remove(&key);
        let seen = if self.is_of_merged(&seen) { seen.set_back_to(before.as_ref()) } else { seen };
        let is_worth_keeping = seen.association.is_some() || before.as_ref().is_some_and(|before| before.association.is_some());
        let seen = seen.after(before.as_ref());
        self.linked.seen_by.remove(&key);
        self.linked.present.seen(&key, &seen);
        self.linked.known.insert(key, seen);
        if is_worth_keeping {
            self.keep_sightings_soon();
            self.share_links_soon();
        }
    }

    pub(crate) fn linked_tick(&mut self, now: Now) {
        let due: Vec<LinkedId> = self
            .linked
            .accounts
            .iter()
            .filter(|(_, account)| account.is_connected && account.look_all_at.is_some_and(|at| at <= now.instant))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let all: Vec<LinkedId> = self.linked.lists.get(&id).into_iter().flat_map(|list| list.keys().cloned()).collect();
            let mut is_old = false;
            let is_looked_at = self.uses_places(&id);
            if let Some(account) = self.linked.accounts.get_mut(&id) {
                account.look_all_at = Some(now.instant + LOOK_EVERY);
                account.to_look = if is_looked_at { all } else { Vec::new() };
                is_old = account.stored.association.as_ref().is_some_and(|said| now.unix >= said.unverified().renew_at());
            }
            if is_old {
                self.show_own(&id);
            }
            self.look_on(&id);
        }
        if self.linked.keep_at.is_some_and(|at| at <= now.instant) {
            self.linked.keep_at = None;
            self.keep_sightings();
        }
        self.linked_presence_tick(now.instant);
        self.shared_tick(now.instant);
        self.questions_tick(now.instant);
        self.show_again(now.instant);
        self.logins_tick(now.instant, now.unix);
        self.turn_key_when_due(now.instant);
        self.tokens_tick(now.instant);
        self.slow_tick(now.instant);
        self.listings_tick(now.instant);
        self.certify_tick(now.instant);
        self.told_tick(now.instant);
        self.linked_calls_tick(now);
    }
}
