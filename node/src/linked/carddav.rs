//! An address book at a server (CardDAV, RFC 6352), read and read again: `protocol/src/carddav.rs` has what is said.
//!
//! 1. *Where the books are*: at the address itself, right below it, or where the user's home is (RFC 6764 section 6), by way of `/.well-known/carddav` if need be.
//! 2. *What has changed*: a book whose state has the name that it had is as it was. Otherwise the server says what has changed since (RFC 6578), or, where it can't, which cards there are in
//!    which state.
//! 3. *The cards* that are new or others, some at a time. Of each nothing is kept but whom it names.
//!
//! The password goes to the host that the user has named and to hosts below it, over TLS, and nowhere else, whatever a server says. A reading that fails tells nobody anything; the next one goes on with
//! the cards that it has finished. Only what a server says is gone is taken out: a card that can't be had stays as it was known, and its book has no name for its state, so that it is asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use halloo_protocol::carddav::{self, Answered, Entry};
use halloo_protocol::linked::{BOOK_ENTRIES_MAX, LinkedId, read_book};
use http::{StatusCode, Uri};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::http::{Asked, Dav, Http};
use super::system::LinkedError;

/// Longest address of a server, and user name there.
pub(super) const URL_BYTES_MAX: usize = 1_024;
pub(super) const USER_BYTES_MAX: usize = 256;

/// Bounds of one reading.
const BOOKS_MAX: usize = 32;
const CARDS_MAX: usize = 20_000;
const NAMES_MAX: usize = 4 * BOOK_ENTRIES_MAX;
const READ_AT_MOST: Duration = Duration::from_secs(300);
const REDIRECTIONS_MAX: usize = 5;
/// Answers of one report that is told in pieces.
const PIECES_MAX: usize = 100;

/// Longest answer. A card that is longer, with what is around it, isn't read.
const ANSWER_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// Cards asked for at once; fewer where they are long.
const CARDS_AT_ONCE: usize = 50;

/// Where an address book is.
#[derive(Clone, Debug)]
pub(super) struct CardDavParams {
    pub(super) url: String,
    pub(super) user: String,
    pub(super) roots: Option<PathBuf>,
    pub(super) password: Zeroizing<String>,
}

/// Who is in all the books.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BookRead {
    pub(super) entries: BTreeMap<LinkedId, Option<String>>,
    pub(super) books: usize,
}

/// The books of a user at a server, as they were read last.
pub(super) struct CardDav {
    http: Http,
    /// What the user has named: a host, and where to begin.
    begin: Uri,
    authorization: Zeroizing<String>,
    books: Vec<Book>,
}

/// A book as it was read.
#[derive(Clone, Debug)]
struct Book {
    url: Uri,
    /// The names of its state.
    tag: Option<String>,
    token: Option<String>,
    /// By their paths, decoded: one path may be written in several ways.
    cards: BTreeMap<String, Card>,
}

#[derive(Clone, Debug)]
struct Card {
    etag: Option<String>,
    names: Vec<(LinkedId, Option<String>)>,
}

/// A card's path, as the server writes it, and the state in which it is.
type Wanted = (String, Option<String>);

/// What is to be done of a book's cards. Paths are as the server writes them.
#[derive(Debug, Default)]
struct Changes {
    /// With the state in which each is now.
    there: Vec<Wanted>,
    gone: Vec<String>,
    /// They may be there, and can't be had.
    failed: Vec<String>,
    /// All that isn't there has gone.
    is_whole: bool,
    /// There is more than that.
    is_cut: bool,
    token: Option<String>,
}

/// How much more one reading may keep.
#[derive(Clone, Copy, Debug)]
struct Room {
    cards: usize,
    names: usize,
}

impl Room {
    /// Keeps of a book what there is room for.
    fn fit(self, book: &mut Book) {
        let mut left = self;
        book.cards.retain(|_, card| {
            let has_room = left.cards > 0 && left.names >= card.names.len();
            if has_room {
                (left.cards, left.names) = (left.cards - 1, left.names - card.names.len());
            }
            has_room
        });
    }

