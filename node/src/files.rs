//! Files: offered to users, fetched by one of their devices, resumed by itself whatever stops in between.
//!
//! `halloo-protocol`'s `file` says how it goes; here is who may do what, what is kept, and the threads that touch the disk
//! ([`disk`]). The sender's half is in `files/send.rs`, the receiver's in `files/receive.rs`.
//!
//! Everything about a file that has to outlive this process is a [`Row`] in the database; what a running transfer needs beyond is made anew
//! from it. A chunk is written down as had after the disk has it. Neither side ever holds more of a file in memory than the blocks under way.

mod disk;
mod receive;
mod send;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use halloo_protocol::call::Reason;
use halloo_protocol::contact::privacy::{Kind, Relation};
use halloo_protocol::event::EventKind;
use halloo_protocol::file::{FileEnd, FileId, FileOffer, FileRoot, FileSignal, OFFER_SECS};
use halloo_protocol::id::{ConversationId, MessageId};
use halloo_protocol::identity::{UserId, VerifiedChain};
use halloo_protocol::key::{DeviceKey, IdentityKey};
use halloo_protocol::message::{DeliveryStatus, Envelope, MessageBody, MessageState, Recipient};
use halloo_protocol::time::{Now, UnixTime};
use halloo_protocol::wire::{self, Extensions};
use tracing::{debug, warn};

use crate::event_loop::EventLoop;
use crate::handle::files::{FileChange, FileCommand, FileError, FileList, FileSource, FileState, FileView};
use crate::handle::problem::NodeError;
use crate::handle::{Event, Reply};
use crate::store::{StoreError, VALUE_BYTES_MAX};
use crate::timestamp::Timestamp;
use crate::wording::Sentence;
pub(crate) use disk::FileNews;
pub(crate) use receive::FileRequest;

/// Files known at once, ended ones included; the one that ended first makes room, and if none has, new ones are refused.
const FILES_MAX: usize = 1_000;

/// Offers of one user that may wait to be answered; more are refused, and come again by the sender's retries.
const OFFERS_PER_USER_MAX: usize = 64;

/// Offers of all users that may wait.
const OFFERS_MAX: usize = 500;

/// How long an accepted file may take: as long as a message is tried.
const TRANSFER_SECS: u64 = 30 * 86_400;

/// Callers waiting for files.
const WAITERS_MAX: usize = 256;

/// Shortest beginning of an id that names a file.
const ID_CHARS_MIN: usize = 4;

/// How often offers that have run out are looked for.
const EXPIRY_EVERY: Duration = Duration::from_secs(30);

/// Progress is told at every twentieth of a file: the event history holds a thousand.
const PROGRESS_STEPS: u64 = 20;

/// Over how long a rate is measured.
const RATE_OVER: Duration = Duration::from_secs(1);

/// What is kept of a file.
#[derive(Clone, Debug, Encode, Decode)]
struct Row {
    offer: FileOffer,
    incoming: bool,
    with: UserId,
    state: u8,
    /// What is sent; or where it is to be, then where it is.
    path: Option<String>,
    /// Where it grows.
    part: Option<String>,
    /// The device that fetches it; or the one that has it.
    device: Option<DeviceKey>,
    /// When the file that is sent was last changed.
    modified: disk::Modified,
    offered_at: UnixTime,
    ended_at: UnixTime,
    problem: Option<String>,
    /// The only identity key under which the other side gets it, where it was sent to an address in a linked system.
    identity: Option<IdentityKey>,
}

const STATES: [FileState; 9] = [
    FileState::Preparing,
    FileState::Offered,
    FileState::Accepted,
    FileState::Done,
    FileState::Declined,
    FileState::Cancelled,
    FileState::Failed,
    FileState::Expired,
    FileState::Elsewhere,
];

impl Row {
    /// Reads what is kept; rows of earlier versions end before the identity key.
    fn read(bytes: &[u8]) -> Option<Self> {
        let before = || [bytes, &wire::encode(&None::<IdentityKey>)].concat();
        wire::decode(bytes, VALUE_BYTES_MAX).or_else(|_| wire::decode(&before(), VALUE_BYTES_MAX)).ok()
    }

