//! The sender's half: hashing what is to be offered, and serving it to the device that has accepted.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use halloo_protocol::contact::privacy::Relation;
use halloo_protocol::file::{
    ChunkHash, FileAccept, FileAccepted, FileData, FileEnd, FileHashList, FileHashes, FileId, FileRead, FileRefusal, FileRoot,
    FileSignal, HASHES_PER_ANSWER_MAX, OFFER_SECS, Pace,
};
use halloo_protocol::key::DeviceKey;
use halloo_protocol::wire::{self, Extensions, Frame, FrameKind, Message};
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::disk::{self, ReadJob, Teller, Ticket, What};
use super::{Live, Meter, Row};
use crate::event_loop::EventLoop;
use crate::handle::files::FileState;
use crate::store::StoreError;
use crate::streams::MAX_QUEUED_BYTES;

/// Files served at the same time: each is an open file and a thread that sleeps.
const SERVING_MAX: usize = 16;

/// A file that nobody asks for is closed after so long.
const SERVING_IDLE: Duration = Duration::from_secs(30);

/// Of the bytes that may wait for one connection, files take no more than this: the rest is for messages and calls.
const QUEUED_BYTES_MAX: usize = MAX_QUEUED_BYTES / 2;

/// What was read for a connection meanwhile isn't sent beyond this: the last quarter is never a file's.
const ANSWERED_BYTES_MAX: usize = MAX_QUEUED_BYTES / 4 * 3;

/// A file being served.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) worker: u64,
    jobs: mpsc::Sender<ReadJob>,
    asked_at: Instant,
}

// Offering.
impl EventLoop {
    /// Hashes the next file that waits for it; one at a time, since the disk is one.
    pub(super) fn begin_hashing(&mut self) {
        if self.files.entries.values().any(|entry| matches!(entry.live, Live::Hashing(_))) {
            return;
        }
        let waiting = self.files.entries.values().filter(|entry| entry.row.state() == FileState::Preparing);
        let Some(next) = waiting.min_by_key(|entry| (entry.row.offered_at, entry.row.id())) else { return };
        let (id, path) = (next.row.id(), PathBuf::from(next.row.path.clone().unwrap_or_default()));
        let teller = self.file_teller(id);
        if let Some(entry) = self.files.entries.get_mut(&id) {
            entry.live = Live::Hashing(disk::hash_file(teller, path));
        }
    }

    pub(super) fn file_teller(&mut self, id: FileId) -> Teller {
        Teller { id, worker: self.files.next_worker(), sender: self.internal_sender.clone() }
    }

    pub(super) fn hashing_news(&mut self, id: &FileId, what: What) {
        match what {
            What::Prepared { size, modified, hashes } => self.offer_file(id, size, modified, &hashes),
            What::NotPrepared(why) => {
                self.end_file_quietly(id, FileState::Failed, Some(format!("it can't be read: {why}")), None)
            }
            _ => {}
        }
    }

    fn offer_file(&mut self, id: &FileId, size: u64, modified: disk::Modified, hashes: &[ChunkHash]) {
        let Some(entry) = self.files.entries.get_mut(id) else { return };
        entry.live = Live::Nothing;
        let mut row = entry.row.clone();
        row.set_state(FileState::Offered);
        row.modified = modified;
        row.offer.size = size;
        row.offer.root = FileRoot::of(size, hashes);
        row.offered_at = self.now().unix;
        row.offer.expires_at = row.offered_at.plus_secs(OFFER_SECS);
        let kept = self.store.transaction::<_, StoreError>(|tx| tx.put_file_hashes(id, hashes.as_flattened()));
        if let Err(error) = kept {
            return self.end_file_quietly(id, FileState::Failed, Some(error.to_string()), None);
        }
        let signals = vec![(row.with.clone(), FileSignal::Offer(row.offer.clone()))];
        if let Err(error) = self.replace_row(row, signals) {
            warn!(%error, "file not offered");
        }
    }
}