    fn after(self, book: &Book) -> Self {
        Self { cards: self.cards.saturating_sub(book.cards.len()), names: self.names.saturating_sub(book.names()) }
    }
}

impl Book {
    fn is_at(&self, url: &Uri) -> bool {
        is_same_place(&self.url, url)
    }

    fn names(&self) -> usize {
        self.cards.values().map(|card| card.names.len()).sum()
    }

    /// A card that has been read, with as many of its names as there is room for. Gives how many more there is room for.
    fn put(&mut self, path: String, mut card: Card, names_left: usize) -> usize {
        let left = names_left + self.cards.remove(&path).map_or(0, |old| old.names.len());
        card.names.truncate(left);
        let left = left - card.names.len();
        self.cards.insert(path, card);
        left
    }

    /// A card that can't be had: what is known of it is kept and counts as old.
    fn keep(&mut self, path: &str) {
        if let Some(card) = self.cards.get_mut(path) {
            card.etag = None;
        }
    }
}

impl CardDav {
    /// Nothing is asked yet. Call it within a Tokio runtime.
    pub(super) fn new(params: &CardDavParams) -> Result<Self, String> {
        let begin = address(&params.url).ok_or("expected an https:// address without user and password")?;
        let is_user = !params.user.is_empty()
            && params.user.len() <= USER_BYTES_MAX
            && !params.user.contains(|c: char| c == ':' || c.is_control());
        if !is_user {
            return Err(format!("a user name has 1 to {USER_BYTES_MAX} bytes and no colon"));
        }
        let pair = Zeroizing::new(format!("{}:{}", params.user, *params.password));
        let authorization = Zeroizing::new(format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes())));
        Ok(Self { http: Http::new(params.roots.as_deref())?, begin, authorization, books: Vec::new() })
    }

    /// Reads what has changed. Gives everybody.
    ///
    /// # Errors
    /// [`LinkedError`]; the next reading goes on from the last one that worked.
    pub(super) async fn read(&mut self) -> Result<BookRead, LinkedError> {
        let mut books = Vec::new();
        let outcome = timeout(READ_AT_MOST, self.read_books(&mut books)).await;
        if let Err(error) = outcome.unwrap_or(Err(LinkedError::Timeout)) {
            self.keep_finished(books);
            return Err(error);
        }
        self.books = books;
        let mut read = BookRead { books: self.books.len(), ..BookRead::default() };
        for (id, name) in self.books.iter().flat_map(|book| book.cards.values()).flat_map(|card| &card.names) {
            if read.entries.len() < BOOK_ENTRIES_MAX || read.entries.contains_key(id) {
                read.entries.insert(id.clone(), name.clone());
            }
        }
        Ok(read)
    }

    /// What a reading that has failed brought: nobody is told of it, and it isn't asked for again.
    fn keep_finished(&mut self, books: Vec<Book>) {
        for book in books {
            match self.books.iter().position(|old| old.is_at(&book.url)) {
                Some(old) => self.books[old] = book,
                None if self.books.len() < BOOKS_MAX => self.books.push(book),
                None => {}
            }
        }
    }

    async fn read_books(&self, books: &mut Vec<Book>) -> Result<(), LinkedError> {
        let found = self.find_books().await?;
        if found.is_empty() {
            return Err(LinkedError::Protocol("there is no address book at that address"));
        }
        let mut room = Room { cards: CARDS_MAX, names: NAMES_MAX };
        for (url, entry) in found.into_iter().take(BOOKS_MAX) {
            let before = self.books.iter().find(|book| book.is_at(&url));
            // It stands among those that are read from the start, so that what is finished of it isn't lost.
            books.push(Book { url, tag: None, token: None, cards: before.map(|book| book.cards.clone()).unwrap_or_default() });
            if let Some(book) = books.last_mut() {
                room.fit(book);
                self.read_one(book, &entry, before, room).await?;
                room = room.after(book);
            }
        }
        Ok(())
    }
}