    fn state(&self) -> FileState {
        STATES.get(usize::from(self.state)).copied().unwrap_or(FileState::Failed)
    }

    fn set_state(&mut self, state: FileState) {
        let number = STATES.iter().position(|known| *known == state).and_then(|number| u8::try_from(number).ok());
        self.state = number.unwrap_or(self.state);
    }

    const fn id(&self) -> FileId {
        self.offer.id
    }
}

/// Bytes a second, over the last while.
#[derive(Clone, Copy, Debug)]
struct Meter {
    since: Instant,
    bytes: u64,
    rate: Option<u64>,
}

impl Meter {
    const fn new(now: Instant, bytes: u64) -> Self {
        Self { since: now, bytes, rate: None }
    }

    /// Looks at how much there is now.
    fn look(&mut self, bytes: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < RATE_OVER {
            return;
        }
        let more = bytes.saturating_sub(self.bytes);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rate for people"
        )]
        let rate = (more as f64 / elapsed.as_secs_f64()) as u64;
        *self = Self { since: now, bytes, rate: (rate > 0).then_some(rate) };
    }
}

/// What runs for a file.
#[derive(Debug)]
enum Live {
    Nothing,
    Hashing(disk::Hashing),
    Serving(Box<send::Serving>),
    Receiving(Box<receive::Receiving>),
}

#[derive(Debug)]
struct Entry {
    row: Row,
    live: Live,
    /// When it is looked at again, for what is to be begun.
    retry_at: Instant,
    /// Bytes the recipient has, as far as is known.
    bytes: u64,
    meter: Meter,
    /// The last step of progress told.
    told: u64,
}

impl Entry {
    const fn new(row: Row, bytes: u64, now: Instant) -> Self {
        Self { row, live: Live::Nothing, retry_at: now, bytes, meter: Meter::new(now, bytes), told: 0 }
    }
}

/// All files.
#[derive(Debug)]
pub(crate) struct FilesState {
    entries: HashMap<FileId, Entry>,
    waiters: Vec<(FileId, Reply<FileView, FileError>)>,
    /// Number of the last worker started.
    workers: u64,
    ration: receive::Ration,
    limiter: receive::Limiter,
    expiry_at: Instant,
}

impl FilesState {
    pub(crate) fn new(now: Instant) -> Self {
        let (ration, limiter) = (receive::Ration::new(now), receive::Limiter::new(now));
        Self { entries: HashMap::new(), waiters: Vec::new(), workers: 0, ration, limiter, expiry_at: now }
    }

    const fn next_worker(&mut self) -> u64 {
        self.workers += 1;
        self.workers
    }
}

fn internal(error: &StoreError) -> FileError {
    FileError::Node(NodeError::Internal { detail: error.to_string() })
}

// What users ask for.
impl EventLoop {
    /// Takes up what an earlier run left.
    pub(crate) fn files_start(&mut self) {
        let rows = match self.store.read::<_, StoreError>(|view| view.files()) {
            Ok(rows) => rows,
            Err(error) => return warn!(%error, "files not restored from the database"),
        };
        let now = Instant::now();
        for row in rows.into_iter().filter_map(|bytes| Row::read(&bytes)) {
            let bytes = match row.state() {
                FileState::Done => row.offer.size,
                FileState::Accepted if row.incoming => self.stored_bytes(&row),
                _ => 0,
            };
            self.files.entries.insert(row.id(), Entry::new(row, bytes, now));
        }
    }

    pub(crate) fn handle_files(&mut self, command: FileCommand) {
        match command {
            FileCommand::Send { to, source, reply } => match self.sought_in_directory(&to) {
                Some(id) => self.offer_by_directory(id, source, reply),
                None => self.send_file_to(&to, source, reply),
            },
            FileCommand::List(reply) => reply.send(Ok(self.file_list())),
            FileCommand::Get { id, reply } => reply.send(self.find_file(&id).and_then(|id| self.file_view(&id))),
            FileCommand::Change { id, change, reply } => reply.send(self.change_file(&id, change)),
            FileCommand::Wait { id, reply } => self.wait_for_file(&id, reply),
        }
    }

