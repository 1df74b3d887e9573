//! This user's address book: the contacts of own addresses. It is of a file, read when the user says so, or at a server ([`carddav`](super::carddav)), read now and then.
//!
//! A book at a server is followed from the device that was told of it; its password stays there, sealed. What it brings is shared as contact lists are. While the server can't be read, what is known
//! goes on counting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};
use halloo_protocol::linked::{BOOK_BYTES_MAX, LinkedId, read_book};
use halloo_protocol::time::UnixTime;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::carddav::{BookRead, CardDav, CardDavParams};
use super::commands::PASSWORD_BYTES_MAX;
use super::{StoredAccount, addresses, secret};
use crate::event_loop::{EventLoop, Internal};
use crate::handle::linked::{BookCommand, LinkBook, LinkBookServer, LinkError};
use crate::handle::problem::NodeError;
use crate::handle::{Event, Reply};
use crate::key_file;
use crate::store::StoreError;
use crate::timestamp::Timestamp;

const BOOK: &str = "linked book";
const SOURCE: &str = "linked book source";

/// Entries of the book kept under one name.
const KEPT_AT_ONCE: usize = 50;

/// Pauses before a book that couldn't be read is read again.
const RETRY_MIN: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3_600);

/// Who may wait for one reading.
const WAITING_MAX: usize = 16;

/// Where a book is, as it is kept.
#[derive(Clone, Debug, Encode, Decode)]
enum Place {
    File(String),
    Server {
        url: String,
        user: String,
        roots: Option<String>,
        /// The password, sealed.
        secret: Vec<u8>,
    },
}

#[derive(Clone, Debug, Encode, Decode)]
struct Source {
    place: Place,
    read_at: UnixTime,
    /// Books at the place.
    books: u32,
}

/// The task that reads a book.
#[derive(Debug)]
struct Following {
    number: u64,
    /// Told, it reads at once.
    again: Arc<Notify>,
    /// Dropped, it ends.
    _task: DropGuard,
}

/// A book that was given and isn't read yet.
#[derive(Debug)]
struct Trying {
    following: Following,
    place: Place,
    reply: Reply<LinkBook, LinkError>,
}

/// The book, and where it is from.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) entries: BTreeMap<LinkedId, Option<String>>,
    source: Option<Source>,
    following: Option<Following>,
    trying: Option<Trying>,
    trouble: Option<String>,
    /// Who waits for it to be read again.
    waiting: Vec<Reply<LinkBook, LinkError>>,
    runs: u64,
}

/// What came of a reading.
#[derive(Debug)]
pub(crate) struct BookNews {
    number: u64,
    read: Result<BookRead, String>,
}

impl Book {
    fn view(&self) -> LinkBook {
        let (source, user) = match self.source.as_ref().map(|source| &source.place) {
            None => (None, None),
            Some(Place::File(path)) => (Some(path.clone()), None),
            Some(Place::Server { url, user, .. }) => (Some(url.clone()), Some(user.clone())),
        };
        LinkBook {
            addresses: self.entries.len(),
            source,
            user,
            books: self.source.as_ref().map_or(0, |source| source.books),
            read_at: self.source.as_ref().map(|source| Timestamp::from_unix_secs(source.read_at.0)),
            reason: self.trouble.clone(),
        }
    }
}

impl Place {
    fn name(&self) -> &str {
        match self {
            Self::File(path) => path,
            Self::Server { url, .. } => url,
        }
    }
}

/// What a password is sealed for.
fn subject(url: &str, user: &str) -> String {
    format!("carddav {user} {url}")
}

fn failed(place: &Place, reason: String) -> LinkError {
    LinkError::Book { book: place.name().to_owned(), reason }
}

impl EventLoop {
    /// Takes up what is kept, and goes on following it.
    pub(super) fn book_start(&mut self) {
        let read = self.store.read::<_, StoreError>(|view| {
            let entries = view.setting_list::<(LinkedId, Option<String>)>(BOOK)?;
            Ok((entries, view.setting_value::<Option<Source>>(SOURCE)?.flatten()))
        });
        match read {
            Ok((entries, source)) => {
                self.linked.book.entries = entries.into_iter().collect();
                self.linked.book.source = source;
            }
            Err(error) => warn!(%error, "the address book isn't read"),
        }
        let Some(place) = self.linked.book.source.as_ref().map(|source| source.place.clone()) else { return };
        match self.follow_book(&place, matches!(place, Place::Server { .. })) {
            Ok(following) => self.linked.book.following = Some(following),
            Err(reason) => self.book_in_trouble(&reason),
        }
    }