// Serving.
impl EventLoop {
    /// The file, if the peer is a device that may have it.
    fn file_for(&mut self, peer: &PeerId, id: &FileId) -> Result<(Row, DeviceKey), FileRefusal> {
        let row =
            self.files.entries.get(id).map(|entry| entry.row.clone()).filter(|row| !row.incoming).ok_or(FileRefusal::UNKNOWN)?;
        let chain = self.peers.get(peer).and_then(|known| known.chain.clone()).ok_or(FileRefusal::UNKNOWN)?;
        let is_blocked = self.relation(&chain.user) == Relation::Blocked;
        let is_meant = row.with == chain.user.id && row.identity.is_none_or(|meant| meant == chain.user.identity);
        if !is_meant || is_blocked {
            return Err(FileRefusal::UNKNOWN);
        }
        match row.state() {
            FileState::Offered | FileState::Accepted => Ok((row, chain.device)),
            FileState::Failed => Err(FileRefusal::GONE),
            _ => Err(FileRefusal::UNKNOWN),
        }
    }

    pub(crate) fn handle_file_accept(&mut self, peer: PeerId, request: &FileAccept) -> FileAccepted {
        FileAccepted { refused: self.bind_file(&peer, &request.id).err(), extensions: Extensions::none() }
    }

    /// The first device that accepts has the file.
    fn bind_file(&mut self, peer: &PeerId, id: &FileId) -> Result<(), FileRefusal> {
        let (mut row, device) = self.file_for(peer, id)?;
        match row.device {
            Some(bound) if bound == device => return Ok(()),
            Some(_) => return Err(FileRefusal::TAKEN),
            None if self.now().unix > row.offer.expires_at => return Err(FileRefusal::UNKNOWN),
            None => {}
        }
        row.device = Some(device);
        row.set_state(FileState::Accepted);
        self.replace_row(row, Vec::new()).map_err(|error| {
            warn!(%error, "file not bound to the device that accepts it");
            FileRefusal::BUSY
        })
    }

    /// The file, if the peer is the device that has accepted it.
    fn accepted_file(&mut self, peer: &PeerId, id: &FileId) -> Result<Row, FileRefusal> {
        let (row, device) = self.file_for(peer, id)?;
        match row.device {
            Some(bound) if bound == device => Ok(row),
            Some(_) => Err(FileRefusal::TAKEN),
            None => Err(FileRefusal::UNKNOWN),
        }
    }

    pub(crate) fn handle_file_hashes(&mut self, peer: PeerId, request: &FileHashes) -> FileHashList {
        let found = self.accepted_file(&peer, &request.id).and_then(|row| {
            if request.from >= row.offer.layout().chunks() {
                return Err(FileRefusal::RANGE);
            }
            let bytes = self.store.read::<_, StoreError>(|view| view.file_hashes_from(&request.id, request.from));
            bytes.map_err(|_| FileRefusal::UNREADABLE)
        });
        let (refused, bytes) = match found {
            Ok(bytes) => (None, bytes),
            Err(refusal) => (Some(refusal), Vec::new()),
        };
        let (hashes, _) = bytes.as_chunks::<32>();
        let hashes = hashes.iter().take(HASHES_PER_ANSWER_MAX).copied().collect();
        FileHashList { refused, hashes, extensions: Extensions::none() }
    }

    /// True for a read by a device that fetches a file here: it has a bound of its own, that of its transfer.
    pub(crate) fn is_expected_read(&self, peer: &PeerId, kind: FrameKind) -> bool {
        let device = |peer: &PeerId| self.peers.get(peer).map(|known| known.device);
        kind == FileRead::KIND
            && device(peer).is_some_and(|device| {
                let serves = |entry: &super::Entry| matches!(entry.live, Live::Serving(_)) && entry.row.device == Some(device);
                self.files.entries.values().any(serves)
            })
    }

    /// Answers a read, when the thread that reads has the bytes.
    pub(crate) fn handle_file_read(&mut self, peer: PeerId, via: ConnectionId, frame: &Frame) {
        let Ok(request) = frame.parse::<FileRead>() else {
            self.counters.malformed += 1;
            return self.answer_encoded(peer, via, frame.id, FrameKind::UNSUPPORTED, Vec::new());
        };
        if let Err(refusal) = self.read_file(Ticket { peer, via, frame: frame.id }, &request) {
            debug!(%peer, %refusal, "read of a file refused");
            self.answer_read(Ticket { peer, via, frame: frame.id }, Some(refusal), Vec::new());
        }
    }