    /// What can be asked of a node that sleeps.
    pub(crate) fn handle_files_asleep(&mut self, command: FileCommand) {
        match command {
            FileCommand::List(_) | FileCommand::Get { .. } => self.handle_files(command),
            other => other.refuse(NodeError::Suspended),
        }
    }

    /// Offers a file to somebody who is known.
    pub(crate) fn send_file_to(&mut self, to: &str, source: FileSource, reply: Reply<FileView, FileError>) {
        reply.send(self.send_file(to, source));
    }

    fn send_file(&mut self, to: &str, source: FileSource) -> Result<FileView, FileError> {
        let user = self.parse_user_or_linked(to)?;
        let identity = self.linked_key(to);
        self.refuse_changed(&user)?;
        self.make_room_for_file()?;
        let now = self.now();
        let id = FileId::random(&mut self.rng);
        let offer = FileOffer {
            id,
            media_type: media_type(&source.name).to_owned(),
            name: source.name,
            size: source.size,
            root: FileRoot([0; 32]),
            expires_at: now.unix.plus_secs(OFFER_SECS),
            extensions: Extensions::none(),
        };
        let row = Row {
            offer,
            incoming: false,
            with: user,
            state: 0,
            path: Some(source.path),
            part: None,
            device: None,
            modified: 0,
            offered_at: now.unix,
            ended_at: UnixTime(0),
            problem: None,
            identity,
        };
        self.keep_file(&row, &[])?;
        self.files.entries.insert(id, Entry::new(row, 0, now.instant));
        self.begin_hashing();
        self.file_view(&id)
    }

    fn make_room_for_file(&mut self) -> Result<(), FileError> {
        if self.files.entries.len() < FILES_MAX {
            return Ok(());
        }
        let ended = self.files.entries.values().filter(|entry| entry.row.state().is_end());
        let oldest = ended.min_by_key(|entry| entry.row.ended_at).map(|entry| entry.row.id());
        let id = oldest.ok_or(NodeError::LimitReached { what: "files", max: FILES_MAX })?;
        self.store.transaction::<_, StoreError>(|tx| tx.remove_file(&id)).map_err(|error| internal(&error))?;
        self.files.entries.remove(&id);
        Ok(())
    }

    fn file_list(&self) -> FileList {
        let mut entries: Vec<&Entry> = self.files.entries.values().collect();
        entries.sort_by_key(|entry| (std::cmp::Reverse(entry.row.offered_at), entry.row.id()));
        FileList { files: entries.into_iter().map(|entry| self.view_of(entry)).collect() }
    }

    fn file_view(&self, id: &FileId) -> Result<FileView, FileError> {
        let entry = self.files.entries.get(id).ok_or_else(|| FileError::Unknown { id: id.to_string() })?;
        Ok(self.view_of(entry))
    }

    fn view_of(&self, entry: &Entry) -> FileView {
        let row = &entry.row;
        let bytes = match &entry.live {
            Live::Hashing(hashing) => hashing.done.load(std::sync::atomic::Ordering::Relaxed),
            Live::Receiving(receiving) => receiving.bytes().unwrap_or(entry.bytes),
            _ => entry.bytes,
        };
        FileView {
            id: row.id().to_string(),
            with: self.labels.display(&row.with),
            incoming: row.incoming,
            name: row.offer.name.clone(),
            size: row.offer.size,
            media_type: row.offer.media_type.clone(),
            state: row.state(),
            bytes: bytes.min(row.offer.size),
            rate: entry.meter.rate.filter(|_| row.state() == FileState::Accepted),
            path: row.path.clone(),
            problem: row.problem.clone(),
            offered_at: Timestamp::from_unix_secs(row.offered_at.0),
            expires_at: Timestamp::from_unix_secs(row.offer.expires_at.0),
        }
    }

