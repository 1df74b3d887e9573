//! The history as one encrypted file: `docs/history.md` describes it byte by byte.
//!
//! A passphrase gives the key (Argon2id, its cost in the header); the content is a stream of chunks under ChaCha20-Poly1305, each bound to its
//! place, the last one to being the last, all to the header. Inside are lines of JSON. Reading and writing take memory for one chunk and one
//! line, whatever the size. A file is verified from beginning to end before anything of it is believed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use halloo_protocol::group::{GroupSignal, GroupText};
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{AuthorityKey, DeviceKey, IdentityKey};
use halloo_protocol::message::{Correspondent, Envelope, MessageBody, MessageState};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::Extensions;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::handle::history::{HistoryError, Moved};
use crate::messages::{Kept, Told, conversation_id, history_item, keep_told};
use crate::receipts::Conversation;
use crate::store::{MessageRow, Store, StoreError, Transaction};

/// First bytes of every such file; the last one is the version.
const MAGIC: [u8; 16] = *b"halloo history\0\x01";

/// Magic, cost of the passphrase (memory in KiB, passes, lanes), salt.
const HEADER_BYTES: usize = 16 + 12 + SALT_BYTES;
const SALT_BYTES: usize = 16;

/// What a passphrase costs in files that are written: RFC 9106's second recommendation.
const COST: Cost = Cost { memory_kib: 64 * 1_024, passes: 3, lanes: 4 };

/// What it may cost in files that are read: 1 GiB of memory is what a file can make a machine take.
const COST_MAX: Cost = Cost { memory_kib: 1_024 * 1_024, passes: 16, lanes: 16 };

/// Less than this isn't written by anybody who means it.
const COST_MIN: Cost = Cost { memory_kib: 8 * 1_024, passes: 1, lanes: 1 };

/// Plain bytes of a chunk, and what its seal adds.
const CHUNK_BYTES: usize = 64 * 1_024;
const TAG_BYTES: usize = 16;

/// Longest line: a text of the largest size, every byte of it escaped.
const LINE_BYTES_MAX: usize = 256 * 1_024;

/// Messages read or kept at once.
const PAGE: usize = 128;

/// A passphrase; wiped when dropped, never printed.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// A passphrase, as it was typed.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Why a file can't be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// There is something of that name.
    #[error("{} is there already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The passphrase can't be used.
    #[error("the passphrase is empty, or the cost of it in the file is out of range: {reason}")]
    Weak {
        /// What is wrong.
        reason: String,
    },
    /// The file isn't one of these, or of a later version.
    #[error("not a history that can be read: {reason}")]
    NotAnArchive {
        /// What is wrong.
        reason: String,
    },
    /// The first chunk doesn't open.
    #[error("wrong passphrase, or the beginning of the file was altered")]
    Passphrase,
    /// A later chunk doesn't open.
    #[error("the file was altered in or around byte {at}")]
    Altered {
        /// Where the chunk begins.
        at: u64,
    },
    /// The end is missing.
    #[error("the file was cut short")]
    Cut,
    /// It is somebody else's.
    #[error("it is the history of another user")]
    Foreign {},
    /// The database refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    cost: Cost,
    salt: [u8; SALT_BYTES],
}