    pub(super) fn handle_book_command(&mut self, command: BookCommand) {
        match command {
            BookCommand::File { path, entries, reply } => {
                let place = Place::File(path.to_string_lossy().into_owned());
                match self.follow_book(&place, false) {
                    Ok(following) => {
                        let outcome = self.adopt_book(place, following, BookRead { entries, books: 1 });
                        reply.send(outcome);
                    }
                    Err(reason) => reply.send(Err(failed(&place, reason))),
                }
            }
            BookCommand::Server { options, reply } => self.try_server(*options, reply),
            BookCommand::Show(reply) => reply.send(Ok(self.linked.book.view())),
            BookCommand::Again(reply) => self.read_again(reply),
            BookCommand::Forget(reply) => {
                self.linked.book.following = None;
                self.end_readings();
                let outcome = self.keep_book(None, BTreeMap::new());
                reply.send(outcome);
            }
        }
    }

    fn try_server(&mut self, options: LinkBookServer, reply: Reply<LinkBook, LinkError>) {
        let begun = self.server_place(options).and_then(|place| {
            let following = self.follow_book(&place, true).map_err(|reason| LinkError::Options { reason })?;
            Ok((place, following))
        });
        match begun {
            Ok((place, following)) => {
                self.end_readings();
                self.linked.book.trying = Some(Trying { following, place, reply });
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    fn server_place(&self, options: LinkBookServer) -> Result<Place, LinkError> {
        if self.is_revoked() {
            return Err(NodeError::Revoked.into());
        }
        let LinkBookServer { url, user, password, roots } = options;
        let password = Zeroizing::new(password);
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(LinkError::Options { reason: format!("password: empty, or longer than {PASSWORD_BYTES_MAX} bytes") });
        }
        let internal = |detail: &str| LinkError::Node(NodeError::Internal { detail: detail.to_owned() });
        let nonce = key_file::random_bytes().map_err(|error| internal(&error.to_string()))?;
        let secret = secret::seal(self.identity.device_key(), &subject(&url, &user), &password, nonce);
        let secret = secret.ok_or_else(|| internal("not sealed"))?;
        Ok(Place::Server { url, user, roots: roots.map(|path| path.to_string_lossy().into_owned()), secret })
    }

    fn read_again(&mut self, reply: Reply<LinkBook, LinkError>) {
        let book = &mut self.linked.book;
        match &book.following {
            None => reply.send(Err(LinkError::Options {
                reason: "there is no address book: halloo link book FILE, or https://..".into(),
            })),
            Some(_) if book.waiting.len() >= WAITING_MAX => {
                reply.send(Err(NodeError::LimitReached { what: "waiting for the address book", max: WAITING_MAX }.into()));
            }
            Some(following) => {
                following.again.notify_one();
                book.waiting.push(reply);
            }
        }
    }

    /// Starts the task that reads a book; at once, or when it is told to.
    fn follow_book(&mut self, place: &Place, is_read_now: bool) -> Result<Following, String> {
        let reader = match place {
            Place::File(path) => Reader::File(path.into()),
            Place::Server { url, user, roots, secret } => {
                let password = secret::open(self.identity.device_key(), &subject(url, user), secret);
                let password = password.ok_or("its password was sealed on another device: give the book again")?;
                let params =
                    CardDavParams { url: url.clone(), user: user.clone(), roots: roots.as_ref().map(PathBuf::from), password };
                Reader::Server(Box::new(CardDav::new(&params)?))
            }
        };
        self.linked.book.runs += 1;
        let (number, again, token) = (self.linked.book.runs, Arc::new(Notify::new()), CancellationToken::new());
        if is_read_now {
            again.notify_one();
        }
        let task = BookTask { reader, number, again: again.clone(), every: self.settings.linked.book_every() };
        let (news, ended) = (self.internal_sender.clone(), token.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = news.closed() => {}
                () = ended.cancelled() => {}
                () = task.run(&news) => {}
            }
        });
        Ok(Following { number, again, _task: token.drop_guard() })
    }

    pub(crate) fn handle_book_news(&mut self, news: BookNews) {
        let BookNews { number, read } = news;
        let is_of = |following: &Following| following.number == number;
        if self.linked.book.trying.as_ref().is_some_and(|trying| is_of(&trying.following)) {
            let Some(Trying { following, place, reply }) = self.linked.book.trying.take() else { return };
            let read = read.map_err(|reason| failed(&place, reason));
            let outcome = read.and_then(|read| self.adopt_book(place, following, read));
            return reply.send(outcome);
        }
        if !self.linked.book.following.as_ref().is_some_and(is_of) {
            return;
        }
        let outcome = match (read, self.linked.book.source.clone()) {
            (Ok(read), Some(source)) => self.book_was_read(source.place, read),
            (Err(reason), Some(source)) => {
                self.book_in_trouble(&reason);
                Err(failed(&source.place, reason))
            }
            (_, None) => return,
        };
        std::mem::take(&mut self.linked.book.waiting).into_iter().for_each(|reply| reply.send(outcome.clone()));
    }