    /// The file whose id is, or begins with, what the user wrote.
    fn find_file(&self, text: &str) -> Result<FileId, FileError> {
        let text = text.to_ascii_lowercase();
        let shown = || text.chars().take(64).collect();
        let mut found = self.files.entries.keys().filter(|id| text.len() >= ID_CHARS_MIN && id.to_string().starts_with(&text));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(*id),
            (Some(_), Some(_)) => Err(FileError::Ambiguous { id: shown() }),
            (None, _) => Err(FileError::Unknown { id: shown() }),
        }
    }

    fn change_file(&mut self, id: &str, change: FileChange) -> Result<FileView, FileError> {
        let id = self.find_file(id)?;
        match change {
            FileChange::Accept(to) => self.accept_file(&id, to.as_deref())?,
            FileChange::Decline => self.decline_file(&id)?,
            FileChange::Cancel => self.cancel_file(&id)?,
        }
        self.file_view(&id)
    }

    fn row_of(&self, id: &FileId) -> Result<&Row, FileError> {
        self.files.entries.get(id).map(|entry| &entry.row).ok_or_else(|| FileError::Unknown { id: id.to_string() })
    }

    fn accept_file(&mut self, id: &FileId, to: Option<&Path>) -> Result<(), FileError> {
        let row = self.row_of(id)?;
        if !row.incoming || row.state() != FileState::Offered {
            return Err(FileError::State { state: row.state().as_str(), what: "accepted" });
        }
        let (target, part) = self.place_for(&row.offer, to)?;
        let mut row = row.clone();
        row.set_state(FileState::Accepted);
        row.path = Some(target);
        row.part = Some(part);
        let taken = FileSignal::Taken { id: *id, device: self.identity.device(), extensions: Extensions::none() };
        let signals = self.for_own_devices(taken);
        self.replace_row(row, signals)?;
        self.files_tick(self.now());
        Ok(())
    }

    fn decline_file(&mut self, id: &FileId) -> Result<(), FileError> {
        let row = self.row_of(id)?;
        if !row.incoming || row.state() != FileState::Offered {
            return Err(FileError::State { state: row.state().as_str(), what: "declined" });
        }
        self.end_file(id, FileState::Declined, None, Some(FileEnd::DECLINED))
    }

    fn cancel_file(&mut self, id: &FileId) -> Result<(), FileError> {
        let row = self.row_of(id)?;
        if row.state().is_end() {
            return Err(FileError::State { state: row.state().as_str(), what: "cancelled" });
        }
        if row.incoming && row.state() == FileState::Offered {
            return self.decline_file(id);
        }
        let is_offered = row.state() != FileState::Preparing;
        self.end_file(id, FileState::Cancelled, Some("cancelled here".into()), is_offered.then_some(FileEnd::CANCELLED))
    }

    fn wait_for_file(&mut self, id: &str, reply: Reply<FileView, FileError>) {
        let view = self.find_file(id).and_then(|id| Ok((id, self.file_view(&id)?)));
        match view {
            Err(error) => reply.send(Err(error)),
            Ok((_, view)) if view.state.is_end() => reply.send(Ok(view)),
            Ok((id, _)) => {
                self.files.waiters.retain(|(_, waiting)| !waiting.is_closed());
                if self.files.waiters.len() >= WAITERS_MAX {
                    let full = NodeError::LimitReached { what: "callers waiting for files", max: WAITERS_MAX };
                    return reply.send(Err(full.into()));
                }
                self.files.waiters.push((id, reply));
            }
        }
    }

    /// Where a file is to be, and where it grows meanwhile: beside it, so that it can be renamed.
    fn place_for(&self, offer: &FileOffer, to: Option<&Path>) -> Result<(String, String), FileError> {
        let refuse = |path: &Path, reason: String| FileError::Target { path: path.display().to_string(), reason };
        let mut is_exact = false;
        let target = match to {
            None => {
                let directory = self.files_directory()?;
                std::fs::create_dir_all(&directory).map_err(|error| refuse(&directory, error.to_string()))?;
                directory.join(&offer.name)
            }
            Some(path) => {
                let absolute = std::path::absolute(path).map_err(|error| refuse(path, error.to_string()))?;
                is_exact = !absolute.is_dir();
                if is_exact { absolute } else { absolute.join(&offer.name) }
            }
        };
        let is_named = target.file_name().is_some();
        if !is_named || !target.parent().is_some_and(Path::is_dir) {
            return Err(refuse(&target, "there is no such directory".into()));
        }
        if is_exact && target.symlink_metadata().is_ok() {
            return Err(refuse(&target, "there is something of that name".into()));
        }
        // Short, so that the whole fits into what file systems take, and never that of another transfer.
        let part = target.with_file_name(format!("halloo-{}.part", offer.id));
        let text = |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| refuse(path, "its path isn't Unicode".into()));
        Ok((text(&target)?, text(&part)?))
    }

    fn files_directory(&self) -> Result<PathBuf, FileError> {
        let configured = self.settings.files.directory.clone();
        let of_platform = || directories::UserDirs::new().and_then(|dirs| dirs.download_dir().map(Path::to_owned));
        let of_home = || self.settings.home.as_ref().map(|home| home.join("files"));
        // A directory of the platform that isn't there isn't used by anybody.
        configured
            .or_else(|| of_platform().filter(|path| path.is_dir()))
            .or_else(of_home)
            .ok_or_else(|| FileError::Target { path: String::new(), reason: "there is no directory for files: name one".into() })
    }
}