// Where the books are.
impl CardDav {
    async fn find_books(&self) -> Result<Vec<(Uri, Entry)>, LinkedError> {
        if let Some(books) = self.books_from(&self.begin, self.begin.path().len() > 1).await? {
            return Ok(books);
        }
        // RFC 6764 section 5: it sends on to where they are.
        let known = self.beside(&self.begin, "/.well-known/carddav")?;
        Ok(self.books_from(&known, false).await?.unwrap_or_default())
    }

    /// The books that an address leads to. `None`: it says nothing of any.
    async fn books_from(&self, begin: &Uri, may_be_home: bool) -> Result<Option<Vec<(Uri, Entry)>>, LinkedError> {
        let Some((url, answered)) = self.find(begin, false).await? else { return Ok(None) };
        let Some(here) = answered.entries.into_iter().find(|entry| !entry.is_gone && !entry.is_failed) else { return Ok(None) };
        if here.is_book {
            return Ok(Some(vec![(url, here)]));
        }
        if may_be_home {
            let below = self.below(&url).await?;
            if !below.is_empty() {
                return Ok(Some(below));
            }
        }
        let mut homes = here.homes;
        if homes.is_empty()
            && let Some(principal) = &here.principal
        {
            let principal = self.beside(&url, principal)?;
            let found = self.find(&principal, false).await?;
            homes = found.into_iter().flat_map(|(_, answered)| answered.entries).flat_map(|entry| entry.homes).collect();
        }
        if homes.is_empty() {
            return Ok(None);
        }
        self.in_homes(&url, &homes).await.map(Some)
    }

    /// The books in homes, each home and each book once.
    async fn in_homes(&self, url: &Uri, homes: &[String]) -> Result<Vec<(Uri, Entry)>, LinkedError> {
        let mut read: Vec<Uri> = Vec::new();
        let mut books: Vec<(Uri, Entry)> = Vec::new();
        for home in homes.iter().take(BOOKS_MAX) {
            let home = self.beside(url, home)?;
            if books.len() >= BOOKS_MAX || read.iter().any(|other| is_same_place(other, &home)) {
                continue;
            }
            for (place, entry) in self.below(&home).await? {
                if books.len() < BOOKS_MAX && !books.iter().any(|(other, _)| is_same_place(other, &place)) {
                    books.push((place, entry));
                }
            }
            read.push(home);
        }
        Ok(books)
    }

    /// The books right below an address.
    async fn below(&self, url: &Uri) -> Result<Vec<(Uri, Entry)>, LinkedError> {
        let Some((url, answered)) = self.find(url, true).await? else { return Ok(Vec::new()) };
        for failed in answered.entries.iter().filter(|entry| entry.is_failed) {
            if self.beside(&url, &failed.path).is_ok_and(|place| self.books.iter().any(|book| book.is_at(&place))) {
                return Err(LinkedError::Protocol("a book that was there can't be had now"));
            }
        }
        let books = answered.entries.into_iter().filter(|entry| entry.is_book && !entry.is_gone).take(BOOKS_MAX);
        books.map(|entry| Ok((self.beside(&url, &entry.path)?, entry))).collect()
    }

