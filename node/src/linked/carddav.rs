//! An address book at a server (CardDAV, RFC 6352), read and read again: `protocol/src/carddav.rs` has what is said.
//!
//! 1. *Where the books are*: at the address itself, right below it, or where the user's home is (RFC 6764 section 6), by way of `/.well-known/carddav` if need be.
//! 2. *What has changed*: a book whose state has the name that it had is as it was. Otherwise the server says what has changed since (RFC 6578), or, where it can't, which cards there are in
//!    which state.
//! 3. *The cards* that are new or others, some at a time. Of each nothing is kept but whom it names.
//!
//! The password goes to the host that the user has named and to hosts below it, over TLS, and nowhere else, whatever a server says. A reading that fails changes nothing.

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

/// What is to be done of a book's cards. Paths are as the server writes them.
#[derive(Debug, Default)]
struct Changes {
    /// With the state in which each is now.
    there: Vec<(String, Option<String>)>,
    gone: Vec<String>,
    /// All that isn't there has gone.
    is_whole: bool,
    token: Option<String>,
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
        let books = timeout(READ_AT_MOST, self.read_books()).await.map_err(|_elapsed| LinkedError::Timeout)??;
        self.books = books;
        let mut read = BookRead { books: self.books.len(), ..BookRead::default() };
        for (id, name) in self.books.iter().flat_map(|book| book.cards.values()).flat_map(|card| &card.names) {
            if read.entries.len() < BOOK_ENTRIES_MAX || read.entries.contains_key(id) {
                read.entries.insert(id.clone(), name.clone());
            }
        }
        Ok(read)
    }

    async fn read_books(&self) -> Result<Vec<Book>, LinkedError> {
        let found = self.find_books().await?;
        if found.is_empty() {
            return Err(LinkedError::Protocol("there is no address book at that address"));
        }
        let mut books = Vec::new();
        let mut room = CARDS_MAX;
        for (url, entry) in found.into_iter().take(BOOKS_MAX) {
            let before = self.books.iter().find(|book| decoded(book.url.path()) == decoded(url.path()));
            let book = self.read_one(url, &entry, before, room).await?;
            room = room.saturating_sub(book.cards.len());
            books.push(book);
        }
        Ok(books)
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
        let Some(here) = answered.entries.into_iter().find(|entry| !entry.is_gone) else { return Ok(None) };
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
        let mut books = Vec::new();
        for home in homes.iter().take(BOOKS_MAX) {
            books.extend(self.below(&self.beside(&url, home)?).await?);
        }
        Ok(Some(books))
    }

    /// The books right below an address.
    async fn below(&self, url: &Uri) -> Result<Vec<(Uri, Entry)>, LinkedError> {
        let Some((url, answered)) = self.find(url, true).await? else { return Ok(Vec::new()) };
        let books = answered.entries.into_iter().filter(|entry| entry.is_book && !entry.is_gone);
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
    async fn read_one(&self, url: Uri, now: &Entry, before: Option<&Book>, room: usize) -> Result<Book, LinkedError> {
        let is_named_alike = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
        let is_same = |before: &&Book| is_named_alike(&before.tag, &now.tag) || is_named_alike(&before.token, &now.token);
        if let Some(before) = before.filter(is_same) {
            return Ok(before.clone());
        }
        let changes = match before.and_then(|before| before.token.as_deref()) {
            Some(token) => self.changes_since(&url, token).await?,
            None => None,
        };
        let changes = match changes {
            Some(changes) => changes,
            None => self.everything(&url, now.token.is_some()).await?,
        };
        let cards = before.map(|before| before.cards.clone()).unwrap_or_default();
        let mut book = Book { url, tag: now.tag.clone(), token: changes.token.clone(), cards };
        self.read_cards(&mut book, changes, room).await?;
        Ok(book)
    }

    /// Takes out what has gone, and reads what is new or another than it was.
    async fn read_cards(&self, book: &mut Book, changes: Changes, room: usize) -> Result<(), LinkedError> {
        changes.gone.iter().for_each(|path| drop(book.cards.remove(&decoded(path))));
        if changes.is_whole {
            let there: BTreeSet<String> = changes.there.iter().map(|(path, _)| decoded(path)).collect();
            book.cards.retain(|path, _| there.contains(path));
        }
        let mut to_read = to_read(&book.cards, changes.there, room);
        let mut at_once = CARDS_AT_ONCE;
        while !to_read.is_empty() {
            let count = at_once.min(to_read.len());
            let batch = &to_read[to_read.len() - count..];
            match self.cards(&book.url, batch).await {
                Ok(cards) => cards.into_iter().for_each(|(path, card)| drop(book.cards.insert(path, card))),
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
        Ok(())
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
                if entry.is_gone {
                    changes.gone.push(entry.path);
                } else {
                    changes.there.push((entry.path, entry.etag));
                }
            }
            changes.token = answered.token;
            if changes.there.len() + changes.gone.len() > CARDS_MAX || !is_cut || changes.token.is_none() {
                return Ok(Some(changes));
            }
        }
        Ok(None)
    }

    /// All cards that there are.
    async fn everything(&self, url: &Uri, has_tokens: bool) -> Result<Changes, LinkedError> {
        if has_tokens && let Some(changes) = self.changes_since(url, "").await? {
            return Ok(Changes { is_whole: true, ..changes });
        }
        let body = carddav::list();
        let answer = self.ask(url, Dav { method: "PROPFIND", is_deep: true, body: &body }).await?;
        if answer.status != StatusCode::MULTI_STATUS {
            return Err(answer.refused("to list its cards"));
        }
        let entries = cards_of(url, multistatus(&answer.body)?.entries).filter(|entry| !entry.is_gone);
        let there = entries.map(|entry| (entry.path, entry.etag)).collect();
        Ok(Changes { there, gone: Vec::new(), is_whole: true, token: None })
    }

    /// Cards by their paths. One that is gone meanwhile names nobody.
    async fn cards(&self, url: &Uri, wanted: &[(String, Option<String>)]) -> Result<Vec<(String, Card)>, LinkedError> {
        let body = carddav::cards(wanted.iter().map(|(path, _)| path.as_str()));
        // RFC 6352 section 8.7 has the depth passed over; some servers want this one.
        let answer = self.ask(url, Dav { method: "REPORT", is_deep: true, body: &body }).await?;
        if answer.status != StatusCode::MULTI_STATUS {
            return Err(answer.refused("to show cards"));
        }
        let card = |entry: Entry| {
            let names = entry.card.as_deref().map(read_book).unwrap_or_default();
            (decoded(&entry.path), Card { etag: entry.etag, names: names.into_iter().collect() })
        };
        Ok(multistatus(&answer.body)?.entries.into_iter().map(card).collect())
    }
}

/// Of the cards that are there, those that are new or others than they were, as long as there is room.
fn to_read(known: &BTreeMap<String, Card>, there: Vec<(String, Option<String>)>, room: usize) -> Vec<(String, Option<String>)> {
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