// What becomes of them.
impl EventLoop {
    /// A message to all own other devices, if there are any.
    fn for_own_devices(&self, signal: FileSignal) -> Vec<(UserId, FileSignal)> {
        if self.contacts.has_own_devices() { vec![(self.identity.user_id(), signal)] } else { Vec::new() }
    }

    /// Writes a row down together with the messages that go with it; these are sent by [`EventLoop::queue_kept`].
    fn keep_file(&mut self, row: &Row, signals: &[(UserId, FileSignal)]) -> Result<(), FileError> {
        let now = self.now();
        let me = self.identity.user_id();
        let ids: Vec<MessageId> = signals.iter().map(|_| MessageId::random(&mut self.rng)).collect();
        let said: Vec<Extensions> = signals.iter().map(|(to, _)| self.linked_extensions(to)).collect();
        let queued = self.store.transaction::<_, StoreError>(|tx| {
            tx.put_file(&row.id(), &wire::encode(row))?;
            if row.state().is_end() {
                tx.end_file(&row.id())?;
            }
            let envelopes = ids.iter().zip(signals).zip(&said).map(|((id, (to, signal)), said)| {
                let envelope = Envelope {
                    id: *id,
                    conversation: ConversationId::of_pair(&me, to),
                    counter: 0,
                    sent_at: now.unix,
                    body: MessageBody::File(signal.clone()),
                    extensions: said.clone(),
                };
                let identity = row.identity.filter(|_| *to == row.with);
                let recipient = Recipient { user: to.clone(), identity };
                crate::messages::keep_signal_for(tx, vec![recipient], to.clone().into(), envelope, now.unix)
            });
            envelopes.collect::<Result<Vec<_>, _>>()
        });
        let queued = queued.map_err(|error| internal(&error))?;
        self.queue_kept(queued, now);
        Ok(())
    }

    /// Puts a row in place of the one there is, on disk and here, and tells.
    fn replace_row(&mut self, row: Row, signals: Vec<(UserId, FileSignal)>) -> Result<(), FileError> {
        self.keep_file(&row, &signals)?;
        let id = row.id();
        let is_end = row.state().is_end();
        if let Some(entry) = self.files.entries.get_mut(&id) {
            entry.row = row;
            if is_end {
                entry.live = Live::Nothing;
            }
        }
        let Ok(view) = self.file_view(&id) else { return Ok(()) };
        self.events.send(Event::FileState {
            file_id: view.id.clone(),
            with: view.with.clone(),
            incoming: view.incoming,
            state: view.state,
            path: view.path.clone(),
            problem: view.problem.clone(),
        });
        if is_end {
            let (done, waiting): (Vec<_>, Vec<_>) = self.files.waiters.drain(..).partition(|(waited, _)| *waited == id);
            self.files.waiters = waiting;
            for (_, reply) in done {
                reply.send(Ok(view.clone()));
            }
        }
        Ok(())
    }