    /// What stands at an address, and where that was found in the end. `None`: nothing that can be read.
    async fn find(&self, url: &Uri, is_deep: bool) -> Result<Option<(Uri, Answered)>, LinkedError> {
        let body = carddav::find();
        let mut url = url.clone();
        for _ in 0..REDIRECTIONS_MAX {
            let answer = self.ask(&url, Dav { method: "PROPFIND", is_deep, body: &body }).await?;
            match answer.status {
                StatusCode::MULTI_STATUS => return Ok(Some((url, multistatus(&answer.body)?))),
                StatusCode::UNAUTHORIZED => return Err(answer.refused("the user or the password")),
                status if status.is_redirection() => {
                    let location = answer.location.ok_or(LinkedError::Protocol("it sends on to nowhere"))?;
                    url = self.beside(&url, &location)?;
                }
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    return Err(answer.refused("to show its books"));
                }
                _ => return Ok(None),
            }
        }
        Err(LinkedError::Protocol("it sends on again and again"))
    }

    /// What a server names, seen from an address. Only at the host that the user has named, or below it, and at the same port.
    fn beside(&self, url: &Uri, named: &str) -> Result<Uri, LinkedError> {
        let uri = resolve(url, named).ok_or(LinkedError::Protocol("it names an address that can't be used"))?;
        let (home, host) = (self.begin.host().unwrap_or_default(), uri.host().unwrap_or_default());
        let is_below = host.len() > home.len() && host.ends_with(home) && host[..host.len() - home.len()].ends_with('.');
        let is_same_port = uri.port_u16().unwrap_or(443) == self.begin.port_u16().unwrap_or(443);
        let is_name = home.parse::<std::net::IpAddr>().is_err();
        if is_same_port && (host == home || (is_below && is_name)) { Ok(uri) } else { Err(LinkedError::Elsewhere(clean(host))) }
    }

    async fn ask(&self, url: &Uri, dav: Dav<'_>) -> Result<super::http::Answer, LinkedError> {
        let asked =
            Asked { dav: Some(dav), authorization: Some(&self.authorization), bytes_max: ANSWER_BYTES_MAX, ..Asked::default() };
        self.http.ask(&url.to_string(), asked).await
    }
}

// What is in a book.
impl CardDav {
    /// Brings a book, whose cards are as they were known, to what it is now.
    async fn read_one(&self, book: &mut Book, now: &Entry, before: Option<&Book>, room: Room) -> Result<(), LinkedError> {
        let is_named_alike = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
        let is_same = |before: &&Book| is_named_alike(&before.tag, &now.tag) || is_named_alike(&before.token, &now.token);
        if let Some(before) = before.filter(is_same) {
            (book.tag, book.token) = (before.tag.clone(), before.token.clone());
            return Ok(());
        }
        let changes = match before.and_then(|before| before.token.as_deref()) {
            Some(token) => self.changes_since(&book.url, token).await?,
            None => None,
        };
        let changes = match changes {
            Some(changes) => changes,
            None => self.everything(&book.url, now.token.is_some()).await?,
        };
        let (token, is_cut) = (changes.token.clone(), changes.is_cut);
        if self.read_cards(book, changes, room).await? {
            book.token = token;
            // The name is of all that is there, and the token of what was told.
            book.tag = now.tag.clone().filter(|_| !is_cut);
        }
        Ok(())
    }

    /// Takes out what has gone, and reads what is new or another than it was. False: some of it can't be had.
    async fn read_cards(&self, book: &mut Book, changes: Changes, room: Room) -> Result<bool, LinkedError> {
        let mut is_settled = changes.failed.is_empty();
        changes.gone.iter().for_each(|path| drop(book.cards.remove(&decoded(path))));
        changes.failed.iter().for_each(|path| book.keep(&decoded(path)));
        if changes.is_whole {
            let there = changes.there.iter().map(|(path, _)| path).chain(&changes.failed);
            let there: BTreeSet<String> = there.map(|path| decoded(path)).collect();
            book.cards.retain(|path, _| there.contains(path));
        }
        let mut to_read = to_read(&book.cards, changes.there, room.cards);
        let mut at_once = CARDS_AT_ONCE;
        while !to_read.is_empty() {
            let count = at_once.min(to_read.len());
            let batch = &to_read[to_read.len() - count..];
            match self.cards(&book.url, batch).await {
                Ok(said) => is_settled &= take_batch(book, batch, &said, room),
                // Fewer at a time; one that is too long alone is passed over.
                Err(LinkedError::TooLong) if count > 1 => {
                    at_once = count / 2;
                    continue;
                }
                Err(LinkedError::TooLong) => {
                    let unread = |etag: &Option<String>| Card { etag: etag.clone(), names: Vec::new() };
                    book.cards.extend(batch.iter().map(|(path, etag)| (decoded(path), unread(etag))));
                }
                Err(error) => return Err(error),
            }
            to_read.truncate(to_read.len() - count);
        }
        Ok(is_settled)
    }