    fn answer_read(&mut self, ticket: Ticket, refused: Option<FileRefusal>, bytes: Vec<u8>) {
        // What was asked for while there was room may find none: saying so is smaller, and nothing is lost in silence.
        let is_full = self.swarm.behaviour().streams.queued_bytes(&ticket.peer) + bytes.len() > ANSWERED_BYTES_MAX;
        let (refused, bytes) =
            if is_full && refused.is_none() { (Some(FileRefusal::BUSY), Vec::new()) } else { (refused, bytes) };
        let body = wire::encode(&FileData { refused, bytes, extensions: Extensions::none() });
        self.answer_encoded(ticket.peer, ticket.via, ticket.frame, FileData::KIND, body);
    }

    fn read_file(&mut self, ticket: Ticket, request: &FileRead) -> Result<(), FileRefusal> {
        let row = self.accepted_file(&ticket.peer, &request.id)?;
        if !row.offer.layout().is_within(request.offset, request.length) {
            return Err(FileRefusal::RANGE);
        }
        if self.swarm.behaviour().streams.queued_bytes(&ticket.peer) > QUEUED_BYTES_MAX {
            return Err(FileRefusal::BUSY);
        }
        self.serve(&row)?;
        let Some(entry) = self.files.entries.get_mut(&request.id) else { return Err(FileRefusal::UNKNOWN) };
        entry.bytes = entry.bytes.max(request.have.min(row.offer.size));
        let Live::Serving(serving) = &mut entry.live else { return Err(FileRefusal::BUSY) };
        serving.asked_at = Instant::now();
        let job = ReadJob { ticket, offset: request.offset, length: request.length };
        serving.jobs.try_send(job).map_err(|_| FileRefusal::BUSY)
    }

    /// Sees to it that the file is open.
    fn serve(&mut self, row: &Row) -> Result<(), FileRefusal> {
        let id = row.id();
        let is_served = |entry: &super::Entry| matches!(entry.live, Live::Serving(_));
        if self.files.entries.get(&id).is_some_and(is_served) {
            return Ok(());
        }
        if self.files.entries.values().filter(|entry| is_served(entry)).count() >= SERVING_MAX {
            return Err(FileRefusal::BUSY);
        }
        let teller = self.file_teller(id);
        let worker = teller.worker;
        let path = PathBuf::from(row.path.clone().unwrap_or_default());
        let jobs = disk::serve_file(teller, path, row.offer.size, row.modified, Pace::BLOCKS_MAX);
        let now = Instant::now();
        if let Some(entry) = self.files.entries.get_mut(&id) {
            entry.meter = Meter::new(now, entry.bytes);
            entry.live = Live::Serving(Box::new(Serving { worker, jobs, asked_at: now }));
        }
        self.set_file_problem(&id, None);
        Ok(())
    }

    pub(super) fn serving_news(&mut self, id: &FileId, what: What) {
        match what {
            What::Read { ticket, bytes } => self.answer_read(ticket, None, bytes),
            What::Gone => {
                let why = "the file has changed or is gone since it was offered".to_owned();
                self.end_file_quietly(id, FileState::Failed, Some(why), Some(FileEnd::GONE));
            }
            What::Unreadable(error) => {
                // Those who asked ask again: it may be mended by then.
                if let Some(entry) = self.files.entries.get_mut(id) {
                    entry.live = Live::Nothing;
                }
                self.set_file_problem(id, Some(format!("it can't be read: {error}")));
            }
            _ => {}
        }
    }

    pub(super) fn serving_tick(&mut self, now: Instant) {
        for entry in self.files.entries.values_mut() {
            if let Live::Serving(serving) = &entry.live
                && now.saturating_duration_since(serving.asked_at) > SERVING_IDLE
            {
                entry.live = Live::Nothing;
                entry.meter.rate = None;
            }
        }
    }
}