    /// Brings a file to its end; with `told`, the other side and own devices hear of it. What was fetched of a file that isn't done is deleted.
    fn end_file(
        &mut self,
        id: &FileId,
        state: FileState,
        problem: Option<String>,
        told: Option<FileEnd>,
    ) -> Result<(), FileError> {
        let mut row = self.row_of(id)?.clone();
        row.set_state(state);
        row.problem = problem;
        row.ended_at = self.now().unix;
        let part = row.part.take();
        let mut signals = Vec::new();
        if let Some(end) = told {
            let signal = FileSignal::Ended { id: *id, end, extensions: Extensions::none() };
            if row.incoming {
                signals.extend(self.for_own_devices(signal.clone()));
            }
            if row.with != self.identity.user_id() || signals.is_empty() {
                signals.push((row.with.clone(), signal));
            }
        }
        if state == FileState::Done
            && let Some(entry) = self.files.entries.get_mut(id)
        {
            entry.bytes = row.offer.size;
        }
        self.replace_row(row, signals)?;
        // The worker holds it open still; on Unix its name goes all the same.
        if let Some(part) = part.filter(|_| state != FileState::Done) {
            tokio::task::spawn_blocking(move || drop(std::fs::remove_file(part)));
        }
        Ok(())
    }

    /// Like [`EventLoop::end_file`], where nobody is there to be told of an error.
    fn end_file_quietly(&mut self, id: &FileId, state: FileState, problem: Option<String>, told: Option<FileEnd>) {
        if let Err(error) = self.end_file(id, state, problem, told) {
            warn!(%error, "the end of a file was not written down");
        }
    }

    /// Notes why a file doesn't go on, or that it does.
    fn set_file_problem(&mut self, id: &FileId, problem: Option<String>) {
        let Some(entry) = self.files.entries.get(id).filter(|entry| entry.row.problem != problem) else { return };
        let row = Row { problem, ..entry.row.clone() };
        if let Err(error) = self.replace_row(row, Vec::new()) {
            warn!(%error, "file not written down");
        }
    }

    pub(crate) fn files_tick(&mut self, now: Now) {
        if self.files.entries.is_empty() {
            return;
        }
        if self.files.expiry_at <= now.instant {
            self.files.expiry_at = now.instant + EXPIRY_EVERY;
            self.expire_files(now.unix);
        }
        self.begin_hashing();
        self.serving_tick(now.instant);
        self.receiving_tick(now.instant);
        self.pump_all_files();
        self.tell_progress(now.instant);
    }

    fn expire_files(&mut self, now: UnixTime) {
        let over = |row: &Row| match row.state() {
            FileState::Offered => (now > row.offer.expires_at).then_some((FileState::Expired, "nobody accepted it in time")),
            FileState::Accepted => {
                (now > row.offered_at.plus_secs(TRANSFER_SECS)).then_some((FileState::Failed, "it was not finished in time"))
            }
            _ => None,
        };
        let ended: Vec<_> = self.files.entries.values().filter_map(|entry| Some((entry.row.id(), over(&entry.row)?))).collect();
        for (id, (state, why)) in ended {
            self.end_file_quietly(&id, state, Some(why.into()), None);
        }
    }

    fn tell_progress(&mut self, now: Instant) {
        let mut told = Vec::new();
        for entry in self.files.entries.values_mut().filter(|entry| entry.row.state() == FileState::Accepted) {
            if let Live::Receiving(receiving) = &entry.live {
                entry.bytes = receiving.bytes().unwrap_or(entry.bytes);
            }
            entry.meter.look(entry.bytes, now);
            let step = entry.bytes.saturating_mul(PROGRESS_STEPS).checked_div(entry.row.offer.size).unwrap_or(0);
            if step > entry.told {
                entry.told = step;
                told.push(Event::FileProgress {
                    file_id: entry.row.id().to_string(),
                    bytes: entry.bytes,
                    size: entry.row.offer.size,
                    rate: entry.meter.rate,
                });
            }
        }
        for event in told {
            self.events.send(event);
        }
    }

    /// After a sleep nothing that ran can be relied on: threads stood still, and what they told may be lost.
    pub(crate) fn files_woken(&mut self) {
        let now = Instant::now();
        for entry in self.files.entries.values_mut() {
            entry.live = Live::Nothing;
            entry.retry_at = now;
        }
    }