    /// What has changed since a state. `None`: the server doesn't know that any more.
    async fn changes_since(&self, url: &Uri, token: &str) -> Result<Option<Changes>, LinkedError> {
        let mut changes = Changes { token: Some(token.to_owned()), ..Changes::default() };
        for _ in 0..PIECES_MAX {
            let body = carddav::changes(changes.token.as_deref().unwrap_or_default());
            let answer = self.ask(url, Dav { method: "REPORT", is_deep: false, body: &body }).await?;
            if answer.status != StatusCode::MULTI_STATUS {
                let is_for_now = answer.status.is_server_error() && answer.status != StatusCode::NOT_IMPLEMENTED;
                return if is_for_now { Err(answer.refused("to say what has changed")) } else { Ok(None) };
            }
            let answered = multistatus(&answer.body)?;
            let is_cut = answered.entries.iter().any(|entry| entry.is_cut);
            for entry in cards_of(url, answered.entries) {
                match entry {
                    Entry { is_gone: true, path, .. } => changes.gone.push(path),
                    Entry { is_failed: true, path, .. } => changes.failed.push(path),
                    Entry { path, etag, .. } => changes.there.push((path, etag)),
                }
            }
            (changes.token, changes.is_cut) = (answered.token, is_cut);
            let told = changes.there.len() + changes.gone.len() + changes.failed.len();
            if told > CARDS_MAX || !is_cut || changes.token.is_none() {
                return Ok(Some(changes));
            }
        }
        Ok(None)
    }

    /// All cards that there are.
    async fn everything(&self, url: &Uri, has_tokens: bool) -> Result<Changes, LinkedError> {
        if has_tokens && let Some(changes) = self.changes_since(url, "").await? {
            return Ok(Changes { is_whole: !changes.is_cut, ..changes });
        }
        let body = carddav::list();
        let answer = self.ask(url, Dav { method: "PROPFIND", is_deep: true, body: &body }).await?;
        if answer.status != StatusCode::MULTI_STATUS {
            return Err(answer.refused("to list its cards"));
        }
        let entries = multistatus(&answer.body)?.entries;
        let is_cut = entries.iter().any(|entry| entry.is_cut);
        let mut changes = Changes { is_whole: !is_cut, is_cut, ..Changes::default() };
        for entry in cards_of(url, entries).filter(|entry| !entry.is_gone) {
            match entry.is_failed {
                true => changes.failed.push(entry.path),
                false => changes.there.push((entry.path, entry.etag)),
            }
        }
        Ok(changes)
    }

    /// What is said of cards, by their paths, decoded: those that were asked for and no others. `None`: it is gone. One that can't be had isn't among them.
    async fn cards(&self, url: &Uri, wanted: &[Wanted]) -> Result<BTreeMap<String, Option<Card>>, LinkedError> {
        let body = carddav::cards(wanted.iter().map(|(path, _)| path.as_str()));
        // RFC 6352 section 8.7 has the depth passed over; some servers want this one.
        let answer = self.ask(url, Dav { method: "REPORT", is_deep: true, body: &body }).await?;
        if answer.status != StatusCode::MULTI_STATUS {
            return Err(answer.refused("to show cards"));
        }
        let wanted: BTreeSet<String> = wanted.iter().map(|(path, _)| decoded(path)).collect();
        let said = |entry: Entry| {
            let path = Some(decoded(&entry.path)).filter(|path| wanted.contains(path))?;
            if entry.is_gone {
                return Some((path, None));
            }
            let text = entry.card.filter(|_| !entry.is_failed && !entry.is_cut)?;
            Some((path, Some(Card { etag: entry.etag, names: read_book(&text).into_iter().collect() })))
        };
        Ok(multistatus(&answer.body)?.entries.into_iter().filter_map(said).collect())
    }
}