impl Header {
    fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..16].copy_from_slice(&MAGIC);
        bytes[16..20].copy_from_slice(&self.cost.memory_kib.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.cost.passes.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.cost.lanes.to_be_bytes());
        bytes[28..].copy_from_slice(&self.salt);
        bytes
    }

    fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, ArchiveError> {
        let refuse = |reason: &str| ArchiveError::NotAnArchive { reason: reason.to_owned() };
        if bytes[..15] != MAGIC[..15] {
            return Err(refuse("it begins otherwise"));
        }
        if bytes[15] != MAGIC[15] {
            return Err(refuse("it is of another version"));
        }
        let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let cost = Cost { memory_kib: number(16), passes: number(20), lanes: number(24) };
        let is_within = |value: u32, min: u32, max: u32| (min..=max).contains(&value);
        let is_sane = is_within(cost.memory_kib, COST_MIN.memory_kib, COST_MAX.memory_kib)
            && is_within(cost.passes, COST_MIN.passes, COST_MAX.passes)
            && is_within(cost.lanes, COST_MIN.lanes, COST_MAX.lanes);
        if !is_sane {
            return Err(ArchiveError::Weak { reason: format!("{cost:?}") });
        }
        let mut salt = [0; SALT_BYTES];
        salt.copy_from_slice(&bytes[28..]);
        Ok(Self { cost, salt })
    }

    fn cipher(&self, passphrase: &Passphrase) -> Result<ChaCha20Poly1305, ArchiveError> {
        let weak = |reason: String| ArchiveError::Weak { reason };
        if passphrase.0.is_empty() {
            return Err(weak("empty".into()));
        }
        let params = Params::new(self.cost.memory_kib, self.cost.passes, self.cost.lanes, Some(32));
        let params = params.map_err(|error| weak(error.to_string()))?;
        let mut key = Zeroizing::new([0_u8; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.0.as_bytes(), &self.salt, &mut *key)
            .map_err(|error| weak(error.to_string()))?;
        Ok(ChaCha20Poly1305::new((&*key).into()))
    }
}