    pub(crate) fn handle_file_news(&mut self, news: FileNews) {
        let Some(entry) = self.files.entries.get(&news.id) else { return };
        let is_current = match &entry.live {
            Live::Nothing => false,
            Live::Hashing(hashing) => hashing.worker == news.worker,
            Live::Serving(serving) => serving.worker == news.worker,
            Live::Receiving(receiving) => receiving.worker == news.worker,
        };
        if !is_current {
            return;
        }
        match &entry.live {
            Live::Hashing(_) => self.hashing_news(&news.id, news.what),
            Live::Serving(_) => self.serving_news(&news.id, news.what),
            _ => self.receiving_news(&news.id, news.what),
        }
    }
}

// What others say of files.
impl EventLoop {
    /// A signal of a device whose chain holds. It is acknowledged when this returns.
    pub(crate) fn take_file_signal(&mut self, sender: &VerifiedChain, message: MessageId, signal: FileSignal) -> DeliveryStatus {
        match signal {
            FileSignal::Offer(offer) => self.take_offer(sender, message, offer),
            FileSignal::Ended { id, end, .. } => {
                self.take_end(sender, &id, end);
                DeliveryStatus::Accepted
            }
            FileSignal::Taken { id, device, .. } => {
                let is_own = sender.user.id == self.identity.user_id() && device != self.identity.device();
                let is_waiting = self.row_of(&id).is_ok_and(|row| row.incoming && row.state() == FileState::Offered);
                if is_own && is_waiting {
                    self.end_file_quietly(&id, FileState::Elsewhere, Some("accepted on another device".into()), None);
                }
                DeliveryStatus::Accepted
            }
        }
    }

    fn take_offer(&mut self, sender: &VerifiedChain, message: MessageId, offer: FileOffer) -> DeliveryStatus {
        if !self.decide(&sender.user, Kind::File).is_allowed {
            return DeliveryStatus::Refused(Reason::NOT_ALLOWED);
        }
        if let Some(known) = self.files.entries.get(&offer.id) {
            // Ids are drawn at random: one that is another's was not.
            let is_same = known.row.incoming && known.row.device == Some(sender.device);
            return if is_same { DeliveryStatus::Duplicate } else { DeliveryStatus::Refused(Reason::INVALID) };
        }
        let now = self.now();
        if now.unix > offer.expires_at {
            return DeliveryStatus::Accepted;
        }
        let is_stranger = !matches!(self.relation(&sender.user), Relation::Own | Relation::Contact);
        let waiting = || {
            self.files.entries.values().map(|entry| &entry.row).filter(|row| row.incoming && row.state() == FileState::Offered)
        };
        let is_full =
            waiting().count() >= OFFERS_MAX || waiting().filter(|row| row.with == sender.user.id).count() >= OFFERS_PER_USER_MAX;
        if is_full
            || self.make_room_for_file().is_err()
            || !self.admit_message(&sender.user.identity.0, is_stranger, wire::encoded_len(&offer))
        {
            self.counters.rate_limited += 1;
            return DeliveryStatus::Refused(Reason::TOO_MANY);
        }
        let expires_at = offer.expires_at.min(now.unix.plus_secs(OFFER_SECS));
        let row = Row {
            offer: FileOffer { expires_at, ..offer },
            incoming: true,
            with: sender.user.id.clone(),
            state: 1,
            path: None,
            part: None,
            device: Some(sender.device),
            modified: 0,
            offered_at: now.unix,
            ended_at: UnixTime(0),
            problem: None,
            identity: None,
        };
        let stored = self.store.transaction::<_, StoreError>(|tx| {
            let is_first = tx.is_first_copy(&sender.device, &message.0, now.unix)?;
            if is_first {
                tx.put_file(&row.id(), &wire::encode(&row))?;
            }
            Ok(is_first)
        });
        match stored {
            Ok(true) => {
                let shown_on = self.shown_elsewhere(row.id().0, EventKind::FILE, &row.with, &row.offer.media_type);
                self.events.send(Event::FileOffered {
                    file_id: row.id().to_string(),
                    from: self.labels.display(&row.with),
                    name: row.offer.name.clone(),
                    size: row.offer.size,
                    media_type: row.offer.media_type.clone(),
                    notice: self.notice_shown(Sentence::File, &row.with, shown_on),
                });
                self.files.entries.insert(row.id(), Entry::new(row, 0, now.instant));
                DeliveryStatus::Accepted
            }
            Ok(false) => DeliveryStatus::Duplicate,
            Err(error) => {
                warn!(%error, "offer of a file not kept");
                DeliveryStatus::Refused(Reason::TOO_MANY)
            }
        }
    }