/// Takes what was said of cards. False: of some nothing was.
fn take_batch(book: &mut Book, batch: &[Wanted], said: &BTreeMap<String, Option<Card>>, room: Room) -> bool {
    let mut is_settled = true;
    let mut left = room.names.saturating_sub(book.names());
    for path in batch.iter().map(|(path, _)| decoded(path)) {
        match said.get(&path) {
            Some(Some(card)) => left = book.put(path, card.clone(), left),
            Some(None) => drop(book.cards.remove(&path)),
            None => {
                book.keep(&path);
                is_settled = false;
            }
        }
    }
    is_settled
}

/// Whether two addresses are one place, however they are escaped.
fn is_same_place(one: &Uri, other: &Uri) -> bool {
    one.authority() == other.authority() && decoded(one.path()) == decoded(other.path())
}

/// Of the cards that are there, those that are new or others than they were, as long as there is room.
fn to_read(known: &BTreeMap<String, Card>, there: Vec<Wanted>, room: usize) -> Vec<Wanted> {
    // One that changes takes no new place.
    let mut left = room.saturating_sub(known.len());
    let mut is_wanted = |path: &str, etag: &Option<String>| match known.get(&decoded(path)) {
        Some(card) => etag.is_none() || card.etag != *etag,
        None => {
            let has_room = left > 0;
            left = left.saturating_sub(1);
            has_room
        }
    };
    there.into_iter().filter(|(path, etag)| is_wanted(path, etag)).collect()
}

/// The entries that are cards: neither the book itself nor a folder in it.
fn cards_of(url: &Uri, entries: Vec<Entry>) -> impl Iterator<Item = Entry> {
    let book = decoded(url.path().trim_end_matches('/'));
    entries.into_iter().filter(move |entry| {
        let path = decoded(&entry.path);
        !entry.is_collection && !entry.is_cut && !path.ends_with('/') && path != book
    })
}

fn multistatus(body: &[u8]) -> Result<Answered, LinkedError> {
    Ok(carddav::read(body, ANSWER_BYTES_MAX)?)
}

/// An address that may be spoken to.
fn address(text: &str) -> Option<Uri> {
    let uri: Uri = Some(text).filter(|text| text.len() <= URL_BYTES_MAX)?.parse().ok()?;
    let authority = uri.authority()?;
    let is_plain = !authority.as_str().contains('@') && !authority.host().is_empty() && uri.query().is_none();
    // In one spelling: hosts are compared.
    let lower = format!("https://{}{}", authority.as_str().to_ascii_lowercase(), uri.path());
    (uri.scheme_str() == Some("https") && is_plain).then_some(lower)?.parse().ok()
}

/// A reference (RFC 3986 section 4.2) seen from an address, as far as servers use them here.
fn resolve(url: &Uri, named: &str) -> Option<Uri> {
    let named = named.split('#').next().unwrap_or_default();
    if named.contains("://") {
        return address(named);
    }
    let authority = url.authority()?;
    if named.starts_with("//") {
        return address(&format!("https:{named}"));
    }
    let path = if named.starts_with('/') {
        named.to_owned()
    } else {
        let folder = url.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{named}")
    };
    address(&format!("https://{authority}{path}"))
}

/// A path of a reference, without what it is escaped by.
fn decoded(named: &str) -> String {
    let path = match named.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => named,
    };
    super::http::percent_decoded(path).unwrap_or_else(|| path.to_owned())
}

fn clean(host: &str) -> String {
    host.chars().filter(|c| !c.is_control()).take(100).collect()
}

impl std::fmt::Debug for CardDav {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CardDav").field("begin", &self.begin).field("books", &self.books.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