/// Seven zeros, the number of the chunk, and 1 in the last one. The key is of this file alone, so numbers don't repeat under it.
fn nonce(number: u32, is_last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[7..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = u8::from(is_last);
    nonce.into()
}

/// Seals what is written to it, chunk by chunk.
struct Sealer<W> {
    to: W,
    cipher: ChaCha20Poly1305,
    header: [u8; HEADER_BYTES],
    number: u32,
    buffer: Vec<u8>,
}

impl<W: Write> Sealer<W> {
    fn new(mut to: W, header: Header, passphrase: &Passphrase) -> Result<Self, HistoryIo> {
        let cipher = header.cipher(passphrase)?;
        let header = header.bytes();
        to.write_all(&header)?;
        Ok(Self { to, cipher, header, number: 0, buffer: Vec::with_capacity(CHUNK_BYTES) })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), HistoryIo> {
        while !bytes.is_empty() {
            // A full chunk is sealed when more comes: until then it may be the last.
            if self.buffer.len() == CHUNK_BYTES {
                self.seal(false)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<W, HistoryIo> {
        self.seal(true)?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn seal(&mut self, is_last: bool) -> Result<(), HistoryIo> {
        let payload = Payload { msg: &self.buffer, aad: &self.header };
        let sealed = self.cipher.encrypt(&nonce(self.number, is_last), payload);
        let sealed = sealed.map_err(|_| io::Error::other("a chunk can't be sealed"))?;
        self.to.write_all(&sealed)?;
        self.number = self.number.checked_add(1).ok_or_else(|| io::Error::other("the history is too long for one file"))?;
        self.buffer.clear();
        Ok(())
    }
}

/// Opens a file chunk by chunk, and gives its lines.
struct Opener<R> {
    from: R,
    cipher: ChaCha20Poly1305,
    header: [u8; HEADER_BYTES],
    number: u32,
    /// The chunk after this one, sealed: whether there is one says whether this is the last.
    ahead: Vec<u8>,
    plain: Vec<u8>,
    used: usize,
    is_over: bool,
}

impl<R: Read> Opener<R> {
    fn new(mut from: R, passphrase: &Passphrase) -> Result<Self, HistoryIo> {
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => HistoryIo::Archive(ArchiveError::NotAnArchive { reason: "it is too short".into() }),
            _ => HistoryIo::Io(error),
        })?;
        let cipher = Header::parse(&header)?.cipher(passphrase)?;
        let mut opener = Self { from, cipher, header, number: 0, ahead: Vec::new(), plain: Vec::new(), used: 0, is_over: false };
        opener.ahead = opener.read_sealed()?;
        Ok(opener)
    }

    fn read_sealed(&mut self) -> io::Result<Vec<u8>> {
        let mut sealed = Vec::new();
        let whole = (CHUNK_BYTES + TAG_BYTES) as u64;
        self.from.by_ref().take(whole).read_to_end(&mut sealed)?;
        Ok(sealed)
    }

    /// Opens the next chunk; `false` at the end.
    fn next_chunk(&mut self) -> Result<bool, HistoryIo> {
        if self.is_over {
            return Ok(false);
        }
        let next = if self.ahead.len() == CHUNK_BYTES + TAG_BYTES { self.read_sealed()? } else { Vec::new() };
        let sealed = std::mem::replace(&mut self.ahead, next);
        let is_last = self.ahead.is_empty();
        let open = |is_last: bool| {
            let payload = Payload { msg: &sealed, aad: &self.header };
            self.cipher.decrypt(&nonce(self.number, is_last), payload)
        };
        let Ok(opened) = open(is_last) else {
            let is_cut = sealed.len() < TAG_BYTES || (is_last && open(false).is_ok());
            let at = HEADER_BYTES as u64 + u64::from(self.number) * (CHUNK_BYTES + TAG_BYTES) as u64;
            return Err(HistoryIo::Archive(match self.number {
                _ if is_cut => ArchiveError::Cut,
                0 => ArchiveError::Passphrase,
                _ => ArchiveError::Altered { at },
            }));
        };
        self.plain.drain(..std::mem::take(&mut self.used));
        self.plain.extend_from_slice(&opened);
        self.number = self.number.saturating_add(1);
        self.is_over = is_last;
        Ok(true)
    }

    /// The next line without its end; `None` at the end of the file.
    fn line(&mut self) -> Result<Option<Vec<u8>>, HistoryIo> {
        let mut searched = 0;
        loop {
            let rest = &self.plain[self.used..];
            if let Some(length) = rest[searched..].iter().position(|byte| *byte == b'\n').map(|at| at + searched) {
                let line = rest[..length].to_vec();
                self.used += length + 1;
                return Ok(Some(line));
            }
            searched = rest.len();
            if searched > LINE_BYTES_MAX {
                return Err(ArchiveError::NotAnArchive { reason: "a line is too long".into() }.into());
            }
            if !self.next_chunk()? {
                return if searched == 0 {
                    Ok(None)
                } else {
                    Err(ArchiveError::NotAnArchive { reason: "its last line has no end".into() }.into())
                };
            }
        }
    }
}

/// What went wrong, before the file's name is known.
#[derive(Debug)]
enum HistoryIo {
    Io(io::Error),
    Archive(ArchiveError),
}

impl From<io::Error> for HistoryIo {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ArchiveError> for HistoryIo {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl From<StoreError> for HistoryIo {
    fn from(error: StoreError) -> Self {
        Self::Archive(error.into())
    }
}

impl HistoryIo {
    fn of(self, path: &Path) -> HistoryError {
        match self {
            Self::Io(source) if source.kind() == ErrorKind::AlreadyExists => {
                ArchiveError::Exists { path: path.to_owned() }.into()
            }
            Self::Io(source) => ArchiveError::File { path: path.to_owned(), source }.into(),
            Self::Archive(error) => error.into(),
        }
    }
}

/// A user by what is the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Person {
    Named { name: String, authority: String },
    Key { key: String },
}

impl Person {
    fn of(user: &UserId) -> Self {
        match user {
            UserId::Named { authority, name } => Self::Named { name: name.to_string(), authority: authority.to_string() },
            UserId::Key(identity) => Self::Key { key: identity.to_string() },
        }
    }

    fn user(&self) -> Option<UserId> {
        Some(match self {
            Self::Named { name, authority } => {
                UserId::Named { authority: authority.parse::<AuthorityKey>().ok()?, name: name.parse().ok()? }
            }
            Self::Key { key } => UserId::Key(key.parse::<IdentityKey>().ok()?),
        })
    }
}

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Peer {
    Group { group: String },
    User(Person),
}

impl Peer {
    fn of(with: &Correspondent) -> Self {
        match with {
            Correspondent::Group(group) => Self::Group { group: group.to_string() },
            Correspondent::User(user) => Self::User(Person::of(user)),
        }
    }

    fn correspondent(&self) -> Option<Correspondent> {
        Some(match self {
            Self::Group { group } => Correspondent::Group(group.parse().ok()?),
            Self::User(person) => Correspondent::User(person.user()?),
        })
    }
}

/// Whose history it is, and on which device.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) user: UserId,
    pub(super) device: DeviceKey,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
enum Line {
    /// The first.
    Head { user: Person, exported_at: u64 },
    /// A message.
    Message {
        with: Peer,
        author: Person,
        device: String,
        id: String,
        counter: u64,
        sent_at: u64,
        kept_at: u64,
        state: u8,
        text: String,
    },
    /// The last.
    Tail { messages: u64 },
}

impl Line {
    /// `None` for what isn't part of a conversation.
    fn of(row: &MessageRow, me: &Owner, states: &mut States, store: &Store) -> Result<Option<Self>, StoreError> {
        let Some(kept) = Kept::decode(&row.content) else { return Ok(None) };
        let Some(text) = kept.envelope().body.text().map(str::to_owned) else { return Ok(None) };
        let is_received = matches!(kept, Kept::Received { .. });
        let item = history_item(kept, row, me.device, &me.user);
        let device = item.device.unwrap_or(me.device);
        let state = match is_received {
            true if states.of(&item.with, store)?.is_read(&device, item.counter) => MessageState::Read.number(),
            true => MessageState::Delivered.number(),
            false => item.state,
        };
        Ok(Some(Self::Message {
            with: Peer::of(&item.with),
            author: Person::of(&item.author),
            device: device.to_string(),
            id: item.id.to_string(),
            counter: item.counter,
            sent_at: item.sent_at.0,
            kept_at: item.kept_at.0,
            state,
            text,
        }))
    }

    fn message(self, me: &UserId) -> Option<Told> {
        let Self::Message { with, author, device, id, counter, sent_at, kept_at, state, text } = self else { return None };
        let with = with.correspondent()?;
        let body = match &with {
            Correspondent::User(_) => MessageBody::Text(text),
            // What its sender knew of the group mattered when it came.
            Correspondent::Group(_) => {
                let text = GroupText { text, digest: [0; 8], extensions: Extensions::none() };
                MessageBody::Group(Box::new(GroupSignal::Text(text)))
            }
        };
        let conversation = conversation_id(me, &with);
        let (id, sent_at) = (id.parse().ok()?, UnixTime(sent_at));
        let envelope = Envelope { id, conversation, counter, sent_at, body, extensions: Extensions::none() };
        envelope.check().ok()?;
        let author = author.user()?;
        let is_mine = author == *me;
        let is_theirs = with.user().is_none_or(|user| *user == author);
        (is_mine || is_theirs).then_some(())?;
        Some(Told { with, author, device: device.parse().ok()?, envelope, state, kept_at: UnixTime(kept_at), is_mine })
    }
}

/// What was read, by conversation, as it was when the first message of it was written.
#[derive(Debug, Default)]
struct States(BTreeMap<Correspondent, Conversation>);

impl States {
    fn of(&mut self, with: &Correspondent, store: &Store) -> Result<&Conversation, StoreError> {
        if !self.0.contains_key(with) {
            let state = store.read::<_, StoreError>(|view| Conversation::load(view, with))?;
            self.0.insert(with.clone(), state);
        }
        Ok(&self.0[with])
    }
}

/// Keeps a message that was brought in, unless it is here. True if it is new.
fn keep(tx: &Transaction, told: &Told, me: &Owner, now: UnixTime) -> Result<bool, StoreError> {
    let is_new = keep_told(tx, told, me.device, now)?;
    if is_new && MessageState::of_number(told.state) == MessageState::Read {
        // Read there is read here.
        Conversation::note_own(tx, &told.with, told.device, told.envelope.counter)?;
    }
    Ok(is_new)
}

/// Writes everything into a new file.
pub(super) fn export(
    store: &Store,
    me: &Owner,
    now: UnixTime,
    path: &Path,
    passphrase: &Passphrase,
    salt: [u8; SALT_BYTES],
) -> Result<Moved, HistoryError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let file = options.open(path).map_err(|error| HistoryIo::Io(error).of(path))?;
    let written = write_all(store, me, now, file, passphrase, Header { cost: COST, salt });
    let messages = written.map_err(|error| {
        // Half a history is of no use to anybody.
        drop(std::fs::remove_file(path));
        error.of(path)
    })?;
    Ok(Moved { path: path.display().to_string(), messages, new: 0 })
}

fn write_all(
    store: &Store,
    me: &Owner,
    now: UnixTime,
    file: File,
    passphrase: &Passphrase,
    header: Header,
) -> Result<u64, HistoryIo> {
    let mut sealer = Sealer::new(BufWriter::new(file), header, passphrase)?;
    put_line(&mut sealer, &Line::Head { user: Person::of(&me.user), exported_at: now.0 })?;
    let (mut after, mut messages) = (0, 0);
    let mut states = States::default();
    loop {
        let rows = store.read::<_, StoreError>(|view| view.messages_after(after, PAGE))?;
        let Some((last, _)) = rows.last() else { break };
        after = *last;
        for (_, row) in &rows {
            if let Some(line) = Line::of(row, me, &mut states, store)? {
                put_line(&mut sealer, &line)?;
                messages += 1;
            }
        }
    }
    put_line(&mut sealer, &Line::Tail { messages })?;
    let file = sealer.finish()?.into_inner().map_err(|error| HistoryIo::Io(error.into_error()))?;
    file.sync_all()?;
    Ok(messages)
}

fn put_line<W: Write>(sealer: &mut Sealer<W>, line: &Line) -> Result<(), HistoryIo> {
    let mut bytes = serde_json::to_vec(line).map_err(io::Error::from)?;
    bytes.push(b'\n');
    sealer.write(&bytes)
}

/// Adds what isn't here. The file is read twice: once to see that all of it is whole, once to take it over.
pub(super) fn import(
    store: &Store,
    me: &Owner,
    now: UnixTime,
    path: &Path,
    passphrase: &Passphrase,
) -> Result<Moved, HistoryError> {
    let open = || File::open(path).map(BufReader::new).map_err(HistoryIo::Io);
    let read = || -> Result<Moved, HistoryIo> {
        let messages = read_all(open()?, &me.user, passphrase, |_| Ok(()))?;
        let mut new = 0;
        let mut page = Vec::with_capacity(PAGE);
        let mut keep_page = |page: &mut Vec<Told>| -> Result<(), HistoryIo> {
            new += store.transaction::<_, StoreError>(|tx| {
                page.drain(..).map(|told| keep(tx, &told, me, now).map(u64::from)).sum::<Result<u64, _>>()
            })?;
            Ok(())
        };
        read_all(open()?, &me.user, passphrase, |message| {
            page.push(message);
            if page.len() < PAGE { Ok(()) } else { keep_page(&mut page) }
        })?;
        keep_page(&mut page)?;
        Ok(Moved { path: path.display().to_string(), messages, new })
    };
    read().map_err(|error| error.of(path))
}

fn read_all(
    file: impl Read,
    me: &UserId,
    passphrase: &Passphrase,
    mut take: impl FnMut(Told) -> Result<(), HistoryIo>,
) -> Result<u64, HistoryIo> {
    let refuse = |reason: &str| HistoryIo::Archive(ArchiveError::NotAnArchive { reason: reason.to_owned() });
    let mut opener = Opener::new(file, passphrase)?;
    let mut next = || -> Result<Option<Line>, HistoryIo> {
        let line = opener.line()?;
        line.map(|line| serde_json::from_slice(&line).map_err(|_| refuse("a line makes no sense"))).transpose()
    };
    match next()? {
        Some(Line::Head { user, .. }) if user.user().as_ref() == Some(me) => {}
        Some(Line::Head { .. }) => return Err(ArchiveError::Foreign {}.into()),
        _ => return Err(refuse("its first line is missing")),
    }
    let mut messages = 0;
    loop {
        match next()? {
            Some(Line::Tail { messages: said }) if said == messages => break,
            Some(line @ Line::Message { .. }) => {
                take(line.message(me).ok_or_else(|| refuse("a message makes no sense"))?)?;
                messages += 1;
            }
            Some(_) => return Err(refuse("a line stands where it doesn't belong")),
            None => return Err(refuse("its last line is missing")),
        }
    }
    if next()?.is_some() {
        return Err(refuse("something follows its last line"));
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cheap enough for a test without optimisation.
    const CHEAP: Cost = Cost { memory_kib: COST_MIN.memory_kib, passes: 1, lanes: 1 };

    fn sealed(plain: &[u8], passphrase: &str) -> Vec<u8> {
        let header = Header { cost: CHEAP, salt: [5; SALT_BYTES] };
        let mut sealer = Sealer::new(Vec::new(), header, &Passphrase::new(passphrase.into())).expect("memory");
        sealer.write(plain).expect("memory");
        sealer.finish().expect("memory")
    }

    fn opened(file: &[u8], passphrase: &str) -> Result<Vec<u8>, ArchiveError> {
        let read = || -> Result<Vec<u8>, HistoryIo> {
            let mut opener = Opener::new(file, &Passphrase::new(passphrase.into()))?;
            let mut plain = Vec::new();
            while let Some(line) = opener.line()? {
                plain.extend(line);
                plain.push(b'\n');
            }
            Ok(plain)
        };
        read().map_err(|error| match error {
            HistoryIo::Archive(error) => error,
            HistoryIo::Io(error) => panic!("{error}"),
        })
    }

    fn lines(bytes: usize) -> Vec<u8> {
        let mut plain: Vec<u8> = (0..bytes).map(|at| if at % 100 == 99 { b'\n' } else { b'a' + (at % 23) as u8 }).collect();
        if let Some(last) = plain.last_mut() {
            *last = b'\n';
        }
        plain
    }

    #[test]
    fn what_is_sealed_opens_again_whatever_its_length() {
        for bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES] {
            let plain = lines(bytes);
            let file = sealed(&plain, "correct horse");
            assert_eq!(file.len(), HEADER_BYTES + bytes + TAG_BYTES * bytes.div_ceil(CHUNK_BYTES).max(1));
            assert_eq!(opened(&file, "correct horse").expect("opens"), plain, "{bytes}");
        }
    }

    fn user(number: u8) -> UserId {
        UserId::Key(IdentityKey(halloo_protocol::key::PublicKey([number; 32])))
    }

    fn owner() -> Owner {
        Owner { user: user(1), device: DeviceKey(halloo_protocol::key::PublicKey([200; 32])) }
    }

    /// Every third one in a group, every second one of the user's own.
    fn message(number: u8, text: &str) -> Told {
        let with = if number.is_multiple_of(3) {
            Correspondent::Group(halloo_protocol::id::GroupId([7; 16]))
        } else {
            Correspondent::User(user(2))
        };
        let is_mine = number.is_multiple_of(2);
        let author = if is_mine { user(1) } else { user(2) };
        let line = Line::Message {
            with: Peer::of(&with),
            author: Person::of(&author),
            device: DeviceKey(halloo_protocol::key::PublicKey([if is_mine { 200 } else { 2 }; 32])).to_string(),
            id: halloo_protocol::id::MessageId([number; 16]).to_string(),
            counter: u64::from(number) + 1,
            sent_at: 1_000 + u64::from(number),
            kept_at: 2_000 + u64::from(number),
            state: if is_mine || number > 100 { 4 } else { 3 },
            text: text.to_owned(),
        };
        line.message(&user(1)).expect("it makes sense")
    }

    #[test]
    fn a_history_comes_back_once_and_is_found() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("x.history");
        let (old, new) = (Store::in_memory().expect("memory"), Store::in_memory().expect("memory"));
        let (me, now) = (owner(), UnixTime(5_000));
        let keep = |store: &Store, told: &Told| {
            store.transaction::<_, StoreError>(|tx| super::keep(tx, told, &me, now)).expect("memory")
        };
        let messages: Vec<Told> = (0..200).map(|number| message(number, &format!("text {number} of \"many\" \n 東京"))).collect();
        for message in &messages {
            assert!(keep(&old, message));
        }
        assert!(keep(&new, &messages[7]) && keep(&new, &message(250, "another")));
        let passphrase = Passphrase::new("p".into());
        let moved = export(&old, &me, now, &path, &passphrase, [3; SALT_BYTES]).expect("written");
        assert_eq!(moved.messages, 200);
        assert!(matches!(
            export(&old, &me, now, &path, &passphrase, [3; SALT_BYTES]),
            Err(HistoryError::Archive(ArchiveError::Exists { .. }))
        ));
        let stranger = Owner { user: user(3), ..owner() };
        let refused = import(&new, &stranger, now, &path, &passphrase);
        assert!(matches!(refused, Err(HistoryError::Archive(ArchiveError::Foreign {}))), "{refused:?}");
        let moved = import(&new, &me, now, &path, &passphrase).expect("read");
        assert_eq!((moved.messages, moved.new), (200, 199));
        assert_eq!(import(&new, &me, now, &path, &passphrase).expect("read").new, 0);
        let mut states = States::default();
        let rows = new.read::<_, StoreError>(|view| view.messages_after(0, 1_000)).expect("memory");
        let lines = rows.iter().filter_map(|(_, row)| Line::of(row, &me, &mut states, &new).expect("memory"));
        let mut found: Vec<Told> = lines.filter_map(|line| line.message(&me.user)).collect();
        assert_eq!(found.len(), 201);
        found.sort_by_key(|told| told.envelope.counter);
        assert_eq!(found[..200], messages);
        let with = Correspondent::User(user(2));
        let state = new.read::<_, StoreError>(|view| Conversation::load(view, &with)).expect("memory");
        let mut read = messages.iter().filter(|told| told.with == with && !told.is_mine && told.state == 4);
        assert!(read.all(|told| state.is_read(&told.device, told.envelope.counter)), "what was read isn't unread again");
        let (indexed, waiting) = new
            .read::<_, StoreError>(|view| {
                Ok((view.messages_with("東京", None, 1_000)?.len(), view.unfinished_messages(10)?.len()))
            })
            .expect("memory");
        assert_eq!((indexed, waiting), (200, 0), "nothing is sent again");
    }

    #[test]
    fn wrong_altered_and_cut_files_are_told_apart() {
        let file = sealed(&lines(3 * CHUNK_BYTES), "p");
        assert!(matches!(opened(&file, "q"), Err(ArchiveError::Passphrase)));
        assert!(matches!(opened(&file, ""), Err(ArchiveError::Weak { .. })));
        let sealed_chunk = CHUNK_BYTES + TAG_BYTES;
        let altered = |at: usize| {
            let mut file = file.clone();
            file[at] ^= 1;
            opened(&file, "p")
        };
        assert!(matches!(altered(HEADER_BYTES - 1), Err(ArchiveError::Passphrase)), "another salt, another key");
        assert!(matches!(altered(HEADER_BYTES + 5), Err(ArchiveError::Passphrase)));
        assert!(matches!(altered(HEADER_BYTES + sealed_chunk + 5), Err(ArchiveError::Altered { .. })));
        assert!(matches!(altered(file.len() - 1), Err(ArchiveError::Altered { .. })));
        assert!(matches!(altered(3), Err(ArchiveError::NotAnArchive { .. })));
        assert!(matches!(altered(16), Err(ArchiveError::Weak { .. })), "a cost nobody should pay");
        for whole_chunks in [1, 2] {
            let cut = &file[..HEADER_BYTES + whole_chunks * sealed_chunk];
            assert!(matches!(opened(cut, "p"), Err(ArchiveError::Cut)), "{whole_chunks}");
        }
        assert!(opened(&file[..file.len() - 3], "p").is_err());
        assert!(opened(&file[..HEADER_BYTES], "p").is_err());
        assert!(matches!(opened(&file[..10], "p"), Err(ArchiveError::NotAnArchive { .. })));
        let longer = [&file[..], &[0; 40]].concat();
        assert!(opened(&longer, "p").is_err());
        // Chunks that change places.
        let mut swapped = file[..HEADER_BYTES].to_vec();
        swapped.extend_from_slice(&file[HEADER_BYTES + sealed_chunk..HEADER_BYTES + 2 * sealed_chunk]);
        swapped.extend_from_slice(&file[HEADER_BYTES..HEADER_BYTES + sealed_chunk]);
        swapped.extend_from_slice(&file[HEADER_BYTES + 2 * sealed_chunk..]);
        assert!(opened(&swapped, "p").is_err());
    }
}