    fn take_end(&mut self, sender: &VerifiedChain, id: &FileId, end: FileEnd) {
        let Ok(row) = self.row_of(id).cloned() else { return };
        let is_own = sender.user.id == self.identity.user_id();
        let is_other_side = row.with == sender.user.id;
        if row.state().is_end() {
            return;
        }
        let (state, why) = match (row.incoming, end) {
            // Its sender, from the device that offered it.
            (true, _) if is_other_side && row.device == Some(sender.device) => match end {
                FileEnd::CANCELLED => (FileState::Cancelled, Some("cancelled by the sender".into())),
                other => (FileState::Failed, Some(other.to_string())),
            },
            // Another device of ours.
            (true, FileEnd::DECLINED) if is_own => (FileState::Declined, Some("declined on another device".into())),
            (true, _) if is_own => (FileState::Elsewhere, Some("accepted on another device".into())),
            // A device of the recipient; once one has accepted, that one alone.
            (false, _) if is_other_side && row.device.is_none_or(|device| device == sender.device) => match end {
                FileEnd::RECEIVED if row.device.is_some() => (FileState::Done, None),
                FileEnd::DECLINED => (FileState::Declined, None),
                FileEnd::CANCELLED => (FileState::Cancelled, Some("cancelled by the recipient".into())),
                other => (FileState::Failed, Some(other.to_string())),
            },
            _ => return debug!(%id, %end, "an end of a file that isn't theirs to tell"),
        };
        self.end_file_quietly(id, state, why, None);
    }

    /// A signal of ours got further, or failed.
    pub(crate) fn file_signal_changed(&mut self, signal: &FileSignal, state: MessageState, reason: Option<String>) {
        debug!(signal = signal.name(), %state, ?reason, "file signal");
        let FileSignal::Offer(offer) = signal else { return };
        let is_waiting = self.row_of(&offer.id).is_ok_and(|row| !row.incoming && row.state() == FileState::Offered);
        if state == MessageState::Failed && is_waiting {
            self.end_file_quietly(&offer.id, FileState::Failed, reason, None);
        }
    }
}

/// The media type of a name, for the recipient to guess by; nothing is decided by it.
fn media_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "txt" | "log" => "text/plain",
        "md" => "text/markdown",
        "csv" => "text/csv",
        "html" | "htm" => "text/html",
        "ics" => "text/calendar",
        "vcf" => "text/vcard",
        "json" => "application/json",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "zst" => "application/zstd",
        "tar" => "application/x-tar",
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "svg" => "image/svg+xml",
        "mp3" => "audio/mpeg",
        "ogg" | "opus" => "audio/ogg",
        "flac" => "audio/flac",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mkv" => "video/matroska",
        "odt" => "application/vnd.oasis.opendocument.text",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use halloo_protocol::key::PublicKey;

    use super::*;

    #[test]
    fn a_row_of_an_earlier_version_is_read_and_is_for_whoever_has_the_name() {
        let identity = IdentityKey(PublicKey([7; 32]));
        let offer = FileOffer {
            id: FileId([1; 16]),
            name: "a.txt".to_owned(),
            media_type: "text/plain".to_owned(),
            size: 5,
            root: FileRoot([2; 32]),
            expires_at: UnixTime(9),
            extensions: Extensions::none(),
        };
        let row = Row {
            offer,
            incoming: false,
            with: UserId::Key(identity),
            state: 1,
            path: Some("/a.txt".to_owned()),
            part: None,
            device: None,
            modified: 0,
            offered_at: UnixTime(1),
            ended_at: UnixTime(0),
            problem: Some("a reason".to_owned()),
            identity: Some(identity),
        };
        let bytes = wire::encode(&row);
        assert_eq!(Row::read(&bytes).expect("a row").identity, Some(identity));
        let before = &bytes[..bytes.len() - wire::encoded_len(&row.identity)];
        let read = Row::read(before).expect("a row of an earlier version");
        assert_eq!((read.identity, read.problem, read.offer), (None, row.problem, row.offer));
        assert!(Row::read(&bytes[..20]).is_none());
    }
}