    /// The book is this one from now on.
    fn adopt_book(&mut self, place: Place, following: Following, read: BookRead) -> Result<LinkBook, LinkError> {
        self.end_readings();
        let kept = self.book_was_read(place, read)?;
        self.linked.book.following = Some(following);
        Ok(kept)
    }

    fn book_was_read(&mut self, place: Place, read: BookRead) -> Result<LinkBook, LinkError> {
        let books = u32::try_from(read.books).unwrap_or(u32::MAX);
        self.keep_book(Some(Source { place, read_at: self.now().unix, books }), read.entries)
    }

    /// Writes the book; own addresses have these contacts from now on.
    fn keep_book(&mut self, source: Option<Source>, entries: BTreeMap<LinkedId, Option<String>>) -> Result<LinkBook, LinkError> {
        let is_news = self.linked.book.entries != entries;
        let written = self.store.transaction::<_, StoreError>(|tx| {
            if is_news {
                let kept: Vec<(&LinkedId, &Option<String>)> = entries.iter().collect();
                tx.put_setting_list(BOOK, &kept, KEPT_AT_ONCE)?;
            }
            tx.put_setting_value(SOURCE, &source)
        });
        written.map_err(|error| NodeError::Internal { detail: error.to_string() })?;
        let book = &mut self.linked.book;
        (book.source, book.trouble) = (source, None);
        if is_news {
            info!(addresses = entries.len(), "the address book is another");
            book.entries = entries;
            self.take_book();
        }
        Ok(self.linked.book.view())
    }

    fn take_book(&mut self) {
        let by_word = self.linked.accounts.values().map(|account| &account.stored).filter(|stored| addresses::is_by_word(stored));
        let by_word: Vec<StoredAccount> = by_word.cloned().collect();
        for stored in by_word {
            // Whoever waits for the address goes on waiting.
            let asked = self.linked.accounts.get_mut(&stored.id).and_then(|account| account.asked.take());
            if let Err(reason) = self.connect_account(stored, asked) {
                debug!(reason, "an address goes on with the book before");
            }
        }
    }

    fn book_in_trouble(&mut self, reason: &str) {
        let book = &mut self.linked.book;
        let is_news = book.trouble.replace(reason.to_owned()).is_none();
        let Some(source) = book.source.as_ref().filter(|_| is_news) else { return };
        let again = match source.place {
            Place::File(_) => "",
            Place::Server { .. } => "; what was in it goes on counting, and it is tried again",
        };
        let detail = format!("address book {}: {reason}{again}", source.place.name());
        self.events.send(Event::Warning { code: "linked-account".into(), detail });
    }

    /// Whoever waits for a book hears that there is another, or none.
    fn end_readings(&mut self) {
        let other = || LinkError::Options { reason: "another address book was given meanwhile, or this one forgotten".into() };
        std::mem::take(&mut self.linked.book.waiting).into_iter().for_each(|reply| reply.send(Err(other())));
        if let Some(trying) = self.linked.book.trying.take() {
            trying.reply.send(Err(other()));
        }
    }
}

enum Reader {
    File(PathBuf),
    Server(Box<CardDav>),
}

struct BookTask {
    reader: Reader,
    number: u64,
    again: Arc<Notify>,
    every: Duration,
}

impl BookTask {
    /// Reads when it is told to, and a book at a server now and then.
    async fn run(mut self, news: &mpsc::Sender<Internal>) {
        let mut pause = self.every;
        let mut retry = RETRY_MIN;
        loop {
            let is_server = matches!(self.reader, Reader::Server(_));
            tokio::select! {
                () = self.again.notified() => {}
                () = tokio::time::sleep(pause), if is_server => {}
            }
            let read = self.read().await;
            if read.is_ok() {
                (pause, retry) = (self.every, RETRY_MIN);
            } else {
                (pause, retry) = (retry, (retry * 2).min(RETRY_MAX));
            }
            if news.send(Internal::LinkedBook(Box::new(BookNews { number: self.number, read }))).await.is_err() {
                return;
            }
        }
    }

    async fn read(&mut self) -> Result<BookRead, String> {
        match &mut self.reader {
            Reader::Server(server) => server.read().await.map_err(|error| error.to_string()),
            Reader::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_book_file(&path)).await;
                let entries = read.map_err(|error| error.to_string())??;
                Ok(BookRead { entries, books: 1 })
            }
        }
    }
}

/// Reads a file of vCards. Blocks.
pub(crate) fn read_book_file(path: &Path) -> Result<BTreeMap<LinkedId, Option<String>>, String> {
    let failed = |reason: String| format!("{}: {reason}", path.display());
    let length = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if length > BOOK_BYTES_MAX as u64 {
        return Err(failed(format!("more than {BOOK_BYTES_MAX} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    Ok(read_book(&String::from_utf8_lossy(&bytes)))
}
